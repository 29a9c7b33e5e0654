"""Reads pickles that hold nothing but dicts, lists, tuples, str, bytes, ints and NumPy arrays of plain numbers, and runs nothing.

pickle.Unpickler with a restricted find_class still lets a file set attributes on whatever find_class returns, hand malformed states to
NumPy's C code and ask for a memo table of any length. So this is a machine of its own: it knows the instructions that such data needs, each
a line or two, and builds every object itself. Decoding is left to the standard library's pickletools, which executes nothing.
Python 2's byte strings (as in CIFAR-10) become str, one character per byte, as `pickle.load(..., encoding="latin1")` has it (in
protocol 0, which writes them as text, only if they are ASCII).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from .dataset import DatasetError

PLAIN_DTYPES = {"b1", "u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8", "f2", "f4", "f8"}
MAX_AXES = 32  # NumPy's limit until version 2
BYTE_ORDERS = {"<", ">", "=", "|"}

CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
LITERALS = {"INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4"} | {
    "STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8",
    "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8",
}  # fmt: skip
MARK = object()


class Pending:
    """An array or dtype between its REDUCE and its BUILD; `value` is the finished object."""

    __slots__ = ("kind", "value")

    def __init__(self, kind: str) -> None:
        self.kind, self.value = kind, None


def loads(data: bytes, name: str) -> Any:
    """The object in a pickle; DatasetError, naming `name`, for anything else: forbidden globals, unknown instructions, damage."""
    try:
        return Machine(data).run()
    except DatasetError as error:
        raise DatasetError(f"{name}: {error}") from None
    except (ValueError, TypeError, IndexError, KeyError, OverflowError, Warning) as error:  # what damage makes of the steps below
        raise DatasetError(f"{name}: not a readable pickle: {type(error).__name__}: {error!s:.200}") from error


class Machine:
    def __init__(self, data: bytes) -> None:
        self.data = data
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.budget = len(data)  # characters that may still be turned into bytes: more than the file has means one text used again and again

    def run(self) -> Any:
        import pickletools  # seldom needed, and slow to import

        stack = self.stack
        for instruction, argument, _ in pickletools.genops(self.data):
            name = instruction.name
            if name in LITERALS:
                stack.append(argument)
            elif name in CONSTANTS:
                stack.append(CONSTANTS[name])
            elif name in STEPS:
                STEPS[name](self, argument)
            elif name == "GLOBAL":
                stack.append(_global(*argument.split(" ", 1)))
            elif name == "STOP":
                return stack.pop()
            elif name not in ("PROTO", "FRAME"):
                raise DatasetError(f"the pickle uses the instruction {name} {argument!r:.80}, which is forbidden")
        raise DatasetError("the pickle has no end")

    def to_mark(self) -> list[Any]:
        """Pop what lies above the topmost mark, and the mark."""
        start = len(self.stack)
        while self.stack[start - 1] is not MARK:
            start -= 1
            if start == 0:
                raise DatasetError("the pickle lacks a mark")
        items = self.stack[start:]
        del self.stack[start - 1 :]
        return items

    def put(self, key: int | None) -> None:
        self.memo[len(self.memo) if key is None else key] = self.stack[-1]

    def get(self, key: int) -> None:
        value = self.memo[key]
        finished = isinstance(value, Pending) and value.value is not None
        self.stack.append(value.value if finished else value)

    def extend(self, items: list[Any]) -> None:
        if type(self.stack[-1]) is not list:
            raise DatasetError("the pickle appends to something that is no list")
        self.stack[-1].extend(items)

    def update(self, items: list[Any]) -> None:
        if type(self.stack[-1]) is not dict or len(items) % 2:
            raise DatasetError("the pickle sets items of something that is no dict")
        self.stack[-1].update(_dict(items))

    def tuple(self, length: int) -> None:
        if len(self.stack) < length:
            raise DatasetError("the pickle's stack is too short")
        self.stack[-length:] = [tuple(self.stack[-length:])]

    def stack_global(self) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        self.stack.append(_global(module, name))

    def reduce(self) -> None:
        arguments, function = self.stack.pop(), self.stack.pop()
        if not any(function is allowed for allowed in GLOBALS.values()) or type(arguments) is not tuple:
            raise DatasetError("the pickle calls something that is no function")
        self.spend(arguments)
        self.stack.append(function(*arguments))

    def spend(self, values: tuple[Any, ...]) -> None:
        self.budget -= sum(len(value) for value in values if type(value) is str)
        if self.budget < 0:
            raise DatasetError("the pickle makes more bytes than it has")

    def build(self) -> None:
        state, pending = self.stack.pop(), self.stack[-1]
        if not isinstance(pending, Pending) or type(state) is not tuple:
            raise DatasetError("the pickle sets the state of something other than an array")
        self.spend(state)
        pending.value = _array_from(*state) if pending.kind == "array" else _dtype_from(pending.kind, *state)
        self.stack[-1] = pending.value


STEPS: dict[str, Callable[[Machine, Any], Any]] = {
    "MARK": lambda m, _: m.stack.append(MARK),
    "POP": lambda m, _: m.stack.pop(),
    "POP_MARK": lambda m, _: m.to_mark(),
    "DUP": lambda m, _: m.stack.append(m.stack[-1]),
    "EMPTY_LIST": lambda m, _: m.stack.append([]),
    "EMPTY_DICT": lambda m, _: m.stack.append({}),
    "LIST": lambda m, _: m.stack.append(m.to_mark()),
    "DICT": lambda m, _: m.stack.append(_dict(m.to_mark())),
    "TUPLE": lambda m, _: m.stack.append(tuple(m.to_mark())),
    "TUPLE1": lambda m, _: m.tuple(1),
    "TUPLE2": lambda m, _: m.tuple(2),
    "TUPLE3": lambda m, _: m.tuple(3),
    "APPEND": lambda m, _: m.extend([m.stack.pop()]),
    "APPENDS": lambda m, _: m.extend(m.to_mark()),
    "SETITEM": lambda m, _: m.update([m.stack.pop(-2), m.stack.pop()]),
    "SETITEMS": lambda m, _: m.update(m.to_mark()),
    "MEMOIZE": lambda m, _: m.put(None),
    "STACK_GLOBAL": lambda m, _: m.stack_global(),
    "REDUCE": lambda m, _: m.reduce(),
    "BUILD": lambda m, _: m.build(),
}
STEPS |= dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT"), Machine.put) | dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), Machine.get)


def _dict(items: list[Any]) -> dict[Any, Any]:
    keys = items[::2]
    if not all(type(key) in (str, bytes, int) for key in keys):  # a deeply nested tuple as a key would overflow the C stack when hashed
        raise DatasetError("the pickle has a dict key that is no str, bytes or int")
    return dict(zip(keys, items[1::2], strict=True))


def _global(module: Any, name: Any) -> Any:
    if type(module) is not str or type(name) is not str:
        raise DatasetError("the pickle names a global by something other than strings")
    if (module, name) not in GLOBALS:
        called = f"{module}.{name}"
        raise DatasetError(f"the pickle uses the global {called:.80}, which is forbidden: only arrays, dicts, lists, strings and ints are read")
    return GLOBALS[module, name]


def _ndarray() -> None:
    raise DatasetError("the pickle calls numpy.ndarray, which is forbidden")


def _reconstruct(kind: Any, shape: Any, typecode: Any) -> Pending:
    """numpy.core.multiarray._reconstruct: an empty array, to be filled by BUILD."""
    if kind is not _ndarray:
        raise DatasetError("the pickle reconstructs something other than numpy.ndarray")
    return Pending("array")


def _dtype(name: Any, align: Any, copy: Any) -> Pending:
    """numpy.dtype: its byte order follows by BUILD."""
    if type(name) is not str or name not in PLAIN_DTYPES:
        raise DatasetError(f"the pickle has an array of dtype {name!r:.40}, which is forbidden: only plain numbers are read")
    return Pending(name)


def _dtype_from(name: str, version: Any, order: Any, subarray: Any, names: Any, fields: Any, *rest: Any) -> np.dtype:
    if type(order) is not str or order not in BYTE_ORDERS or not subarray is names is fields is None:
        raise DatasetError("the pickle has an array of a structured dtype, which is forbidden: only plain numbers are read")
    return np.dtype(name).newbyteorder(order)


def _array_from(version: Any, shape: Any, dtype: Any, fortran: Any, values: Any) -> np.ndarray:
    values = values.encode("latin-1") if type(values) is str else values
    array = _frombuffer(values, dtype, shape, "F" if fortran else "C")
    return array.astype(array.dtype.newbyteorder("="), copy=False)  # NumPy too gives native arrays here, and here only


def _frombuffer(values: Any, dtype: Any, shape: Any, order: Any) -> np.ndarray:
    """numpy.core.numeric._frombuffer (protocol 5) and the last step of BUILD; read-only where `values` is bytes."""
    if not isinstance(dtype, np.dtype):
        raise DatasetError("the pickle has an array without a dtype")
    if type(values) not in (bytes, bytearray) or order not in ("C", "F"):
        raise DatasetError("the pickle has an array without values")
    if type(shape) is not tuple or len(shape) > MAX_AXES or not all(type(n) is int and 0 <= n < 2**63 for n in shape):
        raise DatasetError("the pickle has an array without a shape")
    if math.prod(shape) * dtype.itemsize != len(values):
        by = "x".join(map(str, shape))
        raise DatasetError(f"the pickle has an array of {by} {dtype} values in {len(values):,} bytes")
    return np.frombuffer(values, dtype).reshape(shape, order=order)


def _encode(text: Any, encoding: Any) -> bytes:
    """_codecs.encode, which is how protocol 2 spells bytes."""
    if type(text) is not str or encoding not in ("latin1", "latin-1"):
        raise DatasetError("the pickle encodes something other than bytes")
    return text.encode("latin-1")


def _bytes() -> bytes:
    """bytes(), which is how protocol 2 spells b''."""
    return b""


GLOBALS: dict[tuple[str, str], Callable[..., Any]] = {
    ("numpy", "ndarray"): _ndarray,
    ("numpy", "dtype"): _dtype,
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy.core.numeric", "_frombuffer"): _frombuffer,
    ("numpy._core.numeric", "_frombuffer"): _frombuffer,
    ("_codecs", "encode"): _encode,
    ("__builtin__", "bytes"): _bytes,
    ("builtins", "bytes"): _bytes,
}
