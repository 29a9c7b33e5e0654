"""Every whole-number problem of exact.py, on every instruction set, chosen as a user chooses it: in a process of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

cpu = pytest.importorskip("fastcnn.backends.cpu", reason="the compiled backend is not built")
pytestmark = pytest.mark.nightly

ROOT = Path(__file__).resolve().parents[2]
DIRECTIONS = ("conv2d", "conv2d_grad_input", "conv2d_grad_weight", "max_pool2d", "max_pool2d_backward", "avg_pool2d", "avg_pool2d_backward",
              "adaptive_max_pool2d", "unfold", "fold", "im2col", "col2im", "conv_transpose2d", "conv_transpose2d_backward")  # fmt: skip


@pytest.mark.parametrize("isa", cpu.available_isas())
def test_every_problem(isa):
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    run = subprocess.run([sys.executable, ROOT / "tests/exact.py"], env={**os.environ, "FASTCNN_ISA": isa, "PYTHONPATH": path}, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    result = json.loads(run.stdout)
    assert result["isa"] == isa and not result["failed"], "\n".join(result["failures"])
    for direction in DIRECTIONS:
        for dtype in ("float32", "float64"):
            for fmt in ("contiguous", "channels_last", "view", "mixed"):
                assert result["compared"][f"{direction} {dtype} {fmt}"] >= 1500, direction
    unreached = {
        f"{op} {impl.name}" for op in DIRECTIONS[:3] for impl in cpu.select.IMPLEMENTATIONS[op] if "winograd" not in impl.name
    } - set(result["implementations"])
    assert not unreached, f"no problem reaches {sorted(unreached)}"
    assert result["gates"]["direct, both signs"] >= 6000 and result["gates"]["winograd, both signs"] >= 300
    print({key: result[key] for key in ("isa", "problems", "gates")}, sum(result["compared"].values()), "comparisons")
