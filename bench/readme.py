"""`python -m bench readme`: bench/README.md, and in short README.md, show what bench/results/*.json say; nobody types a number."""

import json
from pathlib import Path

from bench import bridge, convs, data, memory, overhead, roofline, steps

README = Path(__file__).with_name("README.md")
FRONT = Path(__file__).parents[1] / "README.md"
FRONT_KINDS = (steps.KIND, roofline.KIND)  # what a first reader wants: a training step, and how near to the machine's limit
RESULTS = Path(__file__).with_name("results")
START, END = "<!-- table:start -->", "<!-- table:end -->"

RENDERERS = {module.KIND: module.render for module in (steps, bridge, memory, convs, roofline, overhead, data)}
"""How each kind of result is printed, on the terminal and in the README; the order is the README's."""


def render(document: dict) -> str:
    return RENDERERS[document["kind"]](document)


def fill(readme: Path, results: Path, kinds: tuple[str, ...] = tuple(RENDERERS)) -> int:
    """Replace what stands between the two marks by the tables of all results of these kinds; returns their number."""
    documents = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(results.glob("*.json"))]
    documents = [document for document in documents if document["kind"] in kinds]
    order = list(RENDERERS)
    documents.sort(key=lambda document: order.index(document["kind"]))
    text = readme.read_text(encoding="utf-8")
    if text.count(START) != 1 or text.count(END) != 1 or text.index(START) > text.index(END):
        raise ValueError(f"{readme.name} must hold {START} and {END} once each, in this order")
    before, after = text.partition(START)[0], text.partition(END)[2]
    readme.write_text(before + "\n\n".join([START, *map(render, documents), END]) + after, encoding="utf-8")
    return len(documents)
