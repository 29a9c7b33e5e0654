"""`python -m bench readme`: bench/README.md, and in short README.md, show what bench/results/*.json say; nobody types a number."""

import json
from pathlib import Path
from typing import NamedTuple

from bench import convs, data, memory, overhead, roofline, runs, steps

RESULTS = Path(__file__).with_name("results")

RENDERERS = {module.KIND: module.render for module in (runs, steps, memory, convs, roofline, overhead, data)}
"""How each kind of result is printed, on the terminal and in the READMEs; the order is theirs."""


class Place(NamedTuple):
    """Where results of some kinds stand: between the marks <!-- name:start --> and <!-- name:end --> of a file."""

    file: Path
    name: str
    kinds: tuple[str, ...]

    @property
    def marks(self) -> tuple[str, str]:
        return f"<!-- {self.name}:start -->", f"<!-- {self.name}:end -->"


README = Path(__file__).with_name("README.md")
FRONT = Path(__file__).parents[1] / "README.md"
PLACES = (
    Place(README, "table", tuple(kind for kind in RENDERERS if kind != runs.KIND)),
    Place(FRONT, "recipes", (runs.KIND,)),
    Place(FRONT, "table", (steps.KIND, roofline.KIND)),  # what a first reader wants: a training step, and how near to the machine's limit
)


def render(document: dict) -> str:
    return RENDERERS[document["kind"]](document)


def fill(place: Place, results: Path) -> int:
    """Replace what stands between the place's marks by the tables of all results of its kinds; returns their number."""
    documents = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(results.glob("*.json"))]
    documents = [document for document in documents if document["kind"] in place.kinds]
    order = list(RENDERERS)
    documents.sort(key=lambda document: order.index(document["kind"]))
    text = place.file.read_text(encoding="utf-8")
    start, end = place.marks
    if text.count(start) != 1 or text.count(end) != 1 or text.index(start) > text.index(end):
        raise ValueError(f"{place.file.name} must hold {start} and {end} once each, in this order")
    before, after = text.partition(start)[0], text.partition(end)[2]
    place.file.write_text(before + "\n\n".join([start, *map(render, documents), end]) + after, encoding="utf-8")
    return len(documents)
