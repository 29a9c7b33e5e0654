"""What kernels are compiled with: one decorator for kernels, one for the device functions inside them, on a GPU and in numba's simulator.

The simulator knows neither launch bounds nor inlining nor alignment, and none of them changes a result.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ._memory import SIMULATED, cuda


def kernel(threads: int, blocks_per_sm: int = 1) -> Callable[[Callable], Any]:
    """Decorator of a kernel for blocks of `threads` threads, of which `blocks_per_sm` are to fit on a multiprocessor at a time: its 65,536 registers
    are then shared out, and the compiler gives each thread no more than its part.
    """
    return cuda.jit if SIMULATED else cuda.jit(launch_bounds=(threads, blocks_per_sm))


def inlined(function: Callable) -> Any:
    """Decorator of a device function that is always inlined, so that arrays passed to it can stay in registers."""
    return cuda.jit(device=True)(function) if SIMULATED else cuda.jit(device=True, forceinline=True)(function)
