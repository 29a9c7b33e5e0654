"""What happened in each epoch: numbers a person can plot, a program can read and a checkpoint can hold."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterator, Mapping
from typing import Any

# A wait of less than this share of an epoch is not worth a word.
_WAIT_SHARE = 0.05


class History:
    """One row (a dict) per epoch; `history["train_loss"]` is a column, with None where an epoch has no such number.

    Columns: epoch (from 1), train_loss, train_<metric>, val_loss, val_<metric> (with validation data), lr (in use during the epoch, the largest),
    seconds (training only, without validation), wait (those of them spent waiting for a batch) and images_per_second. Losses are per image.
    The training numbers are taken from the batches as they were trained on, dropout and all, so the weights they were measured with changed
    during the epoch.
    """

    def __init__(self, rows: list[dict[str, Any]] | None = None):
        self.rows: list[dict[str, Any]] = [dict(row) for row in rows or []]

    def append(self, row: Mapping[str, Any]) -> None:
        """Add the row of one more epoch."""
        self.rows.append(dict(row))

    @property
    def columns(self) -> list[str]:
        """Every column name, in order of first appearance."""
        return list(dict.fromkeys(name for row in self.rows for name in row))

    def __getitem__(self, column: str) -> list[Any]:
        if column not in self.columns:
            raise KeyError(f"no column {column!r}, there are {self.columns}")
        return [row.get(column) for row in self.rows]

    def __contains__(self, column: str) -> bool:
        return column in self.columns

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def __repr__(self) -> str:
        last = f", last: {describe(self.rows[-1])}" if self.rows else ""
        return f"History({len(self.rows)} epochs{last})"

    def to_csv(self) -> str:
        """The table as CSV text with a header line; floats in full, so that equal runs give equal files but for the seconds."""
        text = io.StringIO()
        if not self.rows:
            return ""
        writer = csv.DictWriter(text, self.columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        return text.getvalue()

    @classmethod
    def from_csv(cls, path: str | os.PathLike[str]) -> History:
        """Read a file that holds to_csv's text. Raises ValueError naming the file, and the line, where it holds something else."""
        rows: list[dict[str, Any]] = []
        with open(path, newline="", encoding="utf-8") as file:
            lines = csv.reader(file, strict=True)
            try:
                columns = next(lines, [])
                for line in lines:
                    rows.append({name: _number(text) for name, text in zip(columns, line, strict=True)})
            except (ValueError, csv.Error) as error:  # UnicodeDecodeError is a ValueError
                raise ValueError(f"{os.fspath(path)}, line {lines.line_num}: no history as to_csv writes it ({error})") from error
        return cls(rows)


def describe(row: Mapping[str, Any]) -> str:
    """One epoch in one line: 'train_loss 0.1023  train_accuracy 0.9711  lr 0.02  1.3 s  1105 images/s'."""
    parts = [f"{name} {row[name]:.4f}" for name in row if name.startswith(("train_", "val_"))]
    parts += [f"lr {row['lr']:.3g}"] if "lr" in row else []
    parts += [f"{row['seconds']:.2f} s", f"{row['images_per_second']:.0f} images/s"] if "seconds" in row else []
    if row.get("wait", 0.0) > _WAIT_SHARE * row.get("seconds", 0.0):
        parts.append(f"waited {row['wait']:.2f} s for data")
    return "  ".join(parts)


def _number(text: str) -> int | float | None:
    if text == "":
        return None
    try:
        return int(text)
    except ValueError:
        return float(text)
