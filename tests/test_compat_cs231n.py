"""fastcnn.compat.cs231n against the course's semantics written down in bench/courses/cs231n, and its installation in that package."""

import importlib
import sys

import numpy as np
import pytest
from courses import copied, importable

import fastcnn
from bench.courses.cs231n import fast_layers as fast
from bench.courses.cs231n import im2col as columns
from bench.courses.cs231n import layers as slow
from bench.courses.cs231n import optim
from fastcnn.compat import cs231n as ours

CONVS = [((2, 3, 6, 7), (4, 3, 3, 3), 1, 1), ((3, 2, 7, 9), (2, 2, 3, 2), 2, 0), ((1, 4, 5, 5), (3, 4, 5, 5), 1, 2), ((2, 1, 8, 6), (5, 1, 2, 4), 3, 1)]
VARIANTS = ("naive", "strides", "fast", "im2col")


def close(actual, expected, limit=1e-9):
    """Relative to the largest magnitude."""
    actual, expected = np.asarray(actual), np.asarray(expected)
    assert actual.shape == expected.shape
    assert np.abs(actual - expected).max(initial=0) <= limit * max(1, np.abs(expected).max(initial=0))


def tiles(shape, filters, stride, pad):
    return all((n + 2 * pad - k) % stride == 0 for n, k in zip(shape[2:], filters[2:], strict=True))


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("shape,filters,stride,pad", CONVS)
def test_conv(shape, filters, stride, pad, variant, backend, rng):
    x, w, b = rng.standard_normal(shape), rng.standard_normal(filters), rng.standard_normal(filters[0])
    conv_param = {"stride": stride, "pad": pad}
    expected, kept = slow.conv_forward_naive(x, w, b, conv_param)
    forward, backward = getattr(ours, f"conv_forward_{variant}"), getattr(ours, f"conv_backward_{variant}")
    if variant == "im2col" and not tiles(shape, filters, stride, pad):
        with pytest.raises(AssertionError, match="does not tile"):
            forward(x, w, b, conv_param)
        return
    out, cache = forward(x, w, b, conv_param)
    close(out, expected)
    dout = rng.standard_normal(out.shape)
    for grad, wanted in zip(backward(dout, cache), slow.conv_backward_naive(dout, kept), strict=True):
        close(grad, wanted)
    for grad, wanted in zip(backward(dout, kept), slow.conv_backward_naive(dout, cache[:4]), strict=True):  # the one's cache in the other's backward
        close(grad, wanted)
    assert backward(dout, cache, need_dx=False)[0] is None


def test_the_example_of_the_notebook(backend):
    """Shapes, inputs and results to 8 digits as they are printed in the assignment."""
    x, w = (np.linspace(low, high, num=n).reshape(shape) for low, high, n, shape in ((-0.1, 0.5, 96, (2, 3, 4, 4)), (-0.2, 0.3, 144, (3, 3, 4, 4))))
    out, _ = ours.conv_forward_naive(x, w, np.linspace(-0.1, 0.2, num=3), {"stride": 2, "pad": 1})
    expected = [
        [[[-0.08759809, -0.10987781], [-0.18387192, -0.2109216]], [[0.21027089, 0.21661097], [0.22847626, 0.23004637]],
         [[0.50813986, 0.54309974], [0.64082444, 0.67101435]]],
        [[[-0.98053589, -1.03143541], [-1.19128892, -1.24695841]], [[0.69108355, 0.66880383], [0.59480972, 0.56776003]],
         [[2.36270298, 2.36904306], [2.38090835, 2.38247847]]],
    ]  # fmt: skip
    np.testing.assert_allclose(out, expected, rtol=0, atol=5e-9)


POOLS = [((2, 3, 6, 8), 2, 2, 2), ((3, 2, 7, 9), 3, 3, 2), ((2, 2, 6, 6), 2, 3, 1), ((2, 2, 7, 7), 2, 2, 2), ((1, 1, 9, 9), 3, 3, 3)]


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("variant", ["naive", "fast", "im2col", "reshape"])
@pytest.mark.parametrize("shape,height,width,stride", POOLS)
def test_max_pool(shape, height, width, stride, variant, ties, backend, rng):
    x = rng.integers(0, 3, shape).astype(float) if ties else rng.standard_normal(shape)
    pool_param = {"pool_height": height, "pool_width": width, "stride": stride}
    covers = all((n - k) % stride == 0 for n, k in zip(shape[2:], (height, width), strict=True))
    square = height == width == stride and covers
    forward, backward = getattr(ours, f"max_pool_forward_{variant}"), getattr(ours, f"max_pool_backward_{variant}")
    if variant == "reshape" and not square or variant == "im2col" and not covers:
        with pytest.raises(AssertionError):
            forward(x, pool_param)
        return
    expected, kept = slow.max_pool_forward_naive(x, pool_param)
    out, cache = forward(x, pool_param)
    close(out, expected)
    dout = rng.standard_normal(out.shape)
    if square and variant in ("fast", "reshape"):  # tied maxima share
        assert variant == "reshape" or cache[0] == "reshape"
        wanted = fast.max_pool_backward_reshape(dout, fast.max_pool_forward_reshape(x, pool_param)[1])
    else:
        wanted = slow.max_pool_backward_naive(dout, kept)
    close(backward(dout, cache), wanted)


@pytest.mark.parametrize("shape,filters,stride,pad", CONVS)
def test_columns(shape, filters, stride, pad, backend, rng):
    (FH, FW), x = filters[2:], rng.standard_normal(shape)
    if not tiles(shape, filters, stride, pad):
        for call in (lambda: ours.im2col_indices(x, FH, FW, pad, stride), lambda: ours.get_im2col_indices(shape, FH, FW, pad, stride)):
            with pytest.raises(AssertionError, match="does not tile"):
                call()
        return
    for index, wanted in zip(ours.get_im2col_indices(shape, FH, FW, pad, stride), columns.get_im2col_indices(shape, FH, FW, pad, stride), strict=True):
        np.testing.assert_array_equal(index, wanted)
    cols = columns.im2col_indices(x, FH, FW, pad, stride)
    np.testing.assert_array_equal(ours.im2col_indices(x, FH, FW, pad, stride), cols)
    np.testing.assert_array_equal(ours.im2col_cython(x, FH, FW, pad, stride), cols)
    dcols = rng.standard_normal(cols.shape)
    dx = columns.col2im_indices(dcols, shape, FH, FW, pad, stride)
    close(ours.col2im_indices(dcols, shape, FH, FW, pad, stride), dx)
    close(ours.col2im_cython(dcols, *shape, FH, FW, pad, stride), dx)
    N, C, H, W = shape
    OH, OW = (H + 2 * pad - FH) // stride + 1, (W + 2 * pad - FW) // stride + 1
    six = dcols.reshape(C, FH, FW, OH, OW, N).transpose(0, 1, 2, 5, 3, 4)
    close(ours.col2im_6d_cython(six, *shape, FH, FW, pad, stride), dx)


def test_im2col_leaves_a_rest_out_unless_windows_are_to_be_strict(backend, rng):
    x = rng.standard_normal((2, 3, 6, 6))
    np.testing.assert_array_equal(ours.im2col_cython(x, 3, 3, 0, 2), ours.im2col_cython(x[:, :, :5, :5].copy(), 3, 3, 0, 2))
    w, b, conv_param = np.ones((2, 3, 3, 3)), np.zeros(2), {"stride": 2, "pad": 0}
    assert ours.conv_forward_fast(x, w, b, conv_param)[0].shape == (2, 2, 2, 2)
    with fastcnn.compat.strict_windows(), pytest.raises(AssertionError, match="conv_forward_fast: height 6 .* 1 pixels are left over"):
        ours.conv_forward_fast(x, w, b, conv_param)
    with fastcnn.compat.strict_windows(), pytest.raises(AssertionError, match="max_pool_forward_naive"):
        ours.max_pool_forward_naive(x, {"pool_height": 3, "pool_width": 3, "stride": 2})
    ours.conv_forward_fast(x, w, b, conv_param)


def both(name, *arguments):
    """(ours, the course's) result of a forward, each (out, cache), with dicts of their own."""
    mine, theirs = ([dict(a) if isinstance(a, dict) else a for a in arguments] for _ in range(2))
    return getattr(ours, name + "_forward")(*mine), getattr(slow, name + "_forward")(*theirs), mine, theirs


def check(name, rng, *arguments):
    (out, cache), (expected, kept), mine, theirs = both(name, *arguments)
    close(out, expected)
    dout = rng.standard_normal(out.shape)
    grads, wanted = getattr(ours, name + "_backward")(dout, cache), getattr(slow, name + "_backward")(dout, kept)
    for grad, value in zip(grads, wanted, strict=True) if isinstance(wanted, tuple) else ((grads, wanted),):
        close(grad, value)
    for a, b in zip(mine, theirs, strict=True):
        if isinstance(a, dict):
            assert set(a) == set(b)
            for key in a:
                if isinstance(a[key], np.ndarray):
                    close(a[key], b[key])


def test_affine_and_relu(backend, rng):
    for shape, M in (((4, 2, 3), 5), ((3, 7), 1), ((1, 2, 2, 2, 2), 20)):
        D = int(np.prod(shape[1:]))
        check("affine", rng, rng.standard_normal(shape), rng.standard_normal((D, M)), rng.standard_normal(M))
    check("relu", rng, rng.standard_normal((3, 4, 5)))
    x, w, b = rng.standard_normal((3, 4)), rng.standard_normal((4, 2)), rng.standard_normal(2)
    dx, dw, db = ours.affine_backward(np.ones((3, 2)), (x, w, b), need_dx=False)
    assert dx is None and dw.shape == (4, 2) and db.shape == (2,)
    with pytest.raises(ValueError, match="affine_forward: x 3x4 has 4 values per row but w 5x2 takes 5"):
        ours.affine_forward(x, np.ones((5, 2)), b)
    with pytest.raises(ValueError, match="affine_forward: b has shape 3 but w 4x2 has 2 columns"):
        ours.affine_forward(x, w, np.ones(3))
    with pytest.raises(ValueError, match="affine_backward: dout has shape 2x2 but the layer's output is 3x2"):
        ours.affine_backward(np.ones((2, 2)), (x, w, b))


@pytest.mark.parametrize("mode", ["train", "test"])
def test_batchnorm(mode, backend, rng):
    running = {"running_mean": rng.standard_normal(5), "running_var": rng.random(5) + 0.5}
    gamma, beta = rng.standard_normal(5), rng.standard_normal(5)
    for extra in ({}, running, running | {"eps": 1e-3, "momentum": 0.7}):
        check("batchnorm", rng, rng.standard_normal((6, 5)) * 3 + 1, gamma, beta, {"mode": mode} | extra)
        check("spatial_batchnorm", rng, rng.standard_normal((2, 5, 3, 4)) * 3 + 1, gamma, beta, {"mode": mode} | extra)
    x = rng.standard_normal((6, 5))
    out, cache = ours.batchnorm_forward(x, gamma, beta, {"mode": "train"})
    for a, b in zip(ours.batchnorm_backward(x, cache), ours.batchnorm_backward_alt(x, cache), strict=True):
        np.testing.assert_array_equal(a, b)


def test_batchnorm_of_one_row_of_a_wrong_mode_and_of_a_foreign_cache(backend, rng):
    check("batchnorm", rng, rng.standard_normal((1, 4)), rng.standard_normal(4), rng.standard_normal(4), {"mode": "train"})
    with pytest.raises(ValueError, match="mode must be"):
        ours.batchnorm_forward(np.ones((2, 4)), np.ones(4), np.zeros(4), {"mode": "eval"})
    with pytest.raises(TypeError, match="spatial_batchnorm_backward: the cache is not one of fastcnn's spatial_batchnorm_forward, got tuple"):
        ours.spatial_batchnorm_backward(np.ones((2, 4, 2, 2)), (1, 2))


def test_layernorm_and_groupnorm(backend, rng):
    check("layernorm", rng, rng.standard_normal((6, 5)) * 3 + 1, rng.standard_normal(5), rng.standard_normal(5), {})
    check("layernorm", rng, rng.standard_normal((3, 4)), rng.standard_normal(4), rng.standard_normal(4), {"eps": 1e-2})
    for shape in ((1, 6, 1, 1), (6,)):
        check("spatial_groupnorm", rng, rng.standard_normal((2, 6, 4, 5)) * 3 + 1, rng.standard_normal(shape), rng.standard_normal(shape), 2, {"eps": 1e-4})


@pytest.mark.parametrize("mode", ["train", "test"])
def test_dropout(mode, rng):
    x = rng.standard_normal((7, 8))
    check("dropout", rng, x, {"p": 0.3, "mode": mode, "seed": 5})
    np.random.seed(5)  # noqa: NPY002 (the course's generator)
    draws = np.random.rand(7, 8)  # noqa: NPY002
    out, _ = ours.dropout_forward_2016(x, {"p": 0.3, "mode": mode, "seed": 5})
    close(out, x * (draws >= 0.3) / 0.7 if mode == "train" else x)
    assert not np.shares_memory(out, x)
    with pytest.raises(ValueError, match="mode must be"):
        ours.dropout_forward(x, {"p": 0.3, "mode": "eval"})


@pytest.mark.parametrize("y_dtype", [np.int64, np.int32, np.uint8])
@pytest.mark.parametrize("loss", ["softmax_loss", "svm_loss"])
def test_losses(loss, y_dtype, backend, rng):
    x, y = rng.standard_normal((9, 10)) * 5, rng.integers(0, 10, 9).astype(y_dtype)
    value, dx = getattr(ours, loss)(x, y)
    expected, wanted = getattr(slow, loss)(x, y)
    assert abs(value - expected) <= 1e-9
    close(dx, wanted)


def test_update_rules(backend, rng):
    w, mine, theirs = rng.standard_normal((4, 5)), {}, {}
    for rule in ("adam", "rmsprop"):
        mine, theirs = {"learning_rate": 1e-2}, {"learning_rate": 1e-2}
        a = b = w
        for _ in range(4):
            dw = rng.standard_normal(w.shape)
            held = a, a.copy(), dw.copy()
            a, mine = getattr(ours, rule)(a, dw, mine)
            b, theirs = getattr(optim, rule)(b, dw, theirs)
            np.testing.assert_array_equal(held[0], held[1])
            np.testing.assert_array_equal(dw, held[2])
            close(a, b)
            for key in theirs:
                close(mine[key], theirs[key])
    _, config = ours.adam_from_1(w, w)
    assert config["t"] == 2
    with pytest.raises(ValueError, match="adam: dw has shape 5x4 but w has 4x5"):
        ours.adam(w, w.T)


SANDWICHES = ["affine_relu", "affine_bn_relu", "conv_relu", "conv_bn_relu", "conv_relu_pool"]


@pytest.fixture
def package(tmp_path):
    """The course's package importable as cs231n; nothing installed afterwards."""
    with importable(copied("cs231n", tmp_path), "cs231n"):
        yield importlib.import_module
        ours.uninstall()


@pytest.mark.parametrize("name", SANDWICHES)
def test_sandwiches(name, package, backend, rng):
    ours.install(level=1)  # without the extension the course's own code cannot go backwards
    theirs = package("cs231n.layer_utils")
    x, gamma, beta = rng.standard_normal((2, 3, 6, 6)), rng.standard_normal(4), rng.standard_normal(4)
    first = (x, rng.standard_normal((108, 4)), beta) if "affine" in name else (x, rng.standard_normal((4, 3, 3, 3)), beta)
    conv_param, pool_param = {"stride": 1, "pad": 1}, {"pool_height": 2, "pool_width": 2, "stride": 2}
    rest = [*((gamma, beta) if "bn" in name else ()), *((conv_param,) if "conv" in name else ()), *(({"mode": "train"},) if "bn" in name else ())]
    rest += [pool_param] if "pool" in name else []
    out, cache = getattr(ours, name + "_forward")(*first, *rest)
    expected, kept = getattr(theirs, name + "_forward")(*first, *rest)
    close(out, expected)
    dout = rng.standard_normal(out.shape)
    assert len(cache) == len(kept)
    for grad, wanted in zip(getattr(ours, name + "_backward")(dout, cache), getattr(theirs, name + "_backward")(dout, kept), strict=True):
        close(grad, wanted)


# --- installation -----------------------------------------------------------------------------------------------------------------

MODULES = ["cs231n.layers", "cs231n.im2col", "cs231n.fast_layers", "cs231n.layer_utils", "cs231n.optim", "cs231n.classifiers.cnn"]


def step(package, dtype=np.float64):
    """(loss, gradients) of the assignment's network, in whatever is installed."""
    rng = np.random.default_rng(1)
    network = package("cs231n.classifiers.cnn").ThreeLayerConvNet((3, 8, 8), 4, 3, 10, dtype=dtype, weight_scale=0.1, reg=0.5)
    return network.loss(rng.standard_normal((5, 3, 8, 8)), rng.integers(0, 10, 5))


def test_without_the_extension_the_course_cannot_go_backwards_and_with_level_1_it_can(package, capsys):
    with pytest.raises(NameError, match="col2im_6d_cython"):
        step(package)
    report = ours.install(level=1)  # after the import that failed
    assert "cs231n.fast_layers.col2im_6d_cython" in report.replaced
    step(package)
    fast_layers = sys.modules["cs231n.fast_layers"]
    assert fast_layers.conv_forward_fast.__module__ == "cs231n.fast_layers"
    ours.uninstall()
    assert not hasattr(fast_layers, "col2im_6d_cython") and "cs231n.im2col_cython" not in sys.modules
    with pytest.raises(NameError, match="col2im_6d_cython"):
        step(package)


def test_level_1_before_the_import(package):
    ours.install(level=1)
    step(package)
    extension = package("cs231n.im2col_cython")
    assert sys.modules["cs231n.fast_layers"].im2col_cython is extension.im2col_cython
    ours.uninstall()
    assert not hasattr(sys.modules["cs231n.fast_layers"], "im2col_cython")


@pytest.mark.parametrize("level", [2, 3])
@pytest.mark.parametrize("when", ["before", "after"])
def test_the_numbers_stay_and_uninstall_restores_everything(when, level, package):
    ours.install(level=1)
    expected, wanted = step(package)
    ours.uninstall()
    for name in [n for n in sys.modules if n.startswith("cs231n")]:
        del sys.modules[name]
    if when == "after":
        for name in MODULES:
            package(name)
        main = vars(package("cs231n.classifiers.cnn"))
        before = {name: dict(vars(sys.modules[name])) for name in MODULES}
    report = ours.install(level=level)
    loss, grads = step(package)
    assert abs(loss - expected) <= 1e-9
    for key in wanted:
        close(grads[key], wanted[key])
    layers, utils, cnn = (sys.modules[f"cs231n.{name}"] for name in ("layers", "layer_utils", "classifiers.cnn"))
    for module in (sys.modules["cs231n.fast_layers"], utils, cnn):  # star-imported names too
        assert module.conv_forward_fast.__module__ == "fastcnn.compat.cs231n._conv"
        assert module.im2col_indices.__module__ == "fastcnn.compat.cs231n._columns"
    for module in (layers, utils, cnn):
        assert module.affine_forward.__module__ == ("fastcnn.compat.cs231n._layers" if level == 3 else "cs231n.layers")
        assert module.max_pool_backward_naive.__module__ == "fastcnn.compat.cs231n._conv"
    assert cnn.conv_relu_pool_forward.__module__ == ("fastcnn.compat.cs231n._sandwiches" if level == 3 else "cs231n.layer_utils")
    assert {"cs231n.layers.conv_forward_naive", "cs231n.fast_layers.conv_forward_fast"} <= set(report.replaced)
    assert not report.left and "run on fastcnn" in str(report)
    assert when == "before" or "cs231n.classifiers.cnn.conv_forward_fast" in report.elsewhere
    ours.uninstall()
    if when == "after":
        for name in MODULES:
            now = vars(sys.modules[name])
            assert set(now) == set(before[name])
            assert all(now[key] is before[name][key] for key in now)
        assert main["conv_forward_fast"] is sys.modules["cs231n.fast_layers"].conv_forward_strides  # one function, two names
    else:
        for name in [n for n in sys.modules if n.startswith("cs231n.")]:
            for key, value in vars(sys.modules[name]).items():
                assert not getattr(value, "__module__", "").startswith("fastcnn"), (name, key)
    assert not any(type(finder).__module__.startswith("fastcnn") for finder in sys.meta_path)
    ours.uninstall()  # a second time is nothing


def test_a_working_extension_comes_back(package, tmp_path):
    (tmp_path / "cs231n" / "im2col_cython.py").write_text("def im2col_cython(*args): return 'theirs'\ndef col2im_cython(*args): return 'theirs'\n"
                                                         "def col2im_6d_cython(*args): return 'theirs'\n")
    fast_layers, extension = package("cs231n.fast_layers"), package("cs231n.im2col_cython")
    ours.install(level=1)
    assert fast_layers.im2col_cython is sys.modules["cs231n.im2col_cython"].im2col_cython is sys.modules["cs231n"].im2col_cython.im2col_cython
    assert fast_layers.im2col_cython(np.ones((1, 1, 2, 2)), 2, 2, 0, 1).shape == (4, 1)
    ours.uninstall()
    assert sys.modules["cs231n.im2col_cython"] is sys.modules["cs231n"].im2col_cython is extension
    assert fast_layers.im2col_cython() == extension.im2col_cython() == "theirs"


def test_half_finished_work_and_functions_of_another_shape(package, tmp_path):
    layers = tmp_path / "cs231n" / "layers.py"
    text = layers.read_text()
    text = text.replace("def relu_forward(x):\n    return np.maximum(x, 0), x", "def relu_forward(x):\n    out = None\n    return out, x")
    text = text.replace("def layernorm_forward(x, gamma, beta, ln_param):", "def layernorm_forward(x, gamma, beta, ln_param, axis):")
    layers.write_text(text.replace("We keep each neuron output", "We drop each neuron output") + "\nsvm_loss = None\n")
    report = ours.install()
    module = package("cs231n.layers")
    np.testing.assert_array_equal(module.relu_forward(np.array([-1.0, 2.0]))[0], [0, 2])
    assert dict(report.left) == {
        "cs231n.layers.layernorm_forward": "it takes (x, gamma, beta, ln_param, axis), ours takes (x, gamma, beta, ln_param)",
        "cs231n.layers.layernorm_backward": "layernorm_forward, which belongs to it, was left",
        "cs231n.layers.svm_loss": "it is a NoneType",
    }
    assert module.layernorm_backward.__module__ == "cs231n.layers" and module.svm_loss is None
    out, (_, mask) = module.dropout_forward(np.ones((50, 50)), {"p": 0.1, "mode": "train", "seed": 0})
    assert 0.85 < (mask > 0).mean() < 0.95 and np.allclose(mask[mask > 0], 1 / 0.9)  # drops with probability p


def test_a_reload_is_replaced_again_and_restored(package):
    layers = package("cs231n.layers")
    ours.install()
    importlib.reload(layers)
    assert layers.affine_forward.__module__ == "fastcnn.compat.cs231n._layers"
    ours.uninstall()
    assert layers.affine_forward.__module__ == "cs231n.layers"


def test_what_the_user_imported_from_fastcnn_himself_stays(package):
    (package("cs231n.optim")).mine = ours.conv_forward_fast
    ours.install()
    package("cs231n.fast_layers")
    ours.uninstall()
    assert sys.modules["cs231n.optim"].mine is ours.conv_forward_fast


def test_another_package_name(tmp_path):
    with importable(copied("cs231n", tmp_path, "deeplearning"), "deeplearning"):
        ours.install(package="deeplearning")
        try:
            assert importlib.import_module("deeplearning.fast_layers").conv_forward_fast.__module__.startswith("fastcnn.")
        finally:
            ours.uninstall()


def test_a_level_that_does_not_exist():
    with pytest.raises(ValueError, match="level must be 1, 2 or 3, got 4"):
        ours.install(level=4)
