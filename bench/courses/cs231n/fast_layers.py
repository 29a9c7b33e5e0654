"""The same by columns and matrix products. Backwards it needs the extension, as the course's does."""

import numpy as np

try:
    from .im2col_cython import col2im_6d_cython, col2im_cython, im2col_cython
except ImportError:
    print("im2col_cython is not built")

from .im2col import *  # noqa: F403


def conv_forward_im2col(x, w, b, conv_param):
    stride, pad = conv_param["stride"], conv_param["pad"]
    N, C, H, W = x.shape
    F, _, HH, WW = w.shape
    assert (W + 2 * pad - WW) % stride == 0 and (H + 2 * pad - HH) % stride == 0
    OH, OW = (H + 2 * pad - HH) // stride + 1, (W + 2 * pad - WW) // stride + 1
    x_cols = im2col_cython(x, HH, WW, pad, stride)
    res = w.reshape(F, -1).dot(x_cols) + b.reshape(-1, 1)
    return res.reshape(F, OH, OW, N).transpose(3, 0, 1, 2), (x, w, b, conv_param, x_cols)


def conv_backward_im2col(dout, cache):
    x, w, b, conv_param, x_cols = cache
    F, _, HH, WW = w.shape
    dout_rows = dout.transpose(1, 2, 3, 0).reshape(F, -1)
    dw = dout_rows.dot(x_cols.T).reshape(w.shape)
    dx_cols = w.reshape(F, -1).T.dot(dout_rows)
    return col2im_cython(dx_cols, *x.shape, HH, WW, conv_param["pad"], conv_param["stride"]), dw, dout.sum(axis=(0, 2, 3))


def conv_forward_strides(x, w, b, conv_param):
    stride, pad = conv_param["stride"], conv_param["pad"]
    N, C, H, W = x.shape
    F, _, HH, WW = w.shape
    OH, OW = (H + 2 * pad - HH) // stride + 1, (W + 2 * pad - WW) // stride + 1
    padded = np.pad(x, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    sn, sc, sh, sw = padded.strides
    windows = np.lib.stride_tricks.as_strided(padded, (C, HH, WW, N, OH, OW), (sc, sh, sw, sn, stride * sh, stride * sw))
    x_cols = np.ascontiguousarray(windows).reshape(C * HH * WW, N * OH * OW)
    res = w.reshape(F, -1).dot(x_cols) + b.reshape(-1, 1)
    out = np.ascontiguousarray(res.reshape(F, N, OH, OW).transpose(1, 0, 2, 3))
    return out, (x, w, b, conv_param, x_cols)


def conv_backward_strides(dout, cache):
    x, w, b, conv_param, x_cols = cache
    N, C, H, W = x.shape
    F, _, HH, WW = w.shape
    OH, OW = dout.shape[2:]
    dout_rows = dout.transpose(1, 0, 2, 3).reshape(F, -1)
    dw = dout_rows.dot(x_cols.T).reshape(w.shape)
    dx_cols = w.reshape(F, -1).T.dot(dout_rows).reshape(C, HH, WW, N, OH, OW)
    dx = col2im_6d_cython(dx_cols, N, C, H, W, HH, WW, conv_param["pad"], conv_param["stride"])
    return dx, dw, dout.sum(axis=(0, 2, 3))


conv_forward_fast = conv_forward_strides
conv_backward_fast = conv_backward_strides


def max_pool_forward_reshape(x, pool_param):
    size = pool_param["stride"]
    assert pool_param["pool_height"] == pool_param["pool_width"] == size
    N, C, H, W = x.shape
    assert H % size == 0 and W % size == 0
    x_reshaped = x.reshape(N, C, H // size, size, W // size, size)
    out = x_reshaped.max(axis=3).max(axis=4)
    return out, (x, x_reshaped, out)


def max_pool_backward_reshape(dout, cache):
    x, x_reshaped, out = cache
    ties = x_reshaped == out[:, :, :, None, :, None]
    share = dout / ties.sum(axis=(3, 5))
    return (ties * share[:, :, :, None, :, None]).reshape(x.shape).astype(x.dtype)


def max_pool_forward_im2col(x, pool_param):
    PH, PW, stride = pool_param["pool_height"], pool_param["pool_width"], pool_param["stride"]
    N, C, H, W = x.shape
    assert (H - PH) % stride == 0 and (W - PW) % stride == 0
    OH, OW = (H - PH) // stride + 1, (W - PW) // stride + 1
    x_cols = im2col_indices(x.reshape(N * C, 1, H, W), PH, PW, padding=0, stride=stride)  # noqa: F405
    argmax = x_cols.argmax(axis=0)
    out = x_cols[argmax, np.arange(x_cols.shape[1])].reshape(OH, OW, N, C).transpose(2, 3, 0, 1)
    return out, (x, x_cols, argmax, pool_param)


def max_pool_backward_im2col(dout, cache):
    x, x_cols, argmax, pool_param = cache
    N, C, H, W = x.shape
    dx_cols = np.zeros_like(x_cols)
    dx_cols[argmax, np.arange(dx_cols.shape[1])] = dout.transpose(2, 3, 0, 1).flatten()
    PH, PW, stride = pool_param["pool_height"], pool_param["pool_width"], pool_param["stride"]
    return col2im_indices(dx_cols, (N * C, 1, H, W), PH, PW, padding=0, stride=stride).reshape(x.shape)  # noqa: F405


def max_pool_forward_fast(x, pool_param):
    N, C, H, W = x.shape
    size = pool_param["stride"]
    if pool_param["pool_height"] == pool_param["pool_width"] == size and H % size == 0 and W % size == 0:
        out, cache = max_pool_forward_reshape(x, pool_param)
        return out, ("reshape", cache)
    out, cache = max_pool_forward_im2col(x, pool_param)
    return out, ("im2col", cache)


def max_pool_backward_fast(dout, cache):
    method, inner = cache
    return max_pool_backward_reshape(dout, inner) if method == "reshape" else max_pool_backward_im2col(dout, inner)
