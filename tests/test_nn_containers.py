"""Sequential, Residual and Concat: gradients at any nesting, editing, naming, errors."""

import copy
import pickle
from collections import OrderedDict

import numpy as np
import pytest

from fastcnn import gradcheck, nn
from fastcnn.shapes import ShapeError


def conv(in_channels, out_channels, seed=0):
    return nn.Conv2d(in_channels, out_channels, 3, padding=1, rng=seed)


def nested():
    inner = nn.Residual(nn.Sequential(conv(4, 4), nn.Tanh(), nn.Concat(conv(4, 1), conv(4, 3))))
    return nn.Sequential(
        nn.Concat(nn.Sequential(conv(2, 4), inner), nn.Identity(), nn.AvgPool2d(3, 1, 1)),
        # No bias before a batch norm: its gradient is zero, which no relative error can measure.
        nn.Residual(nn.Sequential(nn.Conv2d(8, 3, 3, padding=1, bias=False, rng=0), nn.BatchNorm2d(3)), conv(8, 3)),
        nn.Flatten(),
    )


CONTAINERS = {
    "empty": lambda: nn.Sequential(),
    "one": lambda: nn.Sequential(conv(2, 3)),
    "named": lambda: nn.Sequential(OrderedDict(first=conv(2, 3), act=nn.GELU(), second=conv(3, 2))),
    "residual": lambda: nn.Residual(conv(2, 2)),
    "residual_shortcut": lambda: nn.Residual(conv(2, 3), conv(2, 3, seed=1)),
    "residual_of_identity": lambda: nn.Residual(nn.Identity(), nn.Identity()),
    "concat_one": lambda: nn.Concat(conv(2, 3)),
    "concat_three": lambda: nn.Concat(conv(2, 3), nn.Identity(), nn.Sequential()),
    "concat_height": lambda: nn.Concat(nn.Identity(), nn.MaxPool2d((2, 1)), dim=2),
    "concat_last": lambda: nn.Concat(nn.Identity(), nn.Identity(), dim=-1),
    "nested": nested,
}


@pytest.fixture
def images():
    return np.random.default_rng(5).normal(size=(2, 2, 4, 5))


@pytest.mark.parametrize("name", CONTAINERS)
def test_container_gradients_are_those_of_finite_differences(name, images, backend):
    module = CONTAINERS[name]().double()
    gradcheck(module, images)


@pytest.mark.parametrize("name", CONTAINERS)
def test_container_accumulates_copies_and_leaves_arrays_untouched(name, images):
    module = CONTAINERS[name]().double()
    before = images.copy()
    output = module(images)
    grad_output = np.random.default_rng(6).normal(size=output.shape)
    kept = grad_output.copy()
    grad_input = module.backward(grad_output)
    once = [parameter.grad.copy() for parameter in module.parameters()]
    np.testing.assert_array_equal(module.backward(grad_output), grad_input)
    for parameter, grad in zip(module.parameters(), once, strict=True):
        np.testing.assert_array_equal(parameter.grad, 2 * grad)
    np.testing.assert_array_equal(images, before)
    np.testing.assert_array_equal(grad_output, kept)
    for other in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        np.testing.assert_array_equal(other(images), module(images))
        assert repr(other) == repr(module) and list(other.state_dict()) == list(module.state_dict())


@pytest.mark.parametrize("name", CONTAINERS)
def test_container_takes_an_empty_batch(name, images):
    module = CONTAINERS[name]().double()
    assert module.backward(module(images[:0])).shape == (0, 2, 4, 5)


def test_concat_keeps_channels_last():
    images = np.zeros((2, 4, 5, 3), np.float32).transpose(0, 3, 1, 2)
    output = nn.Concat(nn.Identity(), nn.ReLU())(images)
    assert output.transpose(0, 2, 3, 1).flags.c_contiguous


def test_sequential_is_a_list_of_its_layers():
    a, b, c, d = nn.Linear(2, 2), nn.ReLU(), nn.Tanh(), nn.Linear(2, 2)
    model = nn.Sequential(a, b, c)
    assert len(model) == 3 and list(model) == [a, b, c]
    assert model[0] is a and model[-1] is c
    assert model.append(d) is model and model[3] is d
    part = model[1:3]
    assert isinstance(part, nn.Sequential) and list(part) == [b, c] and [name for name, _ in part.named_children()] == ["0", "1"]
    model[1] = nn.ELU()
    assert isinstance(model[1], nn.ELU) and model[0] is a
    del model[0]
    assert [name for name, _ in model.named_children()] == ["0", "1", "2"] and model[2] is d
    model.insert(0, a).extend([nn.SiLU(), nn.GELU()])
    assert [type(layer).__name__ for layer in model] == ["Linear", "ELU", "Tanh", "Linear", "SiLU", "GELU"]
    del model[1:]
    assert list(model) == [a] and list(model.state_dict()) == ["0.weight", "0.bias"]
    with pytest.raises(IndexError):
        model[1]


def test_sequential_keeps_given_names():
    model = nn.Sequential(OrderedDict(conv=conv(1, 2), act=nn.ReLU()))
    assert list(model.state_dict()) == ["conv.weight", "conv.bias"] and model.conv is model[0]
    model.append(nn.Flatten())
    assert [name for name, _ in model.named_children()] == ["conv", "act", "2"]
    assert [name for name, _ in model[:2].named_children()] == ["conv", "act"]
    model.conv = conv(1, 3)
    assert model[0].out_channels == 3


def test_slices_share_layers_and_mode():
    model = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Dropout()).eval()
    part = model[:2]
    assert part[0].weight is model[0].weight and not part.training
    concat = nn.Concat(nn.Identity(), nn.Identity(), nn.ReLU(), dim=2)[1:]
    assert concat.dim == 2 and len(concat) == 2


def test_container_refuses_one_object_at_two_places():
    shared = nn.ReLU()
    with pytest.raises(ValueError, match="'0' and '2' are the same ReLU object"):
        nn.Sequential(shared, nn.Tanh(), shared)
    with pytest.raises(ValueError, match="'0.1' and '1' are the same ReLU object"):
        nn.Concat(nn.Sequential(nn.Tanh(), shared), shared)
    with pytest.raises(ValueError, match="'body.0' and 'shortcut' are the same ReLU object"):
        nn.Residual(nn.Sequential(shared), shared)
    model = nn.Sequential(shared, nn.Tanh())
    for edit in (lambda: model.append(shared), lambda: model.__setitem__(1, shared)):
        with pytest.raises(ValueError, match="are the same ReLU object"):
            edit()
        assert [type(layer).__name__ for layer in model] == ["ReLU", "Tanh"]


def test_two_layers_may_share_a_parameter():
    first, second = nn.Linear(3, 3, rng=0), nn.Linear(3, 3, rng=1)
    second.weight = first.weight
    model = nn.Sequential(first, nn.Tanh(), second).double()
    assert len(list(model.parameters())) == 3 and len(model.state_dict()) == 4
    gradcheck(model, np.random.default_rng(0).normal(size=(4, 3)))


@pytest.mark.parametrize("name", ["", "a.b", "forward", "training", "state_dict"])
def test_sequential_rejects_names_it_cannot_keep(name):
    with pytest.raises(ValueError, match="cannot name a child"):
        nn.Sequential({name: nn.ReLU()})


def test_sequential_rejects_what_is_no_module():
    with pytest.raises(TypeError, match="child '1' must be a Module, got function"):
        nn.Sequential(nn.ReLU(), lambda x: x)


def test_residual_does_not_broadcast():
    with pytest.raises(ShapeError, match="Residual: residual: body gives 1x1x4x4 but the input is 1x2x4x4"):
        nn.Residual(conv(2, 1))(np.zeros((1, 2, 4, 4), np.float32))
    with pytest.raises(ShapeError, match="the shortcut's output is 1x3x4x4"):
        nn.Residual(conv(2, 1), conv(2, 3))(np.zeros((1, 2, 4, 4), np.float32))


def test_concat_names_the_branch_that_does_not_fit():
    images = np.zeros((1, 2, 4, 4), np.float32)
    with pytest.raises(ShapeError, match="branch 1 gives 1x2x2x2 but branch 0 gives 1x2x4x4: all axes but 1 must agree"):
        nn.Concat(nn.Identity(), nn.MaxPool2d(2))(images)
    with pytest.raises(ShapeError, match="dim 4 is out of range for outputs with 4 axes"):
        nn.Concat(nn.Identity(), dim=4)(images)
    with pytest.raises(ValueError, match="no branches"):
        nn.Concat()(images)
    module = nn.Concat(nn.Identity(), nn.Identity())
    module(images)
    with pytest.raises(ShapeError, match="grad_output is 1x3x4x4 but the output has 4 along axis 1"):
        module.backward(np.zeros((1, 3, 4, 4), np.float32))


def test_first_layer_may_skip_its_input_gradient(images):
    module = nn.Sequential(nn.Identity(), conv(2, 3), nn.ReLU(), conv(3, 1)).double()
    module[1].requires_input_grad = False
    assert module.backward(module(images)) is None
    assert all(parameter.grad is not None for parameter in module.parameters())
    residual = nn.Sequential(nn.Residual(nn.Sequential(conv(2, 2), nn.ReLU())), nn.Concat(conv(2, 2), conv(2, 1))).double()
    residual[0].body[0].requires_input_grad = False
    assert residual.backward(residual(images)) is None
    assert all(parameter.grad is not None for parameter in residual.parameters())
    concat = nn.Concat(conv(2, 1), nn.Identity(), conv(2, 1)).double()
    concat[2].requires_input_grad = False
    assert concat.backward(concat(images)) is None
    assert all(parameter.grad is not None for parameter in concat.parameters())


def test_missing_input_gradient_before_trained_layers_is_an_error(images):
    module = nn.Sequential(conv(2, 3), nn.ReLU(), conv(3, 1)).double()
    module[2].requires_input_grad = False
    output = module(images)
    with pytest.raises(RuntimeError, match=r"layer '2' \(Conv2d\) has requires_input_grad=False and gave no gradient, but layer '0' \(Conv2d\)"):
        module.backward(output)
    module[0].requires_grad_(False)  # nothing to train before it any more
    assert module.backward(output) is None


def test_errors_carry_the_path_of_the_layer():
    model = nn.Sequential(nn.Residual(nn.Sequential(nn.Identity(), conv(2, 2))), nn.Flatten(), nn.Linear(5, 2))
    with pytest.raises(ShapeError, match=r"^0\.body\.1 \(Conv2d\): conv2d: input has 3 channels"):
        model(np.zeros((1, 3, 4, 4), np.float32))
    with pytest.raises(ShapeError, match=r"^2 \(Linear\): linear: input 1x32 has 32 features"):
        model(np.zeros((1, 2, 4, 4), np.float32))
