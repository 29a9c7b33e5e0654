"""Average pooling of channels-last images, into memory of the plan."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fastcnn import nn
from fastcnn.backends.cpu import _formats, _pool
from fastcnn.plan.memory import Layout
from fastcnn.plan.narrow import both
from fastcnn.plan.segment import Layer, Row, Segment

Windows = tuple[tuple[int, int], tuple[int, int]]  # size, stride


def windows_of(layer: nn.Module, H: int, W: int) -> Windows | None:
    """The windows of an average that lie regularly inside HxW pixels; None for other layers, padded or uneven ones."""
    if type(layer) is nn.AvgPool2d:
        size, stride, padding = (both(option) for option in (layer.kernel_size, layer.stride, layer.padding))
        fits = padding == (0, 0) and min(*size, *stride) >= 1 and size[0] <= H and size[1] <= W
        return (size, stride) if fits and not layer.ceil_mode and layer.divisor_override is None else None
    if type(layer) is nn.AdaptiveAvgPool2d:
        output = layer.output_size if isinstance(layer.output_size, (tuple, list)) else (layer.output_size, layer.output_size)
        OH, OW = (extent if wanted is None else wanted for wanted, extent in zip(output, (H, W), strict=True))
        if min(OH, OW) >= 1 and H % OH == 0 and W % OW == 0:
            return (H // OH, W // OW), (H // OH, W // OW)
    return None


def extents(windows: Windows, H: int, W: int) -> tuple[int, int]:
    """(OH, OW)"""
    (KH, KW), (SH, SW) = windows
    return (H - KH) // SH + 1, (W - KW) // SW + 1


class Mean(Segment):
    in_turn = True
    lends_output = True
    makes_channels_last = True

    def __init__(self, layers: Sequence[Layer], windows: Windows, shape: tuple, training: bool, borrow: bool, region: str, layout: Layout) -> None:
        super().__init__(layers, training)
        self.size, self.stride = windows
        batch, C, H, W = shape
        self.output_shape = C, *extents(windows, H, W)
        dtype = layout.dtype
        self.output = layout.buffer((batch, *self.output_shape), dtype, channels_last=True, region=None if training else region)
        self.own_gradient = layout.buffer(shape, dtype, channels_last=True) if training and not borrow else None
        self.wants_input_grad = layers[0][1].requires_input_grad

    def prepare(self, x: np.ndarray, output_shape: tuple[int, ...] | None) -> np.ndarray:
        return self.output.array

    def forward(self, x: np.ndarray) -> np.ndarray:
        self.x = x
        output = self.output.array
        return _pool.avg_pool2d(x, self.size, self.stride, (0, 0), output.shape[2:], True, None, output)

    def backward(self, grad_output: np.ndarray) -> np.ndarray | None:
        if not self.wants_input_grad:
            return None
        output = self.output.array
        if grad_output.strides != output.strides and output.shape[2] * output.shape[3] > 1:
            _formats.convert(grad_output, output)  # nobody reads the output any more
            grad_output = output
        target = self.x if self.own_gradient is None else self.own_gradient.array
        return _pool.avg_pool2d_backward(grad_output, target.shape, self.size, self.stride, (0, 0), True, None, target)

    def rows(self) -> list[Row]:
        nbytes = self.output.nbytes + (self.own_gradient.nbytes if self.own_gradient is not None else 0)
        return [Row(self.names(), "channels-last", "windows", "", nbytes)]
