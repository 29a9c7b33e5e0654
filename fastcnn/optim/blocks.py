"""How an optimizer step is cut: blocks of about BLOCK elements over the parameters.

Small neighbours are packed into one block, large parameters are split. Per block the gradient is gathered into scratch, the
optimizer's formula runs on flat vectors, and the result is subtracted from the parameters. So a small network costs one set of NumPy
calls instead of one per parameter, a large one works in cache instead of streaming every intermediate through memory, and no step
allocates.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

# Elements per block. A step reads or writes six vectors (parameter, gradient, up to two moments, two scratch): 6 * 16 Ki * 4 bytes
# = 384 KiB in float32, which stays in a 512 KiB L2, while 16 Ki elements a call hide NumPy's call overhead (about 0.5 us of 4 us).
BLOCK = 1 << 14


class Part(NamedTuple):
    """A whole parameter (key None), or a slice of its flattened elements (flat) or of its rows."""

    index: int  # the parameter's number
    data: np.ndarray  # view of the parameter
    key: slice | None = None
    flat: bool = False


class Piece(NamedTuple):
    """A part and its places in the two scratch vectors of its block, as views of the part's shape."""

    part: Part
    grad: np.ndarray
    update: np.ndarray


class Block(NamedTuple):
    pieces: list[Piece]
    dtype: np.dtype
    state: slice  # of the vector that holds one state of all parameters of this dtype
    grad: np.ndarray  # scratch
    update: np.ndarray  # scratch


def cut(arrays: Sequence[tuple[int, np.ndarray]], offsets: Sequence[int], steps: Sequence[int]) -> list[Block]:
    """Blocks over arrays, given as (parameter number, array). A block's state is one slice, because parameter i's state starts at
    offsets[i]; its parameters have taken equally many steps, because the formulas' scalars depend on that number."""
    plans: list[list[Part]] = []
    for index, data in arrays:
        part = Part(index, data)
        if data.size > BLOCK:
            plans += _split(part)
        elif plans and _joins(plans[-1], part, offsets, steps):
            plans[-1].append(part)
        else:
            plans.append([part])
    lengths = [(plan[0].data.dtype, sum(part.data.size for part in plan)) for plan in plans]
    longest = {dtype: max(length for other, length in lengths if other == dtype) for dtype, _ in lengths}
    scratch = {dtype: (np.empty(length, dtype), np.empty(length, dtype)) for dtype, length in longest.items()}
    return [_block(plan, offsets[plan[0].index], *scratch[plan[0].data.dtype]) for plan in plans]


def _split(whole: Part) -> list[list[Part]]:
    """One-part plans over a large parameter: cut anywhere if it is C-contiguous, else between its rows."""
    index, data, _, _ = whole
    flat = data.flags.c_contiguous
    rows = data.reshape(-1) if flat else data
    count = max(BLOCK * len(rows) // data.size, 1)
    return [[Part(index, rows[start : start + count], slice(start, start + count), flat)] for start in range(0, len(rows), count)]


def _joins(plan: list[Part], part: Part, offsets: Sequence[int], steps: Sequence[int]) -> bool:
    first, last = plan[0], plan[-1]
    return (
        last.key is None
        and last.data.dtype == part.data.dtype
        and offsets[last.index] + last.data.size == offsets[part.index]
        and steps[last.index] == steps[part.index]
        and offsets[part.index] + part.data.size - offsets[first.index] <= BLOCK
    )


def _block(plan: list[Part], offset: int, grad: np.ndarray, update: np.ndarray) -> Block:
    first = plan[0]
    if first.key is not None:
        offset += first.key.start * first.data[0].size
    pieces, start = [], 0
    for part in plan:
        stop, shape = start + part.data.size, part.data.shape
        pieces.append(Piece(part, grad[start:stop].reshape(shape), update[start:stop].reshape(shape)))
        start = stop
    return Block(pieces, first.data.dtype, slice(offset, offset + start), grad[:start], update[:start])
