"""linear and its backward."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..backend import current
from ..shapes import ShapeError, check_bytes
from ._check import array, contiguous, like, mask3, shape_text, shaped, wrong_shape


def _matrix(op: str, input: np.ndarray, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """input as (M, in_features), weight checked against it."""
    input = array(input, op, "input")
    weight = like(weight, input, op, "weight")
    if weight.ndim != 2:
        raise ShapeError(f"{op}: weight must be 2-D (out_features, in_features), got {weight.ndim}-D {shape_text(weight.shape)}")
    if not input.ndim:
        raise ShapeError(f"{op}: input must have at least 1 axis (*, in_features), got a scalar")
    if input.shape[-1] != weight.shape[1]:
        raise ShapeError(f"{op}: input {shape_text(input.shape)} has {input.shape[-1]} features but weight {shape_text(weight.shape)} takes {weight.shape[1]}")
    if not (weight.shape[0] and weight.shape[1]):
        raise ShapeError(f"{op}: weight has shape {shape_text(weight.shape)}; no axis may be 0")
    if input.ndim != 2:
        input = input.reshape(input.size // weight.shape[1], weight.shape[1])
    check_bytes(op, (len(input), weight.shape[0]), 8)
    return input, weight


def linear(input: np.ndarray, weight: np.ndarray, bias: np.ndarray | None = None) -> np.ndarray:
    """input @ weight.T + bias, (*, in_features) x (out_features, in_features) [+ (out_features,)] -> (*, out_features)."""
    return _product(current().linear, input, weight, bias)


def linear_activated(input: np.ndarray, weight: np.ndarray, bias: np.ndarray | None, activation: str, slope: float) -> np.ndarray:
    """activation(linear(...)) by one kernel, for fastcnn.nn.fusion, which asks first whether the current backend has such kernels."""
    return _product(current().linear_activated, input, weight, bias, activation, slope)


def _product(compute: Any, input: np.ndarray, weight: np.ndarray, bias: np.ndarray | None, *activation: Any) -> np.ndarray:
    """linear by this primitive of a backend, everything checked."""
    matrix, weight = _matrix("linear", input, weight)
    if bias is not None:
        bias = like(bias, matrix, "linear", "bias")
        if bias.shape != weight.shape[:1]:
            wrong_shape(bias.shape, weight.shape[:1], "linear", "bias", f"weight has {weight.shape[0]} rows")
    output = compute(matrix, weight, bias, *activation)
    if input.ndim != 2:
        output = output.reshape(*input.shape[:-1], weight.shape[0])
    return output if output.flags.c_contiguous else output.copy(order="C")


def linear_backward(
    grad_output: np.ndarray,
    input: np.ndarray,
    weight: np.ndarray,
    bias: np.ndarray | None = None,
    *,
    output_mask: tuple[bool, bool, bool] = (True, True, True),
    need_dx: bool = True,
) -> tuple[np.ndarray | None, np.ndarray | None, np.ndarray | None]:
    """(grad_input, grad_weight, grad_bias) of linear; those masked out are None, grad_input also with need_dx=False. bias is accepted but not needed."""
    op = "linear_backward"
    matrix, weight = _matrix(op, input, weight)
    expected = (*input.shape[:-1], weight.shape[0])
    grad_output = shaped(grad_output, matrix, expected, op, "grad_output", "it must be like the output of linear")
    want_input, want_weight, want_bias = mask3(output_mask, op, need_dx)
    if grad_output.ndim != 2:
        grad_output = grad_output.reshape(len(matrix), weight.shape[0])
    backend = current()
    grad_input = grad_weight = grad_bias = None
    if want_input:
        grad_input = backend.linear_grad_input(grad_output, weight)
        grad_input = contiguous(grad_input) if input.ndim == 2 else grad_input.reshape(input.shape)
    if want_weight:
        grad_weight = contiguous(backend.linear_grad_weight(grad_output, matrix))
    if want_bias:
        grad_bias = backend.linear_grad_bias(grad_output)
    return grad_input, grad_weight, grad_bias
