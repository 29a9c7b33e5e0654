"""common/util.py: windows as rows, and back."""

from __future__ import annotations

import numpy as np

from ... import functional
from .._arrays import common


def im2col(input_data: np.ndarray, filter_h: int, filter_w: int, stride: int = 1, pad: int = 0) -> np.ndarray:
    """Windows as rows, (N,C,H,W) -> (N*OH*OW, C*FH*FW): rows ordered n, oh, ow, columns c, fh, fw; always float64.

    Note the order of the last two, stride then pad: cs231n's im2col_indices has them the other way round.
    """
    x = common("im2col", input_data)[0].astype(np.float64, copy=False)
    return functional.im2col(x, kernel_size=(filter_h, filter_w), stride=stride, padding=pad, columns="dlfs")


def col2im(col: np.ndarray, input_shape: tuple[int, int, int, int], filter_h: int, filter_w: int, stride: int = 1, pad: int = 0) -> np.ndarray:
    """im2col's rows added up to images again, (N*OH*OW, C*FH*FW) -> input_shape (N,C,H,W); always float64."""
    rows = common("col2im", col)[0].astype(np.float64, copy=False)
    taps = input_shape[1] * filter_h * filter_w
    if taps > 0 and rows.size % taps == 0:  # else functional.col2im says what does not fit
        rows = rows.reshape(-1, taps)
    window = {"kernel_size": (filter_h, filter_w), "stride": stride, "padding": pad}
    return functional.col2im(rows, input_shape=tuple(input_shape), **window, columns="dlfs")
