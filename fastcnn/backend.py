"""Which implementation runs: the current backend, its threads and algorithm, and a record of what was dispatched.

`use_backend` and `use_algorithm` work as a plain call and as a context manager. The backend chosen with `use_backend` belongs to the current
context (contextvars: this thread, this asyncio task); `set_backend` sets the default of the whole process, initially FASTCNN_BACKEND or "cpu".
"""

from __future__ import annotations

import contextlib
import importlib
import os
import platform
from collections.abc import Callable, Iterable, Iterator
from contextvars import ContextVar
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from .options import integer

NAMES = ("reference", "cpu", "cuda")
HOST = ("reference", "cpu")  # those that compute on NumPy's arrays
ALGORITHMS = ("auto", "direct", "winograd")

_context: ContextVar[Any] = ContextVar("fastcnn_backend", default=None)
_default: ModuleType | None = None


def _load(name: str) -> ModuleType:
    if not isinstance(name, str) or name not in NAMES:
        raise ValueError(f"backend {name!r} does not exist; the backends are {', '.join(NAMES)}")
    try:
        module = importlib.import_module(f"fastcnn.backends.{name}")
        if hasattr(module, "missing") and (missing := module.missing()) is not None:
            raise ImportError(missing)
        return module
    except ImportError as error:
        raise RuntimeError(
            f'backend "{name}" cannot be used: {error}. The NumPy implementation is there in any case: FASTCNN_BACKEND=reference or '
            f'fastcnn.use_backend("reference")'
        ) from error


def current() -> Any:
    """The backend that functional calls go to: a module with one function per op of fastcnn.backends.ops.OPS, a `name` and `functions`."""
    return _context.get() or _default or _load_default()


def _load_default() -> ModuleType:
    global _default
    _default = _load(os.environ.get("FASTCNN_BACKEND") or "cpu")
    return _default


def available() -> dict[str, str | None]:
    """Every backend's name, with None if it can be used and else the reason why not."""
    return {name: obstacle(name) for name in NAMES}


def obstacle(name: str) -> str | None:
    """Why this backend cannot be used, None if it can."""
    try:
        _load(name)
        return None
    except RuntimeError as error:
        return str(error.__cause__)


def set_backend(name: str) -> None:
    """Make name the default of the whole process, and the choice of this context."""
    global _default
    _default = _load(name)
    _context.set(None)


class _Restorer:
    """What use_backend and use_algorithm return: the change is made already, leaving the `with` block takes it back."""

    def __init__(self, restore: Callable[[], None]) -> None:
        self._restore = restore

    def __enter__(self) -> None:
        return None

    def __exit__(self, *exception: object) -> None:
        self._restore()


def use_backend(name: str) -> _Restorer:
    """Use a backend in this context: `use_backend("reference")`, or `with use_backend("reference"): ...`."""
    token = _context.get()
    _context.set(_load(name))
    return _Restorer(lambda: _context.set(token))


def use_algorithm(name: str) -> _Restorer:
    """Choose how the cpu backend convolves: "direct" (exact for integers, bits independent of position), "winograd" (float32 3x3 stride 1, wherever
    it can) or "auto" (the fastest). The choice belongs to the current context, as use_backend's does.

    The reference backend always convolves directly.
    """
    if not isinstance(name, str) or name not in ALGORITHMS:
        raise ValueError(f"use_algorithm: algorithm {name!r} does not exist; the algorithms are {', '.join(ALGORITHMS)}")
    cpu = _load("cpu")
    before = cpu.get_algorithm()
    cpu.set_algorithm(name)
    return _Restorer(lambda: cpu.set_algorithm(before))


def on_device(value: Any) -> bool:
    """Whether value is an array in a GPU's memory, of whatever library."""
    return hasattr(value, "__cuda_array_interface__")


def to_device(array: Any) -> Any:
    """A NumPy array copied to the GPU, as a fastcnn array that the ops of backend "cuda" take; arrays of other GPU libraries are wrapped, not copied.

    Raises RuntimeError where there is no GPU to use, TypeError for what is no array.
    """
    return _load("cuda").to_device(array)


def to_host(array: Any) -> Any:
    """A NumPy copy of an array on the GPU, for which the host waits; whatever is not there as it is."""
    return all_to_host([array])[0]


def all_to_host(arrays: Iterable[Any]) -> list[Any]:
    """to_host of several, for which the host waits once."""
    arrays = list(arrays)
    return _load("cuda").all_to_host(arrays) if any(map(on_device, arrays)) else arrays


def place(*arrays: Any) -> Any:
    """The arrays where the current backend computes: copied to the device for "cuda" if they are not there, else as they are. Several give a tuple."""
    if current().name == "cuda":
        arrays = tuple(map(to_device, arrays))
    return arrays[0] if len(arrays) == 1 else arrays


def on_host() -> _Restorer:
    """`with on_host(): ...` computes on NumPy's arrays: with the current backend, or instead of "cuda" with the best one of the host's."""
    name = current().name
    if name in HOST:
        return use_backend(name)
    return use_backend("cpu" if obstacle("cpu") is None else "reference")


def allow_tf32(allowed: bool = True) -> _Restorer:
    """Let the cuda backend's convolutions and linear layers of float32 round their factors to TF32, in this context: a plain call, or
    `with allow_tf32(): ...`. Each factor keeps 10 bits of its fraction (relative error 2^-11), sums stay float32; tensor cores then do the products. Off unless
    asked for; float64 is never rounded.

    Raises RuntimeError where there are no tensor cores for it: without a GPU, before compute capability 8.0, and in numba's simulator.
    """
    cuda = _load("cuda")
    before = cuda.tf32_allowed()
    cuda.set_tf32(allowed)
    return _Restorer(lambda: cuda.set_tf32(before))


def set_num_threads(n: int) -> None:
    """Number of threads of the cpu backend. Results do not depend on it."""
    _load("cpu").set_num_threads(integer(n, "set_num_threads", "n", 1, 2**63 - 1))


def get_num_threads() -> int:
    """Number of threads of the cpu backend; 1 where it is not built (NumPy's BLAS has its own setting)."""
    return _load("cpu").get_num_threads() if obstacle("cpu") is None else 1


def config() -> dict[str, str]:
    """What is in use: backend, instruction set, OpenMP, threads, versions."""
    reasons = available()
    facts = {"backend": current().name}
    facts |= {f"{name} usable": "yes" if reason is None else f"no: {reason}" for name, reason in reasons.items()}
    for name in ("cpu", "cuda"):
        if reasons[name] is None:
            facts |= {f"{name} {key}": str(value) for key, value in _load(name).config().items()}
    return facts | {"Python": platform.python_version(), "NumPy": np.__version__, "machine": platform.machine()}


def show_config() -> None:
    """Print config()."""
    print("\n".join(f"{key:<18}{value}" for key, value in config().items()))


class Dispatch(NamedTuple):
    """One primitive op that ran: its name, the implementation chosen, and (name, reason) of each earlier one that declined."""

    op: str
    chosen: str
    declined: tuple[tuple[str, str], ...]


class _RecordingBackend:
    """A backend without a dispatcher of its own, every call noted."""

    def __init__(self, module: Any, records: list[Dispatch]) -> None:
        self.name, self._module, self._records = module.name, module, records

    def __getattr__(self, op: str) -> Any:
        function = getattr(self._module, op)
        if op not in self._module.functions and op not in getattr(self._module, "activated", ()):
            return function

        def noted(*arguments: Any) -> Any:
            self._records.append(Dispatch(op, self.name, ()))
            return function(*arguments)

        return noted


@contextlib.contextmanager
def recording() -> Iterator[list[Dispatch]]:
    """`with recording() as dispatches:` collects a Dispatch for every primitive that the current backend runs inside."""
    records: list[Dispatch] = []
    backend = current()
    if hasattr(backend, "record"):
        backend.record(lambda op, chosen, declined: records.append(Dispatch(op, chosen, tuple(declined))))
        try:
            yield records
        finally:
            backend.record(None)
    else:
        outer = _context.get()
        _context.set(_RecordingBackend(backend, records))
        try:
            yield records
        finally:
            _context.set(outer)
