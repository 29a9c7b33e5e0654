"""The strided layers with im2col."""

from .. import columns
from .nn import Conv2d as conv
from .nn import pool


class Conv2d(conv.Conv2d):
    def forward(self, A):
        self.shape, inner = A.shape, self.conv2d_stride1
        Z, self.cols = columns.conv_forward(A, inner.W, inner.b, self.stride, self.pad)
        return Z

    def backward(self, dLdZ):
        inner = self.conv2d_stride1
        dLdA, dLdW, dLdb = columns.conv_backward(dLdZ, self.cols, self.shape, inner.W, self.stride, self.pad)
        inner.dLdW, inner.dLdb = inner.dLdW + dLdW, inner.dLdb + dLdb
        return dLdA


class MaxPool2d(pool.MaxPool2d):
    def forward(self, A):
        self.A = A
        self.windows = columns.pool_windows(A, self.kernel, self.stride)
        return self.windows.max(axis=-1).reshape(*A.shape[:2], *self.windows.shape[1:3])

    def backward(self, dLdZ):
        taps = columns.first_maximum(self.windows) * dLdZ.reshape(self.windows.shape[:-1])[..., None]
        return columns.pool_added(taps, self.A.shape, self.kernel, self.stride)
