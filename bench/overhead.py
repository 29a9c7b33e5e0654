"""`python -m bench overhead`: what is paid before any arithmetic: seconds to import, microseconds per call of a tiny op."""

import os
import statistics
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np

from bench import checks, compare, report
from bench.peers import OPS, Operands, libraries
from bench.problems import load
from bench.timing import Contender
from fastcnn import functional
from fastcnn.backend import use_backend

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

Case = tuple[str, np.ndarray, float, list[Contender]]
"""A call in words, its result in float64, the largest error that passes, and who is timed."""


def run(backend: str, peers: list[str], threads: int, header: dict[str, str], repeats: int) -> dict:
    modules = ["numpy", "fastcnn", "fastcnn.functional", *(["torch"] if "torch" in peers else [])]
    rows, refused = [], []
    for call, expected, limit, contenders in [*_convolutions(backend, peers), *_calls(backend, peers)]:
        results: compare.Results = {}
        right = []
        for contender in contenders:
            try:
                checks.checked_error(contender, expected, "float32", limit)
                right.append(contender)
            except checks.WrongResult as wrong:
                results[contender.name] = {"refused": str(wrong)}
        results |= compare.timed(right, repeats, backend)
        rows.append({"call": call, "results": results})
        refused += compare.refusals(call, results)
    settings = {"backend": backend, "peers": peers, "threads": threads, "repeats": repeats}
    return {"kind": KIND, "header": header, "settings": settings, "refused": refused, "imports": import_times(modules, repeats), "rows": rows}


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


def _convolutions(backend: str, peers: list[str]) -> Iterator[Case]:
    for problem in load("overhead"):
        operands = Operands.of(problem, "float32")
        for op in OPS:
            contenders = [library.contender(problem, op, operands) for library in libraries(backend, peers)]
            yield f"conv2d {op} {problem}", checks.expected(problem, op, operands), checks.limit(problem, op, "float32"), contenders


def _calls(backend: str, peers: list[str]) -> Iterator[Case]:
    rng = np.random.default_rng(0)
    for name, (shapes, options) in CALLS.items():
        arrays = [rng.standard_normal(shape, dtype="float32") for shape in shapes]
        contenders = [_ours(name, arrays, options, library) for library in dict.fromkeys([backend, *(p for p in peers if p == "reference")])]
        if "torch" in peers:
            contenders.append(_theirs(name, arrays, options))
        expected = np.asarray(_ours(name, [array.astype("float64") for array in arrays], options, "reference").result())
        yield f"{name} {', '.join('x'.join(map(str, array.shape)) for array in arrays)}", expected, LIMIT, contenders


def _ours(name: str, arrays: list[np.ndarray], options: dict, backend: str) -> Contender:
    return Contender(backend, partial(getattr(functional, name), *arrays, **options), partial(use_backend, backend))


def _theirs(name: str, arrays: list[np.ndarray], options: dict) -> Contender:
    import torch

    return Contender("torch nchw", partial(getattr(torch.nn.functional, name), *map(torch.from_numpy, arrays), **options), torch.inference_mode)


def render(document: dict) -> str:
    """Import times, and calls with the worst ratio first."""
    settings = document["settings"]
    backend = settings["backend"]
    imports = [[module, report.milliseconds(t["minimum"]), report.milliseconds(t["median"])] for module, t in document["imports"].items()]
    calls = [
        [
            row["call"],
            *compare.our_cells(row["results"], backend, report.microseconds),
            *compare.rival_cells(row["results"], backend, report.microseconds),
        ]
        for row in sorted(document["rows"], key=compare.worst_first(settings))
    ]
    tables = [
        "",
        report.table(["import", "ms", "median"], imports),
        "",
        report.table(["call", backend, "median", *compare.RIVAL_COLUMNS], calls),
    ]
    return compare.page(f"Overhead: {backend}, {settings['threads']} threads", document, "us", tables)
