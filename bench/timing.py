"""The one timer of the suite: contenders take turns in one run, each with quiet surroundings and warm workers.

Two libraries in one process disturb each other: for some 5 ms after a call the workers of most OpenMP and BLAS runtimes
spin, and take a CPU from whoever runs next. So before every timed stretch of a contender the timer sleeps until the
other workers have parked, then makes one untimed call that wakes this contender's own. The turns are interleaved, and
their order rotates, so that a slow minute of the machine falls on all contenders alike.
"""

import gc
import math
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass

SETTLE = 0.012
"""Seconds of sleep before a turn: more than twice the 5 ms for which idle workers were seen to spin."""

STRETCH = 0.002
"""Least seconds of a timed stretch; shorter calls are repeated to fill it: the clock and a single late wake-up of a worker then weigh under 2 %."""


@dataclass(frozen=True)
class Contender:
    """One side of a comparison. `call` is what is timed; `scope` is entered around each turn (a backend, a no-grad mode)."""

    name: str
    call: Callable[[], object]
    scope: Callable[[], AbstractContextManager] = nullcontext

    def result(self) -> object:
        with self.scope():
            return self.call()


@dataclass(frozen=True)
class Timing:
    """Seconds per call over `repeats` turns of `calls` calls each."""

    minimum: float
    median: float
    repeats: int
    calls: int


def interleaved(
    contenders: Sequence[Contender],
    repeats: int | Mapping[str, int],
    *,
    settle: float | None = None,
    stretch: float | None = None,
) -> dict[str, Timing]:
    """Time the contenders in turns and return {name: Timing}.

    repeats   turns of each contender, or {name: turns}: one with fewer turns leaves after its last
    settle    seconds of sleep before each turn (default SETTLE)
    stretch   least seconds of the timed part of a turn (default STRETCH); the number of calls in it is fixed beforehand, per contender
    """
    settle = SETTLE if settle is None else settle
    stretch = STRETCH if stretch is None else stretch
    names = [contender.name for contender in contenders]
    if len(set(names)) != len(names):
        raise ValueError(f"contenders need different names, got {names}")
    turns = dict.fromkeys(names, repeats) if isinstance(repeats, int) else dict(repeats)
    if sorted(turns) != sorted(names) or min(turns.values(), default=1) < 1:
        raise ValueError(f"repeats must be at least 1 for each of {names}, got {turns}")
    seconds: dict[str, list[float]] = {name: [] for name in names}
    with _no_garbage_collection():
        calls = {contender.name: _calls_per_turn(contender, settle, stretch) for contender in contenders}
        for turn in range(max(turns.values(), default=0)):
            shift = turn % len(contenders)
            for contender in (*contenders[shift:], *contenders[:shift]):
                if turn < turns[contender.name]:
                    seconds[contender.name].append(_turn(contender, calls[contender.name], settle))
    return {name: Timing(min(seconds[name]), statistics.median(seconds[name]), turns[name], calls[name]) for name in names}


def _calls_per_turn(contender: Contender, settle: float, stretch: float) -> int:
    if stretch <= 0:
        return 1
    start = time.perf_counter()
    contender.result()
    if time.perf_counter() - start > 50 * stretch:  # a cold call is no measure, but this one fills a stretch alone whatever it warms up to
        return 1
    return max(1, math.ceil(stretch / max(_turn(contender, 1, settle), 1e-7)))  # 1e-7: a clock that stood still


def _turn(contender: Contender, calls: int, settle: float) -> float:
    call = contender.call
    time.sleep(settle)
    with contender.scope():
        call()
        start = time.perf_counter()
        for _ in range(calls):
            call()
        return (time.perf_counter() - start) / calls


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
