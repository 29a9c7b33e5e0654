"""The GPU's convolutions, linear layers and columns in numba's simulator, against the reference. Run by test_cuda.py in a process of its own.

Inputs are small integers, so every order of summation is exact and results are compared bit for bit.
"""

import numpy as np
import pytest

import fastcnn
from bench import problems
from fastcnn.backends import cuda, reference
from fastcnn.backends.cuda import conv_forward, conv_grad_input, conv_grad_weight, depthwise
from fastcnn.backends.cuda import gemm as gemm_module
from fastcnn.backends.cuda.gemm import gemm
from fastcnn.backends.cuda.tiles import MOST_BLOCKS, PRODUCTION, TENSOR, TILES, Cut, Tile, best_cut, check_counts, cut, divider, grid
from fastcnn.shapes import ShapeError, resolve_padding

# (N, C, H, W), (O, C/G, KH, KW), stride, padding, dilation, groups
LAYERS = {
    "3x3": ((2, 3, 5, 4), (4, 3, 3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1), 1),
    "1x1-strided": ((2, 2, 4, 5), (3, 2, 1, 1), (3, 2), ((0, 0), (0, 0)), (1, 1), 1),
    "strided": ((1, 3, 7, 6), (2, 3, 3, 2), (2, 3), ((2, 1), (1, 1)), (1, 1), 1),
    "stride-beyond-kernel": ((1, 2, 7, 8), (3, 2, 2, 2), (3, 4), ((0, 0), (0, 0)), (1, 1), 1),
    "dilated-strided": ((1, 2, 9, 8), (3, 2, 3, 2), (2, 2), ((2, 2), (1, 1)), (2, 3), 1),
    "asymmetric": ((1, 2, 4, 5), (3, 2, 2, 4), (1, 1), ((0, 1), (1, 2)), (1, 1), 1),
    "padding-beyond-kernel": ((1, 2, 3, 3), (2, 2, 2, 2), (1, 1), ((5, 4), (3, 6)), (1, 1), 1),
    "groups": ((2, 4, 5, 4), (6, 2, 3, 2), (1, 2), ((1, 1), (0, 1)), (1, 1), 2),
    "covers": ((2, 2, 4, 4), (17, 2, 4, 4), (1, 1), ((0, 0), (0, 0)), (1, 1), 1),
    "one-of-each": ((1, 1, 1, 1), (1, 1, 1, 1), (1, 1), ((0, 0), (0, 0)), (1, 1), 1),
    "no-images": ((0, 2, 4, 4), (3, 2, 3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1), 1),
    "depthwise": ((2, 3, 6, 5), (3, 1, 3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1), 3),
    "depthwise-multiplied": ((1, 2, 6, 5), (6, 1, 3, 2), (1, 1), ((0, 1), (2, 0)), (2, 1), 2),
    "depthwise-strided": ((2, 2, 7, 6), (4, 1, 3, 3), (2, 3), ((1, 1), (1, 1)), (1, 2), 2),
    "depthwise-no-images": ((0, 2, 4, 4), (2, 1, 3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1), 2),
}
# Tiles of one and of several runs per thread, in both directions, with as many threads as columns and more; sums whole and in three pieces.
CUTS = [Cut(Tile(16, 8, 4, 4), 1), Cut(Tile(16, 16, 4, 4), 3), Cut(Tile(32, 8, 4, 4), 1), Cut(Tile(32, 8, 8, 4), 2), Cut(Tile(32, 16, 4, 8), 1)]


def integers(rng, shape, dtype=np.float32):
    return rng.integers(-4, 5, shape).astype(dtype)


def same_bits(actual, expected):
    actual = cuda.to_host(actual)
    assert actual.dtype == expected.dtype and actual.shape == expected.shape
    assert np.array_equal(actual, expected), f"max difference {np.abs(actual - expected).max()} at {np.argwhere(actual != expected)[0]}"


def on_device(*arrays):
    return map(cuda.to_device, arrays)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("layer", LAYERS)
def test_convolution_agrees(layer, dtype, rng):
    input_shape, weight_shape, *options = LAYERS[layer]
    x, w, b = (integers(rng, shape, dtype) for shape in (input_shape, weight_shape, weight_shape[:1]))
    y = reference.conv2d(x, w, b, *options)
    g = integers(rng, y.shape, dtype)
    xd, wd, bd, gd = on_device(x, w, b, g)
    same_bits(cuda.conv2d(xd, wd, bd, *options), y)
    same_bits(cuda.conv2d(xd, wd, None, *options), reference.conv2d(x, w, None, *options))
    same_bits(cuda.conv2d_grad_input(gd, wd, x.shape, *options), reference.conv2d_grad_input(g, w, x.shape, *options))
    same_bits(cuda.conv2d_grad_weight(gd, xd, w.shape, *options), reference.conv2d_grad_weight(g, x, w.shape, *options))
    same_bits(cuda.conv2d_grad_bias(gd), g.sum(axis=(0, 2, 3)))


SMALL = [p for p in problems.load("correctness") if p.flops <= 6000]


@pytest.mark.parametrize("problem", SMALL, ids=lambda p: p.name)
def test_the_small_problems_of_the_other_backends_agree(problem, rng):
    x, w = integers(rng, problem.input_shape), integers(rng, problem.weight_shape)
    options = (problem.stride, resolve_padding(problem.padding, problem.kernel, problem.stride, problem.dilation), problem.dilation, problem.groups)
    g = integers(rng, problem.output_shape)
    xd, wd, gd = on_device(x, w, g)
    same_bits(cuda.conv2d(xd, wd, None, *options), reference.conv2d(x, w, None, *options))
    same_bits(cuda.conv2d_grad_input(gd, wd, x.shape, *options), reference.conv2d_grad_input(g, w, x.shape, *options))
    same_bits(cuda.conv2d_grad_weight(gd, xd, w.shape, *options), reference.conv2d_grad_weight(g, x, w.shape, *options))


@pytest.mark.parametrize("chosen", CUTS, ids=lambda c: f"{c.tile.BM}x{c.tile.BN}-by-{c.tile.TM}x{c.tile.TN}-in-{c.pieces}")
@pytest.mark.parametrize("layer", ["strided", "groups", "covers"])
def test_every_shape_of_tile_and_divided_sums_agree(layer, chosen, rng):
    input_shape, weight_shape, *options = LAYERS[layer]
    x, w, b = (integers(rng, shape) for shape in (input_shape, weight_shape, weight_shape[:1]))
    y = reference.conv2d(x, w, b, *options)
    g = integers(rng, y.shape)
    xd, wd, bd, gd = on_device(x, w, b, g)
    same_bits(conv_forward.conv2d(xd, wd, bd, *options, chosen=chosen), y)
    same_bits(conv_grad_input.conv2d_grad_input(gd, wd, x.shape, *options, chosen=chosen), reference.conv2d_grad_input(g, w, x.shape, *options))
    same_bits(conv_grad_weight.conv2d_grad_weight(gd, xd, w.shape, *options, chosen=chosen), reference.conv2d_grad_weight(g, x, w.shape, *options))


@pytest.mark.parametrize("layer", ["groups", "depthwise", "depthwise-multiplied", "depthwise-strided"])
def test_depthwise_layers_agree_as_products_too(layer, rng):
    """What `depthwise` takes, the general kernels compute as well: kernels above 7x7 go there."""
    input_shape, weight_shape, *options = LAYERS[layer]
    assert depthwise.applies(weight_shape, input_shape[1], options[-1]) == (layer != "groups")
    assert not depthwise.applies((*weight_shape[:2], 8, 8), input_shape[1], options[-1])
    x, w = integers(rng, input_shape), integers(rng, weight_shape)
    y = reference.conv2d(x, w, None, *options)
    g = integers(rng, y.shape)
    xd, wd, gd = on_device(x, w, g)
    same_bits(conv_forward.conv2d(xd, wd, None, *options), y)
    same_bits(conv_grad_input.conv2d_grad_input(gd, wd, x.shape, *options), reference.conv2d_grad_input(g, w, x.shape, *options))
    same_bits(conv_grad_weight.conv2d_grad_weight(gd, xd, w.shape, *options), reference.conv2d_grad_weight(g, x, w.shape, *options))


@pytest.mark.parametrize("chosen", [None, Cut(Tile(16, 8, 4, 4), 3)], ids=["whole", "in-3"])
@pytest.mark.parametrize("activation", ["relu", "leaky_relu", "sigmoid", "tanh"])
def test_fused_activations_agree(activation, chosen, rng):
    input_shape, weight_shape, *options = LAYERS["3x3"]
    x, w, b = (integers(rng, shape) for shape in (input_shape, weight_shape, weight_shape[:1]))
    y = reference.conv2d(x, w, b, *options)
    slope = [0.25] if activation == "leaky_relu" else []
    xd, wd, bd, yd = on_device(x, w, b, y)
    result = cuda.to_host(conv_forward.conv2d(xd, wd, bd, *options, activation=activation, slope=0.25, chosen=chosen))
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, getattr(reference, activation)(y, *slope), rtol=1e-6, atol=0)
    same_bits(result, cuda.to_host(getattr(cuda, activation)(yd, *slope)))


def test_nan_and_inf_stay_with_the_sums_that_they_belong_to(rng):
    """Tiles are filled up with zeros, and zero times infinity is NaN: none of those may reach a sum."""
    x, w = integers(rng, (1, 2, 4, 4)), integers(rng, (3, 2, 3, 3))
    x[0, 0, 0, 0], w[2, 1, 1, 1], w[0, 0, 0, 0] = np.nan, np.inf, -np.inf
    options = ((1, 1), ((0, 1), (0, 1)), (1, 1), 1)
    with np.errstate(invalid="ignore"):
        expected = np.maximum(reference.conv2d(x, w, None, *options), 0)
    assert 0 < np.isnan(expected).sum() < expected.size and np.isinf(expected).any()
    np.testing.assert_array_equal(cuda.to_host(conv_forward.conv2d(*on_device(x, w), None, *options, activation="relu")), expected)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("m", "inputs", "outputs"), [(0, 3, 4), (1, 1, 1), (5, 7, 3), (17, 19, 18)])
def test_linear_agrees(m, inputs, outputs, dtype, rng):
    x, w, b, g = (integers(rng, shape, dtype) for shape in ((m, inputs), (outputs, inputs), outputs, (m, outputs)))
    xd, wd, bd, gd = on_device(x, w, b, g)
    same_bits(cuda.linear(xd, wd, bd), x @ w.T + b)
    same_bits(cuda.linear(xd, wd, None), x @ w.T)
    same_bits(cuda.linear_grad_input(gd, wd), g @ w)
    same_bits(cuda.linear_grad_weight(gd, xd), g.T @ x)
    same_bits(cuda.linear_grad_bias(gd), g.sum(axis=0))


@pytest.mark.parametrize("a_by_k", [True, False])
@pytest.mark.parametrize("b_by_k", [True, False])
def test_products_of_matrices_that_lie_either_way_agree(a_by_k, b_by_k, rng):
    a, b, bias = integers(rng, (17, 19)), integers(rng, (18, 19)), integers(rng, 18)
    for chosen in (Cut(Tile(16, 16, 4, 4), 1), Cut(Tile(16, 16, 4, 4), 2)):
        operands = on_device(a if a_by_k else a.T.copy(), b if b_by_k else b.T.copy())
        same_bits(gemm(*operands, a_by_k, b_by_k, 17, 18, 19, cuda.to_device(bias), "relu", chosen=chosen), np.maximum(a @ b.T + bias, 0))


@pytest.mark.parametrize("columns", ["torch", "dlfs", "cs231n", "cs231n_6d"])
def test_columns_agree(columns, rng):
    for shape, kernel, stride, padding, dilation in (((2, 3, 4, 5), (2, 3), (1, 2), (1, 0), (1, 1)), ((1, 2, 7, 6), (3, 2), (2, 1), (2, 1), (2, 3)),
                                                     ((0, 2, 4, 4), (2, 2), (1, 1), (0, 0), (1, 1))):  # fmt: skip
        x, options = integers(rng, shape), (kernel, dilation, padding, stride, columns)
        cols = reference.im2col(x, *options)
        same_bits(cuda.im2col(cuda.to_device(x), *options), cols)
        g = integers(rng, cols.shape)
        same_bits(cuda.col2im(cuda.to_device(g), shape, *options), reference.col2im(g, shape, *options))
        if columns == "torch":
            same_bits(cuda.unfold(cuda.to_device(x), *options[:-1]), cols)
            same_bits(cuda.fold(cuda.to_device(g), shape[2:], *options[:-1]), reference.fold(g, shape[2:], *options[:-1]))


def test_channels_last_keeps_the_numbers(rng):
    x = integers(rng, (2, 3, 4, 5))
    result = cuda.channels_last(cuda.to_device(x))
    assert result.transpose(0, 2, 3, 1).flags.c_contiguous
    same_bits(result, x)


def test_dividers_divide():
    for divisor in [*range(1, 200), 2**15, 2**16 - 1, 2**16 + 1, 10**9 + 7, 2**30, 2**31 - 1]:
        multiplier, shift = divider(divisor)
        assert multiplier < 2**32
        for n in (0, 1, divisor - 1, divisor, divisor + 1, 2**31 - 1, (2**31 - 1) // divisor * divisor, (2**31 - 1) // divisor * divisor - 1):
            if 0 <= n < 2**31:
                assert n * multiplier < 2**63 and n * multiplier >> shift == n // divisor, (n, divisor)


@pytest.mark.parametrize("dtype", PRODUCTION, ids=str)
def test_production_tiles_keep_what_the_kernels_rely_on(dtype):
    for tile in PRODUCTION[dtype] + (TENSOR if dtype == np.float32 else ()):
        tile.check()
        assert tile.threads % tile.BM == 0
        assert tile.shared_numbers * dtype.itemsize <= 48 * 1024
        assert tile.threads * tile.blocks_per_sm <= 2048


def test_cuts_are_the_same_whoever_asks_and_never_leave_a_piece_empty():
    for rows, columns, length in ((1, 1, 1), (16, 10, 400), (64, 576, 50176), (512, 49 * 16, 4608), (3, 0, 5)):
        chosen = cut(np.dtype(np.float32), rows, columns, length)
        assert chosen == best_cut.__wrapped__(TILES[np.dtype(np.float32)], rows, columns, length)
        assert 1 <= chosen.pieces <= max(1, -(-length // 8))


def test_tf32_is_refused_where_there_are_no_tensor_cores():
    with pytest.raises(RuntimeError, match="simulator has no tensor cores"):
        fastcnn.allow_tf32()
    with pytest.raises(TypeError, match="allowed must be a bool, got int"):
        fastcnn.allow_tf32(1)
    with fastcnn.allow_tf32(False):
        assert not cuda.tf32_allowed()
    assert not cuda.tf32_allowed()


def test_counts_beyond_32_bits_are_refused_before_anything_is_launched():
    with pytest.raises(ShapeError, match="conv2d: image elements are 2147483648, but backend 'cuda' counts them up to 2147483647"):
        check_counts("conv2d", image_elements=2**31)
    check_counts("conv2d", image_elements=2**31 - 1)


def test_products_with_very_many_columns_are_launched(monkeypatch):
    """A layer behind large pictures: a grid's second and third axis hold 65,535 blocks, its first one more than there can be."""
    launched = []
    monkeypatch.setattr(gemm_module, "launch", lambda kernel, grid, *rest: launched.append(grid))
    columns = 1_100_000
    a, b = on_device(np.ones((3, 1), np.float32), np.ones((columns, 1), np.float32))
    assert gemm(a, b, True, True, 3, columns, 1).shape == (3, columns)
    ((first, *others),) = launched
    assert first == -(-columns // 16) > MOST_BLOCKS and max(others) <= MOST_BLOCKS
    assert grid("conv2d", 2**20, MOST_BLOCKS, 3) == (2**20, MOST_BLOCKS, 3)
    with pytest.raises(ShapeError, match="conv2d: tiles of rows are 65536, but backend 'cuda' launches at most 65535"):
        grid("conv2d", 1, MOST_BLOCKS + 1, 1)


def test_layers_of_very_many_groups_are_refused(rng):
    x, w = integers(rng, (1, 2 * 66000, 1, 1)), integers(rng, (66000, 2, 1, 1))
    xd, wd = on_device(x, w)
    with pytest.raises(ShapeError, match="products .* are 66000, but backend 'cuda' launches at most 65535"):
        cuda.conv2d(xd, wd, None, (1, 1), ((0, 0), (0, 0)), (1, 1), 66000)
