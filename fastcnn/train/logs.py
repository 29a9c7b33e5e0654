"""Callbacks of fit() that write each epoch for other programs: JsonLines, and TensorBoard (extra `tensorboard`)."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from typing import Any, TextIO

from fastcnn.files import append_line


class JsonLines:
    """One JSON object per epoch, the row of the history; numbers that are not finite become null, which JSON has instead.

    to    a text stream (sys.stdout), or the path of a file, which a resumed run goes on with
    """

    def __init__(self, to: str | os.PathLike[str] | TextIO):
        self.to = to
        if not hasattr(to, "write"):
            open(to, "ab").close()  # a path that cannot be written is found before the training, not after its first epoch

    def __call__(self, trainer: Any, row: Mapping[str, Any]) -> None:
        self.write(row)

    def write(self, content: Mapping[str, Any]) -> None:
        """One line, which the reader sees at once."""
        line = json.dumps(_finite(content), allow_nan=False)
        if hasattr(self.to, "write"):
            self.to.write(line + "\n")
            self.to.flush()
        else:
            append_line(self.to, line)


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _finite(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


class TensorBoard:
    """Scalars per epoch for TensorBoard, `tensorboard --logdir FOLDER`: the history's numbers, training and validation in one chart each."""

    def __init__(self, folder: str | os.PathLike[str]):
        try:
            from tensorboardX import SummaryWriter
        except ImportError as error:
            raise ImportError('TensorBoard logs need the package tensorboardX: pip install "fastcnn[tensorboard]"') from error
        self._writer = SummaryWriter(os.fspath(folder), flush_secs=1)  # its thread writes: a killed run may lack what it did in the last second

    def __call__(self, trainer: Any, row: Mapping[str, Any]) -> None:
        for name, value in row.items():
            if name == "epoch" or value is None:
                continue
            part, _, metric = name.partition("_")
            tag = f"{metric}/{part}" if part in ("train", "val") else f"run/{name}"
            self._writer.add_scalar(tag, value, row["epoch"])

    def close(self) -> None:
        self._writer.close()
