"""summary(model, input_shape): each layer's output shape, parameters, multiply-adds and receptive field."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from fastcnn import backend, nn, shapes
from fastcnn.options import integer

Axis = list[tuple[int, int, int]]  # (kernel, stride, dilation) of the layers so far along one axis
# The layers along rows and along columns; ALL after a layer that mixes all pixels; None where neither can say what an output sees.
Path = tuple[Axis, Axis] | str | None
ALL = "all"


class Row(NamedTuple):
    """One layer. macs is None where it is not known, receptive_field where there is none to speak of."""

    name: str
    kind: str
    output_shape: tuple[int, ...]
    parameters: int
    macs: int | None
    receptive_field: tuple[int, int] | None


class Summary:
    """Rows in the order of execution, and totals; str() is a table.

    parameters            each counted once, also those that two layers share
    trainable_parameters  those with requires_grad
    macs                  multiply-adds of one image's forward pass in convolutions and linear layers, where all the work is
    """

    def __init__(self, model: Any, input_shape: Sequence[int], rows: list[Row]):
        self.input_shape = tuple(input_shape)
        self.rows = rows
        self.parameters = sum(parameter.size for parameter in model.parameters())
        self.trainable_parameters = sum(parameter.size for parameter in model.parameters() if parameter.requires_grad)
        self.macs = sum(row.macs or 0 for row in rows)
        self.complete = all(row.macs is not None for row in rows)

    def __str__(self) -> str:
        titles = ("layer", "", "output", "parameters", "multiply-adds", "receptive field")
        lines = [(row.name, row.kind, shapes.by(row.output_shape), f"{row.parameters:,}", _count(row.macs), _field(row.receptive_field)) for row in self.rows]
        lines.append(("total", "", "", f"{self.parameters:,}", f"{self.macs:,}", ""))
        widths = [max(len(line[column]) for line in [titles, *lines]) for column in range(len(titles))]
        text = [_line(titles, widths), "-" * (sum(widths) + 2 * (len(widths) - 1))]
        text += [_line(line, widths) for line in lines[:-1]]
        text += [text[1], _line(lines[-1], widths), ""]
        text.append(f"input {shapes.by(self.input_shape)}; multiply-adds of one image's forward pass; receptive field in input pixels")
        if self.trainable_parameters != self.parameters:
            text.append(f"{self.trainable_parameters:,} of the parameters are trained, the others are frozen")
        if not self.complete:
            text.append("?: a layer whose multiply-adds are not known; the total leaves it out")
        return "\n".join(line.rstrip() for line in text)

    __repr__ = __str__

    def to_dict(self) -> dict[str, Any]:
        """The same as plain numbers, for JSON."""
        return {
            "input_shape": self.input_shape,
            "layers": [row._asdict() for row in self.rows],
            "parameters": self.parameters,
            "trainable_parameters": self.trainable_parameters,
            "macs": self.macs,
        }


def summary(model: Any, input_shape: Sequence[int]) -> Summary:
    """Summarise a fastcnn.nn module for inputs of input_shape, the batch axis left out: summary(model, (1, 32, 32)).

    Shapes come from running each layer on an empty batch, which costs nothing and raises the layer's own ShapeError where it does not fit.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"summary: model must be a fastcnn.nn module, got {type(model).__name__}")
    if not isinstance(input_shape, (tuple, list)):
        raise TypeError(f"summary: input_shape must be a tuple of ints, got {type(input_shape).__name__} {input_shape!r}")
    input_shape = tuple(integer(size, "summary", "input_shape", 1) for size in input_shape)
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        rows: list[Row] = []
        dtype = next((parameter.dtype for parameter in model.parameters()), np.dtype(np.float32))
        walker = _Walker(rows, dtype, tuple(input_shape))
        there = any(backend.on_device(parameter.data) for parameter in model.parameters())
        with backend.use_backend("cuda" if there else "reference"):  # shapes are the same on every backend, and the latter needs no compiler
            walker.walk("", model, tuple(input_shape), ([], []) if len(input_shape) == 3 else None)
    finally:
        for module, training in modes:
            module.training = training
    return Summary(model, input_shape, rows)


class _Walker:
    """Follows an empty batch through the containers; every layer adds its row."""

    def __init__(self, rows: list[Row], dtype: np.dtype, input_shape: tuple[int, ...]):
        self.rows, self.dtype, self.input_shape = rows, dtype, input_shape

    def walk(self, name: str, module: Any, shape: tuple[int, ...], path: Path) -> tuple[tuple[int, ...], Path]:
        """Add the rows of module, which is given images of this shape; returns the shape and path after it."""
        if _is(module, nn.Sequential):
            for child, layer in module.named_children():
                shape, path = self.walk(f"{name}.{child}" if name else child, layer, shape, path)
            return shape, path
        if _is(module, nn.Residual) or _is(module, nn.Concat):
            return self.branches(name, module, shape, path)
        output_shape = self.output_shape(module, shape)
        path = _extend(path, module, shape, output_shape)
        parameters = sum(parameter.size for parameter in module.parameters())
        self.rows.append(Row(name, _kind(module), output_shape, parameters, _macs(module, shape, output_shape), self.field(path)))
        return output_shape, path

    def branches(self, name: str, module: Any, shape: tuple[int, ...], path: Path) -> tuple[tuple[int, ...], Path]:
        """Both paths of a Residual or all of a Concat, then the row of their joint output, which sees what the widest path sees."""
        ends = [self.walk(f"{name}.{child}" if name else child, branch, shape, path) for child, branch in module.named_children()]
        output_shape = self.output_shape(module, shape)
        paths = [end for _, end in ends]
        if isinstance(module, nn.Residual) and module.shortcut is None:
            paths.append(path)
        joint: Path = None
        if ALL in paths:
            joint = ALL
        elif paths and None not in paths:
            joint = tuple(max((end[axis] for end in paths), key=lambda layers: shapes.receptive_field(layers)[0]) for axis in (0, 1))
        kind = "Residual (sum)" if isinstance(module, nn.Residual) else "Concat"
        self.rows.append(Row(name, kind, output_shape, 0, 0, self.field(joint)))
        return output_shape, joint

    def output_shape(self, module: Any, shape: tuple[int, ...]) -> tuple[int, ...]:
        batch = 0 if type(module).__module__.startswith("fastcnn.") else 1  # a user's own layer need not know empty batches
        return module(backend.place(np.zeros((batch, *shape), self.dtype))).shape[1:]

    def field(self, path: Path) -> tuple[int, int] | None:
        if path is None:
            return None
        return self.input_shape[1:] if path == ALL else tuple(shapes.receptive_field(axis)[0] for axis in path)


def _is(module: Any, container: type) -> bool:
    """Whether module runs its children as this container does: one of the class, or of a subclass that has kept its forward."""
    return isinstance(module, container) and type(module).forward is container.forward


def _pair(value: Any) -> tuple[int, int]:
    return (value, value) if isinstance(value, (int, np.integer)) else tuple(value)


_WINDOWS = (nn.Conv2d, nn.MaxPool2d, nn.AvgPool2d)
_POINTWISE = (
    nn.BatchNorm2d, nn.Dropout, nn.ELU, nn.GELU, nn.Identity, nn.LeakyReLU, nn.PReLU, nn.ReLU, nn.SELU, nn.SiLU, nn.Sigmoid, nn.Softplus,
    nn.Tanh, nn.VanillaDropout,
)  # fmt: skip


def _extend(path: Path, module: Any, shape: tuple[int, ...], output_shape: tuple[int, ...]) -> Path:
    """The path with one more layer."""
    if path is None or path == ALL or isinstance(module, _POINTWISE):
        return path
    if isinstance(module, nn.Linear):
        return ALL
    if isinstance(module, _WINDOWS):
        kernel, stride, dilation = (_pair(getattr(module, option, 1)) for option in ("kernel_size", "stride", "dilation"))
        return tuple([*path[axis], (kernel[axis], stride[axis], dilation[axis])] for axis in (0, 1))
    if isinstance(module, (nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d)):
        windows = [shape[axis] // output_shape[axis] for axis in (1, 2)]
        if all(windows[axis - 1] * output_shape[axis] == shape[axis] for axis in (1, 2)):  # otherwise the windows differ in size
            return tuple([*path[axis], (windows[axis], windows[axis], 1)] for axis in (0, 1))
    if isinstance(module, nn.Flatten):  # the same pixels in another shape
        return path
    return None


def _macs(module: Any, shape: tuple[int, ...], output_shape: tuple[int, ...]) -> int | None:
    if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
        pixels = shape[1:] if isinstance(module, nn.ConvTranspose2d) else output_shape[1:]
        return shapes.conv2d_macs(1, module.in_channels, module.out_channels, module.kernel_size, pixels, module.groups)
    if isinstance(module, nn.Conv1d):
        return shapes.conv2d_macs(1, module.in_channels, module.out_channels, (1, *module.kernel_size), (1, output_shape[1]), module.groups)
    if isinstance(module, nn.Linear):
        rows = int(np.prod(shape[:-1]))
        return shapes.linear_macs(rows, module.in_features, module.out_features)
    return 0 if type(module).__module__.startswith("fastcnn.") else None


def _kind(module: Any) -> str:
    """The layer in a word or three: 'Conv2d 3x3 stride 2'."""
    text = type(module).__name__
    if hasattr(module, "kernel_size"):
        kernel = module.kernel_size if isinstance(module, nn.Conv1d) else _pair(module.kernel_size)
        text += " " + shapes.by(kernel)
        default = 1 if hasattr(module, "in_channels") else kernel
        stride = tuple(module.stride) if isinstance(module, nn.Conv1d) else _pair(module.stride)
        if stride != (default if isinstance(default, tuple) else (default,) * len(stride)):
            text += f" stride {stride[0] if len(set(stride)) == 1 else shapes.by(stride)}"
    if getattr(module, "groups", 1) != 1:
        text += f" groups {module.groups}"
    return text


def _count(value: int | None) -> str:
    return "?" if value is None else f"{value:,}" if value else "-"


def _field(value: tuple[int, int] | None) -> str:
    return "" if value is None else shapes.by(value)


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    """Names to the left, numbers to the right."""
    return "  ".join(cell.ljust(width) if column < 2 else cell.rjust(width) for column, (cell, width) in enumerate(zip(cells, widths, strict=True)))
