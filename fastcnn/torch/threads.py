"""One set of threads for both libraries.

PyTorch's OpenMP threads spin for milliseconds after each of its loops, and take a CPU from fastcnn's own threads, which then wait for their turn: a
training step of deep-cifar10, swapped, took 43 ms on two cores instead of 35. So fastcnn's loops run on PyTorch's threads from the first swapped operation
on, and their number is what torch.set_num_threads says. With torch.set_num_threads(1), the other remedy, it took 36 ms, but whatever PyTorch computes
itself then has one core only.
"""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

import torch

from fastcnn import backend
from fastcnn.options import flag

_NOT_YET, _NEVER = 0, -1
_followed = _NOT_YET  # the number of threads that both libraries have, while they share


def follow() -> None:
    """Called by each operation: share threads, if nobody has said otherwise, and take over a number of threads that has changed."""
    if _followed != _NEVER and torch.get_num_threads() != _followed:
        share_threads()


def share_threads(on: bool = True) -> bool:
    """Let fastcnn's loops run on PyTorch's threads, as many as torch.get_num_threads() says, or again on its own (on=False); returns whether they share.

    Swapped modules, `use()` and `fit` do it by themselves. Not everywhere can be shared: PyTorch must be built with OpenMP, and fastcnn with its own pool
    (Linux, GCC). Where they cannot, torch.set_num_threads(1) is the next best.
    """
    global _followed
    flag(on, "share_threads", "on")
    if backend.obstacle("cpu") is not None:
        _followed = _NEVER
        return False
    from fastcnn.backends.cpu import _runtime

    count = torch.get_num_threads()
    address = _parallel() if on else None
    shared = _runtime.borrow_threads(address or 0, count) and address is not None
    if shared:
        backend.set_num_threads(count)
    _followed = count if shared else _NEVER
    return shared


def _parallel() -> int | None:
    """Where PyTorch's OpenMP runtime runs a function on its threads; None if PyTorch has no such runtime."""
    if "parallel backend: OpenMP" not in torch.__config__.parallel_info():
        return None
    try:  # loaded already: the names that it finds are those of its own runtime
        library = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"))
        return ctypes.cast(library.GOMP_parallel, ctypes.c_void_p).value
    except (OSError, AttributeError):
        return None


def _alone() -> None:
    """A forked child has none of PyTorch's threads, and the compiled loops are back on their own."""
    global _followed
    _followed = _NEVER


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_alone)
