"""A layer and the activation behind it computed as one, where the current backend has kernels that apply an activation to each number before it is written.

Only forward changes, by one pass over memory less. The activation keeps its output, of which its backward makes the derivative, and every backward runs as
ever; so the numbers are the same, to the last bit. (The backend "cpu" goes further, see fastcnn.plan.)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from fastcnn import backend
from fastcnn.nn.activation import LeakyReLU, ReLU, Sigmoid, Tanh
from fastcnn.nn.conv import Conv2d
from fastcnn.nn.linear import Linear
from fastcnn.nn.module import Module
from fastcnn.shapes import ShapeError

LAYERS = (Conv2d, Linear)
ACTIVATIONS = {ReLU: "relu", LeakyReLU: "leaky_relu", Sigmoid: "sigmoid", Tanh: "tanh"}


def replaced(layer: Module) -> bool:
    """Has somebody given the object methods of its own, to look at what passes through it?"""
    return "forward" in vars(layer) or "backward" in vars(layer)


def fused(modules: Sequence[Module]) -> Sequence[Callable]:
    """What a chain of modules calls one after the other: themselves, or pairs of them."""
    if not hasattr(backend.current(), "conv2d_activated"):
        return modules
    calls: list[Callable] = []
    for module in modules:
        if calls and type(calls[-1]) in LAYERS and _can_be_joined(calls[-1], module):
            calls[-1] = Activated(calls[-1], module)
        else:
            calls.append(module)
    return calls


def _can_be_joined(layer: Module, activation: Module) -> bool:
    """Subclasses and objects with methods of their own run as they are; of a leaky ReLU with a negative slope the output does not tell the input's sign."""
    if type(activation) not in ACTIVATIONS or replaced(layer) or replaced(activation):
        return False
    return type(activation) is not LeakyReLU or not activation.negative_slope < 0


class Activated:
    """A layer and the activation behind it, called as one."""

    def __init__(self, layer: Any, activation: Any) -> None:
        self.layer, self.activation = layer, activation
        self.name, self.slope = ACTIVATIONS[type(activation)], getattr(activation, "negative_slope", 0.0)

    def __call__(self, input: Any) -> Any:
        try:
            output = self.layer.forward_activated(input, self.name, self.slope)
        except ShapeError as error:
            self.layer._locate(error)
            raise
        self.activation.save_for_backward(output)
        return output
