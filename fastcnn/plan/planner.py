"""From a model, an input shape and a mode to a list of segments; and the cache of what has been planned."""

from __future__ import annotations

from collections.abc import Iterator
from types import NoneType
from typing import Any
from weakref import WeakValueDictionary

import numpy as np

from fastcnn import backend, nn
from fastcnn.backends.cpu import _lanes, _runtime, select
from fastcnn.nn.parameter import FLOATS
from fastcnn.plan import narrow, wide
from fastcnn.plan.dense import Dense, Flat, Own
from fastcnn.plan.memory import Layout, Memory
from fastcnn.plan.plan import Plan
from fastcnn.plan.segment import Convolution, Layer, Segment

MOST_PLANS = 4  # kept per model: a training batch, the last one of an epoch, and the same in evaluation


def chain(model: nn.Module, prefix: str = "") -> Iterator[Layer]:
    """The layers of a (nested) Sequential in order, with their paths; any other module is one layer."""
    if type(model) is not nn.Sequential or replaced(model):
        yield prefix, model
        return
    for name, child in model.named_children():
        yield from chain(child, f"{prefix}.{name}" if prefix else name)


# The layers that plans take apart; every other one runs as itself.
TAKEN = frozenset((nn.Conv2d, nn.BatchNorm2d, nn.ReLU, nn.LeakyReLU, nn.MaxPool2d, nn.AvgPool2d, nn.Flatten, nn.Linear))
# What the options of those are.
PLAIN = frozenset((int, float, bool, str, tuple, NoneType))
NOTHING: frozenset = frozenset()


def replaced(layer: nn.Module) -> bool:
    """Has somebody given the object methods of its own, to look at what passes through it?"""
    return "forward" in vars(layer) or "backward" in vars(layer)


def apart(layer: nn.Module, training: bool, dtype: np.dtype) -> bool:
    """Whether a plan may do the layer's work for it: one of ours, unchanged, in the mode that the plan is for, with plain arrays of its dtype."""
    if type(layer) not in TAKEN or replaced(layer):
        return False
    if layer.training != training or (layer.saves_for_backward is not None and layer.saves_for_backward != training):
        return False
    for parameter in layer.parameters():
        if parameter.dtype != dtype or not parameter.data.flags.c_contiguous or not parameter.data.flags.aligned:
            return False
    return True


def is_convolution(layer: nn.Module, shape: tuple) -> bool:
    """A Conv2d that a plan can run on (C, H, W) images."""
    return type(layer) is nn.Conv2d and layer.padding_mode == "zeros" and Convolution("", layer).fits(shape)


def is_linear(layer: nn.Module, features: int) -> bool:
    if type(layer) is not nn.Linear or layer.weight.shape != (layer.out_features, features):
        return False
    return layer.bias is None or layer.bias.shape == (layer.out_features,)


class Planner:
    """Plans for one model on the backend "cpu", made when they are first needed. `plan` returns None where there is nothing to plan: an input that is not
    a batch of images, a model that is not a chain of layers; then the model runs as it is."""

    def __init__(self, model: nn.Module) -> None:
        self.model, self.memory = model, Memory()
        self._plans: dict[tuple, tuple[Plan, list]] = {}
        self._lanes: WeakValueDictionary[tuple, _lanes.Lanes] = WeakValueDictionary()  # they live as long as a plan uses them

    def plan(self, x: Any, training: bool) -> Plan | None:
        if not isinstance(x, np.ndarray) or x.ndim != 4 or x.dtype not in FLOATS or not x.size or not x.dtype.isnative or not x.flags.aligned:
            return None
        if type(self.model) is not nn.Sequential or replaced(self.model) or isinstance(x, np.ma.MaskedArray):
            return None
        held: list[Any] = []
        key = (x.shape, x.dtype, x.flags.c_contiguous, training, _runtime.isa(), select.algorithm.get(), *self._state(held))
        plan, _ = self._plans.pop(key, (None, None))
        if plan is None:
            try:
                plan = self.build(x.shape, x.dtype, training, x.flags.c_contiguous)
            except (TypeError, ValueError):  # ShapeError is one; the layers themselves say best what does not fit
                return None
            while len(self._plans) >= MOST_PLANS:
                self._plans.pop(next(iter(self._plans)))
        self._plans[key] = plan, held  # the latest one last
        return plan

    def _state(self, held: list[Any]) -> list[Any]:
        """What a plan depends on besides the input: which layers there are, with what options, in what mode, and over which arrays. Whatever is known by its id
        goes into `held`, which is kept with the plan: an id is nobody else's as long as its object lives. This runs in every step."""
        state: list[Any] = []
        for _, layer in chain(self.model):
            held.append(layer)
            state += id(layer), layer.training, layer.saves_for_backward, layer.requires_input_grad
            values = vars(layer)
            options = PLAIN if type(layer) in TAKEN else NOTHING
            for name in values:
                value = values[name]
                kind = type(value)
                if kind is nn.Parameter:
                    held.append(value.data)
                    state += id(value.data), value.requires_grad
                elif kind in options and name != "_saved":
                    state.append(value)
            if "forward" in values or "backward" in values:
                state.append("replaced")
        return state

    def build(self, shape: tuple, dtype: np.dtype, training: bool, contiguous: bool = True) -> Plan:
        layers, layout = list(chain(self.model)), Layout()
        segments: list[Segment] = []
        shapes: list[tuple | None] = []
        batch, at, last = shape[0], 0, False  # last: the segment before hands on channels-last images
        rest: tuple | None = shape[1:]  # of an image on its way; None once it is not known
        while at < len(layers):
            segment, taken, rest, last = self._segment(layers[at:], batch, rest, dtype, training, last, segments, layout)
            segments.append(segment)
            shapes.append(None if rest is None else (batch, *rest))
            at += taken
        self.memory.bind(layout)
        x: np.ndarray | None = np.empty(shape, dtype)  # its format counts, not what it holds
        if not contiguous:
            x = np.empty((shape[0], *shape[2:], shape[1]), dtype).transpose(0, 3, 1, 2)
        for segment, output_shape in zip(segments, shapes, strict=True):
            if x is not None:
                x = segment.prepare(x, output_shape)
        return Plan(self.model, segments, shape, dtype, training, layout.places()[1])

    def _segment(
        self, layers: list[Layer], batch: int, rest: tuple | None, dtype: np.dtype, training: bool, last: bool, before: list[Segment], layout: Layout
    ) -> tuple[Segment, int, tuple | None, bool]:
        """The next segment, how many layers it takes, the shape of an image behind it, and whether it is channels-last."""
        ours = []
        for path, layer in layers:
            if not apart(layer, training, dtype):
                break
            ours.append((path, layer))
        if ours and rest is not None and len(rest) == 3:
            shape = (batch, *rest)
            first = ours[0][1]
            turn = sum(segment.in_turn for segment in before)
            if is_convolution(first, rest):
                if not last and (run := self._run(ours, rest, batch, dtype)):
                    taken = sum(stage.taken for stage in run)
                    lanes = self._shared_lanes(len(before), run, rest, dtype)
                    return narrow.NarrowRun(ours[:taken], training, run, lanes, shape, turn, self.memory, layout), taken, run[-1].output_shape, False
                if not self._covers(first, rest, last):
                    return self._block(ours, shape, training, turn, before, layout)
            if type(first) is nn.Flatten and (first.start_dim, first.end_dim) == (1, -1):
                flat = rest[0] * rest[1] * rest[2]
                return Flat(ours[:1], shape, dtype, training, last, layout), 1, (flat,), False
        if ours and rest is not None and len(rest) == 1 and is_linear(ours[0][1], rest[0]):
            return Dense(ours[:1], training, self.memory), 1, (ours[0][1].out_features,), False
        return Own(layers[:1], training), 1, shape_behind(layers[0][1], rest, dtype), last

    def _run(self, layers: list[Layer], shape: tuple, batch: int, dtype: np.dtype) -> list[narrow.Stage]:
        """As many stages as run in the lanes, from the first layer on."""
        stages: list[narrow.Stage] = []
        at = 0
        while at < len(layers) and len(stages) < narrow.MOST_STAGES:
            layer = layers[at][1]
            if not is_convolution(layer, shape) or narrow.declines(layer, shape, batch, dtype):
                break
            stage = narrow.stage(layers[at:], shape, dtype)
            stages.append(stage)
            at += stage.taken
            shape = stage.output_shape
        # a run that ends before a normalisation would hand its images over in the middle of a block
        if at < len(layers) and type(layers[at][1]) is nn.BatchNorm2d:
            stages.pop()
        return stages

    def _shared_lanes(self, place: int, run: list[narrow.Stage], shape: tuple, dtype: np.dtype) -> _lanes.Lanes:
        """One object, and so one memory, for the same run at the same place in the plans of all batch sizes."""
        specs = tuple(stage.spec for stage in run)
        key = place, specs, shape, dtype, _runtime.isa()
        lanes = self._lanes.get(key)
        if lanes is None:
            lanes = self._lanes[key] = _lanes.Lanes(dtype, shape, specs)
        return lanes

    def _covers(self, layer: nn.Conv2d, shape: tuple, last: bool) -> bool:
        """Does the kernel cover the unpadded input? In C-contiguous memory that is a matrix product, which the layer itself does well."""
        return not last and tuple(layer.kernel_size) == tuple(shape[1:]) and layer.padding in (0, "valid", (0, 0)) and layer.groups == 1

    def _block(
        self, layers: list[Layer], shape: tuple, training: bool, turn: int, before: list[Segment], layout: Layout
    ) -> tuple[Segment, int, tuple, bool]:
        block = wide.Block(layers, shape, training)
        own = layers[: block.taken]
        if not training:
            return wide.FoldedBlock(own, block, shape, turn, layout), block.taken, block.output_shape, True
        borrow = bool(before) and before[-1].lends_output
        return wide.WideBlock(own, block, shape, True, borrow, self.memory, layout), block.taken, block.output_shape, True


def shape_behind(layer: nn.Module, rest: tuple | None, dtype: np.dtype) -> tuple | None:
    """The shape of an image behind a layer that runs as itself. Our own layers tell by running on an empty batch; a user's may do anything then, so
    theirs is not known, nor is what a container makes of one."""
    if rest is None or any(not type(module).__module__.startswith("fastcnn.") or replaced(module) for module in layer.modules()):
        return None
    modes = [(module, module.training, module._saved) for module in layer.modules()]
    layer.eval()
    try:
        with backend.use_backend("reference"):
            return layer(np.zeros((0, *rest), dtype)).shape[1:]
    finally:
        for module, training, saved in modes:
            module.training = training
            vars(module)["_saved"] = saved
