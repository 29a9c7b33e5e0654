"""What every functional op says to bad input: ValueError (ShapeError) or TypeError naming the op, the argument and both numbers."""

from math import nan

import numpy as np
import pytest
from bad_calls import BOTH, GOOD, OPS, backward, floats, forward, name_of, raises

import fastcnn.functional as F
from fastcnn.backend import use_backend
from fastcnn.shapes import ShapeError


@pytest.fixture(autouse=True)
def reference():
    """Validation comes before the backend, so that one is enough."""
    with use_backend("reference"):
        yield


def test_every_op_is_covered():
    assert set(OPS) | {"im2col", "col2im"} == {name for name in F.__all__ if not name.endswith("_backward")}  # those two: test_columns.py


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
    with raises(ValueError, name_of(call, op)) as caught:
        call(op, **changes)
    assert str(caught.value).startswith(f"{name_of(call, op)}: {message}")


def test_bias_must_match_the_filters():
    for op, filters in (("conv1d", "weight has 6 filters"), ("conv2d", "weight has 6 filters"), ("linear", "weight has 6 rows")):
        with raises(ShapeError, f"{op}: bias has shape 4 but {filters}: expected 6"):
            forward(op, bias=floats(4))
    with raises(ShapeError, "conv_transpose2d: bias has shape 6 but weight has 5 filters in each of 1 groups: expected 5"):
        forward("conv_transpose2d", bias=floats(6))




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



def test_dropout_needs_a_bool_mask_and_a_generator():
    with raises(TypeError, "dropout: mask must be a bool array, True where kept, got float64"):
        forward("dropout", mask=floats(2, 3))
    with raises(TypeError, "rng must be a numpy.random.Generator, an int seed or None, got str"):
        forward("dropout", rng="seed")
    with raises(ValueError, "dropout_backward: mask must be given"):
        F.dropout_backward(floats(2, 3), floats(2, 3))
