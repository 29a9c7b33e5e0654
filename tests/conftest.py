"""The `backend` fixture: a test that asks for it runs once on every backend of the host's. An unusable one shows as a skip with its reason."""

import signal
import threading

import numpy as np
import pytest

from fastcnn import backend as backends

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as a shell starts its background jobs: Ctrl-C is tested there too
    signal.signal(signal.SIGINT, signal.default_int_handler)

_REASONS = {name: backends.obstacle(name) for name in backends.HOST}  # "cuda" takes no NumPy arrays, and has its own tests
if _REASONS["cpu"] is not None:
    backends.set_backend("reference")  # for the tests that do not ask for a backend; the others show what is missing


@pytest.fixture(
    params=[
        pytest.param(name, marks=() if reason is None else pytest.mark.skip(reason=f"backend {name}: {reason}"))
        for name, reason in _REASONS.items()
    ]
)
def backend(request):
    with backends.use_backend(request.param):
        yield request.param


@pytest.fixture(autouse=True)
def _no_thread_is_left():
    yield
    assert "fastcnn-prefetch" not in [thread.name for thread in threading.enumerate()]


@pytest.fixture(params=[np.float32, np.float64], ids=["f32", "f64"])
def dtype(request):
    return np.dtype(request.param)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture(scope="session")
def small_cifar10(tmp_path_factory):
    """A folder with CIFAR-10's published binary files in small: 20 images each, a class a colour."""
    folder = tmp_path_factory.mktemp("cifar10") / "cifar-10-batches-bin"
    folder.mkdir()
    rng = np.random.default_rng(0)
    colours = rng.integers(0, 256, (10, 3, 1, 1))
    for batch in (*(f"data_batch_{k}" for k in range(1, 6)), "test_batch"):
        labels = np.arange(20) % 10
        images = (colours[labels] + rng.integers(-20, 20, (20, 3, 32, 32))).clip(0, 255)
        (folder / f"{batch}.bin").write_bytes(np.concatenate([labels[:, None], images.reshape(20, -1)], axis=1).astype(np.uint8).tobytes())
    return folder.parent


@pytest.fixture(autouse=True)
def _pytorch_on_one_thread(request):
    """OpenMP's loops wait for every thread of theirs: on a busy machine thousands of small ones take minutes. Tests of the threads set them themselves."""
    if not request.module.__name__.startswith("test_torch_"):
        yield
        return
    import torch

    from fastcnn.torch import share_threads

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    share_threads(False)
    yield
    share_threads(False)
    torch.set_num_threads(before)
