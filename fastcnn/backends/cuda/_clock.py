"""Time as the device sees it: events are marks in the stream, and the time between two of them is that of what lies between."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from . import _memory
from ._memory import SIMULATED, cuda


def seconds(call: Callable[[], Any], calls: int = 1) -> float:
    """Seconds per call, measured with events around `calls` of them; the host waits at the end. In the simulator those of a clock."""
    if SIMULATED:
        begin = time.perf_counter()
        for _ in range(calls):
            call()
        return (time.perf_counter() - begin) / calls
    begin, end, stream = cuda.event(), cuda.event(), _memory.stream()
    begin.record(stream)
    for _ in range(calls):
        call()
    end.record(stream)
    end.synchronize()
    return begin.elapsed_time(end) / 1e3 / calls
