"""Two paths through the network whose results are added: nn.Residual, with the activation behind it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fastcnn.backends.cpu import _add
from fastcnn.plan.memory import Layout
from fastcnn.plan.narrow import slope_activation
from fastcnn.plan.segment import Layer, Row, Segment


class Sum(Segment):
    """y = act(body(x) + shortcut(x)); an empty shortcut is x itself. Both paths are segments of the same plan."""

    in_turn = True

    def __init__(
        self,
        layers: Sequence[Layer],
        body: Sequence[Segment],
        shortcut: Sequence[Segment],
        input_shape: tuple,
        shape: tuple,
        dtype: np.dtype,
        training: bool,
        channels_last: bool,
        region: str,
        layout: Layout,
    ) -> None:
        super().__init__(layers, training)
        self.body, self.shortcut = list(body), list(shortcut)
        self.activation, self.slope = (slope_activation(layers[1][1]) if len(layers) > 1 else None) or (None, 0.0)
        self.makes_channels_last = channels_last
        self.lends_output = self.activation is None  # whose derivative is told from the output
        self.y = layout.buffer(shape, dtype, channels_last, region=None if training else region)
        self.grad = layout.buffer(shape, dtype, channels_last) if training and self.activation else None
        self.grad_input = layout.buffer(input_shape, dtype, channels_last) if training else None

    def prepare(self, x: np.ndarray, output_shape: tuple[int, ...] | None) -> np.ndarray:
        for path in (self.body, self.shortcut):
            a = x
            for segment in path:
                a = segment.prepare(a, segment.planned_shape)
        return self.y.array

    def refresh(self) -> None:
        for segment in (*self.body, *self.shortcut):
            segment.refresh()

    def forward(self, x: np.ndarray) -> np.ndarray:
        a = b = x
        for segment in self.body:
            a = segment.forward(a)
        for segment in self.shortcut:
            b = segment.forward(b)
        _add.add_act(a, b, self.y.array, self.activation, self.slope)
        return self.y.array

    def backward(self, grad_output: np.ndarray) -> np.ndarray | None:
        grad = grad_output
        if self.grad is not None:
            grad = self.grad.array
            _add.derive(grad_output, self.y.array, grad, self.activation, self.slope)
        a: np.ndarray | None = grad
        b: np.ndarray | None = grad
        for segment in reversed(self.body):
            if a is not None:
                a = segment.backward(a)
        for segment in reversed(self.shortcut):
            if b is not None:
                b = segment.backward(b)
        if a is None or b is None:  # half a gradient is none
            return None
        total = self.grad_input.array
        _add.add_act(a, b, total, None, 0.0)
        return total

    def rows(self) -> list[Row]:
        inner = [row._replace(layers=f"  {row.layers}") for segment in (*self.body, *self.shortcut) for row in segment.rows()]
        fused = ", ".join(type(layer).__name__ for _, layer in self.layers[1:])
        nbytes = sum(buffer.nbytes for buffer in (self.y, self.grad, self.grad_input) if buffer is not None)
        return [*inner, Row(f"{self.layers[0][0]} Residual", "channels-last" if self.y.channels_last else "rows", "sum", fused, nbytes)]
