"""Dropout and VanillaDropout: what is drawn, what is scaled, where the random numbers come from."""

import copy

import numpy as np
import pytest

from fastcnn import nn
from fastcnn.random import manual_seed

KINDS = [nn.Dropout, nn.VanillaDropout]


@pytest.fixture
def images():
    return np.random.default_rng(0).uniform(1, 2, (8, 16, 5, 5)).astype(np.float32)


@pytest.mark.parametrize("p", [0.2, 0.5, 0.9])
def test_dropout_scales_what_it_keeps(p, images):
    layer = nn.Dropout(p, rng=0)
    output = layer(images)
    kept = output != 0
    assert abs(kept.mean() - (1 - p)) < 0.03
    np.testing.assert_allclose(output[kept], images[kept] / (1 - p), rtol=1e-6)
    grad = layer.backward(images)
    np.testing.assert_array_equal(grad, output)
    assert layer.eval()(images) is images


@pytest.mark.parametrize("p", [0.2, 0.5, 0.9])
def test_vanilla_dropout_scales_in_evaluation(p, images):
    layer = nn.VanillaDropout(p, rng=0)
    output = layer(images)
    kept = output != 0
    assert abs(kept.mean() - (1 - p)) < 0.03
    np.testing.assert_array_equal(output[kept], images[kept])
    np.testing.assert_array_equal(layer.backward(images), output)
    evaluated = layer.eval()(images)
    assert evaluated.dtype == np.float32
    np.testing.assert_allclose(evaluated, images * (1 - p), rtol=1e-6)
    layer.saves_for_backward = True
    layer(images)
    np.testing.assert_allclose(layer.backward(images), images * (1 - p), rtol=1e-6)


def test_both_forms_agree_in_expectation_and_draw_the_same_mask(images):
    inverted, vanilla = nn.Dropout(0.3, rng=7), nn.VanillaDropout(0.3, rng=7)
    np.testing.assert_allclose(inverted(images) * 0.7, vanilla(images), rtol=1e-6)
    assert inverted(images).mean() == pytest.approx(inverted.eval()(images).mean(), rel=0.05)
    assert vanilla(images).mean() == pytest.approx(vanilla.eval()(images).mean(), rel=0.05)


@pytest.mark.parametrize("kind", KINDS)
def test_dropout_extremes(kind, images):
    layer = kind(0.0)
    np.testing.assert_array_equal(layer(images), images)
    np.testing.assert_array_equal(layer.backward(images), images)
    layer = kind(1.0)
    assert (layer(images) == 0).all() and (layer.backward(images) == 0).all()
    assert (kind(0.5)(images[:0])).shape == (0, 16, 5, 5)


@pytest.mark.parametrize("kind", KINDS)
def test_dropout_draws_anew_and_repeats_from_a_seed(kind, images):
    layer, twin = kind(0.5, rng=3), kind(0.5, rng=3)
    first = layer(images)
    assert not np.array_equal(layer(images), first)
    np.testing.assert_array_equal(twin(images), first)
    manual_seed(11)
    library = kind(0.5)
    one = library(images)
    manual_seed(11)
    np.testing.assert_array_equal(library(images), one)
    np.testing.assert_array_equal(copy.deepcopy(layer)(images), layer(images))


@pytest.mark.parametrize("kind", KINDS)
def test_dropout_rejects_and_shows_p(kind, images):
    with pytest.raises(ValueError, match=f"{kind.__name__}: p must be between 0 and 1, got 1.2"):
        kind(1.2)
    assert repr(kind(0.3)) == f"{kind.__name__}(p=0.3, inplace=False)"
    layer = kind(0.5)
    layer(images)
    with pytest.raises(ValueError, match="grad_output"):
        layer.backward(images[:1])
    assert layer(images.astype(np.float64)).dtype == np.float64
