"""The circumstances every result carries: machine, builds, versions, threads, commit, date. Nothing here imports torch unasked."""

import datetime
import os
import platform
import subprocess
import sys
import time
from pathlib import Path

THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def usable_cpus() -> int:
    """CPUs this process may run on (affinity where the system knows it)."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def thread_variables(threads: int) -> dict[str, str]:
    """What tells the libraries that read their thread count once, when first imported (NumPy's BLAS does)."""
    return dict.fromkeys(THREAD_VARIABLES, str(threads))


def describe(threads: int, libraries: dict[str, str]) -> dict[str, str]:
    """The header of a result; `libraries` adds one line per library that was measured."""
    import numpy as np

    import fastcnn

    return {
        "CPU": f"{_cpu_model()}, {usable_cpus()} usable CPUs",
        "threads": f"{threads} for each library",
        "Python": f"{platform.python_version()} on {platform.system()} {platform.machine()}",
        "fastcnn": f"{fastcnn.__version__}, commit {_commit()}",
        "NumPy": f"{np.__version__}, BLAS {_blas(np)}",
        **libraries,
        "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
    }


class Neighbours:
    """How many CPUs other processes kept busy between creation and busy(): a comparison on a machine that others use says little.

    One busy neighbour is enough: a library whose workers spin at a barrier waits there for a worker that is not scheduled.
    """

    LIMIT = 0.05
    """CPUs. Below it are the daemons of a quiet machine."""

    def __init__(self) -> None:
        self._start = self._reading()

    def busy(self) -> float | None:
        """Average number of CPUs in use by others, stolen by the hypervisor included; None where the system does not tell."""
        if self._start is None:
            return None
        wall, machine, own = (end - start for end, start in zip(self._reading(), self._start, strict=True))
        return max(0.0, machine - own) / wall

    @staticmethod
    def _reading() -> tuple[float, float, float] | None:
        """Seconds: the clock, CPU time of the machine, CPU time of this process and the children it has waited for."""
        stat = Path("/proc/stat")
        if not stat.is_file():
            return None
        user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, stat.read_text().split(maxsplit=9)[1:9])
        own = os.times()
        machine = (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")
        return time.perf_counter(), machine, own.user + own.system + own.children_user + own.children_system


def neighbours_text(busy: float | None) -> str:
    """The header line about neighbours."""
    if busy is None:
        return "unknown"
    return f"{busy:.2f} CPUs busy during the run" + (", DISTURBED: repeat on a quiet machine" if busy > Neighbours.LIMIT else "")


def _cpu_model() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        fields = dict(line.split(":", 1) for line in cpuinfo.read_text().partition("\n\n")[0].splitlines() if ":" in line)
        by_name = {name.strip(): value.strip() for name, value in fields.items()}
        if "model name" in by_name:
            ids = "/".join(by_name.get(name, "?") for name in ("cpu family", "model"))
            return f"{by_name['model name']} (family/model {ids})"
    if sys.platform == "darwin":
        return subprocess.run(["sysctl", "-n", "machdep.cpu.brand_string"], capture_output=True, text=True, check=True).stdout.strip()
    return platform.processor() or platform.machine()


def _commit() -> str:
    def git(*arguments: str) -> str:
        here = Path(__file__).parent
        return subprocess.run(["git", "-C", str(here), *arguments], capture_output=True, text=True, check=True).stdout.strip()

    try:
        commit = git("rev-parse", "--short=12", "HEAD")
        return f"{commit} with uncommitted changes" if git("status", "--porcelain", "--", ":/", ":!/bench/results") else commit
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _blas(numpy: object) -> str:
    blas = numpy.show_config(mode="dicts")["Build Dependencies"]["blas"]
    return f"{blas['name']} {blas['version']}"
