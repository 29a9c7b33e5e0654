"""The fully connected layer: output = input @ weight.T + bias, and the same product with the matrices the other way round for each gradient."""

from __future__ import annotations

import numpy as np

from ._device import DeviceArray
from ._memory import SIMULATED
from .gemm import gemm, gemm_kernel
from .reduction import channel_sums
from .tiles import PRODUCTION, TENSOR


def linear(input: DeviceArray, weight: DeviceArray, bias: DeviceArray | None) -> DeviceArray:
    """(M,I) x (O,I) [+ (O,)] -> (M,O)."""
    return linear_activated(input, weight, bias, "none", 0.0)


def linear_activated(input: DeviceArray, weight: DeviceArray, bias: DeviceArray | None, activation: str, slope: float) -> DeviceArray:
    """activation(linear), as conv2d_activated."""
    return gemm(input, weight, True, True, len(input), len(weight), input.shape[1], bias, activation, slope)


def linear_grad_input(grad_output: DeviceArray, weight: DeviceArray) -> DeviceArray:
    """(M,O) x (O,I) -> (M,I): grad_output @ weight, summed over O."""
    return gemm(grad_output, weight, True, False, len(grad_output), weight.shape[1], len(weight))


def linear_grad_weight(grad_output: DeviceArray, input: DeviceArray) -> DeviceArray:
    """(M,O) x (M,I) -> (O,I): grad_output.T @ input, summed over the images."""
    return gemm(grad_output, input, False, False, grad_output.shape[1], input.shape[1], len(input))


def linear_grad_bias(grad_output: DeviceArray) -> DeviceArray:
    """(M,O) -> (O,)."""
    return channel_sums(grad_output, grad_output.shape[1], 1)


_ARRAY = "{0}[::1], {0}[::1], {0}[::1], {0}, {0}[::1]"
KERNELS = [
    (f"gemm {name} {tile} {dtype}", gemm_kernel(tile, dtype, a_by_k, b_by_k, True, "relu"), f"void({_ARRAY.format(dtype.name)}, UniTuple(int64, 4))")
    for dtype, tiles in PRODUCTION.items()
    for tile in tiles + (TENSOR if dtype == np.float32 and not SIMULATED else ())
    for name, a_by_k, b_by_k in (("A @ B.T", True, True), ("A @ B", True, False), ("A.T @ B", False, False))
]
