"""PyTorch's networks with fastcnn under them: layers swapped (`fastcnn.torch.swap_`), functions caught (`use`), or the network converted (`from_torch`)."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from bench.peers.pytorch import Torch
from bench.timing import Contender
from fastcnn import backend, optim
from fastcnn.train import Trainer

if TYPE_CHECKING:
    import torch

    from fastcnn import nn

WAYS = ("use()", "swap_", "converted")


@dataclass(frozen=True)
class Bridged(Torch):
    """Training steps only. Both libraries work in the process, with as many threads each."""

    way: str = "swap_"

    @property
    def name(self) -> str:
        return self.way if self.way == "converted" else f"{self.way} {self.memory_format}"

    def start(self, threads: int) -> dict[str, str]:
        backend.set_num_threads(threads)
        about = super().start(threads)
        return about | {f"fastcnn {key}": str(value) for key, value in backend.config().items() if key in ("cpu isa", "cpu compiler")}

    def network(self, model: nn.Module) -> torch.nn.Module:
        from fastcnn.torch import swap_

        network = super().network(model)
        return swap_(network) if self.way == "swap_" else network

    def scope(self) -> AbstractContextManager:
        from fastcnn.torch import use

        return use() if self.way == "use()" else super().scope()

    def step(self, model: nn.Module, trainer: Trainer, x: np.ndarray, y: np.ndarray) -> tuple[Contender, object]:
        if self.way != "converted":
            return super().step(model, trainer, x, y)
        from fastcnn.torch import from_torch
        from fastcnn.torch.mirror import construct

        converted = from_torch(super().network(model))
        ours = Trainer(converted, trainer.loss, construct(optim, trainer.optimizer, converted.parameters()))
        return Contender(self.name, lambda: ours.step(x, y)), converted
