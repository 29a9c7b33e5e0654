"""Module: what every layer, container and loss is."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import DTypeLike

from fastcnn import backend
from fastcnn.nn import changes
from fastcnn.nn.parameter import FLOATS, Parameter
from fastcnn.options import flag, integer
from fastcnn.shapes import ShapeError, by

Self = TypeVar("Self", bound="Module")
_MISSING = object()


class IncompatibleKeys(NamedTuple):
    """What load_state_dict(strict=False) left alone."""

    missing_keys: list[str]
    unexpected_keys: list[str]


def as_float_dtype(dtype: DTypeLike) -> np.dtype:
    """float32 or float64 as np.dtype; TypeError for any other."""
    dtype = np.dtype(dtype)
    if dtype not in FLOATS:
        raise TypeError(f"dtype must be float32 or float64, got {dtype}")
    return dtype


def to_array(value: Any, key: str) -> np.ndarray:
    """A state_dict entry as an array. PyTorch tensors are recognised by their methods, so PyTorch is never imported."""
    if isinstance(value, np.ndarray):
        return value
    for method in ("detach", "cpu", "numpy"):
        if hasattr(value, method):
            try:
                value = getattr(value, method)()
            except TypeError as error:  # bfloat16 and friends, which NumPy has no type for
                raise TypeError(f"load_state_dict: {key!r} cannot be read as an array: {error}") from None
    return np.asarray(backend.to_host(value))


# Where Module.to moves arrays, and how.
_PLACES: dict[str, Callable] = {"cpu": backend.to_host, "cuda": backend.to_device}


class Module:
    """Base class: forward(input) saves what backward(grad_output) needs, which returns grad_input and accumulates into Parameter.grad.

    Every attribute that is a Parameter or a Module is part of the module, under its attribute name; a buffer (an array that is saved
    but not trained) is announced with register_buffer. A subclass writes forward and backward:

        class Scale(nn.Module):
            def __init__(self):
                self.weight = nn.Parameter(np.ones((), np.float32))

            def forward(self, input):
                self.save_for_backward(input)
                return input * self.weight.data

            def backward(self, grad_output):
                (input,) = self.saved_for_backward()
                self.weight.accumulate(np.sum(grad_output * input))
                return grad_output * self.weight.data

    Arrays are saved by reference: an input overwritten between forward and backward gives the gradient of the new values.
    A module holds one forward at a time, so one object cannot stand at two places of a network (containers refuse that);
    two modules may share a Parameter instead, and its gradients add up.
    """

    training: bool = True
    # False: grad_input is not wanted (the data themselves come in here), so a layer may skip it and return None.
    requires_input_grad: bool = True
    # True or False overrides "save in training mode only": True gives gradients through a layer in evaluation mode.
    saves_for_backward: bool | None = None

    _saved: tuple | None = None
    _buffer_names: tuple[str, ...] = ()

    def __setattr__(self, name: str, value: Any) -> None:
        before = self.__dict__.get(name, _MISSING)
        if isinstance(before, Parameter) and not (value is None or isinstance(value, Parameter)):
            raise TypeError(
                f"{type(self).__name__}: {name} is a Parameter and cannot become a {type(value).__name__}: "
                f"assign a Parameter, or write to {name}.data[...]"
            )
        object.__setattr__(self, name, value)
        if before is not value and name[0] != "_":  # what a layer remembers of a forward is no change
            changes.note()

    def __delattr__(self, name: str) -> None:
        object.__delattr__(self, name)
        changes.note()

    def forward(self, *inputs: Any) -> Any:
        raise NotImplementedError(f"{type(self).__name__} has no forward")

    def backward(self, grad_output: Any) -> Any:
        raise NotImplementedError(f"{type(self).__name__} has no backward")

    def __call__(self, *inputs: Any, **options: Any) -> Any:
        try:
            return self.forward(*inputs, **options)
        except ShapeError as error:
            self._locate(error)
            raise

    def _locate(self, error: ShapeError) -> None:
        """Put the path of the layer that raised before the message; runs again in each enclosing module, so the outermost path stays."""
        layer, text = getattr(error, "raised_by", (self, str(error)))
        error.raised_by = layer, text
        path = next((name for name, module in self.named_modules() if module is layer), "")
        error.args = (f"{path} ({type(layer).__name__}): {text}" if path else f"{type(layer).__name__}: {text}",)

    @property
    def is_saving(self) -> bool:
        """Whether forward saves for backward: in training mode, unless saves_for_backward says otherwise."""
        return self.training if self.saves_for_backward is None else self.saves_for_backward

    def save_for_backward(self, *values: Any) -> None:
        """For forward: keep these for backward, or in evaluation mode drop what the last forward kept."""
        self.__dict__["_saved"] = values if self.is_saving else None  # past __setattr__: this runs in every forward

    def saved_for_backward(self) -> tuple:
        """For backward: what forward saved. It stays until the next forward, so backward may be called again."""
        if self._saved is None:
            raise RuntimeError(
                f"{self._one_line()}: backward needs a forward in training mode before it "
                "(evaluation mode saves nothing for backward unless saves_for_backward is True)"
            )
        return self._saved

    def register_buffer(self, name: str, value: np.ndarray | None) -> None:
        """Set attribute name to an array that state_dict includes and no optimizer touches; None keeps the name but saves nothing."""
        if name not in self._buffer_names:
            self._buffer_names = (*self._buffer_names, name)
        setattr(self, name, value)

    # Walking the tree. One object that is reachable under two names is reported once, under the first (torch's rule).

    def named_children(self) -> Iterator[tuple[str, Module]]:
        seen = set()
        for name, value in vars(self).items():
            if isinstance(value, Module) and id(value) not in seen:
                seen.add(id(value))
                yield name, value

    def children(self) -> Iterator[Module]:
        return (module for _, module in self.named_children())

    def named_modules(self, prefix: str = "", _seen: set[int] | None = None) -> Iterator[tuple[str, Module]]:
        seen = set() if _seen is None else _seen
        if id(self) in seen:
            return
        seen.add(id(self))
        yield prefix, self
        for name, module in self.named_children():
            yield from module.named_modules(f"{prefix}.{name}" if prefix else name, seen)

    def modules(self) -> Iterator[Module]:
        return (module for _, module in self.named_modules())

    def named_parameters(self) -> Iterator[tuple[str, Parameter]]:
        seen = set()
        for prefix, module in self.named_modules():
            for name, value in vars(module).items():
                if isinstance(value, Parameter) and id(value) not in seen:
                    seen.add(id(value))
                    yield f"{prefix}.{name}" if prefix else name, value

    def parameters(self) -> Iterator[Parameter]:
        return (parameter for _, parameter in self.named_parameters())

    def named_buffers(self) -> Iterator[tuple[str, np.ndarray]]:
        for prefix, module in self.named_modules():
            for name in module._buffer_names:
                value = getattr(module, name)
                if value is not None:
                    yield f"{prefix}.{name}" if prefix else name, value

    def buffers(self) -> Iterator[np.ndarray]:
        return (buffer for _, buffer in self.named_buffers())

    # Modes, precision, freezing.

    def train(self: Self, mode: bool = True) -> Self:
        for module in self.modules():
            module.training = mode
        return self

    def eval(self: Self) -> Self:
        return self.train(False)

    def zero_grad(self, set_to_none: bool = True) -> None:
        for parameter in self.parameters():
            parameter.zero_grad(set_to_none)

    def requires_grad_(self: Self, requires_grad: bool = True) -> Self:
        """Freeze (False) or unfreeze every parameter."""
        for parameter in self.parameters():
            parameter.requires_grad = requires_grad
        return self

    def to(self: Self, target: DTypeLike) -> Self:
        """Convert parameters, their gradients and floating-point buffers to float32 or float64, or move them to "cuda" or "cpu", in place.

        Do it before the optimizer's first step. Integer buffers (how many batches were tracked) are counted on the host and stay there.
        """
        if isinstance(target, str) and target in _PLACES:
            move = _PLACES[target]
        else:
            dtype = as_float_dtype(target)

            def move(array: np.ndarray) -> np.ndarray:
                return array.astype(dtype, copy=False)

        for parameter in self.parameters():
            moved = move(parameter.data)
            if moved is not parameter.data:
                parameter.data = moved
            if parameter.grad is not None:
                parameter.grad = move(parameter.grad)
        for module in self.modules():
            module._saved = None
            for name in module._buffer_names:
                value = getattr(module, name)
                if value is not None and value.dtype.kind == "f":
                    setattr(module, name, move(value))
        return self

    astype = to

    def float(self: Self) -> Self:
        return self.to(np.float32)

    def double(self: Self) -> Self:
        return self.to(np.float64)

    def apply(self: Self, fn: Callable[[Module], Any]) -> Self:
        """Call fn on every module, children before parents."""
        for module in self.children():
            module.apply(fn)
        fn(self)
        return self

    def plan(self, input_shape: Sequence[int], *, training: bool = True) -> Any:
        """How a batch of input_shape (N, C, H, W) would run on the compiled backend: a fastcnn.plan.Plan, whose str() is a table.

        Trainer and fit make and use such plans by themselves. ShapeError if the shape does not fit the layers.
        """
        from fastcnn.plan import Planner

        if not isinstance(input_shape, (tuple, list)):
            raise TypeError(f"plan: input_shape must be a tuple of ints, got {type(input_shape).__name__} {input_shape!r}")
        input_shape = tuple(integer(size, "plan", "input_shape", 0) for size in input_shape)
        flag(training, "plan", "training")
        modes = [(module, module.training) for module in self.modules()]
        self.train(training)
        try:
            dtype = next((parameter.dtype for parameter in self.parameters()), np.dtype(np.float32))
            return Planner(self).build(input_shape, dtype, training)
        finally:
            for module, mode in modes:
                module.training = mode

    # Weights in and out, under torch's keys.

    def _state(self, prefix: str = "") -> Iterator[tuple[str, np.ndarray]]:
        """(key, the array itself): own parameters, own buffers, then children; a shared one appears under each of its names."""
        for name, value in vars(self).items():
            if isinstance(value, Parameter):
                yield prefix + name, value.data
        for name in self._buffer_names:
            value = getattr(self, name)
            if value is not None:
                yield prefix + name, value
        for name, value in vars(self).items():
            if isinstance(value, Module):
                yield from value._state(f"{prefix}{name}.")

    def state_dict(self) -> dict[str, np.ndarray]:
        """Copies of all parameters and buffers by name, on the host wherever they are."""
        state = dict(self._state())
        hosts = backend.all_to_host(state.values())
        return {key: array.copy() if array is host else host for (key, array), host in zip(state.items(), hosts, strict=True)}

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True) -> IncompatibleKeys:
        """Copy arrays (or PyTorch tensors) into the parameters and buffers of the same names; nothing is copied if anything does not fit.

        The module keeps its dtypes and values are cast to them, as in torch: float64 weights are rounded to a float32 module's. Only a float
        for an integer buffer is refused, which torch would truncate. strict=False skips missing and unexpected keys and returns them; shapes
        must match in any case. Raises ValueError, all faults in one message.
        """
        own = dict(self._state())
        given = {key: to_array(value, key) for key, value in state_dict.items()}
        keys = IncompatibleKeys([key for key in own if key not in given], [key for key in given if key not in own])
        shared = [key for key in own if key in given]
        faults = [f"missing key {key!r}" for key in keys.missing_keys] if strict else []
        faults += [f"unexpected key {key!r}" for key in keys.unexpected_keys] if strict else []
        for key in shared:
            if own[key].shape != given[key].shape:
                faults.append(f"{key!r} is {shape_text(given[key])} in the state_dict but {shape_text(own[key])} in the module")
            elif not np.can_cast(given[key].dtype, own[key].dtype, casting="same_kind"):
                faults.append(f"{key!r} is {given[key].dtype} in the state_dict but {own[key].dtype} in the module")
        if faults:
            raise ValueError(f"load_state_dict: {type(self).__name__}: " + "; ".join(faults))
        for key in shared:
            np.copyto(own[key], given[key], casting="same_kind")
        return keys

    def __getstate__(self) -> dict[str, Any]:
        """Pickle and deepcopy leave out what the last forward saved."""
        return {name: value for name, value in vars(self).items() if name != "_saved"}

    def extra_repr(self) -> str:
        """The options shown between the parentheses."""
        return ""

    def _one_line(self) -> str:
        return type(self).__name__ if any(True for _ in self.children()) else repr(self)

    def __repr__(self) -> str:
        extra = self.extra_repr()
        children = [f"({name}): " + repr(module).replace("\n", "\n  ") for name, module in vars(self).items() if isinstance(module, Module)]
        if not children:
            return f"{type(self).__name__}({extra})"
        return f"{type(self).__name__}(\n  " + "\n  ".join(extra.splitlines() + children) + "\n)"


def shape_text(array: np.ndarray) -> str:
    return by(array.shape) if array.ndim else "a scalar"
