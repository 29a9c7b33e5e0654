"""Strided arrays: how a kernel finds their elements, copies of views, assignment, broadcasting.

They have at most six axes here. A kernel sees the memory as one axis, and sizes and strides (in elements) as tuples of six numbers, the first ones 1 and 0
where there are fewer axes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ._device import DeviceArray, Shape, blocks, empty, flat, launch, to_device, wrap
from ._memory import SIMULATED, cuda

TILE = 8 if SIMULATED else 256  # elements per block, one per thread
AXES = 6


@cuda.jit(device=True)
def place(i, shape, strides):
    """Where element i of the C order lies: i is taken apart into indices, the last axis first."""
    index = 0
    for axis in range(AXES - 1, -1, -1):
        index += i % shape[axis] * strides[axis]
        i //= shape[axis]
    return index


@cuda.jit
def copy_flat(input, output):
    i = cuda.grid(1)
    if i < output.size:
        output[i] = input[i]


@cuda.jit
def copy_strided(input, input_strides, output, output_strides, shape, count):
    """output = input, element by element in the order of shape; stride 0 broadcasts."""
    i = cuda.grid(1)
    if i < count:
        output[place(i, shape, output_strides)] = input[place(i, shape, input_strides)]


@cuda.jit
def fill_strided(output, output_strides, shape, count, value):
    i = cuda.grid(1)
    if i < count:
        output[place(i, shape, output_strides)] = value


# --- views as kernels see them ------------------------------------------------------------------------------------------------------


def six(values: Sequence[int], first: int) -> Shape:
    if len(values) > AXES:
        raise TypeError(f"device arrays of {len(values)} axes cannot be copied or added, {AXES} are the most")
    return (first,) * (AXES - len(values)) + tuple(values)


def memory_and_strides(array: DeviceArray) -> tuple[DeviceArray, Shape]:
    """The memory from the first to the last element as one axis, and the strides in elements."""
    itemsize = array.itemsize
    if any(stride % itemsize for stride in array.strides):
        raise TypeError(f"strides {array.strides} of a device array are no multiples of its {itemsize} bytes per element")
    extent = 1 + sum((n - 1) * stride // itemsize for n, stride in zip(array.shape, array.strides, strict=True))
    return DeviceArray(array.pointer, (extent,), (itemsize,), array.dtype, array.owner), six([stride // itemsize for stride in array.strides], 0)


def broadcast_to(array: DeviceArray, shape: Any) -> DeviceArray:
    """A view with stride 0 along the axes that are repeated."""
    shape = (shape,) if isinstance(shape, int) else tuple(shape)
    missing = len(shape) - array.ndim
    if missing < 0 or any(have not in (1, want) for have, want in zip(array.shape, shape[missing:], strict=True)):
        raise ValueError(f"a device array of shape {array.shape} does not broadcast to {shape}")
    own = [0 if have != want else stride for have, want, stride in zip(array.shape, shape[missing:], array.strides, strict=True)]
    return array._view(shape, (0,) * missing + tuple(own))


# --- copies -------------------------------------------------------------------------------------------------------------------------


def check_writeable(target: DeviceArray) -> None:
    """ValueError, as NumPy's, for memory that its owner does not want changed."""
    if not target.flags.writeable:
        raise ValueError(f"a device array of shape {target.shape} is read-only: its memory belongs to a {type(target.owner).__name__}, copy it first")


def apart(source: DeviceArray, target: DeviceArray) -> DeviceArray:
    """source, or a copy of it where a kernel that writes to target could read what it has just written: they overlap without being the same view."""
    if source.pointer == target.pointer and source.shape == target.shape and source.strides == target.strides:
        return source
    first, last = (
        (array.pointer, array.pointer + sum((n - 1) * stride for n, stride in zip(array.shape, array.strides, strict=True)) + array.itemsize)
        for array in (source, target)
    )
    return source.copy() if source.size and target.size and first[0] < last[1] and last[0] < first[1] else source


def copy_into(target: DeviceArray, source: DeviceArray) -> None:
    """target = source, of the same shape. The two may overlap."""
    if not target.size:
        return
    source = apart(source, target)
    if target.flags.c_contiguous and source.flags.c_contiguous:
        launch(copy_flat, blocks(target.size, TILE), TILE, flat(source), flat(target))
        return
    memory, strides = memory_and_strides(source)
    target_memory, target_strides = memory_and_strides(target)
    launch(copy_strided, blocks(target.size, TILE), TILE, memory, strides, target_memory, target_strides, six(target.shape, 1), target.size)


def copied(array: DeviceArray, dtype: np.dtype) -> DeviceArray:
    """A C-contiguous copy of that dtype."""
    result = empty(array.shape, dtype)
    copy_into(result, array)
    return result


def assign(target: DeviceArray, value: Any) -> None:
    """target[...] = value: a number, a device array that broadcasts, or a host array."""
    check_writeable(target)
    if isinstance(value, (bool, int, float, np.generic)):
        if target.size:
            memory, strides = memory_and_strides(target)
            launch(fill_strided, blocks(target.size, TILE), TILE, memory, strides, six(target.shape, 1), target.size, target.dtype.type(value))
        return
    value = to_device(value) if isinstance(value, np.ndarray) else wrap(value)
    copy_into(target, broadcast_to(value, target.shape))


def copyto(target: Any, source: Any, casting: str = "same_kind") -> None:
    """numpy.copyto, the target on the device."""
    if not isinstance(target, DeviceArray):
        raise TypeError("numpy.copyto from a device array: use fastcnn.to_host")
    if not np.can_cast(source.dtype, target.dtype, casting=casting):
        raise TypeError(f"cannot cast a device array from {source.dtype} to {target.dtype} according to the rule {casting!r}")
    assign(target, source)


_F1, _S6 = "float32[::1]", "UniTuple(int64, 6)"
KERNELS = [
    ("copy_flat", copy_flat, f"void({_F1}, {_F1})"),
    ("copy_strided", copy_strided, f"void({_F1}, {_S6}, {_F1}, {_S6}, {_S6}, int64)"),
    ("fill_strided", fill_strided, f"void({_F1}, {_S6}, {_S6}, int64, float32)"),
]
