"""Layers that are matrix products over the images: Linear, convolutions whose kernel covers the input; and the flattening before them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fastcnn import nn
from fastcnn.backends.cpu import _conv_forward, _conv_grad_weight, _eltwise, _formats, _runtime, select
from fastcnn.plan.memory import Buffer, Layout, Memory
from fastcnn.plan.narrow import slope_activation
from fastcnn.plan.segment import Layer, Row, Segment, accumulate, check_gradient, give_gradient, value


class Dense(Segment):
    """y = act(x W^T + b) over images in rows; a covering convolution's weight (O, C, KH, KW) is taken as (O, C * KH * KW)."""

    owns_output = True

    def __init__(self, layers: Sequence[Layer], shape: tuple, training: bool, memory: Memory) -> None:
        super().__init__(layers, training)
        self.layer, self.memory, self.shape = layers[0][1], memory, shape
        self.features = self.layer.weight.shape[0]
        self.output_shape = (shape[0], self.features, *(1 for _ in shape[2:]))
        self.activation, self.slope = (slope_activation(layers[1][1]) if len(layers) > 1 else None) or (None, 0.0)
        self.packed = self.checksum = None

    def prepare(self, x: np.ndarray, output_shape: tuple[int, ...] | None) -> np.ndarray:
        rows, weight = x.reshape(len(x), -1), self._weight()
        self.product = select.choose("linear", (rows, weight, None))[0]
        self.back = select.choose("linear_grad_input", (np.empty((len(x), self.features), x.dtype), weight))[0]
        self.refresh()
        return np.empty(self.output_shape, x.dtype)

    def _weight(self) -> np.ndarray:
        return self.layer.weight.data.reshape(self.features, -1)

    def refresh(self) -> None:
        """Inference packs the weights once for all batches, and again when their values have changed, unless they are read where they lie."""
        if self.training or self.product.name != "gemm":
            return
        weight = self.layer.weight.data
        checksum = _runtime.checksum((weight,))
        if checksum != self.checksum:
            self.packed, self.checksum = _conv_forward.pack(weight.reshape(self.features, -1, 1, 1), 1), checksum

    def forward(self, x: np.ndarray) -> np.ndarray:
        self.x = np.ascontiguousarray(x).reshape(len(x), -1)
        bias = value(self.layer.bias)
        if self.packed is None:
            y = self.product.function(self.x, self._weight(), bias)
        else:
            y = _conv_forward.linear(self.x, self._weight(), bias, None, self.packed)
        if self.activation == "relu":
            y = _eltwise.relu(y)
        elif self.activation == "leaky_relu":
            y = _eltwise.leaky_relu(y, self.slope)
        self.y = y
        return y.reshape(self.output_shape)

    def backward(self, grad_output: np.ndarray) -> np.ndarray | None:
        layer = self.layer
        grad = grad_output.reshape(len(grad_output), self.features)
        if self.activation == "relu":  # both derivatives can be told from the output
            grad = _eltwise.relu_backward(grad, self.y)
        elif self.activation == "leaky_relu":
            grad = _eltwise.leaky_relu_backward(grad, self.y, self.slope)
        gradient = give_gradient(layer.weight, self.memory)
        if gradient is not None:
            _conv_grad_weight.linear_grad_weight(grad, self.x, gradient.reshape(self.features, -1))
            accumulate(layer.weight, gradient)
        if layer.bias is not None and layer.bias.requires_grad:
            accumulate(layer.bias, _conv_grad_weight.linear_grad_bias(grad))
        if not layer.requires_input_grad:
            return None
        return self.back.function(grad, self._weight()).reshape(self.shape)

    def rows(self) -> list[Row]:
        (path, layer), rest = self.layers[0], self.layers[1:]
        nbytes, name = (0, self.product.name) if self.packed is None else (self.packed.nbytes, "gemm")
        return [Row(f"{path} {type(layer).__name__}", "rows", name, ", ".join(type(other).__name__ for _, other in rest), nbytes)]


class Flat(Segment):
    """nn.Flatten of images: (N, C, H, W) -> (N, C * H * W); channels-last images are put in (C, H, W) order."""

    def __init__(self, layers: Sequence[Layer], shape: tuple, dtype: np.dtype, training: bool, channels_last: bool, layout: Layout) -> None:
        super().__init__(layers, training)
        self.shape = shape
        copied = channels_last and shape[2] * shape[3] > 1
        self.copy: Buffer | None = layout.buffer(shape, dtype, region=None if training else "flat") if copied else None

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
