"""Convolution and pooling arithmetic: ints in, ints out.

One letter, one meaning, here and everywhere above:

    N C H W     batch, channels, height, width of the input
    O KH KW     filters (output channels), kernel height and width
    OH OW       output height and width
    G           groups
    SH SW  PH PW  DH DW     stride, padding, dilation (1 = dense)

The padding of a convolution is four numbers, ((PT, PB), (PL, PR)): top, bottom, left, right, because 'same' with an even kernel is
asymmetric. Pools pad both sides alike, (PH, PW).

Source: Dumoulin & Visin 2016 (arXiv:1603.07285); PyTorch's documentation where the two differ.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import prod

Pair = tuple[int, int]
Padding = tuple[Pair, Pair]

# No array fits into more: processors address 2^47 bytes per process. Byte counts and flat indices then stay exact in the int64 arithmetic of NumPy and of the
# C kernels, also times the number of threads that each hold a part.
MAX_BYTES = 2**47


class ShapeError(ValueError):
    """Shapes or options that do not fit together; the message names the op, the argument and both numbers."""


def by(pair: Sequence[int]) -> str:
    """'3x5' for (3, 5): how sizes are written in messages."""
    return "x".join(str(int(n)) for n in pair)


def padding_text(padding: Padding) -> str:
    """'1x1', or 'top 0, bottom 1, left 0, right 1' where the sides differ."""
    (PT, PB), (PL, PR) = padding
    if PT == PB and PL == PR:
        return f"{PT}x{PL}"
    return f"top {PT}, bottom {PB}, left {PL}, right {PR}"


def check_bytes(op: str, shape: Sequence[int], itemsize: int, what: str = "output") -> None:
    """Raise before anything is allocated if an array of this shape cannot exist."""
    if prod(shape) * itemsize > MAX_BYTES:
        raise ShapeError(f"{op}: {what} {by(shape)} of {itemsize}-byte elements needs {prod(shape) * itemsize} bytes, more than {MAX_BYTES}")


def kernel_extent(kernel: int, dilation: int = 1) -> int:
    """Input pixels that a kernel spans: D*(K - 1) + 1."""
    return dilation * (kernel - 1) + 1


def conv_output_size(size: int, kernel: int, stride: int = 1, padding: int | Pair = 0, dilation: int = 1) -> int:
    """Output length along one axis, floor((size + padding - D*(K - 1) - 1) / S) + 1; zero or negative if the kernel does not fit."""
    before, after = (padding, padding) if isinstance(padding, int) else padding
    return (size + before + after - kernel_extent(kernel, dilation)) // stride + 1


def conv2d_output_size(size: Pair, kernel: Pair, stride: Pair, padding: Padding, dilation: Pair, op: str = "conv2d") -> Pair:
    """(OH, OW) of a convolution; ShapeError if the kernel spans more than the padded input."""
    (H, W), (KH, KW), (SH, SW), ((PT, PB), (PL, PR)), (DH, DW) = size, kernel, stride, padding, dilation
    rows = H + PT + PB - DH * (KH - 1) - 1
    cols = W + PL + PR - DW * (KW - 1) - 1
    if rows < 0 or cols < 0:
        raise ShapeError(
            f"{op}: kernel {by(kernel)} (dilation {by(dilation)}) spans {kernel_extent(KH, DH)}x{kernel_extent(KW, DW)} but the padded "
            f"input is {H + PT + PB}x{W + PL + PR} (H, W = {by(size)}, padding {padding_text(padding)})"
        )
    return rows // SH + 1, cols // SW + 1


def same_padding(kernel: Pair, dilation: Pair = (1, 1)) -> Padding:
    """Padding that keeps H and W at stride 1: D*(K - 1) in all, the odd pixel at the bottom and at the right, as PyTorch."""
    rows, cols = dilation[0] * (kernel[0] - 1), dilation[1] * (kernel[1] - 1)
    return (rows // 2, rows - rows // 2), (cols // 2, cols - cols // 2)


def resolve_padding(padding: str | Pair, kernel: Pair, stride: Pair, dilation: Pair, op: str = "conv2d") -> Padding:
    """'same', 'valid' or (PH, PW) -> ((PT, PB), (PL, PR))."""
    if not isinstance(padding, str):
        PH, PW = padding
        return (PH, PH), (PW, PW)
    if padding == "valid":
        return (0, 0), (0, 0)
    if padding != "same":
        raise ShapeError(f"{op}: padding must be 'same', 'valid', an int or a pair of ints, got {padding!r}")
    if tuple(stride) != (1, 1):
        raise ShapeError(f"{op}: padding 'same' needs stride 1x1, got stride {by(stride)}")
    return same_padding(kernel, dilation)


def conv_transpose2d_output_size(
    size: Pair, kernel: Pair, stride: Pair, padding: Pair, output_padding: Pair, dilation: Pair, op: str = "conv_transpose2d"
) -> Pair:
    """(OH, OW) of a transposed convolution, (size - 1)*S - 2*P + D*(K - 1) + 1 + output_padding."""
    for axis in (0, 1):
        if output_padding[axis] >= max(stride[axis], dilation[axis]):
            raise ShapeError(
                f"{op}: output_padding {by(output_padding)} must be smaller than stride {by(stride)} or dilation {by(dilation)} on each axis"
            )
    full = tuple((size[i] - 1) * stride[i] + kernel_extent(kernel[i], dilation[i]) + output_padding[i] for i in (0, 1))
    OH, OW = full[0] - 2 * padding[0], full[1] - 2 * padding[1]
    if OH < 1 or OW < 1:
        raise ShapeError(
            f"{op}: padding {by(padding)} on both sides leaves {OH}x{OW} of the {by(full)} output (input {by(size)}, kernel {by(kernel)}, "
            f"stride {by(stride)}, dilation {by(dilation)}, output_padding {by(output_padding)})"
        )
    return OH, OW


def pool_output_size(size: int, kernel: int, stride: int, padding: int = 0, dilation: int = 1, ceil_mode: bool = False) -> int:
    """Output length of a pool along one axis. With ceil_mode the last window may hang over the end but must start in input or left padding."""
    free = size + 2 * padding - kernel_extent(kernel, dilation)
    if not ceil_mode:
        return free // stride + 1
    length = -(-free // stride) + 1
    return length - 1 if (length - 1) * stride >= size + padding else length


def pool2d_output_size(
    size: Pair, kernel: Pair, stride: Pair, padding: Pair, dilation: Pair = (1, 1), ceil_mode: bool = False, op: str = "max_pool2d"
) -> Pair:
    """(OH, OW) of a pool; ShapeError for a window larger than the padded input or padding beyond half a window."""
    if padding[0] > kernel[0] // 2 or padding[1] > kernel[1] // 2:
        raise ShapeError(f"{op}: padding {by(padding)} is more than half of the window {by(kernel)} (at most {kernel[0] // 2}x{kernel[1] // 2})")
    OH, OW = (pool_output_size(size[i], kernel[i], stride[i], padding[i], dilation[i], ceil_mode) for i in (0, 1))
    if OH < 1 or OW < 1:
        raise ShapeError(
            f"{op}: window {by(kernel)} (dilation {by(dilation)}) spans {kernel_extent(kernel[0], dilation[0])}x"
            f"{kernel_extent(kernel[1], dilation[1])} but the padded input is {size[0] + 2 * padding[0]}x{size[1] + 2 * padding[1]} "
            f"(H, W = {by(size)}, padding {by(padding)})"
        )
    if dilation != (1, 1) and padding != (0, 0):  # only then can a window step over the whole input
        for axis, word in ((0, "row"), (1, "column")):
            S, P, D = stride[axis], padding[axis], dilation[axis]
            for o in range((OH, OW)[axis]):
                start = o * S - P
                first = start if start >= 0 else start % D  # the first tap at or after input pixel 0
                if first >= size[axis] or first > start + D * (kernel[axis] - 1):
                    raise ShapeError(
                        f"{op}: the window of output {word} {o} starts at {start} and, with dilation {D}, touches none of the {size[axis]} "
                        f"input {word}s (kernel {by(kernel)}, padding {by(padding)})"
                    )
    return OH, OW


def adaptive_windows(size: int, output_size: int) -> list[Pair]:
    """[(start, end)] of each adaptive pooling window: floor(i*size/output_size) to ceil((i + 1)*size/output_size)."""
    return [(i * size // output_size, -(-(i + 1) * size // output_size)) for i in range(output_size)]


def receptive_field(layers: Iterable[tuple[int, int] | tuple[int, int, int]]) -> tuple[int, int]:
    """(field, jump) along one axis after layers given as (kernel, stride[, dilation]), first layer first.

    field: input pixels that one output pixel sees, 1 + sum of D*(K - 1)*jump. jump: input pixels between two neighbouring outputs.

    >>> receptive_field([(3, 1), (3, 2)])
    (5, 2)
    """
    field, jump = 1, 1
    for kernel, stride, *rest in layers:
        field += (kernel_extent(kernel, rest[0] if rest else 1) - 1) * jump
        jump *= stride
    return field, jump


def conv2d_parameters(in_channels: int, out_channels: int, kernel: Pair, groups: int = 1, bias: bool = True) -> int:
    """Number of parameters of a convolution (or transposed convolution): O*(C/G)*KH*KW, plus O with a bias."""
    return out_channels * (in_channels // groups) * kernel[0] * kernel[1] + (out_channels if bias else 0)


def conv2d_macs(batch: int, in_channels: int, out_channels: int, kernel: Pair, output_size: Pair, groups: int = 1) -> int:
    """Multiply-adds of one forward pass, N*O*OH*OW*(C/G)*KH*KW; for a transposed convolution give its *input* size as output_size."""
    return batch * out_channels * output_size[0] * output_size[1] * (in_channels // groups) * kernel[0] * kernel[1]


def linear_parameters(in_features: int, out_features: int, bias: bool = True) -> int:
    """Number of parameters of a linear layer."""
    return in_features * out_features + (out_features if bias else 0)


def linear_macs(batch: int, in_features: int, out_features: int) -> int:
    """Multiply-adds of one forward pass of a linear layer."""
    return batch * in_features * out_features
