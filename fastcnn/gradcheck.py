"""Numerical gradient check in float64, for functions with a backward and for layers, the user's own included.

The gradient is checked along a random direction d instead of element by element: with L = sum(grad_output * output),

    (L(x + eps*d) - L(x - eps*d)) / (2*eps)   must equal   <grad_x, d>

for each array argument in turn. One direction costs two evaluations whatever the size, and a wrong element shows with probability 1.

A function like ReLU has kinks, where the numerical derivative means nothing. They are found by the second difference
D(eps) = L(x + eps*d) - 2*L(x) + L(x - eps*d): where L is smooth, D(eps) = 4*D(eps/2) up to terms of fourth order; across a kink it is not.
Then the point is moved a little at random, and the check repeated.

Source: the idea of a random direction and of redrawing points near a kink is Chainer's (Tokui et al. 2019).
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import numpy as np

EPS = 1e-5  # the central difference is off by eps^2 ~ 1e-10 and by rounding, 1e-16/eps ~ 1e-11
MAX_REDRAWS = 20
SEED = 314159  # not 0: many a test draws x from default_rng(0), and grad_output would then equal x


class _Argument:
    """One array to differentiate by: its name, how to read and write its value."""

    def __init__(self, name: str, get: Callable[[], np.ndarray], set: Callable[[np.ndarray], None]) -> None:
        if not isinstance(get(), np.ndarray) or get().dtype != np.float64:
            raise TypeError(f"gradcheck: {name} must be a float64 array, got {getattr(get(), 'dtype', type(get()).__name__)}")
        self.name, self.get, self.set = name, get, set


def gradcheck(
    function: Any,
    *inputs: np.ndarray,
    backward: Callable[..., Any] | None = None,
    tolerance: float = 1e-6,
    directions: int = 2,
    rng: np.random.Generator | int = SEED,
    **options: Any,
) -> float:
    """Compare analytic with numerical gradients; return the largest relative error, or raise AssertionError naming the argument.

    function   a function, checked with respect to each of the float64 arrays `inputs`; or a layer with forward, backward and (if it has parameters)
               named_parameters(), checked with respect to its one input and every parameter
    backward   backward(grad_output, *inputs, **options) -> the gradients in the order of inputs, None for one not to be checked. Default: the function
               called <name>_backward beside `function`
    options    passed on to function and backward

    >>> import fastcnn.functional as F
    >>> gradcheck(F.tanh, np.linspace(-1.0, 1.0, 5)) < 1e-6
    True
    """
    rng = np.random.default_rng(rng)
    if hasattr(function, "backward") and hasattr(function, "forward"):
        name, arguments, forward, gradients = _layer(function, inputs, options)
    else:
        name, arguments, forward, gradients = _function(function, inputs, backward, options)
    output = forward()
    grad_output = rng.standard_normal(np.shape(output))
    grad_output = np.asarray(grad_output) if isinstance(output, np.ndarray) else float(grad_output)
    worst = 0.0
    for argument in arguments:
        for _ in range(directions):
            worst = max(worst, _check(name, argument, arguments, forward, gradients, grad_output, tolerance, rng))
    return worst


def _function(function: Any, inputs: tuple, backward: Any, options: dict) -> tuple:
    """The pieces of a function: its name, arguments, forward() and gradients(grad_output) -> list like arguments."""
    name = getattr(function, "__name__", repr(function))
    if backward is None:
        backward = getattr(sys.modules.get(getattr(function, "__module__", "")), name + "_backward", None)
        if backward is None:
            raise ValueError(f"gradcheck: {name} has no {name}_backward beside it; pass backward=")
    values = [np.array(value) for value in inputs]
    names = function.__code__.co_varnames if hasattr(function, "__code__") else ()
    arguments = [
        _Argument(names[i] if i < len(names) else f"input {i}", lambda i=i: values[i], lambda value, i=i: values.__setitem__(i, np.asarray(value)))
        for i in range(len(values))
    ]

    def gradients(grad_output: Any) -> list:
        result = backward(grad_output, *values, **options)
        result = list(result) if isinstance(result, tuple) else [result]
        return result + [None] * (len(values) - len(result))

    return name, arguments, lambda: function(*values, **options), gradients


def _layer(layer: Any, inputs: tuple, options: dict) -> tuple:
    """The pieces of a layer: its input and parameters are the arguments."""
    name = type(layer).__name__
    if len(inputs) != 1 or options:
        raise TypeError(f"gradcheck: a layer is checked with exactly one input and no options, got {len(inputs)} inputs and {sorted(options)}")
    values = [np.array(inputs[0])]
    parameters = dict(layer.named_parameters()) if hasattr(layer, "named_parameters") else {}
    arguments = [_Argument("input", lambda: values[0], lambda value: values.__setitem__(0, np.asarray(value)))]
    arguments += [_Argument(key, lambda p=p: p.data, lambda value, p=p: np.copyto(p.data, value)) for key, p in parameters.items()]

    def gradients(grad_output: Any) -> list:
        for parameter in parameters.values():
            parameter.grad = None
        layer.forward(values[0])
        found = [layer.backward(grad_output), *(parameter.grad for parameter in parameters.values())]
        wanted = [getattr(layer, "requires_input_grad", True), *(getattr(parameter, "requires_grad", True) for parameter in parameters.values())]
        for argument, gradient, needed in zip(arguments, found, wanted, strict=True):
            if needed and gradient is None:
                raise AssertionError(f"{name}: backward gave no gradient of {argument.name}")
        return found

    return name, arguments, lambda: layer.forward(values[0]), gradients


def _check(
    name: str, argument: _Argument, arguments: list, forward: Callable, gradients: Callable, grad_output: Any, tolerance: float, rng: Any
) -> float:
    """Relative error of one argument along one direction, at a point without a kink."""
    original = argument.get().copy()

    def loss(step: float, direction: np.ndarray) -> float:
        argument.set(point + step * direction)
        value = float(np.sum(grad_output * forward()))
        argument.set(point.copy())
        return value

    point = original
    try:
        for _ in range(MAX_REDRAWS):
            gradient = gradients(grad_output)[arguments.index(argument)]
            if gradient is None:
                return 0.0
            if gradient.shape != point.shape:
                raise AssertionError(f"{name}: the gradient of {argument.name} has shape {gradient.shape}, not {point.shape}")
            if not point.size:
                return 0.0
            direction = rng.standard_normal(point.shape)
            direction = direction / np.sqrt(np.sum(direction**2))
            middle, ahead, behind = loss(0, direction), loss(EPS, direction), loss(-EPS, direction)
            numerical, analytic = (ahead - behind) / (2 * EPS), float(np.sum(gradient * direction))
            # A gradient may happen to be orthogonal to the direction; errors are relative to its size along a typical one. It may also be zero (a bias before
            # a batch norm): then the numerical one is the rounding of two losses, a few units in the last place divided by eps.
            noise = 8 * np.finfo(np.float64).eps * max(abs(middle), 1) / EPS
            scale = max(abs(numerical), abs(analytic), float(np.sqrt(np.mean(gradient**2))), noise / tolerance)
            halves = loss(EPS / 2, direction) - 2 * middle + loss(-EPS / 2, direction)
            bend = abs((ahead - 2 * middle + behind) - 4 * halves) / EPS
            error = abs(numerical - analytic) / scale
            if bend <= tolerance * scale + 8 * noise or error <= tolerance:
                if not error <= tolerance:
                    raise AssertionError(
                        f"{name}: the gradient of {argument.name} is {analytic:.12g} along a random direction but numerically {numerical:.12g} "
                        f"(relative error {error:.3g}, tolerance {tolerance:g})"
                    )
                return error
            # Near a kink: move on, by far more than eps and far less than the values.
            point = original + 1e-2 * (float(np.abs(original).max()) or 1.0) * rng.standard_normal(original.shape)
            argument.set(point.copy())
        raise AssertionError(f"{name}: no smooth point found near {argument.name} in {MAX_REDRAWS} tries (is the function discontinuous, or not finite?)")
    finally:
        argument.set(original)
