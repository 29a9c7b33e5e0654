"""explain: is it worth it? Plain PyTorch, swap_ and from_torch measured on one model and one input, here and now."""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from fastcnn import backend
from fastcnn.torch.convert import from_torch
from fastcnn.torch.mirror import NotConvertible
from fastcnn.torch.swap import report, swap_, unswap_
from fastcnn.torch.tensors import array, refusal
from fastcnn.train.runner import Runner
from fastcnn.train.trainer import first_parametrised

PAUSE = 0.012  # seconds before a turn: other libraries' threads spin for some milliseconds after their last loop
BUSY = 2.0  # times the minimum: a median beyond is other processes' doing
WORTH = 1.1  # times faster: less is within what two measurements differ by, and not worth a dependency
LAYOUTS = {"": torch.contiguous_format, " (channels_last)": torch.channels_last}


@dataclass(frozen=True)
class Explanation:
    """times: contender -> (minimum, median) in milliseconds, plain PyTorch first; recommendation: what to do, in a sentence; reason: why from_torch is
    not among them, or None."""

    what: str
    threads: int
    turns: int
    times: dict[str, tuple[float, float]]
    recommendation: str
    reason: str | None

    @property
    def plain(self) -> float:
        """PyTorch's better memory format, in milliseconds."""
        return self._best("PyTorch")[1]

    def speedup(self, contender: str) -> float:
        """How many times faster than plain PyTorch: "swap_" or "from_torch" (whichever memory format is better)."""
        return self.plain / self._best(contender)[1]

    def _best(self, contender: str) -> tuple[str, float]:
        return min(((name, value[0]) for name, value in self.times.items() if name.startswith(contender)), key=lambda pair: pair[1])

    def __str__(self) -> str:
        width = max(map(len, self.times))
        lines = [f"{self.what}, {self.threads} thread{'s' * (self.threads != 1)}, minimum and median of {self.turns} turns"]
        lines += [f"  {name:<{width}} {low:9.3f} ms {median:9.3f} ms  {self.plain / low:5.2f}x" for name, (low, median) in self.times.items()]
        lines += [f"  from_torch cannot: {self.reason}"] if self.reason else []
        if any(median > BUSY * low for low, median in self.times.values()):
            lines.append("  medians far from minima: the machine was busy, so measure again")
        return "\n".join([*lines, self.recommendation])


def explain(model: torch.nn.Module, input: torch.Tensor, *, seconds: float = 5.0) -> Explanation:
    """Measure model on input by plain PyTorch (in both memory formats), swapped, and converted, and recommend one: print(explain(model, input)).

    In training mode forward and backward are measured, the loss being the sum of the output; in evaluation mode forward. Nothing happens to model: copies are
    measured. It takes about `seconds`.
    """
    if not isinstance(model, torch.nn.Module):
        raise TypeError(f"explain: model must be a torch.nn.Module, got {type(model).__name__}")
    if not isinstance(input, torch.Tensor):
        raise TypeError(f"explain: input must be a torch.Tensor, got {type(input).__name__}")
    with torch.no_grad():
        output = copy.deepcopy(model)(input)
    if not isinstance(output, torch.Tensor):
        raise TypeError(f"explain: the model must return one tensor, got {type(output).__name__}")
    refused = refusal(input)
    sides: dict[str, Callable[[], None]] = {}
    for name, prepare in (("PyTorch", unswap_), ("swap_", swap_)):
        for suffix, layout in LAYOUTS.items():
            if suffix and input.dim() != 4 or name == "swap_" and refused:
                continue
            side = prepare(copy.deepcopy(model)).to(memory_format=layout)
            sides[name + suffix] = _of_torch(side, input.detach().contiguous(memory_format=layout) if suffix else input.detach())
    reason = refused
    if not refused:
        try:
            sides["from_torch"] = _of_ours(from_torch(model), array(input))
        except NotConvertible as error:
            reason = str(error).removeprefix("from_torch: ")
    times = _measure(sides, seconds)
    turns = len(next(iter(times.values())))
    shown = {name: (min(values), statistics.median(values)) for name, values in times.items()}
    what = f"{'forward and backward' if model.training else 'forward'} of {type(model).__name__}, input {'x'.join(map(str, input.shape))}"
    found = Explanation(what, torch.get_num_threads(), turns, shown, "", reason)
    return Explanation(what, found.threads, turns, shown, _recommendation(found, model), reason)


def _of_torch(model: torch.nn.Module, x: torch.Tensor) -> Callable[[], None]:
    def step() -> None:
        if model.training:
            model.zero_grad()
            model(x).sum().backward()
        else:
            with torch.no_grad():
                model(x)

    return step


def _of_ours(model: Any, x: np.ndarray) -> Callable[[], None]:
    runner = Runner(model)
    first = first_parametrised(model)
    if first is not None:
        first.requires_input_grad = False

    def step() -> None:
        if not model.training:
            runner.infer(x, set())
            return
        model.zero_grad()
        plan = runner.plan(x, training=True)
        output = model(x) if plan is None else plan.forward(x)
        (model if plan is None else plan).backward(np.ones_like(output))

    return step


def _measure(sides: dict[str, Callable[[], None]], seconds: float) -> dict[str, list[float]]:
    """Turns of all, one after the other, until the time is over; at least 3."""
    times: dict[str, list[float]] = {name: [] for name in sides}
    for step in sides.values():  # plans are made, memory is touched for the first time
        step()
    end = time.perf_counter() + seconds
    while len(next(iter(times.values()))) < 3 or time.perf_counter() < end:
        for name, step in sides.items():
            time.sleep(PAUSE)
            step()
            start = time.perf_counter()
            step()
            times[name].append(1e3 * (time.perf_counter() - start))
    return times


def _recommendation(found: Explanation, model: torch.nn.Module) -> str:
    ratios = {name: found.speedup(name) for name in ("from_torch", "swap_") if any(key.startswith(name) for key in found.times)}
    if backend.obstacle("cpu") is not None:
        return "fastcnn's compiled kernels are not built here: stay with PyTorch"
    if not ratios or max(ratios.values()) < WORTH:
        return "fastcnn does not pay here: stay with PyTorch"
    lines = []
    if ratios.get("from_torch", 0) >= WORTH:
        call = "fastcnn.torch.fit(model, ...) trains" if model.training else "fastcnn.torch.from_torch(model) predicts"
        lines.append(f"{call} {ratios['from_torch']:.1f} times faster")
    if ratios.get("swap_", 0) >= WORTH:
        best, _ = found._best("swap_")
        lines.append(f"fastcnn.torch.swap_(model){best.removeprefix('swap_')} keeps your own loop and is {ratios['swap_']:.1f} times faster")
    elif "swap_" in ratios:
        left = len(report(swap_(copy.deepcopy(model))).left)
        lines.append(f"swap_ does not pay ({ratios['swap_']:.2f} times, {left} modules are PyTorch's)")
    return "; ".join(lines)
