"""The matrix product that every convolution and linear layer becomes, C = A @ B, cut into tiles: what all its kernels share.

A block of threads computes BM x BN numbers of C, a thread TM x TN of them, in registers. The sum over K goes in steps of BK: the block copies BM x BK of A and
BK x BN of B from global to shared memory, then each thread reads, for every k, TM numbers of A's column and TN of B's row, and multiplies each with each.

Why so. A multiprocessor does 128 multiply-adds per cycle but reads only 128 bytes (32 numbers) of shared memory and, from the L2 cache, about 64 bytes. One
number fetched must therefore be used often:
  - registers: per k a thread loads TM + TN numbers for TM*TN multiply-adds. With 8 x 8, four loads of 16 bytes serve 64. Where the 32 threads of a warp
    read the same number it is fetched once: 16 threads share a row of A, so a warp takes 2 + 4 of the 16 cycles that its arithmetic lasts.
  - shared memory: per step a block loads (BM + BN)*BK numbers for BM*BN*BK multiply-adds: 64 per number with 128 x 128, that is 8 bytes per cycle.
While one step is computed the next one is already on its way from global memory, into registers first; it is stored to the other half of shared memory
when the step ends, so one barrier per step is enough.

Source: Volkov & Demmel 2008 (register blocking); Chetlur et al. 2014, arXiv:1410.0759 (convolution as such a product whose B is never stored).
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numba import float32, float64, uint64

from ._device import DeviceArray, blocks, empty, flat, launch
from ._jit import inlined, kernel
from ._memory import SIMULATED, cuda

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

    @property
    def threads(self) -> int:
        return (self.BM // self.TM) * (self.BN // self.TN)

    @property
    def a_width(self) -> int:
        """Distance of A's rows k in shared memory. The VECTOR more than BM spread the stores of a transposed tile over all 32 banks."""
        return self.BM + VECTOR

    @property
    def b_width(self) -> int:
        return self.BN + VECTOR

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
SMALL = (Tile(16, 16, 4, 4),)  # of 16 threads: for the simulator, which runs each as a thread of Python's
TILES = dict.fromkeys(PRODUCTION, SMALL) if SIMULATED else PRODUCTION
MULTIPROCESSORS = 1 if SIMULATED else 132  # of an H100 or H200: how many blocks a launch should have, never what it computes per block
MIN_STEPS = 16  # steps of a piece of a divided sum, at least: fewer do not pay for adding the pieces


class Cut(NamedTuple):
    """How a product is launched: its tile, and into how many pieces the sum over K is divided."""

    tile: Tile
    pieces: int


@lru_cache(maxsize=4096)
def cut(dtype: np.dtype, rows: int, columns: int, length: int, products: int = 1) -> Cut:
    """The tile and the division for `products` products (groups) of rows x length by length x columns.

    Estimated time: the multiply-adds of a block at its tile's rate, times how many blocks a multiprocessor gets. Where a product is so small that
    multiprocessors would idle, its sum is divided into pieces that a second launch adds, always in the same order.
    """
    best: tuple[float, Cut] | None = None
    for tile in TILES[dtype]:
        grid = blocks(rows, tile.BM) * blocks(columns, tile.BN) * products
        wanted = MULTIPROCESSORS * tile.blocks_per_sm
        pieces = max(1, min(wanted // max(grid, 1), blocks(length, BK * MIN_STEPS), 65535 // products))
        waves = blocks(grid * pieces, MULTIPROCESSORS)
        # Per multiply-add TM*TN/(TM + TN) of them share a load: 4 for 8x8, 2.67 for 8x4, 2 for 4x4.
        reuse = tile.TM * tile.TN / (tile.TM + tile.TN)
        time = waves * tile.BM * tile.BN * (length / pieces + 2 * BK) * (1 + 1.5 / reuse)
        if best is None or time < best[0]:
            best = time, Cut(tile, pieces)
    assert best is not None
    return best[1]


class Parts(NamedTuple):
    """The device functions that a kernel of one tile and one dtype is put together from."""

    clear: Any  # (sums): all zero
    multiply: Any  # (a_tile, b_tile, a_at, b_at, sums): one step of BK
    collect: Any  # (sums, i, part, at): the thread's row i of sums into shared memory


@lru_cache(maxsize=None)
def parts(tile: Tile, dtype: np.dtype) -> Parts:
    tile.check()
    number = NUMBA_TYPE[dtype]
    TM, TN = tile.TM, tile.TN
    a_width, b_width = tile.a_width, tile.b_width
    a_runs, b_runs = TM // VECTOR, TN // VECTOR
    a_step, b_step = tile.BM // a_runs, tile.BN // b_runs  # from one run of rows, or columns, to the thread's next

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
    def collect(sums, i, part, at):
        for run in range(b_runs):
            for j in range(VECTOR):
                part[at + uint64(run * b_step + j)] = sums[i, run * VECTOR + j]

    return Parts(clear, multiply, collect)


@lru_cache(maxsize=4096)
def divider(divisor: int) -> tuple[int, int]:
    """(multiplier, shift) such that n // divisor == n * multiplier >> shift for 0 <= n < 2^31: one multiplication and one shift instead of some 20 steps.

    With multiplier = ceil(2^shift / divisor) the product is too large by less than n * divisor / 2^shift <= n / 2^31 of a unit, which is too little to
    reach the next integer. Source: Granlund & Montgomery 1994, Division by invariant integers using multiplication.
    """
    shift = 31 + (divisor - 1).bit_length()
    return -(-(1 << shift) // divisor), shift
