"""The compiled backend: Cython drivers (threads, tiling, scratch) over the C kernels of csrc/.

select.py says which implementation computes each op; _runtime.pyx holds the kernel set, the threads and the scratch memory.
"""

from __future__ import annotations

import os
from collections.abc import Callable

from ..ops import OPS
from .threads import default_threads, heed_threadpoolctl

try:
    from . import _formats, _lanes, _runtime, select  # noqa: F401 (plans use the first two: what is not built is found here)
    from ._runtime import copy_probe, fma_probe
except ImportError as error:
    # A module that is not there at all is reported as a name missing from this package, with circular imports as the likely reason.
    absent = isinstance(error, ModuleNotFoundError) or error.name == __name__
    reason = "are not built" if absent else f"cannot be loaded ({error})"
    raise ImportError(f"the compiled kernels {reason}: run `pip install -e .` in the source folder (needs a C compiler)", name=__name__) from error
except (AttributeError, TypeError, ValueError) as error:  # a function that is not there, or one whose C signature or type has changed
    raise ImportError(f"the compiled kernels are of another version than the sources beside them ({error}): run `pip install -e .` in the source folder "
                      "again (needs a C compiler)", name=__name__) from error

__all__ = ["name", "functions", "isa", "available_isas", "set_isa", "set_num_threads", "get_num_threads", "set_algorithm", "get_algorithm", "config",
           "conv2d_into", "record", "fma_probe", "copy_probe", *OPS]

name = "cpu"
isa = _runtime.isa
get_num_threads = _runtime.threads
record = select.record
conv2d_into = select.conv2d_into


def set_isa(name: str) -> None:
    """Use another kernel set from now on. Raises ValueError if this build has none of that name or this machine cannot run it."""
    _runtime.set_isa(name)
    select.forget_choices()


def available_isas() -> list[str]:
    """Kernel sets that this machine can run, best first."""
    return [n for n, supported in _runtime.isas().items() if supported]


def set_num_threads(n: int) -> None:
    """Threads of the parallel loops from now on; always 1 in a build without OpenMP."""
    _runtime.set_threads(n)


def set_algorithm(algorithm: str) -> None:
    """Which convolutions may run: "auto" (the fastest), "direct" (exact, bits independent of position) or "winograd" (wherever it can, paying or not)."""
    select.algorithm.set(algorithm)


def get_algorithm() -> str:
    return select.algorithm.get()


def config() -> dict[str, object]:
    return {
        "isa": isa(),
        "isas": ", ".join(available_isas()),
        "loops": _runtime.loops(),
        "threads": get_num_threads(),
        "compiler": _runtime.compiler(),
    }


functions: dict[str, Callable] = {op: select.dispatcher(op) for op in OPS}
globals().update(functions)

if os.environ.get("FASTCNN_ISA"):
    try:
        set_isa(os.environ["FASTCNN_ISA"])
    except ValueError as error:
        raise ImportError(f"FASTCNN_ISA={os.environ['FASTCNN_ISA']}: {error}") from None
set_num_threads(default_threads())
heed_threadpoolctl(get_num_threads, set_num_threads, _runtime.compiler())
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_runtime.after_fork_in_child)
