"""`python -m bench ops`: what stands between convolutions, forward and backward: pooling, normalisation, activations, unfold, fold, linear, losses.

Backward computes all gradients that training needs; what the forward pass keeps for it (positions of maxima, statistics) is made before the clock starts,
in every library its own.
"""

import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from bench import checks, compare, environment, report
from bench.contest import Contest
from bench.peers import Fastcnn, Library, Torch, libraries
from bench.timing import Contender
from bench.worker import Arrays, Prepared
from fastcnn import functional

if TYPE_CHECKING:
    import torch

KIND = "ops"

PASSES = ("forward", "backward")

LIMIT = 100
"""Largest error that passes, in eps of the largest result: sums of some thousand terms, whose errors add up as a random walk."""


class Case(NamedTuple):
    """A function of the same name here and in torch.nn.functional: the shapes of its arrays, its options; `required`: arguments that stand between the first
    array and the others."""

    name: str
    shapes: tuple[tuple[int, ...], ...]
    options: dict[str, Any]
    required: tuple[Any, ...] = ()

    def __str__(self) -> str:
        options = [f"{key}={value}" for key, value in self.options.items()]
        return " ".join([self.name, ", ".join("x".join(map(str, shape)) for shape in self.shapes), *map(str, self.required), *options])


def _normed(*shape: int) -> Case:
    channels = (shape[1],)
    return Case("batch_norm", (shape, channels, channels, channels, channels), {"training": True})


def _layer_normed(*shape: int) -> Case:
    return Case("layer_norm", (shape, shape[-1:], shape[-1:]), {}, (shape[-1:],))


def _group_normed(*shape: int, groups: int) -> Case:
    return Case("group_norm", (shape, shape[1:2], shape[1:2]), {}, (groups,))


CASES = [
    Case("max_pool2d", ((64, 6, 28, 28),), {"kernel_size": 2}),  # lenet-mnist
    Case("max_pool2d", ((64, 32, 32, 32),), {"kernel_size": 2}),  # batchnorm-cifar10
    Case("max_pool2d", ((64, 128, 8, 8),), {"kernel_size": 2}),  # deep-cifar10
    Case("max_pool2d", ((4, 64, 112, 112),), {"kernel_size": 3, "stride": 2, "padding": 1}),  # after the stem of a ResNet
    Case("avg_pool2d", ((64, 8, 20, 20),), {"kernel_size": 2}),  # twoconv-mnist
    Case("avg_pool2d", ((4, 128, 124, 124),), {"kernel_size": 5, "stride": 2}),  # as in wide-256
    _normed(64, 32, 32, 32),
    _normed(64, 128, 8, 8),
    _normed(4, 96, 116, 116),
    Case("unfold", ((64, 6, 14, 14),), {"kernel_size": 5}),
    Case("unfold", ((16, 64, 28, 28),), {"kernel_size": 3, "padding": 1}),
    Case("fold", ((64, 150, 100),), {"output_size": (14, 14), "kernel_size": 5}),
    Case("fold", ((16, 576, 784),), {"output_size": (28, 28), "kernel_size": 3, "padding": 1}),
    Case("linear", ((64, 400), (120, 400), (120,)), {}),
    Case("linear", ((64, 1296), (256, 1296), (256,)), {}),
    Case("linear", ((64, 2304), (128, 2304), (128,)), {}),
    Case("linear", ((1, 400), (120, 400), (120,)), {}),
    Case("cross_entropy", ((64, 10), (64,)), {}),
    Case("cross_entropy", ((64, 1000), (64,)), {}),
    Case("cross_entropy", ((4096, 10), (4096,)), {}),
    _layer_normed(1, 10),
    _layer_normed(512, 768),  # the tokens of a transformer
    _layer_normed(25088, 96),  # the pixels of a ConvNeXt's first stage
    _group_normed(64, 32, 32, 32, groups=8),
    _group_normed(64, 128, 8, 8, groups=32),
    _group_normed(4, 64, 112, 112, groups=64),  # instance normalisation
    *(Case(name, (shape,), {}) for name in ("relu", "sigmoid", "silu", "gelu", "tanh") for shape in ((64, 10), (64, 128, 8, 8), (64, 32, 32, 32))),
    Case("softmax", ((64, 10),), {"dim": 1}),
    Case("softmax", ((64, 1000),), {"dim": 1}),
    Case("mse_loss", ((64, 10), (64, 10)), {}),
    Case("mse_loss", ((64, 32, 32, 32), (64, 32, 32, 32)), {}),
    Case("adaptive_avg_pool2d", ((64, 128, 8, 8),), {"output_size": 1}),
    Case("adaptive_avg_pool2d", ((1, 512, 7, 7),), {"output_size": 1}),
    Case("adaptive_avg_pool2d", ((4, 96, 56, 56),), {"output_size": 1}),
]
"""From the reports' networks, and one larger of each kind."""

SHORT = [Case("max_pool2d", ((4, 3, 9, 11),), {"kernel_size": 3, "stride": 2, "padding": 1}), Case("avg_pool2d", ((4, 3, 9, 11),), {"kernel_size": 2})]
SHORT += [_normed(4, 5, 6, 7), Case("unfold", ((2, 3, 6, 7),), {"kernel_size": 3, "padding": 1})]
SHORT += [Case("fold", ((2, 27, 42),), {"output_size": (6, 7), "kernel_size": 3, "padding": 1}), Case("linear", ((5, 20), (7, 20), (7,)), {})]
SHORT += [Case("cross_entropy", ((6, 10), (6,)), {}), _layer_normed(5, 7), _group_normed(3, 6, 5, 4, groups=2), Case("mse_loss", ((4, 5), (4, 5)), {})]
SHORT += [Case(name, ((3, 5),), {}) for name in ("relu", "sigmoid", "silu", "gelu", "tanh")]
SHORT += [Case("softmax", ((3, 5),), {"dim": 1}), Case("adaptive_avg_pool2d", ((2, 3, 5, 4),), {"output_size": 1})]


@dataclass(frozen=True)
class Settings:
    backend: str
    peers: list[str]
    threads: int
    dtype: str
    short: bool
    repeats: int


@dataclass(frozen=True)
class OpJob:
    """One pass of CASES[at] (or SHORT[at]) on standard normal numbers; `exact`: in float64, from the very numbers the libraries get."""

    at: int
    direction: str
    dtype: str
    short: bool = False
    exact: bool = False

    @property
    def case(self) -> Case:
        return (SHORT if self.short else CASES)[self.at]

    def prepare(self, library: Library) -> Prepared | None:
        case = self.case
        arrays = self._arrays()
        if self.direction == "forward":
            contender = library.function(case.name, arrays, case.options, case.required)
        elif isinstance(library, Fastcnn):
            contender = Contender(library.name, _with_scope(library, case, arrays, self._grad_output(arrays)), library.scope)
        elif isinstance(library, Torch) and not library.compiled:
            contender = _torch_backward(library, case, arrays, self._grad_output(arrays))
        else:
            contender = None
        if contender is None:
            return None
        result = contender.result()
        return Prepared(contender, [np.asarray(part) for part in (result if isinstance(result, (tuple, list)) else [result])])

    def _arrays(self) -> list[np.ndarray]:
        rng = np.random.default_rng(0)
        dtype = "float64" if self.exact else self.dtype
        arrays = [rng.standard_normal(shape, dtype=self.dtype).astype(dtype) for shape in self.case.shapes]
        if self.case.name == "cross_entropy":
            arrays[1] = rng.integers(0, self.case.shapes[0][1], self.case.shapes[1])
        if self.case.name == "batch_norm":
            arrays[2] = np.abs(arrays[2])  # running variances
        return arrays

    def _grad_output(self, arrays: list[np.ndarray]) -> np.ndarray:
        with Fastcnn("reference").scope():
            shape = np.shape(getattr(functional, self.case.name)(arrays[0], *self.case.required, *arrays[1:], **self.case.options))
        return np.random.default_rng(1).standard_normal(shape, dtype=self.dtype).astype(arrays[0].dtype)


def _with_scope(library: Fastcnn, case: Case, arrays: list[np.ndarray], grad_output: np.ndarray) -> Callable[[], Any]:
    """Our backward, with what the forward pass has for it."""
    kept: dict[str, np.ndarray] = {}
    with library.scope():
        if case.name == "max_pool2d":
            kept["places"] = functional.max_pool2d(*arrays, **case.options, return_places=True)[1]
        elif case.name == "batch_norm":
            _, kept["mean"], kept["var"] = functional.batch_norm(*arrays, **case.options, return_stats=True)
        elif case.name in ("sigmoid", "tanh", "softmax"):
            kept["output"] = getattr(functional, case.name)(*arrays, **case.options)
    backward = getattr(functional, f"{case.name}_backward")
    grad = float(grad_output) if grad_output.ndim == 0 else grad_output
    return partial(backward, grad, arrays[0], *case.required, *arrays[1:], **case.options, **kept)


def _torch_backward(library: Torch, case: Case, arrays: list[np.ndarray], grad_output: np.ndarray) -> Contender:
    import torch

    tensors = [torch.from_numpy(array) if array.dtype.kind == "i" else library.tensor(array) for array in arrays]
    grad = library.tensor(grad_output) if grad_output.ndim else torch.tensor(grad_output.item(), dtype=tensors[0].dtype)
    with torch.inference_mode():
        call = TORCH_BACKWARD[case.name](grad, tensors[0], *case.required, *tensors[1:], **case.options)
    return Contender(library.name, call, torch.inference_mode)


# What PyTorch's own backward passes call, one function per op: what they need of the forward pass is made here.


def _max_pool2d(grad: "torch.Tensor", x: "torch.Tensor", kernel_size: int, stride: int | None = None, padding: int = 0) -> Callable[[], Any]:
    from torch.ops import aten

    window = [kernel_size] * 2, [stride or kernel_size] * 2, [padding] * 2
    _, indices = aten.max_pool2d_with_indices(x, *window)
    return partial(aten.max_pool2d_with_indices_backward, grad, x, *window, [1, 1], False, indices)


def _avg_pool2d(grad: "torch.Tensor", x: "torch.Tensor", kernel_size: int, stride: int | None = None, padding: int = 0) -> Callable[[], Any]:
    from torch.ops import aten

    return partial(aten.avg_pool2d_backward, grad, x, [kernel_size] * 2, [stride or kernel_size] * 2, [padding] * 2, False, True, None)


def _batch_norm(grad: "torch.Tensor", x: "torch.Tensor", mean: Any, var: Any, weight: Any, bias: Any, training: bool) -> Callable[[], Any]:
    from torch.ops import aten

    _, save_mean, save_invstd = aten.native_batch_norm(x, weight, bias, mean, var, training, 0.1, 1e-5)
    return partial(aten.native_batch_norm_backward, grad, x, weight, mean, var, save_mean, save_invstd, training, 1e-5, [True] * 3)


def _unfold(grad: "torch.Tensor", x: "torch.Tensor", **options: Any) -> Callable[[], Any]:
    import torch

    return partial(torch.nn.functional.fold, grad, tuple(x.shape[2:]), **options)


def _fold(grad: "torch.Tensor", x: "torch.Tensor", output_size: tuple, **options: Any) -> Callable[[], Any]:
    import torch

    return partial(torch.nn.functional.unfold, grad, **options)


def _linear(grad: "torch.Tensor", x: "torch.Tensor", weight: "torch.Tensor", bias: "torch.Tensor") -> Callable[[], Any]:
    return lambda: (grad @ weight, grad.T @ x, grad.sum(0))


def _cross_entropy(grad: "torch.Tensor", x: "torch.Tensor", target: "torch.Tensor") -> Callable[[], Any]:
    import torch
    from torch.ops import aten

    logarithms = torch.log_softmax(x, 1)
    total = torch.tensor(float(len(target)), dtype=x.dtype)

    def backward() -> torch.Tensor:
        return aten._log_softmax_backward_data(aten.nll_loss_backward(grad, logarithms, target, None, 1, -100, total), logarithms, 1, x.dtype)

    return backward


def _layer_norm(grad: "torch.Tensor", x: "torch.Tensor", shape: Any, weight: "torch.Tensor", bias: "torch.Tensor") -> Callable[[], Any]:
    from torch.ops import aten

    _, mean, inverse = aten.native_layer_norm(x, shape, weight, bias, 1e-5)
    return partial(aten.native_layer_norm_backward, grad, x, shape, mean, inverse, weight, bias, [True] * 3)


def _group_norm(grad: "torch.Tensor", x: "torch.Tensor", groups: int, weight: "torch.Tensor", bias: "torch.Tensor") -> Callable[[], Any]:
    from torch.ops import aten

    (N, C), pixels = x.shape[:2], x[0, 0].numel()
    _, mean, inverse = aten.native_group_norm(x, weight, bias, N, C, pixels, groups, 1e-5)
    return partial(aten.native_group_norm_backward, grad, x, mean, inverse, weight, N, C, pixels, groups, [True] * 3)


def _mse_loss(grad: "torch.Tensor", x: "torch.Tensor", target: "torch.Tensor") -> Callable[[], Any]:
    from torch.ops import aten

    return partial(aten.mse_loss_backward, grad, x, target, 1)


def _adaptive_avg_pool2d(grad: "torch.Tensor", x: "torch.Tensor", output_size: int) -> Callable[[], Any]:
    """Global pooling is a mean to PyTorch, whose backward is a quotient and a copy of it to all pixels."""
    from torch.ops import aten

    if output_size == 1:
        return lambda: (grad.expand(x.shape) / x[0, 0].numel())
    return partial(aten._adaptive_avg_pool2d_backward, grad, x)


def _softmax(grad: "torch.Tensor", x: "torch.Tensor", dim: int) -> Callable[[], Any]:
    import torch
    from torch.ops import aten

    return partial(aten._softmax_backward_data, grad, torch.softmax(x, dim), dim, x.dtype)


def _of_input(name: str) -> Callable[..., Callable[[], Any]]:
    """An activation whose backward needs its input."""

    def made(grad: "torch.Tensor", x: "torch.Tensor") -> Callable[[], Any]:
        from torch.ops import aten

        return partial(getattr(aten, name), grad, x)

    return made


def _of_output(name: str) -> Callable[..., Callable[[], Any]]:
    """One whose backward needs its output."""

    def made(grad: "torch.Tensor", x: "torch.Tensor") -> Callable[[], Any]:
        import torch
        from torch.ops import aten

        return partial(getattr(aten, f"{name}_backward"), grad, getattr(torch, name)(x))

    return made


def _relu(grad: "torch.Tensor", x: "torch.Tensor") -> Callable[[], Any]:
    from torch.ops import aten

    return partial(aten.threshold_backward, grad, x, 0)


TORCH_BACKWARD: dict[str, Callable[..., Callable[[], Any]]] = {
    "max_pool2d": _max_pool2d,
    "avg_pool2d": _avg_pool2d,
    "batch_norm": _batch_norm,
    "unfold": _unfold,
    "fold": _fold,
    "linear": _linear,
    "cross_entropy": _cross_entropy,
    "layer_norm": _layer_norm,
    "group_norm": _group_norm,
    "relu": _relu,
    "sigmoid": _of_output("sigmoid"),
    "silu": _of_input("silu_backward"),
    "gelu": _of_input("gelu_backward"),
    "tanh": _of_output("tanh"),
    "softmax": _softmax,
    "mse_loss": _mse_loss,
    "adaptive_avg_pool2d": _adaptive_avg_pool2d,
}


def run(settings: Settings) -> dict:
    rows, refused = [], []
    limit = LIMIT * float(np.finfo(settings.dtype).eps)
    with Contest(libraries(settings.backend, settings.peers), settings.threads) as contest:
        for job in _jobs(settings):
            truth = contest.truth(replace(job, exact=True))
            results = contest.measure(job, truth, partial(_worst_error, dtype=settings.dtype, limit=limit), settings.repeats)
            rows.append({"op": str(job.case), "pass": job.direction, "results": results})
            refused += compare.refusals(f"{job.case} {job.direction}", results)
            print(f"{job.case} {job.direction}", file=sys.stderr)
    header = environment.describe(settings.threads, contest.about)
    return {"kind": KIND, "header": header, "settings": asdict(settings), "refused": refused, "rows": rows}


def _jobs(settings: Settings) -> Iterator[OpJob]:
    for at in range(len(SHORT if settings.short else CASES)):
        for direction in PASSES:
            yield OpJob(at, direction, settings.dtype, settings.short)


def _worst_error(results: Arrays, truth: Arrays, dtype: str, limit: float) -> float:
    """Over all gradients; a loss is a Python float, which has no dtype of ours."""
    if len(results) != len(truth):
        raise checks.WrongResult(f"returned {len(results)} results where {len(truth)} were expected")
    parts = [result.astype(dtype) if result.ndim == 0 else result for result in results]
    return max(checks.checked_error([result], [right], dtype, limit) for result, right in zip(parts, truth, strict=True))


def render(document: dict) -> str:
    """A table per pass, the worst ratio first."""
    settings = document["settings"]
    backend = settings["backend"]
    tables = []
    for direction in PASSES:
        rows = sorted((row for row in document["rows"] if row["pass"] == direction), key=compare.worst_first(settings))
        cells = [
            [
                row["op"],
                *compare.our_cells(row["results"], backend, report.microseconds),
                *compare.rival_cells(row["results"], settings, report.microseconds),
            ]
            for row in rows
        ]
        tables += [f"\n#### {direction}\n", report.table(["op", *compare.our_columns(backend), *compare.rival_columns(settings)], cells)]
    return compare.page(f"Other ops: {backend}, {settings['dtype']}, {settings['threads']} threads", document, "us", tables)
