"""What the layers of CMU 11-785's mytorch compute, one- and two-dimensional, in plain loops, written from the description of their interface: the oracle of
the tests of fastcnn.compat.mytorch. Stride-1 layers first; the strided ones are those followed by a downsampling. NCHW and NCW."""

import numpy as np


def conv(A, W, b):
    """Stride 1, no padding, any number of spatial axes: A (N, C, *), W (O, C, *K)."""
    size = [a - k + 1 for a, k in zip(A.shape[2:], W.shape[2:], strict=True)]
    Z = np.zeros((len(A), len(W), *size))
    for place in np.ndindex(*size):
        window = A[(slice(None), slice(None), *(slice(p, p + k) for p, k in zip(place, W.shape[2:], strict=True)))]
        for o in range(len(W)):
            Z[(slice(None), o, *place)] = (window * W[o]).reshape(len(A), -1).sum(axis=1) + b[o]
    return Z


def conv_backward(dLdZ, A, W):
    """(dLdA, dLdW, dLdb)."""
    dLdA, dLdW = np.zeros(A.shape), np.zeros(W.shape)
    for place in np.ndindex(*dLdZ.shape[2:]):
        window = (slice(None), slice(None), *(slice(p, p + k) for p, k in zip(place, W.shape[2:], strict=True)))
        for o in range(len(W)):
            delta = dLdZ[(slice(None), o, *place)].reshape(-1, *[1] * (A.ndim - 1))
            dLdA[window] += delta * W[o]
            dLdW[o] += (delta * A[window]).sum(axis=0)
    return dLdA, dLdW, dLdZ.sum(axis=(0, *range(2, dLdZ.ndim)))


def pad(A, width):
    """Zeros around the spatial axes."""
    out = np.zeros((*A.shape[:2], *(n + 2 * width for n in A.shape[2:])))
    out[unpad(out, width)] = A
    return out


def unpad(A, width):
    return (slice(None), slice(None), *(slice(width, n - width) for n in A.shape[2:]))


def downsample(A, k):
    return A[(slice(None), slice(None), *(slice(None, None, k) for _ in A.shape[2:]))]


def downsample_backward(dLdZ, shape, k):
    out = np.zeros(shape)
    out[(slice(None), slice(None), *(slice(None, None, k) for _ in shape[2:]))] = dLdZ
    return out


def upsample(A, k):
    """k - 1 zeros between two values, none at the ends."""
    out = np.zeros((*A.shape[:2], *(k * (n - 1) + 1 for n in A.shape[2:])))
    for place in np.ndindex(*A.shape[2:]):
        out[(slice(None), slice(None), *(k * p for p in place))] = A[(slice(None), slice(None), *place)]
    return out


def max_pool(A, kernel):
    """(Z, row and column of each maximum, the first in row-major order), stride 1."""
    size = A.shape[2] - kernel + 1, A.shape[3] - kernel + 1
    Z, where = np.zeros((*A.shape[:2], *size)), {}
    for n, c, i, j in np.ndindex(*Z.shape):
        window = A[n, c, i : i + kernel, j : j + kernel]
        di, dj = np.unravel_index(np.argmax(window), window.shape)
        Z[n, c, i, j], where[n, c, i, j] = window.max(), (n, c, i + di, j + dj)
    return Z, where


def max_pool_backward(dLdZ, where, shape):
    dLdA = np.zeros(shape)
    for place in np.ndindex(*dLdZ.shape):
        dLdA[where[place]] += dLdZ[place]
    return dLdA


def mean_pool(A, kernel):
    Z = np.zeros((*A.shape[:2], A.shape[2] - kernel + 1, A.shape[3] - kernel + 1))
    for n, c, i, j in np.ndindex(*Z.shape):
        Z[n, c, i, j] = A[n, c, i : i + kernel, j : j + kernel].mean()
    return Z


def mean_pool_backward(dLdZ, shape, kernel):
    dLdA = np.zeros(shape)
    for n, c, i, j in np.ndindex(*dLdZ.shape):
        dLdA[n, c, i : i + kernel, j : j + kernel] += dLdZ[n, c, i, j] / kernel**2
    return dLdA
