"""`python -m bench bridge`: training steps of the recipes' networks as PyTorch modules: plain, swapped (`fastcnn.torch.swap_`), with the functions caught
(`fastcnn.torch.use`), converted (`fastcnn.torch.from_torch`), and the recipe itself, which a converted network should equal; each in its own process."""

import importlib.util
import sys
from dataclasses import asdict, dataclass

from bench import compare, environment, report, steps
from bench.contest import Contest
from bench.networks import StepJob
from bench.peers import FORMATS, Fastcnn, Torch, Unusable, bridged

KIND = "bridge"
DEFAULT = ("simple-cifar10", "deep-cifar10")
OURS = "cpu"


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
    ways = [bridged.Bridged(layout, way=way) for way in bridged.WAYS for layout in FORMATS if way != "converted" or layout == FORMATS[0]]
    rows, refused, about = [], [], {}
    for recipe in steps.chosen(settings.recipes or list(DEFAULT)):
        print(recipe.name, file=sys.stderr)
        batch = recipe.bench_batch if settings.batch is None else settings.batch
        with Contest([*map(Torch, FORMATS), *ways, Fastcnn(OURS)], settings.threads) as contest:
            about |= contest.about
            job = StepJob(recipe.name, batch)
            results = contest.measure(job, contest.truth(job), steps.verdict, settings.repeats)
        rows.append({"recipe": recipe.name, "what": f"step, batch {batch}", "results": results})
        refused += compare.refusals(recipe.name, results)
    header = environment.describe(settings.threads, about)
    return {"kind": KIND, "header": header, "settings": asdict(settings), "refused": refused, "rows": rows}


def render(document: dict) -> str:
    """A row per contender; the ratio is against the better memory format of plain PyTorch."""
    cells = []
    for row in document["rows"]:
        results = row["results"]
        plain = min((result["minimum"] for name, result in results.items() if name.startswith("torch") and "minimum" in result), default=None)
        for name, result in results.items():
            time = result.get("minimum")
            times = [report.milliseconds(result.get(key)) for key in ("minimum", "median")]
            how = "the recipe itself" if name == OURS else name
            cells.append([row["recipe"], row["what"], how, *times, report.ratio(plain / time if time and plain else None)])
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
