"""Initialisers: distributions, fans, gains, names, seeds, strides."""

import numpy as np
import pytest

from fastcnn import nn
from fastcnn.nn import init

SHAPE = (40, 30, 3, 3)  # fan_in 270, fan_out 360
# name: (call, standard deviation, largest absolute value or None)
DRAWS = {
    "uniform": (lambda w, **o: init.uniform_(w, -2.0, 2.0, **o), 2 / np.sqrt(3), 2.0),
    "normal": (lambda w, **o: init.normal_(w, 0.0, 0.3, **o), 0.3, None),
    "fan_in_uniform": (lambda w, **o: init.fan_in_uniform_(w, **o), 2.4 / 270 / np.sqrt(3), 2.4 / 270),
    "xavier_uniform": (lambda w, **o: init.xavier_uniform_(w, **o), np.sqrt(2 / 630), np.sqrt(6 / 630)),
    "xavier_normal": (lambda w, **o: init.xavier_normal_(w, gain=2.0, **o), 2 * np.sqrt(2 / 630), None),
    "kaiming_uniform": (lambda w, **o: init.kaiming_uniform_(w, **o), np.sqrt(2 / 270), np.sqrt(6 / 270)),
    "kaiming_normal": (lambda w, **o: init.kaiming_normal_(w, mode="fan_out", nonlinearity="relu", **o), np.sqrt(2 / 360), None),
    "kaiming_leaky": (lambda w, **o: init.kaiming_uniform_(w, a=np.sqrt(5), **o), 1 / np.sqrt(3 * 270), 1 / np.sqrt(270)),
    "kaiming_tanh": (lambda w, **o: init.kaiming_normal_(w, nonlinearity="tanh", **o), 5 / 3 / np.sqrt(270), None),
}


@pytest.mark.parametrize("name", DRAWS)
def test_initialiser_draws_its_distribution(name):
    call, std, largest = DRAWS[name]
    weight = np.empty(SHAPE)
    assert call(weight, rng=0) is weight
    assert weight.std() == pytest.approx(std, rel=0.03)
    assert abs(weight.mean()) < 0.03 * std
    if largest is not None:
        assert 0.98 * largest < np.abs(weight).max() <= largest


@pytest.mark.parametrize("name", DRAWS)
def test_initialiser_depends_on_the_seed_only(name):
    """Not on dtype (up to rounding), strides, blocks, or whether it is a Parameter."""
    call = DRAWS[name][0]
    plain = call(np.empty(SHAPE), rng=1)
    parameter = nn.Parameter(np.empty(SHAPE, np.float32))
    array = parameter.data
    assert call(parameter, rng=np.random.default_rng(1)) is parameter and parameter.data is array
    np.testing.assert_array_equal(array, plain.astype(np.float32))
    strided = np.empty((40, 3, 3, 30)).transpose(0, 3, 1, 2)
    np.testing.assert_array_equal(call(strided, rng=1), plain)
    init.manual_seed(1)
    np.testing.assert_array_equal(call(np.empty(SHAPE)), plain)
    assert not np.array_equal(call(np.empty(SHAPE)), plain)


def test_large_arrays_are_drawn_in_blocks_of_one_stream():
    weight = init.uniform_(np.empty(3 * init._BLOCK + 5), rng=2)
    np.testing.assert_array_equal(weight, np.random.default_rng(2).uniform(0, 1, weight.size))
    weight = init.normal_(np.empty(2 * init._BLOCK + 1), rng=2)
    np.testing.assert_array_equal(weight, np.random.default_rng(2).normal(0, 1, weight.size))


def test_constants():
    weight = np.empty((2, 3), np.float32)
    assert (init.zeros_(weight) == 0).all() and (init.ones_(weight) == 1).all() and (init.constant_(weight, 0.5) == 0.5).all()
    parameter = nn.Parameter(np.ones((2, 3))[:, ::2])
    assert init.zeros_(parameter) is parameter and (parameter.data == 0).all()


@pytest.mark.parametrize("name", ["uniform", "xavier_uniform", "kaiming_normal"])
def test_initialiser_of_an_empty_weight(name):
    assert DRAWS[name][0](np.empty((0, 3))).shape == (0, 3)


@pytest.mark.parametrize("shape", [(3, 4), (5, 2, 3), (6, 3, 2, 4)])
def test_fans_are_torch_s(shape):
    torch = pytest.importorskip("torch")
    assert init.fans(np.empty(shape)) == torch.nn.init._calculate_fan_in_and_fan_out(torch.empty(shape))


def test_gains_are_torch_s():
    torch = pytest.importorskip("torch")
    for name in ("linear", "conv1d", "conv2d", "conv_transpose2d", "sigmoid", "tanh", "relu", "leaky_relu", "selu"):
        assert init.calculate_gain(name) == pytest.approx(torch.nn.init.calculate_gain(name), rel=1e-15)
    assert init.calculate_gain("leaky_relu", 0.3) == torch.nn.init.calculate_gain("leaky_relu", 0.3)


def test_get_finds_initialisers_by_name():
    assert init.get("he_normal") is init.get("kaiming_normal") is init.get("Kaiming_Normal_") is init.kaiming_normal_
    assert init.get("he_uniform") is init.kaiming_uniform_
    assert init.get("glorot_uniform") is init.get("xavier_uniform") is init.xavier_uniform_
    assert init.get("glorot_normal") is init.xavier_normal_
    for name in ("zeros", "ones", "constant", "normal", "uniform", "fan_in_uniform"):
        assert init.get(name) is getattr(init, f"{name}_")
    assert init.get(init.zeros_) is init.zeros_
    with pytest.raises(ValueError, match="no initialiser is called 'he'; there are zeros, ones"):
        init.get("he")


def test_initialisers_reject():
    with pytest.raises(ValueError, match=r"xavier_uniform_: fan_in and fan_out need a weight with 2 or more axes, got 1 \(3\)"):
        init.xavier_uniform_(np.empty(3))
    with pytest.raises(ValueError, match="kaiming_normal_: mode must be one of 'fan_in', 'fan_out', got 'fan'"):
        init.kaiming_normal_(np.empty((2, 2)), mode="fan")
    with pytest.raises(ValueError, match="nonlinearity must be one of .*, got 'swish'"):
        init.kaiming_normal_(np.empty((2, 2)), nonlinearity="swish")
    with pytest.raises(TypeError, match="uniform_: tensor must be a Parameter or a float32 or float64 array, got int64"):
        init.uniform_(np.empty(3, np.int64))
    with pytest.raises(TypeError, match="got list"):
        init.zeros_([0.0])
    with pytest.raises(TypeError, match="rng must be"):
        init.normal_(np.empty(3), rng="seed")


def test_apply_initialises_a_network():
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4, 2))

    def he(module):
        if hasattr(module, "weight"):
            init.get("he_normal")(module.weight, rng=0)
            init.zeros_(module.bias)

    model.apply(he)
    assert (model[0].bias.data == 0).all() and model[3].weight.data.std() > 0
