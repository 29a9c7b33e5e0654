"""explain(op, ...): run one functional op and report which implementation computed it, and why the earlier ones declined."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from . import functional
from .backend import Dispatch, current, recording


@dataclass(frozen=True)
class Explanation:
    """What ran for one call. op: the functional op's name; backend: the backend's name; dispatches: every primitive, in order.

    chosen, declined: those of the first primitive.
    """

    op: str
    backend: str
    dispatches: tuple[Dispatch, ...]

    @property
    def chosen(self) -> str:
        """The implementation that ran."""
        return self.dispatches[0].chosen if self.dispatches else self.backend

    @property
    def declined(self) -> tuple[tuple[str, str], ...]:
        """(name, reason) of every implementation earlier in the list."""
        return self.dispatches[0].declined if self.dispatches else ()

    def __str__(self) -> str:
        lines = [f"{self.op} on backend {self.backend}"]
        for dispatch in self.dispatches:
            lines += [f"  {dispatch.op}: declined {name}: {reason}" for name, reason in dispatch.declined]
            lines.append(f"  {dispatch.op}: chosen {dispatch.chosen}")
        if not self.dispatches:
            lines.append("  no primitive was needed")
        return "\n".join(lines)


def explain(op: str | Callable[..., Any], *args: Any, **kwargs: Any) -> Explanation:
    """Call the functional op (its name or the function) once with these arguments, and say what ran: print(explain("conv2d", x, weight))."""
    function = getattr(functional, op, None) if isinstance(op, str) else op
    if not callable(function):
        raise ValueError(f"explain: fastcnn.functional has no op {op!r}")
    with recording() as dispatches:
        function(*args, **kwargs)
    return Explanation(function.__name__, current().name, tuple(dispatches))
