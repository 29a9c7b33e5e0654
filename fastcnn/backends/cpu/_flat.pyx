# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Convolution of many channels of few small planes on C-contiguous arrays: forward and the input gradient, stride 1, one group.

A deep layer on one image has more weights than products per weight are worth: packing them for the channels-last tiles costs more than the sums. Here the weights are read where
they lie, once. The lanes are the pixels of whole planes: the rows of a padded plane follow each other with one set of zeros between two of them, so that 7 rows of 7 pixels, 8
apart, are 55 lanes. All planes are copied so first; an item is a few output channels. Every sum is one chain over channel, kernel row, kernel column.

m = output channels,  n = OH * OW pixels (lanes),  k = C * KH * KW.
"""
cimport numpy as cnp
from cython.parallel cimport parallel, prange, threadid
from libc.string cimport memcpy, memset

from fastcnn.backends.cpu._arrays cimport empty4, view_of
from fastcnn.backends.cpu._geometry cimport flip_geometry, geometry_of
from fastcnn.backends.cpu._kernels cimport fc_isa
from fastcnn.backends.cpu._layout cimport Geometry, View, aligned, ceil_div, imax, imin, index, real
from fastcnn.backends.cpu._runtime cimport Arena, acquire, active_isa, fc_use_pool, pool, release, thread_count

cnp.import_array()
fc_use_pool(pool())


cdef enum:
    GATHER_BYTES = 512 * 1024  # of weights per item of the input gradient: L2


cdef struct Plan:
    int threads
    int lanes
    int mr
    int nv
    index pitch      # of the padded rows
    index plane      # elements of a padded plane
    index vectors    # of an output plane
    bint flipped
    index block      # output channels per item
    index items
    size_t gather_bytes
    size_t planes_bytes
    size_t offset_bytes
    size_t worker_bytes


cdef void pad_plane(Geometry* g, const Plan* p, const real* x, View s, real* out) noexcept nogil:
    """out[(h + PT) * pitch + PL + w] = x[h, w], zero elsewhere; rows and columns that no output meets are left out."""
    cdef index h, w, depth = p.plane // p.pitch, rows = imin(g.H, depth - g.PT), pixels = imax(0, imin(g.W, p.pitch - g.PL))
    memset(out, 0, p.plane * sizeof(real))
    for h in range(rows):
        if s.w == 1:
            memcpy(out + (h + g.PT) * p.pitch + g.PL, x + h * s.h, pixels * sizeof(real))
        else:
            for w in range(pixels):
                out[(h + g.PT) * p.pitch + g.PL + w] = x[h * s.h + w * s.w]


cdef void run_item(const fc_isa* kernels, Geometry* g, const Plan* p, index item, const real* planes, const real* w, const real* bias, real* y, const index* offset,
                   char* scratch) noexcept nogil:
    """One block of output channels of all images."""
    cdef index o = item * p.block, end = imin(g.O, o + p.block), n, v, i, r, c, taps = g.KH * g.KW, line = p.vectors * p.lanes, w_channel = g.C * taps, w_plane = taps, step = 1
    cdef real* gathered = <real*>scratch
    cdef real* out = <real*>(scratch + p.gather_bytes)
    cdef const real* b
    cdef int m, nv
    w += o * taps if p.flipped else o * w_channel
    if p.flipped:  # the filters' weights for these channels lie g.O * taps apart, on as many pages, in few sets of the cache: each is fetched once
        w_channel, w_plane, step = taps, (end - o) * taps, -1
        for c in range(g.C):
            memcpy(gathered + c * w_plane, w + c * g.O * taps, w_plane * sizeof(real))
        w = gathered + taps - 1
    while o < end:
        m = <int>imin(p.mr, end - o)
        if m != p.mr:
            m = 4 if m >= 4 else 2 if m >= 2 else 1
        b = bias + o if bias != NULL else NULL
        for n in range(g.N):
            v = 0
            while v < p.vectors:
                nv = <int>imin(p.nv, p.vectors - v)
                if p.vectors - v == p.nv + 1 and p.nv > 2:
                    nv = 2
                if real is float:
                    kernels.f32.planes_flat(w, w_channel, w_plane, step, b, planes + n * g.C * p.plane + v * p.lanes, p.plane, offset, g.C, taps, out + v * p.lanes, line, m, nv)
                else:
                    kernels.f64.planes_flat(w, w_channel, w_plane, step, b, planes + n * g.C * p.plane + v * p.lanes, p.plane, offset, g.C, taps, out + v * p.lanes, line, m, nv)
                v += nv
            for i in range(m):
                for r in range(g.OH):
                    memcpy(y + ((n * g.O + o + i) * g.OH + r) * g.OW, out + i * line + r * p.pitch, g.OW * sizeof(real))
        o += m
        w += m * w_channel


cdef cnp.ndarray convolve(Geometry* g, cnp.ndarray input, cnp.ndarray weight, object bias, bint flipped, object given, real* tag):
    cdef const fc_isa* kernels = active_isa()
    cdef cnp.ndarray output = given if given is not None else empty4(g.N, g.O, g.OH, g.OW, cnp.PyArray_TYPE(input), False), w = cnp.PyArray_GETCONTIGUOUS(weight), bias_array
    if output.size == 0:
        return output
    cdef Plan p
    cdef index taps = g.KH * g.KW, kh, kw, i, width = g.OW + (g.KW - 1) * g.DW
    if real is float:
        p.lanes, p.mr, p.nv = kernels.f32.lanes, kernels.f32.mr, kernels.f32.nv
    else:
        p.lanes, p.mr, p.nv = kernels.f64.lanes, kernels.f64.mr, kernels.f64.nv
    # the zeros right of a row may be those left of the next one
    p.pitch = imax(g.OW, imax(width - g.PL, imin(g.PL + g.W, width)))
    p.plane = (g.OH + (g.KH - 1) * g.DH) * p.pitch
    p.vectors = ceil_div((g.OH - 1) * p.pitch + g.OW, p.lanes)
    p.flipped = flipped
    p.block = p.mr
    p.gather_bytes = 0
    if flipped:
        p.block *= imax(1, imin(32, GATHER_BYTES // (g.C * taps * <index>sizeof(real))) // p.mr)
        p.gather_bytes = aligned(g.C * p.block * taps * sizeof(real))
    p.items = ceil_div(g.O, p.block)
    p.threads = thread_count(2.0 * g.N * g.OH * g.OW * g.O * g.C * taps, p.items)
    p.planes_bytes = aligned((g.N * g.C * p.plane + width + p.lanes) * sizeof(real))  # the last plane is read beyond its end
    p.offset_bytes = aligned(taps * sizeof(index))
    p.worker_bytes = p.gather_bytes + aligned(p.mr * p.vectors * p.lanes * sizeof(real))
    cdef Arena arena = acquire(p.planes_bytes + p.offset_bytes + p.threads * p.worker_bytes)
    cdef real* planes = <real*>arena.base
    cdef index* offset = <index*>(arena.base + p.planes_bytes)
    cdef char* scratch = arena.base + p.planes_bytes + p.offset_bytes
    cdef View s = view_of(input)
    cdef const real* x = <const real*>cnp.PyArray_DATA(input)
    cdef const real* weights = <const real*>cnp.PyArray_DATA(w)
    cdef const real* b = NULL
    cdef real* y = <real*>cnp.PyArray_DATA(output)
    if bias is not None:
        bias_array = cnp.PyArray_GETCONTIGUOUS(bias)
        b = <const real*>cnp.PyArray_DATA(bias_array)
    for kh in range(g.KH):
        for kw in range(g.KW):
            offset[kh * g.KW + kw] = kh * g.DH * p.pitch + kw * g.DW
    with nogil:
        memset(planes + g.N * g.C * p.plane, 0, (width + p.lanes) * sizeof(real))
        for i in prange(g.N * g.C, num_threads=p.threads, schedule="static"):
            pad_plane(g, &p, x + i // g.C * s.n + i % g.C * s.c, s, planes + i * p.plane)
        with parallel(num_threads=p.threads):
            for i in prange(p.items, schedule="dynamic", chunksize=1):
                run_item(kernels, g, &p, i, planes, weights, b, y, offset, scratch + threadid() * p.worker_bytes)
    release(arena)
    return output


def conv2d(cnp.ndarray input, cnp.ndarray weight, bias, stride, padding, dilation, index groups, out=None):
    """Stride 1, one group."""
    cdef Geometry g = geometry_of(input.shape[0], input.shape[1], input.shape[2], input.shape[3], weight.shape[0], weight.shape[2], weight.shape[3], stride, padding,
                                  dilation, groups)
    if cnp.PyArray_TYPE(input) == cnp.NPY_FLOAT:
        return convolve(&g, input, weight, bias, False, out, <float*>NULL)
    return convolve(&g, input, weight, bias, False, out, <double*>NULL)


def conv2d_grad_input(cnp.ndarray grad_output, cnp.ndarray weight, input_shape, stride, padding, dilation, index groups, out=None):
    """Stride 1, one group, padding up to (K-1)*D: grad_output convolved with the flipped kernel, channels exchanged; the weights are walked backwards."""
    cdef index N, C, H, W
    N, C, H, W = input_shape
    cdef Geometry g = geometry_of(N, C, H, W, weight.shape[0], weight.shape[2], weight.shape[3], stride, padding, dilation, groups)
    flip_geometry(&g)
    if cnp.PyArray_TYPE(grad_output) == cnp.NPY_FLOAT:
        return convolve(&g, grad_output, weight, None, True, out, <float*>NULL)
    return convolve(&g, grad_output, weight, None, True, out, <double*>NULL)
