"""What NumPy's operators and functions of elements do with device arrays: a + b, 1 / a, a > 0, np.maximum(a, b), np.exp(a).

They are for what users write around the library's ops, in layers and losses of their own. Results have NumPy's shapes, dtypes and, the functions of `math`
apart, NumPy's bits; a number beside a floating-point array takes the array's dtype. Functions that are not here raise TypeError, as do host arrays.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from ._device import DeviceArray, blocks, contiguous, empty, flat, is_device, launch, wrap
from ._elementwise import Elementwise, elementwise
from ._memory import SIMULATED, cuda
from .gemm import gemm
from .strided import apart, broadcast_to, check_writeable, copy_into, memory_and_strides, place, six

TILE = 8 if SIMULATED else 256  # elements per block, one per thread


@cuda.jit
def blend_flat(output, share, other, other_share):
    """output = share*output + other_share*other."""
    i = cuda.grid(1)
    if i < output.size:
        output[i] = share * output[i] + other_share * other[i]


def _number_dtype(array: np.dtype, number: Any) -> np.dtype:
    """The dtype in which an array and a number meet: the array's, but a fraction makes floats of integers and an integer makes integers of bools."""
    if array.kind == "f" or isinstance(number, (bool, np.bool_)):
        return array
    if isinstance(number, (float, np.floating)):
        return np.dtype(np.float64)
    return np.dtype(np.int64) if array.kind == "b" else array


class Binary:
    """A function of two elements. Of two arrays, which are broadcast, or of an array and a number; `out` may be one of the arrays.

    result  the dtype of the results, from that in which the operands meet
    kinds   the kinds of dtype that it is for
    """

    def __init__(self, name: str, formula: Callable, result: Callable[[np.dtype], np.dtype], kinds: str = "fiub") -> None:
        self.name, self.result, self.kinds = name, result, kinds
        of_two = cuda.jit(device=True)(formula)

        def flat_kernel(a, b, output):
            i = cuda.grid(1)
            if i < output.size:
                output[i] = of_two(a[i], b[i])

        def strided_kernel(a, a_strides, b, b_strides, output, output_strides, shape, count):
            i = cuda.grid(1)
            if i < count:
                output[place(i, shape, output_strides)] = of_two(a[place(i, shape, a_strides)], b[place(i, shape, b_strides)])

        def number_kernel(a, number, output):
            i = cuda.grid(1)
            if i < output.size:
                output[i] = of_two(a[i], number)

        def of_number_kernel(number, b, output):
            i = cuda.grid(1)
            if i < output.size:
                output[i] = of_two(number, b[i])

        for kernel, suffix in ((flat_kernel, "flat"), (strided_kernel, "strided"), (number_kernel, "number"), (of_number_kernel, "of_number")):
            kernel.__name__ = kernel.__qualname__ = f"{name}_{suffix}"
            setattr(self, suffix, cuda.jit(kernel))

    def __call__(self, a: Any, b: Any, out: DeviceArray | None = None) -> Any:
        if any(isinstance(value, np.ndarray) and value.ndim for value in (a, b)):
            raise TypeError("one operand is a host array, the other one is on the device: copy it with fastcnn.to_device")
        a, b = (wrap(value) if is_device(value) else _number(value) for value in (a, b))
        if a is None or b is None:
            return NotImplemented
        if isinstance(a, DeviceArray) and isinstance(b, DeviceArray):
            return self._of_arrays(a, b, out)
        if isinstance(a, DeviceArray):
            return self._of_number(a, b, out, self.number, True)
        return self._of_number(b, a, out, self.of_number, False)

    def _output(self, shape: tuple[int, ...], meeting: np.dtype, out: DeviceArray | None, what: str) -> DeviceArray:
        if meeting.kind not in self.kinds:
            raise TypeError(f"{self.name}: device arrays of {meeting} are not computed with: convert them with .astype")
        dtype = self.result(meeting)
        if out is None:
            return empty(shape, dtype)
        if not isinstance(out, DeviceArray):
            raise TypeError(f"{self.name}: out must be a device array, got {type(out).__name__}")
        check_writeable(out)
        if out.shape != shape:
            raise ValueError(f"{what} do not fit into an output of shape {out.shape}")
        if not np.can_cast(dtype, out.dtype, casting="same_kind"):
            raise TypeError(f"{self.name}: the result is {dtype}, which does not become the output's {out.dtype}")
        return out

    def _of_number(self, array: DeviceArray, number: Any, out: DeviceArray | None, kernel: Any, array_first: bool) -> DeviceArray:
        meeting = _number_dtype(array.dtype, number)
        output = self._output(array.shape, meeting, out, f"operands of shape {array.shape}")
        array = contiguous(apart(array, output))
        target = output if output.flags.c_contiguous else empty(output.shape, output.dtype)
        number = meeting.type(number)
        operands = (flat(array), number) if array_first else (number, flat(array))
        launch(kernel, blocks(array.size, TILE), TILE, *operands, flat(target))
        if target is not output:
            copy_into(output, target)
        return output

    def _of_arrays(self, a: DeviceArray, b: DeviceArray, out: DeviceArray | None) -> DeviceArray:
        shape = np.broadcast_shapes(a.shape, b.shape)
        output = self._output(shape, np.result_type(a.dtype, b.dtype), out, f"operands of shapes {a.shape} and {b.shape}")
        if not output.size:
            return output
        a, b = (apart(operand, output) for operand in (a, b))
        if a.shape == b.shape and a.flags.c_contiguous and b.flags.c_contiguous and output.flags.c_contiguous:
            launch(self.flat, blocks(output.size, TILE), TILE, flat(a), flat(b), flat(output))
            return output
        (a_memory, a_strides), (b_memory, b_strides) = (memory_and_strides(broadcast_to(operand, shape)) for operand in (a, b))
        memory, strides = memory_and_strides(output)
        arrays = a_memory, a_strides, b_memory, b_strides, memory, strides
        launch(self.strided, blocks(output.size, TILE), TILE, *arrays, six(shape, 1), output.size)
        return output


def _number(value: Any) -> Any:
    """A number as it is, None for what is none."""
    if isinstance(value, np.ndarray) and not value.ndim:
        value = value[()]
    return value if isinstance(value, (bool, int, float, np.bool_, np.integer, np.floating)) else None


def _same(dtype: np.dtype) -> np.dtype:
    return dtype


def _bool(dtype: np.dtype) -> np.dtype:
    return np.dtype(bool)


def _quotient(dtype: np.dtype) -> np.dtype:
    return dtype if dtype.kind == "f" else np.dtype(np.float64)


ADD = Binary("add", lambda a, b: a + b, _same, "fiu")
SUBTRACT = Binary("subtract", lambda a, b: a - b, _same, "fiu")
MULTIPLY = Binary("multiply", lambda a, b: a * b, _same, "fiu")
DIVIDE = Binary("divide", lambda a, b: a / b, _quotient)
POWER = Binary("power", lambda a, b: a**b, _same, "f")
MAXIMUM = Binary("maximum", lambda a, b: a if a >= b or a != a else b, _same)  # NaN, if there is one
MINIMUM = Binary("minimum", lambda a, b: a if a <= b or a != a else b, _same)

COMPARISONS = {
    np.equal: Binary("equal", lambda a, b: a == b, _bool),
    np.not_equal: Binary("not_equal", lambda a, b: a != b, _bool),
    np.less: Binary("less", lambda a, b: a < b, _bool),
    np.less_equal: Binary("less_equal", lambda a, b: a <= b, _bool),
    np.greater: Binary("greater", lambda a, b: a > b, _bool),
    np.greater_equal: Binary("greater_equal", lambda a, b: a >= b, _bool),
    np.logical_and: Binary("logical_and", lambda a, b: a and b, _bool, "b"),
    np.logical_or: Binary("logical_or", lambda a, b: a or b, _bool, "b"),
}


# Functions of one element. The guards are the simulator's: Python's math raises where a GPU's gives infinity or NaN.


@elementwise(1)
def _negative(x):
    return -x


@elementwise(1)
def _absolute(x):
    return abs(x)


@elementwise(1)
def _sqrt(x):
    return math.sqrt(x) if x >= 0 else type(x)(math.nan)


@elementwise(1)
def _exp(x):
    return math.exp(x) if x < 709 else x * type(x)(math.inf)


@elementwise(1)
def _log(x):
    return math.log(x) if x > 0 else type(x)(-math.inf) if x == 0 else type(x)(math.nan)


@elementwise(1)
def _tanh(x):
    return math.tanh(x)


@elementwise(1)
def _logical_not(x):
    return not x


class Unary:
    """A function of one element for NumPy: its array, wherever it is from, and `out`."""

    def __init__(self, op: Elementwise, kinds: str = "f") -> None:
        self.op, self.kinds = op, kinds

    def __call__(self, x: Any, out: DeviceArray | None = None) -> Any:
        if not is_device(x):
            return NotImplemented
        x = contiguous(wrap(x))
        if x.dtype.kind not in self.kinds:
            raise TypeError(f"{self.op.name}: device arrays of {x.dtype} are not computed with: convert them with .astype")
        result = self.op(x)
        if out is None:
            return result
        if not isinstance(out, DeviceArray) or out.shape != x.shape or not np.can_cast(x.dtype, out.dtype, casting="same_kind"):
            raise TypeError(f"{self.op.name}: out must be a device array of shape {x.shape} that {x.dtype} can be cast to")
        check_writeable(out)
        copy_into(out, result)
        return out


def power(a: Any, b: Any, out: DeviceArray | None = None) -> Any:
    """a ** b; squares are products, as in NumPy, and so exact to the last bit."""
    if isinstance(b, (int, float)) and b == 2:
        return MULTIPLY(a, a, out)
    return POWER(a, b, out)


def square(a: Any, out: DeviceArray | None = None) -> Any:
    return MULTIPLY(a, a, out)


def matmul(a: Any, b: Any, out: DeviceArray | None = None) -> Any:
    """a @ b of two matrices, by the kernel of linear layers."""
    if not (is_device(a) and is_device(b)) or out is not None:
        raise TypeError("matmul: both operands must be device arrays (fastcnn.to_device), and out is not supported")
    a, b = contiguous(wrap(a)), contiguous(wrap(b))
    if a.ndim != 2 or b.ndim != 2 or a.dtype != b.dtype or a.dtype.kind != "f":
        raise TypeError(f"matmul: device arrays must be two matrices of one floating-point dtype, got {a!r} and {b!r}")
    if a.shape[1] != b.shape[0]:
        raise ValueError(f"matmul: a has {a.shape[1]} columns but b has {b.shape[0]} rows")
    return gemm(a, b, True, False, len(a), b.shape[1], len(b))


UFUNCS: dict[Any, Callable] = COMPARISONS | {
    np.add: ADD,
    np.subtract: SUBTRACT,
    np.multiply: MULTIPLY,
    np.true_divide: DIVIDE,
    np.power: power,
    np.square: square,
    np.maximum: MAXIMUM,
    np.minimum: MINIMUM,
    np.matmul: matmul,
    np.negative: Unary(_negative, "fi"),
    np.absolute: Unary(_absolute, "fi"),
    np.sqrt: Unary(_sqrt),
    np.exp: Unary(_exp),
    np.log: Unary(_log),
    np.tanh: Unary(_tanh),
    np.logical_not: Unary(_logical_not, "b"),
    np.bitwise_and: COMPARISONS[np.logical_and],  # & and | of masks
    np.bitwise_or: COMPARISONS[np.logical_or],
    np.invert: Unary(_logical_not, "b"),
}


def blend(target: DeviceArray, share: float, other: DeviceArray, other_share: float) -> None:
    """target = share*target + other_share*other, in place."""
    kind, other = target.dtype.type, contiguous(wrap(other))
    check_writeable(target)
    if not target.flags.c_contiguous:
        raise ValueError("blend changes C-contiguous device arrays only")
    if other.size != target.size or other.dtype != target.dtype:
        raise ValueError(f"blend: {other!r} does not go into {target!r}")
    launch(blend_flat, blocks(target.size, TILE), TILE, flat(target), kind(share), flat(other), kind(other_share))


_F1, _S6, _B1 = "float32[::1]", "UniTuple(int64, 6)", "boolean[::1]"
KERNELS = [
    ("blend_flat", blend_flat, f"void({_F1}, float32, {_F1}, float32)"),
    ("add_flat", ADD.flat, f"void({_F1}, {_F1}, {_F1})"),
    ("add_strided", ADD.strided, f"void({_F1}, {_S6}, {_F1}, {_S6}, {_F1}, {_S6}, {_S6}, int64)"),
    ("divide_number", DIVIDE.number, f"void({_F1}, float32, {_F1})"),
    ("divide_of_number", DIVIDE.of_number, f"void(float32, {_F1}, {_F1})"),
    ("power_flat", POWER.flat, f"void({_F1}, {_F1}, {_F1})"),
    ("maximum_number", MAXIMUM.number, f"void({_F1}, float32, {_F1})"),
    ("greater_number", COMPARISONS[np.greater].number, f"void({_F1}, float32, {_B1})"),
    ("logical_and", COMPARISONS[np.logical_and].flat, f"void({_B1}, {_B1}, {_B1})"),
    ("logical_not", _logical_not.kernel, f"void({_B1}, {_B1})"),
] + [function.op.listed for function in UFUNCS.values() if isinstance(function, Unary) and function.kinds != "b"]
