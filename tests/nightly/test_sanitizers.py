"""The compiled core checking itself: built with AddressSanitizer and UndefinedBehaviorSanitizer it runs the tests of operations and plans; the pool of threads
runs kernels under ThreadSanitizer. By hand, in a copy of the sources:

    FASTCNN_SANITIZE=address,undefined python setup.py build_ext --inplace
    ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=halt_on_error=1 LD_PRELOAD=$(gcc -print-file-name=libasan.so) python -m pytest tests/test_ops_agree.py
"""

import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
KERNEL_FLAGS = {  # as setup.py has them
    "scalar": ["-msse4.2", "-mpopcnt"],
    "avx2": ["-mavx2", "-mfma", "-mbmi", "-mbmi2", "-mf16c", "-mlzcnt"],
    "avx512": ["-mavx2", "-mfma", "-mbmi", "-mbmi2", "-mf16c", "-mlzcnt", "-mavx512f", "-mavx512cd", "-mavx512vl", "-mavx512bw", "-mavx512dq"],
}
NAMES = """ops_agree exact pixels lanes norm_fused row_norm optim softmax windows winograd
columns pool_ties max_pool_rows functional_layout plan threads nn_layers bad_input"""
TESTS = [f"tests/test_{name}.py" for name in NAMES.split()]

pytestmark = [
    pytest.mark.nightly,
    pytest.mark.skipif(sys.platform != "linux" or not (ROOT / "csrc" / "dispatch.c").exists(), reason="needs the sources, on Linux"),
]


def run(command, **options):
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, **options)
    assert done.returncode == 0, f"{done.stdout[-8000:]}\n{done.stderr[-8000:]}"
    return done.stdout


@pytest.mark.skipif(shutil.which("gcc") is None, reason="needs GCC and its sanitizers")
def test_address_and_undefined_behaviour(tmp_path):
    for name in ("csrc", "fastcnn", "tests", "bench", "setup.py", "pyproject.toml", "README.md", "LICENSE"):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, tmp_path / name, **({"ignore": shutil.ignore_patterns("*.so", "__pycache__")} if copy is shutil.copytree else {}))
    environment = os.environ | {"FASTCNN_SANITIZE": "address,undefined", "CC": "gcc"}
    run([sys.executable, "setup.py", "-q", "build_ext", "--inplace"], cwd=tmp_path, env=environment)
    libraries = " ".join(run(["gcc", f"-print-file-name={name}"]).strip() for name in ("libasan.so", "libubsan.so"))
    environment = os.environ | {
        "LD_PRELOAD": libraries,
        "ASAN_OPTIONS": "detect_leaks=0:allocator_may_return_null=1:handle_segv=0",  # leaks: Python's own at its end; test_memory.py looks for ours
        "UBSAN_OPTIONS": "halt_on_error=1:print_stacktrace=1",
        "OMP_NUM_THREADS": "2",
        "PYTHONPATH": str(tmp_path),
    }
    for isa in ("scalar", "avx2") if platform.machine() == "x86_64" else ("scalar", "neon"):  # AVX-512's kernels are built without checks, see setup.py
        environment["FASTCNN_ISA"] = isa
        for dtype in ("float32", "float64"):  # every kernel family, in scratch memory that is watched and arrays between unreadable pages
            assert run([sys.executable, "tests/test_guard_pages.py", dtype, "auto"], cwd=tmp_path, env=environment) == "done"
    # Kernels built so round differently, and a ReLU may fall to the other side: networks are compared on whole numbers (test_exact.py), not on random ones.
    # -s: a sanitizer's report goes to stderr as the process ends, and must not be captured
    chosen = "not avx512 and not agrees_with_the_layers and not random_networks_agree"
    run([sys.executable, "-m", "pytest", "-s", "-q", "-x", "-p", "no:cacheprovider", "-k", chosen, *TESTS], cwd=tmp_path, env=environment)


@pytest.fixture(scope="module")
def driver(tmp_path_factory):
    """thread_driver.c with the pool and the kernels, for ThreadSanitizer."""
    clang = shutil.which("clang")
    if clang is None or platform.machine() != "x86_64":
        pytest.skip("needs Clang, on x86-64")
    folder = tmp_path_factory.mktemp("driver")
    flags = ["-std=gnu11", "-O1", "-g", "-w", "-fsanitize=thread", "-Icsrc", "-Ifastcnn/backends/cpu", "-DFC_OWN_POOL"]
    sources = {f"csrc/isa/{isa}.c": kernel_flags for isa, kernel_flags in KERNEL_FLAGS.items()}
    sources |= dict.fromkeys(("csrc/dispatch.c", "fastcnn/backends/cpu/threads.c", "fastcnn/backends/cpu/openmp.c", "tests/nightly/thread_driver.c"), [])
    for source, more in sources.items():
        run([clang, *flags, *more, "-c", source, "-o", folder / f"{Path(source).stem}.o"], cwd=ROOT)
    run([clang, "-fsanitize=thread", *folder.glob("*.o"), "-lpthread", "-lm", "-o", folder / "driver"])
    return folder / "driver"


def test_no_data_race_in_the_pool_and_the_kernels(driver):
    assert run([driver, "3000"], timeout=600) == "done\n"


def test_no_data_race_in_children_forked_meanwhile(driver):
    assert run([driver, "300", "fork"], timeout=600, env=os.environ | {"TSAN_OPTIONS": "die_after_fork=0"}) == "done\n"


def test_the_detector_detects(driver):
    done = subprocess.run([driver, "race"], capture_output=True, text=True)
    assert done.returncode == 66 and "data race" in done.stderr
