"""Products of weights and pixels laid side by side (direct_pixels), and 1x1 layers without their padding: where strips, panels, images, blocks of the
reduction and shares of the output channels meet. Small integers, so every sum is exact; compared with the reference bit for bit."""

import numpy as np
import pytest

from fastcnn.backends import reference

cpu = pytest.importorskip("fastcnn.backends.cpu", reason="the compiled backend is not built")
from fastcnn.backends.cpu import _pixels, pointwise  # noqa: E402

NONE = ((0, 0), (0, 0))
LAYERS = {  # (N, C, H, W), (O, KH, KW), stride, padding, dilation, groups
    "49 pixels cross images": ((5, 40, 7, 7), (40, 1, 1), (1, 1), NONE, (1, 1), 1),
    "two blocks of the reduction cross images": ((3, 1600, 5, 5), (20, 1, 1), (1, 1), NONE, (1, 1), 1),
    "blocks of 9 taps": ((2, 190, 6, 7), (18, 3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1), 1),
    "one image, shares of the output": ((1, 64, 6, 8), (300, 1, 1), (1, 1), NONE, (1, 1), 1),
    "read in place": ((2, 33, 20, 20), (9, 1, 1), (1, 1), NONE, (1, 1), 1),
    "read in place, many strips": ((3, 16, 65, 64), (5, 1, 1), (1, 1), NONE, (1, 1), 1),
    "groups": ((2, 24, 9, 9), (60, 1, 1), (1, 1), NONE, (1, 1), 3),
    "stride 2": ((3, 40, 9, 10), (33, 1, 1), (2, 2), NONE, (1, 1), 1),
    "stride 2 of 5x5 with padding": ((2, 20, 11, 40), (70, 5, 5), (2, 2), ((2, 2), (2, 2)), (1, 1), 1),
    "stride 3, only padding around": ((2, 20, 4, 4), (17, 3, 3), (3, 3), ((5, 5), (6, 6)), (1, 1), 1),
    "dilated beyond the image": ((1, 20, 5, 5), (40, 3, 3), (1, 1), ((6, 6), (6, 6)), (6, 6), 1),
    "a column": ((4, 20, 60, 1), (40, 3, 1), (1, 1), ((1, 1), (0, 0)), (1, 1), 1),
    "a pixel": ((3, 50, 1, 1), (40, 1, 1), (1, 1), NONE, (1, 1), 1),
    "few output channels": ((2, 30, 8, 9), (3, 1, 1), (1, 1), NONE, (1, 1), 1),
}
PADDED = [
    ((2, 6, 5, 7), (1, 1), ((1, 1), (0, 0))),
    ((2, 6, 5, 4), (2, 2), ((3, 3), (3, 3))),
    ((2, 6, 5, 7), (2, 3), ((0, 0), (2, 1))),
    ((2, 6, 3, 4), (5, 2), ((4, 0), (0, 9))),  # one row meets the image
    ((2, 6, 2, 2), (7, 7), ((3, 3), (3, 3))),  # none does
    ((0, 6, 5, 7), (1, 1), ((1, 1), (1, 1))),
]


@pytest.fixture(params=cpu.available_isas())
def isa(request):
    before = cpu.isa()
    cpu.set_isa(request.param)
    yield request.param
    cpu.set_isa(before)


@pytest.fixture
def threads():
    before = cpu.get_num_threads()
    yield cpu.set_num_threads
    cpu.set_num_threads(before)


def integers(rng, shape, dtype):
    return rng.integers(-3, 4, shape).astype(dtype)


@pytest.mark.parametrize("name", LAYERS)
def test_pixels_agree(name, isa, dtype, threads, rng):
    shape, (O, KH, KW), stride, padding, dilation, groups = LAYERS[name]
    options = stride, padding, dilation, groups
    x, w, b = integers(rng, shape, dtype), integers(rng, (O, shape[1] // groups, KH, KW), dtype), integers(rng, O, dtype)
    wide = np.full((shape[0], shape[1], shape[2] + 1, 2 * shape[3]), 99, dtype)
    wide[:, :, 1:, 1::2] = x
    expected = reference.conv2d(x, w, b, *options)
    for count in (1, 2, 3):
        threads(count)
        for input in (x, wide[:, :, 1:, 1::2]):
            assert np.array_equal(_pixels.conv2d(input, w, b, *options), expected)
            assert np.array_equal(_pixels.conv2d(input, w, None, *options), reference.conv2d(x, w, None, *options))
        if stride == (1, 1) and all(max(pads) <= (k - 1) * d for pads, k, d in zip(padding, (KH, KW), dilation, strict=True)):
            grad = integers(rng, expected.shape, dtype)
            assert np.array_equal(_pixels.conv2d_grad_input(grad, w, x.shape, *options), reference.conv2d_grad_input(grad, w, x.shape, *options))


def test_pixels_have_the_same_bits_on_any_number_of_threads(isa, dtype, threads, rng):
    for name in LAYERS:
        shape, (O, KH, KW), *options = LAYERS[name]
        x, w = rng.standard_normal(shape).astype(dtype), rng.standard_normal((O, shape[1] // options[-1], KH, KW)).astype(dtype)
        results = []
        for count in (1, 2, 3, 7):
            threads(count)
            results.append(_pixels.conv2d(x, w, None, *options).tobytes())
        assert len(set(results)) == 1, name


@pytest.mark.parametrize(("shape", "stride", "padding"), PADDED)
def test_padded_1x1_layers_agree(shape, stride, padding, isa, dtype, rng):
    x, w, b = integers(rng, shape, dtype), integers(rng, (9, 6, 1, 1), dtype), integers(rng, 9, dtype)
    options = stride, padding, (1, 1), 1
    y = reference.conv2d(x, w, b, *options)
    grad = integers(rng, y.shape, dtype)
    assert np.array_equal(pointwise.conv2d(x, w, b, *options), y)
    assert np.array_equal(pointwise.conv2d(x, w, None, *options, out=np.full_like(y, 7)), reference.conv2d(x, w, None, *options))
    assert np.array_equal(pointwise.conv2d_grad_input(grad, w, x.shape, *options), reference.conv2d_grad_input(grad, w, x.shape, *options))
    assert np.array_equal(pointwise.conv2d_grad_weight(grad, x, w.shape, *options), reference.conv2d_grad_weight(grad, x, w.shape, *options))
