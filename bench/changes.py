"""`python -m bench compare`: what a change did.

between()   two results that lie in files: measured at different times, so what the peers did meanwhile tells how the machine changed
against()   this tree and another one, measured anew, each in its own process, in turns

A difference counts when the quartiles of the two do not overlap: in three quarters of its turns the one is slower than the other is in
three quarters of its own. Everything else is noise.
"""

import json
import math
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from io import BytesIO
from pathlib import Path

from bench import compare, environment, report
from bench.contest import Contest
from bench.convs import ConvJob
from bench.peers import Fastcnn, is_rival
from bench.problems import load

KIND = "changes"

LEAST = 0.03
"""Relative difference below which nobody cares, however sure it is."""

ROOT = Path(__file__).parents[1]


class Mistake(ValueError):
    """A comparison that cannot be made; the message says why."""


@dataclass(frozen=True)
class Settings:
    lists: list[str]
    ops: list[str]
    threads: int
    dtype: str
    format: str
    repeats: int


def verdict(old: dict, new: dict, drift: float = 1.0) -> str:
    """"faster", "slower" or "noise". drift: how many times slower the machine became between the two."""
    if "minimum" not in old or "minimum" not in new:
        return "wrong" if "refused" in new else "new"
    lower, upper = old["lower"] * drift, old["upper"] * drift
    change = new["median"] / (old["median"] * drift)
    if new["lower"] > upper and change > 1 + LEAST:
        return "slower"
    if new["upper"] < lower and change < 1 - LEAST:
        return "faster"
    return "noise"


# Two results in files


def between(old: Path, new: Path) -> str:
    """A table of what changed from one result to the other."""
    documents = [_read(path) for path in (old, new)]
    if documents[0]["kind"] != documents[1]["kind"]:
        raise Mistake(f"{old} is of kind {documents[0]['kind']}, {new} of kind {documents[1]['kind']}")
    rows = [dict(_rows(document)) for document in documents]
    common = [key for key in rows[0] if key in rows[1]]
    if not common:
        raise Mistake(f"{old} and {new} have no row in common")
    backend = documents[1]["settings"]["backend"]
    drift = _drift([(rows[0][key], rows[1][key]) for key in common], backend)
    changed = []
    for key in common:
        before, after = (found[key].get(backend, {}) for found in rows)
        changed.append((verdict(before, after, drift), key, before, after))
    told = ("fastcnn", "date", "CPU", "other processes")
    headers = [", ".join(str(document["header"].get(key, "unknown")) for key in told) for document in documents]
    lines = [
        f"### {old.name} -> {new.name}",
        f"- old: {headers[0]}",
        f"- new: {headers[1]}",
        f"- rows only in one of them: {len(rows[0]) - len(common)} old, {len(rows[1]) - len(common)} new",
        f"- the other libraries took {report.three_digits(drift)} times as long (middle of the ratios): the old times are multiplied by it",
    ]
    return "\n".join([*lines, *_table(changed, drift)])


def _read(path: Path) -> dict:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        _ = document["kind"], document["header"]["fastcnn"], document["settings"]["backend"], document["rows"][0]["results"]
        return document
    except (OSError, ValueError, KeyError, IndexError, TypeError) as error:
        raise Mistake(f"{path} holds no rows with results: {type(error).__name__}: {error}") from None


def _rows(document: dict) -> Iterator[tuple[str, dict]]:
    """What a row is about, and its results."""
    for row in document["rows"]:
        yield " ".join(str(row[key]) for key in ("recipe", "what", "problem", "shape", "op", "pass", "call") if key in row), row["results"]


def _drift(pairs: Sequence[tuple[dict, dict]], backend: str) -> float:
    """The middle of new / old over everything that is not ours: those did not change. 1 where there is nothing of the kind."""
    ratios = sorted(
        new[name]["median"] / old[name]["median"]
        for old, new in pairs
        for name in old
        if (is_rival(name, backend) or name == "reference" != backend) and "median" in old[name] and "median" in new.get(name, {})
    )
    return ratios[len(ratios) // 2] if ratios else 1.0


# This tree against another


def against(what: str, settings: Settings) -> dict:
    """Measure the problem lists with this tree and another one, in turns; what differs is measured once more, and counts if it differs again."""
    root, label = _tree(what)
    new = Fastcnn("cpu", settings.format)
    old = replace(new, root=root, label=label)
    rows, refused = [], []
    with Contest([new, old], settings.threads) as contest:
        for name in settings.lists:
            for problem in load(name):
                for op in settings.ops:
                    job = ConvJob(problem, op, settings.dtype)
                    truth = contest.truth(replace(job, exact=True))
                    results = contest.measure(job, truth, job.verdict, settings.repeats)
                    found = verdict(results[old.name], results[new.name])
                    if found in ("slower", "faster"):
                        again = contest.measure(job, truth, job.verdict, settings.repeats)
                        found = found if verdict(again[old.name], again[new.name]) == found else "noise"
                    print(f"{problem.name} {op}: {found}", file=sys.stderr)
                    refused += compare.refusals(f"{problem.name} {op}", results)
                    rows.append({"list": name, "problem": problem.name, "shape": str(problem), "op": op, "verdict": found, "results": results})
    header = environment.describe(settings.threads, contest.about)
    slower = [f"{row['problem']} {row['op']}" for row in rows if row["verdict"] == "slower"]
    made = {"backend": new.name, "old": old.name, "peers": []}
    return {"kind": KIND, "header": header, "settings": asdict(settings) | made, "refused": refused, "slower": slower, "rows": rows}


def _tree(what: str) -> tuple[Path, str]:
    """The folder that holds the other fastcnn package, and what to call it."""
    folder = Path(what)
    if (folder / "fastcnn" / "__init__.py").is_file():
        return folder.resolve(), f"of {folder.name}"
    found = ["git", "-C", str(ROOT), "rev-parse", "--verify", "--quiet", f"{what}^{{commit}}"]
    done = subprocess.run(found, capture_output=True, text=True) if shutil.which("git") else None
    if done is None or done.returncode:
        here = "" if done else " (and there is no git here)"
        raise Mistake(f"--against {what!r} is neither a folder that holds fastcnn nor a git revision{here}")
    commit = done.stdout.strip()
    folder = ROOT / "build" / f"bench-{commit[:12]}"
    if not (folder / "complete").is_file():
        print(f"building {commit[:12]} in {folder}", file=sys.stderr)
        archive = subprocess.run(["git", "-C", str(ROOT), "archive", commit], capture_output=True, check=True).stdout
        with tarfile.open(fileobj=BytesIO(archive)) as files:
            files.extractall(folder, filter="data")
        built = subprocess.run([sys.executable, "setup.py", "-q", "build_ext", "--inplace"], cwd=folder, capture_output=True, text=True)
        if built.returncode:
            raise Mistake(f"{what} cannot be built: {built.stderr.strip().splitlines()[-1]}")
        (folder / "complete").touch()
    return folder, f"of {what}"


def render(document: dict) -> str:
    settings = document["settings"]
    new, old = settings["backend"], settings["old"]
    changed = [(row["verdict"], f"{row['problem']} {row['op']}", row["results"].get(old, {}), row["results"].get(new, {})) for row in document["rows"]]
    counted = f"- {settings['repeats']} turns each, one process per version, in turns; what differs was measured twice"
    lines = [f"### {old} -> this tree, {settings['dtype']}, {settings['threads']} threads", report.header(document["header"]), counted]
    return "\n".join([*lines, *_table(changed, 1.0)])


def _table(changed: Sequence[tuple[str, str, dict, dict]], drift: float) -> list[str]:
    """Slower ones first, then faster ones, then noise, each from the largest difference on."""
    order = {"wrong": 0, "slower": 1, "faster": 2, "noise": 3, "new": 4}

    def change(old: dict, new: dict) -> float | None:
        return old["median"] * drift / new["median"] if "median" in old and "median" in new else None

    rows = sorted(changed, key=lambda row: (order[row[0]], -abs(math.log(change(*row[2:]) or 1.0))))
    cells = [
        [
            found,
            what,
            report.milliseconds(old.get("median") and old["median"] * drift),
            report.percent(compare.spread(old)),
            report.milliseconds(new.get("median")),
            report.percent(compare.spread(new)),
            report.ratio(change(old, new)),
        ]
        for found, what, old, new in rows
    ]
    counts = ", ".join(f"{sum(row[0] == found for row in rows)} {found}" for found in order if any(row[0] == found for row in rows))
    return ["", report.table(["verdict", "row", "old ms", "spread", "new ms", "spread", "speed-up"], cells), f"\n{counts}. Times are medians."]
