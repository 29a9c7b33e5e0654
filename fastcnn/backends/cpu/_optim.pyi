import numpy as np

Arrays = list[np.ndarray]

def sgd_update(
    params: Arrays,
    grads: Arrays,
    momentum_buffers: Arrays | None,
    steps: list[int],
    lr: float,
    momentum: float,
    dampening: float,
    weight_decay: float,
    nesterov: bool,
    maximize: bool,
) -> None: ...
def adagrad_update(
    params: Arrays, grads: Arrays, sums: Arrays, steps: list[int], lr: float, lr_decay: float, eps: float, weight_decay: float, maximize: bool
) -> None: ...
def rmsprop_update(
    params: Arrays,
    grads: Arrays,
    square_avgs: Arrays,
    grad_avgs: Arrays | None,
    momentum_buffers: Arrays | None,
    lr: float,
    alpha: float,
    eps: float,
    momentum: float,
    weight_decay: float,
    maximize: bool,
) -> None: ...
def adam_update(
    params: Arrays,
    grads: Arrays,
    exp_avgs: Arrays,
    exp_avg_sqs: Arrays,
    max_exp_avg_sqs: Arrays | None,
    steps: list[int],
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float,
    decoupled: bool,
    maximize: bool,
) -> None: ...
