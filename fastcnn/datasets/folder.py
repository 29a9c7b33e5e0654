"""Image folders: one sub-folder per class, read and written with Pillow (extra `data`)."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..files import write_atomically
from .dataset import Dataset, DatasetError
from .lazy import LazyImages
from .transforms import pair

SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}


def image_folder(
    root: str | os.PathLike[str], size: int | tuple[int, int] | None = None, gray: bool = False, max_bytes: int | None = None
) -> Dataset:
    """The images in root/<class>/*, as one uint8 Dataset named after the folder: classes and files in sorted order.

    size       (H, W), or one int for both: every image is resized to it (bilinear with antialiasing; proportions are not kept); None: all images
               must have one size
    gray       one channel instead of three. Colour becomes luma, 16-bit grey is scaled to 8 bits, transparency is dropped, photographs are turned
               upright as their EXIF data says. Of animations the first frame is read.
    max_bytes  more than that of pixels in all (as uint8, resized) stay on disk: of every file only the header is looked at, and each batch reads
               its own images (LazyImages). Needs size. None: everything is read at once
    Raises     DatasetError naming the file that cannot be read or has another size, or the folder without images; ImportError without Pillow.
    Files whose suffix is not an image format's, and hidden ones, are not looked at.
    """
    Image, _ = _pillow("image_folder")
    root = Path(root).expanduser()
    wanted = None if size is None else pair("image_folder", size)
    if max_bytes is not None and wanted is None:
        raise ValueError("image_folder: max_bytes needs size: images that are read later must be known to have one size")
    if not root.is_dir():
        raise DatasetError(f"image_folder: no folder {root}")
    folders = sorted(folder for folder in root.iterdir() if folder.is_dir() and not folder.name.startswith("."))
    if not folders:
        raise DatasetError(f"image_folder: {root} has no sub-folders; one per class is expected")
    files, labels = [], []
    for label, folder in enumerate(folders):
        found = sorted(file for file in folder.iterdir() if file.suffix.lower() in SUFFIXES and not file.name.startswith("."))
        if not found:
            raise DatasetError(f"image_folder: {folder} has no images ({', '.join(sorted(SUFFIXES))})")
        files += found
        labels += [label] * len(found)
    classes = tuple(folder.name for folder in folders)
    read = _Reader(wanted, gray)
    if max_bytes is not None:
        shape = (1 if gray else 3, *wanted)
        if len(files) * shape[0] * shape[1] * shape[2] > max_bytes:
            for file in files:  # a few dozen microseconds each: what is no image at all is not left for the middle of a training to find
                with _named(file), Image.open(file):
                    pass
            return Dataset(LazyImages(files, shape, read), np.array(labels), classes, root.name)
    images = None
    for i, file in enumerate(files):
        pixels = read(file)
        if images is None:
            images = np.empty((len(files), *pixels.shape), np.uint8)
        if pixels.shape != images.shape[1:]:
            (_, H, W), (_, first_H, first_W) = pixels.shape, images.shape[1:]
            raise DatasetError(f"{file}: {H}x{W} pixels where {files[0].name} has {first_H}x{first_W}; choose one size by size=(H, W)")
        images[i] = pixels
    return Dataset(images, np.array(labels), classes, root.name)


def save_image_folder(dataset: Dataset, root: str | os.PathLike[str]) -> None:
    """Write a uint8 dataset of 1 or 3 channels as root/<class>/<number>.png, which image_folder reads back to the same pixels."""
    Image, _ = _pillow("save_image_folder")
    if dataset.images.dtype != np.uint8 or dataset.shape[0] not in (1, 3):
        raise ValueError(f"save_image_folder: images must be uint8 with 1 or 3 channels, got {dataset!r}")
    root = Path(root).expanduser()
    for label in np.unique(dataset.labels):  # a folder without images could not be read back
        (root / dataset.classes[label]).mkdir(parents=True, exist_ok=True)
    digits = len(str(max(len(dataset) - 1, 0)))
    for i, label in enumerate(dataset.labels):
        pixels = dataset.images[i]
        picture = Image.fromarray(np.ascontiguousarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0)))
        content = io.BytesIO()
        picture.save(content, "PNG")
        write_atomically(root / dataset.classes[label] / f"{i:0{digits}}.png", content.getvalue(), flush=False)


class _Reader(NamedTuple):
    """file -> uint8 (C, H, W), resized to size; DatasetError naming the file if that cannot be."""

    size: tuple[int, int] | None
    gray: bool

    def __call__(self, file: Path) -> np.ndarray:
        Image, ImageOps = _pillow("image_folder")
        with _named(file), Image.open(file) as image:
            return _pixels(image, self.size, self.gray, Image, ImageOps)


def _pillow(op: str) -> Any:
    try:
        from PIL import Image, ImageOps
    except ImportError as error:
        raise ImportError(f'{op} needs Pillow ({error}): pip install "fastcnn[data]"') from error
    return Image, ImageOps


@contextmanager
def _named(file: Path) -> Iterator[None]:
    """Whatever goes wrong inside, as a DatasetError that names the file."""
    try:
        yield
    except DatasetError as error:
        raise DatasetError(f"{file}: {error}") from None
    except Exception as error:  # Pillow's format plug-ins raise whatever a damaged file makes of them (struct.error, SyntaxError, ...)
        raise DatasetError(f"{file}: not a readable image: {type(error).__name__}: {error}") from error


def _pixels(image: Any, size: tuple[int, int] | None, gray: bool, Image: Any, ImageOps: Any) -> np.ndarray:
    """uint8 (C, H, W)"""
    image = ImageOps.exif_transpose(image)
    if image.mode == "F":
        raise DatasetError("floating-point pixels have no known range; convert the file to 8 or 16 bits")
    if image.mode.startswith("I"):  # Pillow's own conversion to 8 bits would clip at 255
        values = np.asarray(image).astype(np.int64)
        if values.min() < 0 or values.max() > 65535:
            raise DatasetError(f"pixels run from {values.min()} to {values.max()}; 0..65535 are expected")
        image = Image.fromarray(((values + 128) // 257).astype(np.uint8))
    image = image.convert("L" if gray else "RGB")
    if size is not None and (image.height, image.width) != size:
        image = image.resize(size[::-1], Image.Resampling.BILINEAR)
    pixels = np.asarray(image)
    return pixels[None] if gray else pixels.transpose(2, 0, 1)
