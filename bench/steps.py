"""`python -m bench step`, `layers` and `inference`: the recipes against PyTorch twins of the same networks.

Dropout draws other masks in each library, so what is checked is computed with nothing dropped; what is timed drops.
"""

import copy
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial

import numpy as np

from bench import compare, report
from bench.peers import FORMATS, Unusable
from bench.timing import Contender
from fastcnn import nn, optim, recipes
from fastcnn.backend import use_backend
from fastcnn.train import Trainer

KIND = "steps"

CHECKED_STEPS = 3
"""Training steps whose losses must agree before any is timed: the second sees the first update, the third the optimizer's memory of it."""

TOLERANCE = 1e-3
"""Largest relative difference from the reference. Rounding gives 1e-6 to 2e-4, a forgotten bias or momentum 1e-2 and more."""

ADAM_RATE = 3e-4
"""Learning rate that Adam has here at most. It moves a weight by about the rate whatever the gradient, so where a gradient is mostly rounding,
libraries differ by as much. Three steps of deep-cifar10 at its own 1e-3 take the loss of noise from 2.53 to 0.31, and the float32 reference
6e-4 of that away from float64; of wide-256, at 1e-2, further. A step takes the same time at any rate."""

Arrays = list[np.ndarray]


@dataclass(frozen=True)
class Settings:
    recipes: list[str]
    batch: int | None  # None: each recipe's own
    backend: str
    peers: list[str]
    threads: int
    repeats: int

    def backends(self) -> list[str]:
        """Those of ours that are timed, the measured one first."""
        return [self.backend, *(["reference"] if "reference" in self.peers and self.backend != "reference" else [])]

    def formats(self) -> tuple[str, ...]:
        """PyTorch's memory formats that are timed."""
        return FORMATS if "torch" in self.peers else ()


@dataclass(frozen=True)
class Side:
    """One library's share of a comparison: what is timed, and what it computed when it was checked."""

    contender: Contender
    results: Arrays


def run(command: str, settings: Settings, header: dict[str, str]) -> dict:
    """Measure whole steps (command "step"), single layers ("layers") or "inference" of the named recipes, by default all of them."""
    rows, refused = [], []
    try:
        chosen = [recipes.get(name) for name in settings.recipes or recipes.names()]
    except ValueError as error:
        raise Unusable(str(error)) from None
    for recipe in chosen:
        print(recipe.name, file=sys.stderr)
        for what, truth, sides in COMMANDS[command][0](recipe, settings):
            results: compare.Results = {}
            right = []
            for side in sides:
                worst = _difference(side.results, truth)
                if worst <= TOLERANCE:
                    right.append(side.contender)
                else:
                    results[side.contender.name] = {"refused": f"{worst:.1e} off the reference"}
            results |= compare.timed(right, settings.repeats, settings.backend)
            rows.append({"recipe": recipe.name, "what": what, "results": results})
            refused += compare.refusals(f"{recipe.name} {what}", results)
    return {"kind": KIND, "command": command, "header": header, "settings": asdict(settings), "refused": refused, "rows": rows}


def _difference(results: Arrays, truth: Arrays) -> float:
    """max over the arrays of max |result - truth| / max |truth|; NaN if there is one anywhere."""
    scales = [float(np.max(np.abs(right))) or 1.0 for right in truth]
    return float(np.max([np.max(np.abs(result - right)) / scale for result, right, scale in zip(results, truth, scales, strict=True)]))


def _batch(recipe: recipes.Recipe, settings: Settings) -> int:
    return recipe.bench_batch if settings.batch is None else settings.batch


@contextmanager
def _nothing_dropped(*modules: object) -> Iterator[None]:
    """Inside, the dropout layers of these modules, ours or torch's, let everything pass."""
    layers = [(layer, layer.p) for module in modules for layer in module.modules() if type(layer).__name__ == "Dropout"]
    for layer, _ in layers:
        layer.p = 0.0
    try:
        yield
    finally:
        for layer, p in layers:
            layer.p = p


def _layout(memory_format: str) -> object:
    import torch

    return {"nchw": torch.contiguous_format, "channels_last": torch.channels_last}[memory_format]


def data_for(recipe: recipes.Recipe, batch: int) -> tuple[nn.Module, np.ndarray, np.ndarray]:
    """The recipe's model, a batch of noise and random labels: what is computed does not depend on what the pictures show."""
    rng = np.random.default_rng(0)
    model = recipe.model(rng=rng)
    x = rng.standard_normal((batch, *recipe.input_shape), dtype=np.float32)
    with use_backend("reference"):
        classes = model(x[:1]).shape[1]
    return model, x, rng.integers(0, classes, batch)


def _step(recipe: recipes.Recipe, settings: Settings) -> Iterator[tuple[str, Arrays, list[Side]]]:
    """Forward, loss, backward, update. Fixed layers at the beginning of a network are part of it, though a run computes them only once."""
    batch = _batch(recipe, settings)
    model, x, y = data_for(recipe, batch)

    def ours(backend: str) -> Side:
        trainer = _trainer(recipe, copy.deepcopy(model))
        contender = Contender(backend, partial(trainer.step, x, y), partial(use_backend, backend))
        return Side(contender, _losses(contender, trainer.model))

    def theirs(memory_format: str) -> Side:
        import torch

        from bench import twin

        whole = copy.deepcopy(model)
        trainer = _trainer(recipe, whole)
        layout = _layout(memory_format)
        network = twin.module(whole).to(memory_format=layout)
        loss = twin.module(trainer.loss)
        optimizer = twin.optimizer(trainer.optimizer, [parameter for parameter in network.parameters() if parameter.requires_grad])
        images, labels = torch.from_numpy(x).contiguous(memory_format=layout), torch.from_numpy(y)

        def step() -> float:
            optimizer.zero_grad()
            value = loss(network(images), labels)
            value.backward()
            optimizer.step()
            return value.item()

        contender = Contender(f"torch {memory_format}", step)
        return Side(contender, _losses(contender, network))

    yield f"step, batch {batch}", *_sides(ours, theirs, settings)


def _sides(ours: Callable[[str], Side], theirs: Callable[[str], Side], settings: Settings) -> tuple[Arrays, list[Side]]:
    """What the reference computes, and all sides; it takes by far the longest, so it computes once, also where it is timed."""
    truth = ours("reference")
    own = [truth if backend == "reference" else ours(backend) for backend in settings.backends()]
    return truth.results, [*own, *map(theirs, settings.formats())]


def _trainer(recipe: recipes.Recipe, model: nn.Module) -> Trainer:
    trainer = recipe.trainer(model)
    if isinstance(trainer.optimizer, optim.Adam):
        trainer.optimizer.lr = min(trainer.optimizer.lr, ADAM_RATE)
    return trainer


def _losses(contender: Contender, network: object) -> Arrays:
    with _nothing_dropped(network):
        return [np.asarray([contender.result() for _ in range(CHECKED_STEPS)])]


def _inference(recipe: recipes.Recipe, settings: Settings) -> Iterator[tuple[str, Arrays, list[Side]]]:
    """The network's outputs for a batch, and for one image, in evaluation mode."""
    model, images, _ = data_for(recipe, _batch(recipe, settings))
    with use_backend(settings.backend):
        _take_statistics(model, images)
    for batch in sorted({len(images), 1}, reverse=True):
        x = images[:batch]

        def ours(backend: str, x: np.ndarray = x) -> Side:
            contender = Contender(backend, partial(recipe.trainer(copy.deepcopy(model)).predict, x), partial(use_backend, backend))
            return Side(contender, [contender.result()])

        def theirs(memory_format: str, x: np.ndarray = x) -> Side:
            import torch

            from bench import twin

            layout = _layout(memory_format)
            network = twin.module(model).eval().to(memory_format=layout)
            contender = Contender(f"torch {memory_format}", partial(network, torch.from_numpy(x).contiguous(memory_format=layout)), torch.inference_mode)
            return Side(contender, [contender.result().numpy()])

        yield f"inference, batch {batch}", *_sides(ours, theirs, settings)


def _take_statistics(model: nn.Module, x: np.ndarray) -> None:
    """Batch normalisation's running statistics become those of a batch: with those that it starts with, signals fade from layer to layer."""
    norms = [(layer, layer.momentum) for layer in model.modules() if isinstance(layer, nn.BatchNorm2d)]
    for layer, _ in norms:
        layer.momentum = 1.0
    model.train()(x)
    for layer, momentum in norms:
        layer.momentum = momentum


def _layers(recipe: recipes.Recipe, settings: Settings) -> Iterator[tuple[str, Arrays, list[Side]]]:
    """Each top-level layer alone, on the activations that reach it: forward as in training, then backward to its input and parameters, where it has one."""
    model, x, _ = data_for(recipe, _batch(recipe, settings))
    recipe.trainer(model)  # switches off the gradient of the images, as training does
    trained = list(recipe.trained(model).modules())
    rng = np.random.default_rng(1)
    for name, layer in model.named_children():
        with use_backend("reference"):
            output = layer(x)
        grad_output = rng.standard_normal(output.shape, dtype=np.float32)
        for kind, ours, theirs in (("forward", _our_forward, _their_forward), ("backward", _our_backward, _their_backward)):
            if kind == "backward" and not any(layer is other for other in trained):  # a fixed layer has none
                continue
            truth = ours(layer, x, grad_output, "reference").results
            sides = [ours(layer, x, grad_output, backend) for backend in settings.backends()]
            sides += [theirs(layer, x, grad_output, memory_format) for memory_format in settings.formats()]
            yield f"{name} {layer} {kind}", truth, sides
        x = output


def _our_forward(layer: nn.Module, x: np.ndarray, grad_output: np.ndarray, backend: str) -> Side:
    layer = copy.deepcopy(layer)
    contender = Contender(backend, partial(layer, x), partial(use_backend, backend))
    with _nothing_dropped(layer):
        return Side(contender, [contender.result()])


def _our_backward(layer: nn.Module, x: np.ndarray, grad_output: np.ndarray, backend: str) -> Side:
    layer = copy.deepcopy(layer)

    def backward() -> Arrays:
        layer.zero_grad()
        grads = [layer.backward(grad_output), *(parameter.grad for parameter in layer.parameters())]
        return [grad for grad in grads if grad is not None]

    contender = Contender(backend, backward, partial(use_backend, backend))
    with use_backend(backend):
        with _nothing_dropped(layer):
            layer(x)
            results = contender.result()
        layer(x)  # with a mask, where there is one
    return Side(contender, results)


def _their_forward(layer: nn.Module, x: np.ndarray, grad_output: np.ndarray, memory_format: str) -> Side:
    twin, images, _ = _twin(layer, x, grad_output, memory_format)
    contender = Contender(f"torch {memory_format}", partial(twin, images))
    with _nothing_dropped(twin):
        return Side(contender, [contender.result().detach().numpy()])


def _their_backward(layer: nn.Module, x: np.ndarray, grad_output: np.ndarray, memory_format: str) -> Side:
    import torch

    twin, images, grad = _twin(layer, x, grad_output, memory_format)
    wanted = [tensor for tensor in (images, *twin.parameters()) if tensor.requires_grad]

    def contender() -> Contender:
        return Contender(f"torch {memory_format}", partial(torch.autograd.grad, twin(images), wanted, grad, retain_graph=True))

    with _nothing_dropped(twin):
        results = [result.numpy() for result in contender().result()]
    return Side(contender(), results)


def _twin(layer: nn.Module, x: np.ndarray, grad_output: np.ndarray, memory_format: str) -> tuple:
    """The layer, its input and the gradient of its output in PyTorch; two-dimensional arrays have only one format."""
    import torch

    from bench import twin

    layout = _layout(memory_format)

    def tensor(array: np.ndarray) -> torch.Tensor:
        whole = torch.from_numpy(np.ascontiguousarray(array))
        return whole.contiguous(memory_format=layout) if whole.ndim == 4 else whole

    return twin.module(layer).to(memory_format=layout), tensor(x).requires_grad_(layer.requires_input_grad), tensor(grad_output)


COMMANDS: dict[str, tuple[Callable[[recipes.Recipe, Settings], Iterator[tuple[str, Arrays, list[Side]]]], str]] = {
    "step": (_step, "Training steps"),
    "layers": (_layers, "Layers in training"),
    "inference": (_inference, "Inference"),
}
"""What measures, and the title of its table."""


RATE_COLUMNS = ["images/s", "PyTorch's"]


def _rates(row: dict, backend: str) -> list[str]:
    """The cells under RATE_COLUMNS: images, or frames, per second by the minimum."""
    batch = int(row["what"].rpartition(" ")[2])
    minima = (row["results"].get(name, {}).get("minimum") for name in (backend, compare.best(row["results"], "torch")))
    return [report.MISSING if seconds is None else report.three_digits(batch / seconds) for seconds in minima]


def render(document: dict) -> str:
    """One table, worst ratio first."""
    settings = document["settings"]
    backend = settings["backend"]
    title = COMMANDS[document["command"]][1]
    batch = "" if settings["batch"] is None else f", batch {settings['batch']}"
    cells = [
        [
            row["recipe"],
            row["what"],
            *compare.our_cells(row["results"], backend, report.milliseconds),
            *compare.rival_cells(row["results"], backend, report.milliseconds),
            *(_rates(row, backend) if document["command"] == "inference" else ()),
        ]
        for row in sorted(document["rows"], key=compare.worst_first(settings))
    ]
    rates = RATE_COLUMNS if document["command"] == "inference" else []
    table = report.table(["recipe", "what", backend, "median", *compare.RIVAL_COLUMNS, *rates], cells)
    return compare.page(f"{title}: {backend}, float32{batch}, {settings['threads']} threads", document, "ms", ["", table])
