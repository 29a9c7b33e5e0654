"""A fixed bank of oriented filters and three linear layers on handwritten digits.

Network, on 1x28x28:

    36 filters @ 17x17, fixed -> 36x12x12 -> max 2 -> 36x6x6 = 1296 -> FC 256 -> FC 128 -> FC 10, a sigmoid after each linear layer

The bank is the oriented part of the Leung-Malik bank (Leung and Malik 2001, "Representing and recognizing the visual appearance of materials
using three-dimensional textons"): first and second derivatives of Gaussians three times as long as they are wide, at 6 orientations and 3
scales. Their widths are 1, sqrt(2) and 2 pixels, those of its small version: the original's, up to 2 sqrt(2), do not fit into 17x17. As usual,
each filter has mean 0 and absolute values that add up to 1. 10,404 fixed numbers, 366,218 trained parameters.

Features. Nothing before the first linear layer changes, so a run computes the features of all images once, from standardised pixels, and trains
on them (311 MB for MNIST): the trainer takes images and features alike, and the files of a run hold the trained layers only.

Loss. Element-wise binary cross-entropy on one-hot targets, the mean over batch and classes: its gradient is a tenth of that of a sum over the
classes, hence the large learning rate of the plain SGD. Batch size, learning rate and the number of epochs are ours; the report shows pictures
of filters and feature maps, which a run leaves in its folder, and curves.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from fastcnn import backend, nn, optim
from fastcnn.datasets import Dataset
from fastcnn.recipes.base import RecipeData, Setup
from fastcnn.recipes.digits import DigitsRecipe
from fastcnn.train import Trainer
from fastcnn.train.data import ahead, evaluation_batches
from fastcnn.train.runner import Runner, placed

SIZE = 17
ORIENTATIONS = 6
WIDTHS = (1.0, math.sqrt(2), 2.0)
ELONGATION = 3.0
FIXED = 2  # the layers before the trained ones: convolution, pooling


def oriented_filters() -> np.ndarray:
    """The bank (36, 1, 17, 17), float64: first derivatives, then second ones; within these by scale, then by orientation.

    Along the filter a Gaussian of deviation 3 s; across it the first or second derivative of one of deviation s:
    g' = -u / s^2 g and g'' = (u^2 / s^2 - 1) / s^2 g. Constant factors vanish when the filter is brought to its norm.
    """
    y, x = np.mgrid[:SIZE, :SIZE] - SIZE // 2
    filters = []
    for derivative in (lambda u, s: -u, lambda u, s: u**2 / s**2 - 1):
        for s in WIDTHS:
            for k in range(ORIENTATIONS):
                angle = math.pi * k / ORIENTATIONS
                along, across = math.cos(angle) * x + math.sin(angle) * y, math.cos(angle) * y - math.sin(angle) * x
                shape = np.exp(-((along / (ELONGATION * s)) ** 2 + (across / s) ** 2) / 2) * derivative(across, s)
                shape -= shape.mean()
                filters.append(shape / np.abs(shape).sum())
    return np.stack(filters)[:, None]


class OneHotBCELoss(nn.BCELoss):
    """Binary cross-entropy of every output on its own; the target, class numbers, becomes 1 for the class and 0 for the others."""

    def forward(self, input: np.ndarray, target: np.ndarray) -> Any:
        if backend.on_device(target):
            return super().forward(input, backend.current().one_hot(target, input.shape[1], input.dtype))
        return super().forward(input, np.eye(input.shape[1], dtype=input.dtype)[target])


class FeatureTrainer(Trainer):
    """Trains what follows the bank, and computes the features of images that it is given; features are taken as they are."""

    def __init__(self, model: Any, *arguments: Any, **options: Any):
        model = placed(model)
        super().__init__(model[FIXED:], *arguments, **options)
        self._bank = Runner(model[:FIXED])

    def features(self, x: np.ndarray) -> np.ndarray:
        """(N, 36, 6, 6)"""
        if x.shape[1] == len(self._bank.model[0].weight.data):
            return x
        with self._bank.evaluating():  # nothing is kept for a backward pass
            return self._bank.infer(x, set())

    def step(self, x: np.ndarray, y: np.ndarray) -> float:
        return super().step(self.features(backend.place(x)), y)

    def diagnose(self, x: np.ndarray, y: np.ndarray) -> Any:
        return super().diagnose(self.features(x), y)

    def evaluate(self, data: Any, batch_size: int | None = None, prefetch: int = True) -> dict[str, float]:
        with ahead(evaluation_batches(data, self.model, batch_size or self.inference_batch), prefetch) as coming:
            return super().evaluate((self.features(x), y) for x, y in coming)

    def predict(self, x: np.ndarray, batch_size: int | None = None) -> np.ndarray:
        return super().predict(self.features(x), batch_size)


class FilterBank(DigitsRecipe):
    name = "filterbank-mnist"
    description = "36 fixed oriented 17x17 filters and three sigmoid layers with 366,218 trained parameters, on handwritten digits; SGD"
    reported = "no figure: pictures of filters and feature maps, curves of loss and accuracy"
    source = "a coursework report with the oriented filters of the Leung-Malik bank (2001)"
    input_shape = (1, 28, 28)
    setups = {
        "mnist": Setup(epochs=10, batch_size=32, lr=3.0),
        "digits": Setup(epochs=30, batch_size=8, lr=3.0),
        "fashion-mnist": Setup(epochs=10, batch_size=32, lr=3.0),
    }

    def model(self, *, num_classes: int = 10, dtype: Any = np.float32, rng: np.random.Generator | int | None = None) -> nn.Sequential:
        rng = nn.init.default_rng(rng)
        filters = oriented_filters()
        bank = nn.Conv2d(1, len(filters), SIZE, bias=False, dtype=dtype, rng=rng).requires_grad_(False)
        bank.weight.data[...] = filters
        return nn.Sequential(
            bank,  # 36 x 12 x 12
            nn.MaxPool2d(2),  # 36 x 6 x 6
            nn.Flatten(),
            nn.Linear(len(filters) * 6 * 6, 256, dtype=dtype, rng=rng),
            nn.Sigmoid(),
            nn.Linear(256, 128, dtype=dtype, rng=rng),
            nn.Sigmoid(),
            nn.Linear(128, num_classes, dtype=dtype, rng=rng),
            nn.Sigmoid(),
        )

    def trained(self, model: Any) -> nn.Sequential:
        return model[FIXED:]

    def trainer(
        self, model: Any, *, data: str | None = None, epochs: int | None = None, lr: float | None = None, steps: int | None = None
    ) -> FeatureTrainer:
        setup = self.setup(data, epochs=epochs, lr=lr)
        parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        return FeatureTrainer(model, OneHotBCELoss(), optim.SGD(parameters, lr=setup.lr))

    def precomputed(self, trainer: FeatureTrainer, data: RecipeData, transform: Any) -> tuple[RecipeData, None]:
        def features(images: Dataset) -> Dataset:
            with ahead(evaluation_batches(images, trainer.model, trainer.inference_batch, transform), prefetch=True) as coming:
                return Dataset(np.concatenate([backend.to_host(trainer.features(x)) for x, _ in coming]), images.labels, images.classes, images.name)

        train, test = features(data.train), features(data.test)
        return RecipeData(train, test, test), None

    def probabilities(self, outputs: np.ndarray) -> np.ndarray:
        """Each output is the probability of its class, the other classes aside; here they are made to add up to 1."""
        return outputs / outputs.sum(axis=1, keepdims=True)

    def figures(self, model: Any, images: np.ndarray) -> dict[str, Any]:
        from fastcnn import plots

        weight, responses = model[0].weight.data, model[0](images[:1])[0][:, None]
        shown = {"max_filters": len(weight), "columns": 2 * ORIENTATIONS}
        # A row for each width: the first derivatives in six orientations, then the second ones.
        order = np.arange(len(weight)).reshape(2, len(WIDTHS), ORIENTATIONS).swapaxes(0, 1).ravel()
        peaks = np.abs(weight).max(axis=(1, 2, 3), keepdims=True)  # the wide filters are faint beside the narrow ones
        title = f"{len(weight)} fixed filters {SIZE}x{SIZE}: first derivatives (left) and second ones (right) in {ORIENTATIONS} orientations, a row a width"
        return {
            "filters.png": plots.filters((weight / peaks)[order], title=title, label="weight / its filter's largest", **shown),
            "features.png": plots.filters(responses[order], title="the filters' responses to the first test image", label="response", **shown),
        }
