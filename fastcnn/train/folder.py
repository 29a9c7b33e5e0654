"""The folder of a run: where each file is, and how it is written."""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from fastcnn import checkpoint
from fastcnn.checkpoint import CheckpointError
from fastcnn.files import write_atomically

# The values that every reader of config.json relies on, where they are given.
_CONFIG_TYPES = {
    "recipe": str,
    "options": dict,
    "recipe_options": dict,
    "classes": list,
    "transform": dict,
    "data_dir": (str, type(None)),
    "backend": (str, type(None)),
}

# What a run can depend on; those that are not installed are left out of the record.
_RECORDED_PACKAGES = ("numpy", "safetensors", "matplotlib", "pillow", "tqdm")


class RunFolder:
    """A folder, made if missing, with these files: weights.safetensors, checkpoint.safetensors, config.json, history.csv, metrics.json,
    summary.txt, and pictures. Each is replaced atomically.
    """

    def __init__(self, path: str | os.PathLike[str]):
        self.path = Path(path)
        self.path.mkdir(parents=True, exist_ok=True)

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    @property
    def weights(self) -> Path:
        return self / "weights.safetensors"

    @property
    def checkpoint(self) -> Path:
        return self / "checkpoint.safetensors"

    @property
    def config(self) -> Path:
        return self / "config.json"

    def remove_unfinished(self) -> None:
        """Remove what a process that was killed while it wrote a file has left beside it."""
        for path in self.path.glob(".*.part"):
            path.unlink(missing_ok=True)

    def save_progress(self, trainer: Any) -> None:
        """The state to resume from, and the history so far."""
        trainer.save(self.checkpoint)
        self.write_text("history.csv", trainer.history.to_csv())

    def save_weights(self, model: Any, state: Mapping[str, Any] | None = None) -> None:
        checkpoint.save_weights(self.weights, model, state)

    def write_text(self, name: str, text: str) -> Path:
        """Write a text file, replacing what is there; returns its path."""
        write_atomically(self / name, text.encode())
        return self / name

    def write_json(self, name: str, content: Mapping[str, Any]) -> Path:
        """Write indented JSON; NumPy numbers and arrays become plain numbers and lists."""
        return self.write_text(name, json.dumps(content, indent=2, default=_plain) + "\n")

    @staticmethod
    def read_config(path: str | os.PathLike[str]) -> dict[str, Any]:
        """config.json of an existing run folder; CheckpointError if there is none or it cannot be read."""
        file = Path(path) / "config.json"
        try:
            config = json.loads(file.read_text(encoding="utf-8"))
        except OSError as error:
            raise CheckpointError(path, f"is no run folder ({file.name}: {error.strerror})") from error
        except ValueError as error:
            raise CheckpointError(file, f"is not valid JSON ({error})") from error
        if not isinstance(config, dict) or "recipe" not in config or "options" not in config:
            raise CheckpointError(file, "is not the configuration of a run (no recipe or options in it)")
        check_types(file, config, _CONFIG_TYPES)
        if not all(isinstance(name, str) for name in config.get("classes", ())):
            raise CheckpointError(file, f"classes must be a list of names, got {config['classes']!r:.60}")
        return config


def check_types(file: Path, content: Mapping[str, Any], types: Mapping[str, type | tuple[type, ...]]) -> None:
    """CheckpointError unless every value has its type. A bool is no number here."""
    for name in types.keys() & content.keys():
        value, wanted = content[name], types[name]
        if not isinstance(value, wanted) or isinstance(value, bool):
            names = " or ".join(_JSON_NAMES[kind] for kind in (wanted if isinstance(wanted, tuple) else (wanted,)))
            raise CheckpointError(file, f"{name} must be {names}, got {json.dumps(value):.60}")


_JSON_NAMES = {str: "a string", dict: "an object", list: "a list", int: "a whole number", float: "a number", type(None): "null"}


def versions() -> dict[str, str]:
    """Versions of Python and of the packages a run depends on, and the machine they ran on."""
    package = sys.modules[__name__.partition(".")[0]]  # loaded long ago; an import of it here would be an upward one
    found = {"fastcnn": package.__version__, "python": platform.python_version()}
    found |= {"machine": platform.machine(), "system": platform.system()}
    for package in _RECORDED_PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def _plain(value: Any) -> Any:
    if isinstance(value, (np.generic, np.ndarray)):
        return value.tolist()
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    raise TypeError(f"{type(value).__name__} cannot be written as JSON")
