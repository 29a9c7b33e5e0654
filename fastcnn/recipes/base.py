"""What a recipe is: a network, the data it is for, and how it is trained."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from fastcnn import datasets
from fastcnn.datasets import Dataset, Standardize


class Setup(NamedTuple):
    """How a recipe trains on one data set unless told otherwise."""

    epochs: int
    batch_size: int
    lr: float


class RecipeData(NamedTuple):
    """The parts of a data set in the network's geometry. val is the test set itself where a recipe chooses nothing by it."""

    train: Dataset
    val: Dataset
    test: Dataset


class Recipe:
    """Base class. A recipe gives the class attributes, model() and trainer(); the rest has defaults that suit most.

    name, aliases    what `fastcnn train` calls it
    description      the network and its training in a line
    reported         what its source reported, to be printed beside our own figure
    source           where network and setup come from
    input_shape      (C, H, W) of the network's input
    setups           data set name -> Setup; the first is the default
    """

    name: str
    aliases: tuple[str, ...] = ()
    description: str
    reported: str
    source: str
    input_shape: tuple[int, int, int]
    setups: Mapping[str, Setup]

    def model(self, *, num_classes: int = 10, dtype: Any = np.float32, rng: np.random.Generator | int | None = None) -> Any:
        """The network with fresh weights."""
        raise NotImplementedError

    def trainer(self, model: Any, *, data: str | None = None, epochs: int | None = None, lr: float | None = None) -> Any:
        """A fastcnn.Trainer over the model with the recipe's loss, optimizer and schedule; epochs is what the schedule is planned for."""
        raise NotImplementedError

    def setup(self, data: str | None = None, **changes: Any) -> Setup:
        """The Setup for a data set (the first one by default), with those changes that are not None; ValueError for impossible numbers."""
        data = self.data_name(data)
        setup = self.setups[data]._replace(**{name: value for name, value in changes.items() if value is not None})
        for name, value in setup._asdict().items():
            if not value > 0:
                raise ValueError(f"{self.name}: {name} must be greater than 0, got {value}")
        return setup

    def data_name(self, data: str | None = None) -> str:
        """data itself, or the default data set for None; ValueError for one that the recipe has no setup for."""
        name = next(iter(self.setups)) if data is None else data
        if name not in self.setups:
            raise ValueError(f"{self.name}: no setup for the data set {name!r}, there are {', '.join(self.setups)}")
        return name

    def datasets(self, data: str | None = None, data_dir: str | os.PathLike[str] | None = None, download: bool = True) -> RecipeData:
        """Load a data set, divide it and bring it into the network's geometry. Without a split of its own a recipe measures on the test set."""
        splits = datasets.load(self.data_name(data), data_dir, download)
        train, test = (part.map(self.prepare) for part in splits)
        return RecipeData(train, test, test)

    def prepare(self, images: np.ndarray) -> np.ndarray:
        """Images (N, C, h, w) in the network's geometry, (N, *input_shape), as uint8."""
        return datasets.resize(images, self.input_shape[1:])

    def picture(self, pixels: np.ndarray, data: str) -> np.ndarray:
        """One picture (C, h, w) of any size, uint8, as the network that was trained on `data` wants to see it: (C, H, W)."""
        return self.prepare(pixels[None])[0]

    def transform(self, train: Dataset | None = None, state: Mapping[str, Any] | None = None) -> Any:
        """What turns uint8 batches into the network's input: standardising, fitted to train, or as it was when its state was saved."""
        if state:
            return Standardize(state["mean"], state["std"])
        if train is None:
            raise ValueError(f"{self.name}: transform needs the training set or a saved state")
        return Standardize.fit(train)
