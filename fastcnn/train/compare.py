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
# one untimed step, the timed steps of a turn have the processors to themselves.
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
        """Ratio of the minima: how many times faster the active backend is. The medians tell how far other processes disturbed either of them."""
        return self.other_ms_min / self.ms_min

    def _place(self) -> str:
        return f"cpu ({self.threads} thread{'s' * (self.threads != 1)})" if self.backend == "cpu" else self.backend

    def __str__(self) -> str:
        return (
            f"one training step of {self.batch} image{'s' * (self.batch != 1)}: {self.ms_min:.2f} ms on {self._place()}, "
            f"{self.other_ms_min:.2f} ms on {self.other} (NumPy, its own threads): {self.speedup:.1f} times faster "
            f"(minima of {self.steps} interleaved steps; medians {self.ms_median:.2f} and {self.other_ms_median:.2f} ms)"
        )


def compare_step_times(
    make_trainer: Callable[[], Trainer], x: np.ndarray, y: np.ndarray, other: str = "reference", max_rounds: int = 20, seconds: float = 5.0
) -> StepTimes | None:
    """Time trainer.step(x, y) on the active backend and on `other`, in turn; None if `other` is the active one.

    make_trainer  builds one trainer per backend, over a copy of the model of its own
    seconds       about how long to measure: as many rounds (of each backend's turn) as fit, but at least 3, or 1 if a round alone takes longer
    """
    active = backend.current().name
    if active == other:
        return None
    trainers = {}
    for name in (active, other):
        with backend.use_backend(name):
            trainers[name] = make_trainer()
    times: dict[str, list[float]] = {name: [] for name in trainers}
    begin = time.perf_counter()
    for done in range(1, max_rounds + 1):
        for name, trainer in trainers.items():
            with backend.use_backend(name):
                time.sleep(_SETTLE_SECONDS)
                warm_up = _milliseconds(trainer, x, y)
                times[name] += [_milliseconds(trainer, x, y) for _ in range(3 if warm_up < 100 else 1)]
        spent = time.perf_counter() - begin
        if spent > seconds and (done >= 3 or spent > done * seconds):
            break
    return StepTimes(
        active,
        other,
        backend.get_num_threads(),
        len(x),
        len(times[other]),
        min(times[active]),
        statistics.median(times[active]),
        min(times[other]),
        statistics.median(times[other]),
    )


def _milliseconds(trainer: Trainer, x: np.ndarray, y: np.ndarray) -> float:
    start = time.perf_counter()
    float(trainer.step(x, y))  # on a device the step has run when its loss is there
    return 1e3 * (time.perf_counter() - start)
