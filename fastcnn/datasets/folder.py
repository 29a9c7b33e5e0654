"""Image folders: one sub-folder per class, read with Pillow (extra `data`)."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from .dataset import Dataset, DatasetError
from .transforms import pair

SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}


def image_folder(root: str | os.PathLike[str], size: int | tuple[int, int] | None = None, gray: bool = False) -> Dataset:
    """The images in root/<class>/*, as one uint8 Dataset named after the folder: classes and files in sorted order.

    size    (H, W), or one int for both: every image is resized to it (bilinear with antialiasing; proportions are not kept); None: all images
            must have one size
    gray    one channel instead of three. Colour becomes luma, 16-bit grey is scaled to 8 bits, transparency is dropped, photographs are turned
            upright as their EXIF data says. Of animations the first frame is read.
    Raises  DatasetError naming the file that cannot be read or has another size, or the folder without images; ImportError without Pillow.
    Files whose suffix is not an image format's, and hidden ones, are not looked at.
    """
    try:
        from PIL import Image, ImageOps
    except ImportError as error:
        raise ImportError(f'image_folder needs Pillow ({error}): pip install "fastcnn[data]"') from error
    root = Path(root).expanduser()
    wanted = None if size is None else pair("image_folder", size)
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
    images = None
    for i, file in enumerate(files):
        try:
            with Image.open(file) as image:
                pixels = _pixels(image, wanted, gray, Image, ImageOps)
        except DatasetError as error:
            raise DatasetError(f"{file}: {error}") from None
        except Exception as error:  # Pillow's format plug-ins raise whatever a damaged file makes of them (struct.error, SyntaxError, ...)
            raise DatasetError(f"{file}: not a readable image: {type(error).__name__}: {error}") from error
        if images is None:
            images = np.empty((len(files), *pixels.shape), np.uint8)
        if pixels.shape != images.shape[1:]:
            (_, H, W), (_, first_H, first_W) = pixels.shape, images.shape[1:]
            raise DatasetError(f"{file}: {H}x{W} pixels where {files[0].name} has {first_H}x{first_W}; choose one size by size=(H, W)")
        images[i] = pixels
    return Dataset(images, np.array(labels), tuple(folder.name for folder in folders), root.name)


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
