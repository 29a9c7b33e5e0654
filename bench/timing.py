"""The one timer of the suite: sides take turns in one run, each with quiet surroundings and warm workers.

A library that has just run disturbs the next one: for some milliseconds after a call the workers of most OpenMP and BLAS
runtimes spin, and hold a CPU. So before every turn the timer sleeps, then waits until the other sides use no CPU time; the
side itself makes an untimed call, which wakes its own workers and warms its caches, before its timed stretch. The turns are
interleaved, and their order rotates, so that a slow minute of the machine falls on all sides alike.
"""

import gc
import math
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Protocol

SETTLE = 0.012
"""Seconds of sleep before a turn: more than twice the 5 ms for which idle OpenMP workers were seen to spin."""

PATIENCE = 0.5
"""Seconds that a turn waits, beyond SETTLE, for other sides that still use CPU time: BLAS workers spin for tens of milliseconds."""

STRETCH = 0.002
"""Least seconds of a timed stretch; shorter calls are repeated to fill it: the clock and a single late wake-up of a worker then weigh under 2 %."""


class Side(Protocol):
    """Who takes turns: a Contender here, or a worker process that holds one."""

    name: str

    def once(self) -> float:
        """Call once and return the seconds."""

    def turn(self, calls: int) -> float:
        """Call once, then `calls` times; return the seconds per call of the latter."""

    def cpu_seconds(self) -> float | None:
        """CPU time that the side's process has used so far; None where that cannot be told."""


@dataclass(frozen=True)
class Contender:
    """What one library does in a comparison. `call` is what is timed; `scope` is entered around each turn (a backend, a no-grad mode)."""

    name: str
    call: Callable[[], object]
    scope: Callable[[], AbstractContextManager] = nullcontext

    def result(self) -> object:
        with self.scope():
            return self.call()

    def once(self) -> float:
        start = time.perf_counter()
        self.result()
        return time.perf_counter() - start

    def turn(self, calls: int) -> float:
        call = self.call
        with self.scope(), _no_garbage_collection():
            call()
            start = time.perf_counter()
            for _ in range(calls):
                call()
            return (time.perf_counter() - start) / calls

    def cpu_seconds(self) -> None:
        return None  # in the timer's own process


@dataclass(frozen=True)
class Timing:
    """Seconds per call over `repeats` turns of `calls` calls each; half of the turns lie between the quartiles."""

    minimum: float
    lower: float
    median: float
    upper: float
    repeats: int
    calls: int

    @classmethod
    def of(cls, seconds: Sequence[float], calls: int) -> "Timing":
        lower, median, upper = statistics.quantiles(seconds, n=4, method="inclusive") if len(seconds) > 1 else seconds * 3
        return cls(min(seconds), lower, median, upper, len(seconds), calls)


def interleaved(
    sides: Sequence[Side],
    repeats: int | Mapping[str, int],
    *,
    settle: float | None = None,
    stretch: float | None = None,
) -> dict[str, Timing]:
    """Time the sides in turns and return {name: Timing}.

    repeats   turns of each side, or {name: turns}: one with fewer turns leaves after its last
    settle    seconds of sleep before each turn (default SETTLE)
    stretch   least seconds of the timed part of a turn (default STRETCH); the number of calls in it is fixed beforehand, per side
    """
    settle = SETTLE if settle is None else settle
    stretch = STRETCH if stretch is None else stretch
    names = [side.name for side in sides]
    if len(set(names)) != len(names):
        raise ValueError(f"sides need different names, got {names}")
    turns = dict.fromkeys(names, repeats) if isinstance(repeats, int) else dict(repeats)
    if sorted(turns) != sorted(names) or min(turns.values(), default=1) < 1:
        raise ValueError(f"repeats must be at least 1 for each of {names}, got {turns}")
    seconds: dict[str, list[float]] = {name: [] for name in names}
    calls = {side.name: _calls_per_turn(side, sides, settle, stretch) for side in sides}
    for turn in range(max(turns.values(), default=0)):
        shift = turn % len(sides)
        for side in (*sides[shift:], *sides[:shift]):
            if turn < turns[side.name]:
                _settle(side, sides, settle)
                seconds[side.name].append(side.turn(calls[side.name]))
    return {name: Timing.of(seconds[name], calls[name]) for name in names}


def _calls_per_turn(side: Side, sides: Sequence[Side], settle: float, stretch: float) -> int:
    if stretch <= 0:
        return 1
    _settle(side, sides, settle)
    if side.once() > 50 * stretch:  # a cold call is no measure, but this one fills a stretch alone whatever it warms up to
        return 1
    return max(1, math.ceil(stretch / max(side.turn(1), 1e-7)))  # 1e-7: a clock that stood still


def _settle(side: Side, sides: Sequence[Side], settle: float) -> None:
    """Sleep, then wait until the other sides' processes use no CPU time; after PATIENCE go on all the same (the header tells of busy neighbours)."""
    time.sleep(settle)
    others = [other for other in sides if other is not side and other.cpu_seconds() is not None]
    end = time.perf_counter() + PATIENCE
    while others and time.perf_counter() < end:
        before = sum(other.cpu_seconds() for other in others)
        start = time.perf_counter()
        time.sleep(0.001)
        if sum(other.cpu_seconds() for other in others) - before < 0.05 * (time.perf_counter() - start):
            return


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """A collection inside a timed stretch would be charged to whoever happened to run."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
