"""Which layer it was that made the first number that is not finite."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from fastcnn.backend import to_host
from fastcnn.watch import watching


class NotFinite(NamedTuple):
    """The first array that held NaN or an infinity.

    what   "input", "parameter", "output", "loss" or "gradient" (the one that a layer hands on to what is before it, or that of a parameter)
    path   of the layer, or of the parameter; "" for the model itself
    kind   class of the layer or loss
    count  so many of its `size` values are not finite
    """

    what: str
    path: str
    kind: str
    count: int
    size: int

    def __str__(self) -> str:
        share = f"{self.count:,} of {self.size:,} values"
        if self.what == "input":
            return f"the batch itself holds NaN or infinities ({share})"
        if self.what == "loss":
            return f"every layer's output is finite, {self.kind} made of them one that is not"
        layer = f"layer {self.path} ({self.kind})" if self.path else f"the model ({self.kind})"
        if self.what == "parameter":
            return f"{self.path} of {self.kind} is not finite since an earlier update ({share}), and nothing with a gradient after it is"
        return f"the first {self.what} that is not finite is that of {layer} ({share})"


def first_not_finite(model: Any, x: np.ndarray, loss: Any = None, y: Any = None) -> NotFinite | None:
    """Run a batch forward layer by layer, then the loss, then backward, and say where the first number came up that is not finite; None: nowhere.

    Without loss and y the forward pass only. Parameters are looked at first: a gradient that was not finite has spoilt those of its layer and of the
    layers before it, so it came up at the last of them. Layers draw random numbers and move running statistics as in any step; parameters keep their
    values, their gradients are lost.
    """
    if bad := _bad(x):
        return NotFinite("input", "", "", *bad)
    if parameter := _parameter(model):
        return parameter
    found: list[NotFinite] = []  # in the order in which the modules end: a layer before its container

    def see(what: str, path: str, module: Any, arrays: list[Any]) -> None:
        bad = next((bad for bad in map(_bad, arrays) if bad), None)
        if bad:
            found.append(NotFinite(what, path, type(module).__name__, *bad))

    with watching(model, "forward", lambda path, module, output: see("output", path, module, [output])), np.errstate(all="ignore"):
        output = model(x)
    if found or loss is None:
        return found[0] if found else None
    with np.errstate(all="ignore"):
        value = loss(output, y)
    if bad := _bad(value):
        return NotFinite("loss", "", type(loss).__name__, *bad)
    model.zero_grad()

    def see_gradients(path: str, module: Any, grad_input: Any) -> None:
        own = [value.grad for value in vars(module).values() if getattr(value, "requires_grad", False)]
        see("gradient", path, module, [array for array in (grad_input, *own) if array is not None])

    with watching(model, "backward", see_gradients), np.errstate(all="ignore"):
        gradient = loss.backward()
        if bad := _bad(gradient):
            return NotFinite("gradient", "", type(loss).__name__, *bad)
        model.backward(gradient)
    return found[0] if found else None


def _parameter(model: Any) -> NotFinite | None:
    """The last parameter, in the order of the layers, that is not finite."""
    owners = [
        (f"{prefix}.{name}" if prefix else name, module, value.data)
        for prefix, module in model.named_modules()
        for name, value in vars(module).items()
        if hasattr(value, "requires_grad") and hasattr(value, "data")
    ]
    for path, module, data in reversed(owners):
        if bad := _bad(data):
            return NotFinite("parameter", path, type(module).__name__, *bad)
    return None


def _bad(array: Any) -> tuple[int, int] | None:
    """(values that are not finite, all values), or None where every one is."""
    array = np.asarray(to_host(array))
    if array.dtype.kind != "f":
        return None
    count = array.size - int(np.count_nonzero(np.isfinite(array)))
    return (count, array.size) if count else None
