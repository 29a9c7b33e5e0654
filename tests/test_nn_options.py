"""What single layers do beyond the shared properties: constructor errors, pool indices, output sizes, running statistics, seeds."""

import numpy as np
import pytest

from fastcnn import nn
from fastcnn.random import manual_seed
from fastcnn.shapes import ShapeError


@pytest.mark.parametrize(
    "build, message",
    [
        (lambda: nn.Conv2d(0, 4, 3), "Conv2d: in_channels must be at least 1, got 0"),
        (lambda: nn.Conv2d(3, 4, 3, groups=2), "groups 2 does not divide in_channels 3"),
        (lambda: nn.Conv2d(4, 3, 3, groups=2), "groups 2 does not divide out_channels 3"),
        (lambda: nn.Conv2d(4, 3, (3, 3, 3)), r"kernel_size must be an int or a pair of ints, got 3 values \(3, 3, 3\)"),
        (lambda: nn.Conv1d(4, 3, 3, padding=(1, 1)), r"padding must be an int or a tuple of one int, got 2 values \(1, 1\)"),
        (lambda: nn.Conv2d(4, 3, 3, padding_mode="mirror"), "padding_mode must be one of 'zeros', 'reflect', 'replicate', 'circular', got 'mirror'"),
        (lambda: nn.ConvTranspose2d(4, 3, 3, padding_mode="reflect"), "padding_mode must be one of 'zeros', got 'reflect'"),
        (lambda: nn.Linear(3, 0), "Linear: out_features must be at least 1, got 0"),
        (lambda: nn.BatchNorm2d(0), "num_features must be at least 1, got 0"),
        (lambda: nn.GroupNorm(4, 6), "num_groups 4 does not divide num_channels 6"),
        (lambda: nn.Unflatten(1, (-1, -1)), "of which one may be -1"),
        (lambda: nn.Upsample(), "give size or scale_factor"),
        (lambda: nn.Upsample(4, 2.0), "give size or scale_factor"),
    ],
)
def test_constructor_rejects(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_constructor_rejects_types():
    with pytest.raises(TypeError, match="padding must be an int or a pair, got 'same'"):
        nn.ConvTranspose2d(4, 3, 3, padding="same")
    with pytest.raises(TypeError, match="dtype must be float32 or float64, got int64"):
        nn.Linear(3, 3, dtype=np.int64)


@pytest.mark.parametrize("kind, args", [("Conv1d", (4, 6, 3)), ("Conv2d", (4, 6, 3)), ("ConvTranspose2d", (4, 6, 3)), ("Linear", (36, 6))])
def test_default_initialisation_is_torch_s(kind, args):
    """Uniform within 1/sqrt(fan_in), weight and bias; the bound is reached, the mean is zero."""
    layer = getattr(nn, kind)(*args, rng=0)
    fan_in = nn.init.fans(layer.weight)[0]
    for parameter in (layer.weight, layer.bias):
        largest = np.abs(parameter.data).max()
        assert 0.6 / np.sqrt(fan_in) < largest <= 1 / np.sqrt(fan_in)
    assert abs(layer.weight.data.mean()) < 0.1 / np.sqrt(fan_in) * np.sqrt(36)
    torch = pytest.importorskip("torch")
    assert nn.init.fans(layer.weight) == torch.nn.init._calculate_fan_in_and_fan_out(getattr(torch.nn, kind)(*args).weight)


@pytest.mark.parametrize("kind, args", [("Conv1d", (4, 6, 3)), ("Conv2d", (4, 6, 3)), ("ConvTranspose2d", (4, 6, 3)), ("Linear", (36, 6))])
def test_seeds_repeat_weights_in_every_dtype(kind, args):
    def weights(**options):
        return list(getattr(nn, kind)(*args, **options).state_dict().values())

    for a, b in zip(weights(rng=5), weights(rng=np.random.default_rng(5), dtype=np.float64), strict=True):
        np.testing.assert_array_equal(a, b.astype(np.float32))
    manual_seed(6)
    first = weights()
    manual_seed(6)
    for a, b, c in zip(first, weights(), weights(), strict=True):
        assert np.array_equal(a, b) and not np.array_equal(a, c)


@pytest.mark.parametrize("layer", [nn.MaxPool2d(2, return_indices=True), nn.AdaptiveMaxPool2d(2, return_indices=True)], ids=["max", "adaptive"])
def test_max_pools_return_indices(layer):
    input = np.random.default_rng(0).normal(size=(2, 3, 4, 4))
    for mode in (True, False):
        output, indices = layer.train(mode)(input)
        assert indices.dtype == np.int64
        np.testing.assert_array_equal(np.take_along_axis(input.reshape(2, 3, 16), indices.reshape(2, 3, 4), axis=2), output.reshape(2, 3, 4))
    layer.train()(input)
    grad_input = layer.backward(np.ones((2, 3, 2, 2)))
    np.testing.assert_array_equal(np.flatnonzero(grad_input[0, 0]), np.sort(indices[0, 0].ravel()))


def test_conv_transpose_reaches_an_output_size():
    layer = nn.ConvTranspose2d(2, 3, 3, stride=3, padding=1, dtype=np.float64)
    input = np.random.default_rng(0).normal(size=(1, 2, 4, 5))
    for size in ((10, 13), (11, 14), (12, 15), (1, 3, 12, 13)):
        output = layer(input, output_size=size)
        assert output.shape == (1, 3, *size[-2:])
        assert layer.backward(output).shape == input.shape
    with pytest.raises(ShapeError, match="output_size must be from 10x13 to 12x15 for input 4x5, got 13x13"):
        layer(input, output_size=(13, 13))


def test_batch_norm_follows_the_batches():
    rng = np.random.default_rng(0)
    layer, average = nn.BatchNorm2d(3, momentum=0.25, dtype=np.float64), nn.BatchNorm2d(3, momentum=None, dtype=np.float64)
    batches = [rng.normal(2, 3, (4, 3, 2, 2)) for _ in range(3)]
    mean, var = np.zeros(3), np.ones(3)
    for batch in batches:
        layer(batch)
        average(batch)
        mean = 0.75 * mean + 0.25 * batch.mean(axis=(0, 2, 3))
        var = 0.75 * var + 0.25 * batch.var(axis=(0, 2, 3), ddof=1)
    np.testing.assert_allclose(layer.running_mean, mean, rtol=1e-12)
    np.testing.assert_allclose(layer.running_var, var, rtol=1e-12)
    np.testing.assert_allclose(average.running_mean, np.mean([batch.mean(axis=(0, 2, 3)) for batch in batches], axis=0), rtol=1e-12)
    assert layer.num_batches_tracked == 3 and layer.num_batches_tracked.shape == ()
    state = layer.state_dict()
    output = layer.eval()(batches[0])
    np.testing.assert_allclose(output, (batches[0] - mean[:, None, None]) / np.sqrt(var[:, None, None] + 1e-5), rtol=1e-9)
    for key, value in layer.state_dict().items():
        np.testing.assert_array_equal(value, state[key])
    layer.reset_running_stats()
    assert (layer.running_mean == 0).all() and (layer.running_var == 1).all() and layer.num_batches_tracked == 0


def test_batch_norm_untracked_uses_the_batch_in_evaluation_too():
    layer = nn.BatchNorm2d(3, track_running_stats=False, affine=False)
    assert layer.running_mean is None and layer.state_dict() == {}
    input = np.random.default_rng(0).normal(size=(4, 3, 2, 2)).astype(np.float32)
    np.testing.assert_array_equal(layer(input), layer.eval()(input))
    assert abs(layer(input).mean()) < 1e-6


def test_batch_norm_names_what_does_not_fit():
    with pytest.raises(ShapeError, match=r"^BatchNorm2d: batch_norm: input must be \(N, C, H, W\), got 3 axes"):
        nn.BatchNorm2d(3)(np.zeros((2, 3, 4), np.float32))
    with pytest.raises(ShapeError, match=r"input must be \(N, C\) or \(N, C, L\), got 4 axes"):
        nn.BatchNorm1d(3)(np.zeros((2, 3, 4, 4), np.float32))
    with pytest.raises(ShapeError, match="has 4 channels but the layer has num_features 3"):
        nn.BatchNorm2d(3)(np.zeros((2, 4, 4, 4), np.float32))


def test_bias_can_be_left_out_of_norms():
    assert list(nn.BatchNorm2d(3, bias=False).state_dict()) == ["weight", "running_mean", "running_var", "num_batches_tracked"]
    assert list(nn.GroupNorm(1, 3, bias=False).state_dict()) == list(nn.LayerNorm(3, bias=False).state_dict()) == ["weight"]


def test_unbatched_images_pass_through_a_network():
    model = nn.Sequential(nn.Conv2d(1, 4, 3, rng=0), nn.ReLU(), nn.MaxPool2d(2), nn.AdaptiveAvgPool2d(1), nn.Flatten(0), nn.Linear(4, 3, rng=0))
    image = np.random.default_rng(0).normal(size=(1, 8, 8)).astype(np.float32)
    assert model(image).shape == (3,)
    assert model.backward(np.ones(3, np.float32)).shape == (1, 8, 8)


def test_flatten_keeps_channel_order_of_channels_last_images():
    images = np.arange(24.0).reshape(1, 2, 3, 4)
    channels_last = np.ascontiguousarray(images.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    np.testing.assert_array_equal(nn.Flatten()(channels_last), images.reshape(1, 24))
    assert np.shares_memory(nn.Flatten()(images), images)


def test_shape_layers_name_what_does_not_fit():
    with pytest.raises(ShapeError, match="start_dim 3 is out of range for an input with 2 axes"):
        nn.Flatten(3)(np.zeros((2, 3)))
    with pytest.raises(ShapeError, match="start_dim 2 comes after end_dim 1"):
        nn.Flatten(2, 1)(np.zeros((2, 3, 4)))
    with pytest.raises(ShapeError, match=r"\(2, 2\) does not fit axis 1 of 2x6, which has 6 elements"):
        nn.Unflatten(1, (2, 2))(np.zeros((2, 6)))
    layer = nn.Flatten()
    layer(np.zeros((2, 3, 4)))
    with pytest.raises(ShapeError, match="grad_output is 2x6x2 but the output is 2x12"):
        layer.backward(np.zeros((2, 6, 2)))


def test_activations_save_one_array():
    """ReLU, Sigmoid, Tanh and the softmaxes save their output, which the next layer saves as its input anyway."""
    input = np.random.default_rng(0).normal(size=(2, 3))
    for layer in (nn.ReLU(), nn.Sigmoid(), nn.Tanh(), nn.Softmax(1), nn.LogSoftmax(1)):
        output = layer(input)
        (saved,) = layer.saved_for_backward()
        assert saved is output
