"""fastcnn.compat.mytorch against a transcription of the homework's semantics: forward and backward, float64, error at most 1e-9."""

# ruff: noqa: NPY002 (the courses draw from NumPy's global generator)

import sys

import numpy as np
import pytest

from bench.courses.mytorch import semantics as course
from fastcnn.compat import mytorch

TOLERANCE = 1e-9


def close(ours, theirs):
    assert ours.shape == theirs.shape
    assert ours.dtype == np.float64
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize(("axes", "shape", "O", "K"), [(1, (2, 3, 9), 4, 3), (1, (1, 1, 5), 2, 5), (2, (2, 3, 6, 7), 4, 3), (2, (1, 2, 4, 4), 3, 1)])
def test_stride_1_convolutions_add_up_their_gradients(rng, axes, shape, O, K):
    kind = {1: mytorch.Conv1d_stride1, 2: mytorch.Conv2d_stride1}[axes]
    layer = kind(shape[1], O, K, lambda *size: rng.standard_normal(size), lambda size: rng.standard_normal(size))
    dLdW, dLdb = np.zeros(layer.W.shape), np.zeros(O)
    for _ in range(2):
        A = rng.standard_normal(shape)
        expected = course.conv(A, layer.W, layer.b)
        close(layer.forward(A), expected)
        assert layer.A is A
        dLdZ = rng.standard_normal(expected.shape)
        dLdA, dW, db = course.conv_backward(dLdZ, A, layer.W)
        dLdW, dLdb = dLdW + dW, dLdb + db
        close(layer.backward(dLdZ), dLdA)
        close(layer.dLdW, dLdW)
        close(layer.dLdb, dLdb)


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("padding", [0, 2])
@pytest.mark.parametrize(("axes", "shape", "K"), [(1, (2, 3, 10), 3), (2, (2, 3, 7, 8), 3), (2, (1, 1, 6, 5), 2)])
def test_strided_convolutions(rng, axes, shape, K, stride, padding):
    kind = {1: mytorch.Conv1d, 2: mytorch.Conv2d}[axes]
    layer = kind(shape[1], 4, K, stride, padding, lambda *size: rng.standard_normal(size), lambda size: rng.standard_normal(size))
    inner = layer.conv1d_stride1 if axes == 1 else layer.conv2d_stride1
    A = rng.standard_normal(shape)
    padded = course.pad(A, padding)
    whole = course.conv(padded, inner.W, inner.b)
    expected = course.downsample(whole, stride)
    close(layer.forward(A), expected)
    dLdZ = rng.standard_normal(expected.shape)
    dLdA, dLdW, dLdb = course.conv_backward(course.downsample_backward(dLdZ, whole.shape, stride), padded, inner.W)
    close(layer.backward(dLdZ), dLdA[course.unpad(padded, padding)])
    close(inner.dLdW, dLdW)
    close(inner.dLdb, dLdb)


@pytest.mark.parametrize("factor", [1, 2, 3])
@pytest.mark.parametrize(("axes", "shape", "K"), [(1, (2, 3, 6), 3), (2, (2, 3, 4, 5), 3), (2, (1, 2, 5, 5), 2)])
def test_transposed_convolutions(rng, axes, shape, K, factor):
    kind = {1: mytorch.ConvTranspose1d, 2: mytorch.ConvTranspose2d}[axes]
    layer = kind(shape[1], 4, K, factor, lambda *size: rng.standard_normal(size), lambda size: rng.standard_normal(size))
    inner = layer.conv1d_stride1 if axes == 1 else layer.conv2d_stride1
    A = rng.standard_normal(shape)
    spread = course.upsample(A, factor)
    expected = course.conv(spread, inner.W, inner.b)
    close(layer.forward(A), expected)
    dLdZ = rng.standard_normal(expected.shape)
    dLdA, dLdW, dLdb = course.conv_backward(dLdZ, spread, inner.W)
    close(layer.backward(dLdZ), course.downsample(dLdA, factor))
    close(inner.dLdW, dLdW)
    close(inner.dLdb, dLdb)


@pytest.mark.parametrize("factor", [1, 2, 4])
@pytest.mark.parametrize("shape", [(2, 3, 9), (2, 3, 5, 8)])
def test_resampling(rng, shape, factor):
    up, down = (mytorch.Upsample1d, mytorch.Downsample1d) if len(shape) == 3 else (mytorch.Upsample2d, mytorch.Downsample2d)
    A = rng.standard_normal(shape)
    layer, expected = up(factor), course.upsample(A, factor)
    close(layer.forward(A), expected)
    grad = rng.standard_normal(expected.shape)
    close(layer.backward(grad), course.downsample(grad, factor))
    layer, expected = down(factor), course.downsample(A, factor)
    close(layer.forward(A), expected)
    grad = rng.standard_normal(expected.shape)
    close(layer.backward(grad), course.downsample_backward(grad, shape, factor))


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize(("shape", "kernel", "stride"), [((2, 3, 7, 6), 3, 1), ((2, 2, 8, 8), 2, 2), ((1, 2, 9, 7), 3, 2), ((1, 1, 7, 7), 2, 3)])
def test_pools(rng, shape, kernel, stride, tied):
    A = np.round(rng.standard_normal(shape)) if tied else rng.standard_normal(shape)
    whole, where = course.max_pool(A, kernel)
    expected = course.downsample(whole, stride)
    dLdZ = rng.standard_normal(expected.shape)
    pool = mytorch.MaxPool2d(kernel, stride)
    close(pool.forward(A), expected)
    close(pool.backward(dLdZ), course.max_pool_backward(course.downsample_backward(dLdZ, whole.shape, stride), where, shape))
    pool = mytorch.MeanPool2d(kernel, stride)
    close(pool.forward(A), course.downsample(course.mean_pool(A, kernel), stride))
    close(pool.backward(dLdZ), course.mean_pool_backward(course.downsample_backward(dLdZ, whole.shape, stride), shape, kernel))
    dLdZ = rng.standard_normal(whole.shape)
    pool = mytorch.MaxPool2d_stride1(kernel)
    close(pool.forward(A), whole)
    close(pool.backward(dLdZ), course.max_pool_backward(dLdZ, where, shape))
    pool = mytorch.MeanPool2d_stride1(kernel)
    close(pool.forward(A), course.mean_pool(A, kernel))
    close(pool.backward(dLdZ), course.mean_pool_backward(dLdZ, shape, kernel))


def test_batch_norm(rng):
    layer = mytorch.BatchNorm2d(3)
    layer.BW, layer.Bb = rng.standard_normal((1, 3, 1, 1)), rng.standard_normal((1, 3, 1, 1))
    M, V = np.zeros((1, 3, 1, 1)), np.ones((1, 3, 1, 1))
    for _ in range(2):
        Z = rng.standard_normal((4, 3, 5, 2)) * 2 + 1
        mean, var = Z.mean(axis=(0, 2, 3), keepdims=True), Z.var(axis=(0, 2, 3), keepdims=True)
        M, V = 0.9 * M + 0.1 * mean, 0.9 * V + 0.1 * var
        NZ = (Z - mean) / np.sqrt(var + 1e-8)
        close(layer.forward(Z), layer.BW * NZ + layer.Bb)
        close(layer.running_M, M)
        close(layer.running_V, V)
    grad, count = rng.standard_normal(Z.shape), 40
    dLdNZ = grad * layer.BW
    dLdV = -0.5 * np.sum(dLdNZ * (Z - mean), axis=(0, 2, 3), keepdims=True) * (var + 1e-8) ** -1.5
    dLdM = -np.sum(dLdNZ, axis=(0, 2, 3), keepdims=True) / np.sqrt(var + 1e-8)
    close(layer.backward(grad), dLdNZ / np.sqrt(var + 1e-8) + dLdV * 2 * (Z - mean) / count + dLdM / count)
    close(layer.dLdBW, np.sum(grad * NZ, axis=(0, 2, 3), keepdims=True))
    close(layer.dLdBb, np.sum(grad, axis=(0, 2, 3), keepdims=True))
    close(layer.forward(Z, eval=True), layer.BW * (Z - M) / np.sqrt(V + 1e-8) + layer.Bb)


def test_the_courses_stream_gives_the_weights():
    np.random.seed(3)
    layer = mytorch.Conv2d_stride1(2, 4, 3)
    np.random.seed(3)
    np.testing.assert_array_equal(layer.W, np.random.normal(0, 1.0, (4, 2, 3, 3)))
    assert layer.b.shape == layer.dLdb.shape == (4,) and not layer.b.any() and layer.dLdW.shape == layer.W.shape


HOMEWORK = '''
import numpy as np
from mytorch.nn.resampling import *


class Conv2d_stride1:
    def __init__(self, in_channels, out_channels, kernel_size, weight_init_fn=None, bias_init_fn=None):
        self.W, self.b = weight_init_fn(out_channels, in_channels, kernel_size, kernel_size), np.ones(out_channels)
        self.dLdW, self.dLdb, self.mine = np.zeros(self.W.shape), np.zeros(out_channels), "mine"

    def forward(self, A):
        raise AssertionError("slow")

    def backward(self, dLdZ):
        self.dLdW {sign} dLdZ
        raise AssertionError("slow")


class Conv2d:
    def __init__(self, in_channels, out_channels, kernel_size, stride, padding=0, weight_init_fn=None, bias_init_fn=None):
        self.pad = padding
        self.conv2d_stride1 = Conv2d_stride1(in_channels, out_channels, kernel_size, weight_init_fn, bias_init_fn)
        self.downsample2d = Downsample2d(stride)

    def forward(self, A):
        A = np.pad(A, ((0,), (0,), (self.pad,), (self.pad,)))
        return self.downsample2d.forward(self.conv2d_stride1.forward(A))

    def backward(self, dLdZ):
        dLdA = self.conv2d_stride1.backward(self.downsample2d.backward(dLdZ))
        return dLdA[:, :, self.pad : dLdA.shape[2] - self.pad, self.pad : dLdA.shape[3] - self.pad]
'''
RESAMPLING = '''
class Downsample2d:
    def __init__(self, downsampling_factor):
        self.downsampling_factor = downsampling_factor

    def forward(self, A):
        raise AssertionError("slow")

    def backward(self, dLdZ):
        raise AssertionError("slow")
'''


@pytest.mark.parametrize("sign", ["=", "+=", "*="])
@pytest.mark.parametrize("before", [True, False], ids=["before the import", "after the import"])
def test_methods_in_a_students_classes(rng, tmp_path, monkeypatch, sign, before):
    home = tmp_path / "mytorch" / "nn"
    home.mkdir(parents=True)
    (tmp_path / "mytorch" / "__init__.py").touch()
    (home / "__init__.py").touch()
    (home / "resampling.py").write_text(RESAMPLING)
    (home / "Conv2d.py").write_text(HOMEWORK.replace("{sign}", sign))
    monkeypatch.syspath_prepend(str(tmp_path))
    try:
        if before:
            report = mytorch.install()
        import mytorch.nn.Conv2d as theirs  # noqa: PLC0415

        layer = theirs.Conv2d(2, 3, 3, 2, 1, lambda *size: np.ones(size))
        if not before:
            report = mytorch.install()
        A = rng.standard_normal((2, 2, 5, 6))
        if sign == "*=":  # neither adds nor sets: theirs stays
            left = dict(report.left)
            assert "none of ours" in left["mytorch.nn.Conv2d.Conv2d_stride1.backward"]
            assert "belongs to it" in left["mytorch.nn.Conv2d.Conv2d_stride1.forward"]
            return
        ours = mytorch.Conv2d(2, 3, 3, 2, 1, lambda *size: np.ones(size), np.ones)
        for turn in (1, 2):
            expected = ours.forward(A)
            close(layer.forward(A), expected)
            ours.conv2d_stride1.dLdW = None if turn == 1 or sign == "=" else ours.conv2d_stride1.dLdW
            close(layer.backward(expected), ours.backward(expected))
            close(layer.conv2d_stride1.dLdW, ours.conv2d_stride1.dLdW)
        assert layer.conv2d_stride1.mine == "mine"
        mytorch.uninstall()
        with pytest.raises(AssertionError, match="slow"):
            layer.conv2d_stride1.forward(A)
    finally:
        mytorch.uninstall()
        for name in [name for name in sys.modules if name.partition(".")[0] == "mytorch"]:
            del sys.modules[name]
