"""recipes: the registry, LeNet's geometry and initialisation, and whole runs into folders."""

import inspect
import json
import os
import re
from pathlib import Path

import numpy as np
import pytest

import fastcnn.random
from fastcnn import datasets, nn, recipes
from fastcnn.checkpoint import CheckpointError
from fastcnn.recipes import Recipe, Setup
from fastcnn.recipes.pictures import fit_drawing, looks_inverted, shrink
from fastcnn.train import History, StopTraining, fit

ROOT = os.environ.get("FASTCNN_TEST_DATA", "")
needs_mnist = pytest.mark.skipif(not (ROOT and (Path(ROOT) / "mnist").is_dir()), reason="FASTCNN_TEST_DATA names no folder with mnist")


@pytest.fixture
def lenet():
    return recipes.get("lenet")


# The registry and what every recipe must have


def test_names_and_aliases():
    assert "lenet" in recipes.names()
    assert recipes.get("lenet-mnist") is recipes.get("lenet")
    every = [alias for name in recipes.names() for alias in (name, *recipes.get(name).aliases)]
    assert len(every) == len(set(every))


def test_an_unknown_recipe_lists_the_known_ones():
    with pytest.raises(ValueError, match="no recipe 'lenett': did you mean lenet.* there are lenet"):
        recipes.get("lenett")


@pytest.mark.parametrize("name", recipes.names())
def test_every_recipe_is_complete(name):
    recipe = recipes.get(name)
    assert recipe.name == name and recipe.description and recipe.reported and recipe.source
    assert inspect.signature(type(recipe).model).parameters.keys() >= {"num_classes", "dtype", "rng"}
    assert set(recipe.setups) <= set(datasets.names()) and all(recipe.setup(data) == setup for data, setup in recipe.setups.items())
    model = recipe.model(rng=0, num_classes=7)
    assert model.eval()(np.zeros((1, *recipe.input_shape), np.float32)).shape == (1, 7)
    trainer = recipe.trainer(model)
    assert 0 < trainer.optimizer.lr <= recipe.setup().lr


@pytest.mark.parametrize("name", recipes.names())
def test_a_model_is_a_matter_of_its_seed(name):
    recipe = recipes.get(name)
    one, same, other = (recipe.model(rng=seed).state_dict() for seed in (1, 1, 2))
    assert all(np.array_equal(one[key], same[key]) for key in one) and any(not np.array_equal(one[key], other[key]) for key in one)
    fastcnn.random.manual_seed(1)
    assert all(np.array_equal(one[key], array) for key, array in recipe.model().state_dict().items())
    assert all(array.dtype == np.float64 for array in recipe.model(rng=1, dtype=np.float64).state_dict().values() if array.dtype.kind == "f")


def test_setups_are_checked(lenet):
    assert lenet.setup("mnist", epochs=3) == Setup(3, *lenet.setups["mnist"][1:])
    for changes, message in (({"epochs": 0}, "epochs must be greater than 0, got 0"), ({"lr": float("nan")}, "lr must be greater than 0, got nan")):
        with pytest.raises(ValueError, match=message):
            lenet.setup(**changes)
    with pytest.raises(ValueError, match="lenet: no setup for the data set 'cifar10', there are digits, mnist, fashion-mnist"):
        lenet.datasets("cifar10")


# LeNet


def test_lenet_starts_as_its_docstring_says(lenet):
    model = lenet.model(rng=0)
    for layer in model:
        if isinstance(layer, nn.Conv2d):
            bound = 2.4 / layer.weight.data[0].size
            assert 0.9 * bound < np.abs(layer.weight.data).max() <= bound
        elif isinstance(layer, nn.Linear):
            assert layer.weight.data.std() == pytest.approx(0.1, rel=0.1)
        if hasattr(layer, "bias"):
            assert (layer.bias.data == np.float32(0.01)).all()
    optimizer = lenet.trainer(model).optimizer
    assert type(optimizer).__name__ == "SGD" and optimizer.momentum == 0.9


def test_the_rate_rises_for_a_sixth_of_the_epochs_and_falls_to_zero(lenet):
    def rates(epochs):
        trainer, found = lenet.trainer(lenet.model(rng=0), epochs=epochs, lr=1.0), []
        for _ in range(epochs + 1):
            found.append(trainer.optimizer.lr)
            trainer.schedule.step()
        return found

    long, short = rates(30), rates(3)
    assert long[:6] == sorted(long[:6]) and long[5:] == sorted(long[5:], reverse=True)
    assert long[0] == pytest.approx(1 / 6) and long[5] > 0.9 and long[30] == pytest.approx(0, abs=1e-12)
    assert short == pytest.approx([1.0, 0.75, 0.25, 0.0])


def test_digits_fill_the_box_that_mnist_digits_fill(lenet):
    data = lenet.datasets()
    assert data.train.shape == (1, 32, 32) and data.train.images.dtype == np.uint8 and data.val is data.test
    assert len(data.train) + len(data.test) == 1797
    images = data.train.images
    assert not images[:, :, :6].any() and not images[:, :, 26:].any() and images[:, :, 6:26, 7:26].any(axis=(0, 1)).all()
    x = lenet.transform(data.train)(images)
    assert x.dtype == np.float32 and x.min() == pytest.approx(-0.1) and x.max() == pytest.approx(1.175)
    assert abs(x.mean()) < 0.2


def test_prepare_pads_mnist_sizes_and_refuses_larger_ones(lenet):
    images = np.full((2, 1, 28, 28), 9, np.uint8)
    padded = lenet.prepare(images)
    assert padded.shape == (2, 1, 32, 32) and (padded[:, :, 2:30, 2:30] == 9).all() and padded.sum() == images.sum()
    with pytest.raises(ValueError, match="at most 32x32, got 40x40"):
        lenet.prepare(np.zeros((1, 1, 40, 40), np.uint8))


@needs_mnist
def test_mnist_in_lenet_s_geometry(lenet):
    data = lenet.datasets("mnist", ROOT, download=False)
    assert data.train.images.shape == (60_000, 1, 32, 32) and data.test.images.shape == (10_000, 1, 32, 32)


@needs_mnist
def test_lenet_learns_from_a_tenth_of_mnist(lenet):
    data = lenet.datasets("mnist", ROOT, download=False)
    fastcnn.random.manual_seed(0)
    trainer = lenet.trainer(lenet.model(), data="mnist", epochs=2)
    transform = lenet.transform(data.train)
    history = fit(trainer, data.train[:6000], data.test[:1000], epochs=2, batch_size=32, transform=transform, progress=False)
    assert history["val_accuracy"][-1] > 0.9


# Pictures


def test_a_drawing_is_cropped_scaled_and_centred():
    paper = np.full((1, 200, 300), 20, np.uint8)
    paper[:, 50:150, 40:60] = 220  # a bar, 100 high and 20 wide
    box = fit_drawing(paper, 20)
    assert box.shape == (1, 20, 20) and (box[:, :, 8:12] > 200).all() and not box[:, :, :8].any() and not box[:, :, 12:].any()
    assert not fit_drawing(np.full((1, 9, 9), 77, np.uint8), 20).any()


def test_shrinking_averages():
    stripes = np.zeros((3, 64, 64), np.uint8)
    stripes[:, :, ::2] = 200
    assert np.abs(shrink(stripes, (16, 8))[:, 2:-2, 2:-2].astype(int) - 100).max() <= 3


def test_bright_grounds_are_recognised():
    dark = np.zeros((1, 28, 28), np.uint8)
    dark[:, 10:18, 10:18] = 255
    assert not looks_inverted(dark) and looks_inverted(255 - dark)


# Whole runs


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """One short run, shared: (result, folder)."""
    pytest.importorskip("safetensors", reason="the extra `train` is not installed")
    folder = tmp_path_factory.mktemp("runs") / "lenet"
    return recipes.train("lenet", epochs=8, seed=1, out=folder, progress=False), folder


def test_lenet_learns_the_digits(run):
    result, _ = run
    assert result.accuracy > 0.9 and result.loss < 0.4
    assert result.confusion.sum() == 355 and result.accuracy == pytest.approx(np.trace(result.confusion) / 355)
    assert np.average(list(result.class_accuracy.values()), weights=result.confusion.sum(axis=1)) == pytest.approx(result.accuracy)
    assert result.history["val_accuracy"][-1] == result.accuracy and result.seconds == sum(result.history["seconds"])


def test_a_run_leaves_everything_in_its_folder(run):
    result, folder = run
    files = {"checkpoint.safetensors", "config.json", "history.csv", "metrics.json", "summary.txt", "weights.safetensors"}
    found = {path.name for path in folder.iterdir()}
    assert files <= found and found - files <= {"curves.png", "confusion_matrix.png"}
    config = json.loads((folder / "config.json").read_text())
    assert config["recipe"] == "lenet" and config["options"]["seed"] == 1 and config["options"]["epochs"] == 8
    assert {"numpy", "python", "fastcnn"} <= config["versions"].keys() and config["classes"] == list("0123456789")
    measured = json.loads((folder / "metrics.json").read_text())
    assert measured["test_accuracy"] == result.accuracy and measured["reported"] and measured["confusion_matrix"] == result.confusion.tolist()
    assert "61,706" in (folder / "summary.txt").read_text()
    assert len(History.from_csv(folder / "history.csv")) == 8


def test_evaluate_and_load_see_the_same_network(run):
    result, folder = run
    again = recipes.evaluate(folder)
    assert again.accuracy == result.accuracy and again.loss == result.loss and np.array_equal(again.confusion, result.confusion)
    loaded = recipes.load(folder)
    test = loaded.recipe.datasets("digits").test
    probabilities = loaded.predict(test.images)
    assert probabilities.shape == (355, 10) and np.allclose(probabilities.sum(axis=1), 1, atol=1e-5)
    assert (probabilities.argmax(axis=1) == test.labels).mean() == result.accuracy


def test_the_same_seed_gives_the_same_weights_file(tmp_path):
    pytest.importorskip("safetensors", reason="the extra `train` is not installed")
    weights = []
    for name in ("one", "two"):
        recipes.train("lenet", epochs=1, seed=3, out=tmp_path / name, progress=False)
        weights.append((tmp_path / name / "weights.safetensors").read_bytes())
    assert weights[0] == weights[1]


def test_a_resumed_run_reaches_the_same_weights(tmp_path, monkeypatch):
    pytest.importorskip("safetensors", reason="the extra `train` is not installed")
    recipes.train("lenet", epochs=3, batch_size=64, out=tmp_path / "straight", progress=False)

    def stop(trainer, row):
        if trainer.epoch == 1:
            raise StopTraining

    monkeypatch.setattr("fastcnn.recipes.run.fit", lambda *arguments, **options: fit(*arguments, **options, callbacks=[stop]))
    halted = recipes.train("lenet", epochs=3, batch_size=64, out=tmp_path / "halted", progress=False)
    monkeypatch.undo()
    assert len(halted.history) == 1
    resumed = recipes.resume(tmp_path / "halted", progress=False)
    assert len(resumed.history) == 3
    one, two = ((tmp_path / name / "weights.safetensors").read_bytes() for name in ("straight", "halted"))
    assert one == two


def test_a_folder_holds_one_run(run):
    _, folder = run
    with pytest.raises(ValueError, match="holds a run already"):
        recipes.train("lenet", epochs=1, out=folder, progress=False)


def test_folders_that_are_no_runs(tmp_path, run):
    _, folder = run
    with pytest.raises(CheckpointError, match="is no run folder .config.json: No such file"):
        recipes.load(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match="is not valid JSON"):
        recipes.load(tmp_path)
    (tmp_path / "config.json").write_text('{"recipe": "lenet", "options": {}}')
    with pytest.raises(CheckpointError, match="lacks batch_size, classes, data"):
        recipes.load(tmp_path)
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    with pytest.raises(CheckpointError, match="weights.safetensors: No such file"):
        recipes.load(tmp_path)
    (tmp_path / "checkpoint.safetensors").write_bytes((folder / "checkpoint.safetensors").read_bytes())
    with pytest.raises(CheckpointError, match="the run is not finished: .*--resume"):
        recipes.load(tmp_path)
    (tmp_path / "config.json").write_text((folder / "config.json").read_text().replace('"lenet"', '"resnet"'))
    with pytest.raises(CheckpointError, match="no recipe 'resnet'"):
        recipes.load(tmp_path)


@pytest.mark.parametrize(
    ("where", "name", "value", "complaint"),
    [
        (None, "recipe", 3, "recipe must be a string, got 3"),
        (None, "options", [1, 2], "options must be an object, got [1, 2]"),
        (None, "classes", {"a": 1}, 'classes must be a list, got {"a": 1}'),
        (None, "classes", ["a", 2], "classes must be a list of names, got ['a', 2]"),
        (None, "transform", "none", 'transform must be an object, got "none"'),
        (None, "data_dir", 7, "data_dir must be a string or null, got 7"),
        (None, "backend", ["cpu"], 'backend must be a string or null, got ["cpu"]'),
        ("options", "epochs", "2", 'epochs must be a whole number, got "2"'),
        ("options", "epochs", True, "epochs must be a whole number, got true"),
        ("options", "epochs", -2, "epochs must be greater than 0, got -2"),
        ("options", "batch_size", 2.5, "batch_size must be a whole number, got 2.5"),
        ("options", "lr", None, "lr must be a whole number or a number, got null"),
        ("options", "seed", -1, "seed must be at least 0, got -1"),
        ("options", "data", ["digits"], 'data must be a string, got ["digits"]'),
        ("options", "data", "letters", "no setup for the data set 'letters'"),
    ],
)
def test_a_configuration_with_wrong_values_is_named(tmp_path, run, where, name, value, complaint):
    config = json.loads((run[1] / "config.json").read_text())
    (config if where is None else config[where])[name] = value
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="^" + re.escape(f"{tmp_path / 'config.json'}: ") + ".*" + re.escape(complaint)):
        recipes.resume(tmp_path, progress=False)


def test_a_configuration_with_a_wrong_transform_is_named(tmp_path, run, monkeypatch):
    monkeypatch.setattr(type(recipes.get("lenet")), "transform", Recipe.transform)
    config = json.loads((run[1] / "config.json").read_text()) | {"transform": {"mean": ["black"], "std": [1]}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="config.json: its transform cannot be restored"):
        recipes.resume(tmp_path, progress=False)


def test_a_recipe_fits_its_standardising_and_restores_it():
    class Plain(Recipe):
        name, input_shape, setups = "plain", (1, 4, 4), {"digits": Setup(1, 8, 0.1)}

    data = Plain().datasets()
    assert data.train.shape == (1, 4, 4)
    fitted = Plain().transform(data.train)
    restored = Plain().transform(state=json.loads(json.dumps({key: value.tolist() for key, value in fitted.state_dict().items()})))
    assert np.array_equal(fitted(data.test.images), restored(data.test.images))
    with pytest.raises(ValueError, match="needs the training set or a saved state"):
        Plain().transform()
