# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Weight gradient of layers with many weights, by blocks of the gradient that stay in L2 while all images pass.

`_conv_grad_weight.pyx` holds a strip of the images in L2 and passes the whole gradient along it, strip after strip; a gradient of 10 MB (832 -> 128 channels, 5x5) then goes
through the caches for every 49 pixels. Here images are laid out first, as many as STAGE_BYTES hold: channels last, padded, only the pixels that the kernel meets, by all
threads. Then an item is a block of the gradient, all taps of some input channels times one panel of output channels, BLOCK_BYTES. It takes the pixels in chunks whose
grad_output, CHUNK_BYTES, stays in L1.

An input in C-contiguous memory without padding is read where it lies: the tile takes single elements of it, from any stride. Of a 1x1 layer that wants only one of
the two copied, it is the smaller one: with the roles of input and grad_output exchanged (`mirrored`) the same sums come out transposed, which is how they are stored anyway.

Each element is one sum over chunks in order, so neither threads nor their number can change a bit.
"""
cimport numpy as cnp
from cython.parallel cimport parallel, prange, threadid
from libc.string cimport memcpy, memset

from fastcnn.backends.cpu._kernels cimport fc_isa
from fastcnn.backends.cpu._layout cimport Geometry, View, aligned, ceil_div, imax, imin, index, load_row, load_rows, real
from fastcnn.backends.cpu._panels cimport Panels, first_vector
from fastcnn.backends.cpu._runtime cimport fc_use_pool, pool, thread_count

cnp.import_array()
fc_use_pool(pool())

cdef enum:
    STAGE_BYTES = 8 * 1024 * 1024
    BLOCK_BYTES = 128 * 1024
    CHUNK_BYTES = 24 * 1024
    LEAST_GRADIENT = 384 * 1024  # bytes; a smaller one stays in L2 as a whole, beside its strips
    PARTS = 4                    # of an image, to be laid out one by one
    MOST_ROWS = 8
    MOST_LANES = 16


cdef LargePlan make_large_plan(const fc_isa* kernels, Geometry* g, View sx, View sg, const Panels* panels, bint mirrored, real* tag) noexcept nogil:
    cdef LargePlan p
    p.mirrored = mirrored
    cdef index taps = g.KH * g.KW, wide = ceil_div(panels.nvec, panels.count) * panels.lanes, most, size = sizeof(real)
    p.mr = kernels.f32.mr if real is float else kernels.f64.mr
    p.direct_grad = sg.c == 1 and g.Og % panels.lanes == 0
    p.direct = (sx.c == 1 or sx.w == 1) and g.PT == 0 and g.PL == 0 and (g.OW - 1) * g.SW + (g.KW - 1) * g.DW < g.W and (g.OH - 1) * g.SH + (g.KH - 1) * g.DH < g.H
    if taps == 1 and not p.direct:  # one pixel of the input per output: the others are not copied
        p.depth, p.width, p.row_step, p.column_step = g.OH, g.OW, 1, 1
    else:
        p.depth, p.width, p.row_step, p.column_step = (g.OH - 1) * g.SH + (g.KH - 1) * g.DH + 1, (g.OW - 1) * g.SW + (g.KW - 1) * g.DW + 1, g.SH, g.SW
    p.image = 0 if p.direct else g.G * p.depth * p.width * g.Cg
    p.grad_image = 0 if p.direct_grad else g.G * g.OH * g.OW * panels.nvec * panels.lanes
    p.images = imin(g.N, imax(1, STAGE_BYTES // (imax(1, p.image + p.grad_image) * size)))
    p.images = ceil_div(g.N, ceil_div(g.N, p.images))
    most = imax(1, BLOCK_BYTES // (taps * wide * size) // p.mr) * p.mr
    p.blocks = ceil_div(g.Cg, imin(g.Cg, most))
    p.channels = imin(g.Cg, ceil_div(ceil_div(g.Cg, p.blocks), p.mr) * p.mr)
    p.blocks = ceil_div(g.Cg, p.channels)
    p.block = taps * p.channels * wide
    p.threads = thread_count(2.0 * g.N * g.OH * g.OW * panels.k * g.O, g.G * panels.count * p.blocks)
    p.x_bytes, p.grad_bytes = aligned(p.images * p.image * size), aligned(p.images * p.grad_image * size)
    p.worker_bytes = aligned(panels.lanes * taps * p.channels * size)
    p.bytes = p.x_bytes + p.grad_bytes + aligned(g.G * panels.count * p.blocks * p.block * size) + p.threads * p.worker_bytes
    return p


cdef bint is_large(const LargePlan* p, Geometry* g, const Panels* panels, real* tag) noexcept nogil:
    return (g.G * panels.k * panels.nvec * panels.lanes * <index>sizeof(real) > LEAST_GRADIENT
            and (p.image + p.grad_image) * <index>sizeof(real) <= STAGE_BYTES)


cdef void load_sampled(const fc_isa* kernels, Geometry* g, const real* x, View sx, index r0, index rows, real* dst) noexcept nogil:
    """The pixels that a 1x1 kernel meets, output rows r0 .. r0 + rows - 1."""
    cdef index r, h, line = g.OW * g.Cg, first = imin(g.OW, ceil_div(imax(0, g.PL), g.SW)), pixels
    cdef View s = sx
    cdef real* d
    s.w = g.SW * sx.w
    pixels = imax(0, imin(g.OW - first, ceil_div(g.W + g.PL - first * g.SW, g.SW)))
    for r in range(rows):
        h, d = (r0 + r) * g.SH - g.PT, dst + r * line
        if h < 0 or h >= g.H or pixels == 0:
            memset(d, 0, line * sizeof(real))
            continue
        memset(d, 0, first * g.Cg * sizeof(real))
        load_row(kernels, x + h * sx.h + (first * g.SW - g.PL) * sx.w, s, g.Cg, pixels, d + first * g.Cg)
        memset(d + (first + pixels) * g.Cg, 0, (g.OW - first - pixels) * g.Cg * sizeof(real))


cdef void load_grad(const fc_isa* kernels, const real* grad, View sg, index rows, index OW, index columns, index wide, real* dst) noexcept nogil:
    """dst[pixel][o] = grad[o, row, column] for o < columns, zero for columns <= o < wide."""
    cdef index r, w
    if sg.w == 1 and sg.h == OW:  # planes without gaps: one long row
        OW, rows = rows * OW, 1
    for r in range(rows):
        if sg.w == 1 and sg.c != 1:
            if real is float:
                kernels.f32.transpose(grad + r * sg.h, sg.c, dst + r * OW * wide, wide, columns, OW, wide)
            else:
                kernels.f64.transpose(grad + r * sg.h, sg.c, dst + r * OW * wide, wide, columns, OW, wide)
            continue
        for w in range(OW):
            load_row(kernels, grad + r * sg.h + w * sg.w, sg, columns, 1, dst + (r * OW + w) * wide)
            memset(dst + (r * OW + w) * wide + columns, 0, (wide - columns) * sizeof(real))


cdef void lay_out(const fc_isa* kernels, Geometry* g, const LargePlan* p, index item, const real* x, View sx, const real* grad, View sg, const Panels* panels, real* copies,
                  real* grads) noexcept nogil:
    """A part of the rows of one group of one image: of the input, and of grad_output."""
    cdef index part = item % PARTS, group = item // PARTS % g.G, n = item // (PARTS * g.G), ld = panels.nvec * panels.lanes, r0, rows
    cdef real* d
    if not p.direct:
        r0, rows = part * p.depth // PARTS, (part + 1) * p.depth // PARTS - part * p.depth // PARTS
        d = copies + n * p.image + (group * p.depth + r0) * p.width * g.Cg
        x += n * sx.n + group * g.Cg * sx.c
        if rows == 0:
            pass
        elif g.KH * g.KW == 1:
            load_sampled(kernels, g, x, sx, r0, rows, d)
        else:
            load_rows(kernels, x, sx, g.Cg, g.H, g.W, r0 - g.PT, rows, g.PL, p.width, d)
    if not p.direct_grad:
        r0, rows = part * g.OH // PARTS, (part + 1) * g.OH // PARTS - part * g.OH // PARTS
        load_grad(kernels, grad + n * sg.n + group * g.Og * sg.c + r0 * sg.h, sg, rows, g.OW, g.Og, ld, grads + n * p.grad_image + (group * g.OH + r0) * g.OW * ld)


cdef void add_block(const fc_isa* kernels, Geometry* g, const LargePlan* p, index item, const real* x, index x_image, index x_group, index x_channel, index x_row, index x_pixel, const real* grad,
                    index g_image, index g_group, index g_row, index g_pixel, index images, const Panels* panels, bint later, real* out) noexcept nogil:
    """One block of the gradient, of all images at hand: chunks of whole images, of rows, or of what memory holds as one long row."""
    cdef index panel = item % panels.count, group = item // panels.count % g.G, c0 = item // (panels.count * g.G) * p.channels, c1 = imin(g.Cg, c0 + p.channels)
    cdef index at = first_vector(panels, panel) * panels.lanes, wide = first_vector(panels, panel + 1) * panels.lanes - at, nv = wide // panels.lanes
    cdef index pixels = g.OW, rows = g.OH, across = p.column_step * x_pixel, down = p.row_step * x_row, most, i, r, some_rows, some_images
    x += group * x_group
    grad += group * g_group + at
    if down == pixels * across and g_row == pixels * g_pixel:
        pixels, rows = pixels * rows, 1
        if x_image == pixels * across and g_image == pixels * g_pixel:
            pixels, images = pixels * images, 1
    # chunks: a long row is cut into pieces that take the place of rows
    most = imax(1, CHUNK_BYTES // (wide * <index>sizeof(real)))
    if rows == 1 and pixels > 2 * most:
        for r in range(images):
            for i in range(ceil_div(pixels, most)):
                multiply_chunk(kernels, g, p, x + r * x_image + i * most * across, across, 0, 0, x_channel, x_row, x_pixel, grad + r * g_image + i * most * g_pixel, g_pixel, 0, 0,
                               imin(most, pixels - i * most), 1, 1, c0, c1, wide, nv, later or r > 0 or i > 0, out)
        return
    some_rows = imin(rows, imax(1, most // pixels))
    some_images = imax(1, most // (pixels * rows)) if some_rows == rows else 1
    i = 0
    while i < images:
        r = 0
        while r < rows:
            multiply_chunk(kernels, g, p, x + i * x_image + r * down, across, down, x_image, x_channel, x_row, x_pixel, grad + i * g_image + r * g_row, g_pixel, g_row, g_image, pixels,
                           imin(some_rows, rows - r), imin(some_images, images - i), c0, c1, wide, nv, later or i > 0 or r > 0, out)
            r += some_rows
        i += some_images


cdef void multiply_chunk(const fc_isa* kernels, Geometry* g, const LargePlan* p, const real* x, index across, index down, index x_image, index x_channel, index x_row, index x_pixel, const real* grad,
                         index g_pixel, index g_row, index g_image, index pixels, index rows, index images, index c0, index c1, index wide, index nv, bint later,
                         real* out) noexcept nogil:
    """out[tap][c][o] += sum over the chunk of x * grad: all taps, channels c0 .. c1 - 1, one panel."""
    cdef real* rows_at[MOST_ROWS]
    cdef const real* corner
    cdef index tap, c
    cdef int j, m
    for tap in range(g.KH * g.KW):
        corner = x + tap // g.KW * g.DH * x_row + tap % g.KW * g.DW * x_pixel
        c = c0
        while c < c1:
            m = <int>imin(p.mr, c1 - c)
            for j in range(p.mr):
                rows_at[j] = <real*>corner + (c + (j if j < m else m - 1)) * x_channel
            if real is float:
                kernels.f32.tile_outer(rows_at, across, down, x_image, grad, g_pixel, g_row, g_image, pixels, rows, images, later, out + (tap * p.channels + c - c0) * wide, wide,
                                       m, <int>nv)
            else:
                kernels.f64.tile_outer(rows_at, across, down, x_image, grad, g_pixel, g_row, g_image, pixels, rows, images, later, out + (tap * p.channels + c - c0) * wide, wide,
                                       m, <int>nv)
            c += p.mr


cdef void store_block(const fc_isa* kernels, Geometry* g, const LargePlan* p, index item, const real* block, const Panels* panels, real* gw, real* turned) noexcept nogil:
    """(taps, channels, panel) -> (O, C, taps), lane by lane of a vector: first the output channels outermost, then taps and channels exchanged."""
    cdef index panel = item % panels.count, group = item // panels.count % g.G, c0 = item // (panels.count * g.G) * p.channels, channels = imin(g.Cg - c0, p.channels)
    cdef index at = first_vector(panels, panel) * panels.lanes, wide = first_vector(panels, panel + 1) * panels.lanes - at, taps = g.KH * g.KW, o, i, n, tap
    cdef index rows = taps * p.channels
    cdef real* to
    if p.mirrored:
        for i in range(channels):
            memcpy(gw + (c0 + i) * g.Og + at, block + i * wide, imin(wide, g.Og - at) * sizeof(real))
        return
    o = 0
    while o < imin(wide, g.Og - at):
        n = imin(panels.lanes, g.Og - at - o)
        if real is float:
            kernels.f32.transpose(block + o, wide, turned, rows, rows, n, rows)
        else:
            kernels.f64.transpose(block + o, wide, turned, rows, rows, n, rows)
        for i in range(n):
            to = gw + ((group * g.Og + at + o + i) * g.Cg + c0) * taps
            if taps == 1:
                memcpy(to, turned + i * rows, channels * sizeof(real))
            elif real is float:
                kernels.f32.transpose(turned + i * rows, p.channels, to, taps, taps, channels, taps)
            else:
                kernels.f64.transpose(turned + i * rows, p.channels, to, taps, taps, channels, taps)
        o += panels.lanes


cdef void large_gradient(const fc_isa* kernels, Geometry* g, const LargePlan* p, const real* x, View sx, const real* grad, View sg, const Panels* panels, real* gw,
                         char* scratch) noexcept nogil:
    cdef real* copies = <real*>scratch
    cdef real* grads = <real*>(scratch + p.x_bytes)
    cdef real* blocks = <real*>(scratch + p.x_bytes + p.grad_bytes)
    cdef char* workers = scratch + p.bytes - p.threads * p.worker_bytes
    cdef index count = g.G * panels.count * p.blocks, n0 = 0, images, item, ld = panels.nvec * panels.lanes
    cdef index x_image = sx.n, x_group = g.Cg * sx.c, x_channel = sx.c, x_row = sx.h, x_pixel = sx.w, g_image = sg.n, g_group = g.Og, g_row = sg.h, g_pixel = sg.w
    cdef const real* xs
    cdef const real* gs
    if not p.direct:
        x_image, x_group, x_channel, x_row, x_pixel = p.image, p.depth * p.width * g.Cg, 1, p.width * g.Cg, g.Cg
    if not p.direct_grad:
        g_image, g_group, g_row, g_pixel = p.grad_image, g.OH * g.OW * ld, g.OW * ld, ld
    while n0 < g.N:
        images = imin(p.images, g.N - n0)
        xs, gs = x + n0 * sx.n, grad + n0 * sg.n
        if not (p.direct and p.direct_grad):
            with parallel(num_threads=p.threads):
                for item in prange(images * g.G * PARTS, schedule="dynamic", chunksize=1):
                    lay_out(kernels, g, p, item, xs, sx, gs, sg, panels, copies, grads)
        if not p.direct:
            xs = copies
        if not p.direct_grad:
            gs = grads
        with parallel(num_threads=p.threads):
            for item in prange(count, schedule="dynamic", chunksize=1):
                add_block(kernels, g, p, item, xs, x_image, x_group, x_channel, x_row, x_pixel, gs, g_image, g_group, g_row, g_pixel, images, panels, n0 > 0, blocks + item * p.block)
                if n0 + images == g.N:
                    store_block(kernels, g, p, item, blocks + item * p.block, panels, gw, <real*>(workers + threadid() * p.worker_bytes))
        n0 += images
