"""The kernel behind the convolution and behind its input gradient: an implicit matrix product.

Both are the same walk. A result pixel (i, j) of row m is the sum, over a list of terms k, of a weight times one source pixel:

    output[n, m, i, j] = sum over k of  weight[m, k] * source[n, channel(k), i*RS + r0 + row(k), j*CS + c0 + column(k)]      (0 outside of the source)

    conv2d              source = input, rows m = filters, terms k = (c, kh, kw), RS x CS = the stride
    conv2d_grad_input   source = grad_output, rows m = input channels, terms k = (o, kh, kw), RS = CS = 1, see conv_grad_input.py

This is the product A @ B of tiles.py: A = weight is (rows, terms), and B (terms, pixels of all images) is never stored: the block that needs a tile of it
fetches the source pixels themselves. Neighbouring threads take neighbouring pixels, so for each term a warp reads, mostly, 32 neighbouring numbers. Where
a term looks is the same for all pixels, and is read from a table of four numbers per term; where a pixel looks is the same for all terms, and each thread
works it out once, for its own column. Per number fetched this leaves: two additions and four comparisons (inside the source?), one address, the load.
"""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numba import int32, int64, uint32, uint64

from ._device import DeviceArray, blocks, empty, flat, launch, to_device
from ._jit import kernel
from ._memory import SIMULATED, cuda
from .async_copy import copies
from .epilogue import ACTIVATIONS
from .pieces import add_pieces
from .tiles import BK, NUMBA_TYPE, Cut, Tile, check_counts, cut, grid, parts

# A row of a table of terms: where the term's source pixel lies, counted from the pixel at (r0, c0) of the group's first channel; the two parts of that
# that decide whether it is inside; where its weight lies, counted from the row's first, -1 for terms that only fill up the last step.
OFFSET, ROW, COLUMN, WEIGHT = range(4)
OUTSIDE = -(2**30)  # a row that no source has, also after a term's is added

# One class of result pixels: i = 0..I-1 and j = 0..J-1 stand for the rows FIRST_I + i*DI and columns FIRST_J + j*DJ of the result.
I, J, R0, C0, FIRST_I, FIRST_J, FIRST_TERM, STEPS = range(8)


class Walk(NamedTuple):
    """What a walk's kernel is told, apart from its arrays. Strides count elements."""

    rows: int  # of weight and result, per group
    groups: int
    pieces: int  # the sum over the terms is divided into so many
    row_step: int  # RS
    column_step: int  # CS
    images: int
    source_image: int  # from one image to the next
    source_group: int
    H: int  # of the source
    W: int
    weight_row: int  # from one row to the next
    weight_group: int
    output_image: int
    output_group: int
    output_plane: int
    output_width: int
    DI: int
    DJ: int
    output_size: int  # all of it: from one piece to the next


@cache
def walk_kernel(tile: Tile, dtype: np.dtype, biased: bool, activation: str, index: Any = int32) -> Any:
    """A block per tile of BM rows x BN pixels; grid: (tiles of pixels, tiles of rows, classes x groups x pieces). index: the type that counts the source's
    elements, int64 where there are 2^31 or more.
    """
    number = NUMBA_TYPE[dtype]
    BM, BN, TM, threads = tile.BM, tile.BN, tile.TM, tile.threads
    a_width, b_width = tile.a_width, tile.b_width
    a_half, b_half = BK * a_width, BK * b_width  # one step's tile; two of them take turns
    a_numbers, b_numbers = 2 * a_half, 2 * b_half
    a_loads, b_loads = BM * BK // threads, BN * BK // threads  # per thread and step
    a_stride, b_stride = threads // BK, threads // BN  # rows, or terms, between a thread's loads
    written_rows = threads // BN  # rows of the result that the block writes at a time
    thread_rows = BM // TM
    tiled = parts(tile, dtype)
    clear, multiply, collect, row_of = tiled.clear, tiled.multiply, tiled.collect, tiled.row
    a_place, b_place, sums_shape = tiled.a_read, tiled.b_read, tiled.sums
    activate = ACTIVATIONS[activation]
    copy_async, arrived = copies()
    unsigned = uint32 if index is int32 else uint64

    @kernel(threads, tile.blocks_per_sm)
    def walk(source, weight, bias, slope, output, terms, classes, sizes):
        (rows, groups, pieces, row_step, column_step, images, source_image, source_group, H, W, weight_row, weight_group,
         output_image, output_group, output_plane, output_width, DI, DJ, output_size) = sizes
        # 16-byte alignment lets a thread read VECTOR numbers at once.
        a_tile = cuda.shared.array(a_numbers, number) if SIMULATED else cuda.shared.array(a_numbers, number, 16)
        b_tile = cuda.shared.array(b_numbers, number) if SIMULATED else cuda.shared.array(b_numbers, number, 16)
        written_at = cuda.shared.array(BN, int64)
        sums = cuda.local.array(sums_shape, number)

        # Which part of the work this block has. (Unsigned numbers of 32 bits are divided fastest.)
        thread = uint32(cuda.threadIdx.x)
        part = uint32(cuda.blockIdx.z)
        group = int32(part % uint32(groups))
        piece = uint32(part // uint32(groups) % uint32(pieces))
        kind = classes[part // uint32(groups) // uint32(pieces)]
        pixels = uint32(kind[I] * kind[J])
        first_pixel = uint32(cuda.blockIdx.x * BN)
        if first_pixel >= uint32(images) * pixels:
            return
        first_row = int32(cuda.blockIdx.y * BM)
        first_step = int32(uint32(kind[STEPS]) * piece // uint32(pieces))
        last_step = int32(uint32(kind[STEPS]) * (piece + uint32(1)) // uint32(pieces))

        # This thread's column: it fetches this pixel's source pixels, and writes its results in the end.
        column = int32(thread % BN)
        term = int32(thread // BN)
        pixel = uint32(first_pixel + column)
        image = uint32(pixel // pixels)
        i = int32(uint32(pixel % pixels) // uint32(kind[J]))
        j = int32(uint32(pixel % pixels) % uint32(kind[J]))
        inside = image < uint32(images)
        h0 = int32(i * row_step + kind[R0])
        w0 = int32(j * column_step + kind[C0])
        source_at = index(index(image) * source_image + group * source_group + h0 * W + w0)
        if not inside:
            h0 = int32(OUTSIDE)
        height, width = int32(H), int32(W)
        if term == 0:  # needed only in the end, so it does not lie in registers until then
            output_at = (int64(piece) * output_size + int64(image) * output_image + group * output_group
                         + (kind[FIRST_I] + i * DI) * output_width + kind[FIRST_J] + j * DJ)
            written_at[uint64(column)] = output_at if inside else int64(-1)

        # Its part of the weights: one term, every a_stride-th row.
        a_term = int32(thread % BK)
        a_row = int32(thread // BK)
        rows_left = int32(rows - first_row - a_row)
        weight_at = int32(group * weight_group + (first_row + a_row) * weight_row)
        weight_step = int32(a_stride * weight_row)

        # Where it stores them in shared memory, and where it reads its rows and columns from.
        a_store = uint32(a_term * a_width + a_row)
        b_store = uint32(term * b_width + column)
        a_read = a_place(thread)
        b_read = b_place(thread)
        half = uint32(0)

        clear(sums)
        next_terms = uint32(kind[FIRST_TERM] + first_step * BK)
        for step in range(first_step, int32(last_step + 1)):
            # Fetch the step's tiles, or nothing when all have been fetched.
            fetching = step < last_step
            if fetching:
                a_to = uint64(a_store + (half ^ uint32(1)) * uint32(a_half))
                b_to = uint64(b_store + (half ^ uint32(1)) * uint32(b_half))
                offset = terms[uint64(next_terms + a_term), WEIGHT]
                for load in range(a_loads):
                    inside = offset >= 0 and load * a_stride < rows_left
                    copy_async(a_tile, a_to + uint64(load * a_stride), weight, uint32(weight_at + offset + load * weight_step), inside)
                for load in range(b_loads):
                    at = uint64(next_terms + term) + uint64(load * b_stride)
                    h = int32(h0 + terms[at, ROW])
                    w = int32(w0 + terms[at, COLUMN])
                    inside = h >= 0 and h < height and w >= 0 and w < width
                    copy_async(b_tile, b_to + uint64(load * b_stride * b_width), source, unsigned(source_at + terms[at, OFFSET]), inside)
                next_terms = uint32(next_terms + BK)
            # Meanwhile multiply those fetched before.
            if step > first_step:
                multiply(a_tile, b_tile, uint64(a_read + half * uint32(a_half)), uint64(b_read + half * uint32(b_half)), sums)
            half ^= uint32(1)
            arrived()
            cuda.syncthreads()

        # Write the sums: each thread's i-th row at a time, through shared memory, so that neighbouring threads write neighbouring pixels.
        for i in range(TM):
            cuda.syncthreads()
            collect(sums, i, b_tile, thread)
            cuda.syncthreads()
            output_at = written_at[uint64(thread % BN)]
            for part_row in range(int32(thread // BN), int32(thread_rows), int32(written_rows)):
                row = first_row + row_of(i, part_row)
                if output_at >= 0 and row < rows:
                    value = b_tile[uint64(part_row * BN + int32(thread % BN))]
                    if biased:
                        value += bias[uint64(group * rows + row)]
                    output[uint64(output_at + row * output_plane)] = activate(value, slope)

    return walk


def run(op: str, source: DeviceArray, weight: DeviceArray, bias: DeviceArray | None, output: DeviceArray, where: Table, sizes: Walk, activation: str = "none",
        slope: float = 0.0, chosen: Cut | None = None) -> DeviceArray:
    """output, filled: activation(walk + bias). chosen: the tile and the division, if not those that `cut` finds best."""
    if not output.size:
        return output
    check_counts(op, pixels=sizes.images * where.pixels, weights=weight.size)
    tile, pieces = chosen or cut(output.dtype, sizes.rows, sizes.images * where.pixels, where.length, sizes.groups * where.count)
    launched = grid(op, blocks(sizes.images * where.pixels, tile.BN), blocks(sizes.rows, tile.BM), where.count * sizes.groups * pieces)
    sizes = sizes._replace(pieces=pieces, output_size=output.size)
    whole = pieces == 1
    made = walk_kernel(tile, output.dtype, whole and bias is not None, activation if whole else "none", int32 if source.size < 2**31 else int64)
    target = output if whole else empty((pieces, output.size), output.dtype)
    arrays = flat(source), flat(weight), bias if whole and bias is not None else flat(weight)
    launch(made, launched, tile.threads, *arrays, output.dtype.type(slope), flat(target), where.terms, where.classes, tuple(sizes))
    if not whole:
        add_pieces(target, bias, sizes.output_plane, activation, slope, output)
    return output


class Table(NamedTuple):
    """A walk's terms and classes, on the device."""

    terms: DeviceArray
    classes: DeviceArray
    count: int  # classes
    pixels: int  # the largest class's, per image
    length: int  # the largest class's terms


def table(lists: list[list[tuple[int, int, int, int]]], classes: list[tuple[int, int, int, int, int, int]]) -> Table:
    """Terms (OFFSET, ROW, COLUMN, WEIGHT) class by class, each filled up to whole steps, and the classes' (I, J, R0, C0, FIRST_I, FIRST_J)."""
    terms: list[tuple[int, int, int, int]] = []
    rows = []
    for entries, place in zip(lists, classes, strict=True):
        steps = blocks(len(entries), BK)
        rows.append((*place, len(terms), steps))
        terms += entries + [(0, OUTSIDE, 0, -1)] * (steps * BK - len(entries))
    host = np.array(terms or [(0, OUTSIDE, 0, -1)], np.int32)
    return Table(to_device(host), to_device(np.array(rows, np.int32)), len(rows), max(row[I] * row[J] for row in rows), max(map(len, lists)))
