"""`python -m bench coursework` times only what agrees, and its tables reach the courses' pages. No test asserts a time."""

import json
import shutil
import types

import numpy as np
import pytest
from tree import needs_tree

from bench import coursework, readme, timing
from fastcnn.compat import COURSES

SETTINGS = coursework.Settings(["made_up"], "reference", 1, 2)


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(coursework, "SETTLE", 0.0)
    monkeypatch.setattr(timing, "STRETCH", 0.0)


def run(monkeypatch, **calls):
    monkeypatch.setattr(coursework, "import_module", lambda name: types.SimpleNamespace(WORKLOADS=[("some work", lambda: dict(calls))]))
    return coursework.run(SETTINGS)


@needs_tree
def test_every_course_has_workloads_and_a_page():
    assert coursework.names()[0] == "cs231n"
    assert {name.removesuffix("_scratch") for name in COURSES} == set(coursework.names())
    assert {page.stem for page in readme.COURSE_PAGES.glob("*.md")} == set(COURSES)


def test_a_row_has_a_time_for_everybody(monkeypatch):
    x = np.arange(3.0)
    document = run(monkeypatch, naive=lambda: [x, 2.0], im2col=lambda: (x, 2.0 + 1e-12), fastcnn=lambda: [x, [2.0]])
    (row,) = document["rows"]
    assert set(row["results"]) == {"naive", "im2col", "fastcnn"} and not document["refused"]
    text = coursework.render(document)
    assert "| made_up | some work |" in text and "- threads: 1" in text
    assert "made_up |" not in coursework.render(document, "made_up") and "some work" not in coursework.render(document, "another")


@pytest.mark.parametrize("wrong", [lambda: [0.0, 1.0, 2.1], lambda: [0.0, 1.0], lambda: None, lambda: float("nan")])
def test_results_that_differ_are_not_timed(wrong, monkeypatch):
    document = run(monkeypatch, im2col=wrong, fastcnn=lambda: np.arange(3.0))
    (line,) = document["refused"]
    assert line.startswith("made_up: some work") and "differs from im2col by" in line and "minimum" not in document["rows"][0]["results"]["fastcnn"]
    assert "WRONG" in coursework.render(document) and "Not timed" in coursework.render(document)


def test_a_workload_in_float32_states_its_limit(monkeypatch):
    assert not run(monkeypatch, im2col=lambda: 1.0, fastcnn=lambda: 1.0 + 1e-5, limit=1e-4)["refused"]
    assert run(monkeypatch, im2col=lambda: 1.0, fastcnn=lambda: 1.0 + 1e-5)["refused"]


def test_pages_are_filled_with_their_own_rows(monkeypatch, tmp_path):
    document = run(monkeypatch, im2col=lambda: 1.0, fastcnn=lambda: 1.0)
    (tmp_path / "result.json").write_text(json.dumps(document))
    for name in ("made_up", "other"):
        (tmp_path / f"{name}.md").write_text("before\n<!-- table:start -->\nold\n<!-- table:end -->\nafter\n")
    assert readme.fill_courses(tmp_path, tmp_path) == 1
    assert coursework.render(document, "made_up") in (tmp_path / "made_up.md").read_text()
    assert "old" not in (tmp_path / "other.md").read_text()


@needs_tree
def test_the_courses_pages_show_the_results_that_lie_in_the_repository(tmp_path):
    shutil.copytree(readme.COURSE_PAGES, tmp_path / "docs")
    readme.fill_courses(tmp_path / "docs", readme.RESULTS)
    for page in readme.COURSE_PAGES.glob("*.md"):
        assert (tmp_path / "docs" / page.name).read_text() == page.read_text(), f"{page.name}: run `python -m bench readme`"
