# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Max and average pooling with any window: strided, dilated, padded, adaptive, global.

Windows are first written down as tables, one per axis: where each begins inside the input and how many pixels it has. The loops then know nothing of stride, padding or
adaptivity. In channels-last memory the lanes are the channels of one window; in C-contiguous memory they are neighbouring windows of a row, in runs whose
windows have one size and one distance (the whole row but for the padded ends).
"""
import numpy as np

cimport numpy as cnp
from cython.parallel cimport prange
from libc.stdint cimport int64_t
from libc.string cimport memset

from fastcnn.backends.cpu._arrays cimport dense, empty4, is_channels_last
from fastcnn.backends.cpu._kernels cimport fc_isa
from fastcnn.backends.cpu._layout cimport aligned, imax, imin, index, real
from fastcnn.backends.cpu._runtime cimport Arena, acquire, active_isa, fc_use_pool, pool, release, thread_count

cnp.import_array()
fc_use_pool(pool())


cdef struct Axis:
    index size       # pixels of the input
    index outputs
    index dilation
    index* start     # first pixel of each window, inside the input
    index* count     # pixels of each window inside the input
    index* divisor   # pixels that an average divides by, along this axis
    index runs       # windows first[i] .. first[i + 1] - 1 have one count, one divisor and begin `stride[i]` pixels apart
    index* first
    index* stride


cdef size_t axis_bytes(index outputs) noexcept nogil:
    return (5 * outputs + 2) * sizeof(index)


cdef char* lay_out(Axis* a, index size, index outputs, char* memory) noexcept nogil:
    a.size, a.outputs, a.dilation = size, outputs, 1
    a.start = <index*>memory
    a.count = a.start + outputs
    a.divisor = a.count + outputs
    a.stride = a.divisor + outputs
    a.first = a.stride + outputs
    return memory + axis_bytes(outputs)


cdef void find_runs(Axis* a) noexcept nogil:
    cdef index o = 0, end
    a.runs = 0
    while o < a.outputs:
        end = o + 1
        a.first[a.runs] = o
        a.stride[a.runs] = a.start[end] - a.start[o] if end < a.outputs else 1
        while end < a.outputs and a.count[end] == a.count[o] and a.divisor[end] == a.divisor[o] and a.start[end] - a.start[end - 1] == a.stride[a.runs]:
            end += 1
        a.runs += 1
        o = end
    a.first[a.runs] = a.outputs


cdef void regular_axis(Axis* a, index kernel, index stride, index padding, index dilation, bint count_include_pad) noexcept nogil:
    cdef index o, begin, skip, after
    a.dilation = dilation
    for o in range(a.outputs):
        begin = o * stride - padding
        skip = (-begin + dilation - 1) // dilation if begin < 0 else 0
        after = imin(kernel, (a.size - begin + dilation - 1) // dilation if a.size > begin else 0)
        a.start[o] = begin + skip * dilation
        a.count[o] = imax(0, after - skip)
        # with padding counted, a window of ceil mode that hangs over still ends where the padding ends
        a.divisor[o] = imin(begin + kernel, a.size + padding) - begin if count_include_pad else a.count[o]
    find_runs(a)


cdef void adaptive_axis(Axis* a) noexcept nogil:
    """Window o is [floor(o * size / outputs), ceil((o + 1) * size / outputs))."""
    cdef index o
    for o in range(a.outputs):
        a.start[o] = o * a.size // a.outputs
        a.count[o] = ((o + 1) * a.size + a.outputs - 1) // a.outputs - a.start[o]
        a.divisor[o] = a.count[o]
    find_runs(a)


cdef struct Pool:
    int threads
    bint last
    index N
    index C
    Axis h
    Axis w
    double divisor_override  # 0: the windows' own


cdef void max_rows(const fc_isa* kernels, Pool* p, index item, const real* x, real* y, int64_t* at) noexcept nogil:
    """One row of windows: of one image (channels-last) or one plane."""
    cdef index oh = item % p.h.outputs, plane = item // p.h.outputs, C = p.C, W = p.w.size, h0 = p.h.start[oh], ow, i, n, out
    cdef const real* q
    if p.last:
        for ow in range(p.w.outputs):
            q = x + ((plane * p.h.size + h0) * W + p.w.start[ow]) * C
            out = (item * p.w.outputs + ow) * C
            if real is float:
                kernels.f32.max_pool_lanes(q, p.h.dilation * W * C, p.w.dilation * C, p.h.count[oh], p.w.count[ow], h0 * W + p.w.start[ow], p.h.dilation * W,
                                           p.w.dilation, y + out, at + out, C, 1, 0)
            else:
                kernels.f64.max_pool_lanes(q, p.h.dilation * W * C, p.w.dilation * C, p.h.count[oh], p.w.count[ow], h0 * W + p.w.start[ow], p.h.dilation * W,
                                           p.w.dilation, y + out, at + out, C, 1, 0)
        return
    for i in range(p.w.runs):
        ow = p.w.first[i]
        n = p.w.first[i + 1] - ow
        q = x + (plane * p.h.size + h0) * W + p.w.start[ow]
        out = item * p.w.outputs + ow
        if real is float:
            kernels.f32.max_pool_lanes(q, p.h.dilation * W, p.w.dilation, p.h.count[oh], p.w.count[ow], h0 * W + p.w.start[ow], p.h.dilation * W, p.w.dilation, y + out,
                                       at + out, n, p.w.stride[i], p.w.stride[i])
        else:
            kernels.f64.max_pool_lanes(q, p.h.dilation * W, p.w.dilation, p.h.count[oh], p.w.count[ow], h0 * W + p.w.start[ow], p.h.dilation * W, p.w.dilation, y + out,
                                       at + out, n, p.w.stride[i], p.w.stride[i])


cdef double scale_of(const Pool* p, index oh, index ow) noexcept nogil:
    return 1.0 / (p.divisor_override if p.divisor_override != 0 else <double>(p.h.divisor[oh] * p.w.divisor[ow]))


cdef void average_rows(const fc_isa* kernels, Pool* p, index item, const real* x, real* y) noexcept nogil:
    cdef index oh = item % p.h.outputs, plane = item // p.h.outputs, C = p.C, W = p.w.size, h0 = p.h.start[oh], ow, i, n, out
    cdef const real* q
    if p.last:
        for ow in range(p.w.outputs):
            q = x + ((plane * p.h.size + h0) * W + p.w.start[ow]) * C
            out = (item * p.w.outputs + ow) * C
            if real is float:
                kernels.f32.avg_pool_lanes(q, W * C, C, p.h.count[oh], p.w.count[ow], <float>scale_of(p, oh, ow), y + out, C, 1)
            else:
                kernels.f64.avg_pool_lanes(q, W * C, C, p.h.count[oh], p.w.count[ow], scale_of(p, oh, ow), y + out, C, 1)
        return
    for i in range(p.w.runs):
        ow = p.w.first[i]
        n = p.w.first[i + 1] - ow
        q = x + (plane * p.h.size + h0) * W + p.w.start[ow]
        out = item * p.w.outputs + ow
        if n == 1 and p.w.count[ow] == W:  # whole rows (global pooling): one run of memory
            if real is float:
                y[out] = <float>(kernels.f32.sum(q, p.h.count[oh] * W) * scale_of(p, oh, ow))
            else:
                y[out] = kernels.f64.sum(q, p.h.count[oh] * W) * scale_of(p, oh, ow)
        elif real is float:
            kernels.f32.avg_pool_lanes(q, W, 1, p.h.count[oh], p.w.count[ow], <float>scale_of(p, oh, ow), y + out, n, p.w.stride[i])
        else:
            kernels.f64.avg_pool_lanes(q, W, 1, p.h.count[oh], p.w.count[ow], scale_of(p, oh, ow), y + out, n, p.w.stride[i])


cdef void average_back(const fc_isa* kernels, Pool* p, index plane, const real* g, real* gx) noexcept nogil:
    """One image (channels-last) or plane of grad_input: every window hands its share to its pixels."""
    cdef index oh, ow, h, w, C = p.C if p.last else 1, W = p.w.size
    cdef real share
    memset(gx + plane * p.h.size * W * C, 0, p.h.size * W * C * sizeof(real))
    for oh in range(p.h.outputs):
        for ow in range(p.w.outputs):
            for h in range(p.h.start[oh], p.h.start[oh] + p.h.count[oh]):
                if p.last:
                    for w in range(p.w.start[ow], p.w.start[ow] + p.w.count[ow]):
                        if real is float:
                            kernels.f32.add_scaled(g + ((plane * p.h.outputs + oh) * p.w.outputs + ow) * C, <float>scale_of(p, oh, ow),
                                                   gx + ((plane * p.h.size + h) * W + w) * C, C)
                        else:
                            kernels.f64.add_scaled(g + ((plane * p.h.outputs + oh) * p.w.outputs + ow) * C, scale_of(p, oh, ow),
                                                   gx + ((plane * p.h.size + h) * W + w) * C, C)
                else:
                    share = <real>(g[(plane * p.h.outputs + oh) * p.w.outputs + ow] * scale_of(p, oh, ow))
                    for w in range(p.w.start[ow], p.w.start[ow] + p.w.count[ow]):
                        gx[(plane * p.h.size + h) * W + w] += share


cdef int max_back(bint last, index C, index plane, index pixels, index outputs, const real* g, const int64_t* at, real* gx) noexcept nogil:
    """Each gradient to the pixel its index names. Returns 1 if an index lies outside the plane (nothing is written there)."""
    cdef index i, c, lanes = C if last else 1
    cdef int64_t where
    cdef int bad = 0
    gx += plane * pixels * lanes
    g += plane * outputs * lanes
    at += plane * outputs * lanes
    memset(gx, 0, pixels * lanes * sizeof(real))
    for i in range(outputs):
        for c in range(lanes):
            where = at[i * lanes + c]
            if where < 0 or where >= pixels:
                bad = 1
            else:
                gx[where * lanes + c] += g[i * lanes + c]
    return bad


cdef void run_max(const fc_isa* kernels, Pool* p, const real* x, real* y, int64_t* at) noexcept nogil:
    cdef index item
    for item in prange((p.N if p.last else p.N * p.C) * p.h.outputs, num_threads=p.threads, schedule="static"):
        max_rows(kernels, p, item, x, y, at)


cdef void run_average(const fc_isa* kernels, Pool* p, const real* x, real* y) noexcept nogil:
    cdef index item
    for item in prange((p.N if p.last else p.N * p.C) * p.h.outputs, num_threads=p.threads, schedule="static"):
        average_rows(kernels, p, item, x, y)


cdef void run_average_back(const fc_isa* kernels, Pool* p, const real* g, real* gx) noexcept nogil:
    cdef index plane
    for plane in prange(p.N if p.last else p.N * p.C, num_threads=p.threads, schedule="static"):
        average_back(kernels, p, plane, g, gx)


cdef Pool new_pool(index N, index C, index H, index W, index OH, index OW, bint last, char* memory) noexcept:
    cdef Pool p
    p.N, p.C, p.last, p.divisor_override = N, C, last, 0
    memory = lay_out(&p.h, H, OH, memory)
    lay_out(&p.w, W, OW, memory)
    # compared elements, each worth about as much time as eight multiply-adds of a tile
    p.threads = thread_count(16.0 * N * C * imax(H * W, OH * OW), (N if last else N * C) * OH)
    return p


cdef object max_forward(cnp.ndarray input, index OH, index OW, Pool* p, Arena arena):
    cdef const fc_isa* kernels = active_isa()
    cdef cnp.ndarray output = empty4(p.N, p.C, OH, OW, cnp.PyArray_TYPE(input), p.last), indices = empty4(p.N, p.C, OH, OW, cnp.NPY_INT64, p.last)
    cdef void* x = cnp.PyArray_DATA(input)
    cdef void* y = cnp.PyArray_DATA(output)
    cdef int64_t* at = <int64_t*>cnp.PyArray_DATA(indices)
    cdef bint single = cnp.PyArray_TYPE(input) == cnp.NPY_FLOAT
    if output.size:
        with nogil:
            if single:
                run_max(kernels, p, <const float*>x, <float*>y, at)
            else:
                run_max(kernels, p, <const double*>x, <double*>y, at)
    release(arena)
    return output, indices


def max_pool2d(cnp.ndarray input, kernel_size, stride, padding, dilation, output_size):
    """Window maxima and their flat positions in the plane. The first maximum wins a tie; NaN wins over everything."""
    cdef cnp.ndarray x = dense(input)
    cdef index KH, KW, SH, SW, PH, PW, DH, DW, OH, OW
    (KH, KW), (SH, SW), (PH, PW), (DH, DW), (OH, OW) = kernel_size, stride, padding, dilation, output_size
    cdef Arena arena = acquire(axis_bytes(OH) + axis_bytes(OW))
    cdef Pool p = new_pool(x.shape[0], x.shape[1], x.shape[2], x.shape[3], OH, OW, is_channels_last(x), arena.base)
    regular_axis(&p.h, KH, SH, PH, DH, False)
    regular_axis(&p.w, KW, SW, PW, DW, False)
    return max_forward(x, OH, OW, &p, arena)


def adaptive_max_pool2d(cnp.ndarray input, output_size):
    cdef cnp.ndarray x = dense(input)
    cdef index OH, OW
    OH, OW = output_size
    cdef Arena arena = acquire(axis_bytes(OH) + axis_bytes(OW))
    cdef Pool p = new_pool(x.shape[0], x.shape[1], x.shape[2], x.shape[3], OH, OW, is_channels_last(x), arena.base)
    adaptive_axis(&p.h)
    adaptive_axis(&p.w)
    return max_forward(x, OH, OW, &p, arena)


def max_pool2d_backward(cnp.ndarray grad_output, cnp.ndarray indices, input_shape):
    """grad_input[index] += grad_output. Raises ValueError where an index lies outside its plane."""
    cdef cnp.ndarray g = dense(grad_output), at = dense(indices)
    cdef bint last = is_channels_last(g)
    if is_channels_last(at) != last:
        at = np.empty_like(g, dtype=np.int64)
        np.copyto(at, indices)
    cdef index N, C, H, W, plane, outputs = g.shape[2] * g.shape[3]
    N, C, H, W = input_shape
    cdef cnp.ndarray grad_input = empty4(N, C, H, W, cnp.PyArray_TYPE(g), last)
    cdef int threads = thread_count(16.0 * g.size + 2.0 * grad_input.size, N if last else N * C), bad = 0
    cdef bint single = cnp.PyArray_TYPE(g) == cnp.NPY_FLOAT
    cdef void* gp = cnp.PyArray_DATA(g)
    cdef void* xp = cnp.PyArray_DATA(grad_input)
    cdef const int64_t* ap = <const int64_t*>cnp.PyArray_DATA(at)
    for plane in prange(N if last else N * C, nogil=True, num_threads=threads, schedule="static"):
        if single:
            bad += max_back(last, C, plane, H * W, outputs, <const float*>gp, ap, <float*>xp)
        else:
            bad += max_back(last, C, plane, H * W, outputs, <const double*>gp, ap, <double*>xp)
    if bad:
        raise ValueError(f"max_pool2d_backward: indices must lie in [0, {H * W}) for an input of {H}x{W} pixels, got values from {at.min()} to {at.max()}")
    return grad_input


cdef inline void first_window(const real* x, real* gx, index row, index col, index KH, index KW, real g, bint accumulate) noexcept nogil:
    """g to the first maximum, or the last NaN."""
    cdef index i, j, where = 0
    cdef real best = x[0], value
    for i in range(KH):
        for j in range(KW):
            value = x[i * row + j * col]
            if value > best or value != value:
                best = value
                where = i * row + j * col
    gx[where] = gx[where] + g if accumulate else g


cdef void ties_back(const fc_isa* kernels, Pool* p, index plane, const real* x, const real* g, real* gx, bint first, bint split, bint accumulate) noexcept nogil:
    """One image (channels-last) or plane of grad_input. Rows of windows come one after the other, so that of overlapping ones the last writes last."""
    cdef index oh, ow, c, i, n, lane, lanes = p.C if p.last else 1, W = p.w.size, size = p.h.size * W * lanes, row = p.h.dilation * W * lanes, col = p.w.dilation * lanes, at
    x += plane * size
    gx += plane * size
    g += plane * p.h.outputs * p.w.outputs * lanes
    memset(gx, 0, size * sizeof(real))
    for oh in range(p.h.outputs):
        if first:
            for ow in range(p.w.outputs):
                at = (p.h.start[oh] * W + p.w.start[ow]) * lanes
                for c in range(lanes):
                    first_window(x + at + c, gx + at + c, row, col, p.h.count[oh], p.w.count[ow], g[ow * lanes + c], accumulate)
        else:
            i = 0
            while i < (p.w.outputs if p.last else p.w.runs):  # lanes: the channels of a window, or windows of a run
                ow = i if p.last else p.w.first[i]
                n = lanes if p.last else p.w.first[i + 1] - ow
                lane = 1 if p.last else p.w.stride[i]
                at = (p.h.start[oh] * W + p.w.start[ow]) * lanes
                if real is float:
                    kernels.f32.tied_pool_back(x + at, row, col, p.h.count[oh], p.w.count[ow], g + ow * lanes, gx + at, split, accumulate, n, lane)
                else:
                    kernels.f64.tied_pool_back(x + at, row, col, p.h.count[oh], p.w.count[ow], g + ow * lanes, gx + at, split, accumulate, n, lane)
                i += 1
        g += p.w.outputs * lanes


def max_pool2d_backward_ties(cnp.ndarray grad_output, cnp.ndarray input, kernel_size, stride, padding, dilation, str ties, bint accumulate):
    """Gradients to all tied maxima of a window ("all"), in equal parts ("split"), or to the first; without accumulate the last window decides about a pixel."""
    cdef cnp.ndarray x = dense(input), g = grad_output
    cdef bint last = is_channels_last(x), first = ties == "first", split = ties == "split"
    if not (cnp.PyArray_IS_C_CONTIGUOUS(g) and not last) and not (last and is_channels_last(g)):
        g = empty4(g.shape[0], g.shape[1], g.shape[2], g.shape[3], cnp.PyArray_TYPE(g), last)
        np.copyto(g, grad_output)
    cdef index KH, KW, SH, SW, PH, PW, DH, DW, OH = g.shape[2], OW = g.shape[3], plane
    (KH, KW), (SH, SW), (PH, PW), (DH, DW) = kernel_size, stride, padding, dilation
    cdef Arena arena = acquire(axis_bytes(OH) + axis_bytes(OW))
    cdef Pool p = new_pool(x.shape[0], x.shape[1], x.shape[2], x.shape[3], OH, OW, last, arena.base)
    regular_axis(&p.h, KH, SH, PH, DH, False)
    regular_axis(&p.w, KW, SW, PW, DW, False)
    cdef cnp.ndarray grad_input = empty4(p.N, p.C, p.h.size, p.w.size, cnp.PyArray_TYPE(x), last)
    cdef bint single = cnp.PyArray_TYPE(x) == cnp.NPY_FLOAT
    cdef index planes = p.N if last else p.N * p.C
    cdef int threads = thread_count(32.0 * x.size, planes)
    cdef const fc_isa* kernels = active_isa()
    cdef void* xp = cnp.PyArray_DATA(x)
    cdef void* gp = cnp.PyArray_DATA(g)
    cdef void* out = cnp.PyArray_DATA(grad_input)
    for plane in prange(planes, nogil=True, num_threads=threads, schedule="static"):
        if single:
            ties_back(kernels, &p, plane, <const float*>xp, <const float*>gp, <float*>out, first, split, accumulate)
        else:
            ties_back(kernels, &p, plane, <const double*>xp, <const double*>gp, <double*>out, first, split, accumulate)
    release(arena)
    return grad_input


cdef object average_forward(cnp.ndarray input, index OH, index OW, Pool* p, Arena arena):
    cdef const fc_isa* kernels = active_isa()
    cdef cnp.ndarray output = empty4(p.N, p.C, OH, OW, cnp.PyArray_TYPE(input), p.last)
    cdef void* x = cnp.PyArray_DATA(input)
    cdef void* y = cnp.PyArray_DATA(output)
    cdef bint single = cnp.PyArray_TYPE(input) == cnp.NPY_FLOAT
    if output.size:
        with nogil:
            if single:
                run_average(kernels, p, <const float*>x, <float*>y)
            else:
                run_average(kernels, p, <const double*>x, <double*>y)
    release(arena)
    return output


cdef object average_backward(cnp.ndarray g, Pool* p, Arena arena):
    cdef const fc_isa* kernels = active_isa()
    cdef cnp.ndarray grad_input = empty4(p.N, p.C, p.h.size, p.w.size, cnp.PyArray_TYPE(g), p.last)
    cdef void* gp = cnp.PyArray_DATA(g)
    cdef void* xp = cnp.PyArray_DATA(grad_input)
    cdef bint single = cnp.PyArray_TYPE(g) == cnp.NPY_FLOAT
    if grad_input.size:
        with nogil:
            if single:
                run_average_back(kernels, p, <const float*>gp, <float*>xp)
            else:
                run_average_back(kernels, p, <const double*>gp, <double*>xp)
    release(arena)
    return grad_input


def avg_pool2d(cnp.ndarray input, kernel_size, stride, padding, output_size, bint count_include_pad, divisor_override):
    cdef cnp.ndarray x = dense(input)
    cdef index KH, KW, SH, SW, PH, PW, OH, OW
    (KH, KW), (SH, SW), (PH, PW), (OH, OW) = kernel_size, stride, padding, output_size
    cdef Arena arena = acquire(axis_bytes(OH) + axis_bytes(OW))
    cdef Pool p = new_pool(x.shape[0], x.shape[1], x.shape[2], x.shape[3], OH, OW, is_channels_last(x), arena.base)
    regular_axis(&p.h, KH, SH, PH, 1, count_include_pad)
    regular_axis(&p.w, KW, SW, PW, 1, count_include_pad)
    p.divisor_override = divisor_override or 0
    return average_forward(x, OH, OW, &p, arena)


def avg_pool2d_backward(cnp.ndarray grad_output, input_shape, kernel_size, stride, padding, bint count_include_pad, divisor_override):
    cdef cnp.ndarray g = dense(grad_output)
    cdef index KH, KW, SH, SW, PH, PW, OH = g.shape[2], OW = g.shape[3]
    (KH, KW), (SH, SW), (PH, PW) = kernel_size, stride, padding
    cdef Arena arena = acquire(axis_bytes(OH) + axis_bytes(OW))
    cdef Pool p = new_pool(input_shape[0], input_shape[1], input_shape[2], input_shape[3], OH, OW, is_channels_last(g), arena.base)
    regular_axis(&p.h, KH, SH, PH, 1, count_include_pad)
    regular_axis(&p.w, KW, SW, PW, 1, count_include_pad)
    p.divisor_override = divisor_override or 0
    return average_backward(g, &p, arena)


def adaptive_avg_pool2d(cnp.ndarray input, output_size):
    cdef cnp.ndarray x = dense(input)
    cdef index OH, OW
    OH, OW = output_size
    cdef Arena arena = acquire(axis_bytes(OH) + axis_bytes(OW))
    cdef Pool p = new_pool(x.shape[0], x.shape[1], x.shape[2], x.shape[3], OH, OW, is_channels_last(x), arena.base)
    adaptive_axis(&p.h)
    adaptive_axis(&p.w)
    return average_forward(x, OH, OW, &p, arena)


def adaptive_avg_pool2d_backward(cnp.ndarray grad_output, input_shape):
    cdef cnp.ndarray g = dense(grad_output)
    cdef index OH = g.shape[2], OW = g.shape[3]
    cdef Arena arena = acquire(axis_bytes(OH) + axis_bytes(OW))
    cdef Pool p = new_pool(input_shape[0], input_shape[1], input_shape[2], input_shape[3], OH, OW, is_channels_last(g), arena.base)
    adaptive_axis(&p.h)
    adaptive_axis(&p.w)
    return average_backward(g, &p, arena)
