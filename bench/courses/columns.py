"""What a student who has had enough of the loops writes, whatever the course: windows as rows (im2col) and one matrix product, NCHW."""

import numpy as np

from .dlfs.common.util import col2im, im2col


def conv_forward(x, W, b, stride=1, pad=0):
    """(out, the columns for backward)."""
    O, _, KH, KW = W.shape
    N, _, H, width = x.shape
    cols = im2col(x, KH, KW, stride, pad)
    out = cols @ W.reshape(O, -1).T + b.reshape(-1)
    rows, columns = (H + 2 * pad - KH) // stride + 1, (width + 2 * pad - KW) // stride + 1
    return out.reshape(N, rows, columns, O).transpose(0, 3, 1, 2), cols


def conv_backward(dout, cols, shape, W, stride=1, pad=0):
    """(dx, dW, db (O,)); shape is that of x."""
    d = dout.transpose(0, 2, 3, 1).reshape(-1, len(W))
    dx = col2im(d @ W.reshape(len(W), -1), shape, *W.shape[2:], stride, pad)
    return dx, (d.T @ cols).reshape(W.shape), d.sum(axis=0)


def pool_windows(x, size, stride):
    """(N*C, OH, OW, size*size)."""
    N, C, H, W = x.shape
    cols = im2col(x.reshape(N * C, 1, H, W), size, size, stride)
    return cols.reshape(N * C, (H - size) // stride + 1, (W - size) // stride + 1, size * size)


def pool_added(taps, shape, size, stride):
    """What pool_windows took apart, added up to x's shape."""
    N, C, H, W = shape
    return col2im(taps.reshape(-1, size * size), (N * C, 1, H, W), size, size, stride).reshape(shape)


def first_maximum(windows):
    """1 at the first maximum of each window, else 0."""
    return np.eye(windows.shape[-1])[windows.argmax(axis=-1)]
