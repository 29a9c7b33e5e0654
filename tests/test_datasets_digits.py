"""The embedded digits are the published ones, scaled and split as documented."""

import hashlib

import numpy as np
import pytest

from fastcnn import datasets


def test_digits_shape_and_range():
    train, test = datasets.digits()
    assert (len(train), len(test)) == (1442, 355)
    assert train.shape == test.shape == (1, 8, 8)
    assert train.images.dtype == np.uint8 and train.labels.dtype == np.int64
    assert train.classes == tuple("0123456789")
    assert set(np.unique(train.images)) <= {(v * 255 + 8) // 16 for v in range(17)}
    assert {0, 128, 255} <= set(np.unique(train.images))


def test_digits_split_is_stratified_and_complete():
    train, test = datasets.digits()
    published = np.array([178, 182, 177, 183, 181, 182, 181, 179, 174, 180])  # UCI's optdigits.names, "No of examples in testing set"
    assert np.array_equal(np.bincount(test.labels), published // 5)
    assert np.array_equal(np.bincount(train.labels) + np.bincount(test.labels), published)


def test_digits_first_images_are_the_published_ones():
    train, _ = datasets.digits()
    assert train.labels[:10].tolist() == list(range(10))
    row = [0, 0, 5, 13, 9, 1, 0, 0]  # the first row of optdigits.tes
    assert train.images[0, 0, 0].tolist() == [(v * 255 + 8) // 16 for v in row]


def test_digits_never_change():
    splits = datasets.digits()
    content = b"".join(part.images.tobytes() + part.labels.astype("<i8").tobytes() for part in splits)
    assert hashlib.sha256(content).hexdigest() == "3baeb8053ef4be8b3373d48b5836a8071b23b35e392d6068b06c37e50f02811d"


def test_load_by_name():
    assert np.array_equal(datasets.load("digits").test.images, datasets.digits().test.images)
    assert datasets.names() == ["digits", "mnist", "fashion-mnist", "cifar10"]
    with pytest.raises(datasets.DatasetError, match="no data set 'emnist'; there are digits, mnist"):
        datasets.load("emnist")
    with pytest.raises(datasets.DatasetError, match=r"digits come with the package .*leave out data_dir \(somewhere\)"):
        datasets.load("digits", "somewhere")
