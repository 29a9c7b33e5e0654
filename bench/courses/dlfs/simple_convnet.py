"""conv - relu - pool - affine - relu - affine - softmax, as in the book's chapter 7, and one step of its trainer."""

import numpy as np

from .common.layers import Affine, Convolution, Pooling, Relu, SoftmaxWithLoss
from .common.optimizer import Adam


class SimpleConvNet:
    def __init__(self, input_dim=(1, 28, 28), filters=30, size=5, hidden=100, classes=10, std=0.01, seed=0):
        rng = np.random.default_rng(seed)
        pooled = filters * ((input_dim[1] - size + 1) // 2) ** 2
        self.params = {
            "W1": std * rng.standard_normal((filters, input_dim[0], size, size)),
            "b1": np.zeros(filters),
            "W2": std * rng.standard_normal((pooled, hidden)),
            "b2": np.zeros(hidden),
            "W3": std * rng.standard_normal((hidden, classes)),
            "b3": np.zeros(classes),
        }
        p = self.params
        self.layers = [Convolution(p["W1"], p["b1"]), Relu(), Pooling(2, 2, 2), Affine(p["W2"], p["b2"]), Relu(), Affine(p["W3"], p["b3"])]
        self.last = SoftmaxWithLoss()

    def loss(self, x, t):
        for layer in self.layers:
            x = layer.forward(x)
        return self.last.forward(x, t)

    def gradient(self, x, t):
        self.loss(x, t)
        dout = self.last.backward()
        for layer in reversed(self.layers):
            dout = layer.backward(dout)
        conv, first, second = self.layers[0], self.layers[3], self.layers[5]
        return {"W1": conv.dW, "b1": conv.db, "W2": first.dW, "b2": first.db, "W3": second.dW, "b3": second.db}


class Trainer:
    """One step: the gradient, the update, and the loss by a second forward pass."""

    def __init__(self, network):
        self.network, self.optimizer = network, Adam()

    def step(self, x, t):
        self.optimizer.update(self.network.params, self.network.gradient(x, t))
        return self.network.loss(x, t)
