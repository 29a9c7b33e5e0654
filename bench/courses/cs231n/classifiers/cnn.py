"""conv - relu - 2x2 max pool - affine - relu - affine - softmax."""

import numpy as np

from ..fast_layers import *  # noqa: F403
from ..layer_utils import *  # noqa: F403
from ..layers import *  # noqa: F403

# ruff: noqa: F405


class ThreeLayerConvNet:
    def __init__(
        self, input_dim=(3, 32, 32), num_filters=32, filter_size=7, hidden_dim=100, num_classes=10, weight_scale=1e-3, reg=0.0, dtype=np.float32
    ):
        C, H, W = input_dim
        rng = np.random.default_rng(0)
        self.params, self.reg, self.dtype = {}, reg, dtype
        self.params["W1"] = weight_scale * rng.standard_normal((num_filters, C, filter_size, filter_size))
        self.params["b1"] = np.zeros(num_filters)
        self.params["W2"] = weight_scale * rng.standard_normal((num_filters * (H // 2) * (W // 2), hidden_dim))
        self.params["b2"] = np.zeros(hidden_dim)
        self.params["W3"] = weight_scale * rng.standard_normal((hidden_dim, num_classes))
        self.params["b3"] = np.zeros(num_classes)
        for name, value in self.params.items():
            self.params[name] = value.astype(dtype)

    def loss(self, X, y=None):
        W1, b1, W2, b2, W3, b3 = (self.params[name] for name in ("W1", "b1", "W2", "b2", "W3", "b3"))
        conv_param, pool_param = {"stride": 1, "pad": (W1.shape[2] - 1) // 2}, {"pool_height": 2, "pool_width": 2, "stride": 2}
        out, cache1 = conv_relu_pool_forward(X, W1, b1, conv_param, pool_param)
        out, cache2 = affine_relu_forward(out, W2, b2)
        scores, cache3 = affine_forward(out, W3, b3)
        if y is None:
            return scores
        loss, dout = softmax_loss(scores, y)
        loss += 0.5 * self.reg * sum(np.sum(W * W) for W in (W1, W2, W3))
        grads = {}
        dout, grads["W3"], grads["b3"] = affine_backward(dout, cache3)
        dout, grads["W2"], grads["b2"] = affine_relu_backward(dout, cache2)
        dout, grads["W1"], grads["b1"] = conv_relu_pool_backward(dout, cache1)
        for name in ("W1", "W2", "W3"):
            grads[name] += self.reg * self.params[name]
        return loss, grads
