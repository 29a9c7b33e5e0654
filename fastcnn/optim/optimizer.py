"""Optimizer: what all optimizers share (options, states, which parameters to update, saving). The arithmetic is the backend's: one call per step."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from fastcnn.backend import all_to_host, on_device
from fastcnn.nn.parameter import Parameter
from fastcnn.options import flag, number
from fastcnn.shapes import ShapeError, by


class Optimizer:
    """Base class. A subclass names its options and states and writes _update; parameters without a gradient, or frozen, are skipped.

    lr            learning rate; may be written at any time (schedules do)
    state_dict()  flat dict of arrays and numbers: the options, "step" (steps taken, per parameter), "<state>.<parameter number>"
    """

    options: tuple[str, ...] = ()  # attributes that state_dict carries besides lr, weight_decay, maximize
    # The lr that schedules start from; the first schedule built on the optimizer sets it.
    initial_lr: float | None = None

    def __init__(self, params: Iterable[Parameter], lr: float, weight_decay: float = 0.0, maximize: bool = False) -> None:
        try:
            self.params = list(params)
        except TypeError:
            raise TypeError(f"{type(self).__name__}: params must be an iterable of Parameters (model.parameters()), got {type(params).__name__}") from None
        if not self.params:
            raise ValueError(f"{type(self).__name__}: params is empty")
        for index, param in enumerate(self.params):
            if not isinstance(param, Parameter):
                raise TypeError(f"{type(self).__name__}: params must be Parameters (model.parameters()), item {index} is a {type(param).__name__}")
        if len({id(param) for param in self.params}) < len(self.params):
            raise ValueError(f"{type(self).__name__}: params has the same Parameter twice")
        self._check(weight_decay=weight_decay)
        self.lr = lr
        self.weight_decay = weight_decay
        self.maximize = flag(maximize, type(self).__name__, "maximize")
        self._steps = [0] * len(self.params)
        self._shapes = [param.shape for param in self.params]
        self._dtypes = [param.dtype for param in self.params]
        self._states: dict[str, list[np.ndarray]] = {}

    def _check(self, **options: float) -> None:
        for name, value in options.items():
            if not number(value, type(self).__name__, name) >= 0:
                raise ValueError(f"{type(self).__name__}: {name} must be 0 or more, got {value}")

    def _check_rates(self, **rates: float) -> None:
        for name, value in rates.items():
            if not 0 <= number(value, type(self).__name__, name) < 1:
                raise ValueError(f"{type(self).__name__}: {name} must be at least 0 and below 1, got {value}")

    @property
    def lr(self) -> float:
        return self._lr

    @lr.setter
    def lr(self, value: float) -> None:
        self._check(lr=value)
        self._lr = float(value)

    def zero_grad(self, set_to_none: bool = True) -> None:
        for param in self.params:
            param.zero_grad(set_to_none)

    def step(self) -> None:
        """Update every parameter that has a gradient."""
        active, arrays, grads = self._active()
        if not active:
            return
        for index in active:
            self._steps[index] += 1
        steps, names = self._steps, self._state_names()
        states = {name: self._state(name) for name in names}
        if len(active) < len(self.params):
            steps = [steps[index] for index in active]
            states = {name: [state[index] for index in active] for name, state in states.items()}
        self._update(arrays, grads, steps, states)

    def _state_names(self) -> tuple[str, ...]:
        """The states that _update takes under the present options."""
        raise NotImplementedError

    def _update(self, params: list[np.ndarray], grads: list[np.ndarray], steps: list[int], states: dict[str, list[np.ndarray]]) -> None:
        """Change the arrays of params and states in place. steps count from 1; an entry of states is missing if _state_names does not have it."""
        raise NotImplementedError

    def _initial_state(self, name: str) -> float:
        return 0.0

    def _state(self, name: str) -> list[np.ndarray]:
        """One state of every parameter, each laid out in memory as its parameter: an update then walks all of them in that order."""
        state = self._states.get(name)
        if state is None:
            state = self._states[name] = [
                np.zeros_like(param.data, dtype, shape=shape) for param, dtype, shape in zip(self.params, self._dtypes, self._shapes, strict=True)
            ]
            if self._initial_state(name):
                for array in state:
                    array.fill(self._initial_state(name))
        return state

    def _active(self) -> tuple[list[int], list[np.ndarray], list[np.ndarray]]:
        """Numbers, arrays and gradients of the parameters to update, all checked."""
        active, arrays, grads = [], [], []
        for index, param in enumerate(self.params):
            grad = param.grad
            if grad is None or not param.requires_grad:
                continue
            data, dtype, shape = param.data, self._dtypes[index], self._shapes[index]
            if not (type(grad) is np.ndarray and grad.dtype is dtype and data.dtype is dtype and grad.shape == shape and data.shape == shape):
                grad = self._checked(index, data, grad)
            active.append(index)
            arrays.append(data)
            grads.append(grad)
        return active, arrays, grads

    def _checked(self, index: int, data: np.ndarray, grad: np.ndarray) -> np.ndarray:
        """The gradient as a plain array, if it and the parameter are as they must be."""
        if data.dtype != self._dtypes[index]:
            raise TypeError(
                f"{type(self).__name__}: parameter {index} was {self._dtypes[index]} and is now {data.dtype}: "
                "convert a model before building its optimizer"
            )
        if not grad.shape == data.shape == self._shapes[index]:
            raise ShapeError(
                f"{type(self).__name__}: parameter {index} was {by(self._shapes[index])} and is now {by(data.shape)}, "
                f"its gradient is {by(grad.shape)}"
            )
        if grad.dtype != data.dtype:
            raise TypeError(f"{type(self).__name__}: parameter {index} is {data.dtype} but its gradient is {grad.dtype}")
        return grad if on_device(grad) else np.asarray(grad)

    def state_dict(self) -> dict[str, Any]:
        """Options as numbers (betas as an array), "step" and the states, copied, each in its parameter's shape."""
        names = ("lr", "weight_decay", "maximize", *self.options)
        result = {name: getattr(self, name) for name in names}
        result = {name: np.array(value) if isinstance(value, tuple) else value for name, value in result.items()}
        result["step"] = np.array(self._steps, np.int64)
        for name, arrays in self._states.items():
            hosts = all_to_host(arrays)  # wherever they are
            result |= {f"{name}.{i}": array.copy() if array is host else host for i, (array, host) in enumerate(zip(arrays, hosts, strict=True))}
        return result

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Restore what state_dict gave for the same parameters; ValueError names every key that is missing, unknown or of another shape."""
        options = ("lr", "weight_decay", "maximize", *self.options)
        given = {key: value for key, value in state_dict.items() if key not in options and key != "step"}
        faults = [f"missing key {key!r}" for key in (*options, "step") if key not in state_dict]
        if "step" in state_dict and len(np.atleast_1d(state_dict["step"])) != len(self.params):
            faults.append(f"'step' is for {len(np.atleast_1d(state_dict['step']))} parameters but there are {len(self.params)}")
        known = {f"{name}.{index}": (name, index) for name in self._all_states() for index in range(len(self.params))}
        for key, value in given.items():
            if key not in known:
                faults.append(f"unexpected key {key!r}")
            elif np.shape(value) != self._shapes[known[key][1]]:
                faults.append(f"{key!r} is {by(np.shape(value))} in the state_dict but {by(self._shapes[known[key][1]])} in the optimizer")
        names = {known[key][0] for key in given if key in known}
        faults += [f"missing key {key!r}" for key, (name, _) in known.items() if name in names and key not in given]
        if faults:
            raise ValueError(f"load_state_dict: {type(self).__name__}: " + "; ".join(faults))
        for name in options:
            old, value = getattr(self, name), state_dict[name]
            setattr(self, name, tuple(float(v) for v in value) if isinstance(old, tuple) else bool(value) if isinstance(old, bool) else float(value))
        self._steps = [int(step) for step in np.atleast_1d(state_dict["step"])]
        self._states = {}
        for key, value in given.items():
            name, index = known[key]
            self._state(name)[index][...] = np.asarray(value)

    def _all_states(self) -> tuple[str, ...]:
        """Every state that some setting of the options uses."""
        return self._state_names()

    def __repr__(self) -> str:
        names = ("lr", *self.options, "weight_decay")
        return f"{type(self).__name__}({', '.join(f'{name}={getattr(self, name)}' for name in names)}; {len(self.params)} parameters)"
