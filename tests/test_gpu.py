"""Backend "cuda" on a GPU: `pytest -m gpu`. Every call of the functional table against the reference, and training."""

import copy

import numpy as np
import pytest
from cuda_cases import check
from functional_cases import CASES

import fastcnn
from fastcnn import backend as backends
from fastcnn import nn, optim

_REASON = backends.obstacle("cuda")
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(_REASON is not None, reason=f"backend cuda: {_REASON}")]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_agrees_with_the_reference(case, dtype):
    check(case, dtype)


def network():
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.LeakyReLU(), nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(32 * 16, 64), nn.ReLU(), nn.Linear(64, 10),
    )  # fmt: skip


def batch(rng, count=64):
    return rng.standard_normal((count, 3, 16, 16)).astype(np.float32), rng.integers(0, 10, count)


def train(name, model, batches, **options):
    with fastcnn.use_backend(name):
        trainer = fastcnn.Trainer(model, nn.CrossEntropyLoss(), optim.Adam(model.parameters(), lr=1e-3), **options)
        losses = [float(trainer.step(x, y)) for x, y in batches]
        return losses, model.state_dict()


@pytest.mark.parametrize("capture", [False, True])
def test_training_follows_the_reference(rng, capture):
    batches = [batch(rng) for _ in range(6)]
    model = network()
    expected, weights = train("reference", copy.deepcopy(model), batches)
    losses, found = train("cuda", model, batches, capture=capture)
    np.testing.assert_allclose(losses, expected, rtol=2e-3)
    for name, value in weights.items():
        np.testing.assert_allclose(found[name], value, rtol=0.02, atol=5e-3, err_msg=name)


def test_equal_runs_give_equal_bits(rng):
    batches, model = [batch(rng) for _ in range(3)], network()
    first = train("cuda", copy.deepcopy(model), batches)[1]
    second = train("cuda", copy.deepcopy(model), batches)[1]
    for name, value in first.items():
        np.testing.assert_array_equal(second[name], value, err_msg=name)


def test_arrays_of_pytorch_are_used_in_place(rng):
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("PyTorch sees no GPU")
    x = torch.randn(2, 3, 8, 8, device="cuda")
    with fastcnn.use_backend("cuda"):
        output = fastcnn.functional.max_pool2d(x, 2)
        back = torch.as_tensor(output, device="cuda")
    torch.testing.assert_close(back, torch.nn.functional.max_pool2d(x, 2))


def test_arrays_of_cupy_are_used_in_place():
    cupy = pytest.importorskip("cupy")
    x = cupy.linspace(-1, 1, 24, dtype=cupy.float32).reshape(2, 3, 4)
    with fastcnn.use_backend("cuda"):
        output = cupy.asarray(fastcnn.functional.relu(x))
    cupy.testing.assert_array_equal(output, cupy.maximum(x, 0))
