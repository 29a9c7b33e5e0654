"""Data sets: readers for the published file formats, verified downloads, and what stands between a data set and a training step.

    train, test = datasets.load("digits")                      # in the package; "mnist", "fashion-mnist", "cifar10" are read or downloaded
    train, val = datasets.split(train, [0.9, 0.1], seed=0, stratify=True)
    standardize = datasets.Standardize.fit(train)
    augment = datasets.Compose([datasets.RandomCrop(8, padding=1), standardize])
    batches = datasets.Batches(train, 64, shuffle=True, seed=0, transform=augment)
    with datasets.Prefetch(batches) as ahead:                  # in a thread of its own; `fit` does this by itself
        for x, y in ahead: ...
"""

from __future__ import annotations

import os

from . import transforms
from .augment import Compose, RandomCrop, RandomHorizontalFlip
from .batches import Batches
from .cifar import cifar10
from .dataset import Dataset, DatasetError, Splits, split
from .digits import digits
from .download import cache_dir
from .folder import image_folder, save_image_folder
from .idx import fashion_mnist, mnist, read_idx
from .lazy import LazyImages
from .prefetch import Prefetch
from .textures import textures
from .transforms import Rescale, Standardize, pad_to, resize

__all__ = [
    "Batches",
    "Compose",
    "Dataset",
    "DatasetError",
    "LazyImages",
    "Prefetch",
    "RandomCrop",
    "RandomHorizontalFlip",
    "Rescale",
    "Splits",
    "Standardize",
    "cache_dir",
    "cifar10",
    "digits",
    "fashion_mnist",
    "image_folder",
    "load",
    "mnist",
    "names",
    "pad_to",
    "read_idx",
    "resize",
    "save_image_folder",
    "split",
    "textures",
    "transforms",
]


def _digits(data_dir: str | os.PathLike[str] | None, download: bool) -> Splits:
    if data_dir is not None:
        raise DatasetError(f"digits come with the package and are read from no other place: leave out data_dir ({os.fspath(data_dir)})")
    return digits()


_LOADERS = {"digits": _digits, "mnist": mnist, "fashion-mnist": fashion_mnist, "cifar10": cifar10}


def names() -> list[str]:
    """The names that `load` knows."""
    return list(_LOADERS)


def load(name: str, data_dir: str | os.PathLike[str] | None = None, download: bool = True) -> Splits:
    """A data set by name: "digits" (comes with the package), "mnist", "fashion-mnist" or "cifar10".

    data_dir  where its files are, or are to be put; None: the cache folder (`cache_dir`: FASTCNN_DATA, else the user's). Not for digits
    download  fetch files that are not there (needs the extra `data`)
    Raises    DatasetError if the name is unknown, nothing is found and download is False or fails, or a file is damaged
    """
    if name not in _LOADERS:
        raise DatasetError(f"no data set {name!r}; there are {', '.join(_LOADERS)}")
    return _LOADERS[name](data_dir, download)
