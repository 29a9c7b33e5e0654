"""Runs of layers inside a swapped Sequential as one operation of autograd, computed by a fastcnn plan: no pass over memory between convolution, normalisation,
activation and pooling, and the memory of one step used again in the next.

A run works on the module's own parameters and running statistics. What it cannot do as PyTorch would is left to the layers, one by one: hooks, evaluation
with gradients, a second forward before the backward of the first, saved-tensor hooks; a second backward is computed by PyTorch.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from operator import attrgetter
from typing import Any
from weakref import WeakKeyDictionary, ref

import numpy as np
import torch
from torch import Tensor
from torch.autograd import Function

from fastcnn import backend, forks, nn
from fastcnn.torch.functions import differentiable, takes
from fastcnn.torch.modules import has_hooks
from fastcnn.torch.tensors import array, off, refusal, saving_is_watched, tensor, wants_grad

POOL = ("kernel_size", "stride", "padding", "ceil_mode")
# What a run may hold, and the options that it depends on.
MEMBERS: dict[type, Any] = {
    torch.nn.Conv2d: attrgetter("stride", "padding", "dilation", "groups", "padding_mode", "kernel_size", "in_channels", "out_channels"),
    torch.nn.BatchNorm2d: attrgetter("eps", "momentum", "num_features", "track_running_stats"),
    torch.nn.ReLU: attrgetter("inplace"),
    torch.nn.LeakyReLU: attrgetter("negative_slope"),
    torch.nn.MaxPool2d: attrgetter(*POOL, "dilation", "return_indices"),
    torch.nn.AvgPool2d: attrgetter(*POOL, "count_include_pad", "divisor_override"),
    torch.nn.AdaptiveAvgPool2d: attrgetter("output_size"),
    torch.nn.Flatten: attrgetter("start_dim", "end_dim"),
    torch.nn.Linear: attrgetter("in_features", "out_features"),
}


class _Forward:
    """Held by the graph of one forward of a run; as long as it lives, the run's memory is that forward's."""


class Run:
    """Consecutive layers, the first one a Conv2d."""

    def __init__(self, modules: list[torch.nn.Module]) -> None:
        from fastcnn.torch.layers import original

        self.modules = modules
        self.members = [(module, MEMBERS[original(type(module))]) for module in modules]
        self.norms = [module for module in modules if isinstance(module, torch.nn.BatchNorm2d)]
        self.lock = threading.Lock()
        self.current: Any = lambda: None  # a weak reference to the _Forward whose backward has not come yet
        self.signature: Any = None
        forks.mend(self)

    def forked(self) -> None:
        """In a forked child: the thread that held the lock is not here, and what it was doing to the plans will not be finished."""
        if self.lock.locked():
            self.lock, self.current, self.signature = threading.Lock(), lambda: None, None

    def __call__(self, input: Tensor) -> Tensor | None:
        """The run's output, or None where the layers are to be called one by one."""
        if input.dim() != 4 or backend.current().name != "cpu" or any(map(_is_watched, self.modules)):
            return None
        parameters = [parameter for module in self.modules for parameter in module._parameters.values() if parameter is not None]
        if not takes(input, *parameters):
            return None
        grad = wants_grad(input, *parameters)
        if any(norm.training != grad for norm in self.norms) or (grad and saving_is_watched()):
            return None
        if not self.lock.acquire(blocking=False):
            return None
        try:
            if self.current() is not None or not self._prepare(input, parameters, grad):
                return None
            plan = self.planner.plan(array(input), grad)
            if plan is None:
                return None
            return _Run.apply(self, plan, input, *self.parameters) if grad else self._infer(plan, input)
        finally:
            self.lock.release()

    def _infer(self, plan: Any, input: Tensor) -> Tensor:
        plan.refresh()
        return tensor(plan.forward(array(input)))

    def _prepare(self, input: Tensor, parameters: list[Tensor], grad: bool) -> bool:
        """Bring our layers up to what PyTorch's are now."""
        signature = [options(module) for module, options in self.members]
        buffers = [value for module in self.norms for value in module._buffers.values() if value is not None]
        signature += [(id(value), value.data_ptr(), value.shape, value.dtype) for value in (*buffers, *parameters)]
        if signature != self.signature:
            if not self._build():
                return False
            self.signature = signature
        for own, value in zip(self.own, self.parameters, strict=True):
            own.requires_grad = value.requires_grad
        for own, value in self.copies:
            np.copyto(own.data, array(value))
        if self.model.training != grad:
            self.model.train(grad)
        self.model[0].requires_input_grad = input.requires_grad
        return True

    def _build(self) -> bool:
        from fastcnn.plan import Planner
        from fastcnn.torch.convert import Converter, NotConvertible

        self.signature = None
        converter = Converter(share=True)
        try:
            self.model = nn.Sequential(*(converter.convert(module, "") for module in self.modules))
        except NotConvertible:
            return False
        self.own = list(self.model.parameters())
        self.parameters = [converter.sources[id(parameter.data)] for parameter in self.own]
        self.copies = []
        for own, value in zip(self.own, self.parameters, strict=True):
            if not own.data.flags.c_contiguous:  # a plan reads weights in one order only
                own.data = own.data.copy(order="C")
                self.copies.append((own, value))
        self.model.eval()  # one mode for all layers, to begin with
        self.planner = Planner(self.model)
        return True

    def again(self, input: Tensor, *parameters: Tensor) -> Tensor:
        """What the run computes, by PyTorch, with other tensors in the parameters' place; the running statistics stay."""
        given = dict(zip(map(id, self.parameters), parameters, strict=True))
        with off():
            for module in self.modules:
                state = {name: given[id(value)] for name, value in module._parameters.items() if value is not None}
                state |= {name: value.clone() for name, value in module._buffers.items() if value is not None}
                input = torch.func.functional_call(module, state, (input,))
        return input


class _Run(Function):
    @staticmethod
    def forward(ctx: Any, run: Run, plan: Any, input: Tensor, *parameters: Tensor) -> Tensor:
        output = tensor(plan.forward(array(input)))
        for norm in run.norms:  # PyTorch did not see that they were written to
            for value in norm._buffers.values():
                if value is not None:
                    torch.autograd.graph.increment_version(value)
        ctx.run, ctx.plan, ctx.token = run, plan, _Forward()
        run.current = ref(ctx.token)
        ctx.save_for_backward(input, *parameters)
        return output

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple:
        run, needed = ctx.run, ctx.needs_input_grad[2:]
        saved = ctx.saved_tensors  # raises if one of them was changed in the meantime
        with run.lock:
            mine = ctx.token is not None and run.current() is ctx.token
            if mine and not torch.is_grad_enabled() and refusal(grad_output) is None:
                ctx.token = None
                return None, None, *_gradients(run, ctx.plan, grad_output, needed)
        return None, None, *differentiable(run.again, saved, needed, grad_output)


def _gradients(run: Run, plan: Any, grad_output: Tensor, needed: tuple[bool, ...]) -> Iterator[Tensor | None]:
    for own in run.own:
        own.grad = None
    grad_input = plan.backward(array(grad_output))
    # the plan writes to the same memory in the next step, while PyTorch keeps gradients as long as it likes
    grads = [grad_input if needed[0] else None, *(own.grad for own in run.own)]
    for own in run.own:
        own.grad = None
    return (None if grad is None else tensor(grad.copy(order="K")) for grad in grads)


_found: WeakKeyDictionary[torch.nn.Module, tuple[list[torch.nn.Module], list[Any]]] = WeakKeyDictionary()


def forward(sequential: torch.nn.Sequential, input: Tensor) -> Tensor:
    """sequential's output: runs as one where they can be, everything else module by module."""
    if torch.nn.modules.module._has_any_global_hook():
        for module in sequential:
            input = module(input)
        return input
    for item in runs(sequential):
        if isinstance(item, Run):
            output = item(input)
            if output is None:
                for module in item.modules:
                    input = module(input)
            else:
                input = output
        else:
            input = item(input)
    return input


def runs(sequential: torch.nn.Sequential) -> list[Run | torch.nn.Module]:
    """The runs and the other modules, in order; nested Sequentials are part of the same chain."""
    leaves = list(_leaves(sequential))
    known = _found.get(sequential)
    if known is None or len(known[0]) != len(leaves) or any(a is not b for a, b in zip(known[0], leaves, strict=True)):
        known = _found[sequential] = leaves, list(_cut(leaves))
    return known[1]


def _leaves(sequential: torch.nn.Sequential) -> Iterator[torch.nn.Module]:
    from fastcnn.torch.layers import FastSequential

    for child in sequential._modules.values():
        if type(child) in (torch.nn.Sequential, FastSequential) and not _is_watched(child):
            yield from _leaves(child)
        else:
            yield child


def _cut(leaves: list[torch.nn.Module]) -> Iterator[Run | torch.nn.Module]:
    at = 0
    while at < len(leaves):
        end = at
        while end < len(leaves) and _may_follow(leaves[at:end], leaves[end]):
            end += 1
        if end > at:
            yield Run(leaves[at:end])
            at = end
        else:
            yield leaves[at]
            at += 1


def _may_follow(before: list[torch.nn.Module], module: torch.nn.Module) -> bool:
    from fastcnn.torch.layers import original

    kind = original(type(module))
    if not before:
        return kind is torch.nn.Conv2d
    if module in before and (isinstance(module, torch.nn.BatchNorm2d) or kind is torch.nn.Flatten):
        return False
    flat = any(isinstance(other, torch.nn.Flatten) for other in before)
    if kind is torch.nn.Flatten:
        return not flat and (module.start_dim, module.end_dim) == (1, -1)
    if kind is torch.nn.Linear:
        return flat
    return kind in MEMBERS and not (flat and kind not in (torch.nn.ReLU, torch.nn.LeakyReLU)) and not getattr(module, "return_indices", False)


def _is_watched(module: torch.nn.Module) -> bool:
    """Does somebody look at what passes through this module: hooks, or a forward of the object's own?"""
    return has_hooks(module) or "forward" in vars(module)
