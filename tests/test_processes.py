"""Forked children, process pools, several Python threads, Ctrl-C, CPUs and limits that a program sets: no hang, the same bits, nothing left changed."""

import concurrent.futures
import ctypes
import ctypes.util
import multiprocessing
import os
import platform
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

import fastcnn
from fastcnn import functional as F
from fastcnn import nn, optim
from fastcnn.train import Trainer

cpu = pytest.importorskip("fastcnn.backends.cpu", reason="the compiled backend is not built")
ROOT = Path(fastcnn.__file__).resolve().parents[1]
fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
needs_threads = pytest.mark.skipif(cpu.config()["loops"].startswith("serial"), reason="single-threaded build (FASTCNN_NO_OPENMP=1)")
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")


@pytest.fixture(autouse=True)
def two_threads():
    before = fastcnn.get_num_threads()
    with fastcnn.use_backend("cpu"):
        fastcnn.set_num_threads(2)
        yield
    fastcnn.set_num_threads(before)


def network():
    return nn.Sequential(
        nn.Conv2d(3, 24, 3, padding=1, rng=1), nn.BatchNorm2d(24), nn.ReLU(), nn.MaxPool2d(2), nn.Dropout(0.3, rng=2),
        nn.Conv2d(24, 32, 3, rng=3), nn.ReLU(), nn.Flatten(), nn.Linear(32 * 10 * 10, 10, rng=4),
    )  # fmt: skip


def trained():
    """A trainer after one step, and images."""
    model = network()
    trainer = Trainer(model, nn.CrossEntropyLoss(), optim.SGD(model.parameters(), 0.1))
    rng = np.random.default_rng(0)
    x = rng.standard_normal((96, 3, 24, 24), dtype=np.float32)
    trainer.step(x[:16], rng.integers(0, 10, 16))
    return trainer, x


def run_python(code, timeout=120, **environment):
    """A program of its own, two threads unless it says otherwise; its output."""
    path = os.pathsep.join([str(ROOT), str(Path(__file__).parent)])
    environment = os.environ | {"OMP_NUM_THREADS": "2", "FASTCNN_BACKEND": "cpu", "PYTHONPATH": path} | environment
    environment = {name: value for name, value in environment.items() if value is not None}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=timeout)
    assert done.returncode == 0, done.stderr
    return done.stdout


def in_child(work, seconds=60):
    """work() in a forked child: True, or what went wrong. A child that hangs is ended."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            code = 0 if work() else 2
        finally:
            os._exit(code)
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return status == 0 or f"the child ended with status {status}"
        time.sleep(0.002)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return "the child hangs"


@fork
def test_children_forked_while_another_thread_predicts_predict_and_train():
    """Whatever the other thread holds at that moment: the plans' lock, the pool of threads, the modules in evaluation mode."""
    trainer, x = trained()
    expected = trainer.predict(x)
    y = np.arange(16) % 10
    over = threading.Event()

    def predict():
        with fastcnn.use_backend("cpu"):
            while not over.is_set():
                trainer.predict(x, batch_size=32)

    def child():
        if not np.array_equal(trainer.predict(x), expected):
            return False
        if not all(module.training for module in trainer.model.modules()):
            return False
        return np.isfinite(trainer.step(x[:16], y)) and F.conv2d(x, np.ones((4, 3, 3, 3), np.float32)).shape == (96, 4, 22, 22)

    worker = threading.Thread(target=predict)
    worker.start()
    try:
        results = []
        for i in range(20):
            time.sleep(0.001 * (i % 7))
            results.append(in_child(child))
    finally:
        over.set()
        worker.join()
    assert results == [True] * 20
    assert all(module.training for module in trainer.model.modules()) and np.array_equal(trainer.predict(x), expected)


@fork
def test_a_child_forked_while_a_lock_is_held_does_not_wait_for_it():
    """The same with certainty: another thread stands inside each of them."""
    from fastcnn import random as library
    from fastcnn.nn import changes

    trainer, x = trained()
    expected = trainer.predict(x)
    inside, over = threading.Event(), threading.Event()

    def hold():
        with trainer._runner.evaluating(), trainer._runner._inference, changes._lock, library._rng.bit_generator.lock:
            inside.set()
            over.wait()

    worker = threading.Thread(target=hold)
    worker.start()
    inside.wait()

    def child():
        fresh = network()  # notes a change
        drawn = fastcnn.functional.dropout(np.ones(100, np.float32), 0.5)  # draws from the library's generator
        modes = all(module.training for module in trainer.model.modules())
        return modes and len(drawn) == 100 and fresh.training and np.array_equal(trainer.predict(x), expected)

    try:
        assert in_child(child) is True
    finally:
        over.set()
        worker.join()
    assert all(module.training for module in trainer.model.modules())


@fork
def test_a_child_of_a_child_computes():
    trainer, x = trained()
    expected = trainer.predict(x)
    assert in_child(lambda: np.array_equal(trainer.predict(x), expected) and in_child(lambda: np.array_equal(trainer.predict(x), expected)) is True) is True


def convolve(seed):
    rng = np.random.default_rng(seed)
    x, w = rng.standard_normal((8, 32, 24, 24), dtype=np.float32), rng.standard_normal((32, 32, 3, 3), dtype=np.float32)
    with fastcnn.use_backend("cpu"):
        return F.conv2d(x, w, padding=1)


@fork
@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_pools_of_processes(method):
    """The parent has its threads running; a trained model goes to the children and its predictions come back."""
    trainer, x = trained()
    expected, predicted = convolve(3), trainer.predict(x)
    with concurrent.futures.ProcessPoolExecutor(2, mp_context=multiprocessing.get_context(method)) as pool:
        results = [pool.submit(convolve, 3) for _ in range(3)]
        predictions = pool.submit(predict_in_child, trainer, x)
        for result in results:
            np.testing.assert_array_equal(result.result(timeout=120), expected)
        np.testing.assert_array_equal(predictions.result(timeout=120), predicted)


def predict_in_child(trainer, x):
    with fastcnn.use_backend("cpu"):
        return trainer.predict(x)


def test_four_threads_predict_with_one_trainer():
    """Its modules are in training mode in between: no prediction may see dropout, or the batch's statistics, because another thread has finished first."""
    trainer, x = trained()
    expected = {n: trainer.predict(x[:n]) for n in (1, 7, 40, 96)}
    wrong = []

    def work(n):
        with fastcnn.use_backend("cpu"):
            for _ in range(60):
                if not np.array_equal(trainer.predict(x[:n], batch_size=16), expected[n]):
                    wrong.append(n)

    workers = [threading.Thread(target=work, args=(n,)) for n in expected]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(timeout=120)
    assert not wrong and all(module.training for module in trainer.model.modules())


def test_four_threads_train_four_networks():
    def losses():
        trainer, x = trained()
        with fastcnn.use_backend("cpu"):
            return [trainer.step(x[i : i + 24], np.arange(24) % 10) for i in range(0, 96, 24)]

    expected = losses()
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        assert [future.result(timeout=120) for future in [pool.submit(losses) for _ in range(4)]] == [expected] * 4


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs setitimer")
def test_ctrl_c_inside_operations_leaves_everything_usable():
    """A signal every few milliseconds, wherever the program is: the exception comes, later results are right, the model can go on training."""
    trainer, x = trained()
    y = np.arange(96) % 10
    expected, predicted = convolve(5), trainer.predict(x)
    weights = {name: array.copy() for name, array in trainer.model.state_dict().items()}
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    caught = 0
    try:
        signal.signal(signal.SIGALRM, lambda *_: os.kill(os.getpid(), signal.SIGINT))
        for attempt in range(40):
            try:
                signal.setitimer(signal.ITIMER_REAL, 0.002 + 0.0007 * (attempt % 9))
                while True:
                    [lambda: convolve(5), lambda: trainer.predict(x), lambda: trainer.step(x, y), lambda: network()(x[:8])][attempt % 4]()
            except KeyboardInterrupt:
                caught += 1
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.signal(signal.SIGINT, before)
    assert caught == 40
    np.testing.assert_array_equal(convolve(5), expected)
    trainer.model.load_state_dict(weights)
    trainer.model.train()
    np.testing.assert_array_equal(trainer.predict(x), predicted)
    assert np.isfinite(trainer.step(x, y))


TRAIN = """
import hashlib, os
import numpy as np
import fastcnn
from test_processes import trained
trainer, x = trained()
losses = [trainer.step(x[i:i + 24], np.arange(24) % 10) for i in range(0, 96, 24)]
print(fastcnn.get_num_threads(), hashlib.sha256(trainer.predict(x).tobytes() + repr(losses).encode()).hexdigest())
"""


@needs_threads
def test_every_setting_of_the_threads_gives_the_same_bits():
    one = run_python(TRAIN, OMP_NUM_THREADS="1").split()
    many = run_python(TRAIN, OMP_NUM_THREADS="64").split()  # far more than there are CPUs
    unset = run_python(TRAIN, OMP_NUM_THREADS=None).split()
    assert one[0] == "1" and many[0] == "64" and int(unset[0]) >= 1
    assert one[1] == many[1] == unset[1]


@needs_threads
@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs sched_setaffinity")
def test_a_process_bound_to_one_cpu():
    bind = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
    late = TRAIN.replace("trainer, x = trained()", "trainer, x = trained()\n" + bind)
    results = [run_python(TRAIN), run_python(bind + TRAIN, OMP_NUM_THREADS=None), run_python(late)]
    assert [result.split()[0] for result in results] == ["2", "1", "2"]
    assert len({result.split()[1] for result in results}) == 1


@needs_threads
def test_threadpoolctl_limits_are_honoured():
    threadpoolctl = pytest.importorskip("threadpoolctl", reason="not installed")

    def ours():
        (found,) = (library for library in threadpoolctl.threadpool_info() if library["internal_api"] == "fastcnn")
        return found["num_threads"]

    assert ours() == fastcnn.get_num_threads() == 2
    expected = convolve(4)
    for limits in ({"limits": 1}, {"limits": 1, "user_api": "openmp"}, {"limits": {"openmp": 1}}):
        with threadpoolctl.threadpool_limits(**limits):
            assert ours() == fastcnn.get_num_threads() == 1
            np.testing.assert_array_equal(convolve(4), expected)
        assert fastcnn.get_num_threads() == 2
    with threadpoolctl.threadpool_limits(1, user_api="blas"):
        assert fastcnn.get_num_threads() == 2


def floating_point_mode():
    """Rounding and, on x86-64, what the processor does with denormals: the control words of the C library's fenv_t, without its flags of past exceptions."""
    libm = ctypes.CDLL(ctypes.util.find_library("m") or None)
    environment = (ctypes.c_uint32 * 16)()
    assert libm.fegetenv(ctypes.byref(environment)) == 0
    if platform.machine() == "x86_64" and sys.platform == "linux":
        return libm.fegetround(), environment[0] & 0xFFFF, environment[7] & ~0x3F  # x87 control word; MXCSR
    return (libm.fegetround(),)


def test_the_floating_point_mode_is_left_alone():
    before = floating_point_mode()
    result = run_python("from test_processes import floating_point_mode as mode; before = mode()\nimport fastcnn.backends.cpu, fastcnn.plan, fastcnn.train\n"
                        "assert mode() == before; print(*before)")  # fmt: skip
    assert len(result.split()) == len(before)
    trainer, x = trained()
    x[0] = 1e-42  # denormal
    calls = [lambda: convolve(1), lambda: trainer.predict(x), lambda: trainer.step(x, np.arange(96) % 10), lambda: F.relu(x), lambda: F.gelu(x)]
    calls += [lambda: F.softmax(x, dim=1), lambda: F.max_pool2d(x, 2), lambda: F.unfold(x, 3), lambda: F.batch_norm(x, None, None, training=True)]
    for isa in cpu.available_isas():
        cpu.set_isa(isa)
        try:
            for call in calls:
                call()
                assert floating_point_mode() == before
        finally:
            cpu.set_isa(cpu.available_isas()[0])


@pytest.mark.skipif(platform.machine() != "x86_64" or sys.platform != "linux", reason="knows the layout of this C library's fenv_t only")
def test_the_mode_s_measure_sees_a_change():
    libm = ctypes.CDLL(ctypes.util.find_library("m"))
    before, environment = floating_point_mode(), (ctypes.c_uint32 * 16)()
    libm.fegetenv(ctypes.byref(environment))
    environment[7] ^= 0x8000  # flush to zero
    libm.fesetenv(ctypes.byref(environment))
    changed = floating_point_mode()
    environment[7] ^= 0x8000
    libm.fesetenv(ctypes.byref(environment))
    assert changed != before == floating_point_mode()
