"""plots: every figure renders, with labelled axes, and says what is wrong with its input."""

import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from fastcnn import plots
from fastcnn.train import History

pytest.importorskip("matplotlib", reason="the extra `plot` is not installed")

HISTORY = History(
    [
        {"epoch": e, "train_loss": 2 / e, "train_accuracy": 1 - 0.5 / e, "val_loss": 3 / e, "val_accuracy": 1 - 0.6 / e, "lr": 0.1, "seconds": 1.0}
        for e in range(1, 6)
    ]
)
COUNTS = np.array([[9, 1, 0], [0, 5, 0], [2, 2, 6]])


def texts(figure):
    return [text.get_text() for axes in figure.axes for text in axes.texts]


def test_curves_have_a_panel_per_number_and_labels():
    figure = plots.curves(HISTORY, val_name="test", title="a run")
    loss, accuracy = figure.axes
    assert [axes.get_xlabel() for axes in (loss, accuracy)] == ["epoch", "epoch"]
    assert loss.get_ylabel() == "loss per image" and accuracy.get_ylabel() == "accuracy"
    assert [text.get_text() for text in accuracy.get_legend().get_texts()] == ["training", "test"]
    assert list(accuracy.lines[1].get_ydata()) == HISTORY["val_accuracy"]
    assert accuracy.get_title() == "88.00% test accuracy at the end" and figure.get_suptitle() == "a run"


def test_curves_of_one_epoch_without_validation_and_with_a_loss_of_zero():
    figure = plots.curves([{"epoch": 1, "train_loss": 0.0}])
    assert len(figure.axes) == 1 and figure.axes[0].get_yscale() == "linear" and len(figure.axes[0].lines) == 1


def test_confusion_matrix_shows_counts_or_shares():
    figure = plots.confusion_matrix(COUNTS, ("a", "b", "c"))
    assert sorted(texts(figure)) == sorted(["9", "1", "5", "2", "2", "6"])
    axes = figure.axes[0]
    assert (axes.get_xlabel(), axes.get_ylabel(), axes.get_title()) == ("predicted class", "true class", "80.00% of 25 images right")
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a", "b", "c"]
    assert sorted(texts(plots.confusion_matrix(COUNTS, ("a", "b", "c"), normalize=True))) == sorted(["90.0", "10.0", "100", "20.0", "20.0", "60.0"])


def test_confusion_matrix_of_empty_and_many_classes(tmp_path):
    plots.save(plots.confusion_matrix(np.zeros((2, 2), int), ("a", "b")), tmp_path / "empty.png")
    many = plots.confusion_matrix(np.eye(40, dtype=int), [f"class {i}" for i in range(40)])
    assert not texts(many) and many.get_size_inches()[1] <= 12


@pytest.mark.parametrize("shape", [(6, 1, 5, 5), (16, 6, 5, 5), (8, 3, 3, 3), (200, 64, 1, 1), (1, 1, 1, 7), (4, 2, 3, 3)], ids=str)
def test_filters_of_any_layer(tmp_path, shape):
    figure = plots.filters(np.random.default_rng(0).normal(size=shape).astype(np.float32))
    assert plots.save(figure, tmp_path / "f.png").stat().st_size > 1000
    assert figure.get_suptitle().startswith(f"{shape[0]} filters {shape[2]}x{shape[3]}")
    assert ("the first 32 filters and 16 channels" in figure.get_suptitle()) == (shape[0] > 100)
    assert figure.get_size_inches()[0] <= 9.5


def test_filters_take_a_parameter_and_constant_weights(tmp_path):
    from fastcnn import nn

    for layer in (nn.Conv2d(1, 2, 3, rng=0), nn.Conv2d(3, 2, 3, rng=0)):
        nn.init.zeros_(layer.weight)
        plots.save(plots.filters(layer.weight), tmp_path / "f.png")


def test_error_rate_pauses_where_there_is_none():
    rows = [{"epoch": e, "train_accuracy": a, "val_accuracy": v} for e, a, v in ((1, 0.5, 0.4), (2, 0.98, 0.9), (3, 1.0, 0.8))]
    (axes,) = plots.error_rate(rows, val_name="test").axes
    np.testing.assert_allclose(axes.lines[0].get_ydata(), [0.5, 0.02, np.nan])
    assert axes.get_yscale() == "log" and (axes.get_xlabel(), axes.get_ylabel()) == ("epoch", "error rate")
    assert axes.get_title() == "test error 20.00% at the end, 10.00% at best (epoch 2)"
    assert plots.error_rate([{"epoch": 1, "train_accuracy": 1.0}]).axes[0].get_yscale() == "linear"


def test_class_accuracy_has_the_worst_at_the_top_and_says_where_its_axis_begins():
    (axes,) = plots.class_accuracy({"a": 0.9, "b": 0.95, "c": float("nan"), "d": 1.0}).axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["d", "b", "a", "c"] and texts(axes.figure)[-1] == "no images"
    assert axes.get_xlim()[0] == pytest.approx(0.9) and "begins at 90%" in axes.get_xlabel()
    assert plots.class_accuracy({"a": 0.2, "b": 1.0}).axes[0].get_xlim()[0] == 0
    plots.class_accuracy({str(i): i / 100 for i in range(100)})


@pytest.mark.parametrize("shape", [(6, 8, 8), (100, 5, 7), (1, 3, 3), (3, 40, 10)], ids=str)
def test_feature_maps_and_all_layers(tmp_path, shape):
    maps = np.random.default_rng(0).normal(size=shape)
    figure = plots.feature_maps(maps)
    assert plots.save(figure, tmp_path / "m.png").stat().st_size > 1000 and figure.get_size_inches()[0] <= 9.5
    assert ("first 64 of 100" in figure.get_suptitle()) == (shape[0] == 100)
    figure = plots.features([("input", np.zeros(shape)), ("conv", maps), ("pooled", maps[:, :1, :1]), ("fc", maps[0, 0])], title="all")
    plots.save(figure, tmp_path / "f.png")
    for channels in (1, 3):
        plots.save(plots.features([("conv", maps)], image=np.zeros((channels, 8, 8), np.uint8)), tmp_path / "i.png")
    assert [axes.get_ylabel().split("\n")[0] for axes in figure.axes] == ["input", "conv", "pooled", "fc"]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_samples_name_the_errors(tmp_path, channels, dtype):
    images = (np.random.default_rng(0).random((10, channels, 8, 8)) * 255).astype(dtype)
    figure = plots.samples(images, np.eye(10)[np.arange(10) // 2], np.arange(10) // 3, [f"c{i}" for i in range(10)], columns=4, title="some")
    titles = [axes.get_title() for axes in figure.axes]
    assert titles == ["c0", "c0", "c1, is c0", "c1", "c2, is c1", "c2, is c1", "c3, is c2", "c3, is c2", "c4, is c2", "c4, is c3", "", ""]
    plots.save(figure, tmp_path / "s.png")
    assert [axes.get_title() for axes in plots.samples(images[:2], np.array([1, 0]), None, ["a", "b"]).axes] == ["b", "a"]


@pytest.mark.parametrize("name", ["run.png", "run.svg", "run.pdf"])
def test_formats(tmp_path, name):
    assert plots.save(plots.curves(HISTORY), tmp_path / name).stat().st_size > 1000


def test_a_png_is_as_wide_as_a_readme(tmp_path):
    from PIL import Image

    plots.save(plots.curves(HISTORY), tmp_path / "c.png")
    with Image.open(tmp_path / "c.png") as image:
        assert 900 <= image.width <= 1000


def test_no_global_state_is_touched(tmp_path):
    code = "import sys; from fastcnn import plots; plots.save(plots.curves([{'epoch': 1, 'train_loss': 1.0}]), sys.argv[1])"
    code += "; assert 'matplotlib.pyplot' not in sys.modules"
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "x.png")], check=True, cwd=Path(__file__).parent.parent)


def test_figures_can_be_made_in_threads(tmp_path):
    errors = []

    def work(i):
        try:
            plots.save(plots.confusion_matrix(COUNTS, ("a", "b", "c")), tmp_path / f"{i}.png")
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors and len({path.read_bytes() for path in tmp_path.iterdir()}) == 1


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: plots.curves([]), "curves: the history has no epochs"),
        (lambda: plots.error_rate([{"epoch": 1, "train_loss": 1.0}]), "no column train_accuracy or val_accuracy"),
        (lambda: plots.class_accuracy({}), "no classes"),
        (lambda: plots.feature_maps(np.zeros((3, 4))), r"must be \(C, H, W\), got shape \(3, 4\)"),
        (lambda: plots.features([("x", np.zeros(4))], image=np.zeros((2, 8, 8), np.uint8)), "image must be"),
        (lambda: plots.features([("x", np.zeros((3, 4)))]), r"'x' is \(3, 4\)"),
        (lambda: plots.confusion_matrix(COUNTS, ("a", "b")), r"2 classes need a 2x2 matrix, got \(3, 3\)"),
        (lambda: plots.filters(np.zeros((3, 4))), r"must be \(O, C, KH, KW\), got shape \(3, 4\)"),
        (lambda: plots.samples(np.zeros((2, 2, 4, 4)), np.zeros(2, int), None, ["a"]), "images must be"),
        (lambda: plots.samples(np.zeros((2, 1, 4, 4)), np.zeros(3, int), None, ["a"]), "2 images but 3 in predicted"),
    ],
)
def test_errors(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_without_matplotlib_the_message_names_the_extra(monkeypatch):
    for name in ("matplotlib", "matplotlib.colors", "matplotlib.figure", "matplotlib.ticker"):
        monkeypatch.setitem(sys.modules, name, None)
    for call in (lambda: plots.curves(HISTORY), lambda: plots.confusion_matrix(COUNTS, "abc"), lambda: plots.filters(np.ones((1, 1, 3, 3)))):
        with pytest.raises(ImportError, match=r'pip install "fastcnn\[plot\]"'):
            call()
