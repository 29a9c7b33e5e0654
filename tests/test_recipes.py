"""recipes: the registry, LeNet's geometry and initialisation, and whole runs into folders."""

import inspect
import json
import logging
import os
import re
import signal
from pathlib import Path

import numpy as np
import pytest

import fastcnn.random
from fastcnn import datasets, nn, recipes
from fastcnn.checkpoint import CheckpointError
from fastcnn.datasets import DatasetError
from fastcnn.recipes import Recipe, Setup
from fastcnn.recipes.filterbank import oriented_filters
from fastcnn.recipes.pictures import fit_drawing, looks_inverted, shrink
from fastcnn.summary import summary
from fastcnn.train import History, StopTraining, Trainer, TrainingInterrupted, fit

ROOT = os.environ.get("FASTCNN_TEST_DATA", "")
needs_mnist = pytest.mark.skipif(not (ROOT and (Path(ROOT) / "mnist").is_dir()), reason="FASTCNN_TEST_DATA names no folder with mnist")


@pytest.fixture
def lenet():
    return recipes.get("lenet")


# The registry and what every recipe must have


def test_names_and_aliases():
    assert "lenet" in recipes.names()
    lenet, alias = recipes.get("lenet"), recipes.get("lenet-mnist")
    assert (lenet.data_name(), alias.data_name()) == ("digits", "mnist")
    assert alias.name == lenet.name and dict(alias.setups) == lenet.setups and alias.setup("digits") == lenet.setup()
    every = [alias for name in recipes.names() for alias in (name, *recipes.get(name).aliases)]
    assert len(every) == len(set(every))


def test_an_unknown_recipe_lists_the_known_ones():
    with pytest.raises(ValueError, match="no recipe 'lenett': did you mean lenet.* there are lenet"):
        recipes.get("lenett")


def small(recipe):
    """The network for 256x256 pictures on the smallest ones it takes; the others as they are."""
    return recipe.configured(size=41) if "size" in recipe.options else recipe


@pytest.mark.parametrize("name", recipes.names())
def test_every_recipe_is_complete(name):
    recipe = recipes.get(name)
    assert recipe.name == name and recipe.description and recipe.reported and recipe.source
    assert inspect.signature(type(recipe).model).parameters.keys() >= {"num_classes", "dtype", "rng"}
    assert set(recipe.setups) <= {*datasets.names(), "folder", "textures"} and all(recipe.setup(data) == setup for data, setup in recipe.setups.items())
    recipe = small(recipe)
    model = recipe.model(rng=0, num_classes=7)
    assert model.eval()(np.zeros((1, *recipe.input_shape), np.float32)).shape == (1, 7)
    trainer = recipe.trainer(model)
    assert 0 < trainer.optimizer.lr <= recipe.setup().lr


@pytest.mark.parametrize("name", recipes.names())
def test_a_model_is_a_matter_of_its_seed(name):
    recipe = small(recipes.get(name))
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


PARAMETERS = {
    "lenet": 61_706,
    "filterbank-mnist": 36 * 17 * 17 + 366_218,
    "twoconv-mnist": 105_634,
    "twoconv-cifar10": 189_008,
    "simple-cifar10": 11_642,
    "batchnorm-cifar10": 94_986,
    "deep-cifar10": 1_176_746,
    "wide-256": 36_492_550,
}


@pytest.mark.parametrize("name", recipes.names())
def test_parameter_counts(name):
    recipe = recipes.get(name)
    table = summary(recipe.model(rng=0), recipe.input_shape)
    assert table.parameters == PARAMETERS[name] and table.rows[-1].output_shape == (6 if name == "wide-256" else 10,)
    if name == "wide-256":
        assert table.parameters in {int(number.replace(",", "")) for number in re.findall(r"[\d,]{10}", recipe.reported)}
    else:
        number = f"{table.trainable_parameters:,}"
        assert number in recipe.description and number in inspect.getmodule(recipe).__doc__, "what the texts say"


@pytest.mark.parametrize("name", recipes.names())
def test_every_recipe_learns_a_few_images(name, rng):
    """Ten steps on the same eight noisy class means: the loss falls, whatever the network, its loss and its optimizer."""
    fastcnn.random.manual_seed(0)
    recipe = small(recipes.get(name))
    model = recipe.model()
    trainer = recipe.trainer(model)
    classes = model[-1].out_features if hasattr(model[-1], "out_features") else model[-2].out_features
    y = np.arange(8) % classes
    x = (rng.standard_normal((classes, *recipe.input_shape))[y] + 0.1 * rng.standard_normal((8, *recipe.input_shape))).astype(np.float32)
    before = {key: array for key, array in model.state_dict().items()}
    losses = [trainer.step(x, y) for _ in range(10)]
    assert np.isfinite(losses).all() and losses[-1] < (1 if name == "lenet" else 0.9) * losses[0]  # LeNet starts on a plateau
    assert trainer.predict(x).shape == (8, classes) and trainer.evaluate((x, y))["loss"] > 0
    changed = {key for key, array in model.state_dict().items() if not np.array_equal(array, before[key])}
    assert changed == {key for key in before if key != "0.weight" or name != "filterbank-mnist"}


def test_options_are_checked_and_kept():
    recipe = recipes.get("twoconv-mnist")
    average = recipe.configured(pool="average")
    assert (recipe.pool, average.pool, average.configuration()) == ("max", "average", {"pool": "average"})
    assert isinstance(average.model(rng=0)[4], nn.AvgPool2d) and isinstance(recipe.model(rng=0)[4], nn.MaxPool2d)
    for given, message in (
        ({"pool": "median"}, "twoconv-mnist: pool must be max or average, got 'median'"),
        ({"size": 3}, "twoconv-mnist: no option 'size', there are pool"),
    ):
        with pytest.raises(ValueError, match=message):
            recipe.configured(**given)
    with pytest.raises(ValueError, match="wide-256: size must be a whole number of at least 41, got 40"):
        recipes.get("wide-256").configured(size=40)
    with pytest.raises(ValueError, match="simple-cifar10: no option 'pool', it has none"):
        recipes.get("simple-cifar10").configured(pool="max")
    assert recipe.configured(pool=None).configuration() == recipe.configuration()


def test_the_rate_of_two_convolutions_rises_for_a_tenth_of_the_steps_and_falls_to_zero():
    recipe = recipes.get("twoconv-mnist")
    trainer = recipe.trainer(recipe.model(rng=0), epochs=2, lr=0.5, steps=10)
    rates = []
    for _ in range(20):
        rates.append(trainer.optimizer.lr)
        trainer.step(np.zeros((1, 1, 28, 28), np.float32), np.array([3]))
    assert rates[:2] == [0.25, 0.5] and np.allclose(np.diff(rates[2:]), -0.5 / 18) and trainer.optimizer.lr == 0
    assert recipe.trainer(recipe.model(rng=0), lr=0.5).schedule is None


# Data


def test_subsets_hold_every_class_in_its_proportion(lenet):
    whole = lenet.datasets()
    for count in (50, 100, 200, 500):
        part, again = (lenet.datasets(subset=count) for _ in range(2))
        assert len(part.train) == count and len(part.test) == len(whole.test)
        shares = np.bincount(part.train.labels) / count - np.bincount(whole.train.labels) / len(whole.train)
        assert np.abs(shares * count).max() <= 1 and np.array_equal(part.train.images, again.train.images)
    with pytest.raises(ValueError, match="lenet: subset must be from 1 to 1442, the training images of digits, got 1443"):
        lenet.datasets(subset=1443)


@pytest.mark.parametrize("name", [name for name in recipes.names() if name.endswith("cifar10")])
def test_cifar10_is_divided_four_one_one(name, small_cifar10):
    data = recipes.get(name).datasets(data_dir=small_cifar10, download=False)
    assert [len(part) for part in data] == [80, 20, 20]
    assert all((np.bincount(part.labels) == len(part) // 10).all() for part in data)
    seen = {image.tobytes() for part in data for image in part.images}
    assert len(seen) == 120, "no image is in two parts"


@pytest.mark.skipif(not (ROOT and (Path(ROOT) / "cifar-10-batches-py").is_dir()), reason="FASTCNN_TEST_DATA names no folder with cifar-10-batches-py")
def test_cifar10_is_divided_as_reported():
    data = recipes.get("simple-cifar10").datasets(data_dir=ROOT, download=False)
    assert [len(part) for part in data] == [40_000, 10_000, 10_000] and (np.bincount(data.val.labels) == 1000).all()


def test_without_data_the_recipe_says_what_to_do(tmp_path):
    for name in ("twoconv-mnist", "filterbank-mnist"):
        with pytest.raises(DatasetError, match="data_dir=.* Or train on the digits that come with the package: --data digits"):
            recipes.get(name).datasets("mnist", tmp_path, download=False)
    with pytest.raises(DatasetError, match="cifar10.*data_dir=") as error:
        recipes.get("simple-cifar10").datasets(data_dir=tmp_path, download=False)
    assert "digits" not in str(error.value)
    with pytest.raises(DatasetError, match="wide-256: name a folder of pictures.*--data-dir.*--data textures"):
        recipes.get("wide-256").datasets()


def test_wide_256_reads_folders_large_and_small(tmp_path, monkeypatch):
    pytest.importorskip("PIL", reason="the extra `data` is not installed")
    datasets.save_image_folder(datasets.textures(36, size=60, channels=3), tmp_path)
    for channels in (1, 3):
        recipe = recipes.get("wide-256").configured(size=48, channels=channels)
        with monkeypatch.context() as patch:
            whole = recipe.datasets("folder", tmp_path)
            patch.setattr("fastcnn.recipes.wide_256.MEMORY", 0)
            lazy = recipe.datasets("folder", tmp_path)
        assert [len(part) for part in whole] == [24, 6, 6] and whole.train.shape == recipe.input_shape == (channels, 48, 48)
        for part, same in zip(lazy, whole, strict=True):
            assert isinstance(part.images, datasets.LazyImages) and np.array_equal(part.images[:], same.images)
    datasets.save_image_folder(datasets.textures(4, size=20), tmp_path / "few")
    with pytest.raises(DatasetError, match="4 pictures are too few"):
        recipe.datasets("folder", tmp_path / "few")


# The filter bank


def test_the_bank_is_what_its_docstring_says():
    bank = oriented_filters()
    assert bank.shape == (36, 1, 17, 17)
    assert np.abs(bank.sum(axis=(2, 3))).max() < 1e-12 and np.allclose(np.abs(bank).sum(axis=(2, 3)), 1)
    planes = bank[:, 0]
    assert np.allclose(planes[:18], -planes[:18, ::-1, ::-1]) and np.allclose(planes[18:], planes[18:, ::-1, ::-1]), "odd and even"
    for first in range(0, 36, 6):  # a quarter turn takes an orientation to the one three further on
        turned = np.rot90(planes[first], axes=(0, 1))
        assert np.allclose(np.abs(turned), np.abs(planes[first + 3]))
    step = np.where(np.arange(17) > 8, 1.0, -1.0)[None].repeat(17, axis=0)  # a vertical edge
    assert np.abs((planes * step).sum(axis=(1, 2)))[:6].argmax() == 3, "the upright filter sees it best"


def test_features_computed_once_train_to_the_same_weights():
    recipe = recipes.get("filterbank-mnist")
    data = recipe.datasets("digits", subset=64)
    transform = recipe.transform(data.train)
    states = []
    for once in (True, False):
        fastcnn.random.manual_seed(0)
        model = recipe.model()
        trainer = recipe.trainer(model, data="digits")
        used, how = recipe.precomputed(trainer, data, transform) if once else (data, transform)
        history = fit(trainer, used.train, used.val, epochs=2, batch_size=16, transform=how, progress=False)
        states.append((model.state_dict(), history["val_accuracy"], history["val_loss"]))
    assert all(np.allclose(states[0][0][key], array, atol=1e-6) for key, array in states[1][0].items())
    assert states[0][1] == states[1][1] and states[0][2] == pytest.approx(states[1][2], rel=1e-5)
    assert used.train is data.train and np.array_equal(states[0][0]["0.weight"], oriented_filters().astype(np.float32))


# Restarts


def test_a_start_that_goes_nowhere_is_repeated_with_new_weights(caplog, tmp_path):
    pytest.importorskip("safetensors", reason="the extra `train` is not installed")
    caplog.set_level(logging.INFO, "fastcnn")
    recipe = recipes.get("lenet").configured(restarts=2)
    fastcnn.random.manual_seed(0)
    trainer = recipe.trainer(recipe.model(), lr=1e-9)  # learns nothing
    first = trainer.model.state_dict()
    x, y = np.random.default_rng(0).standard_normal((4, 1, 32, 32), np.float32), np.arange(4)
    for _ in range(59):
        trainer.step(x, y)
    assert trainer.restarts_left == 2 and np.allclose(trainer.model.state_dict()["0.weight"], first["0.weight"], atol=1e-6)
    trainer.save(tmp_path / "c")
    fastcnn.random.manual_seed(9)
    resumed = recipe.trainer(recipe.model(), lr=1e-9)
    resumed.resume(tmp_path / "c")
    weights = []
    for one in (trainer, resumed):
        fastcnn.random.manual_seed(5)
        one.step(x, y)
        assert one.restarts_left == 1 and not np.allclose(one.model.state_dict()["0.weight"], first["0.weight"], atol=1e-3)
        assert set(one.optimizer.state_dict()) == {"lr", "weight_decay", "maximize", "momentum", "dampening", "nesterov", "step"}
        weights.append(one.model.state_dict())
    assert all(np.array_equal(weights[0][key], array) for key, array in weights[1].items())
    for _ in range(200):
        trainer.step(x, y)
    assert trainer.restarts_left == 0 and caplog.text.count("nothing learned after 60 steps") == 3


def test_a_start_that_learns_goes_on():
    recipe = recipes.get("lenet").configured(restarts=2)
    trainer = recipe.trainer(recipe.model(rng=0), lr=0.05)
    x, y = np.random.default_rng(0).standard_normal((4, 1, 32, 32), np.float32), np.arange(4)
    losses = [trainer.step(x, y) for _ in range(130)]
    assert losses[-1] < 0.5 and trainer.restarts_left == 2
    assert type(recipes.get("lenet").trainer(recipe.model(rng=0))).__name__ == "Trainer"


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
    assert result.training_images == 1442 and 0.9 < result.training_accuracy <= 1 and result.seconds < result.total_seconds


def test_a_run_leaves_everything_in_its_folder(run):
    result, folder = run
    files = {"checkpoint.safetensors", "config.json", "history.csv", "metrics.json", "summary.txt", "weights.safetensors"}
    found = {path.name for path in folder.iterdir()}
    pictures = {"curves.png", "error_rate.png", "confusion_matrix.png", "confusion_counts.png", "class_accuracy.png", "filters.png"}
    assert files <= found and found - files in (set(), pictures)  # none without matplotlib
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
    by_layers = loaded.recipe.probabilities(loaded.model(loaded.transform(test.images)))
    assert np.allclose(probabilities, by_layers, rtol=0, atol=1e-5)
    loaded.model[0].bias.data[...] += 1  # other weights are seen
    assert not np.allclose(loaded.predict(test.images), by_layers, rtol=0, atol=1e-3)


def test_the_same_seed_gives_the_same_weights_file(tmp_path):
    pytest.importorskip("safetensors", reason="the extra `train` is not installed")
    weights = []
    for name in ("one", "two"):
        recipes.train("lenet", epochs=1, seed=3, out=tmp_path / name, progress=False)
        weights.append((tmp_path / name / "weights.safetensors").read_bytes())
    assert weights[0] == weights[1]


def test_a_resumed_run_reaches_the_same_weights(tmp_path):
    pytest.importorskip("safetensors", reason="the extra `train` is not installed")
    recipes.train("lenet", epochs=3, batch_size=64, out=tmp_path / "straight", progress=False)

    def stop(trainer, row):
        if trainer.epoch == 1:
            raise StopTraining

    halted = recipes.train("lenet", epochs=3, batch_size=64, out=tmp_path / "halted", progress=False, callbacks=[stop])
    assert len(halted.history) == 1
    resumed = recipes.resume(tmp_path / "halted", progress=False)
    assert len(resumed.history) == 3
    one, two = ((tmp_path / name / "weights.safetensors").read_bytes() for name in ("straight", "halted"))
    assert one == two


def test_a_run_with_dropout_and_mirrored_images_goes_on_inside_an_epoch_to_the_same_bits(tmp_path, small_cifar10, monkeypatch):
    pytest.importorskip("safetensors", reason="the extra `train` is not installed")
    options = {"data_dir": small_cifar10, "download": False, "epochs": 2, "batch_size": 16, "subset": 48, "progress": False}
    recipe, step = recipes.get("deep-cifar10"), Trainer.step
    assert recipe.augmentation and any(isinstance(layer, nn.Dropout) and layer.p for layer in recipe.model(rng=0))
    recipes.train(recipe, out=tmp_path / "straight", **options)

    def interrupted(self, x, y):
        value = step(self, x, y)
        if self.iteration == 4:  # of 6: the second epoch has begun
            signal.raise_signal(signal.SIGINT)
        return value

    with monkeypatch.context() as patch, pytest.raises(TrainingInterrupted):
        patch.setattr(Trainer, "step", interrupted)
        recipes.train(recipe, out=tmp_path / "halted", **options)
    fastcnn.random.manual_seed(9)
    resumed = recipes.resume(tmp_path / "halted", download=False, progress=False)
    assert resumed.total_seconds is None and resumed.history.rows[-1]["epoch"] == 2
    one, two = ((tmp_path / name / "weights.safetensors").read_bytes() for name in ("straight", "halted"))
    assert one == two


def test_images_are_mirrored_in_training_only(tmp_path, small_cifar10, monkeypatch):
    pytest.importorskip("safetensors", reason="the extra `train` is not installed")
    seen = []

    class Spy:
        random = True

        def __call__(self, images, rng):
            assert images.dtype == np.uint8
            seen.append(len(images))
            return images

    recipe = recipes.get("batchnorm-cifar10")
    monkeypatch.setattr(type(recipe), "augmentation", (Spy(),))
    recipes.train(recipe, data_dir=small_cifar10, download=False, epochs=2, batch_size=50, out=tmp_path, progress=False)
    assert sum(seen) == 2 * 80
    recipes.evaluate(tmp_path, download=False)
    assert recipes.load(tmp_path).predict(np.zeros((1, 3, 32, 32), np.uint8)).shape == (1, 10)
    assert sum(seen) == 2 * 80


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
        (None, "recipe_options", ["restarts"], 'recipe_options must be an object, got ["restarts"]'),
        (None, "recipe_options", {"pool": "max"}, "lenet: no option 'pool', there are restarts"),
        (None, "recipe_options", {"restarts": "3"}, "lenet: restarts must be a whole number of at least 0, got '3'"),
        ("options", "subset", "all", 'subset must be a whole number, got "all"'),
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
