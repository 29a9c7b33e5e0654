"""Graph: launches recorded once and repeated with one call, so that a step of many small kernels does not wait for Python between them.

While a function is recorded its kernels do not run; they are remembered with the addresses that they were given. So everything they use must stay where it
is: inputs are written into arrays made before, and all memory comes from a pool of the graph's own. Copies to or from the host cannot be recorded.

numba has no call for CUDA graphs, but the driver's own binding, which numba-cuda is built on, has (cuStreamBeginCapture and on). In the simulator the launches
are kept in a list.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from . import _device, _memory
from ._memory import SIMULATED, cuda

if not SIMULATED:
    from cuda.bindings import driver


class Graph:
    """`with graph.memory(): ...` computes in the graph's own memory; `graph.record(function)` records it there; `graph.replay()` runs what was recorded."""

    def __init__(self) -> None:
        self._pool = _memory.Pool()
        self._launches: list[tuple] = []
        self._executable: Any = None

    def memory(self) -> Any:
        """A context in which new arrays come from the graph's pool."""
        return _memory.using(self._pool)

    def record(self, function: Callable[[], Any]) -> Any:
        """Call function, whose kernels must have run before (compiling is no launch), and return what it does; nothing is computed until replay."""
        with self.memory():
            return self._listed(function) if SIMULATED else self._captured(function)

    def _listed(self, function: Callable[[], Any]) -> Any:
        _device.recorded = self._launches
        try:
            return function()
        finally:
            _device.recorded = None

    def _captured(self, function: Callable[[], Any]) -> Any:
        cuda.default_stream().synchronize()
        # Non-blocking and relaxed: other threads may go on with the default stream, in which batches are copied.
        handle = _checked(driver.cuStreamCreate(driver.CUstream_flags.CU_STREAM_NON_BLOCKING.value))
        try:
            _checked(driver.cuStreamBeginCapture(handle, driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_RELAXED))
            try:
                with _memory.in_stream(cuda.external_stream(int(handle))):
                    result = function()
            finally:
                graph = _checked(driver.cuStreamEndCapture(handle))
            self._executable = _checked(driver.cuGraphInstantiate(graph, 0))
            _checked(driver.cuGraphDestroy(graph))
        finally:
            _checked(driver.cuStreamDestroy(handle))
        return result

    def replay(self) -> None:
        """Run the recorded launches, after everything that was asked for before."""
        if SIMULATED:
            for arguments in self._launches:
                _device.launch(*arguments)
        else:
            _checked(driver.cuGraphLaunch(self._executable, driver.CUstream(0)))

    def __del__(self) -> None:
        if getattr(self, "_executable", None) is not None:
            driver.cuGraphExecDestroy(self._executable)


def _checked(answer: tuple) -> Any:
    """The value of a call of the driver's binding, which answers (error, value)."""
    error, *values = answer
    if error != driver.CUresult.CUDA_SUCCESS:
        raise RuntimeError(f"the CUDA driver answered {error.name}")
    return values[0] if values else None
