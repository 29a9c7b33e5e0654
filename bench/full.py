"""`python -m bench full`: bench/results, part by part, each a command of its own in a process of its own; `coursework` and `recipes`,
which are about other code and about runs, stand for themselves.

A part whose file was measured by this state of the code, undisturbed, is not measured again: a run that was stopped goes on where it was.
"""

import json
import subprocess
import sys
import time
from pathlib import Path

from bench import peers
from bench.peers import Unusable

ROOT = Path(__file__).parents[1]

RECIPES = "lenet filterbank-mnist twoconv-mnist twoconv-cifar10 simple-cifar10 batchnorm-cifar10 deep-cifar10"
PUBLIC = {"resnet50": 95, "vgg19": 45, "mobilenet": 70, "onednn": 105, "deepbench": 115, "convnet": 30}

PARTS: dict[str, tuple[str, int]] = {
    "roofline": ("roofline --repeats 10", 20),
    "step": (f"step {RECIPES} --peers reference,torch --repeats 15", 70),
    "step-batches": (f"step {RECIPES} --batch 1,16,256 --peers torch --repeats 5", 115),
    "step-compile": ("step lenet batchnorm-cifar10 --peers torch,compile --repeats 10", 60),
    "step-wide": ("step wide-256 --peers torch --repeats 3", 120),
    "inference": (f"inference {RECIPES} --batch 1,16,64,256 --peers torch,onnxruntime --repeats 10", 80),
    "inference-wide": ("inference wide-256 --peers torch,onnxruntime --repeats 3", 40),
    "bridge": ("bridge --repeats 10", 90),
    "memory": ("memory --peers torch", 80),
    "overhead": ("overhead --peers reference,torch --repeats 10", 40),
    "data": ("data --repeats 3 --images 12800", 15),
    "ops": ("ops --peers torch --repeats 10", 40),
    "growth": ("growth --repeats 5", 70),
    "conv-reports": ("conv reports --peers torch,onnxruntime --repeats 5", 150),
    "conv-odd": ("conv odd --peers im2col,torch,onnxruntime --repeats 5", 110),
    "conv-batch1": ("conv batch1 --peers im2col,torch,onnxruntime --repeats 5", 80),
    "conv-float64": ("conv changes --dtype float64 --peers torch --repeats 5", 65),
    **{f"conv-{name}": (f"conv {name} --peers torch --repeats 5", seconds) for name, seconds in PUBLIC.items()},
}
"""Name of the result -> command, and the seconds that it takes on two quiet cores."""


def run(folder: Path, again: bool, only: list[str] | None) -> int:
    """Measure what is missing; 0 if everything was right, 1 if a part failed or was wrong."""
    unknown = [name for name in only or [] if name not in PARTS]
    if unknown:
        raise Unusable(f"no part is called {', '.join(unknown)}: there are {', '.join(PARTS)}")
    parts = [name for name in only or PARTS if again or not _done(folder / f"{name}.json")]
    print(f"{len(parts)} of {len(PARTS)} parts to measure, about {_minutes(parts)} minutes on two quiet cores; results in {folder}", file=sys.stderr)
    failed = []
    for number, name in enumerate(parts, start=1):
        command, _ = PARTS[name]
        print(f"[{number}/{len(parts)}] {name}: python -m bench {command}; {_minutes(parts[number - 1 :])} minutes left", file=sys.stderr)
        start = time.monotonic()
        words = [sys.executable, "-m", "bench", *_installed(command.split()), "--json", str(folder / f"{name}.json")]
        done = subprocess.run(words, stdout=subprocess.DEVNULL)
        print(f"    {time.monotonic() - start:.0f} s", file=sys.stderr)
        if done.returncode:
            failed.append(name)
    if failed:
        print(f"failed or wrong: {', '.join(failed)}", file=sys.stderr)
    print("next: python -m bench readme, python -m bench report", file=sys.stderr)
    return 1 if failed else 0


def _done(path: Path) -> bool:
    """Is there a result of this state of the code that nobody disturbed?"""
    try:
        header = json.loads(path.read_text(encoding="utf-8"))["header"]
    except (OSError, ValueError, KeyError):
        return False
    words = header.get("fastcnn", "").split("commit ")
    if len(words) != 2 or " " in words[1] or words[1] == "unknown" or "DISTURBED" in header.get("other processes", ""):
        return False
    code = ["fastcnn", "csrc", "setup.py", "bench", ":!bench/results", ":!*.md"]  # against the files as they are now, committed or not
    return subprocess.run(["git", "-C", str(ROOT), "diff", "--quiet", words[1], "--", *code], capture_output=True).returncode == 0


def _installed(words: list[str]) -> list[str]:
    """The command without the peers that are not installed."""
    if "--peers" not in words:
        return words
    at = words.index("--peers") + 1
    found = [peer for peer in words[at].split(",") if peer not in peers.PEERS or not peers.missing(peer)]
    return [*words[:at], ",".join(found) or "none", *words[at + 1 :]]


def _minutes(parts: list[str]) -> int:
    return round(sum(PARTS[name][1] for name in parts) / 60)
