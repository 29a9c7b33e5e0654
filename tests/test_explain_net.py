"""fastcnn explain-net: the numbers on the page are those of the worked example, of a finite difference, and of the sums written out beside them."""

import json
import re

import numpy as np
import pytest

from fastcnn import nn
from fastcnn.cli import main
from fastcnn.explore.example import EXAMPLES, cnn, correlation, trace, worked


def page(capsys, *arguments):
    assert main(["explain-net", *arguments]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    return out


def arrays(steps, part):
    return {name: array for step in steps if step.part == part for name, array in step.arrays.items()}


def test_the_worked_example_has_its_printed_numbers(backend):
    forward, backward, update = (arrays(worked(), part) for part in ("forward", "backward", "update"))
    printed = {"rtol": 0, "atol": 1.01e-8}
    rows = [[0.25, -0.16, 0.27, -0.34], [0.11, 0.31, -0.3, 0.01], [-0.22, 0.61, -0.09, -0.28], [-0.33, 0.48, -0.27, 0.19]]
    np.testing.assert_allclose(forward["y1"][0, 0].round(2), rows)
    np.testing.assert_allclose(forward["y3"][0, 0], [[0.57668996, 0.56591412], [0.64839688, 0.5471594]], **printed)
    np.testing.assert_allclose(backward["d3"][0], [0.1495, 0.28, 0.2055, -0.2755], **printed)
    np.testing.assert_allclose(backward["grad W"][1], [-0.0865035, -0.08488712, -0.09725953, -0.08207391], **printed)
    np.testing.assert_allclose(backward["d2"][0, 0], [[0.03649574, 0.06878349], [0.04684955, -0.06826229]], **printed)
    np.testing.assert_allclose(backward["d0"][0, 0, 0], [0, 0, -0.00894185, 0.01031752, 0], **printed)
    np.testing.assert_allclose(update["W"][0], [0.53791375, 0.74926073, 0.87895039, -1.06839493], **printed)
    np.testing.assert_allclose(update["b"], [-0.125, 0.075], **printed)


def test_its_page_shows_them(capsys):
    out = page(capsys)
    for text in ("0.57668996  0.56591412", "0.14950000   0.28000000   0.20550000  -0.27550000", "-0.00894185   0.01031752", "0.53791375", "11. grad"):
        assert text in out
    assert [line for line in out.splitlines() if line.isupper() and len(line) < 10] == ["GIVEN", "FORWARD", "BACKWARD", "UPDATE"]
    assert max(map(len, out.splitlines())) <= 150 and "0.5767  0.5659" in page(capsys, "--digits", "4")


def test_correlation_and_true_convolution_are_the_corrected_ones(backend):
    forward = arrays(correlation(), "forward")
    assert forward["y"].ravel().tolist() == [4, -7, -3, 5, -6] and forward["t"].ravel().tolist() == [-8, 2, 3, -7, 3]


@pytest.mark.parametrize("seed", [0, 2, 4])  # whose ReLUs are not at exactly 0, and whose maxima are not tied
def test_the_small_network_s_gradients_are_those_of_the_loss(seed):
    steps = cnn(seed)
    given, update = arrays(steps, "given"), arrays(steps, "update")
    model = nn.Sequential({"conv": nn.Conv2d(1, 2, 3), "relu": nn.ReLU(), "pool": nn.MaxPool2d(2), "flatten": nn.Flatten(), "fc": nn.Linear(8, 3)}).double()
    names = [name for name, _ in model.named_parameters()]
    loss = nn.CrossEntropyLoss()

    def value(name, index, change):
        state = {key: given[key].copy() for key in names}
        state[name][index] += change
        model.load_state_dict(state)
        return loss(model(given["image"]), given["class"])

    for name in names:
        index = tuple(size // 2 for size in given[name].shape)
        slope = (value(name, index, 1e-6) - value(name, index, -1e-6)) / 2e-6
        assert update[name][index] == pytest.approx(given[name][index] - 0.5 * slope, abs=1e-6)
    assert arrays(steps, "forward")["loss"] == pytest.approx(value("fc.bias", 0, 0.0))
    assert len({array.tobytes() for array in (cnn(0)[0].arrays["image"], cnn(1)[0].arrays["image"])}) == 2


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_sums_that_are_written_out_are_right(name):
    sums = [line for step in EXAMPLES[name]() for line in step.sums]
    assert len(sums) >= 2
    for line in sums:
        _, calculation, result = line.split(" = ")
        assert eval(calculation) == pytest.approx(float(result), abs=2e-8), line


def test_any_chain_of_layers_can_be_traced():
    model = nn.Sequential(nn.Linear(3, 4, dtype=np.float64, rng=0), nn.Tanh(), nn.Linear(4, 2, bias=False, dtype=np.float64, rng=1))
    padded = nn.Sequential(nn.Conv2d(2, 2, 3, stride=2, padding=1, bias=False, dtype=np.float64, rng=0), nn.Flatten())
    (line,) = next(step.sums for step in trace(padded, nn.MSELoss(), np.ones((1, 2, 4, 4)), np.zeros((1, 8)), 0.1) if step.sums)
    assert eval(line.split(" = ")[1]) == pytest.approx(float(line.split(" = ")[2]), abs=1e-7)
    steps = trace(model, nn.MSELoss(), np.ones((1, 3)), np.zeros((1, 2)), 0.1)
    assert [step.title for step in steps if step.part == "backward"] == ["MSELoss", "2 (Linear)", "1 (Tanh)", "0 (Linear)"]
    assert float(steps[-1].arrays["loss"]) < float(next(step.arrays["loss"] for step in steps if "loss" in step.arrays))


def test_json_and_options(capsys):
    for name in EXAMPLES:
        steps = json.loads(page(capsys, "--example", name, "--json"))
        assert [step["part"] for step in steps][0] == "given" and steps[-1]["part"] == "update"
    assert page(capsys, "--example", "cnn", "--seed", "1") != page(capsys, "--example", "cnn", "--seed", "2")
    assert re.search(r"\d\.\d{2}\n", page(capsys, "--example", "cnn", "--digits", "2"))
    for arguments in (["--example", "nothing"], ["--digits", "-1"]):
        with pytest.raises(SystemExit):
            main(["explain-net", *arguments])
