"""`python -m bench kernels`: what the GPU's kernels take, compiled and assembled without a GPU: registers, shared memory, spills, how many warps fit, and how
much of a kernel's main loop is arithmetic. No time is measured here; bench/cuda_times.py does that where there is a GPU.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import NamedTuple

from bench.changes import Mistake

WARPS = 64  # that a multiprocessor of compute capability 8.0 or 9.0 holds at most


class Row(NamedTuple):
    """One kernel."""

    name: str
    threads: int
    registers: int
    shared: int
    local: int  # bytes per thread in memory that should be registers: spills, and arrays that did not fit
    blocks: int  # that fit on a multiprocessor
    fused: int  # multiply-adds of the main loop
    instructions: int  # of the main loop; 0 where it has no multiply-adds, or there is no disassembler

    @property
    def text(self) -> str:
        warps = self.blocks * -(-self.threads // 32)
        loop = f"{self.fused} of {self.instructions}" if self.instructions else ""
        return f"| {self.name} | {self.threads} | {self.registers} | {self.shared:,} | {self.local} | {self.blocks} | {warps / WARPS:.0%} | {loop} |"


def rows(patterns: list[str], cc: tuple[int, int]) -> Iterator[Row]:
    """Every kernel whose name holds one of the patterns; all without any."""
    try:
        from fastcnn.backends import cuda
        from fastcnn.backends.cuda import _compile
    except ImportError as error:
        raise Mistake(f"kernels cannot be compiled: {error}") from None
    if _compile.tool("ptxas") is None:
        raise Mistake("ptxas is missing: pip install nvidia-cuda-nvcc (and nvidia-cuda-nvdisasm for the main loops)")
    listed = [entry for module in cuda.modules for entry in getattr(module, "KERNELS", ())]
    chosen = [entry for entry in listed if not patterns or any(pattern in entry[0] for pattern in patterns)]
    if not chosen:
        raise Mistake(f"no kernel's name holds {' or '.join(patterns)}; among the {len(listed)} there are {', '.join(name for name, *_ in listed[:8])}")
    for name, kernel, signature in chosen:
        used, mix = _compile.assemble(_compile.compile_ptx(kernel, signature, cc), cc)
        threads = _compile.threads(kernel)
        blocks = _compile.resident_blocks(used, threads, cc)
        local = max(used.stack, used.spill_stores, used.spill_loads)
        yield Row(name, threads, used.registers, used.shared, local, blocks, mix.fused if mix else 0, mix.total if mix else 0)


def run(patterns: list[str], cc: tuple[int, int]) -> int:
    """Print the table as it grows; 1 if any kernel spills."""
    print(f"Compute capability {cc[0]}.{cc[1]}, as ptxas says. Occupancy: warps that fit on a multiprocessor, of {WARPS}.\n")
    print("| kernel | threads | registers | shared bytes | local bytes | blocks | occupancy | multiply-adds in the main loop |")
    print("|---|---|---|---|---|---|---|---|")
    spilling = []
    for row in rows(patterns, cc):
        print(row.text, flush=True)
        if row.local:
            spilling.append(row.name)
    if spilling:
        print(f"python -m bench kernels: these spill: {', '.join(spilling)}", file=sys.stderr)
    return 1 if spilling else 0
