"""fit: the training loop, with validation, progress, callbacks, checkpoints, and an orderly end on Ctrl-C."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from fastcnn.backend import all_to_host, on_device
from fastcnn.nn.module import Module
from fastcnn.options import integer
from fastcnn.options import seed as checked_seed
from fastcnn.random import manual_seed
from fastcnn.train.data import ahead, evaluation_batches, training_batches
from fastcnn.train.diagnose import NotFinite
from fastcnn.train.folder import RunFolder
from fastcnn.train.history import History
from fastcnn.train.interrupt import TrainingInterrupted, deferred_interrupt
from fastcnn.train.progress import EpochProgress
from fastcnn.train.trainer import Metric, Trainer, per_image

# Batches whose losses and logits stay on a device until they are fetched together: the host waits for it once in so many steps.
LOG_EVERY = 32

Callback = Callable[[Trainer, dict[str, Any]], None]


class StopTraining(Exception):
    """Raised by a callback to end fit() after this epoch, as if it had been the last one."""


class TrainingDiverged(ArithmeticError):
    """The loss became NaN or infinite; the message names the layer whose numbers did first, which is the attribute `cause` (a NotFinite, or None)."""

    cause: NotFinite | None = None


def fit(
    model: Any,
    train: Any,
    val: Any = None,
    *,
    loss: Any = None,
    optimizer: Any = None,
    schedule: Any = None,
    metrics: Mapping[str, Metric] | None = None,
    epochs: int = 10,
    batch_size: int = 64,
    seed: int = 0,
    transform: Any = None,
    progress: bool = True,
    callbacks: Sequence[Callback] = (),
    out: str | os.PathLike[str] | None = None,
    prefetch: int = True,
) -> History:
    """Train a model until it has seen `epochs` epochs in all, and return the history (one row per epoch); 0 trains nothing.

    model      a fastcnn.nn module, or a Trainer, which brings its own loss, optimizer, schedule and metrics; one that was resumed, or that
               has trained before, goes on at its epoch (and batch) instead of starting anew
    train      a Dataset, an (x, y) pair of arrays, or datasets.Batches (which has its own batch size, seed and transform)
    val        the same, or None; measured after every epoch
    loss       a loss module; nn.CrossEntropyLoss() by default
    optimizer  over model.parameters(); optim.Adam with its default learning rate, 1e-3, by default
    schedule   stepped after every epoch (for one that wants every batch, give a Trainer with schedule_every="batch")
    metrics    name -> function (logits, target) -> float; accuracy by default
    seed       of the shuffling and, when training starts at its beginning, of the library's default generator (dropout). With the model
               built under fastcnn.manual_seed, or with its own rng, the same seed gives the same bits
    transform  applied to the images of train and val, as in datasets.Batches; random ones (augmentation) to those of train only
    progress   True: a bar per epoch in terminals and notebooks with tqdm (extra `train`), elsewhere a line per epoch at level INFO on
               the logger "fastcnn"; False: neither
    callbacks  called as callback(trainer, row) after every epoch, row being its line of the history; may raise StopTraining
    out        folder for checkpoint.safetensors and history.csv (written after every epoch) and weights.safetensors (at the end)
    prefetch   batches are cut, augmented and converted this many steps ahead, in one background thread; True: as many as pay (none where
               a batch costs less than handing it over), 0 or False: none. The results are the same bits, unless a transform shares state
               with the model (draws from its random generator)

    Raises TrainingDiverged when the loss is no longer finite, naming the layer that began it. Ctrl-C finishes the batch, saves, and raises TrainingInterrupted.
    """
    trainer = _trainer(model, loss, optimizer, schedule, metrics)
    epochs, batch_size, seed = integer(epochs, "fit", "epochs", 0), integer(batch_size, "fit", "batch_size", 1), checked_seed(seed, "fit")
    if not isinstance(prefetch, bool):
        prefetch = integer(prefetch, "fit", "prefetch", 0)
    if callable(callbacks) or not all(map(callable, callbacks)):
        raise TypeError(f"fit: callbacks must be a list of functions (trainer, row), got {callbacks!r}")
    batches = training_batches(train, trainer.model, batch_size, seed, transform)
    measured = None if val is None else evaluation_batches(val, trainer.model, trainer.inference_batch, transform)
    if not len(batches):
        raise ValueError("fit: train holds no batch")
    order = {"images": len(batches.dataset), "batch_size": batches.batch_size, "seed": batches.seed}
    if trainer.batch and trainer.order != order:
        raise ValueError(f"fit: the trainer stands inside an epoch of {trainer.order}, it cannot go on with {order}")
    trainer.order = order
    if trainer.iteration == 0:
        manual_seed(seed)
    folder = None if out is None else RunFolder(out)
    before = trainer.epoch
    with deferred_interrupt() as interrupted:
        stop = False
        while trainer.epoch < epochs and not stop:
            with EpochProgress(trainer, len(batches), epochs, progress) as shown:
                row = _epoch(trainer, batches, prefetch, shown, interrupted, folder)
                if measured is not None:
                    row |= {f"val_{name}": value for name, value in trainer.evaluate(measured, prefetch=prefetch).items()}
                row |= {name: row.pop(name) for name in ("lr", "seconds", "wait", "images_per_second")}  # after the losses
                trainer.history.append(row)
                shown.finish(row)
            for callback in callbacks:
                try:
                    callback(trainer, row)
                except StopTraining:
                    stop = True
            if folder is not None:
                folder.save_progress(trainer)
            if interrupted():
                raise TrainingInterrupted(trainer.epoch, folder.checkpoint if folder else None)
    if folder is not None:
        if trainer.epoch == before:  # nothing was trained, and the folder is complete all the same
            folder.save_progress(trainer)
        folder.save_weights(trainer.model)
    return trainer.history


def _trainer(model: Any, loss: Any, optimizer: Any, schedule: Any, metrics: Any) -> Trainer:
    if isinstance(model, Trainer):
        given = {"loss": loss, "optimizer": optimizer, "schedule": schedule, "metrics": metrics}
        if any(value is not None for value in given.values()):
            raise TypeError(f"fit: a Trainer brings its own {', '.join(name for name, value in given.items() if value is not None)}")
        return model
    from fastcnn import nn, optim

    if not isinstance(model, Module):
        raise TypeError(f"fit: model must be a fastcnn.nn module or a Trainer, got {type(model).__name__}")
    if schedule is not None and optimizer is None:
        raise TypeError("fit: schedule belongs to an optimizer: give that optimizer too")
    return Trainer(
        model,
        nn.CrossEntropyLoss() if loss is None else loss,
        optim.Adam(model.parameters()) if optimizer is None else optimizer,
        schedule=schedule,
        metrics=metrics,
    )


class Tally:
    """The sums of an epoch in trainer.running. What is on a device is fetched LOG_EVERY batches at a time, with one wait for all of it."""

    def __init__(self, trainer: Trainer) -> None:
        self.trainer = trainer
        self._waiting: list[tuple] = []

    def add(self, value: Any, x: Any, y: Any) -> None:
        """One more step, of batch number trainer.batch: its loss and its batch; the logits are the trainer's."""
        if not on_device(value):
            self._take(value, self.trainer.logits, x, y, self.trainer.batch)
            return
        self._waiting.append((value, self.trainer.logits, x, y, self.trainer.batch))
        self.trainer.running["images"] += len(y)
        if len(self._waiting) == LOG_EVERY:
            self.settle()

    def settle(self) -> None:
        """Add what is waiting."""
        steps, self._waiting = self._waiting, []
        fetched = all_to_host([step[k] for step in steps for k in (0, 1, 3)])
        for (_, _, x, _, number), value, output, y in zip(steps, fetched[::3], fetched[1::3], fetched[2::3], strict=True):
            self.trainer.running["images"] -= len(y)  # counted already
            self._take(float(value), output, x, y, number)

    def _take(self, value: float, logits: Any, x: Any, y: Any, number: int) -> None:
        trainer, running = self.trainer, self.trainer.running
        if not math.isfinite(value):
            raise _diverged(trainer, value, x, y, number)
        running["images"] += len(y)
        running["loss"] += per_image(trainer.loss, value, len(y)) * len(y)
        for name, metric in trainer.metrics.items():
            running[name] += metric(logits, y) * len(y)


def _diverged(trainer: Trainer, value: float, x: Any, y: Any, number: int) -> TrainingDiverged:
    cause = trainer.diagnose(x, y)
    text = f"the loss became {value} in epoch {trainer.epoch + 1}, batch {number + 1} (learning rate {trainer.optimizer.lr:g})"
    if cause is not None:
        text += f": {cause}"
    error = TrainingDiverged(text if cause is not None and cause.what == "input" else f"{text}; a smaller learning rate usually helps")
    error.cause = cause
    return error


def _epoch(
    trainer: Trainer, batches: Any, prefetch: int, shown: EpochProgress, interrupted: Callable[[], bool], folder: RunFolder | None
) -> dict[str, Any]:
    """Train one epoch, or what is left of it, and return its training columns. Sums are kept in the trainer, so that a checkpoint has them."""
    if trainer.batch == 0:
        trainer.running = dict.fromkeys(["images", "seconds", "wait", "loss", *trainer.metrics], 0.0)
    running = trainer.running
    batches.set_epoch(trainer.epoch)
    halted, tally, start = False, Tally(trainer), time.perf_counter()
    with ahead(batches, prefetch, first=trainer.batch) as coming:
        for x, y in coming:
            running["lr"] = max(running.get("lr", 0.0), trainer.optimizer.lr)
            tally.add(trainer.step(x, y), x, y)
            trainer.batch += 1
            shown.advance()
            halted = interrupted() and trainer.batch < len(batches)  # after the last batch the epoch is closed first
            if halted:
                break
        tally.settle()
    running["seconds"] += time.perf_counter() - start
    running["wait"] = running.get("wait", 0.0) + coming.wait  # checkpoints of older versions lack it
    if halted:
        if folder is not None:
            folder.save_progress(trainer)
        raise TrainingInterrupted(trainer.epoch + 1, folder.checkpoint if folder else None)
    trainer.epoch, trainer.batch = trainer.epoch + 1, 0
    if trainer.schedule is not None and trainer.schedule_every == "epoch":
        trainer.schedule.step()
    images, seconds = running["images"], running["seconds"]
    row: dict[str, Any] = {"epoch": trainer.epoch}
    row |= {f"train_{name}": running[name] / images for name in ("loss", *trainer.metrics)}
    return row | {"lr": running["lr"], "seconds": seconds, "wait": running["wait"], "images_per_second": images / seconds}
