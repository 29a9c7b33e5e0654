"""Dataset, split and Batches."""

import copy
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastcnn.datasets import Batches, Dataset, RandomCrop, RandomHorizontalFlip, Splits, Standardize, split


def make(N=10, C=2, H=3, W=4, dtype=np.uint8, classes="abc"):
    images = (np.arange(N * C * H * W) % 251).astype(dtype).reshape(N, C, H, W)
    return Dataset(images, np.arange(N) % len(classes), tuple(classes), "made")


def identities(parts):
    return [int(image[0, 0, 0]) for part in parts for image in part.images]


# Dataset


def test_dataset_properties():
    dataset = make()
    assert (len(dataset), dataset.shape, dataset.num_classes) == (10, (2, 3, 4), 3)
    assert dataset.labels.dtype == np.int64
    assert repr(dataset) == "Dataset('made': 10 images 2x3x4 uint8, 3 classes)"
    assert len(pickle.loads(pickle.dumps(dataset))) == len(copy.deepcopy(dataset)) == 10
    assert Splits(dataset, dataset[:2]).test.shape == (2, 3, 4)


@pytest.mark.parametrize(
    "index", [slice(2, 7, 2), [2, 4, 6], np.array([2, 4, 6]), np.isin(np.arange(10), (2, 4, 6))], ids=["slice", "list", "array", "mask"]
)
def test_dataset_index_gives_a_dataset(index):
    dataset = make()
    chosen = dataset[index]
    assert isinstance(chosen, Dataset) and chosen.classes == dataset.classes and chosen.name == "made"
    assert np.array_equal(chosen.images, dataset.images[2:7:2]) and np.array_equal(chosen.labels, dataset.labels[2:7:2])


def test_dataset_slices_are_views_and_empty_ones_work():
    dataset = make()
    assert np.shares_memory(dataset[2:4].images, dataset.images)
    assert len(dataset[[]]) == len(dataset[:0]) == 0
    assert dataset[[]].shape == (2, 3, 4)


def test_dataset_is_not_a_sequence_of_pairs():
    with pytest.raises(TypeError, match=r"slice or a 1-D array.*dataset\[3:4\]"):
        make()[3]
    with pytest.raises(TypeError, match="not iterable"):
        iter(make())


def test_dataset_map():
    dataset = make().map(lambda images: images[:, :1])
    assert dataset.shape == (1, 3, 4) and dataset.name == "made"


@pytest.mark.parametrize(
    "images, labels, error, message",
    [
        (np.zeros((2, 1, 2, 2)), [0, 1], TypeError, "images must be uint8 or float32, got float64"),
        (np.zeros((2, 2, 2), np.uint8), [0, 1], ValueError, r"images must be \(N, C, H, W\), got 3 axes"),
        (np.zeros((2, 1, 2, 2), np.uint8), [0.0, 1.0], TypeError, "labels must be integers, got float64"),
        (np.zeros((2, 1, 2, 2), np.uint8), [0, 1, 1], ValueError, r"2 images need labels of shape \(2,\), got \(3,\)"),
        (np.zeros((2, 1, 2, 2), np.uint8), [0, 2], ValueError, "labels run from 0 to 2 but there are 2 classes"),
        (np.zeros((2, 1, 2, 2), np.uint8), [-1, 1], ValueError, "labels run from -1 to 1"),
    ],
)
def test_dataset_refuses(images, labels, error, message):
    with pytest.raises(error, match=message):
        Dataset(images, np.array(labels), ("a", "b"))


# split


def test_split_sizes():
    parts = split(make(50), [40, 5, 5], seed=1)
    assert [len(part) for part in parts] == [40, 5, 5]
    assert sorted(identities(parts)) == sorted(identities([make(50)]))
    assert identities(parts) != identities([make(50)])
    assert identities(parts) == identities(split(make(50), [40, 5, 5], seed=1))
    assert identities(parts) != identities(split(make(50), [40, 5, 5], seed=2))


def test_split_keeps_images_with_their_labels():
    dataset = make(50)
    for stratify in (False, True):
        for part in split(dataset, [0.5, 0.5], seed=0, stratify=stratify):
            for image, label in zip(part.images, part.labels, strict=True):
                original = np.flatnonzero((dataset.images == image).all(axis=(1, 2, 3)))
                assert label in dataset.labels[original]


def test_split_leaves_out_what_is_not_asked_for():
    (part,) = split(make(50), [7], seed=0)
    assert len(part) == 7
    assert [len(part) for part in split(make(50), [0.5, 0.1], seed=0)] == [25, 5]


@settings(max_examples=50, deadline=None)
@given(N=st.integers(0, 60), weights=st.lists(st.integers(1, 9), min_size=1, max_size=5), stratify=st.booleans())
def test_split_fractions_of_one_use_every_image(N, weights, stratify):
    dataset = make(max(N, 1))[:N]
    parts = split(dataset, [weight / sum(weights) for weight in weights], 0, stratify)
    assert sum(map(len, parts)) == N
    for part, weight in zip(parts, weights, strict=True):
        assert abs(len(part) - N * weight / sum(weights)) <= 1


@settings(max_examples=50, deadline=None)
@given(counts=st.lists(st.integers(1, 40), min_size=1, max_size=5), fraction=st.floats(0.05, 0.95), seed=st.integers(0, 99))
def test_split_stratified_keeps_proportions(counts, fraction, seed):
    labels = np.repeat(np.arange(len(counts)), counts)
    dataset = Dataset(np.zeros((len(labels), 1, 1, 1), np.uint8), labels, tuple(map(str, counts)))
    parts = split(dataset, [fraction, 1 - fraction], seed, stratify=True)
    for part in parts:
        share = len(part) / len(dataset)
        found = np.bincount(part.labels, minlength=len(counts))
        assert (np.abs(found - share * np.array(counts)) <= 2).all()
    assert np.array_equal(sum(np.bincount(part.labels, minlength=len(counts)) for part in parts), counts)


def test_split_stratified_is_exact_where_it_divides():
    labels = np.repeat(np.arange(10), 20)
    dataset = Dataset(np.zeros((200, 1, 1, 1), np.uint8), labels, tuple("0123456789"))
    for part, each in zip(split(dataset, [120, 40, 40], 3, stratify=True), (12, 4, 4), strict=True):
        assert np.bincount(part.labels).tolist() == [each] * 10
        assert part.labels.tolist() != sorted(part.labels.tolist())


@pytest.mark.parametrize(
    "sizes, error, message",
    [
        ([30, 21], ValueError, r"\[30, 21\] add up to 51 but the dataset has 50 images"),
        ([0.7, 0.4], ValueError, "add up to 1.1, which is more than 1"),
        ([-1, 2], ValueError, "must not be negative"),
        ([float("nan")], ValueError, "must not be negative"),
        ([10, 0.5], TypeError, "not a mixture"),
        ([True], TypeError, "ints or floats"),
        (["a"], TypeError, "ints or floats"),
    ],
)
def test_split_refuses(sizes, error, message):
    with pytest.raises(error, match=message):
        split(make(50), sizes, 0)


# Batches


@pytest.mark.parametrize("drop_last, sizes", [(False, [4, 4, 2]), (True, [4, 4])])
@pytest.mark.parametrize("shuffle", [False, True])
def test_batches_sizes(shuffle, drop_last, sizes):
    batches = Batches(make(), 4, shuffle, 0, drop_last=drop_last)
    assert [len(x) for x, _ in batches] == [len(y) for _, y in batches] == sizes
    assert len(batches) == len(sizes)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("stored", [np.uint8, np.float32])
@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "strided"])
def test_batches_yield_fresh_contiguous_arrays(shuffle, stored, dtype, layout):
    dataset = make(dtype=stored)
    if layout == "channels_last":
        dataset = dataset.map(lambda images: np.ascontiguousarray(images.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2))
    elif layout == "strided":
        dataset = make(20, W=8, dtype=stored)[::2].map(lambda images: images[..., ::-2])
    before, seen = dataset.images.copy(), []
    for x, y in Batches(dataset, 4, shuffle, 0, dtype=dtype):
        assert x.dtype == dtype and x.flags.c_contiguous and x.flags.writeable
        assert y.dtype == np.int64 and y.flags.c_contiguous
        assert not np.shares_memory(x, dataset.images) and not np.shares_memory(y, dataset.labels)
        seen.append(x.copy())
        x[:], y[:] = 99, 0
    assert np.array_equal(dataset.images, before)
    assert np.array_equal(np.sort(np.concatenate(seen), axis=0), np.sort(before.astype(dtype), axis=0))


def test_batches_pair_images_with_labels():
    dataset = make(30)
    for x, y in Batches(dataset, 7, shuffle=True, seed=5):
        for image, label in zip(x, y, strict=True):
            assert label in dataset.labels[(dataset.images == image).all(axis=(1, 2, 3))]


def order(batches, epoch):
    batches.set_epoch(epoch)
    return [tuple(x[:, 0, 0, 0]) for x, _ in batches]


def test_batches_order_depends_on_seed_and_epoch_only():
    batches, again = Batches(make(40), 8, True, 3), Batches(make(40), 8, True, 3)
    epochs = [order(batches, epoch) for epoch in range(4)]
    assert order(again, 2) == epochs[2] and order(again, 0) == epochs[0] == order(batches, 0)
    assert len(set(map(tuple, epochs))) == 4
    assert order(Batches(make(40), 8, True, 4), 0) != epochs[0]
    assert sum(order(Batches(make(40), 5, True, 3), 1), ()) == sum(epochs[1], ())  # nor does the batch size change the order


def test_batches_do_not_advance_by_themselves():
    batches = Batches(make(40), 8, True, 3)
    assert [tuple(y) for _, y in batches] == [tuple(y) for _, y in batches]
    first = iter(batches)
    batches.set_epoch(1)  # an iteration keeps the epoch it was made in
    assert [tuple(x[:, 0, 0, 0]) for x, _ in first] == order(batches, 0)


def test_batches_without_shuffling_keep_the_order():
    assert np.concatenate([x for x, _ in Batches(make(), 3)]).astype(np.uint8).tolist() == make().images.tolist()


def test_batches_transform():
    dataset = make()
    standardize = Standardize.fit(dataset)
    (x, _), *_ = Batches(dataset, 4, transform=standardize)
    assert np.array_equal(x, standardize(dataset.images[:4]))
    (x, _), *_ = Batches(dataset, 4, transform=[lambda images: images[:, :1], lambda images: images + 1])
    assert np.array_equal(x, dataset.images[:4, :1] + 1.0)
    (x, _), *_ = Batches(dataset, 4, transform=lambda images: images, dtype=np.float64)
    assert x.dtype == np.float64


class Recorder:
    random = True

    def __init__(self):
        self.drawn = []

    def __call__(self, images, rng):
        self.drawn.append(int(rng.integers(2**62)))
        return images


def draws(seed, epoch, batch_size=4):
    recorders = [Recorder(), Recorder()]
    batches = Batches(make(), batch_size, True, seed, recorders)
    batches.set_epoch(epoch)
    list(batches)
    return [recorder.drawn for recorder in recorders]


def test_batches_give_every_random_transform_its_own_generator():
    runs = [draws(seed, epoch) for seed in (0, 1) for epoch in (0, 1)]
    assert runs[0] == draws(0, 0)
    everything = [value for run in runs for drawn in run for value in drawn]
    assert len(set(everything)) == len(everything) == 2 * 2 * 2 * 3


def test_batches_augmentation_leaves_the_order_alone():
    plain, augmented = Batches(make(40), 8, True, 3), Batches(make(40), 8, True, 3, [RandomCrop((3, 4), padding=1), RandomHorizontalFlip()])
    assert [tuple(y) for _, y in plain] == [tuple(y) for _, y in augmented]
    first, second = ([x.tobytes() for x, _ in augmented] for _ in range(2))
    assert first == second


def test_batches_of_an_empty_dataset():
    assert list(Batches(make()[:0], 4, True, 0)) == [] and len(Batches(make()[:0], 4)) == 0


@pytest.mark.parametrize(
    "arguments, error, message",
    [
        ({"batch_size": 0}, ValueError, "batch_size must be at least 1, got 0"),
        ({"batch_size": 2.0}, TypeError, "batch_size must be an int, got float"),
        ({"seed": -1}, ValueError, "seed must be at least 0"),
        ({"seed": None}, TypeError, "seed must be an int, got NoneType"),
        ({"dtype": np.uint8}, TypeError, "dtype must be float32 or float64, got uint8"),
        ({"transform": [1]}, TypeError, "every transform must be callable"),
        ({"dataset": np.zeros(3)}, TypeError, "dataset must be a Dataset, got ndarray"),
    ],
)
def test_batches_refuse(arguments, error, message):
    with pytest.raises(error, match=message):
        Batches(**({"dataset": make(), "batch_size": 4} | arguments))
    with pytest.raises(ValueError, match="epoch must be at least 0"):
        Batches(make(), 4).set_epoch(-1)
