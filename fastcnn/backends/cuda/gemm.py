"""The matrix product C = A @ B of two stored matrices, by the tiles of tiles.py: what linear layers are.

Each matrix may lie either way in memory, so that nothing has to be transposed: A (rows, K) or, `by_k` false, (K, rows); B (columns, K) or (K, columns).
Neighbouring threads fetch neighbouring numbers in both cases: eight along k and then the next row, or a whole row of the tile at one k.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numba import int32, int64, uint32, uint64

from ._device import DeviceArray, blocks, empty, flat, launch
from ._jit import kernel
from ._memory import SIMULATED, cuda
from .async_copy import copies
from .epilogue import ACTIVATIONS
from .pieces import add_pieces
from .tiles import BK, NUMBA_TYPE, Cut, Tile, check_counts, cut, parts


@cache
def gemm_kernel(tile: Tile, dtype: np.dtype, a_by_k: bool, b_by_k: bool, biased: bool, activation: str) -> Any:
    """A block per tile of BM x BN; grid: (tiles of rows x tiles of columns, 1, pieces of the sum). A grid's second axis has 65,535 blocks at most, and a
    layer behind large pictures more columns than those; neighbouring blocks share columns of B.
    """
    assert tile.threads % tile.BM == 0  # each thread loads one row of an A that lies by rows
    number = NUMBA_TYPE[dtype]
    BM, BN, TM, threads = tile.BM, tile.BN, tile.TM, tile.threads
    a_width, b_width = tile.a_width, tile.b_width
    a_half, b_half = BK * a_width, BK * b_width  # one step's tile; two of them take turns
    a_numbers, b_numbers = 2 * a_half, 2 * b_half
    a_loads, b_loads = BM * BK // threads, BN * BK // threads  # per thread and step
    written_rows = threads // BN  # rows of C that the block writes at a time
    thread_rows = BM // TM
    tiled = parts(tile, dtype)
    clear, multiply, collect, row_of = tiled.clear, tiled.multiply, tiled.collect, tiled.row
    a_place, b_place, sums_shape = tiled.a_read, tiled.b_read, tiled.sums
    activate = ACTIVATIONS[activation]
    copy_async, arrived = copies()

    @kernel(threads, tile.blocks_per_sm)
    def gemm(a, b, bias, slope, output, sizes):
        rows, columns, length, pieces = sizes
        # 16-byte alignment lets a thread read VECTOR numbers at once.
        a_tile = cuda.shared.array(a_numbers, number) if SIMULATED else cuda.shared.array(a_numbers, number, 16)
        b_tile = cuda.shared.array(b_numbers, number) if SIMULATED else cuda.shared.array(b_numbers, number, 16)
        sums = cuda.local.array(sums_shape, number)

        thread = uint32(cuda.threadIdx.x)
        row_tiles = uint32(rows + BM - 1) // uint32(BM)
        first_row = int32(uint32(cuda.blockIdx.x) % row_tiles * BM)
        first_column = int32(uint32(cuda.blockIdx.x) // row_tiles * BN)
        steps = uint32(length + BK - 1) // uint32(BK)
        first_step = int32(steps * uint32(cuda.blockIdx.z) // uint32(pieces))
        last_step = int32(steps * uint32(cuda.blockIdx.z + 1) // uint32(pieces))
        rows_left = int32(rows - first_row)
        columns_left = int32(columns - first_column)

        # Where this thread's loads start: at (row, k) of A, at (column, k) of B; and where it stores them.
        a_row, a_k = int32(thread // BK if a_by_k else thread % BM), int32(thread % BK if a_by_k else thread // BM)
        b_column, b_k = int32(thread // BK if b_by_k else thread % BN), int32(thread % BK if b_by_k else thread // BN)
        k = int64(first_step * BK)
        a_at = (first_row + a_row) * length + k + a_k if a_by_k else (k + a_k) * rows + first_row + a_row
        b_at = (first_column + b_column) * length + k + b_k if b_by_k else (k + b_k) * columns + first_column + b_column
        a_store = uint32(a_k * a_width + a_row)
        b_store = uint32(b_k * b_width + b_column)
        a_read = a_place(thread)
        b_read = b_place(thread)
        half = uint32(0)

        clear(sums)
        for step in range(first_step, int32(last_step + 1)):
            # Fetch the step's tiles, or nothing when all have been fetched.
            fetching = step < last_step
            if fetching:
                left = int32(length - step * BK)
                a_to = uint64(a_store + (half ^ uint32(1)) * uint32(a_half))
                b_to = uint64(b_store + (half ^ uint32(1)) * uint32(b_half))
                for load in range(a_loads):
                    row = int32(a_row + load * (threads // BK) if a_by_k else a_row)
                    term = int32(a_k if a_by_k else a_k + load * (threads // BM))
                    to = a_to + uint64(load * (threads // BK) if a_by_k else load * (threads // BM) * a_width)
                    at = uint64(a_at + load * (threads // BK) * length if a_by_k else a_at + load * (threads // BM) * rows)
                    copy_async(a_tile, to, a, at, term < left and row < rows_left)
                for load in range(b_loads):
                    column = int32(b_column + load * (threads // BK) if b_by_k else b_column)
                    term = int32(b_k if b_by_k else b_k + load * (threads // BN))
                    to = b_to + uint64(load * (threads // BK) if b_by_k else load * (threads // BN) * b_width)
                    at = uint64(b_at + load * (threads // BK) * length if b_by_k else b_at + load * (threads // BN) * columns)
                    copy_async(b_tile, to, b, at, term < left and column < columns_left)
                a_at += BK if a_by_k else BK * rows
                b_at += BK if b_by_k else BK * columns
            # Meanwhile multiply those fetched before.
            if step > first_step:
                multiply(a_tile, b_tile, uint64(a_read + half * uint32(a_half)), uint64(b_read + half * uint32(b_half)), sums)
            half ^= uint32(1)
            arrived()
            cuda.syncthreads()

        # Write the sums: each thread's i-th row at a time, through shared memory, so that neighbouring threads write neighbouring numbers.
        for i in range(TM):
            cuda.syncthreads()
            collect(sums, i, b_tile, thread)
            cuda.syncthreads()
            column = int32(thread % BN)
            for part_row in range(int32(thread // BN), int32(thread_rows), int32(written_rows)):
                row = int32(row_of(i, part_row))
                if row < rows_left and column < columns_left:
                    value = b_tile[uint64(part_row * BN + column)]
                    if biased:
                        value += bias[uint64(first_column + column)]
                    output[uint64((cuda.blockIdx.z * rows + first_row + row) * columns + first_column + column)] = activate(value, slope)

    return gemm


def gemm(a: DeviceArray, b: DeviceArray, a_by_k: bool, b_by_k: bool, rows: int, columns: int, length: int, bias: DeviceArray | None = None,
         activation: str = "none", slope: float = 0.0, chosen: Cut | None = None) -> DeviceArray:
    """(rows, columns): activation(A @ B + bias), bias one number per column. chosen: the tile and the division, if not those that `cut` finds best."""
    check_counts("linear", rows=rows, columns=columns, length=length)
    output = empty((rows, columns), a.dtype)
    if not output.size:
        return output
    tile, pieces = chosen or cut(a.dtype, rows, columns, length)
    whole = pieces == 1
    made = gemm_kernel(tile, a.dtype, a_by_k, b_by_k, whole and bias is not None, activation if whole else "none")
    target = output if whole else empty((pieces, output.size), a.dtype)
    arrays = flat(a), flat(b), bias if whole and bias is not None else flat(b)
    launch(made, (blocks(rows, tile.BM) * blocks(columns, tile.BN), 1, pieces), tile.threads, *arrays, a.dtype.type(slope), flat(target),
           (rows, columns, length, pieces))  # fmt: skip
    if not whole:
        add_pieces(target, bias, 1, activation, slope, output)
    return output
