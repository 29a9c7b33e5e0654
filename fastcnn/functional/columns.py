"""im2col and col2im: the windows of images as a matrix, in the orders that coursework uses."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..backend import current
from ..options import choice, integer, pair
from ..shapes import ShapeError, by, check_bytes, conv2d_output_size
from ._check import array, contiguous, images, shape_text
from ._layout import LAYOUTS, from_nhwc, to_nhwc

COLUMNS = ("torch", "dlfs", "cs231n", "cs231n_6d")
PairLike = int | tuple[int, int]


def _windows(op: str, shape: tuple[int, ...], kernel_size: Any, stride: Any, padding: Any, dilation: Any, columns: Any) -> tuple[list, tuple[int, ...]]:
    """(the backend's options, the shape of the columns) for images of shape (N, C, H, W)."""
    columns = choice(columns, op, "columns", COLUMNS)
    kernel, dilation = pair(kernel_size, op, "kernel_size", 1), pair(dilation, op, "dilation", 1)
    (PH, PW), stride = pair(padding, op, "padding", 0), pair(stride, op, "stride", 1)
    OH, OW = conv2d_output_size(shape[2:], kernel, stride, ((PH, PH), (PW, PW)), dilation, op)
    N, C, rows = shape[0], shape[1], shape[1] * kernel[0] * kernel[1]
    check_bytes(op, (N or 1, rows, OH * OW), 8, "the columns")
    check_bytes(op, (N or 1, C, shape[2] + 2 * PH, shape[3] + 2 * PW), 8, "the padded input")
    sizes = {
        "torch": (N, rows, OH * OW),
        "dlfs": (N * OH * OW, rows),
        "cs231n": (rows, OH * OW * N),
        "cs231n_6d": (C, *kernel, N, OH, OW),
    }
    return [kernel, dilation, (PH, PW), stride, columns], sizes[columns]


def im2col(
    input: np.ndarray,
    *,
    kernel_size: PairLike,
    stride: PairLike = 1,
    padding: PairLike = 0,
    dilation: PairLike = 1,
    columns: str = "torch",
    layout: str = "NCHW",
) -> np.ndarray:
    """The windows of (N,C,H,W), or of one image (C,H,W), as a matrix.

    Options are keywords, because half of the functions of this name take (stride, padding) and half (padding, stride).

    columns  "torch"      (N, C*KH*KW, OH*OW)      as torch.nn.functional.unfold
             "dlfs"       (N*OH*OW, C*KH*KW)       a window per row, as in "Deep Learning from Scratch"
             "cs231n"     (C*KH*KW, OH*OW*N)       a window per column, images innermost, as in Stanford's cs231n
             "cs231n_6d"  (C, KH, KW, N, OH, OW)   the same course's other one
             One image is N = 1, and of "torch" the first axis is left out. Channel, kh, kw are always ordered so.
    layout   "NHWC": the images are (N,H,W,C) or (H,W,C)

    Windows that do not tile the image leave the rest out. Raises ShapeError if the kernel does not fit.
    """
    op = "im2col"
    if layout != "NCHW":
        choice(layout, op, "layout", LAYOUTS)
        input = from_nhwc(input, op, "input")
    input, unbatched = images(input, op, "input")
    options, _ = _windows(op, input.shape, kernel_size, stride, padding, dilation, columns)
    result = current().im2col(input, *options)
    return result[0] if unbatched and columns == "torch" else result


def col2im(
    cols: np.ndarray,
    *,
    input_shape: tuple[int, ...],
    kernel_size: PairLike,
    stride: PairLike = 1,
    padding: PairLike = 0,
    dilation: PairLike = 1,
    columns: str = "torch",
    layout: str = "NCHW",
) -> np.ndarray:
    """Columns added up to images: the transpose (and the backward) of im2col, with its options.

    input_shape  that of the images, (N,C,H,W) or (C,H,W), for layout "NHWC" (N,H,W,C) or (H,W,C)
    """
    op = "col2im"
    shape = _image_shape(op, input_shape, choice(layout, op, "layout", LAYOUTS))
    unbatched = len(shape) == 3
    shape = (1, *shape) if unbatched else shape
    options, expected = _windows(op, shape, kernel_size, stride, padding, dilation, columns)
    cols = array(cols, op, "cols")
    if unbatched and columns == "torch" and cols.ndim == 2:
        cols = cols[None]
    if cols.shape != expected:
        raise ShapeError(f"{op}: cols has shape {shape_text(cols.shape)} but columns {columns!r} of images {by(shape)} have {by(expected)}")
    output = current().col2im(cols, shape, *options)
    output = contiguous(output[0] if unbatched else output)
    return output if layout == "NCHW" else to_nhwc(output)


def _image_shape(op: str, input_shape: Any, layout: str) -> tuple[int, ...]:
    """(N, C, H, W) or (C, H, W)."""
    if not isinstance(input_shape, (tuple, list)):
        raise TypeError(f"{op}: input_shape must be a tuple of ints, got {type(input_shape).__name__} {input_shape!r}")
    if len(input_shape) not in (3, 4):
        raise ShapeError(f"{op}: input_shape must be 4-D (N, C, H, W) or 3-D (C, H, W), got {len(input_shape)}-D {input_shape!r}")
    *batch, a, b, c = (integer(n, op, "input_shape", 0) for n in input_shape)
    C, H, W = (a, b, c) if layout == "NCHW" else (c, a, b)
    if not (C and H and W):
        raise ShapeError(f"{op}: input_shape {tuple(input_shape)!r}: only the batch size may be 0")
    return (*batch, C, H, W)
