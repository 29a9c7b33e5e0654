"""Max pooling by repeating the maxima and comparing."""

import numpy as np


class MaxpoolLayer:
    def __init__(self, filtersize=2):
        self.filtersize = self.stride = filtersize

    def forward_prop(self, X):
        f, self.X = self.filtersize, X
        self.Y = np.zeros((*X.shape[:2], X.shape[2] // f, X.shape[3] // f))
        for i in range(self.Y.shape[2]):
            for j in range(self.Y.shape[3]):
                self.Y[:, :, i, j] = np.max(X[:, :, i * f : i * f + f, j * f : j * f + f], axis=(2, 3))
        return self.Y

    def backward_prop(self, d_global):
        f = self.filtersize
        mask = self.X == self.Y.repeat(f, axis=2).repeat(f, axis=3)
        return mask * d_global.repeat(f, axis=2).repeat(f, axis=3)
