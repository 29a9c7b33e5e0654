"""The same layers with im2col."""

import numpy as np

from .. import columns
from .utils import ConvolveLayer as conv
from .utils import MaxpoolLayer as pool
from .utils.FullyConnectedLayer import FullyConnectedLayer
from .utils.helper import update

__all__ = ["ConvolveLayer", "FullyConnectedLayer", "MaxpoolLayer"]


class ConvolveLayer(conv.ConvolveLayer):
    def forward_prop(self, X):
        out, self.cols = columns.conv_forward(X, self.W, self.b, self.stride, self.pad)
        self.X = X
        return out

    def backward_prop(self, d_global, learning_rate, momentum=0.9):
        dX, dW, db = columns.conv_backward(d_global, self.cols, self.X.shape, self.W, self.stride, self.pad)
        self.W, self.b, self.v_W, self.v_b = update(self.W, self.b, dW, db.reshape(self.b.shape), self.v_W, self.v_b, learning_rate, momentum)
        return dX


class MaxpoolLayer(pool.MaxpoolLayer):
    def forward_prop(self, X):
        N, C, H, W = X.shape
        f, self.X = self.filtersize, X
        self.Y = np.max(X.reshape(N, C, H // f, f, W // f, f), axis=(3, 5))
        return self.Y
