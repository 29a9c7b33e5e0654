"""Runner: a model by its plans, where there are any."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from fastcnn import backend, forks
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
    called one by one. Any number of threads may ask for predictions at once."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self._prepare()

    def _prepare(self) -> None:
        self._planner: Any = None
        self._inference = threading.RLock()
        self._switch = Switch(-1, None, [])
        self._modes = threading.Lock()  # for the two below
        self._evaluators: dict[object, int] = {}  # who is in `evaluating` at the moment, and in which thread
        self._switched: Switch | None = None  # what the first of them has switched, for the last one to restore
        forks.mend(self)

    def __getstate__(self) -> dict[str, Any]:
        """Pickle and deepcopy leave out the plans: they are memory, and made again when needed."""
        return {"model": self.model}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._prepare()

    def forked(self) -> None:
        """In a forked child: what the parent's other threads were doing will never be finished here."""
        here = threading.get_ident()
        self._modes = threading.Lock()
        if self._inference.acquire(blocking=False):
            self._inference.release()
        else:
            self._inference, self._planner = threading.RLock(), None  # a plan may be half refreshed
        self._evaluators = {token: thread for token, thread in self._evaluators.items() if thread == here}
        if not self._evaluators:
            self._restore_modes()

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
        """Evaluation mode inside; afterwards every module has the mode it had, also one that was frozen by hand. Of several threads in it at once the first
        one switches the modules, and the last one restores them."""
        token = object()
        try:
            with self._modes:
                self._evaluators[token] = threading.get_ident()
                if len(self._evaluators) == 1:
                    self._switch_modes()
            yield
        finally:
            with self._modes:
                if self._evaluators.pop(token, None) is not None and not self._evaluators:
                    self._restore_modes()

    def _switch_modes(self) -> None:
        """To find the modules takes as long as a small network's prediction, so they are remembered until something changes."""
        before = changes.latest()
        switch = self._switch
        if before not in (switch.before, switch.after):
            switch = self._switch = Switch(before, None, [module for module in self.model.modules() if module.training])
        if before == switch.after or not switch.modules:  # nothing is in training mode
            return
        self._switched = Switch(before, None, switch.modules)
        for module in switch.modules:
            object.__setattr__(module, "training", False)
        switch.after = self._switched.after = changes.move(before, switch.after)

    def _restore_modes(self) -> None:
        switched, self._switched = self._switched, None
        if switched is None:
            return
        for module in switched.modules:
            object.__setattr__(module, "training", True)
        changes.move(-1 if switched.after is None else switched.after, switched.before)

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
