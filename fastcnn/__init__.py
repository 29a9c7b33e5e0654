"""fastcnn: a CNN engine for people who learn, teach and build with NumPy.

    import fastcnn
    from fastcnn import nn

    data = fastcnn.datasets.digits()
    model = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(72, 10))
    history = fastcnn.fit(model, data.train, data.test, epochs=10, seed=0)

`fastcnn.functional` holds the operations under torch.nn.functional's names, each with an explicit `<name>_backward`; `fastcnn.nn` the layers;
`fastcnn.backends.reference` the same operations in readable NumPy.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from . import functional, metrics, nn, optim, schedule, shapes
from .backend import (
    allow_tf32,
    available,
    get_num_threads,
    recording,
    set_backend,
    set_num_threads,
    show_config,
    to_device,
    to_host,
    use_algorithm,
    use_backend,
)
from .explain import explain
from .functional import col2im, im2col
from .gradcheck import gradcheck
from .random import manual_seed
from .shapes import ShapeError
from .summary import summary

if TYPE_CHECKING:
    from . import datasets, plots, recipes, train
    from .train import Trainer, fit

__version__ = "0.1.0"

# Loaded when first asked for: they are not needed to compute, and importing the package stays cheap.
_LAZY = {"datasets": "datasets", "plots": "plots", "recipes": "recipes", "torch": "torch", "train": "train", "Trainer": "train", "fit": "train"}

__all__ = [
    "ShapeError", "Trainer", "allow_tf32", "available", "col2im", "datasets", "explain", "fit", "functional", "get_num_threads", "gradcheck", "im2col",
    "manual_seed", "metrics", "nn", "optim", "plots",
    "recipes", "recording", "schedule", "set_backend", "set_num_threads", "shapes", "show_config", "summary",
    "to_device", "to_host", "train", "use_algorithm", "use_backend",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'fastcnn' has no attribute {name!r}")
    module = import_module(f"fastcnn.{_LAZY[name]}")
    value = module if _LAZY[name] == name else getattr(module, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY} - {"torch"})  # whoever looks at all names (help, completion) must not need PyTorch for it
