"""Segment: a run of layers that a plan executes as one, and what all kinds of it share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from fastcnn import nn
from fastcnn.plan.memory import Memory
from fastcnn.shapes import ShapeError, by, kernel_extent

Layer = tuple[str, nn.Module]  # its path in the model, and the module


class Row(NamedTuple):
    """A line of a plan's table."""

    layers: str
    layout: str
    algorithm: str
    fused: str
    nbytes: int


class Segment:
    """forward(x) -> y and backward(grad_output) -> grad_input; where `training`, forward keeps what backward needs.

    Arrays that a segment hands on may lie in the plan's memory: they hold until the next forward (or backward) of the plan. After backward of the
    segment behind it nobody reads a segment's output any more: its memory is where that segment writes the gradient, if `lends_output`.
    """

    lends_output = False
    planned_shape: tuple[int, ...] | None = None  # of the output; None where it is not known before the layer has run
    owns_output = False  # whether the latest forward made a fresh output
    makes_channels_last = False  # whether the output is dense channels-last memory of the plan
    in_turn = False  # whether in inference the output lies in one of the two places that such segments use in turns

    def __init__(self, layers: Sequence[Layer], training: bool) -> None:
        self.layers, self.training = list(layers), training

    def prepare(self, x: np.ndarray, output_shape: tuple[int, ...] | None) -> np.ndarray | None:
        """Choose algorithms for an input of this shape and memory format; returns an output of the same kind, or None where it is not known."""
        if output_shape is None:
            return None
        if len(output_shape) == 4 and x.ndim == 4 and not x.flags.c_contiguous:  # layers keep the memory format
            N, C, H, W = output_shape
            return np.empty((N, H, W, C), x.dtype).transpose(0, 3, 1, 2)
        return np.empty(output_shape, x.dtype)

    def forward(self, x: np.ndarray) -> np.ndarray:
        raise NotImplementedError

    def backward(self, grad_output: np.ndarray) -> np.ndarray | None:
        raise NotImplementedError

    def refresh(self) -> None:
        """Forget what was made of the parameters' values; only segments for inference keep such things."""

    def rows(self) -> list[Row]:
        raise NotImplementedError

    def names(self) -> str:
        return ", ".join(f"{path} {type(layer).__name__}" if path else type(layer).__name__ for path, layer in self.layers)


class Convolution:
    """The numbers of a Conv2d: what a segment needs of it."""

    def __init__(self, path: str, layer: nn.Conv2d) -> None:
        self.path, self.layer = path, layer
        self.weight, self.bias = layer.weight, layer.bias
        self.stride, self.dilation, self.groups = layer.stride, layer.dilation, layer.groups
        self.padding = pads(layer)

    @property
    def options(self) -> tuple:
        return self.stride, self.padding, self.dilation, self.groups

    def fits(self, input_shape: Sequence[int]) -> bool:
        """Can a (C, H, W) image be convolved, with parameters of the shapes that the layer was made with? If not, the layer itself says why."""
        layer, O = self.layer, self.layer.out_channels
        if min(*self.stride, *self.dilation) < 1 or min(width for pair in self.padding for width in pair) < 0:
            return False
        if layer.padding == "same" and self.stride != (1, 1):
            return False
        if self.weight.shape != (O, layer.in_channels // self.groups, *layer.kernel_size) or (self.bias is not None and self.bias.shape != (O,)):
            return False
        return input_shape[0] == layer.in_channels and min(self.output_shape(input_shape)) >= 1

    def output_shape(self, input_shape: Sequence[int]) -> tuple[int, ...]:
        """(O, OH, OW) for (C, H, W)."""
        size = []
        for extent, kernel, step, (before, after), distance in zip(
            input_shape[1:], self.layer.kernel_size, self.stride, self.padding, self.dilation, strict=True
        ):
            size.append((extent + before + after - kernel_extent(kernel, distance)) // step + 1)
        return self.layer.out_channels, *size


def pads(layer: nn.Conv2d) -> tuple[tuple[int, int], tuple[int, int]]:
    """((top, bottom), (left, right)); for "same" the odd pixel comes after, as in functional.conv2d."""
    if layer.padding == "valid":
        return (0, 0), (0, 0)
    if layer.padding == "same":
        totals = [kernel_extent(kernel, distance) - 1 for kernel, distance in zip(layer.kernel_size, layer.dilation, strict=True)]
        return tuple((total // 2, total - total // 2) for total in totals)
    return tuple((width, width) for width in layer.padding)


def check_gradient(gradient: Any, kind: tuple[tuple[int, ...], np.dtype], what: str) -> None:
    """ShapeError or TypeError for what is no gradient of an array of this shape and dtype: the segments read memory without asking again."""
    shape, dtype = kind
    if not isinstance(gradient, np.ndarray) or gradient.dtype != dtype:
        raise TypeError(f"{what} a gradient of type {getattr(gradient, 'dtype', type(gradient).__name__)} for {dtype}; nothing is cast")
    if gradient.shape != shape:
        raise ShapeError(f"{what} a gradient {by(gradient.shape)} for {by(shape)}")


def give_gradient(parameter: nn.Parameter | None, memory: Memory) -> np.ndarray | None:
    """Where the parameter's gradient is to be written, or None if it wants none."""
    return memory.gradient(parameter) if parameter is not None and parameter.requires_grad else None


def accumulate(parameter: nn.Parameter | None, gradient: np.ndarray | None) -> None:
    if parameter is not None and gradient is not None:
        parameter.accumulate(gradient)


def value(parameter: Any) -> np.ndarray | None:
    return None if parameter is None else parameter.data
