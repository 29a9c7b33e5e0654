"""Starting again with new weights when training does not get off the ground, or falls back to it."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from fastcnn.train import Trainer

logger = logging.getLogger("fastcnn")

PATIENCE = 60
WINDOW = 20
# Guessing has the loss log(classes); single batches scatter about it by less than this share when WINDOW of them are averaged.
PROGRESS = 0.05


class RestartingTrainer(Trainer):
    """A Trainer that draws new weights when it finds after PATIENCE steps that nothing has been learned, at most `restarts` times.

    Nothing has been learned when the mean cross-entropy of the last WINDOW of these steps lies less than PROGRESS below that of guessing. It looks
    again every PATIENCE steps, since at large learning rates a network that has begun to learn may lose all its ReLUs at once. A restart also
    empties the optimizer's memory; epoch and schedule go on, so the steps of a failed start count. Every restart is logged.

    fresh     makes a model of the same architecture, from the library's default generator
    """

    # A checkpoint holds these too, so that a resumed run decides as an uninterrupted one.
    _position = (*Trainer._position, "restarts_left", "attempt_steps", "window_loss")

    def __init__(self, model: Any, loss: Any, optimizer: Any, *, fresh: Callable[[], Any], restarts: int, **options: Any):
        super().__init__(model, loss, optimizer, **options)
        self.fresh = fresh
        self.restarts_left = restarts
        self.attempt_steps, self.window_loss = 0, 0.0
        self._first_state = optimizer.state_dict()

    def step(self, x: np.ndarray, y: np.ndarray) -> float:
        value = super().step(x, y)
        if self.restarts_left:
            self.attempt_steps += 1
            if self.attempt_steps > PATIENCE - WINDOW:
                self.window_loss += value / WINDOW
            if self.attempt_steps == PATIENCE:
                self._judge()
        return value

    def _judge(self) -> None:
        guessing, loss = math.log(self.logits.shape[1]), float(self.window_loss)
        self.attempt_steps, self.window_loss = 0, 0.0
        if loss < (1 - PROGRESS) * guessing:
            return
        self.restarts_left -= 1
        logger.info(
            "nothing learned after %d steps (loss %.3f, guessing has %.3f): new weights, %d restarts left",
            PATIENCE, loss, guessing, self.restarts_left,
        )  # fmt: skip
        self.model.load_state_dict(self.fresh().state_dict())
        self.optimizer.load_state_dict(self._first_state | {"lr": self.optimizer.lr})
