"""Losses and their gradients. One row per sample: input (M, C), target (M,) class numbers or (M, C) probabilities.

`mean` over class targets is the weighted mean over the rows that are not ignored, sum(loss)/sum(weight[target]), as PyTorch; everywhere else it is
the plain mean. The mean of nothing is NaN.
"""

import numpy as np

from ..targets import check_classes
from .activation import log_softmax, sigmoid


def reduce(loss, reduction, count):
    """loss itself, its sum, or its sum / count."""
    if reduction == "none":
        return loss
    total = loss.sum(keepdims=True).reshape(())
    if reduction == "sum":
        return total
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.divide(total, count, dtype=loss.dtype)


def unreduce(grad_output, reduction, count, dtype):
    """Gradient of each unreduced loss, from the gradient of the reduced one."""
    grad = np.asarray(grad_output, dtype)
    if reduction != "mean":
        return grad
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.divide(grad, count, dtype=dtype)


def class_weights(op, dtype, target, weight, num_classes, ignore_index):
    """(M, C): weight of the target class in its column, 0 elsewhere and in ignored rows. And the sum of them all, the mean's divisor."""
    check_classes(op, target, num_classes, ignore_index)
    rows = np.flatnonzero(target != ignore_index)
    table = np.zeros((len(target), num_classes), dtype)
    table[rows, target[rows]] = 1 if weight is None else weight[target[rows]]
    return table, table.sum(keepdims=True).reshape(())


def where_nonzero(table, values):
    """table*values, but 0 where table is 0, even if the value there is infinite: those entries are no part of the loss."""
    return np.where(table == 0, 0, table * np.where(table == 0, 0, values))


def nll_loss(input, target, weight, ignore_index, reduction):
    """-weight[target]*input[target]; input holds log-probabilities."""
    table, total_weight = class_weights("nll_loss", input.dtype, target, weight, input.shape[1], ignore_index)
    return reduce(-where_nonzero(table, input).sum(axis=1), reduction, total_weight)


def nll_loss_backward(grad_output, input, target, weight, ignore_index, reduction):
    """-weight[target] in the target's column."""
    table, total_weight = class_weights("nll_loss_backward", input.dtype, target, weight, input.shape[1], ignore_index)
    grad = np.broadcast_to(unreduce(grad_output, reduction, total_weight, input.dtype), target.shape)
    return where_nonzero(-table, grad[:, None])


def target_distribution(op, input, target, weight, ignore_index, label_smoothing):
    """(M, C) q*weight, so that cross-entropy is -sum(q*weight*log_softmax(input)), and the mean's divisor.

    Label smoothing mixes the target with the uniform distribution: q = (1 - s)*target + s/C; Szegedy et al. 2016 (arXiv:1512.00567).
    """
    M, C = input.shape
    uniform = np.ones(C, input.dtype) if weight is None else weight
    if target.ndim == 2:
        return ((1 - label_smoothing) * target + label_smoothing / C) * uniform, M
    table, total_weight = class_weights(op, input.dtype, target, weight, C, ignore_index)
    if label_smoothing:
        kept = (target != ignore_index)[:, None]
        table = (1 - label_smoothing) * table + (label_smoothing / C) * (uniform * kept)
    return table, total_weight


def cross_entropy(input, target, weight, ignore_index, reduction, label_smoothing):
    """-sum over classes of q*weight*log_softmax(input)."""
    q, count = target_distribution("cross_entropy", input, target, weight, ignore_index, label_smoothing)
    with np.errstate(invalid="ignore"):
        products = q * log_softmax(input, 1) if target.ndim == 2 else where_nonzero(q, log_softmax(input, 1))
    return reduce(-products.sum(axis=1), reduction, count)


def cross_entropy_backward(grad_output, input, target, weight, ignore_index, reduction, label_smoothing):
    """softmax(input)*sum(q*weight) - q*weight: probability minus target, when the weights are 1."""
    q, count = target_distribution("cross_entropy_backward", input, target, weight, ignore_index, label_smoothing)
    grad = np.broadcast_to(unreduce(grad_output, reduction, count, input.dtype), len(input))
    grad_input = np.exp(log_softmax(input, 1)) * q.sum(axis=1, keepdims=True) - q
    if target.ndim == 1:
        grad_input[target == ignore_index] = 0
        grad = np.where(target == ignore_index, 0, grad)
    return grad_input * grad[:, None]


def mse_loss(input, target, reduction):
    """(input - target)^2."""
    return reduce(np.square(input - target), reduction, input.size)


def mse_loss_backward(grad_output, input, target, reduction):
    """2*(input - target)."""
    return 2 * (input - target) * unreduce(grad_output, reduction, input.size, input.dtype)


def binary_cross_entropy(input, target, weight, reduction):
    """-weight*(t*log(x) + (1 - t)*log(1 - x)); logarithms are cut off at -100, so that a certain wrong answer costs 100, not infinity."""
    with np.errstate(divide="ignore"):
        loss = (target - 1) * np.maximum(np.log1p(-input), -100) - target * np.maximum(np.log(input), -100)
    return reduce(loss if weight is None else loss * weight, reduction, input.size)


def binary_cross_entropy_backward(grad_output, input, target, weight, reduction):
    """weight*(x - t) / (x*(1 - x)), the denominator kept from 0."""
    grad = unreduce(grad_output, reduction, input.size, input.dtype) * (input - target)
    grad = grad / np.maximum((1 - input) * input, 1e-12)
    return grad if weight is None else grad * weight


def binary_cross_entropy_with_logits(input, target, weight, pos_weight, reduction):
    """Binary cross-entropy of sigmoid(x): weight*((1 - t)*x + (1 + (pos_weight - 1)*t) * log(1 + exp(-x)))."""
    log_term = np.log1p(np.exp(-np.abs(input))) + np.maximum(-input, 0)  # log(1 + exp(-x)) without overflow
    if pos_weight is not None:
        log_term = log_term * ((pos_weight - 1) * target + 1)
    loss = (1 - target) * input + log_term
    return reduce(loss if weight is None else loss * weight, reduction, input.size)


def binary_cross_entropy_with_logits_backward(grad_output, input, target, weight, pos_weight, reduction):
    """weight*((pos_weight*t + 1 - t)*sigmoid(x) - pos_weight*t)."""
    positive = target if pos_weight is None else pos_weight * target
    grad = (positive + 1 - target) * sigmoid(input) - positive
    grad = grad * unreduce(grad_output, reduction, input.size, input.dtype)
    return grad if weight is None else grad * weight
