"""Capture: forward, loss and backward of a training step recorded once on a device and repeated, instead of launched kernel by kernel from Python.

A small network's step is dozens of kernels of microseconds each, and Python takes longer to launch one than it takes to run. Recorded, they are one call.
What is repeated are the same launches with the same arguments, so nothing in them may change from step to step but the numbers in the arrays: the batch
is copied into arrays that stay, and the optimizer's update, whose rates move with the steps, is launched as ever.
"""

from __future__ import annotations

from typing import Any

from fastcnn import backend, nn
from fastcnn.nn import changes


class Capture:
    """The recorded steps of a model and its loss, one for every shape of a batch, with and without TF32."""

    def __init__(self, model: Any, loss: Any) -> None:
        self.model, self.loss = model, loss
        self._steps: dict[tuple, _Step] = {}
        self._state = -1

    def __getstate__(self) -> dict[str, Any]:
        """Pickle and deepcopy leave out what was recorded: it is memory of one process."""
        return {"model": self.model, "loss": self.loss, "_steps": {}, "_state": -1}

    def run(self, x: Any, y: Any) -> tuple[Any, Any]:
        """(logits, loss) of a batch, the parameters' gradients made; the optimizer must have forgotten those of the step before."""
        if self._state != changes.latest():  # other layers, options or arrays: recorded addresses and launches may be wrong
            self._steps.clear()
            self.check()
            self._state = changes.latest()
        key = x.shape, y.shape, x.dtype, y.dtype, backend.current().tf32_allowed()
        step = self._steps.get(key)
        if step is None:
            step = self._steps[key] = _Step(self.model, self.loss)
        return step.run(x, y)

    def check(self) -> None:
        """ValueError if the model's steps cannot be recorded, or not on the current backend."""
        if not hasattr(backend.current(), "Graph"):
            raise ValueError(f"Trainer: capture=True is for backend 'cuda', the current one is {backend.current().name!r}")
        for path, module in self.model.named_modules():
            layer = f"{path} ({type(module).__name__})"
            if isinstance(module, (nn.Dropout, nn.VanillaDropout)) and module.p > 0 and module.training:
                raise ValueError(f"Trainer: capture=True repeats the same launches, but {layer} draws anew in every step")
            if getattr(module, "momentum", 0.0) is None:
                raise ValueError(f"Trainer: capture=True repeats the same launches, but {layer} averages with another share in every step")


class _Step:
    """The first batch of its shape is computed as it is, which compiles kernels and fills the graph's memory; the second one is recorded."""

    def __init__(self, model: Any, loss: Any) -> None:
        self.model, self.loss = model, loss
        self.graph = backend.current().Graph()
        self.begun = False
        self.result: tuple[Any, Any] | None = None

    def run(self, x: Any, y: Any) -> tuple[Any, Any]:
        if not self.begun:
            self.begun = True
            with self.graph.memory():
                logits, value = self._compute(x, y)
            return logits.copy(), value.copy()
        if self.result is None:
            self._record(x, y)
        else:
            self.x[...], self.y[...] = x, y
            for module, name, change in self.counted:
                count = getattr(module, name)
                count += change  # in place
        self.graph.replay()
        for parameter, grad in self.grads:
            parameter.grad = grad
        logits, value = self.result
        return logits.copy(), value.copy()  # the next replay writes over these, and the caller may look at them later

    def _compute(self, x: Any, y: Any) -> tuple[Any, Any]:
        logits = self.model(x)
        value = self.loss(logits, y)
        self.model.backward(self.loss.backward())
        return logits, value

    def _record(self, x: Any, y: Any) -> None:
        self.x, self.y = x.copy(), y.copy()
        before = self._counts()
        for module in (*self.model.modules(), self.loss):
            vars(module)["_saved"] = None  # what the first step left there gives its memory back before it is needed
        self.result = self.graph.record(lambda: self._compute(self.x, self.y))
        changes = [(module, name, value - before[module, name]) for (module, name), value in self._counts().items()]
        self.counted = [(module, name, change) for module, name, change in changes if change.any()]
        self.grads = [(parameter, parameter.grad) for parameter in self.model.parameters() if parameter.grad is not None]

    def _counts(self) -> dict[tuple[Any, str], Any]:
        """The integer buffers, which are counted on the host (copies)."""
        buffers = ((module, name, getattr(module, name)) for module in self.model.modules() for name in module._buffer_names)
        return {(module, name): value.copy() for module, name, value in buffers if value is not None and value.dtype.kind == "i"}
