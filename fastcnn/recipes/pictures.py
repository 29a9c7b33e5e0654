"""Pictures from files, for prediction (Pillow, extra `data`)."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from fastcnn.datasets import DatasetError

# Pixels brighter than this part of the range above the darkest one belong to the drawing; below it lie paper, noise and blur.
_INK = 0.25


def _pillow() -> Any:
    try:
        from PIL import Image, ImageOps
    except ImportError as error:
        raise ImportError('reading pictures needs Pillow: pip install "fastcnn[data]"') from error
    return Image, ImageOps


def read_picture(path: str | os.PathLike[str], channels: int) -> np.ndarray:
    """(channels, H, W) uint8 of an image file, upright as its EXIF data says; 1 channel is luma. DatasetError if it cannot be read."""
    Image, ImageOps = _pillow()
    try:
        with Image.open(path) as image:
            upright = ImageOps.exif_transpose(image)
            if upright.mode.startswith("I;16"):  # Pillow would clip 16-bit grey to 255 instead of scaling it
                upright = Image.fromarray((np.asarray(upright) >> 8).astype(np.uint8))
            pixels = np.asarray(upright.convert("L" if channels == 1 else "RGB"))
    except FileNotFoundError:
        raise DatasetError(f"{os.fspath(path)}: no such file") from None
    except Exception as error:  # Pillow's plug-ins raise whatever a damaged file makes of them
        raise DatasetError(f"{os.fspath(path)}: not a readable image: {error}") from error
    return np.ascontiguousarray(pixels[None] if channels == 1 else pixels.transpose(2, 0, 1))


def shrink(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(C, h, w) uint8 resized to (C, *size), averaging where that makes it smaller (datasets.resize samples, which loses thin strokes)."""
    Image, _ = _pillow()
    planes = [Image.fromarray(plane).resize(size[::-1], Image.Resampling.BILINEAR) for plane in np.ascontiguousarray(pixels)]
    return np.stack([np.asarray(plane) for plane in planes])


def fit_drawing(pixels: np.ndarray, box: int) -> np.ndarray:
    """The bright part of a (1, h, w) picture on a dark ground, its longer side scaled to box, centred in (1, box, box), as MNIST was made."""
    plane = pixels[0].astype(np.int16)
    low, high = int(plane.min()), int(plane.max())
    ink = plane > low + _INK * max(high - low, 1)
    if not ink.any():
        return np.zeros((1, box, box), np.uint8)
    rows, columns = np.flatnonzero(ink.any(axis=1)), np.flatnonzero(ink.any(axis=0))
    drawing = plane[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    drawing = ((drawing - low) * (255 / (high - low))).clip(0, 255).astype(np.uint8)
    h, w = (max(1, round(length * box / max(drawing.shape))) for length in drawing.shape)
    output = np.zeros((1, box, box), np.uint8)
    top, left = (box - h) // 2, (box - w) // 2
    output[:, top : top + h, left : left + w] = shrink(drawing[None], (h, w))
    return output


def looks_inverted(pixels: np.ndarray) -> bool:
    """Whether the frame of a picture is brighter than its middle range: dark ink on light paper, where the digits data are bright on dark."""
    frame = np.concatenate([pixels[..., 0, :].ravel(), pixels[..., -1, :].ravel(), pixels[..., :, 0].ravel(), pixels[..., :, -1].ravel()])
    return bool(np.median(frame) > 127)
