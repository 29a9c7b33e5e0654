"""The third book: dezero/functions_conv.py's windows, in both of their forms."""

from __future__ import annotations

from typing import Any

import numpy as np

from ... import functional
from .._arrays import common


def im2col_array(img: np.ndarray, kernel_size: Any, stride: Any, pad: Any, to_matrix: bool = True) -> np.ndarray:
    """DeZero's: (N,C,H,W) -> (N*OH*OW, C*KH*KW), or (N,C,KH,KW,OH,OW) if not to_matrix; keeps the dtype; options are ints or pairs."""
    (img,) = common("im2col_array", img)
    window = {"kernel_size": kernel_size, "stride": stride, "padding": pad}
    if to_matrix:
        return functional.im2col(img, **window, columns="dlfs")
    return functional.im2col(img, **window, columns="torch").reshape(*img.shape[:2], *_dezero_sizes(img.shape, **window))


def col2im_array(col: np.ndarray, img_shape: tuple[int, int, int, int], kernel_size: Any, stride: Any, pad: Any, to_matrix: bool = True) -> np.ndarray:
    """DeZero's inverse: either form of im2col_array added up to img_shape (N,C,H,W); keeps the dtype."""
    (col,) = common("col2im_array", col)
    window = {"kernel_size": kernel_size, "stride": stride, "padding": pad}
    if not to_matrix:
        KH, KW, OH, OW = _dezero_sizes(img_shape, **window)
        col = col.reshape(img_shape[0], img_shape[1] * KH * KW, OH * OW)
    return functional.col2im(col, input_shape=tuple(img_shape), **window, columns="dlfs" if to_matrix else "torch")


def _dezero_sizes(shape: tuple[int, ...], kernel_size: Any, stride: Any, padding: Any) -> tuple[int, int, int, int]:
    (KH, KW), (SH, SW), (PH, PW) = (value if isinstance(value, tuple) else (value, value) for value in (kernel_size, stride, padding))
    return KH, KW, (shape[2] + 2 * PH - KH) // SH + 1, (shape[3] + 2 * PW - KW) // SW + 1
