"""im2col.py and im2col_cython.pyx: columns (C*KH*KW, OH*OW*N), images innermost; the order of the numbers at the end is padding, stride.

The course's extension takes field_height for the width of the window when it numbers the rows, so it is wrong for windows that are not square; this one is not.
"""

from __future__ import annotations

import numpy as np

from ...functional import col2im, im2col
from .._arrays import common
from .._windows import check_tiling


def _images(cols: np.ndarray, op: str, shape: tuple[int, int, int, int], window: tuple[int, int], padding: int, stride: int, columns: str) -> np.ndarray:
    (cols,) = common(op, cols)
    return col2im(cols, input_shape=shape, kernel_size=window, stride=stride, padding=padding, columns=columns)


def im2col_cython(x: np.ndarray, field_height: int, field_width: int, padding: int, stride: int) -> np.ndarray:
    """(N,C,H,W) -> (C*field_height*field_width, OH*OW*N). Windows that do not tile the image leave the rest out."""
    (x,) = common("im2col_cython", x)
    check_tiling("im2col_cython", x.shape[2:], (field_height, field_width), (stride, stride), (padding, padding))
    return im2col(x, kernel_size=(field_height, field_width), stride=stride, padding=padding, columns="cs231n")


def col2im_cython(
    cols: np.ndarray, N: int, C: int, H: int, W: int, field_height: int, field_width: int, padding: int, stride: int
) -> np.ndarray:
    """(C*field_height*field_width, OH*OW*N) -> (N,C,H,W): overlapping values are added."""
    return _images(cols, "col2im_cython", (N, C, H, W), (field_height, field_width), padding, stride, "cs231n")


def col2im_6d_cython(cols: np.ndarray, N: int, C: int, H: int, W: int, HH: int, WW: int, pad: int, stride: int) -> np.ndarray:
    """(C,HH,WW,N,OH,OW) -> (N,C,H,W): overlapping values are added."""
    return _images(cols, "col2im_6d_cython", (N, C, H, W), (HH, WW), pad, stride, "cs231n_6d")


def get_im2col_indices(
    x_shape: tuple[int, int, int, int], field_height: int, field_width: int, padding: int = 1, stride: int = 1
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(k, i, j) such that padded[:, k, i, j] is (N, C*field_height*field_width, OH*OW): channels (rows, 1), rows and columns (rows, OH*OW).

    AssertionError if the windows do not tile the padded image.
    """
    _, C, H, W = x_shape
    check_tiling("get_im2col_indices", (H, W), (field_height, field_width), (stride, stride), (padding, padding), always=True)
    out_height, out_width = (H + 2 * padding - field_height) // stride + 1, (W + 2 * padding - field_width) // stride + 1
    k, i, j = (axis.reshape(-1, 1) for axis in np.indices((C, field_height, field_width)))
    oh, ow = (axis.reshape(1, -1) for axis in np.indices((out_height, out_width)))
    return k, i + stride * oh, j + stride * ow


def im2col_indices(x: np.ndarray, field_height: int, field_width: int, padding: int = 1, stride: int = 1) -> np.ndarray:
    """im2col_cython, with AssertionError if the windows do not tile the padded image."""
    check_tiling("im2col_indices", np.shape(x)[2:], (field_height, field_width), (stride, stride), (padding, padding), always=True)
    return im2col_cython(x, field_height, field_width, padding, stride)


def col2im_indices(
    cols: np.ndarray, x_shape: tuple[int, int, int, int], field_height: int = 3, field_width: int = 3, padding: int = 1, stride: int = 1
) -> np.ndarray:
    """col2im_cython, with AssertionError if the windows do not tile the padded image."""
    N, C, H, W = x_shape
    check_tiling("col2im_indices", (H, W), (field_height, field_width), (stride, stride), (padding, padding), always=True)
    return col2im_cython(cols, N, C, H, W, field_height, field_width, padding, stride)
