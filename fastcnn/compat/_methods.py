"""Methods for a course's own classes.

Layers of the same name in a module of the same name need not be the same: the second book's Affine keeps its weights in a list. So a method is replaced only
in a class that reads or sets the attributes that ours uses, in whichever of its methods (a half-finished one may not do so yet).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from typing import Any

from ._install import Choose


def attributes(method: Callable) -> set[str]:
    """The names of attributes (and globals) that a method, and the others of its class and its bases, use; nothing of those that are not written in Python."""
    function = inspect.unwrap(method)
    home = getattr(function, "__globals__", {}).get(getattr(function, "__qualname__", "").partition(".")[0])
    methods = [value for base in home.__mro__ for value in vars(base).values()] if isinstance(home, type) else [function]
    return {name for value in methods for name in getattr(getattr(value, "__code__", None), "co_names", ())}


def where_used(method: Callable, *needed: str, make: Callable[[Callable], Any] | None = None) -> Choose:
    """method, or make(original), in place of an original whose class uses all of these attributes."""

    def choose(original: Callable) -> Any:
        if not attributes(original).issuperset(needed):
            return None
        return method if make is None else make(original)

    return Choose(choose, like=method)


def pair(kind: type, first: Iterable[str], second: Iterable[str], names: tuple[str, str] = ("forward", "backward")) -> dict[str, Choose]:
    """kind's two methods, each with the attributes that the original's class must use."""
    return {name: where_used(vars(kind)[name], *needed) for name, needed in zip(names, (first, second), strict=True)}
