"""One library in a process of its own, and the handle by which the timer gives it turns.

Requests and answers are pickles over the process's stdin and stdout, one answer per request. The process has one thread of
Python, so between requests it waits in a read; whatever its library's threads do then is for timing._settle() to wait out.
"""

import contextlib
import os
import pickle
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np

from bench import environment
from bench.peers import Library
from bench.timing import Contender

ROOT = Path(__file__).parents[1]

BOOT = """\
import sys
sys.path.insert(0, sys.argv[1])
import fastcnn
sys.path[:] = sys.argv[2:]
from bench.worker import main
main()
"""
"""What a worker runs: fastcnn is taken from one folder, the suite and all else from where this process has them, so that one suite can compare two versions."""

Arrays = list[np.ndarray]


class Failed(RuntimeError):
    """A request that a worker could not fulfil, or a worker that ended; the message says which and why."""


@dataclass(frozen=True)
class Prepared:
    """One library's share of a comparison: what is timed, what it computed to be checked, and facts for the row."""

    contender: Contender
    results: Arrays
    facts: dict[str, Any] = field(default_factory=dict)


class Job(Protocol):
    """A problem; pickled into every process of the comparison."""

    def prepare(self, library: Library) -> Prepared | None:
        """Make the operands, compute once; None if the library has nothing of the kind."""


class Server:
    """What happens inside the process: the library, and the job at hand."""

    def __init__(self, library: Library, threads: int) -> None:
        self.name = library.name
        self.library = library
        self.about = library.start(threads)
        self._contender: Contender | None = None

    def prepare(self, job: Job) -> tuple[Arrays, dict[str, Any]] | None:
        """Results and facts of the job, which then is what turns call."""
        self._contender = None
        prepared = job.prepare(self.library)
        if prepared is None:
            return None
        self._contender = prepared.contender
        return prepared.results, prepared.facts

    def once(self) -> float:
        return self._job().once()

    def turn(self, calls: int) -> float:
        return self._job().turn(calls)

    def release(self) -> None:
        self._contender = None

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Anything else that has to happen in this process."""
        return function(*arguments)

    def cpu_seconds(self) -> float | None:
        return None

    def close(self) -> None:
        self.release()

    def _job(self) -> Contender:
        if self._contender is None:
            raise Failed(f"{self.name} has no job")
        return self._contender


class Worker:
    """A Server in a process of its own. The same methods; those of one that failed raise Failed."""

    def __init__(self, library: Library, threads: int) -> None:
        self.name = library.name
        variables = os.environ | environment.thread_variables(threads) | library.environment()
        command = [sys.executable, "-c", BOOT, str(library.root or ROOT), str(ROOT), *filter(None, sys.path)]
        self._process = subprocess.Popen(command, env=variables, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self._clock = (~self._process.pid << 3) | 2  # Linux's CPU clock of another process
        self._about: dict[str, str] | None = None
        self._send((library, threads))

    @property
    def about(self) -> dict[str, str]:
        """Lines for the header; waits until the library is imported."""
        if self._about is None:
            self._about = self._receive("its start")
        return self._about

    def prepare(self, job: Job) -> tuple[Arrays, dict[str, Any]] | None:
        return self._request("prepare", job)

    def once(self) -> float:
        return self._request("once")

    def turn(self, calls: int) -> float:
        return self._request("turn", calls)

    def release(self) -> None:
        self._request("release")

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        return self._request("call", function, *arguments)

    def cpu_seconds(self) -> float | None:
        if not sys.platform.startswith("linux"):
            return None
        try:
            return time.clock_gettime(self._clock)
        except OSError:  # it has ended
            return None

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        try:
            self._process.wait(timeout=2)
        except subprocess.TimeoutExpired:  # in the middle of a request that nobody waits for any more
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()

    def _request(self, method: str, *arguments: Any) -> Any:
        _ = self.about  # started, or Failed
        self._send((method, arguments))
        return self._receive(method)

    def _send(self, message: Any) -> None:
        with contextlib.suppress(BrokenPipeError):  # _receive tells how it ended
            _write(self._process.stdin, message)

    def _receive(self, what: str) -> Any:
        try:
            error, answer = pickle.load(self._process.stdout)
        except EOFError:
            raise Failed(f"the process of {self.name} ended with status {self._process.wait()} during {what}") from None
        if error is not None:
            raise Failed(error)
        return answer


def main() -> None:
    """The process: serve requests until stdin ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent's to handle
    requests = sys.stdin.buffer
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints must not get between the answers
    library, threads = pickle.load(requests)
    server = _answer(answers, lambda: Server(library, threads), lambda made: made.about)
    while server is not None:
        try:
            method, arguments = pickle.load(requests)
        except EOFError:
            return
        _answer(answers, lambda method=method, arguments=arguments: getattr(server, method)(*arguments))


def _answer(answers: BinaryIO, act: Callable[[], Any], told: Callable[[Any], Any] = lambda value: value) -> Any:
    """Act, send what came of it, and return that; None if it failed."""
    try:
        value = act()
        _write(answers, (None, told(value)))
        return value
    except Exception as error:
        trace = traceback.extract_tb(error.__traceback__)[-1]
        _write(answers, (f"{type(error).__name__}: {error} ({Path(trace.filename).name}:{trace.lineno})", None))
        return None


def _write(stream: BinaryIO, message: Any) -> None:
    pickle.dump(message, stream, protocol=pickle.HIGHEST_PROTOCOL)
    stream.flush()
