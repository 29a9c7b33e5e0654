"""`python -m bench bridge`: training steps of the recipes' networks as PyTorch modules: plain, swapped (`fastcnn.torch.swap_`), with the functions caught
(`fastcnn.torch.use`), and converted (`fastcnn.torch.from_torch`)."""

import copy
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass

import numpy as np

from bench import compare, report, steps
from bench.peers import FORMATS, Unusable
from bench.timing import Contender
from fastcnn import recipes

KIND = "bridge"
DEFAULT = ("simple-cifar10", "deep-cifar10")


@dataclass(frozen=True)
class Settings:
    recipes: list[str]
    batch: int | None
    threads: int
    repeats: int
    backend: str = "converted"
    peers: tuple[str, ...] = ("torch",)


def run(settings: Settings, header: dict[str, str]) -> dict:
    """Measure the steps of the named recipes (default: simple-cifar10 and deep-cifar10)."""
    rows, refused = [], []
    for name in settings.recipes or DEFAULT:
        try:
            recipe = recipes.get(name)
        except ValueError as error:
            raise Unusable(str(error)) from None
        print(name, file=sys.stderr)
        batch = recipe.bench_batch if settings.batch is None else settings.batch
        results = _compared(recipe, batch, settings)
        rows.append({"recipe": name, "what": f"step, batch {batch}", "results": results})
        refused += compare.refusals(name, results)
    return {"kind": KIND, "header": header, "settings": asdict(settings), "refused": refused, "rows": rows}


def _compared(recipe: recipes.Recipe, batch: int, settings: Settings) -> compare.Results:
    import torch

    from bench import twin
    from fastcnn.torch import from_torch, swap_, use

    ours, x, y = steps.data_for(recipe, batch)
    trainer = steps._trainer(recipe, ours)
    labels = torch.from_numpy(y)
    module = twin.module(ours)

    def of_torch(name: str, memory_format: str, prepare: Callable, scope: Callable[[], AbstractContextManager]) -> tuple[Contender, object]:
        layout = steps._layout(memory_format)
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

    sides = [of_torch("torch", layout, lambda network: network, nullcontext) for layout in FORMATS]
    truth = steps._losses(*sides[0])
    sides += [of_torch("use()", layout, lambda network: network, use) for layout in FORMATS]
    sides += [of_torch("swap_", layout, swap_, nullcontext) for layout in FORMATS]
    converted = steps._trainer(recipe, from_torch(module))

    sides.append((Contender("converted", lambda: converted.step(x, y)), converted.model))
    results: compare.Results = {}
    right = []
    for contender, network in sides:
        worst = float(np.max(np.abs(np.asarray(steps._losses(contender, network)) - truth) / np.abs(truth))) if contender is not sides[0][0] else 0.0
        if worst <= steps.TOLERANCE:
            right.append(contender)
        else:
            results[contender.name] = {"refused": f"{worst:.1e} off plain PyTorch"}
    return results | compare.timed(right, settings.repeats, settings.backend)


def render(document: dict) -> str:
    """A row per contender; the ratio is against the better memory format of plain PyTorch."""
    cells = []
    for row in document["rows"]:
        results = row["results"]
        plain = results[compare.best(results, "torch")]["minimum"]
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
