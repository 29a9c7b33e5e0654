"""common/layers.py.

The methods also serve the course's own classes (install), so they use nothing of self but what the course's constructors set, and what they set themselves.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ...functional import (
    batch_norm,
    batch_norm_backward,
    linear,
    linear_backward,
    max_pool2d,
    max_pool2d_backward,
    pad,
    pad_backward,
    relu_backward,
    sigmoid_backward,
)
from ...options import number
from .._arrays import common, conv2d, conv2d_backward
from .._windows import check_tiling
from .functions import cross_entropy_error, relu, sigmoid, softmax
from .util import im2col

_EPS = 10e-7  # the course's BatchNormalization: 10e-7, not 1e-7


def _need_dx(layer: Any) -> bool:
    return getattr(layer, "need_dx", True)


class Relu:
    """max(x, 0). mask (True where x <= 0) is made when it is asked for."""

    def __init__(self) -> None:
        self.x: np.ndarray | None = None

    @property
    def mask(self) -> np.ndarray | None:
        """True where nothing passes; None before the first forward."""
        return None if self.x is None else self.x <= 0

    def forward(self, x: np.ndarray) -> np.ndarray:
        """The same shape."""
        (self.x,) = common("Relu", x)
        return relu(self.x)

    def backward(self, dout: np.ndarray) -> np.ndarray:
        """A new array; dout is left as it is."""
        return relu_backward(*common("Relu.backward", dout, self.x))


class Sigmoid:
    """1/(1 + exp(-x)); out is kept for backward."""

    def __init__(self) -> None:
        self.out: np.ndarray | None = None

    def forward(self, x: np.ndarray) -> np.ndarray:
        """The same shape."""
        self.out = sigmoid(x)
        return self.out

    def backward(self, dout: np.ndarray) -> np.ndarray:
        """dout * (1 - out) * out."""
        dout, out = common("Sigmoid.backward", dout, self.out)
        return sigmoid_backward(dout, out, output=out)


class Affine:
    """x.reshape(N, -1) @ W + b with W (I, O), b (O,); backward sets dW and db and gives dx in x's own shape."""

    def __init__(self, W: np.ndarray, b: np.ndarray) -> None:
        self.W = W
        self.b = b
        self.x: np.ndarray | None = None
        self.original_x_shape: tuple[int, ...] | None = None
        self.dW: np.ndarray | None = None
        self.db: np.ndarray | None = None

    def forward(self, x: np.ndarray) -> np.ndarray:
        """(N, *) -> (N, O)."""
        self.original_x_shape = x.shape
        x, W, b = common("Affine", x, self.W, self.b)
        self.x = x.reshape(len(x), -1)
        return linear(self.x, W.T, b)

    def backward(self, dout: np.ndarray) -> np.ndarray | None:
        """(N, O) -> x's shape, or None if not need_dx."""
        dout, x, W = common("Affine.backward", dout, self.x, self.W)
        # (O, I), then turned: the weight kernel splits its columns over the threads, and W has far more rows than columns
        self.dW = np.ascontiguousarray(linear_backward(dout, x, W.T, output_mask=(False, True, False))[1].T)
        self.db = np.sum(dout, axis=0)
        return linear(dout, W).reshape(self.original_x_shape) if _need_dx(self) else None


class SoftmaxWithLoss:
    """Softmax and the mean cross entropy (with the course's 1e-7 inside the logarithm); t holds labels or one-hot rows."""

    def __init__(self) -> None:
        self.loss: np.floating | None = None
        self.y: np.ndarray | None = None
        self.t: np.ndarray | None = None

    def forward(self, x: np.ndarray, t: np.ndarray) -> np.floating:
        """(N, K), (N,) or (N, K) -> the loss."""
        self.t = t
        self.y = softmax(x)
        self.loss = cross_entropy_error(self.y, t)
        return self.loss

    def backward(self, dout: Any = 1) -> np.ndarray:
        """(y - t)/N. dout is ignored, as in the course."""
        N = self.t.shape[0]
        if self.t.size == self.y.size:
            return (self.y - self.t) / N
        dx = self.y.copy()
        dx[np.arange(N), self.t] -= 1
        dx /= N
        return dx


class Dropout:
    """Dropout that is not inverted: x*mask in training, x*(1 - dropout_ratio) otherwise. The mask comes from np.random.rand, as the course's does."""

    def __init__(self, dropout_ratio: float = 0.5) -> None:
        self.dropout_ratio = dropout_ratio
        self.mask: np.ndarray | None = None

    def forward(self, x: np.ndarray, train_flg: bool = True) -> np.ndarray:
        """The same shape."""
        number(self.dropout_ratio, "Dropout", "dropout_ratio", 0, 1)
        if not train_flg:
            return x * (1.0 - self.dropout_ratio)
        self.mask = np.random.rand(*x.shape) > self.dropout_ratio  # noqa: NPY002 (the course's stream: the same seed drops the same units)
        return x * self.mask

    def backward(self, dout: np.ndarray) -> np.ndarray:
        """dout where kept."""
        return dout * self.mask


class BatchNormalization:
    """gamma*(x - mean)/sqrt(var + 1e-6) + beta per *activation*: statistics over N alone, gamma and beta (C*H*W,), also for images.

    running = momentum*running + (1 - momentum)*batch, the variance biased; both begin at zero.
    """

    def __init__(
        self,
        gamma: np.ndarray,
        beta: np.ndarray,
        momentum: float = 0.9,
        running_mean: np.ndarray | None = None,
        running_var: np.ndarray | None = None,
    ) -> None:
        self.gamma = gamma
        self.beta = beta
        self.momentum = momentum
        self.input_shape: tuple[int, ...] | None = None
        self.running_mean = running_mean
        self.running_var = running_var
        self.batch_size: int | None = None
        self.x: np.ndarray | None = None
        self.mean: np.ndarray | None = None
        self.var: np.ndarray | None = None
        self.dgamma: np.ndarray | None = None
        self.dbeta: np.ndarray | None = None

    @property
    def std(self) -> np.ndarray | None:
        """sqrt(var + 1e-6) of the last training batch."""
        return None if self.var is None else np.sqrt(self.var + _EPS)

    def forward(self, x: np.ndarray, train_flg: bool = True) -> np.ndarray:
        """(N, D) or (N, C, H, W), the same shape back."""
        self.input_shape = x.shape
        x, gamma, beta = common("BatchNormalization", x.reshape(len(x), -1), self.gamma, self.beta)
        if self.running_mean is None:
            self.running_mean, self.running_var = np.zeros(x.shape[1]), np.zeros(x.shape[1])
        if not train_flg:
            x, gamma, beta, mean, var = common("BatchNormalization", x, gamma, beta, self.running_mean, self.running_var)
            return batch_norm(x, mean, var, gamma, beta, eps=_EPS).reshape(self.input_shape)
        self.x, self.batch_size = x, len(x)
        if len(x) == 1:  # functional.batch_norm refuses a batch of one, whose variance is 0
            self.mean, self.var, out = x[0].copy(), np.zeros_like(x[0]), np.broadcast_to(beta, x.shape).copy()
        else:
            out, self.mean, self.var = batch_norm(x, None, None, gamma, beta, True, eps=_EPS, return_stats=True)
        self.running_mean = self.momentum * self.running_mean + (1 - self.momentum) * self.mean
        self.running_var = self.momentum * self.running_var + (1 - self.momentum) * self.var
        return out.reshape(self.input_shape)

    def backward(self, dout: np.ndarray) -> np.ndarray:
        """dx in x's shape; sets dgamma and dbeta."""
        dout, x, gamma, mean, var = common("BatchNormalization.backward", dout.reshape(len(dout), -1), self.x, self.gamma, self.mean, self.var)
        dx, self.dgamma, self.dbeta = batch_norm_backward(dout, x, weight=gamma, training=True, eps=_EPS, mean=mean, var=var)
        return dx.reshape(self.input_shape)


class Convolution:
    """NCHW images, OIHW filters W, biases b (O,), floor for strides that do not tile; backward sets dW and db.

    col and col_W, the matrices that the course multiplies, are made when they are asked for.
    """

    def __init__(self, W: np.ndarray, b: np.ndarray, stride: int = 1, pad: int = 0) -> None:
        self.W = W
        self.b = b
        self.stride = stride
        self.pad = pad
        self.x: np.ndarray | None = None
        self.dW: np.ndarray | None = None
        self.db: np.ndarray | None = None

    @property
    def col(self) -> np.ndarray | None:
        """im2col of the last input; None before the first forward."""
        return None if self.x is None else im2col(self.x, *self.W.shape[2:], self.stride, self.pad)

    @property
    def col_W(self) -> np.ndarray:
        """The filters as columns, (C*FH*FW, O)."""
        return self.W.reshape(len(self.W), -1).T

    def forward(self, x: np.ndarray) -> np.ndarray:
        """(N,C,H,W) -> (N,O,OH,OW)."""
        self.x = x
        x, W, b = common("Convolution", x, self.W, self.b)
        check_tiling("Convolution", x.shape[2:], W.shape[2:], (self.stride,) * 2, (self.pad,) * 2)
        return conv2d(x, W, b, self.stride, self.pad)

    def backward(self, dout: np.ndarray) -> np.ndarray | None:
        """(N,O,OH,OW) -> (N,C,H,W), or None if not need_dx."""
        dout, x, W = common("Convolution.backward", dout, self.x, self.W)
        dx, self.dW, self.db = conv2d_backward(dout, x, W, self.b, self.stride, self.pad, need_dx=_need_dx(self))
        return dx


class Pooling:
    """Maximum over pool_h x pool_w windows, stride 2 by default; the first maximum takes the gradient, overlapping windows add up."""

    def __init__(self, pool_h: int, pool_w: int, stride: int = 2, pad: int = 0) -> None:
        self.pool_h = pool_h
        self.pool_w = pool_w
        self.stride = stride
        self.pad = pad
        self.x: np.ndarray | None = None
        self.indices: np.ndarray | None = None

    @property
    def arg_max(self) -> np.ndarray | None:
        """Where in its window each maximum was found, in the order n, oh, ow, c; None before the first forward."""
        if self.indices is None:
            return None
        OH, OW = self.indices.shape[2:]
        h, w = np.divmod(self.indices, self.x.shape[3] + 2 * self.pad)
        tap = (h - self.stride * np.arange(OH)[:, None]) * self.pool_w + (w - self.stride * np.arange(OW))
        return tap.transpose(0, 2, 3, 1).reshape(-1)

    def forward(self, x: np.ndarray) -> np.ndarray:
        """(N,C,H,W) -> (N,C,OH,OW)."""
        self.x = x
        window, stride = (self.pool_h, self.pool_w), (self.stride, self.stride)
        check_tiling("Pooling", x.shape[2:], window, stride, (self.pad, self.pad))
        out, self.indices = max_pool2d(_bordered(x, self.pad), window, stride, return_indices=True)
        return out

    def backward(self, dout: np.ndarray) -> np.ndarray:
        """(N,C,OH,OW) -> (N,C,H,W)."""
        dout, x = common("Pooling.backward", dout, self.x)
        dx = max_pool2d_backward(dout, _bordered(x, self.pad), (self.pool_h, self.pool_w), self.stride, indices=self.indices)
        return pad_backward(dx, x, (self.pad,) * 4) if self.pad else dx


def _bordered(x: np.ndarray, width: int) -> np.ndarray:
    """x within a border of zeros."""
    (x,) = common("Pooling", x)
    return pad(x, (width,) * 4) if width else x
