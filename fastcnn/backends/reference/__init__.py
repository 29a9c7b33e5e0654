"""The reference backend: every op of the table in pure NumPy, written to be read and to be right. It accepts all that the fast backends accept."""

# ruff: noqa: F401  (the imported names are the backend: fastcnn.backends.reference.conv2d, ...)

from ..ops import OPS
from .activation import (
    dropout,
    dropout_backward,
    elu,
    elu_backward,
    gelu,
    gelu_backward,
    leaky_relu,
    leaky_relu_backward,
    log_softmax,
    log_softmax_backward,
    prelu,
    prelu_backward,
    relu,
    relu_backward,
    selu,
    selu_backward,
    sigmoid,
    sigmoid_backward,
    silu,
    silu_backward,
    softmax,
    softmax_backward,
    softplus,
    softplus_backward,
    tanh,
    tanh_backward,
)
from .conv import channels_last, conv2d, conv2d_grad_bias, conv2d_grad_input, conv2d_grad_weight
from .linear import linear, linear_grad_bias, linear_grad_input, linear_grad_weight
from .loss import (
    binary_cross_entropy,
    binary_cross_entropy_backward,
    binary_cross_entropy_with_logits,
    binary_cross_entropy_with_logits_backward,
    cross_entropy,
    cross_entropy_backward,
    mse_loss,
    mse_loss_backward,
    nll_loss,
    nll_loss_backward,
)
from .norm import batch_norm, batch_norm_backward, group_norm, group_norm_backward, layer_norm, layer_norm_backward
from .optim import adagrad_update, adam_update, rmsprop_update, sgd_update
from .pool import (
    adaptive_avg_pool2d,
    adaptive_avg_pool2d_backward,
    adaptive_max_pool2d,
    avg_pool2d,
    avg_pool2d_backward,
    col2im,
    fold,
    im2col,
    max_pool2d,
    max_pool2d_backward,
    max_pool2d_backward_places,
    max_pool2d_backward_ties,
    unfold,
)
from .resample import interpolate, interpolate_backward, pad, pad_backward

name = "reference"
functions = {op: globals()[op] for op in OPS}
