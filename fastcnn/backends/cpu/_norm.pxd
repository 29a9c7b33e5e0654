# cython: language_level=3
"""What a convolution can do for the normalisation before it and the one behind it (`_winograd.pyx`)."""
cimport numpy as cnp
from fastcnn.backends.cpu._kernels cimport fc_isa
from fastcnn.backends.cpu._layout cimport index, real
from fastcnn.backends.cpu._windows cimport Windows


cdef struct Layout:
    bint last
    index N
    index C
    index H
    index W
    index rows      # of a piece, in channels-last memory
    index images    # of a piece, in planes
    index strips    # pieces of an image
    index pieces    # pieces per channel
    int threads
    int op          # activation, -1: none
    double slope
    int pool
    Windows windows # of the pooling


cdef struct Constants:
    # per channel, each an array: y = (x - mean) * scale + shift, dx = k1 * dy + (k2 * (x - mean) + k3)
    void* mean
    void* scale
    void* shift
    void* k1
    void* k2
    void* k3


cdef struct Pieces:
    # where the statistics of pieces go: three arrays (pieces, C)
    const Layout* layout
    void* sums
    void* means
    void* squares


cdef void piece_statistics(const fc_isa* kernels, const Pieces* p, index i, const real* x) noexcept nogil


cdef class Following:
    cdef Layout s
    cdef bint normalised
    cdef double eps
    cdef int typenum
    cdef cnp.ndarray parts       # statistics of pieces
    cdef bint counted            # they are those of the present input
    cdef readonly cnp.ndarray mean
    cdef readonly cnp.ndarray var
    cdef cnp.ndarray scale
    cdef cnp.ndarray shift
    cdef Pieces pieces(self)
    cdef Constants constants(self)
