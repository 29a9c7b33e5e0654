"""Ctrl-C as a request that is granted between two batches."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any


class TrainingInterrupted(KeyboardInterrupt):
    """Ctrl-C during fit(): the batch under way was finished, and the run saved where fit() was given a folder.

    checkpoint  path of the saved state, for Trainer.resume; None without a folder
    """

    def __init__(self, epoch: int, checkpoint: Path | None):
        super().__init__(f"interrupted in epoch {epoch}" + (f"; saved as {checkpoint}" if checkpoint else ""))
        self.epoch = epoch
        self.checkpoint = checkpoint


@contextlib.contextmanager
def deferred_interrupt() -> Iterator[Callable[[], bool]]:
    """Inside, the first Ctrl-C only makes the yielded function return True; a second one raises KeyboardInterrupt at once.

    Signals reach the main thread only, and a program's own SIGINT handler is left alone: in both cases Ctrl-C does what it did.
    """
    caught: list[bool] = []
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield lambda: False
        return

    def note(number: int, frame: Any) -> None:
        caught.append(True)
        signal.signal(signal.SIGINT, signal.default_int_handler)

    signal.signal(signal.SIGINT, note)
    try:
        yield lambda: bool(caught)
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
