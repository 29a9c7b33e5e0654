"""Coursera's deep learning specialization, course 4 week 1 ("Convolution model, step by step"): what its functions compute, in plain loops.

Written from the description of the interface: NHWC, weights (f, f, C_prev, C), biases (1, 1, 1, C), floor for strides that do not tile.
"""

import numpy as np


def zero_pad(X, pad):
    m, H, W, C = X.shape
    out = np.zeros((m, H + 2 * pad, W + 2 * pad, C))
    out[:, pad : pad + H, pad : pad + W] = X
    return out


def _places(shape, f, stride):
    for i in range(shape[0]):
        for h in range((shape[1] - f) // stride + 1):
            for w in range((shape[2] - f) // stride + 1):
                yield i, h, w, np.s_[i, h * stride : h * stride + f, w * stride : w * stride + f]


def conv_forward(A_prev, W, b, stride, pad):
    image, (f, _, _, C) = zero_pad(A_prev, pad), W.shape
    Z = np.zeros((len(image), (image.shape[1] - f) // stride + 1, (image.shape[2] - f) // stride + 1, C))
    for i, h, w, window in _places(image.shape, f, stride):
        for c in range(C):
            Z[i, h, w, c] = np.sum(image[window] * W[..., c]) + b[0, 0, 0, c]
    return Z


def conv_backward(dZ, A_prev, W, stride, pad):
    image, (f, _, _, C) = zero_pad(A_prev, pad), W.shape
    dimage, dW, db = np.zeros_like(image), np.zeros(W.shape), np.zeros((1, 1, 1, C))
    for i, h, w, window in _places(image.shape, f, stride):
        for c in range(C):
            dimage[window] += W[..., c] * dZ[i, h, w, c]
            dW[..., c] += image[window] * dZ[i, h, w, c]
            db[..., c] += dZ[i, h, w, c]
    H, width = A_prev.shape[1:3]
    return dimage[:, pad : pad + H, pad : pad + width], dW, db


def pool_forward(A_prev, f, stride, mode):
    A = np.zeros((len(A_prev), (A_prev.shape[1] - f) // stride + 1, (A_prev.shape[2] - f) // stride + 1, A_prev.shape[3]))
    for i, h, w, window in _places(A_prev.shape, f, stride):
        for c in range(A.shape[3]):
            A[i, h, w, c] = (np.max if mode == "max" else np.mean)(A_prev[window][..., c])
    return A


def pool_backward(dA, A_prev, f, stride, mode):
    """max: the whole gradient to every maximum of a window; average: equal parts. Overlapping windows add up."""
    dA_prev = np.zeros(A_prev.shape)
    for i, h, w, window in _places(A_prev.shape, f, stride):
        for c in range(A_prev.shape[3]):
            seen = A_prev[window][..., c]
            share = seen == seen.max() if mode == "max" else np.full(seen.shape, 1 / f**2)
            dA_prev[window][..., c] += share * dA[i, h, w, c]
    return dA_prev
