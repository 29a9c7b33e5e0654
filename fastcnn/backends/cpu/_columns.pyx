# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""unfold (im2col) and fold (col2im): every row of the column matrix is one tap's view of one channel, copied or added row by row. Convolution does not need them."""
cimport numpy as cnp
from cython.parallel cimport prange
from libc.string cimport memcpy, memset

from fastcnn.backends.cpu._arrays cimport empty4, view_of
from fastcnn.backends.cpu._layout cimport View, ceil_div, imax, imin, index, real
from fastcnn.backends.cpu._runtime cimport fc_use_pool, pool, thread_count

cnp.import_array()
fc_use_pool(pool())


cdef struct Columns:
    index N
    index C
    index H
    index W
    index KH
    index KW
    index OH
    index OW
    index SH
    index SW
    index PH
    index PW
    index DH
    index DW


cdef inline void inside(index outputs, index size, index stride, index offset, index* first, index* after) noexcept nogil:
    """Outputs o whose pixel o * stride + offset lies in [0, size)."""
    first[0] = imin(outputs, ceil_div(imax(0, -offset), stride))
    after[0] = imax(first[0], imin(outputs, (size - 1 - offset) // stride + 1 if size > offset else 0))


cdef void unfold_channel(const Columns* g, const real* x, View s, real* columns) noexcept nogil:
    cdef index kh, kw, oh, ow, ow0, ow1, h
    cdef real* row = columns
    cdef const real* line
    for kh in range(g.KH):
        for kw in range(g.KW):
            inside(g.OW, g.W, g.SW, kw * g.DW - g.PW, &ow0, &ow1)
            for oh in range(g.OH):
                h = oh * g.SH + kh * g.DH - g.PH
                if h < 0 or h >= g.H:
                    memset(row, 0, g.OW * sizeof(real))
                else:
                    memset(row, 0, ow0 * sizeof(real))
                    line = x + h * s.h + (kw * g.DW - g.PW) * s.w
                    if g.SW * s.w == 1:
                        memcpy(row + ow0, line + ow0, (ow1 - ow0) * sizeof(real))
                    else:
                        for ow in range(ow0, ow1):
                            row[ow] = line[ow * g.SW * s.w]
                    memset(row + ow1, 0, (g.OW - ow1) * sizeof(real))
                row += g.OW


cdef void fold_channel(const Columns* g, const real* columns, real* x) noexcept nogil:
    cdef index kh, kw, oh, ow, ow0, ow1, h
    cdef const real* row = columns
    cdef real* line
    memset(x, 0, g.H * g.W * sizeof(real))
    for kh in range(g.KH):
        for kw in range(g.KW):
            inside(g.OW, g.W, g.SW, kw * g.DW - g.PW, &ow0, &ow1)
            for oh in range(g.OH):
                h = oh * g.SH + kh * g.DH - g.PH
                if 0 <= h < g.H:
                    line = x + h * g.W + (kw * g.DW - g.PW)
                    if g.SW == 1:
                        for ow in range(ow0, ow1):
                            line[ow] += row[ow]
                    else:
                        for ow in range(ow0, ow1):
                            line[ow * g.SW] += row[ow]
                row += g.OW


cdef Columns geometry(index N, index C, index H, index W, kernel_size, dilation, padding, stride):
    cdef Columns g
    (g.KH, g.KW), (g.DH, g.DW), (g.PH, g.PW), (g.SH, g.SW) = kernel_size, dilation, padding, stride
    g.N, g.C, g.H, g.W = N, C, H, W
    g.OH = (H + 2 * g.PH - (g.KH - 1) * g.DH - 1) // g.SH + 1
    g.OW = (W + 2 * g.PW - (g.KW - 1) * g.DW - 1) // g.SW + 1
    return g


def unfold(cnp.ndarray input, kernel_size, dilation, padding, stride):
    """(N, C, H, W) -> (N, C*KH*KW, OH*OW): a column per output pixel, rows ordered channel, kh, kw."""
    cdef Columns g = geometry(input.shape[0], input.shape[1], input.shape[2], input.shape[3], kernel_size, dilation, padding, stride)
    cdef cnp.npy_intp shape[3]
    shape[0], shape[1], shape[2] = g.N, g.C * g.KH * g.KW, g.OH * g.OW
    cdef cnp.ndarray columns = cnp.PyArray_EMPTY(3, shape, cnp.PyArray_TYPE(input), 0)
    cdef View s = view_of(input)
    cdef bint single = cnp.PyArray_TYPE(input) == cnp.NPY_FLOAT
    cdef void* x = cnp.PyArray_DATA(input)
    cdef void* out = cnp.PyArray_DATA(columns)
    cdef index i, block = g.KH * g.KW * g.OH * g.OW
    cdef int threads = thread_count(4.0 * columns.size, g.N * g.C)
    for i in prange(g.N * g.C, nogil=True, num_threads=threads, schedule="static"):
        if single:
            unfold_channel(&g, <const float*>x + i // g.C * s.n + i % g.C * s.c, s, <float*>out + i * block)
        else:
            unfold_channel(&g, <const double*>x + i // g.C * s.n + i % g.C * s.c, s, <double*>out + i * block)
    return columns


def fold(cnp.ndarray input, output_size, kernel_size, dilation, padding, stride):
    """(N, C*KH*KW, OH*OW) -> (N, C, H, W): overlapping pixels are added, in the order kh, kw."""
    cdef cnp.ndarray columns = cnp.PyArray_GETCONTIGUOUS(input)
    cdef Columns g = geometry(columns.shape[0], columns.shape[1] // (kernel_size[0] * kernel_size[1]), output_size[0], output_size[1], kernel_size, dilation, padding,
                              stride)
    cdef cnp.ndarray output = empty4(g.N, g.C, g.H, g.W, cnp.PyArray_TYPE(input), False)
    cdef bint single = cnp.PyArray_TYPE(input) == cnp.NPY_FLOAT
    cdef void* p = cnp.PyArray_DATA(columns)
    cdef void* out = cnp.PyArray_DATA(output)
    cdef index i, block = g.KH * g.KW * g.OH * g.OW
    cdef int threads = thread_count(4.0 * columns.size, g.N * g.C)
    for i in prange(g.N * g.C, nogil=True, num_threads=threads, schedule="static"):
        if single:
            fold_channel(&g, <const float*>p + i * block, <float*>out + i * g.H * g.W)
        else:
            fold_channel(&g, <const double*>p + i * block, <double*>out + i * g.H * g.W)
    return output
