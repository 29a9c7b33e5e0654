"""A whole run of a recipe on numba's simulator: trained into a folder, evaluated, loaded, gone on with; the network and its data are tiny."""

import numpy as np
import pytest

import fastcnn
from fastcnn import nn, optim, recipes
from fastcnn.datasets import Dataset
from fastcnn.recipes.base import Recipe, RecipeData, Setup

pytest.importorskip("safetensors", reason="the extra `train` is not installed")


class Tiny(Recipe):
    name = "tiny"
    description = "one convolution on 4x4 pictures"
    reported = "nothing"
    source = "this test"
    input_shape = (1, 4, 4)
    setups = {"stripes": Setup(epochs=2, batch_size=4, lr=0.1)}

    def model(self, *, num_classes=10, dtype=np.float32, rng=None):
        return nn.Sequential(nn.Conv2d(1, 2, 3, dtype=dtype, rng=1), nn.ReLU(), nn.Flatten(), nn.Linear(8, num_classes, dtype=dtype, rng=2))

    def trainer(self, model, *, data=None, epochs=None, lr=None, steps=None):
        return fastcnn.Trainer(model, nn.CrossEntropyLoss(), optim.SGD(model.parameters(), lr=0.1))

    def load(self, data, data_dir, download):
        labels = np.arange(8) % 2
        images = np.zeros((8, 1, 4, 4), np.uint8)
        images[labels == 0, :, ::2] = images[labels == 1, :, :, ::2] = 255
        parts = Dataset(images, labels, ("lying", "standing"), "stripes")
        return RecipeData(parts, parts, parts)


@pytest.fixture
def tiny(monkeypatch):
    monkeypatch.setattr(recipes, "get", lambda name: Tiny())
    return Tiny()


def test_a_run_on_the_device(tiny, tmp_path):
    with fastcnn.use_backend("cuda"):
        result = recipes.train(tiny, out=tmp_path / "run", progress=False, compare=True, capture=True)
        assert result.step_times.backend == "cuda" and result.step_times.other == "reference"
        again = recipes.evaluate(tmp_path / "run")
        run = recipes.load(tmp_path / "run")
        assert fastcnn.backend.on_device(run.model[0].weight.data)
        probabilities = run.predict(tiny.load(None, None, None).test.images[:3])
    assert again.accuracy == result.accuracy and again.loss == pytest.approx(result.loss)
    assert type(probabilities) is np.ndarray
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-5)
    with fastcnn.use_backend("reference"):
        other = recipes.train(tiny, out=tmp_path / "other", progress=False)
        np.testing.assert_allclose(recipes.load(tmp_path / "run").predict(tiny.load(None, None, None).test.images[:3]), probabilities, rtol=1e-4)
    for row, wanted in zip(result.history.rows, other.history.rows, strict=True):
        assert row["train_loss"] == pytest.approx(wanted["train_loss"], rel=1e-4)
        assert row["val_accuracy"] == wanted["val_accuracy"]


def test_the_filter_bank_s_loss_takes_class_numbers(rng):
    from fastcnn.recipes.filterbank import OneHotBCELoss

    x, y = rng.uniform(0.1, 0.9, (3, 4)).astype(np.float32), np.array([0, 3, 1])
    with fastcnn.use_backend("reference"):
        loss = OneHotBCELoss()
        expected, grad = loss(x, y), loss.backward()
    with fastcnn.use_backend("cuda"):
        loss = OneHotBCELoss()
        assert float(loss(fastcnn.to_device(x), fastcnn.to_device(y))) == pytest.approx(expected, rel=1e-5)
        np.testing.assert_allclose(fastcnn.to_host(loss.backward()), grad, rtol=1e-4)


def test_restarts_judge_losses_on_the_device():
    from fastcnn.recipes import restart

    model = nn.Sequential(nn.Flatten(), nn.Linear(2, 2, rng=1))
    x, y = np.zeros((2, 1, 1, 2), np.float32), np.array([0, 1])
    with fastcnn.use_backend("cuda"):
        optimizer = optim.SGD(model.parameters(), lr=0.0)
        fresh = lambda: nn.Sequential(nn.Flatten(), nn.Linear(2, 2, rng=2))  # noqa: E731
        trainer = restart.RestartingTrainer(model, nn.CrossEntropyLoss(), optimizer, fresh=fresh, restarts=1)
        there = fastcnn.to_device(x), fastcnn.to_device(y)
        for _ in range(restart.PATIENCE):
            trainer.step(*there)
        assert trainer.restarts_left == 0
        np.testing.assert_array_equal(model.state_dict()["1.weight"], fresh().state_dict()["1.weight"])


def test_what_layers_give_is_shown_from_the_device(rng):
    from fastcnn.train import first_not_finite
    from fastcnn.watch import layer_outputs

    model = nn.Sequential(nn.Flatten(), nn.Linear(2, 2, rng=1), nn.ReLU())
    x = rng.standard_normal((2, 1, 1, 2)).astype(np.float32)
    with fastcnn.use_backend("cuda"):
        model.to("cuda")
        outputs = layer_outputs(model, x)
        assert [type(layer.output) for layer in outputs] == [np.ndarray] * 3
        model[1].weight.data[0, 0] = np.inf
        found = first_not_finite(model, fastcnn.to_device(x))
        assert (found.what, found.path) == ("parameter", "1.weight")
