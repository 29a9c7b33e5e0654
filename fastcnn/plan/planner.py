"""From a model, an input shape and a mode to a list of segments; and the cache of what has been planned."""

from __future__ import annotations

from collections.abc import Iterator
from operator import attrgetter
from typing import Any
from weakref import WeakValueDictionary

import numpy as np

from fastcnn import backend, nn
from fastcnn.backends.cpu import _lanes, _runtime, select
from fastcnn.nn import changes
from fastcnn.nn.fusion import replaced
from fastcnn.nn.parameter import FLOATS
from fastcnn.plan import narrow, wide
from fastcnn.plan.dense import Dense, Flat, Own
from fastcnn.plan.means import Mean, windows_of
from fastcnn.plan.memory import Layout, Memory
from fastcnn.plan.paths import Sum
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


# The layers that plans take apart, and the options of each that a plan depends on; every other layer runs as itself. attrgetter reads them all at once.
MODE = ("training", "requires_input_grad", "saves_for_backward")
POOL = ("kernel_size", "stride", "padding", "ceil_mode")
TAKEN = {
    nn.Conv2d: attrgetter(*MODE, "weight", "bias", "stride", "padding", "dilation", "groups", "padding_mode", "kernel_size", "in_channels", "out_channels"),
    nn.BatchNorm2d: attrgetter(*MODE, "weight", "bias", "eps", "num_features", "track_running_stats"),
    nn.Linear: attrgetter(*MODE, "weight", "bias", "in_features", "out_features"),
    nn.ReLU: attrgetter(*MODE),
    nn.LeakyReLU: attrgetter(*MODE, "negative_slope"),
    nn.MaxPool2d: attrgetter(*MODE, *POOL, "dilation", "return_indices"),
    nn.AvgPool2d: attrgetter(*MODE, *POOL, "count_include_pad", "divisor_override"),
    nn.AdaptiveAvgPool2d: attrgetter(*MODE, "output_size"),
    nn.Flatten: attrgetter(*MODE, "start_dim", "end_dim"),
}
WEIGHTED = frozenset((nn.Conv2d, nn.BatchNorm2d, nn.Linear))


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


def covers(layer: nn.Conv2d, shape: tuple) -> bool:
    """Does the kernel cover the unpadded input (C, H, W)? Then the convolution is a matrix product over the images."""
    return tuple(layer.kernel_size) == tuple(shape[1:]) and layer.padding in ("valid", (0, 0)) and layer.groups == 1


class Planner:
    """Plans for one model on the backend "cpu", made when they are first needed. `plan` returns None where there is nothing to plan: an input that is not
    a batch of images, a model that is not a chain of layers; then the model runs as it is."""

    def __init__(self, model: nn.Module) -> None:
        self.model, self.memory = model, Memory()
        self._plans: dict[tuple, tuple[Plan, list]] = {}
        self._unchanged: dict[tuple, Plan] = {}  # by kind of call, since the last change of any module
        self._version = -1
        self._lanes: WeakValueDictionary[tuple, _lanes.Lanes] = WeakValueDictionary()  # they live as long as a plan uses them

    def plan(self, x: Any, training: bool) -> Plan | None:
        if not isinstance(x, np.ndarray) or x.ndim != 4 or x.dtype not in FLOATS or not x.size or not x.dtype.isnative or not x.flags.aligned:
            return None
        if type(self.model) is not nn.Sequential or replaced(self.model) or isinstance(x, np.ma.MaskedArray):
            return None
        call = (x.shape, x.dtype.char, x.flags.c_contiguous, training, _runtime.isa(), select.algorithm.get())
        version = changes.latest()
        if version != self._version:
            self._version = version
            self._unchanged = {}
        return self._unchanged.get(call) or self._search(x, training, call)

    def _search(self, x: np.ndarray, training: bool, call: tuple) -> Plan | None:
        """A plan made before for the model as it is now, or a new one."""
        held: list[Any] = []
        key = (*call, *self._state(held))
        tells = True
        try:
            hash(key)
        except TypeError:  # an option given as a list, which may change and nobody is told
            key, tells = (repr(key),), False
        plan, _ = self._plans.pop(key, (None, None))
        if plan is None:
            try:
                plan = self.build(x.shape, x.dtype, training, x.flags.c_contiguous)
            except (TypeError, ValueError, ArithmeticError):  # ShapeError is one; the layers themselves say best what does not fit
                return None
            while len(self._plans) >= MOST_PLANS:
                self._plans.pop(next(iter(self._plans)))
                self._unchanged.clear()
        self._plans[key] = plan, held  # the latest one last
        if tells:
            self._unchanged[call] = plan
        return plan

    def _state(self, held: list[Any]) -> list[Any]:
        """What a plan depends on besides the input: which layers there are, with what options, in what mode, and over which arrays. Whatever is known by its id
        goes into `held`, which is kept with the plan: an id is nobody else's as long as its object lives."""
        state: list[Any] = []
        stack = [self.model]
        while stack:
            layer = stack.pop()
            values = vars(layer)
            if type(layer) is nn.Sequential and not replaced(layer):
                stack += reversed([child for child in values.values() if isinstance(child, nn.Module)])
                continue
            if type(layer) is nn.Residual:
                stack += [path for path in (layer.shortcut, layer.body) if path is not None]
            held.append(layer)
            kind = type(layer)
            options = TAKEN.get(kind)
            if options is None:
                state += id(layer), layer.training, layer.requires_input_grad
                continue
            state.append(options(layer))
            if kind in WEIGHTED:
                for parameter in (layer.weight, layer.bias):
                    if parameter is not None:
                        held.append(parameter.data)
                        state += id(parameter.data), parameter.requires_grad
            if kind is nn.BatchNorm2d:
                state += layer.running_mean is None, layer.running_var is None
            state.append(id(layer))
            if replaced(layer):
                state.append("replaced")
        return state

    def build(self, shape: tuple, dtype: np.dtype, training: bool, contiguous: bool = True) -> Plan:
        layout = Layout(dtype)
        segments, _, _ = self._chain(list(chain(self.model)), shape[0], shape[1:], dtype, training, False, "", layout)
        self.memory.bind(layout)
        x: np.ndarray | None = np.empty(shape, dtype)  # its format counts, not what it holds
        if not contiguous:
            x = np.empty((shape[0], *shape[2:], shape[1]), dtype).transpose(0, 3, 1, 2)
        for segment in segments:
            if x is not None:
                x = segment.prepare(x, segment.planned_shape)
        return Plan(self.model, segments, shape, dtype, training, layout.places()[1])

    def _chain(
        self, layers: list[Layer], batch: int, rest: tuple | None, dtype: np.dtype, training: bool, last: bool, path: str, layout: Layout
    ) -> tuple[list[Segment], tuple | None, bool]:
        """Segments for these layers, the shape of an image behind them (None where it is not known), and whether it is channels-last there; `rest` and `last`
        say the same of what comes in. `path` names the chain: its memory in inference is its own."""
        segments: list[Segment] = []
        at = 0
        while at < len(layers):
            segment, taken, rest, last = self._segment(layers[at:], batch, rest, dtype, training, last, segments, path, layout)
            segment.planned_shape = None if rest is None else (batch, *rest)
            segments.append(segment)
            at += taken
        return segments, rest, last

    def _segment(
        self,
        layers: list[Layer],
        batch: int,
        rest: tuple | None,
        dtype: np.dtype,
        training: bool,
        last: bool,
        before: list[Segment],
        chain_path: str,
        layout: Layout,
    ) -> tuple[Segment, int, tuple | None, bool]:
        """The next segment, how many layers it takes, the shape of an image behind it, and whether it is channels-last."""
        turn = sum(segment.in_turn for segment in before)
        region = f"{chain_path} output {turn % 2}"  # in inference outputs take turns: the input lies in the other one
        if rest is not None and len(rest) == 3 and (found := self._sum(layers, (batch, *rest), dtype, training, last, region, layout)):
            return found
        ours = []
        for path, layer in layers:
            if not apart(layer, training, dtype):
                break
            ours.append((path, layer))
        if ours and rest is not None and len(rest) == 3:
            shape = (batch, *rest)
            first = ours[0][1]
            if is_convolution(first, rest):
                if not last and (run := self._run(ours, rest, batch, dtype)):
                    taken = sum(stage.taken for stage in run)
                    lanes = self._shared_lanes(f"{chain_path} {len(before)}", run, rest, dtype)
                    return narrow.NarrowRun(ours[:taken], training, run, lanes, shape, region, self.memory, layout), taken, run[-1].output_shape, False
                if covers(first, rest) and (training or not last):
                    return self._dense(ours, shape, training)
                return self._block(ours, shape, training, before, region, chain_path, layout)
            if before and before[-1].makes_channels_last and (windows := windows_of(first, *rest[1:])):
                borrow = before[-1].lends_output
                segment = Mean(ours[:1], windows, shape, training, borrow, region, layout)
                return segment, 1, segment.output_shape, True
            if type(first) is nn.Flatten and (first.start_dim, first.end_dim) == (1, -1):
                flat = rest[0] * rest[1] * rest[2]
                return Flat(ours[:1], shape, dtype, training, last, layout), 1, (flat,), False
        if ours and rest is not None and len(rest) == 1 and is_linear(ours[0][1], rest[0]):
            return self._dense(ours, (batch, *rest), training)
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

    def _shared_lanes(self, place: str, run: list[narrow.Stage], shape: tuple, dtype: np.dtype) -> _lanes.Lanes:
        """One object, and so one memory, for the same run at the same place in the plans of all batch sizes."""
        specs = tuple(stage.spec for stage in run)
        key = place, specs, shape, dtype, _runtime.isa()
        lanes = self._lanes.get(key)
        if lanes is None:
            lanes = self._lanes[key] = _lanes.Lanes(dtype, shape, specs)
        return lanes

    def _sum(
        self, layers: list[Layer], shape: tuple, dtype: np.dtype, training: bool, last: bool, region: str, layout: Layout
    ) -> tuple[Segment, int, tuple, bool] | None:
        """A Residual with planned paths, and an activation behind it; None where the paths' shapes are not known or do not agree."""
        path, residual = layers[0]
        if type(residual) is not nn.Residual or replaced(residual) or residual.training != training:
            return None
        ends = []
        for name, module in (("body", residual.body), ("shortcut", residual.shortcut)):
            own = [] if module is None else list(chain(module, f"{path}.{name}" if path else name))
            ends.append(self._chain(own, shape[0], shape[1:], dtype, training, last, f"{path}.{name}", layout))
        (body, rest, body_last), (shortcut, other, _) = ends
        if rest is None or rest != other:
            return None
        taken = 2 if len(layers) > 1 and apart(layers[1][1], training, dtype) and narrow.slope_activation(layers[1][1]) else 1
        body_last = body_last and len(rest) == 3
        segment = Sum(layers[:taken], body, shortcut, shape, (shape[0], *rest), dtype, training, body_last, region, layout)
        return segment, taken, rest, body_last

    def _dense(self, layers: list[Layer], shape: tuple, training: bool) -> tuple[Segment, int, tuple, bool]:
        taken = 2 if len(layers) > 1 and narrow.slope_activation(layers[1][1]) else 1
        segment = Dense(layers[:taken], shape, training, self.memory)
        return segment, taken, segment.output_shape[1:], False

    def _block(
        self, layers: list[Layer], shape: tuple, training: bool, before: list[Segment], region: str, chain_path: str, layout: Layout
    ) -> tuple[Segment, int, tuple, bool]:
        block = wide.Block(layers, shape, training)
        own = layers[: block.taken]
        if not training:
            return wide.FoldedBlock(own, block, shape, region, layout), block.taken, block.output_shape, True
        return wide.WideBlock(own, block, shape, before[-1] if before else None, not chain_path, self.memory, layout), block.taken, block.output_shape, True


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
