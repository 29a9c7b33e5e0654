"""The `backend` fixture: a test that asks for it runs once on every backend. An unusable one shows as a skip with its reason."""

import threading

import numpy as np
import pytest

from fastcnn import backend as backends

_REASONS = backends.available()
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
