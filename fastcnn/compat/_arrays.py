"""The one place where dtypes are mixed: coursework feeds float64 images to float32 weights, and integers happen."""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import functional
from ..backend import current
from ..shapes import ShapeError, by

F32, F64 = np.dtype(np.float32), np.dtype(np.float64)


def common(op: str, *arrays: Any) -> list[np.ndarray]:
    """The arrays in np.result_type of them all, or themselves where that changes nothing.

    Integers and bools alone become float64, as they do in NumPy's arithmetic with floats; float16 is computed in float32. Lists are accepted.
    Raises TypeError, naming op, for what is neither a real number nor at most 64 bits wide.
    """
    first = arrays[0]
    if type(first) is np.ndarray:
        dtype = first.dtype
        if dtype is F64 or dtype is F32:
            for array in arrays:
                if type(array) is not np.ndarray or array.dtype is not dtype:
                    break
            else:
                return list(arrays)
    return _promoted(op, arrays)


def _promoted(op: str, arrays: tuple[Any, ...]) -> list[np.ndarray]:
    found = [array if isinstance(array, np.ndarray) else np.asarray(array) for array in arrays]
    for array in found:
        if array.dtype.kind not in "biuf" or array.dtype.itemsize > 8:
            raise TypeError(f"{op}: takes real numbers of at most 64 bits, got an array of {array.dtype}")
    dtype = np.result_type(*(array.dtype for array in found))
    dtype = F64 if dtype.kind in "biu" or dtype.itemsize == 8 else F32
    return [array if array.dtype == dtype else array.astype(dtype) for array in found]


def class_numbers(op: str, name: str, values: Any, scores: np.ndarray) -> np.ndarray:
    """One class number for each row of scores (N, C): NumPy's indexing would take -1 for the last class, and one number for all rows."""
    values = np.asarray(values)
    if scores.ndim != 2:
        raise ShapeError(f"{op}: scores must be (N, C), got {scores.ndim} axes ({by(scores.shape) or 'a scalar'})")
    N, classes = scores.shape
    if values.dtype.kind not in "iu":
        raise TypeError(f"{op}: {name} must hold class numbers (integers), got {values.dtype}")
    if values.shape != (N,):
        raise ShapeError(f"{op}: {name} has shape {by(values.shape) or 'scalar'} but there are {N} rows of scores: expected {N}")
    wrong = values[(values < 0) | (values >= classes)]
    if wrong.size:
        raise ValueError(f"{op}: {name} holds {wrong[0]} but there are {classes} classes, 0 to {classes - 1}")
    return values


def _algorithm(dtype: np.dtype) -> str | None:
    """Always direct: identical patches give identical bits, so that ties in a max pooling that follows stay ties. float64 and the reference have no other."""
    return "direct" if dtype == F32 and current().name == "cpu" else None


def conv2d(input: np.ndarray, weight: np.ndarray, bias: Any, stride: Any, padding: Any, layout: str = "NCHW") -> np.ndarray:
    """functional.conv2d by the direct algorithm."""
    return functional.conv2d(input, weight, bias, stride, padding, algorithm=_algorithm(input.dtype), layout=layout)


def conv2d_backward(
    grad_output: np.ndarray,
    input: np.ndarray,
    weight: np.ndarray,
    bias: np.ndarray | None,
    stride: Any,
    padding: Any,
    *,
    need_dx: bool = True,
    layout: str = "NCHW",
) -> tuple[np.ndarray | None, np.ndarray, np.ndarray]:
    """(grad_input or None, grad_weight, grad_bias in bias' shape) by the direct algorithm."""
    return functional.conv2d_backward(
        grad_output,
        input,
        weight,
        bias=bias,
        stride=stride,
        padding=padding,
        need_dx=need_dx,
        algorithm=_algorithm(input.dtype),
        layout=layout,
    )
