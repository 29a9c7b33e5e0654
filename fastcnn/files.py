"""Files that a crash or a full disk leaves as they were: written beside their destination, and moved over it once they are whole."""

from __future__ import annotations

import os
import stat
from itertools import count
from pathlib import Path

_numbers = count()


def write_atomically(path: str | os.PathLike[str], data: bytes, *, flush: bool = True) -> None:
    """Write beside path and replace: path holds either what it held before or all of data, whatever ends the process meanwhile.

    flush   False: do not wait until the disk has it; after a loss of power the file may then be empty. For many small files that can be made again.
    A link is followed, not replaced; a device or a pipe is written to as it is. Raises OSError, with nothing left beside path.
    """
    path = Path(os.path.realpath(path))
    if _is_special(path):
        path.write_bytes(data)
        return
    beside = path.with_name(f".{path.name}.{os.getpid()}-{next(_numbers)}.part")  # two threads may write the same file
    try:
        with open(beside, "wb") as file:
            file.write(data)
            file.flush()
            if flush:
                os.fsync(file.fileno())
        os.replace(beside, path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
    if flush and os.name == "posix":  # the rename itself is only on disk once the folder is; Windows has no such call
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def append_line(path: str | os.PathLike[str], line: str) -> None:
    """Add a line to a text file, whole or, with OSError, not at all."""
    with open(path, "ab+") as file:
        end = file.seek(0, os.SEEK_END)
        data = (line + "\n").encode()
        if end:
            file.seek(end - 1)
            if file.read(1) != b"\n":  # a line of somebody else's that does not end, or half a line of a machine that lost its power
                data = b"\n" + data
        try:
            done = 0
            while done < len(data):  # unbuffered: what could not be written is not tried again when the file is closed
                done += os.write(file.fileno(), data[done:])
        except BaseException:
            file.truncate(end)
            raise


def _is_special(path: Path) -> bool:
    try:
        mode = path.stat().st_mode
    except OSError:
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))
