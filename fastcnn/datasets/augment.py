"""Random transforms of image batches (N, C, H, W), and chains of transforms; names and meanings as in torchvision.

A transform with `random = True` is called as f(images, rng). `Batches` gives each one a generator made from (seed, epoch, batch index, place in
the chain), so a batch depends on these alone, in whatever thread and however far ahead it is made. Augment before standardising: crops and
flips are cheaper on uint8, and the border they add is then the black of the image.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from numbers import Integral

import numpy as np

from ..options import number
from .transforms import pad_to, pair

Transform = Callable[..., np.ndarray]


class RandomCrop:
    """A piece of `size` (an int or (H, W)) from a random place of each image, `padding` pixels of `fill` being added on every side before."""

    random = True

    def __init__(self, size: int | tuple[int, int], padding: int = 0, fill: float = 0) -> None:
        if isinstance(padding, bool) or not isinstance(padding, Integral):
            raise TypeError(f"RandomCrop: padding must be an int, got {type(padding).__name__}")
        if padding < 0:
            raise ValueError(f"RandomCrop: padding must not be negative, got {padding}")
        self.size, self.padding, self.fill = pair("RandomCrop", size), int(padding), fill

    def __call__(self, images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        N, _, H, W = images.shape
        OH, OW = self.size
        H, W = H + 2 * self.padding, W + 2 * self.padding
        if OH > H or OW > W:
            raise ValueError(f"RandomCrop: size {OH}x{OW} is larger than the images, which are {H}x{W} with a padding of {self.padding}")
        top, left = rng.integers(0, H - OH + 1, N), rng.integers(0, W - OW + 1, N)
        if self.padding:
            images = pad_to(images, (H, W), self.fill)
        windows = np.lib.stride_tricks.sliding_window_view(images, (OH, OW), axis=(2, 3))  # (N, C, H-OH+1, W-OW+1, OH, OW), a view
        return windows[np.arange(N), :, top, left]

    def __repr__(self) -> str:
        return f"RandomCrop({self.size}, padding={self.padding}, fill={self.fill:g})"


class RandomHorizontalFlip:
    """Each image mirrored left to right with probability p."""

    random = True

    def __init__(self, p: float = 0.5) -> None:
        self.p = number(p, "RandomHorizontalFlip", "p", 0, 1)

    def __call__(self, images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        flipped = rng.random(len(images)) < self.p
        output = images.copy()
        output[flipped] = images[flipped, ..., ::-1]
        return output

    def __repr__(self) -> str:
        return f"RandomHorizontalFlip({self.p:g})"


class Compose:
    """Transforms, one after the other, as one. In Batches a Compose is the same as the sequence of its parts, to the bit."""

    def __init__(self, transforms: Sequence[Transform]) -> None:
        self.transforms = flat(transforms)

    @property
    def random(self) -> bool:
        return any(map(is_random, self.transforms))

    def __call__(self, images: np.ndarray, rng: np.random.Generator | None = None) -> np.ndarray:
        if rng is None and self.random:
            raise TypeError(f"{self}: the random ones draw from a generator: call it as f(images, rng)")
        for transform in self.transforms:
            images = transform(images, rng) if is_random(transform) else transform(images)
        return images

    def __repr__(self) -> str:
        return f"Compose({list(self.transforms)})"


def is_random(transform: Transform) -> bool:
    return bool(getattr(transform, "random", False))


def flat(transform: Transform | Sequence[Transform] | None) -> tuple[Transform, ...]:
    """One transform, a sequence of them, or None for none, as a tuple without Compose in it; TypeError for what cannot be called."""
    if transform is None:
        return ()
    if isinstance(transform, Compose):
        return transform.transforms
    if callable(transform):
        return (transform,)
    parts = tuple(transform)
    if not all(map(callable, parts)):
        raise TypeError(f"every transform must be callable, got {parts}")
    return tuple(part for each in parts for part in flat(each))


def without_random(transform: Transform | Sequence[Transform] | None) -> tuple[Transform, ...]:
    """What is left of a chain for measuring and predicting, where nothing is augmented."""
    return tuple(part for part in flat(transform) if not is_random(part))
