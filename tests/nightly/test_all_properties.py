"""The laws of ../test_properties.py on a thousand drawn examples each, other ones every time."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("hypothesis", reason="hypothesis is not installed (pip install 'fastcnn[test]')")
pytestmark = pytest.mark.nightly
TESTS = Path(__file__).resolve().parent.parent


def test_many_examples_of_every_law():
    run = subprocess.run([sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", TESTS / "test_properties.py"], cwd=TESTS.parent, capture_output=True,
                         env={**os.environ, "FASTCNN_PROPERTY_EXAMPLES": "1000"}, text=True)  # fmt: skip
    assert run.returncode == 0, run.stdout[-8000:]
