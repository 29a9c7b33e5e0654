"""Bad options: every int, flag, number and word of every functional op, and shapes that overflow."""

import re
from math import nan

import numpy as np
import pytest
from bad_calls import BOTH, OPS, backward, floats, forward, name_of, raises

from fastcnn.backend import use_backend
from fastcnn.shapes import ShapeError


@pytest.fixture(autouse=True)
def reference():
    """Validation comes before the backend, so that one is enough."""
    with use_backend("reference"):
        yield


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
        ("conv1d", {"padding": MOST, "input": floats(2**20, 1, 1), "weight": floats(1024, 1, 1), "bias": None}, "the padded input"),
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
    with raises(ShapeError, message) as caught:
        call(op, **changes)
    assert re.fullmatch(f"{name_of(call, op)}: .* bytes, more than 140737488355328", str(caught.value))


def test_algorithm_must_exist():
    with raises(ValueError, "algorithm 'fft' does not exist; the algorithms are auto, direct, winograd"):
        forward("conv2d", algorithm="fft")
    with raises(ValueError, "algorithm 'fft' does not exist"):
        backward("conv2d", algorithm="fft")


def test_divisor_override():
    with raises(ValueError, "avg_pool2d: divisor_override must not be 0, got 0"):
        forward("avg_pool2d", divisor_override=0)
    with raises(TypeError, "avg_pool2d: divisor_override must be an int, got float 2.5"):
        forward("avg_pool2d", divisor_override=2.5)


def test_normalized_shape_holds_ints():
    with raises(TypeError, "layer_norm: normalized_shape must be an int, got float 6.0"):
        forward("layer_norm", normalized_shape=6.0)
    with raises(ValueError, "layer_norm: normalized_shape must be at least 1, got 0"):
        forward("layer_norm", normalized_shape=(0,))


def test_pad_and_dim_hold_ints():
    with raises(TypeError, "pad: pad must be a tuple of ints, got int 1"):
        forward("pad", pad=1)
    with raises(TypeError, "pad: pad must be an int, got float 1.5"):
        forward("pad", pad=(1, 1.5))
    with raises(TypeError, "softmax: dim must be an int, got float 1.0"):
        forward("softmax", dim=1.0)


@pytest.mark.parametrize("op", ["conv1d", "conv2d", "conv_transpose2d", "linear"])
def test_output_mask_is_three_bools(op):
    with raises(ValueError, f"{op}_backward: output_mask must be a tuple of 3 bools, got 2 values (True, False)"):
        backward(op, output_mask=(True, False))
    with raises(TypeError, f"{op}_backward: output_mask must be a bool, got int 1"):
        backward(op, output_mask=(True, False, 1))
    with raises(TypeError, f"{op}_backward: output_mask must be a tuple of 3 bools, got bool True"):
        backward(op, output_mask=True)
