"""Activations, softmax and dropout, with their backwards: torch.nn.functional's names, order and defaults.

All take any shape; `*_backward(grad_output, input, ...)` takes the forward's options. There is no `inplace`: inputs are never modified.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

from ..backend import current
from ..options import choice, flag, integer, number
from ..random import default_rng
from ..shapes import ShapeError
from ._check import alike, array, formatted, like, of_dtype, shape_text

_BOOL = np.dtype(np.bool_)


def _apply(op: str, input: Any, *options: Any) -> np.ndarray:
    """An element-wise op: input's shape and memory format. Backends see at least one axis."""
    input = array(input, op, "input")
    function = getattr(current(), op)
    if not input.ndim:
        return function(input.reshape(1), *options).reshape(())
    return formatted(function(input, *options), input)


def _apply_backward(op: str, grad_output: Any, input: Any, *options: Any) -> np.ndarray:
    """Its gradient, from the input."""
    input = array(input, op, "input")
    grad_output = alike(grad_output, input, op, "grad_output")
    function = getattr(current(), op)
    if not input.ndim:
        return function(grad_output.reshape(1), input.reshape(1), *options).reshape(())
    return formatted(function(grad_output, input, *options), input)


def _apply_backward_output(op: str, grad_output: Any, input: Any, output: Any, *options: Any) -> np.ndarray:
    """Its gradient, from the output, which is computed from the input if the caller does not give it."""
    input = array(input, op, "input")
    if output is None:
        output = _apply(op.removesuffix("_backward"), input, *options)
    else:
        output = alike(output, input, op, "output")
    if not input.ndim:
        return _apply_backward(op, grad_output, output, *options)
    grad_output = alike(grad_output, input, op, "grad_output")
    return formatted(getattr(current(), op)(grad_output, output, *options), input)


def relu(input: np.ndarray) -> np.ndarray:
    """max(input, 0)."""
    return _apply("relu", input)


def relu_backward(grad_output: np.ndarray, input: np.ndarray) -> np.ndarray:
    """grad_output where input > 0, else 0. The forward's output serves as input just as well."""
    return _apply_backward("relu_backward", grad_output, input)


def leaky_relu(input: np.ndarray, negative_slope: float = 0.01) -> np.ndarray:
    """input where positive, else negative_slope*input."""
    return _apply("leaky_relu", input, number(negative_slope, "leaky_relu", "negative_slope"))


def leaky_relu_backward(grad_output: np.ndarray, input: np.ndarray, negative_slope: float = 0.01) -> np.ndarray:
    """grad_output * (1 where input > 0, else negative_slope)."""
    op = "leaky_relu_backward"
    return _apply_backward(op, grad_output, input, number(negative_slope, op, "negative_slope"))


def _slopes(op: str, input: np.ndarray, weight: Any) -> np.ndarray:
    """PReLU's weight: one slope, or one per channel (axis 1)."""
    weight = like(weight, input, op, "weight")
    channels = input.shape[1] if input.ndim > 1 else 1
    if weight.ndim > 1 or weight.size not in (1, channels):
        raise ShapeError(f"{op}: weight has shape {shape_text(weight.shape)} but input {shape_text(input.shape)} takes 1 slope or {channels}")
    return weight.reshape(-1)


def prelu(input: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """input where positive, else weight*input; weight (1,) or (C,), C = input.shape[1]."""
    input = array(input, "prelu", "input")
    return _apply("prelu", input, _slopes("prelu", input, weight))


def prelu_backward(grad_output: np.ndarray, input: np.ndarray, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(grad_input, grad_weight) of prelu."""
    op = "prelu_backward"
    input = array(input, op, "input")
    slopes = _slopes(op, input, weight)
    grad_output = alike(grad_output, input, op, "grad_output")
    if not input.ndim:
        grad_input, grad_weight = current().prelu_backward(grad_output.reshape(1), input.reshape(1), slopes)
        return grad_input.reshape(()), grad_weight.reshape(weight.shape)
    grad_input, grad_weight = current().prelu_backward(grad_output, input, slopes)
    return formatted(grad_input, input), grad_weight.reshape(weight.shape)


def elu(input: np.ndarray, alpha: float = 1.0) -> np.ndarray:
    """input where positive, else alpha*(exp(input) - 1)."""
    return _apply("elu", input, number(alpha, "elu", "alpha"))


def elu_backward(grad_output: np.ndarray, input: np.ndarray, alpha: float = 1.0) -> np.ndarray:
    """grad_output * (1 where input > 0, else alpha*exp(input))."""
    return _apply_backward("elu_backward", grad_output, input, number(alpha, "elu_backward", "alpha"))


def selu(input: np.ndarray) -> np.ndarray:
    """scale * elu(input, alpha) with the two constants that make activations self-normalising."""
    return _apply("selu", input)


def selu_backward(grad_output: np.ndarray, input: np.ndarray) -> np.ndarray:
    """grad_input of selu."""
    return _apply_backward("selu_backward", grad_output, input)


def gelu(input: np.ndarray, approximate: str = "none") -> np.ndarray:
    """input * Phi(input); approximate="tanh" for the approximation."""
    return _apply("gelu", input, choice(approximate, "gelu", "approximate", ("none", "tanh")))


def gelu_backward(grad_output: np.ndarray, input: np.ndarray, approximate: str = "none") -> np.ndarray:
    """grad_input of gelu."""
    op = "gelu_backward"
    return _apply_backward(op, grad_output, input, choice(approximate, op, "approximate", ("none", "tanh")))


def silu(input: np.ndarray) -> np.ndarray:
    """input * sigmoid(input)."""
    return _apply("silu", input)


def silu_backward(grad_output: np.ndarray, input: np.ndarray) -> np.ndarray:
    """grad_input of silu."""
    return _apply_backward("silu_backward", grad_output, input)


def _softplus_options(op: str, beta: Any, threshold: Any) -> tuple[float, float]:
    beta = number(beta, op, "beta")
    if beta == 0:
        raise ValueError(f"{op}: beta must not be 0, got {beta!r}")
    return beta, number(threshold, op, "threshold")


def softplus(input: np.ndarray, beta: float = 1.0, threshold: float = 20.0) -> np.ndarray:
    """log(1 + exp(beta*input))/beta; input itself where beta*input > threshold."""
    return _apply("softplus", input, *_softplus_options("softplus", beta, threshold))


def softplus_backward(grad_output: np.ndarray, input: np.ndarray, beta: float = 1.0, threshold: float = 20.0) -> np.ndarray:
    """grad_input of softplus."""
    op = "softplus_backward"
    return _apply_backward(op, grad_output, input, *_softplus_options(op, beta, threshold))


def sigmoid(input: np.ndarray) -> np.ndarray:
    """1/(1 + exp(-input))."""
    return _apply("sigmoid", input)


def sigmoid_backward(grad_output: np.ndarray, input: np.ndarray, *, output: np.ndarray | None = None) -> np.ndarray:
    """grad_input of sigmoid. output: the forward's result (recomputed if None)."""
    return _apply_backward_output("sigmoid_backward", grad_output, input, output)


def tanh(input: np.ndarray) -> np.ndarray:
    """tanh(input)."""
    return _apply("tanh", input)


def tanh_backward(grad_output: np.ndarray, input: np.ndarray, *, output: np.ndarray | None = None) -> np.ndarray:
    """grad_input of tanh. output: the forward's result (recomputed if None)."""
    return _apply_backward_output("tanh_backward", grad_output, input, output)


def _axis(op: str, input: np.ndarray, dim: Any) -> int:
    """dim as a non-negative axis; None by PyTorch's deprecated rule."""
    ndim = max(input.ndim, 1)
    if dim is None:
        warnings.warn(f"{op}: dim was not given; 0 is taken for 0-D, 1-D and 3-D input, else 1", stacklevel=4)
        return 0 if input.ndim in (0, 1, 3) else 1
    value = integer(dim, op, "dim", -(2**31))
    if not -ndim <= value < ndim:
        raise ValueError(f"{op}: dim must be between {-ndim} and {ndim - 1} for {ndim}-D input, got {value}")
    return value % ndim


def softmax(input: np.ndarray, dim: int | None = None) -> np.ndarray:
    """exp(input) / sum(exp(input)) along dim."""
    input = array(input, "softmax", "input")
    return _apply("softmax", input, _axis("softmax", input, dim))


def softmax_backward(
    grad_output: np.ndarray, input: np.ndarray, dim: int | None = None, *, output: np.ndarray | None = None
) -> np.ndarray:
    """grad_input of softmax. output: the forward's result (recomputed if None)."""
    op = "softmax_backward"
    input = array(input, op, "input")
    return _apply_backward_output(op, grad_output, input, output, _axis(op, input, dim))


def log_softmax(input: np.ndarray, dim: int | None = None) -> np.ndarray:
    """log(softmax(input, dim)), computed without the quotient."""
    input = array(input, "log_softmax", "input")
    return _apply("log_softmax", input, _axis("log_softmax", input, dim))


def log_softmax_backward(
    grad_output: np.ndarray, input: np.ndarray, dim: int | None = None, *, output: np.ndarray | None = None
) -> np.ndarray:
    """grad_input of log_softmax. output: the forward's result (recomputed if None)."""
    op = "log_softmax_backward"
    input = array(input, op, "input")
    return _apply_backward_output(op, grad_output, input, output, _axis(op, input, dim))


def _mask(op: str, mask: Any, shape: tuple[int, ...]) -> np.ndarray:
    mask = of_dtype(mask, op, "mask", _BOOL, "a bool array, True where kept")
    if mask.shape != shape:
        raise ShapeError(f"{op}: mask has shape {shape_text(mask.shape)} but input has {shape_text(shape)}")
    return mask


def draw_mask(shape: tuple[int, ...], p: float, rng: np.random.Generator | int | None) -> np.ndarray:
    """A bool array, False with probability p, where the current backend computes. A device draws its own numbers from a seed that it takes from rng."""
    on_device = getattr(current(), "keep_mask", None)
    if on_device is not None:
        return on_device(shape, p, default_rng(rng))
    return np.asarray(default_rng(rng).random(shape, np.float32) >= p)


def _keep_scale(p: float) -> float:
    """What the kept elements are multiplied by, so that the expectation stays: 1/(1 - p); nothing is kept at p = 1."""
    return 1 / (1 - p) if p < 1 else 0.0


def dropout(
    input: np.ndarray,
    p: float = 0.5,
    training: bool = True,
    *,
    rng: np.random.Generator | int | None = None,
    mask: np.ndarray | None = None,
    return_mask: bool = False,
) -> np.ndarray | tuple[np.ndarray, np.ndarray]:
    """Inverted dropout: each element is zeroed with probability p, the others are multiplied by 1/(1 - p). A copy if not training.

    rng    where the mask is drawn from: a Generator, a seed, or None for the library's own (fastcnn.manual_seed)
    mask   the mask to apply instead of drawing one: bool, True where kept
    """
    op = "dropout"
    input = array(input, op, "input")
    p = number(p, op, "p", 0, 1)
    if mask is not None:
        mask = _mask(op, mask, input.shape)
    if not flag(training, op, "training") or p == 0:
        output, mask = formatted(input.copy(order="K"), input), np.ones_like(input, bool, order="C")
    else:
        if mask is None:
            mask = draw_mask(input.shape, p, rng)
        if input.ndim:
            output = formatted(current().dropout(input, mask, _keep_scale(p)), input)
        else:
            output = current().dropout(input.reshape(1), mask.reshape(1), _keep_scale(p)).reshape(())
    return (output, mask) if flag(return_mask, op, "return_mask") else output


def dropout_backward(
    grad_output: np.ndarray, input: np.ndarray, p: float = 0.5, training: bool = True, *, mask: np.ndarray | None = None
) -> np.ndarray:
    """grad_input of dropout; mask: the forward's (return_mask=True), needed in training."""
    op = "dropout_backward"
    input = array(input, op, "input")
    grad_output = alike(grad_output, input, op, "grad_output")
    p = number(p, op, "p", 0, 1)
    if not flag(training, op, "training") or p == 0:
        return formatted(grad_output.copy(order="K"), input)
    if mask is None:
        raise ValueError(f"{op}: mask must be given, the one that dropout(..., return_mask=True) returned, got None")
    mask = _mask(op, mask, input.shape)
    if not input.ndim:
        return current().dropout_backward(grad_output.reshape(1), mask.reshape(1), _keep_scale(p)).reshape(())
    return formatted(current().dropout_backward(grad_output, mask, _keep_scale(p)), input)
