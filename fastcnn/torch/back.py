"""to_torch: fastcnn's layers and losses as PyTorch's, or their weights into a PyTorch module that is there already."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from fastcnn import nn
from fastcnn.torch.convert import Converter
from fastcnn.torch.mirror import construct
from fastcnn.torch.modules import Concat, Residual


def to_torch(model: nn.Module, like: torch.nn.Module | None = None, *, share: bool = False) -> torch.nn.Module:
    """The same network (or layer, or loss) in PyTorch, with the same weights, statistics, modes and frozen parameters.

    like    a module that from_torch made this model of, or one of the same structure: gets the weights and statistics, in place, and is returned.
            Optimizers and whoever else holds its parameters see them.
    share   the new module's parameters and statistics are the model's memory: training the one trains the other. Not with `like`.
    Raises  NotConvertible for a layer that PyTorch does not have; ValueError if `like` has other weights, all differences in one message
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"to_torch: model must be a fastcnn.nn.Module, got {type(model).__name__}")
    if like is not None:
        if share:
            raise ValueError("to_torch: share=True is for a new module; with like the weights are copied")
        write_into(like, model)
        return like
    tensors = {key: torch.from_numpy(value if share else value.copy()) for key, value in model._state()}
    if not tensors:
        return _build(model)
    with torch.device("meta"):  # no memory, and no numbers of the random generator, for weights that are replaced at once
        module = _build(model)
    module.load_state_dict(tensors, assign=True)
    for parameter, own in zip(module.parameters(), model.parameters(), strict=True):
        parameter.requires_grad_(own.requires_grad)
    return module


def _build(model: nn.Module) -> torch.nn.Module:
    built = _container(model)
    if built is None:
        built = construct(torch.nn, model)
    built.training = model.training
    return built


def _container(model: nn.Module) -> torch.nn.Module | None:
    children: dict[str, Any] = {name: _build(child) for name, child in vars(model).items() if isinstance(child, nn.Module)}
    if isinstance(model, nn.Sequential):
        module = torch.nn.Sequential()
        for name, child in children.items():
            module.add_module(name, child)
        return module
    if isinstance(model, nn.Residual):
        return Residual(**children)
    return Concat(children, model.dim) if isinstance(model, nn.Concat) else None


def write_into(module: torch.nn.Module, model: nn.Module) -> None:
    """Copy model's weights and statistics into module, whose conversion has the same structure: converted as it is now, it tells which tensor is which."""
    converter = Converter(share=False)
    shape = converter.convert(module, "")
    pairs = {key: converter.sources[id(own)] for key, own in shape._state()}
    shape.load_state_dict(model.state_dict())  # checks keys, shapes and dtypes before anything is written
    with torch.no_grad():
        for key, own in shape._state():
            pairs[key].copy_(torch.from_numpy(np.ascontiguousarray(own)).reshape(own.shape))
