"""`python -m bench`: convolutions, one backend of ours against its peers, problem by problem and op by op."""

import math
import sys
from dataclasses import asdict, dataclass
from functools import lru_cache, partial

import numpy as np

from bench import checks, compare, environment, report, roofline
from bench.contest import Contest
from bench.peers import Library, Operands, compiled, libraries
from bench.problems import Problem, load
from bench.worker import Prepared

KIND = "conv"


@dataclass(frozen=True)
class Settings:
    lists: list[str]
    ops: list[str]
    backend: str
    peers: list[str]
    threads: int
    dtype: str
    format: str
    repeats: int


@dataclass(frozen=True)
class ConvJob:
    """One op of one problem; `exact`: in float64, from the very numbers the libraries get."""

    problem: Problem
    op: str
    dtype: str
    exact: bool = False

    def prepare(self, library: Library) -> Prepared:
        operands = _operands(self.problem, self.dtype)
        contender = library.contender(self.problem, self.op, operands.astype("float64") if self.exact else operands)
        return Prepared(contender, [np.asarray(contender.result())], library.facts(contender))


_operands = lru_cache(maxsize=1)(Operands.of)  # a process gets a problem's ops one after the other


def run(settings: Settings) -> dict:
    """Measure every problem of the lists. Returns a JSON-able document that render() prints."""
    problems = [(name, problem) for name in settings.lists for problem in load(name)]
    rows, refused = [], []
    with Contest(libraries(settings.backend, settings.peers, settings.format), settings.threads) as contest:
        peak = contest.ours.call(roofline.fma_peak, settings.dtype, settings.threads) if compiled() else None
        for number, (name, problem) in enumerate(problems, start=1):
            for op in settings.ops:
                row = measure(problem, op, contest, settings)
                rows.append({"list": name} | row)
                refused += compare.refusals(f"{problem.name} {op}", row["results"])
                ms, _ = compare.our_cells(row["results"], settings.backend, report.milliseconds)
                ratio = report.ratio(compare.ratio(row["results"], settings.backend, compare.rival(asdict(settings))))
                print(f"{number}/{len(problems)} {problem.name} {op}: {ms} ms, ratio {ratio}", file=sys.stderr)
    header = environment.describe(settings.threads, contest.about)
    return {"kind": KIND, "header": header, "settings": asdict(settings), "peak": peak, "refused": refused, "rows": rows}


def measure(problem: Problem, op: str, contest: Contest, settings: Settings) -> dict:
    """One row: the error and the time of each library; one with a wrong result gets {"refused": why} and is not timed."""
    limit = checks.limit(problem, op, settings.dtype)
    truth = contest.truth(ConvJob(problem, op, settings.dtype, exact=True))
    verdict = partial(checks.checked_error, dtype=settings.dtype, limit=limit)
    results = contest.measure(ConvJob(problem, op, settings.dtype), truth, verdict, settings.repeats)
    return {"problem": problem.name, "shape": str(problem), "op": op, "flops": problem.flops, "limit": limit, "results": results}


def render(document: dict) -> str:
    """One table per op, the worst ratio first."""
    settings, peak = document["settings"], document["peak"]
    title = (
        f"Convolutions: {settings['backend']}, {settings['dtype']}, {settings['format']}, {settings['threads']} threads; lists {', '.join(settings['lists'])}"
    )
    tables = [
        "- error: max |difference| / max |float64 reference|",
        f"- FMA peak: {report.three_digits(peak / 1e9)} GFLOP/s" if peak else "- FMA peak: not measured (it takes the compiled backend)",
    ]
    columns = ["problem", "shape", "implementation", settings["backend"], "median", "GFLOP/s", "% peak", "error", *compare.RIVAL_COLUMNS, "error"]
    for op in settings["ops"]:
        rows = sorted((row for row in document["rows"] if row["op"] == op), key=compare.worst_first(settings))
        cells = [_cells(row, settings["backend"], peak) for row in rows]
        tables += [f"\n#### {op}\n", report.table(columns, cells), "\n" + _summary(rows, settings)]
    return compare.page(title, document, "ms", tables)


def _cells(row: dict, backend: str, peak: float | None) -> list[str]:
    results = row["results"]
    ours = results[backend]
    speed = row["flops"] / ours["minimum"] if "minimum" in ours else None
    return [
        row["problem"],
        row["shape"],
        ours.get("implementation", report.MISSING),
        *compare.our_cells(results, backend, report.milliseconds),
        report.three_digits(speed and speed / 1e9),
        report.percent(speed and peak and speed / peak),
        report.scientific(ours.get("error")),
        *compare.rival_cells(results, backend, report.milliseconds),
        report.scientific(results.get(compare.best(results, "torch"), {}).get("error")),
    ]


def _summary(rows: list[dict], settings: dict) -> str:
    rival = compare.rival(settings)
    ratios = [compare.ratio(row["results"], settings["backend"], rival) for row in rows]
    ratios = [value for value in ratios if value is not None]
    if not ratios:
        return f"{len(rows)} rows, none with a peer."
    lost = sum(value < 1 for value in ratios)
    mean = math.exp(sum(map(math.log, ratios)) / len(ratios))
    worst, mean, best = (report.ratio(value) for value in (min(ratios), mean, max(ratios)))
    return f"{len(rows)} rows against {rival}: {lost} lost, geometric mean {mean}, worst {worst}, best {best}."
