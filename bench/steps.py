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
    batch: int | None  # None: each recipe's own
    backend: str
    peers: list[str]
    threads: int
    repeats: int


def run(command: str, settings: Settings) -> dict:
    """Measure whole steps (command "step"), single layers ("layers") or "inference" of the named recipes, by default all of them."""
    rows, refused, about = [], [], {}
    for recipe in chosen(settings.recipes):
        print(recipe.name, file=sys.stderr)
        batch = recipe.bench_batch if settings.batch is None else settings.batch
        with Contest(libraries(settings.backend, settings.peers), settings.threads) as contest:
            about |= contest.about
            for what, job in COMMANDS[command][0](recipe.name, batch, contest, settings):
                results = contest.measure(job, contest.truth(job), _verdict, settings.repeats)
                rows.append({"recipe": recipe.name, "what": what, "results": results})
                refused += compare.refusals(f"{recipe.name} {what}", results)
    header = environment.describe(settings.threads, about)
    return {"kind": KIND, "command": command, "header": header, "settings": asdict(settings), "refused": refused, "rows": rows}


def chosen(names: list[str]) -> list[recipes.Recipe]:
    """The recipes of these names, or all."""
    try:
        return [recipes.get(name) for name in names or recipes.names()]
    except ValueError as error:
        raise Unusable(str(error)) from None


def _verdict(results: Arrays, truth: Arrays) -> float:
    """max over the arrays of max |result - truth| / max |truth|."""
    worst = float(np.max([checks.error(result, right) for result, right in zip(results, truth, strict=True)]))
    if not worst <= TOLERANCE:
        raise checks.WrongResult(f"{worst:.1e} off the reference")
    return worst


Rows = Iterator[tuple[str, Job]]


def _step(recipe: str, batch: int, contest: Contest, settings: Settings) -> Rows:
    yield f"step, batch {batch}", StepJob(recipe, batch)


def _inference(recipe: str, batch: int, contest: Contest, settings: Settings) -> Rows:
    """A batch, and one image."""
    state = contest.ours.call(statistics, recipe, batch, settings.backend)
    for images in sorted({batch, 1}, reverse=True):
        yield f"inference, batch {images}", InferenceJob(recipe, batch, images, state)


def _layers(recipe: str, batch: int, contest: Contest, settings: Settings) -> Rows:
    """Each top-level layer alone, on the activations that reach it: forward as in training, then backward, where it has one."""
    for at in activations(recipe, batch):
        yield f"{at.name} {at.layer} forward", LayerJob(at, "forward")
        if not at.fixed:
            yield f"{at.name} {at.layer} backward", LayerJob(at, "backward")


COMMANDS: dict[str, tuple[Callable[[str, int, Contest, Settings], Rows], str]] = {
    "step": (_step, "Training steps"),
    "layers": (_layers, "Layers in training"),
    "inference": (_inference, "Inference"),
}
"""What measures, and the title of its table."""


def render(document: dict) -> str:
    """One table, worst ratio first."""
    settings = document["settings"]
    backend = settings["backend"]
    title = COMMANDS[document["command"]][1]
    batch = "" if settings["batch"] is None else f", batch {settings['batch']}"
    cells = [
        [
            row["recipe"],
            row["what"],
            *compare.our_cells(row["results"], backend, report.milliseconds),
            *compare.rival_cells(row["results"], backend, report.milliseconds),
        ]
        for row in sorted(document["rows"], key=compare.worst_first(settings))
    ]
    table = report.table(["recipe", "what", backend, "median", *compare.RIVAL_COLUMNS], cells)
    return compare.page(f"{title}: {backend}, float32{batch}, {settings['threads']} threads", document, "ms", ["", table])
