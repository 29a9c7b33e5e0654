"""`python -m bench --backend cuda`: our kernels against PyTorch with cuDNN on the same GPU, layer by layer and by whole training steps, TF32 off and on.

Times are the device's, between events in its stream; clocks are left alone. A layer's op is recorded once as a CUDA graph on both sides and repeated, so
what Python takes to launch it is not in it. A training step is what a user runs, launches included: PyTorch eager, ours launched one by one, and ours
captured (Trainer(capture=True)). cuDNN chooses its algorithms by trying them (benchmark mode). The sides take turns.
"""

from __future__ import annotations

import copy
import statistics
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np

import fastcnn
from bench import checks, compare, environment, report
from bench.networks import CHECKED_STEPS, data_for, nothing_dropped, trainer_for
from bench.problems import Problem, load
from fastcnn import backend as backends
from fastcnn import recipes

KIND = "cuda"
OURS, CAPTURED, ROUNDED = "fastcnn cuda", "fastcnn cuda, captured", "fastcnn cuda, TF32 on"
EXACT, FAST = "torch, TF32 off", "torch, TF32 on"  # cuDNN in full float32, and with products rounded to 10 bits on tensor cores

CALLS = 10  # of an op between two events
STEP_CALLS = 5
TF32_LIMIT = 4e-3  # largest error of products whose factors were rounded by up to 2^-11 each
STEP_LIMIT = 1e-2  # largest relative difference of the losses of the first steps from PyTorch's


@dataclass(frozen=True)
class Settings:
    lists: list[str]
    ops: list[str]
    recipes: list[str]
    threads: int
    repeats: int
    batch: int | None = None  # None: each recipe's own


Side = Callable[[], float]  # one turn: seconds per call


def pytorch() -> Any:
    """The torch module if it is there and sees the GPU, else None."""
    try:
        import torch
    except ImportError:
        return None
    return torch if torch.cuda.is_available() else None


@contextmanager
def tf32(torch: Any, on: bool) -> Iterator[None]:
    """cuDNN's and cuBLAS's float32 with or without TF32 inside."""
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.benchmark
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = on
    torch.backends.cudnn.benchmark = True
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.benchmark = before


def run(settings: Settings) -> dict:
    """The document of one measurement."""
    torch = pytorch()
    with fastcnn.use_backend("cuda"):
        cuda = backends.current()
        layers = [row for name in settings.lists for problem in load(name) for row in _layer(cuda, torch, problem, settings)]
        steps = [_step(cuda, torch, recipes.get(name), settings) for name in settings.recipes]
        facts = {"GPU": cuda.config()["device"], "numba-cuda": cuda.config()["numba-cuda"]}
    if torch is None:
        facts["PyTorch"] = "not measured: it is not installed, or sees no GPU"
    else:
        facts["PyTorch"] = f"{torch.__version__}, CUDA {torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}"
    refused = [line for row in (*layers, *steps) for line in compare.refusals(row["what"], row["results"])]
    return {
        "kind": KIND,
        "header": environment.describe(settings.threads, facts),
        "settings": asdict(settings),
        "layers": layers,
        "rows": steps,
        "refused": refused,
    }


def _timed(sides: dict[str, Side], repeats: int) -> dict[str, dict[str, float]]:
    """Minimum and median of each side; they take turns, and the first turn does not count."""
    times: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(repeats + 1):
        for name, side in sides.items():
            taken = side()
            if turn:
                times[name].append(taken)
    return {name: {"minimum": min(taken), "median": statistics.median(taken)} for name, taken in times.items()}


# --- layers -------------------------------------------------------------------------------------------------------------------------


def _layer(cuda: Any, torch: Any, problem: Problem, settings: Settings) -> Iterator[dict]:
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal(shape, dtype=np.float32) for shape in (problem.input_shape, problem.weight_shape, problem.output_shape)]
    truths = _truths(torch, problem, arrays)
    x, w, g = map(fastcnn.to_device, arrays)
    for op in settings.ops:
        call, truth = _ours(problem, op, x, w, g), truths[op]()
        results, sides = {}, {}
        for name, on, limits in ((OURS, False, checks.limits(problem, op, "float32")), (ROUNDED, True, [TF32_LIMIT])):
            if on and not _tensor_cores():
                continue
            with fastcnn.allow_tf32(on):
                try:
                    results[name] = {"error": checks.checked_error([fastcnn.to_host(call())], [truth], "float32", *limits)}
                    sides[name] = partial(cuda.seconds, _recorded(cuda, call), CALLS)
                except checks.WrongResult as wrong:
                    results[name] = {"refused": str(wrong)}
        if torch is not None:
            for name, on in ((EXACT, False), (FAST, True)):
                sides[name] = partial(_torch_seconds, torch, _torch_recorded(torch, _torch_op(torch, problem, op, arrays), on), CALLS)
        for name, times in _timed(sides, settings.repeats).items():
            results[name] = results.get(name, {}) | times
        yield {"what": f"{problem.name} {op}", "problem": str(problem), "op": op, "flops": problem.flops, "results": results}


def _tensor_cores() -> bool:
    """Whether TF32 can be allowed here; not in the simulator, not on old GPUs."""
    try:
        with fastcnn.allow_tf32():
            return True
    except RuntimeError:
        return False


def _ours(problem: Problem, op: str, x: Any, w: Any, g: Any) -> Callable[[], Any]:
    functional = fastcnn.functional
    if op == "forward":
        return lambda: functional.conv2d(x, w, **problem.options)
    mask = tuple(op == name for name in ("grad_input", "grad_weight")) + (False,)
    return lambda: functional.conv2d_backward(g, x, w, output_mask=mask, **problem.options)[mask.index(True)]


def _truths(torch: Any, problem: Problem, arrays: list[np.ndarray]) -> dict[str, Callable[[], np.ndarray]]:
    """Each op's result in float64: PyTorch's on the GPU if it is there, because the reference takes minutes for large layers."""
    double = [array.astype(np.float64) for array in arrays]
    if torch is not None:
        return {op: (lambda op=op: _torch_op(torch, problem, op, double)().cpu().numpy()) for op in ("forward", "grad_input", "grad_weight")}

    def reference(op: str) -> np.ndarray:
        with fastcnn.use_backend("reference"):
            return _ours(problem, op, *double)()

    return {op: partial(reference, op) for op in ("forward", "grad_input", "grad_weight")}


def _torch_op(torch: Any, problem: Problem, op: str, arrays: list[np.ndarray]) -> Callable[[], Any]:
    x, w, g = (torch.from_numpy(array).cuda() for array in arrays)
    if op == "forward":
        return lambda: torch.nn.functional.conv2d(x, w, **problem.options)
    mask = [op == "grad_input", op == "grad_weight", False]
    pairs = [list(pair) for pair in (problem.stride, problem.padding, problem.dilation)]
    options = *pairs, False, [0, 0], problem.groups
    return lambda: torch.ops.aten.convolution_backward(g, x, w, None, *options, mask)[mask.index(True)]


def _recorded(cuda: Any, call: Callable[[], Any]) -> Callable[[], None]:
    """The op as a graph, replayed."""
    graph = cuda.Graph()
    with graph.memory():
        call()
    kept = graph.record(call)

    def replay(kept: Any = kept) -> None:
        graph.replay()

    return replay


def _torch_recorded(torch: Any, call: Callable[[], Any], on: bool) -> Callable[[], None]:
    with tf32(torch, on), torch.no_grad():
        side = torch.cuda.Stream()
        with torch.cuda.stream(side):
            for _ in range(3):  # cuDNN tries its algorithms
                call()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            call()
    return graph.replay


def _torch_seconds(torch: Any, call: Callable[[], Any], calls: int) -> float:
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    begin.record()
    for _ in range(calls):
        call()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end) / 1e3 / calls


# --- training steps -----------------------------------------------------------------------------------------------------------------


def _step(cuda: Any, torch: Any, recipe: Any, settings: Settings) -> dict:
    batch = settings.batch or recipe.bench_batch
    model, x, y = data_for(recipe, batch)
    networks = {OURS: copy.deepcopy(model)}
    if not _draws(model):
        networks[CAPTURED] = copy.deepcopy(model)
    sides, losses, results = {}, {}, {}
    there = fastcnn.to_device(x), fastcnn.to_device(y)
    for name, network in networks.items():
        trainer = trainer_for(recipe, network)
        trainer.set_capture(name == CAPTURED)
        step = partial(trainer.step, *there)
        with nothing_dropped(trainer.model):
            losses[name] = [float(step()) for _ in range(CHECKED_STEPS)]
        sides[name] = partial(cuda.seconds, step, STEP_CALLS)
    if torch is not None:
        for name, on in ((EXACT, False), (FAST, True)):
            step, network = _torch_step(torch, recipe, model, x, y, on)
            with nothing_dropped(network):
                losses[name] = [float(step()) for _ in range(CHECKED_STEPS)]
            sides[name] = partial(_torch_seconds, torch, step, STEP_CALLS)
        for name in networks:
            off = float(np.max(np.abs(np.array(losses[name]) / np.array(losses[EXACT]) - 1)))
            results[name] = {"error": off}
            if not off <= STEP_LIMIT:
                results[name] = {"refused": f"losses {losses[name]} where PyTorch has {losses[EXACT]}"}
                sides.pop(name)
    for name, times in _timed(sides, settings.repeats).items():
        results[name] = results.get(name, {}) | times
    return {"what": f"{recipe.name}, batch {batch}", "recipe": recipe.name, "batch": batch, "results": results}


def _draws(model: Any) -> bool:
    """Whether training draws random numbers, which a captured step cannot."""
    return any("Dropout" in type(module).__name__ and module.p > 0 for module in model.modules())


def _torch_step(torch: Any, recipe: Any, model: Any, x: np.ndarray, y: np.ndarray, on: bool) -> tuple[Callable[[], Any], Any]:
    from bench import twin

    with backends.on_host():
        ours = trainer_for(recipe, copy.deepcopy(model))
        network, loss = twin.module(model).cuda(), twin.module(ours.loss).cuda()
        optimizer = twin.optimizer(ours.optimizer, [parameter for parameter in network.parameters() if parameter.requires_grad])
    images, labels = torch.from_numpy(x).cuda(), torch.from_numpy(y).cuda()

    def step() -> Any:
        with tf32(torch, on):
            optimizer.zero_grad()
            value = loss(network(images), labels)
            value.backward()
            optimizer.step()
            return value.detach()

    return step, network


# --- tables -------------------------------------------------------------------------------------------------------------------------


def _ratio(results: dict, rival: str, ours: tuple[str, ...]) -> float | None:
    """How many times faster the better of ours is than the rival, minimum over minimum."""
    own = [results[name]["minimum"] for name in ours if "minimum" in results.get(name, {})]
    if not own or "minimum" not in results.get(rival, {}):
        return None
    return results[rival]["minimum"] / min(own)


def _cells(results: dict, name: str, unit: Callable[[float | None], str]) -> list[str]:
    times = results.get(name, {})
    return ["wrong" if "refused" in times else unit(times.get("minimum")), unit(times.get("median"))]


def render(document: dict) -> str:
    layers, steps = [], []
    for row in sorted(document["layers"], key=lambda row: _ratio(row["results"], EXACT, (OURS,)) or 0):
        results, own = row["results"], row["results"][OURS].get("minimum")
        rate = report.MISSING if own is None else f"{row['flops'] / own / 1e12:.2f}"
        ratios = [report.ratio(_ratio(results, EXACT, (OURS,))), report.ratio(_ratio(results, FAST, (ROUNDED,)))]
        cells = [cell for name in (OURS, EXACT, ROUNDED, FAST) for cell in _cells(results, name, report.microseconds)]
        layers.append([row["what"], rate, *cells, *ratios])
    for row in document["rows"]:
        ratios = [report.ratio(_ratio(row["results"], rival, (OURS, CAPTURED))) for rival in (EXACT, FAST)]
        cells = [cell for name in (OURS, CAPTURED, EXACT, FAST) for cell in _cells(row["results"], name, report.milliseconds)]
        steps.append([row["what"], *cells, *ratios])
    turns = document["settings"]["repeats"]
    versus = [f"{EXACT} / ours", f"{FAST} / ours"]  # of a layer to ours of the same kind, of a step to ours without TF32
    columns = [cell for name in (OURS, EXACT, ROUNDED, FAST) for cell in (name, "median")]
    parts = [
        "### GPU: convolutions and training steps",
        report.header(document["header"]),
        f"- times on the device, minimum and median of {turns} turns, the sides in turn; ratio: minimum over minimum, above 1 is ours",
        "",
        "Convolutions in us, each recorded as a graph; worst ratio first.",
        "",
        report.table(["layer", "TFLOP/s", *columns, *versus], layers) if layers else "No layers.",
        "",
        compare.summary([_ratio(row["results"], EXACT, (OURS,)) for row in document["layers"]]),
        "",
        "Training steps in ms.",
        "",
        report.table(["recipe", *[c for name in (OURS, CAPTURED, EXACT, FAST) for c in (name, "median")], *versus], steps) if steps else "No steps.",
    ]
    return "\n".join([*parts, *(f"- refused: {line}" for line in document["refused"])])
