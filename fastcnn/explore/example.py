"""One training step of a small network with every array, forward and backward, to be checked by hand: worked, correlation, cnn."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from fastcnn import functional as F
from fastcnn import nn, optim
from fastcnn.watch import watching


class Step(NamedTuple):
    """One step of the calculation: part ("given", "forward", "backward", "update"), what is done, by which rule, and the arrays that it makes.

    sums  single numbers of the arrays, written out
    """

    part: str
    title: str
    rule: str
    arrays: dict[str, np.ndarray]
    sums: tuple[str, ...] = ()


# The convolution's output is printed with two digits in the example; the activations that its later numbers come from belong to more. So the
# maximum of each window has here the value whose sigmoid they are: 0.3092, 0.2652, 0.6120 and 0.1892 to four digits.
_CONV_OUTPUT = np.array([[0.25, -0.16, 0.27, -0.34], [0.11, 0.31, -0.30, 0.01], [-0.22, 0.61, -0.09, -0.28], [-0.33, 0.48, -0.27, 0.19]])
_ACTIVATION = np.array([[0.57668996, 0.56591412], [0.64839688, 0.54715940]])
_KERNEL = np.array([[-0.13, 0.15], [-0.51, 0.62]])
_WEIGHT = np.array([[0.61, 0.82, 0.96, -1.0], [0.02, -0.5, 0.23, 0.17]])
_DELTA = np.array([[0.25, -0.15]])


def worked(seed: int = 0) -> list[Step]:
    """The worked example: convolution output -> max 2 -> sigmoid -> linear layer, from a given gradient at its output; nothing in it is random."""
    conv, lr = _CONV_OUTPUT[None, None].copy(), 0.5
    _, places = F.max_pool2d(conv, 2, return_indices=True)
    conv.reshape(-1)[places.reshape(-1)] = np.log(_ACTIVATION / (1 - _ACTIVATION)).reshape(-1)
    bias = np.zeros(2)
    pooled, places = F.max_pool2d(conv, 2, return_indices=True)
    activation = F.sigmoid(pooled)
    features = activation.reshape(1, 4)
    output = F.linear(features, _WEIGHT, bias)
    grad_features, grad_weight, grad_bias = F.linear_backward(_DELTA, features, _WEIGHT)
    grad_pooled = F.sigmoid_backward(grad_features.reshape(pooled.shape), pooled, output=activation)
    grad_conv = F.max_pool2d_backward(grad_pooled, conv, 2, indices=places)
    image = np.zeros((1, 1, 5, 5))  # its values do not matter to the gradient in it
    grad_image, _, _ = F.conv2d_backward(grad_conv, image, _KERNEL[None, None], output_mask=(True, False, False))
    a, d = features[0], _DELTA[0]
    return [
        Step("given", "a 2x2 kernel, which made the convolution's output from a 5x5 image; a linear layer", "", {"kernel": _KERNEL, "W": _WEIGHT, "b": bias}),
        Step("forward", "convolution (its output is given)", "", {"y1": conv}),
        Step("forward", "max pooling 2x2", "y2 = the largest of each window", {"y2": pooled}, (_largest(conv[0, 0, :2, :2], pooled[0, 0, 0, 0]),)),
        Step("forward", "sigmoid", "y3 = 1 / (1 + exp(-y2))", {"y3": activation}),
        Step("forward", "linear layer", "y4 = W a + b, where a is y3 as a row", {"a": features, "y4": output}, (_dot("y4[0]", _WEIGHT[0], a, bias[0]),)),
        Step("backward", "gradient of the loss at the output (given)", "", {"d4": _DELTA}),
        Step(
            "backward", "linear layer", "gradient of W = d4 a (column times row), of b = d4; d3 = W transposed d4",
            {"grad W": grad_weight, "grad b": grad_bias, "d3": grad_features},
            (f"grad W[0, 0] = {_n(d[0])}*{_n(a[0])} = {_n(grad_weight[0, 0])}", _dot("d3[0]", _WEIGHT[:, 0], d)),
        ),
        Step(
            "backward", "sigmoid", "d2 = d3 y3 (1 - y3)", {"d2": grad_pooled},
            (f"d2[0, 0] = {_n(grad_features[0, 0])}*{_n(a[0])}*(1 - {_n(a[0])}) = {_n(grad_pooled[0, 0, 0, 0])}",),
        ),
        Step("backward", "max pooling 2x2", "d1 = d2 where the maximum was, 0 elsewhere", {"d1": grad_conv}),
        Step(
            "backward", "convolution", "gradient in the image: every d1 times the kernel, added up where the kernel lay",
            {"d0": grad_image}, (f"d0[0, 2] = {_n(grad_conv[0, 0, 0, 2])}*{_n(_KERNEL[0, 0])} = {grad_image[0, 0, 0, 2]:.8f}",),
        ),
        Step(
            "update", f"gradient descent, learning rate {lr:g}", f"W - {lr:g} grad W, b - {lr:g} grad b",
            {"W": _WEIGHT - lr * grad_weight, "b": bias - lr * grad_bias},
        ),
    ]  # fmt: skip


def correlation(seed: int = 0) -> list[Step]:
    """What "convolution" means in networks: correlation of (4, 1, -1, 3) with (-2, 1), beside the true convolution, and its gradients."""
    x, w, lr = np.array([[[4.0, 1.0, -1.0, 3.0]]]), np.array([[[-2.0, 1.0]]]), 0.1
    y = F.conv1d(x, w, padding=1)
    true = F.conv1d(x, w[:, :, ::-1], padding=1)
    d = np.ones_like(y)
    grad_x, grad_w, _ = F.conv1d_backward(d, x, w, padding=1)
    padded = np.pad(x[0, 0], 1)
    written = tuple(_dot(f"y[{i}]", padded[i : i + 2], w[0, 0]) for i in range(5))
    flipped = tuple(_dot(f"t[{i}]", padded[i : i + 2], w[0, 0, ::-1]) for i in range(5))
    slides = tuple(_dot(f"grad w[{k}]", d[0, 0], padded[k : k + 5]) for k in range(2))
    return [
        Step("given", "a signal and a kernel", "", {"x": x, "w": w}),
        Step("forward", "correlation, padded by one 0 on each side: what conv1d and conv2d compute", "y[i] = x[i-1] w[0] + x[i] w[1]", {"y": y}, written),
        Step("forward", "true convolution: the same with the kernel reversed", "t[i] = x[i-1] w[1] + x[i] w[0]", {"t": true}, flipped),
        Step("backward", "a gradient of 1 at every y", "", {"d": d}),
        Step("backward", "in the kernel", "grad w[k] = sum over i of d[i] x[i-1+k]", {"grad w": grad_w}, slides),
        Step("backward", "in the signal", "grad x[j] = d[j+1] w[0] + d[j] w[1]", {"grad x": grad_x}, (_dot("grad x[0]", d[0, 0, :2], w[0, 0]),)),
        Step("update", f"gradient descent, learning rate {lr:g}", f"w - {lr:g} grad w", {"w": w - lr * grad_w}),
    ]


def cnn(seed: int = 0) -> list[Step]:
    """A whole network on a 6x6 image: two 3x3 filters, ReLU, max 2, three classes, cross-entropy; all numbers drawn from the seed, two digits each."""
    rng = np.random.default_rng(seed)
    model = nn.Sequential(
        {
            "conv": nn.Conv2d(1, 2, 3, dtype=np.float64, rng=rng), "relu": nn.ReLU(), "pool": nn.MaxPool2d(2), "flatten": nn.Flatten(),
            "fc": nn.Linear(8, 3, dtype=np.float64, rng=rng),
        }
    )  # fmt: skip
    for parameter in model.parameters():
        parameter.data[...] = parameter.data.round(2)
    x, target = rng.integers(0, 3, (1, 1, 6, 6)).astype(np.float64), np.array([int(rng.integers(3))])
    return trace(model, nn.CrossEntropyLoss(), x, target, 0.5)


_RULES = {
    "Conv2d": (
        "each filter times each window of what comes in, added up, plus the filter's bias",
        "weight: the gradient times what lay under that place of the kernel, added up; bias: the gradient, added up",
    ),
    "ReLU": ("what is below 0 becomes 0", "the gradient where the input was above 0, else 0"),
    "MaxPool2d": ("the largest of each window", "the gradient where the maximum was, 0 elsewhere"),
    "Flatten": ("all channels in one row", "back into channels"),
    "Linear": (
        "weight times row, plus bias",
        "weight: gradient (column) times what came in (row); bias: the gradient; handed on: weight transposed times gradient",
    ),
    "Sigmoid": ("1 / (1 + exp(-x))", "gradient times y (1 - y)"),
}


def trace(model: nn.Sequential, loss: Any, x: np.ndarray, target: np.ndarray, lr: float) -> list[Step]:
    """The steps of one training step of any chain of layers on one image, with plain SGD."""
    before = {name: parameter.data.copy() for name, parameter in model.named_parameters()}
    steps = [Step("given", "image and class", "", {"image": x, "class": target}), Step("given", "parameters", "", before)]
    inputs = [x]

    def forward(path: str, module: Any, output: np.ndarray) -> None:
        if path:
            kind = type(module).__name__
            sums = (_window(module, inputs[-1], output),) if kind == "Conv2d" else ()
            if kind == "Linear":
                bias = None if module.bias is None else float(module.bias.data[0])
                sums += (_dot("[0]", module.weight.data[0], inputs[-1][0], bias, float(output[0, 0])),)
            steps.append(Step("forward", f"{path} ({kind})", _RULES.get(kind, ("", ""))[0], {"output": output.copy()}, sums))
            inputs.append(output)

    def backward(path: str, module: Any, grad_input: np.ndarray) -> None:
        if path:
            kind = type(module).__name__
            grads = {f"gradient of {name}": value.grad.copy() for name, value in vars(module).items() if isinstance(value, nn.Parameter)}
            steps.append(Step("backward", f"{path} ({kind})", _RULES.get(kind, ("", ""))[1], {**grads, "handed on": np.array(grad_input)}))

    model.train().zero_grad()
    with watching(model, "forward", forward):
        output = model(x)
    value = {"loss": np.array(loss(output, target))}
    gradient = {"gradient": loss.backward()}
    kind, rule, back = type(loss).__name__, "", ""
    if kind == "CrossEntropyLoss":
        rule, back = "softmax: exp(x) / sum of exp(x); loss: -log of the class's probability", "probabilities, less 1 at the class"
        value = {"probabilities": F.softmax(output, dim=1), **value}
    steps += [Step("forward", kind, rule, value), Step("backward", kind, back, gradient)]
    with watching(model, "backward", backward):
        model.backward(gradient["gradient"])
    optim.SGD(model.parameters(), lr=lr).step()
    after = {name: parameter.data.copy() for name, parameter in model.named_parameters()}
    steps.append(Step("update", f"gradient descent, learning rate {lr:g}", f"parameter - {lr:g} gradient", after))
    after_loss = np.array(loss(model(x), target))
    return [*steps, Step("update", "the same image once more", "the loss with these parameters", {"loss": after_loss})]


EXAMPLES = {"worked": worked, "correlation": correlation, "cnn": cnn}
DIGITS = {"worked": 8, "correlation": 4, "cnn": 4}  # worked: as many as the example itself prints


def _n(value: float) -> str:
    """A number in a sum, with at most eight digits and brackets where it is negative."""
    text = f"{float(value):.8f}".rstrip("0").rstrip(".")
    return f"({text})" if text.startswith("-") else text


def _dot(name: str, left: np.ndarray, right: np.ndarray, bias: float | None = None, value: float | None = None) -> str:
    total = float(np.dot(left, right)) + (bias or 0.0) if value is None else value
    extra = "" if bias is None else f" + {_n(bias)}"
    return f"{name} = " + " + ".join(f"{_n(a)}*{_n(b)}" for a, b in zip(left, right, strict=True)) + extra + f" = {_n(total).strip('()')}"


def _largest(window: np.ndarray, value: float) -> str:
    return f"y2[0, 0] = max({', '.join(_n(v).strip('()') for v in window.flat)}) = {_n(value)}"


def _window(conv: nn.Conv2d, image: np.ndarray, output: np.ndarray) -> str:
    """The first output of a convolution, written out."""
    window = F.unfold(image, conv.kernel_size, conv.dilation, conv.padding, conv.stride)[0, : conv.weight.data[0].size, 0]
    bias = None if conv.bias is None else float(conv.bias.data[0])
    return _dot("[0, 0, 0]", conv.weight.data[0].reshape(-1), window, bias, float(output[0, 0, 0, 0]))


def text(steps: list[Step], digits: int) -> str:
    """All steps as a page of text."""
    lines, part = [], ""
    for number, step in enumerate(steps, 1):
        if step.part != part:
            part = step.part
            lines += ["", part.upper()]
        lines += ["", f"{number}. {step.title}" + f": {step.rule}" * bool(step.rule)]
        for name, array in step.arrays.items():
            lines += ["", *_block(name, array, digits)]
        if step.sums:
            lines += ["", *(f"    {line}" for line in step.sums)]
    return "\n".join(lines).strip()


def _block(name: str, array: np.ndarray, digits: int) -> list[str]:
    """'name (2x3)' and the numbers, right-aligned; of more than two axes a grid for each index of the outer ones."""
    array = np.asarray(array)
    shape = "x".join(map(str, array.shape))
    planes = array.reshape(-1, *array.shape[-2:]) if array.ndim > 2 else array.reshape(1, *np.atleast_2d(array).shape)
    whole = array.dtype.kind in "iu" or bool((array == array.round()).all())
    cells = [[[f"{value:.0f}" if whole else f"{value + 0.0:.{digits}f}" for value in row] for row in plane] for plane in planes]
    width = max((len(cell) for plane in cells for row in plane for cell in row), default=0)
    lines = [f"    {name}" + f" ({shape})" * bool(shape)]
    for index, plane in zip(np.ndindex(array.shape[:-2]), cells, strict=True):
        if len(planes) > 1:
            lines.append(f"      [{', '.join(map(str, index))}]")
        lines += ["      " + "  ".join(cell.rjust(width) for cell in row) for row in plane]
    return lines
