"""How far an epoch is: a bar in terminals and notebooks with tqdm (extra `train`), elsewhere one line per epoch on the logger "fastcnn"."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Mapping
from typing import Any

from fastcnn.train.history import describe

logger = logging.getLogger("fastcnn")

# The bar's text is formatted every so many batches: formatting takes longer than a training step of a small network.
_REFRESH = 16
# Short enough for the numbers to fit into 80 columns; while the epoch runs, what remains of it stands behind what has passed.
_FORMAT = "{desc} |{bar:8}| {elapsed}{postfix}"


def tqdm_class() -> Any:
    """tqdm's bar; None where it is not installed, or where a bar would fill a file with control characters (no terminal, no notebook)."""
    if not sys.stderr.isatty() and "ipykernel" not in sys.modules:
        return None
    try:
        from tqdm.auto import tqdm
    except ImportError:
        return None
    return tqdm


def _columns() -> int | None:
    """The bar's width where the terminal does not know its own, as some in containers: tqdm would draw nothing. Else None: tqdm asks."""
    try:
        return None if os.get_terminal_size(sys.stderr.fileno()).columns else 80
    except (OSError, ValueError):  # a notebook
        return None


class EpochProgress:
    """One epoch: advance() after each batch, finish(row) after validation. Used as a context manager, so that an error leaves no broken line."""

    def __init__(self, trainer: Any, total: int, epochs: int, show: bool):
        self.trainer, self.epochs = trainer, epochs
        self.show = show
        bar_class = tqdm_class() if show else None
        self.bar = bar_class and bar_class(
            total=total,
            initial=trainer.batch,
            desc=f"epoch {trainer.epoch + 1}/{epochs}",
            bar_format=_FORMAT.replace("{elapsed}", "{elapsed}<{remaining}"),
            ncols=_columns(),
        )
        self._images_before = trainer.running.get("images", 0.0) if trainer.batch else 0.0  # of the epoch's part before a resumption
        self._begin = time.perf_counter()

    def __enter__(self) -> EpochProgress:
        return self

    def __exit__(self, *exception: object) -> None:
        if self.bar is not None:
            self.bar.close()

    def advance(self) -> None:
        """One more batch is done; its sums are in trainer.running."""
        if self.bar is None:
            return
        if self.bar.n % _REFRESH == 0:
            running = self.trainer.running
            rate = (running["images"] - self._images_before) / max(time.perf_counter() - self._begin, 1e-9)
            numbers = {f"train_{name}": running[name] / running["images"] for name in ("loss", *self.trainer.metrics)}
            self._text(numbers, refresh=False, rate=f"{rate:.0f} images/s ")
        self.bar.update()

    def finish(self, row: Mapping[str, Any]) -> None:
        """The epoch's row of the history is complete."""
        line = f"epoch {row['epoch']}/{self.epochs}: {describe(row)}"
        if self.bar is None:
            logger.log(logging.INFO if self.show else logging.DEBUG, line)
        else:
            self.bar.bar_format = _FORMAT
            self._text(row, refresh=True)
            logger.debug(line)

    def _text(self, row: Mapping[str, Any], refresh: bool, rate: str = "") -> None:
        short = {name.removeprefix("train_").replace("accuracy", "acc"): row[name] for name in row if name.startswith(("train_", "val_"))}
        self.bar.set_postfix_str(rate + " ".join(f"{name} {value:.3f}" for name, value in short.items()), refresh=refresh)
