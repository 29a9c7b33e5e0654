"""Memory that is not there: every single allocation of every operation fails once, and MemoryError is all that comes of it. And none that is not given back."""

import ctypes
import gc
import os
import platform
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import fastcnn
from fastcnn import functional as F
from fastcnn import nn, optim

cpu = pytest.importorskip("fastcnn.backends.cpu", reason="the compiled backend is not built")
from functional_cases import CASES  # noqa: E402
from test_guard_pages import install  # noqa: E402

from fastcnn.backends.cpu import _runtime  # noqa: E402
from fastcnn.train import Trainer  # noqa: E402

ROOT = Path(fastcnn.__file__).resolve().parents[1]
COMPILER = shutil.which(os.environ.get("CC", "cc"))


def operations():
    """name, a function without arguments: all of the functional API forward and backward, each implementation of the convolutions, optimizers, whole steps."""
    for case in CASES:
        arrays, others = case.make(np.float32)
        output = case.forward(arrays, others)
        output = output[0] if isinstance(output, tuple) else output
        yield f"{case}", lambda case=case, arrays=arrays, others=others: case.forward(arrays, others)
        g = np.ones_like(output)
        if case.op != "dropout":
            yield f"{case} backward", lambda case=case, g=g, arrays=arrays, others=others: case.backward(g, arrays, others)
    options = (1, 1), ((1, 1), (1, 1)), (1, 1)
    for N, C, O, H, groups in ((2, 3, 5, 9, 1), (9, 20, 33, 14, 1), (3, 24, 24, 12, 24), (17, 2, 6, 11, 1)):
        rng = np.random.default_rng(0)
        x, w, g = (rng.integers(-3, 4, shape).astype(np.float32) for shape in ((N, C, H, H), (O, C // groups, 3, 3), (N, O, H, H)))
        for op, arguments in (("conv2d", (x, w, None)), ("conv2d_grad_input", (g, w, x.shape)), ("conv2d_grad_weight", (g, x, w.shape))):
            for impl in cpu.select.IMPLEMENTATIONS[op]:
                if impl.declines is None or impl.declines(*arguments, *options, groups) is None:
                    yield f"{op} {impl.name} {x.shape}", lambda impl=impl, a=arguments, groups=groups: impl.function(*a, *options, groups)
    p = [np.ones(n, np.float32) for n in (5, 3000, 1)]
    zeros = [np.zeros_like(a) for a in p]
    yield "sgd_update", lambda: cpu.sgd_update(p, zeros, zeros, [2] * 3, 0.1, 0.9, 0.0, 0.0, False, False)
    yield "adam_update", lambda: cpu.adam_update(p, zeros, zeros, zeros, None, [2] * 3, 0.1, 0.9, 0.999, 1e-8, 0.0, False, False)


def model():
    return nn.Sequential(
        nn.Conv2d(3, 20, 3, padding=1, rng=1), nn.BatchNorm2d(20), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(20, 17, 3, rng=3), nn.ReLU(), nn.Flatten(),
        nn.Linear(17 * 16, 10, rng=4),
    )  # fmt: skip


def same(one, other):
    if isinstance(one, (tuple, list)):
        return all(map(same, one, other))
    return one is None and other is None or np.array_equal(one, other, equal_nan=True)


def fail_everywhere(library, name, call, check=None, most=400):
    """call() with its first allocation failing, then its second, and so on, until it needs no more; how many there were."""
    expected = call()
    for number in range(1, most):
        _runtime.free_scratch()
        library.fail_at(number)
        try:
            result = call()
        except MemoryError:
            result = None
        finally:
            failures = library.failed()
        if not failures:
            assert same(result, expected), f"{name}: another result after {number - 1} failures"
            return number - 1
        if result is not None:  # something below has done without the memory
            assert same(result, expected), f"{name}: another result when allocation {number} fails"
    raise AssertionError(f"{name}: more than {most} allocations")


def everything():
    library = ctypes.CDLL(None)
    library.failed.restype = ctypes.c_long
    cpu.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    gc.disable()
    np.seterr(all="ignore")
    install(ctypes.addressof(ctypes.c_char.in_dll(library, "array_handler")))
    total = count = 0
    for name, call in operations():
        os.write(2, f"{name}\n".encode())
        total += fail_everywhere(library, name, call)
        count += 1
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((12, 3, 12, 12), dtype=np.float32), np.arange(12) % 10

    def fresh():
        network = model()
        trainer = Trainer(network, nn.CrossEntropyLoss(), optim.Adam(network.parameters()))
        trainer.step(x, y)
        return trainer

    trainer = fresh()
    for name, call in {
        "predict": lambda: trainer.predict(x),
        "predict, in pieces": lambda: trainer.predict(x, batch_size=5),
        "evaluate": lambda: trainer.evaluate((x, y)) and None,
        "a plan": lambda: fresh().predict(x),
    }.items():
        os.write(2, f"{name}\n".encode())
        total += fail_everywhere(library, name, call, most=5000)
        count += 1
        assert all(module.training for module in trainer.model.modules())
    os.write(2, b"steps\n")
    for number in range(1, 400):  # a step that fails may have changed some of the weights; the trainer goes on all the same
        _runtime.free_scratch()
        library.fail_at(number)
        try:
            trainer.step(x, y)
        except MemoryError:
            pass
        finally:
            failures = library.failed()
        if not failures:
            break
    assert np.isfinite(trainer.step(x, y))
    print(f"{count} operations, {total + number - 1} failures")
    sys.stdout.flush()
    os._exit(0)


@pytest.mark.skipif(not sys.platform.startswith("linux") or platform.libc_ver()[0] != "glibc", reason="knows the insides of the GNU C library only")
@pytest.mark.skipif(COMPILER is None, reason="needs a C compiler")
@pytest.mark.parametrize("threads", [1, 2])
def test_every_allocation_may_fail(tmp_path, threads):
    library = tmp_path / "failing_malloc.so"
    subprocess.run([COMPILER, "-O1", "-shared", "-fPIC", Path(__file__).with_name("failing_malloc.c"), "-o", library], check=True)
    path = os.pathsep.join([str(ROOT), str(Path(__file__).parent), *sys.path])
    environment = os.environ | {"LD_PRELOAD": str(library), "PYTHONPATH": path, "OMP_NUM_THREADS": str(threads), "FASTCNN_BACKEND": "cpu"}
    done = subprocess.run([sys.executable, __file__], env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, "\n".join(done.stderr.splitlines()[-30:])
    operations_done, failures = (int(word) for word in done.stdout.split() if word.isdigit())
    assert operations_done > 100 and failures > 3 * operations_done


def resident():
    """Bytes of this process that are in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def train_steps():
    network = model()
    trainer = Trainer(network, nn.CrossEntropyLoss(), optim.Adam(network.parameters()))
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((4, 3, 12, 12), dtype=np.float32), np.arange(4) % 10
    return lambda _: trainer.step(x, y)


def predictions():
    trainer = Trainer(network := model(), nn.CrossEntropyLoss(), optim.SGD(network.parameters(), 0.1))
    x = np.random.default_rng(0).standard_normal((4, 3, 12, 12), dtype=np.float32)
    return lambda _: trainer.predict(x)


def plans_for_other_shapes():
    """More batch sizes than plans are kept, in both modes."""
    trainer = Trainer(network := model(), nn.CrossEntropyLoss(), optim.SGD(network.parameters(), 0.1))
    x, y = np.random.default_rng(0).standard_normal((7, 3, 12, 12), dtype=np.float32), np.arange(7) % 10

    def call(number):
        n = 1 + number % 7
        trainer.step(x[:n], y[:n])
        trainer.predict(x[:n])

    return call


def networks_by_the_layer():
    x = np.random.default_rng(0).standard_normal((2, 3, 12, 12), dtype=np.float32)

    def call(_):
        network = model()
        network.backward(np.ones_like(network(x)))

    return call


def single_operations():
    calls = [call for name, call in operations() if "update" not in name]
    return lambda number: calls[number % len(calls)]()


def errors():
    """Exceptions on the way out of an operation."""
    x, w = np.ones((2, 3, 5, 5), np.float32), np.ones((4, 3, 7, 7), np.float32)

    def call(_):
        with pytest.raises(ValueError):
            F.conv2d(x, w)
        with pytest.raises((ValueError, IndexError)):
            F.cross_entropy(np.ones((2, 3), np.float32), np.array([0, 7]))

    return call


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("work", [train_steps, predictions, plans_for_other_shapes, networks_by_the_layer, single_operations, errors], ids=lambda f: f.__name__)
@pytest.mark.parametrize("steps", [600, pytest.param(10_000, marks=pytest.mark.nightly)])
def test_memory_does_not_grow(work, steps):
    """A leak of 4 KB per step would be 2.4 MB in 600 of them."""
    with fastcnn.use_backend("cpu"), np.errstate(all="ignore"):
        call = work()
        for number in range(1000):  # every kind of call once: what it keeps for good is there
            call(number)
        gc.collect()
        before = resident()
        for number in range(steps):
            call(number)
        gc.collect()
        assert resident() - before < 1_500_000


if __name__ == "__main__":
    import faulthandler

    faulthandler.enable()
    everything()
