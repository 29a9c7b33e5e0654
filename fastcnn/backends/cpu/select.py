"""Which implementation computes an op: one ordered list per op, first that applies wins, the last always applies.

An implementation declines with a reason, which `fastcnn.explain` shows. `reference` at the end of a list means that the op has no compiled kernel (yet).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, NamedTuple

from numpy import ndarray

from .. import reference
from ..ops import OPS
from . import (
    _columns,
    _conv_forward,
    _conv_grad_input,
    _conv_grad_weight,
    _depthwise,
    _depthwise_planes,
    _eltwise,
    _flat,
    _formats,
    _lanes,
    _linear,
    _norm,
    _optim,
    _pixels,
    _planes,
    _pool,
    _row_norm,
    _runtime,
    _softmax,
    _stencil,
    _winograd,
    pointwise,
)

# Why an implementation does not apply: a text with {} for the values that follow. It is formatted only when somebody asks:
# a small convolution takes less time than that.
Reason = tuple


class Impl(NamedTuple):
    """One way to compute an op. `declines` gets the op's arguments and returns why it does not apply, or None; no `declines`: always applies."""

    name: str
    function: Callable[..., Any]
    declines: Callable[..., Reason | None] | None = None


def not_depthwise(channels: int, filters: int, groups: int) -> Reason | None:
    if groups == 1 or groups != channels or groups != filters:
        return "needs groups = channels = filters, got {}, {}, {}", groups, channels, filters
    return None


def not_covering(input_shape: tuple, weight_shape: tuple, padding: tuple, groups: int) -> Reason | None:
    """A kernel as large as the unpadded input: the convolution is a matrix product over (N, C*KH*KW)."""
    _, _, H, W = input_shape
    _, _, KH, KW = weight_shape
    if KH != H or KW != W or padding != ((0, 0), (0, 0)):
        return "needs a kernel that covers the unpadded input {}x{}, got {}x{} with padding {}", H, W, KH, KW, padding
    return None if groups == 1 else ("needs groups = 1, got {}", groups)


def output_size(input_shape: tuple, weight_shape: tuple, stride: tuple, padding: tuple, dilation: tuple) -> tuple[int, int]:
    OH, OW = (
        (extent + sum(pads) - (kernel - 1) * distance - 1) // step + 1
        for extent, kernel, step, pads, distance in zip(input_shape[2:], weight_shape[2:], stride, padding, dilation, strict=True)
    )
    return OH, OW


def not_flat(*arrays: Any) -> Reason | None:
    return None if all(a.flags.c_contiguous for a in arrays) else ("needs C-contiguous arrays",)


def not_flippable(weight: Any, stride: tuple, padding: tuple, dilation: tuple) -> Reason | None:
    """Input gradient as a convolution with the flipped kernel: only stride 1 and padding up to (K-1)*D keep it one."""
    if stride != (1, 1):
        return "needs stride 1, got {}x{}", *stride
    for kernel, distance, pads in zip(weight.shape[2:], dilation, padding, strict=True):
        if max(pads) > (kernel - 1) * distance:
            return "needs padding <= {}, got {}", (kernel - 1) * distance, max(pads)
    return None


def backward_work(grad_output: Any, weight: Any, input_shape: tuple, dilation: tuple) -> tuple[float, float, float]:
    """Of the three input gradients of stride 1, per kernel row and filter, in multiply-adds of one vector: lanes = pixels of a row
    (direct_planes_flipped), lanes = channels (direct_flipped, whose two transposes of C-contiguous arrays weigh as 0.15 of its sums) and overlapped
    adding. That works in tiles of up to 8 pixels of one row and reads, adds and writes each sum once more, which takes as long as 16 filters.
    Fits the measured times of ten layers of 8 to 64 channels within 15 %."""
    size, (H, W), (OH, OW) = grad_output.itemsize, input_shape[2:], grad_output.shape[2:]
    filters, channels, KW = grad_output.shape[1] * weight.shape[1] / input_shape[1], weight.shape[1], weight.shape[3]
    runs = vectors(KW * channels, size) if dilation[1] == 1 else KW * vectors(channels, size)
    transposes = 1.15 if grad_output.strides[3] == size else 1.0
    return H * vectors(W, size) * channels * KW, transposes * H * W * vectors(channels, size) * KW, OH * -(-OW // 8) * 8 * runs * (1 + 16 / filters)


def flip_is_slower(grad_output: Any, weight: Any, input_shape: tuple, stride: tuple, padding: tuple, dilation: tuple, groups: int) -> Reason | None:
    reason = not_flippable(weight, stride, padding, dilation)
    if reason:
        return reason
    _, flipped, overlapped = backward_work(grad_output, weight, input_shape, dilation)
    return None if flipped <= overlapped else ("overlapped adding takes {:.0%} of its multiply-adds", overlapped / flipped)


# "direct": only algorithms that are exact for integers; "winograd": also where it does not pay. See fastcnn.use_algorithm.
# It belongs to the context (this thread, this asyncio task), so that a choice for one call never reaches another thread's.
algorithm: ContextVar[str] = ContextVar("fastcnn_algorithm", default="auto")


def not_winograd(x: Any, weight_shape: tuple, output_size: tuple, options: tuple, least_gain: float, least_tiles: int) -> Reason | None:
    """F(4x4, 3x3) on float32. It does 36 multiply-adds per tile of 4x4 outputs where the direct algorithm does 9 per output, and pays for it by transforms: of
    every tile, so the tiles must be well filled (`least_gain`: direct over Winograd operations), and of the weights, so there must be tiles to share them."""
    stride, padding, dilation, groups = options
    O, C, KH, KW = weight_shape
    choice = algorithm.get()
    if choice == "direct":
        return ("the algorithm is set to 'direct'",)
    if x.itemsize != 4:
        return "needs float32, got {}", x.dtype
    if KH != 3 or KW != 3 or stride != (1, 1) or dilation != (1, 1) or groups != 1:
        return "needs a 3x3 kernel, stride 1, dilation 1, groups 1, got {}x{}, {}, {}, {}", KH, KW, stride, dilation, groups
    if choice == "winograd":
        return None
    if O < 16 or C < 16:
        return "needs at least 16 input and output channels to fill its vectors, got {} and {}", C, O
    OH, OW = output_size
    tiles = -(-OH // 4) * -(-OW // 4)
    if 9 * OH * OW < least_gain * 36 * tiles:
        return "its {} tiles of 4x4 are too empty for an output of {}x{}: {} products instead of {}", tiles, OH, OW, 36 * tiles, 9 * OH * OW
    if len(x) * tiles < least_tiles:
        return "needs at least {} tiles to pay for transforming the weights, got {}", least_tiles, len(x) * tiles
    return None


def not_winograd_forward(input: Any, weight: Any, bias: Any, stride: tuple, padding: tuple, dilation: tuple, groups: int) -> Reason | None:
    _, _, H, W = input.shape
    (PT, PB), (PL, PR) = padding
    return not_winograd(input, weight.shape, (H + PT + PB - 2, W + PL + PR - 2), (stride, padding, dilation, groups), 1.5, 16)


def not_winograd_backwards(grad_output: Any, weight: Any, input_shape: tuple, stride: tuple, padding: tuple, dilation: tuple, groups: int) -> Reason | None:
    """The same for the input gradient, whose output is the layer's input; beyond padding 2 it would not be a convolution of the whole grad_output."""
    reason = not_winograd(grad_output, weight.shape, input_shape[2:], (stride, padding, dilation, groups), 1.5, 16)
    return reason or not_flippable(weight, stride, padding, dilation)


def vectors(elements: int, itemsize: int) -> int:
    return -(-elements * itemsize // _runtime.vector_bytes())


MOST_FLAT_PIXELS = 256  # of a batch: beyond, packing the weights is shared by enough of them


def not_flat_layer(x: Any, channels: int, taps: int, size: tuple, pitch: int, stride: tuple, groups: int) -> Reason | None:
    """Lanes = pixels across the ends of rows, weights read where they lie: for few small planes of many channels, where packing weights weighs most."""
    if stride != (1, 1) or groups != 1:
        return "needs stride 1 and one group, got {}, {}", stride, groups
    if x.strides[3] != x.itemsize:
        return ("needs rows of consecutive pixels (C-contiguous memory)",)
    OH, OW = size
    if len(x) * OH * OW > MOST_FLAT_PIXELS:
        return "needs at most {} pixels, got {}: packing the weights pays", MOST_FLAT_PIXELS, len(x) * OH * OW
    if min(channels, x.shape[1]) < 32 or taps == 1:
        return "needs at least 32 channels on both sides and more than one tap, got {}, {} and {}: packing is cheap", x.shape[1], channels, taps
    full = OH * OW * x.itemsize / (vectors((OH - 1) * pitch + OW, x.itemsize) * _runtime.vector_bytes())
    return None if full >= 0.6 else ("planes of {}x{} would fill only {:.0%} of their vectors", OH, OW, full)


def not_flat_planes(input: Any, weight: Any, bias: Any, stride: tuple, padding: tuple, dilation: tuple, groups: int) -> Reason | None:
    (PT, PB), (PL, PR) = padding
    O, _, KH, KW = weight.shape
    H, W = input.shape[2:]
    size = (H + PT + PB - (KH - 1) * dilation[0], W + PL + PR - (KW - 1) * dilation[1])
    return not_flat_layer(input, O, KH * KW, size, max(size[1], W + max(PL, PR)), stride, groups)


def not_flat_planes_backwards(
    grad_output: Any, weight: Any, input_shape: tuple, stride: tuple, padding: tuple, dilation: tuple, groups: int
) -> Reason | None:
    reason = not_flippable(weight, stride, padding, dilation)
    if reason:
        return reason
    pitch = max(input_shape[3], grad_output.shape[3] + (weight.shape[3] - 1) * dilation[1] - min(padding[1]))
    return not_flat_layer(grad_output, weight.shape[1], weight[0, 0].size, input_shape[2:], pitch, stride, groups)


def not_stencil_rows(stride: tuple, *arrays: Any) -> Reason | None:
    if stride[1] > 2:
        return "needs column stride 1 or 2, got {}", stride[1]
    return None if all(a.strides[3] == a.itemsize for a in arrays) else ("needs rows of consecutive pixels (C-contiguous memory)",)


def not_depthwise_rows(
    pixels: int, weight_shape: tuple, channels: int, stride: tuple, padding: tuple, dilation: tuple, groups: int, *arrays: Any
) -> Reason | None:
    """Rows of `pixels` in the lanes. Short rows leave most of them idle, which may cost four times the vectors that lanes = channels would need,
    since those transpose what they read and write; with stride 2 that is less."""
    reason = not_depthwise(channels, weight_shape[0], groups)
    if reason:
        return reason
    KH, KW = weight_shape[2:]
    if KH != KW or KH not in (3, 5) or stride not in ((1, 1), (2, 2)) or dilation != (1, 1):
        return "needs a 3x3 or 5x5 kernel, stride 1 or 2, dilation 1, got {}x{}, {}, {}", KH, KW, stride, dilation
    if KH == 5 and stride == (1, 1) and _runtime.isa() not in ("avx512", "neon"):
        return ("needs 32 registers for the 25 weights of a 5x5 kernel",)
    if max(padding[1]) >= KW:
        return "needs fewer padded columns on a side than the kernel's {}, got {}", KW, max(padding[1])
    if not all(a.strides[3] == a.itemsize for a in arrays):
        return ("needs rows of consecutive pixels (C-contiguous memory)",)
    size = arrays[0].itemsize
    if vectors(pixels, size) * channels > (4 if stride == (1, 1) else 2.7) * pixels * vectors(channels, size):
        return "{} pixels a row fill its vectors worse than {} channels do", pixels, channels
    return None


def not_depthwise_planes(input: Any, weight: Any, bias: Any, stride: tuple, padding: tuple, dilation: tuple, groups: int) -> Reason | None:
    """Lanes = pixels of a row, planes read where they lie, for the common depthwise layers."""
    pixels = (input.shape[3] + sum(padding[1]) - weight.shape[3]) // stride[1] + 1
    return not_depthwise_rows(pixels, weight.shape, input.shape[1], stride, padding, dilation, groups, input)


def not_depthwise_planes_backwards(
    grad_output: Any, weight: Any, input_shape: tuple, stride: tuple, padding: tuple, dilation: tuple, groups: int
) -> Reason | None:
    pixels = -(-input_shape[3] // stride[1])
    reason = not_depthwise_rows(pixels, weight.shape, input_shape[1], stride, padding, dilation, groups, grad_output)
    if reason:
        return reason
    (PT, _), (PL, _) = padding
    if stride == (2, 2) and (PT + PL) % 2:
        return "needs an even or an odd padding above and left, got {} and {}", PT, PL
    return None


def not_depthwise_planes_grad_weight(
    grad_output: Any, input: Any, weight_shape: tuple, stride: tuple, padding: tuple, dilation: tuple, groups: int
) -> Reason | None:
    return not_depthwise_rows(grad_output.shape[3], weight_shape, input.shape[1], stride, padding, dilation, groups, grad_output, input)


def not_filled(pixels: int, ours: float, groups: int, channels: int, filters: int, size: int) -> Reason | None:
    """`ours` vectors for a row of pixels of all filters of a group, against those where the lanes are the channels: of all groups in a depthwise layer, of one
    in others. It may cost half as much again, because those must transpose what they read and write."""
    theirs = pixels * vectors(groups, size) / groups if channels == filters == 1 else pixels * vectors(filters, size)
    return None if ours <= 1.5 * theirs else ("{} pixels a row fill its vectors worse than the channels do", pixels)


def not_stencil(input: Any, weight: Any, bias: Any, stride: tuple, padding: tuple, dilation: tuple, groups: int) -> Reason | None:
    """Lanes = pixels of a row, rows of the tile = rows of one filter: for groups of one or two filters, which leave the other tiles few sums to hold."""
    reason = not_stencil_rows(stride, input)
    if reason:
        return reason
    O, channels, _, KW = weight.shape
    filters, size, (PL, PR) = O // groups, input.itemsize, padding[1]
    if filters > 1 and (groups == 1 or channels > 4 or filters > (2 if stride[1] == 1 else 4)):
        return "needs groups of one filter, or of two and at most 4 channels, got {} of {} filters and {} channels", groups, filters, channels
    OW = (input.shape[3] + PL + PR - (KW - 1) * dilation[1] - 1) // stride[1] + 1
    return not_filled(OW, vectors(OW, size) * filters, groups, channels, filters, size)


def not_stencil_backwards(grad_output: Any, weight: Any, input_shape: tuple, stride: tuple, padding: tuple, dilation: tuple, groups: int) -> Reason | None:
    """The same for the input gradient: a convolution for each of the SH x SW positions of a pixel, the roles of channels and filters exchanged. Its work
    against overlapped adding's, whose sums are short where a group has few filters."""
    reason = not_stencil_rows(stride, grad_output)
    if reason:
        return reason
    O, channels, _, KW = weight.shape
    filters, size, (H, W), (OH, OW) = O // groups, grad_output.itemsize, input_shape[2:], grad_output.shape[2:]
    if filters > (1 if groups == 1 else 4) or (groups > 1 and channels > 4):
        return "needs groups of at most 4 channels and filters, or one filter, got {} groups of {} and {}", groups, channels, filters
    pixels = -(-W // stride[1])
    if channels == filters == 1 < groups:
        return not_filled(pixels, vectors(pixels, size), groups, 1, 1, size)
    if groups == 1 and not_planes_backwards(grad_output, weight, input_shape, stride, padding, dilation, groups) is None:
        return ("one vector of pixels serves several channels in direct_planes_flipped",)
    ours, theirs = -(-H // stride[0]) * vectors(pixels, size) * channels * KW, OH * OW * vectors(KW * channels, size)
    return None if ours <= (1.7 if groups == 1 else 3) * theirs else ("{} pixels a row fill its vectors worse than {} channels do", pixels, channels)


def not_stencil_grad_weight(grad_output: Any, input: Any, weight_shape: tuple, stride: tuple, padding: tuple, dilation: tuple, groups: int) -> Reason | None:
    """The same for the weight gradient, which keeps a vector per weight of a group."""
    reason = not_stencil_rows(stride, grad_output, input)
    if reason:
        return reason
    O, channels, KH, KW = weight_shape
    filters, OW, size = O // groups, grad_output.shape[3], input.itemsize
    if filters > 1 and (groups == 1 or channels * filters > 16):
        return "needs groups of one filter, or of at most 16 pairs of channels and filters, got {} of {} and {}", groups, channels, filters
    partial = channels * filters * KH * KW * _runtime.vector_bytes()
    if partial > 2 << 20:
        return "its partial gradient of {} bytes would not stay in the caches", partial
    return not_filled(OW, vectors(OW, size) * filters, groups, channels, filters, size)


def not_pixels(x: Any, filters: int, taps: int, pixels: int, groups: int) -> Reason | None:
    """A matrix product of the weights and pixels laid side by side, neither transposed. 1x1 kernels always gain. For larger ones each input pixel is laid out
    once per tap, which takes a third of a tile's time: as much as the transposes and packed weights of channels-last tiles from 512 filters on, and where all
    pixels are one tile."""
    if x.strides[3] != x.itemsize:
        return ("needs rows of consecutive pixels (C-contiguous memory)",)
    if groups > 1 and filters < 8:
        return "needs 8 filters a group, got {}", filters
    if taps == 1:
        return None if pixels >= 8 else ("needs images of at least 8 pixels, got {}", pixels)
    if filters >= 512 or (filters >= 128 and len(x) * pixels <= 32):
        return None
    return "needs 512 filters to pay for laying out the pixels of {} taps, got {}", taps, filters


def not_pixels_forward(input: Any, weight: Any, bias: Any, stride: tuple, padding: tuple, dilation: tuple, groups: int) -> Reason | None:
    OH, OW = output_size(input.shape, weight.shape, stride, padding, dilation)
    return not_pixels(input, len(weight) // groups, weight.shape[2] * weight.shape[3], OH * OW, groups)


def not_pixels_backwards(grad_output: Any, weight: Any, input_shape: tuple, stride: tuple, padding: tuple, dilation: tuple, groups: int) -> Reason | None:
    reason = not_flippable(weight, stride, padding, dilation)
    return reason or not_pixels(grad_output, weight.shape[1], weight.shape[2] * weight.shape[3], input_shape[2] * input_shape[3], groups)


def not_padded_pointwise(x: Any, weight_shape: tuple, padding: tuple) -> Reason | None:
    if weight_shape[2:] != (1, 1) or padding == pointwise.NONE:
        return "needs a 1x1 kernel with padding, got {}x{} and {}", *weight_shape[2:], padding
    return None if x.strides[3] == x.itemsize else ("needs rows of consecutive pixels (C-contiguous memory)",)


def not_planes(input: Any, weight: Any, bias: Any, stride: tuple, padding: tuple, dilation: tuple, groups: int) -> Reason | None:
    """Lanes = pixels of a row instead of output channels. What decides is which of the two fills its vectors: OH * vectors(OW) * O/G against
    OH * OW * vectors(O/G) multiply-adds per tap. With few taps the transposes that channels-last tiles need on C-contiguous arrays weigh as much: it may
    then cost half as much again."""
    if stride[1] != 1:
        return "needs column stride 1, got {}", stride[1]
    size = input.itemsize
    if input.strides[3] != size:
        return ("needs rows of consecutive pixels (C-contiguous memory)",)
    O, channels, KH, KW = weight.shape
    filters, (PL, PR) = O // groups, padding[1]
    OW = input.shape[3] + PL + PR - (KW - 1) * dilation[1]
    ours = vectors(OW, size) * filters
    if groups > 1 and channels == filters == 1:  # against one filter per lane
        theirs, most = OW * vectors(groups, size) / groups, 0.9
    else:
        theirs, most = OW * vectors(filters, size), 1.5 if channels * KH * KW <= 150 else 1.1
    return None if ours <= most * theirs else ("{} pixels a row fill its vectors worse than {} channels do", OW, filters)


def not_planes_backwards(grad_output: Any, weight: Any, input_shape: tuple, stride: tuple, padding: tuple, dilation: tuple, groups: int) -> Reason | None:
    """The same for the input gradient, as a convolution with the flipped kernel."""
    reason = not_flippable(weight, stride, padding, dilation)
    if reason:
        return reason
    size = grad_output.itemsize
    if grad_output.strides[3] != size:
        return ("needs rows of consecutive pixels (C-contiguous memory)",)
    C, channels = input_shape[1], weight.shape[1]
    ours, flipped, overlapped = backward_work(grad_output, weight, input_shape, dilation)
    theirs = min(flipped, overlapped)
    if groups == C > 1:  # against one filter per lane
        theirs = 0.9 * flipped * vectors(C, size) / C
    return None if ours <= theirs else ("{} pixels a row fill its vectors worse than {} channels do", input_shape[3], channels)


def not_planes_grad_weight(grad_output: Any, input: Any, weight_shape: tuple, stride: tuple, padding: tuple, dilation: tuple, groups: int) -> Reason | None:
    """As not_planes, but a multiply-add reads two vectors instead of one and a broadcast, so it must save a third to a half of them; and it keeps a vector per
    weight."""
    if stride[1] != 1:
        return "needs column stride 1, got {}", stride[1]
    size = input.itemsize
    if input.strides[3] != size or grad_output.strides[3] != size:
        return ("needs rows of consecutive pixels (C-contiguous memory)",)
    O, channels, KH, KW = weight_shape
    filters, OW = O // groups, grad_output.shape[3]
    # the other tile has KW * channels rows; with few of them it has few sums
    most = 0.7 if channels < 16 else 0.5
    if vectors(OW, size) * filters > most * OW * vectors(filters, size):
        return "{} pixels a row fill its vectors worse than {} channels do", OW, filters
    partial = O * channels * KH * KW * _runtime.vector_bytes()
    return None if partial <= 256 * 1024 else ("its partial gradient of {} bytes would not stay in L2", partial)


def not_class_numbers(target: Any) -> Reason | None:
    return None if target.ndim == 1 else ("needs class numbers as target, got probabilities",)


MOVED = 32  # operations that take as long as moving one element into the lanes or to channels-last, or back: 8 elements per ns against 250 operations


def moving(operations: int, elements: int) -> float:
    """What such transposes add to a convolution, as a share of its own operations."""
    return MOVED * elements / max(operations, 1)


def not_lanes(
    batch: int, weight_shape: tuple, image: tuple, output: tuple, groups: int, itemsize: int, rivals: Callable[[float], float], arrays: tuple
) -> Reason | None:
    """Images in the lanes: every lane works however few channels there are, but all images are transposed on the way in and out, as for lanes = channels.
    `rivals`: the work of the best other algorithm in multiples of the operations, given what moving adds. Within 20 % of the measured times of 14 layers
    of 1 to 64 channels."""
    O, C, KH, KW = weight_shape
    if groups != 1:
        return "needs groups = 1, got {}", groups
    lanes = _runtime.vector_bytes() // itemsize
    filled = -(-batch // lanes) * lanes
    if batch == 0 or 10 * batch < 9 * filled:
        return "{} images fill {} lanes too badly", batch, filled
    elements, results = C * image[0] * image[1], O * output[0] * output[1]
    if max(elements, results) * lanes * itemsize > 4 << 20:
        return ("a group of images would not stay in L2",)
    move = moving(2 * results * C * KH * KW, elements + results)
    ours, theirs = 1.05 * (1 + move) * filled / batch, rivals(move)
    if ours > theirs:
        return "would take {:.2f} times its operations, another algorithm {:.2f}", ours, theirs
    return not_flat(*arrays)


def lanes_per(elements: int, itemsize: int) -> float:
    """Lanes at work per element that lies in them."""
    return vectors(elements, itemsize) * _runtime.vector_bytes() / itemsize / elements


def channel_work(channels: int, itemsize: int) -> float:
    """Multiply-adds of an algorithm whose lanes are the output channels; a tile of one vector has sums enough only just, and loads 9 times for 8 of them."""
    return (1.2 if vectors(channels, itemsize) == 1 else 1.05) * lanes_per(channels, itemsize)


def not_lanes_forward(x: Any, w: Any, b: Any, stride: tuple, padding: tuple, dilation: tuple, groups: int) -> Reason | None:
    OH, OW = output_size(x.shape, w.shape, stride, padding, dilation)
    # direct_planes moves nothing; beginning and storing a tile takes as long as 20 of its taps
    pixels = 1.1 * lanes_per(OW, x.itemsize) + min(1, 20 / w[0].size) if stride[1] == 1 else math.inf
    channels = channel_work(len(w), x.itemsize)
    return not_lanes(len(x), w.shape, x.shape[2:], (OH, OW), groups, x.itemsize, lambda move: min(pixels, channels + move), (x, w))


def not_lanes_backwards(gy: Any, w: Any, xs: tuple, stride: tuple, padding: tuple, dilation: tuple, groups: int) -> Reason | None:
    """Its rivals are best at small kernels (with 3x3 lanes take 1.2 times as long), and at rows of other than 5 weights, for which lanes have no tile
    (7x7: 2 to 5 times as long). From 32 channels on overlapped adding fills its lanes as well."""
    if w.shape[2] < 5 or w.shape[3] != 5 or stride != (1, 1) or w.shape[1] >= 32:
        return "needs rows of 5 weights, at least 5 of them, stride 1 and fewer than 32 channels, got {}x{}, {} and {}", *w.shape[2:], stride, w.shape[1]
    pixels = 1.1 * lanes_per(xs[3], gy.itemsize) * (xs[2] * xs[3]) / (gy.shape[2] * gy.shape[3])  # direct_planes_flipped
    return not_lanes(len(gy), w.shape, xs[2:], gy.shape[2:], groups, gy.itemsize, lambda move: pixels if w.shape[1] >= 4 else 2 + move, (gy, w))


def not_lanes_grad_weight(gy: Any, x: Any, ws: tuple, stride: tuple, padding: tuple, dilation: tuple, groups: int) -> Reason | None:
    O, C, KH, KW = ws
    sums = O * C * KH * KW * _runtime.vector_bytes()
    if sums > 1 << 20:
        return "its partial gradient of {} bytes would not stay in L2", sums
    taps, half = C * KH * KW, 4  # rows of the rival's tile are taps x channels, in halves of tiles
    rival = channel_work(O, x.itemsize) * (-(-taps // half) * half / taps)
    return not_lanes(len(gy), ws, x.shape[2:], gy.shape[2:], groups, gy.itemsize, lambda move: rival + move, (gy, x))


MOST_DOT_ROWS = 4


def not_dots(x: Any) -> Reason | None:
    """Lanes along the sum: time grows with the rows of x; with rows in the lanes it is the same for 1 as for 16. Measured from 84x120 to 1024x4096 weights,
    one row takes an eighth to a third of the other's time, and they meet between 4 and 8."""
    return None if len(x) <= MOST_DOT_ROWS else ("needs at most {} rows, got {}: more fill the lanes", MOST_DOT_ROWS, len(x))


def not_few_rows(x: Any, weight: Any) -> Reason | None:
    """Packing x instead of the weights pays when it is the smaller by half; the transposed product of few outputs leaves rows of its tiles empty."""
    if len(weight) < 2 * len(x):
        return "needs at least twice as many output features as rows, got {} and {}", len(weight), len(x)
    return None


def not_whole_vectors(weight: Any) -> Reason | None:
    lanes = _runtime.vector_bytes() // weight.itemsize
    return None if weight.shape[1] % lanes == 0 else ("needs a multiple of {} input features, got {}", lanes, weight.shape[1])


def run_first(op: str, *arguments: Any, out: Any) -> Any:
    """The op by the first implementation that applies, into `out`."""
    return choose(op, arguments)[0].function(*arguments, out=out)


def conv2d_covering(input: Any, weight: Any, bias: Any, stride: tuple, padding: tuple, dilation: tuple, groups: int, out: Any = None) -> Any:
    rows, filters = len(input), len(weight)
    flat = None if out is None else out.reshape(rows, filters)
    output = run_first("linear", input.reshape(rows, weight[0].size), weight.reshape(filters, weight[0].size), bias, out=flat)
    return output.reshape(rows, filters, 1, 1)


def conv2d_grad_input_covering(
    grad_output: Any, weight: Any, input_shape: tuple, stride: tuple, padding: tuple, dilation: tuple, groups: int, out: Any = None
) -> Any:
    rows, filters = len(grad_output), len(weight)
    flat = None if out is None else out.reshape(rows, -1)
    return run_first("linear_grad_input", grad_output.reshape(rows, filters), weight.reshape(filters, -1), out=flat).reshape(input_shape)


def conv2d_grad_weight_covering(
    grad_output: Any, input: Any, weight_shape: tuple, stride: tuple, padding: tuple, dilation: tuple, groups: int, out: Any = None
) -> Any:
    rows, filters, size = len(input), weight_shape[0], weight_shape[1] * weight_shape[2] * weight_shape[3]
    flat = None if out is None else out.reshape(filters, size)
    return _conv_grad_weight.linear_grad_weight(grad_output.reshape(rows, filters), input.reshape(rows, size), flat).reshape(weight_shape)


IMPLEMENTATIONS: dict[str, list[Impl]] = {
    "conv2d": [
        Impl("gemm_covering", conv2d_covering,
             lambda x, w, b, s, p, d, g: not_covering(x.shape, w.shape, p, g) or not_flat(x, w)),
        Impl("without_padding", pointwise.conv2d, lambda x, w, b, s, p, d, g: not_padded_pointwise(x, w.shape, p)),
        Impl("winograd_4x4_3x3", _winograd.conv2d, not_winograd_forward),
        Impl("direct_pixels", _pixels.conv2d, not_pixels_forward),
        Impl("direct_lanes", _lanes.conv2d, not_lanes_forward),
        Impl("direct_flat", _flat.conv2d, not_flat_planes),
        Impl("direct_depthwise_planes", _depthwise_planes.conv2d, not_depthwise_planes),
        Impl("direct_stencil", _stencil.conv2d, not_stencil),
        Impl("direct_planes", _planes.conv2d, not_planes),
        Impl("direct_depthwise", _depthwise.conv2d, lambda x, w, b, s, p, d, g: not_depthwise(x.shape[1], w.shape[0], g)),
        Impl("direct", _conv_forward.conv2d),
    ],
    "conv2d_grad_input": [
        Impl("gemm_covering", conv2d_grad_input_covering,
             lambda gy, w, xs, s, p, d, g: not_covering(xs, w.shape, p, g) or not_flat(gy, w)),
        Impl("without_padding", pointwise.conv2d_grad_input, lambda gy, w, xs, s, p, d, g: not_padded_pointwise(gy, w.shape, p)),
        Impl("winograd_4x4_3x3", _winograd.conv2d_grad_input, not_winograd_backwards),
        Impl("direct_pixels_flipped", _pixels.conv2d_grad_input, not_pixels_backwards),
        Impl("direct_lanes", _lanes.conv2d_grad_input, not_lanes_backwards),
        Impl("direct_flat_flipped", _flat.conv2d_grad_input, not_flat_planes_backwards),
        Impl("direct_depthwise_planes", _depthwise_planes.conv2d_grad_input, not_depthwise_planes_backwards),
        Impl("direct_stencil", _stencil.conv2d_grad_input, not_stencil_backwards),
        Impl("direct_planes_flipped", _planes.conv2d_grad_input, not_planes_backwards),
        Impl("direct_depthwise_flipped", _depthwise.conv2d_grad_input_flipped,
             lambda gy, w, xs, s, p, d, g: not_depthwise(xs[1], w.shape[0], g) or not_flippable(w, s, p, d)),
        Impl("direct_depthwise", _depthwise.conv2d_grad_input, lambda gy, w, xs, s, p, d, g: not_depthwise(xs[1], w.shape[0], g)),
        Impl("direct_flipped", _conv_forward.conv2d_grad_input_flipped, flip_is_slower),
        Impl("direct_overlap_add", _conv_grad_input.conv2d_grad_input),
    ],
    "conv2d_grad_weight": [
        Impl("gemm_covering", conv2d_grad_weight_covering,
             lambda gy, x, ws, s, p, d, g: not_covering(x.shape, ws, p, g) or not_flat(gy, x)),
        Impl("without_padding", pointwise.conv2d_grad_weight, lambda gy, x, ws, s, p, d, g: not_padded_pointwise(x, ws, p)),
        Impl("winograd_4x4_3x3", _winograd.conv2d_grad_weight,
             lambda gy, x, ws, s, p, d, g: not_winograd(gy, ws, gy.shape[2:], (s, p, d, g), 2.0, 32)),
        Impl("direct_lanes", _lanes.conv2d_grad_weight, not_lanes_grad_weight),
        Impl("direct_depthwise_planes", _depthwise_planes.conv2d_grad_weight, not_depthwise_planes_grad_weight),
        Impl("direct_stencil", _stencil.conv2d_grad_weight, not_stencil_grad_weight),
        Impl("direct_depthwise", _depthwise.conv2d_grad_weight, lambda gy, x, ws, s, p, d, g: not_depthwise(x.shape[1], ws[0], g)),
        Impl("direct_planes", _planes.conv2d_grad_weight, not_planes_grad_weight),
        Impl("direct", _conv_grad_weight.conv2d_grad_weight),
    ],
    "conv2d_grad_bias": [Impl("direct", _conv_grad_weight.conv2d_grad_bias)],
    "linear": [
        Impl("dot_products", _linear.linear_dots, lambda x, w, b: not_dots(x)),
        Impl("gemm_weights_in_place", _linear.linear, lambda x, w, b: not_few_rows(x, w)),
        Impl("gemm", _conv_forward.linear),
    ],
    "linear_grad_input": [
        Impl("gemm_weights_in_place", _linear.linear_grad_input, lambda gy, w: not_whole_vectors(w)),
        Impl("gemm", _conv_forward.linear_grad_input),
    ],
    "linear_grad_weight": [Impl("gemm", _conv_grad_weight.linear_grad_weight)],
    "linear_grad_bias": [Impl("direct", _conv_grad_weight.linear_grad_bias)],
    "unfold": [Impl("rows", _columns.unfold)],
    "fold": [Impl("rows", _columns.fold)],
    "max_pool2d": [Impl("windows", _pool.max_pool2d)],
    "im2col": [Impl("rows", _columns.im2col)],
    "col2im": [Impl("rows", _columns.col2im)],
    "channels_last": [Impl("transpose", _formats.channels_last)],
    "max_pool2d_backward": [Impl("scatter", _pool.max_pool2d_backward)],
    "max_pool2d_backward_places": [Impl("gather", _pool.max_pool2d_backward_places)],
    "max_pool2d_backward_ties": [Impl("windows", _pool.max_pool2d_backward_ties)],
    "avg_pool2d": [Impl("windows", _pool.avg_pool2d)],
    "avg_pool2d_backward": [Impl("windows", _pool.avg_pool2d_backward)],
    "adaptive_avg_pool2d": [Impl("windows", _pool.adaptive_avg_pool2d)],
    "adaptive_avg_pool2d_backward": [Impl("windows", _pool.adaptive_avg_pool2d_backward)],
    "adaptive_max_pool2d": [Impl("windows", _pool.adaptive_max_pool2d)],
    "batch_norm": [Impl("two_pass", _norm.batch_norm)],
    "batch_norm_backward": [Impl("three_constants", _norm.batch_norm_backward)],
    "layer_norm": [Impl("rows", _row_norm.layer_norm)],
    "layer_norm_backward": [Impl("rows", _row_norm.layer_norm_backward)],
    "group_norm": [Impl("groups", _row_norm.group_norm)],
    "group_norm_backward": [Impl("groups", _row_norm.group_norm_backward)],
    "mse_loss": [Impl("vector", _eltwise.mse_loss)],
    "mse_loss_backward": [Impl("vector", _eltwise.mse_loss_backward)],
    "softmax": [Impl("lanes", _softmax.softmax)],
    "softmax_backward": [Impl("lanes", _softmax.softmax_backward)],
    "log_softmax": [Impl("lanes", _softmax.log_softmax)],
    "log_softmax_backward": [Impl("lanes", _softmax.log_softmax_backward)],
    "cross_entropy": [
        Impl("lanes", _softmax.cross_entropy, lambda x, t, w, i, r, s: not_class_numbers(t)),
        Impl("reference", reference.cross_entropy),
    ],
    "cross_entropy_backward": [
        Impl("lanes", _softmax.cross_entropy_backward, lambda g, x, t, w, i, r, s: not_class_numbers(t)),
        Impl("reference", reference.cross_entropy_backward),
    ],
}
for _op in ("sgd_update", "adagrad_update", "rmsprop_update", "adam_update"):
    IMPLEMENTATIONS[_op] = [Impl("one_pass", getattr(_optim, _op))]
for _op in ("relu", "leaky_relu", "elu", "selu", "gelu", "silu", "softplus", "sigmoid", "tanh"):
    IMPLEMENTATIONS[_op] = [Impl("vector", getattr(_eltwise, _op))]
    IMPLEMENTATIONS[f"{_op}_backward"] = [Impl("vector", getattr(_eltwise, f"{_op}_backward"))]
for _op in OPS:
    IMPLEMENTATIONS.setdefault(_op, [Impl("reference", getattr(reference, _op))])


NEEDS_PLANES = ("gemm_covering", "without_padding", "direct_lanes", "direct_depthwise_planes", "direct_stencil") + tuple(
    f"direct_{lanes}{flipped}" for lanes in ("pixels", "planes", "flat") for flipped in ("", "_flipped")
)

Callback = Callable[[str, str, list[tuple[str, str]]], None]
_recorder: Callback | None = None
_recording: list[Callback] = []  # the same: empty, or it; ops of one implementation look here, which takes a small call a tenth of its time less


def record(callback: Callback | None) -> None:
    """While a callback is set, every dispatch calls it with the op, the chosen implementation and (name, reason) of those that declined before it."""
    global _recorder
    _recorder = callback
    _recording[:] = [] if callback is None else [callback]


def choose(op: str, arguments: tuple, channels_last: bool = False) -> tuple[Impl, list[tuple[str, Reason]]]:
    """The implementation for these arguments, and why each earlier one declined. `channels_last`: the result has to be that, whatever the input is."""
    declined = []
    for impl in IMPLEMENTATIONS[op]:
        if channels_last and impl.name in NEEDS_PLANES:
            reason: Reason | None = ("its result is C-contiguous",)
        else:
            reason = impl.declines(*arguments) if impl.declines else None
        if reason is None:
            return impl, declined
        declined.append((impl.name, reason))
    raise AssertionError(f"{op}: the last implementation must always apply")


# Implementations chosen before. A choice depends on shapes, strides and element types of the arrays, on the other arguments, the algorithm and the
# instruction set; looking it up takes a third of making it.
_chosen: dict[tuple, Impl] = {}
MOST_CHOICES = 4096


def forget_choices() -> None:
    """After a change of the instruction set."""
    _chosen.clear()


def first_of(op: str, arguments: tuple) -> Impl:
    """The first implementation that applies, without the reasons: for ops whose questions are short."""
    for impl in IMPLEMENTATIONS[op]:
        if impl.declines is None or impl.declines(*arguments) is None:
            return impl
    raise AssertionError(f"{op}: the last implementation must always apply")


def remembered(op: str, arguments: tuple) -> Impl:
    """What choose() gives for these arguments."""
    key: list[Any] = [op, algorithm.get()]
    for a in arguments:
        if type(a) is ndarray:
            key += (a.shape, a.strides, a.dtype.char)
        else:
            key.append(a)
    try:
        known = _chosen.get(tuple(key))
    except TypeError:  # an argument that cannot be a key
        return choose(op, arguments)[0]
    if known is None:
        if len(_chosen) >= MOST_CHOICES:
            _chosen.clear()
        known = _chosen[tuple(key)] = choose(op, arguments)[0]
    return known


def conv2d_into(out: Any, channels_last: bool, *arguments: Any) -> Any:
    """conv2d into an array of the format that its result has."""
    if _recorder is None and not channels_last:
        return remembered("conv2d", arguments).function(*arguments, out=out)
    impl, declined = choose("conv2d", arguments, channels_last)
    if _recorder is not None:
        _recorder("conv2d", impl.name, [(name, reason[0].format(*reason[1:])) for name, reason in declined])
    return impl.function(*arguments, out=out)


def dispatcher(op: str) -> Callable[..., Any]:
    """A function of the op's name and parameters that runs the first implementation that applies."""
    names = ", ".join(OPS[op].parameters)
    only = IMPLEMENTATIONS[op][0] if len(IMPLEMENTATIONS[op]) == 1 else None
    find = remembered if op.startswith("conv2d") else first_of

    def run(*arguments: Any) -> Any:
        if _recorder is None:
            return (only or find(op, arguments)).function(*arguments)
        impl, declined = (only, []) if only else choose(op, arguments)
        _recorder(op, impl.name, [(name, reason[0].format(*reason[1:])) for name, reason in declined])
        return impl.function(*arguments)

    # the signature that every backend has; a plain *arguments would accept anything and tell nobody what is wanted
    scope: dict[str, Any] = {"run": run, "recording": _recording, "only": only and only.function}
    body = f"run({names}) if recording else only({names})" if only else f"run({names})"
    exec(f"def {op}({names}): return {body}", scope)
    function = scope[op]
    function.__doc__ = f"{OPS[op].formula}\n\n{OPS[op].shapes}"
    function.__module__ = "fastcnn.backends.cpu"
    return function
