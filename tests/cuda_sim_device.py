"""Arrays on the device, in numba's simulator: views, copies, arithmetic, the pool, what is refused."""

import copy
import inspect
import pickle

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
    same(pickle.loads(pickle.dumps(a)), x)
    assert float(a[1, 2, 3]) == 23 and int(a[0, 0, 1]) == 1


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
    for use in (np.asarray, np.sin, lambda v: v @ v, np.mean, lambda v: np.add(v, x), lambda v: v[[0, 1]], np.array):
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
