"""`python -m bench memory`: the memory that a training step of each recipe needs, ours and PyTorch's, each in a process of its own.

What is counted is the process's high-water mark of resident memory after four steps less what was resident before the first: activations, gradients, optimizer
moments, scratch; not the libraries, the weights and the batch, which are there already.
"""

import subprocess
import sys
from functools import partial

from bench import report
from bench.peers import FORMATS, Unusable
from fastcnn import recipes

KIND = "memory"
STEPS = 4


def run(backend: str, peers: list[str], names: list[str], threads: int, header: dict[str, str]) -> dict:
    try:
        chosen = [recipes.get(name) for name in names or recipes.names()]
    except ValueError as error:
        raise Unusable(str(error)) from None
    libraries = [backend, *([f"torch {layout}" for layout in FORMATS] if "torch" in peers else [])]
    rows = []
    for recipe in chosen:
        print(recipe.name, file=sys.stderr)
        rows.append({"recipe": recipe.name, "batch": recipe.bench_batch, "bytes": {name: _child(name, recipe.name, threads) for name in libraries}})
    return {"kind": KIND, "header": header, "settings": {"backend": backend, "threads": threads, "steps": STEPS}, "refused": [], "rows": rows}


def _child(library: str, recipe: str, threads: int) -> int:
    command = [sys.executable, "-m", "bench.memory", library, recipe, str(threads)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Unusable(f"{library} {recipe}: {done.stderr.strip().splitlines()[-1]}")
    return int(done.stdout.split()[-1])


def render(document: dict) -> str:
    ours = document["settings"]["backend"]
    rows = []
    for row in document["rows"]:
        theirs = {name: value for name, value in row["bytes"].items() if name != ours}
        name, least = min(theirs.items(), key=lambda item: item[1]) if theirs else (report.MISSING, None)
        mine = row["bytes"][ours]
        rows.append((mine / least if least else 0, [row["recipe"], str(row["batch"]), _megabytes(mine), _megabytes(least), name.removeprefix("torch "),
                                                  report.three_digits(mine / least) if least else report.MISSING]))
    rows.sort(key=lambda item: -item[0])
    columns = ["recipe", "batch", f"{ours} MB", "PyTorch MB", "layout", "ours / PyTorch's"]
    title = f"### Memory of a training step: {ours}, float32"
    steps = document["settings"]["steps"]
    counted = f"- what {steps} steps add to the resident memory at its highest, each library in its own process; PyTorch's smaller layout"
    return "\n".join([title, report.header(document["header"]), counted, "", report.table(columns, [cells for _, cells in rows])])


def _megabytes(nbytes: int | None) -> str:
    return report.MISSING if nbytes is None else report.three_digits(nbytes / 1e6)


def resident(field: str) -> int:
    """VmRSS or VmHWM of this process in bytes."""
    with open("/proc/self/status", encoding="ascii") as lines:
        for line in lines:
            if line.startswith(field + ":"):
                return int(line.split()[1]) * 1024
    raise Unusable(f"this system does not tell {field}")


def measure(library: str, name: str, threads: int) -> int:
    """Bytes that the steps add; runs in a process of its own."""
    import numpy as np

    from bench import steps

    recipe = recipes.get(name)
    model, x, y = steps.data_for(recipe, recipe.bench_batch)
    trainer = recipe.trainer(model)
    if library.startswith("torch"):
        import torch

        from bench import twin

        torch.set_num_threads(threads)
        layout = {"nchw": torch.contiguous_format, "channels_last": torch.channels_last}[library.split()[1]]
        network, loss = twin.module(model).to(memory_format=layout), twin.module(trainer.loss)
        optimizer = twin.optimizer(trainer.optimizer, [parameter for parameter in network.parameters() if parameter.requires_grad])
        images, labels = torch.from_numpy(x).contiguous(memory_format=layout), torch.from_numpy(np.asarray(y))

        def step() -> None:
            optimizer.zero_grad()
            loss(network(images), labels).backward()
            optimizer.step()
    else:
        import fastcnn

        fastcnn.set_backend(library)
        fastcnn.set_num_threads(threads)
        step = partial(trainer.step, x, y)
    before = resident("VmRSS")
    with open("/proc/self/clear_refs", "w", encoding="ascii") as clear:  # the high-water mark starts anew
        clear.write("5")
    for _ in range(STEPS):
        step()
    return max(0, resident("VmHWM") - before)


if __name__ == "__main__":
    print(measure(sys.argv[1], sys.argv[2], int(sys.argv[3])))
