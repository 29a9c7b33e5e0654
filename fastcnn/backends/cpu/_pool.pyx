# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Max and average pooling with any window: strided, dilated, padded, adaptive, global.

Windows are first written down as tables, one per axis: where each begins inside the input and how many pixels it has. Windows of one size and one distance form a run (the
whole axis but for the padded ends), and the loops know nothing of stride, padding or adaptivity.

A row of windows is folded in two steps, the rows of pixels under it into one, then that one's columns: KH + KW operations a window instead of KH * KW, and the first step takes whole
vectors in either memory format. In C-contiguous memory the lanes of the second are neighbouring windows of a row, or, where windows tile the planes, of many rows and planes
in one go, so that planes of a few pixels fill the lanes too; in channels-last memory they are the channels of one window (maxima then take both steps at once).

Backward each row of pixels is written once: gradients are spread along their columns in scratch, and the rows of windows over a row of pixels are added. A pixel's
gradients are added in the order of its windows, whatever the format, the strips that the work is cut into, and the threads.

What training keeps of a maximum is one byte, its place kh * KW + kw in its window. Flat positions in the plane, which are eight, are made where the caller asks for them, and for windows of
more than 127 pixels.
"""
import numpy as np

cimport numpy as cnp
from cython.parallel cimport parallel, prange, threadid
from libc.stdint cimport int8_t, int64_t
from libc.string cimport memcpy, memset

from fastcnn.backends.cpu._arrays cimport dense, empty4, is_channels_last
from fastcnn.backends.cpu._kernels cimport fc_isa
from fastcnn.backends.cpu._layout cimport aligned, ceil_div, imax, imin, index, real
from fastcnn.backends.cpu._runtime cimport Arena, acquire, active_isa, fc_use_pool, pool, release, thread_count

cnp.import_array()
fc_use_pool(pool())

cdef enum:
    MOST_PLACES = 127        # pixels of a window whose places fit a byte
    ITEM = 16384             # elements of the input per piece of work: enough to share, and small enough for L2
    CHUNK = 4096             # elements of folded rows at a time, in L1
    STRIP = 65536            # elements of spread rows at a time, in L2

cdef enum:
    NOTHING, PLACES, INDICES  # what max pooling tells of its winners


cdef struct Axis:
    index size       # pixels of the input
    index outputs
    index dilation
    # a regular axis: window o begins at o * step - padding and has `kernel` pixels; kernel is 0 where windows differ
    index kernel
    index step
    index padding
    index* start     # first pixel of each window, inside the input
    index* count     # pixels of each window inside the input
    index* skip      # pixels of each window before the input
    index* divisor   # pixels that an average divides by, along this axis
    index runs       # windows first[i] .. first[i + 1] - 1 have one count, one divisor and begin `stride[i]` pixels apart
    index* first
    index* stride
    index* run       # the run that each window belongs to
    index tiled      # > 0: windows of all rows (planes) one after the other are one run, this far apart


cdef size_t axis_bytes(index outputs) noexcept nogil:
    return (7 * outputs + 2) * sizeof(index)


cdef char* lay_out(Axis* a, index size, index outputs, char* memory) noexcept nogil:
    a.size, a.outputs, a.dilation = size, outputs, 1
    a.kernel = a.step = a.padding = 0
    a.start = <index*>memory
    a.count = a.start + outputs
    a.skip = a.count + outputs
    a.divisor = a.skip + outputs
    a.stride = a.divisor + outputs
    a.run = a.stride + outputs
    a.first = a.run + outputs
    return memory + axis_bytes(outputs)


cdef void find_runs(Axis* a) noexcept nogil:
    cdef index o = 0, end, i, step
    a.runs = 0
    while o < a.outputs:
        end = o + 1
        a.first[a.runs] = o
        a.stride[a.runs] = a.start[end] - a.start[o] if end < a.outputs else 1
        while (end < a.outputs and a.count[end] == a.count[o] and a.skip[end] == a.skip[o] and a.divisor[end] == a.divisor[o]
               and a.start[end] - a.start[end - 1] == a.stride[a.runs]):
            end += 1
        for i in range(o, end):
            a.run[i] = a.runs
        a.runs += 1
        o = end
    a.first[a.runs] = a.outputs
    step = a.stride[0] if a.outputs > 1 else a.size
    a.tiled = step if a.runs == 1 and step * a.outputs == a.size else 0


cdef void regular_axis(Axis* a, index kernel, index stride, index padding, index dilation, bint count_include_pad) noexcept nogil:
    cdef index o, begin, after
    a.dilation, a.kernel, a.step, a.padding = dilation, kernel, stride, padding
    for o in range(a.outputs):
        begin = o * stride - padding
        a.skip[o] = (-begin + dilation - 1) // dilation if begin < 0 else 0
        after = imin(kernel, (a.size - begin + dilation - 1) // dilation if a.size > begin else 0)
        a.start[o] = begin + a.skip[o] * dilation
        a.count[o] = imax(0, after - a.skip[o])
        # with padding counted, a window of ceil mode that hangs over still ends where the padding ends
        a.divisor[o] = imin(begin + kernel, a.size + padding) - begin if count_include_pad else a.count[o]
    find_runs(a)


cdef void adaptive_axis(Axis* a) noexcept nogil:
    """Window o is [floor(o * size / outputs), ceil((o + 1) * size / outputs))."""
    cdef index o
    if a.size % a.outputs == 0:
        regular_axis(a, a.size // a.outputs, a.size // a.outputs, 0, 1, False)
        return
    for o in range(a.outputs):
        a.start[o] = o * a.size // a.outputs
        a.count[o] = ((o + 1) * a.size + a.outputs - 1) // a.outputs - a.start[o]
        a.divisor[o], a.skip[o] = a.count[o], 0
    find_runs(a)


cdef index largest(const Axis* a) noexcept nogil:
    """Pixels of the largest window, those outside the input included."""
    cdef index o, most = a.kernel
    if most == 0:
        for o in range(a.outputs):
            most = imax(most, a.count[o])
    return most


cdef inline bint side_by_side(const Axis* a) noexcept nogil:
    """Does every pixel lie in exactly one window?"""
    return a.kernel > 0 and a.kernel == a.step and a.padding == 0 and a.dilation == 1 and a.outputs * a.step == a.size


cdef struct Pool:
    int threads
    bint last
    index N
    index C
    index planes             # images in channels-last memory, else planes
    index lanes              # elements of a pixel: channels, or 1
    index line               # elements of a row of pixels
    Axis h
    Axis w
    double divisor_override  # 0: the windows' own


cdef Pool new_pool(index N, index C, index H, index W, index OH, index OW, bint last, char* memory) noexcept:
    cdef Pool p
    p.N, p.C, p.last, p.divisor_override = N, C, last, 0
    p.planes = N if last else N * C
    p.lanes = C if last else 1
    p.line = W * p.lanes
    memory = lay_out(&p.h, H, OH, memory)
    lay_out(&p.w, W, OW, memory)
    # elements, each worth the time of some eight multiply-adds of a tile
    p.threads = thread_count(8.0 * N * C * imax(H * W, OH * OW), imax(N * C * H * W // 8192, 1))
    return p


cdef inline index item_rows(const Pool* p) noexcept nogil:
    """Rows of windows per piece of work."""
    return imax(1, ITEM // imax(1, p.line * imax(1, p.h.size // p.h.outputs)))


cdef inline index batch_rows(const Pool* p, index row, index end, index most, index* step) noexcept nogil:
    """How many rows of windows from `row` (of all planes) on lie regularly, and how many rows of pixels apart."""
    cdef index oh = row % p.h.outputs, run = p.h.run[oh]
    most = imin(imax(1, most), end - row)
    if p.h.tiled:
        step[0] = p.h.tiled
        return most
    step[0] = p.h.stride[run]
    return imin(most, p.h.first[run + 1] - oh)


# Max pooling


cdef void place_indices(const Pool* p, index row, index run, index first, index n, const int64_t* offset, const int8_t* at, int64_t* indices) noexcept nogil:
    """Flat positions of the winners of windows first .. first + n - 1 of one row of windows; offset: of each place, from the window's first pixel, outside the input or not."""
    cdef index oh = row % p.h.outputs, ow, c, W = p.w.size
    cdef int64_t origin
    for ow in range(first, first + n):
        origin = (p.h.start[oh] - p.h.skip[oh] * p.h.dilation) * W + p.w.start[ow] - p.w.skip[ow] * p.w.dilation
        for c in range(p.lanes):
            indices[(ow - first) * p.lanes + c] = origin + offset[at[(ow - first) * p.lanes + c]]


cdef void max_planes(const fc_isa* kernels, const Pool* p, index KW, index begin, index end, const real* x, real* y, int8_t* places, int64_t* indices,
                     const int64_t* offset, char* scratch) noexcept nogil:
    """Rows begin .. end - 1 of windows of planes."""
    cdef index line = p.line, OW = p.w.outputs, row = begin, n, step, oh, r, i, ow, count, windows, first, chunk = imax(CHUNK, line)
    cdef real* best = <real*>scratch
    cdef real* place = best + chunk
    cdef int8_t* at = <int8_t*>(place + chunk)
    cdef int8_t* to
    cdef bint placed = places != NULL or indices != NULL
    while row < end:
        n = batch_rows(p, row, end, CHUNK // line, &step)
        oh = row % p.h.outputs
        if real is float:
            kernels.f32.rows_max(x + (row // p.h.outputs * p.h.size + p.h.start[oh]) * line, line, p.h.dilation * line, p.h.count[oh], step * line, n, KW, best,
                                 place if placed else NULL)
        else:
            kernels.f64.rows_max(x + (row // p.h.outputs * p.h.size + p.h.start[oh]) * line, line, p.h.dilation * line, p.h.count[oh], step * line, n, KW, best,
                                 place if placed else NULL)
        for r in range(1 if p.w.tiled else n):
            for i in range(p.w.runs):
                ow = p.w.first[i]
                windows = n * OW if p.w.tiled else p.w.first[i + 1] - ow
                count = p.w.tiled if p.w.tiled else p.w.stride[i]
                first = p.h.skip[oh] * KW + p.w.skip[ow]
                to = NULL
                if placed:
                    to = places + (row + r) * OW + ow if places != NULL else at
                if real is float:
                    kernels.f32.cols_max(best + r * line + p.w.start[ow], place + r * line + p.w.start[ow], count, p.w.dilation, p.w.count[ow], <int>first,
                                         y + (row + r) * OW + ow, to, windows)
                else:
                    kernels.f64.cols_max(best + r * line + p.w.start[ow], place + r * line + p.w.start[ow], count, p.w.dilation, p.w.count[ow], <int>first,
                                         y + (row + r) * OW + ow, to, windows)
                if indices != NULL and not p.w.tiled:
                    place_indices(p, row + r, i, ow, windows, offset, at, indices + (row + r) * OW + ow)
        if indices != NULL and p.w.tiled:
            for r in range(n):
                place_indices(p, row + r, 0, 0, OW, offset, at + r * OW, indices + (row + r) * OW)
        row += n


cdef void max_images(const fc_isa* kernels, const Pool* p, index KW, index begin, index end, const real* x, real* y, int8_t* places, int64_t* indices,
                     const int64_t* offset, char* scratch) noexcept nogil:
    """The same in channels-last memory."""
    cdef index line = p.line, C = p.C, OW = p.w.outputs, row, oh, i, ow, at, windows
    cdef int8_t* to
    cdef const real* q
    for row in range(begin, end):
        oh = row % p.h.outputs
        for i in range(p.w.runs):
            ow = p.w.first[i]
            at = (row * OW + ow) * C
            windows = p.w.first[i + 1] - ow
            to = <int8_t*>scratch if indices != NULL else places + at if places != NULL else NULL
            q = x + (row // p.h.outputs * p.h.size + p.h.start[oh]) * line + p.w.start[ow] * C
            if real is float:
                kernels.f32.window_max(q, p.h.dilation * line, p.w.dilation * C, p.w.stride[i] * C, p.h.count[oh], p.w.count[ow],
                                       <int>(p.h.skip[oh] * KW + p.w.skip[ow]), KW, y + at, to, windows, C)
            else:
                kernels.f64.window_max(q, p.h.dilation * line, p.w.dilation * C, p.w.stride[i] * C, p.h.count[oh], p.w.count[ow],
                                       <int>(p.h.skip[oh] * KW + p.w.skip[ow]), KW, y + at, to, windows, C)
            if indices != NULL:
                place_indices(p, row, i, ow, windows, offset, to, indices + at)


cdef void large_max(const fc_isa* kernels, const Pool* p, index begin, index end, const real* x, real* y, int64_t* indices) noexcept nogil:
    """Windows of too many pixels for a byte."""
    cdef index row, oh, ow, i, n, out, W = p.w.size, h0, lane = p.lanes, step
    cdef const real* q
    for row in range(begin, end):
        oh = row % p.h.outputs
        h0 = p.h.start[oh]
        i = 0
        while i < (p.w.outputs if p.last else p.w.runs):  # lanes: the channels of a window, or windows of a run
            ow = i if p.last else p.w.first[i]
            n = p.C if p.last else p.w.first[i + 1] - ow
            step = 1 if p.last else p.w.stride[i]
            out = (row * p.w.outputs + ow) * lane
            q = x + ((row // p.h.outputs * p.h.size + h0) * W + p.w.start[ow]) * lane
            if real is float:
                kernels.f32.max_pool_lanes(q, p.h.dilation * p.line, p.w.dilation * lane, p.h.count[oh], p.w.count[ow], h0 * W + p.w.start[ow], p.h.dilation * W,
                                           p.w.dilation, y + out, indices + out if indices != NULL else NULL, n, step, 0 if p.last else step)
            else:
                kernels.f64.max_pool_lanes(q, p.h.dilation * p.line, p.w.dilation * lane, p.h.count[oh], p.w.count[ow], h0 * W + p.w.start[ow], p.h.dilation * W,
                                           p.w.dilation, y + out, indices + out if indices != NULL else NULL, n, step, 0 if p.last else step)
            i += 1


cdef void run_max(const fc_isa* kernels, Pool* p, index KW, bint large, const real* x, real* y, int8_t* places, int64_t* indices, const int64_t* offset, char* scratch,
                  size_t worker) noexcept nogil:
    cdef index rows = p.planes * p.h.outputs, per = item_rows(p), i
    with parallel(num_threads=p.threads):
        for i in prange(ceil_div(rows, per), schedule="static"):
            if large:
                large_max(kernels, p, i * per, imin(rows, (i + 1) * per), x, y, indices)
            elif p.last:
                max_images(kernels, p, KW, i * per, imin(rows, (i + 1) * per), x, y, places, indices, offset, scratch + threadid() * worker)
            else:
                max_planes(kernels, p, KW, i * per, imin(rows, (i + 1) * per), x, y, places, indices, offset, scratch + threadid() * worker)


cdef object max_forward(cnp.ndarray input, index OH, index OW, Pool* p, int kept):
    """(output, what is kept: int8 places, int64 indices or None)"""
    cdef const fc_isa* kernels = active_isa()
    cdef index KH = largest(&p.h), KW = largest(&p.w), t, size = cnp.PyArray_ITEMSIZE(input)
    cdef bint large = KH * KW > MOST_PLACES, single = cnp.PyArray_TYPE(input) == cnp.NPY_FLOAT
    cdef cnp.ndarray output = empty4(p.N, p.C, OH, OW, cnp.PyArray_TYPE(input), p.last), winners = None
    cdef int8_t* places = NULL
    cdef int64_t* indices = NULL
    cdef int64_t offset[MOST_PLACES]
    if kept == INDICES or (kept == PLACES and large):
        winners = empty4(p.N, p.C, OH, OW, cnp.NPY_INT64, p.last)
        indices = <int64_t*>cnp.PyArray_DATA(winners)
    elif kept == PLACES:
        winners = empty4(p.N, p.C, OH, OW, cnp.NPY_INT8, p.last)
        places = <int8_t*>cnp.PyArray_DATA(winners)
    if output.size == 0:
        return output, winners
    if not large:
        for t in range(KH * KW):
            offset[t] = t // KW * p.h.dilation * p.w.size + t % KW * p.w.dilation
    # two rows of numbers, a row of places; room for a vector behind each
    cdef size_t worker = aligned((imax(CHUNK, p.line) * 2 * size) + imax(CHUNK, OW * p.lanes) + 128)
    cdef Arena arena = acquire(p.threads * worker)
    cdef void* x = cnp.PyArray_DATA(input)
    cdef void* y = cnp.PyArray_DATA(output)
    with nogil:
        if single:
            run_max(kernels, p, KW, large, <const float*>x, <float*>y, places, indices, offset, arena.base, worker)
        else:
            run_max(kernels, p, KW, large, <const double*>x, <double*>y, places, indices, offset, arena.base, worker)
    release(arena)
    return output, winners


cdef int kept_of(object winners) except -1:
    return NOTHING if winners is None else {"places": PLACES, "indices": INDICES}[winners]


def max_pool2d(cnp.ndarray input, kernel_size, stride, padding, dilation, output_size, winners):
    """Window maxima, and where they are: None, "places" in the window, or "indices" in the plane. The first maximum wins a tie; NaN wins over everything."""
    cdef cnp.ndarray x = dense(input)
    cdef index KH, KW, SH, SW, PH, PW, DH, DW, OH, OW
    (KH, KW), (SH, SW), (PH, PW), (DH, DW), (OH, OW) = kernel_size, stride, padding, dilation, output_size
    cdef Arena arena = acquire(axis_bytes(OH) + axis_bytes(OW))
    cdef Pool p = new_pool(x.shape[0], x.shape[1], x.shape[2], x.shape[3], OH, OW, is_channels_last(x), arena.base)
    regular_axis(&p.h, KH, SH, PH, DH, False)
    regular_axis(&p.w, KW, SW, PW, DW, False)
    result = max_forward(x, OH, OW, &p, kept_of(winners))
    release(arena)
    return result


def adaptive_max_pool2d(cnp.ndarray input, output_size, winners):
    cdef cnp.ndarray x = dense(input)
    cdef index OH, OW
    OH, OW = output_size
    cdef Arena arena = acquire(axis_bytes(OH) + axis_bytes(OW))
    cdef Pool p = new_pool(x.shape[0], x.shape[1], x.shape[2], x.shape[3], OH, OW, is_channels_last(x), arena.base)
    adaptive_axis(&p.h)
    adaptive_axis(&p.w)
    result = max_forward(x, OH, OW, &p, kept_of(winners))
    release(arena)
    return result


cdef void tiled_max_back(const fc_isa* kernels, const Pool* p, index begin, index end, const real* g, const int8_t* at, real* gx, real* scratch) noexcept nogil:
    """Windows side by side in planes; rows begin .. end - 1 of them, of all planes. Short rows are spread together and then put where they belong."""
    cdef index OW = p.w.outputs, W = p.line, KH = p.h.kernel, KW = p.w.kernel, row = begin, n, i, first
    cdef bint together
    cdef const real* grads
    cdef const int8_t* places
    cdef real* out
    if real is float:
        together = OW < kernels.f32.lanes
    else:
        together = OW < kernels.f64.lanes
    while row < end:
        n = imin(end - row, imax(1, CHUNK // W))
        grads, places = g + row * OW, at + row * OW
        for i in range(KH):
            first = i * KW
            out = gx + (row * KH + i) * W
            if real is float:
                if together:
                    kernels.f32.cols_max_back(&grads, &places, &first, 1, KW, 1, KW, scratch, n * OW, 1, 0, 0)
                    kernels.f32.rows_sum(scratch, W, 0, 1, W, n, out, KH * W)
                else:
                    kernels.f32.cols_max_back(&grads, &places, &first, 1, KW, 1, KW, out, OW, n, OW, KH * W)
            else:
                if together:
                    kernels.f64.cols_max_back(&grads, &places, &first, 1, KW, 1, KW, scratch, n * OW, 1, 0, 0)
                    kernels.f64.rows_sum(scratch, W, 0, 1, W, n, out, KH * W)
                else:
                    kernels.f64.cols_max_back(&grads, &places, &first, 1, KW, 1, KW, out, OW, n, OW, KH * W)
        row += n


cdef inline index margin(const Axis* w) noexcept nogil:
    """Windows to the left of a pixel's own that reach it."""
    return (w.kernel - 1) * w.dilation // w.step


cdef inline index columns(const Axis* w) noexcept nogil:
    """Steps of `step` pixels over a row with its left padding."""
    return ceil_div(w.padding + w.size, w.step)


cdef inline index padded_columns(const Axis* w) noexcept nogil:
    """Gradients of a row of windows between zeros, and room for a vector."""
    return margin(w) + imax(columns(w), w.outputs) + 64


cdef inline index strip_rows(const Pool* p) noexcept nogil:
    """Rows of pixels per piece of the gradient; depends on the shapes alone."""
    return imax(1, imin(p.h.size, STRIP // imax(1, p.line) // imax(1, p.h.step) * imax(1, p.h.step)))


cdef inline void windows_over(const Axis* h, index h0, index h1, index* begin, index* end) noexcept nogil:
    """Windows begin .. end - 1 are those that may reach pixels h0 .. h1 - 1."""
    if h.kernel:
        begin[0] = imax(0, (h0 + h.padding - (h.kernel - 1) * h.dilation + h.step - 1) // h.step) if h0 + h.padding > (h.kernel - 1) * h.dilation else 0
        end[0] = imax(begin[0], imin(h.outputs, (h1 - 1 + h.padding) // h.step + 1))
        return
    begin[0] = 0
    while begin[0] < h.outputs and h.start[begin[0]] + h.count[begin[0]] <= h0:
        begin[0] += 1
    end[0] = begin[0]
    while end[0] < h.outputs and h.start[end[0]] < h1:
        end[0] += 1


cdef size_t max_back_bytes(const Pool* p, size_t size) noexcept nogil:
    cdef index span = (p.h.kernel - 1) * p.h.dilation + strip_rows(p), windows = imin(p.h.outputs, span // p.h.step + 2)
    if p.last:
        return 64
    return aligned(imax(imax(CHUNK, p.line) * size, windows * padded_columns(&p.w) * (size + 1) + columns(&p.w) * p.w.step * size))


cdef void plane_max_back(const fc_isa* kernels, const Pool* p, index plane, index h0, index h1, const real* g, const int8_t* at, real* gx, char* scratch) noexcept nogil:
    """Rows h0 .. h1 - 1 of one plane."""
    cdef const real* grads[MOST_PLACES]
    cdef const int8_t* places[MOST_PLACES]
    cdef index firsts[MOST_PLACES]
    cdef index KH = p.h.kernel, KW = p.w.kernel, OW = p.w.outputs, W = p.w.size, pitch = padded_columns(&p.w), left = margin(&p.w), n = columns(&p.w), o0, o1, o, i, h, t, count
    cdef real* line = <real*>scratch
    cdef real* rows = line + n * p.w.step
    cdef int8_t* bytes
    cdef real* out
    windows_over(&p.h, h0, h1, &o0, &o1)
    bytes = <int8_t*>(rows + (o1 - o0) * pitch)
    memset(rows, 0, (o1 - o0) * pitch * (sizeof(real) + 1))
    for o in range(o0, o1):
        memcpy(rows + (o - o0) * pitch + left, g + (plane * p.h.outputs + o) * OW, OW * sizeof(real))
        memcpy(bytes + (o - o0) * pitch + left, at + (plane * p.h.outputs + o) * OW, OW)
    for h in range(h0, h1):
        count = 0
        for i in range(KH - 1, -1, -1):
            t = h + p.h.padding - i * p.h.dilation
            if t < 0 or t % p.h.step or t // p.h.step >= p.h.outputs:
                continue
            o = t // p.h.step - o0
            grads[count], places[count], firsts[count] = rows + o * pitch + left, bytes + o * pitch + left, i * KW
            count += 1
        out = gx + (plane * p.h.size + h) * W
        if p.w.padding == 0 and n * p.w.step == W:
            line = out
        if real is float:
            kernels.f32.cols_max_back(grads, places, firsts, count, p.w.step, p.w.dilation, KW, line, n, 1, 0, 0)
        else:
            kernels.f64.cols_max_back(grads, places, firsts, count, p.w.step, p.w.dilation, KW, line, n, 1, 0, 0)
        if line != out:
            memcpy(out, line + p.w.padding, W * sizeof(real))


cdef void image_max_back(const fc_isa* kernels, const Pool* p, index image, index h0, index h1, const real* g, const int8_t* at, real* gx) noexcept nogil:
    """Rows h0 .. h1 - 1 of one image in channels-last memory."""
    cdef index KW = p.w.kernel, OW = p.w.outputs, C = p.C, line = p.line, D = p.h.dilation, o0, o1, o, i, ow, i0, i1, out
    cdef bint alone = side_by_side(&p.h) and side_by_side(&p.w)
    gx += (image * p.h.size + h0) * line
    if not alone:
        memset(gx, 0, (h1 - h0) * line * sizeof(real))
    windows_over(&p.h, h0, h1, &o0, &o1)
    for o in range(o0, o1):
        i0 = imax(0, (h0 - p.h.start[o] + D - 1) // D) if h0 > p.h.start[o] else 0  # the window's rows inside the strip
        i1 = imin(p.h.count[o], (h1 - p.h.start[o] + D - 1) // D)
        if i0 >= i1:
            continue
        for i in range(p.w.runs):
            ow = p.w.first[i]
            out = (p.h.start[o] + i0 * D - h0) * line + p.w.start[ow] * C
            if real is float:
                kernels.f32.window_max_back(g + ((image * p.h.outputs + o) * OW + ow) * C, at + ((image * p.h.outputs + o) * OW + ow) * C, D * line, p.w.dilation * C,
                                            p.w.stride[i] * C, i1 - i0, p.w.count[ow], <int>((p.h.skip[o] + i0) * KW + p.w.skip[ow]), KW, gx + out, not alone,
                                            p.w.first[i + 1] - ow, C)
            else:
                kernels.f64.window_max_back(g + ((image * p.h.outputs + o) * OW + ow) * C, at + ((image * p.h.outputs + o) * OW + ow) * C, D * line, p.w.dilation * C,
                                            p.w.stride[i] * C, i1 - i0, p.w.count[ow], <int>((p.h.skip[o] + i0) * KW + p.w.skip[ow]), KW, gx + out, not alone,
                                            p.w.first[i + 1] - ow, C)


cdef void run_max_back(const fc_isa* kernels, const Pool* p, const real* g, const int8_t* at, real* gx, char* scratch, size_t worker) noexcept nogil:
    cdef index rows, per, strips, i
    if not p.last and side_by_side(&p.h) and side_by_side(&p.w):
        rows, per = p.planes * p.h.outputs, item_rows(p)
        with parallel(num_threads=p.threads):
            for i in prange(ceil_div(rows, per), schedule="static"):
                tiled_max_back(kernels, p, i * per, imin(rows, (i + 1) * per), g, at, gx, <real*>(scratch + threadid() * worker))
        return
    per = strip_rows(p)
    strips = ceil_div(p.h.size, per)
    with parallel(num_threads=p.threads):
        for i in prange(p.planes * strips, schedule="static"):
            if p.last:
                image_max_back(kernels, p, i // strips, i % strips * per, imin(p.h.size, (i % strips + 1) * per), g, at, gx)
            else:
                plane_max_back(kernels, p, i // strips, i % strips * per, imin(p.h.size, (i % strips + 1) * per), g, at, gx, scratch + threadid() * worker)


def max_pool2d_backward_places(cnp.ndarray grad_output, cnp.ndarray places, input_shape, kernel_size, stride, padding, dilation):
    """Each gradient to the pixel at its window's place. A place that is none gives it to nobody."""
    cdef const fc_isa* kernels = active_isa()
    cdef cnp.ndarray g = dense(grad_output), at = dense(places)
    cdef bint last = is_channels_last(g), single = cnp.PyArray_TYPE(g) == cnp.NPY_FLOAT
    if is_channels_last(at) != last:
        at = np.empty_like(g, dtype=np.int8)
        np.copyto(at, places)
    cdef index KH, KW, SH, SW, PH, PW, DH, DW, OH = g.shape[2], OW = g.shape[3]
    (KH, KW), (SH, SW), (PH, PW), (DH, DW) = kernel_size, stride, padding, dilation
    cdef Arena tables = acquire(axis_bytes(OH) + axis_bytes(OW)), arena
    cdef Pool p = new_pool(input_shape[0], input_shape[1], input_shape[2], input_shape[3], OH, OW, last, tables.base)
    regular_axis(&p.h, KH, SH, PH, DH, False)
    regular_axis(&p.w, KW, SW, PW, DW, False)
    cdef cnp.ndarray grad_input = empty4(p.N, p.C, p.h.size, p.w.size, cnp.PyArray_TYPE(g), last)
    cdef size_t worker = max_back_bytes(&p, cnp.PyArray_ITEMSIZE(g))
    arena = acquire(p.threads * worker)
    cdef void* gp = cnp.PyArray_DATA(g)
    cdef int8_t* ap = <int8_t*>cnp.PyArray_DATA(at)
    cdef void* out = cnp.PyArray_DATA(grad_input)
    with nogil:
        if single:
            run_max_back(kernels, &p, <const float*>gp, ap, <float*>out, arena.base, worker)
        else:
            run_max_back(kernels, &p, <const double*>gp, ap, <double*>out, arena.base, worker)
    release(arena)
    release(tables)
    return grad_input


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


# Average pooling


cdef inline double scale_of(const Pool* p, index oh, index ow) noexcept nogil:
    return 1.0 / (p.divisor_override if p.divisor_override != 0 else <double>(p.h.divisor[oh] * p.w.divisor[ow]))


cdef void average_rows(const fc_isa* kernels, const Pool* p, index begin, index end, const real* x, real* y, real* sums) noexcept nogil:
    """Rows begin .. end - 1 of windows, of all planes or images."""
    cdef index line = p.line, lanes = p.lanes, OW = p.w.outputs, row = begin, n, step, oh, r, i, ow, out, windows, distance
    cdef double scale
    while row < end:
        n = batch_rows(p, row, end, CHUNK // line, &step)
        oh = row % p.h.outputs
        if not p.last and OW == 1 and p.w.count[0] == p.w.size:  # whole rows (global pooling): one run of memory
            for r in range(n):
                scale = scale_of(p, oh, 0)
                if real is float:
                    y[row + r] = <float>(kernels.f32.sum(x + (row // p.h.outputs * p.h.size + p.h.start[oh] + r * step) * line, p.h.count[oh] * line) * scale)
                else:
                    y[row + r] = kernels.f64.sum(x + (row // p.h.outputs * p.h.size + p.h.start[oh] + r * step) * line, p.h.count[oh] * line) * scale
            row += n
            continue
        if real is float:
            kernels.f32.rows_sum(x + (row // p.h.outputs * p.h.size + p.h.start[oh]) * line, line, line, p.h.count[oh], step * line, n, sums, line)
        else:
            kernels.f64.rows_sum(x + (row // p.h.outputs * p.h.size + p.h.start[oh]) * line, line, line, p.h.count[oh], step * line, n, sums, line)
        for r in range(1 if p.w.tiled else n):
            for i in range(p.w.runs):
                ow = p.w.first[i]
                windows = n * OW if p.w.tiled else p.w.first[i + 1] - ow
                distance = p.w.tiled if p.w.tiled else p.w.stride[i]
                out = ((row + r) * OW + ow) * lanes
                scale = scale_of(p, oh, ow)
                if real is float:
                    if p.last:
                        kernels.f32.window_mean(sums + r * line + p.w.start[ow] * lanes, 0, distance * lanes, 1, p.w.count[ow], <float>scale, y + out, windows, lanes)
                    else:
                        kernels.f32.cols_sum(sums + r * line + p.w.start[ow], distance, p.w.count[ow], <float>scale, y + out, windows)
                else:
                    if p.last:
                        kernels.f64.window_mean(sums + r * line + p.w.start[ow] * lanes, 0, distance * lanes, 1, p.w.count[ow], scale, y + out, windows, lanes)
                    else:
                        kernels.f64.cols_sum(sums + r * line + p.w.start[ow], distance, p.w.count[ow], scale, y + out, windows)
        row += n


cdef void scale_row(const fc_isa* kernels, const Pool* p, index oh, const real* g, real* out) noexcept nogil:
    """A row of gradients of a plane, each divided among its pixels."""
    cdef index i, ow, n
    for i in range(p.w.runs):
        ow = p.w.first[i]
        n = p.w.first[i + 1] - ow
        if real is float:
            kernels.f32.affine(g + ow, 0, 1, 0, <float>scale_of(p, oh, ow), 0, out + ow, n)
        else:
            kernels.f64.affine(g + ow, 0, 1, 0, scale_of(p, oh, ow), 0, out + ow, n)


cdef void spread_row(const fc_isa* kernels, const Pool* p, index oh, const real* g, real* out, real* shares) noexcept nogil:
    """A row of gradients along its columns: out as long as a row of pixels with its padding. shares: a row between zeros, in planes."""
    cdef index i, ow, w
    if not p.last and p.w.kernel > 0:
        scale_row(kernels, p, oh, g, shares + margin(&p.w))
        if real is float:
            kernels.f32.cols_spread(shares + margin(&p.w), p.w.step, p.w.kernel, out, columns(&p.w))
        else:
            kernels.f64.cols_spread(shares + margin(&p.w), p.w.step, p.w.kernel, out, columns(&p.w))
        return
    cdef bint overlap = not side_by_side(&p.w)
    if overlap:
        memset(out, 0, p.line * sizeof(real))
    if not p.last:  # uneven windows
        scale_row(kernels, p, oh, g, shares)
        for ow in range(p.w.outputs):
            for w in range(p.w.start[ow], p.w.start[ow] + p.w.count[ow]):
                out[w] += shares[ow]
        return
    for i in range(p.w.runs):
        ow = p.w.first[i]
        if real is float:
            kernels.f32.window_mean_back(g + ow * p.C, 0, p.w.stride[i] * p.C, 1, p.w.count[ow], <float>scale_of(p, oh, ow), out + p.w.start[ow] * p.C, overlap,
                                         p.w.first[i + 1] - ow, p.C)
        else:
            kernels.f64.window_mean_back(g + ow * p.C, 0, p.w.stride[i] * p.C, 1, p.w.count[ow], scale_of(p, oh, ow), out + p.w.start[ow] * p.C, overlap,
                                         p.w.first[i + 1] - ow, p.C)


cdef inline index spread_pitch(const Pool* p) noexcept nogil:
    return p.line if p.last or p.w.kernel == 0 else columns(&p.w) * p.w.step


cdef size_t average_back_bytes(const Pool* p, size_t size) noexcept nogil:
    cdef index o, windows = 0, o0, o1, h0 = 0, per = strip_rows(p)
    while h0 < p.h.size:
        windows_over(&p.h, h0, imin(p.h.size, h0 + per), &o0, &o1)
        windows = imax(windows, o1 - o0)
        h0 += per
    return aligned(imax(2 * CHUNK, 2 * p.line) * size) + aligned(padded_columns(&p.w) * size if p.w.kernel else p.w.outputs * size) + aligned(windows * spread_pitch(p) * size)


cdef void average_back(const fc_isa* kernels, const Pool* p, index plane, index h0, index h1, const real* g, real* gx, char* scratch) noexcept nogil:
    """Rows h0 .. h1 - 1 of one image (channels-last) or plane of the gradient."""
    cdef index o0, o1, o, h, first, after, pitch = spread_pitch(p), left = p.w.padding if p.w.kernel and not p.last else 0, row = p.w.outputs * p.lanes
    cdef real* shares = <real*>(scratch + aligned(imax(2 * CHUNK, 2 * p.line) * sizeof(real)))
    cdef index room = padded_columns(&p.w) if p.w.kernel else p.w.outputs
    cdef real* rows = <real*>(<char*>shares + aligned(room * sizeof(real)))
    windows_over(&p.h, h0, h1, &o0, &o1)
    memset(shares, 0, room * sizeof(real))
    for o in range(o0, o1):
        spread_row(kernels, p, o, g + (plane * p.h.outputs + o) * row, rows + (o - o0) * pitch, shares)
    first = after = o0
    for h in range(h0, h1):
        while first < o1 and p.h.start[first] + p.h.count[first] <= h:
            first += 1
        after = imax(after, first)
        while after < o1 and p.h.start[after] <= h:
            after += 1
        if real is float:
            kernels.f32.rows_sum(rows + (first - o0) * pitch + left, p.line, pitch, after - first, 0, 1, gx + (plane * p.h.size + h) * p.line, p.line)
        else:
            kernels.f64.rows_sum(rows + (first - o0) * pitch + left, p.line, pitch, after - first, 0, 1, gx + (plane * p.h.size + h) * p.line, p.line)


cdef void tiled_average_back(const fc_isa* kernels, const Pool* p, index begin, index end, const real* g, real* gx, real* shares) noexcept nogil:
    """Windows side by side in planes, of one divisor; rows begin .. end - 1 of them, of all planes."""
    cdef index OW = p.w.outputs, W = p.line, row = begin, n, i, chunk = imax(CHUNK, W)
    cdef double scale = scale_of(p, 0, 0)
    cdef real* spread = shares + chunk
    while row < end:
        n = imin(end - row, imax(1, CHUNK // W))
        if real is float:
            kernels.f32.affine(g + row * OW, 0, 1, 0, <float>scale, 0, shares, n * OW)
            kernels.f32.cols_spread(shares, p.w.step, p.w.kernel, spread, n * OW)
        else:
            kernels.f64.affine(g + row * OW, 0, 1, 0, scale, 0, shares, n * OW)
            kernels.f64.cols_spread(shares, p.w.step, p.w.kernel, spread, n * OW)
        for i in range(p.h.kernel):
            if real is float:
                kernels.f32.rows_sum(spread, W, 0, 1, W, n, gx + (row * p.h.kernel + i) * W, p.h.kernel * W)
            else:
                kernels.f64.rows_sum(spread, W, 0, 1, W, n, gx + (row * p.h.kernel + i) * W, p.h.kernel * W)
        row += n


cdef void run_average(const fc_isa* kernels, const Pool* p, const real* x, real* y, char* scratch, size_t worker) noexcept nogil:
    cdef index rows = p.planes * p.h.outputs, per = item_rows(p), i
    with parallel(num_threads=p.threads):
        for i in prange(ceil_div(rows, per), schedule="static"):
            average_rows(kernels, p, i * per, imin(rows, (i + 1) * per), x, y, <real*>(scratch + threadid() * worker))


cdef void run_average_back(const fc_isa* kernels, const Pool* p, const real* g, real* gx, char* scratch, size_t worker) noexcept nogil:
    cdef index rows, per, strips, i
    if not p.last and side_by_side(&p.h) and side_by_side(&p.w):
        rows, per = p.planes * p.h.outputs, item_rows(p)
        with parallel(num_threads=p.threads):
            for i in prange(ceil_div(rows, per), schedule="static"):
                tiled_average_back(kernels, p, i * per, imin(rows, (i + 1) * per), g, gx, <real*>(scratch + threadid() * worker))
        return
    per = strip_rows(p)
    strips = ceil_div(p.h.size, per)
    with parallel(num_threads=p.threads):
        for i in prange(p.planes * strips, schedule="static"):
            average_back(kernels, p, i // strips, i % strips * per, imin(p.h.size, (i % strips + 1) * per), g, gx, scratch + threadid() * worker)


cdef object average_forward(cnp.ndarray input, index OH, index OW, Pool* p, object out):
    cdef const fc_isa* kernels = active_isa()
    cdef cnp.ndarray output = empty4(p.N, p.C, OH, OW, cnp.PyArray_TYPE(input), p.last) if out is None else out
    cdef size_t worker = aligned(imax(CHUNK, p.line) * cnp.PyArray_ITEMSIZE(input))
    cdef Arena arena
    cdef void* x = cnp.PyArray_DATA(input)
    cdef void* y = cnp.PyArray_DATA(output)
    cdef bint single = cnp.PyArray_TYPE(input) == cnp.NPY_FLOAT
    if output.size:
        arena = acquire(p.threads * worker)
        with nogil:
            if single:
                run_average(kernels, p, <const float*>x, <float*>y, arena.base, worker)
            else:
                run_average(kernels, p, <const double*>x, <double*>y, arena.base, worker)
        release(arena)
    return output


cdef object average_backward(cnp.ndarray g, Pool* p, object out):
    cdef const fc_isa* kernels = active_isa()
    cdef cnp.ndarray grad_input = empty4(p.N, p.C, p.h.size, p.w.size, cnp.PyArray_TYPE(g), p.last) if out is None else out
    cdef size_t worker = average_back_bytes(p, cnp.PyArray_ITEMSIZE(g))
    cdef Arena arena
    cdef void* gp = cnp.PyArray_DATA(g)
    cdef void* xp = cnp.PyArray_DATA(grad_input)
    cdef bint single = cnp.PyArray_TYPE(g) == cnp.NPY_FLOAT
    if grad_input.size:
        arena = acquire(p.threads * worker)
        with nogil:
            if single:
                run_average_back(kernels, p, <const float*>gp, <float*>xp, arena.base, worker)
            else:
                run_average_back(kernels, p, <const double*>gp, <double*>xp, arena.base, worker)
        release(arena)
    return grad_input


def avg_pool2d(cnp.ndarray input, kernel_size, stride, padding, output_size, bint count_include_pad, divisor_override, out=None):
    """Window sums / divisors. out, if given, is dense, of the input's memory format, and is returned."""
    cdef cnp.ndarray x = dense(input)
    cdef index KH, KW, SH, SW, PH, PW, OH, OW
    (KH, KW), (SH, SW), (PH, PW), (OH, OW) = kernel_size, stride, padding, output_size
    cdef Arena arena = acquire(axis_bytes(OH) + axis_bytes(OW))
    cdef Pool p = new_pool(x.shape[0], x.shape[1], x.shape[2], x.shape[3], OH, OW, is_channels_last(x), arena.base)
    regular_axis(&p.h, KH, SH, PH, 1, count_include_pad)
    regular_axis(&p.w, KW, SW, PW, 1, count_include_pad)
    p.divisor_override = divisor_override or 0
    result = average_forward(x, OH, OW, &p, out)
    release(arena)
    return result


def avg_pool2d_backward(cnp.ndarray grad_output, input_shape, kernel_size, stride, padding, bint count_include_pad, divisor_override, out=None):
    """grad_output / divisor to every pixel of a window. out as in avg_pool2d."""
    cdef cnp.ndarray g = dense(grad_output)
    cdef index KH, KW, SH, SW, PH, PW, OH = g.shape[2], OW = g.shape[3]
    (KH, KW), (SH, SW), (PH, PW) = kernel_size, stride, padding
    cdef bint last = is_channels_last(g if out is None else out)  # one window is the same memory in both formats
    cdef Arena arena = acquire(axis_bytes(OH) + axis_bytes(OW))
    cdef Pool p = new_pool(input_shape[0], input_shape[1], input_shape[2], input_shape[3], OH, OW, last, arena.base)
    regular_axis(&p.h, KH, SH, PH, 1, count_include_pad)
    regular_axis(&p.w, KW, SW, PW, 1, count_include_pad)
    p.divisor_override = divisor_override or 0
    result = average_backward(g, &p, out)
    release(arena)
    return result


cdef enum:
    GLOBAL_ITEM = 8192  # elements of whole planes


cdef void global_planes(const fc_isa* kernels, bint backward, const real* x, index planes, index pixels, real* out) noexcept nogil:
    """Means of whole planes, or such means' gradients shared out among the pixels; C-contiguous memory."""
    cdef index per = imax(1, GLOBAL_ITEM // imax(pixels, 1) // 16 * 16), items = ceil_div(planes, per), i, at
    cdef int threads = thread_count(8.0 * planes * pixels, items)
    for i in prange(items, num_threads=threads, schedule="static"):
        at = i * per
        if real is float:
            if backward:
                kernels.f32.row_fill(x + at, imin(per, planes - at), pixels, <float>pixels, out + at * pixels)
            else:
                kernels.f32.row_means(x + at * pixels, imin(per, planes - at), pixels, out + at)
        else:
            if backward:
                kernels.f64.row_fill(x + at, imin(per, planes - at), pixels, pixels, out + at * pixels)
            else:
                kernels.f64.row_means(x + at * pixels, imin(per, planes - at), pixels, out + at)


cdef cnp.ndarray global_average(bint backward, cnp.ndarray x, index N, index C, index H, index W):
    """Global average pooling of planes (N, C, H, W), or its gradient."""
    cdef const fc_isa* kernels = active_isa()
    cdef cnp.ndarray out = empty4(N, C, H if backward else 1, W if backward else 1, cnp.PyArray_TYPE(x), False)
    cdef void* xp = cnp.PyArray_DATA(x)
    cdef void* op = cnp.PyArray_DATA(out)
    cdef bint single = cnp.PyArray_TYPE(x) == cnp.NPY_FLOAT
    with nogil:
        if single:
            global_planes(kernels, backward, <float*>xp, N * C, H * W, <float*>op)
        else:
            global_planes(kernels, backward, <double*>xp, N * C, H * W, <double*>op)
    return out


def adaptive_avg_pool2d(cnp.ndarray input, output_size):
    cdef cnp.ndarray x = dense(input)
    cdef index OH, OW
    OH, OW = output_size
    if OH == 1 and OW == 1 and cnp.PyArray_IS_C_CONTIGUOUS(x):
        return global_average(False, x, x.shape[0], x.shape[1], x.shape[2], x.shape[3])
    cdef Arena arena = acquire(axis_bytes(OH) + axis_bytes(OW))
    cdef Pool p = new_pool(x.shape[0], x.shape[1], x.shape[2], x.shape[3], OH, OW, is_channels_last(x), arena.base)
    adaptive_axis(&p.h)
    adaptive_axis(&p.w)
    result = average_forward(x, OH, OW, &p, None)
    release(arena)
    return result


def adaptive_avg_pool2d_backward(cnp.ndarray grad_output, input_shape):
    cdef cnp.ndarray g = dense(grad_output)
    cdef index OH = g.shape[2], OW = g.shape[3]
    if OH == 1 and OW == 1:
        g = cnp.PyArray_GETCONTIGUOUS(g)
        return global_average(True, g, input_shape[0], input_shape[1], input_shape[2], input_shape[3])
    cdef Arena arena = acquire(axis_bytes(OH) + axis_bytes(OW))
    cdef Pool p = new_pool(input_shape[0], input_shape[1], input_shape[2], input_shape[3], OH, OW, is_channels_last(g), arena.base)
    adaptive_axis(&p.h)
    adaptive_axis(&p.w)
    result = average_backward(g, &p, None)
    release(arena)
    return result
