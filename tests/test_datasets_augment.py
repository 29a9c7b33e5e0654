"""Random crops and flips, and chains of transforms."""

import numpy as np
import pytest

from fastcnn.datasets import Batches, Compose, Dataset, RandomCrop, RandomHorizontalFlip, Rescale, Standardize, pad_to
from fastcnn.datasets.augment import flat, without_random


def random_images(*shape):
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def rng(seed=0):
    return np.random.default_rng(seed)


@pytest.mark.parametrize(("size", "padding"), [((4, 5), 1), ((3, 2), 0), ((4, 4), 0), ((5, 7), 1), ((6, 7), 1), (3, 1)])
def test_random_crop_gives_every_place(size, padding):
    images = random_images(900, 2, 4, 5)
    before, output = images.copy(), RandomCrop(size, padding)(images, rng())
    OH, OW = (size, size) if isinstance(size, int) else size
    H, W = 4 + 2 * padding, 5 + 2 * padding
    assert output.shape == (900, 2, OH, OW) and output.dtype == images.dtype and np.array_equal(images, before)
    padded, seen = pad_to(images, (H, W)), set()
    for i in range(len(images)):
        places = [(t, l) for t in range(H - OH + 1) for l in range(W - OW + 1) if np.array_equal(output[i], padded[i, :, t : t + OH, l : l + OW])]
        assert len(places) == 1
        seen.update(places)
    assert len(seen) == (H - OH + 1) * (W - OW + 1)


def test_random_crop_fill_and_no_images():
    images = random_images(50, 1, 2, 2) // 2
    assert 200 in RandomCrop(2, padding=1, fill=200)(images, rng())
    assert np.array_equal(RandomCrop(2)(images, rng()), images)
    assert RandomCrop(3, padding=1)(images[:0], rng()).shape == (0, 1, 3, 3)


@pytest.mark.parametrize("p", [0, 0.5, 1])
def test_random_horizontal_flip(p):
    images = random_images(300, 2, 3, 4)
    before, output = images.copy(), RandomHorizontalFlip(p)(images, rng())
    assert np.array_equal(images, before) and not np.shares_memory(images, output)
    kept = (output == images).all(axis=(1, 2, 3))
    flipped = (output == images[..., ::-1]).all(axis=(1, 2, 3))
    assert (kept ^ flipped).all() and abs(flipped.mean() - p) < 0.1


def test_the_generator_alone_decides():
    images = random_images(40, 3, 6, 6)
    for transform in (RandomCrop(6, padding=2), RandomHorizontalFlip(), Compose([RandomCrop(5, padding=1), RandomHorizontalFlip()])):
        assert np.array_equal(transform(images, rng(1)), transform(images, rng(1)))
        assert not np.array_equal(transform(images, rng(1)), transform(images, rng(2)))


def test_augmentations_print_and_refuse():
    assert (repr(RandomCrop(32, padding=4)), repr(RandomHorizontalFlip())) == ("RandomCrop((32, 32), padding=4, fill=0)", "RandomHorizontalFlip(0.5)")
    with pytest.raises(ValueError, match="padding must not be negative, got -1"):
        RandomCrop(8, -1)
    with pytest.raises(TypeError, match="padding must be an int, got float"):
        RandomCrop(8, 1.5)
    with pytest.raises(ValueError, match="size must be positive, got 0x0"):
        RandomCrop(0)
    with pytest.raises(ValueError, match="size 9x9 is larger than the images, which are 8x7 with a padding of 1"):
        RandomCrop(9, padding=1)(random_images(2, 1, 6, 5), rng())
    with pytest.raises(ValueError, match="RandomHorizontalFlip: p must be between 0 and 1, got 2"):
        RandomHorizontalFlip(2)


# Compose


def test_compose_is_one_after_the_other():
    images = random_images(5, 1, 4, 4)
    plain = Compose([lambda x: x[:, :, 1:], Rescale()])
    assert not plain.random and np.array_equal(plain(images), Rescale()(images[:, :, 1:]))
    augmenting = Compose([RandomCrop(4, padding=1), RandomHorizontalFlip(), Rescale()])
    generator = rng(3)
    by_hand = Rescale()(RandomHorizontalFlip()(RandomCrop(4, padding=1)(images, generator), generator))
    assert augmenting.random and np.array_equal(augmenting(images, rng(3)), by_hand)
    with pytest.raises(TypeError, match=r"Compose\(\[RandomCrop.*call it as f\(images, rng\)"):
        augmenting(images)


def test_in_batches_a_compose_is_the_sequence_of_its_parts():
    dataset = Dataset(random_images(20, 1, 6, 6), np.zeros(20, int), ("only",))
    crop, flip, standardize = RandomCrop(6, padding=1), RandomHorizontalFlip(), Standardize.fit(dataset)
    chains = [[crop, flip, standardize], Compose([crop, flip, standardize]), [Compose([crop, Compose([flip])]), standardize]]
    first, *others = ([x.tobytes() for x, _ in Batches(dataset, 8, True, 1, chain)] for chain in chains)
    assert all(other == first for other in others)


def test_measuring_leaves_the_random_ones_out():
    rescale = Rescale()
    assert without_random([RandomCrop(4), Compose([RandomHorizontalFlip(), rescale])]) == (rescale,)
    assert without_random(None) == flat(None) == () and flat(rescale) == (rescale,)


def test_compose_refuses_what_cannot_be_called():
    with pytest.raises(TypeError, match="every transform must be callable"):
        Compose([Rescale(), 3])
