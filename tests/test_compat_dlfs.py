"""fastcnn.compat.dlfs against a transcription of the course's semantics: forward and backward, float64, error at most 1e-9."""

# ruff: noqa: NPY002 (the courses draw from NumPy's global generator)

import sys

import numpy as np
import pytest

from bench.courses.dlfs import semantics as course
from fastcnn.compat import dlfs

TOLERANCE = 1e-9

# (N, C, H, W), O, FH, FW, stride, pad
CONVS = [
    ((2, 3, 7, 7), 4, 3, 3, 1, 1),
    ((3, 1, 8, 8), 5, 5, 5, 1, 0),
    ((2, 2, 9, 6), 3, 3, 2, 2, 1),
    ((1, 3, 7, 8), 2, 2, 3, 3, 2),
    ((2, 4, 5, 5), 3, 1, 1, 1, 0),
    ((1, 2, 4, 4), 3, 4, 4, 1, 0),
]
# (N, C, H, W), pool_h, pool_w, stride
POOLS = [((2, 3, 8, 8), 2, 2, 2), ((2, 2, 7, 5), 2, 2, 2), ((1, 3, 9, 9), 3, 3, 2), ((2, 1, 6, 7), 3, 2, 1), ((1, 2, 6, 6), 2, 2, 3)]


def close(ours, theirs):
    assert ours.shape == theirs.shape
    assert ours.dtype == np.float64
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize(("shape", "O", "FH", "FW", "stride", "pad"), CONVS)
def test_im2col_and_col2im(rng, shape, O, FH, FW, stride, pad):
    x = rng.standard_normal(shape)
    expected = course.im2col(x, FH, FW, stride, pad)
    close(dlfs.im2col(x, FH, FW, stride, pad), expected)
    close(dlfs.im2col(x, FH, FW, stride=stride, pad=pad), expected)
    col = rng.standard_normal(expected.shape)
    close(dlfs.col2im(col, shape, FH, FW, stride, pad), course.col2im(col, shape, FH, FW, stride, pad))


def test_im2col_defaults_to_stride_1_and_no_padding(rng):
    x = rng.standard_normal((2, 3, 7, 7))  # the book's example: 5x5 windows of 10 images of 3x7x7
    assert dlfs.im2col(x, 5, 5).shape == (18, 75)
    close(dlfs.im2col(x, 5, 5), course.im2col(x, 5, 5))
    close(dlfs.col2im(dlfs.im2col(x, 5, 5), x.shape, 5, 5), course.col2im(course.im2col(x, 5, 5), x.shape, 5, 5))


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.uint8, np.int64, bool])
def test_im2col_gives_float64_always(rng, dtype):
    x = (rng.standard_normal((1, 2, 4, 4)) * 3 > 1).astype(dtype)
    assert dlfs.im2col(x, 2, 2).dtype == dlfs.col2im(dlfs.im2col(x, 2, 2).astype(dtype), x.shape, 2, 2).dtype == np.float64
    close(dlfs.im2col(x, 2, 2, 2), course.im2col(x, 2, 2, 2))


@pytest.mark.parametrize("kernel,stride,pad", [(3, 1, 1), ((2, 3), (2, 1), (0, 2)), (2, 2, 0)])
def test_dezeros_functions(rng, kernel, stride, pad):
    x = rng.standard_normal((2, 3, 7, 6))
    (KH, KW), (SH, SW), (PH, PW) = (v if isinstance(v, tuple) else (v, v) for v in (kernel, stride, pad))
    padded = np.pad(x, ((0, 0), (0, 0), (PH, PH), (PW, PW)))
    OH, OW = (7 + 2 * PH - KH) // SH + 1, (6 + 2 * PW - KW) // SW + 1
    expected = np.zeros((2, 3, KH, KW, OH, OW))
    for kh, kw, oh, ow in np.ndindex(KH, KW, OH, OW):
        expected[:, :, kh, kw, oh, ow] = padded[:, :, oh * SH + kh, ow * SW + kw]
    windows = dlfs.im2col_array(x, kernel, stride, pad, to_matrix=False)
    close(windows, expected)
    matrix = dlfs.im2col_array(x, kernel, stride, pad)
    close(matrix, expected.transpose(0, 4, 5, 1, 2, 3).reshape(2 * OH * OW, -1))
    added = np.zeros(padded.shape)
    for kh, kw, oh, ow in np.ndindex(KH, KW, OH, OW):
        added[:, :, oh * SH + kh, ow * SW + kw] += expected[:, :, kh, kw, oh, ow]
    added = added[:, :, PH : PH + 7, PW : PW + 6]
    close(dlfs.col2im_array(windows, x.shape, kernel, stride, pad, to_matrix=False), added)
    close(dlfs.col2im_array(matrix, x.shape, kernel, stride, pad), added)
    assert dlfs.im2col_array(x.astype(np.float32), kernel, stride, pad).dtype == np.float32


@pytest.mark.parametrize(("shape", "O", "FH", "FW", "stride", "pad"), CONVS)
def test_convolution(rng, shape, O, FH, FW, stride, pad):
    x, W, b = rng.standard_normal(shape), rng.standard_normal((O, shape[1], FH, FW)), rng.standard_normal(O)
    layer = dlfs.Convolution(W, b, stride, pad)
    expected = course.convolution(x, W, b, stride, pad)
    close(layer.forward(x), expected)
    dout = rng.standard_normal(expected.shape)
    dx, dW, db = course.convolution_backward(dout, x, W, stride, pad)
    close(layer.backward(dout), dx)
    close(layer.dW, dW)
    close(layer.db, db)
    close(layer.col, course.im2col(x, FH, FW, stride, pad))
    close(layer.col_W, W.reshape(O, -1).T)


@pytest.mark.parametrize(("shape", "pool_h", "pool_w", "stride"), POOLS)
@pytest.mark.parametrize("tied", [False, True])
def test_pooling(rng, shape, pool_h, pool_w, stride, tied):
    x = np.round(rng.standard_normal(shape)) if tied else rng.standard_normal(shape)
    layer = dlfs.Pooling(pool_h, pool_w, stride)
    expected = course.pooling(x, pool_h, pool_w, stride, 0)
    close(layer.forward(x), expected)
    dout = rng.standard_normal(expected.shape)
    close(layer.backward(dout), course.pooling_backward(dout, x, pool_h, pool_w, stride, 0))
    windows = course.im2col(x, pool_h, pool_w, stride).reshape(-1, pool_h * pool_w)
    np.testing.assert_array_equal(layer.arg_max, windows.argmax(axis=1))


@pytest.mark.parametrize("stride", [1, 2, 3])
def test_pooling_pads_with_zeros_that_can_win(rng, stride):
    x = -np.abs(rng.standard_normal((2, 3, 6, 7)))
    layer = dlfs.Pooling(3, 2, stride, 1)
    expected = course.pooling(x, 3, 2, stride, 1)
    close(layer.forward(x), expected)
    assert (expected == 0).any()
    dout = rng.standard_normal(expected.shape)
    close(layer.backward(dout), course.pooling_backward(dout, x, 3, 2, stride, 1))


def test_pooling_has_stride_2_by_default(rng):
    assert dlfs.Pooling(2, 2).stride == 2
    assert dlfs.Pooling(2, 2).forward(rng.standard_normal((1, 1, 6, 6))).shape == (1, 1, 3, 3)


@pytest.mark.parametrize("shape", [(5, 6), (4, 2, 3, 3)])
def test_affine(rng, shape):
    x, W, b = rng.standard_normal(shape), rng.standard_normal((int(np.prod(shape[1:])), 7)), rng.standard_normal(7)
    layer = dlfs.Affine(W, b)
    close(layer.forward(x), course.affine(x, W, b))
    dout = rng.standard_normal((shape[0], 7))
    dx, dW, db = course.affine_backward(dout, x, W)
    close(layer.backward(dout), dx)
    close(layer.dW, dW)
    close(layer.db, db)
    assert layer.dW.flags.c_contiguous


def test_relu_and_sigmoid_leave_dout_alone(rng):
    x, dout = rng.standard_normal((3, 4, 5, 5)), rng.standard_normal((3, 4, 5, 5))
    x[0] = 0
    before = dout.copy()
    relu = dlfs.Relu()
    assert relu.mask is None
    close(relu.forward(x), np.where(x > 0, x, 0))
    close(relu.backward(dout), np.where(x > 0, dout, 0))
    np.testing.assert_array_equal(relu.mask, x <= 0)
    sigmoid, y = dlfs.Sigmoid(), course.sigmoid(x)
    close(sigmoid.forward(x), y)
    close(sigmoid.backward(dout), dout * (1 - y) * y)
    np.testing.assert_array_equal(dout, before)


@pytest.mark.parametrize("kind", ["labels", "one-hot", "soft"])
def test_softmax_with_loss(rng, kind):
    x = rng.standard_normal((6, 10)) * 5
    t = rng.integers(0, 10, 6)
    if kind != "labels":
        t = np.eye(10)[t]
    if kind == "soft":
        t = 0.9 * t + 0.01
    layer = dlfs.SoftmaxWithLoss()
    loss, dx = course.softmax_with_loss(x, t)
    assert abs(layer.forward(x, t) - loss) < TOLERANCE and layer.loss == layer.forward(x, t)
    close(layer.y, course.softmax(x))
    close(layer.backward(), dx)
    close(layer.backward(3), dx)  # dout is ignored


def test_the_loss_of_the_book(rng):
    """Chapter 4: t = [0,0,1,0,...], y = [.1,.05,.6,0,.05,.1,0,.1,0,0] gives 0.510825457099338."""
    t, y = np.eye(10)[2], np.array([0.1, 0.05, 0.6, 0.0, 0.05, 0.1, 0.0, 0.1, 0.0, 0.0])
    assert abs(dlfs.cross_entropy_error(y, t) - 0.510825457099338) < 1e-12
    assert abs(dlfs.cross_entropy_error(y[None], np.array([2])) - 0.510825457099338) < 1e-12
    np.testing.assert_allclose(dlfs.softmax(np.array([0.3, 2.9, 4.0])), [0.01821127, 0.24519181, 0.73659691], atol=5e-9)  # chapter 3
    np.testing.assert_allclose(dlfs.softmax(np.array([1010.0, 1000.0, 990.0])), [9.99954600e-01, 4.53978686e-05, 2.06106005e-09], rtol=1e-6)
    np.testing.assert_allclose(dlfs.sigmoid(np.array([-1.0, 1.0, 2.0])), [0.26894142, 0.73105858, 0.88079708], atol=5e-9)


def test_dropout_is_not_inverted_and_draws_from_the_courses_stream(rng):
    x = rng.standard_normal((4, 3, 5, 5))
    layer = dlfs.Dropout(0.3)
    np.random.seed(7)
    out = layer.forward(x)
    np.random.seed(7)
    mask = np.random.rand(*x.shape) > 0.3
    np.testing.assert_array_equal(out, x * mask)
    np.testing.assert_array_equal(layer.backward(x), x * mask)
    np.testing.assert_array_equal(layer.forward(x, train_flg=False), x * 0.7)


@pytest.mark.parametrize("shape", [(8, 5), (4, 2, 3, 3), (1, 6)])
def test_batch_normalization(rng, shape):
    D = int(np.prod(shape[1:]))
    gamma, beta = rng.standard_normal(D), rng.standard_normal(D)
    layer = dlfs.BatchNormalization(gamma, beta)
    mean, var = np.zeros(D), np.zeros(D)
    for _ in range(3):
        x = rng.standard_normal(shape) * 2 + 1
        expected, mean, var = course.batch_normalization(x, gamma, beta, 0.9, mean, var)
        close(layer.forward(x), expected)
        close(layer.running_mean, mean)
        close(layer.running_var, var)
    dout = rng.standard_normal(shape)
    dx, dgamma, dbeta = course.batch_normalization_backward(dout, x, gamma)
    close(layer.backward(dout), dx)
    close(layer.dgamma, dgamma)
    close(layer.dbeta, dbeta)
    close(layer.std, np.sqrt(x.reshape(len(x), -1).var(axis=0) + 1e-6))
    close(layer.forward(x, train_flg=False), course.batch_normalization_eval(x, gamma, beta, mean, var))


def test_batch_normalization_in_evaluation_before_any_training(rng):
    x, gamma, beta = rng.standard_normal((3, 4)), np.ones(4), np.zeros(4)
    close(dlfs.BatchNormalization(gamma, beta).forward(x, train_flg=False), course.batch_normalization_eval(x, gamma, beta, np.zeros(4), np.zeros(4)))


@pytest.mark.parametrize("layer", [dlfs.Affine, dlfs.Convolution])
def test_need_dx_is_a_switch(rng, layer):
    W = rng.standard_normal((3, 2, 3, 3)) if layer is dlfs.Convolution else rng.standard_normal((50, 3))
    x = rng.standard_normal((4, 2, 5, 5))
    both = layer(W, np.zeros(3)), layer(W, np.zeros(3))
    dout = rng.standard_normal(both[0].forward(x).shape)
    both[1].forward(x)
    both[1].need_dx = False
    assert both[0].backward(dout).shape == x.shape and both[1].backward(dout) is None
    np.testing.assert_array_equal(both[0].dW, both[1].dW)
    np.testing.assert_array_equal(both[0].db, both[1].db)


def test_a_small_network_learns_the_same(rng):
    """Convolution, Relu, Pooling, Affine, SoftmaxWithLoss, SGD in place, three steps: losses and weights of the transcription."""
    W = {"W1": rng.standard_normal((4, 1, 3, 3)) * 0.3, "b1": np.zeros(4), "W2": rng.standard_normal((36, 5)) * 0.3, "b2": np.zeros(5)}
    ours, theirs = {k: v.copy() for k, v in W.items()}, {k: v.copy() for k, v in W.items()}
    x, t = rng.standard_normal((7, 1, 8, 8)), rng.integers(0, 5, 7)
    layers = [dlfs.Convolution(ours["W1"], ours["b1"]), dlfs.Relu(), dlfs.Pooling(2, 2), dlfs.Affine(ours["W2"], ours["b2"])]
    last = dlfs.SoftmaxWithLoss()
    for _ in range(3):
        y = x
        for layer in layers:
            y = layer.forward(y)
        loss = last.forward(y, t)
        grad = last.backward()
        for layer in reversed(layers):
            grad = layer.backward(grad)
        for name, value in {"W1": layers[0].dW, "b1": layers[0].db, "W2": layers[3].dW, "b2": layers[3].db}.items():
            ours[name] -= 0.5 * value

        c = course.convolution(x, theirs["W1"], theirs["b1"], 1, 0)
        r = np.maximum(c, 0)
        p = course.pooling(r, 2, 2, 2, 0)
        expected, d = course.softmax_with_loss(course.affine(p, theirs["W2"], theirs["b2"]), t)
        dp, dW2, db2 = course.affine_backward(d, p, theirs["W2"])
        _, dW1, db1 = course.convolution_backward(course.pooling_backward(dp, r, 2, 2, 2, 0) * (c > 0), x, theirs["W1"], 1, 0)
        for name, value in {"W1": dW1, "b1": db1, "W2": dW2, "b2": db2}.items():
            theirs[name] -= 0.5 * value
        assert abs(loss - expected) < TOLERANCE
        for name in W:
            close(ours[name], theirs[name])


def _formula(name, p, g, state, t):
    """(p, state) after step t of the book's optimizers."""
    if name == "SGD":
        return p - 0.1 * g, state
    if name == "Momentum":
        v = 0.9 * state[0] - 0.1 * g
        return p + v, (v, 0)
    if name in ("AdaGrad", "RMSprop"):
        h = state[0] + g**2 if name == "AdaGrad" else 0.99 * state[0] + 0.01 * g**2
        return p - 0.1 * g / (np.sqrt(h) + 1e-7), (h, 0)
    m, v = 0.9 * state[0] + 0.1 * g, 0.999 * state[1] + 0.001 * g**2
    return p - 0.1 * np.sqrt(1 - 0.999**t) / (1 - 0.9**t) * m / (np.sqrt(v) + 1e-7), (m, v)


@pytest.mark.parametrize("name", ["SGD", "Momentum", "AdaGrad", "RMSprop", "Adam"])
def test_optimizers_change_the_dictionary_in_place(rng, name):
    params = {"W1": rng.standard_normal((5, 4)), "b1": rng.standard_normal(4), "W2": np.asfortranarray(rng.standard_normal((4, 3)))}
    arrays, expected, state = dict(params), {k: v.copy() for k, v in params.items()}, {k: (0, 0) for k in params}
    optimizer = getattr(dlfs, name)(lr=0.1)
    for t in range(1, 6):
        grads = {k: rng.standard_normal(v.shape) * (t != 3) for k, v in params.items()}
        before = {k: v.copy() for k, v in grads.items()}
        optimizer.update(params, grads)
        for k in params:
            expected[k], state[k] = _formula(name, expected[k], grads[k], state[k], t)
            assert params[k] is arrays[k]
            close(params[k], expected[k])
            np.testing.assert_array_equal(grads[k], before[k])


def test_optimizers_name_what_does_not_fit(rng):
    with pytest.raises(ValueError, match=r"Adam: grads\['W'\] has shape \(3,\) but params\['W'\] has \(4,\)"):
        dlfs.Adam().update({"W": np.zeros(4)}, {"W": np.zeros(3)})
    with pytest.raises(TypeError, match=r"SGD: params\['W'\] must be a float32 or float64 array, got int64"):
        dlfs.SGD().update({"W": np.zeros(4, np.int64)}, {"W": np.zeros(4)})
    frozen = np.zeros(4)
    frozen.flags.writeable = False
    with pytest.raises(ValueError, match="read-only"):
        dlfs.Adam().update({"W": frozen}, {"W": np.zeros(4)})


def test_a_float32_parameter_takes_a_float64_gradient(rng):
    params = {"W": np.ones(3, np.float32)}
    dlfs.Adam(lr=0.5).update(params, {"W": np.ones(3)})
    assert params["W"].dtype == np.float32
    np.testing.assert_allclose(params["W"], 0.5, rtol=1e-5)


SECOND_BOOK = {
    "layers": """
class Affine:
    def __init__(self, W, b):
        self.params, self.grads, self.x = [W, b], [W * 0, b * 0], None
    def forward(self, x):
        W, b = self.params
        self.x = x
        return x @ W + b
    def backward(self, dout):
        self.grads[0][...] = self.x.T @ dout
        return dout @ self.params[0].T
""",
    "optimizer": """
class Adam:
    def __init__(self, lr=0.001, beta1=0.9, beta2=0.999):
        self.lr, self.beta1, self.beta2, self.iter, self.m, self.v = lr, beta1, beta2, 0, None, None
    def update(self, params, grads):
        raise AssertionError("slow")
""",
}


def test_the_second_books_layers_are_left_and_its_optimizers_taken(rng, tmp_path, monkeypatch):
    """Its Affine has the same name, place and arguments, but keeps its weights in a list; its optimizers update lists."""
    (tmp_path / "book2" / "common").mkdir(parents=True)
    for name, text in {"book2/__init__": "", "book2/common/__init__": "", **{f"book2/common/{k}": v for k, v in SECOND_BOOK.items()}}.items():
        (tmp_path / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    try:
        report = dlfs.install()
        from book2.common import layers, optimizer  # noqa: PLC0415

        assert dict(report.left).keys() == {"book2.common.layers.Affine.forward", "book2.common.layers.Affine.backward"}
        x, W, b = rng.standard_normal((4, 5)), rng.standard_normal((5, 3)), rng.standard_normal(3)
        np.testing.assert_array_equal(layers.Affine(W, b).forward(x), x @ W + b)
        params, grads = [W.copy(), b.copy()], [rng.standard_normal((5, 3)), rng.standard_normal(3)]
        adam = optimizer.Adam(lr=0.1)
        adam.update(params, grads)
        assert type(adam.m) is list
        for param, before, grad in zip(params, (W, b), grads, strict=True):
            close(param, _formula("Adam", before, grad, (0, 0), 1)[0])
    finally:
        dlfs.uninstall()
        for name in [name for name in sys.modules if name.partition(".")[0] == "book2"]:
            del sys.modules[name]
