"""`python -m bench readme`: bench/README.md shows what bench/results/*.json say; nobody types a number."""

import json
from pathlib import Path

from bench import convs, overhead, roofline, steps

README = Path(__file__).with_name("README.md")
RESULTS = Path(__file__).with_name("results")
START, END = "<!-- table:start -->", "<!-- table:end -->"

RENDERERS = {module.KIND: module.render for module in (steps, convs, roofline, overhead)}
"""How each kind of result is printed, on the terminal and in the README; the order is the README's."""


def render(document: dict) -> str:
    return RENDERERS[document["kind"]](document)


def fill(readme: Path, results: Path) -> int:
    """Replace what stands between the two marks by the tables of all results; returns their number."""
    documents = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(results.glob("*.json"))]
    order = list(RENDERERS)
    documents.sort(key=lambda document: order.index(document["kind"]))
    text = readme.read_text(encoding="utf-8")
    if text.count(START) != 1 or text.count(END) != 1 or text.index(START) > text.index(END):
        raise ValueError(f"{readme.name} must hold {START} and {END} once each, in this order")
    before, after = text.partition(START)[0], text.partition(END)[2]
    readme.write_text(before + "\n\n".join([START, *map(render, documents), END]) + after, encoding="utf-8")
    return len(documents)
