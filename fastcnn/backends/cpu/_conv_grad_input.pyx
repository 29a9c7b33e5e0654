# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Input gradient of the direct convolution for any stride, padding and dilation, by overlapped adding.

One pixel of grad_output sends, per kernel row kh, a run of KW x C values to grad_input: the product of its O values with a matrix (O, KW * C). A row of grad_input is
collected in a buffer as wide as the padded input: for every kh whose output row meets it, the runs of all pixels are added at their places, overlapping where SW < KW.

m = OW pixels,  n = KW * C / G (C / G per tap where the kernel is dilated),  k = O / G,  per image, group and kernel row.
"""
cimport numpy as cnp
from cython.parallel cimport parallel, prange, threadid
from libc.string cimport memcpy, memset

from fastcnn.backends.cpu._arrays cimport dense, empty4, is_channels_last, view_of
from fastcnn.backends.cpu._geometry cimport geometry_of
from fastcnn.backends.cpu._kernels cimport fc_isa
from fastcnn.backends.cpu._layout cimport Geometry, View, aligned, ceil_div, imax, imin, index, load_rows, real
from fastcnn.backends.cpu._panels cimport Panels, filter_to_last, first_vector, make_panels, pack_row, panel_elements
from fastcnn.backends.cpu._runtime cimport Arena, acquire, active_isa, fc_use_pool, pool, release, thread_count

cnp.import_array()
fc_use_pool(pool())

cdef enum:
    STRIP_BYTES = 192 * 1024  # of grad_output, loaded once per item where it is not channels-last


cdef struct Plan:
    int threads
    int mr
    bint direct      # tiles read the user's grad_output
    bint last        # grad_input is channels-last
    index runs       # runs per kernel row: 1, or KW where the kernel is dilated
    index rows       # rows of grad_input per item
    index strips
    index depth      # most rows of grad_output an item needs
    index width      # pixels of the row buffer
    size_t strip_bytes
    size_t worker_bytes


cdef Plan make_plan(const fc_isa* kernels, Geometry* g, View sg, bint last, real* tag) noexcept nogil:
    cdef Plan p
    cdef double flops = 2.0 * g.N * g.OH * g.OW * g.O * g.Cg * g.KH * g.KW
    cdef index most
    p.mr = kernels.f32.mr if real is float else kernels.f64.mr
    p.direct = sg.c == 1
    p.last = last
    p.runs = 1 if g.DW == 1 else g.KW
    most = g.H
    if not p.direct:
        most = imax(1, (STRIP_BYTES // (g.OW * g.Og * <index>sizeof(real)) - ceil_div((g.KH - 1) * g.DH, g.SH) - 1) * g.SH)
    p.threads = thread_count(flops, 1 << 20)
    p.strips = ceil_div(g.H, imin(most, g.H))
    if p.threads > 1 and g.N * p.strips * g.G < 2 * p.threads:
        p.strips = imin(g.H, ceil_div(2 * p.threads, g.N * g.G))
    p.rows = ceil_div(g.H, p.strips)
    p.strips = ceil_div(g.H, p.rows)
    p.threads = thread_count(flops, g.N * p.strips * g.G)
    p.depth = imin(g.OH, (p.rows + (g.KH - 1) * g.DH) // g.SH + 1)
    p.width = imax((g.OW - 1) * g.SW + (g.KW - 1) * g.DW + 1, g.PL + g.W)
    p.strip_bytes = 0 if p.direct else aligned(p.depth * g.OW * g.Og * sizeof(real))
    p.worker_bytes = p.strip_bytes + aligned(p.width * g.Cg * sizeof(real))
    return p


cdef void store_row(const fc_isa* kernels, Geometry* g, const real* row, real* gx, index n, index group, index h, bint last) noexcept nogil:
    """One row (W, C / G) of a group into grad_input."""
    cdef index w
    cdef real* out
    if last:
        out = gx + (n * g.H + h) * g.W * g.C + group * g.Cg
        if g.G == 1:
            memcpy(out, row, g.W * g.C * sizeof(real))
        else:
            for w in range(g.W):
                memcpy(out + w * g.C, row + w * g.Cg, g.Cg * sizeof(real))
        return
    out = gx + ((n * g.C + group * g.Cg) * g.H + h) * g.W
    if real is float:
        kernels.f32.transpose(row, g.Cg, out, g.H * g.W, g.W, g.Cg, g.W)
    else:
        kernels.f64.transpose(row, g.Cg, out, g.H * g.W, g.W, g.Cg, g.W)


cdef void run_item(const fc_isa* kernels, Geometry* g, const Plan* p, index item, const real* grad, View sg, const Panels* panels, const real* packed, real* gx,
                   char* scratch) noexcept nogil:
    cdef index group = item % g.G, strip = item // g.G % p.strips, n = item // (g.G * p.strips)
    cdef index h0 = strip * p.rows, h1 = imin(g.H, h0 + p.rows), h, kh, run, oh, ow, i, at, wide, reach, row_stride, pixel_stride
    # rows of grad_output that reach rows h0 .. h1-1 of grad_input: oh * SH = h + PT - kh * DH
    cdef index first = imax(0, ceil_div(imax(0, h0 + g.PT - (g.KH - 1) * g.DH), g.SH)), after = imin(g.OH, (h1 - 1 + g.PT) // g.SH + 1)
    cdef real* buffer = <real*>(scratch + p.strip_bytes)
    cdef real* strip_data = <real*>scratch
    cdef const real* base
    cdef const real* matrix
    cdef int m, nv
    if p.direct:
        base = grad + n * sg.n + first * sg.h + group * g.Og
        row_stride, pixel_stride = sg.h, sg.w
    else:
        if after > first:
            load_rows(kernels, grad + n * sg.n + group * g.Og * sg.c, sg, g.Og, g.OH, g.OW, first, after - first, 0, g.OW, strip_data)
        base = strip_data
        row_stride, pixel_stride = g.OW * g.Og, g.Og
    for h in range(h0, h1):
        memset(buffer, 0, p.width * g.Cg * sizeof(real))
        for kh in range(g.KH):
            reach = h + g.PT - kh * g.DH
            if reach < 0 or reach % g.SH != 0 or reach // g.SH >= g.OH:
                continue
            oh = reach // g.SH
            for run in range(p.runs):
                matrix = packed + ((group * g.KH + kh) * p.runs + run) * panel_elements(panels)
                for i in range(panels.count):
                    at = first_vector(panels, i) * panels.lanes
                    wide = first_vector(panels, i + 1) * panels.lanes - at
                    nv = <int>(wide // panels.lanes)
                    ow = 0
                    while ow < g.OW:
                        m = <int>imin(p.mr, g.OW - ow)
                        if real is float:
                            kernels.f32.tile_add(base + (oh - first) * row_stride + ow * pixel_stride, pixel_stride, g.Og, matrix + at * panels.k,
                                                 buffer + (ow * g.SW + run * g.DW) * g.Cg + at, g.SW * g.Cg, m, nv, <int>imin(wide, panels.n - at))
                        else:
                            kernels.f64.tile_add(base + (oh - first) * row_stride + ow * pixel_stride, pixel_stride, g.Og, matrix + at * panels.k,
                                                 buffer + (ow * g.SW + run * g.DW) * g.Cg + at, g.SW * g.Cg, m, nv, <int>imin(wide, panels.n - at))
                        ow += p.mr
        store_row(kernels, g, buffer + g.PL * g.Cg, gx, n, group, h, p.last)


cdef void pack(const fc_isa* kernels, Geometry* g, index runs, const Panels* panels, const real* w, bint ohwi, real* packed, real* spare, int threads) noexcept nogil:
    """Per group, kernel row (and tap, where dilated): rows = output channels, columns = the run of taps x channels they send."""
    cdef index o, i, group, taps = g.KH * g.KW, size = taps * g.Cg
    cdef const real* source
    for o in prange(g.O, num_threads=threads, schedule="static"):
        group = o // g.Og
        source = w + o * size
        if not ohwi:
            filter_to_last(kernels, source, g.Cg, taps, spare + o * size)
            source = spare + o * size
        for i in range(g.KH * runs):
            pack_row(panels, o % g.Og, source + i * panels.n, packed + (group * g.KH * runs + i) * panel_elements(panels))


cdef cnp.ndarray input_gradient(Geometry* g, cnp.ndarray grad_output, cnp.ndarray weight, bint last, object out, real* tag):
    cdef const fc_isa* kernels = active_isa()
    cdef cnp.ndarray grad_input = out if out is not None else empty4(g.N, g.C, g.H, g.W, cnp.PyArray_TYPE(grad_output), last)
    if grad_output.size == 0 or grad_input.size == 0:
        grad_input.fill(0)
        return grad_input
    cdef View sg = view_of(grad_output)
    cdef Plan plan = make_plan(kernels, g, sg, last, <real*>NULL)
    cdef Panels panels = make_panels(kernels, g.Og, g.Cg * (g.KW // plan.runs), <real*>NULL)
    cdef cnp.ndarray w = dense(weight)
    cdef bint ohwi = g.KH * g.KW == 1 or g.Cg == 1 or not cnp.PyArray_IS_C_CONTIGUOUS(w)
    cdef size_t packed_bytes = aligned(g.G * g.KH * plan.runs * panel_elements(&panels) * sizeof(real))
    cdef size_t spare_bytes = 0 if ohwi else aligned(w.size * sizeof(real))
    cdef Arena arena = acquire(packed_bytes + spare_bytes + plan.threads * plan.worker_bytes)
    cdef real* packed = <real*>arena.base
    cdef real* spare = <real*>(arena.base + packed_bytes)
    cdef char* scratch = arena.base + packed_bytes + spare_bytes
    cdef const real* gy = <const real*>cnp.PyArray_DATA(grad_output)
    cdef const real* w_data = <const real*>cnp.PyArray_DATA(w)
    cdef real* gx = <real*>cnp.PyArray_DATA(grad_input)
    cdef index item, items = g.N * plan.strips * g.G
    with nogil:
        pack(kernels, g, plan.runs, &panels, w_data, ohwi, packed, spare, plan.threads)
        with parallel(num_threads=plan.threads):
            for item in prange(items, schedule="dynamic", chunksize=1):
                run_item(kernels, g, &plan, item, gy, sg, &panels, packed, gx, scratch + threadid() * plan.worker_bytes)
    release(arena)
    return grad_input


def conv2d_grad_input(cnp.ndarray grad_output, cnp.ndarray weight, input_shape, stride, padding, dilation, index groups, out=None):
    """grad_input[n, c, h, w] = sum over o, kh, kw of grad_output[n, o, oh, ow] * weight[o, c, kh, kw] where h = oh*SH - PT + kh*DH, w = ow*SW - PL + kw*DW"""
    cdef index N, C, H, W
    N, C, H, W = input_shape
    cdef Geometry g = geometry_of(N, C, H, W, weight.shape[0], weight.shape[2], weight.shape[3], stride, padding, dilation, groups)
    if cnp.PyArray_TYPE(grad_output) == cnp.NPY_FLOAT:
        return input_gradient(&g, grad_output, weight, is_channels_last(grad_output if out is None else out), out, <float*>NULL)
    return input_gradient(&g, grad_output, weight, is_channels_last(grad_output if out is None else out), out, <double*>NULL)
