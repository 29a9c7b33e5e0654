# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Batch normalisation over (N, H, W) per channel (Ioffe & Szegedy 2015, arXiv:1502.03167); in channels-last memory also with the activation and the pooling that
follow it, in the same passes.

The data are cut into pieces whose size depends on the shape alone: some rows of one image in channels-last memory, small enough for L1; in C-contiguous memory the plane of one
image, or the small ones of several. Each piece gives its sum and its squares about its own mean, and the pieces are put together in double, in order (Chan, Golub, LeVeque 1979): one pass over memory, no
cancellation, bits that do not depend on the threads, and the same bits whether activation and pooling are done here or by themselves.

In planes a thread takes one channel after the other through all its steps, where there are enough of them: the second reading of a channel then comes from the cache.

Passes over memory: forward two reads and one write; backward two of each of (grad_output, input) and one write. A pooled gradient is spread into a piece in L1 and never stored.
A Winograd convolution in front takes the statistics of the pieces it has just made, and one behind normalises what it loads: forward is then one write and one read.
"""
import numpy as np

cimport numpy as cnp
from cython.parallel cimport parallel, prange, threadid
from libc.math cimport isfinite, sqrt
from libc.stdint cimport int8_t
from libc.string cimport memset

from fastcnn.backends.cpu._arrays cimport dense, is_channels_last
from fastcnn.backends.cpu._kernels cimport FC_LEAKY_RELU, FC_RELU, fc_isa
from fastcnn.backends.cpu._layout cimport aligned, ceil_div, imax, imin, index, real
from fastcnn.backends.cpu._runtime cimport Arena, acquire, active_isa, fc_use_pool, pool, release, thread_count
from fastcnn.backends.cpu._windows cimport Windows, add_row, make_windows, mean_back, mean_columns, ring_rows

cnp.import_array()
fc_use_pool(pool())

cdef enum:
    PIECE_BYTES = 32 * 1024
    PIECE_PIXELS = 4096  # of a channel, in planes
    SMALL_PLANE = 512    # pixels: up to here planes are walked image by image
    BACK_PIECES = 16  # of averages' gradients that share the rows spread under them

# What can follow in the same pass: activations whose code is part of the kernels. None stands for no activation.
ACTIVATIONS = {None: -1, "relu": FC_RELU, "leaky_relu": FC_LEAKY_RELU}


cdef enum:
    NO_POOL, HALVING, AVERAGE  # none; 2x2 windows of maxima, stride 2; means of any windows


cdef inline bint small_planes(const Layout* s) noexcept nogil:
    """The planes of one channel are then short runs of memory, far apart: no prefetching finds them, and they may share few sets of the caches."""
    return not s.last and 0 < s.H * s.W <= SMALL_PLANE and s.C > 1


cdef Layout make_layout(index N, index C, index H, index W, size_t itemsize, bint last) noexcept:
    cdef Layout s
    s.N, s.C, s.H, s.W = N, C, H, W
    s.last = last or H * W == 1  # one pixel: both formats are the same memory
    s.op, s.slope, s.pool = -1, 0, NO_POOL
    s.rows, s.strips, s.images = s.H, 1, 1
    if s.last:
        # an even number of rows, so that no 2x2 window lies in two pieces; one-pixel images (the output of a linear layer) are taken as one image
        if s.H * s.W == 1:
            s.H, s.N = s.N, 1
        s.rows = imin(s.H, imax(2, PIECE_BYTES // (s.W * s.C * <index>itemsize) // 2 * 2)) if s.H > 0 else 1
        s.strips = ceil_div(s.H, s.rows)
    else:
        s.images = imax(1, imin(s.N, (SMALL_PLANE if small_planes(&s) else PIECE_PIXELS) // (H * W)))
    s.pieces = ceil_div(s.N, s.images) * s.strips
    s.threads = thread_count(4.0 * N * C * H * W, s.pieces if s.last else s.pieces * s.C)
    return s


cdef Layout layout_of(cnp.ndarray x) noexcept:
    return make_layout(x.shape[0], x.shape[1], x.shape[2], x.shape[3], cnp.PyArray_ITEMSIZE(x), is_channels_last(x))


cdef inline index piece_rows(const Layout* s, index piece) noexcept nogil:
    return imin(s.rows, s.H - piece % s.strips * s.rows)


cdef inline index piece_at(const Layout* s, index piece) noexcept nogil:
    return (piece // s.strips * s.H + piece % s.strips * s.rows) * s.W * s.C


cdef inline index pooled_at(const Layout* s, index piece) noexcept nogil:
    return (piece // s.strips * s.windows.OH + piece % s.strips * s.rows // 2) * s.windows.OW * s.C


cdef void piece_statistics(const fc_isa* kernels, const Pieces* p, index i, const real* x) noexcept nogil:
    """A piece's mean as rounded, and the sums of the deviations from it and of their squares, all channels."""
    cdef const Layout* s = p.layout
    cdef index c, rows = piece_rows(s, i) * s.W
    cdef real* sum = <real*>p.sums + i * s.C
    cdef real* mean = <real*>p.means + i * s.C
    cdef real* squares = <real*>p.squares + i * s.C
    x += piece_at(s, i)
    if real is float:
        kernels.f32.column_sums(x, rows, s.C, s.C, sum)
    else:
        kernels.f64.column_sums(x, rows, s.C, s.C, sum)
    for c in range(s.C):
        mean[c] = sum[c] / rows
    if real is float:
        kernels.f32.column_square_deviations(x, mean, rows, s.C, s.C, squares, sum)
    else:
        kernels.f64.column_square_deviations(x, mean, rows, s.C, s.C, squares, sum)


cdef inline index piece_images(const Layout* s, index piece) noexcept nogil:
    return imin(s.images, s.N - piece * s.images)


cdef inline index plane_at(const Layout* s, index piece, index c) noexcept nogil:
    """The first of the piece's planes of channel c."""
    return (piece * s.images * s.C + c) * s.H * s.W


cdef void plane_statistics(const fc_isa* kernels, const Pieces* p, index i, index c, const real* x) noexcept nogil:
    """The same of one channel in planes; sums and squares hold doubles."""
    cdef const Layout* s = p.layout
    cdef index at = i * s.C + c, pixels = s.H * s.W
    if real is float:
        kernels.f32.plane_statistics(x + plane_at(s, i, c), s.C * pixels, piece_images(s, i), pixels, <real*>p.means + at, <double*>p.squares + at, <double*>p.sums + at)
    else:
        kernels.f64.plane_statistics(x + plane_at(s, i, c), s.C * pixels, piece_images(s, i), pixels, <real*>p.means + at, <double*>p.squares + at, <double*>p.sums + at)


cdef void combine(const Pieces* p, index c, real* mean, real* var) noexcept nogil:
    """Mean and biased variance of channel c from those of the pieces."""
    cdef const Layout* s = p.layout
    cdef real* rows = <real*>p.sums
    cdef real* means = <real*>p.means
    cdef real* squares = <real*>p.squares
    cdef double* sums = <double*>p.sums
    cdef double* deviations = <double*>p.squares
    cdef index i, at
    cdef double total = 0, base, spread = 0, step, piece, count, M = <double>s.N * s.H * s.W
    base = means[c] if isfinite(means[c]) else 0  # the sums are taken from near the mean, where double loses nothing of a constant channel
    for i in range(s.pieces):
        at = i * s.C + c
        count = piece_rows(s, i) * s.W if s.last else piece_images(s, i) * s.H * s.W
        piece = rows[at] if s.last else sums[at]
        total += count * (means[at] - base) + (piece if isfinite(means[at]) else 0)
    total = base + total / M
    mean[c] = <real>total
    for i in range(s.pieces):
        at = i * s.C + c
        count = piece_rows(s, i) * s.W if s.last else piece_images(s, i) * s.H * s.W
        piece = rows[at] if s.last else sums[at]
        # sum (x - mean)^2 = sum (x - m)^2 + (m - mean) * (2 * sum (x - m) + n * (m - mean)),  m the piece's mean as rounded
        step = means[at] - total
        spread += (squares[at] if s.last else deviations[at]) + step * (2 * piece + count * step)
    var[c] = 0 if spread < 0 else <real>(spread / M)  # rounding; NaN stays


cdef void statistics(const fc_isa* kernels, const Pieces* p, const real* x, bint counted, real* mean, real* var) noexcept nogil:
    """Mean and biased variance in channels-last memory; `counted`: the statistics of the pieces are there already."""
    cdef const Layout* s = p.layout
    cdef index i, c
    if not counted:
        for i in prange(s.pieces, num_threads=s.threads, schedule="static"):
            piece_statistics(kernels, p, i, x)
    for c in range(s.C):
        combine(p, c, mean, var)


cdef inline bint by_channels(const Layout* s) noexcept nogil:
    """Are there channels enough, in planes, for every thread to take whole ones?"""
    return s.C >= 4 * s.threads


cdef inline void apply_planes(const fc_isa* kernels, const Layout* s, index c, index n, index images, const real* x, const Constants* k, real* out) noexcept nogil:
    """Channel c of images n .. n + images - 1."""
    cdef index pixels = s.H * s.W, at = (n * s.C + c) * pixels
    if real is float:
        kernels.f32.affine(x + at, s.C * pixels, images, (<real*>k.mean)[c], (<real*>k.scale)[c], (<real*>k.shift)[c], out + at, pixels)
    else:
        kernels.f64.affine(x + at, s.C * pixels, images, (<real*>k.mean)[c], (<real*>k.scale)[c], (<real*>k.shift)[c], out + at, pixels)


cdef void piece_of_planes(const fc_isa* kernels, const Pieces* p, index i, const real* x) noexcept nogil:
    """The statistics of all channels of some images: as many runs of memory as images."""
    cdef index c
    for c in range(p.layout.C):
        plane_statistics(kernels, p, i, c, x)


cdef void apply_image(const fc_isa* kernels, const Layout* s, index n, const real* x, const Constants* k, real* out) noexcept nogil:
    cdef index at = n * s.C * s.H * s.W
    if real is float:
        kernels.f32.affine_image(x + at, s.C, s.H * s.W, <real*>k.mean, <real*>k.scale, <real*>k.shift, out + at)
    else:
        kernels.f64.affine_image(x + at, s.C, s.H * s.W, <real*>k.mean, <real*>k.scale, <real*>k.shift, out + at)


cdef void forward_planes(const fc_isa* kernels, const Pieces* p, const real* x, bint given, double eps, const real* weight, real* mean, real* var, real* scale,
                         const Constants* k, real* out) noexcept nogil:
    """Everything in planes; `given`: mean and variance are."""
    cdef const Layout* s = p.layout
    cdef index i, j, c
    if small_planes(s):
        if not given:
            for i in prange(s.pieces, num_threads=s.threads, schedule="static"):
                piece_of_planes(kernels, p, i, x)
            for c in prange(s.C, num_threads=s.threads if s.pieces * s.C > 4096 else 1, schedule="static"):
                combine(p, c, mean, var)
        fill_scale(s, eps, weight, var, scale)
        for i in prange(s.N, num_threads=s.threads, schedule="static"):
            apply_image(kernels, s, i, x, k, out)
        return
    if by_channels(s):
        for c in prange(s.C, num_threads=s.threads, schedule="static"):
            if not given:
                for j in range(s.pieces):
                    plane_statistics(kernels, p, j, c, x)
                combine(p, c, mean, var)
            scale[c] = <real>(weight[c] / sqrt(var[c] + eps))
            apply_planes(kernels, s, c, 0, s.N, x, k, out)
        return
    if not given:
        for i in prange(s.pieces * s.C, num_threads=s.threads, schedule="static"):
            plane_statistics(kernels, p, i // s.C, i % s.C, x)
        for c in range(s.C):
            combine(p, c, mean, var)
    fill_scale(s, eps, weight, var, scale)
    for i in prange(s.pieces * s.C, num_threads=s.threads, schedule="static"):
        apply_planes(kernels, s, i % s.C, i // s.C * s.images, piece_images(s, i // s.C), x, k, out)


cdef void normalise_rows(const fc_isa* kernels, const Layout* s, const real* x, const Constants* k, index rows, real* out) noexcept nogil:
    """act((x - mean) * scale + shift) for rows of pixels."""
    if real is float:
        kernels.f32.column_normalise(s.op, <real>s.slope, x, <real*>k.mean, <real*>k.scale, <real*>k.shift, rows * s.W, s.C, out)
    else:
        kernels.f64.column_normalise(s.op, <real>s.slope, x, <real*>k.mean, <real*>k.scale, <real*>k.shift, rows * s.W, s.C, out)


cdef void apply_piece(const fc_isa* kernels, const Layout* s, index i, const real* x, const Constants* k, real* out, int8_t* winners, real* piece) noexcept nogil:
    cdef index rows = piece_rows(s, i), line = s.W * s.C, r, at = piece_at(s, i)
    normalise_rows(kernels, s, x + at, k, rows, piece if s.pool == HALVING else out + at)
    if s.pool == HALVING:
        at = pooled_at(s, i)
        for r in range(rows // 2):
            if real is float:
                kernels.f32.window_max(piece + 2 * r * line, line, s.C, 2 * s.C, 2, 2, 0, 2, out + at, winners + at if winners != NULL else NULL, s.windows.OW, s.C)
            else:
                kernels.f64.window_max(piece + 2 * r * line, line, s.C, 2 * s.C, 2, 2, 0, 2, out + at, winners + at if winners != NULL else NULL, s.windows.OW, s.C)
            at += s.windows.OW * s.C


cdef void average_row(const fc_isa* kernels, const Layout* s, index i, const real* x, const Constants* k, real* out, real* sums) noexcept nogil:
    """Row i (of all images) of the averages. sums: two rows of pixels. Rows under several windows are normalised for each: they come from the cache."""
    cdef const Windows* w = &s.windows
    cdef index line = s.W * s.C, r
    x += (i // w.OH * s.H + i % w.OH * w.SH) * line
    normalise_rows(kernels, s, x, k, 1, sums)
    for r in range(1, w.KH):
        normalise_rows(kernels, s, x + r * line, k, 1, sums + line)
        add_row(kernels, sums + line, sums, line)
    mean_columns(kernels, w, sums, out + i * w.OW * s.C)


cdef const real* spread_piece(const fc_isa* kernels, const Layout* s, index i, const real* grad, const int8_t* winners, real* piece,
                              index* done) noexcept nogil:
    """The gradient of piece i before the pooling: where it lies, or spread into `piece`. done: see mean_back."""
    cdef const Windows* w = &s.windows
    cdef index rows = piece_rows(s, i), line = s.W * s.C, r, at
    if s.pool == NO_POOL:
        return grad + piece_at(s, i)
    if s.pool == AVERAGE:
        at = i % s.strips * s.rows
        mean_back(kernels, w, grad + i // s.strips * w.OH * w.OW * s.C, at, at + rows, piece, piece + s.rows * line, done)
        return piece
    if rows % 2 or s.W % 2:
        memset(piece, 0, rows * line * sizeof(real))
    at = pooled_at(s, i)
    for r in range(rows // 2):
        if real is float:
            kernels.f32.window_max_back(grad + at, winners + at, line, s.C, 2 * s.C, 2, 2, 0, 2, piece + 2 * r * line, 0, w.OW, s.C)
        else:
            kernels.f64.window_max_back(grad + at, winners + at, line, s.C, 2 * s.C, 2, 2, 0, 2, piece + 2 * r * line, 0, w.OW, s.C)
        at += w.OW * s.C
    return piece


cdef void sum_piece(const fc_isa* kernels, const Layout* s, index i, const real* grad, const int8_t* winners, const real* x, const Constants* k, real* sum, real* dot,
                    real* piece, index* done) noexcept nogil:
    cdef const real* g = spread_piece(kernels, s, i, grad, winners, piece, done)
    if real is float:
        kernels.f32.column_grad_sums(s.op, <real>s.slope, g, x + piece_at(s, i), <real*>k.mean, <real*>k.scale, <real*>k.shift, piece_rows(s, i) * s.W, s.C,
                                     sum + i * s.C, dot + i * s.C)
    else:
        kernels.f64.column_grad_sums(s.op, <real>s.slope, g, x + piece_at(s, i), <real*>k.mean, <real*>k.scale, <real*>k.shift, piece_rows(s, i) * s.W, s.C,
                                     sum + i * s.C, dot + i * s.C)


cdef void grad_piece(const fc_isa* kernels, const Layout* s, index i, const real* grad, const int8_t* winners, const real* x, const Constants* k, real* out, real* sum,
                     real* piece, index* done) noexcept nogil:
    cdef const real* g = spread_piece(kernels, s, i, grad, winners, piece, done)
    if real is float:
        kernels.f32.column_grad(s.op, <real>s.slope, g, x + piece_at(s, i), <real*>k.mean, <real*>k.scale, <real*>k.shift, <real*>k.k1, <real*>k.k2, <real*>k.k3,
                                piece_rows(s, i) * s.W, s.C, out + piece_at(s, i), sum + i * s.C)
    else:
        kernels.f64.column_grad(s.op, <real>s.slope, g, x + piece_at(s, i), <real*>k.mean, <real*>k.scale, <real*>k.shift, <real*>k.k1, <real*>k.k2, <real*>k.k3,
                                piece_rows(s, i) * s.W, s.C, out + piece_at(s, i), sum + i * s.C)


cdef inline index back_group(const Layout* s) noexcept nogil:
    """How many pieces of an image a thread takes, one after the other, in the passes of the gradient."""
    return imin(BACK_PIECES, s.strips) if s.pool == AVERAGE else 1


cdef void sum_group(const fc_isa* kernels, const Layout* s, index group, const real* grad, const int8_t* winners, const real* x, const Constants* k, real* sum, real* dot,
                    real* piece) noexcept nogil:
    cdef index done = 0, i, size = back_group(s), groups = ceil_div(s.strips, size), base = group // groups * s.strips
    for i in range(group % groups * size, imin(s.strips, (group % groups + 1) * size)):
        sum_piece(kernels, s, base + i, grad, winners, x, k, sum, dot, piece, &done)


cdef void grad_group(const fc_isa* kernels, const Layout* s, index group, const real* grad, const int8_t* winners, const real* x, const Constants* k, real* out, real* sum,
                     real* piece) noexcept nogil:
    cdef index done = 0, i, size = back_group(s), groups = ceil_div(s.strips, size), base = group // groups * s.strips
    for i in range(group % groups * size, imin(s.strips, (group % groups + 1) * size)):
        grad_piece(kernels, s, base + i, grad, winners, x, k, out, sum, piece, &done)


cdef void apply(const fc_isa* kernels, const Layout* s, const real* x, const Constants* k, real* out, int8_t* winners, char* scratch, size_t worker) noexcept nogil:
    cdef index i, c, pixels = s.H * s.W
    if s.pool == AVERAGE:
        with parallel(num_threads=s.threads):
            for i in prange(s.N * s.windows.OH, schedule="static"):
                average_row(kernels, s, i, x, k, out, <real*>(scratch + threadid() * worker))
        return
    if s.last:
        with parallel(num_threads=s.threads):
            for i in prange(s.pieces, schedule="static"):
                apply_piece(kernels, s, i, x, k, out, winners, <real*>(scratch + threadid() * worker))
        return


cdef void gradient_sums(const fc_isa* kernels, const Layout* s, const real* grad, const int8_t* winners, const real* x, const Constants* k, char* scratch, size_t part,
                        char* workers, size_t worker, double* total, double* dot) noexcept nogil:
    """total = sum of g, dot = sum of g * (x - mean) per channel, g the gradient before activation and pooling; channels-last."""
    cdef real* rows = <real*>scratch
    cdef real* rows2 = <real*>(scratch + part)
    cdef index i, c
    with parallel(num_threads=s.threads):
        for i in prange(s.N * ceil_div(s.strips, back_group(s)), schedule="static"):
            sum_group(kernels, s, i, grad, winners, x, k, rows, rows2, <real*>(workers + threadid() * worker))
    for c in range(s.C):
        total[c] = dot[c] = 0
    for i in range(s.pieces):
        for c in range(s.C):
            total[c] += rows[i * s.C + c]
            dot[c] += rows2[i * s.C + c]


cdef inline void gradient_constants(const Layout* s, index c, double total, double dot, bint training, double eps, const real* weight, const real* var, const Constants* k,
                                    real* grad_weight, real* grad_bias) noexcept nogil:
    cdef double inverse = 1 / sqrt(var[c] + eps), slope = weight[c] * inverse, M = <double>s.N * s.H * s.W
    grad_weight[c] = <real>(dot * inverse)
    grad_bias[c] = <real>total
    (<real*>k.k1)[c], (<real*>k.k2)[c], (<real*>k.k3)[c] = <real>slope, 0, 0
    if training and M > 0:
        # the mean and the variance are functions of the input too: dx = slope * (dy - mean(dy) - (x - mean) * inverse^2 * mean(dy * (x - mean)))
        (<real*>k.k2)[c] = <real>(-slope * inverse * inverse * dot / M)
        (<real*>k.k3)[c] = <real>(-slope * total / M)


cdef inline void sum_planes(const fc_isa* kernels, const Layout* s, index i, index c, const real* grad, const real* x, const Constants* k, double* sums,
                            double* dots) noexcept nogil:
    cdef index at = plane_at(s, i, c), pixels = s.H * s.W
    if real is float:
        kernels.f32.grad_sums(grad + at, x + at, s.C * pixels, piece_images(s, i), (<real*>k.mean)[c], pixels, sums + i * s.C + c, dots + i * s.C + c)
    else:
        kernels.f64.grad_sums(grad + at, x + at, s.C * pixels, piece_images(s, i), (<real*>k.mean)[c], pixels, sums + i * s.C + c, dots + i * s.C + c)


cdef inline void grad_planes(const fc_isa* kernels, const Layout* s, index c, index n, index images, const real* grad, const real* x, const Constants* k,
                             real* out) noexcept nogil:
    """Channel c of images n .. n + images - 1."""
    cdef index pixels = s.H * s.W, at = (n * s.C + c) * pixels
    if real is float:
        kernels.f32.affine2(grad + at, x + at, s.C * pixels, images, (<real*>k.mean)[c], (<real*>k.k1)[c], (<real*>k.k2)[c], (<real*>k.k3)[c], out + at, pixels)
    else:
        kernels.f64.affine2(grad + at, x + at, s.C * pixels, images, (<real*>k.mean)[c], (<real*>k.k1)[c], (<real*>k.k2)[c], (<real*>k.k3)[c], out + at, pixels)


cdef void grad_image(const fc_isa* kernels, const Layout* s, index n, const real* grad, const real* x, const Constants* k, real* out) noexcept nogil:
    cdef index at = n * s.C * s.H * s.W
    if real is float:
        kernels.f32.affine2_image(grad + at, x + at, s.C, s.H * s.W, <real*>k.mean, <real*>k.k1, <real*>k.k2, <real*>k.k3, out + at)
    else:
        kernels.f64.affine2_image(grad + at, x + at, s.C, s.H * s.W, <real*>k.mean, <real*>k.k1, <real*>k.k2, <real*>k.k3, out + at)


cdef inline double added(const Layout* s, index c, const double* parts) noexcept nogil:
    cdef double total = 0
    cdef index i
    for i in range(s.pieces):
        total += parts[i * s.C + c]
    return total


cdef void backward_planes(const fc_isa* kernels, const Layout* s, const real* grad, const real* x, const Constants* k, bint training, double eps, const real* weight,
                          const real* var, real* grad_weight, real* grad_bias, double* sums, double* dots, real* out) noexcept nogil:
    """Everything in planes. sums, dots: (pieces, C)."""
    cdef index i, j, c
    if small_planes(s):
        for i in prange(s.pieces, num_threads=s.threads, schedule="static"):
            for c in range(s.C):
                sum_planes(kernels, s, i, c, grad, x, k, sums, dots)
        for c in range(s.C):
            gradient_constants(s, c, added(s, c, sums), added(s, c, dots), training, eps, weight, var, k, grad_weight, grad_bias)
        for i in prange(s.N, num_threads=s.threads, schedule="static"):
            grad_image(kernels, s, i, grad, x, k, out)
        return
    if by_channels(s):
        for c in prange(s.C, num_threads=s.threads, schedule="static"):
            for j in range(s.pieces):
                sum_planes(kernels, s, j, c, grad, x, k, sums, dots)
            gradient_constants(s, c, added(s, c, sums), added(s, c, dots), training, eps, weight, var, k, grad_weight, grad_bias)
            grad_planes(kernels, s, c, 0, s.N, grad, x, k, out)
        return
    for i in prange(s.pieces * s.C, num_threads=s.threads, schedule="static"):
        sum_planes(kernels, s, i // s.C, i % s.C, grad, x, k, sums, dots)
    for c in range(s.C):
        gradient_constants(s, c, added(s, c, sums), added(s, c, dots), training, eps, weight, var, k, grad_weight, grad_bias)
    for i in prange(s.pieces * s.C, num_threads=s.threads, schedule="static"):
        grad_planes(kernels, s, i % s.C, i // s.C * s.images, piece_images(s, i // s.C), grad, x, k, out)


cdef void gradient(const fc_isa* kernels, const Layout* s, const real* grad, const int8_t* winners, const real* x, const Constants* k, real* out, char* scratch,
                   char* workers, size_t worker, real* bias) noexcept nogil:
    """dx, and where `bias` is not NULL its sum per channel: the gradient of the bias of a convolution before it; channels-last."""
    cdef index i, c
    cdef real* rows = <real*>scratch
    cdef double total
    with parallel(num_threads=s.threads):
        for i in prange(s.N * ceil_div(s.strips, back_group(s)), schedule="static"):
            grad_group(kernels, s, i, grad, winners, x, k, out, rows, <real*>(workers + threadid() * worker))
    if bias != NULL:
        for c in range(s.C):
            total = 0
            for i in range(s.pieces):
                total += rows[i * s.C + c]
            bias[c] = <real>total


cdef cnp.ndarray channel_array(object values, index C, int typenum, double default):
    """(C,) contiguous; `default` everywhere where the caller gave None."""
    if values is None:
        return np.full(C, default, dtype=np.dtype("f4") if typenum == cnp.NPY_FLOAT else np.dtype("f8"))
    return cnp.PyArray_GETCONTIGUOUS(values)


cdef size_t worker_bytes(const Layout* s, size_t itemsize) noexcept:
    """Scratch of one thread: a piece before its pooling, or the rows under a row of averages; the rows of their gradients."""
    if s.pool == HALVING:
        return aligned(s.rows * s.W * s.C * itemsize)
    if s.pool == AVERAGE:
        return aligned((imax(2, s.rows) + ring_rows(&s.windows)) * s.W * s.C * itemsize)
    return 0


cdef size_t part_bytes(const Layout* s) noexcept:
    return aligned(s.pieces * s.C * sizeof(double))


cdef Pieces pieces_at(const Layout* s, char* base) noexcept:
    cdef Pieces p
    p.layout, p.sums, p.means, p.squares = s, base, base + part_bytes(s), base + 2 * part_bytes(s)
    return p


cdef void fill_scale(const Layout* s, double eps, const real* weight, const real* var, real* scale) noexcept nogil:
    cdef index c
    for c in range(s.C):
        scale[c] = <real>(weight[c] / sqrt(var[c] + eps))


cdef object forward(cnp.ndarray x, object weight, object bias, object mean, object var, double eps, Layout s, cnp.ndarray out, real* tag):
    """Batch norm alone; x and out dense in one format. Statistics of the batch where mean is None."""
    cdef const fc_isa* kernels = active_isa()
    cdef int typenum = cnp.PyArray_TYPE(x)
    cdef cnp.ndarray m, v, w = channel_array(weight, s.C, typenum, 1), b = channel_array(bias, s.C, typenum, 0)
    cdef Arena arena = acquire(3 * part_bytes(&s) + aligned(s.C * sizeof(real)))
    cdef Pieces p = pieces_at(&s, arena.base)
    cdef real* scale = <real*>(arena.base + 3 * part_bytes(&s))
    cdef Constants k
    if mean is None:
        m, v = channel_array(None, s.C, typenum, 0), channel_array(None, s.C, typenum, 0)
    else:
        m, v = np.array(mean), np.array(var)
    k.mean, k.scale, k.shift = cnp.PyArray_DATA(m), scale, cnp.PyArray_DATA(b)
    if not s.last:
        with nogil:
            forward_planes(kernels, &p, <real*>cnp.PyArray_DATA(x), mean is not None or s.pieces * s.H * s.W == 0, eps, <real*>cnp.PyArray_DATA(w), <real*>cnp.PyArray_DATA(m),
                           <real*>cnp.PyArray_DATA(v), scale, &k, <real*>cnp.PyArray_DATA(out))
        release(arena)
        return m, v
    with nogil:
        if mean is None and s.pieces * s.H * s.W > 0:
            statistics(kernels, &p, <real*>cnp.PyArray_DATA(x), False, <real*>cnp.PyArray_DATA(m), <real*>cnp.PyArray_DATA(v))
        fill_scale(&s, eps, <real*>cnp.PyArray_DATA(w), <real*>cnp.PyArray_DATA(v), scale)
        apply(kernels, &s, <real*>cnp.PyArray_DATA(x), &k, <real*>cnp.PyArray_DATA(out), <int8_t*>NULL, <char*>NULL, 0)
    release(arena)
    return m, v


cdef object backward(cnp.ndarray g, cnp.ndarray x, bint normalised, object weight, object bias, object mean, object var, double eps, bint training, Layout s,
                     cnp.ndarray out, object winners, bint wants_bias, real* tag):
    """(grad_weight, grad_bias, the sum of out per channel or None)."""
    cdef const fc_isa* kernels = active_isa()
    cdef int typenum = cnp.PyArray_TYPE(x)
    cdef index C = s.C, c
    cdef size_t part = part_bytes(&s), line = aligned(C * sizeof(double)), worker = worker_bytes(&s, sizeof(real))
    cdef cnp.ndarray w = channel_array(weight, C, typenum, 1), b = channel_array(bias, C, typenum, 0)
    cdef cnp.ndarray m = channel_array(mean, C, typenum, 0), v = channel_array(var, C, typenum, 0)
    cdef cnp.ndarray grad_weight = channel_array(None, C, typenum, 0), grad_bias = channel_array(None, C, typenum, 0), sums = channel_array(None, C, typenum, 0)
    cdef Arena arena = acquire(2 * part + 6 * line + s.threads * worker)
    cdef double* total = <double*>(arena.base + 2 * part)
    cdef double* dot = <double*>(arena.base + 2 * part + line)
    cdef real* scale = <real*>(arena.base + 2 * part + 2 * line)
    cdef real* k1 = <real*>(arena.base + 2 * part + 3 * line)
    cdef real* k2 = <real*>(arena.base + 2 * part + 4 * line)
    cdef real* k3 = <real*>(arena.base + 2 * part + 5 * line)
    cdef char* workers = arena.base + 2 * part + 6 * line
    cdef const real* wp = <const real*>cnp.PyArray_DATA(w)
    cdef const real* vp = <const real*>cnp.PyArray_DATA(v)
    cdef const real* xp = <const real*>cnp.PyArray_DATA(x)
    cdef const real* gp = <const real*>cnp.PyArray_DATA(g)
    cdef Constants k
    cdef const int8_t* at = NULL
    if winners is not None:
        at = <const int8_t*>cnp.PyArray_DATA(winners)
    k.mean, k.scale, k.shift, k.k1, k.k2, k.k3 = cnp.PyArray_DATA(m), scale, cnp.PyArray_DATA(b), k1, k2, k3
    cdef real* gw = <real*>cnp.PyArray_DATA(grad_weight)
    cdef real* gb = <real*>cnp.PyArray_DATA(grad_bias)
    if not s.last:
        with nogil:
            backward_planes(kernels, &s, gp, xp, &k, training, eps, wp, vp, gw, gb, <double*>arena.base, <double*>(arena.base + part), <real*>cnp.PyArray_DATA(out))
        release(arena)
        return grad_weight, grad_bias, None
    with nogil:
        for c in range(C):
            scale[c] = <real>(wp[c] / sqrt(vp[c] + eps)) if normalised else 1
            k1[c], k2[c], k3[c] = 1, 0, 0
        if normalised:
            gradient_sums(kernels, &s, gp, at, xp, &k, arena.base, part, workers, worker, total, dot)
            for c in range(C):
                gradient_constants(&s, c, total[c], dot[c], training, eps, wp, vp, &k, gw, gb)
        gradient(kernels, &s, gp, at, xp, &k, <real*>cnp.PyArray_DATA(out), arena.base, workers, worker, <real*>cnp.PyArray_DATA(sums) if wants_bias else NULL)
    release(arena)
    return grad_weight, grad_bias, sums if wants_bias else None


def batch_norm(cnp.ndarray input, weight, bias, mean, var, double eps):
    """(input - mean) / sqrt(var + eps) * weight + bias; the batch's own statistics (biased variance) where mean is None."""
    cdef cnp.ndarray x = dense(input), out = np.empty_like(x)
    if cnp.PyArray_TYPE(input) == cnp.NPY_FLOAT:
        return (out, *forward(x, weight, bias, mean, var, eps, layout_of(x), out, <float*>NULL))
    return (out, *forward(x, weight, bias, mean, var, eps, layout_of(x), out, <double*>NULL))


def batch_norm_backward(cnp.ndarray grad_output, cnp.ndarray input, weight, mean, var, double eps, bint training):
    """Gradients of batch_norm; `training` says that mean and var are the batch's own."""
    cdef cnp.ndarray x = dense(input), g = dense(grad_output), out = np.empty_like(x)
    if cnp.PyArray_IS_C_CONTIGUOUS(g) != cnp.PyArray_IS_C_CONTIGUOUS(x):
        np.copyto(out, g)
        g, out = out, np.empty_like(x)
    if cnp.PyArray_TYPE(input) == cnp.NPY_FLOAT:
        return (out, *backward(g, x, True, weight, None, mean, var, eps, training, layout_of(x), out, None, False, <float*>NULL)[:2])
    return (out, *backward(g, x, True, weight, None, mean, var, eps, training, layout_of(x), out, None, False, <double*>NULL)[:2])


cdef class Following:
    """What follows a convolution in channels-last memory, for inputs of one shape (N, C, H, W): batch normalisation with the batch's statistics (or none), an
    activation (or none), and a pooling (or none): "max", 2x2 with stride 2, or ((KH, KW), (SH, SW)), averages.

    take_statistics(x, ...), apply(x, out, ...) and backward(...) are called in turn. Between the first two a Winograd convolution may do the work of either: as its
    `statistics=` this object receives those of the convolution's output, as its `before=` it is applied to what the convolution loads (without pooling).
    """

    def __init__(self, tuple shape, dtype, bint normalised=False, double eps=0, activation=None, double slope=0, pool=None):
        cdef Layout s = make_layout(shape[0], shape[1], shape[2], shape[3], np.dtype(dtype).itemsize, True)
        s.op, s.slope = ACTIVATIONS[activation], slope
        if pool == "max":
            s.pool, s.windows = HALVING, make_windows(s.C, s.H, s.W, (2, 2), (2, 2))
        elif pool is not None:
            s.pool, s.windows = AVERAGE, make_windows(s.C, s.H, s.W, pool[0], pool[1])
        self.s, self.normalised, self.eps, self.typenum = s, normalised, eps, np.dtype(dtype).num
        self.parts = np.empty(3 * part_bytes(&s) if normalised else 0, np.uint8)
        self.counted = False
        self.mean, self.var = channel_array(None, s.C, self.typenum, 0), channel_array(None, s.C, self.typenum, 0)
        self.scale, self.shift = channel_array(None, s.C, self.typenum, 1), channel_array(None, s.C, self.typenum, 0)

    cdef Pieces pieces(self):
        return pieces_at(&self.s, <char*>cnp.PyArray_DATA(self.parts))

    cdef Constants constants(self):
        cdef Constants k
        k.k1 = k.k2 = k.k3 = NULL  # of the gradient, which has its own
        k.mean, k.scale, k.shift = cnp.PyArray_DATA(self.mean), cnp.PyArray_DATA(self.scale), cnp.PyArray_DATA(self.shift)
        return k

    def take_statistics(self, cnp.ndarray x, weight, bias):
        """Mean and biased variance of x per channel, into .mean and .var; weight and bias are the normalisation's, or None."""
        cdef const fc_isa* kernels = active_isa()
        cdef Pieces p = self.pieces()
        cdef cnp.ndarray w = channel_array(weight, self.s.C, self.typenum, 1)
        cdef void* m = cnp.PyArray_DATA(self.mean)
        cdef void* v = cnp.PyArray_DATA(self.var)
        cdef bint any = self.s.pieces * self.s.H * self.s.W > 0
        self.shift = channel_array(bias, self.s.C, self.typenum, 0)
        with nogil:
            if self.typenum == cnp.NPY_FLOAT:
                if any:
                    statistics(kernels, &p, <float*>cnp.PyArray_DATA(x), self.counted, <float*>m, <float*>v)
                fill_scale(&self.s, self.eps, <float*>cnp.PyArray_DATA(w), <float*>v, <float*>cnp.PyArray_DATA(self.scale))
            else:
                if any:
                    statistics(kernels, &p, <double*>cnp.PyArray_DATA(x), self.counted, <double*>m, <double*>v)
                fill_scale(&self.s, self.eps, <double*>cnp.PyArray_DATA(w), <double*>v, <double*>cnp.PyArray_DATA(self.scale))
        self.counted = False

    def apply(self, cnp.ndarray x, cnp.ndarray out, winners):
        """out = pool(act(normalise(x))), channels-last; winners (int8, of out's shape) receives what the max pooling's backward needs, or is None."""
        cdef const fc_isa* kernels = active_isa()
        cdef size_t worker = worker_bytes(&self.s, cnp.PyArray_ITEMSIZE(x))
        cdef Arena arena = acquire(self.s.threads * worker)
        cdef Constants k = self.constants()
        cdef int8_t* at = NULL
        if winners is not None:
            at = <int8_t*>cnp.PyArray_DATA(winners)
        with nogil:
            if self.typenum == cnp.NPY_FLOAT:
                apply(kernels, &self.s, <float*>cnp.PyArray_DATA(x), &k, <float*>cnp.PyArray_DATA(out), at, arena.base, worker)
            else:
                apply(kernels, &self.s, <double*>cnp.PyArray_DATA(x), &k, <double*>cnp.PyArray_DATA(out), at, arena.base, worker)
        release(arena)

    def backward(self, cnp.ndarray grad_output, cnp.ndarray x, weight, cnp.ndarray out, winners, bint wants_bias):
        """The gradient of x into out, which may be x itself. Returns (grad_weight, grad_bias, the sum of out per channel or None)."""
        if self.typenum == cnp.NPY_FLOAT:
            return backward(grad_output, x, self.normalised, weight, self.shift, self.mean, self.var, self.eps, True, self.s, out, winners, wants_bias, <float*>NULL)
        return backward(grad_output, x, self.normalised, weight, self.shift, self.mean, self.var, self.eps, True, self.s, out, winners, wants_bias, <double*>NULL)
