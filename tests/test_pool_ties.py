"""Who gets the gradient of a max pool where maxima tie and where windows overlap, against loops over every window."""

import numpy as np
import pytest

import fastcnn.functional as F

CASES = [
    ((2, 3, 6, 8), 2, None, 0, 1, False),
    ((2, 3, 7, 7), 3, 1, 1, 1, False),
    ((2, 3, 7, 8), (3, 2), (2, 1), (1, 0), 1, True),
    ((2, 2, 9, 9), (2, 3), 2, 1, (2, 3), False),
    ((1, 20, 5, 5), 2, 3, 0, 1, True),
    ((0, 3, 4, 4), 2, 2, 0, 1, False),
    ((3, 6, 6), 2, 2, 0, 1, False),
]


def windows(x, kernel, stride, padding, dilation, ceil_mode):
    """[(oh, ow, rows, columns)]: the pixels of every window inside the image."""
    kernel, stride, padding, dilation = (v if isinstance(v, tuple) else (v, v) for v in (kernel, stride or kernel, padding, dilation))
    shape = F.max_pool2d(x, kernel, stride, padding, dilation, ceil_mode).shape[-2:]
    for oh, ow in np.ndindex(*shape):
        rows = [h for k in range(kernel[0]) if 0 <= (h := oh * stride[0] + k * dilation[0] - padding[0]) < x.shape[-2]]
        cols = [w for k in range(kernel[1]) if 0 <= (w := ow * stride[1] + k * dilation[1] - padding[1]) < x.shape[-1]]
        yield oh, ow, rows, cols


def expected(g, x, options, ties, accumulate):
    dx = np.zeros_like(x)
    for oh, ow, rows, cols in windows(x, *options):
        for lead in np.ndindex(*x.shape[:-2]):
            values = [(x[(*lead, h, w)], h, w) for h in rows for w in cols]
            best = max(v for v, _, _ in values)
            winners = [(h, w) for v, h, w in values if v == best]
            share = g[(*lead, oh, ow)] / (len(winners) if ties == "split" else 1)
            for h, w in winners[: 1 if ties == "first" else None]:
                dx[(*lead, h, w)] = share + (dx[(*lead, h, w)] if accumulate else 0)
    return dx


@pytest.mark.parametrize("accumulate", [True, False])
@pytest.mark.parametrize("ties", ["first", "all", "split"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_every_rule(case, ties, accumulate, backend, dtype, rng):
    shape, *options = case
    x = rng.integers(0, 3, shape).astype(dtype)
    g = rng.integers(-4, 5, F.max_pool2d(x, *options).shape).astype(dtype) * 12  # divisible by most numbers of ties
    wanted = expected(g, x, options, ties, accumulate)
    before = x.copy(), g.copy()
    dx = F.max_pool2d_backward(g, x, *options, ties=ties, accumulate=accumulate)
    assert dx.dtype == dtype and dx.flags.c_contiguous and dx.flags.writeable
    np.testing.assert_allclose(dx, wanted, rtol=0, atol=200 * np.finfo(dtype).eps)
    np.testing.assert_array_equal(x, before[0])
    np.testing.assert_array_equal(g, before[1])
    wide = np.full([2 * n for n in shape], 9, dtype)
    wide[tuple(slice(None, None, 2) for _ in shape)] = x
    np.testing.assert_array_equal(F.max_pool2d_backward(g, wide[tuple(slice(None, None, 2) for _ in shape)], *options, ties=ties, accumulate=accumulate), dx)
    if x.ndim == 4:
        for a, b in ((x, g), (x.transpose(0, 2, 3, 1).copy().transpose(0, 3, 1, 2), g)):
            np.testing.assert_array_equal(F.max_pool2d_backward(b, a, *options, ties=ties, accumulate=accumulate), dx)


@pytest.mark.parametrize("ties,accumulate", [("first", False), ("all", True), ("split", True), ("split", False)])
def test_a_nan_takes_the_gradient_or_withholds_it(ties, accumulate, backend):
    x = np.array([[[1.0, np.nan, 3.0, 3.0], [np.nan, 0.0, 3.0, 1.0]]])
    dx = F.max_pool2d_backward(np.array([[[5.0, 6.0]]]), x, 2, ties=ties, accumulate=accumulate)
    share = {"first": [6, 0, 0, 0], "all": [6, 6, 6, 0], "split": [2, 2, 2, 0]}[ties]
    np.testing.assert_array_equal(dx[0, :, 2:].ravel(), share)
    np.testing.assert_array_equal(dx[0, :, :2].ravel(), [0, 0, 5, 0] if ties == "first" else [0, 0, 0, 0])  # the last NaN, as PyTorch


def test_first_and_accumulate_is_the_derivative_that_pytorch_takes(backend, rng):
    x, g = rng.integers(0, 3, (2, 3, 7, 7)).astype(float), rng.standard_normal((2, 3, 5, 5))
    np.testing.assert_allclose(F.max_pool2d_backward(g, x, 3, 1), expected(g, x, (3, 1, 0, 1, False), "first", True), rtol=0, atol=1e-14)


def test_accumulate_is_a_bool():
    with pytest.raises(TypeError, match="max_pool2d_backward: accumulate must be a bool, got int 1"):
        F.max_pool2d_backward(np.ones((1, 2, 2)), np.ones((1, 4, 4)), 2, accumulate=1)
