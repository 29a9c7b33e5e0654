"""Running a recipe into a folder, resuming it there, and using what it left: train, resume, evaluate, load."""

from __future__ import annotations

import datetime
import logging
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fastcnn import backend, checkpoint, metrics, nn, random
from fastcnn.checkpoint import CheckpointError
from fastcnn.datasets import Batches, Dataset
from fastcnn.datasets.augment import flat
from fastcnn.recipes.base import Recipe, RecipeData, Setup
from fastcnn.summary import summary
from fastcnn.train import History, RunFolder, StepTimes, Trainer, compare_step_times, fit
from fastcnn.train.data import ahead, evaluation_batches
from fastcnn.train.folder import check_types, versions
from fastcnn.train.loop import Callback
from fastcnn.train.runner import Runner, placed

logger = logging.getLogger("fastcnn")

_OPTION_TYPES = {"data": str, "epochs": int, "batch_size": int, "lr": (int, float), "seed": int, "subset": int}

_SHOWN_IMAGES = 4

# The step that is compared with the reference backend's is of fewer images than a batch has if these are more multiply-adds: a few seconds there.
_COMPARED_MACS = 5_000_000_000


class LoadedRun(NamedTuple):
    """A trained network with what it needs to be used."""

    recipe: Recipe
    model: Any
    transform: Any
    classes: tuple[str, ...]
    config: dict[str, Any]
    runner: Runner

    def predict(self, images: np.ndarray) -> np.ndarray:
        """(N, classes) probabilities for images (N, *recipe.input_shape), uint8 in the network's geometry (recipe.picture makes one)."""
        self.model.eval()
        step, refreshed = self.recipe.inference_batch, set()
        outputs = [self.runner.infer(self.transform(images[start : start + step]), refreshed) for start in range(0, len(images), step)]
        return backend.to_host(self.recipe.probabilities(backend.place(np.concatenate(outputs))))


class Result(NamedTuple):
    """What a trained network does on the test set, and where everything is."""

    recipe: Recipe
    data: str
    loss: float
    accuracy: float
    confusion: np.ndarray  # (classes, classes), row = true class
    classes: tuple[str, ...]
    folder: Path
    history: History | None = None
    training_accuracy: float | None = None  # after the last epoch, nothing dropped or augmented
    training_images: int | None = None
    seconds: float | None = None  # of training, without validation
    total_seconds: float | None = None  # from reading the data to the last measurement; None for a run that was resumed
    step_times: StepTimes | None = None

    @property
    def class_accuracy(self) -> dict[str, float]:
        """Share of each class's test images that are recognised."""
        counts = self.confusion.sum(axis=1)
        return {name: float(self.confusion[i, i] / counts[i]) if counts[i] else float("nan") for i, name in enumerate(self.classes)}

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, for JSON."""
        result = {
            "recipe": self.recipe.name,
            "data": self.data,
            "reported": self.recipe.reported,
            "folder": os.fspath(self.folder),
            "test_images": int(self.confusion.sum()),
            "test_loss": self.loss,
            "test_accuracy": self.accuracy,
            "class_accuracy": self.class_accuracy,
            "confusion_matrix": self.confusion.tolist(),
        }
        if self.history is not None:
            result |= {"training_images": self.training_images, "training_accuracy": self.training_accuracy, "epochs": len(self.history)}
            result |= {"training_seconds": self.seconds, "total_seconds": self.total_seconds, "history": self.history.rows}
        if self.step_times is not None:
            result["step_times"] = self.step_times._asdict() | {"speedup": self.step_times.speedup}
        return result


def train(
    recipe: str | Recipe,
    *,
    data: str | None = None,
    data_dir: str | os.PathLike[str] | None = None,
    epochs: int | None = None,
    batch_size: int | None = None,
    lr: float | None = None,
    subset: int | None = None,
    seed: int = 0,
    out: str | os.PathLike[str] | None = None,
    download: bool = True,
    progress: bool = True,
    compare: bool = False,
    callbacks: Sequence[Callback] = (),
    capture: bool = False,
    **options: Any,
) -> Result:
    """Train a recipe and leave weights, checkpoint, configuration, history, measurements and pictures in a run folder.

    data, epochs, batch_size, lr  the recipe's own by default (recipe.setup)
    subset    train on so many of the training images only (recipe.datasets says which)
    seed      of everything random: weights, order, dropout. The same seed gives the same bits
    out       the run folder, runs/<recipe>-<date-time> by default; it must not hold a run already (see resume)
    compare   also measure how much faster a step is than on the reference backend
    callbacks as fit's, called after every epoch
    capture   as Trainer's, on backend "cuda": steps are recorded and repeated, to the same bits
    options   the recipe's own (recipe.options)

    The current backend and thread setting are used. Raises ValueError for options that make no sense.
    """
    from fastcnn import recipes

    began = time.perf_counter()
    recipe = (recipes.get(recipe) if isinstance(recipe, str) else recipe).configured(**options)
    data = recipe.data_name(data)
    setup = recipe.setup(data, epochs=epochs, batch_size=batch_size, lr=lr)
    if seed < 0:
        raise ValueError(f"{recipe.name}: seed must be at least 0, got {seed}")
    checkpoint.require_safetensors()  # missing packages are found before the training, not after it
    path = _new_folder(recipe.name) if out is None else Path(out)
    if (path / "config.json").exists():
        raise ValueError(f"{path} holds a run already: resume it, or choose another folder")
    parts = recipe.datasets(data, data_dir, download, subset)
    transform = recipe.transform(parts.train)
    random.manual_seed(seed)
    model = recipe.model(num_classes=parts.train.num_classes)
    trainer = _trainer(recipe, model, data, setup, parts, capture)
    folder = RunFolder(path)
    folder.write_json(
        "config.json",
        {
            "recipe": recipe.name,
            "options": {"data": data, **setup._asdict(), "seed": seed} | ({} if subset is None else {"subset": subset}),
            "recipe_options": recipe.configuration(),
            "data_dir": None if data_dir is None else os.path.abspath(data_dir),
            "classes": parts.train.classes,
            "input_shape": recipe.input_shape,
            "transform": _state(transform),
            "backend": backend.current().name,
            "capture": capture,
            "threads": backend.get_num_threads(),
            "versions": versions(),
            "started": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        },
    )
    folder.write_text("summary.txt", f"{recipe.name}: {recipe.description}\n\n{summary(model, recipe.input_shape)}\n")
    return _run(_Run(recipe, data, setup, seed, parts, transform, model, trainer, folder, capture, began), progress, compare, callbacks)


def resume(
    path: str | os.PathLike[str],
    *,
    data_dir: str | os.PathLike[str] | None = None,
    download: bool = True,
    progress: bool = True,
    compare: bool = False,
    callbacks: Sequence[Callback] = (),
) -> Result:
    """Go on with the run in a folder, with the options it was started with, to the bits that it would have reached uninterrupted."""
    recipe, options, config = _configuration(path)
    data, seed = options["data"], options["seed"]
    setup = _setup(recipe, options)
    parts = recipe.datasets(data, config.get("data_dir") if data_dir is None else data_dir, download, options.get("subset"))
    transform = _transform(path, recipe, config, parts.train)
    folder = RunFolder(path)
    random.manual_seed(seed)
    model = recipe.model(num_classes=parts.train.num_classes)
    capture = config.get("capture", False)
    if capture and backend.current().name != "cuda":  # it changes no number
        logger.info("steps are not recorded, as they were before: backend %r cannot", backend.current().name)
        capture = False
    trainer = _trainer(recipe, model, data, setup, parts, capture)
    folder.remove_unfinished()
    if folder.checkpoint.exists():  # a run that was stopped before its first epoch ended starts again
        trainer.resume(folder.checkpoint)
    return _run(_Run(recipe, data, setup, seed, parts, transform, model, trainer, folder, capture), progress, compare, callbacks)


def load(path: str | os.PathLike[str]) -> LoadedRun:
    """The network that a run left in its folder, in evaluation mode; CheckpointError if it is not there, damaged, or not of this recipe."""
    recipe, _, config = _configuration(path)
    model = recipe.model(num_classes=len(config["classes"]))
    folder = Path(path)
    weights = folder / "weights.safetensors"
    if not weights.exists() and (folder / "checkpoint.safetensors").exists():
        raise CheckpointError(path, f"the run is not finished: go on with it by `fastcnn train {recipe.name} --resume {os.fspath(path)}`")
    checkpoint.load_weights(weights, recipe.trained(model))
    placed(model).eval()
    return LoadedRun(recipe, model, _transform(path, recipe, config), tuple(config["classes"]), config, Runner(model))


def evaluate(path: str | os.PathLike[str], *, data_dir: str | os.PathLike[str] | None = None, download: bool = True) -> Result:
    """Measure the network of a run folder on the test set of the data it was trained on."""
    run = load(path)
    data = run.config["options"]["data"]
    parts = run.recipe.datasets(data, run.config.get("data_dir") if data_dir is None else data_dir, download)
    if parts.test.classes != run.classes:
        raise CheckpointError(path, f"was trained on the classes {run.classes}, the data set has {parts.test.classes}")
    trainer = run.recipe.trainer(run.model, data=data)
    return _measure(run.recipe, data, trainer, parts.test, run.transform, Path(path))


class _Run(NamedTuple):
    """What train and resume have prepared."""

    recipe: Recipe
    data: str
    setup: Setup
    seed: int
    parts: RecipeData
    transform: Any
    model: Any
    trainer: Trainer
    folder: RunFolder
    capture: bool
    began: float | None = None  # by time.perf_counter; None if it was resumed


def _run(run: _Run, progress: bool, compare: bool, callbacks: Sequence[Callback]) -> Result:
    shown = run.transform(run.parts.test.images[:_SHOWN_IMAGES])
    parts, transform = run.recipe.precomputed(run.trainer, run.parts, run.transform)
    run = run._replace(parts=parts, transform=transform)
    history = fit(
        run.trainer,
        parts.train,
        parts.val,
        epochs=run.setup.epochs,
        batch_size=run.setup.batch_size,
        seed=run.seed,
        transform=(*run.recipe.augmentation, *flat(transform)),
        progress=progress,
        callbacks=callbacks,
        out=run.folder.path,
    )
    result = _measure(run.recipe, run.data, run.trainer, parts.test, transform, run.folder.path)
    known = _measure(run.recipe, run.data, run.trainer, parts.train, transform, run.folder.path)
    total = None if run.began is None else time.perf_counter() - run.began
    seconds = sum(history["seconds"]) if len(history) else 0.0
    result = result._replace(training_accuracy=known.accuracy, training_images=len(parts.train))
    result = result._replace(history=history, seconds=seconds, total_seconds=total)
    run.folder.write_json("metrics.json", result.to_dict())
    with backend.on_host():
        run.model.to("cpu")
        _pictures(run, result, shown)
    if compare:  # last: it is a measurement of this machine, not of the network, and may be cut short
        result = result._replace(step_times=_compare(run))
        run.folder.write_json("metrics.json", result.to_dict())
    return result


def _measure(recipe: Recipe, data: str, trainer: Trainer, images: Dataset, transform: Any, folder: Path) -> Result:
    with ahead(evaluation_batches(images, trainer.model, recipe.inference_batch, transform), prefetch=True) as coming:
        logits = np.concatenate([trainer.predict(x) for x, _ in coming])
    loss = float(trainer.loss(logits, backend.place(images.labels)))
    logits = backend.to_host(logits)
    confusion = metrics.confusion_matrix(logits, images.labels, images.num_classes)
    return Result(recipe, data, loss, metrics.accuracy(logits, images.labels), confusion, images.classes, folder)


def _compare(run: _Run) -> StepTimes | None:
    recipe, classes = run.recipe, run.parts.train.num_classes
    weights = run.trainer.model.state_dict()
    macs = summary(run.model, recipe.input_shape).macs
    count = min(run.setup.batch_size, max(1, _COMPARED_MACS // max(macs, 1)))
    x, y = next(iter(Batches(run.parts.train, count, transform=run.transform)))

    def copy() -> Trainer:
        capture = run.capture and backend.current().name == "cuda"
        trainer = _trainer(recipe, recipe.model(num_classes=classes), run.data, run.setup, run.parts, capture)
        trainer.model.load_state_dict(weights)
        return trainer

    return compare_step_times(copy, x, y)


def _pictures(run: _Run, result: Result, shown: np.ndarray) -> None:
    from fastcnn import plots

    val_name = "test" if run.parts.val is run.parts.test else "validation"
    title = f"{result.recipe.name} on {result.data}"
    try:
        figures = {}
        if len(result.history or ()):
            figures["curves.png"] = plots.curves(result.history, val_name=val_name, title=title)
            if {"train_accuracy", "val_accuracy"} & set(result.history.columns):
                figures["error_rate.png"] = plots.error_rate(result.history, val_name=val_name)
        figures["confusion_matrix.png"] = plots.confusion_matrix(result.confusion, result.classes, normalize=True)
        figures["confusion_counts.png"] = plots.confusion_matrix(result.confusion, result.classes)
        figures["class_accuracy.png"] = plots.class_accuracy(result.class_accuracy, title=f"{title}: {result.accuracy:.2%} of the test images")
        first = next((layer for layer in run.model.modules() if isinstance(layer, nn.Conv2d)), None)
        if first is not None:
            figures["filters.png"] = plots.filters(first.weight)
        for name, figure in (figures | run.recipe.figures(run.model, shown)).items():
            plots.save(figure, run.folder / name)
    except ImportError as error:
        logger.warning("no pictures: %s", error)


def _configuration(path: str | os.PathLike[str]) -> tuple[Recipe, dict[str, Any], dict[str, Any]]:
    from fastcnn import recipes

    config = RunFolder.read_config(path)
    options = config["options"]
    missing = {"data", "seed", *Setup._fields} - options.keys() | {"classes", "transform"} - config.keys()
    file = Path(path) / "config.json"
    if missing:
        raise CheckpointError(file, f"lacks {', '.join(sorted(missing))}")
    check_types(file, options, _OPTION_TYPES)
    try:
        recipe = recipes.get(config["recipe"]).configured(**config.get("recipe_options", {}))
        _setup(recipe, options)
    except ValueError as error:
        raise CheckpointError(file, str(error)) from error
    if options["seed"] < 0:
        raise CheckpointError(file, f"seed must be at least 0, got {options['seed']}")
    return recipe, options, config


def _trainer(recipe: Recipe, model: Any, data: str, setup: Setup, parts: RecipeData, capture: bool) -> Trainer:
    steps = -(-len(parts.train) // setup.batch_size)
    trainer = recipe.trainer(model, data=data, epochs=setup.epochs, lr=setup.lr, steps=steps)
    trainer.set_capture(capture)
    return trainer


def _setup(recipe: Recipe, options: Mapping[str, Any]) -> Setup:
    return recipe.setup(options["data"], **{name: options[name] for name in Setup._fields})


def _transform(path: str | os.PathLike[str], recipe: Recipe, config: Mapping[str, Any], train: Dataset | None = None) -> Any:
    try:
        return recipe.transform(train, config["transform"])
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(Path(path) / "config.json", f"its transform cannot be restored ({type(error).__name__}: {error})") from error


def _state(transform: Any) -> Mapping[str, Any]:
    return transform.state_dict() if hasattr(transform, "state_dict") else {}


def _new_folder(name: str) -> Path:
    """runs/<name>-<date-time>, with a number behind it where that exists already."""
    stem = Path("runs") / f"{name}-{time.strftime('%Y-%m-%d-%H%M%S')}"
    path, number = stem, 1
    while path.exists():
        number += 1
        path = stem.with_name(f"{stem.name}-{number}")
    return path
