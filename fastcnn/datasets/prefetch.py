"""Prefetch: batches made ahead of their use, so that a training step does not wait for them."""

from __future__ import annotations

import contextvars
import os
import threading
import time
from collections.abc import Iterable
from numbers import Integral
from queue import SimpleQueue
from typing import Any

DEPTH = 2  # one to hand over and one in the making hide a batch's time wherever it is below a step's; 4 measured no better

# Where every CPU computes already, handing an item over costs the computing threads about 0.1 ms (they lose the CPU 3 times per step instead of
# 0.1 times): on 2 CPUs with 2 computing threads, a LeNet step of 1.6 ms was 5 to 8 % slower with its 0.04 ms batches made in another thread. With
# batches of 0.3 ms and more the two came out even there, and steps were 8 to 14 % shorter where a CPU was free.
CHEAP = 2e-4

_TRIAL = 4  # items that tell whether they are cheap; the first, which also shuffles, does not count

_ITEM, _ERROR, _END = range(3)


class Prefetch:
    """Iterator over the items of an iterable, which one background thread makes ahead: `with Prefetch(batches) as ahead: for x, y in ahead: ...`

    iterable  its iterator runs in that thread (with this thread's context: backend, np.errstate) and must not share state with what the
              caller does meanwhile
    depth     how many items may be waiting or in the making besides the one handed out; 0: no thread, items are made when asked for
    cheap     seconds: if the first few items, made when asked for, show that one takes less than this, the others are made so too; 0: the
              thread starts at once
    wait      seconds that next() has taken so far

    An error in the thread is raised by next() after the items before it, with its traceback. close(), the end of `with`, or losing the last
    reference ends the thread once it has finished the item under way. Both sides sleep while they wait.
    """

    def __init__(self, iterable: Iterable[Any], depth: int = DEPTH, cheap: float = 0.0) -> None:
        if not isinstance(depth, Integral):
            raise TypeError(f"Prefetch: depth must be an int, got {type(depth).__name__}")
        if depth < 0:
            raise ValueError(f"Prefetch: depth must be at least 0, got {depth}")
        self.wait = 0.0
        self._thread: threading.Thread | None = None
        self._done, self._process = False, os.getpid()
        self._iterator = iter(iterable)
        self._depth, self._cheap, self._trial = depth, cheap, [] if depth and cheap else None
        if depth and not cheap:
            self._start()

    def _start(self) -> None:
        self._lane = _Lane(self._depth)
        # The thread knows the lane and not this object, which can therefore be collected while the thread sleeps.
        work = (_produce, self._iterator, self._lane)
        self._thread = threading.Thread(target=contextvars.copy_context().run, args=work, name="fastcnn-prefetch", daemon=True)
        self._iterator = None
        self._thread.start()

    def _made_here(self, start: float) -> Any:
        item = next(self._iterator)
        if self._trial is not None:
            self._trial.append(time.perf_counter() - start)
            if len(self._trial) == _TRIAL:
                if min(self._trial[1:]) >= self._cheap:
                    self._start()
                self._trial = None
        return item

    def __iter__(self) -> Prefetch:
        return self

    def __next__(self) -> Any:
        if self._done:
            raise StopIteration
        start = time.perf_counter()
        try:
            if self._thread is None:
                return self._made_here(start)
            if os.getpid() != self._process:
                raise RuntimeError("Prefetch: this process was forked while batches were made ahead, and has no thread that makes them: iterate anew")
            kind, item = self._lane.ready.get()
        except BaseException:
            self.close()
            raise
        finally:
            self.wait += time.perf_counter() - start
        if kind == _ITEM:
            self._lane.room.put(True)
            return item
        self.close()
        if kind == _END:
            raise StopIteration
        try:
            raise item
        finally:
            del item  # the traceback holds this frame: no cycle

    def close(self) -> None:
        """No more items; returns when the thread has ended."""
        self._stop()
        thread, self._thread = self._thread, None
        if thread is not None and os.getpid() == self._process:
            thread.join()

    def _stop(self) -> None:
        self._done, self._iterator = True, None
        if self._thread is not None and os.getpid() == self._process:  # the queues of a forked child may be locked for ever
            self._lane.stopped = True
            self._lane.room.put(True)

    def __enter__(self) -> Prefetch:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __del__(self) -> None:
        if hasattr(self, "_iterator"):
            self._stop()  # without waiting: this may run anywhere, even in the thread itself


class _Lane:
    """What the two threads share: `room` holds one entry per item that may be made, `ready` the items."""

    def __init__(self, depth: int) -> None:
        self.room: SimpleQueue[bool] = SimpleQueue()
        self.ready: SimpleQueue[tuple[int, Any]] = SimpleQueue()
        self.stopped = False
        for _ in range(depth):
            self.room.put(True)


def _produce(iterator: Any, lane: _Lane) -> None:
    try:
        while lane.room.get() and not lane.stopped:
            try:
                item = next(iterator)
            except StopIteration:
                lane.ready.put((_END, None))
                return
            lane.ready.put((_ITEM, item))
            del item  # the batch is the caller's alone
    except BaseException as error:  # whatever it is, the caller must not wait for ever
        lane.ready.put((_ERROR, error))
