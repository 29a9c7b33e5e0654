"""Optimizers on a quadratic bowl f(x, y) = (x^2 + c y^2) / 2, whose valley is steep across and flat along: the way each takes to its bottom (0, 0)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from fastcnn import nn, optim

START = (-10.0, 1.0)
CURVATURE = 50.0

# Name -> optimizer. The first three differ in nothing but momentum (at their rate: plain SGD diverges above 2 / c = 0.04, Nesterov above 0.027).
OPTIMIZERS: dict[str, Callable[[list[Any]], optim.Optimizer]] = {
    "SGD": lambda p: optim.SGD(p, lr=0.012),
    "momentum": lambda p: optim.SGD(p, lr=0.012, momentum=0.9),
    "Nesterov": lambda p: optim.SGD(p, lr=0.012, momentum=0.9, nesterov=True),
    "AdaGrad": lambda p: optim.Adagrad(p, lr=1.5),
    "RMSProp": lambda p: optim.RMSprop(p, lr=0.2, alpha=0.9),
    "Adam": lambda p: optim.Adam(p, lr=0.5),
}
# The entry of an optimizer's state that holds the squares by whose root a step is divided.
_SQUARES = {"AdaGrad": "sum", "RMSProp": "square_avg", "Adam": "exp_avg_sq"}


class Path(NamedTuple):
    """name, settings: of the optimizer; points (steps + 1, 2); distance (steps + 1,) from the bottom; value (steps + 1,) of f.

    rates (steps, 2): the learning rate of each coordinate, divided by the root of its squares where the optimizer does that.
    """

    name: str
    settings: str
    points: np.ndarray
    distance: np.ndarray
    value: np.ndarray
    rates: np.ndarray


def bowl(point: np.ndarray) -> np.ndarray:
    """f at points (..., 2)"""
    return (point[..., 0] ** 2 + CURVATURE * point[..., 1] ** 2) / 2


def descend(names: Sequence[str] = tuple(OPTIMIZERS), steps: int = 80) -> list[Path]:
    """The path of each optimizer from START, in float64."""
    paths = []
    for name in names:
        parameter = nn.Parameter(np.array(START))
        optimizer = OPTIMIZERS[name]([parameter])
        points, rates = [parameter.data.copy()], []
        for step in range(1, steps + 1):
            parameter.grad = parameter.data * (1.0, CURVATURE)
            optimizer.step()
            points.append(parameter.data.copy())
            rates.append(_rates(name, optimizer, step))
        way = np.array(points)
        paths.append(Path(name, _settings(optimizer), way, np.hypot(*way.T), bowl(way), np.array(rates)))
    return paths


def _settings(optimizer: optim.Optimizer) -> str:
    """'lr 0.012, momentum 0.9': what is not switched off; eps, which only keeps from dividing by 0, is left out."""
    values = {name: getattr(optimizer, name) for name in ("lr", *optimizer.options) if name != "eps"}
    return ", ".join(name if value is True else f"{name} {value}" for name, value in values.items() if value)


def _rates(name: str, optimizer: optim.Optimizer, step: int) -> np.ndarray:
    state = optimizer.state_dict()
    if name not in _SQUARES:
        return np.full(2, optimizer.lr)
    squares = state[f"{_SQUARES[name]}.0"]
    if name == "Adam":
        squares = squares / (1 - state["betas"][1] ** step)
    return optimizer.lr / (np.sqrt(squares) + state["eps"])
