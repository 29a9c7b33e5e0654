"""Step by step: every output value by a loop of its own."""

import numpy as np


def zero_pad(X, pad):
    return np.pad(X, ((0, 0), (pad, pad), (pad, pad), (0, 0)))


def conv_single_step(a_slice_prev, W, b):
    return np.sum(a_slice_prev * W) + b.item()


def conv_forward(A_prev, W, b, hparameters):
    m, H, width, _ = A_prev.shape
    f, _, _, n_C = W.shape
    stride, pad = hparameters["stride"], hparameters["pad"]
    n_H, n_W = (H - f + 2 * pad) // stride + 1, (width - f + 2 * pad) // stride + 1
    Z, padded = np.zeros((m, n_H, n_W, n_C)), zero_pad(A_prev, pad)
    for i in range(m):
        image = padded[i]
        for h in range(n_H):
            for w in range(n_W):
                window = image[h * stride : h * stride + f, w * stride : w * stride + f, :]
                for c in range(n_C):
                    Z[i, h, w, c] = conv_single_step(window, W[:, :, :, c], b[:, :, :, c])
    return Z, (A_prev, W, b, hparameters)


def conv_backward(dZ, cache):
    A_prev, W, _, hparameters = cache
    stride, pad = hparameters["stride"], hparameters["pad"]
    f = W.shape[0]
    m, n_H, n_W, n_C = dZ.shape
    padded = zero_pad(A_prev, pad)
    dpadded, dW, db = np.zeros(padded.shape), np.zeros(W.shape), np.zeros((1, 1, 1, n_C))
    for i in range(m):
        for h in range(n_H):
            for w in range(n_W):
                rows, columns = slice(h * stride, h * stride + f), slice(w * stride, w * stride + f)
                for c in range(n_C):
                    dpadded[i, rows, columns, :] += W[:, :, :, c] * dZ[i, h, w, c]
                    dW[:, :, :, c] += padded[i, rows, columns, :] * dZ[i, h, w, c]
                    db[:, :, :, c] += dZ[i, h, w, c]
    _, H, width, _ = A_prev.shape
    return dpadded[:, pad : pad + H, pad : pad + width, :], dW, db


def pool_forward(A_prev, hparameters, mode="max"):
    m, H, width, n_C = A_prev.shape
    f, stride = hparameters["f"], hparameters["stride"]
    A = np.zeros((m, (H - f) // stride + 1, (width - f) // stride + 1, n_C))
    for i, h, w, c in np.ndindex(*A.shape):
        window = A_prev[i, h * stride : h * stride + f, w * stride : w * stride + f, c]
        A[i, h, w, c] = np.max(window) if mode == "max" else np.mean(window)
    return A, (A_prev, hparameters)


def pool_backward(dA, cache, mode="max"):
    A_prev, hparameters = cache
    f, stride = hparameters["f"], hparameters["stride"]
    dA_prev = np.zeros(A_prev.shape)
    for i, h, w, c in np.ndindex(*dA.shape):
        window = np.s_[i, h * stride : h * stride + f, w * stride : w * stride + f, c]
        if mode == "max":
            dA_prev[window] += (A_prev[window] == np.max(A_prev[window])) * dA[i, h, w, c]
        else:
            dA_prev[window] += np.ones((f, f)) * dA[i, h, w, c] / f**2
    return dA_prev
