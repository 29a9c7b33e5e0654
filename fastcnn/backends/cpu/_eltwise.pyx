# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Activations: one parallel loop over dense memory; csrc/kernels/eltwise.inc does the arithmetic."""
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
from fastcnn.backends.cpu._layout cimport ceil_div, imin, index
from fastcnn.backends.cpu._runtime cimport active_isa, fc_use_pool, pool, thread_count

cnp.import_array()
fc_use_pool(pool())

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


cdef cnp.ndarray apply(int op, cnp.ndarray input, double a, double b, double cost):
    cdef cnp.ndarray x = as_dense(input), out = np.empty_like(x)
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


cdef cnp.ndarray apply_backward(int op, cnp.ndarray grad_output, cnp.ndarray input, double a, double b, double cost):
    cdef cnp.ndarray x = as_dense(input), g = as_dense(grad_output), out
    if not same_dense_memory(x, g):  # grad_output in the other memory format: bring it to the input's
        out = np.empty_like(x)
        cnp.PyArray_CopyInto(out, g)
        g = out
    out = np.empty_like(x)
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
