"""1x1 convolutions with padding: what meets only padding is left out, and the rest is a layer without."""

from typing import Any

import numpy as np

NONE = ((0, 0), (0, 0))


def _inside(extent: int, count: int, step: int, before: int) -> tuple[int, int, int]:
    """Of `count` outputs along one side those that meet an input: from, to; and where the first of them meets it."""
    first = min(count, -(-before // step))
    return first, max(first, min(count, (extent - 1 + before) // step + 1)), first * step - before


def _cut(size: tuple, output_size: tuple, stride: tuple, padding: tuple) -> tuple[tuple, tuple]:
    """The outputs that meet an input, as an index, and the input from the first of them on, as another."""
    (top, bottom, h), (left, right, w) = (
        _inside(extent, count, step, pads[0]) for extent, count, step, pads in zip(size, output_size, stride, padding, strict=True)
    )
    return (slice(None), slice(None), slice(top, bottom), slice(left, right)), (slice(None), slice(None), slice(h, None), slice(w, None))


def _reached(input: Any, output: Any, stride: tuple) -> Any:
    """The input without the rows and columns behind the last that an output meets."""
    rows, columns = ((count - 1) * step + 1 for count, step in zip(output.shape[2:], stride, strict=True))
    return input[:, :, :rows, :columns]


def conv2d(input: Any, weight: Any, bias: Any, stride: tuple, padding: tuple, dilation: tuple, groups: int, out: Any = None) -> Any:
    """The padding's outputs are the bias; the others are a layer without padding."""
    from .select import run_first  # which imports this module

    size = tuple((extent + sum(pads) - 1) // step + 1 for extent, step, pads in zip(input.shape[2:], stride, padding, strict=True))
    if out is None:
        out = np.empty((len(input), len(weight), *size), input.dtype)
    out[...] = 0 if bias is None else bias[:, None, None]
    met, source = _cut(input.shape[2:], size, stride, padding)
    if out[met].size:
        part = _reached(input[source], out[met], stride)
        out[met] = run_first("conv2d", part, weight, bias, stride, NONE, dilation, groups, out=None)
    return out


def conv2d_grad_input(
    grad_output: Any, weight: Any, input_shape: tuple, stride: tuple, padding: tuple, dilation: tuple, groups: int, out: Any = None
) -> Any:
    from .select import run_first

    if out is None:
        out = np.empty(input_shape, grad_output.dtype)
    out.fill(0)
    met, source = _cut(input_shape[2:], grad_output.shape[2:], stride, padding)
    part = np.ascontiguousarray(grad_output[met])
    if part.size:
        out[source] = run_first("conv2d_grad_input", part, weight, out[source].shape, stride, NONE, dilation, groups, out=None)
    return out


def conv2d_grad_weight(
    grad_output: Any, input: Any, weight_shape: tuple, stride: tuple, padding: tuple, dilation: tuple, groups: int, out: Any = None
) -> Any:
    from .select import run_first

    met, source = _cut(input.shape[2:], grad_output.shape[2:], stride, padding)
    part = grad_output[met]
    if part.size:
        part, reached = np.ascontiguousarray(part), _reached(input[source], part, stride)
        return run_first("conv2d_grad_weight", part, reached, weight_shape, stride, NONE, dilation, groups, out=out)
    out = np.empty(weight_shape, input.dtype) if out is None else out
    out.fill(0)
    return out
