"""What fit's callbacks write for other programs, and the command line's options for them."""

import io
import json
import sys

import numpy as np
import pytest

from fastcnn import nn
from fastcnn.cli import main
from fastcnn.train import History, JsonLines, TensorBoard, fit


def problem():
    return np.random.default_rng(0).normal(size=(20, 4)).astype(np.float32), np.arange(20) % 2


def test_a_json_object_per_epoch_in_a_stream_and_in_a_file(tmp_path):
    stream = io.StringIO()
    history = fit(nn.Linear(4, 2, rng=0), problem(), problem(), epochs=3, progress=False, callbacks=[JsonLines(stream), JsonLines(tmp_path / "log")])
    rows = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert rows == history.rows and (tmp_path / "log").read_text() == stream.getvalue()


def test_what_is_not_finite_is_null_and_a_file_is_gone_on_with(tmp_path):
    JsonLines(tmp_path / "log")(None, {"epoch": 1, "train_loss": float("inf"), "more": [float("nan"), 1]})
    JsonLines(tmp_path / "log")(None, {"epoch": 2})
    assert (tmp_path / "log").read_text() == '{"epoch": 1, "train_loss": null, "more": [null, 1]}\n{"epoch": 2}\n'
    with pytest.raises(OSError):
        JsonLines(tmp_path / "none" / "log")


def test_tensorboard_has_every_number(tmp_path):
    pytest.importorskip("tensorboardX", reason="the extra `tensorboard` is not installed")
    from tensorboardX.proto.event_pb2 import Event

    board = TensorBoard(tmp_path / "board")
    for epoch in (1, 2):
        board(None, {"epoch": epoch, "train_loss": 0.5, "val_loss": 0.25 / epoch, "val_accuracy": None, "lr": 0.1})
    board.close()
    (path,) = (tmp_path / "board").iterdir()
    data, at, found = path.read_bytes(), 0, []
    while at < len(data):
        length = int.from_bytes(data[at : at + 8], "little")
        event = Event.FromString(data[at + 12 : at + 12 + length])
        found += [(value.tag, event.step, round(value.simple_value, 6)) for value in event.summary.value]
        at += 16 + length
    both = [("loss/train", 0.5, 0.5), ("loss/val", 0.25, 0.125), ("run/lr", 0.1, 0.1)]
    assert sorted(found) == sorted((tag, epoch, values[epoch - 1]) for tag, *values in both for epoch in (1, 2))


def test_without_its_package_tensorboard_names_the_extra(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(ImportError, match=r'pip install "fastcnn\[tensorboard\]"'):
        TensorBoard(tmp_path)


@pytest.fixture
def quick(monkeypatch):
    pytest.importorskip("safetensors", reason="the extra `train` is not installed")
    monkeypatch.setattr("fastcnn.recipes.run.compare_step_times", lambda *arguments: None)


def test_the_command_line_on_stdout(tmp_path, capsys, quick):
    assert main(["train", "lenet", "--epochs", "2", "--subset", "40", "--out", str(tmp_path / "run"), "--quiet", "--json-log"]) == 0
    out, err = capsys.readouterr()
    *rows, last = map(json.loads, out.splitlines())
    assert err == "" and rows == History.from_csv(tmp_path / "run" / "history.csv").rows
    assert set(last) == {"result"} and last["result"]["epochs"] == 2 and 0 <= last["result"]["test_accuracy"] <= 1


def test_the_command_line_in_a_file_beside_the_report(tmp_path, capsys, quick):
    arguments = ["train", "lenet", "--epochs", "1", "--subset", "40", "--quiet", "--json-log", str(tmp_path / "log.jsonl")]
    assert main([*arguments, "--out", str(tmp_path / "run")]) == 0
    assert "test accuracy" in capsys.readouterr().out
    assert [json.loads(line)["epoch"] for line in (tmp_path / "log.jsonl").read_text().splitlines()] == [1]


def test_two_kinds_of_json_on_stdout_are_refused(tmp_path, capsys):
    assert main(["train", "lenet", "--json", "--json-log", "--out", str(tmp_path / "run")]) == 2
    assert "both write to stdout" in capsys.readouterr().err and not (tmp_path / "run").exists()
