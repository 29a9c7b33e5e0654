"""PyTorch's layers with fastcnn inside. They are what `swap_` makes of modules, by changing their class: nothing else of a module changes."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as theirs
from torch import Tensor

from fastcnn.torch import blocks, functions
from fastcnn.torch.tensors import refusal


class FastConv2d(torch.nn.Conv2d):
    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        padding = self.padding
        if self.padding_mode != "zeros":
            input, padding = theirs.pad(input, self._reversed_padding_repeated_twice, mode=self.padding_mode), 0
        return functions.conv2d(input, weight, bias, self.stride, padding, self.dilation, self.groups)


class FastMaxPool2d(torch.nn.MaxPool2d):
    def forward(self, input: Tensor) -> Any:
        return functions.max_pool2d(input, self.kernel_size, self.stride, self.padding, self.dilation, self.ceil_mode, self.return_indices)


class FastAvgPool2d(torch.nn.AvgPool2d):
    def forward(self, input: Tensor) -> Tensor:
        return functions.avg_pool2d(
            input, self.kernel_size, self.stride, self.padding, self.ceil_mode, self.count_include_pad, self.divisor_override
        )


class FastUnfold(torch.nn.Unfold):
    def forward(self, input: Tensor) -> Tensor:
        return functions.unfold(input, self.kernel_size, self.dilation, self.padding, self.stride)


class FastBatchNorm2d(torch.nn.BatchNorm2d):
    def forward(self, input: Tensor) -> Tensor:
        if refusal(input) is not None:
            return super().forward(input)
        self._check_input_dim(input)
        tracking, factor = self.training and self.track_running_stats, self.momentum
        if tracking and self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
            if factor is None:  # the average of all batches
                factor = 1.0 / float(self.num_batches_tracked)
        of_batch = self.training or (self.running_mean is None and self.running_var is None)
        running = (self.running_mean, self.running_var) if tracking or not self.training else (None, None)
        return functions.batch_norm(input, *running, self.weight, self.bias, of_batch, factor or 0.0, self.eps)


class FastSequential(torch.nn.Sequential):
    """Runs of layers that begin with a Conv2d are computed as one, by a fastcnn plan (see blocks.py); the others one by one."""

    def forward(self, input: Tensor) -> Tensor:
        if refusal(input) is not None:
            return super().forward(input)
        return blocks.forward(self, input)


SWAPS: dict[type, type] = {fast.__mro__[1]: fast for fast in (FastConv2d, FastMaxPool2d, FastAvgPool2d, FastUnfold, FastBatchNorm2d, FastSequential)}
_ORIGINALS = {fast: plain for plain, fast in SWAPS.items()}


def original(kind: type) -> type:
    """PyTorch's class of a swapped one; any other class itself."""
    return _ORIGINALS.get(kind, kind)
