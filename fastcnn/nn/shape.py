"""Layers that move values without computing: Identity, Flatten, Unflatten; and Upsample."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np

from fastcnn import functional as F
from fastcnn.nn.module import Module
from fastcnn.options import MAX_INT, as_given, choice, flag, integer, number, pair
from fastcnn.shapes import ShapeError, by


class Identity(Module):
    """The input itself; arguments are accepted and ignored, so that it can stand in for any layer."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        del args, kwargs

    def forward(self, input: np.ndarray) -> np.ndarray:
        return input

    def backward(self, grad_output: np.ndarray) -> np.ndarray:
        return grad_output


class _Reshape(Module):
    """Layers whose backward gives the gradient the input's shape back. Both directions are views where strides allow."""

    def _reshape(self, input: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        self.save_for_backward(input.shape, shape)
        return input.reshape(shape)

    def backward(self, grad_output: np.ndarray) -> np.ndarray:
        input_shape, output_shape = self.saved_for_backward()
        if grad_output.shape != output_shape:
            raise ShapeError(f"{type(self).__name__.lower()}: grad_output is {by(grad_output.shape)} but the output is {by(output_shape)}")
        return grad_output.reshape(input_shape)


def _axis(dim: int, ndim: int, op: str, name: str, shape: tuple[int, ...]) -> int:
    if not -ndim <= dim < ndim:
        raise ShapeError(f"{op}: {name} {dim} is out of range for an input with {ndim} axes ({by(shape) or 'a scalar'})")
    return dim % ndim


class Flatten(_Reshape):
    """Axes start_dim to end_dim, both included, as one, in (C, H, W) order whatever the memory format."""

    def __init__(self, start_dim: int = 1, end_dim: int = -1) -> None:
        self.start_dim, self.end_dim = integer(start_dim, "Flatten", "start_dim", -MAX_INT), integer(end_dim, "Flatten", "end_dim", -MAX_INT)

    def forward(self, input: np.ndarray) -> np.ndarray:
        shape = input.shape
        start = _axis(self.start_dim, max(input.ndim, 1), "flatten", "start_dim", shape)
        end = _axis(self.end_dim, max(input.ndim, 1), "flatten", "end_dim", shape)
        if start > end:
            raise ShapeError(f"flatten: start_dim {self.start_dim} comes after end_dim {self.end_dim} in {by(shape)}")
        return self._reshape(input, (*shape[:start], prod(shape[start : end + 1]), *shape[end + 1 :]))

    def extra_repr(self) -> str:
        return f"start_dim={self.start_dim}, end_dim={self.end_dim}"


class Unflatten(_Reshape):
    """Axis dim split into unflattened_size; one of its numbers may be -1."""

    def __init__(self, dim: int, unflattened_size: Sequence[int]) -> None:
        if not isinstance(unflattened_size, (tuple, list)):
            raise TypeError(f"Unflatten: unflattened_size must be a tuple of ints, got {type(unflattened_size).__name__} {unflattened_size!r}")
        self.dim = integer(dim, "Unflatten", "dim", -MAX_INT)
        self.unflattened_size = tuple(integer(size, "Unflatten", "unflattened_size", -MAX_INT) for size in unflattened_size)
        if not self.unflattened_size or self.unflattened_size.count(-1) > 1 or min(self.unflattened_size) < -1:
            raise ShapeError(f"Unflatten: unflattened_size must be sizes of which one may be -1, got {self.unflattened_size}")

    def forward(self, input: np.ndarray) -> np.ndarray:
        shape = input.shape
        dim = _axis(self.dim, input.ndim, "unflatten", "dim", shape)
        known = prod(size for size in self.unflattened_size if size != -1)
        rest = shape[dim] // known if known else 0
        sizes = tuple(rest if size == -1 else size for size in self.unflattened_size)
        if prod(sizes) != shape[dim]:
            raise ShapeError(f"unflatten: {self.unflattened_size} does not fit axis {dim} of {by(shape)}, which has {shape[dim]} elements")
        return self._reshape(input, (*shape[:dim], *sizes, *shape[dim + 1 :]))

    def extra_repr(self) -> str:
        return f"dim={self.dim}, unflattened_size={self.unflattened_size}"


def _scale_factor(value: Any) -> float | tuple[float, ...] | None:
    """A float, two of them, or None."""
    if isinstance(value, (tuple, list)):
        if len(value) != 2:
            raise ValueError(f"Upsample: scale_factor must be a number or a pair, got {len(value)} values {value!r}")
        return tuple(number(factor, "Upsample", "scale_factor", 0) for factor in value)
    return None if value is None else number(value, "Upsample", "scale_factor", 0)


class Upsample(Module):
    """Images (N, C, H, W) resized to size or by scale_factor; mode "nearest" or "bilinear"."""

    def __init__(
        self,
        size: int | tuple[int, int] | None = None,
        scale_factor: float | tuple[float, float] | None = None,
        mode: str = "nearest",
        align_corners: bool | None = None,
        recompute_scale_factor: bool | None = None,
    ) -> None:
        if (size is None) == (scale_factor is None):
            raise ValueError(f"Upsample: give size or scale_factor, one of them, got {size} and {scale_factor}")
        self.size = None if size is None else as_given(size, pair(size, "Upsample", "size", 1))
        self.mode = choice(mode, "Upsample", "mode", ("nearest", "bilinear"))
        self.align_corners = None if align_corners is None else flag(align_corners, "Upsample", "align_corners")
        self.recompute_scale_factor = None if recompute_scale_factor is None else flag(recompute_scale_factor, "Upsample", "recompute_scale_factor")
        self.scale_factor = _scale_factor(scale_factor)

    def _options(self) -> tuple:
        return self.size, self.scale_factor, self.mode, self.align_corners, self.recompute_scale_factor

    def forward(self, input: np.ndarray) -> np.ndarray:
        output = F.interpolate(input, *self._options())
        self.save_for_backward(input)
        return output

    def backward(self, grad_output: np.ndarray) -> np.ndarray:
        (input,) = self.saved_for_backward()
        return F.interpolate_backward(grad_output, input, *self._options())

    def extra_repr(self) -> str:
        what = f"size={self.size}" if self.scale_factor is None else f"scale_factor={self.scale_factor}"
        return f"{what}, mode={self.mode!r}"
