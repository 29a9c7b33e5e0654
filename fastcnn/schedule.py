"""Learning-rate schedules under torch.optim.lr_scheduler's names: scheduler.step() after each epoch (or step) sets optimizer.lr.

Each schedule is a formula, lr_at(t) for t = 0, 1, 2, ... calls of step(), so it can be evaluated without an optimizer step, and
t = 0 applies as soon as the schedule is built. One schedule drives an optimizer; SequentialLR puts several one after another.
Built after another schedule on the same optimizer, a schedule starts from the rate that the first one started from (torch's initial_lr).
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from fastcnn.optim import Optimizer
from fastcnn.options import choice, flag, integer, number


class LRScheduler:
    """Base class: a subclass gives lr_at(t), which may use self.base_lr, the optimizer's rate before any schedule."""

    def __init__(self, optimizer: Optimizer) -> None:
        if not isinstance(optimizer, Optimizer):
            raise TypeError(f"{type(self).__name__}: optimizer must be a fastcnn optimizer, got {type(optimizer).__name__}")
        self.optimizer = optimizer
        if optimizer.initial_lr is None:
            optimizer.initial_lr = optimizer.lr
        self.base_lr: float = optimizer.initial_lr
        self.last_epoch = 0
        self._apply(0)

    def lr_at(self, t: int) -> float:
        """Learning rate after t calls of step()."""
        raise NotImplementedError

    def step(self) -> None:
        self._apply(self.last_epoch + 1)
        self.last_epoch += 1

    def _apply(self, t: int) -> None:
        self.optimizer.lr = self.lr_at(t)

    def get_last_lr(self) -> list[float]:
        return [self.optimizer.lr]

    def state_dict(self) -> dict[str, Any]:
        """Where the schedule stands; its settings belong to the constructor."""
        return {"last_epoch": self.last_epoch, "base_lr": self.base_lr}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Stand where state_dict says. The present learning rate is the optimizer's own state, so it is left alone (as in torch)."""
        missing = [key for key in self.state_dict() if key not in state_dict]
        if missing:
            raise ValueError(f"load_state_dict: {type(self).__name__}: missing {', '.join(map(repr, missing))}")
        self.last_epoch, self.base_lr = int(state_dict["last_epoch"]), float(state_dict["base_lr"])
        self.optimizer.initial_lr = self.base_lr


class LambdaLR(LRScheduler):
    """base_lr * lr_lambda(t). The function is not part of state_dict."""

    def __init__(self, optimizer: Optimizer, lr_lambda: Callable[[int], float]) -> None:
        if not callable(lr_lambda):
            raise TypeError(f"LambdaLR: lr_lambda must be a function of the step, got {type(lr_lambda).__name__}")
        self.lr_lambda = lr_lambda
        super().__init__(optimizer)

    def lr_at(self, t: int) -> float:
        return self.base_lr * self.lr_lambda(t)


class StepLR(LRScheduler):
    """base_lr * gamma^floor(t / step_size)."""

    def __init__(self, optimizer: Optimizer, step_size: int, gamma: float = 0.1) -> None:
        self.step_size, self.gamma = integer(step_size, "StepLR", "step_size", 1), number(gamma, "StepLR", "gamma", 0)
        super().__init__(optimizer)

    def lr_at(self, t: int) -> float:
        return self.base_lr * self.gamma ** (t // self.step_size)


class MultiStepLR(LRScheduler):
    """base_lr * gamma^(milestones reached by t); a milestone listed twice counts twice."""

    def __init__(self, optimizer: Optimizer, milestones: Iterable[int], gamma: float = 0.1) -> None:
        self.milestones, self.gamma = sorted(_milestones("MultiStepLR", milestones)), number(gamma, "MultiStepLR", "gamma", 0)
        super().__init__(optimizer)

    def lr_at(self, t: int) -> float:
        return self.base_lr * self.gamma ** bisect_right(self.milestones, t)


class ExponentialLR(LRScheduler):
    """base_lr * gamma^t."""

    def __init__(self, optimizer: Optimizer, gamma: float) -> None:
        self.gamma = number(gamma, "ExponentialLR", "gamma", 0)
        super().__init__(optimizer)

    def lr_at(self, t: int) -> float:
        return self.base_lr * self.gamma**t


class LinearLR(LRScheduler):
    """base_lr times a factor that goes from start_factor to end_factor in total_iters steps and stays there: the usual warm-up."""

    def __init__(self, optimizer: Optimizer, start_factor: float = 1 / 3, end_factor: float = 1.0, total_iters: int = 5) -> None:
        if not 0 < number(start_factor, "LinearLR", "start_factor") <= 1:
            raise ValueError(f"LinearLR: start_factor must be above 0 and at most 1, got {start_factor}")
        if not 0 <= number(end_factor, "LinearLR", "end_factor") <= 1:
            raise ValueError(f"LinearLR: end_factor must be from 0 to 1, got {end_factor}")
        self.start_factor, self.end_factor, self.total_iters = start_factor, end_factor, integer(total_iters, "LinearLR", "total_iters", 0)
        super().__init__(optimizer)

    def lr_at(self, t: int) -> float:
        done = min(t, self.total_iters) / self.total_iters if self.total_iters else 1.0
        return self.base_lr * (self.start_factor + (self.end_factor - self.start_factor) * done)


def _milestones(op: str, milestones: Iterable[int]) -> list[int]:
    """Steps, in the order given."""
    try:
        steps = list(milestones)
    except TypeError:
        raise TypeError(f"{op}: milestones must be a list of ints, got {type(milestones).__name__} {milestones!r}") from None
    return [integer(step, op, "milestones", 0) for step in steps]


def _cosine(start: float, end: float, fraction: float) -> float:
    """Half a cosine from start (fraction 0) to end (fraction 1)."""
    return end + (start - end) / 2 * (1 + math.cos(math.pi * fraction))


def _line(start: float, end: float, fraction: float) -> float:
    return start + (end - start) * fraction


class CosineAnnealingLR(LRScheduler):
    """Half a cosine from base_lr to eta_min in T_max steps, then back up, and so on (Loshchilov & Hutter 2017, arXiv:1608.03983)."""

    def __init__(self, optimizer: Optimizer, T_max: int, eta_min: float = 0.0) -> None:
        self.T_max, self.eta_min = integer(T_max, "CosineAnnealingLR", "T_max", 1), number(eta_min, "CosineAnnealingLR", "eta_min", 0)
        super().__init__(optimizer)

    def lr_at(self, t: int) -> float:
        return _cosine(self.base_lr, self.eta_min, t / self.T_max)


class OneCycleLR(LRScheduler):
    """From max_lr/div_factor up to max_lr during pct_start of the steps, then down to that start / final_div_factor (Smith & Topin 2018).

    three_phase comes down to the start symmetrically first. cycle_momentum moves momentum (or Adam's first beta) the opposite way,
    from max_momentum to base_momentum and back. Call step() after every batch; a call beyond total_steps is an error.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        max_lr: float,
        total_steps: int | None = None,
        epochs: int | None = None,
        steps_per_epoch: int | None = None,
        pct_start: float = 0.3,
        anneal_strategy: str = "cos",
        cycle_momentum: bool = True,
        base_momentum: float = 0.85,
        max_momentum: float = 0.95,
        div_factor: float = 25.0,
        final_div_factor: float = 1e4,
        three_phase: bool = False,
    ) -> None:
        if total_steps is None:
            if epochs is None or steps_per_epoch is None:
                raise ValueError("OneCycleLR: give total_steps, or epochs and steps_per_epoch")
            total_steps = integer(epochs, "OneCycleLR", "epochs", 1) * integer(steps_per_epoch, "OneCycleLR", "steps_per_epoch", 1)
        total_steps = integer(total_steps, "OneCycleLR", "total_steps", 1)
        number(pct_start, "OneCycleLR", "pct_start", 0, 1)
        choice(anneal_strategy, "OneCycleLR", "anneal_strategy", ("cos", "linear"))
        number(max_lr, "OneCycleLR", "max_lr", 0)
        for name, value in (("base_momentum", base_momentum), ("max_momentum", max_momentum)):
            number(value, "OneCycleLR", name)
        for name, value in (("div_factor", div_factor), ("final_div_factor", final_div_factor)):
            if not number(value, "OneCycleLR", name) > 0:
                raise ValueError(f"OneCycleLR: {name} must be above 0, got {value}")
        flag(three_phase, "OneCycleLR", "three_phase")
        if flag(cycle_momentum, "OneCycleLR", "cycle_momentum") and not (hasattr(optimizer, "momentum") or hasattr(optimizer, "betas")):
            raise ValueError(f"OneCycleLR: cycle_momentum needs an optimizer with momentum or betas, {type(optimizer).__name__} has neither")
        self.total_steps, self.cycle_momentum = total_steps, cycle_momentum
        self._anneal = _cosine if anneal_strategy == "cos" else _line
        start_lr = max_lr / div_factor
        min_lr = start_lr / final_div_factor
        # (last step of the phase, lr and momentum at its start, lr and momentum at its end)
        up = (pct_start * total_steps - 1, start_lr, max_momentum, max_lr, base_momentum)
        if three_phase:
            down = (2 * pct_start * total_steps - 2, max_lr, base_momentum, start_lr, max_momentum)
            self._phases = [up, down, (total_steps - 1, start_lr, max_momentum, min_lr, max_momentum)]
        else:
            self._phases = [up, (total_steps - 1, max_lr, base_momentum, min_lr, max_momentum)]
        if isinstance(optimizer, Optimizer):
            optimizer.initial_lr = start_lr
        super().__init__(optimizer)

    def _at(self, t: int) -> tuple[float, float]:
        """(learning rate, momentum)."""
        if t > self.total_steps:
            raise ValueError(f"OneCycleLR: step {t} is beyond total_steps, {self.total_steps}")
        start = 0.0
        for phase in self._phases:
            end, lr, momentum, end_lr, end_momentum = phase
            if t <= end or phase is self._phases[-1]:
                break
            start = end
        # The call after the last batch makes t = total_steps: it keeps the final rate (torch's curve goes on, to negative rates on a line).
        fraction = min((t - start) / (end - start), 1.0)
        return self._anneal(lr, end_lr, fraction), self._anneal(momentum, end_momentum, fraction)

    def lr_at(self, t: int) -> float:
        return self._at(t)[0]

    def _apply(self, t: int) -> None:
        self.optimizer.lr, momentum = self._at(t)
        if self.cycle_momentum:
            if hasattr(self.optimizer, "betas"):
                self.optimizer.betas = (momentum, self.optimizer.betas[1])
            else:
                self.optimizer.momentum = momentum


class SequentialLR(LRScheduler):
    """schedulers[0] until step milestones[0], then schedulers[1] from its own t = 0, and so on; for a warm-up: LinearLR, then any other."""

    def __init__(self, optimizer: Optimizer, schedulers: Sequence[LRScheduler], milestones: Sequence[int]) -> None:
        for name, value in (("schedulers", schedulers), ("milestones", milestones)):
            if not isinstance(value, (tuple, list)):
                raise TypeError(f"SequentialLR: {name} must be a list, got {type(value).__name__}")
        for index, scheduler in enumerate(schedulers):
            if not isinstance(scheduler, LRScheduler):
                raise TypeError(f"SequentialLR: schedulers[{index}] must be a schedule, got {type(scheduler).__name__}")
        milestones = _milestones("SequentialLR", milestones)
        if not schedulers or len(milestones) != len(schedulers) - 1:
            raise ValueError(f"SequentialLR: {len(schedulers)} schedulers need {max(len(schedulers) - 1, 0)} milestones, got {len(milestones)}")
        if list(milestones) != sorted(milestones):
            raise ValueError(f"SequentialLR: milestones must increase, got {list(milestones)}")
        for index, scheduler in enumerate(schedulers):
            if scheduler.optimizer is not optimizer:
                raise ValueError(f"SequentialLR: schedulers[{index}] ({type(scheduler).__name__}) was built for another optimizer")
        self.schedulers, self.milestones = list(schedulers), list(milestones)
        super().__init__(optimizer)

    def _stage(self, t: int) -> tuple[LRScheduler, int]:
        """The schedule in charge at t, and t counted from its start."""
        index = bisect_right(self.milestones, t)
        return self.schedulers[index], t - (self.milestones[index - 1] if index else 0)

    def lr_at(self, t: int) -> float:
        scheduler, own_t = self._stage(t)
        return scheduler.lr_at(own_t)

    def _apply(self, t: int) -> None:
        scheduler, own_t = self._stage(t)
        scheduler._apply(own_t)

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "schedulers": [scheduler.state_dict() for scheduler in self.schedulers]}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        states = state_dict.get("schedulers", [])
        if len(states) != len(self.schedulers):
            raise ValueError(f"load_state_dict: SequentialLR: {len(states)} states for {len(self.schedulers)} schedulers")
        for scheduler, state in zip(self.schedulers, states, strict=True):
            scheduler.load_state_dict(state)
        super().load_state_dict(state_dict)
