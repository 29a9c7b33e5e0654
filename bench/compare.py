"""What all comparisons share: results by library, the ratio, the order of the rows, the cells about the rivals.

results   of one row, see bench.contest; libraries are the backend that is measured, "reference", "torch nchw", "torch channels_last"
settings  the settings of a document: "backend" and "peers" are read here
"""

from collections.abc import Callable, Sequence

from bench import report
from bench.contest import YARDSTICK_REPEATS, Results

RIVAL_COLUMNS = ["PyTorch", "median", "layout", "ratio", "reference", "x reference"]


def best(results: Results, library: str) -> str | None:
    """The faster layout of "torch", or "reference"; None if it was not timed."""
    times = {name: result["minimum"] for name, result in results.items() if name.startswith(library) and "minimum" in result}
    return min(times, key=times.__getitem__) if times else None


def ratio(results: Results, backend: str, library: str) -> float | None:
    """How many times faster than a library the backend is, minimum over minimum; below 1 the row is lost. None if either was not timed."""
    name, ours = best(results, library), results[backend].get("minimum")
    return results[name]["minimum"] / ours if name and name != backend and ours else None


def rival(settings: dict) -> str:
    """Whom the rows are sorted by: PyTorch where it was measured."""
    return "torch" if "torch" in settings["peers"] else "reference"


def worst_first(settings: dict) -> Callable[[dict], tuple[bool, float]]:
    """Sort key for rows: refused ones, lost ones, won ones, and last those without a rival."""

    def key(row: dict) -> tuple[bool, float]:
        if "refused" in row["results"][settings["backend"]]:
            return False, 0.0
        value = ratio(row["results"], settings["backend"], rival(settings))
        return value is None, value or 0.0

    return key


def our_cells(results: Results, backend: str, unit: Callable[[float | None], str]) -> list[str]:
    """Minimum and median of the measured backend."""
    ours = results[backend]
    return ["WRONG" if "refused" in ours else unit(ours["minimum"]), unit(ours.get("median"))]


def rival_cells(results: Results, backend: str, unit: Callable[[float | None], str]) -> list[str]:
    """The cells under RIVAL_COLUMNS."""
    torch, reference = best(results, "torch"), best(results, "reference") if backend != "reference" else None
    theirs, yardstick = results.get(torch, {}), results.get(reference, {})
    return [
        unit(theirs.get("minimum")),
        unit(theirs.get("median")),
        torch.removeprefix("torch ") if torch else report.MISSING,
        report.ratio(ratio(results, backend, "torch")),
        unit(yardstick.get("minimum")),
        report.ratio(ratio(results, backend, "reference")),
    ]


def refusals(label: str, results: Results) -> list[str]:
    """One line per wrong result of a row."""
    return [f"{label}: {name}: {result['refused']}" for name, result in results.items() if "refused" in result]


def page(title: str, document: dict, unit: str, tables: Sequence[str]) -> str:
    """A whole comparison as text: title, header, how to read it, tables, and what was refused."""
    settings = document["settings"]
    parts = [
        f"### {title}",
        report.header(document["header"]),
        f"- times: {unit}, minimum and median of {settings['repeats']} turns ({YARDSTICK_REPEATS} at most for the reference), libraries interleaved",
        f"- ratio: PyTorch's better layout / {settings['backend']}, minimum over minimum, worst first",
        *tables,
    ]
    if document["refused"]:
        parts += ["\nWrong results, not timed:\n", *(f"- {line}" for line in document["refused"])]
    return "\n".join(parts)
