"""Softmax, its logarithm and cross-entropy of the compiled backend against the float64 reference: every instruction set, memory layout, thread count."""

import numpy as np
import pytest

import fastcnn
from fastcnn import functional as F
from fastcnn.backends import reference

cpu = pytest.importorskip("fastcnn.backends.cpu", reason="the compiled backend is not built")

# Around the lanes of every vector width and around the largest number of classes that is transposed (4 vectors); many rows, none, one.
ROWS = [(0, 3), (1, 1), (5, 2), (64, 10), (17, 15), (16, 16), (33, 17), (7, 31), (9, 33), (20, 64), (3, 65), (5, 130), (2, 1000)]
SHAPES = [
    ((4, 3), 0),
    ((70,), 0),
    ((2, 3, 5), 1),
    ((2, 17, 6, 7), 1),
    ((2, 17, 6, 7), 2),
    ((3, 4, 5, 66), 3),
    ((1, 5, 40, 41), 1),
    ((3, 1, 2, 2), 1),
    ((2, 70, 3), 1),
]


@pytest.fixture(params=cpu.available_isas())
def isa(request):
    before = cpu.isa()
    cpu.set_isa(request.param)
    with fastcnn.use_backend("cpu"):
        yield request.param
    cpu.set_isa(before)


def layouts(array):
    """The array C-contiguous, reversed, transposed and (of four axes) channels-last."""
    yield array
    yield np.ascontiguousarray(array[::-1])[::-1]
    yield np.asfortranarray(array)
    if array.ndim == 4:
        yield np.ascontiguousarray(array.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)


def close(result, expected, dtype, scale=1):
    assert result.dtype == dtype
    assert result.shape == expected.shape
    eps = np.finfo(dtype).eps
    np.testing.assert_allclose(result, expected, rtol=16 * eps * scale, atol=8 * eps * scale)


@pytest.mark.parametrize(("shape", "dim"), [*((shape, 1) for shape in ROWS), *SHAPES], ids=str)
@pytest.mark.parametrize("op", ["softmax", "log_softmax"])
def test_softmax_agrees(op, shape, dim, isa, dtype, rng):
    x, g = (3 * rng.standard_normal(shape)).astype(dtype), rng.standard_normal(shape).astype(dtype)
    expected = getattr(reference, op)(x.astype(np.float64), dim)
    y = expected.astype(dtype)
    expected_grad = getattr(reference, f"{op}_backward")(g.astype(np.float64), y.astype(np.float64), dim)
    for xs, ys in zip(layouts(x), layouts(y), strict=True):
        close(getattr(cpu, op)(xs, dim), expected, dtype)
        for gs in layouts(g):
            close(getattr(cpu, f"{op}_backward")(gs, ys, dim), expected_grad, dtype, max(1, shape[dim] / 8))


@pytest.mark.parametrize("shape", [(6, 10), (6, 70), (6, 10, 5)], ids=str)
@pytest.mark.parametrize("op", ["softmax", "log_softmax"])
def test_softmax_of_special_values_agrees(op, shape, isa, dtype, rng):
    x = rng.standard_normal(shape).astype(dtype)
    x[0, 0], x[1, 2], x[2, 3], x[3] = np.nan, np.inf, -np.inf, -np.inf
    np.testing.assert_allclose(getattr(cpu, op)(x, 1), getattr(reference, op)(x, 1), rtol=1e-5, atol=1e-6)
    huge = np.full(shape, 1e30, dtype)
    huge[:, 0] = -1e30
    np.testing.assert_allclose(getattr(cpu, op)(huge, 1), getattr(reference, op)(huge, 1), rtol=1e-5)
    assert cpu.softmax(huge, 1)[0, 0].max() == 0


LOSSES = {
    "plain": {},
    "weight": {"weight": True},
    "ignore": {"ignore_index": 1},
    "smoothing": {"label_smoothing": 0.2},
    "all": {"weight": True, "ignore_index": 0, "label_smoothing": 0.1},
    "uniform": {"label_smoothing": 1.0},
}


def loss_arguments(shape, options, dtype, rng, zero_weight=False):
    M, C = shape
    x, target = (2 * rng.standard_normal(shape)).astype(dtype), rng.integers(0, C, M)
    target[::5] = options.get("ignore_index", -100)
    weight = rng.uniform(0.5, 2, C).astype(dtype) if options.get("weight") else None
    if zero_weight and weight is not None:
        weight[C // 2] = 0
    return x, target, weight, options.get("ignore_index", -100)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("options", LOSSES.values(), ids=LOSSES)
@pytest.mark.parametrize("shape", ROWS[1:], ids=str)
def test_cross_entropy_agrees(shape, options, reduction, isa, dtype, rng):
    x, target, weight, ignore = loss_arguments(shape, options, dtype, rng, zero_weight=True)
    rest = (target, weight if weight is None else weight.astype(np.float64), ignore, reduction, options.get("label_smoothing", 0.0))
    grad = rng.standard_normal(len(x)).astype(dtype) if reduction == "none" else 0.7
    expected = reference.cross_entropy(x.astype(np.float64), *rest)
    expected_grad = reference.cross_entropy_backward(grad, x.astype(np.float64), *rest)
    rest = (target, weight, *rest[2:])
    for xs in layouts(x):
        close(np.asarray(cpu.cross_entropy(xs, *rest)), expected, dtype, 4)
        close(cpu.cross_entropy_backward(grad, xs, *rest), expected_grad, dtype, 4)
    strided = np.repeat(target, 2)[::2]
    np.testing.assert_array_equal(cpu.cross_entropy(x, strided, *rest[1:]), cpu.cross_entropy(x, *rest))


@pytest.mark.parametrize("C", [5, 70])
@pytest.mark.parametrize("smoothing", [0.0, 0.3])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_cross_entropy_of_special_values_agrees(reduction, smoothing, C, isa, dtype, rng):
    """NaN and infinity reach the loss of their row, unless it is ignored or the class weighs nothing."""
    x = rng.standard_normal((9, C)).astype(dtype)
    x[0, 0], x[1, 2], x[2, 3], x[3, 4], x[4], x[5, 0] = np.nan, np.inf, -np.inf, -np.inf, -np.inf, np.nan
    weight = np.ones(C, dtype)
    weight[3] = 0
    for target in ([0, 2, 3, 4, 0, -100, 1, 1, -100], [-100] * 9, [3, 1, 2, 3, -100, -100, 3, 3, 3]):
        for w in (None, weight):
            rest = (np.array(target), w, -100, reduction, smoothing)
            grad = np.ones(9, dtype) if reduction == "none" else 1.0
            with np.errstate(all="ignore"):
                expected, expected_grad = reference.cross_entropy(x, *rest), reference.cross_entropy_backward(grad, x, *rest)
            np.testing.assert_allclose(cpu.cross_entropy(x, *rest), expected, rtol=1e-5, atol=1e-6)
            np.testing.assert_allclose(cpu.cross_entropy_backward(grad, x, *rest), expected_grad, rtol=1e-5, atol=1e-6)


def test_cross_entropy_of_an_empty_batch(isa, dtype):
    x, target = np.empty((0, 4), dtype), np.empty(0, np.int64)
    assert np.isnan(cpu.cross_entropy(x, target, None, -100, "mean", 0.0))
    assert cpu.cross_entropy(x, target, None, -100, "sum", 0.0) == 0
    assert cpu.cross_entropy(x, target, None, -100, "none", 0.0).shape == (0,)
    assert cpu.cross_entropy_backward(1.0, x, target, None, -100, "mean", 0.0).shape == (0, 4)


@pytest.mark.parametrize("shape", [(5000, 10), (700, 300)], ids=str)
def test_results_have_the_same_bits_at_every_thread_count(shape, isa, rng):
    x, target, weight, _ = loss_arguments(shape, {"weight": True}, np.float32, rng)
    image = x.reshape(2, -1, 50, 10).astype(np.float32)
    before, results = fastcnn.get_num_threads(), []
    for threads in (1, 2, 3, 7):
        fastcnn.set_num_threads(threads)
        y = F.log_softmax(image, 1)
        results.append([
            F.cross_entropy(x, target, weight), F.cross_entropy_backward(1.0, x, target, weight, label_smoothing=0.1), F.softmax(x, 1), y,
            F.log_softmax_backward(image, image, 1, output=y), F.softmax_backward(x, x, 1),
        ])  # fmt: skip
    fastcnn.set_num_threads(before)
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("C", [10, 70])
def test_a_samples_bits_do_not_depend_on_its_place(C, isa, dtype, rng):
    x = np.tile(rng.standard_normal(C).astype(dtype), (40, 1))
    target = np.full(40, C // 2)
    for result in (
        cpu.softmax(x, 1),
        cpu.log_softmax(x, 1),
        cpu.cross_entropy(x, target, None, -100, "none", 0.1),
        cpu.cross_entropy_backward(1.0, x, target, None, -100, "mean", 0.1),
    ):
        assert (result == result[:1]).all()


def test_foreign_class_numbers_are_refused_by_name(backend):
    from fastcnn.backend import current

    x = np.zeros((3, 4), np.float32)
    for wrong in (4, -1, -(2**63), 2**63 - 1):
        arguments = (x, np.array([0, wrong, -100]), None, -100, "mean", 0.0)
        with pytest.raises(ValueError, match=f"^cross_entropy: target holds {wrong} but input has 4 classes, 0 to 3"):
            current().cross_entropy(*arguments)
        with pytest.raises(ValueError, match=f"^cross_entropy_backward: target holds {wrong} but"):
            current().cross_entropy_backward(1.0, *arguments)


def test_probabilities_are_left_to_the_reference_with_a_reason():
    with fastcnn.use_backend("cpu"):
        explanation = fastcnn.explain("cross_entropy", np.zeros((2, 3)), np.full((2, 3), 1 / 3))
        assert explanation.chosen == "reference"
        assert explanation.declined == (("lanes", "needs class numbers as target, got probabilities"),)
        assert fastcnn.explain("cross_entropy", np.zeros((2, 3)), np.array([0, 2])).chosen == "lanes"


@pytest.mark.parametrize("shape", [(64, 10), (8, 100), (2, 5, 6, 7)], ids=str)
def test_cross_entropy_agrees_with_torch(shape, isa, dtype, rng):
    torch = pytest.importorskip("torch")
    x, target = rng.standard_normal(shape).astype(dtype), rng.integers(0, shape[1], (shape[0], *shape[2:]))
    weight = rng.uniform(0.5, 2, shape[1]).astype(dtype)
    theirs = torch.tensor(x, requires_grad=True)
    expected = torch.nn.functional.cross_entropy(theirs, torch.from_numpy(target), torch.from_numpy(weight), label_smoothing=0.1)
    expected.backward()
    close(np.asarray(F.cross_entropy(x, target, weight, label_smoothing=0.1)), expected.detach().numpy(), dtype)
    close(F.cross_entropy_backward(1.0, x, target, weight, label_smoothing=0.1), theirs.grad.numpy(), dtype)
