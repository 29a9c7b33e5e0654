"""Single convolutions below what we want of them, by name, each with its distance to the roofline: a section of bench/README.md, from the results of
`python -m bench`.

What we want, as a ratio to PyTorch's better memory format: 2 for 3x3 layers of stride 1 between 32 channels and more (1.8 at 4x4), where Winograd saves
multiply-adds; 1.3 for narrow layers (fewer than 16 channels on a side); 1 for every other; in float64 2 for all.
"""

from functools import lru_cache

from bench import compare, convs, report
from bench.problems import Problem, load

WINOGRAD = "winograd_4x4_3x3"
SHORT = 2.5e-4
"""Seconds up to which the second thread's start and fixed costs, some ten microseconds, are to be seen."""

NEAR = 0.7
"""Of a limit: there is no factor to be had any more."""

WHY = {
    "short": "a quarter of a millisecond at most: waking the threads, laying out the operands and the ends of tiles weigh",
    "weights": "Winograd with fewer than 256 tiles: the transforms of the weights (36 numbers for 9, in every single call; inside a plan's inference once) "
    "are shared by few",
    "transforms": "Winograd: the transforms of the tiles move 36 numbers for 16 on both sides, and with few channels there are few multiply-adds per number",
    "memory": "so few operations a byte that memory is the limit for both libraries; PyTorch's operands lie channels last, ours have to be planes",
    "peak": "PyTorch is within 30 % of the limit, so nobody can be much faster; we lose by laying out C-contiguous operands, which PyTorch gets channels last",
    "layout": "neither limit is near: borders, strides and laying out the operands take the time",
}


def render(documents: list[dict]) -> str:
    """A table of the rows, worst first, and what stands behind them; `documents`: those of single convolutions."""
    rows = [cells for document in documents for row in document["rows"] if (cells := _cells(row, document))]
    rows.sort(key=lambda cells: float(cells[4][:-1]) / float(cells[5]))
    counted = {why: sum(cells[-1] == why for cells in rows) for why in WHY}
    total = sum(compare.pytorch_ratio(row["results"], document["settings"]["backend"]) is not None for document in documents for row in document["rows"])
    columns = ["list", "shape", "op", "ours ms", "ratio", "wanted", "ours % limit", "PyTorch % limit", "limit", "why"]
    lines = [
        f"{len(rows)} of {total} rows. `limit` is what bounds the algorithm that ran, on the machine's peak and copy bandwidth: multiply-adds (of Winograd, "
        "those it does), or bytes that must cross memory once; the shares are of that limit, PyTorch's as if it ran the same algorithm.",
        "",
        *(f"- `{why}` ({counted[why]}): {text}." for why, text in WHY.items() if counted[why]),
        "",
        "",
    ]
    return "\n".join(lines) + report.table(columns, rows)


def wanted(problem: Problem, dtype: str) -> float:
    if dtype == "float64":
        return 2.0
    wide = problem.groups == 1 and min(problem.C, problem.O) >= 32
    if wide and problem.kernel == (3, 3) and problem.stride == problem.dilation == (1, 1):
        return 1.8 if max(problem.output_shape[2:]) <= 4 else 2.0
    return 1.3 if min(problem.C, problem.O) // problem.groups < 16 and problem.groups == 1 else 1.0


@lru_cache
def _problems(name: str) -> dict[str, Problem]:
    return {problem.name: problem for problem in load(name)}


def _cells(row: dict, document: dict) -> list[str] | None:
    """The row's line, or None where it reaches what is wanted or has no rival."""
    settings, machine = document["settings"], convs.machine(document)
    ours, ratio = row["results"][settings["backend"]], compare.pytorch_ratio(row["results"], settings["backend"])
    problem = _problems(row["list"])[row["problem"]]
    bar = wanted(problem, settings["dtype"])
    if machine is None or ratio is None or "minimum" not in ours or ratio >= bar:
        return None
    seconds, winograd = ours["minimum"], ours.get("implementation") == WINOGRAD
    OH, OW = problem.output_shape[2:] if row["op"] != "grad_input" else problem.input_shape[2:]
    tiles = problem.N * -(-OH // 4) * -(-OW // 4)
    flops = 2 * 36 * tiles * problem.C * problem.O if winograd else row["flops"]
    compute, memory = flops / machine["fma"], row["bytes"] / machine["copy"]
    limit = max(compute, memory)
    ours_share, rival_share = limit / seconds, limit / (seconds * ratio)
    if seconds <= SHORT:
        why = "short"
    elif winograd:
        why = "weights" if tiles < 256 else "transforms"
    elif memory > compute:
        why = "memory"
    else:
        why = "peak" if rival_share >= NEAR else "layout"
    name = row["list"] + (" (float64)" if settings["dtype"] == "float64" else "")
    return [
        name, row["problem"] + " " + row["shape"], row["op"], report.milliseconds(seconds), report.ratio(ratio), f"{bar:g}", report.percent(ours_share),
        report.percent(rival_share), "memory" if memory > compute else "FMA", why,
    ]  # fmt: skip
