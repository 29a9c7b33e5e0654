"""What the installed package promises beyond its code."""

import os
import re
import subprocess
import sys
from importlib import metadata

import pytest
from tree import ROOT, needs_tree


def installed():
    """Whether pip put it here; the egg-info of a build in the source folder is found as a distribution too."""
    return any(found.read_text("direct_url.json") for found in metadata.distributions(name="fastcnn"))


@pytest.mark.skipif(not installed(), reason="fastcnn is not installed by pip here")
def test_an_editable_install_is_found_from_the_folder_above_the_clone(tmp_path):
    """There Python sees a folder `fastcnn` without __init__.py, which must not pass for the package."""
    (tmp_path / "fastcnn").symlink_to(ROOT, target_is_directory=True)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    code = "import fastcnn; print(fastcnn.__file__)"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().endswith("__init__.py")


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="a source distribution leaves the pictures out")
@pytest.mark.parametrize("page", ["README.md", "bench/README.md", "csrc/README.md"])
def test_what_a_page_links_to_is_there_and_pictures_are_small(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    links = [link for link in re.findall(r"\]\(([^)#]+)[^)]*\)", text) if "://" not in link]
    assert links or page != "README.md"
    for link in links:
        assert (ROOT / page).parent.joinpath(link).exists(), link
    pictures = [(ROOT / page).parent / link for link in links if link.endswith(".png")]
    assert (len(pictures) >= 3) == (page == "README.md") and all(picture.stat().st_size < 150_000 for picture in pictures)


@needs_tree
def test_every_file_of_the_tests_is_in_the_manifest():
    manifest = (ROOT / "MANIFEST.in").read_text(encoding="utf-8")
    (line,) = (line for line in manifest.splitlines() if line.startswith("recursive-include tests"))
    found = {f"*{path.suffix}" for path in (ROOT / "tests").rglob("*") if path.is_file() and path.suffix not in (".pyc", "")}
    assert found <= set(line.split())
    for name in re.findall(r"^include (.*)$", manifest, re.M)[0].split():
        assert (ROOT / name).is_file()


@needs_tree
def test_the_manifest_takes_every_kind_of_source():
    manifest = (ROOT / "MANIFEST.in").read_text(encoding="utf-8")
    (line,) = (line for line in manifest.splitlines() if line.startswith("recursive-include csrc"))
    assert {f"*{path.suffix}" for path in (ROOT / "csrc").rglob("*") if path.is_file()} <= set(line.split())
