"""`fastcnn accelerate`: scripts run as Python runs them, with the matching course's functions replaced."""

import os
import shutil
import subprocess
import sys
import types
from pathlib import Path

import pytest
from courses import copied

from fastcnn.compat import COURSES, Course, course
from fastcnn.compat import _install as installing

ROOT = Path(__file__).parents[1]


def run(folder, *words, accelerate=True, options=()):
    command = [sys.executable, *(["-m", "fastcnn", "accelerate", *options] if accelerate else []), *words]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


NETWORK = """\
import sys
import numpy as np
from cs231n.classifiers.cnn import *

if __name__ == "__main__":
    network = ThreeLayerConvNet((3, 8, 8), 4, 3, 10, dtype=np.float64)
    rng = np.random.default_rng(0)
    loss, grads = network.loss(rng.standard_normal((5, 3, 8, 8)), rng.integers(0, 10, 5))
    print(f"{loss:.9f} {abs(grads['W1']).sum():.9f}")
    print(conv_forward_fast.__module__, conv_relu_pool_forward.__module__)
"""


def test_cs231n_runs_without_its_extension_and_with_the_same_numbers(tmp_path):
    copied("cs231n", tmp_path)
    (tmp_path / "train.py").write_text(NETWORK)
    assert run(tmp_path, "train.py", accelerate=False).returncode == 1  # NameError: there is no extension
    done = run(tmp_path, "train.py")
    assert done.returncode == 0, done.stderr
    numbers, modules = done.stdout.splitlines()
    assert modules == "fastcnn.compat.cs231n._conv fastcnn.compat.cs231n._sandwiches"
    assert "cs231n: 21 names of cs231n.layers run on fastcnn: conv_forward_naive," in done.stderr
    # the course's own code, given an extension made of loops
    (tmp_path / "cs231n" / "im2col_cython.py").write_text(
        "import numpy as np\nfrom .im2col import col2im_indices, im2col_indices as im2col_cython\n"
        "def col2im_cython(cols, N, C, H, W, a, b, p, s): return col2im_indices(cols, (N, C, H, W), a, b, p, s)\n"
        "def col2im_6d_cython(cols, N, C, H, W, a, b, p, s):\n"
        "    return col2im_indices(cols.transpose(0, 1, 2, 4, 5, 3).reshape(C * a * b, -1), (N, C, H, W), a, b, p, s)\n"
    )
    theirs = run(tmp_path, "train.py", accelerate=False)
    assert theirs.stdout.splitlines()[0] == numbers, theirs.stderr


def test_deep_learning_from_scratch_by_way_of_the_parent_folder(tmp_path):
    shutil.copytree(ROOT / "bench" / "courses" / "dlfs" / "common", tmp_path / "common")
    (tmp_path / "ch07").mkdir()
    (tmp_path / "ch07" / "script.py").write_text(
        "import sys, os\nsys.path.append(os.pardir)\nimport numpy as np\nfrom common.layers import *\n"
        "c = Convolution(np.ones((2, 1, 3, 3)), np.zeros(2))\nprint(c.forward(np.ones((1, 1, 4, 4))).sum(), Convolution.forward.__module__)\n"
    )
    done = run(tmp_path / "ch07", "script.py")
    assert done.stdout.split() == ["72.0", "fastcnn.compat.dlfs.layers"], done.stderr
    assert "names of common.layers run on fastcnn" in done.stderr
    quiet = run(tmp_path / "ch07", "script.py", options=["--quiet", "--course", "dlfs", "--threads", "1"])
    assert (quiet.returncode, quiet.stdout, quiet.stderr) == (0, done.stdout, "")
    other = run(tmp_path / "ch07", "script.py", options=["--course", "cs231n"])
    assert other.stdout.split() == ["72.0", "common.layers"]
    assert other.stderr == "nothing was replaced: script.py neither imports nor defines what these courses have: cs231n\n"


def test_functions_that_the_script_defines_itself(tmp_path):
    (tmp_path / "notebook.py").write_text(
        "import numpy as np\n\n\n"
        "def conv_forward(A_prev, W, b, hparameters):\n    return None, None\n\n\n"
        "def pool_forward(A_prev, hparameters, mode='max', extra=None):\n    return 'mine'\n\n\n"
        "Z, cache = conv_forward(np.ones((1, 4, 4, 1)), np.ones((2, 2, 1, 3)), np.zeros((1, 1, 1, 3)), {'stride': 2, 'pad': 0})\n"
        "print(Z.shape, Z.sum(), pool_forward(1, 2))\nraise ValueError('line 14')\n"
    )
    done = run(tmp_path, "notebook.py")
    assert done.stdout == "(1, 2, 2, 3) 48.0 mine\n"
    assert "coursera: 1 names of __main__ run on fastcnn: conv_forward\n" in done.stderr
    assert "left __main__.pool_forward: it takes (A_prev, hparameters, mode, extra), ours takes (A_prev, hparameters, mode" in done.stderr
    assert "line 14, in <module>" in done.stderr  # what is put in moves no line


SCRIPT = '''\
"""What it is for."""
from __future__ import annotations
import os, sys
def boom():
    raise RuntimeError("boom")
if __name__ == "__main__":
    print(sys.argv, sys.path[0], os.getcwd(), __file__, __name__, __doc__, __package__, __spec__)
    print(sorted(name for name in globals() if not name.startswith("__fastcnn")), type(__loader__).__name__)
    if "code" in sys.argv:
        sys.exit(7)
    if "text" in sys.argv:
        sys.exit("that was it")
    if "pickle" in sys.argv:
        import pickle
        print(pickle.loads(pickle.dumps(boom)) is boom)
    if "boom" in sys.argv:
        try:
            boom()
        except RuntimeError as error:
            raise KeyError("after it") from error
'''


@pytest.mark.parametrize("words", [(), ("-x", "--quiet", "a b"), ("code",), ("text",), ("boom",), ("pickle",)], ids=lambda words: "-".join(words) or "none")
def test_it_runs_as_python_runs_it(words, tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "script.py").write_text(SCRIPT)
    expected = run(tmp_path, "folder/script.py", *words, accelerate=False)
    done = run(tmp_path, "folder/script.py", *words, options=["--quiet"])
    assert done.stdout == expected.stdout
    assert done.stderr == expected.stderr
    assert done.returncode == expected.returncode


def test_a_script_that_does_not_compile_and_one_that_is_not_there(tmp_path):
    (tmp_path / "bad.py").write_text("print('never')\nif True\n    pass\n")
    expected = run(tmp_path, "bad.py", accelerate=False)
    done = run(tmp_path, "bad.py", options=["--quiet"])
    assert (done.returncode, done.stdout) == (1, "") == (expected.returncode, expected.stdout)
    assert done.stderr.splitlines()[-4:] == expected.stderr.splitlines()[-4:]
    for name, message in (("none.py", "none.py: No such file or directory"), (".", "is a folder: name the Python file in it")):
        done = run(tmp_path, name)
        assert done.returncode == 2 and message in done.stderr and len(done.stderr.splitlines()) == 1


def test_every_course_declares_what_it_stands_in_for():
    for name in COURSES:
        declared = course(name)
        assert declared.name == name and declared.title and declared.modules()
    with pytest.raises(ValueError, match="there is no course 'cs999'; the courses are cs231n"):
        course("cs999")


def test_partners_are_replaced_together_even_if_one_comes_later(monkeypatch):
    """A script that is still running: the forward is replaced when it is defined, and put back when the backward turns out to be of another kind."""

    def layer_forward(x):
        return "ours"

    def layer_backward(dout):
        return "ours"

    layer = Course("test", "A test", names={"somebody": {"layer_forward": layer_forward, "layer_backward": layer_backward}},
                   together=(("layer_forward", "layer_backward"),))
    module = types.ModuleType("somebody")
    monkeypatch.setitem(sys.modules, "somebody", module)
    report = installing.install(layer)
    try:
        module.layer_forward = original = lambda x: "theirs"
        installing.defined(module)
        assert module.layer_forward(1) == "ours"
        module.layer_backward = lambda dout, cache: "theirs"
        installing.defined(module)
        assert module.layer_forward is original and report.replaced == []
        assert [name for name, _ in report.left] == ["somebody.layer_backward", "somebody.layer_forward"]
    finally:
        installing.uninstall(layer)
