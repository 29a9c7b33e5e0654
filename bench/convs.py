"""`python -m bench`: convolutions, one backend of ours against its peers, problem by problem and op by op."""

import math
import sys
from dataclasses import asdict, dataclass, replace
from functools import lru_cache

import numpy as np

from bench import checks, compare, environment, report, roofline
from bench.contest import Contest
from bench.networks import arrays
from bench.peers import BACKWARD, Library, Operands, compiled, libraries
from bench.problems import Problem, load
from bench.worker import Arrays, Prepared

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

    def prepare(self, library: Library) -> Prepared | None:
        operands = _operands(self.problem, self.dtype)
        contender = library.contender(self.problem, self.op, operands.astype("float64") if self.exact else operands)
        if contender is None:
            return None
        return Prepared(contender, arrays(contender.result()), library.facts(contender))


    def verdict(self, results: Arrays, truth: Arrays) -> float:
        """The error; WrongResult if it is one."""
        return checks.checked_error(results, truth, self.dtype, *checks.limits(self.problem, self.op, self.dtype))

    @property
    def flops(self) -> int:
        return self.problem.flops * (2 if self.op == BACKWARD else 1)

    @property
    def bytes(self) -> int:
        """Those that must cross memory once: two arrays read and one written; backward reads all three and writes two."""
        written_too = math.prod(self.problem.input_shape) + math.prod(self.problem.weight_shape) if self.op == BACKWARD else 0
        return (self.problem.elements + written_too) * np.dtype(self.dtype).itemsize


_operands = lru_cache(maxsize=1)(Operands.of)  # a process gets a problem's ops one after the other


def run(settings: Settings) -> dict:
    """Measure every problem of the lists. Returns a JSON-able document that render() prints."""
    problems = [(name, problem) for name in settings.lists for problem in load(name)]
    rows, refused = [], []
    with Contest(libraries(settings.backend, settings.peers, settings.format), settings.threads) as contest:
        machine = [contest.ours.call(roofline.limits, settings.dtype, settings.threads)] if compiled() else []
        for number, (name, problem) in enumerate(problems, start=1):
            for op in settings.ops:
                row = measure(problem, op, contest, settings)
                rows.append({"list": name} | row)
                refused += compare.refusals(f"{problem.name} {op}", row["results"])
                ms = compare.our_cells(row["results"], settings.backend, report.milliseconds)[0]
                ratio = report.ratio(compare.decisive(row["results"], asdict(settings)))
                print(f"{number}/{len(problems)} {problem.name} {op}: {ms} ms, ratio {ratio}", file=sys.stderr)
        if machine:  # once more: a virtual machine's speed may have changed meanwhile
            machine.append(contest.ours.call(roofline.limits, settings.dtype, settings.threads))
    header = environment.describe(settings.threads, contest.about)
    return {"kind": KIND, "header": header, "settings": asdict(settings), "machine": machine, "refused": refused, "rows": rows}


def measure(problem: Problem, op: str, contest: Contest, settings: Settings) -> dict:
    """One row: the error and the time of each library; one with a wrong result gets {"refused": why} and is not timed."""
    job = ConvJob(problem, op, settings.dtype)
    results = contest.measure(job, contest.truth(replace(job, exact=True)), job.verdict, settings.repeats)
    return {"problem": problem.name, "shape": str(problem), "op": op, "flops": job.flops, "bytes": job.bytes, "results": results}


def render(document: dict) -> str:
    """One table per op, the worst ratio first."""
    settings = document["settings"]
    backend = settings["backend"]
    tables = ["- error: max |difference| / max |float64 reference|", *_machine_lines(document)]
    columns = [
        "problem", "shape", "implementation", *compare.our_columns(backend), "GFLOP/s", "% bound", "error", *compare.rival_columns(settings), "its error"
    ]  # fmt: skip
    for op in settings["ops"]:
        rows = _sorted(document, op)
        tables += [f"\n#### {op}\n", report.table(columns, [_cells(row, document) for row in rows])]
        tables += compare.others(rows, settings, lambda row: [row["problem"]], ["problem"], report.milliseconds)
        tables += ["\n" + compare.summary([compare.decisive(row["results"], settings) for row in rows])]
    return compare.page(_title(document), document, "ms", tables)


def brief(document: dict) -> str:
    """One row per problem with all its ops, for the README: the worst ratio first."""
    settings = document["settings"]
    shown: dict[tuple[str, str], dict[str, dict]] = {}
    for row in document["rows"]:
        shown.setdefault((row["list"], row["problem"]), {})[row["op"]] = row
    columns = ["problem", "shape", *(cell for op in settings["ops"] for cell in (f"{op} ms", "ratio", "% bound"))]

    def worst(rows: dict[str, dict]) -> tuple[bool, float]:
        return min(compare.worst_first(settings)(row) for row in rows.values())

    cells = []
    for (_, problem), rows in sorted(shown.items(), key=lambda item: worst(item[1])):
        cells.append([problem, next(iter(rows.values()))["shape"]])
        for op in settings["ops"]:
            row = rows[op]
            ms = compare.our_cells(row["results"], settings["backend"], report.milliseconds)[0]
            cells[-1] += [ms, report.ratio(compare.decisive(row["results"], settings)), report.percent(share(row, document))]
    counts = [f"- {op}: {compare.summary([compare.decisive(row['results'], settings) for row in _sorted(document, op)])}" for op in settings["ops"]]
    return compare.page(_title(document), document, "ms", [*_machine_lines(document), *counts, "", report.table(columns, cells)])


def machine(document: dict) -> dict[str, float] | None:
    """The better of the machine's limits before and after the run."""
    measured = document.get("machine")
    return {key: max(limits[key] for limits in measured) for key in measured[0]} if measured else None


def speed(row: dict, backend: str) -> float | None:
    """Flop/s at the minimum."""
    ours = row["results"][backend]
    return row["flops"] / ours["minimum"] if "minimum" in ours else None


def share(row: dict, document: dict) -> float | None:
    """Of the roofline bound."""
    ours, bound = speed(row, document["settings"]["backend"]), roofline.bound(row["flops"], row["bytes"], machine(document))
    return ours / bound if ours and bound else None


def _title(document: dict) -> str:
    settings = document["settings"]
    words = settings["backend"], settings["dtype"], settings["format"], f"{settings['threads']} threads; lists {', '.join(settings['lists'])}"
    return f"Convolutions: {', '.join(words)}"


def _machine_lines(document: dict) -> list[str]:
    if not document.get("machine"):
        return ["- FMA peak and copy bandwidth: not measured (it takes the compiled backend)"]
    texts = [f"{report.three_digits(limits['fma'] / 1e9)} GFLOP/s, {report.three_digits(limits['copy'] / 1e9)} GB/s" for limits in document["machine"]]
    return [f"- FMA peak and copy bandwidth: {', and at the end '.join(texts)}; bound = min(peak, intensity x bandwidth)"]


def _sorted(document: dict, op: str) -> list[dict]:
    return sorted((row for row in document["rows"] if row["op"] == op), key=compare.worst_first(document["settings"]))


def _cells(row: dict, document: dict) -> list[str]:
    settings, results = document["settings"], row["results"]
    backend = settings["backend"]
    ours, flops = results[backend], speed(row, backend)
    return [
        row["problem"],
        row["shape"],
        ours.get("implementation", report.MISSING),
        *compare.our_cells(results, backend, report.milliseconds),
        report.three_digits(flops and flops / 1e9),
        report.percent(share(row, document)),
        report.scientific(ours.get("error")),
        *compare.rival_cells(results, settings, report.milliseconds),
        report.scientific(results.get(compare.best(results, backend) or "", {}).get("error")),
    ]
