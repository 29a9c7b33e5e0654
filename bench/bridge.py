"""`python -m bench bridge`: training steps of the recipes' networks as PyTorch modules: plain, swapped (`fastcnn.torch.swap_`), with the functions caught
(`fastcnn.torch.use`), and converted (`fastcnn.torch.from_torch`). All in one process, as their user has them."""

import copy
import importlib.util
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass

import numpy as np

from bench import compare, environment, report, steps
from bench.contest import Results
from bench.networks import CHECKED_STEPS, data_for, nothing_dropped, trainer_for
from bench.peers import Unusable
from bench.timing import Contender, interleaved
from fastcnn import backend, recipes

KIND = "bridge"
DEFAULT = ("simple-cifar10", "deep-cifar10")


@dataclass(frozen=True)
class Settings:
    recipes: list[str]
    batch: int | None  # None: each recipe's own
    threads: int
    repeats: int


def run(settings: Settings) -> dict:
    """Measure the steps of the named recipes (default: simple-cifar10 and deep-cifar10)."""
    if importlib.util.find_spec("torch") is None:
        raise Unusable("the bridge is to PyTorch, which is not installed")
    import torch

    backend.set_num_threads(settings.threads)
    torch.set_num_threads(settings.threads)
    rows, refused = [], []
    for recipe in steps.chosen(settings.recipes or list(DEFAULT)):
        print(recipe.name, file=sys.stderr)
        batch = recipe.bench_batch if settings.batch is None else settings.batch
        results = _compared(recipe, batch, settings)
        rows.append({"recipe": recipe.name, "what": f"step, batch {batch}", "results": results})
        refused += compare.refusals(recipe.name, results)
    about = {f"fastcnn {key}": str(value) for key, value in backend.config().items() if key in ("cpu isa", "cpu loops", "cpu compiler")}
    header = environment.describe(settings.threads, about | {"PyTorch": torch.__version__, "processes": "one for all"})
    return {"kind": KIND, "header": header, "settings": asdict(settings), "refused": refused, "rows": rows}


def _compared(recipe: recipes.Recipe, batch: int, settings: Settings) -> Results:
    import torch

    from bench import twin
    from fastcnn.torch import from_torch, swap_, use

    ours, x, y = data_for(recipe, batch)
    trainer = trainer_for(recipe, ours)
    labels = torch.from_numpy(y)
    formats = {"nchw": torch.contiguous_format, "channels_last": torch.channels_last}
    module = twin.module(ours)

    def of_torch(name: str, memory_format: str, prepare: Callable, scope: Callable[[], AbstractContextManager]) -> tuple[Contender, object]:
        layout = formats[memory_format]
        network = prepare(copy.deepcopy(module)).to(memory_format=layout)
        loss = twin.module(trainer.loss)
        optimizer = twin.optimizer(trainer.optimizer, [parameter for parameter in network.parameters() if parameter.requires_grad])
        images = torch.from_numpy(x).contiguous(memory_format=layout)

        def step() -> float:
            optimizer.zero_grad()
            with scope():
                value = loss(network(images), labels)
            value.backward()
            optimizer.step()
            return value.item()

        return Contender(f"{name} {memory_format}", step), network

    sides = [of_torch("torch", layout, lambda network: network, nullcontext) for layout in formats]
    truth = _losses(*sides[0])
    sides += [of_torch("use()", layout, lambda network: network, use) for layout in formats]
    sides += [of_torch("swap_", layout, swap_, nullcontext) for layout in formats]
    converted = trainer_for(recipe, from_torch(module))

    sides.append((Contender("converted", lambda: converted.step(x, y)), converted.model))
    results: Results = {}
    right = []
    for contender, network in sides:
        worst = 0.0 if contender is sides[0][0] else float(np.max(np.abs(_losses(contender, network) - truth) / np.abs(truth)))
        if worst <= steps.TOLERANCE:
            right.append(contender)
        else:
            results[contender.name] = {"refused": f"{worst:.1e} off plain PyTorch"}
    return results | {name: asdict(timing) for name, timing in interleaved(right, settings.repeats).items()}


def _losses(contender: Contender, network: object) -> np.ndarray:
    """Of the first steps, with nothing dropped: they must agree before anything is timed."""
    with nothing_dropped(network):
        return np.asarray([contender.result() for _ in range(CHECKED_STEPS)])


def render(document: dict) -> str:
    """A row per contender; the ratio is against the better memory format of plain PyTorch."""
    cells = []
    for row in document["rows"]:
        results = row["results"]
        plain = min(result["minimum"] for name, result in results.items() if name.startswith("torch"))
        for name, result in results.items():
            time = result.get("minimum")
            times = [report.milliseconds(result.get(key)) for key in ("minimum", "median")]
            cells.append([row["recipe"], row["what"], name, *times, report.ratio(plain / time if time else None)])
    table = report.table(["recipe", "what", "how", "ms", "median", "ratio"], cells)
    settings = document["settings"]
    lines = [
        f"### Under PyTorch: training steps, float32, {settings['threads']} threads",
        report.header(document["header"]),
        f"- times: ms, minimum and median of {settings['repeats']} turns, interleaved",
        "- ratio: plain PyTorch's better layout / this, minimum over minimum",
        "",
        table,
        *(f"- wrong, not timed: {line}" for line in document["refused"]),
    ]
    return "\n".join(lines)
