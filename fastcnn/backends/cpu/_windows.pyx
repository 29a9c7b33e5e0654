# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Rows of averages over regular windows inside channels-last images, for passes that make or take the rows themselves (`_norm.pyx`). Whole images are `_pool.pyx`'s, in the
same order of additions.

A mean over KH x KW pixels is one over KH rows and one over KW columns: KH + KW additions instead of KH * KW, and the first of them runs along whole rows of
memory. Forward adds the rows under a row of windows, then the columns; backward spreads each row of gradients along its columns once (in a ring of as many rows as windows
overlap), and every row of the result is a sum of such rows, written once.
"""
from libc.string cimport memcpy, memset

from fastcnn.backends.cpu._kernels cimport fc_isa
from fastcnn.backends.cpu._layout cimport imax, imin, index, real


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
