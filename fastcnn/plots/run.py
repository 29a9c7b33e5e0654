"""Figures of what a run measured: curves, error rate, confusion matrix, accuracy per class."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fastcnn.plots.figure import BLUE, ORANGE, WIDTH, matplotlib, new_figure

_LOGARITHMIC = 5  # the largest error this many times the smallest: fewer ticks than two would fall on the axis otherwise
_TICKS = (0, 0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 1)  # of the square-root colour scale


def curves(history: Any, val_name: str = "validation", title: str = "") -> Any:
    """Loss, accuracy and every other metric per epoch, training and validation in one panel each.

    history   a fastcnn.History, or rows (dicts) with its columns
    val_name  what the val_ columns were measured on
    """
    from fastcnn.train import History

    history = history if isinstance(history, History) else History(list(history))
    if not len(history):
        raise ValueError("curves: the history has no epochs")
    epochs = history["epoch"]
    names = [name.removeprefix("train_") for name in history.columns if name.startswith("train_")]
    figure = new_figure(WIDTH, 3.6)
    panels = figure.subplots(1, len(names), squeeze=False)[0]
    for axes, name in zip(panels, names, strict=True):
        for prefix, label, colour, marker in (("train_", "training", BLUE, "o"), ("val_", val_name, ORANGE, "s")):
            if prefix + name in history:
                values = np.array(history[prefix + name], dtype=float)
                axes.plot(epochs, values, color=colour, marker=marker, markersize=3, linewidth=1.5, label=label)
        axes.set_xlabel("epoch")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(alpha=0.3)
        if name == "accuracy":
            _accuracy_axis(axes)
            if "val_accuracy" in history:
                axes.set_title(f"{history['val_accuracy'][-1]:.2%} {val_name} accuracy at the end", fontsize=10)
        else:
            axes.set_ylabel(name + " per image" * (name == "loss"))
            if name == "loss" and min(v for c in ("train_loss", "val_loss") if c in history for v in history[c]) > 0:
                axes.set_yscale("log")  # the interesting part of a loss curve is its low end
                axes.set_title("loss (logarithmic)", fontsize=10)
        axes.legend(frameon=False, loc="lower right" if name == "accuracy" else "upper right")
    if title:
        figure.suptitle(title, fontsize=12)
    return figure


def error_rate(history: Any, val_name: str = "validation", title: str = "") -> Any:
    """Share of wrong answers per epoch, on a logarithmic axis where it spans enough of one: there halving the errors is the same step everywhere.

    Arguments as curves'.
    """
    from fastcnn.train import History

    history = history if isinstance(history, History) else History(list(history))
    columns = [(name, label) for name, label in (("train_accuracy", "training"), ("val_accuracy", val_name)) if name in history]
    if not columns:
        raise ValueError("error_rate: the history has no column train_accuracy or val_accuracy")
    figure = new_figure(0.7 * WIDTH, 3.6)
    axes = figure.subplots()
    errors = {label: 1 - np.array(history[name], dtype=float) for name, label in columns}
    for (label, values), colour, marker in zip(errors.items(), (BLUE, ORANGE), ("o", "s"), strict=False):
        # no error at all has no place on a logarithmic axis: the line pauses there
        axes.plot(history["epoch"], np.where(values > 0, values, np.nan), color=colour, marker=marker, markersize=3, linewidth=1.5, label=label)
    positive = [value for values in errors.values() for value in values if value > 0]
    if positive and max(positive) > _LOGARITHMIC * min(positive):
        axes.set_yscale("log")
        _percent_ticks(axes, min(positive), max(positive))
    else:
        axes.yaxis.set_major_formatter(matplotlib().ticker.PercentFormatter(xmax=1))
    axes.set_xlabel("epoch")
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set_ylabel("error rate")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, loc="upper right")
    label, values = list(errors.items())[-1]
    best = int(np.nanargmin(values))
    axes.set_title(title or f"{label} error {values[-1]:.2%} at the end, {values[best]:.2%} at best (epoch {history['epoch'][best]})", fontsize=10)
    return figure


def _percent_ticks(axes: Any, low: float, high: float) -> None:
    """1, 2, 5, 10 ... percent on a logarithmic axis, those that lie within it."""
    ticker = matplotlib().ticker
    ticks = [digit * 10.0**power for power in range(-6, 1) for digit in (1, 2, 5)]
    axes.set_ylim(low / 1.25, min(high * 1.25, 1.1))
    axes.yaxis.set_major_locator(ticker.FixedLocator([tick for tick in ticks if low / 1.25 <= tick <= high * 1.25]))
    axes.yaxis.set_major_formatter(ticker.FuncFormatter(lambda value, position: f"{100 * value:g} %"))
    axes.yaxis.set_minor_locator(ticker.NullLocator())


def class_accuracy(accuracy: Mapping[str, float], title: str = "") -> Any:
    """A bar for each class, the worst recognised at the top, beyond it those without images.

    accuracy  class -> share of its images that are recognised (Result.class_accuracy)
    """
    if not accuracy:
        raise ValueError("class_accuracy: no classes")
    order = sorted(accuracy, key=lambda name: -accuracy[name] if accuracy[name] == accuracy[name] else 2.0)
    values = np.array([accuracy[name] for name in order])
    figure = new_figure(0.7 * WIDTH, min(12.0, 1.1 + 0.26 * len(order)))
    axes = figure.subplots()
    axes.barh(range(len(order)), np.nan_to_num(values), color=BLUE, height=0.7)
    labelled = len(order) <= 40
    axes.set_yticks(range(len(order)) if labelled else [], order if labelled else [])
    low = math.floor(10 * min(np.nanmin(values, initial=1.0), 0.9)) / 10 if np.nanmin(values, initial=1.0) > 0.5 else 0.0
    for row, value in enumerate(values if labelled else ()):
        text = "no images" if np.isnan(value) else f"{100 * value:.1f} %"
        axes.text(max(np.nan_to_num(value), low) + 0.005 * (1 - low), row, text, va="center", fontsize=8)
    axes.set_xlim(low, 1 + 0.12 * (1 - low))  # room for the last number
    axes.xaxis.set_major_locator(matplotlib().ticker.FixedLocator(np.linspace(low, 1, 6)))
    axes.xaxis.set_major_formatter(matplotlib().ticker.PercentFormatter(xmax=1, decimals=0))
    axes.set_xlabel("images of the class recognised" + f" (the axis begins at {low:.0%})" * (low > 0))
    axes.set_ylabel("class")
    axes.grid(axis="x", alpha=0.3)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_title(title or "accuracy per class", fontsize=11)
    return figure


def _accuracy_axis(axes: Any) -> None:
    """A linear axis in percent that ends just above 100."""
    axes.yaxis.set_major_formatter(matplotlib().ticker.PercentFormatter(xmax=1))
    axes.set_ylabel("accuracy")
    axes.set_ylim(top=1.005)


def confusion_matrix(matrix: np.ndarray, classes: Sequence[str], normalize: bool = False, title: str = "") -> Any:
    """True classes in rows, predicted ones in columns.

    matrix     (K, K) counts, as metrics.confusion_matrix gives them
    normalize  show shares of each true class instead of counts
    """
    counts = np.asarray(matrix)
    K = len(classes)
    if counts.shape != (K, K):
        raise ValueError(f"confusion_matrix: {K} classes need a {K}x{K} matrix, got {counts.shape}")
    totals = counts.sum(axis=1, keepdims=True)
    share = np.divide(counts, totals, out=np.zeros(counts.shape), where=totals > 0)
    side = min(12.0, max(4.2, 1.4 + 0.46 * K))
    figure = new_figure(side + 0.7, side)
    axes = figure.subplots()
    # The square root spreads the low end, where the confusions are: without it 3 % looks like 0.
    image = axes.imshow(share, cmap="Blues", norm=matplotlib().colors.PowerNorm(0.5, vmin=0, vmax=1))
    percent = matplotlib().ticker.PercentFormatter(xmax=1)
    figure.colorbar(image, ax=axes, shrink=0.8, pad=0.02, label="share of the true class", format=percent, ticks=_TICKS)
    long_names = max(map(len, classes), default=0) > 3
    axes.set_xticks(range(K), classes, rotation=45 if long_names else 0, ha="right" if long_names else "center", rotation_mode="anchor")
    axes.set_yticks(range(K), classes)
    axes.set_xlabel("predicted class")
    axes.set_ylabel("true class")
    axes.set_xticks(np.arange(K + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(K + 1) - 0.5, minor=True)
    axes.grid(which="minor", color="white", linewidth=1)
    axes.tick_params(which="minor", length=0)
    accuracy = np.trace(counts) / counts.sum() if counts.sum() else math.nan
    axes.set_title(title or f"{accuracy:.2%} of {counts.sum():,} images right", fontsize=11)
    if K <= 25:  # beyond that the numbers would overlap
        for row, column in np.argwhere(counts > 0):
            text = _share_text(share[row, column]) if normalize else f"{counts[row, column]}"
            axes.text(column, row, text, ha="center", va="center", fontsize=8, color="white" if share[row, column] > 0.3 else "black")
    return figure


def _share_text(share: float) -> str:
    """'98.6' or '0.3': percent, with 100 in three digits."""
    return "100" if share > 0.9995 else f"{100 * share:.1f}"
