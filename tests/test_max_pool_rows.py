"""2x2 windows side by side in planes, which have a kernel of their own: widths around the vectors, every instruction set, ties, NaN, infinities."""

import numpy as np
import pytest

from fastcnn import functional as F
from fastcnn.backend import use_backend

cpu = pytest.importorskip("fastcnn.backends.cpu", reason="the compiled backend is not built")


@pytest.mark.parametrize("isa", cpu.available_isas())
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("kind", ["plain", "ties", "nan", "infinite"])
def test_values_and_indices_are_the_references(rng, isa, dtype, kind):
    before = cpu.isa()
    cpu.set_isa(isa)
    try:
        for width in range(2, 70):
            x = rng.standard_normal((2, 3, 5, width)).astype(dtype)
            if kind == "ties":
                x = np.round(x)
            elif kind == "nan":
                x[rng.random(x.shape) < 0.3] = np.nan
            elif kind == "infinite":
                x[rng.random(x.shape) < 0.6] = -np.inf
                x[rng.random(x.shape) < 0.2] = np.inf
            for stride in (2, 1, 3):
                with use_backend("reference"):
                    expected = F.max_pool2d(x, 2, stride, return_indices=True)
                with use_backend("cpu"):
                    got = F.max_pool2d(x, 2, stride, return_indices=True)
                np.testing.assert_array_equal(got[0], expected[0])
                np.testing.assert_array_equal(got[1], expected[1])
    finally:
        cpu.set_isa(before)
