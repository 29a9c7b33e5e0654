"""The object of the same name and options in the other library: fastcnn's names, arguments and attributes are PyTorch's, so there is nothing to translate."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import torch


class NotConvertible(TypeError):
    """Something that the other library does not have, or that cannot be told from outside; the message says where and why."""


PARTICULAR = ("dtype", "device", "rng", "params")  # arguments that say where and of what, not which


def construct(namespace: Any, source: Any, *leading: Any, name: str | None = None, **given: Any) -> Any:
    """Call namespace's class of source's name (or of `name`) with source's attributes for all arguments that both constructors know.

    leading, given   arguments that are not source's
    """
    name = name or type(source).__name__
    target = getattr(namespace, name, None)
    if not inspect.isclass(target):
        raise NotConvertible(f"{namespace.__name__} has no {name}")
    own, known = arguments(type(source)), arguments(target)
    try:
        options = {argument: value_of(argument, getattr(source, argument)) for argument in own if argument in known and argument not in PARTICULAR}
    except AttributeError as error:
        raise NotConvertible(f"{name} does not tell its options: {error}") from None
    return target(*leading, **options, **given)


def arguments(kind: type) -> list[str]:
    """The names of a constructor's arguments, without *args and **kwargs. A class without a constructor has none, where object's would have both."""
    found = inspect.signature(kind.__init__).parameters.values() if kind.__init__ is not object.__init__ else ()
    return [parameter.name for parameter in found if parameter.name != "self" and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)]


def value_of(argument: str, value: Any) -> Any:
    """An attribute as the argument of its name: arrays become tensors and tensors arrays."""
    if argument == "bias":  # the attribute is the parameter itself, the argument says whether there is one
        return value is not None
    if isinstance(value, torch.Tensor):
        return value.detach().cpu().numpy()
    return torch.from_numpy(value) if isinstance(value, np.ndarray) else value
