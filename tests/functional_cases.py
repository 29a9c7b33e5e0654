"""One table of calls of the functional API, used for the comparison with PyTorch, for gradient checks and for memory layouts.

A Case names an op, its differentiable arrays in the order in which <op>_backward returns their gradients, its other arrays, and its options.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

import fastcnn.functional as F


@dataclass(frozen=True)
class Case:
    op: str
    shapes: dict[str, tuple[int, ...]]
    options: dict = field(default_factory=dict)
    constants: dict[str, Callable] = field(default_factory=dict)  # name -> function of (rng, dtype)
    draw: Callable = lambda rng, shape: rng.standard_normal(shape)  # values of the differentiable arrays
    smooth: bool = True  # whether numerical differentiation makes sense

    def __str__(self) -> str:
        shapes = "_".join("x".join(map(str, shape)) or "scalar" for shape in self.shapes.values())
        options = "_".join(f"{name}={value}" for name, value in self.options.items())
        return "-".join(filter(None, [self.op, shapes, *self.constants, options])).replace(" ", "")

    def make(self, dtype, seed=0) -> tuple[dict[str, np.ndarray], dict]:
        """(differentiable arrays, everything else) as keyword arguments."""
        rng = np.random.default_rng(seed)
        arrays = {name: np.asarray(self.draw(rng, shape), dtype) for name, shape in self.shapes.items()}
        return arrays, {name: make(rng, dtype) for name, make in self.constants.items()} | self.options

    def forward(self, arrays, others):
        return getattr(F, self.op)(**arrays, **others)

    def backward(self, grad_output, arrays, others) -> tuple:
        grads = getattr(F, self.op + "_backward")(grad_output, **arrays, **others)
        return grads if isinstance(grads, tuple) else (grads,)


def conv(op, input, weight, bias=True, **options):
    out_channels = weight[1] * options.get("groups", 1) if op == "conv_transpose2d" else weight[0]
    return Case(op, {"input": input, "weight": weight} | ({"bias": (out_channels,)} if bias else {}), options)


def plain(op, shape, **options):
    return Case(op, {"input": shape}, options)


def affine(op, shape, parameters, constants=None, **options):
    return Case(op, {"input": shape, "weight": parameters, "bias": parameters}, options, constants or {})


def integers(low, high):
    return lambda rng, shape: rng.integers(low, high, shape)


def classes(num_classes, shape, ignored=None):
    """Class numbers, every third replaced by ignored if given."""

    def make(rng, dtype):
        target = rng.integers(0, num_classes, shape)
        if ignored is not None:
            target.reshape(-1)[::3] = ignored
        return target

    return make


def probabilities(shape, axis=1):
    def make(rng, dtype):
        p = rng.random(shape)
        return (p / p.sum(axis=axis, keepdims=True)).astype(dtype)

    return make


def uniform(shape, low=0.05, high=0.95):
    return lambda rng, dtype: rng.uniform(low, high, shape).astype(dtype)


CONV = [
    conv("conv2d", (2, 3, 7, 6), (4, 3, 3, 3)),
    conv("conv2d", (2, 3, 7, 6), (4, 3, 3, 3), bias=False, padding=1),
    conv("conv2d", (3, 8, 9), (4, 3, 3, 2), stride=2, padding=(1, 0)),
    conv("conv2d", (2, 4, 9, 8), (6, 2, 3, 2), stride=(2, 3), padding=(2, 1), dilation=(1, 2), groups=2),
    conv("conv2d", (2, 4, 7, 7), (4, 1, 3, 3), groups=4, padding=1),
    conv("conv2d", (2, 4, 7, 7), (8, 1, 3, 3), groups=4, stride=2),
    conv("conv2d", (2, 3, 7, 6), (4, 3, 2, 4), padding="same"),
    conv("conv2d", (2, 3, 9, 9), (4, 3, 4, 2), padding="same", dilation=(2, 3)),
    conv("conv2d", (2, 3, 7, 6), (4, 3, 3, 3), padding="valid"),
    conv("conv2d", (2, 1, 5, 5), (6, 1, 5, 5)),
    conv("conv2d", (2, 5, 4, 6), (7, 5, 1, 1), stride=3),
    conv("conv2d", (1, 2, 4, 4), (1, 2, 2, 2), padding=5, dilation=3),
    conv("conv2d", (2, 16, 8, 8), (16, 16, 3, 3), padding=1),
    conv("conv2d", (0, 3, 7, 6), (4, 3, 3, 3), padding=1),
    conv("conv1d", (2, 3, 9), (4, 3, 3)),
    conv("conv1d", (3, 9), (4, 3, 4), padding="same", dilation=2),
    conv("conv1d", (2, 4, 9), (6, 2, 3), stride=2, padding=2, groups=2),
    conv("conv1d", (0, 4, 9), (6, 4, 3)),
    conv("conv_transpose2d", (2, 3, 5, 4), (3, 4, 3, 3)),
    conv("conv_transpose2d", (3, 5, 4), (3, 4, 3, 2), stride=2, padding=(1, 0)),
    conv("conv_transpose2d", (2, 4, 5, 4), (4, 3, 3, 3), stride=(2, 3), padding=1, output_padding=(1, 2), groups=2),
    conv("conv_transpose2d", (2, 4, 4, 5), (4, 2, 2, 3), bias=False, stride=3, output_padding=2, dilation=(2, 1)),
    conv("conv_transpose2d", (1, 2, 3, 3), (2, 2, 3, 3), stride=1, dilation=3, output_padding=2, padding=1),
    conv("conv_transpose2d", (1, 2, 1, 1), (2, 3, 1, 1), stride=3, padding=1, output_padding=2),
    conv("conv_transpose2d", (0, 2, 3, 3), (2, 3, 2, 2), stride=2),
    conv("linear", (5, 7), (3, 7)),
    conv("linear", (7,), (3, 7)),
    conv("linear", (2, 4, 5, 7), (3, 7), bias=False),
    conv("linear", (0, 7), (3, 7)),
]

POOL = [
    plain("max_pool2d", (2, 3, 6, 8), kernel_size=2),
    plain("max_pool2d", (3, 7, 9), kernel_size=(3, 2), stride=(2, 1), padding=1),
    plain("max_pool2d", (2, 3, 7, 8), kernel_size=3, stride=2, padding=1, ceil_mode=True),
    plain("max_pool2d", (2, 3, 5, 5), kernel_size=2, stride=3, ceil_mode=True),
    plain("max_pool2d", (2, 2, 9, 9), kernel_size=(2, 3), stride=2, padding=1, dilation=(2, 3)),
    plain("max_pool2d", (1, 2, 2, 2), kernel_size=3, stride=2, ceil_mode=True),
    plain("max_pool2d", (0, 3, 6, 8), kernel_size=2),
    Case("max_pool2d", {"input": (2, 3, 7, 7)}, {"kernel_size": 3, "stride": 1, "padding": 1}, draw=integers(-1, 2), smooth=False),
    Case("max_pool2d", {"input": (2, 3, 6, 6)}, {"kernel_size": 2}, draw=integers(0, 2), smooth=False),
    plain("avg_pool2d", (2, 3, 6, 8), kernel_size=2),
    plain("avg_pool2d", (3, 7, 9), kernel_size=(3, 2), stride=(2, 1), padding=1),
    plain("avg_pool2d", (2, 3, 7, 8), kernel_size=3, stride=2, padding=1, ceil_mode=True),
    plain("avg_pool2d", (2, 3, 7, 8), kernel_size=3, stride=2, padding=1, ceil_mode=True, count_include_pad=False),
    plain("avg_pool2d", (2, 3, 5, 5), kernel_size=2, stride=3, ceil_mode=True, divisor_override=3),
    plain("avg_pool2d", (2, 3, 5, 5), kernel_size=5, stride=2, padding=2, count_include_pad=False, divisor_override=-2),
    plain("avg_pool2d", (0, 3, 6, 8), kernel_size=2),
    plain("adaptive_avg_pool2d", (2, 3, 6, 8), output_size=1),
    plain("adaptive_avg_pool2d", (3, 7, 5), output_size=(3, 4)),
    plain("adaptive_avg_pool2d", (2, 3, 3, 5), output_size=(5, None)),
    plain("adaptive_avg_pool2d", (0, 3, 3, 5), output_size=2),
    plain("adaptive_max_pool2d", (2, 3, 6, 8), output_size=2),
    plain("adaptive_max_pool2d", (3, 7, 5), output_size=(3, 4)),
    plain("adaptive_max_pool2d", (2, 3, 3, 5), output_size=(None, 7)),
    plain("adaptive_max_pool2d", (0, 3, 3, 5), output_size=2),
    Case("adaptive_max_pool2d", {"input": (2, 3, 7, 7)}, {"output_size": 3}, draw=integers(-1, 2), smooth=False),
    plain("unfold", (2, 3, 6, 7), kernel_size=3),
    plain("unfold", (3, 6, 7), kernel_size=(2, 3), dilation=2, padding=(1, 2), stride=(1, 2)),
    plain("unfold", (0, 3, 6, 7), kernel_size=3),
    plain("fold", (2, 12, 12), output_size=(4, 5), kernel_size=2),
    plain("fold", (12, 9), output_size=(6, 7), kernel_size=(2, 3), dilation=2, padding=(1, 2), stride=(2, 3)),
    plain("fold", (0, 12, 12), output_size=(4, 5), kernel_size=2),
]

_RUNNING = {"running_mean": uniform((3,), -1, 1), "running_var": uniform((3,), 0.5, 2)}
NORM = [
    affine("batch_norm", (4, 3, 5, 6), (3,), _RUNNING, training=True),
    affine("batch_norm", (4, 3, 5, 6), (3,), _RUNNING, training=False, eps=0.01),
    affine("batch_norm", (4, 3), (3,), _RUNNING, training=True, momentum=0.3),
    affine("batch_norm", (4, 3, 7), (3,), _RUNNING, training=False),
    affine("batch_norm", (2, 3, 2, 3, 4), (3,), _RUNNING, training=True),
    Case("batch_norm", {"input": (4, 3, 5, 6)}, {"running_mean": None, "running_var": None, "training": True}),
    affine("layer_norm", (4, 3, 5), (5,), normalized_shape=(5,)),
    affine("layer_norm", (4, 3, 5), (3, 5), normalized_shape=(3, 5), eps=0.1),
    affine("layer_norm", (4, 3, 5, 2), (3, 5, 2), normalized_shape=(3, 5, 2)),
    Case("layer_norm", {"input": (6, 7)}, {"normalized_shape": (7,)}),
    affine("layer_norm", (0, 5), (5,), normalized_shape=(5,)),
    affine("group_norm", (4, 6, 5, 3), (6,), num_groups=3),
    affine("group_norm", (4, 6), (6,), num_groups=2),
    affine("group_norm", (2, 6, 7), (6,), num_groups=1, eps=0.1),
    Case("group_norm", {"input": (2, 4, 3, 3)}, {"num_groups": 4}),
    affine("group_norm", (0, 6, 5, 3), (6,), num_groups=3),
]

ACTIVATION = [
    *(plain(op, shape) for op in ("relu", "selu", "silu", "sigmoid", "tanh") for shape in ((2, 3, 4, 5), (7,), (0, 3), ())),
    plain("leaky_relu", (2, 3, 4, 5)),
    plain("leaky_relu", (5, 4), negative_slope=0.3),
    plain("leaky_relu", (5, 4), negative_slope=-0.5),
    plain("elu", (2, 3, 4, 5)),
    plain("elu", (5, 4), alpha=0.7),
    plain("gelu", (2, 3, 4, 5)),
    plain("gelu", (5, 4), approximate="tanh"),
    plain("softplus", (2, 3, 4, 5)),
    plain("softplus", (50,), beta=3.0, threshold=2.0),
    Case("prelu", {"input": (2, 3, 4, 5), "weight": (3,)}),
    Case("prelu", {"input": (2, 3, 4, 5), "weight": (1,)}),
    Case("prelu", {"input": (6, 3), "weight": (3,)}),
    Case("prelu", {"input": (6,), "weight": (1,)}),
    Case("prelu", {"input": (0, 3, 2), "weight": (3,)}),
    plain("softmax", (4, 5), dim=1),
    plain("softmax", (2, 3, 4, 5), dim=1),
    plain("softmax", (2, 3, 4), dim=-1),
    plain("softmax", (0, 3), dim=1),
    plain("log_softmax", (4, 5), dim=0),
    plain("log_softmax", (2, 3, 4, 5), dim=1),
    plain("log_softmax", (6,), dim=0),
]

_W5 = {"weight": uniform((5,), 0.5, 2)}
LOSS = [
    *(
        Case(op, {"input": (6, 5)}, {"reduction": reduction} | extra, {"target": classes(5, 6, ignored)} | weight)
        for op in ("cross_entropy", "nll_loss")
        for reduction in ("mean", "sum", "none")
        for ignored, extra, weight in ((None, {}, {}), (-100, {}, _W5), (2, {"ignore_index": 2}, _W5))
    ),
    *(
        Case(op, {"input": (2, 5, 3, 4)}, {"reduction": reduction}, {"target": classes(5, (2, 3, 4), -100)} | _W5)
        for op in ("cross_entropy", "nll_loss")
        for reduction in ("mean", "none")
    ),
    *(Case(op, {"input": (5,)}, {}, {"target": classes(5, ())}) for op in ("cross_entropy", "nll_loss")),
    *(
        Case("cross_entropy", {"input": (6, 5)}, {"reduction": reduction, "label_smoothing": 0.2}, {"target": classes(5, 6, -100)} | weight)
        for reduction in ("mean", "sum", "none")
        for weight in ({}, _W5)
    ),
    *(
        Case("cross_entropy", {"input": (6, 5)}, {"reduction": reduction, "label_smoothing": 0.1}, {"target": probabilities((6, 5))} | weight)
        for reduction in ("mean", "sum", "none")
        for weight in ({}, _W5)
    ),
    Case("cross_entropy", {"input": (2, 5, 3)}, {"reduction": "mean"}, {"target": probabilities((2, 5, 3))} | _W5),
    *(
        Case("mse_loss", {"input": shape}, {"reduction": reduction}, {"target": uniform(shape, -1, 1)})
        for reduction in ("mean", "sum", "none")
        for shape in ((4, 3), (2, 3, 4, 5), ())
    ),
    *(
        Case(
            "binary_cross_entropy",
            {"input": (4, 3)},
            {"reduction": reduction},
            {"target": uniform((4, 3))} | weight,
            draw=lambda rng, shape: rng.uniform(0.05, 0.95, shape),
        )
        for reduction in ("mean", "sum", "none")
        for weight in ({}, {"weight": uniform((4, 3))}, {"weight": uniform((3,))})
    ),
    *(
        Case("binary_cross_entropy_with_logits", {"input": (2, 3, 4)}, {"reduction": reduction}, {"target": uniform((2, 3, 4))} | weights)
        for reduction in ("mean", "sum", "none")
        for weights in (
            {},
            {"weight": uniform((3, 1))},
            {"pos_weight": uniform((4,), 0.5, 3)},
            {"weight": uniform((2, 3, 4)), "pos_weight": uniform((3, 4), 1, 3)},
        )
    ),
]

RESAMPLE = [
    plain("pad", (2, 3, 4, 5), pad=(1, 2)),
    plain("pad", (2, 3, 4, 5), pad=(1, 2, 0, 3, 1, 1, 2, 0), value=1.5),
    plain("pad", (2, 3, 4, 5), pad=(-1, 2, 1, -2)),
    plain("pad", (3, 4, 5), pad=(2, 1, 3, 1), mode="reflect"),
    plain("pad", (2, 3, 4, 5), pad=(4, 3, 3, 2), mode="reflect"),
    plain("pad", (2, 3, 4, 5), pad=(7, 1, 0, 6), mode="replicate"),
    plain("pad", (2, 3, 4, 5), pad=(5, 1, 0, 4), mode="circular"),
    plain("pad", (0, 3, 4), pad=(5, 1)),
    *(plain("interpolate", (2, 3, 4, 5), size=size) for size in ((8, 10), (3, 7), 1, (4, 5), (9, 3))),
    plain("interpolate", (2, 3, 7, 5), scale_factor=1.7),
    *(plain("interpolate", (2, 3, 8, 5), scale_factor=(2.1, 1.1), mode=mode) for mode in ("nearest", "bilinear")),
    plain("interpolate", (2, 3, 7, 5), scale_factor=(0.6, 2.3), recompute_scale_factor=True),
    *(plain("interpolate", (2, 3, 4, 5), size=size, mode="bilinear", align_corners=a) for size in ((8, 10), (3, 7), 1, (4, 5)) for a in (False, True)),
    plain("interpolate", (2, 3, 7, 5), scale_factor=(1.7, 0.45), mode="bilinear"),
    plain("interpolate", (2, 3, 7, 5), scale_factor=2, mode="bilinear", align_corners=True),
    plain("interpolate", (2, 3, 7, 5), scale_factor=1.7, mode="bilinear", recompute_scale_factor=True),
    plain("interpolate", (0, 3, 7, 5), scale_factor=2),
]

CASES = CONV + POOL + NORM + ACTIVATION + LOSS + RESAMPLE
