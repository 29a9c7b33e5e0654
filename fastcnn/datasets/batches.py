"""Batches: a dataset in mini-batches of floating-point arrays, in an order that depends on nothing but (seed, epoch)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from numbers import Integral

import numpy as np
from numpy.typing import DTypeLike

from .augment import Transform, flat, is_random
from .dataset import Dataset

ORDER, AUGMENT = 0, 1  # which stream of (seed, epoch) a generator belongs to, so that augmenting does not change the order


class Batches:
    """Iterable of (x, y): x (n, C, H, W) C-contiguous of dtype, y (n,) int64, both fresh arrays that the caller may keep or change.

    dataset     stays as it is (uint8 stays uint8): only the images of one batch are converted at a time
    batch_size  n; the last batch is smaller, or left out with drop_last
    shuffle     a new order every epoch, from (seed, epoch) alone; set_epoch chooses the epoch (0 at first, iterating does not advance it)
    transform   a callable or a sequence of them, applied in turn to each batch of raw images: `Standardize.fit(train)`. Without one, pixel
                values are only converted (uint8 0..255 -> 0.0..255.0). A callable with the attribute `random = True` is called as f(x, rng)
                with a generator of its own, made from (seed, epoch, batch index, position in the sequence). Training makes batches ahead, in
                a thread: a transform must not share state with the model.
    dtype       float32 or float64
    """

    def __init__(
        self,
        dataset: Dataset,
        batch_size: int,
        shuffle: bool = False,
        seed: int = 0,
        transform: Transform | Sequence[Transform] | None = None,
        drop_last: bool = False,
        dtype: DTypeLike = np.float32,
    ) -> None:
        if not isinstance(dataset, Dataset):
            raise TypeError(f"Batches: dataset must be a Dataset, got {type(dataset).__name__}")
        self.dataset, self.shuffle, self.transforms, self.drop_last = dataset, bool(shuffle), flat(transform), bool(drop_last)
        self.batch_size = _integer("batch_size", batch_size, minimum=1)
        self.seed = _integer("seed", seed, minimum=0)
        self.dtype = np.dtype(dtype)
        if self.dtype not in (np.float32, np.float64):
            raise TypeError(f"Batches: dtype must be float32 or float64, got {self.dtype}")
        self.epoch = 0

    def __len__(self) -> int:
        full, rest = divmod(len(self.dataset), self.batch_size)
        return full + (rest > 0 and not self.drop_last)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that the next iteration shows."""
        self.epoch = _integer("epoch", epoch, minimum=0)

    def __iter__(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        return self._of_epoch(self.epoch)  # the epoch as it is now, not when the first batch is asked for

    def _of_epoch(self, epoch: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        images, labels = self.dataset.images, self.dataset.labels
        order = self._generator(ORDER, epoch).permutation(len(self.dataset)) if self.shuffle else None
        for batch in range(len(self)):
            chosen = slice(batch * self.batch_size, (batch + 1) * self.batch_size)
            if order is not None:
                chosen = order[chosen]
            x, y = images[chosen], labels[chosen]
            for position, transform in enumerate(self.transforms):
                x = transform(x, self._generator(AUGMENT, epoch, batch, position)) if is_random(transform) else transform(x)
            x = np.ascontiguousarray(x, dtype=self.dtype)
            if order is None:  # x and y may be views of the dataset, which the caller must not be able to change
                x = x.copy() if isinstance(images, np.ndarray) and np.may_share_memory(x, images) else x
                y = y.copy()
            yield x, y

    def _generator(self, *stream: int) -> np.random.Generator:
        # spawn_key, not entropy: SeedSequence pads entropy with zeros, so [seed, epoch] and [seed, epoch, 0] would be the same stream
        return np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=stream))


def _integer(name: str, value: int, minimum: int) -> int:
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(f"Batches: {name} must be an int, got {type(value).__name__}")
    if value < minimum:
        raise ValueError(f"Batches: {name} must be at least {minimum}, got {value}")
    return int(value)
