"""The validator of arrays: turns what a user passes into what backends accept, or raises in numbers. fastcnn/options.py is that of numbers and words.

Every helper takes the op and the argument's name for its message. The first lines of each are the good path, with exact type tests because they are
the cheapest; everything unusual goes to the slow half, which either normalises (byte-swapped or misaligned arrays) or raises TypeError for a wrong
type and ShapeError for a wrong shape.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NoReturn

import numpy as np

from ..backend import current, on_device
from ..options import flag
from ..shapes import ShapeError, by

F32, F64 = np.dtype(np.float32), np.dtype(np.float64)


def shape_text(shape: Sequence[int]) -> str:
    """'2x3x4x4', or 'scalar'."""
    return by(shape) if shape else "scalar"


def array(value: Any, op: str, name: str) -> np.ndarray:
    """A float32 or float64 ndarray, native and aligned: value itself, or a copy if a backend could not read it in place."""
    if type(value) is np.ndarray and (value.dtype is F32 or value.dtype is F64) and value.flags.aligned:
        return value
    return _unusual_array(value, op, name)


def _unusual_array(value: Any, op: str, name: str) -> np.ndarray:
    if not isinstance(value, np.ndarray):
        return _device_array(value, op, name, (F32, F64), "float32 or float64")
    if isinstance(value, np.ma.MaskedArray):
        raise TypeError(f"{op}: {name} is a masked array; its mask would be ignored, pass {name}.filled(...)")
    native = value.dtype.newbyteorder("=")
    if native != F32 and native != F64:
        raise TypeError(f"{op}: {name} must be float32 or float64, got {value.dtype}; convert it with .astype(numpy.float32)")
    value = np.asarray(value)
    dtype = F32 if native == F32 else F64
    if value.dtype != dtype or not value.flags.aligned:
        return value.astype(dtype)
    return value.view(dtype)


def _device_array(value: Any, op: str, name: str, dtypes: Sequence[np.dtype], expected: str) -> Any:
    """An array on the device of one of these dtypes, if the current backend computes there; else TypeError."""
    adopt = getattr(current(), "adopt", None)
    if adopt is None:
        where = f", which lies on a GPU: use_backend('cuda'), or copy it with fastcnn.to_host, backend is {current().name!r}" if on_device(value) else ""
        raise TypeError(f"{op}: {name} must be a numpy.ndarray, got {type(value).__name__}{where}")
    if not on_device(value):
        raise TypeError(f"{op}: {name} must be an array on the device (fastcnn.to_device), got {type(value).__name__}")
    value = adopt(value)
    if value.dtype not in dtypes:
        raise TypeError(f"{op}: {name} must be {expected}, got {value.dtype}")
    return value


def of_dtype(value: Any, op: str, name: str, dtype: np.dtype, expected: str) -> Any:
    """An array of this one dtype that is no float, on the host or the device; expected: what it must be, in words."""
    if not isinstance(value, np.ndarray):
        if on_device(value):
            return _device_array(value, op, name, (dtype,), expected)
        raise TypeError(f"{op}: {name} must be {expected}, got {type(value).__name__}")
    if value.dtype != dtype:
        raise TypeError(f"{op}: {name} must be {expected}, got {value.dtype}")
    return value


def like(value: Any, input: np.ndarray, op: str, name: str) -> np.ndarray:
    """An array of input's dtype: nothing is cast."""
    if type(value) is np.ndarray and value.dtype is input.dtype and value.flags.aligned:
        return value
    value = _unusual_array(value, op, name)
    if value.dtype != input.dtype:
        raise TypeError(f"{op}: {name} is {value.dtype} but input is {input.dtype}; nothing is cast, convert one of them with .astype")
    return value


def shaped(value: Any, input: np.ndarray, shape: tuple[int, ...], op: str, name: str, what: str) -> np.ndarray:
    """An array of input's dtype and exactly this shape; what says where the shape comes from."""
    value = like(value, input, op, name)
    if value.shape != shape:
        wrong_shape(value.shape, shape, op, name, what)
    return value


def alike(value: Any, input: np.ndarray, op: str, name: str) -> np.ndarray:
    """An array of input's dtype and shape."""
    value = like(value, input, op, name)
    if value.shape != input.shape:
        wrong_shape(value.shape, input.shape, op, name, "input is " + shape_text(input.shape))
    return value


def wrong_shape(got: Sequence[int], expected: Sequence[int], op: str, name: str, what: str) -> NoReturn:
    """'conv2d: bias is 3 but weight has 4 filters, so it must be 4'."""
    raise ShapeError(f"{op}: {name} has shape {shape_text(got)} but {what}: expected {shape_text(expected)}")


def images(value: Any, op: str, name: str) -> tuple[np.ndarray, bool]:
    """(N, C, H, W), and whether the batch axis was added to a single (C, H, W). Only N may be 0."""
    value = array(value, op, name)
    if value.ndim == 4:
        single = False
    elif value.ndim == 3:
        value, single = value[None], True
    else:
        raise ShapeError(f"{op}: {name} must be 4-D (N, C, H, W) or 3-D (C, H, W), got {value.ndim}-D {shape_text(value.shape)}")
    _, C, H, W = value.shape
    if not (C and H and W):
        raise ShapeError(f"{op}: {name} has shape {shape_text(value.shape)}; only the batch size may be 0")
    return value, single


def batched(value: Any, single: bool, input: np.ndarray, shape: tuple[int, ...], op: str, name: str, what: str) -> np.ndarray:
    """A companion of `images`' result, such as grad_output: with the batch axis added if the input came without one."""
    value = like(value, input, op, name)
    if single:
        value = value[None]
    if value.shape != shape:
        wrong_shape(value.shape[single:], shape[single:], op, name, what)
    return value


def channels_last(value: np.ndarray) -> bool:
    """Whether an NCHW-shaped array lies in memory as NHWC, and not also as NCHW."""
    return value.ndim == 4 and not value.flags.c_contiguous and value.transpose(0, 2, 3, 1).flags.c_contiguous


def contiguous(value: np.ndarray) -> np.ndarray:
    """value itself if it is C-contiguous, else a copy that is."""
    return value if value.flags.c_contiguous else value.copy(order="C")


def formatted(result: np.ndarray, input: np.ndarray) -> np.ndarray:
    """result in input's memory format: channels-last if input is, else C-contiguous. No copy if it is so already."""
    if input.flags.c_contiguous or not channels_last(input) or result.ndim != 4:
        return result if result.flags.c_contiguous else result.copy(order="C")
    nhwc = result.transpose(0, 2, 3, 1)
    return result if nhwc.flags.c_contiguous else nhwc.copy(order="C").transpose(0, 3, 1, 2)


def mask3(value: Any, op: str, need_dx: Any = True) -> tuple[bool, bool, bool]:
    """output_mask: which of grad_input, grad_weight, grad_bias are wanted; need_dx=False takes the first away."""
    if need_dx is not True and not flag(need_dx, op, "need_dx"):
        return False, *mask3(value, op)[1:]
    if not isinstance(value, (tuple, list)):
        raise TypeError(f"{op}: output_mask must be a tuple of 3 bools, got {type(value).__name__} {value!r}")
    if len(value) != 3:
        raise ValueError(f"{op}: output_mask must be a tuple of 3 bools, got {len(value)} values {value!r}")
    return tuple(flag(item, op, "output_mask") for item in value)  # type: ignore[return-value]
