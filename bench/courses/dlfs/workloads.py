"""SimpleConvNet on 28x28 digits as the book trains it, and its layers alone. "im2col" is the course's own code, "naive" the loops that it replaced."""

import numpy as np

from fastcnn.compat import dlfs

from . import semantics
from .common import layers
from .common import optimizer as course_optimizer
from .simple_convnet import SimpleConvNet, Trainer


def _step():
    rng = np.random.default_rng(0)
    x, t = rng.standard_normal((100, 1, 28, 28)), rng.integers(0, 10, 100)
    course, ours = Trainer(SimpleConvNet(layers), course_optimizer), Trainer(SimpleConvNet(dlfs), dlfs)
    return {"im2col": lambda: course.step(x, t), "fastcnn": lambda: ours.step(x, t)}


def _convolution(images):
    def make():
        rng = np.random.default_rng(0)
        x, W, b = rng.standard_normal((images, 1, 28, 28)), rng.standard_normal((30, 1, 5, 5)), rng.standard_normal(30)
        dout = rng.standard_normal((images, 30, 24, 24))

        def run(kit):
            layer = kit.Convolution(W, b)
            layer.forward(x)
            return layer.backward(dout), layer.dW, layer.db

        def naive():
            semantics.convolution(x, W, b, 1, 0)
            return semantics.convolution_backward(dout, x, W, 1, 0)

        return {"naive": naive, "im2col": lambda: run(layers), "fastcnn": lambda: run(dlfs)}

    return make


def _pooling(images):
    def make():
        rng = np.random.default_rng(0)
        x, dout = rng.standard_normal((images, 30, 24, 24)), rng.standard_normal((images, 30, 12, 12))

        def run(kit):
            layer = kit.Pooling(2, 2, 2)
            layer.forward(x)
            return layer.backward(dout)

        def naive():
            semantics.pooling(x, 2, 2, 2, 0)
            return semantics.pooling_backward(dout, x, 2, 2, 2, 0)

        return {"naive": naive, "im2col": lambda: run(layers), "fastcnn": lambda: run(dlfs)}

    return make


WORKLOADS = [
    ("SimpleConvNet: a training step, 100 images", _step),
    ("Convolution 30@5x5 forward and backward, 4 images", _convolution(4)),
    ("Pooling 2x2 forward and backward, 4 images", _pooling(4)),
]
