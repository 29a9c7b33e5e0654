"""Normalisation layers: BatchNorm1d, BatchNorm2d, LayerNorm, GroupNorm."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import DTypeLike

from fastcnn import functional as F
from fastcnn.backend import on_device
from fastcnn.functional.norm import follow
from fastcnn.nn.module import Module, as_float_dtype
from fastcnn.nn.parameter import Parameter
from fastcnn.options import flag, integer, number
from fastcnn.shapes import ShapeError, by, check_bytes


def _affine(op: str, shape: tuple[int, ...], weight: bool, bias: bool, dtype: DTypeLike) -> tuple[Parameter | None, Parameter | None]:
    """Ones for the weight and zeros for the bias, or None."""
    dtype = as_float_dtype(dtype)
    check_bytes(op, shape, dtype.itemsize, "weight")
    return Parameter(np.ones(shape, dtype)) if weight else None, Parameter(np.zeros(shape, dtype)) if bias else None


def _data(parameter: Parameter | None) -> np.ndarray | None:
    return None if parameter is None else parameter.data


class _Norm(Module):
    """What normalisations share: an optional weight and bias."""

    weight: Parameter | None
    bias: Parameter | None

    def _take(self, grads: tuple[np.ndarray, np.ndarray, np.ndarray]) -> np.ndarray:
        """Accumulate the parameters' gradients and pass on grad_input."""
        grad_input, grad_weight, grad_bias = grads
        if self.weight is not None:
            self.weight.accumulate(grad_weight)
        if self.bias is not None:
            self.bias.accumulate(grad_bias)
        return grad_input


class _BatchNorm(_Norm):
    """y = (x - mean) / sqrt(var + eps) * weight + bias, per channel (Ioffe & Szegedy 2015, arXiv:1502.03167).

    In training mean and var are the batch's, over all axes but the channels', and the running ones follow:
    running = (1 - momentum) * running + momentum * batch, the variance unbiased; momentum None averages all batches alike.
    Evaluation uses the running ones, or the batch's where track_running_stats is False. A layer set to eval() inside a network that
    trains is frozen at its running statistics; for gradients through it set its saves_for_backward to True.
    """

    ndims: tuple[int, ...]  # input axes that are accepted
    layout: str

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        *,
        bias: bool = True,
        dtype: DTypeLike = np.float32,
    ) -> None:
        op = type(self).__name__
        self.num_features = num_features = integer(num_features, op, "num_features", 1)
        self.eps, self.momentum = number(eps, op, "eps", 0), None if momentum is None else number(momentum, op, "momentum", 0, 1)
        self.affine, self.track_running_stats = flag(affine, op, "affine"), flag(track_running_stats, op, "track_running_stats")
        self.weight, self.bias = _affine(op, (num_features,), affine, flag(bias, op, "bias") and affine, dtype)
        self.register_buffer("running_mean", np.zeros(num_features, dtype) if track_running_stats else None)
        self.register_buffer("running_var", np.ones(num_features, dtype) if track_running_stats else None)
        self.register_buffer("num_batches_tracked", np.array(0, np.int64) if track_running_stats else None)

    def reset_running_stats(self) -> None:
        if self.track_running_stats:
            self.running_mean.fill(0)
            self.running_var.fill(1)
            self.num_batches_tracked.fill(0)

    def _check_input(self, input: np.ndarray) -> None:
        if not isinstance(input, np.ndarray) and not on_device(input):
            raise TypeError(f"batch_norm: input must be a numpy.ndarray, got {type(input).__name__}")
        if input.ndim not in self.ndims:
            raise ShapeError(f"batch_norm: input must be {self.layout}, got {input.ndim} axes ({by(input.shape) or 'a scalar'})")
        if input.shape[1] != self.num_features:
            raise ShapeError(f"batch_norm: input {by(input.shape)} has {input.shape[1]} channels but the layer has num_features {self.num_features}")

    def forward(self, input: np.ndarray) -> np.ndarray:
        self._check_input(input)
        momentum = self.momentum
        tracking = self.training and self.track_running_stats
        if momentum is None:
            momentum = 1 / (int(self.num_batches_tracked) + 1) if tracking else 0.0
        of_batch = self.training or not self.track_running_stats
        output, mean, var = F.batch_norm(
            input,
            self.running_mean,
            self.running_var,
            _data(self.weight),
            _data(self.bias),
            training=of_batch,
            momentum=momentum,
            eps=self.eps,
            return_stats=True,
        )
        if tracking:
            self.num_batches_tracked += 1
        self.save_for_backward(input, mean, var, of_batch)
        return output

    def track(self, mean: np.ndarray, var: np.ndarray, count: int) -> None:
        """Let the running statistics follow a batch of `count` values per channel with this mean and (biased) variance."""
        if not self.track_running_stats:
            return
        momentum = 1 / (int(self.num_batches_tracked) + 1) if self.momentum is None else self.momentum
        follow(self.running_mean, mean, momentum)
        follow(self.running_var, var, momentum, count / (count - 1))
        self.num_batches_tracked += 1

    def backward(self, grad_output: np.ndarray) -> np.ndarray:
        input, mean, var, of_batch = self.saved_for_backward()
        weight = _data(self.weight)
        grads = F.batch_norm_backward(grad_output, input, weight=weight, training=of_batch, eps=self.eps, mean=mean, var=var)
        return self._take(grads)

    def extra_repr(self) -> str:
        return (
            f"{self.num_features}, eps={self.eps}, momentum={self.momentum}, affine={self.affine}, bias={self.bias is not None}, "
            f"track_running_stats={self.track_running_stats}"
        )


class BatchNorm1d(_BatchNorm):
    __doc__ = f"Batch normalisation of (N, C) or (N, C, L).\n\n{_BatchNorm.__doc__}"
    ndims = (2, 3)
    layout = "(N, C) or (N, C, L)"


class BatchNorm2d(_BatchNorm):
    __doc__ = f"Batch normalisation of (N, C, H, W).\n\n{_BatchNorm.__doc__}"
    ndims = (4,)
    layout = "(N, C, H, W)"


class LayerNorm(_Norm):
    """y = (x - mean) / sqrt(var + eps) * weight + bias over the last axes, whose sizes are normalized_shape (Ba et al. 2016, arXiv:1607.06450)."""

    def __init__(
        self,
        normalized_shape: int | Sequence[int],
        eps: float = 1e-5,
        elementwise_affine: bool = True,
        bias: bool = True,
        *,
        dtype: DTypeLike = np.float32,
    ) -> None:
        op = "LayerNorm"
        sizes = normalized_shape if isinstance(normalized_shape, (tuple, list)) else (normalized_shape,)
        self.normalized_shape = tuple(integer(size, op, "normalized_shape", 1) for size in sizes)
        if not sizes:
            raise ShapeError(f"{op}: normalized_shape must name at least 1 axis, got ()")
        self.eps, self.elementwise_affine = number(eps, op, "eps", 0), flag(elementwise_affine, op, "elementwise_affine")
        self.weight, self.bias = _affine(op, self.normalized_shape, elementwise_affine, flag(bias, op, "bias") and elementwise_affine, dtype)

    def forward(self, input: np.ndarray) -> np.ndarray:
        output = F.layer_norm(input, self.normalized_shape, _data(self.weight), _data(self.bias), self.eps)
        self.save_for_backward(input)
        return output

    def backward(self, grad_output: np.ndarray) -> np.ndarray:
        (input,) = self.saved_for_backward()
        return self._take(F.layer_norm_backward(grad_output, input, self.normalized_shape, _data(self.weight), eps=self.eps))

    def extra_repr(self) -> str:
        return f"{self.normalized_shape}, eps={self.eps}, elementwise_affine={self.elementwise_affine}, bias={self.bias is not None}"


class GroupNorm(_Norm):
    """y = (x - mean) / sqrt(var + eps) * weight + bias, per image over num_groups runs of channels (Wu & He 2018, arXiv:1803.08494)."""

    def __init__(
        self,
        num_groups: int,
        num_channels: int,
        eps: float = 1e-5,
        affine: bool = True,
        *,
        bias: bool = True,
        dtype: DTypeLike = np.float32,
    ) -> None:
        op = "GroupNorm"
        self.num_groups, self.num_channels = integer(num_groups, op, "num_groups", 1), integer(num_channels, op, "num_channels", 1)
        if self.num_channels % self.num_groups:
            raise ShapeError(f"{op}: num_groups {num_groups} does not divide num_channels {num_channels}")
        self.eps, self.affine = number(eps, op, "eps", 0), flag(affine, op, "affine")
        self.weight, self.bias = _affine(op, (self.num_channels,), affine, flag(bias, op, "bias") and affine, dtype)

    def forward(self, input: np.ndarray) -> np.ndarray:
        output = F.group_norm(input, self.num_groups, _data(self.weight), _data(self.bias), self.eps)
        self.save_for_backward(input)
        return output

    def backward(self, grad_output: np.ndarray) -> np.ndarray:
        (input,) = self.saved_for_backward()
        return self._take(F.group_norm_backward(grad_output, input, self.num_groups, _data(self.weight), eps=self.eps))

    def extra_repr(self) -> str:
        return f"{self.num_groups}, {self.num_channels}, eps={self.eps}, affine={self.affine}, bias={self.bias is not None}"
