"""How many images a network answers in a second."""

from __future__ import annotations

import statistics
import time
from typing import Any, NamedTuple

import numpy as np

from fastcnn import backend
from fastcnn.train.runner import Runner, placed

# Before the first pass that counts: plans are made, weights are put in order, memory is touched for the first time.
_WARM_UP = 3


class InferenceSpeed(NamedTuple):
    """Times of forward passes of one batch size in evaluation mode, in milliseconds."""

    backend: str
    threads: int
    batch: int
    passes: int
    ms_min: float
    ms_median: float

    @property
    def images_per_second(self) -> float:
        """By the median pass: what one gets; the minimum says what the machine can do undisturbed."""
        return 1e3 * self.batch / self.ms_median

    @property
    def images_per_second_best(self) -> float:
        return 1e3 * self.batch / self.ms_min

    @property
    def ms_per_image(self) -> float:
        return self.ms_median / self.batch

    def to_dict(self) -> dict[str, Any]:
        return self._asdict() | {name: getattr(self, name) for name in ("images_per_second", "images_per_second_best", "ms_per_image")}


def inference_speed(model: Any, x: np.ndarray, seconds: float = 2.0, min_passes: int = 5) -> InferenceSpeed:
    """Time the model on the batch x, as Trainer.predict and a loaded run compute it: by its plan where there is one.

    seconds  about how long to measure; min_passes are timed however long they take. The model is left in evaluation mode.
    """
    if len(x) == 0:
        raise ValueError("inference_speed: x holds no images")
    model.eval()
    runner, refreshed, times = Runner(placed(model)), set(), []
    for _ in range(_WARM_UP):
        runner.infer(x, refreshed)
    end = time.perf_counter() + seconds
    while len(times) < min_passes or time.perf_counter() < end:
        start = time.perf_counter()
        runner.infer(x, refreshed)
        times.append(1e3 * (time.perf_counter() - start))
    return InferenceSpeed(backend.current().name, backend.get_num_threads(), len(x), len(times), min(times), statistics.median(times))
