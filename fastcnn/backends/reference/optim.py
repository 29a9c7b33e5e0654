"""Optimizer updates, in place, parameter by parameter: lists of parameters, their gradients and states in, the same arrays changed."""

import math

import numpy as np


def _gradient(param, grad, weight_decay, maximize):
    """-grad if maximizing, plus the gradient of weight_decay/2 * param^2."""
    grad = -grad if maximize else grad
    return grad + weight_decay * param if weight_decay else grad


def _subtract(param, change):
    np.subtract(param, change, out=param)


def _states(states, params):
    """The list itself, or as many None."""
    return [None] * len(params) if states is None else states


def sgd_update(params, grads, momentum_buffers, steps, lr, momentum, dampening, weight_decay, nesterov, maximize):
    """Robbins & Monro 1951; momentum as Sutskever et al. 2013, in torch's form: the learning rate multiplies the buffer."""
    for param, grad, buffer, step in zip(params, grads, _states(momentum_buffers, params), steps, strict=True):
        grad = _gradient(param, grad, weight_decay, maximize)
        if buffer is not None:
            buffer[...] = grad if step == 1 else momentum * buffer + (1 - dampening) * grad
            grad = grad + momentum * buffer if nesterov else buffer
        _subtract(param, lr * grad)


def adagrad_update(params, grads, sums, steps, lr, lr_decay, eps, weight_decay, maximize):
    """Duchi et al. 2011."""
    for param, grad, total, step in zip(params, grads, sums, steps, strict=True):
        grad = _gradient(param, grad, weight_decay, maximize)
        total[...] = total + grad * grad
        _subtract(param, lr / (1 + (step - 1) * lr_decay) * (grad / (np.sqrt(total) + eps)))


def rmsprop_update(params, grads, square_avgs, grad_avgs, momentum_buffers, lr, alpha, eps, momentum, weight_decay, maximize):
    """Hinton's lecture 6e; centered, if there are grad_avgs: Graves 2013 (arXiv:1308.0850)."""
    states = square_avgs, _states(grad_avgs, params), _states(momentum_buffers, params)
    for param, grad, square, average, buffer in zip(params, grads, *states, strict=True):
        grad = _gradient(param, grad, weight_decay, maximize)
        square[...] = alpha * square + (1 - alpha) * (grad * grad)
        variance = square
        if average is not None:
            average[...] = average + (1 - alpha) * (grad - average)
            variance = square - average * average
        change = grad / (np.sqrt(variance) + eps)
        if buffer is not None:
            change = buffer[...] = momentum * buffer + change
        _subtract(param, lr * change)


def adam_update(params, grads, exp_avgs, exp_avg_sqs, max_exp_avg_sqs, steps, lr, beta1, beta2, eps, weight_decay, decoupled, maximize):
    """Kingma & Ba 2015; AMSGrad, if there are max_exp_avg_sqs: Reddi et al. 2018; AdamW, if decoupled: Loshchilov & Hutter 2019."""
    states = exp_avgs, exp_avg_sqs, _states(max_exp_avg_sqs, params)
    for param, grad, mean, square, largest, step in zip(params, grads, *states, steps, strict=True):
        grad = _gradient(param, grad, 0 if decoupled else weight_decay, maximize)
        mean[...] = mean + (1 - beta1) * (grad - mean)
        square[...] = beta2 * square + (1 - beta2) * (grad * grad)
        if largest is not None:
            square = np.maximum(largest, square, out=largest)
        change = lr / (1 - beta1**step) * (mean / (np.sqrt(square) / math.sqrt(1 - beta2**step) + eps))
        if decoupled and weight_decay:
            np.multiply(param, 1 - lr * weight_decay, out=param)
        _subtract(param, change)
