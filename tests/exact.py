"""Convolution, pooling and window copies on integers, compared with == : thousands of problems, on every instruction set, type and memory format.

Numbers are whole and so few or small that every partial sum is below 2^24, exact in float32: whatever the order of summation, whatever the
algorithm, the bits must be those of the reference. x lies in [-255, 255], weights in [-15, 15], gradients in [-15, 15]; where a sum is long, most of
its weights (or gradients) are zero.

Problems are the lists in tests/shapes and bench/shapes, scaled down (`scaled`), and seeded random ones. This file is also a program, so that the
instruction set can be chosen as a user chooses it, before the import:

    FASTCNN_ISA=avx2 python tests/exact.py --dtype float32 --formats contiguous channels_last
"""

import argparse
import json
import sys
import zlib
from collections import Counter
from math import prod
from pathlib import Path
from typing import NamedTuple

import gates
import numpy as np
from arrays import in_format, in_memory_format

import fastcnn
from bench import problems
from fastcnn import functional as F
from fastcnn.backends import reference
from fastcnn.shapes import ShapeError, conv2d_macs, conv2d_output_size, kernel_extent, pool2d_output_size

SHAPES = Path(__file__).parent / "shapes"
LISTS = ("correctness", "odd", "reports", "short", "batch1", "overhead", "convnet", "deepbench", "mobilenet", "resnet50", "vgg19", "onednn")
MOST_MACS = 1_500_000  # of the reference: some ten milliseconds
MOST_ELEMENTS = 300_000
EXACT = 2**24
X, SMALL = 255, 15
FORMATS = ("contiguous", "channels_last", "view", "mixed")


class Case(NamedTuple):
    """A convolution as the backends see it."""

    name: str
    input: tuple
    weight: tuple
    stride: tuple
    padding: tuple
    dilation: tuple
    groups: int

    @property
    def options(self):
        return self.stride, self.padding, self.dilation, self.groups

    @property
    def output(self):
        size = conv2d_output_size(self.input[2:], self.weight[2:], self.stride, self.padding, self.dilation)
        return self.input[0], self.weight[0], *size

    @property
    def macs(self):
        return conv2d_macs(self.input[0], self.input[1], self.weight[0], self.weight[2:], self.output[2:], self.groups)

    @property
    def elements(self):
        (PT, PB), (PL, PR) = self.padding
        N, C, H, W = self.input
        return N * C * (H + PT + PB) * (W + PL + PR) + prod(self.weight) + prod(self.output)

    @property
    def fits(self):
        return self.macs <= MOST_MACS and self.elements <= MOST_ELEMENTS


# --- problems ---------------------------------------------------------------------------------------------------------------------


def smaller(value, step, least):
    """About half of value, with the same remainder by `step`; value itself if that is below `least`."""
    half = value // 2 + (value - value // 2) % step
    return half if least <= half < value else value


def scaled(case):
    """A smaller convolution of the same kind: kernel, stride, padding and dilation stay.

    In turn, until the reference needs at most MOST_MACS multiply-adds and MOST_ELEMENTS numbers: half the images, down to 2; half the rows and
    columns, odd ones staying odd, as long as a few outputs are left; half the groups or channels, with the same remainder by 16, so that vectors
    are as full or as empty at their ends as before.
    """
    while not case.fits:
        N, C, H, W = case.input
        O, channels, KH, KW = case.weight
        groups = case.groups
        size = []
        for extent, kernel, step, pads, distance in zip((H, W), (KH, KW), case.stride, case.padding, case.dilation, strict=True):
            size.append(smaller(extent, 2, max(1, kernel_extent(kernel, distance) + 4 * step - sum(pads))))
        most = max(groups, channels, O // groups)
        if N > 2:
            changed = case._replace(input=(N // 2, C, H, W))
        elif size != [H, W] and max(H, W) * 4 >= most:
            changed = case._replace(input=(N, C, *size))
        elif smaller(most, 16, 16) < most:
            filters, less = O // groups, smaller(most, 16, 16)
            if groups == most:
                groups = less
            elif filters == most:
                filters = less
            else:
                channels = less
            changed = case._replace(input=(N, groups * channels, H, W), weight=(groups * filters, channels, KH, KW), groups=groups)
        elif N > 1:
            changed = case._replace(input=(1, C, H, W))
        else:
            return case if size == [H, W] else scaled(case._replace(input=(N, C, *size)))
        case = changed
    return case


def listed(*names):
    """The problems of the lists, scaled down, each shape once."""
    seen = set()
    for name in names or (*LISTS, *sorted(map(str, SHAPES.glob("*.txt")))):
        for problem in problems.load(name):
            (PH, PW) = problem.padding
            case = scaled(Case(f"{Path(name).stem}/{problem.name}", problem.input_shape, problem.weight_shape, problem.stride, ((PH, PH), (PW, PW)),
                               problem.dilation, problem.groups))
            if case[1:] not in seen:
                seen.add(case[1:])
                yield case


def drawn(count, seed):
    """Random problems, drawn where kernels go wrong: sizes about multiples of a vector, one channel, kernels larger than the image, strides and dilations
    beyond it, four different paddings, groups of every kind."""
    rng = np.random.default_rng(seed)

    def pick(*values):
        return int(rng.choice(values))

    found = 0
    while found < count:
        groups = pick(1, 1, 1, 1, 2, 3, 4, 7, 16, 17, 33)
        many = groups > 4
        channels = pick(1, 1, 2, 3) if many else pick(1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 24, 31, 32, 33, 48, 65)
        filters = pick(1, 1, 2, 3, 4) if many else pick(1, 2, 3, 5, 6, 8, 9, 12, 16, 17, 23, 31, 32, 33, 49, 64)
        kernel = (pick(1, 1, 2, 3, 3, 3, 5, 7), pick(1, 1, 2, 3, 3, 3, 4, 5, 6, 9, 17))
        stride = (pick(1, 1, 1, 2, 3, 5, 40), pick(1, 1, 1, 2, 2, 3, 4, 40))
        dilation = (pick(1, 1, 1, 2, 3, 30), pick(1, 1, 1, 2, 3, 30))
        padding = tuple((pick(0, 0, 1, 2, 3, 8), pick(0, 0, 1, 2, 3, 8)) for _ in range(2))
        if rng.random() < 0.4:  # the usual one
            padding = tuple(((k - 1) * d // 2,) * 2 for k, d in zip(kernel, dilation, strict=True))
        size = (pick(1, 2, 3, 4, 5, 7, 8, 11, 14, 17, 27), pick(1, 2, 3, 4, 5, 6, 7, 8, 9, 13, 15, 16, 17, 20, 28, 31, 33, 34, 50, 65))
        N = pick(1, 1, 2, 3, 5, 7, 8, 9, 15, 16, 17, 31, 33)
        case = Case(f"random-{seed}/{found + 1}", (N, groups * channels, *size), (groups * filters, channels, *kernel), stride, padding, dilation, groups)
        try:
            if case.fits:
                found += 1
                yield case
        except ShapeError:  # a kernel that does not fit
            continue


def heavy(count, seed):
    """Random problems with many weights on small images, which some algorithms take from a size on that scaled ones never reach: weights beyond L2, images laid
    out in several stages, blocks of the gradient."""
    rng = np.random.default_rng([seed, 1])

    def pick(*values):
        return int(rng.choice(values))

    found = 0
    while found < count:
        groups = pick(1, 1, 1, 1, 2, 3)
        channels, filters = (pick(48, 64, 65, 96, 110, 128, 130, 192, 200, 256, 300, 330, 512, 515) for _ in range(2))
        kernel = [(1, 1), (1, 1), (3, 3), (3, 3), (3, 3), (5, 5), (1, 3), (3, 1), (2, 2), (7, 7)][rng.integers(10)]
        stride, dilation = (pick(1, 1, 1, 2, 3), pick(1, 1, 1, 2, 3)), (pick(1, 1, 1, 2), pick(1, 1, 1, 2))
        padding = tuple((pick(0, 1, 1, 2, 4), pick(0, 1, 1, 2)) for _ in range(2))
        size = (pick(1, 2, 4, 5, 7, 8, 9, 12, 14), pick(1, 2, 4, 6, 7, 9, 10, 14, 28, 90))
        N = pick(1, 1, 2, 3, 8, 12, 17, 33)
        case = Case(f"heavy-{seed}/{found + 1}", (N, groups * channels, *size), (groups * filters, channels, *kernel), stride, padding, dilation, groups)
        try:
            if prod(case.weight) >= 60_000 and case.macs <= 25_000_000 and case.elements <= 1_200_000:
                found += 1
                yield case
        except ShapeError:
            continue


# --- numbers ----------------------------------------------------------------------------------------------------------------------


def thinned(rng, shape, terms, limit):
    """Whole numbers in [-15, 15], so few of them not zero that `terms` of them sum to less than `limit` in absolute value, with a margin of two."""
    values = rng.integers(-SMALL, SMALL + 1, shape)
    density = min(1.0, limit / (2 * terms * (SMALL + 1) / 2))
    return values if density == 1.0 else values * (rng.random(shape) < density)


def numbers(case):
    """x, w, b, g as float64 whole numbers for which every sum of the three directions is exact in float32."""
    rng = np.random.default_rng(zlib.crc32(repr(case[1:]).encode()))
    N, O, OH, OW = case.output
    x = rng.integers(-X, X + 1, case.input)
    w = thinned(rng, case.weight, prod(case.weight[1:]), EXACT / X)
    b = rng.integers(-X, X + 1, O)
    g = thinned(rng, case.output, N * OH * OW, EXACT / X)
    assert np.abs(w).reshape(O, -1).sum(axis=1).max(initial=0) * X + X <= EXACT, f"{case}: forward sums may pass 2^24"
    assert np.abs(g).transpose(1, 0, 2, 3).reshape(O, -1).sum(axis=1).max(initial=0) * X <= EXACT, f"{case}: weight gradient sums may pass 2^24"
    assert SMALL * SMALL * O // case.groups * prod(case.weight[2:]) <= EXACT, f"{case}: input gradient sums may pass 2^24"
    return tuple(a.astype(np.float64) for a in (x, w, b, g))


# --- comparisons ------------------------------------------------------------------------------------------------------------------


class Results:
    """What was compared, how often, and what differed."""

    def __init__(self):
        self.compared, self.implementations, self.failures = Counter(), Counter(), []

    def same(self, what, actual, expected, case, dtype, fmt):
        self.compared[f"{what} {dtype} {fmt}"] += 1
        if actual.dtype != dtype or actual.shape != expected.shape:
            self.failures.append(f"{what} {dtype} {fmt} {case}: {actual.dtype} {actual.shape} instead of {dtype} {expected.shape}")
        elif not np.array_equal(actual, expected):
            where = tuple(map(int, np.argwhere(actual != expected)[0]))
            self.failures.append(f"{what} {dtype} {fmt} {case}: {actual[where]} instead of {expected[where]} at {where}")

    def format(self, what, result, argument, case, dtype, fmt):
        if not in_memory_format(result, argument):
            self.failures.append(f"{what} {dtype} {fmt} {case}: strides {result.strides} are not the format of the argument's {argument.strides}")


def formats_of(fmt, x, w, g):
    """x, w and g in a format; 'mixed' has a different one for each, as where a framework's layers meet."""
    return tuple(in_format(a, f) for a, f in zip((x, w, g), ("channels_last", "view", "contiguous") if fmt == "mixed" else (fmt,) * 3, strict=True))


def convolve(cpu, case, dtypes, formats, results):
    """Every implementation that applies, in all three directions, and the backend's own choice."""
    double = numbers(case)
    x, w, b, g = double
    options = case.options
    expected = {
        "conv2d": reference.conv2d(x, w, b, *options),
        "conv2d_grad_input": reference.conv2d_grad_input(g, w, x.shape, *options),
        "conv2d_grad_weight": reference.conv2d_grad_weight(g, x, w.shape, *options),
        "conv2d_grad_bias": reference.conv2d_grad_bias(g),
    }
    for dtype in dtypes:
        x, w, b, g = (a.astype(dtype) for a in double)
        wanted = {op: a.astype(dtype) for op, a in expected.items()}
        for fmt in formats:
            xf, wf, gf = formats_of(fmt, x, w, g)
            calls = {"conv2d": (xf, wf, b), "conv2d_grad_input": (gf, wf, x.shape), "conv2d_grad_weight": (gf, xf, w.shape)}
            for op, arguments in calls.items():
                chosen = cpu.select.choose(op, (*arguments, *options))[0]
                for impl in cpu.select.IMPLEMENTATIONS[op]:
                    if "winograd" in impl.name or (impl is not chosen and impl.declines and impl.declines(*arguments, *options) is not None):
                        continue
                    result = impl.function(*arguments, *options)
                    results.implementations[f"{op} {impl.name}"] += 1
                    if impl is chosen:
                        results.same(op, result, wanted[op], case, dtype, fmt)
                        if op != "conv2d_grad_weight":
                            results.format(op, result, arguments[0], case, dtype, fmt)
                    elif not np.array_equal(result, wanted[op]):
                        results.failures.append(f"{op} {impl.name} {dtype} {fmt} {case}")
            results.same("conv2d_grad_bias", cpu.conv2d_grad_bias(gf), wanted["conv2d_grad_bias"], case, dtype, fmt)


def columns(cpu, case, dtypes, formats, results):
    """unfold and fold, and the same in the three layouts of coursework."""
    (PT, PB), (PL, PR) = case.padding
    if (PT, PL) != (PB, PR) or prod(case.weight[2:]) * prod(case.output[2:]) * case.input[0] * case.input[1] > MOST_ELEMENTS:
        return
    rng = np.random.default_rng(1)
    options = (case.weight[2:], case.dilation, (PT, PL), case.stride)
    x = rng.integers(-X, X + 1, case.input).astype(np.float64)
    unfolded = reference.unfold(x, *options)
    g = rng.integers(-X, X + 1, unfolded.shape).astype(np.float64)
    folded = reference.fold(g, x.shape[2:], *options)
    order = ("dlfs", "cs231n", "cs231n_6d")[zlib.crc32(case.name.encode()) % 3]
    of_course = reference.im2col(x, *options, order)
    back = reference.col2im(of_course, x.shape, *options, order)
    for dtype in dtypes:
        for fmt in formats:
            xf = in_format(x.astype(dtype), "channels_last" if fmt == "mixed" else fmt)
            results.same("unfold", cpu.unfold(xf, *options), unfolded, case, dtype, fmt)
            gf = g.astype(dtype)
            results.same("fold", cpu.fold(gf if fmt == "contiguous" else np.asfortranarray(gf), x.shape[2:], *options), folded, case, dtype, fmt)
            results.same("im2col", cpu.im2col(xf, *options, order), of_course, case, dtype, fmt)
            results.same("col2im", cpu.col2im(of_course.astype(dtype), x.shape, *options, order), back, case, dtype, fmt)


def pools(cpu, case, dtypes, formats, results):
    """Maxima with all ties, averages divided by 4 and by the window, and their gradients, over the windows of the convolution's kernel."""
    kernel, stride, dilation = case.weight[2:], case.stride, case.dilation
    padding = tuple(min(min(pads), k // 2) for pads, k in zip(case.padding, kernel, strict=True))
    ceil_mode = bool(zlib.crc32(case.name.encode()) & 1)
    rng = np.random.default_rng(2)
    x = rng.integers(-4, 5, case.input).astype(np.float64)
    try:
        size = pool2d_output_size(case.input[2:], kernel, stride, padding, dilation, ceil_mode)
        maximum, where = reference.max_pool2d(x, kernel, stride, padding, dilation, size, "indices")
    except ShapeError:  # a window that does not fit, or lies wholly in the padding
        size = None
    if size:
        g = 4.0 * rng.integers(-SMALL, SMALL + 1, maximum.shape)
        scattered = reference.max_pool2d_backward(g, where, x.shape)
        shared = reference.max_pool2d_backward_ties(g, x, kernel, stride, padding, dilation, "all", True) if not ceil_mode else None
        for dtype in dtypes:
            for fmt in formats:
                xf, _, gf = formats_of(fmt, x.astype(dtype), x[:0], g.astype(dtype))
                output, indices = cpu.max_pool2d(xf, kernel, stride, padding, dilation, size, "indices")
                results.same("max_pool2d", output, maximum, case, dtype, fmt)
                results.format("max_pool2d", output, xf, case, dtype, fmt)
                if not np.array_equal(indices, where):
                    results.failures.append(f"max_pool2d indices {dtype} {fmt} {case}")
                results.same("max_pool2d_backward", cpu.max_pool2d_backward(gf, indices, x.shape), scattered, case, dtype, fmt)
                results.same("max_pool2d alone", cpu.max_pool2d(xf, kernel, stride, padding, dilation, size, None)[0], maximum, case, dtype, fmt)
                output, places = cpu.max_pool2d(xf, kernel, stride, padding, dilation, size, "places")
                results.same("max_pool2d with places", output, maximum, case, dtype, fmt)
                if places.dtype == np.int8:
                    spread = cpu.max_pool2d_backward_places(gf, places, x.shape, kernel, stride, padding, dilation)
                    results.same("max_pool2d_backward_places", spread, scattered, case, dtype, fmt)
                if shared is not None:
                    ties = cpu.max_pool2d_backward_ties(gf, xf, kernel, stride, padding, dilation, "all", True)
                    results.same("max_pool2d_backward_ties", ties, shared, case, dtype, fmt)
    if dilation != (1, 1):
        return
    try:
        size = pool2d_output_size(case.input[2:], kernel, stride, padding, (1, 1), ceil_mode)
    except ShapeError:
        return
    exact, usual = (kernel, stride, padding, size, True, 4), (kernel, stride, padding, size, bool(ceil_mode), None)
    quarter, mean = reference.avg_pool2d(x, *exact), reference.avg_pool2d(x, *usual)
    g = 4.0 * rng.integers(-SMALL, SMALL + 1, quarter.shape)
    spread = reference.avg_pool2d_backward(g, x.shape, kernel, stride, padding, True, 4)
    adaptive, best = reference.adaptive_max_pool2d(x, size, "indices")
    for dtype in dtypes:
        for fmt in formats:
            xf, _, gf = formats_of(fmt, x.astype(dtype), x[:0], g.astype(dtype))
            results.same("avg_pool2d", cpu.avg_pool2d(xf, *exact), quarter, case, dtype, fmt)
            results.same("avg_pool2d_backward", cpu.avg_pool2d_backward(gf, x.shape, kernel, stride, padding, True, 4), spread, case, dtype, fmt)
            # exact sums, then a rounding each in 1/n and in the product
            if not np.allclose(cpu.avg_pool2d(xf, *usual), mean, rtol=4 * np.finfo(dtype).eps, atol=0):
                results.failures.append(f"avg_pool2d over its windows {dtype} {fmt} {case}")
            output, indices = cpu.adaptive_max_pool2d(xf, size, "indices")
            results.same("adaptive_max_pool2d", output, adaptive, case, dtype, fmt)
            if not np.array_equal(indices, best):
                results.failures.append(f"adaptive_max_pool2d indices {dtype} {fmt} {case}")


def transposed(case, dtypes, formats, results):
    """conv_transpose2d and its gradients by the public functions: the adjoint of conv2d, exactly, with an output_padding."""
    (PT, PB), (PL, PR) = case.padding
    if (PT, PL) != (PB, PR):
        return
    x, w, b, g = numbers(case)
    OH, OW = case.output[2:]
    extra = tuple(
        extent - ((out - 1) * step - 2 * pad + kernel_extent(kernel, distance))
        for extent, out, step, pad, kernel, distance in zip(case.input[2:], (OH, OW), case.stride, (PT, PL), case.weight[2:], case.dilation, strict=True)
    )
    expected = reference.conv2d_grad_input(g, w, x.shape, *case.options)
    options = {"stride": case.stride, "padding": (PT, PL), "dilation": case.dilation, "groups": case.groups}
    forward = reference.conv2d(x, w, None, *case.options)
    for dtype in dtypes:
        for fmt in formats:
            xf, wf, gf = formats_of(fmt, *(a.astype(dtype) for a in (x, w, g)))
            results.same("conv_transpose2d", F.conv_transpose2d(gf, wf, output_padding=extra, **options), expected, case, dtype, fmt)
            grad_input, grad_weight, _ = F.conv_transpose2d_backward(xf, gf, wf, output_padding=extra, **options)
            results.same("conv_transpose2d_backward", grad_input, forward, case, dtype, fmt)
            if not np.array_equal(grad_weight, reference.conv2d_grad_weight(g, x, w.shape, *case.options)):
                results.failures.append(f"conv_transpose2d_backward weight {dtype} {fmt} {case}")


def gated(cases, positive=False, formats=("contiguous", "channels_last")):
    """Normal data, or their absolute values, through the gates of the numeric contract: by the direct algorithm, and by Winograd's where it can.
    Returns how many passed."""
    from fastcnn.backends import cpu

    counts = Counter()
    for case in cases:
        rng = np.random.default_rng(zlib.crc32(case.name.encode()))
        x, w, b, g = (rng.standard_normal(shape, dtype=np.float32) for shape in (case.input, case.weight, case.output[1], case.output))
        if positive:
            x, w, b, g = (np.abs(a) for a in (x, w, b, g))
        wanted = gates.expected(x, w, b, g, case.options)
        terms = {"conv2d": prod(case.weight[1:]) + 1, "conv2d_grad_input": case.weight[0] // case.groups * prod(case.weight[2:]),
                 "conv2d_grad_weight": case.input[0] * prod(case.output[2:])}  # fmt: skip
        for fmt in formats:
            xf, wf, gf = formats_of(fmt, x, w, g)
            calls = {"conv2d": (xf, wf, b), "conv2d_grad_input": (gf, wf, x.shape), "conv2d_grad_weight": (gf, xf, w.shape)}
            for op, arguments in calls.items():
                for algorithm in gates.GATES:
                    with fastcnn.use_algorithm(algorithm):
                        impl = cpu.select.choose(op, (*arguments, *case.options))[0]
                        if algorithm == "winograd" and "winograd" not in impl.name:
                            continue
                        result = impl.function(*arguments, *case.options)
                    gates.gate(op, algorithm, result, *wanted[op], terms[op], positive)
                    counts[algorithm] += 1
    return counts


def compare(cases, dtypes, formats):
    """Everything, for every case; the algorithm is 'direct', the only one that promises this."""
    from fastcnn.backends import cpu

    results = Results()
    with fastcnn.use_backend("cpu"), fastcnn.use_algorithm("direct"):
        for case in cases:
            convolve(cpu, case, dtypes, formats, results)
            if not case.fits:  # a heavy one
                continue
            pools(cpu, case, dtypes, formats, results)
            columns(cpu, case, dtypes, formats, results)
            transposed(case, dtypes, formats, results)
    return results


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--dtype", nargs="+", default=["float32", "float64"], choices=["float32", "float64"])
    parser.add_argument("--formats", nargs="+", default=FORMATS, choices=FORMATS)
    parser.add_argument("--random", type=int, default=1500, help="how many random problems beside the listed ones")
    parser.add_argument("--heavy", type=int, default=150, help="how many of them with many weights")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--every", type=int, default=1, help="take every n-th problem only")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    from fastcnn.backends import cpu

    fastcnn.set_num_threads(arguments.threads)
    cases = [*listed(), *drawn(arguments.random, arguments.seed), *heavy(arguments.heavy, arguments.seed)][:: arguments.every]
    gates_passed = {}
    if "float32" in arguments.dtype:
        for sign in ("both", "positive"):
            gates_passed |= {f"{algorithm}, {sign} signs": n for algorithm, n in gated(cases[::3], sign == "positive").items()}
    results = compare(cases, [np.dtype(d) for d in arguments.dtype], arguments.formats)
    json.dump({"isa": cpu.isa(), "problems": len(cases), "compared": results.compared, "implementations": results.implementations, "gates": gates_passed,
               "failures": results.failures[:50], "failed": len(results.failures)}, sys.stdout, indent=1)  # fmt: skip
    print()


if __name__ == "__main__":
    main()
