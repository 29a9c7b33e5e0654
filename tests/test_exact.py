"""A sample of the whole-number problems of exact.py, in the normal tests; nightly/test_all_exact.py runs all of them. And what no list has: strides and
dilations of two thousand million, arrays that lie in memory in unusual ways, whole networks by their plans."""

import exact
import gates
import numpy as np
import pytest
import random_networks
from arrays import in_format

import fastcnn
from fastcnn import functional as F
from fastcnn import nn
from fastcnn.backends import reference

cpu = pytest.importorskip("fastcnn.backends.cpu", reason="the compiled backend is not built")

DTYPES = [np.dtype(np.float32), np.dtype(np.float64)]


@pytest.fixture
def isa(request):
    before = cpu.isa()
    cpu.set_isa(request.param)
    yield request.param
    cpu.set_isa(before)


every_isa = pytest.mark.parametrize("isa", cpu.available_isas(), indirect=True)


def test_the_lists_hold_as_many_problems_as_is_said():
    assert len({case[1:] for case in exact.listed()}) >= 2000
    assert len({case[1:] for case in exact.drawn(200, 5)}) == 200


@every_isa
@pytest.mark.parametrize("cases", [lambda: [*exact.listed()][::41], lambda: exact.drawn(30, 11), lambda: exact.heavy(6, 11)], ids=["lists", "random", "heavy"])
def test_whole_numbers_give_the_bits_of_the_reference(cases, isa):
    results = exact.compare(cases(), DTYPES, exact.FORMATS)
    assert not results.failures, "\n".join(results.failures[:20])


def by_definition(x, w, stride, padding, dilation, groups):
    """The sum of products as it stands in the op table, one output at a time, in 64-bit integers."""
    N, C, H, W = x.shape
    O, channels, KH, KW = w.shape
    size = exact.conv2d_output_size((H, W), (KH, KW), stride, padding, dilation)
    output = np.zeros((N, O, *size), np.int64)
    for n, o, oh, ow in np.ndindex(output.shape):
        for c, kh, kw in np.ndindex(channels, KH, KW):
            h, v = oh * stride[0] + kh * dilation[0] - padding[0][0], ow * stride[1] + kw * dilation[1] - padding[1][0]
            if 0 <= h < H and 0 <= v < W:
                output[n, o, oh, ow] += x[n, o // (O // groups) * channels + c, h, v] * w[o, c, kh, kw]
    return output


def test_the_reference_is_the_definition():
    """And its gradients are the transposes: <g, conv(x, w)> = <grad_input, x> = <grad_weight, w>, exactly, for any x and w."""
    checked = 0
    for case in exact.drawn(600, 2):
        if case.macs > 2000:
            continue
        checked += 1
        x, w, _, g = exact.numbers(case)
        output = reference.conv2d(x, w, None, *case.options)
        np.testing.assert_array_equal(output, by_definition(x.astype(np.int64), w.astype(np.int64), *case.options))
        product = (g * output).sum()
        assert (reference.conv2d_grad_input(g, w, x.shape, *case.options) * x).sum() == product
        assert (reference.conv2d_grad_weight(g, x, w.shape, *case.options) * w).sum() == product
    assert checked >= 40


# --- options at the end of their range --------------------------------------------------------------------------------------------

MOST = 2**31 - 1
SHAPES = [((2, 3, 5, 6), (4, 3, 1, 1)), ((1, 1, 5, 1), (1, 1, 3, 1)), ((2, 17, 4, 4), (17, 1, 3, 3)), ((16, 3, 6, 6), (5, 3, 3, 3)),
          ((1, 32, 6, 6), (32, 32, 1, 1)), ((2, 64, 30, 33), (64, 1, 1, 3)), ((2, 33, 5, 20), (3, 11, 2, 3)), ((0, 4, 5, 5), (4, 2, 3, 3))]  # fmt: skip


@every_isa
@pytest.mark.parametrize("shape,weight", SHAPES, ids=str)
def test_strides_and_dilations_of_any_size(shape, weight, isa, rng):
    """What the numbers allow is computed, and takes memory and time by the arrays, not by the numbers."""
    x, w = rng.integers(-4, 5, shape).astype(np.float32), rng.integers(-4, 5, weight).astype(np.float32)
    computed = 0
    for stride in (2, MOST, (MOST, 1), (1, MOST)):
        for dilation in (1, 2, MOST, (1, MOST), (MOST, 1)):
            for padding in (0, 1, 40):
                options = {"stride": stride, "dilation": dilation, "padding": padding, "groups": shape[1] // weight[1]}
                results = []
                for backend in ("reference", "cpu"):
                    with fastcnn.use_backend(backend), fastcnn.use_algorithm("direct"):
                        try:
                            y = F.conv2d(x, w, **options)
                        except ValueError as error:
                            results.append(str(error))
                        else:
                            g = (np.arange(y.size) % 7 - 3).reshape(y.shape).astype(y.dtype)
                            results.append((y, *F.conv2d_backward(g, x, w, **options)))
                            computed += 1
                if isinstance(results[0], str):
                    assert results[1] == results[0]
                else:
                    for actual, expected in zip(*results, strict=True):
                        np.testing.assert_array_equal(actual, expected, err_msg=str(options))
    assert computed >= 2


# --- arrays of every kind ---------------------------------------------------------------------------------------------------------


def misaligned(a):
    """The same values from an address that is no multiple of the element size."""
    memory = np.zeros(a.nbytes + 1, np.uint8)
    view = memory[1:].view(a.dtype).reshape(a.shape)
    view[...] = a
    assert not view.flags.aligned
    return view


def overlapping(a):
    """A view whose rows share memory: windows of one long row. Its values are its own."""
    N, C, H, W = a.shape
    line = np.resize(a, N * C * (H + W)).astype(a.dtype)
    size = line.itemsize
    return np.lib.stride_tricks.as_strided(line, a.shape, (C * (H + W) * size, (H + W) * size, size, size), writeable=False)


def read_only(a):
    a = a.copy()
    a.setflags(write=False)
    return a


KINDS = {
    "misaligned": misaligned,
    "big-endian": lambda a: a.astype(a.dtype.newbyteorder(">")),
    "read-only": read_only,
    "Fortran": np.asfortranarray,
    "reversed": lambda a: a[::-1, ::-1, ::-1, ::-1],
    "overlapping": overlapping,
    "broadcast": lambda a: np.broadcast_to(a[:1, :, :1], a.shape),
    "one pixel for all": lambda a: np.broadcast_to(a[:1, :1, :1, :1], a.shape),
    "every third of a larger one": lambda a: np.repeat(np.repeat(a, 3, 2), 2, 1)[:, ::2, ::3],
    "rows of a record": lambda a: np.stack([a, a + 1], -1)[..., 0],
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("problem", [((3, 5, 9, 11), (7, 5, 3, 3), 1), ((2, 16, 8, 8), (16, 1, 3, 3), 16), ((16, 1, 10, 10), (4, 1, 5, 5), 1)], ids=str)
def test_arrays_of_every_kind_are_read_correctly(kind, problem, backend, dtype, rng):
    shape, weight, groups = problem
    x, w = (KINDS[kind](rng.integers(-4, 5, s).astype(dtype)) for s in (shape, weight))
    plain_x, plain_w = np.array(x, dtype, order="C"), np.array(w, dtype, order="C")
    before = x.copy(), w.copy()
    options = {"padding": 1, "groups": groups}
    with fastcnn.use_algorithm("direct"):
        y = F.conv2d(x, w, **options)
        expected = F.conv2d(plain_x, plain_w, **options)
        g = KINDS[kind](rng.integers(-4, 5, y.shape).astype(dtype))
        plain_g = np.array(g, dtype, order="C")
        pairs = [(y, expected), *zip(F.conv2d_backward(g, x, w, **options), F.conv2d_backward(plain_g, plain_x, plain_w, **options), strict=True)]
        for op, options in (("max_pool2d", {"kernel_size": 2}), ("avg_pool2d", {"kernel_size": 2}), ("unfold", {"kernel_size": 3}), ("relu", {}),
                            ("adaptive_max_pool2d", {"output_size": 3}), ("interpolate", {"size": (4, 7)}), ("pad", {"pad": (1, 2, -1, 3)})):
            result = getattr(F, op)(plain_x, **options)
            pairs.append((getattr(F, op)(x, **options), result))
            pairs.append((getattr(F, op + "_backward")(result, x, **options), getattr(F, op + "_backward")(result, plain_x, **options)))
        rows, plain = x.reshape(len(x), -1), plain_x.reshape(len(x), -1)
        pairs.append((F.linear(rows, rows), F.linear(plain, plain)))
    for actual, wanted in pairs:
        assert actual.dtype == dtype and actual.dtype.isnative
        assert not np.shares_memory(actual, x)
        np.testing.assert_array_equal(actual, wanted)
    for op, options in (("softmax", {"dim": 1}), ("log_softmax", {"dim": 3}), ("tanh", {}), ("gelu", {}), ("layer_norm", {"normalized_shape": shape[2:]}),
                        ("group_norm", {"num_groups": 1}), ("batch_norm", {"training": True, "running_mean": None, "running_var": None})):
        actual, wanted = getattr(F, op)(x, **options), getattr(F, op)(plain_x, **options)
        assert actual.dtype == dtype and actual.dtype.isnative
        np.testing.assert_allclose(actual, wanted, rtol=0, atol=16 * np.finfo(dtype).eps)  # NumPy adds in the order of memory
    np.testing.assert_array_equal(x, before[0])
    np.testing.assert_array_equal(w, before[1])


@pytest.mark.parametrize(
    "op,options", [("group_norm", {"num_groups": 1}), ("group_norm", {"num_groups": 16}), ("layer_norm", {"normalized_shape": (16, 56, 57)})], ids=str
)
def test_float32_statistics_keep_their_digits_in_every_memory_order(op, options, backend, rng):
    """Fifty thousand numbers a group, of mean 3, in an order that makes NumPy add one after another."""
    x = (rng.standard_normal((2, 16, 56, 57)) + 3).astype(np.float32)
    g = rng.standard_normal(x.shape).astype(np.float32)
    double = x.astype(np.float64)
    expected, wanted = getattr(F, op)(double, **options), getattr(F, op + "_backward")(g.astype(np.float64), double, **options)
    for fmt in (np.ascontiguousarray, np.asfortranarray, lambda a: in_format(a, "channels_last")):
        np.testing.assert_allclose(getattr(F, op)(fmt(x), **options), expected, rtol=0, atol=2e-6)
        grads = getattr(F, op + "_backward")(fmt(g), fmt(x), **options)
        for actual, grad in zip(grads if isinstance(grads, tuple) else (grads,), wanted if isinstance(wanted, tuple) else (wanted,), strict=True):
            if grad is not None:
                np.testing.assert_allclose(actual, grad, rtol=0, atol=4e-6 * max(1, np.abs(grad).max()))


# --- networks ---------------------------------------------------------------------------------------------------------------------

NETWORKS = {
    "narrow": (lambda: [nn.Conv2d(1, 6, 5), nn.MaxPool2d(2), nn.ReLU(), nn.Conv2d(6, 16, 5), nn.MaxPool2d(2), nn.ReLU(), nn.Flatten(), nn.Linear(256, 10)],
               (16, 1, 28, 28)),
    "narrow-average": (lambda: [nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.AvgPool2d(2), nn.Conv2d(8, 9, 3), nn.ReLU(), nn.Flatten(), nn.Linear(324, 7)],
                       (32, 3, 16, 16)),
    "wide": (lambda: [nn.Conv2d(3, 33, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(33, 17, 3, padding=1), nn.LeakyReLU(0.5), nn.Flatten(),
                      nn.Linear(17 * 64, 5)], (4, 3, 16, 16)),
    "strided-grouped": (lambda: [nn.Conv2d(4, 16, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(16, 32, 3, padding=2, dilation=2, groups=4), nn.ReLU(),
                                 nn.Conv2d(32, 32, 3, groups=32), nn.Flatten(), nn.Linear(32 * 36, 3)], (3, 4, 16, 16)),
    "one-pixel": (lambda: [nn.Conv2d(5, 17, 1), nn.ReLU(), nn.Conv2d(17, 31, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(31, 2)], (9, 5, 1, 1)),
}  # fmt: skip


@every_isa
@pytest.mark.parametrize("batch", ["whole", "ragged"])
@pytest.mark.parametrize("network", NETWORKS)
def test_networks_of_whole_numbers_by_their_plans(network, batch, isa, dtype):
    """Trainer.step and predict, which run by plans, against the reference layer by layer: outputs and parameters to the bit."""
    build, shape = NETWORKS[network]
    shape = shape if batch == "whole" else (shape[0] + 3, *shape[1:])
    results = []
    for backend in ("reference", "cpu"):
        rng = np.random.default_rng(7)
        model = nn.Sequential(*build()).to(dtype)
        for parameter in model.parameters():  # few and small: a gradient's sums must stay below 2^24
            values = rng.integers(-1, 2, parameter.shape)
            parameter.data[...] = values * (rng.random(parameter.shape) < min(1.0, 12 / parameter.data[0].size))
        x, y = rng.integers(-2, 3, shape).astype(dtype), rng.integers(0, 2, shape[0])
        output = shape[0], model[-1].out_features
        loss = random_networks.Given((rng.integers(-1, 2, output) * (rng.random(output) < 0.2)).astype(dtype))
        with fastcnn.use_backend(backend), fastcnn.use_algorithm("direct"):
            trainer = fastcnn.Trainer(model, loss, fastcnn.optim.SGD(model.parameters(), lr=2.0**-6))
            predicted = trainer.predict(x)
            trainer.step(x, y)
            logits = trainer.logits.copy()
            results.append([predicted, logits, *(p.grad.copy() for p in model.parameters()), *model.state_dict().values()])
    assert max(np.abs(a).max() for a in results[0]) < exact.EXACT
    for actual, expected in zip(*reversed(results), strict=True):
        np.testing.assert_array_equal(actual, expected)
    assert any(a.any() for a in results[0][2:])


@every_isa
def test_random_networks_of_whole_numbers_by_their_plans(isa):
    failures, compared = random_networks.compare(random_networks.drawn(12, 1), (np.float32, np.float64))
    assert not failures, "\n".join(failures)
    assert compared >= 16


# --- float data -------------------------------------------------------------------------------------------------------------------


@every_isa
@pytest.mark.parametrize("sign", ["both", "positive"])
def test_float_data_stays_within_the_error_gates(sign, isa):
    gated = exact.gated([*exact.listed()][5::60], sign == "positive")
    assert gated["direct"] >= 150 and gated["winograd"] >= 10
    assert gates.GATES == {"direct": (8, 1e-6), "winograd": (200, 8e-6)}
