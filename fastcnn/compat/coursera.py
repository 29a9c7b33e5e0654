"""Coursera, deep learning specialization, course 4, week 1: the functions of the notebook "Convolution model: step by step".

    from fastcnn.compat.coursera import *                # in a cell after the graded ones; or:
    import fastcnn.compat.coursera as fast; fast.install()

Images are NHWC, filters (f, f, n_C_prev, n_C), biases (1, 1, 1, n_C); hparameters are the notebook's dicts; the caches are the notebook's tuples, nothing more.
Strides that do not tile are floored. The dtype is np.result_type of the arrays.

Where the notebook's own reference fails or is silent: conv_backward works with pad 0 (the notebook's slices pad:-pad), and a mode that does not exist
is a ValueError.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..functional import avg_pool2d, avg_pool2d_backward, max_pool2d, max_pool2d_backward
from ..options import integer
from ..shapes import ShapeError, by, check_bytes
from ._arrays import common, conv2d, conv2d_backward
from ._install import Course, Installation
from ._install import install as _install
from ._install import uninstall as _uninstall
from ._windows import check_tiling

__all__ = [
    "conv_backward",
    "conv_forward",
    "conv_single_step",
    "create_mask_from_window",
    "distribute_value",
    "install",
    "pool_backward",
    "pool_forward",
    "uninstall",
    "zero_pad",
]


def zero_pad(X: np.ndarray, pad: int) -> np.ndarray:
    """(m, n_H, n_W, n_C) -> (m, n_H + 2*pad, n_W + 2*pad, n_C), zeros around; keeps the dtype."""
    if not isinstance(X, np.ndarray):
        raise TypeError(f"zero_pad: X must be a numpy.ndarray, got {type(X).__name__}")
    if X.ndim != 4:
        raise ShapeError(f"zero_pad: X must be 4-D (m, n_H, n_W, n_C), got {X.ndim}-D {by(X.shape) or 'scalar'}")
    pad = integer(pad, "zero_pad", "pad", 0)
    m, n_H, n_W, n_C = X.shape
    check_bytes("zero_pad", (m or 1, n_H + 2 * pad, n_W + 2 * pad, n_C), X.itemsize)
    X_pad = np.zeros((m, n_H + 2 * pad, n_W + 2 * pad, n_C), X.dtype)
    X_pad[:, pad : pad + n_H, pad : pad + n_W] = X
    return X_pad


def conv_single_step(a_slice_prev: np.ndarray, W: np.ndarray, b: np.ndarray) -> np.floating:
    """One window (f, f, n_C_prev) with one filter of that shape and one bias (1, 1, 1): a number."""
    if np.shape(a_slice_prev) != np.shape(W):
        raise ShapeError(f"conv_single_step: a_slice_prev is {by(np.shape(a_slice_prev)) or 'a scalar'} but W is {by(np.shape(W)) or 'a scalar'}")
    if np.size(b) != 1:
        raise ShapeError(f"conv_single_step: b must be one number, got {by(np.shape(b))}")
    return np.sum(a_slice_prev * W) + np.asarray(b).item()


def conv_forward(A_prev: np.ndarray, W: np.ndarray, b: np.ndarray, hparameters: Mapping[str, int]) -> tuple[np.ndarray, tuple]:
    """(m, n_H_prev, n_W_prev, n_C_prev) x (f, f, n_C_prev, n_C) + (1, 1, 1, n_C) -> Z (m, n_H, n_W, n_C), cache.

    hparameters  "stride" and "pad"
    cache        (A_prev, W, b, hparameters), the arrays themselves
    """
    x, w, bias = common("conv_forward", A_prev, W, b)
    stride, pad = hparameters["stride"], hparameters["pad"]
    check_tiling("conv_forward", x.shape[1:3], w.shape[:2], (stride, stride), (pad, pad))
    return conv2d(x, w, bias, stride, pad, "NHWC"), (A_prev, W, b, hparameters)


def conv_backward(dZ: np.ndarray, cache: tuple) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """dZ (m, n_H, n_W, n_C) and conv_forward's cache -> dA_prev, dW, db (1, 1, 1, n_C)."""
    A_prev, W, b, hparameters = cache[:4]
    grad, x, w = common("conv_backward", dZ, A_prev, W)
    return conv2d_backward(grad, x, w, b, hparameters["stride"], hparameters["pad"], layout="NHWC")


def pool_forward(A_prev: np.ndarray, hparameters: Mapping[str, int], mode: str = "max") -> tuple[np.ndarray, tuple]:
    """(m, n_H_prev, n_W_prev, n_C) -> A (m, n_H, n_W, n_C), cache.

    hparameters  "f" and "stride"
    mode         "max" or "average"
    cache        (A_prev, hparameters)
    """
    (x,) = common("pool_forward", A_prev)
    f, stride = hparameters["f"], hparameters["stride"]
    check_tiling("pool_forward", x.shape[1:3], (f, f), (stride, stride))
    pool = _choose("pool_forward", mode, max_pool2d, avg_pool2d)
    return pool(x, f, stride, layout="NHWC"), (A_prev, hparameters)


def pool_backward(dA: np.ndarray, cache: tuple, mode: str = "max") -> np.ndarray:
    """dA (m, n_H, n_W, n_C) and pool_forward's cache -> dA_prev.

    "max": every value that equals its window's maximum takes the whole gradient, ties all of them; "average": all take an equal part. Overlaps add up.
    """
    A_prev, hparameters = cache[:2]
    grad, x = common("pool_backward", dA, A_prev)
    f, stride = hparameters["f"], hparameters["stride"]
    backward, options = _choose("pool_backward", mode, (max_pool2d_backward, {"ties": "all"}), (avg_pool2d_backward, {}))
    return backward(grad, x, f, stride, layout="NHWC", **options)


def _choose(op: str, mode: str, maximum: Any, average: Any) -> Any:
    if mode == "max":
        return maximum
    if mode == "average":
        return average
    raise ValueError(f"{op}: mode must be 'max' or 'average', got {mode!r}")


def create_mask_from_window(x: np.ndarray) -> np.ndarray:
    """True where x is its maximum; several where they tie."""
    return x == np.max(x)


def distribute_value(dz: float, shape: tuple[int, int]) -> np.ndarray:
    """dz in equal parts over an array of this shape (n_H, n_W)."""
    n_H, n_W = shape
    return np.full(shape, dz / (n_H * n_W))


COURSE = Course(
    name="coursera",
    title="Coursera deep learning specialization, course 4 week 1",
    names={
        "__main__": {
            "conv_backward": conv_backward,
            "conv_forward": conv_forward,
            "pool_backward": pool_backward,
            "pool_forward": pool_forward,
            "zero_pad": zero_pad,
        }
    },
)


def install() -> Installation:
    """Put these functions in place of the notebook's own, which must have been defined before."""
    return _install(COURSE)


def uninstall() -> None:
    """The notebook's own functions again."""
    _uninstall(COURSE)
