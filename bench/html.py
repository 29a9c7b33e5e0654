"""`python -m bench report`: results as one HTML page that needs nothing beside it, and the same pictures as PNG files.

The page draws its pictures itself (bench/page.js) from the results written into it; the PNG files are drawn by matplotlib, an extra.
"""

import json
from collections.abc import Sequence
from pathlib import Path

from bench import compare, convs, growth, ops, overhead, roofline, steps
from bench.contest import Results
from bench.peers import Unusable
from fastcnn.files import write_atomically

RESULTS = Path(__file__).with_name("results")
TEMPLATE = Path(__file__).with_name("page.html")
SCRIPT = Path(__file__).with_name("page.js")


def write(paths: Sequence[Path], folder: Path, pictures: bool = True) -> list[Path]:
    """Write report.html, and with `pictures` roofline.png, peers.png and growth.png, as far as there are results for them.

    Returns what was written."""
    documents = []
    for path in paths:
        try:
            documents.append({"file": Path(path).name} | json.loads(Path(path).read_text(encoding="utf-8")))
        except (OSError, ValueError) as error:
            raise Unusable(f"{path} cannot be read as a result: {error}") from None
    if not documents:
        raise Unusable("no results: run `python -m bench full`, or name result files")
    data = collect(documents)
    folder.mkdir(parents=True, exist_ok=True)
    page = folder / "report.html"
    write_atomically(page, html(data).encode())
    written = [page]
    if pictures:
        from bench import pictures as drawn

        written += drawn.write(data, folder)
    return written


def html(data: dict) -> str:
    """The page; the data stand in it as JSON, in which `<` cannot end the script."""
    text = json.dumps(data).replace("<", "\\u003c")
    return TEMPLATE.read_text(encoding="utf-8").replace("/*DATA*/null", text).replace("/*SCRIPT*/", SCRIPT.read_text(encoding="utf-8"))


def collect(documents: Sequence[dict]) -> dict:
    """What page and pictures show, in plain lists: rows of all comparisons, machine limits, growth series, cliffs, headers."""
    return {
        "headers": [{"file": d["file"], "kind": d["kind"], "header": d.get("header", {})} for d in documents],
        "rows": [row for d in documents for row in _rows(d)],
        "machines": [m | {"file": d["file"], "dtype": d["settings"]["dtype"]} for d in documents if d["kind"] == convs.KIND and (m := convs.machine(d))],
        "series": [
            {"file": d["file"], "base": base, "axis": axis, "op": op, "points": [[p["size"], p["flops"] / p["minimum"] / 1e9] for p in points]}
            for d in documents
            if d["kind"] == growth.KIND
            for (base, axis, op), points in growth.series(d).items()
        ],
        "cliffs": [
            {key: cliff[key] for key in ("base", "axis", "op", "factor")} | {"size": cliff["point"]["size"], "by": cliff["point"]["implementation"]}
            for d in documents
            if d["kind"] == growth.KIND
            for cliff in growth.cliffs(d)
        ],
        "refused": [line for d in documents for line in d.get("refused", [])],
    }


def _rows(document: dict) -> list[dict]:
    """The comparisons of a document, one dict of plain values per row."""
    settings = document.get("settings", {})  # runs of the recipes and coursework have no rows for the page
    if document["kind"] == convs.KIND:
        return [
            _row(document, row["results"], f"conv {row['op']}", row["list"], row["problem"], row["shape"])
            | {
                "flops": row["flops"],
                "intensity": row["flops"] / row["bytes"],
                "gflops": _billions(convs.speed(row, settings["backend"])),
                "share": convs.share(row, document),
                "bound": _billions(roofline.bound(row["flops"], row["bytes"], convs.machine(document))),
            }
            for row in document["rows"]
        ]
    if document["kind"] == steps.KIND:
        return [_row(document, row["results"], document["command"], row["recipe"], row["what"], "") for row in document["rows"]]
    if document["kind"] == overhead.KIND:
        return [_row(document, row["results"], "overhead", "", row["call"], "") for row in document["rows"]]
    if document["kind"] == ops.KIND:
        return [_row(document, row["results"], f"op {row['pass']}", "", row["op"], "") for row in document["rows"]]
    return []


def _row(document: dict, results: Results, kind: str, group: str, name: str, shape: str) -> dict:
    settings = document["settings"]
    backend = settings["backend"]
    ours = results[backend]
    best = compare.best(results, backend)
    return {
        "file": document["file"],
        "kind": kind,
        "group": group,
        "name": name,
        "shape": shape,
        "dtype": settings.get("dtype", "float32"),
        "implementation": ours.get("implementation", ""),
        "ms": _milli(ours.get("minimum")),
        "median": _milli(ours.get("median")),
        "spread": compare.spread(ours),
        "error": ours.get("error"),
        "refused": ours.get("refused"),
        "peer": best,
        "peer ms": _milli(results[best]["minimum"]) if best else None,
        "ratio": compare.ratio(results, backend),
        "all": {name: _milli(result.get("minimum")) for name, result in results.items() if name != backend},
        "peak MB": ours["peak"] / 1e6 if ours.get("peak") else None,
    }


def _milli(seconds: float | None) -> float | None:
    return None if seconds is None else seconds * 1e3


def _billions(value: float | None) -> float | None:
    return None if value is None else value / 1e9

