"""Losses and their backwards: torch.nn.functional's names and defaults; the options after weight are keywords (torch's deprecated ones are absent).

A reduced loss is a NumPy scalar of the input's dtype. `*_backward(grad_output, input, target, ...)` returns the gradient of input; targets and
weights are constants. grad_output is a number for 'mean' and 'sum' (usually 1.0), an array like the loss, or a number for all of it, for 'none'.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..backend import current, on_device
from ..options import choice, integer, number
from ..shapes import ShapeError
from ._check import alike, array, formatted, like, of_dtype, shape_text, shaped

Loss = np.ndarray | np.floating
_REDUCTIONS = ("none", "mean", "sum")
_INT64 = np.dtype(np.int64)


def _reduced(result: Any, input: np.ndarray, shape: tuple[int, ...]) -> Loss:
    """The primitive's result: a scalar if reduced (or if the input was a single sample), else an array of this shape."""
    if isinstance(result, np.floating) and result.dtype is input.dtype:
        return result
    if on_device(result):
        return result.reshape(() if result.ndim == 0 else shape)
    if np.ndim(result) == 0 or not shape:
        return input.dtype.type(np.asarray(result).reshape(()))
    return np.ascontiguousarray(result).reshape(shape)


def _grad(op: str, grad_output: Any, input: np.ndarray, shape: tuple[int, ...], reduction: str, count: int | tuple[int, ...]) -> Any:
    """grad_output as the primitive takes it: a float, or an array of shape count for reduction 'none'."""
    scalar = isinstance(grad_output, (int, float, np.integer, np.floating))
    if isinstance(grad_output, np.ndarray) and grad_output.ndim == 0 and grad_output.dtype.kind in "fiu":
        scalar, grad_output = True, grad_output[()]
    if reduction != "none":
        if not scalar:
            got = shape_text(grad_output.shape) if isinstance(grad_output, np.ndarray) else type(grad_output).__name__
            error = ShapeError if isinstance(grad_output, np.ndarray) else TypeError
            raise error(f"{op}: grad_output must be a number for reduction {reduction!r}, got {got}")
        return number(grad_output, op, "grad_output")
    if scalar:
        return np.full_like(input, number(grad_output, op, "grad_output"), order="C", shape=count)
    return shaped(grad_output, input, shape, op, "grad_output", "it must be like the loss").reshape(count)


# --- losses over classes ----------------------------------------------------------------------------------------------------------


def _rows(value: np.ndarray) -> np.ndarray:
    """(C,), (M, C) or (N, C, d1, ...) -> (M, C)."""
    if value.ndim == 2:
        return value
    return np.moveaxis(value, 1, -1).reshape(-1, value.shape[1]) if value.ndim > 2 else value[None]


def _unrows(rows: np.ndarray, input: np.ndarray) -> np.ndarray:
    """The reverse, for the gradient."""
    if input.ndim > 2:
        rows = np.moveaxis(rows.reshape(input.shape[0], *input.shape[2:], input.shape[1]), -1, 1)
    return formatted(rows if input.ndim >= 2 else rows[0], input)


def _class_target(op: str, target: np.ndarray, shape: tuple[int, ...], num_classes: int) -> np.ndarray:
    """(M,) int64 class numbers; the backend checks them as it reads them."""
    if target.shape != shape:
        raise ShapeError(
            f"{op}: target has shape {shape_text(target.shape)} but input with {num_classes} classes needs class numbers of shape {shape_text(shape)}"
        )
    if target.dtype is _INT64 and target.ndim == 1 and target.flags.aligned:
        return target
    if on_device(target):
        return target.astype(_INT64, copy=False).reshape(-1)
    if target.dtype.kind == "u" and target.size and int(target.max()) >= 2**63:
        raise ValueError(f"{op}: target holds {target.max()} but input has {num_classes} classes, 0 to {num_classes - 1}")
    return np.ascontiguousarray(target, np.int64).reshape(-1)


def _classes(op: str, input: Any, target: Any, weight: Any, ignore_index: Any, probabilities: bool) -> tuple:
    """(input, its rows (M, C), target, weight, ignore_index, shape of the unreduced loss)."""
    input = array(input, op, "input")
    whole = input.shape
    if len(whole) == 2:
        C, shape = whole[1], whole[:1]
    elif not whole:
        raise ShapeError(f"{op}: input must have at least 1 axis (C,), (N, C) or (N, C, d1, ...), got a scalar")
    else:
        C, shape = (whole[1], (whole[0], *whole[2:])) if len(whole) > 1 else (whole[0], ())
    if not C:
        raise ShapeError(f"{op}: input has shape {shape_text(whole)}; it needs at least 1 class")
    ignore_index = integer(ignore_index, op, "ignore_index", -(2**63), 2**63 - 1)
    if isinstance(target, (int, np.integer)) and not isinstance(target, bool):
        target = np.asarray(target)
    if not isinstance(target, np.ndarray):
        target = of_dtype(target, op, "target", target.dtype if hasattr(target, "dtype") else _INT64, "a numpy.ndarray")
    if target.dtype.kind in "iu":
        target = _class_target(op, target, shape, C)
    elif probabilities and target.dtype.kind == "f":
        target = _rows(shaped(target, input, whole, op, "target", "probabilities must be like input"))
    else:
        allowed = "class numbers (integers) or probabilities (floats)" if probabilities else "class numbers (integers)"
        raise TypeError(f"{op}: target must hold {allowed}, got {target.dtype}")
    if weight is not None:
        weight = shaped(weight, input, (C,), op, "weight", f"input has {C} classes")
    return input, _rows(input), target, weight, ignore_index, shape


def _smoothing(op: str, label_smoothing: Any) -> float:
    return number(label_smoothing, op, "label_smoothing", 0, 1)


def cross_entropy(
    input: np.ndarray,
    target: np.ndarray,
    weight: np.ndarray | None = None,
    *,
    ignore_index: int = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Loss:
    """-log softmax(input)[target]; input (C,), (N,C) or (N,C,d1,...), target class numbers without the C axis, or probabilities like input.

    weight (C,) weighs the classes; the mean is then weighted too (class numbers) or over the samples (probabilities). Rows whose target is
    ignore_index do not count. label_smoothing mixes that share of the uniform distribution into the target.
    """
    op = "cross_entropy"
    input, rows, target, weight, ignore_index, shape = _classes(op, input, target, weight, ignore_index, True)
    reduction = choice(reduction, op, "reduction", _REDUCTIONS)
    result = current().cross_entropy(rows, target, weight, ignore_index, reduction, _smoothing(op, label_smoothing))
    return _reduced(result, input, shape)


def cross_entropy_backward(
    grad_output: float | np.ndarray,
    input: np.ndarray,
    target: np.ndarray,
    weight: np.ndarray | None = None,
    *,
    ignore_index: int = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> np.ndarray:
    """grad_input of cross_entropy: softmax minus target, weighted and divided as the loss."""
    op = "cross_entropy_backward"
    input, rows, target, weight, ignore_index, shape = _classes(op, input, target, weight, ignore_index, True)
    reduction = choice(reduction, op, "reduction", _REDUCTIONS)
    grad = _grad(op, grad_output, input, shape, reduction, len(rows))
    smoothing = _smoothing(op, label_smoothing)
    return _unrows(current().cross_entropy_backward(grad, rows, target, weight, ignore_index, reduction, smoothing), input)


def nll_loss(
    input: np.ndarray, target: np.ndarray, weight: np.ndarray | None = None, *, ignore_index: int = -100, reduction: str = "mean"
) -> Loss:
    """-input[target]; input holds log-probabilities (log_softmax). Shapes and options as cross_entropy."""
    op = "nll_loss"
    input, rows, target, weight, ignore_index, shape = _classes(op, input, target, weight, ignore_index, False)
    reduction = choice(reduction, op, "reduction", _REDUCTIONS)
    return _reduced(current().nll_loss(rows, target, weight, ignore_index, reduction), input, shape)


def nll_loss_backward(
    grad_output: float | np.ndarray,
    input: np.ndarray,
    target: np.ndarray,
    weight: np.ndarray | None = None,
    *,
    ignore_index: int = -100,
    reduction: str = "mean",
) -> np.ndarray:
    """grad_input of nll_loss."""
    op = "nll_loss_backward"
    input, rows, target, weight, ignore_index, shape = _classes(op, input, target, weight, ignore_index, False)
    reduction = choice(reduction, op, "reduction", _REDUCTIONS)
    grad = _grad(op, grad_output, input, shape, reduction, len(rows))
    return _unrows(current().nll_loss_backward(grad, rows, target, weight, ignore_index, reduction), input)


# --- element-wise losses ----------------------------------------------------------------------------------------------------------


def _elements(op: str, input: Any, target: Any) -> tuple[np.ndarray, np.ndarray]:
    input = array(input, op, "input")
    return input, alike(target, input, op, "target")


def _spread(value: Any, input: np.ndarray, op: str, name: str) -> np.ndarray | None:
    """A weight broadcast to input's shape, without a copy."""
    if value is None:
        return None
    value = like(value, input, op, name)
    try:
        return np.broadcast_to(value, input.shape)
    except ValueError:
        raise ShapeError(f"{op}: {name} {shape_text(value.shape)} does not broadcast to input {shape_text(input.shape)}") from None


def _at_least_1d(*arrays: np.ndarray | None) -> list[np.ndarray | None]:
    """Scalars as one element, so that backends see at least one axis."""
    return [a if a is None or a.ndim else a.reshape(1) for a in arrays]


def _elementwise(op: str, input: np.ndarray, *operands: Any) -> Loss:
    if not input.ndim:
        return _reduced(getattr(current(), op)(*_at_least_1d(input, *operands[:-1]), operands[-1]), input, input.shape)
    return _reduced(getattr(current(), op)(input, *operands), input, input.shape)


def _elementwise_backward(op: str, grad_output: Any, input: np.ndarray, *operands: Any) -> np.ndarray:
    reduction = operands[-1]
    grad = _grad(op, grad_output, input, input.shape, reduction, input.shape or (1,))
    if not input.ndim:
        return getattr(current(), op)(grad, *_at_least_1d(input, *operands[:-1]), reduction).reshape(())
    return formatted(getattr(current(), op)(grad, input, *operands), input)


def mse_loss(input: np.ndarray, target: np.ndarray, *, reduction: str = "mean") -> Loss:
    """(input - target)^2; target has input's shape."""
    op = "mse_loss"
    return _elementwise(op, *_elements(op, input, target), choice(reduction, op, "reduction", _REDUCTIONS))


def mse_loss_backward(grad_output: float | np.ndarray, input: np.ndarray, target: np.ndarray, *, reduction: str = "mean") -> np.ndarray:
    """grad_input of mse_loss."""
    op = "mse_loss_backward"
    reduction = choice(reduction, op, "reduction", _REDUCTIONS)
    return _elementwise_backward(op, grad_output, *_elements(op, input, target), reduction)


def _probabilities(op: str, input: Any, target: Any) -> tuple[np.ndarray, np.ndarray]:
    input, target = _elements(op, input, target)
    if not on_device(input) and input.size and (input.min() < 0 or input.max() > 1):  # a device looks itself, and the next copy to the host raises
        wrong = input.min() if input.min() < 0 else input.max()
        raise ValueError(f"{op}: input must hold probabilities between 0 and 1, got {wrong}; for logits use binary_cross_entropy_with_logits")
    return input, target


def binary_cross_entropy(
    input: np.ndarray, target: np.ndarray, weight: np.ndarray | None = None, *, reduction: str = "mean"
) -> Loss:
    """-weight*(target*log(input) + (1 - target)*log(1 - input)); input in [0, 1]; logarithms are cut off at -100."""
    op = "binary_cross_entropy"
    input, target = _probabilities(op, input, target)
    return _elementwise(op, input, target, _spread(weight, input, op, "weight"), choice(reduction, op, "reduction", _REDUCTIONS))


def binary_cross_entropy_backward(
    grad_output: float | np.ndarray,
    input: np.ndarray,
    target: np.ndarray,
    weight: np.ndarray | None = None,
    *,
    reduction: str = "mean",
) -> np.ndarray:
    """grad_input of binary_cross_entropy."""
    op = "binary_cross_entropy_backward"
    input, target = _probabilities(op, input, target)
    weight, reduction = _spread(weight, input, op, "weight"), choice(reduction, op, "reduction", _REDUCTIONS)
    return _elementwise_backward(op, grad_output, input, target, weight, reduction)


def binary_cross_entropy_with_logits(
    input: np.ndarray,
    target: np.ndarray,
    weight: np.ndarray | None = None,
    *,
    reduction: str = "mean",
    pos_weight: np.ndarray | None = None,
) -> Loss:
    """binary_cross_entropy(sigmoid(input), target) without overflow; pos_weight multiplies the positive term. Weights broadcast to input."""
    op = "binary_cross_entropy_with_logits"
    input, target = _elements(op, input, target)
    weight, pos_weight = _spread(weight, input, op, "weight"), _spread(pos_weight, input, op, "pos_weight")
    return _elementwise(op, input, target, weight, pos_weight, choice(reduction, op, "reduction", _REDUCTIONS))


def binary_cross_entropy_with_logits_backward(
    grad_output: float | np.ndarray,
    input: np.ndarray,
    target: np.ndarray,
    weight: np.ndarray | None = None,
    *,
    reduction: str = "mean",
    pos_weight: np.ndarray | None = None,
) -> np.ndarray:
    """grad_input of binary_cross_entropy_with_logits."""
    op = "binary_cross_entropy_with_logits_backward"
    input, target = _elements(op, input, target)
    weight, pos_weight = _spread(weight, input, op, "weight"), _spread(pos_weight, input, op, "pos_weight")
    reduction = choice(reduction, op, "reduction", _REDUCTIONS)
    return _elementwise_backward(op, grad_output, input, target, weight, pos_weight, reduction)
