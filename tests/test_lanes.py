"""Runs of narrow layers with images in the lanes, against the reference layer by layer.

Inputs are small integers (in deep runs from -1 to 1), so every sum is exact and results are compared bit for bit; averages take power-of-two windows.
"""

import sys
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastcnn.backends import reference
from fastcnn.shapes import pool2d_output_size

cpu = pytest.importorskip("fastcnn.backends.cpu", reason="the compiled backend is not built")
from fastcnn.backends.cpu import _lanes, _runtime  # noqa: E402


@pytest.fixture(params=cpu.available_isas())
def isa(request):
    before = cpu.isa()
    cpu.set_isa(request.param)
    yield request.param
    cpu.set_isa(before)


@pytest.fixture(autouse=True)
def two_threads():
    before = cpu.get_num_threads()
    cpu.set_num_threads(2)
    yield
    cpu.set_num_threads(before)


def conv(O, kernel, stride=(1, 1), padding=((0, 0), (0, 0)), dilation=(1, 1)):
    return O, kernel, stride, padding, dilation


def same(kernel):
    return tuple((k // 2, k // 2) for k in kernel)


class LayerByLayer:
    """The same stages through the reference's ops; NaN and infinity included."""

    def __init__(self, stages):
        self.stages = stages

    def forward(self, x, weights, biases):
        self.kept = []
        for (spec, activation, first, pool), w, b in zip(self.stages, weights, biases, strict=True):
            options = (*spec[2:], 1)
            start, x = x, reference.conv2d(x, w, b, *options)
            before = x
            if activation and first:
                x = self.activate(x, activation)
            pooled_from, indices = x, None
            if pool:
                kind, window, stride = pool
                size = pool2d_output_size(x.shape[2:], window, stride, (0, 0), (1, 1), False)
                if kind == "max":
                    x, indices = reference.max_pool2d(x, window, stride, (0, 0), (1, 1), size, "indices")
                else:
                    x = reference.avg_pool2d(x, window, stride, (0, 0), size, True, None)
            after = x
            if activation and not first:
                x = self.activate(x, activation)
            self.kept.append((start, w, options, before, pooled_from, indices, after))
        return x

    def backward(self, g):
        grads = []
        for (_, activation, first, pool), (start, w, options, before, pooled_from, indices, after) in zip(self.stages[::-1], self.kept[::-1], strict=True):
            if activation and not first:
                g = self.derive(g, after, activation)
            if pool and pool[0] == "max":
                g = reference.max_pool2d_backward(g, indices, pooled_from.shape)
            elif pool:
                g = reference.avg_pool2d_backward(g, pooled_from.shape, *pool[1:], (0, 0), True, None)
            if activation and first:
                g = self.derive(g, before, activation)
            grads.append((reference.conv2d_grad_weight(g, start, w.shape, *options), g.sum(axis=(0, 2, 3))))
            g = reference.conv2d_grad_input(g, w, start.shape, *options)
        return g, grads[::-1]

    @staticmethod
    def activate(x, activation):
        name, slope = activation
        return reference.relu(x) if name == "relu" else reference.leaky_relu(x, slope)

    @staticmethod
    def derive(g, x, activation):
        name, slope = activation
        return reference.relu_backward(g, x) if name == "relu" else reference.leaky_relu_backward(g, x, slope)


def integers(rng, shape, dtype, top):
    return rng.integers(-top, top + 1, shape).astype(dtype)


def parameters(rng, shape, stages, dtype, top=1):
    """Weights and biases of small integers, every other bias missing."""
    weights, biases, channels = [], [], shape[0]
    for at, (spec, *_) in enumerate(stages):
        weights.append(integers(rng, (spec[0], channels, *spec[1]), dtype, top))
        biases.append(integers(rng, spec[0], dtype, 4) if at % 2 == 0 else None)
        channels = spec[0]
    return weights, biases


def run(lanes, x, weights, biases, g=None, frozen=(), input_gradient=True):
    """(output, grad_input, grad_weights, grad_biases), each of the latter None for what is not asked."""
    output = np.full((len(x), *lanes.output_shape), 77, x.dtype)
    lanes.forward(x, weights, biases, g is not None, output)
    if g is None:
        return output
    grad_input = np.full_like(x, 77) if input_gradient else None
    grad_weights = [None if at in frozen else np.full_like(w, 77) for at, w in enumerate(weights)]
    grad_biases = [None if at in frozen or b is None else np.full_like(b, 77) for at, b in enumerate(biases)]
    lanes.backward(g, weights, grad_weights, grad_biases, grad_input)
    return output, grad_input, grad_weights, grad_biases


def agrees(shape, stages, batch, dtype, rng, lanes=None, top=1, **options):
    lanes = lanes or _lanes.Lanes(dtype, shape, stages)
    weights, biases = parameters(rng, shape, stages, dtype, top)
    x = integers(rng, (batch, *shape), dtype, top)
    other = LayerByLayer(stages)
    expected = other.forward(x, weights, biases)
    assert lanes.output_shape == expected.shape[1:]
    assert np.array_equal(run(lanes, x, weights, biases), expected), "inference"
    g = integers(rng, expected.shape, dtype, top)
    output, grad_input, grad_weights, grad_biases = run(lanes, x, weights, biases, g, **options)
    assert np.array_equal(output, expected), "training"
    expected_input, expected_grads = other.backward(g)
    if grad_input is not None:
        assert np.array_equal(grad_input, expected_input), "grad_input"
    for at, (gw, gb) in enumerate(expected_grads):
        assert grad_weights[at] is None or np.array_equal(grad_weights[at], gw), f"grad_weight {at}"
        assert grad_biases[at] is None or np.array_equal(grad_biases[at], gb), f"grad_bias {at}"


RELU, LEAKY = ("relu", 0.0), ("leaky_relu", 0.25)
MAX, AVG = ("max", (2, 2), (2, 2)), ("avg", (2, 2), (2, 2))

CASES = {
    "lenet": ((1, 16, 16), [(conv(6, (5, 5)), RELU, True, MAX), (conv(10, (3, 3)), RELU, True, MAX)]),
    "pool, then activation": ((3, 9, 11), [(conv(5, (3, 3), padding=same((3, 3))), LEAKY, False, MAX), (conv(4, (2, 2)), RELU, False, AVG)]),
    "average of an activation": ((2, 8, 8), [(conv(3, (3, 3)), RELU, True, AVG), (conv(2, (1, 1)), LEAKY, True, AVG)]),
    "overlapping maxima": ((2, 10, 9), [(conv(4, (3, 3)), RELU, True, ("max", (3, 3), (1, 2))), (conv(3, (2, 2)), None, False, ("max", (2, 2), (1, 1)))]),
    "overlapping averages": ((2, 10, 9), [(conv(4, (3, 3)), RELU, True, ("avg", (4, 2), (1, 1))), (conv(3, (2, 2)), None, False, None)]),
    "gaps between windows": ((2, 12, 13), [(conv(4, (3, 3)), RELU, True, ("max", (2, 2), (3, 3)))]),
    "gaps that end with a window": ((2, 10, 10), [(conv(4, (3, 3)), RELU, False, ("max", (2, 1), (3, 2)))]),
    "gaps between averages": ((2, 12, 13), [(conv(4, (3, 3)), LEAKY, True, ("avg", (2, 2), (3, 4)))]),
    "window over all rows": ((2, 6, 7), [(conv(4, (3, 3)), RELU, True, ("max", (4, 5), (1, 1)))]),
    "asymmetric padding": (
        (3, 7, 8), [(conv(4, (4, 2), padding=((1, 2), (0, 3))), RELU, True, None), (conv(5, (2, 4), padding=((0, 1), (2, 1))), RELU, True, None)],
    ),
    "strides": ((3, 13, 12), [(conv(4, (3, 3), (2, 1), same((3, 3))), RELU, True, None), (conv(4, (3, 5), (1, 3), same((3, 5))), None, False, None)]),
    "dilation": (
        (2, 13, 15),
        [(conv(4, (3, 3), (1, 1), ((2, 2), (3, 3)), (2, 3)), RELU, True, None), (conv(3, (2, 3), (2, 2), ((0, 0), (0, 1)), (3, 1)), None, False, MAX)],
    ),
    "rows nobody reads": ((2, 9, 10), [(conv(3, (2, 2), (3, 4)), None, False, None)]),
    "padding beyond the kernel": ((2, 3, 3), [(conv(3, (2, 2), (1, 1), ((3, 2), (2, 4))), RELU, True, None)]),
    "17x17": ((1, 20, 19), [(conv(2, (17, 17), padding=((8, 8), (8, 8))), RELU, True, MAX)]),
    "one pixel": ((3, 1, 1), [(conv(2, (1, 1)), RELU, True, None)]),
    "one column": ((2, 9, 1), [(conv(20, (3, 1)), RELU, True, ("max", (2, 1), (2, 1)))]),
    "five stages": ((1, 12, 12), [(conv(3, (3, 3), padding=same((3, 3))), RELU, True, None)] * 4 + [(conv(2, (3, 3)), None, False, MAX)]),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_a_run_agrees_with_its_layers(case, isa, dtype, rng):
    shape, stages = case
    full = _runtime.vector_bytes() // dtype.itemsize
    lanes = _lanes.Lanes(dtype, shape, stages)
    for batch in (full + 1, 1, full - 1, full, 40):  # one object for ragged batches, larger and smaller ones in turn
        agrees(shape, stages, batch, dtype, rng, lanes)


@pytest.mark.parametrize("kernel", range(1, 8))
@pytest.mark.parametrize("width", [1, 2, 6, 7, 17, 33])
def test_every_kernel_and_row_length_agrees(kernel, width, isa, dtype, rng):
    first = conv(3, (2, kernel), padding=((0, 1), (kernel - 1, kernel // 2)))
    stages = [(first, RELU, True, None), (conv(2, (kernel, 1), padding=((3, 3), (0, 0))), None, False, None)]
    agrees((2, 4, width), stages, 5, dtype, rng)


@pytest.mark.parametrize("O", [1, 5, 7, 8, 9, 17, 31])
def test_every_number_of_filters_agrees(O, isa, dtype, rng):
    agrees((3, 6, 5), [(conv(O, (3, 3), padding=same((3, 3))), LEAKY, True, MAX), (conv(2, (2, 2)), RELU, True, None)], 9, dtype, rng)


@pytest.mark.parametrize("input_gradient", [True, False])
@pytest.mark.parametrize("frozen", [(), (0,), (1,), (0, 1)])
def test_gradients_that_nobody_wants_are_left_out(input_gradient, frozen, dtype, rng):
    shape, stages = CASES["lenet"]
    agrees(shape, stages, 11, dtype, rng, frozen=frozen, input_gradient=input_gradient)


@st.composite
def runs(draw):
    """A shape and one to three stages that fit it."""
    C, H, W = shape = tuple(draw(st.integers(1, most)) for most in (4, 14, 14))
    stages = []
    for _ in range(draw(st.integers(1, 3))):
        sizes = []
        for extent in (H, W):
            pads = draw(st.integers(0, 3)), draw(st.integers(0, 3))
            dilation = draw(st.integers(1, 3))
            most = (extent + sum(pads) - 1) // dilation + 1
            kernel = draw(st.integers(1, min(7, most)))
            stride = draw(st.integers(1, 3))
            sizes.append((kernel, stride, pads, dilation, (extent + sum(pads) - (kernel - 1) * dilation - 1) // stride + 1))
        kernel, stride, padding, dilation, (H, W) = (tuple(pair) for pair in zip(*sizes, strict=True))
        C = draw(st.integers(1, 9))
        pool = None
        if draw(st.booleans()):
            kind = draw(st.sampled_from(["max", "avg"]))
            choices = [1, 2, 4] if kind == "avg" else [1, 2, 3]
            window = tuple(draw(st.sampled_from([k for k in choices if k <= extent])) for extent in (H, W))
            step = draw(st.integers(1, 4)), draw(st.integers(1, 4))
            pool = kind, window, step
            H, W = (H - window[0]) // step[0] + 1, (W - window[1]) // step[1] + 1
        activation = draw(st.sampled_from([None, RELU, LEAKY]))
        stages.append((conv(C, kernel, stride, padding, dilation), activation, draw(st.booleans()), pool))
    return shape, stages


@settings(max_examples=60, deadline=None, derandomize=True)
@given(run=runs(), batch=st.integers(1, 20), double=st.booleans(), seed=st.integers(0, 99))
@pytest.mark.parametrize("name", cpu.available_isas())
def test_random_runs_agree(name, run, batch, double, seed):
    before = cpu.isa()
    cpu.set_isa(name)
    try:
        # leaky slopes and averages multiply by 1/4 and up to 1/16 a stage: three stages of them leave float32's 24 bits enough, gradients included
        agrees(*run, batch, np.dtype(np.float64 if double else np.float32), np.random.default_rng(seed))
    finally:
        cpu.set_isa(before)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("case", ["lenet", "pool, then activation", "average of an activation", "overlapping maxima", "gaps between windows"])
def test_special_values_propagate_and_stay_in_their_image(case, value, isa, dtype, rng):
    shape, stages = CASES[case]
    weights, biases = parameters(rng, shape, stages, dtype)
    x = integers(rng, (11, *shape), dtype, 1)
    x[3, 0, shape[1] // 2, shape[2] // 2] = value
    lanes, other = _lanes.Lanes(dtype, shape, stages), LayerByLayer(stages)
    with np.errstate(invalid="ignore"):
        expected = other.forward(x, weights, biases)
        g = integers(rng, expected.shape, dtype, 1)
        expected_input, expected_grads = other.backward(g)
    output, grad_input, grad_weights, grad_biases = run(lanes, x, weights, biases, g)
    np.testing.assert_array_equal(output, expected)
    np.testing.assert_array_equal(grad_input[np.arange(11) != 3], expected_input[np.arange(11) != 3])
    for (gw, gb), weight, bias in zip(expected_grads, grad_weights, grad_biases, strict=True):
        assert np.array_equal(np.isfinite(weight), np.isfinite(gw))
        assert bias is None or np.array_equal(np.isfinite(bias), np.isfinite(gb))


def test_the_bits_do_not_depend_on_the_threads(isa, dtype, rng):
    shape, stages = (3, 32, 32), [(conv(8, (5, 5)), RELU, True, MAX), (conv(12, (3, 3)), LEAKY, False, MAX)]
    weights, biases = ([None if a is None else rng.standard_normal(a.shape).astype(dtype) for a in arrays] for arrays in parameters(rng, shape, stages, dtype))
    x = rng.standard_normal((75, *shape)).astype(dtype)
    results = []
    for threads in (1, 2, 3, 4):
        cpu.set_num_threads(threads)
        lanes = _lanes.Lanes(dtype, shape, stages)
        g = np.random.default_rng(1).standard_normal((75, *lanes.output_shape)).astype(dtype)
        output, grad_input, grad_weights, grad_biases = run(lanes, x, weights, biases, g)
        results.append([output, grad_input, *grad_weights, *(b for b in grad_biases if b is not None), run(lanes, x, weights, biases)])
    for other in results[1:]:
        assert all(np.array_equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_an_image_gives_the_same_bits_in_every_lane(isa, dtype, rng):
    shape, stages = CASES["lenet"]
    weights, biases = ([None if a is None else rng.standard_normal(a.shape).astype(dtype) for a in arrays] for arrays in parameters(rng, shape, stages, dtype))
    x = np.repeat(rng.standard_normal((1, *shape)).astype(dtype), 21, axis=0)
    output = run(_lanes.Lanes(dtype, shape, stages), x, weights, biases)
    assert (output == output[:1]).all()


def test_two_python_threads_at_once_on_two_objects(rng):
    shape, stages = CASES["lenet"]
    weights, biases = parameters(rng, shape, stages, np.float32)
    inputs = [rng.standard_normal((50, *shape)).astype(np.float32) for _ in range(2)]
    lanes = [_lanes.Lanes(np.float32, shape, stages) for _ in inputs]
    g = rng.standard_normal((50, *lanes[0].output_shape)).astype(np.float32)

    def everything(number):
        output, grad_input, grad_weights, _ = run(lanes[number], inputs[number], weights, biases, g)
        return [output, grad_input, *grad_weights]

    expected, failures = [everything(0), everything(1)], []

    def work(number):
        for _ in range(20):
            if not all(np.array_equal(a, b) for a, b in zip(everything(number), expected[number], strict=True)):
                failures.append(number)

    workers = [threading.Thread(target=work, args=(number,)) for number in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(timeout=120)
    assert not failures


def test_misuse_is_refused(rng):
    shape, stages = CASES["one pixel"]
    lanes = _lanes.Lanes(np.float32, shape, stages)
    weights, biases = parameters(rng, shape, stages, np.float32)
    x, g = np.ones((3, *shape), np.float32), np.ones((3, 2, 1, 1), np.float32)
    with pytest.raises(RuntimeError, match="backward of 6 elements after a forward of 0"):
        lanes.backward(g, weights, [None], [None], None)
    run(lanes, x, weights, biases)
    with pytest.raises(RuntimeError, match="backward of 6 elements after a forward of 0"):
        lanes.backward(g, weights, [None], [None], None)
    run(lanes, x, weights, biases, g)
    with pytest.raises(RuntimeError, match="backward of 4 elements after a forward of 6"):
        lanes.backward(g[:2], weights, [None], [None], None)
    with pytest.raises(ValueError, match="1 to 16 stages, got 17"):
        _lanes.Lanes(np.float32, (1, 4, 4), [(conv(1, (1, 1)), None, False, None)] * 17)


@pytest.mark.skipif(len(cpu.available_isas()) < 2, reason="one instruction set")
def test_an_object_belongs_to_its_instruction_set(rng):
    shape, stages = CASES["one pixel"]
    lanes = _lanes.Lanes(np.float32, shape, stages)
    weights, biases = parameters(rng, shape, stages, np.float32)
    before = cpu.isa()
    try:
        for name in cpu.available_isas():
            cpu.set_isa(name)
            if _runtime.vector_bytes() != vector_bytes_of(before):
                with pytest.raises(RuntimeError, match=f"planned for {before}"):
                    run(lanes, np.ones((3, *shape), np.float32), weights, biases)
    finally:
        cpu.set_isa(before)


def vector_bytes_of(name):
    now = cpu.isa()
    cpu.set_isa(name)
    try:
        return _runtime.vector_bytes()
    finally:
        cpu.set_isa(now)


def test_nothing_is_held_after_an_object_is_gone(rng):
    shape, stages = CASES["lenet"]
    weights, biases = parameters(rng, shape, stages, np.float32)
    x = np.ones((9, *shape), np.float32)
    before = [sys.getrefcount(a) for a in (x, *weights)]
    run(_lanes.Lanes(np.float32, shape, stages), x, weights, biases)
    assert [sys.getrefcount(a) for a in (x, *weights)] == before
