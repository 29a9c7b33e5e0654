"""Runner: a model by its plans, where there are any."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from fastcnn import backend
from fastcnn.nn import changes


@dataclass
class Switch:
    """From a state of all modules (by its number in nn.changes) to the same with these modules in evaluation mode."""

    before: int
    after: int | None
    modules: list[Any]


def placed(model: Any) -> Any:
    """The model, its parameters and buffers moved to the device if the current backend computes there."""
    return model.to("cuda") if backend.current().name == "cuda" else model


class Runner:
    """Keeps the plans of a model, and runs it by them in inference. On other backends than "cpu", and where there is nothing to plan, its layers are
    called one by one."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self._planner: Any = None
        self._inference = threading.RLock()
        self._switch = Switch(-1, None, [])

    def __getstate__(self) -> dict[str, Any]:
        """Pickle and deepcopy leave out the plans: they are memory, and made again when needed."""
        return {"model": self.model}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, _planner=None, _inference=threading.RLock(), _switch=Switch(-1, None, []))

    def plan(self, x: np.ndarray, training: bool) -> Any:
        """The plan for such a batch, or None where the layers are called one by one."""
        if backend.current().name != "cpu":
            return None
        if self._planner is None:
            from fastcnn.plan import Planner  # needs the compiled core

            self._planner = Planner(self.model)
        return self._planner.plan(x, training)

    @contextlib.contextmanager
    def evaluating(self) -> Iterator[None]:
        """Evaluation mode inside; afterwards every module has the mode it had, also one that was frozen by hand.

        To find the modules takes as long as a small network's prediction, so they are remembered until something changes.
        """
        before = changes.latest()
        switch = self._switch
        if before not in (switch.before, switch.after):
            switch = self._switch = Switch(before, None, [module for module in self.model.modules() if module.training])
        if before == switch.after or not switch.modules:  # nothing is in training mode
            yield
            return
        for module in switch.modules:
            object.__setattr__(module, "training", False)
        switch.after = after = changes.move(before, switch.after)
        try:
            yield
        finally:
            for module in switch.modules:
                object.__setattr__(module, "training", True)
            changes.move(-1 if after is None else after, before)

    def infer(self, x: np.ndarray, refreshed: set[int]) -> np.ndarray:
        """The output of the model, which is in evaluation mode, where x is; `refreshed` are the plans that have taken over the present weights."""
        with self._inference:  # plans share their memory; several threads may ask for predictions
            plan = self.plan(x, training=False)
            if plan is not None:
                if id(plan) not in refreshed:
                    plan.refresh()
                    refreshed.add(id(plan))
                return plan.forward(x)
        there = backend.place(x)
        output = self.model(there)
        return output if there is x else backend.to_host(output)
