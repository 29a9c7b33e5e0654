"""Looking at what passes between the layers of a model: watching(), and layer_outputs() for one forward pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np

from fastcnn.backend import place, to_host


class LayerOutput(NamedTuple):
    """What one layer (a module without children) gave. path is "" where the model itself is that layer."""

    path: str
    kind: str
    output: np.ndarray


@contextmanager
def watching(model: Any, method: str, see: Callable[[str, Any, Any], None]) -> Iterator[None]:
    """Inside, see(path, module, result) is called whenever a module's method ("forward" or "backward") ends: a layer before its container.

    The layers are called one by one then; plans, which call none, are not watched.
    """
    modules = list(model.named_modules())

    def watched(path: str, module: Any, run: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            result = run(*arguments, **options)
            see(path, module, result)
            return result

        return call

    for path, module in modules:
        vars(module)[method] = watched(path, module, getattr(module, method))  # found before the class's, and gone without a trace afterwards
    try:
        yield
    finally:
        for _, module in modules:
            vars(module).pop(method, None)


def layer_outputs(model: Any, x: np.ndarray) -> list[LayerOutput]:
    """Every layer's output for a batch, in the order of computation, in evaluation mode; the model's modes are as before afterwards."""
    training = [(module, module.training) for module in model.modules()]
    found: list[LayerOutput] = []

    def see(path: str, module: Any, output: Any) -> None:
        if not any(True for _ in module.children()):
            found.append(LayerOutput(path, type(module).__name__, np.array(to_host(output))))

    model.eval()
    try:
        with watching(model, "forward", see):
            model(place(x))
    finally:
        for module, mode in training:
            module.training = mode
    return found
