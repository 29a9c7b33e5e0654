"""Plan: a model's layers as segments for one input shape, with the memory they run in."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fastcnn.plan.segment import Row, Segment
from fastcnn.shapes import by


class Plan:
    """forward(x) and, after it, backward(grad_output) as the model's own, faster; str() is a table.

    The output is the caller's to keep; the gradients of parameters lie in arrays that the next step writes to again.
    """

    def __init__(self, segments: Sequence[Segment], shape: tuple[int, ...], dtype: np.dtype, training: bool, nbytes: int) -> None:
        # the arrays that the plan was made for: as long as it lives, no other array gets their ids
        self.arrays = [parameter.data for segment in segments for _, layer in segment.layers for parameter in layer.parameters()]
        self.segments, self.shape, self.dtype, self.training, self.nbytes = list(segments), shape, dtype, training, nbytes

    def forward(self, x: np.ndarray) -> np.ndarray:
        for segment in self.segments:
            x = segment.forward(x)
        return x if self.segments and self.segments[-1].owns_output else x.copy()

    def backward(self, grad_output: np.ndarray) -> np.ndarray | None:
        grad: np.ndarray | None = grad_output
        for segment in reversed(self.segments):
            if grad is None:
                break
            grad = segment.backward(grad)
        return grad

    def refresh(self) -> None:
        """In inference: take over the parameters as they are now."""
        for segment in self.segments:
            segment.refresh()

    def rows(self) -> list[Row]:
        return [row for segment in self.segments for row in segment.rows()]

    def __str__(self) -> str:
        titles = ("layer", "layout", "algorithm", "fused with it", "bytes")
        lines = [(row.layers, row.layout, row.algorithm, row.fused, f"{row.nbytes:,}") for row in self.rows()]
        total = ("total", "", "", "", f"{sum(row.nbytes for row in self.rows()):,}")
        widths = [max(len(line[column]) for line in [titles, *lines, total]) for column in range(len(titles))]
        rule = "-" * (sum(widths) + 2 * (len(widths) - 1))
        text = [_line(titles, widths), rule, *(_line(line, widths) for line in lines), rule, _line(total, widths), ""]
        mode = "training" if self.training else "inference"
        text.append(f"input {by(self.shape)} {self.dtype}, {mode}; bytes that are kept from step to step, besides scratch")
        return "\n".join(text)

    __repr__ = __str__


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    texts = [cell.ljust(width) for cell, width in zip(cells[:-1], widths[:-1], strict=True)]
    return "  ".join([*texts, cells[-1].rjust(widths[-1])]).rstrip()
