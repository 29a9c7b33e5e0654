"""What hand-written code takes for granted and a fast backend easily breaks: one test per habit, on fastcnn.functional and on the functions of cs231n."""

import importlib
import sys

import numpy as np
import pytest
from courses import copied, importable

import fastcnn
import fastcnn.functional as F
from bench.courses.cs231n import layers as slow
from fastcnn.compat import cs231n

CONV = {"stride": 1, "pad": 1}
POOL = {"pool_height": 2, "pool_width": 2, "stride": 2}


@pytest.fixture(autouse=True)
def threads():
    before = fastcnn.get_num_threads()
    fastcnn.set_num_threads(2)
    yield
    fastcnn.set_num_threads(before)


def run(x, w, b, dout=None):
    """Everything that a convolution and a pool return, forward and backward, of cs231n."""
    out, cache = cs231n.conv_forward_fast(x, w, b, CONV)
    pooled, pool_cache = cs231n.max_pool_forward_fast(out, POOL)
    dpooled = np.ones_like(pooled) if dout is None else dout
    return [out, pooled, *cs231n.conv_backward_fast(cs231n.max_pool_backward_fast(dpooled, pool_cache), cache)]


def arrays(rng, dtype=np.float64, N=3):
    return [rng.standard_normal(shape).astype(dtype) for shape in ((N, 3, 8, 6), (5, 3, 3, 3), (5,))]


# R1: dtypes


@pytest.mark.parametrize("x_dtype,w_dtype,expected", [
    (np.float64, np.float64, np.float64), (np.float32, np.float32, np.float32), (np.float64, np.float32, np.float64), (np.float32, np.float64, np.float64),
    (np.uint8, np.float32, np.float32), (np.int64, np.float32, np.float64), (np.int64, np.int64, np.float64), (np.float16, np.float32, np.float32),
])  # fmt: skip
def test_r1_results_have_the_dtype_that_numpy_gives(x_dtype, w_dtype, expected, rng):
    x, w, b = ((a * 4).astype(t) for a, t in zip(arrays(rng), (x_dtype, w_dtype, w_dtype), strict=True))
    x = np.abs(x)
    if np.dtype(x_dtype).kind == np.dtype(w_dtype).kind == "f":
        assert np.result_type(x, w) == expected
    wide = [a.astype(np.float64) for a in (x, w, b)]
    for result, exact in zip(run(x, w, b), run(*wide), strict=True):
        assert result.dtype == expected
        np.testing.assert_allclose(result, exact, rtol=0, atol=(1e-9 if expected == np.float64 else 2e-4) * max(1, np.abs(exact).max()))


def test_r1_functional_casts_nothing(rng):
    x, w, _ = arrays(rng)
    with pytest.raises(TypeError, match="conv2d: weight is float32 but input is float64; nothing is cast"):
        F.conv2d(x, w.astype(np.float32))


def test_r1_float64_runs_in_the_same_kernels_and_passes_a_numerical_gradient_check(rng):
    x, w, b = arrays(rng)
    assert "reference" not in {d.chosen for d in fastcnn.explain("conv2d", x, w, b).dispatches} or fastcnn.backend.current().name == "reference"
    dout = rng.standard_normal((3, 5, 8, 6))
    _, cache = cs231n.conv_forward_naive(x, w, b, CONV)
    grads = cs231n.conv_backward_naive(dout, cache)
    h = 1e-5
    for array, grad in zip((x, w, b), grads, strict=True):
        for at in [tuple(rng.integers(0, n) for n in array.shape) for _ in range(4)]:
            kept, ends = array[at], []
            for step in (h, -h):
                array[at] = kept + step
                ends.append((cs231n.conv_forward_naive(x, w, b, CONV)[0] * dout).sum())
            array[at] = kept
            assert abs((ends[0] - ends[1]) / (2 * h) - grad[at]) <= 1e-8 * max(1, abs(grad[at]))


# R2: bits


@pytest.mark.parametrize("N", [1, 7, 37])
@pytest.mark.parametrize("shape,filters", [((1, 28, 28), (6, 1, 5, 5)), ((3, 13, 17), (10, 3, 3, 3)), ((16, 9, 9), (24, 16, 3, 3)), ((2, 40, 7), (1, 2, 7, 7))])
def test_r2_identical_patches_give_identical_bits(shape, filters, N, dtype, rng):
    """A constant image: every output away from the border is one number, wherever it lies, in whichever image of the batch, on however many threads."""
    levels = rng.standard_normal(shape[0])[:, None, None]
    x = np.broadcast_to(levels, (N, *shape)).astype(dtype)
    w, b = rng.standard_normal(filters).astype(dtype), rng.standard_normal(filters[0]).astype(dtype)
    results = []
    for count in (1, 2):
        fastcnn.set_num_threads(count)
        for pad in (0, filters[2] // 2):
            out, _ = cs231n.conv_forward_fast(x, w, b, {"stride": 1, "pad": pad})
            inner = out[:, :, pad : out.shape[2] - pad or None, pad : out.shape[3] - pad or None]
            assert np.array_equal(inner, np.broadcast_to(inner[:1, :, :1, :1], inner.shape))
            results.append(inner[0, :, 0, 0])
        assert np.array_equal(out, np.broadcast_to(out[:1], out.shape))  # the same image gives the same map
    for value in results[1:]:  # with another padding another kernel may sum in another order
        np.testing.assert_allclose(value, results[0], rtol=0, atol=64 * np.finfo(dtype).eps * np.abs(results[0]).max())
    assert np.array_equal(results[1], results[3]) and np.array_equal(results[0], results[2])


def test_r2_shifted_content_gives_the_same_bits_shifted(rng):
    x = np.zeros((2, 1, 24, 24), np.float32)
    stroke = rng.random((5, 5), dtype=np.float32)
    x[0, 0, 3:8, 4:9], x[1, 0, 15:20, 13:18] = stroke, stroke
    w, b = rng.standard_normal((6, 1, 5, 5)).astype(np.float32), np.full(6, 0.1, np.float32)
    out, _ = cs231n.conv_forward_fast(x, w, b, {"stride": 1, "pad": 0})
    assert np.array_equal(out[0, :, :8, :9], out[1, :, 12:20, 9:18])


# R3: ties, NaN


def test_r3_every_rule_for_ties_and_overlaps():
    x = np.array([[[1.0, 1.0, 0.0], [1.0, 1.0, 1.0], [0.0, 1.0, 1.0]]])
    g = np.array([[[4.0, 8.0], [12.0, 16.0]]])
    expected = {
        ("first", True): [[4, 8, 0], [12, 16, 0], [0, 0, 0]],
        ("first", False): [[4, 8, 0], [12, 16, 0], [0, 0, 0]],
        ("all", True): [[4, 12, 0], [16, 40, 24], [0, 28, 16]],
        ("all", False): [[4, 8, 0], [12, 16, 16], [0, 16, 16]],
    }
    for (ties, accumulate), wanted in expected.items():
        np.testing.assert_array_equal(F.max_pool2d_backward(g, x, 2, 1, ties=ties, accumulate=accumulate)[0], wanted)
    shares = F.max_pool2d_backward(g, x, 2, 1, ties="split")[0]
    np.testing.assert_allclose(shares, [[1, 1 + 8 / 3, 0], [1 + 4, 1 + 8 / 3 + 4 + 4, 8 / 3 + 4], [0, 4 + 4, 4]])


def test_r3_a_maximum_with_nan_is_numpys():
    x = np.array([[[[1.0, np.nan], [3.0, 2.0]]]])
    for forward in (cs231n.max_pool_forward_naive, cs231n.max_pool_forward_fast):
        assert np.isnan(forward(x, POOL)[0]).all() and np.isnan(np.max(x))


# R4, R7: results belong to the caller, arguments to the caller too


def test_r4_results_are_fresh_writable_and_nobody_elses(rng):
    x, w, b = arrays(rng)
    first, second = run(x, w, b), run(x, w, b)
    for result in first:
        assert result.flags.writeable and result.flags.c_contiguous
        assert not any(np.shares_memory(result, other) for other in (x, w, b, *second, *(o for o in first if o is not result)))
        result[...] = 7  # `conv1[conv1 <= 0] = 0` and the like
    for again, wanted in zip(run(x, w, b), second, strict=True):
        np.testing.assert_array_equal(again, wanted)


def test_r4_what_is_kept_is_not_spoilt_by_writing_into_the_output(rng):
    x, w, b = arrays(rng)
    dout = rng.standard_normal((3, 5, 8, 6))
    out, cache = cs231n.conv_forward_fast(x, w, b, CONV)
    wanted = cs231n.conv_backward_fast(dout, cache)
    out[out <= 0] = 0
    for grad, value in zip(cs231n.conv_backward_fast(dout, cache), wanted, strict=True):
        np.testing.assert_array_equal(grad, value)


def test_r7_arguments_are_not_modified(rng):
    x, w, b = arrays(rng)
    dout = rng.standard_normal((3, 5, 4, 3))
    held = [a.copy() for a in (x, w, b, dout)]
    for a in (x, w, b, dout):
        a.flags.writeable = False
    run(x, w, b, dout)
    rows = x.reshape(3, -1)
    for a, before in zip((x, w, b, dout), held, strict=True):
        np.testing.assert_array_equal(a, before)
    weights = rng.standard_normal((rows.shape[1], 4))
    weights.flags.writeable = False
    out, cache = cs231n.affine_relu_forward(x, weights, np.zeros(4))
    out.flags.writeable = False
    cs231n.affine_relu_backward(out, cache)
    out, cache = cs231n.spatial_batchnorm_forward(x, np.ones(3), np.zeros(3), {"mode": "train"})
    cs231n.spatial_batchnorm_backward(x, cache)


# R5: no caching by identity


def test_r5_weights_updated_in_place_or_replaced_are_seen(rng):
    x, w, b = arrays(rng)
    before, _ = cs231n.conv_forward_fast(x, w, b, CONV)
    w -= 0.5 * w  # DLFS, Numpy-CNN
    b *= 0.5
    after, cache = cs231n.conv_forward_fast(x, w, b, CONV)
    np.testing.assert_allclose(after, before / 2, rtol=0, atol=1e-12)
    w *= 0
    dx, _, _ = cs231n.conv_backward_fast(np.ones_like(after), cache)
    assert not dx.any()  # the cache holds the array, not what was in it: as in the course


# R6: strides


def views(a):
    """The same numbers in other strides."""
    yield np.asfortranarray(a)
    yield a[::-1].copy()[::-1]
    yield np.ascontiguousarray(a.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    wide = np.zeros([2 * n for n in a.shape], a.dtype)
    inner = tuple(slice(1, None, 2) for _ in a.shape)
    wide[inner] = a
    yield wide[inner]
    yield a.transpose(0, 2, 3, 1)[:, :, :, list(range(a.shape[1]))].transpose(0, 3, 1, 2)  # fancy-indexed channels
    yield a.astype(a.dtype.newbyteorder())


def test_r6_any_strides(rng):
    x, w, b = arrays(rng)
    expected = run(x, w, b)
    for x_view, w_view in zip(views(x), views(w), strict=True):
        for result, wanted in zip(run(x_view, w_view, b), expected, strict=True):
            np.testing.assert_allclose(result, wanted, rtol=0, atol=1e-11)
    dout = rng.standard_normal((3, 5, 8, 6))
    _, cache = cs231n.conv_forward_fast(x, w, b, CONV)
    expected = cs231n.conv_backward_fast(dout, cache)
    for view in views(dout):
        for result, wanted in zip(cs231n.conv_backward_fast(view, cache), expected, strict=True):
            np.testing.assert_allclose(result, wanted, rtol=0, atol=1e-11)
    flat = np.broadcast_to(np.float64(1), dout.shape)  # what sum().backward() gives: strides of 0
    for result, wanted in zip(cs231n.conv_backward_fast(flat, cache), cs231n.conv_backward_fast(np.ones(dout.shape), cache), strict=True):
        np.testing.assert_allclose(result, wanted, rtol=0, atol=1e-11)
    channel = dout[:, 2:3]
    for result, wanted in zip(run(channel, w[:, :1], b), run(channel.copy(), w[:, :1].copy(), b), strict=True):
        np.testing.assert_allclose(result, wanted, rtol=0, atol=1e-11)


# R8: windows that leave a rest


def test_r8_a_rest_is_left_out_or_asserted(rng):
    x, w, b = arrays(rng)
    param = {"stride": 3, "pad": 0}
    out, cache = cs231n.conv_forward_fast(x, w, b, param)
    expected, kept = slow.conv_forward_naive(x, w, b, param)
    assert out.shape == (3, 5, 2, 2)
    np.testing.assert_allclose(out, expected, rtol=0, atol=1e-9)
    for grad, wanted in zip(cs231n.conv_backward_fast(out, cache), slow.conv_backward_naive(out, kept), strict=True):
        np.testing.assert_allclose(grad, wanted, rtol=0, atol=1e-9)
    assert F.max_pool2d(x, 3).shape == (3, 3, 2, 2) == F.conv2d(x, np.ones((3, 3, 3, 3)), stride=3).shape
    with pytest.raises(AssertionError):
        cs231n.conv_forward_im2col(x, w, b, param)
    with fastcnn.compat.strict_windows(), pytest.raises(AssertionError):
        cs231n.conv_forward_fast(x, w, b, param)
    fastcnn.compat.strict_windows()
    with pytest.raises(AssertionError):
        cs231n.max_pool_forward_fast(x[:, :, :7], POOL)
    fastcnn.compat.strict_windows(False)
    assert cs231n.max_pool_forward_fast(x[:, :, :7], POOL)[0].shape == (3, 3, 3, 3)


# R9: one image


def test_r9_single_images(rng):
    x, w, b = arrays(rng, N=1)
    np.testing.assert_array_equal(F.conv2d(x[0], w, b), F.conv2d(x, w, b)[0])
    np.testing.assert_array_equal(F.max_pool2d(x[0], 2), F.max_pool2d(x, 2)[0])
    g = F.conv2d(x, w)
    for grad, wanted in zip(F.conv2d_backward(g[0], x[0], w), F.conv2d_backward(g, x, w), strict=True):
        np.testing.assert_array_equal(grad, wanted[0] if grad.ndim == 3 else wanted)
    hwc = np.ascontiguousarray(x[0].transpose(1, 2, 0))
    np.testing.assert_allclose(F.conv2d(hwc, w.transpose(2, 3, 1, 0), b, layout="NHWC").transpose(2, 0, 1), F.conv2d(x[0], w, b), rtol=0, atol=1e-12)
    assert F.max_pool2d_backward(F.max_pool2d(x[0], 2), x[0], 2, ties="all").shape == x[0].shape


# R10: no gradient for nobody


def test_r10_need_dx(rng):
    x, w, b = arrays(rng)
    out, cache = cs231n.conv_forward_fast(x, w, b, CONV)
    with fastcnn.recording() as dispatches:
        dx, dw, db = cs231n.conv_backward_fast(out, cache, need_dx=False)
    assert dx is None and dw.shape == w.shape and db.shape == b.shape
    assert "conv2d_grad_input" not in {d.op for d in dispatches}


# R11: the cache


def test_r11_the_cache_begins_with_the_courses_own_fields(rng):
    x, w, b = arrays(rng)
    param, pool_param = dict(CONV), dict(POOL)
    for variant in ("naive", "fast", "strides", "im2col"):
        _, cache = getattr(cs231n, f"conv_forward_{variant}")(x, w, b, param)
        assert type(cache) is tuple and len(cache) == (4 if variant == "naive" else 5)
        for field, given in zip(cache, (x, w, b, param), strict=False):
            assert field is given
    _, cache = cs231n.max_pool_forward_naive(x, pool_param)
    assert type(cache) is tuple and cache[0] is x and cache[1] is pool_param and len(cache) == 2
    _, (method, (kept, windows, out)) = cs231n.max_pool_forward_fast(x, pool_param)
    assert method == "reshape" and kept is x and windows.shape == (3, 3, 4, 2, 3, 2) and np.shares_memory(windows, x) and out.shape == (3, 3, 4, 3)
    _, (fields) = cs231n.affine_forward(x, np.ones((144, 2)), np.ones(2))
    assert fields[0] is x and len(fields) == 3
    assert cs231n.relu_forward(x)[1] is x


# R12: shapes of one element


def test_r12_small_shapes_stay_arrays(rng):
    x, w = rng.standard_normal((1, 1, 3, 3)), rng.standard_normal((1, 1, 3, 3))
    for b in (np.ones(1), np.ones((1, 1)), np.ones((1, 1, 1, 1))):
        out = F.conv2d(x, w, b)
        assert type(out) is np.ndarray and out.shape == (1, 1, 1, 1)
        grads = F.conv2d_backward(out, x, w, bias=b)
        assert [g.shape for g in grads] == [x.shape, w.shape, b.shape] and all(type(g) is np.ndarray for g in grads)
    out, cache = cs231n.conv_forward_naive(x, w, np.ones(1), {"stride": 1, "pad": 0})
    assert type(out) is np.ndarray and cs231n.conv_backward_naive(out, cache)[2].shape == (1,)
    loss, _ = cs231n.softmax_loss(np.zeros((1, 4)), np.array([2]))
    assert np.ndim(loss) == 0 and float(loss) == pytest.approx(np.log(4))


# R13: rebinding


@pytest.mark.parametrize("when", ["before", "after"])
def test_r13_star_imported_names_are_rebound(when, tmp_path):
    (tmp_path / "script_of_somebody.py").write_text("from cs231n.fast_layers import *\nfrom cs231n.classifiers.cnn import *\n")
    with importable(copied("cs231n", tmp_path), "cs231n", "script_of_somebody"):
        try:
            if when == "after":
                importlib.import_module("script_of_somebody")
                cs231n.install()
            else:
                cs231n.install()
                importlib.import_module("script_of_somebody")
            for name in ("script_of_somebody", "cs231n.classifiers.cnn", "cs231n.layer_utils"):
                assert sys.modules[name].conv_forward_fast.__module__.startswith("fastcnn.compat")
        finally:
            cs231n.uninstall()
        assert sys.modules["script_of_somebody"].conv_forward_fast.__module__ == "cs231n.fast_layers"
        assert sys.modules["script_of_somebody"].affine_relu_forward.__module__ == "cs231n.layer_utils"
