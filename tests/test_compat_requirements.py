"""What every course's code relies on without saying so, for each compat module: dtypes, bits, aliasing, strides, in-place changes, remainders, odd shapes."""

import sys
import warnings
from types import SimpleNamespace

import numpy as np
import pytest

import fastcnn
from fastcnn.backend import recording
from fastcnn.compat import coursera, dlfs, lenet_scratch, mytorch, numpy_cnn, strict_windows

TOLERANCE = 1e-9


# --- the convolutions and pools of five courses under one signature: arrays in the course's own layout -------------------------------


def _nchw(x):
    return x


def _nhwc(x):
    return np.ascontiguousarray(x.transpose(0, 2, 3, 1))


def _chw(x):
    return np.ascontiguousarray(x[0])


def _dlfs_conv(x, w, b, stride, pad):
    layer = dlfs.Convolution(w, b, stride, pad)
    out = layer.forward(x)
    return out, lambda dout: (layer.backward(dout), layer.dW, layer.db)


def _coursera_conv(x, w, b, stride, pad):
    out, cache = coursera.conv_forward(x, w, b, {"stride": stride, "pad": pad})
    return out, lambda dout: coursera.conv_backward(dout, cache)


def _mytorch_conv(x, w, b, stride, pad):
    layer = mytorch.Conv2d(w.shape[1], w.shape[0], w.shape[2], stride, pad, lambda *_: w, lambda _: b)
    inner = layer.conv2d_stride1

    def backward(dout):
        inner.dLdW = inner.dLdb = None  # as a step of the optimizer does: they add up
        return layer.backward(dout), inner.dLdW, inner.dLdb

    return layer.forward(x), backward


def _numpy_cnn_conv(x, w, b, stride, pad):
    assert not pad
    return numpy_cnn.convolution(x, w, b, stride), lambda dout: numpy_cnn.convolutionBackward(dout, x, w, stride)


def _lenet_conv(x, w, b, stride, pad):
    layer = lenet_scratch.ConvolveLayer(w.shape, stride, pad)
    layer.W, layer.b = w, b

    def backward(dout):
        layer.W, layer.b, layer.v_W, layer.v_b = w, b, np.zeros_like(w), np.zeros_like(b)
        dx = layer.backward_prop(dout, -1.0, 0.0)  # the velocities are then the gradients
        return dx, layer.v_W, layer.v_b

    return layer.forward_prop(x), backward


CONVS = {
    "dlfs": SimpleNamespace(run=_dlfs_conv, image=_nchw, weight=_nchw, bias=lambda b: b, nchw=_nchw),
    "coursera": SimpleNamespace(
        run=_coursera_conv,
        image=_nhwc,
        weight=lambda w: np.ascontiguousarray(w.transpose(2, 3, 1, 0)),
        bias=lambda b: b.reshape(1, 1, 1, -1),
        nchw=lambda x: x.transpose(0, 3, 1, 2),
    ),
    "mytorch": SimpleNamespace(run=_mytorch_conv, image=_nchw, weight=_nchw, bias=lambda b: b, nchw=_nchw),
    "numpy_cnn": SimpleNamespace(run=_numpy_cnn_conv, image=_chw, weight=_nchw, bias=lambda b: b.reshape(-1, 1), nchw=lambda x: x[None]),
    "lenet_scratch": SimpleNamespace(run=_lenet_conv, image=_nchw, weight=_nchw, bias=lambda b: b.reshape(1, -1, 1, 1), nchw=_nchw),
}


def _layer_pool(make, forward, backward):
    def run(x, f, s):
        layer = make(f, s)
        return getattr(layer, forward)(x), getattr(layer, backward)

    return run


def _coursera_pool(mode):
    def run(x, f, s):
        out, cache = coursera.pool_forward(x, {"f": f, "stride": s}, mode)
        return out, lambda dout: coursera.pool_backward(dout, cache, mode)

    return run


POOLS = {
    "dlfs": (_nchw, _layer_pool(lambda f, s: dlfs.Pooling(f, f, s), "forward", "backward"), "first"),
    "coursera": (_nhwc, _coursera_pool("max"), "all"),
    "coursera average": (_nhwc, _coursera_pool("average"), None),
    "mytorch": (_nchw, _layer_pool(mytorch.MaxPool2d, "forward", "backward"), "first"),
    "mytorch mean": (_nchw, _layer_pool(mytorch.MeanPool2d, "forward", "backward"), None),
    "numpy_cnn": (_chw, lambda x, f, s: (numpy_cnn.maxpool(x, f, s), lambda d: numpy_cnn.maxpoolBackward(d, x, f, s)), "first"),
    "lenet_scratch": (_nchw, _layer_pool(lambda f, s: lenet_scratch.MaxpoolLayer(f), "forward_prop", "backward_prop"), "all"),
}
conv = pytest.mark.parametrize("name", CONVS)
pool = pytest.mark.parametrize("name", POOLS)


def problem(rng, name, dtype=np.float64, C=3, O=4, K=3, size=(7, 8), N=2):
    course = CONVS[name]
    x, w, b = rng.standard_normal((N, C, *size)), rng.standard_normal((O, C, K, K)), rng.standard_normal(O)
    return [np.asarray(a).astype(dtype) for a in (course.image(x), course.weight(w), course.bias(b))]


# --- dtypes: float64 stays float64 and runs on compiled kernels; mixtures follow NumPy ----------------------------------------------


@conv
@pytest.mark.parametrize("image", [np.float64, np.float32, np.uint8, np.int64, np.bool_, np.float16])
@pytest.mark.parametrize("weight", [np.float64, np.float32])
def test_dtypes_mix_as_in_numpy(rng, name, image, weight):
    x, w, b = problem(rng, name)
    x = np.abs(x * 2).astype(image)
    w, b = w.astype(weight), b.astype(weight)
    expected = np.result_type(image, weight)
    out, backward = CONVS[name].run(x, w, b, 1, 0)
    assert out.dtype == expected
    reference, _ = CONVS[name].run(x.astype(np.float64), w.astype(np.float64), b.astype(np.float64), 1, 0)
    np.testing.assert_allclose(out, reference, rtol=0, atol=TOLERANCE if expected == np.float64 else 1e-5)
    dx, dw, db = backward(np.ones(out.shape, out.dtype))
    assert dx.dtype == dw.dtype == db.dtype == expected


@conv
def test_integers_alone_become_float64(rng, name):
    x, w, b = (np.round(a * 3).astype(np.int32) for a in problem(rng, name))
    out, backward = CONVS[name].run(x, w, b, 1, 0)
    assert out.dtype == np.float64
    assert (out == np.round(out)).all()
    assert all(g.dtype == np.float64 for g in backward(np.ones(out.shape, np.int64)))


@pool
def test_pools_keep_the_dtype(rng, name):
    layout, run, _ = POOLS[name]
    for dtype, expected in ((np.float32, np.float32), (np.float64, np.float64), (np.int64, np.float64)):
        x = (layout(rng.standard_normal((2, 3, 6, 6))) * 5).astype(dtype)
        out, backward = run(x, 2, 2)
        assert out.dtype == expected and backward(out).dtype == expected


@conv
def test_complex_numbers_are_refused(rng, name):
    x, w, b = problem(rng, name)
    with pytest.raises(TypeError, match="takes real numbers of at most 64 bits, got an array of complex128"):
        CONVS[name].run(x + 0j, w, b, 1, 0)


@conv
def test_float64_runs_on_compiled_kernels(rng, name):
    if fastcnn.backend.current().name != "cpu":
        pytest.skip("the compiled backend is not built")
    with recording() as dispatches:
        out, backward = CONVS[name].run(*problem(rng, name), 1, 0)
        backward(out)
    assert {d.op for d in dispatches} >= {"conv2d", "conv2d_grad_input", "conv2d_grad_weight"}
    assert not [d for d in dispatches if "reference" in d.chosen]


# --- bits -------------------------------------------------------------------------------------------------------------------------


@conv
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("C", "O", "K"), [(16, 16, 3), (1, 6, 5), (3, 5, 3), (32, 33, 1)])
def test_identical_patches_give_identical_bits(rng, name, dtype, C, O, K):
    """A picture that repeats itself every four pixels, at odd sizes: every output repeats too, in every image, at any number of threads."""
    if fastcnn.backend.current().name != "cpu":
        pytest.skip("the reference adds in the order of NumPy's BLAS")
    course = CONVS[name]
    tile = rng.standard_normal((1, C, 4, 4))
    x = np.tile(tile, (5, 1, 9, 9))[:, :, :33, :35].astype(dtype)
    _, w, b = problem(rng, name, dtype, C, O, K)
    threads = fastcnn.get_num_threads()
    try:
        outs = []
        for n in (1, 2, 3):
            fastcnn.set_num_threads(n)
            outs.append(course.run(course.image(x), w, b, 1, 0)[0])
    finally:
        fastcnn.set_num_threads(threads)
    assert all((out == outs[0]).all() for out in outs[1:])
    out = course.nchw(outs[0])
    assert (out == out[:1]).all()
    assert (out[:, :, 4:] == out[:, :, :-4]).all() and (out[:, :, :, 4:] == out[:, :, :, :-4]).all()


# --- pooling ----------------------------------------------------------------------------------------------------------------------


@pool
def test_the_tie_rule(name):
    layout, run, ties = POOLS[name]
    x = layout(np.array([[5.0, 5, 1, 2], [0, 5, 2, 2]]).reshape(1, 1, 2, 4))
    _, backward = run(x, 2, 2)
    dx = backward(layout(np.array([12.0, 20]).reshape(1, 1, 1, 2))).reshape(2, 4)
    expected = {
        "first": [[12, 0, 0, 20], [0, 0, 0, 0]],
        "all": [[12, 12, 0, 20], [0, 12, 20, 20]],
        None: [[3, 3, 5, 5], [3, 3, 5, 5]],
    }[ties]
    np.testing.assert_array_equal(dx, expected)


@pool
def test_nan_propagates_as_in_numpy(rng, name):
    layout, run, _ = POOLS[name]
    x = rng.standard_normal((1, 1, 4, 4))
    x[0, 0, 1, 2] = np.nan
    out, _ = run(layout(x), 2, 2)
    np.testing.assert_array_equal(np.isnan(out.reshape(2, 2)), [[False, True], [False, False]])


# --- buffers ----------------------------------------------------------------------------------------------------------------------


@conv
def test_results_are_fresh_writable_and_nobody_elses(rng, name):
    arrays = problem(rng, name)
    out, backward = CONVS[name].run(*arrays, 1, 0)
    dout = rng.standard_normal(out.shape)
    results = [out, *backward(dout)]
    kept = [a.copy() for a in results]
    everything = [*results, *arrays, dout]
    for i, result in enumerate(results):
        assert result.flags.writeable
        assert not any(np.shares_memory(result, other) for j, other in enumerate(everything) if j != i)
    for result in results:
        result[...] = 77
    again, backward = CONVS[name].run(*arrays, 1, 0)
    for ours, theirs in zip([again, *backward(dout)], kept, strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pool
def test_pools_keep_nothing_that_they_returned(rng, name):
    layout, run, _ = POOLS[name]
    x = layout(rng.standard_normal((2, 3, 6, 6)))
    out, backward = run(x, 2, 2)
    expected = backward(out.copy())
    dout = out.copy()
    out[...] = -5
    got = backward(dout)
    np.testing.assert_array_equal(got, expected)
    assert got.flags.writeable and not np.shares_memory(got, dout) and not np.shares_memory(got, x)


@conv
def test_weights_changed_in_place_or_rebound_are_seen(rng, name):
    """Optimizers of DLFS and Numpy-CNN write into the array, those of mytorch and LeNet make a new one: memory at the same address, other values."""
    x, w, b = problem(rng, name)
    first, _ = CONVS[name].run(x, w, b, 1, 0)
    w *= 2
    b *= 2
    np.testing.assert_allclose(CONVS[name].run(x, w, b, 1, 0)[0], 2 * first, rtol=0, atol=TOLERANCE)
    np.testing.assert_allclose(CONVS[name].run(x, w / 2, b / 2, 1, 0)[0], first, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("layer", [dlfs.Convolution, mytorch.Conv2d_stride1, lenet_scratch.ConvolveLayer, dlfs.Affine, lenet_scratch.FullyConnectedLayer])
def test_a_layer_reads_its_weights_at_every_call(rng, layer):
    if layer is mytorch.Conv2d_stride1:
        made = layer(2, 3, 3)
    elif layer is lenet_scratch.ConvolveLayer:
        made = layer((3, 2, 3, 3))
    elif layer is lenet_scratch.FullyConnectedLayer:
        made = layer((50, 3))
    else:
        made = layer(rng.standard_normal((50, 3) if layer is dlfs.Affine else (3, 2, 3, 3)), np.zeros(3))
    x = rng.standard_normal((4, 50) if made.W.ndim == 2 else (4, 2, 5, 5))
    forward = getattr(made, "forward", None) or made.forward_prop
    made.b = made.b * 0
    first = forward(x)
    made.W *= 3
    np.testing.assert_allclose(forward(x), 3 * first, rtol=0, atol=TOLERANCE)
    made.W = made.W / 3
    np.testing.assert_allclose(forward(x), first, rtol=0, atol=TOLERANCE)


# --- strides and side effects -------------------------------------------------------------------------------------------------------


def disguises(a):
    """The same values under other strides, byte orders and alignments."""
    yield "fortran", np.asfortranarray(a)
    yield "transposed", np.ascontiguousarray(a.T).T
    yield "reversed", np.ascontiguousarray(a[..., ::-1])[..., ::-1]
    yield "reversed first", np.ascontiguousarray(a[::-1])[::-1]
    wide = np.zeros((*a.shape[:-1], 2 * a.shape[-1]), a.dtype)
    wide[..., ::2] = a
    yield "every other", wide[..., ::2]
    yield "fancy", np.moveaxis(np.moveaxis(a, 1, -1)[..., np.arange(a.shape[1])], -1, 1)
    yield "big-endian", a.astype(a.dtype.newbyteorder(">"))
    raw = np.zeros(a.nbytes + 1, np.uint8)[1:].view()
    unaligned = np.ndarray(a.shape, a.dtype, buffer=raw.data)
    unaligned[...] = a
    yield "unaligned", unaligned


@conv
def test_any_strides_and_nothing_is_written(rng, name):
    x, w, b = problem(rng, name)
    out, backward = CONVS[name].run(x, w, b, 1, 0)
    dout = rng.standard_normal(out.shape)
    expected = [out, *backward(dout)]
    for (kind, odd_x), (_, odd_w), (_, odd_dout) in zip(disguises(x), disguises(w), disguises(dout), strict=True):
        before = [a.copy() for a in (odd_x, odd_w, odd_dout)]
        for a in (odd_x, odd_w, odd_dout, b):
            a.flags.writeable = False
        out, backward = CONVS[name].run(odd_x, odd_w, b, 1, 0)
        for ours, theirs in zip([out, *backward(odd_dout)], expected, strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=0, atol=TOLERANCE, err_msg=kind)
        for now, then in zip((odd_x, odd_w, odd_dout), before, strict=True):
            np.testing.assert_array_equal(now, then)


@conv
def test_a_gradient_of_stride_0(rng, name):
    x, w, b = problem(rng, name)
    out, backward = CONVS[name].run(x, w, b, 1, 0)
    expected = backward(np.ones(out.shape))
    for ours, theirs in zip(backward(np.broadcast_to(np.float64(1), out.shape)), expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=TOLERANCE)


@pool
def test_pools_read_any_strides(rng, name):
    layout, run, _ = POOLS[name]
    x = layout(rng.standard_normal((2, 3, 6, 6)))
    out, backward = run(x, 2, 2)
    dout = rng.standard_normal(out.shape)
    expected = backward(dout)
    for (kind, odd_x), (_, odd_dout) in zip(disguises(x), disguises(dout), strict=True):
        before = odd_x.copy(), odd_dout.copy()
        odd_x.flags.writeable = odd_dout.flags.writeable = False
        again, backward = run(odd_x, 2, 2)
        np.testing.assert_allclose(again, out, rtol=0, atol=TOLERANCE, err_msg=kind)
        np.testing.assert_allclose(backward(odd_dout), expected, rtol=0, atol=TOLERANCE, err_msg=kind)
        np.testing.assert_array_equal(odd_x, before[0])
        np.testing.assert_array_equal(odd_dout, before[1])


# --- remainders and edges of size ----------------------------------------------------------------------------------------------------


@conv
def test_what_a_stride_leaves_over_is_ignored_or_an_error(rng, name):
    x, w, b = problem(rng, name, size=(8, 8))
    out, backward = CONVS[name].run(x, w, b, 2, 0)
    assert out.size == (4 * 9 if name == "numpy_cnn" else 2 * 4 * 9)
    dx = CONVS[name].nchw(backward(np.ones(out.shape))[0])
    assert not dx[:, :, -1].any() and dx[:, :, -2].any()
    with strict_windows(), pytest.raises(AssertionError, match="height 8 with padding 0 and a window of 3 does not tile at stride 2"):
        CONVS[name].run(x, w, b, 2, 0)
    with strict_windows():
        CONVS[name].run(*problem(rng, name, size=(7, 9)), 2, 0)


@pool
def test_what_a_pool_leaves_over_is_ignored_or_an_error(rng, name):
    layout, run, _ = POOLS[name]
    x = layout(rng.standard_normal((1, 1, 5, 5)))
    out, backward = run(x, 2, 2)
    assert out.size == 4
    assert not backward(np.ones(out.shape)).reshape(5, 5)[4].any()
    with strict_windows(), pytest.raises(AssertionError, match="height 5"):
        run(x, 2, 2)


@conv
def test_one_of_everything(rng, name):
    """One image, one channel, one filter, one output pixel: no array of one element is taken for a number."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        x, w, b = problem(rng, name, C=1, O=1, K=3, size=(3, 3), N=1)
        out, backward = CONVS[name].run(x, w, b, 1, 0)
        dx, dw, db = backward(np.ones(out.shape))
    assert out.shape == (1,) * x.ndim and dx.shape == x.shape and dw.shape == w.shape and db.shape == b.shape
    assert abs(out.item() - (np.sum(x.reshape(-1) * w.reshape(-1)) + b.item())) < TOLERANCE


@pytest.mark.parametrize("name", [name for name in CONVS if name != "numpy_cnn"])
def test_an_empty_batch(rng, name):
    x, w, b = problem(rng, name, N=0)
    out, backward = CONVS[name].run(x, w, b, 1, 0)
    dx, dw, db = backward(out)
    assert len(out) == 0 and dx.shape == x.shape and not dw.any() and not db.any()


@conv
def test_shapes_that_do_not_fit_are_named(rng, name):
    x, w, b = problem(rng, name)
    with pytest.raises(ValueError, match="conv2d: (input has 2 channels but weight|bias)"):
        CONVS[name].run(CONVS[name].image(rng.standard_normal((2, 2, 7, 8))), w, b, 1, 0)
    with pytest.raises(ValueError, match="bias"):
        CONVS[name].run(x, w, np.zeros(7), 1, 0)


# --- names that other modules had imported -------------------------------------------------------------------------------------------

PACKAGES = {
    "dlfs": {
        "common/__init__.py": "",
        "common/util.py": "def im2col(input_data, filter_h, filter_w, stride=1, pad=0):\n    raise AssertionError('slow')\n"
        "def col2im(col, input_shape, filter_h, filter_w, stride=1, pad=0):\n    raise AssertionError('slow')\n",
        "common/layers.py": "from common.util import im2col, col2im\n"
        "class Convolution:\n    def __init__(self, W, b, stride=1, pad=0):\n"
        "        self.W, self.b, self.stride, self.pad = W, b, stride, pad\n        self.col = self.dW = self.db = None\n"
        "    def forward(self, x):\n        return im2col(x, 3, 3)\n    def backward(self, dout):\n        raise AssertionError('slow')\n"
        "class Pooling:\n    def __init__(self, pool_h, pool_w, stride=1, pad=0):\n"
        "        self.pool_h, self.pool_w, self.stride, self.pad = pool_h, pool_w, stride, pad\n"
        "    def forward(self, x):\n        raise AssertionError('slow')\n    def backward(self, dout):\n        raise AssertionError('slow')\n"
        "class Relu:\n    def __init__(self):\n        self.mask = None\n"
        "    def forward(self, x):\n        raise AssertionError('slow')\n    def backward(self, dout):\n        raise AssertionError('slow')\n",
        "student_dlfs.py": "from common.layers import *\nfrom common.util import im2col as windows\n",
    },
    "numpy_cnn": {
        "CNN/__init__.py": "",
        "CNN/forward.py": "def convolution(image, filt, bias, s=1):\n    raise AssertionError('slow')\n"
        "def maxpool(image, f=2, s=2):\n    raise AssertionError('slow')\n",
        "CNN/utils.py": "from CNN.forward import *\n",
        "CNN/backward.py": "from CNN.utils import *\n"
        "def convolutionBackward(dconv_prev, conv_in, filt, s):\n    raise AssertionError('slow')\n"
        "def maxpoolBackward(dpool, orig, f, s):\n    raise AssertionError('slow')\n",
        "student_numpy_cnn.py": "from CNN.forward import *\nfrom CNN.backward import *\nfrom CNN.utils import *\n",
    },
    "lenet_scratch": {
        "utils/__init__.py": "",
        "utils/ConvolveLayer.py": "import numpy as np\nclass ConvolveLayer:\n"
        "    def __init__(self, kernel_shape, in_shape, stride=1, pad=0):\n"
        "        self.stride, self.pad, self.W, self.b = stride, pad, np.ones(kernel_shape), np.zeros((1, kernel_shape[0], 1, 1))\n"
        "        self.v_W, self.v_b = self.W * 0, self.b * 0\n"
        "    def forward_prop(self, X):\n        raise AssertionError('slow')\n"
        "    def backward_prop(self, d_global, learning_rate, momentum=0.9):\n        raise AssertionError('slow')\n",
        "utils/MaxpoolLayer.py": "class MaxpoolLayer:\n    def __init__(self, filtersize=2):\n        self.filtersize = self.stride = filtersize\n"
        "    def forward_prop(self, X):\n        raise AssertionError('slow')\n    def backward_prop(self, d_global):\n        raise AssertionError('slow')\n",
        "student_lenet_scratch.py": "from utils.ConvolveLayer import *\nfrom utils.MaxpoolLayer import *\n",
    },
}


def _exercise_dlfs(student, rng):
    x = rng.standard_normal((2, 1, 6, 6))
    layer, twin = student.Convolution(np.ones((2, 1, 3, 3)), np.zeros(2)), dlfs.Convolution(np.ones((2, 1, 3, 3)), np.zeros(2))
    np.testing.assert_array_equal(layer.forward(x), twin.forward(x))
    np.testing.assert_array_equal(layer.backward(layer.forward(x)), twin.backward(twin.forward(x)))
    np.testing.assert_array_equal(layer.dW, twin.dW)
    np.testing.assert_array_equal(student.windows(x, 2, 2), dlfs.im2col(x, 2, 2))
    pool, twin = student.Pooling(2, 2, 2), dlfs.Pooling(2, 2, 2)
    np.testing.assert_array_equal(pool.backward(pool.forward(x)), twin.backward(twin.forward(x)))
    relu = student.Relu()
    np.testing.assert_array_equal(relu.backward(relu.forward(x)), np.maximum(x, 0))
    assert type(layer).__module__ == "common.layers"


def _exercise_numpy_cnn(student, rng):
    image, filt = rng.standard_normal((1, 6, 6)), rng.standard_normal((2, 1, 3, 3))
    out = student.convolution(image, filt, np.zeros((2, 1)), 1)
    np.testing.assert_array_equal(out, numpy_cnn.convolution(image, filt, np.zeros((2, 1))))
    np.testing.assert_array_equal(student.maxpoolBackward(student.maxpool(out), out, 2, 2), numpy_cnn.maxpoolBackward(numpy_cnn.maxpool(out), out, 2, 2))
    for ours, theirs in zip(student.convolutionBackward(out, image, filt, 1), numpy_cnn.convolutionBackward(out, image, filt, 1), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def _exercise_lenet_scratch(student, rng):
    x = rng.standard_normal((2, 1, 6, 6))
    layer, twin = student.ConvolveLayer((2, 1, 3, 3), (1, 6, 6)), lenet_scratch.ConvolveLayer((2, 1, 3, 3))
    twin.W, twin.b = layer.W, layer.b
    y = layer.forward_prop(x)
    np.testing.assert_array_equal(y, twin.forward_prop(x))
    np.testing.assert_array_equal(layer.backward_prop(y, 0.1), twin.backward_prop(y, 0.1))
    np.testing.assert_array_equal(layer.W, twin.W)
    pool, twin = student.MaxpoolLayer(), lenet_scratch.MaxpoolLayer()
    np.testing.assert_array_equal(pool.backward_prop(pool.forward_prop(y)), twin.backward_prop(twin.forward_prop(y)))


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("name", PACKAGES)
def test_install_reaches_star_imports_and_uninstall_restores(rng, tmp_path, monkeypatch, name, when):
    for path, text in PACKAGES[name].items():
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    module = getattr(fastcnn.compat, name)
    tops = {path.partition("/")[0].removesuffix(".py") for path in PACKAGES[name]}
    assert not tops & set(sys.modules)
    try:
        if when == "before":
            module.install()
        student = __import__(f"student_{name}")
        if when == "after":
            kept = dict(vars(student))
            report = module.install()
            assert report.replaced
        {"dlfs": _exercise_dlfs, "numpy_cnn": _exercise_numpy_cnn, "lenet_scratch": _exercise_lenet_scratch}[name](student, rng)
        module.uninstall()
        if when == "after":
            assert dict(vars(student)) == kept
        with pytest.raises(AssertionError, match="slow"):
            {"dlfs": _exercise_dlfs, "numpy_cnn": _exercise_numpy_cnn, "lenet_scratch": _exercise_lenet_scratch}[name](student, rng)
    finally:
        module.uninstall()
        for loaded in [loaded for loaded in sys.modules if loaded.partition(".")[0] in tops]:
            del sys.modules[loaded]


def test_a_notebooks_functions(rng, monkeypatch):
    main = sys.modules["__main__"]

    def conv_forward(A_prev, W, b, hparameters):
        raise AssertionError("slow")

    def pool_forward(A_prev, f, stride):  # somebody's own, with other arguments
        return "mine"

    monkeypatch.setattr(main, "conv_forward", conv_forward, raising=False)
    monkeypatch.setattr(main, "pool_forward", pool_forward, raising=False)
    try:
        report = coursera.install()
        x, w, b = problem(rng, "coursera")
        np.testing.assert_array_equal(main.conv_forward(x, w, b, {"stride": 1, "pad": 0})[0], coursera.conv_forward(x, w, b, {"stride": 1, "pad": 0})[0])
        assert main.pool_forward is pool_forward and [name for name, _ in report.left] == ["__main__.pool_forward"]
    finally:
        coursera.uninstall()
    assert main.conv_forward is conv_forward
