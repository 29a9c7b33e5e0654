"""Windows as columns (im2col) and back (col2im): a thread per number written, so overlapping windows are added by one thread, in the order kh, kw.

A column matrix holds the axes n, c, kh, kw, oh, ow in some order; the kernels are told each axis's stride, so one kernel writes, and one reads, them all.
"""

from __future__ import annotations

from math import prod

from numba import int32, int64, uint64

from ...shapes import Pair, conv2d_output_size
from ._device import DeviceArray, blocks, c_strides, empty, flat, launch
from ._jit import kernel
from ._memory import SIMULATED, cuda

TILE = 32 if SIMULATED else 256  # numbers per block, one per thread

# The axes (n, c, kh, kw, oh, ow) in the order of each kind of column matrix, and how many of them its shape joins into one.
COLUMNS = {
    "torch": ((0, 1, 2, 3, 4, 5), (1, 3, 2)),
    "dlfs": ((0, 4, 5, 1, 2, 3), (3, 3)),
    "cs231n": ((1, 2, 3, 4, 5, 0), (3, 3)),
    "cs231n_6d": ((1, 2, 3, 0, 4, 5), (1, 1, 1, 1, 1, 1)),
}


@kernel(TILE)
def gather_windows(input, output, strides, sizes, geometry):
    """Each number of the columns from its pixel. strides: of n, c, kh, kw, oh, ow in the columns; sizes: how many there are of each."""
    C, H, W, SH, SW, DH, DW, PH, PW = geometry
    at = uint64(cuda.blockIdx.x) * uint64(TILE) + uint64(cuda.threadIdx.x)
    if at >= uint64(output.size):
        return
    n = int64(at // uint64(strides[0]) % uint64(sizes[0]))
    c = int64(at // uint64(strides[1]) % uint64(sizes[1]))
    kh = int64(at // uint64(strides[2]) % uint64(sizes[2]))
    kw = int64(at // uint64(strides[3]) % uint64(sizes[3]))
    oh = int64(at // uint64(strides[4]) % uint64(sizes[4]))
    ow = int64(at // uint64(strides[5]) % uint64(sizes[5]))
    h, w = oh * SH - PH + kh * DH, ow * SW - PW + kw * DW
    value = output.dtype.type(0)
    if 0 <= h and h < H and 0 <= w and w < W:
        value = input[uint64(((n * C + c) * H + h) * W + w)]
    output[at] = value


@kernel(TILE)
def add_windows(input, output, strides, geometry, kernel_size, output_size):
    """Each pixel from the windows that hold it. strides: of n, c, kh, kw, oh, ow in the columns."""
    C, H, W, SH, SW, DH, DW, PH, PW = geometry
    KH, KW = kernel_size
    OH, OW = output_size
    at = uint64(cuda.blockIdx.x) * uint64(TILE) + uint64(cuda.threadIdx.x)
    if at >= uint64(output.size):
        return
    w = int32(at % uint64(W))
    h = int32(at // uint64(W) % uint64(H))
    c = int64(at // uint64(W * H) % uint64(C))
    n = int64(at // uint64(W * H * C))
    total = output.dtype.type(0)
    for kh in range(KH):
        above = int32(h + PH - kh * DH)
        if above >= 0 and above % SH == 0 and above // SH < OH:
            for kw in range(KW):
                before = int32(w + PW - kw * DW)
                if before >= 0 and before % SW == 0 and before // SW < OW:
                    total += input[uint64(n * strides[0] + c * strides[1] + kh * strides[2] + kw * strides[3]
                                          + above // SH * strides[4] + before // SW * strides[5])]  # fmt: skip
    output[at] = total


def im2col(input: DeviceArray, kernel_size: Pair, dilation: Pair, padding: Pair, stride: Pair, columns: str) -> DeviceArray:
    """unfold, its six axes in the order that `columns` names."""
    (N, C, H, W), (PH, PW) = input.shape, padding
    output_size = conv2d_output_size((H, W), kernel_size, stride, ((PH, PH), (PW, PW)), dilation, "im2col")
    order, joined = COLUMNS[columns]
    sizes = (N, C, *kernel_size, *output_size)
    lengths = tuple(sizes[axis] for axis in order)
    ends = [sum(joined[: i + 1]) for i in range(len(joined))]
    output = empty([prod(lengths[end - n : end]) for end, n in zip(ends, joined, strict=True)], input.dtype)
    strides = c_strides(lengths, 1)
    launch(gather_windows, blocks(output.size, TILE), TILE, flat(input), flat(output), tuple(strides[order.index(axis)] for axis in range(6)), sizes,
           (C, H, W, *stride, *dilation, *padding))  # fmt: skip
    return output


def col2im(input: DeviceArray, input_shape: tuple[int, ...], kernel_size: Pair, dilation: Pair, padding: Pair, stride: Pair, columns: str) -> DeviceArray:
    """fold of such columns: the transpose of im2col."""
    (N, C, H, W), (PH, PW) = input_shape, padding
    output_size = conv2d_output_size((H, W), kernel_size, stride, ((PH, PH), (PW, PW)), dilation, "col2im")
    order = COLUMNS[columns][0]
    sizes = (N, C, *kernel_size, *output_size)
    strides = c_strides([sizes[axis] for axis in order], 1)
    output = empty(input_shape, input.dtype)
    launch(add_windows, blocks(output.size, TILE), TILE, flat(input), flat(output), tuple(strides[order.index(axis)] for axis in range(6)),
           (C, H, W, *stride, *dilation, *padding), tuple(kernel_size), tuple(output_size))  # fmt: skip
    return output


def unfold(input: DeviceArray, kernel_size: Pair, dilation: Pair, padding: Pair, stride: Pair) -> DeviceArray:
    """(N,C,H,W) -> (N, C*KH*KW, OH*OW): the window of each output pixel as a column."""
    return im2col(input, kernel_size, dilation, padding, stride, "torch")


def fold(input: DeviceArray, output_size: Pair, kernel_size: Pair, dilation: Pair, padding: Pair, stride: Pair) -> DeviceArray:
    """(N, C*KH*KW, OH*OW) -> (N,C,H,W): the transpose of unfold; overlapping pixels are added."""
    C = input.shape[1] // (kernel_size[0] * kernel_size[1])
    return col2im(input, (len(input), C, *output_size), kernel_size, dilation, padding, stride, "torch")


_ARRAYS = "float32[::1], float32[::1], UniTuple(int64, 6)"
KERNELS = [
    ("gather_windows", gather_windows, f"void({_ARRAYS}, UniTuple(int64, 6), UniTuple(int64, 9))"),
    ("add_windows", add_windows, f"void({_ARRAYS}, UniTuple(int64, 9), UniTuple(int64, 2), UniTuple(int64, 2))"),
]
