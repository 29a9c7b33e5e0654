"""What the commands share: printing tables and JSON, numbers among the arguments, the choice of a backend."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from typing import Any

from fastcnn import backend


class UsageError(ValueError):
    """A combination of arguments that argparse cannot check."""


def use_backend(arguments: argparse.Namespace) -> None:
    if arguments.backend is not None:
        backend.set_backend(arguments.backend)
    name = backend.current().name
    if arguments.threads is not None:
        if name != "cpu":
            raise UsageError(f"--threads is for the cpu backend; the {name} backend has none to set")
        backend.set_num_threads(arguments.threads)


def print_json(content: Any) -> None:
    print(json.dumps(content, indent=2))


def table(rows: list[list[str]], right: bool = True) -> str:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [[row[0].ljust(widths[0]), *(cell.rjust(w) if right else cell for cell, w in zip(row[1:], widths[1:], strict=True))] for row in rows]
    return "\n".join("  ".join(line).rstrip() for line in lines)


def number(convert: Callable[[str], Any], minimum: float, inclusive: bool = True) -> Callable[[str], Any]:
    """An argparse type: a finite number of at least (or above) minimum."""

    def parse(text: str) -> Any:
        try:
            value = convert(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is not {'a whole number' if convert is int else 'a number'}") from None
        if not (minimum <= value if inclusive else minimum < value) or value == float("inf"):
            raise argparse.ArgumentTypeError(f"must be {'at least' if inclusive else 'greater than'} {minimum}, got {text}")
        return value

    return parse


def backend_options(command: argparse.ArgumentParser) -> None:
    """--backend and --threads, for use_backend."""
    command.add_argument("--backend", choices=backend.NAMES, help="what computes (default: FASTCNN_BACKEND or cpu)")
    command.add_argument("--threads", type=number(int, 1), help="threads of the cpu backend (default: all CPUs this process may use)")
