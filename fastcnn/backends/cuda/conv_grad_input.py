"""conv2d_grad_input: the same walk, over grad_output, a term for every filter of the group and every tap.

Input row h receives, through tap kh, from output row oh with oh*SH + kh*DH - PT = h. With stride 1 that is oh = h + PT - kh*DH: the walk with the taps in
reverse. With a larger stride only every SH-th tap has such an oh, and which ones do depends on h: rows with the same (h + PT) mod SH use the same taps.
So the input pixels fall into SH*SW classes, each a walk of its own without a stride, over its own taps; no product with a zero is ever computed.
With h + PT = SH*q + r and kh*DH = SH*t + r, the output row is oh = q - t.

This is the transposed convolution. Source: Dumoulin & Visin 2016 (arXiv:1603.07285), ch. 4.
"""

from __future__ import annotations

from functools import cache

from ...shapes import Padding, Pair
from ._device import DeviceArray, empty
from .conv_walk import Table, Walk, run, table
from .tiles import Cut, check_counts


def _along_one_axis(size: int, kernel: int, stride: int, before: int, dilation: int) -> list[tuple[int, int, int, list[tuple[int, int]]]]:
    """Per class that has pixels: how many, the first one's position, its q, and its taps as (k, t)."""
    found = []
    for r in range(min(stride, size)):  # by the class's first pixel
        remainder, q = (r + before) % stride, (r + before) // stride
        taps = [(k, (k * dilation - remainder) // stride) for k in range(kernel) if (k * dilation - remainder) % stride == 0]
        found.append((len(range(r, size, stride)), r, q, taps))
    return found


@cache  # recorded steps hold addresses of tables: none may go
def terms(filters: int, channels: int, size: Pair, kernel: Pair, output_size: Pair, stride: Pair, padding: Padding, dilation: Pair) -> Table:
    """A class per residue of row and column. Weights lie (o, c, kh, kw); a row of the walk is a c."""
    (KH, KW), (OH, OW) = kernel, output_size
    rows, columns = (_along_one_axis(size[i], kernel[i], stride[i], padding[i][0], dilation[i]) for i in (0, 1))
    lists, classes = [], []
    for I, h, qh, row_taps in rows:
        for J, w, qw, column_taps in columns:
            lists.append([
                (o * OH * OW - th * OW - tw, -th, -tw, (o * channels * KH + kh) * KW + kw)
                for o in range(filters) for kh, th in row_taps for kw, tw in column_taps
            ])  # fmt: skip
            classes.append((I, J, qh, qw, h, w))
    return table(lists, classes)


def conv2d_grad_input(grad_output: DeviceArray, weight: DeviceArray, input_shape: tuple[int, ...], stride: Pair, padding: Padding, dilation: Pair,
                      groups: int, chosen: Cut | None = None) -> DeviceArray:
    """(N,O,OH,OW) x (O,C/G,KH,KW) -> (N,C,H,W)."""
    (N, O, OH, OW), (C, H, W), (_, channels, KH, KW) = grad_output.shape, input_shape[1:], weight.shape
    filters = O // groups
    check_counts("conv2d_grad_input", image_elements=max(C * H * W, O * OH * OW))
    sizes = Walk(
        rows=channels, groups=groups, pieces=1, row_step=1, column_step=1, images=N,
        source_image=O * OH * OW, source_group=filters * OH * OW, H=OH, W=OW,
        weight_row=KH * KW, weight_group=filters * channels * KH * KW,
        output_image=C * H * W, output_group=channels * H * W, output_plane=H * W, output_width=W, DI=stride[0], DJ=stride[1], output_size=0,
    )  # fmt: skip
    where = terms(filters, channels, (H, W), (KH, KW), (OH, OW), stride, padding, dilation)
    return run("conv2d_grad_input", grad_output, weight, None, empty((N, C, H, W), grad_output.dtype), where, sizes, chosen=chosen)
