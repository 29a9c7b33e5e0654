"""layout="NHWC": arrays whose channels come last, (N, H, W, C), with weights (KH, KW, C/groups, O).

An NHWC array in C order is the memory of a channels-last (N, C, H, W) array, which every op reads and writes in place: what happens here are changes of
shape and strides. Only an NHWC array that is not in C order is copied.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..backend import current
from ..options import choice
from ..shapes import ShapeError
from ._check import array, contiguous, shape_text

LAYOUTS = ("NCHW", "NHWC")
_NO_WEIGHT = object()


def from_nhwc(value: Any, op: str, name: str) -> np.ndarray:
    """(N, H, W, C) or (H, W, C) as a view (N, C, H, W) or (C, H, W)."""
    value = value if getattr(value, "dtype", None) == np.int64 else array(value, op, name)
    if value.ndim not in (3, 4):
        raise ShapeError(f"{op}: {name} must be 4-D (N, H, W, C) or 3-D (H, W, C), got {value.ndim}-D {shape_text(value.shape)}")
    if not value.flags.c_contiguous:
        value = value.copy(order="C")
    return value.transpose(0, 3, 1, 2) if value.ndim == 4 else value.transpose(2, 0, 1)


def to_nhwc(value: np.ndarray) -> np.ndarray:
    """(N, C, H, W) or (C, H, W) as (N, H, W, C) or (H, W, C) in C order."""
    single = value.ndim == 3
    value = value[None] if single else value
    last = value.transpose(0, 2, 3, 1)
    if not last.flags.c_contiguous:  # an input of one channel or one pixel has both formats, and its result is in the other one
        last = last.copy(order="C") if value.dtype.kind == "i" else current().channels_last(value).transpose(0, 2, 3, 1)
    return last[0] if single else last


def in_nhwc(function: Callable, op: str, layout: Any, arrays: dict[str, Any], weight: Any = _NO_WEIGHT, **options: Any) -> Any:
    """function(**arrays, **options), the arrays and its results being NHWC; weight, where given, and its gradient are (KH, KW, C/groups, O)."""
    choice(layout, op, "layout", LAYOUTS)
    views = {name: None if value is None else from_nhwc(value, op, name) for name, value in arrays.items()}
    weighted = weight is not _NO_WEIGHT
    if weighted:
        weight = array(weight, op, "weight")
        if weight.ndim != 4:
            raise ShapeError(f"{op}: weight must be 4-D (KH, KW, C/groups, O), got {weight.ndim}-D {shape_text(weight.shape)}")
        options["weight"] = weight.transpose(3, 2, 0, 1)
    try:
        result = function(**views, **options)
    except ShapeError as error:
        raise ShapeError(f"{error} (shapes of layout {layout!r} are shown as N, C, H, W{' and O, C, KH, KW' if weighted else ''})") from None
    if not isinstance(result, tuple):
        return to_nhwc(result)
    if not weighted:
        return tuple(to_nhwc(value) for value in result)
    grad_input, grad_weight, grad_bias = result
    return (
        None if grad_input is None else to_nhwc(grad_input),
        None if grad_weight is None else contiguous(grad_weight.transpose(2, 3, 1, 0)),
        grad_bias,
    )
