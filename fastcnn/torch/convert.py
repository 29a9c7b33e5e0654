"""from_torch: PyTorch modules, losses and optimizers as fastcnn's."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from fastcnn import nn, optim
from fastcnn.torch import graph
from fastcnn.torch.layers import original
from fastcnn.torch.mirror import NotConvertible, arguments, construct
from fastcnn.torch.modules import Concat, Residual, has_hooks
from fastcnn.torch.tensors import FLOATS, array


def from_torch(module: torch.nn.Module, *, share: bool = False) -> nn.Module:
    """The same network (or layer, or loss) as fastcnn layers, with the same weights, statistics, modes and frozen parameters.

    Sequential, nested as you like, keeps its names, so that `state_dict` keys agree. A module with a forward of its own is followed
    (torch.fx), and is taken if its layers form a chain whose branches meet again in a sum or a torch.cat: ResNet blocks, for instance, become
    nn.Residual. Functions such as F.relu and x.view(x.size(0), -1) become layers.

    share   the parameters and statistics stay PyTorch's memory, so that training the one trains the other, and nothing is ever copied back; else they
            are copied
    Raises  NotConvertible (a TypeError), which names the module and the reason
    """
    if not isinstance(module, torch.nn.Module):
        raise TypeError(f"from_torch: module must be a torch.nn.Module, got {type(module).__name__}")
    return Converter(share).convert(module, "")


class Converter:
    """One conversion. `sources` holds, by the id of each array in the result, the tensor that it came from."""

    def __init__(self, share: bool) -> None:
        self.share = share
        self.sources: dict[int, torch.Tensor] = {}
        self._parameters: dict[int, nn.Parameter] = {}
        self._buffers: dict[int, np.ndarray] = {}

    def convert(self, module: torch.nn.Module, path: str) -> nn.Module:
        where = f"{path or 'the module'} ({type(module).__name__})"
        if has_hooks(module):
            raise NotConvertible(f"from_torch: {where} has hooks, for which fastcnn's layers have no place")
        try:
            layer = self._converted(module, path)
        except NotConvertible as error:
            text = str(error)
            raise NotConvertible(text if text.startswith("from_torch") else f"from_torch: {where}: {text}") from None
        layer.training = module.training
        return layer

    def _converted(self, module: torch.nn.Module, path: str) -> nn.Module:
        kind = original(type(module))
        if isinstance(module, torch.nn.Sequential) and kind.forward is torch.nn.Sequential.forward:
            return nn.Sequential(self._children(module, path))
        if kind is Concat:
            return nn.Concat(self._children(module, path), dim=module.dim)
        if kind is Residual:
            return nn.Residual(**self._children(module, path))
        if kind.__module__.startswith("torch.nn.") and getattr(nn, kind.__name__, None) is not None:
            return self._layer(module, kind)
        if kind.__module__.startswith("torch.nn."):
            raise NotConvertible(f"fastcnn.nn has no {kind.__name__}")
        return graph.follow(module, path, self.convert)

    def _children(self, module: torch.nn.Module, path: str) -> dict[str, nn.Module]:
        """By name; one object that stands at two places becomes two layers that share their parameters."""
        children = {}
        for name, child in module._modules.items():
            if child is not None:
                children[free_name(name)] = self.convert(child, f"{path}.{name}" if path else name)
        return children

    def _layer(self, module: torch.nn.Module, kind: type) -> nn.Module:
        given: dict[str, Any] = {"rng": _NoNumbers()} if "rng" in arguments(getattr(nn, kind.__name__)) and kind is not torch.nn.Dropout else {}
        if isinstance(module, torch.nn.modules.batchnorm._NormBase) and module.track_running_stats != (module.running_mean is not None):
            raise NotConvertible(f"track_running_stats is {module.track_running_stats}, but running_mean is {'not ' * (not module.track_running_stats)}None")
        if "forward" in vars(module):
            raise NotConvertible("the object has a forward of its own")
        layer = construct(nn, module, name=kind.__name__, **given)
        for name, tensor in module._parameters.items():
            if tensor is not None:
                setattr(layer, name, self._parameter(tensor, name))
        for name, tensor in module._buffers.items():
            if tensor is not None:
                layer.register_buffer(name, self._buffer(tensor, name))
        return layer

    def _parameter(self, tensor: torch.nn.Parameter, name: str) -> nn.Parameter:
        if isinstance(tensor, torch.nn.parameter.UninitializedTensorMixin):
            raise NotConvertible(f"{name} has no shape yet: run the module once")
        known = self._parameters.get(id(tensor))
        if known is None:
            known = self._parameters[id(tensor)] = nn.Parameter(self._memory(tensor, name), tensor.requires_grad)
        return known

    def _buffer(self, tensor: torch.Tensor, name: str) -> np.ndarray:
        known = self._buffers.get(id(tensor))
        if known is None:
            known = self._buffers[id(tensor)] = self._memory(tensor, name)
        return known

    def _memory(self, tensor: torch.Tensor, name: str) -> np.ndarray:
        if tensor.dtype not in (*FLOATS, torch.int64):
            raise NotConvertible(f"{name} is {tensor.dtype}; convert the module with .float() or .double()")
        if tensor.layout is not torch.strided or tensor.is_meta:
            raise NotConvertible(f"{name} has no memory of plain numbers: it is {tensor.layout} on the device {tensor.device.type}")
        if self.share and not tensor.is_cpu:
            raise NotConvertible(f"{name} is on the device {tensor.device.type} and cannot be shared; share=False copies it")
        memory = array(tensor) if self.share else np.array(array(tensor.cpu()), order="C", copy=True)
        self.sources[id(memory)] = tensor
        return memory


class _NoNumbers(np.random.Generator):
    """For layers whose weights are set at once: drawing them would take time, and numbers from the library's generator."""

    def __init__(self) -> None:
        super().__init__(np.random.PCG64(0))

    def uniform(self, low: float = 0.0, high: float = 1.0, size: Any = None) -> np.ndarray:
        return np.broadcast_to(0.0, size)


def free_name(name: str) -> str:
    """The name of a child, with a _ where fastcnn's containers have an attribute of that name."""
    while hasattr(nn.Sequential, name) or hasattr(nn.Concat, name):
        name += "_"
    return name


def optimizer_from_torch(optimizer: torch.optim.Optimizer, parameters: list[nn.Parameter], tensors: dict[int, torch.Tensor]) -> optim.Optimizer:
    """A fresh fastcnn optimizer of the same name and options over these parameters; `tensors` says which of PyTorch's each one's array is.

    Raises NotConvertible for several parameter groups with different options, for an optimizer that has none of the model's parameters (those that it
    does not have stay as they are), and for one that has already made steps.
    """
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise TypeError(f"fit: optimizer must be a torch.optim.Optimizer, got {type(optimizer).__name__}")
    name = type(optimizer).__name__
    if type(optimizer).__module__.partition(".")[0] != "torch" or not hasattr(optim, name):
        raise NotConvertible(f"fastcnn.optim has no {name}")
    if any(state.get("step", 1) > 0 for state in optimizer.state.values() if state):  # Adagrad has its state from the beginning, SGD no count
        raise NotConvertible(f"{name} has made steps already: its moments would be lost")
    options = [{key: value for key, value in group.items() if key != "params"} for group in optimizer.param_groups]
    if any(other != options[0] for other in options[1:]):
        raise NotConvertible(f"{name} has {len(options)} parameter groups with different options; fastcnn.optim has one for all")
    held = {id(tensor) for group in optimizer.param_groups for tensor in group["params"]}
    ours = [parameter for parameter in parameters if id(tensors[id(parameter.data)]) in held]
    if not ours:
        raise NotConvertible(f"{name} has {len(held)} parameters, but none of the model's {len(parameters)}: it was built for another model")
    target = getattr(optim, name)
    return target(ours, **{key: float(value) if isinstance(value, torch.Tensor) else value for key, value in options[0].items() if key in arguments(target)})
