"""What each library does with a recipe's network: a training step, inference, one layer forward or backward.

Dropout draws other masks in each library, so what is checked is computed with nothing dropped; what is timed drops.
"""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from bench.peers import Library
from bench.timing import Contender
from bench.worker import Arrays, Prepared
from fastcnn import nn, optim, recipes
from fastcnn.backend import use_backend
from fastcnn.train import Trainer

CHECKED_STEPS = 3
"""Training steps whose losses must agree before any is timed: the second sees the first update, the third the optimizer's memory of it."""

ADAM_RATE = 3e-4
"""Learning rate that Adam has here at most. It moves a weight by about the rate whatever the gradient, so where a gradient is mostly rounding,
libraries differ by as much. Three steps of deep-cifar10 at its own 1e-3 take the loss of noise from 2.53 to 0.31, and the float32 reference
6e-4 of that away from float64; of wide-256, at 1e-2, further. A step takes the same time at any rate."""


def data_for(recipe: recipes.Recipe, batch: int) -> tuple[nn.Module, np.ndarray, np.ndarray]:
    """The recipe's model, a batch of noise and random labels: what is computed does not depend on what the pictures show. The same in every process."""
    rng = np.random.default_rng(0)
    model = recipe.model(rng=rng)
    x = rng.standard_normal((batch, *recipe.input_shape), dtype=np.float32)
    with use_backend("reference"):
        classes = model(x[:1]).shape[1]
    return model, x, rng.integers(0, classes, batch)


def trainer_for(recipe: recipes.Recipe, model: nn.Module) -> Trainer:
    trainer = recipe.trainer(model)
    if isinstance(trainer.optimizer, optim.Adam):
        trainer.optimizer.lr = min(trainer.optimizer.lr, ADAM_RATE)
    return trainer


@dataclass(frozen=True)
class StepJob:
    """Forward, loss, backward, update. Fixed layers at the beginning of a network are part of it, though a run computes them only once."""

    recipe: str
    batch: int

    def contender(self, library: Library) -> tuple[Contender, object] | None:
        """What is timed, and the network that it trains."""
        recipe = recipes.get(self.recipe)
        model, x, y = data_for(recipe, self.batch)
        return library.step(model, trainer_for(recipe, model), x, y)

    def prepare(self, library: Library) -> Prepared | None:
        made = self.contender(library)
        if made is None:
            return None
        contender, network = made
        with nothing_dropped(network):
            losses = np.asarray([contender.result() for _ in range(CHECKED_STEPS)])
        contender.result()  # what is compiled for a network that drops is compiled now
        return Prepared(contender, [losses])


@dataclass(frozen=True)
class InferenceJob:
    """The network's outputs for the first `batch` of `images` images, in evaluation mode; `state` as statistics() returns it."""

    recipe: str
    images: int
    batch: int
    state: dict[str, np.ndarray]

    def prepare(self, library: Library) -> Prepared | None:
        recipe = recipes.get(self.recipe)
        model, images, _ = data_for(recipe, self.images)
        model.load_state_dict(self.state)
        contender = library.inference(model.eval(), recipe, images[: self.batch])
        return None if contender is None else Prepared(contender, arrays(contender.result()))


def statistics(recipe: str, batch: int, backend: str) -> dict[str, np.ndarray]:
    """The network's state with the statistics of a batch for batch normalisation's running ones: with those that it starts with, signals fade."""
    model, x, _ = data_for(recipes.get(recipe), batch)
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = 1.0
    with use_backend(backend):
        model.train()(x)
    return model.state_dict()


@dataclass(frozen=True)
class Activations:
    """A top-level layer with what reaches it, and a gradient of its output. A fixed layer has no backward."""

    name: str
    layer: nn.Module
    input: np.ndarray
    grad_output: np.ndarray
    fixed: bool


def activations(recipe: str, batch: int) -> list[Activations]:
    """Every top-level layer of the network."""
    chosen = recipes.get(recipe)
    model, x, _ = data_for(chosen, batch)
    chosen.trainer(model)  # switches off the gradient of the images, as training does
    trained = {id(layer) for layer in chosen.trained(model).modules()}
    rng = np.random.default_rng(1)
    found = []
    for name, layer in model.named_children():
        fresh = copy.deepcopy(layer)  # without what backward would need
        with use_backend("reference"):
            output = layer(x)
        found.append(Activations(name, fresh, x, rng.standard_normal(output.shape, dtype=np.float32), id(layer) not in trained))
        x = output
    return found


@dataclass(frozen=True)
class LayerJob:
    """One layer alone: `forward` as in training, or `backward` to its input and its parameters."""

    at: Activations
    kind: str

    def prepare(self, library: Library) -> Prepared | None:
        layer = library.layer(self.at)
        if layer is None:
            return None
        make = library.forward if self.kind == "forward" else library.backward
        with nothing_dropped(layer):
            results = arrays(make(self.at, layer).result())
        return Prepared(make(self.at, layer), results)


def arrays(result: object) -> Arrays:
    """What a library returned, one array or several, as NumPy's, copied: the next call may write where this one did."""
    several = result if isinstance(result, list | tuple) else [result]
    return [np.asarray(one.detach() if hasattr(one, "detach") else one).copy() for one in several]


@contextmanager
def nothing_dropped(*modules: object) -> Iterator[None]:
    """Inside, the dropout layers of these modules, ours or torch's, let everything pass."""
    layers = [(layer, layer.p) for module in modules for layer in module.modules() if type(layer).__name__ == "Dropout"]
    for layer, _ in layers:
        layer.p = 0.0
    try:
        yield
    finally:
        for layer, p in layers:
            layer.p = p
