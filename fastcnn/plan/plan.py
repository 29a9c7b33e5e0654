"""Plan: a model's layers as segments for one input shape, with the memory they run in."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fastcnn import nn
from fastcnn.plan.segment import Row, Segment, check_gradient
from fastcnn.shapes import ShapeError, by


class Plan:
    """forward(x) and, after it, backward(grad_output) as the model's own, faster; str() is a table.

    The output is the caller's to keep; the gradients of parameters lie in arrays that the next step writes to again. backward uses up what forward has kept,
    and the plans of one model share their memory: each backward needs a forward of its own just before it.
    """

    def __init__(self, model: nn.Module, segments: Sequence[Segment], shape: tuple[int, ...], dtype: np.dtype, training: bool, nbytes: int) -> None:
        self.model, self.segments, self.shape, self.dtype, self.training, self.nbytes = model, list(segments), shape, dtype, training, nbytes
        self._output: tuple | None = None  # shape and dtype of the forward that backward belongs to

    def forward(self, x: np.ndarray) -> np.ndarray:
        if x.shape != self.shape or x.dtype != self.dtype:
            raise ShapeError(f"plan: made for an input {by(self.shape)} {self.dtype}, got {by(x.shape)} {x.dtype}")
        self._output = None
        try:
            for segment in self.segments:
                x = segment.forward(x)
        except ShapeError as error:
            self.model._locate(error)
            raise
        if isinstance(x, np.ndarray):
            if self.training:
                self._output = x.shape, x.dtype
            if not (self.segments and self.segments[-1].owns_output):
                x = x.copy()
        return x

    def backward(self, grad_output: np.ndarray) -> np.ndarray | None:
        if self._output is None:
            raise RuntimeError("plan: backward needs a forward in training mode just before it")
        check_gradient(grad_output, self._output, "plan: backward got")
        self._output = None
        grad: np.ndarray | None = grad_output
        for index in range(len(self.segments) - 1, -1, -1):
            grad = self.segments[index].backward(grad)
            if grad is None:
                self._check_nothing_to_train(index)
                break
        return grad

    def _check_nothing_to_train(self, end: int) -> None:
        """The first `end` segments get no gradient: an error if one of their layers should be trained, as in Sequential."""
        for segment in self.segments[:end]:
            for name, layer in segment.layers:
                if any(parameter.requires_grad for parameter in layer.parameters()):
                    raise RuntimeError(
                        f"Sequential: {self.segments[end].names()} has requires_input_grad=False and gave no gradient, "
                        f"but layer {name!r} ({type(layer).__name__}) before it has parameters to train"
                    )

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
