"""What the three networks of one report on CIFAR-10 share: their data and their training.

Of the 50,000 published training images 40,000 train the network and 10,000 validate it, each class in its proportion; the 10,000 test images
are measured once, after the last epoch: everything that is ours below was chosen by the validation images. Pixels are standardised per channel by
the training images. Adam on softmax cross-entropy, batches of 64, 15 epochs. Layers start as PyTorch's do by default.

The report's rate is 1e-3 throughout. Then it is a matter of luck in which epoch training ends: the validation accuracy of batchnorm-cifar10 moved between
67.1 and 72.1 % over the last six epochs. Here the rate falls along half a cosine. The two larger networks also see every image as it is or mirrored, at
random (the report's seem to see them as they are): without that the deep one had learned 94 % of its training images by heart after 9 epochs.
"""

from __future__ import annotations

from typing import Any

from fastcnn import nn, optim, schedule
from fastcnn.recipes.base import Recipe, Setup
from fastcnn.train import Trainer


class Cifar10Recipe(Recipe):
    source = "a coursework report on CIFAR-10 in PyTorch: 40,000 / 10,000 / 10,000 images, Adam"
    input_shape = (3, 32, 32)
    setups = {"cifar10": Setup(epochs=15, batch_size=64, lr=1e-3)}
    validation = 0.2

    def trainer(
        self, model: Any, *, data: str | None = None, epochs: int | None = None, lr: float | None = None, steps: int | None = None
    ) -> Trainer:
        setup = self.setup(data, epochs=epochs, lr=lr)
        optimizer = optim.Adam(model.parameters(), lr=setup.lr)
        return Trainer(model, nn.CrossEntropyLoss(), optimizer, schedule=schedule.CosineAnnealingLR(optimizer, setup.epochs))
