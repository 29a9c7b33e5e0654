"""The digits that come with the package: real data for examples and tests without a download."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from .dataset import Dataset, Splits
from .idx import read_idx

TEST_EVERY = 5


def digits() -> Splits:
    """1,797 handwritten digits, 8x8 grey: 1,442 to train on and 355 to test with (UCI, Alpaydin and Kaynak 1998; see data/ATTRIBUTION.md).

    The published values are 0..16; they become uint8 by value * 255 / 16, rounded half up (0 -> 0, 8 -> 128, 16 -> 255).
    Of each class, in the published order, every fifth image (the 5th, 10th, ...) is a test image and the others are for training: a
    stratified split that needs no random numbers, so it is the same everywhere. Both parts keep the published order. The 13 writers are in
    both parts, so the test measures new images, not new writers.
    """
    folder = Path(__file__).parent / "data"
    values, labels = read_idx(folder / "digits-images-idx3-ubyte.gz", 3), read_idx(folder / "digits-labels-idx1-ubyte.gz", 1)
    images = ((values.astype(np.uint16) * 255 + 8) // 16).astype(np.uint8)[:, None]
    rank = np.empty(len(labels), int)  # how many earlier images have the same class
    for label in range(10):
        rank[labels == label] = np.arange(np.count_nonzero(labels == label))
    test = rank % TEST_EVERY == TEST_EVERY - 1
    classes = tuple("0123456789")
    return Splits(Dataset(images[~test], labels[~test], classes, "digits train"), Dataset(images[test], labels[test], classes, "digits test"))
