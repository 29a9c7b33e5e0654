"""The keywords for hand-written code: layout="NHWC", single images, shapes of a bias, need_dx."""

import numpy as np
import pytest
from bad_calls import raises

import fastcnn.functional as F
from fastcnn.functional._layout import from_nhwc
from fastcnn.shapes import ShapeError

CONVS = [
    ((2, 3, 7, 6), (4, 3, 3, 3), {"padding": 1}),
    ((2, 4, 9, 8), (6, 2, 3, 2), {"stride": (2, 3), "padding": (2, 1), "dilation": (1, 2), "groups": 2}),
    ((3, 1, 8, 9), (5, 1, 3, 3), {}),
    ((2, 5, 1, 1), (7, 5, 1, 1), {}),
    ((2, 16, 8, 8), (16, 16, 3, 3), {"padding": "same"}),
    ((3, 7, 9), (4, 3, 2, 2), {"stride": 2}),
    ((0, 3, 7, 6), (4, 3, 3, 3), {}),
]


def last(a):
    return np.ascontiguousarray(np.moveaxis(a, -3, -1))


def hwio(w):
    return np.ascontiguousarray(w.transpose(2, 3, 1, 0))


def close(actual, expected):
    assert actual.shape == expected.shape and actual.dtype == expected.dtype
    scale = np.abs(expected).max(initial=1)
    np.testing.assert_allclose(actual, expected, rtol=0, atol=256 * np.finfo(expected.dtype).eps * scale)


@pytest.mark.parametrize("shape,filters,options", CONVS, ids=str)
def test_conv2d(shape, filters, options, backend, dtype, rng):
    x, w, b = (rng.standard_normal(s).astype(dtype) for s in (shape, filters, filters[:1]))
    expected = F.conv2d(x, w, b, **options)
    g = rng.standard_normal(expected.shape).astype(dtype)
    arrays = last(g), last(x), hwio(w)
    before = [a.copy() for a in arrays]
    output = F.conv2d(arrays[1], arrays[2], b.reshape(1, 1, 1, -1), layout="NHWC", **options)
    close(output, last(expected))
    grads = F.conv2d_backward(*arrays, bias=b.reshape(1, 1, 1, -1), layout="NHWC", **options)
    dx, dw, db = F.conv2d_backward(g, x, w, **options)
    for grad, wanted in zip(grads, (last(dx), hwio(dw), db.reshape(1, 1, 1, -1)), strict=True):
        close(grad, wanted)
    for result in (output, *grads):
        assert result.flags.c_contiguous and result.flags.writeable
        assert not any(np.shares_memory(result, a) for a in arrays)
    for a, untouched in zip(arrays, before, strict=True):
        np.testing.assert_array_equal(a, untouched)


POOLS = [
    ("max_pool2d", (2, 3, 6, 8), {"kernel_size": 2}),
    ("max_pool2d", (2, 3, 7, 8), {"kernel_size": 3, "stride": 2, "padding": 1, "ceil_mode": True}),
    ("max_pool2d", (3, 7, 8), {"kernel_size": (3, 2), "stride": 1, "dilation": 2}),
    ("max_pool2d", (2, 1, 6, 6), {"kernel_size": 2}),
    ("avg_pool2d", (2, 3, 7, 8), {"kernel_size": 3, "stride": 2, "padding": 1, "count_include_pad": False}),
    ("avg_pool2d", (3, 6, 6), {"kernel_size": 2, "divisor_override": 3}),
    ("adaptive_avg_pool2d", (2, 3, 7, 5), {"output_size": (3, 2)}),
    ("adaptive_max_pool2d", (2, 3, 7, 5), {"output_size": 2}),
]


@pytest.mark.parametrize("op,shape,options", POOLS, ids=str)
def test_pools(op, shape, options, backend, dtype, rng):
    x = rng.integers(-3, 4, shape).astype(dtype)
    expected = getattr(F, op)(x, **options)
    g = rng.integers(-3, 4, expected.shape).astype(dtype)
    output = getattr(F, op)(last(x), layout="NHWC", **options)
    close(output, last(expected))
    keywords = {}
    if "max" in op:
        _, where = getattr(F, op)(x, return_indices=True, **options)
        _, indices = getattr(F, op)(last(x), return_indices=True, layout="NHWC", **options)
        np.testing.assert_array_equal(indices, last(where))
        keywords = {"indices": indices}
    grad = getattr(F, op + "_backward")(last(g), last(x), layout="NHWC", **options, **keywords)
    close(grad, last(getattr(F, op + "_backward")(g, x, **options)))
    assert output.flags.c_contiguous and grad.flags.c_contiguous


@pytest.mark.parametrize("ties", ["all", "split"])
def test_ties_in_nhwc(ties, backend, rng):
    x, g = rng.integers(0, 2, (2, 3, 6, 6)).astype(float), rng.standard_normal((2, 3, 3, 3))
    close(F.max_pool2d_backward(last(g), last(x), 2, ties=ties, layout="NHWC"), last(F.max_pool2d_backward(g, x, 2, ties=ties)))


def test_an_nhwc_array_is_read_where_it_is_and_any_other_one_correctly(backend, rng):
    x = rng.standard_normal((2, 6, 5, 3))
    assert np.shares_memory(from_nhwc(x, "op", "input"), x)
    w = rng.standard_normal((3, 3, 3, 4))
    expected = F.conv2d(x, w, layout="NHWC")
    for view in (np.asfortranarray(x), x[:, :, :, [0, 1, 2]], np.concatenate([x, x], 3)[..., 3:], x[::-1].copy()[::-1], x.astype(x.dtype.newbyteorder())):
        close(F.conv2d(view, w[::-1].copy()[::-1], layout="NHWC"), expected)


@pytest.mark.parametrize("shape", [(4,), (4, 1), (4, 1, 1), (1, 4, 1), (1, 4, 1, 1), (1, 1, 1, 4)])
def test_shapes_of_a_bias(shape, backend, rng):
    b = rng.standard_normal(4)
    calls = [
        (F.conv2d, F.conv2d_backward, (2, 3, 6, 6), (4, 3, 3, 3)),
        (F.conv1d, F.conv1d_backward, (2, 3, 6), (4, 3, 3)),
        (F.conv_transpose2d, F.conv_transpose2d_backward, (2, 3, 6, 6), (3, 4, 3, 3)),
    ]
    for forward, backward, size, filters in calls:
        x, w = rng.standard_normal(size), rng.standard_normal(filters)
        output = forward(x, w, b.reshape(shape))
        np.testing.assert_array_equal(output, forward(x, w, b))
        _, _, grad_bias = backward(output, x, w, bias=b.reshape(shape))
        assert grad_bias.shape == shape
        np.testing.assert_array_equal(grad_bias.ravel(), backward(output, x, w)[2])


def test_need_dx(backend, rng):
    x, w = rng.standard_normal((2, 3, 6, 6)), rng.standard_normal((4, 3, 3, 3))
    g = rng.standard_normal((2, 4, 4, 4))
    whole = F.conv2d_backward(g, x, w)
    grad_input, *rest = F.conv2d_backward(g, x, w, need_dx=False)
    assert grad_input is None
    for grad, expected in zip(rest, whole[1:], strict=True):
        np.testing.assert_array_equal(grad, expected)
    assert F.conv2d_backward(last(g), last(x), hwio(w), need_dx=False, layout="NHWC")[0] is None
    assert F.conv2d_backward(g, x, w, need_dx=False, output_mask=(True, False, True))[:2] == (None, None)
    assert F.linear_backward(rng.standard_normal((2, 4)), rng.standard_normal((2, 3)), rng.standard_normal((4, 3)), need_dx=False)[0] is None
    assert F.conv_transpose2d_backward(rng.standard_normal((2, 4, 8, 8)), x, w.transpose(1, 0, 2, 3), need_dx=False)[0] is None
    with raises(TypeError, "conv2d_backward: need_dx must be a bool, got int 0"):
        F.conv2d_backward(g, x, w, need_dx=0)


def test_what_does_not_fit_is_said():
    x, w = np.ones((2, 6, 6, 3)), np.ones((3, 3, 3, 4))
    with raises(ValueError, "conv2d: layout must be one of 'NCHW', 'NHWC', got 'CHWN'"):
        F.conv2d(x, w, layout="CHWN")
    with raises(TypeError, "max_pool2d: layout must be one of 'NCHW', 'NHWC', got None"):
        F.max_pool2d(x, 2, layout=None)
    with raises(ShapeError, "conv2d: input must be 4-D (N, H, W, C) or 3-D (H, W, C), got 2-D 6x3"):
        F.conv2d(x[0, 0], w, layout="NHWC")
    with raises(ShapeError, "conv2d: weight must be 4-D (KH, KW, C/groups, O), got 3-D 3x3x4"):
        F.conv2d(x, w[0], layout="NHWC")
    shown = " (shapes of layout 'NHWC' are shown as N, C, H, W"
    with raises(ShapeError, "conv2d: input has 3 channels but weight 4x2x3x3 with groups 1 takes 2 (1 groups of 2)" + shown + " and O, C, KH, KW)"):
        F.conv2d(x, w[:, :, :2], layout="NHWC")
    with raises(ShapeError, "max_pool2d: window 7x7 (dilation 1x1) spans 7x7 but the padded input is 6x6 (H, W = 6x6, padding 0x0)" + shown + ")"):
        F.max_pool2d(x, 7, layout="NHWC")
    with raises(TypeError, "conv2d: weight must be a numpy.ndarray, got NoneType"):
        F.conv2d(x, None, layout="NHWC")
    for shape in ((1, 4), (4, 1, 1, 1), (2, 2), (3,)):
        text = "x".join(map(str, shape))
        with raises(ShapeError, f"conv2d: bias has shape {text} but weight has 4 filters: expected 4"):
            F.conv2d(x, w, np.ones(shape), layout="NHWC")
        with raises(ShapeError, f"conv2d_backward: bias has shape {text} but weight has 4 filters: expected 4"):
            F.conv2d_backward(np.ones((2, 4, 4, 4)), x, w, bias=np.ones(shape), layout="NHWC")
