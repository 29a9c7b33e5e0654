"""Kernels compiled without a GPU: to PTX by numba, to machine code by NVIDIA's assembler, which says what registers and memory they take.

A kernel that needs more registers than its launch bounds leave it keeps the rest in memory ("spills"), which can cost it half its speed without any other
sign. So this is looked at by a test, for every kernel, and printed by `python -m bench cuda`. Nothing here runs in training.
"""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

from ._memory import cuda

Capability = tuple[int, int]

# Per multiprocessor: threads, registers, bytes of shared memory. CUDA C++ Programming Guide, technical specifications per compute capability.
MULTIPROCESSOR = {(8, 0): (2048, 65536, 167936), (9, 0): (2048, 65536, 233472)}
RESERVED_SHARED = 1024  # bytes that the system takes of each block's


class Resources(NamedTuple):
    """What one kernel takes, as ptxas says."""

    registers: int  # per thread
    shared: int  # bytes per block, as far as it is known when compiling
    stack: int  # bytes per thread in local memory: arrays that did not fit into registers, and what is spilled
    spill_stores: int
    spill_loads: int


class Mix(NamedTuple):
    """The machine instructions of a kernel's innermost heavy loop."""

    total: int
    fused: int  # multiply-adds
    counts: dict[str, int]


def tool(name: str) -> str | None:
    """Path of ptxas or nvdisasm: from the search path, or from NVIDIA's packages on PyPI (nvidia-cuda-nvcc, nvidia-cuda-nvdisasm)."""
    found = importlib.util.find_spec("nvidia")
    folders = [] if found is None else [Path(folder) for folder in found.submodule_search_locations or []]
    for folder in folders:
        for path in sorted(folder.glob(f"*/bin/{name}")):
            return str(path)
    return shutil.which(name)


@contextmanager
def pretended_device(cc: Capability) -> Iterator[None]:
    """numba asks the current device for its capability whenever a kernel calls a device function; without a GPU this is the answer."""
    from numba.cuda import dispatcher

    before = dispatcher.get_current_device
    dispatcher.get_current_device = lambda: SimpleNamespace(compute_capability=cc)
    try:
        yield
    finally:
        dispatcher.get_current_device = before


def compile_ptx(kernel: Any, signature: str, cc: Capability) -> str:
    """The kernel, as cuda.jit made it, for arguments of the types in signature."""
    with pretended_device(cc):
        return cuda.compile_ptx(kernel.py_func, signature, cc=cc, launch_bounds=kernel.targetoptions.get("launch_bounds"))[0]


def threads(kernel: Any, otherwise: int = 256) -> int:
    """Threads of its blocks, if its launch bounds say."""
    bounds = kernel.targetoptions.get("launch_bounds")
    return otherwise if bounds is None else bounds[0] if isinstance(bounds, tuple) else bounds


def assemble(ptx: str, cc: Capability) -> tuple[Resources, Mix | None]:
    """What ptxas says of it, and, if nvdisasm is there, what its main loop consists of. RuntimeError with ptxas's words if it refuses."""
    assembler, disassembler = tool("ptxas"), tool("nvdisasm")
    if assembler is None:
        raise RuntimeError("ptxas is missing: pip install nvidia-cuda-nvcc")
    with tempfile.TemporaryDirectory() as folder:
        source, machine = Path(folder) / "kernel.ptx", Path(folder) / "kernel.cubin"
        source.write_text(ptx)
        command = [assembler, "-v", f"-arch=sm_{cc[0]}{cc[1]}", str(source), "-o", str(machine)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"ptxas: {done.stdout}{done.stderr}")
        said = done.stdout + done.stderr
        mix = None
        if disassembler is not None:
            listing = subprocess.run([disassembler, "-c", str(machine)], capture_output=True, text=True, check=True).stdout
            mix = main_loop(listing)
    return resources(said), mix


def resources(said: str) -> Resources:
    """From the text of `ptxas -v`."""
    stack, stores, loads = (int(n) for n in re.search(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", said).groups())
    shared = re.search(r"(\d+) bytes smem", said)
    return Resources(int(re.search(r"Used (\d+) registers", said).group(1)), int(shared.group(1)) if shared else 0, stack, stores, loads)


def main_loop(listing: str) -> Mix | None:
    """Of all loops the shortest among those with the most multiply-adds; None where there is no loop with any."""
    code: list[str] = []
    labels: dict[str, int] = {}
    for line in listing.splitlines():
        label = re.match(r"\s*(\.L_x_\d+):", line)
        if label:
            labels[label.group(1)] = len(code)
            continue
        instruction = re.match(r"\s+/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9.]*)(.*?);", line)
        if instruction:
            code.append(instruction.group(1).split(".")[0] + " " + instruction.group(2))
    loops = []
    for end, text in enumerate(code):
        target = re.search(r"`\((\.L_x_\d+)\)", text) if text.startswith("BRA ") else None
        if target and labels.get(target.group(1), end + 1) <= end:
            body = Counter(line.split()[0] for line in code[labels[target.group(1)] : end + 1])
            fused = sum(body[name] for name in ("FFMA", "DFMA", "HMMA"))
            loops.append((-fused, sum(body.values()), body))
    if not loops or not min(loops, key=lambda loop: loop[:2])[0]:
        return None
    fused, total, body = min(loops, key=lambda loop: loop[:2])
    return Mix(total, -fused, dict(body.most_common()))


def resident_blocks(used: Resources, threads: int, cc: Capability) -> int:
    """How many blocks fit on a multiprocessor at a time. Registers are given out in units of 256 per warp."""
    limit_threads, limit_registers, limit_shared = MULTIPROCESSOR[cc]
    warps = -(-threads // 32)
    per_warp = -(-used.registers * 32 // 256) * 256
    return min(limit_threads // (warps * 32), limit_registers // (per_warp * warps), limit_shared // (used.shared + RESERVED_SHARED), 32)
