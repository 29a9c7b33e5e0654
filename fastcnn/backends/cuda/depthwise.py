"""Depthwise convolution: every filter sees one channel, so there is no matrix product to make of it, and memory sets the pace.

forward, and the input gradient at stride 1: a thread computes RUN results below one another. Their windows overlap, so of the (RUN - 1)*SH + D*(KH - 1) + 1
rows of the source that it reads each number is used for up to KH results: for 3x3 at stride 1 18 numbers serve 36 multiply-adds. Neighbouring threads take
neighbouring columns. The filter lies in registers, which is why kernels are made for one kernel size, stride and dilation each.

The input gradient at stride 1 is the same with the filter turned round and D*(K - 1) - P of padding; with a channel multiplier it adds up several filters.
At a larger stride a thread asks, for one input pixel, which taps lead to an output pixel. The weight gradient is a sum over all pixels for every tap: a
thread has all taps of a filter in registers and passes over its pixels once.

A multiply-add per number read is far from the arithmetic's limit; 3x3 in float32 takes 4.5 reads of cached input and 8 bytes of memory per output pixel.
"""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numba import int32, int64, uint32, uint64

from ...shapes import Padding, Pair
from ._device import DeviceArray, blocks, empty, flat, launch, zeros
from ._jit import kernel
from ._memory import SIMULATED, cuda
from .epilogue import ACTIVATIONS
from .pieces import add_pieces
from .tiles import MULTIPROCESSORS, NUMBA_TYPE

THREADS = 8 if SIMULATED else 128  # a power of two
RUN = 4  # results of a thread, below one another
LARGEST = 49  # taps of the kernels made here: up to 7x7, whose sums still fit into registers
HELD = 160  # (source row, tap of it, result) in the loops that the compiler still unrolls: 5x5. Weights can lie in registers only then, else they are read.


def applies(weight_shape: tuple[int, ...], channels: int, groups: int) -> bool:
    """Whether each filter sees one channel of several, through few enough taps."""
    _, of_group, KH, KW = weight_shape
    return groups == channels and of_group == 1 and channels > 1 and KH * KW <= LARGEST


class Sizes(NamedTuple):
    """What the walk over the source is told."""

    planes: int  # of the result, in all images
    channels: int  # of the result, per image
    OH: int
    OW: int
    source_channels: int
    H: int
    W: int
    top: int  # padding
    left: int
    filters_per_channel: int  # the channel multiplier
    sources: int  # how many planes of the source, each with a filter, are added


@cache
def sliding_kernel(dtype: np.dtype, kernel_size: Pair, stride: Pair, dilation: Pair, biased: bool, flipped: bool, activation: str = "none") -> Any:
    """A thread per RUN results. flipped: the filter turned round, as in the input gradient, where a result's sources are the filters of its channel."""
    number = NUMBA_TYPE[dtype]
    (KH, KW), (SH, SW), (DH, DW) = kernel_size, stride, dilation
    taps = KH * KW
    rows = (RUN - 1) * SH + DH * (KH - 1) + 1
    held = rows * KW * RUN <= HELD and DH == 1
    filter_size = taps if held else 1
    activate = ACTIVATIONS[activation]

    @kernel(THREADS)
    def slide(source, weight, bias, slope, output, sizes):
        planes, channels, OH, OW, source_channels, H, W, top, left, filters_per_channel, sources = sizes
        runs = uint32(OH + RUN - 1) // uint32(RUN)
        at = uint64(cuda.blockIdx.x) * uint64(THREADS) + uint64(cuda.threadIdx.x)
        width = uint64(OW)
        if at >= uint64(planes) * uint64(runs) * width:
            return
        ow = int32(at % width)
        oh = int32(at // width % uint64(runs)) * RUN
        plane = int64(at // width // uint64(runs))
        image, channel = plane // channels, plane % channels
        w0 = int32(ow * SW - left)
        h0 = int32(oh * SH - top)
        sums = cuda.local.array(RUN, number)
        filter = cuda.local.array(filter_size, number)
        for i in range(RUN):
            sums[i] = number(0)
        for s in range(sources):
            first = channel * filters_per_channel + s if flipped else channel // filters_per_channel
            which = first if flipped else channel
            if held:
                for tap in range(taps):
                    filter[tap] = weight[uint64(which * taps + (taps - 1 - tap if flipped else tap))]
            base = (image * source_channels + first) * H * W
            for row in range(rows):
                h = int32(h0 + row)
                for kw in range(KW):
                    w = int32(w0 + kw * DW)
                    value = number(0)
                    if h >= 0 and h < H and w >= 0 and w < W:
                        value = source[uint64(base + h * W + w)]
                    for i in range(RUN):
                        kh = (row - i * SH) // DH
                        if row - i * SH == kh * DH and kh >= 0 and kh < KH:
                            tap = kh * KW + kw
                            sums[i] += value * (filter[tap] if held else weight[uint64(which * taps + (taps - 1 - tap if flipped else tap))])
        for i in range(RUN):
            if oh + i < OH:
                value = sums[i]
                if biased:
                    value += bias[uint64(channel)]
                output[uint64((plane * OH + oh + i) * OW + ow)] = activate(value, slope)

    return slide


@cache
def strided_grad_input_kernel(dtype: np.dtype, kernel_size: Pair, stride: Pair, dilation: Pair) -> Any:
    """A thread per input pixel."""
    number = NUMBA_TYPE[dtype]
    (KH, KW), (SH, SW), (DH, DW) = kernel_size, stride, dilation

    @kernel(THREADS)
    def gather(grad_output, weight, grad_input, sizes):
        planes, channels, H, W, grad_channels, OH, OW, top, left, filters_per_channel, sources = sizes
        at = uint64(cuda.blockIdx.x) * uint64(THREADS) + uint64(cuda.threadIdx.x)
        if at >= uint64(planes) * uint64(H * W):
            return
        w = int32(at % uint64(W))
        h = int32(at // uint64(W) % uint64(H))
        plane = int64(at // uint64(H * W))
        image, channel = plane // channels, plane % channels
        total = number(0)
        for s in range(sources):
            which = channel * filters_per_channel + s
            base = (image * grad_channels + which) * OH * OW
            for kh in range(KH):
                above = int32(h + top - kh * DH)
                if above >= 0 and above % SH == 0 and above // SH < OH:
                    for kw in range(KW):
                        before = int32(w + left - kw * DW)
                        if before >= 0 and before % SW == 0 and before // SW < OW:
                            total += grad_output[uint64(base + above // SH * OW + before // SW)] * weight[uint64((which * KH + kh) * KW + kw)]
        grad_input[at] = total

    return gather


def grad_weight_threads(dtype: np.dtype, kernel_size: Pair) -> int:
    """Threads of a block: as many as usual if a number per thread and tap fits into shared memory."""
    return THREADS if kernel_size[0] * kernel_size[1] * THREADS * dtype.itemsize <= 48 * 1024 else THREADS // 2


@cache
def grad_weight_kernel(dtype: np.dtype, kernel_size: Pair, stride: Pair, dilation: Pair) -> Any:
    """A block per filter and piece of its pixels; grid: (filters, pieces). output: (pieces, filters, taps)."""
    number = NUMBA_TYPE[dtype]
    (KH, KW), (SH, SW), (DH, DW) = kernel_size, stride, dilation
    taps = KH * KW
    threads = grad_weight_threads(dtype, kernel_size)
    numbers = taps * threads

    @kernel(threads)
    def grad_weight(grad_output, input, output, sizes):
        images, filters, OH, OW, channels, H, W, top, left, filters_per_channel, pieces = sizes
        shared = cuda.shared.array(numbers, number)
        sums = cuda.local.array(taps, number)
        thread = int32(cuda.threadIdx.x)
        which, piece = int64(cuda.blockIdx.x), int64(cuda.blockIdx.y)
        for tap in range(taps):
            sums[tap] = number(0)
        for pixel in range(piece * threads + thread, images * OH * OW, pieces * threads):
            place = uint64(pixel)
            ow = int32(place % uint64(OW))
            oh = int32(place // uint64(OW) % uint64(OH))
            image = int64(place // uint64(OH * OW))
            grad = grad_output[uint64(((image * filters + which) * OH + oh) * OW + ow)]
            base = (image * channels + which // filters_per_channel) * H * W
            for kh in range(KH):
                h = int32(oh * SH - top + kh * DH)
                for kw in range(KW):
                    w = int32(ow * SW - left + kw * DW)
                    if h >= 0 and h < H and w >= 0 and w < W:
                        sums[kh * KW + kw] += grad * input[uint64(base + h * W + w)]
        # The threads' sums are added pairwise, those of all taps at a time.
        for tap in range(taps):
            shared[uint64(tap * threads) + uint64(thread)] = sums[tap]
        half = int32(threads // 2)
        while half:
            cuda.syncthreads()
            if thread < half:
                for tap in range(taps):
                    shared[uint64(tap * threads) + uint64(thread)] += shared[uint64(tap * threads) + uint64(thread + half)]
            half = int32(half // 2)
        cuda.syncthreads()
        for tap in range(thread, taps, threads):
            output[uint64((piece * filters + which) * taps + tap)] = shared[uint64(tap * threads)]

    return grad_weight


def conv2d(input: DeviceArray, weight: DeviceArray, bias: DeviceArray | None, stride: Pair, padding: Padding, dilation: Pair,
           output: DeviceArray, activation: str = "none", slope: float = 0.0) -> DeviceArray:
    """output, filled: activation(conv2d); (N,C,H,W) x (O,1,KH,KW) [+ (O,)] -> (N,O,OH,OW)."""
    (N, C, H, W), (_, O, OH, OW) = input.shape, output.shape
    sizes = Sizes(N * O, O, OH, OW, C, H, W, padding[0][0], padding[1][0], O // C, 1)
    made = sliding_kernel(input.dtype, weight.shape[2:], stride, dilation, bias is not None, False, activation)
    launch(made, blocks(N * O * blocks(OH, RUN) * OW, THREADS), THREADS, flat(input), flat(weight), flat(weight) if bias is None else bias,
           output.dtype.type(slope), flat(output), tuple(sizes))  # fmt: skip
    return output


def conv2d_grad_input(grad_output: DeviceArray, weight: DeviceArray, input_shape: tuple[int, ...], stride: Pair, padding: Padding,
                      dilation: Pair) -> DeviceArray:
    """(N,O,OH,OW) x (O,1,KH,KW) -> (N,C,H,W)."""
    (N, C, H, W), (_, O, OH, OW), (KH, KW) = input_shape, grad_output.shape, weight.shape[2:]
    output = empty((N, C, H, W), grad_output.dtype)
    arrays = flat(grad_output), flat(weight)
    if stride == (1, 1):
        top, left = dilation[0] * (KH - 1) - padding[0][0], dilation[1] * (KW - 1) - padding[1][0]
        sizes = Sizes(N * C, C, H, W, O, OH, OW, top, left, O // C, O // C)
        made = sliding_kernel(output.dtype, (KH, KW), stride, dilation, False, True)
        launch(made, blocks(N * C * blocks(H, RUN) * W, THREADS), THREADS, *arrays, flat(weight), output.dtype.type(0), flat(output),
               tuple(sizes))  # fmt: skip
    else:
        sizes = Sizes(N * C, C, H, W, O, OH, OW, padding[0][0], padding[1][0], O // C, O // C)
        launch(strided_grad_input_kernel(output.dtype, (KH, KW), stride, dilation), blocks(output.size, THREADS), THREADS, *arrays, flat(output), tuple(sizes))
    return output


def conv2d_grad_weight(grad_output: DeviceArray, input: DeviceArray, weight_shape: tuple[int, ...], stride: Pair, padding: Padding,
                       dilation: Pair) -> DeviceArray:
    """(N,O,OH,OW) x (N,C,H,W) -> (O,1,KH,KW)."""
    (N, O, OH, OW), (C, H, W), (KH, KW) = grad_output.shape, input.shape[1:], weight_shape[2:]
    if not grad_output.size:
        return zeros(weight_shape, input.dtype)
    pieces = max(1, min(blocks(N * OH * OW, THREADS * 8), blocks(MULTIPROCESSORS * 16, O)))
    output = empty(weight_shape, input.dtype)
    target = output if pieces == 1 else empty((pieces, output.size), output.dtype)
    sizes = N, O, OH, OW, C, H, W, padding[0][0], padding[1][0], O // C, pieces
    made, threads = grad_weight_kernel(input.dtype, (KH, KW), stride, dilation), grad_weight_threads(input.dtype, (KH, KW))
    launch(made, (O, pieces), threads, flat(grad_output), flat(input), flat(target), sizes)
    if pieces > 1:
        add_pieces(target, None, 1, "none", 0.0, output)
    return output
