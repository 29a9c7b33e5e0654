"""Windows as rows, and back: a loop over the filter's taps, the rest by slices."""

import numpy as np


def im2col(input_data, filter_h, filter_w, stride=1, pad=0):
    N, C, H, W = input_data.shape
    rows, columns = (H + 2 * pad - filter_h) // stride + 1, (W + 2 * pad - filter_w) // stride + 1
    padded = np.pad(input_data, [(0, 0), (0, 0), (pad, pad), (pad, pad)])
    taps = np.zeros((N, C, filter_h, filter_w, rows, columns))
    for i in range(filter_h):
        for j in range(filter_w):
            taps[:, :, i, j] = padded[:, :, i : i + stride * rows : stride, j : j + stride * columns : stride]
    return taps.transpose(0, 4, 5, 1, 2, 3).reshape(N * rows * columns, -1)


def col2im(col, input_shape, filter_h, filter_w, stride=1, pad=0):
    N, C, H, W = input_shape
    rows, columns = (H + 2 * pad - filter_h) // stride + 1, (W + 2 * pad - filter_w) // stride + 1
    taps = col.reshape(N, rows, columns, C, filter_h, filter_w).transpose(0, 3, 4, 5, 1, 2)
    image = np.zeros((N, C, H + 2 * pad + stride - 1, W + 2 * pad + stride - 1))
    for i in range(filter_h):
        for j in range(filter_w):
            image[:, :, i : i + stride * rows : stride, j : j + stride * columns : stride] += taps[:, :, i, j]
    return image[:, :, pad : H + pad, pad : W + pad]
