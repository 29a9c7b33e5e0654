"""Batch normalisation, activation and pooling in one pass, against the three ops in turn on channels-last arrays: one algorithm, the same bits; and the same
work done by a Winograd convolution before or behind it."""

import numpy as np
import pytest

from fastcnn import functional as F

cpu = pytest.importorskip("fastcnn.backends.cpu", reason="the compiled backend is not built")
from fastcnn.backends.cpu import _norm, _pool, _winograd  # noqa: E402


@pytest.fixture(params=cpu.available_isas(), autouse=True)
def isa(request):
    before, threads = cpu.isa(), cpu.get_num_threads()
    cpu.set_isa(request.param)
    cpu.set_num_threads(2)
    yield request.param
    cpu.set_isa(before)
    cpu.set_num_threads(threads)


def channels_last(array):
    return np.ascontiguousarray(array.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)


def empty_last(shape, dtype):
    N, C, H, W = shape
    return np.full((N, H, W, C), 77, dtype).transpose(0, 3, 1, 2)


# (N, C, H, W): whole and partial vectors of channels, odd sizes, one image, one pixel, pieces of one and of many rows
SHAPES = [
    (3, 17, 9, 7), (2, 3, 5, 5), (4, 32, 8, 8), (1, 33, 2, 3), (2, 64, 33, 31), (5, 16, 1, 1), (1, 18, 1, 9), (2, 20, 9, 1), (1, 600, 4, 4), (2, 130, 3, 70),
]  # fmt: skip
FOLLOWERS = [(None, 0.0), ("relu", 0.0), ("leaky_relu", 0.25)]


def drawn(shape, dtype, rng):
    """x, scale, shift; many exact zeros among the normalised values' neighbours, so that ties occur in the windows."""
    x = (rng.integers(-3, 4, shape) + 0.0).astype(dtype)
    return channels_last(x), rng.normal(1, 0.5, shape[1]).astype(dtype), rng.normal(0, 0.5, shape[1]).astype(dtype)


def layer_by_layer(x, normalised, scale, shift, activation, slope, pooled):
    """(output, mean, var, backward), backward(g) -> (grad_input, grad_scale, grad_shift)."""
    mean = var = None
    y = x
    if normalised:
        y, mean, var = cpu.batch_norm(x, scale, shift, None, None, 1e-5)
    z = y if activation is None else cpu.relu(y) if activation == "relu" else cpu.leaky_relu(y, slope)
    p, indices = z, None
    if pooled:
        p, indices = cpu.max_pool2d(z, (2, 2), (2, 2), (0, 0), (1, 1), (z.shape[2] // 2, z.shape[3] // 2), "indices")

    def backward(g):
        if pooled:
            g = cpu.max_pool2d_backward(g, indices, z.shape)
        if activation:
            g = cpu.relu_backward(g, y) if activation == "relu" else cpu.leaky_relu_backward(g, y, slope)
        return cpu.batch_norm_backward(g, x, scale, mean, var, 1e-5, True) if normalised else (g, None, None)

    return p, mean, var, backward


def following(x, normalised=True, activation=None, slope=0.0, pooled=False):
    return _norm.Following(x.shape, x.dtype, normalised, 1e-5 if normalised else 0.0, activation, slope, "max" if pooled else None)


def fused(x, normalised, scale, shift, activation, slope, pooled, g=None, wants_bias=True):
    N, C, H, W = x.shape
    shape = (N, C, H // 2, W // 2) if pooled else x.shape
    out, winners = empty_last(shape, x.dtype), empty_last(shape, np.int8) if pooled else None
    layers = following(x, normalised, activation, slope, pooled)
    if normalised:
        layers.take_statistics(x, scale, shift)
    layers.apply(x, out, winners)
    if g is None:
        return out, layers.mean, layers.var
    grad = empty_last(x.shape, x.dtype)
    rest = layers.backward(g, x, scale if normalised else None, grad, winners, wants_bias)
    return out, layers.mean, layers.var, grad, *rest


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize(("activation", "slope"), FOLLOWERS, ids=str)
@pytest.mark.parametrize("pooled", [False, True], ids=["", "pooled"])
@pytest.mark.parametrize("normalised", [False, True], ids=["", "normalised"])
def test_one_pass_gives_the_bits_of_three(shape, activation, slope, pooled, normalised, dtype, rng):
    if pooled and min(shape[2:]) < 2:
        pytest.skip("no window fits")
    x, scale, shift = drawn(shape, dtype, rng)
    expected, mean, var, backward = layer_by_layer(x, normalised, scale, shift, activation, slope, pooled)
    g = channels_last(rng.standard_normal(expected.shape).astype(dtype))
    out, m, v, grad, grad_scale, grad_shift, grad_bias = fused(x, normalised, scale, shift, activation, slope, pooled, g)
    assert np.array_equal(out, expected)
    expected_grad, expected_scale, expected_shift = backward(g)
    assert np.array_equal(grad, expected_grad)
    if normalised:
        assert np.array_equal(m, mean) and np.array_equal(v, var)
        assert np.array_equal(grad_scale, expected_scale) and np.array_equal(grad_shift, expected_shift)
    total = np.abs(expected_grad).sum(axis=(0, 2, 3), dtype=np.float64)
    np.testing.assert_array_less(np.abs(grad_bias - expected_grad.sum(axis=(0, 2, 3), dtype=np.float64)), 64 * np.finfo(dtype).eps * total + 1e-30)
    assert fused(x, normalised, scale, shift, activation, slope, pooled, g, wants_bias=False)[-1] is None


@pytest.mark.parametrize("pooled", [False, True], ids=["", "pooled"])
def test_the_gradient_may_be_written_over_the_input(pooled, dtype, rng):
    x, scale, shift = drawn((3, 19, 9, 8), dtype, rng)
    g = channels_last(rng.standard_normal((3, 19, 4, 4) if pooled else x.shape).astype(dtype))
    _, _, _, grad, *_ = fused(x, True, scale, shift, "relu", 0.0, pooled, g)
    out, winners = empty_last(g.shape, dtype), empty_last(g.shape, np.int8) if pooled else None
    layers = following(x, True, "relu", 0.0, pooled)
    layers.take_statistics(x, scale, shift)
    layers.apply(x, out, winners)
    layers.backward(g, x, scale, x, winners, True)
    assert np.array_equal(x, grad)


def test_an_activation_in_place_is_told_from_its_output(dtype, rng):
    """Without normalisation and pooling x, out and later the gradient are one array."""
    for activation, slope in FOLLOWERS[1:]:
        x, *_ = drawn((3, 19, 9, 8), dtype, rng)
        g = channels_last(rng.standard_normal(x.shape).astype(dtype))
        out, _, _, grad, *_ = fused(x, False, None, None, activation, slope, False, g)
        layers = following(x, False, activation, slope)
        layers.apply(x, x, None)
        assert np.array_equal(x, out)
        layers.backward(g, x, None, x, None, False)
        assert np.array_equal(x, grad)


@pytest.mark.parametrize("pooled", [False, True], ids=["", "pooled"])
@pytest.mark.parametrize(("activation", "slope"), FOLLOWERS, ids=str)
def test_one_channel_is_channels_last_too(activation, slope, pooled, dtype, rng):
    """Its array is C-contiguous at the same time, for which batch norm by itself has other kernels: equal up to rounding."""
    x, scale, shift = rng.standard_normal((3, 1, 6, 7)).astype(dtype), np.array([1.5], dtype), np.array([-0.25], dtype)
    for normalised in (False, True):
        expected, _, _, backward = layer_by_layer(x, normalised, scale, shift, activation, slope, pooled)
        g = rng.standard_normal(expected.shape).astype(dtype)
        out, _, _, grad, grad_scale, grad_shift, _ = fused(x, normalised, scale, shift, activation, slope, pooled, g)
        tolerance = {"rtol": 64 * np.finfo(dtype).eps, "atol": 64 * np.finfo(dtype).eps}
        np.testing.assert_allclose(out, expected, **tolerance)
        expected_grad, expected_scale, expected_shift = backward(g)
        np.testing.assert_allclose(grad, expected_grad, **tolerance)
        if normalised:
            np.testing.assert_allclose(grad_scale, expected_scale, **tolerance)
            np.testing.assert_allclose(grad_shift, expected_shift, **tolerance)


@pytest.mark.parametrize("fmt", [channels_last, np.ascontiguousarray], ids=["channels_last", "contiguous"])
@pytest.mark.parametrize("C", [1, 3, 17])
def test_a_large_mean_costs_no_digits(C, fmt, dtype, rng):
    """Mean 1e4, deviation 1e-2: squares of the values themselves would lose everything in float32. What is left is the rounding of the inputs."""
    x = fmt((1e4 + 1e-2 * rng.standard_normal((8, C, 24, 25))).astype(dtype))
    double = x.astype(np.float64)
    mean, var = (double - 1e4).mean(axis=(0, 2, 3)) + 1e4, (double - 1e4).var(axis=(0, 2, 3))
    output, m, v = cpu.batch_norm(x, None, None, None, None, 1e-12)
    eps = np.finfo(dtype).eps
    np.testing.assert_allclose(m, mean, rtol=eps)
    np.testing.assert_allclose(v, var, rtol=32 * eps)
    expected = (double - mean[:, None, None]) / np.sqrt(var + 1e-12)[:, None, None]
    # the mean itself is rounded to an element: that is up to eps * 1e4 / 1e-2 deviations
    np.testing.assert_allclose(output, expected, rtol=0, atol=1.5 * eps * 1e4 / np.sqrt(var.min()))


@pytest.mark.parametrize("value", [0.0, 1.0, 0.1, -12345.678, 1e20])
def test_constant_channels_give_exactly_the_shift(value, dtype):
    shift = np.linspace(-1, 1, 19).astype(dtype)
    x = channels_last(np.full((3, 19, 8, 9), value, dtype))
    g = channels_last(np.ones((3, 19, 4, 4), dtype))
    out, mean, var, grad, grad_scale, *_ = fused(x, True, np.ones(19, dtype), shift, None, 0.0, True, g)
    assert (mean == x[0, :, 0, 0]).all() and (var == 0).all()
    assert (out == shift[:, None, None]).all()
    assert (grad_scale == 0).all() and np.isfinite(grad).all()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("pooled", [False, True], ids=["", "pooled"])
@pytest.mark.parametrize(("activation", "slope"), FOLLOWERS, ids=str)
def test_special_values_propagate(value, pooled, activation, slope, dtype, rng):
    x, scale, shift = drawn((3, 19, 8, 9), dtype, rng)
    x[1, 4, 2, 3] = value
    for normalised in (False, True):
        with np.errstate(invalid="ignore"):
            expected, mean, var, backward = layer_by_layer(x, normalised, scale, shift, activation, slope, pooled)
            g = channels_last(rng.standard_normal(expected.shape).astype(dtype))
            out, m, v, grad, *_ = fused(x, normalised, scale, shift, activation, slope, pooled, g)
        np.testing.assert_array_equal(out, expected)
        np.testing.assert_array_equal(grad, backward(g)[0])


def test_the_bits_do_not_depend_on_the_threads(dtype, rng):
    x, scale, shift = drawn((7, 40, 29, 31), dtype, rng)
    g = channels_last(rng.standard_normal((7, 40, 14, 15)).astype(dtype))
    results = []
    for threads in (1, 2, 3, 4):
        cpu.set_num_threads(threads)
        results.append(fused(x, True, scale, shift, "leaky_relu", 0.1, True, g))
    for other in results[1:]:
        assert all(np.array_equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_the_layers_take_the_same_statistics(dtype, rng):
    """Functional, on either memory format, and fused: the running statistics of a network do not depend on who runs it."""
    x, scale, shift = drawn((4, 24, 9, 8), dtype, rng)
    _, mean, var = fused(x, True, scale, shift, "relu", 0.0, False)
    with_backend = F.batch_norm(x, None, None, scale, shift, training=True, return_stats=True)
    assert np.array_equal(mean, with_backend[1]) and np.array_equal(var, with_backend[2])


def test_an_empty_batch_gives_an_empty_result(dtype):
    for C in (1, 17):
        x = empty_last((0, C, 4, 4), dtype)
        out, *_ = fused(x, True, np.ones(C, dtype), np.zeros(C, dtype), "relu", 0.0, True, empty_last((0, C, 2, 2), dtype))
        assert out.shape == (0, C, 2, 2)


# (N, C, H, W), windows and strides: overlapping, apart, all of the image; an odd rest
AVERAGES = [
    ((2, 17, 13, 12), (5, 5), (2, 2)), ((3, 32, 9, 9), (2, 2), (2, 2)), ((2, 5, 7, 11), (2, 3), (3, 4)), ((1, 130, 31, 70), (5, 5), (2, 2)),
    ((2, 16, 4, 6), (4, 6), (4, 6)), ((1, 600, 9, 8), (3, 1), (1, 1)),
]  # fmt: skip


@pytest.mark.parametrize(("shape", "size", "stride"), AVERAGES, ids=str)
@pytest.mark.parametrize(("activation", "slope"), FOLLOWERS, ids=str)
def test_averages_in_the_same_pass(shape, size, stride, activation, slope, dtype, rng):
    x, scale, shift = drawn(shape, dtype, rng)
    z, _, _, backward = layer_by_layer(x, True, scale, shift, activation, slope, False)
    pooled = (*shape[:2], *((extent - k) // s + 1 for extent, k, s in zip(shape[2:], size, stride, strict=True)))
    expected, spread = empty_last(pooled, dtype), empty_last(shape, dtype)
    _pool.avg_pool2d(channels_last(z), size, stride, (0, 0), expected.shape[2:], True, None, out=expected)
    g = channels_last(rng.standard_normal(pooled).astype(dtype))
    _pool.avg_pool2d_backward(g, spread.shape, size, stride, (0, 0), True, None, out=spread)
    layers = _norm.Following(shape, dtype, True, 1e-5, activation, slope, (size, stride))
    out, grad = empty_last(pooled, dtype), empty_last(shape, dtype)
    layers.take_statistics(x, scale, shift)
    layers.apply(x, out, None)
    assert np.array_equal(out, expected)
    results = layers.backward(g, x, scale, grad, None, False)
    for result, wanted in zip((grad, *results[:2]), backward(spread), strict=True):
        assert np.array_equal(result, wanted)


# images of whole blocks and of several, rows of blocks that do and do not hold whole pieces, channels that fill no vector, no padding, and many weights
CONVOLUTIONS = [(2, 16, 8, 8, 16), (3, 33, 13, 9, 17), (1, 64, 32, 32, 32), (5, 20, 4, 4, 40), (1, 128, 61, 30, 16), (1, 16, 34, 270, 24), (3, 136, 8, 9, 220)]


@pytest.mark.parametrize(("N", "C", "H", "W", "O"), CONVOLUTIONS)
@pytest.mark.parametrize("padding", [((1, 1), (1, 1)), ((0, 0), (0, 0)), ((2, 0), (1, 2))], ids=str)
@pytest.mark.parametrize(("activation", "slope"), FOLLOWERS, ids=str)
def test_a_convolution_normalises_what_it_loads_and_counts_what_it_makes(N, C, H, W, O, padding, activation, slope, rng):
    dtype = np.dtype(np.float32)
    x, scale, shift = drawn((N, C, H, W), dtype, rng)
    w = rng.standard_normal((O, C, 3, 3)).astype(dtype)
    options = ((1, 1), padding, (1, 1), 1)
    before = following(x, True, activation, slope)
    before.take_statistics(x, scale, shift)
    z = empty_last(x.shape, dtype)
    before.apply(x, z, None)
    expected = _winograd.conv2d(z, w, None, *options)
    behind, separate = following(expected), following(expected)
    for threads in (1, 2, 3):
        cpu.set_num_threads(threads)
        y = _winograd.conv2d(x, w, None, *options, before=before, statistics=behind)
        assert np.array_equal(y, expected)
        behind.take_statistics(y, None, None)
        separate.take_statistics(y, None, None)
        assert np.array_equal(behind.mean, separate.mean) and np.array_equal(behind.var, separate.var)
        assert np.array_equal(_winograd.conv2d_grad_weight(y, x, w.shape, *options, before=before), _winograd.conv2d_grad_weight(y, z, w.shape, *options))


def test_counted_statistics_are_used_once(rng):
    """A second input finds nothing left of the first one's."""
    x = channels_last(rng.standard_normal((2, 16, 8, 8)).astype(np.float32))
    w = rng.standard_normal((16, 16, 3, 3)).astype(np.float32)
    layers = following(x)
    y = _winograd.conv2d(x, w, None, (1, 1), ((1, 1), (1, 1)), (1, 1), 1, statistics=layers)
    layers.take_statistics(y, None, None)
    of_y = layers.mean.copy()
    layers.take_statistics(x, None, None)
    assert np.array_equal(layers.mean, cpu.batch_norm(x, None, None, None, None, 1e-5)[1])
    assert not np.array_equal(layers.mean, of_y)


def test_only_channels_last_inputs_are_normalised_while_loading(rng):
    x = rng.standard_normal((2, 16, 8, 8)).astype(np.float32)
    with pytest.raises(ValueError, match="channels-last"):
        _winograd.conv2d(x, np.zeros((16, 16, 3, 3), np.float32), None, (1, 1), ((1, 1), (1, 1)), (1, 1), 1, before=following(x))
