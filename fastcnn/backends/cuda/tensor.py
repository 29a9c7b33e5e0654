"""A step of the tiled product on tensor cores: the same tiles in shared memory as in tiles.py, multiplied by warps instead of threads.

The instruction mma.m16n8k8 multiplies a 16 x 8 piece of A with an 8 x 8 piece of B, for a warp as a whole: each of its 32 threads hands in four numbers of A
and two of B and keeps four sums. Thread 4*g + t (g = 0..7, t = 0..3) has

    of A   rows g and g + 8 of columns t and t + 4        of B   rows t and t + 4 of column g        of C   columns 2t and 2t + 1 of rows g and g + 8

A warp computes 64 x 32 of the tile, 4 x 4 such pieces; of its thread's sums, row i belongs to row 8*i + g, columns 2n and 2n + 1 to piece n. Per step it
reads 16 + 8 numbers per thread for 16 instructions, 16,384 multiply-adds. numba has no function for it, so it is written as PTX in an intrinsic; numbers
are rounded to TF32, to nearest, when they are read from shared memory.

Source: PTX ISA, matrix fragments for mma.m16n8k8 with .tf32.
"""

from __future__ import annotations

from functools import cache

from llvmlite import ir
from numba import float32, types, uint32, uint64
from numba.cuda.extending import intrinsic

from ._jit import inlined
from ._memory import cuda
from .tiles import Parts, Tile

WARP_ROWS, WARP_COLUMNS = 64, 32
PIECE_ROWS, PIECE_COLUMNS = 16, 8
DOWN, ACROSS = WARP_ROWS // PIECE_ROWS, WARP_COLUMNS // PIECE_COLUMNS

_FLOAT, _WORD = ir.FloatType(), ir.IntType(32)


@intrinsic
def to_tf32(typingctx, value):
    """value rounded to the nearest number with 10 bits of fraction."""

    def generate(context, builder, signature, arguments):
        assembly = ir.InlineAsm(ir.FunctionType(_WORD, [_FLOAT]), "cvt.rna.tf32.f32 $0, $1;", "=r,f")
        return builder.bitcast(builder.call(assembly, arguments), _FLOAT)

    return types.float32(types.float32), generate


@intrinsic
def multiply_piece(typingctx, a0, a1, a2, a3, b0, b1, c0, c1, c2, c3):
    """The four sums c after the warp's A piece (a0..a3) times its B piece (b0, b1) has been added."""
    result = types.UniTuple(types.float32, 4)

    def generate(context, builder, signature, arguments):
        factors = [builder.bitcast(argument, _WORD) for argument in arguments[:6]]
        function = ir.FunctionType(ir.LiteralStructType([_FLOAT] * 4), [_WORD] * 6 + [_FLOAT] * 4)
        text = "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {$0,$1,$2,$3}, {$4,$5,$6,$7}, {$8,$9}, {$10,$11,$12,$13};"
        sums = builder.call(ir.InlineAsm(function, text, "=f,=f,=f,=f,r,r,r,r,r,r,f,f,f,f", side_effect=True), factors + list(arguments[6:]))
        return context.make_tuple(builder, result, [builder.extract_value(sums, i) for i in range(4)])

    return result(*[types.float32] * 10), generate


@cache
def tensor_parts(tile: Tile) -> Parts:
    assert tile.BM % WARP_ROWS == 0 and tile.BN % WARP_COLUMNS == 0 and tile.threads == tile.BM // WARP_ROWS * (tile.BN // WARP_COLUMNS) * 32
    BN, a_width, b_width = tile.BN, tile.a_width, tile.b_width
    across = BN // WARP_COLUMNS  # warps beside one another

    @inlined
    def clear(sums):
        for i in range(2 * DOWN):
            for j in range(2 * ACROSS):
                sums[i, j] = float32(0)

    @inlined
    def a_read(thread):
        return uint32(thread % 4 * a_width + thread // 4 % 8 + thread // 32 // across * WARP_ROWS)

    @inlined
    def b_read(thread):
        return uint32(thread % 4 * b_width + thread // 4 % 8 + thread // 32 % across * WARP_COLUMNS)

    @inlined
    def multiply(a_tile, b_tile, a_at, b_at, sums):
        b = cuda.local.array((ACROSS, 2), float32)
        for n in range(ACROSS):
            b[n, 0] = to_tf32(b_tile[b_at + uint64(n * PIECE_COLUMNS)])
            b[n, 1] = to_tf32(b_tile[b_at + uint64(n * PIECE_COLUMNS + 4 * b_width)])
        for m in range(DOWN):
            a0 = to_tf32(a_tile[a_at + uint64(m * PIECE_ROWS)])
            a1 = to_tf32(a_tile[a_at + uint64(m * PIECE_ROWS + 8)])
            a2 = to_tf32(a_tile[a_at + uint64(m * PIECE_ROWS + 4 * a_width)])
            a3 = to_tf32(a_tile[a_at + uint64(m * PIECE_ROWS + 4 * a_width + 8)])
            for n in range(ACROSS):
                i, j = 2 * m, 2 * n
                sums[i, j], sums[i, j + 1], sums[i + 1, j], sums[i + 1, j + 1] = multiply_piece(
                    a0, a1, a2, a3, b[n, 0], b[n, 1], sums[i, j], sums[i, j + 1], sums[i + 1, j], sums[i + 1, j + 1]
                )

    @inlined
    def collect(sums, i, part, thread):
        """The warp's i-th eight rows: row g of each warp, one warp below the other."""
        at = uint64((thread // 32 // across * 8 + thread // 4 % 8) * BN + thread // 32 % across * WARP_COLUMNS + thread % 4 * 2)
        for n in range(ACROSS):
            part[at + uint64(n * PIECE_COLUMNS)] = sums[i, 2 * n]
            part[at + uint64(n * PIECE_COLUMNS + 1)] = sums[i, 2 * n + 1]

    @inlined
    def row(i, part_row):
        return (part_row >> 3) * WARP_ROWS + i * 8 + (part_row & 7)

    return Parts((2 * DOWN, 2 * ACROSS), clear, a_read, b_read, multiply, collect, row)
