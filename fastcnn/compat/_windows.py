"""What NumPy code does where windows do not tile the image: the remainder is ignored (floor), unless the course or the user wants an error."""

from __future__ import annotations

from types import TracebackType

_strict = False


class strict_windows:
    """`strict_windows()` or `with strict_windows():` raises AssertionError where a stride leaves pixels over, as some courses' code does; strict_windows(False)
    goes back to ignoring them, the rule of most."""

    def __init__(self, on: bool = True) -> None:
        global _strict
        self._before, _strict = _strict, bool(on)

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        global _strict
        _strict = self._before


def check_tiling(
    op: str, size: tuple[int, int], window: tuple[int, int], stride: tuple[int, int], padding: tuple[int, int] = (0, 0), always: bool = False
) -> None:
    """AssertionError if (size + 2*padding - window) is no multiple of stride, where that is asked for: `always`, or by strict_windows."""
    if not (always or _strict):
        return
    if len(size) != 2:
        return  # the operation itself says what its input has to be
    for word, n, k, s, p in zip(("height", "width"), size, window, stride, padding, strict=True):
        if (n + 2 * p - k) % s:
            over = (n + 2 * p - k) % s
            raise AssertionError(f"{op}: {word} {n} with padding {p} and a window of {k} does not tile at stride {s}: {over} pixels are left over")
