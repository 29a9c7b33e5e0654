# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Direct convolution of many output channels on C-contiguous planes: forward, and the input gradient of stride 1 as a convolution with the flipped kernel.

A matrix product of the weights, as they lie in memory, and the pixels: neither has to be transposed, and the result lies as it is wanted. The lanes are output pixels,
counted through all images, whatever the images' size: 49 pixels of 7x7 images leave no lane idle. A panel is FC_NV vectors of them; for every tap its input pixels are laid
side by side (im2col, of 48 pixels at a time), which costs a load and a store per element and is paid back from some 32 output channels on. An item is a strip of panels that fits
L2, with all or some of the output channels. Long reductions are cut into blocks, so that the weights of a tile stay in L1 for all panels of the strip; a tile goes on
from the sums of the block before. So every sum is one chain over (c, kh, kw): bits depend neither on the cuts nor on the threads.

m = O / G,  n = N * OH * OW (lanes),  k = (C / G) * KH * KW,  per group.
"""
cimport numpy as cnp
from cython.parallel cimport parallel, prange, threadid
from libc.string cimport memcpy

from fastcnn.backends.cpu._arrays cimport empty4, view_of
from fastcnn.backends.cpu._geometry cimport flip_geometry, geometry_of
from fastcnn.backends.cpu._kernels cimport fc_isa
from fastcnn.backends.cpu._layout cimport Geometry, View, aligned, ceil_div, imax, imin, index, real
from fastcnn.backends.cpu._planes cimport flip
from fastcnn.backends.cpu._runtime cimport Arena, acquire, active_isa, fc_use_pool, pool, release, thread_count

cnp.import_array()
fc_use_pool(pool())


cdef enum:
    WEIGHT_BYTES = 24 * 1024  # of a tile's rows per block of the reduction: half of L1, the other half is for the panel that streams by
    STRIP_BYTES = 384 * 1024  # of panels per item: L2 holds them while every tile of weights passes
    MOST_PANELS = 16          # per strip: enough to pay for the first touch of a tile's weights
    MOST_NEIGHBOURS = 4       # strips in a row for one thread, which asks for the next one's pixels while it works on one
    IN_PLACE_TILES = 16       # up to so many tiles of output channels a panel is not used often enough to be laid out
    LEAST_TILES = 8           # of output channels per item, where few strips are shared out by channels too: each share lays out its panels itself


cdef struct Plan:
    int threads
    int lanes
    int mr
    int nv
    index width      # pixels of a panel
    index total      # pixels of all images
    index panels
    index strips
    index parts      # shares of the output channels
    index items
    index chunk      # items in a row for one thread
    index channels   # per block of the reduction
    index depth      # their taps: rows of a panel
    index most       # panels of a strip at most
    index runs       # of one tap in a strip, at most
    bint in_place    # a 1x1 kernel on dense rows, few output channels: panels inside an image are read where they lie
    size_t panels_bytes
    size_t offset_bytes
    size_t runs_bytes
    size_t tile_bytes
    size_t worker_bytes


cdef Plan make_plan(const fc_isa* kernels, Geometry* g, View s, real* tag) noexcept nogil:
    cdef Plan p
    cdef index taps = g.KH * g.KW, blocks, tiles
    cdef double flops = 2.0 * g.N * g.OH * g.OW * g.O * g.Cg * taps
    if real is float:
        p.lanes, p.mr, p.nv = kernels.f32.lanes, kernels.f32.mr, kernels.f32.nv
    else:
        p.lanes, p.mr, p.nv = kernels.f64.lanes, kernels.f64.mr, kernels.f64.nv
    p.width = p.nv * p.lanes
    p.total = g.N * g.OH * g.OW
    p.panels = ceil_div(p.total, p.width)
    blocks = imin(g.Cg, ceil_div(g.Cg * taps * p.mr * <index>sizeof(real), WEIGHT_BYTES))
    p.channels = ceil_div(g.Cg, blocks)
    p.depth = p.channels * taps
    p.most = imin(p.panels, imax(1, imin(MOST_PANELS, STRIP_BYTES // (p.depth * p.width * <index>sizeof(real)))))
    p.strips = ceil_div(p.panels, p.most)
    p.threads = thread_count(flops, 1 << 20)
    if p.threads > 1 and g.G == 1 and p.strips < 16 * p.threads:  # as many for each
        p.strips = imin(p.panels, ceil_div(p.strips, p.threads) * p.threads)
    p.most = ceil_div(p.panels, p.strips)
    tiles = ceil_div(g.Og, p.mr)
    p.parts = 1
    if p.threads > 1 and g.G * p.strips < 2 * p.threads:
        p.parts = imax(1, imin(ceil_div(2 * p.threads, g.G * p.strips), tiles // LEAST_TILES))
    p.items = g.G * p.strips * p.parts
    p.threads = thread_count(flops, p.items)
    p.chunk = imax(1, imin(MOST_NEIGHBOURS, p.items // (4 * p.threads)))
    p.runs = p.most * (3 * imin(p.width, p.width // g.OW + 2) + 1)  # rows met by a panel, with zeros on both sides
    p.panels_bytes = aligned(p.most * p.depth * p.width * sizeof(real))
    p.offset_bytes = aligned(2 * p.depth * sizeof(index))
    p.in_place = taps == 1 and g.SW == 1 and s.w == 1 and g.PT == 0 and g.PL == 0 and g.OH == 1 and g.H == 1 and tiles <= IN_PLACE_TILES
    p.runs_bytes = aligned((taps + 1) * (3 * p.runs + 1) * sizeof(index))
    p.tile_bytes = aligned(p.mr * p.width * sizeof(real))
    p.worker_bytes = p.panels_bytes + p.offset_bytes + p.runs_bytes + p.tile_bytes
    return p


cdef inline index add_run(index* runs, index count, index source, index to, index n) noexcept nogil:
    runs[3 * count], runs[3 * count + 1], runs[3 * count + 2] = source, to, n
    return count + 1


cdef index find_runs(Geometry* g, const Plan* p, View s, index kh, index kw, index first, index panels, bint ahead, index* runs) noexcept nogil:
    """The runs of input pixels that one tap meets in a strip of panels, rows of the image and zeros; returns how many. Lanes beyond the last pixel get zeros. Panels that are
    read in place are left out, but where the pixels are only to be asked for (`ahead`)."""
    cdef index panel, lane, pixel, n, oh, ow, length, h, w0, low, high, count = 0, to, size = g.OH * g.OW
    for panel in range(panels):
        lane, to = 0, panel * p.depth * p.width
        if p.in_place and (first + panel) * p.width % size + p.width <= size and not ahead:
            continue
        while lane < p.width:
            pixel = (first + panel) * p.width + lane
            if pixel >= p.total:
                count = add_run(runs, count, 0, to + lane, lane - p.width)
                break
            n, oh, ow = pixel // size, pixel % size // g.OW, pixel % g.OW
            length = imin(g.OW - ow, p.width - lane)
            h, w0 = oh * g.SH - g.PT + kh * g.DH, ow * g.SW - g.PL + kw * g.DW
            low = high = length  # the columns from low to high lie in the image
            if h >= 0 and h < g.H:
                low = imin(length, ceil_div(-w0, g.SW)) if w0 < 0 else 0
                high = imax(low, imin(length, ceil_div(g.W - w0, g.SW))) if w0 < g.W else low
            if low:
                count = add_run(runs, count, 0, to + lane, -low)
            if high > low:
                count = add_run(runs, count, n * s.n + h * s.h + (w0 + low * g.SW) * s.w, to + lane + low, high - low)
            if length > high:
                count = add_run(runs, count, 0, to + lane + high, high - length)
            lane += length
    return count


cdef inline void expect(const fc_isa* kernels, const real* x, View s, index SW, const index* runs, index count, index channels) noexcept nogil:
    if real is float:
        kernels.f32.expect_runs(x, s.c, SW * s.w, runs, count, channels)
    else:
        kernels.f64.expect_runs(x, s.c, SW * s.w, runs, count, channels)


cdef void run_item(const fc_isa* kernels, Geometry* g, const Plan* p, index item, const real* x, View s, const real* w, const real* bias, real* y,
                   char* scratch) noexcept nogil:
    cdef index part = item % p.parts, strip = item // p.parts % p.strips, group = item // (p.parts * p.strips), first = strip * p.panels // p.strips
    cdef index panels = (strip + 1) * p.panels // p.strips - first, taps = g.KH * g.KW, size = g.OH * g.OW, row = g.Cg * taps
    cdef index tiles = ceil_div(g.Og, p.mr), t, c0, channels, kh, kw, k, o, panel, pixel, pixels
    cdef real* panel0 = <real*>scratch
    cdef index* offset = <index*>(scratch + p.panels_bytes)
    cdef index* plane_offset = offset + p.depth
    cdef index* runs = <index*>(scratch + p.panels_bytes + p.offset_bytes)
    cdef index* next_runs = runs + taps * 3 * p.runs
    cdef index* counts = next_runs + 3 * p.runs
    cdef index next_strip = (item + 1) // p.parts % p.strips, next_first = next_strip * p.panels // p.strips, next_count = 0, next_channels, share0, share1
    cdef real* tile = <real*>(scratch + p.panels_bytes + p.offset_bytes + p.runs_bytes)
    cdef real* at
    cdef const real* source
    cdef const real* next_source
    cdef const real* rows
    cdef const real* b
    cdef const real* lies  # the panel's first pixels, and how far behind them those of the other channels and taps are
    cdef const index* steps
    cdef int m, nv, last
    cdef bint whole
    for k in range(p.depth):
        offset[k] = k * p.width
        plane_offset[k] = k * s.c
    for kh in range(g.KH):
        for kw in range(g.KW):
            k = kh * g.KW + kw
            counts[k] = find_runs(g, p, s, kh, kw, first, panels, False, runs + k * 3 * p.runs)
    if (item + 1) % p.chunk and item + 1 < p.items and (part + 1 == p.parts):
        next_count = find_runs(g, p, s, g.KH // 2, g.KW // 2, next_first, (next_strip + 1) * p.panels // p.strips - next_first, True, next_runs)
    c0 = 0
    while c0 < g.Cg:
        channels = imin(p.channels, g.Cg - c0)
        source = x + (group * g.Cg + c0) * s.c
        if c0 + channels < g.Cg:
            next_source, next_channels = source + channels * s.c, imin(p.channels, g.Cg - c0 - channels)
        else:
            next_source, next_channels = x + (item + 1) // (p.parts * p.strips) * g.Cg * s.c, p.channels if next_count else 0
        for k in range(taps):
            if real is float:
                kernels.f32.gather_runs(source, s.c, g.SW * s.w, runs + k * 3 * p.runs, counts[k], panel0 + k * p.width, taps * p.width, channels)
            else:
                kernels.f64.gather_runs(source, s.c, g.SW * s.w, runs + k * 3 * p.runs, counts[k], panel0 + k * p.width, taps * p.width, channels)
        for t in range(part * tiles // p.parts, (part + 1) * tiles // p.parts):
            o = group * g.Og + t * g.Og // tiles  # even tiles: 10 channels are 5 + 5, not 8 + 2
            m = <int>(group * g.Og + (t + 1) * g.Og // tiles - o)
            b = bias + o if bias != NULL else NULL
            rows = w + o * row + c0 * taps
            for panel in range(panels):
                pixel = (first + panel) * p.width
                pixels = imin(p.width, p.total - pixel)
                nv = <int>ceil_div(pixels, p.lanes)
                last = <int>(pixels - (nv - 1) * p.lanes)
                whole = pixel % size + pixels <= size  # of one image
                at = y + (pixel // size * g.O + o) * size + pixel % size
                if not whole and c0:
                    move_tile(g, p, y, o, m, pixel, pixels, tile, True)
                if p.in_place and whole and pixels == p.width:
                    lies, steps = source + pixel // size * s.n + pixel % size, plane_offset
                else:
                    lies, steps = panel0 + panel * p.depth * p.width, offset
                if real is float:
                    kernels.f32.planes(rows, row, b, lies, steps, channels * taps, p.lanes, c0 > 0, at if whole else tile, size if whole else p.width, p.lanes, p.lanes, last,
                                       m, nv)
                else:
                    kernels.f64.planes(rows, row, b, lies, steps, channels * taps, p.lanes, c0 > 0, at if whole else tile, size if whole else p.width, p.lanes, p.lanes, last,
                                       m, nv)
                if not whole:
                    move_tile(g, p, y, o, m, pixel, pixels, tile, False)
            share0, share1 = t * next_channels // tiles, (t + 1) * next_channels // tiles
            if c0 + channels < g.Cg:
                expect(kernels, next_source + share0 * s.c, s, g.SW, runs + (taps // 2) * 3 * p.runs, counts[taps // 2], share1 - share0)
            else:
                expect(kernels, next_source + share0 * s.c, s, g.SW, next_runs, next_count, share1 - share0)
        c0 += channels


cdef void move_tile(Geometry* g, const Plan* p, real* y, index o, int m, index pixel, index pixels, real* tile, bint back) noexcept nogil:
    """Between a tile of sums and the planes of the images that its pixels belong to."""
    cdef index lane = 0, length, i, size = g.OH * g.OW
    cdef real* at
    while lane < pixels:
        length = imin(size - (pixel + lane) % size, pixels - lane)
        at = y + ((pixel + lane) // size * g.O + o) * size + (pixel + lane) % size
        for i in range(m):
            if back:
                memcpy(tile + i * p.width + lane, at + i * size, length * sizeof(real))
            else:
                memcpy(at + i * size, tile + i * p.width + lane, length * sizeof(real))
        lane += length


cdef cnp.ndarray convolve(Geometry* g, cnp.ndarray input, cnp.ndarray weight, object bias, bint flipped, object given, real* tag):
    cdef const fc_isa* kernels = active_isa()
    cdef cnp.ndarray output = given if given is not None else empty4(g.N, g.O, g.OH, g.OW, cnp.PyArray_TYPE(input), False), w = cnp.PyArray_GETCONTIGUOUS(weight), bias_array
    if output.size == 0:
        return output
    cdef View s = view_of(input)
    if g.KH == 1 and g.KW == 1 and g.SH == 1 and g.SW == 1 and g.OH == g.H and g.OW == g.W and g.PT == 0 and g.PL == 0 and s.h == g.W * s.w:
        g.W, g.OW, g.H, g.OH = g.W * g.H, g.OW * g.OH, 1, 1  # whole planes are one long row
    cdef Plan plan = make_plan(kernels, g, s, <real*>NULL)
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
            for item in prange(plan.items, schedule="dynamic", chunksize=plan.chunk):
                run_item(kernels, g, &plan, item, x, s, weights, b, y, scratch + threadid() * plan.worker_bytes)
    release(arena)
    return output


def conv2d(cnp.ndarray input, cnp.ndarray weight, bias, stride, padding, dilation, index groups, out=None):
    """Any strides of the input's memory; the result is C-contiguous."""
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
