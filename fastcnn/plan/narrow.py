"""Runs of narrow layers with images in the lanes (fastcnn/backends/cpu/_lanes.pyx)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fastcnn import nn
from fastcnn.backends.cpu import _lanes, _runtime
from fastcnn.plan.memory import Layout, Memory
from fastcnn.plan.segment import Convolution, Layer, Row, Segment, accumulate, give_gradient, value

# min(C, O) below this leaves lanes empty that are channels; from twice as many on channels-last tiles and Winograd do better, whatever the other number is,
# unless the output channels fill their vectors badly and there are groups of images for two threads: 36 of 48 lanes (filterbank-mnist, 64 images: 0.43 ms in
# the lanes, 0.59 otherwise; 16 images: 0.21 and 0.15).
NARROW = 16
WELL_FILLED = 0.8
MOST_STAGE_BYTES = 4 << 20  # of a group's images in one stage: beyond L2 several times over, so nothing is gained by going through the stages group by group
MOST_SUM_BYTES = 512 << 10  # of the lanes of a weight gradient: they must stay in L2
MOST_STAGES = 16


class Stage:
    """A convolution and what follows it, as Lanes wants it; `taken` layers of the model."""

    def __init__(self, convolution: Convolution, spec: tuple, taken: int, output_shape: tuple[int, int, int]) -> None:
        self.convolution, self.spec, self.taken, self.output_shape = convolution, spec, taken, output_shape


def declines(layer: nn.Module, shape: tuple, batch: int, dtype: np.dtype) -> str | None:
    """Why a convolution on (C, H, W) images does not run in the lanes, or None."""
    lanes = _runtime.vector_bytes() // dtype.itemsize
    C, O = layer.in_channels, layer.out_channels
    if layer.groups != 1:
        return f"groups = {layer.groups}"
    filled = O / (lanes * -(-O // lanes))
    if min(C, O) >= NARROW or max(C, O) >= 2 * NARROW and (C >= 2 * NARROW or filled >= WELL_FILLED or batch < 2 * lanes):
        return f"{C} -> {O} channels fill vectors"
    if 2 * batch <= lanes:
        return f"{batch} images fill less than half of {lanes} lanes"
    O, OH, OW = Convolution("", layer).output_shape(shape)
    if OH == OW == 1:
        return "its kernel covers the input"
    if O * OH * OW * lanes * dtype.itemsize > MOST_STAGE_BYTES:
        return f"{O}x{OH}x{OW} times {lanes} images is more than {MOST_STAGE_BYTES >> 20} MiB"
    if layer.weight.requires_grad and layer.weight.size * lanes * dtype.itemsize > MOST_SUM_BYTES:
        return f"the lanes of its weight gradient are more than {MOST_SUM_BYTES >> 10} KiB"
    return None


def stage(layers: Sequence[Layer], shape: tuple, dtype: np.dtype) -> Stage:
    """The stage that begins with the convolution layers[0]."""
    convolution = Convolution(*layers[0])
    O, H, W = convolution.output_shape(shape)
    activation, pool, first, taken = None, None, False, 1
    for _, layer in layers[1:]:
        if activation is None and (found := slope_activation(layer)) is not None:
            activation, first = found, pool is None
        elif pool is None and (found := plain_pool(layer, H, W)) is not None:
            pool = found
            (_, (QH, QW), (TH, TW)) = pool
            H, W = (H - QH) // TH + 1, (W - QW) // TW + 1
        else:
            break
        taken += 1
    spec = (O, convolution.layer.kernel_size, convolution.stride, convolution.padding, convolution.dilation), activation, first, pool
    return Stage(convolution, spec, taken, (O, H, W))


def slope_activation(layer: nn.Module) -> tuple[str, float] | None:
    """(name, slope) of an activation whose derivative can be told from its output."""
    if type(layer) is nn.ReLU:
        return "relu", 0.0
    if type(layer) is nn.LeakyReLU and layer.negative_slope > 0:
        return "leaky_relu", float(layer.negative_slope)
    return None


def plain_pool(layer: nn.Module, H: int, W: int) -> tuple | None:
    """("max" or "avg", window, stride) of a pooling without padding, dilation or ceil_mode whose windows lie in HxW."""
    if type(layer) not in (nn.MaxPool2d, nn.AvgPool2d) or layer.ceil_mode:
        return None
    window, stride, padding = (both(size) for size in (layer.kernel_size, layer.stride, layer.padding))
    if padding != (0, 0) or min(*window, *stride) < 1 or window[0] > H or window[1] > W or window[0] * window[1] > 127:
        return None
    if type(layer) is nn.MaxPool2d:
        return ("max", window, stride) if both(layer.dilation) == (1, 1) and not layer.return_indices else None
    return ("avg", window, stride) if layer.divisor_override is None else None


def both(size: int | Sequence[int]) -> tuple[int, int]:
    return (size, size) if isinstance(size, (int, np.integer)) else tuple(size)


def apart(arrays: Sequence[np.ndarray | None]) -> list[np.ndarray | None]:
    """The arrays; a fresh one for each that is there twice: stages that share a parameter each write a gradient of their own, to be added up."""
    seen: set[int] = set()
    distinct = []
    for array in arrays:
        if array is not None and id(array) in seen:
            array = np.empty_like(array)
        seen.add(id(array))
        distinct.append(array)
    return distinct


class NarrowRun(Segment):
    in_turn = True

    def __init__(
        self, layers: Sequence[Layer], training: bool, stages: Sequence[Stage], lanes: _lanes.Lanes, shape: tuple, region: str, memory: Memory, layout: Layout
    ) -> None:
        super().__init__(layers, training)
        self.stages, self.lanes, self.memory = list(stages), lanes, memory
        dtype = stages[0].convolution.weight.dtype
        self.output = layout.buffer((shape[0], *stages[-1].output_shape), dtype, region=None if training else region)
        self.grad_input = layout.buffer(shape, dtype) if training and stages[0].convolution.layer.requires_input_grad else None

    def prepare(self, x: np.ndarray, output_shape: tuple[int, ...] | None) -> np.ndarray:
        return self.output.array

    def _weights(self) -> tuple[list, list]:
        return [s.convolution.weight.data for s in self.stages], [value(s.convolution.bias) for s in self.stages]

    def forward(self, x: np.ndarray) -> np.ndarray:
        self.lanes.forward(np.ascontiguousarray(x), *self._weights(), self.training, self.output.array)
        return self.output.array

    def backward(self, grad_output: np.ndarray) -> np.ndarray | None:
        convolutions = [s.convolution for s in self.stages]
        weights = apart([give_gradient(c.weight, self.memory) for c in convolutions])
        biases = apart([give_gradient(c.bias, self.memory) for c in convolutions])
        grad_input = None if self.grad_input is None else self.grad_input.array
        self.lanes.backward(np.ascontiguousarray(grad_output), self._weights()[0], weights, biases, grad_input)
        for c, weight, bias in zip(convolutions, weights, biases, strict=True):
            accumulate(c.weight, weight)
            accumulate(c.bias, bias)
        return grad_input

    def rows(self) -> list[Row]:
        rows, at = [], 0
        kept = self.lanes.bytes_for(self.output.shape[0]) // len(self.stages) if self.training else 0
        for stage in self.stages:
            own = self.layers[at : at + stage.taken]
            at += stage.taken
            fused = ", ".join(type(layer).__name__ for _, layer in own[1:])
            rows.append(Row(f"{own[0][0]} Conv2d", "images in lanes", "direct", fused, kept))
        return rows
