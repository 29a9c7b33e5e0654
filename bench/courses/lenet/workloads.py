"""LeNet-5 on 32x32 digits, updates included. "naive" is code in the course's style: np.tensordot per output pixel."""

import numpy as np

from fastcnn.compat import lenet_scratch

from . import columns
from .network import COURSE, LeNet5


def _step():
    rng = np.random.default_rng(0)
    images, labels = rng.standard_normal((256, 1, 32, 32)), rng.integers(0, 10, 256)
    networks = {"naive": LeNet5(COURSE), "im2col": LeNet5(columns), "fastcnn": LeNet5(lenet_scratch)}
    return {name: (lambda network=network: network.step(images, labels, 1e-5)) for name, network in networks.items()}


WORKLOADS = [("LeNet-5: a training step, 256 images", _step)]
