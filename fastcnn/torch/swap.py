"""swap_ and unswap_: an existing model's layers computed by fastcnn, by class swap; and report, which says what is swapped and why the rest is not."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import torch

from fastcnn.torch import blocks
from fastcnn.torch.layers import SWAPS, original
from fastcnn.torch.tensors import FLOATS

log = logging.getLogger("fastcnn")


def swap_(model: torch.nn.Module) -> torch.nn.Module:
    """Let fastcnn compute the convolutions, poolings and batch normalisations of model, in place; returns model.

    Conv2d, MaxPool2d, AvgPool2d, BatchNorm2d, Unfold and Sequential change their class, and nothing else: the same Parameter objects, so optimizers,
    state_dict, hooks, deepcopy and torch.save go on as before, and `isinstance(layer, torch.nn.Conv2d)` still holds. In a Sequential, runs of layers from a
    Conv2d on are computed as one. Subclasses and other layers stay as they are; `print(report(model))` lists both. unswap_ takes it back.

    Tensors that fastcnn does not compute with (other devices and dtypes, subclasses, under autocast, torch.func, torch.compile) go to PyTorch, call by call.
    """
    _check(model, "swap_")
    for module in model.modules():
        if _reason(module) is None and type(module) in SWAPS:
            module.__class__ = SWAPS[type(module)]
    if not any(original(type(module)) is not type(module) for module in model.modules()):
        log.warning("swap_: nothing in %s can be swapped; print(fastcnn.torch.report(model)) says why", type(model).__name__)
    return model


def unswap_(model: torch.nn.Module) -> torch.nn.Module:
    """Take swap_ back, in place; returns model."""
    _check(model, "unswap_")
    for module in model.modules():
        module.__class__ = original(type(module))
    return model


def _check(model: object, op: str) -> None:
    if not isinstance(model, torch.nn.Module):
        raise TypeError(f"{op}: model must be a torch.nn.Module, got {type(model).__name__}")


def _reason(module: torch.nn.Module) -> str | None:
    """Why a module that looks like one of ours is not swapped; None for one that is, or could be, and for all others."""
    kind = original(type(module))
    if kind is torch.nn.Sequential:
        return None if any(isinstance(item, blocks.Run) for item in blocks.runs(module)) else "no Conv2d of PyTorch's own in it"
    if kind not in SWAPS:
        relative = next((plain for plain in SWAPS if isinstance(module, plain) and plain is not torch.nn.Sequential), None)
        return None if relative is None else f"a subclass of {relative.__name__}, which may compute something else"
    for name, value in module.named_parameters(recurse=False):
        if value.dtype not in FLOATS or not value.is_cpu:
            return f"{name} is {value.dtype} on the device {value.device.type}"
    return "return_indices=True" if getattr(module, "return_indices", False) else None


@dataclass(frozen=True)
class Report:
    """What of a model fastcnn computes. swapped: (path, class); runs: the paths of layers computed as one; left: (path, class, reason)."""

    swapped: tuple[tuple[str, str], ...]
    runs: tuple[tuple[str, ...], ...]
    left: tuple[tuple[str, str, str], ...]

    def __str__(self) -> str:
        lines = [f"by fastcnn: {len(self.swapped)} modules"]
        lines += [f"  {path or '(model)'}: {kind}" for path, kind in self.swapped]
        lines += [f"  as one: {paths[0]} to {paths[-1]}, {len(paths)} layers" for paths in self.runs]
        lines.append(f"by PyTorch: {len(self.left)} modules")
        lines += [f"  {path or '(model)'}: {kind}: {reason}" for path, kind, reason in self.left]
        return "\n".join(lines)


def report(model: torch.nn.Module) -> Report:
    """What of model is computed by fastcnn and what by PyTorch, and why: print(report(model))."""
    _check(model, "report")
    paths = {id(module): path for path, module in model.named_modules()}
    swapped, runs, left = [], [], []
    inside: set[int] = set()
    for path, module in model.named_modules():
        kind = type(module)
        if original(kind) is not kind:
            swapped.append((path, original(kind).__name__))
        if original(kind) is not kind and isinstance(module, torch.nn.Sequential) and id(module) not in inside:
            inside |= {id(part) for part in module.modules()}
            found = [item.modules for item in blocks.runs(module) if isinstance(item, blocks.Run)]
            runs += [tuple(paths[id(part)] for part in parts) for parts in found if not any(map(_reason, parts))]
    of_runs = {path for run in runs for path in run}
    for path, module in model.named_modules():
        if original(type(module)) is type(module) and path not in of_runs and not _only_holds(module):
            left.append((path, type(module).__name__, _reason(module) or ("not swapped yet" if type(module) in SWAPS else "PyTorch's own is used")))
    return Report(tuple(swapped), tuple(runs), tuple(left))


def _only_holds(module: torch.nn.Module) -> bool:
    """A module whose work is done by its children."""
    return any(True for _ in module.children()) and not isinstance(module, tuple(SWAPS))
