"""The same small network from different first weights: how wide the signal is in each layer, and what training makes of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from fastcnn import datasets, nn, optim
from fastcnn.train import History, Trainer, TrainingDiverged, fit
from fastcnn.watch import layer_outputs

# Name -> what fills a weight. normal's deviation is fixed, whatever the fan-in: too small here, as it once was in many networks.
WEIGHTS: dict[str, Callable[[Any, np.random.Generator], Any]] = {
    "zeros": lambda weight, rng: nn.init.zeros_(weight),
    "constant": lambda weight, rng: nn.init.constant_(weight, 0.05),
    "normal": lambda weight, rng: nn.init.normal_(weight, 0.0, 0.01, rng=rng),
    "xavier": lambda weight, rng: nn.init.xavier_normal_(weight, rng=rng),
    "he": lambda weight, rng: nn.init.kaiming_normal_(weight, nonlinearity="relu", rng=rng),
}
SAID = {
    "zeros": "all 0",
    "constant": "all 0.05",
    "normal": "deviation 0.01",
    "xavier": "deviation sqrt(2 / (fan_in + fan_out))",
    "he": "deviation sqrt(2 / fan_in)",
}


class Outcome(NamedTuple):
    """name: of the initialisation; layers and deviations: of the activations at the start; history: of training, to where it diverged if it did."""

    name: str
    layers: tuple[str, ...]
    deviations: tuple[float, ...]
    history: History
    diverged: bool


def network(name: str, seed: int = 0) -> nn.Sequential:
    """Four convolutions and two linear layers with ReLUs on 1x8x8, weights by WEIGHTS[name], biases 0."""
    rng = np.random.default_rng(seed)
    layers: list[nn.Module] = []
    for inputs, outputs in ((1, 16), (16, 16), (16, 16), (16, 16)):
        layers += [nn.Conv2d(inputs, outputs, 3, padding=1, rng=rng), nn.ReLU()]
    layers += [nn.MaxPool2d(2), nn.Flatten(), nn.Linear(16 * 16, 64, rng=rng), nn.ReLU(), nn.Linear(64, 10, rng=rng)]
    for layer in layers:
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            WEIGHTS[name](layer.weight, rng)
            nn.init.zeros_(layer.bias)
    return nn.Sequential(*layers)


def compare(names: Sequence[str] = tuple(WEIGHTS), epochs: int = 8, lr: float = 0.01, seed: int = 0) -> list[Outcome]:
    """Train the network from each initialisation on the embedded digits: SGD with momentum 0.9, the same batches for all."""
    data = datasets.digits()
    transform = datasets.Standardize.fit(data.train)
    first = transform(data.train.images[:256])
    outcomes = []
    for name in names:
        model = network(name, seed)
        seen = [layer for layer in layer_outputs(model, first) if layer.kind in ("ReLU", "Linear")]
        seen = [layer for index, layer in enumerate(seen) if layer.kind == "ReLU" or index == len(seen) - 1]  # after each ReLU, and at the end
        labels = tuple([*(f"ReLU {number}" for number in range(1, len(seen))), "output"])
        trainer = Trainer(model, nn.CrossEntropyLoss(), optim.SGD(model.parameters(), lr=lr, momentum=0.9))
        diverged = False
        try:
            fit(trainer, data.train, data.test, epochs=epochs, batch_size=32, seed=seed, transform=transform, progress=False)
        except TrainingDiverged:
            diverged = True
        outcomes.append(Outcome(name, labels, tuple(float(layer.output.std()) for layer in seen), trainer.history, diverged))
    return outcomes
