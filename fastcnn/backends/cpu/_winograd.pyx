# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Winograd convolution F(4x4, 3x3): forward, input gradient and weight gradient in float32. `_winograd_tiles.pyx` explains the steps.

An item is a block of tiles: it transforms its pixels, multiplies each of the 36 planes with its frequency of the weights, and transforms the products back. For T tiles
the planes take 36 * T * (C + O) floats; with BLOCK_BYTES they stay in L2, where the 36 products read and write them. Layers whose transformed weights do not fit
the caches beside that, and that have few tiles to use them for, go to `_winograd_deep.pyx`.

Next to a batch normalisation the driver does part of its work on data that are in the cache anyhow. `before` (a `_norm.Following`) is applied to what is loaded: the
normalised input is never stored. `statistics` (another one) receives those of the output: a block is made of whole pieces of `_norm.pyx`, so they are the same bits.
"""
cimport numpy as cnp
from cython.parallel cimport parallel, prange, threadid

from fastcnn.backends.cpu._arrays cimport empty4, is_channels_last, view_of
from fastcnn.backends.cpu._kernels cimport fc_isa
from fastcnn.backends.cpu._layout cimport Geometry, View, aligned, ceil_div, imax, imin, index, load_rows
from fastcnn.backends.cpu._norm cimport Following, Layout, Pieces, piece_statistics
from fastcnn.backends.cpu._panels cimport Panels, first_vector, make_panels, panel_elements
from fastcnn.backends.cpu._runtime cimport Arena, acquire, active_isa, fc_use_pool, pool, release, reserve, thread_count
from fastcnn.backends.cpu._winograd_deep cimport DeepGradPlan, DeepPlan, convolve_deep, grad_weight_deep, is_deep, make_deep_grad_plan, make_deep_plan
from fastcnn.backends.cpu._winograd_tiles cimport (FREQUENCIES, MOST_ROWS, PLANE_PAD, TILE, WEIGHT_ROWS, Blocks, Image, Normalised, cut, multiply, normalised_by, place,
                                                   store_block, transform_input, transform_weights, weight_gradient)

cnp.import_array()
fc_use_pool(pool())

cdef enum:
    BLOCK_BYTES = 600 * 1024    # planes of a block
    LEAST_TILES = 16            # two full register tiles of rows
    MOST_TILES = 64
    GRAD_TILES = 64             # tiles of a strip in the weight gradient: each reads and writes all of the transformed gradient once
    PARTIAL_BYTES = 8 * 1024 * 1024
    MOST_SLOTS = 4
    DEEP_TILES = 128            # up to which _winograd_deep.pyx is faster, if there are weights enough
    DEEP_GRAD_TILES = 256
    SLOT_TILES = 32             # fewer would not pay for clearing and adding a transformed gradient of their own


cdef struct Plan:
    Blocks blocks
    int threads
    bint last
    index line       # channels of an input plane's row, whole vectors
    index plane      # between input planes
    index out_plane  # between output planes
    size_t strip_bytes
    size_t planes_bytes
    size_t out_bytes
    size_t image_bytes
    size_t worker_bytes


cdef Plan make_plan(const fc_isa* kernels, Geometry* g, const Panels* panels, bint last) noexcept nogil:
    cdef Plan p
    cdef index lanes = kernels.f32.lanes, width = panels.nvec * lanes
    cdef index most = BLOCK_BYTES // (FREQUENCIES * <index>sizeof(float) * (g.C + g.O)) // MOST_ROWS * MOST_ROWS
    cdef double flops = 2.0 * g.N * ceil_div(g.OH, TILE) * ceil_div(g.OW, TILE) * FREQUENCIES * g.C * g.O
    p.last = last
    p.threads = thread_count(flops, 1 << 20)
    p.blocks = cut(g, imin(MOST_TILES, imax(LEAST_TILES, most)), 2 * p.threads if p.threads > 1 else 1)
    p.threads = thread_count(flops, p.blocks.count)
    p.line = ceil_div(g.C, lanes) * lanes
    p.plane = p.blocks.tiles * p.line + PLANE_PAD
    p.out_plane = p.blocks.tiles * width + PLANE_PAD
    p.strip_bytes = aligned(p.blocks.strip * sizeof(float))
    p.planes_bytes = aligned(FREQUENCIES * p.plane * sizeof(float))
    p.out_bytes = aligned(FREQUENCIES * p.out_plane * sizeof(float))
    p.image_bytes = 0 if last else aligned(p.blocks.rows * p.blocks.cols * TILE * TILE * g.O * sizeof(float))
    p.worker_bytes = p.strip_bytes + p.planes_bytes + p.out_bytes + p.image_bytes
    return p


cdef void run_block(const fc_isa* kernels, Geometry* g, const Plan* p, index block, const float* x, View sx, const Panels* panels, const float* weights,
                    index weight_plane, const Normalised* before, const Pieces* pieces, const Image* y, char* scratch) noexcept nogil:
    cdef index n0, images, r0, rows, c0, cols, n, h, f, i, at, across, wide = panels.nvec * panels.lanes
    cdef float* strip = <float*>scratch
    cdef float* planes = <float*>(scratch + p.strip_bytes)
    cdef float* products = <float*>(scratch + p.strip_bytes + p.planes_bytes)
    cdef float* image = <float*>(scratch + p.strip_bytes + p.planes_bytes + p.out_bytes)
    place(&p.blocks, g, block, &n0, &images, &r0, &rows, &c0, &cols)
    for n in range(images):
        transform_input(kernels, g, before, x, sx, n0 + n, r0, rows, c0, cols, strip, planes + n * rows * cols * p.line, p.line, p.plane)
    for f in range(FREQUENCIES):
        for i in range(panels.count):
            at = first_vector(panels, i) * panels.lanes
            across = first_vector(panels, i + 1) * panels.lanes - at
            multiply(kernels, planes + f * p.plane, p.line, images * rows * cols, g.C, weights + f * weight_plane + at * g.C, across, False,
                     products + f * p.out_plane + at, wide)
    store_block(kernels, g, &p.blocks, block, products, p.out_plane, wide, 0, g.O, y, image)
    if pieces != NULL:
        for n in range(n0, n0 + images):
            for h in range(r0 * TILE // pieces.layout.rows, ceil_div(imin((r0 + rows) * TILE, g.OH), pieces.layout.rows)):
                piece_statistics[float](kernels, pieces, n * pieces.layout.strips + h, y.data)


cdef class Packed:
    """Transformed weights, for calls to come: inference transforms them once. Holds what they were at that time."""
    cdef Arena arena
    cdef str isa

    @property
    def nbytes(self):
        return self.arena.size


def pack(cnp.ndarray weight):
    """weight (O, C, 3, 3) for `packed=` of conv2d."""
    cdef const fc_isa* kernels = active_isa()
    cdef Packed p = Packed()
    cdef cnp.ndarray w = cnp.PyArray_GETCONTIGUOUS(weight)
    cdef Panels panels = make_panels(kernels, w.shape[1], w.shape[0], <float*>NULL)
    cdef index weight_plane = panel_elements(&panels) + PLANE_PAD
    p.arena, p.isa = reserve(aligned(FREQUENCIES * weight_plane * sizeof(float))), kernels.name.decode()
    with nogil:
        transform_weights(kernels, &panels, <const float*>cnp.PyArray_DATA(w), False, <float*>p.arena.base, weight_plane, 1)
    return p


cdef bint holds_whole_pieces(const Blocks* b, const Layout* s) noexcept:
    """Do the blocks consist of whole pieces of the normalisation behind them?"""
    return b.cols == b.TW and (b.rows == b.TH or b.rows * TILE % s.rows == 0)


cdef cnp.ndarray convolve(Geometry* g, cnp.ndarray input, cnp.ndarray weight, object bias, bint flipped, object given, object ready, Following before,
                          Following statistics):
    cdef const fc_isa* kernels = active_isa()
    cdef bint last = is_channels_last(input if given is None else given)
    cdef cnp.ndarray output = given if given is not None else empty4(g.N, g.O, g.OH, g.OW, cnp.NPY_FLOAT, last), w = cnp.PyArray_GETCONTIGUOUS(weight), bias_array
    if output.size == 0:
        return output
    cdef Panels panels = make_panels(kernels, g.C, g.O, <float*>NULL)
    cdef index weight_plane = panel_elements(&panels) + PLANE_PAD, block
    cdef const float* x = <const float*>cnp.PyArray_DATA(input)
    cdef View sx = view_of(input)
    cdef Normalised normalised = normalised_by(before, input)
    cdef Image y
    y.data, y.last, y.bias = <float*>cnp.PyArray_DATA(output), last, NULL
    if bias is not None:
        bias_array = cnp.PyArray_GETCONTIGUOUS(bias)
        y.bias = <const float*>cnp.PyArray_DATA(bias_array)
    cdef float* weights = NULL
    if ready is not None:
        if (<Packed>ready).isa != kernels.name.decode():
            raise RuntimeError(f"weights were transformed for {(<Packed>ready).isa}, the instruction set is {kernels.name.decode()} now")
        weights = <float*>(<Packed>ready).arena.base
    cdef Arena arena
    cdef DeepPlan deep
    if is_deep(g, DEEP_TILES):
        deep = make_deep_plan(kernels, g, &panels, last)
        arena = acquire(deep.bytes)
        with nogil:
            convolve_deep(kernels, g, &deep, x, sx, &panels, <const float*>cnp.PyArray_DATA(w), flipped, weights, weight_plane, &normalised, &y, arena.base)
        release(arena)
        return output
    cdef Plan plan = make_plan(kernels, g, &panels, last)
    cdef size_t weight_bytes = aligned(FREQUENCIES * weight_plane * sizeof(float)) if weights == NULL else 0
    arena = acquire(weight_bytes + plan.threads * plan.worker_bytes)
    cdef char* scratch = arena.base + weight_bytes
    cdef Pieces of_output
    cdef Pieces* pieces = NULL
    if statistics is not None and last and holds_whole_pieces(&plan.blocks, &statistics.s):
        of_output = statistics.pieces()
        pieces = &of_output
        statistics.counted = True
    with nogil:
        if weights == NULL:
            weights = <float*>arena.base
            transform_weights(kernels, &panels, <const float*>cnp.PyArray_DATA(w), flipped, weights, weight_plane, plan.threads)
        if plan.threads == 1:
            for block in range(plan.blocks.count):
                run_block(kernels, g, &plan, block, x, sx, &panels, weights, weight_plane, &normalised, pieces, &y, scratch)
        else:
            with parallel(num_threads=plan.threads):
                for block in prange(plan.blocks.count, schedule="dynamic", chunksize=1):
                    run_block(kernels, g, &plan, block, x, sx, &panels, weights, weight_plane, &normalised, pieces, &y, scratch + threadid() * plan.worker_bytes)
    release(arena)
    return output


cdef Geometry geometry(index N, index C, index H, index W, index O, index OH, index OW, index PT, index PL) noexcept:
    cdef Geometry g
    g.N, g.C, g.H, g.W, g.O, g.OH, g.OW, g.PT, g.PL = N, C, H, W, O, OH, OW, PT, PL
    g.KH, g.KW, g.SH, g.SW, g.DH, g.DW, g.G, g.Cg, g.Og = 3, 3, 1, 1, 1, 1, 1, C, O
    return g


def conv2d(cnp.ndarray input, cnp.ndarray weight, bias, stride, padding, dilation, index groups, out=None, packed=None, Following before=None, Following statistics=None):
    cdef index PT, PB, PL, PR
    (PT, PB), (PL, PR) = padding
    cdef Geometry g = geometry(input.shape[0], input.shape[1], input.shape[2], input.shape[3], weight.shape[0], input.shape[2] + PT + PB - 2,
                               input.shape[3] + PL + PR - 2, PT, PL)
    return convolve(&g, input, weight, bias, False, out, packed, before, statistics)


def conv2d_grad_input(cnp.ndarray grad_output, cnp.ndarray weight, input_shape, stride, padding, dilation, index groups, out=None):
    """grad_output, padded by 2 - P, convolved with the flipped kernel, channels exchanged."""
    cdef index PT, PB, PL, PR
    (PT, PB), (PL, PR) = padding
    cdef Geometry g = geometry(input_shape[0], grad_output.shape[1], grad_output.shape[2], grad_output.shape[3], input_shape[1], input_shape[2], input_shape[3], 2 - PT, 2 - PL)
    return convolve(&g, grad_output, weight, None, True, out, None, None, None)


# ---- weight gradient: dU[f] = V[f]^T D[f] over all tiles, then G^T dU G

cdef struct GradPlan:
    Blocks blocks
    int threads
    index slots
    index parts         # parts of the panels: a job is a slot and a part
    index line
    index plane
    index grad_plane
    index slot_plane    # between the frequencies of a transformed gradient
    size_t strip_bytes
    size_t planes_bytes
    size_t grad_bytes
    size_t grad_strip_bytes
    size_t worker_bytes


cdef GradPlan make_grad_plan(const fc_isa* kernels, Geometry* g, const Panels* panels) noexcept nogil:
    cdef GradPlan p
    cdef double flops = 2.0 * g.N * ceil_div(g.OH, TILE) * ceil_div(g.OW, TILE) * FREQUENCIES * g.C * g.O
    cdef index lanes = kernels.f32.lanes, width = panels.nvec * lanes, slot_bytes, tiles = g.N * ceil_div(g.OH, TILE) * ceil_div(g.OW, TILE)
    # nothing here but the number of threads may depend on the number of threads: the cut decides the order of summation
    p.blocks = cut(g, GRAD_TILES, imax(1, imin(MOST_SLOTS, tiles // SLOT_TILES)))
    p.slot_plane = g.C * width + PLANE_PAD
    slot_bytes = FREQUENCIES * p.slot_plane * <index>sizeof(float)
    p.slots = imin(p.blocks.count, imax(1, imin(MOST_SLOTS, PARTIAL_BYTES // slot_bytes)))
    # parts transform the same input again, but do not touch the order of summation: as few as keep the threads busy
    p.parts = imin(panels.count, ceil_div(2 * thread_count(flops, 1 << 20), p.slots))
    p.threads = thread_count(flops, p.slots * p.parts)
    p.line = ceil_div(g.C, lanes) * lanes
    p.plane = p.blocks.tiles * p.line + PLANE_PAD
    p.grad_plane = p.blocks.tiles * width + PLANE_PAD
    p.strip_bytes = aligned(p.blocks.strip * sizeof(float))
    p.planes_bytes = aligned(FREQUENCIES * p.plane * sizeof(float))
    p.grad_bytes = aligned(FREQUENCIES * p.grad_plane * sizeof(float))
    p.grad_strip_bytes = aligned(p.blocks.rows * p.blocks.cols * TILE * TILE * g.O * sizeof(float))
    p.worker_bytes = p.strip_bytes + p.planes_bytes + p.grad_bytes + p.grad_strip_bytes
    return p


cdef void run_job(const fc_isa* kernels, Geometry* g, const GradPlan* p, index job, const Normalised* before, const float* x, View sx, const float* grad, View sg, const Panels* panels,
                  float* partials, char* scratch) noexcept nogil:
    cdef index part = job % p.parts, slot = job // p.parts, v0 = part * panels.count // p.parts, v1 = (part + 1) * panels.count // p.parts
    cdef index first = first_vector(panels, v0) * panels.lanes, wide = first_vector(panels, v1) * panels.lanes - first, channels = imin(wide, g.O - first)
    cdef index width = panels.nvec * panels.lanes, block, n0, images, r0, rows, c0, cols, n, r, c, f, i, k, at, height, across, g_row, g_pixel
    cdef float* strip = <float*>scratch
    cdef float* planes = <float*>(scratch + p.strip_bytes)
    cdef float* grads = <float*>(scratch + p.strip_bytes + p.planes_bytes)
    cdef float* grad_strip = <float*>(scratch + p.strip_bytes + p.planes_bytes + p.grad_bytes)
    cdef float* out = partials + slot * FREQUENCIES * p.slot_plane + first
    cdef const float* gb
    cdef float* rows_at[MOST_ROWS]
    cdef int j, m, mr = kernels.f32.mr, later = 0
    for block in range(slot * p.blocks.count // p.slots, (slot + 1) * p.blocks.count // p.slots):
        place(&p.blocks, g, block, &n0, &images, &r0, &rows, &c0, &cols)
        height, across = imin(rows * TILE, g.OH - r0 * TILE), imin(cols * TILE, g.OW - c0 * TILE)
        for n in range(images):
            transform_input(kernels, g, before, x, sx, n0 + n, r0, rows, c0, cols, strip, planes + n * rows * cols * p.line, p.line, p.plane)
            gb = grad + (n0 + n) * sg.n + r0 * TILE * sg.h + c0 * TILE * sg.w + first * sg.c
            g_row, g_pixel = sg.h, sg.w
            if sg.c != 1:
                load_rows(kernels, gb, sg, channels, height, across, 0, height, 0, across, grad_strip)
                gb, g_row, g_pixel = grad_strip, across * channels, channels
            for r in range(rows):
                for c in range(cols):
                    kernels.winograd.grad(gb + r * TILE * g_row + c * TILE * g_pixel, g_row, g_pixel, <int>imin(TILE, height - r * TILE),
                                          <int>imin(TILE, across - c * TILE), channels, grads + ((n * rows + r) * cols + c) * wide, p.grad_plane)
        for f in range(FREQUENCIES):
            for i in range(v0, v1):
                at = first_vector(panels, i) * panels.lanes
                k = 0
                while k < g.C:
                    m = <int>imin(mr, g.C - k)
                    for j in range(mr):
                        rows_at[j] = planes + f * p.plane + k + (j if j < m else m - 1)
                    kernels.f32.tile_outer(rows_at, p.line, 0, 0, grads + f * p.grad_plane + at - first, wide, 0, 0, images * rows * cols, 1, 1, later,
                                           out + f * p.slot_plane + k * width + at - first, width, m, <int>(first_vector(panels, i + 1) - first_vector(panels, i)))
                    k += mr
        later = 1


cdef void finish(const fc_isa* kernels, Geometry* g, const GradPlan* p, const Panels* panels, float* partials, float* gw) noexcept nogil:
    """Add the slots in order, transform back, and (C, 9, O) -> (O, C, 9)."""
    cdef index blocks = ceil_div(g.C, WEIGHT_ROWS), i
    for i in prange(blocks, num_threads=p.threads, schedule="static"):
        finish_block(kernels, g, p, panels, i * WEIGHT_ROWS, imin(g.C, (i + 1) * WEIGHT_ROWS), partials, gw)


cdef void finish_block(const fc_isa* kernels, Geometry* g, const GradPlan* p, const Panels* panels, index c0, index c1, float* partials, float* gw) noexcept nogil:
    cdef index width = panels.nvec * panels.lanes, size = FREQUENCIES * p.slot_plane, f, i, slot
    cdef float* total
    cdef const float* part
    for f in range(FREQUENCIES):
        total = partials + f * p.slot_plane + c0 * width
        for slot in range(1, p.slots):
            part = total + slot * size
            for i in range((c1 - c0) * width):
                total[i] += part[i]
    weight_gradient(kernels, partials + c0 * width, p.slot_plane, width, c1 - c0, g.O, g.C, gw + c0 * 9)


def conv2d_grad_weight(cnp.ndarray grad_output, cnp.ndarray input, weight_shape, stride, padding, dilation, index groups, out=None, Following before=None):
    cdef index PT, PB, PL, PR, job
    (PT, PB), (PL, PR) = padding
    cdef Geometry g = geometry(input.shape[0], input.shape[1], input.shape[2], input.shape[3], grad_output.shape[1], grad_output.shape[2], grad_output.shape[3], PT, PL)
    cdef cnp.ndarray grad_weight = out if out is not None else empty4(g.O, g.C, 3, 3, cnp.NPY_FLOAT, False)
    if grad_output.size == 0:
        grad_weight.fill(0)
        return grad_weight
    cdef const fc_isa* kernels = active_isa()
    cdef Panels panels = make_panels(kernels, g.C, g.O, <float*>NULL)
    cdef View sx = view_of(input), sg = view_of(grad_output)
    cdef const float* x = <const float*>cnp.PyArray_DATA(input)
    cdef const float* gy = <const float*>cnp.PyArray_DATA(grad_output)
    cdef float* gw = <float*>cnp.PyArray_DATA(grad_weight)
    cdef Normalised normalised = normalised_by(before, input)
    cdef Arena arena
    cdef DeepGradPlan deep
    if is_deep(&g, DEEP_GRAD_TILES):
        deep = make_deep_grad_plan(kernels, &g, &panels)
        arena = acquire(deep.bytes)
        with nogil:
            grad_weight_deep(kernels, &g, &deep, &normalised, x, sx, gy, sg, &panels, gw, arena.base)
        release(arena)
        return grad_weight
    cdef GradPlan plan = make_grad_plan(kernels, &g, &panels)
    cdef size_t partial_bytes = aligned(plan.slots * FREQUENCIES * plan.slot_plane * sizeof(float))
    arena = acquire(partial_bytes + plan.threads * plan.worker_bytes)
    cdef float* partials = <float*>arena.base
    cdef char* scratch = arena.base + partial_bytes
    with nogil:
        if plan.threads == 1:
            for job in range(plan.slots * plan.parts):
                run_job(kernels, &g, &plan, job, &normalised, x, sx, gy, sg, &panels, partials, scratch)
        else:
            with parallel(num_threads=plan.threads):
                for job in prange(plan.slots * plan.parts, schedule="dynamic", chunksize=1):
                    run_job(kernels, &g, &plan, job, &normalised, x, sx, gy, sg, &panels, partials, scratch + threadid() * plan.worker_bytes)
        finish(kernels, &g, &plan, &panels, partials, gw)
    release(arena)
    return grad_weight
