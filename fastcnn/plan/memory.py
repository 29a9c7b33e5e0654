"""The memory of a model's plans: one block for activations and their gradients, and the parameters' gradients, kept from step to step.

Fresh memory is paid for at its first touch (a page fault per 4 KiB, 1 to 4 us each: 30 ms for 32 MB), which a step over new arrays pays every time.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np

from fastcnn.nn.parameter import Parameter

ALIGNMENT = 64
HUGE_PAGE = 1 << 21


class Buffer:
    """A place in the block that a segment has asked for; `array` once the plan is bound. Buffers of one region lie over each other."""

    def __init__(self, shape: Sequence[int], dtype: Any, channels_last: bool, region: str | None, made_twice: bool) -> None:
        self.shape, self.dtype, self.channels_last, self.region, self.made_twice = tuple(shape), np.dtype(dtype), channels_last, region, made_twice
        self.nbytes = prod(self.shape) * self.dtype.itemsize
        self.array: np.ndarray = None

    def bind(self, block: np.ndarray, offset: int) -> None:
        flat = block[offset : offset + self.nbytes].view(self.dtype)
        if self.channels_last:
            N, C, H, W = self.shape
            self.array = flat.reshape(N, H, W, C).transpose(0, 3, 1, 2)
        else:
            self.array = flat.reshape(self.shape)


class Memory:
    """Shared by the plans of one model: only one of them is between forward and backward at a time."""

    def __init__(self) -> None:
        self._block = np.empty(0, np.uint8)
        self._gradients: dict[int, tuple[Parameter, np.ndarray]] = {}

    def gradient(self, parameter: Parameter) -> np.ndarray:
        """An array of the parameter's shape and dtype, the same one every time; fresh where the last one still is somebody's gradient."""
        known = self._gradients.get(id(parameter))
        if known is None or known[1].shape != parameter.shape or known[1].dtype != parameter.dtype or parameter.grad is not None:
            known = self._gradients[id(parameter)] = parameter, np.empty(parameter.shape, parameter.dtype)
        return known[1]

    def bind(self, layout: Layout) -> None:
        """Give every buffer of a plan its place, in a larger block if need be."""
        places, nbytes = layout.places()
        if nbytes > len(self._block):
            raw = np.empty(nbytes + HUGE_PAGE, np.uint8)  # NumPy asks for huge pages itself
            start = -raw.ctypes.data % HUGE_PAGE
            self._block = raw[start : start + nbytes]
        for buffer, offset in zip(layout.buffers, places, strict=True):
            buffer.bind(self._block, offset)


class Layout:
    """The buffers of one plan: one after the other, or where they name a region, over each other."""

    def __init__(self, dtype: np.dtype) -> None:
        self.dtype = dtype  # of the plan's images
        self.buffers: list[Buffer] = []

    def buffer(self, shape: Sequence[int], dtype: Any, channels_last: bool = False, region: str | None = None, made_twice: bool = False) -> Buffer:
        """made_twice: its segment is done with it before those behind it run forward, and makes it again after they have run backward: it lies under what they
        ask for."""
        buffer = Buffer(shape, dtype, channels_last, region, made_twice)
        self.buffers.append(buffer)
        return buffer

    def drop(self, buffer: Buffer) -> None:
        """The segment that asked for it needs it no more."""
        self.buffers.remove(buffer)

    def places(self) -> tuple[list[int], int]:
        """Each buffer's offset, and the bytes of all."""
        regions: dict[str, int] = {}
        for buffer in self.buffers:
            if buffer.region is not None:
                regions[buffer.region] = max(regions.get(buffer.region, 0), buffer.nbytes)
        offset, most, starts, places = 0, 0, {}, []
        for region, nbytes in regions.items():
            starts[region] = offset
            offset += padded(nbytes)
        for buffer in self.buffers:
            if buffer.region is not None:
                places.append(starts[buffer.region])
                continue
            places.append(offset)
            most = max(most, offset + padded(buffer.nbytes))
            if not buffer.made_twice:
                offset += padded(buffer.nbytes)
        return places, max(most, offset)


def padded(nbytes: int) -> int:
    """Whole cache lines and one more between neighbours: arrays a power of two apart would fall into the same sets of the cache."""
    return -(-nbytes // ALIGNMENT) * ALIGNMENT + ALIGNMENT
