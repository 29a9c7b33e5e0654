"""Optimizer: what all optimizers share (options, state, the loop over blocks, saving)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from fastcnn.nn.parameter import Parameter
from fastcnn.optim.blocks import Block, Part, cut
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
        self.params = list(params)
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
        self.maximize = maximize
        self._steps = [0] * len(self.params)
        self._shapes = [param.shape for param in self.params]
        self._dtypes = [param.dtype for param in self.params]
        # The state of all parameters of one dtype lies in one vector, parameter after parameter, so that a block's state is one slice.
        self._offsets, self._totals = [], dict.fromkeys(self._dtypes, 0)
        for param in self.params:
            self._offsets.append(self._totals[param.dtype])
            self._totals[param.dtype] += param.size
        self._states: dict[tuple[str, np.dtype], np.ndarray] = {}
        self._blocks: list[Block] = []
        self._blocks_of: list[tuple[int, np.ndarray]] = []  # the numbers and arrays that _blocks was cut for
        self._flattened: np.ndarray | None = None

    def _check(self, **options: float) -> None:
        for name, value in options.items():
            if not value >= 0:
                raise ValueError(f"{type(self).__name__}: {name} must be 0 or more, got {value}")

    def _check_rates(self, **rates: float) -> None:
        for name, value in rates.items():
            if not 0 <= value < 1:
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
        active = self._active()
        if len(active) != len(self._blocks_of) or any(i != j or a is not b for (i, a), (j, b) in zip(active, self._blocks_of, strict=True)):
            self._blocks, self._blocks_of = cut(active, self._offsets, self._steps), active
        for index, _ in active:
            self._steps[index] += 1
        names = self._state_names()
        for block in self._blocks:
            grad = self._gather(block)
            step = self._steps[block.pieces[0].part.index]
            states = [self._state(name, block.dtype)[block.state] for name in names]
            shrink = self._update(step, grad, block.update, *states)
            for part, _, change in block.pieces:
                if shrink is not None:
                    np.multiply(part.data, shrink, out=part.data)
                np.subtract(part.data, change, out=part.data)
        self._flattened = None

    def _state_names(self) -> tuple[str, ...]:
        """The state vectors that _update takes under the present options."""
        raise NotImplementedError

    def _update(self, step: int, grad: np.ndarray, update: np.ndarray, *states: np.ndarray) -> float | None:
        """Write what is to be subtracted from the parameters into update, changing the states in place; grad must not be changed.

        step counts from 1. Returns a factor for the parameters, applied before the subtraction, or None.
        """
        raise NotImplementedError

    _decay_in_gradient = True  # weight decay as an L2 penalty; AdamW shrinks the parameters instead

    def _initial_state(self, name: str) -> float:
        return 0.0

    def _state(self, name: str, dtype: np.dtype) -> np.ndarray:
        state = self._states.get((name, dtype))
        if state is None:
            state = self._states[name, dtype] = np.zeros(self._totals[dtype], dtype)
            if self._initial_state(name):
                state.fill(self._initial_state(name))
        return state

    def _active(self) -> list[tuple[int, np.ndarray]]:
        """(number, data) of the parameters to update, their gradients checked."""
        active = []
        for index, param in enumerate(self.params):
            grad = param.grad
            if grad is None or not param.requires_grad:
                continue
            data = param.data
            if data.dtype is not self._dtypes[index] and data.dtype != self._dtypes[index]:
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
            active.append((index, data))
        return active

    def _gather(self, block: Block) -> np.ndarray:
        """The block's gradient as one vector: -grad if maximizing, plus weight_decay * parameter; a view where nothing is to be done."""
        decay = self.weight_decay if self._decay_in_gradient else 0
        for part, scratch, _ in block.pieces:
            grad = self._grad(part)
            if decay:
                np.multiply(part.data, decay, out=scratch)
                (np.subtract if self.maximize else np.add)(scratch, grad, out=scratch)
            elif self.maximize:
                np.negative(grad, out=scratch)
            elif len(block.pieces) == 1 and grad.flags.c_contiguous:
                return grad.reshape(-1)
            else:
                np.copyto(scratch, grad)
        return block.grad

    def _grad(self, part: Part) -> np.ndarray:
        grad = self.params[part.index].grad
        if part.key is None:
            return grad
        if part.flat and not grad.flags.c_contiguous:  # flattened once per step, not once per block
            if part.key.start == 0:
                self._flattened = grad.reshape(-1)
            return self._flattened[part.key]
        return (grad.reshape(-1) if part.flat else grad)[part.key]

    def state_dict(self) -> dict[str, Any]:
        """Options as numbers (betas as an array), "step" and the states, copied, each in its parameter's shape."""
        names = ("lr", "weight_decay", "maximize", *self.options)
        result = {name: getattr(self, name) for name in names}
        result = {name: np.array(value) if isinstance(value, tuple) else value for name, value in result.items()}
        result["step"] = np.array(self._steps, np.int64)
        for name, dtype in self._states:
            for index in range(len(self.params)):
                if self._dtypes[index] == dtype:
                    result[f"{name}.{index}"] = self._state_of(name, index).copy()
        return result

    def _state_of(self, name: str, index: int) -> np.ndarray:
        """View of one parameter's state, in its shape."""
        offset, shape = self._offsets[index], self._shapes[index]
        return self._state(name, self._dtypes[index])[offset : offset + math.prod(shape)].reshape(shape)

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
        self._states, self._blocks_of = {}, []
        for key, value in given.items():
            self._state_of(*known[key])[...] = np.asarray(value)

    def _all_states(self) -> tuple[str, ...]:
        """Every state that some setting of the options uses."""
        return self._state_names()

    def __getstate__(self) -> dict[str, Any]:
        """Pickle and deepcopy leave the blocks out: they hold views, which would become arrays of their own."""
        return {**vars(self), "_blocks": [], "_blocks_of": []}

    def __repr__(self) -> str:
        names = ("lr", *self.options, "weight_decay")
        return f"{type(self).__name__}({', '.join(f'{name}={getattr(self, name)}' for name in names)}; {len(self.params)} parameters)"
