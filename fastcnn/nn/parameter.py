"""An array to train and its gradient."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from fastcnn import backend
from fastcnn.nn import changes
from fastcnn.shapes import ShapeError, by

FLOATS = (np.dtype(np.float32), np.dtype(np.float64))


class Parameter:
    """A float32 or float64 array, of NumPy or on a device, that an optimizer updates in place.

    data           the array itself, shared with the caller, not copied; always updated in place, so views of it stay valid
    grad           the gradient accumulated by backward, of data's shape and dtype, or None: none since the last zero_grad
    requires_grad  False freezes the parameter: backward computes no gradient for it and optimizers skip it
    """

    __slots__ = ("data", "grad", "requires_grad", "__weakref__")

    def __init__(self, data: ArrayLike, requires_grad: bool = True) -> None:
        data = backend.to_device(data) if backend.on_device(data) else np.asarray(data)
        if data.dtype not in FLOATS:
            raise TypeError(f"Parameter: data must be float32 or float64, got {data.dtype}")
        if not data.flags.writeable:
            raise ValueError(f"Parameter: data {by(data.shape)} is read-only, but optimizers update it in place: pass a copy")
        self.data = data
        self.grad: np.ndarray | None = None
        self.requires_grad = requires_grad

    def __setattr__(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)
        if name != "grad":
            changes.note()

    @property
    def shape(self) -> tuple[int, ...]:
        return self.data.shape

    @property
    def dtype(self) -> np.dtype:
        return self.data.dtype

    @property
    def size(self) -> int:
        return self.data.size

    @property
    def ndim(self) -> int:
        return self.data.ndim

    def accumulate(self, grad: np.ndarray | None) -> None:
        """Add grad to .grad. The first array is kept as it is, not copied: give away an array that nothing else will write to.

        None is accepted for a frozen parameter, whose gradient the functional's output_mask leaves out.
        """
        if not self.requires_grad:
            return
        if grad is None:
            raise ValueError(f"Parameter: no gradient given for a parameter {by(self.shape)} with requires_grad=True")
        if grad.shape != self.data.shape:
            raise ShapeError(f"Parameter: gradient {by(grad.shape)} does not match the parameter, {by(self.shape)}")
        if grad.dtype != self.data.dtype:
            raise TypeError(f"Parameter: gradient is {grad.dtype} but the parameter is {self.dtype}")
        if self.grad is not None:
            self.grad += grad
        else:
            _set_grad(self, grad if grad.flags.writeable else grad.copy())

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradient, or with set_to_none=False fill it with zeros."""
        if set_to_none:
            _set_grad(self, None)
        elif self.grad is not None:
            self.grad.fill(0)

    def __array__(self, dtype: np.dtype | None = None, copy: bool | None = None) -> np.ndarray:
        if copy or (dtype is not None and dtype != self.dtype):
            if copy is False:
                raise ValueError(f"Parameter: {self.dtype} data cannot become {dtype} without a copy")
            return self.data.astype(dtype or self.dtype)
        return self.data if isinstance(self.data, np.ndarray) else self.data.__array__()  # the latter says how to copy from the device

    def __reduce__(self) -> tuple:
        """Pickle and deepcopy carry data and requires_grad; a gradient belongs to one training step (torch's Parameter: the same)."""
        return type(self), (self.data, self.requires_grad)

    def __repr__(self) -> str:
        frozen = "" if self.requires_grad else ", requires_grad=False"
        return f"Parameter({by(self.shape)}, {self.dtype}{frozen})"


_set_grad = Parameter.grad.__set__  # type: ignore[attr-defined]  # past __setattr__: twice per parameter in every step
