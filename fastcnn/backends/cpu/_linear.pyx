# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Matrix products of linear layers that read the weights where they lie.

y (M, O) = x (M, C) W^T + b. As a 1x1 convolution (`_conv_forward.pyx`) the weights are packed into panels at every call: two more passes over a matrix that in a
fully connected layer is the largest array of the network, for a few rows of x. Here x is packed instead, the tile's rows are rows of W, and y comes out transposed. The gradient of x
needs no packing at all: rows of W are its panels. Each sum is the same chain over c (or o) as in the other algorithm: same bits.

A few rows of x fill the lanes badly: there the lanes run along c, and the time is that of reading W once.
"""
cimport numpy as cnp
from cython.parallel cimport prange

from fastcnn.backends.cpu._kernels cimport fc_isa
from fastcnn.backends.cpu._layout cimport aligned, ceil_div, imax, imin, index, real
from fastcnn.backends.cpu._panels cimport Panels, first_vector, make_panels, panel_elements
from fastcnn.backends.cpu._runtime cimport Arena, acquire, active_isa, fc_use_pool, pool, release, thread_count

cnp.import_array()
fc_use_pool(pool())

cdef enum:
    MOST_ROWS = 8
    PANEL_BYTES = 96 * 1024  # of x: a block that stays in L2 while all rows of W go past it
    COLUMNS = 1024           # of x per piece that is packed
    GRAD_COLUMNS = 192       # of grad_input per item: all rows of W, this wide, stay in L2
    DOT_ROWS = 4             # of W at a time, in the kernel
    DOT_COLUMNS = 1024       # of these four rows: 16 KB, which stay in L1 while the rows of x go past
    DOT_ITEM = 16            # rows of W per item


cdef void pack_block(const fc_isa* kernels, const Panels* p, index k0, index k1, const real* x, real* packed) noexcept nogil:
    """Columns k0 .. k1 - 1 of x (M, C) as rows of the panels."""
    cdef index i, v0, wide
    for i in range(p.count):
        v0 = first_vector(p, i) * p.lanes
        wide = first_vector(p, i + 1) * p.lanes - v0
        if real is float:
            kernels.f32.transpose(x + v0 * p.k + k0, p.k, packed + v0 * p.k + k0 * wide, wide, imin(wide, p.n - v0), k1 - k0, wide)
        else:
            kernels.f64.transpose(x + v0 * p.k + k0, p.k, packed + v0 * p.k + k0 * wide, wide, imin(wide, p.n - v0), k1 - k0, wide)


cdef void rows_of_weights(const fc_isa* kernels, const Panels* p, index o0, index o1, const real* w, const real* bias, const real* packed, real* out) noexcept nogil:
    """out[o][m] for o0 <= o < o1: rows of the transposed y, `nvec * lanes` wide."""
    cdef index width = p.nvec * p.lanes, k = 0, o, i, m, at, wide, part, origin = 0, block
    cdef const real* rows[MOST_ROWS]
    cdef real* outs[MOST_ROWS]
    cdef int j, mr = kernels.f32.mr if real is float else kernels.f64.mr, some
    block = imax(1, PANEL_BYTES // (width * <index>sizeof(real)))
    for o in range(o0, o1):
        for m in range(width):
            out[o * width + m] = bias[o] if bias != NULL else 0
    while k < p.k:
        part = imin(block, p.k - k)
        o = o0
        while o < o1:
            some = <int>imin(mr, o1 - o)
            for i in range(p.count):
                at = first_vector(p, i) * p.lanes
                wide = first_vector(p, i + 1) * p.lanes - at
                for j in range(mr):
                    rows[j] = w + (o + (j if j < some else some - 1)) * p.k + k
                    outs[j] = out + (o + (j if j < some else some - 1)) * width + at
                if real is float:
                    kernels.f32.tile(<float**>rows, &origin, 1, part, packed + at * p.k + k * wide, NULL, 1, outs, some, <int>(wide // p.lanes), <int>wide)
                else:
                    kernels.f64.tile(<double**>rows, &origin, 1, part, packed + at * p.k + k * wide, NULL, 1, outs, some, <int>(wide // p.lanes), <int>wide)
            o += mr
        k += part


cdef void multiply(const fc_isa* kernels, const real* x, const real* w, const real* bias, index M, index C, index O, real* y, char* scratch, int threads) noexcept:
    cdef Panels p = make_panels(kernels, C, M, <real*>NULL)
    cdef real* packed = <real*>scratch
    cdef real* out = <real*>(scratch + aligned(panel_elements(&p) * sizeof(real)))
    cdef index pieces = ceil_div(C, COLUMNS), i, mr = kernels.f32.mr if real is float else kernels.f64.mr, blocks = ceil_div(O, mr), items
    items = imin(blocks, 2 * threads) if threads > 1 else 1
    for i in prange(pieces, nogil=True, num_threads=threads, schedule="static"):
        pack_block(kernels, &p, i * COLUMNS, imin(C, (i + 1) * COLUMNS), x, packed)
    for i in prange(items, nogil=True, num_threads=threads, schedule="dynamic", chunksize=1):
        rows_of_weights(kernels, &p, i * blocks // items * mr, imin(O, (i + 1) * blocks // items * mr), w, bias, packed, out)
    if real is float:
        kernels.f32.transpose(out, p.nvec * p.lanes, y, O, O, M, O)
    else:
        kernels.f64.transpose(out, p.nvec * p.lanes, y, O, O, M, O)


def linear(cnp.ndarray input, cnp.ndarray weight, bias, out=None):
    """y = x W^T + b"""
    cdef const fc_isa* kernels = active_isa()
    cdef cnp.ndarray x = cnp.PyArray_GETCONTIGUOUS(input), w = cnp.PyArray_GETCONTIGUOUS(weight), b, y
    cdef index M = x.shape[0], C = x.shape[1], O = w.shape[0], size = cnp.PyArray_ITEMSIZE(x), lanes = kernels.f32.lanes if size == 4 else kernels.f64.lanes
    cdef cnp.npy_intp shape[2]
    shape[0], shape[1] = M, O
    y = out if out is not None else cnp.PyArray_EMPTY(2, shape, cnp.PyArray_TYPE(x), 0)
    if y.size == 0:
        return y
    cdef index width = ceil_div(M, lanes) * lanes
    cdef int threads = thread_count(2.0 * M * C * O, ceil_div(O, MOST_ROWS))
    cdef Arena arena = acquire(aligned(width * C * size) + aligned(O * width * size))
    cdef const void* bp = NULL
    if bias is not None:
        b = cnp.PyArray_GETCONTIGUOUS(bias)
        bp = cnp.PyArray_DATA(b)
    if size == 4:
        multiply(kernels, <const float*>cnp.PyArray_DATA(x), <const float*>cnp.PyArray_DATA(w), <const float*>bp, M, C, O, <float*>cnp.PyArray_DATA(y), arena.base, threads)
    else:
        multiply(kernels, <const double*>cnp.PyArray_DATA(x), <const double*>cnp.PyArray_DATA(w), <const double*>bp, M, C, O, <double*>cnp.PyArray_DATA(y), arena.base, threads)
    release(arena)
    return y


cdef void dot_rows(const fc_isa* kernels, const real* x, const real* w, const real* bias, index M, index C, index O, index first, index after, real* y) noexcept nogil:
    """Columns first .. after - 1 of y."""
    cdef index m, o, c = 0, wide
    for m in range(M):
        for o in range(first, after):
            y[m * O + o] = bias[o] if bias != NULL else 0
    while c < C:
        wide = imin(DOT_COLUMNS, C - c)
        o = first
        while o < after:
            for m in range(M):
                if real is float:
                    kernels.f32.dots(x + m * C + c, w + o * C + c, C, wide, y + m * O + o, <int>imin(DOT_ROWS, after - o))
                else:
                    kernels.f64.dots(x + m * C + c, w + o * C + c, C, wide, y + m * O + o, <int>imin(DOT_ROWS, after - o))
            o += DOT_ROWS
        c += wide


cdef void all_dots(const fc_isa* kernels, const real* x, const real* w, const real* bias, index M, index C, index O, real* y, int threads) noexcept:
    cdef index items = ceil_div(O, DOT_ITEM), i
    for i in prange(items, nogil=True, num_threads=threads, schedule="static"):
        dot_rows(kernels, x, w, bias, M, C, O, i * DOT_ITEM, imin(O, (i + 1) * DOT_ITEM), y)


def linear_dots(cnp.ndarray input, cnp.ndarray weight, bias, out=None):
    """y = x W^T + b for a few rows of x."""
    cdef const fc_isa* kernels = active_isa()
    cdef cnp.ndarray x = cnp.PyArray_GETCONTIGUOUS(input), w = cnp.PyArray_GETCONTIGUOUS(weight), b, y
    cdef index M = x.shape[0], C = x.shape[1], O = w.shape[0]
    cdef cnp.npy_intp shape[2]
    shape[0], shape[1] = M, O
    y = out if out is not None else cnp.PyArray_EMPTY(2, shape, cnp.PyArray_TYPE(x), 0)
    # reading W takes longer than multiplying: at some 50 GB/s a byte is the time of 5 operations
    cdef int threads = thread_count(5.0 * w.size * cnp.PyArray_ITEMSIZE(w), ceil_div(O, DOT_ITEM))
    cdef const void* bp = NULL
    if bias is not None:
        b = cnp.PyArray_GETCONTIGUOUS(bias)
        bp = cnp.PyArray_DATA(b)
    if cnp.PyArray_TYPE(x) == cnp.NPY_FLOAT:
        all_dots(kernels, <const float*>cnp.PyArray_DATA(x), <const float*>cnp.PyArray_DATA(w), <const float*>bp, M, C, O, <float*>cnp.PyArray_DATA(y), threads)
    else:
        all_dots(kernels, <const double*>cnp.PyArray_DATA(x), <const double*>cnp.PyArray_DATA(w), <const double*>bp, M, C, O, <double*>cnp.PyArray_DATA(y), threads)
    return y


cdef void input_columns(const fc_isa* kernels, const real* grad, const real* w, index M, index C, index O, index first, index after, real* gx) noexcept nogil:
    """Columns first .. after - 1 of grad_input: a panel is rows of W, the reduction runs over o."""
    cdef const real* rows[MOST_ROWS]
    cdef index lanes, c = first, m, wide
    cdef int j, some, mr, nv
    if real is float:
        lanes, mr, nv = kernels.f32.lanes, kernels.f32.mr, kernels.f32.nv
    else:
        lanes, mr, nv = kernels.f64.lanes, kernels.f64.mr, kernels.f64.nv
    while c < after:
        wide = imin(nv * lanes, after - c)
        m = 0
        while m < M:
            some = <int>imin(mr, M - m)
            for j in range(mr):
                rows[j] = grad + (m + (j if j < some else some - 1)) * O
            if real is float:
                kernels.f32.tile_outer(<float**>rows, 1, 0, 0, w + c, C, 0, 0, O, 1, 1, 0, gx + m * C + c, C, some, <int>(wide // lanes))
            else:
                kernels.f64.tile_outer(<double**>rows, 1, 0, 0, w + c, C, 0, 0, O, 1, 1, 0, gx + m * C + c, C, some, <int>(wide // lanes))
            m += mr
        c += wide


cdef void input_gradient(const fc_isa* kernels, const real* grad, const real* w, index M, index C, index O, real* gx) noexcept:
    cdef index items = ceil_div(C, GRAD_COLUMNS), i
    cdef int threads = thread_count(2.0 * M * C * O, items)
    for i in prange(items, nogil=True, num_threads=threads, schedule="static"):
        input_columns(kernels, grad, w, M, C, O, i * GRAD_COLUMNS, imin(C, (i + 1) * GRAD_COLUMNS), gx)


def linear_grad_input(cnp.ndarray grad_output, cnp.ndarray weight, out=None):
    """dx = dy W; the rows of W must be whole vectors."""
    cdef const fc_isa* kernels = active_isa()
    cdef cnp.ndarray g = cnp.PyArray_GETCONTIGUOUS(grad_output), w = cnp.PyArray_GETCONTIGUOUS(weight), gx
    cdef cnp.npy_intp shape[2]
    shape[0], shape[1] = g.shape[0], w.shape[1]
    gx = out if out is not None else cnp.PyArray_EMPTY(2, shape, cnp.PyArray_TYPE(g), 0)
    if gx.size and not g.shape[1]:
        gx.fill(0)
    elif gx.size and cnp.PyArray_TYPE(g) == cnp.NPY_FLOAT:
        input_gradient(kernels, <const float*>cnp.PyArray_DATA(g), <const float*>cnp.PyArray_DATA(w), g.shape[0], w.shape[1], w.shape[0], <float*>cnp.PyArray_DATA(gx))
    elif gx.size:
        input_gradient(kernels, <const double*>cnp.PyArray_DATA(g), <const double*>cnp.PyArray_DATA(w), g.shape[0], w.shape[1], w.shape[0], <double*>cnp.PyArray_DATA(gx))
    return gx
