"""`python -m bench step`, `layers` and `inference`: the recipes against PyTorch twins of the same networks, each recipe in fresh processes."""

import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass

import numpy as np

from bench import checks, compare, environment, report
from bench.contest import Contest
from bench.networks import InferenceJob, LayerJob, StepJob, activations, statistics
from bench.peers import Unusable, libraries
from bench.worker import Arrays, Job
from fastcnn import recipes

KIND = "steps"

TOLERANCE = 1e-3
"""Largest relative difference from the reference. Rounding gives 1e-6 to 2e-4, a forgotten bias or momentum 1e-2 and more."""


@dataclass(frozen=True)
class Settings:
    recipes: list[str]
    batch: list[int] | None  # None: each recipe's own, and in inference 1
    backend: str
    peers: list[str]
    threads: int
    repeats: int


def run(command: str, settings: Settings) -> dict:
    """Measure whole steps (command "step"), single layers ("layers") or "inference" of the named recipes, by default all of them."""
    rows, refused, about = [], [], {}
    for recipe in chosen(settings.recipes):
        print(recipe.name, file=sys.stderr)
        with Contest(libraries(settings.backend, settings.peers), settings.threads) as contest:
            about |= contest.about
            for what, job in COMMANDS[command][0](recipe.name, _batches(command, recipe, settings), contest, settings):
                results = contest.measure(job, contest.truth(job), verdict, settings.repeats)
                rows.append({"recipe": recipe.name, "what": what, "results": results})
                refused += compare.refusals(f"{recipe.name} {what}", results)
    header = environment.describe(settings.threads, about)
    return {"kind": KIND, "command": command, "header": header, "settings": asdict(settings), "refused": refused, "rows": rows}


def _batches(command: str, recipe: recipes.Recipe, settings: Settings) -> list[int]:
    """Largest first. A network whose own batch is below 64 has images too large for more than that."""
    asked = settings.batch or ([recipe.bench_batch, 1] if command == "inference" else [recipe.bench_batch])
    most = recipe.bench_batch if recipe.bench_batch < 64 and len(asked) > 1 else max(asked)
    return sorted({min(batch, most) for batch in asked}, reverse=True)


def chosen(names: list[str]) -> list[recipes.Recipe]:
    """The recipes of these names, or all."""
    try:
        return [recipes.get(name) for name in names or recipes.names()]
    except ValueError as error:
        raise Unusable(str(error)) from None


def verdict(results: Arrays, truth: Arrays) -> float:
    """max over the arrays of max |result - truth| / max |truth|."""
    worst = float(np.max([checks.error(result, right) for result, right in zip(results, truth, strict=True)]))
    if not worst <= TOLERANCE:
        raise checks.WrongResult(f"{worst:.1e} off the reference")
    return worst


Rows = Iterator[tuple[str, Job]]


def _step(recipe: str, batches: list[int], contest: Contest, settings: Settings) -> Rows:
    for batch in batches:
        yield f"step, batch {batch}", StepJob(recipe, batch)


def _inference(recipe: str, batches: list[int], contest: Contest, settings: Settings) -> Rows:
    state = contest.ours.call(statistics, recipe, batches[0], settings.backend)
    for batch in batches:
        yield f"inference, batch {batch}", InferenceJob(recipe, batches[0], batch, state)


def _layers(recipe: str, batches: list[int], contest: Contest, settings: Settings) -> Rows:
    """Each top-level layer alone, on the activations that reach it: forward as in training, then backward, where it has one."""
    for batch in batches:
        for at in activations(recipe, batch):
            yield f"{at.name} {at.layer} forward, batch {batch}", LayerJob(at, "forward")
            if not at.fixed:
                yield f"{at.name} {at.layer} backward, batch {batch}", LayerJob(at, "backward")


COMMANDS: dict[str, tuple[Callable[[str, list[int], Contest, Settings], Rows], str]] = {
    "step": (_step, "Training steps"),
    "layers": (_layers, "Layers in training"),
    "inference": (_inference, "Inference"),
}
"""What measures, and the title of its table."""


RATE_COLUMNS = ["images/s", "best peer's"]


def _rates(row: dict, backend: str) -> list[str]:
    """The cells under RATE_COLUMNS: images, or frames, per second by the minimum."""
    batch = int(row["what"].rpartition(" ")[2])
    minima = (row["results"].get(name or "", {}).get("minimum") for name in (backend, compare.best(row["results"], backend)))
    return [report.MISSING if seconds is None else report.three_digits(batch / seconds) for seconds in minima]


def render(document: dict) -> str:
    """One table, worst ratio first."""
    settings = document["settings"]
    backend = settings["backend"]
    title = COMMANDS[document["command"]][1]
    rows = sorted(document["rows"], key=compare.worst_first(settings))
    cells = [
        [
            row["recipe"],
            row["what"],
            *compare.our_cells(row["results"], backend, report.milliseconds),
            *compare.rival_cells(row["results"], settings, report.milliseconds),
            *(_rates(row, backend) if document["command"] == "inference" else ()),
            *(_megabytes(row["results"].get(name or "", {})) for name in (backend, compare.best(row["results"], backend))),
        ]
        for row in rows
    ]
    more = [*(RATE_COLUMNS if document["command"] == "inference" else []), "peak MB", "its peak MB"]
    table = report.table(["recipe", "what", *compare.our_columns(backend), *compare.rival_columns(settings), *more], cells)
    tables = ["", table, *compare.others(rows, settings, lambda row: [row["recipe"], row["what"]], ["recipe", "what"], report.milliseconds)]
    tables += ["\n" + compare.summary([compare.decisive(row["results"], settings) for row in rows])]
    return compare.page(f"{title}: {backend}, float32, {settings['threads']} threads", document, "ms", tables)


def _megabytes(result: dict) -> str:
    return f"{result['peak'] / 1e6:.0f}" if result.get("peak") else report.MISSING
