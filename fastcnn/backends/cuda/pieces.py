"""A divided sum put together: sums over K that were cut into pieces, so that every multiprocessor has some, are added here, always in the same order."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from ._device import DeviceArray, blocks, flat, launch
from ._jit import kernel
from ._memory import SIMULATED, cuda
from .epilogue import ACTIVATIONS
from .tiles import NUMBA_TYPE

THREADS = 16 if SIMULATED else 256


@cache
def add_kernel(dtype: np.dtype, biased: bool, activation: str) -> Any:
    """A thread per number of the result."""
    number = NUMBA_TYPE[dtype]
    activate = ACTIVATIONS[activation]

    @kernel(THREADS)
    def add_pieces(partial, bias, slope, output, pieces, inner):
        at = cuda.grid(1)
        size = output.size
        if at < size:
            value = number(0)
            for piece in range(pieces):
                value += partial[piece * size + at]
            if biased:
                value += bias[at // inner % bias.size]
            output[at] = activate(value, slope)

    return add_pieces


def add_pieces(partial: DeviceArray, bias: DeviceArray | None, inner: int, activation: str, slope: float, output: DeviceArray) -> None:
    """output = activation(sum of partial[piece] + bias); bias belongs to the axis that has `inner` numbers behind each of its entries."""
    made = add_kernel(output.dtype, bias is not None, activation)
    arguments = (flat(partial), partial if bias is None else bias, output.dtype.type(slope), flat(output), len(partial), inner)
    launch(made, blocks(output.size, THREADS), THREADS, *arguments)
