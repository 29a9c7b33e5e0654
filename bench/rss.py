"""Resident memory of this process. Linux tells it, and lets the high-water mark start anew; elsewhere there is nothing to tell."""

import sys
from pathlib import Path


def resident() -> int | None:
    """Bytes of physical memory in use now."""
    return _status("VmRSS")


def peak() -> int | None:
    """Most bytes in use since reset_peak(), or since the process began."""
    return _status("VmHWM")


def reset_peak() -> None:
    """The high-water mark starts anew from what is in use now."""
    if sys.platform.startswith("linux"):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def _status(field: str) -> int | None:
    if not sys.platform.startswith("linux"):
        return None
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    return None
