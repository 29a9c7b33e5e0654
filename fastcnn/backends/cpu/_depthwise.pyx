# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Depthwise convolution (groups = channels, one filter per channel): the lanes are the channels, so no lane is idle as it would be in a one-channel GEMM.

Items are strips of rows of one image; weights are kept as (taps, C).
"""
cimport numpy as cnp
from cython.parallel cimport parallel, prange, threadid
from libc.string cimport memcpy, memset

from fastcnn.backends.cpu._arrays cimport dense, empty4, is_channels_last, view_of
from fastcnn.backends.cpu._geometry cimport flip_geometry, geometry_of
from fastcnn.backends.cpu._kernels cimport fc_isa
from fastcnn.backends.cpu._layout cimport Geometry, View, aligned, ceil_div, imax, imin, index, load_rows, real
from fastcnn.backends.cpu._runtime cimport Arena, acquire, active_isa, fc_use_pool, pool, release, thread_count

cnp.import_array()
fc_use_pool(pool())

cdef enum:
    STRIP_BYTES = 192 * 1024  # of loaded input per item: L2
    MOST_SLOTS = 16           # partial weight gradients; fixed, so that bits do not depend on the threads


cdef struct Plan:
    int threads
    bint direct
    bint last
    index rows
    index strips
    index items
    index width
    size_t strip_bytes
    size_t out_bytes
    size_t worker_bytes


cdef index span(index outputs, index stride, index kernel, index dilation) noexcept nogil:
    """Input pixels under `outputs` neighbouring outputs."""
    return (outputs - 1) * stride + (kernel - 1) * dilation + 1


cdef Plan make_plan(Geometry* g, View sx, bint last, real* tag) noexcept nogil:
    cdef Plan p
    cdef index line, most
    p.last = last
    p.width = span(g.OW, g.SW, g.KW, g.DW)
    p.direct = sx.c == 1 and g.PT == 0 and g.PL == 0 and p.width <= g.W and span(g.OH, g.SH, g.KH, g.DH) <= g.H
    line = p.width * g.C * sizeof(real)
    most = imax(1, (STRIP_BYTES // line - ((g.KH - 1) * g.DH + 1)) // g.SH + 1)
    p.threads = thread_count(2.0 * g.N * g.C * g.OH * g.OW * g.KH * g.KW, 1 << 20)
    p.strips = ceil_div(g.OH, most)
    if p.threads > 1 and g.N * p.strips < 2 * p.threads:
        p.strips = imin(g.OH, ceil_div(2 * p.threads, g.N))
    p.rows = ceil_div(g.OH, p.strips)
    p.strips = ceil_div(g.OH, p.rows)
    p.items = g.N * p.strips
    p.threads = thread_count(2.0 * g.N * g.C * g.OH * g.OW * g.KH * g.KW, p.items)
    p.strip_bytes = 0 if p.direct else aligned(span(p.rows, g.SH, g.KH, g.DH) * line)
    p.out_bytes = 0 if last else aligned(p.rows * g.OW * g.C * sizeof(real))
    p.worker_bytes = p.strip_bytes + p.out_bytes + 64
    return p


cdef const real* load_strip(const fc_isa* kernels, Geometry* g, const Plan* p, const real* x, View sx, index n, index r0, index rows, real* scratch, index* row,
                            index* pixel) noexcept nogil:
    """First tap of the strip's first pixel, and the strides of rows and pixels there."""
    if p.direct:
        row[0], pixel[0] = sx.h, sx.w
        return x + n * sx.n + r0 * g.SH * sx.h
    row[0], pixel[0] = p.width * g.C, g.C
    load_rows(kernels, x + n * sx.n, sx, g.C, g.H, g.W, r0 * g.SH - g.PT, span(rows, g.SH, g.KH, g.DH), g.PL, p.width, scratch)
    return scratch


cdef void forward_item(const fc_isa* kernels, Geometry* g, const Plan* p, index item, const real* x, View sx, const real* w, const real* bias, real* y,
                       char* scratch) noexcept nogil:
    cdef index n = item // p.strips, r0 = item % p.strips * p.rows, rows = imin(p.rows, g.OH - r0), r, row, pixel
    cdef const real* base = load_strip(kernels, g, p, x, sx, n, r0, rows, <real*>scratch, &row, &pixel)
    cdef real* out = y + (n * g.OH + r0) * g.OW * g.C if p.last else <real*>(scratch + p.strip_bytes)
    for r in range(rows):
        if real is float:
            kernels.f32.depthwise(base + r * g.SH * row, g.SW * pixel, g.DH * row, g.DW * pixel, g.KH, g.KW, w, g.C, bias, out + r * g.OW * g.C, g.C, g.OW, g.C)
        else:
            kernels.f64.depthwise(base + r * g.SH * row, g.SW * pixel, g.DH * row, g.DW * pixel, g.KH, g.KW, w, g.C, bias, out + r * g.OW * g.C, g.C, g.OW, g.C)
    if not p.last:
        if real is float:
            kernels.f32.transpose(out, g.C, y + n * g.C * g.OH * g.OW + r0 * g.OW, g.OH * g.OW, rows * g.OW, g.C, rows * g.OW)
        else:
            kernels.f64.transpose(out, g.C, y + n * g.C * g.OH * g.OW + r0 * g.OW, g.OH * g.OW, rows * g.OW, g.C, rows * g.OW)


cdef void taps_first(const fc_isa* kernels, const real* w, index C, index taps, bint flipped, real* out, real* spare) noexcept nogil:
    """(C, 1, KH, KW) -> (taps, C), reversed where the kernel is to be flipped. A (C, KH, KW, 1) array has the same memory: the one input channel is no axis."""
    cdef index tap
    cdef real* target = spare if flipped else out
    if real is float:
        kernels.f32.transpose(w, taps, target, C, C, taps, C)
    else:
        kernels.f64.transpose(w, taps, target, C, C, taps, C)
    if flipped:
        for tap in range(taps):
            memcpy(out + tap * C, spare + (taps - 1 - tap) * C, C * sizeof(real))


cdef cnp.ndarray convolve(Geometry* g, cnp.ndarray input, cnp.ndarray weight, object bias, bint flipped, object given, real* tag):
    cdef const fc_isa* kernels = active_isa()
    cdef bint last = is_channels_last(input if given is None else given)
    cdef cnp.ndarray output = given if given is not None else empty4(g.N, g.C, g.OH, g.OW, cnp.PyArray_TYPE(input), last)
    if output.size == 0:
        return output
    cdef cnp.ndarray w = dense(weight), bias_array
    cdef View sx = view_of(input)
    cdef Plan plan = make_plan(g, sx, last, <real*>NULL)
    cdef size_t weight_bytes = aligned(w.size * sizeof(real))
    cdef Arena arena = acquire(2 * weight_bytes + plan.threads * plan.worker_bytes)
    cdef real* packed = <real*>arena.base
    cdef char* scratch = arena.base + 2 * weight_bytes
    cdef const real* x = <const real*>cnp.PyArray_DATA(input)
    cdef const real* b = NULL
    cdef real* y = <real*>cnp.PyArray_DATA(output)
    cdef index item
    if bias is not None:
        bias_array = cnp.PyArray_GETCONTIGUOUS(bias)
        b = <const real*>cnp.PyArray_DATA(bias_array)
    taps_first(kernels, <const real*>cnp.PyArray_DATA(w), g.C, g.KH * g.KW, flipped, packed, <real*>(arena.base + weight_bytes))
    with nogil:
        with parallel(num_threads=plan.threads):
            for item in prange(plan.items, schedule="dynamic", chunksize=1):
                forward_item(kernels, g, &plan, item, x, sx, packed, b, y, scratch + threadid() * plan.worker_bytes)
    release(arena)
    return output


def conv2d(cnp.ndarray input, cnp.ndarray weight, bias, stride, padding, dilation, index groups, out=None):
    cdef Geometry g = geometry_of(input.shape[0], input.shape[1], input.shape[2], input.shape[3], weight.shape[0], weight.shape[2], weight.shape[3], stride, padding,
                                  dilation, groups)
    if cnp.PyArray_TYPE(input) == cnp.NPY_FLOAT:
        return convolve(&g, input, weight, bias, False, out, <float*>NULL)
    return convolve(&g, input, weight, bias, False, out, <double*>NULL)


def conv2d_grad_input_flipped(cnp.ndarray grad_output, cnp.ndarray weight, input_shape, stride, padding, dilation, index groups, out=None):
    """Stride 1: grad_output convolved with the flipped filters."""
    cdef index N, C, H, W
    N, C, H, W = input_shape
    cdef Geometry g = geometry_of(N, C, H, W, weight.shape[0], weight.shape[2], weight.shape[3], stride, padding, dilation, groups)
    flip_geometry(&g)
    if cnp.PyArray_TYPE(grad_output) == cnp.NPY_FLOAT:
        return convolve(&g, grad_output, weight, None, True, out, <float*>NULL)
    return convolve(&g, grad_output, weight, None, True, out, <double*>NULL)


# ---- input gradient, any stride: each pixel of grad_output adds its KW products to a row buffer

cdef void grad_input_image(const fc_isa* kernels, Geometry* g, const real* grad, View sg, index n, const real* w, real* gx, bint last, index width,
                           char* scratch) noexcept nogil:
    cdef real* row = <real*>scratch
    cdef real* loaded = <real*>(scratch + aligned(width * g.C * sizeof(real)))
    cdef const real* base = grad + n * sg.n
    cdef const real* q
    cdef index row_stride = sg.h, pixel_stride = sg.w, h, kh, kw, ow, reach
    if sg.c != 1:
        load_rows(kernels, base, sg, g.C, g.OH, g.OW, 0, g.OH, 0, g.OW, loaded)
        base, row_stride, pixel_stride = loaded, g.OW * g.C, g.C
    for h in range(g.H):
        memset(row, 0, width * g.C * sizeof(real))
        for kh in range(g.KH):
            reach = h + g.PT - kh * g.DH
            if reach < 0 or reach % g.SH != 0 or reach // g.SH >= g.OH:
                continue
            for ow in range(g.OW):
                q = base + reach // g.SH * row_stride + ow * pixel_stride
                for kw in range(g.KW):
                    if real is float:
                        kernels.f32.multiply_add(q, w + (kh * g.KW + kw) * g.C, row + (ow * g.SW + kw * g.DW) * g.C, g.C)
                    else:
                        kernels.f64.multiply_add(q, w + (kh * g.KW + kw) * g.C, row + (ow * g.SW + kw * g.DW) * g.C, g.C)
        if last:
            memcpy(gx + (n * g.H + h) * g.W * g.C, row + g.PL * g.C, g.W * g.C * sizeof(real))
        elif real is float:
            kernels.f32.transpose(row + g.PL * g.C, g.C, gx + (n * g.C * g.H + h) * g.W, g.H * g.W, g.W, g.C, g.W)
        else:
            kernels.f64.transpose(row + g.PL * g.C, g.C, gx + (n * g.C * g.H + h) * g.W, g.H * g.W, g.W, g.C, g.W)


cdef cnp.ndarray input_gradient(Geometry* g, cnp.ndarray grad_output, cnp.ndarray weight, real* tag):
    cdef const fc_isa* kernels = active_isa()
    cdef bint last = is_channels_last(grad_output)
    cdef cnp.ndarray grad_input = empty4(g.N, g.C, g.H, g.W, cnp.PyArray_TYPE(grad_output), last)
    if grad_output.size == 0 or grad_input.size == 0:
        grad_input.fill(0)
        return grad_input
    cdef cnp.ndarray w = dense(weight)
    cdef View sg = view_of(grad_output)
    cdef index width = imax(span(g.OW, g.SW, g.KW, g.DW), g.PL + g.W), n
    cdef size_t weight_bytes = aligned(w.size * sizeof(real))
    cdef size_t worker_bytes = aligned(width * g.C * sizeof(real)) + aligned(g.OH * g.OW * g.C * sizeof(real))
    cdef int threads = thread_count(2.0 * grad_output.size * g.KH * g.KW, g.N)
    cdef Arena arena = acquire(weight_bytes + threads * worker_bytes)
    cdef real* packed = <real*>arena.base
    cdef char* scratch = arena.base + weight_bytes
    cdef const real* gy = <const real*>cnp.PyArray_DATA(grad_output)
    cdef real* gx = <real*>cnp.PyArray_DATA(grad_input)
    taps_first(kernels, <const real*>cnp.PyArray_DATA(w), g.C, g.KH * g.KW, False, packed, packed)
    with nogil, parallel(num_threads=threads):
        for n in prange(g.N, schedule="dynamic", chunksize=1):
            grad_input_image(kernels, g, gy, sg, n, packed, gx, last, width, scratch + threadid() * worker_bytes)
    release(arena)
    return grad_input


def conv2d_grad_input(cnp.ndarray grad_output, cnp.ndarray weight, input_shape, stride, padding, dilation, index groups, out=None):
    cdef index N, C, H, W
    N, C, H, W = input_shape
    cdef Geometry g = geometry_of(N, C, H, W, weight.shape[0], weight.shape[2], weight.shape[3], stride, padding, dilation, groups)
    if cnp.PyArray_TYPE(grad_output) == cnp.NPY_FLOAT:
        return input_gradient(&g, grad_output, weight, <float*>NULL)
    return input_gradient(&g, grad_output, weight, <double*>NULL)


# ---- weight gradient

cdef void grad_weight_slot(const fc_isa* kernels, Geometry* g, const Plan* p, index slot, index slots, const real* x, View sx, const real* grad, View sg,
                           real* partial, char* scratch) noexcept nogil:
    cdef index item, n, r0, rows, r, row, pixel, g_row, g_pixel
    cdef const real* base
    cdef const real* gb
    cdef real* loaded = <real*>(scratch + p.strip_bytes)
    memset(partial, 0, g.KH * g.KW * g.C * sizeof(real))
    for item in range(slot * p.items // slots, (slot + 1) * p.items // slots):
        n, r0 = item // p.strips, item % p.strips * p.rows
        rows = imin(p.rows, g.OH - r0)
        base = load_strip(kernels, g, p, x, sx, n, r0, rows, <real*>scratch, &row, &pixel)
        gb = grad + n * sg.n + r0 * sg.h
        g_row, g_pixel = sg.h, sg.w
        if sg.c != 1:
            load_rows(kernels, grad + n * sg.n, sg, g.C, g.OH, g.OW, r0, rows, 0, g.OW, loaded)
            gb, g_row, g_pixel = loaded, g.OW * g.C, g.C
        for r in range(rows):
            if real is float:
                kernels.f32.depthwise_outer(base + r * g.SH * row, g.SW * pixel, g.DH * row, g.DW * pixel, g.KH, g.KW, gb + r * g_row, g_pixel, partial, g.C,
                                            g.OW, g.C)
            else:
                kernels.f64.depthwise_outer(base + r * g.SH * row, g.SW * pixel, g.DH * row, g.DW * pixel, g.KH, g.KW, gb + r * g_row, g_pixel, partial, g.C,
                                            g.OW, g.C)


cdef cnp.ndarray weight_gradient(Geometry* g, cnp.ndarray grad_output, cnp.ndarray input, object given, real* tag):
    cdef const fc_isa* kernels = active_isa()
    cdef cnp.ndarray grad_weight = given if given is not None else empty4(g.C, 1, g.KH, g.KW, cnp.PyArray_TYPE(input), False)
    if g.N == 0 or grad_output.size == 0:
        grad_weight.fill(0)
        return grad_weight
    cdef View sx = view_of(input), sg = view_of(grad_output)
    # the plan's cut into strips must not depend on the threads here: sums cross the strips
    cdef Plan plan = make_plan(g, sx, False, <real*>NULL)
    plan.rows = imin(g.OH, imax(1, (STRIP_BYTES // (plan.width * g.C * <index>sizeof(real)) - ((g.KH - 1) * g.DH + 1)) // g.SH + 1))
    plan.strips = ceil_div(g.OH, plan.rows)
    plan.items = g.N * plan.strips
    plan.strip_bytes = 0 if plan.direct else aligned(span(plan.rows, g.SH, g.KH, g.DH) * plan.width * g.C * sizeof(real))
    plan.worker_bytes = plan.strip_bytes + aligned(plan.rows * g.OW * g.C * sizeof(real))
    cdef index slots = imin(MOST_SLOTS, plan.items), size = g.KH * g.KW * g.C, slot, i
    cdef int threads = thread_count(2.0 * grad_output.size * g.KH * g.KW, slots)
    cdef Arena arena = acquire(slots * size * sizeof(real) + 64 + threads * plan.worker_bytes)
    cdef real* partials = <real*>arena.base
    cdef char* scratch = arena.base + (slots * size * sizeof(real) + 63) // 64 * 64
    cdef const real* x = <const real*>cnp.PyArray_DATA(input)
    cdef const real* gy = <const real*>cnp.PyArray_DATA(grad_output)
    cdef real* gw = <real*>cnp.PyArray_DATA(grad_weight)
    with nogil:
        with parallel(num_threads=threads):
            for slot in prange(slots, schedule="dynamic", chunksize=1):
                grad_weight_slot(kernels, g, &plan, slot, slots, x, sx, gy, sg, partials + slot * size, scratch + threadid() * plan.worker_bytes)
        for slot in range(1, slots):
            for i in range(size):
                partials[i] += partials[slot * size + i]
        if real is float:
            kernels.f32.transpose(partials, g.C, gw, g.KH * g.KW, g.KH * g.KW, g.C, g.KH * g.KW)
        else:
            kernels.f64.transpose(partials, g.C, gw, g.KH * g.KW, g.KH * g.KW, g.C, g.KH * g.KW)
    release(arena)
    return grad_weight


def conv2d_grad_weight(cnp.ndarray grad_output, cnp.ndarray input, weight_shape, stride, padding, dilation, index groups, out=None):
    cdef index O, KH, KW
    O, _, KH, KW = weight_shape
    cdef Geometry g = geometry_of(input.shape[0], input.shape[1], input.shape[2], input.shape[3], O, KH, KW, stride, padding, dilation, groups)
    if cnp.PyArray_TYPE(input) == cnp.NPY_FLOAT:
        return weight_gradient(&g, grad_output, input, out, <float*>NULL)
    return weight_gradient(&g, grad_output, input, out, <double*>NULL)
