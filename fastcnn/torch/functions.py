"""The operations of torch.nn.functional that fastcnn computes, with PyTorch's arguments and meaning, known to autograd.

A call stays with PyTorch where its tensors are not for fastcnn (`tensors.refusal`), where PyTorch is faster (pooling and batch normalisation of channels-last
memory), and where fastcnn refuses its arguments: PyTorch then computes it after all, or raises its own error.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as theirs
from torch import Tensor
from torch.autograd import Function

from fastcnn import functional as ours
from fastcnn.torch.tensors import array, channels_last, optional_array, optional_tensors, refusal, tensor, wants_grad
from fastcnn.torch.threads import follow

REFUSED = (ValueError, TypeError)  # what fastcnn.functional raises; ShapeError is a ValueError

Gradients = tuple[Any, ...]


class _Op(Function):
    """An operation whose gradient is fastcnn's, and PyTorch's where the gradient itself is to be differentiated (create_graph=True) or is no plain tensor.

    forward saves the tensors that gradients are for, in the order of its arguments, and sets ctx.again to PyTorch's function of them.
    """

    @classmethod
    def gradients(cls, ctx: Any, grad_output: Tensor) -> Gradients:
        """For each of the tensors that gradients are for its gradient, or None if it is not needed."""
        raise NotImplementedError

    @classmethod
    def backward(cls, ctx: Any, grad_output: Tensor) -> Gradients:
        if torch.is_grad_enabled() or refusal(grad_output) is not None:
            grads = differentiable(ctx.again, ctx.saved_tensors[: ctx.differentiated], ctx.needs_input_grad, grad_output)
        else:
            grads = cls.gradients(ctx, grad_output)
        return *grads, *(None for _ in range(len(ctx.needs_input_grad) - len(grads)))


def differentiable(function: Callable[..., Tensor], inputs: Sequence[Tensor | None], needed: Sequence[bool], grad_output: Tensor) -> Gradients:
    """The gradients of function(*inputs) by PyTorch's own operations: the forward is computed again, so that they can be differentiated in turn."""
    with torch.enable_grad():
        inputs = [None if value is None else value.view_as(value) for value in inputs]  # views: one tensor may stand for two arguments
        output = function(*inputs)
    wanted = [value for value, need in zip(inputs, needed, strict=False) if need]
    found = iter(torch.autograd.grad(output, wanted, grad_output, create_graph=torch.is_grad_enabled()))
    return tuple(next(found) if need else None for _, need in zip(inputs, needed, strict=False))


class _Conv2d(_Op):
    @staticmethod
    def forward(ctx: Any, input: Tensor, weight: Tensor, bias: Tensor | None, options: dict[str, Any]) -> Tensor:
        output = ours.conv2d(array(input), array(weight), optional_array(bias), **options)
        ctx.save_for_backward(input, weight, bias)
        ctx.differentiated, ctx.options, ctx.again = 3, options, partial(theirs.conv2d, **options)
        return tensor(output)

    @classmethod
    def gradients(cls, ctx: Any, grad_output: Tensor) -> Gradients:
        input, weight, _ = ctx.saved_tensors
        mask = ctx.needs_input_grad[:3]
        return optional_tensors(ours.conv2d_backward(array(grad_output), array(input), array(weight), output_mask=mask, **ctx.options))


class _MaxPool2d(_Op):
    @staticmethod
    def forward(ctx: Any, input: Tensor, options: tuple) -> Tensor:
        output, places = ours.max_pool2d(array(input), *options, return_places=True)
        ctx.save_for_backward(input, tensor(places))
        ctx.differentiated, ctx.options, ctx.again = 1, options, lambda input: theirs.max_pool2d(input, *options)
        return tensor(output)

    @classmethod
    def gradients(cls, ctx: Any, grad_output: Tensor) -> Gradients:
        input, places = ctx.saved_tensors
        return (tensor(ours.max_pool2d_backward(array(grad_output), array(input), *ctx.options, places=array(places))),)


class _OfInput(_Op):
    """An operation on one tensor whose gradient is a function of grad_output and that tensor."""

    ours: Callable[..., Any]
    ours_backward: Callable[..., Any]
    theirs: Callable[..., Tensor]

    @classmethod
    def forward(cls, ctx: Any, input: Tensor, options: tuple) -> Tensor:
        output = cls.ours(array(input), *options)
        ctx.save_for_backward(input)
        ctx.differentiated, ctx.options, ctx.again = 1, options, lambda input: cls.theirs(input, *options)
        return tensor(output)

    @classmethod
    def gradients(cls, ctx: Any, grad_output: Tensor) -> Gradients:
        (input,) = ctx.saved_tensors
        return (tensor(cls.ours_backward(array(grad_output), array(input), *ctx.options)),)


class _AvgPool2d(_OfInput):
    ours, ours_backward, theirs = map(staticmethod, (ours.avg_pool2d, ours.avg_pool2d_backward, theirs.avg_pool2d))


class _Unfold(_OfInput):
    ours, ours_backward, theirs = map(staticmethod, (ours.unfold, ours.unfold_backward, theirs.unfold))


class _BatchNorm(_Op):
    @staticmethod
    def forward(
        ctx: Any, input: Tensor, weight: Tensor | None, bias: Tensor | None, running: tuple[Tensor | None, Tensor | None], training: bool, *numbers: float
    ) -> Tensor:
        momentum, eps = numbers
        arrays = [optional_array(value) for value in (*running, weight, bias)]
        output, mean, var = ours.batch_norm(array(input), *arrays, training, momentum, eps, return_stats=True)
        if not training:  # the running ones themselves, which may have changed when backward comes
            mean, var = mean.copy(), var.copy()
        ctx.save_for_backward(input, weight, bias, tensor(mean), tensor(var))
        ctx.differentiated, ctx.training, ctx.eps = 3, training, eps
        fixed = (None, None) if training else (tensor(mean), tensor(var))
        ctx.again = lambda input, weight, bias: theirs.batch_norm(input, *fixed, weight, bias, training, 0.0, eps)
        return tensor(output)

    @classmethod
    def gradients(cls, ctx: Any, grad_output: Tensor) -> Gradients:
        input, weight, _, mean, var = ctx.saved_tensors
        grads = ours.batch_norm_backward(
            array(grad_output), array(input), weight=optional_array(weight), training=ctx.training, eps=ctx.eps, mean=array(mean), var=array(var)
        )
        return tuple(tensor(grad) if need else None for grad, need in zip(grads, ctx.needs_input_grad, strict=False))


def takes(*tensors: Any) -> bool:
    """Whether fastcnn computes with these tensors now; if so its threads are made ready."""
    if refusal(*tensors) is not None:
        return False
    follow()
    return True


def plain(value: Any) -> Any:
    """An option in Python's own types."""
    return tuple(value) if isinstance(value, list) else value


def conv2d(input: Tensor, weight: Tensor, bias: Tensor | None = None, stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups: int = 1) -> Tensor:
    """torch.nn.functional.conv2d by fastcnn."""
    if weight is not None and takes(input, weight, bias):
        options = {"stride": plain(stride), "padding": plain(padding), "dilation": plain(dilation), "groups": groups}
        try:
            if wants_grad(input, weight, bias):
                return _Conv2d.apply(input, weight, bias, options)
            return tensor(ours.conv2d(array(input), array(weight), optional_array(bias), **options))
        except REFUSED:
            pass  # PyTorch says what is wrong, or knows what to do
    return theirs.conv2d(input, weight, bias, stride, padding, dilation, groups)


def max_pool2d(
    input: Tensor, kernel_size: Any, stride: Any = None, padding: Any = 0, dilation: Any = 1, ceil_mode: bool = False, return_indices: bool = False
) -> Any:
    """torch.nn.functional.max_pool2d by fastcnn; with return_indices by PyTorch."""
    if not return_indices and takes(input) and not channels_last(input):
        options = plain(kernel_size), plain(stride) or None, plain(padding), plain(dilation), ceil_mode
        try:
            return _MaxPool2d.apply(input, options) if wants_grad(input) else tensor(ours.max_pool2d(array(input), *options))
        except REFUSED:
            pass
    return theirs.max_pool2d(input, kernel_size, stride, padding, dilation, ceil_mode, return_indices)


def avg_pool2d(
    input: Tensor,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Tensor:
    """torch.nn.functional.avg_pool2d by fastcnn."""
    if takes(input) and not channels_last(input):
        options = plain(kernel_size), plain(stride) or None, plain(padding), ceil_mode, count_include_pad, divisor_override
        try:
            return _AvgPool2d.apply(input, options) if wants_grad(input) else tensor(ours.avg_pool2d(array(input), *options))
        except REFUSED:
            pass
    return theirs.avg_pool2d(input, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override)


def unfold(input: Tensor, kernel_size: Any, dilation: Any = 1, padding: Any = 0, stride: Any = 1) -> Tensor:
    """torch.nn.functional.unfold by fastcnn."""
    if takes(input):
        options = plain(kernel_size), plain(dilation), plain(padding), plain(stride)
        try:
            return _Unfold.apply(input, options) if wants_grad(input) else tensor(ours.unfold(array(input), *options))
        except REFUSED:
            pass
    return theirs.unfold(input, kernel_size, dilation, padding, stride)


def batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """torch.nn.functional.batch_norm by fastcnn."""
    if takes(input, running_mean, running_var, weight, bias) and not channels_last(input):
        try:
            output = _BatchNorm.apply(input, weight, bias, (running_mean, running_var), training, momentum, eps)
        except REFUSED:
            pass
        else:
            for running in (running_mean, running_var) if training else ():
                if running is not None:  # PyTorch did not see that they were written to
                    torch.autograd.graph.increment_version(running)
            return output
    return theirs.batch_norm(input, running_mean, running_var, weight, bias, training, momentum, eps)
