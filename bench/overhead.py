"""`python -m bench overhead`: what is paid before any arithmetic: seconds to import, microseconds per call of a tiny op."""

import os
import statistics
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from bench import checks, compare, environment, report
from bench.contest import Contest
from bench.convs import ConvJob
from bench.peers import OPS, Library, libraries
from bench.problems import load
from bench.worker import Arrays, Prepared

KIND = "overhead"

CALLS: dict[str, tuple[list[tuple[int, ...]], dict[str, object]]] = {
    "relu": ([(1, 1, 4, 4)], {}),
    "max_pool2d": ([(1, 1, 4, 4)], {"kernel_size": 2}),
    "avg_pool2d": ([(1, 1, 4, 4)], {"kernel_size": 2}),
    "linear": ([(1, 4), (2, 4), (2,)], {}),
    "softmax": ([(1, 10)], {"dim": 1}),
    "layer_norm": ([(1, 10)], {"normalized_shape": (10,)}),
}
"""Functions of the same name and arguments here and in torch.nn.functional: shapes of their arrays, options."""

LIMIT = 1e-5
"""Largest error of such a call: 100 eps, its results being sums of a few terms."""

@dataclass(frozen=True)
class CallJob:
    """One of CALLS on standard normal numbers; `exact`: in float64, from the very numbers the libraries get."""

    name: str
    exact: bool = False

    def prepare(self, library: Library) -> Prepared | None:
        shapes, options = CALLS[self.name]
        rng = np.random.default_rng(0)
        arrays = [rng.standard_normal(shape, dtype="float32") for shape in shapes]
        contender = library.function(self.name, [array.astype("float64") for array in arrays] if self.exact else arrays, options)
        if contender is None:
            return None
        return Prepared(contender, [np.asarray(contender.result())])


def run(backend: str, peers: list[str], threads: int, repeats: int) -> dict:
    rows, refused = [], []
    with Contest(libraries(backend, peers), threads) as contest:
        for call, job, limit in [*_convolutions(), *_functions()]:
            truth = contest.truth(replace(job, exact=True))
            results = contest.measure(job, truth, partial(_verdict, limit=limit), repeats)
            rows.append({"call": call, "results": results})
            refused += compare.refusals(call, results)
    modules = ["numpy", "fastcnn", "fastcnn.functional", *(["torch"] if "torch" in peers else [])]
    return {
        "kind": KIND,
        "header": environment.describe(threads, contest.about),
        "settings": {"backend": backend, "peers": peers, "threads": threads, "repeats": repeats},
        "refused": refused,
        "imports": import_times(modules, repeats),
        "rows": rows,
    }


def _verdict(results: Arrays, truth: Arrays, limit: float) -> float:
    return checks.checked_error(results, truth, "float32", limit)


def import_times(modules: list[str], repeats: int) -> dict[str, dict[str, float]]:
    """Seconds of `import module` in fresh interpreters, taking turns; the start of the interpreter is not in it."""
    code = "import time; start = time.perf_counter(); import {}; print(time.perf_counter() - start)"
    root = str(Path(__file__).parents[1])
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))}

    def once(module: str) -> float:
        command = [sys.executable, "-c", code.format(module)]
        return float(subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout)

    for module in modules:
        once(module)  # reads the files into the page cache and writes the .pyc
    seconds = [[once(module) for module in modules] for _ in range(repeats)]
    return {module: {"minimum": min(taken), "median": statistics.median(taken)} for module, taken in zip(modules, zip(*seconds, strict=True), strict=True)}


def _convolutions() -> Iterator[tuple[str, ConvJob, float]]:
    """Each in words, as a job, and with the largest error that passes."""
    for problem in load("overhead"):
        for op in OPS:
            yield f"conv2d {op} {problem}", ConvJob(problem, op, "float32"), checks.limit(problem, op, "float32")


def _functions() -> Iterator[tuple[str, CallJob, float]]:
    for name, (shapes, _) in CALLS.items():
        yield f"{name} {', '.join('x'.join(map(str, shape)) for shape in shapes)}", CallJob(name), LIMIT


def render(document: dict) -> str:
    """Import times, and calls with the worst ratio first."""
    settings = document["settings"]
    backend = settings["backend"]
    imports = [[module, report.milliseconds(t["minimum"]), report.milliseconds(t["median"])] for module, t in document["imports"].items()]
    calls = [
        [
            row["call"],
            *compare.our_cells(row["results"], backend, report.microseconds),
            *compare.rival_cells(row["results"], settings, report.microseconds),
        ]
        for row in sorted(document["rows"], key=compare.worst_first(settings))
    ]
    tables = [
        "",
        report.table(["import", "ms", "median"], imports),
        "",
        report.table(["call", *compare.our_columns(backend), *compare.rival_columns(settings)], calls),
    ]
    return compare.page(f"Overhead: {backend}, {settings['threads']} threads", document, "us", tables)
