"""Transforms of image batches (N, C, H, W): standardising, scaling, padding, resizing. Random ones are in augment.py."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from numbers import Integral

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from .dataset import Dataset
from .lazy import LazyImages

CHUNK_BYTES = 1 << 22  # work on pieces of about this size, so that float temporaries of a large uint8 array stay in the cache


class Standardize:
    """x -> (x - mean) / std, as float32; mean and std are in the units of the raw images (0..255 for uint8).

    mean, std  (C,) or (1,)  float64; std > 0
    Call       on uint8 or float images (N, C, H, W) or (C, H, W); the result is a fresh C-contiguous float32 array
    """

    def __init__(self, mean: ArrayLike, std: ArrayLike) -> None:
        self.load_state_dict({"mean": mean, "std": std})

    @classmethod
    def fit(cls, dataset: Dataset, per_channel: bool = True) -> Standardize:
        """Mean and (population) standard deviation of all pixels, per channel or over all channels.

        A constant channel gets std 1, so it standardises to zeros. Sums over uint8 images are exact integers, whatever the order.
        """
        images = dataset.images
        if images.size == 0:
            raise ValueError(f"Standardize.fit: {dataset!r} has no pixels")
        count, mean, variance = (_moments_uint8 if images.dtype == np.uint8 else _moments_float)(images)
        if not per_channel:
            total = np.average(mean, weights=count)
            variance = np.average(variance + (mean - total) ** 2, weights=count, keepdims=True)
            mean = np.array([total])
        if not np.isfinite(variance).all():
            raise ValueError(f"Standardize.fit: {dataset!r} has NaN or infinite pixels")
        std = np.sqrt(variance)
        return cls(mean, np.where(std > 0, std, 1.0))

    def __call__(self, images: np.ndarray) -> np.ndarray:
        C = len(self.mean)
        if images.ndim < 3 or C not in (1, images.shape[-3]):
            raise ValueError(f"Standardize: fitted to {C} channels but the images have shape {images.shape}")
        # One conversion, then two passes in place over what is still in the cache: 12 us for 64 images of 1x32x32, half of it the conversion. A
        # ufunc that converts as it reads takes as long, a table of 256 values 4 times as long (take() widens its indices to 8 bytes first), and
        # into a kept buffer instead of a fresh array it is no faster.
        output = images.astype(np.float32, order="C")
        output -= self.mean.astype(np.float32).reshape(C, 1, 1)
        output *= (1 / self.std).astype(np.float32).reshape(C, 1, 1)
        return output

    def __repr__(self) -> str:
        return f"Standardize(mean={self.mean.round(4).tolist()}, std={self.std.round(4).tolist()})"

    def state_dict(self) -> dict[str, np.ndarray]:
        return {"mean": self.mean.copy(), "std": self.std.copy()}

    def load_state_dict(self, state: Mapping[str, ArrayLike]) -> None:
        mean, std = (np.atleast_1d(np.array(state[key], dtype=np.float64)) for key in ("mean", "std"))
        if mean.ndim != 1 or mean.shape != std.shape:
            raise ValueError(f"Standardize: mean and std must be 1-D and of one length, got {mean.shape} and {std.shape}")
        if not (np.isfinite(mean).all() and np.isfinite(std).all() and (std > 0).all()):
            raise ValueError(f"Standardize: mean must be finite and std positive, got {mean} and {std}")
        self.mean, self.std = mean, std


def _moments_uint8(images: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(pixels, mean, variance) per channel from exact histograms of the 256 values."""
    C = images.shape[1]
    histogram = np.zeros((C, 256), np.int64)
    for piece in _pieces(images):
        for c in range(C):
            histogram[c] += np.bincount(piece[:, c].ravel(), minlength=256)
    values, count = np.arange(256), histogram.sum(axis=1)
    mean = histogram @ values / count
    return count, mean, (histogram * (values - mean[:, None]) ** 2).sum(axis=1) / count


def _moments_float(images: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(pixels, mean, variance) per channel in float64, in two passes: a one-pass variance cancels."""
    C, axes = images.shape[1], (0, 2, 3)
    count = np.full(C, images.size // C)
    mean = sum(piece.sum(axis=axes, dtype=np.float64) for piece in _pieces(images)) / count
    centre = mean.reshape(C, 1, 1)
    return count, mean, sum(np.square(piece - centre).sum(axis=axes) for piece in _pieces(images)) / count


def _pieces(images: np.ndarray | LazyImages) -> Iterator[np.ndarray]:
    """One after the other, so that of lazy images only one piece is in memory."""
    step = _step(math.prod(images.shape[1:]))
    return (images[start : start + step] for start in range(0, len(images), step))


def _step(pixels: int) -> int:
    """How many items of that many pixels make a piece of about CHUNK_BYTES as float32, at least one."""
    return max(1, CHUNK_BYTES // (4 * pixels))


class Rescale:
    """uint8 0..255 -> float32 low..high: Rescale() gives 0..1; Rescale(-0.1, 1.175) is what LeCun et al. 1998 fed to LeNet-5."""

    def __init__(self, low: float = 0.0, high: float = 1.0) -> None:
        self.low, self.high = float(low), float(high)

    def __call__(self, images: np.ndarray) -> np.ndarray:
        if images.dtype != np.uint8:
            raise TypeError(f"Rescale: images must be uint8, got {images.dtype}")
        output = images.astype(np.float32, order="C")
        output *= np.float32((self.high - self.low) / 255)
        output += np.float32(self.low)
        return output

    def __repr__(self) -> str:
        return f"Rescale({self.low:g}, {self.high:g})"


def pad_to(images: np.ndarray, size: int | tuple[int, int], value: float = 0) -> np.ndarray:
    """Images (..., H, W) centred in a border of value: (..., *size), same dtype; an odd rest goes to the bottom and the right."""
    (OH, OW), (H, W) = pair("pad_to", size), images.shape[-2:]
    if OH < H or OW < W:
        raise ValueError(f"pad_to: size {OH}x{OW} is smaller than the images, which are {H}x{W}")
    top, left = (OH - H) // 2, (OW - W) // 2
    output = np.full(images.shape[:-2] + (OH, OW), value, images.dtype)
    output[..., top : top + H, left : left + W] = images
    return output


def resize(images: np.ndarray, size: int | tuple[int, int], mode: str = "bilinear") -> np.ndarray:
    """Images (..., H, W) -> (..., *size), same dtype; uint8 results are rounded and clipped to 0..255.

    Pixel o of the output lies at (o + 1/2) H / OH - 1/2 of the input, and pixels beyond the border repeat the border: what
    torch.nn.functional.interpolate computes for align_corners=False, antialias=False.
    mode    "nearest"   pixel floor(o H / OH)
            "bilinear"  weights 1 - |d| of the 2 nearest rows and columns
            "bicubic"   Keys' kernel with a = -3/4 over 4 rows and columns
    """
    OH, OW = pair("resize", size)
    if mode not in ("nearest", *_KERNELS):
        raise ValueError(f"resize: mode must be 'nearest', 'bilinear' or 'bicubic', got {mode!r}")
    if images.dtype not in (np.uint8, np.float32, np.float64):
        raise TypeError(f"resize: images must be uint8, float32 or float64, got {images.dtype}")
    H, W = images.shape[-2:]
    if H == 0 or W == 0:
        raise ValueError(f"resize: the images are empty ({H}x{W})")
    if mode == "nearest":
        return np.ascontiguousarray(images[..., (np.arange(OH) * H // OH)[:, None], np.arange(OW) * W // OW])
    dtype = np.float64 if images.dtype == np.float64 else np.float32
    rows, columns = _taps(H, OH, mode, dtype), _taps(W, OW, mode, dtype)
    planes = images.reshape(-1, H, W)
    output = np.empty((len(planes), OH, OW), images.dtype)
    step = _step(max(H, OH) * max(W, OW))
    for start in range(0, len(planes), step):
        piece = planes[start : start + step].astype(dtype)
        piece = sum(piece[:, index] * weight[:, None] for index, weight in rows)
        piece = sum(piece[:, :, index] * weight for index, weight in columns)
        if images.dtype == np.uint8:
            piece = np.clip(np.rint(piece), 0, 255)
        output[start : start + step] = piece
    return output.reshape(images.shape[:-2] + (OH, OW))


def _bicubic(distance: np.ndarray) -> np.ndarray:
    a = -0.75  # torch's and OpenCV's; Pillow and the antialiased resizers use -0.5
    near = ((a + 2) * distance - (a + 3)) * distance**2 + 1
    far = ((a * distance - 5 * a) * distance + 8 * a) * distance - 4 * a
    return np.where(distance <= 1, near, far)


_KERNELS = {"bilinear": (lambda distance: 1 - distance, (0, 1)), "bicubic": (_bicubic, (-1, 0, 1, 2))}  # weight(|d|), offsets from floor(source)


def _taps(size: int, output_size: int, mode: str, dtype: DTypeLike) -> list[tuple[np.ndarray, np.ndarray]]:
    """One (index, weight) pair of length output_size per tap of the kernel: output[o] = sum over taps of weight[o] * input[index[o]]."""
    kernel, offsets = _KERNELS[mode]
    source = (np.arange(output_size) + 0.5) * (size / output_size) - 0.5
    base = np.floor(source)
    return [
        (np.clip(base + offset, 0, size - 1).astype(np.intp), kernel(np.abs(source - base - offset)).astype(dtype)) for offset in offsets
    ]


def pair(op: str, size: int | tuple[int, int]) -> tuple[int, int]:
    """(H, W) of an image size, which may be one int for both."""
    sizes = tuple(size) if isinstance(size, (tuple, list)) else (size, size)
    if len(sizes) != 2 or not all(isinstance(n, Integral) and not isinstance(n, bool) for n in sizes):
        raise TypeError(f"{op}: size must be an int or a pair (H, W), got {size!r}")
    if min(sizes) < 1:
        raise ValueError(f"{op}: size must be positive, got {sizes[0]}x{sizes[1]}")
    return int(sizes[0]), int(sizes[1])
