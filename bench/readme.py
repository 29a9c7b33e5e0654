"""`python -m bench readme`: bench/README.md, and in short README.md, show what bench/results/*.json say; nobody types a number."""

import json
from pathlib import Path

from bench import below, bridge, changes, convs, coursework, cuda_times, data, growth, memory, ops, overhead, roofline, runs, steps
from fastcnn.files import write_atomically

README = Path(__file__).with_name("README.md")
FRONT = Path(__file__).parents[1] / "README.md"
FRONT_KINDS = (steps.KIND, roofline.KIND)  # what a first reader wants: a training step, and how near to the machine's limit
RESULTS = Path(__file__).with_name("results")
RECIPES = "recipes"  # the place of the front page where runs of the recipes stand; that of all other tables is TABLE
BELOW = "below"  # where bench/README.md names the rows below what is wanted
TABLE = "table"

RENDERERS = {
    module.KIND: module.render
    for module in (runs, steps, bridge, memory, roofline, convs, ops, growth, overhead, data, coursework, changes, cuda_times)
}
"""How each kind of result is printed on the terminal; the order is the README's."""

KINDS = tuple(kind for kind in RENDERERS if kind != runs.KIND)
"""What bench/README.md shows."""

BRIEF = {convs.KIND: convs.brief, growth.KIND: growth.brief}
"""Kinds that are printed shorter in the README."""


COURSE_PAGES = Path(__file__).parents[1] / "fastcnn" / "compat" / "docs"
_FOLDERS = {"lenet_scratch": "lenet"}  # pages whose folder in bench/courses has another name


def render(document: dict) -> str:
    return RENDERERS[document["kind"]](document)


def save(document: dict, path: Path) -> None:
    """As JSON with one row to a line."""
    lines = []
    for key, value in document.items():
        if isinstance(value, list) and value and isinstance(value[0], dict):
            value = "[\n  " + ",\n  ".join(map(json.dumps, value)) + "\n ]"
        else:
            value = json.dumps(value)
        lines.append(f" {json.dumps(key)}: {value}")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, ("{\n" + ",\n".join(lines) + "\n}\n").encode())


def fill(readme: Path, results: Path, kinds: tuple[str, ...] = KINDS, place: str = TABLE) -> int:
    """Replace what stands between the two marks of a place by the tables of all results of these kinds; returns their number."""
    documents = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(results.glob("*.json"))]
    documents = [document for document in documents if document["kind"] in kinds]
    order = list(RENDERERS)
    documents.sort(key=lambda document: order.index(document["kind"]))
    replace(readme, [BRIEF.get(document["kind"], render)(document) for document in documents], place)
    return len(documents)


def fill_courses(pages: Path, results: Path) -> int:
    """The same for the page of every course, with its rows of the coursework result; returns how many pages have some."""
    documents = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(results.glob("*.json"))]
    documents = [document for document in documents if document["kind"] == coursework.KIND]
    filled = 0
    for page in sorted(pages.glob("*.md")):
        course = _FOLDERS.get(page.stem, page.stem)
        tables = [coursework.render(document, course) for document in documents if any(row["course"] == course for row in document["rows"])]
        replace(page, tables)
        filled += bool(tables)
    return filled


def fill_below(readme: Path, results: Path) -> None:
    """The rows of single convolutions below what is wanted of them."""
    documents = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(results.glob("conv-*.json"))]
    replace(readme, [below.render(documents)], BELOW)


def replace(readme: Path, tables: list[str], place: str = TABLE) -> None:
    """Put the tables between the two marks of a place."""
    start, end = f"<!-- {place}:start -->", f"<!-- {place}:end -->"
    text = readme.read_text(encoding="utf-8")
    if text.count(start) != 1 or text.count(end) != 1 or text.index(start) > text.index(end):
        raise ValueError(f"{readme.name} must hold {start} and {end} once each, in this order")
    before, after = text.partition(start)[0], text.partition(end)[2]
    write_atomically(readme, (before + "\n\n".join([start, *tables, end]) + after).encode())
