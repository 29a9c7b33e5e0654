"""pad and interpolate, with their backwards: torch.nn.functional's names, order and defaults."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..backend import current
from ..options import MAX_INT, choice, flag, integer, number, pair
from ..shapes import ShapeError, by, check_bytes
from ._check import array, formatted, shape_text, shaped

_PAD_MODES = ("constant", "reflect", "replicate", "circular")


def _edges(op: str, input: np.ndarray, padding: Any, mode: str) -> tuple[tuple[int, int], ...]:
    """torch's (left, right, top, bottom, ...), last axis first, as ((before, after), ...) per axis."""
    if not isinstance(padding, (tuple, list)):
        raise TypeError(f"{op}: pad must be a tuple of ints, got {type(padding).__name__} {padding!r}")
    if len(padding) % 2 or len(padding) > 2 * input.ndim:
        raise ValueError(f"{op}: pad must hold 2 ints per padded axis, at most {2 * input.ndim} for {input.ndim}-D input, got {len(padding)} in {padding!r}")
    lowest = -MAX_INT if mode == "constant" else 0
    numbers = [integer(n, op, "pad", lowest) for n in padding]
    edges = [(0, 0)] * input.ndim
    for i in range(0, len(numbers), 2):
        before, after = numbers[i], numbers[i + 1]
        axis = input.ndim - 1 - i // 2
        size = input.shape[axis]
        if mode != "constant" and max(before, after) > (size - 1 if mode == "reflect" else size if mode == "circular" else MAX_INT):
            raise ShapeError(f"{op}: pad ({before}, {after}) is too large for mode {mode!r} and the {size} elements of axis {axis}")
        if mode == "replicate" and not size and (before or after):
            raise ShapeError(f"{op}: pad ({before}, {after}) in mode 'replicate' finds 0 elements in axis {axis}")
        if size + before + after < 0 or min(before, 0) + min(after, 0) + size < 0:
            raise ShapeError(f"{op}: pad ({before}, {after}) crops more than the {size} elements of axis {axis}")
        edges[axis] = (before, after)
    check_bytes(op, [size + before + after for size, (before, after) in zip(input.shape, edges, strict=True)], 8)
    return tuple(edges)


def _fill(op: str, mode: str, value: Any) -> float:
    if value is None:
        return 0.0
    if mode != "constant":
        raise ValueError(f"{op}: value must be None for mode {mode!r}, got {value!r}")
    return number(value, op, "value")


def pad(input: np.ndarray, pad: tuple[int, ...], mode: str = "constant", value: float | None = None) -> np.ndarray:
    """input with its last axes extended by pad = (left, right, top, bottom, ...), last axis first.

    mode "constant" fills with value (0) and crops where a number is negative; "reflect", "replicate" and "circular" copy from the input.
    """
    input = array(input, "pad", "input")
    mode = choice(mode, "pad", "mode", _PAD_MODES)
    edges, value = _edges("pad", input, pad, mode), _fill("pad", mode, value)
    return formatted(current().pad(input, edges, mode, value), input)


def pad_backward(
    grad_output: np.ndarray, input: np.ndarray, pad: tuple[int, ...], mode: str = "constant", value: float | None = None
) -> np.ndarray:
    """grad_input of pad."""
    op = "pad_backward"
    input = array(input, op, "input")
    mode = choice(mode, op, "mode", _PAD_MODES)
    edges, _ = _edges(op, input, pad, mode), _fill(op, mode, value)
    shape = tuple(size + before + after for size, (before, after) in zip(input.shape, edges, strict=True))
    grad_output = shaped(grad_output, input, shape, op, "grad_output", "it must be like the output of pad")
    return formatted(current().pad_backward(grad_output, input.shape, edges, mode), input)


def _factors(op: str, scale_factor: Any) -> tuple[float, float]:
    """scale_factor as a pair of positive floats."""
    if isinstance(scale_factor, (tuple, list)):
        if len(scale_factor) != 2:
            raise ValueError(f"{op}: scale_factor must be a number or a pair, got {len(scale_factor)} values {scale_factor!r}")
    else:
        scale_factor = (scale_factor, scale_factor)
    factors = tuple(number(factor, op, "scale_factor") for factor in scale_factor)
    if not all(0 < factor < MAX_INT for factor in factors):
        raise ValueError(f"{op}: scale_factor must be positive and at most {MAX_INT}, got {scale_factor!r}")
    return factors  # type: ignore[return-value]


def _resize(op: str, input: Any, size: Any, scale_factor: Any, mode: Any, align_corners: Any, recompute: Any) -> tuple:
    """(input, (OH, OW), mode, align_corners, scales)."""
    input = array(input, op, "input")
    if input.ndim != 4:
        raise ShapeError(f"{op}: input must be 4-D (N, C, H, W), got {input.ndim}-D {shape_text(input.shape)}")
    N, C, H, W = input.shape
    if not (C and H and W):
        raise ShapeError(f"{op}: input has shape {shape_text(input.shape)}; only the batch size may be 0")
    mode = choice(mode, op, "mode", ("nearest", "bilinear"))
    if align_corners is not None and mode == "nearest":
        raise ValueError(f"{op}: align_corners must be None for mode 'nearest', got {align_corners!r}")
    align_corners = False if align_corners is None else flag(align_corners, op, "align_corners")
    if (size is None) == (scale_factor is None):
        raise ValueError(f"{op}: give either size or scale_factor, got size={size!r} and scale_factor={scale_factor!r}")
    recompute = False if recompute is None else flag(recompute, op, "recompute_scale_factor")
    if size is not None:
        if recompute:
            raise ValueError(f"{op}: recompute_scale_factor=True needs scale_factor, got size={size!r}")
        output_size, scales = pair(size, op, "size", 1), None
    else:
        scales = _factors(op, scale_factor)
        output_size = int(H * scales[0]), int(W * scales[1])
        if not (output_size[0] and output_size[1]):
            raise ShapeError(f"{op}: scale_factor {scale_factor!r} shrinks {H}x{W} to {by(output_size)}")
        # PyTorch copies an axis that keeps its size, and doubles exactly one that doubles, whatever the factor's fraction.
        exact = (1, 2) if mode == "nearest" else (1,)
        ratios = (output_size[0] / H, output_size[1] / W)
        scales = None if recompute else tuple(r if r in exact else s for r, s in zip(ratios, scales, strict=True))
    check_bytes(op, (N or 1, C, *output_size), 8)
    return input, output_size, mode, align_corners, scales


def interpolate(
    input: np.ndarray,
    size: int | tuple[int, int] | None = None,
    scale_factor: float | tuple[float, float] | None = None,
    mode: str = "nearest",
    align_corners: bool | None = None,
    recompute_scale_factor: bool | None = None,
) -> np.ndarray:
    """(N,C,H,W) resized to size, or to floor(H*factor) x floor(W*factor), by "nearest" or "bilinear" interpolation.

    align_corners puts the corner pixels' centres (instead of their outer edges) on top of each other. A scale_factor is used for the positions as given,
    unless recompute_scale_factor takes the true ratio of the sizes.
    """
    input, *options = _resize("interpolate", input, size, scale_factor, mode, align_corners, recompute_scale_factor)
    return formatted(current().interpolate(input, *options), input)


def interpolate_backward(
    grad_output: np.ndarray,
    input: np.ndarray,
    size: int | tuple[int, int] | None = None,
    scale_factor: float | tuple[float, float] | None = None,
    mode: str = "nearest",
    align_corners: bool | None = None,
    recompute_scale_factor: bool | None = None,
) -> np.ndarray:
    """grad_input of interpolate."""
    op = "interpolate_backward"
    input, output_size, *options = _resize(op, input, size, scale_factor, mode, align_corners, recompute_scale_factor)
    shape = (*input.shape[:2], *output_size)
    grad_output = shaped(grad_output, input, shape, op, "grad_output", "it must be like the output of interpolate")
    return formatted(current().interpolate_backward(grad_output, input.shape, *options), input)
