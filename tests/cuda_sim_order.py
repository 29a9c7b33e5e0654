"""Races, looked for in numba's simulator: the threads of a block run in another order, and nothing may change. On a GPU any order can come."""

import random

import numpy as np
import pytest
from cuda_cases import copied, on_device
from functional_cases import CASES
from numba import cuda as numba_cuda

import fastcnn
from fastcnn.backends import cuda
from fastcnn.backends.cuda import _simulator, conv_forward, conv_grad_input, conv_grad_weight
from fastcnn.backends.cuda._device import launch
from fastcnn.backends.cuda.gemm import gemm
from fastcnn.backends.cuda.tiles import Cut, Tile


def backwards(threads):
    return threads[::-1]


def shuffled(threads):
    return random.Random(len(threads)).sample(threads, len(threads))


def assert_no_order_matters(monkeypatch, compute, orders=(backwards, shuffled)):
    expected = [fastcnn.to_host(array) for array in compute()]
    for order in orders:
        monkeypatch.setattr(_simulator, "order", order)
        for array, wanted in zip(compute(), expected, strict=True):
            assert fastcnn.to_host(array).tobytes() == np.asarray(wanted).tobytes(), order.__name__


def is_array(value):
    return isinstance(value, np.ndarray) or fastcnn.backend.on_device(value)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_functional_table(case, monkeypatch):
    arrays, others = case.make(np.dtype(np.float32))
    with fastcnn.use_backend("reference"):
        expected = case.forward(copied(arrays), copied(others))

    def compute():
        with fastcnn.use_backend("cuda"):
            there, more = on_device(arrays), on_device(others)
            output = case.forward(there, more)
            grad = 0.7  # of a loss
            if isinstance(expected, np.ndarray):
                grad = fastcnn.to_device(np.random.default_rng(1).standard_normal(expected.shape).astype(np.float32))
            return [value for value in (output, *case.backward(grad, there, more)) if is_array(value)]

    assert_no_order_matters(monkeypatch, compute, [shuffled])


@pytest.mark.parametrize("chosen", [Cut(Tile(16, 8, 4, 4), 2), Cut(Tile(32, 16, 4, 8), 1)], ids=["16x8-in-2", "32x16"])
def test_tiled_products(chosen, monkeypatch):
    rng = np.random.default_rng(0)
    options = (2, 1), ((1, 1), (1, 0)), (1, 1), 1
    x, w = rng.standard_normal((2, 3, 5, 6)).astype(np.float32), rng.standard_normal((17, 3, 3, 2)).astype(np.float32)
    g = rng.standard_normal((2, 17, 3, 6)).astype(np.float32)
    xd, wd, gd = map(cuda.to_device, (x, w, g))

    def compute():
        return [
            conv_forward.conv2d(xd, wd, None, *options, activation="relu", chosen=chosen),
            conv_grad_input.conv2d_grad_input(gd, wd, x.shape, *options, chosen=chosen),
            conv_grad_weight.conv2d_grad_weight(gd, xd, w.shape, *options, chosen=chosen),
            gemm(wd.reshape(17, 18), gd.reshape(17, 36), False, False, 18, 36, 17, chosen=Cut(Tile(16, 16, 4, 4), chosen.pieces)),
        ]

    assert_no_order_matters(monkeypatch, compute)


@numba_cuda.jit
def turned_round(array, with_barrier):
    """Each thread takes the number of its opposite one; without a barrier half of these have been overwritten."""
    thread = numba_cuda.threadIdx.x
    opposite = array[7 - thread]
    if with_barrier:
        numba_cuda.syncthreads()
    array[thread] = opposite


@numba_cuda.jit
def barrier_for_some(array):
    if numba_cuda.threadIdx.x < 3:
        numba_cuda.syncthreads()


@numba_cuda.jit
def failing(array):
    numba_cuda.syncthreads()
    array[numba_cuda.threadIdx.x + 5] = 0


def test_a_race_is_found(monkeypatch):
    def run(with_barrier):
        array = cuda.to_device(np.arange(8))
        launch(turned_round, 1, 8, array, with_barrier)
        return [array]

    assert_no_order_matters(monkeypatch, lambda: run(True))
    np.testing.assert_array_equal(cuda.to_host(run(True)[0]), np.arange(8)[::-1])
    monkeypatch.setattr(_simulator, "order", list)
    with pytest.raises(AssertionError, match="backwards"):
        assert_no_order_matters(monkeypatch, lambda: run(False))


def test_a_barrier_that_some_threads_never_reach_is_an_error():
    with pytest.raises(RuntimeError, match="barrier_for_some: 5 threads of a block have ended, 3 wait at a barrier for them"):
        launch(barrier_for_some, 1, 8, cuda.to_device(np.zeros(8)))


def test_what_a_thread_raises_is_raised_by_the_launch():
    with pytest.raises(IndexError):
        launch(failing, 2, 8, cuda.to_device(np.zeros(8)))
