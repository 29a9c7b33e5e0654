"""conv2d: the walk over the input, a term for every channel of the group and every tap of the kernel."""

from __future__ import annotations

from functools import cache

from ...shapes import Padding, Pair, conv2d_output_size
from ._device import DeviceArray, empty
from .conv_walk import Table, Walk, run, table
from .tiles import Cut, check_counts


@cache  # recorded steps hold addresses of tables: none may go
def terms(channels: int, size: Pair, kernel: Pair, output_size: Pair, padding: Padding, dilation: Pair) -> Table:
    """A single class: all output pixels. Terms in the order in which a filter lies in memory: c, kh, kw."""
    (H, W), (KH, KW), (OH, OW), (DH, DW) = size, kernel, output_size, dilation
    listed = [
        (c * H * W + kh * DH * W + kw * DW, kh * DH, kw * DW, (c * KH + kh) * KW + kw)
        for c in range(channels) for kh in range(KH) for kw in range(KW)
    ]  # fmt: skip
    return table([listed], [(OH, OW, -padding[0][0], -padding[1][0], 0, 0)])


def conv2d(input: DeviceArray, weight: DeviceArray, bias: DeviceArray | None, stride: Pair, padding: Padding, dilation: Pair, groups: int,
           activation: str = "none", slope: float = 0.0, chosen: Cut | None = None) -> DeviceArray:
    """activation(conv2d(input, weight, bias)), (N,C,H,W) x (O,C/G,KH,KW) [+ (O,)] -> (N,O,OH,OW)."""
    (N, C, H, W), (O, channels, KH, KW) = input.shape, weight.shape
    OH, OW = conv2d_output_size((H, W), (KH, KW), stride, padding, dilation)
    check_counts("conv2d", image_elements=C * H * W)
    sizes = Walk(
        rows=O // groups, groups=groups, pieces=1, row_step=stride[0], column_step=stride[1], images=N,
        source_image=C * H * W, source_group=channels * H * W, H=H, W=W,
        weight_row=channels * KH * KW, weight_group=O // groups * channels * KH * KW,
        output_image=O * OH * OW, output_group=O // groups * OH * OW, output_plane=OH * OW, output_width=OW, DI=1, DJ=1, output_size=0,
    )  # fmt: skip
    where = terms(channels, (H, W), (KH, KW), (OH, OW), padding, dilation)
    return run("conv2d", input, weight, bias, empty((N, O, OH, OW), input.dtype), where, sizes, activation, slope, chosen)
