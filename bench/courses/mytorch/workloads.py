"""The homework's strided layers on 32x32 images. "naive" is code in the homework's style: np.tensordot per output pixel, pooling in four loops."""

import numpy as np

from fastcnn.compat import mytorch

from . import columns
from .nn import Conv2d, pool


def _convolution(stride):
    def make():
        rng = np.random.default_rng(0)
        A, W = rng.standard_normal((8, 3, 32, 32)), rng.standard_normal((16, 3, 5, 5))
        size = 32 // stride
        dLdZ = rng.standard_normal((8, 16, size, size))
        layers = {name: kit.Conv2d(3, 16, 5, stride, 2, lambda *_: W.copy()) for name, kit in _KITS.items()}

        def call(layer):
            inner = layer.conv2d_stride1
            inner.dLdW, inner.dLdb = np.zeros(W.shape), np.zeros(16)
            return layer.forward(A), layer.backward(dLdZ), inner.dLdW, inner.dLdb

        return {name: (lambda layer=layer: call(layer)) for name, layer in layers.items()}

    return make


def _pooling():
    rng = np.random.default_rng(0)
    A, dLdZ = rng.standard_normal((8, 16, 32, 32)), rng.standard_normal((8, 16, 16, 16))
    layers = {"naive": pool.MaxPool2d(2, 2), "im2col": columns.MaxPool2d(2, 2), "fastcnn": mytorch.MaxPool2d(2, 2)}

    def call(layer):
        layer.forward(A)
        return layer.backward(dLdZ)

    return {name: (lambda layer=layer: call(layer)) for name, layer in layers.items()}


_KITS = {"naive": Conv2d, "im2col": columns, "fastcnn": mytorch}

WORKLOADS = [
    ("Conv2d 16@5x5, padding 2, forward and backward, 8 images", _convolution(1)),
    ("Conv2d 16@5x5, padding 2, stride 2, the same", _convolution(2)),
    ("MaxPool2d 2x2 forward and backward, 8 images of 16 channels", _pooling),
]
