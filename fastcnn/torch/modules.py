"""What is said of PyTorch modules on this side: whether they have hooks; and fastcnn's containers that PyTorch has no name for, as PyTorch modules with
the same children, so with the same state_dict keys."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


class Residual(torch.nn.Module):
    """y = body(x) + shortcut(x); without a shortcut y = body(x) + x."""

    def __init__(self, body: torch.nn.Module, shortcut: torch.nn.Module | None = None) -> None:
        super().__init__()
        self.body, self.shortcut = body, shortcut

    def forward(self, input: Tensor) -> Tensor:
        return self.body(input) + (input if self.shortcut is None else self.shortcut(input))


class Concat(torch.nn.Module):
    """Branches that all read the input, their outputs concatenated along axis dim."""

    def __init__(self, branches: Mapping[str, torch.nn.Module], dim: int = 1) -> None:
        super().__init__()
        self.dim = dim
        for name, branch in branches.items():
            self.add_module(name, branch)

    def forward(self, input: Tensor) -> Tensor:
        return torch.cat([branch(input) for branch in self.children()], dim=self.dim)


def has_hooks(module: torch.nn.Module) -> bool:
    """Does somebody look at (or change) what passes through this module?"""
    values = vars(module)
    return bool(values["_forward_hooks"] or values["_forward_pre_hooks"] or values["_backward_hooks"] or values["_backward_pre_hooks"])
