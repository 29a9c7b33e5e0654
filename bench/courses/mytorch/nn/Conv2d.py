"""Convolution: np.tensordot per output pixel."""

import numpy as np

from .resampling import Downsample2d


class Conv2d_stride1:
    def __init__(self, in_channels, out_channels, kernel_size, weight_init_fn=None, bias_init_fn=None):
        self.kernel_size = kernel_size
        self.W = weight_init_fn(out_channels, in_channels, kernel_size, kernel_size)
        self.b = np.zeros(out_channels)
        self.dLdW, self.dLdb = np.zeros(self.W.shape), np.zeros(out_channels)

    def forward(self, A):
        self.A, K = A, self.kernel_size
        Z = np.zeros((len(A), len(self.W), A.shape[2] - K + 1, A.shape[3] - K + 1))
        for i in range(Z.shape[2]):
            for j in range(Z.shape[3]):
                Z[:, :, i, j] = np.tensordot(A[:, :, i : i + K, j : j + K], self.W, axes=([1, 2, 3], [1, 2, 3])) + self.b
        return Z

    def backward(self, dLdZ):
        K, (_, _, rows, columns) = self.kernel_size, dLdZ.shape
        for i in range(K):
            for j in range(K):
                self.dLdW[:, :, i, j] += np.tensordot(dLdZ, self.A[:, :, i : i + rows, j : j + columns], axes=([0, 2, 3], [0, 2, 3]))
        self.dLdb += dLdZ.sum(axis=(0, 2, 3))
        padded = np.pad(dLdZ, ((0, 0), (0, 0), (K - 1, K - 1), (K - 1, K - 1)))
        flipped, dLdA = self.W[:, :, ::-1, ::-1], np.zeros(self.A.shape)
        for i in range(dLdA.shape[2]):
            for j in range(dLdA.shape[3]):
                dLdA[:, :, i, j] = np.tensordot(padded[:, :, i : i + K, j : j + K], flipped, axes=([1, 2, 3], [0, 2, 3]))
        return dLdA


class Conv2d:
    def __init__(self, in_channels, out_channels, kernel_size, stride, padding=0, weight_init_fn=None, bias_init_fn=None):
        self.stride, self.pad = stride, padding
        self.conv2d_stride1 = Conv2d_stride1(in_channels, out_channels, kernel_size, weight_init_fn, bias_init_fn)
        self.downsample2d = Downsample2d(stride)

    def forward(self, A):
        padded = np.pad(A, ((0, 0), (0, 0), (self.pad, self.pad), (self.pad, self.pad)))
        return self.downsample2d.forward(self.conv2d_stride1.forward(padded))

    def backward(self, dLdZ):
        dLdA = self.conv2d_stride1.backward(self.downsample2d.backward(dLdZ))
        return dLdA[:, :, self.pad : dLdA.shape[2] - self.pad, self.pad : dLdA.shape[3] - self.pad]
