"""Convolution, backward for stride 1."""

import numpy as np

from .helper import update


class ConvolveLayer:
    def __init__(self, kernel_shape, stride=1, pad=0):
        self.n_filter, self.depth, self.filtersize, _ = kernel_shape
        self.stride, self.pad = stride, pad
        bound = 2.4 / (self.depth * self.filtersize**2)
        self.W = np.random.default_rng().uniform(-bound, bound, kernel_shape)
        self.b = np.ones((1, self.n_filter, 1, 1)) * 0.01
        self.v_W, self.v_b = np.zeros(self.W.shape), np.zeros(self.b.shape)

    def forward_prop(self, X):
        f = self.filtersize
        self.X = np.pad(X, ((0, 0), (0, 0), (self.pad, self.pad), (self.pad, self.pad)))
        rows, columns = (self.X.shape[2] - f) // self.stride + 1, (self.X.shape[3] - f) // self.stride + 1
        Y = np.zeros((len(X), self.n_filter, rows, columns))
        for i in range(rows):
            for j in range(columns):
                window = self.X[:, :, i * self.stride : i * self.stride + f, j * self.stride : j * self.stride + f]
                Y[:, :, i, j] = np.tensordot(window, self.W, [[1, 2, 3], [1, 2, 3]])
        return Y + self.b

    def backward_prop(self, d_global, learning_rate, momentum=0.9):
        f, (_, _, rows, columns) = self.filtersize, d_global.shape
        padded = np.pad(d_global, ((0, 0), (0, 0), (f - 1, f - 1), (f - 1, f - 1)))
        flipped, dX, dW = self.W[:, :, ::-1, ::-1], np.zeros(self.X.shape), np.zeros(self.W.shape)
        for i in range(dX.shape[2]):
            for j in range(dX.shape[3]):
                dX[:, :, i, j] = np.tensordot(padded[:, :, i : i + f, j : j + f], flipped, [[1, 2, 3], [0, 2, 3]])
        for i in range(f):
            for j in range(f):
                dW[:, :, i, j] = np.tensordot(d_global, self.X[:, :, i : i + rows, j : j + columns], [[0, 2, 3], [0, 2, 3]])
        db = d_global.sum(axis=(0, 2, 3)).reshape(self.b.shape)
        self.W, self.b, self.v_W, self.v_b = update(self.W, self.b, dW, db, self.v_W, self.v_b, learning_rate, momentum)
        return dX
