"""LeNet-5 from scratch: layers that hold their weights, update them inside backward_prop, and share a pooling's gradient among all tied maxima.

    import fastcnn.compat.lenet_scratch; fastcnn.compat.lenet_scratch.install()      # before or after `from utils.ConvolveLayer import *`

or import the classes from here. Images are NCHW, filters (n_filter, depth, f, f), biases (1, n_filter, 1, 1); the loss is a sum over the batch.

backward_prop rebinds W, b and their velocities v_W, v_b, as the course does: velocity = momentum*velocity - learning_rate*gradient, weight = weight +
velocity. It is right for any stride and padding, and then returns the gradient of the unpadded input (the course's is right for stride 1 without padding
only). need_dx = False on a layer makes it return None: the first layer's gradient is used by nobody. MaxpoolLayer floors odd sizes (the course's fails
on them).

Ties are the rule here, not the exception: on MNIST more than half of the first pooling's windows are constant background. Identical patches give identical
bits, so they tie exactly as they do in NumPy.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..functional import linear, linear_backward, max_pool2d, max_pool2d_backward, pad, softmax
from ._arrays import common, conv2d, conv2d_backward
from ._install import Course, Installation
from ._install import install as _install
from ._install import uninstall as _uninstall
from ._methods import pair
from ._windows import check_tiling

__all__ = [
    "ActivationLayer",
    "ConvolveLayer",
    "FullyConnectedLayer",
    "LossLayer",
    "MaxpoolLayer",
    "ReLU",
    "d_ReLU",
    "install",
    "uninstall",
    "update",
]


def ReLU(x: np.ndarray) -> np.ndarray:
    """x where positive, else 0."""
    return np.where(x > 0, x, 0)


def d_ReLU(x: np.ndarray, d_global: np.ndarray) -> np.ndarray:
    """d_global where x is positive, else 0."""
    return np.where(x > 0, d_global, 0)


def update(
    W: np.ndarray, b: np.ndarray, dW: np.ndarray, db: np.ndarray, v_W: np.ndarray, v_b: np.ndarray, learning_rate: float, momentum: float = 0.9
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """One step of SGD with momentum: (W, b, v_W, v_b), all new arrays."""
    v_W, v_b = momentum * v_W - learning_rate * dW, momentum * v_b - learning_rate * db
    return W + v_W, b + v_b, v_W, v_b


def _need_dx(layer: Any) -> bool:
    return getattr(layer, "need_dx", True)


# The methods also serve the course's own classes (install), so they use nothing of self but what the course's constructors set, and what they set themselves.


class ConvolveLayer:
    """kernel_shape (n_filter, depth, f, f); W uniform in +-2.4/fan_in, drawn from NumPy's global generator as the course's is, b = 0.01 (1,n_filter,1,1)."""

    def __init__(self, kernel_shape: tuple[int, int, int, int], stride: int = 1, pad: int = 0) -> None:
        self.kernel_shape = kernel_shape
        self.n_filter, self.depth, self.filtersize, _ = kernel_shape
        self.stride = stride
        self.pad = pad
        self.b = np.full((1, self.n_filter, 1, 1), 0.01)
        self.reinitialize()
        self.v_W, self.v_b = np.zeros(self.W.shape), np.zeros(self.b.shape)

    def reinitialize(self) -> None:
        """New weights, for a network that does not learn from those it has."""
        bound = 2.4 / (np.prod(self.kernel_shape) / self.kernel_shape[0])
        self.W = np.random.uniform(-bound, bound, self.kernel_shape)  # noqa: NPY002 (the course's stream: the same seed gives the same weights)

    def forward_prop(self, X: np.ndarray) -> np.ndarray:
        """(n_sample, depth, in_h, in_w) -> (n_sample, n_filter, out_h, out_w); X is kept, padded."""
        X, W, b = common("ConvolveLayer", X, self.W, self.b)
        check_tiling("ConvolveLayer", X.shape[2:], W.shape[2:], (self.stride,) * 2, (self.pad,) * 2)
        self.X = pad(X, (self.pad,) * 4) if self.pad else X
        return conv2d(self.X, W, b, self.stride, 0)

    def backward_prop(self, d_global: np.ndarray, learning_rate: float, momentum: float = 0.9) -> np.ndarray | None:
        """The gradient of the input, (n_sample, depth, in_h, in_w); updates the weights."""
        d, X, W = common("ConvolveLayer.backward_prop", d_global, self.X, self.W)
        dX, dW, db = conv2d_backward(d, X, W, self.b, self.stride, 0, need_dx=_need_dx(self))
        self.W, self.b, self.v_W, self.v_b = update(self.W, self.b, dW, db, self.v_W, self.v_b, learning_rate, momentum)
        if dX is None or not self.pad:
            return dX
        return np.ascontiguousarray(dX[:, :, self.pad : -self.pad, self.pad : -self.pad])


class MaxpoolLayer:
    """filtersize x filtersize windows side by side; every tied maximum takes the whole gradient."""

    def __init__(self, filtersize: int = 2) -> None:
        self.filtersize = filtersize
        self.stride = filtersize

    def forward_prop(self, X: np.ndarray) -> np.ndarray:
        """(n_sample, depth, in_h, in_w) -> (n_sample, depth, in_h//filtersize, in_w//filtersize)."""
        self.X = X
        (X,) = common("MaxpoolLayer", X)
        check_tiling("MaxpoolLayer", X.shape[2:], (self.filtersize,) * 2, (self.stride,) * 2)
        return max_pool2d(X, self.filtersize, self.stride)

    def backward_prop(self, d_global: np.ndarray) -> np.ndarray:
        """The gradient of the input."""
        d, X = common("MaxpoolLayer.backward_prop", d_global, self.X)
        return max_pool2d_backward(d, X, self.filtersize, self.stride, ties="all")


class FullyConnectedLayer:
    """weight_shape (in, out); W normal with deviation 0.1, b = 0.01."""

    def __init__(self, weight_shape: tuple[int, int]) -> None:
        self.W = np.random.normal(0, 0.1, weight_shape)  # noqa: NPY002 (the course's stream)
        self.b = np.full(weight_shape[-1], 0.01)
        self.v_W, self.v_b = np.zeros(self.W.shape), np.zeros(self.b.shape)

    def forward_prop(self, X: np.ndarray) -> np.ndarray:
        """(n_sample, in) -> (n_sample, out)."""
        self.X = X
        X, W, b = common("FullyConnectedLayer", X, self.W, self.b)
        return linear(X, W.T, b)

    def backward_prop(self, d_global: np.ndarray, learning_rate: float, momentum: float = 0.9) -> np.ndarray | None:
        """The gradient of the input; updates the weights."""
        d, X, W = common("FullyConnectedLayer.backward_prop", d_global, self.X, self.W)
        dX = linear(d, W) if _need_dx(self) else None
        dW = linear_backward(X, d, W, output_mask=(False, True, False))[1]  # X.T @ d
        self.W, self.b, self.v_W, self.v_b = update(self.W, self.b, dW, d.sum(axis=0), self.v_W, self.v_b, learning_rate, momentum)
        return dX


class ActivationLayer:
    """Any function with its derivative: activation_func(x), d_activation_func(x, d_global)."""

    def __init__(self, activation_func: Callable[[Any], Any] = ReLU, d_activation_func: Callable[[Any, Any], Any] = d_ReLU) -> None:
        self.activation_func = activation_func
        self.d_activation_func = d_activation_func

    def forward_prop(self, X: np.ndarray) -> np.ndarray:
        """The same shape."""
        self.X = X
        return self.activation_func(X)

    def backward_prop(self, d_global: np.ndarray) -> np.ndarray:
        """The same shape."""
        return self.d_activation_func(self.X, d_global)


class LossLayer:
    """Softmax and cross entropy, summed over the batch; label (n_sample,) of class numbers."""

    def __init__(self, label: np.ndarray) -> None:
        self.label = label

    def forward_prop(self, X: np.ndarray) -> float:
        """(n_sample, classes) -> the sum of -log softmax(X) at the labels."""
        (X,) = common("LossLayer", X)
        self.probability = softmax(X, 1)
        shifted = X - X.max(axis=1, keepdims=True)
        picked = shifted[np.arange(len(X)), self.label] - np.log(np.exp(shifted).sum(axis=1))
        return float(-picked.sum())

    def backward_prop(self) -> np.ndarray:
        """softmax(X) less one at the labels."""
        d = self.probability.copy()
        d[np.arange(len(d)), self.label] -= 1
        return d


_NAMES = "forward_prop", "backward_prop"
_LAYERS = {
    "ConvolveLayer": pair(ConvolveLayer, ("W", "b", "stride", "pad"), ("W", "b", "v_W", "v_b"), _NAMES),
    "MaxpoolLayer": pair(MaxpoolLayer, ("filtersize", "stride"), ("filtersize",), _NAMES),
    "FullyConnectedLayer": pair(FullyConnectedLayer, ("W", "b"), ("W", "b", "v_W", "v_b"), _NAMES),
}

COURSE = Course(
    name="lenet_scratch",
    title="LeNet from scratch",
    methods={f"{home}:{name}": methods for name, methods in _LAYERS.items() for home in (f"utils.{name}", "__main__")},
    together=(_NAMES,),
)


def install() -> Installation:
    """Put these methods into the course's own classes, before or after they are imported."""
    return _install(COURSE)


def uninstall() -> None:
    """Everything as it was."""
    _uninstall(COURSE)
