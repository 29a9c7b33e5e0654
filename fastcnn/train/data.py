"""What Trainer and fit accept as data, turned into batches of the model's dtype."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

import numpy as np

from fastcnn import backend
from fastcnn.datasets import Batches, Dataset, Prefetch
from fastcnn.datasets.augment import without_random
from fastcnn.datasets.prefetch import CHEAP, DEPTH
from fastcnn.options import integer
from fastcnn.options import seed as checked_seed

Batch = tuple[np.ndarray, np.ndarray]


class PairBatches:
    """Batches of an (x, y) pair of arrays, where y is whatever the loss takes (labels, probabilities, numbers, images).

    The order of an epoch depends on (seed, epoch) only, as that of datasets.Batches.
    """

    def __init__(self, x: np.ndarray, y: np.ndarray, batch_size: int, shuffle: bool = False, seed: int = 0):
        for name, array in (("x", x), ("y", y)):
            if not array.ndim:
                raise TypeError(f"(x, y) data: {name} must be an array of one entry per image, got a scalar")
        if len(x) != len(y):
            raise ValueError(f"(x, y) data: x holds {len(x)} images but y holds {len(y)} targets")
        self.dataset, self.targets = x, y
        self.batch_size, self.seed = integer(batch_size, "(x, y) data", "batch_size", 1), checked_seed(seed, "(x, y) data")
        self.shuffle, self.epoch = shuffle, 0

    def __len__(self) -> int:
        return -(-len(self.dataset) // self.batch_size)

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self) -> Iterator[Batch]:
        return self._of_epoch(self.epoch)  # the epoch as it is now, not when the first batch is asked for

    def _of_epoch(self, epoch: int) -> Iterator[Batch]:
        order = np.arange(len(self.dataset))
        if self.shuffle:
            order = np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=(epoch,))).permutation(order)
        for start in range(0, len(order), self.batch_size):
            chosen = order[start : start + self.batch_size]
            yield self.dataset[chosen], self.targets[chosen]


def as_pair(batch: Any, op: str, number: int) -> Batch:
    """(x, y) of what an iterable of the caller's own yields."""
    if not isinstance(batch, (tuple, list)) or len(batch) != 2:
        got = f"{len(batch)} values" if isinstance(batch, (tuple, list)) else type(batch).__name__
        raise TypeError(f"{op}: batch {number} of the data must be an (x, y) pair, got {got}")
    return batch[0], batch[1]


def training_batches(data: Any, model: Any, batch_size: int, seed: int, transform: Any = None) -> Batches | PairBatches:
    """Shuffled batches of a Dataset or an (x, y) pair; batches that know their epochs pass through as they are."""
    return _batches(data, model, batch_size, True, seed, transform, "train")


def evaluation_batches(data: Any, model: Any, batch_size: int, transform: Any = None) -> Iterable[Batch]:
    """The same in order and without the random transforms; any other iterable of (x, y) batches passes through too."""
    if isinstance(data, (Dataset, tuple)):
        return _batches(data, model, batch_size, False, 0, without_random(transform) or None, "data")
    if not isinstance(data, Iterable):
        raise TypeError(f"data must be a Dataset, an (x, y) pair of arrays or an iterable of (x, y) batches, got {type(data).__name__}")
    _refuse_transform(transform)
    return data


def ahead(batches: Iterable[Batch], prefetch: int, first: int = 0) -> Prefetch:
    """The batches from number `first` on, made ahead in a thread where they are ours; an iterable of the caller's own stays in his thread.

    prefetch  how many to make ahead; True: as many as pay, none where a batch costs less than handing it over; 0 or False: none
    """
    own = isinstance(batches, (Batches, PairBatches))
    if not own or len(batches) - first < 2:  # a single one cannot be made beside another's step
        prefetch = 0
    coming = islice(batches, first, None)
    if backend.current().name == "cuda":
        coming = staged(coming)
    depth, cheap = (DEPTH, CHEAP) if prefetch is True else (int(prefetch), 0.0)
    return Prefetch(coming, depth, cheap)


def staged(batches: Iterable[Batch]) -> Iterator[Batch]:
    """The batches copied to the device through pinned memory, by whatever thread makes them, which does not wait for the copies."""
    stage = backend.current().stage
    for x, y in batches:
        yield stage(x), stage(y)


def _batches(data: Any, model: Any, batch_size: int, shuffle: bool, seed: int, transform: Any, argument: str) -> Any:
    if isinstance(data, (Batches, PairBatches)):
        _refuse_transform(transform)
        return data
    dtype = next((parameter.dtype for parameter in model.parameters()), np.dtype(np.float32))
    if isinstance(data, Dataset):
        return Batches(data, batch_size, shuffle=shuffle, seed=seed, transform=transform, dtype=dtype)
    if isinstance(data, tuple) and len(data) == 2:
        _refuse_transform(transform)
        return PairBatches(np.asarray(data[0]), np.asarray(data[1]), batch_size, shuffle, seed)
    raise TypeError(f"{argument} must be a Dataset, an (x, y) pair of arrays or datasets.Batches, got {type(data).__name__}")


def _refuse_transform(transform: Any) -> None:
    if transform is not None:
        raise TypeError("transform belongs to a Dataset; other data must come transformed")
