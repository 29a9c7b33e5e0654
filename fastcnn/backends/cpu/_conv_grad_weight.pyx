# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Weight gradient of the direct convolution, and the bias gradient.

grad_weight[o, c, kh, kw] = sum over n, oh, ow of grad_output[n, o, oh, ow] * input[n, c, oh*SH - PT + kh*DH, ow*SW - PL + kw*DW]

As GEMM:  rows = taps x channels (k),  columns = output channels (n),  reduction = the output pixels of the whole batch. The batch is cut into slots, whose number
depends on the shapes alone; a slot adds its strips of rows in order into a partial gradient of its own, and the slots are added in order at the end. So the bits do
not depend on the number of threads. Large gradients (few slots fit in memory) are also cut by output channels.
"""
cimport numpy as cnp
from cython.parallel cimport parallel, prange, threadid
from fastcnn.backends.cpu._arrays cimport empty4, is_channels_last, view_of
from fastcnn.backends.cpu._geometry cimport geometry_of
from fastcnn.backends.cpu._grad_weight_large cimport LargePlan, is_large, large_gradient, load_grad, make_large_plan
from fastcnn.backends.cpu._kernels cimport fc_isa
from fastcnn.backends.cpu._layout cimport Geometry, View, aligned, ceil_div, imax, imin, index, load_rows, real, simplify
from fastcnn.backends.cpu._panels cimport Panels, first_vector, make_panels
from fastcnn.backends.cpu._runtime cimport Arena, acquire, active_isa, fc_use_pool, pool, release, thread_count

cnp.import_array()
fc_use_pool(pool())

# A strip of input and one of grad_output are read once per panel and per MR rows of the gradient: both stay in L2. All partial gradients together stay below
# PARTIAL_BYTES, and there are enough jobs (slots x groups x blocks of output channels) for MOST_SLOTS threads.
cdef enum:
    STRIP_BYTES = 128 * 1024
    PARTIAL_BYTES = 16 * 1024 * 1024
    MOST_SLOTS = 16
    MOST_ROWS = 8


cdef struct Plan:
    int threads
    int mr
    int lanes
    bint direct        # tiles read the user's input
    bint direct_grad   # tiles read the user's grad_output
    index images       # images per strip (small images are grouped)
    index rows         # output rows per strip
    index batches
    index strips
    index slots
    index blocks       # blocks of panels per group
    index width
    index slot_elements
    size_t x_bytes
    size_t worker_bytes


cdef Plan make_plan(const fc_isa* kernels, Geometry* g, View sx, View sg, const Panels* panels, real* tag) noexcept nogil:
    cdef Plan p
    cdef index line, grad_line, total, most
    p.mr = kernels.f32.mr if real is float else kernels.f64.mr
    p.lanes = panels.lanes
    p.width = (g.OW - 1) * g.SW + (g.KW - 1) * g.DW + 1
    p.direct = sx.c == 1 and g.PT == 0 and g.PL == 0 and p.width <= g.W and (g.OH - 1) * g.SH + (g.KH - 1) * g.DH + 1 <= g.H
    p.direct_grad = sg.c == 1 and g.Og % panels.lanes == 0
    line = p.width * g.Cg * sizeof(real)
    grad_line = g.OW * panels.nvec * panels.lanes * sizeof(real)
    most = imin(imax(1, (STRIP_BYTES // line - ((g.KH - 1) * g.DH + 1)) // g.SH + 1), imax(1, STRIP_BYTES // grad_line))
    p.rows = ceil_div(g.OH, ceil_div(g.OH, most))
    p.images = 1
    if p.rows == g.OH:
        p.images = imax(1, imin(g.N, imin(STRIP_BYTES // imax(1, line * ((g.OH - 1) * g.SH + (g.KH - 1) * g.DH + 1)), STRIP_BYTES // (grad_line * g.OH))))
    p.slot_elements = g.G * panels.k * panels.nvec * panels.lanes
    total = imin(MOST_SLOTS, imax(1, PARTIAL_BYTES // (p.slot_elements * <index>sizeof(real))))
    if p.rows == g.OH:
        p.images = imin(p.images, ceil_div(g.N, total))  # a strip no larger than a slot's share
    p.batches = ceil_div(g.N, p.images)
    p.strips = ceil_div(g.OH, p.rows)
    p.slots = imin(p.batches * p.strips, total)
    p.blocks = imin(panels.count, ceil_div(MOST_SLOTS, p.slots * g.G))
    p.threads = thread_count(2.0 * g.N * g.OH * g.OW * panels.k * g.O, p.slots * g.G * p.blocks)
    p.x_bytes = 0 if p.direct else aligned(p.images * ((p.rows - 1) * g.SH + (g.KH - 1) * g.DH + 1) * line)
    p.worker_bytes = p.x_bytes + (0 if p.direct_grad else aligned(p.images * p.rows * grad_line))
    return p


cdef void run_job(const fc_isa* kernels, Geometry* g, const Plan* p, index job, const real* x, View sx, const real* grad, View sg, const Panels* panels,
                  real* partials, char* scratch) noexcept nogil:
    """One slot, group and block of output channels: walk the slot's strips, each against all panels of the block and all rows of the gradient."""
    cdef index block = job % p.blocks, group = job // p.blocks % g.G, slot = job // (p.blocks * g.G), work = p.batches * p.strips
    cdef index v0 = block * panels.count // p.blocks, v1 = (block + 1) * panels.count // p.blocks
    cdef index first = first_vector(panels, v0) * p.lanes, wide = first_vector(panels, v1) * p.lanes - first, ld = panels.nvec * p.lanes
    cdef index columns = imin(wide, g.Og - first), taps = g.KH * g.KW, strip, n0, images, r0, rows, n, k, i, at, depth, tap, kk
    cdef index x_image, x_row, x_pixel, g_image, g_row, g_pixel, tile_pixels, tile_rows, tile_x_pixel, tile_g_pixel
    cdef real* out = partials + slot * p.slot_elements + group * panels.k * ld + first
    cdef real* x_strip = <real*>scratch
    cdef real* g_strip = <real*>(scratch + p.x_bytes)
    cdef const real* xb
    cdef const real* gb
    cdef const real* corner
    cdef real* rows_at[MOST_ROWS]
    cdef int j, m, nv, later = 0
    for strip in range(slot * work // p.slots, (slot + 1) * work // p.slots):
        n0 = strip // p.strips * p.images
        images = imin(p.images, g.N - n0)
        r0 = strip % p.strips * p.rows
        rows = imin(p.rows, g.OH - r0)
        depth = (rows - 1) * g.SH + (g.KH - 1) * g.DH + 1
        if p.direct:
            xb = x + n0 * sx.n + r0 * g.SH * sx.h + group * g.Cg
            x_image, x_row, x_pixel = sx.n, sx.h, sx.w
        else:
            x_image, x_row, x_pixel = depth * p.width * g.Cg, p.width * g.Cg, g.Cg
            for n in range(images):
                load_rows(kernels, x + (n0 + n) * sx.n + group * g.Cg * sx.c, sx, g.Cg, g.H, g.W, r0 * g.SH - g.PT, depth, g.PL, p.width, x_strip + n * x_image)
            xb = x_strip
        if p.direct_grad:
            gb = grad + n0 * sg.n + r0 * sg.h + group * g.Og + first
            g_image, g_row, g_pixel = sg.n, sg.h, sg.w
        else:
            g_image, g_row, g_pixel = rows * g.OW * wide, g.OW * wide, wide
            for n in range(images):
                load_grad(kernels, grad + (n0 + n) * sg.n + r0 * sg.h + (group * g.Og + first) * sg.c, sg, rows, g.OW, columns, wide, g_strip + n * g_image)
            gb = g_strip
        # what follows without a gap is one long row: the tile's inner loop is its pixel loop
        tile_pixels, tile_rows, tile_x_pixel, tile_g_pixel = g.OW, rows, g.SW * x_pixel, g_pixel
        if g.OW == 1:
            tile_pixels, tile_rows, tile_x_pixel, tile_g_pixel = rows, 1, g.SH * x_row, g_row
        elif g.SH * x_row == g.OW * tile_x_pixel and g_row == g.OW * g_pixel:
            tile_pixels, tile_rows = rows * g.OW, 1
        if tile_rows == 1 and tile_pixels == 1:
            tile_pixels, tile_x_pixel, tile_g_pixel, images = images, x_image, g_image, 1
        elif tile_rows == 1 and x_image == tile_pixels * tile_x_pixel and g_image == tile_pixels * tile_g_pixel:
            tile_pixels, images = tile_pixels * images, 1
        for i in range(v0, v1):
            at = first_vector(panels, i) * p.lanes
            nv = <int>(first_vector(panels, i + 1) - first_vector(panels, i))
            k = 0
            while k < panels.k:
                m = <int>imin(p.mr, panels.k - k)
                for j in range(p.mr):
                    kk = k + (j if j < m else m - 1)
                    tap = kk // g.Cg
                    rows_at[j] = <real*>xb + tap // g.KW * g.DH * x_row + tap % g.KW * g.DW * x_pixel + kk % g.Cg
                if real is float:
                    kernels.f32.tile_outer(rows_at, tile_x_pixel, g.SH * x_row, x_image, gb + at - first, tile_g_pixel, g_row, g_image, tile_pixels, tile_rows,
                                           images, later, out + k * ld + at - first, ld, m, nv)
                else:
                    kernels.f64.tile_outer(rows_at, tile_x_pixel, g.SH * x_row, x_image, gb + at - first, tile_g_pixel, g_row, g_image, tile_pixels, tile_rows,
                                           images, later, out + k * ld + at - first, ld, m, nv)
                k += p.mr
        later = 1


cdef void add_slots(real* partials, index slots, index slot_elements, index first, index count) noexcept nogil:
    cdef index slot, i
    cdef real* total = partials + first
    cdef const real* part
    for slot in range(1, slots):
        part = partials + slot * slot_elements + first
        for i in range(count):
            total[i] += part[i]


cdef void finish(const fc_isa* kernels, Geometry* g, const Plan* p, const Panels* panels, real* partials, real* spare, real* gw, bint ohwi) noexcept nogil:
    """Sum the slots in order, then (taps, channels, O) -> (O, channels, taps)."""
    cdef index piece, pieces = ceil_div(p.slot_elements, 4096), group, taps = g.KH * g.KW, ld = panels.nvec * p.lanes, o
    for piece in prange(pieces, num_threads=p.threads, schedule="static"):
        add_slots(partials, p.slots, p.slot_elements, piece * 4096, imin(4096, p.slot_elements - piece * 4096))
    for piece in prange(g.G * panels.nvec, num_threads=p.threads, schedule="static"):
        group = piece // panels.nvec
        o = piece % panels.nvec * p.lanes
        if real is float:
            kernels.f32.transpose(partials + group * panels.k * ld + o, ld, (gw if ohwi else spare) + (group * g.Og + o) * panels.k, panels.k, panels.k,
                                  imin(p.lanes, g.Og - o), panels.k)
        else:
            kernels.f64.transpose(partials + group * panels.k * ld + o, ld, (gw if ohwi else spare) + (group * g.Og + o) * panels.k, panels.k, panels.k,
                                  imin(p.lanes, g.Og - o), panels.k)
    if not ohwi:
        for o in prange(g.O, num_threads=p.threads, schedule="static"):
            if real is float:
                kernels.f32.transpose(spare + o * panels.k, g.Cg, gw + o * panels.k, taps, taps, g.Cg, taps)
            else:
                kernels.f64.transpose(spare + o * panels.k, g.Cg, gw + o * panels.k, taps, taps, g.Cg, taps)


cdef cnp.ndarray weight_gradient(Geometry* g, cnp.ndarray grad_output, cnp.ndarray input, object given, real* tag):
    cdef const fc_isa* kernels = active_isa()
    cdef cnp.ndarray grad_weight = given if given is not None else empty4(g.O, g.Cg, g.KH, g.KW, cnp.PyArray_TYPE(input), False)
    if g.N == 0 or grad_weight.size == 0 or g.OH * g.OW == 0:
        grad_weight.fill(0)
        return grad_weight
    cdef View sx = view_of(input), sg = view_of(grad_output)
    if simplify(g, &sx):
        sg.w, sg.h = sg.h, sg.n
    cdef Panels panels = make_panels(kernels, g.KH * g.KW * g.Cg, g.Og, <real*>NULL)
    cdef const real* x = <const real*>cnp.PyArray_DATA(input)
    cdef const real* gy = <const real*>cnp.PyArray_DATA(grad_output)
    cdef real* gw = <real*>cnp.PyArray_DATA(grad_weight)
    cdef Arena arena
    cdef LargePlan large
    cdef Geometry mirror
    cdef Panels columns
    if g.KH * g.KW == 1 and g.SH * g.SW == 1 and g.PT == 0 and g.PL == 0 and g.G == 1 and g.H == g.OH and g.W == g.OW and sg.w == 1 and sx.w == 1 and g.C < g.O:
        mirror = g[0]
        mirror.C, mirror.Cg, mirror.O, mirror.Og = g.O, g.O, g.C, g.C
        columns = make_panels(kernels, g.O, g.C, <real*>NULL)
        large = make_large_plan(kernels, &mirror, sg, sx, &columns, True, <real*>NULL)
        if is_large(&large, &mirror, &columns, <real*>NULL):
            arena = acquire(large.bytes)
            with nogil:
                large_gradient(kernels, &mirror, &large, gy, sg, x, sx, &columns, gw, arena.base)
            release(arena)
            return grad_weight
    large = make_large_plan(kernels, g, sx, sg, &panels, False, <real*>NULL)
    if is_large(&large, g, &panels, <real*>NULL):
        arena = acquire(large.bytes)
        with nogil:
            large_gradient(kernels, g, &large, x, sx, gy, sg, &panels, gw, arena.base)
        release(arena)
        return grad_weight
    cdef Plan plan = make_plan(kernels, g, sx, sg, &panels, <real*>NULL)
    cdef bint ohwi = g.KH * g.KW == 1 or g.Cg == 1
    cdef size_t partial_bytes = aligned(plan.slots * plan.slot_elements * sizeof(real)), spare_bytes = 0 if ohwi else aligned(g.O * panels.k * sizeof(real))
    arena = acquire(partial_bytes + spare_bytes + plan.threads * plan.worker_bytes + 64)
    cdef real* partials = <real*>arena.base
    cdef real* spare = <real*>(arena.base + partial_bytes)
    cdef char* scratch = arena.base + partial_bytes + spare_bytes
    cdef index job
    with nogil:
        with parallel(num_threads=plan.threads):
            for job in prange(plan.slots * g.G * plan.blocks, schedule="dynamic", chunksize=1):
                run_job(kernels, g, &plan, job, x, sx, gy, sg, &panels, partials, scratch + threadid() * plan.worker_bytes)
        finish(kernels, g, &plan, &panels, partials, spare, gw, ohwi)
    release(arena)
    return grad_weight


def conv2d_grad_weight(cnp.ndarray grad_output, cnp.ndarray input, weight_shape, stride, padding, dilation, index groups, out=None):
    cdef index O, KH, KW
    O, _, KH, KW = weight_shape
    cdef Geometry g = geometry_of(input.shape[0], input.shape[1], input.shape[2], input.shape[3], O, KH, KW, stride, padding, dilation, groups)
    if cnp.PyArray_TYPE(input) == cnp.NPY_FLOAT:
        return weight_gradient(&g, grad_output, input, out, <float*>NULL)
    return weight_gradient(&g, grad_output, input, out, <double*>NULL)


cdef enum:
    OUTER_COLUMNS = 3072  # columns of an item: enough work, and pieces enough to share


cdef void outer_item(const fc_isa* kernels, const real* grad, const real* x, index M, index C, index O, index o, index first, index after, real* gw) noexcept nogil:
    """Rows o .. o + mr - 1 of the gradient, columns first .. after - 1: the tile's rows are output features, its columns input features, its reduction the images."""
    cdef real* rows_at[MOST_ROWS]
    cdef index lanes, c, wide
    cdef int j, m, mr, nv
    if real is float:
        lanes, mr, nv = kernels.f32.lanes, kernels.f32.mr, kernels.f32.nv
    else:
        lanes, mr, nv = kernels.f64.lanes, kernels.f64.mr, kernels.f64.nv
    m = <int>imin(mr, O - o)
    for j in range(mr):
        rows_at[j] = <real*>grad + o + (j if j < m else m - 1)
    c = first
    while c < after:
        wide = imin(nv * lanes, after - c)
        if real is float:
            kernels.f32.tile_outer(rows_at, O, 0, 0, x + c, C, 0, 0, M, 1, 1, 0, gw + o * C + c, C, m, <int>(wide // lanes))
        else:
            kernels.f64.tile_outer(rows_at, O, 0, 0, x + c, C, 0, 0, M, 1, 1, 0, gw + o * C + c, C, m, <int>(wide // lanes))
        c += wide


cdef void outer(const fc_isa* kernels, const real* grad, const real* x, index M, index C, index O, real* gw) noexcept:
    cdef index mr = kernels.f32.mr if real is float else kernels.f64.mr
    cdef index rows = ceil_div(O, mr), parts = ceil_div(C, OUTER_COLUMNS), item
    cdef int threads = thread_count(2.0 * M * C * O, rows * parts)
    for item in prange(rows * parts, nogil=True, num_threads=threads, schedule="static"):
        outer_item(kernels, grad, x, M, C, O, item % rows * mr, item // rows * OUTER_COLUMNS, imin(C, (item // rows + 1) * OUTER_COLUMNS), gw)


def linear_grad_weight(cnp.ndarray grad_output, cnp.ndarray input, out=None):
    """dW = dy^T x: the weight gradient of a 1x1 convolution over M pixels, or where rows of x are whole vectors, straight into dW."""
    cdef cnp.ndarray x = cnp.PyArray_GETCONTIGUOUS(input), gy = cnp.PyArray_GETCONTIGUOUS(grad_output), gw
    cdef Geometry g
    cdef index M = x.shape[0], C = x.shape[1], O = gy.shape[1]
    cdef const fc_isa* kernels = active_isa()
    if M > 0 and O > 0 and C > 0 and C % (kernels.f32.lanes if cnp.PyArray_TYPE(x) == cnp.NPY_FLOAT else kernels.f64.lanes) == 0:
        gw = out if out is not None else cnp.PyArray_EMPTY(2, [O, C], cnp.PyArray_TYPE(x), 0)
        if cnp.PyArray_TYPE(x) == cnp.NPY_FLOAT:
            outer(kernels, <const float*>cnp.PyArray_DATA(gy), <const float*>cnp.PyArray_DATA(x), M, C, O, <float*>cnp.PyArray_DATA(gw))
        else:
            outer(kernels, <const double*>cnp.PyArray_DATA(gy), <const double*>cnp.PyArray_DATA(x), M, C, O, <double*>cnp.PyArray_DATA(gw))
        return gw
    g.N, g.C, g.H, g.W, g.O, g.KH, g.KW, g.OH, g.OW, g.G = 1, C, M, 1, O, 1, 1, M, 1, 1
    g.SH, g.SW, g.PT, g.PL, g.DH, g.DW, g.Cg, g.Og = 1, 1, 0, 0, 1, 1, C, O
    cdef cnp.ndarray image = x.reshape(1, M, 1, C).transpose(0, 3, 1, 2), grad = gy.reshape(1, M, 1, O).transpose(0, 3, 1, 2)
    cdef object target = None if out is None else out.reshape(O, C, 1, 1)
    if cnp.PyArray_TYPE(x) == cnp.NPY_FLOAT:
        return weight_gradient(&g, grad, image, target, <float*>NULL).reshape(O, C)
    return weight_gradient(&g, grad, image, target, <double*>NULL).reshape(O, C)


# ---- bias

cdef enum:
    PIECE = 512  # pixels per partial sum: a fixed cut, so that the sums do not depend on the threads


cdef void bias_rows(const fc_isa* kernels, const real* grad, index pixels, index O, real* partial, index pieces, int threads) noexcept nogil:
    cdef index i
    for i in prange(pieces, num_threads=threads, schedule="static"):
        if real is float:
            kernels.f32.column_sums(grad + i * PIECE * O, imin(PIECE, pixels - i * PIECE), O, O, partial + i * O)
        else:
            kernels.f64.column_sums(grad + i * PIECE * O, imin(PIECE, pixels - i * PIECE), O, O, partial + i * O)


cdef void bias_planes(const fc_isa* kernels, const real* grad, index planes, index pixels, double* partial, int threads) noexcept nogil:
    cdef index i
    for i in prange(planes, num_threads=threads, schedule="static"):
        if real is float:
            partial[i] = kernels.f32.sum(grad + i * pixels, pixels)
        else:
            partial[i] = kernels.f64.sum(grad + i * pixels, pixels)


cdef cnp.ndarray bias_gradient(cnp.ndarray grad_output, real* tag):
    cdef const fc_isa* kernels = active_isa()
    cdef index N = grad_output.shape[0], O = grad_output.shape[1], pixels = grad_output.shape[2] * grad_output.shape[3], i, o, pieces
    cdef cnp.npy_intp shape = O
    cdef cnp.ndarray result = cnp.PyArray_ZEROS(1, &shape, cnp.PyArray_TYPE(grad_output), 0), grad = grad_output
    if grad_output.size == 0:
        return result
    cdef bint last = is_channels_last(grad_output)
    if not last:
        grad = cnp.PyArray_GETCONTIGUOUS(grad_output)
        last = pixels == 1  # both formats are the same memory
    cdef const real* g = <const real*>cnp.PyArray_DATA(grad)
    cdef real* out = <real*>cnp.PyArray_DATA(result)
    pieces = ceil_div(N * pixels, PIECE) if last else N
    cdef Arena arena = acquire(pieces * O * sizeof(double) + 64)
    cdef real* rows = <real*>arena.base
    cdef double* planes = <double*>arena.base
    cdef double total
    cdef int threads = thread_count(4.0 * N * O * pixels, pieces)
    with nogil:
        if last:
            bias_rows(kernels, g, N * pixels, O, rows, pieces, threads)
        else:
            bias_planes(kernels, g, N * O, pixels, planes, threads)
        for o in range(O):
            total = 0
            for i in range(pieces):
                total += rows[i * O + o] if last else planes[i * O + o]
            out[o] = <real>total
    release(arena)
    return result


def conv2d_grad_bias(cnp.ndarray grad_output):
    """Sum of grad_output over images and pixels, per output channel."""
    if cnp.PyArray_TYPE(grad_output) == cnp.NPY_FLOAT:
        return bias_gradient(grad_output, <float*>NULL)
    return bias_gradient(grad_output, <double*>NULL)


def linear_grad_bias(cnp.ndarray grad_output):
    cdef index M = grad_output.shape[0], O = grad_output.shape[1]
    return conv2d_grad_bias(grad_output.reshape(1, M, 1, O).transpose(0, 3, 1, 2))
