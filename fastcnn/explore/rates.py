"""The learning rate of every schedule over the epochs of a run."""

from __future__ import annotations

from collections.abc import Callable

from fastcnn import nn, optim, schedule

EPOCHS = 90
DROPS = (25, 60)
Make = Callable[[optim.Optimizer, int], schedule.LRScheduler]

# Title -> schedule for so many epochs. Every class of fastcnn.schedule is among them.
SCHEDULES: dict[str, Make] = {
    "LambdaLR 1 / (1 + t / 10)": lambda o, n: schedule.LambdaLR(o, lambda t: 1 / (1 + t / 10)),
    "StepLR every 30, x 0.1": lambda o, n: schedule.StepLR(o, 30, 0.1),
    "MultiStepLR at 25 and 60, x 0.1": lambda o, n: schedule.MultiStepLR(o, DROPS, 0.1),
    "ExponentialLR x 0.95": lambda o, n: schedule.ExponentialLR(o, 0.95),
    "LinearLR from 1/10 in 10": lambda o, n: schedule.LinearLR(o, 0.1, 1.0, 10),
    "CosineAnnealingLR": lambda o, n: schedule.CosineAnnealingLR(o, n),
    "OneCycleLR": lambda o, n: schedule.OneCycleLR(o, max_lr=o.lr, total_steps=n, cycle_momentum=False),
    "SequentialLR warm-up 10, cosine": lambda o, n: schedule.SequentialLR(
        o, [schedule.LinearLR(o, 0.1, 1.0, 10), schedule.CosineAnnealingLR(o, max(n - 10, 1))], [10]
    ),
}


def rates(epochs: int = EPOCHS, lr: float = 0.1) -> dict[str, list[float]]:
    """Title -> the rate in use in each epoch, as a run has it: the optimizer's, with step() after every epoch."""
    found = {}
    for title, make in SCHEDULES.items():
        optimizer = optim.SGD([nn.Parameter([0.0])], lr=lr)
        scheduler = make(optimizer, epochs)
        found[title] = []
        for _ in range(epochs):
            found[title].append(optimizer.lr)
            scheduler.step()
    return found
