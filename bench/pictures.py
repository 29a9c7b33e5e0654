"""The report's pictures as PNG files, drawn by matplotlib without a display."""

import io
import math
from pathlib import Path

from bench.peers import OPS, Unusable
from fastcnn.files import write_atomically

COLOURS = dict(zip(OPS, ("#2864b4", "#c77b1e", "#7a4fb5"), strict=True))


def write(data: dict, folder: Path) -> list[Path]:
    """roofline.png (with convolutions), peers.png (with rows that have a peer) and growth.png (with cost growth)."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise Unusable("the pictures take matplotlib (pip install fastcnn[plot]); --no-png writes the HTML page alone") from None
    written = []
    for name, draw in (("roofline", _roofline), ("peers", _peers), ("growth", _growth)):
        figure = Figure(layout="constrained", dpi=130)
        if draw(figure, data):
            path = folder / f"{name}.png"
            content = io.BytesIO()
            figure.savefig(content, format="png")
            write_atomically(path, content.getvalue())
            written.append(path)
    return written


def _roofline(figure: object, data: dict) -> bool:
    rows = [row for row in data["rows"] if row["kind"].startswith("conv") and row.get("gflops") and row["dtype"] == "float32"]
    if not rows:
        return False
    figure.set_size_inches(9, 5.5)
    axes = figure.subplots()
    for op in OPS:
        own = [row for row in rows if row["kind"] == f"conv {op}"]
        axes.scatter([row["intensity"] for row in own], [row["gflops"] for row in own], s=14, color=COLOURS[op], label=op, alpha=0.75)
    limits = [machine for machine in data["machines"] if machine["dtype"] == "float32"]
    if limits:
        fma, copy = (max(machine[key] for machine in limits) / 1e9 for key in ("fma", "copy"))
        low, high = min(row["intensity"] for row in rows), max(row["intensity"] for row in rows)
        steps = [low * (high / low) ** (i / 100) for i in range(101)]
        axes.plot(steps, [min(fma, step * copy) for step in steps], color="black", label=f"{fma:.0f} GFLOP/s, {copy:.0f} GB/s")
    axes.set(xscale="log", yscale="log", xlabel="operations per byte", ylabel="GFLOP/s", title="Convolutions, float32")
    axes.legend()
    axes.grid(alpha=0.3)
    return True


def _peers(figure: object, data: dict) -> bool:
    groups: dict[str, list[float]] = {}
    for row in data["rows"]:
        if row["ratio"] is not None and row["kind"] not in ("layers", "overhead"):
            kind = row["kind"] if row["dtype"] == "float32" else f"{row['dtype']} {row['kind']}"
            lists = row["kind"].startswith(("conv", "op "))
            name = f"{row['group']} {kind}".strip() if lists else f"{row['group']} {row['name']}"
            groups.setdefault(name, []).append(row["ratio"])
    if not groups:
        return False
    means = {name: math.exp(sum(map(math.log, ratios)) / len(ratios)) for name, ratios in groups.items()}
    names = sorted(means, key=means.__getitem__, reverse=True)
    figure.set_size_inches(9, 2 + 0.22 * len(names))
    axes = figure.subplots()
    axes.barh(names, [means[name] - 1 for name in names], left=1, color=["#1a7f5a" if means[name] >= 1 else "#c2413b" for name in names])
    for name in names:
        axes.text(max(means[name], 1), name, f" {means[name]:.2f}x", va="center", fontsize=8)
    axes.axvline(1, color="black")
    axes.set(xscale="log", xlabel="times faster than the best peer (lists: geometric mean)")
    _plain_ticks(axes, min([*means.values(), 0.5]), max([*means.values(), 2]))
    axes.set_xlim(right=1.25 * max([*means.values(), 2]))  # room for the last number
    axes.margins(y=0.01)
    axes.tick_params(axis="y", labelsize=8)
    return True


def _growth(figure: object, data: dict) -> bool:
    panels: dict[tuple[str, str], list[dict]] = {}
    for series in data["series"]:
        panels.setdefault((series["base"], series["axis"]), []).append(series)
    if not panels:
        return False
    rows = math.ceil(len(panels) / 2)
    figure.set_size_inches(10, 2.6 * rows)
    for axes, ((base, axis), found) in zip(figure.subplots(rows, 2, squeeze=False).flat, panels.items(), strict=False):
        for series in found:
            sizes, speeds = zip(*series["points"], strict=True)
            axes.plot(sizes, speeds, marker=".", color=COLOURS[series["op"]], label=series["op"])
            cliffs = {cliff["size"] for cliff in data["cliffs"] if all(cliff[key] == series[key] for key in ("base", "axis", "op"))}
            marked = [point for point in series["points"] if point[0] in cliffs]
            axes.plot([size for size, _ in marked], [speed for _, speed in marked], "o", mfc="none", mec="#c2413b", ms=10)
        axes.set(title=f"{base}: {axis}", ylabel="GFLOP/s", ylim=(0, None))
        if max(sizes) / min(sizes) > 8:
            axes.set_xscale("log", base=2)
            _plain_ticks(axes, min(sizes), max(sizes))
        elif axis == "threads":
            axes.set_xticks(sizes)
        axes.grid(alpha=0.3)
    figure.axes[0].legend(fontsize=8)
    return True


def _plain_ticks(axes: object, low: float, high: float) -> None:
    """Powers of two as plain numbers."""
    ticks = [2.0**power for power in range(math.ceil(math.log2(low)), math.floor(math.log2(high)) + 1)]
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
