"""summary: shapes, counts and receptive fields of known networks."""

import json

import numpy as np
import pytest

from fastcnn import nn, recipes
from fastcnn.shapes import ShapeError
from fastcnn.summary import summary


def rows(model, shape):
    return {row.name: row for row in summary(model, shape).rows}


def test_lenet_is_counted_as_published():
    table = summary(recipes.get("lenet").model(rng=0), (1, 32, 32))
    by_kind = [(row.output_shape, row.parameters, row.macs, row.receptive_field) for row in table.rows if row.parameters]
    assert by_kind == [
        ((6, 28, 28), 156, 117_600, (5, 5)),
        ((16, 10, 10), 2_416, 240_000, (14, 14)),
        ((120, 1, 1), 48_120, 48_000, (32, 32)),
        ((84,), 10_164, 10_080, (32, 32)),
        ((10,), 850, 840, (32, 32)),
    ]
    assert (table.parameters, table.trainable_parameters, table.macs) == (61_706, 61_706, 416_520)


def test_the_table_can_be_read():
    text = str(summary(recipes.get("lenet").model(rng=0), (1, 32, 32)))
    lines = text.splitlines()
    assert lines[0].split() == ["layer", "output", "parameters", "multiply-adds", "receptive", "field"]
    assert lines[2].split() == ["0", "Conv2d", "5x5", "6x28x28", "156", "117,600", "5x5"]
    assert any(line.split() == ["total", "61,706", "416,520"] for line in lines)
    assert max(map(len, lines)) <= 100 and all(line == line.rstrip() for line in lines)
    assert repr(summary(nn.ReLU(), (3,))) == str(summary(nn.ReLU(), (3,)))


def test_it_is_plain_numbers_for_json():
    table = summary(nn.Sequential(nn.Conv2d(3, 4, (3, 5), stride=2, padding=(1, 2), groups=1, rng=0), nn.ReLU()), (3, 9, 11))
    content = json.loads(json.dumps(table.to_dict()))
    assert content["parameters"] == 184 and content["layers"][0]["output_shape"] == [4, 5, 6]
    assert content["layers"][0]["kind"] == "Conv2d 3x5 stride 2" and content["layers"][0]["macs"] == 4 * 5 * 6 * 3 * 15


@pytest.mark.parametrize(
    ("layer", "kind", "output", "macs", "field"),
    [
        (lambda: nn.Conv2d(4, 8, 3, dilation=2, groups=2, rng=0), "Conv2d 3x3 groups 2", (8, 8, 8), 8 * 64 * 2 * 9, (5, 5)),
        (lambda: nn.Conv2d(4, 8, 3, padding="same", rng=0), "Conv2d 3x3", (8, 12, 12), 8 * 144 * 4 * 9, (3, 3)),
        (lambda: nn.ConvTranspose2d(4, 2, 2, stride=2, rng=0), "ConvTranspose2d 2x2 stride 2", (2, 24, 24), 144 * 4 * 2 * 4, None),
        (lambda: nn.MaxPool2d(3, 1), "MaxPool2d 3x3 stride 1", (4, 10, 10), 0, (3, 3)),
        (lambda: nn.AvgPool2d((2, 3)), "AvgPool2d 2x3", (4, 6, 4), 0, (2, 3)),
        (lambda: nn.AdaptiveAvgPool2d(1), "AdaptiveAvgPool2d", (4, 1, 1), 0, (12, 12)),
        (lambda: nn.AdaptiveMaxPool2d((5, 3)), "AdaptiveMaxPool2d", (4, 5, 3), 0, None),
        (lambda: nn.BatchNorm2d(4), "BatchNorm2d", (4, 12, 12), 0, (1, 1)),
        (lambda: nn.GroupNorm(2, 4), "GroupNorm", (4, 12, 12), 0, None),
        (lambda: nn.Upsample(scale_factor=2), "Upsample", (4, 24, 24), 0, None),
    ],
)
def test_one_layer(layer, kind, output, macs, field):
    (row,) = summary(layer(), (4, 12, 12)).rows
    assert (row.kind, row.output_shape, row.macs, row.receptive_field) == (kind, output, macs, field)


def test_sequences_count_rows_of_a_linear_layer():
    found = rows(nn.Sequential(nn.Conv1d(2, 3, 4, stride=2, rng=0), nn.Linear(4, 5, bias=False, rng=0)), (2, 10))
    assert found["0"].output_shape == (3, 4) and found["0"].macs == 3 * 4 * 2 * 4 and found["0"].kind == "Conv1d 4 stride 2"
    assert found["1"].output_shape == (3, 5) and found["1"].macs == 3 * 4 * 5 and found["1"].parameters == 20


def test_branches_meet_in_the_widest_field():
    body = nn.Sequential(nn.Conv2d(2, 2, 3, padding=1, rng=0), nn.ReLU(), nn.Conv2d(2, 2, 3, padding=1, rng=0))
    branches = nn.Concat(nn.Conv2d(2, 3, 1, rng=0), nn.Conv2d(2, 1, 7, padding=3, rng=0))
    found = rows(nn.Sequential(nn.Residual(body), branches, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2, rng=0)), (2, 8, 8))
    assert found["0"].kind == "Residual (sum)" and found["0"].receptive_field == (5, 5) and found["0"].parameters == 0
    assert found["0.body.2"].receptive_field == (5, 5)
    assert found["1"].output_shape == (4, 8, 8) and found["1"].receptive_field == (11, 11)
    assert found["4"].receptive_field == (8, 8)


def test_the_wide_network_has_the_reported_number_of_parameters():
    """Reported for 256x256 images: 36,492,550 with 1 channel (and 36,498,950 with 3, which is 2 * 128 * 25 more)."""

    def block(inputs, outputs, kernel=3):
        return nn.Conv2d(inputs, outputs, kernel, rng=0), nn.BatchNorm2d(outputs), nn.ReLU()

    widths = [(128, 128), (128, 128), (128, 96), (96, 96), (96, 96), (96, 96)]
    layers = [*block(1, 128, 5), nn.AvgPool2d(5, 2), *(layer for width in widths for layer in block(*width)), nn.AvgPool2d(5, 2), nn.Dropout(0.5)]
    table = summary(nn.Sequential(*layers, nn.Flatten(), nn.Linear(54 * 54 * 96, 128, rng=0), nn.Dropout(0.5), nn.Linear(128, 6, rng=0)), (1, 256, 256))
    assert table.parameters == 36_492_550
    assert table.rows[0].output_shape == (128, 252, 252) and table.rows[0].macs == 128 * 252 * 252 * 25


def test_frozen_and_shared_parameters():
    first, second = nn.Linear(4, 4, rng=0), nn.Linear(4, 4, rng=0)
    second.weight = first.weight
    first.bias.requires_grad = False
    table = summary(nn.Sequential(first, second), (4,))
    assert (table.parameters, table.trainable_parameters) == (24, 20)
    assert "20 of the parameters are trained" in str(table)


class Doubling(nn.Module):
    """A user's layer that does not know empty batches."""

    def forward(self, input):
        assert len(input) == 1
        return np.concatenate([input, input], axis=1)


def test_a_layer_of_ones_own_is_run_and_marked_unknown():
    table = summary(nn.Sequential(Doubling(), nn.Conv2d(2, 1, 3, rng=0)), (1, 5, 5))
    assert table.rows[0].output_shape == (2, 5, 5) and table.rows[0].macs is None and not table.complete
    assert "?" in str(table) and "leaves it out" in str(table)


def test_the_model_is_left_as_it_was():
    model = nn.Sequential(nn.Conv2d(1, 2, 3, rng=0), nn.BatchNorm2d(2), nn.Dropout(0.5))
    model[1].eval()
    before = model.state_dict()
    summary(model, (1, 8, 8))
    assert [module.training for module in model.modules()] == [True, True, False, True]
    assert all(np.array_equal(before[name], array) for name, array in model.state_dict().items())


def test_a_layer_that_does_not_fit_is_named():
    with pytest.raises(ShapeError, match="spans 5x5 but the padded input is 4x4"):
        summary(nn.Sequential(nn.Conv2d(1, 2, 5, rng=0)), (1, 4, 4))
