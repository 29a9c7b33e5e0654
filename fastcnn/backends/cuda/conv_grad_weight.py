"""conv2d_grad_weight: an implicit matrix product whose long side is the sum over all output pixels of all images.

    grad_weight[o, (c, kh, kw)] = sum over pixels (n, oh, ow) of  grad_output[n, o, oh, ow] * input[n, c, oh*SH + kh*DH - PT, ow*SW + kw*DW - PL]

A = grad_output is (filters, pixels), B (pixels, entries of a filter) is fetched from the input as it is needed. A thread keeps one pixel lane, of BK, and
several entries; the entries' places relative to the pixel come from a table once, the pixel's n, oh, ow are worked out anew for each step. The product
has few tiles (a 3x3 layer of 64 channels: 9 of 64 x 64) but a long sum, so the sum is cut into pieces until every multiprocessor has some.
"""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numba import int32, int64, uint32, uint64

from ...shapes import Padding, Pair
from ._device import DeviceArray, blocks, empty, flat, launch, to_device, zeros
from ._jit import kernel
from ._memory import SIMULATED, cuda
from .async_copy import copies
from .pieces import add_pieces
from .tiles import BK, NUMBA_TYPE, Cut, Tile, check_counts, cut, divider, grid, parts

OFFSET, ROW, COLUMN = range(3)  # of a table of entries (c, kh, kw): where its input pixel lies, counted from (oh*SH - PT, ow*SW - PL)
OUTSIDE = -(2**30)


class Sizes(NamedTuple):
    """What the kernel is told, apart from its arrays. Strides count elements; a divisor d comes as (multiplier, shift), see tiles.divider."""

    filters: int  # per group
    entries: int  # of a filter: C/G * KH * KW
    groups: int
    pieces: int
    pixels: int  # of all images
    plane: int  # OH * OW
    plane_multiplier: int
    plane_shift: int
    OW: int
    width_multiplier: int
    width_shift: int
    grad_image: int  # from one image of grad_output to the next
    grad_group: int
    input_image: int
    input_group: int
    H: int
    W: int
    SH: int
    SW: int
    top: int  # PT
    left: int  # PL
    grad_weight_size: int  # all of it: from one piece to the next


@cache
def grad_weight_kernel(tile: Tile, dtype: np.dtype, index: Any = int32) -> Any:
    """A block per tile of BM filters x BN entries; grid: (tiles of entries, tiles of filters, groups x pieces). index: the type that counts the arrays'
    elements, int64 where there are 2^31 or more.
    """
    number = NUMBA_TYPE[dtype]
    BM, BN, TM, threads = tile.BM, tile.BN, tile.TM, tile.threads
    a_width, b_width = tile.a_width, tile.b_width
    a_half, b_half = BK * a_width, BK * b_width  # one step's tile; two of them take turns
    a_numbers, b_numbers = 2 * a_half, 2 * b_half
    a_loads, b_loads = BM * BK // threads, BN * BK // threads  # per thread and step
    stride = threads // BK  # filters, or entries, between a thread's loads
    written_rows = threads // BN  # rows of the result that the block writes at a time
    writes = (BM // TM) // written_rows
    tiled = parts(tile, dtype)
    clear, multiply, collect, row_of = tiled.clear, tiled.multiply, tiled.collect, tiled.row
    copy_async, arrived = copies()
    a_place, b_place, sums_shape = tiled.a_read, tiled.b_read, tiled.sums
    unsigned = uint32 if index is int32 else uint64

    @kernel(threads, tile.blocks_per_sm)
    def grad_weight(grad_output, input, output, table, sizes):
        (filters, entries, groups, pieces, pixels, plane, plane_multiplier, plane_shift, OW, width_multiplier, width_shift,
         grad_image, grad_group, input_image, input_group, H, W, SH, SW, top, left, grad_weight_size) = sizes
        # 16-byte alignment lets a thread read VECTOR numbers at once.
        a_tile = cuda.shared.array(a_numbers, number) if SIMULATED else cuda.shared.array(a_numbers, number, 16)
        b_tile = cuda.shared.array(b_numbers, number) if SIMULATED else cuda.shared.array(b_numbers, number, 16)
        sums = cuda.local.array(sums_shape, number)

        thread = uint32(cuda.threadIdx.x)
        group = int32(uint32(cuda.blockIdx.z) % uint32(groups))
        piece = uint32(cuda.blockIdx.z) // uint32(groups)
        first_filter = int32(cuda.blockIdx.y * BM)
        first_entry = int32(cuda.blockIdx.x * BN)
        steps = uint32(pixels + BK - 1) // uint32(BK)
        first_step = int32(uint64(steps) * uint64(piece) // uint64(pieces))
        last_step = int32(uint64(steps) * uint64(piece + 1) // uint64(pieces))

        # One lane of the step's pixels; every stride-th filter and entry.
        lane = int32(thread % BK)
        member = int32(thread // BK)
        filters_left = int32(filters - first_filter - member)
        grad_at = index(group * grad_group + (first_filter + member) * plane)
        grad_step = index(stride * plane)
        input_at = index(group * input_group)
        height, width = int32(H), int32(W)
        store = uint32(lane * a_width + member)
        b_store = uint32(lane * b_width + member)
        a_read = a_place(thread)
        b_read = b_place(thread)
        half = uint32(0)

        clear(sums)
        for step in range(first_step, int32(last_step + 1)):
            # Fetch the step's tiles, or nothing when all have been fetched.
            fetching = step < last_step
            if fetching:
                pixel = uint32(step * BK + lane)
                image = uint32((uint64(pixel) * uint64(uint32(plane_multiplier))) >> uint64(plane_shift))
                place = uint32(pixel - image * uint32(plane))
                oh = int32((uint64(place) * uint64(uint32(width_multiplier))) >> uint64(width_shift))
                ow = int32(place - uint32(oh) * uint32(OW))
                exists = pixel < uint32(pixels)
                h0 = int32(oh * SH - top) if exists else int32(OUTSIDE)
                w0 = int32(ow * SW - left)
                b_at = index(input_at + index(image) * input_image + (oh * SH - top) * W + w0)
                b_to = uint64(b_store + (half ^ uint32(1)) * uint32(b_half))
                for load in range(b_loads):
                    entry = uint64(first_entry + member) + uint64(load * stride)
                    h = int32(h0 + table[entry, ROW])
                    w = int32(w0 + table[entry, COLUMN])
                    inside = h >= 0 and h < height and w >= 0 and w < width
                    copy_async(b_tile, b_to + uint64(load * stride), input, unsigned(b_at + table[entry, OFFSET]), inside)
                a_at = index(grad_at + index(image) * grad_image + place)
                a_to = uint64(store + (half ^ uint32(1)) * uint32(a_half))
                filters_here = filters_left if exists else int32(0)
                for load in range(a_loads):
                    copy_async(a_tile, a_to + uint64(load * stride), grad_output, unsigned(a_at + load * grad_step), load * stride < filters_here)
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
            entry = int32(first_entry + int32(thread % BN))
            for write in range(writes):
                part_row = int32(thread // BN) + write * written_rows
                row = int32(first_filter + row_of(i, part_row))
                if row < filters and entry < entries:
                    at = int64(piece) * grad_weight_size + (int64(group) * filters + row) * entries + entry
                    output[uint64(at)] = b_tile[uint64(part_row * BN + int32(thread % BN))]

    return grad_weight


@cache  # recorded steps hold addresses of tables: none may go
def entries_table(channels: int, size: Pair, kernel: Pair, dilation: Pair, multiple: int) -> DeviceArray:
    """The entries of a filter in the order in which they lie in memory, filled up with some that read nothing to a multiple of a tile's columns."""
    (H, W), (KH, KW), (DH, DW) = size, kernel, dilation
    listed = [(c * H * W + kh * DH * W + kw * DW, kh * DH, kw * DW) for c in range(channels) for kh in range(KH) for kw in range(KW)]
    listed += [(0, OUTSIDE, 0)] * (-len(listed) % multiple)
    return to_device(np.array(listed, np.int32))


def conv2d_grad_weight(grad_output: DeviceArray, input: DeviceArray, weight_shape: tuple[int, ...], stride: Pair, padding: Padding, dilation: Pair,
                       groups: int, chosen: Cut | None = None) -> DeviceArray:
    """(N,O,OH,OW) x (N,C,H,W) -> (O,C/G,KH,KW)."""
    (N, O, OH, OW), (C, H, W), (channels, KH, KW) = grad_output.shape, input.shape[1:], weight_shape[1:]
    if not grad_output.size:
        return zeros(weight_shape, input.dtype)
    output = empty(weight_shape, input.dtype)
    filters, entries, pixels = O // groups, channels * KH * KW, N * OH * OW
    check_counts("conv2d_grad_weight", pixels=pixels, image_elements=max(C * H * W, O * OH * OW))
    tile, pieces = chosen or cut(input.dtype, filters, entries, pixels, groups)
    sizes = Sizes(
        filters, entries, groups, pieces, pixels, OH * OW, *divider(OH * OW), OW, *divider(OW),
        grad_image=O * OH * OW, grad_group=filters * OH * OW, input_image=C * H * W, input_group=channels * H * W, H=H, W=W,
        SH=stride[0], SW=stride[1], top=padding[0][0], left=padding[1][0], grad_weight_size=output.size,
    )  # fmt: skip
    where = entries_table(channels, (H, W), (KH, KW), dilation, tile.BN)
    made = grad_weight_kernel(tile, input.dtype, int32 if max(input.size, grad_output.size) < 2**31 else int64)
    target = output if pieces == 1 else empty((pieces, output.size), output.dtype)
    launched = grid("conv2d_grad_weight", blocks(entries, tile.BN), blocks(filters, tile.BM), groups * pieces)
    launch(made, launched, tile.threads, flat(grad_output), flat(input), flat(target), where, tuple(sizes))
    if pieces > 1:
        add_pieces(target, None, 1, "none", 0.0, output)
    return output
