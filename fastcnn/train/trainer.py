"""Trainer: a model, a loss and an optimizer that train, measure, predict, save and resume together."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from fastcnn import checkpoint, metrics
from fastcnn.backend import all_to_host, on_device, place, to_host
from fastcnn.checkpoint import CheckpointError
from fastcnn.nn.module import Module
from fastcnn.optim import Optimizer
from fastcnn.options import choice, flag, integer
from fastcnn.random import default_rng
from fastcnn.schedule import LRScheduler
from fastcnn.train.capture import Capture
from fastcnn.train.data import ahead, as_pair, evaluation_batches
from fastcnn.train.diagnose import NotFinite, first_not_finite
from fastcnn.train.history import History
from fastcnn.train.runner import Runner, placed

Metric = Callable[[np.ndarray, np.ndarray], float]

# Batch of evaluate() and predict(): forward passes only, so more fit in the caches' reach than in training; the results do not depend on it.
INFERENCE_BATCH = 256


class Trainer:
    """One training step at a time over a model, a loss module and an optimizer.

    model           a fastcnn.nn module; its first layer with parameters stops computing an input gradient (nothing before it needs one),
                    so afterwards model.backward() returns None. On backend "cuda" it is moved to the device
    loss            a loss module: loss(logits, target) -> float, loss.backward() -> grad_logits
    optimizer       one of fastcnn.optim over model.parameters()
    schedule        one of fastcnn.schedule over the optimizer
    schedule_every  "epoch": fit() steps it after each epoch; "batch": step() does, as OneCycleLR wants it
    metrics         name -> function (logits, target) -> float; {"accuracy": metrics.accuracy} by default, {} for none
    inference_batch images at once in evaluate() and predict(): fewer where one image's activations are large
    capture         on backend "cuda": record forward, loss and backward once per batch shape and repeat them with one launch (a CUDA graph), which
                    pays where the kernels are small. Not for networks that draw anew in every step (dropout)

    Public state: `epoch` (whole epochs done), `batch` (batches done in the epoch under way), `iteration` (steps done), `history`
    and `logits` (of the latest step, from before its update).
    """

    _position: tuple[str, ...] = ("epoch", "batch", "iteration")  # numbers that a checkpoint holds

    def __init__(
        self,
        model: Any,
        loss: Any,
        optimizer: Any,
        *,
        schedule: Any = None,
        schedule_every: str = "epoch",
        metrics: Mapping[str, Metric] | None = None,
        inference_batch: int = INFERENCE_BATCH,
        capture: bool = False,
    ):
        _check_parts(model, loss, optimizer, schedule, metrics)
        self.schedule_every = choice(schedule_every, "Trainer", "schedule_every", ("epoch", "batch"))
        self.model, self.loss, self.optimizer, self.schedule = placed(model), loss, optimizer, schedule
        self.metrics = dict(DEFAULT_METRICS if metrics is None else metrics)
        self.inference_batch = integer(inference_batch, "Trainer", "inference_batch", 1)
        self.epoch = self.batch = self.iteration = 0
        self.running: dict[str, float] = {}
        self.order: dict[str, int] = {}
        self.history = History()
        self.logits: np.ndarray | None = None
        self._runner = Runner(model)
        self.set_capture(capture)
        first = first_parametrised(model)
        if first is not None:
            first.requires_input_grad = False

    def set_capture(self, on: bool) -> None:
        """Turn the option `capture` on or off; what was recorded is forgotten. ValueError for a model or a backend whose steps cannot be recorded."""
        capture = Capture(self.model, self.loss) if flag(on, "Trainer", "capture") else None
        if capture is not None:
            capture.check()
        self._capture = capture

    def step(self, x: np.ndarray, y: np.ndarray) -> float:
        """One training step on a batch: forward, loss, backward, update. Returns the loss, as the loss module gives it.

        A loss that is not finite ends the step before backward: its gradients would spoil every parameter, and diagnose() needs them.

        On a device nothing waits: host batches are copied there, and the loss is an array there, whose value float() waits for. So it is not looked at.
        """
        model, loss = self.model, self.loss
        if not model.training:
            model.train()
        self.optimizer.zero_grad()
        plan = self._runner.plan(x, training=True)
        if plan is None:
            x, y = place(x, y)
        if self._capture is not None:
            self.logits, value = self._capture.run(x, y)
        else:
            self.logits = model(x) if plan is None else plan.forward(x)
            value = loss(self.logits, y)
            if not on_device(value):
                value = float(value)
                if not math.isfinite(value):
                    return value
            (model if plan is None else plan).backward(loss.backward())
        self.optimizer.step()
        if self.schedule is not None and self.schedule_every == "batch":
            self.schedule.step()
        self.iteration += 1
        return value

    def diagnose(self, x: np.ndarray, y: np.ndarray) -> NotFinite | None:
        """Where a batch whose loss is not finite makes the first number that is not; None if it does not do so again (dropout draws anew)."""
        return first_not_finite(self.model.train(), place(x), self.loss, place(y))

    def evaluate(self, data: Any, batch_size: int | None = None, prefetch: int = True) -> dict[str, float]:
        """{"loss": ..., <metric>: ...} on a Dataset, an (x, y) pair or an iterable of (x, y) batches, in evaluation mode.

        All logits are gathered first, so that every metric and every weighting of the loss is exact and independent of the batch size.
        A loss with reduction="sum" is divided by the number of images, to be comparable with one with reduction="mean". prefetch is as in fit.
        """
        logits, targets, refreshed = [], [], set()
        batches = evaluation_batches(data, self.model, self._batch_size("evaluate", batch_size))
        with self._runner.evaluating(), ahead(batches, prefetch) as coming:
            for number, batch in enumerate(coming):
                x, y = as_pair(batch, "evaluate", number)
                logits.append(self._runner.infer(place(x), refreshed))
                targets.append(y if on_device(y) else np.asarray(y))
            if not targets or not sum(map(len, targets)):
                raise ValueError("evaluate: the data holds no images")
            output, target = np.concatenate(logits), place(np.concatenate(targets))
            result = {"loss": per_image(self.loss, float(self.loss(output, target)), len(target))}
            output, target = all_to_host([output, target])
        return result | {name: float(metric(output, target)) for name, metric in self.metrics.items()}

    def predict(self, x: np.ndarray, batch_size: int | None = None) -> np.ndarray:
        """The model's outputs (logits) for a batch of any length, in evaluation mode, on the device where x is there."""
        batch_size = self._batch_size("predict", batch_size)
        if not isinstance(x, np.ndarray) and not on_device(x):
            raise TypeError(f"predict: x must be a numpy.ndarray, got {type(x).__name__}")
        if x.ndim == 0 or len(x) == 0:
            raise ValueError("predict: x holds no images")
        with self._runner.evaluating():
            refreshed: set[int] = set()
            if len(x) <= batch_size:
                return self._runner.infer(x, refreshed)
            return np.concatenate([self._runner.infer(x[start : start + batch_size], refreshed) for start in range(0, len(x), batch_size)])

    def _batch_size(self, op: str, batch_size: int | None) -> int:
        return self.inference_batch if batch_size is None else integer(batch_size, op, "batch_size", 1)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a checkpoint: weights, optimizer, schedule, random generators, position in the run and history."""
        arrays = {f"model/{name}": array for name, array in self.model.state_dict().items()}
        state: dict[str, Any] = {
            "kind": "trainer",
            "classes": self._classes(),
            "position": {name: to_host(getattr(self, name)) for name in self._position},
            "running": self.running,
            "order": self.order,
            "history": self.history.rows,
            "generators": {name: rng.bit_generator.state for name, rng in self._generators().items()},
        }
        for part, owner in (("optimizer", self.optimizer), ("schedule", self.schedule)):
            state[part] = {}
            for name, value in (owner.state_dict() if owner is not None else {}).items():
                if isinstance(value, np.ndarray):
                    arrays[f"{part}/{name}"] = value
                else:
                    state[part][name] = value
        checkpoint.save(path, arrays, state)

    def resume(self, path: str | os.PathLike[str]) -> None:
        """Continue where save() left off: every later step gives the bits that the uninterrupted run would have given.

        CheckpointError if the file is damaged or belongs to another network, optimizer or schedule; nothing has changed then.
        """
        arrays, state = checkpoint.load(path)
        if state.get("kind") != "trainer":
            raise CheckpointError(path, "holds weights only, not a training run (load it with checkpoint.load_weights)")
        if state["classes"] != self._classes():
            raise CheckpointError(path, f"was saved by {state['classes']}, this trainer has {self._classes()}")
        parts: dict[str, dict[str, Any]] = {"model": {}, "optimizer": dict(state["optimizer"]), "schedule": dict(state["schedule"])}
        for name, array in arrays.items():
            part, _, key = name.partition("/")
            parts[part][key] = array
        checkpoint.check_fit(path, self.model.state_dict(), parts["model"])
        generators = self._generators()
        kinds = {name: rng.bit_generator.state["bit_generator"] for name, rng in generators.items()}
        if kinds != {name: saved["bit_generator"] for name, saved in state["generators"].items()}:
            raise CheckpointError(path, f"has other random generators than this model: {sorted(state['generators'])} against {sorted(kinds)}")
        before = self.optimizer.state_dict()
        try:
            self.optimizer.load_state_dict(parts["optimizer"])
            if self.schedule is not None:
                self.schedule.load_state_dict(parts["schedule"])
        except (KeyError, TypeError, ValueError) as error:
            self.optimizer.load_state_dict(before)
            raise CheckpointError(path, f"its optimizer or schedule does not fit this trainer's: {error}") from error
        self.model.load_state_dict(parts["model"])
        for name, rng in generators.items():
            rng.bit_generator.state = state["generators"][name]
        for name, value in state["position"].items():
            setattr(self, name, value)
        self.running, self.order, self.history = state["running"], state["order"], History(state["history"])

    def _classes(self) -> dict[str, str]:
        """The kinds of the parts whose saved state only fits its own kind."""
        return {part: type(getattr(self, part)).__name__ for part in ("optimizer", "schedule")}

    def _generators(self) -> dict[str, np.random.Generator]:
        """Every generator that training draws from: the library's default, and those that layers own."""
        found = {"default": default_rng()}
        for name, module in self.model.named_modules():
            for attribute, value in vars(module).items():
                if isinstance(value, np.random.Generator):
                    found[f"{name}.{attribute}"] = value
        return found


def _check_parts(model: Any, loss: Any, optimizer: Any, schedule: Any, metrics: Any) -> None:
    """TypeError for what cannot be a trainer's model, loss, optimizer, schedule or metrics."""
    if not isinstance(model, Module):
        raise TypeError(f"Trainer: model must be a fastcnn.nn module, got {type(model).__name__}")
    if not (callable(loss) and hasattr(loss, "backward")):
        raise TypeError(f"Trainer: loss must be a loss module, as nn.CrossEntropyLoss(), got {type(loss).__name__}")
    if not isinstance(optimizer, Optimizer):
        raise TypeError(f"Trainer: optimizer must be a fastcnn optimizer, got {type(optimizer).__name__}")
    if schedule is not None and not isinstance(schedule, LRScheduler):
        raise TypeError(f"Trainer: schedule must be one of fastcnn.schedule, got {type(schedule).__name__}")
    if metrics is not None and not (isinstance(metrics, Mapping) and all(map(callable, metrics.values()))):
        raise TypeError(f"Trainer: metrics must be a dict of functions (logits, target) -> float, got {type(metrics).__name__} {metrics!r}")


DEFAULT_METRICS: dict[str, Metric] = {"accuracy": metrics.accuracy}


def per_image(loss: Any, value: float, count: int) -> float:
    """A loss value per image: as it is for reduction="mean", divided by the count for "sum"."""
    return value / count if getattr(loss, "reduction", "mean") == "sum" else value


def first_parametrised(model: Any) -> Any:
    """The layer that a chain of Sequentials reaches first among those with parameters; None if a branching container comes before it.

    The input gradient of that layer, and of everything before it, is the gradient of the data, which training has no use for. Inside
    a Residual or Concat several paths add their input gradients, so nothing there is switched off.
    """
    from fastcnn import nn

    chain = isinstance(model, nn.Sequential) and type(model).backward is nn.Sequential.backward
    if not chain:
        return model if not any(True for _ in model.children()) else None
    for layer in model.children():
        if any(True for _ in layer.parameters()):
            return first_parametrised(layer)
    return None
