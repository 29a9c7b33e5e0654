"""PyTorch on the CPU, in either memory format; eager, as its tutorials write it, or with the network given to torch.compile."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from bench.peers.library import BACKWARD, OPS, Library, Operands
from bench.problems import Problem
from bench.timing import Contender

if TYPE_CHECKING:
    import torch

    from bench.networks import Activations
    from fastcnn import nn, recipes
    from fastcnn.train import Trainer


@dataclass(frozen=True)
class Torch(Library):
    """Single ops without autograd: what PyTorch's own backward pass calls, and nothing around it."""

    memory_format: str
    compiled: bool = False  # whole networks only: a single op has nothing to fuse

    @property
    def name(self) -> str:
        return "torch compile" if self.compiled else f"torch {self.memory_format}"

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

    def contender(self, problem: Problem, op: str, operands: Operands) -> Contender | None:
        import torch

        if self.compiled:
            return None
        input, weight, grad_output = map(self.tensor, (operands.input, operands.weight, operands.grad_output))
        if op == "forward":
            call = partial(torch.nn.functional.conv2d, input, weight, **problem.options)
        else:
            wanted = slice(0, 2) if op == BACKWARD else OPS.index(op) - 1
            mask = [op in ("grad_input", BACKWARD), op in ("grad_weight", BACKWARD), False]
            pairs = [list(pair) for pair in (problem.stride, problem.padding, problem.dilation)]
            convolution = *pairs, False, [0, 0], problem.groups  # not transposed, no output_padding
            backward = partial(torch.ops.aten.convolution_backward, grad_output, input, weight, None, *convolution, mask)

            def call() -> torch.Tensor | tuple[torch.Tensor, ...]:
                return backward()[wanted]

        return Contender(self.name, call, torch.inference_mode)

    def function(self, name: str, arrays: list[np.ndarray], options: dict[str, object], required: tuple = ()) -> Contender | None:
        import torch

        if self.compiled:
            return None
        first, *others = map(self.tensor, arrays)
        return Contender(self.name, partial(getattr(torch.nn.functional, name), first, *required, *others, **options), torch.inference_mode)

    def network(self, model: nn.Module) -> torch.nn.Module:
        """Our model's twin."""
        from bench import twin

        return twin.module(model).to(memory_format=self.layout)

    def scope(self) -> AbstractContextManager:
        """What a network runs in, in training."""
        return nullcontext()

    def step(self, model: nn.Module, trainer: Trainer, x: np.ndarray, y: np.ndarray) -> tuple[Contender, object]:
        import torch

        from bench import twin

        network = self.network(model)
        loss = twin.module(trainer.loss)
        optimizer = twin.optimizer(trainer.optimizer, [parameter for parameter in network.parameters() if parameter.requires_grad])
        images, labels = self.tensor(x), torch.from_numpy(y)
        run = torch.compile(network) if self.compiled else network

        def step() -> float:
            optimizer.zero_grad()
            with self.scope():
                value = loss(run(images), labels)
            value.backward()
            optimizer.step()
            return value.item()

        return Contender(self.name, step), network

    def inference(self, model: nn.Module, recipe: recipes.Recipe, x: np.ndarray) -> Contender:
        import torch

        network = self.network(model).eval()
        return Contender(self.name, partial(torch.compile(network) if self.compiled else network, self.tensor(x)), torch.inference_mode)

    def layer(self, at: Activations) -> object | None:
        from bench import twin

        return None if self.compiled else twin.module(at.layer).to(memory_format=self.layout)

    def forward(self, at: Activations, layer: torch.nn.Module) -> Contender:
        return Contender(self.name, partial(layer, self._images(at)))

    def backward(self, at: Activations, layer: torch.nn.Module) -> Contender:
        import torch

        images = self._images(at)
        wanted = [tensor for tensor in (images, *layer.parameters()) if tensor.requires_grad]
        return Contender(self.name, partial(torch.autograd.grad, layer(images), wanted, self.tensor(at.grad_output), retain_graph=True))

    def _images(self, at: Activations) -> torch.Tensor:
        return self.tensor(at.input).requires_grad_(at.layer.requires_input_grad)
