"""Losses: values and gradients against torch and finite differences, with every option."""

import copy
import pickle

import numpy as np
import pytest

from fastcnn import nn

# name: (class, options, input shape, kind of input, kind of target)
LOSSES = {
    "cross_entropy": ("CrossEntropyLoss", {}, (4, 5), "real", "class"),
    "cross_entropy_images": ("CrossEntropyLoss", {"label_smoothing": 0.2}, (2, 5, 3, 2), "real", "class"),
    "cross_entropy_weight": ("CrossEntropyLoss", {"weight": 5, "label_smoothing": 0.1}, (4, 5), "real", "class"),
    "cross_entropy_ignore": ("CrossEntropyLoss", {"ignore_index": 1, "weight": 5}, (6, 5), "real", "class"),
    "cross_entropy_probabilities": ("CrossEntropyLoss", {"weight": 5, "label_smoothing": 0.1}, (4, 5), "real", "distribution"),
    "nll": ("NLLLoss", {}, (4, 5), "log", "class"),
    "nll_options": ("NLLLoss", {"weight": 5, "ignore_index": 1}, (2, 5, 3), "log", "class"),
    "mse": ("MSELoss", {}, (4, 3, 2), "real", "real"),
    "bce": ("BCELoss", {}, (4, 3), "unit", "unit"),
    "bce_weight": ("BCELoss", {"weight": 3}, (4, 3), "unit", "unit"),
    "bce_logits": ("BCEWithLogitsLoss", {}, (4, 3), "real", "unit"),
    "bce_logits_weights": ("BCEWithLogitsLoss", {"weight": 3, "pos_weight": 3}, (4, 3), "real", "unit"),
}
REDUCTIONS = ["mean", "sum", "none"]


def values(kind, shape, rng):
    if kind == "class":
        return rng.integers(0, shape[1], (shape[0], *shape[2:]))
    real = rng.normal(size=shape)
    if kind == "unit":
        return 1 / (1 + np.exp(-real))
    if kind == "real":
        return real
    log = real - np.log(np.exp(real).sum(axis=1, keepdims=True))
    return np.exp(log) if kind == "distribution" else log


def case(name, dtype):
    """(class name, options, input, target)."""
    kind, options, shape, input_kind, target_kind = LOSSES[name]
    rng = np.random.default_rng(0)
    input, target = values(input_kind, shape, rng).astype(dtype), values(target_kind, shape, rng)
    target = target if target_kind == "class" else target.astype(dtype)
    options = {key: rng.uniform(0.5, 2, size).astype(dtype) if key.endswith("weight") else size for key, size in options.items()}
    return kind, options, input, target


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("name", LOSSES)
def test_loss_agrees_with_torch(name, reduction, dtype, backend):
    torch = pytest.importorskip("torch")
    kind, options, input, target = case(name, dtype)
    loss = getattr(nn, kind)(**options, reduction=reduction)
    tensors = {key: torch.from_numpy(value) if isinstance(value, np.ndarray) else value for key, value in options.items()}
    reference = getattr(torch.nn, kind)(**tensors, reduction=reduction)
    their_input = torch.tensor(input, requires_grad=True)
    expected = reference(their_input, torch.from_numpy(target))
    value = loss(input, target)
    tolerance = 2e-6 if dtype == np.float32 else 1e-12
    np.testing.assert_allclose(value, expected.detach().numpy(), rtol=tolerance, atol=tolerance)
    if reduction == "none":
        assert value.dtype == dtype
        grad_output = np.random.default_rng(1).normal(size=value.shape).astype(dtype)
        expected.backward(torch.from_numpy(grad_output))
        grad = loss.backward(grad_output)
    else:
        assert type(value) is float
        expected.backward()
        grad = loss.backward()
        np.testing.assert_allclose(loss.backward(2.0), 2 * grad, rtol=1e-6)
    assert grad.dtype == dtype
    np.testing.assert_allclose(grad, their_input.grad.numpy(), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("name", LOSSES)
def test_loss_gradients_are_those_of_finite_differences(name, reduction):
    kind, options, input, target = case(name, np.float64)
    loss = getattr(nn, kind)(**options, reduction=reduction)
    loss(input, target)
    direction, h = np.random.default_rng(2).normal(size=input.shape), 1e-6
    if kind == "BCELoss":
        direction *= input * (1 - input)  # stays inside (0, 1)
    products = loss.backward() * direction
    expected = (loss(input + h * direction, target) - loss(input - h * direction, target)) / (2 * h)
    assert abs(products.sum() - expected) < 1e-7 * max(np.abs(products).sum(), 1)


@pytest.mark.parametrize("name", LOSSES)
def test_loss_keeps_its_arguments_untouched_and_can_be_copied(name):
    kind, options, input, target = case(name, np.float32)
    loss = getattr(nn, kind)(**options)
    before = input.copy(), target.copy()
    value = loss(input, target)
    grad = loss.backward()
    for other in (copy.deepcopy(loss), pickle.loads(pickle.dumps(loss))):
        with pytest.raises(RuntimeError, match="backward needs a forward"):
            other.backward()
        assert other(input, target) == value
        np.testing.assert_array_equal(other.backward(), grad)
    np.testing.assert_array_equal(input, before[0])
    np.testing.assert_array_equal(target, before[1])


def test_loss_of_an_empty_batch():
    for name in LOSSES:
        kind, options, input, target = case(name, np.float32)
        loss = getattr(nn, kind)(**options, reduction="sum")
        assert loss(input[:0], target[:0]) == 0.0
        assert loss.backward().shape == input[:0].shape


def test_loss_weights_are_buffers_and_lists_become_float32():
    loss = nn.CrossEntropyLoss([1, 2, 3])
    assert loss.weight.dtype == np.float32 and list(loss.state_dict()) == ["weight"]
    assert loss(np.zeros((1, 3), np.float32), np.array([2])) == pytest.approx(np.log(3), rel=1e-6)
    assert loss.double().weight.dtype == np.float64
    loss = nn.BCEWithLogitsLoss(pos_weight=[1, 2])
    assert list(loss.state_dict()) == ["pos_weight"] and list(nn.CrossEntropyLoss().state_dict()) == []


def test_loss_is_worked_by_hand():
    """Softmax cross-entropy of logits (0, log 3), target 1: -log(3/4), gradient (1/4, -1/4)."""
    loss = nn.CrossEntropyLoss()
    assert loss(np.array([[0.0, np.log(3)]]), np.array([1])) == pytest.approx(np.log(4 / 3))
    np.testing.assert_allclose(loss.backward(), [[0.25, -0.25]], rtol=1e-12)


@pytest.mark.parametrize("kind", ["CrossEntropyLoss", "NLLLoss", "MSELoss", "BCELoss", "BCEWithLogitsLoss"])
def test_loss_rejects_options(kind):
    with pytest.raises(ValueError, match=f"{kind}: reduction must be one of 'none', 'mean', 'sum', got 'average'"):
        getattr(nn, kind)(reduction="average")


def test_cross_entropy_rejects_what_does_not_fit():
    with pytest.raises(ValueError, match="label_smoothing must be between 0 and 1, got 1.5"):
        nn.CrossEntropyLoss(label_smoothing=1.5)
    loss = nn.CrossEntropyLoss()
    with pytest.raises(ValueError, match="target holds 3 but input has 3 classes"):
        loss(np.zeros((1, 3), np.float32), np.array([3]))
    with pytest.raises(ValueError, match="^CrossEntropyLoss: cross_entropy: target has shape 2"):
        loss(np.zeros((1, 3), np.float32), np.array([0, 1]))
