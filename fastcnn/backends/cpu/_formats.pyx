# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Copies between the two memory formats."""
import numpy as np

cimport numpy as cnp
from cython.parallel cimport prange

from fastcnn.backends.cpu._arrays cimport empty4, is_channels_last
from fastcnn.backends.cpu._kernels cimport fc_isa
from fastcnn.backends.cpu._layout cimport ceil_div, imin, index, real
from fastcnn.backends.cpu._runtime cimport active_isa, fc_use_pool, pool, thread_count

cnp.import_array()
fc_use_pool(pool())

cdef enum:
    PIXELS = 512  # per piece: pieces enough to share, and a few of their cache lines at a time in L1


cdef void swap(const fc_isa* kernels, bint to_last, const real* source, real* out, index N, index C, index pixels, int threads) noexcept nogil:
    cdef index pieces = ceil_div(pixels, PIXELS), i, n, first, count
    for i in prange(N * pieces, num_threads=threads, schedule="static"):
        n = i // pieces
        first = i % pieces * PIXELS
        count = imin(PIXELS, pixels - first)
        if to_last:
            if real is float:
                kernels.f32.transpose(source + n * C * pixels + first, pixels, out + (n * pixels + first) * C, C, C, count, C)
            else:
                kernels.f64.transpose(source + n * C * pixels + first, pixels, out + (n * pixels + first) * C, C, C, count, C)
        else:
            if real is float:
                kernels.f32.transpose(source + (n * pixels + first) * C, C, out + n * C * pixels + first, pixels, count, C, count)
            else:
                kernels.f64.transpose(source + (n * pixels + first) * C, C, out + n * C * pixels + first, pixels, count, C, count)


def convert(cnp.ndarray source, cnp.ndarray out):
    """out[...] = source for (N, C, H, W) arrays of one shape and dtype; fast where one of them is C-contiguous and the other channels-last."""
    cdef index N = source.shape[0], C = source.shape[1], pixels = source.shape[2] * source.shape[3]
    cdef bint to_last = cnp.PyArray_IS_C_CONTIGUOUS(source) and is_channels_last(out)
    cdef int threads = thread_count(4.0 * source.size, N * ceil_div(pixels, PIXELS))
    if not to_last and not (is_channels_last(source) and cnp.PyArray_IS_C_CONTIGUOUS(out)):
        np.copyto(out, source)
    elif cnp.PyArray_TYPE(source) == cnp.NPY_FLOAT:
        swap(active_isa(), to_last, <const float*>cnp.PyArray_DATA(source), <float*>cnp.PyArray_DATA(out), N, C, pixels, threads)
    else:
        swap(active_isa(), to_last, <const double*>cnp.PyArray_DATA(source), <double*>cnp.PyArray_DATA(out), N, C, pixels, threads)


def channels_last(cnp.ndarray input):
    """A copy in channels-last memory."""
    cdef cnp.ndarray source = cnp.PyArray_GETCONTIGUOUS(input)
    cdef cnp.ndarray out = empty4(source.shape[0], source.shape[1], source.shape[2], source.shape[3], cnp.PyArray_TYPE(source), True)
    convert(source, out)
    return out
