"""Every differentiable functional op against numerical gradients in float64, and the checker against wrong gradients."""

import doctest
import inspect
import sys

import numpy as np
import pytest
from functional_cases import CASES

import fastcnn.functional as F
from fastcnn.gradcheck import gradcheck

SMOOTH = [case for case in CASES if case.smooth and all(all(shape) for shape in case.shapes.values())]


@pytest.mark.parametrize("case", SMOOTH, ids=str)
def test_gradient(case, backend):
    arrays, others = case.make(np.float64)
    names = list(arrays)

    def function(*values):
        return case.forward(dict(zip(names, values, strict=True)), others)

    def backward(grad_output, *values):
        return case.backward(grad_output, dict(zip(names, values, strict=True)), others)[: len(names)]

    assert gradcheck(function, *arrays.values(), backward=backward, tolerance=1e-6, directions=1) <= 1e-6


def test_every_differentiable_op_has_a_case():
    differentiable = {name for name in F.__all__ if name + "_backward" in F.__all__} - {"dropout"}
    assert {case.op for case in SMOOTH} == differentiable


def test_dropout_gradient(backend, rng):
    mask = rng.random((4, 5)) > 0.5
    assert gradcheck(F.dropout, rng.standard_normal((4, 5)), p=0.5, mask=mask) < 1e-6


def test_every_op_has_a_backward_with_the_same_options():
    for name in F.__all__:
        if name.endswith("_backward"):
            forward = inspect.signature(getattr(F, name.removesuffix("_backward"))).parameters
            backward = inspect.signature(getattr(F, name)).parameters
            others = {"rng", "mask", "return_mask", "return_stats", "return_indices", "algorithm", "out"}  # not options of the function itself
            assert set(forward) - set(backward) - others == set(), name
            for key in set(forward) & set(backward):
                if forward[key].default is not inspect.Parameter.empty:
                    assert backward[key].default == forward[key].default, (name, key)


def scaled_by(factor):
    return lambda grad_output, x: factor * F.tanh_backward(grad_output, x)


@pytest.mark.parametrize("factor", [1.001, -1, 0, 2])
def test_a_wrong_gradient_is_caught_and_named(factor, rng):
    def squash(height):
        return F.tanh(height)

    with pytest.raises(AssertionError, match="squash: the gradient of height is .* but numerically"):
        gradcheck(squash, rng.standard_normal((3, 4)), backward=scaled_by(factor))


def test_one_wrong_element_among_many_is_caught(rng):
    def backward(grad_output, x):
        grad = F.tanh_backward(grad_output, x)
        grad[17] += 0.01
        return grad

    with pytest.raises(AssertionError, match="input"):
        gradcheck(F.tanh, rng.standard_normal(1000), backward=backward)


def test_a_gradient_of_the_wrong_shape_is_caught(rng):
    with pytest.raises(AssertionError, match=r"gradient of input has shape \(3,\), not \(3, 4\)"):
        gradcheck(F.tanh, rng.standard_normal((3, 4)), backward=lambda g, x: g[:, 0])


def test_points_on_a_kink_are_redrawn():
    assert gradcheck(F.relu, np.zeros((5, 5))) < 1e-6
    assert gradcheck(F.max_pool2d, np.zeros((1, 2, 4, 4)), kernel_size=2) < 1e-6


def test_inputs_are_left_as_they_were(rng):
    x = np.zeros((5, 5))
    gradcheck(F.relu, x)
    assert not x.any()


def test_a_discontinuous_function_is_reported(rng):
    with pytest.raises(AssertionError, match="no smooth point found near input"):
        gradcheck(lambda input: np.floor(input * 1e9), rng.standard_normal(20), backward=lambda g, x: 0 * x)


def test_float32_is_refused(rng):
    with pytest.raises(TypeError, match="input must be a float64 array, got float32"):
        gradcheck(F.relu, np.zeros(3, np.float32))


class Parameter:
    def __init__(self, data):
        self.data, self.grad = data, None


class ScaledTanh:
    """A user's own layer: tanh(x) * weight."""

    def __init__(self, rng, wrong=False):
        self.weight, self.wrong = Parameter(rng.standard_normal(3)), wrong

    def named_parameters(self):
        yield "weight", self.weight

    def forward(self, x):
        self.squashed = F.tanh(x)
        return self.squashed * self.weight.data

    def backward(self, grad_output):
        self.weight.grad = (grad_output * self.squashed).sum(axis=0) * (1.01 if self.wrong else 1)
        return F.tanh_backward(grad_output * self.weight.data, self.squashed, output=self.squashed)


def test_a_layer_is_checked_with_its_parameters(rng):
    x = rng.standard_normal((5, 3))
    assert gradcheck(ScaledTanh(rng), x) < 1e-6
    with pytest.raises(AssertionError, match="ScaledTanh: the gradient of weight"):
        gradcheck(ScaledTanh(rng, wrong=True), x)


def test_doctests():
    results = doctest.testmod(sys.modules[gradcheck.__module__])
    assert results.attempted and not results.failed


def test_a_gradient_that_is_zero_passes():
    """A bias before a batch norm: the true gradient is zero, the numerical one is rounding."""
    nn = pytest.importorskip("fastcnn.nn")
    block = nn.Sequential(nn.Conv2d(2, 3, 3, dtype=np.float64, rng=0), nn.BatchNorm2d(3, dtype=np.float64))
    gradcheck(block, np.random.default_rng(1).standard_normal((4, 2, 6, 6)))


def test_a_layer_whose_backward_returns_nothing_fails():
    class Forgetful:
        def forward(self, x):
            return x * 2

        def backward(self, grad_output):
            grad_output * 2

    with pytest.raises(AssertionError, match="Forgetful: backward gave no gradient of input"):
        gradcheck(Forgetful(), np.ones((2, 3)))
