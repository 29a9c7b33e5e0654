"""What a recipe is: a network, the data it is for, and how it is trained."""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping
from typing import Any, NamedTuple, TypeVar

import numpy as np

from fastcnn import datasets
from fastcnn import functional as F
from fastcnn.datasets import Dataset, DatasetError, Standardize
from fastcnn.train.trainer import INFERENCE_BATCH

Self = TypeVar("Self", bound="Recipe")

# Of the division into training and validation part, and of subsets: fixed, so that runs with different seeds measure on the same images.
SPLIT_SEED = 0


class Setup(NamedTuple):
    """How a recipe trains on one data set unless told otherwise."""

    epochs: int
    batch_size: int
    lr: float


class Option(NamedTuple):
    """Something that a recipe leaves open, for `recipe.configured(<name>=value)` and `fastcnn train NAME --<name> VALUE`.

    The recipe has an attribute of the option's name, which holds its value: the default in the class.
    """

    help: str
    choices: tuple[Any, ...] = ()  # (): any whole number from minimum on
    minimum: int = 0


class RecipeData(NamedTuple):
    """The parts of a data set in the network's geometry. val is the test set itself where a recipe chooses nothing by it."""

    train: Dataset
    val: Dataset
    test: Dataset


class Recipe:
    """Base class. A recipe gives the class attributes, model() and trainer(); the rest has defaults that suit most.

    name             what `fastcnn train` calls it
    aliases          other name -> the data set that is the default under it
    description      the network and its training in a line
    reported         what its source reported, to be printed beside our own figure
    source           where network and setup come from
    input_shape      (C, H, W) of the network's input
    setups           data set name -> Setup; the first is the default
    options          what can be chosen besides: see Option
    augmentation     random transforms of the training images, while they are uint8; nothing else is measured with them
    validation       the part of the training images that is set aside to validate on; 0: the test set is shown after every epoch
    dark_ground      trained on bright drawings on a dark ground: predicting from others earns a warning
    inference_batch  images at once where nothing is trained; fewer where one image's activations are large
    bench_batch      images per step in `python -m bench step`
    """

    name: str
    aliases: Mapping[str, str] = {}
    description: str
    reported: str
    source: str
    input_shape: tuple[int, int, int]
    setups: Mapping[str, Setup]
    options: Mapping[str, Option] = {}
    augmentation: tuple[Any, ...] = ()
    validation: float = 0.0
    dark_ground = False
    inference_batch: int = INFERENCE_BATCH
    bench_batch: int = 64

    def model(self, *, num_classes: int = 10, dtype: Any = np.float32, rng: np.random.Generator | int | None = None) -> Any:
        """The network with fresh weights."""
        raise NotImplementedError

    def trainer(
        self, model: Any, *, data: str | None = None, epochs: int | None = None, lr: float | None = None, steps: int | None = None
    ) -> Any:
        """A fastcnn.Trainer over the model with the recipe's loss, optimizer and schedule.

        epochs  what the schedule is planned for
        steps   batches of an epoch: where the rate moves with every batch it stays constant without them
        """
        raise NotImplementedError

    def trained(self, model: Any) -> Any:
        """The part of the model that training changes, and that a run keeps: all of it, unless it begins with fixed layers."""
        return model

    def precomputed(self, trainer: Any, data: RecipeData, transform: Any) -> tuple[RecipeData, Any]:
        """data and transform as the run uses them: where a model begins with fixed layers, their outputs can be computed once, here."""
        return data, transform

    def probabilities(self, outputs: np.ndarray) -> np.ndarray:
        """The model's outputs (N, classes) as probabilities."""
        return F.softmax(outputs, dim=1)

    def figures(self, model: Any, images: np.ndarray) -> dict[str, Any]:
        """File name -> matplotlib figure: what a run's folder shows besides curves and confusion matrix; images: some test images, transformed."""
        return {}

    def configured(self: Self, **options: Any) -> Self:
        """The recipe with those options that are not None; ValueError for an option or a value that it does not have."""
        chosen = copy.copy(self)
        for name, value in options.items():
            if value is None:
                continue
            if name not in self.options:
                known = f"there are {', '.join(self.options)}" if self.options else "it has none"
                raise ValueError(f"{self.name}: no option {name!r}, {known}")
            option = self.options[name]
            if option.choices and value not in option.choices:
                raise ValueError(f"{self.name}: {name} must be {' or '.join(map(str, option.choices))}, got {value!r}")
            if not option.choices and not (type(value) is int and value >= option.minimum):
                raise ValueError(f"{self.name}: {name} must be a whole number of at least {option.minimum}, got {value!r}")
            setattr(chosen, name, value)
        return chosen

    def configuration(self) -> dict[str, Any]:
        """The value of every option: recipe.configured(**recipe.configuration()) is the same recipe."""
        return {name: getattr(self, name) for name in self.options}

    def preferring(self: Self, data: str) -> Self:
        """The recipe with that data set as the default."""
        chosen = copy.copy(self)
        chosen.setups = {data: self.setups[data], **self.setups}
        return chosen

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

    def datasets(
        self, data: str | None = None, data_dir: str | os.PathLike[str] | None = None, download: bool = True, subset: int | None = None
    ) -> RecipeData:
        """Load a data set, divide it and bring it into the network's geometry.

        subset   train on so many images only: drawn at random, every class in its proportion, the same ones every time; None: on all
        """
        name = self.data_name(data)
        parts = self.load(name, data_dir, download)
        if subset is None:
            return parts
        if not 1 <= subset <= len(parts.train):
            raise ValueError(f"{self.name}: subset must be from 1 to {len(parts.train)}, the training images of {name}, got {subset}")
        return parts._replace(train=datasets.split(parts.train, [subset], SPLIT_SEED, stratify=True)[0])

    def load(self, data: str, data_dir: str | os.PathLike[str] | None, download: bool) -> RecipeData:
        """The whole data set, divided: val is a part of the published training images, with each class in proportion, or the test set."""
        try:
            splits = datasets.load(data, data_dir, download)
        except DatasetError as error:
            if "digits" in self.setups and data != "digits":
                raise DatasetError(f"{error}. Or train on the digits that come with the package: --data digits") from error
            raise
        train, test = (part.map(self.prepare) for part in splits)
        if not self.validation:
            return RecipeData(train, test, test)
        train, val = datasets.split(train, [1 - self.validation, self.validation], SPLIT_SEED, stratify=True)
        return RecipeData(train, val, test)

    def prepare(self, images: np.ndarray) -> np.ndarray:
        """Images (N, C, h, w) in the network's geometry, (N, *input_shape), as uint8."""
        return images if images.shape[1:] == self.input_shape else datasets.resize(images, self.input_shape[1:])

    def picture(self, pixels: np.ndarray, data: str) -> np.ndarray:
        """One picture (C, h, w) of any size, uint8, as the network that was trained on `data` wants to see it: (C, H, W)."""
        from fastcnn.recipes.pictures import shrink

        return shrink(pixels, self.input_shape[1:])

    def transform(self, train: Dataset | None = None, state: Mapping[str, Any] | None = None) -> Any:
        """What turns uint8 batches into the network's input: standardising, fitted to train, or as it was when its state was saved."""
        if state:
            return Standardize(state["mean"], state["std"])
        if train is None:
            raise ValueError(f"{self.name}: transform needs the training set or a saved state")
        return Standardize.fit(train)
