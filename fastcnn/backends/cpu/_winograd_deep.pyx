# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Winograd convolution of layers with many weights and few tiles: 256 -> 256 channels at 4x4, 64 images, have 9.4 MB of transformed weights for 64 tiles.

`_winograd.pyx` transforms the weights once and reads all of them for each block of 16 tiles, which at such sizes takes longer than the products. Here it is the other way
round: first all tiles are transformed, into planes that stay in the last cache. Then an item is a panel of output channels and a block of up to 64 tiles. It transforms the
weights of its panel, LENGTH reduction rows at a time, multiplies the tiles with them while they are near, and adds to its products:

    weights 36 * 128 * 48 * 4 = 885 KB, products 36 * 64 * 48 * 4 = 442 KB: used up one after the other, frequency by frequency; tiles are read once per panel

So no transformed weight is written to memory. Transforming them again for each block of 64 tiles is 7 % of the products' work: 60 cycles per vector of weights against
64 tiles * 36 multiply-adds / 2 per cycle, shared by 16 lanes.

The weight gradient likewise: an item is a panel and WEIGHT_ROWS * ROW_BLOCKS channels, whose products (36, channels, panel) are transformed back before they leave L2.
Sums run over all tiles in one chain, in order.

Two threads, channels-last, forward / input gradient / weight gradient in ms, as `_winograd.pyx` does it and as here:

    64 x 256 -> 256 at 4x4     1.00 / 1.12 / 1.38     0.86 / 0.91 / 0.86
    16 x 512 -> 512 at 7x7     5.5  / 7.4  / 6.9      3.9  / 5.2  / 3.6
"""
cimport numpy as cnp
from cython.parallel cimport parallel, prange, threadid

from fastcnn.backends.cpu._kernels cimport fc_isa
from fastcnn.backends.cpu._layout cimport Geometry, View, aligned, ceil_div, imax, imin, index, load_rows
from fastcnn.backends.cpu._panels cimport Panels, first_vector
from fastcnn.backends.cpu._runtime cimport fc_use_pool, pool, thread_count
from fastcnn.backends.cpu._winograd_tiles cimport (FREQUENCIES, MOST_ROWS, PLANE_PAD, TILE, WEIGHT_ROWS, Image, Normalised, cut, multiply, place, store_block, transform_input,
                                                   transform_weight_block, weight_gradient)

cnp.import_array()
fc_use_pool(pool())

cdef enum:
    LEAST_WEIGHTS = 4 * 1024 * 1024  # bytes of transformed weights. Measured, two threads: 128 -> 128 channels (2.4 MB) 10 % slower here, 128 -> 256 (4.7 MB) equal, 512 -> 512 1.9 times faster
    MOST_TILES = 64                  # of a block
    LENGTH = 128                     # reduction rows whose weights are transformed at a time; of 32, 64, 128 and 256 the best: products are added up less often
    ROW_BLOCKS = 4


cdef bint is_deep(Geometry* g, index most_tiles) noexcept nogil:
    """Many weights for at most that many tiles?"""
    return FREQUENCIES * <index>sizeof(float) * g.C * g.O > LEAST_WEIGHTS and g.N * ceil_div(g.OH, TILE) * ceil_div(g.OW, TILE) <= most_tiles


cdef index widest(const Panels* panels) noexcept nogil:
    return ceil_div(panels.nvec, panels.count) * panels.lanes


cdef DeepPlan make_deep_plan(const fc_isa* kernels, Geometry* g, const Panels* panels, bint last) noexcept nogil:
    cdef DeepPlan p
    cdef double flops = 2.0 * g.N * ceil_div(g.OH, TILE) * ceil_div(g.OW, TILE) * FREQUENCIES * g.C * g.O
    p.blocks = cut(g, MOST_TILES, 1)
    p.threads = thread_count(flops, 1 << 20)
    p.group = imin(p.blocks.count, ceil_div(2 * p.threads, panels.count))
    p.threads = thread_count(flops, p.group * panels.count)
    p.length = imin(LENGTH, g.C)
    p.line = ceil_div(g.C, panels.lanes) * panels.lanes
    p.plane = p.blocks.tiles * p.line + PLANE_PAD
    p.width = widest(panels)
    p.weight_plane = p.length * p.width + PLANE_PAD
    p.out_plane = p.blocks.tiles * p.width + PLANE_PAD
    p.planes_bytes = aligned(FREQUENCIES * p.plane * sizeof(float))
    p.strip_bytes = aligned((TILE + 2) * (p.blocks.cols * TILE + 2) * g.C * sizeof(float))
    p.weight_bytes = aligned(FREQUENCIES * p.weight_plane * sizeof(float))
    p.out_bytes = aligned(FREQUENCIES * p.out_plane * sizeof(float))
    p.worker_bytes = p.strip_bytes + p.weight_bytes + p.out_bytes + (0 if last else aligned(p.blocks.rows * p.blocks.cols * TILE * TILE * p.width * sizeof(float)))
    p.bytes = p.group * p.planes_bytes + p.threads * p.worker_bytes
    return p


cdef void load_item(const fc_isa* kernels, Geometry* g, const DeepPlan* p, index first, index item, const Normalised* before, const float* x, View sx, float* planes,
                    float* strip) noexcept nogil:
    """One row of tiles of one image of a block."""
    cdef index n0, images, r0, rows, c0, cols, row = item % p.blocks.rows, image = item // p.blocks.rows % p.blocks.images, block = item // (p.blocks.rows * p.blocks.images)
    place(&p.blocks, g, first + block, &n0, &images, &r0, &rows, &c0, &cols)
    if image < images and row < rows:
        transform_input(kernels, g, before, x, sx, n0 + image, r0 + row, 1, c0, cols, strip,
                        planes + block * (p.planes_bytes // sizeof(float)) + (image * rows + row) * cols * p.line, p.line, p.plane)


cdef void panel_item(const fc_isa* kernels, Geometry* g, const DeepPlan* p, index first, index item, const float* planes, const Panels* panels, const float* w, bint flipped,
                     const float* packed, index packed_plane, const Image* y, char* scratch) noexcept nogil:
    cdef index panel = item % panels.count, block = item // panels.count, at = first_vector(panels, panel) * panels.lanes, k, row, f, length, plane
    cdef index wide = first_vector(panels, panel + 1) * panels.lanes - at, n0, images, r0, rows, c0, cols
    cdef float* transformed = <float*>(scratch + p.strip_bytes)
    cdef float* products = <float*>(scratch + p.strip_bytes + p.weight_bytes)
    cdef const float* weights
    planes += block * (p.planes_bytes // sizeof(float))
    place(&p.blocks, g, first + block, &n0, &images, &r0, &rows, &c0, &cols)
    k = 0
    while k < g.C:
        length = imin(p.length, g.C - k)
        if packed == NULL:
            row = k
            while row < k + length:
                transform_weight_block(kernels, panels, w, flipped, panel, row, imin(k + length, row + WEIGHT_ROWS), transformed + (row - k) * wide, p.weight_plane)
                row += WEIGHT_ROWS
            weights, plane = transformed, p.weight_plane
        else:
            weights, plane = packed + at * g.C + k * wide, packed_plane
        for f in range(FREQUENCIES):
            multiply(kernels, planes + f * p.plane + k, p.line, images * rows * cols, length, weights + f * plane, wide, k > 0, products + f * p.out_plane, wide)
        k += length
    store_block(kernels, g, &p.blocks, first + block, products, p.out_plane, wide, at, imin(wide, g.O - at), y,
                <float*>(scratch + p.strip_bytes + p.weight_bytes + p.out_bytes))


cdef void convolve_deep(const fc_isa* kernels, Geometry* g, const DeepPlan* p, const float* x, View sx, const Panels* panels, const float* w, bint flipped, const float* packed,
                        index packed_plane, const Normalised* before, const Image* y, char* scratch) noexcept nogil:
    cdef char* workers = scratch + p.group * p.planes_bytes
    cdef index first = 0, item, blocks
    while first < p.blocks.count:
        blocks = imin(p.group, p.blocks.count - first)
        with parallel(num_threads=p.threads):
            for item in prange(blocks * p.blocks.images * p.blocks.rows, schedule="dynamic", chunksize=4):
                load_item(kernels, g, p, first, item, before, x, sx, <float*>scratch, <float*>(workers + threadid() * p.worker_bytes))
        with parallel(num_threads=p.threads):
            for item in prange(blocks * panels.count, schedule="dynamic", chunksize=1):
                panel_item(kernels, g, p, first, item, <const float*>scratch, panels, w, flipped, packed, packed_plane, y, workers + threadid() * p.worker_bytes)
        first += blocks


# ---- weight gradient

cdef DeepGradPlan make_deep_grad_plan(const fc_isa* kernels, Geometry* g, const Panels* panels) noexcept nogil:
    cdef DeepGradPlan p
    cdef double flops = 2.0 * g.N * ceil_div(g.OH, TILE) * ceil_div(g.OW, TILE) * FREQUENCIES * g.C * g.O
    cdef index tiles = g.N * ceil_div(g.OH, TILE) * ceil_div(g.OW, TILE)
    p.blocks = cut(g, tiles, 1)
    p.threads = thread_count(flops, panels.count * ceil_div(g.C, ROW_BLOCKS * WEIGHT_ROWS))
    p.line, p.grad_line = ceil_div(g.C, panels.lanes) * panels.lanes, panels.nvec * panels.lanes
    p.plane, p.grad_plane = tiles * p.line + PLANE_PAD, tiles * p.grad_line + PLANE_PAD
    p.width = widest(panels)
    p.out_plane = ROW_BLOCKS * WEIGHT_ROWS * p.width + PLANE_PAD
    p.planes_bytes, p.grads_bytes = aligned(FREQUENCIES * p.plane * sizeof(float)), aligned(FREQUENCIES * p.grad_plane * sizeof(float))
    p.strip_bytes = aligned(imax((TILE + 2) * (p.blocks.TW * TILE + 2) * g.C, TILE * g.OW * g.O) * sizeof(float))
    p.worker_bytes = p.strip_bytes + aligned(FREQUENCIES * p.out_plane * sizeof(float))
    p.bytes = p.planes_bytes + p.grads_bytes + p.threads * p.worker_bytes
    return p


cdef void load_grad_item(const fc_isa* kernels, Geometry* g, const DeepGradPlan* p, index item, const Normalised* before, const float* x, View sx, const float* grad, View sg,
                         float* planes, float* grads, float* strip) noexcept nogil:
    """One row of tiles of one image: of the input and of grad_output."""
    cdef index n = item // p.blocks.TH, r = item % p.blocks.TH, c, height = imin(TILE, g.OH - r * TILE), g_row = sg.h, g_pixel = sg.w
    transform_input(kernels, g, before, x, sx, n, r, 1, 0, p.blocks.TW, strip, planes + item * p.blocks.TW * p.line, p.line, p.plane)
    grad += n * sg.n + r * TILE * sg.h
    if sg.c != 1:
        load_rows(kernels, grad, sg, g.O, height, g.OW, 0, height, 0, g.OW, strip)
        grad, g_row, g_pixel = strip, g.OW * g.O, g.O
    for c in range(p.blocks.TW):
        kernels.winograd.grad(grad + c * TILE * g_pixel, g_row, g_pixel, <int>height, <int>imin(TILE, g.OW - c * TILE), g.O,
                              grads + (item * p.blocks.TW + c) * p.grad_line, p.grad_plane)


cdef void outer_item(const fc_isa* kernels, Geometry* g, const DeepGradPlan* p, index item, const float* planes, const float* grads, const Panels* panels, float* products,
                     float* gw) noexcept nogil:
    cdef index panel = item % panels.count, c0 = item // panels.count * ROW_BLOCKS * WEIGHT_ROWS, channels = imin(ROW_BLOCKS * WEIGHT_ROWS, g.C - c0), f, k, tiles
    cdef index at = first_vector(panels, panel) * panels.lanes, wide = first_vector(panels, panel + 1) * panels.lanes - at
    cdef float* rows[MOST_ROWS]
    cdef int j, m, mr = kernels.f32.mr
    tiles = g.N * p.blocks.TH * p.blocks.TW
    for f in range(FREQUENCIES):
        k = 0
        while k < channels:
            m = <int>imin(mr, channels - k)
            for j in range(mr):
                rows[j] = <float*>planes + f * p.plane + c0 + k + (j if j < m else m - 1)
            kernels.f32.tile_outer(rows, p.line, 0, 0, grads + f * p.grad_plane + at, p.grad_line, 0, 0, tiles, 1, 1, 0, products + f * p.out_plane + k * wide, wide, m,
                                   <int>(wide // panels.lanes))
            k += mr
    k = 0
    while k < channels:
        weight_gradient(kernels, products + k * wide, p.out_plane, wide, imin(WEIGHT_ROWS, channels - k), imin(wide, g.O - at), g.C, gw + (at * g.C + c0 + k) * 9)
        k += WEIGHT_ROWS


cdef void grad_weight_deep(const fc_isa* kernels, Geometry* g, const DeepGradPlan* p, const Normalised* before, const float* x, View sx, const float* grad, View sg,
                           const Panels* panels, float* gw, char* scratch) noexcept nogil:
    cdef float* planes = <float*>scratch
    cdef float* grads = <float*>(scratch + p.planes_bytes)
    cdef char* workers = scratch + p.planes_bytes + p.grads_bytes
    cdef index item
    with parallel(num_threads=p.threads):
        for item in prange(g.N * p.blocks.TH, schedule="dynamic", chunksize=4):
            load_grad_item(kernels, g, p, item, before, x, sx, grad, sg, planes, grads, <float*>(workers + threadid() * p.worker_bytes))
    with parallel(num_threads=p.threads):
        for item in prange(panels.count * ceil_div(g.C, ROW_BLOCKS * WEIGHT_ROWS), schedule="dynamic", chunksize=1):
            outer_item(kernels, g, p, item, planes, grads, panels, <float*>(workers + threadid() * p.worker_bytes + p.strip_bytes), gw)
