"""The libraries of a comparison, each behind the same small face: how its process starts, and a Contender for (problem, op, operands).

A library gets its operands in the memory format it asks for before the clock starts: conversions that a user of that
library would not have to make are not timed, those that happen inside the library are.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from bench.problems import Problem
from bench.timing import Contender
from fastcnn import backend as backends
from fastcnn import functional

if TYPE_CHECKING:
    import torch

OPS = ("forward", "grad_input", "grad_weight")
FORMATS = ("nchw", "channels_last")


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


@dataclass(frozen=True)
class Fastcnn:
    """A backend of ours, through fastcnn.functional as a user calls it (validation included)."""

    backend: str
    memory_format: str = "nchw"
    algorithm: str | None = None  # None: the backend's own choice
    root: Path | None = None  # the folder that holds the package; None: the one beside this suite

    @property
    def name(self) -> str:
        return self.backend

    @property
    def yardstick(self) -> bool:
        return self.backend == "reference"

    def environment(self) -> dict[str, str]:
        return {}

    def start(self, threads: int) -> dict[str, str]:
        if not compiled():
            return {}
        from fastcnn.backends import cpu

        backends.set_num_threads(threads)
        facts = cpu.config()
        return {"compiled backend": f"{facts['isa']}, loops: {facts['loops']}, {facts['compiler']}"}

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
        else:
            index = OPS.index(op) - 1
            mask = (op == "grad_input", op == "grad_weight", False)
            backward = partial(functional.conv2d_backward, grad_output, input, weight, **options, output_mask=mask)

            def call() -> np.ndarray:
                return backward()[index]

        return Contender(self.name, call, self.scope)

    def function(self, name: str, arrays: list[np.ndarray], options: dict[str, object]) -> Contender:
        """A function that has the same name and arguments here and in torch.nn.functional."""
        return Contender(self.name, partial(getattr(functional, name), *arrays, **options), self.scope)

    def facts(self, contender: Contender) -> dict[str, str]:
        """Which of the backend's implementations computes a single op, as explain() tells it."""
        with contender.scope(), backends.recording() as dispatches:
            contender.call()
        return {"implementation": dispatches[0].chosen}


@dataclass(frozen=True)
class Torch:
    """PyTorch on the CPU, without autograd: what its own backward pass calls, and nothing around it."""

    memory_format: str
    root = None
    yardstick = False

    @property
    def name(self) -> str:
        return f"torch {self.memory_format}"

    def environment(self) -> dict[str, str]:
        return {}

    def start(self, threads: int) -> dict[str, str]:
        import torch

        torch.set_num_threads(threads)
        return {"PyTorch": f"{torch.__version__}, {torch.backends.cpu.get_cpu_capability()}"}

    @property
    def layout(self) -> torch.memory_format:
        import torch

        return {"nchw": torch.contiguous_format, "channels_last": torch.channels_last}[self.memory_format]

    def tensor(self, array: np.ndarray) -> torch.Tensor:
        """In the library's memory format; two-dimensional arrays have only one."""
        import torch

        whole = torch.from_numpy(np.ascontiguousarray(array))
        return whole.contiguous(memory_format=self.layout) if whole.ndim == 4 else whole

    def contender(self, problem: Problem, op: str, operands: Operands) -> Contender:
        import torch

        input, weight, grad_output = map(self.tensor, (operands.input, operands.weight, operands.grad_output))
        if op == "forward":
            call = partial(torch.nn.functional.conv2d, input, weight, **problem.options)
        else:
            index = OPS.index(op) - 1
            mask = [op == "grad_input", op == "grad_weight", False]
            pairs = [list(pair) for pair in (problem.stride, problem.padding, problem.dilation)]
            convolution = *pairs, False, [0, 0], problem.groups  # not transposed, no output_padding
            backward = partial(torch.ops.aten.convolution_backward, grad_output, input, weight, None, *convolution, mask)

            def call() -> torch.Tensor:
                return backward()[index]

        return Contender(self.name, call, torch.inference_mode)

    def function(self, name: str, arrays: list[np.ndarray], options: dict[str, object]) -> Contender:
        import torch

        return Contender(self.name, partial(getattr(torch.nn.functional, name), *map(self.tensor, arrays), **options), torch.inference_mode)

    def facts(self, contender: Contender) -> dict[str, str]:
        return {}


Library = Fastcnn | Torch


def libraries(backend: str, peers: list[str], memory_format: str = "nchw") -> list[Library]:
    """Who is measured: ours first, in its memory format, then the reference, then PyTorch in both of its own."""
    reference = [Fastcnn("reference")] if "reference" in peers and backend != "reference" else []
    return [Fastcnn(backend, memory_format), *reference, *([Torch(layout) for layout in FORMATS] if "torch" in peers else [])]


class Unusable(ValueError):
    """A backend, peer or op was asked for that is not there."""


def chosen(choice: str) -> list[str]:
    """The peers that `--peers` names: auto is the reference and what is installed, none is none, else a list like torch,reference."""
    has_torch = importlib.util.find_spec("torch") is not None
    if choice == "none":
        return []
    if choice == "auto":
        return ["reference", "torch"] if has_torch else ["reference"]
    peers = choice.split(",")
    for peer in peers:
        if peer not in ("torch", "reference"):
            raise Unusable(f"no peer is called {peer!r}: choose auto, none, or a list of torch, reference")
    if "torch" in peers and not has_torch:
        raise Unusable("the peer torch is not installed")
    return peers


def check_backend(name: str) -> None:
    """Unusable, with the reason, if this backend of ours cannot run here."""
    reasons = backends.available()
    if name not in reasons:
        raise Unusable(f"no backend is called {name!r}: choose one of {', '.join(reasons)}")
    if reasons[name] is not None:
        raise Unusable(f"the backend {name} cannot be used: {reasons[name]}")


def compiled() -> bool:
    """Is the compiled backend, and with it the probes of the machine, there?"""
    return backends.available()["cpu"] is None
