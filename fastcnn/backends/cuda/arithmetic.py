"""What the library does with arrays outside of its ops, on the device: copies of views, sums and products of two arrays, joining and splitting.

Strided arrays have at most six axes here. A kernel sees the memory as one axis, and sizes and strides (in elements) as tuples of six numbers, the first ones
1 and 0 where there are fewer axes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ._device import DeviceArray, Shape, blocks, contiguous, empty, flat, is_device, launch, wrap, zeros
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


@cuda.jit
def affine_flat(input, output, scale, shift):
    """output = input*scale + shift."""
    i = cuda.grid(1)
    if i < output.size:
        output[i] = input[i] * scale + shift


@cuda.jit
def blend_flat(output, share, other, other_share):
    """output = share*output + other_share*other."""
    i = cuda.grid(1)
    if i < output.size:
        output[i] = share * output[i] + other_share * other[i]


def _binary_kernels(name: str, function: Any) -> tuple[Any, Any]:
    """(kernel over flat arrays, kernel over strided ones) for output = function(a, b)."""
    of_two = cuda.jit(device=True)(function)

    def flat_kernel(a, b, output):
        i = cuda.grid(1)
        if i < output.size:
            output[i] = of_two(a[i], b[i])

    def strided_kernel(a, a_strides, b, b_strides, output, output_strides, shape, count):
        i = cuda.grid(1)
        if i < count:
            output[place(i, shape, output_strides)] = of_two(a[place(i, shape, a_strides)], b[place(i, shape, b_strides)])

    flat_kernel.__name__, strided_kernel.__name__ = f"{name}_flat", f"{name}_strided"
    return cuda.jit(flat_kernel), cuda.jit(strided_kernel)


ADD = _binary_kernels("add", lambda a, b: a + b)
SUBTRACT = _binary_kernels("subtract", lambda a, b: a - b)
MULTIPLY = _binary_kernels("multiply", lambda a, b: a * b)
DIVIDE = _binary_kernels("divide", lambda a, b: a / b)

UFUNCS = {np.add: ADD, np.subtract: SUBTRACT, np.multiply: MULTIPLY, np.true_divide: DIVIDE}


# --- views as kernels see them ------------------------------------------------------------------------------------------------------


def _six(values: Sequence[int], first: int) -> Shape:
    if len(values) > AXES:
        raise TypeError(f"device arrays of {len(values)} axes cannot be copied or added, {AXES} are the most")
    return (first,) * (AXES - len(values)) + tuple(values)


def _memory_and_strides(array: DeviceArray) -> tuple[DeviceArray, Shape]:
    """The memory from the first to the last element as one axis, and the strides in elements."""
    itemsize = array.itemsize
    if any(stride % itemsize for stride in array.strides):
        raise TypeError(f"strides {array.strides} of a device array are no multiples of its {itemsize} bytes per element")
    extent = 1 + sum((n - 1) * stride // itemsize for n, stride in zip(array.shape, array.strides, strict=True))
    return DeviceArray(array.pointer, (extent,), (itemsize,), array.dtype, array.owner), _six([stride // itemsize for stride in array.strides], 0)


def broadcast_to(array: DeviceArray, shape: Any) -> DeviceArray:
    """A view with stride 0 along the axes that are repeated."""
    shape = (shape,) if isinstance(shape, int) else tuple(shape)
    missing = len(shape) - array.ndim
    if missing < 0 or any(have not in (1, want) for have, want in zip(array.shape, shape[missing:], strict=True)):
        raise ValueError(f"a device array of shape {array.shape} does not broadcast to {shape}")
    own = [0 if have != want else stride for have, want, stride in zip(array.shape, shape[missing:], array.strides, strict=True)]
    return array._view(shape, (0,) * missing + tuple(own))


# --- copies -------------------------------------------------------------------------------------------------------------------------


def _copy_into(target: DeviceArray, source: DeviceArray) -> None:
    """target = source, of the same shape."""
    if not target.size:
        return
    if target.flags.c_contiguous and source.flags.c_contiguous:
        launch(copy_flat, blocks(target.size, TILE), TILE, flat(source), flat(target))
        return
    memory, strides = _memory_and_strides(source)
    target_memory, target_strides = _memory_and_strides(target)
    launch(copy_strided, blocks(target.size, TILE), TILE, memory, strides, target_memory, target_strides, _six(target.shape, 1), target.size)


def copied(array: DeviceArray, dtype: np.dtype) -> DeviceArray:
    """A C-contiguous copy of that dtype."""
    result = empty(array.shape, dtype)
    _copy_into(result, array)
    return result


def assign(target: DeviceArray, value: Any) -> None:
    """target[...] = value: a number, a device array that broadcasts, or a host array."""
    if isinstance(value, (bool, int, float, np.generic)):
        if target.size:
            memory, strides = _memory_and_strides(target)
            launch(fill_strided, blocks(target.size, TILE), TILE, memory, strides, _six(target.shape, 1), target.size, target.dtype.type(value))
        return
    if isinstance(value, np.ndarray):
        from ._device import to_device

        value = to_device(value)
    _copy_into(target, broadcast_to(wrap(value), target.shape))


def copyto(target: Any, source: Any, casting: str = "same_kind") -> None:
    """numpy.copyto, the target on the device."""
    if not isinstance(target, DeviceArray):
        raise TypeError("numpy.copyto from a device array: use fastcnn.to_host")
    if not np.can_cast(source.dtype, target.dtype, casting=casting):
        raise TypeError(f"cannot cast a device array from {source.dtype} to {target.dtype} according to the rule {casting!r}")
    assign(target, source)


# --- arithmetic ---------------------------------------------------------------------------------------------------------------------



def _affine(kernels: tuple, a: Any, b: Any) -> tuple[DeviceArray, float, float]:
    """(array, scale, shift) of a op b, one of them a number."""
    array, number, array_first = (a, b, True) if isinstance(a, DeviceArray) else (b, a, False)
    number = float(number)
    if kernels is ADD:
        return array, 1.0, number
    if kernels is SUBTRACT:
        return (array, 1.0, -number) if array_first else (array, -1.0, number)
    if kernels is MULTIPLY:
        return array, number, 0.0
    if not array_first:
        raise TypeError("a number divided by a device array is not implemented")
    return array, 1 / number, 0.0


def binary(kernels: tuple, a: Any, b: Any, out: DeviceArray | None = None) -> DeviceArray:
    """a op b for two device arrays that broadcast, or one and a number. The dtype is the floating-point operand's, the wider one's of two."""
    if any(isinstance(value, np.ndarray) and value.ndim for value in (a, b)):
        raise TypeError("one operand is a host array, the other one is on the device: copy it with fastcnn.to_device")
    if not (is_device(a) and is_device(b)):
        array, scale, shift = _affine(kernels, a, b)
        result = empty(array.shape, array.dtype) if out is None else out
        kind, target = array.dtype.type, result if result.flags.c_contiguous else empty(array.shape, array.dtype)
        launch(affine_flat, blocks(array.size, TILE), TILE, flat(array), flat(target), kind(scale), kind(shift))
        if target is not result:
            _copy_into(result, target)
        return result
    a, b = wrap(a), wrap(b)
    shape = np.broadcast_shapes(a.shape, b.shape)
    if out is None:
        out = empty(shape, np.result_type(a.dtype, b.dtype))
    elif out.shape != shape:
        raise ValueError(f"operands of shapes {a.shape} and {b.shape} do not fit into an output of shape {out.shape}")
    if not out.size:
        return out
    if a.shape == b.shape and a.flags.c_contiguous and b.flags.c_contiguous and out.flags.c_contiguous:
        launch(kernels[0], blocks(out.size, TILE), TILE, flat(a), flat(b), flat(out))
        return out
    (a_memory, a_strides), (b_memory, b_strides) = (_memory_and_strides(broadcast_to(value, shape)) for value in (a, b))
    out_memory, out_strides = _memory_and_strides(out)
    launch(
        kernels[1], blocks(out.size, TILE), TILE, a_memory, a_strides, b_memory, b_strides, out_memory, out_strides, _six(shape, 1), out.size
    )  # fmt: skip
    return out


def blend(target: DeviceArray, share: float, other: DeviceArray, other_share: float) -> None:
    kind, other = target.dtype.type, contiguous(wrap(other))
    if not target.flags.c_contiguous:
        raise ValueError("blend changes C-contiguous device arrays only")
    launch(blend_flat, blocks(target.size, TILE), TILE, flat(target), kind(share), flat(other), kind(other_share))


# --- NumPy's functions --------------------------------------------------------------------------------------------------------------


def concatenate(arrays: Sequence[Any], axis: int = 0) -> DeviceArray:
    arrays = [wrap(array) for array in arrays]
    axis %= arrays[0].ndim
    if len(arrays) == 1:
        return arrays[0].copy()
    shape = list(arrays[0].shape)
    shape[axis] = sum(array.shape[axis] for array in arrays)
    result, start = empty(shape, np.result_type(*(array.dtype for array in arrays))), 0
    for array in arrays:
        end = start + array.shape[axis]
        _copy_into(result[(slice(None),) * axis + (slice(start, end),)], array)
        start = end
    return result


def split(array: DeviceArray, indices: Any, axis: int = 0) -> list[DeviceArray]:
    """Views between the indices along axis."""
    edges = [0, *map(int, indices), array.shape[axis]]
    return [array[(slice(None),) * (axis % array.ndim) + (slice(start, end),)] for start, end in zip(edges, edges[1:], strict=False)]


def moveaxis(array: DeviceArray, source: int, destination: int) -> DeviceArray:
    source, destination = source % array.ndim, destination % array.ndim
    axes = [axis for axis in range(array.ndim) if axis != source]
    axes.insert(destination, source)
    return array.transpose(axes)


def _like(array: DeviceArray, dtype: Any, shape: Any) -> tuple[Shape, np.dtype]:
    return array.shape if shape is None else tuple(shape), array.dtype if dtype is None else np.dtype(dtype)


def zeros_like(array: DeviceArray, dtype: Any = None, order: str = "K", subok: bool = True, shape: Any = None) -> DeviceArray:
    return zeros(*_like(array, dtype, shape))


def ones_like(array: DeviceArray, dtype: Any = None, order: str = "K", subok: bool = True, shape: Any = None) -> DeviceArray:
    return full_like(array, 1, dtype, order, subok, shape)


def full_like(array: DeviceArray, fill_value: float, dtype: Any = None, order: str = "K", subok: bool = True, shape: Any = None) -> DeviceArray:
    result = empty(*_like(array, dtype, (shape,) if isinstance(shape, int) else shape))
    result.fill(fill_value)
    return result


FUNCTIONS = {
    np.broadcast_to: lambda array, shape, subok=False: broadcast_to(array, shape),
    np.concatenate: concatenate,
    np.copyto: copyto,
    np.full_like: full_like,
    np.moveaxis: moveaxis,
    np.ndim: lambda array: array.ndim,
    np.ones_like: ones_like,
    np.shape: lambda array: array.shape,
    np.split: split,
    np.zeros_like: zeros_like,
}

_F1, _S6 = "float32[::1]", "UniTuple(int64, 6)"
KERNELS = [
    ("copy_flat", copy_flat, f"void({_F1}, {_F1})"),
    ("copy_strided", copy_strided, f"void({_F1}, {_S6}, {_F1}, {_S6}, {_S6}, int64)"),
    ("fill_strided", fill_strided, f"void({_F1}, {_S6}, {_S6}, int64, float32)"),
    ("affine_flat", affine_flat, f"void({_F1}, {_F1}, float32, float32)"),
    ("blend_flat", blend_flat, f"void({_F1}, float32, {_F1}, float32)"),
    ("add_flat", ADD[0], f"void({_F1}, {_F1}, {_F1})"),
    ("add_strided", ADD[1], f"void({_F1}, {_S6}, {_F1}, {_S6}, {_F1}, {_S6}, {_S6}, int64)"),
]
