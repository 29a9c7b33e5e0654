"""1, 2, 3, 4 and 7 threads, three times each: every op of the table, both types, both memory formats; and training runs; on every instruction set."""

import bits
import numpy as np
import pytest

import fastcnn

cpu = pytest.importorskip("fastcnn.backends.cpu", reason="the compiled backend is not built")
pytestmark = pytest.mark.nightly
RUNS = 3


@pytest.fixture(params=cpu.available_isas(), autouse=True)
def isa(request):
    before, threads = cpu.isa(), cpu.get_num_threads()
    cpu.set_isa(request.param)
    with fastcnn.use_backend("cpu"):
        yield request.param
    cpu.set_isa(before)
    cpu.set_num_threads(threads)


@pytest.mark.parametrize("last", [False, True], ids=["contiguous", "channels_last"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=["f32", "f64"])
def test_every_op(last, dtype):
    first = None
    for threads in bits.THREADS:
        fastcnn.set_num_threads(threads)
        for _ in range(RUNS):
            found = bits.of_every_op(cpu, np.dtype(dtype), last)
            first = first or found
            assert found == first, [op for (op, a), (_, b) in zip(found, first, strict=True) if a != b]


@pytest.mark.parametrize("planned", [True, False], ids=["planned", "by_layers"])
@pytest.mark.parametrize("network", bits.NETWORKS)
def test_a_training_run(network, planned):
    found = set()
    for threads in bits.THREADS:
        fastcnn.set_num_threads(threads)
        for _ in range(RUNS):
            found.add(bits.train(network, planned))
    assert len(found) == 1
