"""Convolution, forward and backward: one loop over the kernel's taps, one matrix product per tap.

A tap (kh, kw) pairs output pixel (oh, ow) with pixel (oh*SH + kh*DH, ow*SW + kw*DW) of the padded input. So, for one tap, the input pixels that
meet all the outputs are one strided slice, `padded[tap]`, of exactly the output's size, and the convolution is

    output          +=  weight[tap] @ padded[tap]            (O, C) @ (C, pixels)
    grad_weight[tap] =  grad_output @ padded[tap].T           (O, pixels) @ (pixels, C)
    grad_padded[tap] +=  weight[tap].T @ grad_output           (C, O) @ (O, pixels)

The two gradients are that one line differentiated: each product w*x of the forward pass gives its gradient times w to x, and times x to w.
Where windows overlap, several taps add to one input pixel: hence += in the last line.

Inside, arrays are (G, channels of the group, N, height, width): channels first, so that all pixels of all images are columns of one product, and
the product is batched over the groups. (This is cross-correlation, as in every CNN library; a true convolution flips the kernel first.)

Source: Dumoulin & Visin 2016 (arXiv:1603.07285), ch. 2 and 4; LeCun et al. 1998, sec. II.
"""

import numpy as np

from ...shapes import conv2d_output_size


def taps(kernel, output_size, stride, dilation):
    """Yield (kh, kw, slice of the last two axes of the padded input) for every tap."""
    (KH, KW), (OH, OW), (SH, SW), (DH, DW) = kernel, output_size, stride, dilation
    for kh, kw in np.ndindex(KH, KW):
        rows = slice(kh * DH, kh * DH + SH * (OH - 1) + 1, SH)
        cols = slice(kw * DW, kw * DW + SW * (OW - 1) + 1, SW)
        yield kh, kw, (..., rows, cols)


def by_group(images, groups):
    """(N, C, H, W) -> (G, C/G, N, H, W), a view."""
    N, C, H, W = images.shape
    return images.transpose(1, 0, 2, 3).reshape(groups, C // groups, N, H, W)


def by_tap(weight, groups):
    """(O, C/G, KH, KW) -> (KH, KW, G, O/G, C/G), copied: BLAS wants each tap's matrix contiguous."""
    O, channels, KH, KW = weight.shape
    return np.ascontiguousarray(weight.transpose(2, 3, 0, 1)).reshape(KH, KW, groups, O // groups, channels)


def pad_zeros(images, padding):
    """(G, C/G, N, H, W) with zeros around the last two axes."""
    return np.pad(images, ((0, 0), (0, 0), (0, 0), *padding))


def product(a, b):
    """a @ b. With a single inner element (one channel per group) NumPy's matmul leaves BLAS; column times row, broadcast, is the same."""
    return a * b if a.shape[-1] == 1 else a @ b


def conv2d(input, weight, bias, stride, padding, dilation, groups):
    """(N,C,H,W) x (O,C/G,KH,KW) [+ (O,)] -> (N,O,OH,OW)."""
    N, (O, channels, KH, KW) = len(input), weight.shape
    OH, OW = conv2d_output_size(input.shape[2:], (KH, KW), stride, padding, dilation)
    padded = pad_zeros(by_group(input, groups), padding)
    weight = by_tap(weight, groups)
    output = np.zeros((groups, O // groups, N * OH * OW), input.dtype)
    for kh, kw, tap in taps((KH, KW), (OH, OW), stride, dilation):
        output += product(weight[kh, kw], padded[tap].reshape(groups, channels, N * OH * OW))
    output = output.reshape(O, N, OH, OW)
    if bias is not None:
        output += bias[:, None, None, None]
    return output.transpose(1, 0, 2, 3)


def conv2d_grad_input(grad_output, weight, input_shape, stride, padding, dilation, groups):
    """(N,O,OH,OW) x (O,C/G,KH,KW) -> (N,C,H,W). This is the transposed convolution."""
    (N, O, OH, OW), (KH, KW), (C, H, W) = grad_output.shape, weight.shape[2:], input_shape[1:]
    (PT, PB), (PL, PR) = padding
    weight = by_tap(weight, groups).swapaxes(3, 4)
    grad_output = by_group(grad_output, groups).reshape(groups, O // groups, N * OH * OW)
    grad_padded = np.zeros((groups, C // groups, N, PT + H + PB, PL + W + PR), grad_output.dtype)
    for kh, kw, tap in taps((KH, KW), (OH, OW), stride, dilation):
        grad_padded[tap] += product(weight[kh, kw], grad_output).reshape(groups, C // groups, N, OH, OW)
    grad_input = grad_padded[..., PT : PT + H, PL : PL + W]
    return grad_input.reshape(C, N, H, W).transpose(1, 0, 2, 3)


def conv2d_grad_weight(grad_output, input, weight_shape, stride, padding, dilation, groups):
    """(N,O,OH,OW) x (N,C,H,W) -> (O,C/G,KH,KW)."""
    (N, O, OH, OW), (KH, KW) = grad_output.shape, weight_shape[2:]
    padded = pad_zeros(by_group(input, groups), padding)
    grad_output = by_group(grad_output, groups).reshape(groups, O // groups, N * OH * OW)
    grad_weight = np.empty((groups, O // groups, weight_shape[1], KH, KW), input.dtype)
    for kh, kw, tap in taps((KH, KW), (OH, OW), stride, dilation):
        columns = padded[tap].reshape(groups, weight_shape[1], N * OH * OW)
        grad_weight[..., kh, kw] = grad_output @ columns.swapaxes(1, 2)
    return grad_weight.reshape(weight_shape)


def conv2d_grad_bias(grad_output):
    """(N,O,OH,OW) -> (O,): each output pixel holds the bias once."""
    return grad_output.sum(axis=(0, 2, 3))


def channels_last(input):
    """The same numbers, in memory as (N,H,W,C)."""
    return input.transpose(0, 2, 3, 1).copy(order="C").transpose(0, 3, 1, 2)
