"""conv1d, conv2d, conv_transpose2d and their backwards: torch.nn.functional's names, order and defaults.

A transposed convolution is conv2d's input gradient, so its forward and backward are conv2d's three ops with the roles exchanged; conv1d is a
conv2d of height 1.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..backend import current, use_algorithm
from ..options import integer, pair, single
from ..shapes import ShapeError, check_bytes, conv2d_output_size, conv_transpose2d_output_size, resolve_padding
from ._check import array, batched, channels_last, contiguous, formatted, images, like, mask3, shape_text, shaped, wrong_shape
from ._layout import in_nhwc

Gradients = tuple[np.ndarray | None, np.ndarray | None, np.ndarray | None]


def _shown(op: str, shape: tuple[int, ...]) -> str:
    """A shape as the user passed it: conv1d's without the height that was added."""
    return shape_text((*shape[:2], shape[3]) if op.startswith("conv1d") else shape)


def _checked(op: str, input: np.ndarray, weight: np.ndarray, stride: Any, padding: Any, dilation: Any, groups: Any) -> tuple:
    """(output shape, stride, padding, dilation, groups) of a conv2d, normalised."""
    if weight.ndim != 4:
        raise ShapeError(f"{op}: weight must be 4-D (O, C/groups, KH, KW), got {weight.ndim}-D {shape_text(weight.shape)}")
    (N, C, H, W), (O, channels, KH, KW) = input.shape, weight.shape
    if not (O and KH and KW):
        raise ShapeError(f"{op}: weight has shape {_shown(op, weight.shape)}; no axis may be 0")
    stride, dilation = pair(stride, op, "stride", 1), pair(dilation, op, "dilation", 1)
    groups = integer(groups, op, "groups", 1)
    if channels * groups != C:
        raise ShapeError(
            f"{op}: input has {C} channels but weight {_shown(op, weight.shape)} with groups {groups} takes {channels * groups} "
            f"({groups} groups of {channels})"
        )
    if O % groups:
        raise ShapeError(f"{op}: groups {groups} does not divide the {O} filters of weight {_shown(op, weight.shape)}")
    if type(padding) is not str:
        padding = pair(padding, op, "padding", 0)
    padding = resolve_padding(padding, (KH, KW), stride, dilation, op)
    OH, OW = conv2d_output_size((H, W), (KH, KW), stride, padding, dilation, op)
    (PT, PB), (PL, PR) = padding
    check_bytes(op, (N or 1, C, H + PT + PB, W + PL + PR), 8, "the padded input")
    check_bytes(op, (N or 1, O, OH, OW), 8)
    return (N, O, OH, OW), stride, padding, dilation, groups


def _bias(value: Any, input: np.ndarray, filters: int, op: str, what: str) -> np.ndarray:
    """A bias as (filters,), given so or in one of the shapes that broadcast in hand-written code."""
    value = like(value, input, op, "bias")
    if value.shape == (filters,):
        return value
    if value.shape not in _bias_shapes(filters):
        wrong_shape(value.shape, (filters,), op, "bias", what)
    return value.reshape(filters)


def _bias_shapes(O: int) -> tuple[tuple[int, ...], ...]:
    return (O,), (O, 1), (O, 1, 1), (1, O, 1), (1, O, 1, 1), (1, 1, 1, O)


def _like_bias(grad_bias: np.ndarray, bias: Any, op: str, what: str) -> np.ndarray:
    """grad_bias in the shape of the bias, where the caller gave one."""
    shape = np.shape(bias)
    if shape not in _bias_shapes(len(grad_bias)):
        wrong_shape(shape, grad_bias.shape, op, "bias", what)
    return grad_bias.reshape(shape)


def conv2d(
    input: np.ndarray,
    weight: np.ndarray,
    bias: np.ndarray | None = None,
    stride: int | tuple[int, int] = 1,
    padding: int | tuple[int, int] | str = 0,
    dilation: int | tuple[int, int] = 1,
    groups: int = 1,
    *,
    algorithm: str | None = None,
    layout: str = "NCHW",
    out: np.ndarray | None = None,
) -> np.ndarray:
    """2-D cross-correlation, (N,C,H,W) or (C,H,W) x (O,C/groups,KH,KW) [+ (O,)] -> (N,O,OH,OW) or (O,OH,OW).

    output[n,o,oh,ow] = bias[o] + sum over c,kh,kw of weight[o,c,kh,kw] * input[n,c, oh*SH + kh*DH - PT, ow*SW + kw*DW - PL]

    padding    zeros around the image: an int, a pair, 'valid' (none) or 'same' (stride 1; the odd pixel at the bottom and right)
    dilation   distance between taps in input pixels, 1 = dense
    bias       (O,), or (O,1), (O,1,1), (1,O,1,1), (1,1,1,O)
    algorithm  "direct", "winograd" or "auto" for this call; None leaves it to use_algorithm
    layout     "NHWC": (N,H,W,C) or (H,W,C) x (KH,KW,C/groups,O) -> (N,OH,OW,O) or (OH,OW,O), all in C order
    out        an array for the result, which is returned: of its shape, dtype and memory format (C-contiguous, or channels-last as the input is), apart
               from the operands in memory. Large results are faster in memory that was used before: a fresh page costs more than its 1024 floats
    Raises     ShapeError if shapes do not fit, TypeError if dtypes differ (nothing is cast), ValueError for an `out` that cannot be written in place
    """
    if layout != "NCHW":
        options = {"bias": bias, "stride": stride, "padding": padding, "dilation": dilation, "groups": groups, "algorithm": algorithm}
        if out is None:
            return in_nhwc(conv2d, "conv2d", layout, {"input": input}, weight, **options)
        in_nhwc(conv2d, "conv2d", layout, {"input": input}, weight, **options, out=_nhwc_out(out))
        return out
    if algorithm is None:
        return _convolved(current().conv2d, input, weight, bias, stride, padding, dilation, groups, out=out)
    with use_algorithm(algorithm):
        return _convolved(current().conv2d, input, weight, bias, stride, padding, dilation, groups, out=out)


def conv2d_activated(input: Any, weight: Any, bias: Any, stride: Any, padding: Any, dilation: Any, groups: Any, activation: str, slope: float) -> Any:
    """activation(conv2d(...)) by one kernel, for fastcnn.nn.fusion, which asks first whether the current backend has such kernels."""
    return _convolved(current().conv2d_activated, input, weight, bias, stride, padding, dilation, groups, activation, slope)


def _convolved(
    compute: Any, input: Any, weight: Any, bias: Any, stride: Any, padding: Any, dilation: Any, groups: Any, *activation: Any, out: Any = None
) -> np.ndarray:
    """conv2d by this primitive of a backend, everything checked."""
    input, unbatched = images(input, "conv2d", "input")
    weight = like(weight, input, "conv2d", "weight")
    shape, stride, padding, dilation, groups = _checked("conv2d", input, weight, stride, padding, dilation, groups)
    if bias is not None:
        bias = _bias(bias, input, shape[1], "conv2d", f"weight has {shape[1]} filters")
    if out is not None:
        _into(_checked_out(out, shape, input, weight, bias, unbatched), input, weight, bias, stride, padding, dilation, groups)
        return out
    output = formatted(compute(input, weight, bias, stride, padding, dilation, groups, *activation), input)
    return output[0] if unbatched else output


def _checked_out(out: Any, shape: tuple, input: np.ndarray, weight: np.ndarray, bias: np.ndarray | None, unbatched: bool) -> np.ndarray:
    """`out` as (N, O, OH, OW), if the result can be written there."""
    if type(out) is not np.ndarray or type(input) is not np.ndarray:
        raise TypeError(f"conv2d: out must be a NumPy array, as the operands, got {type(out).__name__} for an input of {type(input).__name__}")
    if out.dtype != input.dtype:
        raise TypeError(f"conv2d: out has dtype {out.dtype} but input has {input.dtype}")
    if out.shape != shape[unbatched:]:
        raise ShapeError(f"conv2d: out has shape {shape_text(out.shape)} but the result has {shape_text(shape[unbatched:])}")
    if not out.flags.writeable:
        raise ValueError("conv2d: out is read-only")
    out = out[None] if unbatched else out
    last = channels_last(input)
    fits = (out.flags.c_contiguous and not last) or all(a.transpose(0, 2, 3, 1).flags.c_contiguous for a in (out, input))
    if not fits:
        raise ValueError(f"conv2d: out must be {'channels-last as the input is' if last else 'C-contiguous'}, got strides {out.strides}")
    for name, operand in (("input", input), ("weight", weight), ("bias", bias)):
        if operand is not None and np.may_share_memory(out, operand):
            raise ValueError(f"conv2d: out and {name} share memory")
    return out


def _into(out: np.ndarray, input: np.ndarray, *arguments: Any) -> None:
    backend = current()
    if hasattr(backend, "conv2d_into"):
        backend.conv2d_into(out, channels_last(out), input, *arguments)
    else:
        out[...] = backend.conv2d(input, *arguments)


def _nhwc_out(out: Any) -> Any:
    """An (N, OH, OW, O) or (OH, OW, O) array in C order as the channels-last array it is."""
    if type(out) is not np.ndarray:
        raise TypeError(f"conv2d: out must be a NumPy array, got {type(out).__name__}")
    if out.ndim not in (3, 4) or not out.flags.c_contiguous:
        raise ValueError(f"conv2d: out must be a C-contiguous 3-D or 4-D array, got shape {shape_text(out.shape)} and strides {out.strides}")
    return out.transpose(0, 3, 1, 2) if out.ndim == 4 else out.transpose(2, 0, 1)


def conv2d_backward(
    grad_output: np.ndarray,
    input: np.ndarray,
    weight: np.ndarray,
    *,
    bias: np.ndarray | None = None,
    stride: int | tuple[int, int] = 1,
    padding: int | tuple[int, int] | str = 0,
    dilation: int | tuple[int, int] = 1,
    groups: int = 1,
    output_mask: tuple[bool, bool, bool] = (True, True, True),
    need_dx: bool = True,
    algorithm: str | None = None,
    layout: str = "NCHW",
) -> Gradients:
    """(grad_input, grad_weight, grad_bias) of conv2d; those masked out are None and cost nothing.

    bias       not needed; where it is given, grad_bias has its shape
    need_dx    False: no grad_input, as output_mask[0]: nobody needs that of the first layer
    layout     as in conv2d; grad_output and grad_input are then NHWC and grad_weight (KH,KW,C/groups,O)
    """
    op = "conv2d_backward"
    if layout != "NCHW":
        options = {"bias": bias, "stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
        options |= {"output_mask": output_mask, "need_dx": need_dx, "algorithm": algorithm}
        return in_nhwc(conv2d_backward, op, layout, {"grad_output": grad_output, "input": input}, weight, **options)
    if algorithm is not None:
        options = {"bias": bias, "stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
        with use_algorithm(algorithm):
            return conv2d_backward(grad_output, input, weight, output_mask=output_mask, need_dx=need_dx, **options)
    input, unbatched = images(input, op, "input")
    weight = like(weight, input, op, "weight")
    shape, stride, padding, dilation, groups = _checked(op, input, weight, stride, padding, dilation, groups)
    grad_output = batched(grad_output, unbatched, input, shape, op, "grad_output", "it must be like the output of conv2d")
    want_input, want_weight, want_bias = mask3(output_mask, op, need_dx)
    backend = current()
    grad_input = grad_weight = grad_bias = None
    if want_input:
        grad_input = backend.conv2d_grad_input(grad_output, weight, input.shape, stride, padding, dilation, groups)
        grad_input = formatted(grad_input, input)
        grad_input = grad_input[0] if unbatched else grad_input
    if want_weight:
        grad_weight = backend.conv2d_grad_weight(grad_output, input, weight.shape, stride, padding, dilation, groups)
        grad_weight = formatted(grad_weight, weight)
    if want_bias:
        grad_bias = backend.conv2d_grad_bias(grad_output)
        if bias is not None:
            grad_bias = _like_bias(grad_bias, bias, op, f"weight has {shape[1]} filters")
    return grad_input, grad_weight, grad_bias


def _as_rows(op: str, input: Any, weight: Any) -> tuple[np.ndarray, np.ndarray, bool]:
    """conv1d's input and weight with a height of 1, and whether the batch axis was added."""
    input = array(input, op, "input")
    weight = like(weight, input, op, "weight")
    if input.ndim not in (2, 3):
        raise ShapeError(f"{op}: input must be 3-D (N, C, L) or 2-D (C, L), got {input.ndim}-D {shape_text(input.shape)}")
    if weight.ndim != 3:
        raise ShapeError(f"{op}: weight must be 3-D (O, C/groups, K), got {weight.ndim}-D {shape_text(weight.shape)}")
    unbatched = input.ndim == 2
    rows, _ = images((input[None] if unbatched else input)[:, :, None], op, "input")
    return rows, weight[:, :, None], unbatched


def _row_options(op: str, stride: Any, padding: Any, dilation: Any) -> tuple:
    """conv1d's options as pairs."""
    if type(padding) is not str:
        padding = (0, single(padding, op, "padding", 0))
    return (1, single(stride, op, "stride", 1)), padding, (1, single(dilation, op, "dilation", 1))


def conv1d(
    input: np.ndarray,
    weight: np.ndarray,
    bias: np.ndarray | None = None,
    stride: int | tuple[int] = 1,
    padding: int | tuple[int] | str = 0,
    dilation: int | tuple[int] = 1,
    groups: int = 1,
) -> np.ndarray:
    """1-D cross-correlation, (N,C,L) or (C,L) x (O,C/groups,K) [+ (O,)] -> (N,O,OL) or (O,OL)."""
    input, weight, unbatched = _as_rows("conv1d", input, weight)
    shape, stride, padding, dilation, groups = _checked(
        "conv1d", input, weight, *_row_options("conv1d", stride, padding, dilation), groups
    )
    if bias is not None:
        bias = _bias(bias, input, shape[1], "conv1d", f"weight has {shape[1]} filters")
    output = current().conv2d(input, weight, bias, stride, padding, dilation, groups)[:, :, 0]
    output = output[0] if unbatched else output
    return output.copy(order="C") if not output.flags.c_contiguous else output


def conv1d_backward(
    grad_output: np.ndarray,
    input: np.ndarray,
    weight: np.ndarray,
    *,
    bias: np.ndarray | None = None,
    stride: int | tuple[int] = 1,
    padding: int | tuple[int] | str = 0,
    dilation: int | tuple[int] = 1,
    groups: int = 1,
    output_mask: tuple[bool, bool, bool] = (True, True, True),
    need_dx: bool = True,
) -> Gradients:
    """(grad_input, grad_weight, grad_bias) of conv1d; those masked out are None, grad_input also with need_dx=False."""
    op = "conv1d_backward"
    output_mask = mask3(output_mask, op, need_dx)
    rows, weight, unbatched = _as_rows(op, input, weight)
    stride, padding, dilation = _row_options(op, stride, padding, dilation)
    N, O, _, OL = _checked(op, rows, weight, stride, padding, dilation, groups)[0]
    expected = (O, OL) if unbatched else (N, O, OL)
    grad_output = shaped(grad_output, rows, expected, op, "grad_output", "it must be like the output of conv1d")
    grad_input, grad_weight, grad_bias = conv2d_backward(
        grad_output.reshape(N, O, 1, OL),
        rows,
        weight,
        bias=bias,
        stride=stride,
        padding=padding,
        dilation=dilation,
        groups=groups,
        output_mask=output_mask,
    )
    if grad_input is not None:
        grad_input = contiguous(grad_input[0, :, 0] if unbatched else grad_input[:, :, 0])
    return grad_input, None if grad_weight is None else contiguous(grad_weight[:, :, 0]), grad_bias


def _transposed(
    op: str, input: np.ndarray, weight: np.ndarray, stride: Any, padding: Any, output_padding: Any, groups: Any, dilation: Any
) -> tuple:
    """(output shape, shape, crop, stride, padding, dilation, groups): the conv2d of that input shape whose input gradient is the transposed convolution.

    output_padding uncovers rows that the padding at the far edge had cut off, so it lowers that padding. Where it exceeds the padding there are
    rows that no input pixel reaches: then the uncropped output is computed and _moved up and left by `crop`, which may be beyond its end.
    """
    if weight.ndim != 4:
        raise ShapeError(f"{op}: weight must be 4-D (C, O/groups, KH, KW), got {weight.ndim}-D {shape_text(weight.shape)}")
    (N, C, H, W), (rows, channels, KH, KW) = input.shape, weight.shape
    if not (channels and KH and KW):
        raise ShapeError(f"{op}: weight has shape {shape_text(weight.shape)}; no axis may be 0")
    stride, dilation = pair(stride, op, "stride", 1), pair(dilation, op, "dilation", 1)
    (PH, PW), (EH, EW) = pair(padding, op, "padding", 0), pair(output_padding, op, "output_padding", 0)
    groups = integer(groups, op, "groups", 1)
    if rows != C:
        raise ShapeError(f"{op}: input has {C} channels but weight {shape_text(weight.shape)} takes {rows}")
    if C % groups:
        raise ShapeError(f"{op}: groups {groups} does not divide the {C} channels of input")
    OH, OW = conv_transpose2d_output_size((H, W), (KH, KW), stride, (PH, PW), (EH, EW), dilation, op)
    shape = (N, channels * groups, OH, OW)
    check_bytes(op, (N or 1, shape[1], OH + 2 * PH, OW + 2 * PW), 8)
    if EH <= PH and EW <= PW:
        return shape, shape, None, stride, ((PH, PH - EH), (PW, PW - EW)), dilation, groups
    full = (*shape[:2], OH + 2 * PH - EH, OW + 2 * PW - EW)
    return shape, full, (PH, PW), stride, ((0, 0), (0, 0)), dilation, groups


def _moved(source: np.ndarray, shape: tuple[int, ...], down: int, across: int) -> np.ndarray:
    """Images of this shape that hold source[h + down, w + across] at (h, w), and 0 where source has no such pixel."""
    edges = [_edges(shape[axis], source.shape[axis], by) for axis, by in ((2, down), (3, across))]
    return current().pad(source, ((0, 0), (0, 0), *edges), "constant", 0.0)


def _edges(size: int, of_source: int, by: int) -> tuple[int, int]:
    """What to add before and after an axis, or, negative, to take off it; no more than there is."""
    before = max(-of_source, min(size, -by))
    return before, size - of_source - before


def conv_transpose2d(
    input: np.ndarray,
    weight: np.ndarray,
    bias: np.ndarray | None = None,
    stride: int | tuple[int, int] = 1,
    padding: int | tuple[int, int] = 0,
    output_padding: int | tuple[int, int] = 0,
    groups: int = 1,
    dilation: int | tuple[int, int] = 1,
) -> np.ndarray:
    """Transposed convolution, (N,C,H,W) or (C,H,W) x (C,O/groups,KH,KW) [+ (O,)] -> (N,O,OH,OW) or (O,OH,OW).

    Every input pixel adds its multiple of the kernel to the output: the input gradient of the conv2d with this weight.
    OH = (H - 1)*SH - 2*PH + DH*(KH - 1) + 1 + output_padding.
    """
    op = "conv_transpose2d"
    input, unbatched = images(input, op, "input")
    weight = like(weight, input, op, "weight")
    shape, reached, crop, stride, padding, dilation, groups = _transposed(
        op, input, weight, stride, padding, output_padding, groups, dilation
    )
    if bias is not None:
        bias = _bias(bias, input, shape[1], op, f"weight has {shape[1] // groups} filters in each of {groups} groups")
    output = current().conv2d_grad_input(input, weight, reached, stride, padding, dilation, groups)
    if crop is not None:
        output = _moved(output, shape, *crop)
    if bias is not None:
        output += bias[:, None, None]
    output = formatted(output, input)
    return output[0] if unbatched else output


def conv_transpose2d_backward(
    grad_output: np.ndarray,
    input: np.ndarray,
    weight: np.ndarray,
    *,
    bias: np.ndarray | None = None,
    stride: int | tuple[int, int] = 1,
    padding: int | tuple[int, int] = 0,
    output_padding: int | tuple[int, int] = 0,
    groups: int = 1,
    dilation: int | tuple[int, int] = 1,
    output_mask: tuple[bool, bool, bool] = (True, True, True),
    need_dx: bool = True,
) -> Gradients:
    """(grad_input, grad_weight, grad_bias) of conv_transpose2d; those masked out are None, grad_input also with need_dx=False."""
    op = "conv_transpose2d_backward"
    input, unbatched = images(input, op, "input")
    weight = like(weight, input, op, "weight")
    shape, reached, crop, stride, padding, dilation, groups = _transposed(
        op, input, weight, stride, padding, output_padding, groups, dilation
    )
    grad_output = batched(grad_output, unbatched, input, shape, op, "grad_output", "it must be like the output of conv_transpose2d")
    want_input, want_weight, want_bias = mask3(output_mask, op, need_dx)
    backend = current()
    grad_input = grad_weight = grad_bias = None
    reaching = grad_output if crop is None else _moved(grad_output, reached, -crop[0], -crop[1])
    if want_input:
        grad_input = formatted(backend.conv2d(reaching, weight, None, stride, padding, dilation, groups), input)
        grad_input = grad_input[0] if unbatched else grad_input
    if want_weight:
        grad_weight = backend.conv2d_grad_weight(input, reaching, weight.shape, stride, padding, dilation, groups)
        grad_weight = formatted(grad_weight, weight)
    if want_bias:
        grad_bias = backend.conv2d_grad_bias(grad_output)
        if bias is not None:
            grad_bias = _like_bias(grad_bias, bias, op, f"weight has {shape[1] // groups} filters in each of {groups} groups")
    return grad_input, grad_weight, grad_bias
