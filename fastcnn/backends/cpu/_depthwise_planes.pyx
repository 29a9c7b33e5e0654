# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Depthwise convolution on C-contiguous planes, 3x3 and 5x5 kernels, stride 1 or 2, lanes = neighbouring pixels, as csrc/kernels/depthwise_planes.inc derives.

An item is some neighbouring channels of one image, or a strip of rows of one. The kernels read the planes where they lie, and whole vectors beyond their ends; so the few items at
the array's own ends, and all of an array that is not C-contiguous, are copied first. Each sum is one chain: bits depend neither on the cut nor on the threads.

The input gradient of stride 1 is the convolution with the flipped kernel; that of stride 2 makes 2x2 pixels for each one of grad_output.
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
    STRIP_BYTES = 24 * 1024  # of a plane per item: with as much output, L1
    CALL_BYTES = 8 * 1024    # of the planes that a kernel call walks through, one block of columns after the other: they stay in L1 between the blocks
    ITEM_BYTES = 32 * 1024   # of several calls: many enough that handing out items costs nothing
    PIECES = 8               # per thread
    LEAST_ITEMS = 64         # of the weight gradient: channels, times shares of the images where there are few; from shapes alone, so that the bits do not depend on threads
    SUM_BYTES = 16 * 1024    # of the weight gradient's lanes


cdef struct Source:
    # the planes that items read
    bint dense    # C-contiguous
    View view
    index C
    index H
    index W
    index all     # elements of the array
    index room    # that the kernels read beyond what they use


cdef Source source_of(cnp.ndarray x, int lanes) noexcept:
    cdef Source s
    cdef cnp.npy_intp* shape = cnp.PyArray_DIMS(x)
    s.dense, s.view = cnp.PyArray_IS_C_CONTIGUOUS(x), view_of(x)
    s.C, s.H, s.W, s.room = shape[1], shape[2], shape[3], 2 * lanes + 16
    s.all = shape[0] * s.C * s.H * s.W
    return s


cdef size_t copy_bytes(const Source* s, index planes, index rows, real* tag) noexcept nogil:
    return aligned((planes * imin(rows, s.H) * s.W + 2 * s.room) * sizeof(real))


cdef const real* planes_of(const Source* s, const real* x, index n, index c, index planes, index top, index rows, real* scratch, index* stride) noexcept nogil:
    """Some channels of an image, of which the kernels use the rows top .. top + rows - 1 as far as there are: where row 0 of the first plane lies or would lie, and the distance of planes."""
    cdef index first = imin(imax(top, 0), s.H), after = imax(first, imin(top + rows, s.H)), at = (n * s.C + c) * s.H * s.W, p, r
    stride[0] = s.H * s.W
    if s.dense and at + first * s.W >= s.room and at + (planes - 1) * stride[0] + after * s.W + s.room <= s.all:
        return x + at
    stride[0] = (after - first) * s.W
    for p in range(planes):
        for r in range(first, after):
            memcpy(scratch + s.room + p * stride[0] + (r - first) * s.W, x + n * s.view.n + (c + p) * s.view.c + r * s.view.h, s.W * sizeof(real))
    return scratch + s.room - first * s.W


cdef struct Plan:
    int threads
    index rows     # of output per item
    index strips
    index call     # planes per kernel call
    index planes   # per item
    index blocks   # of planes per image
    index items
    index pieces   # ranges of items that follow each other in memory: kernels fetch ahead what the same thread will read
    index reach    # input rows of an item
    size_t zero_bytes
    size_t worker_bytes


cdef void cut(Plan* p, index rows, index planes, index plane_bytes, index step) noexcept nogil:
    """Rows in multiples of `step`."""
    p.rows = imax(step, rows // ceil_div(plane_bytes, STRIP_BYTES) // step * step)
    p.strips = ceil_div(rows, p.rows)
    p.call = imax(1, imin(planes, CALL_BYTES // plane_bytes))
    p.planes = imax(1, imin(planes, ITEM_BYTES // plane_bytes))
    p.blocks = ceil_div(planes, p.planes)


cdef Plan make_plan(const Source* s, index N, index C, index rows, index width, index step, double flops, real* tag) noexcept nogil:
    """For an output of `rows` rows of `width` pixels."""
    cdef Plan p
    cut(&p, rows, C, imax(s.H * s.W, rows * width) * sizeof(real), step)
    p.threads = thread_count(flops, 1 << 20)
    if p.threads > 1 and N * p.blocks * p.strips < 4 * p.threads:
        p.planes = imax(1, C // ceil_div(4 * p.threads, N * p.strips))
        p.blocks = ceil_div(C, p.planes)
        if N * p.blocks * p.strips < 2 * p.threads:
            p.rows = imax(step, rows // ceil_div(2 * p.threads, N * p.blocks) // step * step)
            p.strips = ceil_div(rows, p.rows)
    p.items = N * p.blocks * p.strips
    p.threads = thread_count(flops, p.items)
    p.pieces = 1 if p.threads == 1 else imin(p.items, PIECES * p.threads)
    p.reach, p.zero_bytes, p.worker_bytes = 0, aligned((s.W + 2 * s.room) * sizeof(real)), 0
    return p


# ---- forward, and the input gradient of stride 1

cdef void forward_item(const fc_isa* kernels, Geometry* g, const Plan* p, const Source* s, index item, const real* x, const real* zeros, const real* w, bint flipped,
                       const real* bias, real* y, real* scratch) noexcept nogil:
    cdef index strip = item % p.strips, c = item // p.strips % p.blocks * p.planes, n = item // (p.strips * p.blocks), after = imin(c + p.planes, g.C), planes
    cdef index r0 = strip * p.rows, rows = imin(p.rows, g.OH - r0), top = r0 * g.SH - g.PT, stride, taps = g.KH * g.KW
    cdef index w_row = -g.KW if flipped else g.KW, w_col = -1 if flipped else 1
    cdef const real* base
    cdef const real* weights
    cdef const real* start
    cdef real* out
    while c < after:
        planes = imin(p.call, after - c)
        base = planes_of(s, x, n, c, planes, top, (rows - 1) * g.SH + g.KH, scratch, &stride)
        weights, start, out = w + c * taps + (taps - 1 if flipped else 0), bias + c if bias != NULL else NULL, y + ((n * g.C + c) * g.OH + r0) * g.OW
        if real is float:
            kernels.f32.plane_conv(base, stride, g.H, g.W, top, g.PL, zeros, weights, taps, w_row, w_col, start, out, g.OH * g.OW, rows, g.OW, planes, <int>g.KH, <int>g.SH)
        else:
            kernels.f64.plane_conv(base, stride, g.H, g.W, top, g.PL, zeros, weights, taps, w_row, w_col, start, out, g.OH * g.OW, rows, g.OW, planes, <int>g.KH, <int>g.SH)
        c += planes


cdef cnp.ndarray convolve(Geometry* g, cnp.ndarray input, cnp.ndarray weight, object bias, bint flipped, object given, real* tag):
    cdef const fc_isa* kernels = active_isa()
    cdef cnp.ndarray output = given if given is not None else empty4(g.N, g.C, g.OH, g.OW, cnp.PyArray_TYPE(input), False), w = cnp.PyArray_GETCONTIGUOUS(weight), bias_array
    if output.size == 0:
        return output
    cdef Source s = source_of(input, kernels.f32.lanes if real is float else kernels.f64.lanes)
    cdef Plan plan = make_plan(&s, g.N, g.C, g.OH, g.OW, 1, 2.0 * g.N * g.C * g.OH * g.OW * g.KH * g.KW, <real*>NULL)
    plan.worker_bytes = copy_bytes(&s, plan.call, (plan.rows - 1) * g.SH + g.KH, <real*>NULL)
    cdef Arena arena = acquire(plan.zero_bytes + plan.threads * plan.worker_bytes)
    cdef const real* zeros = <const real*>arena.base + s.room
    cdef char* scratch = arena.base + plan.zero_bytes
    cdef const real* weights = <const real*>cnp.PyArray_DATA(w)
    cdef const real* x = <const real*>cnp.PyArray_DATA(input)
    cdef const real* b = NULL
    cdef real* y = <real*>cnp.PyArray_DATA(output)
    cdef index item, piece
    if bias is not None:
        bias_array = cnp.PyArray_GETCONTIGUOUS(bias)
        b = <const real*>cnp.PyArray_DATA(bias_array)
    memset(arena.base, 0, plan.zero_bytes)
    with nogil, parallel(num_threads=plan.threads):
        for piece in prange(plan.pieces, schedule="dynamic", chunksize=1):
            for item in range(piece * plan.items // plan.pieces, (piece + 1) * plan.items // plan.pieces):
                forward_item(kernels, g, &plan, &s, item, x, zeros, weights, flipped, b, y, <real*>(scratch + threadid() * plan.worker_bytes))
    release(arena)
    return output


def conv2d(cnp.ndarray input, cnp.ndarray weight, bias, stride, padding, dilation, index groups, out=None):
    """A square kernel of 3 or 5, stride 1 or 2 both ways, dilation 1, rows of consecutive pixels, fewer padded columns on either side than the kernel has."""
    cdef Geometry g = geometry_of(input.shape[0], input.shape[1], input.shape[2], input.shape[3], weight.shape[0], weight.shape[2], weight.shape[3], stride, padding,
                                  dilation, groups)
    if cnp.PyArray_TYPE(input) == cnp.NPY_FLOAT:
        return convolve(&g, input, weight, bias, False, out, <float*>NULL)
    return convolve(&g, input, weight, bias, False, out, <double*>NULL)


# ---- input gradient of stride 2

cdef void spread_item(const fc_isa* kernels, Geometry* g, const Plan* p, const Source* s, index item, const real* grad, const real* zeros, const real* w, real* gx,
                      real* scratch) noexcept nogil:
    cdef index strip = item % p.strips, c = item // p.strips % p.blocks * p.planes, n = item // (p.strips * p.blocks), after = imin(c + p.planes, g.C), planes
    cdef index h = strip * p.rows, rows = imin(p.rows, g.H - h), stride, taps = g.KH * g.KW
    cdef const real* base
    cdef real* out
    while c < after:
        planes = imin(p.call, after - c)
        base = planes_of(s, grad, n, c, planes, h // 2 + g.PT // 2 - g.KH, p.reach, scratch, &stride)
        out = gx + ((n * g.C + c) * g.H + h) * g.W
        if real is float:
            kernels.f32.plane_spread(base, stride, g.OH, g.OW, zeros, w + c * taps, out, g.H * g.W, h, g.PT, g.PL, rows, g.W, planes, <int>g.KH)
        else:
            kernels.f64.plane_spread(base, stride, g.OH, g.OW, zeros, w + c * taps, out, g.H * g.W, h, g.PT, g.PL, rows, g.W, planes, <int>g.KH)
        c += planes


cdef cnp.ndarray spread(Geometry* g, cnp.ndarray grad_output, cnp.ndarray weight, object given, real* tag):
    cdef const fc_isa* kernels = active_isa()
    cdef cnp.ndarray grad_input = given if given is not None else empty4(g.N, g.C, g.H, g.W, cnp.PyArray_TYPE(grad_output), False), w = cnp.PyArray_GETCONTIGUOUS(weight)
    if grad_output.size == 0 or grad_input.size == 0:
        grad_input.fill(0)
        return grad_input
    cdef Source s = source_of(grad_output, kernels.f32.lanes if real is float else kernels.f64.lanes)
    cdef Plan plan = make_plan(&s, g.N, g.C, g.H, g.W, 2, 2.0 * g.N * g.C * g.OH * g.OW * g.KH * g.KW, <real*>NULL)
    plan.reach = ceil_div(plan.rows, 2) + 2 * g.KH  # at least the rows of grad_output under those of an item, wherever the padding puts them
    plan.worker_bytes = copy_bytes(&s, plan.call, plan.reach, <real*>NULL)
    cdef Arena arena = acquire(plan.zero_bytes + plan.threads * plan.worker_bytes)
    cdef const real* zeros = <const real*>arena.base + s.room
    cdef char* scratch = arena.base + plan.zero_bytes
    cdef const real* weights = <const real*>cnp.PyArray_DATA(w)
    cdef const real* gy = <const real*>cnp.PyArray_DATA(grad_output)
    cdef real* gx = <real*>cnp.PyArray_DATA(grad_input)
    cdef index item, piece
    memset(arena.base, 0, plan.zero_bytes)
    with nogil, parallel(num_threads=plan.threads):
        for piece in prange(plan.pieces, schedule="dynamic", chunksize=1):
            for item in range(piece * plan.items // plan.pieces, (piece + 1) * plan.items // plan.pieces):
                spread_item(kernels, g, &plan, &s, item, gy, zeros, weights, gx, <real*>(scratch + threadid() * plan.worker_bytes))
    release(arena)
    return grad_input


def conv2d_grad_input(cnp.ndarray grad_output, cnp.ndarray weight, input_shape, stride, padding, dilation, index groups, out=None):
    """What conv2d takes; of stride 2, padding even above and left, or odd above and left."""
    cdef index N, C, H, W
    N, C, H, W = input_shape
    cdef Geometry g = geometry_of(N, C, H, W, weight.shape[0], weight.shape[2], weight.shape[3], stride, padding, dilation, groups)
    cdef bint single = cnp.PyArray_TYPE(grad_output) == cnp.NPY_FLOAT
    if g.SH == 2:
        return spread(&g, grad_output, weight, out, <float*>NULL) if single else spread(&g, grad_output, weight, out, <double*>NULL)
    flip_geometry(&g)
    if grad_output.size == 0:
        return fill_zero(out if out is not None else empty4(N, C, H, W, cnp.PyArray_TYPE(grad_output), False))
    if single:
        return convolve(&g, grad_output, weight, None, True, out, <float*>NULL)
    return convolve(&g, grad_output, weight, None, True, out, <double*>NULL)


cdef cnp.ndarray fill_zero(cnp.ndarray a):
    a.fill(0)
    return a


# ---- weight gradient

cdef void grad_weight_item(const fc_isa* kernels, Geometry* g, const Plan* p, const Source* s, index item, index shares, const real* x, const real* zeros, const real* grad,
                           real* folded, char* scratch, size_t sum_bytes) noexcept nogil:
    """One share of the images' strips for p.planes channels; folded[share][c][tap]."""
    cdef index first = item % p.blocks * p.planes, after = imin(first + p.planes, g.C), part = item // p.blocks, work = g.N * p.strips, taps = g.KH * g.KW
    cdef index lanes = kernels.f32.lanes if real is float else kernels.f64.lanes, at, n, r0, rows, top, stride, c, planes
    cdef real* sums = <real*>scratch
    cdef const real* base
    cdef const real* q
    memset(sums, 0, sum_bytes)
    for at in range(part * work // shares, (part + 1) * work // shares):
        n, r0, c = at // p.strips, at % p.strips * p.rows, first
        rows, top = imin(p.rows, g.OH - r0), r0 * g.SH - g.PT
        while c < after:
            planes = imin(p.call, after - c)
            base = planes_of(s, x, n, c, planes, top, (rows - 1) * g.SH + g.KH, <real*>(scratch + sum_bytes), &stride)
            q = grad + ((n * g.C + c) * g.OH + r0) * g.OW
            if real is float:
                kernels.f32.plane_outer(q, g.OH * g.OW, base, stride, g.H, g.W, top, g.PL, zeros, rows, g.OW, planes, sums + (c - first) * taps * lanes, <int>g.KH, <int>g.SH)
            else:
                kernels.f64.plane_outer(q, g.OH * g.OW, base, stride, g.H, g.W, top, g.PL, zeros, rows, g.OW, planes, sums + (c - first) * taps * lanes, <int>g.KH, <int>g.SH)
            c += planes
    if real is float:
        kernels.f32.fold_lanes(sums, folded + (part * g.C + first) * taps, (after - first) * taps)
    else:
        kernels.f64.fold_lanes(sums, folded + (part * g.C + first) * taps, (after - first) * taps)


cdef cnp.ndarray weight_gradient(Geometry* g, cnp.ndarray grad_output, cnp.ndarray input, object given, real* tag):
    cdef const fc_isa* kernels = active_isa()
    cdef cnp.ndarray grad_weight = given if given is not None else empty4(g.C, 1, g.KH, g.KW, cnp.PyArray_TYPE(input), False), gy = cnp.PyArray_GETCONTIGUOUS(grad_output)
    if grad_output.size == 0:
        grad_weight.fill(0)
        return grad_weight
    cdef int lanes = kernels.f32.lanes if real is float else kernels.f64.lanes
    cdef Source s = source_of(input, lanes)
    cdef Plan plan
    cut(&plan, g.OH, g.C, imax(g.H * g.W, g.OH * g.OW) * sizeof(real), 1)
    cdef index taps = g.KH * g.KW, size = g.C * taps, shares = imin(g.N * plan.strips, ceil_div(LEAST_ITEMS, g.C)), item, i
    cdef double flops = 2.0 * g.N * g.C * g.OH * g.OW * taps
    plan.threads = thread_count(flops, shares * g.C)
    # as many channels together as leave items for all threads and keep their sums in L1; how many does not change a sum
    plan.planes = imax(1, imin(imin(plan.planes, shares * g.C // (4 * plan.threads)), SUM_BYTES // (taps * lanes * <index>sizeof(real))))
    plan.blocks = ceil_div(g.C, plan.planes)
    plan.items = shares * plan.blocks
    plan.zero_bytes = aligned((s.W + 2 * s.room) * sizeof(real))
    cdef size_t sum_bytes = aligned(plan.planes * taps * lanes * sizeof(real)), folded_bytes = aligned(shares * size * sizeof(real))
    plan.worker_bytes = sum_bytes + copy_bytes(&s, plan.call, (plan.rows - 1) * g.SH + g.KH, <real*>NULL)
    cdef Arena arena = acquire(plan.zero_bytes + folded_bytes + plan.threads * plan.worker_bytes)
    cdef const real* zeros = <const real*>arena.base + s.room
    cdef real* folded = <real*>(arena.base + plan.zero_bytes)
    cdef char* scratch = arena.base + plan.zero_bytes + folded_bytes
    cdef const real* x = <const real*>cnp.PyArray_DATA(input)
    cdef const real* gp = <const real*>cnp.PyArray_DATA(gy)
    cdef real* gw = <real*>cnp.PyArray_DATA(grad_weight)
    memset(arena.base, 0, plan.zero_bytes)
    with nogil:
        with parallel(num_threads=plan.threads):
            for item in prange(plan.items, schedule="dynamic", chunksize=1):
                grad_weight_item(kernels, g, &plan, &s, item, shares, x, zeros, gp, folded, scratch + threadid() * plan.worker_bytes, sum_bytes)
        for i in range(size):
            gw[i] = folded[i]
        for item in range(1, shares):
            for i in range(size):
                gw[i] += folded[item * size + i]
    release(arena)
    return grad_weight


def conv2d_grad_weight(cnp.ndarray grad_output, cnp.ndarray input, weight_shape, stride, padding, dilation, index groups, out=None):
    """What conv2d takes."""
    cdef index O, KH, KW
    O, _, KH, KW = weight_shape
    cdef Geometry g = geometry_of(input.shape[0], input.shape[1], input.shape[2], input.shape[3], O, KH, KW, stride, padding, dilation, groups)
    if cnp.PyArray_TYPE(input) == cnp.NPY_FLOAT:
        return weight_gradient(&g, grad_output, input, out, <float*>NULL)
    return weight_gradient(&g, grad_output, input, out, <double*>NULL)
