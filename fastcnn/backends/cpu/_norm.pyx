# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Batch normalisation over (N, H, W) per channel (Ioffe & Szegedy 2015, arXiv:1502.03167); in channels-last memory also with the activation and the 2x2 max pooling
that follow it, in the same passes.

The data are cut into pieces whose size depends on the shape alone: a plane in C-contiguous memory, some rows of one image in channels-last memory, small enough for
L1. Each piece gives its sum and its squares about its own mean, and the pieces are put together in double, in order (Chan, Golub, LeVeque 1979): one pass over memory, no
cancellation, bits that do not depend on the threads, and the same bits whether activation and pooling are done here or by themselves.

Passes over memory: forward two reads and one write; backward two of each of (grad_output, input) and one write. A pooled gradient is spread into a piece in L1 and never stored.
"""
import numpy as np

cimport numpy as cnp
from cython.parallel cimport parallel, prange, threadid
from libc.math cimport isfinite, sqrt
from libc.stdint cimport int8_t
from libc.string cimport memset

from fastcnn.backends.cpu._arrays cimport dense, is_channels_last
from fastcnn.backends.cpu._kernels cimport FC_LEAKY_RELU, FC_RELU, fc_isa
from fastcnn.backends.cpu._layout cimport aligned, ceil_div, imax, imin, index, real
from fastcnn.backends.cpu._runtime cimport Arena, acquire, active_isa, fc_use_pool, pool, release, thread_count

cnp.import_array()
fc_use_pool(pool())

cdef enum:
    PIECE_BYTES = 32 * 1024

# What can follow in the same pass: activations whose code is part of the kernels. None stands for no activation.
ACTIVATIONS = {None: -1, "relu": FC_RELU, "leaky_relu": FC_LEAKY_RELU}


cdef struct Layout:
    bint last
    index N
    index C
    index H
    index W
    index rows      # of a piece, in channels-last memory
    index strips    # pieces of an image
    index pieces    # pieces per channel
    int threads
    int op          # activation, -1: none
    double slope
    bint pooled     # 2x2 windows, stride 2
    index YH
    index YW


cdef Layout layout_of(cnp.ndarray x, int op, double slope, bint pooled, bint last) noexcept:
    """last: x is channels-last, also where one channel makes it C-contiguous as well."""
    cdef Layout s
    s.N, s.C, s.H, s.W = x.shape[0], x.shape[1], x.shape[2], x.shape[3]
    s.last = last or is_channels_last(x) or s.H * s.W == 1  # one pixel: both formats are the same memory
    s.op, s.slope, s.pooled, s.YH, s.YW = op, slope, pooled, s.H // 2, s.W // 2
    s.rows, s.strips = s.H, 1
    if s.last:
        # an even number of rows, so that no pooling window lies in two pieces; one-pixel images (the output of a linear layer) are taken as one image
        if s.H * s.W == 1:
            s.H, s.N = s.N, 1
        s.rows = imin(s.H, imax(2, PIECE_BYTES // (s.W * s.C * <index>cnp.PyArray_ITEMSIZE(x)) // 2 * 2)) if s.H > 0 else 1
        s.strips = ceil_div(s.H, s.rows)
    s.pieces = s.N * s.strips
    s.threads = thread_count(4.0 * x.size, s.pieces if s.last else s.pieces * s.C)
    return s


cdef inline index piece_rows(const Layout* s, index piece) noexcept nogil:
    return imin(s.rows, s.H - piece % s.strips * s.rows)


cdef inline index piece_at(const Layout* s, index piece) noexcept nogil:
    return (piece // s.strips * s.H + piece % s.strips * s.rows) * s.W * s.C


cdef inline index pooled_at(const Layout* s, index piece) noexcept nogil:
    return (piece // s.strips * s.YH + piece % s.strips * s.rows // 2) * s.YW * s.C


cdef void piece_statistics(const fc_isa* kernels, const Layout* s, index i, const real* x, real* sum, real* mean, real* squares) noexcept nogil:
    """A piece's mean as rounded, and the sums of the deviations from it and of their squares, all channels."""
    cdef index c, rows = piece_rows(s, i) * s.W
    x += piece_at(s, i)
    sum, mean, squares = sum + i * s.C, mean + i * s.C, squares + i * s.C
    if real is float:
        kernels.f32.column_sums(x, rows, s.C, s.C, sum)
    else:
        kernels.f64.column_sums(x, rows, s.C, s.C, sum)
    for c in range(s.C):
        mean[c] = sum[c] / rows
    if real is float:
        kernels.f32.column_square_deviations(x, mean, rows, s.C, s.C, squares, sum)
    else:
        kernels.f64.column_square_deviations(x, mean, rows, s.C, s.C, squares, sum)


cdef void statistics(const fc_isa* kernels, const Layout* s, const real* x, char* scratch, size_t part, real* mean, real* var) noexcept nogil:
    """Mean and biased variance. scratch: three parts of `part` bytes."""
    cdef real* rows = <real*>scratch
    cdef real* means = <real*>(scratch + part)
    cdef real* squares = <real*>(scratch + 2 * part)
    cdef double* sums = <double*>scratch
    cdef double* deviations = <double*>(scratch + 2 * part)
    cdef index i, c, at, pixels = s.H * s.W
    cdef double total, base, spread, step, piece, count, M = <double>s.N * s.H * s.W
    if s.last:
        for i in prange(s.pieces, num_threads=s.threads, schedule="static"):
            piece_statistics(kernels, s, i, x, rows, means, squares)
    else:
        for i in prange(s.pieces * s.C, num_threads=s.threads, schedule="static"):
            if real is float:
                sums[i] = kernels.f32.sum(x + i * pixels, pixels)
                means[i] = <real>(sums[i] / pixels)
                deviations[i] = kernels.f32.sum_square_deviation(x + i * pixels, means[i], pixels, sums + i)
            else:
                sums[i] = kernels.f64.sum(x + i * pixels, pixels)
                means[i] = <real>(sums[i] / pixels)
                deviations[i] = kernels.f64.sum_square_deviation(x + i * pixels, means[i], pixels, sums + i)
    for c in range(s.C):
        total = 0
        base = means[c] if isfinite(means[c]) else 0  # the sums are taken from near the mean, where double loses nothing of a constant channel
        for i in range(s.pieces):
            at = i * s.C + c
            count = piece_rows(s, i) * s.W if s.last else pixels
            piece = rows[at] if s.last else sums[at]
            total += count * (means[at] - base) + (piece if isfinite(means[at]) else 0)
        total = base + total / M
        mean[c] = <real>total
        spread = 0
        for i in range(s.pieces):
            at = i * s.C + c
            count = piece_rows(s, i) * s.W if s.last else pixels
            piece = rows[at] if s.last else sums[at]
            # sum (x - mean)^2 = sum (x - m)^2 + (m - mean) * (2 * sum (x - m) + n * (m - mean)),  m the piece's mean as rounded
            step = means[at] - total
            spread += (squares[at] if s.last else deviations[at]) + step * (2 * piece + count * step)
        var[c] = 0 if spread < 0 else <real>(spread / M)  # rounding; NaN stays


cdef struct Constants:
    # per channel, each an array: y = (x - mean) * scale + shift, dx = k1 * dy + (k2 * (x - mean) + k3)
    void* mean
    void* scale
    void* shift
    void* k1
    void* k2
    void* k3


cdef void apply_piece(const fc_isa* kernels, const Layout* s, index i, const real* x, const Constants* k, real* out, int8_t* winners, real* piece) noexcept nogil:
    cdef index rows = piece_rows(s, i), line = s.W * s.C, r, at = piece_at(s, i)
    cdef real* target = piece if s.pooled else out + at
    if real is float:
        kernels.f32.column_normalise(s.op, <real>s.slope, x + at, <real*>k.mean, <real*>k.scale, <real*>k.shift, rows * s.W, s.C, target)
    else:
        kernels.f64.column_normalise(s.op, <real>s.slope, x + at, <real*>k.mean, <real*>k.scale, <real*>k.shift, rows * s.W, s.C, target)
    if s.pooled:
        at = pooled_at(s, i)
        for r in range(rows // 2):
            if real is float:
                kernels.f32.window_max(piece + 2 * r * line, line, 2 * s.C, 2, 2, out + at, winners + at if winners != NULL else NULL, s.YW, s.C)
            else:
                kernels.f64.window_max(piece + 2 * r * line, line, 2 * s.C, 2, 2, out + at, winners + at if winners != NULL else NULL, s.YW, s.C)
            at += s.YW * s.C


cdef const real* spread_piece(const fc_isa* kernels, const Layout* s, index i, const real* grad, const int8_t* winners, real* piece) noexcept nogil:
    """The gradient of piece i before the pooling: where it lies, or spread into `piece`."""
    cdef index rows = piece_rows(s, i), line = s.W * s.C, r, at
    if not s.pooled:
        return grad + piece_at(s, i)
    if rows % 2 or s.W % 2:
        memset(piece, 0, rows * line * sizeof(real))
    at = pooled_at(s, i)
    for r in range(rows // 2):
        if real is float:
            kernels.f32.window_max_back(grad + at, winners + at, line, 2 * s.C, 2, 2, piece + 2 * r * line, 0, s.YW, s.C)
        else:
            kernels.f64.window_max_back(grad + at, winners + at, line, 2 * s.C, 2, 2, piece + 2 * r * line, 0, s.YW, s.C)
        at += s.YW * s.C
    return piece


cdef void sum_piece(const fc_isa* kernels, const Layout* s, index i, const real* grad, const int8_t* winners, const real* x, const Constants* k, real* sum, real* dot,
                    real* piece) noexcept nogil:
    cdef const real* g = spread_piece(kernels, s, i, grad, winners, piece)
    if real is float:
        kernels.f32.column_grad_sums(s.op, <real>s.slope, g, x + piece_at(s, i), <real*>k.mean, <real*>k.scale, <real*>k.shift, piece_rows(s, i) * s.W, s.C,
                                     sum + i * s.C, dot + i * s.C)
    else:
        kernels.f64.column_grad_sums(s.op, <real>s.slope, g, x + piece_at(s, i), <real*>k.mean, <real*>k.scale, <real*>k.shift, piece_rows(s, i) * s.W, s.C,
                                     sum + i * s.C, dot + i * s.C)


cdef void grad_piece(const fc_isa* kernels, const Layout* s, index i, const real* grad, const int8_t* winners, const real* x, const Constants* k, real* out, real* sum,
                     real* piece) noexcept nogil:
    cdef const real* g = spread_piece(kernels, s, i, grad, winners, piece)
    if real is float:
        kernels.f32.column_grad(s.op, <real>s.slope, g, x + piece_at(s, i), <real*>k.mean, <real*>k.scale, <real*>k.shift, <real*>k.k1, <real*>k.k2, <real*>k.k3,
                                piece_rows(s, i) * s.W, s.C, out + piece_at(s, i), sum + i * s.C)
    else:
        kernels.f64.column_grad(s.op, <real>s.slope, g, x + piece_at(s, i), <real*>k.mean, <real*>k.scale, <real*>k.shift, <real*>k.k1, <real*>k.k2, <real*>k.k3,
                                piece_rows(s, i) * s.W, s.C, out + piece_at(s, i), sum + i * s.C)


cdef void apply(const fc_isa* kernels, const Layout* s, const real* x, const Constants* k, real* out, int8_t* winners, char* scratch, size_t worker) noexcept nogil:
    cdef index i, c, pixels = s.H * s.W
    if s.last:
        with parallel(num_threads=s.threads):
            for i in prange(s.pieces, schedule="static"):
                apply_piece(kernels, s, i, x, k, out, winners, <real*>(scratch + threadid() * worker))
        return
    for i in prange(s.pieces * s.C, num_threads=s.threads, schedule="static"):
        c = i % s.C
        if real is float:
            kernels.f32.affine(x + i * pixels, (<real*>k.mean)[c], (<real*>k.scale)[c], (<real*>k.shift)[c], out + i * pixels, pixels)
        else:
            kernels.f64.affine(x + i * pixels, (<real*>k.mean)[c], (<real*>k.scale)[c], (<real*>k.shift)[c], out + i * pixels, pixels)


cdef void gradient_sums(const fc_isa* kernels, const Layout* s, const real* grad, const int8_t* winners, const real* x, const Constants* k, char* scratch, size_t part,
                        char* workers, size_t worker, double* total, double* dot) noexcept nogil:
    """total = sum of g, dot = sum of g * (x - mean) per channel, g the gradient before activation and pooling."""
    cdef real* rows = <real*>scratch
    cdef real* rows2 = <real*>(scratch + part)
    cdef double* planes = <double*>scratch
    cdef double* planes2 = <double*>(scratch + part)
    cdef index i, c, pixels = s.H * s.W
    if s.last:
        with parallel(num_threads=s.threads):
            for i in prange(s.pieces, schedule="static"):
                sum_piece(kernels, s, i, grad, winners, x, k, rows, rows2, <real*>(workers + threadid() * worker))
    else:
        for i in prange(s.pieces * s.C, num_threads=s.threads, schedule="static"):
            if real is float:
                kernels.f32.grad_sums(grad + i * pixels, x + i * pixels, (<real*>k.mean)[i % s.C], pixels, planes + i, planes2 + i)
            else:
                kernels.f64.grad_sums(grad + i * pixels, x + i * pixels, (<real*>k.mean)[i % s.C], pixels, planes + i, planes2 + i)
    for c in range(s.C):
        total[c] = dot[c] = 0
    for i in range(s.pieces):
        for c in range(s.C):
            total[c] += rows[i * s.C + c] if s.last else planes[i * s.C + c]
            dot[c] += rows2[i * s.C + c] if s.last else planes2[i * s.C + c]


cdef void gradient(const fc_isa* kernels, const Layout* s, const real* grad, const int8_t* winners, const real* x, const Constants* k, real* out, char* scratch,
                   char* workers, size_t worker, real* bias) noexcept nogil:
    """dx, and where `bias` is not NULL its sum per channel: the gradient of the bias of a convolution before it (channels-last only)."""
    cdef index i, c, pixels = s.H * s.W
    cdef real* rows = <real*>scratch
    cdef double total
    if s.last:
        with parallel(num_threads=s.threads):
            for i in prange(s.pieces, schedule="static"):
                grad_piece(kernels, s, i, grad, winners, x, k, out, rows, <real*>(workers + threadid() * worker))
        if bias != NULL:
            for c in range(s.C):
                total = 0
                for i in range(s.pieces):
                    total += rows[i * s.C + c]
                bias[c] = <real>total
        return
    for i in prange(s.pieces * s.C, num_threads=s.threads, schedule="static"):
        c = i % s.C
        if real is float:
            kernels.f32.affine2(grad + i * pixels, x + i * pixels, (<real*>k.mean)[c], (<real*>k.k1)[c], (<real*>k.k2)[c], (<real*>k.k3)[c], out + i * pixels, pixels)
        else:
            kernels.f64.affine2(grad + i * pixels, x + i * pixels, (<real*>k.mean)[c], (<real*>k.k1)[c], (<real*>k.k2)[c], (<real*>k.k3)[c], out + i * pixels, pixels)


cdef cnp.ndarray channel_array(object values, index C, int typenum, double default):
    """(C,) contiguous; `default` everywhere where the caller gave None."""
    if values is None:
        return np.full(C, default, dtype=np.dtype("f4") if typenum == cnp.NPY_FLOAT else np.dtype("f8"))
    return cnp.PyArray_GETCONTIGUOUS(values)


cdef object forward(cnp.ndarray x, bint normalised, object weight, object bias, object mean, object var, double eps, Layout s, cnp.ndarray out, object winners, real* tag):
    """x and out dense in one format. Statistics of the batch where mean is None; without `normalised` activation and pooling alone."""
    cdef const fc_isa* kernels = active_isa()
    cdef int typenum = cnp.PyArray_TYPE(x)
    cdef index C = s.C, c
    cdef size_t part = aligned(s.pieces * C * sizeof(double)), line = aligned(C * sizeof(real)), worker = 0
    if s.pooled:
        worker = aligned(s.rows * s.W * C * sizeof(real))
    cdef cnp.ndarray m, v, w = channel_array(weight, C, typenum, 1), b = channel_array(bias, C, typenum, 0)
    cdef Arena arena = acquire(3 * part + line + s.threads * worker)
    cdef real* scale = <real*>(arena.base + 3 * part)
    cdef Constants k
    cdef int8_t* at = NULL
    if winners is not None:
        at = <int8_t*>cnp.PyArray_DATA(winners)
    if mean is None:
        m, v = channel_array(None, C, typenum, 0), channel_array(None, C, typenum, 0)
    else:
        m, v = np.array(mean), np.array(var)
    k.mean, k.scale, k.shift = cnp.PyArray_DATA(m), scale, cnp.PyArray_DATA(b)
    with nogil:
        if mean is None and normalised and s.pieces * s.H * s.W > 0:
            statistics(kernels, &s, <real*>cnp.PyArray_DATA(x), arena.base, part, <real*>cnp.PyArray_DATA(m), <real*>cnp.PyArray_DATA(v))
        for c in range(C):
            scale[c] = <real>((<real*>cnp.PyArray_DATA(w))[c] / sqrt((<real*>cnp.PyArray_DATA(v))[c] + eps)) if normalised else 1
        apply(kernels, &s, <real*>cnp.PyArray_DATA(x), &k, <real*>cnp.PyArray_DATA(out), at, arena.base + 3 * part + line, worker)
    release(arena)
    return m, v


cdef object backward(cnp.ndarray g, cnp.ndarray x, bint normalised, object weight, object bias, object mean, object var, double eps, bint training, Layout s,
                     cnp.ndarray out, object winners, bint wants_bias, real* tag):
    """(grad_weight, grad_bias, the sum of out per channel or None)."""
    cdef const fc_isa* kernels = active_isa()
    cdef int typenum = cnp.PyArray_TYPE(x)
    cdef index C = s.C, c
    cdef double M = <double>s.N * s.H * s.W
    cdef size_t part = aligned(s.pieces * C * sizeof(double)), line = aligned(C * sizeof(double)), worker = 0
    if s.pooled:
        worker = aligned(s.rows * s.W * C * sizeof(real))
    cdef cnp.ndarray w = channel_array(weight, C, typenum, 1), b = channel_array(bias, C, typenum, 0)
    cdef cnp.ndarray m = channel_array(mean, C, typenum, 0), v = channel_array(var, C, typenum, 0)
    cdef cnp.ndarray grad_weight = channel_array(None, C, typenum, 0), grad_bias = channel_array(None, C, typenum, 0), sums = channel_array(None, C, typenum, 0)
    cdef Arena arena = acquire(2 * part + 6 * line + s.threads * worker)
    cdef double* total = <double*>(arena.base + 2 * part)
    cdef double* dot = <double*>(arena.base + 2 * part + line)
    cdef real* scale = <real*>(arena.base + 2 * part + 2 * line)
    cdef real* k1 = <real*>(arena.base + 2 * part + 3 * line)
    cdef real* k2 = <real*>(arena.base + 2 * part + 4 * line)
    cdef real* k3 = <real*>(arena.base + 2 * part + 5 * line)
    cdef char* workers = arena.base + 2 * part + 6 * line
    cdef const real* wp = <const real*>cnp.PyArray_DATA(w)
    cdef const real* vp = <const real*>cnp.PyArray_DATA(v)
    cdef const real* xp = <const real*>cnp.PyArray_DATA(x)
    cdef const real* gp = <const real*>cnp.PyArray_DATA(g)
    cdef double inverse, slope, curve
    cdef Constants k
    cdef const int8_t* at = NULL
    if winners is not None:
        at = <const int8_t*>cnp.PyArray_DATA(winners)
    k.mean, k.scale, k.shift, k.k1, k.k2, k.k3 = cnp.PyArray_DATA(m), scale, cnp.PyArray_DATA(b), k1, k2, k3
    with nogil:
        for c in range(C):
            scale[c] = <real>(wp[c] / sqrt(vp[c] + eps)) if normalised else 1
            k1[c], k2[c], k3[c] = 1, 0, 0
        if normalised:
            gradient_sums(kernels, &s, gp, at, xp, &k, arena.base, part, workers, worker, total, dot)
            for c in range(C):
                inverse = 1 / sqrt(vp[c] + eps)
                (<real*>cnp.PyArray_DATA(grad_weight))[c] = <real>(dot[c] * inverse)
                (<real*>cnp.PyArray_DATA(grad_bias))[c] = <real>total[c]
                slope = wp[c] * inverse
                k1[c] = <real>slope
                if training and M > 0:
                    # the mean and the variance are functions of the input too: dx = slope * (dy - mean(dy) - (x - mean) * inverse^2 * mean(dy * (x - mean)))
                    curve = -slope * inverse * inverse * dot[c] / M
                    k2[c] = <real>curve
                    k3[c] = <real>(-slope * total[c] / M)
        gradient(kernels, &s, gp, at, xp, &k, <real*>cnp.PyArray_DATA(out), arena.base, workers, worker, <real*>cnp.PyArray_DATA(sums) if wants_bias else NULL)
    release(arena)
    return grad_weight, grad_bias, sums if wants_bias else None


def batch_norm(cnp.ndarray input, weight, bias, mean, var, double eps):
    """(input - mean) / sqrt(var + eps) * weight + bias; the batch's own statistics (biased variance) where mean is None."""
    cdef cnp.ndarray x = dense(input), out = np.empty_like(x)
    cdef Layout s = layout_of(x, -1, 0, False, False)
    if cnp.PyArray_TYPE(input) == cnp.NPY_FLOAT:
        return (out, *forward(x, True, weight, bias, mean, var, eps, s, out, None, <float*>NULL))
    return (out, *forward(x, True, weight, bias, mean, var, eps, s, out, None, <double*>NULL))


def batch_norm_backward(cnp.ndarray grad_output, cnp.ndarray input, weight, mean, var, double eps, bint training):
    """Gradients of batch_norm; `training` says that mean and var are the batch's own."""
    cdef cnp.ndarray x = dense(input), g = dense(grad_output), out = np.empty_like(x)
    if cnp.PyArray_IS_C_CONTIGUOUS(g) != cnp.PyArray_IS_C_CONTIGUOUS(x):
        np.copyto(out, g)
        g, out = out, np.empty_like(x)
    cdef Layout s = layout_of(x, -1, 0, False, False)
    if cnp.PyArray_TYPE(input) == cnp.NPY_FLOAT:
        return (out, *backward(g, x, True, weight, None, mean, var, eps, training, s, out, None, False, <float*>NULL)[:2])
    return (out, *backward(g, x, True, weight, None, mean, var, eps, training, s, out, None, False, <double*>NULL)[:2])


def norm_act_pool(cnp.ndarray x, bint normalised, weight, bias, mean, var, double eps, activation, double slope, cnp.ndarray out, bint pooled, winners):
    """out = pool(act(batch_norm(x))), x and out channels-last; winners (int8, of out's shape) receives what the pooling's backward needs, or is None.
    Returns (mean, var). Without `normalised` there is no batch norm, without `pooled` no 2x2 max pooling."""
    cdef Layout s = layout_of(x, ACTIVATIONS[activation], slope, pooled, True)
    if cnp.PyArray_TYPE(x) == cnp.NPY_FLOAT:
        return forward(x, normalised, weight, bias, mean, var, eps, s, out, winners, <float*>NULL)
    return forward(x, normalised, weight, bias, mean, var, eps, s, out, winners, <double*>NULL)


def norm_act_pool_backward(cnp.ndarray grad_output, cnp.ndarray x, bint normalised, weight, bias, mean, var, double eps, activation, double slope, cnp.ndarray out,
                           bint pooled, winners, bint wants_bias):
    """Gradients of norm_act_pool: writes that of x into out, returns (grad_weight, grad_bias, the sum of out per channel or None)."""
    cdef Layout s = layout_of(x, ACTIVATIONS[activation], slope, pooled, True)
    if cnp.PyArray_TYPE(x) == cnp.NPY_FLOAT:
        return backward(grad_output, x, normalised, weight, bias, mean, var, eps, True, s, out, winners, wants_bias, <float*>NULL)
    return backward(grad_output, x, normalised, weight, bias, mean, var, eps, True, s, out, winners, wants_bias, <double*>NULL)
