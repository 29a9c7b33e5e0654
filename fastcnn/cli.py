"""Command line: fastcnn train | evaluate | predict | summary | recipes | info; the other commands are in commands.py and explore/commands.py.

Exit codes: 0 done, 1 training diverged, 2 something the caller can put right (one line on stderr says what), 130 interrupted by Ctrl-C.
Results go to stdout, progress and messages to stderr.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import sys
from collections.abc import Sequence
from typing import Any

from fastcnn import __version__, backend, commands
from fastcnn.console import UsageError, backend_options, number, print_json, table, use_backend
from fastcnn.explore import commands as explore

logger = logging.getLogger("fastcnn")

# What a run is made of: a resumed run keeps these.
_RUN_OPTIONS = ("data", "epochs", "batch_size", "lr", "subset", "seed", "out")
# The options of single recipes (recipe.options), and the type of their values; each recipe says itself which it has and what they may be.
_RECIPE_OPTIONS = {"pool": str, "channels": int, "size": int, "restarts": int}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    arguments = _parser().parse_args(argv)
    with _Logging(logging.WARNING if getattr(arguments, "quiet", False) else logging.INFO):
        try:
            arguments.run(arguments)
            sys.stdout.flush()
            return 0
        except KeyboardInterrupt as interrupt:
            return _interrupted(interrupt, arguments)
        except BrokenPipeError:  # the reader of our output has gone (`fastcnn recipes | head -1`)
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0
        except (ValueError, OSError, ImportError, RuntimeError, ArithmeticError) as error:
            if arguments.traceback:
                raise
            print(f"fastcnn: {_one_line(error)}", file=sys.stderr)
            return 1 if isinstance(error, ArithmeticError) else 2


class _Logging:
    """The library's messages, one line each, on stderr while a command runs."""

    def __init__(self, level: int):
        self.handler = logging.StreamHandler(sys.stderr)
        self.handler.setFormatter(logging.Formatter("%(message)s"))
        self.level = level

    def __enter__(self) -> None:
        self.before = logger.level, logger.propagate
        logger.addHandler(self.handler)
        logger.setLevel(self.level)
        logger.propagate = False

    def __exit__(self, *exception: object) -> None:
        logger.removeHandler(self.handler)
        logger.setLevel(self.before[0])
        logger.propagate = self.before[1]


def _one_line(error: BaseException) -> str:
    text = f"{error.filename}: {error.strerror}" if isinstance(error, OSError) and error.filename and error.strerror else str(error)
    return " ".join(text.split()) or type(error).__name__


def _interrupted(interrupt: KeyboardInterrupt, arguments: argparse.Namespace) -> int:
    path = getattr(interrupt, "checkpoint", None)
    if path is None:
        print("fastcnn: interrupted", file=sys.stderr)
    else:
        again = f"fastcnn train {arguments.recipe} --resume {path.parent}"
        print(f"fastcnn: interrupted in epoch {interrupt.epoch}, saved; go on with: {again}", file=sys.stderr)
    return 130


# Commands


def _train(arguments: argparse.Namespace) -> None:
    from fastcnn import recipes
    from fastcnn.train import JsonLines, TensorBoard

    recipe = recipes.get(arguments.recipe)
    json_on_stdout = arguments.json_log == "-"
    if json_on_stdout and arguments.json:
        raise UsageError("--json and --json-log without a FILE both write to stdout: give a FILE")
    lines = None if arguments.json_log is None else JsonLines(sys.stdout if json_on_stdout else arguments.json_log)
    board = None if arguments.tensorboard is None else TensorBoard(arguments.tensorboard)
    common = {
        "data_dir": arguments.data_dir,
        "download": arguments.download,
        "progress": not arguments.quiet,
        "compare": True,
        "callbacks": [log for log in (lines, board) if log is not None],
    }
    with contextlib.nullcontext() if board is None else contextlib.closing(board):
        result = _trained(recipe, arguments, common)
    if json_on_stdout:
        lines.write({"result": {name: value for name, value in result.to_dict().items() if name != "history"}})
        return
    if arguments.json:
        print_json(result.to_dict())
        return
    epochs = len(result.history)
    print(f"test accuracy {result.accuracy:.2%} ({int(result.confusion.sum()):,} images of {result.data}, loss {result.loss:.4f})", end="")
    print(f" after {epochs} epoch{'s' * (epochs != 1)}, {result.seconds:.1f} s of training")
    print(f"training accuracy {result.training_accuracy:.2%} ({result.training_images:,} images, nothing dropped or augmented)")
    print("per class: " + ", ".join(f"{name} {share:.1%}" for name, share in result.class_accuracy.items()))
    if result.step_times is None:
        print("step time: not compared, the reference backend is the active one")
    else:
        print(result.step_times)
    print(f"reported by the source: {recipe.reported}")
    print(f"files in {result.folder}: " + ", ".join(sorted(path.name for path in result.folder.iterdir() if not path.name.startswith("."))))


def _trained(recipe: Any, arguments: argparse.Namespace, common: dict[str, Any]) -> Any:
    """The result of the run, a new one or one that is gone on with."""
    from fastcnn import recipes
    from fastcnn.train import RunFolder

    given = {name: getattr(arguments, name) for name in (*_RUN_OPTIONS, *_RECIPE_OPTIONS) if getattr(arguments, name) is not None}
    if arguments.capture:
        given["capture"] = True
    if arguments.resume is None:
        use_backend(arguments)
        logger.info("%s: %s", recipe.name, recipe.description)
        logger.info(_where())
        return recipes.train(recipe, **given, **common)
    if given:
        options = ", ".join("--" + name.replace("_", "-") for name in given)
        raise UsageError(f"{options}: a resumed run keeps the options it was started with")
    config = RunFolder.read_config(arguments.resume)
    if config["recipe"] != recipe.name:
        raise UsageError(f"{arguments.resume} is a run of {config['recipe']}, not of {recipe.name}")
    arguments.backend = arguments.backend or config.get("backend")  # another backend rounds differently
    use_backend(arguments)
    logger.info(_where())
    return recipes.resume(arguments.resume, **common)


def _evaluate(arguments: argparse.Namespace) -> None:
    from fastcnn import recipes

    use_backend(arguments)
    result = recipes.evaluate(arguments.folder, data_dir=arguments.data_dir, download=arguments.download)
    if arguments.json:
        print_json(result.to_dict())
        return
    print(f"{result.recipe.name} on the test set of {result.data}: {int(result.confusion.sum()):,} images")
    print(f"accuracy {result.accuracy:.2%}, loss {result.loss:.4f}")
    print("confusion matrix (rows: true class, columns: predicted class):")
    print(table([["", *result.classes], *([name, *map(str, row)] for name, row in zip(result.classes, result.confusion, strict=True))]))


def _predict(arguments: argparse.Namespace) -> None:
    import numpy as np

    from fastcnn import recipes

    use_backend(arguments)
    run = recipes.load(arguments.folder)
    probabilities = run.predict(np.stack([commands.read_image(run, path, arguments.invert) for path in arguments.images]))
    answers = []
    for path, row in zip(arguments.images, probabilities, strict=True):
        best = np.argsort(-row, kind="stable")[: arguments.top]
        answers.append({"image": path, "classes": [{"class": run.classes[i], "probability": float(row[i])} for i in best]})
    if arguments.json:
        print_json(answers)
        return
    for answer in answers:
        print(f"{answer['image']}: " + ", ".join(f"{guess['class']} {guess['probability']:.1%}" for guess in answer["classes"]))


def _summary(arguments: argparse.Namespace) -> None:
    from fastcnn import recipes
    from fastcnn.summary import summary

    recipe = recipes.get(arguments.recipe).configured(**{name: getattr(arguments, name) for name in _RECIPE_OPTIONS})
    layers = summary(recipe.model(rng=0), recipe.input_shape)
    if arguments.json:
        print_json({"recipe": recipe.name} | layers.to_dict())
    else:
        print(f"{recipe.name}: {recipe.description}\n\n{layers}")


def _recipes(arguments: argparse.Namespace) -> None:
    from fastcnn import recipes

    for recipe in map(recipes.get, recipes.names()):
        print(f"{recipe.name}" + "".join(f" ({alias}: --data {data})" for alias, data in recipe.aliases.items()))
        print(f"  {recipe.description}")
        for data, setup in recipe.setups.items():
            print(f"  --data {data}: {setup.epochs} epochs, batch size {setup.batch_size}, learning rate {setup.lr:g}")
        for name, option in recipe.options.items():
            values = "|".join(map(str, option.choices)) or "N"
            print(f"  --{name} {values}: {option.help} (default: {getattr(recipe, name)})")
        print(f"  source: {recipe.source}")
        print(f"  reported: {recipe.reported}")


def _info(arguments: argparse.Namespace) -> None:
    facts = {"fastcnn": __version__} | backend.config()
    if arguments.json:
        print_json(facts)
    else:
        print(table([[key, value] for key, value in facts.items()], right=False))


# Helpers


def _where() -> str:
    """'cpu backend (avx512), 2 threads'."""
    name = backend.current().name
    if name != "cpu":
        return f"{name} backend"
    isa = backend.config().get("cpu isa", "")
    threads = backend.get_num_threads()
    return f"cpu backend ({isa}), {threads} thread{'s' * (threads != 1)}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="fastcnn", description="Train and use convolutional networks on the CPU or a GPU.")
    parser.add_argument("--version", action="version", version=f"fastcnn {__version__}")
    parser.add_argument("--traceback", action="store_true", help="show the Python traceback of an error")
    parsers = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    train = parsers.add_parser("train", help="train a recipe into a run folder", description="Train a recipe into a run folder.")
    train.set_defaults(run=_train)
    train.add_argument("recipe", metavar="RECIPE", help="name of a recipe (`fastcnn recipes` lists them)")
    train.add_argument("--data", help="data set to train on (default: the recipe's)")
    train.add_argument("--epochs", type=number(int, 1), help="passes over the training set (default: the recipe's)")
    train.add_argument("--batch-size", type=number(int, 1), help="images per training step (default: the recipe's)")
    train.add_argument("--lr", type=number(float, 0, inclusive=False), help="learning rate at the peak of the recipe's schedule (default: the recipe's)")
    train.add_argument("--subset", type=number(int, 1), metavar="N", help="train on N of the training images only, each class in its proportion")
    train.add_argument("--seed", type=number(int, 0), help="of weights, order and dropout; the same seed gives the same bits (default: 0)")
    train.add_argument("--out", metavar="DIR", help="run folder (default: runs/RECIPE-DATE-TIME)")
    train.add_argument("--resume", metavar="RUN", help="go on with the run in this folder")
    train.add_argument("--capture", action="store_true", help="record a training step and repeat it with one launch (cuda backend; networks without dropout)")
    train.add_argument("--quiet", action="store_true", help="no progress")
    train.add_argument(
        "--json-log", nargs="?", const="-", metavar="FILE", help="a JSON object per epoch, into FILE or, without one, to stdout; there the result is the last"
    )
    train.add_argument("--tensorboard", metavar="DIR", help="log each epoch into DIR for TensorBoard (extra `tensorboard`)")

    evaluate = parsers.add_parser("evaluate", help="measure a trained network on its test set")
    evaluate.set_defaults(run=_evaluate)

    predict = parsers.add_parser("predict", help="classify image files with a trained network")
    predict.set_defaults(run=_predict)
    for command in (evaluate, predict):
        command.add_argument("folder", metavar="RUN", help="run folder of `fastcnn train`")
    predict.add_argument("images", metavar="IMAGE", nargs="+", help="image file")
    predict.add_argument("--invert", action="store_true", help="for dark drawings on a bright ground")
    predict.add_argument("--top", type=number(int, 1), default=3, metavar="K", help="classes to name, the likeliest first (default: 3)")

    for command in (train, evaluate):
        command.add_argument("--data-dir", metavar="DIR", help="where the data set's files are (default: the cache folder); not for digits")
        command.add_argument("--download", action=argparse.BooleanOptionalAction, default=True, help="fetch missing data set files (default: yes)")
    for command in (train, evaluate, predict):
        backend_options(command)

    summary = parsers.add_parser("summary", help="show a recipe's layers, shapes, parameters and work")
    summary.set_defaults(run=_summary)
    summary.add_argument("recipe", metavar="RECIPE")
    for command in (train, summary):
        own = command.add_argument_group("options of single recipes (`fastcnn recipes` says which has which)")
        for name, kind in _RECIPE_OPTIONS.items():
            own.add_argument(f"--{name}", type=number(int, 0) if kind is int else kind, metavar="VALUE" if kind is str else "N")
    commands.add(parsers)
    explore.add(parsers)
    listing = parsers.add_parser("recipes", help="list the recipes")
    listing.set_defaults(run=_recipes)
    info = parsers.add_parser("info", help="show version, backends, instruction set and threads")
    info.set_defaults(run=_info)
    for command in (train, evaluate, predict, summary, info):
        command.add_argument("--json", action="store_true", help="print the result as JSON")
    return parser
