"""A number that tells whether modules have changed: other layers, options, modes or arrays, not other values in the same arrays.

Whoever keeps something made of a model (a plan) reads `latest()` before making it, and need not look again until the number is another one. It counts for all
modules together: changes are rare, looking is not.
"""

from __future__ import annotations

import os
from itertools import count
from threading import Lock

_numbers = count(1)
_latest = 0
_lock = Lock()


def latest() -> int:
    return _latest


def note() -> None:
    """Something has changed: a number that has not been before."""
    global _latest
    with _lock:
        _latest = next(_numbers)


def move(before: int, after: int | None = None) -> int | None:
    """A change from one known state to another, that has had the number `after` or gets a new one. Returns the number.

    None if it was not `before` any more: then nobody knows the state it is now, which has a new number.
    """
    global _latest
    with _lock:
        known = _latest == before
        _latest = next(_numbers) if after is None or not known else after
        return _latest if known else None


def _in_child() -> None:
    """A forked child has none of the threads that may have held the lock."""
    global _lock
    _lock = Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)
