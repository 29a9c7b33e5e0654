"""Laws that hold for every shape and option, on drawn ones, in whole numbers, so that both sides are equal to the bit: adjoints, linearity, independence of
batch and memory, and how options explain each other. FASTCNN_PROPERTY_EXAMPLES says how many are drawn per law (nightly/test_all_properties.py: many)."""

import os

import numpy as np
import pytest
from arrays import in_memory_format

import fastcnn
import fastcnn.functional as F

pytest.importorskip("hypothesis", reason="hypothesis is not installed (pip install 'fastcnn[test]')")
from hypothesis import HealthCheck, assume, given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

EXAMPLES = int(os.environ.get("FASTCNN_PROPERTY_EXAMPLES", 40))
law = settings(max_examples=EXAMPLES, deadline=None, derandomize=EXAMPLES <= 40, database=None,
               suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow, HealthCheck.function_scoped_fixture])  # fmt: skip


@pytest.fixture(autouse=True, params=[name for name, reason in fastcnn.available().items() if reason is None])
def exact_backend(request):
    with fastcnn.use_backend(request.param), fastcnn.use_algorithm("direct"):
        yield


small = st.integers(1, 4)
channels = st.sampled_from([1, 2, 3, 4, 7, 8, 9, 16, 17, 31, 33])
extents = st.integers(1, 20)
dtypes = st.sampled_from([np.float32, np.float64])
seeds = st.integers(0, 2**32)
kernels = st.tuples(st.sampled_from([1, 2, 3, 3, 4, 5, 7]), st.sampled_from([1, 2, 3, 3, 4, 5, 7]))
strides = st.tuples(st.sampled_from([1, 1, 2, 3, 5]), st.sampled_from([1, 1, 2, 3, 5]))
dilations = st.tuples(st.sampled_from([1, 1, 2, 3]), st.sampled_from([1, 1, 2, 3]))
paddings = st.tuples(st.integers(0, 4), st.integers(0, 4))
some_groups = st.sampled_from([1, 1, 1, 2, 3, 5])
batches = st.sampled_from([0, 1, 2, 3, 5, 8, 16, 17])


def whole(seed, *shape, dtype):
    return np.random.default_rng([seed, *shape]).integers(-8, 9, shape).astype(dtype)


def channels_last(a):
    return np.ascontiguousarray(a.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)


@st.composite
def convolutions(draw, stride=strides, dilation=dilations, padding=paddings, groups=some_groups):
    """x, w, b and the options of a conv2d that fits."""
    N, G, C, O, H, W = draw(batches), draw(groups), draw(channels), draw(channels), draw(extents), draw(extents)
    kernel, options = draw(kernels), {"stride": draw(stride), "padding": draw(padding), "dilation": draw(dilation), "groups": G}
    C, O = (min(C, 9), min(O, 9)) if G > 1 else (C, O)
    for extent, k, pad, distance in zip((H, W), kernel, options["padding"], options["dilation"], strict=True):
        assume(extent + 2 * pad > (k - 1) * distance)
    dtype, seed = draw(dtypes), draw(seeds)
    x, w, b = whole(seed, N, G * C, H, W, dtype=dtype), whole(seed, G * O, C, *kernel, dtype=dtype), whole(seed, G * O, dtype=dtype)
    return x, w, b, options


@st.composite
def pictures(draw, batch=batches):
    return whole(draw(seeds), draw(batch), draw(channels), draw(extents), draw(extents), dtype=draw(dtypes))


def inner(a, b):
    return (a.astype(np.float64) * b).sum()


def like(a, seed=1):
    return whole(seed, *a.shape, dtype=a.dtype)


# --- adjoints: <g, f(x)> = <f*(g), x> -----------------------------------------------------------------------------------------------


@law
@given(convolutions())
def test_the_gradients_of_a_convolution_are_its_adjoints(problem):
    x, w, _, options = problem
    y = F.conv2d(x, w, **options)
    g = like(y)
    grad_input, grad_weight, grad_bias = F.conv2d_backward(g, x, w, **options)
    assert inner(g, y) == inner(grad_input, x) == inner(grad_weight, w)
    np.testing.assert_array_equal(grad_bias, g.sum(axis=(0, 2, 3)))


@law
@given(convolutions(), st.booleans())
def test_a_transposed_convolution_is_the_adjoint_of_a_convolution(problem, of_weights):
    g, w, _, options = problem
    assume(all((n - 1) * s - 2 * p + (k - 1) * d + 1 > 0 for n, s, p, k, d in zip(
        g.shape[2:], options["stride"], options["padding"], w.shape[2:], options["dilation"], strict=True)))
    groups = options["groups"]
    w = np.ascontiguousarray(w.reshape(groups, -1, *w.shape[1:]).swapaxes(1, 2)).reshape(g.shape[1], -1, *w.shape[2:])
    y = F.conv_transpose2d(g, w, **options)
    back = like(y)
    assert inner(back, y) == inner(F.conv2d(back, w, **options), g)
    grad_input, grad_weight, _ = F.conv_transpose2d_backward(back, g, w, **options)
    assert inner(back, y) == inner(grad_weight if of_weights else grad_input, w if of_weights else g)


@law
@given(st.integers(0, 70), channels, channels, dtypes, seeds)
def test_the_gradients_of_a_linear_map_are_its_adjoints(rows, inputs, outputs, dtype, seed):
    x, w = whole(seed, rows, inputs, dtype=dtype), whole(seed, outputs, inputs, dtype=dtype)
    y = F.linear(x, w)
    g = like(y)
    grad_input, grad_weight, _ = F.linear_backward(g, x, w)
    assert inner(g, y) == inner(grad_input, x) == inner(grad_weight, w)


@law
@given(pictures(), kernels, strides, dilations, paddings)
def test_fold_is_the_adjoint_of_unfold(x, kernel, stride, dilation, padding):
    assume(all(n + 2 * p > (k - 1) * d for n, p, k, d in zip(x.shape[2:], padding, kernel, dilation, strict=True)))
    columns = F.unfold(x, kernel, dilation, padding, stride)
    g = like(columns)
    assert inner(g, columns) == inner(F.fold(g, x.shape[2:], kernel, dilation, padding, stride), x)
    options = {"kernel_size": kernel, "stride": stride, "padding": padding, "dilation": dilation}
    for order in ("dlfs", "cs231n", "cs231n_6d"):
        columns = F.im2col(x, columns=order, **options)
        g = like(columns)
        assert inner(g, columns) == inner(F.col2im(g, input_shape=x.shape, columns=order, **options), x)


@law
@given(pictures(), kernels, strides, st.booleans())
def test_the_gradients_of_pools_are_their_adjoints(x, kernel, stride, ceil_mode):
    assume(all(n >= k for n, k in zip(x.shape[2:], kernel, strict=True)))
    padding = tuple(k // 2 for k in kernel)
    options = {"kernel_size": kernel, "stride": stride, "padding": padding, "ceil_mode": ceil_mode}
    y = F.avg_pool2d(x, divisor_override=4, **options)  # quarters are exact
    g = like(y)
    assert inner(g, y) == inner(F.avg_pool2d_backward(g, x, divisor_override=4, **options), x)
    y, indices = F.max_pool2d(x, return_indices=True, **options)  # linear where the winners stay the same
    assert inner(g, y) == inner(F.max_pool2d_backward(g, x, indices=indices, **options), x)


@law
@given(pictures(), st.lists(st.integers(-2, 5), min_size=4, max_size=4), st.sampled_from(["constant", "reflect", "replicate", "circular"]))
def test_the_gradients_of_padding_and_resizing_are_their_adjoints(x, edges, mode):
    H, W = x.shape[2:]
    if mode != "constant":
        most = {"reflect": (W - 1, H - 1), "circular": (W, H), "replicate": (9, 9)}[mode]
        edges = [min(max(edge, 0), most[i // 2]) for i, edge in enumerate(edges)]
    assume(W + edges[0] + edges[1] > 0 and H + edges[2] + edges[3] > 0)
    assume(min(edges[0], 0) + min(edges[1], 0) + W > 0 and min(edges[2], 0) + min(edges[3], 0) + H > 0)
    y = F.pad(x, tuple(edges), mode)
    g = like(y)
    assert inner(g, y) == inner(F.pad_backward(g, x, tuple(edges), mode), x)
    size = (H + abs(edges[0]) + 1, max(1, W + edges[1]))
    y = F.interpolate(x, size)
    g = like(y)
    assert inner(g, y) == inner(F.interpolate_backward(g, x, size), x)


# --- linearity, independence of batch and memory ------------------------------------------------------------------------------------


def linear_maps(problem):
    """(name, function of x) of everything that is linear in x, for the options of a convolution."""
    _, w, _, options = problem
    window = {"kernel_size": w.shape[2:], "stride": options["stride"], "padding": options["padding"], "dilation": options["dilation"]}
    halves = tuple(min(p, k // 2) for p, k in zip(options["padding"], w.shape[2:], strict=True))
    pool = {"kernel_size": w.shape[2:], "stride": options["stride"], "padding": halves}
    yield "conv2d", lambda x: F.conv2d(x, w, **options)
    yield "unfold", lambda x: F.unfold(x, **window)
    if all(n + 2 * p >= k for n, p, k in zip(problem[0].shape[2:], pool["padding"], w.shape[2:], strict=True)):
        yield "avg_pool2d", lambda x: F.avg_pool2d(x, divisor_override=8, **pool)
    yield "pad", lambda x: F.pad(x, (1, 2, 0, 3))
    yield "interpolate", lambda x: F.interpolate(x, (5, 9))
    yield "linear", lambda x: F.linear(x.reshape(len(x), x[0].size if len(x) else int(np.prod(x.shape[1:]))),
                                       whole(3, 5, int(np.prod(x.shape[1:])), dtype=x.dtype))


@law
@given(convolutions(), st.integers(-5, 5), st.integers(-5, 5))
def test_linear_maps_are_linear(problem, a, b):
    x = problem[0]
    other = like(x, 9)
    for name, function in linear_maps(problem):
        np.testing.assert_array_equal(function(a * x + b * other), a * function(x) + b * function(other), err_msg=name)


@law
@given(convolutions(), st.integers(0, 17))
def test_an_image_s_result_does_not_depend_on_the_other_images(problem, cut):
    x, w, b, options = problem
    whole_batch = F.conv2d(x, w, b, **options)
    np.testing.assert_array_equal(np.concatenate([F.conv2d(x[:cut], w, b, **options), F.conv2d(x[cut:], w, b, **options)]), whole_batch)
    g = like(whole_batch)
    grad_input, grad_weight, grad_bias = F.conv2d_backward(g, x, w, **options)
    first, second = F.conv2d_backward(g[:cut], x[:cut], w, **options), F.conv2d_backward(g[cut:], x[cut:], w, **options)
    np.testing.assert_array_equal(np.concatenate([first[0], second[0]]), grad_input)
    np.testing.assert_array_equal(first[1] + second[1], grad_weight)
    np.testing.assert_array_equal(first[2] + second[2], grad_bias)
    for name, function in linear_maps(problem):
        np.testing.assert_array_equal(np.concatenate([function(x[:cut]), function(x[cut:])]), function(x), err_msg=name)


@law
@given(convolutions(), st.sampled_from(["channels_last", "Fortran", "reversed", "gaps"]), st.booleans())
def test_results_do_not_depend_on_memory(problem, kind, mixed):
    x, w, b, options = problem
    change = {"channels_last": channels_last, "Fortran": np.asfortranarray, "reversed": lambda a: a[:, ::-1].copy()[:, ::-1],
              "gaps": lambda a: np.repeat(a, 2, 3)[..., ::2]}[kind]  # fmt: skip
    y = F.conv2d(x, w, b, **options)
    np.testing.assert_array_equal(F.conv2d(change(x), w if mixed else change(w), b, **options), y)
    g = like(y)
    for ours, theirs in zip(F.conv2d_backward(g if mixed else change(g), change(x), w, **options), F.conv2d_backward(g, x, w, **options), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    for name, function in linear_maps(problem):
        np.testing.assert_array_equal(function(change(x)), function(x), err_msg=name)
    assert in_memory_format(F.conv2d(change(x), w, b, **options), change(x))


# --- options explain each other -----------------------------------------------------------------------------------------------------


@law
@given(convolutions(padding=st.just((0, 0))), paddings)
def test_padding_is_an_image_with_zeros_around(problem, padding):
    x, w, b, options = problem
    padded = F.pad(x, (padding[1], padding[1], padding[0], padding[0]))
    np.testing.assert_array_equal(F.conv2d(x, w, b, **options | {"padding": padding}), F.conv2d(padded, w, b, **options))


@law
@given(convolutions(stride=st.just((1, 1))), strides)
def test_a_stride_leaves_outputs_out(problem, stride):
    x, w, b, options = problem
    np.testing.assert_array_equal(F.conv2d(x, w, b, **options | {"stride": stride}), F.conv2d(x, w, b, **options)[:, :, :: stride[0], :: stride[1]])


@law
@given(convolutions())
def test_a_dilated_kernel_is_one_with_zeros_between(problem):
    x, w, b, options = problem
    (DH, DW), (KH, KW) = options["dilation"], w.shape[2:]
    spread = np.zeros((*w.shape[:2], (KH - 1) * DH + 1, (KW - 1) * DW + 1), w.dtype)
    spread[:, :, ::DH, ::DW] = w
    np.testing.assert_array_equal(F.conv2d(x, w, b, **options), F.conv2d(x, spread, b, **options | {"dilation": 1}))


@law
@given(convolutions(groups=st.sampled_from([2, 3, 4, 17])))
def test_groups_are_convolutions_side_by_side(problem):
    x, w, b, options = problem
    groups = options["groups"]
    C, O = x.shape[1] // groups, len(w) // groups
    parts = [F.conv2d(x[:, k * C : (k + 1) * C], w[k * O : (k + 1) * O], b[k * O : (k + 1) * O], **options | {"groups": 1}) for k in range(groups)]
    np.testing.assert_array_equal(F.conv2d(x, w, b, **options), np.concatenate(parts, axis=1))


@law
@given(convolutions())
def test_a_convolution_is_a_matrix_product_of_its_windows(problem):
    x, w, b, options = problem
    assume(options["groups"] == 1)
    y = F.conv2d(x, w, b, **options)
    columns = F.unfold(x, w.shape[2:], options["dilation"], options["padding"], options["stride"])
    np.testing.assert_array_equal(y, (w.reshape(len(w), -1) @ columns + b[:, None]).reshape(y.shape))


@law
@given(pictures(), kernels, strides)
def test_a_maximum_pool_takes_the_maxima_of_windows(x, kernel, stride):
    assume(all(n >= k for n, k in zip(x.shape[2:], kernel, strict=True)))
    assume(len(x))
    windows = F.unfold(x, kernel, stride=stride).reshape(*x.shape[:2], kernel[0] * kernel[1], -1)
    pooled, indices = F.max_pool2d(x, kernel, stride, return_indices=True)
    np.testing.assert_array_equal(pooled.reshape(*x.shape[:2], -1), windows.max(axis=2))
    np.testing.assert_array_equal(np.take_along_axis(x.reshape(*x.shape[:2], -1), indices.reshape(*x.shape[:2], -1), axis=2).reshape(pooled.shape), pooled)
    np.testing.assert_array_equal(-F.max_pool2d(-x, kernel, stride).reshape(*x.shape[:2], -1), windows.min(axis=2))
