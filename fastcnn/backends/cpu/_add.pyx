# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""The sum of two paths of a network with the activation behind it, in one pass over memory."""
import numpy as np

cimport numpy as cnp
from cython.parallel cimport prange
from libc.string cimport memcpy

from fastcnn.backends.cpu._arrays cimport is_channels_last
from fastcnn.backends.cpu._kernels cimport FC_LEAKY_RELU, FC_RELU, fc_isa
from fastcnn.backends.cpu._layout cimport ceil_div, imin, index, real
from fastcnn.backends.cpu._runtime cimport active_isa, fc_use_pool, pool, thread_count

cnp.import_array()
fc_use_pool(pool())

cdef enum:
    PIECE = 2048  # elements: the sum is still in L1 when the activation reads it

ACTIVATIONS = {None: -1, "relu": FC_RELU, "leaky_relu": FC_LEAKY_RELU}


cdef bint same_format(cnp.ndarray a, cnp.ndarray b) noexcept:
    return (cnp.PyArray_IS_C_CONTIGUOUS(a) and cnp.PyArray_IS_C_CONTIGUOUS(b)) or (cnp.PyArray_NDIM(a) == 4 and is_channels_last(a) and is_channels_last(b))


cdef void add_piece(const fc_isa* kernels, const real* a, const real* b, real* out, index n, int op, double slope) noexcept nogil:
    if a != out:
        memcpy(out, a, n * sizeof(real))
    if real is float:
        kernels.f32.add_scaled(b, 1, out, n)
        if op >= 0:
            kernels.f32.eltwise(op, out, out, n, <real>slope, 0)
    else:
        kernels.f64.add_scaled(b, 1, out, n)
        if op >= 0:
            kernels.f64.eltwise(op, out, out, n, <real>slope, 0)


def add_act(cnp.ndarray a, cnp.ndarray b, cnp.ndarray out, activation, double slope):
    """out = act(a + b), arrays of one shape and dtype; out may be a. Fast where all three are C-contiguous or all channels-last; others go through a copy."""
    cdef const fc_isa* kernels = active_isa()
    cdef int op = ACTIVATIONS[activation]
    if not same_format(a, out):
        np.copyto(out, a)
        a = out
    if not same_format(b, out):
        other = np.empty_like(out)
        np.copyto(other, b)
        b = other
    cdef index n = out.size, pieces = ceil_div(n, PIECE), i
    cdef int threads = thread_count(4.0 * n, pieces)
    cdef bint single = cnp.PyArray_TYPE(out) == cnp.NPY_FLOAT
    cdef char* pa = <char*>cnp.PyArray_DATA(a)
    cdef char* pb = <char*>cnp.PyArray_DATA(b)
    cdef char* po = <char*>cnp.PyArray_DATA(out)
    for i in prange(pieces, nogil=True, num_threads=threads, schedule="static"):
        if single:
            add_piece(kernels, <float*>pa + i * PIECE, <float*>pb + i * PIECE, <float*>po + i * PIECE, imin(PIECE, n - i * PIECE), op, slope)
        else:
            add_piece(kernels, <double*>pa + i * PIECE, <double*>pb + i * PIECE, <double*>po + i * PIECE, imin(PIECE, n - i * PIECE), op, slope)


def derive(cnp.ndarray grad, cnp.ndarray y, cnp.ndarray out, activation, double slope):
    """out = grad * act'(y), y the activation's output, which tells its derivative. Arrays of one shape and dtype; fast where all three have one format."""
    cdef const fc_isa* kernels = active_isa()
    cdef int op = ACTIVATIONS[activation]
    if not same_format(grad, out):
        np.copyto(out, grad)
        grad = out
    if not same_format(y, out):
        other = np.empty_like(out)
        np.copyto(other, y)
        y = other
    cdef index n = out.size, pieces = ceil_div(n, PIECE), i
    cdef int threads = thread_count(4.0 * n, pieces)
    cdef bint single = cnp.PyArray_TYPE(out) == cnp.NPY_FLOAT
    cdef char* pg = <char*>cnp.PyArray_DATA(grad)
    cdef char* py = <char*>cnp.PyArray_DATA(y)
    cdef char* po = <char*>cnp.PyArray_DATA(out)
    for i in prange(pieces, nogil=True, num_threads=threads, schedule="static"):
        if single:
            kernels.f32.eltwise_backward(op, <float*>pg + i * PIECE, <float*>py + i * PIECE, <float*>po + i * PIECE, imin(PIECE, n - i * PIECE), <float>slope, 0)
        else:
            kernels.f64.eltwise_backward(op, <double*>pg + i * PIECE, <double*>py + i * PIECE, <double*>po + i * PIECE, imin(PIECE, n - i * PIECE), slope, 0)
