"""Images that stay on disk until they are asked for."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np


class LazyImages:
    """What a Dataset holds instead of an array where that would not fit into memory.

    sources  one per image: paths, say
    shape    (C, H, W) of every image
    read     source -> its image, uint8 (C, H, W)

    images[i] reads one image, images[slice or index array] reads those into one array; choose(index) reads nothing.
    """

    dtype = np.dtype(np.uint8)
    ndim = 4

    def __init__(self, sources: Sequence[Any], shape: tuple[int, int, int], read: Callable[[Any], np.ndarray]) -> None:
        self._sources, self._shape, self._read = list(sources), tuple(shape), read

    def __len__(self) -> int:
        return len(self._sources)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        return (len(self._sources), *self._shape)

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    def choose(self, index: slice | np.ndarray) -> LazyImages:
        """Those images, still unread."""
        chosen = np.arange(len(self))[index]
        return LazyImages([self._sources[i] for i in chosen], self._shape, self._read)

    def __getitem__(self, index: int | slice | np.ndarray) -> np.ndarray:
        chosen = np.arange(len(self))[index]
        images = np.empty((chosen.size, *self._shape), np.uint8)
        for image, i in zip(images, chosen.reshape(-1), strict=True):
            image[...] = self._read(self._sources[i])
        return images if chosen.ndim else images[0]
