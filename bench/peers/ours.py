"""fastcnn itself: a backend, and variants of it by instruction set, algorithm and threads."""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from bench.peers.library import BACKWARD, OPS, Library, Operands
from bench.problems import Problem
from bench.timing import Contender
from fastcnn import backend as backends
from fastcnn import functional

if TYPE_CHECKING:
    from bench.networks import Activations
    from fastcnn import nn, recipes
    from fastcnn.train import Trainer


def compiled() -> bool:
    """Is the compiled backend, and with it the probes of the machine, there?"""
    return backends.available()["cpu"] is None


@dataclass(frozen=True)
class Fastcnn(Library):
    """A backend of ours, through fastcnn.functional as a user calls it (validation included)."""

    backend: str
    memory_format: str = "nchw"
    algorithm: str | None = None  # None: the backend's own choice
    isa: str | None = None  # None: the best one
    threads: int | None = None  # None: as all others
    root: Path | None = None
    label: str = ""  # what sets it apart from another one, if the options do not

    @property
    def name(self) -> str:
        """The backend, then what is not as usual; the memory format is all libraries' of ours."""
        options = [f"{option}={value}" for option in ("isa", "algorithm", "threads") if (value := getattr(self, option))]
        return " ".join([self.backend, *options, *filter(None, [self.label])])

    @property
    def yardstick(self) -> bool:
        return self.backend == "reference"

    def environment(self) -> dict[str, str]:
        return {"FASTCNN_ISA": self.isa} if self.isa else {}

    def start(self, threads: int) -> dict[str, str]:
        if not compiled():
            return {}
        from fastcnn.backends import cpu

        backends.set_num_threads(self.threads or threads)
        if self.algorithm:
            backends.use_algorithm(self.algorithm)
        facts = cpu.config()
        line = f"{facts['isa']}, loops: {facts['loops']}, {facts['compiler']}"
        return {} if self.backend == "reference" else {"compiled backend" if self.name == self.backend else self.name: line}

    @property
    def scope(self) -> Callable[[], AbstractContextManager]:
        """What a Contender enters around each turn."""
        return partial(backends.use_backend, self.backend)

    def contender(self, problem: Problem, op: str, operands: Operands) -> Contender:
        if self.memory_format == "channels_last":
            operands = operands.channels_last()
        input, weight, grad_output = operands.input, operands.weight, operands.grad_output
        options = problem.options | ({"algorithm": self.algorithm} if self.algorithm else {})
        if op == "forward":
            call = partial(functional.conv2d, input, weight, **options)
        elif op == BACKWARD:
            both = partial(functional.conv2d_backward, grad_output, input, weight, **options, output_mask=(True, True, False))

            def call() -> tuple[np.ndarray, ...]:
                return both()[:2]

        else:
            index = OPS.index(op) - 1
            mask = (op == "grad_input", op == "grad_weight", False)
            backward = partial(functional.conv2d_backward, grad_output, input, weight, **options, output_mask=mask)

            def call() -> np.ndarray:
                return backward()[index]

        return Contender(self.name, call, self.scope)

    def facts(self, contender: Contender) -> dict[str, str]:
        """Which of the backend's implementations computes a single op, as explain() tells it."""
        with contender.scope(), backends.recording() as dispatches:
            contender.call()
        return {"implementation": ", ".join(dict.fromkeys(dispatch.chosen for dispatch in dispatches))}

    def function(self, name: str, arrays: list[np.ndarray], options: dict[str, object], required: tuple = ()) -> Contender:
        return Contender(self.name, partial(getattr(functional, name), arrays[0], *required, *arrays[1:], **options), self.scope)

    def step(self, model: nn.Module, trainer: Trainer, x: np.ndarray, y: np.ndarray) -> tuple[Contender, nn.Module]:
        return Contender(self.name, partial(trainer.step, x, y), self.scope), model

    def inference(self, model: nn.Module, recipe: recipes.Recipe, x: np.ndarray) -> Contender:
        return Contender(self.name, partial(recipe.trainer(model).predict, x), self.scope)

    def layer(self, at: Activations) -> nn.Module:
        return copy.deepcopy(at.layer)

    def forward(self, at: Activations, layer: nn.Module) -> Contender:
        return Contender(self.name, partial(layer, at.input), self.scope)

    def backward(self, at: Activations, layer: nn.Module) -> Contender:
        def gradients() -> list[np.ndarray]:
            layer.zero_grad()
            grads = [layer.backward(at.grad_output), *(parameter.grad for parameter in layer.parameters())]
            return [grad for grad in grads if grad is not None]

        with self.scope():
            layer(at.input)
        return Contender(self.name, gradients, self.scope)
