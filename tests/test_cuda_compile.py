"""The GPU's kernels compiled without a GPU: PTX from numba, assembled by NVIDIA's ptxas. What no simulator shows is asserted here: that the tiles as they run
on a GPU compile at all, stay in registers, and fit on a multiprocessor as often as their launch bounds promise.
"""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
CAPABILITIES = ((8, 0), (9, 0))

# Of the tiled products these; each takes seconds to compile. `python -m bench kernels` compiles all tiles, and fails too if any spills.
TILES = {
    (8, 0): ["conv_walk 128x128 by 8x8"],
    (9, 0): ["conv_walk 128x128", "conv_grad_weight 128x128 by 8x8", "A @ B.T 128x128 by 8x8", "conv_walk 64x64 by 8x4 float64"],
}

CODE = """
import json, sys
from fastcnn.backends import cuda
from fastcnn.backends.cuda import _compile
found = []
for module in cuda.modules:
    for name, kernel, signature in getattr(module, "KERNELS", ()):
        if " by " in name and not any(tile in name for tile in TILES):
            continue
        used, mix = _compile.assemble(_compile.compile_ptx(kernel, signature, CC), CC)
        bounds = kernel.targetoptions.get("launch_bounds")
        blocks = _compile.resident_blocks(used, _compile.threads(kernel), CC)
        found.append([name, used._asdict(), mix and mix._asdict(), blocks, bounds if isinstance(bounds, tuple) else None])
print(json.dumps(found))
"""


def obstacle():
    """Why nothing can be compiled here, None if it can."""
    if importlib.util.find_spec("numba_cuda") is None:
        return "numba-cuda is not installed (extra `cuda`)"
    from fastcnn.backends.cuda import _compile  # touches numba, no GPU

    return None if _compile.tool("ptxas") else "ptxas is not installed (nvidia-cuda-nvcc)"


@pytest.fixture(scope="module", params=CAPABILITIES, ids=lambda cc: f"sm_{cc[0]}{cc[1]}")
def compiled(request):
    """Every kernel's resources. In a process of its own: numba decides at its import whether it simulates."""
    reason = obstacle()
    if reason:
        pytest.skip(reason)
    environment = {name: value for name, value in os.environ.items() if name != "NUMBA_ENABLE_CUDASIM"}
    code = CODE.replace("CC", repr(request.param)).replace("TILES", repr(TILES[request.param]))
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout)


def test_every_kernel_stays_in_registers(compiled):
    assert len(compiled) > 60
    for name, used, *_ in compiled:
        assert (used["stack"], used["spill_stores"], used["spill_loads"]) == (0, 0, 0), f"{name}: {used}"
        assert used["registers"] <= 255 and used["shared"] <= 48 * 1024


def test_blocks_fit_as_often_as_their_launch_bounds_promise(compiled):
    bounded = [(name, blocks, bounds[1]) for name, _, _, blocks, bounds in compiled if bounds]
    assert len(bounded) > 12
    for name, blocks, promised in bounded:
        assert blocks >= promised, f"{name}: {blocks} blocks fit, {promised} are promised"


def test_main_loops_are_mostly_multiply_adds(compiled):
    """Of the widest tiles: all eight steps of 64 multiply-adds are there, and what goes with them is less than a third of the loop."""
    wide = {name: mix for name, _, mix, *_ in compiled if "128x128 by 8x8 float32" in name}
    assert len(wide) in (1, 3)
    if None in wide.values():
        pytest.skip("nvdisasm is not installed (nvidia-cuda-nvdisasm)")
    for name, mix in wide.items():
        assert mix["fused"] == 512, name
        assert mix["total"] < 512 * 1.75, f"{name}: {mix}"
        assert 32 <= mix["counts"].get("LDS", 0) < 36, f"{name}: shared memory is not read 16 bytes at a time: {mix}"  # some, never executed, keep a distance
        assert mix["counts"].get("LDGSTS", 0) == 8 and "STS" not in mix["counts"], f"{name}: tiles are not copied past the registers: {mix}"
        assert "LDL" not in mix["counts"] and "STL" not in mix["counts"], name


def test_reports_of_the_assembler_are_read():
    if importlib.util.find_spec("numba_cuda") is None:
        pytest.skip("numba-cuda is not installed (extra `cuda`)")
    from fastcnn.backends.cuda import _compile

    said = """ptxas info    : 104 bytes gmem
    48 bytes stack frame, 76 bytes spill stores, 64 bytes spill loads
ptxas info    : Used 128 registers, used 1 barriers, 48 bytes cumulative stack size, 16896 bytes smem"""
    assert _compile.resources(said) == (128, 16896, 48, 76, 64)
    listing = """
.L_x_1:
        /*0010*/                   FFMA R1, R2, R3, R1 ;
.L_x_2:
        /*0020*/                   FFMA R1, R2, R3, R1 ;
        /*0030*/              @!P0 FFMA.FTZ R1, R2, R3, R1 ;
        /*0040*/               @P1 BRA `(.L_x_2) ;
        /*0050*/                   IADD3 R1, R2, R3, RZ ;
        /*0060*/              @!P1 BRA `(.L_x_3) ;
.L_x_3:
        /*0070*/                   EXIT ;
"""
    assert _compile.main_loop(listing) == (3, 2, {"FFMA": 2, "BRA": 1})
    assert _compile.main_loop("        /*0070*/                   EXIT ;") is None
    assert _compile.resident_blocks(_compile.Resources(128, 17920, 0, 0, 0), 256, (9, 0)) == 2
    assert _compile.resident_blocks(_compile.Resources(32, 100_000, 0, 0, 0), 64, (9, 0)) == 2
    assert _compile.resident_blocks(_compile.Resources(16, 0, 0, 0, 0), 1024, (8, 0)) == 2


def test_tensor_cores_multiply_where_tf32_is_allowed(compiled):
    found = [mix for name, _, mix, *_ in compiled if "tensor cores" in name]
    for mix in filter(None, found):
        assert mix["counts"]["HMMA"] == mix["fused"] == 16


OLDER = """
import numpy as np
from fastcnn.backends.cuda import _compile, async_copy, gemm
from fastcnn.backends.cuda.tiles import Tile
gemm.copies = lambda: (async_copy.copy_plainly, async_copy.nothing_to_wait_for)  # what `copies` gives where such a GPU is the current one
kernel = gemm.gemm_kernel(Tile(64, 64, 8, 4, 4), np.dtype(np.float32), True, True, True, "leaky_relu")  # not among those made already
ptx = _compile.compile_ptx(kernel, "void(float32[::1], float32[::1], float32[::1], float32, float32[::1], UniTuple(int64, 4))", (7, 5))
print("cp.async" in ptx, *_compile.assemble(ptx, (7, 5))[0][2:])
"""


def test_gpus_without_asynchronous_copies_copy_plainly():
    reason = obstacle()
    if reason:
        pytest.skip(reason)
    environment = {name: value for name, value in os.environ.items() if name != "NUMBA_ENABLE_CUDASIM"}
    done = subprocess.run([sys.executable, "-c", OLDER], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    assert done.stdout.split() == ["False", "0", "0", "0"]
