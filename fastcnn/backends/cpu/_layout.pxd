# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Geometry of a convolution and the loader of the channels-last algorithms.

Conv as GEMM, per image and group:   m = output pixels,   n = O / G,   k = (C / G) * KH * KW.
They read channels-last memory: the user's array itself where that is its layout and no padding is needed, else a strip of it that the loader has
copied into zero-padded scratch (small enough for L2). So stride, padding, dilation, memory format, views and byte strides are dealt with in one place.
"""
from libc.string cimport memcpy, memset

from fastcnn.backends.cpu._kernels cimport fc_isa

ctypedef Py_ssize_t index

ctypedef fused real:
    float
    double


cdef struct View:
    # element strides of a logical (N, C, H, W) array
    index n
    index c
    index h
    index w


cdef struct Geometry:
    # a forward convolution: input (N, C, H, W) -> output (N, O, OH, OW); bottom and right padding follow from OH, OW
    index N
    index C
    index H
    index W
    index O
    index KH
    index KW
    index OH
    index OW
    index G
    index SH
    index SW
    index PT
    index PL
    index DH
    index DW
    index Cg  # channels per group: C / G
    index Og  # O / G


cdef inline index imin(index a, index b) noexcept nogil:
    return a if a < b else b


cdef inline index imax(index a, index b) noexcept nogil:
    return a if a > b else b


cdef inline index ceil_div(index a, index b) noexcept nogil:
    return (a + b - 1) // b


cdef inline size_t aligned(size_t nbytes) noexcept nogil:
    """nbytes rounded up to whole cache lines, plus one line: neighbours never share a line, and power-of-two sizes do not collide in the cache's sets."""
    return (nbytes + 63) // 64 * 64 + 64


cdef inline void load_row(const fc_isa* kernels, const real* x, View s, index C, index pixels, real* dst) noexcept nogil:
    """dst[w][c] = x[c, w] for one row: a copy, a transpose, or element by element, whichever the strides allow."""
    cdef index w, c, w0
    if s.c == 1 or C == 1:
        if s.w == C:
            memcpy(dst, x, pixels * C * sizeof(real))
        elif C == 1:
            for w in range(pixels):
                dst[w] = x[w * s.w]
        else:
            for w in range(pixels):
                memcpy(dst + w * C, x + w * s.w, C * sizeof(real))
    elif s.w == 1:
        if real is float:
            kernels.f32.transpose(x, s.c, dst, C, C, pixels, C)
        else:
            kernels.f64.transpose(x, s.c, dst, C, C, pixels, C)
    else:
        w0 = 0
        while w0 < pixels:  # 16 pixels at a time: their lines, and those they go to, stay in L1 for the channels to come
            for c in range(C):
                for w in range(w0, imin(pixels, w0 + 16)):
                    dst[w * C + c] = x[w * s.w + c * s.c]
            w0 += 16


cdef inline void load_rows(const fc_isa* kernels, const real* x, View s, index C, index H, index W, index h0, index rows, index left, index width,
                           real* dst) noexcept nogil:
    """dst[r][w][c] = x[c, h0 + r, w - left] for r < rows, w < width; zero outside the image."""
    cdef index r, h, first = imin(imax(left, 0), width), pixels = imin(W, width - first), line = width * C
    cdef real* d
    if s.w == 1 and s.h == width and pixels == width and h0 >= 0 and h0 + rows <= H:  # whole rows of planes, nothing between them: one long row
        load_row(kernels, x + h0 * s.h, s, C, rows * width, dst)
        return
    for r in range(rows):
        h = h0 + r
        d = dst + r * line
        if h < 0 or h >= H:
            memset(d, 0, line * sizeof(real))
            continue
        memset(d, 0, first * C * sizeof(real))
        load_row(kernels, x + h * s.h, s, C, pixels, d + first * C)
        memset(d + (first + pixels) * C, 0, (width - first - pixels) * C * sizeof(real))


cdef inline bint simplify(Geometry* g, View* x) noexcept nogil:
    """The same convolution where it can be had easier. Memory of a (KH, 1) kernel over a single column of pixels is that of a (1, KH) kernel over a row of them, which
    tiles walk along; and kernels of one row read only every SH-th row of an input without padding above it: those become the input, nobody loads the others.
    Returns whether columns became rows: an output's or a gradient's view must follow."""
    cdef bint turned = g.W == 1 and g.KW == 1 and g.PL == 0 and g.OW == 1 and g.KH > 1
    if turned:
        g.W, g.H, g.OW, g.OH, g.KW, g.KH = g.H, 1, g.OH, 1, g.KH, 1
        g.SW, g.SH, g.PL, g.PT, g.DW, g.DH = g.SH, 1, g.PT, 0, g.DH, 1
        x.w, x.h = x.h, x.n
    if g.KH == 1 and g.SH > 1 and g.PT == 0:
        x.h *= g.SH
        g.H = ceil_div(g.H, g.SH)
        g.SH = 1
    return turned


cdef inline index fill_segments(Geometry* g, index row, index pixel, index* segment, index* length) noexcept nogil:
    """Offsets of the runs of consecutive elements that hold a pixel's taps, in memory with these strides; returns how many. At most KH * KW."""
    cdef index kh, kw
    if g.DW == 1 and pixel == g.Cg:
        if g.DH == 1 and row == g.KW * g.Cg:  # the kernel covers whole rows: one run
            segment[0] = 0
            length[0] = g.KH * g.KW * g.Cg
            return 1
        for kh in range(g.KH):
            segment[kh] = kh * g.DH * row
        length[0] = g.KW * g.Cg
        return g.KH
    for kh in range(g.KH):
        for kw in range(g.KW):
            segment[kh * g.KW + kw] = kh * g.DH * row + kw * g.DW * pixel
    length[0] = g.Cg
    return g.KH * g.KW
