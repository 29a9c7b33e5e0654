# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Convolution of one plane, or few, at a time on C-contiguous arrays, lanes = neighbouring pixels: depthwise layers, with or without a channel multiplier, and layers of one
output channel backwards. Column strides 1 and 2, any row stride and dilation.

An item is a strip of rows of one image and one group. Its planes are copied into scratch once, between borders of zeros that stay from item to item, with the even and the
odd columns apart where the column stride is 2; they are read where they lie where there is neither a border nor a stride. Every sum is one chain over plane, kernel column,
kernel row: bits depend neither on the cut nor on the threads.

The input gradient is a convolution of grad_output for each of the SH x SW phases of a pixel's position, with those taps of the flipped kernel that meet it.

m = rows of one channel,  n = OW (lanes),  k = planes * KH * KW.
"""
cimport numpy as cnp
from cython.parallel cimport parallel, prange, threadid
from libc.string cimport memset

from fastcnn.backends.cpu._arrays cimport empty4, view_of
from fastcnn.backends.cpu._geometry cimport geometry_of
from fastcnn.backends.cpu._kernels cimport fc_isa
from fastcnn.backends.cpu._layout cimport Geometry, View, aligned, ceil_div, imax, imin, index, real
from fastcnn.backends.cpu._runtime cimport Arena, acquire, active_isa, fc_use_pool, pool, release, thread_count

cnp.import_array()
fc_use_pool(pool())

cdef enum:
    PLANE_BYTES = 24 * 1024   # of one copied plane per item: L1
    PLANES_BYTES = 128 * 1024 # of several: L2
    LEAST_ITEMS = 64          # of the weight gradient: groups, times shares of the images where there are few; from shapes alone, so that the bits do not depend on threads
    SUM_BYTES = 16 * 1024     # of the weight gradient's lanes
    PIECES = 8                # ranges of items per thread: one item may take less time than handing it out


cdef struct Copy:
    # How a strip of planes is laid out in scratch. A row holds `step` runs of columns: all, or the even and the odd ones of the padded row.
    int lanes
    index step
    index first   # where padded column 0 lies, so that the image begins on a vector's boundary
    index left    # zeros before the image
    index skip    # columns of the image left out, where padding is negative
    index pixels  # columns of the image
    index run
    index pitch   # elements from row to row
    index depth   # rows
    size_t nbytes


cdef Copy layout(index planes, index depth, index before, index width, index W, index step, int lanes, size_t element) noexcept nogil:
    """`depth` rows of `width` padded columns, the first of which is the image's column -before."""
    cdef Copy c
    c.lanes, c.step, c.depth = lanes, step, depth
    c.left, c.skip = imin(imax(before, 0), width), imax(-before, 0)
    c.pixels = imax(0, imin(W - c.skip, width - c.left))
    c.first = 0
    if step == 1:
        c.first = ceil_div(c.left, lanes) * lanes - c.left
        c.run = ceil_div(c.first + width, lanes) * lanes
    else:
        c.run = (ceil_div(ceil_div(width, 2), lanes) + 1) * lanes  # a run's last vector may reach beyond it
    c.pitch = c.run * step
    c.nbytes = aligned((planes * depth * c.pitch + 2 * lanes) * element)  # the kernels read whole vectors
    return c


cdef index place(const Copy* c, index column) noexcept nogil:
    """Where a padded column lies in a row."""
    return c.first + column if c.step == 1 else column % 2 * c.run + column // 2


cdef void copy_plane(const fc_isa* kernels, const Copy* c, const real* x, index row, index H, index h0, real* dst) noexcept nogil:
    """Rows h0 .. h0 + depth - 1 of a plane; the borders left and right are zeros already."""
    cdef index r, top = imin(imax(-h0, 0), c.depth), after = imax(top, imin(c.depth, H - h0)), to = place(c, c.left)
    for r in range(top):
        memset(dst + r * c.pitch, 0, c.pitch * sizeof(real))
    for r in range(after, c.depth):
        memset(dst + r * c.pitch, 0, c.pitch * sizeof(real))
    if c.pixels and after > top:
        if real is float:
            kernels.f32.stencil_rows(x + (h0 + top) * row + c.skip, row, c.pixels, after - top, dst + top * c.pitch + to, c.pitch,
                                     0 if c.step == 1 else place(c, c.left + 1) - to)
        else:
            kernels.f64.stencil_rows(x + (h0 + top) * row + c.skip, row, c.pixels, after - top, dst + top * c.pitch + to, c.pitch,
                                     0 if c.step == 1 else place(c, c.left + 1) - to)


cdef index floor_div(index a, index b) noexcept nogil:
    return a // b if a >= 0 else -((b - 1 - a) // b)


cdef index gcd(index a, index b) noexcept nogil:
    while b:
        a, b = b, a % b
    return a


cdef struct Plan:
    int threads
    index rows       # of output per item (of the input gradient: times the row stride)
    index strips
    index items
    index pieces
    Copy copy
    bint direct      # where the array has the elements that whole vectors read beyond a plane
    size_t offset_bytes
    size_t worker_bytes


cdef index strip_rows(index outputs, index planes, index line, index step, index halo) noexcept nogil:
    """Output rows whose inputs, of `line` bytes each, fill a strip, cut evenly."""
    cdef index most = imax(4, ((PLANE_BYTES if planes == 1 else PLANES_BYTES) // (planes * line) - halo) // step)
    return ceil_div(outputs, ceil_div(outputs, most))


cdef void share(Plan* p, index outputs, index others, double flops) noexcept nogil:
    """Strips and pieces of `others` independent planes."""
    p.strips = ceil_div(outputs, p.rows)
    p.threads = thread_count(flops, 1 << 20)
    if p.threads > 1 and others * p.strips < 2 * p.threads:
        p.rows = ceil_div(outputs, imin(outputs, ceil_div(2 * p.threads, others)))
        p.strips = ceil_div(outputs, p.rows)
    p.items = others * p.strips
    p.threads = thread_count(flops, p.items)
    p.pieces = 1 if p.threads == 1 else imin(p.items, PIECES * p.threads)


# ---- forward

cdef Plan forward_plan(const fc_isa* kernels, Geometry* g, cnp.ndarray input, real* tag):
    cdef Plan p
    cdef int lanes = kernels.f32.lanes if real is float else kernels.f64.lanes
    cdef index width = (g.OW - 1) * g.SW + (g.KW - 1) * g.DW + 1, halo = (g.KH - 1) * g.DH + 1
    p.copy = layout(g.Cg, 1, g.PL, width, g.W, g.SW, lanes, sizeof(real))
    p.rows = strip_rows(g.OH, g.Cg, p.copy.pitch * sizeof(real), g.SH, halo)
    share(&p, g.OH, g.N * g.G, 2.0 * g.N * g.OH * g.OW * g.O * g.Cg * g.KH * g.KW)
    p.copy = layout(g.Cg, (p.rows - 1) * g.SH + halo, g.PL, width, g.W, g.SW, lanes, sizeof(real))
    p.direct = g.SW == 1 and g.PT == 0 and g.PL == 0 and width <= g.W and (g.OH - 1) * g.SH + halo <= g.H and cnp.PyArray_IS_C_CONTIGUOUS(input)
    p.offset_bytes = aligned(2 * g.KW * sizeof(index))
    p.worker_bytes = p.copy.nbytes
    return p


cdef void tap_columns(Geometry* g, const Plan* p, index* offset) noexcept nogil:
    """In scratch, then in the array."""
    cdef index kw
    for kw in range(g.KW):
        offset[kw] = place(&p.copy, kw * g.DW)
        offset[g.KW + kw] = kw * g.DW


cdef const real* load_planes(const fc_isa* kernels, Geometry* g, const Plan* p, index n, index group, index r0, index rows, const real* x, View s, real* scratch,
                             index* plane, index* row, bint* direct) noexcept nogil:
    """The planes of one item, and their strides."""
    cdef index c, at = (n * g.C + group * g.Cg) * g.H * g.W + r0 * g.SH * g.W, vectors = ceil_div(g.OW, p.copy.lanes) * p.copy.lanes
    direct[0] = p.direct and (at + (g.Cg - 1) * g.H * g.W + ((rows - 1) * g.SH + (g.KH - 1) * g.DH) * g.W + (g.KW - 1) * g.DW + vectors <= g.N * g.C * g.H * g.W)
    if direct[0]:
        plane[0], row[0] = g.H * g.W, g.W
        return x + at
    plane[0], row[0] = p.copy.depth * p.copy.pitch, p.copy.pitch
    for c in range(g.Cg):
        copy_plane(kernels, &p.copy, x + n * s.n + (group * g.Cg + c) * s.c, s.h, g.H, r0 * g.SH - g.PT, scratch + c * plane[0])
    return scratch


cdef void forward_item(const fc_isa* kernels, Geometry* g, const Plan* p, index item, const real* x, View s, const real* w, const real* bias, real* y,
                       const index* offset, real* scratch) noexcept nogil:
    cdef index strip = item % p.strips, group = item // p.strips % g.G, n = item // (p.strips * g.G), r0 = strip * p.rows, rows = imin(p.rows, g.OH - r0)
    cdef index o, plane, row, taps = g.KH * g.KW
    cdef bint direct
    cdef const real* base = load_planes(kernels, g, p, n, group, r0, rows, x, s, scratch, &plane, &row, &direct)
    cdef real start
    if direct:
        offset += g.KW
    for o in range(group * g.Og, (group + 1) * g.Og):
        start = bias[o] if bias != NULL else 0
        if real is float:
            kernels.f32.stencil(base, plane, g.SH * row, g.DH * row, offset, g.Cg, g.KH, g.KW, w + o * g.Cg * taps, taps, g.KW, 1, start,
                                y + ((n * g.O + o) * g.OH + r0) * g.OW, g.OW, rows, g.OW)
        else:
            kernels.f64.stencil(base, plane, g.SH * row, g.DH * row, offset, g.Cg, g.KH, g.KW, w + o * g.Cg * taps, taps, g.KW, 1, start,
                                y + ((n * g.O + o) * g.OH + r0) * g.OW, g.OW, rows, g.OW)


cdef cnp.ndarray convolve(Geometry* g, cnp.ndarray input, cnp.ndarray weight, object bias, object given, real* tag):
    cdef const fc_isa* kernels = active_isa()
    cdef cnp.ndarray output = given if given is not None else empty4(g.N, g.O, g.OH, g.OW, cnp.PyArray_TYPE(input), False), w = cnp.PyArray_GETCONTIGUOUS(weight), bias_array
    if output.size == 0:
        return output
    cdef Plan plan = forward_plan(kernels, g, input, <real*>NULL)
    cdef View s = view_of(input)
    cdef Arena arena = acquire(plan.offset_bytes + plan.threads * plan.worker_bytes)
    cdef index* offset = <index*>arena.base
    cdef char* scratch = arena.base + plan.offset_bytes
    cdef const real* weights = <const real*>cnp.PyArray_DATA(w)
    cdef const real* x = <const real*>cnp.PyArray_DATA(input)
    cdef const real* b = NULL
    cdef real* y = <real*>cnp.PyArray_DATA(output)
    cdef index item, piece
    if bias is not None:
        bias_array = cnp.PyArray_GETCONTIGUOUS(bias)
        b = <const real*>cnp.PyArray_DATA(bias_array)
    tap_columns(g, &plan, offset)
    with nogil:
        memset(scratch, 0, plan.threads * plan.worker_bytes)
        with parallel(num_threads=plan.threads):
            for piece in prange(plan.pieces, schedule="dynamic", chunksize=1):
                for item in range(piece * plan.items // plan.pieces, (piece + 1) * plan.items // plan.pieces):
                    forward_item(kernels, g, &plan, item, x, s, weights, b, y, offset, <real*>(scratch + threadid() * plan.worker_bytes))
    release(arena)
    return output


def conv2d(cnp.ndarray input, cnp.ndarray weight, bias, stride, padding, dilation, index groups, out=None):
    """Rows of consecutive pixels, column stride 1 or 2."""
    cdef Geometry g = geometry_of(input.shape[0], input.shape[1], input.shape[2], input.shape[3], weight.shape[0], weight.shape[2], weight.shape[3], stride, padding,
                                  dilation, groups)
    if cnp.PyArray_TYPE(input) == cnp.NPY_FLOAT:
        return convolve(&g, input, weight, bias, out, <float*>NULL)
    return convolve(&g, input, weight, bias, out, <double*>NULL)


# ---- input gradient

cdef struct Phase:
    # along one axis: the pixels phase, phase + S, ... of grad_input, and the taps k that meet them, the last one first: each of the others meets a later pixel of grad_output
    index taps
    index last    # the largest k
    index every   # from k to k
    index start   # position in grad_output of the first pixel's first tap
    index apart   # from tap to tap


cdef Phase make_phase(index phase, index S, index P, index K, index D) noexcept nogil:
    cdef Phase f
    cdef index k
    f.taps = f.last = f.start = 0
    f.every = S // gcd(S, D)
    f.apart = D // gcd(S, D)
    for k in range(K):
        if (phase + P - k * D) % S == 0:
            f.taps += 1
            f.last = k
            f.start = floor_div(phase + P - k * D, S)
    return f


cdef struct Back:
    index top      # grad_output's row, relative to a strip's first one, where its copy begins
    index before
    index merged   # elements from row to row before the columns' phases are merged
    size_t merged_bytes


cdef void backward_item(const fc_isa* kernels, Geometry* g, const Plan* p, const Back* back, const Phase* down, const Phase* across, index item, const real* grad, View s,
                        const real* w, real* gx, const index* offset, char* scratch) noexcept nogil:
    """Strips are of p.rows * SH rows of grad_input."""
    cdef index strip = item % p.strips, group = item // p.strips % g.G, n = item // (p.strips * g.G), i0 = strip * p.rows, rows, cols
    cdef index o, c, ph, pw, plane = p.copy.depth * p.copy.pitch, pitch = p.copy.pitch, taps = g.KH * g.KW, out_row
    cdef real* planes = <real*>(scratch + back.merged_bytes)
    cdef real* merged = <real*>scratch
    cdef real* out
    cdef real* target
    cdef const real* base
    cdef const real* weights
    for o in range(g.Og):
        copy_plane(kernels, &p.copy, grad + n * s.n + (group * g.Og + o) * s.c, s.h, g.OH, i0 + back.top, planes + o * plane)
    for c in range(g.Cg):
        for ph in range(imin(g.SH, g.H - i0 * g.SH)):
            rows = imin(p.rows, ceil_div(g.H - ph, g.SH) - i0)
            out = gx + ((n * g.C + group * g.Cg + c) * g.H + i0 * g.SH + ph) * g.W
            base = planes + (down[ph].start - back.top) * pitch
            for pw in range(imin(g.SW, g.W)):
                cols = ceil_div(g.W - pw, g.SW)
                weights = w + (group * g.Og * g.Cg + c) * taps + down[ph].last * g.KW + across[pw].last
                target = out if g.SW == 1 else merged + pw * (back.merged // 2)
                out_row = g.SH * g.W if g.SW == 1 else back.merged
                if real is float:
                    kernels.f32.stencil(base, plane, pitch, down[ph].apart * pitch, offset + pw * g.KW, g.Og, down[ph].taps, across[pw].taps, weights, g.Cg * taps,
                                        -down[ph].every * g.KW, -across[pw].every, 0, target, out_row, rows, cols)
                else:
                    kernels.f64.stencil(base, plane, pitch, down[ph].apart * pitch, offset + pw * g.KW, g.Og, down[ph].taps, across[pw].taps, weights, g.Cg * taps,
                                        -down[ph].every * g.KW, -across[pw].every, 0, target, out_row, rows, cols)
            if g.SW == 2:
                if real is float:
                    kernels.f32.stencil_merge(merged, back.merged, back.merged // 2, out, g.SH * g.W, rows, g.W)
                else:
                    kernels.f64.stencil_merge(merged, back.merged, back.merged // 2, out, g.SH * g.W, rows, g.W)


cdef cnp.ndarray input_gradient(Geometry* g, cnp.ndarray grad_output, cnp.ndarray weight, object given, real* tag):
    cdef const fc_isa* kernels = active_isa()
    cdef cnp.ndarray grad_input = given if given is not None else empty4(g.N, g.C, g.H, g.W, cnp.PyArray_TYPE(grad_output), False), w = cnp.PyArray_GETCONTIGUOUS(weight)
    if grad_output.size == 0 or grad_input.size == 0:
        grad_input.fill(0)
        return grad_input
    cdef Plan plan
    cdef Back back
    cdef int lanes = kernels.f32.lanes if real is float else kernels.f64.lanes
    cdef index outputs = ceil_div(g.H, g.SH), phases = imin(g.SH, g.H), width, depth, i, kw  # a stride beyond the image has no more phases than the image has rows
    back.top = floor_div(g.PT - (g.KH - 1) * g.DH, g.SH)
    back.before = -floor_div(g.PL - (g.KW - 1) * g.DW, g.SW)
    depth = (g.SH - 1 + g.PT) // g.SH - back.top
    width = ceil_div(g.W, g.SW) + (g.SW - 1 + g.PL) // g.SW + back.before
    plan.copy = layout(g.Og, 1, back.before, width, g.OW, 1, lanes, sizeof(real))
    plan.rows = strip_rows(outputs, g.Og, plan.copy.pitch * sizeof(real), 1, depth)
    share(&plan, outputs, g.N * g.G, 2.0 * g.N * g.OH * g.OW * g.O * g.Cg * g.KH * g.KW)
    plan.copy = layout(g.Og, plan.rows + depth, back.before, width, g.OW, 1, lanes, sizeof(real))
    back.merged = 2 * ceil_div(ceil_div(g.W, 2), lanes) * lanes
    back.merged_bytes = aligned((plan.rows * back.merged + lanes) * sizeof(real)) if g.SW == 2 else 0
    plan.worker_bytes = plan.copy.nbytes + back.merged_bytes
    cdef size_t phase_bytes = aligned((phases + g.SW) * sizeof(Phase)), offset_bytes = aligned(g.SW * g.KW * sizeof(index))
    cdef Arena arena = acquire(phase_bytes + offset_bytes + plan.threads * plan.worker_bytes)
    cdef Phase* down = <Phase*>arena.base
    cdef Phase* across = down + phases
    cdef index* offset = <index*>(arena.base + phase_bytes)
    cdef char* scratch = arena.base + phase_bytes + offset_bytes
    cdef View s = view_of(grad_output)
    cdef const real* gy = <const real*>cnp.PyArray_DATA(grad_output)
    cdef const real* weights = <const real*>cnp.PyArray_DATA(w)
    cdef real* gx = <real*>cnp.PyArray_DATA(grad_input)
    cdef index item, piece
    for i in range(phases):
        down[i] = make_phase(i, g.SH, g.PT, g.KH, g.DH)
        if down[i].taps == 0:
            down[i].start = back.top
    for i in range(g.SW):
        across[i] = make_phase(i, g.SW, g.PL, g.KW, g.DW)
        for kw in range(across[i].taps):
            offset[i * g.KW + kw] = place(&plan.copy, across[i].start + back.before + kw * across[i].apart)
    with nogil:
        memset(scratch, 0, plan.threads * plan.worker_bytes)
        with parallel(num_threads=plan.threads):
            for piece in prange(plan.pieces, schedule="dynamic", chunksize=1):
                for item in range(piece * plan.items // plan.pieces, (piece + 1) * plan.items // plan.pieces):
                    backward_item(kernels, g, &plan, &back, down, across, item, gy, s, weights, gx, offset, scratch + threadid() * plan.worker_bytes)
    release(arena)
    return grad_input


def conv2d_grad_input(cnp.ndarray grad_output, cnp.ndarray weight, input_shape, stride, padding, dilation, index groups, out=None):
    """grad_input[n, c, h, w] = sum over o, kh, kw of grad_output[n, o, oh, ow] * weight[o, c, kh, kw] where h = oh*SH - PT + kh*DH, w = ow*SW - PL + kw*DW"""
    cdef index N, C, H, W
    N, C, H, W = input_shape
    cdef Geometry g = geometry_of(N, C, H, W, weight.shape[0], weight.shape[2], weight.shape[3], stride, padding, dilation, groups)
    if cnp.PyArray_TYPE(grad_output) == cnp.NPY_FLOAT:
        return input_gradient(&g, grad_output, weight, out, <float*>NULL)
    return input_gradient(&g, grad_output, weight, out, <double*>NULL)


# ---- weight gradient

cdef void grad_weight_item(const fc_isa* kernels, Geometry* g, const Plan* p, index item, index block, index shares, const real* x, View s, const real* grad, real* folded,
                           const index* offset, char* scratch) noexcept nogil:
    """One share of the strips of `block` groups; folded[share][o][c][tap]. Image by image all of the groups, whose planes follow each other in memory."""
    cdef index blocks = ceil_div(g.G, block), first = item % blocks * block, after = imin(g.G, first + block), part = item // blocks, work = g.N * p.strips
    cdef index taps = g.KH * g.KW, size = g.Og * g.Cg * taps, lanes = p.copy.lanes, at, group
    cdef size_t partial_bytes = aligned(block * size * lanes * sizeof(real))
    cdef real* partial = <real*>scratch
    memset(partial, 0, block * size * lanes * sizeof(real))
    for at in range(part * work // shares, (part + 1) * work // shares):
        for group in range(first, after):
            add_strip(kernels, g, p, at, group, x, s, grad, offset, <real*>(scratch + partial_bytes), partial + (group - first) * size * lanes)
    for group in range(first, after):
        if real is float:
            kernels.f32.fold_lanes(partial + (group - first) * size * lanes, folded + (part * g.G + group) * size, size)
        else:
            kernels.f64.fold_lanes(partial + (group - first) * size * lanes, folded + (part * g.G + group) * size, size)


cdef void add_strip(const fc_isa* kernels, Geometry* g, const Plan* p, index at, index group, const real* x, View s, const real* grad, const index* offset, real* planes,
                    real* partial) noexcept nogil:
    cdef index n = at // p.strips, r0 = at % p.strips * p.rows, rows = imin(p.rows, g.OH - r0), taps = g.KH * g.KW, plane, row, o, c
    cdef bint direct
    cdef const real* base = load_planes(kernels, g, p, n, group, r0, rows, x, s, planes, &plane, &row, &direct)
    cdef const real* g_base
    if direct:
        offset += g.KW
    for o in range(g.Og):
        g_base = grad + ((n * g.O + group * g.Og + o) * g.OH + r0) * g.OW
        for c in range(g.Cg):
            if real is float:
                kernels.f32.stencil_outer(g_base, g.OW, base + c * plane, g.SH * row, g.DH * row, offset, g.KH, g.KW, rows, g.OW, partial + (o * g.Cg + c) * taps * p.copy.lanes)
            else:
                kernels.f64.stencil_outer(g_base, g.OW, base + c * plane, g.SH * row, g.DH * row, offset, g.KH, g.KW, rows, g.OW, partial + (o * g.Cg + c) * taps * p.copy.lanes)


cdef cnp.ndarray weight_gradient(Geometry* g, cnp.ndarray grad_output, cnp.ndarray input, object given, real* tag):
    cdef const fc_isa* kernels = active_isa()
    cdef cnp.ndarray grad_weight = given if given is not None else empty4(g.O, g.Cg, g.KH, g.KW, cnp.PyArray_TYPE(input), False), gy = cnp.PyArray_GETCONTIGUOUS(grad_output)
    if grad_output.size == 0:
        grad_weight.fill(0)
        return grad_weight
    cdef Plan plan = forward_plan(kernels, g, input, <real*>NULL)
    # share() cuts for the threads; sums cross strips here, so the cut is made again, from shapes alone
    cdef index halo = (g.KH - 1) * g.DH + 1, width = (g.OW - 1) * g.SW + (g.KW - 1) * g.DW + 1
    plan.rows = strip_rows(g.OH, g.Cg, plan.copy.pitch * sizeof(real), g.SH, halo)
    plan.strips = ceil_div(g.OH, plan.rows)
    plan.copy = layout(g.Cg, (plan.rows - 1) * g.SH + halo, g.PL, width, g.W, g.SW, plan.copy.lanes, sizeof(real))
    cdef index shares = imin(g.N * plan.strips, ceil_div(LEAST_ITEMS, g.G)), size = g.O * g.Cg * g.KH * g.KW, items, item, i
    cdef int threads = thread_count(2.0 * g.N * g.OH * g.OW * g.O * g.Cg * g.KH * g.KW, shares * g.G)
    cdef index sums = size // g.G * plan.copy.lanes * sizeof(real)
    # as many groups together as leave items for all threads and keep their sums in L1; how many does not change a sum
    cdef index block = imax(1, imin(imin(g.G, shares * g.G // (4 * threads)), SUM_BYTES // sums))
    items = shares * ceil_div(g.G, block)
    plan.worker_bytes = plan.copy.nbytes + aligned(block * sums)
    cdef size_t folded_bytes = aligned(shares * size * sizeof(real))
    cdef Arena arena = acquire(plan.offset_bytes + folded_bytes + threads * plan.worker_bytes)
    cdef index* offset = <index*>arena.base
    cdef real* folded = <real*>(arena.base + plan.offset_bytes)
    cdef char* scratch = arena.base + plan.offset_bytes + folded_bytes
    cdef View s = view_of(input)
    cdef const real* x = <const real*>cnp.PyArray_DATA(input)
    cdef const real* gp = <const real*>cnp.PyArray_DATA(gy)
    cdef real* gw = <real*>cnp.PyArray_DATA(grad_weight)
    tap_columns(g, &plan, offset)
    with nogil:
        memset(scratch, 0, threads * plan.worker_bytes)
        with parallel(num_threads=threads):
            for item in prange(items, schedule="dynamic", chunksize=1):
                grad_weight_item(kernels, g, &plan, item, block, shares, x, s, gp, folded, offset, scratch + threadid() * plan.worker_bytes)
        for i in range(size):
            gw[i] = folded[i]
        for item in range(1, shares):
            for i in range(size):
                gw[i] += folded[item * size + i]
    release(arena)
    return grad_weight


def conv2d_grad_weight(cnp.ndarray grad_output, cnp.ndarray input, weight_shape, stride, padding, dilation, index groups, out=None):
    """Rows of consecutive pixels, column stride 1 or 2; needs a vector of scratch per weight of a group."""
    cdef index O, KH, KW
    O, _, KH, KW = weight_shape
    cdef Geometry g = geometry_of(input.shape[0], input.shape[1], input.shape[2], input.shape[3], O, KH, KW, stride, padding, dilation, groups)
    if cnp.PyArray_TYPE(input) == cnp.NPY_FLOAT:
        return weight_gradient(&g, grad_output, input, out, <float*>NULL)
    return weight_gradient(&g, grad_output, input, out, <double*>NULL)
