"""Padding and interpolation. Both are linear maps, so each backward is the forward's transpose.

Interpolation works one axis at a time: an output pixel is a copy of one input pixel (nearest) or a mean of two neighbours, weighted by nearness (linear).
Source: PyTorch's documentation of interpolate (align_corners; scale factors enter the coordinates as given).
"""

import numpy as np


def padded_positions(size, before, after, mode):
    """(before + size + after,) input position that each padded position copies, along one axis."""
    position = np.arange(-before, size + after)
    if mode == "reflect":  # ... 2 1 | 0 1 2 ... size-1 | size-2 ...
        return np.abs(position) - 2 * np.maximum(np.abs(position) - (size - 1), 0)
    if mode == "replicate":
        return np.clip(position, 0, size - 1)
    return position % size  # circular


def pad(input, padding, mode, value):
    """padding ((before, after), ...) per axis; negative numbers crop (constant mode only)."""
    if mode == "constant":
        crop = tuple(slice(max(0, -before), size - max(0, -after)) for size, (before, after) in zip(input.shape, padding, strict=True))
        return np.pad(input[crop], [(max(0, before), max(0, after)) for before, after in padding], constant_values=value)
    for axis, (before, after) in enumerate(padding):
        if before or after:
            input = input.take(padded_positions(input.shape[axis], before, after, mode), axis=axis)
    return input.copy()


def pad_backward(grad_output, input_shape, padding, mode):
    """Each padded element's gradient is added to the element it was copied from; constants have none."""
    if mode == "constant":
        uncropped = np.pad(grad_output, [(max(0, -before), max(0, -after)) for before, after in padding])
        inside = tuple(slice(max(0, before), max(0, before) + size) for size, (before, _) in zip(input_shape, padding, strict=True))
        return uncropped[inside]
    grad = grad_output
    for axis, (before, after) in enumerate(padding):
        if before or after:
            size = input_shape[axis]
            copied = np.zeros((size, *np.delete(grad.shape, axis)), grad.dtype)
            np.add.at(copied, padded_positions(size, before, after, mode), np.moveaxis(grad, axis, 0))
            grad = np.moveaxis(copied, 0, axis)
    return grad.copy()


def nearest_source(size, output_size, scale):
    """(out,) input position floor(o*ratio) of each output. The ratio is a float32 whatever the data, as in PyTorch."""
    ratio = np.float32(1 / scale) if scale is not None else np.float32(size) / np.float32(output_size)
    return np.minimum(np.floor(np.arange(output_size, dtype=np.float32) * ratio).astype(np.int64), size - 1)


def linear_source(size, output_size, align_corners, scale, dtype):
    """(left, right, share): each output is left*(1 - share) + right*share, its two neighbours along one axis."""
    index = np.arange(output_size, dtype=dtype)
    if align_corners:
        ratio = (size - 1) / (output_size - 1) if output_size > 1 else 0.0
        position = index * dtype.type(ratio)
    else:
        ratio = 1 / scale if scale is not None else size / output_size
        position = np.maximum((index + dtype.type(0.5)) * dtype.type(ratio) - dtype.type(0.5), 0)
    left = np.minimum(position.astype(np.int64), size - 1)
    return left, np.minimum(left + 1, size - 1), np.clip(position - left.astype(dtype), 0, 1)


def resized(images, axis, output_size, mode, align_corners, scale):
    """images with one axis interpolated."""
    size = images.shape[axis]
    if mode == "nearest":
        return images.take(nearest_source(size, output_size, scale), axis)
    left, right, share = linear_source(size, output_size, align_corners, scale, images.dtype)
    share = share if axis == 3 else share[:, None]
    return images.take(left, axis) * (1 - share) + images.take(right, axis) * share


def resized_backward(grad, axis, size, mode, align_corners, scale):
    """The transpose of resized: what an output took from an input position goes back there, added."""
    output_size = grad.shape[axis]
    grad = np.moveaxis(grad, axis, 0)
    grad_input = np.zeros((size, *grad.shape[1:]), grad.dtype)
    if mode == "nearest":
        np.add.at(grad_input, nearest_source(size, output_size, scale), grad)
    else:
        left, right, share = linear_source(size, output_size, align_corners, scale, grad.dtype)
        share = share[:, None, None, None]
        np.add.at(grad_input, left, grad * (1 - share))
        np.add.at(grad_input, right, grad * share)
    return np.moveaxis(grad_input, 0, axis)


def interpolate(input, output_size, mode, align_corners, scales):
    """(N,C,H,W) -> (N,C,OH,OW)."""
    row_scale, col_scale = scales or (None, None)
    wide = resized(input, 3, output_size[1], mode, align_corners, col_scale)
    return resized(wide, 2, output_size[0], mode, align_corners, row_scale)


def interpolate_backward(grad_output, input_shape, mode, align_corners, scales):
    """(N,C,OH,OW) -> (N,C,H,W)."""
    row_scale, col_scale = scales or (None, None)
    wide = resized_backward(grad_output, 2, input_shape[2], mode, align_corners, row_scale)
    return resized_backward(wide, 3, input_shape[3], mode, align_corners, col_scale)
