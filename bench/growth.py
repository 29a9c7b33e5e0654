"""`python -m bench growth`: how the cost of a convolution grows with its sizes, and the cliffs on the way.

A series varies one size of a base problem. A cliff is a size whose time per operation is more than CLIFF times that of its
neighbours: of their geometric mean, or, for the last size, of the one before it (the first size has only the cost of a call to show). A size
that looks like one is measured once more together with its neighbours before it is called one.
"""

import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial

import numpy as np

from bench import checks, environment, report
from bench.peers import OPS, Fastcnn, Operands
from bench.problems import Problem
from bench.timing import Contender, interleaved
from fastcnn import backend as backends

KIND = "growth"

CLIFF = 1.5

BASES = {
    "wide": Problem("wide", 16, 64, 28, 28, 64, 3, 3, (1, 1), (1, 1), (1, 1), 1),
    "narrow": Problem("narrow", 64, 6, 14, 14, 16, 5, 5, (1, 1), (0, 0), (1, 1), 1),
}

AXES: dict[str, tuple[Callable[[Problem, int], Problem], list[int]]] = {
    "batch": (lambda base, n: replace(base, N=n), [1, 2, 3, 4, 6, 7, 8, 9, 12, 15, 16, 17, 24, 31, 32, 33, 48, 64]),
    "image size": (lambda base, n: replace(base, H=n, W=n), [6, 7, 8, 9, 10, 12, 13, 14, 15, 16, 17, 20, 24, 28, 31, 32, 33, 40, 56, 64]),
    "channels": (lambda base, n: replace(base, C=n, O=n), [1, 2, 3, 4, 6, 8, 12, 15, 16, 17, 24, 31, 32, 33, 48, 63, 64, 65, 96, 127, 128, 129, 192]),
    "kernel size": (lambda base, n: replace(base, KH=n, KW=n, padding=(n // 2, n // 2)), [1, 2, 3, 4, 5, 6, 7, 8, 9, 11]),
}
"""What is varied, how, and over which sizes: powers of two, their neighbours, and something between."""


@dataclass(frozen=True)
class Settings:
    backend: str
    threads: int
    dtype: str
    format: str
    repeats: int
    short: bool


def run(settings: Settings) -> dict:
    """Every series of every base problem; one library, so all in this process."""
    header = environment.describe(settings.threads, Fastcnn(settings.backend).start(settings.threads))
    points, refused = [], []
    for base_name, base in BASES.items():
        for axis, (vary, sizes) in AXES.items():
            shown = sizes[:: len(sizes) // 3] if settings.short else sizes
            for op in OPS:
                print(f"{base_name} {axis} {op}", file=sys.stderr)
                measured = _series([(size, vary(base, size)) for size in shown], op, settings, refused)
                points += [{"base": base_name, "axis": axis, "op": op} | point for point in measured]
        points += [{"base": base_name, "axis": "threads"} | point for op in OPS for point in _threads(base, op, settings)]
    document = {"kind": KIND, "header": header, "settings": asdict(settings), "refused": refused, "bases": {n: str(p) for n, p in BASES.items()}}
    return document | {"points": points}


def _series(problems: Sequence[tuple[int, Problem]], op: str, settings: Settings, refused: list[str]) -> list[dict]:
    points = []
    contenders = {}
    for size, problem in problems:
        try:
            contenders[size], implementation = _checked(problem, op, settings)
            points.append({"size": size, "shape": str(problem), "flops": problem.flops, "implementation": implementation})
        except checks.WrongResult as wrong:
            refused.append(f"{problem} {op}: {wrong}")
    time.sleep(0.1)  # until the reference's BLAS has come to rest
    _time(points, contenders, settings)
    suspects = set() if settings.short else {i for i in range(len(points)) if _factor(points, i) > CLIFF}
    again = sorted({j for i in suspects for j in (i - 1, i, i + 1) if 0 <= j < len(points)})
    if again:
        first = [point["minimum"] for point in points]
        _time([points[i] for i in again], contenders, settings)
        for i in again:
            points[i]["minimum"] = min(points[i]["minimum"], first[i])
    return points


def _checked(problem: Problem, op: str, settings: Settings) -> tuple[Contender, str]:
    library, operands = Fastcnn(settings.backend, settings.format), Operands.of(problem, settings.dtype)
    contender = library.contender(problem, op, operands)
    exact = Fastcnn("reference").contender(problem, op, operands.astype("float64")).result()
    checks.checked_error([contender.result()], [exact], settings.dtype, checks.limit(problem, op, settings.dtype))
    return contender, library.facts(contender)["implementation"]


def _time(points: list[dict], contenders: dict[int, Contender], settings: Settings) -> None:
    timings = interleaved([replace(contenders[point["size"]], name=str(point["size"])) for point in points], settings.repeats)
    for point in points:
        timing = timings[str(point["size"])]
        point |= {"minimum": timing.minimum, "median": timing.median}


def _threads(base: Problem, op: str, settings: Settings) -> Iterator[dict]:
    contender, implementation = _checked(base, op, settings)
    counts = range(1, settings.threads + 1)
    timings = interleaved([replace(contender, name=str(n), scope=partial(_on_threads, contender, n)) for n in counts], settings.repeats)
    for n in counts:
        timing = timings[str(n)]
        times = {"minimum": timing.minimum, "median": timing.median}
        yield {"op": op, "size": n, "shape": str(base), "flops": base.flops, "implementation": implementation} | times


@contextmanager
def _on_threads(contender: Contender, n: int) -> Iterator[None]:
    before = backends.get_num_threads()
    backends.set_num_threads(n)
    try:
        with contender.scope():
            yield
    finally:
        backends.set_num_threads(before)


def _factor(points: Sequence[dict], i: int) -> float:
    """How many times slower per operation than its neighbours."""
    costs = [point["minimum"] / point["flops"] for point in points]
    neighbours = [costs[j] for j in (i - 1, i + 1) if 0 <= j < len(costs)]
    if i == 0 or not neighbours:
        return 1.0
    return costs[i] / math.exp(float(np.mean(np.log(neighbours))))


def series(document: dict) -> dict[tuple[str, str, str], list[dict]]:
    """(base, axis, op) -> the points in order of size."""
    found: dict[tuple[str, str, str], list[dict]] = {}
    for point in document["points"]:
        found.setdefault((point["base"], point["axis"], point["op"]), []).append(point)
    return found


def cliffs(document: dict) -> list[dict]:
    """The points that are cliffs, the worst first; more threads that help less are none. A short run's sizes are too far apart to be neighbours."""
    found = []
    if document["settings"]["short"]:
        return found
    for (base, axis, op), points in series(document).items():
        for i, point in enumerate(points):
            factor = _factor(points, i)
            if axis != "threads" and factor > CLIFF:
                around = [p for p in (points[i - 1], *points[i + 1 : i + 2])]
                found.append({"base": base, "axis": axis, "op": op, "point": point, "factor": factor, "neighbours": around})
    return sorted(found, key=lambda cliff: -cliff["factor"])


def render(document: dict) -> str:
    """The cliffs, then every series with the speeds of its sizes."""
    tables = []
    for base, shape in document["bases"].items():
        for axis in dict.fromkeys(point["axis"] for point in document["points"]):
            columns = {op: points for (b, a, op), points in series(document).items() if (b, a) == (base, axis)}
            sizes = dict.fromkeys(point["size"] for points in columns.values() for point in points)
            rows = []
            for size in sizes:
                at = [next((p for p in points if p["size"] == size), None) for points in columns.values()]
                cells = [(report.milliseconds(p["minimum"]), _speed(p)) if p else (report.MISSING, report.MISSING) for p in at]
                rows.append([str(size), *(cell for pair in cells for cell in pair)])
            head = [axis, *(cell for op in columns for cell in (f"{op} ms", "GFLOP/s"))]
            tables += [f"\n#### {base} ({shape}): {axis}\n", report.table(head, rows)]
    return "\n".join([_head(document), *tables])


def brief(document: dict) -> str:
    """For the README: the cliffs, and what threads bring."""
    rows = []
    for (base, axis, op), points in series(document).items():
        if axis == "threads":
            rows.append([base, op, *(report.ratio(points[0]["minimum"] / point["minimum"]) for point in points)])
    counts = [str(n) for n in range(1, document["settings"]["threads"] + 1)]
    return "\n".join([_head(document), "\nFaster on so many threads:\n", report.table(["layer", "op", *counts], rows)])


def _head(document: dict) -> str:
    settings = document["settings"]
    rows = []
    for cliff in cliffs(document):
        point = cliff["point"]
        around = " and ".join(f"{_speed(p)} at {p['size']} ({p['implementation']})" for p in cliff["neighbours"])
        where = [cliff["base"], cliff["axis"], str(point["size"]), cliff["op"]]
        rows.append([*where, point["implementation"], _speed(point), around, report.ratio(cliff["factor"])])
    columns = ["layer", "varied", "size", "op", "implementation", "GFLOP/s", "neighbours' GFLOP/s", "slower"]
    refused = ["\nWrong results, not timed:\n", *(f"- {line}" for line in document["refused"])] if document["refused"] else []
    return "\n".join(
        [
            f"### Cost growth: {settings['backend']}, {settings['dtype']}, {settings['format']}, {settings['threads']} threads",
            report.header(document["header"]),
            *(f"- {name}: {shape}" for name, shape in document["bases"].items()),
            f"- {len(document['points'])} times, the minimum of {settings['repeats']} turns each",
            f"- cliffs: more than {CLIFF} times slower per operation than the neighbours",
            "",
            report.table(columns, rows) if rows else "A short run looks for no cliffs." if settings["short"] else "No cliffs.",
            *refused,
        ]
    )


def _speed(point: dict) -> str:
    return report.three_digits(point["flops"] / point["minimum"] / 1e9)
