"""Class numbers that are none: what every backend says of a target it cannot use as an index."""

from __future__ import annotations

from typing import Any

import numpy as np


def check_classes(op: str, target: Any, num_classes: int, ignore_index: int) -> None:
    """ValueError that names the first of the int64 target that is neither a class number nor ignore_index."""
    # Read as unsigned, negative numbers are huge: one pass finds both kinds of outliers.
    if target.size and int(np.ascontiguousarray(target).view(np.uint64).max()) >= num_classes:
        wrong = target[((target < 0) | (target >= num_classes)) & (target != ignore_index)]
        if wrong.size:
            raise ValueError(f"{op}: target holds {wrong[0]} but input has {num_classes} classes, 0 to {num_classes - 1}")
