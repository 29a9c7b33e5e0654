"""What every figure begins with: matplotlib, colours, sizes."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any

from fastcnn.files import write_atomically

# Colours that stay apart in greyscale and for colour-blind eyes (Okabe & Ito 2008).
BLUE, ORANGE, GREEN, RED = "#0072B2", "#E69F00", "#009E73", "#D55E00"

# Inches and dots: 960 pixels wide at the default size, about what a README shows without scaling.
DPI = 120
WIDTH = 8.0


def matplotlib() -> Any:
    try:
        import matplotlib.colors
        import matplotlib.figure
        import matplotlib.ticker
    except ImportError as error:
        raise ImportError('plots need matplotlib: pip install "fastcnn[plot]"') from error
    return matplotlib


def new_figure(width: float, height: float) -> Any:
    return matplotlib().figure.Figure(figsize=(width, height), dpi=DPI, layout="constrained")


def save(figure: Any, path: str | os.PathLike[str]) -> Path:
    """Write a figure to a file, which is replaced only by the whole picture; the suffix chooses the format (.png, .svg, .pdf), none is PNG's."""
    path = Path(path)
    content = io.BytesIO()
    figure.savefig(content, format=path.suffix[1:].lower() or "png")
    write_atomically(path, content.getvalue(), flush=False)
    return path
