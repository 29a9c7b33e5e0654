"""Tensors as arrays and back, without copies; and which tensors fastcnn may have at all."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import numpy as np
import torch
from torch import Tensor

FLOATS = (torch.float32, torch.float64)
PLAIN = (Tensor, torch.nn.Parameter)  # a subclass may mean anything by its operations

# torch.func's transforms (vmap, grad, jvp) pass objects of type Tensor that hide another tensor, of which NumPy knows nothing.
_transforming = getattr(torch._C, "_are_functorch_transforms_active", lambda: False)


# autograd.grad(is_grads_batched=True), which vectorized jacobians use, passes such tensors to backward.
_legacy_batched = getattr(torch._C._functorch, "is_legacy_batchedtensor", lambda tensor: False)

# Saved-tensor hooks (checkpointing, offloading) call forward again and expect it to save the same tensors.
_saving_hooks = getattr(torch._C._autograd, "_top_saved_tensors_default_hooks", lambda ignore_is_tracing: None)

_switched_off: ContextVar[bool] = ContextVar("fastcnn_torch_off", default=False)


@contextmanager
def off() -> Iterator[None]:
    """Inside, in this thread, swapped modules and `use()` leave everything to PyTorch."""
    token = _switched_off.set(True)
    try:
        yield
    finally:
        _switched_off.reset(token)


def refusal(*tensors: Any) -> str | None:
    """Why the tensors of a call stay with PyTorch, or None if NumPy can read all of them where they lie. All but the first may be None."""
    if torch.compiler.is_compiling():  # first: the rest is nothing that it could follow
        return "torch.compile generates code of its own"
    dtype = None
    for tensor in tensors:
        if tensor is None and dtype is not None:
            continue
        if type(tensor) not in PLAIN:
            return f"a {type(tensor).__name__} is no plain Tensor"
        if not tensor.is_cpu:
            return f"it is on the device {tensor.device.type}"
        if tensor.layout is not torch.strided:
            return f"its layout is {tensor.layout}"
        if tensor.dtype not in FLOATS:
            return f"it is {tensor.dtype}, not float32 or float64"
        if dtype is not None and tensor.dtype is not dtype:
            return f"the dtypes {dtype} and {tensor.dtype} are mixed"
        if _legacy_batched(tensor):
            return "it is a batch of tensors in disguise"
        if tensor.is_neg():
            return "it is a negative view"
        dtype = tensor.dtype
    return setting()


def setting() -> str | None:
    """Why nothing is taken from PyTorch at this moment, or None."""
    if _switched_off.get():
        return "fastcnn.torch is switched off"
    if torch.is_autocast_enabled("cpu"):
        return "autocast chooses the dtypes"
    if _transforming():
        return "a transform of torch.func is at work"
    if torch.jit.is_tracing():
        return "torch.jit is tracing"
    if torch.autograd.forward_ad._current_level >= 0:
        return "forward-mode differentiation is at work"
    return None


def saving_is_watched() -> bool:
    """Whether somebody (torch.utils.checkpoint, save_on_cpu) takes the tensors that operations save for backward."""
    return _saving_hooks(False) is not None


def channels_last(tensor: Tensor) -> bool:
    """Whether a tensor lies in memory as NHWC, and not also as NCHW."""
    return tensor.dim() == 4 and not tensor.is_contiguous() and tensor.is_contiguous(memory_format=torch.channels_last)


def wants_grad(*tensors: Tensor | None) -> bool:
    """Whether autograd has to know of an operation on these."""
    return torch.is_grad_enabled() and any(tensor is not None and tensor.requires_grad for tensor in tensors)


def array(tensor: Tensor) -> np.ndarray:
    """The tensor's own memory as an array of the same strides; changes show on both sides."""
    return tensor.detach().numpy()


def optional_array(tensor: Tensor | None) -> np.ndarray | None:
    return None if tensor is None else tensor.detach().numpy()


def tensor(value: np.ndarray) -> Tensor:
    """The array's own memory as a tensor of the same strides: channels-last stays channels-last."""
    return torch.from_numpy(value)


def optional_tensors(values: Iterable[np.ndarray | None]) -> tuple[Tensor | None, ...]:
    return tuple(None if value is None else torch.from_numpy(value) for value in values)
