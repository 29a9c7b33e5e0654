"""Activations and softmax as layers. inplace is accepted so that torch's model definitions carry over; an input is never modified.

Where the derivative can be had from the output, the output is saved and the input is not: the next layer holds that array anyway.
The functional's backwards then take the output in the input's place too, for its shape only.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import DTypeLike

from fastcnn import functional as F
from fastcnn.nn.module import Module, as_float_dtype
from fastcnn.nn.parameter import Parameter
from fastcnn.options import MAX_INT, choice, flag, integer, number
from fastcnn.shapes import check_bytes


class _Inplace(Module):
    """An activation whose only option is torch's inplace."""

    def __init__(self, inplace: bool = False) -> None:
        self.inplace = flag(inplace, type(self).__name__, "inplace")

    def extra_repr(self) -> str:
        return "inplace=True" if self.inplace else ""


def _with_inplace(text: str, inplace: bool) -> str:
    return f"{text}, inplace=True" if inplace else text


class ReLU(_Inplace):
    """max(x, 0)."""

    def forward(self, input: np.ndarray) -> np.ndarray:
        output = F.relu(input)
        self.save_for_backward(output)
        return output

    def backward(self, grad_output: np.ndarray) -> np.ndarray:
        (output,) = self.saved_for_backward()
        return F.relu_backward(grad_output, output)  # output > 0 just where input > 0


class LeakyReLU(Module):
    """x where positive, else negative_slope * x."""

    def __init__(self, negative_slope: float = 0.01, inplace: bool = False) -> None:
        self.negative_slope, self.inplace = number(negative_slope, "LeakyReLU", "negative_slope"), flag(inplace, "LeakyReLU", "inplace")

    def forward(self, input: np.ndarray) -> np.ndarray:
        output = F.leaky_relu(input, self.negative_slope)
        self.save_for_backward(input)
        return output

    def backward(self, grad_output: np.ndarray) -> np.ndarray:
        (input,) = self.saved_for_backward()  # or the output, of the same sign, where fastcnn.nn.fusion never made an input
        return F.leaky_relu_backward(grad_output, input, self.negative_slope)

    def extra_repr(self) -> str:
        return _with_inplace(f"negative_slope={self.negative_slope}", self.inplace)


class PReLU(Module):
    """x where positive, else weight * x, weight trained: one for all channels, or one per channel (He et al. 2015, arXiv:1502.01852)."""

    def __init__(self, num_parameters: int = 1, init: float = 0.25, *, dtype: DTypeLike = np.float32) -> None:
        self.num_parameters, self.init = integer(num_parameters, "PReLU", "num_parameters", 1), number(init, "PReLU", "init")
        dtype = as_float_dtype(dtype)
        check_bytes("PReLU", (self.num_parameters,), dtype.itemsize, "weight")
        self.weight = Parameter(np.full(self.num_parameters, self.init, dtype))

    def forward(self, input: np.ndarray) -> np.ndarray:
        output = F.prelu(input, self.weight.data)
        self.save_for_backward(input)
        return output

    def backward(self, grad_output: np.ndarray) -> np.ndarray:
        (input,) = self.saved_for_backward()
        grad_input, grad_weight = F.prelu_backward(grad_output, input, self.weight.data)
        self.weight.accumulate(grad_weight)
        return grad_input

    def extra_repr(self) -> str:
        return f"num_parameters={self.num_parameters}"


class ELU(Module):
    """x where positive, else alpha * (exp(x) - 1) (Clevert et al. 2016, arXiv:1511.07289)."""

    def __init__(self, alpha: float = 1.0, inplace: bool = False) -> None:
        self.alpha, self.inplace = number(alpha, "ELU", "alpha"), flag(inplace, "ELU", "inplace")

    def forward(self, input: np.ndarray) -> np.ndarray:
        output = F.elu(input, self.alpha)
        self.save_for_backward(input)
        return output

    def backward(self, grad_output: np.ndarray) -> np.ndarray:
        (input,) = self.saved_for_backward()
        return F.elu_backward(grad_output, input, self.alpha)

    def extra_repr(self) -> str:
        return _with_inplace(f"alpha={self.alpha}", self.inplace)


class SELU(_Inplace):
    """ELU with the two constants that keep mean 0 and variance 1 through layers (Klambauer et al. 2017, arXiv:1706.02515)."""

    def forward(self, input: np.ndarray) -> np.ndarray:
        output = F.selu(input)
        self.save_for_backward(input)
        return output

    def backward(self, grad_output: np.ndarray) -> np.ndarray:
        (input,) = self.saved_for_backward()
        return F.selu_backward(grad_output, input)


class GELU(Module):
    """x * Phi(x), Phi the normal distribution function; approximate="tanh" for the approximation (Hendrycks & Gimpel 2016)."""

    def __init__(self, approximate: str = "none") -> None:
        self.approximate = choice(approximate, "GELU", "approximate", ("none", "tanh"))

    def forward(self, input: np.ndarray) -> np.ndarray:
        output = F.gelu(input, self.approximate)
        self.save_for_backward(input)
        return output

    def backward(self, grad_output: np.ndarray) -> np.ndarray:
        (input,) = self.saved_for_backward()
        return F.gelu_backward(grad_output, input, self.approximate)

    def extra_repr(self) -> str:
        return f"approximate={self.approximate!r}"


class SiLU(_Inplace):
    """x * sigmoid(x)."""

    def forward(self, input: np.ndarray) -> np.ndarray:
        output = F.silu(input)
        self.save_for_backward(input)
        return output

    def backward(self, grad_output: np.ndarray) -> np.ndarray:
        (input,) = self.saved_for_backward()
        return F.silu_backward(grad_output, input)


class Softplus(Module):
    """log(1 + exp(beta * x)) / beta, and x itself where beta * x > threshold."""

    def __init__(self, beta: float = 1.0, threshold: float = 20.0) -> None:
        self.beta, self.threshold = number(beta, "Softplus", "beta"), number(threshold, "Softplus", "threshold")
        if not self.beta:
            raise ValueError(f"Softplus: beta must not be 0, got {beta!r}")

    def forward(self, input: np.ndarray) -> np.ndarray:
        output = F.softplus(input, self.beta, self.threshold)
        self.save_for_backward(input)
        return output

    def backward(self, grad_output: np.ndarray) -> np.ndarray:
        (input,) = self.saved_for_backward()
        return F.softplus_backward(grad_output, input, self.beta, self.threshold)

    def extra_repr(self) -> str:
        return f"beta={self.beta}, threshold={self.threshold}"


class Sigmoid(Module):
    """1 / (1 + exp(-x))."""

    def forward(self, input: np.ndarray) -> np.ndarray:
        output = F.sigmoid(input)
        self.save_for_backward(output)
        return output

    def backward(self, grad_output: np.ndarray) -> np.ndarray:
        (output,) = self.saved_for_backward()
        return F.sigmoid_backward(grad_output, output, output=output)


class Tanh(Module):
    """tanh(x)."""

    def forward(self, input: np.ndarray) -> np.ndarray:
        output = F.tanh(input)
        self.save_for_backward(output)
        return output

    def backward(self, grad_output: np.ndarray) -> np.ndarray:
        (output,) = self.saved_for_backward()
        return F.tanh_backward(grad_output, output, output=output)


class Softmax(Module):
    """exp(x) / sum(exp(x)) along axis dim. (CrossEntropyLoss wants logits, not these.)"""

    def __init__(self, dim: int | None = None) -> None:
        self.dim = None if dim is None else integer(dim, type(self).__name__, "dim", -MAX_INT)

    def forward(self, input: np.ndarray) -> np.ndarray:
        output = F.softmax(input, self.dim)
        self.save_for_backward(output)
        return output

    def backward(self, grad_output: np.ndarray) -> np.ndarray:
        (output,) = self.saved_for_backward()
        return F.softmax_backward(grad_output, output, self.dim, output=output)

    def extra_repr(self) -> str:
        return f"dim={self.dim}"


class LogSoftmax(Module):
    """log(softmax(x)) along axis dim; NLLLoss goes with it."""

    def __init__(self, dim: int | None = None) -> None:
        self.dim = None if dim is None else integer(dim, type(self).__name__, "dim", -MAX_INT)

    def forward(self, input: np.ndarray) -> np.ndarray:
        output = F.log_softmax(input, self.dim)
        self.save_for_backward(output)
        return output

    def backward(self, grad_output: np.ndarray) -> np.ndarray:
        (output,) = self.saved_for_backward()
        return F.log_softmax_backward(grad_output, output, self.dim, output=output)

    def extra_repr(self) -> str:
        return f"dim={self.dim}"
