"""The same network, loss and optimizer in PyTorch, derived from ours: since names, arguments and state keys are torch's, there is nothing to translate.

What is built with default arguments of PyTorch stays so: no torch.compile, no fused optimizer.
"""

import torch

from fastcnn import nn
from fastcnn.optim.optimizer import Optimizer
from fastcnn.torch import to_torch
from fastcnn.torch.mirror import construct


class OneHotBCELoss(torch.nn.BCELoss):
    """The filter bank recipe's loss as one would write it in PyTorch."""

    def forward(self, input: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return super().forward(input, torch.nn.functional.one_hot(target, input.shape[1]).to(input.dtype))


OWN = {"OneHotBCELoss": OneHotBCELoss}
"""What PyTorch has under no name of its own."""


def module(ours: nn.Module) -> torch.nn.Module:
    """A model, layer or loss of ours as torch.nn has it, with the same weights, the same ones frozen."""
    own = OWN.get(type(ours).__name__)
    return own(reduction=ours.reduction) if own else to_torch(ours)


def optimizer(ours: Optimizer, parameters: list[torch.nn.Parameter]) -> torch.optim.Optimizer:
    """The optimizer of the same name and options, fresh."""
    return construct(torch.optim, ours, parameters)
