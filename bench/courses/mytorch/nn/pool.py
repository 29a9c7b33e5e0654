"""Max pooling: a loop over images, channels, rows and columns."""

import numpy as np

from .resampling import Downsample2d


class MaxPool2d_stride1:
    def __init__(self, kernel):
        self.kernel = kernel

    def forward(self, A):
        K, self.shape, self.where = self.kernel, A.shape, {}
        Z = np.zeros((*A.shape[:2], A.shape[2] - K + 1, A.shape[3] - K + 1))
        for n, c, i, j in np.ndindex(*Z.shape):
            window = A[n, c, i : i + K, j : j + K]
            a, b = np.unravel_index(np.argmax(window), (K, K))
            Z[n, c, i, j], self.where[n, c, i, j] = window[a, b], (n, c, i + a, j + b)
        return Z

    def backward(self, dLdZ):
        dLdA = np.zeros(self.shape)
        for place in np.ndindex(*dLdZ.shape):
            dLdA[self.where[place]] += dLdZ[place]
        return dLdA


class MaxPool2d:
    def __init__(self, kernel, stride):
        self.kernel, self.stride = kernel, stride
        self.maxpool2d_stride1, self.downsample2d = MaxPool2d_stride1(kernel), Downsample2d(stride)

    def forward(self, A):
        return self.downsample2d.forward(self.maxpool2d_stride1.forward(A))

    def backward(self, dLdZ):
        return self.maxpool2d_stride1.backward(self.downsample2d.backward(dLdZ))
