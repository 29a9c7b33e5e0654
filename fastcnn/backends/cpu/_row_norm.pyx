# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Layer normalisation (Ba et al. 2016, arXiv:1607.06450) and group normalisation (Wu & He 2018, arXiv:1803.08494), forward and backward.

Where the elements that share a mean are one short run of memory, a row, csrc/kernels/rows.inc takes a row through all passes while it lies in L1: layer normalisation, and groups of
small planes, whose weights are written out per pixel first. Other groups are handled like the channels of batch normalisation, with its kernels: in planes a group is cut into pieces
of PIECE elements, in channels-last memory an image into pieces of some rows; each gives its sum and its squares about its own mean, put together in double and in order (Chan, Golub,
LeVeque 1979). All cuts depend on shapes alone, so no result depends on the number of threads.
"""
import numpy as np

cimport numpy as cnp
from cython.parallel cimport prange
from libc.math cimport isfinite, sqrt
from libc.string cimport memset

from fastcnn.backends.cpu._arrays cimport dense, is_channels_last
from fastcnn.backends.cpu._kernels cimport fc_isa
from fastcnn.backends.cpu._layout cimport aligned, ceil_div, imax, imin, index, real
from fastcnn.backends.cpu._runtime cimport Arena, acquire, active_isa, fc_use_pool, pool, release, thread_count

cnp.import_array()
fc_use_pool(pool())

cdef enum:
    ITEM = 4096          # elements of rows per item
    MOST_ROWS = 64       # whose gradients of the weights are added in one chain
    LEAST_ITEMS = 8      # of the backward pass, where there are so many rows
    COLUMNS = 512        # of the weights' gradients, added up at a time
    SMALL_PLANE = 64     # pixels: beyond, a channel's weight is worth a kernel call of its own
    SHORT_ROW = 16384    # elements of a group of small planes
    PIECE = 4096         # elements of a group in planes
    PIECE_BYTES = 32768  # of an image in channels-last memory

cdef double COST = 12    # operations per element, memory counted


cdef struct Rows:
    index rows
    index n
    index period  # rows of weights, used in turn
    index per     # rows of an item


cdef inline object like(cnp.ndarray x):
    return cnp.PyArray_EMPTY(cnp.PyArray_NDIM(x), cnp.PyArray_DIMS(x), cnp.PyArray_TYPE(x), 0)


cdef cnp.ndarray contiguous(cnp.ndarray a):
    return a if cnp.PyArray_IS_C_CONTIGUOUS(a) else cnp.PyArray_GETCONTIGUOUS(a)


cdef inline void* data(object a) noexcept:
    return NULL if a is None else cnp.PyArray_DATA(<cnp.ndarray>a)


cdef void forward_rows(const fc_isa* kernels, Rows s, double eps, const real* x, const real* weight, const real* bias, real* out) noexcept nogil:
    cdef index items = ceil_div(s.rows, s.per), i, at
    cdef int threads = thread_count(COST * s.rows * s.n, items)
    for i in prange(items, num_threads=threads, schedule="static"):
        at = i * s.per
        if real is float:
            kernels.f32.norm_rows(x + at * s.n, imin(s.per, s.rows - at), s.n, at, s.period, eps, weight, bias, out + at * s.n)
        else:
            kernels.f64.norm_rows(x + at * s.n, imin(s.per, s.rows - at), s.n, at, s.period, eps, weight, bias, out + at * s.n)


cdef void backward_rows(const fc_isa* kernels, Rows s, double eps, const real* grad, const real* x, const real* weight, real* out, real* parts, real* grad_weight,
                        real* grad_bias) noexcept nogil:
    """parts: (items, 2, period * n), of which each item adds up its own."""
    cdef index items = ceil_div(s.rows, s.per), i, at, width = s.period * s.n
    cdef int threads = thread_count(COST * s.rows * s.n, items)
    cdef real* mine
    for i in prange(items, num_threads=threads, schedule="static"):
        at = i * s.per
        mine = parts + 2 * i * width
        memset(mine, 0, 2 * width * sizeof(real))
        if real is float:
            kernels.f32.norm_rows_backward(grad + at * s.n, x + at * s.n, imin(s.per, s.rows - at) // s.period, s.n, s.period, eps, weight, out + at * s.n, mine, mine + width)
        else:
            kernels.f64.norm_rows_backward(grad + at * s.n, x + at * s.n, imin(s.per, s.rows - at) // s.period, s.n, s.period, eps, weight, out + at * s.n, mine, mine + width)
    threads = thread_count(8.0 * items * width, ceil_div(width, COLUMNS))
    for i in prange(ceil_div(width, COLUMNS), num_threads=threads, schedule="static"):
        at = i * COLUMNS
        if real is float:
            kernels.f32.add_parts(parts + at, 2 * width, items, imin(COLUMNS, width - at), grad_weight + at)
            kernels.f32.add_parts(parts + width + at, 2 * width, items, imin(COLUMNS, width - at), grad_bias + at)
        else:
            kernels.f64.add_parts(parts + at, 2 * width, items, imin(COLUMNS, width - at), grad_weight + at)
            kernels.f64.add_parts(parts + width + at, 2 * width, items, imin(COLUMNS, width - at), grad_bias + at)


cdef Rows rows_forward(index rows, index n, index period) noexcept:
    cdef Rows s
    s.rows, s.n, s.period, s.per = rows, n, period, imax(1, ITEM // imax(n, 1))
    return s


cdef Rows rows_backward(index rows, index n, index period) noexcept:
    """Items of whole periods, so that an element of the weights is met once per period."""
    cdef Rows s = rows_forward(rows, n, period)
    s.per = imin(MOST_ROWS, imax(1, rows // period // LEAST_ITEMS)) * period
    return s


cdef tuple normalise_backward(cnp.ndarray g, cnp.ndarray x, object weight, Rows s, double eps):
    """(grad_input, grad_weight, grad_bias), the latter (period * n,)."""
    cdef const fc_isa* kernels = active_isa()
    cdef cnp.npy_intp width = s.period * s.n
    cdef int typenum = cnp.PyArray_TYPE(x)
    cdef cnp.ndarray out = like(x), grad_weight = cnp.PyArray_EMPTY(1, &width, typenum, 0), grad_bias = cnp.PyArray_EMPTY(1, &width, typenum, 0)
    cdef Arena arena = acquire(ceil_div(s.rows, s.per) * 2 * width * cnp.PyArray_ITEMSIZE(x) + 64)
    cdef void* xp = cnp.PyArray_DATA(x)
    cdef void* gp = cnp.PyArray_DATA(g)
    cdef void* wp = data(weight)
    cdef void* op = cnp.PyArray_DATA(out)
    cdef void* wg = cnp.PyArray_DATA(grad_weight)
    cdef void* bg = cnp.PyArray_DATA(grad_bias)
    with nogil:
        if typenum == cnp.NPY_FLOAT:
            backward_rows(kernels, s, eps, <float*>gp, <float*>xp, <float*>wp, <float*>op, <float*>arena.base, <float*>wg, <float*>bg)
        else:
            backward_rows(kernels, s, eps, <double*>gp, <double*>xp, <double*>wp, <double*>op, <double*>arena.base, <double*>wg, <double*>bg)
    release(arena)
    return out, grad_weight, grad_bias


cdef cnp.ndarray normalise(cnp.ndarray x, object weight, object bias, Rows s, double eps):
    cdef const fc_isa* kernels = active_isa()
    cdef cnp.ndarray out = like(x)
    cdef void* xp = cnp.PyArray_DATA(x)
    cdef void* wp = data(weight)
    cdef void* bp = data(bias)
    cdef void* op = cnp.PyArray_DATA(out)
    cdef bint single = cnp.PyArray_TYPE(x) == cnp.NPY_FLOAT
    with nogil:
        if single:
            forward_rows(kernels, s, eps, <float*>xp, <float*>wp, <float*>bp, <float*>op)
        else:
            forward_rows(kernels, s, eps, <double*>xp, <double*>wp, <double*>bp, <double*>op)
    return out


def layer_norm(cnp.ndarray input, tuple normalized_shape, weight, bias, double eps):
    """(input - mean) / sqrt(var + eps) * weight + bias over the trailing axes."""
    cdef cnp.ndarray x = contiguous(input)
    cdef index n = 1, size
    for size in normalized_shape:
        n *= size
    return normalise(x, None if weight is None else contiguous(weight), None if bias is None else contiguous(bias), rows_forward(x.size // n, n, 1), eps)


def layer_norm_backward(cnp.ndarray grad_output, cnp.ndarray input, tuple normalized_shape, weight, double eps):
    cdef cnp.ndarray x = contiguous(input), g = contiguous(grad_output)
    cdef index n = 1, size
    for size in normalized_shape:
        n *= size
    grad_input, grad_weight, grad_bias = normalise_backward(g, x, None if weight is None else contiguous(weight), rows_backward(x.size // n, n, 1), eps)
    return grad_input, grad_weight.reshape(normalized_shape), grad_bias.reshape(normalized_shape)


# Groups of channels


cdef struct Groups:
    bint last
    index N
    index G
    index channels  # of a group
    index C
    index pixels
    index rows      # pixels of a piece in channels-last memory
    index pieces    # of a group in planes, of an image in channels-last memory
    int threads


cdef struct Parts:
    # scratch; sums, means, squares: statistics of pieces; mean, inverse: of groups; scale: (N, C); dots, totals: per image and channel; k: three times (N, C)
    char* sums
    char* means
    char* squares
    double* mean
    double* inverse
    double* dots
    double* totals
    char* centre
    char* scale
    char* k2
    char* k3


cdef Groups groups_of(cnp.ndarray x, index groups) noexcept:
    cdef Groups s
    s.N, s.C, s.pixels, s.G = x.shape[0], x.shape[1], x.shape[2] * x.shape[3], groups
    s.channels = s.C // groups
    s.last = is_channels_last(x)
    s.rows = imax(2, PIECE_BYTES // (s.C * cnp.PyArray_ITEMSIZE(x)))
    s.pieces = imax(1, ceil_div(s.pixels, s.rows) if s.last else ceil_div(s.channels * s.pixels, PIECE))
    s.threads = thread_count(COST * x.size, s.N * s.pieces if s.last else s.N * s.G * s.pieces)
    return s


cdef inline bint short_rows(const Groups* s) noexcept:
    """Small planes: a group is a row, with a weight for each of its elements."""
    return not s.last and s.pixels <= SMALL_PLANE and s.channels * s.pixels <= SHORT_ROW


cdef inline size_t piece_bytes(const Groups* s) noexcept nogil:
    return aligned(s.N * (s.C if s.last else s.G) * s.pieces * sizeof(double))


cdef inline size_t channel_bytes(const Groups* s) noexcept nogil:
    return aligned(s.N * s.C * sizeof(double))


cdef size_t scratch_bytes(const Groups* s) noexcept:
    return 3 * piece_bytes(s) + 8 * channel_bytes(s)


cdef Parts parts_at(const Groups* s, char* base) noexcept:
    cdef Parts p
    cdef size_t piece = piece_bytes(s), line = channel_bytes(s)
    p.sums, p.means, p.squares = base, base + piece, base + 2 * piece
    base += 3 * piece
    p.mean, p.inverse, p.dots, p.totals = <double*>base, <double*>(base + line), <double*>(base + 2 * line), <double*>(base + 3 * line)
    p.centre, p.scale, p.k2, p.k3 = base + 4 * line, base + 5 * line, base + 6 * line, base + 7 * line
    return p


cdef void piece_statistics(const fc_isa* kernels, const Groups* s, const Parts* p, index item, const real* x) noexcept nogil:
    """Of piece item % pieces of group item // pieces (of image item // pieces in channels-last memory: all its channels)."""
    cdef index start, n, c, at, size = s.channels * s.pixels
    cdef real* sum
    cdef real* mean
    if not s.last:
        start = item % s.pieces * PIECE
        n = imin(PIECE, size - start)
        x += item // s.pieces * size + start
        if real is float:
            kernels.f32.plane_statistics(x, 0, 1, n, <real*>p.means + item, <double*>p.squares + item, <double*>p.sums + item)
        else:
            kernels.f64.plane_statistics(x, 0, 1, n, <real*>p.means + item, <double*>p.squares + item, <double*>p.sums + item)
        return
    start = item % s.pieces * s.rows
    n = imin(s.rows, s.pixels - start)
    x += (item // s.pieces * s.pixels + start) * s.C
    at = item * s.C
    sum = <real*>p.sums + at
    mean = <real*>p.means + at
    if real is float:
        kernels.f32.column_sums(x, n, s.C, s.C, sum)
    else:
        kernels.f64.column_sums(x, n, s.C, s.C, sum)
    for c in range(s.C):
        mean[c] = sum[c] / n
    if real is float:
        kernels.f32.column_square_deviations(x, mean, n, s.C, s.C, <real*>p.squares + at, sum)
    else:
        kernels.f64.column_square_deviations(x, mean, n, s.C, s.C, <real*>p.squares + at, sum)


cdef void combine(const Groups* s, const Parts* p, index group, double eps, real* tag) noexcept nogil:
    """Mean and 1 / sqrt(var + eps) of group `group` of all images from the statistics of its pieces."""
    cdef index i, c, piece, at, pieces = s.pieces * s.channels if s.last else s.pieces
    cdef index origin = group // s.G * s.pieces * s.C + group % s.G * s.channels if s.last else group * s.pieces
    cdef double total = 0, base, spread = 0, step, deviation, squares, count, M = <double>s.channels * s.pixels
    base = (<real*>p.means)[origin]
    if not isfinite(base):
        base = 0
    for i in range(2 * pieces):  # first the mean, then the squares about it
        piece = i % pieces
        if s.last:
            at = origin + piece // s.channels * s.C + piece % s.channels
            count = imin(s.rows, s.pixels - piece // s.channels * s.rows)
            deviation, squares = (<real*>p.sums)[at], (<real*>p.squares)[at]
        else:
            at = origin + piece
            count = imin(PIECE, s.channels * s.pixels - piece * PIECE)
            deviation, squares = (<double*>p.sums)[at], (<double*>p.squares)[at]
        if i == pieces:
            total = base + total / M
        if i < pieces:
            total += count * ((<real*>p.means)[at] - base) + (deviation if isfinite((<real*>p.means)[at]) else 0)
        else:
            step = (<real*>p.means)[at] - total
            spread += squares + step * (2 * deviation + count * step)
    p.mean[group] = total
    p.inverse[group] = 1 / sqrt((0 if spread < 0 else spread / M) + eps)


cdef void channel_scales(const Groups* s, const Parts* p, index group, const real* weight) noexcept nogil:
    cdef index c, first = group % s.G * s.channels, at = group // s.G * s.C + first
    for c in range(s.channels):
        (<real*>p.centre)[at + c] = <real>p.mean[group]
        (<real*>p.scale)[at + c] = <real>(p.inverse[group] * (weight[first + c] if weight != NULL else 1))


cdef void apply_group(const fc_isa* kernels, const Groups* s, const Parts* p, index group, const real* x, const real* bias, real* out) noexcept nogil:
    """In planes."""
    cdef index c, first = group % s.G * s.channels, at = group // s.G * s.C + first, origin = at * s.pixels
    cdef real* centre = <real*>p.centre
    cdef real* scale = <real*>p.scale
    for c in range(s.channels):
        if real is float:
            kernels.f32.affine(x + origin, 0, 1, centre[at + c], scale[at + c], bias[first + c] if bias != NULL else 0, out + origin, s.pixels)
        else:
            kernels.f64.affine(x + origin, 0, 1, centre[at + c], scale[at + c], bias[first + c] if bias != NULL else 0, out + origin, s.pixels)
        origin += s.pixels


cdef void statistics(const fc_isa* kernels, const Groups* s, const Parts* p, const real* x, const real* weight, double eps) noexcept nogil:
    """Of all groups, the pieces shared out."""
    cdef index i
    for i in prange(s.N * s.pieces if s.last else s.N * s.G * s.pieces, num_threads=s.threads, schedule="static"):
        piece_statistics(kernels, s, p, i, x)
    for i in prange(s.N * s.G, num_threads=s.threads, schedule="static"):
        combine(s, p, i, eps, <real*>x)
        channel_scales(s, p, i, weight)


cdef void group_statistics(const fc_isa* kernels, const Groups* s, const Parts* p, index group, const real* x, const real* weight, double eps) noexcept nogil:
    """Of one group in planes."""
    cdef index j
    for j in range(s.pieces):
        piece_statistics(kernels, s, p, group * s.pieces + j, x)
    combine(s, p, group, eps, <real*>x)
    channel_scales(s, p, group, weight)


cdef inline bint by_groups(const Groups* s) noexcept nogil:
    """Are there groups enough, in planes, for every thread to take whole ones through all passes?"""
    return not s.last and s.N * s.G >= 4 * s.threads


cdef void forward_groups(const fc_isa* kernels, const Groups* s, const Parts* p, double eps, const real* x, const real* weight, const real* bias, const real* zeros,
                         real* out) noexcept nogil:
    cdef index i, n, start
    if by_groups(s):
        for i in prange(s.N * s.G, num_threads=s.threads, schedule="static"):
            group_statistics(kernels, s, p, i, x, weight, eps)
            apply_group(kernels, s, p, i, x, bias, out)
        return
    statistics(kernels, s, p, x, weight, eps)
    if not s.last:
        for i in prange(s.N * s.C, num_threads=s.threads, schedule="static"):
            if real is float:
                kernels.f32.affine(x + i * s.pixels, 0, 1, (<real*>p.centre)[i], (<real*>p.scale)[i], bias[i % s.C] if bias != NULL else 0, out + i * s.pixels, s.pixels)
            else:
                kernels.f64.affine(x + i * s.pixels, 0, 1, (<real*>p.centre)[i], (<real*>p.scale)[i], bias[i % s.C] if bias != NULL else 0, out + i * s.pixels, s.pixels)
        return
    for i in prange(s.N * s.pieces, num_threads=s.threads, schedule="static"):
        n = i // s.pieces * s.C
        start = (i // s.pieces * s.pixels + i % s.pieces * s.rows) * s.C
        if real is float:
            kernels.f32.column_normalise(-1, 0, x + start, <real*>p.centre + n, <real*>p.scale + n, bias if bias != NULL else zeros,
                                         imin(s.rows, s.pixels - i % s.pieces * s.rows), s.C, out + start)
        else:
            kernels.f64.column_normalise(-1, 0, x + start, <real*>p.centre + n, <real*>p.scale + n, bias if bias != NULL else zeros,
                                         imin(s.rows, s.pixels - i % s.pieces * s.rows), s.C, out + start)


cdef void sum_channel(const fc_isa* kernels, const Groups* s, const Parts* p, index at, const real* grad, const real* x) noexcept nogil:
    """Sums of grad and of grad * (x - mean) over one plane, from those of its pieces."""
    cdef index i = 0
    cdef double total, dot
    p.totals[at] = p.dots[at] = 0
    grad += at * s.pixels
    x += at * s.pixels
    while i < s.pixels:
        if real is float:
            kernels.f32.grad_sums(grad + i, x + i, 0, 1, (<real*>p.centre)[at], imin(PIECE, s.pixels - i), &total, &dot)
        else:
            kernels.f64.grad_sums(grad + i, x + i, 0, 1, (<real*>p.centre)[at], imin(PIECE, s.pixels - i), &total, &dot)
        p.totals[at] += total
        p.dots[at] += dot
        i += PIECE


cdef void gradient_constants(const Groups* s, const Parts* p, index group, const real* weight) noexcept nogil:
    """dx = scale * dy + (k2 * (x - mean) + k3)"""
    cdef index c, first = group % s.G * s.channels, at = group // s.G * s.C + first
    cdef double total = 0, dot = 0, w, inverse = p.inverse[group], M = <double>s.channels * s.pixels
    # the mean of the group as rounded, which the planes are taken about, against the mean itself
    for c in range(s.channels):
        w = weight[first + c] if weight != NULL else 1
        total += w * p.totals[at + c]
        dot += w * p.dots[at + c]
    for c in range(s.channels):
        (<real*>p.k2)[at + c] = <real>(-inverse * inverse * inverse * (dot / M))
        (<real*>p.k3)[at + c] = <real>(-inverse * (total / M))


cdef void gradient_plane(const fc_isa* kernels, const Groups* s, const Parts* p, index at, const real* grad, const real* x, real* out) noexcept nogil:
    cdef index origin = at * s.pixels
    if real is float:
        kernels.f32.affine2(grad + origin, x + origin, 0, 1, (<real*>p.centre)[at], (<real*>p.scale)[at], (<real*>p.k2)[at], (<real*>p.k3)[at], out + origin, s.pixels)
    else:
        kernels.f64.affine2(grad + origin, x + origin, 0, 1, (<real*>p.centre)[at], (<real*>p.scale)[at], (<real*>p.k2)[at], (<real*>p.k3)[at], out + origin, s.pixels)


cdef void backward_group(const fc_isa* kernels, const Groups* s, const Parts* p, index group, double eps, const real* grad, const real* x, const real* weight,
                         real* out) noexcept nogil:
    """All passes over one group in planes."""
    cdef index c, at = group // s.G * s.C + group % s.G * s.channels
    group_statistics(kernels, s, p, group, x, weight, eps)
    for c in range(s.channels):
        sum_channel(kernels, s, p, at + c, grad, x)
    gradient_constants(s, p, group, weight)
    for c in range(s.channels):
        gradient_plane(kernels, s, p, at + c, grad, x, out)


cdef void sum_image(const Groups* s, const Parts* p, index n, real* tag) noexcept nogil:
    """An image's sums per channel from those of its pieces, in channels-last memory."""
    cdef index i, c, at
    for c in range(s.C):
        p.totals[n * s.C + c] = p.dots[n * s.C + c] = 0
    for i in range(s.pieces):
        at = (n * s.pieces + i) * s.C
        for c in range(s.C):
            p.totals[n * s.C + c] += (<real*>p.sums)[at + c]
            p.dots[n * s.C + c] += (<real*>p.squares)[at + c]


cdef void sum_rows(const fc_isa* kernels, const Groups* s, const Parts* p, index i, const real* grad, const real* x, const real* zeros) noexcept nogil:
    """Of a piece in channels-last memory; the sums take the place of the statistics, which are no longer needed."""
    cdef index n = i // s.pieces * s.C, start = (i // s.pieces * s.pixels + i % s.pieces * s.rows) * s.C, rows = imin(s.rows, s.pixels - i % s.pieces * s.rows)
    if real is float:
        kernels.f32.column_grad_sums(-1, 0, grad + start, x + start, <real*>p.centre + n, zeros, zeros, rows, s.C, <real*>p.sums + i * s.C, <real*>p.squares + i * s.C)
    else:
        kernels.f64.column_grad_sums(-1, 0, grad + start, x + start, <real*>p.centre + n, zeros, zeros, rows, s.C, <real*>p.sums + i * s.C, <real*>p.squares + i * s.C)


cdef void gradient_rows(const fc_isa* kernels, const Groups* s, const Parts* p, index i, const real* grad, const real* x, const real* zeros, real* out) noexcept nogil:
    cdef index n = i // s.pieces * s.C, start = (i // s.pieces * s.pixels + i % s.pieces * s.rows) * s.C, rows = imin(s.rows, s.pixels - i % s.pieces * s.rows)
    if real is float:
        kernels.f32.column_grad(-1, 0, grad + start, x + start, <real*>p.centre + n, zeros, zeros, <real*>p.scale + n, <real*>p.k2 + n, <real*>p.k3 + n, rows, s.C,
                                out + start, <real*>p.sums + i * s.C)
    else:
        kernels.f64.column_grad(-1, 0, grad + start, x + start, <real*>p.centre + n, zeros, zeros, <real*>p.scale + n, <real*>p.k2 + n, <real*>p.k3 + n, rows, s.C,
                                out + start, <real*>p.sums + i * s.C)


cdef void backward_groups(const fc_isa* kernels, const Groups* s, const Parts* p, double eps, const real* grad, const real* x, const real* weight, const real* zeros,
                          real* out, real* grad_weight, real* grad_bias) noexcept nogil:
    cdef index i, n, c
    cdef double total, dot
    if by_groups(s):
        for i in prange(s.N * s.G, num_threads=s.threads, schedule="static"):
            backward_group(kernels, s, p, i, eps, grad, x, weight, out)
    else:
        statistics(kernels, s, p, x, weight, eps)
        if s.last:
            for i in prange(s.N * s.pieces, num_threads=s.threads, schedule="static"):
                sum_rows(kernels, s, p, i, grad, x, zeros)
            for n in range(s.N):
                sum_image(s, p, n, <real*>x)
        else:
            for i in prange(s.N * s.C, num_threads=s.threads, schedule="static"):
                sum_channel(kernels, s, p, i, grad, x)
        for i in range(s.N * s.G):
            gradient_constants(s, p, i, weight)
        if s.last:
            for i in prange(s.N * s.pieces, num_threads=s.threads, schedule="static"):
                gradient_rows(kernels, s, p, i, grad, x, zeros, out)
        else:
            for i in prange(s.N * s.C, num_threads=s.threads, schedule="static"):
                gradient_plane(kernels, s, p, i, grad, x, out)
    for c in range(s.C):
        total, dot = 0, 0
        for n in range(s.N):
            total += p.totals[n * s.C + c]
            dot += p.dots[n * s.C + c] * p.inverse[n * s.G + c // s.channels]
        grad_weight[c], grad_bias[c] = <real>dot, <real>total


cdef object spread(object vector, index pixels):
    """(C,) -> (C * pixels,): a weight for each element of an image."""
    if vector is None:
        return None
    cdef const fc_isa* kernels = active_isa()
    cdef cnp.ndarray v = contiguous(vector), wide
    cdef cnp.npy_intp size = v.size * pixels
    if pixels == 1:
        return v
    wide = cnp.PyArray_EMPTY(1, &size, cnp.PyArray_TYPE(v), 0)
    if cnp.PyArray_TYPE(v) == cnp.NPY_FLOAT:
        kernels.f32.row_fill(<float*>cnp.PyArray_DATA(v), v.size, pixels, 1, <float*>cnp.PyArray_DATA(wide))
    else:
        kernels.f64.row_fill(<double*>cnp.PyArray_DATA(v), v.size, pixels, 1, <double*>cnp.PyArray_DATA(wide))
    return wide


cdef cnp.ndarray gathered(cnp.ndarray parts, Groups s):
    """(C * pixels,) -> (C,)"""
    cdef const fc_isa* kernels = active_isa()
    cdef cnp.ndarray sums
    cdef cnp.npy_intp C = s.C
    cdef index c
    if s.pixels == 1:
        return parts
    sums = cnp.PyArray_EMPTY(1, &C, cnp.PyArray_TYPE(parts), 0)
    for c in range(s.C):
        if cnp.PyArray_TYPE(parts) == cnp.NPY_FLOAT:
            (<float*>cnp.PyArray_DATA(sums))[c] = <float>kernels.f32.sum(<float*>cnp.PyArray_DATA(parts) + c * s.pixels, s.pixels)
        else:
            (<double*>cnp.PyArray_DATA(sums))[c] = kernels.f64.sum(<double*>cnp.PyArray_DATA(parts) + c * s.pixels, s.pixels)
    return sums


def group_norm(cnp.ndarray input, index num_groups, weight, bias, double eps):
    """(input - mean) / sqrt(var + eps) * weight[c] + bias[c], mean and var per image and group of channels."""
    cdef cnp.ndarray x = dense(input), out
    cdef Groups s = groups_of(x, num_groups)
    cdef const fc_isa* kernels = active_isa()
    cdef Arena arena
    cdef Parts p
    if x.size == 0:
        return np.empty_like(x)
    if short_rows(&s):
        return normalise(x, spread(weight, s.pixels), spread(bias, s.pixels), rows_forward(s.N * s.G, s.channels * s.pixels, s.G), eps)
    out = np.empty_like(x)
    cdef cnp.ndarray zeros = np.zeros(s.C, x.dtype)
    cdef object w = None if weight is None else contiguous(weight), b = None if bias is None else contiguous(bias)
    cdef void* xp = cnp.PyArray_DATA(x)
    cdef void* op = cnp.PyArray_DATA(out)
    cdef void* wp = data(w)
    cdef void* bp = data(b)
    cdef void* zp = data(zeros)
    cdef bint single = cnp.PyArray_TYPE(x) == cnp.NPY_FLOAT
    arena = acquire(scratch_bytes(&s))
    p = parts_at(&s, arena.base)
    with nogil:
        if single:
            forward_groups(kernels, &s, &p, eps, <float*>xp, <float*>wp, <float*>bp, <float*>zp, <float*>op)
        else:
            forward_groups(kernels, &s, &p, eps, <double*>xp, <double*>wp, <double*>bp, <double*>zp, <double*>op)
    release(arena)
    return out


def group_norm_backward(cnp.ndarray grad_output, cnp.ndarray input, index num_groups, weight, double eps):
    cdef cnp.ndarray x = dense(input), g = dense(grad_output), out
    if cnp.PyArray_IS_C_CONTIGUOUS(g) != cnp.PyArray_IS_C_CONTIGUOUS(x):
        g = np.empty_like(x)
        cnp.PyArray_CopyInto(g, grad_output)
    cdef Groups s = groups_of(x, num_groups)
    cdef const fc_isa* kernels = active_isa()
    cdef Arena arena
    cdef Parts p
    cdef cnp.ndarray zeros = np.zeros(s.C, x.dtype)
    if x.size == 0:
        return np.empty_like(x), zeros, zeros.copy()
    if short_rows(&s):
        out, grad_weight, grad_bias = normalise_backward(g, x, spread(weight, s.pixels), rows_backward(s.N * s.G, s.channels * s.pixels, s.G), eps)
        return out, gathered(grad_weight, s), gathered(grad_bias, s)
    out = np.empty_like(x)
    cdef cnp.ndarray to_weight = np.empty(s.C, x.dtype), to_bias = np.empty(s.C, x.dtype)
    cdef object w = None if weight is None else contiguous(weight)
    cdef void* xp = cnp.PyArray_DATA(x)
    cdef void* gp = cnp.PyArray_DATA(g)
    cdef void* op = cnp.PyArray_DATA(out)
    cdef void* wp = data(w)
    cdef void* zp = data(zeros)
    cdef void* wg = data(to_weight)
    cdef void* bg = data(to_bias)
    cdef bint single = cnp.PyArray_TYPE(x) == cnp.NPY_FLOAT
    arena = acquire(scratch_bytes(&s))
    p = parts_at(&s, arena.base)
    with nogil:
        if single:
            backward_groups(kernels, &s, &p, eps, <float*>gp, <float*>xp, <float*>wp, <float*>zp, <float*>op, <float*>wg, <float*>bg)
        else:
            backward_groups(kernels, &s, &p, eps, <double*>gp, <double*>xp, <double*>wp, <double*>zp, <double*>op, <double*>wg, <double*>bg)
    release(arena)
    return out, to_weight, to_bias
