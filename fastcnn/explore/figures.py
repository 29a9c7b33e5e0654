"""The pictures of the experiments (matplotlib, extra `plot`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fastcnn.explore.descent import START, Path, bowl
from fastcnn.explore.initialisation import SAID, Outcome
from fastcnn.plots.figure import BLUE, GREEN, ORANGE, RED, WIDTH, matplotlib, new_figure

# One colour, marker and line for each curve: apart in greyscale too.
_STYLES = ((BLUE, "o", "-"), (ORANGE, "s", "--"), (GREEN, "^", "-"), (RED, "D", "-."), ("#CC79A7", "v", "-"), ("#56B4E9", "x", "--"))


def initialisation(outcomes: Sequence[Outcome]) -> Any:
    """Deviation of the activations in each layer before training; loss and accuracy in training."""
    figure = new_figure(WIDTH, 6.4)
    mosaic = figure.subplot_mosaic([["deviation", "deviation"], ["loss", "accuracy"]])
    for index, (outcome, (colour, marker, line)) in enumerate(zip(outcomes, _STYLES, strict=False)):
        width = 1.5 + 0.6 * (len(outcomes) - 1 - index)  # those that learn nothing lie upon each other: the earlier ones show on both sides
        style = {"color": colour, "marker": marker, "markersize": 3 + width, "linewidth": width, "linestyle": line}
        deviations = np.array(outcome.deviations)
        label = f"{outcome.name}: {SAID[outcome.name]}" + " (0 everywhere, not on this axis)" * (not deviations.any())
        mosaic["deviation"].plot(outcome.layers, np.where(deviations > 0, deviations, np.nan), label=label, **style)
        for name, column in (("loss", "train_loss"), ("accuracy", "val_accuracy")):
            if len(outcome.history):
                mosaic[name].plot(outcome.history["epoch"], outcome.history[column], label=outcome.name + ", diverged" * outcome.diverged, **style)
    mosaic["deviation"].set_yscale("log")
    mosaic["deviation"].set_ylabel("standard deviation")
    mosaic["deviation"].set_title("activations before training", fontsize=10)
    mosaic["deviation"].legend(frameon=False, fontsize=8)
    mosaic["loss"].set_yscale("log")
    mosaic["loss"].set_ylabel("training loss per image")
    mosaic["accuracy"].set_ylabel("test accuracy")
    mosaic["accuracy"].set_ylim(0, 1.02)
    mosaic["accuracy"].yaxis.set_major_formatter(matplotlib().ticker.PercentFormatter(xmax=1))
    mosaic["accuracy"].legend(frameon=False, fontsize=8, loc="center right")
    for name, axes in mosaic.items():
        axes.grid(alpha=0.3)
        if name != "deviation":
            axes.set_xlabel("epoch")
            axes.xaxis.get_major_locator().set_params(integer=True)
    return figure


def optimizers(paths: Sequence[Path]) -> Any:
    """Trajectories over the bowl's contours, distance to the bottom per step, and the learning rate that each coordinate gets."""
    figure = new_figure(WIDTH, 7.6)
    mosaic = figure.subplot_mosaic([["plain", "adaptive"], ["distance", "distance"], ["x", "y"]], height_ratios=(1.0, 1.1, 0.9))
    x, y = np.meshgrid(np.linspace(-11, 5, 161), np.linspace(-1.6, 1.6, 161))
    for name, title in (("plain", "one rate for both coordinates"), ("adaptive", "a rate for each coordinate")):
        axes = mosaic[name]
        axes.contour(x, y, bowl(np.stack([x, y], axis=-1)), levels=np.geomspace(0.1, 100, 10), colors="0.75", linewidths=0.7)
        axes.plot(0, 0, marker="+", color="black", markersize=9)
        axes.plot(*START, marker="o", color="black", markersize=4)
        axes.set_title(title, fontsize=10)
        axes.set_xlabel("x")
        axes.set_ylabel("y")
        axes.set_ylim(-1.6, 1.6)
        axes.set_xlim(-11, 5)
    for path, (colour, marker, line) in zip(paths, _STYLES, strict=False):
        adaptive = bool(np.ptp(path.rates))
        axes = mosaic["adaptive" if adaptive else "plain"]
        axes.plot(*path.points.T, color=colour, marker=marker, markersize=2.5, linewidth=1, label=path.name)
        mosaic["distance"].plot(path.distance, color=colour, linestyle=line, linewidth=1.5, label=path.name)
        if adaptive:
            for index, name in enumerate("xy"):
                mosaic[name].plot(range(1, len(path.rates) + 1), path.rates[:, index], color=colour, linestyle=line, linewidth=1.5, label=path.name)
    mosaic["distance"].set_yscale("log")
    mosaic["distance"].set_ylabel("distance to the bottom")
    for name, axes in mosaic.items():
        axes.legend(frameon=False, fontsize=8, ncols=3 if name in ("distance", "plain", "adaptive") else 1, loc="lower left" if name == "distance" else "best")
        if name not in ("plain", "adaptive"):
            axes.set_xlabel("step")
            axes.grid(alpha=0.3)
        if name in ("x", "y"):
            axes.set_yscale("log", subs=[2, 5])
            ticker = matplotlib().ticker
            axes.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
            axes.yaxis.set_major_formatter(ticker.FuncFormatter(lambda value, position: f"{value:g}"))
            axes.yaxis.set_minor_locator(ticker.NullLocator())
            axes.set_ylabel(f"effective rate of {name}")
    return figure


def schedules(rates: Mapping[str, Sequence[float]]) -> Any:
    """A panel for each schedule, all on the same axes."""
    figure = new_figure(WIDTH, 4.6)
    columns = 4
    panels = figure.subplots(-(-len(rates) // columns), columns, squeeze=False, sharex=True, sharey=True)
    for axes, (title, values) in zip(panels.flat, rates.items(), strict=False):
        axes.step(range(len(values)), values, where="post", color=BLUE, linewidth=1.5)
        kind, _, rest = title.partition(" ")
        axes.set_title(f"{kind}\n{rest}", fontsize=8)
        axes.grid(alpha=0.3)
    for axes in panels.flat[len(rates) :]:
        axes.set_axis_off()
    for axes in panels[-1]:
        axes.set_xlabel("epoch")
    for axes in panels[:, 0]:
        axes.set_ylabel("learning rate")
    return figure
