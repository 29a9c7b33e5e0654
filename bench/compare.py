"""What all comparisons share: results by library, the ratio, the order of the rows, the cells about the rivals.

results   of one row, see bench.contest; libraries are the backend that is measured, variants of it ("cpu isa=avx2"), yardsticks
          ("reference", "im2col", "loops") and rivals ("torch nchw", "onnxruntime", ...)
settings  the settings of a document: "backend" and "peers" are read here
"""

import math
from collections.abc import Callable, Sequence

from bench import report
from bench.contest import YARDSTICK_REPEATS, Results
from bench.peers import is_rival

RIVAL_COLUMNS = ["best peer", "ms", "median", "ratio"]


def rivals(results: Results, backend: str) -> dict[str, dict]:
    """Those to beat, as far as they were timed."""
    return {name: result for name, result in results.items() if is_rival(name, backend) and "minimum" in result}


def best(results: Results, backend: str) -> str | None:
    """The fastest rival; None if none was timed."""
    found = rivals(results, backend)
    return min(found, key=lambda name: found[name]["minimum"]) if found else None


def ratio(results: Results, backend: str, library: str | None = None) -> float | None:
    """How many times faster the backend is than a library, by default the best rival, minimum over minimum; below 1 the row is lost.

    None if either was not timed."""
    name = library or best(results, backend)
    ours, theirs = results.get(backend, {}).get("minimum"), results.get(name or "", {}).get("minimum")
    return theirs / ours if ours and theirs and name != backend else None


def yardstick(settings: dict) -> str | None:
    """What the x column is against: NumPy as coursework writes it if it was asked for, else the reference."""
    return next((name for name in ("im2col", "reference") if name in settings["peers"] and name != settings["backend"]), None)


def decisive(results: Results, settings: dict) -> float | None:
    """The ratio by which rows are sorted and counted: against the best rival, or the yardstick where there is no rival."""
    return ratio(results, settings["backend"]) or ratio(results, settings["backend"], yardstick(settings) or "none")


def worst_first(settings: dict) -> Callable[[dict], tuple[bool, float]]:
    """Sort key for rows: refused ones, lost ones, won ones, and last those without a rival."""

    def key(row: dict) -> tuple[bool, float]:
        if "refused" in row["results"][settings["backend"]]:
            return False, 0.0
        value = decisive(row["results"], settings)
        return value is None, value or 0.0

    return key


def our_columns(backend: str) -> list[str]:
    return [backend, "median", "spread"]


def our_cells(results: Results, backend: str, unit: Callable[[float | None], str]) -> list[str]:
    """Minimum, median and spread of the measured backend."""
    ours = results[backend]
    return ["WRONG" if "refused" in ours else unit(ours["minimum"]), unit(ours.get("median")), report.percent(spread(ours))]


def spread(result: dict) -> float | None:
    """The distance between the quartiles over the median: half of the turns lie within it."""
    return (result["upper"] - result["lower"]) / result["median"] if "upper" in result else None


def pytorch_apart(settings: dict) -> bool:
    """Has PyTorch a column of its own? Where others are rivals too, the best one need not be it."""
    return "torch" in settings["peers"] and bool({"onnxruntime", "jax"} & set(settings["peers"]))


def pytorch_ratio(results: Results, backend: str) -> float | None:
    """The ratio to the better of PyTorch's forms, whoever else takes part."""
    return ratio({name: result for name, result in results.items() if name == backend or name.startswith("torch ")}, backend)


def rival_columns(settings: dict) -> list[str]:
    name = yardstick(settings)
    return [*RIVAL_COLUMNS, *(["x PyTorch"] if pytorch_apart(settings) else []), *([f"{name} ms", f"x {name}"] if name else [])]


def rival_cells(results: Results, settings: dict, unit: Callable[[float | None], str]) -> list[str]:
    """The cells under rival_columns()."""
    backend = settings["backend"]
    name, other = best(results, backend), yardstick(settings)
    theirs = results.get(name or "", {})
    cells = [name or report.MISSING, unit(theirs.get("minimum")), unit(theirs.get("median")), report.ratio(ratio(results, backend))]
    if pytorch_apart(settings):
        cells.append(report.ratio(pytorch_ratio(results, backend)))
    if other:
        cells += [unit(results.get(other, {}).get("minimum")), report.ratio(ratio(results, backend, other))]
    return cells


def others(rows: Sequence[dict], settings: dict, label: Callable[[dict], list[str]], columns: list[str], unit: Callable[[float | None], str]) -> list[str]:
    """A table of all libraries side by side, if there are more than the two formats of PyTorch and the yardstick; else nothing."""
    names = list(dict.fromkeys(name for row in rows for name in row["results"]))
    if set(names) <= {settings["backend"], "torch nchw", "torch channels_last", yardstick(settings)}:
        return []
    cells = [[*label(row), *(unit(row["results"].get(name, {}).get("minimum")) for name in names)] for row in rows]
    return ["\nEveryone's minimum:\n", report.table([*columns, *names], cells)]


def summary(ratios: Sequence[float | None]) -> str:
    """How many rows, how many lost, and the middle and ends of the ratios."""
    known = [value for value in ratios if value is not None]
    if not known:
        return f"{len(ratios)} rows, none with a peer."
    mean = math.exp(sum(map(math.log, known)) / len(known))
    worst, middle, best_ = (report.ratio(value) for value in (min(known), mean, max(known)))
    return f"{len(ratios)} rows: {sum(value < 1 for value in known)} lost, geometric mean {middle}, worst {worst}, best {best_}."


def refusals(label: str, results: Results) -> list[str]:
    """One line per wrong result of a row."""
    return [f"{label}: {name}: {result['refused']}" for name, result in results.items() if "refused" in result]


def page(title: str, document: dict, unit: str, tables: Sequence[str]) -> str:
    """A whole comparison as text: title, header, how to read it, tables, and what was refused."""
    settings = document["settings"]
    fewer = f" ({YARDSTICK_REPEATS} at most for NumPy codes)" if yardstick(settings) else ""
    parts = [
        f"### {title}",
        report.header(document["header"]),
        f"- times: {unit}, minimum and median of {settings['repeats']} turns{fewer}, interleaved",
        f"- spread: distance between the quartiles over the median; ratio: best peer / {settings['backend']}, minimum over minimum, worst first",
        *tables,
    ]
    if document["refused"]:
        parts += ["\nWrong results, not timed:\n", *(f"- {line}" for line in document["refused"])]
    return "\n".join(parts)
