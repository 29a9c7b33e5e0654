"""Convolution and linear layers on a GPU, with the tiles of a GPU, against the reference: `pytest -m gpu`.

Inputs are small integers, so every order of summation is exact and results are compared bit for bit; TF32 holds such integers exactly as well.
"""

import numpy as np
import pytest

import fastcnn
from bench import problems
from fastcnn import backend as backends
from fastcnn.backends import reference
from fastcnn.shapes import resolve_padding

_REASON = backends.obstacle("cuda")
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(_REASON is not None, reason=f"backend cuda: {_REASON}")]

PROBLEMS = {p.name: p for name in ("correctness", "short", "changes") for p in problems.load(name)}
WIDE = (4, 96, 15, 17), (160, 96, 3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1), 1  # fills tiles of 128, with rows and columns left over


@pytest.fixture
def cuda():
    from fastcnn.backends import cuda

    return cuda


def integers(rng, shape, dtype):
    return rng.integers(-4, 5, shape).astype(dtype)


def same_bits(actual, expected):
    actual = fastcnn.to_host(actual)
    assert actual.dtype == expected.dtype and actual.shape == expected.shape
    assert np.array_equal(actual, expected), f"max difference {np.abs(actual - expected).max()} at {np.argwhere(actual != expected)[0]}"


def check_layer(cuda, rng, dtype, input_shape, weight_shape, *options):
    x, w, b = (integers(rng, shape, dtype) for shape in (input_shape, weight_shape, weight_shape[:1]))
    y = reference.conv2d(x, w, b, *options)
    g = integers(rng, y.shape, dtype)
    xd, wd, bd, gd = map(fastcnn.to_device, (x, w, b, g))
    same_bits(cuda.conv2d(xd, wd, bd, *options), y)
    same_bits(cuda.conv2d_grad_input(gd, wd, x.shape, *options), reference.conv2d_grad_input(g, w, x.shape, *options))
    same_bits(cuda.conv2d_grad_weight(gd, xd, w.shape, *options), reference.conv2d_grad_weight(g, x, w.shape, *options))
    same_bits(cuda.conv2d_grad_bias(gd), g.sum(axis=(0, 2, 3)))


@pytest.mark.parametrize("problem", PROBLEMS.values(), ids=lambda p: p.name)
def test_convolution_agrees(problem, cuda, dtype, rng):
    padding = resolve_padding(problem.padding, problem.kernel, problem.stride, problem.dilation)
    check_layer(cuda, rng, dtype, problem.input_shape, problem.weight_shape, problem.stride, padding, problem.dilation, problem.groups)


@pytest.mark.parametrize("pieces", [1, 3])
def test_every_tile_agrees(pieces, cuda, dtype, rng):
    from fastcnn.backends.cuda import conv_forward, conv_grad_input, conv_grad_weight
    from fastcnn.backends.cuda.tiles import PRODUCTION, TENSOR, Cut

    input_shape, weight_shape, *options = WIDE
    x, w = integers(rng, input_shape, dtype), integers(rng, weight_shape, dtype)
    y = reference.conv2d(x, w, None, *options)
    g = integers(rng, y.shape, dtype)
    xd, wd, gd = map(fastcnn.to_device, (x, w, g))
    dtype = np.dtype(dtype)
    for tile in PRODUCTION[dtype] + (TENSOR if dtype == np.float32 else ()):
        chosen = Cut(tile, pieces)
        same_bits(conv_forward.conv2d(xd, wd, None, *options, chosen=chosen), y)
        same_bits(conv_grad_input.conv2d_grad_input(gd, wd, x.shape, *options, chosen=chosen), reference.conv2d_grad_input(g, w, x.shape, *options))
        same_bits(conv_grad_weight.conv2d_grad_weight(gd, xd, w.shape, *options, chosen=chosen), reference.conv2d_grad_weight(g, x, w.shape, *options))


@pytest.mark.parametrize(("m", "inputs", "outputs"), [(0, 3, 4), (1, 1, 1), (64, 400, 120), (515, 33, 31), (300, 2051, 129)])
@pytest.mark.parametrize("tf32", [False, True])
def test_linear_agrees(m, inputs, outputs, tf32, cuda, dtype, rng):
    x, w, b, g = (integers(rng, shape, dtype) for shape in ((m, inputs), (outputs, inputs), outputs, (m, outputs)))
    xd, wd, bd, gd = map(fastcnn.to_device, (x, w, b, g))
    with fastcnn.allow_tf32(tf32):
        same_bits(cuda.linear(xd, wd, bd), x @ w.T + b)
        same_bits(cuda.linear_grad_input(gd, wd), g @ w)
        same_bits(cuda.linear_grad_weight(gd, xd), g.T @ x)
        same_bits(cuda.linear_grad_bias(gd), g.sum(axis=0))


def test_tf32_rounds_factors_and_only_where_it_is_allowed(cuda, rng):
    input_shape, weight_shape, *options = WIDE
    x, w = (rng.standard_normal(shape).astype(np.float32) for shape in (input_shape, weight_shape))
    expected = reference.conv2d(x.astype(np.float64), w.astype(np.float64), None, *options)
    magnitude = reference.conv2d(np.abs(x), np.abs(w), None, *options)
    xd, wd = fastcnn.to_device(x), fastcnn.to_device(w)
    exact = np.abs(fastcnn.to_host(cuda.conv2d(xd, wd, None, *options)) - expected) / magnitude
    with fastcnn.allow_tf32():
        rounded = np.abs(fastcnn.to_host(cuda.conv2d(xd, wd, None, *options)) - expected) / magnitude
    assert exact.max() < 1e-5 < rounded.max() < 2**-10  # two factors, each within 2^-11
    same_again = np.abs(fastcnn.to_host(cuda.conv2d(xd, wd, None, *options)) - expected) / magnitude
    np.testing.assert_array_equal(same_again, exact)
