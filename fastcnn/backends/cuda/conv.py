"""The convolution's ops: depthwise where every filter sees one channel, an implicit matrix product everywhere else."""

from __future__ import annotations

from ...shapes import Pair, Padding, conv2d_output_size
from . import conv_forward, conv_grad_input, conv_grad_weight, depthwise
from ._device import DeviceArray, contiguous, empty
from .reduction import channel_sums


def conv2d(input: DeviceArray, weight: DeviceArray, bias: DeviceArray | None, stride: Pair, padding: Padding, dilation: Pair, groups: int) -> DeviceArray:
    """(N,C,H,W) x (O,C/G,KH,KW) [+ (O,)] -> (N,O,OH,OW)."""
    if depthwise.applies(weight.shape, input.shape[1], groups):
        OH, OW = conv2d_output_size(input.shape[2:], weight.shape[2:], stride, padding, dilation)
        return depthwise.conv2d(input, weight, bias, stride, padding, dilation, empty((len(input), len(weight), OH, OW), input.dtype))
    return conv_forward.conv2d(input, weight, bias, stride, padding, dilation, groups)


def conv2d_grad_input(grad_output: DeviceArray, weight: DeviceArray, input_shape: tuple[int, ...], stride: Pair, padding: Padding, dilation: Pair,
                      groups: int) -> DeviceArray:
    """(N,O,OH,OW) x (O,C/G,KH,KW) -> (N,C,H,W)."""
    if depthwise.applies(weight.shape, input_shape[1], groups):
        return depthwise.conv2d_grad_input(grad_output, weight, input_shape, stride, padding, dilation)
    return conv_grad_input.conv2d_grad_input(grad_output, weight, input_shape, stride, padding, dilation, groups)


def conv2d_grad_weight(grad_output: DeviceArray, input: DeviceArray, weight_shape: tuple[int, ...], stride: Pair, padding: Padding, dilation: Pair,
                       groups: int) -> DeviceArray:
    """(N,O,OH,OW) x (N,C,H,W) -> (O,C/G,KH,KW)."""
    if depthwise.applies(weight_shape, input.shape[1], groups):
        return depthwise.conv2d_grad_weight(grad_output, input, weight_shape, stride, padding, dilation)
    return conv_grad_weight.conv2d_grad_weight(grad_output, input, weight_shape, stride, padding, dilation, groups)


def conv2d_grad_bias(grad_output: DeviceArray) -> DeviceArray:
    """(N,O,OH,OW) -> (O,)."""
    _, O, OH, OW = grad_output.shape
    return channel_sums(grad_output, O, OH * OW)


def channels_last(input: DeviceArray) -> DeviceArray:
    """The same numbers, in memory as (N,H,W,C)."""
    return contiguous(input.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
