"""Pooling, unfold and fold: loops over the window's taps; slices do the rest.

Source: Dumoulin & Visin 2016 (arXiv:1603.07285) ch. 3; adaptive windows, divisors and NaN as PyTorch.
"""

import numpy as np

from ...shapes import adaptive_windows, conv2d_output_size
from .conv import taps


def unfold(input, kernel_size, dilation, padding, stride):
    """(N,C,H,W) -> (N, C*KH*KW, OH*OW): the window of each output pixel as a column (im2col)."""
    (N, C), (PH, PW) = input.shape[:2], padding
    OH, OW = conv2d_output_size(input.shape[2:], kernel_size, stride, ((PH, PH), (PW, PW)), dilation, "unfold")
    padded = np.pad(input, ((0, 0), (0, 0), (PH, PH), (PW, PW)))
    columns = np.empty((N, C, *kernel_size, OH, OW), input.dtype)
    for kh, kw, tap in taps(kernel_size, (OH, OW), stride, dilation):
        columns[:, :, kh, kw] = padded[tap]
    return columns.reshape(N, C * kernel_size[0] * kernel_size[1], OH * OW)


def fold(input, output_size, kernel_size, dilation, padding, stride):
    """(N, C*KH*KW, OH*OW) -> (N,C,H,W): the transpose of unfold (col2im); overlapping pixels are added."""
    N, (KH, KW), (H, W), (PH, PW) = len(input), kernel_size, output_size, padding
    C = input.shape[1] // (KH * KW)
    OH, OW = conv2d_output_size(output_size, kernel_size, stride, ((PH, PH), (PW, PW)), dilation, "fold")
    columns = input.reshape(N, C, KH, KW, OH, OW)
    padded = np.zeros((N, C, H + 2 * PH, W + 2 * PW), input.dtype)
    for kh, kw, tap in taps(kernel_size, (OH, OW), stride, dilation):
        padded[tap] += columns[:, :, kh, kw]
    return padded[:, :, PH : PH + H, PW : PW + W]


# The axes (n, c, kh, kw, oh, ow) in the order of each kind of column matrix, and how many of them its shape joins into one.
_COLUMNS = {
    "torch": ((0, 1, 2, 3, 4, 5), (1, 3, 2)),
    "dlfs": ((0, 4, 5, 1, 2, 3), (3, 3)),
    "cs231n": ((1, 2, 3, 4, 5, 0), (3, 3)),
    "cs231n_6d": ((1, 2, 3, 0, 4, 5), (1, 1, 1, 1, 1, 1)),
}


def im2col(input, kernel_size, dilation, padding, stride, columns):
    """unfold, its six axes in the order that `columns` names."""
    (N, C), (PH, PW) = input.shape[:2], padding
    OH, OW = conv2d_output_size(input.shape[2:], kernel_size, stride, ((PH, PH), (PW, PW)), dilation, "im2col")
    order, joined = _COLUMNS[columns]
    windows = unfold(input, kernel_size, dilation, padding, stride).reshape(N, C, *kernel_size, OH, OW).transpose(order)
    ends = np.cumsum(joined)
    shape = [int(np.prod(windows.shape[end - n : end])) for end, n in zip(ends, joined, strict=True)]
    return np.ascontiguousarray(windows).reshape(shape)


def col2im(input, input_shape, kernel_size, dilation, padding, stride, columns):
    """fold of such columns: the transpose of im2col."""
    (N, C, H, W), (PH, PW), (KH, KW) = input_shape, padding, kernel_size
    OH, OW = conv2d_output_size((H, W), kernel_size, stride, ((PH, PH), (PW, PW)), dilation, "col2im")
    order = _COLUMNS[columns][0]
    sizes = (N, C, KH, KW, OH, OW)
    windows = input.reshape([sizes[axis] for axis in order]).transpose(np.argsort(order))
    return fold(np.ascontiguousarray(windows).reshape(N, C * KH * KW, OH * OW), (H, W), kernel_size, dilation, padding, stride)


def inside(size, kernel_size, stride, padding, dilation, output_size):
    """[(kh, kw, oh, ow, h, w)] per tap: the outputs whose tap lies inside the input (0 <= o*S + k*D - P < size), as slices, and its rows and columns there."""
    (H, W), (KH, KW), (OH, OW), (SH, SW) = size, kernel_size, output_size, stride
    (PH, PW), (DH, DW) = padding, dilation
    found = []
    for kh, kw in np.ndindex(KH, KW):
        above, left = PH - kh * DH, PW - kw * DW
        oh = slice(max(0, -(-above // SH)), max(0, min(OH, (H - 1 + above) // SH + 1)))
        ow = slice(max(0, -(-left // SW)), max(0, min(OW, (W - 1 + left) // SW + 1)))
        h, w = np.arange(OH)[oh] * SH - above, np.arange(OW)[ow] * SW - left
        if h.size and w.size:
            found.append((kh, kw, oh, ow, h, w))
    return found


MOST_PLACES = 127  # pixels of a window whose places fit a byte


def max_pool2d(input, kernel_size, stride, padding, dilation, output_size, winners):
    """(N,C,H,W) -> window maxima and, as `winners` asks, their flat positions h*W + w or their places kh*KW + kw, both (N,C,OH,OW).

    The first maximum wins a tie: a later tap replaces it only if greater, or if NaN (so NaN propagates, and the last NaN is the one indexed).
    Padding never wins: a window starts from its first pixel inside the input, not from -inf.
    """
    (N, C, H, W), (OH, OW), (SH, SW) = input.shape, output_size, stride
    as_places = winners == "places" and kernel_size[0] * kernel_size[1] <= MOST_PLACES
    output = np.full((N, C, OH, OW), -np.inf, input.dtype)
    indices = np.full((N, C, OH, OW), -1, np.int8 if as_places else np.int64)
    for kh, kw, oh, ow, h, w in inside((H, W), kernel_size, stride, padding, dilation, output_size):
        value = input[:, :, h[0] : h[-1] + 1 : SH, w[0] : w[-1] + 1 : SW]
        best, index = output[:, :, oh, ow], indices[:, :, oh, ow]
        better = (value > best) | (value != value) | (index < 0)
        np.copyto(best, value, where=better)
        np.copyto(index, kh * kernel_size[1] + kw if as_places else h[:, None] * W + w, where=better, casting="unsafe")
    return output, indices if winners else None


def max_pool2d_backward(grad_output, indices, input_shape):
    """(N,C,OH,OW) -> (N,C,H,W): each gradient goes to the pixel that was the maximum; overlapping windows add up."""
    N, C, H, W = input_shape
    grad_input = np.zeros((N * C, H * W), grad_output.dtype)
    plane, windows = np.arange(N * C)[:, None], (N * C, grad_output.shape[2] * grad_output.shape[3])
    np.add.at(grad_input, (plane, indices.reshape(windows)), grad_output.reshape(windows))
    return grad_input.reshape(input_shape)


def max_pool2d_backward_places(grad_output, places, input_shape, kernel_size, stride, padding, dilation):
    """(N,C,OH,OW) -> (N,C,H,W): each gradient to the pixel at its window's place. A pixel's windows come in order when the taps are taken backwards."""
    grad_input = np.zeros(input_shape, grad_output.dtype)
    for kh, kw, oh, ow, h, w in reversed(inside(input_shape[2:], kernel_size, stride, padding, dilation, grad_output.shape[2:])):
        share = np.where(places[:, :, oh, ow] == kh * kernel_size[1] + kw, grad_output[:, :, oh, ow], 0)
        grad_input[:, :, h[0] : h[-1] + 1 : stride[0], w[0] : w[-1] + 1 : stride[1]] += share
    return grad_input


def max_pool2d_backward_ties(grad_output, input, kernel_size, stride, padding, dilation, ties, accumulate):
    """(N,C,OH,OW), (N,C,H,W) -> (N,C,H,W): each gradient to all the tied maxima of its window, in whole or in equal parts, or to the first of them.

    Without accumulate the last window, in reading order, that gives a pixel anything decides about it. A pixel's windows come in that order when the taps are
    taken backwards: the later the window, the earlier the pixel's place in it.
    """
    (N, C, H, W), (SH, SW), output_size = input.shape, stride, grad_output.shape[2:]
    best, first = max_pool2d(input, kernel_size, stride, padding, dilation, output_size, "indices")
    taps_inside = inside((H, W), kernel_size, stride, padding, dilation, output_size)

    def tied(oh, ow, h, w):
        if ties == "first":
            return first[:, :, oh, ow] == h[:, None] * W + w
        return input[:, :, h[0] : h[-1] + 1 : SH, w[0] : w[-1] + 1 : SW] == best[:, :, oh, ow]

    share = grad_output
    if ties == "split":
        count = np.zeros(best.shape, np.int64)
        for _, _, oh, ow, h, w in taps_inside:
            count[:, :, oh, ow] += tied(oh, ow, h, w)
        share = grad_output / np.maximum(count, 1).astype(input.dtype)
    grad_input = np.zeros((N, C, H, W), grad_output.dtype)
    for _, _, oh, ow, h, w in reversed(taps_inside):
        pixels = grad_input[:, :, h[0] : h[-1] + 1 : SH, w[0] : w[-1] + 1 : SW]
        given = share[:, :, oh, ow] if not accumulate else pixels + share[:, :, oh, ow]
        np.copyto(pixels, given, where=tied(oh, ow, h, w))
    return grad_input


def divisor(size, kernel, stride, padding, output_size, count_include_pad):
    """(OH,) pixels of each window along one axis: inside the padded input, or inside the input itself.

    A window of ceil_mode that hangs over the padded end is counted only up to that end.
    """
    start = np.arange(output_size) * stride - padding
    end = np.minimum(start + kernel, size + padding)
    if count_include_pad:
        return end - start
    return np.minimum(end, size) - np.maximum(start, 0)


def divisors(dtype, size, kernel_size, stride, padding, output_size, count_include_pad, divisor_override):
    """(OH,OW) divisors of average pooling in the dtype of the data."""
    if divisor_override is not None:
        return np.full(output_size, divisor_override, dtype)
    rows, cols = (
        divisor(size[i], kernel_size[i], stride[i], padding[i], output_size[i], count_include_pad) for i in (0, 1)
    )
    return (rows[:, None] * cols).astype(dtype)


def overhang(size, kernel, stride, padding, output_size):
    """Pixels below (right of) the input that the last window reaches, the padding included."""
    return max(padding, (output_size - 1) * stride + kernel - padding - size)


def avg_pool2d(input, kernel_size, stride, padding, output_size, count_include_pad, divisor_override):
    """(N,C,H,W) -> (N,C,OH,OW): window sums / divisors."""
    size = input.shape[2:]
    PB, PR = (overhang(size[i], kernel_size[i], stride[i], padding[i], output_size[i]) for i in (0, 1))
    padded = np.pad(input, ((0, 0), (0, 0), (padding[0], PB), (padding[1], PR)))
    output = np.zeros((*input.shape[:2], *output_size), input.dtype)
    for _, _, tap in taps(kernel_size, output_size, stride, (1, 1)):
        output += padded[tap]
    return output / divisors(input.dtype, size, kernel_size, stride, padding, output_size, count_include_pad, divisor_override)


def avg_pool2d_backward(grad_output, input_shape, kernel_size, stride, padding, count_include_pad, divisor_override):
    """(N,C,OH,OW) -> (N,C,H,W): every pixel of a window gets grad_output / divisor."""
    (N, C, H, W), output_size, (PH, PW) = input_shape, grad_output.shape[2:], padding
    PB, PR = (overhang((H, W)[i], kernel_size[i], stride[i], padding[i], output_size[i]) for i in (0, 1))
    share = grad_output / divisors(
        grad_output.dtype, (H, W), kernel_size, stride, padding, output_size, count_include_pad, divisor_override
    )
    grad_padded = np.zeros((N, C, PH + H + PB, PW + W + PR), grad_output.dtype)
    for _, _, tap in taps(kernel_size, output_size, stride, (1, 1)):
        grad_padded[tap] += share
    return grad_padded[:, :, PH : PH + H, PW : PW + W]


def windows(size, output_size):
    """Yield (oh, ow, (first row, last row + 1), (first column, last column + 1)) of every adaptive window."""
    rows, cols = adaptive_windows(size[0], output_size[0]), adaptive_windows(size[1], output_size[1])
    for oh, ow in np.ndindex(*output_size):
        yield oh, ow, rows[oh], cols[ow]


def adaptive_avg_pool2d(input, output_size):
    """(N,C,H,W) -> (N,C,OH,OW): means over windows that cover the input evenly."""
    output = np.empty((*input.shape[:2], *output_size), input.dtype)
    for oh, ow, (top, bottom), (left, right) in windows(input.shape[2:], output_size):
        output[:, :, oh, ow] = input[:, :, top:bottom, left:right].mean(axis=(2, 3))
    return output


def adaptive_avg_pool2d_backward(grad_output, input_shape):
    """(N,C,OH,OW) -> (N,C,H,W): grad_output / window size to every pixel of the window."""
    grad_input = np.zeros(input_shape, grad_output.dtype)
    for oh, ow, (top, bottom), (left, right) in windows(input_shape[2:], grad_output.shape[2:]):
        share = grad_output[:, :, oh, ow] / ((bottom - top) * (right - left))
        grad_input[:, :, top:bottom, left:right] += share[:, :, None, None]
    return grad_input


def adaptive_max_pool2d(input, output_size, winners):
    """(N,C,H,W) -> maxima of the adaptive windows and their flat positions h*W + w, both (N,C,OH,OW)."""
    output = np.empty((*input.shape[:2], *output_size), input.dtype)
    indices = np.empty(output.shape, np.int64)
    for oh, ow, (top, bottom), (left, right) in windows(input.shape[2:], output_size):
        window = (bottom - top, right - left)
        best, first = max_pool2d(input[:, :, top:bottom, left:right], window, (1, 1), (0, 0), (1, 1), (1, 1), "indices")
        row, col = np.divmod(first[:, :, 0, 0], window[1])
        output[:, :, oh, ow] = best[:, :, 0, 0]
        indices[:, :, oh, ow] = (row + top) * input.shape[3] + col + left
    return output, indices if winners else None
