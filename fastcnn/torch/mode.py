"""use(): fastcnn under the functions of torch.nn.functional, for code that calls them by itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as theirs
from torch.overrides import TorchFunctionMode

from fastcnn.torch import functions

TAKEN: dict[Callable[..., Any], Callable[..., Any]] = {
    theirs.conv2d: functions.conv2d,  # torch.conv2d is the same object
    theirs.max_pool2d: functions.max_pool2d,
    torch.max_pool2d: functions.max_pool2d,
    theirs.avg_pool2d: functions.avg_pool2d,
    theirs.unfold: functions.unfold,
    theirs.batch_norm: functions.batch_norm,
}


class use(TorchFunctionMode):  # a context manager to its callers, who write fastcnn.torch.use()
    """`with fastcnn.torch.use():` lets fastcnn compute F.conv2d, F.max_pool2d, F.avg_pool2d, F.unfold and F.batch_norm inside, wherever they are called
    from: by hand, by nn.Conv2d, in a library. It belongs to the thread. Every other operation of PyTorch costs about a microsecond more inside.

    backward may be called inside or outside: what was computed by fastcnn has fastcnn's gradient.
    """

    def __torch_function__(self, function: Callable[..., Any], types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None) -> Any:
        return TAKEN.get(function, function)(*args, **(kwargs or {}))
