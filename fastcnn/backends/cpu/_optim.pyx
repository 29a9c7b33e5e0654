# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Optimizer updates: all parameters in one call, each element read and written once; csrc/kernels/optim.inc has the formulas.

The elements are walked in the order in which the parameter lies in memory. An operand that lies in the same order (as gradients and states mostly do) is used
where it is; any other (a permuted, strided or misaligned view) is gathered piece by piece into scratch, and scattered back if it was written. Every element's
arithmetic is its own, so no result depends on the pieces or the threads.
"""
cimport numpy as cnp
from cython.parallel cimport prange
from libc.math cimport pow, sqrt
from libc.stdint cimport uintptr_t
from libc.stdlib cimport qsort
from libc.string cimport memcpy

from fastcnn.backends.cpu._kernels cimport fc_isa
from fastcnn.backends.cpu._layout cimport aligned, ceil_div, imax, imin, index, real
from fastcnn.backends.cpu._runtime cimport Arena, acquire, active_isa, fc_use_pool, pool, release, thread_count

cnp.import_array()
fc_use_pool(pool())

cdef enum:
    SGD, ADAM, RMSPROP, ADAGRAD

cdef enum:
    PIECE = 4096    # elements: five operands of float32 are 80 KiB
    OPERANDS = 5    # parameter, gradient, up to three states
    CONSTANTS = 9   # see the kernels
    DEEPEST = 64    # NumPy's most axes

# Operations per element for the serial threshold. Measured, not counted: 60,000 elements of Adam take 13 us on one core and are not worth waking a second.
cdef double CHEAP = 8, DEAR = 16


cdef struct Job:
    # one parameter
    index n
    index first                # elements in the jobs before it
    index item                 # bytes
    bint start                 # SGD: the buffer begins as the gradient
    int axes                   # of more than one element, neighbours merged where all operands allow
    index* shape               # (axes,), in the parameter's memory order
    index* stride              # (OPERANDS, axes), in bytes
    bint flat[OPERANDS]        # lies in that order without gaps
    char* data[OPERANDS]       # NULL: not there
    double k[CONSTANTS]
    float k32[CONSTANTS]


cdef struct Extent:
    uintptr_t low
    uintptr_t high


cdef int by_low(const void* a, const void* b) noexcept nogil:
    cdef uintptr_t x = (<const Extent*>a).low, y = (<const Extent*>b).low
    return -1 if x < y else x > y


cdef bint overlapping(Job* jobs, index count, Extent* extents) noexcept nogil:
    """Might two parameters share memory? Then they are updated one after another, on one thread."""
    cdef index i, j, far
    cdef Job* job
    for i in range(count):
        job = jobs + i
        extents[i].low = <uintptr_t>job.data[0]
        extents[i].high = extents[i].low + (job.item if job.n else 0)
        for j in range(job.axes if job.n else 0):
            far = (job.shape[j] - 1) * job.stride[j]
            if far < 0:
                extents[i].low += far
            else:
                extents[i].high += far
    qsort(extents, count, sizeof(Extent), by_low)
    for i in range(1, count):
        if extents[i].low < extents[i - 1].high:
            return True
    return False


cdef bint alike(cnp.ndarray a, cnp.ndarray b) noexcept:
    cdef int i
    if cnp.PyArray_TYPE(a) != cnp.PyArray_TYPE(b) or cnp.PyArray_NDIM(a) != cnp.PyArray_NDIM(b):
        return False
    for i in range(cnp.PyArray_NDIM(a)):
        if a.shape[i] != b.shape[i]:
            return False
    return True


cdef index fill(Job* job, tuple operands, index number, index* room) except -1:
    """Everything but the constants. room holds (1 + OPERANDS) * ndim numbers; returns how many are used."""
    cdef cnp.ndarray p = operands[0][number], a
    cdef int order[DEEPEST]
    cdef int ndim = cnp.PyArray_NDIM(p), axes = 0, i, j, o
    cdef index dense, step
    cdef bint merges
    if cnp.PyArray_TYPE(p) != cnp.NPY_FLOAT and cnp.PyArray_TYPE(p) != cnp.NPY_DOUBLE:
        raise TypeError(f"parameter {number} must be float32 or float64, got {p.dtype}")
    job.n, job.item = cnp.PyArray_SIZE(p), cnp.PyArray_ITEMSIZE(p)
    for i in range(ndim):  # axes by falling stride: the parameter's memory order
        if p.shape[i] == 1:
            continue
        j = axes
        while j > 0 and abs(p.strides[order[j - 1]]) < abs(p.strides[i]):
            order[j] = order[j - 1]
            j -= 1
        order[j] = i
        axes += 1
    job.shape, job.stride, job.axes = room, room + ndim, axes
    for i in range(axes):
        job.shape[i] = p.shape[order[i]]
    for o in range(OPERANDS):
        job.data[o] = NULL
        if o >= len(operands) or operands[o] is None:
            continue
        a = operands[o][number]
        if not alike(a, p) or not cnp.PyArray_ISNOTSWAPPED(a):
            raise ValueError(f"operand {o} of parameter {number} must be like it: {p.dtype} of shape {(<object>p).shape}")
        if o != 1 and not cnp.PyArray_ISWRITEABLE(a):
            raise ValueError(f"operand {o} of parameter {number} is read-only")
        job.data[o] = cnp.PyArray_BYTES(a)
        job.flat[o] = cnp.PyArray_ISALIGNED(a)
        dense = job.item
        for i in range(axes - 1, -1, -1):
            step = a.strides[order[i]]
            job.stride[o * ndim + i] = step
            job.flat[o] = job.flat[o] and step == dense
            dense *= job.shape[i]
    # merge axes, so that what is gathered comes in runs as long as possible
    i = 0
    while i + 1 < job.axes:
        merges = True
        for o in range(OPERANDS):
            if job.data[o] != NULL and job.stride[o * ndim + i] != job.shape[i + 1] * job.stride[o * ndim + i + 1]:
                merges = False
        if not merges:
            i += 1
            continue
        job.shape[i] *= job.shape[i + 1]
        for j in range(i + 1, job.axes - 1):
            job.shape[j] = job.shape[j + 1]
        for o in range(OPERANDS):
            for j in range(i, job.axes - 1):
                job.stride[o * ndim + j] = job.stride[o * ndim + j + 1]
        job.axes -= 1
    for o in range(1, OPERANDS):  # strides closely packed: (OPERANDS, axes)
        for j in range(job.axes):
            job.stride[o * job.axes + j] = job.stride[o * ndim + j]
    return (1 + OPERANDS) * ndim


cdef void copy_run(char* a, index stride, real* b, index n, bint out) noexcept nogil:
    """By memcpy, because a view may be misaligned."""
    cdef index i
    if out:
        for i in range(n):
            memcpy(a + i * stride, b + i, sizeof(real))
    else:
        for i in range(n):
            memcpy(b + i, a + i * stride, sizeof(real))


cdef void move(const Job* job, int operand, index start, index n, real* buffer, bint out) noexcept nogil:
    """Copy elements start to start + n of an operand into a buffer, or out of it."""
    cdef index at[DEEPEST]
    cdef const index* stride = job.stride + operand * job.axes
    cdef char* p = job.data[operand]
    cdef int last = job.axes - 1, d
    cdef index run
    if job.axes == 0:
        copy_run(p, 0, buffer, n, out)
        return
    for d in range(last, -1, -1):
        at[d] = start % job.shape[d]
        start //= job.shape[d]
        p += at[d] * stride[d]
    while n > 0:
        run = imin(job.shape[last] - at[last], n)
        copy_run(p, stride[last], buffer, run, out)
        buffer += run
        n -= run
        at[last] += run
        p += run * stride[last]
        d = last
        while d > 0 and at[d] == job.shape[d]:
            p += stride[d - 1] - job.shape[d] * stride[d]
            at[d] = 0
            d -= 1
            at[d] += 1


cdef void update(const fc_isa* kernels, int kind, bint nesterov, const Job* job, const real* k, index start, index n, real* scratch) noexcept nogil:
    cdef real* a[OPERANDS]
    cdef int o
    for o in range(OPERANDS):
        if job.data[o] == NULL:
            a[o] = NULL
        elif job.flat[o]:
            a[o] = <real*>job.data[o] + start
        else:
            a[o] = scratch + o * PIECE
            move(job, o, start, n, a[o], False)
    if kind == SGD:
        if real is float:
            kernels.f32.sgd(a[0], a[1], a[2], n, k, job.start, nesterov)
        else:
            kernels.f64.sgd(a[0], a[1], a[2], n, k, job.start, nesterov)
    elif kind == ADAM:
        if real is float:
            kernels.f32.adam(a[0], a[1], a[2], a[3], a[4], n, k)
        else:
            kernels.f64.adam(a[0], a[1], a[2], a[3], a[4], n, k)
    elif kind == RMSPROP:
        if real is float:
            kernels.f32.rmsprop(a[0], a[1], a[2], a[3], a[4], n, k)
        else:
            kernels.f64.rmsprop(a[0], a[1], a[2], a[3], a[4], n, k)
    else:
        if real is float:
            kernels.f32.adagrad(a[0], a[1], a[2], n, k)
        else:
            kernels.f64.adagrad(a[0], a[1], a[2], n, k)
    for o in range(OPERANDS):
        if job.data[o] != NULL and not job.flat[o] and o != 1:
            move(job, o, start, n, a[o], True)


cdef void update_range(const fc_isa* kernels, int kind, bint nesterov, const Job* jobs, index count, index low, index high, char* scratch) noexcept nogil:
    """The pieces that start at elements low to high of all the parameters taken together."""
    cdef index i, start, n
    cdef const Job* job
    for i in range(count):
        job = jobs + i
        start = ceil_div(imax(low - job.first, 0), PIECE) * PIECE
        while start < job.n and job.first + start < high:
            n = imin(PIECE, job.n - start)
            if job.item == sizeof(float):
                update(kernels, kind, nesterov, job, job.k32, start, n, <float*>scratch)
            else:
                update(kernels, kind, nesterov, job, job.k, start, n, <double*>scratch)
            start += n


cdef run(int kind, tuple operands, list steps, double* k, bint nesterov, double beta1, double beta2, double lr, double lr_decay, double cost):
    """k: the constants that are the same for all parameters; those that depend on the step are put in here."""
    cdef const fc_isa* kernels = active_isa()
    cdef index count = len(operands[0]), i, total = 0, axes = 0, pieces = 0, step, before = 0
    cdef list each
    for each in operands:
        if each is not None and len(each) != count:
            raise ValueError(f"{count} parameters but a list of {len(each)} beside them")
    if steps is not None and len(steps) != count:
        raise ValueError(f"{count} parameters but {len(steps)} steps")
    for each_p in operands[0]:
        axes += cnp.PyArray_NDIM(each_p)
        total += cnp.PyArray_SIZE(each_p)
        pieces += ceil_div(cnp.PyArray_SIZE(each_p), PIECE)
    cdef int threads = thread_count(cost * total, pieces), t, c
    cdef size_t table = aligned(count * sizeof(Job)), rooms = aligned((1 + OPERANDS) * axes * sizeof(index)), ends = aligned(count * sizeof(Extent))
    cdef size_t each_scratch = aligned(OPERANDS * PIECE * sizeof(double))
    cdef Arena arena = acquire(table + rooms + ends + threads * each_scratch)
    cdef Job* jobs = <Job*>arena.base
    cdef index* room = <index*>(arena.base + table)
    cdef char* scratch = arena.base + table + rooms + ends
    try:
        total = 0
        for i in range(count):
            room += fill(jobs + i, operands, i, room)
            jobs[i].first = total
            total += jobs[i].n
            step = steps[i] if steps is not None else 1
            if step != before:
                before = step
                if kind == ADAM:
                    k[2] = lr / (1 - pow(beta1, step))
                    k[6] = 1 / sqrt(1 - pow(beta2, step))
                elif kind == ADAGRAD:
                    k[2] = lr / (1 + (step - 1) * lr_decay)
            jobs[i].start = step == 1
            for c in range(CONSTANTS):
                jobs[i].k[c] = k[c]
                jobs[i].k32[c] = <float>k[c]
        with nogil:
            if threads > 1 and overlapping(jobs, count, <Extent*>(arena.base + table + rooms)):
                threads = 1
            for t in prange(threads, num_threads=threads, schedule="static", chunksize=1):
                update_range(kernels, kind, nesterov, jobs, count, total * t // threads, total * (t + 1) // threads, scratch + t * each_scratch)
    finally:
        release(arena)


def sgd_update(list params, list grads, list momentum_buffers, list steps, double lr, double momentum, double dampening, double weight_decay, bint nesterov,
               bint maximize):
    cdef double[CONSTANTS] k = [-1 if maximize else 1, weight_decay, lr, momentum, 1 - dampening, 0, 0, 0, 0]
    run(SGD, (params, grads, momentum_buffers), steps, k, nesterov, 0, 0, lr, 0, CHEAP)


def adagrad_update(list params, list grads, list sums, list steps, double lr, double lr_decay, double eps, double weight_decay, bint maximize):
    cdef double[CONSTANTS] k = [-1 if maximize else 1, weight_decay, lr, eps, 0, 0, 0, 0, 0]
    run(ADAGRAD, (params, grads, sums), steps, k, False, 0, 0, lr, lr_decay, DEAR)


def rmsprop_update(list params, list grads, list square_avgs, list grad_avgs, list momentum_buffers, double lr, double alpha, double eps, double momentum,
                   double weight_decay, bint maximize):
    cdef double[CONSTANTS] k = [-1 if maximize else 1, weight_decay, lr, alpha, 1 - alpha, eps, momentum, 0, 0]
    run(RMSPROP, (params, grads, square_avgs, grad_avgs, momentum_buffers), None, k, False, 0, 0, lr, 0, DEAR)


def adam_update(list params, list grads, list exp_avgs, list exp_avg_sqs, list max_exp_avg_sqs, list steps, double lr, double beta1, double beta2, double eps,
                double weight_decay, bint decoupled, bint maximize):
    cdef double[CONSTANTS] k = [-1 if maximize else 1, 0 if decoupled else weight_decay, lr, 1 - beta1, beta2, 1 - beta2, 1, eps,
                                1 - lr * weight_decay if decoupled else 1]
    run(ADAM, (params, grads, exp_avgs, exp_avg_sqs, max_exp_avg_sqs), steps, k, False, beta1, beta2, lr, 0, DEAR)
