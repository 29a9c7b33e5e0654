"""Containers: Sequential, Residual (sum of two paths) and Concat (paths side by side). They nest freely."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from fastcnn.nn import changes
from fastcnn.nn.fusion import fused
from fastcnn.nn.module import Module
from fastcnn.options import MAX_INT, integer
from fastcnn.shapes import ShapeError, by


def _walk(module: Module, prefix: str = "") -> Iterator[tuple[str, Module]]:
    """Every (path, module) below module, without leaving repeated ones out."""
    for name, child in vars(module).items():
        if isinstance(child, Module):
            yield prefix + name, child
            yield from _walk(child, f"{prefix}{name}.")


def check_distinct(container: Module) -> None:
    """ValueError if one module object stands at two places: its second forward would overwrite what the first one's backward needs."""
    paths: dict[int, str] = {}
    for path, module in _walk(container):
        first = paths.setdefault(id(module), path)
        if first != path:
            raise ValueError(
                f"{type(container).__name__}: {first!r} and {path!r} are the same {type(module).__name__} object, but a module holds one "
                "forward at a time: build a second one (two layers may share a Parameter: b.weight = a.weight)"
            )


class _Container(Module):
    """Named or numbered children in order; what Sequential and Concat share."""

    def __init__(self, *modules: Module | Mapping[str, Module]) -> None:
        if len(modules) == 1 and isinstance(modules[0], Mapping):
            named = list(modules[0].items())
        else:
            named = [(str(index), module) for index, module in enumerate(modules)]
        self._set_children(named)

    def _set_children(self, named: Iterable[tuple[str, Module]]) -> None:
        """Replace all children. Numbered ones are numbered anew by position; given names stay."""
        named = [(str(index) if name.isdigit() else name, module) for index, (name, module) in enumerate(named)]
        for name, module in named:
            if not isinstance(module, Module):
                raise TypeError(f"{type(self).__name__}: child {name!r} must be a Module, got {type(module).__name__}")
            if not name or "." in name or hasattr(type(self), name):
                raise ValueError(f"{type(self).__name__}: {name!r} cannot name a child: it is empty, has a dot or is an attribute")
        before = self._named()
        for name, _ in before:
            delattr(self, name)
        vars(self).update(named)
        try:
            check_distinct(self)
        except ValueError:
            for name, _ in named:
                vars(self).pop(name, None)
            vars(self).update(before)
            raise
        finally:
            changes.note()

    def _named(self) -> list[tuple[str, Module]]:
        return [(name, value) for name, value in vars(self).items() if isinstance(value, Module)]

    def _modules(self) -> list[Module]:
        return [value for value in vars(self).values() if isinstance(value, Module)]

    def __len__(self) -> int:
        return len(self._modules())

    def __iter__(self) -> Iterator[Module]:
        return iter(self._modules())

    def __getitem__(self, index: int | slice) -> Any:
        """A child, or for a slice a container of the same kind over the same children."""
        if not isinstance(index, slice):
            return self._modules()[index]
        part = self._empty()
        part._set_children(self._named()[index])
        part.training = self.training
        return part

    def _empty(self) -> _Container:
        return type(self)()

    def __setitem__(self, index: int, module: Module) -> None:
        named = self._named()
        named[index] = (named[index][0], module)
        self._set_children(named)

    def __delitem__(self, index: int | slice) -> None:
        named = self._named()
        del named[index]
        self._set_children(named)

    def append(self, module: Module) -> _Container:
        return self.insert(len(self), module)

    def extend(self, modules: Iterable[Module]) -> _Container:
        for module in modules:
            self.append(module)
        return self

    def insert(self, index: int, module: Module) -> _Container:
        named = self._named()
        named.insert(index, ("0", module))  # any number: _set_children counts anew
        self._set_children(named)
        return self


class Sequential(_Container):
    """Layers one after the other; built from layers or from a dict of named layers.

    backward returns None if one of the layers does (requires_input_grad=False) and none before it has anything to train.
    """

    def forward(self, input: np.ndarray) -> np.ndarray:
        for module in fused(self._modules()):
            input = module(input)
        return input

    def backward(self, grad_output: np.ndarray) -> np.ndarray | None:
        modules = self._modules()
        for index in range(len(modules) - 1, -1, -1):
            grad_output = modules[index].backward(grad_output)
            if grad_output is None:
                self._check_nothing_to_train(index)
                return None
        return grad_output

    def _check_nothing_to_train(self, end: int) -> None:
        """The first `end` layers get no gradient: an error if one of them should be trained."""
        named = self._named()
        for name, module in named[:end]:
            if any(parameter.requires_grad for parameter in module.parameters()):
                raise RuntimeError(
                    f"Sequential: layer {named[end][0]!r} ({type(named[end][1]).__name__}) has requires_input_grad=False and gave no "
                    f"gradient, but layer {name!r} ({type(module).__name__}) before it has parameters to train"
                )


class Residual(Module):
    """y = body(x) + shortcut(x); without a shortcut y = body(x) + x (He et al. 2015, arXiv:1512.03385).

    Both paths must give the same shape; nothing is broadcast.
    """

    def __init__(self, body: Module, shortcut: Module | None = None) -> None:
        for name, path in (("body", body), ("shortcut", shortcut)):
            if not isinstance(path, Module) and (path is not None or name == "body"):
                raise TypeError(f"Residual: {name} must be a Module, got {type(path).__name__}")
        self.body = body
        self.shortcut = shortcut
        check_distinct(self)

    def forward(self, input: np.ndarray) -> np.ndarray:
        output = self.body(input)
        skipped = input if self.shortcut is None else self.shortcut(input)
        if output.shape != skipped.shape:
            path = "the input" if self.shortcut is None else "the shortcut's output"
            raise ShapeError(f"residual: body gives {by(output.shape)} but {path} is {by(skipped.shape)}")
        return np.add(output, skipped)

    def backward(self, grad_output: np.ndarray) -> np.ndarray | None:
        grad_body = self.body.backward(grad_output)
        grad_skipped = grad_output if self.shortcut is None else self.shortcut.backward(grad_output)
        if grad_body is None or grad_skipped is None:  # half a gradient is none
            return None
        return np.add(grad_body, grad_skipped)


class Concat(_Container):
    """Branches that all read the input, their outputs concatenated along axis dim (1: channels); Szegedy et al. 2014, arXiv:1409.4842."""

    dim: int = 1

    def __init__(self, *branches: Module | Mapping[str, Module], dim: int = 1) -> None:
        super().__init__(*branches)
        self.dim = integer(dim, "Concat", "dim", -MAX_INT)

    def _empty(self) -> Concat:
        return Concat(dim=self.dim)

    def forward(self, input: np.ndarray) -> np.ndarray:
        outputs = [branch(input) for branch in self._modules()]
        if not outputs:
            raise ValueError("concat: no branches")
        first = outputs[0].shape
        dim = self.dim + len(first) if self.dim < 0 else self.dim
        if not 0 <= dim < len(first):
            raise ShapeError(f"concat: dim {self.dim} is out of range for outputs with {len(first)} axes, {by(first)}")
        for index, output in enumerate(outputs):
            shape = output.shape
            if len(shape) != len(first) or shape[:dim] + shape[dim + 1 :] != first[:dim] + first[dim + 1 :]:
                raise ShapeError(f"concat: branch {index} gives {by(shape)} but branch 0 gives {by(first)}: all axes but {dim} must agree")
        self.save_for_backward(dim, [output.shape[dim] for output in outputs])
        return np.concatenate(outputs, axis=dim)

    def backward(self, grad_output: np.ndarray) -> np.ndarray | None:
        dim, sizes = self.saved_for_backward()
        if grad_output.ndim <= dim or grad_output.shape[dim] != sum(sizes):
            raise ShapeError(f"concat: grad_output is {by(grad_output.shape)} but the output has {sum(sizes)} along axis {dim}")
        parts = np.split(grad_output, np.cumsum(sizes[:-1]), axis=dim)
        grads = [branch.backward(part) for branch, part in zip(self._modules(), parts, strict=True)]
        if any(grad is None for grad in grads):
            return None
        grad_input = grads[0] if len(grads) == 1 else np.add(grads[0], grads[1])
        for grad in grads[2:]:
            grad_input += grad
        return grad_input

    def extra_repr(self) -> str:
        return "" if self.dim == 1 else f"dim={self.dim}"
