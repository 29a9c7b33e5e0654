"""The library's default random generator, used wherever no rng is given: layer initialisation, dropout, initialisers."""

from __future__ import annotations

import os

import numpy as np

from .options import seed as checked

_rng = np.random.default_rng()


def manual_seed(seed: int) -> np.random.Generator:
    """Restart the default generator from seed and return it."""
    global _rng
    _rng = np.random.default_rng(checked(seed, "manual_seed"))
    return _rng


def default_rng(rng: np.random.Generator | int | None = None) -> np.random.Generator:
    """The generator to draw from: rng itself, a fresh one seeded with an int, or the library's default for None."""
    if rng is None:
        return _rng
    if isinstance(rng, np.random.Generator):
        return rng
    if isinstance(rng, (int, np.integer)) and not isinstance(rng, bool):
        return np.random.default_rng(checked(rng, "default_rng", "rng"))
    raise TypeError(f"rng must be a numpy.random.Generator, an int seed or None, got {type(rng).__name__}")


def _in_child() -> None:
    """In a forked child: a generator holds a lock while it draws, and the thread that drew is not here. The numbers go on from where they were."""
    global _rng
    known = _rng.bit_generator
    if known.lock.acquire(blocking=False):
        known.lock.release()
        return
    mended = type(known)()
    mended.state = known.state
    _rng = np.random.Generator(mended)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)
