"""A dense layer."""

import numpy as np

from .helper import update


class FullyConnectedLayer:
    def __init__(self, weight_shape):
        self.W = np.random.default_rng().normal(0, 0.1, weight_shape)
        self.b = np.ones(weight_shape[-1]) * 0.01
        self.v_W, self.v_b = np.zeros(self.W.shape), np.zeros(self.b.shape)

    def forward_prop(self, X):
        self.X = X
        return X @ self.W + self.b

    def backward_prop(self, d_global, learning_rate, momentum=0.9):
        dX = d_global @ self.W.T
        dW, db = self.X.T @ d_global, d_global.sum(axis=0)
        self.W, self.b, self.v_W, self.v_b = update(self.W, self.b, dW, db, self.v_W, self.v_b, learning_rate, momentum)
        return dX
