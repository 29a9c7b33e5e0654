"""NumPy's functions of whole arrays for device arrays (NEP 18): joining, splitting, sums, choosing. What is not here raises TypeError."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ._device import DeviceArray, Shape, blocks, contiguous, empty, flat, is_device, launch, wrap, zeros
from ._memory import SIMULATED, cuda
from .reduction import channel_sums
from .strided import broadcast_to, copied, copy_into, copyto

TILE = 8 if SIMULATED else 256  # elements per block, one per thread


@cuda.jit
def choose(condition, chosen, output):
    """output = chosen where the condition holds."""
    i = cuda.grid(1)
    if i < output.size:
        if condition[i]:
            output[i] = chosen[i]


def concatenate(arrays: Sequence[Any], axis: int = 0) -> DeviceArray:
    arrays = [_on_device("concatenate", array) for array in arrays]
    first = arrays[0]
    axis = _axis(axis, first.ndim)
    for array in arrays:
        if array.ndim != first.ndim or array.shape[:axis] + array.shape[axis + 1 :] != first.shape[:axis] + first.shape[axis + 1 :]:
            raise ValueError(f"concatenate: device arrays of shapes {first.shape} and {array.shape} do not fit along axis {axis}")
    if len(arrays) == 1:
        return first.copy()
    shape = list(first.shape)
    shape[axis] = sum(array.shape[axis] for array in arrays)
    result, start = empty(shape, np.result_type(*(array.dtype for array in arrays))), 0
    for array in arrays:
        end = start + array.shape[axis]
        copy_into(result[(slice(None),) * axis + (slice(start, end),)], array)
        start = end
    return result


def stack(arrays: Sequence[Any], axis: int = 0) -> DeviceArray:
    return concatenate([expand_dims(_on_device("stack", array), axis) for array in arrays], axis)


def split(array: DeviceArray, indices_or_sections: Any, axis: int = 0) -> list[DeviceArray]:
    """Views between the indices along axis, or so many equal ones."""
    axis = _axis(axis, array.ndim)
    size = array.shape[axis]
    if isinstance(indices_or_sections, (int, np.integer)):
        if size % indices_or_sections:
            raise ValueError(f"split: {size} elements along axis {axis} are not divided into {indices_or_sections} equal parts")
        step = size // int(indices_or_sections)
        indices_or_sections = range(step, size, step)
    edges = [0, *map(int, indices_or_sections), size]
    return [array[(slice(None),) * axis + (slice(start, end),)] for start, end in zip(edges, edges[1:], strict=False)]


def moveaxis(array: DeviceArray, source: int, destination: int) -> DeviceArray:
    source, destination = _axis(source, array.ndim), _axis(destination, array.ndim)
    axes = [axis for axis in range(array.ndim) if axis != source]
    axes.insert(destination, source)
    return array.transpose(axes)


def expand_dims(array: DeviceArray, axis: int) -> DeviceArray:
    return array[(slice(None),) * _axis(axis, array.ndim + 1) + (None,)]


def squeeze(array: DeviceArray, axis: Any = None) -> DeviceArray:
    axes = {i for i, n in enumerate(array.shape) if n == 1} if axis is None else set(_axes(axis, array.ndim))
    if any(array.shape[i] != 1 for i in axes):
        raise ValueError(f"squeeze: axes {sorted(axes)} of a device array of shape {array.shape} do not all have one element")
    return array[tuple(0 if i in axes else slice(None) for i in range(array.ndim))]


def sum_(array: Any, axis: Any = None, dtype: Any = None, out: Any = None, keepdims: bool = False) -> DeviceArray:
    """Over all axes, or those given; integers and bools are added as int64. Always in the same order."""
    _no_out("sum", out)
    array = _on_device("sum", array)
    axes = _axes(axis, array.ndim)
    kept = [i for i in range(array.ndim) if i not in axes]
    dtype = np.dtype(dtype if dtype is not None else array.dtype if array.dtype.kind == "f" else np.int64)
    rows = contiguous(array.astype(dtype, copy=False).transpose([*kept, *axes]))
    shape = tuple(array.shape[i] for i in kept)
    sums = channel_sums(rows, math.prod(shape), math.prod(array.shape[i] for i in axes))
    return sums.reshape(tuple(1 if i in axes else n for i, n in enumerate(array.shape)) if keepdims else shape)


def mean(array: Any, axis: Any = None, dtype: Any = None, out: Any = None, keepdims: bool = False) -> DeviceArray:
    _no_out("mean", out)
    array = _on_device("mean", array)
    dtype = np.dtype(dtype if dtype is not None else array.dtype if array.dtype.kind == "f" else np.float64)
    count = math.prod(array.shape[i] for i in _axes(axis, array.ndim))
    return sum_(array, axis, dtype, keepdims=keepdims) / count


def where(condition: Any, *values: Any) -> DeviceArray:
    """values[0] where the condition, a mask, holds, else values[1]; arrays on the device, or numbers."""
    if len(values) != 2:
        raise TypeError("where: the places of a condition on the device are not counted: give two values, or copy it with fastcnn.to_host")
    condition = _on_device("where", condition)
    if condition.dtype != bool:
        raise TypeError(f"where: condition must be bool, got {condition.dtype}")
    arrays = [_on_device("where", value) for value in values if is_device(value) or isinstance(value, np.ndarray)]
    dtype = np.result_type(*(array.dtype for array in arrays), *(value for value in values if not is_device(value)))
    shape = np.broadcast_shapes(condition.shape, *(array.shape for array in arrays))
    chosen, output = (
        copied(broadcast_to(wrap(value), shape), dtype) if is_device(value) else full_like(condition, value, dtype, shape=shape) for value in values
    )
    launch(choose, blocks(output.size, TILE), TILE, flat(contiguous(broadcast_to(condition, shape))), flat(chosen), flat(output))
    return output


def _like(array: DeviceArray, dtype: Any, shape: Any) -> tuple[Shape, np.dtype]:
    shape = array.shape if shape is None else (shape,) if isinstance(shape, int) else tuple(shape)
    return shape, array.dtype if dtype is None else np.dtype(dtype)


def zeros_like(array: DeviceArray, dtype: Any = None, order: str = "K", subok: bool = True, shape: Any = None) -> DeviceArray:
    return zeros(*_like(array, dtype, shape))


def ones_like(array: DeviceArray, dtype: Any = None, order: str = "K", subok: bool = True, shape: Any = None) -> DeviceArray:
    return full_like(array, 1, dtype, order, subok, shape)


def empty_like(array: DeviceArray, dtype: Any = None, order: str = "K", subok: bool = True, shape: Any = None) -> DeviceArray:
    return empty(*_like(array, dtype, shape))


def full_like(array: DeviceArray, fill_value: float, dtype: Any = None, order: str = "K", subok: bool = True, shape: Any = None) -> DeviceArray:
    result = empty_like(array, dtype, order, subok, shape)
    result.fill(fill_value)
    return result


def _on_device(function: str, value: Any) -> DeviceArray:
    if not is_device(value):
        raise TypeError(f"{function}: one array is on the device, but a {type(value).__name__} is not: copy it with fastcnn.to_device")
    return wrap(value)


def _no_out(function: str, out: Any) -> None:
    if out is not None:
        raise TypeError(f"{function}: out is not supported for device arrays")


def _axis(axis: Any, ndim: int) -> int:
    if not isinstance(axis, (int, np.integer)) or not -ndim <= axis < ndim:
        raise ValueError(f"axis {axis} is out of bounds for a device array of {ndim} axes")
    return int(axis) % ndim


def _axes(axis: Any, ndim: int) -> list[int]:
    """The axes that an axis argument names, in order."""
    if axis is None:
        return list(range(ndim))
    axes = [_axis(one, ndim) for one in (axis if isinstance(axis, (tuple, list)) else (axis,))]
    if len(set(axes)) < len(axes):
        raise ValueError(f"axis {axis} names an axis twice")
    return sorted(axes)


FUNCTIONS = {
    np.broadcast_to: lambda array, shape, subok=False: broadcast_to(array, shape),
    np.concatenate: concatenate,
    np.copyto: copyto,
    np.empty_like: empty_like,
    np.expand_dims: expand_dims,
    np.full_like: full_like,
    np.mean: mean,
    np.moveaxis: moveaxis,
    np.ndim: lambda array: array.ndim,
    np.ones_like: ones_like,
    np.ravel: lambda array: array.ravel(),
    np.reshape: lambda array, shape: array.reshape(shape),
    np.shape: lambda array: array.shape,
    np.split: split,
    np.squeeze: squeeze,
    np.stack: stack,
    np.sum: sum_,
    np.transpose: lambda array, axes=None: array.transpose(*axes) if axes is not None else array.transpose(),
    np.where: where,
    np.zeros_like: zeros_like,
}

KERNELS = [("choose", choose, "void(boolean[::1], float32[::1], float32[::1])")]
