"""Pooling, a thread per element of the result. Backward is a gather too: a pixel of the input asks the windows that cover it, in reading order, so nothing is
added by two threads at once and equal inputs give equal bits.

Which windows cover pixel h: those with oh*SH - PH + kh*DH = h for a tap kh, so oh = (h + PH - kh*DH)/SH where that is whole; the last tap has the first window.
An adaptive window oh holds rows floor(oh*H/OH) to ceil((oh + 1)*H/OH), so row h lies in windows floor(h*OH/H) to ceil((h + 1)*OH/H).
"""

from __future__ import annotations

import math
from typing import Any

from ._device import DeviceArray, blocks, empty, launch
from ._memory import SIMULATED, cuda

TILE = 8 if SIMULATED else 256  # elements of the result per block, one per thread
LARGE_PLANE = 1024  # pixels from which on the mean of a whole plane is taken by a block of threads instead of one
ADAPTIVE = ((0, 0),) * 4  # in the place of a window's options: the windows cover the input evenly

Pair = tuple[int, int]


@cuda.jit(device=True)
def indices(i, shape):
    """(n, c, h, w) of element i of an array of this shape, in the order of memory: the last axis first."""
    _, C, H, W = shape
    return i // (C * H * W), i // (H * W) % C, i // W % H, i % W


@cuda.jit(device=True)
def plane(array):
    """(height, width) of its images."""
    return array.shape[2], array.shape[3]


@cuda.jit(device=True)
def adaptive(o, size, count):
    """(start, end) of window o of `count` that cover `size` pixels evenly. With the sizes exchanged: the windows that pixel o lies in."""
    return o * size // count, ((o + 1) * size + count - 1) // count


NOTHING, INDICES, PLACES = 0, 1, 2  # what is told of the maxima: nothing, h*W + w, or kh*KW + kw
MOST_PLACES = 127  # that fit a place's byte


@cuda.jit
def max_pool2d_kernel(input, output, winners, told, kernel_size, stride, padding, dilation):
    """The first maximum of each window and where it is; the last NaN, if there is one."""
    i = cuda.grid(1)
    if i >= output.size:
        return
    n, c, oh, ow = indices(i, output.shape)
    H, W = plane(input)
    best, index = input.dtype.type(-math.inf), -1  # which a window stays that dilation leaves without a pixel
    for kh in range(kernel_size[0]):
        h = oh * stride[0] - padding[0] + kh * dilation[0]
        if 0 <= h < H:
            for kw in range(kernel_size[1]):
                w = ow * stride[1] - padding[1] + kw * dilation[1]
                if 0 <= w < W:
                    value = input[n, c, h, w]
                    if index < 0 or value > best or value != value:
                        best, index = value, kh * kernel_size[1] + kw if told == PLACES else h * W + w
    output[n, c, oh, ow] = best
    if told != NOTHING:
        winners[n, c, oh, ow] = index


@cuda.jit
def adaptive_max_pool2d_kernel(input, output, winners, told):
    i = cuda.grid(1)
    if i >= output.size:
        return
    n, c, oh, ow = indices(i, output.shape)
    H, W = plane(input)
    best, index = input[n, c, 0, 0], -1
    OH, OW = plane(output)
    (top, bottom), (left, right) = adaptive(oh, H, OH), adaptive(ow, W, OW)
    for h in range(top, bottom):
        for w in range(left, right):
            value = input[n, c, h, w]
            if index < 0 or value > best or value != value:
                best, index = value, h * W + w
    output[n, c, oh, ow] = best
    if told != NOTHING:
        winners[n, c, oh, ow] = index


@cuda.jit
def max_pool2d_backward_kernel(grad_output, winners, grad_input, told, kernel_size, stride, padding, dilation):
    """grad_input[pixel] = sum of the gradients of the windows whose maximum it was: those of whose winners the pixel is the index, or its tap the place."""
    i = cuda.grid(1)
    if i >= grad_input.size:
        return
    n, c, h, w = indices(i, grad_input.shape)
    W, (OH, OW) = grad_input.shape[3], plane(grad_output)
    total = grad_input.dtype.type(0)
    for kh in range(kernel_size[0] - 1, -1, -1):
        top = h + padding[0] - kh * dilation[0]
        oh = top // stride[0]
        if top >= 0 and oh * stride[0] == top and oh < OH:
            for kw in range(kernel_size[1] - 1, -1, -1):
                left = w + padding[1] - kw * dilation[1]
                ow = left // stride[1]
                if left >= 0 and ow * stride[1] == left and ow < OW:
                    if winners[n, c, oh, ow] == (kh * kernel_size[1] + kw if told == PLACES else h * W + w):
                        total += grad_output[n, c, oh, ow]
    grad_input[n, c, h, w] = total


@cuda.jit
def adaptive_max_pool2d_backward_kernel(grad_output, winners, grad_input):
    i = cuda.grid(1)
    if i >= grad_input.size:
        return
    n, c, h, w = indices(i, grad_input.shape)
    (H, W), (OH, OW) = plane(grad_input), plane(grad_output)
    total = grad_input.dtype.type(0)
    (first_row, end_row), (first, end) = adaptive(h, OH, H), adaptive(w, OW, W)
    for oh in range(first_row, end_row):
        for ow in range(first, end):
            if winners[n, c, oh, ow] == h * W + w:
                total += grad_output[n, c, oh, ow]
    grad_input[n, c, h, w] = total


@cuda.jit
def unpool_kernel(grad_output, winners, grad_input):
    """The same where the windows are not known: a pixel looks at every index of its plane."""
    i = cuda.grid(1)
    if i >= grad_input.size:
        return
    n, c, h, w = indices(i, grad_input.shape)
    W, (OH, OW) = grad_input.shape[3], plane(grad_output)
    total = grad_input.dtype.type(0)
    for oh in range(OH):
        for ow in range(OW):
            if winners[n, c, oh, ow] == h * W + w:
                total += grad_output[n, c, oh, ow]
    grad_input[n, c, h, w] = total


FIRST, ALL, SPLIT = 0, 1, 2


@cuda.jit
def max_pool2d_backward_ties_kernel(grad_output, input, grad_input, kernel_size, stride, padding, dilation, ties, accumulate):
    """Each window that covers the pixel is looked through again: is the pixel a maximum, the first one, how many are there."""
    i = cuda.grid(1)
    if i >= grad_input.size:
        return
    n, c, h, w = indices(i, grad_input.shape)
    (H, W), (OH, OW) = plane(grad_input), plane(grad_output)
    own, total = input[n, c, h, w], grad_input.dtype.type(0)
    for kh in range(kernel_size[0] - 1, -1, -1):
        top = h + padding[0] - kh * dilation[0]
        oh = top // stride[0]
        if top >= 0 and oh * stride[0] == top and oh < OH:
            for kw in range(kernel_size[1] - 1, -1, -1):
                left = w + padding[1] - kw * dilation[1]
                ow = left // stride[1]
                if left >= 0 and ow * stride[1] == left and ow < OW:
                    best, index, count = own, -1, 0
                    for a in range(kernel_size[0]):
                        y = oh * stride[0] - padding[0] + a * dilation[0]
                        if 0 <= y < H:
                            for b in range(kernel_size[1]):
                                x = ow * stride[1] - padding[1] + b * dilation[1]
                                if 0 <= x < W:
                                    value = input[n, c, y, x]
                                    if index < 0 or value > best or value != value:
                                        best, index, count = value, y * W + x, 1
                                    elif value == best:
                                        count += 1
                    if index == h * W + w if ties == FIRST else own == best:
                        g = grad_output[n, c, oh, ow]
                        if ties == SPLIT:
                            g /= type(g)(count)
                        total = total + g if accumulate else g
    grad_input[n, c, h, w] = total


@cuda.jit(device=True)
def pixels(o, size, kernel, stride, padding, include):
    """How many pixels of window o count along one axis: those within the padded input, or within the input itself."""
    start = o * stride - padding
    end = min(start + kernel, size + padding)
    return end - start if include else min(end, size) - max(start, 0)


@cuda.jit
def avg_pool2d_kernel(input, output, kernel_size, stride, padding, include, divisor_override):
    """Window sums / divisors; divisor_override 0 stands for none."""
    i = cuda.grid(1)
    if i >= output.size:
        return
    n, c, oh, ow = indices(i, output.shape)
    H, W = plane(input)
    total = output.dtype.type(0)
    for h in range(max(oh * stride[0] - padding[0], 0), min(oh * stride[0] - padding[0] + kernel_size[0], H)):
        for w in range(max(ow * stride[1] - padding[1], 0), min(ow * stride[1] - padding[1] + kernel_size[1], W)):
            total += input[n, c, h, w]
    divisor = divisor_override
    if divisor == 0:
        divisor = pixels(oh, H, kernel_size[0], stride[0], padding[0], include) * pixels(ow, W, kernel_size[1], stride[1], padding[1], include)
    output[n, c, oh, ow] = total / type(total)(divisor)


@cuda.jit
def avg_pool2d_backward_kernel(grad_output, grad_input, kernel_size, stride, padding, include, divisor_override):
    i = cuda.grid(1)
    if i >= grad_input.size:
        return
    n, c, h, w = indices(i, grad_input.shape)
    (H, W), (OH, OW) = plane(grad_input), plane(grad_output)
    total = grad_input.dtype.type(0)
    # The first window that reaches row h is the first with oh*SH - PH + KH > h, the last one that with oh*SH - PH <= h.
    for oh in range(max(h + padding[0] - kernel_size[0] + stride[0], 0) // stride[0], min((h + padding[0]) // stride[0] + 1, OH)):
        for ow in range(max(w + padding[1] - kernel_size[1] + stride[1], 0) // stride[1], min((w + padding[1]) // stride[1] + 1, OW)):
            divisor = divisor_override
            if divisor == 0:
                divisor = pixels(oh, H, kernel_size[0], stride[0], padding[0], include) * pixels(ow, W, kernel_size[1], stride[1], padding[1], include)
            total += grad_output[n, c, oh, ow] / type(total)(divisor)
    grad_input[n, c, h, w] = total


@cuda.jit
def adaptive_avg_pool2d_kernel(input, output):
    i = cuda.grid(1)
    if i >= output.size:
        return
    n, c, oh, ow = indices(i, output.shape)
    H, W = plane(input)
    OH, OW = plane(output)
    (top, bottom), (left, right) = adaptive(oh, H, OH), adaptive(ow, W, OW)
    total = output.dtype.type(0)
    for h in range(top, bottom):
        for w in range(left, right):
            total += input[n, c, h, w]
    output[n, c, oh, ow] = total / type(total)((bottom - top) * (right - left))


@cuda.jit
def adaptive_avg_pool2d_backward_kernel(grad_output, grad_input):
    i = cuda.grid(1)
    if i >= grad_input.size:
        return
    n, c, h, w = indices(i, grad_input.shape)
    (H, W), (OH, OW) = plane(grad_input), plane(grad_output)
    total = grad_input.dtype.type(0)
    first_row, end_row = adaptive(h, OH, H)
    for oh in range(first_row, end_row):
        top, bottom = adaptive(oh, H, OH)
        first, end = adaptive(w, OW, W)
        for ow in range(first, end):
            left, right = adaptive(ow, W, OW)
            total += grad_output[n, c, oh, ow] / type(total)((bottom - top) * (right - left))
    grad_input[n, c, h, w] = total


# The ops.


def winners_for(shape: tuple[int, ...], told: int) -> DeviceArray:
    """The array that takes them; a kernel that tells nothing gets an empty one."""
    return empty(shape if told else (0, 0, 0, 0), "int8" if told == PLACES else "int64")


def max_pool2d(
    input: DeviceArray, kernel_size: Pair, stride: Pair, padding: Pair, dilation: Pair, output_size: Pair, winners: str | None
) -> tuple[DeviceArray, DeviceArray | None]:
    shape = (*input.shape[:2], *output_size)
    told = NOTHING if winners is None else PLACES if winners == "places" and kernel_size[0] * kernel_size[1] <= MOST_PLACES else INDICES
    output, found = empty(shape, input.dtype), winners_for(shape, told)
    found.windows = kernel_size, stride, padding, dilation
    launch(max_pool2d_kernel, blocks(output.size, TILE), TILE, input, output, found, told, kernel_size, stride, padding, dilation)
    return output, found if told else None


def max_pool2d_backward(grad_output: DeviceArray, indices: DeviceArray, input_shape: tuple[int, ...]) -> DeviceArray:
    grad_input = empty(input_shape, grad_output.dtype)
    grid, windows = blocks(grad_input.size, TILE), indices.windows
    if windows is None:
        launch(unpool_kernel, grid, TILE, grad_output, indices, grad_input)
    elif windows == ADAPTIVE:
        launch(adaptive_max_pool2d_backward_kernel, grid, TILE, grad_output, indices, grad_input)
    else:
        launch(max_pool2d_backward_kernel, grid, TILE, grad_output, indices, grad_input, INDICES, *windows)
    return grad_input


def max_pool2d_backward_places(
    grad_output: DeviceArray, places: DeviceArray, input_shape: tuple[int, ...], kernel_size: Pair, stride: Pair, padding: Pair, dilation: Pair
) -> DeviceArray:
    grad_input = empty(input_shape, grad_output.dtype)
    options = kernel_size, stride, padding, dilation
    launch(max_pool2d_backward_kernel, blocks(grad_input.size, TILE), TILE, grad_output, places, grad_input, PLACES, *options)
    return grad_input


def max_pool2d_backward_ties(
    grad_output: DeviceArray, input: DeviceArray, kernel_size: Pair, stride: Pair, padding: Pair, dilation: Pair, ties: str, accumulate: bool
) -> DeviceArray:
    grad_input, mode = empty(input.shape, input.dtype), {"first": FIRST, "all": ALL, "split": SPLIT}[ties]
    arrays = grad_output, input, grad_input
    launch(max_pool2d_backward_ties_kernel, blocks(input.size, TILE), TILE, *arrays, kernel_size, stride, padding, dilation, mode, accumulate)
    return grad_input


def avg_pool2d(
    input: DeviceArray, kernel_size: Pair, stride: Pair, padding: Pair, output_size: Pair, count_include_pad: bool, divisor_override: int | None
) -> DeviceArray:
    output = empty((*input.shape[:2], *output_size), input.dtype)
    options = kernel_size, stride, padding, count_include_pad, divisor_override or 0
    launch(avg_pool2d_kernel, blocks(output.size, TILE), TILE, input, output, *options)
    return output


def avg_pool2d_backward(
    grad_output: DeviceArray,
    input_shape: tuple[int, ...],
    kernel_size: Pair,
    stride: Pair,
    padding: Pair,
    count_include_pad: bool,
    divisor_override: int | None,
) -> DeviceArray:
    grad_input = empty(input_shape, grad_output.dtype)
    options = kernel_size, stride, padding, count_include_pad, divisor_override or 0
    launch(avg_pool2d_backward_kernel, blocks(grad_input.size, TILE), TILE, grad_output, grad_input, *options)
    return grad_input


def adaptive_avg_pool2d(input: DeviceArray, output_size: Pair) -> DeviceArray:
    N, C, H, W = input.shape
    if output_size == (1, 1) and input.size and H * W >= LARGE_PLANE:
        from .reduction import channel_sums

        return channel_sums(input, N * C, H * W, 1 / (H * W)).reshape(N, C, 1, 1)
    output = empty((N, C, *output_size), input.dtype)
    launch(adaptive_avg_pool2d_kernel, blocks(output.size, TILE), TILE, input, output)
    return output


def adaptive_avg_pool2d_backward(grad_output: DeviceArray, input_shape: tuple[int, ...]) -> DeviceArray:
    grad_input = empty(input_shape, grad_output.dtype)
    launch(adaptive_avg_pool2d_backward_kernel, blocks(grad_input.size, TILE), TILE, grad_output, grad_input)
    return grad_input


def adaptive_max_pool2d(input: DeviceArray, output_size: Pair, winners: str | None) -> tuple[DeviceArray, DeviceArray | None]:
    shape, told = (*input.shape[:2], *output_size), INDICES if winners else NOTHING
    output, found = empty(shape, input.dtype), winners_for(shape, told)
    found.windows = ADAPTIVE
    launch(adaptive_max_pool2d_kernel, blocks(output.size, TILE), TILE, input, output, found, told)
    return output, found if told else None


_F4, _I4, _B4, _PAIR = "float32[:,:,:,::1]", "int64[:,:,:,::1]", "int8[:,:,:,::1]", "UniTuple(int64, 2)"
_WINDOW = ", ".join([_PAIR] * 4)
KERNELS: list[tuple[str, Any, str]] = [
    ("max_pool2d", max_pool2d_kernel, f"void({_F4}, {_F4}, {_B4}, int64, {_WINDOW})"),
    ("max_pool2d_backward", max_pool2d_backward_kernel, f"void({_F4}, {_B4}, {_F4}, int64, {_WINDOW})"),
    ("max_pool2d_backward_ties", max_pool2d_backward_ties_kernel, f"void({_F4}, {_F4}, {_F4}, {_WINDOW}, int64, boolean)"),
    ("unpool", unpool_kernel, f"void({_F4}, {_I4}, {_F4})"),
    ("avg_pool2d", avg_pool2d_kernel, f"void({_F4}, {_F4}, {_PAIR}, {_PAIR}, {_PAIR}, boolean, int64)"),
    ("avg_pool2d_backward", avg_pool2d_backward_kernel, f"void({_F4}, {_F4}, {_PAIR}, {_PAIR}, {_PAIR}, boolean, int64)"),
    ("adaptive_max_pool2d", adaptive_max_pool2d_kernel, f"void({_F4}, {_F4}, {_I4}, int64)"),
    ("adaptive_max_pool2d_backward", adaptive_max_pool2d_backward_kernel, f"void({_F4}, {_I4}, {_F4})"),
    ("adaptive_avg_pool2d", adaptive_avg_pool2d_kernel, f"void({_F4}, {_F4})"),
    ("adaptive_avg_pool2d_backward", adaptive_avg_pool2d_backward_kernel, f"void({_F4}, {_F4})"),
]
