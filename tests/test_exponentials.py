"""exp and what is made of it, over the range of each type, against the C library in double precision: every instruction set, vectors and tails."""

import math

import numpy as np
import pytest

cpu = pytest.importorskip("fastcnn.backends.cpu", reason="the compiled backend is not built")


@pytest.fixture(params=cpu.available_isas())
def isa(request):
    before = cpu.isa()
    cpu.set_isa(request.param)
    yield request.param
    cpu.set_isa(before)


def points(dtype, lowest, highest):
    """Some thousand numbers between the two, and around zero those of every size."""
    sizes = np.logspace(-30, 0, 301)
    return np.unique(np.concatenate([np.linspace(lowest, highest, 4001), sizes, -sizes, [0.0]]).astype(dtype))


def ulps(result, expected):
    """Distances in units of the last place of the right results, denormals' place for those smaller than all normal numbers."""
    info = np.finfo(result.dtype)
    unit = np.maximum(np.abs(expected), float(info.tiny)) * float(info.eps)
    return np.abs(result.astype(np.float64) - expected) / unit


def phi(x):
    return 0.5 * math.erfc(-x / math.sqrt(2))


def test_exp_is_within_two_units(isa, dtype):
    """elu's gradient for negative inputs is exp itself; softmax of (x, 0) has it as a quotient."""
    x = points(dtype, -87 if dtype == np.float32 else -700, -1e-3)
    x = x[x < 0]
    result = cpu.elu_backward(np.ones_like(x), x, 1.0)
    assert ulps(result, np.array([math.exp(v) for v in x.astype(np.float64)])).max() <= 2


@pytest.mark.parametrize("op", ["sigmoid", "softplus"])
def test_sigmoid_and_softplus(op, isa, dtype):
    x = points(dtype, -80, 80) if dtype == np.float32 else points(dtype, -600, 600)
    right = {"sigmoid": lambda v: 1 / (1 + math.exp(-v)), "softplus": lambda v: max(v, 0.0) + math.log1p(math.exp(-abs(v)))}[op]
    result = cpu.sigmoid(x) if op == "sigmoid" else cpu.softplus(x, 1.0, 1e9)
    assert ulps(result, np.array([right(v) for v in x.astype(np.float64)])).max() <= 4


def test_softplus_and_its_gradient_beyond_the_threshold(isa, dtype):
    x = np.array([9.0, 10.0, 10.5, 30.0, np.inf, -np.inf, np.nan] * 5, dtype)
    result, grad = cpu.softplus(x, 2.0, 20.0), cpu.softplus_backward(np.full_like(x, 3), x, 2.0, 20.0)
    expected = np.where(2 * x > 20, x, np.log1p(np.exp(2 * np.minimum(x, 11).astype(np.float64))) / 2)
    np.testing.assert_allclose(result, expected, rtol=4 * np.finfo(dtype).eps)
    slope = np.where(2 * x > 20, 1, 1 / (1 + np.exp(-2 * np.minimum(x, 11).astype(np.float64))))
    np.testing.assert_allclose(grad, 3 * slope, rtol=4 * np.finfo(dtype).eps)


def test_gelu_keeps_the_digits_of_its_tail(isa, dtype):
    x = points(dtype, -12, 12) if dtype == np.float32 else points(dtype, -36, 36)
    exact = x.astype(np.float64)
    allowed = 8 if dtype == np.float32 else 32 + exact * exact  # the right result's own x / sqrt(2) is rounded, and its square goes into exp
    assert np.all(ulps(cpu.gelu(x, "none"), np.array([v * phi(v) for v in exact])) <= allowed)
    density = np.exp(-exact * exact / 2) / math.sqrt(2 * math.pi)
    expected = np.array([phi(v) for v in exact]) + exact * density
    result = cpu.gelu_backward(np.ones_like(x), x, "none")
    scale = np.array([phi(v) for v in exact]) + np.abs(exact) * density  # the two cancel near -0.75
    allowed = np.finfo(dtype).eps * (16 if dtype == np.float32 else 32 + np.max(exact * exact))
    assert np.max(np.abs(result - expected) / np.maximum(scale, np.finfo(dtype).tiny)) <= allowed


def test_gelu_of_infinities_and_nan(isa, dtype):
    x = np.array([np.inf, np.nan, 0.0, -0.0, 100.0, -100.0], dtype)
    np.testing.assert_array_equal(cpu.gelu(x, "none"), np.array([np.inf, np.nan, 0, 0, 100, 0], dtype))


def test_an_element_has_the_same_bits_wherever_it_lies(isa, dtype, rng):
    x = rng.standard_normal(70).astype(dtype)
    for n in (1, 3, 17, 69):
        np.testing.assert_array_equal(cpu.gelu(x[:n], "none"), cpu.gelu(x, "none")[:n])
        np.testing.assert_array_equal(cpu.softplus(x[:n], 1.0, 20.0), cpu.softplus(x, 1.0, 20.0)[:n])
