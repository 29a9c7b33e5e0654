"""Threads: the bits do not depend on their number, fork and concurrent callers are safe, the default is what the process may use."""

import multiprocessing
import os
import subprocess
import sys
import threading

import numpy as np
import pytest

import fastcnn
from bench import problems
from fastcnn import functional as F

cpu = pytest.importorskip("fastcnn.backends.cpu", reason="the compiled backend is not built")
from fastcnn.backends.cpu.threads import cgroup_cpus, default_threads  # noqa: E402

needs_openmp = pytest.mark.skipif(cpu.config()["loops"].startswith("serial"), reason="single-threaded build (FASTCNN_NO_OPENMP=1)")


@pytest.fixture(autouse=True)
def restore_threads():
    before = fastcnn.get_num_threads()
    with fastcnn.use_backend("cpu"):
        yield
    fastcnn.set_num_threads(before)


def channels_last(array):
    return np.ascontiguousarray(array.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)


# Large enough for several threads to take part (see SERIAL_FLOPS): wide, narrow, strided, grouped, depthwise, covering, one image, ragged.
CASES = """
wide        4 64 20 20 70 3 3 1 1 1 1
narrow      33 3 30 29 7 5 5 1 0 1 1
strided     5 24 31 33 40 3 3 2 1 1 1
dilated     3 20 25 25 33 3 3 1 2 2 1
grouped     6 32 17 17 64 3 3 1 1 1 4
depthwise   6 70 33 31 70 3 3 1 1 1 70
depthwise-s 6 70 33 31 70 3 3 2 1 1 70
covering    96 40 5 5 120 5 5 1 0 1 1
deep        9 130 9 9 240 3 3 1 1 1 1
large-gw    3 110 21 19 200 3 3 2 1 1 1
one-image   1 48 40 40 48 3 3 1 1 1 1
large-dw    2 300 6 6 320 3 3 1 1 1 1
"""


def everything(problem, convert, rng):
    """All results of one problem, forward and backward, with pooling, batch norm and activation of its output."""
    x, w = (convert(rng.standard_normal(shape, dtype=np.float32)) for shape in (problem.input_shape, problem.weight_shape))
    y = F.conv2d(x, w, rng.standard_normal(problem.O, dtype=np.float32), **problem.options)
    g = convert(rng.standard_normal(y.shape, dtype=np.float32))
    yield y
    yield from F.conv2d_backward(g, x, w, **problem.options)
    z, mean, var = F.batch_norm(y, None, None, training=True, return_stats=True)
    yield from (z, mean, var)
    yield from (a for a in F.batch_norm_backward(g, y, training=True, mean=mean, var=var) if a is not None)
    yield F.relu(z)
    yield F.tanh_backward(g, y)
    if min(y.shape[2:]) > 1:
        pooled, indices = F.max_pool2d(y, 2, return_indices=True)
        yield pooled
        yield F.max_pool2d_backward(pooled, y, 2, indices=indices)
        yield F.avg_pool2d(y, 2)
    yield F.linear(y.reshape(len(y), -1), g.reshape(len(g), -1)[:9])
    yield F.unfold(x, problem.kernel, problem.dilation, problem.padding, problem.stride)


@needs_openmp
@pytest.mark.parametrize("convert", [np.ascontiguousarray, channels_last], ids=["contiguous", "channels_last"])
@pytest.mark.parametrize("problem", problems.parse(CASES.splitlines(), "CASES"), ids=lambda p: p.name)
def test_results_have_the_same_bits_at_every_thread_count(problem, convert):
    results = []
    for threads in (1, 2, 3, 4, 7):
        fastcnn.set_num_threads(threads)
        results.append([np.array(a) for a in everything(problem, convert, np.random.default_rng(5))])
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            np.testing.assert_array_equal(a, b)


def train_some_steps():
    model = fastcnn.nn.Sequential(
        fastcnn.nn.Conv2d(3, 8, 3, padding=1, rng=1), fastcnn.nn.BatchNorm2d(8), fastcnn.nn.ReLU(), fastcnn.nn.MaxPool2d(2), fastcnn.nn.Dropout(0.3, rng=2),
        fastcnn.nn.Conv2d(8, 16, 3, rng=3), fastcnn.nn.LeakyReLU(), fastcnn.nn.Flatten(), fastcnn.nn.Linear(16 * 14 * 14, 10, rng=4),
    )  # fmt: skip
    trainer = fastcnn.Trainer(model, fastcnn.nn.CrossEntropyLoss(), fastcnn.optim.Adam(model.parameters()))
    rng = np.random.default_rng(0)
    losses = [trainer.step(rng.standard_normal((32, 3, 32, 32), dtype=np.float32), rng.integers(0, 10, 32)) for _ in range(4)]
    return losses, model.state_dict()


@needs_openmp
def test_training_has_the_same_bits_at_every_thread_count():
    fastcnn.set_num_threads(1)
    losses, state = train_some_steps()
    for threads in (2, 4):
        fastcnn.set_num_threads(threads)
        other_losses, other = train_some_steps()
        assert losses == other_losses
        for key in state:
            np.testing.assert_array_equal(state[key], other[key])


def test_identical_patches_give_identical_bits_wherever_they_lie():
    """The direct algorithm: main loop, tail, edge strip, any image of the batch; coursework with tied pooling windows depends on it."""
    rng = np.random.default_rng(0)
    for C, O, kernel in ((1, 6, 5), (3, 17, 3), (64, 50, 3)):
        patch = rng.standard_normal((C, kernel, kernel), dtype=np.float32)
        x = np.tile(patch, (7, 1, 9, 11))
        w = rng.standard_normal((O, C, kernel, kernel), dtype=np.float32)
        for image in (x, channels_last(x)):
            y = F.conv2d(image, w, stride=kernel, algorithm="direct")
            assert (y == y[:1, :, :1, :1]).all()


def convolve_in_child(seed):
    return F.conv2d(*inputs(seed), padding=1)


def inputs(seed):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((8, 32, 24, 24), dtype=np.float32), rng.standard_normal((32, 32, 3, 3), dtype=np.float32)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_child_processes_compute_after_a_parallel_region_of_the_parent(method):
    fastcnn.set_num_threads(2)
    expected = convolve_in_child(3)  # workers now exist in this process; a forked child has none of them
    with multiprocessing.get_context(method).Pool(2) as pool:
        for result in pool.map_async(convolve_in_child, [3, 3, 3]).get(timeout=120):
            np.testing.assert_array_equal(result, expected)


def test_four_python_threads_at_once():
    expected = [F.conv2d(*inputs(seed), padding=1) for seed in range(4)]
    failures = []

    def work(seed):
        with fastcnn.use_backend("cpu"):
            for _ in range(10):
                if not np.array_equal(F.conv2d(*inputs(seed), padding=1), expected[seed]):
                    failures.append(seed)

    workers = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(timeout=120)
    assert not failures


def test_an_algorithm_chosen_for_one_call_does_not_reach_other_threads():
    seen = []
    with fastcnn.use_algorithm("direct"):
        worker = threading.Thread(target=lambda: seen.append(cpu.get_algorithm()))
        worker.start()
        worker.join()
        assert cpu.get_algorithm() == "direct"
    assert seen == ["auto"] and cpu.get_algorithm() == "auto"


AFFINITY = """
import os, time
import numpy as np
import fastcnn
from fastcnn import functional as F

fastcnn.set_backend("cpu")
rng = np.random.default_rng(0)
x, w = (rng.integers(-4, 5, shape).astype(np.float32) for shape in ((8, 16, 20, 20), (16, 16, 3, 3)))
fastcnn.set_num_threads(1)
expected = F.conv2d(x, w, padding=1, algorithm="direct").tobytes()
before, own = os.sched_getaffinity(0), set(os.listdir("/proc/self/task"))
fastcnn.set_num_threads(3)
for cpus in (before, {min(before)}, before):
    os.sched_setaffinity(0, cpus)
    for _ in range(3):
        time.sleep(0.002)  # the workers fall asleep
        assert F.conv2d(x, w, padding=1, algorithm="direct").tobytes() == expected
    assert os.sched_getaffinity(0) == cpus
    for worker in map(int, set(os.listdir("/proc/self/task")) - own):
        assert os.sched_getaffinity(worker) <= before
"""


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no CPU affinity on this platform")
def test_workers_stay_on_the_cpus_of_the_process_and_the_callers_own_are_left_alone():
    done = subprocess.run([sys.executable, "-c", AFFINITY], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("n", [0, -1])
def test_set_num_threads_refuses_less_than_one(n):
    with pytest.raises(ValueError, match=f"set_num_threads: n must be at least 1, got {n}"):
        fastcnn.set_num_threads(n)


@pytest.mark.parametrize("n", [1.5, "2", True, None])
def test_set_num_threads_refuses_what_is_no_int(n):
    with pytest.raises(TypeError, match="set_num_threads: n must be an int"):
        fastcnn.set_num_threads(n)


@pytest.mark.parametrize(("setting", "expected"), [("3", 3), ("5,2", 5), (" 2 ", 2)])
def test_default_threads_follow_omp_num_threads(setting, expected, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", setting)
    assert default_threads() == expected


@pytest.mark.parametrize("setting", ["", "0", "many", "-2"])
def test_default_threads_ignore_a_senseless_setting(setting, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", setting)
    assert 1 <= default_threads() <= (os.cpu_count() or 1)


def test_a_senselessly_large_number_of_threads_is_capped():
    fastcnn.set_num_threads(10**12)
    assert fastcnn.get_num_threads() <= 1024


def test_scratch_of_many_threads_cannot_overflow():
    """Padded to 2^62 bytes per thread, four threads' strips would wrap around to a few megabytes."""
    fastcnn.set_num_threads(4)
    x, w = np.ones((1, 1, 2, 2)), np.ones((130000, 1, 2, 2))
    with pytest.raises(ValueError, match="the padded input"):
        F.conv2d(x, w, None, 1, (2**28 - 1, 2**29 - 1), (2**29 - 1, 2**30 - 1), algorithm="direct")


def test_cgroup_quota_is_read(tmp_path):
    assert cgroup_cpus(str(tmp_path)) == float("inf")
    (tmp_path / "cpu.max").write_text("150000 100000\n")
    assert cgroup_cpus(str(tmp_path)) == 1.5
    (tmp_path / "cpu.max").write_text("max 100000\n")
    assert cgroup_cpus(str(tmp_path)) == float("inf")


def run_python(code, **environment):
    return subprocess.run([sys.executable, "-c", code], env={**os.environ, **environment}, capture_output=True, text=True, timeout=120)


def test_importing_leaves_the_environment_as_it_was():
    result = run_python("import os; before = dict(os.environ); import fastcnn.backends.cpu; assert dict(os.environ) == before")
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("isa", cpu.available_isas())
def test_fastcnn_isa_forces_an_instruction_set(isa):
    result = run_python("import fastcnn.backends.cpu as cpu; print(cpu.isa())", FASTCNN_ISA=isa)
    assert result.stdout.strip() == isa, result.stderr


def test_an_unknown_instruction_set_is_refused_by_name():
    result = run_python("import fastcnn; fastcnn.functional.relu(__import__('numpy').ones(3))", FASTCNN_ISA="avx9000")
    assert result.returncode != 0
    assert "unknown instruction set 'avx9000'" in result.stderr
