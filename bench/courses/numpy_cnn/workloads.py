"""The gradients of 32 digits, one image at a time, six calls each, and the two convolutions alone. "naive" is the course's own code."""

import numpy as np

from fastcnn.compat import numpy_cnn

from . import columns
from .CNN import network


def _everywhere(call):
    return {"naive": lambda: call(network.COURSE), "im2col": lambda: call(columns), "fastcnn": lambda: call(numpy_cnn)}


def _batch():
    rng = np.random.default_rng(0)
    images, labels, params = rng.standard_normal((32, 1, 28, 28)), rng.integers(0, 10, 32), network.parameters()
    return _everywhere(lambda kit: network.batch(images, labels, params, kit)[0])


def _convolution():
    rng = np.random.default_rng(0)
    image, filt, bias = rng.standard_normal((8, 24, 24)), rng.standard_normal((8, 8, 5, 5)), rng.standard_normal((8, 1))
    return _everywhere(lambda kit: kit.convolution(image, filt, bias, 1))


def _convolution_backward():
    rng = np.random.default_rng(0)
    image, filt, dconv = rng.standard_normal((8, 24, 24)), rng.standard_normal((8, 8, 5, 5)), rng.standard_normal((8, 20, 20))
    return _everywhere(lambda kit: kit.convolutionBackward(dconv, image, filt, 1))


def _maxpool():
    rng = np.random.default_rng(0)
    image, dpool = rng.standard_normal((8, 20, 20)), rng.standard_normal((8, 10, 10))

    def call(kit):
        kit.maxpool(image, 2, 2)
        return kit.maxpoolBackward(dpool, image, 2, 2)

    return _everywhere(call)


WORKLOADS = [
    ("the gradients of 32 digits, one at a time", _batch),
    ("convolution, one 8x24x24 image, 8@5x5", _convolution),
    ("convolutionBackward, the same", _convolution_backward),
    ("maxpool and maxpoolBackward, one 8x20x20 image", _maxpool),
]
