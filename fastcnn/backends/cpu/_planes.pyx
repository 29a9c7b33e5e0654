# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Direct convolution on C-contiguous planes, lanes = neighbouring output pixels: forward, the input gradient of stride 1 as a convolution with the flipped kernel, and
the weight gradient.

For narrow layers (few channels fill few lanes of the channels-last tiles), grouped and depthwise ones, in the memory format NumPy code has anyway: no transpose on the
way in or out. An item is a strip of rows of one image and one group; its input planes are copied into zero-padded scratch once. Items write disjoint outputs and each sum is one
chain over (c, kh, kw): bits depend neither on the cut nor on the threads.

m = O / G,  n = OW (lanes),  k = (C / G) * KH * KW,  per row, image and group.
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
    STRIP_BYTES = 192 * 1024  # of copied input planes per item: L2, read once per block of output channels
    FLIP_ROWS = 16            # input channels whose weights are turned at a time
    MOST_SLOTS = 16           # partial weight gradients; their number depends on shapes alone, so that the bits do not depend on the threads


cdef struct Plan:
    int threads
    int lanes
    int mr
    int nv
    index rows
    index strips
    index items
    index depth       # rows of a copied plane
    index width       # of its rows
    size_t strip_bytes
    size_t offset_bytes
    size_t worker_bytes


cdef Plan make_plan(const fc_isa* kernels, Geometry* g, real* tag) noexcept nogil:
    cdef Plan p
    cdef double flops = 2.0 * g.N * g.OH * g.OW * g.O * g.Cg * g.KH * g.KW
    cdef index most
    if real is float:
        p.lanes, p.mr, p.nv = kernels.f32.lanes, kernels.f32.mr, kernels.f32.nv
    else:
        p.lanes, p.mr, p.nv = kernels.f64.lanes, kernels.f64.mr, kernels.f64.nv
    p.offset_bytes = aligned(g.Cg * g.KH * g.KW * sizeof(index))
    p.width = g.OW + (g.KW - 1) * g.DW
    most = imax(1, (STRIP_BYTES // (p.width * g.Cg * <index>sizeof(real)) - ((g.KH - 1) * g.DH + 1)) // g.SH + 1)
    p.strips = ceil_div(g.OH, most)
    p.threads = thread_count(flops, 1 << 20)
    if p.threads > 1 and g.N * g.G * p.strips < 2 * p.threads:
        p.strips = imin(g.OH, ceil_div(2 * p.threads, g.N * g.G))
    p.rows = ceil_div(g.OH, p.strips)
    p.strips = ceil_div(g.OH, p.rows)
    p.items = g.N * g.G * p.strips
    p.threads = thread_count(flops, p.items)
    p.depth = (p.rows - 1) * g.SH + (g.KH - 1) * g.DH + 1
    p.strip_bytes = aligned((g.Cg * p.depth * p.width + p.lanes) * sizeof(real))  # one vector of slack: the kernel reads whole vectors
    p.worker_bytes = p.strip_bytes + p.offset_bytes
    return p


cdef void copy_planes(Geometry* g, const Plan* p, const real* x, View s, index h0, index depth, real* dst) noexcept nogil:
    """dst[c][r][w] = x[c, h0 + r, w - PL] for r < depth, w < width; zero outside the image."""
    cdef index c, r, h, w, first = imin(g.PL, p.width), pixels = imin(g.W, p.width - first)
    cdef const real* row
    for c in range(g.Cg):
        for r in range(depth):
            h = h0 + r
            if h < 0 or h >= g.H:
                memset(dst, 0, p.width * sizeof(real))
            else:
                memset(dst, 0, first * sizeof(real))
                row = x + c * s.c + h * s.h
                if s.w == 1:
                    memcpy(dst + first, row, pixels * sizeof(real))
                else:
                    for w in range(pixels):
                        dst[first + w] = row[w * s.w]
                memset(dst + first + pixels, 0, (p.width - first - pixels) * sizeof(real))
            dst += p.width


cdef void run_item(const fc_isa* kernels, Geometry* g, const Plan* p, index item, const real* x, View s, const real* w, const real* bias, real* y,
                   char* scratch) noexcept nogil:
    cdef index strip = item % p.strips, group = item // p.strips % g.G, n = item // (p.strips * g.G), r0 = strip * p.rows, rows = imin(p.rows, g.OH - r0)
    cdef index depth = (rows - 1) * g.SH + (g.KH - 1) * g.DH + 1, taps = g.Cg * g.KH * g.KW, k = 0, c, kh, kw, block, blocks = ceil_div(g.Og, p.mr), o, r, v, vectors
    cdef real* planes = <real*>scratch
    cdef index* offset = <index*>(scratch + p.strip_bytes)
    cdef real* out
    cdef const real* b
    cdef int m, nv, last
    copy_planes(g, p, x + n * s.n + group * g.Cg * s.c, s, r0 * g.SH - g.PT, depth, planes)
    for c in range(g.Cg):
        for kh in range(g.KH):
            for kw in range(g.KW):
                offset[k] = (c * depth + kh * g.DH) * p.width + kw * g.DW
                k += 1
    vectors = ceil_div(g.OW, p.lanes)
    last = <int>(g.OW - (vectors - 1) * p.lanes)
    for block in range(blocks):  # even blocks of output channels: 10 are 5 + 5, not 8 + 2
        o = group * g.Og + block * g.Og // blocks
        m = <int>(group * g.Og + (block + 1) * g.Og // blocks - o)
        b = bias + o if bias != NULL else NULL
        r = 0
        while r < rows:
            out = y + ((n * g.O + o) * g.OH + r0 + r) * g.OW
            if vectors == 1:  # narrow rows: several at a time, one vector each
                nv = <int>imin(p.nv, rows - r)
                if real is float:
                    kernels.f32.planes(w + o * taps, taps, b, planes + r * g.SH * p.width, offset, taps, g.SH * p.width, False, out, g.OH * g.OW, g.OW, last, last, m, nv)
                else:
                    kernels.f64.planes(w + o * taps, taps, b, planes + r * g.SH * p.width, offset, taps, g.SH * p.width, False, out, g.OH * g.OW, g.OW, last, last, m, nv)
                r += nv
                continue
            v = 0
            while v < vectors:
                nv = <int>imin(p.nv, vectors - v)
                if vectors - v == p.nv + 1 and p.nv > 2:
                    nv = 2  # 4 vectors are 2 + 2, not 3 + 1
                if real is float:
                    kernels.f32.planes(w + o * taps, taps, b, planes + r * g.SH * p.width + v * p.lanes, offset, taps, p.lanes, False, out + v * p.lanes, g.OH * g.OW, p.lanes,
                                       p.lanes, last if v + nv == vectors else p.lanes, m, nv)
                else:
                    kernels.f64.planes(w + o * taps, taps, b, planes + r * g.SH * p.width + v * p.lanes, offset, taps, p.lanes, False, out + v * p.lanes, g.OH * g.OW, p.lanes,
                                       p.lanes, last if v + nv == vectors else p.lanes, m, nv)
                v += nv
            r += 1


cdef void flip(const fc_isa* kernels, Geometry* g, const real* w, real* out, int threads) noexcept nogil:
    """The layer's weights (O, C/G, KH, KW), O = g.C, as those of the convolution g that computes its input gradient: (C, O/G, flipped taps), C = g.O."""
    cdef index piece, pieces = ceil_div(g.Og, FLIP_ROWS)
    for piece in prange(g.G * pieces, num_threads=threads, schedule="static"):
        flip_piece(kernels, g, w, piece // pieces, piece % pieces * FLIP_ROWS, imin(g.Og, (piece % pieces + 1) * FLIP_ROWS), out)


cdef void flip_piece(const fc_isa* kernels, Geometry* g, const real* w, index group, index first, index after, real* out) noexcept nogil:
    cdef index o, c, tap, taps = g.KH * g.KW
    w += group * g.Cg * g.Og * taps
    out += group * g.Og * g.Cg * taps
    if taps == 1:
        if real is float:
            kernels.f32.transpose(w + first, g.Og, out + first * g.Cg, g.Cg, g.Cg, after - first, g.Cg)
        else:
            kernels.f64.transpose(w + first, g.Og, out + first * g.Cg, g.Cg, g.Cg, after - first, g.Cg)
        return
    for o in range(g.Cg):
        for c in range(first, after):
            for tap in range(taps):
                out[(c * g.Cg + o) * taps + taps - 1 - tap] = w[(o * g.Og + c) * taps + tap]


cdef cnp.ndarray convolve(Geometry* g, cnp.ndarray input, cnp.ndarray weight, object bias, bint flipped, object given, real* tag):
    cdef const fc_isa* kernels = active_isa()
    cdef cnp.ndarray output = given if given is not None else empty4(g.N, g.O, g.OH, g.OW, cnp.PyArray_TYPE(input), False), w = cnp.PyArray_GETCONTIGUOUS(weight), bias_array
    if output.size == 0:
        return output
    cdef View s = view_of(input)
    cdef Plan plan = make_plan(kernels, g, <real*>NULL)
    cdef size_t weight_bytes = aligned(w.size * sizeof(real)) if flipped else 0
    cdef Arena arena = acquire(weight_bytes + plan.threads * plan.worker_bytes)
    cdef char* scratch = arena.base + weight_bytes
    cdef const real* weights = <const real*>cnp.PyArray_DATA(w)
    cdef const real* x = <const real*>cnp.PyArray_DATA(input)
    cdef const real* b = NULL
    cdef real* y = <real*>cnp.PyArray_DATA(output)
    cdef index item
    if bias is not None:
        bias_array = cnp.PyArray_GETCONTIGUOUS(bias)
        b = <const real*>cnp.PyArray_DATA(bias_array)
    with nogil:
        if flipped:
            flip(kernels, g, weights, <real*>arena.base, plan.threads)
            weights = <const real*>arena.base
        with parallel(num_threads=plan.threads):
            for item in prange(plan.items, schedule="dynamic", chunksize=1):
                run_item(kernels, g, &plan, item, x, s, weights, b, y, scratch + threadid() * plan.worker_bytes)
    release(arena)
    return output


def conv2d(cnp.ndarray input, cnp.ndarray weight, bias, stride, padding, dilation, index groups, out=None):
    """Column stride 1, any row stride."""
    cdef Geometry g = geometry_of(input.shape[0], input.shape[1], input.shape[2], input.shape[3], weight.shape[0], weight.shape[2], weight.shape[3], stride, padding,
                                  dilation, groups)
    if cnp.PyArray_TYPE(input) == cnp.NPY_FLOAT:
        return convolve(&g, input, weight, bias, False, out, <float*>NULL)
    return convolve(&g, input, weight, bias, False, out, <double*>NULL)


def conv2d_grad_input(cnp.ndarray grad_output, cnp.ndarray weight, input_shape, stride, padding, dilation, index groups, out=None):
    """Stride 1, padding up to (K-1)*D: grad_output convolved with the flipped kernel, channels exchanged."""
    cdef index N, C, H, W
    N, C, H, W = input_shape
    cdef Geometry g = geometry_of(N, C, H, W, weight.shape[0], weight.shape[2], weight.shape[3], stride, padding, dilation, groups)
    flip_geometry(&g)
    if cnp.PyArray_TYPE(grad_output) == cnp.NPY_FLOAT:
        return convolve(&g, grad_output, weight, None, True, out, <float*>NULL)
    return convolve(&g, grad_output, weight, None, True, out, <double*>NULL)


# ---- weight gradient

cdef void grad_weight_slot(const fc_isa* kernels, Geometry* g, const Plan* p, index slot, index slots, const real* x, View s, const real* grad, real* partial,
                           char* scratch) noexcept nogil:
    """One slot's share of the strips of one group; partial[o][k][lane], in the order of the weights."""
    cdef index group = slot % g.G, part = slot // g.G, work = g.N * p.strips, taps = g.Cg * g.KH * g.KW, item, n, r0, rows, depth, k, c, kh, kw
    cdef real* planes = <real*>scratch
    cdef index* offset = <index*>(scratch + p.strip_bytes)
    memset(partial, 0, g.Og * taps * p.lanes * sizeof(real))
    for item in range(part * work // slots, (part + 1) * work // slots):
        n, r0 = item // p.strips, item % p.strips * p.rows
        rows = imin(p.rows, g.OH - r0)
        depth = (rows - 1) * g.SH + (g.KH - 1) * g.DH + 1
        copy_planes(g, p, x + n * s.n + group * g.Cg * s.c, s, r0 * g.SH - g.PT, depth, planes)
        k = 0
        for c in range(g.Cg):
            for kh in range(g.KH):
                for kw in range(g.KW):
                    offset[k] = (c * depth + kh * g.DH) * p.width + kw * g.DW
                    k += 1
        if real is float:
            kernels.f32.planes_outer(grad + ((n * g.O + group * g.Og) * g.OH + r0) * g.OW, g.OH * g.OW, g.OW, planes, offset, taps, g.SH * p.width, p.lanes, rows, g.OW,
                                     partial, g.Og)
        else:
            kernels.f64.planes_outer(grad + ((n * g.O + group * g.Og) * g.OH + r0) * g.OW, g.OH * g.OW, g.OW, planes, offset, taps, g.SH * p.width, p.lanes, rows, g.OW,
                                     partial, g.Og)


cdef void fold_slots(const fc_isa* kernels, Geometry* g, index slots, int lanes, real* partials, real* gw, int threads) noexcept nogil:
    """Add the slots in order, then the lanes."""
    cdef index taps = g.Cg * g.KH * g.KW, size = g.Og * taps * lanes, o, slot, i
    cdef real* total
    cdef const real* part
    for o in prange(g.O, num_threads=threads, schedule="static"):
        total = partials + (o // g.Og) * size + o % g.Og * taps * lanes
        for slot in range(1, slots):
            part = total + slot * g.G * size
            for i in range(taps * lanes):
                total[i] += part[i]
        if real is float:
            kernels.f32.fold_lanes(total, gw + o * taps, taps)
        else:
            kernels.f64.fold_lanes(total, gw + o * taps, taps)


cdef cnp.ndarray weight_gradient(Geometry* g, cnp.ndarray grad_output, cnp.ndarray input, object given, real* tag):
    cdef const fc_isa* kernels = active_isa()
    cdef cnp.ndarray grad_weight = given if given is not None else empty4(g.O, g.Cg, g.KH, g.KW, cnp.PyArray_TYPE(input), False), gy = cnp.PyArray_GETCONTIGUOUS(grad_output)
    if g.N == 0:
        grad_weight.fill(0)
        return grad_weight
    cdef View s = view_of(input)
    cdef Plan plan = make_plan(kernels, g, <real*>NULL)
    # make_plan shares the rows out to the threads; sums cross strips here, so the cut is made again, from shapes alone
    plan.width = g.OW + (g.KW - 1) * g.DW
    plan.rows = imin(g.OH, imax(1, (STRIP_BYTES // (plan.width * g.Cg * <index>sizeof(real)) - ((g.KH - 1) * g.DH + 1)) // g.SH + 1))
    plan.strips = ceil_div(g.OH, plan.rows)
    plan.strip_bytes = aligned((g.Cg * ((plan.rows - 1) * g.SH + (g.KH - 1) * g.DH + 1) * plan.width + plan.lanes) * sizeof(real))
    plan.worker_bytes = plan.strip_bytes + plan.offset_bytes
    cdef index size = g.Og * g.Cg * g.KH * g.KW * plan.lanes, slots = imin(MOST_SLOTS, g.N * plan.strips), slot
    cdef int threads = thread_count(2.0 * g.N * g.OH * g.OW * g.O * g.Cg * g.KH * g.KW, slots * g.G)
    cdef Arena arena = acquire(aligned(slots * g.G * size * sizeof(real)) + threads * plan.worker_bytes)
    cdef real* partials = <real*>arena.base
    cdef char* scratch = arena.base + aligned(slots * g.G * size * sizeof(real))
    cdef const real* x = <const real*>cnp.PyArray_DATA(input)
    cdef const real* gp = <const real*>cnp.PyArray_DATA(gy)
    cdef real* gw = <real*>cnp.PyArray_DATA(grad_weight)
    with nogil:
        with parallel(num_threads=threads):
            for slot in prange(slots * g.G, schedule="dynamic", chunksize=1):
                grad_weight_slot(kernels, g, &plan, slot, slots, x, s, gp, partials + slot * size, scratch + threadid() * plan.worker_bytes)
        fold_slots(kernels, g, slots, plan.lanes, partials, gw, threads)
    release(arena)
    return grad_weight


def conv2d_grad_weight(cnp.ndarray grad_output, cnp.ndarray input, weight_shape, stride, padding, dilation, index groups, out=None):
    """Column stride 1, any row stride; needs a vector of scratch per weight and slot."""
    cdef index O, KH, KW
    O, _, KH, KW = weight_shape
    cdef Geometry g = geometry_of(input.shape[0], input.shape[1], input.shape[2], input.shape[3], O, KH, KW, stride, padding, dilation, groups)
    if cnp.PyArray_TYPE(input) == cnp.NPY_FLOAT:
        return weight_gradient(&g, grad_output, input, out, <float*>NULL)
    return weight_gradient(&g, grad_output, input, out, <double*>NULL)
