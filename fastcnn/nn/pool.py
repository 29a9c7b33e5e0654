"""Pooling layers. (N, C, H, W) -> (N, C, OH, OW); stride defaults to kernel_size."""

from __future__ import annotations

import numpy as np

from fastcnn import functional as F
from fastcnn.nn.module import Module

IntOrPair = int | tuple[int, int]
Size = int | tuple[int | None, int | None]


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
        self.kernel_size, self.stride = kernel_size, kernel_size if stride is None else stride
        self.padding, self.dilation, self.return_indices, self.ceil_mode = padding, dilation, return_indices, ceil_mode

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
        self.output_size, self.return_indices = output_size, return_indices

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
        self.kernel_size, self.stride = kernel_size, kernel_size if stride is None else stride
        self.padding, self.ceil_mode = padding, ceil_mode
        self.count_include_pad, self.divisor_override = count_include_pad, divisor_override

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
        self.output_size = output_size

    def forward(self, input: np.ndarray) -> np.ndarray:
        output = F.adaptive_avg_pool2d(input, self.output_size)
        self.save_for_backward(input)
        return output

    def backward(self, grad_output: np.ndarray) -> np.ndarray:
        (input,) = self.saved_for_backward()
        return F.adaptive_avg_pool2d_backward(grad_output, input, self.output_size)

    def extra_repr(self) -> str:
        return f"output_size={self.output_size}"
