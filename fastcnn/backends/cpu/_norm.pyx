# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Batch normalisation over (N, H, W) per channel (Ioffe & Szegedy 2015, arXiv:1502.03167).

Sums are taken over pieces whose size depends on the shape alone and added in double, in order: the bits do not depend on the number of threads. The variance takes a
second pass about the mean, so that it does not cancel. Both affine passes are one multiply-add (or two) per element with constants per channel.
"""
import numpy as np

cimport numpy as cnp
from cython.parallel cimport prange
from libc.math cimport sqrt
from libc.string cimport memcpy

from fastcnn.backends.cpu._arrays cimport dense, is_channels_last
from fastcnn.backends.cpu._kernels cimport fc_isa
from fastcnn.backends.cpu._layout cimport aligned, ceil_div, imin, index, real
from fastcnn.backends.cpu._runtime cimport Arena, acquire, active_isa, release, thread_count

cnp.import_array()

cdef enum:
    PIECE = 256  # pixels per piece in channels-last memory; in C-contiguous memory a piece is a plane


cdef struct Layout:
    bint last
    index C
    index pixels   # N * H * W in channels-last memory, H * W per plane else
    index pieces   # pieces per channel
    int threads


cdef Layout layout_of(cnp.ndarray x) noexcept:
    cdef Layout s
    s.last = is_channels_last(x) or x.shape[2] * x.shape[3] == 1  # one pixel: both formats are the same memory
    s.C = x.shape[1]
    if s.last:
        s.pixels = x.shape[0] * x.shape[2] * x.shape[3]
        s.pieces = ceil_div(s.pixels, PIECE)
        s.threads = thread_count(4.0 * x.size, s.pieces)
    else:
        s.pixels = x.shape[2] * x.shape[3]
        s.pieces = x.shape[0]
        s.threads = thread_count(4.0 * x.size, s.pieces * s.C)
    return s


cdef void fold(const Layout* s, const real* rows, const double* planes, double* total) noexcept nogil:
    """Add the pieces of each channel, in order."""
    cdef index c, i
    for c in range(s.C):
        total[c] = 0
    for i in range(s.pieces):
        for c in range(s.C):
            total[c] += rows[i * s.C + c] if s.last else planes[i * s.C + c]


cdef void sums(const fc_isa* kernels, const Layout* s, const real* x, char* scratch, double* total) noexcept nogil:
    cdef real* rows = <real*>scratch
    cdef double* planes = <double*>scratch
    cdef index i
    if s.last:
        for i in prange(s.pieces, num_threads=s.threads, schedule="static"):
            if real is float:
                kernels.f32.column_sums(x + i * PIECE * s.C, imin(PIECE, s.pixels - i * PIECE), s.C, s.C, rows + i * s.C)
            else:
                kernels.f64.column_sums(x + i * PIECE * s.C, imin(PIECE, s.pixels - i * PIECE), s.C, s.C, rows + i * s.C)
    else:
        for i in prange(s.pieces * s.C, num_threads=s.threads, schedule="static"):
            if real is float:
                planes[i] = kernels.f32.sum(x + i * s.pixels, s.pixels)
            else:
                planes[i] = kernels.f64.sum(x + i * s.pixels, s.pixels)
    fold(s, rows, planes, total)


cdef void square_deviations(const fc_isa* kernels, const Layout* s, const real* x, const real* mean, char* scratch, double* total) noexcept nogil:
    cdef real* rows = <real*>scratch
    cdef double* planes = <double*>scratch
    cdef index i
    if s.last:
        for i in prange(s.pieces, num_threads=s.threads, schedule="static"):
            if real is float:
                kernels.f32.column_square_deviations(x + i * PIECE * s.C, mean, imin(PIECE, s.pixels - i * PIECE), s.C, s.C, rows + i * s.C)
            else:
                kernels.f64.column_square_deviations(x + i * PIECE * s.C, mean, imin(PIECE, s.pixels - i * PIECE), s.C, s.C, rows + i * s.C)
    else:
        for i in prange(s.pieces * s.C, num_threads=s.threads, schedule="static"):
            if real is float:
                planes[i] = kernels.f32.sum_square_deviation(x + i * s.pixels, mean[i % s.C], s.pixels)
            else:
                planes[i] = kernels.f64.sum_square_deviation(x + i * s.pixels, mean[i % s.C], s.pixels)
    fold(s, rows, planes, total)


cdef void gradient_sums(const fc_isa* kernels, const Layout* s, const real* g, const real* x, const real* mean, char* scratch, size_t half, double* total,
                        double* dot) noexcept nogil:
    """total = sum of g, dot = sum of g * (x - mean), per channel."""
    cdef real* rows = <real*>scratch
    cdef real* rows2 = <real*>(scratch + half)
    cdef double* planes = <double*>scratch
    cdef double* planes2 = <double*>(scratch + half)
    cdef index i
    if s.last:
        for i in prange(s.pieces, num_threads=s.threads, schedule="static"):
            if real is float:
                kernels.f32.column_grad_sums(g + i * PIECE * s.C, x + i * PIECE * s.C, mean, imin(PIECE, s.pixels - i * PIECE), s.C, s.C, rows + i * s.C,
                                             rows2 + i * s.C)
            else:
                kernels.f64.column_grad_sums(g + i * PIECE * s.C, x + i * PIECE * s.C, mean, imin(PIECE, s.pixels - i * PIECE), s.C, s.C, rows + i * s.C,
                                             rows2 + i * s.C)
    else:
        for i in prange(s.pieces * s.C, num_threads=s.threads, schedule="static"):
            if real is float:
                kernels.f32.grad_sums(g + i * s.pixels, x + i * s.pixels, mean[i % s.C], s.pixels, planes + i, planes2 + i)
            else:
                kernels.f64.grad_sums(g + i * s.pixels, x + i * s.pixels, mean[i % s.C], s.pixels, planes + i, planes2 + i)
    fold(s, rows, planes, total)
    fold(s, rows2, planes2, dot)


cdef void affine(const fc_isa* kernels, const Layout* s, const real* x, const real* scale, const real* shift, real* out) noexcept nogil:
    cdef index i
    if s.last:
        for i in prange(s.pieces, num_threads=s.threads, schedule="static"):
            if real is float:
                kernels.f32.column_affine(x + i * PIECE * s.C, scale, shift, imin(PIECE, s.pixels - i * PIECE), s.C, s.C, out + i * PIECE * s.C)
            else:
                kernels.f64.column_affine(x + i * PIECE * s.C, scale, shift, imin(PIECE, s.pixels - i * PIECE), s.C, s.C, out + i * PIECE * s.C)
        return
    for i in prange(s.pieces * s.C, num_threads=s.threads, schedule="static"):
        if real is float:
            kernels.f32.affine(x + i * s.pixels, scale[i % s.C], shift[i % s.C], out + i * s.pixels, s.pixels)
        else:
            kernels.f64.affine(x + i * s.pixels, scale[i % s.C], shift[i % s.C], out + i * s.pixels, s.pixels)


cdef void affine2(const fc_isa* kernels, const Layout* s, const real* g, const real* x, const real* k1, const real* k2, const real* k3, real* out) noexcept nogil:
    cdef index i
    if s.last:
        for i in prange(s.pieces, num_threads=s.threads, schedule="static"):
            if real is float:
                kernels.f32.column_affine2(g + i * PIECE * s.C, x + i * PIECE * s.C, k1, k2, k3, imin(PIECE, s.pixels - i * PIECE), s.C, s.C,
                                           out + i * PIECE * s.C)
            else:
                kernels.f64.column_affine2(g + i * PIECE * s.C, x + i * PIECE * s.C, k1, k2, k3, imin(PIECE, s.pixels - i * PIECE), s.C, s.C,
                                           out + i * PIECE * s.C)
        return
    for i in prange(s.pieces * s.C, num_threads=s.threads, schedule="static"):
        if real is float:
            kernels.f32.affine2(g + i * s.pixels, x + i * s.pixels, k1[i % s.C], k2[i % s.C], k3[i % s.C], out + i * s.pixels, s.pixels)
        else:
            kernels.f64.affine2(g + i * s.pixels, x + i * s.pixels, k1[i % s.C], k2[i % s.C], k3[i % s.C], out + i * s.pixels, s.pixels)


cdef cnp.ndarray channel_array(object values, index C, int typenum, double default):
    """(C,) contiguous; `default` everywhere where the caller gave None."""
    if values is None:
        return np.full(C, default, dtype=np.dtype("f4") if typenum == cnp.NPY_FLOAT else np.dtype("f8"))
    return cnp.PyArray_GETCONTIGUOUS(values)


cdef object normalise(cnp.ndarray input, object weight, object bias, object mean, object var, double eps, real* tag):
    cdef const fc_isa* kernels = active_isa()
    cdef cnp.ndarray x = dense(input), out = np.empty_like(x)
    cdef Layout s = layout_of(x)
    cdef int typenum = cnp.PyArray_TYPE(x)
    cdef index C = s.C, c, M = x.shape[0] * x.shape[2] * x.shape[3]
    cdef cnp.ndarray w = channel_array(weight, C, typenum, 1), b = channel_array(bias, C, typenum, 0), m, v
    cdef size_t half = aligned(s.pieces * C * sizeof(double)), line = aligned(C * sizeof(double))
    cdef Arena arena = acquire(half + 3 * line)
    cdef double* total = <double*>(arena.base + half)
    cdef real* scale = <real*>(arena.base + half + line)
    cdef real* shift = <real*>(arena.base + half + 2 * line)
    cdef const real* xp = <const real*>cnp.PyArray_DATA(x)
    cdef const real* wp = <const real*>cnp.PyArray_DATA(w)
    cdef const real* bp = <const real*>cnp.PyArray_DATA(b)
    cdef real* mp
    cdef real* vp
    cdef double k
    if mean is None:
        m, v = channel_array(None, C, typenum, 0), channel_array(None, C, typenum, 0)
        mp, vp = <real*>cnp.PyArray_DATA(m), <real*>cnp.PyArray_DATA(v)
        if M > 0:
            with nogil:
                sums(kernels, &s, xp, arena.base, total)
                for c in range(C):
                    mp[c] = <real>(total[c] / M)
                square_deviations(kernels, &s, xp, mp, arena.base, total)
                for c in range(C):
                    vp[c] = <real>(total[c] / M)
    else:
        m, v = mean.copy(), var.copy()
        mp, vp = <real*>cnp.PyArray_DATA(m), <real*>cnp.PyArray_DATA(v)
    with nogil:
        for c in range(C):
            k = wp[c] / sqrt(vp[c] + eps)
            scale[c] = <real>k
            shift[c] = <real>(bp[c] - mp[c] * k)
        affine(kernels, &s, xp, scale, shift, <real*>cnp.PyArray_DATA(out))
    release(arena)
    return out, m, v


def batch_norm(cnp.ndarray input, weight, bias, mean, var, double eps):
    """(input - mean) / sqrt(var + eps) * weight + bias; the batch's own statistics (biased variance) where mean is None."""
    if cnp.PyArray_TYPE(input) == cnp.NPY_FLOAT:
        return normalise(input, weight, bias, mean, var, eps, <float*>NULL)
    return normalise(input, weight, bias, mean, var, eps, <double*>NULL)


cdef object normalise_backward(cnp.ndarray grad_output, cnp.ndarray input, object weight, object mean, object var, double eps, bint training, real* tag):
    cdef const fc_isa* kernels = active_isa()
    cdef cnp.ndarray x = dense(input), g = dense(grad_output), out = np.empty_like(x)
    if cnp.PyArray_IS_C_CONTIGUOUS(g) != cnp.PyArray_IS_C_CONTIGUOUS(x):
        np.copyto(out, g)
        g, out = out, np.empty_like(x)
    cdef Layout s = layout_of(x)
    cdef int typenum = cnp.PyArray_TYPE(x)
    cdef index C = s.C, c, M = x.shape[0] * x.shape[2] * x.shape[3]
    cdef cnp.ndarray w = channel_array(weight, C, typenum, 1), m = cnp.PyArray_GETCONTIGUOUS(mean), v = cnp.PyArray_GETCONTIGUOUS(var)
    cdef cnp.ndarray grad_weight = channel_array(None, C, typenum, 0), grad_bias = channel_array(None, C, typenum, 0)
    cdef size_t half = aligned(s.pieces * C * sizeof(double)), line = aligned(C * sizeof(double))
    cdef Arena arena = acquire(2 * half + 5 * line)
    cdef double* total = <double*>(arena.base + 2 * half)
    cdef double* dot = <double*>(arena.base + 2 * half + line)
    cdef real* k1 = <real*>(arena.base + 2 * half + 2 * line)
    cdef real* k2 = <real*>(arena.base + 2 * half + 3 * line)
    cdef real* k3 = <real*>(arena.base + 2 * half + 4 * line)
    cdef const real* xp = <const real*>cnp.PyArray_DATA(x)
    cdef const real* gp = <const real*>cnp.PyArray_DATA(g)
    cdef const real* wp = <const real*>cnp.PyArray_DATA(w)
    cdef const real* mp = <const real*>cnp.PyArray_DATA(m)
    cdef const real* vp = <const real*>cnp.PyArray_DATA(v)
    cdef real* gw = <real*>cnp.PyArray_DATA(grad_weight)
    cdef real* gb = <real*>cnp.PyArray_DATA(grad_bias)
    cdef double inverse, slope, curve
    with nogil:
        gradient_sums(kernels, &s, gp, xp, mp, arena.base, half, total, dot)
        for c in range(C):
            inverse = 1 / sqrt(vp[c] + eps)
            gw[c] = <real>(dot[c] * inverse)
            gb[c] = <real>total[c]
            slope = wp[c] * inverse
            # the mean and the variance are functions of the input too: dx = slope * (dy - mean(dy) - (x - mean) * inverse^2 * mean(dy * (x - mean)))
            curve = -slope * inverse * inverse * dot[c] / M if training and M > 0 else 0
            k1[c] = <real>slope
            k2[c] = <real>curve
            k3[c] = <real>(-slope * total[c] / M - curve * mp[c]) if training and M > 0 else 0
        affine2(kernels, &s, gp, xp, k1, k2, k3, <real*>cnp.PyArray_DATA(out))
    release(arena)
    return out, grad_weight, grad_bias


def batch_norm_backward(cnp.ndarray grad_output, cnp.ndarray input, weight, mean, var, double eps, bint training):
    """Gradients of batch_norm; `training` says that mean and var are the batch's own."""
    if cnp.PyArray_TYPE(input) == cnp.NPY_FLOAT:
        return normalise_backward(grad_output, input, weight, mean, var, eps, training, <float*>NULL)
    return normalise_backward(grad_output, input, weight, mean, var, eps, training, <double*>NULL)
