"""Padding and interpolation, one axis at a time: a kernel sees (outer, size, inner) and a thread makes one element of the result.

Both are linear maps. Backward gathers: an element of the input looks for the outputs that were made from it, in their order, so nothing is added by two
threads at once.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ._device import DeviceArray, blocks, empty, launch
from ._memory import SIMULATED, cuda

TILE = 8 if SIMULATED else 256  # elements of the result per block, one per thread

REFLECT, REPLICATE, CIRCULAR = 0, 1, 2
MODES = {"reflect": REFLECT, "replicate": REPLICATE, "circular": CIRCULAR}

Edges = tuple[tuple[int, int], ...]


@cuda.jit(device=True)
def indices(i, shape):
    """(outer, along the axis, inner) of element i of an array of this shape."""
    _, size, inner = shape
    return i // (size * inner), i // inner % size, i % inner


@cuda.jit(device=True)
def copied_from(o, size, before, mode):
    """The input position that padded position o copies."""
    p = o - before
    if mode == REFLECT:  # ... 2 1 | 0 1 2 ... size-1 | size-2 ...
        p = abs(p)
        return p - 2 * max(p - (size - 1), 0)
    if mode == REPLICATE:
        return min(max(p, 0), size - 1)
    return p % size


@cuda.jit
def pad_kernel(input, output, before, mode):
    i = cuda.grid(1)
    if i < output.size:
        n, o, k = indices(i, output.shape)
        output[n, o, k] = input[n, copied_from(o, input.shape[1], before, mode), k]


@cuda.jit
def pad_backward_kernel(grad_output, grad_input, before, mode):
    """An element was copied to its own place, and perhaps to places before and after the input."""
    size, padded = grad_input.shape[1], grad_output.shape[1]
    i = cuda.grid(1)
    if i < grad_input.size:
        n, s, k = indices(i, grad_input.shape)
        total = grad_input.dtype.type(0)
        for o in range(before):
            if copied_from(o, size, before, mode) == s:
                total += grad_output[n, o, k]
        total += grad_output[n, before + s, k]
        for o in range(before + size, padded):
            if copied_from(o, size, before, mode) == s:
                total += grad_output[n, o, k]
        grad_input[n, s, k] = total


@cuda.jit(device=True)
def nearest(o, size, ratio):
    """floor(o*ratio); the ratio is a float32 whatever the data, as in PyTorch."""
    return min(int(math.floor(np.float32(o) * ratio)), size - 1)


@cuda.jit(device=True)
def neighbours(o, size, ratio, align_corners):
    """(left, right, share): output o is left*(1 - share) + right*share."""
    half, zero, one = type(ratio)(0.5), type(ratio)(0), type(ratio)(1)
    position = type(ratio)(o) * ratio
    if not align_corners:
        position = max((type(ratio)(o) + half) * ratio - half, zero)
    left = min(int(position), size - 1)
    return left, min(left + 1, size - 1), min(max(position - type(ratio)(left), zero), one)


@cuda.jit
def nearest_kernel(input, output, ratio):
    i = cuda.grid(1)
    if i < output.size:
        n, o, k = indices(i, output.shape)
        output[n, o, k] = input[n, nearest(o, input.shape[1], ratio), k]


@cuda.jit
def linear_kernel(input, output, ratio, align_corners):
    i = cuda.grid(1)
    if i < output.size:
        n, o, k = indices(i, output.shape)
        left, right, share = neighbours(o, input.shape[1], ratio, align_corners)
        output[n, o, k] = input[n, left, k] * (type(ratio)(1) - share) + input[n, right, k] * share


@cuda.jit
def nearest_backward_kernel(grad_output, grad_input, ratio, reach):
    """The outputs made from element s lie at most `reach` from s/ratio."""
    size, large = grad_input.shape[1], grad_output.shape[1]
    i = cuda.grid(1)
    if i < grad_input.size:
        n, s, k = indices(i, grad_input.shape)
        total = grad_input.dtype.type(0)
        middle = int(type(ratio)(s) / ratio) if ratio > 0 else 0
        for o in range(max(middle - reach, 0), min(middle + reach + 1, large)):
            if nearest(o, size, ratio) == s:
                total += grad_output[n, o, k]
        if s == size - 1:  # positions beyond the end are cut to it
            for o in range(min(middle + reach + 1, large), large):
                total += grad_output[n, o, k]
        grad_input[n, s, k] = total


@cuda.jit
def linear_backward_kernel(grad_output, grad_input, ratio, align_corners, reach):
    size, large = grad_input.shape[1], grad_output.shape[1]
    i = cuda.grid(1)
    if i < grad_input.size:
        n, s, k = indices(i, grad_input.shape)
        total, one = grad_input.dtype.type(0), type(ratio)(1)
        middle = int(type(ratio)(s) / ratio) if ratio > 0 else 0
        first, last = max(middle - reach, 0), min(middle + reach + 1, large)
        if s == size - 1:
            last = large
        for o in range(first, last):
            left, right, share = neighbours(o, size, ratio, align_corners)
            if left == s:
                total += grad_output[n, o, k] * (one - share)
            if right == s:
                total += grad_output[n, o, k] * share
        grad_input[n, s, k] = total


def _three_axes(array: DeviceArray, axis: int) -> DeviceArray:
    return array.reshape(math.prod(array.shape[:axis]), array.shape[axis], math.prod(array.shape[axis + 1 :]))


def _along(kernel: Any, array: DeviceArray, axis: int, size: int, *options: Any) -> DeviceArray:
    """The array with `size` elements along axis, made by the kernel."""
    result = empty((*array.shape[:axis], size, *array.shape[axis + 1 :]), array.dtype)
    launch(kernel, blocks(result.size, TILE), TILE, _three_axes(array, axis), _three_axes(result, axis), *options)
    return result


def _kept(shape: tuple[int, ...], padding: Edges) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """Of constant padding: the part of the input that is kept, and where it lies in the output."""
    source = tuple(slice(max(0, -before), size - max(0, -after)) for size, (before, after) in zip(shape, padding, strict=True))
    target = tuple(
        slice(max(0, before), max(0, before) + part.stop - part.start) for part, (before, _) in zip(source, padding, strict=True)
    )
    return source, target


def pad(input: DeviceArray, padding: Edges, mode: str, value: float) -> DeviceArray:
    if mode == "constant":
        output = empty([size + before + after for size, (before, after) in zip(input.shape, padding, strict=True)], input.dtype)
        output.fill(value)
        source, target = _kept(input.shape, padding)
        output[target] = input[source]
        return output
    output = input
    for axis, (before, after) in enumerate(padding):
        if before or after:
            output = _along(pad_kernel, output, axis, output.shape[axis] + before + after, before, MODES[mode])
    return output if output is not input else input.copy()


def pad_backward(grad_output: DeviceArray, input_shape: tuple[int, ...], padding: Edges, mode: str) -> DeviceArray:
    if mode == "constant":
        grad_input = empty(input_shape, grad_output.dtype)
        grad_input.fill(0)
        source, target = _kept(tuple(input_shape), padding)
        grad_input[source] = grad_output[target]
        return grad_input
    grad = grad_output
    for axis, (before, after) in enumerate(padding):
        if before or after:
            grad = _along(pad_backward_kernel, grad, axis, input_shape[axis], before, MODES[mode])
    return grad if grad is not grad_output else grad_output.copy()


def _nearest_ratio(size: int, output_size: int, scale: float | None) -> np.float32:
    return np.float32(1 / scale) if scale is not None else np.float32(size) / np.float32(output_size)


def _linear_ratio(size: int, output_size: int, align_corners: bool, scale: float | None, kind: Any) -> Any:
    if align_corners:
        return kind((size - 1) / (output_size - 1) if output_size > 1 else 0.0)
    return kind(1 / scale if scale is not None else size / output_size)


def _reach(ratio: float, large: int) -> int:
    """How far from s/ratio the outputs made from element s can lie."""
    return min(math.ceil(2 / float(ratio)) + 2, large) if ratio > 0 else large


def interpolate(input: DeviceArray, output_size: tuple[int, int], mode: str, align_corners: bool, scales: Any) -> DeviceArray:
    for axis, large, scale in zip((3, 2), output_size[::-1], (scales or (None, None))[::-1], strict=True):
        size = input.shape[axis]
        if mode == "nearest":
            input = _along(nearest_kernel, input, axis, large, _nearest_ratio(size, large, scale))
        else:
            input = _along(linear_kernel, input, axis, large, _linear_ratio(size, large, align_corners, scale, input.dtype.type), align_corners)
    return input


def interpolate_backward(grad_output: DeviceArray, input_shape: tuple[int, ...], mode: str, align_corners: bool, scales: Any) -> DeviceArray:
    grad = grad_output
    for axis, scale in zip((2, 3), scales or (None, None), strict=True):
        size, large = input_shape[axis], grad.shape[axis]
        if mode == "nearest":
            ratio = _nearest_ratio(size, large, scale)
            grad = _along(nearest_backward_kernel, grad, axis, size, ratio, _reach(ratio, large))
        else:
            ratio = _linear_ratio(size, large, align_corners, scale, grad.dtype.type)
            grad = _along(linear_backward_kernel, grad, axis, size, ratio, align_corners, _reach(ratio, large))
    return grad


_F3 = "float32[:,:,::1]"
KERNELS: list[tuple[str, Any, str]] = [
    ("pad", pad_kernel, f"void({_F3}, {_F3}, int64, int64)"),
    ("pad_backward", pad_backward_kernel, f"void({_F3}, {_F3}, int64, int64)"),
    ("nearest", nearest_kernel, f"void({_F3}, {_F3}, float32)"),
    ("nearest_backward", nearest_backward_kernel, f"void({_F3}, {_F3}, float32, int64)"),
    ("linear_interpolation", linear_kernel, f"void({_F3}, {_F3}, float32, boolean)"),
    ("linear_interpolation_backward", linear_backward_kernel, f"void({_F3}, {_F3}, float32, boolean, int64)"),
]
