"""The smallest of the report's three networks on CIFAR-10; data and training: cifar10.py.

Network, on 3x32x32:

    conv 8 @ 3x3 -> ReLU -> max 2 -> conv 16 @ 3x3 -> ReLU -> max 2 -> FC 10

The convolutions are padded by 1, so the linear layer sees 16x8x8 features; 11,642 parameters.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from fastcnn import nn
from fastcnn.recipes.cifar10 import Cifar10Recipe


class SimpleCifar10(Cifar10Recipe):
    name = "simple-cifar10"
    description = "two 3x3 convolutions and a linear layer, 11,642 parameters, on CIFAR-10; Adam"
    reported = "64.54 % of the training images, 61 % of the test images"

    def model(self, *, num_classes: int = 10, dtype: Any = np.float32, rng: np.random.Generator | int | None = None) -> nn.Sequential:
        rng = nn.init.default_rng(rng)
        return nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1, dtype=dtype, rng=rng),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(8, 16, 3, padding=1, dtype=dtype, rng=rng),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(16 * 8 * 8, num_classes, dtype=dtype, rng=rng),
        )
