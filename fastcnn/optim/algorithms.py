"""The optimizers' formulas: SGD, Adagrad, RMSprop, Adam, AdamW."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from fastcnn.backend import current
from fastcnn.nn.parameter import Parameter
from fastcnn.optim.optimizer import Optimizer
from fastcnn.options import flag, number

Arrays = list[np.ndarray]


class SGD(Optimizer):
    """p -= lr * g; with momentum b = momentum * b + (1 - dampening) * g (b = g at first) and p -= lr * b; nesterov: p -= lr * (g + momentum * b)."""

    options = ("momentum", "dampening", "nesterov")

    def __init__(
        self,
        params: Iterable[Parameter],
        lr: float = 1e-3,
        momentum: float = 0.0,
        dampening: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
        *,
        maximize: bool = False,
    ) -> None:
        super().__init__(params, lr, weight_decay, maximize)
        self._check(momentum=momentum)
        number(dampening, "SGD", "dampening")
        if flag(nesterov, "SGD", "nesterov") and (momentum <= 0 or dampening != 0):
            raise ValueError(f"SGD: nesterov needs momentum above 0 and dampening 0, got momentum {momentum} and dampening {dampening}")
        self.momentum, self.dampening, self.nesterov = momentum, dampening, nesterov

    def _state_names(self) -> tuple[str, ...]:
        return ("momentum_buffer",) if self.momentum else ()

    def _all_states(self) -> tuple[str, ...]:
        return ("momentum_buffer",)

    def _update(self, params: Arrays, grads: Arrays, steps: list[int], states: dict[str, Arrays]) -> None:
        current().sgd_update(
            params, grads, states.get("momentum_buffer"), steps, self.lr, self.momentum, self.dampening, self.weight_decay, self.nesterov, self.maximize
        )


class Adagrad(Optimizer):
    """s += g^2; p -= lr / (1 + (t - 1) * lr_decay) * g / (sqrt(s) + eps) (Duchi et al. 2011)."""

    options = ("lr_decay", "eps")

    def __init__(
        self,
        params: Iterable[Parameter],
        lr: float = 1e-2,
        lr_decay: float = 0.0,
        weight_decay: float = 0.0,
        initial_accumulator_value: float = 0.0,
        eps: float = 1e-10,
        *,
        maximize: bool = False,
    ) -> None:
        super().__init__(params, lr, weight_decay, maximize)
        self._check(lr_decay=lr_decay, initial_accumulator_value=initial_accumulator_value, eps=eps)
        self.lr_decay, self.initial_accumulator_value, self.eps = lr_decay, initial_accumulator_value, eps

    def _state_names(self) -> tuple[str, ...]:
        return ("sum",)

    def _initial_state(self, name: str) -> float:
        return self.initial_accumulator_value

    def _update(self, params: Arrays, grads: Arrays, steps: list[int], states: dict[str, Arrays]) -> None:
        current().adagrad_update(params, grads, states["sum"], steps, self.lr, self.lr_decay, self.eps, self.weight_decay, self.maximize)


class RMSprop(Optimizer):
    """v = alpha * v + (1 - alpha) * g^2, u = g / (sqrt(v) + eps); p -= lr * u, or with momentum b = momentum * b + u and p -= lr * b.

    centered: the square root is of the variance v - a^2, a = alpha * a + (1 - alpha) * g (Graves 2013, arXiv:1308.0850).
    """

    options = ("alpha", "eps", "momentum", "centered")

    def __init__(
        self,
        params: Iterable[Parameter],
        lr: float = 1e-2,
        alpha: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        momentum: float = 0.0,
        centered: bool = False,
        *,
        maximize: bool = False,
    ) -> None:
        super().__init__(params, lr, weight_decay, maximize)
        self._check(alpha=alpha, eps=eps, momentum=momentum)
        self.alpha, self.eps, self.momentum, self.centered = alpha, eps, momentum, flag(centered, "RMSprop", "centered")

    def _state_names(self) -> tuple[str, ...]:
        return ("square_avg", *(["grad_avg"] if self.centered else []), *(["momentum_buffer"] if self.momentum else []))

    def _all_states(self) -> tuple[str, ...]:
        return ("square_avg", "grad_avg", "momentum_buffer")

    def _update(self, params: Arrays, grads: Arrays, steps: list[int], states: dict[str, Arrays]) -> None:
        current().rmsprop_update(
            params, grads, states["square_avg"], states.get("grad_avg"), states.get("momentum_buffer"),
            self.lr, self.alpha, self.eps, self.momentum, self.weight_decay, self.maximize,
        )  # fmt: skip


class Adam(Optimizer):
    """m = b1 * m + (1 - b1) * g, v = b2 * v + (1 - b2) * g^2; p -= lr / (1 - b1^t) * m / (sqrt(v / (1 - b2^t)) + eps) (Kingma & Ba 2015).

    amsgrad: the largest v so far stands in the square root (Reddi et al. 2018).
    """

    options = ("betas", "eps", "amsgrad")
    _decoupled = False  # weight decay as an L2 penalty, in the gradient; AdamW shrinks the parameters instead

    def __init__(
        self,
        params: Iterable[Parameter],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
    ) -> None:
        super().__init__(params, lr, weight_decay, maximize)
        if not isinstance(betas, (tuple, list)) or len(betas) != 2:
            raise TypeError(f"{type(self).__name__}: betas must be a pair of numbers, got {type(betas).__name__} {betas!r}")
        self._check_rates(beta1=betas[0], beta2=betas[1])
        self._check(eps=eps)
        self.betas, self.eps, self.amsgrad = (betas[0], betas[1]), eps, flag(amsgrad, type(self).__name__, "amsgrad")

    def _state_names(self) -> tuple[str, ...]:
        return ("exp_avg", "exp_avg_sq", *(["max_exp_avg_sq"] if self.amsgrad else []))

    def _all_states(self) -> tuple[str, ...]:
        return ("exp_avg", "exp_avg_sq", "max_exp_avg_sq")

    def _update(self, params: Arrays, grads: Arrays, steps: list[int], states: dict[str, Arrays]) -> None:
        current().adam_update(
            params, grads, states["exp_avg"], states["exp_avg_sq"], states.get("max_exp_avg_sq"), steps,
            self.lr, *self.betas, self.eps, self.weight_decay, self._decoupled, self.maximize,
        )  # fmt: skip


class AdamW(Adam):
    """Adam with decoupled weight decay: p *= 1 - lr * weight_decay before the update (Loshchilov & Hutter 2019, arXiv:1711.05101)."""

    _decoupled = True

    def __init__(
        self,
        params: Iterable[Parameter],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
    ) -> None:
        super().__init__(params, lr, betas, eps, weight_decay, amsgrad, maximize=maximize)
