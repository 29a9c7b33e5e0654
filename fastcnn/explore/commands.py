"""fastcnn explore init | optimizers | schedules, and fastcnn explain-net."""

from __future__ import annotations

import argparse
from typing import Any

from fastcnn.console import backend_options, number, print_json, table, use_backend

# Steps and epochs at which the tables show numbers; the last one is added.
_STEPS = (0, 1, 2, 5, 10, 20, 40, 60)
_EPOCHS = (0, 1, 5, 9, 10, 24, 25, 29, 30, 59, 60)


def add(commands: Any) -> None:
    """The parsers of these commands."""
    explore = commands.add_parser("explore", help="small experiments: initialisations, optimizers, schedules", description="Small experiments.")
    topics = explore.add_subparsers(title="topics", metavar="TOPIC", required=True)
    init = topics.add_parser("init", help="a small network on the digits from different first weights")
    init.set_defaults(run=_init)
    init.add_argument("--epochs", type=number(int, 1), default=8, help="passes over the training set (default: 8)")
    init.add_argument("--lr", type=number(float, 0, inclusive=False), default=0.01, help="learning rate of SGD with momentum 0.9 (default: 0.01)")
    init.add_argument("--seed", type=number(int, 0), default=0, help="of weights and order (default: 0)")
    backend_options(init)
    optimizers = topics.add_parser("optimizers", help="SGD, momentum, Nesterov, AdaGrad, RMSProp and Adam on a quadratic bowl")
    optimizers.set_defaults(run=_optimizers)
    optimizers.add_argument("--steps", type=number(int, 1), default=80, help="updates (default: 80)")
    schedules = topics.add_parser("schedules", help="the learning rate of every schedule over the epochs")
    schedules.set_defaults(run=_schedules)
    schedules.add_argument("--epochs", type=number(int, 1), default=90, help="epochs (default: 90)")
    schedules.add_argument("--lr", type=number(float, 0, inclusive=False), default=0.1, help="the optimizer's rate (default: 0.1)")
    explain = commands.add_parser(
        "explain-net",
        help="one training step of a small network with every number",
        description="Print every array of one training step, forward and backward, to be checked by hand.",
    )
    explain.set_defaults(run=_explain_net)
    explain.add_argument("--example", choices=("worked", "correlation", "cnn"), default="worked", help="which network (default: worked)")
    explain.add_argument("--seed", type=number(int, 0), default=0, help="of cnn's numbers; the others' are fixed (default: 0)")
    explain.add_argument("--digits", type=number(int, 0), metavar="N", help="digits behind the point (default: 8 for worked, 4 for the others)")
    explain.add_argument("--json", action="store_true", help="print the steps as JSON")
    for topic in (init, optimizers, schedules):
        topic.add_argument("--out", metavar="FILE", help="draw it into this file (.png, .svg, .pdf)")
        topic.add_argument("--json", action="store_true", help="print the result as JSON")


def _init(arguments: argparse.Namespace) -> None:
    from fastcnn.explore.initialisation import SAID, compare

    _require_matplotlib(arguments)
    use_backend(arguments)
    outcomes = compare(epochs=arguments.epochs, lr=arguments.lr, seed=arguments.seed)
    if arguments.json:
        print_json(
            [
                {
                    "initialisation": outcome.name,
                    "deviations": dict(zip(outcome.layers, outcome.deviations, strict=True)),
                    "diverged": outcome.diverged,
                    "history": outcome.history.rows,
                }
                for outcome in outcomes
            ]
        )
    else:
        print("standard deviation of the activations before training:")
        print(table([["", *outcomes[0].layers], *([outcome.name, *(f"{value:.2g}" for value in outcome.deviations)] for outcome in outcomes)]))
        print(f"\nafter {arguments.epochs} epoch{'s' * (arguments.epochs != 1)} of SGD, learning rate {arguments.lr:g}, momentum 0.9:")
        rows = [["", "training loss", "test accuracy"]]
        for outcome in outcomes:
            last = outcome.history.rows[-1] if len(outcome.history) else None
            numbers = [f"{last['train_loss']:.4f}", f"{last['val_accuracy']:.2%}"] if last and not outcome.diverged else ["diverged", ""]
            rows.append([f"{outcome.name}: {SAID[outcome.name]}", *numbers])
        print(table(rows))
    _draw(arguments, "initialisation", outcomes)


def _optimizers(arguments: argparse.Namespace) -> None:
    from fastcnn.explore.descent import CURVATURE, START, descend

    _require_matplotlib(arguments)
    paths = descend(steps=arguments.steps)
    if arguments.json:
        print_json([{key: getattr(value, "tolist", lambda value=value: value)() for key, value in path._asdict().items()} for path in paths])
    else:
        shown = _shown(_STEPS, arguments.steps + 1)
        print(f"f(x, y) = (x^2 + {CURVATURE:g} y^2) / 2 from ({START[0]:g}, {START[1]:g}); distance to the bottom after so many steps:")
        print(table([["", *map(str, shown)], *([path.name, *(f"{path.distance[step]:.4f}" for step in shown)] for path in paths)]))
        print("\nlearning rate of x and y in step 1, and in the last, divided by the root of the squared gradients where the optimizer does that:")
        rows = [["", "x first", "x last", "y first", "y last"]]
        for path in paths:
            rows.append([f"{path.name} ({path.settings})", *(f"{path.rates[step, axis]:.4f}" for axis in (0, 1) for step in (0, -1))])
        print(table(rows))
    _draw(arguments, "optimizers", paths)


def _schedules(arguments: argparse.Namespace) -> None:
    from fastcnn.explore.rates import rates

    _require_matplotlib(arguments)
    found = rates(arguments.epochs, arguments.lr)
    if arguments.json:
        print_json(found)
    else:
        shown = _shown(_EPOCHS, arguments.epochs)
        print("learning rate in use in epoch (the first is 0):")
        print(table([["", *map(str, shown)], *([title, *(f"{values[epoch]:.3g}" for epoch in shown)] for title, values in found.items())]))
    _draw(arguments, "schedules", found)


def _explain_net(arguments: argparse.Namespace) -> None:
    from fastcnn.explore.example import DIGITS, EXAMPLES, text

    make = EXAMPLES[arguments.example]
    steps = make(arguments.seed)
    if arguments.json:
        print_json([step._asdict() | {"arrays": {name: array.tolist() for name, array in step.arrays.items()}} for step in steps])
        return
    print(f"{make.__doc__}\n\n{text(steps, DIGITS[arguments.example] if arguments.digits is None else arguments.digits)}")


# Helpers


def _shown(wanted: tuple[int, ...], count: int) -> list[int]:
    """Those of the wanted numbers that are below count, and the last one below it."""
    return sorted({*(value for value in wanted if value < count), count - 1})


def _require_matplotlib(arguments: argparse.Namespace) -> None:
    """A missing package is found before the work."""
    if arguments.out is not None:
        from fastcnn.plots.figure import matplotlib

        matplotlib()


def _draw(arguments: argparse.Namespace, figure: str, content: Any) -> None:
    if arguments.out is None:
        return
    from fastcnn import plots
    from fastcnn.explore import figures

    plots.save(getattr(figures, figure)(content), arguments.out)
    if not arguments.json:
        print(f"\ndrawn into {arguments.out}")
