"""The checksum by which plans notice that weights have changed: every change counts, also those that come in pairs."""

import numpy as np
import pytest

cpu = pytest.importorskip("fastcnn.backends.cpu", reason="the compiled backend is not built")
from fastcnn.backends.cpu import _runtime  # noqa: E402

SIZES = [1, 2, 16, 31, 64, 128, 256, 300, 1024, 4096, 70_000]


@pytest.fixture(params=cpu.available_isas())
def isa(request):
    before = cpu.isa()
    cpu.set_isa(request.param)
    yield request.param
    cpu.set_isa(before)


def negate_all(a):
    a *= -1


def negate_the_first_two_vectors_of_a_lane(a):
    a[:: max(1, min(256, len(a) // 2))] *= -1


def double(a):
    a *= 2


def halve_and_negate(a):
    a *= -0.5


def swap_neighbours(a):
    a[: len(a) // 2 * 2] = a[: len(a) // 2 * 2].reshape(-1, 2)[:, ::-1].ravel()


def swap_halves(a):
    half = len(a) // 2
    a[: 2 * half] = np.concatenate([a[half : 2 * half], a[:half]])


def one_bit_in_every_word(bit):
    def flip(a):
        a.view(np.uint32)[:] ^= np.uint32(1 << bit)

    flip.__name__ = f"flip bit {bit} of every word"
    return flip


CHANGES = [negate_all, negate_the_first_two_vectors_of_a_lane, double, halve_and_negate, swap_neighbours, swap_halves, *map(one_bit_in_every_word, range(32))]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("size", SIZES)
def test_every_change_is_noticed(isa, size, dtype):
    original = np.random.default_rng(size).standard_normal(size).astype(dtype) + 3
    before = _runtime.checksum((original,))
    assert _runtime.checksum((original.copy(),)) == before
    for change in CHANGES:
        changed = original.copy()
        change(changed)
        if not np.array_equal(changed, original):
            assert _runtime.checksum((changed,)) != before, change.__name__


def test_any_two_changed_signs_are_noticed(isa):
    original = np.ones(192, np.float32)
    before = _runtime.checksum((original,))
    for i in range(192):
        for j in range(i):
            original[[i, j]] = -1
            assert _runtime.checksum((original,)) != before, (i, j)
            original[[i, j]] = 1


def test_checksums_of_several_arrays_depend_on_each_and_on_their_order():
    a, b = np.ones(5), np.zeros(5)
    sums = [_runtime.checksum(arrays) for arrays in ((a, b), (b, a), (a,), (a, None), (None, a), (a, b, None), (a, -b))]
    assert len(set(sums)) == len(sums)
    with pytest.raises(ValueError, match="must be C-contiguous"):
        _runtime.checksum((np.ones((4, 4))[:, ::2],))
