"""Running somebody's script as `python SCRIPT.py args` does, with every course's replacements waiting for what it imports and defines."""

from __future__ import annotations

import ast
import builtins
import importlib.machinery
import io
import os
import sys
import types
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any

from . import _install

_HOOK = "__fastcnn_defined__"


def run(script: str, arguments: Sequence[str], courses: Sequence[_install.Course], report: Callable[[str], None]) -> None:
    """Run the script as __main__ and return when it ends; an exception in it is shown as Python shows it, and becomes SystemExit.

    sys.argv, sys.path[0], __main__ and its attributes are what they are for `python script arguments`; the working directory stays. report gets a line
    at the end if nothing was replaced. Raises OSError if the script cannot be read.
    """
    path = os.path.abspath(script)
    with io.open_code(path) as file:
        source = file.read()
    main = types.ModuleType("__main__")
    vars(main).update(__file__=path, __builtins__=builtins, __loader__=importlib.machinery.SourceFileLoader("__main__", path))
    for name, value in (("__annotations__", {}), ("__cached__", None)):  # which of them there are depends on Python's version
        if name in vars(sys.modules["__main__"]):
            vars(main)[name] = value
    sys.modules["__main__"] = main
    sys.argv = [script, *arguments]
    if not getattr(sys.flags, "safe_path", False):
        sys.path[0] = os.path.dirname(os.path.realpath(path))
    for course in courses:
        _install.install(course)
    try:
        code = _compiled(source, path, courses)
        vars(main)[_HOOK] = lambda: _install.defined(main)
        exec(code, vars(main))
    except SystemExit:
        raise
    except BaseException as error:
        _show(error, path)
        raise SystemExit(130 if isinstance(error, KeyboardInterrupt) else 1) from None
    finally:
        done = [installation for installation in _install.installed() if installation.replaced_in_modules]
        if not done:
            names = ", ".join(course.name for course in courses)
            report(f"nothing was replaced: {script} neither imports nor defines what these courses have: {names}")


def _compiled(source: bytes, path: str, courses: Sequence[_install.Course]) -> Any:
    """The script's code, with a call after each top-level definition of a name that a course has in __main__. No line number changes."""
    names = {name for course in courses for name in course.names.get("__main__", ())}
    names |= {key.partition(":")[2] for course in courses for key in course.methods if key.startswith("__main__:")}
    tree = ast.parse(source, path)
    body: list[ast.stmt] = []
    for node in tree.body:
        body.append(node)
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and node.name in names:
            call = ast.Expr(ast.Call(ast.Name(_HOOK, ast.Load()), [], []))
            for made in ast.walk(call):
                ast.copy_location(made, node)
            body.append(call)
    tree.body = body
    return compile(tree, path, "exec", dont_inherit=True)


def _show(error: BaseException, path: str) -> None:
    """The traceback as it would be without us: from the script's first line on; none for a script that does not compile."""
    frames: TracebackType | None = error.__traceback__
    while frames is not None and frames.tb_frame.f_code.co_filename != path:
        frames = frames.tb_next
    error.__traceback__ = frames
    sys.last_type, sys.last_value, sys.last_traceback = type(error), error, frames
    sys.excepthook(type(error), error, frames)
