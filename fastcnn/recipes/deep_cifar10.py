"""The largest of the report's three networks on CIFAR-10: eight convolutions, dropout; data and training: cifar10.py.

Network, on 3x32x32: four pairs of convolutions with 32, 64, 128 and 256 filters, each convolution followed by BN and LeakyReLU (slope 0.01),
each pair by max 2; then

    256x2x2 -> global average -> dropout 0.5 -> FC 10

All convolutions are 3x3, padded by 1, and keep the bias that the batch normalisation after them makes superfluous, as PyTorch's do unless told
otherwise; 1,176,746 parameters. The report's picture of it is the normalised confusion matrix, which every run leaves in its folder.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from fastcnn import datasets, nn
from fastcnn.recipes.cifar10 import Cifar10Recipe


class DeepCifar10(Cifar10Recipe):
    name = "deep-cifar10"
    description = "eight 3x3 convolutions with batch normalisation, dropout, 1,176,746 parameters, on CIFAR-10, mirrored at random; Adam"
    augmentation = (datasets.RandomHorizontalFlip(),)
    reported = "96.88 % of the training images, 81.90 % of the test images"

    def model(self, *, num_classes: int = 10, dtype: Any = np.float32, rng: np.random.Generator | int | None = None) -> nn.Sequential:
        rng = nn.init.default_rng(rng)
        layers, channels = [], 3
        for filters in (32, 64, 128, 256):
            for _ in range(2):
                layers += [
                    nn.Conv2d(channels, filters, 3, padding=1, dtype=dtype, rng=rng),
                    nn.BatchNorm2d(filters, dtype=dtype),
                    nn.LeakyReLU(),
                ]
                channels = filters
            layers.append(nn.MaxPool2d(2))
        head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.5), nn.Linear(channels, num_classes, dtype=dtype, rng=rng)]
        return nn.Sequential(*layers, *head)
