"""Options: turns what a user passes for a number, a size, a flag or a word into what the rest computes with, or raises in numbers.

Every helper takes the function's or layer's name and the argument's for its message. The first lines of each are the good path, with exact type tests because
they are the cheapest; what is unusual goes to the slow half, which normalises (NumPy integers, lists of ints) or raises TypeError for a wrong type and
ValueError for a wrong value.
"""

from __future__ import annotations

import operator
from typing import Any

import numpy as np

MAX_INT = 2**31 - 1  # sizes fit a C int, so no product of two of them can overflow int64


def integer(value: Any, op: str, name: str, minimum: int, maximum: int = MAX_INT) -> int:
    """A Python int in [minimum, maximum]; NumPy integers are accepted, bools and floats are not."""
    if type(value) is int and minimum <= value <= maximum:
        return value
    return _unusual_integer(value, op, name, minimum, maximum, "an int", value)


def _unusual_integer(value: Any, op: str, name: str, minimum: int, maximum: int, expected: str, whole: Any) -> int:
    if isinstance(value, (bool, np.bool_, np.ndarray)):
        raise TypeError(f"{op}: {name} must be {expected}, got {type(value).__name__} {whole!r}")
    try:
        value = operator.index(value)
    except TypeError:
        raise TypeError(f"{op}: {name} must be {expected}, got {type(value).__name__} {whole!r}") from None
    if value < minimum:
        raise ValueError(f"{op}: {name} must be at least {minimum}, got {whole!r}")
    if value > maximum:
        raise ValueError(f"{op}: {name} must be at most {maximum}, got {whole!r}")
    return value


def pair(value: Any, op: str, name: str, minimum: int) -> tuple[int, int]:
    """(vertical, horizontal) from an int or two."""
    if type(value) is int and minimum <= value <= MAX_INT:
        return value, value
    if type(value) is tuple and len(value) == 2:
        a, b = value
        if type(a) is int and type(b) is int and minimum <= a <= MAX_INT and minimum <= b <= MAX_INT:
            return value
    return _unusual_ints(value, op, name, minimum, 2, "an int or a pair of ints")  # type: ignore[return-value]


def single(value: Any, op: str, name: str, minimum: int) -> int:
    """The same for one axis: an int, or a sequence of one."""
    if type(value) is int and minimum <= value <= MAX_INT:
        return value
    return _unusual_ints(value, op, name, minimum, 1, "an int or a tuple of one int")[0]


def _unusual_ints(value: Any, op: str, name: str, minimum: int, length: int, expected: str) -> tuple[int, ...]:
    if isinstance(value, (tuple, list)) or (isinstance(value, np.ndarray) and value.ndim == 1):
        if len(value) != length:
            raise ValueError(f"{op}: {name} must be {expected}, got {len(value)} values {value!r}")
        return tuple(_unusual_integer(item, op, name, minimum, MAX_INT, expected, value) for item in value)
    return (_unusual_integer(value, op, name, minimum, MAX_INT, expected, value),) * length


def as_given(value: Any, checked: tuple[int, ...]) -> int | tuple[int, ...]:
    """One int where the user gave one, else the tuple: layers show their sizes as they were written."""
    return checked if isinstance(value, (tuple, list, np.ndarray)) else checked[0]


def number(value: Any, op: str, name: str, minimum: float | None = None, maximum: float | None = None) -> float:
    """A Python float, within bounds where given (NaN is within none)."""
    if type(value) is not float:
        if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, float, np.integer, np.floating)):
            raise TypeError(f"{op}: {name} must be a number, got {type(value).__name__} {value!r}")
        value = float(value)
    if (minimum is not None and not value >= minimum) or (maximum is not None and not value <= maximum):
        bounds = f"at least {minimum:g}" if maximum is None else f"between {minimum:g} and {maximum:g}"
        raise ValueError(f"{op}: {name} must be {bounds}, got {value!r}")
    return value


def seed(value: Any, op: str, name: str = "seed") -> int:
    """A seed for numpy.random.default_rng: an int, 0 or more, however large."""
    return integer(value, op, name, 0, 2**256 - 1)


def flag(value: Any, op: str, name: str) -> bool:
    """A bool."""
    if value is True or value is False:
        return value
    if isinstance(value, np.bool_):
        return bool(value)
    raise TypeError(f"{op}: {name} must be a bool, got {type(value).__name__} {value!r}")


def choice(value: Any, op: str, name: str, choices: tuple[str, ...]) -> str:
    """One of a few words."""
    if isinstance(value, str) and value in choices:
        return value
    error = ValueError if isinstance(value, str) else TypeError
    raise error(f"{op}: {name} must be one of {', '.join(map(repr, choices))}, got {value!r}")
