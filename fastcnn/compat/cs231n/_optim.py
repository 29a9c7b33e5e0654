"""optim.py: update rules (w, dw, config) -> (next_w, config), the ones that make many passes over the weights."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...backend import current
from ...shapes import ShapeError, by
from .._arrays import common

Result = tuple[np.ndarray, dict[str, Any]]


def _owned(op: str, w: Any, dw: Any, *states: Any) -> list[np.ndarray]:
    """A copy of w, dw, and copies of the states, all of w's shape and in one dtype: what the caller holds is not changed."""
    arrays = common(op, w, dw, *states)
    for name, value in zip(("dw", "state", "state"), arrays[1:], strict=False):
        if value.shape != arrays[0].shape:
            raise ShapeError(f"{op}: {name} has shape {by(value.shape) or 'scalar'} but w has {by(arrays[0].shape) or 'scalar'}")
    first, grad, *rest = arrays
    return [np.array(first, order="C"), np.ascontiguousarray(grad), *(np.array(value, order="C") for value in rest)]


def _adam(w: Any, dw: Any, config: dict[str, Any] | None, first_step: int) -> Result:
    config = {} if config is None else config
    for name, value in (("learning_rate", 1e-3), ("beta1", 0.9), ("beta2", 0.999), ("epsilon", 1e-8), ("t", first_step)):
        config.setdefault(name, value)
    zeros = np.zeros_like(w)
    next_w, grad, m, v = _owned("adam", w, dw, config.get("m", zeros), config.get("v", zeros))
    config["t"] += 1
    numbers = (float(config[name]) for name in ("learning_rate", "beta1", "beta2", "epsilon"))
    current().adam_update([next_w], [grad], [m], [v], None, [int(config["t"])], *numbers, 0.0, False, False)
    config["m"], config["v"] = m, v
    return next_w, config


def adam(w: np.ndarray, dw: np.ndarray, config: dict[str, Any] | None = None) -> Result:
    """Adam with bias correction. config: learning_rate (1e-3), beta1 (0.9), beta2 (0.999), epsilon (1e-8), and its state m, v, t (0, counted up first)."""
    return _adam(w, dw, config, 0)


def adam_from_1(w: np.ndarray, dw: np.ndarray, config: dict[str, Any] | None = None) -> Result:
    """The same with t = 1 at the start, so that the first step is number 2: what the course's file said until 2017."""
    return _adam(w, dw, config, 1)


def rmsprop(w: np.ndarray, dw: np.ndarray, config: dict[str, Any] | None = None) -> Result:
    """RMSProp. config: learning_rate (1e-2), decay_rate (0.99), epsilon (1e-8), and its state cache."""
    config = {} if config is None else config
    for name, value in (("learning_rate", 1e-2), ("decay_rate", 0.99), ("epsilon", 1e-8)):
        config.setdefault(name, value)
    next_w, grad, cache = _owned("rmsprop", w, dw, config.get("cache", np.zeros_like(w)))
    rate, decay, epsilon = (float(config[name]) for name in ("learning_rate", "decay_rate", "epsilon"))
    current().rmsprop_update([next_w], [grad], [cache], None, None, rate, decay, epsilon, 0.0, 0.0, False)
    config["cache"] = cache
    return next_w, config
