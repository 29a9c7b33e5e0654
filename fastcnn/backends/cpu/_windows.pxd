# cython: language_level=3
"""Rows of averages, for who makes or takes the rows themselves (`_norm.pyx`)."""
from fastcnn.backends.cpu._kernels cimport fc_isa
from fastcnn.backends.cpu._layout cimport index, real


cdef struct Windows:
    index C
    index H
    index W
    index OH
    index OW
    index KH
    index KW
    index SH
    index SW


cdef Windows make_windows(index C, index H, index W, kernel_size, stride)
cdef index ring_rows(const Windows* w) noexcept nogil
cdef void add_row(const fc_isa* kernels, const real* x, real* out, index n) noexcept nogil
cdef void mean_columns(const fc_isa* kernels, const Windows* w, const real* sums, real* out) noexcept nogil
cdef void mean_back(const fc_isa* kernels, const Windows* w, const real* grad, index h0, index h1, real* out, real* ring, index* done) noexcept nogil
