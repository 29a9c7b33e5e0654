"""Numpy-CNN, one image at a time: convolution, convolutionBackward, maxpool and maxpoolBackward of CNN/forward.py and CNN/backward.py.

    import fastcnn.compat.numpy_cnn; fastcnn.compat.numpy_cnn.install()      # before or after `from CNN.network import *`

An image is (C, H, W) without a batch axis, filters are (O, C, f, f), biases (O, 1), there is no padding. With six calls an image the time of a call is
what counts: some microseconds. Images need not be square here (the course's code takes them to be). Works on NumPy 2.4 and later, where the
course's `out[...] = ... + bias[f]` fails.

Weights are read at every call (the course changes them in place), and nothing that was returned is kept: `conv1[conv1 <= 0] = 0` is safe.
"""

from __future__ import annotations

import math

import numpy as np

from ..functional import max_pool2d, max_pool2d_backward
from ._arrays import common, conv2d, conv2d_backward
from ._install import Course, Installation
from ._install import install as _install
from ._install import uninstall as _uninstall
from ._windows import check_tiling

__all__ = ["convolution", "convolutionBackward", "install", "maxpool", "maxpoolBackward", "uninstall"]


def convolution(image: np.ndarray, filt: np.ndarray, bias: np.ndarray, s: int = 1) -> np.ndarray:
    """(C,H,W) x (O,C,f,f) + (O,1) -> (O,OH,OW), stride s, floored."""
    image, filt, bias = common("convolution", image, filt, bias)
    if image.ndim != 3:
        raise ValueError(f"convolution: image must be (C, H, W), got {image.ndim} axes {image.shape}")
    check_tiling("convolution", image.shape[1:], filt.shape[2:], (s, s))
    return conv2d(image, filt, bias, s, 0)


def convolutionBackward(dconv_prev: np.ndarray, conv_in: np.ndarray, filt: np.ndarray, s: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(O,OH,OW) with the forward's input and filters -> dout (C,H,W), dfilt (O,C,f,f), dbias (O,1)."""
    dconv_prev, conv_in, filt = common("convolutionBackward", dconv_prev, conv_in, filt)
    dout, dfilt, dbias = conv2d_backward(dconv_prev, conv_in, filt, None, s, 0)
    return dout, dfilt, dbias.reshape(-1, 1)


def maxpool(image: np.ndarray, f: int = 2, s: int = 2) -> np.ndarray:
    """(C,H,W) -> (C,OH,OW), windows f x f at stride s, floored; NaN propagates."""
    (image,) = common("maxpool", image)
    if image.ndim != 3:
        raise ValueError(f"maxpool: image must be (C, H, W), got {image.ndim} axes {image.shape}")
    check_tiling("maxpool", image.shape[1:], (f, f), (s, s))
    return max_pool2d(image, f, s)


def maxpoolBackward(dpool: np.ndarray, orig: np.ndarray, f: int, s: int) -> np.ndarray:
    """(C,OH,OW) with the forward's input -> (C,H,W).

    The first maximum of a window takes the gradient, NaN not counting as one (a window of NaN alone is a ValueError, as np.nanargmax has it). Gradients are
    assigned, not added: where windows overlap (f > s), a later one overwrites what an earlier one left at the same place.
    """
    dpool, orig = common("maxpoolBackward", dpool, orig)
    if orig.size and math.isnan(orig.max()):
        orig = _without_nan(orig, f, s)
    return max_pool2d_backward(dpool, orig, f, s, accumulate=f <= s)


def _without_nan(orig: np.ndarray, f: int, s: int) -> np.ndarray:
    """NaN turned into -inf; ValueError if that leaves a window with nothing."""
    nowhere = np.isnan(orig)
    if not max_pool2d(np.where(nowhere, 0.0, 1.0), f, s).all():
        raise ValueError("maxpoolBackward: All-NaN slice encountered")
    return np.where(nowhere, -np.inf, orig).astype(orig.dtype, copy=False)


_CONVOLUTION = {"convolution": convolution, "maxpool": maxpool}
_BACKWARD = {"convolutionBackward": convolutionBackward, "maxpoolBackward": maxpoolBackward}

COURSE = Course(
    name="numpy_cnn",
    title="Numpy-CNN",
    names={"CNN.forward": _CONVOLUTION, "CNN.backward": _BACKWARD, "__main__": _CONVOLUTION | _BACKWARD},
)


def install() -> Installation:
    """Put these functions in place of the course's, before or after it is imported."""
    return _install(COURSE)


def uninstall() -> None:
    """Everything as it was."""
    _uninstall(COURSE)
