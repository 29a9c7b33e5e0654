"""`python -m bench coursework`: code in the style of the courses, as it is and with fastcnn.compat in its place.

Every folder of bench/courses with a workloads.py is a course. It lists (what, make), where make() gives the same piece of work as functions without
arguments: "naive", the loops that the assignment asks for, "im2col", columns and matrix products in NumPy, and "fastcnn". They return what they
computed, which must agree before anything is timed.
"""

import sys
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path

import numpy as np

from bench import compare, environment, report
from bench.contest import Results
from bench.peers.ours import Fastcnn
from bench.timing import Contender, interleaved
from fastcnn.backend import use_backend

KIND = "coursework"
COURSES = Path(__file__).with_name("courses")
LIMIT = 1e-9
"""Largest difference, relative to the largest number; a workload in float32 states its own in "limit"."""

SETTLE = 0.05
"""Seconds of sleep before a turn: NumPy's BLAS, in this process, spins for tens of milliseconds after a call."""

RIVALS = ("naive", "im2col")
NAIVE_REPEATS = 2
"""Loops take seconds where the others take milliseconds."""


@dataclass(frozen=True)
class Settings:
    courses: list[str]
    backend: str
    threads: int
    repeats: int


def names() -> list[str]:
    """The courses that there are, cs231n first: most people come for that."""
    found = [path.parent.name for path in COURSES.glob("*/workloads.py")]
    return sorted(found, key=lambda name: (name != "cs231n", name))


def run(settings: Settings) -> dict:
    header = environment.describe(settings.threads, Fastcnn(settings.backend).start(settings.threads))
    rows, refused = [], []
    for course in settings.courses or names():
        for what, make in import_module(f"bench.courses.{course}.workloads").WORKLOADS:
            print(f"{course}: {what}", file=sys.stderr)
            results = _row(make(), settings)
            rows.append({"course": course, "what": what, "results": results})
            refused += compare.refusals(f"{course}: {what}", results)
    stored = {"backend": settings.backend, "threads": settings.threads, "repeats": settings.repeats}
    return {"kind": KIND, "header": header, "settings": stored, "refused": refused, "rows": rows}


def _row(calls: dict, settings: Settings) -> Results:
    limit = calls.pop("limit", LIMIT)
    contenders = [Contender(name, call, lambda: use_backend(settings.backend)) for name, call in calls.items()]
    expected: dict[str, np.ndarray] = {contender.name: flat(contender.result()) for contender in contenders}
    for name in [name for name in calls if name != "fastcnn"]:
        error = difference(expected["fastcnn"], expected[name])
        if not error <= limit:
            return {"fastcnn": {"refused": f"differs from {name} by {error:.1e}, more than {limit:.0e}"}}
    naive = min(NAIVE_REPEATS, settings.repeats)
    timings = interleaved(contenders, {name: naive if name == "naive" else settings.repeats for name in calls}, settle=SETTLE)
    return {name: asdict(timing) for name, timing in timings.items()}


def flat(value: object) -> np.ndarray:
    """A number, an array, or a nest of them, as one vector."""
    if isinstance(value, (list, tuple)):
        return np.concatenate([flat(item) for item in value] or [np.empty(0)])
    return np.ravel(np.asarray(value, np.float64))


def difference(actual: np.ndarray, expected: np.ndarray) -> float:
    """The largest, relative to the largest number; infinite if there is nothing to compare, or not the same."""
    if actual.shape != expected.shape or not actual.size:
        return float("inf")
    return float(np.abs(actual - expected).max() / max(1e-300, np.abs(expected).max()))


def render(document: dict, course: str | None = None) -> str:
    """The table of one course, or of all; each course in its own order."""
    settings = document["settings"]
    rows = [_cells(row) for row in document["rows"] if course in (None, row["course"])]
    first = 0 if course is None else 1
    columns = ["course", "ms", "fastcnn", "median", "naive loops", "ratio", "NumPy im2col", "median", "ratio"][first:]
    lines = [
        f"### Coursework: {settings['backend']}, {settings['threads']} threads" + (f", {course}" if course else ""),
        report.header(document["header"]),
        f"- times: ms, minimum and median of {settings['repeats']} turns ({NAIVE_REPEATS} at most for loops: their minimum), in turns in one process",
        "- ratio: how many times faster fastcnn is, minimum over minimum",
        "",
        report.table(columns, [row[first:] for row in rows]),
    ]
    if document["refused"]:
        lines += ["", "Not timed, because the results differ:", *(f"- {line}" for line in document["refused"])]
    return "\n".join(lines)


def _cells(row: dict) -> list[str]:
    results = row["results"]
    ours = compare.our_cells(results, "fastcnn", report.milliseconds)[:2]
    naive, im2col = (results.get(name, {}) for name in RIVALS)
    return [
        row["course"],
        row["what"],
        *ours,
        report.milliseconds(naive.get("minimum")),
        report.ratio(compare.ratio(results, "fastcnn", "naive")),
        report.milliseconds(im2col.get("minimum")),
        report.milliseconds(im2col.get("median")),
        report.ratio(compare.ratio(results, "fastcnn", "im2col")),
    ]
