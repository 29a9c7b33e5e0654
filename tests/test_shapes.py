"""Output sizes, padding, receptive fields and counts, against brute force and the published numbers."""

import doctest
import itertools
import re

import pytest

from fastcnn import shapes
from fastcnn.shapes import ShapeError


def positions(size, kernel, stride, before, after, dilation):
    """Every place a kernel fits, counted one by one."""
    extent = dilation * (kernel - 1) + 1
    return [start for start in range(-before, size + after - extent + 1) if (start + before) % stride == 0]


@pytest.mark.parametrize("size,kernel,stride", list(itertools.product((1, 2, 5, 8, 9), (1, 2, 3, 5), (1, 2, 3))))
def test_conv_output_size_counts_positions(size, kernel, stride):
    for (before, after), dilation in itertools.product(((0, 0), (1, 1), (0, 1), (3, 2)), (1, 2)):
        expected = len(positions(size, kernel, stride, before, after, dilation))
        if expected:
            assert shapes.conv_output_size(size, kernel, stride, (before, after), dilation) == expected
            square = shapes.conv2d_output_size((size,) * 2, (kernel,) * 2, (stride,) * 2, ((before, after),) * 2, (dilation,) * 2)
            assert square == (expected, expected)
        else:
            assert shapes.conv_output_size(size, kernel, stride, (before, after), dilation) <= 0


def test_conv2d_output_size_says_what_does_not_fit():
    message = "conv2d: kernel 5x5 (dilation 2x2) spans 9x9 but the padded input is 8x8 (H, W = 6x6, padding 1x1)"
    with pytest.raises(ShapeError, match=re.escape(message)):
        shapes.conv2d_output_size((6, 6), (5, 5), (1, 1), ((1, 1), (1, 1)), (2, 2))
    with pytest.raises(ShapeError, match=re.escape("padded input is 3x9 (H, W = 2x9, padding top 0, bottom 1, left 0, right 0)")):
        shapes.conv2d_output_size((2, 9), (4, 3), (1, 1), ((0, 1), (0, 0)), (1, 1))


@pytest.mark.parametrize("kernel,dilation", list(itertools.product(range(1, 7), (1, 2, 3))))
def test_same_padding_keeps_the_size(kernel, dilation):
    (before, after), _ = shapes.same_padding((kernel, 1), (dilation, 1))
    assert shapes.conv_output_size(10, kernel, 1, (before, after), dilation) == 10
    assert after - before in (0, 1)


def test_resolve_padding():
    assert shapes.resolve_padding((1, 2), (3, 3), (1, 1), (1, 1)) == ((1, 1), (2, 2))
    assert shapes.resolve_padding("valid", (3, 3), (2, 2), (1, 1)) == ((0, 0), (0, 0))
    assert shapes.resolve_padding("same", (2, 4), (1, 1), (1, 1)) == ((0, 1), (1, 2))
    with pytest.raises(ShapeError, match="conv2d: padding 'same' needs stride 1x1, got stride 2x1"):
        shapes.resolve_padding("same", (3, 3), (2, 1), (1, 1))
    with pytest.raises(ShapeError, match="conv2d: padding must be 'same', 'valid', .* got 'full'"):
        shapes.resolve_padding("full", (3, 3), (1, 1), (1, 1))


@pytest.mark.parametrize("size,kernel,stride", list(itertools.product((1, 4, 7), (1, 2, 3, 5), (1, 2, 3))))
def test_conv_transpose_output_size_inverts_conv(size, kernel, stride):
    for padding, dilation, extra in itertools.product((0, 1, 2), (1, 2), (0, 1, 2)):
        if extra >= max(stride, dilation):
            continue
        full = (size - 1) * stride + dilation * (kernel - 1) + 1 + extra - 2 * padding
        arguments = (size,) * 2, (kernel,) * 2, (stride,) * 2, (padding,) * 2, (extra,) * 2, (dilation,) * 2
        if full < 1:
            with pytest.raises(ShapeError, match="conv_transpose2d: padding"):
                shapes.conv_transpose2d_output_size(*arguments)
            continue
        assert shapes.conv_transpose2d_output_size(*arguments) == (full, full)
        if extra < stride and full + 2 * padding >= dilation * (kernel - 1) + 1:
            assert shapes.conv_output_size(full, kernel, stride, padding, dilation) == size


def test_output_padding_must_be_smaller_than_stride_or_dilation():
    with pytest.raises(ShapeError, match="output_padding 2x2 must be smaller than stride 2x2 or dilation 1x1"):
        shapes.conv_transpose2d_output_size((3, 3), (3, 3), (2, 2), (0, 0), (2, 2), (1, 1))


@pytest.mark.parametrize("size,kernel,stride,padding", list(itertools.product((3, 5, 8), (1, 2, 3), (1, 2, 3), (0, 1))))
def test_pool_output_size_counts_windows(size, kernel, stride, padding):
    if padding > kernel // 2:
        return
    assert shapes.pool_output_size(size, kernel, stride, padding) == len(positions(size, kernel, stride, padding, padding, 1))
    # ceil_mode: one more window for the pixels left over, if it starts inside the input or the left padding.
    starts = [start for start in range(-padding, size, stride) if start - stride + kernel < size + padding or start == -padding]
    assert shapes.pool_output_size(size, kernel, stride, padding, 1, True) == len(starts)


def test_pool2d_output_size_messages():
    with pytest.raises(ShapeError, match=re.escape("max_pool2d: padding 2x1 is more than half of the window 3x3 (at most 1x1)")):
        shapes.pool2d_output_size((8, 8), (3, 3), (1, 1), (2, 1))
    with pytest.raises(ShapeError, match=re.escape("avg_pool2d: window 5x5 (dilation 1x1) spans 5x5 but the padded input is 4x4 (H, W = 4x4")):
        shapes.pool2d_output_size((4, 4), (5, 5), (1, 1), (0, 0), op="avg_pool2d")
    with pytest.raises(ShapeError, match="output row 0 starts at -1 and, with dilation 2, touches none of the 1 input rows"):
        shapes.pool2d_output_size((1, 9), (2, 2), (1, 1), (1, 1), (2, 2))


@pytest.mark.parametrize("size,output_size", list(itertools.product((1, 4, 7), (1, 2, 3, 7, 9))))
def test_adaptive_windows_cover_the_input_evenly(size, output_size):
    windows = shapes.adaptive_windows(size, output_size)
    assert len(windows) == output_size
    assert windows[0][0] == 0 and windows[-1][1] == size
    assert {i for start, end in windows for i in range(start, end)} == set(range(size))
    assert max(end - start for start, end in windows) - min(end - start for start, end in windows) <= 1 + (size % output_size > 0)


def test_receptive_field():
    assert shapes.receptive_field([]) == (1, 1)
    assert shapes.receptive_field([(3, 1), (3, 2)]) == (5, 2)  # the reports' 3x3 stride-1 convolution and 3x3 stride-2 pool
    assert shapes.receptive_field([(3, 1)] * 3) == (7, 1)
    assert shapes.receptive_field([(3, 1, 1), (3, 1, 2), (3, 1, 4)]) == (15, 1)
    assert shapes.receptive_field([(5, 1), (2, 2), (5, 1), (2, 2), (5, 1)]) == (32, 4)  # LeNet: C5 sees the whole 32x32 image


def test_sizes_of_the_reports():
    keeps = shapes.conv_output_size(256, 3, 1, 1)
    assert keeps == 256
    assert shapes.pool_output_size(keeps, 3, 2) == 127


@pytest.mark.parametrize("channels,expected", [(1, 36_492_550), (3, 36_498_950)])
def test_parameters_of_wide_256(channels, expected):
    total, size, C = 0, 256, channels
    for O, kernel, pool in ((128, 5, True), (128, 3, False), (128, 3, False), *((96, 3, False),) * 3, (96, 3, True)):
        total += shapes.conv2d_parameters(C, O, (kernel, kernel)) + 2 * O  # batch norm: weight and bias
        size, C = shapes.conv_output_size(size, kernel), O
        size = shapes.pool_output_size(size, 5, 2) if pool else size
    total += shapes.linear_parameters(C * size * size, 128) + shapes.linear_parameters(128, 6)
    assert total == expected


def test_counts():
    assert shapes.conv2d_parameters(4, 6, (3, 5), groups=2) == 6 * 2 * 15 + 6
    assert shapes.conv2d_parameters(4, 6, (3, 5), bias=False) == 6 * 4 * 15
    assert shapes.conv2d_macs(2, 4, 6, (3, 3), (5, 7), groups=2) == 2 * 6 * 35 * 2 * 9
    assert shapes.linear_parameters(10, 3, bias=False) == 30
    assert shapes.linear_macs(7, 10, 3) == 210


def test_check_bytes_refuses_what_cannot_exist():
    shapes.check_bytes("conv2d", (2**20, 2**20), 8)
    message = "conv2d: output 2147483648x2147483648 of 8-byte elements needs 36893488147419103232 bytes, more than 140737488355328"
    with pytest.raises(ShapeError, match=message):
        shapes.check_bytes("conv2d", (2**31, 2**31), 8)


def test_doctests():
    assert doctest.testmod(shapes) == (0, 1)
