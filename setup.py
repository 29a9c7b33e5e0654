"""Builds the compiled core; all metadata is in pyproject.toml.

csrc/ is compiled once per instruction set, each set from its own small file in csrc/isa/ with its own flags, and linked into one extension module; at import
csrc/dispatch.c picks the best set the machine can run. The Cython drivers are built beside it, with OpenMP.
"""

import os
import platform
import re
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

CSRC = Path("csrc")
CPU = Path("fastcnn/backends/cpu")
SHARED_HEADERS = sorted(str(p) for p in [*CSRC.glob("*.h"), *CSRC.glob("*.inc"), *CSRC.glob("kernels/*.inc")])

# -ffp-contract=fast: without it GCC in ISO mode makes a multiply and an add of `a * b + c` (118 -> 90 GFLOP/s). The two -fno options only give up
# errno and floating-point traps, which nothing here reads; results stay those of IEEE arithmetic. -ffast-math is never used.
KERNEL_FLAGS = ["-std=gnu11", "-O3", "-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math", "-fPIC", "-fvisibility=hidden", "-g0"]
DRIVER_FLAGS = ["-std=gnu11", "-O2", "-g0", "-Wno-unused-function", "-Wno-unreachable-code"]

# FASTCNN_SANITIZE=address,undefined (or thread): a build that checks itself while it runs, for tests/nightly/test_sanitizers.py.
SANITIZE = os.environ.get("FASTCNN_SANITIZE", "")
SANITIZE_FLAGS = [f"-fsanitize={SANITIZE}", "-fno-omit-frame-pointer", "-O1", "-g"] if SANITIZE else []

X86_V2 = ["-msse3", "-mssse3", "-msse4.1", "-msse4.2", "-mpopcnt"]
X86_V3 = [*X86_V2, "-mavx", "-mavx2", "-mfma", "-mbmi", "-mbmi2", "-mf16c", "-mlzcnt"]
X86_V4 = [*X86_V3, "-mavx512f", "-mavx512cd", "-mavx512vl", "-mavx512bw", "-mavx512dq", "-mprefer-vector-width=512"]
ISAS = {
    "x86_64": {"scalar": X86_V2, "avx2": X86_V3, "avx512": X86_V4},
    "aarch64": {"scalar": [], "neon": []},
}

NO_COMPILER = """
fastcnn needs a C compiler (GCC 9 or Clang 12, or newer) and Python's headers to build from source, and could not compile a three-line program:
{detail}
Debian, Ubuntu:  apt install build-essential python3-dev
Fedora:          dnf install gcc python3-devel
Alpine:          apk add build-base python3-dev
macOS:           xcode-select --install
"""
NO_OPENMP = """
fastcnn's kernels run on all cores through OpenMP, which this compiler lacks:
{detail}
Debian, Ubuntu:  apt install build-essential      (GCC brings OpenMP)
                 apt install libomp-dev           (for Clang)
Alpine:          apk add libgomp
macOS:           brew install libomp
To build a single-threaded fastcnn on purpose, set FASTCNN_NO_OPENMP=1.
"""


def machine() -> str:
    """The architecture being built for, in the names ISAS uses."""
    target = os.environ.get("ARCHFLAGS", "") or platform.machine()  # ARCHFLAGS: cross builds on macOS
    return "aarch64" if re.search("arm64|aarch64", target) else "x86_64" if re.search("x86_64|AMD64", target) else "other"


def extensions() -> list[Extension]:
    names = sorted(p.stem for p in CPU.glob("_*.pyx"))
    headers = [*SHARED_HEADERS, *(str(p) for p in sorted([*CPU.glob("_*.pxd"), *CPU.glob("*.h"), CPU / "threads.c", CPU / "openmp.c"]))]
    isa_sources = [str(p) for p in [CSRC / "dispatch.c", *sorted((CSRC / "isa").glob("*.c"))]]
    # isa/*.c and dispatch.c are compiled by BuildKernels with their own flags; as `depends` they reach the sdist and trigger rebuilds
    return [
        Extension(f"fastcnn.backends.cpu.{n}", [str(CPU / f"{n}.pyx")], include_dirs=[str(CSRC), str(CPU)],
                  depends=headers + (isa_sources if n == "_runtime" else []))
        for n in names
    ]


class BuildKernels(build_ext):
    """build_ext, and before it: probe the compiler, compile csrc/ once per instruction set, translate the Cython files."""

    def finalize_options(self) -> None:
        super().finalize_options()
        if not self.parallel:
            self.parallel = os.cpu_count() or 1

    def run(self) -> None:
        if sys.platform == "win32":
            sys.exit("fastcnn's kernels use the vector extensions of GCC and Clang, which Microsoft's compiler lacks: on Windows build inside WSL.")
        import numpy
        from Cython.Build import cythonize

        Path(self.build_temp).mkdir(parents=True, exist_ok=True)
        for ext in self.extensions:
            ext.include_dirs.append(numpy.get_include())
            ext.define_macros.append(("NPY_NO_DEPRECATED_API", "NPY_1_7_API_VERSION"))
        directives = {"language_level": 3, "freethreading_compatible": True, "binding": True, "embedsignature": True}
        translated = cythonize(self.extensions, build_dir=self.build_temp, nthreads=self.parallel, force=bool(self.force),
                               compiler_directives=directives, quiet=True)
        for ext, c_file in zip(self.extensions, translated, strict=True):  # only the sources: setuptools has notes of its own on the first objects
            ext.sources = c_file.sources
        super().run()

    def build_extensions(self) -> None:
        compile_flags, link_flags = self.openmp_flags()
        link_flags = [*link_flags, *SANITIZE_FLAGS]
        objects = self.kernel_objects()
        pool_objects = []
        if self.own_pool(compile_flags):
            compile_flags, link_flags = [*compile_flags, "-DFC_OWN_POOL"], ["-pthread", *SANITIZE_FLAGS]
            pool_objects = [self.compile_object(CPU / "openmp.c", ["-DFC_OWN_POOL"])]
            objects.append(self.compile_object(CPU / "threads.c", ["-DFC_OWN_POOL"]))
        for ext in self.extensions:
            ext.extra_objects = list(pool_objects)
            ext.extra_compile_args = [*DRIVER_FLAGS, *compile_flags, *SANITIZE_FLAGS]
            ext.extra_link_args = [*link_flags, *([] if sys.platform == "darwin" or SANITIZE else ["-Wl,--strip-debug"])]
            if ext.name.endswith("._runtime"):
                ext.extra_objects += objects
        super().build_extensions()

    def compiles(self, source: str, flags: list[str], link: list[str]) -> "str | None":
        """None if the program compiles and links, else what the compiler said."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "probe.c"
            path.write_text(source)
            try:
                objects = self.compiler.compile([str(path)], output_dir=folder, include_dirs=self.include_dirs, extra_postargs=flags)
                self.compiler.link_shared_object(objects, str(Path(folder) / "probe.so"), extra_postargs=link)
            except Exception as error:  # every compiler class raises its own
                return f"  {error}"
        return None

    def own_pool(self, compile_flags: list[str]) -> bool:
        """Whether the loops run on the pool in threads.c instead of an OpenMP runtime: where the compiler speaks libgomp's language and the system is Linux."""
        command = [*self.compiler.compiler_so, *compile_flags, "-E", "-dM", "-x", "c", "-"]
        macros = {line.split()[1] for line in subprocess.run(command, input="", capture_output=True, text=True, check=True).stdout.splitlines()}
        return {"_OPENMP", "__linux__", "__GNUC__"} <= macros and "__clang__" not in macros

    def compile_object(self, source: Path, flags: list[str]) -> str:
        target = Path(self.build_temp) / f"{source.stem}.o"
        subprocess.check_call([*self.compiler.compiler_so, *DRIVER_FLAGS, "-fPIC", *flags, *SANITIZE_FLAGS, "-c", str(source), "-o", str(target)])
        return str(target)

    def openmp_flags(self) -> tuple[list[str], list[str]]:
        detail = self.compiles("#include <Python.h>\nint probe(void) { return PY_MAJOR_VERSION; }\n", [], [])
        if detail:
            sys.exit(NO_COMPILER.format(detail=detail))
        if os.environ.get("FASTCNN_NO_OPENMP") == "1":
            return [], []
        candidates = [(["-fopenmp"], ["-fopenmp"])]
        if sys.platform == "darwin":
            prefixes = [p for p in ("/opt/homebrew/opt/libomp", "/usr/local/opt/libomp") if Path(p).exists()]
            candidates = [(["-Xpreprocessor", "-fopenmp", *(f"-I{p}/include" for p in prefixes)], [*(f"-L{p}/lib" for p in prefixes), "-lomp"])]
        for compile_flags, link_flags in candidates:
            detail = self.compiles("#include <omp.h>\nint probe(void) { return omp_get_max_threads(); }\n", compile_flags, link_flags)
            if not detail:
                return compile_flags, link_flags
        sys.exit(NO_OPENMP.format(detail=detail))

    def kernel_objects(self) -> list[str]:
        """csrc/isa/<isa>.c and dispatch.c as object files, compiled side by side, and again only when something they include has changed."""
        folder = Path(self.build_temp) / "csrc"
        folder.mkdir(parents=True, exist_ok=True)
        jobs = {CSRC / "dispatch.c": []}
        jobs |= {CSRC / "isa" / f"{isa}.c": flags for isa, flags in ISAS.get(machine(), {"scalar": []}).items()}
        newest_header = max(Path(h).stat().st_mtime for h in SHARED_HEADERS)

        def compile_one(job: "tuple[Path, list[str]]") -> str:
            source, flags = job
            target = folder / f"{source.stem}.o"
            checks = [] if source.stem == "avx512" else SANITIZE_FLAGS  # of its tiles, the largest, GCC makes checked code for longer than anybody waits
            if self.force or not target.exists() or target.stat().st_mtime < max(source.stat().st_mtime, newest_header):
                subprocess.check_call([*self.compiler.compiler_so, *KERNEL_FLAGS, *flags, *checks, f"-I{CSRC}", "-c", str(source), "-o", str(target)])
            return str(target)

        with ThreadPoolExecutor(self.parallel) as pool:
            return list(pool.map(compile_one, jobs.items()))


setup(ext_modules=extensions(), cmdclass={"build_ext": BuildKernels})
