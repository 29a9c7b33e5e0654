"""Convolution layers: Conv1d, Conv2d, ConvTranspose2d."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from fastcnn import functional as F
from fastcnn.functional.conv import conv2d_activated
from fastcnn.nn import init
from fastcnn.nn.module import Module, as_float_dtype
from fastcnn.nn.parameter import Parameter
from fastcnn.options import choice, flag, integer, pair, single
from fastcnn.shapes import ShapeError, by, check_bytes, kernel_extent

IntOrPair = int | tuple[int, int]


class _Conv(Module):
    """What the convolutions share: options, weight and bias, their initialisation, their gradients, repr."""

    axes: int  # spatial ones
    transposed = False

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | Sequence[int],
        stride: int | Sequence[int],
        padding: int | Sequence[int] | str,
        dilation: int | Sequence[int],
        groups: int,
        bias: bool,
        padding_mode: str,
        dtype: DTypeLike,
        rng: init.Rng,
    ) -> None:
        op = type(self).__name__
        in_channels, out_channels = integer(in_channels, op, "in_channels", 1), integer(out_channels, op, "out_channels", 1)
        groups = integer(groups, op, "groups", 1)
        for name, channels in (("in_channels", in_channels), ("out_channels", out_channels)):
            if channels % groups:
                raise ShapeError(f"{op}: groups {groups} does not divide {name} {channels}")
        self.in_channels, self.out_channels, self.groups = in_channels, out_channels, groups
        self.kernel_size, self.stride = self._sizes(kernel_size, "kernel_size", 1), self._sizes(stride, "stride", 1)
        self.dilation = self._sizes(dilation, "dilation", 1)
        self.padding = self._named_padding(padding) if isinstance(padding, str) else self._sizes(padding, "padding", 0)
        self.output_padding = (0,) * self.axes
        self.padding_mode = choice(padding_mode, op, "padding_mode", ("zeros",) if self.transposed else ("zeros", "reflect", "replicate", "circular"))
        dtype = as_float_dtype(dtype)
        first, second = (in_channels, out_channels) if self.transposed else (out_channels, in_channels)
        shape = (first, second // groups, *self.kernel_size)
        check_bytes(op, shape, dtype.itemsize, "weight")
        self.weight = Parameter(np.empty(shape, dtype))
        self.bias = Parameter(np.empty(out_channels, dtype)) if flag(bias, op, "bias") else None
        self.reset_parameters(rng)

    def _sizes(self, value: int | Sequence[int], name: str, minimum: int) -> tuple[int, ...]:
        """One number per axis."""
        op = type(self).__name__
        return pair(value, op, name, minimum) if self.axes == 2 else (single(value, op, name, minimum),)

    def _named_padding(self, padding: str) -> str:
        op = type(self).__name__
        if padding not in ("same", "valid"):
            ints = "a pair of ints" if self.axes == 2 else "a tuple of one int"
            raise ValueError(f"{op}: padding must be 'same', 'valid', an int or {ints}, got {padding!r}")
        if padding == "same" and self.stride != (1,) * self.axes:
            raise ShapeError(f"{op}: padding 'same' needs stride 1, got stride {by(self.stride)}")
        return padding

    def reset_parameters(self, rng: init.Rng = None) -> None:
        init.default_(self.weight, self.bias, rng)

    def _weights(self) -> tuple[np.ndarray, np.ndarray | None]:
        return self.weight.data, None if self.bias is None else self.bias.data

    def _wanted(self) -> tuple[bool, bool, bool]:
        """output_mask: which gradients are to be computed."""
        bias = self.bias
        return self.requires_input_grad, self.weight.requires_grad, bias is not None and bias.requires_grad

    def _take(self, grads: tuple[np.ndarray | None, np.ndarray | None, np.ndarray | None]) -> np.ndarray | None:
        """Accumulate the parameters' gradients and pass on grad_input."""
        grad_input, grad_weight, grad_bias = grads
        self.weight.accumulate(grad_weight)
        if self.bias is not None:
            self.bias.accumulate(grad_bias)
        return grad_input

    def extra_repr(self) -> str:
        ones, zeros = (1,) * self.axes, (0,) * self.axes
        parts = [f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}"]
        parts += [f"padding={self.padding}"] if self.padding != zeros else []
        parts += [f"dilation={self.dilation}"] if self.dilation != ones else []
        parts += [f"output_padding={self.output_padding}"] if self.output_padding != zeros else []
        parts += [f"groups={self.groups}"] if self.groups != 1 else []
        parts += ["bias=False"] if self.bias is None else []
        parts += [f"padding_mode={self.padding_mode}"] if self.padding_mode != "zeros" else []
        return ", ".join(parts)


class _PaddedConv(_Conv):
    """Conv1d and Conv2d: padding_mode other than zeros pads first and convolves without padding."""

    def _pads(self) -> tuple[int, ...]:
        """F.pad's widths, last axis first: (left, right, top, bottom)."""
        if self.padding == "valid":
            return (0, 0) * self.axes
        if self.padding == "same":
            totals = [kernel_extent(kernel, dilation) - 1 for kernel, dilation in zip(self.kernel_size, self.dilation, strict=True)]
            pairs = [(total // 2, total - total // 2) for total in totals]
        else:
            pairs = [(width, width) for width in self.padding]
        return tuple(width for pair in reversed(pairs) for width in pair)

    def _options(self) -> tuple:
        padding = self.padding if self.padding_mode == "zeros" else 0
        return self.stride, padding, self.dilation, self.groups

    def forward(self, input: np.ndarray) -> np.ndarray:
        return self._convolved(input, self._function)

    def _convolved(self, input: np.ndarray, function: Callable, *more: Any) -> np.ndarray:
        padded = input if self.padding_mode == "zeros" else F.pad(input, self._pads(), self.padding_mode)
        output = function(padded, *self._weights(), *self._options(), *more)
        self.save_for_backward(input, padded)
        return output

    def backward(self, grad_output: np.ndarray) -> np.ndarray | None:
        input, padded = self.saved_for_backward()
        stride, padding, dilation, groups = self._options()
        grads = self._function_backward(
            grad_output, padded, self.weight.data, stride=stride, padding=padding, dilation=dilation, groups=groups, output_mask=self._wanted()
        )
        grad_input = self._take(grads)
        if grad_input is None or self.padding_mode == "zeros":
            return grad_input
        return F.pad_backward(grad_input, input, self._pads(), self.padding_mode)


class Conv2d(_PaddedConv):
    """2-D cross-correlation, (N, C, H, W) -> (N, O, OH, OW); weight (O, C/groups, KH, KW), bias (O,) or None.

    padding       an int, a pair (vertical, horizontal), "valid" (none) or "same" (stride 1; keeps H and W)
    padding_mode  what is outside: "zeros", "reflect", "replicate" or "circular"
    """

    axes = 2
    _function = staticmethod(F.conv2d)
    _function_backward = staticmethod(F.conv2d_backward)

    def forward_activated(self, input: np.ndarray, activation: str, slope: float) -> np.ndarray:
        """forward and the activation behind it by one kernel, see fastcnn.nn.fusion."""
        return self._convolved(input, conv2d_activated, activation, slope)

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: IntOrPair,
        stride: IntOrPair = 1,
        padding: IntOrPair | str = 0,
        dilation: IntOrPair = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        *,
        dtype: DTypeLike = np.float32,
        rng: init.Rng = None,
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode, dtype, rng)


class Conv1d(_PaddedConv):
    """1-D cross-correlation, (N, C, L) -> (N, O, OL); weight (O, C/groups, K), bias (O,) or None. Options as Conv2d's."""

    axes = 1
    _function = staticmethod(F.conv1d)
    _function_backward = staticmethod(F.conv1d_backward)

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int],
        stride: int | tuple[int] = 1,
        padding: int | tuple[int] | str = 0,
        dilation: int | tuple[int] = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        *,
        dtype: DTypeLike = np.float32,
        rng: init.Rng = None,
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode, dtype, rng)


class ConvTranspose2d(_Conv):
    """Transposed convolution, the gradient of Conv2d in its input, (N, C, H, W) -> (N, O, OH, OW); weight (C, O/groups, KH, KW), bias (O,) or None.

    OH = (H - 1) * SH - 2 * PH + DH * (KH - 1) + 1 + output_padding. With stride > 1 several output sizes belong to one input size:
    output_padding chooses among them, or forward(input, output_size=(OH, OW)) does.
    """

    axes = 2
    transposed = True

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: IntOrPair,
        stride: IntOrPair = 1,
        padding: IntOrPair = 0,
        output_padding: IntOrPair = 0,
        groups: int = 1,
        bias: bool = True,
        dilation: IntOrPair = 1,
        padding_mode: str = "zeros",
        *,
        dtype: DTypeLike = np.float32,
        rng: init.Rng = None,
    ) -> None:
        if isinstance(padding, str):
            raise TypeError(f"ConvTranspose2d: padding must be an int or a pair, got {padding!r}")
        super().__init__(in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode, dtype, rng)
        self.output_padding = self._sizes(output_padding, "output_padding", 0)

    def _output_padding(self, input: np.ndarray, output_size: Sequence[int]) -> tuple[int, ...]:
        """The output_padding that gives output_size, (OH, OW) or a whole shape."""
        size, wanted = input.shape[-2:], tuple(output_size)[-2:]
        smallest = [
            (size[i] - 1) * self.stride[i] - 2 * self.padding[i] + kernel_extent(self.kernel_size[i], self.dilation[i]) for i in (0, 1)
        ]
        extra = tuple(wanted[i] - smallest[i] for i in (0, 1))
        if not all(0 <= extra[i] < max(self.stride[i], self.dilation[i]) for i in (0, 1)):
            largest = [smallest[i] + max(self.stride[i], self.dilation[i]) - 1 for i in (0, 1)]
            raise ShapeError(f"conv_transpose2d: output_size must be from {by(smallest)} to {by(largest)} for input {by(size)}, got {by(wanted)}")
        return extra

    def forward(self, input: np.ndarray, output_size: Sequence[int] | None = None) -> np.ndarray:
        output_padding = self.output_padding if output_size is None else self._output_padding(input, output_size)
        output = F.conv_transpose2d(input, *self._weights(), self.stride, self.padding, output_padding, self.groups, self.dilation)
        self.save_for_backward(input, output_padding)
        return output

    def backward(self, grad_output: np.ndarray) -> np.ndarray | None:
        input, output_padding = self.saved_for_backward()
        grads = F.conv_transpose2d_backward(
            grad_output,
            input,
            self.weight.data,
            stride=self.stride,
            padding=self.padding,
            output_padding=output_padding,
            groups=self.groups,
            dilation=self.dilation,
            output_mask=self._wanted(),
        )
        return self._take(grads)
