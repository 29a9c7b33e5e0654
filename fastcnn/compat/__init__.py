"""Courses whose NumPy code runs on fastcnn by changing one line: each module has the functions of one course, and install() puts them in its place.

    import fastcnn.compat.cs231n as fast
    fast.install()                      # before or after `import cs231n...`; print() what it returns to see what was replaced
    fast.uninstall()                    # everything as it was

A module declares in COURSE, a `Course`, which of the course's modules, names and methods it stands in for; `fastcnn accelerate SCRIPT.py` reads the same
declarations. Every function is also there to be called or imported by hand.

Results are NumPy's to rounding, in the dtype that NumPy would give (np.result_type); identical patches give identical bits. Arguments of any strides are
read where they are and never modified; results are fresh, writable and belong to the caller.
"""

from __future__ import annotations

from importlib import import_module

from ._install import Choose, Course, Installation
from ._windows import strict_windows

__all__ = ["COURSES", "Choose", "Course", "Installation", "course", "strict_windows"]

COURSES = ("cs231n", "dlfs", "coursera", "mytorch", "numpy_cnn", "lenet_scratch")
"""The modules of this package that stand in for a course."""


def course(name: str) -> Course:
    """The declaration of one of COURSES."""
    if name not in COURSES:
        raise ValueError(f"compat: there is no course {name!r}; the courses are {', '.join(COURSES)}")
    return import_module(f"{__name__}.{name}").COURSE
