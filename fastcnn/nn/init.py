"""Initialisers, in place on a Parameter or an ndarray, under torch.nn.init's names; get("he_normal") finds one by name.

fan_in and fan_out of a weight (O, C/G, KH, KW) or (out_features, in_features): (C/G)*KH*KW and O*KH*KW. Values are drawn in float64
and rounded, so float32 and float64 layers made from one seed hold the same weights.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeVar

import numpy as np

from fastcnn.nn.parameter import FLOATS, Parameter
from fastcnn.options import choice, number
from fastcnn.random import default_rng, manual_seed
from fastcnn.shapes import ShapeError, by

Target = TypeVar("Target", np.ndarray, Parameter)
Rng = np.random.Generator | int | None

# Values drawn at once: 64 Ki float64 are 512 KiB, an L2-sized scratch instead of a float64 copy of the whole array.
_BLOCK = 1 << 16


def _array(tensor: Target, op: str) -> np.ndarray:
    array = tensor.data if isinstance(tensor, Parameter) else tensor
    if not isinstance(array, np.ndarray) or array.dtype not in FLOATS:
        raise TypeError(f"{op}: tensor must be a Parameter or a float32 or float64 array, got {getattr(array, 'dtype', type(tensor).__name__)}")
    return array


def _fill(tensor: Target, op: str, draw: Callable[[int], np.ndarray]) -> Target:
    """Fill with draw(count) in C order whatever the strides are."""
    array = _array(tensor, op)
    if array.flags.c_contiguous:
        flat = array.reshape(-1)
        for start in range(0, flat.size, _BLOCK):
            part = flat[start : start + _BLOCK]
            part[...] = draw(part.size)
    else:
        array[...] = draw(array.size).reshape(array.shape)
    return tensor


def fans(tensor: np.ndarray | Parameter, op: str = "fans") -> tuple[int, int]:
    """(fan_in, fan_out): inputs that one output reads, outputs that one input feeds (strides ignored), as torch counts them."""
    shape = tensor.shape
    if len(shape) < 2:
        raise ShapeError(f"{op}: fan_in and fan_out need a weight with 2 or more axes, got {len(shape)} ({by(shape) or 'a scalar'})")
    receptive = math.prod(shape[2:])
    return shape[1] * receptive, shape[0] * receptive


def calculate_gain(nonlinearity: str, param: float | None = None) -> float:
    """Factor on the standard deviation that keeps the signal's variance through a nonlinearity (torch's table); param: LeakyReLU's slope."""
    gains = {"sigmoid": 1.0, "tanh": 5 / 3, "relu": math.sqrt(2), "selu": 3 / 4}
    gains |= dict.fromkeys(("linear", *(f"conv{transpose}{n}d" for transpose in ("", "_transpose") for n in (1, 2, 3))), 1.0)
    if not isinstance(nonlinearity, str):
        raise TypeError(f"calculate_gain: nonlinearity must be a str, got {type(nonlinearity).__name__}")
    if nonlinearity == "leaky_relu":
        return math.sqrt(2 / (1 + (0.01 if param is None else number(param, "calculate_gain", "param")) ** 2))
    if nonlinearity not in gains:
        raise ValueError(f"calculate_gain: nonlinearity must be one of {', '.join([*gains, 'leaky_relu'])}, got {nonlinearity!r}")
    return gains[nonlinearity]


def constant_(tensor: Target, val: float) -> Target:
    _array(tensor, "constant_").fill(number(val, "constant_", "val"))
    return tensor


def zeros_(tensor: Target) -> Target:
    """All zero. As a weight it keeps every unit of a layer alike (and, below another zero layer, untrained): meant for biases."""
    return constant_(tensor, 0.0)


def ones_(tensor: Target) -> Target:
    return constant_(tensor, 1.0)


def uniform_(tensor: Target, a: float = 0.0, b: float = 1.0, rng: Rng = None) -> Target:
    """Uniform on [a, b)."""
    if not number(a, "uniform_", "a") <= number(b, "uniform_", "b"):
        raise ValueError(f"uniform_: a must be at most b, got {a} and {b}")
    rng = default_rng(rng)
    return _fill(tensor, "uniform_", lambda count: rng.uniform(a, b, count))


def normal_(tensor: Target, mean: float = 0.0, std: float = 1.0, rng: Rng = None) -> Target:
    number(mean, "normal_", "mean"), number(std, "normal_", "std", 0)
    rng = default_rng(rng)
    return _fill(tensor, "normal_", lambda count: rng.normal(mean, std, count))


def fan_in_uniform_(tensor: Target, a: float = 2.4, rng: Rng = None) -> Target:
    """Uniform on (-a/fan_in, a/fan_in); a = 2.4 is LeNet-5's (LeCun et al. 1998, appendix A)."""
    bound = number(a, "fan_in_uniform_", "a", 0) / max(fans(tensor, "fan_in_uniform_")[0], 1)
    return uniform_(tensor, -bound, bound, rng)


def _xavier_std(tensor: Target, gain: float, op: str) -> float:
    return number(gain, op, "gain", 0) * math.sqrt(2 / max(sum(fans(tensor, op)), 1))


def xavier_uniform_(tensor: Target, gain: float = 1.0, rng: Rng = None) -> Target:
    """Uniform with variance gain^2 * 2/(fan_in + fan_out) (Glorot & Bengio 2010)."""
    bound = math.sqrt(3) * _xavier_std(tensor, gain, "xavier_uniform_")
    return uniform_(tensor, -bound, bound, rng)


def xavier_normal_(tensor: Target, gain: float = 1.0, rng: Rng = None) -> Target:
    """Normal with variance gain^2 * 2/(fan_in + fan_out) (Glorot & Bengio 2010)."""
    return normal_(tensor, 0.0, _xavier_std(tensor, gain, "xavier_normal_"), rng)


def _kaiming_std(tensor: Target, a: float, mode: str, nonlinearity: str, op: str) -> float:
    choice(mode, op, "mode", ("fan_in", "fan_out"))
    number(a, op, "a")
    fan = fans(tensor, op)[mode == "fan_out"]
    return calculate_gain(nonlinearity, a) / math.sqrt(max(fan, 1))


def kaiming_uniform_(tensor: Target, a: float = 0, mode: str = "fan_in", nonlinearity: str = "leaky_relu", rng: Rng = None) -> Target:
    """Uniform with variance gain^2/fan (He et al. 2015, arXiv:1502.01852); a: the slope of the LeakyReLU that follows, 0 for a ReLU."""
    bound = math.sqrt(3) * _kaiming_std(tensor, a, mode, nonlinearity, "kaiming_uniform_")
    return uniform_(tensor, -bound, bound, rng)


def kaiming_normal_(tensor: Target, a: float = 0, mode: str = "fan_in", nonlinearity: str = "leaky_relu", rng: Rng = None) -> Target:
    """Normal with variance gain^2/fan (He et al. 2015, arXiv:1502.01852); a: the slope of the LeakyReLU that follows, 0 for a ReLU."""
    return normal_(tensor, 0.0, _kaiming_std(tensor, a, mode, nonlinearity, "kaiming_normal_"), rng)


def default_(weight: Target, bias: Target | None = None, rng: Rng = None) -> None:
    """torch's default of Conv and Linear: weight and bias uniform on (-1/sqrt(fan_in), 1/sqrt(fan_in)), both from weight's fan_in."""
    rng = default_rng(rng)
    kaiming_uniform_(weight, a=math.sqrt(5), rng=rng)
    if bias is not None:
        bound = 1 / math.sqrt(max(fans(weight, "default_")[0], 1))
        uniform_(bias, -bound, bound, rng)


_BY_NAME = {
    "zeros": zeros_,
    "ones": ones_,
    "constant": constant_,
    "uniform": uniform_,
    "normal": normal_,
    "fan_in_uniform": fan_in_uniform_,
    "xavier_uniform": xavier_uniform_,
    "xavier_normal": xavier_normal_,
    "kaiming_uniform": kaiming_uniform_,
    "kaiming_normal": kaiming_normal_,
}
# The same initialisers go by their authors' first or last names.
_BY_NAME |= {name.replace("xavier", "glorot"): fn for name, fn in _BY_NAME.items() if name.startswith("xavier")}
_BY_NAME |= {name.replace("kaiming", "he"): fn for name, fn in _BY_NAME.items() if name.startswith("kaiming")}


def get(name: str | Callable) -> Callable:
    """The initialiser of that name ("he_normal", "xavier_uniform", "zeros", with or without the trailing underscore); callables pass through."""
    if callable(name):
        return name
    found = _BY_NAME.get(name.lower().rstrip("_")) if isinstance(name, str) else None
    if found is None:
        raise ValueError(f"init.get: no initialiser is called {name!r}; there are {', '.join(_BY_NAME)}")
    return found


__all__ = [
    "calculate_gain", "constant_", "default_", "default_rng", "fan_in_uniform_", "fans", "get", "kaiming_normal_", "kaiming_uniform_",
    "manual_seed", "normal_", "ones_", "uniform_", "xavier_normal_", "xavier_uniform_", "zeros_",
]  # fmt: skip
