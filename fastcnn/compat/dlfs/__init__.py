"""Deep Learning from Scratch (O'Reilly Japan, "Zero kara tsukuru Deep Learning"): the names of common/util.py, common/functions.py,
common/layers.py and common/optimizer.py, and two of DeZero's.

    import fastcnn.compat.dlfs; fastcnn.compat.dlfs.install()      # before or after `from common.layers import *`

or `from fastcnn.compat.dlfs import *` in place of `from common.layers import *`. Images are (N, C, H, W), filters (O, C, FH, FW), biases (O,).

Signatures, attributes and results are the course's, with these differences, none of which its own code can see:

- the layers compute in np.result_type of their arrays: float64 with the course's float64 weights, float32 if images and weights are float32 (the
  course computes that in float64 by accident). im2col and col2im give float64 always, as the course's do.
- no gradient is written into its argument: the course's Relu.backward overwrites dout, this one returns a new array.
- Pooling with pad > 0 counts the padding in its output size (the course's fails in reshape); the border is made of zeros, which can win, as there.
- need_dx = False on a layer with weights makes backward return None and skip the gradient that nobody uses (the first layer's).

install() leaves alone what the layers do not gain from (Dropout, SoftmaxWithLoss, Nesterov), and layers that keep their weights elsewhere (those of the second
book, whose optimizers it does take).

Weights are read at every call, never cached: the course's optimizers change them in place.
"""

from __future__ import annotations

from .._install import Course, Installation
from .._install import install as _install
from .._install import uninstall as _uninstall
from .._methods import pair, where_used
from .dezero import col2im_array, im2col_array
from .functions import cross_entropy_error, relu, sigmoid, softmax
from .layers import Affine, BatchNormalization, Convolution, Dropout, Pooling, Relu, Sigmoid, SoftmaxWithLoss
from .optimizer import SGD, AdaGrad, Adam, Momentum, RMSprop
from .util import col2im, im2col

__all__ = [
    "SGD",
    "AdaGrad",
    "Adam",
    "Affine",
    "BatchNormalization",
    "Convolution",
    "Dropout",
    "Momentum",
    "Pooling",
    "RMSprop",
    "Relu",
    "Sigmoid",
    "SoftmaxWithLoss",
    "col2im",
    "cross_entropy_error",
    "im2col",
    "install",
    "relu",
    "sigmoid",
    "softmax",
    "uninstall",
]


_LAYERS = {
    "Affine": pair(Affine, ("W", "b"), ("W", "dW", "db")),
    "BatchNormalization": {name: vars(BatchNormalization)[name] for name in ("forward", "backward")},
    "Convolution": pair(Convolution, ("W", "b", "stride", "pad"), ("W", "dW", "db")),
    "Pooling": pair(Pooling, ("pool_h", "pool_w", "stride", "pad"), ("pool_h", "pool_w", "stride", "pad")),
    "Relu": pair(Relu, ("mask",), ("mask",)),
    "Sigmoid": pair(Sigmoid, ("out",), ("out",)),
}
_OPTIMIZERS = {
    "SGD": where_used(SGD.update, "lr"),
    "Momentum": where_used(Momentum.update, "lr", "momentum", "v"),
    "AdaGrad": where_used(AdaGrad.update, "lr", "h"),
    "RMSprop": where_used(RMSprop.update, "lr", "decay_rate", "h"),
    "Adam": where_used(Adam.update, "lr", "beta1", "beta2", "iter", "m", "v"),
}

COURSE = Course(
    name="dlfs",
    title="Deep Learning from Scratch",
    names={
        "common.util": {"im2col": im2col, "col2im": col2im},
        "common.functions": {"sigmoid": sigmoid, "relu": relu, "softmax": softmax, "cross_entropy_error": cross_entropy_error},
        "dezero.functions_conv": {"im2col_array": im2col_array, "col2im_array": col2im_array},
    },
    methods={f"common.layers:{name}": methods for name, methods in _LAYERS.items()}
    | {f"common.optimizer:{name}": {"update": method} for name, method in _OPTIMIZERS.items()},
    together=(("forward", "backward"),),
)


def install() -> Installation:
    """Put these functions, and these methods into the course's own classes, in place of the course's, before or after it is imported."""
    return _install(COURSE)


def uninstall() -> None:
    """Everything as it was."""
    _uninstall(COURSE)
