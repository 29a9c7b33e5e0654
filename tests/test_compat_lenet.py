"""fastcnn.compat.lenet_scratch against a transcription of the course's semantics, and the losses and ties of the original on MNIST."""

# ruff: noqa: NPY002 (the courses draw from NumPy's global generator)

import os
from pathlib import Path

import numpy as np
import pytest

from bench.courses.lenet import semantics as course
from fastcnn import datasets
from fastcnn.compat.lenet_scratch import ActivationLayer, ConvolveLayer, FullyConnectedLayer, LossLayer, MaxpoolLayer

TOLERANCE = 1e-9
ROOT = os.environ.get("FASTCNN_TEST_DATA", "")
mnist = pytest.mark.skipif(not ROOT or not (Path(ROOT) / "mnist").is_dir(), reason="FASTCNN_TEST_DATA names no folder with mnist")


def close(ours, theirs):
    assert ours.shape == theirs.shape
    assert ours.dtype == np.float64
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize(("stride", "pad"), [(1, 0), (2, 0), (1, 2), (3, 1)])
@pytest.mark.parametrize("momentum", [0.9, 0.5])
def test_convolution_updates_itself(rng, stride, pad, momentum):
    layer = ConvolveLayer((4, 2, 3, 3), stride, pad)
    W, b, v_W, v_b = layer.W.copy(), layer.b.copy(), np.zeros(layer.W.shape), np.zeros((1, 4, 1, 1))
    close(b, np.full((1, 4, 1, 1), 0.01))
    for _ in range(3):
        X = rng.standard_normal((3, 2, 7, 8))
        expected, padded = course.conv(X, W, b, stride, pad)
        close(layer.forward_prop(X), expected)
        close(layer.X, padded)
        d = rng.standard_normal(expected.shape)
        dX, dW, db = course.conv_backward(d, padded, W, stride)
        W, v_W = course.updated(W, v_W, dW, 0.1, momentum)
        b, v_b = course.updated(b, v_b, db, 0.1, momentum)
        before = layer.W
        close(layer.backward_prop(d, 0.1, momentum), dX[:, :, pad : pad + 7, pad : pad + 8])
        assert layer.W is not before
        for ours, theirs in zip((layer.W, layer.b, layer.v_W, layer.v_b), (W, b, v_W, v_b), strict=True):
            close(ours, theirs)


@pytest.mark.parametrize(("shape", "size"), [((2, 3, 6, 8), 2), ((1, 2, 9, 6), 3), ((2, 1, 5, 7), 2), ((1, 1, 3, 3), 1)])
@pytest.mark.parametrize("tied", [False, True])
def test_maxpool_gives_the_gradient_to_all_that_tie(rng, shape, size, tied):
    X = np.round(rng.standard_normal(shape) / 2) if tied else rng.standard_normal(shape)
    layer = MaxpoolLayer(size)
    expected = course.maxpool(X, size)
    close(layer.forward_prop(X), expected)
    d = rng.standard_normal(expected.shape)
    close(layer.backward_prop(d), course.maxpool_backward(d, X, size))


def test_a_constant_image_hands_the_whole_gradient_to_everyone():
    layer = MaxpoolLayer()
    layer.forward_prop(np.zeros((1, 1, 4, 4)))
    np.testing.assert_array_equal(layer.backward_prop(np.arange(1.0, 5).reshape(1, 1, 2, 2)), [[[[1, 1, 2, 2], [1, 1, 2, 2], [3, 3, 4, 4], [3, 3, 4, 4]]]])


def test_the_layers_around_them(rng):
    layer = FullyConnectedLayer((6, 4))
    W, b, X, d = layer.W.copy(), layer.b.copy(), rng.standard_normal((5, 6)), rng.standard_normal((5, 4))
    close(layer.forward_prop(X), X @ W + b)
    close(layer.backward_prop(d, 0.2), d @ W.T)
    close(layer.W, course.updated(W, 0, X.T @ d, 0.2, 0.9)[0])
    close(layer.b, course.updated(b, 0, d.sum(axis=0), 0.2, 0.9)[0])
    layer = ActivationLayer()
    close(layer.forward_prop(X), np.maximum(X, 0))
    close(layer.backward_prop(X + 1), np.where(X > 0, X + 1, 0))
    z, label = rng.standard_normal((5, 4)) * 30, rng.integers(0, 4, 5)
    loss, dz = course.softmax_loss(z, label)
    layer = LossLayer(label)
    assert abs(layer.forward_prop(z) - loss) < TOLERANCE
    close(layer.backward_prop(), dz)


@pytest.mark.parametrize("make", [lambda: ConvolveLayer((3, 2, 3, 3)), lambda: FullyConnectedLayer((6, 3))])
def test_need_dx_is_a_switch(rng, make):
    np.random.seed(0)
    with_dx = make()
    np.random.seed(0)
    without = make()
    without.need_dx = False
    X = rng.standard_normal((2, 2, 5, 5) if isinstance(with_dx, ConvolveLayer) else (2, 6))
    d = rng.standard_normal(with_dx.forward_prop(X).shape)
    without.forward_prop(X)
    assert with_dx.backward_prop(d, 0.1).shape == X.shape and without.backward_prop(d, 0.1) is None
    np.testing.assert_array_equal(with_dx.W, without.W)


def lenet():
    """The eleven layers; weights in the order in which the course's constructor draws them."""
    return [
        *(ConvolveLayer((6, 1, 5, 5)), MaxpoolLayer(2), ActivationLayer()),
        *(ConvolveLayer((16, 6, 5, 5)), MaxpoolLayer(2), ActivationLayer()),
        *(ConvolveLayer((120, 16, 5, 5)), ActivationLayer()),
        *(FullyConnectedLayer((120, 84)), ActivationLayer(), FullyConnectedLayer((84, 10))),
    ]


def step(layers, images, labels, lr):
    """The loss of one step: forward, backward, update."""
    z = images
    for i, layer in enumerate(layers):
        z = layer.forward_prop(z.reshape(len(z), -1) if i == 8 else z)
    last = LossLayer(labels)
    loss, d = last.forward_prop(z), last.backward_prop()
    for layer in reversed(layers):
        if isinstance(layer, ActivationLayer) and d.shape != layer.X.shape:
            d = d.reshape(layer.X.shape)
        d = layer.backward_prop(d, lr) if hasattr(layer, "W") else layer.backward_prop(d)
    return loss


@pytest.fixture(scope="module")
def digits():
    """MNIST as the course prepares it: 32x32, scaled by the maximum, standardised over everything, the padding included."""
    train, _ = datasets.load("mnist", ROOT, download=False)
    images = np.pad(train.images, ((0, 0), (0, 0), (2, 2), (2, 2))) / 255
    return (images - images.mean()) / images.std(), train.labels


@mnist
def test_the_losses_of_the_original(digits):
    """Seed 0, learning rate 0.05*0.008, batches of 256: those of the original code. A kernel with another order of additions differs from the second on."""
    images, labels = digits
    np.random.seed(0)
    layers = lenet()
    order = np.random.permutation(len(labels))
    losses = [step(layers, images[batch], labels[batch], 0.05 * 0.008) for batch in order[: 8 * 256].reshape(8, 256)]
    expected = [589.673843, 589.312341, 589.119431, 588.640038, 588.779202, 587.219856, 586.472169, 583.984364]  # cut after six digits
    np.testing.assert_allclose(losses, np.array(expected) + 5e-7, rtol=0, atol=7e-7)


@mnist
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_ties_of_the_original(digits, dtype):
    """How many of the first pooling's windows have one, two, three and four maxima: more than half of them are constant background."""
    images, _ = digits
    np.random.seed(0)
    layer = lenet()[0]
    layer.W, layer.b = layer.W.astype(dtype), layer.b.astype(dtype)
    windows = layer.forward_prop(images[:256].astype(dtype)).reshape(256, 6, 14, 2, 14, 2).transpose(0, 1, 2, 4, 3, 5).reshape(-1, 4)
    tied = np.bincount((windows == windows.max(axis=1, keepdims=True)).sum(axis=1))
    assert tied.tolist() == [0, 135_568, 9_690, 3_344, 152_454]
