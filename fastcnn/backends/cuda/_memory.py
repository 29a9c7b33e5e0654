"""The device's memory, and the only way in and out of it: a pool of blocks that are used again, copies that are counted.

All work runs in one stream, in the order in which it was asked for. So a block whose array has died may be handed out again at once, even while a kernel
still reads it: whatever the new owner asks for runs later.

In numba's simulator (NUMBA_ENABLE_CUDASIM=1) the "device" memory is the host's, by address as on a GPU, so everything here but the copying is the same there.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from typing import Any

import numpy as np

try:
    from numba import cuda
    from numba.cuda.cudadrv.driver import CudaAPIError
except ImportError as error:
    raise ImportError(f"numba-cuda is missing ({error}): pip install 'fastcnn[cuda]'", name="numba") from error

SIMULATED = not hasattr(cuda, "from_cuda_array_interface")  # only the driver can wrap memory that it did not allocate
_OUT_OF_MEMORY = 2

if SIMULATED:
    from . import _simulator

    _simulator.install()


def missing() -> str | None:
    """What is not there to run kernels with, None if everything is."""
    if SIMULATED or cuda.is_available():
        return None
    try:
        found = len(cuda.gpus)
    except Exception as error:  # numba has a class for each way in which a driver can be absent
        return f"no NVIDIA driver can be used ({' '.join(str(error).split()).strip(' :')})"
    return "there is no NVIDIA GPU" if not found else "numba finds no NVVM to compile kernels with: pip install 'fastcnn[cuda]'"


def device_name() -> str:
    """'NVIDIA H100, compute capability 9.0', or the simulator."""
    if SIMULATED:
        return "numba's simulator"
    device = cuda.get_current_device()
    name = device.name.decode() if isinstance(device.name, bytes) else device.name
    return f"{name}, compute capability {'.'.join(map(str, device.compute_capability))}"


def numba_version() -> str:
    import numba

    try:
        return f"{metadata.version('numba-cuda')} (numba {numba.__version__})"
    except metadata.PackageNotFoundError:
        return f"numba {numba.__version__}"


# --- copies between host and device -------------------------------------------------------------------------------------------------


@dataclass
class Copies:
    """How often memory was copied between host and device, and how often the host waited for the device."""

    to_device: int = 0
    to_host: int = 0
    waits: int = 0


copies = Copies()


def stream() -> Any:
    """The stream that everything runs in: the default one, which PyTorch and CuPy use too, so their arrays need no waiting for."""
    global _default
    if _default is None:
        _default = cuda.default_stream()  # kept: numba knows its launch configurations by the stream object
    return getattr(_local, "stream", None) or _default


_default: Any = None
_local = threading.local()  # while a thread records a graph: `stream`; while it computes in a graph's memory: `pool`


@contextmanager
def in_stream(other: Any) -> Iterator[None]:
    """What this thread asks for inside runs in another stream."""
    _local.stream = other
    try:
        yield
    finally:
        _local.stream = None


@contextmanager
def using(other: Pool) -> Iterator[None]:
    """New arrays of this thread come from another pool inside."""
    before, _local.pool = getattr(_local, "pool", None), other
    try:
        yield
    finally:
        _local.pool = before


def take(nbytes: int) -> Block:
    """A block of at least nbytes, from the pool in use."""
    return (getattr(_local, "pool", None) or pool).take(nbytes)


def _bytes_at(pointer: int, nbytes: int) -> Any:
    """nbytes of device memory as an array of numba's."""
    if SIMULATED:
        return np.frombuffer((ctypes.c_uint8 * nbytes).from_address(pointer), np.uint8)
    return cuda.from_cuda_array_interface({"shape": (nbytes,), "strides": None, "typestr": "|u1", "data": (pointer, False), "version": 3}, sync=False)


def upload(pointer: int, host: np.ndarray) -> None:
    """Copy a C-contiguous host array to the device. `host` may be written to again afterwards, unless it is pinned: then not before the copy has run."""
    copies.to_device += 1
    if not host.nbytes:
        return
    raw = host.reshape(-1).view(np.uint8)
    if SIMULATED:
        _bytes_at(pointer, host.nbytes)[:] = raw
    else:
        _bytes_at(pointer, host.nbytes).copy_to_device(raw, stream=stream())


def download(pointers: list[int], hosts: list[np.ndarray]) -> None:
    """Copy to C-contiguous host arrays, and wait once for all of them. ValueError if a kernel has found a fault since the last time."""
    copies.to_host += len(pointers)
    copies.waits += 1
    seen = None
    if _faults is not None:
        seen = np.zeros(_faults.shape, np.int64)
        pointers, hosts = [*pointers, _faults.pointer], [*hosts, seen]
    for pointer, host in zip(pointers, hosts, strict=True):
        if not host.nbytes:
            continue
        raw = host.reshape(-1).view(np.uint8)
        if SIMULATED:
            raw[:] = _bytes_at(pointer, host.nbytes)
        else:
            _bytes_at(pointer, host.nbytes).copy_to_host(raw, stream=stream())
    stream().synchronize()
    if seen is not None and seen[0]:
        _faults.fill(0)
        raise ValueError(_FAULTS[int(seen[0])].format(*seen[1:]))


# --- faults that kernels find -------------------------------------------------------------------------------------------------------

# What a kernel cannot raise it writes down: a number of this table and two values. A copy to the host looks at it, which costs nothing there.
_FAULTS = {
    1: "a loss on the device: target holds {0} but input has {1} classes",
    2: "binary_cross_entropy: input must hold probabilities between 0 and 1; for logits use binary_cross_entropy_with_logits",
}
_faults: Any = None


def fault_record(empty: Callable) -> Any:
    """(3,) int64 on the device: the number of a fault, 0 for none, and its values."""
    global _faults
    if _faults is None:
        with using(pool):
            record = empty((3,), np.int64)
        record.fill(0)
        _faults = record
    return _faults


class Staging:
    """Pinned host buffers for uploads that the host does not wait for: the copy engine reads them directly.

    There are `depth` of them in turn, each with an event that says when its last copy has run.
    """

    def __init__(self, depth: int = 4) -> None:
        self._slots: list[tuple[np.ndarray, Any] | None] = [None] * depth
        self._next = 0
        self._lock = threading.Lock()  # several runs may prepare batches at a time

    def upload(self, pointer: int, host: np.ndarray) -> None:
        with self._lock:
            slot = self._slots[self._next]
            if slot is not None:
                slot[1].synchronize()  # its last copy has run: the buffer may be written to, or given back
            if slot is None or slot[0].nbytes < host.nbytes:
                slot = cuda.pinned_array(size_class(host.nbytes), np.uint8), cuda.event(timing=False) if not SIMULATED else cuda.event()
                self._slots[self._next] = slot
            self._next = (self._next + 1) % len(self._slots)
            pinned, copied = slot
            staged = pinned[: host.nbytes].view(host.dtype).reshape(host.shape)
            np.copyto(staged, host)
            upload(pointer, staged)
            copied.record(stream())


# --- the pool -----------------------------------------------------------------------------------------------------------------------


def size_class(nbytes: int) -> int:
    """nbytes rounded up to a multiple of 512, above 4 KiB to one of eight sizes per power of two: at most an eighth is wasted."""
    step = max(512, 1 << max(0, (nbytes - 1).bit_length() - 4))
    return max(512, -(-nbytes // step) * step)


class Block:
    """A piece of device memory, given back to its pool when nobody refers to it any more."""

    __slots__ = ("pointer", "size", "_memory", "_pool")

    def __init__(self, pool: Pool, memory: Any, pointer: int, size: int) -> None:
        self._pool, self._memory, self.pointer, self.size = pool, memory, pointer, size

    def __del__(self) -> None:
        self._pool._give(self._memory, self.pointer, self.size)


class Pool:
    """Device memory by size. Asking the driver for memory waits for the device; the pool asks once per size and block that is needed at a time."""

    def __init__(self) -> None:
        self._free: dict[int, list[tuple[Any, int]]] = {}
        self._lock = threading.RLock()  # a Block may die while its thread holds it
        self.allocated = 0  # bytes taken from the driver
        self.requests = 0

    def take(self, nbytes: int) -> Block:
        """A block of at least nbytes; MemoryError if the device has none left."""
        size = size_class(nbytes)
        with self._lock:
            self.requests += 1
            free = self._free.get(size)
            memory, pointer = free.pop() if free else self._allocate(size)
        return Block(self, memory, pointer, size)

    def _allocate(self, size: int) -> tuple[Any, int]:
        if SIMULATED:
            memory = np.empty(size, np.uint8)
            pointer = memory.ctypes.data
        else:
            try:
                memory = cuda.device_array(size, np.uint8)
            except CudaAPIError as error:
                if error.code != _OUT_OF_MEMORY:
                    raise
                self.release()
                try:
                    memory = cuda.device_array(size, np.uint8)
                except CudaAPIError:
                    raise MemoryError(f"the device has no {size:,} bytes left, {self.allocated:,} are in use: use a smaller batch") from None
            pointer = memory.__cuda_array_interface__["data"][0]
        self.allocated += size
        return memory, pointer

    def _give(self, memory: Any, pointer: int, size: int) -> None:
        with self._lock:
            self._free.setdefault(size, []).append((memory, pointer))

    def release(self) -> None:
        """Give the memory that no array uses back to the driver."""
        with self._lock:
            self.allocated -= sum(size * len(free) for size, free in self._free.items())
            self._free.clear()


pool = Pool()
