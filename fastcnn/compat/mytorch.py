"""CMU 11-785, homework 2 part 1: the layers of `mytorch` that students write: convolutions, transposed convolutions, pooling and resampling.

    import fastcnn.compat.mytorch; fastcnn.compat.mytorch.install()      # before or after `from mytorch.nn.Conv2d import *`

or import the classes from here. Not for submissions: the homework is to write these layers. Use it to train what you have written, and to check it.

Images are (batch_size, in_channels, height, width), signals (batch_size, in_channels, width); weights (out_channels, in_channels, *kernel), biases
(out_channels,). Weights are read at every call: optimizers of the course rebind W. dLdW and dLdb are added to until they are set to zero; methods
installed into a course's own class follow what its backward did (`self.dLdW = ...` assigns, `self.dLdW += ...` adds).

A strided layer holds a stride-1 layer and a resampling one, as the homework builds it (conv2d_stride1.W, .dLdW and .dLdb are where graders and optimizers
look), but computes both in one pass: outputs that a downsampling drops are never made, zeros that an upsampling inserts never multiplied. install()
leaves the student's own strided convolutions as they are, on top of fast stride-1 ones.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Callable
from typing import Any

import numpy as np

from ..functional import (
    avg_pool2d,
    avg_pool2d_backward,
    batch_norm,
    batch_norm_backward,
    conv_transpose2d,
    conv_transpose2d_backward,
    max_pool2d,
    max_pool2d_backward,
)
from ..options import integer
from ._arrays import common, conv2d, conv2d_backward
from ._install import Course, Installation
from ._install import install as _install
from ._install import uninstall as _uninstall
from ._methods import pair, where_used
from ._windows import check_tiling

__all__ = [
    "BatchNorm2d",
    "Conv1d",
    "Conv1d_stride1",
    "Conv2d",
    "Conv2d_stride1",
    "ConvTranspose1d",
    "ConvTranspose2d",
    "Downsample1d",
    "Downsample2d",
    "MaxPool2d",
    "MaxPool2d_stride1",
    "MeanPool2d",
    "MeanPool2d_stride1",
    "Upsample1d",
    "Upsample2d",
    "install",
    "uninstall",
]


# --- resampling -------------------------------------------------------------------------------------------------------------------


def _every(axes: int, k: int) -> tuple:
    """The index of every k-th value along the last axes."""
    return (..., *[slice(None, None, k)] * axes)


def _kept(A: np.ndarray, axes: int, k: int) -> np.ndarray:
    """Every k-th value, in a new array."""
    return np.array(A[_every(axes, k)], order="C")


def _spread(A: np.ndarray, shape: tuple[int, ...], k: int) -> np.ndarray:
    """The values at every k-th place of an array of zeros whose last axes have this shape."""
    out = np.zeros((*A.shape[:2], *shape), A.dtype)
    out[_every(len(shape), k)] = A
    return out


class _Upsample:
    def __init__(self, upsampling_factor: int) -> None:
        self.upsampling_factor = upsampling_factor

    def forward(self, A: np.ndarray) -> np.ndarray:
        """n values along an axis become factor*(n - 1) + 1, zeros between them."""
        integer(self.upsampling_factor, type(self).__name__, "upsampling_factor", 1)
        return _spread(A, tuple(self.upsampling_factor * (n - 1) + 1 for n in A.shape[2:]), self.upsampling_factor)

    def backward(self, dLdZ: np.ndarray) -> np.ndarray:
        """The gradient where the values were."""
        return _kept(dLdZ, dLdZ.ndim - 2, self.upsampling_factor)


class _Downsample:
    def __init__(self, downsampling_factor: int) -> None:
        self.downsampling_factor = downsampling_factor

    def forward(self, A: np.ndarray) -> np.ndarray:
        """Every factor-th value."""
        integer(self.downsampling_factor, type(self).__name__, "downsampling_factor", 1)
        self.input_shape = A.shape[2:]
        return _kept(A, A.ndim - 2, self.downsampling_factor)

    def backward(self, dLdZ: np.ndarray) -> np.ndarray:
        """The gradient where the values were, zeros elsewhere."""
        return _spread(dLdZ, self.input_shape, self.downsampling_factor)


class Upsample1d(_Upsample):
    """(N, C, n) -> (N, C, factor*(n - 1) + 1)."""


class Upsample2d(_Upsample):
    """(N, C, h, w) -> (N, C, factor*(h - 1) + 1, factor*(w - 1) + 1)."""


class Downsample1d(_Downsample):
    """(N, C, n) -> (N, C, (n - 1)//factor + 1)."""


class Downsample2d(_Downsample):
    """(N, C, h, w) -> (N, C, (h - 1)//factor + 1, (w - 1)//factor + 1)."""


# --- convolution: signals are images of one row -----------------------------------------------------------------------------------


def _rows(A: np.ndarray) -> np.ndarray:
    return A[:, :, None] if A.ndim == 3 else A


def _like(A: np.ndarray, value: np.ndarray) -> np.ndarray:
    """A result of _rows without the row, where A had none."""
    return np.ascontiguousarray(value[:, :, 0]) if A.ndim == 3 else value


def _pair(A: np.ndarray, value: int, along: int) -> tuple[int, int]:
    """A stride or padding for the images of _rows: along a row that is not there it is `along`."""
    return (along, value) if A.ndim == 3 else (value, value)


def _forward(A: np.ndarray, layer: Any, stride: int, padding: int = 0) -> np.ndarray:
    """Z of the stride-1 layer's weights at this stride and padding; keeps A in the layer."""
    layer.A = A
    op = type(layer).__name__
    x, W, b = common(op, A, layer.W, layer.b)
    strides, paddings = _pair(x, stride, 1), _pair(x, padding, 0)
    check_tiling(op, _rows(x).shape[2:], _rows(W).shape[2:], strides, paddings)
    return _like(x, conv2d(_rows(x), _rows(W), b, strides, paddings))


def _backward(dLdZ: np.ndarray, layer: Any, stride: int, accumulate: bool, padding: int = 0) -> np.ndarray:
    """dLdA of _forward, and the gradients of its weights into the layer."""
    g, x, W = common(f"{type(layer).__name__}.backward", dLdZ, layer.A, layer.W)
    dLdA, dLdW, dLdb = conv2d_backward(_rows(g), _rows(x), _rows(W), layer.b, _pair(x, stride, 1), _pair(x, padding, 0))
    _hand_over(layer, _like(W, dLdW), dLdb, accumulate)
    return _like(x, dLdA)


def _hand_over(layer: Any, dLdW: np.ndarray, dLdb: np.ndarray, accumulate: bool) -> None:
    if accumulate and layer.dLdW is not None:
        layer.dLdW = layer.dLdW + dLdW
        layer.dLdb = layer.dLdb + dLdb
    else:
        layer.dLdW, layer.dLdb = dLdW, dLdb


class _ConvStride1:
    axes: int

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        weight_init_fn: Callable[..., np.ndarray] | None = None,
        bias_init_fn: Callable[[int], np.ndarray] | None = None,
    ) -> None:
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.kernel_size = kernel_size
        shape = (out_channels, in_channels, *[kernel_size] * self.axes)
        if weight_init_fn is None:
            self.W = np.random.normal(0, 1.0, shape)  # noqa: NPY002 (the course's stream: the same seed gives the same weights)
        else:
            self.W = weight_init_fn(*shape)
        self.b = np.zeros(out_channels) if bias_init_fn is None else bias_init_fn(out_channels)
        self.dLdW = np.zeros(self.W.shape)
        self.dLdb = np.zeros(self.b.shape)

    def forward(self, A: np.ndarray) -> np.ndarray:
        """(N, in_channels, *size) -> (N, out_channels, *(size - kernel_size + 1))."""
        return _forward(A, self, 1)

    def backward(self, dLdZ: np.ndarray) -> np.ndarray:
        """dLdA in A's shape; adds to dLdW and dLdb."""
        return _backward(dLdZ, self, 1, True)


class Conv1d_stride1(_ConvStride1):
    """(N, C, width) x (O, C, K) + (O,), no padding; weights N(0, 1) unless weight_init_fn(O, C, K) gives them."""

    axes = 1


class Conv2d_stride1(_ConvStride1):
    """(N, C, H, W) x (O, C, K, K) + (O,), no padding; weights N(0, 1) unless weight_init_fn(O, C, K, K) gives them."""

    axes = 2


class Conv1d:
    """conv1d_stride1 on the input with `padding` zeros at both ends, then every stride-th value, in one pass."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int,
        padding: int = 0,
        weight_init_fn: Callable[..., np.ndarray] | None = None,
        bias_init_fn: Callable[[int], np.ndarray] | None = None,
    ) -> None:
        self.stride = stride
        self.pad = padding
        self.conv1d_stride1 = Conv1d_stride1(in_channels, out_channels, kernel_size, weight_init_fn, bias_init_fn)
        self.downsample1d = Downsample1d(stride)

    def forward(self, A: np.ndarray) -> np.ndarray:
        """(N, in_channels, n) -> (N, out_channels, (n + 2*padding - kernel_size)//stride + 1)."""
        return _forward(A, self.conv1d_stride1, self.stride, self.pad)

    def backward(self, dLdZ: np.ndarray) -> np.ndarray:
        """dLdA in A's shape; adds to the stride-1 layer's dLdW and dLdb."""
        return _backward(dLdZ, self.conv1d_stride1, self.stride, True, self.pad)


class Conv2d:
    """conv2d_stride1 on the input within `padding` zeros, then every stride-th row and column, in one pass."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int,
        padding: int = 0,
        weight_init_fn: Callable[..., np.ndarray] | None = None,
        bias_init_fn: Callable[[int], np.ndarray] | None = None,
    ) -> None:
        self.stride = stride
        self.pad = padding
        self.conv2d_stride1 = Conv2d_stride1(in_channels, out_channels, kernel_size, weight_init_fn, bias_init_fn)
        self.downsample2d = Downsample2d(stride)

    def forward(self, A: np.ndarray) -> np.ndarray:
        """(N, in_channels, H, W) -> (N, out_channels, (H + 2*padding - kernel_size)//stride + 1, likewise W)."""
        return _forward(A, self.conv2d_stride1, self.stride, self.pad)

    def backward(self, dLdZ: np.ndarray) -> np.ndarray:
        """dLdA in A's shape; adds to the stride-1 layer's dLdW and dLdb."""
        return _backward(dLdZ, self.conv2d_stride1, self.stride, True, self.pad)


# --- transposed convolution -------------------------------------------------------------------------------------------------------


def _flipped(W: np.ndarray) -> np.ndarray:
    """(O, C, *K) -> (C, O, *K), every spatial axis reversed: a correlation of a spread image is a transposed convolution with this. Its own inverse."""
    return W.swapaxes(0, 1)[(..., *[slice(None, None, -1)] * (W.ndim - 2))]


def _transposed_options(x: np.ndarray, layer: Any, factor: int) -> dict[str, tuple[int, int]]:
    return {"stride": _pair(x, factor, 1), "padding": _pair(x, layer.W.shape[-1] - 1, 0)}


def _transposed_forward(A: np.ndarray, owner: Any, layer: Any) -> np.ndarray:
    layer.A = A
    x, W, b = common(type(owner).__name__, A, layer.W, layer.b)
    return _like(x, conv_transpose2d(_rows(x), _rows(_flipped(W)), b, **_transposed_options(x, layer, owner.upsampling_factor)))


def _transposed_backward(dLdZ: np.ndarray, owner: Any, layer: Any, accumulate: bool) -> np.ndarray:
    g, x, W = common(f"{type(owner).__name__}.backward", dLdZ, layer.A, layer.W)
    options = _transposed_options(x, layer, owner.upsampling_factor)
    dLdA, dLdW, dLdb = conv_transpose2d_backward(_rows(g), _rows(x), _rows(_flipped(W)), **options)
    _hand_over(layer, np.ascontiguousarray(_flipped(_like(W, dLdW))), dLdb, accumulate)
    return _like(x, dLdA)


class ConvTranspose1d:
    """Upsample1d by upsampling_factor, then conv1d_stride1, in one pass."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        upsampling_factor: int,
        weight_init_fn: Callable[..., np.ndarray] | None = None,
        bias_init_fn: Callable[[int], np.ndarray] | None = None,
    ) -> None:
        self.upsampling_factor = upsampling_factor
        self.upsample1d = Upsample1d(upsampling_factor)
        self.conv1d_stride1 = Conv1d_stride1(in_channels, out_channels, kernel_size, weight_init_fn, bias_init_fn)

    def forward(self, A: np.ndarray) -> np.ndarray:
        """(N, in_channels, n) -> (N, out_channels, factor*(n - 1) + 2 - kernel_size)."""
        return _transposed_forward(A, self, self.conv1d_stride1)

    def backward(self, dLdZ: np.ndarray) -> np.ndarray:
        """dLdA in A's shape; adds to the stride-1 layer's dLdW and dLdb."""
        return _transposed_backward(dLdZ, self, self.conv1d_stride1, True)


class ConvTranspose2d:
    """Upsample2d by upsampling_factor, then conv2d_stride1, in one pass."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        upsampling_factor: int,
        weight_init_fn: Callable[..., np.ndarray] | None = None,
        bias_init_fn: Callable[[int], np.ndarray] | None = None,
    ) -> None:
        self.upsampling_factor = upsampling_factor
        self.upsample2d = Upsample2d(upsampling_factor)
        self.conv2d_stride1 = Conv2d_stride1(in_channels, out_channels, kernel_size, weight_init_fn, bias_init_fn)

    def forward(self, A: np.ndarray) -> np.ndarray:
        """(N, in_channels, H, W) -> (N, out_channels, factor*(H - 1) + 2 - kernel_size, likewise W)."""
        return _transposed_forward(A, self, self.conv2d_stride1)

    def backward(self, dLdZ: np.ndarray) -> np.ndarray:
        """dLdA in A's shape; adds to the stride-1 layer's dLdW and dLdb."""
        return _transposed_backward(dLdZ, self, self.conv2d_stride1, True)


# --- pooling ----------------------------------------------------------------------------------------------------------------------


class MaxPool2d_stride1:
    """The maximum of every kernel x kernel window; the first in row-major order takes the gradient."""

    def __init__(self, kernel: int) -> None:
        self.kernel = kernel

    def forward(self, A: np.ndarray) -> np.ndarray:
        """(N, C, H, W) -> (N, C, H - kernel + 1, W - kernel + 1)."""
        return _max_forward(A, self, 1)

    def backward(self, dLdZ: np.ndarray) -> np.ndarray:
        """dLdA in A's shape."""
        return _max_backward(dLdZ, self, 1)


class MaxPool2d:
    """MaxPool2d_stride1, then every stride-th row and column, in one pass."""

    def __init__(self, kernel: int, stride: int) -> None:
        self.kernel = kernel
        self.stride = stride
        self.maxpool2d_stride1 = MaxPool2d_stride1(kernel)
        self.downsample2d = Downsample2d(stride)

    def forward(self, A: np.ndarray) -> np.ndarray:
        """(N, C, H, W) -> (N, C, (H - kernel)//stride + 1, likewise W)."""
        return _max_forward(A, self, self.stride)

    def backward(self, dLdZ: np.ndarray) -> np.ndarray:
        """dLdA in A's shape."""
        return _max_backward(dLdZ, self, self.stride)


class MeanPool2d_stride1:
    """The mean of every kernel x kernel window."""

    def __init__(self, kernel: int) -> None:
        self.kernel = kernel

    def forward(self, A: np.ndarray) -> np.ndarray:
        """(N, C, H, W) -> (N, C, H - kernel + 1, W - kernel + 1)."""
        return _mean_forward(A, self, 1)

    def backward(self, dLdZ: np.ndarray) -> np.ndarray:
        """dLdA in A's shape."""
        return _mean_backward(dLdZ, self, 1)


class MeanPool2d:
    """MeanPool2d_stride1, then every stride-th row and column, in one pass."""

    def __init__(self, kernel: int, stride: int) -> None:
        self.kernel = kernel
        self.stride = stride
        self.meanpool2d_stride1 = MeanPool2d_stride1(kernel)
        self.downsample2d = Downsample2d(stride)

    def forward(self, A: np.ndarray) -> np.ndarray:
        """(N, C, H, W) -> (N, C, (H - kernel)//stride + 1, likewise W)."""
        return _mean_forward(A, self, self.stride)

    def backward(self, dLdZ: np.ndarray) -> np.ndarray:
        """dLdA in A's shape."""
        return _mean_backward(dLdZ, self, self.stride)


def _pool_input(A: np.ndarray, pool: Any, stride: int) -> np.ndarray:
    (A,) = common(type(pool).__name__, A)
    check_tiling(type(pool).__name__, A.shape[2:], (pool.kernel,) * 2, (stride,) * 2)
    return A


def _max_forward(A: np.ndarray, pool: Any, stride: int) -> np.ndarray:
    pool.A = _pool_input(A, pool, stride)
    Z, pool.indices = max_pool2d(pool.A, pool.kernel, stride, return_indices=True)
    return Z


def _max_backward(dLdZ: np.ndarray, pool: Any, stride: int) -> np.ndarray:
    g, A = common(f"{type(pool).__name__}.backward", dLdZ, pool.A)
    return max_pool2d_backward(g, A, pool.kernel, stride, indices=pool.indices)


def _mean_forward(A: np.ndarray, pool: Any, stride: int) -> np.ndarray:
    pool.A = _pool_input(A, pool, stride)
    return avg_pool2d(pool.A, pool.kernel, stride)


def _mean_backward(dLdZ: np.ndarray, pool: Any, stride: int) -> np.ndarray:
    g, A = common(f"{type(pool).__name__}.backward", dLdZ, pool.A)
    return avg_pool2d_backward(g, A, pool.kernel, stride)


# --- batch normalisation ----------------------------------------------------------------------------------------------------------


class BatchNorm2d:
    """Per channel: BW*(Z - mean)/sqrt(var + 1e-8) + Bb, all parameters (1, C, 1, 1); running = alpha*running + (1 - alpha)*batch, the variance biased."""

    def __init__(self, num_features: int, alpha: float = 0.9) -> None:
        self.alpha = alpha
        self.eps = 1e-8
        shape = (1, num_features, 1, 1)
        self.BW, self.Bb = np.ones(shape), np.zeros(shape)
        self.dLdBW, self.dLdBb = np.zeros(shape), np.zeros(shape)
        self.running_M, self.running_V = np.zeros(shape), np.ones(shape)

    def forward(self, Z: np.ndarray, eval: bool = False) -> np.ndarray:
        """(N, C, H, W), the same shape back; eval takes the running statistics."""
        shape = self.BW.shape
        self.Z = Z
        z, BW, Bb, M, V = common("BatchNorm2d", Z, *(value.reshape(-1) for value in (self.BW, self.Bb, self.running_M, self.running_V)))
        if eval:
            return batch_norm(z, M, V, BW, Bb, eps=self.eps)
        out, mean, var = batch_norm(z, None, None, BW, Bb, True, eps=self.eps, return_stats=True)
        self.M, self.V = mean.reshape(shape), var.reshape(shape)
        self.running_M = self.alpha * self.running_M + (1 - self.alpha) * self.M
        self.running_V = self.alpha * self.running_V + (1 - self.alpha) * self.V
        return out

    def backward(self, dLdBZ: np.ndarray) -> np.ndarray:
        """dLdZ of the last training forward; sets dLdBW and dLdBb."""
        g, z, BW, M, V = common("BatchNorm2d.backward", dLdBZ, self.Z, *(value.reshape(-1) for value in (self.BW, self.M, self.V)))
        dLdZ, dLdBW, dLdBb = batch_norm_backward(g, z, weight=BW, training=True, eps=self.eps, mean=M, var=V)
        self.dLdBW, self.dLdBb = dLdBW.reshape(self.BW.shape), dLdBb.reshape(self.BW.shape)
        return dLdZ


# --- into a course's own classes ----------------------------------------------------------------------------------------------------


def _adds_up(backward: Callable) -> bool | None:
    """Whether a student's backward adds to self.dLdW (True) or sets it (False), read from its source; None if that does not say."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(backward)))
    except (OSError, TypeError, SyntaxError):
        return None

    def is_dLdW(node: ast.AST) -> bool:
        return isinstance(node, ast.Attribute) and node.attr == "dLdW" and isinstance(node.value, ast.Name) and node.value.id == "self"

    targets = [target for node in ast.walk(tree) if isinstance(node, ast.Assign) for target in node.targets]
    targets = [each for target in targets for each in (target.elts if isinstance(target, ast.Tuple) else [target])]
    if any(is_dLdW(target) for target in targets):
        return False
    grown = [node.target for node in ast.walk(tree) if isinstance(node, ast.AugAssign) and isinstance(node.op, ast.Add)]
    if any(is_dLdW(target) or (isinstance(target, ast.Subscript) and is_dLdW(target.value)) for target in grown):
        return True
    return False if any(isinstance(target, ast.Subscript) and is_dLdW(target.value) for target in targets) else None


def _backward_like(original: Callable) -> Callable | None:
    """The backward of a stride-1 convolution that treats dLdW as the one it replaces."""
    accumulate = _adds_up(original)
    if accumulate is None:
        return None

    def backward(self: Any, dLdZ: np.ndarray) -> np.ndarray:
        return _backward(dLdZ, self, 1, accumulate)

    return backward


def _methods() -> dict[str, dict[str, Any]]:
    """Stride-1 layers, pools and resampling in the course's classes; the strided ones are made of these, and go on calling them."""
    convolution = {
        "forward": where_used(_ConvStride1.forward, "W", "b"),
        "backward": where_used(_ConvStride1.backward, "dLdW", "dLdb", make=_backward_like),
    }
    homes = {
        "Conv1d": {"Conv1d_stride1": convolution},
        "Conv2d": {"Conv2d_stride1": convolution},
        "pool": {kind.__name__: _both(kind, "kernel") for kind in (MaxPool2d_stride1, MeanPool2d_stride1)}
        | {"MaxPool2d": _both(MaxPool2d, "maxpool2d_stride1"), "MeanPool2d": _both(MeanPool2d, "meanpool2d_stride1")},
        "resampling": {name: _both(_Upsample, "upsampling_factor") for name in ("Upsample1d", "Upsample2d")}
        | {name: _both(_Downsample, "downsampling_factor") for name in ("Downsample1d", "Downsample2d")},
        "batchnorm": {"BatchNorm2d": pair(BatchNorm2d, ("BW", "Bb", "running_M"), ("BW", "dLdBW", "dLdBb"))},
    }
    homes["conv"] = homes["Conv1d"] | homes["Conv2d"]
    packages = "mytorch.nn", "mytorch"
    return {f"{package}.{home}:{name}": found for home, kinds in homes.items() for package in packages for name, found in kinds.items()}


def _both(kind: type, attribute: str) -> dict[str, Any]:
    """forward of a class that uses the attribute, and its backward."""
    return {"forward": where_used(kind.forward, attribute), "backward": kind.backward}


COURSE = Course(name="mytorch", title="CMU 11-785 mytorch", methods=_methods(), together=(("forward", "backward"),))


def install() -> Installation:
    """Put these methods into the course's own classes, before or after they are imported."""
    return _install(COURSE)


def uninstall() -> None:
    """Everything as it was."""
    _uninstall(COURSE)
