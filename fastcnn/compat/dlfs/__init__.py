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

Weights are read at every call, never cached: the course's optimizers change them in place.
"""

from __future__ import annotations

from typing import Any

from .._install import Course, Installation
from .._install import install as _install
from .._install import uninstall as _uninstall
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


def _methods(module: str, names: tuple[str, ...], *classes: type) -> dict[str, dict[str, Any]]:
    return {f"{module}:{kind.__name__}": {name: vars(kind)[name] for name in names} for kind in classes}


COURSE = Course(
    name="dlfs",
    title="Deep Learning from Scratch",
    names={
        "common.util": {"im2col": im2col, "col2im": col2im},
        "common.functions": {"sigmoid": sigmoid, "relu": relu, "softmax": softmax, "cross_entropy_error": cross_entropy_error},
        "dezero.functions_conv": {"im2col_array": im2col_array, "col2im_array": col2im_array},
    },
    methods=_methods("common.layers", ("forward", "backward"), Affine, BatchNormalization, Convolution, Pooling, Relu, Sigmoid, SoftmaxWithLoss)
    | _methods("common.optimizer", ("update",), SGD, Momentum, AdaGrad, RMSprop, Adam),
)


def install() -> Installation:
    """Put these functions, and these methods into the course's own classes, in place of the course's, before or after it is imported."""
    return _install(COURSE)


def uninstall() -> None:
    """Everything as it was."""
    _uninstall(COURSE)
