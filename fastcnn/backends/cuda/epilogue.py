"""What a kernel may do to a sum before it writes it: the activations, by the formulas that compute them alone, so fused layers give the same bits."""

from __future__ import annotations

from . import activation
from ._jit import inlined

_relu, _leaky_relu, _sigmoid, _tanh = (inlined(op.formula) for op in (activation._relu, activation._leaky_relu, activation._sigmoid, activation._tanh))


@inlined
def none(value, slope):
    return value


@inlined
def relu(value, slope):
    return _relu(value)


@inlined
def leaky_relu(value, slope):
    return _leaky_relu(value, slope)


@inlined
def sigmoid(value, slope):
    return _sigmoid(value)


@inlined
def tanh(value, slope):
    return _tanh(value)


ACTIVATIONS = {"none": none, "relu": relu, "leaky_relu": leaky_relu, "sigmoid": sigmoid, "tanh": tanh}
