"""What layers, optimizers, schedules, initialisers, metrics, data sets and the trainer say to bad options: TypeError or ValueError that names the class, the
argument and what was given; when they are built, not when they are first used. The functional API's: test_bad_input.py and test_bad_options.py."""

from math import nan

import numpy as np
import pytest
from bad_calls import raises

import fastcnn
from fastcnn import datasets, metrics, nn, optim, schedule
from fastcnn.nn import init
from fastcnn.shapes import ShapeError

MOST = 2**31 - 1
PAIR, INT, ONE = "an int or a pair of ints", "an int", "an int or a tuple of one int"


def parameters():
    return [nn.Parameter(np.zeros((2, 3), np.float32))]


def sgd(**options):
    return optim.SGD(parameters(), **options)


def network():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 5))


def trainer(model=None, **options):
    model = network() if model is None else model
    return fastcnn.Trainer(model, nn.CrossEntropyLoss(), optim.SGD(model.parameters()), **options)


IMAGES, LABELS = np.zeros((2, 3, 6, 6), np.float32), np.zeros(2, np.int64)
SOME = datasets.Dataset(np.zeros((6, 1, 4, 4), np.uint8), np.arange(6) % 2, ("a", "b"), "some")

INTEGERS = [  # what the message begins with, the call with the value, minimum, what it must be
    *((f"{kind}: in_channels", lambda v, kind=kind: getattr(nn, kind)(v, 4, 3), 1, INT) for kind in ("Conv1d", "Conv2d", "ConvTranspose2d")),
    *((f"{kind}: out_channels", lambda v, kind=kind: getattr(nn, kind)(4, v, 3), 1, INT) for kind in ("Conv1d", "Conv2d", "ConvTranspose2d")),
    *((f"{kind}: groups", lambda v, kind=kind: getattr(nn, kind)(4, 4, 3, groups=v), 1, INT) for kind in ("Conv1d", "Conv2d", "ConvTranspose2d")),
    *((f"{kind}: kernel_size", lambda v, kind=kind: getattr(nn, kind)(4, 4, v), 1, PAIR) for kind in ("Conv2d", "ConvTranspose2d")),
    *((f"{kind}: {name}", lambda v, kind=kind, name=name: getattr(nn, kind)(4, 4, 3, **{name: v}), least, PAIR)
      for kind in ("Conv2d", "ConvTranspose2d") for name, least in (("stride", 1), ("padding", 0), ("dilation", 1))),
    ("ConvTranspose2d: output_padding", lambda v: nn.ConvTranspose2d(4, 4, 3, output_padding=v), 0, PAIR),
    ("Conv1d: kernel_size", lambda v: nn.Conv1d(4, 4, v), 1, ONE),
    *((f"Conv1d: {name}", lambda v, name=name: nn.Conv1d(4, 4, 3, **{name: v}), least, ONE)
      for name, least in (("stride", 1), ("padding", 0), ("dilation", 1))),
    ("Linear: in_features", lambda v: nn.Linear(v, 3), 1, INT),
    ("Linear: out_features", lambda v: nn.Linear(3, v), 1, INT),
    *((f"{kind}: kernel_size", lambda v, kind=kind: getattr(nn, kind)(v), 1, PAIR) for kind in ("MaxPool2d", "AvgPool2d")),
    *((f"{kind}: {name}", lambda v, kind=kind, name=name: getattr(nn, kind)(2, **{name: v}), least, PAIR)
      for kind in ("MaxPool2d", "AvgPool2d") for name, least in (("stride", 1), ("padding", 0))),
    ("MaxPool2d: dilation", lambda v: nn.MaxPool2d(2, dilation=v), 1, PAIR),
    *((f"{kind}: output_size", lambda v, kind=kind: getattr(nn, kind)(v), 1, PAIR) for kind in ("AdaptiveAvgPool2d", "AdaptiveMaxPool2d")),
    *((f"{kind}: num_features", lambda v, kind=kind: getattr(nn, kind)(v), 1, INT) for kind in ("BatchNorm1d", "BatchNorm2d")),
    ("GroupNorm: num_groups", lambda v: nn.GroupNorm(v, 4), 1, INT),
    ("GroupNorm: num_channels", lambda v: nn.GroupNorm(1, v), 1, INT),
    ("LayerNorm: normalized_shape", lambda v: nn.LayerNorm(v), 1, INT),
    ("PReLU: num_parameters", lambda v: nn.PReLU(v), 1, INT),
    ("Upsample: size", lambda v: nn.Upsample(v), 1, PAIR),
    ("StepLR: step_size", lambda v: schedule.StepLR(sgd(), v), 1, INT),
    ("CosineAnnealingLR: T_max", lambda v: schedule.CosineAnnealingLR(sgd(), v), 1, INT),
    ("LinearLR: total_iters", lambda v: schedule.LinearLR(sgd(), total_iters=v), 0, INT),
    ("OneCycleLR: total_steps", lambda v: schedule.OneCycleLR(sgd(momentum=0.9), 0.1, v), 1, INT),
    ("OneCycleLR: epochs", lambda v: schedule.OneCycleLR(sgd(momentum=0.9), 0.1, epochs=v, steps_per_epoch=3), 1, INT),
    ("MultiStepLR: milestones", lambda v: schedule.MultiStepLR(sgd(), [2, v]), 0, INT),
    ("SequentialLR: milestones", lambda v: schedule.SequentialLR((o := sgd()), [schedule.StepLR(o, 2), schedule.StepLR(o, 3)], [v]), 0, INT),
    ("top_k_accuracy: k", lambda v: metrics.top_k_accuracy(np.zeros((2, 3)), LABELS, v), 1, INT),
    ("confusion_matrix: num_classes", lambda v: metrics.confusion_matrix(LABELS, LABELS, v), 1, INT),
    ("Trainer: inference_batch", lambda v: trainer(inference_batch=v), 1, INT),
    ("predict: batch_size", lambda v: trainer().predict(IMAGES, v), 1, INT),
    ("evaluate: batch_size", lambda v: trainer().evaluate((IMAGES, LABELS), v), 1, INT),
    ("fit: epochs", lambda v: fastcnn.fit(network(), (IMAGES, LABELS), epochs=v), 0, INT),
    ("fit: batch_size", lambda v: fastcnn.fit(network(), (IMAGES, LABELS), batch_size=v), 1, INT),
    ("summary: input_shape", lambda v: fastcnn.summary(network(), (3, 6, v)), 1, INT),
    ("plan: input_shape", lambda v: network().plan((2, 3, 6, v)), 0, INT),
]  # fmt: skip
DEFAULTED = {  # None is a value there
    "MaxPool2d: stride", "AvgPool2d: stride", "Upsample: size", "OneCycleLR: total_steps", "OneCycleLR: epochs", "confusion_matrix: num_classes",
    "predict: batch_size", "evaluate: batch_size",
}  # fmt: skip


@pytest.mark.parametrize("what,call,minimum,expected", INTEGERS, ids=[case[0] for case in INTEGERS])
def test_integers(what, call, minimum, expected):
    for value in (1.5, 2.0, nan, True, np.float64(1), np.bool_(True), 1j, object, *([] if what in DEFAULTED else [None])):
        with raises(TypeError, f"{what} must be {expected}, got {type(value).__name__}"):
            call(value)
    if not (what.endswith(": padding") and "Conv" in what):
        with raises(TypeError, f"{what} must be {expected}, got str '3'"):
            call("3")
    for value in (minimum - 1, -(2**40), np.int64(-5)):
        with raises(ValueError, f"{what} must be at least {minimum}, got {value!r}"):
            call(value)
    for value in (2**31, 2**64):
        with raises(ValueError, f"{what} must be at most {MOST}, got {value}"):
            call(value)
    if expected == INT:
        if what != "LayerNorm: normalized_shape":
            with raises(TypeError, f"{what} must be an int, got tuple (1, 1)"):
                call((1, 1))
        return
    for value in ((1, 1, 1), [], np.array([1, 1, 1])):
        with raises(ValueError, f"{what} must be {expected}, got {len(value)} values {value!r}"):
            call(value)
    inside = (1.5,) if expected == ONE else (1, 1.5)
    with raises(TypeError, f"{what} must be {expected}, got float {inside!r}"):
        call(inside)
    assert call(np.int64(1)) is not None


FLAGS = [
    *((f"{kind}: bias", lambda v, kind=kind: getattr(nn, kind)(4, 4, 3, bias=v)) for kind in ("Conv1d", "Conv2d", "ConvTranspose2d")),
    ("Linear: bias", lambda v: nn.Linear(3, 3, v)),
    *((f"{kind}: ceil_mode", lambda v, kind=kind: getattr(nn, kind)(2, ceil_mode=v)) for kind in ("MaxPool2d", "AvgPool2d")),
    ("MaxPool2d: return_indices", lambda v: nn.MaxPool2d(2, return_indices=v)),
    ("AdaptiveMaxPool2d: return_indices", lambda v: nn.AdaptiveMaxPool2d(2, v)),
    ("AvgPool2d: count_include_pad", lambda v: nn.AvgPool2d(2, count_include_pad=v)),
    *((f"BatchNorm2d: {name}", lambda v, name=name: nn.BatchNorm2d(3, **{name: v})) for name in ("affine", "track_running_stats", "bias")),
    *((f"LayerNorm: {name}", lambda v, name=name: nn.LayerNorm(3, **{name: v})) for name in ("elementwise_affine", "bias")),
    *((f"GroupNorm: {name}", lambda v, name=name: nn.GroupNorm(1, 3, **{name: v})) for name in ("affine", "bias")),
    *((f"{kind}: inplace", lambda v, kind=kind: getattr(nn, kind)(inplace=v)) for kind in ("ReLU", "LeakyReLU", "ELU", "SELU", "SiLU", "Dropout")),
    ("SGD: nesterov", lambda v: sgd(momentum=0.9, nesterov=v)),
    ("SGD: maximize", lambda v: sgd(maximize=v)),
    ("Adam: amsgrad", lambda v: optim.Adam(parameters(), amsgrad=v)),
    ("RMSprop: centered", lambda v: optim.RMSprop(parameters(), centered=v)),
    ("OneCycleLR: three_phase", lambda v: schedule.OneCycleLR(sgd(momentum=0.9), 0.1, 5, three_phase=v)),
    ("OneCycleLR: cycle_momentum", lambda v: schedule.OneCycleLR(sgd(momentum=0.9), 0.1, 5, cycle_momentum=v)),
    ("plan: training", lambda v: network().plan((2, 3, 6, 6), training=v)),
]


@pytest.mark.parametrize("what,call", FLAGS, ids=[case[0] for case in FLAGS])
def test_flags(what, call):
    for value in (1, 0, "yes", nan, np.zeros(3), None):
        with raises(TypeError, f"{what} must be a bool, got {type(value).__name__} {value!r}"):
            call(value)


NUMBERS = [  # and the values that are out of bounds, and what is said of them
    *((f"{kind}: eps", lambda v, layer=layer: layer(eps=v), (-1.0, nan), "at least 0")
      for kind, layer in (("BatchNorm2d", lambda **o: nn.BatchNorm2d(3, **o)), ("LayerNorm", lambda **o: nn.LayerNorm(3, **o)),
                          ("GroupNorm", lambda **o: nn.GroupNorm(1, 3, **o)))),
    ("BatchNorm2d: momentum", lambda v: nn.BatchNorm2d(3, momentum=v), (-0.1, 1.5, nan), "between 0 and 1"),
    *((f"{kind}: p", lambda v, kind=kind: getattr(nn, kind)(v), (-0.1, 1.5, nan), "between 0 and 1") for kind in ("Dropout", "VanillaDropout")),
    ("LeakyReLU: negative_slope", lambda v: nn.LeakyReLU(v), (), ""),
    ("ELU: alpha", lambda v: nn.ELU(v), (), ""),
    ("Softplus: beta", lambda v: nn.Softplus(v), (), ""),
    ("Softplus: threshold", lambda v: nn.Softplus(1.0, v), (), ""),
    ("PReLU: init", lambda v: nn.PReLU(1, v), (), ""),
    ("Upsample: scale_factor", lambda v: nn.Upsample(scale_factor=v), (-1.0, nan), "at least 0"),
    ("CrossEntropyLoss: label_smoothing", lambda v: nn.CrossEntropyLoss(label_smoothing=v), (-0.1, 1.1, nan), "between 0 and 1"),
    *((f"{kind}: {name}", lambda v, kind=kind, name=name: getattr(optim, kind)(parameters(), **{name: v}), (-1.0, nan), "0 or more")
      for kind, names in (("SGD", ("lr", "momentum", "weight_decay")), ("Adam", ("lr", "eps", "weight_decay")), ("AdamW", ("lr", "eps")),
                          ("Adagrad", ("lr", "lr_decay", "initial_accumulator_value", "eps")), ("RMSprop", ("lr", "alpha", "eps", "momentum")))
      for name in names),
    ("Adam: beta1", lambda v: optim.Adam(parameters(), betas=(v, 0.9)), (-0.1, 1.0, nan), "at least 0 and below 1"),
    ("Adam: beta2", lambda v: optim.Adam(parameters(), betas=(0.9, v)), (-0.1, 1.0, nan), "at least 0 and below 1"),
    ("SGD: dampening", lambda v: sgd(dampening=v), (), ""),
    *((f"{kind}: gamma", lambda v, make=make: make(v), (-0.5, nan), "at least 0")
      for kind, make in (("StepLR", lambda v: schedule.StepLR(sgd(), 2, v)), ("MultiStepLR", lambda v: schedule.MultiStepLR(sgd(), [2], v)),
                         ("ExponentialLR", lambda v: schedule.ExponentialLR(sgd(), v)))),
    ("CosineAnnealingLR: eta_min", lambda v: schedule.CosineAnnealingLR(sgd(), 3, v), (-0.5, nan), "at least 0"),
    ("LinearLR: start_factor", lambda v: schedule.LinearLR(sgd(), v), (0.0, 1.5, nan), "above 0 and at most 1"),
    ("LinearLR: end_factor", lambda v: schedule.LinearLR(sgd(), 0.5, v), (-0.1, 1.5, nan), "from 0 to 1"),
    ("OneCycleLR: max_lr", lambda v: schedule.OneCycleLR(sgd(momentum=0.9), v, 5), (-1.0, nan), "at least 0"),
    ("OneCycleLR: pct_start", lambda v: schedule.OneCycleLR(sgd(momentum=0.9), 0.1, 5, pct_start=v), (-0.1, 1.1, nan), "between 0 and 1"),
    ("OneCycleLR: div_factor", lambda v: schedule.OneCycleLR(sgd(momentum=0.9), 0.1, 5, div_factor=v), (0.0, nan), "above 0"),
    ("OneCycleLR: final_div_factor", lambda v: schedule.OneCycleLR(sgd(momentum=0.9), 0.1, 5, final_div_factor=v), (0.0, nan), "above 0"),
    ("RandomHorizontalFlip: p", lambda v: datasets.RandomHorizontalFlip(v), (-0.1, 1.5, nan), "between 0 and 1"),
    ("constant_: val", lambda v: init.constant_(parameters()[0], v), (), ""),
    ("uniform_: a", lambda v: init.uniform_(parameters()[0], v, 1.0), (), ""),
    ("uniform_: b", lambda v: init.uniform_(parameters()[0], 0.0, v), (), ""),
    ("normal_: std", lambda v: init.normal_(parameters()[0], 0.0, v), (-1.0, nan), "at least 0"),
    ("fan_in_uniform_: a", lambda v: init.fan_in_uniform_(parameters()[0], v), (-1.0, nan), "at least 0"),
    ("xavier_uniform_: gain", lambda v: init.xavier_uniform_(parameters()[0], v), (-1.0, nan), "at least 0"),
    ("kaiming_normal_: a", lambda v: init.kaiming_normal_(parameters()[0], v), (), ""),
]  # fmt: skip


@pytest.mark.parametrize("what,call,outside,bounds", NUMBERS, ids=[case[0] for case in NUMBERS])
def test_numbers(what, call, outside, bounds):
    for value in ("1", True, (1.0,), np.zeros(2), *([None] if "momentum" not in what and "scale_factor" not in what else [])):
        if what == "Upsample: scale_factor" and isinstance(value, tuple):
            continue
        with raises(TypeError, f"{what} must be a number, got {type(value).__name__} {value!r}"):
            call(value)
    for value in outside:
        with raises(ValueError, f"{what} must be {bounds}, got {value!r}"):
            call(value)


SEEDS = [
    ("manual_seed: seed", fastcnn.manual_seed),
    ("default_rng: rng", lambda v: nn.Dropout(rng=v)),
    ("split: seed", lambda v: datasets.split(SOME, [2], v)),
    ("Batches: seed", lambda v: datasets.Batches(SOME, 2, seed=v)),
    ("fit: seed", lambda v: fastcnn.fit(network(), (IMAGES, LABELS), epochs=1, seed=v)),
]


@pytest.mark.parametrize("what,call", SEEDS, ids=[case[0] for case in SEEDS])
def test_seeds(what, call):
    with raises(ValueError, f"{what} must be at least 0, got -1"):
        call(-1)
    for value in ("1", 1.0, True, (1,), *([None] if what != "default_rng: rng" else [])):
        wanted = "rng must be a numpy.random.Generator, an int seed or None, got" if what == "default_rng: rng" else f"{what} must be an int, got"
        with raises(TypeError, f"{wanted} {type(value).__name__}"):
            call(value)


WORDS = [
    ("Conv2d: padding_mode", lambda v: nn.Conv2d(3, 3, 3, padding_mode=v), "'zeros', 'reflect', 'replicate', 'circular'"),
    ("ConvTranspose2d: padding_mode", lambda v: nn.ConvTranspose2d(3, 3, 3, padding_mode=v), "'zeros'"),
    ("GELU: approximate", lambda v: nn.GELU(v), "'none', 'tanh'"),
    ("Upsample: mode", lambda v: nn.Upsample(2, mode=v), "'nearest', 'bilinear'"),
    *((f"{kind}: reduction", lambda v, kind=kind: getattr(nn, kind)(reduction=v), "'none', 'mean', 'sum'")
      for kind in ("CrossEntropyLoss", "NLLLoss", "MSELoss", "BCELoss", "BCEWithLogitsLoss")),
    ("Trainer: schedule_every", lambda v: trainer(schedule_every=v), "'epoch', 'batch'"),
    ("OneCycleLR: anneal_strategy", lambda v: schedule.OneCycleLR(sgd(momentum=0.9), 0.1, 5, anneal_strategy=v), "'cos', 'linear'"),
    ("kaiming_uniform_: mode", lambda v: init.kaiming_uniform_(parameters()[0], mode=v), "'fan_in', 'fan_out'"),
]  # fmt: skip


@pytest.mark.parametrize("what,call,choices", WORDS, ids=[case[0] for case in WORDS])
def test_words(what, call, choices):
    with raises(ValueError, f"{what} must be one of {choices}, got 'cubic'"):
        call("cubic")
    for value in (3, None, np.zeros(2)):
        with raises(TypeError, f"{what} must be one of {choices}, got {value!r}"):
            call(value)


NO_MODULES = ["a network", None, 3, np.zeros(3), [nn.ReLU()]]
PARTS = [  # what is refused, and the beginning of what is said
    ("Trainer: model must be a fastcnn.nn module", lambda v: fastcnn.Trainer(v, nn.MSELoss(), sgd()), NO_MODULES),
    ("fit: model must be a fastcnn.nn module or a Trainer", lambda v: fastcnn.fit(v, (IMAGES, LABELS)), NO_MODULES),
    ("summary: model must be a fastcnn.nn module", lambda v: fastcnn.summary(v, (3, 6, 6)), NO_MODULES),
    ("Trainer: loss must be a loss module, as nn.CrossEntropyLoss()", lambda v: fastcnn.Trainer(network(), v, sgd()), ["mse", None, 3, np.mean]),
    ("Trainer: optimizer must be a fastcnn optimizer", lambda v: fastcnn.Trainer(network(), nn.MSELoss(), v), ["sgd", None, 3, optim.SGD]),
    ("Trainer: optimizer must be a fastcnn optimizer, got", lambda v: fastcnn.fit(network(), (IMAGES, LABELS), optimizer=v), ["sgd", 3]),
    ("Trainer: schedule must be one of fastcnn.schedule", lambda v: trainer(schedule=v), ["step", 3, schedule.StepLR]),
    ("Trainer: metrics must be a dict of functions (logits, target) -> float", lambda v: trainer(metrics=v), ["accuracy", 3, {"a": 3}, [metrics.accuracy]]),
    ("StepLR: optimizer must be a fastcnn optimizer", lambda v: schedule.StepLR(v, 3), ["sgd", None, 3]),
    ("LambdaLR: lr_lambda must be a function of the step", lambda v: schedule.LambdaLR(sgd(), v), [0.5, None, "x"]),
    ("MultiStepLR: milestones must be a list of ints", lambda v: schedule.MultiStepLR(sgd(), v), [3, None]),
    ("SequentialLR: schedulers must be a list", lambda v: schedule.SequentialLR(sgd(), v, []), [3, None, "x"]),
    ("SequentialLR: schedulers[0] must be a schedule", lambda v: schedule.SequentialLR(sgd(), [v], []), [3, None, "x"]),
    ("SGD: params must be an iterable of Parameters (model.parameters())", lambda v: optim.SGD(v), [None, 3, 1.5]),
    ("SGD: params must be Parameters (model.parameters()), item 0 is a", lambda v: optim.SGD([v]), [None, 3, np.zeros(3)]),
    ("Adam: betas must be a pair of numbers", lambda v: optim.Adam(parameters(), betas=v), [0.9, "ab", None, (0.9,), np.zeros(2)]),
    ("Sequential: child '0' must be a Module", lambda v: nn.Sequential(v), [3, None, np.tanh]),
    ("Concat: child '0' must be a Module", lambda v: nn.Concat(v), [3, None, np.tanh]),
    ("Residual: body must be a Module", lambda v: nn.Residual(v), [3, None, np.tanh]),
    ("Residual: shortcut must be a Module", lambda v: nn.Residual(nn.ReLU(), v), [3, "x", np.tanh]),
    ("Concat: dim must be an int", lambda v: nn.Concat(nn.ReLU(), dim=v), [1.0, "1", None]),
    ("Flatten: start_dim must be an int", lambda v: nn.Flatten(v), [1.0, "1", None]),
    ("Flatten: end_dim must be an int", lambda v: nn.Flatten(1, v), [1.0, "1", None]),
    ("Softmax: dim must be an int", lambda v: nn.Softmax(v), [1.0, "1", True]),
    ("LogSoftmax: dim must be an int", lambda v: nn.LogSoftmax(v), [1.0, "1", True]),
    ("Unflatten: dim must be an int", lambda v: nn.Unflatten(v, (2, 2)), [1.0, "1", None]),
    ("Unflatten: unflattened_size must be a tuple of ints", lambda v: nn.Unflatten(1, v), [4, "22", None]),
    ("CrossEntropyLoss: ignore_index must be an int", lambda v: nn.CrossEntropyLoss(ignore_index=v), [1.0, "1", None]),
    ("NLLLoss: ignore_index must be an int", lambda v: nn.NLLLoss(ignore_index=v), [1.0, "1", None]),
    ("CrossEntropyLoss: weight must be an array or a list of numbers", lambda v: nn.CrossEntropyLoss(v), ["a", [[1], [1, 2]], object()]),
    ("BCEWithLogitsLoss: pos_weight must be an array or a list of numbers", lambda v: nn.BCEWithLogitsLoss(pos_weight=v), ["a", {}]),
    ("Parameter: data must be float32 or float64", lambda v: nn.Parameter(v), [3, "a", None, np.zeros(3, np.int64)]),
    ("uniform_: tensor must be a Parameter or a float32 or float64 array", lambda v: init.uniform_(v), [None, [1.0], np.zeros(3, int)]),
    ("calculate_gain: nonlinearity must be a str", lambda v: init.calculate_gain(v), [None, 3, np.tanh]),
    ("Batches: dataset must be a Dataset", lambda v: datasets.Batches(v, 2), [None, (IMAGES, LABELS)]),
    ("Batches: batch_size must be an int", lambda v: datasets.Batches(SOME, v), [None, 2.0, "2", True]),
    ("split: dataset must be a Dataset", lambda v: datasets.split(v, [2], 0), [None, (IMAGES, LABELS)]),
    ("split: sizes_or_fractions must be a list", lambda v: datasets.split(SOME, v, 0), [3, 0.5, None]),
    ("predict: x must be a numpy.ndarray", lambda v: trainer().predict(v), [None, 3, "x", [[1.0]]]),
    ("fit: callbacks must be a list of functions (trainer, row)", lambda v: fastcnn.fit(network(), (IMAGES, LABELS), callbacks=v), [print, [3]]),
    ("train must be a Dataset, an (x, y) pair of arrays or datasets.Batches", lambda v: fastcnn.fit(network(), v), [None, 3, "x", (IMAGES,), [IMAGES]]),
    ("data must be a Dataset, an (x, y) pair of arrays", lambda v: trainer().evaluate(v), [None, 3, (IMAGES,)]),
    ("(x, y) data: x must be an array of one entry per image, got a scalar", lambda v: trainer().evaluate((v, LABELS)), [3, None]),
    ("(x, y) data: y must be an array of one entry per image, got a scalar", lambda v: trainer().evaluate((IMAGES, v)), [3, None]),
    ("evaluate: batch 0 of the data must be an (x, y) pair", lambda v: trainer().evaluate([v]), [3, None, (IMAGES,), IMAGES, "xy"]),
    ("summary: input_shape must be a tuple of ints", lambda v: fastcnn.summary(network(), v), [3, None, "366"]),
    ("plan: input_shape must be a tuple of ints", lambda v: network().plan(v), [3, None, "366"]),
    ("set_num_threads: n must be an int", fastcnn.set_num_threads, [1.5, "2", None, True, np.zeros(2)]),
]


@pytest.mark.parametrize("message,call,values", PARTS, ids=[case[0] for case in PARTS])
def test_what_is_of_another_kind(message, call, values):
    for value in values:
        with raises(TypeError, message) as caught:
            call(value)
        words = [type(value).__name__, repr(value), "scalar", "values"]
        if not isinstance(value, (tuple, list)):
            words.append(str(np.asarray(value).dtype))
        assert any(word in str(caught.value) for word in words), caught.value


TOGETHER = [
    (lambda: nn.Conv2d(3, 4, 3, groups=2), ShapeError, "Conv2d: groups 2 does not divide in_channels 3"),
    (lambda: nn.Conv2d(4, 3, 3, groups=2), ShapeError, "Conv2d: groups 2 does not divide out_channels 3"),
    (lambda: nn.Conv2d(4, 4, 3, padding="full"), ValueError, "Conv2d: padding must be 'same', 'valid', an int or a pair of ints, got 'full'"),
    (lambda: nn.Conv1d(4, 4, 3, padding="full"), ValueError, "Conv1d: padding must be 'same', 'valid', an int or a tuple of one int, got 'full'"),
    (lambda: nn.Conv2d(4, 4, 3, stride=2, padding="same"), ShapeError, "Conv2d: padding 'same' needs stride 1, got stride 2x2"),
    (lambda: nn.ConvTranspose2d(4, 4, 3, padding="same"), TypeError, "ConvTranspose2d: padding must be an int or a pair, got 'same'"),
    (lambda: nn.MaxPool2d(2, padding=2), ShapeError, "MaxPool2d: padding 2x2 is more than half of the window 2x2 (at most 1x1)"),
    (lambda: nn.AvgPool2d((3, 2), padding=(1, 2)), ShapeError, "AvgPool2d: padding 1x2 is more than half of the window 3x2 (at most 1x1)"),
    (lambda: nn.AvgPool2d(2, divisor_override=0), ValueError, "AvgPool2d: divisor_override must not be 0"),
    (lambda: nn.AvgPool2d(2, divisor_override=1.5), TypeError, "AvgPool2d: divisor_override must be an int, got float 1.5"),
    (lambda: nn.AdaptiveAvgPool2d((None, 0)), ValueError, "AdaptiveAvgPool2d: output_size must be at least 1, got (1, 0)"),
    (lambda: nn.GroupNorm(4, 6), ShapeError, "GroupNorm: num_groups 4 does not divide num_channels 6"),
    (lambda: nn.LayerNorm(()), ShapeError, "LayerNorm: normalized_shape must name at least 1 axis, got ()"),
    (lambda: nn.LayerNorm((3, 0)), ValueError, "LayerNorm: normalized_shape must be at least 1, got 0"),
    (lambda: nn.Softplus(0.0), ValueError, "Softplus: beta must not be 0, got 0.0"),
    (lambda: nn.Unflatten(1, (-1, -1)), ShapeError, "Unflatten: unflattened_size must be sizes of which one may be -1, got (-1, -1)"),
    (lambda: nn.Upsample(), ValueError, "Upsample: give size or scale_factor, one of them, got None and None"),
    (lambda: nn.Upsample(3, 2.0), ValueError, "Upsample: give size or scale_factor, one of them, got 3 and 2.0"),
    (lambda: nn.Upsample(scale_factor=(1.0, 2.0, 3.0)), ValueError, "Upsample: scale_factor must be a number or a pair, got 3 values (1.0, 2.0, 3.0)"),
    (lambda: nn.Linear(3, 3, dtype=np.float16), TypeError, "dtype must be float32 or float64, got float16"),
    (lambda: nn.Conv2d(3, 3, 3, dtype=int), TypeError, "dtype must be float32 or float64, got int64"),
    (lambda: optim.SGD([]), ValueError, "SGD: params is empty"),
    (lambda: optim.SGD(parameters() * 2), ValueError, "SGD: params has the same Parameter twice"),
    (lambda: sgd(nesterov=True), ValueError, "SGD: nesterov needs momentum above 0 and dampening 0, got momentum 0.0 and dampening 0.0"),
    (lambda: init.uniform_(parameters()[0], 2.0, 1.0), ValueError, "uniform_: a must be at most b, got 2.0 and 1.0"),
    (lambda: init.xavier_normal_(np.zeros(3)), ShapeError, "xavier_normal_: fan_in and fan_out need a weight with 2 or more axes, got 1 (3)"),
    (lambda: init.get("he"), ValueError, "init.get: no initialiser is called 'he'"),
    (lambda: init.calculate_gain("cubic"), ValueError, "calculate_gain: nonlinearity must be one of"),
    (lambda: schedule.OneCycleLR(sgd(momentum=0.9), 0.1), ValueError, "OneCycleLR: give total_steps, or epochs and steps_per_epoch"),
    (lambda: schedule.OneCycleLR(optim.Adagrad(parameters()), 0.1, 5), ValueError, "OneCycleLR: cycle_momentum needs an optimizer with momentum or betas"),
    (lambda: schedule.SequentialLR((o := sgd()), [schedule.StepLR(o, 2)], [3]), ValueError, "SequentialLR: 1 schedulers need 0 milestones, got 1"),
    (lambda: schedule.SequentialLR(sgd(), [schedule.StepLR(sgd(), 2)], []), ValueError, "SequentialLR: schedulers[0] (StepLR) was built for another optimizer"),
    (lambda: metrics.accuracy(LABELS, LABELS[:1]), ShapeError, "accuracy: 2 predictions but 1 targets"),
    (lambda: metrics.accuracy(np.zeros((2, 3, 4)), LABELS), ShapeError, "accuracy: pred must be (N,) labels or (N, C) scores, got 3 axes (2x3x4)"),
    (lambda: metrics.accuracy(np.zeros(2), LABELS), TypeError, "accuracy: pred must hold integer class numbers, got float64"),
    (lambda: metrics.confusion_matrix(LABELS + 3, LABELS, 2), ValueError, "confusion_matrix: pred has class 3 but there are classes 0 to 1"),
    (lambda: metrics.top_k_accuracy(np.zeros(3), LABELS), ShapeError, "top_k_accuracy: scores must be (2, C), got 3"),
    (lambda: datasets.split(SOME, [4, 3], 0), ValueError, "split: sizes [4, 3] add up to 7 but the dataset has 6 images"),
    (lambda: datasets.split(SOME, [0.7, 0.7], 0), ValueError, "split: fractions [0.7, 0.7] add up to 1.4, which is more than 1"),
    (lambda: datasets.split(SOME, [1, 0.5], 0), TypeError, "split: give sizes (ints) or fractions (floats), not a mixture: [1, 0.5]"),
    (lambda: datasets.split(SOME, [-1], 0), ValueError, "split: sizes must not be negative, got [-1]"),
    (lambda: datasets.Batches(SOME, 0), ValueError, "Batches: batch_size must be at least 1, got 0"),
    (lambda: datasets.Batches(SOME, 2, dtype=np.float16), TypeError, "Batches: dtype must be float32 or float64, got float16"),
    (lambda: datasets.Batches(SOME, 2, transform=[3]), TypeError, "every transform must be callable, got (3,)"),
    (lambda: datasets.RandomCrop(0), ValueError, "RandomCrop: size must be positive, got 0x0"),
    (lambda: datasets.RandomCrop(2.5), TypeError, "RandomCrop: size must be an int or a pair (H, W), got 2.5"),
    (lambda: datasets.RandomCrop(4, -1), ValueError, "RandomCrop: padding must not be negative, got -1"),
    (lambda: datasets.RandomCrop(9)(IMAGES, np.random.default_rng()), ValueError, "RandomCrop: size 9x9 is larger than the images, which are 6x6"),
    (lambda: datasets.Dataset(np.zeros((2, 3, 4)), LABELS, ("a",), "x"), TypeError, "Dataset: images must be uint8 or float32, got float64"),
    (lambda: datasets.Dataset(np.zeros((2, 3, 4), np.uint8), LABELS, ("a",), "x"), ValueError, "Dataset: images must be (N, C, H, W), got 3 axes: (2, 3, 4)"),
    (lambda: datasets.Dataset(IMAGES, LABELS[:1], ("a",), "x"), ValueError, "Dataset: 2 images need labels of shape (2,), got (1,)"),
    (lambda: datasets.Dataset(IMAGES, LABELS - 1, ("a",), "x"), ValueError, "Dataset: labels run from -1 to -1 but there are 1 classes"),
    (lambda: trainer().predict(IMAGES[:0]), ValueError, "predict: x holds no images"),
    (lambda: trainer().evaluate((IMAGES, LABELS[:1])), ValueError, "(x, y) data: x holds 2 images but y holds 1 targets"),
    (lambda: trainer().evaluate([]), ValueError, "evaluate: the data holds no images"),
    (lambda: trainer().predict(IMAGES[:, :2]), ShapeError, "conv2d: input has 2 channels but weight 4x3x3x3 with groups 1 takes 3 (1 groups of 3)"),
    (lambda: trainer().predict(IMAGES[..., :5]), ShapeError, "linear: input 2x48 has 48 features but weight 5x64 takes 64"),
    (lambda: trainer().predict(IMAGES.astype(np.float64)), TypeError, "conv2d: weight is float32 but input is float64; nothing is cast"),
    (lambda: trainer().predict(IMAGES.astype(np.uint8)), TypeError, "conv2d: input must be float32 or float64, got uint8"),
    (lambda: trainer().step(IMAGES, LABELS + 5), ValueError, "cross_entropy: target holds 5 but input has 5 classes, 0 to 4"),
    (lambda: trainer().step(IMAGES, LABELS[:1]), ShapeError, "cross_entropy: target has shape 1 but input with 5 classes needs class numbers of shape 2"),
    (lambda: trainer().step(IMAGES, LABELS.astype(np.float64)), TypeError, "cross_entropy: target is float64 but input is float32; nothing is cast"),
    (lambda: fastcnn.fit(network(), (IMAGES, LABELS), transform=print), TypeError, "transform belongs to a Dataset; other data must come transformed"),
    (lambda: fastcnn.fit(trainer(), (IMAGES, LABELS), loss=nn.MSELoss()), TypeError, "fit: a Trainer brings its own loss"),
    (lambda: fastcnn.fit(network(), (IMAGES, LABELS), schedule=schedule.StepLR(sgd(), 2)), TypeError, "fit: schedule belongs to an optimizer"),
    (lambda: fastcnn.fit(network(), (IMAGES, LABELS), prefetch=-1), ValueError, "fit: prefetch must be at least 0, got -1"),
    (lambda: fastcnn.fit(network(), (IMAGES[:0], LABELS[:0])), ValueError, "fit: train holds no batch"),
    (lambda: fastcnn.summary(network(), (2, 6, 6)), ShapeError, "conv2d: input has 2 channels but weight 4x3x3x3 with groups 1 takes 3"),
    (lambda: network()(IMAGES[:, :2]), ShapeError, "0 (Conv2d): conv2d: input has 2 channels but weight 4x3x3x3 with groups 1 takes 3"),
    (lambda: network().backward(np.zeros((2, 5), np.float32)), RuntimeError, "needs a forward"),
    (lambda: network().load_state_dict({}), ValueError, "missing key '0.weight'"),
    (lambda: fastcnn.use_backend("tpu"), ValueError, "backend 'tpu' does not exist; the backends are reference, cpu"),
    (lambda: fastcnn.use_backend(np.zeros(3)), ValueError, "does not exist; the backends are reference, cpu"),
    (lambda: fastcnn.use_algorithm("fft"), ValueError, "use_algorithm: algorithm 'fft' does not exist; the algorithms are auto, direct, winograd"),
    (lambda: fastcnn.use_algorithm(None), ValueError, "use_algorithm: algorithm None does not exist"),
    (lambda: fastcnn.set_num_threads(0), ValueError, "set_num_threads: n must be at least 1, got 0"),
    (lambda: fastcnn.explain("conv3d"), ValueError, "explain: fastcnn.functional has no op 'conv3d'"),
    (lambda: fastcnn.explain("conv2d", IMAGES, IMAGES[:, :2]), ShapeError, "conv2d: input has 3 channels but weight 2x2x6x6 with groups 1 takes 2"),
    (lambda: fastcnn.gradcheck(nn.ReLU(), np.zeros(3, np.float32)), TypeError, "gradcheck: input must be a float64 array, got float32"),
    (lambda: fastcnn.recipes.get("lenet-imagenet"), ValueError, "lenet-imagenet"),
]  # fmt: skip


@pytest.mark.parametrize("call,error,message", TOGETHER, ids=[case[2] for case in TOGETHER])
def test_what_does_not_fit_together(call, error, message):
    with raises(error, message):
        call()


HUGE = [
    ("Conv2d: weight 2147483647x2147483647x3x3", lambda: nn.Conv2d(MOST, MOST, 3)),
    ("Conv2d: weight 4x4x2147483647x2147483647", lambda: nn.Conv2d(4, 4, MOST)),
    ("Conv1d: weight 2147483647x2147483647x3", lambda: nn.Conv1d(MOST, MOST, 3)),
    ("ConvTranspose2d: weight 2147483647x2147483647x3x3", lambda: nn.ConvTranspose2d(MOST, MOST, 3)),
    ("Linear: weight 2147483647x2147483647", lambda: nn.Linear(MOST, MOST)),
    ("LayerNorm: weight 2147483647x2147483647", lambda: nn.LayerNorm((MOST, MOST))),
]


@pytest.mark.parametrize("message,call", HUGE, ids=[case[0] for case in HUGE])
def test_weights_that_cannot_exist_are_not_allocated(message, call):
    with raises(ShapeError, f"{message} of 4-byte elements needs"):
        call()
