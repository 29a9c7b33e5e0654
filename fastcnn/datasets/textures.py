"""Six kinds of generated textures: pictures of any size for trials, tests and benchmarks of networks whose own data are not at hand."""

from __future__ import annotations

import math

import numpy as np

from .dataset import Dataset
from .transforms import resize

CLASSES = ("stripes", "checks", "dots", "rings", "waves", "clouds")


def textures(count: int, size: int = 256, channels: int = 1, seed: int = 0) -> Dataset:
    """count images (channels, size, size) in turn of each class: stripes, checks, dots, rings, waves, clouds; the same seed gives the same images.

    Angle, scale, place, contrast, brightness and noise differ from image to image, colours too where there are 3 channels, so that no single
    pixel or mean tells the class. A class is told by its shapes, at scales from a twelfth to a third of the picture.
    """
    if count < 0 or size < 1 or channels not in (1, 3):
        raise ValueError(f"textures: count must be at least 0, size at least 1, channels 1 or 3, got {count}, {size} and {channels}")
    images = np.empty((count, channels, size, size), np.uint8)
    for i in range(count):
        # A stream for each image: the first ones of a longer set are those of a shorter one.
        images[i] = _texture(CLASSES[i % len(CLASSES)], size, channels, np.random.default_rng((seed, i)))
    return Dataset(images, np.arange(count) % len(CLASSES), CLASSES, "textures")


def _texture(kind: str, size: int, channels: int, rng: np.random.Generator) -> np.ndarray:
    """uint8 (channels, size, size)"""
    pattern = _pattern(kind, size, rng)  # -1..1
    low, high = rng.uniform(0, 90, channels), rng.uniform(165, 255, channels)  # dark and bright colour
    if rng.random() < 0.5:
        low, high = high, low
    pixels = low[:, None, None] + (high - low)[:, None, None] * (pattern + 1) / 2
    pixels += rng.normal(0, rng.uniform(2, 20), pixels.shape)
    return np.clip(np.rint(pixels), 0, 255).astype(np.uint8)


def _pattern(kind: str, size: int, rng: np.random.Generator) -> np.ndarray:
    """The shapes, float64 (size, size) from -1 to 1."""
    period = rng.uniform(size / 12, size / 3)
    if kind == "clouds":  # noise without edges or a direction
        cells = max(2, round(2 * size / period))
        noise = resize(rng.normal(0, 1, (cells, cells)), size, "bicubic")
        return np.clip(noise / max(np.abs(noise).max(), 1e-9), -1, 1)
    y, x = np.mgrid[:size, :size].astype(float)
    if kind == "rings":
        cy, cx = rng.uniform(0, size, 2)
        return np.sin(2 * math.pi / period * np.hypot(y - cy, x - cx))
    angle, shift = rng.uniform(0, math.pi), rng.uniform(0, 2 * math.pi, 2)
    u = 2 * math.pi / period * (math.cos(angle) * x + math.sin(angle) * y) + shift[0]
    v = 2 * math.pi / period * (math.cos(angle) * y - math.sin(angle) * x) + shift[1]
    if kind == "stripes":
        return np.sin(u)
    if kind == "checks":
        return np.sign(np.sin(u) * np.sin(v))
    if kind == "dots":
        return np.where(np.cos(u) + np.cos(v) > rng.uniform(0.8, 1.2), 1.0, -1.0)
    return np.sin(u + 2 * np.sin(v))  # waves
