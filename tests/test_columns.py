"""im2col and col2im in every order of columns, against loops over every element."""

import numpy as np
import pytest
from bad_calls import raises

import fastcnn
import fastcnn.functional as F
from fastcnn.shapes import ShapeError, conv2d_output_size

ORDERS = ("torch", "dlfs", "cs231n", "cs231n_6d")
CASES = [
    ((2, 3, 6, 7), 3, 1, 1, 1),
    ((3, 2, 7, 9), (2, 3), (2, 1), (0, 2), (1, 2)),
    ((5, 1, 8, 6), 2, 2, 0, 1),
    ((70, 2, 4, 5), (3, 2), 1, (1, 0), 1),
    ((1, 4, 5, 5), 5, 3, 2, 1),
    ((2, 3, 8, 8), 3, 2, 0, 1),
    ((0, 2, 5, 5), 3, 1, 1, 1),
]


def two(value):
    return value if isinstance(value, tuple) else (value, value)


def loops(x, kernel, stride, padding, dilation, columns):
    """Element by element, from the description of each order."""
    (KH, KW), (SH, SW), (PH, PW), (DH, DW), (N, C, H, W) = two(kernel), two(stride), two(padding), two(dilation), x.shape
    OH, OW = conv2d_output_size((H, W), (KH, KW), (SH, SW), ((PH, PH), (PW, PW)), (DH, DW))
    shapes = {
        "torch": (N, C * KH * KW, OH * OW),
        "dlfs": (N * OH * OW, C * KH * KW),
        "cs231n": (C * KH * KW, OH * OW * N),
        "cs231n_6d": (C, KH, KW, N, OH, OW),
    }
    out = np.zeros(shapes[columns], x.dtype)
    for n, c, kh, kw, oh, ow in np.ndindex(N, C, KH, KW, OH, OW):
        h, w = oh * SH + kh * DH - PH, ow * SW + kw * DW - PW
        tap, pixel = (c * KH + kh) * KW + kw, oh * OW + ow
        place = {
            "torch": (n, tap, pixel),
            "dlfs": ((n * OH + oh) * OW + ow, tap),
            "cs231n": (tap, pixel * N + n),
            "cs231n_6d": (c, kh, kw, n, oh, ow),
        }[columns]
        if 0 <= h < H and 0 <= w < W:
            out[place] = x[n, c, h, w]
    return out


@pytest.mark.parametrize("columns", ORDERS)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_every_order(case, columns, backend, dtype, rng):
    shape, kernel, stride, padding, dilation = case
    options = {"kernel_size": kernel, "stride": stride, "padding": padding, "dilation": dilation, "columns": columns}
    x = rng.integers(-9, 10, shape).astype(dtype)
    expected = loops(x, kernel, stride, padding, dilation, columns)
    cols = fastcnn.im2col(x, **options)
    assert cols.dtype == dtype and cols.flags.c_contiguous and cols.flags.writeable
    np.testing.assert_array_equal(cols, expected)
    channels_last = np.ascontiguousarray(x.transpose(0, 2, 3, 1))
    np.testing.assert_array_equal(fastcnn.im2col(channels_last.transpose(0, 3, 1, 2), **options), expected)
    np.testing.assert_array_equal(fastcnn.im2col(channels_last, layout="NHWC", **options), expected)
    np.testing.assert_array_equal(fastcnn.im2col(x[::-1, :, ::-1].copy()[::-1, :, ::-1], **options), expected)
    # col2im is the transpose: it adds what im2col copied, so for any d   <im2col(x), d> = <x, col2im(d)>, exactly in integers
    d = rng.integers(-9, 10, expected.shape).astype(dtype)
    dx = fastcnn.col2im(d, input_shape=shape, **options)
    assert dx.shape == shape and dx.dtype == dtype and dx.flags.c_contiguous and dx.flags.writeable
    added = np.zeros(shape, dtype)
    for pixel in np.ndindex(*shape) if x.size < 500 else ():
        one = np.zeros(shape, dtype)
        one[pixel] = 1
        added[pixel] = (loops(one, kernel, stride, padding, dilation, columns) * d).sum()
    if x.size < 500:
        np.testing.assert_array_equal(dx, added)
    assert (expected.astype(float) * d).sum() == (x.astype(float) * dx).sum()
    wide = np.zeros([2 * n for n in d.shape], dtype)[tuple(slice(None, None, 2) for _ in d.shape)]
    wide[...] = d
    np.testing.assert_array_equal(fastcnn.col2im(wide, input_shape=shape, **options), dx)
    last = fastcnn.col2im(d, input_shape=(shape[0], *shape[2:], shape[1]), layout="NHWC", **options)
    assert last.flags.c_contiguous
    np.testing.assert_array_equal(last, dx.transpose(0, 2, 3, 1))


@pytest.mark.parametrize("columns", ORDERS)
def test_a_single_image(columns, backend, rng):
    x = rng.standard_normal((3, 5, 6))
    cols = fastcnn.im2col(x, kernel_size=2, columns=columns)
    whole = fastcnn.im2col(x[None], kernel_size=2, columns=columns)
    np.testing.assert_array_equal(cols, whole[0] if columns == "torch" else whole)
    np.testing.assert_array_equal(
        fastcnn.col2im(cols, input_shape=(3, 5, 6), kernel_size=2, columns=columns),
        fastcnn.col2im(whole, input_shape=(1, 3, 5, 6), kernel_size=2, columns=columns)[0],
    )


def test_torch_is_the_default_and_is_unfold(backend, rng):
    x = rng.standard_normal((2, 3, 6, 6))
    np.testing.assert_array_equal(fastcnn.im2col(x, kernel_size=3, padding=1, stride=2), F.unfold(x, 3, padding=1, stride=2))
    assert fastcnn.im2col is F.im2col and fastcnn.col2im is F.col2im


def test_what_does_not_fit_is_said():
    x = np.ones((2, 3, 6, 6))
    with pytest.raises(TypeError):
        fastcnn.im2col(x, 3, 3)  # half of the functions of this name take (padding, stride), half (stride, padding)
    with raises(ValueError, "im2col: columns must be one of 'torch', 'dlfs', 'cs231n', 'cs231n_6d', got 'caffe'"):
        fastcnn.im2col(x, kernel_size=3, columns="caffe")
    with raises(ShapeError, "im2col: kernel 7x7 (dilation 1x1) spans 7x7 but the padded input is 6x6"):
        fastcnn.im2col(x, kernel_size=7)
    with raises(TypeError, "im2col: input must be float32 or float64, got int64"):
        fastcnn.im2col(x.astype(np.int64), kernel_size=3)
    with raises(ShapeError, "col2im: cols has shape 27x31 but columns 'cs231n' of images 2x3x6x6 have 27x32"):
        fastcnn.col2im(np.ones((27, 31)), input_shape=(2, 3, 6, 6), kernel_size=3, columns="cs231n")
    with raises(TypeError, "col2im: input_shape must be a tuple of ints, got int 6"):
        fastcnn.col2im(np.ones((27, 32)), input_shape=6, kernel_size=3)
    with raises(ShapeError, "col2im: input_shape must be 4-D (N, C, H, W) or 3-D (C, H, W), got 2-D (6, 6)"):
        fastcnn.col2im(np.ones((27, 32)), input_shape=(6, 6), kernel_size=3)
    with raises(ShapeError, "col2im: input_shape (2, 0, 6, 6): only the batch size may be 0"):
        fastcnn.col2im(np.ones((27, 32)), input_shape=(2, 0, 6, 6), kernel_size=3)
    with raises(ValueError, "col2im: layout must be one of 'NCHW', 'NHWC', got 'HWC'"):
        fastcnn.col2im(np.ones((27, 32)), input_shape=(2, 3, 6, 6), kernel_size=3, layout="HWC")
