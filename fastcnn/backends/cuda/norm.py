"""Batch, layer and group normalisation: z = (input - mean) / sqrt(var + eps), output = z*weight + bias.

The three are one set of kernels. They see the input as (outer, rows, length), and each row has one mean and variance, over outer and length:

    batch norm   (N, C, H*W)          weight index: the row
    layer norm   (1, M, elements)     weight index: the position in the row
    group norm   (1, N*G, C/G*H*W)    weight index: the channel, (row % G)*C/G + position//(H*W)

All three weight indices are (row % period)*width + position//stretch: (C, 1, H*W), (1, elements, 1) and (G, C/G, H*W).

Statistics are Welford's: every thread walks through its elements with a running mean and sum of squared deviations M2, which are merged pairwise (Chan et
al. 1979) in shared memory, and piece by piece in a second launch. That does not cancel, as a sum of squares would, and it is always the same order.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from ._device import DeviceArray, blocks, empty, flat, launch, zeros
from ._memory import SIMULATED, cuda
from .reduction import THREADS, block_sum, pieces

TILE = 8 if SIMULATED else 256  # elements of the result per block, one per thread


class Rows(NamedTuple):
    """An input as kernels see it, and where its weights are."""

    outer: int
    rows: int
    length: int
    period: int
    width: int
    stretch: int

    @property
    def count(self) -> int:
        """Elements that a row's statistics are over."""
        return self.outer * self.length

    @property
    def weights(self) -> int:
        return self.period * self.width


@cuda.jit(device=True)
def row_and_position(i, rows, length):
    """Where element i of an (outer, rows, length) array lies."""
    return i // length % rows, i % length


@cuda.jit(device=True)
def weight_index(row, position, period, width, stretch):
    return row % period * width + position // stretch


@cuda.jit(device=True)
def reciprocal_std(var, eps):
    return type(eps)(1) / math.sqrt(var + eps)


@cuda.jit(device=True)
def write_sums(plain, product, shared, thread, partial, piece, sum_):
    """partial[piece, sum_] = the two sums over the threads of the block."""
    shared[thread] = plain
    plain = block_sum(shared, thread)
    cuda.syncthreads()  # all have read the first sum
    shared[thread] = product
    product = block_sum(shared, thread)
    if thread == 0:
        partial[piece, sum_, 0], partial[piece, sum_, 1] = plain, product


@cuda.jit(device=True)
def merge(count, mean, m2, at, other):
    """Statistics `at` become those of both sets of elements (Chan et al.)."""
    n, m = count[at], count[other]
    if m > 0:
        delta, whole = mean[other] - mean[at], n + m
        mean[at] += delta * m / whole
        m2[at] += m2[other] + delta * delta * n * m / whole
        count[at] = whole


@cuda.jit
def moments_of_pieces(input, partial, outer, rows, length):
    """partial[piece, row] = (count, mean, M2) of the elements that are the piece's turn."""
    count = cuda.shared.array(THREADS, partial.dtype)
    mean = cuda.shared.array(THREADS, partial.dtype)
    m2 = cuda.shared.array(THREADS, partial.dtype)
    thread, row, piece = cuda.threadIdx.x, cuda.blockIdx.x, cuda.blockIdx.y
    one = partial.dtype.type(1)
    n, average, deviation = partial.dtype.type(0), partial.dtype.type(0), partial.dtype.type(0)
    for k in range(piece * THREADS + thread, outer * length, THREADS * partial.shape[0]):
        x = input[(k // length * rows + row) * length + k % length]
        n += one
        delta = x - average
        average += delta / n
        deviation += delta * (x - average)
    count[thread], mean[thread], m2[thread] = n, average, deviation
    cuda.syncthreads()
    half = THREADS // 2
    while half:
        if thread < half:
            merge(count, mean, m2, thread, thread + half)
        cuda.syncthreads()
        half //= 2
    if thread == 0:
        partial[piece, row, 0], partial[piece, row, 1], partial[piece, row, 2] = count[0], mean[0], m2[0]


@cuda.jit
def merge_moments(partial, mean, var):
    """The mean and biased variance of each row, a thread per row."""
    row = cuda.grid(1)
    if row < mean.size:
        n, average, deviation = partial[0, row, 0], partial[0, row, 1], partial[0, row, 2]
        for piece in range(1, partial.shape[0]):
            m = partial[piece, row, 0]
            if m > 0:
                delta, whole = partial[piece, row, 1] - average, n + m
                average += delta * m / whole
                deviation += partial[piece, row, 2] + delta * delta * n * m / whole
                n = whole
        mean[row], var[row] = average, deviation / n


@cuda.jit
def normalize(input, mean, var, weight, bias, output, eps, rows, length, period, width, stretch):
    """output = z*weight + bias; weight and bias are empty where they are absent."""
    i = cuda.grid(1)
    if i < output.size:
        row, position = row_and_position(i, rows, length)
        z = (input[i] - mean[row]) * reciprocal_std(var[row], eps)
        j = weight_index(row, position, period, width, stretch)
        if weight.size:
            z *= weight[j]
        if bias.size:
            z += bias[j]
        output[i] = z


@cuda.jit
def sums_of_rows(grad_output, input, mean, var, weight, partial, eps, outer, rows, length, period, width, stretch):
    """partial[piece, row] = (sum of g, sum of g*z), g = grad_output*weight: what grad_input needs."""
    shared = cuda.shared.array(THREADS, partial.dtype)
    thread, row, piece = cuda.threadIdx.x, cuda.blockIdx.x, cuda.blockIdx.y
    inverse_std, center = reciprocal_std(var[row], eps), mean[row]
    plain, product = partial.dtype.type(0), partial.dtype.type(0)
    for k in range(piece * THREADS + thread, outer * length, THREADS * partial.shape[0]):
        position = k % length
        i = (k // length * rows + row) * length + position
        g = grad_output[i]
        if weight.size:
            g *= weight[weight_index(row, position, period, width, stretch)]
        plain += g
        product += g * ((input[i] - center) * inverse_std)
    write_sums(plain, product, shared, thread, partial, piece, row)


@cuda.jit
def sums_of_weights(grad_output, input, mean, var, partial, eps, outer, rows, length, period, width, stretch):
    """partial[piece, j] = (sum of grad_output, sum of grad_output*z) over the elements whose weight is j: the gradients of bias and weight."""
    shared = cuda.shared.array(THREADS, partial.dtype)
    thread, j, piece = cuda.threadIdx.x, cuda.blockIdx.x, cuda.blockIdx.y
    repeats = rows // period
    plain, product = partial.dtype.type(0), partial.dtype.type(0)
    for k in range(piece * THREADS + thread, outer * repeats * stretch, THREADS * partial.shape[0]):
        row = j // width + k // stretch % repeats * period
        i = (k // stretch // repeats * rows + row) * length + j % width * stretch + k % stretch
        g = grad_output[i]
        plain += g
        product += g * ((input[i] - mean[row]) * reciprocal_std(var[row], eps))
    write_sums(plain, product, shared, thread, partial, piece, j)


@cuda.jit
def add_sums(partial, plain, product):
    """Both sums over the pieces, a thread per sum."""
    j = cuda.grid(1)
    if j < plain.size:
        a, b = partial.dtype.type(0), partial.dtype.type(0)
        for piece in range(partial.shape[0]):
            a += partial[piece, j, 0]
            b += partial[piece, j, 1]
        plain[j], product[j] = a, b


@cuda.jit
def normalize_backward(grad_output, input, mean, var, weight, plain, product, grad_input, eps, share, rows, length, period, width, stretch):
    """grad_input = (g - share*(sum of g + z*sum of g*z)) / sqrt(var + eps); share = 1/count, or 0 where the statistics are constants.

    The sums are those of the rows, g = grad_output*weight; where each row has a weight of its own, as in batch norm, they come without it.
    """
    i = cuda.grid(1)
    if i < grad_input.size:
        row, position = row_and_position(i, rows, length)
        inverse_std = reciprocal_std(var[row], eps)
        z, g, scale = (input[i] - mean[row]) * inverse_std, grad_output[i], type(eps)(1)
        if weight.size:
            scale = weight[weight_index(row, position, period, width, stretch)]
        if period == rows and width == 1:
            grad_input[i] = (g - share * (plain[row] + z * product[row])) * (inverse_std * scale)
        else:
            grad_input[i] = (g * scale - share * (plain[row] + z * product[row])) * inverse_std


def _or_empty(array: DeviceArray | None, like: DeviceArray) -> DeviceArray:
    return empty((0,), like.dtype) if array is None else flat(array)


def _moments(input: DeviceArray, rows: Rows) -> tuple[DeviceArray, DeviceArray]:
    """(mean, biased variance) per row; of nothing both are 0."""
    if not input.size:
        return zeros((rows.rows,), input.dtype), zeros((rows.rows,), input.dtype)
    partial = empty((pieces(rows.count, rows.rows), rows.rows, 3), input.dtype)
    mean, var = empty((rows.rows,), input.dtype), empty((rows.rows,), input.dtype)
    launch(moments_of_pieces, (rows.rows, len(partial)), THREADS, flat(input), partial, rows.outer, rows.rows, rows.length)
    launch(merge_moments, blocks(rows.rows, THREADS), THREADS, partial, mean, var)
    return mean, var


def _normalized(
    input: DeviceArray, rows: Rows, weight: DeviceArray | None, bias: DeviceArray | None, mean: DeviceArray, var: DeviceArray, eps: float
) -> DeviceArray:
    output = empty(input.shape, input.dtype)
    affine = _or_empty(weight, input), _or_empty(bias, input)
    launch(
        normalize, blocks(output.size, TILE), TILE, flat(input), mean, var, *affine, flat(output), input.dtype.type(eps), *rows[1:]
    )  # fmt: skip
    return output


def _sums(kernel: Any, count: int, sums: int, arrays: list[DeviceArray], eps: Any, rows: Rows) -> tuple[DeviceArray, DeviceArray]:
    """Run one of the two kernels that make (plain, product) sums, and add up its pieces."""
    dtype = arrays[0].dtype
    plain, product = empty((sums,), dtype), empty((sums,), dtype)
    if not arrays[0].size:
        plain.fill(0)
        product.fill(0)
        return plain, product
    partial = empty((pieces(count, sums), sums, 2), dtype)
    launch(kernel, (sums, len(partial)), THREADS, *arrays, partial, eps, *rows)
    launch(add_sums, blocks(sums, THREADS), THREADS, partial, plain, product)
    return plain, product


def _backward(
    grad_output: DeviceArray, input: DeviceArray, rows: Rows, weight: DeviceArray | None, mean: DeviceArray, var: DeviceArray, eps: float, training: bool
) -> tuple[DeviceArray, DeviceArray, DeviceArray]:
    """(grad_input, grad_weight, grad_bias), the latter two flat."""
    eps, scale = input.dtype.type(eps), _or_empty(weight, input)
    arrays = [flat(grad_output), flat(input), mean, var]
    grad_bias, grad_weight = _sums(sums_of_weights, input.size // rows.weights, rows.weights, arrays, eps, rows)
    plain, product = grad_bias, grad_weight
    if not (rows.period == rows.rows and rows.width == 1):
        plain, product = _sums(sums_of_rows, rows.count, rows.rows, [*arrays, scale], eps, rows)
    grad_input, share = empty(input.shape, input.dtype), input.dtype.type(1 / max(rows.count, 1) if training else 0)
    launch(normalize_backward, blocks(input.size, TILE), TILE, *arrays, scale, plain, product, flat(grad_input), eps, share, *rows[1:])
    return grad_input, grad_weight, grad_bias


# The ops.


def _batch_rows(input: DeviceArray) -> Rows:
    N, C, H, W = input.shape
    return Rows(N, C, H * W, C, 1, H * W)


def _layer_rows(input: DeviceArray, normalized_shape: tuple[int, ...]) -> Rows:
    length = math.prod(normalized_shape)
    return Rows(1, input.size // length, length, 1, length, 1)


def _group_rows(input: DeviceArray, num_groups: int) -> Rows:
    N, C, H, W = input.shape
    return Rows(1, N * num_groups, C // num_groups * H * W, num_groups, C // num_groups, H * W)


def batch_norm(
    input: DeviceArray, weight: DeviceArray | None, bias: DeviceArray | None, mean: DeviceArray | None, var: DeviceArray | None, eps: float
) -> tuple[DeviceArray, DeviceArray, DeviceArray]:
    rows = _batch_rows(input)
    mean, var = _moments(input, rows) if mean is None else (mean.copy(), var.copy())
    return _normalized(input, rows, weight, bias, mean, var, eps), mean, var


def batch_norm_backward(
    grad_output: DeviceArray, input: DeviceArray, weight: DeviceArray | None, mean: DeviceArray, var: DeviceArray, eps: float, training: bool
) -> tuple[DeviceArray, DeviceArray, DeviceArray]:
    return _backward(grad_output, input, _batch_rows(input), weight, mean, var, eps, training)


def layer_norm(
    input: DeviceArray, normalized_shape: tuple[int, ...], weight: DeviceArray | None, bias: DeviceArray | None, eps: float
) -> DeviceArray:
    rows = _layer_rows(input, normalized_shape)
    return _normalized(input, rows, weight, bias, *_moments(input, rows), eps)


def layer_norm_backward(
    grad_output: DeviceArray, input: DeviceArray, normalized_shape: tuple[int, ...], weight: DeviceArray | None, eps: float
) -> tuple[DeviceArray, DeviceArray, DeviceArray]:
    rows = _layer_rows(input, normalized_shape)
    grad_input, grad_weight, grad_bias = _backward(grad_output, input, rows, weight, *_moments(input, rows), eps, True)
    return grad_input, grad_weight.reshape(normalized_shape), grad_bias.reshape(normalized_shape)


def group_norm(input: DeviceArray, num_groups: int, weight: DeviceArray | None, bias: DeviceArray | None, eps: float) -> DeviceArray:
    rows = _group_rows(input, num_groups)
    return _normalized(input, rows, weight, bias, *_moments(input, rows), eps)


def group_norm_backward(
    grad_output: DeviceArray, input: DeviceArray, num_groups: int, weight: DeviceArray | None, eps: float
) -> tuple[DeviceArray, DeviceArray, DeviceArray]:
    rows = _group_rows(input, num_groups)
    return _backward(grad_output, input, rows, weight, *_moments(input, rows), eps, True)


_F1, _F3 = "float32[::1]", "float32[:,:,::1]"
_FIVE, _SIX = ", ".join(["int64"] * 5), ", ".join(["int64"] * 6)
KERNELS: list[tuple[str, Any, str]] = [
    ("moments_of_pieces", moments_of_pieces, f"void({_F1}, {_F3}, int64, int64, int64)"),
    ("merge_moments", merge_moments, f"void({_F3}, {_F1}, {_F1})"),
    ("normalize", normalize, f"void({', '.join([_F1] * 6)}, float32, {_FIVE})"),
    ("sums_of_rows", sums_of_rows, f"void({', '.join([_F1] * 5)}, {_F3}, float32, {_SIX})"),
    ("sums_of_weights", sums_of_weights, f"void({', '.join([_F1] * 4)}, {_F3}, float32, {_SIX})"),
    ("add_sums", add_sums, f"void({_F3}, {_F1}, {_F1})"),
    ("normalize_backward", normalize_backward, f"void({', '.join([_F1] * 8)}, float32, float32, {_FIVE})"),
]
