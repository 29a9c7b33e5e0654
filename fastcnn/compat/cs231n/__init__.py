"""Stanford's cs231n, assignment 2 (and CS182's, which has the same functions): im2col_cython, im2col, fast_layers, layers, layer_utils and optim.

    import fastcnn.compat.cs231n
    print(fastcnn.compat.cs231n.install())     # before or after the imports of cs231n; uninstall() takes it back

level=1 only provides the extension cs231n.im2col_cython, which no longer builds as it is given out; level=2 computes all convolutions, poolings and im2col
functions as well; level=3, the default, also affine, ReLU, normalisation, dropout, the losses, the sandwich layers, Adam and RMSProp.

Signatures, caches and results are the course's, with these differences:

- float32 and float64 mix as np.result_type says, integers become float64; results are fresh C-contiguous arrays.
- conv_backward_* and affine_backward take need_dx=False, for the first layer.
- the fifth entry of a fast convolution's cache, its columns, is None.
- windows that do not tile the image leave the rest out, but for the functions that assert it in the course (and everywhere with fastcnn.compat.strict_windows).
- max_pool_forward_fast works with overlapping windows.

Dropout's p is the probability to keep a value, or to drop it where the docstring of the function that is replaced says so (2016, 2017).
"""

from __future__ import annotations

import inspect
import re
from typing import Any

from .._install import Choose, Course, Installation
from .._install import install as _install
from .._install import uninstall as _uninstall
from ._columns import (
    col2im_6d_cython,
    col2im_cython,
    col2im_indices,
    get_im2col_indices,
    im2col_cython,
    im2col_indices,
)
from ._conv import (
    conv_backward_fast,
    conv_backward_im2col,
    conv_backward_naive,
    conv_backward_strides,
    conv_forward_fast,
    conv_forward_im2col,
    conv_forward_naive,
    conv_forward_strides,
    max_pool_backward_fast,
    max_pool_backward_im2col,
    max_pool_backward_naive,
    max_pool_backward_reshape,
    max_pool_forward_fast,
    max_pool_forward_im2col,
    max_pool_forward_naive,
    max_pool_forward_reshape,
)
from ._layers import (
    affine_backward,
    affine_forward,
    batchnorm_backward,
    batchnorm_backward_alt,
    batchnorm_forward,
    dropout_backward,
    dropout_forward,
    dropout_forward_2016,
    layernorm_backward,
    layernorm_forward,
    relu_backward,
    relu_forward,
    softmax_loss,
    spatial_batchnorm_backward,
    spatial_batchnorm_forward,
    spatial_groupnorm_backward,
    spatial_groupnorm_forward,
    svm_loss,
)
from ._optim import adam, adam_from_1, rmsprop
from ._sandwiches import (
    affine_bn_relu_backward,
    affine_bn_relu_forward,
    affine_relu_backward,
    affine_relu_forward,
    conv_bn_relu_backward,
    conv_bn_relu_forward,
    conv_relu_backward,
    conv_relu_forward,
    conv_relu_pool_backward,
    conv_relu_pool_forward,
)


def _named(*functions: Any) -> dict[str, Any]:
    return {function.__name__: function for function in functions}


_EXTENSION = _named(im2col_cython, col2im_cython, col2im_6d_cython)
_IM2COL = _named(get_im2col_indices, im2col_indices, col2im_indices)
_NAIVE = _named(conv_forward_naive, conv_backward_naive, max_pool_forward_naive, max_pool_backward_naive)
_FAST = _named(
    conv_forward_im2col, conv_backward_im2col, conv_forward_strides, conv_backward_strides, conv_forward_fast, conv_backward_fast,
    max_pool_forward_reshape, max_pool_backward_reshape, max_pool_forward_im2col, max_pool_backward_im2col,
    max_pool_forward_fast, max_pool_backward_fast,
)  # fmt: skip
_LAYERS = _named(
    affine_forward, affine_backward, relu_forward, relu_backward, batchnorm_forward, batchnorm_backward, batchnorm_backward_alt, layernorm_forward,
    layernorm_backward, dropout_forward, dropout_backward, spatial_batchnorm_forward, spatial_batchnorm_backward,
    spatial_groupnorm_forward, spatial_groupnorm_backward, softmax_loss, svm_loss,
)  # fmt: skip
_SANDWICHES = _named(
    affine_relu_forward, affine_relu_backward, affine_bn_relu_forward, affine_bn_relu_backward, conv_relu_forward, conv_relu_backward,
    conv_bn_relu_forward, conv_bn_relu_backward, conv_relu_pool_forward, conv_relu_pool_backward,
)  # fmt: skip
_OPTIM = _named(adam, rmsprop)

__all__ = ["install", "uninstall", "dropout_forward_2016", "adam_from_1", *_EXTENSION, *_IM2COL, *_NAIVE, *_FAST, *_LAYERS, *_SANDWICHES, *_OPTIM]


def _dropout_of_its_year(original: Any) -> Any:
    """The docstring says "We drop each neuron output with probability p" or "We keep ..."."""
    return dropout_forward_2016 if re.search(r"\bdrop each neuron", original.__doc__ or "") else dropout_forward


def _adam_of_its_year(original: Any) -> Any:
    try:
        source = inspect.getsource(original)
    except (OSError, TypeError):
        return adam
    return adam_from_1 if re.search(r"""setdefault\(\s*['"]t['"]\s*,\s*1\s*\)""", source) else adam


def _partners(*groups: dict[str, Any]) -> tuple[tuple[str, ...], ...]:
    """forward and backward of each layer, which must be of one make: the one reads the other's cache."""
    found: dict[str, list[str]] = {}
    for name in (name for group in groups for name in group if "forward" in name or "backward" in name):
        found.setdefault(re.sub(r"_(forward|backward)|_alt$", "", name), []).append(name)
    return tuple(map(tuple, found.values()))


def course(level: int = 3, package: str = "cs231n") -> Course:
    """The course as install() takes it: package is the name under which its files are imported."""
    if level not in (1, 2, 3):
        raise ValueError(f"install: level must be 1, 2 or 3, got {level!r}")
    names: dict[str, dict[str, Any]] = {}
    if level >= 2:
        names |= {"im2col": _IM2COL, "fast_layers": _FAST, "layers": _NAIVE}
    if level >= 3:
        chosen = {"dropout_forward": Choose(_dropout_of_its_year, dropout_forward)}
        names["layers"] = _NAIVE | _LAYERS | chosen
        names["layer_utils"] = _SANDWICHES
        names["optim"] = _OPTIM | {"adam": Choose(_adam_of_its_year, adam)}
    return Course(
        "cs231n",
        "Stanford cs231n, assignment 2",
        names={f"{package}.{module}": replacements for module, replacements in names.items()},
        adds={f"{package}.fast_layers": _EXTENSION},
        provides={f"{package}.im2col_cython": _EXTENSION},
        together=_partners(_NAIVE, _FAST, _LAYERS, _SANDWICHES),
    )


COURSE = course()


def install(level: int = 3, package: str = "cs231n") -> Installation:
    """Compute the course's functions with fastcnn, in modules that are imported already and in those that will be.

    level    1: the extension im2col_cython; 2: and convolution, pooling, im2col; 3: and everything else listed above
    package  the name under which the course's files are imported: "deeplearning" in CS182
    """
    return _install(course(level, package))


def uninstall() -> None:
    """Everything as it was before install()."""
    _uninstall(COURSE)
