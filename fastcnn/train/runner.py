"""Runner: a model by its plans, where there are any."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np

from fastcnn import backend
from fastcnn.nn import changes


@contextlib.contextmanager
def evaluating(model: Any) -> Iterator[None]:
    """Evaluation mode inside; afterwards every module has the mode it had, also one that was frozen by hand."""
    training = [module for module in model.modules() if module.training]
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True


class Runner:
    """Keeps the plans of a model, and runs it by them in inference. On other backends than "cpu", and where there is nothing to plan, its layers are
    called one by one."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self._planner: Any = None
        self._inference = threading.RLock()
        self._found_evaluating = -1  # the changes.latest() at which no module was in training mode

    def __getstate__(self) -> dict[str, Any]:
        """Pickle and deepcopy leave out the plans: they are memory, and made again when needed."""
        return {"model": self.model}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, _planner=None, _inference=threading.RLock(), _found_evaluating=-1)

    def plan(self, x: np.ndarray, training: bool) -> Any:
        """The plan for such a batch, or None where the layers are called one by one."""
        if backend.current().name != "cpu":
            return None
        if self._planner is None:
            from fastcnn.plan import Planner  # needs the compiled core

            self._planner = Planner(self.model)
        return self._planner.plan(x, training)

    def evaluating(self) -> contextlib.AbstractContextManager[None]:
        """Evaluation mode inside, as evaluating(model); nothing is looked at where the model was in it before and no module has changed since."""
        version = changes.latest()
        if version != self._found_evaluating:
            if any(module.training for module in self.model.modules()):
                return evaluating(self.model)
            self._found_evaluating = version
        return contextlib.nullcontext()

    def infer(self, x: np.ndarray, refreshed: set[int]) -> np.ndarray:
        """The output of the model, which is in evaluation mode; `refreshed` are the plans that have taken over the present weights."""
        with self._inference:  # plans share their memory; several threads may ask for predictions
            plan = self.plan(x, training=False)
            if plan is not None:
                if id(plan) not in refreshed:
                    plan.refresh()
                    refreshed.add(id(plan))
                return plan.forward(x)
        return self.model(x)
