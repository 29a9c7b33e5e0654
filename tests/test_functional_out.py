"""conv2d(out=...): the same bits in the memory that was given, in every format and by every implementation that the lists reach; what cannot be written is
refused."""

import numpy as np
import pytest

import fastcnn
import fastcnn.functional as F
from bench import problems
from fastcnn.shapes import ShapeError

PROBLEMS = {p.name: p for name in ("correctness", "odd") for p in problems.load(name) if p.N * p.C * p.H * p.W * p.O < 10**8}


def channels_last(a):
    return np.ascontiguousarray(a.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)


@pytest.mark.parametrize("problem", PROBLEMS.values(), ids=lambda p: p.name)
def test_the_same_bits_in_given_memory(problem, backend, dtype, rng):
    x, w, b = (rng.standard_normal(shape).astype(dtype) for shape in (problem.input_shape, problem.weight_shape, problem.O))
    if backend == "reference" and problem.flops > 5e7:
        pytest.skip("the reference takes as long as all others together")
    for input in (x, channels_last(x)):
        for bias in (b, None):
            expected = F.conv2d(input, w, bias, **problem.options)
            out = np.full_like(expected, np.nan)
            assert F.conv2d(input, w, bias, **problem.options, out=out) is out
            assert out.tobytes() == expected.tobytes()


def test_single_images_and_nhwc(backend, dtype, rng):
    x, w, b = (rng.standard_normal(shape).astype(dtype) for shape in ((3, 7, 6), (4, 3, 3, 3), 4))
    expected = F.conv2d(x, w, b, padding=1)
    out = np.empty_like(expected)
    assert F.conv2d(x, w, b, padding=1, out=out) is out and np.array_equal(out, expected)
    for channels in (1, 3):
        for shape in ((2, 7, 6, channels), (7, 6, channels)):
            x, w = rng.standard_normal(shape).astype(dtype), rng.standard_normal((3, 3, channels, 4)).astype(dtype)
            expected = F.conv2d(x, w, b, layout="NHWC")
            out = np.empty_like(expected)
            assert F.conv2d(x, w, b, layout="NHWC", out=out) is out and out.tobytes() == expected.tobytes()
    out = np.empty((0, 4, 5, 4), dtype)
    assert F.conv2d(np.empty((0, 3, 7, 6), dtype), np.ones((4, 3, 3, 3), dtype), out=out) is out


def test_algorithm_and_explain_see_calls_with_out(rng):
    pytest.importorskip("fastcnn.backends.cpu", reason="the compiled backend is not built")
    x, w = (rng.standard_normal(shape, dtype=np.float32) for shape in ((4, 32, 12, 12), (32, 32, 3, 3)))
    out = np.empty((4, 32, 10, 10), np.float32)
    assert np.array_equal(F.conv2d(x, w, algorithm="direct", out=out), F.conv2d(x, w, algorithm="direct"))
    seen = []
    fastcnn.backends.cpu.record(lambda op, name, declined: seen.append((op, name)))
    try:
        F.conv2d(x, w, algorithm="winograd", out=out)
        F.conv2d(channels_last(x), w, algorithm="direct", out=channels_last(out))
    finally:
        fastcnn.backends.cpu.record(None)
    assert seen == [("conv2d", "winograd_4x4_3x3"), ("conv2d", "direct")]


def test_what_cannot_be_written_is_refused(backend):
    x, w, b = np.zeros((2, 3, 7, 6), np.float32), np.zeros((4, 3, 3, 3), np.float32), np.zeros(4, np.float32)
    out = np.zeros((2, 4, 5, 4), np.float32)
    frozen = out.copy()
    frozen.flags.writeable = False
    both = np.zeros(2 * 4 * 5 * 4 + 9, np.float32)
    refused = [
        (TypeError, "out must be a NumPy array.*got list", {"out": out.tolist()}),
        (TypeError, "out has dtype float64 but input has float32", {"out": out.astype(np.float64)}),
        (ShapeError, "out has shape 2x4x5x5 but the result has 2x4x5x4", {"out": np.zeros((2, 4, 5, 5), np.float32)}),
        (ShapeError, "out has shape 4x5x4 but the result has 2x4x5x4", {"out": out[0]}),
        (ValueError, "out is read-only", {"out": frozen}),
        (ValueError, "out must be C-contiguous, got strides", {"out": channels_last(out)}),
        (ValueError, "out must be C-contiguous, got strides", {"out": np.zeros((2, 4, 5, 8), np.float32)[..., ::2]}),
        (ValueError, "out must be channels-last as the input is, got strides", {"out": out, "input": channels_last(x)}),
        (ValueError, "out and bias share memory", {"out": both[:160].reshape(2, 4, 5, 4), "bias": both[156:160]}),
        (ValueError, "out must be a C-contiguous 3-D or 4-D array", {"out": out[..., ::2], "layout": "NHWC"}),
        (TypeError, "out must be a NumPy array, got list", {"out": [], "layout": "NHWC"}),
    ]
    for error, message, changed in refused:
        arguments = {"input": x, "weight": w, "bias": b} | changed
        with pytest.raises(error, match=message):
            F.conv2d(**arguments)
    assert not out.any()
