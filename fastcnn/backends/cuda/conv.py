"""The convolution's ops: depthwise where every filter sees one channel, an implicit matrix product everywhere else."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...shapes import Padding, Pair, conv2d_output_size
from . import conv_forward, conv_grad_input, conv_grad_weight, conv_walk, depthwise, pieces
from ._device import DeviceArray, contiguous, empty
from ._memory import SIMULATED
from .reduction import channel_sums
from .tiles import PRODUCTION, TENSOR


def conv2d(input: DeviceArray, weight: DeviceArray, bias: DeviceArray | None, stride: Pair, padding: Padding, dilation: Pair, groups: int) -> DeviceArray:
    """(N,C,H,W) x (O,C/G,KH,KW) [+ (O,)] -> (N,O,OH,OW)."""
    return conv2d_activated(input, weight, bias, stride, padding, dilation, groups, "none", 0.0)


def conv2d_activated(input: DeviceArray, weight: DeviceArray, bias: DeviceArray | None, stride: Pair, padding: Padding, dilation: Pair, groups: int,
                     activation: str, slope: float) -> DeviceArray:
    """activation(conv2d), the activation (a name of epilogue.py's) applied to each sum before it is written: the same bits, one pass over memory less."""
    if depthwise.applies(weight.shape, input.shape[1], groups):
        OH, OW = conv2d_output_size(input.shape[2:], weight.shape[2:], stride, padding, dilation)
        return depthwise.conv2d(input, weight, bias, stride, padding, dilation, empty((len(input), len(weight), OH, OW), input.dtype), activation, slope)
    return conv_forward.conv2d(input, weight, bias, stride, padding, dilation, groups, activation, slope)


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


def _listed() -> list[tuple[str, Any, str]]:
    """Every tile of both dtypes, for the compiler's report."""
    found = []
    for dtype, tiles in PRODUCTION.items():
        array = f"{dtype.name}[::1]"
        walk = f"void({array}, {array}, {array}, {dtype.name}, {array}, int32[:,::1], int32[:,::1], UniTuple(int64, {len(conv_walk.Walk._fields)}))"
        grad_weight = f"void({array}, {array}, {array}, int32[:,::1], UniTuple(int64, {len(conv_grad_weight.Sizes._fields)}))"
        for tile in tiles + (TENSOR if dtype == np.float32 and not SIMULATED else ()):
            found.append((f"conv_walk {tile} {dtype}", conv_walk.walk_kernel(tile, dtype, True, "relu"), walk))
            found.append((f"conv_grad_weight {tile} {dtype}", conv_grad_weight.grad_weight_kernel(tile, dtype), grad_weight))
        one = (1, 1)
        depth = f"void({array}, {array}, {{}}{array}, UniTuple(int64, {len(depthwise.Sizes._fields)}))"
        for K in (3, 5, 7):
            size = (K, K)
            made = depthwise.sliding_kernel(dtype, size, one, one, True, False, "relu")
            found.append((f"depthwise {K}x{K} {dtype}", made, depth.format(f"{array}, {dtype}, ")))
            found.append((f"depthwise_grad_weight {K}x{K} {dtype}", depthwise.grad_weight_kernel(dtype, size, one, one), depth.format("")))
        strided = depthwise.strided_grad_input_kernel(dtype, (3, 3), (2, 2), one)
        found.append((f"depthwise_grad_input 3x3 stride 2 {dtype}", strided, depth.format("")))
        found.append((f"add_pieces {dtype}", pieces.add_kernel(dtype, True, "relu"), f"void({array}, {array}, {dtype.name}, {array}, int64, int64)"))
    return found


KERNELS = _listed()
