"""The fully connected layer: output = input @ weight.T + bias, and the same product with the matrices the other way round for each gradient."""

from __future__ import annotations

from ._device import DeviceArray
from .gemm import gemm
from .reduction import channel_sums


def linear(input: DeviceArray, weight: DeviceArray, bias: DeviceArray | None, activation: str = "none", slope: float = 0.0) -> DeviceArray:
    """(M,I) x (O,I) [+ (O,)] -> (M,O)."""
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
