"""Calls whose results are compared bit for bit at every number of threads: one of every op of the table, and whole training runs.

Arrays are large enough for the loops to be shared (below about a million operations one thread does all) and of sizes that no number of threads divides.
"""

import hashlib

import numpy as np

import fastcnn
from fastcnn import nn, optim
from fastcnn.backends import reference
from fastcnn.backends.ops import OPS
from fastcnn.shapes import pool2d_output_size

THREADS = (1, 2, 3, 4, 7)
SHAPE = (13, 19, 37, 41)
PAIR, PADS = (3, 3), ((1, 1), (1, 1))


def channels_last(array):
    return np.ascontiguousarray(array.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)


def convolutions(rng, array):
    """(x, w, b, g, options) of layers that different algorithms compute."""
    for shape, weight, stride, padding, dilation, groups in (
        ((4, 64, 20, 20), (70, 64, 3, 3), 1, 1, 1, 1),  # Winograd, wide
        ((33, 3, 30, 29), (7, 3, 5, 5), 1, 0, 1, 1),  # planes, images in the lanes
        ((5, 24, 31, 33), (40, 24, 3, 3), 2, 1, 1, 1),
        ((3, 20, 25, 25), (33, 20, 3, 3), 1, 2, 2, 1),
        ((6, 32, 17, 17), (64, 8, 3, 3), 1, 1, 1, 4),
        ((6, 70, 33, 31), (70, 1, 3, 3), 1, 1, 1, 70),  # depthwise, stencils
        ((6, 35, 33, 31), (70, 1, 3, 3), 2, 1, 1, 35),
        ((96, 40, 5, 5), (120, 40, 5, 5), 1, 0, 1, 1),  # covering
        ((1, 256, 7, 7), (256, 256, 3, 3), 1, 1, 1, 1),  # flat
        ((1, 48, 40, 40), (48, 48, 1, 1), 1, 0, 1, 1),
        ((2, 300, 6, 6), (320, 300, 3, 3), 1, 1, 1, 1),
    ):
        options = ((stride, stride), ((padding, padding), (padding, padding)), (dilation, dilation), groups)
        OH, OW = ((n + 2 * padding - (k - 1) * dilation - 1) // stride + 1 for n, k in zip(shape[2:], weight[2:], strict=True))
        yield array(shape), array(weight), array((weight[0],)), array((shape[0], weight[0], OH, OW)), options


def calls(dtype, last, seed=0):
    """(op, arguments) of every op of the table, some several times."""
    rng = np.random.default_rng(seed)

    def array(shape, positive=False):
        values = rng.standard_normal(shape).astype(dtype)
        values = np.abs(values) + dtype.type(0.1) if positive else values
        return channels_last(values) if last and len(shape) == 4 else values

    for x, w, b, g, options in convolutions(rng, array):
        yield "conv2d", (x, w, b, *options)
        yield "conv2d_grad_input", (g, w, x.shape, *options)
        yield "conv2d_grad_weight", (g, x, w.shape, *options)
        yield "conv2d_grad_bias", (g,)
    x, g, C = array(SHAPE), array(SHAPE), SHAPE[1]
    yield "channels_last", (x,)
    for M, features, outputs in ((3, 2051, 517), (65, 1300, 131), (515, 400, 120)):
        rows, weight, bias, grad = array((M, features)), array((outputs, features)), array((outputs,)), array((M, outputs))
        yield "linear", (rows, weight, bias)
        yield "linear_grad_input", (grad, weight)
        yield "linear_grad_weight", (grad, rows)
        yield "linear_grad_bias", (grad,)
    yield "unfold", (x, PAIR, (1, 1), (1, 1), (1, 1))
    columns = array((SHAPE[0], C * 9, SHAPE[2] * SHAPE[3]))
    yield "fold", (columns, SHAPE[2:], PAIR, (1, 1), (1, 1), (1, 1))
    for order, shape in (("torch", columns.shape), ("dlfs", (SHAPE[0] * SHAPE[2] * SHAPE[3], C * 9)), ("cs231n", (C * 9, SHAPE[2] * SHAPE[3] * SHAPE[0]))):
        yield "im2col", (x, PAIR, (1, 1), (1, 1), (1, 1), order)
        yield "col2im", (array(shape), SHAPE, PAIR, (1, 1), (1, 1), (1, 1), order)
    for kernel, stride, padding in ((PAIR, (1, 1), (1, 1)), ((2, 2), (2, 2), (0, 0))):
        size = pool2d_output_size(SHAPE[2:], kernel, stride, padding)
        pooled, indices = reference.max_pool2d(x, kernel, stride, padding, (1, 1), size, "indices")
        grad = array(pooled.shape)
        for winners in (None, "indices", "places"):
            yield "max_pool2d", (x, kernel, stride, padding, (1, 1), size, winners)
        places = reference.max_pool2d(x, kernel, stride, padding, (1, 1), size, "places")[1]
        yield "max_pool2d_backward_places", (grad, places, SHAPE, kernel, stride, padding, (1, 1))
        yield "max_pool2d_backward", (grad, indices, SHAPE)
        for ties in ("first", "all", "split"):
            yield "max_pool2d_backward_ties", (grad, x, kernel, stride, padding, (1, 1), ties, True)
        yield "avg_pool2d", (x, kernel, stride, padding, size, True, None)
        yield "avg_pool2d_backward", (grad, SHAPE, kernel, stride, padding, True, None)
    small = array((SHAPE[0], C, 7, 5))
    yield "adaptive_avg_pool2d", (x, (7, 5))
    yield "adaptive_avg_pool2d_backward", (small, SHAPE)
    yield "adaptive_max_pool2d", (x, (7, 5), "indices")
    vector, other = array((C,)), array((C,))
    mean, var = x.astype(np.float64).mean(axis=(0, 2, 3)).astype(dtype), x.astype(np.float64).var(axis=(0, 2, 3)).astype(dtype)
    yield "batch_norm", (x, vector, other, None, None, 1e-5)
    yield "batch_norm", (x, vector, other, mean, var, 1e-5)
    yield "batch_norm_backward", (g, x, vector, mean, var, 1e-5, True)
    yield "batch_norm_backward", (g, x, vector, mean, var, 1e-5, False)
    yield "layer_norm", (x, SHAPE[2:], None, None, 1e-5)
    yield "layer_norm_backward", (g, x, SHAPE[2:], None, 1e-5)
    yield "group_norm", (x, 1, vector, other, 1e-5)
    yield "group_norm_backward", (g, x, 1, vector, 1e-5)
    for tokens, features in ((5003, 96), (517, 1027), (7, 70_001)):
        rows, grad, weight = array((tokens, features)), array((tokens, features)), array((features,))
        yield "layer_norm", (rows, (features,), weight, weight, 1e-5)
        yield "layer_norm_backward", (grad, rows, (features,), weight, 1e-5)
    for shape, groups in (((61, 24, 7, 7), 4), ((13, 20, 23, 29), 20), ((3, 24, 67, 61), 2), ((1031, 96, 1, 1), 8)):
        planes, grad, weight = array(shape), array(shape), array(shape[1:2])
        yield "group_norm", (planes, groups, weight, weight, 1e-5)
        yield "group_norm_backward", (grad, planes, groups, weight, 1e-5)
        yield "batch_norm", (planes, weight, weight, None, None, 1e-5)
        yield "batch_norm_backward", (grad, planes, weight, weight, np.abs(weight), 1e-5, True)
    yield "adaptive_avg_pool2d", (x, (1, 1))
    yield "adaptive_avg_pool2d_backward", (array((*SHAPE[:2], 1, 1)), SHAPE)
    slopes = {"leaky_relu": (0.1,), "elu": (1.1,), "gelu": ("none",), "softplus": (1.0, 20.0)}
    for op in ("relu", "leaky_relu", "elu", "selu", "gelu", "silu", "softplus", "sigmoid", "tanh"):
        yield op, (x, *slopes.get(op, ()))
        yield op + "_backward", (g, x, *slopes.get(op, ()))
    yield "prelu", (x, vector)
    yield "prelu_backward", (g, x, vector)
    for logits, dim in ((x, 1), (array((4099, 10)), 1), (array((257, 1031)), 1), (array((31, 4099)), 0)):
        for op in ("softmax", "log_softmax"):
            yield op, (logits, dim)
            yield op + "_backward", (array(logits.shape), logits, dim)
    mask = rng.random(SHAPE) < 0.5
    yield "dropout", (x, mask, 2.0)
    yield "dropout_backward", (g, mask, 2.0)
    for N, classes in ((40_009, 10), (2_003, 1_000)):
        logits, labels = array((N, classes)), rng.integers(0, classes, N)
        for reduction, grad in (("mean", 1.5), ("sum", 1.0), ("none", array((N,)))):
            yield "cross_entropy", (logits, labels, array((classes,), True), -100, reduction, 0.1)
            yield "cross_entropy_backward", (grad, logits, labels, array((classes,), True), -100, reduction, 0.1)
            yield "nll_loss", (logits, labels, None, -100, reduction)
            yield "nll_loss_backward", (grad, logits, labels, None, -100, reduction)
    for reduction, grad in (("mean", 1.5), ("none", g)):
        probabilities, targets = (1 / (1 + np.exp(-x))).astype(dtype), (1 / (1 + np.exp(-g))).astype(dtype)
        yield "mse_loss", (x, g, reduction)
        yield "mse_loss_backward", (grad, x, g, reduction)
        yield "binary_cross_entropy", (probabilities, targets, None, reduction)
        yield "binary_cross_entropy_backward", (grad, probabilities, targets, None, reduction)
        yield "binary_cross_entropy_with_logits", (x, targets, None, None, reduction)
        yield "binary_cross_entropy_with_logits_backward", (grad, x, targets, None, None, reduction)
    edges = ((0, 0), (0, 0), (2, 3), (1, -4))
    yield "pad", (x, edges, "constant", 1.0)
    yield "pad_backward", (array((*SHAPE[:2], SHAPE[2] + 5, SHAPE[3] - 3)), SHAPE, edges, "constant")
    for mode in ("nearest", "bilinear"):
        yield "interpolate", (x, (50, 60), mode, False, None)
        yield "interpolate_backward", (array((*SHAPE[:2], 50, 60)), SHAPE, mode, False, None)
    shapes = ((120, 40, 5, 5), (120,), (1030, 517), (7,))
    several = [[array(shape) for shape in shapes] for _ in range(2)] + [[array(shape, True) for shape in shapes] for _ in range(3)]
    steps = [3] * len(shapes)
    yield "sgd_update", (*several[:3], steps, 0.1, 0.9, 0.0, 1e-3, True, False)
    yield "adagrad_update", (*several[:3], steps, 0.1, 0.01, 1e-10, 1e-3, False)
    yield "rmsprop_update", (*several[:3], None, several[4], 0.1, 0.99, 1e-8, 0.9, 1e-3, False)
    yield "adam_update", (*several, steps, 0.1, 0.9, 0.999, 1e-8, 1e-3, True, False)


def arrays_in(value):
    if isinstance(value, np.ndarray):
        yield value
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from arrays_in(item)


def digest(*values):
    """Of the bits, shapes and types of all arrays and numbers."""
    found = hashlib.blake2b(digest_size=16)
    for value in values:
        for array in arrays_in(value if isinstance(value, (np.ndarray, tuple, list)) else np.asarray(value)):
            found.update(f"{array.shape}{array.dtype}".encode() + np.ascontiguousarray(array).tobytes())
    return found.hexdigest()


def of_every_op(cpu, dtype, last):
    """[(op, digest)] of every call by the compiled backend; updates change their arguments, so these are counted too."""
    found = []
    for op, arguments in calls(dtype, last):
        result = getattr(cpu, op)(*arguments)
        found.append((op, digest(*([result] if result is not None else []), *(arguments if op.endswith("_update") else ()))))
    assert {op for op, _ in found} == set(OPS)
    return found


# --- training ---------------------------------------------------------------------------------------------------------------------


def block(channels, filters):
    return [nn.Conv2d(channels, filters, 3, padding=1), nn.BatchNorm2d(filters), nn.ReLU()]


NETWORKS = {  # layers, shape of an image
    "lenet": (lambda: [nn.Conv2d(1, 6, 5), nn.MaxPool2d(2), nn.ReLU(), nn.Conv2d(6, 16, 5), nn.MaxPool2d(2), nn.ReLU(), nn.Conv2d(16, 120, 5), nn.ReLU(),
                       nn.Flatten(), nn.Linear(120, 84), nn.ReLU(), nn.Dropout(0.3), nn.Linear(84, 10)], (1, 32, 32)),
    "wide": (lambda: [*block(3, 32), nn.MaxPool2d(2), *block(32, 64), nn.MaxPool2d(2), *block(64, 64), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                      nn.Dropout(0.5), nn.Linear(64, 10)], (3, 32, 32)),
    "mixed": (lambda: [nn.Conv2d(3, 24, 3, stride=2, padding=1), nn.LeakyReLU(0.1), nn.Residual(nn.Sequential(nn.Conv2d(24, 24, 3, padding=1), nn.GELU())),
                       nn.Conv2d(24, 24, 3, padding=1, groups=24), nn.Concat(nn.Conv2d(24, 16, 1), nn.Conv2d(24, 17, 3, padding=1)), nn.ELU(),
                       nn.Dropout(0.2), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(33 * 64, 10)], (3, 32, 32)),
}  # fmt: skip


def train(network, planned, images=100, epochs=2, batch_size=48):
    """A run with shuffling, random crops, flips and dropout: the digest of its history, weights and optimizer. Not planned: layer by layer, as by hand."""
    from fastcnn import datasets

    build, shape = NETWORKS[network]
    fastcnn.manual_seed(5)
    model = nn.Sequential(*build())
    rng = np.random.default_rng(3)
    data = datasets.Dataset(rng.integers(0, 256, (images, *shape), dtype=np.uint8), rng.integers(0, 10, images), tuple("0123456789"), "noise")
    augment = [datasets.RandomCrop(32, padding=4), datasets.RandomHorizontalFlip(), datasets.Standardize.fit(data)]
    batches = datasets.Batches(data, batch_size, shuffle=True, seed=1, transform=augment)
    optimizer = optim.Adam(model.parameters(), lr=1e-3)
    loss = nn.CrossEntropyLoss()
    losses = []
    if planned:
        trainer = fastcnn.Trainer(model, loss, optimizer)
        history = fastcnn.fit(trainer, batches, epochs=epochs, seed=2, progress=False)
        losses = [row["train_loss"] for row in history.rows]
    else:
        fastcnn.manual_seed(2)
        for epoch in range(epochs):
            batches.set_epoch(epoch)
            for x, y in batches:
                optimizer.zero_grad()
                losses.append(loss(model(x), y))
                model.backward(loss.backward())
                optimizer.step()
    return digest(losses, *model.state_dict().values(), *(np.asarray(value) for value in optimizer.state_dict().values()))
