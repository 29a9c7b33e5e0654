"""common/util.py: windows as rows, and back."""

from __future__ import annotations

import numpy as np

from ... import functional


def im2col(input_data: np.ndarray, filter_h: int, filter_w: int, stride: int = 1, pad: int = 0) -> np.ndarray:
    """Windows as rows, (N,C,H,W) -> (N*OH*OW, C*FH*FW): rows ordered n, oh, ow, columns c, fh, fw; always float64.

    Note the order of the last two, stride then pad: cs231n's im2col_indices has them the other way round.
    """
    x = np.asarray(input_data, np.float64)
    return functional.im2col(x, kernel_size=(filter_h, filter_w), stride=stride, padding=pad, columns="dlfs")


def col2im(col: np.ndarray, input_shape: tuple[int, int, int, int], filter_h: int, filter_w: int, stride: int = 1, pad: int = 0) -> np.ndarray:
    """im2col's rows added up to images again, (N*OH*OW, C*FH*FW) -> input_shape (N,C,H,W); always float64."""
    rows = np.asarray(col, np.float64).reshape(-1, input_shape[1] * filter_h * filter_w)
    window = {"kernel_size": (filter_h, filter_w), "stride": stride, "padding": pad}
    return functional.col2im(rows, input_shape=tuple(input_shape), **window, columns="dlfs")
