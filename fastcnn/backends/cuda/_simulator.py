"""The blocks of numba's simulator, quicker and stricter: installed where kernels are simulated, never on a GPU.

numba gives each thread of a block a thread of Python's and polls all of them until they are done, which is most of the time that it takes. Here one thread of
Python's runs the block's threads one after the other, and another one is started only when one has to wait at a barrier; whoever has run hands over by a
semaphore. The results are the same, as long as the kernel is right:

- Between two barriers a block's threads may run in any order, so nothing may depend on it. `order` says which one is taken; in every phase it is turned round.
  A kernel with a race gives other numbers in another order, which a test looks for.
- A barrier is for all threads of a block. Where some wait and others have ended, a GPU need not go on; here it is an error.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numba.cuda.simulator import kernel as simulator

order: Callable[[Sequence], Sequence] = list  # of a block's threads, in the first phase


class Thread(simulator.BlockThread):
    """A thread of Python's that is threads of a block, the next one whenever one has ended. It never runs beside another one of its block."""

    def __init__(self, kernel: Callable[[], None], block: Block, place: tuple[int, ...], indices: Iterator[tuple[int, ...]]) -> None:
        super().__init__(kernel, block, place, (0, 0, 0), False)
        self.kernel, self.block, self.indices = kernel, block, indices
        self.go = threading.Semaphore(0)
        self.waits = False  # at a barrier
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            for index in self.indices:
                self.threadIdx = simulator.Dim3(*index)
                self.kernel()
                self.block.ended += 1
        except BaseException as error:  # raised again by the block, in the thread that launched the kernel
            self.error = error
        self.block.handed_over.release()

    def syncthreads(self) -> None:
        self.waits = True
        self.block.handed_over.release()
        self.go.acquire()
        if self.abort:
            raise RuntimeError("another thread of the block has failed")
        self.waits = False


class Block(simulator.BlockManager):
    """Runs a block of threads at a place of the grid."""

    def run(self, place: tuple[int, ...], *arguments: Any) -> None:
        self.handed_over = threading.Semaphore(0)
        self.ended = 0
        everyone = order(list(np.ndindex(*self._block_dim)))
        indices = iter(everyone)
        waiting: list[Thread] = []
        try:
            while self.ended + len(waiting) < len(everyone):
                thread = Thread(lambda: self._f(*arguments), self, place, indices)
                waiting.append(thread)
                thread.start()
                self._hand_over(waiting, thread)
            while waiting:
                if self.ended:
                    raise RuntimeError(f"{self._f.__name__}: {self.ended} threads of a block have ended, {len(waiting)} wait at a barrier for them")
                for thread in waiting[::-1]:  # each goes on, to the next barrier or its end
                    thread.go.release()
                    self._hand_over(waiting, thread)
                waiting.reverse()
        finally:
            for thread in waiting:
                thread.abort = True
                thread.go.release()

    def _hand_over(self, waiting: list[Thread], thread: Thread) -> None:
        """Wait until the thread waits or ends."""
        self.handed_over.acquire()
        if not thread.waits:
            waiting.remove(thread)
        if thread.error is not None:
            raise thread.error


def install() -> None:
    simulator.BlockManager = Block
