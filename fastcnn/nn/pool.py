"""Pooling layers. (N, C, H, W) -> (N, C, OH, OW); stride defaults to kernel_size."""

from __future__ import annotations

import numpy as np

from fastcnn import functional as F
from fastcnn.nn.module import Module
from fastcnn.options import as_given, flag, integer, pair
from fastcnn.shapes import ShapeError, by

IntOrPair = int | tuple[int, int]
Size = int | tuple[int | None, int | None]


def _sizes(op: str, kernel_size: IntOrPair, stride: IntOrPair | None, padding: IntOrPair) -> tuple[IntOrPair, IntOrPair, IntOrPair]:
    """kernel_size, stride and padding, as ints where ints were given."""
    kernel, pads = pair(kernel_size, op, "kernel_size", 1), pair(padding, op, "padding", 0)
    if 2 * pads[0] > kernel[0] or 2 * pads[1] > kernel[1]:
        raise ShapeError(f"{op}: padding {by(pads)} is more than half of the window {by(kernel)} (at most {kernel[0] // 2}x{kernel[1] // 2})")
    kernel_size = as_given(kernel_size, kernel)
    return kernel_size, kernel_size if stride is None else as_given(stride, pair(stride, op, "stride", 1)), as_given(padding, pads)


def _output_size(op: str, output_size: Size) -> Size:
    """An int, or a pair in which None keeps an axis."""
    if isinstance(output_size, (tuple, list)) and len(output_size) == 2:
        pair(tuple(1 if n is None else n for n in output_size), op, "output_size", 1)
        return tuple(output_size)
    return as_given(output_size, pair(output_size, op, "output_size", 1))


class MaxPool2d(Module):
    """Largest value of each window, the first one in a tie. return_indices: also its position h*W + w, int64; backward takes the first's gradient."""

    def __init__(
        self,
        kernel_size: IntOrPair,
        stride: IntOrPair | None = None,
        padding: IntOrPair = 0,
        dilation: IntOrPair = 1,
        return_indices: bool = False,
        ceil_mode: bool = False,
    ) -> None:
        self.kernel_size, self.stride, self.padding = _sizes("MaxPool2d", kernel_size, stride, padding)
        self.dilation = as_given(dilation, pair(dilation, "MaxPool2d", "dilation", 1))
        self.return_indices, self.ceil_mode = flag(return_indices, "MaxPool2d", "return_indices"), flag(ceil_mode, "MaxPool2d", "ceil_mode")

    def _window(self) -> tuple:
        return self.kernel_size, self.stride, self.padding, self.dilation, self.ceil_mode

    def forward(self, input: np.ndarray) -> np.ndarray | tuple[np.ndarray, np.ndarray]:
        """Where the maxima are is kept for backward, as indices where they are asked for, else as places; in evaluation mode neither is found."""
        if self.return_indices:
            output, indices = F.max_pool2d(input, *self._window(), return_indices=True)
            self.save_for_backward(input, "indices", indices)
            return output, indices
        if not self.is_saving:
            self.save_for_backward()
            return F.max_pool2d(input, *self._window())
        output, places = F.max_pool2d(input, *self._window(), return_places=True)
        self.save_for_backward(input, "places", places)
        return output

    def backward(self, grad_output: np.ndarray) -> np.ndarray:
        input, kind, winners = self.saved_for_backward()
        return F.max_pool2d_backward(grad_output, input, *self._window(), **{kind: winners})

    def extra_repr(self) -> str:
        return (
            f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}, dilation={self.dilation}, ceil_mode={self.ceil_mode}"
        )


class AdaptiveMaxPool2d(Module):
    """Largest values of output_size windows that cover the input evenly; None in output_size keeps that axis."""

    def __init__(self, output_size: Size, return_indices: bool = False) -> None:
        self.output_size, self.return_indices = _output_size("AdaptiveMaxPool2d", output_size), flag(return_indices, "AdaptiveMaxPool2d", "return_indices")

    def forward(self, input: np.ndarray) -> np.ndarray | tuple[np.ndarray, np.ndarray]:
        """The indices are kept for backward; in evaluation mode they are found only where they are asked for."""
        if not (self.is_saving or self.return_indices):
            self.save_for_backward()
            return F.adaptive_max_pool2d(input, self.output_size)
        output, indices = F.adaptive_max_pool2d(input, self.output_size, True)
        self.save_for_backward(input, indices)
        return (output, indices) if self.return_indices else output

    def backward(self, grad_output: np.ndarray) -> np.ndarray:
        input, indices = self.saved_for_backward()
        return F.adaptive_max_pool2d_backward(grad_output, input, self.output_size, indices=indices)

    def extra_repr(self) -> str:
        return f"output_size={self.output_size}"


class AvgPool2d(Module):
    """Mean of each window; the padding counts as zeros in it unless count_include_pad is False, or divisor_override replaces the count."""

    def __init__(
        self,
        kernel_size: IntOrPair,
        stride: IntOrPair | None = None,
        padding: IntOrPair = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divisor_override: int | None = None,
    ) -> None:
        op = "AvgPool2d"
        self.kernel_size, self.stride, self.padding = _sizes(op, kernel_size, stride, padding)
        self.ceil_mode, self.count_include_pad = flag(ceil_mode, op, "ceil_mode"), flag(count_include_pad, op, "count_include_pad")
        self.divisor_override = None if divisor_override is None else integer(divisor_override, op, "divisor_override", -(2**31))
        if self.divisor_override == 0:
            raise ValueError(f"{op}: divisor_override must not be 0")

    def _window(self) -> tuple:
        return self.kernel_size, self.stride, self.padding, self.ceil_mode, self.count_include_pad, self.divisor_override

    def forward(self, input: np.ndarray) -> np.ndarray:
        output = F.avg_pool2d(input, *self._window())
        self.save_for_backward(input)
        return output

    def backward(self, grad_output: np.ndarray) -> np.ndarray:
        (input,) = self.saved_for_backward()
        return F.avg_pool2d_backward(grad_output, input, *self._window())

    def extra_repr(self) -> str:
        return f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}"


class AdaptiveAvgPool2d(Module):
    """Means of output_size windows that cover the input evenly; output_size 1 is global average pooling."""

    def __init__(self, output_size: Size) -> None:
        self.output_size = _output_size("AdaptiveAvgPool2d", output_size)

    def forward(self, input: np.ndarray) -> np.ndarray:
        output = F.adaptive_avg_pool2d(input, self.output_size)
        self.save_for_backward(input)
        return output

    def backward(self, grad_output: np.ndarray) -> np.ndarray:
        (input,) = self.saved_for_backward()
        return F.adaptive_avg_pool2d_backward(grad_output, input, self.output_size)

    def extra_repr(self) -> str:
        return f"output_size={self.output_size}"
