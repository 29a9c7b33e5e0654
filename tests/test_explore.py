"""fastcnn explore: the experiments' numbers against what theory says, the commands and their pictures."""

import inspect
import json
import math
import sys

import numpy as np
import pytest

from fastcnn import schedule
from fastcnn.cli import main
from fastcnn.explore import descent, rates
from fastcnn.explore.initialisation import compare


def test_initialisations_widen_keep_and_lose_the_signal():
    outcomes = {outcome.name: outcome for outcome in compare(epochs=1)}
    deviations = {name: np.array(outcome.deviations) for name, outcome in outcomes.items()}
    assert not deviations["zeros"].any()
    assert deviations["constant"][-1] > 100 * deviations["constant"][0] and deviations["normal"][-1] < 1e-4 * deviations["normal"][0]
    assert 0.3 < deviations["he"][-1] / deviations["he"][0] < 3
    accuracy = {name: outcome.history["val_accuracy"][-1] for name, outcome in outcomes.items()}
    assert accuracy["he"] > 0.7 and max(accuracy["zeros"], accuracy["constant"], accuracy["normal"]) < 0.2
    assert outcomes["he"].layers == ("ReLU 1", "ReLU 2", "ReLU 3", "ReLU 4", "ReLU 5", "output")


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # the overflow that is provoked here
def test_a_divergence_is_an_outcome():
    (outcome,) = compare(["he"], epochs=2, lr=1e8)
    assert outcome.diverged and len(outcome.history) < 2


def test_descent_agrees_with_the_formulas():
    paths = {path.name: path for path in descent.descend(steps=40)}
    x, y = descent.START
    steps = np.arange(41)
    expected = np.stack([x * (1 - 0.012) ** steps, y * (1 - 0.012 * descent.CURVATURE) ** steps], axis=1)
    np.testing.assert_allclose(paths["SGD"].points, expected, rtol=1e-10, atol=1e-12)
    assert paths["Nesterov"].distance[-1] < paths["momentum"].distance[-1] < paths["SGD"].distance[-1]
    gradients = paths["AdaGrad"].points[:-1] * (1, descent.CURVATURE)
    np.testing.assert_allclose(paths["AdaGrad"].rates, 1.5 / np.sqrt(np.cumsum(gradients**2, axis=0)), rtol=1e-6)
    assert (np.diff(paths["AdaGrad"].rates, axis=0) <= 0).all()
    for name in ("AdaGrad", "RMSProp"):  # a step is the rate times the gradient
        gradients = paths[name].points[:-1] * (1, descent.CURVATURE)
        np.testing.assert_allclose(np.diff(paths[name].points, axis=0), -paths[name].rates * gradients, rtol=1e-6, atol=1e-12)


def test_every_schedule_is_shown_and_the_drops_are_where_they_belong():
    kinds = {name for name, kind in vars(schedule).items() if inspect.isclass(kind) and issubclass(kind, schedule.LRScheduler)} - {"LRScheduler"}
    assert {title.split()[0] for title in rates.SCHEDULES} == kinds
    found = rates.rates(90, 0.1)
    assert all(len(values) == 90 for values in found.values())
    drops = found["MultiStepLR at 25 and 60, x 0.1"]
    assert drops[24:26] == pytest.approx([0.1, 0.01]) and drops[59:61] == pytest.approx([0.01, 0.001])
    assert found["CosineAnnealingLR"][45] == pytest.approx(0.1 * (1 + math.cos(math.pi / 2)) / 2)


@pytest.mark.parametrize(
    ("topic", "said"),
    [
        (["init", "--epochs", "1"], ["xavier: deviation sqrt(2 / (fan_in + fan_out))", "test accuracy"]),
        (["optimizers"], ["Nesterov (lr 0.012, momentum 0.9, nesterov)", "AdaGrad (lr 1.5)", "distance to the bottom"]),
        (["optimizers", "--steps", "1"], ["SGD"]),
        (["schedules"], ["MultiStepLR at 25 and 60", "OneCycleLR"]),
        (["schedules", "--epochs", "1"], ["StepLR"]),
    ],
    ids=lambda value: "_".join(value),
)
def test_commands_print_and_draw(topic, said, tmp_path, capsys):
    pytest.importorskip("matplotlib", reason="the extra `plot` is not installed")
    assert main(["explore", *topic, "--out", str(tmp_path / "picture.png")]) == 0
    out, err = capsys.readouterr()
    assert err == "" and all(text in out for text in said) and out.endswith(f"drawn into {tmp_path / 'picture.png'}\n")
    assert (tmp_path / "picture.png").stat().st_size > 10_000
    assert main(["explore", *topic, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)


def test_without_matplotlib_there_are_numbers_and_a_picture_is_refused_before_the_work(monkeypatch, tmp_path, capsys):
    for name in ("matplotlib", "matplotlib.colors", "matplotlib.figure", "matplotlib.ticker"):
        monkeypatch.setitem(sys.modules, name, None)
    assert main(["explore", "schedules"]) == 0 and "CosineAnnealingLR" in capsys.readouterr().out
    assert main(["explore", "schedules", "--out", str(tmp_path / "x.png")]) == 2
    out, err = capsys.readouterr()
    assert out == "" and 'pip install "fastcnn[plot]"' in err
