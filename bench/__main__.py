"""Command line of the benchmark suite: `python -m bench [COMMAND] --help`."""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from bench import environment

OPS = ["forward", "grad_input", "grad_weight"]
MORE_OPS = ["backward"]  # both gradients in one call
REPEATS, SHORT_REPEATS = 20, 3

Options = argparse.ArgumentParser
Args = argparse.Namespace


# What the commands do. Only the modules that a command needs are imported; those that measure return a document.


def _conv(args: Args) -> dict:
    from bench import convs

    if args.backend == "cuda":
        from bench import cuda_times
        from fastcnn import recipes

        lists = args.lists or (["short"] if args.short else ["reports"])
        names = ["lenet-mnist"] if args.short else recipes.names()
        return cuda_times.run(cuda_times.Settings(lists, [op for op in args.ops if op in OPS], names, args.threads, args.repeats))
    lists = args.lists or (["short"] if args.short else ["reports", "odd", "batch1"])
    return convs.run(convs.Settings(lists, args.ops, args.backend, args.peers, args.threads, args.dtype, args.format, args.repeats))


def _kernels(args: Args) -> int:
    from bench import cuda

    return cuda.run(args.names, args.cc)


def _networks(args: Args) -> dict:
    from bench import steps

    return steps.run(args.command, steps.Settings(args.recipes, args.batch, args.backend, args.peers, args.threads, args.repeats))


def _roofline(args: Args) -> dict:
    from bench import roofline

    return roofline.run(args.threads, args.repeats)


def _overhead(args: Args) -> dict:
    from bench import overhead

    return overhead.run(args.backend, args.peers, args.threads, args.repeats)


def _ops(args: Args) -> dict:
    from bench import ops

    return ops.run(ops.Settings(args.backend, args.peers, args.threads, args.dtype, args.short, args.repeats))


def _data(args: Args) -> dict:
    from bench import data

    images = args.images or (data.SHORT_IMAGES if args.short else data.IMAGES)
    return data.run(data.Settings(args.batch, images, args.data_dir, args.backend, args.threads, args.repeats))


def _bridge(args: Args) -> dict:
    from bench import bridge

    return bridge.run(bridge.Settings(args.recipes, args.batch, args.threads, args.repeats))


def _memory(args: Args) -> dict:
    from bench import memory

    return memory.run(args.backend, args.peers, args.recipes, args.threads)


def _coursework(args: Args) -> dict:
    from bench import coursework

    return coursework.run(coursework.Settings(args.courses, args.backend, args.threads, args.repeats))


def _growth(args: Args) -> dict:
    from bench import growth

    return growth.run(growth.Settings(args.backend, args.threads, args.dtype, args.format, args.repeats, args.short))


def _compare(args: Args) -> dict | int:
    from bench import changes

    if args.against:
        return changes.against(args.against, changes.Settings(args.lists or ["changes"], args.ops, args.threads, args.dtype, args.format, args.repeats))
    if len(args.lists) != 2:
        raise changes.Mistake("takes OLD.json and NEW.json, or --against what")
    print(changes.between(*map(Path, args.lists)))
    return 0


def _report(args: Args) -> int:
    from bench import html

    for path in html.write(args.results or sorted(html.RESULTS.glob("*.json")), args.out, pictures=not args.no_png):
        print(path)
    return 0


def _full(args: Args) -> int:
    from bench import full

    return full.run(args.out, args.again, args.only)


def _readme(args: Args) -> int:
    from bench import readme

    print(f"{readme.fill(readme.README, readme.RESULTS)} results are now in {readme.README}")
    readme.fill_below(readme.README, readme.RESULTS)
    print(f"{readme.fill(readme.FRONT, readme.RESULTS, readme.FRONT_KINDS)} results are now in {readme.FRONT}")
    print(f"{readme.fill_courses(readme.COURSE_PAGES, readme.RESULTS)} pages of {readme.COURSE_PAGES} have results")
    readme.fill(readme.FRONT, readme.RESULTS, (readme.runs.KIND,), readme.RECIPES)
    return 0


def _recipes(args: Args) -> int:
    from bench import readme, runs

    document = runs.run(args.runs, args.note, args.json)
    print(readme.render(document))
    if args.json is not None:
        readme.save(document, args.json)
    return 0


# Their options


def _measures(made: Options, peers: bool = True, backend: bool = True) -> None:
    """What all that measure take."""
    if backend:
        made.add_argument("--backend", default="cpu", help="the backend of ours that is measured (default cpu)")
    if peers:
        made.add_argument("--peers", default="auto", help="auto (reference, and PyTorch if installed), all, none, or a list; see bench/README.md")
    made.add_argument("--threads", type=_positive, default=environment.usable_cpus(), help="workers of each library (default: all CPUs)")
    made.add_argument("--repeats", type=_positive, help=f"timed turns of each library (default {REPEATS})")
    made.add_argument("--short", action="store_true", help=f"a look in seconds: {SHORT_REPEATS} turns, and small problems")
    made.add_argument("--json", type=Path, metavar="OUT", help="write the result there too")


def _problem_options(made: Options, ops: bool = True) -> None:
    if ops:
        known = f"a list of {','.join(OPS + MORE_OPS)} (default: all but backward, both gradients in one call)"
        made.add_argument("--ops", type=_op_names, default=OPS, help=known)
    made.add_argument("--dtype", choices=("float32", "float64"), default="float32")
    made.add_argument("--format", choices=("nchw", "channels_last"), default="nchw", help="memory format of our operands")


def _conv_options(made: Options) -> None:
    made.add_argument("lists", nargs="*", metavar="LIST", help="problem lists of bench/shapes or files (default: reports odd batch1)")
    _problem_options(made)
    _measures(made)


def _recipe_options(made: Options) -> None:
    made.add_argument("recipes", nargs="*", metavar="RECIPE", help="names of fastcnn.recipes (default: all)")
    _measures(made)


def _network_options(made: Options) -> None:
    _recipe_options(made)
    made.add_argument("--batch", type=_batches, help="images per batch, a list like 1,16,64,256 (default: 64, for wide-256 8; inference 1 as well)")


def _bridge_options(made: Options) -> None:
    made.add_argument("recipes", nargs="*", metavar="RECIPE", help="names of fastcnn.recipes (default: simple-cifar10 deep-cifar10)")
    made.add_argument("--batch", type=_positive, help="images per batch (default: 64, for wide-256 8)")
    _measures(made, peers=False, backend=False)


def _data_options(made: Options) -> None:
    made.add_argument("--images", type=_positive, help="images of an epoch (default: MNIST's 60,000; with --short 3,200)")
    made.add_argument("--data-dir", type=Path, metavar="DIR", help="where MNIST is (default: the cache folder; random numbers if it is not there)")
    made.add_argument("--batch", type=_positive, default=64, help="images per step (default 64)")
    _measures(made, peers=False)


def _coursework_options(made: Options) -> None:
    made.add_argument("courses", nargs="*", metavar="COURSE", help="folders of bench/courses (default: all)")
    _measures(made, peers=False)


def _roofline_options(made: Options) -> None:
    _measures(made, peers=False, backend=False)


def _ops_options(made: Options) -> None:
    made.add_argument("--dtype", choices=("float32", "float64"), default="float32")
    _measures(made)


def _growth_options(made: Options) -> None:
    _problem_options(made, ops=False)
    _measures(made, peers=False)


def _compare_options(made: Options) -> None:
    made.add_argument("lists", nargs="*", metavar="OLD.json NEW.json", help="two results; with --against: problem lists (default: changes)")
    made.add_argument("--against", metavar="WHAT", help="measure anew, in turns: this tree against a git revision (built in build/) or a folder")
    _problem_options(made)
    _measures(made, peers=False, backend=False)


def _report_options(made: Options) -> None:
    made.add_argument("results", nargs="*", type=Path, metavar="RESULT.json", help="results (default: bench/results/*.json)")
    made.add_argument("--out", type=Path, default=Path("bench-report"), help="folder of report.html and the pictures (default bench-report)")
    made.add_argument("--no-png", action="store_true", help="only the HTML file, which takes no matplotlib")


def _recipes_options(made: Options) -> None:
    made.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="run folders of `fastcnn train`; those that differ in the seed alone are one row")
    made.add_argument("--note", default="", help="what has to be known about these runs: a busy machine, say")
    made.add_argument("--json", type=Path, metavar="OUT", help="write the result there too; its rows of other commands stay")


def _kernels_options(made: Options) -> None:
    made.add_argument("names", nargs="*", metavar="NAME", help="parts of kernels' names (default: all)")
    made.add_argument("--cc", type=_capability, default=(9, 0), help="compute capability: 8.0 or 9.0 (default)")


def _full_options(made: Options) -> None:
    made.add_argument("--out", type=Path, default=Path(__file__).with_name("results"), help="folder of the results (default bench/results)")
    made.add_argument("--again", action="store_true", help="measure also what there is a result of already")
    made.add_argument("--only", type=lambda word: word.split(","), metavar="PART,...", help="these parts only")


class Command(NamedTuple):
    what: str
    options: Callable[[Options], None]
    run: Callable[[Args], dict | int]


COMMANDS: dict[str, Command] = {
    "conv": Command("convolutions against the peers, problem by problem (the default)", _conv_options, _conv),
    "ops": Command("pooling, batch normalisation, unfold, fold, linear and cross-entropy, forward and backward", _ops_options, _ops),
    "step": Command("training steps of the recipes", _network_options, _networks),
    "inference": Command("the recipes' networks in evaluation mode, a batch and one image at a time", _network_options, _networks),
    "layers": Command("the recipes layer by layer, forward and backward", _network_options, _networks),
    "bridge": Command("training steps of PyTorch modules: plain, with fastcnn under their layers, and converted", _bridge_options, _bridge),
    "growth": Command("time against batch, image size, channels, kernel size and threads; cliffs are listed", _growth_options, _growth),
    "roofline": Command("FMA peak and copy bandwidth, and the share that a 3x3 layer reaches", _roofline_options, _roofline),
    "memory": Command("memory that a training step of the recipes needs", _recipe_options, _memory),
    "overhead": Command("import time and the cost of a call without arithmetic", _measures, _overhead),
    "data": Command("images per second of the data path, and the share of a LeNet epoch that waits for it", _data_options, _data),
    "coursework": Command("code in the style of the courses of fastcnn.compat, as it is and on fastcnn", _coursework_options, _coursework),
    "recipes": Command("what runs of `fastcnn train` reached, from their folders, beside what was reported", _recipes_options, _recipes),
    "kernels": Command("registers, shared memory and spills of the GPU's kernels, compiled without a GPU", _kernels_options, _kernels),
    "full": Command("all of these, each in its own file of bench/results; goes on where it was stopped", _full_options, _full),
    "compare": Command("what changed between two results, and what is only noise", _compare_options, _compare),
    "report": Command("one HTML page and pictures of results", _report_options, _report),
    "readme": Command("fill the tables of the READMEs from bench/results/*.json", lambda made: None, _readme),
}


def parser(name: str) -> Options:
    """The options of one command; NumPy is not needed for it."""
    made = Options(
        prog=f"python -m bench {name}",
        description=COMMANDS[name].what,
        epilog="commands: " + "; ".join(f"{other}: {command.what}" for other, command in COMMANDS.items()),
    )
    COMMANDS[name].options(made)
    made.set_defaults(command=name)
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; 0 done, 1 a result was wrong or slower, 2 the command line was wrong."""
    words = list(sys.argv[1:] if argv is None else argv)
    name = words.pop(0) if words and words[0] in COMMANDS else "conv"
    options = parser(name)
    args = options.parse_args(words)
    if "threads" in args and "numpy" not in sys.modules:  # its BLAS reads the thread count once
        os.environ.update(environment.thread_variables(args.threads))

    from bench import peers, problems, readme
    from bench.changes import Mistake
    from bench.worker import Failed
    from fastcnn.datasets import DatasetError

    neighbours = environment.Neighbours()
    try:
        if "repeats" in args:
            args.repeats = args.repeats or (SHORT_REPEATS if args.short else REPEATS)
            peers.check_backend(getattr(args, "backend", "cpu"))
        if "peers" in args:
            args.peers = peers.chosen(args.peers)
        done = COMMANDS[name].run(args)
    except (problems.ProblemError, peers.Unusable, DatasetError, Mistake) as error:
        options.error(str(error))
    except Failed as error:
        print(f"python -m bench {name}: {error}", file=sys.stderr)
        return 1
    if isinstance(done, int):
        return done
    done["header"]["other processes"] = environment.neighbours_text(neighbours.busy())
    print(readme.render(done))
    if args.json is not None:
        readme.save(done, args.json)
    return 1 if done["refused"] or done.get("slower") else 0


def _positive(word: str) -> int:
    value = int(word)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{word} is below 1")
    return value


def _capability(word: str) -> tuple[int, int]:
    if word not in ("8.0", "9.0"):
        raise argparse.ArgumentTypeError(f"{word} is neither 8.0 nor 9.0")
    return int(word[0]), int(word[2])


def _batches(word: str) -> list[int]:
    return [_positive(part) for part in word.split(",")]


def _op_names(word: str) -> list[str]:
    ops = word.split(",")
    for op in ops:
        if op not in OPS + MORE_OPS:
            raise argparse.ArgumentTypeError(f"{op!r} is none of {', '.join(OPS + MORE_OPS)}")
    return ops


if __name__ == "__main__":
    sys.exit(main())
