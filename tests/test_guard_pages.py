"""Every kernel family on arrays that end, or begin, at an unreadable page: a read or write one element outside ends the process.

NumPy is given an allocator that puts each array flush against such a page, so what the drivers allocate as results is guarded like what they are
given. (Their own scratch is not: there the kernels may read beyond the end where their contract says so.) Runs in sub-processes, one per set and type.
"""

import ctypes
import faulthandler
import mmap
import os
import subprocess
import sys

import numpy as np
import pytest

cpu = pytest.importorskip("fastcnn.backends.cpu", reason="the compiled backend is not built")
from fastcnn import nn  # noqa: E402
from fastcnn.backends.cpu import _add, _formats, _lanes, _norm, _pool, select  # noqa: E402
from fastcnn.plan import Planner  # noqa: E402
from fastcnn.plan.memory import Memory  # noqa: E402
from fastcnn.shapes import pool2d_output_size  # noqa: E402

PAGE = mmap.PAGESIZE
ALIGNED = 8  # bytes of the largest element
SET_HANDLER = 304  # PyDataMem_SetHandler's place in NumPy's table of functions, part of its ABI


class GuardedMemory:
    """A NumPy allocator. at_end: arrays end at the page behind them, otherwise they begin at the page before them."""

    def __init__(self, at_end):
        self.at_end, self.blocks = at_end, {}
        self.libc = ctypes.CDLL(None, use_errno=True)
        self.libc.mmap.restype = ctypes.c_void_p
        self.libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
        self.libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
        self.libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
        size, pointer = ctypes.c_size_t, ctypes.c_void_p

        class Allocator(ctypes.Structure):
            _fields_ = [
                ("context", pointer),
                ("malloc", ctypes.CFUNCTYPE(pointer, pointer, size)),
                ("calloc", ctypes.CFUNCTYPE(pointer, pointer, size, size)),
                ("realloc", ctypes.CFUNCTYPE(pointer, pointer, pointer, size)),
                ("free", ctypes.CFUNCTYPE(None, pointer, pointer, size)),
            ]

        class Handler(ctypes.Structure):
            _fields_ = [("name", ctypes.c_char * 127), ("version", ctypes.c_uint8), ("allocator", Allocator)]

        functions = dict(Allocator._fields_)
        self.handler = Handler(
            b"guarded",
            1,
            Allocator(
                None,
                functions["malloc"](lambda _, n: self.malloc(n)),
                functions["calloc"](lambda _, n, each: self.malloc(n * each)),  # fresh pages are zero
                functions["realloc"](lambda _, old, n: self.realloc(old, n)),
                functions["free"](lambda _, p, n: self.free(p)),
            ),
        )

    def malloc(self, nbytes):
        pages = -(-nbytes // PAGE) * PAGE
        start = self.libc.mmap(None, pages + 2 * PAGE, mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, -1, 0)
        for guard in (start, start + PAGE + pages):
            assert self.libc.mprotect(guard, PAGE, 0) == 0
        address = start + PAGE + (pages - nbytes if self.at_end else 0)
        self.blocks[address] = start, pages + 2 * PAGE, nbytes
        return address

    def realloc(self, old, nbytes):
        address = self.malloc(nbytes)
        if old:
            ctypes.memmove(address, old, min(nbytes, self.blocks[old][2]))
            self.free(old)
        return address

    def free(self, address):
        if address:
            start, nbytes, _ = self.blocks.pop(address)
            self.libc.munmap(start, nbytes)

    def install(self):
        install(ctypes.addressof(self.handler))


_installed = []  # NumPy keeps the capsules, and they must be kept too


def install(handler):
    """From now on NumPy's arrays lie where the PyDataMem_Handler at this address puts them."""
    new, get = ctypes.pythonapi.PyCapsule_New, ctypes.pythonapi.PyCapsule_GetPointer
    new.restype, new.argtypes = ctypes.py_object, [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
    get.restype, get.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
    _installed.append(new(handler, b"mem_handler", None))
    table = ctypes.cast(get(np._core._multiarray_umath._ARRAY_API, None), ctypes.POINTER(ctypes.c_void_p))
    ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.py_object)(table[SET_HANDLER])(_installed[-1])


def array(shape, dtype, last=False):
    """Memory of its own, filled with small numbers, C-contiguous or channels-last."""
    if last and len(shape) == 4:
        N, C, H, W = shape
        return array((N, H, W, C), dtype).transpose(0, 3, 1, 2)
    out = np.empty(shape, dtype)
    out[...] = np.arange(out.size).reshape(shape) % 7 - 3
    return out


# N C H W  O KH KW  stride padding dilation groups
CONVOLUTIONS = [
    (1, 1, 5, 5, 1, 3, 3, (1, 1), 0, 1, 1), (2, 3, 7, 9, 5, 3, 3, (1, 1), 1, 1, 1), (1, 17, 5, 7, 19, 3, 3, (1, 1), 1, 1, 1),
    (2, 3, 9, 8, 6, 5, 5, (2, 2), 2, 1, 1), (1, 4, 6, 11, 6, 3, 2, (1, 1), 0, 1, 2), (2, 7, 5, 6, 7, 3, 3, (1, 1), 1, 1, 7),
    (2, 19, 9, 9, 19, 3, 3, (2, 1), 1, 1, 19), (1, 3, 9, 9, 4, 3, 3, (1, 2), 2, 2, 1),
    (3, 5, 4, 4, 9, 4, 4, (1, 1), 0, 1, 1), (2, 33, 4, 3, 17, 1, 1, (1, 1), 0, 1, 1), (1, 16, 9, 10, 18, 3, 3, (1, 1), 1, 1, 1),
    (2, 20, 5, 5, 33, 3, 3, (1, 1), 0, 1, 1),
    # depthwise on planes: rows and columns are left over at the end of the array, narrow rows, several vectors
    (2, 7, 8, 20, 7, 3, 3, (2, 2), 0, 1, 7), (2, 7, 9, 34, 7, 3, 3, (2, 2), 1, 1, 7), (1, 5, 10, 35, 5, 5, 5, (2, 2), 2, 1, 5),
    (1, 5, 8, 20, 5, 5, 5, (2, 2), 0, 1, 5), (2, 9, 14, 14, 9, 3, 3, (1, 1), 1, 1, 9), (2, 6, 33, 40, 6, 5, 5, (1, 1), 2, 1, 6),
    (3, 5, 7, 7, 5, 3, 3, (1, 1), 1, 1, 5), (3, 5, 6, 8, 5, 3, 3, (2, 2), 0, 1, 5), (1, 3, 4, 130, 3, 3, 3, (1, 1), 0, 1, 3),
    # pixels side by side: across images, strided, blocks of the reduction, padding alone
    (3, 33, 7, 7, 20, 1, 1, (2, 2), 0, 1, 1), (2, 40, 7, 7, 150, 1, 1, (1, 1), 0, 1, 1), (3, 800, 3, 4, 9, 1, 1, (1, 1), 0, 1, 1),
    (2, 6, 5, 4, 9, 1, 1, (2, 2), 3, 1, 1), (2, 5, 7, 9, 512, 3, 3, (2, 2), 1, 1, 1), (1, 9, 33, 50, 12, 1, 1, (1, 1), 0, 1, 1),
    (1, 2, 3, 37, 3, 1, 7, (1, 1), 0, 1, 1), (3, 1, 1, 1, 2, 1, 1, (1, 1), 0, 1, 1), (1, 5, 3, 2, 3, 3, 2, (3, 3), 1, 1, 1),
]  # fmt: skip


def convolutions(dtype):
    for N, C, H, W, O, KH, KW, stride, pad, dilation, groups in CONVOLUTIONS:
        padding, dilation = ((pad, pad), (pad, pad)), (dilation, dilation)
        options = stride, padding, dilation, groups
        OH, OW = ((e + 2 * pad - (k - 1) * d - 1) // s + 1 for e, k, s, d in zip((H, W), (KH, KW), stride, dilation, strict=True))
        for op, impls in select.IMPLEMENTATIONS.items():
            if op not in ("conv2d", "conv2d_grad_input", "conv2d_grad_weight"):
                continue
            for impl in impls:
                for last in (False, True):
                    x, w, g = array((N, C, H, W), dtype, last), array((O, C // groups, KH, KW), dtype, last), array((N, O, OH, OW), dtype, last)
                    arguments = {"conv2d": (x, w, array((O,), dtype)), "conv2d_grad_input": (g, w, x.shape), "conv2d_grad_weight": (g, x, w.shape)}[op]
                    if impl.declines and impl.declines(*arguments, *options) is not None:
                        continue
                    yield f"{op} {impl.name} {x.shape} {w.shape} {'channels-last' if last else ''}"
                    result = impl.function(*arguments, *options)
                    if op != "conv2d_grad_weight" and impl.name not in select.NEEDS_PLANES:
                        impl.function(*arguments, *options, out=array(result.shape, dtype, True))
                    if op == "conv2d_grad_weight" or not last:
                        impl.function(*arguments, *options, out=array(result.shape, dtype))
        for last in (False, True):
            yield "conv2d_grad_bias"
            cpu.conv2d_grad_bias(array((N, O, OH, OW), dtype, last))


def pools(dtype):
    cases = [((2, 3, 5, 5), (2, 2), (2, 2)), ((1, 17, 7, 9), (3, 3), (2, 1)), ((1, 1, 4, 33), (2, 2), (2, 2)), ((2, 5, 6, 35), (3, 5), (1, 3))]
    for shape, kernel, stride in cases:
        for padding, dilation, ceil_mode in (((0, 0), (1, 1), False), ((1, 1), (1, 1), True), ((0, 0), (2, 1), False)):
            size = pool2d_output_size(shape[2:], kernel, stride, padding, dilation, ceil_mode)
            for last in (False, True):
                yield f"pools {shape} {kernel} {stride} {padding} {dilation} {last}"
                x = array(shape, dtype, last)
                y, indices = cpu.max_pool2d(x, kernel, stride, padding, dilation, size, "indices")
                cpu.max_pool2d_backward(array(y.shape, dtype, last), indices, shape)
                _, places = cpu.max_pool2d(x, kernel, stride, padding, dilation, size, "places")
                cpu.max_pool2d_backward_places(array(y.shape, dtype, last), places, shape, kernel, stride, padding, dilation)
                cpu.max_pool2d(x, kernel, stride, padding, dilation, size, None)
                for ties in ("first", "all", "split"):
                    cpu.max_pool2d_backward_ties(array(y.shape, dtype, last), x, kernel, stride, padding, dilation, ties, ties != "split")
                if dilation == (1, 1):
                    cpu.avg_pool2d(x, kernel, stride, padding, size, False, None)
                    cpu.avg_pool2d_backward(array(y.shape, dtype, last), shape, kernel, stride, padding, False, None)
                cpu.adaptive_avg_pool2d_backward(array(cpu.adaptive_avg_pool2d(x, (3, 2)).shape, dtype, last), shape)
                cpu.adaptive_max_pool2d(x, (2, 3), "indices")


def norms(dtype):
    for shape in ((2, 3, 5, 5), (1, 17, 3, 7), (3, 1, 4, 5), (5, 19, 1, 1), (1, 33, 2, 2), (2, 16, 9, 3)):
        N, C, H, W = shape
        for last in (False, True):
            yield f"norm {shape} {last}"
            x, g, w, b = array(shape, dtype, last), array(shape, dtype, last), array((C,), dtype), array((C,), dtype)
            _, mean, var = cpu.batch_norm(x, w, b, None, None, 1e-5)
            cpu.batch_norm(x, w, b, mean, var, 1e-5)
            cpu.batch_norm_backward(g, x, w, mean, var, 1e-5, True)
            for groups in {1, C}:
                cpu.group_norm(x, groups, w, b, 1e-5)
                cpu.group_norm_backward(g, x, groups, w, 1e-5)
            cpu.mse_loss(x, g, "mean")
            cpu.mse_loss_backward(1.0, x, g, "mean")
            cpu.mse_loss_backward(g, x, cpu.mse_loss(x, g, "none"), "none")
            cpu.adaptive_avg_pool2d_backward(cpu.adaptive_avg_pool2d(x, (1, 1)), shape)
        for activation, slope in ((None, 0.0), ("relu", 0.0), ("leaky_relu", 0.1)):
            for pool in (None, "max", ((2, 2), (1, 2))) if min(H, W) > 1 else (None,):
                yield f"following {shape} {activation} {pool}"
                small = (N, C, H // 2, W // 2) if pool == "max" else (N, C, H - 1, W // 2) if pool else shape
                winners = array(small, np.int8, True) if pool == "max" else None
                layers = _norm.Following(shape, dtype, True, 1e-5, activation, slope, pool)
                layers.take_statistics(x, w, b)
                layers.apply(x, array(small, dtype, True), winners)
                layers.backward(array(small, dtype, True), x, w, array(shape, dtype, True), winners, True)


def rows(dtype):
    for M, n in ((1, 1), (3, 5), (17, 16), (18, 33), (5, 255), (3, 256), (2, 257), (2, 4099)):
        yield f"layer norm {M} {n}"
        x, g, w = array((M, n), dtype), array((M, n), dtype), array((n,), dtype)
        cpu.layer_norm(x, (n,), w, w, 1e-5)
        cpu.layer_norm_backward(g, x, (n,), w, 1e-5)
        cpu.layer_norm_backward(g, x, (n,), None, 1e-5)
    for shape, groups in (((2, 4, 9, 13), 2), ((1, 3, 60, 71), 1), ((2, 6, 3, 3), 3), ((2, 8, 8, 8), 2)):
        for last in (False, True):
            yield f"group norm {shape} {groups} {last}"
            x, g, w = array(shape, dtype, last), array(shape, dtype, last), array(shape[1:2], dtype)
            cpu.group_norm(x, groups, w, w, 1e-5)
            cpu.group_norm_backward(g, x, groups, None, 1e-5)


def activations(dtype):
    for op, options in (("relu", ()), ("leaky_relu", (0.1,)), ("elu", (1.0,)), ("selu", ()), ("gelu", ("none",)), ("gelu", ("tanh",)), ("silu", ()),
                        ("softplus", (1.0, 20.0)), ("sigmoid", ()), ("tanh", ())):  # fmt: skip
        for n in (1, 2, 3, 5, 7, 9, 16, 31, 33):
            yield f"{op} {n}"
            x = array((n,), dtype)
            getattr(cpu, f"{op}_backward")(array((n,), dtype), getattr(cpu, op)(x, *options), *options)


def matrices(dtype):
    for m, k, n in ((1, 1, 1), (3, 5, 7), (8, 16, 17), (9, 33, 31), (17, 50, 3), (65, 7, 49)):
        yield f"linear {m} {k} {n}"
        x, w, g = array((m, k), dtype), array((n, k), dtype), array((m, n), dtype)
        cpu.linear(x, w, array((n,), dtype))
        cpu.linear_grad_input(g, w)
        cpu.linear_grad_weight(g, x)
        cpu.linear_grad_bias(g)


def columns(dtype):
    cases = [((2, 3, 5, 7), (3, 3), (1, 1), (1, 1), (1, 1)), ((1, 1, 6, 33), (2, 5), (2, 1), (0, 0), (2, 3)), ((1, 5, 4, 4), (1, 1), (1, 1), (0, 0), (1, 1))]
    for shape, kernel, dilation, padding, stride in cases:
        for last in (False, True):
            yield f"unfold, fold {shape} {last}"
            out = cpu.unfold(array(shape, dtype, last), kernel, dilation, padding, stride)
            cpu.fold(array(out.shape, dtype), shape[2:], kernel, dilation, padding, stride)


def formats(dtype):
    for shape in ((1, 3, 5, 7), (2, 17, 3, 3), (1, 33, 1, 9), (2, 5, 23, 25)):
        for to_last in (False, True):
            yield f"convert {shape} {to_last}"
            _formats.convert(array(shape, dtype, not to_last), array(shape, dtype, to_last))


def lanes(dtype):
    no = ((0, 0), (0, 0))
    runs = [
        ((1, 9, 9), [((6, (5, 5), (1, 1), no, (1, 1)), ("relu", 0.0), True, ("max", (2, 2), (2, 2))), ((3, (2, 2), (1, 1), no, (1, 1)), None, False, None)]),
        ((3, 7, 6), [((9, (3, 3), (2, 1), ((1, 0), (0, 2)), (1, 2)), ("leaky_relu", 0.1), False, ("avg", (2, 2), (1, 2)))]),
        ((2, 5, 35), [((5, (3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1)), ("relu", 0.0), True, ("avg", (2, 3), (3, 3)))]),
        ((1, 3, 3), [((1, (1, 1), (1, 1), no, (1, 1)), None, False, ("max", (2, 2), (1, 1)))]),
    ]
    for shape, stages in runs:
        for batch in (1, 15, 17):
            for input_gradient in (False, True):
                yield f"lanes {shape} {batch} {input_gradient}"
                run = _lanes.Lanes(dtype, shape, stages)
                counts = [shape[0], *(spec[0] for spec, *_ in stages)]
                weights = [array((spec[0], C, *spec[1]), dtype) for (spec, *_), C in zip(stages, counts, strict=False)]
                biases = [array((O,), dtype) for O in counts[1:]]
                x, y = array((batch, *shape), dtype), array((batch, *run.output_shape), dtype)
                run.forward(x, weights, biases, False, y)
                run.forward(x, weights, biases, True, y)
                gradients = [array(w.shape, dtype) for w in weights], [array(b.shape, dtype) for b in biases]
                run.backward(array(y.shape, dtype), weights, *gradients, array(x.shape, dtype) if input_gradient else None)


def softmaxes(dtype):
    for shape, dim in (((1, 1), 1), ((3, 10), 1), ((5, 17), 1), ((2, 33), 0), ((2, 7, 9), 1), ((3, 5, 2, 3), 1), ((19, 3, 5), 2), ((4, 65), 1)):
        yield f"softmax {shape} {dim}"
        for op in ("softmax", "log_softmax"):
            y = getattr(cpu, op)(array(shape, dtype), dim)
            getattr(cpu, f"{op}_backward")(array(shape, dtype), y, dim)
    for M, C in ((1, 1), (3, 10), (17, 5), (2, 33), (65, 7)):
        for weighted in (False, True):
            for reduction in ("mean", "sum", "none"):
                yield f"cross_entropy {M} {C} {weighted} {reduction}"
                x, target, weight = array((M, C), dtype), np.arange(M) % C, np.ones(C, dtype) if weighted else None
                target = array((M,), np.int64) * 0 + target
                cpu.cross_entropy(x, target, weight, -100, reduction, 0.1)
                g = array((M,), dtype) if reduction == "none" else 1.0
                cpu.cross_entropy_backward(g, x, target, weight, -100, reduction, 0.1)


def optimizers(dtype):
    shapes = [(1,), (3, 5), (17,), (2, 3, 3, 3), (4100,), (33, 7)]  # the last but one is longer than a piece
    for threads in (1, 2):
        cpu.set_num_threads(threads)
        p, g, a, b, c = ([abs(array(shape, dtype)) + 1 for shape in shapes] for _ in range(5))
        steps = [1] * len(shapes)
        yield f"optimizers {threads}"
        cpu.sgd_update(p, g, a, steps, 0.1, 0.9, 0.0, 0.01, True, False)
        cpu.sgd_update(p, g, None, steps, 0.1, 0.0, 0.0, 0.0, False, True)
        cpu.adagrad_update(p, g, a, steps, 0.1, 0.01, 1e-8, 0.01, False)
        cpu.rmsprop_update(p, g, a, b, c, 0.1, 0.9, 1e-8, 0.9, 0.01, False)
        cpu.rmsprop_update(p, g, a, None, None, 0.1, 0.9, 1e-8, 0.0, 0.0, False)
        cpu.adam_update(p, g, a, b, c, steps, 0.1, 0.9, 0.999, 1e-8, 0.01, True, False)
        cpu.adam_update(p, g, a, b, None, [7] * len(shapes), 0.1, 0.9, 0.999, 1e-8, 0.01, False, True)
    strided = [array((4, 6, 5), dtype)[:, ::2].transpose(2, 0, 1)]
    cpu.sgd_update(strided, [array((5, 4, 3), dtype)], None, [1], 0.1, 0.0, 0.0, 0.0, False, False)


def windows(dtype):
    """Averages into arrays that the caller brings, as plans have them."""
    cases = [((2, 3, 8, 8), (2, 2), (2, 2)), ((2, 17, 9, 11), (5, 5), (2, 2)), ((1, 16, 40, 7), (5, 3), (2, 1)), ((2, 33, 7, 7), (7, 7), (7, 7))]
    for shape, size, stride in (*cases, ((1, 1, 5, 5), (4, 2), (1, 2))):
        yield f"windows {shape} {size} {stride}"
        (N, C, *_), outputs = shape, pool2d_output_size(shape[2:], size, stride, (0, 0), (1, 1), False)
        x, y = array(shape, dtype, True), array((N, C, *outputs), dtype, True)
        _pool.avg_pool2d(x, size, stride, (0, 0), outputs, True, None, out=y)
        _pool.avg_pool2d_backward(y, shape, size, stride, (0, 0), True, None, out=array(shape, dtype, True))


def sums(dtype):
    for shape in ((1, 1, 1, 1), (2, 3, 5, 5), (1, 33, 3, 7)):
        for activation, slope in ((None, 0.0), ("relu", 0.0), ("leaky_relu", 0.1)):
            yield f"add {shape} {activation}"
            a, b, out = (array(shape, dtype, True) for _ in range(3))
            _add.add_act(a, b, out, activation, slope)
            if activation:
                _add.derive(a, out, array(shape, dtype, True), activation, slope)


def more_columns(dtype):
    for order in ("torch", "dlfs", "cs231n", "cs231n_6d"):
        cases = [((2, 3, 5, 7), (3, 3), (1, 1), (1, 1)), ((1, 1, 6, 33), (2, 5), (2, 1), (0, 0)), ((3, 2, 4, 4), (2, 2), (2, 2), (0, 0))]
        for shape, kernel, stride, padding in cases:
            for last in (False, True):
                yield f"im2col, col2im {order} {shape} {last}"
                out = cpu.im2col(array(shape, dtype, last), kernel, (1, 1), padding, stride, order)
                cpu.col2im(array(out.shape, dtype), shape, kernel, (1, 1), padding, stride, order)


class EachGuarded(Memory):
    """A plan's memory with a block for every buffer instead of one for all, so that guards lie between them. Buffers of one region lie over each other, and
    one of them may be made from another: they keep one block."""

    def bind(self, layout):
        regions = {}
        for buffer in layout.buffers:
            regions[buffer.region] = max(regions.get(buffer.region, 0), buffer.nbytes)
        blocks = {region: np.empty(nbytes, np.uint8) for region, nbytes in regions.items() if region is not None}
        for buffer in layout.buffers:
            block = blocks.get(buffer.region)
            if block is None:
                block = np.empty(buffer.nbytes, np.uint8)
            buffer.bind(block, len(block) - buffer.nbytes if buffer.nbytes % ALIGNED == 0 and len(block) % ALIGNED == 0 else 0)


def networks(dtype):
    """Narrow and wide layers, every fusion; name, layers, the shape of an image."""
    rng = np.random.default_rng(0)
    options = {"dtype": dtype, "rng": rng}

    def block(C, O, *, act=nn.ReLU, pool=None, norm=True, bias=True):
        layers = [nn.Conv2d(C, O, 3, padding=1, bias=bias, **options)]
        layers += [nn.BatchNorm2d(O, dtype=dtype)] if norm else []
        return layers + ([act()] if act else []) + ([pool] if pool else [])

    narrow = [nn.Conv2d(1, 6, 5, padding=2, **options), nn.ReLU(), nn.AvgPool2d(2), nn.Conv2d(6, 16, 5, **options), nn.LeakyReLU(0.1), nn.MaxPool2d(2)]
    yield "narrow", [*narrow, nn.Flatten(), nn.Linear(16, 7, **options)], (1, 13, 13)
    wide = [*block(3, 17, pool=nn.MaxPool2d(2)), *block(17, 33), *block(33, 20, act=nn.LeakyReLU, norm=False), nn.AdaptiveAvgPool2d(1)]
    yield "wide", [*wide, nn.Flatten(), nn.Linear(20, 5, **options)], (3, 14, 18)
    averages = [*block(3, 32, pool=nn.AvgPool2d(2)), *block(32, 32, pool=nn.AvgPool2d(3, 2), bias=False)]
    yield "averages", [*averages, nn.Flatten(), nn.Linear(32 * 9, 3, **options)], (3, 14, 14)
    paths = nn.Residual(nn.Sequential(*block(16, 24), *block(24, 24, act=None)), shortcut=nn.Sequential(nn.Conv2d(16, 24, 1, **options)))
    yield "residual", [*block(3, 16), paths, nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(24 * 25, 4, **options)], (3, 10, 10)
    covering = [nn.Conv2d(2, 18, (4, 5), **options), nn.ReLU(), nn.Flatten(), nn.Linear(18, 3, **options), nn.ReLU()]
    yield "covering", [*covering, nn.Linear(3, 2, **options)], (2, 4, 5)


def plans(dtype):
    for name, layers, shape in networks(dtype):
        model = nn.Sequential(*layers)
        for parameter in model.parameters():  # into guarded memory: they were made by a generator
            parameter.data = array(parameter.shape, dtype) / 8
        for batch in (1, 3, 17):
            for last in (False, True):
                planner = Planner(model)
                planner.memory = EachGuarded()
                x = array((batch, *shape), dtype, last)
                for training in (True, False):
                    yield f"plan {name} {x.shape} {'channels-last' if last else ''} {'training' if training else 'inference'}"
                    model.train(training)
                    plan = planner.plan(x, training)
                    if training:
                        y = plan.forward(x)
                        plan.backward(array(y.shape, dtype))
                    else:
                        plan.refresh()
                        plan.forward(x)


FAMILIES = (convolutions, pools, norms, rows, activations, matrices, columns, formats, lanes, softmaxes, optimizers, windows, sums, more_columns, plans)


def everything(dtype, families):
    """Runs the families with guards behind and before the arrays; the name of each case is written before it runs, so the last one is where it ended."""
    for at_end in (True, False):
        memory = GuardedMemory(at_end)
        memory.install()
        probe = np.empty(3, np.float32)
        assert probe.ctypes.data in memory.blocks and (probe.ctypes.data + probe.nbytes if at_end else probe.ctypes.data) % PAGE == 0
        for family in families:
            for case in family(dtype):
                os.write(2, f"{case}, guarded {'behind' if at_end else 'before'}\n".encode())
    os.write(1, b"done")


@pytest.mark.skipif(not hasattr(mmap, "PROT_READ"), reason="needs mprotect")
@pytest.mark.parametrize(("dtype", "algorithm"), [("float32", "auto"), ("float64", "auto"), ("float32", "winograd")])
@pytest.mark.parametrize("isa", cpu.available_isas())
def test_nothing_outside_the_arrays_is_touched(isa, dtype, algorithm):
    environment = {**os.environ, "FASTCNN_ISA": isa, "OMP_NUM_THREADS": "2", "PYTHONPATH": os.pathsep.join(sys.path)}
    result = subprocess.run([sys.executable, __file__, dtype, algorithm], env=environment, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0 and result.stdout == "done", "\n".join(result.stderr.splitlines()[-30:])


@pytest.mark.skipif(not hasattr(mmap, "PROT_READ"), reason="needs mprotect")
@pytest.mark.parametrize("argument", ["behind", "before"])
def test_the_guards_guard(argument):
    result = subprocess.run([sys.executable, __file__, argument], env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}, capture_output=True, timeout=120)
    assert result.returncode < 0


if __name__ == "__main__":
    if sys.argv[1] in ("behind", "before"):
        GuardedMemory(sys.argv[1] == "behind").install()
        probe = np.empty(3, np.float32)
        ctypes.string_at(probe.ctypes.data + (12 if sys.argv[1] == "behind" else -1), 1)
        os._exit(0)
    faulthandler.enable()
    cpu.set_algorithm(sys.argv[2])
    everything(np.dtype(sys.argv[1]), FAMILIES if sys.argv[2] == "auto" else (convolutions, plans))
    os._exit(0)  # the arrays that are left would be freed by an allocator that is gone
