"""The fully connected layer."""

from __future__ import annotations

import numpy as np
from numpy.typing import DTypeLike

from fastcnn import functional as F
from fastcnn.functional.linear import linear_activated
from fastcnn.nn import init
from fastcnn.nn.module import Module, as_float_dtype
from fastcnn.nn.parameter import Parameter
from fastcnn.options import flag, integer
from fastcnn.shapes import check_bytes


class Linear(Module):
    """y = x @ weight.T + bias, (*, in_features) -> (*, out_features); weight (out_features, in_features), bias (out_features,) or None."""

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        *,
        dtype: DTypeLike = np.float32,
        rng: init.Rng = None,
    ) -> None:
        self.in_features, self.out_features = integer(in_features, "Linear", "in_features", 1), integer(out_features, "Linear", "out_features", 1)
        dtype = as_float_dtype(dtype)
        check_bytes("Linear", (self.out_features, self.in_features), dtype.itemsize, "weight")
        self.weight = Parameter(np.empty((self.out_features, self.in_features), dtype))
        self.bias = Parameter(np.empty(self.out_features, dtype)) if flag(bias, "Linear", "bias") else None
        self.reset_parameters(rng)

    def reset_parameters(self, rng: init.Rng = None) -> None:
        init.default_(self.weight, self.bias, rng)

    def forward(self, input: np.ndarray) -> np.ndarray:
        output = F.linear(input, self.weight.data, None if self.bias is None else self.bias.data)
        self.save_for_backward(input)
        return output

    def forward_activated(self, input: np.ndarray, activation: str, slope: float) -> np.ndarray:
        """forward and the activation behind it by one kernel, see fastcnn.nn.fusion."""
        output = linear_activated(input, self.weight.data, None if self.bias is None else self.bias.data, activation, slope)
        self.save_for_backward(input)
        return output

    def backward(self, grad_output: np.ndarray) -> np.ndarray | None:
        (input,) = self.saved_for_backward()
        weight, bias = self.weight, self.bias
        mask = (self.requires_input_grad, weight.requires_grad, bias is not None and bias.requires_grad)
        grad_input, grad_weight, grad_bias = F.linear_backward(grad_output, input, weight.data, output_mask=mask)
        weight.accumulate(grad_weight)
        if bias is not None:
            bias.accumulate(grad_bias)
        return grad_input

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"
