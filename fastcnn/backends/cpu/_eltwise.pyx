# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Activations and the mean squared error: one parallel loop over dense memory; csrc/kernels/eltwise.inc and rows.inc do the arithmetic."""
import numpy as np

cimport numpy as cnp
from cython.parallel cimport prange

from fastcnn.backends.cpu._kernels cimport (
    FC_ELU,
    FC_GELU_ERF,
    FC_GELU_TANH,
    FC_LEAKY_RELU,
    FC_RELU,
    FC_SELU,
    FC_SIGMOID,
    FC_SILU,
    FC_SOFTPLUS,
    FC_TANH,
    fc_isa,
)
from fastcnn.backends.cpu._arrays cimport is_channels_last
from fastcnn.backends.cpu._layout cimport ceil_div, imin, index, real
from fastcnn.backends.cpu._runtime cimport Arena, acquire, active_isa, fc_use_pool, pool, release, thread_count

cnp.import_array()
fc_use_pool(pool())

F32, F64 = np.float32, np.float64

cdef enum:
    PIECE = 16384  # elements per item: 64 KiB of float32 in, 64 KiB out


cdef bint same_dense_memory(cnp.ndarray a, cnp.ndarray b) noexcept:
    """Do equal offsets into both buffers mean equal logical positions?"""
    if cnp.PyArray_IS_C_CONTIGUOUS(a) and cnp.PyArray_IS_C_CONTIGUOUS(b):
        return True
    return cnp.PyArray_NDIM(a) == 4 and is_channels_last(a) and is_channels_last(b)


cdef cnp.ndarray as_dense(cnp.ndarray a):
    if cnp.PyArray_IS_C_CONTIGUOUS(a) or (cnp.PyArray_NDIM(a) == 4 and is_channels_last(a)):
        return a
    return cnp.PyArray_GETCONTIGUOUS(a)


cdef inline cnp.ndarray fresh(cnp.ndarray x):
    """numpy.empty_like of a dense array; for C-contiguous ones without a call of Python's."""
    if cnp.PyArray_IS_C_CONTIGUOUS(x):
        return cnp.PyArray_EMPTY(cnp.PyArray_NDIM(x), cnp.PyArray_DIMS(x), cnp.PyArray_TYPE(x), 0)
    return np.empty_like(x)


cdef cnp.ndarray apply(int op, cnp.ndarray input, double a, double b, double cost):
    cdef cnp.ndarray x = as_dense(input), out = fresh(x)
    cdef const fc_isa* kernels = active_isa()
    cdef index n = x.size, i, pieces = ceil_div(n, PIECE)
    cdef int threads = thread_count(cost * n, pieces)
    cdef bint single = cnp.PyArray_TYPE(x) == cnp.NPY_FLOAT
    cdef char* p = <char*>cnp.PyArray_DATA(x)
    cdef char* q = <char*>cnp.PyArray_DATA(out)
    for i in prange(pieces, nogil=True, num_threads=threads, schedule="static"):
        if single:
            kernels.f32.eltwise(op, <float*>p + i * PIECE, <float*>q + i * PIECE, imin(PIECE, n - i * PIECE), <float>a, <float>b)
        else:
            kernels.f64.eltwise(op, <double*>p + i * PIECE, <double*>q + i * PIECE, imin(PIECE, n - i * PIECE), a, b)
    return out


cdef cnp.ndarray beside(cnp.ndarray other, cnp.ndarray x):
    """other, of x's shape, in the memory format of x, which is dense."""
    cdef cnp.ndarray a = as_dense(other), copy
    if same_dense_memory(x, a):
        return a
    copy = np.empty_like(x)
    cnp.PyArray_CopyInto(copy, a)
    return copy


cdef cnp.ndarray apply_backward(int op, cnp.ndarray grad_output, cnp.ndarray input, double a, double b, double cost):
    cdef cnp.ndarray x = as_dense(input), g = beside(grad_output, x), out = fresh(x)
    cdef const fc_isa* kernels = active_isa()
    cdef index n = x.size, i, pieces = ceil_div(n, PIECE)
    cdef int threads = thread_count(cost * n, pieces)
    cdef bint single = cnp.PyArray_TYPE(x) == cnp.NPY_FLOAT
    cdef char* p = <char*>cnp.PyArray_DATA(x)
    cdef char* d = <char*>cnp.PyArray_DATA(g)
    cdef char* q = <char*>cnp.PyArray_DATA(out)
    for i in prange(pieces, nogil=True, num_threads=threads, schedule="static"):
        if single:
            kernels.f32.eltwise_backward(op, <float*>d + i * PIECE, <float*>p + i * PIECE, <float*>q + i * PIECE, imin(PIECE, n - i * PIECE), <float>a, <float>b)
        else:
            kernels.f64.eltwise_backward(op, <double*>d + i * PIECE, <double*>p + i * PIECE, <double*>q + i * PIECE, imin(PIECE, n - i * PIECE), a, b)
    return out


# Operations per element, for the serial threshold: memory-bound ones count their two or three accesses, the others their polynomial.
cdef double CHEAP = 8, DEAR = 40


def relu(input):
    return apply(FC_RELU, input, 0, 0, CHEAP)


def relu_backward(grad_output, input):
    return apply_backward(FC_RELU, grad_output, input, 0, 0, CHEAP)


def leaky_relu(input, double negative_slope):
    return apply(FC_LEAKY_RELU, input, negative_slope, 0, CHEAP)


def leaky_relu_backward(grad_output, input, double negative_slope):
    return apply_backward(FC_LEAKY_RELU, grad_output, input, negative_slope, 0, CHEAP)


def elu(input, double alpha):
    return apply(FC_ELU, input, alpha, 0, DEAR)


def elu_backward(grad_output, input, double alpha):
    return apply_backward(FC_ELU, grad_output, input, alpha, 0, DEAR)


def selu(input):
    return apply(FC_SELU, input, 0, 0, DEAR)


def selu_backward(grad_output, input):
    return apply_backward(FC_SELU, grad_output, input, 0, 0, DEAR)


def gelu(input, approximate):
    return apply(FC_GELU_TANH if approximate == "tanh" else FC_GELU_ERF, input, 0, 0, DEAR)


def gelu_backward(grad_output, input, approximate):
    return apply_backward(FC_GELU_TANH if approximate == "tanh" else FC_GELU_ERF, grad_output, input, 0, 0, DEAR)


def silu(input):
    return apply(FC_SILU, input, 0, 0, DEAR)


def silu_backward(grad_output, input):
    return apply_backward(FC_SILU, grad_output, input, 0, 0, DEAR)


def softplus(input, double beta, double threshold):
    return apply(FC_SOFTPLUS, input, beta, threshold, DEAR)


def softplus_backward(grad_output, input, double beta, double threshold):
    return apply_backward(FC_SOFTPLUS, grad_output, input, beta, threshold, DEAR)


def sigmoid(input):
    return apply(FC_SIGMOID, input, 0, 0, DEAR)


def sigmoid_backward(grad_output, output):
    return apply_backward(FC_SIGMOID, grad_output, output, 0, 0, CHEAP)


def tanh(input):
    return apply(FC_TANH, input, 0, 0, DEAR)


def tanh_backward(grad_output, output):
    return apply_backward(FC_TANH, grad_output, output, 0, 0, CHEAP)


# The squared error. Its sum is that of pieces, each in double, added in their order.


cdef double squares(const fc_isa* kernels, const real* x, const real* t, index n, double* sums) noexcept nogil:
    cdef index pieces = ceil_div(n, PIECE), i
    cdef int threads = thread_count(CHEAP * n, pieces)
    cdef double total = 0
    for i in prange(pieces, num_threads=threads, schedule="static"):
        if real is float:
            sums[i] = kernels.f32.square_error(x + i * PIECE, t + i * PIECE, imin(PIECE, n - i * PIECE))
        else:
            sums[i] = kernels.f64.square_error(x + i * PIECE, t + i * PIECE, imin(PIECE, n - i * PIECE))
    for i in range(pieces):
        total = total + sums[i]
    return total


cdef void differences(const fc_isa* kernels, const real* grad, index step, const real* x, const real* t, real* out, index n) noexcept nogil:
    cdef index pieces = ceil_div(n, PIECE), i, at
    cdef int threads = thread_count(CHEAP * n, pieces)
    for i in prange(pieces, num_threads=threads, schedule="static"):
        at = i * PIECE
        if real is float:
            kernels.f32.square_difference(grad + at * step if grad != NULL else NULL, step, x + at, t + at, out + at, imin(PIECE, n - at))
        else:
            kernels.f64.square_difference(grad + at * step if grad != NULL else NULL, step, x + at, t + at, out + at, imin(PIECE, n - at))


cdef cnp.ndarray difference(object grad, double scale, cnp.ndarray x, cnp.ndarray t):
    """(x - t)^2, or its gradient: grad is an array like x, scale for all, or False."""
    cdef const fc_isa* kernels = active_isa()
    cdef cnp.ndarray out = fresh(x), g
    cdef void* xp = cnp.PyArray_DATA(x)
    cdef void* tp = cnp.PyArray_DATA(t)
    cdef void* op = cnp.PyArray_DATA(out)
    cdef void* gp = NULL
    cdef float single_scale = <float>scale
    cdef index step = 0, n = x.size
    cdef bint single = cnp.PyArray_TYPE(x) == cnp.NPY_FLOAT
    if grad is None:
        gp = <void*>&single_scale if single else <void*>&scale
    elif grad is not False:
        g = beside(grad, x)
        gp, step = cnp.PyArray_DATA(g), 1
    with nogil:
        if single:
            differences(kernels, <float*>gp, step, <float*>xp, <float*>tp, <float*>op, n)
        else:
            differences(kernels, <double*>gp, step, <double*>xp, <double*>tp, <double*>op, n)
    return out


def mse_loss(cnp.ndarray input, cnp.ndarray target, str reduction):
    cdef cnp.ndarray x = as_dense(input), t = beside(target, x)
    cdef const fc_isa* kernels = active_isa()
    cdef bint single = cnp.PyArray_TYPE(x) == cnp.NPY_FLOAT
    cdef index n = x.size
    cdef void* xp = cnp.PyArray_DATA(x)
    cdef void* tp = cnp.PyArray_DATA(t)
    cdef double total
    cdef Arena arena
    if reduction == "none":
        return difference(False, 0, x, t)
    arena = acquire((ceil_div(n, PIECE) + 1) * sizeof(double))
    with nogil:
        if single:
            total = squares(kernels, <float*>xp, <float*>tp, n, <double*>arena.base)
        else:
            total = squares(kernels, <double*>xp, <double*>tp, n, <double*>arena.base)
    release(arena)
    if reduction == "mean":
        total = total / n  # the mean of nothing is NaN
    return F32(total) if single else F64(total)


def mse_loss_backward(grad_output, cnp.ndarray input, cnp.ndarray target, str reduction):
    cdef cnp.ndarray x = as_dense(input), t = beside(target, x)
    cdef double scale = 0
    if cnp.PyArray_Check(grad_output) and cnp.PyArray_NDIM(grad_output):
        return difference(grad_output, 0, x, t)
    scale = grad_output
    return difference(None, scale / x.size if reduction == "mean" else scale, x, t)
