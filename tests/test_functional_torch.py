"""Every functional op, forward and backward, against PyTorch's autograd: options, memory layouts, special values."""

import warnings

import numpy as np
import pytest
from functional_cases import CASES, Case

import fastcnn.functional as F
from fastcnn.functional._check import channels_last

torch = pytest.importorskip("torch")
torch.set_num_threads(1)  # tiny problems: its worker threads would only wait for each other

EVERY_CASE = pytest.mark.parametrize("case", CASES, ids=str)


def torch_results(case, arrays, others, grad_output=None):
    """(output, its gradient as numpy, gradients of arrays) by PyTorch."""
    tensors = {name: torch.from_numpy(a.copy()).requires_grad_() for name, a in arrays.items()}
    rest = {name: torch.from_numpy(np.array(v)) if isinstance(v, np.ndarray) else v for name, v in others.items()}
    if case.op == "adaptive_avg_pool2d" and isinstance(rest["output_size"], int):
        rest["output_size"] = (rest["output_size"],) * 2
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        output = getattr(torch.nn.functional, case.op)(**tensors, **rest)
    if grad_output is None:
        grad_output = np.random.default_rng(1).standard_normal(output.shape).astype(arrays["input"].dtype)
    output.backward(torch.from_numpy(np.array(grad_output)))
    return output.detach().numpy(), grad_output, [t.grad.numpy() for t in tensors.values()], rest


def assert_close(actual, expected, factor=64):
    """Within factor * eps of the largest magnitude: all sums here have few terms of that size."""
    assert actual.shape == expected.shape
    assert actual.dtype == expected.dtype
    scale = np.abs(expected[np.isfinite(expected)]).max(initial=1)
    np.testing.assert_allclose(actual, expected, rtol=0, atol=factor * np.finfo(expected.dtype).eps * scale)


def check(case, arrays, others):
    before = {name: a.copy() for name, a in (arrays | others).items() if isinstance(a, np.ndarray)}
    native = {name: np.array(a, a.dtype.newbyteorder("=")) for name, a in arrays.items()}
    expected, grad_output, expected_grads, torch_others = torch_results(case, native, others)
    output = case.forward(arrays, others)
    assert_close(np.asarray(output), expected)
    grads = case.backward(grad_output, arrays, others)
    for grad, expected_grad in zip(grads, expected_grads, strict=False):  # without a bias, its gradient comes all the same
        assert_close(grad, expected_grad)
    for name, value in before.items():
        if name.startswith("running"):
            assert_close(others[name], torch_others[name].numpy())
        else:
            np.testing.assert_array_equal((arrays | others)[name], value)
    return output, grads


def assert_format(result, input):
    if isinstance(result, np.ndarray) and result.ndim == 4 and channels_last(input):
        assert result.transpose(0, 2, 3, 1).flags.c_contiguous
    elif isinstance(result, np.ndarray):
        assert result.flags.c_contiguous


@EVERY_CASE
def test_agrees_with_torch(case, backend, dtype):
    arrays, others = case.make(dtype)
    output, grads = check(case, arrays, others)
    assert output.dtype == dtype
    for result in (output, *grads):
        assert_format(result, arrays["input"])
        if isinstance(result, np.ndarray):
            assert result.flags.writeable
            assert not any(np.shares_memory(result, a) for a in arrays.values())


def as_channels_last(a):
    return np.ascontiguousarray(a.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2) if a.ndim == 4 else a


def strided(a):
    wide = np.full([2 * n for n in a.shape], 99, a.dtype)
    wide[tuple(slice(None, None, 2) for _ in a.shape)] = a
    return wide[tuple(slice(None, None, 2) for _ in a.shape)]


def negative(a):
    flip = tuple(slice(None, None, -1) for _ in a.shape)
    return a[flip].copy()[flip]


def misaligned(a):
    raw = np.empty(a.nbytes + 1, np.uint8)[1:].view(a.dtype).reshape(a.shape)
    raw[...] = a
    return raw


def read_only(a):
    a.setflags(write=False)
    return a


def broadcast_last(a):
    return np.broadcast_to(a[..., :1], a.shape)


LAYOUTS = {
    "channels_last": as_channels_last,
    "strided": strided,
    "negative": negative,
    "broadcast": lambda a: np.broadcast_to(a[:1], a.shape) if a.ndim else a,
    "fortran": np.asfortranarray,
    "byteswapped": lambda a: a.astype(a.dtype.newbyteorder()),
    "misaligned": misaligned,
    "readonly": read_only,
    "cropped_channels_last": lambda a: as_channels_last(np.pad(a, 1))[1:-1, 1:-1, 1:-1, 1:-1] if a.ndim == 4 else a,
}
# The first case of each op, and of each number of axes of its input: layouts matter per implementation, not per option.
REPRESENTATIVES = list({(case.op, len(case.shapes["input"])): case for case in reversed(CASES) if case.shapes["input"] and case.shapes["input"][0]}.values())


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("case", REPRESENTATIVES, ids=str)
def test_reads_every_layout(case, layout, backend, dtype):
    arrays, others = case.make(dtype)
    move = LAYOUTS[layout]
    if layout == "broadcast" and case.op == "batch_norm":  # equal images would leave no variance, and divide rounding errors by it
        move = broadcast_last
    moved = {name: move(a) for name, a in arrays.items()}
    for name, value in others.items():
        if isinstance(value, np.ndarray) and value.dtype == dtype and not (name.startswith("running") and layout in ("broadcast", "readonly")):
            others[name] = LAYOUTS[layout](value)
    output, grads = check(case, moved, {name: np.array(v, v.dtype.newbyteorder("=")) if isinstance(v, np.ndarray) else v for name, v in others.items()})
    for result in (output, *grads):
        assert not isinstance(result, np.ndarray) or result.dtype.isnative
    for result in (output, grads[0]):
        assert_format(result, arrays["input"] if case.op == "linear" else moved["input"])  # linear's input is no image


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("op", ["conv2d", "max_pool2d", "batch_norm", "relu", "cross_entropy"])
def test_backward_reads_every_layout_of_grad_output(op, layout, backend, dtype):
    case = next(case for case in REPRESENTATIVES if case.op == op)
    arrays, others = case.make(dtype)
    if op == "cross_entropy":
        others["reduction"] = "none"
    _, grad_output, _, _ = torch_results(case, arrays, others)
    grad_output = LAYOUTS[layout](grad_output)
    expected = torch_results(case, arrays, others, np.array(grad_output, dtype))[2]
    for grad, wanted in zip(case.backward(grad_output, arrays, others), expected, strict=False):
        assert_close(grad, wanted)


SPECIAL = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, 1e-30, -1e-30, 1.0, -1.0, 30.0, -30.0, 200.0, -200.0, 1e30, -1e30])
ELEMENTWISE = ["relu", "leaky_relu", "elu", "selu", "gelu", "silu", "softplus", "sigmoid", "tanh"]


@pytest.mark.parametrize("op", ELEMENTWISE)
def test_special_values_agree_with_torch(op, backend, dtype):
    case = Case(op, {"input": SPECIAL.shape})
    x = SPECIAL.astype(dtype)
    if op == "gelu":
        x[1] = 2.0  # PyTorch's own results for +inf differ between its vectorised float32 (NaN) and its float64 code (inf)
    expected, grad_output, (expected_grad,), _ = torch_results(case, {"input": x}, {}, np.ones(x.shape, dtype))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        output, (grad,) = case.forward({"input": x}, {}), case.backward(grad_output, {"input": x}, {})
    np.testing.assert_allclose(output, expected, rtol=1e-5 if dtype == np.float32 else 1e-12, atol=1e-6 if dtype == np.float32 else 1e-14)
    np.testing.assert_allclose(grad, expected_grad, rtol=1e-5 if dtype == np.float32 else 1e-12, atol=1e-6 if dtype == np.float32 else 1e-14)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("op", ["softmax", "log_softmax"])
def test_softmax_special_values_agree_with_torch(op, value, backend, dtype):
    x = np.array([[0.5, value, 1.0], [value, value, value], [1.0, 2.0, 3.0]], dtype)
    expected = getattr(torch.nn.functional, op)(torch.from_numpy(x), dim=1).numpy()
    np.testing.assert_allclose(getattr(F, op)(x, dim=1), expected, rtol=1e-6)


@pytest.mark.parametrize(
    "options",
    [{"kernel_size": 2}, {"kernel_size": 3, "stride": 1, "padding": 1}, {"kernel_size": 2, "padding": 1, "dilation": 2, "stride": 1}],
    ids=str,
)
def test_max_pool2d_nan_and_inf_agree_with_torch(options, backend, dtype, rng):
    x = rng.integers(-2, 3, (3, 4, 8, 8)).astype(dtype)
    x[0, 0, 2, 3] = x[0, 0, 3, 3] = x[1, 2, 0, 0] = np.nan
    x[2, 1] = -np.inf
    x[2, 2, 4, 4] = np.inf
    output, indices = F.max_pool2d(x, **options, return_indices=True)
    expected, expected_indices = torch.nn.functional.max_pool2d(torch.from_numpy(x), **options, return_indices=True)
    np.testing.assert_array_equal(output, expected.numpy())
    np.testing.assert_array_equal(indices, expected_indices.numpy())
    assert indices.dtype == np.int64


def test_adaptive_max_pool2d_indices_agree_with_torch(backend, dtype, rng):
    x = rng.integers(-1, 2, (2, 3, 7, 5)).astype(dtype)
    x[0, 0, 3, 3] = np.nan
    output, indices = F.adaptive_max_pool2d(x, (3, 2), return_indices=True)
    expected, expected_indices = torch.nn.functional.adaptive_max_pool2d(torch.from_numpy(x), (3, 2), return_indices=True)
    np.testing.assert_array_equal(output, expected.numpy())
    np.testing.assert_array_equal(indices, expected_indices.numpy())


@pytest.mark.parametrize("op", ["conv2d", "avg_pool2d", "adaptive_avg_pool2d", "interpolate", "linear"])
def test_nan_reaches_only_what_it_touches(op, backend, dtype, rng):
    x = rng.standard_normal((2, 3, 6, 6)).astype(dtype)
    x[0, 1, 2, 2] = np.nan
    x[1, 0, 5, 5] = np.inf
    w = rng.standard_normal((4, 6) if op == "linear" else (4, 3, 3, 3)).astype(dtype)
    arguments = {
        "conv2d": (w,), "linear": (w,), "avg_pool2d": (2,), "adaptive_avg_pool2d": ((3, 3),), "interpolate": ((9, 4), None, "bilinear")
    }[op]  # fmt: skip
    output = getattr(F, op)(x, *arguments)
    expected = getattr(torch.nn.functional, op)(*(torch.from_numpy(a) if isinstance(a, np.ndarray) else a for a in (x, *arguments))).numpy()
    np.testing.assert_array_equal(np.isfinite(output), np.isfinite(expected))


@pytest.mark.parametrize("shape", [(0, 3, 4, 4), (0, 3)])
def test_batch_norm_of_an_empty_batch_leaves_the_running_statistics(shape, backend, dtype):
    mean, var = np.full(3, 0.5, dtype), np.full(3, 2.0, dtype)
    output = F.batch_norm(np.empty(shape, dtype), mean, var, training=True)
    grads = F.batch_norm_backward(output, output, mean, var, training=True)
    assert output.shape == shape and grads[0].shape == shape
    assert (mean == 0.5).all() and (var == 2).all() and not grads[1].any() and not grads[2].any()


def test_batch_norm_backward_takes_the_forwards_statistics(backend, dtype, rng):
    x, g, w = (rng.standard_normal(s).astype(dtype) for s in ((4, 3, 5, 5), (4, 3, 5, 5), 3))
    _, mean, var = F.batch_norm(x, None, None, w, training=True, return_stats=True)
    given = F.batch_norm_backward(g, x, weight=w, training=True, mean=mean, var=var)
    for a, b in zip(given, F.batch_norm_backward(g, x, weight=w, training=True), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("op", ["sigmoid", "tanh", "softmax", "log_softmax"])
def test_backward_takes_the_forwards_output(op, backend, dtype, rng):
    x, g = (rng.standard_normal((4, 5)).astype(dtype) for _ in range(2))
    options = {"dim": 1} if "softmax" in op else {}
    backward = getattr(F, op + "_backward")
    np.testing.assert_array_equal(backward(g, x, output=getattr(F, op)(x, **options), **options), backward(g, x, **options))


@pytest.mark.parametrize("op,options", [("max_pool2d", {"kernel_size": 2}), ("adaptive_max_pool2d", {"output_size": 3})])
def test_pool_backward_takes_the_forwards_indices(op, options, backend, dtype, rng):
    x = rng.integers(-1, 2, (2, 3, 6, 6)).astype(dtype)
    output, indices = getattr(F, op)(x, **options, return_indices=True)
    backward = getattr(F, op + "_backward")
    np.testing.assert_array_equal(backward(output, x, **options, indices=indices), backward(output, x, **options))


def test_max_pool2d_backward_ties(backend, dtype):
    x = np.array([[[1, 1, 0, 0], [1, 0, 0, 0]]], dtype)
    g = np.array([[[6, 4]]], dtype)
    assert F.max_pool2d_backward(g, x, 2)[0].tolist() == [[6, 0, 4, 0], [0, 0, 0, 0]]
    assert F.max_pool2d_backward(g, x, 2, ties="all")[0].tolist() == [[6, 6, 4, 4], [6, 0, 4, 4]]
    assert F.max_pool2d_backward(g, x, 2, ties="split")[0].tolist() == [[2, 2, 1, 1], [2, 0, 1, 1]]


@pytest.mark.parametrize("options", [{"kernel_size": 3, "stride": 2, "padding": 1, "ceil_mode": True}, {"kernel_size": 2, "stride": 3, "dilation": 2}], ids=str)
@pytest.mark.parametrize("ties", ["all", "split"])
def test_max_pool2d_backward_without_ties_does_not_depend_on_the_rule(ties, options, backend, dtype, rng):
    x = rng.standard_normal((2, 3, 8, 7)).astype(dtype)
    g = rng.standard_normal(F.max_pool2d(x, **options).shape).astype(dtype)
    np.testing.assert_allclose(F.max_pool2d_backward(g, x, **options, ties=ties), F.max_pool2d_backward(g, x, **options), atol=1e-6)


def test_conv2d_backward_output_mask(backend, dtype, rng):
    x, w = rng.standard_normal((2, 3, 5, 5)).astype(dtype), rng.standard_normal((4, 3, 3, 3)).astype(dtype)
    g = F.conv2d(x, w)
    whole = F.conv2d_backward(g, x, weight=w)
    for keep in range(3):
        partial = F.conv2d_backward(g, x, w, output_mask=tuple(i == keep for i in range(3)))
        assert [grad is None for grad in partial] == [i != keep for i in range(3)]
        np.testing.assert_array_equal(partial[keep], whole[keep])


def test_dropout_scales_what_it_keeps(backend, dtype):
    x = np.ones((200, 50), dtype)
    output, mask = F.dropout(x, 0.25, rng=3, return_mask=True)
    assert output.dtype == dtype
    np.testing.assert_array_equal(output, np.where(mask, dtype.type(1 / 0.75), 0))
    assert abs(mask.mean() - 0.75) < 0.02
    np.testing.assert_array_equal(output, F.dropout(x, 0.25, mask=mask))
    np.testing.assert_array_equal(output, F.dropout(x, 0.25, rng=3))
    np.testing.assert_array_equal(F.dropout_backward(x, x, 0.25, mask=mask), output)


@pytest.mark.parametrize("p,training", [(0.0, True), (0.7, False)])
def test_dropout_without_effect_is_a_copy(p, training, backend, dtype, rng):
    x = rng.standard_normal((2, 3, 4, 4)).astype(dtype)
    for result in (F.dropout(x, p, training), F.dropout_backward(x, x, p, training)):
        np.testing.assert_array_equal(result, x)
        assert not np.shares_memory(result, x)
    assert not F.dropout(x, 1.0).any()


def test_loss_of_all_ignored_rows_is_nan_as_in_torch(backend, dtype, rng):
    x, target = rng.standard_normal((3, 4)).astype(dtype), np.full(3, -100)
    assert np.isnan(F.cross_entropy(x, target)) and F.cross_entropy(x, target, reduction="sum") == 0
    assert not F.cross_entropy_backward(1.0, x, target).any()


def test_binary_cross_entropy_is_cut_off_at_certainty(backend, dtype):
    x, t = np.array([0, 1, 0, 1], dtype), np.array([0, 1, 1, 0], dtype)
    assert F.binary_cross_entropy(x, t, reduction="none").tolist() == [0, 0, 100, 100]
    expected = torch_results(Case("binary_cross_entropy", {"input": (4,)}), {"input": x}, {"target": t})
    grad = F.binary_cross_entropy_backward(np.float64(expected[1]), x, t)
    np.testing.assert_allclose(grad, expected[2][0], rtol=1e-6)  # PyTorch's 1e-12 in the denominator is a float32 constant


def test_losses_are_scalars_of_the_input_dtype(backend, dtype, rng):
    x, target = rng.standard_normal((3, 4)).astype(dtype), np.array([0, 1, 2])
    for loss in (F.cross_entropy(x, target), F.nll_loss(x, target, reduction="sum"), F.mse_loss(x, x), F.cross_entropy(x[0], 2)):
        assert isinstance(loss, dtype.type) and np.ndim(loss) == 0


@pytest.mark.parametrize("integer", [np.int64, np.int32, np.uint8])
def test_numpy_integers_are_options_and_class_numbers(integer, backend, rng):
    x, w = rng.standard_normal((2, 4, 6, 6)), rng.standard_normal((4, 2, 3, 3))
    options = {"stride": integer(2), "padding": [integer(1), integer(1)], "groups": integer(2), "dilation": np.array([1, 1], integer)}
    np.testing.assert_array_equal(F.conv2d(x, w, **options), F.conv2d(x, w, stride=2, padding=1, groups=2))
    logits = rng.standard_normal((3, 4))
    assert F.cross_entropy(logits, np.array([0, 1, 3], integer)) == F.cross_entropy(logits, np.array([0, 1, 3]))


def test_softmax_without_dim_warns_and_follows_torch(backend, rng):
    x = rng.standard_normal((2, 3, 4))
    with pytest.warns(UserWarning, match="dim was not given"):
        np.testing.assert_array_equal(F.softmax(x), F.softmax(x, dim=0))
