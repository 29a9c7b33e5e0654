"""Two convolutions and two linear layers, on digits (twoconv-mnist) and on colour pictures (twoconv-cifar10).

Network, on 1x28x28 with 8 filters a layer, and on 3x32x32 with 10:

    conv 5x5 -> ReLU -> conv 5x5 -> ReLU -> pool 2 (max, or average with --pool average) -> FC 128 -> ReLU -> FC 10

The pooled maps are 8x10x10 = 800 and 10x12x12 = 1440 features; 105,634 and 189,008 parameters.

Initialisation. The report draws weights from a normal distribution and sets biases to zero. It gives no standard deviation: here it is
sqrt(2 / fan_in) (He et al. 2015), with which a signal keeps its size through ReLUs.

Training. SGD with momentum on softmax cross-entropy; pixels standardised. Batch size, learning rate, its schedule and the number of epochs are
ours: the rate rises over the first tenth of all steps and falls along a line to 0, with every batch, so that also a single epoch of few images
ends with small steps.

Data. The report trained on 50, 100, 200 and 500 images of MNIST, because on more its author's program did not finish: `--subset 500` does the
same, on images drawn with each class in its proportion, the same ones every time. Its 91.8 % after one epoch are 459 of its 500 images, as we
read it: compare the training accuracy that a run prints (measured after the epoch) of

    fastcnn train twoconv-mnist --data-dir DIR --subset 500 --epochs 1 --batch-size 1 --lr 0.001

whose batch size and rate were chosen by that number. For CIFAR-10, which it did not run, 40,000 of the published
training images train the network and 10,000 validate it.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from fastcnn import nn, optim, schedule
from fastcnn.recipes.base import Option, Recipe, Setup
from fastcnn.recipes.digits import DigitsRecipe
from fastcnn.train import Trainer

MOMENTUM = 0.9
RISE = 0.1  # of all steps


class TwoConv(Recipe):
    """What both have in common."""

    source = "a coursework report: two convolutions written in NumPy, SGD with momentum"
    options = {"pool": Option("kind of pooling", choices=("max", "average"))}
    pool = "max"
    filters: int

    def model(self, *, num_classes: int = 10, dtype: Any = np.float32, rng: np.random.Generator | int | None = None) -> nn.Sequential:
        rng = nn.init.default_rng(rng)
        C, H, W = self.input_shape
        features = self.filters * ((H - 8) // 2) * ((W - 8) // 2)  # two unpadded 5x5 take 4 each, pooling halves
        model = nn.Sequential(
            nn.Conv2d(C, self.filters, 5, dtype=dtype, rng=rng),
            nn.ReLU(),
            nn.Conv2d(self.filters, self.filters, 5, dtype=dtype, rng=rng),
            nn.ReLU(),
            nn.MaxPool2d(2) if self.pool == "max" else nn.AvgPool2d(2),
            nn.Flatten(),
            nn.Linear(features, 128, dtype=dtype, rng=rng),
            nn.ReLU(),
            nn.Linear(128, num_classes, dtype=dtype, rng=rng),
        )
        for layer in model:
            if isinstance(layer, (nn.Conv2d, nn.Linear)):
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu", rng=rng)
                nn.init.zeros_(layer.bias)
        return model

    def trainer(
        self, model: Any, *, data: str | None = None, epochs: int | None = None, lr: float | None = None, steps: int | None = None
    ) -> Trainer:
        setup = self.setup(data, epochs=epochs, lr=lr)
        optimizer, total = optim.SGD(model.parameters(), lr=setup.lr, momentum=MOMENTUM), setup.epochs * (steps or 0)

        def factor(step: int) -> float:
            return min((step + 1) / (RISE * total), (total - step) / ((1 - RISE) * total), 1.0)

        rates = schedule.LambdaLR(optimizer, factor) if total else None
        return Trainer(model, nn.CrossEntropyLoss(), optimizer, schedule=rates, schedule_every="batch")


class TwoConvMnist(DigitsRecipe, TwoConv):
    name = "twoconv-mnist"
    description = "two 5x5 convolutions of 8 filters, pooling, two linear layers, 105,634 parameters, on handwritten digits; SGD with momentum"
    reported = "91.8 % on a subset of 500 images after epoch 1; its author could not train on more"
    input_shape = (1, 28, 28)
    filters = 8
    setups = {
        "mnist": Setup(epochs=5, batch_size=32, lr=0.01),
        "digits": Setup(epochs=10, batch_size=16, lr=0.01),
        "fashion-mnist": Setup(epochs=5, batch_size=32, lr=0.01),
    }


class TwoConvCifar10(TwoConv):
    name = "twoconv-cifar10"
    description = "two 5x5 convolutions of 10 filters, pooling, two linear layers, 189,008 parameters, on CIFAR-10; SGD with momentum"
    reported = "not run, because of time"
    input_shape = (3, 32, 32)
    filters = 10
    setups = {"cifar10": Setup(epochs=10, batch_size=32, lr=0.005)}
    validation = 0.2
