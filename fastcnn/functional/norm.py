"""Batch, layer and group normalisation, with their backwards: torch.nn.functional's names, order and defaults."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from ..backend import current
from ..options import flag, integer, number
from ..shapes import ShapeError
from ._check import alike, array, formatted, like, shape_text, wrong_shape

Three = tuple[np.ndarray, np.ndarray, np.ndarray]


def _four_axes(op: str, input: np.ndarray) -> np.ndarray:
    """(N, C, *) as (N, C, H, W), the shape that the primitives see."""
    if input.ndim == 4:
        shape = input.shape
    elif input.ndim < 2:
        raise ShapeError(f"{op}: input must have at least 2 axes (N, C, *), got {input.ndim}-D {shape_text(input.shape)}")
    else:
        shape = (*input.shape[:2], 1, prod(input.shape[2:]))
    if not shape[1]:
        raise ShapeError(f"{op}: input has shape {shape_text(input.shape)}; it needs at least 1 channel")
    return input if input.ndim == 4 else input.reshape(shape)


def _restored(result: np.ndarray, input: np.ndarray) -> np.ndarray:
    """result, made from the four axes, in input's shape and memory format."""
    return formatted(result if input.ndim == 4 else result.reshape(input.shape), input)


def _vector(value: Any, input: np.ndarray, op: str, name: str) -> np.ndarray | None:
    """A (C,) companion of input, or None."""
    if value is None:
        return None
    value = like(value, input, op, name)
    if value.shape != (input.shape[1],):
        wrong_shape(value.shape, (input.shape[1],), op, name, f"input {shape_text(input.shape)} has {input.shape[1]} channels")
    return value


def _eps(op: str, eps: Any) -> float:
    return eps if type(eps) is float and 0 <= eps else number(eps, op, "eps", 0)


def follow(running: Any, batch: np.ndarray, momentum: float, factor: float = 1.0) -> None:
    """running = (1 - momentum)*running + momentum*(factor*batch), in place, whatever its memory layout; on the device in one launch."""
    if isinstance(running, np.ndarray):
        running[...] = (1 - momentum) * running + momentum * (batch if factor == 1 else batch * factor)
    else:
        current().adopt(running).blend(1 - momentum, batch, momentum * factor)


def _update(running: Any, batch: np.ndarray, momentum: float, factor: float, op: str, name: str) -> None:
    if isinstance(running, np.ndarray) and not running.flags.writeable:
        raise ValueError(f"{op}: {name} is read-only but training updates it in place")
    follow(running, batch, momentum, factor)


def batch_norm(
    input: np.ndarray,
    running_mean: np.ndarray | None,
    running_var: np.ndarray | None,
    weight: np.ndarray | None = None,
    bias: np.ndarray | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
    *,
    return_stats: bool = False,
) -> np.ndarray | tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(input - mean)/sqrt(var + eps)*weight + bias per channel of (N, C, *).

    In training mean and (biased) var are the batch's, and running_mean and running_var, where given, are updated in place with weight momentum for the
    new value, the variance unbiased. In evaluation the running statistics are used. return_stats adds (mean, var), which backward accepts.
    """
    op = "batch_norm"
    input = array(input, op, "input")
    images = _four_axes(op, input)
    count = images.size // images.shape[1]
    running = _vector(running_mean, input, op, "running_mean"), _vector(running_var, input, op, "running_var")
    weight, bias = _vector(weight, input, op, "weight"), _vector(bias, input, op, "bias")
    momentum, eps = number(momentum, op, "momentum"), _eps(op, eps)
    if flag(training, op, "training"):
        if count == 1:
            raise ShapeError(f"{op}: input {shape_text(input.shape)} has 1 value per channel but training needs at least 2")
        output, mean, var = current().batch_norm(images, weight, bias, None, None, eps)
        if count:
            if running_mean is not None:
                _update(running_mean, mean, momentum, 1.0, op, "running_mean")
            if running_var is not None:
                _update(running_var, var, momentum, count / (count - 1), op, "running_var")
    else:
        for name, value in zip(("running_mean", "running_var"), running, strict=True):
            if value is None:
                raise ValueError(f"{op}: {name} must be given when training is False, got None")
        output, mean, var = current().batch_norm(images, weight, bias, *running, eps)
    output = _restored(output, input)
    return (output, mean, var) if return_stats else output


def batch_norm_backward(
    grad_output: np.ndarray,
    input: np.ndarray,
    running_mean: np.ndarray | None = None,
    running_var: np.ndarray | None = None,
    weight: np.ndarray | None = None,
    bias: np.ndarray | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
    *,
    mean: np.ndarray | None = None,
    var: np.ndarray | None = None,
) -> Three:
    """(grad_input, grad_weight, grad_bias) of batch_norm.

    mean, var: the forward's statistics (return_stats=True). Without them they are computed again from input in training, and are the running ones in
    evaluation. The running statistics are constants, not updated here; bias and momentum are accepted but not needed.
    """
    op = "batch_norm_backward"
    input = array(input, op, "input")
    images = _four_axes(op, input)
    grad_output = alike(grad_output, input, op, "grad_output")
    weight = _vector(weight, input, op, "weight")
    mean, var = _vector(mean, input, op, "mean"), _vector(var, input, op, "var")
    if (mean is None) != (var is None):
        raise ValueError(f"{op}: mean and var must be given together, got only {'var' if mean is None else 'mean'}")
    eps, training = _eps(op, eps), flag(training, op, "training")
    if mean is None and training:
        _, mean, var = current().batch_norm(images, None, None, None, None, eps)
    elif mean is None:
        mean, var = _vector(running_mean, input, op, "running_mean"), _vector(running_var, input, op, "running_var")
        for name, value in zip(("running_mean", "running_var"), (mean, var), strict=True):
            if value is None:
                raise ValueError(f"{op}: {name} (or mean and var) must be given when training is False, got None")
    grad_input, grad_weight, grad_bias = current().batch_norm_backward(
        grad_output.reshape(images.shape), images, weight, mean, var, eps, training
    )
    return _restored(grad_input, input), grad_weight, grad_bias


def _trailing(op: str, input: np.ndarray, normalized_shape: Any) -> tuple[int, ...]:
    """normalized_shape as a tuple of ints that ends input's shape."""
    if type(normalized_shape) is tuple and normalized_shape and input.shape[-len(normalized_shape) :] == normalized_shape:
        if all(type(n) is int and n > 0 for n in normalized_shape):
            return normalized_shape
    if not isinstance(normalized_shape, (tuple, list)):
        normalized_shape = (normalized_shape,)
    if not normalized_shape:
        raise ValueError(f"{op}: normalized_shape must name at least 1 axis, got {normalized_shape!r}")
    shape = tuple(integer(n, op, "normalized_shape", 1) for n in normalized_shape)
    if len(shape) > input.ndim or input.shape[input.ndim - len(shape) :] != shape:
        raise ShapeError(f"{op}: input {shape_text(input.shape)} does not end in normalized_shape {shape_text(shape)}")
    return shape


def _affine(value: Any, input: np.ndarray, shape: tuple[int, ...], op: str, name: str) -> np.ndarray | None:
    if value is None:
        return None
    value = like(value, input, op, name)
    if value.shape != shape:
        wrong_shape(value.shape, shape, op, name, f"normalized_shape is {shape_text(shape)}")
    return value


def layer_norm(
    input: np.ndarray,
    normalized_shape: int | tuple[int, ...],
    weight: np.ndarray | None = None,
    bias: np.ndarray | None = None,
    eps: float = 1e-5,
) -> np.ndarray:
    """(input - mean)/sqrt(var + eps)*weight + bias, statistics over the trailing axes normalized_shape."""
    op = "layer_norm"
    input = array(input, op, "input")
    shape = _trailing(op, input, normalized_shape)
    weight, bias = _affine(weight, input, shape, op, "weight"), _affine(bias, input, shape, op, "bias")
    return formatted(current().layer_norm(input, shape, weight, bias, _eps(op, eps)), input)


def layer_norm_backward(
    grad_output: np.ndarray,
    input: np.ndarray,
    normalized_shape: int | tuple[int, ...],
    weight: np.ndarray | None = None,
    bias: np.ndarray | None = None,
    eps: float = 1e-5,
) -> Three:
    """(grad_input, grad_weight, grad_bias) of layer_norm. bias is accepted but not needed."""
    op = "layer_norm_backward"
    input = array(input, op, "input")
    shape = _trailing(op, input, normalized_shape)
    grad_output = alike(grad_output, input, op, "grad_output")
    weight = _affine(weight, input, shape, op, "weight")
    grad_input, grad_weight, grad_bias = current().layer_norm_backward(grad_output, input, shape, weight, _eps(op, eps))
    return formatted(grad_input, input), grad_weight, grad_bias


def _groups(op: str, input: np.ndarray, num_groups: Any) -> int:
    groups = integer(num_groups, op, "num_groups", 1)
    if input.shape[1] % groups:
        raise ShapeError(f"{op}: num_groups {groups} does not divide the {input.shape[1]} channels of input {shape_text(input.shape)}")
    return groups


def group_norm(
    input: np.ndarray,
    num_groups: int,
    weight: np.ndarray | None = None,
    bias: np.ndarray | None = None,
    eps: float = 1e-5,
) -> np.ndarray:
    """(input - mean)/sqrt(var + eps)*weight[c] + bias[c], statistics per image over each of num_groups runs of channels of (N, C, *)."""
    op = "group_norm"
    input = array(input, op, "input")
    images = _four_axes(op, input)
    groups = _groups(op, input, num_groups)
    weight, bias = _vector(weight, input, op, "weight"), _vector(bias, input, op, "bias")
    return _restored(current().group_norm(images, groups, weight, bias, _eps(op, eps)), input)


def group_norm_backward(
    grad_output: np.ndarray,
    input: np.ndarray,
    num_groups: int,
    weight: np.ndarray | None = None,
    bias: np.ndarray | None = None,
    eps: float = 1e-5,
) -> Three:
    """(grad_input, grad_weight, grad_bias) of group_norm. bias is accepted but not needed."""
    op = "group_norm_backward"
    input = array(input, op, "input")
    images = _four_axes(op, input)
    groups = _groups(op, input, num_groups)
    grad_output = alike(grad_output, input, op, "grad_output")
    weight = _vector(weight, input, op, "weight")
    grad_input, grad_weight, grad_bias = current().group_norm_backward(
        grad_output.reshape(images.shape), images, groups, weight, _eps(op, eps)
    )
    return _restored(grad_input, input), grad_weight, grad_bias
