"""`python -m bench data`: images per second of the data path alone, and how long the steps of a LeNet epoch wait for their batches."""

import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import fastcnn
from bench import environment, report
from bench.peers import Fastcnn
from fastcnn import datasets, recipes
from fastcnn.backend import use_backend
from fastcnn.datasets import Batches, Compose, Dataset, RandomCrop, RandomHorizontalFlip, Standardize
from fastcnn.datasets.prefetch import DEPTH

KIND = "data"

IMAGES, SHORT_IMAGES = 60_000, 3_200


@dataclass(frozen=True)
class Settings:
    batch: int
    images: int
    data_dir: Path | None
    backend: str
    threads: int
    repeats: int


def run(settings: Settings) -> dict:
    """Time passes over the batches without a network, then epochs with batches made ahead and with batches made when asked for, in turns."""
    header = environment.describe(settings.threads, Fastcnn(settings.backend).start(settings.threads))
    recipe = recipes.get("lenet")
    mnist, source = _mnist(settings)
    train = mnist.map(recipe.prepare)
    cifar = _generated(min(len(train), 50_000), (3, 32, 32))
    augmenting = Compose([RandomCrop(32, padding=4), RandomHorizontalFlip(), Standardize.fit(cifar)])
    cases = [
        ("LeNet: shuffled, rescaled", Batches(train, settings.batch, shuffle=True, transform=recipe.transform())),
        ("CIFAR-10's shape: shuffled, standardised", Batches(cifar, settings.batch, shuffle=True, transform=augmenting.transforms[-1])),
        ("the same with random crop and flip", Batches(cifar, settings.batch, shuffle=True, transform=augmenting)),
    ]
    passes = []
    for what, batches in cases:
        print(what, file=sys.stderr)
        rates = [len(batches.dataset) / seconds for seconds in _seconds(lambda batches=batches: [None for _ in batches], settings.repeats)]
        passes.append({"what": what, "images": len(batches.dataset), "maximum": max(rates), "median": statistics.median(rates)})
    stored = {"batch": settings.batch, "backend": settings.backend, "threads": settings.threads, "repeats": settings.repeats, "source": source}
    return {"kind": KIND, "header": header, "settings": stored, "refused": [], "passes": passes, "epochs": _epochs(recipe, cases[0][1], settings)}


def _epochs(recipe: recipes.Recipe, batches: Batches, settings: Settings) -> list[dict]:
    """Epochs of LeNet as fit() runs them: their seconds, and those of them in which the step waited for data."""
    modes = {"as fit chooses": True, "ahead": DEPTH, "when asked for": 0}
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in modes}
    with use_backend(settings.backend):
        trainer = recipe.trainer(recipe.model(rng=0), data="mnist")
        for turn in range(settings.repeats):
            print(f"epochs {turn + 1} of {settings.repeats}", file=sys.stderr)
            for name, prefetch in modes.items():
                fastcnn.fit(trainer, batches, epochs=trainer.epoch + 1, progress=False, prefetch=prefetch)
                row = trainer.history.rows[-1]
                taken[name].append((row["seconds"], row["wait"]))
    return [{"batches": name} | _spread("seconds", [s for s, _ in t]) | _spread("share", [w / s for s, w in t]) for name, t in taken.items()]


def _spread(name: str, values: list[float]) -> dict[str, float]:
    return {name: min(values), f"{name} median": statistics.median(values)}


def _seconds(call: Callable[[], object], repeats: int) -> list[float]:
    call()
    taken = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        taken.append(time.perf_counter() - start)
    return taken


def _mnist(settings: Settings) -> tuple[Dataset, str]:
    """MNIST where it lies on this machine, else numbers of its shape: the times are the same, as nothing depends on the values."""
    try:
        return datasets.load("mnist", settings.data_dir, download=False).train[: settings.images], "MNIST"
    except datasets.DatasetError:
        if settings.data_dir is not None:
            raise
        return _generated(settings.images, (1, 28, 28)), "random numbers of MNIST's shape"


def _generated(count: int, shape: tuple[int, int, int]) -> Dataset:
    rng = np.random.default_rng(0)
    return Dataset(rng.integers(0, 256, (count, *shape), dtype=np.uint8), rng.integers(0, 10, count), tuple("0123456789"))


def render(document: dict) -> str:
    settings = document["settings"]
    passes = [[p["what"], str(p["images"]), f"{p['maximum']:.0f}", f"{p['median']:.0f}"] for p in document["passes"]]
    epochs = [
        [e["batches"], *(report.three_digits(e[name]) for name in ("seconds", "seconds median")), *(f"{100 * e[n]:.2f} %" for n in ("share", "share median"))]
        for e in document["epochs"]
    ]
    return "\n".join(
        [
            f"### Data path: batch {settings['batch']}, {settings['source']}",
            report.header(document["header"]),
            f"- {settings['repeats']} turns; an epoch is LeNet's on the {settings['backend']} backend with {settings['threads']} threads",
            "",
            report.table(["batches alone, one thread", "images", "images/s, best", "median"], passes),
            "",
            report.table(["batches made", "epoch s", "median", "waiting", "median"], epochs),
        ]
    )
