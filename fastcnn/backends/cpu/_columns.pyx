# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""unfold (im2col) and fold (col2im), in the orders of elements that are in use. Convolution does not need them.

In most of them a row of the column matrix is one tap's view of one channel, copied or added row by row. Where the images are the innermost axis ("cs231n") they are made
so first, by transposing: then each pixel is a run of N elements, and the rest is the same. Where a row is a window ("dlfs") it is put together of short runs.
"""
cimport numpy as cnp
from cython.parallel cimport prange
from libc.string cimport memcpy, memset

from fastcnn.backends.cpu._arrays cimport empty4, view_of
from fastcnn.backends.cpu._kernels cimport fc_isa
from fastcnn.backends.cpu._layout cimport View, ceil_div, imax, imin, index, real
from fastcnn.backends.cpu._runtime cimport Arena, acquire, active_isa, fc_use_pool, pool, release, thread_count

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


cdef void unfold_tap(const Columns* g, const real* x, View s, index run, index kh, index kw, real* row) noexcept nogil:
    """One tap's view of one channel, whose pixels are `run` elements each: OH * OW pixels."""
    cdef index oh, ow, ow0, ow1, h
    cdef const real* line
    inside(g.OW, g.W, g.SW, kw * g.DW - g.PW, &ow0, &ow1)
    for oh in range(g.OH):
        h = oh * g.SH + kh * g.DH - g.PH
        if h < 0 or h >= g.H:
            memset(row, 0, g.OW * run * sizeof(real))
        else:
            memset(row, 0, ow0 * run * sizeof(real))
            line = x + h * s.h + (kw * g.DW - g.PW) * s.w
            if g.SW * s.w == run:
                memcpy(row + ow0 * run, line + ow0 * run, (ow1 - ow0) * run * sizeof(real))
            elif run == 1:
                for ow in range(ow0, ow1):
                    row[ow] = line[ow * g.SW * s.w]
            else:
                for ow in range(ow0, ow1):
                    memcpy(row + ow * run, line + ow * g.SW * s.w, run * sizeof(real))
            memset(row + ow1 * run, 0, (g.OW - ow1) * run * sizeof(real))
        row += g.OW * run


cdef void fold_channel(const Columns* g, const real* columns, index step, index pitch, index run, real* x, index pixel) noexcept nogil:
    """Adds the taps of one channel, `step` elements apart, to its pixels. A column holds `pitch` elements, a pixel `pixel`, and the first `run` of both are meant."""
    cdef index kh, kw, oh, ow, ow0, ow1, h, i
    cdef const real* row
    cdef real* line
    for h in range(g.H * g.W if run < pixel else 1):
        memset(x + h * pixel, 0, (run if run < pixel else g.H * g.W * pixel) * sizeof(real))
    for kh in range(g.KH):
        for kw in range(g.KW):
            inside(g.OW, g.W, g.SW, kw * g.DW - g.PW, &ow0, &ow1)
            for oh in range(g.OH):
                h = oh * g.SH + kh * g.DH - g.PH
                if h < 0 or h >= g.H:
                    continue
                row = columns + (kh * g.KW + kw) * step + oh * g.OW * pitch
                line = x + (h * g.W + kw * g.DW - g.PW) * pixel
                if run == 1:
                    if g.SW == 1 and pitch == 1 and pixel == 1:
                        for ow in range(ow0, ow1):
                            line[ow] += row[ow]
                    else:
                        for ow in range(ow0, ow1):
                            line[ow * g.SW * pixel] += row[ow * pitch]
                else:
                    for ow in range(ow0, ow1):
                        for i in range(run):
                            line[ow * g.SW * pixel + i] += row[ow * pitch + i]


cdef void unfold_windows(const Columns* g, const real* x, View s, index oh, real* out) noexcept nogil:
    """A row of windows of one image: each the run c, kh, kw."""
    cdef index ow, c, kh, kw, h, w
    cdef const real* line
    for ow in range(g.OW):
        w = ow * g.SW - g.PW
        for c in range(g.C):
            for kh in range(g.KH):
                h = oh * g.SH + kh * g.DH - g.PH
                if h < 0 or h >= g.H:
                    memset(out, 0, g.KW * sizeof(real))
                else:
                    line = x + c * s.c + h * s.h + w * s.w
                    if w >= 0 and w + (g.KW - 1) * g.DW < g.W:
                        for kw in range(g.KW):
                            out[kw] = line[kw * g.DW * s.w]
                    else:
                        for kw in range(g.KW):
                            out[kw] = line[kw * g.DW * s.w] if 0 <= w + kw * g.DW < g.W else 0
                out += g.KW


cdef void fold_windows(const Columns* g, const real* columns, real* x) noexcept nogil:
    """All windows of one image."""
    cdef index oh, ow, c, kh, kw, h, w
    cdef real* line
    memset(x, 0, g.C * g.H * g.W * sizeof(real))
    for oh in range(g.OH):
        for ow in range(g.OW):
            w = ow * g.SW - g.PW
            for c in range(g.C):
                for kh in range(g.KH):
                    h = oh * g.SH + kh * g.DH - g.PH
                    if 0 <= h < g.H:
                        line = x + (c * g.H + h) * g.W + w
                        if w >= 0 and w + (g.KW - 1) * g.DW < g.W:
                            for kw in range(g.KW):
                                line[kw * g.DW] += columns[kw]
                        else:
                            for kw in range(g.KW):
                                if 0 <= w + kw * g.DW < g.W:
                                    line[kw * g.DW] += columns[kw]
                    columns += g.KW


cdef void transpose(const fc_isa* kernels, const real* source, real* out, index rows, index cols, int threads) noexcept nogil:
    """out (cols, rows) = source (rows, cols) transposed."""
    cdef index pieces = ceil_div(cols, 512), i, count
    for i in prange(pieces, num_threads=threads, schedule="static"):
        count = imin(512, cols - i * 512)
        if real is float:
            kernels.f32.transpose(source + i * 512, cols, out + i * 512 * rows, rows, rows, count, rows)
        else:
            kernels.f64.transpose(source + i * 512, cols, out + i * 512 * rows, rows, rows, count, rows)


cdef Columns geometry(index N, index C, index H, index W, kernel_size, dilation, padding, stride):
    cdef Columns g
    (g.KH, g.KW), (g.DH, g.DW), (g.PH, g.PW), (g.SH, g.SW) = kernel_size, dilation, padding, stride
    g.N, g.C, g.H, g.W = N, C, H, W
    g.OH = (H + 2 * g.PH - (g.KH - 1) * g.DH - 1) // g.SH + 1
    g.OW = (W + 2 * g.PW - (g.KW - 1) * g.DW - 1) // g.SW + 1
    return g


cdef enum Order:
    TORCH
    DLFS
    CS231N
    CS231N_6D


cdef Order order_of(str columns):
    return {"torch": TORCH, "dlfs": DLFS, "cs231n": CS231N, "cs231n_6d": CS231N_6D}[columns]


cdef void run_unfold(const fc_isa* kernels, const Columns* p, Order order, const real* x, View s, real* out, real* turned, int threads) noexcept nogil:
    cdef index i, taps = p.KH * p.KW, pixels = p.OH * p.OW
    cdef const Columns* g = p
    cdef View images
    if order == DLFS:
        for i in prange(g.N * g.OH, num_threads=threads, schedule="static"):
            unfold_windows(g, x + i // g.OH * s.n, s, i % g.OH, out + i * g.OW * g.C * taps)
    elif order == CS231N and g.N > 1:
        transpose(kernels, x, turned, g.N, g.C * g.H * g.W, threads)
        images.n, images.c, images.h, images.w = 1, g.H * g.W * g.N, g.W * g.N, g.N
        for i in prange(g.C * taps, num_threads=threads, schedule="static"):
            unfold_tap(g, <const real*>turned + i // taps * images.c, images, g.N, i % taps // g.KW, i % g.KW, out + i * pixels * g.N)
    else:
        for i in prange(g.N * g.C * taps, num_threads=threads, schedule="static"):
            unfold_tap(g, x + i // (g.C * taps) * s.n + i // taps % g.C * s.c, s, 1, i % taps // g.KW, i % g.KW,
                       out + (i * pixels if order == TORCH else (i % (g.C * taps) * g.N + i // (g.C * taps)) * pixels))


cdef void run_fold(const fc_isa* kernels, const Columns* p, Order order, const real* columns, real* out, real* turned, int threads) noexcept nogil:
    cdef index i, taps = p.KH * p.KW, pixels = p.OH * p.OW, size = p.H * p.W, chunks, chunk
    cdef const Columns* g = p
    if order == DLFS:
        for i in prange(g.N, num_threads=threads, schedule="static"):
            fold_windows(g, columns + i * pixels * g.C * taps, out + i * g.C * size)
    elif order == CS231N and g.N > 1:
        chunk = 64
        chunks = ceil_div(g.N, chunk)
        for i in prange(g.C * chunks, num_threads=threads, schedule="static"):
            fold_channel(g, columns + i // chunks * taps * pixels * g.N + i % chunks * chunk, pixels * g.N, g.N, imin(chunk, g.N - i % chunks * chunk),
                         turned + i // chunks * size * g.N + i % chunks * chunk, g.N)
        transpose(kernels, turned, out, g.C * size, g.N, threads)
    else:
        for i in prange(g.N * g.C, num_threads=threads, schedule="static"):
            if order == CS231N_6D:
                fold_channel(g, columns + (i % g.C * taps * g.N + i // g.C) * pixels, g.N * pixels, 1, 1, out + i * size, 1)
            else:
                fold_channel(g, columns + i * taps * pixels, pixels, 1, 1, out + i * size, 1)


cdef cnp.ndarray gather(cnp.ndarray input, Columns* g, Order order, cnp.ndarray columns):
    cdef const fc_isa* kernels = active_isa()
    if columns.size == 0:
        return columns
    if order == CS231N:
        input = cnp.PyArray_GETCONTIGUOUS(input)
    cdef bint single = cnp.PyArray_TYPE(input) == cnp.NPY_FLOAT
    cdef Arena arena = acquire(input.nbytes if order == CS231N else 0)
    cdef View s = view_of(input)
    cdef void* x = cnp.PyArray_DATA(input)
    cdef void* out = cnp.PyArray_DATA(columns)
    cdef int threads = thread_count(4.0 * columns.size, g.N * g.C * g.KH * g.KW)
    with nogil:
        if single:
            run_unfold(kernels, g, order, <const float*>x, s, <float*>out, <float*>arena.base, threads)
        else:
            run_unfold(kernels, g, order, <const double*>x, s, <double*>out, <double*>arena.base, threads)
    release(arena)
    return columns


cdef cnp.ndarray scatter(cnp.ndarray input, Columns* g, Order order):
    cdef const fc_isa* kernels = active_isa()
    cdef cnp.ndarray columns = cnp.PyArray_GETCONTIGUOUS(input), output = empty4(g.N, g.C, g.H, g.W, cnp.PyArray_TYPE(input), False)
    if output.size == 0:
        return output
    cdef bint single = cnp.PyArray_TYPE(input) == cnp.NPY_FLOAT
    cdef Arena arena = acquire(output.nbytes if order == CS231N else 0)
    cdef void* p = cnp.PyArray_DATA(columns)
    cdef void* out = cnp.PyArray_DATA(output)
    cdef int threads = thread_count(4.0 * columns.size, g.N * g.C)
    with nogil:
        if single:
            run_fold(kernels, g, order, <const float*>p, <float*>out, <float*>arena.base, threads)
        else:
            run_fold(kernels, g, order, <const double*>p, <double*>out, <double*>arena.base, threads)
    release(arena)
    return output


cdef cnp.ndarray empty(list sizes, int typenum):
    cdef cnp.npy_intp shape[6]
    cdef int i
    for i in range(len(sizes)):
        shape[i] = sizes[i]
    return cnp.PyArray_EMPTY(<int>len(sizes), shape, typenum, 0)


def im2col(cnp.ndarray input, kernel_size, dilation, padding, stride, str columns):
    """The windows of (N, C, H, W) as the matrix that `columns` names."""
    cdef Columns g = geometry(input.shape[0], input.shape[1], input.shape[2], input.shape[3], kernel_size, dilation, padding, stride)
    cdef Order order = order_of(columns)
    cdef index rows = g.C * g.KH * g.KW, pixels = g.OH * g.OW
    if order == TORCH:
        sizes = [g.N, rows, pixels]
    elif order == DLFS:
        sizes = [g.N * pixels, rows]
    elif order == CS231N:
        sizes = [rows, pixels * g.N]
    else:
        sizes = [g.C, g.KH, g.KW, g.N, g.OH, g.OW]
    return gather(input, &g, order, empty(sizes, cnp.PyArray_TYPE(input)))


def col2im(cnp.ndarray input, input_shape, kernel_size, dilation, padding, stride, str columns):
    """The transpose of im2col: overlapping pixels are added."""
    cdef Columns g = geometry(input_shape[0], input_shape[1], input_shape[2], input_shape[3], kernel_size, dilation, padding, stride)
    return scatter(input, &g, order_of(columns))


def unfold(cnp.ndarray input, kernel_size, dilation, padding, stride):
    """(N, C, H, W) -> (N, C*KH*KW, OH*OW): a column per output pixel, rows ordered channel, kh, kw."""
    return im2col(input, kernel_size, dilation, padding, stride, "torch")


def fold(cnp.ndarray input, output_size, kernel_size, dilation, padding, stride):
    """(N, C*KH*KW, OH*OW) -> (N, C, H, W): overlapping pixels are added, in the order kh, kw."""
    cdef index channels = input.shape[1] // (kernel_size[0] * kernel_size[1])
    return col2im(input, (input.shape[0], channels, output_size[0], output_size[1]), kernel_size, dilation, padding, stride, "torch")
