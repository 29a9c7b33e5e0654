"""Tables that read well on a terminal and are Markdown at the same time, and the header above them."""

import math
import re
from collections.abc import Sequence

MISSING = "-"


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table with padded cells; a column is aligned right if everything in it looks like a number."""
    if any(len(row) != len(columns) for row in rows):
        raise ValueError(f"every row needs {len(columns)} cells: {', '.join(columns)}")
    cells = [list(columns), *([cell.replace("|", "/") for cell in row] for row in rows)]
    widths = [max(3, *(len(row[i]) for row in cells)) for i in range(len(columns))]
    numeric = [bool(rows) and all(_looks_numeric(row[i]) for row in rows) for i in range(len(columns))]
    rule = [("-" * (width - 1) + ":") if right else "-" * width for width, right in zip(widths, numeric, strict=True)]

    def line(row: Sequence[str]) -> str:
        return "| " + " | ".join(_pad(*cell) for cell in zip(row, widths, numeric, strict=True)) + " |"

    return "\n".join([line(cells[0]), line(rule), *(line(row) for row in cells[1:])])


def header(environment: dict[str, str]) -> str:
    """The circumstances of a measurement as a list."""
    return "\n".join(f"- {name}: {value}" for name, value in environment.items())


def milliseconds(seconds: float | None) -> str:
    return MISSING if seconds is None else three_digits(seconds * 1e3)


def microseconds(seconds: float | None) -> str:
    return MISSING if seconds is None else three_digits(seconds * 1e6)


def percent(fraction: float | None) -> str:
    return MISSING if fraction is None else f"{fraction * 100:.0f} %"


def ratio(value: float | None) -> str:
    return MISSING if value is None else f"{three_digits(value)}x"


def scientific(value: float | None) -> str:
    return MISSING if value is None else f"{value:.1e}"


def three_digits(value: float | None) -> str:
    """Three significant digits without an exponent: 0.0123, 1.23, 12.3, 1234."""
    if value is None:
        return MISSING
    if value == 0:
        return "0"
    decimals = min(6, max(0, 2 - math.floor(math.log10(abs(value)))))
    return f"{value:.{decimals}f}"


def _looks_numeric(cell: str) -> bool:
    return cell == MISSING or re.fullmatch(r"[0-9.]+(e[+-][0-9]+)?(x| %)?", cell) is not None


def _pad(cell: str, width: int, right: bool) -> str:
    return cell.rjust(width) if right else cell.ljust(width)
