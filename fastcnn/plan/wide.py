"""A convolution in channels-last memory with the batch normalisation, activation and pooling behind it."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np

from fastcnn import nn
from fastcnn.backends.cpu import _conv_forward, _conv_grad_weight, _formats, _norm, _runtime, _winograd, select
from fastcnn.plan.means import Windows, extents, windows_of
from fastcnn.plan.memory import Layout, Memory
from fastcnn.plan.narrow import both, slope_activation
from fastcnn.plan.segment import Convolution, Layer, Row, Segment, accumulate, give_gradient, value


class Block:
    """The layers that one WideBlock takes: convolution, and of normalisation, activation and pooling those that follow it in this order. `shape` is the
    input's, (N, C, H, W)."""

    def __init__(self, layers: Sequence[Layer], shape: tuple, training: bool) -> None:
        rest = [layer for _, layer in layers[1:4]]
        self.convolution = Convolution(*layers[0])
        self.norm = self.activation = None
        self.pool: str | Windows | None = None  # as _norm.Following takes it
        O, H, W = self.conv_shape = self.output_shape = self.convolution.output_shape(shape[1:])
        taken = 0
        if rest and is_norm(rest[0], O, shape[0] * H * W, training):
            self.norm = rest[0]
            taken += 1
        if taken < len(rest) and (found := slope_activation(rest[taken])) is not None:
            self.activation = found
            taken += 1
        if taken < len(rest) and is_halving(rest[taken]) and min(H, W) >= 2:
            self.pool = "max"
            self.output_shape = O, H // 2, W // 2
            taken += 1
        elif taken and taken < len(rest) and (windows := windows_of(rest[taken], H, W)):
            self.pool = windows
            self.output_shape = O, *(extents(windows, H, W))
            taken += 1
        self.taken = 1 + taken

    def made_again(self, batch: int, dtype: np.dtype) -> bool:
        """Is the convolution's output better made again than kept? Above 64 MB no cache holds it, and a number takes 0.11 ns to come from memory (35 GB/s),
        the time of some 50 operations: a kernel of 25 taps and one channel costs no more."""
        O, H, W = self.conv_shape
        return batch * O * H * W * dtype.itemsize >= 64 << 20 and 2 * prod(self.convolution.weight.shape[1:]) <= 64

    def following(self, batch: int, dtype: np.dtype, training: bool) -> _norm.Following | None:
        """What does the work of the layers behind the convolution; None if there are none. In inference the normalisation is folded into the weights."""
        norm = self.norm if training else None
        if norm is None and self.activation is None and self.pool is None:
            return None
        activation, slope = self.activation or (None, 0.0)
        return _norm.Following((batch, *self.conv_shape), dtype, norm is not None, 0.0 if norm is None else norm.eps, activation, slope, self.pool)


def is_norm(layer: nn.Module, channels: int, count: int, training: bool) -> bool:
    """A BatchNorm2d for so many channels that takes the statistics of the batch (of more than one value) in training and running ones in evaluation."""
    if type(layer) is not nn.BatchNorm2d or layer.num_features != channels:
        return False
    vectors = [layer.running_mean, layer.running_var, *layer.parameters()]
    if any(vector is not None and vector.shape != (channels,) for vector in vectors):
        return False
    return count > 1 if training else layer.running_mean is not None and layer.running_var is not None


def is_halving(layer: nn.Module) -> bool:
    return (
        type(layer) is nn.MaxPool2d
        and not layer.ceil_mode
        and not layer.return_indices
        and (both(layer.kernel_size), both(layer.stride), both(layer.padding), both(layer.dilation)) == ((2, 2), (2, 2), (0, 0), (1, 1))
    )


class WideBlock(Segment):
    """In training y, the convolution's output, and z, the block's, are kept; backward writes the gradient of y over y, and that of its own input over the
    input, where the segment before it lends it.

    Where the next block is one that normalises what it loads, z is never made: the next block gets y, and asks `following` for the rest. Its gradient lies
    in a place that all such blocks share, since each is used up before the next is made.

    The first block of a network (`first`: in the outermost chain) may make y twice, once forward and once backward, and lend its place to the blocks between.
    """

    makes_channels_last = True

    def __init__(self, layers: Sequence[Layer], block: Block, shape: tuple, before: Segment | None, first: bool, memory: Memory, layout: Layout) -> None:
        super().__init__(layers, True)
        self.block, self.convolution, self.norm, self.memory = block, block.convolution, block.norm, memory
        dtype, batch = self.convolution.weight.dtype, shape[0]
        self.following = block.following(batch, dtype, True)
        in_place = self.norm is None and block.pool is None  # an activation's derivative can be told from its output
        self.lends_output = not (in_place and block.activation)
        self.again = first and block.pool is not None and not self.convolution.layer.requires_input_grad and block.made_again(batch, dtype)
        self.z = None if in_place else layout.buffer((batch, *block.output_shape), dtype, channels_last=True)
        self.winners = layout.buffer((batch, *block.output_shape), np.int8, channels_last=True) if block.pool == "max" else None
        self.y = layout.buffer((batch, *block.conv_shape), dtype, channels_last=True, made_twice=self.again)
        self.z = self.z or self.y
        self.own_gradient = None
        self.wants_input_grad = self.convolution.layer.requires_input_grad
        self.producer: WideBlock | None = None  # the block before, if its normalisation is left to this one
        if isinstance(before, WideBlock) and before.may_leave() and self._normalises(before):
            self.producer = before
            before.leave(layout)
        if self.wants_input_grad and self.producer is not None:
            self.own_gradient = layout.buffer(shape, dtype, channels_last=True, region="gradient of what is not stored")
        elif self.wants_input_grad and not (before is not None and before.lends_output):
            self.own_gradient = layout.buffer(shape, dtype, channels_last=True)
        self.grad_output = None
        self.chosen: dict[str, select.Impl] = {}
        self.strides: tuple[int, ...] = ()  # of the input that the algorithms were chosen for

    def may_leave(self) -> bool:
        return self.norm is not None and self.block.pool is None

    def leave(self, layout: Layout) -> None:
        """The next block does the normalisation."""
        layout.drop(self.z)
        self.z = self.y

    def _normalises(self, before: WideBlock) -> bool:
        """Can the convolution apply the normalisation before it to what it loads, and its gradients too?"""
        (N, C, H, W), (O, OH, OW), dtype = before.y.shape, self.block.conv_shape, before.y.dtype
        x, y = (np.empty((N, h, w, c), dtype).transpose(0, 3, 1, 2) for h, w, c in ((H, W, C), (OH, OW, O)))
        self._choose_all(x, y)
        return self.chosen["conv2d"].function is _winograd.conv2d and self.chosen["conv2d_grad_weight"].function is _winograd.conv2d_grad_weight

    def prepare(self, x: np.ndarray, output_shape: tuple[int, ...] | None) -> np.ndarray:
        self.strides = x.strides
        self._choose_all(x, self.y.array)
        return self.z.array

    def _choose_all(self, x: np.ndarray, y: np.ndarray) -> None:
        weight, options = self.convolution.weight.data, self.convolution.options
        calls = {
            "conv2d": (x, weight, value(self.convolution.bias), *options),
            "conv2d_grad_weight": (y, x, weight.shape, *options),
            "conv2d_grad_input": (y, weight, x.shape, *options),
        }
        self.chosen = {op: select.choose(op, arguments, channels_last=op != "conv2d_grad_weight")[0] for op, arguments in calls.items()}

    def _run(self, op: str, *arguments: object, **options: object) -> np.ndarray:
        return self.chosen[op].function(*arguments, *self.convolution.options, **options)

    def forward(self, x: np.ndarray) -> np.ndarray:
        norm, following, y = self.norm, self.following, self.y.array
        if x.strides != self.strides:  # a view, or what a layer that runs as itself has made: known only now
            self.prepare(x, None)
        self.x = x
        beside = {}
        if norm is not None and self.chosen["conv2d"].function is _winograd.conv2d:
            beside["statistics"] = following
        self._convolve(x, **beside)
        if norm is not None:
            following.take_statistics(y, value(norm.weight), value(norm.bias))
            norm.track(following.mean, following.var, y.size // y.shape[1])
        if following is not None and not self.leaves:
            following.apply(y, self.z.array, None if self.winners is None else self.winners.array)
        return self.z.array

    def _convolve(self, x: np.ndarray, **beside: Any) -> None:
        weight, bias = self.convolution.weight.data, value(self.convolution.bias)
        self._run("conv2d", x, weight, bias, out=self.y.array, **self._before(), **beside)

    def _before(self) -> dict[str, Any]:
        return {} if self.producer is None else {"before": self.producer.following}

    @property
    def leaves(self) -> bool:
        return self.z is self.y and self.norm is not None

    def backward(self, grad_output: np.ndarray) -> np.ndarray | None:
        convolution, norm, y = self.convolution, self.norm, self.y.array
        grad_output = self._channels_last(grad_output)
        if self.again:
            if np.may_share_memory(grad_output, y):
                grad_output = grad_output.copy(order="K")
            self._convolve(self.x)
        weight, bias = give_gradient(convolution.weight, self.memory), convolution.bias
        grad_bias = None
        wants_bias = bias is not None and bias.requires_grad
        if self.following is not None:
            winners = None if self.winners is None else self.winners.array
            grad_scale, grad_shift, grad_bias = self.following.backward(grad_output, y, None if norm is None else value(norm.weight), y, winners, wants_bias)
            if norm is not None:
                accumulate(norm.weight, grad_scale)
                accumulate(norm.bias, grad_shift)
            grad = y
        else:
            grad = grad_output
            if wants_bias:
                grad_bias = _conv_grad_weight.conv2d_grad_bias(grad)
        x = self.x
        if weight is not None:
            accumulate(convolution.weight, self._run("conv2d_grad_weight", grad, x, convolution.weight.shape, out=weight, **self._before()))
        if wants_bias:
            accumulate(bias, grad_bias)
        if not self.wants_input_grad:
            return None
        target = x if self.own_gradient is None else self.own_gradient.array
        return self._run("conv2d_grad_input", grad, convolution.weight.data, x.shape, out=target)

    def _channels_last(self, grad: np.ndarray) -> np.ndarray:
        if grad.strides == self.z.array.strides:
            return grad
        if self.grad_output is None or self.grad_output.shape != grad.shape:
            self.grad_output = np.empty_like(self.z.array)
        _formats.convert(grad, self.grad_output)
        return self.grad_output

    def rows(self) -> list[Row]:
        fused = ", ".join(type(layer).__name__ for _, layer in self.layers[1:])
        if self.again:
            fused += " (convolved again backward)"
        if self.leaves:
            fused += " (as the next loads)"
        buffers = {id(b): b.nbytes for b in (self.y, self.z, self.winners, self.own_gradient) if b is not None and b.region is None}
        used = ["conv2d", *(["conv2d_grad_weight"] if self.convolution.weight.requires_grad else []), *(["conv2d_grad_input"] if self.wants_input_grad else [])]
        names = [self.chosen[op].name for op in used]
        return [Row(f"{self.layers[0][0]} Conv2d", "channels-last", " / ".join(dict.fromkeys(names)), fused, sum(buffers.values()))]


class FoldedBlock(Segment):
    """The same in inference: batch normalisation folded into the weights, the activation in place, no memory but two buffers that blocks use in turns and
    one before a pooling."""

    in_turn = True
    makes_channels_last = True

    def __init__(self, layers: Sequence[Layer], block: Block, shape: tuple, region: str, layout: Layout) -> None:
        super().__init__(layers, False)
        self.block, self.convolution = block, block.convolution
        dtype, batch = self.convolution.weight.dtype, shape[0]
        self.following = block.following(batch, dtype, False)
        self.y = layout.buffer((batch, *block.conv_shape), dtype, channels_last=True, region="before pooling" if block.pool else region)
        self.z = layout.buffer((batch, *block.output_shape), dtype, channels_last=True, region=region) if block.pool else self.y
        self.checksum: int | None = None
        self.strides: tuple[int, ...] = ()  # of the input that the algorithm was chosen for
        self._fold()

    def prepare(self, x: np.ndarray, output_shape: tuple[int, ...] | None) -> np.ndarray:
        self.strides = x.strides
        self.chosen = select.choose("conv2d", (x, self.weight, self.bias, *self.convolution.options), channels_last=True)[0]
        self.checksum = None  # packed for the algorithm that was chosen before
        self.refresh()
        return self.z.array

    def _pack(self) -> None:
        """The two general algorithms take packed weights; depthwise ones are read as they are."""
        self.packed = {}
        if self.chosen.function is _winograd.conv2d:
            self.packed = {"packed": _winograd.pack(self.weight)}
        elif self.chosen.function is _conv_forward.conv2d:
            self.packed = {"packed": _conv_forward.pack(self.weight, self.convolution.groups)}

    def refresh(self) -> None:
        """Fold and pack again what has changed since the last time. It is looked for in the values: an array may be written to by anybody."""
        convolution, norm = self.convolution, self.block.norm
        sources = [convolution.weight.data, value(convolution.bias)]
        if norm is not None:
            sources += [value(norm.weight), value(norm.bias), norm.running_mean, norm.running_var]
        checksum = _runtime.checksum(sources)
        if checksum != self.checksum:
            self._fold()
            self._pack()
            self.checksum = checksum

    def _fold(self) -> None:
        """The weights as they are now: y = conv(x, w * s) + (b - mean) * s + shift, s = scale / sqrt(var + eps)."""
        convolution, norm = self.convolution, self.block.norm
        self.weight, self.bias = convolution.weight.data, value(convolution.bias)
        if norm is None:
            return
        dtype = self.weight.dtype
        with np.errstate(all="ignore"):  # what is not finite shows in the output, as it does layer by layer
            scale = 1 / np.sqrt(norm.running_var.astype(np.float64) + norm.eps)
        if norm.weight is not None:
            scale = scale * norm.weight.data
        bias = (0.0 if self.bias is None else self.bias.astype(np.float64)) - norm.running_mean
        bias = bias * scale
        if norm.bias is not None:
            bias = bias + norm.bias.data
        self.weight = np.multiply(self.weight, scale[:, None, None, None].astype(dtype), dtype=dtype)
        self.bias = bias.astype(dtype)

    def forward(self, x: np.ndarray) -> np.ndarray:
        y, z = self.y.array, self.z.array
        if x.strides != self.strides:
            self.prepare(x, None)
        self.chosen.function(x, self.weight, self.bias, *self.convolution.options, out=y, **self.packed)
        if self.following is not None:
            self.following.apply(y, z, None)
        return z

    def rows(self) -> list[Row]:
        fused = ", ".join(type(layer).__name__ for _, layer in self.layers[1:])
        return [Row(f"{self.layers[0][0]} Conv2d", "channels-last", self.chosen.name, fused, self.y.nbytes + (self.z.nbytes if self.z is not self.y else 0))]
