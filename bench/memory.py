"""`python -m bench memory`: the memory that a training step of each recipe needs, ours and PyTorch's, each in a process of its own.

What is counted is the process's high-water mark of resident memory after four steps less what was resident before the first: activations, gradients, optimizer
moments, scratch; not the libraries, the weights and the batch, which are there already.
"""

import sys

from bench import environment, report, rss
from bench.networks import StepJob
from bench.peers import Library, Unusable, libraries
from bench.steps import chosen
from bench.worker import Failed, Worker
from fastcnn import recipes

KIND = "memory"
STEPS = 4


def run(backend: str, peers: list[str], names: list[str], threads: int) -> dict:
    contestants = [library for library in libraries(backend, peers) if library.name == backend or library.name.startswith("torch ")]
    rows, about = [], {}
    for recipe in chosen(names):
        print(recipe.name, file=sys.stderr)
        row = {"recipe": recipe.name, "batch": recipe.bench_batch, "bytes": {}}
        for library in contestants:
            worker = Worker(library, threads)
            try:
                about |= worker.about
                row["bytes"][library.name] = worker.call(measure, library, recipe.name)
            except Failed as error:
                raise Unusable(f"{library.name} {recipe.name}: {error}") from None
            finally:
                worker.close()
        rows.append(row)
    settings = {"backend": backend, "threads": threads, "steps": STEPS}
    return {"kind": KIND, "header": environment.describe(threads, about), "settings": settings, "refused": [], "rows": rows}


def measure(library: Library, recipe: str) -> int:
    """Bytes that the steps add; runs in a process of its own."""
    contender, _ = StepJob(recipe, recipes.get(recipe).bench_batch).contender(library)
    before = rss.resident()
    if before is None:
        raise Unusable("this system does not tell how much memory is resident")
    rss.reset_peak()
    with contender.scope():
        for _ in range(STEPS):
            contender.call()
    return max(0, rss.peak() - before)


def render(document: dict) -> str:
    ours = document["settings"]["backend"]
    rows = []
    for row in document["rows"]:
        theirs = {name: value for name, value in row["bytes"].items() if name != ours}
        name, least = min(theirs.items(), key=lambda item: item[1]) if theirs else (report.MISSING, None)
        mine = row["bytes"][ours]
        rows.append((mine / least if least else 0, [row["recipe"], str(row["batch"]), _megabytes(mine), _megabytes(least), name.removeprefix("torch "),
                                                  report.three_digits(mine / least) if least else report.MISSING]))
    rows.sort(key=lambda item: -item[0])
    columns = ["recipe", "batch", f"{ours} MB", "PyTorch MB", "layout", "ours / PyTorch's"]
    title = f"### Memory of a training step: {ours}, float32"
    steps = document["settings"]["steps"]
    counted = f"- what {steps} steps add to the resident memory at its highest, each library in its own process; PyTorch's smaller layout"
    return "\n".join([title, report.header(document["header"]), counted, "", report.table(columns, [cells for _, cells in rows])])


def _megabytes(nbytes: int | None) -> str:
    return report.MISSING if nbytes is None else report.three_digits(nbytes / 1e6)
