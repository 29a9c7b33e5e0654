"""Figures of what a network holds and sees: filters, feature maps, images with its answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from fastcnn.plots.figure import GREEN, RED, WIDTH, new_figure


def filters(weight: Any, max_filters: int = 32, max_channels: int = 16, title: str = "", label: str = "weight", columns: int = 8) -> Any:
    """The filters of a convolution as pictures: weight (O, C, KH, KW), an array or a Parameter; label says what the colours are of.

    Filters of 3 channels are shown in colour, each stretched to its own range. Others show weights on one scale, blue negative, white
    zero, red positive; with several channels a column is a filter and a row an input channel, otherwise `columns` filters are a row. Of larger
    layers the first max_filters and max_channels are shown, and the title says so.
    """
    weight = np.asarray(getattr(weight, "data", weight), dtype=float)
    if weight.ndim != 4 or 0 in weight.shape:
        raise ValueError(f"filters: weight must be (O, C, KH, KW), got shape {weight.shape}")
    count, C, KH, KW = weight.shape
    colour = C == 3
    weight = weight[:max_filters] if colour else weight[:max_filters, :max_channels]
    if colour or C == 1:
        planes = list(weight.transpose(0, 2, 3, 1)) if colour else list(weight[:, 0])
        columns = min(len(planes), columns)
    else:
        planes = list(weight.swapaxes(0, 1).reshape(-1, KH, KW))
        columns = len(weight)
    rows = -(-len(planes) // columns)
    cell = min(1.1, WIDTH / columns)
    figure = new_figure(columns * cell + (0.2 if colour else 1.0), rows * cell * KH / KW + 0.5)
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


def feature_maps(maps: np.ndarray, max_maps: int = 64, title: str = "") -> Any:
    """The channels (C, H, W) that a layer gave for one image, on one scale: black to bright, or blue to red around zero where some are negative."""
    maps = np.asarray(maps, dtype=float)
    if maps.ndim != 3 or 0 in maps.shape:
        raise ValueError(f"feature_maps: maps must be (C, H, W), got shape {maps.shape}")
    C, H, W = maps.shape
    planes = list(maps[:max_maps])
    columns = min(len(planes), 8)
    rows = -(-len(planes) // columns)
    cell = min(1.1, WIDTH / columns)
    figure = new_figure(max(columns * cell, 3.0) + 1.0, rows * cell * H / W + 0.5)
    axes = figure.subplots()
    axes.set_axis_off()
    image = axes.imshow(_mosaic(planes, columns, empty=np.nan), interpolation="nearest", **_scale(np.stack(planes)))
    figure.colorbar(image, ax=axes, shrink=0.9, label="output")
    figure.suptitle((title or f"{C} maps {H}x{W}") + f", the first {len(planes)} of {C}" * (C > len(planes)), fontsize=11)
    return figure


def features(layers: Sequence[tuple[str, np.ndarray]], image: np.ndarray | None = None, max_maps: int = 8, title: str = "") -> Any:
    """What an image becomes, layer by layer: a row for each (label, output), of which (C, H, W) are shown as maps and (F,) as a strip.

    Every row has its own scale, as in feature_maps. image, (1 or 3, H, W) uint8, is the first row, in its own colours.
    """
    if not layers:
        raise ValueError("features: no layers")
    if image is not None and (image.dtype != np.uint8 or image.ndim != 3 or image.shape[0] not in (1, 3)):
        raise ValueError(f"features: image must be (1 or 3, H, W) uint8, got {image.dtype} of shape {image.shape}")
    rows = [(label, np.asarray(output, dtype=float)) for label, output in ([] if image is None else [("input", image)]) + list(layers)]
    for label, output in rows:
        if output.ndim not in (1, 3) or 0 in output.shape:
            raise ValueError(f"features: outputs must be (C, H, W) or (F,), {label!r} is {output.shape}")
    cell = (WIDTH - 1.9) / max_maps
    heights = [cell * min(output.shape[1] / output.shape[2], 2.0) if output.ndim == 3 and output.shape[1:] != (1, 1) else 0.3 for _, output in rows]
    figure = new_figure(WIDTH, sum(heights) + 0.12 * len(rows) + (0.4 if title else 0.1))
    panels = figure.subplots(len(rows), 1, squeeze=False, gridspec_kw={"height_ratios": heights})[:, 0]
    for index, (axes, (label, output)) in enumerate(zip(panels, rows, strict=True)):
        if image is not None and index == 0:
            picture = np.repeat(image, 3 // len(image), axis=0).transpose(1, 2, 0) / 255
            empty = np.full(picture.shape, np.nan)
            axes.imshow(np.nan_to_num(_mosaic([picture] + [empty] * (max_maps - 1), max_maps, empty=np.nan), nan=1.0), interpolation="nearest")
            rest = ""
        elif output.ndim == 3 and output.shape[1:] != (1, 1):
            planes = list(output[:max_maps])
            picture = _mosaic(planes + [np.full(output.shape[1:], np.nan)] * (max_maps - len(planes)), max_maps, empty=np.nan)
            axes.imshow(picture, interpolation="nearest", **_scale(np.stack(planes)))
            rest = f"\nfirst {max_maps} shown" if len(output) > max_maps else ""
        else:
            axes.imshow(output.reshape(1, -1), interpolation="nearest", aspect="auto", **_scale(output))
            rest = ""
        axes.set_xticks([])
        axes.set_yticks([])
        axes.spines[:].set_visible(False)
        axes.set_ylabel(label + rest, rotation=0, ha="right", va="center", fontsize=8)
    if title:
        figure.suptitle(title, fontsize=11)
    return figure


def _scale(values: np.ndarray) -> dict[str, Any]:
    """Colours for values on one scale: black to bright from zero on; blue, white, red around zero where some are negative."""
    high = float(np.abs(values).max()) or 1.0
    return {"cmap": "RdBu_r", "vmin": -high, "vmax": high} if values.min() < 0 else {"cmap": "magma", "vmin": 0.0, "vmax": high}


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
    cell = WIDTH / columns
    figure = new_figure(WIDTH, rows * (cell + 0.22) + (0.4 if title else 0.1))
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
            axes.set_title(name, fontsize=9, pad=3, color=GREEN)
        else:
            axes.set_title(f"{name}, is {classes[int(target[index])]}", fontsize=9, pad=3, color=RED)
    if title:
        figure.suptitle(title, fontsize=11)
    return figure
