"""Losses and their gradients: the formulas of the reference.

A row of logits is a block's: its threads read the classes side by side and find maximum and sum together. The losses of the rows (or elements) are then added
up in a fixed order. Reduced losses stay on the device as arrays without axes; float() copies.

A class number that is none, or a probability outside [0, 1], cannot be raised from a kernel: it is written into `faults`, its row's loss is NaN, and the next
copy to the host raises ValueError.
"""

from __future__ import annotations

import math
from typing import Any

from . import _memory
from ._device import DeviceArray, blocks, empty, flat, launch
from ._elementwise import Elementwise, elementwise
from ._memory import SIMULATED, cuda
from .activation import logistic
from .reduction import channel_sums, total

TILE = 8 if SIMULATED else 256  # elements per block, one per thread
ROW = 2 if SIMULATED else 32  # threads per row of logits, a power of two

BAD_CLASS, BAD_PROBABILITY = 1, 2
NEVER = -(2**62)  # an ignore_index that no target is


def _faults() -> DeviceArray:
    return _memory.fault_record(empty)


# Losses over classes.


@cuda.jit(device=True)
def row_log_sum(input, row, shared, thread):
    """(maximum, log of the sum of exp(x - maximum)) of a row, for every thread of the block."""
    classes = input.shape[1]
    largest = input[row, 0]
    for c in range(thread, classes, ROW):
        x = input[row, c]
        if x > largest or x != x:
            largest = x
    shared[thread] = largest
    cuda.syncthreads()
    half = ROW // 2
    while half:
        if thread < half and (shared[thread + half] > shared[thread] or shared[thread + half] != shared[thread + half]):
            shared[thread] = shared[thread + half]
        cuda.syncthreads()
        half //= 2
    largest = shared[0]
    cuda.syncthreads()
    part = type(largest)(0)
    for c in range(thread, classes, ROW):
        part += math.exp(input[row, c] - largest)
    shared[thread] = part
    cuda.syncthreads()
    half = ROW // 2
    while half:
        if thread < half:
            shared[thread] += shared[thread + half]
        cuda.syncthreads()
        half //= 2
    return largest, math.log(shared[0])


@cuda.jit(device=True)
def class_of(target, row, classes, ignore_index, faults):
    """The target's class, -1 if it is ignored, -2 if it is none."""
    number = target[row]
    if number == ignore_index:
        return -1
    if number < 0 or number >= classes:
        faults[0], faults[1], faults[2] = BAD_CLASS, number, classes
        return -2
    return number


@cuda.jit
def cross_entropy_classes(input, target, weight, losses, weights, ignore_index, smoothing, faults):
    """losses[row] and its share of the mean's divisor, weights[row], for class numbers."""
    shared = cuda.shared.array(ROW, losses.dtype)
    row, thread, classes = cuda.blockIdx.x, cuda.threadIdx.x, input.shape[1]
    zero, one = losses.dtype.type(0), losses.dtype.type(1)
    largest, log_sum = row_log_sum(input, row, shared, thread)
    if thread:
        return
    number = class_of(target, row, classes, ignore_index, faults)
    if number < 0:
        losses[row] = zero if number == -1 else losses.dtype.type(math.nan)
        weights[row] = zero
        return
    own = weight[number] if weight.size else one
    loss = zero
    if own != 0:
        loss = -(one - smoothing) * own * (input[row, number] - largest - log_sum)
    if smoothing > 0:
        part = zero
        for c in range(classes):
            w = weight[c] if weight.size else one
            if w != 0:  # a class that does not count may have any logit, -inf too
                part += w * (input[row, c] - largest - log_sum)
        loss -= smoothing / losses.dtype.type(classes) * part
    losses[row], weights[row] = loss, own


@cuda.jit
def cross_entropy_probabilities(input, target, weight, losses, smoothing):
    shared = cuda.shared.array(ROW, losses.dtype)
    row, thread, classes = cuda.blockIdx.x, cuda.threadIdx.x, input.shape[1]
    one = losses.dtype.type(1)
    largest, log_sum = row_log_sum(input, row, shared, thread)
    if thread:
        return
    loss = losses.dtype.type(0)
    for c in range(classes):
        q = (one - smoothing) * target[row, c] + smoothing / losses.dtype.type(classes)
        if weight.size:
            q *= weight[c]
        loss -= q * (input[row, c] - largest - log_sum)
    losses[row] = loss


@cuda.jit
def cross_entropy_backward_classes(grad_output, input, target, weight, divisor, grad_input, ignore_index, smoothing, faults):
    """grad_output: one number, or one per row; divisor: one number, or none."""
    shared = cuda.shared.array(ROW, grad_input.dtype)
    row, thread, classes = cuda.blockIdx.x, cuda.threadIdx.x, input.shape[1]
    zero, one = grad_input.dtype.type(0), grad_input.dtype.type(1)
    largest, log_sum = row_log_sum(input, row, shared, thread)
    number = class_of(target, row, classes, ignore_index, faults)
    g = grad_output[row % grad_output.size]
    if divisor.size:
        g /= divisor[0]
    own, uniform = one, smoothing / grad_input.dtype.type(classes)
    if weight.size and number >= 0:
        own = weight[number]
    whole = (one - smoothing) * own
    if smoothing > 0:
        for c in range(classes):
            whole += uniform * (weight[c] if weight.size else one)
    for c in range(thread, classes, ROW):
        q = uniform * (weight[c] if weight.size else one)
        if c == number:
            q += (one - smoothing) * own
        value = (math.exp(input[row, c] - largest - log_sum) * whole - q) * g
        grad_input[row, c] = value if number >= 0 else zero if number == -1 else grad_input.dtype.type(math.nan)


@cuda.jit
def cross_entropy_backward_probabilities(grad_output, input, target, weight, grad_input, smoothing, share):
    """share: 1/M for the mean, else 1."""
    shared = cuda.shared.array(ROW, grad_input.dtype)
    row, thread, classes = cuda.blockIdx.x, cuda.threadIdx.x, input.shape[1]
    one = grad_input.dtype.type(1)
    largest, log_sum = row_log_sum(input, row, shared, thread)
    g, whole = grad_output[row % grad_output.size] * share, grad_input.dtype.type(0)
    for c in range(classes):
        whole += ((one - smoothing) * target[row, c] + smoothing / grad_input.dtype.type(classes)) * (weight[c] if weight.size else one)
    for c in range(thread, classes, ROW):
        q = ((one - smoothing) * target[row, c] + smoothing / grad_input.dtype.type(classes)) * (weight[c] if weight.size else one)
        grad_input[row, c] = (math.exp(input[row, c] - largest - log_sum) * whole - q) * g


@cuda.jit
def nll_loss_kernel(input, target, weight, losses, weights, ignore_index, faults):
    row = cuda.grid(1)
    if row < losses.size:
        number = class_of(target, row, input.shape[1], ignore_index, faults)
        own = losses.dtype.type(0)
        if number >= 0:
            own = weight[number] if weight.size else losses.dtype.type(1)
        if own != 0:
            losses[row] = -own * input[row, number]
        else:
            losses[row] = own if number != -2 else losses.dtype.type(math.nan)
        weights[row] = own


@cuda.jit
def nll_loss_backward_kernel(grad_output, target, weight, divisor, grad_input, ignore_index, faults):
    row = cuda.grid(1)
    if row < grad_input.shape[0]:
        number = class_of(target, row, grad_input.shape[1], ignore_index, faults)
        for c in range(grad_input.shape[1]):
            grad_input[row, c] = grad_input.dtype.type(0)
        if number >= 0:
            own = weight[number] if weight.size else grad_input.dtype.type(1)
            if own != 0:
                g = -own * grad_output[row % grad_output.size]
                grad_input[row, number] = g / divisor[0] if divisor.size else g


@cuda.jit
def target_weights(target, weight, weights, ignore_index, classes, faults):
    """weights[row]: that of the target's class, 0 where it is ignored."""
    row = cuda.grid(1)
    if row < weights.size:
        number = class_of(target, row, classes, ignore_index, faults)
        weights[row] = weights.dtype.type(0)
        if number >= 0:
            weights[row] = weight[number] if weight.size else weights.dtype.type(1)


@cuda.jit
def quotient(losses, weights, output):
    output[0] = losses[0] / weights[0]


def _weight(weight: DeviceArray | None, like: DeviceArray) -> DeviceArray:
    return empty((0,), like.dtype) if weight is None else weight


def _gradient(grad_output: Any, input: DeviceArray) -> DeviceArray:
    """grad_output as an array of one element, or of one per loss."""
    if isinstance(grad_output, DeviceArray):
        return flat(grad_output)
    result = empty((1,), input.dtype)
    result.fill(grad_output)
    return result


def _reduced(losses: DeviceArray, weights: DeviceArray | None, reduction: str) -> DeviceArray:
    """losses themselves, their sum, or their sum over that of the weights (over their number, where there are none)."""
    if reduction == "none":
        return losses
    if reduction == "sum":
        return total(losses)
    if weights is None:
        return total(losses, 1 / losses.size if losses.size else math.nan)
    result = empty((1,), losses.dtype)
    launch(quotient, 1, 1, total(losses).reshape(1), total(weights).reshape(1), result)
    return result.reshape(())


def _divisor(target: DeviceArray, weight: DeviceArray, input: DeviceArray, ignore_index: int, reduction: str) -> DeviceArray:
    """(1,) the mean's divisor, or nothing for the other reductions."""
    if reduction != "mean":
        return empty((0,), input.dtype)
    weights = empty((len(target),), input.dtype)
    launch(target_weights, blocks(len(target), TILE), TILE, target, weight, weights, ignore_index, input.shape[1], _faults())
    return channel_sums(weights, 1, max(len(target), 1))


def cross_entropy(
    input: DeviceArray, target: DeviceArray, weight: DeviceArray | None, ignore_index: int, reduction: str, label_smoothing: float
) -> DeviceArray:
    rows, kind = len(input), input.dtype.type
    losses, weight = empty((rows,), input.dtype), _weight(weight, input)
    if target.ndim == 2:
        launch(cross_entropy_probabilities, rows, ROW, input, target, weight, losses, kind(label_smoothing))
        return _reduced(losses, None, reduction)
    weights = empty((rows,), input.dtype)
    launch(cross_entropy_classes, rows, ROW, input, target, weight, losses, weights, ignore_index, kind(label_smoothing), _faults())
    return _reduced(losses, weights, reduction)


def cross_entropy_backward(
    grad_output: Any, input: DeviceArray, target: DeviceArray, weight: DeviceArray | None, ignore_index: int, reduction: str, label_smoothing: float
) -> DeviceArray:
    rows, kind = len(input), input.dtype.type
    grad_input, weight, grad = empty(input.shape, input.dtype), _weight(weight, input), _gradient(grad_output, input)
    if target.ndim == 2:
        share = kind(1 / rows if reduction == "mean" and rows else 1)
        launch(cross_entropy_backward_probabilities, rows, ROW, grad, input, target, weight, grad_input, kind(label_smoothing), share)
        return grad_input
    divisor = _divisor(target, weight, input, ignore_index, reduction)
    launch(
        cross_entropy_backward_classes, rows, ROW, grad, input, target, weight, divisor, grad_input, ignore_index, kind(label_smoothing), _faults()
    )  # fmt: skip
    return grad_input


def nll_loss(input: DeviceArray, target: DeviceArray, weight: DeviceArray | None, ignore_index: int, reduction: str) -> DeviceArray:
    rows, weight = len(input), _weight(weight, input)
    losses, weights = empty((rows,), input.dtype), empty((rows,), input.dtype)
    launch(nll_loss_kernel, blocks(rows, TILE), TILE, input, target, weight, losses, weights, ignore_index, _faults())
    return _reduced(losses, weights, reduction)


def nll_loss_backward(
    grad_output: Any, input: DeviceArray, target: DeviceArray, weight: DeviceArray | None, ignore_index: int, reduction: str
) -> DeviceArray:
    grad_input, weight, grad = empty(input.shape, input.dtype), _weight(weight, input), _gradient(grad_output, input)
    divisor = _divisor(target, weight, input, ignore_index, reduction)
    launch(nll_loss_backward_kernel, blocks(len(input), TILE), TILE, grad, target, weight, divisor, grad_input, ignore_index, _faults())
    return grad_input


# Element-wise losses.


@elementwise(2)
def _squared_error(x, t):
    return (x - t) * (x - t)


@elementwise(2)
def _error(x, t):
    return type(x)(2) * (x - t)


@elementwise(2)
def _binary_cross_entropy(x, t):
    one, least = type(x)(1), type(x)(-100)
    positive = math.log(x) if x > 0 else least
    negative = math.log1p(-x) if x < 1 else least
    if x != x:
        positive = negative = x
    return (t - one) * (negative if not negative < least else least) - t * (positive if not positive < least else least)


@elementwise(2)
def _binary_cross_entropy_slope(x, t):
    one, least = type(x)(1), type(x)(1e-12)
    spread = (one - x) * x
    return (x - t) / (least if spread < least else spread)


@cuda.jit
def bce_with_logits(input, target, weight, pos_weight, output):
    """weight and pos_weight are empty where they are absent."""
    i = cuda.grid(1)
    if i < output.size:
        x, t = input[i], target[i]
        one, zero = type(x)(1), type(x)(0)
        log_term = math.log1p(math.exp(-abs(x))) + (-x if x < 0 else zero)
        if pos_weight.size:
            log_term *= (pos_weight[i] - one) * t + one
        loss = (one - t) * x + log_term
        output[i] = loss * weight[i] if weight.size else loss


@cuda.jit
def bce_with_logits_slope(input, target, weight, pos_weight, output):
    i = cuda.grid(1)
    if i < output.size:
        x, t = input[i], target[i]
        positive = pos_weight[i] * t if pos_weight.size else t
        slope = (positive + type(x)(1) - t) * logistic(x) - positive
        output[i] = slope * weight[i] if weight.size else slope


@cuda.jit
def times(slope, weight, grad_output, grad_input, share):
    """grad_input = slope*weight*grad_output*share; weight may be empty, grad_output one number."""
    i = cuda.grid(1)
    if i < grad_input.size:
        value = slope[i] * (grad_output[i % grad_output.size] * share)
        grad_input[i] = value * weight[i] if weight.size else value


@cuda.jit
def check_probabilities(input, faults):
    i = cuda.grid(1)
    if i < input.size and (input[i] < 0 or input[i] > 1):
        faults[0] = BAD_PROBABILITY


def _chained(slope: DeviceArray, weight: DeviceArray | None, grad_output: Any, reduction: str) -> DeviceArray:
    grad_input, kind = empty(slope.shape, slope.dtype), slope.dtype.type
    share = kind(1 / max(slope.size, 1) if reduction == "mean" else 1)
    arrays = flat(slope), flat(_weight(weight, slope)), _gradient(grad_output, slope), flat(grad_input)
    launch(times, blocks(slope.size, TILE), TILE, *arrays, share)
    return grad_input


def mse_loss(input: DeviceArray, target: DeviceArray, reduction: str) -> DeviceArray:
    return _reduced(_squared_error(input, target), None, reduction)


def mse_loss_backward(grad_output: Any, input: DeviceArray, target: DeviceArray, reduction: str) -> DeviceArray:
    return _chained(_error(input, target), None, grad_output, reduction)


def binary_cross_entropy(input: DeviceArray, target: DeviceArray, weight: DeviceArray | None, reduction: str) -> DeviceArray:
    launch(check_probabilities, blocks(input.size, TILE), TILE, flat(input), _faults())
    losses = _binary_cross_entropy(input, target)
    return _reduced(losses if weight is None else losses * weight, None, reduction)


def binary_cross_entropy_backward(
    grad_output: Any, input: DeviceArray, target: DeviceArray, weight: DeviceArray | None, reduction: str
) -> DeviceArray:
    return _chained(_binary_cross_entropy_slope(input, target), weight, grad_output, reduction)


def _logits(kernel: Any, input: DeviceArray, target: DeviceArray, weight: DeviceArray | None, pos_weight: DeviceArray | None) -> DeviceArray:
    output = empty(input.shape, input.dtype)
    arrays = flat(input), flat(target), flat(_weight(weight, input)), flat(_weight(pos_weight, input)), flat(output)
    launch(kernel, blocks(input.size, TILE), TILE, *arrays)
    return output


def binary_cross_entropy_with_logits(
    input: DeviceArray, target: DeviceArray, weight: DeviceArray | None, pos_weight: DeviceArray | None, reduction: str
) -> DeviceArray:
    return _reduced(_logits(bce_with_logits, input, target, weight, pos_weight), None, reduction)


def binary_cross_entropy_with_logits_backward(
    grad_output: Any, input: DeviceArray, target: DeviceArray, weight: DeviceArray | None, pos_weight: DeviceArray | None, reduction: str
) -> DeviceArray:
    return _chained(_logits(bce_with_logits_slope, input, target, weight, pos_weight), None, grad_output, reduction)


@cuda.jit
def one_hot_kernel(target, output, faults):
    row = cuda.grid(1)
    if row < output.shape[0]:
        number = class_of(target, row, output.shape[1], NEVER, faults)
        for c in range(output.shape[1]):
            output[row, c] = output.dtype.type(1 if c == number else 0)


def one_hot(target: DeviceArray, num_classes: int, dtype: Any) -> DeviceArray:
    """(M,) class numbers -> (M, num_classes), 1 in the class's column and 0 elsewhere."""
    output = empty((len(target), num_classes), dtype)
    launch(one_hot_kernel, blocks(len(target), TILE), TILE, target, output, _faults())
    return output


_F1, _F2, _I1 = "float32[::1]", "float32[:,::1]", "int64[::1]"
KERNELS: list[tuple[str, Any, str]] = [op.listed for op in list(globals().values()) if isinstance(op, Elementwise)] + [
    ("cross_entropy_classes", cross_entropy_classes, f"void({_F2}, {_I1}, {_F1}, {_F1}, {_F1}, int64, float32, {_I1})"),
    ("cross_entropy_probabilities", cross_entropy_probabilities, f"void({_F2}, {_F2}, {_F1}, {_F1}, float32)"),
    ("cross_entropy_backward_classes", cross_entropy_backward_classes, f"void({_F1}, {_F2}, {_I1}, {_F1}, {_F1}, {_F2}, int64, float32, {_I1})"),
    ("cross_entropy_backward_probabilities", cross_entropy_backward_probabilities, f"void({_F1}, {_F2}, {_F2}, {_F1}, {_F2}, float32, float32)"),
    ("nll_loss", nll_loss_kernel, f"void({_F2}, {_I1}, {_F1}, {_F1}, {_F1}, int64, {_I1})"),
    ("nll_loss_backward", nll_loss_backward_kernel, f"void({_F1}, {_I1}, {_F1}, {_F1}, {_F2}, int64, {_I1})"),
    ("target_weights", target_weights, f"void({_I1}, {_F1}, {_F1}, int64, int64, {_I1})"),
    ("one_hot", one_hot_kernel, f"void({_I1}, {_F2}, {_I1})"),
    ("quotient", quotient, f"void({_F1}, {_F1}, {_F1})"),
    ("bce_with_logits", bce_with_logits, f"void({', '.join([_F1] * 5)})"),
    ("bce_with_logits_slope", bce_with_logits_slope, f"void({', '.join([_F1] * 5)})"),
    ("times", times, f"void({', '.join([_F1] * 4)}, float32)"),
    ("check_probabilities", check_probabilities, f"void({_F1}, {_I1})"),
]
