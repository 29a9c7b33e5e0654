"""Pooling where it is cut: planes of few pixels together, rows longer than a piece, strips that share windows, windows too large for a byte."""

import numpy as np
import pytest

import fastcnn
from fastcnn import functional as F
from fastcnn.backends import reference
from fastcnn.shapes import pool2d_output_size

cpu = pytest.importorskip("fastcnn.backends.cpu", reason="the compiled backend is not built")

# (N, C, H, W), kernel, stride, padding, dilation, ceil_mode
CASES = [
    ((64, 24, 8, 8), (2, 2), (2, 2), (0, 0), (1, 1), False),  # rows of four windows, planes by the hundred
    ((33, 7, 4, 6), (2, 3), (2, 3), (0, 0), (1, 1), False),
    ((3, 5, 14, 28), (2, 2), (2, 2), (0, 0), (1, 1), False),
    ((40, 9, 7, 7), (3, 3), (2, 2), (1, 1), (1, 1), False),
    ((2, 3, 150, 130), (3, 3), (2, 2), (1, 1), (1, 1), False),  # a plane of several pieces
    ((1, 2, 70, 1100), (5, 5), (2, 2), (2, 2), (1, 1), True),  # strips of rows
    ((1, 1, 40, 9000), (3, 2), (1, 2), (1, 0), (2, 1), False),  # rows longer than a piece
    ((1, 3, 90, 900), (2, 3), (1, 1), (1, 1), (3, 2), False),
    ((2, 33, 60, 70), (3, 3), (2, 2), (1, 1), (1, 1), True),
    ((1, 2, 30, 31), (4, 4), (5, 5), (0, 0), (1, 1), False),  # gaps
    ((2, 2, 30, 40), (11, 12), (3, 4), (2, 1), (1, 1), False),  # 132 pixels: no byte holds a place
]


@pytest.fixture(params=cpu.available_isas())
def isa(request):
    before = cpu.isa()
    cpu.set_isa(request.param)
    yield request.param
    cpu.set_isa(before)


def arrangements(x):
    """C-contiguous, channels-last, and every second element of something larger."""
    yield np.ascontiguousarray(x)
    yield np.ascontiguousarray(x.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    wide = np.zeros((*x.shape[:3], 2 * x.shape[3]), x.dtype)
    wide[..., ::2] = x
    yield wide[..., ::2]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_max_pool_of_ties_is_the_references(case, isa, dtype, rng):
    shape, *window, ceil_mode = case
    size = pool2d_output_size(shape[2:], *window, ceil_mode)
    x = rng.integers(-1, 2, shape).astype(dtype)
    x[rng.random(shape) < 0.01] = np.nan
    x[rng.random(shape) < 0.1] = -np.inf
    expected = {winners: reference.max_pool2d(x, *window, size, winners) for winners in ("indices", "places")}
    g = rng.integers(-4, 5, expected["indices"][0].shape).astype(dtype)
    spread = reference.max_pool2d_backward(g, expected["indices"][1], shape)
    before = cpu.get_num_threads()
    try:
        for threads in (1, 3):
            cpu.set_num_threads(threads)
            for xs, gs in zip(arrangements(x), arrangements(g), strict=True):
                for winners, (maxima, where) in expected.items():
                    got, told = cpu.max_pool2d(xs, *window, size, winners)
                    np.testing.assert_array_equal(got, maxima)
                    np.testing.assert_array_equal(told, where)
                    assert told.dtype == where.dtype
                np.testing.assert_array_equal(cpu.max_pool2d(xs, *window, size, None)[0], maxima)
                if told.dtype == np.int8:
                    np.testing.assert_array_equal(cpu.max_pool2d_backward_places(gs, told, shape, *window), spread)
                    np.testing.assert_array_equal(cpu.max_pool2d_backward_places(gs, where, shape, *window), spread)
    finally:
        cpu.set_num_threads(before)


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("include", [True, False])
def test_average_pool_and_the_formats_agree(case, include, isa, dtype, rng):
    shape, kernel, stride, padding, _, ceil_mode = case
    size = pool2d_output_size(shape[2:], kernel, stride, padding, (1, 1), ceil_mode)
    x, options = rng.standard_normal(shape).astype(dtype), (kernel, stride, padding)
    expected = reference.avg_pool2d(x.astype(np.float64), *options, size, include, None)
    g = rng.standard_normal(expected.shape).astype(dtype)
    spread = reference.avg_pool2d_backward(g.astype(np.float64), shape, *options, include, None)
    eps = np.finfo(dtype).eps
    before, results = cpu.get_num_threads(), []
    try:
        for threads in (1, 3):
            cpu.set_num_threads(threads)
            for xs, gs in zip(arrangements(x), arrangements(g), strict=True):
                y, gx = cpu.avg_pool2d(xs, *options, size, include, None), cpu.avg_pool2d_backward(gs, shape, *options, include, None)
                np.testing.assert_allclose(y, expected, rtol=0, atol=16 * eps)
                np.testing.assert_allclose(gx, spread, rtol=0, atol=16 * eps)
                results.append((y, gx))
    finally:
        cpu.set_num_threads(before)
    for y, gx in results[1:]:  # same bits in both formats, on any number of threads
        np.testing.assert_array_equal(y, results[0][0])
        np.testing.assert_array_equal(gx, results[0][1])


def test_real_gradients_of_overlapping_windows_have_the_references_bits(isa, dtype, rng):
    """A pixel's gradients are added in the order of its windows."""
    x = rng.standard_normal((2, 17, 33, 40)).astype(dtype)
    window = ((3, 3), (1, 1), (1, 1), (1, 1))
    y, places = reference.max_pool2d(x, *window, x.shape[2:], "places")
    g = rng.standard_normal(y.shape).astype(dtype)
    expected = reference.max_pool2d_backward_places(g, places, x.shape, *window)
    for gs, at in zip(arrangements(g), arrangements(places), strict=True):
        np.testing.assert_array_equal(cpu.max_pool2d_backward_places(gs, at, x.shape, *window), expected)


def test_places_that_are_none_give_nothing(backend):
    x, g = np.arange(16.0).reshape(1, 1, 4, 4), np.ones((1, 1, 2, 2))
    with fastcnn.use_backend(backend):
        for wrong in (-1, 4, 127, -128):
            places = np.array([[[[3, wrong], [0, 1]]]], np.int8)
            expected = np.zeros((1, 1, 4, 4))
            expected[0, 0, [1, 2, 2], [1, 0, 3]] = 1
            np.testing.assert_array_equal(F.max_pool2d_backward(g, x, 2, places=places), expected)


def test_what_the_functional_form_tells_and_takes(backend, dtype, rng):
    with fastcnn.use_backend(backend):
        x = rng.standard_normal((2, 3, 9, 8)).astype(dtype)
        y, places = F.max_pool2d(x, 3, 2, 1, return_places=True)
        g = rng.standard_normal(y.shape).astype(dtype)
        assert places.dtype == np.int8
        expected = F.max_pool2d_backward(g, x, 3, 2, 1, indices=F.max_pool2d(x, 3, 2, 1, return_indices=True)[1])
        np.testing.assert_allclose(F.max_pool2d_backward(g, x, 3, 2, 1, places=places), expected, rtol=0, atol=4 * np.finfo(dtype).eps)
        np.testing.assert_allclose(F.max_pool2d_backward(g, x, 3, 2, 1), expected, rtol=0, atol=4 * np.finfo(dtype).eps)
        np.testing.assert_allclose(F.max_pool2d_backward(g[0], x[0], 3, 2, 1, places=places[0]), expected[0], rtol=0, atol=4 * np.finfo(dtype).eps)
        big = rng.standard_normal((1, 2, 13, 14)).astype(dtype)
        whole, indices = F.max_pool2d(big, (13, 14), return_places=True)
        assert indices.dtype == np.int64
        assert np.count_nonzero(F.max_pool2d_backward(whole, big, (13, 14), places=indices)) == 2
        with pytest.raises(ValueError, match="max_pool2d: return_indices and return_places are both True"):
            F.max_pool2d(x, 2, return_indices=True, return_places=True)
        with pytest.raises(ValueError, match="max_pool2d_backward: indices and places are both given"):
            F.max_pool2d_backward(g, x, 3, 2, 1, indices=indices, places=places)
        with pytest.raises(TypeError, match="max_pool2d_backward: places must be an int8 array, .*, got float64"):
            F.max_pool2d_backward(g, x, 3, 2, 1, places=places.astype(np.float64))
        with pytest.raises(fastcnn.ShapeError, match="max_pool2d_backward: places has shape 2x3x5x3 but the output of the pool is 2x3x5x4"):
            F.max_pool2d_backward(g, x, 3, 2, 1, places=places[..., :3])
        with pytest.raises(ValueError, match="indices holds 182 but a plane of 13x14"):
            F.max_pool2d_backward(whole, big, (13, 14), places=indices * 0 + 182)
