"""The same network, loss and optimizer in PyTorch, derived from ours: since names, arguments and state keys are torch's, there is nothing to translate.

What is built with default arguments of PyTorch stays so: no torch.compile, no fused optimizer.
"""

import inspect
from collections import OrderedDict

import numpy as np
import torch

from fastcnn import nn
from fastcnn.optim.optimizer import Optimizer


class NoTwin(TypeError):
    """Something that PyTorch has under no name of its own."""


class OneHotBCELoss(torch.nn.BCELoss):
    """The filter bank recipe's loss as one would write it in PyTorch."""

    def forward(self, input: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return super().forward(input, torch.nn.functional.one_hot(target, input.shape[1]).to(input.dtype))


OWN = {"OneHotBCELoss": OneHotBCELoss}
"""What PyTorch has to be told."""


def module(ours: nn.Module) -> torch.nn.Module:
    """A model, layer or loss of ours as torch.nn has it, with the same weights, the same ones frozen."""
    twin = _build(ours)
    twin.load_state_dict({key: torch.from_numpy(value) for key, value in ours.state_dict().items()})
    for parameter, our_parameter in zip(twin.parameters(), ours.parameters(), strict=True):
        parameter.requires_grad_(our_parameter.requires_grad)
    return twin.train(ours.training)


def optimizer(ours: Optimizer, parameters: list[torch.nn.Parameter]) -> torch.optim.Optimizer:
    """The optimizer of the same name and options, fresh."""
    return _construct(torch.optim, ours, parameters)


def _build(ours: nn.Module) -> torch.nn.Module:
    if isinstance(ours, nn.Sequential):
        return torch.nn.Sequential(OrderedDict((name, _build(child)) for name, child in ours.named_children()))
    if any(True for _ in ours.children()):
        raise NoTwin(f"{type(ours).__name__} is a container that torch.nn does not have")
    return _construct(torch.nn, ours)


def _construct(namespace: object, ours: object, *leading: object) -> object:
    """Call the class of our object's name with our object's attributes for all arguments that both constructors know."""
    name = type(ours).__name__
    theirs = OWN.get(name) or getattr(namespace, name, None)
    if theirs is None:
        raise NoTwin(f"{namespace.__name__} has no {name}")
    known = inspect.signature(theirs.__init__).parameters
    own = inspect.signature(type(ours)).parameters  # of the class: one without __init__ has none, where object's own would have *args
    common = [p for p in own if p in known and p not in ("dtype", "params")]
    try:
        options = {p: _value(p, getattr(ours, p)) for p in common}
    except AttributeError as error:
        raise NoTwin(f"{name} does not tell its options: {error}") from None
    return theirs(*leading, **options)


def _value(name: str, value: object) -> object:
    if name == "bias":  # the attribute is the parameter itself, the argument says whether there is one
        return value is not None
    return torch.from_numpy(value) if isinstance(value, np.ndarray) else value
