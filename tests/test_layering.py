"""The architecture, read from the source: floors import downwards only, backends share one table, ISA macros have their homes."""

import ast
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest
from tree import ROOT, needs_tree

from fastcnn import backend as backends
from fastcnn.backends.ops import OPS

pytestmark = needs_tree
PACKAGE = ROOT / "fastcnn"

# Longest prefix wins. A module may import its own floor or a lower one.
FLOORS = {
    "fastcnn": 7,  # the package's own __init__: names of every floor, imported lazily
    "fastcnn.shapes": 1,
    "fastcnn.options": 1,
    "fastcnn.random": 1,
    "fastcnn.forks": 1,
    "fastcnn.files": 1,
    "fastcnn.backends": 1,
    "fastcnn.backends.ops": 1,
    "fastcnn.backends.reference": 2,
    "fastcnn.backends.cpu": 2,
    "fastcnn.backends.cuda": 2,
    "fastcnn.backend": 3,
    "fastcnn.functional": 4,
    "fastcnn.gradcheck": 4,
    "fastcnn.explain": 5,
    "fastcnn.nn": 5,
    "fastcnn.optim": 5,
    "fastcnn.schedule": 5,
    "fastcnn.metrics": 5,
    "fastcnn.datasets": 5,
    "fastcnn.checkpoint": 6,
    "fastcnn.summary": 6,
    "fastcnn.plots": 6,
    "fastcnn.watch": 6,
    "fastcnn.plan": 5,
    "fastcnn.train": 6,
    "fastcnn.recipes": 6,
    "fastcnn.compat": 7,
    "fastcnn.torch": 7,
    "fastcnn.cli": 7,
    "fastcnn.console": 7,
    "fastcnn.explore": 7,
    "fastcnn.commands": 7,
    "fastcnn.__main__": 7,
}
SIBLINGS = {"fastcnn.backends.reference", "fastcnn.backends.cpu", "fastcnn.backends.cuda"}


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def home(module: str) -> str:
    """The entry of FLOORS that a module belongs to."""
    while module not in FLOORS:
        module = module.rpartition(".")[0]
    return module


def imports(module: str, path: Path) -> list[tuple[int, str]]:
    """(line, module) of every import of the package, those inside functions included."""
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                base = ".".join([*package.split(".")[: len(package.split(".")) - node.level + 1], *filter(None, [node.module])])
            found += [(node.lineno, f"{base}.{alias.name}" if f"{base}.{alias.name}" in MODULES else base) for alias in node.names]
    return [(line, name) for line, name in found if name == "fastcnn" or name.startswith("fastcnn.")]


@pytest.mark.parametrize("module", MODULES)
def test_imports_go_down(module):
    if module == "fastcnn":
        return
    assert home(module) != "fastcnn", f"{module} has no floor in FLOORS"
    for line, name in imports(module, MODULES[module]):
        here, there = home(module), home(name)
        where = f"{MODULES[module].relative_to(ROOT)}:{line}"
        assert there != "fastcnn" or here in ("fastcnn.cli", "fastcnn.__main__"), f"{where}: imports the whole package"
        assert FLOORS[there] <= FLOORS[here], f"{where}: {here} (floor {FLOORS[here]}) imports {name} (floor {FLOORS[there]})"
        both = {here, there}
        select = module.startswith("fastcnn.backends.cpu.") and there == "fastcnn.backends.reference"
        assert not (both <= SIBLINGS and len(both) == 2) or select, f"{where}: backends do not import each other"


def test_every_floor_has_a_tenant():
    for name in FLOORS.keys() - {"fastcnn.backends.cuda", "fastcnn.plan", "fastcnn.compat", "fastcnn.plots"}:
        assert name in MODULES or any(module.startswith(name + ".") for module in MODULES), f"FLOORS lists {name}, which does not exist"


def test_the_package_never_imports_tests_or_benches():
    for module, path in MODULES.items():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not any(name.split(".")[0] in ("tests", "bench") for name in names if not getattr(node, "level", 0)), module


def test_importing_the_package_is_light():
    heavy = {"torch", "matplotlib", "PIL", "pooch", "tqdm", "safetensors", "scipy", "fastcnn.datasets", "fastcnn.plots"}
    code = f"import sys, fastcnn; print(sorted(set(sys.modules) & {heavy!r}))"
    loaded = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert loaded.strip() == "[]"


@pytest.mark.parametrize("op", OPS)
def test_backends_share_names_and_parameters(op, backend):
    functions = backends.current().functions
    assert op in functions, f"backend {backend} lacks {op}"
    assert tuple(inspect.signature(functions[op]).parameters) == OPS[op].parameters
    assert getattr(backends.current(), op) is functions[op]


def test_backends_have_nothing_beyond_the_table(backend):
    assert backends.current().name == backend
    assert set(backends.current().functions) <= set(OPS)


@pytest.mark.parametrize("op", OPS)
def test_the_table_documents_every_op(op):
    entry = OPS[op]
    assert entry.name == op and entry.parameters
    assert "->" in entry.shapes
    assert len(entry.formula) > 10


ISA_MACRO = re.compile(r"__(AVX\w*|SSE\w*|FMA|F16C|ARM_NEON\w*|ARM_FEATURE\w*|BMI2?)__\b|__ARM_NEON\b|__ARM_FEATURE_\w+")


def test_isa_macros_have_two_homes_and_the_dispatcher():
    allowed = {"csrc/vec.h", "csrc/dispatch.c"}
    sources = [p for folder in ("csrc", "fastcnn") for suffix in ("c", "h", "inc", "pyx", "pxd") for p in (ROOT / folder).rglob(f"*.{suffix}")]
    assert sources
    for path in sources:
        name = path.relative_to(ROOT).as_posix()
        if name in allowed or re.fullmatch(r"csrc/isa/\w+\.c", name) or is_generated(path):
            continue
        found = ISA_MACRO.search(path.read_text(encoding="utf-8"))
        assert not found, f"{name} mentions {found.group()}"


def is_generated(path: Path) -> bool:
    """C that Cython wrote beside its .pyx."""
    return path.suffix == ".c" and path.with_suffix(".pyx").exists()


def test_kernels_know_nothing_of_python_or_threads():
    for path in sorted((ROOT / "csrc").rglob("*.[chi]*")):
        included = set(re.findall(r"^\s*#\s*include\s*[<\"]([^>\"]+)", path.read_text(encoding="utf-8"), re.M))
        assert not included & {"Python.h", "omp.h", "pthread.h", "stdio.h"}, path.name
