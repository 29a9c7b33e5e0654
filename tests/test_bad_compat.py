"""What the coursework modules say to bad input. They take what the courses' code takes (integers, mixed dtypes), and refuse what it would compute wrongly."""

import numpy as np
import pytest
from bad_calls import raises

from fastcnn.compat import coursera, cs231n, dlfs, lenet_scratch, mytorch, numpy_cnn
from fastcnn.shapes import ShapeError

X, W, B = np.ones((2, 3, 6, 6)), np.ones((4, 3, 3, 3)), np.zeros(4)
LAST, FILTERS, BIAS = np.ones((2, 6, 6, 3)), np.ones((3, 3, 3, 4)), np.zeros((1, 1, 1, 4))
SCORES = np.ones((2, 3))
CONV, POOL = {"stride": 1, "pad": 1}, {"pool_height": 2, "pool_width": 2, "stride": 2}

CASES = [
    (lambda: cs231n.conv_forward_fast(X, W, B, CONV | {"stride": 0}), ValueError, "conv2d: stride must be at least 1, got 0"),
    (lambda: cs231n.conv_forward_fast(X, W, B, CONV | {"stride": 1.5}), TypeError, "conv2d: stride must be an int or a pair of ints, got float 1.5"),
    (lambda: cs231n.conv_forward_fast(X, W, B, CONV | {"pad": -1}), ValueError, "conv2d: padding must be at least 0, got -1"),
    (lambda: cs231n.conv_forward_fast(X, W, B, {"stride": 1}), KeyError, "pad"),
    (lambda: cs231n.conv_forward_fast(X, W[:, :2], B, CONV), ShapeError, "conv2d: input has 3 channels but weight 4x2x3x3 with groups 1 takes 2"),
    (lambda: cs231n.conv_forward_fast(X, W, B[:2], CONV), ShapeError, "conv2d: bias has shape 2 but weight has 4 filters: expected 4"),
    (lambda: cs231n.conv_forward_fast(X[0, 0], W, B, CONV), ShapeError, "conv2d: input must be 4-D (N, C, H, W) or 3-D (C, H, W), got 2-D 6x6"),
    *((lambda op=op, v=v: getattr(cs231n, op)(v, W, B, CONV), TypeError, f"{op}: takes real numbers of at most 64 bits, got an array of {kind}")
      for op in ("conv_forward_fast", "conv_forward_naive", "conv_forward_im2col", "conv_forward_strides")
      for v, kind in (("x", "<U1"), (None, "object"), (X + 1j, "complex128"))),
    (lambda: cs231n.conv_backward_fast(np.ones((2, 4, 5, 5)), (X, W, B, CONV)), ShapeError,
     "conv2d_backward: grad_output has shape 2x4x5x5 but it must be like the output of conv2d: expected 2x4x6x6"),
    (lambda: cs231n.conv_forward_im2col(X, W, B, {"stride": 2, "pad": 1}), AssertionError, "conv_forward_im2col: height 6 with padding 1 and a window of 3"),
    (lambda: cs231n.max_pool_forward_fast(X, POOL | {"pool_height": 0}), ValueError, "max_pool2d: kernel_size must be at least 1, got (0, 2)"),
    (lambda: cs231n.max_pool_forward_fast(X, POOL | {"pool_height": 7}), ShapeError, "max_pool2d: window 7x2 (dilation 1x1) spans 7x2"),
    *((lambda op=op: getattr(cs231n, op)(X[0, 0, 0], POOL), ShapeError, "max_pool2d: input must be 4-D (N, C, H, W) or 3-D (C, H, W), got 1-D 6")
      for op in ("max_pool_forward_fast", "max_pool_forward_naive")),
    (lambda: cs231n.max_pool_forward_reshape(X, POOL | {"stride": 3}), AssertionError, "max_pool_forward_reshape: needs square windows that tile the image"),
    (lambda: cs231n.affine_forward(X, np.ones((108, 5)), B), ShapeError, "affine_forward: b has shape 4 but w 108x5 has 5 columns"),
    (lambda: cs231n.affine_forward(X, np.ones((5, 4)), B), ShapeError, "affine_forward: x 2x3x6x6 has 108 values per row but w 5x4 takes 5"),
    (lambda: cs231n.affine_forward("x", W, B), TypeError, "affine_forward: takes real numbers of at most 64 bits, got an array of <U1"),
    (lambda: cs231n.softmax_loss(SCORES, np.array([0, 3])), ValueError, "cross_entropy: target holds 3 but input has 3 classes, 0 to 2"),
    (lambda: cs231n.softmax_loss(SCORES, np.array([0])), ShapeError, "cross_entropy: target has shape 1 but input with 3 classes needs class numbers"),
    *((lambda y=y: cs231n.svm_loss(SCORES, np.array(y)), error, f"svm_loss: {text}") for y, error, text in (
        ([0, 3], ValueError, "y holds 3 but there are 3 classes, 0 to 2"), ([-1, 0], ValueError, "y holds -1 but there are 3 classes, 0 to 2"),
        ([0], ShapeError, "y has shape 1 but there are 2 rows of scores: expected 2"),
        ([0.0, 1.0], TypeError, "y must hold class numbers (integers), got float64"))),
    (lambda: cs231n.svm_loss(np.ones(3), np.array([0])), ShapeError, "svm_loss: scores must be (N, C), got 1 axes (3)"),
    (lambda: cs231n.batchnorm_forward(SCORES, np.ones(4), np.ones(3), {"mode": "train"}), ShapeError,
     "batch_norm: weight has shape 4 but input 2x3 has 3 channels"),
    (lambda: cs231n.batchnorm_forward(SCORES, np.ones(3), np.ones(3), {"mode": "x"}), ValueError,
     'batchnorm_forward: mode must be "train" or "test", got \'x\''),
    (lambda: cs231n.dropout_forward(SCORES, {"mode": "train", "p": 2}), ValueError, "dropout_forward: p must be between 0 and 1, got 2"),
    (lambda: cs231n.dropout_forward(SCORES, {"mode": "train", "p": "x"}), TypeError, "dropout_forward: p must be a number, got str 'x'"),
    (lambda: cs231n.dropout_forward_2016(SCORES, {"mode": "train", "p": -0.5}), ValueError, "dropout_forward: p must be between 0 and 1, got -0.5"),
    (lambda: cs231n.dropout_forward(SCORES, {"mode": "y", "p": 0.5}), ValueError, 'dropout_forward: mode must be "train" or "test", got \'y\''),
    (lambda: cs231n.layernorm_forward(SCORES, np.ones(4), np.ones(3), {}), ShapeError, "layer_norm: weight has shape 4 but normalized_shape is 3: expected 3"),
    (lambda: cs231n.spatial_groupnorm_forward(X, np.ones((1, 3, 1, 1)), np.ones((1, 3, 1, 1)), 2, {}), ShapeError,
     "group_norm: num_groups 2 does not divide the 3 channels of input 2x3x6x6"),
    (lambda: cs231n.relu_backward(SCORES, np.ones((2, 4))), ShapeError, "relu_backward: grad_output has shape 2x3 but input is 2x4: expected 2x4"),
    (lambda: cs231n.im2col_cython(X, 9, 9, 0, 1), ShapeError, "im2col: kernel 9x9 (dilation 1x1) spans 9x9 but the padded input is 6x6"),
    (lambda: cs231n.col2im_cython(np.ones((3, 3)), 2, 3, 6, 6, 3, 3, 1, 1), ShapeError, "col2im: cols has shape 3x3 but columns 'cs231n' of images 2x3x6x6"),
    (lambda: cs231n.adam(np.ones(3), np.ones(4)), ShapeError, "adam: dw has shape 4 but w has 3"),
    (lambda: cs231n.rmsprop(np.ones(3), "g"), TypeError, "rmsprop: takes real numbers of at most 64 bits, got an array of <U1"),
    (lambda: cs231n.install("nothing"), ValueError, "install: level must be 1, 2 or 3, got 'nothing'"),
    (lambda: coursera.zero_pad("x", 1), TypeError, "zero_pad: X must be a numpy.ndarray, got str"),
    (lambda: coursera.zero_pad(LAST[0], 1), ShapeError, "zero_pad: X must be 4-D (m, n_H, n_W, n_C), got 3-D 6x6x3"),
    (lambda: coursera.zero_pad(LAST, -1), ValueError, "zero_pad: pad must be at least 0, got -1"),
    (lambda: coursera.zero_pad(LAST, 1.5), TypeError, "zero_pad: pad must be an int, got float 1.5"),
    (lambda: coursera.zero_pad(LAST, 2**30), ShapeError, "zero_pad: output 2x2147483654x2147483654x3 of 8-byte elements needs"),
    (lambda: coursera.conv_single_step(np.ones((3, 3, 2)), np.ones((3, 3, 3)), 0), ShapeError, "conv_single_step: a_slice_prev is 3x3x2 but W is 3x3x3"),
    (lambda: coursera.conv_single_step(np.ones((3, 3, 2)), np.ones((3, 3, 2)), B), ShapeError, "conv_single_step: b must be one number, got 4"),
    (lambda: coursera.conv_forward(X, W, B, {"stride": 1, "pad": 0}), ShapeError, "conv2d: input has 6 channels but weight 3x3x4x3 with groups 1 takes 3"),
    (lambda: coursera.conv_forward(LAST, FILTERS, np.zeros((1, 1, 1, 5)), {"stride": 1, "pad": 0}), ShapeError,
     "conv2d: bias has shape 1x1x1x5 but weight has 4 filters: expected 4"),
    (lambda: coursera.conv_forward(LAST, FILTERS, BIAS, {"stride": -1, "pad": 0}), ValueError, "conv2d: stride must be at least 1, got -1"),
    (lambda: coursera.conv_forward(LAST, FILTERS, BIAS, {}), KeyError, "stride"),
    (lambda: coursera.pool_forward(LAST, {"f": 7, "stride": 1}), ShapeError, "max_pool2d: window 7x7 (dilation 1x1) spans 7x7 but the padded input is 6x6"),
    (lambda: coursera.pool_forward(LAST, {"f": 2, "stride": 1}, "median"), ValueError, "pool_forward: mode must be 'max' or 'average', got 'median'"),
    (lambda: dlfs.im2col(X, 9, 9), ShapeError, "im2col: kernel 9x9 (dilation 1x1) spans 9x9 but the padded input is 6x6"),
    (lambda: dlfs.im2col(X, 3, 3, 0), ValueError, "im2col: stride must be at least 1, got 0"),
    (lambda: dlfs.im2col("x", 3, 3), TypeError, "im2col: takes real numbers of at most 64 bits, got an array of <U1"),
    (lambda: dlfs.col2im(np.ones((3, 3)), X.shape, 3, 3), ShapeError, "col2im: cols has shape 3x3 but columns 'dlfs' of images 2x3x6x6 have 32x27"),
    (lambda: dlfs.Convolution(W, B, 0).forward(X), ValueError, "conv2d: stride must be at least 1, got 0"),
    (lambda: dlfs.Convolution(W, B).forward(X[:, :2]), ShapeError, "conv2d: input has 2 channels but weight 4x3x3x3 with groups 1 takes 3"),
    (lambda: dlfs.Convolution(W, B).forward("x"), TypeError, "Convolution: takes real numbers of at most 64 bits, got an array of <U1"),
    (lambda: dlfs.Pooling(7, 7).forward(X), ShapeError, "max_pool2d: window 7x7 (dilation 1x1) spans 7x7 but the padded input is 6x6"),
    (lambda: dlfs.Affine(np.ones((5, 5)), B).forward(X), ShapeError, "linear: input 2x108 has 108 features but weight 5x5 takes 5"),
    *((lambda t=t: dlfs.SoftmaxWithLoss().forward(SCORES, np.array(t)), error, f"cross_entropy_error: {text}") for t, error, text in (
        ([0, 5], ValueError, "t holds 5 but there are 3 classes, 0 to 2"), ([0, -1], ValueError, "t holds -1 but there are 3 classes, 0 to 2"),
        ([0], ShapeError, "t has shape 1 but there are 2 rows of scores: expected 2"))),
    (lambda: dlfs.BatchNormalization(np.ones(3), np.ones(3)).forward(np.ones((2, 4))), ShapeError,
     "batch_norm: weight has shape 3 but input 2x4 has 4 channels"),
    (lambda: dlfs.Dropout(2.0).forward(X), ValueError, "Dropout: dropout_ratio must be between 0 and 1, got 2.0"),
    (lambda: dlfs.Dropout("x").forward(X), TypeError, "Dropout: dropout_ratio must be a number, got str 'x'"),
    (lambda: mytorch.Conv2d(3, 4, 3, 1).forward(X[:, :2]), ShapeError, "conv2d: input has 2 channels but weight 4x3x3x3 with groups 1 takes 3"),
    (lambda: mytorch.Conv2d(3, 4, 9, 1).forward(X), ShapeError, "conv2d: kernel 9x9 (dilation 1x1) spans 9x9 but the padded input is 6x6"),
    (lambda: mytorch.MaxPool2d(7, 1).forward(X), ShapeError, "max_pool2d: window 7x7 (dilation 1x1) spans 7x7 but the padded input is 6x6"),
    (lambda: mytorch.MaxPool2d(2, 2).forward("x"), TypeError, "MaxPool2d: takes real numbers of at most 64 bits, got an array of <U1"),
    (lambda: mytorch.BatchNorm2d(4).forward(X), ShapeError, "batch_norm: weight has shape 4 but input 2x3x6x6 has 3 channels: expected 3"),
    (lambda: mytorch.ConvTranspose2d(3, 4, 3, 0).forward(X), ValueError, "conv_transpose2d: stride must be at least 1, got (0, 0)"),
    *((lambda kind=kind: getattr(mytorch, kind)(0).forward(X), ValueError, f"{kind}: {option} must be at least 1, got 0")
      for kind, option in (("Upsample2d", "upsampling_factor"), ("Downsample2d", "downsampling_factor"))),
    (lambda: numpy_cnn.convolution(X[0], W, B[:, None], 0), ValueError, "conv2d: stride must be at least 1, got 0"),
    (lambda: numpy_cnn.convolution(X[0], W[:, :2], B[:, None], 1), ShapeError, "conv2d: input has 3 channels but weight 4x2x3x3 with groups 1 takes 2"),
    (lambda: numpy_cnn.convolution("x", W, B, 1), TypeError, "convolution: takes real numbers of at most 64 bits, got an array of <U1"),
    (lambda: numpy_cnn.maxpool(X[0], 7, 1), ShapeError, "max_pool2d: window 7x7 (dilation 1x1) spans 7x7 but the padded input is 6x6"),
    (lambda: numpy_cnn.maxpool(X[0], 0, 1), ValueError, "max_pool2d: kernel_size must be at least 1, got 0"),
    (lambda: lenet_scratch.softmax("x"), TypeError, "softmax: input must be a numpy.ndarray, got str"),
]  # fmt: skip


@pytest.mark.parametrize("call,error,message", CASES, ids=[f"{i}-{case[2][:60]}" for i, case in enumerate(CASES)])
def test_it_is_said(call, error, message):
    with raises(error, message):
        call()
