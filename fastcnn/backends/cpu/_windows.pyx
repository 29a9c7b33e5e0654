# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Averages over regular windows inside channels-last images, into memory that the caller brings: what plans use. `_pool.pyx` does every other pooling.

A mean over KH x KW pixels is one over KH rows and one over KW columns: KH + KW additions instead of KH * KW, and the first of them runs along whole rows of
memory. Forward adds the rows under a row of windows, then the columns; backward spreads each row of gradients along its columns once (in a ring of as many rows as windows
overlap), and every row of the result is a sum of such rows, written once.
"""
cimport numpy as cnp
from cython.parallel cimport parallel, prange, threadid
from libc.string cimport memcpy, memset

from fastcnn.backends.cpu._kernels cimport fc_isa
from fastcnn.backends.cpu._layout cimport aligned, ceil_div, imax, imin, index, real
from fastcnn.backends.cpu._runtime cimport Arena, acquire, active_isa, fc_use_pool, pool, release, thread_count

cnp.import_array()
fc_use_pool(pool())

cdef enum:
    BACK_ROWS = 32  # of the result per piece; rows of gradients at its edges are spread twice


cdef void add_row(const fc_isa* kernels, const real* x, real* out, index n) noexcept nogil:
    if real is float:
        kernels.f32.add_scaled(x, 1, out, n)
    else:
        kernels.f64.add_scaled(x, 1, out, n)


cdef void mean_columns(const fc_isa* kernels, const Windows* w, const real* sums, real* out) noexcept nogil:
    """A row of windows from the sums of the rows under them."""
    if real is float:
        kernels.f32.window_mean(sums, w.W * w.C, w.SW * w.C, 1, w.KW, <real>1 / (w.KH * w.KW), out, w.OW, w.C)
    else:
        kernels.f64.window_mean(sums, w.W * w.C, w.SW * w.C, 1, w.KW, <real>1 / (w.KH * w.KW), out, w.OW, w.C)


cdef void mean_row(const fc_isa* kernels, const Windows* w, const real* x, real* out, real* sums) noexcept nogil:
    """A row of windows; x is its first row of pixels, sums a row of scratch."""
    cdef index line = w.W * w.C, r
    if w.KH > 1:
        memcpy(sums, x, line * sizeof(real))
        for r in range(1, w.KH):
            add_row(kernels, x + r * line, sums, line)
        x = sums
    mean_columns(kernels, w, x, out)


cdef void spread_row(const fc_isa* kernels, const Windows* w, const real* grad, real* out) noexcept nogil:
    cdef int overlap = w.SW < w.KW
    if overlap or w.SW > w.KW or w.OW * w.SW < w.W:
        memset(out, 0, w.W * w.C * sizeof(real))
    if real is float:
        kernels.f32.window_mean_back(grad, w.W * w.C, w.SW * w.C, 1, w.KW, <real>1 / (w.KH * w.KW), out, overlap, w.OW, w.C)
    else:
        kernels.f64.window_mean_back(grad, w.W * w.C, w.SW * w.C, 1, w.KW, <real>1 / (w.KH * w.KW), out, overlap, w.OW, w.C)


cdef void mean_back(const fc_isa* kernels, const Windows* w, const real* grad, index h0, index h1, real* out, real* ring, index* done) noexcept nogil:
    """Rows h0 .. h1 - 1 of the gradient of one image, `out` its row h0. grad is the image's of the averages; the ring holds ring_rows rows of it, spread along their
    columns, up to row done - 1: 0 at first, and then what the call for the rows just above has left."""
    cdef index line = w.W * w.C, rows = ring_rows(w), h, o, first, after
    out -= h0 * line
    for h in range(h0, h1):
        first = (h - w.KH) // w.SH + 1 if h >= w.KH else 0   # windows that begin at o * SH <= h and end beyond it
        after = imin(w.OH, h // w.SH + 1)
        if first >= after:
            memset(out + h * line, 0, line * sizeof(real))
            continue
        done[0] = imax(done[0], first)
        while done[0] < after:
            spread_row(kernels, w, grad + done[0] * w.OW * w.C, ring + done[0] % rows * line)
            done[0] += 1
        memcpy(out + h * line, ring + first % rows * line, line * sizeof(real))
        for o in range(first + 1, after):
            add_row(kernels, ring + o % rows * line, out + h * line, line)


cdef index ring_rows(const Windows* w) noexcept nogil:
    """As many rows of windows as lie over one row of pixels."""
    return (w.KH - 1) // w.SH + 1


cdef Windows make_windows(index C, index H, index W, kernel_size, stride):
    cdef Windows w
    w.C, w.H, w.W = C, H, W
    (w.KH, w.KW), (w.SH, w.SW) = kernel_size, stride
    w.OH, w.OW = (H - w.KH) // w.SH + 1, (W - w.KW) // w.SW + 1
    return w


def mean(cnp.ndarray x, cnp.ndarray out, kernel_size, stride):
    """out[n, c, oh, ow] = mean of the window at (oh * SH, ow * SW); x (N, C, H, W) and out (N, C, OH, OW) channels-last."""
    cdef const fc_isa* kernels = active_isa()
    cdef Windows w = make_windows(x.shape[1], x.shape[2], x.shape[3], kernel_size, stride)
    cdef index items = x.shape[0] * w.OH, i, size = cnp.PyArray_ITEMSIZE(x)
    cdef size_t line = aligned(w.W * w.C * size)
    cdef int threads = thread_count(2.0 * out.size * (w.KH + w.KW), items)
    cdef Arena arena = acquire(threads * line)
    cdef char* sums = arena.base
    cdef char* p = <char*>cnp.PyArray_DATA(x)
    cdef char* q = <char*>cnp.PyArray_DATA(out)
    with nogil, parallel(num_threads=threads):
        for i in prange(items, schedule="static"):
            if size == 4:
                mean_row(kernels, &w, <float*>p + (i // w.OH * w.H + i % w.OH * w.SH) * w.W * w.C, <float*>q + i * w.OW * w.C, <float*>(sums + threadid() * line))
            else:
                mean_row(kernels, &w, <double*>p + (i // w.OH * w.H + i % w.OH * w.SH) * w.W * w.C, <double*>q + i * w.OW * w.C, <double*>(sums + threadid() * line))
    release(arena)


cdef void back_rows(const fc_isa* kernels, const Windows* w, const real* grad, index n, index h, real* out, real* ring) noexcept nogil:
    cdef index done = 0
    mean_back(kernels, w, grad + n * w.OH * w.OW * w.C, h, imin(w.H, h + BACK_ROWS), out + (n * w.H + h) * w.W * w.C, ring, &done)


def mean_backward(cnp.ndarray grad_output, cnp.ndarray out, kernel_size, stride):
    """The gradient of mean's input, into out (N, C, H, W); both channels-last."""
    cdef const fc_isa* kernels = active_isa()
    cdef Windows w = make_windows(out.shape[1], out.shape[2], out.shape[3], kernel_size, stride)
    cdef index pieces = ceil_div(w.H, BACK_ROWS), items = out.shape[0] * pieces, i, size = cnp.PyArray_ITEMSIZE(out)
    cdef size_t ring = aligned(ring_rows(&w) * w.W * w.C * size)
    cdef int threads = thread_count(2.0 * out.size, items)
    cdef Arena arena = acquire(threads * ring)
    cdef char* rings = arena.base
    cdef char* p = <char*>cnp.PyArray_DATA(grad_output)
    cdef char* q = <char*>cnp.PyArray_DATA(out)
    with nogil, parallel(num_threads=threads):
        for i in prange(items, schedule="static"):
            if size == 4:
                back_rows(kernels, &w, <float*>p, i // pieces, i % pieces * BACK_ROWS, <float*>q, <float*>(rings + threadid() * ring))
            else:
                back_rows(kernels, &w, <double*>p, i // pieces, i % pieces * BACK_ROWS, <double*>q, <double*>(rings + threadid() * ring))
    release(arena)
