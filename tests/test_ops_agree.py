"""The compiled backend against the reference, op by op: on every instruction set of this machine, both dtypes, both memory formats and strided views.

Inputs are small integers, so every order of summation is exact: results are compared bit for bit, and a lost or doubled tap cannot hide in a tolerance.
"""

import itertools

import numpy as np
import pytest
from arrays import FORMATS, in_format, in_memory_format

import fastcnn
from bench import problems
from fastcnn.backends import reference
from fastcnn.shapes import pool2d_output_size, resolve_padding

cpu = pytest.importorskip("fastcnn.backends.cpu", reason="the compiled backend is not built")

PROBLEMS = {p.name: p for p in problems.load("correctness")}


@pytest.fixture(params=cpu.available_isas())
def isa(request):
    before = cpu.isa()
    cpu.set_isa(request.param)
    yield request.param
    cpu.set_isa(before)


@pytest.fixture(autouse=True)
def two_threads_and_exact_algorithms():
    before = cpu.get_num_threads()
    cpu.set_num_threads(2)
    with fastcnn.use_algorithm("direct"):
        yield
    cpu.set_num_threads(before)


def integers(rng, shape, dtype):
    return rng.integers(-4, 5, shape).astype(dtype)


def same_bits(actual, expected):
    assert actual.dtype == expected.dtype
    assert actual.shape == expected.shape
    assert np.array_equal(actual, expected), f"max difference {np.abs(actual - expected).max()} at {np.argwhere(actual != expected)[0]}"


@pytest.mark.parametrize("problem", PROBLEMS.values(), ids=lambda p: p.name)
def test_conv2d_agrees(problem, isa, dtype, rng):
    x, w, b = (integers(rng, shape, dtype) for shape in (problem.input_shape, problem.weight_shape, problem.O))
    padding = resolve_padding(problem.padding, problem.kernel, problem.stride, problem.dilation)
    options = (problem.stride, padding, problem.dilation, problem.groups)
    y = reference.conv2d(x, w, b, *options)
    g = integers(rng, y.shape, dtype)
    grad_input = reference.conv2d_grad_input(g, w, x.shape, *options)
    grad_weight = reference.conv2d_grad_weight(g, x, w.shape, *options)
    for fmt in FORMATS:
        xf, wf, gf = (in_format(a, fmt) for a in (x, w, g))
        result = cpu.conv2d(xf, wf, b, *options)
        same_bits(result, y)
        assert in_memory_format(result, xf)
        same_bits(cpu.conv2d(xf, w, None, *options), reference.conv2d(x, w, None, *options))
        result = cpu.conv2d_grad_input(gf, wf, x.shape, *options)
        same_bits(result, grad_input)
        assert in_memory_format(result, gf)
        same_bits(cpu.conv2d_grad_weight(gf, xf, w.shape, *options), grad_weight)
        same_bits(cpu.conv2d_grad_bias(gf), g.sum(axis=(0, 2, 3)))


def every_implementation(op):
    """All that are exact; test_winograd.py has the others."""
    return [pytest.param(op, impl, id=f"{op}-{impl.name}") for impl in cpu.select.IMPLEMENTATIONS[op] if "winograd" not in impl.name]


# Weight gradients of more than 384 KB go block by block: one that takes several stages of images, 1x1 with either side the smaller one, sampled by
# strides inside and beyond the padding, every tap a row of its own, groups, rows longer than a chunk.
LARGE_GRADIENTS = """
stages      12 300 28 28 330 1 1 1 0 1 1
wide-out    3 200 9 7 500 1 1 1 0 1 1
wide-in     3 520 6 7 210 1 1 1 0 1 1
sampled     2 330 9 10 310 1 1 2 1 1 1
far-padded  2 330 5 4 310 1 1 3 4 1 1
strided     3 110 11 9 130 3 3 2 1 1 1
unpadded    2 65 9 9 70 5 5 1 0 1 1
dilated     2 70 13 12 190 3 3 1 2 3 1
groups      2 128 7 7 256 3 3 1 1 1 2
long-rows   1 100 5 300 130 3 3 1 1 1 1
"""


@pytest.mark.parametrize("problem", problems.parse(LARGE_GRADIENTS.splitlines(), "LARGE_GRADIENTS"), ids=lambda p: p.name)
def test_large_weight_gradients_agree(problem, isa, dtype, rng):
    x, w = (integers(rng, shape, dtype) for shape in (problem.input_shape, problem.weight_shape))
    padding = resolve_padding(problem.padding, problem.kernel, problem.stride, problem.dilation)
    options = (problem.stride, padding, problem.dilation, problem.groups)
    g = integers(rng, reference.conv2d(x, w, None, *options).shape, dtype)
    expected = reference.conv2d_grad_weight(g, x, w.shape, *options)
    for fmt in FORMATS:
        for threads in (1, 2):
            cpu.set_num_threads(threads)
            same_bits(cpu.conv2d_grad_weight(in_format(g, fmt), in_format(x, fmt), w.shape, *options), expected)
    same_bits(cpu.conv2d_grad_weight(in_format(g, "channels_last"), x, w.shape, *options), expected)


# Many weights and strips too small to use them: images are laid out first, in one stage or several; small images share an item.
LAID_OUT = """
strided     2 130 21 19 150 3 3 2 1 1 1
dilated     1 140 19 19 130 3 3 1 6 6 1
stages      9 300 30 30 70 3 3 2 0 1 1
small       7 150 5 5 160 3 3 1 1 1 1
"""


@pytest.mark.parametrize("problem", problems.parse(LAID_OUT.splitlines(), "LAID_OUT"), ids=lambda p: p.name)
def test_layers_of_many_weights_agree(problem, isa, dtype, rng):
    x, w, b = (integers(rng, shape, dtype) for shape in (problem.input_shape, problem.weight_shape, problem.O))
    options = (problem.stride, resolve_padding(problem.padding, problem.kernel, problem.stride, problem.dilation), problem.dilation, problem.groups)
    expected = reference.conv2d(x, w, b, *options)
    g = integers(rng, expected.shape, dtype)
    grad_input = reference.conv2d_grad_input(g, w, x.shape, *options)
    for fmt in FORMATS:
        same_bits(cpu.conv2d(in_format(x, fmt), w, b, *options), expected)
        same_bits(cpu.conv2d_grad_input(in_format(g, fmt), w, x.shape, *options), grad_input)


@pytest.mark.parametrize(("op", "impl"), [p for op in ("conv2d", "conv2d_grad_input", "conv2d_grad_weight") for p in every_implementation(op)])
def test_every_implementation_agrees_wherever_it_applies(op, impl, isa, dtype, rng):
    """Also where an earlier one in the list would have been chosen."""
    ran = 0
    for problem in PROBLEMS.values():
        x, w = (integers(rng, shape, dtype) for shape in (problem.input_shape, problem.weight_shape))
        padding = resolve_padding(problem.padding, problem.kernel, problem.stride, problem.dilation)
        options = (problem.stride, padding, problem.dilation, problem.groups)
        g = integers(rng, problem.output_shape, dtype)
        arguments = {"conv2d": (x, w, None), "conv2d_grad_input": (g, w, x.shape), "conv2d_grad_weight": (g, x, w.shape)}[op]
        if impl.declines and impl.declines(*arguments, *options) is not None:
            continue
        ran += 1
        same_bits(impl.function(*arguments, *options), getattr(reference, op)(*arguments, *options))
    assert ran, f"no problem of the list reaches {op} {impl.name}"


@pytest.mark.parametrize("padding", [((0, 1), (0, 1)), ((1, 0), (2, 0)), ((0, 3), (1, 2)), ((5, 5), (4, 6))], ids=str)
def test_conv2d_with_asymmetric_padding_agrees(padding, isa, dtype, rng):
    x, w, b = integers(rng, (2, 5, 9, 8), dtype), integers(rng, (6, 5, 4, 2), dtype), integers(rng, 6, dtype)
    for stride in ((1, 1), (2, 3)):
        options = (stride, padding, (1, 1), 1)
        y = reference.conv2d(x, w, b, *options)
        g = integers(rng, y.shape, dtype)
        same_bits(cpu.conv2d(x, w, b, *options), y)
        same_bits(cpu.conv2d_grad_input(g, w, x.shape, *options), reference.conv2d_grad_input(g, w, x.shape, *options))
        same_bits(cpu.conv2d_grad_weight(g, x, w.shape, *options), reference.conv2d_grad_weight(g, x, w.shape, *options))


@pytest.mark.parametrize("m", [0, 1, 2, 4, 5, 8, 9, 64, 515])
@pytest.mark.parametrize(("inputs", "outputs"), [(1, 1), (1, 17), (2051, 9), (15, 1), (16, 16), (33, 31), (400, 120), (1300, 10)])
def test_linear_agrees(m, inputs, outputs, isa, dtype, rng):
    x, w, b, g = (integers(rng, shape, dtype) for shape in ((m, inputs), (outputs, inputs), outputs, (m, outputs)))
    same_bits(cpu.linear(x, w, b), x @ w.T + b)
    same_bits(cpu.linear(x[::-1], w, None), x[::-1] @ w.T)
    same_bits(cpu.linear(np.asfortranarray(x), np.asfortranarray(w), b), x @ w.T + b)
    same_bits(cpu.linear_grad_input(g, w), g @ w)
    same_bits(cpu.linear_grad_weight(g, x), g.T @ x)
    same_bits(cpu.linear_grad_bias(g), g.sum(axis=0))


# (N, C, H, W), kernel, stride, padding, dilation, ceil_mode
POOLS = [
    ((2, 3, 4, 4), (2, 2), (2, 2), (0, 0), (1, 1), False),
    ((2, 1, 32, 32), (2, 2), (2, 2), (0, 0), (1, 1), False),
    ((1, 17, 15, 33), (3, 3), (2, 2), (1, 1), (1, 1), False),
    ((2, 33, 9, 7), (3, 2), (1, 3), (1, 0), (1, 1), True),
    ((2, 16, 11, 34), (3, 3), (1, 1), (1, 1), (2, 3), False),
    ((3, 5, 8, 70), (2, 5), (3, 2), (1, 2), (1, 1), True),
    ((2, 4, 5, 6), (5, 6), (1, 1), (0, 0), (1, 1), False),
    ((1, 1, 1, 1), (1, 1), (1, 1), (0, 0), (1, 1), False),
    ((0, 3, 6, 6), (2, 2), (2, 2), (0, 0), (1, 1), False),
]


@pytest.mark.parametrize("case", POOLS, ids=str)
@pytest.mark.parametrize("fmt", FORMATS)
def test_max_pool2d_agrees(case, fmt, isa, dtype, rng):
    shape, kernel, stride, padding, dilation, ceil_mode = case
    size = pool2d_output_size(shape[2:], kernel, stride, padding, dilation, ceil_mode)
    x = integers(rng, shape, dtype)  # nine values in windows of up to thirty pixels: ties everywhere
    window = (kernel, stride, padding, dilation)
    expected, where = reference.max_pool2d(x, *window, size, "indices")
    _, inside = reference.max_pool2d(x, *window, size, "places")
    output, indices = cpu.max_pool2d(in_format(x, fmt), *window, size, "indices")
    same_bits(output, expected)
    same_bits(indices, where)
    assert in_memory_format(output, in_format(x, fmt))
    output, places = cpu.max_pool2d(in_format(x, fmt), *window, size, "places")
    same_bits(output, expected)
    same_bits(places, inside)
    output, nothing = cpu.max_pool2d(in_format(x, fmt), *window, size, None)
    same_bits(output, expected)
    assert nothing is None
    g = integers(rng, output.shape, dtype)
    expected = reference.max_pool2d_backward(g, where, shape)
    same_bits(cpu.max_pool2d_backward(in_format(g, fmt), indices, shape), expected)
    if places.dtype == np.int8:
        same_bits(reference.max_pool2d_backward_places(g, inside, shape, *window), expected)
        spread = cpu.max_pool2d_backward_places(in_format(g, fmt), places, shape, *window)
        same_bits(spread, expected)
        assert in_memory_format(spread, in_format(g, fmt))
        same_bits(cpu.max_pool2d_backward_places(in_format(g, fmt), np.ascontiguousarray(places), shape, *window), expected)
    for ties in ("first", "all", "split"):
        for accumulate in (True, False):
            options = (kernel, stride, padding, dilation, ties, accumulate)
            spread = cpu.max_pool2d_backward_ties(in_format(g, fmt), in_format(x, fmt), *options)
            expected = reference.max_pool2d_backward_ties(g, x, *options)
            np.testing.assert_allclose(spread, expected, rtol=0, atol=0 if ties != "split" else 64 * np.finfo(dtype).eps)
            assert in_memory_format(spread, in_format(x, fmt))


@pytest.mark.parametrize("columns", ["torch", "dlfs", "cs231n", "cs231n_6d"])
@pytest.mark.parametrize("fmt", FORMATS)
def test_columns_agree(columns, fmt, isa, dtype, rng):
    for shape, kernel, stride, padding, dilation, _ in POOLS:
        x, options = integers(rng, shape, dtype), (kernel, dilation, padding, stride, columns)
        cols = cpu.im2col(in_format(x, fmt), *options)
        same_bits(cols, reference.im2col(x, *options))
        same_bits(cpu.col2im(cols, shape, *options), reference.col2im(cols, shape, *options))
    same_bits(cpu.channels_last(in_format(x, fmt)), x)


@pytest.mark.parametrize("case", POOLS, ids=str)
@pytest.mark.parametrize("fmt", FORMATS)
@pytest.mark.parametrize("divisor", ["pad", "inside", 4])
def test_avg_pool2d_agrees(case, fmt, divisor, isa, dtype, rng):
    shape, kernel, stride, padding, _, ceil_mode = case
    size = pool2d_output_size(shape[2:], kernel, stride, padding, (1, 1), ceil_mode)
    x = integers(rng, shape, dtype)
    options = (kernel, stride, padding, size, divisor != "inside", 4 if divisor == 4 else None)
    output = cpu.avg_pool2d(in_format(x, fmt), *options)
    expected = reference.avg_pool2d(x, *options)
    assert output.dtype == dtype
    np.testing.assert_allclose(output, expected, rtol=4 * np.finfo(dtype).eps, atol=0)  # exact sums, one rounding each in 1/n and the product
    g = integers(rng, output.shape, dtype)
    options = (shape, kernel, stride, padding, options[4], options[5])
    expected = reference.avg_pool2d_backward(g, *options)
    np.testing.assert_allclose(cpu.avg_pool2d_backward(in_format(g, fmt), *options), expected, rtol=0, atol=64 * np.finfo(dtype).eps)


ADAPTIVE = [((8, 8), (1, 1)), ((8, 8), (4, 2)), ((7, 9), (3, 4)), ((3, 2), (5, 6)), ((1, 1), (1, 1)), ((33, 34), (1, 17))]


@pytest.mark.parametrize(("size", "output_size"), ADAPTIVE, ids=str)
@pytest.mark.parametrize("fmt", FORMATS)
def test_adaptive_pools_agree(size, output_size, fmt, isa, dtype, rng):
    x = integers(rng, (2, 17, *size), dtype)
    expected, where = reference.adaptive_max_pool2d(x, output_size, "indices")
    output, indices = cpu.adaptive_max_pool2d(in_format(x, fmt), output_size, "indices")
    same_bits(output, expected)
    same_bits(indices, where)
    output = cpu.adaptive_avg_pool2d(in_format(x, fmt), output_size)
    np.testing.assert_allclose(output, reference.adaptive_avg_pool2d(x, output_size), rtol=4 * np.finfo(dtype).eps, atol=0)
    g = integers(rng, output.shape, dtype)
    np.testing.assert_allclose(cpu.adaptive_avg_pool2d_backward(in_format(g, fmt), x.shape), reference.adaptive_avg_pool2d_backward(g, x.shape), rtol=0,
                               atol=64 * np.finfo(dtype).eps)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_max_pool2d_of_special_values_agrees(value, isa, dtype, rng):
    x = integers(rng, (2, 19, 8, 8), dtype)
    x[rng.random(x.shape) < 0.3] = value
    for fmt in FORMATS:
        options = ((3, 3), (2, 2), (1, 1), (1, 1), (4, 4))
        for winners in ("indices", "places", None):
            output, told = cpu.max_pool2d(in_format(x, fmt), *options, winners)
            expected, where = reference.max_pool2d(x, *options, winners)
            np.testing.assert_array_equal(output, expected)
            np.testing.assert_array_equal(told, where)


def test_max_pool2d_backward_refuses_foreign_indices(rng):
    g = np.ones((1, 1, 2, 2), np.float32)
    for index in (-1, 16):
        indices = np.array([[[[0, 1], [2, index]]]])
        with pytest.raises(ValueError, match=r"indices must lie in \[0, 16\)"):
            cpu.max_pool2d_backward(g, indices, (1, 1, 4, 4))


@pytest.mark.parametrize("problem", [p for p in PROBLEMS.values() if p.groups == 1], ids=lambda p: p.name)
def test_unfold_and_fold_agree(problem, dtype, rng):
    x = integers(rng, problem.input_shape, dtype)
    options = (problem.kernel, problem.dilation, problem.padding, problem.stride)
    columns = reference.unfold(x, *options)
    for fmt in FORMATS:
        same_bits(cpu.unfold(in_format(x, fmt), *options), columns)
    g = integers(rng, columns.shape, dtype)
    same_bits(cpu.fold(g, x.shape[2:], *options), reference.fold(g, x.shape[2:], *options))
    same_bits(cpu.fold(np.asfortranarray(g), x.shape[2:], *options), reference.fold(g, x.shape[2:], *options))


ACTIVATIONS = [
    ("relu", ()), ("leaky_relu", (0.01,)), ("elu", (1.3,)), ("selu", ()), ("gelu", ("none",)), ("gelu", ("tanh",)), ("silu", ()), ("softplus", (1.5, 20.0)),
    ("sigmoid", ()), ("tanh", ()),
]


@pytest.mark.parametrize(("op", "options"), ACTIVATIONS, ids=lambda v: str(v))
def test_activations_agree(op, options, isa, dtype, rng):
    """Within a few units in the last place of the float64 reference, over the whole range, tails of every length, special values included."""
    eps = np.finfo(dtype).eps
    x = np.concatenate([rng.normal(0, 3, 4000), rng.normal(0, 1e-3, 500), rng.uniform(-120, 120, 500), [0.0, -0.0, np.inf, -np.inf, np.nan, 1e4, -1e4, 5e-39]])
    x = x.astype(dtype)
    g = rng.normal(0, 1, x.shape).astype(dtype)
    with np.errstate(all="ignore"):
        expected = getattr(reference, op)(x.astype(np.float64), *options)
        at = expected if op in ("sigmoid", "tanh") else x.astype(np.float64)
        expected_grad = getattr(reference, f"{op}_backward")(g.astype(np.float64), at, *options)
    loose = 10 if op == "gelu" else 1  # 1 + tanh and 1 - tanh^2 cancel for large |x|, and x multiplies what is left
    for tail in range(18):  # every tail length of every vector width
        xs, gs = x[tail:], g[tail:]
        result = getattr(cpu, op)(xs, *options)
        assert result.dtype == dtype
        np.testing.assert_allclose(result, expected[tail:], rtol=16 * eps, atol=8 * eps * loose)
        grad = getattr(cpu, f"{op}_backward")(gs, at[tail:].astype(dtype), *options)
        np.testing.assert_allclose(grad, expected_grad[tail:], rtol=32 * eps, atol=32 * eps * loose)


@pytest.mark.parametrize("fmt", FORMATS)
@pytest.mark.parametrize("shape", [(2, 3, 5, 7), (1, 17, 1, 1), (64, 1, 3, 3), (3, 33, 20, 20), (5, 16, 1, 9)], ids=str)
def test_batch_norm_agrees(shape, fmt, isa, dtype, rng):
    x, g = rng.normal(3, 2, shape).astype(dtype), rng.normal(0, 1, shape).astype(dtype)
    w, b = rng.normal(1, 0.3, shape[1]).astype(dtype), rng.normal(0, 1, shape[1]).astype(dtype)
    eps = np.finfo(dtype).eps
    double = [a.astype(np.float64) for a in (x, w, b)]
    expected, mean, var = reference.batch_norm(*double, None, None, 1e-5)
    output, m, v = cpu.batch_norm(in_format(x, fmt), w, b, None, None, 1e-5)
    assert output.dtype == m.dtype == v.dtype == dtype
    assert in_memory_format(output, in_format(x, fmt))
    np.testing.assert_allclose(m, mean, rtol=8 * eps)
    np.testing.assert_allclose(v, var, rtol=64 * eps, atol=eps)
    if np.prod(shape) > shape[1]:  # one pixel per channel has no variance: its gradient is 0 / sqrt(eps) noise
        np.testing.assert_allclose(output, expected, rtol=0, atol=64 * eps)
        expected = reference.batch_norm_backward(g.astype(np.float64), *double[:2], mean, var, 1e-5, True)
        for a, e in zip(cpu.batch_norm_backward(in_format(g, fmt), in_format(x, fmt), w, m, v, 1e-5, True), expected, strict=True):
            np.testing.assert_allclose(a, e, rtol=64 * eps, atol=256 * eps * max(1, np.abs(e).max()))
    given = cpu.batch_norm(in_format(x, fmt), None, None, m, v, 1e-5)[0]
    # one rounding each of x * scale and mean * scale, which cancel
    bound = 4 * eps * np.abs(x).max() / np.sqrt(v.min() + 1e-5)
    np.testing.assert_allclose(given, reference.batch_norm(double[0], None, None, m.astype(np.float64), v.astype(np.float64), 1e-5)[0], rtol=0, atol=bound)
    for a, e in zip(cpu.batch_norm_backward(in_format(g, fmt), x, None, m, v, 1e-5, False),
                    reference.batch_norm_backward(g.astype(np.float64), double[0], None, m.astype(np.float64), v.astype(np.float64), 1e-5, False), strict=True):
        np.testing.assert_allclose(a, e, rtol=64 * eps, atol=256 * eps * max(1, np.abs(e).max()))


def test_planes_are_chosen_where_they_fill_their_vectors(isa):
    """One channel is no depthwise convolution: a 17x17 kernel's input gradient is far cheaper by overlapped adding than as one with 16 pixels of padding."""

    def chosen(op, N, C, H, O, K):
        x, w = np.zeros((N, C, H, H), np.float32), np.zeros((O, C, K, K), np.float32)
        y = fastcnn.functional.conv2d(x, w)
        explanation = fastcnn.explain(op, *((y, x, w) if op == "conv2d_backward" else (x, w)))
        return explanation.chosen

    assert chosen("conv2d", 5, 1, 36, 6, 5) == "direct_planes"
    assert chosen("conv2d_backward", 5, 1, 36, 6, 5) == "direct_planes_flipped"
    assert chosen("conv2d_backward", 5, 1, 28, 36, 17) == "direct_overlap_add"
    assert chosen("conv2d", 5, 6, 3, 33, 2) == "direct"


def test_stencils_are_chosen_for_layers_of_few_sums_with_rows_that_fill_vectors(isa):
    def chosen(shape, filters, kernel, groups, **options):
        """Forward, input gradient, weight gradient."""
        x, w = np.zeros(shape, np.float32), np.zeros((filters, shape[1] // groups, kernel, kernel), np.float32)
        options = (options.get("stride", (1, 1)), ((kernel // 2,) * 2,) * 2, (1, 1), groups)
        y = cpu.conv2d(x, w, None, *options)
        calls = {"conv2d": (x, w, None), "conv2d_grad_input": (y, w, x.shape), "conv2d_grad_weight": (y, x, w.shape)}
        return [cpu.select.choose(op, (*arguments, *options))[0].name for op, arguments in calls.items()]

    assert chosen((2, 64, 28, 28), 64, 7, 64) == ["direct_stencil"] * 3
    assert chosen((2, 32, 28, 28), 64, 3, 32) == ["direct_stencil"] * 3
    assert chosen((2, 64, 56, 56), 64, 3, 64, stride=(2, 1)) == ["direct_stencil"] * 3
    for kernel, stride in itertools.product((3, 5), (1, 2)):
        registers = 32 if isa in ("avx512", "neon") else 16
        expected = "direct_stencil" if registers == 16 and (kernel, stride) == (5, 1) else "direct_depthwise_planes"
        assert chosen((2, 64, 28, 28), 64, kernel, 64, stride=(stride, stride)) == [expected] * 3
    assert chosen((2, 512, 7, 7), 512, 3, 512) == ["direct_depthwise_planes"] * 3
    assert "direct_depthwise_planes" not in chosen((2, 512, 2, 2), 512, 3, 512, stride=(2, 2))
    assert "direct_depthwise_planes" not in chosen((2, 64, 28, 28), 64, 7, 64)
    assert "direct_depthwise_planes" not in chosen((2, 32, 28, 28), 64, 3, 32)
    assert "direct_stencil" not in chosen((2, 512, 2, 2), 512, 3, 512)
    assert "direct_stencil" not in chosen((2, 64, 28, 28), 64, 3, 1)
    assert "direct_stencil" not in chosen((2, 64, 28, 28), 64, 3, 64, stride=(1, 3))


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("padding", [((0, 0), (0, 0)), ((1, 1), (1, 1))], ids=str)
@pytest.mark.parametrize("implementation", ["direct_stencil", "direct_depthwise_planes"])
def test_stencils_keep_infinities_to_the_sums_they_belong_to(implementation, value, padding, isa, dtype, rng):
    """Whole vectors are read beyond the end of a row; what lies there must not reach a sum."""
    x, w = integers(rng, (1, 2, 12, 21), dtype), integers(rng, (2, 1, 3, 3), dtype)
    x[0, 0, :, 0] = value  # the next row's first pixel, after each row's last one
    x[0, 1] = value        # the next plane
    options = ((1, 1), padding, (1, 1), 2)
    stencil = {op: next(i.function for i in cpu.select.IMPLEMENTATIONS[op] if i.name == implementation) for op in ("conv2d", "conv2d_grad_weight")}
    output = stencil["conv2d"](x, w, None, *options)
    g = integers(rng, output.shape, dtype)
    left = padding[1][0]
    with np.errstate(invalid="ignore"):
        np.testing.assert_array_equal(output, reference.conv2d(x, w, None, *options))
        expected = reference.conv2d_grad_weight(g, x, w.shape, *options)
    result = stencil["conv2d_grad_weight"](g, x, w.shape, *options)
    assert np.isfinite(expected[0, 0, :, 1 + left:]).all()
    np.testing.assert_array_equal(result[0, 0, :, 1 + left:], expected[0, 0, :, 1 + left:])
