"""The optimizers' formulas: SGD, Adagrad, RMSprop, Adam, AdamW."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np

from fastcnn.nn.parameter import Parameter
from fastcnn.optim.optimizer import Optimizer


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
        if nesterov and (momentum <= 0 or dampening != 0):
            raise ValueError(f"SGD: nesterov needs momentum above 0 and dampening 0, got momentum {momentum} and dampening {dampening}")
        self.momentum, self.dampening, self.nesterov = momentum, dampening, nesterov

    def _state_names(self) -> tuple[str, ...]:
        return ("momentum_buffer",) if self.momentum else ()

    def _all_states(self) -> tuple[str, ...]:
        return ("momentum_buffer",)

    def _update(self, step: int, grad: np.ndarray, update: np.ndarray, *states: np.ndarray) -> None:
        if not self.momentum:
            np.multiply(grad, self.lr, out=update)
            return
        (buffer,) = states
        if step == 1:
            buffer[...] = grad
        else:
            np.multiply(buffer, self.momentum, out=buffer)
            if self.dampening:
                grad = np.multiply(grad, 1 - self.dampening, out=update)
            np.add(buffer, grad, out=buffer)
        if self.nesterov:
            np.multiply(buffer, self.momentum, out=update)
            np.add(update, grad, out=update)
            np.multiply(update, self.lr, out=update)
        else:
            np.multiply(buffer, self.lr, out=update)


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

    def _update(self, step: int, grad: np.ndarray, update: np.ndarray, *states: np.ndarray) -> None:
        (total,) = states
        np.multiply(grad, grad, out=update)
        np.add(total, update, out=total)
        np.sqrt(total, out=update)
        np.add(update, self.eps, out=update)
        np.divide(grad, update, out=update)
        np.multiply(update, self.lr / (1 + (step - 1) * self.lr_decay), out=update)


def _decay_average(average: np.ndarray, rate: float, value: np.ndarray, scratch: np.ndarray) -> None:
    """average += (1 - rate) * (value - average)."""
    np.subtract(value, average, out=scratch)
    np.multiply(scratch, 1 - rate, out=scratch)
    np.add(average, scratch, out=average)


def _decay_square(average: np.ndarray, rate: float, value: np.ndarray, scratch: np.ndarray) -> None:
    """average = rate * average + (1 - rate) * value^2."""
    np.multiply(average, rate, out=average)
    np.multiply(value, value, out=scratch)
    np.multiply(scratch, 1 - rate, out=scratch)
    np.add(average, scratch, out=average)


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
        self.alpha, self.eps, self.momentum, self.centered = alpha, eps, momentum, centered

    def _state_names(self) -> tuple[str, ...]:
        return ("square_avg", *(["grad_avg"] if self.centered else []), *(["momentum_buffer"] if self.momentum else []))

    def _all_states(self) -> tuple[str, ...]:
        return ("square_avg", "grad_avg", "momentum_buffer")

    def _update(self, step: int, grad: np.ndarray, update: np.ndarray, *states: np.ndarray) -> None:
        square = states[0]
        _decay_square(square, self.alpha, grad, update)
        if self.centered:
            _decay_average(states[1], self.alpha, grad, update)
            np.multiply(states[1], states[1], out=update)
            np.subtract(square, update, out=update)
            np.sqrt(update, out=update)
        else:
            np.sqrt(square, out=update)
        np.add(update, self.eps, out=update)
        np.divide(grad, update, out=update)
        if self.momentum:
            buffer = states[-1]
            np.multiply(buffer, self.momentum, out=buffer)
            np.add(buffer, update, out=buffer)
            np.multiply(buffer, self.lr, out=update)
        else:
            np.multiply(update, self.lr, out=update)


class Adam(Optimizer):
    """m = b1 * m + (1 - b1) * g, v = b2 * v + (1 - b2) * g^2; p -= lr / (1 - b1^t) * m / (sqrt(v / (1 - b2^t)) + eps) (Kingma & Ba 2015).

    amsgrad: the largest v so far stands in the square root (Reddi et al. 2018).
    """

    options = ("betas", "eps", "amsgrad")

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
        self._check_rates(beta1=betas[0], beta2=betas[1])
        self._check(eps=eps)
        self.betas, self.eps, self.amsgrad = (betas[0], betas[1]), eps, amsgrad

    def _state_names(self) -> tuple[str, ...]:
        return ("exp_avg", "exp_avg_sq", *(["max_exp_avg_sq"] if self.amsgrad else []))

    def _all_states(self) -> tuple[str, ...]:
        return ("exp_avg", "exp_avg_sq", "max_exp_avg_sq")

    def _update(self, step: int, grad: np.ndarray, update: np.ndarray, *states: np.ndarray) -> float | None:
        (beta1, beta2), mean, square = self.betas, states[0], states[1]
        _decay_average(mean, beta1, grad, update)
        _decay_square(square, beta2, grad, update)
        if self.amsgrad:
            square = np.maximum(states[2], square, out=states[2])
        # Both bias corrections are double-precision scalars, so the vectors are passed over no more often than without them.
        np.sqrt(square, out=update)
        np.divide(update, math.sqrt(1 - beta2**step), out=update)
        np.add(update, self.eps, out=update)
        np.divide(mean, update, out=update)
        np.multiply(update, self.lr / (1 - beta1**step), out=update)
        return None if self._decay_in_gradient or not self.weight_decay else 1 - self.lr * self.weight_decay


class AdamW(Adam):
    """Adam with decoupled weight decay: p *= 1 - lr * weight_decay before the update (Loshchilov & Hutter 2019, arXiv:1711.05101)."""

    _decay_in_gradient = False

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
