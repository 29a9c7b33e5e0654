"""`python -m bench --backend cuda` on numba's simulator: tiny problems, without PyTorch; the times mean nothing there."""

import pytest
from cuda_sim_recipe import Tiny

from bench import cuda_times, readme
from fastcnn import recipes


class Trained(Tiny):
    bench_batch = 2


def test_layers_and_steps_are_measured_and_shown(tmp_path, monkeypatch):
    monkeypatch.setattr(recipes, "get", lambda name: Trained())
    monkeypatch.setattr(cuda_times, "CALLS", 1)
    monkeypatch.setattr(cuda_times, "STEP_CALLS", 1)
    monkeypatch.setattr(cuda_times, "pytorch", lambda: None)
    shapes = tmp_path / "tiny.txt"
    shapes.write_text("tiny 1 1 4 4 2 3 3 1 0 1 1\n")
    ops = ["forward", "grad_input", "grad_weight"]
    document = cuda_times.run(cuda_times.Settings([str(shapes)], ops, ["tiny"], 1, 1))
    assert [row["op"] for row in document["layers"]] == ops
    assert document["refused"] == []
    for row in (*document["layers"], *document["rows"]):
        assert all(result["minimum"] > 0 for result in row["results"].values())
    assert set(document["rows"][0]["results"]) == {cuda_times.OURS, cuda_times.CAPTURED}
    text = readme.render(document)
    assert "tiny forward" in text and "tiny, batch 2" in text and "not measured: it is not installed, or sees no GPU" in text


def test_a_wrong_result_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(cuda_times, "CALLS", 1)
    monkeypatch.setattr(cuda_times, "pytorch", lambda: None)
    monkeypatch.setattr(cuda_times, "_truths", lambda torch, problem, arrays: {"forward": lambda: arrays[2].astype("float64")})
    shapes = tmp_path / "tiny.txt"
    shapes.write_text("tiny 1 1 4 4 2 3 3 1 0 1 1\n")
    document = cuda_times.run(cuda_times.Settings([str(shapes)], ["forward"], [], 1, 1))
    assert len(document["refused"]) == 1 and "tiny forward" in document["refused"][0]
    assert "wrong" in readme.render(document)
    with pytest.raises(Exception, match="no-such-list"):
        cuda_times.run(cuda_times.Settings(["no-such-list"], ["forward"], [], 1, 1))
