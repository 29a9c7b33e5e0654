"""A good call of every functional op, for the tests that spoil one argument at a time (test_bad_input.py, test_bad_options.py)."""

import re
from collections import Counter

import numpy as np
import pytest

import fastcnn.functional as F


def floats(*shape, dtype=np.float64):
    return np.full(shape, 0.5, dtype)


X, W, B = floats(2, 4, 6, 6), floats(6, 4, 3, 3), floats(6)
LABELS = np.array([0, 1])

GOOD = {
    "conv1d": {"input": floats(2, 4, 6), "weight": floats(6, 4, 3), "bias": B},
    "conv2d": {"input": X, "weight": W, "bias": B},
    "conv_transpose2d": {"input": X, "weight": floats(4, 5, 3, 3), "bias": floats(5)},
    "linear": {"input": floats(2, 4), "weight": floats(6, 4), "bias": B},
    "max_pool2d": {"input": X, "kernel_size": 2},
    "avg_pool2d": {"input": X, "kernel_size": 2},
    "adaptive_avg_pool2d": {"input": X, "output_size": 2},
    "adaptive_max_pool2d": {"input": X, "output_size": 2},
    "unfold": {"input": X, "kernel_size": 3},
    "fold": {"input": floats(2, 8, 9), "output_size": 4, "kernel_size": 2},
    "batch_norm": {"input": X, "running_mean": floats(4), "running_var": floats(4), "weight": floats(4), "bias": floats(4)},
    "layer_norm": {"input": floats(2, 6), "normalized_shape": (6,), "weight": B, "bias": B},
    "group_norm": {"input": X, "num_groups": 2, "weight": floats(4), "bias": floats(4)},
    **{op: {"input": floats(2, 3)} for op in ("relu", "leaky_relu", "elu", "selu", "gelu", "silu", "softplus", "sigmoid", "tanh")},
    "prelu": {"input": X, "weight": floats(4)},
    "softmax": {"input": floats(2, 3), "dim": 1},
    "log_softmax": {"input": floats(2, 3), "dim": 1},
    "dropout": {"input": floats(2, 3)},
    "cross_entropy": {"input": floats(2, 3), "target": LABELS, "weight": floats(3)},
    "nll_loss": {"input": floats(2, 3), "target": LABELS, "weight": floats(3)},
    "mse_loss": {"input": floats(2, 3), "target": floats(2, 3)},
    "binary_cross_entropy": {"input": floats(2, 3), "target": floats(2, 3), "weight": floats(3)},
    "binary_cross_entropy_with_logits": {"input": floats(2, 3), "target": floats(2, 3), "weight": floats(3), "pos_weight": floats(3)},
    "pad": {"input": X, "pad": (1, 1)},
    "interpolate": {"input": X, "size": 3},
}
OPS = list(GOOD)


def forward(op, **changes):
    return getattr(F, op)(**GOOD[op] | changes)


def backward(op, **changes):
    """The backward of the good call, with some arguments changed."""
    arguments = GOOD[op] | changes
    if op == "dropout":
        arguments = {"mask": np.ones(GOOD[op]["input"].shape, bool)} | arguments
    if "grad_output" not in arguments:
        arguments["grad_output"] = 1.0 if op.endswith("loss") or "entropy" in op else np.asarray(getattr(F, op)(**GOOD[op]))
    return getattr(F, op + "_backward")(**arguments)


BOTH = pytest.mark.parametrize("call", [forward, backward], ids=["forward", "backward"])


def name_of(call, op):
    return op if call is forward else op + "_backward"


made = Counter()  # how many bad calls were made, and of which functions and classes


def raises(error, message):
    """A context in which a call has to raise this error with this text in its message."""
    made[message.partition(":")[0]] += 1
    return pytest.raises(error, match=re.escape(message))
