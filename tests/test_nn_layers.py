"""Every layer, by property: gradients, accumulation, dtypes, strides, empty batches, modes, copies."""

import copy
import pickle

import numpy as np
import pytest
from nn_cases import ARRAY_LAYERS, LAYERS, PARAMETRISED, build

from fastcnn import gradcheck
from fastcnn.optim import SGD


@pytest.mark.parametrize("name", LAYERS)
def test_layer_gradients_are_those_of_finite_differences(name, backend):
    gradcheck(*build(name))


@pytest.mark.parametrize("name", ["batch_norm2d", "batch_norm2d_plain", "batch_norm1d_3d"])
def test_batch_norm_gradients_in_evaluation_mode(name):
    layer, input = build(name)
    for _ in range(3):
        layer(input * 2 + 1)
    layer.eval()
    layer.saves_for_backward = True
    gradcheck(layer, input)


@pytest.mark.parametrize("name", LAYERS)
def test_layer_accumulates_over_backwards(name):
    layer, input = build(name)
    grad_output = np.random.default_rng(1).normal(size=layer(input).shape)
    first = layer.backward(grad_output)
    once = [parameter.grad.copy() for parameter in layer.parameters()]
    np.testing.assert_array_equal(layer.backward(grad_output), first)
    layer(input)
    layer.backward(grad_output)
    for parameter, grad in zip(layer.parameters(), once, strict=True):
        np.testing.assert_allclose(parameter.grad, 3 * grad, rtol=1e-12)
    layer.zero_grad()
    assert all(parameter.grad is None for parameter in layer.parameters())


@pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=["f32", "f64"])
@pytest.mark.parametrize("name", LAYERS)
def test_layer_computes_in_the_dtype_given(name, dtype):
    layer, input = build(name, dtype)
    before = input.copy()
    output = layer(input)
    grad_output = np.ones(output.shape, dtype)
    grad_input = layer.backward(grad_output)
    assert output.dtype == grad_input.dtype == dtype and grad_input.shape == input.shape
    assert all(parameter.grad.dtype == dtype for parameter in layer.parameters())
    np.testing.assert_array_equal(input, before)
    assert (grad_output == 1).all()


@pytest.mark.parametrize("name", LAYERS)
def test_layer_takes_an_empty_batch(name):
    layer, input = build(name)
    output = layer(input[:0])
    assert output.shape[0] == 0
    assert layer.backward(output).shape == input[:0].shape
    for parameter in layer.parameters():
        np.testing.assert_array_equal(parameter.grad, np.zeros(parameter.shape))
    assert all(np.isfinite(buffer).all() for buffer in layer.buffers())


@pytest.mark.parametrize("layout", ["channels_last", "strided", "read_only"])
@pytest.mark.parametrize("name", LAYERS)
def test_layer_reads_any_layout(name, layout):
    layer, input = build(name)
    if layout == "channels_last":
        other = np.moveaxis(np.ascontiguousarray(np.moveaxis(input, 1, -1)), -1, 1)
    elif layout == "strided":
        other = np.repeat(input, 2, axis=-1)[..., ::2]
    else:
        other = input.copy()
        other.flags.writeable = False
    expected = layer(input)
    grad_output = np.random.default_rng(1).normal(size=expected.shape)
    grad_input = layer.backward(grad_output)
    grads = [parameter.grad for parameter in layer.parameters()]
    layer.zero_grad()
    np.testing.assert_allclose(layer(other), expected, rtol=1e-12, atol=1e-12)
    grad_output.flags.writeable = False
    np.testing.assert_allclose(layer.backward(grad_output), grad_input, rtol=1e-12, atol=1e-12)
    for parameter, grad in zip(layer.parameters(), grads, strict=True):
        np.testing.assert_allclose(parameter.grad, grad, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", [name for name in LAYERS if name != "identity"])
def test_layer_backward_needs_a_forward_in_training_mode(name):
    layer, input = build(name)
    with pytest.raises(RuntimeError, match=f"^{type(layer).__name__}.*: backward needs a forward in training mode"):
        layer.backward(input)
    output = layer(input)
    layer.eval()
    layer(input)  # drops what the forward before it saved
    with pytest.raises(RuntimeError, match="backward needs a forward"):
        layer.backward(output)
    layer.saves_for_backward = True
    assert layer.backward(np.ones_like(layer(input))).shape == input.shape


@pytest.mark.parametrize("name", [name for name in LAYERS if name != "identity"])
def test_layer_backward_rejects_a_gradient_of_another_shape(name):
    layer, input = build(name)
    output = layer(input)
    with pytest.raises(ValueError, match="grad_output"):
        layer.backward(np.ones((*output.shape[:-1], output.shape[-1] + 1)))


@pytest.mark.parametrize("transfer", [copy.deepcopy, lambda layer: pickle.loads(pickle.dumps(layer))], ids=["deepcopy", "pickle"])
@pytest.mark.parametrize("name", LAYERS)
def test_layer_can_be_copied(name, transfer):
    layer, input = build(name)
    layer.backward(layer(input))
    other = transfer(layer)
    assert repr(other) == repr(layer) and all(parameter.grad is None for parameter in other.parameters())
    assert not any(np.shares_memory(a.data, b.data) for a, b in zip(layer.parameters(), other.parameters(), strict=True))
    assert all((a == b).all() for a, b in zip(layer.state_dict().values(), other.state_dict().values(), strict=True))
    if name != "identity":
        with pytest.raises(RuntimeError):
            other.backward(input)
    np.testing.assert_array_equal(other(input), layer(input))


@pytest.mark.parametrize("name", PARAMETRISED)
def test_layer_gives_frozen_parameters_no_gradient(name):
    layer, input = build(name)
    output = layer(input)
    grad_input = layer.backward(output)
    expected = {key: parameter.grad for key, parameter in layer.named_parameters()}
    for frozen, parameter in layer.named_parameters():
        layer.zero_grad()
        parameter.requires_grad = False
        np.testing.assert_array_equal(layer.backward(output), grad_input)
        assert parameter.grad is None
        for key, other in layer.named_parameters():
            if key != frozen:
                np.testing.assert_array_equal(other.grad, expected[key])
        before = layer.state_dict()
        SGD(layer.parameters(), lr=1e-3).step()
        assert (before[frozen] == parameter.data).all()
        layer.load_state_dict(before)
        parameter.requires_grad = True


@pytest.mark.parametrize("name", [name for name in PARAMETRISED if LAYERS[name][0].startswith(("Conv", "Linear"))])
def test_layer_skips_the_input_gradient_where_it_is_not_required(name):
    layer, input = build(name)
    output = layer(input)
    layer.backward(output)
    expected = [parameter.grad for parameter in layer.parameters()]
    layer.zero_grad()
    layer.requires_input_grad = False
    assert layer.backward(output) is None
    for parameter, grad in zip(layer.parameters(), expected, strict=True):
        np.testing.assert_array_equal(parameter.grad, grad)


@pytest.mark.parametrize("name", ARRAY_LAYERS)
def test_layer_rejects_what_is_no_array(name):
    layer, input = build(name)
    with pytest.raises(TypeError, match="input"):
        layer(input.tolist())
    with pytest.raises(TypeError, match="float32 or float64"):
        layer(input.astype(np.int64))
