"""Layer and group normalisation, the squared error and global average pooling of the compiled backend against the reference in float64: every instruction
set, both types, memory formats and strided views, rows of all lengths."""

import numpy as np
import pytest
from arrays import FORMATS, in_format, in_memory_format

import fastcnn.functional as F
from fastcnn.backends import reference

cpu = pytest.importorskip("fastcnn.backends.cpu", reason="the compiled backend is not built")


@pytest.fixture(params=cpu.available_isas())
def isa(request):
    before = cpu.isa()
    cpu.set_isa(request.param)
    yield request.param
    cpu.set_isa(before)


def close(actual, expected, dtype, factor=1.0):
    eps = np.finfo(dtype).eps
    assert actual.dtype == dtype and actual.shape == expected.shape
    np.testing.assert_allclose(actual, expected, rtol=0, atol=64 * eps * factor * max(1, np.abs(expected).max(initial=0)))


# Rows within a vector, of whole vectors and a rest, up to the length taken together, beyond it, and of several blocks.
ROWS = [(1, 1), (1, 10), (5, 7), (17, 16), (33, 31), (70, 96), (16, 100), (3, 255), (19, 256), (2, 257), (5, 1000), (2, 4096), (3, 9001), (0, 5), (300, 3)]


@pytest.mark.parametrize("affine", [(True, True), (True, False), (False, True), (False, False)], ids=str)
@pytest.mark.parametrize("shape", ROWS, ids=str)
def test_layer_norm_agrees(shape, affine, isa, dtype, rng):
    x, g = rng.normal(3, 2, shape).astype(dtype), rng.normal(0, 1, shape).astype(dtype)
    w, b = (rng.normal(1, 0.3, shape[1:]).astype(dtype) if given else None for given in affine)
    double = [None if a is None else a.astype(np.float64) for a in (x, w, b, g)]
    close(cpu.layer_norm(x, shape[1:], w, b, 0.1), reference.layer_norm(double[0], shape[1:], double[1], double[2], 0.1), dtype)
    expected = reference.layer_norm_backward(double[3], double[0], shape[1:], double[1], 0.1)
    for a, e in zip(cpu.layer_norm_backward(g, x, shape[1:], w, 0.1), expected, strict=True):
        close(a, e, dtype)


def test_layer_norm_over_several_axes_of_any_strides(isa, dtype, rng):
    x, g = (rng.standard_normal((6, 4, 5, 3)).astype(dtype) for _ in range(2))
    w = rng.standard_normal((4, 5, 3)).astype(dtype)
    expected = F.layer_norm(x, (4, 5, 3), w), *F.layer_norm_backward(g, x, (4, 5, 3), w)
    for fmt in FORMATS:
        view, grad, weight = in_format(x, fmt), in_format(g, fmt), np.asfortranarray(w)
        for a, e in zip((F.layer_norm(view, (4, 5, 3), weight), *F.layer_norm_backward(grad, view, (4, 5, 3), weight)), expected, strict=True):
            np.testing.assert_array_equal(a, e)


# shape, groups: one pixel; small planes, where a group is a row, short and long; planes of their own; several pieces; groups of all channels, and of one.
GROUPS = [((3, 6, 1, 1), 2), ((5, 32, 1, 1), 4), ((4, 6, 3, 5), 3), ((7, 8, 8, 8), 2), ((2, 512, 7, 7), 1), ((3, 6, 9, 13), 2), ((2, 4, 33, 40), 4),
          ((1, 16, 40, 41), 1), ((0, 4, 3, 3), 2), ((9, 5, 2, 3), 5), ((40, 3, 1, 2), 1)]  # fmt: skip


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("fmt", FORMATS)
@pytest.mark.parametrize("shape,groups", GROUPS, ids=str)
def test_group_norm_agrees(shape, groups, fmt, affine, isa, dtype, rng):
    x, g = rng.normal(3, 2, shape).astype(dtype), rng.normal(0, 1, shape).astype(dtype)
    w, b = (rng.normal(1, 0.3, shape[1]).astype(dtype) if affine else None for _ in range(2))
    double = [None if a is None else a.astype(np.float64) for a in (x, w, b, g)]
    out = cpu.group_norm(in_format(x, fmt), groups, w, b, 0.1)
    assert in_memory_format(out, in_format(x, fmt))
    close(out, reference.group_norm(double[0], groups, double[1], double[2], 0.1), dtype)
    expected = reference.group_norm_backward(double[3], double[0], groups, double[1], 0.1)
    for grad in (in_format(g, fmt), g):
        for a, e in zip(cpu.group_norm_backward(grad, in_format(x, fmt), groups, w, 0.1), expected, strict=True):
            close(a, e, dtype)


@pytest.mark.parametrize("shape", [(8, 40), (4, 300), (2, 5000)], ids=str)
def test_a_large_mean_costs_no_digits(shape, isa, dtype, rng):
    """Mean 1e4, deviation 1e-2: squares of the values themselves would lose everything in float32."""
    x = (1e4 + 1e-2 * rng.standard_normal(shape)).astype(dtype)
    double = x.astype(np.float64) - 1e4  # exact
    centred = double - double.mean(axis=1, keepdims=True)
    expected = centred / np.sqrt((centred * centred).mean(axis=1, keepdims=True) + 1e-12)
    eps = np.finfo(dtype).eps
    # what rounding takes from the mean is put back, and x - mean is exact: little is lost
    np.testing.assert_allclose(cpu.layer_norm(x, shape[1:], None, None, 1e-12), expected, rtol=0, atol=64 * eps * np.abs(expected).max())
    planes = x.reshape(*shape, 1, 1).repeat(66, axis=3)
    bound = 2 * eps * 1e4 / 1e-2  # the mean of a group of planes is rounded to an element
    np.testing.assert_allclose(cpu.group_norm(planes, 1, None, None, 1e-12)[..., 0, 5], expected, rtol=0, atol=bound)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_stays_in_its_row(value, isa, dtype, rng):
    for n in (5, 16, 100, 700):
        x = rng.standard_normal((20, n)).astype(dtype)
        clean = cpu.layer_norm(x, (n,), None, None, 1e-5)
        grads = cpu.layer_norm_backward(x, x, (n,), None, 1e-5)[0]
        x[3, n // 2] = value
        out, grad = cpu.layer_norm(x, (n,), None, None, 1e-5), cpu.layer_norm_backward(x, x, (n,), None, 1e-5)[0]
        assert np.isnan(out[3]).all() and np.isnan(grad[3]).all()
        others = np.arange(20) != 3
        np.testing.assert_array_equal(out[others], clean[others])
        np.testing.assert_array_equal(grad[others], grads[others])


@pytest.mark.parametrize("shape", [(1,), (7,), (3, 65), (2, 3, 4, 5), (5, 20000), (0, 4)], ids=str)
def test_mse_agrees(shape, isa, dtype, rng):
    x, t, g = (rng.standard_normal(shape).astype(dtype) for _ in range(3))
    double = [a.astype(np.float64) for a in (x, t, g)]
    with np.errstate(invalid="ignore"):
        for reduction, grad in (("mean", 1.5), ("sum", -0.5), ("none", g)):
            close(np.asarray(cpu.mse_loss(x, t, reduction)), np.asarray(reference.mse_loss(*double[:2], reduction)), dtype)
            wanted = reference.mse_loss_backward(double[2] if reduction == "none" else grad, *double[:2], reduction)
            close(cpu.mse_loss_backward(grad, x, t, reduction), wanted, dtype)


def test_mse_of_other_memory_formats(isa, dtype, rng):
    x, t, g = (rng.integers(-4, 5, (3, 5, 7, 9)).astype(dtype) for _ in range(3))
    wanted = [reference.mse_loss(x, t, "sum"), reference.mse_loss(x, t, "none"), reference.mse_loss_backward(g, x, t, "none")]
    for one in FORMATS:
        for other in FORMATS:
            a, b, grad = in_format(x, one), in_format(t, other), in_format(g, other)
            np.testing.assert_array_equal(cpu.mse_loss(a, b, "sum"), wanted[0])
            np.testing.assert_array_equal(cpu.mse_loss(a, b, "none"), wanted[1])
            np.testing.assert_array_equal(cpu.mse_loss_backward(grad, a, t, "none"), wanted[2])


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (7, 7), (8, 8), (5, 13), (64, 65)], ids=str)
@pytest.mark.parametrize("planes", [(1, 1), (3, 17), (2, 33), (0, 4)], ids=str)
def test_global_average_pooling_agrees(planes, size, isa, dtype, rng):
    x, g = rng.integers(-4, 5, (*planes, *size)).astype(dtype), rng.integers(-4, 5, (*planes, 1, 1)).astype(dtype)
    for fmt in FORMATS:
        np.testing.assert_allclose(cpu.adaptive_avg_pool2d(in_format(x, fmt), (1, 1)), reference.adaptive_avg_pool2d(x, (1, 1)), rtol=2 * np.finfo(dtype).eps)
    np.testing.assert_array_equal(cpu.adaptive_avg_pool2d(x, (1, 1)), reference.adaptive_avg_pool2d(x, (1, 1)))
    np.testing.assert_allclose(cpu.adaptive_avg_pool2d_backward(g, x.shape), reference.adaptive_avg_pool2d_backward(g, x.shape), rtol=2 * np.finfo(dtype).eps)


@pytest.mark.parametrize("op", ["relu", "leaky_relu", "sigmoid", "tanh", "gelu"])
def test_activations_do_not_depend_on_where_an_array_begins(op, isa, dtype, rng):
    """The first elements, up to an aligned address, are taken apart."""
    memory, grads = rng.standard_normal(300).astype(dtype), rng.standard_normal(300).astype(dtype)
    function, backward = getattr(F, op), getattr(F, op + "_backward")
    whole, whole_grad = function(memory), backward(grads, memory)
    for first in range(20):
        for length in (1, 5, 16, 40, 200):
            part = slice(first, first + length)
            np.testing.assert_array_equal(function(memory[part]), whole[part])
            np.testing.assert_array_equal(backward(grads[part], memory[part]), whole_grad[part])
