"""Batch, layer and group normalisation: z = (input - mean) / sqrt(var + eps), output = z*weight + bias.

The three differ only in the axes that mean and variance are taken over, so they share one forward and one backward.

Backward: z depends on every element through mean and var; differentiating them away leaves, with g = grad_output*weight,

    grad_input = (g - mean(g) - z*mean(g*z)) / sqrt(var + eps)

mean() over the same axes as the statistics. With fixed statistics (batch norm in evaluation) the two means are absent.

Source: Ioffe & Szegedy 2015 (arXiv:1502.03167); Ba et al. 2016 (arXiv:1607.06450); Wu & He 2018 (arXiv:1803.08494).
"""

from math import prod

import numpy as np


def total(values, axes, keepdims=False):
    """The sum over axes, added in float64: NumPy adds in the order of memory, and one float32 after another loses the digits of a million small ones."""
    return values.sum(axis=axes, keepdims=keepdims, dtype=np.float64).astype(values.dtype)


def mean_and_var(input, axes):
    """Mean and biased variance over axes, kept as size-1 axes. Two passes: the sum of squares alone would cancel."""
    count = max(1, prod(input.shape[axis] for axis in axes))  # an empty batch has mean and variance 0
    mean = total(input, axes, True) / count
    var = total(np.square(input - mean), axes, True) / count
    return mean, var


def scale(normalized, weight, bias):
    """z*weight + bias; either may be None."""
    if weight is not None:
        normalized = normalized * weight
    if bias is not None:
        normalized = normalized + bias
    return normalized


def normalization_grad(grad, normalized, inverse_std, axes):
    """grad_input from grad = grad_output*weight when the statistics were computed from the input over axes."""
    count = max(1, prod(grad.shape[axis] for axis in axes))
    mean_grad = total(grad, axes, True) / count
    mean_product = total(grad * normalized, axes, True) / count
    return (grad - mean_grad - normalized * mean_product) * inverse_std


def per_channel(vector):
    """(C,) -> (C,1,1), which broadcasts over (N,C,H,W); None stays None."""
    return None if vector is None else vector[:, None, None]


def batch_norm(input, weight, bias, mean, var, eps):
    """(N,C,H,W) -> (N,C,H,W), mean (C,), var (C,): statistics over N, H, W, or those given."""
    if mean is None:
        mean, var = (moment.reshape(-1) for moment in mean_and_var(input, (0, 2, 3)))
    inverse_std = 1 / np.sqrt(var + eps)
    output = scale((input - per_channel(mean)) * per_channel(inverse_std), per_channel(weight), per_channel(bias))
    return output, mean.copy(), var.copy()


def batch_norm_backward(grad_output, input, weight, mean, var, eps, training):
    """-> grad_input (N,C,H,W), grad_weight (C,), grad_bias (C,)."""
    inverse_std = per_channel(1 / np.sqrt(var + eps))
    normalized = (input - per_channel(mean)) * inverse_std
    grad = scale(grad_output, per_channel(weight), None)
    grad_input = normalization_grad(grad, normalized, inverse_std, (0, 2, 3)) if training else grad * inverse_std
    return grad_input, total(grad_output * normalized, (0, 2, 3)), total(grad_output, (0, 2, 3))


def layer_norm(input, normalized_shape, weight, bias, eps):
    """(*, normalized_shape) -> the same: statistics over the trailing axes."""
    axes = tuple(range(input.ndim - len(normalized_shape), input.ndim))
    mean, var = mean_and_var(input, axes)
    return scale((input - mean) / np.sqrt(var + eps), weight, bias)


def layer_norm_backward(grad_output, input, normalized_shape, weight, eps):
    """-> grad_input like input, grad_weight and grad_bias (normalized_shape)."""
    leading = tuple(range(input.ndim - len(normalized_shape)))
    axes = tuple(range(len(leading), input.ndim))
    mean, var = mean_and_var(input, axes)
    inverse_std = 1 / np.sqrt(var + eps)
    normalized = (input - mean) * inverse_std
    grad_input = normalization_grad(scale(grad_output, weight, None), normalized, inverse_std, axes)
    return grad_input, total(grad_output * normalized, leading), total(grad_output, leading)


def group_norm(input, num_groups, weight, bias, eps):
    """(N,C,H,W) -> the same: statistics per image over each run of C/num_groups channels."""
    grouped = input.reshape(len(input), num_groups, input.shape[1] // num_groups, *input.shape[2:])
    mean, var = mean_and_var(grouped, (2, 3, 4))
    normalized = (grouped - mean) / np.sqrt(var + eps)
    return scale(normalized.reshape(input.shape), per_channel(weight), per_channel(bias))


def group_norm_backward(grad_output, input, num_groups, weight, eps):
    """-> grad_input (N,C,H,W), grad_weight (C,), grad_bias (C,)."""
    grouped_shape = (len(input), num_groups, input.shape[1] // num_groups, *input.shape[2:])
    grouped = input.reshape(grouped_shape)
    mean, var = mean_and_var(grouped, (2, 3, 4))
    inverse_std = 1 / np.sqrt(var + eps)
    normalized = (grouped - mean) * inverse_std
    grad = scale(grad_output, per_channel(weight), None).reshape(grouped_shape)
    grad_input = normalization_grad(grad, normalized, inverse_std, (2, 3, 4)).reshape(input.shape)
    grad_weight = total(grad_output * normalized.reshape(input.shape), (0, 2, 3))
    return grad_input, grad_weight, total(grad_output, (0, 2, 3))
