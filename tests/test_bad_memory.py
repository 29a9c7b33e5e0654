"""All bad calls again where memory is short: in a process whose address space may grow by a quarter of a gigabyte. Nothing is allocated for a refused call."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
BAD = ("test_bad_input.py", "test_bad_options.py", "test_bad_layers.py", "test_bad_compat.py")
CODE = """
import resource, sys
import pytest
import bad_calls, fastcnn.compat.coursera, fastcnn.compat.cs231n, fastcnn.compat.dlfs, fastcnn.compat.mytorch, fastcnn.datasets, fastcnn.train, fastcnn.recipes
try:
    import fastcnn.backends.cpu
except ImportError:
    pass  # bad calls need no backend
pages = int(open("/proc/self/statm").read().split()[0])
limit = pages * resource.getpagesize() + (256 << 20)
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
status = pytest.main(["-q", "-p", "no:cacheprovider", *sys.argv[1:]])
print("bad calls:", sum(bad_calls.made.values()), "of", len(bad_calls.made))
sys.exit(status)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits of the address space are Linux's")
def test_bad_calls_in_little_memory():
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE), str(HERE.parent), os.environ.get("PYTHONPATH", "")])}
    run = subprocess.run([sys.executable, "-c", CODE, *(str(HERE / name) for name in BAD)], env=environment, capture_output=True, text=True, cwd=HERE.parent)
    assert run.returncode == 0, run.stdout[-4000:] + run.stderr
    calls, names = (int(word) for word in run.stdout.split("bad calls:")[1].split() if word.isdigit())
    assert calls >= 3000 and names >= 150
