"""DeviceArray: a strided array in the GPU's memory, and what kernels are launched with.

A DeviceArray has ndarray's names for what the library does with arrays outside of its ops: shapes, views, copies, sums of two arrays. NumPy's own functions
find them here too (np.add, np.concatenate, ...; NEP 13 and 18). Whatever would need the numbers on the host raises TypeError: only `to_host`, float() and
int() copy.

Kernels see C-contiguous arrays only: `contiguous(x)` makes one, `flat(x)` is it as one axis. A launch looks like this:

    TILE = 256

    @cuda.jit
    def relu(input, output):
        i = cuda.grid(1)
        if i < input.size:
            output[i] = max(input[i], 0)

    launch(relu, blocks(input.size, TILE), TILE, flat(input), flat(output))
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np
from numpy.lib.mixins import NDArrayOperatorsMixin

from . import _memory
from ._memory import SIMULATED, cuda, download, take, upload

if SIMULATED:
    import ctypes

    from numba.cuda.simulator.cudadrv.devicearray import FakeCUDAArray

Shape = tuple[int, ...]
DEFAULT_STREAM = 1  # its name in the CUDA array interface: who uses another stream has to wait for what was asked for in this one


def c_strides(shape: Sequence[int], itemsize: int) -> Shape:
    """Strides in bytes of a C-contiguous array."""
    strides, step = [], itemsize
    for n in reversed(shape):
        strides.append(step)
        step *= max(n, 1)
    return tuple(reversed(strides))


def is_contiguous(shape: Sequence[int], strides: Sequence[int], itemsize: int) -> bool:
    """Whether elements lie in C order without gaps; axes of one element may have any stride."""
    if 0 in shape:
        return True
    step = itemsize
    for n, stride in zip(reversed(shape), reversed(strides), strict=True):
        if n != 1:
            if stride != step:
                return False
            step *= n
    return True


class Flags:
    """The flags that the library asks arrays for."""

    __slots__ = ("c_contiguous", "writeable")
    aligned = True

    def __init__(self, c_contiguous: bool, writeable: bool) -> None:
        self.c_contiguous, self.writeable = c_contiguous, writeable


class DeviceArray(NDArrayOperatorsMixin):
    """An array in the device's memory. Made by `empty`, `to_device` and `wrap`; views share its memory.

    owner    what keeps the memory alive: a block of the pool, or the foreign array
    windows  of the indices that a max pool found: the options of its windows, by which backward finds those that cover a pixel; else None
    """

    __slots__ = ("shape", "strides", "dtype", "pointer", "owner", "flags", "windows", "__weakref__")

    def __init__(self, pointer: int, shape: Shape, strides: Shape, dtype: np.dtype, owner: Any, writeable: bool = True) -> None:
        self.pointer, self.shape, self.strides, self.dtype, self.owner = pointer, shape, strides, dtype, owner
        self.flags = Flags(is_contiguous(shape, strides, dtype.itemsize), writeable)
        self.windows: Any = None

    # What it is.

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def size(self) -> int:
        return prod(self.shape)

    @property
    def itemsize(self) -> int:
        return self.dtype.itemsize

    @property
    def nbytes(self) -> int:
        return self.size * self.dtype.itemsize

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        strides = None if self.flags.c_contiguous else self.strides
        pointer = self.pointer if self.size else 0
        data = pointer, not self.flags.writeable
        return {"shape": self.shape, "strides": strides, "typestr": self.dtype.str, "data": data, "version": 3, "stream": DEFAULT_STREAM}

    def __len__(self) -> int:
        if not self.shape:
            raise TypeError("len() of a device array without axes")
        return self.shape[0]

    def __repr__(self) -> str:
        return f"DeviceArray({'x'.join(map(str, self.shape)) or 'scalar'}, {self.dtype})"

    # Views.

    def _view(self, shape: Shape, strides: Shape, offset: int = 0) -> DeviceArray:
        view = DeviceArray(self.pointer + offset, shape, strides, self.dtype, self.owner, self.flags.writeable)
        if shape[-2:] == self.shape[-2:] and strides[-2:] == self.strides[-2:]:  # of whole planes
            view.windows = self.windows
        return view

    def reshape(self, *shape: Any) -> DeviceArray:
        """A view where the array is C-contiguous, else a copy."""
        shape = tuple(shape[0]) if len(shape) == 1 and isinstance(shape[0], (tuple, list)) else shape
        if -1 in shape:
            known = prod(n for n in shape if n != -1)
            shape = tuple((self.size // known if known else 0) if n == -1 else n for n in shape)
        shape = tuple(int(n) for n in shape)
        if prod(shape) != self.size:
            raise ValueError(f"cannot reshape a device array of shape {self.shape} into {shape}")
        if shape == self.shape:
            return self
        array = self if self.flags.c_contiguous else self.copy()
        return array._view(shape, c_strides(shape, self.itemsize))

    def ravel(self) -> DeviceArray:
        return self.reshape(-1)

    def transpose(self, *axes: Any) -> DeviceArray:
        axes = tuple(axes[0]) if len(axes) == 1 and isinstance(axes[0], (tuple, list)) else axes or tuple(range(self.ndim))[::-1]
        axes = tuple(axis % self.ndim for axis in axes)
        if sorted(axes) != list(range(self.ndim)):
            raise ValueError(f"axes {axes} do not name the {self.ndim} axes of a device array")
        return self._view(tuple(self.shape[axis] for axis in axes), tuple(self.strides[axis] for axis in axes))

    @property
    def T(self) -> DeviceArray:
        return self.transpose()

    def __getitem__(self, index: Any) -> DeviceArray:
        """A view: ints, slices with positive steps, None and ... are understood."""
        index = index if isinstance(index, tuple) else (index,)
        if sum(item is Ellipsis for item in index) > 1:
            raise IndexError("an index can only have a single ellipsis")
        wanted = sum(item is not None and item is not Ellipsis for item in index)
        if wanted > self.ndim:
            raise IndexError(f"too many indices for a device array of {self.ndim} axes: {wanted}")
        if Ellipsis not in [item if item is Ellipsis else None for item in index]:
            index = (*index, Ellipsis)
        shape, strides, offset, axis = [], [], 0, 0
        for item in index:
            if item is None:
                shape.append(1)
                strides.append(0)
            elif item is Ellipsis:
                rest = self.ndim - wanted
                shape += self.shape[axis : axis + rest]
                strides += self.strides[axis : axis + rest]
                axis += rest
            elif isinstance(item, slice):
                start, stop, step = item.indices(self.shape[axis])
                if step < 0:
                    raise IndexError("slices of device arrays need a positive step")
                shape.append(len(range(start, stop, step)))
                strides.append(self.strides[axis] * step)
                offset += start * self.strides[axis] if shape[-1] else 0
                axis += 1
            elif isinstance(item, (int, np.integer)) and not isinstance(item, bool):
                n = self.shape[axis]
                if not -n <= item < n:
                    raise IndexError(f"index {item} is out of range for axis {axis} with {n} elements")
                offset += (int(item) % n) * self.strides[axis]
                axis += 1
            else:
                raise TypeError(f"device arrays are indexed with ints, slices, None and ..., not with {type(item).__name__}")
        return self._view(tuple(shape), tuple(strides), offset)

    # New arrays and changes in place.

    def copy(self, order: str = "C") -> DeviceArray:
        """A C-contiguous copy on the device; order "K" or "A" keeps a channels-last array channels-last."""
        from . import strided

        if order in ("K", "A") and not self.flags.c_contiguous and self.ndim == 4:
            last = self.transpose(0, 2, 3, 1)
            if last.flags.c_contiguous:
                return last.copy().transpose(0, 3, 1, 2)
        result = strided.copied(self, self.dtype)
        result.windows = self.windows
        return result

    def astype(self, dtype: Any, copy: bool = True) -> DeviceArray:
        """Converted on the device."""
        from . import strided

        dtype = np.dtype(dtype)
        return self if dtype == self.dtype and not copy else strided.copied(self, dtype)

    def fill(self, value: float) -> None:
        from . import strided

        strided.assign(self, value)

    def __setitem__(self, index: Any, value: Any) -> None:
        """Write a number, a device array that broadcasts, or a host array (which is copied to the device: for loading states)."""
        from . import strided

        strided.assign(self[index], value)

    def blend(self, share: float, other: DeviceArray, other_share: float) -> None:
        """self = share*self + other_share*other, in place, both C-contiguous: running statistics."""
        from . import arithmetic

        arithmetic.blend(self, share, other, other_share)

    # Arithmetic, on the device.

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, out: Any = None, **options: Any) -> Any:
        from . import arithmetic

        if method != "__call__" or ufunc not in arithmetic.UFUNCS or options:
            return NotImplemented
        return arithmetic.UFUNCS[ufunc](*inputs, out=None if out is None else out[0])

    def __array_function__(self, function: Any, types: Any, arguments: Any, options: Any) -> Any:
        from . import array_functions

        if function not in array_functions.FUNCTIONS:
            return NotImplemented
        return array_functions.FUNCTIONS[function](*arguments, **options)

    def sum(self, axis: Any = None, keepdims: bool = False) -> DeviceArray:
        """numpy.sum: over all axes, or those given. Always added in the same order."""
        return np.sum(self, axis, keepdims=keepdims)

    def mean(self, axis: Any = None, keepdims: bool = False) -> DeviceArray:
        return np.mean(self, axis, keepdims=keepdims)

    # To the host: only where it is asked for.

    def item(self) -> float | int | bool:
        """The only element, copied to the host."""
        if self.size != 1:
            raise TypeError(f"only a device array of one element is a number, this one has shape {self.shape}")
        return to_host(self).item()

    def __float__(self) -> float:
        return float(self.item())

    def __int__(self) -> int:
        return int(self.item())

    def __bool__(self) -> bool:
        return bool(self.item())

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        raise TypeError("a device array is not copied to the host by itself: use fastcnn.to_host")

    def __copy__(self) -> DeviceArray:
        return self.copy("K")

    def __deepcopy__(self, memo: Any) -> DeviceArray:
        return self.copy("K")

    def __reduce__(self) -> tuple:
        """Pickled as the host array, and put on the device again."""
        return to_device, (to_host(self),)


# --- making them --------------------------------------------------------------------------------------------------------------------


def empty(shape: Sequence[int], dtype: Any) -> DeviceArray:
    """An uninitialised C-contiguous array from the pool."""
    shape, dtype = tuple(shape), np.dtype(dtype)
    block = take(prod(shape) * dtype.itemsize)
    return DeviceArray(block.pointer, shape, c_strides(shape, dtype.itemsize), dtype, block)


def zeros(shape: Sequence[int], dtype: Any) -> DeviceArray:
    result = empty(shape, dtype)
    result.fill(0)
    return result


def is_device(value: Any) -> bool:
    """Whether value lies in a GPU's memory, whoever made it."""
    return isinstance(value, DeviceArray) or hasattr(value, "__cuda_array_interface__")


def wrap(value: Any) -> DeviceArray:
    """An array of another library (numba, CuPy, PyTorch) as a DeviceArray over the same memory; a DeviceArray itself."""
    if type(value) is DeviceArray:
        return value
    description = value.__cuda_array_interface__  # PyTorch raises here for tensors on the CPU or that require a gradient
    if description.get("mask") is not None:
        raise TypeError(f"a {type(value).__name__} with a mask cannot be used: its mask would be ignored")
    dtype, shape = np.dtype(description["typestr"]), tuple(description["shape"])
    strides = description.get("strides")
    strides = c_strides(shape, dtype.itemsize) if strides is None else tuple(strides)
    if any(stride < 0 for stride in strides):
        raise TypeError(f"a {type(value).__name__} with negative strides {strides} cannot be used: copy it first")
    if description.get("stream") not in (None, DEFAULT_STREAM) and not SIMULATED:
        cuda.external_stream(description["stream"]).synchronize()
        _memory.copies.waits += 1
    pointer, read_only = description["data"]
    return DeviceArray(pointer, shape, strides, dtype, value, not read_only)


def to_device(value: Any) -> Any:
    """A host array copied to the device; what is on a device already is wrapped without a copy."""
    if is_device(value):
        return wrap(value)
    if isinstance(value, np.ma.MaskedArray) or not isinstance(value, (np.ndarray, np.generic, int, float, list, tuple)):
        raise TypeError(f"to_device: array must be a numpy.ndarray or an array of a GPU, got {type(value).__name__}")
    host = _native(np.asarray(value))
    result = empty(host.shape, host.dtype)
    upload(result.pointer, host)
    return result


def _native(host: np.ndarray) -> np.ndarray:
    """C-contiguous in native byte order, axes kept."""
    if host.dtype.kind not in "fiub":
        raise TypeError(f"to_device: array must hold numbers, got {host.dtype}")
    if not host.dtype.isnative:
        host = host.astype(host.dtype.newbyteorder("="))
    return host if host.flags.c_contiguous else host.copy(order="C")


_staging = _memory.Staging()


def stage(value: np.ndarray) -> DeviceArray:
    """to_device through pinned memory, without waiting: for threads that prepare batches."""
    host = _native(np.asarray(value))
    result = empty(host.shape, host.dtype)
    _staging.upload(result.pointer, host)
    return result


def to_host(value: Any) -> Any:
    """A copy of a device array on the host, after waiting for it; everything else as it is."""
    return all_to_host([value])[0]


def all_to_host(values: Sequence[Any]) -> list[Any]:
    """to_host of several, waiting once."""
    arrays = [contiguous(wrap(value)) if is_device(value) else value for value in values]
    results = [np.empty(array.shape, array.dtype) if isinstance(array, DeviceArray) else array for array in arrays]
    pairs = [(array.pointer, host) for array, host in zip(arrays, results, strict=True) if isinstance(array, DeviceArray)]
    if pairs:
        download([pointer for pointer, _ in pairs], [host for _, host in pairs])
    return results


def contiguous(array: DeviceArray) -> DeviceArray:
    """array itself if it is C-contiguous, else a copy."""
    return array if array.flags.c_contiguous else array.copy()


def flat(array: DeviceArray) -> DeviceArray:
    """All elements in C order as one axis."""
    return array if array.ndim == 1 and array.flags.c_contiguous else array.reshape(-1)


# --- launching ----------------------------------------------------------------------------------------------------------------------


def blocks(count: int, tile: int) -> int:
    """How many tiles cover count elements."""
    return -(-count // tile)


if SIMULATED:
    recorded: list[tuple] | None = None  # the launches that a graph records, which do not run

    def _argument(value: Any) -> Any:
        """The memory of an array as the simulator's kernels want it: NumPy over the same address."""
        if type(value) is tuple:
            return tuple(map(_argument, value))
        if type(value) is not DeviceArray:
            return value
        if not value.size:
            return FakeCUDAArray(np.empty(value.shape, value.dtype))
        raw = (ctypes.c_uint8 * value.nbytes).from_address(value.pointer)
        return FakeCUDAArray(np.frombuffer(raw, value.dtype).reshape(value.shape))

    def launch(kernel: Any, grid: Any, block: Any, *arguments: Any) -> None:
        """Run a kernel over grid blocks of block threads; device arrays must be C-contiguous. An empty grid runs nothing."""
        if recorded is not None:
            recorded.append((kernel, grid, block, *arguments))
        elif prod(grid) if isinstance(grid, tuple) else grid:
            with np.errstate(all="ignore"):
                kernel[grid, block](*map(_argument, arguments))

else:
    # The pool hands out the same memory again and again, so the same few arrays of numba's serve for all: making one takes longer than launching a kernel.
    _MOST_HANDLES = 4096
    _handles: dict[tuple, Any] = {}

    def _argument(value: Any) -> Any:
        """The memory of an array as numba wants it."""
        if type(value) is tuple:
            return tuple(map(_argument, value))
        if type(value) is not DeviceArray:
            return value
        key = value.pointer, value.shape, value.dtype
        handle = _handles.get(key)
        if handle is None:
            if len(_handles) >= _MOST_HANDLES:
                _handles.clear()
            handle = _handles[key] = cuda.from_cuda_array_interface(value.__cuda_array_interface__, sync=False)
        return handle

    def launch(kernel: Any, grid: Any, block: Any, *arguments: Any) -> None:
        """Run a kernel over grid blocks of block threads; device arrays must be C-contiguous. An empty grid runs nothing."""
        if prod(grid) if isinstance(grid, tuple) else grid:
            kernel[grid, block, _memory.stream()](*map(_argument, arguments))
