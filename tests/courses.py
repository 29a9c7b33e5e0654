"""The courses' packages of bench/courses under their own names, for the tests that install replacements in them."""

import importlib
import shutil
import sys
from contextlib import contextmanager
from pathlib import Path

COURSES = Path(__file__).parents[1] / "bench" / "courses"


@contextmanager
def importable(folder, *packages):
    """Modules found in folder under these names, and forgotten afterwards."""

    def forget():
        for name in [n for n in sys.modules if n.partition(".")[0] in packages]:
            del sys.modules[name]

    forget()
    sys.path.insert(0, str(folder))
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.path.remove(str(folder))
        forget()


def copied(name, folder, package=None):
    """bench/courses/<name> copied to folder/<package>."""
    shutil.copytree(COURSES / name, folder / (package or name), ignore=shutil.ignore_patterns("__pycache__"))
    return folder
