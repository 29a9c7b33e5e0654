"""Sums, always in the same order: every block adds up one piece, a thread its elements one after the other, then the threads pairwise through shared memory;
a second launch adds up the pieces. No atomics, so equal inputs give equal bits.
"""

from __future__ import annotations

from typing import Any

from ._device import DeviceArray, blocks, empty, flat, launch
from ._memory import SIMULATED, cuda

THREADS = 4 if SIMULATED else 256  # of a block, a power of two: the halves are added until one is left
PIECE = THREADS * 16  # elements per block, if there are enough
MAX_PIECES = 8 if SIMULATED else 256  # per sum; more would only make the second launch longer


def pieces(count: int, sums: int) -> int:
    """Into how many pieces each of so many sums over `count` elements is divided: enough to fill the device, none smaller than PIECE."""
    return max(1, min(blocks(count, PIECE), MAX_PIECES, blocks(4096, sums)))


@cuda.jit(device=True)
def block_sum(values, thread):
    """The sum of values[0:THREADS], in shared memory, for every thread of the block."""
    cuda.syncthreads()
    half = THREADS // 2
    while half:
        if thread < half:
            values[thread] += values[thread + half]
        cuda.syncthreads()
        half //= 2
    return values[0]


@cuda.jit
def sum_pieces(input, partial, channels, inner):
    """partial[piece, channel]: input (outer, channels, inner) as one axis, its channel's elements dealt to the pieces, and to a piece's threads, in turn."""
    shared = cuda.shared.array(THREADS, partial.dtype)
    thread, channel, piece = cuda.threadIdx.x, cuda.blockIdx.x, cuda.blockIdx.y
    count = input.size // channels
    total = partial.dtype.type(0)
    for k in range(piece * THREADS + thread, count, THREADS * partial.shape[0]):
        total += input[(k // inner * channels + channel) * inner + k % inner]
    shared[thread] = total
    total = block_sum(shared, thread)
    if thread == 0:
        partial[piece, channel] = total


@cuda.jit
def add_pieces(partial, output, scale):
    """output[channel] = scale * sum of partial[:, channel], a thread per channel."""
    channel = cuda.grid(1)
    if channel < output.size:
        total = partial.dtype.type(0)
        for piece in range(partial.shape[0]):
            total += partial[piece, channel]
        output[channel] = total * scale


def channel_sums(array: DeviceArray, channels: int, inner: int, scale: float = 1.0) -> DeviceArray:
    """(channels,): sums of an array (outer, channels, inner) over the other two."""
    result = empty((channels,), array.dtype)
    if not array.size:
        result.fill(0 * scale)  # the mean of nothing is NaN: its scale is 1/0 or NaN already
        return result
    partial = empty((pieces(array.size // channels, channels), channels), array.dtype)
    launch(sum_pieces, (channels, len(partial)), THREADS, flat(array), partial, channels, inner)
    launch(add_pieces, blocks(channels, THREADS), THREADS, partial, result, array.dtype.type(scale))
    return result


def total(array: DeviceArray, scale: float = 1.0) -> Any:
    """scale * sum of all elements, as an array without axes."""
    return channel_sums(array, 1, max(array.size, 1), scale).reshape(())


_F1, _F2 = "float32[::1]", "float32[:,::1]"
KERNELS = [
    ("sum_pieces", sum_pieces, f"void({_F1}, {_F2}, int64, int64)"),
    ("add_pieces", add_pieces, f"void({_F2}, {_F1}, float32)"),
]
