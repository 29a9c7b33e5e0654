"""MNIST and Fashion-MNIST: the IDX file format, plain or gzipped, and where those files usually lie.

IDX (LeCun): two zero bytes, a type code, the number of axes, then each axis length as a big-endian 32-bit integer, then the values.
"""

from __future__ import annotations

import gzip
import math
import os
import zlib
from pathlib import Path
from typing import BinaryIO

import numpy as np

from . import download as remote
from .dataset import Dataset, DatasetError, Splits

UBYTE = 0x08  # the type code of unsigned bytes, the only one that these data sets use
CONTENTS = {1: "labels", 3: "images"}
MAX_BYTES = 1 << 31  # 40 times MNIST's training images
DEFLATE_RATIO = 1032  # deflate's largest expansion: 258 bytes from 2 bits; a gzip file cannot hold more than this times its size

NAMES = ("train-images", "train-labels", "t10k-images", "t10k-labels")
FOLDERS = {
    "mnist": ("mnist", "MNIST/raw", "MNIST", "."),
    "fashion-mnist": ("fashion-mnist", "fashion_mnist", "FashionMNIST/raw", "FashionMNIST", "fashion", "."),
}
CLASSES = {
    "mnist": tuple("0123456789"),
    "fashion-mnist": ("t-shirt/top", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot"),
}
# Both data sets have the same file names and sizes; their first labels tell a wrong folder
FIRST_LABELS = {"mnist": (5, 0, 4, 1, 9, 2, 1, 3, 1, 4), "fashion-mnist": (9, 0, 0, 3, 0, 2, 7, 2, 5, 5)}


def read_idx(path: str | os.PathLike[str], ndim: int) -> np.ndarray:
    """The uint8 array in an IDX file, gzipped or not (told by its first bytes, not its name).

    ndim    the axes it must have: 3 for images (N, H, W), 1 for labels (N,)
    Raises  DatasetError naming the file if it cannot be read, is truncated or corrupt, or is not such a file. The sizes in the header are
            checked against the size of the file before anything is allocated.
    """
    path = Path(path)
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            gzipped = file.read(2) == b"\x1f\x8b"
            file.seek(0)
            if not gzipped:
                return _read(path, file, ndim, size, f"the file has {size:,} bytes", exact=True)
            with gzip.open(file) as stream:
                return _read(path, stream, ndim, DEFLATE_RATIO * size, f"the file has {size:,} bytes gzipped", exact=False)
    except (OSError, EOFError, zlib.error) as error:  # gzip.BadGzipFile is an OSError
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise DatasetError(f"{path}: cannot be read: {reason}") from error


def _read(path: Path, stream: BinaryIO, ndim: int, limit: int, has: str, exact: bool) -> np.ndarray:
    """limit: the bytes there can be, or with exact, that there are."""
    head = stream.read(4)
    if len(head) < 4:
        raise DatasetError(f"{path}: not an IDX file: {len(head)} bytes where the magic number takes 4")
    if head[:2] != b"\0\0":
        raise DatasetError(f"{path}: not an IDX file: starts with {head[:2].hex(' ')} where two zero bytes are expected")
    if head[2] != UBYTE:
        raise DatasetError(f"{path}: IDX type code 0x{head[2]:02x} where unsigned bytes (0x{UBYTE:02x}) are expected")
    if head[3] != ndim:
        found = CONTENTS.get(head[3], f"{head[3]} axes")
        raise DatasetError(
            f"{path}: magic number {int.from_bytes(head, 'big')} ({found}) where {UBYTE << 8 | ndim} ({CONTENTS[ndim]}) is expected"
        )
    axes = stream.read(4 * ndim)
    if len(axes) < 4 * ndim:
        raise DatasetError(f"{path}: truncated: the header ends after {4 + len(axes)} of {4 + 4 * ndim} bytes")
    shape = tuple(np.frombuffer(axes, ">u4").tolist())
    by, count, header = "x".join(map(str, shape)), math.prod(shape), 4 + 4 * ndim
    if count == 0:
        raise DatasetError(f"{path}: the header says {by}, which is empty")
    if count > MAX_BYTES:
        raise DatasetError(f"{path}: the header says {by} = {count:,} bytes, more than the limit of {MAX_BYTES:,}")
    if header + count > limit or (exact and header + count != limit):
        raise DatasetError(f"{path}: the header says {by}, so {header + count:,} bytes, but {has}")
    values = np.empty(count, np.uint8)
    view, filled = memoryview(values), 0
    while filled < count and (got := stream.readinto(view[filled:])):
        filled += got
    if filled < count:
        raise DatasetError(f"{path}: truncated: the header says {by} = {count:,} values but there are {filled:,}")
    if stream.read(1):  # the read that meets the end also makes gzip check its sum
        raise DatasetError(f"{path}: the header says {by} = {count:,} values but more follow")
    return values.reshape(shape)


def mnist(data_dir: str | os.PathLike[str] | None = None, download: bool = True) -> Splits:
    """MNIST (LeCun, Cortes, Burges): 60,000 + 10,000 grey 28x28 images of handwritten digits.

    data_dir  looked through for the four IDX files: itself, mnist/, MNIST/, MNIST/raw/; None: the cache folder (see `cache_dir`)
    download  fetch what is not there into data_dir/mnist
    Raises    DatasetError if the files are missing, damaged or wrong
    """
    return _load("mnist", data_dir, download)


def fashion_mnist(data_dir: str | os.PathLike[str] | None = None, download: bool = True) -> Splits:
    """Fashion-MNIST (Xiao, Rasul, Vollgraf 2017): 60,000 + 10,000 grey 28x28 images of clothes; arguments as for `mnist`, folder fashion-mnist/."""
    return _load("fashion-mnist", data_dir, download)


def _load(name: str, data_dir: str | os.PathLike[str] | None, download: bool) -> Splits:
    root = remote.data_root(data_dir)
    folder = _complete_folder(name, root)
    if folder is None and download:
        folder = root / FOLDERS[name][0]
        missing = [file for file in remote.FILES[name] if _find(folder, file.name.split("-idx")[0]) is None]
        remote.fetch(missing, folder, _not_found(name, root))
    elif folder is None:
        raise DatasetError(f"{_not_found(name, root)}; {remote.ADVICE}, or allow download=True")
    train, test = (_pair(name, folder, part) for part in ("train", "t10k"))
    if train.shape != test.shape:
        raise DatasetError(f"{folder}: train images are {_by(train)} but t10k images are {_by(test)}")
    return Splits(train, test)


def _pair(name: str, folder: Path, part: str) -> Dataset:
    images_path, labels_path = _find(folder, f"{part}-images"), _find(folder, f"{part}-labels")
    images, labels = read_idx(images_path, 3), read_idx(labels_path, 1)
    if len(images) != len(labels):
        raise DatasetError(f"{images_path} holds {len(images):,} images but {labels_path} holds {len(labels):,} labels")
    if labels.max() >= len(CLASSES[name]):
        raise DatasetError(f"{labels_path}: label {labels.max()} where 0..{len(CLASSES[name]) - 1} are expected")
    for other, first in FIRST_LABELS.items():
        if part == "train" and other != name and tuple(labels[: len(first)]) == first:
            raise DatasetError(f"{labels_path}: these are the labels of {other}, not of {name}")
    return Dataset(images[:, None], labels, CLASSES[name], f"{name} {'train' if part == 'train' else 'test'}")


def _by(dataset: Dataset) -> str:
    return "x".join(map(str, dataset.shape[1:]))


def _find(folder: Path, stem: str) -> Path | None:
    axes = 3 if stem.endswith("images") else 1
    for name in (f"{stem}-idx{axes}-ubyte", f"{stem}.idx{axes}-ubyte"):
        for path in (folder / name, folder / f"{name}.gz"):
            if path.is_file():
                return path
    return None


def _complete_folder(name: str, root: Path) -> Path | None:
    folders = (root / folder for folder in FOLDERS[name])
    return next((folder for folder in folders if all(_find(folder, stem) for stem in NAMES)), None)


def _not_found(name: str, root: Path) -> str:
    if not root.is_dir():
        return f"{name}: no folder {root}"
    missing = {folder: [stem for stem in NAMES if not _find(root / folder, stem)] for folder in FOLDERS[name]}
    nearest = min(missing, key=lambda folder: len(missing[folder]))
    wanted = ", ".join(f"{stem}-idx{3 if stem.endswith('images') else 1}-ubyte[.gz]" for stem in missing[nearest])
    if len(missing[nearest]) < len(NAMES):
        return f"{name}: {root / nearest} lacks {wanted}"
    return f"{name}: found none of {wanted} in {root} or its folders {', '.join(FOLDERS[name][:-1])}"
