# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Winograd convolution F(4x4, 3x3), the parts of `_winograd.pyx` and `_winograd_deep.pyx`. csrc/kernels/winograd.inc holds the transforms and their derivation.

The output is cut into tiles of 4x4, these into blocks. The pixels under a block's tiles are loaded into zero-padded scratch (so padding, overhanging tiles and every
memory format are dealt with by the loader) and transformed into 36 planes (tiles, C), one per frequency. Weights become 36 panels (C, O). The 36 products of both,
planes (tiles, O), are transformed back and stored.

Planes are PLANE_PAD apart beyond their size: planes a power of two apart fall into the same few cache sets, which halves the speed.
"""
cimport numpy as cnp
from cython.parallel cimport prange
from libc.string cimport memset

from fastcnn.backends.cpu._arrays cimport view_of
from fastcnn.backends.cpu._kernels cimport fc_isa
from fastcnn.backends.cpu._layout cimport Geometry, View, ceil_div, imax, imin, index, load_rows
from fastcnn.backends.cpu._norm cimport Constants, Following
from fastcnn.backends.cpu._panels cimport Panels, first_vector
from fastcnn.backends.cpu._runtime cimport fc_use_pool, pool

cnp.import_array()
fc_use_pool(pool())


cdef Normalised normalised_by(Following before, cnp.ndarray input):
    cdef Normalised k
    cdef Constants c
    cdef View s
    k.op, k.slope, k.mean, k.scale, k.shift = -1, 0, NULL, NULL, NULL
    if before is not None:
        s = view_of(input)
        if s.w != input.shape[1] or (s.c != 1 and input.shape[1] != 1):
            raise ValueError("a normalisation is applied to rows of channels-last memory")
        c = before.constants()
        k.op, k.slope, k.mean, k.scale, k.shift = before.s.op, before.s.slope, <const float*>c.mean, <const float*>c.scale, <const float*>c.shift
    return k


cdef Blocks cut(Geometry* g, index most, index least_blocks) noexcept nogil:
    """Blocks of about `most` tiles: whole images if several fit, else rows of one image, else part of a row; smaller ones where there would be too few to share."""
    cdef Blocks b
    b.TH, b.TW = ceil_div(g.OH, TILE), ceil_div(g.OW, TILE)
    while True:
        b.cols = ceil_div(b.TW, ceil_div(b.TW, most))
        b.rows = imin(b.TH, imax(1, most // b.cols))
        b.rows = ceil_div(b.TH, ceil_div(b.TH, b.rows))
        b.images = imin(g.N, imax(1, most // (b.TH * b.TW))) if b.cols == b.TW and b.rows == b.TH else 1
        b.images = ceil_div(g.N, ceil_div(g.N, b.images))
        b.batches, b.row_blocks, b.col_blocks = ceil_div(g.N, b.images), ceil_div(b.TH, b.rows), ceil_div(b.TW, b.cols)
        b.count = b.batches * b.row_blocks * b.col_blocks
        if b.count >= least_blocks or most <= MOST_ROWS:
            break
        most = imax(MOST_ROWS, most // 2)
    b.tiles = b.images * b.rows * b.cols
    b.strip = (b.rows * TILE + 2) * (b.cols * TILE + 2) * g.C
    return b


cdef void place(const Blocks* b, Geometry* g, index block, index* n0, index* images, index* r0, index* rows, index* c0, index* cols) noexcept nogil:
    c0[0] = block % b.col_blocks * b.cols
    r0[0] = block // b.col_blocks % b.row_blocks * b.rows
    n0[0] = block // (b.col_blocks * b.row_blocks) * b.images
    cols[0], rows[0], images[0] = imin(b.cols, b.TW - c0[0]), imin(b.rows, b.TH - r0[0]), imin(b.images, g.N - n0[0])


cdef void load_normalised(const fc_isa* kernels, const Normalised* before, const float* x, View s, index C, index H, index W, index h0, index rows, index left, index width,
                          float* dst) noexcept nogil:
    """load_rows of channels-last memory, and the normalisation with its activation: padding stays zero."""
    cdef index r, h, first = imin(imax(left, 0), width), pixels = imin(W, width - first), line = width * C
    cdef float* d
    for r in range(rows):
        h = h0 + r
        d = dst + r * line
        if h < 0 or h >= H:
            memset(d, 0, line * sizeof(float))
            continue
        memset(d, 0, first * C * sizeof(float))
        kernels.f32.column_normalise(before.op, before.slope, x + h * s.h, before.mean, before.scale, before.shift, pixels, C, d + first * C)
        memset(d + (first + pixels) * C, 0, (width - first - pixels) * C * sizeof(float))


cdef void transform_input(const fc_isa* kernels, Geometry* g, const Normalised* before, const float* x, View sx, index n, index r0, index rows, index c0, index cols, float* strip,
                          float* planes, index line, index plane) noexcept nogil:
    """The tiles (r0.., c0..) of image n, as rows of the planes."""
    cdef index left = g.PL - c0 * TILE, width = cols * TILE + 2, depth = rows * TILE + 2, r, c
    cdef index skip = imax(0, -left)
    x += n * sx.n + skip * sx.w
    if before.mean == NULL:
        load_rows(kernels, x, sx, g.C, g.H, imax(0, g.W - skip), r0 * TILE - g.PT, depth, imax(0, left), width, strip)
    else:
        load_normalised(kernels, before, x, sx, g.C, g.H, imax(0, g.W - skip), r0 * TILE - g.PT, depth, imax(0, left), width, strip)
    for r in range(rows):
        for c in range(cols):
            kernels.winograd.input(strip + (r * TILE * width + c * TILE) * g.C, width * g.C, g.C, g.C, planes + (r * cols + c) * line, plane)


cdef void transform_weights(const fc_isa* kernels, const Panels* panels, const float* w, bint flipped, float* weights, index plane, int threads) noexcept nogil:
    """w (O, C, 3, 3) -> panels of each frequency. A block of filters and channels is turned in L1 so that the lanes are the panel's columns, and transformed from there.

    Rows of the panels are channels, columns filters; `flipped`, for the input gradient: rows are filters, columns channels, and the taps are reversed.
    """
    cdef index blocks = ceil_div(panels.k, WEIGHT_ROWS), item
    for item in prange(panels.count * blocks, num_threads=threads, schedule="static"):
        transform_weight_block(kernels, panels, w, flipped, item // blocks, item % blocks * WEIGHT_ROWS, imin(panels.k, (item % blocks + 1) * WEIGHT_ROWS),
                               weights + first_vector(panels, item // blocks) * panels.lanes * panels.k
                               + item % blocks * WEIGHT_ROWS * (first_vector(panels, item // blocks + 1) - first_vector(panels, item // blocks)) * panels.lanes, plane)


cdef void transform_weight_block(const fc_isa* kernels, const Panels* panels, const float* w, bint flipped, index panel, index row, index last, float* weights, index plane) noexcept nogil:
    """Rows row .. last - 1, at most WEIGHT_ROWS, of one panel, one behind the other at `weights`."""
    cdef float turned[WEIGHT_ROWS * 9 * MOST_LANES]
    cdef index lanes = panels.lanes, first = first_vector(panels, panel), after = first_vector(panels, panel + 1), wide = (after - first) * lanes
    cdef index v, at, n, r
    cdef float* out
    for v in range(first, after):
        at = v * lanes
        n = imin(lanes, panels.n - at)
        out = weights + at - first * lanes
        if flipped:
            for r in range(row, last):
                kernels.f32.transpose(w + (r * panels.n + at) * 9, 9, turned, lanes, n, 9, lanes)
                kernels.winograd.weight(turned + 8 * lanes, -lanes, lanes, out + (r - row) * wide, plane)
        else:
            kernels.f32.transpose(w + (at * panels.k + row) * 9, panels.k * 9, turned, lanes, n, (last - row) * 9, lanes)
            for r in range(row, last):
                kernels.winograd.weight(turned + (r - row) * 9 * lanes, lanes, lanes, out + (r - row) * wide, plane)


cdef void multiply(const fc_isa* kernels, const float* rows, index line, index tiles, index length, const float* panel, index wide, bint accumulate, float* out, index out_line) noexcept nogil:
    """out (tiles, wide) = rows (tiles, length) x panel (length, wide), added to what is there if `accumulate`: one frequency, one panel."""
    cdef float* row[MOST_ROWS]
    cdef float* outs[MOST_ROWS]
    cdef index t = 0, origin = 0, at
    cdef int j, m, mr = kernels.f32.mr, nv = <int>(wide // kernels.f32.lanes)
    while t < tiles:
        m = <int>imin(mr, tiles - t)
        for j in range(mr):
            at = t + (j if j < m else m - 1)
            row[j] = <float*>rows + at * line
            outs[j] = out + at * out_line
        kernels.f32.tile(row, &origin, 1, length, panel, NULL, accumulate, outs, m, nv, <int>wide)
        t += mr


cdef void store_block(const fc_isa* kernels, Geometry* g, const Blocks* b, index block, const float* products, index plane, index line, index first, index channels, const Image* y,
                      float* scratch) noexcept nogil:
    """Transform a block's products back: output channels first .. first + channels - 1, whose planes are `line` wide. `scratch`: an image of the block with these channels."""
    cdef index n0, images, r0, rows, c0, cols, n, r, c, h, w, height, width
    cdef const float* bias = y.bias
    cdef float* out
    if bias != NULL:
        bias += first
    place(b, g, block, &n0, &images, &r0, &rows, &c0, &cols)
    height, width = imin(rows * TILE, g.OH - r0 * TILE), imin(cols * TILE, g.OW - c0 * TILE)
    for n in range(n0, n0 + images):
        for r in range(rows):
            for c in range(cols):
                h, w = r * TILE, c * TILE
                if y.last:
                    out = y.data + ((n * g.OH + r0 * TILE + h) * g.OW + c0 * TILE + w) * g.O + first
                    kernels.winograd.output(products, plane, bias, out, g.OW * g.O, g.O, <int>imin(TILE, height - h), <int>imin(TILE, width - w), channels)
                else:
                    kernels.winograd.output(products, plane, bias, scratch + (h * width + w) * channels, width * channels, channels, <int>imin(TILE, height - h),
                                            <int>imin(TILE, width - w), channels)
                products += line
        if not y.last:
            out = y.data + ((n * g.O + first) * g.OH + r0 * TILE) * g.OW + c0 * TILE
            if width == g.OW:  # whole rows follow each other in the plane
                kernels.f32.transpose(scratch, channels, out, g.OH * g.OW, height * width, channels, height * width)
            else:
                for h in range(height):
                    kernels.f32.transpose(scratch + h * width * channels, channels, out + h * g.OW, g.OH * g.OW, width, channels, width)


cdef void weight_gradient(const fc_isa* kernels, const float* transformed, index plane, index line, index channels, index filters, index C, float* gw) noexcept nogil:
    """G^T dU G of at most WEIGHT_ROWS channels and any number of filters, (channels, filters) -> gw[o][c] of a weight with C channels."""
    cdef float turned[WEIGHT_ROWS * 9 * MOST_LANES]
    cdef index lanes = kernels.f32.lanes, o = 0, c
    while o < filters:
        for c in range(channels):
            kernels.winograd.weight_grad(transformed + c * line + o, plane, lanes, turned + c * 9 * lanes, lanes)
        kernels.f32.transpose(turned, lanes, gw + o * C * 9, C * 9, channels * 9, imin(lanes, filters - o), channels * 9)
        o += lanes
