"""common/optimizer.py: the optimizers that change the parameters, in a dictionary or (second book) in a list, in place, in one pass over memory each.

Adam is a large part of a step once the layers are fast: the course's makes a dozen temporary arrays per parameter. The formulas are the course's, rounding
apart. (Its Nesterov, which has two forms in print, is left to the course.)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ...backend import current

Arrays = Mapping[Any, np.ndarray] | Sequence[np.ndarray]


def _items(params: Arrays) -> list[tuple[Any, np.ndarray]]:
    return list(params.items() if isinstance(params, Mapping) else enumerate(params))


def _zeros(params: Arrays) -> Any:
    """Zeros like the parameters, in a container like theirs."""
    zeros = {key: np.zeros_like(value) for key, value in _items(params)}
    return zeros if isinstance(params, Mapping) else list(zeros.values())


def _lists(op: str, params: Arrays, grads: Arrays, *states: Any) -> list[list[np.ndarray]]:
    """Parameters, gradients (in the parameters' dtype) and states as lists in one order. Raises TypeError and ValueError naming the key."""
    gradients = []
    for key, param in _items(params):
        if not isinstance(param, np.ndarray) or param.dtype not in (np.float32, np.float64):
            raise TypeError(f"{op}: params[{key!r}] must be a float32 or float64 array, got {getattr(param, 'dtype', type(param).__name__)}")
        grad = np.asarray(grads[key], param.dtype)
        if grad.shape != param.shape:
            raise ValueError(f"{op}: grads[{key!r}] has shape {grad.shape} but params[{key!r}] has {param.shape}")
        if not param.flags.writeable:
            raise ValueError(f"{op}: params[{key!r}] is read-only but is changed in place")
        gradients.append(grad)
    keys = [key for key, _ in _items(params)]
    return [[params[key] for key in keys], gradients, *([state[key] for key in keys] for state in states)]


class SGD:
    """p -= lr*g."""

    def __init__(self, lr: float = 0.01) -> None:
        self.lr = lr

    def update(self, params: Arrays, grads: Arrays) -> None:
        """One step."""
        values, gradients = _lists("SGD", params, grads)
        current().sgd_update(values, gradients, None, [1] * len(values), float(self.lr), 0.0, 0.0, 0.0, False, False)


class Momentum:
    """v = momentum*v - lr*g; p += v."""

    def __init__(self, lr: float = 0.01, momentum: float = 0.9) -> None:
        self.lr = lr
        self.momentum = momentum
        self.v: Any = None

    def update(self, params: Arrays, grads: Arrays) -> None:
        """One step."""
        if self.v is None:
            self.v = _zeros(params)
        values, gradients, v = _lists("Momentum", params, grads, self.v)
        for value, gradient, velocity in zip(values, gradients, v, strict=True):
            velocity *= self.momentum
            velocity -= self.lr * gradient
            value += velocity


class AdaGrad:
    """h += g^2; p -= lr*g/(sqrt(h) + 1e-7)."""

    def __init__(self, lr: float = 0.01) -> None:
        self.lr = lr
        self.h: Any = None

    def update(self, params: Arrays, grads: Arrays) -> None:
        """One step."""
        if self.h is None:
            self.h = _zeros(params)
        values, gradients, h = _lists("AdaGrad", params, grads, self.h)
        current().adagrad_update(values, gradients, h, [1] * len(values), float(self.lr), 0.0, 1e-7, 0.0, False)


class RMSprop:
    """h = decay_rate*h + (1 - decay_rate)*g^2; p -= lr*g/(sqrt(h) + 1e-7)."""

    def __init__(self, lr: float = 0.01, decay_rate: float = 0.99) -> None:
        self.lr = lr
        self.decay_rate = decay_rate
        self.h: Any = None

    def update(self, params: Arrays, grads: Arrays) -> None:
        """One step."""
        if self.h is None:
            self.h = _zeros(params)
        values, gradients, h = _lists("RMSprop", params, grads, self.h)
        current().rmsprop_update(values, gradients, h, None, None, float(self.lr), float(self.decay_rate), 1e-7, 0.0, 0.0, False)


class Adam:
    """m += (1 - beta1)*(g - m); v += (1 - beta2)*(g^2 - v); p -= lr*sqrt(1 - beta2^t)/(1 - beta1^t) * m/(sqrt(v) + 1e-7)."""

    def __init__(self, lr: float = 0.001, beta1: float = 0.9, beta2: float = 0.999) -> None:
        self.lr = lr
        self.beta1 = beta1
        self.beta2 = beta2
        self.iter = 0
        self.m: Any = None
        self.v: Any = None

    def update(self, params: Arrays, grads: Arrays) -> None:
        """One step."""
        if self.m is None:
            self.m, self.v = _zeros(params), _zeros(params)
        self.iter += 1
        values, gradients, m, v = _lists("Adam", params, grads, self.m, self.v)
        # The kernel divides sqrt(v) by sqrt(1 - beta2^t) before it adds eps, the course multiplies the quotient by it afterwards.
        eps = 1e-7 / float(np.sqrt(1 - self.beta2**self.iter))
        options: list[Any] = [float(self.lr), float(self.beta1), float(self.beta2), eps, 0.0, False, False]
        current().adam_update(values, gradients, m, v, None, [self.iter] * len(values), *options)
