"""Putting fastcnn's functions in a course's place, before or after its modules are imported, and taking them out again.

A module of the course that is loaded already is changed at once, and with it every other module that holds the same object (`from .layers import *`). One
that is not is changed as soon as it is imported, by a finder in sys.meta_path that leaves finding and loading to the others. Only functions that
take the arguments which ours take are replaced; the others are listed with the reason.
"""

from __future__ import annotations

import functools
import importlib.machinery
import inspect
import logging
import sys
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

logger = logging.getLogger("fastcnn")

_MISSING = object()
_EMPTY: Mapping[str, Mapping[str, Any]] = types.MappingProxyType({})


@dataclass(frozen=True)
class Choose:
    """A replacement that depends on what it replaces: function(original) -> the replacement, or None to leave the original.

    like: a function whose arguments the original must take; None: any original will do.
    """

    function: Callable[[Any], Any]
    like: Any = None


@dataclass(frozen=True)
class Course:
    """What a compat module stands in for.

    Modules of the course are named from its root, "common.layers"; "anything.common.layers" matches too.

    names      {module: {name: replacement}}: functions and classes, replaced where the module has them; "__main__" for those of a notebook or script
    methods    {"module:Class": {method: replacement}}: replaced in the course's own class, so that instances, subclasses and pickles go on working
    adds       {module: {name: object}}: set whether the module has them or not
    provides   {module: {name: object}}: whole modules that stand in for one that cannot be imported or is slow
    together   groups of names of one module of which all are replaced or none: a backward reads what its forward kept
    """

    name: str
    title: str
    names: Mapping[str, Mapping[str, Any]] = field(default_factory=lambda: _EMPTY)
    methods: Mapping[str, Mapping[str, Any]] = field(default_factory=lambda: _EMPTY)
    adds: Mapping[str, Mapping[str, Any]] = field(default_factory=lambda: _EMPTY)
    provides: Mapping[str, Mapping[str, Any]] = field(default_factory=lambda: _EMPTY)
    together: tuple[tuple[str, ...], ...] = ()

    def modules(self) -> list[str]:
        """The modules that are changed or stood in for."""
        return list(dict.fromkeys([*self.provides, *self.names, *self.adds, *(key.partition(":")[0] for key in self.methods)]))


@dataclass
class Installation:
    """What install() did, and goes on doing while modules are imported. replaced: "module.name" of everything replaced, in order; elsewhere: the same of names
    that other modules had imported; left: (module.name, reason) of what was not replaced; waiting: modules that are not imported yet."""

    course: Course
    replaced: list[str] = field(default_factory=list)
    elsewhere: list[str] = field(default_factory=list)
    left: list[tuple[str, str]] = field(default_factory=list)

    @property
    def replaced_in_modules(self) -> list[str]:
        """replaced, without the stand-ins, which are there whether anybody imports them or not."""
        return [name for name in self.replaced if not any(_matches(name.rpartition(".")[0], key) for key in self.course.provides)]

    @property
    def waiting(self) -> list[str]:
        return [key for key in self.course.modules() if not any(_matches(name, key) for name in list(sys.modules))]

    def __str__(self) -> str:
        lines = [f"{self.course.title}: {len(self.replaced)} names run on fastcnn" + (f", {len(self.elsewhere)} imported elsewhere" if self.elsewhere else "")]
        lines += [f"  {name}" for name in self.replaced]
        lines += [f"  left {name}: {reason}" for name, reason in self.left]
        lines += [f"  when it is imported: {key}" for key in self.waiting]
        return "\n".join(lines)


def install(course: Course) -> Installation:
    """Put the course's replacements in place; a second install of a course of that name takes the first one back."""
    uninstall(course)
    active = _active[course.name] = _Active(course)
    active.begin()
    return active.report


def uninstall(course: Course) -> None:
    """Restore everything that install(course) changed; nothing happens if it is not installed."""
    active = _active.pop(course.name, None)
    if active is not None:
        active.end()


def installed() -> list[Installation]:
    """Of every course that is installed."""
    return [active.report for active in _active.values()]


def defined(module: types.ModuleType) -> None:
    """Look again at a module that has defined something since: a script that is still running."""
    for active in _active.values():
        active.change(module)


def _matches(module: str, key: str) -> bool:
    return module == key or module.endswith("." + key)


def _parameters(function: Any, method: bool) -> list[inspect.Parameter] | None:
    """The parameters of a call, without self; None where they are not known (extension modules)."""
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (ValueError, TypeError):
        return None
    return parameters[1:] if method else parameters


def misfit(original: Any, replacement: Any, method: bool = False) -> str | None:
    """Why a replacement cannot be called like the original, or None: the names of its first parameters must be the original's, the rest must have defaults."""
    theirs, ours = _parameters(original, method), _parameters(replacement, method)
    if theirs is None or ours is None or any(p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in theirs):
        return None
    if any(p.kind is p.VAR_POSITIONAL for p in ours):
        return None
    same = [a.name for a in theirs] == [b.name for b in ours[: len(theirs)]]
    if same and all(p.default is not p.empty for p in ours[len(theirs) :]):
        return None
    return f"it takes ({', '.join(p.name for p in theirs)}), ours takes ({', '.join(p.name for p in ours)})"


def _clone(value: Any) -> Any:
    """Another object that does the same, so that what install() placed can be told from what somebody imported from fastcnn himself."""
    if isinstance(value, types.FunctionType):
        made = types.FunctionType(value.__code__, value.__globals__, value.__name__, value.__defaults__, value.__closure__)
        functools.update_wrapper(made, value)
        made.__kwdefaults__ = value.__kwdefaults__
        del made.__wrapped__
        return made
    if isinstance(value, type):
        return type(value.__name__, (value,), {"__doc__": value.__doc__, "__module__": value.__module__, "__qualname__": value.__qualname__})
    return value


class _Active:
    """One installed course: what was changed, and the finder that waits for the rest."""

    def __init__(self, course: Course) -> None:
        self.course = course
        self.report = Installation(course)
        self.finder = _Finder(self)
        # (module or class, name) -> (it, name, what was there, what is there now)
        self.changes: dict[tuple[int, str], tuple[Any, str, Any, Any]] = {}
        self.clones: dict[int, tuple[Any, Any]] = {}  # id of a replacement -> (it, the object that is placed)
        self.stand_ins: dict[str, tuple[Any, types.ModuleType]] = {}  # name in sys.modules -> (what was there, ours)

    def begin(self) -> None:
        for name in self.course.provides:
            self.place(name)
        for module in _modules():
            self.change(module)
        self.spread()
        sys.meta_path.insert(0, self.finder)

    def stand_in(self, key: str, name: str) -> types.ModuleType:
        """The module of this name with the declared objects."""
        module = types.ModuleType(name, f"fastcnn's stand-in for {name}.")
        for attribute, value in self.course.provides[key].items():
            setattr(module, attribute, self.placed(value))
        module.__spec__ = importlib.machinery.ModuleSpec(name, None, origin="fastcnn.compat")
        return module

    def place(self, name: str) -> None:
        """A stand-in into sys.modules, and as an attribute of its package if that is loaded."""
        module = self.stand_in(name, name)
        self.stand_ins[name] = sys.modules.get(name, _MISSING), module
        sys.modules[name] = module
        package, _, attribute = name.rpartition(".")
        if package in sys.modules:
            self.set(sys.modules[package], attribute, module)
        before = self.stand_ins[name][0]
        for attribute in self.course.provides[name]:
            self.note(module, attribute, getattr(before, attribute, _MISSING), getattr(module, attribute))
        self.report.replaced += [f"{name}.{attribute}" for attribute in self.course.provides[name]]

    def placed(self, value: Any) -> Any:
        if id(value) not in self.clones:
            self.clones[id(value)] = value, _clone(value)
        return self.clones[id(value)][1]

    def note(self, holder: Any, name: str, before: Any, now: Any) -> None:
        self.changes[id(holder), name] = holder, name, before, now

    def set(self, holder: Any, name: str, value: Any) -> None:
        before = vars(holder).get(name, _MISSING)
        if before is value:  # the holder had imported it from a stand-in: what the stand-in stands for was there before
            before = next((old for _, _, old, now in self.changes.values() if now is value), _MISSING)
        self.note(holder, name, before, value)
        setattr(holder, name, value)

    def concerns(self, module: str) -> bool:
        return any(_matches(module, key) for key in self.course.modules())

    def change(self, module: types.ModuleType) -> None:
        """Replace what this module has of the course's."""
        name, before = _name(module), len(self.report.replaced)
        for key, names in self.course.names.items():
            if _matches(name, key):
                self.replace(module, names, False, name)
        for key, names in self.course.adds.items():
            if _matches(name, key):
                for attribute, value in names.items():
                    self.set(module, attribute, self.placed(value))
                    self.report.replaced.append(f"{name}.{attribute}")
        for key, methods in self.course.methods.items():
            owner, _, class_name = key.partition(":")
            kind = vars(module).get(class_name)
            if _matches(name, owner) and isinstance(kind, type):
                self.replace(kind, methods, True, f"{name}.{class_name}")
        fresh = self.report.replaced[before:]
        if fresh:
            logger.info("%s: %d names of %s run on fastcnn: %s", self.course.name, len(fresh), name, ", ".join(n[len(name) + 1 :] for n in fresh))

    def replace(self, holder: Any, names: Mapping[str, Any], method: bool, shown: str) -> None:
        """Those of these names that the holder has and that fit, with their partners."""
        chosen: dict[str, Any] = {}
        reasons: dict[str, str] = {}
        for name, value in names.items():
            original = vars(holder).get(name, _MISSING)
            if original is _MISSING or any(original is ours for active in _active.values() for _, ours in active.clones.values()):
                continue
            value, reason = self.fitting(original, value, method)
            if reason is None:
                chosen[name] = value
            else:
                reasons[name] = reason
        for group in self.course.together:
            left = [name for name in group if name in reasons]
            for name in group if left else ():
                held = self.changes.get((id(holder), name))
                if name not in chosen and held is not None and vars(holder).get(name) is held[3]:  # in a running script it came first
                    _restore(holder, name, held[2])
                    self.report.replaced.remove(f"{shown}.{name}")
                elif chosen.pop(name, None) is None:
                    continue
                reasons[name] = f"{left[0]}, which belongs to it, was left"
        for name, value in chosen.items():
            self.set(holder, name, self.placed(value))
            self.report.replaced.append(f"{shown}.{name}")
        for name, reason in reasons.items():
            self.report.left.append((f"{shown}.{name}", reason))
            logger.info("%s: left %s.%s: %s", self.course.name, shown, name, reason)

    def fitting(self, original: Any, value: Any, method: bool) -> tuple[Any, str | None]:
        """(the replacement, None), or why there is none."""
        if not callable(original):
            return None, f"it is a {type(original).__name__}"
        if not isinstance(value, Choose):
            return value, misfit(original, value, method)
        reason = None if value.like is None else misfit(original, value.like, method)
        if reason is None:
            value = value.function(original)
            reason = "none of ours does what it says it does" if value is None else None
        return value, reason

    def spread(self) -> None:
        """The same objects in modules that had imported them before."""
        swapped = [(name, before, now) for _, name, before, now in self.changes.values() if callable(before)]
        swaps = {id(before): now for _, before, now in swapped}
        named = {(id(before), name): now for name, before, now in swapped}
        for module in _modules():
            for name, value in list(vars(module).items()):
                if id(value) in swaps:
                    # one object may have gone under several names: conv_forward_fast = conv_forward_strides
                    self.set(module, name, named.get((id(value), name), swaps[id(value)]))
                    self.report.elsewhere.append(f"{_name(module)}.{name}")

    def end(self) -> None:
        """Everything as it was, also in modules that imported our objects since."""
        if self.finder in sys.meta_path:
            sys.meta_path.remove(self.finder)
        placed = [(name, before, now) for _, name, before, now in self.changes.values() if isinstance(now, (types.FunctionType, type))]
        origins = {id(now): before for _, before, now in placed}
        named = {(id(now), name): before for name, before, now in placed}
        for holder, name, before, now in reversed(list(self.changes.values())):
            if vars(holder).get(name, _MISSING) is now:
                _restore(holder, name, before)
        for name, (before, module) in self.stand_ins.items():
            if sys.modules.get(name) is module:
                if before is _MISSING:
                    del sys.modules[name]
                else:
                    sys.modules[name] = before
            package, _, attribute = name.rpartition(".")
            if package in sys.modules and vars(sys.modules[package]).get(attribute) is module:
                _restore(sys.modules[package], attribute, before)
        for module in _modules():
            for name, value in list(vars(module).items()):
                if id(value) in origins:
                    _restore(module, name, named.get((id(value), name), origins[id(value)]))


def _name(module: types.ModuleType) -> str:
    return str(vars(module).get("__name__", ""))


def _modules() -> list[types.ModuleType]:
    """Everybody's loaded modules but our own, each once: one module may go under several names, as `python -m` leaves it."""
    found = list({id(module): module for module in list(sys.modules.values()) if isinstance(module, types.ModuleType)}.values())
    return [module for module in found if _name(module).partition(".")[0] != "fastcnn"]


def _restore(holder: Any, name: str, before: Any) -> None:
    if before is _MISSING:
        delattr(holder, name)
    else:
        setattr(holder, name, before)


class _Finder:
    """Changes the course's modules when they are imported, after whoever finds and loads them."""

    def __init__(self, active: _Active) -> None:
        self.active = active

    def find_spec(self, name: str, path: Sequence[str] | None, target: types.ModuleType | None = None) -> importlib.machinery.ModuleSpec | None:
        for key in self.active.course.provides:
            if _matches(name, key):
                return importlib.machinery.ModuleSpec(name, _StandInLoader(self.active, key), origin="fastcnn.compat")
        if not self.active.concerns(name):
            return None
        finders = sys.meta_path[sys.meta_path.index(self) + 1 :] if self in sys.meta_path else []
        for finder in finders:
            spec = finder.find_spec(name, path, target)
            if spec is not None:
                if spec.loader is not None and hasattr(spec.loader, "exec_module"):
                    spec.loader = _Loader(spec.loader, self.active)
                return spec
        return None

    def invalidate_caches(self) -> None:
        return None


class _Loader:
    """A module's own loader, which changes the module once it has been executed, and then steps back."""

    def __init__(self, loader: Any, active: _Active) -> None:
        self._loader, self._active = loader, active

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: types.ModuleType) -> None:
        module.__loader__ = self._loader
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        self._loader.exec_module(module)
        if _active.get(self._active.course.name) is self._active:
            self._active.change(module)


class _StandInLoader:
    """Loads a stand-in under whatever package asks for it."""

    def __init__(self, active: _Active, key: str) -> None:
        self._active, self._key = active, key

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType:
        module = self._active.stand_in(self._key, spec.name)
        self._active.stand_ins[spec.name] = _MISSING, module
        for attribute in self._active.course.provides[self._key]:
            self._active.note(module, attribute, _MISSING, getattr(module, attribute))
        self._active.report.replaced += [f"{spec.name}.{attribute}" for attribute in self._active.course.provides[self._key]]
        return module

    def exec_module(self, module: types.ModuleType) -> None:
        """Everything is in it already."""


_active: dict[str, _Active] = {}
