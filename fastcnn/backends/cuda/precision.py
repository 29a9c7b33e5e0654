"""Whether float32 products may be rounded: TF32 keeps float32's range but 10 bits of its fraction, and tensor cores multiply it several times as fast."""

from __future__ import annotations

from contextvars import ContextVar

from ._memory import SIMULATED, cuda

FIRST = (8, 0)  # compute capability that has it

_allowed: ContextVar[bool] = ContextVar("fastcnn_allow_tf32", default=False)


def tf32_allowed() -> bool:
    """Whether convolutions and linear layers of float32 are computed in TF32 in this context; no unless asked for."""
    return _allowed.get()


def set_tf32(allowed: bool) -> None:
    """See fastcnn.allow_tf32."""
    if not isinstance(allowed, bool):
        raise TypeError(f"allow_tf32: allowed must be a bool, got {type(allowed).__name__}")
    if allowed and SIMULATED:
        raise RuntimeError("allow_tf32: numba's simulator has no tensor cores, so TF32 cannot be used in it")
    if allowed:
        capability = tuple(cuda.get_current_device().compute_capability[:2])
        if capability < FIRST:
            raise RuntimeError(f"allow_tf32: this GPU has compute capability {capability[0]}.{capability[1]}, TF32 needs {FIRST[0]}.{FIRST[1]}")
    _allowed.set(allowed)
