"""Figures of a run: curves, confusion matrix, filters, sample grid. matplotlib (extra `plot`), through its object interface only:
no pyplot, no global state, so they work in threads, servers and notebooks alike. Every function returns a matplotlib Figure.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

# Colours that stay apart in greyscale and for colour-blind eyes (Okabe & Ito 2008).
_BLUE, _ORANGE, _GREEN, _RED = "#0072B2", "#E69F00", "#009E73", "#D55E00"

# Inches and dots: 960 pixels wide at the default size, about what a README shows without scaling.
_DPI = 120
_WIDTH = 8.0

_TICKS = (0, 0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 1)  # of the square-root colour scale


def _matplotlib() -> Any:
    try:
        import matplotlib.colors
        import matplotlib.figure
        import matplotlib.ticker
    except ImportError as error:
        raise ImportError('plots need matplotlib: pip install "fastcnn[plot]"') from error
    return matplotlib


def _figure(width: float, height: float) -> Any:
    return _matplotlib().figure.Figure(figsize=(width, height), dpi=_DPI, layout="constrained")


def save(figure: Any, path: str | os.PathLike[str]) -> Path:
    """Write a figure to a file; the suffix chooses the format (.png, .svg, .pdf)."""
    figure.savefig(path)
    return Path(path)


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
    figure = _figure(_WIDTH, 3.6)
    panels = figure.subplots(1, len(names), squeeze=False)[0]
    for axes, name in zip(panels, names, strict=True):
        for prefix, label, colour, marker in (("train_", "training", _BLUE, "o"), ("val_", val_name, _ORANGE, "s")):
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


def _accuracy_axis(axes: Any) -> None:
    """A linear axis in percent that ends just above 100."""
    axes.yaxis.set_major_formatter(_matplotlib().ticker.PercentFormatter(xmax=1))
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
    figure = _figure(side + 0.7, side)
    axes = figure.subplots()
    # The square root spreads the low end, where the confusions are: without it 3 % looks like 0.
    image = axes.imshow(share, cmap="Blues", norm=_matplotlib().colors.PowerNorm(0.5, vmin=0, vmax=1))
    percent = _matplotlib().ticker.PercentFormatter(xmax=1)
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


def filters(weight: Any, max_filters: int = 32, max_channels: int = 16, title: str = "", label: str = "weight") -> Any:
    """The filters of a convolution as pictures: weight (O, C, KH, KW), an array or a Parameter; label says what the colours are of.

    Filters of 3 channels are shown in colour, each stretched to its own range. Others show weights on one scale, blue negative, white
    zero, red positive; with several channels a column is a filter and a row an input channel. Of larger layers the first max_filters
    and max_channels are shown, and the title says so.
    """
    weight = np.asarray(getattr(weight, "data", weight), dtype=float)
    if weight.ndim != 4 or 0 in weight.shape:
        raise ValueError(f"filters: weight must be (O, C, KH, KW), got shape {weight.shape}")
    count, C, KH, KW = weight.shape
    colour = C == 3
    weight = weight[:max_filters] if colour else weight[:max_filters, :max_channels]
    if colour or C == 1:
        planes = list(weight.transpose(0, 2, 3, 1)) if colour else list(weight[:, 0])
        columns = min(len(planes), 8)
    else:
        planes = list(weight.swapaxes(0, 1).reshape(-1, KH, KW))
        columns = len(weight)
    rows = -(-len(planes) // columns)
    cell = min(1.1, _WIDTH / columns)
    figure = _figure(columns * cell + (0.2 if colour else 1.0), rows * cell * KH / KW + 0.5)
    axes = figure.subplots()
    axes.set_axis_off()
    if colour:
        axes.imshow(_mosaic([(plane - plane.min()) / max(np.ptp(plane), 1e-12) for plane in planes], columns, empty=1.0))
    else:
        limit = float(np.abs(weight).max()) or 1.0
        image = axes.imshow(_mosaic(planes, columns, empty=np.nan), cmap="RdBu_r", vmin=-limit, vmax=limit, interpolation="nearest")
        figure.colorbar(image, ax=axes, shrink=0.9, label=label)
    text = f"{count} filters {KH}x{KW}" + (f" (columns) of {C} channels (rows)" if not colour and C > 1 else "")
    if weight.shape[:2] != (count, C):
        text += f", the first {weight.shape[0]} filters and {weight.shape[1]} channels"
    figure.suptitle(title or text, fontsize=11)
    return figure


def _mosaic(planes: Sequence[np.ndarray], columns: int, empty: float) -> np.ndarray:
    """Planes (KH, KW) or (KH, KW, 3) side by side in one picture, which draws far faster than an axes for each."""
    KH, KW = planes[0].shape[:2]
    zoom = max(1, 24 // max(KH, KW))  # picture elements per weight, so that the gaps can be thinner than a weight
    gap = 3
    height, width = KH * zoom + gap, KW * zoom + gap
    rows = -(-len(planes) // columns)
    picture = np.full((rows * height - gap, columns * width - gap, *planes[0].shape[2:]), empty)
    for index, plane in enumerate(planes):
        top, left = index // columns * height, index % columns * width
        picture[top : top + KH * zoom, left : left + KW * zoom] = plane.repeat(zoom, axis=0).repeat(zoom, axis=1)
    return picture


def samples(images: np.ndarray, predicted: np.ndarray, target: np.ndarray | None, classes: Sequence[str], columns: int = 8, title: str = "") -> Any:
    """A grid of images with what the network says about them.

    images     (N, C, H, W), C = 1 or 3, uint8 or any floats (then stretched to the range of all images together)
    predicted  (N,) class indices, or (N, K) probabilities or logits, whose largest counts
    target     (N,) true classes, or None; where it differs, the caption is red and names both
    """
    images, predicted = np.asarray(images), np.asarray(predicted)
    if images.ndim != 4 or images.shape[1] not in (1, 3) or not len(images):
        raise ValueError(f"samples: images must be (N, 1 or 3, H, W) with N > 0, got shape {images.shape}")
    predicted = predicted.argmax(axis=1) if predicted.ndim == 2 else predicted
    for name, labels in (("predicted", predicted), ("target", target)):
        if labels is not None and len(labels) != len(images):
            raise ValueError(f"samples: {len(images)} images but {len(labels)} in {name}")
    if images.dtype != np.uint8:
        low, high = float(images.min()), float(images.max())
        images = ((images - low) * (255 / max(high - low, 1e-12))).astype(np.uint8)
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    cell = _WIDTH / columns
    figure = _figure(_WIDTH, rows * (cell + 0.22) + (0.4 if title else 0.1))
    for index, axes in enumerate(figure.subplots(rows, columns, squeeze=False).flat):
        axes.set_axis_off()
        if index >= len(images):
            continue
        picture = images[index].transpose(1, 2, 0)
        axes.imshow(picture[..., 0] if picture.shape[2] == 1 else picture, cmap="gray", vmin=0, vmax=255)
        name = classes[int(predicted[index])]
        if target is None:
            axes.set_title(name, fontsize=9, pad=3)
        elif predicted[index] == target[index]:
            axes.set_title(name, fontsize=9, pad=3, color=_GREEN)
        else:
            axes.set_title(f"{name}, is {classes[int(target[index])]}", fontsize=9, pad=3, color=_RED)
    if title:
        figure.suptitle(title, fontsize=11)
    return figure
