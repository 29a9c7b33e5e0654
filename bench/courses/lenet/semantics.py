"""What the layers of LeNet from scratch compute, for any stride and padding, in plain NumPy, written from the description of their interface: the oracle of
the tests of fastcnn.compat.lenet_scratch."""

import numpy as np


def conv(X, W, b, stride, pad):
    """(NCHW x OIHW + (1,O,1,1), the padded X)."""
    X = np.pad(X, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    KH, KW = W.shape[2:]
    out = np.zeros((len(X), len(W), (X.shape[2] - KH) // stride + 1, (X.shape[3] - KW) // stride + 1))
    for i, j in np.ndindex(*out.shape[2:]):
        window = X[:, :, i * stride : i * stride + KH, j * stride : j * stride + KW]
        out[:, :, i, j] = np.einsum("nchw,ochw->no", window, W)
    return out + b, X


def conv_backward(d, X, W, stride):
    """(dX of the padded X, dW, db (1,O,1,1)) of the convolution; the course's own is right for stride 1 alone."""
    KH, KW = W.shape[2:]
    dX, dW = np.zeros(X.shape), np.zeros(W.shape)
    for i, j in np.ndindex(*d.shape[2:]):
        window = np.s_[:, :, i * stride : i * stride + KH, j * stride : j * stride + KW]
        dX[window] += np.einsum("no,ochw->nchw", d[:, :, i, j], W)
        dW += np.einsum("no,nchw->ochw", d[:, :, i, j], X[window])
    return dX, dW, d.sum(axis=(0, 2, 3)).reshape(1, -1, 1, 1)


def updated(value, velocity, grad, lr, momentum):
    """(value, velocity) after one step: the velocity carries the sign."""
    velocity = momentum * velocity - lr * grad
    return value + velocity, velocity


def maxpool(X, size):
    out = np.zeros((*X.shape[:2], X.shape[2] // size, X.shape[3] // size))
    for i, j in np.ndindex(*out.shape[2:]):
        out[:, :, i, j] = X[:, :, i * size : (i + 1) * size, j * size : (j + 1) * size].max(axis=(2, 3))
    return out


def maxpool_backward(d, X, size):
    """The whole gradient to every value that equals the maximum of its window."""
    dX = np.zeros(X.shape)
    for i, j in np.ndindex(*d.shape[2:]):
        window = np.s_[:, :, i * size : (i + 1) * size, j * size : (j + 1) * size]
        peak = X[window] == X[window].max(axis=(2, 3), keepdims=True)
        dX[window] += peak * d[:, :, i, j, None, None]
    return dX


def softmax_loss(z, label):
    """(the sum over the batch of -log softmax at the label, its gradient)."""
    e = np.exp(z - z.max(axis=1, keepdims=True))
    p = e / e.sum(axis=1, keepdims=True)
    loss = -np.sum(np.log(p[np.arange(len(z)), label]))
    return loss, p - np.eye(z.shape[1])[label]
