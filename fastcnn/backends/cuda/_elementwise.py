"""Kernels that compute each element of the output from the same element of their inputs: one thread per element, made from a formula.

A formula is a function of numbers; its constants have the type of its first argument (`type(x)(0.5)`), because a plain 0.5 is a double, and doubles are slow.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ._device import DeviceArray, blocks, empty, flat, launch
from ._memory import SIMULATED, cuda

TILE = 8 if SIMULATED else 256  # elements per block, one per thread


class Elementwise:
    """An element-wise op: `op(input, ..., option, ...)` for `arrays` device arrays of one shape and `options` numbers."""

    def __init__(self, formula: Callable, arrays: int, options: int) -> None:
        self.name, self.formula, self.arrays, self.options = formula.__name__.lstrip("_"), formula, arrays, options
        self.kernel = _KERNELS[arrays, options](cuda.jit(device=True)(formula), self.name)

    def __call__(self, *arguments: Any) -> DeviceArray:
        arrays, options = arguments[: self.arrays], arguments[self.arrays :]
        output = empty(arrays[0].shape, arrays[0].dtype)
        kind = output.dtype.type
        launch(self.kernel, blocks(output.size, TILE), TILE, *map(flat, arrays), flat(output), *(kind(option) for option in options))
        return output

    @property
    def listed(self) -> tuple[str, Any, str]:
        """The kernel's entry in KERNELS."""
        return self.name, self.kernel, f"void({', '.join(['float32[::1]'] * (self.arrays + 1) + ['float32'] * self.options)})"


def elementwise(arrays: int, options: int = 0) -> Callable[[Callable], Elementwise]:
    """Decorator of a formula of `arrays` elements and `options` numbers."""
    return lambda formula: Elementwise(formula, arrays, options)


def _one(formula: Any, name: str) -> Any:
    def kernel(x, output):
        i = cuda.grid(1)
        if i < output.size:
            output[i] = formula(x[i])

    return _named(kernel, name)


def _one_with_one(formula: Any, name: str) -> Any:
    def kernel(x, output, option):
        i = cuda.grid(1)
        if i < output.size:
            output[i] = formula(x[i], option)

    return _named(kernel, name)


def _one_with_two(formula: Any, name: str) -> Any:
    def kernel(x, output, option, other):
        i = cuda.grid(1)
        if i < output.size:
            output[i] = formula(x[i], option, other)

    return _named(kernel, name)


def _two(formula: Any, name: str) -> Any:
    def kernel(x, y, output):
        i = cuda.grid(1)
        if i < output.size:
            output[i] = formula(x[i], y[i])

    return _named(kernel, name)


def _two_with_one(formula: Any, name: str) -> Any:
    def kernel(x, y, output, option):
        i = cuda.grid(1)
        if i < output.size:
            output[i] = formula(x[i], y[i], option)

    return _named(kernel, name)


def _two_with_two(formula: Any, name: str) -> Any:
    def kernel(x, y, output, option, other):
        i = cuda.grid(1)
        if i < output.size:
            output[i] = formula(x[i], y[i], option, other)

    return _named(kernel, name)


def _named(kernel: Any, name: str) -> Any:
    kernel.__name__ = kernel.__qualname__ = name
    return cuda.jit(kernel)


_KERNELS = {(1, 0): _one, (1, 1): _one_with_one, (1, 2): _one_with_two, (2, 0): _two, (2, 1): _two_with_one, (2, 2): _two_with_two}
