# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Softmax, its logarithm and cross-entropy; csrc/kernels/softmax.inc does the arithmetic.

Samples are independent of each other. The only sum over them, the reduced loss, is taken in double and in their order, so no result depends on the threads.
"""
import numpy as np

cimport numpy as cnp
from cython.parallel cimport prange
from libc.stdint cimport int64_t, uint64_t

from fastcnn.backends.cpu._arrays cimport dense, is_channels_last
from fastcnn.backends.cpu._kernels cimport fc_isa
from fastcnn.backends.cpu._layout cimport ceil_div, imax, imin, index, real
from fastcnn.backends.cpu._runtime cimport Arena, acquire, active_isa, fc_use_pool, pool, release, thread_count

from fastcnn.backends.targets import check_classes

cnp.import_array()
fc_use_pool(pool())

F32, F64 = np.float32, np.float64

cdef enum:
    PIECE = 16384  # elements per item, in whole samples
    COLUMNS = 256  # neighbouring samples per item where their classes lie apart

cdef double COST = 40  # operations per element: exp's polynomial, the largest, the sum


cdef cnp.ndarray contiguous(cnp.ndarray a):
    return a if cnp.PyArray_IS_C_CONTIGUOUS(a) else cnp.PyArray_GETCONTIGUOUS(a)


cdef struct Axis:
    # a dense array as (outer, C, inner) in memory order
    index outer
    index C
    index inner


cdef Axis axis_of(cnp.ndarray x, int dim) noexcept:
    cdef Axis a
    cdef int order[4]
    cdef int i, ndim = cnp.PyArray_NDIM(x)
    cdef bint last = ndim == 4 and is_channels_last(x), before = True
    order[0], order[1], order[2], order[3] = 0, 2, 3, 1
    a.outer, a.C, a.inner = 1, x.shape[dim], 1
    for i in range(ndim):
        if (order[i] if last else i) == dim:
            before = False
        elif before:
            a.outer *= x.shape[order[i] if last else i]
        else:
            a.inner *= x.shape[order[i] if last else i]
    return a


cdef void forward(const fc_isa* kernels, Axis a, bint logarithm, const real* x, real* out) noexcept nogil:
    cdef index i, per_item, pieces, n, j
    cdef int threads
    if a.inner == 1:
        per_item = imax(1, PIECE // a.C)
        pieces = ceil_div(a.outer, per_item)
        threads = thread_count(COST * a.outer * a.C, pieces)
        for i in prange(pieces, num_threads=threads, schedule="static"):
            n = imin(per_item, a.outer - i * per_item)
            if real is float:
                kernels.f32.softmax_rows(logarithm, x + i * per_item * a.C, n, a.C, out + i * per_item * a.C)
            else:
                kernels.f64.softmax_rows(logarithm, x + i * per_item * a.C, n, a.C, out + i * per_item * a.C)
        return
    per_item = ceil_div(a.inner, COLUMNS)
    pieces = a.outer * per_item
    threads = thread_count(COST * a.outer * a.C * a.inner, pieces)
    for i in prange(pieces, num_threads=threads, schedule="static"):
        n = imin(COLUMNS, a.inner - i % per_item * COLUMNS)
        j = i // per_item * a.C * a.inner + i % per_item * COLUMNS
        if real is float:
            kernels.f32.softmax_columns(logarithm, x + j, a.C, a.inner, n, out + j)
        else:
            kernels.f64.softmax_columns(logarithm, x + j, a.C, a.inner, n, out + j)


cdef void backward(const fc_isa* kernels, Axis a, bint logarithm, const real* g, const real* y, real* out) noexcept nogil:
    cdef index i, per_item, pieces, n, j
    cdef int threads
    if a.inner == 1:
        per_item = imax(1, PIECE // a.C)
        pieces = ceil_div(a.outer, per_item)
        threads = thread_count(COST * a.outer * a.C, pieces)
        for i in prange(pieces, num_threads=threads, schedule="static"):
            n = imin(per_item, a.outer - i * per_item)
            j = i * per_item * a.C
            if real is float:
                kernels.f32.softmax_rows_backward(logarithm, g + j, y + j, n, a.C, out + j)
            else:
                kernels.f64.softmax_rows_backward(logarithm, g + j, y + j, n, a.C, out + j)
        return
    per_item = ceil_div(a.inner, COLUMNS)
    pieces = a.outer * per_item
    threads = thread_count(COST * a.outer * a.C * a.inner, pieces)
    for i in prange(pieces, num_threads=threads, schedule="static"):
        n = imin(COLUMNS, a.inner - i % per_item * COLUMNS)
        j = i // per_item * a.C * a.inner + i % per_item * COLUMNS
        if real is float:
            kernels.f32.softmax_columns_backward(logarithm, g + j, y + j, a.C, a.inner, n, out + j)
        else:
            kernels.f64.softmax_columns_backward(logarithm, g + j, y + j, a.C, a.inner, n, out + j)


cdef cnp.ndarray apply(cnp.ndarray input, int dim, bint logarithm):
    cdef cnp.ndarray x = dense(input), out = np.empty_like(x)
    cdef const fc_isa* kernels = active_isa()
    if x.size == 0:
        return out
    cdef Axis a = axis_of(x, dim)
    cdef void* xp = cnp.PyArray_DATA(x)
    cdef void* op = cnp.PyArray_DATA(out)
    cdef bint single = cnp.PyArray_TYPE(x) == cnp.NPY_FLOAT
    with nogil:
        if single:
            forward(kernels, a, logarithm, <const float*>xp, <float*>op)
        else:
            forward(kernels, a, logarithm, <const double*>xp, <double*>op)
    return out


cdef cnp.ndarray apply_backward(cnp.ndarray grad_output, cnp.ndarray output, int dim, bint logarithm):
    cdef cnp.ndarray y = dense(output), out = np.empty_like(y), g = grad_output
    cdef const fc_isa* kernels = active_isa()
    if y.size == 0:
        return out
    cdef bint alike = cnp.PyArray_IS_C_CONTIGUOUS(g) if cnp.PyArray_IS_C_CONTIGUOUS(y) else is_channels_last(g)
    if not alike:  # bring grad_output to the output's memory format
        g = np.empty_like(y)
        cnp.PyArray_CopyInto(g, grad_output)
    cdef Axis a = axis_of(y, dim)
    cdef void* gp = cnp.PyArray_DATA(g)
    cdef void* yp = cnp.PyArray_DATA(y)
    cdef void* op = cnp.PyArray_DATA(out)
    cdef bint single = cnp.PyArray_TYPE(y) == cnp.NPY_FLOAT
    with nogil:
        if single:
            backward(kernels, a, logarithm, <const float*>gp, <const float*>yp, <float*>op)
        else:
            backward(kernels, a, logarithm, <const double*>gp, <const double*>yp, <double*>op)
    return out


def softmax(input, int dim):
    return apply(input, dim, False)


def softmax_backward(grad_output, output, int dim):
    return apply_backward(grad_output, output, dim, False)


def log_softmax(input, int dim):
    return apply(input, dim, True)


def log_softmax_backward(grad_output, output, int dim):
    return apply_backward(grad_output, output, dim, True)


cdef bint divisor(const int64_t* target, index M, index C, int64_t ignore_index, const real* weight, double* total) noexcept nogil:
    """total = sum of weight[target] over the samples that are not ignored. False if a target is no class number."""
    cdef index r, counted = 0
    cdef double sum = 0
    for r in range(M):
        if target[r] == ignore_index:
            continue
        if <uint64_t>target[r] >= <uint64_t>C:
            return False
        if weight != NULL:
            sum += weight[target[r]]
        counted += 1
    total[0] = sum if weight != NULL else <double>counted
    return True


cdef bint losses(const fc_isa* kernels, const real* x, index M, index C, const int64_t* target, int64_t ignore_index, const real* weight, double smoothing,
                 double* loss, double* count) noexcept nogil:
    cdef index per_item = imax(1, PIECE // C), pieces = ceil_div(M, per_item), i, j
    cdef int threads = thread_count(COST * M * C, pieces)
    if not divisor(target, M, C, ignore_index, weight, count):
        return False
    for i in prange(pieces, num_threads=threads, schedule="static"):
        j = i * per_item
        if real is float:
            kernels.f32.cross_entropy_rows(x + j * C, target + j, weight, ignore_index, smoothing, imin(per_item, M - j), C, loss + j)
        else:
            kernels.f64.cross_entropy_rows(x + j * C, target + j, weight, ignore_index, smoothing, imin(per_item, M - j), C, loss + j)
    return True


cdef bint gradients(const fc_isa* kernels, const real* g, index g_step, double scale, bint mean, const real* x, index M, index C, const int64_t* target,
                    int64_t ignore_index, const real* weight, double smoothing, real* out) noexcept nogil:
    """g, or NULL: then every sample's is scale, divided by the mean's divisor if `mean`."""
    cdef index per_item = imax(1, PIECE // C), pieces = ceil_div(M, per_item), i, j
    cdef int threads = thread_count(COST * M * C, pieces)
    cdef double count, weights = 0
    cdef real same
    if not divisor(target, M, C, ignore_index, weight, &count):
        return False
    if weight == NULL:
        weights = C
    else:
        for j in range(C):
            weights += weight[j]
    if g == NULL:
        same = <real>(scale / count if mean else scale)
        g = &same
        g_step = 0
    for i in prange(pieces, num_threads=threads, schedule="static"):
        j = i * per_item
        if real is float:
            kernels.f32.cross_entropy_rows_backward(g + j * g_step, g_step, x + j * C, target + j, weight, weights, ignore_index, smoothing,
                                                    imin(per_item, M - j), C, out + j * C)
        else:
            kernels.f64.cross_entropy_rows_backward(g + j * g_step, g_step, x + j * C, target + j, weight, weights, ignore_index, smoothing,
                                                    imin(per_item, M - j), C, out + j * C)
    return True


def cross_entropy(input, target, weight, int64_t ignore_index, str reduction, double label_smoothing):
    cdef cnp.ndarray x = contiguous(input), t = contiguous(target), w, out
    cdef const fc_isa* kernels = active_isa()
    cdef index M = x.shape[0], C = x.shape[1], i
    cdef bint single = cnp.PyArray_TYPE(x) == cnp.NPY_FLOAT, right
    cdef void* xp = cnp.PyArray_DATA(x)
    cdef void* wp = NULL
    cdef const int64_t* tp = <const int64_t*>cnp.PyArray_DATA(t)
    cdef cnp.npy_intp shape = M
    cdef double total = 0, count
    cdef double* loss
    cdef Arena arena
    if weight is not None:
        w = contiguous(weight)
        wp = cnp.PyArray_DATA(w)
    arena = acquire((M + 1) * sizeof(double))
    loss = <double*>arena.base
    with nogil:
        if single:
            right = losses(kernels, <const float*>xp, M, C, tp, ignore_index, <const float*>wp, label_smoothing, loss, &count)
        else:
            right = losses(kernels, <const double*>xp, M, C, tp, ignore_index, <const double*>wp, label_smoothing, loss, &count)
        if right:
            for i in range(M):
                total += loss[i]
    if not right:
        release(arena)
        check_classes("cross_entropy", t, C, ignore_index)
        raise RuntimeError("cross_entropy: target changed during the call")
    if reduction == "none":
        out = cnp.PyArray_EMPTY(1, &shape, cnp.PyArray_TYPE(x), 0)
        if single:
            for i in range(M):
                (<float*>cnp.PyArray_DATA(out))[i] = <float>loss[i]
        else:
            for i in range(M):
                (<double*>cnp.PyArray_DATA(out))[i] = loss[i]
        release(arena)
        return out
    release(arena)
    if reduction == "mean":
        total /= count
    return F32(total) if single else F64(total)


def cross_entropy_backward(grad_output, input, target, weight, int64_t ignore_index, str reduction, double label_smoothing):
    cdef cnp.ndarray x = contiguous(input), t = contiguous(target), w, g
    cdef cnp.ndarray out = cnp.PyArray_EMPTY(2, cnp.PyArray_DIMS(x), cnp.PyArray_TYPE(x), 0)
    cdef const fc_isa* kernels = active_isa()
    cdef index M = x.shape[0], C = x.shape[1]
    cdef bint single = cnp.PyArray_TYPE(x) == cnp.NPY_FLOAT, mean = reduction == "mean", right
    cdef void* xp = cnp.PyArray_DATA(x)
    cdef void* op = cnp.PyArray_DATA(out)
    cdef void* wp = NULL
    cdef void* gp = NULL
    cdef const int64_t* tp = <const int64_t*>cnp.PyArray_DATA(t)
    cdef double scale = 0
    if weight is not None:
        w = contiguous(weight)
        wp = cnp.PyArray_DATA(w)
    if cnp.PyArray_Check(grad_output) and cnp.PyArray_NDIM(grad_output) == 1:
        g = contiguous(grad_output)
        gp = cnp.PyArray_DATA(g)
    else:
        scale = grad_output
    with nogil:
        if single:
            right = gradients(kernels, <const float*>gp, 1, scale, mean, <const float*>xp, M, C, tp, ignore_index, <const float*>wp, label_smoothing, <float*>op)
        else:
            right = gradients(kernels, <const double*>gp, 1, scale, mean, <const double*>xp, M, C, tp, ignore_index, <const double*>wp, label_smoothing,
                              <double*>op)
    if not right:
        check_classes("cross_entropy_backward", t, C, ignore_index)
        raise RuntimeError("cross_entropy_backward: target changed during the call")
    return out
