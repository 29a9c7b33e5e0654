"""Pooling, unfold and fold, with their backwards: torch.nn.functional's names, order and defaults."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..backend import current, on_device
from ..options import choice, flag, integer, pair
from ..shapes import ShapeError, by, check_bytes, conv2d_output_size, pool2d_output_size
from ._check import array, batched, formatted, images, of_dtype, shape_text
from ._layout import in_nhwc

PairLike = int | tuple[int, int]
_INT8, _INT64 = np.dtype(np.int8), np.dtype(np.int64)
_MATCH = "it must be like the output of {}"


def _window(op: str, input: np.ndarray, kernel_size: Any, stride: Any, padding: Any, dilation: Any, ceil_mode: Any) -> tuple:
    """(kernel, stride, padding, dilation, (OH, OW)) of a pool, normalised."""
    kernel = pair(kernel_size, op, "kernel_size", 1)
    stride = kernel if stride is None else pair(stride, op, "stride", 1)
    padding, dilation = pair(padding, op, "padding", 0), pair(dilation, op, "dilation", 1)
    N, C, H, W = input.shape
    output_size = pool2d_output_size((H, W), kernel, stride, padding, dilation, flag(ceil_mode, op, "ceil_mode"), op)
    check_bytes(op, (N or 1, C, H + 2 * padding[0] + kernel[0], W + 2 * padding[1] + kernel[1]), 8, "the padded input")
    return kernel, stride, padding, dilation, output_size


def _unbatch(result: np.ndarray, input: np.ndarray, unbatched: bool) -> np.ndarray:
    """result in input's memory format, without the batch axis if the input had none."""
    result = formatted(result, input)
    return result[0] if unbatched else result


def max_pool2d(
    input: np.ndarray,
    kernel_size: PairLike,
    stride: PairLike | None = None,
    padding: PairLike = 0,
    dilation: PairLike = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
    *,
    return_places: bool = False,
    layout: str = "NCHW",
) -> np.ndarray | tuple[np.ndarray, np.ndarray]:
    """Window maxima, (N,C,H,W) or (C,H,W) -> (N,C,OH,OW) or (C,OH,OW); with return_indices also their int64 positions h*W + w.

    return_places instead: their places in their windows, kh*KW + kw, int8 (as return_indices for windows of more than 127 pixels): an eighth of the
    memory, and all that max_pool2d_backward needs. stride defaults to kernel_size. The first maximum wins a tie; NaN propagates; padding never wins.
    layout "NHWC": channels last, in and out.
    """
    if layout != "NCHW":
        options = {"kernel_size": kernel_size, "stride": stride, "padding": padding, "dilation": dilation, "ceil_mode": ceil_mode}
        return in_nhwc(max_pool2d, "max_pool2d", layout, {"input": input}, return_indices=return_indices, return_places=return_places, **options)
    input, unbatched = images(input, "max_pool2d", "input")
    options = _window("max_pool2d", input, kernel_size, stride, padding, dilation, ceil_mode)
    wants_indices, wants_places = flag(return_indices, "max_pool2d", "return_indices"), flag(return_places, "max_pool2d", "return_places")
    if wants_indices and wants_places:
        raise ValueError("max_pool2d: return_indices and return_places are both True; one of them tells where the maxima are")
    output, winners = current().max_pool2d(input, *options, "indices" if wants_indices else "places" if wants_places else None)
    if winners is None:
        return _unbatch(output, input, unbatched)
    return _unbatch(output, input, unbatched), _unbatch(winners, input, unbatched)


def _checked_indices(op: str, indices: Any, unbatched: bool, shape: tuple[int, ...], plane: tuple[int, int]) -> np.ndarray:
    """Indices given by the caller: the right shape, int64, and inside the plane, because backends write where they point."""
    indices = of_dtype(indices, op, "indices", _INT64, "an int64 array, as max_pool2d returns it")
    indices = indices[None] if unbatched else indices
    if indices.shape != shape:
        raise ShapeError(f"{op}: indices has shape {shape_text(indices.shape)} but the output of the pool is {shape_text(shape)}")
    if on_device(indices):  # its backend looks for a pixel among them, and writes nowhere else
        return indices
    if indices.size and not (0 <= indices.min() and indices.max() < plane[0] * plane[1]):
        wrong = indices.min() if indices.min() < 0 else indices.max()
        raise ValueError(f"{op}: indices holds {wrong} but a plane of {by(plane)} has positions 0 to {plane[0] * plane[1] - 1}")
    return indices if indices.dtype.isnative and indices.flags.aligned else indices.astype(np.int64)


def _checked_places(places: Any, unbatched: bool, shape: tuple[int, ...]) -> np.ndarray:
    """Places given by the caller. Backends write nothing for one that lies in no window."""
    op = "max_pool2d_backward"
    places = of_dtype(places, op, "places", _INT8, "an int8 array, or an int64 one for windows of more than 127 pixels, as max_pool2d returns it")
    places = places[None] if unbatched else places
    if places.shape != shape:
        raise ShapeError(f"{op}: places has shape {shape_text(places.shape)} but the output of the pool is {shape_text(shape)}")
    return places


def max_pool2d_backward(
    grad_output: np.ndarray,
    input: np.ndarray,
    kernel_size: PairLike,
    stride: PairLike | None = None,
    padding: PairLike = 0,
    dilation: PairLike = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
    *,
    return_places: bool = False,
    indices: np.ndarray | None = None,
    places: np.ndarray | None = None,
    ties: str = "first",
    accumulate: bool = True,
    layout: str = "NCHW",
) -> np.ndarray:
    """grad_input of max_pool2d. return_indices and return_places are accepted and not needed.

    indices, places   either of the forward pass (found again without them); not looked at with other `ties` than "first", or with accumulate=False
    ties        "first": the whole gradient to the first maximum of a window, as PyTorch; "all": the whole gradient to every tied maximum;
                "split": the gradient in equal parts to the tied maxima. A window with a NaN gives it to the last NaN ("first") or to nobody
    accumulate  where windows overlap: True adds their gradients, the derivative; False leaves that of the last window, in reading order
    """
    op = "max_pool2d_backward"
    if layout != "NCHW":
        options = {"kernel_size": kernel_size, "stride": stride, "padding": padding, "dilation": dilation, "ceil_mode": ceil_mode}
        arrays = {"grad_output": grad_output, "input": input, "indices": indices, "places": places}
        return in_nhwc(max_pool2d_backward, op, layout, arrays, ties=ties, accumulate=accumulate, **options)
    input, unbatched = images(input, op, "input")
    kernel, stride, padding, dilation, output_size = _window(op, input, kernel_size, stride, padding, dilation, ceil_mode)
    shape = (*input.shape[:2], *output_size)
    grad_output = batched(grad_output, unbatched, input, shape, op, "grad_output", _MATCH.format("max_pool2d"))
    if choice(ties, op, "ties", ("first", "all", "split")) != "first" or not flag(accumulate, op, "accumulate"):
        spread = current().max_pool2d_backward_ties(grad_output, input, kernel, stride, padding, dilation, ties, flag(accumulate, op, "accumulate"))
        return _unbatch(spread, input, unbatched)
    if indices is not None and places is not None:
        raise ValueError(f"{op}: indices and places are both given; one of them tells where the maxima are")
    if getattr(places, "dtype", None) == _INT64:
        indices, places = places, None
    if indices is not None:
        indices = _checked_indices(op, indices, unbatched, shape, input.shape[2:])
    elif places is not None:
        places = _checked_places(places, unbatched, shape)
    else:
        _, places = current().max_pool2d(input, kernel, stride, padding, dilation, output_size, "places")
        if places.dtype == np.int64:
            indices = places
    if indices is not None:
        return _unbatch(current().max_pool2d_backward(grad_output, indices, input.shape), input, unbatched)
    return _unbatch(current().max_pool2d_backward_places(grad_output, places, input.shape, kernel, stride, padding, dilation), input, unbatched)


def _divisor(op: str, divisor_override: Any) -> int | None:
    if divisor_override is None:
        return None
    value = integer(divisor_override, op, "divisor_override", -(2**31))
    if not value:
        raise ValueError(f"{op}: divisor_override must not be 0, got {divisor_override!r}")
    return value


def avg_pool2d(
    input: np.ndarray,
    kernel_size: PairLike,
    stride: PairLike | None = None,
    padding: PairLike = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
    *,
    layout: str = "NCHW",
) -> np.ndarray:
    """Window means, (N,C,H,W) or (C,H,W) -> (N,C,OH,OW) or (C,OH,OW).

    The divisor is divisor_override, or the window's pixels within the padded (count_include_pad) or the unpadded input.
    layout "NHWC": channels last, in and out.
    """
    op = "avg_pool2d"
    if layout != "NCHW":
        options = {"kernel_size": kernel_size, "stride": stride, "padding": padding, "ceil_mode": ceil_mode}
        counts = {"count_include_pad": count_include_pad, "divisor_override": divisor_override}
        return in_nhwc(avg_pool2d, op, layout, {"input": input}, **options, **counts)
    input, unbatched = images(input, op, "input")
    kernel, stride, padding, _, output_size = _window(op, input, kernel_size, stride, padding, 1, ceil_mode)
    include = flag(count_include_pad, op, "count_include_pad")
    output = current().avg_pool2d(input, kernel, stride, padding, output_size, include, _divisor(op, divisor_override))
    return _unbatch(output, input, unbatched)


def avg_pool2d_backward(
    grad_output: np.ndarray,
    input: np.ndarray,
    kernel_size: PairLike,
    stride: PairLike | None = None,
    padding: PairLike = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
    *,
    layout: str = "NCHW",
) -> np.ndarray:
    """grad_input of avg_pool2d."""
    op = "avg_pool2d_backward"
    if layout != "NCHW":
        options = {"kernel_size": kernel_size, "stride": stride, "padding": padding, "ceil_mode": ceil_mode}
        counts = {"count_include_pad": count_include_pad, "divisor_override": divisor_override}
        return in_nhwc(avg_pool2d_backward, op, layout, {"grad_output": grad_output, "input": input}, **options, **counts)
    input, unbatched = images(input, op, "input")
    kernel, stride, padding, _, output_size = _window(op, input, kernel_size, stride, padding, 1, ceil_mode)
    shape = (*input.shape[:2], *output_size)
    grad_output = batched(grad_output, unbatched, input, shape, op, "grad_output", _MATCH.format("avg_pool2d"))
    include, divisor = flag(count_include_pad, op, "count_include_pad"), _divisor(op, divisor_override)
    grad_input = current().avg_pool2d_backward(grad_output, input.shape, kernel, stride, padding, include, divisor)
    return _unbatch(grad_input, input, unbatched)


def _adaptive_size(op: str, input: np.ndarray, output_size: Any) -> tuple[int, int]:
    """(OH, OW); None keeps an axis as it is."""
    if isinstance(output_size, (tuple, list)) and len(output_size) == 2:
        output_size = tuple(input.shape[2 + i] if n is None else n for i, n in enumerate(output_size))
    output_size = pair(output_size, op, "output_size", 1)
    check_bytes(op, (len(input) or 1, input.shape[1], *output_size), 8)
    return output_size


def adaptive_avg_pool2d(input: np.ndarray, output_size: int | tuple[int | None, int | None], *, layout: str = "NCHW") -> np.ndarray:
    """Means over windows that cover the input evenly, (N,C,H,W) or (C,H,W) -> (N,C,OH,OW) or (C,OH,OW). layout "NHWC": channels last, in and out."""
    if layout != "NCHW":
        return in_nhwc(adaptive_avg_pool2d, "adaptive_avg_pool2d", layout, {"input": input}, output_size=output_size)
    input, unbatched = images(input, "adaptive_avg_pool2d", "input")
    size = _adaptive_size("adaptive_avg_pool2d", input, output_size)
    return _unbatch(current().adaptive_avg_pool2d(input, size), input, unbatched)


def adaptive_avg_pool2d_backward(
    grad_output: np.ndarray, input: np.ndarray, output_size: int | tuple[int | None, int | None], *, layout: str = "NCHW"
) -> np.ndarray:
    """grad_input of adaptive_avg_pool2d."""
    op = "adaptive_avg_pool2d_backward"
    if layout != "NCHW":
        return in_nhwc(adaptive_avg_pool2d_backward, op, layout, {"grad_output": grad_output, "input": input}, output_size=output_size)
    input, unbatched = images(input, op, "input")
    shape = (*input.shape[:2], *_adaptive_size(op, input, output_size))
    grad_output = batched(grad_output, unbatched, input, shape, op, "grad_output", _MATCH.format("adaptive_avg_pool2d"))
    return _unbatch(current().adaptive_avg_pool2d_backward(grad_output, input.shape), input, unbatched)


def adaptive_max_pool2d(
    input: np.ndarray, output_size: int | tuple[int | None, int | None], return_indices: bool = False, *, layout: str = "NCHW"
) -> np.ndarray | tuple[np.ndarray, np.ndarray]:
    """Maxima over windows that cover the input evenly; with return_indices also their int64 positions h*W + w. layout "NHWC": channels last, in and out."""
    op = "adaptive_max_pool2d"
    if layout != "NCHW":
        return in_nhwc(adaptive_max_pool2d, op, layout, {"input": input}, output_size=output_size, return_indices=return_indices)
    input, unbatched = images(input, op, "input")
    wants_indices = flag(return_indices, op, "return_indices")
    output, indices = current().adaptive_max_pool2d(input, _adaptive_size(op, input, output_size), "indices" if wants_indices else None)
    if indices is None:
        return _unbatch(output, input, unbatched)
    return _unbatch(output, input, unbatched), _unbatch(indices, input, unbatched)


def adaptive_max_pool2d_backward(
    grad_output: np.ndarray,
    input: np.ndarray,
    output_size: int | tuple[int | None, int | None],
    return_indices: bool = False,
    *,
    indices: np.ndarray | None = None,
    layout: str = "NCHW",
) -> np.ndarray:
    """grad_input of adaptive_max_pool2d. indices: those of the forward pass (recomputed if None)."""
    op = "adaptive_max_pool2d_backward"
    if layout != "NCHW":
        arrays = {"grad_output": grad_output, "input": input, "indices": indices}
        return in_nhwc(adaptive_max_pool2d_backward, op, layout, arrays, output_size=output_size)
    input, unbatched = images(input, op, "input")
    size = _adaptive_size(op, input, output_size)
    shape = (*input.shape[:2], *size)
    grad_output = batched(grad_output, unbatched, input, shape, op, "grad_output", _MATCH.format("adaptive_max_pool2d"))
    if indices is None:
        _, indices = current().adaptive_max_pool2d(input, size, "indices")
    else:
        indices = _checked_indices(op, indices, unbatched, shape, input.shape[2:])
    return _unbatch(current().max_pool2d_backward(grad_output, indices, input.shape), input, unbatched)


def _columns(op: str, size: tuple[int, int], kernel_size: Any, dilation: Any, padding: Any, stride: Any) -> tuple:
    """(kernel, dilation, padding, stride, (OH, OW)) of unfold and fold, normalised."""
    kernel, dilation = pair(kernel_size, op, "kernel_size", 1), pair(dilation, op, "dilation", 1)
    (PH, PW), stride = pair(padding, op, "padding", 0), pair(stride, op, "stride", 1)
    output_size = conv2d_output_size(size, kernel, stride, ((PH, PH), (PW, PW)), dilation, op)
    return kernel, dilation, (PH, PW), stride, output_size


def _unfolded(op: str, input: np.ndarray, *window: Any) -> tuple:
    """_columns' options and the shape of unfold's result."""
    N, C, H, W = input.shape
    *options, (OH, OW) = _columns(op, (H, W), *window)
    KH, KW = options[0]
    check_bytes(op, (N or 1, C * KH * KW, OH * OW), 8)
    return options, (N, C * KH * KW, OH * OW)


def unfold(
    input: np.ndarray, kernel_size: PairLike, dilation: PairLike = 1, padding: PairLike = 0, stride: PairLike = 1
) -> np.ndarray:
    """Windows as columns (im2col), (N,C,H,W) or (C,H,W) -> (N, C*KH*KW, OH*OW) or (C*KH*KW, OH*OW)."""
    input, unbatched = images(input, "unfold", "input")
    options, _ = _unfolded("unfold", input, kernel_size, dilation, padding, stride)
    return _unbatch(current().unfold(input, *options), input, unbatched)


def unfold_backward(
    grad_output: np.ndarray,
    input: np.ndarray,
    kernel_size: PairLike,
    dilation: PairLike = 1,
    padding: PairLike = 0,
    stride: PairLike = 1,
) -> np.ndarray:
    """grad_input of unfold: fold."""
    op = "unfold_backward"
    input, unbatched = images(input, op, "input")
    options, shape = _unfolded(op, input, kernel_size, dilation, padding, stride)
    grad_output = batched(grad_output, unbatched, input, shape, op, "grad_output", _MATCH.format("unfold"))
    return _unbatch(current().fold(grad_output, input.shape[2:], *options), input, unbatched)


def _folded(op: str, input: Any, output_size: Any, *window: Any) -> tuple:
    """input as (N, C*KH*KW, OH*OW), whether it came without N, the image size and _columns' options."""
    input = array(input, op, "input")
    if input.ndim not in (2, 3):
        raise ShapeError(f"{op}: input must be 3-D (N, C*KH*KW, L) or 2-D (C*KH*KW, L), got {input.ndim}-D {shape_text(input.shape)}")
    unbatched = input.ndim == 2
    input = input[None] if unbatched else input
    size = pair(output_size, op, "output_size", 1)
    *options, (OH, OW) = _columns(op, size, *window)
    KH, KW = options[0]
    if input.shape[1] == 0 or input.shape[1] % (KH * KW):
        raise ShapeError(f"{op}: input has {input.shape[1]} rows, not a multiple of the {KH * KW} taps of kernel_size {KH}x{KW}")
    if input.shape[2] != OH * OW:
        raise ShapeError(f"{op}: input has {input.shape[2]} columns but output_size {by(size)} has {OH}x{OW} = {OH * OW} windows")
    check_bytes(op, (len(input) or 1, input.shape[1] // (KH * KW), size[0] + 2 * options[2][0], size[1] + 2 * options[2][1]), 8)
    return input, unbatched, size, options


def fold(
    input: np.ndarray,
    output_size: PairLike,
    kernel_size: PairLike,
    dilation: PairLike = 1,
    padding: PairLike = 0,
    stride: PairLike = 1,
) -> np.ndarray:
    """Columns added up to images (col2im), (N, C*KH*KW, L) or (C*KH*KW, L) -> (N,C,H,W) or (C,H,W), (H,W) = output_size."""
    input, unbatched, size, options = _folded("fold", input, output_size, kernel_size, dilation, padding, stride)
    return _unbatch(current().fold(input, size, *options), input, unbatched)


def fold_backward(
    grad_output: np.ndarray,
    input: np.ndarray,
    output_size: PairLike,
    kernel_size: PairLike,
    dilation: PairLike = 1,
    padding: PairLike = 0,
    stride: PairLike = 1,
) -> np.ndarray:
    """grad_input of fold: unfold."""
    op = "fold_backward"
    input, unbatched, size, options = _folded(op, input, output_size, kernel_size, dilation, padding, stride)
    shape = (len(input), input.shape[1] // (options[0][0] * options[0][1]), *size)
    grad_output = batched(grad_output, unbatched, input, shape, op, "grad_output", _MATCH.format("fold"))
    return _unbatch(current().unfold(grad_output, *options), input, unbatched)
