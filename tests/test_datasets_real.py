"""The real files, in the folder that FASTCNN_TEST_DATA names (mnist/, cifar-10-batches-py/, cifar-10-batches-bin/)."""

import os
from pathlib import Path

import numpy as np
import pytest

from fastcnn import datasets
from fastcnn.datasets import Batches, Standardize

ROOT = os.environ.get("FASTCNN_TEST_DATA", "")


def needs(*folders):
    there = ROOT and all((Path(ROOT) / folder).is_dir() for folder in folders)
    return pytest.mark.skipif(not there, reason=f"FASTCNN_TEST_DATA names no folder with {', '.join(folders)}")


@needs("mnist")
def test_mnist():
    train, test = datasets.load("mnist", ROOT, download=False)
    assert train.images.shape == (60_000, 1, 28, 28) and test.images.shape == (10_000, 1, 28, 28)
    assert np.bincount(train.labels).tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert np.bincount(test.labels).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    standardize = Standardize.fit(train)
    assert (standardize.mean / 255).round(4).tolist() == [0.1307] and (standardize.std / 255).round(4).tolist() == [0.3081]


@needs("cifar-10-batches-py", "cifar-10-batches-bin")
def test_cifar10_python_and_binary_hold_the_same():
    pickled = datasets.cifar10(ROOT, download=False)
    binary = datasets.cifar10(Path(ROOT) / "cifar-10-batches-bin", download=False)
    for part, other in zip(pickled, binary, strict=True):
        assert np.array_equal(part.images, other.images) and np.array_equal(part.labels, other.labels)
    train, test = pickled
    assert train.images.shape == (50_000, 3, 32, 32) and test.images.shape == (10_000, 3, 32, 32)
    assert np.bincount(train.labels).tolist() == [5000] * 10 and np.bincount(test.labels).tolist() == [1000] * 10
    standardize = Standardize.fit(train)
    assert np.abs(standardize.mean / 255 - [0.4914, 0.4822, 0.4465]).max() < 1e-3
    seen = np.zeros(10, int)
    for x, y in Batches(train, 1000, shuffle=True, seed=0, transform=standardize):
        assert x.shape == (1000, 3, 32, 32) and x.dtype == np.float32
        seen += np.bincount(y, minlength=10)
    assert seen.tolist() == [5000] * 10
