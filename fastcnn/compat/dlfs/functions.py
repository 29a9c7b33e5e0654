"""common/functions.py: what the layers use of it."""

from __future__ import annotations

import numpy as np

from ... import functional
from .._arrays import class_numbers, common


def sigmoid(x: np.ndarray) -> np.ndarray:
    """1/(1 + exp(-x))."""
    return functional.sigmoid(*common("sigmoid", x))


def relu(x: np.ndarray) -> np.ndarray:
    """max(0, x)."""
    return functional.relu(*common("relu", x))


def softmax(x: np.ndarray) -> np.ndarray:
    """exp(x)/sum(exp(x)) along the last axis, shifted by the maximum."""
    return functional.softmax(*common("softmax", x), -1)


def cross_entropy_error(y: np.ndarray, t: np.ndarray) -> np.floating:
    """Mean over the batch of -log(y + 1e-7) at the right class; t holds labels (N,) or one-hot rows (N, K), of which the largest counts.

    A single image may come without the batch axis.
    """
    y, t = np.asarray(y), np.asarray(t)
    if y.ndim == 1:
        t, y = t.reshape(1, t.size), y.reshape(1, y.size)
    if t.size == y.size:
        t = t.argmax(axis=1)
    t = class_numbers("cross_entropy_error", "t", t, y)
    return -np.sum(np.log(y[np.arange(len(y)), t] + 1e-7)) / len(y)
