"""One comparison: the same job in every library's own process, judged by the reference, then timed in turns.

A row's results   {library: {"error": e, "minimum": s, "lower": s, "median": s, "upper": s, "repeats": n, "calls": n, "peak": bytes,
                  and what the job tells of it} or {"refused": why}}
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict
from typing import Any

from bench import rss
from bench.checks import WrongResult
from bench.peers import Fastcnn, Library, Unusable
from bench.timing import interleaved
from bench.worker import Arrays, Failed, Job, Server, Worker

Results = dict[str, dict[str, Any]]

YARDSTICK_REPEATS = 3
"""Turns of what is a yardstick and no rival: the NumPy codes, which take the longest by far."""


class Contest(AbstractContextManager):
    """The processes of a comparison; only one of them works at a time."""

    start: Callable[[Library, int], Worker | Server] = Worker
    """How a library is started: the tests put Server here, to stay in one process."""

    def __init__(self, libraries: Sequence[Library], threads: int) -> None:
        """Start all libraries, and the reference as judge if it is not among them."""
        judge = Fastcnn("reference")
        self._workers: dict[Library, Worker | Server] = {}
        try:
            for library in dict.fromkeys([*libraries, judge]):
                self._workers[library] = type(self).start(library, threads)
            for worker in self._workers.values():
                _ = worker.about
        except Failed as error:
            self.close()
            raise Unusable(str(error)) from None
        self._judge = self._workers[judge]
        self._judged: tuple[Job | None, tuple[Arrays, dict[str, Any]] | None] = (None, None)
        self._contestants = [self._workers[library] for library in libraries]
        self._yardsticks = {library.name for library in libraries[1:] if library.yardstick}

    @property
    def ours(self) -> Worker | Server:
        """The library that is measured: the first one."""
        return self._contestants[0]

    @property
    def about(self) -> dict[str, str]:
        """Lines for the header about the builds that are compared."""
        return {"processes": "one per library"} | {key: line for worker in self._workers.values() for key, line in worker.about.items()}

    def truth(self, job: Job) -> Arrays:
        """What the reference computes; it keeps this job, and computes nothing twice if it is timed with it."""
        self._judged = job, self._judge.prepare(job)
        return self._judged[1][0]

    def measure(self, job: Job, truth: Arrays, verdict: Callable[[Arrays, Arrays], float], repeats: int) -> Results:
        """One row. verdict(results, truth) returns the error or raises WrongResult; who is wrong, or failed, is not timed."""
        results: Results = {}
        sides = []
        for worker in self._contestants:
            try:
                kept = worker is self._judge and job is self._judged[0]
                answer = self._judged[1] if kept else worker.prepare(job)
                if answer is not None:
                    results[worker.name] = {"error": verdict(answer[0], truth)} | answer[1]
                    worker.call(rss.reset_peak)
                    sides.append(worker)
            except (WrongResult, Failed) as refusal:
                results[worker.name] = {"refused": str(refusal)}
        turns = {side.name: min(YARDSTICK_REPEATS, repeats) if side.name in self._yardsticks else repeats for side in sides}
        for name, timing in interleaved(sides, turns).items():
            results[name] |= asdict(timing)
        for side in sides:
            results[side.name]["peak"] = side.call(rss.peak)
        for worker in self._workers.values():
            worker.release()
        self._judged = None, None
        return results

    def close(self) -> None:
        for worker in self._workers.values():
            worker.close()

    def __exit__(self, *exception: object) -> None:
        self.close()
