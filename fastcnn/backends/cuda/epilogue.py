"""What a kernel may do to a sum before it writes it: the activations that cost nothing when they are applied there."""

from __future__ import annotations

import math

from ._jit import inlined


@inlined
def _none(value, slope):
    return value


@inlined
def _relu(value, slope):
    """NaN stays NaN: it is not less than zero."""
    return type(value)(0) if value < type(value)(0) else value


@inlined
def _leaky_relu(value, slope):
    return value * slope if value < type(value)(0) else value


@inlined
def _sigmoid(value, slope):
    return type(value)(1) / (type(value)(1) + math.exp(-value))


@inlined
def _tanh(value, slope):
    return math.tanh(value)


ACTIVATIONS = {"none": _none, "relu": _relu, "leaky_relu": _leaky_relu, "sigmoid": _sigmoid, "tanh": _tanh}
