"""fastcnn.compat.coursera against code in the notebook's style (bench/courses/coursera): forward and backward, float64, error at most 1e-9."""

# ruff: noqa: NPY002 (the courses draw from NumPy's global generator)

import numpy as np
import pytest

from bench.courses.coursera import columns, notebook
from fastcnn.compat import coursera

TOLERANCE = 1e-9
# (m, n_H, n_W, n_C_prev), n_C, f, stride, pad
CONVS = [
    ((2, 5, 7, 4), 8, 3, 2, 1),
    ((3, 6, 6, 1), 2, 2, 1, 0),
    ((2, 7, 4, 3), 5, 4, 3, 2),
    ((1, 8, 8, 2), 3, 5, 1, 2),
    ((2, 4, 4, 3), 4, 1, 1, 0),
]
# (m, n_H, n_W, n_C), f, stride
POOLS = [((2, 5, 5, 3), 3, 1), ((2, 5, 5, 3), 3, 2), ((3, 8, 6, 2), 2, 2), ((1, 7, 7, 1), 2, 3)]


def close(ours, theirs):
    assert ours.shape == theirs.shape
    assert ours.dtype == np.float64
    assert ours.flags.c_contiguous and ours.flags.owndata is not None and ours.flags.writeable
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize(("shape", "n_C", "f", "stride", "pad"), CONVS)
def test_convolution(rng, shape, n_C, f, stride, pad):
    A_prev, W, b = rng.standard_normal(shape), rng.standard_normal((f, f, shape[3], n_C)), rng.standard_normal((1, 1, 1, n_C))
    hparameters = {"stride": stride, "pad": pad}
    Z, cache = coursera.conv_forward(A_prev, W, b, hparameters)
    expected, theirs = notebook.conv_forward(A_prev, W, b, hparameters)
    close(Z, expected)
    assert type(cache) is tuple and len(cache) == 4
    assert all(mine is theirs for mine, theirs in zip(cache, (A_prev, W, b, hparameters), strict=True))
    dZ = rng.standard_normal(expected.shape)
    for ours, expected in zip(coursera.conv_backward(dZ, cache), notebook.conv_backward(dZ, theirs), strict=True):
        close(ours, expected)


@pytest.mark.parametrize(("shape", "f", "stride"), POOLS)
@pytest.mark.parametrize("mode", ["max", "average"])
@pytest.mark.parametrize("tied", [False, True])
def test_pooling(rng, shape, f, stride, mode, tied):
    A_prev = np.round(rng.standard_normal(shape)) if tied else rng.standard_normal(shape)
    hparameters = {"f": f, "stride": stride}
    A, cache = coursera.pool_forward(A_prev, hparameters, mode)
    expected, theirs = notebook.pool_forward(A_prev, hparameters, mode)
    close(A, expected)
    assert type(cache) is tuple and len(cache) == 2 and cache[0] is A_prev and cache[1] is hparameters
    dA = rng.standard_normal(expected.shape)
    close(coursera.pool_backward(dA, cache, mode), notebook.pool_backward(dA, theirs, mode))


def test_max_is_the_default_and_other_modes_do_not_exist(rng):
    A_prev = rng.standard_normal((1, 4, 4, 2))
    A, cache = coursera.pool_forward(A_prev, {"f": 2, "stride": 2})
    np.testing.assert_array_equal(A, coursera.pool_forward(A_prev, {"f": 2, "stride": 2}, mode="max")[0])
    np.testing.assert_array_equal(coursera.pool_backward(A, cache), coursera.pool_backward(A, cache, mode="max"))
    with pytest.raises(ValueError, match="pool_forward: mode must be 'max' or 'average', got 'mean'"):
        coursera.pool_forward(A_prev, {"f": 2, "stride": 2}, "mean")
    with pytest.raises(ValueError, match="pool_backward"):
        coursera.pool_backward(A, cache, "mean")


def test_the_small_functions(rng):
    X = rng.standard_normal((4, 3, 5, 2))
    close(coursera.zero_pad(X, 2), notebook.zero_pad(X, 2))
    assert coursera.zero_pad(X.astype(np.float32), 1).dtype == np.float32
    np.testing.assert_array_equal(coursera.zero_pad(X, 0), X)
    window, W, b = rng.standard_normal((4, 4, 3)), rng.standard_normal((4, 4, 3)), rng.standard_normal((1, 1, 1))
    assert abs(coursera.conv_single_step(window, W, b) - (np.sum(window * W) + b[0, 0, 0])) < TOLERANCE
    mask = coursera.create_mask_from_window(np.array([[1.0, 3.0], [3.0, -1.0]]))
    np.testing.assert_array_equal(mask, [[False, True], [True, False]])
    np.testing.assert_array_equal(coursera.distribute_value(2, (2, 2)), np.full((2, 2), 0.5))


def test_the_notebooks_own_numbers():
    """The expected outputs that the notebook prints below its cells (np.random.seed(1) before each)."""
    np.random.seed(1)
    A_prev, W, b = np.random.randn(10, 5, 7, 4), np.random.randn(3, 3, 4, 8), np.random.randn(1, 1, 1, 8)
    Z, cache = coursera.conv_forward(A_prev, W, b, {"pad": 1, "stride": 2})
    assert Z.shape == (10, 3, 4, 8)
    assert abs(Z.mean() - 0.6923608807576933) < TOLERANCE
    expected = [-1.28912231, 2.27650251, 6.61941931, 0.95527176, 8.25132576, 2.31329639, 13.00689405, 2.34576051]
    np.testing.assert_allclose(Z[3, 2, 1], expected, atol=5e-9)
    np.testing.assert_allclose(cache[0][1][2][3], [-1.1191154, 1.9560789, -0.3264995, -1.34267579], atol=5e-9)

    np.random.seed(1)
    A_prev, W, b = np.random.randn(10, 4, 4, 3), np.random.randn(2, 2, 3, 8), np.random.randn(1, 1, 1, 8)
    Z, cache = coursera.conv_forward(A_prev, W, b, {"pad": 2, "stride": 2})
    assert abs(Z.mean() - 0.0489952035289) < 5e-14
    np.testing.assert_allclose(Z[3, 2, 1, :4], [-0.61490741, -6.7439236, -2.55153897, 1.75698377], atol=5e-9)
    np.testing.assert_allclose(cache[0][1][2][3], [-0.20075807, 0.18656139, 0.41005165], atol=5e-9)
    dA, dW, db = coursera.conv_backward(Z, cache)
    np.testing.assert_allclose([dA.mean(), dW.mean(), db.mean()], [1.45243777754, 1.72699145831, 7.83923256462], atol=5e-12)

    np.random.seed(1)
    A_prev = np.random.randn(5, 5, 3, 2)
    _, cache = coursera.pool_forward(A_prev, {"stride": 1, "f": 2})
    dA = np.random.randn(5, 4, 2, 2)
    np.testing.assert_allclose(coursera.pool_backward(dA, cache, "max")[1, 1], [[0, 0], [5.05844394, -1.68282702], [0, 0]], atol=5e-9)
    np.testing.assert_allclose(
        coursera.pool_backward(dA, cache, "average")[1, 1],
        [[0.08485462, 0.2787552], [1.26461098, -0.25749373], [1.17975636, -0.53624893]],
        atol=5e-9,
    )


@pytest.mark.parametrize(("shape", "n_C", "f", "stride", "pad"), CONVS)
def test_the_baseline_with_columns_is_the_notebooks(rng, shape, n_C, f, stride, pad):
    """What the benchmark compares with computes the same."""
    A_prev, W, b = rng.standard_normal(shape), rng.standard_normal((f, f, shape[3], n_C)), rng.standard_normal((1, 1, 1, n_C))
    (Z, cache), (expected, theirs) = (module.conv_forward(A_prev, W, b, {"stride": stride, "pad": pad}) for module in (columns, notebook))
    close(Z, expected)
    for ours, expected in zip(columns.conv_backward(Z, cache), notebook.conv_backward(Z, theirs), strict=True):
        np.testing.assert_allclose(ours, expected, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize(("shape", "f", "stride"), POOLS)
@pytest.mark.parametrize("mode", ["max", "average"])
def test_the_baseline_with_columns_pools_as_the_notebook(rng, shape, f, stride, mode):
    A_prev = np.round(rng.standard_normal(shape))
    (A, cache), (expected, theirs) = (module.pool_forward(A_prev, {"f": f, "stride": stride}, mode) for module in (columns, notebook))
    np.testing.assert_allclose(A, expected, rtol=0, atol=TOLERANCE)
    np.testing.assert_allclose(columns.pool_backward(A, cache, mode), notebook.pool_backward(A, theirs, mode), rtol=0, atol=TOLERANCE)
