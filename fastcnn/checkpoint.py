"""Files that a crash, a full disk or a flipped bit cannot make wrong in silence.

A file is a safetensors file (extra `train`) whose metadata holds, beside the caller's own state, a SHA-256 checksum of every tensor (its name,
dtype, shape and bytes) and one of that metadata itself. safetensors alone loads flipped bits without a word, and its writer renames
without fsync; here a file is written beside its destination, flushed to disk and moved over it, so that a reader finds the old file or
the new one, whole, whenever the machine stops.

The tensors of a weights file have the model's state_dict keys, torch's, so `safetensors.torch.load_file` reads it as it is.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fastcnn.files import write_atomically

_FORMAT = 1
_DIGEST = 64  # hexadecimal digits of a SHA-256


class CheckpointError(ValueError):
    """A file that cannot be used: missing, empty, truncated, altered, or made for another network. The message names path and reason."""

    def __init__(self, path: str | os.PathLike[str], reason: str):
        super().__init__(f"{os.fspath(path)}: {reason}")
        self.path = Path(path)
        self.reason = reason


def require_safetensors() -> Any:
    """The safetensors module; ImportError naming the extra where it is not installed."""
    try:
        import safetensors.numpy
    except ImportError as error:
        raise ImportError('saving and loading weights needs the package safetensors: pip install "fastcnn[train]"') from error
    return safetensors


def save(path: str | os.PathLike[str], arrays: Mapping[str, np.ndarray], state: Mapping[str, Any] | None = None) -> None:
    """Write arrays and a JSON-able state to path, replacing what is there only once the new file is safe on disk.

    arrays  name -> array of any shape and strides; stored in C order, native dtype
    state   anything json can hold, NumPy numbers and arrays included (arrays come back as lists)
    """
    safetensors = require_safetensors()
    stored = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    document = json.dumps(
        {"format": _FORMAT, "checksums": {name: _checksum(name, array) for name, array in stored.items()}, "state": dict(state or {})},
        default=_plain,
    )
    # One entry: safetensors writes several in an order of its own making, and equal content should give equal files.
    metadata = {"fastcnn": _sha256(document.encode()) + document}
    write_atomically(path, safetensors.numpy.save(stored, metadata=metadata))


def load(path: str | os.PathLike[str], *, verify: bool = True) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Read (arrays, state) back and check every byte that matters; CheckpointError if anything is not as it was written.

    verify=False also reads safetensors files of other programs, which carry no checksums; their state is {}.
    """
    safetensors = require_safetensors()
    try:
        if os.path.getsize(path) == 0:
            raise CheckpointError(path, "the file is empty")
        with safetensors.safe_open(os.fspath(path), framework="np") as file:
            metadata = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    except CheckpointError:
        raise
    except OSError as error:
        raise CheckpointError(path, error.strerror or str(error)) from error
    except Exception as error:  # the header is parsed by safetensors, whose errors for a damaged one are of many types
        raise CheckpointError(path, f"not a whole safetensors file ({error})") from error
    if "fastcnn" not in metadata:
        if verify:
            raise CheckpointError(path, "holds no fastcnn checksums: damaged, or written by another program (read that with verify=False)")
        return arrays, {}
    digest, document = metadata["fastcnn"][:_DIGEST], metadata["fastcnn"][_DIGEST:]
    if _sha256(document.encode()) != digest:
        raise CheckpointError(path, "the metadata does not match its checksum: the file is damaged")
    content = json.loads(document)
    if content["format"] != _FORMAT:
        raise CheckpointError(path, f"has format {content['format']}, this version of fastcnn reads format {_FORMAT}")
    checksums = content["checksums"]
    if checksums.keys() != arrays.keys():
        raise CheckpointError(path, f"tensors {sorted(checksums.keys() ^ arrays.keys())} are missing or renamed: the file is damaged")
    for name, array in arrays.items():
        if _checksum(name, array) != checksums[name]:
            raise CheckpointError(path, f"tensor {name!r} does not match its checksum: the file is damaged")
    return arrays, content["state"]


def save_weights(path: str | os.PathLike[str], model: Any, state: Mapping[str, Any] | None = None) -> None:
    """Write the model's state_dict, under its own keys."""
    save(path, model.state_dict(), state)


def load_weights(path: str | os.PathLike[str], model: Any, *, verify: bool = True) -> dict[str, Any]:
    """Put weights saved by save_weights into the model and return the state stored with them; the model is untouched if they do not fit."""
    arrays, state = load(path, verify=verify)
    load_into(path, model, arrays)
    return state


def load_into(path: str | os.PathLike[str], model: Any, arrays: Mapping[str, np.ndarray]) -> None:
    """model.load_state_dict(arrays), with every mismatch reported as a CheckpointError that names path."""
    check_fit(path, model.state_dict(), arrays)
    model.load_state_dict(dict(arrays))


def check_fit(path: str | os.PathLike[str], expected: Mapping[str, np.ndarray], found: Mapping[str, np.ndarray]) -> None:
    """CheckpointError unless found has exactly the names, shapes and dtypes of expected."""
    problems = [f"{name} is missing" for name in expected if name not in found]
    problems += [f"{name} is not in the network" for name in found if name not in expected]
    for name in expected.keys() & found.keys():
        want, have = np.asarray(expected[name]), np.asarray(found[name])
        if want.shape != have.shape:
            problems.append(f"{name} has shape {have.shape}, the network's has {want.shape}")
        elif want.dtype != have.dtype:
            problems.append(f"{name} is {have.dtype}, the network's is {want.dtype}")
    if problems:
        more = f" (and {len(problems) - 4} more)" if len(problems) > 4 else ""
        raise CheckpointError(path, "was saved from another network: " + "; ".join(sorted(problems)[:4]) + more)


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _checksum(name: str, array: np.ndarray) -> str:
    """Checksum of name, dtype, shape and C-order bytes (little-endian, as safetensors stores them)."""
    little = array.astype(array.dtype.newbyteorder("<"), order="C", copy=False)
    digest = hashlib.sha256(f"{name}|{array.dtype.name}|{array.shape}|".encode())
    digest.update(little.tobytes() if little.ndim == 0 or little.size == 0 else memoryview(little).cast("B"))
    return digest.hexdigest()


def _plain(value: Any) -> Any:
    """What json cannot hold by itself: NumPy's numbers and arrays."""
    if isinstance(value, (np.generic, np.ndarray)):
        return value.tolist()
    raise TypeError(f"a checkpoint's state holds numbers, strings, lists and dicts, got {type(value).__name__}")
