"""`python -m bench readme`: bench/README.md, and in short README.md, show what bench/results/*.json say; nobody types a number."""

import json
from pathlib import Path

from bench import changes, convs, data, growth, memory, ops, overhead, roofline, steps

README = Path(__file__).with_name("README.md")
FRONT = Path(__file__).parents[1] / "README.md"
FRONT_KINDS = (steps.KIND, roofline.KIND)  # what a first reader wants: a training step, and how near to the machine's limit
RESULTS = Path(__file__).with_name("results")
START, END = "<!-- table:start -->", "<!-- table:end -->"

RENDERERS = {module.KIND: module.render for module in (steps, memory, roofline, convs, ops, growth, overhead, data, changes)}
"""How each kind of result is printed on the terminal; the order is the README's."""

BRIEF = {convs.KIND: convs.brief, growth.KIND: growth.brief}
"""Kinds that are printed shorter in the README."""


def render(document: dict) -> str:
    return RENDERERS[document["kind"]](document)


def save(document: dict, path: Path) -> None:
    """As JSON with one row to a line; written beside and renamed."""
    lines = []
    for key, value in document.items():
        if isinstance(value, list) and value and isinstance(value[0], dict):
            value = "[\n  " + ",\n  ".join(map(json.dumps, value)) + "\n ]"
        else:
            value = json.dumps(value)
        lines.append(f" {json.dumps(key)}: {value}")
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(path.name + ".part")
    beside.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
    beside.replace(path)


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
    readme.write_text(before + "\n\n".join([START, *(BRIEF.get(document["kind"], render)(document) for document in documents), END]) + after, encoding="utf-8")
    return len(documents)
