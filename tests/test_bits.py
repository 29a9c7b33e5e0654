"""The bits do not depend on the number of threads: every op of the table, and training runs with dropout and augmentation, by plans and layer by layer.

Here a sample; nightly/test_all_bits.py runs 1, 2, 3, 4 and 7 threads three times each, on every instruction set.
"""

import bits
import numpy as np
import pytest

import fastcnn

cpu = pytest.importorskip("fastcnn.backends.cpu", reason="the compiled backend is not built")

needs_threads = pytest.mark.skipif(cpu.config()["loops"].startswith("serial"), reason="single-threaded build (FASTCNN_NO_OPENMP=1)")
pytestmark = needs_threads


@pytest.fixture(autouse=True)
def restored_threads():
    before = cpu.get_num_threads()
    with fastcnn.use_backend("cpu"):
        yield
    cpu.set_num_threads(before)


@pytest.mark.parametrize("last", [False, True], ids=["contiguous", "channels_last"])
def test_every_op(last, dtype):
    results = []
    for threads in (1, 3, 7):
        fastcnn.set_num_threads(threads)
        results.append(bits.of_every_op(cpu, dtype, last))
    for other in results[1:]:
        assert other == results[0]


@pytest.mark.parametrize("planned", [True, False], ids=["planned", "by_layers"])
@pytest.mark.parametrize("network", bits.NETWORKS)
def test_a_training_run(network, planned):
    found = set()
    for threads in (1, 2, 5):
        fastcnn.set_num_threads(threads)
        found.add(bits.train(network, planned, images=100, epochs=1))
    assert len(found) == 1


def test_a_digest_tells_one_bit():
    a = np.zeros(3, np.float32)
    b = a.copy()
    b[1] = np.nextafter(np.float32(0), np.float32(1))
    assert bits.digest(a) != bits.digest(b) and bits.digest(a) != bits.digest(-a) and bits.digest(a) != bits.digest(a.reshape(3, 1))
