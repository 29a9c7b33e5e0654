"""What all libraries of a comparison have in common, and the operands of a convolution.

A library gets its operands in the memory format it asks for before the clock starts: conversions that a user of that
library would not have to make are not timed, those that happen inside the library are.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.problems import Problem
from bench.timing import Contender

if TYPE_CHECKING:
    from bench.networks import Activations
    from fastcnn import nn, recipes
    from fastcnn.train import Trainer

OPS = ("forward", "grad_input", "grad_weight")
BACKWARD = "backward"
"""Both gradients of a convolution in one call, as training asks for them; not among OPS, which have one result each."""

FORMATS = ("nchw", "channels_last")


class Unusable(ValueError):
    """A backend, peer or op was asked for that is not there."""


@dataclass(frozen=True)
class Operands:
    """Standard normal arrays, C-contiguous NCHW; each op reads two of them."""

    input: np.ndarray
    weight: np.ndarray
    grad_output: np.ndarray

    @classmethod
    def of(cls, problem: Problem, dtype: str, seed: int = 0) -> Operands:
        rng = np.random.default_rng(seed)
        shapes = problem.input_shape, problem.weight_shape, problem.output_shape
        return cls(*(rng.standard_normal(shape, dtype=dtype) for shape in shapes))

    def astype(self, dtype: str) -> Operands:
        return Operands(self.input.astype(dtype), self.weight.astype(dtype), self.grad_output.astype(dtype))

    def channels_last(self) -> Operands:
        """The same numbers and shapes over NHWC memory."""
        arrays = self.input, self.weight, self.grad_output
        return Operands(*(np.ascontiguousarray(a.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2) for a in arrays))


class Library:
    """One side of the comparisons. What it has nothing of it answers with None, and then is not in that row.

    Every result must be readable by np.asarray. Instances travel to their process by pickle: what is imported, start() imports.
    """

    name: str
    root: Path | None = None  # the folder that holds the fastcnn package of its process; None: the one beside this suite
    yardstick = False  # True: slow by nature, no rival, takes fewer turns

    def environment(self) -> dict[str, str]:
        """Environment variables that its process starts with."""
        return {}

    def start(self, threads: int) -> dict[str, str]:
        """Import it and set its threads; returns lines for the header."""
        raise NotImplementedError

    def contender(self, problem: Problem, op: str, operands: Operands) -> Contender | None:
        """One of OPS, which returns one array, or BACKWARD, which returns grad_input and grad_weight."""

    def facts(self, contender: Contender) -> dict[str, Any]:
        """What the row of a convolution tells of it beside times."""
        return {}

    def function(self, name: str, arrays: list[np.ndarray], options: dict[str, object], required: tuple = ()) -> Contender | None:
        """A function that has the same name and arguments here and in torch.nn.functional; `required` stand between the first array and the others."""

    def step(self, model: nn.Module, trainer: Trainer, x: np.ndarray, y: np.ndarray) -> tuple[Contender, object] | None:
        """A training step of our model and trainer, or of their twins, which returns the loss; and the network that it trains."""

    def inference(self, model: nn.Module, recipe: recipes.Recipe, x: np.ndarray) -> Contender | None:
        """The outputs of our model, or its twin, in evaluation mode."""

    def layer(self, at: Activations) -> object | None:
        """One layer, or its twin."""

    def forward(self, at: Activations, layer: Any) -> Contender:
        """The layer's output, as in training."""
        raise NotImplementedError

    def backward(self, at: Activations, layer: Any) -> Contender:
        """Runs the layer forward; what is timed returns the gradients of its input and parameters, those there are, as a list."""
        raise NotImplementedError
