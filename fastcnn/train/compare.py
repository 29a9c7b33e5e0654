"""How many times faster a training step is on one backend than on another, measured here and now."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from fastcnn import backend
from fastcnn.train.trainer import Trainer

# Worker threads of a BLAS or OpenMP pool spin for some milliseconds after their last task and slow the other pool down; after this pause and
# one untimed step, each timed step has the processors to itself.
_SETTLE_SECONDS = 0.012


class StepTimes(NamedTuple):
    """Times of one training step, in milliseconds, on the active backend and on the one it is compared with."""

    backend: str
    other: str
    threads: int
    batch: int
    steps: int
    ms_min: float
    ms_median: float
    other_ms_min: float
    other_ms_median: float

    @property
    def speedup(self) -> float:
        """Ratio of the medians: how many times faster the active backend is."""
        return self.other_ms_median / self.ms_median

    def __str__(self) -> str:
        return (
            f"one training step of {self.batch} images: {self.ms_median:.2f} ms on {self.backend} ({_threads(self.threads)}), "
            f"{self.other_ms_median:.2f} ms on {self.other} (NumPy, its own threads): {self.speedup:.1f} times faster "
            f"(medians of {self.steps} interleaved steps; minima {self.ms_min:.2f} and {self.other_ms_min:.2f} ms)"
        )


def compare_step_times(
    make_trainer: Callable[[], Trainer], x: np.ndarray, y: np.ndarray, other: str = "reference", max_steps: int = 20, seconds: float = 5.0
) -> StepTimes | None:
    """Time trainer.step(x, y) on the active backend and on `other`, in turn; None if `other` is the active one.

    make_trainer  builds one trainer per backend, over a copy of the model of its own
    seconds       about how long to measure: as many pairs of steps as fit, but at least 3 and at most max_steps
    """
    active = backend.current().name
    if active == other:
        return None
    trainers = {name: make_trainer() for name in (active, other)}
    times: dict[str, list[float]] = {name: [] for name in trainers}
    deadline = time.perf_counter() + seconds
    while len(times[other]) < 3 or (time.perf_counter() < deadline and len(times[other]) < max_steps):
        for name, trainer in trainers.items():
            with backend.use_backend(name):
                time.sleep(_SETTLE_SECONDS)
                trainer.step(x, y)
                start = time.perf_counter()
                trainer.step(x, y)
                times[name].append(1e3 * (time.perf_counter() - start))
    return StepTimes(
        active,
        other,
        backend.get_num_threads(),
        len(x),
        len(times[active]),
        min(times[active]),
        statistics.median(times[active]),
        min(times[other]),
        statistics.median(times[other]),
    )


def _threads(count: int) -> str:
    return f"{count} thread" + "s" * (count != 1)
