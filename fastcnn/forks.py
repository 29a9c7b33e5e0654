"""What a forked child has to mend: only the thread that forked is there, and a lock that another one held would never be released.

NumPy's generators and the standard library's queues have such locks too. The library's default generator is mended (fastcnn.random); one that a program shares
between its threads is for the program to make anew.
"""

from __future__ import annotations

import os
from typing import Any
from weakref import WeakSet

_owners: WeakSet[Any] = WeakSet()


def mend(owner: Any) -> None:
    """Call owner.forked() in every forked child, as long as the owner lives."""
    _owners.add(owner)


def _in_child() -> None:
    for owner in list(_owners):
        owner.forked()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)
