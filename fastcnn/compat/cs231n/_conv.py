"""Convolution and max pooling of layers.py and fast_layers.py, with the dicts {'stride', 'pad'} and {'pool_height', 'pool_width', 'stride'}.

All variants of the convolution compute the same. They differ in what they keep, (x, w, b, conv_param) or with a fifth entry for columns that nobody
needs here (None), and in what they say to windows that do not tile the image: the im2col variants raise AssertionError, the others leave the rest out.

The variants of the pool differ in who gets the gradient of a tie: where windows tile the image, `reshape` and `fast` give every maximum an equal share;
else the first maximum gets all of it, as in `naive`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ... import functional as F
from .._arrays import common, conv2d, conv2d_backward
from .._windows import check_tiling

ConvCache = tuple[Any, ...]
Grads = tuple[np.ndarray | None, np.ndarray, np.ndarray]


def _convolve(op: str, x: Any, w: Any, b: Any, conv_param: Mapping[str, int], tiling: bool = False) -> np.ndarray:
    x, w, b = common(op, x, w, b)
    stride, pad = conv_param["stride"], conv_param["pad"]
    check_tiling(op, x.shape[2:], w.shape[2:], (stride, stride), (pad, pad), always=tiling)
    return conv2d(x, w, b, stride, pad)


def _gradients(op: str, dout: Any, cache: ConvCache, need_dx: bool) -> Grads:
    x, w, b, conv_param = cache[:4]
    dout, x, w = common(op, dout, x, w)
    return conv2d_backward(dout, x, w, np.asarray(b), conv_param["stride"], conv_param["pad"], need_dx=need_dx)


def conv_forward_naive(x: np.ndarray, w: np.ndarray, b: np.ndarray, conv_param: Mapping[str, int]) -> tuple[np.ndarray, ConvCache]:
    """(N,C,H,W) x (F,C,HH,WW) + (F,) -> ((N,F,OH,OW), cache); cache = (x, w, b, conv_param)."""
    return _convolve("conv_forward_naive", x, w, b, conv_param), (x, w, b, conv_param)


def conv_backward_naive(dout: np.ndarray, cache: ConvCache, need_dx: bool = True) -> Grads:
    """(dx, dw, db), also for the caches of the other variants; need_dx=False: dx is None, for the first layer."""
    return _gradients("conv_backward_naive", dout, cache, need_dx)


def conv_forward_im2col(x: np.ndarray, w: np.ndarray, b: np.ndarray, conv_param: Mapping[str, int]) -> tuple[np.ndarray, ConvCache]:
    """As conv_forward_fast; AssertionError if the windows do not tile the padded image."""
    return _convolve("conv_forward_im2col", x, w, b, conv_param, tiling=True), (x, w, b, conv_param, None)


def conv_backward_im2col(dout: np.ndarray, cache: ConvCache, need_dx: bool = True) -> Grads:
    """As conv_backward_naive."""
    return _gradients("conv_backward_im2col", dout, cache, need_dx)


def conv_forward_strides(x: np.ndarray, w: np.ndarray, b: np.ndarray, conv_param: Mapping[str, int]) -> tuple[np.ndarray, ConvCache]:
    """As conv_forward_fast."""
    return _convolve("conv_forward_strides", x, w, b, conv_param), (x, w, b, conv_param, None)


def conv_backward_strides(dout: np.ndarray, cache: ConvCache, need_dx: bool = True) -> Grads:
    """As conv_backward_naive."""
    return _gradients("conv_backward_strides", dout, cache, need_dx)


def conv_forward_fast(x: np.ndarray, w: np.ndarray, b: np.ndarray, conv_param: Mapping[str, int]) -> tuple[np.ndarray, ConvCache]:
    """As conv_forward_naive; cache = (x, w, b, conv_param, None), the last being the columns of the course's code."""
    return _convolve("conv_forward_fast", x, w, b, conv_param), (x, w, b, conv_param, None)


def conv_backward_fast(dout: np.ndarray, cache: ConvCache, need_dx: bool = True) -> Grads:
    """As conv_backward_naive."""
    return _gradients("conv_backward_fast", dout, cache, need_dx)


def _window(op: str, x: np.ndarray, pool_param: Mapping[str, int], tiling: bool = False) -> tuple[tuple[int, int], int]:
    window, stride = (pool_param["pool_height"], pool_param["pool_width"]), pool_param["stride"]
    check_tiling(op, x.shape[2:], window, (stride, stride), always=tiling)
    return window, stride


def _tiles(x: np.ndarray, window: tuple[int, int], stride: int) -> bool:
    """Whether square windows lie side by side and cover the image: the course's fast path for that."""
    return x.ndim == 4 and window[0] == window[1] == stride and x.shape[2] % stride == 0 and x.shape[3] % stride == 0


def max_pool_forward_naive(x: np.ndarray, pool_param: Mapping[str, int]) -> tuple[np.ndarray, tuple]:
    """(N,C,H,W) -> ((N,C,OH,OW), cache); cache = (x, pool_param). Windows that do not tile the image leave the rest out."""
    (images,) = common("max_pool_forward_naive", x)
    return F.max_pool2d(images, *_window("max_pool_forward_naive", images, pool_param)), (x, pool_param)


def max_pool_backward_naive(dout: np.ndarray, cache: tuple) -> np.ndarray:
    """dx; the first maximum of a window gets the gradient."""
    x, pool_param = cache[:2]
    dout, x = common("max_pool_backward_naive", dout, x)
    return F.max_pool2d_backward(dout, x, (pool_param["pool_height"], pool_param["pool_width"]), pool_param["stride"])


def max_pool_forward_reshape(x: np.ndarray, pool_param: Mapping[str, int]) -> tuple[np.ndarray, tuple]:
    """As max_pool_forward_naive for square windows that tile the image (else AssertionError); cache = (x, its windows as a view, out)."""
    (images,) = common("max_pool_forward_reshape", x)
    window, stride = _window("max_pool_forward_reshape", images, pool_param)
    if not _tiles(images, window, stride):
        raise AssertionError(f"max_pool_forward_reshape: needs square windows that tile the image, got {pool_param} for {images.shape}")
    N, C, H, W = images.shape
    out = F.max_pool2d(images, window, stride)
    return out, (x, images.reshape(N, C, H // stride, stride, W // stride, stride), out)


def max_pool_backward_reshape(dout: np.ndarray, cache: tuple) -> np.ndarray:
    """dx; tied maxima share the gradient in equal parts."""
    x, windows, _ = cache
    dout, x = common("max_pool_backward_reshape", dout, x)
    return F.max_pool2d_backward(dout, x, windows.shape[3], ties="split")


def max_pool_forward_im2col(x: np.ndarray, pool_param: Mapping[str, int]) -> tuple[np.ndarray, tuple]:
    """As max_pool_forward_naive, with AssertionError if the windows do not tile the image; cache = (x, None, None, pool_param, positions of the maxima)."""
    return _by_position("max_pool_forward_im2col", x, pool_param, True)


def _by_position(op: str, x: Any, pool_param: Mapping[str, int], tiling: bool) -> tuple[np.ndarray, tuple]:
    (images,) = common(op, x)
    out, indices = F.max_pool2d(images, *_window(op, images, pool_param, tiling), return_indices=True)
    return out, (x, None, None, pool_param, indices)


def max_pool_backward_im2col(dout: np.ndarray, cache: tuple) -> np.ndarray:
    """dx; the first maximum of a window gets the gradient."""
    x, _, _, pool_param, indices = cache
    dout, x = common("max_pool_backward_im2col", dout, x)
    return F.max_pool2d_backward(dout, x, (pool_param["pool_height"], pool_param["pool_width"]), pool_param["stride"], indices=indices)


def max_pool_forward_fast(x: np.ndarray, pool_param: Mapping[str, int]) -> tuple[np.ndarray, tuple]:
    """As max_pool_forward_naive; cache = ('reshape', ...) if square windows tile the image, else ('im2col', ...), which here leaves a rest out too."""
    (images,) = common("max_pool_forward_fast", x)
    if _tiles(images, *_window("max_pool_forward_fast", images, pool_param)):
        out, cache = max_pool_forward_reshape(x, pool_param)
        return out, ("reshape", cache)
    out, cache = _by_position("max_pool_forward_fast", x, pool_param, False)
    return out, ("im2col", cache)


def max_pool_backward_fast(dout: np.ndarray, cache: tuple) -> np.ndarray:
    """dx; tied maxima share the gradient where square windows tile the image, else the first gets it."""
    method, inner = cache
    return max_pool_backward_reshape(dout, inner) if method == "reshape" else max_pool_backward_im2col(dout, inner)
