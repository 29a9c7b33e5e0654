# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""A run of narrow layers with images in the lanes: activations are [N / L][C][H][W][L], csrc/kernels/lanes.inc.

The run is cut by images alone: a group of L images goes through all stages on one thread, forward and later backward, in memory that fits L2; so a step has one
parallel region per direction. A stage is a convolution and what follows it: an activation, a pooling, in either order. The convolution's rows are pooled as soon as they
are there and never stored where only their maxima are needed; backward needs the positions of the maxima, one byte each.

Each stage's input is kept with its zero border, so the convolution knows nothing of padding. Weights are read where they lie, (O, C, KH, KW).

Every weight's gradient is summed per lane over the group's pixels, then over the lanes, then over the groups in order: bits do not depend on the threads.
"""
import numpy as np

cimport numpy as cnp
from cython.parallel cimport parallel, prange, threadid
from libc.stdint cimport int8_t
from libc.string cimport memcpy, memset

from fastcnn.backends.cpu._kernels cimport FC_LEAKY_RELU, FC_RELU, fc_isa
from fastcnn.backends.cpu._layout cimport aligned, ceil_div, imax, imin, index, real
from fastcnn.backends.cpu._runtime cimport Arena, acquire, active_isa, fc_use_pool, pool, release, reserve, thread_count

cnp.import_array()
fc_use_pool(pool())

cdef enum:
    MOST_STAGES = 16
    STRIP_BYTES = 24 * 1024  # of four channels of grad_output in the weight gradient: half of L1
    NO_POOL = 0
    MAX_POOL = 1
    AVG_POOL = 2

ACTIVATIONS = {"relu": FC_RELU, "leaky_relu": FC_LEAKY_RELU}  # those whose derivative can be told from their output
POOLS = {"max": MAX_POOL, "avg": AVG_POOL}


cdef struct Stage:
    index C
    index H
    index W
    index O
    index KH
    index KW
    index SH
    index SW
    index PT
    index PB
    index PL
    index PR
    index DH
    index DW
    index OH
    index OW
    int activation       # an fc_eltwise_op, or -1
    double slope
    bint activation_first
    int pool
    index QH             # pooling window and stride
    index QW
    index TH
    index TW
    double scale         # of an average
    index YH             # output of the stage
    index YW
    index x_row          # elements of a row and a plane of the input, border included
    index x_plane
    index y_row          # of the output: the next stage's input, border included
    index y_plane
    index y_first        # its first element inside the border
    index rows           # convolution rows held at a time, where there is a pooling
    bint keeps           # all of them are kept: an average's activation needs them in backward
    bint tiles           # pooling windows do not overlap
    size_t x_at          # bytes, from the start of a group's memory
    size_t y_at
    size_t kept_at
    size_t winners_at
    index gradient_at    # elements, from the start of a group's gradients: O * taps weights, O biases


cdef struct Run:
    int lanes
    int count
    size_t group_bytes    # memory of a group
    size_t buffer_bytes   # convolution rows on their way to a pooling; all of them in backward
    size_t grad_bytes     # gradient of a stage's output
    size_t sums_bytes     # lanes of weight gradients
    size_t worker_bytes
    index gradients       # elements
    index* offsets[MOST_STAGES]
    Stage stages[MOST_STAGES]


cdef void convolve_row(const fc_isa* kernels, const Stage* s, const index* offset, const real* x, const real* w, const real* b, index r, real* out,
                       index out_channel) noexcept nogil:
    """Row r of all output channels."""
    cdef index taps = s.C * s.KH * s.KW, block, p, o, v, lanes
    cdef int m, mr, nv
    if real is float:
        lanes, mr, nv = kernels.f32.lanes, kernels.f32.mr, kernels.f32.nv
    else:
        lanes, mr, nv = kernels.f64.lanes, kernels.f64.mr, kernels.f64.nv
    cdef index blocks = ceil_div(s.O, mr), parts = ceil_div(s.OW, nv)
    x += r * s.SH * s.x_row
    for block in range(blocks):  # even blocks: 10 channels are 5 + 5, 7 pixels are 3 + 2 + 2
        o = block * s.O // blocks
        m = <int>((block + 1) * s.O // blocks - o)
        for p in range(parts):
            v = p * s.OW // parts
            nv = <int>((p + 1) * s.OW // parts - v)
            if real is float:
                kernels.f32.planes(w + o * taps, taps, b + o if b != NULL else NULL, x + v * s.SW * lanes, offset, taps, s.SW * lanes, False,
                                   out + o * out_channel + v * lanes, out_channel, lanes, <int>lanes, <int>lanes, m, nv)
            else:
                kernels.f64.planes(w + o * taps, taps, b + o if b != NULL else NULL, x + v * s.SW * lanes, offset, taps, s.SW * lanes, False,
                                   out + o * out_channel + v * lanes, out_channel, lanes, <int>lanes, <int>lanes, m, nv)


cdef void activate(const fc_isa* kernels, const Stage* s, real* x, index channel, index length) noexcept nogil:
    """In place, `length` elements of every output channel."""
    cdef index o
    for o in range(s.O):
        if real is float:
            kernels.f32.eltwise(s.activation, x + o * channel, x + o * channel, length, <real>s.slope, 0)
        else:
            kernels.f64.eltwise(s.activation, x + o * channel, x + o * channel, length, <real>s.slope, 0)


cdef void stage_forward(const fc_isa* kernels, const Run* run, int at, char* memory, const real* w, const real* b, char* buffer, bint training) noexcept nogil:
    cdef const Stage* s = &run.stages[at]
    cdef const real* x = <const real*>(memory + s.x_at)
    cdef real* y = <real*>(memory + s.y_at) + s.y_first
    cdef real* conv = <real*>(memory + s.kept_at) if s.keeps and training else <real*>buffer
    cdef int8_t* winners = <int8_t*>(memory + s.winners_at)
    cdef index line = s.OW * run.lanes, r = 0, p, q, o, first
    if s.pool == NO_POOL:
        for r in range(s.OH):
            convolve_row(kernels, s, run.offsets[at], x, w, b, r, y + r * s.y_row, s.y_plane)
            if s.activation >= 0:
                activate(kernels, s, y + r * s.y_row, s.y_plane, line)
        return
    for p in range(s.YH):
        if s.rows < s.OH or p == 0:
            first = p * s.TH if s.rows < s.OH else 0
            for r in range(s.rows):
                convolve_row(kernels, s, run.offsets[at], x, w, b, first + r, conv + r * line, s.rows * line)
            if s.activation >= 0 and s.activation_first:
                activate(kernels, s, conv, s.rows * line, s.rows * line)
        q = 0 if s.rows < s.OH else p * s.TH * line
        for o in range(s.O):
            if s.pool == MAX_POOL:
                if real is float:
                    kernels.f32.window_max(conv + o * s.rows * line + q, line, run.lanes, s.TW * run.lanes, s.QH, s.QW, 0, s.QW, y + o * s.y_plane + p * s.y_row,
                                               winners + (o * s.YH + p) * s.YW * run.lanes if training else NULL, s.YW, run.lanes)
                else:
                    kernels.f64.window_max(conv + o * s.rows * line + q, line, run.lanes, s.TW * run.lanes, s.QH, s.QW, 0, s.QW, y + o * s.y_plane + p * s.y_row,
                                               winners + (o * s.YH + p) * s.YW * run.lanes if training else NULL, s.YW, run.lanes)
            else:
                if real is float:
                    kernels.f32.window_mean(conv + o * s.rows * line + q, line, s.TW * run.lanes, s.QH, s.QW, <real>s.scale, y + o * s.y_plane + p * s.y_row, s.YW,
                                                run.lanes)
                else:
                    kernels.f64.window_mean(conv + o * s.rows * line + q, line, s.TW * run.lanes, s.QH, s.QW, <real>s.scale, y + o * s.y_plane + p * s.y_row, s.YW,
                                                run.lanes)
        if s.activation >= 0 and not s.activation_first:
            activate(kernels, s, y + p * s.y_row, s.y_plane, s.YW * run.lanes)


cdef void unpool(const fc_isa* kernels, const Run* run, const Stage* s, const real* grad, const int8_t* winners, real* full) noexcept nogil:
    """Gradient of the convolution's output, dense, from that of the stage's output (at its first element inside the border)."""
    cdef index line = s.OW * run.lanes, o, p
    cdef real* out
    cdef const real* g
    cdef int add = not s.tiles
    if add or s.YH * s.QH < s.OH or s.YW * s.QW < s.OW:  # pixels between windows, or behind the last one
        memset(full, 0, s.O * s.OH * line * sizeof(real))
    for o in range(s.O):
        for p in range(s.YH):
            out = full + (o * s.OH + p * s.TH) * line
            g = grad + o * s.y_plane + p * s.y_row
            if s.pool == MAX_POOL:
                if real is float:
                    kernels.f32.window_max_back(g, winners + (o * s.YH + p) * s.YW * run.lanes, line, run.lanes, s.TW * run.lanes, s.QH, s.QW, 0, s.QW, out, add, s.YW,
                                                    run.lanes)
                else:
                    kernels.f64.window_max_back(g, winners + (o * s.YH + p) * s.YW * run.lanes, line, run.lanes, s.TW * run.lanes, s.QH, s.QW, 0, s.QW, out, add, s.YW,
                                                    run.lanes)
            else:
                if real is float:
                    kernels.f32.window_mean_back(g, line, s.TW * run.lanes, s.QH, s.QW, <real>s.scale, out, add, s.YW,
                                                    run.lanes)
                else:
                    kernels.f64.window_mean_back(g, line, s.TW * run.lanes, s.QH, s.QW, <real>s.scale, out, add, s.YW,
                                                    run.lanes)


cdef void derive(const fc_isa* kernels, const Stage* s, const real* y, real* grad, index n) noexcept nogil:
    """grad *= the activation's derivative, told from its output y."""
    if real is float:
        kernels.f32.eltwise_backward(s.activation, grad, y, grad, n, <real>s.slope, 0)
    else:
        kernels.f64.eltwise_backward(s.activation, grad, y, grad, n, <real>s.slope, 0)


cdef void parameter_gradients(const fc_isa* kernels, const Run* run, int at, const real* x, const real* g, index g_row, index g_plane, real* sums,
                              real* gradients, bint biases) noexcept nogil:
    """O * taps weights and, where wanted, behind them O biases."""
    cdef const Stage* s = &run.stages[at]
    cdef index taps = s.C * s.KH * s.KW, line = s.OW * run.lanes, r = 0, o, rows, most = imax(1, STRIP_BYTES // (4 * line * <index>sizeof(real)))
    cdef double total
    memset(sums, 0, s.O * taps * run.lanes * sizeof(real))
    while r < s.OH:  # strips small enough that the channels' rows stay in L1 from one block of taps to the next
        rows = imin(most, s.OH - r)
        if real is float:
            kernels.f32.planes_outer(g + r * g_row, g_plane, g_row, x + r * s.SH * s.x_row, run.offsets[at], taps, s.SH * s.x_row, s.SW * run.lanes, rows, line, sums, s.O)
        else:
            kernels.f64.planes_outer(g + r * g_row, g_plane, g_row, x + r * s.SH * s.x_row, run.offsets[at], taps, s.SH * s.x_row, s.SW * run.lanes, rows, line, sums, s.O)
        r += rows
    if real is float:
        kernels.f32.fold_lanes(sums, gradients, s.O * taps)
    else:
        kernels.f64.fold_lanes(sums, gradients, s.O * taps)
    for o in range(s.O if biases else 0):
        total = 0
        for r in range(s.OH):
            if real is float:
                total += kernels.f32.sum(g + o * g_plane + r * g_row, line)
            else:
                total += kernels.f64.sum(g + o * g_plane + r * g_row, line)
        gradients[s.O * taps + o] = <real>total


cdef void input_gradient(const fc_isa* kernels, const Run* run, int at, const real* g, index g_row, index g_plane, const real* w, index first, index after, index* lists,
                         real* out) noexcept nogil:
    """Channels first .. after - 1, in the layout of the stage's input, border included (what falls there belongs to nobody)."""
    cdef const Stage* s = &run.stages[at]
    cdef index taps = s.KH * s.KW, h, oh, kh, o, c, count
    cdef index* g_offset = lists
    cdef index* w_offset = lists + s.O * s.KH
    memset(out, 0, (after - first) * s.x_plane * sizeof(real))
    for h in range(s.PT, s.PT + s.H):
        count = 0
        for kh in range(s.KH):
            oh = h - kh * s.DH
            if oh < 0 or oh % s.SH != 0 or oh // s.SH >= s.OH:
                continue
            for o in range(s.O):
                g_offset[count] = o * g_plane + oh // s.SH * g_row
                w_offset[count] = o * s.C * taps + kh * s.KW
                count += 1
        for c in range(first, after):
            if real is float:
                kernels.f32.lanes_scatter(g, g_offset, w + c * taps, w_offset, count, out + (c - first) * s.x_plane + h * s.x_row, s.OW, s.KW, s.SW, s.DW)
            else:
                kernels.f64.lanes_scatter(g, g_offset, w + c * taps, w_offset, count, out + (c - first) * s.x_plane + h * s.x_row, s.OW, s.KW, s.SW, s.DW)


cdef void load(const fc_isa* kernels, int lanes, const real* source, index size, index images, index channels, index H, index W, real* out, index plane,
               index row) noexcept nogil:
    """Images (images, channels, H, W), `size` elements apart, into the lanes; lanes without an image are zero."""
    cdef index c, h, pixels = channels * H * W
    if row == W * lanes and plane == H * row:
        if real is float:
            kernels.f32.transpose(source, size, out, lanes, images, pixels, lanes)
        else:
            kernels.f64.transpose(source, size, out, lanes, images, pixels, lanes)
        return
    for c in range(channels):
        for h in range(H):
            if real is float:
                kernels.f32.transpose(source + (c * H + h) * W, size, out + c * plane + h * row, lanes, images, W, lanes)
            else:
                kernels.f64.transpose(source + (c * H + h) * W, size, out + c * plane + h * row, lanes, images, W, lanes)


cdef void unload(const fc_isa* kernels, int lanes, const real* x, index plane, index row, index images, index channels, index H, index W, real* out,
                 index size) noexcept nogil:
    cdef index c, h, pixels = channels * H * W
    if row == W * lanes and plane == H * row:
        if real is float:
            kernels.f32.transpose(x, lanes, out, size, pixels, images, pixels)
        else:
            kernels.f64.transpose(x, lanes, out, size, pixels, images, pixels)
        return
    for c in range(channels):
        for h in range(H):
            if real is float:
                kernels.f32.transpose(x + c * plane + h * row, lanes, out + (c * H + h) * W, size, W, images, W)
            else:
                kernels.f64.transpose(x + c * plane + h * row, lanes, out + (c * H + h) * W, size, W, images, W)


cdef void group_forward(const fc_isa* kernels, const Run* run, const real* x, index images, const void** w, const void** b, real* y, char* memory, char* scratch,
                        bint training) noexcept nogil:
    cdef const Stage* s = &run.stages[0]
    cdef int at
    load(kernels, run.lanes, x, s.C * s.H * s.W, images, s.C, s.H, s.W, <real*>(memory + s.x_at) + s.PT * s.x_row + s.PL * run.lanes, s.x_plane, s.x_row)
    for at in range(run.count):
        stage_forward(kernels, run, at, memory, <const real*>w[at], <const real*>b[at], scratch, training)
    s = &run.stages[run.count - 1]
    unload(kernels, run.lanes, <real*>(memory + s.y_at), s.y_plane, s.y_row, images, s.O, s.YH, s.YW, y, s.O * s.YH * s.YW)


cdef void group_backward(const fc_isa* kernels, const Run* run, const real* grad, index images, const void** w, real* grad_input, char* memory, char* scratch,
                         real* gradients) noexcept nogil:
    cdef const Stage* s = &run.stages[run.count - 1]
    cdef char* full = scratch
    cdef char* out = scratch + run.buffer_bytes                       # gradient of the stage's output
    cdef char* into = scratch + run.buffer_bytes + run.grad_bytes     # of its input
    cdef char* sums = scratch + run.buffer_bytes + 2 * run.grad_bytes
    cdef index* lists = <index*>(scratch + run.buffer_bytes + 2 * run.grad_bytes + run.sums_bytes)
    cdef const real* g
    cdef index g_row, g_plane
    cdef int at = run.count - 1
    load(kernels, run.lanes, grad, s.O * s.YH * s.YW, images, s.O, s.YH, s.YW, <real*>out, s.y_plane, s.y_row)
    while at >= 0:
        s = &run.stages[at]
        if s.activation >= 0 and not s.keeps:
            derive(kernels, s, <const real*>(memory + s.y_at), <real*>out, s.O * s.y_plane)
        if s.pool == NO_POOL:
            g, g_row, g_plane = <real*>out + s.y_first, s.y_row, s.y_plane
        else:
            unpool(kernels, run, s, <real*>out + s.y_first, <int8_t*>(memory + s.winners_at), <real*>full)
            g, g_row, g_plane = <real*>full, s.OW * run.lanes, s.OH * s.OW * run.lanes
            if s.keeps:
                derive(kernels, s, <const real*>(memory + s.kept_at), <real*>full, s.O * g_plane)
        parameter_gradients(kernels, run, at, <const real*>(memory + s.x_at), g, g_row, g_plane, <real*>sums, gradients + s.gradient_at, True)
        if at > 0 or grad_input != NULL:
            input_gradient(kernels, run, at, g, g_row, g_plane, <const real*>w[at], 0, s.C, lists, <real*>into)
        out, into = into, out
        at -= 1
    if grad_input != NULL:
        unload(kernels, run.lanes, <real*>out + s.PT * s.x_row + s.PL * run.lanes, s.x_plane, s.x_row, images, s.C, s.H, s.W, grad_input,
               s.C * s.H * s.W)


cdef class Lanes:
    """A run of stages over images (C, H, W) of one dtype, with the memory that backward needs.

    stages: for each the convolution's (O, (KH, KW), stride, ((PT, PB), (PL, PR)), dilation), the activation as (name, slope) or None, whether it comes
    before the pooling, and the pooling as ("max" or "avg", window, stride) or None.
    """

    cdef Run run
    cdef Arena arena
    cdef object dtype
    cdef object offsets
    cdef index batch           # images of the latest forward
    cdef bint trained          # whose forward kept what backward needs
    cdef double flops          # of the forward pass of one image
    cdef readonly tuple output_shape
    cdef str isa
    cdef object __weakref__

    def __init__(self, dtype, input_shape, stages):
        if not 1 <= len(stages) <= MOST_STAGES:
            raise ValueError(f"Lanes: 1 to {MOST_STAGES} stages, got {len(stages)}")
        self.dtype = np.dtype(dtype)
        self.lay_out(input_shape, stages)

    cdef void lay_out(self, input_shape, stages):
        cdef const fc_isa* kernels = active_isa()
        cdef index item = self.dtype.itemsize, lanes = kernels.f32.lanes if item == 4 else kernels.f64.lanes, C, H, W, k, c, kh, kw, at
        cdef size_t full, edge
        cdef Stage* s
        cdef index[::1] table
        C, H, W = input_shape
        self.isa = kernels.name.decode()
        self.run.lanes, self.run.count, self.offsets, self.flops = <int>lanes, len(stages), [], 0
        self.run.buffer_bytes = self.run.grad_bytes = self.run.sums_bytes = self.run.gradients = 0
        cdef size_t lists = 0, used = 0
        for at, ((O, (KH, KW), (SH, SW), ((PT, PB), (PL, PR)), (DH, DW)), activation, first, pool) in enumerate(stages):
            s = &self.run.stages[at]
            s.C, s.H, s.W, s.O, s.KH, s.KW, s.SH, s.SW = C, H, W, O, KH, KW, SH, SW
            s.PT, s.PB, s.PL, s.PR, s.DH, s.DW = PT, PB, PL, PR, DH, DW
            s.OH = (H + PT + PB - (s.KH - 1) * s.DH - 1) // s.SH + 1
            s.OW = (W + PL + PR - (s.KW - 1) * s.DW - 1) // s.SW + 1
            s.activation, s.slope, s.activation_first = -1, 0, first
            if activation is not None:
                s.activation, s.slope = ACTIVATIONS[activation[0]], activation[1]
            s.pool, s.YH, s.YW, s.rows, s.keeps, s.tiles = NO_POOL, s.OH, s.OW, 0, False, True
            if pool is not None:
                kind, (s.QH, s.QW), (s.TH, s.TW) = pool
                s.pool, s.scale = POOLS[kind], 1.0 / (s.QH * s.QW)
                s.YH, s.YW = (s.OH - s.QH) // s.TH + 1, (s.OW - s.QW) // s.TW + 1
                s.tiles = s.TH >= s.QH and s.TW >= s.QW
                s.keeps = s.pool == AVG_POOL and activation is not None and first
                s.rows = s.QH if s.TH >= s.QH and not s.keeps else s.OH
            s.x_row = (W + PL + PR) * lanes
            s.x_plane = (H + PT + PB) * s.x_row
            s.x_at = used
            used += aligned(C * s.x_plane * item)
            s.winners_at = s.kept_at = used
            if s.pool == MAX_POOL:
                used += aligned(s.O * s.YH * s.YW * lanes)
            if s.keeps:
                used += aligned(s.O * s.OH * s.OW * lanes * item)
            s.gradient_at = self.run.gradients
            self.run.gradients += s.O * s.C * s.KH * s.KW + s.O
            self.flops += 2.0 * s.O * s.OH * s.OW * s.C * s.KH * s.KW
            full, edge = aligned(s.O * s.OH * s.OW * lanes * item), aligned(s.C * s.x_plane * item)
            self.run.buffer_bytes = max(self.run.buffer_bytes, full)
            self.run.grad_bytes = max(self.run.grad_bytes, edge)
            self.run.sums_bytes = max(self.run.sums_bytes, aligned(s.O * s.C * s.KH * s.KW * lanes * item))
            lists = max(lists, aligned(2 * s.O * s.KH * sizeof(index)))
            offsets = np.empty(s.C * s.KH * s.KW, np.intp)
            table, k = offsets, 0
            for c in range(s.C):
                for kh in range(s.KH):
                    for kw in range(s.KW):
                        table[k] = c * s.x_plane + kh * s.DH * s.x_row + kw * s.DW * lanes
                        k += 1
            self.offsets.append(offsets)
            self.run.offsets[at] = &table[0]
            C, H, W = s.O, s.YH, s.YW
        for at in range(self.run.count):
            s = &self.run.stages[at]
            if at + 1 < self.run.count:
                s.y_row, s.y_plane, s.y_at = s[1].x_row, s[1].x_plane, s[1].x_at
                s.y_first = s[1].PT * s[1].x_row + s[1].PL * lanes
            else:
                s.y_row, s.y_plane, s.y_at, s.y_first = s.YW * lanes, s.YH * s.YW * lanes, used, 0
                used += aligned(s.O * s.y_plane * item)
                self.run.grad_bytes = max(self.run.grad_bytes, aligned(s.O * s.y_plane * item))
        self.output_shape = (C, H, W)
        self.run.group_bytes = used
        self.run.worker_bytes = self.run.buffer_bytes + 2 * self.run.grad_bytes + self.run.sums_bytes + lists
        self.arena, self.batch, self.trained = None, 0, False

    @property
    def nbytes(self):
        """Bytes kept between calls."""
        return 0 if self.arena is None else self.arena.size

    def bytes_for(self, index batch):
        """Bytes that training on `batch` images keeps."""
        return ceil_div(batch, self.run.lanes) * self.run.group_bytes

    cdef void ensure(self, size_t nbytes):
        """Group memory. It is zero at first, and the borders stay zero, because the stages write only inside them."""
        if self.arena is None or self.arena.size < nbytes:
            self.arena, self.trained = None, False  # should there be no memory, nothing is left for backward either
            self.arena = reserve(nbytes)
            memset(self.arena.base, 0, nbytes)

    def forward(self, cnp.ndarray input, weights, biases, bint training, cnp.ndarray output):
        """input (N, C, H, W) -> output (N, *output_shape), both C-contiguous. Keeps what backward needs where `training`."""
        cdef const fc_isa* kernels = active_isa()
        cdef const void* w[MOST_STAGES]
        cdef const void* b[MOST_STAGES]
        cdef index N = input.shape[0], groups = ceil_div(N, self.run.lanes), group, size = self.run.stages[0].C * self.run.stages[0].H * self.run.stages[0].W
        cdef index out_size = self.output_shape[0] * self.output_shape[1] * self.output_shape[2]
        cdef int threads = thread_count(self.flops * N, groups)
        if self.run.lanes != (kernels.f32.lanes if self.dtype.itemsize == 4 else kernels.f64.lanes):
            raise RuntimeError(f"Lanes: planned for {self.isa}, the instruction set is {kernels.name.decode()} now")
        pointers(weights, w)
        pointers(biases, b)
        self.ensure((groups if training else threads) * self.run.group_bytes)
        cdef Arena scratch = acquire(threads * self.run.buffer_bytes)
        cdef char* memory = self.arena.base
        cdef char* buffers = scratch.base
        cdef const char* x = <const char*>cnp.PyArray_DATA(input)
        cdef char* y = <char*>cnp.PyArray_DATA(output)
        cdef Run* run = &self.run
        cdef bint single = self.dtype.itemsize == 4
        self.batch, self.trained = N, training
        for group in prange(groups, nogil=True, num_threads=threads, schedule="dynamic", chunksize=1):
            if single:
                group_forward(kernels, run, <const float*>x + group * run.lanes * size, imin(run.lanes, N - group * run.lanes), w, b,
                              <float*>y + group * run.lanes * out_size, memory + (group if training else threadid()) * run.group_bytes,
                              buffers + threadid() * run.buffer_bytes, training)
            else:
                group_forward(kernels, run, <const double*>x + group * run.lanes * size, imin(run.lanes, N - group * run.lanes), w, b,
                              <double*>y + group * run.lanes * out_size, memory + (group if training else threadid()) * run.group_bytes,
                              buffers + threadid() * run.buffer_bytes, training)
        release(scratch)

    def backward(self, cnp.ndarray grad_output, weights, grad_weights, grad_biases, cnp.ndarray grad_input):
        """grad_output, C-contiguous -> writes the gradients of weights and biases (those that are not None), and grad_input where it is not None."""
        cdef const fc_isa* kernels = active_isa()
        cdef const void* w[MOST_STAGES]
        cdef index N = self.batch, groups = ceil_div(N, self.run.lanes), group, at, size = self.run.stages[0].C * self.run.stages[0].H * self.run.stages[0].W
        cdef index out_size = self.output_shape[0] * self.output_shape[1] * self.output_shape[2], i, total = self.run.gradients
        cdef int threads = thread_count(2 * self.flops * N, groups)
        if not self.trained or grad_output.size != N * out_size:
            raise RuntimeError(f"Lanes: backward of {grad_output.size} elements after a forward of {N * out_size if self.trained else 0}")
        pointers(weights, w)
        cdef size_t item = self.dtype.itemsize, gradient_bytes = aligned(total * item)
        cdef Arena scratch = acquire(groups * gradient_bytes + threads * self.run.worker_bytes)
        cdef char* memory = self.arena.base
        cdef char* sums = scratch.base
        cdef char* workers = scratch.base + groups * gradient_bytes
        cdef const char* g = <const char*>cnp.PyArray_DATA(grad_output)
        cdef char* gx = <char*>cnp.PyArray_DATA(grad_input) if grad_input is not None else NULL
        cdef Run* run = &self.run
        cdef bint single = item == 4
        for group in prange(groups, nogil=True, num_threads=threads, schedule="dynamic", chunksize=1):
            if single:
                group_backward(kernels, run, <const float*>g + group * run.lanes * out_size, imin(run.lanes, N - group * run.lanes), w,
                               <float*>gx + group * run.lanes * size if gx != NULL else NULL, memory + group * run.group_bytes, workers + threadid() * run.worker_bytes,
                               <float*>(sums + group * gradient_bytes))
            else:
                group_backward(kernels, run, <const double*>g + group * run.lanes * out_size, imin(run.lanes, N - group * run.lanes), w,
                               <double*>gx + group * run.lanes * size if gx != NULL else NULL, memory + group * run.group_bytes, workers + threadid() * run.worker_bytes,
                               <double*>(sums + group * gradient_bytes))
        for group in range(1, groups):
            if single:
                add(<float*>sums, <float*>(sums + group * gradient_bytes), total)
            else:
                add(<double*>sums, <double*>(sums + group * gradient_bytes), total)
        for at in range(run.count):
            i = run.stages[at].gradient_at
            hand_out(sums, i, grad_weights[at], item)
            hand_out(sums, i + run.stages[at].O * run.stages[at].C * run.stages[at].KH * run.stages[at].KW, grad_biases[at], item)
        release(scratch)


# ---- single convolutions: a run of one stage, with the copies into the lanes and back. An item is a group of images and a part of the output channels (of the input
# channels for the input gradient): where groups are fewer than threads, or cannot be dealt out evenly, each part loads its images for itself.

cdef index parts_of(index groups, index channels, int threads) noexcept nogil:
    """As few as give each thread the same number of items."""
    cdef index parts = 1
    while groups * parts % threads != 0:
        parts += 1
    return imin(parts, channels)


cdef void forward_part(const fc_isa* kernels, const Run* run, const real* x, index images, const real* w, const real* b, real* y, index first, index after, char* memory,
                       char* scratch) noexcept nogil:
    cdef Run part = run[0]
    cdef Stage* s = &part.stages[0]
    cdef index taps = s.C * s.KH * s.KW, plane = s.YH * s.YW, size = s.O * plane
    s.O = after - first
    load(kernels, run.lanes, x, s.C * s.H * s.W, images, s.C, s.H, s.W, <real*>(memory + s.x_at) + s.PT * s.x_row + s.PL * run.lanes, s.x_plane, s.x_row)
    stage_forward(kernels, &part, 0, memory, w + first * taps, b + first if b != NULL else NULL, scratch, False)
    unload(kernels, run.lanes, <real*>(memory + s.y_at), s.y_plane, s.y_row, images, s.O, s.YH, s.YW, y + first * plane, size)


cdef void weight_part(const fc_isa* kernels, const Run* run, const real* x, const real* grad, index images, index first, index after, char* memory, char* scratch,
                      real* gradients) noexcept nogil:
    cdef Run part = run[0]
    cdef Stage* s = &part.stages[0]
    cdef index taps = s.C * s.KH * s.KW, plane = s.YH * s.YW, size = s.O * plane
    cdef char* sums = scratch + run.buffer_bytes + 2 * run.grad_bytes
    s.O = after - first
    load(kernels, run.lanes, x, s.C * s.H * s.W, images, s.C, s.H, s.W, <real*>(memory + s.x_at) + s.PT * s.x_row + s.PL * run.lanes, s.x_plane, s.x_row)
    load(kernels, run.lanes, grad + first * plane, size, images, s.O, s.YH, s.YW, <real*>scratch, s.y_plane, s.y_row)
    parameter_gradients(kernels, &part, 0, <const real*>(memory + s.x_at), <const real*>scratch, s.y_row, s.y_plane, <real*>sums, gradients + first * taps, False)


cdef void input_part(const fc_isa* kernels, const Run* run, const real* grad, index images, const real* w, real* grad_input, index first, index after,
                     char* scratch) noexcept nogil:
    cdef const Stage* s = &run.stages[0]
    cdef char* into = scratch + run.buffer_bytes
    cdef index* lists = <index*>(scratch + run.buffer_bytes + 2 * run.grad_bytes + run.sums_bytes)
    load(kernels, run.lanes, grad, s.O * s.YH * s.YW, images, s.O, s.YH, s.YW, <real*>scratch, s.y_plane, s.y_row)
    input_gradient(kernels, run, 0, <const real*>scratch, s.y_row, s.y_plane, w, first, after, lists, <real*>into)
    unload(kernels, run.lanes, <real*>into + s.PT * s.x_row + s.PL * run.lanes, s.x_plane, s.x_row, images, after - first, s.H, s.W, grad_input + first * s.H * s.W,
           s.C * s.H * s.W)


cdef class Convolution(Lanes):
    """A single convolution."""


cdef void convolve(Convolution c, cnp.ndarray input, cnp.ndarray weight, object bias, cnp.ndarray output, real* tag):
    cdef const fc_isa* kernels = active_isa()
    cdef Run* run = &c.run
    cdef const Stage* s = &run.stages[0]
    cdef index N = input.shape[0], lanes = run.lanes, groups = ceil_div(N, lanes), item, n, size = s.C * s.H * s.W, out_size = s.O * s.YH * s.YW, O = s.O
    cdef index parts = parts_of(groups, O, thread_count(c.flops * N, 1 << 20))
    cdef int threads = thread_count(c.flops * N, groups * parts)
    c.ensure(threads * run.group_bytes)
    cdef Arena arena = acquire(threads * run.buffer_bytes)
    cdef char* memory = c.arena.base
    cdef char* scratch = arena.base
    cdef const real* x = <const real*>cnp.PyArray_DATA(input)
    cdef const real* w = <const real*>cnp.PyArray_DATA(weight)
    cdef const real* b = <const real*>cnp.PyArray_DATA(<cnp.ndarray>bias) if bias is not None else NULL
    cdef real* y = <real*>cnp.PyArray_DATA(output)
    for item in prange(groups * parts, nogil=True, num_threads=threads, schedule="dynamic", chunksize=1):
        n = item // parts * lanes
        forward_part(kernels, run, x + n * size, imin(lanes, N - n), w, b, y + n * out_size, item % parts * O // parts, (item % parts + 1) * O // parts,
                     memory + threadid() * run.group_bytes, scratch + threadid() * run.buffer_bytes)
    release(arena)


cdef void weight_gradient(Convolution c, cnp.ndarray grad_output, cnp.ndarray input, cnp.ndarray out, real* tag):
    cdef const fc_isa* kernels = active_isa()
    cdef Run* run = &c.run
    cdef const Stage* s = &run.stages[0]
    cdef index N = input.shape[0], lanes = run.lanes, groups = ceil_div(N, lanes), item, n, size = s.C * s.H * s.W, out_size = s.O * s.YH * s.YW, O = s.O
    cdef index parts = parts_of(groups, O, thread_count(c.flops * N, 1 << 20)), apart = aligned(run.gradients * sizeof(real)) // sizeof(real)
    cdef int threads = thread_count(c.flops * N, groups * parts)
    c.ensure(threads * run.group_bytes)
    cdef Arena arena = acquire(groups * apart * sizeof(real) + threads * run.worker_bytes)
    cdef char* memory = c.arena.base
    cdef real* gradients = <real*>arena.base
    cdef char* scratch = arena.base + groups * apart * sizeof(real)
    cdef const real* x = <const real*>cnp.PyArray_DATA(input)
    cdef const real* g = <const real*>cnp.PyArray_DATA(grad_output)
    for item in prange(groups * parts, nogil=True, num_threads=threads, schedule="dynamic", chunksize=1):
        n = item // parts * lanes
        weight_part(kernels, run, x + n * size, g + n * out_size, imin(lanes, N - n), item % parts * O // parts, (item % parts + 1) * O // parts,
                    memory + threadid() * run.group_bytes, scratch + threadid() * run.worker_bytes, gradients + item // parts * apart)
    for item in range(1, groups):
        add(gradients, gradients + item * apart, out.size)
    memcpy(cnp.PyArray_DATA(out), gradients, out.size * sizeof(real))
    release(arena)


cdef void image_gradient(Convolution c, cnp.ndarray grad_output, cnp.ndarray weight, cnp.ndarray out, real* tag):
    cdef const fc_isa* kernels = active_isa()
    cdef Run* run = &c.run
    cdef const Stage* s = &run.stages[0]
    cdef index N = out.shape[0], lanes = run.lanes, groups = ceil_div(N, lanes), item, n, size = s.C * s.H * s.W, out_size = s.O * s.YH * s.YW, C = s.C
    cdef index parts = parts_of(groups, C, thread_count(c.flops * N, 1 << 20))
    cdef int threads = thread_count(c.flops * N, groups * parts)
    cdef Arena arena = acquire(threads * run.worker_bytes)
    cdef char* scratch = arena.base
    cdef const real* g = <const real*>cnp.PyArray_DATA(grad_output)
    cdef const real* w = <const real*>cnp.PyArray_DATA(weight)
    cdef real* gx = <real*>cnp.PyArray_DATA(out)
    for item in prange(groups * parts, nogil=True, num_threads=threads, schedule="dynamic", chunksize=1):
        n = item // parts * lanes
        input_part(kernels, run, g + n * out_size, imin(lanes, N - n), w, gx + n * size, item % parts * C // parts, (item % parts + 1) * C // parts,
                   scratch + threadid() * run.worker_bytes)
    release(arena)


# Convolutions not in use, by what they are for. A call takes one and puts it back, so concurrent Python threads never share one.
_idle = {}
MOST_KINDS = 8


def take(key):
    found = _idle.get(key)
    try:
        return found.pop()
    except (AttributeError, IndexError):
        dtype, image, (O, _, KH, KW), stride, padding, dilation, _ = key
        return Convolution(dtype, image, [((O, (KH, KW), stride, padding, dilation), None, False, None)])


def put_back(key, convolution):
    found = _idle.get(key)
    if found is None:
        if len(_idle) >= MOST_KINDS:
            _idle.clear()
        found = _idle[key] = []
    found.append(convolution)


def key_of(x, image_shape, weight_shape, stride, padding, dilation):
    return x.dtype.char, tuple(image_shape[1:]), tuple(weight_shape), stride, padding, dilation, active_isa().name


def conv2d(cnp.ndarray input, cnp.ndarray weight, bias, stride, padding, dilation, groups, out=None):
    """Images in the lanes; C-contiguous arrays, groups 1."""
    cdef tuple key = key_of(input, (<object>input).shape, (<object>weight).shape, stride, padding, dilation)
    cdef Convolution convolution = take(key)
    O, OH, OW = convolution.output_shape
    cdef cnp.ndarray y = np.empty((input.shape[0], O, OH, OW), input.dtype) if out is None else out
    b = None if bias is None else np.ascontiguousarray(bias)
    if cnp.PyArray_TYPE(input) == cnp.NPY_FLOAT:
        convolve(convolution, input, weight, b, y, <float*>NULL)
    else:
        convolve(convolution, input, weight, b, y, <double*>NULL)
    put_back(key, convolution)
    return y


def conv2d_grad_input(cnp.ndarray grad_output, cnp.ndarray weight, input_shape, stride, padding, dilation, groups, out=None):
    cdef tuple key = key_of(grad_output, input_shape, (<object>weight).shape, stride, padding, dilation)
    cdef Convolution convolution = take(key)
    cdef cnp.ndarray gx = np.empty(input_shape, grad_output.dtype) if out is None else out
    if cnp.PyArray_TYPE(grad_output) == cnp.NPY_FLOAT:
        image_gradient(convolution, grad_output, weight, gx, <float*>NULL)
    else:
        image_gradient(convolution, grad_output, weight, gx, <double*>NULL)
    put_back(key, convolution)
    return gx


def conv2d_grad_weight(cnp.ndarray grad_output, cnp.ndarray input, weight_shape, stride, padding, dilation, groups, out=None):
    cdef tuple key = key_of(input, (<object>input).shape, weight_shape, stride, padding, dilation)
    cdef Convolution convolution = take(key)
    cdef cnp.ndarray gw = np.empty(weight_shape, input.dtype) if out is None else out
    if cnp.PyArray_TYPE(input) == cnp.NPY_FLOAT:
        weight_gradient(convolution, grad_output, input, gw, <float*>NULL)
    else:
        weight_gradient(convolution, grad_output, input, gw, <double*>NULL)
    put_back(key, convolution)
    return gw


cdef void add(real* total, const real* part, index n) noexcept nogil:
    cdef index i
    for i in range(n):
        total[i] += part[i]


cdef void hand_out(const char* sums, index at, object target, size_t item):
    cdef cnp.ndarray array
    if target is not None:
        array = target
        memcpy(cnp.PyArray_DATA(array), sums + at * item, array.size * item)


cdef void pointers(arrays, const void** out):
    cdef index i = 0
    cdef cnp.ndarray array
    for a in arrays:
        if a is None:
            out[i] = NULL
        else:
            array = a
            out[i] = cnp.PyArray_DATA(array)
        i += 1
