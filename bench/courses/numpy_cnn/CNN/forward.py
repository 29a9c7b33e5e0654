"""Convolution and max pooling of one image."""

import numpy as np


def convolution(image, filt, bias, s=1):
    O, _, f, _ = filt.shape
    _, H, W = image.shape
    out = np.zeros((O, (H - f) // s + 1, (W - f) // s + 1))
    for o in range(O):
        for i in range(out.shape[1]):
            for j in range(out.shape[2]):
                out[o, i, j] = np.sum(filt[o] * image[:, i * s : i * s + f, j * s : j * s + f]) + bias[o, 0]
    return out


def maxpool(image, f=2, s=2):
    C, H, W = image.shape
    out = np.zeros((C, (H - f) // s + 1, (W - f) // s + 1))
    for c, i, j in np.ndindex(*out.shape):
        out[c, i, j] = np.max(image[c, i * s : i * s + f, j * s : j * s + f])
    return out


def softmax(X):
    e = np.exp(X - X.max())
    return e / e.sum()
