"""conv - relu - pool - affine - relu - affine - softmax, as in the book's chapter 7, and one step of its trainer.

kit is the module with the layers: the course's, or what stands in for it.
"""

import numpy as np

from .common import layers, optimizer


class SimpleConvNet:
    def __init__(self, kit=layers, input_dim=(1, 28, 28), filters=30, size=5, hidden=100, classes=10, std=0.01):
        rng = np.random.default_rng(0)
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
        self.layers = [kit.Convolution(p["W1"], p["b1"]), kit.Relu(), kit.Pooling(2, 2, 2)]
        self.layers += [kit.Affine(p["W2"], p["b2"]), kit.Relu(), kit.Affine(p["W3"], p["b3"])]
        self.last = kit.SoftmaxWithLoss()

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

    def __init__(self, network, kit=optimizer):
        self.network, self.optimizer = network, kit.Adam()

    def step(self, x, t):
        self.optimizer.update(self.network.params, self.network.gradient(x, t))
        return self.network.loss(x, t)
