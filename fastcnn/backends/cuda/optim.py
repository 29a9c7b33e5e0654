"""The optimizers' updates, in place: one launch for up to GROUP parameters, which reads and writes every number once.

A kernel gets tuples of GROUP arrays. blockIdx.y says which one it works on, its threads walk through that array together.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from ._device import DeviceArray, blocks, flat, is_device, launch, wrap
from ._memory import SIMULATED, cuda

TILE = 8 if SIMULATED else 256  # threads per block
MAX_BLOCKS = 1024  # along one array; more elements than threads are taken in turn
GROUP = 12  # arrays per launch: five tuples of them stay below the 4 KiB that a launch can pass on any GPU


@cuda.jit(device=True)
def gradient(g, param, weight_decay, maximize):
    """-g if maximizing, plus the gradient of weight_decay/2 * param^2."""
    if maximize:
        g = -g
    return g + weight_decay * param if weight_decay != 0 else g


@cuda.jit
def sgd(params, grads, buffers, firsts, lr, momentum, undamped, weight_decay, nesterov, maximize):
    """firsts: 1 where it is the parameter's first step, whose gradient the buffer starts from; undamped = 1 - dampening."""
    k = cuda.blockIdx.y
    param, grad, buffer = params[k], grads[k], buffers[k]
    for i in range(cuda.grid(1), param.size, cuda.gridDim.x * cuda.blockDim.x):
        u = gradient(grad[i], param[i], weight_decay, maximize)
        if momentum != 0:
            b = u if firsts[k] else momentum * buffer[i] + undamped * u
            buffer[i] = b
            u = u + momentum * b if nesterov else b
        param[i] -= lr * u


@cuda.jit
def adagrad(params, grads, sums, rates, eps, weight_decay, maximize):
    k = cuda.blockIdx.y
    param, grad, total = params[k], grads[k], sums[k]
    for i in range(cuda.grid(1), param.size, cuda.gridDim.x * cuda.blockDim.x):
        g = gradient(grad[i], param[i], weight_decay, maximize)
        s = total[i] + g * g
        total[i] = s
        param[i] -= rates[k] * (g / (math.sqrt(s) + eps))


@cuda.jit
def rmsprop(params, grads, square_avgs, grad_avgs, buffers, lr, alpha, rest, eps, momentum, weight_decay, maximize, centered, with_momentum):
    """rest = 1 - alpha, rounded once: float32's own 1 - 0.99 is a little off."""
    k = cuda.blockIdx.y
    param, grad, square, average, buffer = params[k], grads[k], square_avgs[k], grad_avgs[k], buffers[k]
    for i in range(cuda.grid(1), param.size, cuda.gridDim.x * cuda.blockDim.x):
        g = gradient(grad[i], param[i], weight_decay, maximize)
        v = alpha * square[i] + rest * (g * g)
        square[i] = v
        if centered:
            a = average[i] + rest * (g - average[i])
            average[i] = a
            v -= a * a
        change = g / (math.sqrt(v) + eps)
        if with_momentum:
            change += momentum * buffer[i]
            buffer[i] = change
        param[i] -= lr * change


@cuda.jit
def adam(params, grads, exp_avgs, exp_avg_sqs, largest_sqs, rates, roots, shrink, rest1, beta2, rest2, eps, weight_decay, maximize, amsgrad):
    """rates[k] = lr/(1 - beta1^step), roots[k] = sqrt(1 - beta2^step); shrink = 1 - lr*weight_decay where that is decoupled, else 1; rest = 1 - beta."""
    k = cuda.blockIdx.y
    param, grad, mean, square, largest = params[k], grads[k], exp_avgs[k], exp_avg_sqs[k], largest_sqs[k]
    for i in range(cuda.grid(1), param.size, cuda.gridDim.x * cuda.blockDim.x):
        p = param[i]
        g = gradient(grad[i], p, weight_decay, maximize)
        m = mean[i] + rest1 * (g - mean[i])
        v = beta2 * square[i] + rest2 * (g * g)
        mean[i], square[i] = m, v
        if amsgrad:
            v = max(largest[i], v)
            largest[i] = v
        param[i] = p * shrink - rates[k] * (m / (math.sqrt(v) / roots[k] + eps))


# The ops.


def _arrays(op: str, name: str, arrays: Sequence[Any]) -> list[DeviceArray]:
    """The arrays as kernels take them; TypeError for one on the host."""
    for array in arrays:
        if not is_device(array):
            raise TypeError(f"{op}: {name} holds a host array, but backend 'cuda' computes on the device: model.to('cuda') before the optimizer's first step")
    wrapped = [wrap(array) for array in arrays]
    for array in wrapped:
        if not array.flags.c_contiguous:
            raise ValueError(f"{op}: {name} holds an array of strides {array.strides}; updates on the device need C-contiguous arrays")
    return [flat(array) for array in wrapped]


def _update(op: str, kernel: Any, lists: dict[str, Sequence[Any] | None], per_parameter: Callable, options: Callable) -> None:
    """Launch the kernel for groups of parameters of one dtype.

    lists          name -> arrays, the parameters first; None stands for an absent state, in whose place kernels get the parameters and leave them alone
    per_parameter  (number of the parameter, dtype's type) -> numbers that it has of its own
    options        dtype's type -> numbers that all have in common
    """
    arrays = {name: _arrays(op, name, values) for name, values in lists.items() if values is not None}
    params = next(iter(arrays.values()))
    for dtype in dict.fromkeys(array.dtype for array in params):
        numbers = [i for i, array in enumerate(params) if array.dtype == dtype and array.size]
        for start in range(0, len(numbers), GROUP):
            chosen = numbers[start : start + GROUP]
            padded = chosen + chosen[:1] * (GROUP - len(chosen))  # always as many, so that there is one kernel; the grid leaves the rest out
            tuples = [tuple((params if values is None else arrays[name])[i] for i in padded) for name, values in lists.items()]
            own = zip(*(per_parameter(i, dtype.type) for i in padded), strict=True)
            grid = min(blocks(max(params[i].size for i in chosen), TILE), MAX_BLOCKS), len(chosen)
            launch(kernel, grid, TILE, *tuples, *map(tuple, own), *options(dtype.type))


def sgd_update(
    params: list, grads: list, momentum_buffers: list | None, steps: list, lr: float, momentum: float, dampening: float, weight_decay: float,
    nesterov: bool, maximize: bool,
) -> None:  # fmt: skip
    momentum = momentum if momentum_buffers is not None else 0.0
    _update(
        "sgd_update",
        sgd,
        {"params": params, "grads": grads, "momentum_buffers": momentum_buffers},
        lambda i, kind: (int(steps[i] == 1),),
        lambda kind: (kind(lr), kind(momentum), kind(1 - dampening), kind(weight_decay), bool(nesterov), bool(maximize)),
    )


def adagrad_update(
    params: list, grads: list, sums: list, steps: list, lr: float, lr_decay: float, eps: float, weight_decay: float, maximize: bool
) -> None:
    _update(
        "adagrad_update",
        adagrad,
        {"params": params, "grads": grads, "sums": sums},
        lambda i, kind: (kind(lr / (1 + (steps[i] - 1) * lr_decay)),),
        lambda kind: (kind(eps), kind(weight_decay), bool(maximize)),
    )


def rmsprop_update(
    params: list, grads: list, square_avgs: list, grad_avgs: list | None, momentum_buffers: list | None, lr: float, alpha: float, eps: float,
    momentum: float, weight_decay: float, maximize: bool,
) -> None:  # fmt: skip
    centered, with_momentum = grad_avgs is not None, momentum_buffers is not None
    _update(
        "rmsprop_update",
        rmsprop,
        {"params": params, "grads": grads, "square_avgs": square_avgs, "grad_avgs": grad_avgs, "momentum_buffers": momentum_buffers},
        lambda i, kind: (),
        lambda kind: (kind(lr), kind(alpha), kind(1 - alpha), kind(eps), kind(momentum), kind(weight_decay), bool(maximize), centered, with_momentum),
    )


def adam_update(
    params: list, grads: list, exp_avgs: list, exp_avg_sqs: list, max_exp_avg_sqs: list | None, steps: list, lr: float, beta1: float, beta2: float,
    eps: float, weight_decay: float, decoupled: bool, maximize: bool,
) -> None:  # fmt: skip
    shrink, decay = (1 - lr * weight_decay, 0.0) if decoupled else (1.0, weight_decay)
    _update(
        "adam_update",
        adam,
        {"params": params, "grads": grads, "exp_avgs": exp_avgs, "exp_avg_sqs": exp_avg_sqs, "max_exp_avg_sqs": max_exp_avg_sqs},
        lambda i, kind: (kind(lr / (1 - beta1 ** steps[i])), kind(math.sqrt(1 - beta2 ** steps[i]))),
        lambda kind: (kind(shrink), kind(1 - beta1), kind(beta2), kind(1 - beta2), kind(eps), kind(decay), bool(maximize), max_exp_avg_sqs is not None),
    )


_ARRAYS, _INTS, _FLOATS = (f"UniTuple({kind}, {GROUP})" for kind in ("float32[::1]", "int64", "float32"))


def _f(count: int) -> str:
    return ", ".join(["float32"] * count)


KERNELS: list[tuple[str, Any, str]] = [
    ("sgd", sgd, f"void({_ARRAYS}, {_ARRAYS}, {_ARRAYS}, {_INTS}, {_f(4)}, boolean, boolean)"),
    ("adagrad", adagrad, f"void({_ARRAYS}, {_ARRAYS}, {_ARRAYS}, {_FLOATS}, {_f(2)}, boolean)"),
    ("rmsprop", rmsprop, f"void({', '.join([_ARRAYS] * 5)}, {_f(6)}, boolean, boolean, boolean)"),
    ("adam", adam, f"void({', '.join([_ARRAYS] * 5)}, {_FLOATS}, {_FLOATS}, {_f(6)}, boolean, boolean)"),
]
