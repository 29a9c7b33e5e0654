# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Direct convolution: the forward pass, and the input gradient of stride 1 as a convolution with the flipped kernel.

The output is cut into items: a strip of rows of one image (or a few whole small images), for one group and a block of output channels. An item loads its input strip
once, then walks panels x k-blocks x tiles of MR pixels. Where there are many weights and the strips that fit have few pixels to use them for (strided and dilated
layers), whole images are laid out first, as scratch that the tiles read directly. Items write disjoint parts of the output and each sum is one chain over k, so neither the cut nor the
thread that runs an item can change a bit.

m = OH * OW pixels,  n = O / G,  k = (C / G) * KH * KW,  per image and group.
"""
cimport numpy as cnp
from cython.parallel cimport parallel, prange, threadid
from libc.string cimport memcpy, memset

from fastcnn.backends.cpu._arrays cimport dense, empty4, is_channels_last, view_of
from fastcnn.backends.cpu._geometry cimport flip_geometry, geometry_of
from fastcnn.backends.cpu._kernels cimport fc_isa
from fastcnn.backends.cpu._layout cimport Geometry, View, aligned, ceil_div, fill_segments, imax, imin, index, load_rows, real, simplify
from fastcnn.backends.cpu._panels cimport Panels, filter_to_last, first_vector, make_panels, pack_panel, pack_row, panel_elements
from fastcnn.backends.cpu._runtime cimport Arena, acquire, active_isa, fc_use_pool, pool, release, reserve, thread_count

cnp.import_array()
fc_use_pool(pool())

# Bytes of an item's input strip, of its output strip where that is transposed at the end, and of a panel's k-block. Together with what a tile touches they stay
# under the smallest L2 in use (256 KiB to 1 MiB): the strip is read once per panel, the k-block once per tile.
cdef enum:
    STRIP_BYTES = 192 * 1024
    OUTPUT_BYTES = 128 * 1024
    PANEL_BYTES = 96 * 1024
    MOST_ROWS = 8       # rows of the widest tile
    MIN_PIXELS = 64     # pixels per item below which streaming the weights from L3 would dominate: small images are grouped
    MANY_PIXELS = 192   # the same for weights that do not stay in L2
    MANY_WEIGHTS = 512 * 1024
    STAGE_BYTES = 8 * 1024 * 1024  # of images that are laid out at a time
    PARTS = 4                      # of an image, to be laid out one by one
    MOST_PIXELS = 512


cdef struct Plan:
    int threads
    int mr
    bint direct          # tiles read the user's array
    bint last            # the output is channels-last: tiles write it directly
    index images         # images per item
    index rows           # output rows per item
    index batches        # ceil(N / images)
    index strips         # ceil(OH / rows)
    index blocks         # blocks of panels per group
    index items
    index width          # columns of the loaded strip
    index depth          # rows of the loaded strip
    index columns        # widest block, in elements, for the transposed output
    size_t strip_bytes
    size_t offset_bytes
    size_t worker_bytes


cdef Plan make_plan(const fc_isa* kernels, Geometry* g, View sx, const Panels* panels, bint last, real* tag) noexcept nogil:
    cdef Plan p
    cdef index pixels = g.OH * g.OW, line, most, enough = MANY_PIXELS if panels.k * panels.n * <index>sizeof(real) > MANY_WEIGHTS else MIN_PIXELS
    p.mr = kernels.f32.mr if real is float else kernels.f64.mr
    p.last = last
    p.width = (g.OW - 1) * g.SW + (g.KW - 1) * g.DW + 1
    p.direct = sx.c == 1 and g.PT == 0 and g.PL == 0 and p.width <= g.W and (g.OH - 1) * g.SH + (g.KH - 1) * g.DH + 1 <= g.H
    line = p.width * g.Cg * sizeof(real)
    # as many rows as the budgets hold ...
    most = imax(1, MOST_PIXELS // g.OW)
    if not p.direct:
        most = imin(most, imax(1, (STRIP_BYTES // line - ((g.KH - 1) * g.DH + 1)) // g.SH + 1))
    if not last:
        most = imin(most, imax(1, OUTPUT_BYTES // (g.OW * imin(g.Og, 256) * <index>sizeof(real))))
    p.rows = ceil_div(g.OH, ceil_div(g.OH, most))
    p.images = 1
    if p.rows == g.OH and pixels < enough:
        p.images = imax(1, imin(g.N, enough // pixels))
        if not p.direct:
            p.images = imax(1, imin(p.images, 2 * STRIP_BYTES // (line * ((g.OH - 1) * g.SH + (g.KH - 1) * g.DH + 1))))
    # ... and pieces enough to share out: fewer images, then blocks of panels, then fewer rows
    p.threads = thread_count(2.0 * g.N * pixels * panels.k * g.O, 1 << 20)
    p.batches = ceil_div(g.N, p.images)
    p.strips = ceil_div(g.OH, p.rows)
    p.blocks = 1
    if p.threads > 1:
        while p.images > 1 and p.batches * p.strips * g.G < 2 * p.threads:
            p.images = ceil_div(p.images, 2)
            p.batches = ceil_div(g.N, p.images)
        while p.rows * g.OW > MIN_PIXELS and p.rows > 1 and p.batches * p.strips * g.G < 2 * p.threads:
            p.rows = ceil_div(p.rows, 2)
            p.strips = ceil_div(g.OH, p.rows)
        p.blocks = imin(panels.count, ceil_div(2 * p.threads, p.batches * p.strips * g.G))
    p.items = p.batches * p.strips * g.G * p.blocks
    p.threads = thread_count(2.0 * g.N * pixels * panels.k * g.O, p.items)
    p.depth = (p.rows - 1) * g.SH + (g.KH - 1) * g.DH + 1
    p.columns = imin(panels.nvec, ceil_div(panels.nvec, p.blocks) + (panels.nvec // panels.count) + 1) * panels.lanes
    p.strip_bytes = 0 if p.direct else aligned(p.images * p.depth * p.width * g.Cg * sizeof(real))
    p.offset_bytes = aligned((p.images * p.rows * g.OW + MOST_ROWS) * sizeof(index))
    p.worker_bytes = p.strip_bytes + p.offset_bytes + aligned(g.KH * g.KW * sizeof(index)) + (0 if last else aligned(
        p.images * p.rows * g.OW * p.columns * sizeof(real)))
    return p


cdef void tiles(const fc_isa* kernels, const real* base, const index* offset, index pixels, const index* segment, index segments, index length,
                const real* panel, const real* bias, real* out, index out_pixel, int nv, int n, int mr) noexcept nogil:
    """All pixels of an item against one panel, in k-blocks that stay in L2. Partial sums pass through `out` unrounded: same bits as in one go."""
    cdef real* rows[MOST_ROWS]
    cdef real* outs[MOST_ROWS]
    cdef index wide = nv * (kernels.f32.lanes if real is float else kernels.f64.lanes), s = 0, k = 0, some, part, i
    cdef index fit = imax(1, PANEL_BYTES // (wide * <index>sizeof(real)))
    cdef int j, m, later = 0
    while s < segments:
        if length <= fit:
            some, part = imin(segments - s, fit // length), length
        else:
            some, part = 1, imin(length - k, fit)
        i = 0
        while i < pixels:
            m = <int>imin(mr, pixels - i)
            for j in range(mr):
                rows[j] = <real*>base + offset[i + j] + k
                outs[j] = out + (i + (j if j < m else m - 1)) * out_pixel
            if real is float:
                kernels.f32.tile(rows, segment + s, some, part, panel, bias, later, outs, m, nv, n)
            else:
                kernels.f64.tile(rows, segment + s, some, part, panel, bias, later, outs, m, nv, n)
            i += mr
        panel += some * part * wide
        later = 1
        k += part
        if k == length:
            k = 0
            s += some


cdef void run_item(const fc_isa* kernels, Geometry* g, const Plan* p, index item, const real* x, View sx, const Panels* panels, const real* packed,
                   const real* bias, real* y, char* scratch) noexcept nogil:
    cdef index block = item % p.blocks, group = item // p.blocks % g.G, strip = item // (p.blocks * g.G) % p.strips
    cdef index n0 = item // (p.blocks * g.G * p.strips) * p.images, images = imin(p.images, g.N - n0)
    cdef index r0 = strip * p.rows, rows = imin(p.rows, g.OH - r0), pixels = images * rows * g.OW
    cdef index image_stride, row_stride, pixel_stride, length, segments, i, n, r, w, at, out_pixel, v0, v1, first, last_column
    cdef index* offset = <index*>(scratch + p.strip_bytes)
    cdef index* segment = <index*>(scratch + p.strip_bytes + p.offset_bytes)
    cdef real* strip_data = <real*>scratch
    cdef real* block_out
    cdef const real* base
    cdef index depth = (rows - 1) * g.SH + (g.KH - 1) * g.DH + 1
    if p.direct:
        base = x + n0 * sx.n + r0 * g.SH * sx.h + group * g.Cg
        image_stride, row_stride, pixel_stride = sx.n, sx.h, sx.w
    else:
        image_stride, row_stride, pixel_stride = depth * p.width * g.Cg, p.width * g.Cg, g.Cg
        for n in range(images):
            load_rows(kernels, x + (n0 + n) * sx.n + group * g.Cg * sx.c, sx, g.Cg, g.H, g.W, r0 * g.SH - g.PT, depth, g.PL, p.width, strip_data + n * image_stride)
        base = strip_data
    i = 0
    for n in range(images):
        for r in range(rows):
            at = n * image_stride + r * g.SH * row_stride
            for w in range(g.OW):
                offset[i] = at + w * g.SW * pixel_stride
                i += 1
    for w in range(MOST_ROWS):
        offset[i + w] = offset[i - 1]
    segments = fill_segments(g, row_stride, pixel_stride, segment, &length)

    # panels of this block: whole panels, shared out evenly
    v0 = block * panels.count // p.blocks
    v1 = (block + 1) * panels.count // p.blocks
    first = first_vector(panels, v0) * panels.lanes
    last_column = imin(panels.n, first_vector(panels, v1) * panels.lanes)
    if p.last:
        block_out = y + (n0 * g.OH + r0) * g.OW * g.O + group * g.Og + first
        out_pixel = g.O
    else:
        block_out = <real*>(scratch + p.strip_bytes + p.offset_bytes + aligned(g.KH * g.KW * sizeof(index)))
        out_pixel = first_vector(panels, v1) * panels.lanes - first
    for i in range(v0, v1):
        at = first_vector(panels, i) * panels.lanes
        w = first_vector(panels, i + 1) * panels.lanes - at
        tiles(kernels, base, offset, pixels, segment, segments, length, packed + group * panel_elements(panels) + at * panels.k,
              bias + group * panels.nvec * panels.lanes + at if bias != NULL else NULL, block_out + at - first, out_pixel, <int>(w // panels.lanes),
              <int>imin(w, panels.n - at), p.mr)
    if not p.last:
        for n in range(images):
            at = ((n0 + n) * g.O + group * g.Og + first) * g.OH * g.OW + r0 * g.OW
            if real is float:
                kernels.f32.transpose(block_out + n * rows * g.OW * out_pixel, out_pixel, y + at, g.OH * g.OW, rows * g.OW, last_column - first, rows * g.OW)
            else:
                kernels.f64.transpose(block_out + n * rows * g.OW * out_pixel, out_pixel, y + at, g.OH * g.OW, rows * g.OW, last_column - first, rows * g.OW)


cdef void run(const fc_isa* kernels, Geometry* g, const Plan* p, const real* x, View sx, const Panels* panels, const real* packed, const real* bias, real* y,
              char* scratch) noexcept nogil:
    cdef index item
    cdef const Plan* plan = p
    with parallel(num_threads=p.threads):
        for item in prange(p.items, schedule="dynamic", chunksize=1):
            run_item(kernels, g, plan, item, x, sx, panels, packed, bias, y, scratch + threadid() * plan.worker_bytes)


cdef struct Stage:
    index images   # laid out at a time; 0: none
    index depth
    index width
    size_t bytes


cdef Stage make_stage(Geometry* g, const Plan* p, const Panels* panels, real* tag) noexcept nogil:
    """Whether to lay out images first: if items are so small that reading the weights takes longer than the sums."""
    cdef Stage s
    cdef index image
    s.depth, s.width, s.images, s.bytes = (g.OH - 1) * g.SH + (g.KH - 1) * g.DH + 1, p.width, 0, 0
    image = s.depth * s.width * g.C * sizeof(real)
    if not p.direct and g.G == 1 and p.images * p.rows * g.OW < MANY_PIXELS // 2 and panels.k * panels.n * <index>sizeof(real) > MANY_WEIGHTS and image <= STAGE_BYTES:
        s.images = imin(g.N, STAGE_BYTES // image)
        s.images = ceil_div(g.N, ceil_div(g.N, s.images))
        s.bytes = aligned(s.images * image)
    return s


cdef void lay_out(const fc_isa* kernels, Geometry* g, const Stage* s, index item, const real* x, View sx, real* copies) noexcept nogil:
    cdef index n = item // PARTS, r0 = item % PARTS * s.depth // PARTS, r1 = (item % PARTS + 1) * s.depth // PARTS
    load_rows(kernels, x + n * sx.n, sx, g.C, g.H, g.W, r0 - g.PT, r1 - r0, g.PL, s.width, copies + (n * s.depth + r0) * s.width * g.C)


cdef void run_staged(const fc_isa* kernels, Geometry* g, const Plan* p, const Stage* s, const real* x, View sx, const Panels* panels, const real* packed, const real* bias,
                     real* y, real* copies, char* scratch) noexcept nogil:
    """`p` is the plan for a stage."""
    cdef Geometry laid = g[0]
    cdef View v
    cdef Plan plan = p[0]
    cdef index n0 = 0, item
    laid.H, laid.W, laid.PT, laid.PL = s.depth, s.width, 0, 0
    v.c, v.w, v.h, v.n = 1, g.C, s.width * g.C, s.depth * s.width * g.C
    while n0 < g.N:
        laid.N = imin(s.images, g.N - n0)
        plan.batches = ceil_div(laid.N, plan.images)
        plan.items = plan.batches * plan.strips * plan.blocks
        for item in prange(laid.N * PARTS, num_threads=p.threads, schedule="dynamic", chunksize=1):
            lay_out(kernels, g, s, item, x + n0 * sx.n, sx, copies)
        run(kernels, &laid, &plan, copies, v, panels, packed, bias, y + n0 * g.O * g.OH * g.OW, scratch)
        n0 += laid.N


cdef const real* channels_last_weights(const fc_isa* kernels, const real* w, index filters, index channels, index taps, bint ohwi, real* spare,
                                       int threads) noexcept nogil:
    """The filters with their channels last: w itself, or a copy in `spare`."""
    cdef index o, size = channels * taps
    if ohwi:
        return w
    for o in prange(filters, num_threads=threads, schedule="static"):
        filter_to_last(kernels, w + o * size, channels, taps, spare + o * size)
    return spare


cdef void pack_forward(const fc_isa* kernels, Geometry* g, const Panels* panels, const real* w, real* packed, int threads) noexcept nogil:
    """Panels of every group: columns = output channels, rows = taps x channels."""
    cdef index i
    for i in prange(g.G * panels.count, num_threads=threads, schedule="static"):
        pack_panel(kernels, panels, i % panels.count, w + i // panels.count * panels.k * panels.n, packed + i // panels.count * panel_elements(panels))


cdef void pack_flipped(Geometry* g, const Panels* panels, const real* w, real* packed, int threads) noexcept nogil:
    """Panels of the flipped kernel, g being the forward convolution that computes the input gradient (its channels are the layer's output channels):
    columns = the layer's input channels, rows = flipped taps x output channels."""
    cdef index i, tap, taps = g.KH * g.KW
    for i in prange(g.C, num_threads=threads, schedule="static"):
        for tap in range(taps):
            pack_row(panels, (taps - 1 - tap) * g.Cg + i % g.Cg, w + (i * taps + tap) * g.Og, packed + i // g.Cg * panel_elements(panels))


cdef class Packed:
    """Weights as panels, for calls to come: inference packs them once. Holds what they were at that time."""
    cdef Arena arena
    cdef str isa

    @property
    def nbytes(self):
        return self.arena.size


cdef Packed packed_weights(cnp.ndarray weight, index groups, real* tag):
    cdef const fc_isa* kernels = active_isa()
    cdef Packed p = Packed()
    cdef cnp.ndarray w = cnp.PyArray_GETCONTIGUOUS(weight)
    cdef Geometry g
    g.O, g.Cg, g.KH, g.KW, g.G = w.shape[0], w.shape[1], w.shape[2], w.shape[3], groups
    g.Og = g.O // g.G
    cdef index taps = g.KH * g.KW
    cdef Panels panels = make_panels(kernels, taps * g.Cg, g.Og, <real*>NULL)
    cdef size_t packed_bytes = aligned(g.G * panel_elements(&panels) * sizeof(real))
    cdef Arena spare = acquire(w.size * sizeof(real))
    cdef const real* last
    p.arena, p.isa = reserve(packed_bytes), kernels.name.decode()
    with nogil:
        last = channels_last_weights(kernels, <const real*>cnp.PyArray_DATA(w), g.O, g.Cg, taps, taps == 1 or g.Cg == 1, <real*>spare.base, 1)
        pack_forward(kernels, &g, &panels, last, <real*>p.arena.base, 1)
    release(spare)
    return p


def pack(cnp.ndarray weight, index groups):
    """weight (O, C / groups, KH, KW) for `packed=` of conv2d; (O, C, 1, 1) for that of linear."""
    if cnp.PyArray_TYPE(weight) == cnp.NPY_FLOAT:
        return packed_weights(weight, groups, <float*>NULL)
    return packed_weights(weight, groups, <double*>NULL)


cdef cnp.ndarray convolve(Geometry* g, cnp.ndarray input, cnp.ndarray weight, object bias, bint flipped, bint last, object out, object ready, real* tag):
    """The forward convolution g of input, with the weights as they are or flipped: (N, O, OH, OW), channels-last or C-contiguous, in `out` or a fresh array."""
    cdef const fc_isa* kernels = active_isa()
    cdef cnp.ndarray output = out if out is not None else empty4(g.N, g.O, g.OH, g.OW, cnp.PyArray_TYPE(input), last)
    if output.size == 0:
        return output
    cdef cnp.ndarray w = dense(weight)
    cdef bint ohwi = g.KH * g.KW == 1 or (g.Og if flipped else g.Cg) == 1 or not cnp.PyArray_IS_C_CONTIGUOUS(w)
    cdef index taps = g.KH * g.KW, group, i
    cdef Panels panels = make_panels(kernels, taps * g.Cg, g.Og, <real*>NULL)
    cdef View sx = view_of(input)
    simplify(g, &sx)
    cdef Plan plan = make_plan(kernels, g, sx, &panels, last, <real*>NULL)
    cdef Stage stage = make_stage(g, &plan, &panels, <real*>NULL)
    cdef Geometry laid
    cdef View copied
    if stage.images:
        laid, copied = g[0], sx
        laid.N, laid.H, laid.W, laid.PT, laid.PL, copied.c = stage.images, stage.depth, stage.width, 0, 0, 1
        plan = make_plan(kernels, &laid, copied, &panels, last, <real*>NULL)
    cdef size_t packed_bytes = 0 if ready is not None else aligned(g.G * panel_elements(&panels) * sizeof(real))
    cdef size_t bias_bytes = aligned(g.G * panels.nvec * panels.lanes * sizeof(real)) if bias is not None else 0
    cdef size_t spare_bytes = 0 if ohwi or ready is not None else aligned(g.O * panels.k * sizeof(real))
    cdef Arena arena = acquire(packed_bytes + bias_bytes + spare_bytes + stage.bytes + plan.threads * plan.worker_bytes)
    cdef real* packed = <real*>arena.base
    cdef real* padded_bias = NULL
    cdef real* spare = <real*>(arena.base + packed_bytes + bias_bytes)
    cdef real* copies = <real*>(arena.base + packed_bytes + bias_bytes + spare_bytes)
    cdef char* scratch = arena.base + packed_bytes + bias_bytes + spare_bytes + stage.bytes
    cdef const real* x = <const real*>cnp.PyArray_DATA(input)
    cdef const real* b
    cdef real* y = <real*>cnp.PyArray_DATA(output)
    cdef const real* w_data = <const real*>cnp.PyArray_DATA(w)
    cdef cnp.ndarray bias_array
    if bias is not None:
        bias_array = cnp.PyArray_GETCONTIGUOUS(bias)
        b = <const real*>cnp.PyArray_DATA(bias_array)
        padded_bias = <real*>(arena.base + packed_bytes)
        memset(padded_bias, 0, bias_bytes)
        for group in range(g.G):
            memcpy(padded_bias + group * panels.nvec * panels.lanes, b + group * g.Og, g.Og * sizeof(real))
    with nogil:
        # the layer's filters: g.O of g.Cg channels, or g.C of g.Og where g runs backwards
        if ready is None:
            w_data = channels_last_weights(kernels, w_data, g.C if flipped else g.O, g.Og if flipped else g.Cg, taps, ohwi, spare, plan.threads)
        if ready is not None:
            packed = <real*>(<Packed>ready).arena.base
        elif flipped:
            pack_flipped(g, &panels, w_data, packed, plan.threads)
        else:
            pack_forward(kernels, g, &panels, w_data, packed, plan.threads)
        if stage.images:
            run_staged(kernels, g, &plan, &stage, x, sx, &panels, packed, padded_bias, y, copies, scratch)
        else:
            run(kernels, g, &plan, x, sx, &panels, packed, padded_bias, y, scratch)
    release(arena)
    return output


cdef object current(object packed):
    """The panels, if they are for the instruction set in use."""
    if packed is not None and (<Packed>packed).isa != active_isa().name.decode():
        raise RuntimeError(f"weights were packed for {(<Packed>packed).isa}, the instruction set is {active_isa().name.decode()} now")
    return packed


def conv2d(cnp.ndarray input, cnp.ndarray weight, bias, stride, padding, dilation, index groups, out=None, packed=None):
    """y[n,o,oh,ow] = b[o] + sum_{c,kh,kw} x[n, c, oh*SH - PT + kh*DH, ow*SW - PL + kw*DW] * w[o,c,kh,kw]"""
    cdef Geometry g = geometry_of(input.shape[0], input.shape[1], input.shape[2], input.shape[3], weight.shape[0], weight.shape[2], weight.shape[3], stride, padding,
                                  dilation, groups)
    if cnp.PyArray_TYPE(input) == cnp.NPY_FLOAT:
        return convolve(&g, input, weight, bias, False, is_channels_last(input if out is None else out), out, current(packed), <float*>NULL)
    return convolve(&g, input, weight, bias, False, is_channels_last(input if out is None else out), out, current(packed), <double*>NULL)


def conv2d_grad_input_flipped(cnp.ndarray grad_output, cnp.ndarray weight, input_shape, stride, padding, dilation, index groups, out=None):
    """Stride 1: the input gradient is the convolution of grad_output, padded by (K-1)*D - P, with the flipped kernel, channels exchanged (Dumoulin & Visin 2016, ch. 4)."""
    cdef index N, C, H, W
    N, C, H, W = input_shape
    cdef Geometry g = geometry_of(N, C, H, W, weight.shape[0], weight.shape[2], weight.shape[3], stride, padding, dilation, groups)
    flip_geometry(&g)
    if cnp.PyArray_TYPE(grad_output) == cnp.NPY_FLOAT:
        return convolve(&g, grad_output, weight, None, True, is_channels_last(grad_output if out is None else out), out, None, <float*>NULL)
    return convolve(&g, grad_output, weight, None, True, is_channels_last(grad_output if out is None else out), out, None, <double*>NULL)


def linear(cnp.ndarray input, cnp.ndarray weight, bias, out=None, packed=None):
    """y = x W^T + b: a 1x1 convolution over the M rows of x, taken as M pixels."""
    cdef Geometry g = matrix_geometry(input.shape[0], input.shape[1], weight.shape[0])
    cdef cnp.ndarray x = cnp.PyArray_GETCONTIGUOUS(input), w = cnp.PyArray_GETCONTIGUOUS(weight)
    return as_matrix(x, w, bias, &g, False, out, current(packed))


def linear_grad_input(cnp.ndarray grad_output, cnp.ndarray weight, out=None):
    """dx = dy W"""
    cdef Geometry g = matrix_geometry(grad_output.shape[0], grad_output.shape[1], weight.shape[1])
    cdef cnp.ndarray x = cnp.PyArray_GETCONTIGUOUS(grad_output), w = cnp.PyArray_GETCONTIGUOUS(weight)
    return as_matrix(x, w, None, &g, True, out, None)


cdef Geometry matrix_geometry(index rows, index C, index O) noexcept:
    cdef Geometry g
    g.N, g.C, g.H, g.W, g.O, g.KH, g.KW, g.OH, g.OW, g.G = 1, C, rows, 1, O, 1, 1, rows, 1, 1
    g.SH, g.SW, g.PT, g.PL, g.DH, g.DW, g.Cg, g.Og = 1, 1, 0, 0, 1, 1, C, O
    return g


cdef object as_matrix(cnp.ndarray x, cnp.ndarray w, object bias, Geometry* g, bint flipped, object out, object ready):
    """Matrices as channels-last images of one column: (M, C) is (1, C, M, 1)."""
    cdef cnp.ndarray image = x.reshape(1, g.H, 1, g.C).transpose(0, 3, 1, 2), kernel = w.reshape(w.shape[0], w.shape[1], 1, 1), output
    cdef object target = None if out is None else out.reshape(1, g.OH, 1, g.O).transpose(0, 3, 1, 2)
    if cnp.PyArray_TYPE(x) == cnp.NPY_FLOAT:
        output = convolve(g, image, kernel, bias, flipped, True, target, ready, <float*>NULL)
    else:
        output = convolve(g, image, kernel, bias, flipped, True, target, ready, <double*>NULL)
    return output.transpose(0, 2, 3, 1).reshape(g.OH, g.O)
