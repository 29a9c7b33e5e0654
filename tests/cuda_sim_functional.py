"""Every call of the functional table on numba's simulator, against the reference."""

import numpy as np
import pytest
from cuda_cases import check
from functional_cases import CASES


@pytest.mark.parametrize("case", CASES, ids=str)
def test_agrees_with_the_reference(case):
    check(case, np.dtype(np.float32))


@pytest.mark.parametrize("case", [case for case in CASES if case.op in ("batch_norm", "max_pool2d", "cross_entropy", "gelu")][::5], ids=str)
def test_float64_agrees_with_the_reference(case):
    check(case, np.dtype(np.float64))
