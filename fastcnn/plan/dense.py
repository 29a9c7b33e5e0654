"""Linear layers with their activation, and the flattening before them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fastcnn import nn
from fastcnn.backends.cpu import _conv_forward, _conv_grad_weight, _formats
from fastcnn.plan.memory import Buffer, Layout, Memory
from fastcnn.plan.segment import Layer, Row, Segment, accumulate, check_gradient, give_gradient, value


class Dense(Segment):
    """y = x W^T + b for (N, C) inputs."""

    owns_output = True

    def __init__(self, layers: Sequence[Layer], training: bool, memory: Memory) -> None:
        super().__init__(layers, training)
        self.layer, self.memory = layers[0][1], memory

    def forward(self, x: np.ndarray) -> np.ndarray:
        self.x = x
        return _conv_forward.linear(x, self.layer.weight.data, value(self.layer.bias))

    def backward(self, grad_output: np.ndarray) -> np.ndarray | None:
        layer = self.layer
        gradient = give_gradient(layer.weight, self.memory)
        if gradient is not None:
            accumulate(layer.weight, _conv_grad_weight.linear_grad_weight(grad_output, self.x, out=gradient))
        if layer.bias is not None and layer.bias.requires_grad:
            accumulate(layer.bias, _conv_grad_weight.linear_grad_bias(grad_output))
        return _conv_forward.linear_grad_input(grad_output, layer.weight.data) if layer.requires_input_grad else None

    def rows(self) -> list[Row]:
        return [Row(self.names(), "rows", "gemm", "", 0)]


class Flat(Segment):
    """nn.Flatten of images: (N, C, H, W) -> (N, C * H * W); channels-last images are put in (C, H, W) order."""

    def __init__(self, layers: Sequence[Layer], shape: tuple, dtype: np.dtype, training: bool, channels_last: bool, layout: Layout) -> None:
        super().__init__(layers, training)
        self.shape = shape
        self.copy: Buffer | None = layout.buffer(shape, dtype, region=None if training else "flat") if channels_last and shape[2] * shape[3] > 1 else None

    def prepare(self, x: np.ndarray, output_shape: tuple[int, ...] | None) -> np.ndarray:
        return np.empty(output_shape, x.dtype)

    def forward(self, x: np.ndarray) -> np.ndarray:
        if self.copy is not None:
            _formats.convert(x, self.copy.array)
            x = self.copy.array
        return x.reshape(len(x), -1)

    def backward(self, grad_output: np.ndarray) -> np.ndarray:
        return grad_output.reshape(self.shape)

    def rows(self) -> list[Row]:
        return [Row(self.names(), "rows", "transpose" if self.copy else "view", "", self.copy.nbytes if self.copy else 0)]


class Own(Segment):
    """A layer that the plan has no better way for: it runs as itself."""

    def __init__(self, layers: Sequence[Layer], training: bool) -> None:
        super().__init__(layers, training)
        self.layer: nn.Module = layers[0][1]

    def forward(self, x: np.ndarray) -> np.ndarray:
        self.kind = (x.shape, x.dtype) if isinstance(x, np.ndarray) else None
        y = self.layer(x)
        # Identity, Dropout in evaluation and Unflatten give their input back
        self.owns_output = not (isinstance(x, np.ndarray) and isinstance(y, np.ndarray) and np.may_share_memory(x, y))
        return y

    def backward(self, grad_output: np.ndarray) -> np.ndarray | None:
        grad = self.layer.backward(grad_output)
        if grad is not None and self.kind is not None:
            check_gradient(grad, self.kind, f"{self.names()}: backward gave")
        return grad

    def rows(self) -> list[Row]:
        return [Row(self.names(), "as it comes", "as itself", "", 0)]
