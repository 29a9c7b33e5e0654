"""Arrays on the device, in numba's simulator: views, copies, arithmetic, the pool, what is refused."""

import copy
import inspect
import pickle
import sys
import threading

import numpy as np
import pytest

import fastcnn
import fastcnn.functional as F
from fastcnn import backend as backends
from fastcnn.backends import cuda
from fastcnn.backends.cuda import _device, _memory
from fastcnn.backends.ops import OPS


@pytest.fixture(autouse=True)
def on_cuda():
    with fastcnn.use_backend("cuda"):
        yield


@pytest.fixture
def x():
    return np.arange(24, dtype=np.float32).reshape(2, 3, 4)


def same(array, expected):
    host = fastcnn.to_host(array)
    assert type(host) is np.ndarray and host.dtype == expected.dtype and host.shape == expected.shape
    np.testing.assert_array_equal(host, expected)


VIEWS = [
    lambda a: a.transpose(2, 0, 1),
    lambda a: a.T,
    lambda a: a[:, 1:, ::2],
    lambda a: a[..., -1],
    lambda a: a[None, 0, :, None],
    lambda a: a.reshape(4, -1),
    lambda a: a.transpose(1, 0, 2).reshape(6, 4),
    lambda a: np.moveaxis(a, 1, -1),
    lambda a: np.broadcast_to(a[:, :1], (5, 2, 3, 4)),
    lambda a: a[:0],
    lambda a: np.split(a, [1, 2], axis=1)[1],
]


@pytest.mark.parametrize("view", VIEWS, ids=range(len(VIEWS)))
def test_views_are_those_of_numpy(view, x):
    same(view(fastcnn.to_device(x)), view(x))


def test_arithmetic_is_that_of_numpy(x):
    a = fastcnn.to_device(x)
    same(a + a, x + x)
    same(a * 2.5 - 1, x * np.float32(2.5) - 1)
    same(3 - a, 3 - x)
    same(a + a[:1, :, :1], x + x[:1, :, :1])
    same(np.add(a, a.transpose(0, 1, 2)), x + x)
    same(np.concatenate([a, a[:, :1]], axis=1), np.concatenate([x, x[:, :1]], axis=1))
    same(-a / 4, -x / 4)
    b = a.copy()
    b[:, 1] = 7
    b[0, 2] = fastcnn.to_device(np.float32([1, 2, 3, 4]))
    b += a
    expected = x.copy()
    expected[:, 1] = 7
    expected[0, 2] = [1, 2, 3, 4]
    same(b, expected + x)
    same(a, x)
    same(np.zeros_like(a), np.zeros_like(x))
    same(a.astype(np.float64), x.astype(np.float64))
    same(copy.deepcopy(a), x)
    before = _memory.copies.to_host
    same_again = copy.copy(a)
    assert _memory.copies.to_host == before
    same(same_again, x)
    same(pickle.loads(pickle.dumps(a)), x)
    assert float(a[1, 2, 3]) == 23 and int(a[0, 0, 1]) == 1


def relu6(a):
    """As a layer of somebody's own might be written."""
    return a * ((a > 0) & (a < 6)) + 6 * (a >= 6)


ELEMENTWISE = {
    "number / array": lambda a, b: 1 / b,
    "array / number": lambda a, b: a / 3,
    "array / array": lambda a, b: a / b,
    "number - array": lambda a, b: 0.1 - a,
    "array ** 2": lambda a, b: a**2,
    "-array": lambda a, b: -a,
    "abs": lambda a, b: abs(a - 7),
    "maximum": lambda a, b: np.maximum(a - 7, 0),
    "minimum": lambda a, b: np.minimum(a, b * 0.5),
    "nan": lambda a, b: np.maximum(np.minimum(a * np.float32(np.nan), 1), 2),
    "<": lambda a, b: a < b,
    "<=": lambda a, b: a <= 7,
    ">": lambda a, b: 7 > a,
    "==": lambda a, b: a == b[0],
    "!=": lambda a, b: a != 7,
    "masks": lambda a, b: ~((a > 3) | (a == 1)),
    "relu6": lambda a, b: relu6(a - 8),
    "where": lambda a, b: np.where(a > b[:1], a, -1.0),
    "where of arrays": lambda a, b: np.where(a[:, :1] > 3, a, b),
    "square": lambda a, b: np.square(a),
    "sum": lambda a, b: a.sum(),
    "sum of an axis": lambda a, b: np.sum(a, 1),
    "sum of axes": lambda a, b: np.sum(a, axis=(0, -1), keepdims=True),
    "mean": lambda a, b: a.mean(axis=2),
    "count": lambda a, b: np.sum(a > 5),
    "matmul": lambda a, b: a.reshape(6, 4) @ b.reshape(6, 4).T,
    "stack": lambda a, b: np.stack([a, b], axis=-1),
    "sections": lambda a, b: np.split(a, 2, axis=2)[1],
    "squeeze": lambda a, b: np.squeeze(np.expand_dims(a[:1], 2)),
    "in place": lambda a, b: _changed(a.copy()),
}


def _changed(a):
    a /= 3
    a -= 1
    a *= a
    return a


@pytest.mark.parametrize("formula", ELEMENTWISE)
def test_formulas_of_users_give_the_bits_of_numpy(formula, x):
    y = x[::-1] + 0.5
    same(ELEMENTWISE[formula](fastcnn.to_device(x), fastcnn.to_device(y)), np.asarray(ELEMENTWISE[formula](x, y)))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_functions_of_one_element(dtype):
    x = np.array([-np.inf, -800, -2, -0.0, 0, 0.5, 3, 60, 800, np.inf, np.nan], dtype)
    with np.errstate(all="ignore"):
        for function in (np.sqrt, np.exp, np.log, np.tanh, np.abs, lambda a: a**1.5, lambda a: 2.0**a):
            found, expected = fastcnn.to_host(function(fastcnn.to_device(x))), function(x)
            assert found.dtype == expected.dtype
            np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_integers_are_not_computed_with_as_if_they_were_rounded():
    """A fraction beside integers makes floats, as in NumPy; an output that cannot hold them is refused."""
    i = np.arange(4)
    a = fastcnn.to_device(i)
    for formula in (lambda v: v * 0.5, lambda v: v / 2, lambda v: v + 1, lambda v: 1.5 - v, lambda v: v / v[1:2], lambda v: (v > 1) * 2, lambda v: v == 1.5):
        same(formula(a), formula(i))
    with pytest.raises(TypeError, match="the result is float64, which does not become the output's int64"):
        a += 0.5
    with pytest.raises(TypeError, match="sqrt: device arrays of int64 are not computed with"):
        np.sqrt(a)
    with pytest.raises(TypeError):
        a + "1"


def test_overlapping_views_are_read_before_they_are_written(x):
    a = fastcnn.to_device(x)
    a[:, 1:] += a[:, :-1]
    expected = x.copy()
    expected[:, 1:] += x[:, :-1]
    same(a, expected)
    a[1:] = a[:-1]
    expected[1:] = expected[:-1].copy()
    same(a, expected)
    a *= a[:1, :1, 1:2]
    same(a, expected * expected[:1, :1, 1:2].copy())


def test_memory_that_is_read_only_elsewhere_is_not_written(x):
    a = fastcnn.to_device(x)
    frozen = _device.wrap(Foreign(a, data=(a.pointer, True)))
    assert not frozen[0].flags.writeable and frozen.__cuda_array_interface__["data"][1]
    for change in (lambda v: v.fill(0), lambda v: np.add(v, 1, out=v), lambda v: v[0].blend(1.0, a[1], 1.0), lambda v: np.copyto(v, a)):
        with pytest.raises(ValueError, match="read-only: its memory belongs to a Foreign"):
            change(frozen)
    with pytest.raises(ValueError, match="read-only"):
        fastcnn.nn.Parameter(frozen)
    same(frozen + 1, x + 1)


def test_whoever_computes_elsewhere_is_told_which_stream_to_wait_for(x):
    assert fastcnn.to_device(x).__cuda_array_interface__["stream"] == 1


def test_a_layer_of_ones_own_computes_on_the_device(x):
    """The example in Module's documentation."""

    class Scale(fastcnn.nn.Module):
        def __init__(self):
            self.weight = fastcnn.nn.Parameter(np.full((), 2, np.float32))

        def forward(self, input):
            self.save_for_backward(input)
            return input * self.weight.data

        def backward(self, grad_output):
            (input,) = self.saved_for_backward()
            self.weight.accumulate(np.sum(grad_output * input))
            return grad_output * self.weight.data

    layer, a = Scale().to("cuda"), fastcnn.to_device(x)
    same(layer(a), 2 * x)
    same(layer.backward(a), 2 * x)
    same(layer.weight.grad, np.sum(x * x))


def test_batches_staged_by_several_threads_keep_their_numbers():
    """Pinned buffers are shared by all who prepare batches."""
    wrong = []

    def prepare(number):
        for _ in range(100):
            array = np.full(997, number, np.int64)
            if (fastcnn.to_host(_device.stage(array)) != array).any():
                wrong.append(number)

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=prepare, args=(n,)) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(before)
    assert not wrong


def test_the_mean_of_nothing_is_nan():
    nothing, classes = np.zeros((0, 3), np.float32), np.zeros(0, np.int64)
    a, c = fastcnn.to_device(nothing), fastcnn.to_device(classes)
    assert np.isnan(float(F.mse_loss(a, a))) and np.isnan(float(F.cross_entropy(a, c))) and np.isnan(float(a.mean()))
    assert float(F.mse_loss(a, a, reduction="sum")) == 0


def test_a_copy_keeps_the_memory_format_only_if_asked(x):
    a = fastcnn.to_device(x[None]).transpose(0, 3, 1, 2)
    assert a.copy().flags.c_contiguous
    kept = a.copy("K")
    assert kept.strides == a.strides
    same(kept, x[None].transpose(0, 3, 1, 2))


class Foreign:
    """An array of another library: its memory, described."""

    def __init__(self, array, **changes):
        self.keep = array
        self.__cuda_array_interface__ = array.__cuda_array_interface__ | changes


def test_arrays_of_other_libraries_are_used_in_place(x):
    a = fastcnn.to_device(x)
    wrapped = _device.wrap(Foreign(a))
    wrapped[0, 0, 0] = 99
    assert float(a[0, 0, 0]) == 99
    before = _memory.copies.to_device
    same(F.relu(Foreign(a[:, ::2])), np.maximum(fastcnn.to_host(a[:, ::2]), 0))
    assert _memory.copies.to_device == before
    with pytest.raises(TypeError, match="mask"):
        _device.wrap(Foreign(a, mask=a))
    with pytest.raises(TypeError, match="negative strides"):
        _device.wrap(Foreign(a, strides=(48, 16, -4)))


def test_memory_is_used_again():
    first = _device.empty((100,), np.float32)
    pointer, requests = first.pointer, _memory.pool.requests
    view = first[10:]
    del first
    assert _device.empty((100,), np.float32).pointer != pointer, "a view of it is alive"
    del view
    allocated = _memory.pool.allocated
    assert _device.empty((101,), np.float32).pointer == pointer
    assert _memory.pool.allocated == allocated
    assert _memory.pool.requests == requests + 2
    for nbytes in (0, 1, 512, 513, 4096, 5000, 1 << 20, (1 << 20) + 1):
        size = _memory.size_class(nbytes)
        assert size >= nbytes and size % 512 == 0 and size <= max(512, nbytes * 9 // 8 + 512)


def test_nothing_is_copied_in_silence(x):
    a = fastcnn.to_device(x)
    for use in (np.asarray, np.sin, lambda v: v @ v, np.median, lambda v: np.add(v, x), lambda v: v[[0, 1]], np.array):
        with pytest.raises((TypeError, IndexError)):
            use(a)
    with pytest.raises(TypeError, match=r"relu: input must be an array on the device \(fastcnn.to_device\), got list"):
        F.relu([1.0])


@pytest.mark.parametrize("op", OPS)
def test_host_arrays_are_refused_by_every_op(op):
    """Also by the primitives, whatever else they are given."""
    function = cuda.functions[op]
    parameters = OPS[op].parameters
    assert tuple(inspect.signature(function).parameters) == parameters
    host = np.ones((2, 2, 2, 2), np.float32)
    if parameters[0] == "params":
        arguments = [0.5 if not name.endswith("s") or name == "eps" else [1] if name == "steps" else [host] for name in parameters]
    else:
        arguments = [host] * len(parameters)
    with pytest.raises(TypeError, match=f"{op}: {parameters[0]} .*host array"):
        function(*arguments)


def test_the_table_is_complete():
    assert set(cuda.functions) == set(OPS)
    assert backends.current().name == "cuda"


def test_faults_that_kernels_find_are_raised_by_the_next_copy():
    logits, wrong = fastcnn.to_device(np.zeros((2, 3), np.float32)), fastcnn.to_device(np.array([1, 7]))
    value = F.cross_entropy(logits, wrong)
    with pytest.raises(ValueError, match="target holds 7 but input has 3 classes"):
        float(value)
    assert np.isfinite(float(F.cross_entropy(logits, fastcnn.to_device(np.array([1, 2])))))
    value = F.binary_cross_entropy(logits + 1.5, logits)
    with pytest.raises(ValueError, match="probabilities between 0 and 1"):
        float(value)


def test_dropout_masks_are_drawn_on_the_device():
    x = fastcnn.to_device(np.ones((4, 500), np.float32))
    one, mask = F.dropout(x, 0.3, rng=5, return_mask=True)
    kept = fastcnn.to_host(mask)
    assert 0.6 < kept.mean() < 0.8
    np.testing.assert_allclose(fastcnn.to_host(one), kept / np.float32(0.7), rtol=1e-6)
    same(F.dropout(x, 0.3, rng=5, return_mask=True)[1], kept)
    assert (fastcnn.to_host(F.dropout(x, 0.3, rng=6, return_mask=True)[1]) != kept).any()
    rows = kept.reshape(4, 500)
    assert len({row.tobytes() for row in rows}) == 4


def test_windows_that_lie_in_the_padding_alone():
    """Dilation can lead all taps of a window past the input: nothing is the maximum, and nothing gets its gradient."""
    x = np.ones((1, 1, 2, 2), np.float32)
    arguments = (2, 2), (1, 1), (1, 1), (3, 3), (1, 1)
    with fastcnn.use_backend("reference"):
        expected, places = backends.current().max_pool2d(x, *arguments, "places")
    output, found = cuda.max_pool2d(fastcnn.to_device(x), *arguments, "places")
    same(output, expected)
    same(found, places)
    same(cuda.max_pool2d_backward_places(output, found, x.shape, *arguments[:4]), np.zeros_like(x))


def test_views_of_indices_know_the_windows_of_whole_planes_only(rng):
    x, g = rng.standard_normal((2, 3, 6, 6)).astype(np.float32), rng.standard_normal((2, 3, 2, 3)).astype(np.float32)
    _, indices = F.max_pool2d(fastcnn.to_device(x), 2, return_indices=True)
    assert indices[1:].windows == indices.windows == indices.transpose(1, 0, 2, 3).copy().windows and indices.windows is not None
    part = indices[:, :, 1:]
    assert part.windows is None
    with fastcnn.use_backend("reference"):
        expected = backends.current().max_pool2d_backward(g, fastcnn.to_host(part), x.shape)
    same(cuda.max_pool2d_backward(fastcnn.to_device(g), part, x.shape), expected)


def test_max_pool_indices_from_elsewhere(rng):
    """Without the options of their windows they are found by looking at all of them."""
    x = rng.standard_normal((2, 2, 6, 6)).astype(np.float32)
    g = rng.standard_normal((2, 2, 5, 5)).astype(np.float32)
    with fastcnn.use_backend("reference"):
        _, indices = F.max_pool2d(x, 2, 1, return_indices=True)
        expected = F.max_pool2d_backward(g, x, 2, 1, indices=indices)
    result = F.max_pool2d_backward(fastcnn.to_device(g), fastcnn.to_device(x), 2, 1, indices=fastcnn.to_device(indices))
    np.testing.assert_allclose(fastcnn.to_host(result), expected, rtol=1e-6)


@pytest.mark.parametrize("ties", ["first", "all", "split"])
@pytest.mark.parametrize("accumulate", [True, False])
def test_ties_of_max_pooling(ties, accumulate, rng):
    x, g = rng.integers(0, 3, (2, 2, 5, 6)).astype(np.float32), rng.standard_normal((2, 2, 3, 3)).astype(np.float32)
    x[0, 0, 1, 1] = np.nan
    options = {"kernel_size": 3, "stride": 2, "padding": 1, "ties": ties, "accumulate": accumulate}
    with fastcnn.use_backend("reference"):
        expected = F.max_pool2d_backward(g, x, **options)
    result = F.max_pool2d_backward(fastcnn.to_device(g), fastcnn.to_device(x), **options)
    np.testing.assert_allclose(fastcnn.to_host(result), expected, rtol=1e-6, atol=1e-6)


def test_sums_longer_than_a_piece(rng):
    """Statistics and sums in several pieces, whose number depends on the shape alone."""
    x = rng.normal(3, 2, (3, 2, 16, 12)).astype(np.float32)
    with fastcnn.use_backend("reference"):
        expected = F.batch_norm(x.astype(np.float64), None, None, training=True, return_stats=True)
    result = F.batch_norm(fastcnn.to_device(x), None, None, training=True, return_stats=True)
    for actual, exact in zip(result, expected, strict=True):
        np.testing.assert_allclose(fastcnn.to_host(actual), exact, rtol=2e-5, atol=2e-5)
    total = F.mse_loss(fastcnn.to_device(x), fastcnn.to_device(np.zeros_like(x)), reduction="sum")
    np.testing.assert_allclose(float(total), np.square(x.astype(np.float64)).sum(), rtol=1e-5)


def test_layouts_and_unbatched_images(rng):
    x = rng.standard_normal((2, 5, 6, 3)).astype(np.float32)
    with fastcnn.use_backend("reference"):
        expected = F.max_pool2d(x, 2, layout="NHWC"), F.avg_pool2d(x[0], 2, layout="NHWC")
    result = F.max_pool2d(fastcnn.to_device(x), 2, layout="NHWC"), F.avg_pool2d(fastcnn.to_device(x[0]), 2, layout="NHWC")
    for actual, exact in zip(result, expected, strict=True):
        assert actual.flags.c_contiguous
        np.testing.assert_allclose(fastcnn.to_host(actual), exact, rtol=1e-6)
