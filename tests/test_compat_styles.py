"""Whole networks in the courses' style (bench/courses): the same numbers before install(), with it, and after uninstall()."""

import importlib

import numpy as np
import pytest

from bench import coursework
from bench.courses.dlfs.common import layers as dlfs_layers
from bench.courses.dlfs.common import optimizer as dlfs_optimizer
from bench.courses.dlfs.simple_convnet import SimpleConvNet, Trainer
from bench.courses.lenet.network import LeNet5
from bench.courses.mytorch.nn import Conv2d as mytorch_conv
from bench.courses.mytorch.nn import pool as mytorch_pool
from bench.courses.numpy_cnn.CNN import backward as cnn_backward
from bench.courses.numpy_cnn.CNN import forward as cnn_forward
from fastcnn.compat import dlfs, lenet_scratch, mytorch, numpy_cnn


def simple_convnet():
    """Losses of three steps of Adam and the first filters."""
    rng = np.random.default_rng(0)
    x, t = rng.standard_normal((6, 1, 12, 12)), rng.integers(0, 10, 6)
    trainer = Trainer(SimpleConvNet(dlfs_layers, (1, 12, 12), filters=4, hidden=7, std=0.1), dlfs_optimizer)
    return [trainer.step(x, t) for _ in range(3)], trainer.network.params["W1"]


def lenet():
    """Losses of three steps and the first filters."""
    rng = np.random.default_rng(0)
    images, labels, network = rng.standard_normal((4, 1, 32, 32)), rng.integers(0, 10, 4), LeNet5()
    return [network.step(images, labels, 1e-3) for _ in range(3)], network.convs[0].W


def strided_layers():
    """Outputs and gradients of the homework's strided layers, the weights' added up over two turns."""
    rng = np.random.default_rng(0)
    A = rng.standard_normal((2, 3, 11, 11))
    conv = mytorch_conv.Conv2d(3, 4, 3, 2, 1, lambda *shape: rng.standard_normal(shape))
    pool = mytorch_pool.MaxPool2d(3, 2)
    outs = []
    for _ in range(2):
        Z = conv.forward(A)
        P = pool.forward(Z)
        outs += [Z, P, pool.backward(P), conv.backward(pool.backward(P))]
    return [*outs, conv.conv2d_stride1.dLdW, conv.conv2d_stride1.dLdb]


def one_image():
    """The four functions of Numpy-CNN."""
    rng = np.random.default_rng(0)
    image, filt, bias = rng.standard_normal((2, 9, 9)), rng.standard_normal((3, 2, 3, 3)), rng.standard_normal((3, 1))
    out = cnn_forward.convolution(image, filt, bias, 1)
    pooled = cnn_forward.maxpool(out, 3, 2)
    return [out, pooled, cnn_backward.maxpoolBackward(pooled, out, 3, 2), *cnn_backward.convolutionBackward(out, image, filt, 1)]


CASES = {
    "dlfs": (
        dlfs,
        simple_convnet,
        {"common.util.im2col", "common.layers.Convolution.forward", "common.layers.Pooling.backward", "common.optimizer.Adam.update"},
    ),
    "lenet_scratch": (lenet_scratch, lenet, {"ConvolveLayer.ConvolveLayer.forward_prop", "MaxpoolLayer.MaxpoolLayer.backward_prop"}),
    "mytorch": (mytorch, strided_layers, {"Conv2d.Conv2d_stride1.forward", "Conv2d.Conv2d_stride1.backward", "pool.MaxPool2d.forward"}),
    "numpy_cnn": (numpy_cnn, one_image, {"forward.convolution", "forward.maxpool", "backward.convolutionBackward", "backward.maxpoolBackward"}),
}


@pytest.mark.parametrize("name", CASES)
def test_the_same_numbers_with_and_without(name):
    module, work, expected = CASES[name]
    before = work()
    try:
        report = module.install()
        replaced = [n for n in report.replaced if n.startswith("bench.courses.")]
        assert all(any(n.endswith("." + end) for n in replaced) for end in expected), report
        with_it = work()
    finally:
        module.uninstall()
    after = work()
    for fast, slow, again in zip(with_it, before, after, strict=True):
        np.testing.assert_allclose(fast, slow, rtol=0, atol=1e-9)
        np.testing.assert_array_equal(slow, again)


@pytest.mark.parametrize("course", ["coursera", "dlfs", "lenet", "mytorch", "numpy_cnn"])
def test_what_the_benchmark_compares_agrees(course):
    """Every contender of a workload but the naive one computes what fastcnn does."""
    for label, make in importlib.import_module(f"bench.courses.{course}.workloads").WORKLOADS:
        calls = make()
        assert set(calls) <= {"naive", "im2col", "fastcnn"}
        assert coursework.difference(coursework.flat(calls["fastcnn"]()), coursework.flat(calls["im2col"]())) < coursework.LIMIT, label
