"""The GPU backend: kernels in numba.cuda. Every line of the project that touches numba is in this folder.

_memory.py holds the device's memory and the copies in and out of it, _device.py the arrays and the launching of kernels; each other file is a kind of op,
its launch shapes derived from the tile beside the kernel. An op's arrays are all on the device: a host array raises TypeError, nothing is copied in silence.

A file of kernels has one function per op, with the op table's name and parameters, whose arrays are C-contiguous DeviceArrays, and a list KERNELS of
(name, kernel, its float32 signature), from which every kernel can be compiled to PTX without a GPU (`modules` are all files with kernels).
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from importlib import import_module
from pkgutil import iter_modules
from types import ModuleType
from typing import Any

import numpy as np

from ..ops import OPS
from . import conv, linear
from ._clock import seconds
from ._device import DeviceArray, all_to_host, contiguous, is_device, stage, to_device, to_host, wrap
from ._graph import Graph
from ._memory import device_name, missing, numba_version
from ._memory import pool as memory
from .precision import set_tf32, tf32_allowed

__all__ = [
    "DeviceArray", "Graph", "activated", "adopt", "all_to_host", "config", "conv2d_activated", "functions", "is_device", "keep_mask", "linear_activated",
    "memory", "missing", "name", "one_hot", "seconds", "set_tf32", "stage", "tf32_allowed", "to_device", "to_host", *OPS,
]  # fmt: skip

name = "cuda"
FILES = ("activation", "columns", "conv", "linear", "loss", "norm", "optim", "pool", "resample")  # those with ops
modules: list[ModuleType] = [import_module(f"{__name__}.{found.name}") for found in iter_modules(__path__) if found.name[0] != "_"]


def _on_device(op: str, parameters: tuple[str, ...], function: Callable) -> Callable:
    """The op behind a look at its arrays: all on the device, foreign ones wrapped, views with gaps copied together. Its parameters are the table's."""
    found = tuple(inspect.signature(function).parameters)
    if found != parameters:
        raise TypeError(f"{op} of {function.__module__} has parameters {found}, the op table {parameters}")

    @functools.wraps(function)
    def checked(*arguments: Any) -> Any:
        seen = list(arguments)
        for index, value in enumerate(arguments):
            if type(value) is DeviceArray:
                if not value.flags.c_contiguous:
                    seen[index] = contiguous(value)
            elif isinstance(value, np.ndarray):
                raise TypeError(f"{op}: {parameters[index]} is a host array, but backend 'cuda' computes on the device: copy it with fastcnn.to_device")
            elif hasattr(value, "__cuda_array_interface__"):
                seen[index] = contiguous(wrap(value))
        return function(*seen)

    return checked


def _find(op: str) -> Callable:
    for module in modules:
        if op in vars(module) and module.__name__.rpartition(".")[2] in FILES:
            return _on_device(op, OPS[op].parameters, vars(module)[op])
    raise NotImplementedError(f"backend 'cuda' has no {op}")


def adopt(value: Any) -> DeviceArray:
    """An array on the device, of whatever library, as the ops take it: the validator's hook."""
    return wrap(value)


def config() -> dict[str, str]:
    """What computes."""
    return {"device": device_name(), "numba-cuda": numba_version()}


functions: dict[str, Callable] = {op: _find(op) for op in OPS}

# Beside the table: ops that apply an activation to each number before it is written. fastcnn.nn.fusion looks for them.
activated: dict[str, Callable] = {
    f"{op}_activated": _on_device(op, (*OPS[op].parameters, "activation", "slope"), function)
    for op, function in (("conv2d", conv.conv2d_activated), ("linear", linear.linear_activated))
}
globals().update(functions | activated)

# Beside the table: a mask for dropout, and class numbers as rows of zeros and a one, drawn and made on the device.
from .activation import keep_mask  # noqa: E402
from .loss import one_hot  # noqa: E402
