"""Activations and their derivatives, each pair side by side, the formulas of the reference; softmax; dropout."""

from __future__ import annotations

import math
from typing import Any

from ._device import DeviceArray, blocks, empty, flat, launch
from ._elementwise import Elementwise, elementwise
from ._memory import SIMULATED, cuda

TILE = 8 if SIMULATED else 256  # elements per block, one per thread

SELU_ALPHA = 1.6732632423543772
SELU_SCALE = 1.0507009873554805


# The formulas. Comparisons send NaN where PyTorch sends it.


@elementwise(1)
def _relu(x):
    return type(x)(0) if x <= 0 else x


@elementwise(2)
def _relu_backward(g, x):
    return type(g)(0) if x <= 0 else g


@elementwise(1, 1)
def _leaky_relu(x, negative_slope):
    return x if x > 0 else negative_slope * x


@elementwise(2, 1)
def _leaky_relu_backward(g, x, negative_slope):
    return g if x > 0 else negative_slope * g


@elementwise(1, 2)
def _elu(x, alpha, scale):
    return scale * x if x > 0 else scale * alpha * math.expm1(x)


@elementwise(2, 2)
def _elu_backward(g, x, alpha, scale):
    return scale * g * (alpha * math.exp(x)) if x <= 0 else scale * g


@elementwise(1)
def _gelu(x):
    half, root = type(x)(0.5), type(x)(0.7071067811865476)
    return x * half * math.erfc(-x * root)


@elementwise(2)
def _gelu_backward(g, x):
    half, root, density = type(x)(0.5), type(x)(0.7071067811865476), type(x)(0.3989422804014327)
    return g * (half * math.erfc(-x * root) + x * density * math.exp(-half * x * x))


@elementwise(1)
def _gelu_tanh(x):
    half, one, cubic, root = type(x)(0.5), type(x)(1), type(x)(0.044715), type(x)(0.7978845608028654)
    return half * x * (one + math.tanh(root * (x + cubic * x * x * x)))


@elementwise(2)
def _gelu_tanh_backward(g, x):
    half, one, cubic, root = type(x)(0.5), type(x)(1), type(x)(0.044715), type(x)(0.7978845608028654)
    t = math.tanh(root * (x + cubic * x * x * x))
    slope = root * (one + type(x)(3) * cubic * x * x)
    return g * (half * (one + t) + half * x * (one - t * t) * slope)


def _logistic(x):
    """1/(1 + exp(-x)), computed from exp(-|x|), which cannot overflow."""
    small = math.exp(-abs(x))
    return (type(x)(1) if x >= 0 else small) / (type(x)(1) + small)


logistic = cuda.jit(device=True)(_logistic)


@elementwise(1)
def _sigmoid(x):
    return logistic(x)


@elementwise(2)
def _sigmoid_backward(g, y):
    return g * (type(y)(1) - y) * y


@elementwise(1)
def _tanh(x):
    return math.tanh(x)


@elementwise(2)
def _tanh_backward(g, y):
    return g * (type(y)(1) - y * y)


@elementwise(1)
def _silu(x):
    return x * logistic(x)


@elementwise(2)
def _silu_backward(g, x):
    s, one = logistic(x), type(x)(1)
    return g * (s * (one + x * (one - s)))


@elementwise(1, 2)
def _softplus(x, beta, threshold):
    scaled = beta * x
    return x if scaled > threshold else math.log1p(math.exp(scaled)) / beta


@elementwise(2, 2)
def _softplus_backward(g, x, beta, threshold):
    scaled = beta * x
    return g if scaled > threshold else g * logistic(scaled)


# The ops.


def relu(input: DeviceArray) -> DeviceArray:
    return _relu(input)


def relu_backward(grad_output: DeviceArray, input: DeviceArray) -> DeviceArray:
    return _relu_backward(grad_output, input)


def leaky_relu(input: DeviceArray, negative_slope: float) -> DeviceArray:
    return _leaky_relu(input, negative_slope)


def leaky_relu_backward(grad_output: DeviceArray, input: DeviceArray, negative_slope: float) -> DeviceArray:
    return _leaky_relu_backward(grad_output, input, negative_slope)


def elu(input: DeviceArray, alpha: float) -> DeviceArray:
    return _elu(input, alpha, 1.0)


def elu_backward(grad_output: DeviceArray, input: DeviceArray, alpha: float) -> DeviceArray:
    return _elu_backward(grad_output, input, alpha, 1.0)


def selu(input: DeviceArray) -> DeviceArray:
    return _elu(input, SELU_ALPHA, SELU_SCALE)


def selu_backward(grad_output: DeviceArray, input: DeviceArray) -> DeviceArray:
    return _elu_backward(grad_output, input, SELU_ALPHA, SELU_SCALE)


def gelu(input: DeviceArray, approximate: str) -> DeviceArray:
    return _gelu(input) if approximate == "none" else _gelu_tanh(input)


def gelu_backward(grad_output: DeviceArray, input: DeviceArray, approximate: str) -> DeviceArray:
    return _gelu_backward(grad_output, input) if approximate == "none" else _gelu_tanh_backward(grad_output, input)


def silu(input: DeviceArray) -> DeviceArray:
    return _silu(input)


def silu_backward(grad_output: DeviceArray, input: DeviceArray) -> DeviceArray:
    return _silu_backward(grad_output, input)


def softplus(input: DeviceArray, beta: float, threshold: float) -> DeviceArray:
    return _softplus(input, beta, threshold)


def softplus_backward(grad_output: DeviceArray, input: DeviceArray, beta: float, threshold: float) -> DeviceArray:
    return _softplus_backward(grad_output, input, beta, threshold)


def sigmoid(input: DeviceArray) -> DeviceArray:
    return _sigmoid(input)


def sigmoid_backward(grad_output: DeviceArray, output: DeviceArray) -> DeviceArray:
    return _sigmoid_backward(grad_output, output)


def tanh(input: DeviceArray) -> DeviceArray:
    return _tanh(input)


def tanh_backward(grad_output: DeviceArray, output: DeviceArray) -> DeviceArray:
    return _tanh_backward(grad_output, output)


# PReLU: a slope per channel (axis 1), or one for all.


@cuda.jit
def prelu_kernel(input, weight, output, channels, inner):
    """input (N, channels, inner) as one axis."""
    i = cuda.grid(1)
    if i < output.size:
        x = input[i]
        output[i] = x if x > 0 else weight[i // inner % channels] * x


@cuda.jit
def prelu_backward_kernel(grad_output, input, weight, grad_input, channels, inner):
    i = cuda.grid(1)
    if i < grad_input.size:
        g = grad_output[i]
        grad_input[i] = g if input[i] > 0 else weight[i // inner % channels] * g


@elementwise(2)
def _slope_product(g, x):
    """What the element adds to its slope's gradient."""
    return type(g)(0) if x > 0 else g * x


def _channels(input: DeviceArray, weight: DeviceArray) -> tuple[int, int]:
    """(channels, elements of one channel of one image)."""
    if weight.size == 1:
        return 1, max(input.size, 1)
    inner = 1
    for n in input.shape[2:]:
        inner *= n
    return weight.size, inner


def prelu(input: DeviceArray, weight: DeviceArray) -> DeviceArray:
    output = empty(input.shape, input.dtype)
    launch(prelu_kernel, blocks(input.size, TILE), TILE, flat(input), weight, flat(output), *_channels(input, weight))
    return output


def prelu_backward(grad_output: DeviceArray, input: DeviceArray, weight: DeviceArray) -> tuple[DeviceArray, DeviceArray]:
    from .reduction import channel_sums

    grad_input, (channels, inner) = empty(input.shape, input.dtype), _channels(input, weight)
    launch(
        prelu_backward_kernel, blocks(input.size, TILE), TILE, flat(grad_output), flat(input), weight, flat(grad_input), channels, inner
    )  # fmt: skip
    return grad_input, channel_sums(_slope_product(grad_output, input), channels, inner)


# Softmax: a thread per row, which reads its classes thrice. Rows of (outer, classes, inner) lie side by side along inner, so the threads' reads do too.


@cuda.jit
def softmax_kernel(input, output, logarithm):
    """(outer, classes, inner): exp(x - max) / sum, or its logarithm."""
    row = cuda.grid(1)
    outer, classes, inner = input.shape
    if row >= outer * inner:
        return
    o, i = row // inner, row % inner
    largest = input[o, 0, i]
    for c in range(1, classes):
        x = input[o, c, i]
        if x > largest or x != x:
            largest = x
    total = type(largest)(0)
    for c in range(classes):
        total += math.exp(input[o, c, i] - largest)
    for c in range(classes):
        x = input[o, c, i]
        output[o, c, i] = x - largest - math.log(total) if logarithm else math.exp(x - largest) / total


@cuda.jit
def softmax_backward_kernel(grad_output, output, grad_input, logarithm):
    """y*(g - sum(g*y)), or of the logarithm g - exp(y)*sum(g)."""
    row = cuda.grid(1)
    outer, classes, inner = output.shape
    if row >= outer * inner:
        return
    o, i = row // inner, row % inner
    total = type(output[o, 0, i])(0)
    for c in range(classes):
        g = grad_output[o, c, i]
        total += g if logarithm else g * output[o, c, i]
    for c in range(classes):
        g, y = grad_output[o, c, i], output[o, c, i]
        grad_input[o, c, i] = g - math.exp(y) * total if logarithm else y * (g - total)


def _three_axes(array: DeviceArray, dim: int) -> DeviceArray:
    """(axes before dim, dim, axes after it)."""
    outer = inner = 1
    for n in array.shape[:dim]:
        outer *= n
    for n in array.shape[dim + 1 :]:
        inner *= n
    return array.reshape(outer, array.shape[dim], inner)


def _softmax(input: DeviceArray, dim: int, logarithm: bool) -> DeviceArray:
    output = empty(input.shape, input.dtype)
    if input.size:
        rows = input.size // input.shape[dim]
        launch(softmax_kernel, blocks(rows, TILE), TILE, _three_axes(input, dim), _three_axes(output, dim), logarithm)
    return output


def _softmax_backward(grad_output: DeviceArray, output: DeviceArray, dim: int, logarithm: bool) -> DeviceArray:
    grad_input = empty(output.shape, output.dtype)
    if output.size:
        rows, arrays = output.size // output.shape[dim], [_three_axes(a, dim) for a in (grad_output, output, grad_input)]
        launch(softmax_backward_kernel, blocks(rows, TILE), TILE, *arrays, logarithm)
    return grad_input


def softmax(input: DeviceArray, dim: int) -> DeviceArray:
    return _softmax(input, dim, False)


def softmax_backward(grad_output: DeviceArray, output: DeviceArray, dim: int) -> DeviceArray:
    return _softmax_backward(grad_output, output, dim, False)


def log_softmax(input: DeviceArray, dim: int) -> DeviceArray:
    return _softmax(input, dim, True)


def log_softmax_backward(grad_output: DeviceArray, output: DeviceArray, dim: int) -> DeviceArray:
    return _softmax_backward(grad_output, output, dim, True)


# Dropout.


@cuda.jit
def dropout_kernel(input, mask, output, scale):
    """input*scale where kept, input*0 where dropped: a dropped NaN stays visible."""
    i = cuda.grid(1)
    if i < output.size:
        x = input[i]
        output[i] = x * scale if mask[i] else x * type(x)(0)


@cuda.jit(device=True)
def mixed(h):
    """The bits of a number below 2^32 stirred: murmur3's finaliser (Appleby). Masked products are the same whether numbers have 64 bits or no end."""
    h = ((h ^ (h >> 16)) * 0x85EBCA6B) & 0xFFFFFFFF
    h = ((h ^ (h >> 13)) * 0xC2B2AE35) & 0xFFFFFFFF
    return h ^ (h >> 16)


@cuda.jit
def keep_mask_kernel(mask, threshold, seed_low, seed_high):
    """True where 24 bits, drawn from the seed and the element's number, are at least the threshold."""
    i = cuda.grid(1)
    if i < mask.size:
        bits = mixed(mixed((i & 0xFFFFFFFF) ^ seed_low) ^ ((i >> 32) + seed_high & 0xFFFFFFFF))
        mask[i] = (bits >> 8) >= threshold


def dropout(input: DeviceArray, mask: DeviceArray, scale: float) -> DeviceArray:
    output = empty(input.shape, input.dtype)
    launch(dropout_kernel, blocks(input.size, TILE), TILE, flat(input), flat(mask), flat(output), input.dtype.type(scale))
    return output


def dropout_backward(grad_output: DeviceArray, mask: DeviceArray, scale: float) -> DeviceArray:
    return dropout(grad_output, mask, scale)


def keep_mask(shape: tuple[int, ...], p: float, rng: Any) -> DeviceArray:
    """A bool array, True with probability 1 - p. Only its seed is drawn from rng, on the host; other numbers than a host mask's of the same rng."""
    mask = empty(shape, bool)
    low, high = (int(half) for half in rng.integers(0, 2**32, 2))
    launch(keep_mask_kernel, blocks(mask.size, TILE), TILE, flat(mask), int(round(p * 2**24)), low, high)
    return mask


_F1, _F3 = "float32[::1]", "float32[:,:,::1]"
KERNELS = [op.listed for op in list(globals().values()) if isinstance(op, Elementwise)] + [
    ("prelu", prelu_kernel, f"void({_F1}, {_F1}, {_F1}, int64, int64)"),
    ("prelu_backward", prelu_backward_kernel, f"void({_F1}, {_F1}, {_F1}, {_F1}, int64, int64)"),
    ("softmax", softmax_kernel, f"void({_F3}, {_F3}, boolean)"),
    ("softmax_backward", softmax_backward_kernel, f"void({_F3}, {_F3}, {_F3}, boolean)"),
    ("dropout", dropout_kernel, f"void({_F1}, boolean[::1], {_F1}, float32)"),
    ("keep_mask", keep_mask_kernel, "void(boolean[::1], int64, int64, int64)"),
]
