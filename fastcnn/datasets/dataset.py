"""Dataset: images with their labels and class names, and ways to divide one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import NamedTuple

import numpy as np

from ..options import seed as checked_seed
from .lazy import LazyImages


class DatasetError(ValueError):
    """Data that is missing, damaged or not what its name says; the message names the file and the reason."""


@dataclass(frozen=True, eq=False, repr=False)
class Dataset:
    """Labelled images.

    images   (N, C, H, W)  uint8 or float32, any strides; kept as given, not copied. Or LazyImages, which stay on disk: parts and splits of such
                           a dataset are lazy too, and Batches reads one batch at a time
    labels   (N,)          class indices, kept as int64
    classes  the class names; labels[i] is an index into them
    Raises   TypeError for other dtypes; ValueError if the shapes do not match or a label is out of range
    """

    images: np.ndarray | LazyImages
    labels: np.ndarray
    classes: tuple[str, ...]
    name: str = ""

    def __post_init__(self) -> None:
        images = self.images if isinstance(self.images, LazyImages) else np.asarray(self.images)
        labels, classes = np.asarray(self.labels), tuple(self.classes)
        if images.dtype not in (np.uint8, np.float32):
            raise TypeError(f"Dataset: images must be uint8 or float32, got {images.dtype}")
        if images.ndim != 4:
            raise ValueError(f"Dataset: images must be (N, C, H, W), got {images.ndim} axes: {images.shape}")
        if labels.dtype.kind not in "iu":
            raise TypeError(f"Dataset: labels must be integers, got {labels.dtype}")
        if labels.shape != (len(images),):
            raise ValueError(f"Dataset: {len(images)} images need labels of shape ({len(images)},), got {labels.shape}")
        if len(labels) and not 0 <= labels.min() <= labels.max() < len(classes):
            raise ValueError(f"Dataset: labels run from {labels.min()} to {labels.max()} but there are {len(classes)} classes")
        object.__setattr__(self, "images", images)
        object.__setattr__(self, "labels", labels.astype(np.int64, copy=False))
        object.__setattr__(self, "classes", classes)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: slice | Sequence[int] | np.ndarray) -> Dataset:
        """The images chosen by a slice (a view), an index array or a boolean mask (copies)."""
        if not isinstance(index, slice):
            index = np.asarray(index)
            if index.ndim != 1:
                raise TypeError(f"Dataset: index with a slice or a 1-D array, got {index.ndim} axes (one image: dataset[3:4])")
            if index.size == 0:
                index = index.astype(np.intp)  # an empty list arrives as float64
        images = self.images.choose(index) if isinstance(self.images, LazyImages) else self.images[index]
        return Dataset(images, self.labels[index], self.classes, self.name)

    __iter__ = None  # indexing gives datasets, not pairs: without this, iteration would fail inside __getitem__

    def __repr__(self) -> str:
        shape = "x".join(map(str, self.shape))
        return f"Dataset({self.name!r}: {len(self)} images {shape} {self.images.dtype}, {self.num_classes} classes)"

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of one image."""
        return self.images.shape[1:]

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    def map(self, function: Callable[[np.ndarray], np.ndarray]) -> Dataset:
        """The same labels with function(images): `train.map(lambda images: resize(images, 32))`. Lazy images are all read for it."""
        return Dataset(function(self.images[:]), self.labels, self.classes, self.name)


class Splits(NamedTuple):
    """The parts a data set is published in."""

    train: Dataset
    test: Dataset


def split(dataset: Dataset, sizes_or_fractions: Sequence[int] | Sequence[float], seed: int, stratify: bool = False) -> list[Dataset]:
    """Disjoint random parts of a dataset, each in random order; the same seed gives the same parts.

    sizes_or_fractions  all ints (numbers of images) or all floats (fractions of the dataset; their boundaries are rounded, so fractions that
                        add up to 1 use every image). What the parts do not take is left out: [500] draws one subset of 500 images.
    stratify            every part gets each class in the dataset's proportion, to within one image per class at each of its two ends
    Raises              ValueError if the parts are negative or need more images than there are; TypeError for a mixture of ints and floats
    """
    if not isinstance(dataset, Dataset):
        raise TypeError(f"split: dataset must be a Dataset, got {type(dataset).__name__}")
    sizes = _sizes(len(dataset), sizes_or_fractions)
    rng = np.random.default_rng(checked_seed(seed, "split"))
    order = _interleaved(dataset.labels, rng) if stratify else rng.permutation(len(dataset))
    parts, start = [], 0
    for size in sizes:
        chosen = order[start : start + size]
        parts.append(dataset[rng.permutation(chosen) if stratify else chosen])
        start += size
    return parts


def _sizes(total: int, wanted: Sequence[int] | Sequence[float]) -> list[int]:
    if not isinstance(wanted, (tuple, list, np.ndarray)):
        raise TypeError(f"split: sizes_or_fractions must be a list, got {type(wanted).__name__} {wanted!r}")
    wanted = list(wanted)
    if any(isinstance(size, bool) or not isinstance(size, Real) for size in wanted):
        raise TypeError(f"split: sizes must be ints or floats, got {wanted}")
    integral = [isinstance(size, Integral) for size in wanted]
    if any(integral) and not all(integral):
        raise TypeError(f"split: give sizes (ints) or fractions (floats), not a mixture: {wanted}")
    if not all(size >= 0 for size in wanted):  # also refuses NaN
        raise ValueError(f"split: sizes must not be negative, got {wanted}")
    if all(integral):
        if sum(wanted) > total:
            raise ValueError(f"split: sizes {wanted} add up to {sum(wanted)} but the dataset has {total} images")
        return [int(size) for size in wanted]
    if sum(wanted) > 1 + 1e-9:  # 0.7 + 0.2 + 0.1 exceeds 1 by rounding
        raise ValueError(f"split: fractions {wanted} add up to {sum(wanted):g}, which is more than 1")
    ends = np.rint(np.minimum(np.cumsum(wanted), 1) * total).astype(int)
    return np.diff(ends, prepend=0).tolist()


def _interleaved(labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A random order of which every run holds each class in proportion.

    The j-th of a class's n images (in random order) is placed at (j + 1/2) / n, so classes are spread evenly over [0, 1); equal places are
    ordered at random. A run that covers a part p of [0, 1) then holds n p images of the class, give or take one at each end.
    """
    place = np.empty(len(labels))
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        place[members] = (np.arange(len(members)) + 0.5) / len(members)
    return np.lexsort((rng.permutation(len(labels)), place))
