"""Where the sources lie, for tests of the sources themselves; the others run against an installed wheel too, with only tests/ and bench/ beside them."""

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
needs_tree = pytest.mark.skipif(not (ROOT / "MANIFEST.in").exists(), reason="needs the source tree")
