"""Averages over regular windows into memory that the caller brings, as plans do them, against the functional op, forward and backward."""

import numpy as np
import pytest

from fastcnn import functional as F
from fastcnn.backend import use_backend
from fastcnn.backends import cpu
from fastcnn.backends.cpu import _pool


@pytest.fixture(params=cpu.available_isas())
def isa(request):
    before = cpu.isa()
    cpu.set_isa(request.param)
    yield request.param
    cpu.set_isa(before)


CASES = [
    ((2, 3, 8, 8), (2, 2), (2, 2)),
    ((2, 17, 9, 11), (5, 5), (2, 2)),
    ((1, 16, 40, 7), (5, 3), (2, 1)),  # more rows than a piece of backward
    ((3, 5, 70, 6), (3, 2), (5, 3)),  # gaps between windows
    ((2, 33, 7, 7), (7, 7), (7, 7)),  # global
    ((2, 4, 6, 6), (1, 1), (1, 1)),
    ((1, 1, 5, 5), (4, 2), (1, 2)),
    ((0, 4, 6, 6), (2, 2), (2, 2)),
]


def last(shape, dtype, rng=None):
    N, C, H, W = shape
    values = np.zeros((N, H, W, C), dtype) if rng is None else rng.integers(-8, 9, (N, H, W, C)).astype(dtype)
    return values.transpose(0, 3, 1, 2)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize(("shape", "size", "stride"), CASES)
def test_mean_and_its_backward(shape, size, stride, threads, dtype, isa):
    rng = np.random.default_rng(0)
    x = last(shape, dtype, rng)
    with use_backend("reference"):
        expected = F.avg_pool2d(x, size, stride)
    out = last(expected.shape, dtype)
    grad = last(expected.shape, dtype, rng)
    gx = last(shape, dtype, rng)  # whatever was there is written over
    before = cpu.get_num_threads()
    cpu.set_num_threads(threads)
    try:
        _pool.avg_pool2d(x, size, stride, (0, 0), expected.shape[2:], True, None, out=out)
        _pool.avg_pool2d_backward(grad, shape, size, stride, (0, 0), True, None, out=gx)
    finally:
        cpu.set_num_threads(before)
    with use_backend("reference"):
        expected_grad = F.avg_pool2d_backward(grad, x, size, stride)
    tolerance = 1e-5 if dtype == np.float32 else 1e-13
    assert np.allclose(out, expected, rtol=0, atol=tolerance)
    assert np.allclose(gx, expected_grad, rtol=0, atol=tolerance)
