"""How many threads to use when nobody said, and when threadpoolctl says."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from pathlib import Path


def cgroup_cpus(root: str = "/sys/fs/cgroup") -> float:
    """CPUs that this control group may use, infinity where no quota is set: a container with a quota of 2 sees all CPUs of its host."""
    try:
        quota, period = Path(root, "cpu.max").read_text().split()  # cgroup v2
    except (OSError, ValueError):
        try:
            quota = Path(root, "cpu/cpu.cfs_quota_us").read_text().strip()  # cgroup v1; -1: no quota
            period = Path(root, "cpu/cpu.cfs_period_us").read_text().strip()
        except OSError:
            return math.inf
    return math.inf if quota in ("max", "-1") else int(quota) / int(period)


def default_threads() -> int:
    """OMP_NUM_THREADS if it is a positive number (its first, if it is a list), else the CPUs this process may run on, by affinity and by quota."""
    setting = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    if setting.isascii() and setting.isdigit() and int(setting) > 0:
        return int(setting)
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(allowed, math.ceil(cgroup_cpus())) if math.isfinite(cgroup_cpus()) else allowed)


def heed_threadpoolctl(get: Callable[[], int], set_: Callable[[int], None], version: str) -> bool:
    """Let `threadpoolctl.threadpool_limits` (which scikit-learn and joblib use) set our threads too; False where threadpoolctl is not installed.

    They count as "openmp", as which they behave: `threadpool_limits(1)` and `threadpool_limits(1, user_api="openmp")` limit them, `user_api="blas"` does not.
    """
    try:
        from threadpoolctl import LibController, register
    except ImportError:  # not installed, or older than the first that others can register with
        return False

    class FastcnnController(LibController):
        user_api = "openmp"
        internal_api = "fastcnn"
        filename_prefixes = ("_runtime.",)
        check_symbols = ("fastcnn_threads",)

        def get_num_threads(self) -> int:
            return get()

        def set_num_threads(self, num_threads: int) -> None:
            set_(max(1, num_threads))

        def get_version(self) -> str:
            return version

    register(FastcnnController)
    return True
