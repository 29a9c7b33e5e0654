"""`python -m bench step` and `layers`: the recipes' training, whole and layer by layer, against PyTorch twins of the same networks."""

import copy
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import partial

import numpy as np

from bench import compare, report
from bench.peers import FORMATS, Unusable
from bench.timing import Contender
from fastcnn import nn, recipes
from fastcnn.backend import use_backend

KIND = "steps"

CHECKED_STEPS = 3
"""Training steps whose losses must agree before any is timed: the second sees the first update, the third the optimizer's memory of it."""

TOLERANCE = 1e-3
"""Largest relative difference from the reference. Rounding gives 1e-6 to 1e-4, a forgotten bias or momentum 1e-2 and more."""

Arrays = list[np.ndarray]


@dataclass(frozen=True)
class Settings:
    recipes: list[str]
    batch: int
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
    """Measure whole steps (command "step") or single layers ("layers") of the named recipes, by default all of them."""
    rows, refused = [], []
    try:
        chosen = [recipes.get(name) for name in settings.recipes or recipes.names()]
    except ValueError as error:
        raise Unusable(str(error)) from None
    for recipe in chosen:
        print(recipe.name, file=sys.stderr)
        for what, truth, sides in {"step": _step, "layers": _layers}[command](recipe, settings):
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


def _data(recipe: recipes.Recipe, batch: int) -> tuple[nn.Module, np.ndarray, np.ndarray]:
    """The recipe's model, a batch of noise and random labels: what is computed does not depend on what the pictures show."""
    rng = np.random.default_rng(0)
    model = recipe.model(rng=rng)
    x = rng.standard_normal((batch, *recipe.input_shape), dtype=np.float32)
    with use_backend("reference"):
        classes = model(x[:1]).shape[1]
    return model, x, rng.integers(0, classes, batch)


def _step(recipe: recipes.Recipe, settings: Settings) -> Iterator[tuple[str, Arrays, list[Side]]]:
    """Forward, loss, backward, update."""
    model, x, y = _data(recipe, settings.batch)

    def ours(backend: str) -> Side:
        trainer = recipe.trainer(copy.deepcopy(model))
        contender = Contender(backend, partial(trainer.step, x, y), partial(use_backend, backend))
        return Side(contender, _losses(contender))

    def theirs(memory_format: str) -> Side:
        import torch

        from bench import twin

        trainer = recipe.trainer(copy.deepcopy(model))
        layout = {"nchw": torch.contiguous_format, "channels_last": torch.channels_last}[memory_format]
        network = twin.module(trainer.model).to(memory_format=layout)
        loss = twin.module(trainer.loss)
        optimizer = twin.optimizer(trainer.optimizer, list(network.parameters()))
        images, labels = torch.from_numpy(x).contiguous(memory_format=layout), torch.from_numpy(y)

        def step() -> float:
            optimizer.zero_grad()
            value = loss(network(images), labels)
            value.backward()
            optimizer.step()
            return value.item()

        contender = Contender(f"torch {memory_format}", step)
        return Side(contender, _losses(contender))

    yield f"step, batch {settings.batch}", ours("reference").results, [*map(ours, settings.backends()), *map(theirs, settings.formats())]


def _losses(contender: Contender) -> Arrays:
    return [np.asarray(contender.result()) for _ in range(CHECKED_STEPS)]


def _layers(recipe: recipes.Recipe, settings: Settings) -> Iterator[tuple[str, Arrays, list[Side]]]:
    """Each top-level layer alone, on the activations that reach it: forward as in training, then backward to its input and parameters."""
    model, x, _ = _data(recipe, settings.batch)
    recipe.trainer(model)  # switches off the gradient of the images, as training does
    rng = np.random.default_rng(1)
    for name, layer in model.named_children():
        with use_backend("reference"):
            output = layer(x)
        grad_output = rng.standard_normal(output.shape, dtype=np.float32)
        for kind, ours, theirs in (("forward", _our_forward, _their_forward), ("backward", _our_backward, _their_backward)):
            truth = ours(layer, x, grad_output, "reference").results
            sides = [ours(layer, x, grad_output, backend) for backend in settings.backends()]
            sides += [theirs(layer, x, grad_output, memory_format) for memory_format in settings.formats()]
            yield f"{name} {layer} {kind}", truth, sides
        x = output


def _our_forward(layer: nn.Module, x: np.ndarray, grad_output: np.ndarray, backend: str) -> Side:
    contender = Contender(backend, partial(copy.deepcopy(layer), x), partial(use_backend, backend))
    return Side(contender, [contender.result()])


def _our_backward(layer: nn.Module, x: np.ndarray, grad_output: np.ndarray, backend: str) -> Side:
    layer = copy.deepcopy(layer)
    with use_backend(backend):
        layer(x)

    def backward() -> Arrays:
        layer.zero_grad()
        grads = [layer.backward(grad_output), *(parameter.grad for parameter in layer.parameters())]
        return [grad for grad in grads if grad is not None]

    contender = Contender(backend, backward, partial(use_backend, backend))
    return Side(contender, contender.result())


def _their_forward(layer: nn.Module, x: np.ndarray, grad_output: np.ndarray, memory_format: str) -> Side:
    twin, images, _ = _twin(layer, x, grad_output, memory_format)
    contender = Contender(f"torch {memory_format}", partial(twin, images))
    return Side(contender, [contender.result().detach().numpy()])


def _their_backward(layer: nn.Module, x: np.ndarray, grad_output: np.ndarray, memory_format: str) -> Side:
    import torch

    twin, images, grad = _twin(layer, x, grad_output, memory_format)
    wanted = [*([images] if images.requires_grad else []), *twin.parameters()]
    contender = Contender(f"torch {memory_format}", partial(torch.autograd.grad, twin(images), wanted, grad, retain_graph=True))
    return Side(contender, [result.numpy() for result in contender.result()])


def _twin(layer: nn.Module, x: np.ndarray, grad_output: np.ndarray, memory_format: str) -> tuple:
    """The layer, its input and the gradient of its output in PyTorch; two-dimensional arrays have only one format."""
    import torch

    from bench import twin

    layout = {"nchw": torch.contiguous_format, "channels_last": torch.channels_last}[memory_format]

    def tensor(array: np.ndarray) -> torch.Tensor:
        whole = torch.from_numpy(np.ascontiguousarray(array))
        return whole.contiguous(memory_format=layout) if whole.ndim == 4 else whole

    return twin.module(layer).to(memory_format=layout), tensor(x).requires_grad_(layer.requires_input_grad), tensor(grad_output)


def render(document: dict) -> str:
    """One table, worst ratio first."""
    settings = document["settings"]
    backend = settings["backend"]
    title = {"step": "Training steps", "layers": "Layers in training"}[document["command"]]
    cells = [
        [
            row["recipe"],
            row["what"],
            *compare.our_cells(row["results"], backend, report.milliseconds),
            *compare.rival_cells(row["results"], backend, report.milliseconds),
        ]
        for row in sorted(document["rows"], key=compare.worst_first(settings))
    ]
    table = report.table(["recipe", "what", backend, "median", *compare.RIVAL_COLUMNS], cells)
    return compare.page(f"{title}: {backend}, float32, batch {settings['batch']}, {settings['threads']} threads", document, "ms", ["", table])
