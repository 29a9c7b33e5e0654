"""Choosing a backend, recording what ran, the library's random generator."""

import contextvars
import os
import shutil
import subprocess
import sys
import threading
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import numpy as np
import pytest

import fastcnn.functional as F
from fastcnn import backend as backends
from fastcnn import random
from fastcnn.explain import explain

CPU = pytest.mark.skipif(backends.available()["cpu"] is not None, reason=f"backend cpu: {backends.available()['cpu']}")
X, W = np.ones((1, 2, 5, 5), np.float32), np.ones((3, 2, 3, 3), np.float32)


def test_use_backend_as_a_call_and_as_a_context_manager(backend):
    with backends.use_backend("reference"):
        assert backends.current().name == "reference"
        with backends.use_backend(backend):
            assert backends.current().name == backend
        assert backends.current().name == "reference"
    assert backends.current().name == backend
    backends.use_backend("reference")
    assert backends.current().name == "reference"


def test_use_backend_is_undone_after_an_error(backend):
    with pytest.raises(ZeroDivisionError), backends.use_backend("reference"):
        1 / 0  # noqa: B018
    assert backends.current().name == backend


def test_set_backend_is_for_the_whole_process_and_use_backend_for_the_context():
    def change():
        backends.set_backend("reference")
        seen = []
        thread = threading.Thread(target=lambda: seen.append(backends.current().name))
        thread.start()
        thread.join()
        return [*seen, backends.current().name]

    default = backends._default
    try:
        assert contextvars.copy_context().run(change) == ["reference", "reference"]
    finally:
        backends._default = default


def test_an_unknown_backend_is_named():
    with pytest.raises(ValueError, match="backend 'gpu' does not exist; the backends are reference, cpu"):
        backends.use_backend("gpu")


def run(code, cwd=None, **environment):
    return subprocess.run([sys.executable, "-c", code], env=os.environ | environment, capture_output=True, text=True, cwd=cwd)


def test_environment_variable_chooses_the_default():
    code = "import fastcnn.backend as b; print(b.current().name)"
    assert run(code, FASTCNN_BACKEND="reference").stdout == "reference\n"
    assert "backend 'gpu' does not exist" in run(code, FASTCNN_BACKEND="gpu").stderr


def source_folder(path, *left_out):
    """A copy of the package as it lies in the repository, without what matches the patterns."""
    shutil.copytree(Path(backends.__file__).parent, path / "fastcnn", ignore=shutil.ignore_patterns("__pycache__", *left_out))
    return path


USE_CPU = "import fastcnn, fastcnn.backend as b; print(fastcnn.__file__, b.available()['cpu'], sep=chr(10)); b.current()"


@CPU
@pytest.mark.parametrize("absent", ["_*.so", "_norm.*.so", "_lanes.*.so"], ids=["nothing_built", "one_file_missing", "one_of_plans_missing"])
def test_a_backend_that_is_not_built_says_how_to_build_it(absent, tmp_path):
    result = run(USE_CPU, source_folder(tmp_path, absent), FASTCNN_BACKEND="")
    path, reason = result.stdout.splitlines()
    assert path.startswith(str(tmp_path)) and reason.startswith("the compiled kernels are not built: run `pip install -e .`")
    last = result.stderr.splitlines()[-1]
    for part in ('RuntimeError: backend "cpu" cannot be used: the compiled kernels are not built: run `pip install -e .`', "FASTCNN_BACKEND=reference"):
        assert part in last
    assert "circular" not in last


@CPU
def test_a_backend_that_cannot_be_loaded_says_why(tmp_path):
    folder = source_folder(tmp_path, "_norm.*.so") / "fastcnn" / "backends" / "cpu"
    (folder / f"_norm{EXTENSION_SUFFIXES[0]}").write_bytes(b"no library")
    last = run(USE_CPU, tmp_path, FASTCNN_BACKEND="").stderr.splitlines()[-1]
    assert "the compiled kernels cannot be loaded (" in last and "_norm" in last and "run `pip install -e .`" in last


@CPU
def test_a_build_older_than_the_sources_says_so(tmp_path):
    folder = source_folder(tmp_path, "_columns.*.so") / "fastcnn" / "backends" / "cpu"
    (folder / "_columns.py").write_text("def unfold(): ...\n")  # what a build from before im2col was added has
    last = run(USE_CPU, tmp_path, FASTCNN_BACKEND="").stderr.splitlines()[-1]
    assert "the compiled kernels are of another version than the sources beside them (module 'fastcnn.backends.cpu._columns' has no attribute" in last
    assert "run `pip install -e .` in the source folder again" in last and "FASTCNN_BACKEND=reference" in last


@CPU
def test_an_instruction_set_that_does_not_exist_is_no_reason_to_build():
    last = run(USE_CPU, FASTCNN_BACKEND="", FASTCNN_ISA="foo").stderr.splitlines()[-1]
    assert "FASTCNN_ISA=foo" in last and "pip install" not in last and "not built" not in last


def test_explain_on_the_reference_backend():
    with backends.use_backend("reference"):
        explanation = explain("conv2d", X, W, padding=1)
        assert (explanation.op, explanation.backend, explanation.chosen, explanation.declined) == ("conv2d", "reference", "reference", ())
        assert str(explanation) == "conv2d on backend reference\n  conv2d: chosen reference"
        assert explain(F.max_pool2d_backward, np.ones((1, 2, 2, 2), np.float32), X, 2).dispatches[0].op == "max_pool2d"
        assert str(explain("dropout", X, training=False)).endswith("no primitive was needed")
    with pytest.raises(ValueError, match="explain: fastcnn.functional has no op 'conv9d'"):
        explain("conv9d")


@CPU
def test_explain_on_the_cpu_backend_names_the_implementation():
    with backends.use_backend("cpu"):
        explanation = explain("conv2d", X, W, padding=1)
    assert explanation.dispatches[0].op == "conv2d"
    assert explanation.chosen != "cpu"
    assert all(name and reason for name, reason in explanation.declined)
    assert f"conv2d: chosen {explanation.chosen}" in str(explanation)


def test_recording_ends_with_its_block(backend):
    with backends.recording() as dispatches:
        F.relu(X)
    F.relu(X)
    assert [dispatch.op for dispatch in dispatches] == ["relu"]
    assert backends.current().name == backend


@CPU
def test_threads():
    before = backends.get_num_threads()
    try:
        backends.set_num_threads(np.int64(1))
        assert backends.get_num_threads() == 1
    finally:
        backends.set_num_threads(before)
    with pytest.raises(ValueError, match="set_num_threads: n must be at least 1, got 0"):
        backends.set_num_threads(0)
    for wrong in (True, 1.5, "2"):
        with pytest.raises(TypeError, match="set_num_threads: n must be an int, got"):
            backends.set_num_threads(wrong)


@CPU
def test_use_algorithm():
    with backends.use_algorithm("direct"):
        direct = F.conv2d(X, W)
    np.testing.assert_array_equal(F.conv2d(X, W, algorithm="direct"), direct)
    np.testing.assert_array_equal(F.conv2d_backward(direct, X, W, algorithm="direct")[1], F.conv2d_backward(direct, X, W)[1])
    with pytest.raises(ValueError, match="algorithm 'fft' does not exist; the algorithms are auto, direct, winograd"):
        backends.use_algorithm("fft")


def test_config_is_printed(backend, capsys):
    backends.show_config()
    shown = capsys.readouterr().out
    assert backend in shown and np.__version__ in shown
    assert backends.config()["backend"] == backend


def test_manual_seed_restarts_the_default_generator():
    random.manual_seed(3)
    first = F.dropout(X)
    random.manual_seed(3)
    np.testing.assert_array_equal(F.dropout(X), first)
    assert random.default_rng() is random.default_rng(None)
    generator = np.random.default_rng(1)
    assert random.default_rng(generator) is generator
    assert random.default_rng(np.int64(1)).random() == np.random.default_rng(1).random()
    for wrong in (True, 1.0, "1"):
        with pytest.raises(TypeError, match="rng must be a numpy.random.Generator, an int seed or None"):
            random.default_rng(wrong)
