"""The GPU backend without a GPU: its kernels in numba's simulator, and what is said where something is missing.

Each tests/cuda_sim_*.py runs in a process of its own, because numba decides at its import whether it simulates.
"""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import fastcnn
from fastcnn import backend as backends

HERE = Path(__file__).parent
NUMBA = importlib.util.find_spec("numba") is not None
PACKAGE = HERE.parent / "fastcnn"


@pytest.mark.skipif(not NUMBA, reason="numba-cuda is not installed (extra `cuda`)")
@pytest.mark.parametrize("file", sorted(path.name for path in HERE.glob("cuda_sim_*.py")))
def test_in_the_simulator(file):
    environment = os.environ | {"NUMBA_ENABLE_CUDASIM": "1", "PYTHONPATH": str(HERE.parent)}
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", str(HERE / file)]
    done = subprocess.run(command, cwd=HERE.parent, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]


def run(code, **environment):
    done = subprocess.run([sys.executable, "-c", code], cwd=HERE.parent, env=os.environ | environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_and_computing_never_imports_numba():
    code = """
import sys, numpy as np, fastcnn
from fastcnn import nn
fastcnn.use_backend("reference")
model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8, 2))
x = np.ones((4, 1, 4, 4), np.float32)
fastcnn.fit(model, (x, np.array([0, 1, 0, 1])), epochs=1, progress=False)
model.state_dict(), fastcnn.to_host(x), fastcnn.get_num_threads()
print([name for name in sys.modules if name.split(".")[0] in ("numba", "numba_cuda", "cupy")])
"""
    assert run(code).strip() == "[]"


def test_without_numba_it_says_what_to_install():
    code = """
import sys
sys.modules["numba"] = None
import fastcnn
print(fastcnn.available()["cuda"])
for use in (lambda: fastcnn.use_backend("cuda"), lambda: fastcnn.to_device([1.0])):
    try:
        use()
    except RuntimeError as error:
        print(error)
"""
    lines = run(code).splitlines()
    assert len(lines) == 3
    for line in lines:
        assert "numba-cuda is missing" in line and "pip install 'fastcnn[cuda]'" in line


@pytest.mark.skipif(not NUMBA, reason="numba-cuda is not installed (extra `cuda`)")
def test_without_a_gpu_it_says_so():
    reason = backends.obstacle("cuda")
    if reason is None:
        pytest.skip("there is a GPU")
    assert "no NVIDIA driver can be used" in reason or "no NVIDIA GPU" in reason or "NVVM" in reason
    with pytest.raises(RuntimeError, match='backend "cuda" cannot be used'):
        fastcnn.use_backend("cuda")


class Elsewhere:
    """An array on a GPU, for a backend that computes on the host."""

    __cuda_array_interface__ = {"shape": (2,), "strides": None, "typestr": "<f4", "data": (0, False), "version": 3}


def test_the_host_backends_say_where_an_array_is(backend):
    with pytest.raises(TypeError, match=r"relu: input must be a numpy.ndarray, got Elsewhere, which lies on a GPU: use_backend\('cuda'\)"):
        fastcnn.functional.relu(Elsewhere())


def test_host_arrays_pass_through_to_host_and_models_stay():
    x = np.ones(3)
    assert fastcnn.to_host(x) is x
    model = fastcnn.nn.Linear(2, 2)
    weight = model.weight.data
    assert model.to("cpu").weight.data is weight


def test_numba_has_one_home():
    """The toolchain under the kernels changes: every line that touches it is in one folder."""
    home = PACKAGE / "backends" / "cuda"
    for path in PACKAGE.rglob("*.py"):
        if home not in path.parents:
            for line in path.read_text(encoding="utf-8").splitlines():
                assert not line.strip().startswith(("import numba", "from numba")), path
