"""Command line of the benchmark suite: `python -m bench [COMMAND] --help`."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from bench import environment

COMMANDS = {
    "conv": "convolutions against PyTorch and the NumPy reference (the default)",
    "roofline": "FMA peak and copy bandwidth of this machine, and the share that a 3x3 layer reaches",
    "step": "training steps of the recipes",
    "inference": "the recipes' networks in evaluation mode, a batch and one image at a time",
    "layers": "the recipes layer by layer, forward and backward",
    "overhead": "import time and the cost of a call without arithmetic",
    "data": "images per second of the data path, and the share of a LeNet epoch that waits for it",
    "memory": "memory that a training step of the recipes needs",
    "recipes": "what runs of `fastcnn train` reached, from their folders, beside what was reported",
    "readme": "fill the tables of README.md and bench/README.md from bench/results/*.json",
}

OPS = ["forward", "grad_input", "grad_weight"]
REPEATS, SHORT_REPEATS = 20, 3


def parser(command: str) -> argparse.ArgumentParser:
    """The options of one command; modules that import NumPy are not needed for it."""
    made = argparse.ArgumentParser(
        prog=f"python -m bench {command}",
        description=COMMANDS[command],
        epilog="commands: " + "; ".join(f"{name}: {what}" for name, what in COMMANDS.items()),
    )
    if command == "readme":
        return made
    if command == "recipes":
        made.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="run folders of `fastcnn train`; those that differ in the seed alone are one row")
        made.add_argument("--note", default="", help="what has to be known about these runs: a busy machine, say")
        made.add_argument("--json", type=Path, metavar="OUT", help="write the result there too; its rows of other commands stay")
        return made
    if command == "conv":
        made.add_argument("lists", nargs="*", metavar="LIST", help="problem lists of bench/shapes or files (default: reports odd batch1)")
        made.add_argument("--ops", type=_ops, default=OPS, help="a list of " + ",".join(OPS))
        made.add_argument("--dtype", choices=("float32", "float64"), default="float32")
        made.add_argument("--format", choices=("nchw", "channels_last"), default="nchw", help="memory format of our operands")
    if command in ("step", "layers", "inference", "memory"):
        made.add_argument("recipes", nargs="*", metavar="RECIPE", help="names of fastcnn.recipes (default: all)")
    if command in ("step", "layers", "inference"):
        made.add_argument("--batch", type=_positive, help="images per batch (default: 64, for wide-256 8)")
    if command == "data":
        made.add_argument("--images", type=_positive, help="images of an epoch (default: MNIST's 60,000; with --short 3,200)")
        made.add_argument("--data-dir", type=Path, metavar="DIR", help="where MNIST is (default: the cache folder; random numbers if it is not there)")
        made.add_argument("--batch", type=_positive, default=64, help="images per step (default 64)")
    if command != "roofline":
        made.add_argument("--backend", default="cpu", help="the backend of ours that is measured (default cpu)")
    if command not in ("roofline", "data"):
        made.add_argument("--peers", default="auto", help="auto (what is installed), none, or a list of torch,reference")
    made.add_argument("--threads", type=_positive, default=environment.usable_cpus(), help="workers of each library (default: all CPUs)")
    made.add_argument("--repeats", type=_positive, help=f"timed turns of each library (default {REPEATS})")
    made.add_argument("--short", action="store_true", help=f"a look in seconds: {SHORT_REPEATS} turns, and a small list for conv")
    made.add_argument("--json", type=Path, metavar="OUT", help="write the result there too")
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; 0 done, 1 a result was wrong, 2 the command line was."""
    words = list(sys.argv[1:] if argv is None else argv)
    command = words.pop(0) if words and words[0] in COMMANDS else "conv"
    options = parser(command)
    args = options.parse_args(words)
    if command == "readme":
        return _readme()
    if command == "recipes":
        return _recipes(args, options)
    if "numpy" not in sys.modules:  # its BLAS reads the thread count once
        environment.pin_threads(args.threads)
    args.repeats = args.repeats or (SHORT_REPEATS if args.short else REPEATS)

    from bench import peers, problems
    from fastcnn.datasets import DatasetError

    try:
        args.peers = peers.chosen(getattr(args, "peers", "none"))
        neighbours = environment.Neighbours()
        document = _measure(command, args)
    except (problems.ProblemError, peers.Unusable, DatasetError) as error:
        options.error(str(error))
    document["header"]["other processes"] = environment.neighbours_text(neighbours.busy())
    return _deliver(document, args.json)


def _measure(command: str, args: argparse.Namespace) -> dict:
    """Run the command; only the modules that it needs are imported."""
    from bench import convs, data, memory, overhead, peers, roofline, steps

    backend = getattr(args, "backend", "cpu")
    peers.check_backend(backend)
    peers.set_threads(args.peers, args.threads)
    header = environment.describe(args.threads, peers.versions(args.peers))
    if command == "roofline":
        return roofline.run(args.threads, header, args.repeats)
    if command == "overhead":
        return overhead.run(backend, args.peers, args.threads, header, args.repeats)
    if command == "data":
        images = args.images or (data.SHORT_IMAGES if args.short else data.IMAGES)
        return data.run(data.Settings(args.batch, images, args.data_dir, backend, args.threads, args.repeats), header)
    if command == "memory":
        return memory.run(backend, args.peers, args.recipes, args.threads, header)
    if command in ("step", "layers", "inference"):
        settings = steps.Settings(args.recipes, args.batch, backend, args.peers, args.threads, args.repeats)
        return steps.run(command, settings, header)
    lists = args.lists or (["short"] if args.short else ["reports", "odd", "batch1"])
    settings = convs.Settings(lists, args.ops, backend, args.peers, args.threads, args.dtype, args.format, args.repeats)
    return convs.run(settings, header, roofline.fma_peak(args.dtype, args.threads) if peers.compiled() else None)


def _deliver(document: dict, path: Path | None) -> int:
    from bench import readme

    print(readme.render(document))
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    return 1 if document["refused"] else 0


def _readme() -> int:
    from bench import readme

    for place in readme.PLACES:
        print(f"{readme.fill(place, readme.RESULTS)} results are now in {place.file}, between its marks {place.name}")
    return 0


def _recipes(args: argparse.Namespace, options: argparse.ArgumentParser) -> int:
    from bench import peers, runs

    header = environment.describe(environment.usable_cpus(), peers.versions([]))
    try:
        return _deliver(runs.run(args.runs, args.note, args.json, header), args.json)
    except peers.Unusable as error:
        options.error(str(error))


def _positive(word: str) -> int:
    value = int(word)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{word} is below 1")
    return value


def _ops(word: str) -> list[str]:
    ops = word.split(",")
    for op in ops:
        if op not in OPS:
            raise argparse.ArgumentTypeError(f"{op!r} is none of {', '.join(OPS)}")
    return ops


if __name__ == "__main__":
    sys.exit(main())
