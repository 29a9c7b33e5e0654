"""A forward() that somebody wrote, as a chain of layers: followed by torch.fx, and taken apart at the places where branches meet again.

What can be taken: calls of submodules and of the functions below, one after the other; sums and concatenations of branches that begin at one value
(nn.Residual, nn.Concat). A value used anywhere else, an operation without a layer, or control flow that depends on the numbers is refused by name.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx

from fastcnn import nn
from fastcnn.torch.mirror import NotConvertible

Convert = Callable[[torch.nn.Module, str], nn.Module]
Named = list[tuple[str, nn.Module]]

# Layer, and the names of the function's arguments behind the input, in order. Those that the layer does not take must have the value given in HARMLESS.
FUNCTIONS: dict[Any, tuple[type[nn.Module], tuple[str, ...]]] = {
    F.relu: (nn.ReLU, ("inplace",)),
    F.leaky_relu: (nn.LeakyReLU, ("negative_slope", "inplace")),
    F.elu: (nn.ELU, ("alpha", "inplace")),
    F.selu: (nn.SELU, ("inplace",)),
    F.gelu: (nn.GELU, ("approximate",)),
    F.silu: (nn.SiLU, ("inplace",)),
    F.softplus: (nn.Softplus, ("beta", "threshold")),
    F.sigmoid: (nn.Sigmoid, ()),
    F.tanh: (nn.Tanh, ()),
    F.softmax: (nn.Softmax, ("dim", "_stacklevel", "dtype")),
    F.log_softmax: (nn.LogSoftmax, ("dim", "_stacklevel", "dtype")),
    F.max_pool2d: (nn.MaxPool2d, ("kernel_size", "stride", "padding", "dilation", "ceil_mode", "return_indices")),
    F.avg_pool2d: (nn.AvgPool2d, ("kernel_size", "stride", "padding", "ceil_mode", "count_include_pad", "divisor_override")),
    F.adaptive_avg_pool2d: (nn.AdaptiveAvgPool2d, ("output_size",)),
    F.adaptive_max_pool2d: (nn.AdaptiveMaxPool2d, ("output_size", "return_indices")),
    F.dropout: (nn.Dropout, ("p", "training", "inplace")),
    F.interpolate: (nn.Upsample, ("size", "scale_factor", "mode", "align_corners", "recompute_scale_factor", "antialias")),
    torch.flatten: (nn.Flatten, ("start_dim", "end_dim")),
}
FUNCTIONS |= {
    torch.relu: FUNCTIONS[F.relu],
    torch.selu: FUNCTIONS[F.selu],
    torch.sigmoid: FUNCTIONS[F.sigmoid],
    torch.tanh: FUNCTIONS[F.tanh],
    torch.softmax: (nn.Softmax, ("dim", "dtype")),
    torch.log_softmax: (nn.LogSoftmax, ("dim", "dtype")),
}
METHODS = {name: FUNCTIONS[getattr(torch, name)] for name in ("relu", "sigmoid", "tanh", "softmax", "log_softmax", "flatten")}
HARMLESS = {"_stacklevel": 3, "dtype": None, "antialias": False, "training": False}
REQUIRED = {"start_dim": 0}  # what the function takes for an argument that the layer takes another default for
ADD = (operator.add, operator.iadd, torch.add)
CONCATENATE = (torch.cat, torch.concat)
SIZES = ("size", "shape", "dim")


class _Tracer(fx.Tracer):
    """Every submodule is a single step: it is converted on its own."""

    def is_leaf_module(self, module: torch.nn.Module, name: str) -> bool:
        return True


def follow(module: torch.nn.Module, path: str, convert: Convert) -> nn.Module:
    """module as a Sequential, Residual and Concat of its converted submodules."""
    try:
        traces = [_trace(module, mode) for mode in (False, True)]
    except NotConvertible:
        raise
    except Exception as error:  # whatever the user's code makes of values that have no numbers
        raise NotConvertible(f"its forward cannot be followed: {type(error).__name__}: {error}") from error
    evaluation, training = ([(node.op, str(node.target)) for node in trace.nodes] for trace in traces)
    if evaluation != training:
        raise NotConvertible("its forward does one thing in training and another in evaluation")
    return nn.Sequential(dict(_Chain(traces[0], module, path, convert).layers()))


def _trace(module: torch.nn.Module, training: bool) -> fx.Graph:
    mode, module.training = module.training, training
    try:
        return _Tracer().trace(module)
    finally:
        module.training = mode


class _Chain:
    def __init__(self, trace: fx.Graph, module: torch.nn.Module, path: str, convert: Convert) -> None:
        self.module, self.path, self.convert = module, path, convert
        self.done: set[fx.Node] = set()
        self.dominators: dict[fx.Node, list[fx.Node]] = {}
        placeholders = [node for node in trace.nodes if node.op == "placeholder"]
        used = [node for node in placeholders if node.users]
        if len(used) != 1 or any(not node.users and not node.args for node in placeholders[1:]):
            raise NotConvertible(f"its forward takes {len(placeholders)} arguments and uses {len(used)}, not one")
        self.input = used[0]
        (self.output,) = next(node for node in trace.nodes if node.op == "output").args
        if not isinstance(self.output, fx.Node):
            raise NotConvertible(f"its forward returns a {type(self.output).__name__}, not one tensor")
        for node in trace.nodes:
            if node.op in ("placeholder", "output"):
                above: list[list[fx.Node]] = []
            else:
                above = [self.dominators[other] for other in self._inputs(node) if other in self.dominators]
            shared = [other for other in above[0] if all(other in others for others in above[1:])] if above else []
            self.dominators[node] = [*shared, node]

    def layers(self) -> Named:
        found = self._between(self.input, self.output)
        if not found:
            return [("identity", nn.Identity())]
        return found

    def _between(self, start: fx.Node, node: fx.Node) -> Named:
        """The layers from start's value to node's."""
        found: Named = []
        while node is not start:
            if node in self.done or node.op == "placeholder":
                raise NotConvertible(f"its forward uses the result of {self._shown(node)} in a way that is no chain of sums and concatenations")
            self.done.add(node)
            if self._joins(node):
                name, layer, node = self._join(node)
            else:
                name, layer, node = self._step(node)
            found += [(name, layer)] if layer is not None else []
        taken: set[str] = set()
        named = []
        for name, layer in reversed(found):
            while name in taken or hasattr(nn.Sequential, name):
                name += "_"
            taken.add(name)
            named.append((name, layer))
        return named

    def _inputs(self, node: fx.Node) -> list[fx.Node]:
        """The values that a node computes with; sizes are none."""
        return [other for other in node.all_input_nodes if not _is_size(other)]

    def _joins(self, node: fx.Node) -> bool:
        return node.op in ("call_function", "call_method") and (node.target in (*ADD, *CONCATENATE) or node.target in ("add", "add_"))

    def _join(self, node: fx.Node) -> tuple[str, nn.Module, fx.Node]:
        concat = node.target in CONCATENATE
        arguments = [*node.args[0], *node.args[1:]] if concat else list(node.args)
        branches = [argument for argument in arguments if isinstance(argument, fx.Node)]
        if len(branches) < 2 or (not concat and (len(arguments) != 2 or node.kwargs.get("alpha", 1) != 1)):
            raise NotConvertible(f"{self._shown(node)} is no sum of two values")
        if node.target in (operator.iadd, "add_"):
            self._alone(node, branches[0])
        fork = self.dominators[node][-2] if len(self.dominators[node]) > 1 else None
        if fork is None:
            raise NotConvertible(f"the branches of {self._shown(node)} do not begin at one value")
        paths = [self._between(fork, branch) for branch in branches]
        if concat:
            dim = node.kwargs.get("dim", arguments[-1] if isinstance(arguments[-1], int) else 0)
            return "concat", nn.Concat(*map(_one, paths), dim=dim), fork
        if len(paths[1]) > len(paths[0]):
            paths.reverse()
        body, shortcut = paths
        return "residual", nn.Residual(_one(body), _one(shortcut) if shortcut else None), fork

    def _step(self, node: fx.Node) -> tuple[str, nn.Module | None, fx.Node]:
        """The name, layer and input of a node with one input."""
        inputs = self._inputs(node)
        if len(inputs) != 1 or not node.args or node.args[0] is not inputs[0]:
            raise NotConvertible(f"no layer of fastcnn does what {self._shown(node)} does")
        if node.op == "call_module":
            if len(node.args) > 1 or node.kwargs:
                raise NotConvertible(f"{self._shown(node)} is called with more than one argument")
            source = self.module.get_submodule(node.target)
            if getattr(source, "inplace", False):
                self._alone(node, inputs[0])
            name = node.target.replace(".", "_")
            return name, self.convert(source, f"{self.path}.{node.target}" if self.path else node.target), inputs[0]
        return node.name, self._function(node), inputs[0]

    def _function(self, node: fx.Node) -> nn.Module | None:
        if node.op == "call_method" and node.target in ("view", "reshape"):
            return self._flattened(node)
        if node.op == "call_method" and node.target == "contiguous":
            return None
        if node.target in (torch.mean, "mean"):
            return self._mean(node)
        table = FUNCTIONS if node.op == "call_function" else METHODS
        target = node.target
        if isinstance(target, str) and target.endswith("_"):
            self._alone(node, node.args[0])
            target = target[:-1]
        if target not in table:
            raise NotConvertible(f"no layer of fastcnn does what {self._shown(node)} does")
        kind, names = table[target]
        options = dict(zip(names, node.args[1:], strict=False)) | {key: value for key, value in node.kwargs.items() if key != "input"}
        if options.get("inplace"):
            self._alone(node, node.args[0])
        if kind is nn.Dropout and options.get("training", True):
            raise NotConvertible(f"{self._shown(node)} drops in evaluation too: pass training=self.training")
        if kind is nn.Flatten:
            options = {"start_dim": 0} | options
        for name in [name for name in options if name in HARMLESS]:
            if options.pop(name) != HARMLESS[name]:
                raise NotConvertible(f"{self._shown(node)}: no layer of fastcnn has {name}")
        if any(isinstance(value, fx.Node) for value in options.values()):
            raise NotConvertible(f"{self._shown(node)} has options that are computed")
        return kind(**options)

    def _flattened(self, node: fx.Node) -> nn.Module:
        """x.view(x.size(0), -1) and its kin; x.view(-1, K) only where a Linear(K, ...) comes next, which has the same K."""
        sizes = node.args[1:] if not isinstance(node.args[1], (tuple, list)) else tuple(node.args[1])
        if len(sizes) == 2:
            first, second = sizes
            if isinstance(first, fx.Node) and _batch_of(first, node.args[0]) and (second == -1 or self._features_behind(node) == second):
                return nn.Flatten()
            if first == -1 and isinstance(second, int) and self._features_behind(node) == second:
                return nn.Flatten()
        raise NotConvertible(f"{self._shown(node)} is not the flattening of each image; write torch.flatten(x, 1)")

    def _features_behind(self, node: fx.Node) -> int | None:
        for user in node.users:
            module = self.module.get_submodule(user.target) if user.op == "call_module" else None
            return getattr(module, "in_features", None)
        return None

    def _mean(self, node: fx.Node) -> nn.Module:
        """x.mean((2, 3)), the global average."""
        dims = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim")
        keep = node.args[2] if len(node.args) > 2 else node.kwargs.get("keepdim", False)
        if not isinstance(dims, (tuple, list)) or sorted(dim % 4 for dim in dims) != [2, 3] or not isinstance(keep, bool):
            raise NotConvertible(f"{self._shown(node)} is no mean over the pixels of each channel")
        pool = nn.AdaptiveAvgPool2d(1)
        return pool if keep else nn.Sequential(pool, nn.Flatten())

    def _alone(self, node: fx.Node, changed: fx.Node) -> None:
        """An operation in place changes what everybody else who reads that value sees."""
        if any(user is not node and not _is_size(user) for user in changed.users):
            raise NotConvertible(f"{self._shown(node)} works in place on a value that is used elsewhere too")

    @staticmethod
    def _shown(node: fx.Node) -> str:
        name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", str(node.target))
        return f"{name} (in the graph: {node.name})"


def _one(layers: Named) -> nn.Module:
    return layers[0][1] if len(layers) == 1 else nn.Sequential(dict(layers)) if layers else nn.Identity()


def _is_size(node: fx.Node) -> bool:
    """x.size(...), x.shape, an item of them."""
    if node.op == "call_method":
        return node.target in SIZES
    if node.op == "call_function" and node.target is getattr:
        return node.args[1] in SIZES
    return node.op == "call_function" and node.target is operator.getitem and isinstance(node.args[0], fx.Node) and _is_size(node.args[0])


def _batch_of(node: fx.Node, value: fx.Node) -> bool:
    """Is node the number of images in value (or in something before it with the same number, as all of a chain have)?"""
    if node.op == "call_method":
        return node.target == "size" and node.args[1:] == (0,)
    return node.op == "call_function" and node.target is operator.getitem and _is_size(node.args[0]) and node.args[1] == 0
