"""Random networks of whole numbers, by their plans and layer by layer on the reference: outputs, gradients and weights are equal to the bit."""

import numpy as np

import fastcnn
from fastcnn import nn, optim
from fastcnn.shapes import ShapeError


class Given(nn.Module):
    """A loss whose gradient is given: whole numbers go back into the network."""

    def __init__(self, gradient):
        self.gradient = gradient

    def forward(self, input, target):
        return 0.0

    def backward(self, grad_output=1.0):
        return self.gradient


def drawn_layers(rng):
    """(layers, shape of an image): convolutions of every kind, activations and pools that are exact (quarters are), branches, linear ends."""

    def pick(*values):
        return values[rng.integers(len(values))]

    channels, size = pick(1, 2, 3, 5, 8, 16, 17, 32), (pick(4, 7, 8, 12, 13, 16, 20), pick(4, 5, 8, 11, 16, 19, 33))
    shape, layers = (channels, *size), []

    def conv(channels, keep=False):
        """keep: channels and size stay."""
        groups = pick(1, 1, 1, 1, channels, 2 if channels % 2 == 0 else 1)
        filters = channels if keep else groups * pick(1, 2, 3, 4) if groups > 2 else pick(2, 4, 6, 8, 16, 18, 32, 34)
        kernel = 3 if keep else (pick(1, 2, 3, 3, 5), pick(1, 2, 3, 3, 5))
        options = {"padding": 1} if keep else {"stride": (pick(1, 1, 1, 2, 3), pick(1, 1, 1, 2)), "padding": pick(0, 1, 2, 3), "dilation": pick(1, 1, 1, 2)}
        return nn.Conv2d(channels, filters, kernel, groups=groups, bias=bool(pick(True, True, False)), **options)

    for _ in range(pick(1, 2, 3, 3, 4)):
        kind = pick("conv", "conv", "conv", "conv", "residual", "concat")
        if kind == "conv":
            layers.append(conv(channels))
            channels = layers[-1].out_channels
        elif kind == "residual":
            layers.append(nn.Residual(nn.Sequential(conv(channels, True), nn.ReLU(), conv(channels, True))))
        else:
            branches = [conv(channels, True), nn.Sequential(conv(channels, True), nn.ReLU())]
            layers.append(nn.Concat(*branches))
            channels *= 2
        layers += pick([], [nn.ReLU()], [nn.ReLU()], [nn.LeakyReLU(0.5)], [nn.Identity()])
        layers += pick([], [], [nn.MaxPool2d(2)], [nn.MaxPool2d((3, 2), (2, 1), padding=1)], [nn.AvgPool2d(2)], [nn.AvgPool2d((2, 4), 2)],
                       [nn.MaxPool2d(2, ceil_mode=True)], [nn.AdaptiveMaxPool2d(3)])  # fmt: skip
    layers.append(nn.Flatten())
    output = fastcnn.summary(nn.Sequential(*layers), shape).rows[-1].output_shape  # raises ShapeError where nothing is left
    features = int(np.prod(output))
    layers += [nn.Linear(features, 9), nn.ReLU(), nn.Linear(9, 4)] if pick(True, False) else [nn.Linear(features, 5)]
    return layers, shape


def drawn(count, seed):
    """(number, layers, image shape, batch)."""
    rng = np.random.default_rng([seed, 2])
    found = 0
    while found < count:
        try:
            layers, shape = drawn_layers(rng)
        except ShapeError:
            continue
        found += 1
        yield found, layers, shape, int(rng.choice([1, 2, 5, 8, 15, 16, 17, 33]))


def run(layers, shape, batch, backend, dtype, seed):
    """What two steps of training and predictions before and after give, as float64 arrays."""
    rng = np.random.default_rng(seed)
    model = nn.Sequential(*layers).to(dtype)
    for parameter in model.parameters():  # few and small, so that no sum leaves 2^24
        values = rng.integers(-1, 2, parameter.shape)
        parameter.data[...] = values * (rng.random(parameter.shape) < min(1.0, 6 / max(1, parameter.data[0].size)))
        parameter.grad = None
    x = rng.integers(-2, 3, (batch, *shape)).astype(dtype)
    loss = Given((rng.integers(-1, 2, (batch, model[-1].out_features)) * (rng.random((batch, model[-1].out_features)) < 0.3)).astype(dtype))
    found = []
    with fastcnn.use_backend(backend), fastcnn.use_algorithm("direct"):
        trainer = fastcnn.Trainer(model, loss, optim.SGD(model.parameters(), lr=1.0))
        for _ in range(2):
            found.append(trainer.predict(x))
            trainer.step(x, np.zeros(batch, np.int64))
            found += [trainer.logits.copy(), *(parameter.grad.copy() for parameter in model.parameters()), *(p.data.copy() for p in model.parameters())]
            for parameter in model.parameters():  # weights stay small and whole
                parameter.data[...] = np.rint(np.clip(parameter.data, -1, 1))
    return [array.astype(np.float64) for array in found]


def compare(networks, dtypes):
    """Failures, and how many networks were exact in each type, which is for the caller to check."""
    failures, exact = [], 0
    for number, layers, shape, batch in networks:
        wanted = run(layers, shape, batch, "reference", np.float64, number)
        for dtype in dtypes:
            if max(np.abs(array).max(initial=0) for array in wanted) > (2.0**18 if dtype == np.float32 else 2.0**45):
                continue
            exact += 1
            found = run(layers, shape, batch, "cpu", dtype, number)
            if any(not np.array_equal(a, b) for a, b in zip(found, wanted, strict=True)):
                where = [i for i, (a, b) in enumerate(zip(found, wanted, strict=True)) if not np.array_equal(a, b)]
                failures.append(f"network {number}, {dtype}, batch {batch}, images {shape}: arrays {where} of {len(wanted)} in\n{nn.Sequential(*layers)}")
    return failures, exact
