"""Columns by fancy indexing."""

import numpy as np


def get_im2col_indices(x_shape, field_height, field_width, padding=1, stride=1):
    N, C, H, W = x_shape
    assert (H + 2 * padding - field_height) % stride == 0
    assert (W + 2 * padding - field_width) % stride == 0
    OH = (H + 2 * padding - field_height) // stride + 1
    OW = (W + 2 * padding - field_width) // stride + 1
    channel, row, column = [], [], []
    for c in range(C):
        for a in range(field_height):
            for b in range(field_width):
                channel.append([c])
                row.append([a + stride * oh for oh in range(OH) for _ in range(OW)])
                column.append([b + stride * ow for _ in range(OH) for ow in range(OW)])
    return np.array(channel), np.array(row), np.array(column)


def im2col_indices(x, field_height, field_width, padding=1, stride=1):
    padded = np.pad(x, ((0, 0), (0, 0), (padding, padding), (padding, padding)))
    k, i, j = get_im2col_indices(x.shape, field_height, field_width, padding, stride)
    cols = padded[:, k, i, j]  # (N, C*FH*FW, OH*OW)
    return cols.transpose(1, 2, 0).reshape(field_height * field_width * x.shape[1], -1)


def col2im_indices(cols, x_shape, field_height=3, field_width=3, padding=1, stride=1):
    N, C, H, W = x_shape
    padded = np.zeros((N, C, H + 2 * padding, W + 2 * padding), dtype=cols.dtype)
    k, i, j = get_im2col_indices(x_shape, field_height, field_width, padding, stride)
    np.add.at(padded, (slice(None), k, i, j), cols.reshape(C * field_height * field_width, -1, N).transpose(2, 0, 1))
    return padded[:, :, padding : padding + H, padding : padding + W]
