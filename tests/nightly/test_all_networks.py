"""Hundreds of random networks of whole numbers, by their plans and layer by layer on the reference, on every instruction set."""

import numpy as np
import pytest
import random_networks

cpu = pytest.importorskip("fastcnn.backends.cpu", reason="the compiled backend is not built")
pytestmark = pytest.mark.nightly


@pytest.mark.parametrize("isa", cpu.available_isas())
def test_random_networks(isa):
    before = cpu.isa()
    cpu.set_isa(isa)
    try:
        failures, compared = random_networks.compare(random_networks.drawn(300, 2), (np.float32, np.float64))
    finally:
        cpu.set_isa(before)
    assert not failures, "\n".join(failures[:5])
    assert compared >= 450
    print(compared, "networks compared")
