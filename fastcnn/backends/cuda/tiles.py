"""The matrix product that every convolution and linear layer becomes, C = A @ B, cut into tiles: what all its kernels share.

A block of threads computes BM x BN numbers of C, a thread TM x TN of them, in registers. The sum over K goes in steps of BK: the block copies BM x BK of A and
BK x BN of B from global to shared memory, then each thread reads, for every k, TM numbers of A's column and TN of B's row, and multiplies each with each.

Why so. A multiprocessor does 128 multiply-adds per cycle but reads only 128 bytes (32 numbers) of shared memory and, from the L2 cache, about 64 bytes. One
number fetched must therefore be used often:
  - registers: per k a thread loads TM + TN numbers for TM*TN multiply-adds. With 8 x 8, four loads of 16 bytes serve 64. Where the 32 threads of a warp
    read the same number it is fetched once: 16 threads share a row of A, so a warp takes 2 + 4 of the 16 cycles that its arithmetic lasts.
  - shared memory: per step a block loads (BM + BN)*BK numbers for BM*BN*BK multiply-adds: 64 per number with 128 x 128, that is 8 bytes per cycle.
While one step is computed the next one is already on its way from global memory to the other half of shared memory (async_copy.py), so one barrier per step
is enough.

Source: Volkov & Demmel 2008 (register blocking); Chetlur et al. 2014, arXiv:1410.0759 (convolution as such a product whose B is never stored).
"""

from __future__ import annotations

from functools import cache, lru_cache
from typing import Any, NamedTuple

import numpy as np
from numba import float32, float64, uint32, uint64

from ...shapes import ShapeError
from ._device import blocks
from ._jit import inlined
from ._memory import SIMULATED, cuda
from .precision import tf32_allowed

BK = 8  # 32 bytes of a row: what the memory fetches at least. The kernels below spell out these eight steps.
VECTOR = 4  # numbers that a thread reads from shared memory at once (16 bytes of float32), and that lie side by side in its part of C
NUMBA_TYPE = {np.dtype(np.float32): float32, np.dtype(np.float64): float64}


class Tile(NamedTuple):
    """The shape of a block's work. A thread's rows and columns come in runs of VECTOR, spread evenly over the tile."""

    BM: int
    BN: int
    TM: int
    TN: int
    blocks_per_sm: int = 1
    tensor: bool = False  # multiplied by tensor cores in TF32, see tensor.py: 8 x 8 numbers of C per thread, but others

    def __str__(self) -> str:
        return f"{self.BM}x{self.BN} by {'tensor cores' if self.tensor else f'{self.TM}x{self.TN}'}"

    @property
    def threads(self) -> int:
        return (self.BM // self.TM) * (self.BN // self.TN)

    @property
    def a_width(self) -> int:
        """Distance of A's rows k in shared memory. What it is more than BM spreads the stores of a transposed tile over all 32 banks, or, with tensor
        cores, whose threads read from four rows k and eight columns at a time, the reads.
        """
        return self.BM + (2 * VECTOR if self.tensor else VECTOR)

    @property
    def b_width(self) -> int:
        return self.BN + (2 * VECTOR if self.tensor else VECTOR)

    @property
    def shared_numbers(self) -> int:
        return 2 * BK * (self.a_width + self.b_width)

    def check(self) -> None:
        """What the kernels rely on."""
        assert self.TM % VECTOR == 0 and self.BM % self.TM == 0 and self.TN % VECTOR == 0 and self.BN % self.TN == 0
        assert self.threads % self.BN == 0  # each thread loads one column of B, and writes one column of C
        assert BK * self.BN % self.threads == 0 and BK * self.BM % self.threads == 0 and self.threads % BK == 0
        assert (self.BM // self.TM) * self.BN <= 2 * BK * self.b_width  # a row per thread fits into B's tile


# Best first wherever they fit: the largest has the fewest loads per multiply-add, the low ones waste no rows on layers with few filters.
# blocks_per_sm leaves each thread 128 registers, or 168 where more numbers are on their way; doubles take two each, so their tiles are smaller.
PRODUCTION = {
    np.dtype(np.float32): (Tile(128, 128, 8, 8, 2), Tile(64, 128, 8, 8, 3), Tile(64, 64, 8, 4, 4), Tile(32, 128, 8, 4, 4), Tile(16, 128, 4, 4, 4)),
    np.dtype(np.float64): (Tile(64, 64, 8, 4, 3), Tile(32, 128, 8, 4, 3), Tile(16, 128, 4, 4, 4)),
}
TENSOR = (Tile(128, 128, 8, 8, 2, True), Tile(64, 128, 8, 8, 3, True), Tile(64, 64, 8, 8, 6, True))  # float32 where TF32 is allowed
SMALL = (Tile(16, 16, 4, 4),)  # of 16 threads: for the simulator, which runs each as a thread of Python's
TILES = dict.fromkeys(PRODUCTION, SMALL) if SIMULATED else PRODUCTION
MULTIPROCESSORS = 1 if SIMULATED else 132  # of an H100 or H200: how many blocks a launch should have, never what it computes per block
MOST_BLOCKS = 65535  # along the second and third axis of a grid
MIN_STEPS = 16  # steps of a piece of a divided sum, at least: fewer do not pay for adding the pieces


class Cut(NamedTuple):
    """How a product is launched: its tile, and into how many pieces the sum over K is divided."""

    tile: Tile
    pieces: int


def cut(dtype: np.dtype, rows: int, columns: int, length: int, products: int = 1) -> Cut:
    """The best cut, see `best_cut`, with the tiles that precision.py allows."""
    return best_cut(TENSOR if tf32_allowed() and dtype == np.float32 else TILES[dtype], rows, columns, length, products)


@lru_cache(maxsize=4096)
def best_cut(tiles: tuple[Tile, ...], rows: int, columns: int, length: int, products: int = 1) -> Cut:
    """The tile and the division for `products` products (groups) of rows x length by length x columns.

    Estimated time: the multiply-adds of a block at its tile's rate, times how many blocks a multiprocessor gets. Where a product is so small that
    multiprocessors would idle, its sum is divided into pieces that a second launch adds, always in the same order.
    """
    best: tuple[float, Cut] | None = None
    for tile in tiles:
        grid = blocks(rows, tile.BM) * blocks(columns, tile.BN) * products
        wanted = MULTIPROCESSORS * tile.blocks_per_sm
        pieces = max(1, min(wanted // max(grid, 1), blocks(length, BK * MIN_STEPS), MOST_BLOCKS // products))
        waves = blocks(grid * pieces, MULTIPROCESSORS)
        # Per multiply-add TM*TN/(TM + TN) of them share a load: 4 for 8x8, 2.67 for 8x4, 2 for 4x4.
        reuse = tile.TM * tile.TN / (tile.TM + tile.TN)
        time = waves * tile.BM * tile.BN * (length / pieces + 2 * BK) * (1 + 1.5 / reuse)
        if best is None or time < best[0]:
            best = time, Cut(tile, pieces)
    assert best is not None
    return best[1]


class Parts(NamedTuple):
    """The device functions that a kernel of one tile and one dtype is put together from, and the shape of a thread's `sums`."""

    sums: tuple[int, int]
    clear: Any  # (sums): all zero
    a_read: Any  # (thread): where the thread's part of A's tile starts
    b_read: Any  # (thread)
    multiply: Any  # (a_tile, b_tile, a_at, b_at, sums): one step of BK, from a_read and b_read on
    collect: Any  # (sums, i, part, thread): the thread's i-th row, or what takes its place, into shared memory as (rows, BN)
    row: Any  # (i, part_row): which row of the tile a row of such a part is


@cache
def parts(tile: Tile, dtype: np.dtype) -> Parts:
    tile.check()
    if tile.tensor:
        assert dtype == np.float32
        from .tensor import tensor_parts

        return tensor_parts(tile)
    number = NUMBA_TYPE[dtype]
    BN, TM, TN = tile.BN, tile.TM, tile.TN
    a_width, b_width = tile.a_width, tile.b_width
    a_runs, b_runs = TM // VECTOR, TN // VECTOR
    a_step, b_step = tile.BM // a_runs, BN // b_runs  # from one run of rows, or columns, to the thread's next
    thread_columns = BN // TN

    @inlined
    def clear(sums):
        for i in range(TM):
            for j in range(TN):
                sums[i, j] = number(0)

    @inlined
    def add_product(a_tile, b_tile, a_at, b_at, k, sums):
        """sums += column k of A's tile times row k of B's: TM*TN multiply-adds for TM + TN numbers read."""
        a = cuda.local.array(TM, number)
        b = cuda.local.array(TN, number)
        for run in range(a_runs):
            for i in range(VECTOR):
                a[run * VECTOR + i] = a_tile[a_at + uint64(k * a_width + run * a_step + i)]
        for run in range(b_runs):
            for j in range(VECTOR):
                b[run * VECTOR + j] = b_tile[b_at + uint64(k * b_width + run * b_step + j)]
        for i in range(TM):
            for j in range(TN):
                sums[i, j] += a[i] * b[j]

    @inlined
    def multiply(a_tile, b_tile, a_at, b_at, sums):
        """BK steps, spelt out: with k known, every address below is a constant beside a_at and b_at."""
        add_product(a_tile, b_tile, a_at, b_at, 0, sums)
        add_product(a_tile, b_tile, a_at, b_at, 1, sums)
        add_product(a_tile, b_tile, a_at, b_at, 2, sums)
        add_product(a_tile, b_tile, a_at, b_at, 3, sums)
        add_product(a_tile, b_tile, a_at, b_at, 4, sums)
        add_product(a_tile, b_tile, a_at, b_at, 5, sums)
        add_product(a_tile, b_tile, a_at, b_at, 6, sums)
        add_product(a_tile, b_tile, a_at, b_at, 7, sums)

    @inlined
    def a_read(thread):
        return uint32(thread // thread_columns * VECTOR)

    @inlined
    def b_read(thread):
        return uint32(thread % thread_columns * VECTOR)

    @inlined
    def collect(sums, i, part, thread):
        at = uint64(thread // thread_columns * BN) + uint64(thread % thread_columns * VECTOR)
        for run in range(b_runs):
            for j in range(VECTOR):
                part[at + uint64(run * b_step + j)] = sums[i, run * VECTOR + j]

    @inlined
    def row(i, part_row):
        return i // VECTOR * a_step + part_row * VECTOR + i % VECTOR

    return Parts((TM, TN), clear, a_read, b_read, multiply, collect, row)


def check_counts(op: str, **counts: int) -> None:
    """ShapeError for what the kernels count in 32 bits and is too large for that."""
    for name, count in counts.items():
        if count >= 2**31:
            raise ShapeError(f"{op}: {name.replace('_', ' ')} are {count}, but backend 'cuda' counts them up to {2**31 - 1}")


def grid(op: str, columns: int, rows: int, products: int) -> tuple[int, int, int]:
    """A launch of columns x rows tiles for each of so many products; ShapeError if it is more than a GPU launches."""
    if products > MOST_BLOCKS or rows > MOST_BLOCKS:
        what = f"products (groups, strides and pieces) are {products}" if products > MOST_BLOCKS else f"tiles of rows are {rows}"
        raise ShapeError(f"{op}: {what}, but backend 'cuda' launches at most {MOST_BLOCKS}")
    return columns, rows, products


@lru_cache(maxsize=4096)
def divider(divisor: int) -> tuple[int, int]:
    """(multiplier, shift) such that n // divisor == n * multiplier >> shift for 0 <= n < 2^31: one multiplication and one shift instead of some 20 steps.

    With multiplier = ceil(2^shift / divisor) the product is too large by less than n * divisor / 2^shift <= n / 2^31 of a unit, which is too little to
    reach the next integer. Source: Granlund & Montgomery 1994, Division by invariant integers using multiplication.
    """
    shift = 31 + (divisor - 1).bit_length()
    return -(-(1 << shift) // divisor), shift
