"""The notebook's functions on ten 32x32 images of three channels, eight 3x3 filters. "naive" is the notebook's own code."""

import numpy as np

from fastcnn.compat import coursera

from . import columns, notebook


def _everywhere(call):
    return {"naive": lambda: call(notebook), "im2col": lambda: call(columns), "fastcnn": lambda: call(coursera)}


def _problem():
    rng = np.random.default_rng(0)
    return rng.standard_normal((10, 32, 32, 3)), rng.standard_normal((3, 3, 3, 8)), rng.standard_normal((1, 1, 1, 8)), {"stride": 1, "pad": 1}


def _conv_forward():
    A_prev, W, b, hparameters = _problem()
    return _everywhere(lambda kit: kit.conv_forward(A_prev, W, b, hparameters)[0])


def _conv_backward():
    A_prev, W, b, hparameters = _problem()
    dZ = np.random.default_rng(1).standard_normal((10, 32, 32, 8))
    return _everywhere(lambda kit: kit.conv_backward(dZ, (A_prev, W, b, hparameters)))


def _pool(mode):
    def make():
        rng = np.random.default_rng(0)
        A_prev, dA, hparameters = rng.standard_normal((10, 32, 32, 8)), rng.standard_normal((10, 16, 16, 8)), {"f": 2, "stride": 2}

        def call(kit):
            kit.pool_forward(A_prev, hparameters, mode)
            return kit.pool_backward(dA, (A_prev, hparameters), mode)

        return _everywhere(call)

    return make


WORKLOADS = [
    ("conv_forward, 10 images", _conv_forward),
    ("conv_backward, 10 images", _conv_backward),
    ("pool_forward and pool_backward, max", _pool("max")),
    ("pool_forward and pool_backward, average", _pool("average")),
]
