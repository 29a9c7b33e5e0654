"""What every functional op says to bad input: ValueError (ShapeError) or TypeError naming the op, the argument and both numbers."""

import re
from math import nan

import numpy as np
import pytest

import fastcnn.functional as F
from fastcnn.backend import use_backend
from fastcnn.shapes import ShapeError


@pytest.fixture(autouse=True)
def reference():
    """Validation comes before the backend, so that one is enough."""
    with use_backend("reference"):
        yield


def floats(*shape, dtype=np.float64):
    return np.full(shape, 0.5, dtype)


X, W, B = floats(2, 4, 6, 6), floats(6, 4, 3, 3), floats(6)
LABELS = np.array([0, 1])

# A good call of every op; the tests below spoil one argument at a time.
GOOD = {
    "conv1d": {"input": floats(2, 4, 6), "weight": floats(6, 4, 3), "bias": B},
    "conv2d": {"input": X, "weight": W, "bias": B},
    "conv_transpose2d": {"input": X, "weight": floats(4, 5, 3, 3), "bias": floats(5)},
    "linear": {"input": floats(2, 4), "weight": floats(6, 4), "bias": B},
    "max_pool2d": {"input": X, "kernel_size": 2},
    "avg_pool2d": {"input": X, "kernel_size": 2},
    "adaptive_avg_pool2d": {"input": X, "output_size": 2},
    "adaptive_max_pool2d": {"input": X, "output_size": 2},
    "unfold": {"input": X, "kernel_size": 3},
    "fold": {"input": floats(2, 8, 9), "output_size": 4, "kernel_size": 2},
    "batch_norm": {"input": X, "running_mean": floats(4), "running_var": floats(4), "weight": floats(4), "bias": floats(4)},
    "layer_norm": {"input": floats(2, 6), "normalized_shape": (6,), "weight": B, "bias": B},
    "group_norm": {"input": X, "num_groups": 2, "weight": floats(4), "bias": floats(4)},
    **{op: {"input": floats(2, 3)} for op in ("relu", "leaky_relu", "elu", "selu", "gelu", "silu", "softplus", "sigmoid", "tanh")},
    "prelu": {"input": X, "weight": floats(4)},
    "softmax": {"input": floats(2, 3), "dim": 1},
    "log_softmax": {"input": floats(2, 3), "dim": 1},
    "dropout": {"input": floats(2, 3)},
    "cross_entropy": {"input": floats(2, 3), "target": LABELS, "weight": floats(3)},
    "nll_loss": {"input": floats(2, 3), "target": LABELS, "weight": floats(3)},
    "mse_loss": {"input": floats(2, 3), "target": floats(2, 3)},
    "binary_cross_entropy": {"input": floats(2, 3), "target": floats(2, 3), "weight": floats(3)},
    "binary_cross_entropy_with_logits": {"input": floats(2, 3), "target": floats(2, 3), "weight": floats(3), "pos_weight": floats(3)},
    "pad": {"input": X, "pad": (1, 1)},
    "interpolate": {"input": X, "size": 3},
}
OPS = list(GOOD)


def forward(op, **changes):
    return getattr(F, op)(**GOOD[op] | changes)


def backward(op, **changes):
    """The backward of the good call, with some arguments changed."""
    arguments = GOOD[op] | changes
    if op == "dropout":
        arguments = {"mask": np.ones(GOOD[op]["input"].shape, bool)} | arguments
    if "grad_output" not in arguments:
        arguments["grad_output"] = 1.0 if op.endswith("loss") or "entropy" in op else np.asarray(getattr(F, op)(**GOOD[op]))
    return getattr(F, op + "_backward")(**arguments)


BOTH = pytest.mark.parametrize("call", [forward, backward], ids=["forward", "backward"])


def name_of(call, op):
    return op if call is forward else op + "_backward"


def raises(error, message):
    return pytest.raises(error, match=re.escape(message))


def test_every_op_is_covered():
    assert set(OPS) == {name for name in F.__all__ if not name.endswith("_backward")}


@BOTH
@pytest.mark.parametrize("op", OPS)
def test_the_good_call_is_good(op, call):
    call(op)


# --- arrays -----------------------------------------------------------------------------------------------------------------------

ARRAYS = [(op, name) for op, arguments in GOOD.items() for name, value in arguments.items() if isinstance(value, np.ndarray) and value.dtype.kind == "f"]
UNREAD = {(op, "bias") for op in OPS} | {("batch_norm", "running_mean"), ("batch_norm", "running_var")}  # by the backward of a linear map


def readers(op, name):
    """The calls that look at an array: a backward accepts some arguments of its forward that it has no use for."""
    return [forward] if (op, name) in UNREAD else [forward, backward]


@pytest.mark.parametrize("op,name", ARRAYS)
def test_what_is_no_array_is_refused(op, name):
    for call in readers(op, name):
        with raises(TypeError, f"{name_of(call, op)}: {name} must be a numpy.ndarray, got list"):
            call(op, **{name: GOOD[op][name].tolist()})
        with raises(TypeError, f"{name_of(call, op)}: {name} is a masked array"):
            call(op, **{name: np.ma.masked_array(GOOD[op][name])})


@pytest.mark.parametrize("dtype", [np.float16, np.int64, np.complex64, np.bool_, object])
@pytest.mark.parametrize("op,name", ARRAYS)
def test_other_dtypes_are_refused(op, name, dtype):
    if op == "cross_entropy" and name == "target":
        return
    for call in readers(op, name):
        with raises(TypeError, f"{name_of(call, op)}: {name} must be float32 or float64, got {np.dtype(dtype)}"):
            call(op, **{name: GOOD[op][name].astype(dtype)})


@pytest.mark.parametrize("op,name", [pair for pair in ARRAYS if pair[1] != "input"])
def test_mixed_dtypes_are_refused(op, name):
    for call in readers(op, name):
        with raises(TypeError, f"{name_of(call, op)}: {name} is float32 but input is float64; nothing is cast"):
            call(op, **{name: GOOD[op][name].astype(np.float32)})


@pytest.mark.parametrize("op", OPS)
def test_grad_output_must_match(op):
    scalar = op.endswith("loss") or "entropy" in op
    options = {"reduction": "none"} if scalar else {}
    output = np.asarray(forward(op, **options))
    with raises(TypeError, f"{op}_backward: grad_output is float32 but input is float64"):
        backward(op, grad_output=output.astype(np.float32), **options)
    wrong = output[..., :-1]
    shown, expected = ("x".join(map(str, shape)) for shape in (wrong.shape, output.shape))
    with raises(ShapeError, f"{op}_backward: grad_output has shape {shown} but ") as caught:
        backward(op, grad_output=wrong, **options)
    assert str(caught.value).endswith(f"expected {expected}")


@pytest.mark.parametrize("op", [op for op in OPS if op.endswith("loss") or "entropy" in op])
def test_grad_output_of_a_reduced_loss_is_a_number(op):
    with raises(ShapeError, f"{op}_backward: grad_output must be a number for reduction 'mean', got 2"):
        backward(op, grad_output=floats(2))
    with raises(TypeError, f"{op}_backward: grad_output must be a number for reduction 'mean', got str"):
        backward(op, grad_output="1")


IMAGE_OPS = ["conv2d", "conv_transpose2d", "max_pool2d", "avg_pool2d", "adaptive_avg_pool2d", "adaptive_max_pool2d", "unfold"]


@BOTH
@pytest.mark.parametrize("op", IMAGE_OPS)
def test_images_have_three_or_four_axes_and_only_the_batch_may_be_empty(op, call):
    for shape in ((6, 6), (6,), (), (1, 2, 4, 6, 6)):
        text = "x".join(map(str, shape)) or "scalar"
        with raises(ShapeError, f"{name_of(call, op)}: input must be 4-D (N, C, H, W) or 3-D (C, H, W), got {len(shape)}-D {text}"):
            call(op, input=floats(*shape))
    with raises(ShapeError, f"{name_of(call, op)}: input has shape 2x4x0x6; only the batch size may be 0"):
        call(op, input=floats(2, 4, 0, 6))


# --- options ----------------------------------------------------------------------------------------------------------------------

PAIR, INT, ONE = "an int or a pair of ints", "an int", "an int or a tuple of one int"
INTEGERS = [  # op, option, minimum, what it must be
    *((op, option, minimum, PAIR) for op in ("conv2d", "conv_transpose2d") for option, minimum in (("stride", 1), ("padding", 0), ("dilation", 1))),
    *(("conv1d", option, minimum, ONE) for option, minimum in (("stride", 1), ("padding", 0), ("dilation", 1))),
    ("conv_transpose2d", "output_padding", 0, PAIR),
    *((op, "groups", 1, INT) for op in ("conv1d", "conv2d", "conv_transpose2d")),
    *((op, option, minimum, PAIR) for op in ("max_pool2d", "avg_pool2d") for option, minimum in (("kernel_size", 1), ("stride", 1), ("padding", 0))),
    ("max_pool2d", "dilation", 1, PAIR),
    *((op, "output_size", 1, PAIR) for op in ("adaptive_avg_pool2d", "adaptive_max_pool2d", "fold")),
    *((op, option, minimum, PAIR) for op in ("unfold", "fold") for option, minimum in (("kernel_size", 1), ("stride", 1), ("padding", 0), ("dilation", 1))),
    ("group_norm", "num_groups", 1, INT),
    ("interpolate", "size", 1, PAIR),
]


@BOTH
@pytest.mark.parametrize("op,option,minimum,expected", INTEGERS)
def test_integer_options(op, option, minimum, expected, call):
    prefix = f"{name_of(call, op)}: {option} must be "
    for value in (1.5, 2.0, nan, True, np.float64(1), np.bool_(True), 1j, object):
        with raises(TypeError, f"{prefix}{expected}, got {type(value).__name__}"):
            call(op, **{option: value})
    for value in (minimum - 1, -(2**40), np.int64(-5)):
        with raises(ValueError, f"{prefix}at least {minimum}, got {value!r}"):
            call(op, **{option: value})
    for value in (2**31, 2**64):
        with raises(ValueError, f"{prefix}at most 2147483647, got {value}"):
            call(op, **{option: value})
    if not (op in ("conv1d", "conv2d") and option == "padding"):
        with raises(TypeError, f"{prefix}{expected}, got str '1'"):
            call(op, **{option: "1"})
    if expected == INT:
        with raises(TypeError, f"{prefix}an int, got tuple (1, 1)"):
            call(op, **{option: (1, 1)})
        return
    for value in ((1, 1, 1), [], np.array([1, 1, 1])):
        with raises(ValueError, f"{prefix}{expected}, got {len(value)} values {value!r}"):
            call(op, **{option: value})
    inside = (1.5,) if expected == ONE else (1, 1.5)
    with raises(TypeError, f"{prefix}{expected}, got float {inside!r}"):
        call(op, **{option: inside})
    small = (minimum - 1,) if expected == ONE else (1, minimum - 1)
    with raises(ValueError, f"{prefix}at least {minimum}, got {small!r}"):
        call(op, **{option: small})


FLAGS = [
    ("max_pool2d", "ceil_mode"), ("avg_pool2d", "ceil_mode"), ("avg_pool2d", "count_include_pad"), ("batch_norm", "training"), ("dropout", "training"),
]  # fmt: skip


@BOTH
@pytest.mark.parametrize("op,option", FLAGS)
def test_flags_are_bools(op, option, call):
    for value in (1, 0, None, "yes", nan):
        with raises(TypeError, f"{name_of(call, op)}: {option} must be a bool, got {type(value).__name__} {value!r}"):
            call(op, **{option: value})


@pytest.mark.parametrize("op", ["max_pool2d", "adaptive_max_pool2d"])
def test_return_indices_is_a_bool(op):
    with raises(TypeError, f"{op}: return_indices must be a bool, got int 1"):
        forward(op, return_indices=1)


NUMBERS = [
    ("batch_norm", "eps"), ("layer_norm", "eps"), ("group_norm", "eps"), ("leaky_relu", "negative_slope"), ("elu", "alpha"), ("softplus", "beta"),
    ("softplus", "threshold"), ("dropout", "p"), ("cross_entropy", "label_smoothing"),
]  # fmt: skip


@BOTH
@pytest.mark.parametrize("op,option", NUMBERS)
def test_numbers_are_numbers(op, option, call):
    for value in ("1", True, None, (1.0,), floats(1)):
        with raises(TypeError, f"{name_of(call, op)}: {option} must be a number, got {type(value).__name__}"):
            call(op, **{option: value})


@BOTH
@pytest.mark.parametrize(
    "op,option,values,bounds",
    [
        ("batch_norm", "eps", (-1e-5, nan), "at least 0"),
        ("layer_norm", "eps", (-1.0, nan), "at least 0"),
        ("group_norm", "eps", (-1.0, nan), "at least 0"),
        ("dropout", "p", (-0.1, 1.5, nan), "between 0 and 1"),
        ("cross_entropy", "label_smoothing", (-0.1, 1.1, nan), "between 0 and 1"),
    ],
)
def test_numbers_have_bounds(op, option, values, bounds, call):
    for value in values:
        with raises(ValueError, f"{name_of(call, op)}: {option} must be {bounds}, got {value!r}"):
            call(op, **{option: value})


@BOTH
@pytest.mark.parametrize(
    "op,option,choices",
    [
        ("gelu", "approximate", "'none', 'tanh'"),
        *((op, "reduction", "'none', 'mean', 'sum'") for op in OPS if op.endswith("loss") or "entropy" in op),
        ("pad", "mode", "'constant', 'reflect', 'replicate', 'circular'"),
        ("interpolate", "mode", "'nearest', 'bilinear'"),
    ],
)
def test_words_are_known(op, option, choices, call):
    with raises(ValueError, f"{name_of(call, op)}: {option} must be one of {choices}, got 'cubic'"):
        call(op, **{option: "cubic"})
    with raises(TypeError, f"{name_of(call, op)}: {option} must be one of {choices}, got 3"):
        call(op, **{option: 3})


MOST = 2**31 - 1


@BOTH
@pytest.mark.parametrize(
    "op,changes,message",
    [
        ("conv1d", {"padding": MOST, "input": floats(2**20, 1, 1), "weight": floats(1024, 1, 1), "bias": None}, "output"),
        ("conv2d", {"padding": MOST}, "the padded input 2x4x4294967300x4294967300 of 8-byte elements needs"),
        ("conv_transpose2d", {"stride": MOST}, "2x5x10737418238x10737418238 of 8-byte elements needs"),
        ("adaptive_avg_pool2d", {"output_size": MOST}, "output 2x4x2147483647x2147483647 of 8-byte elements needs"),
        ("adaptive_max_pool2d", {"output_size": MOST}, "output 2x4x2147483647x2147483647 of 8-byte elements needs"),
        ("unfold", {"padding": MOST // 2}, "of 8-byte elements needs"),
        ("pad", {"pad": (MOST,) * 8}, "of 8-byte elements needs"),
        ("interpolate", {"size": MOST}, "output 2x4x2147483647x2147483647 of 8-byte elements needs"),
        ("interpolate", {"size": None, "scale_factor": 2e9}, "output 2x4x12000000000x12000000000 of 8-byte elements needs"),
    ],
    ids=lambda value: value if isinstance(value, str) and len(value) < 20 else None,
)
def test_overflowing_shapes_raise_before_anything_is_allocated(op, changes, message, call):
    with pytest.raises(ShapeError, match=f"{name_of(call, op)}: .*{re.escape(message)}.* bytes, more than 4611686018427387904"):
        call(op, **changes)


# --- what must fit together ---------------------------------------------------------------------------------------------------------

TOGETHER = [
    # conv2d
    ("conv2d", {"weight": floats(6, 4, 3)}, "weight must be 4-D (O, C/groups, KH, KW), got 3-D 6x4x3"),
    ("conv2d", {"weight": floats(6, 3, 3, 3)}, "input has 4 channels but weight 6x3x3x3 with groups 1 takes 3 (1 groups of 3)"),
    ("conv2d", {"groups": 2}, "input has 4 channels but weight 6x4x3x3 with groups 2 takes 8 (2 groups of 4)"),
    ("conv2d", {"weight": floats(6, 1, 3, 3), "groups": 4}, "groups 4 does not divide the 6 filters of weight 6x1x3x3"),
    ("conv2d", {"weight": floats(0, 4, 3, 3)}, "weight has shape 0x4x3x3; no axis may be 0"),
    ("conv2d", {"weight": floats(6, 4, 0, 3)}, "weight has shape 6x4x0x3; no axis may be 0"),
    ("conv2d", {"weight": floats(6, 4, 5, 5), "dilation": 2, "padding": 1},
     "kernel 5x5 (dilation 2x2) spans 9x9 but the padded input is 8x8 (H, W = 6x6, padding 1x1)"),
    ("conv2d", {"padding": "same", "stride": 2}, "padding 'same' needs stride 1x1, got stride 2x2"),
    ("conv2d", {"padding": "full"}, "padding must be 'same', 'valid', an int or a pair of ints, got 'full'"),
    # conv1d
    ("conv1d", {"input": floats(6)}, "input must be 3-D (N, C, L) or 2-D (C, L), got 1-D 6"),
    ("conv1d", {"input": floats(2, 4, 0)}, "input has shape 2x4x1x0; only the batch size may be 0"),
    ("conv1d", {"weight": floats(6, 4)}, "weight must be 3-D (O, C/groups, K), got 2-D 6x4"),
    ("conv1d", {"weight": floats(6, 4, 7)}, "kernel 1x7 (dilation 1x1) spans 1x7 but the padded input is 1x6"),
    ("conv1d", {"weight": floats(6, 3, 3)}, "input has 4 channels but weight 6x3x3 with groups 1 takes 3"),
    # conv_transpose2d
    ("conv_transpose2d", {"weight": floats(5, 4, 3, 3)}, "input has 4 channels but weight 5x4x3x3 takes 5"),
    ("conv_transpose2d", {"weight": floats(4, 5, 3)}, "weight must be 4-D (C, O/groups, KH, KW), got 3-D 4x5x3"),
    ("conv_transpose2d", {"groups": 3}, "groups 3 does not divide the 4 channels of input"),
    ("conv_transpose2d", {"output_padding": 1}, "output_padding 1x1 must be smaller than stride 1x1 or dilation 1x1 on each axis"),
    ("conv_transpose2d", {"padding": 4}, "padding 4x4 on both sides leaves 0x0 of the 8x8 output (input 6x6, kernel 3x3, stride 1x1"),
    # linear
    ("linear", {"weight": floats(6)}, "weight must be 2-D (out_features, in_features), got 1-D 6"),
    ("linear", {"weight": floats(6, 5)}, "input 2x4 has 4 features but weight 6x5 takes 5"),
    ("linear", {"input": floats()}, "input must have at least 1 axis (*, in_features), got a scalar"),
    ("linear", {"weight": floats(0, 4)}, "weight has shape 0x4; no axis may be 0"),
    # pooling
    *((op, {"kernel_size": 7}, "window 7x7 (dilation 1x1) spans 7x7 but the padded input is 6x6 (H, W = 6x6, padding 0x0)")
      for op in ("max_pool2d", "avg_pool2d")),
    *((op, {"padding": 2}, "padding 2x2 is more than half of the window 2x2 (at most 1x1)") for op in ("max_pool2d", "avg_pool2d")),
    ("max_pool2d", {"kernel_size": 3, "dilation": 3}, "window 3x3 (dilation 3x3) spans 7x7 but the padded input is 6x6"),
    ("max_pool2d", {"input": floats(1, 1, 1, 3), "dilation": 2, "padding": 1},
     "the window of output row 0 starts at -1 and, with dilation 2, touches none of the 1 input rows"),
    ("unfold", {"kernel_size": (7, 1)}, "kernel 7x1 (dilation 1x1) spans 7x1 but the padded input is 6x6"),
    ("fold", {"input": floats(2, 7, 9)}, "input has 7 rows, not a multiple of the 4 taps of kernel_size 2x2"),
    ("fold", {"input": floats(2, 8, 8)}, "input has 8 columns but output_size 4x4 has 3x3 = 9 windows"),
    ("fold", {"input": floats(2, 8, 3, 3)}, "input must be 3-D (N, C*KH*KW, L) or 2-D (C*KH*KW, L), got 4-D 2x8x3x3"),
    ("fold", {"kernel_size": 5}, "kernel 5x5 (dilation 1x1) spans 5x5 but the padded input is 4x4"),
    # normalisation
    ("batch_norm", {"input": floats(4)}, "input must have at least 2 axes (N, C, *), got 1-D 4"),
    ("batch_norm", {"input": floats(4, 0)}, "input has shape 4x0; it needs at least 1 channel"),
    ("batch_norm", {"weight": floats(5)}, "weight has shape 5 but input 2x4x6x6 has 4 channels: expected 4"),
    ("batch_norm", {"running_mean": floats(4, 1)}, "running_mean has shape 4x1 but input 2x4x6x6 has 4 channels: expected 4"),
    ("layer_norm", {"normalized_shape": (5,)}, "input 2x6 does not end in normalized_shape 5"),
    ("layer_norm", {"normalized_shape": (2, 2, 6)}, "input 2x6 does not end in normalized_shape 2x2x6"),
    ("layer_norm", {"normalized_shape": ()}, "normalized_shape must name at least 1 axis, got ()"),
    ("layer_norm", {"weight": floats(5)}, "weight has shape 5 but normalized_shape is 6: expected 6"),
    ("group_norm", {"num_groups": 3}, "num_groups 3 does not divide the 4 channels of input 2x4x6x6"),
    ("group_norm", {"weight": floats(2)}, "weight has shape 2 but input 2x4x6x6 has 4 channels: expected 4"),
    # activations
    ("prelu", {"weight": floats(3)}, "weight has shape 3 but input 2x4x6x6 takes 1 slope or 4"),
    ("prelu", {"weight": floats(4, 1)}, "weight has shape 4x1 but input 2x4x6x6 takes 1 slope or 4"),
    ("softplus", {"beta": 0.0}, "beta must not be 0, got 0.0"),
    *((op, {"dim": dim}, f"dim must be between -2 and 1 for 2-D input, got {dim}") for op in ("softmax", "log_softmax") for dim in (2, -3)),
    ("dropout", {"mask": np.ones(3, bool)}, "mask has shape 3 but input has 2x3"),
    # losses
    ("cross_entropy", {"target": np.array([0, 3])}, "target holds 3 but input has 3 classes, 0 to 2"),
    ("nll_loss", {"target": np.array([-1, 0])}, "target holds -1 but input has 3 classes, 0 to 2"),
    ("cross_entropy", {"target": np.array([0, 1, 2])}, "target has shape 3 but input with 3 classes needs class numbers of shape 2"),
    ("nll_loss", {"target": np.array([[0, 1]])}, "target has shape 1x2 but input with 3 classes needs class numbers of shape 2"),
    ("cross_entropy", {"target": floats(2, 4)}, "target has shape 2x4 but probabilities must be like input: expected 2x3"),
    ("cross_entropy", {"weight": floats(2)}, "weight has shape 2 but input has 3 classes: expected 3"),
    ("cross_entropy", {"input": floats()}, "input must have at least 1 axis (C,), (N, C) or (N, C, d1, ...), got a scalar"),
    ("nll_loss", {"input": floats(2, 0)}, "input has shape 2x0; it needs at least 1 class"),
    ("mse_loss", {"target": floats(3)}, "target has shape 3 but input is 2x3: expected 2x3"),
    ("binary_cross_entropy", {"input": floats(2, 3) + 1},
     "input must hold probabilities between 0 and 1, got 1.5; for logits use binary_cross_entropy_with_logits"),
    ("binary_cross_entropy", {"input": floats(2, 3) - 1}, "input must hold probabilities between 0 and 1, got -0.5"),
    ("binary_cross_entropy", {"weight": floats(2)}, "weight 2 does not broadcast to input 2x3"),
    ("binary_cross_entropy_with_logits", {"pos_weight": floats(4, 2, 3)}, "pos_weight 4x2x3 does not broadcast to input 2x3"),
    # pad and interpolate
    ("pad", {"pad": (1,)}, "pad must hold 2 ints per padded axis, at most 8 for 4-D input, got 1 in (1,)"),
    ("pad", {"pad": (1,) * 10}, "pad must hold 2 ints per padded axis, at most 8 for 4-D input, got 10"),
    ("pad", {"pad": (-4, -3)}, "pad (-4, -3) crops more than the 6 elements of axis 3"),
    ("pad", {"pad": (6, 0), "mode": "reflect"}, "pad (6, 0) is too large for mode 'reflect' and the 6 elements of axis 3"),
    ("pad", {"pad": (0, 0, 0, 7), "mode": "circular"}, "pad (0, 7) is too large for mode 'circular' and the 6 elements of axis 2"),
    ("pad", {"pad": (-1, 0), "mode": "replicate"}, "pad must be at least 0, got -1"),
    ("pad", {"pad": (2**31, 0)}, "pad must be at most 2147483647, got 2147483648"),
    ("pad", {"mode": "reflect", "value": 1.0}, "value must be None for mode 'reflect', got 1.0"),
    ("interpolate", {"input": floats(4, 6, 6)}, "input must be 4-D (N, C, H, W), got 3-D 4x6x6"),
    ("interpolate", {"input": floats(1, 4, 0, 6)}, "input has shape 1x4x0x6; only the batch size may be 0"),
    ("interpolate", {"scale_factor": 2}, "give either size or scale_factor, got size=3 and scale_factor=2"),
    ("interpolate", {"size": None}, "give either size or scale_factor, got size=None and scale_factor=None"),
    ("interpolate", {"size": None, "scale_factor": -1.0}, "scale_factor must be positive and at most 2147483647, got (-1.0, -1.0)"),
    ("interpolate", {"size": None, "scale_factor": nan}, "scale_factor must be positive and at most 2147483647, got (nan, nan)"),
    ("interpolate", {"size": None, "scale_factor": (1.0, 2.0, 3.0)}, "scale_factor must be a number or a pair, got 3 values"),
    ("interpolate", {"size": None, "scale_factor": 0.1}, "scale_factor 0.1 shrinks 6x6 to 0x0"),
    ("interpolate", {"align_corners": True}, "align_corners must be None for mode 'nearest', got True"),
    ("interpolate", {"recompute_scale_factor": True}, "recompute_scale_factor=True needs scale_factor, got size=3"),
]  # fmt: skip


@BOTH
@pytest.mark.parametrize("op,changes,message", TOGETHER, ids=[f"{op}-{'-'.join(changes)}-{i}" for i, (op, changes, _) in enumerate(TOGETHER)])
def test_what_does_not_fit_is_said_in_numbers(op, changes, message, call):
    with pytest.raises(ValueError) as caught:
        call(op, **changes)
    assert str(caught.value).startswith(f"{name_of(call, op)}: {message}")


def test_bias_must_match_the_filters():
    for op, filters in (("conv1d", "weight has 6 filters"), ("conv2d", "weight has 6 filters"), ("linear", "weight has 6 rows")):
        with raises(ShapeError, f"{op}: bias has shape 4 but {filters}: expected 6"):
            forward(op, bias=floats(4))
    with raises(ShapeError, "conv_transpose2d: bias has shape 6 but weight has 5 filters in each of 1 groups: expected 5"):
        forward("conv_transpose2d", bias=floats(6))


@pytest.mark.parametrize("op", ["conv1d", "conv2d", "conv_transpose2d", "linear"])
def test_output_mask_is_three_bools(op):
    with raises(ValueError, f"{op}_backward: output_mask must be a tuple of 3 bools, got 2 values (True, False)"):
        backward(op, output_mask=(True, False))
    with raises(TypeError, f"{op}_backward: output_mask must be a bool, got int 1"):
        backward(op, output_mask=(True, False, 1))
    with raises(TypeError, f"{op}_backward: output_mask must be a tuple of 3 bools, got bool True"):
        backward(op, output_mask=True)


def test_algorithm_must_exist():
    with raises(ValueError, "algorithm 'fft' does not exist; the algorithms are auto, direct, winograd"):
        forward("conv2d", algorithm="fft")
    with raises(ValueError, "algorithm 'fft' does not exist"):
        backward("conv2d", algorithm="fft")


def test_indices_must_point_into_the_plane():
    indices = np.zeros((2, 4, 3, 3), np.int64)
    for wrong in (36, -1):
        indices[1, 2, 0, 0] = wrong
        with raises(ValueError, f"max_pool2d_backward: indices holds {wrong} but a plane of 6x6 has positions 0 to 35"):
            backward("max_pool2d", indices=indices)
    with raises(ShapeError, "max_pool2d_backward: indices has shape 2x4x3x2 but the output of the pool is 2x4x3x3"):
        backward("max_pool2d", indices=indices[..., :2])
    with raises(TypeError, "max_pool2d_backward: indices must be an int64 array, as max_pool2d returns it, got int32"):
        backward("max_pool2d", indices=indices.astype(np.int32))
    with raises(TypeError, "adaptive_max_pool2d_backward: indices must be an int64 array, as max_pool2d returns it, got list"):
        backward("adaptive_max_pool2d", indices=[0])
    with raises(ValueError, "max_pool2d_backward: ties must be one of 'first', 'all', 'split', got 'last'"):
        backward("max_pool2d", ties="last")


def test_divisor_override():
    with raises(ValueError, "avg_pool2d: divisor_override must not be 0, got 0"):
        forward("avg_pool2d", divisor_override=0)
    with raises(TypeError, "avg_pool2d: divisor_override must be an int, got float 2.5"):
        forward("avg_pool2d", divisor_override=2.5)


def test_batch_norm_statistics():
    with raises(ValueError, "batch_norm: running_mean must be given when training is False, got None"):
        forward("batch_norm", running_mean=None)
    with raises(ValueError, "batch_norm: running_var must be given when training is False, got None"):
        forward("batch_norm", running_var=None)
    with raises(ValueError, "batch_norm_backward: running_var (or mean and var) must be given when training is False, got None"):
        backward("batch_norm", running_var=None)
    with raises(ValueError, "batch_norm_backward: mean and var must be given together, got only mean"):
        backward("batch_norm", mean=floats(4))
    with raises(ShapeError, "batch_norm: input 1x4 has 1 value per channel but training needs at least 2"):
        forward("batch_norm", input=floats(1, 4), training=True)
    frozen = floats(4)
    frozen.setflags(write=False)
    with raises(ValueError, "batch_norm: running_mean is read-only but training updates it in place"):
        forward("batch_norm", running_mean=frozen, training=True)
    with raises(TypeError, "batch_norm: momentum must be a number, got NoneType None"):
        forward("batch_norm", momentum=None)


def test_normalized_shape_holds_ints():
    with raises(TypeError, "layer_norm: normalized_shape must be an int, got float 6.0"):
        forward("layer_norm", normalized_shape=6.0)
    with raises(ValueError, "layer_norm: normalized_shape must be at least 1, got 0"):
        forward("layer_norm", normalized_shape=(0,))


def test_class_targets():
    for op, allowed in (("cross_entropy", "class numbers (integers) or probabilities (floats)"), ("nll_loss", "class numbers (integers)")):
        with raises(TypeError, f"{op}: target must hold {allowed}, got bool"):
            forward(op, target=np.array([True, False]))
        with raises(TypeError, f"{op}: target must be a numpy.ndarray, got list"):
            forward(op, target=[0, 1])
        with raises(TypeError, f"{op}: ignore_index must be an int, got float 1.0"):
            forward(op, ignore_index=1.0)
    with raises(TypeError, "nll_loss: target must hold class numbers (integers), got float64"):
        forward("nll_loss", target=floats(2, 3))
    with raises(TypeError, "cross_entropy: target is float32 but input is float64"):
        forward("cross_entropy", target=floats(2, 3, dtype=np.float32))
    huge = np.array([0, 2**63 + 1], np.uint64)
    with raises(ValueError, "cross_entropy: target holds 9223372036854775809 but input has 3 classes, 0 to 2"):
        forward("cross_entropy", target=huge)


def test_ignored_targets_may_be_out_of_range():
    assert np.isfinite(forward("cross_entropy", target=np.array([0, -100])))
    assert np.isfinite(forward("nll_loss", target=np.array([0, 7]), ignore_index=7))


def test_pad_and_dim_hold_ints():
    with raises(TypeError, "pad: pad must be a tuple of ints, got int 1"):
        forward("pad", pad=1)
    with raises(TypeError, "pad: pad must be an int, got float 1.5"):
        forward("pad", pad=(1, 1.5))
    with raises(TypeError, "softmax: dim must be an int, got float 1.0"):
        forward("softmax", dim=1.0)


def test_dropout_needs_a_bool_mask_and_a_generator():
    with raises(TypeError, "dropout: mask must be a bool array, True where kept, got float64"):
        forward("dropout", mask=floats(2, 3))
    with raises(TypeError, "rng must be a numpy.random.Generator, an int seed or None, got str"):
        forward("dropout", rng="seed")
    with raises(ValueError, "dropout_backward: mask must be given"):
        F.dropout_backward(floats(2, 3), floats(2, 3))
