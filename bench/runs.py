"""`python -m bench recipes RUN...`: what runs of the recipes reached and how long they took, from the files in their folders, beside what was reported.

Runs that one command made but for the seed are one row. A row is replaced by a newer one of the same command; the others stay.
"""

import json
import statistics
from collections.abc import Iterable
from pathlib import Path

from bench import environment, report
from bench.peers import Unusable
from fastcnn import recipes
from fastcnn.checkpoint import CheckpointError
from fastcnn.recipes import Recipe
from fastcnn.train import RunFolder

KIND = "recipes"

COLUMNS = ["recipe", "reported", "test %", "training %", "epochs", "s/epoch", "total", "command"]


def run(folders: Iterable[Path], note: str, previous: Path | None) -> dict:
    """The rows of these run folders, and those of the file `previous` (if there is one) that have other commands."""
    rows: dict[str, dict] = {}
    if previous is not None and previous.exists():
        rows = {row["command"]: row for row in json.loads(previous.read_text(encoding="utf-8"))["rows"]}
    fresh: dict[str, dict] = {}
    for folder in folders:
        row = _read(Path(folder), note)
        fresh.setdefault(row["command"], row | {"runs": []})["runs"] += row["runs"]
    for row in fresh.values():
        row["runs"].sort(key=lambda one: one["seed"])
        seeds = [one["seed"] for one in row["runs"]]
        if len(set(seeds)) < len(seeds):
            raise Unusable(f"{row['command']}: two runs have the same seed, {', '.join(map(str, seeds))}")
    order = recipes.names()
    merged = sorted((rows | fresh).values(), key=lambda row: (order.index(row["recipe"]), row["command"]))
    about = environment.describe(environment.usable_cpus(), {})
    header = {name: about[name] for name in ("CPU", "Python", "NumPy")}  # of the machine; the runs may be of earlier commits
    days = [one["started"][:10] for row in merged for one in row["runs"]]
    header["runs started"] = " to ".join(sorted({min(days), max(days)}))
    return {"kind": KIND, "header": header, "refused": [], "rows": merged}


def _read(folder: Path, note: str) -> dict:
    """The row of one finished run."""
    try:
        config = RunFolder.read_config(folder)
        recipe = recipes.get(config["recipe"])
        measured = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
        one = {name: measured[name] for name in ("test_accuracy", "test_images", "training_accuracy", "training_images", "training_seconds", "total_seconds")}
    except CheckpointError as error:  # names the folder itself
        raise Unusable(str(error)) from None
    except (OSError, ValueError) as error:
        raise Unusable(f"{folder}: {error}") from None
    except KeyError as error:
        raise Unusable(f"{folder}: metrics.json lacks {error}") from None
    one |= {"seed": config["options"]["seed"], "started": config["started"], "threads": config["threads"], "backend": config["backend"]}
    one["epoch_seconds"] = [row["seconds"] for row in measured["history"]]
    return {
        "recipe": recipe.name,
        "data": config["options"]["data"],
        "reported": recipe.reported,
        "command": _command(recipe, config),
        "epochs": measured["epochs"],
        "note": note,
        "runs": [one],
    }


def _name(recipe: Recipe, data: str) -> tuple[str, bool]:
    """What the recipe is called on a data set, and whether that set is the default under this name."""
    if data == recipe.data_name():
        return recipe.name, True
    aliases = [alias for alias, default in recipe.aliases.items() if default == data]
    return (aliases[0], True) if aliases else (recipe.name, False)


def _command(recipe: Recipe, config: dict) -> str:
    """What has to be typed to get this run, but for the seed: the options that are not the recipe's own."""
    options = config["options"]
    name, is_default = _name(recipe, options["data"])
    words = ["fastcnn", "train", name, *([] if is_default else ["--data", options["data"]])]
    if config["data_dir"] is not None:
        words += ["--data-dir", "DIR"]
    given = {name: value for name, value in recipe.setup(options["data"])._asdict().items() if value != options[name]}
    changed = {name: options[name] for name in given}
    if options.get("subset") is not None:
        changed["subset"] = options["subset"]
    changed |= {name: value for name, value in config["recipe_options"].items() if value != recipe.configuration()[name]}
    for name, value in changed.items():
        words += ["--" + name.replace("_", "-"), f"{value:g}" if isinstance(value, float) else str(value)]
    return " ".join(words)


def render(document: dict) -> str:
    """The table, and below it what has to be known about single rows."""
    cells, notes = [], []
    for row in document["rows"]:
        runs = row["runs"]
        seconds = min(statistics.median(one["epoch_seconds"]) for one in runs)
        totals = [one["total_seconds"] for one in runs if one["total_seconds"] is not None]
        name, is_default = _name(recipes.get(row["recipe"]), row["data"])
        seeds = len(runs) > 1 or runs[0]["seed"] != 0
        cells.append(
            [
                name if is_default else f"{name} on {row['data']}",
                row["reported"],
                _percent([one["test_accuracy"] for one in runs]),
                _percent([one["training_accuracy"] for one in runs]),
                str(row["epochs"]),
                report.three_digits(seconds),
                _duration(min(totals)) if totals else report.MISSING,
                f"`{row['command']}" + (" --seed N`" if seeds else "`"),
            ]
        )
        if row["note"]:
            notes.append(f"- `{row['command']}`: {row['note']}")
    lines = [report.header(document["header"]), "", report.table(COLUMNS, cells)]
    return "\n".join([*lines, *([""] if notes else []), *notes])


def _percent(shares: list[float]) -> str:
    """One number, or the median of many with the smallest and the largest."""
    middle = f"{100 * statistics.median(shares):.2f}"
    if len(shares) == 1:
        return middle
    return f"{middle} ({len(shares)} seeds: {100 * min(shares):.2f} to {100 * max(shares):.2f})"


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{report.three_digits(seconds)} s"
    return f"{seconds / 60:.1f} min"
