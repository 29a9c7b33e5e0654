"""A number that tells whether modules have changed: other layers, options, modes or arrays, not other values in the same arrays.

Whoever keeps something made of a model (a plan) reads `latest()` before making it, and need not look again until the number is another one. It counts for all
modules together: changes are rare, looking is not.
"""

from __future__ import annotations

from itertools import count

_numbers = count(1)  # next() of it is one step of the interpreter, so that two threads never get the same number
_latest = 0


def latest() -> int:
    return _latest


def note() -> None:
    """Something has changed. The number is new even where two threads come at once: whichever is written last, nobody has read it before."""
    global _latest
    _latest = next(_numbers)
