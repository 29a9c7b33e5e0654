"""Losses as modules: loss(input, target) -> float, loss.backward() -> gradient in input. Targets and weights are constants.

reduction   "mean" (with class weights: divided by the sum of the samples' weights, as torch), "sum", or "none": an array of losses,
            for which backward(grad_output) takes an array (or one number for all)

On a device the reduced loss stays there, as an array without axes: float(value) waits for it.
A loss saves input and target in training mode, which is not changed by model.eval().
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from fastcnn import functional as F
from fastcnn.backend import on_device
from fastcnn.nn.module import Module
from fastcnn.options import choice, integer, number

Value = float | np.ndarray


def _array_or_none(value: ArrayLike | None, op: str, name: str) -> np.ndarray | None:
    """An array as it is, its dtype being the input's to be; a list as float32, the layers' default."""
    if value is None or isinstance(value, np.ndarray) or on_device(value):
        return value
    try:
        return np.asarray(value, np.float32)
    except (TypeError, ValueError) as error:
        raise TypeError(f"{op}: {name} must be an array or a list of numbers, got {type(value).__name__} {value!r} ({error})") from None


class _Loss(Module):
    """Calls the functional of the subclass with its weight and options."""

    _function: staticmethod
    _function_backward: staticmethod
    weight: np.ndarray | None = None

    def __init__(self, reduction: str) -> None:
        self.reduction = choice(reduction, type(self).__name__, "reduction", ("none", "mean", "sum"))

    def _options(self) -> dict:
        return {"reduction": self.reduction}

    def forward(self, input: np.ndarray, target: np.ndarray) -> Value:
        value = self._function(input, target, **self._options())
        self.save_for_backward(input, target)
        return value if self.reduction == "none" or on_device(value) else float(value)

    def backward(self, grad_output: Value = 1.0) -> np.ndarray:
        """The gradient of the loss (times grad_output) in the input of the last forward."""
        input, target = self.saved_for_backward()
        return self._function_backward(grad_output, input, target, **self._options())


class _WeightedLoss(_Loss):
    def __init__(self, weight: ArrayLike | None, reduction: str) -> None:
        super().__init__(reduction)
        self.register_buffer("weight", _array_or_none(weight, type(self).__name__, "weight"))

    def _options(self) -> dict:
        return {"weight": self.weight, "reduction": self.reduction}


class CrossEntropyLoss(_WeightedLoss):
    """-log(softmax(input)[target]); input (N, C) or (N, C, d1, ...), target class numbers (N, ...) or probabilities of input's shape.

    weight          (C,) one factor per class
    ignore_index    samples of this class number count nothing
    label_smoothing target probabilities become (1 - s) * target + s / C
    """

    _function = staticmethod(F.cross_entropy)
    _function_backward = staticmethod(F.cross_entropy_backward)

    def __init__(
        self, weight: ArrayLike | None = None, *, ignore_index: int = -100, reduction: str = "mean", label_smoothing: float = 0.0
    ) -> None:
        super().__init__(weight, reduction)
        self.ignore_index = integer(ignore_index, "CrossEntropyLoss", "ignore_index", -(2**63), 2**63 - 1)
        self.label_smoothing = number(label_smoothing, "CrossEntropyLoss", "label_smoothing", 0, 1)

    def _options(self) -> dict:
        return {**super()._options(), "ignore_index": self.ignore_index, "label_smoothing": self.label_smoothing}


class NLLLoss(_WeightedLoss):
    """-input[target], input being log-probabilities (LogSoftmax); shapes, weight and ignore_index as CrossEntropyLoss."""

    _function = staticmethod(F.nll_loss)
    _function_backward = staticmethod(F.nll_loss_backward)

    def __init__(self, weight: ArrayLike | None = None, *, ignore_index: int = -100, reduction: str = "mean") -> None:
        super().__init__(weight, reduction)
        self.ignore_index = integer(ignore_index, "NLLLoss", "ignore_index", -(2**63), 2**63 - 1)

    def _options(self) -> dict:
        return {**super()._options(), "ignore_index": self.ignore_index}


class MSELoss(_Loss):
    """(input - target)^2, target of input's shape."""

    _function = staticmethod(F.mse_loss)
    _function_backward = staticmethod(F.mse_loss_backward)

    def __init__(self, *, reduction: str = "mean") -> None:
        super().__init__(reduction)


class BCELoss(_WeightedLoss):
    """-(target * log(input) + (1 - target) * log(1 - input)) per element, input probabilities (Sigmoid), logarithms not below -100.

    weight   factor per element, broadcast to input
    """

    _function = staticmethod(F.binary_cross_entropy)
    _function_backward = staticmethod(F.binary_cross_entropy_backward)

    def __init__(self, weight: ArrayLike | None = None, *, reduction: str = "mean") -> None:
        super().__init__(weight, reduction)


class BCEWithLogitsLoss(_WeightedLoss):
    """BCELoss of sigmoid(input), computed without overflow; pos_weight multiplies the positive term, broadcast to input."""

    _function = staticmethod(F.binary_cross_entropy_with_logits)
    _function_backward = staticmethod(F.binary_cross_entropy_with_logits_backward)

    def __init__(self, weight: ArrayLike | None = None, *, reduction: str = "mean", pos_weight: ArrayLike | None = None) -> None:
        super().__init__(weight, reduction)
        self.register_buffer("pos_weight", _array_or_none(pos_weight, "BCEWithLogitsLoss", "pos_weight"))

    def _options(self) -> dict:
        return {**super()._options(), "pos_weight": self.pos_weight}
