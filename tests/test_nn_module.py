"""Module and Parameter: walking, modes, precision, state_dict, a user's own layer, repr."""

import copy
import pickle

import numpy as np
import pytest

from fastcnn import gradcheck, nn
from fastcnn.shapes import ShapeError


class Scale(nn.Module):
    """A user's layer, as Module's docstring shows it: no super().__init__ needed."""

    def __init__(self):
        self.weight = nn.Parameter(np.full((), 2.0, np.float32))

    def forward(self, input):
        self.save_for_backward(input)
        return input * self.weight.data

    def backward(self, grad_output):
        (input,) = self.saved_for_backward()
        self.weight.accumulate(np.sum(grad_output * input))
        return grad_output * self.weight.data


class Tower(nn.Module):
    """A user's container with its own wiring, a buffer and a plain attribute."""

    def __init__(self):
        self.stem = nn.Conv2d(1, 2, 3, bias=False, rng=0)
        self.register_buffer("steps", np.array(0, np.int64))
        self.register_buffer("nothing", None)
        self.head = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(8), nn.Linear(8, 3, rng=0))
        self.scale = Scale()
        self.note = "not part of the state"

    def forward(self, input):
        return self.scale(self.head(self.stem(input)))

    def backward(self, grad_output):
        return self.stem.backward(self.head.backward(self.scale.backward(grad_output)))


KEYS = ["steps", "stem.weight", "head.1.weight", "head.1.bias", "head.1.running_mean", "head.1.running_var"]
KEYS += ["head.1.num_batches_tracked", "head.2.weight", "head.2.bias", "scale.weight"]


def test_users_module_is_walked_by_attribute_name():
    tower = Tower()
    assert list(tower.state_dict()) == KEYS
    names = ["", "stem", "head", "head.0", "head.1", "head.2", "scale"]
    assert [name for name, _ in tower.named_modules()] == names and len(list(tower.modules())) == len(names)
    assert [name for name, _ in tower.named_children()] == ["stem", "head", "scale"]
    assert list(tower.children()) == [tower.stem, tower.head, tower.scale]
    buffers = ["steps", "head.1.running_mean", "head.1.running_var", "head.1.num_batches_tracked"]
    assert [name for name, _ in tower.named_buffers()] == buffers and len(list(tower.buffers())) == 4
    assert [name for name, _ in tower.named_parameters()] == [key for key in KEYS if key not in buffers]
    assert [parameter.size for parameter in tower.parameters()] == [18, 8, 8, 24, 3, 1]


def test_users_module_has_right_gradients():
    gradcheck(Tower().double(), np.random.default_rng(0).normal(size=(4, 1, 4, 4)))


def test_train_and_eval_reach_every_module():
    tower = Tower()
    assert tower.eval() is tower and not any(module.training for module in tower.modules())
    assert tower.train() is tower and all(module.training for module in tower.modules())
    assert tower.head.train(False).training is False and tower.training and not tower.head[1].training


def test_apply_visits_children_before_parents():
    tower, seen = Tower(), []
    assert tower.apply(seen.append) is tower
    assert seen == [tower.stem, *tower.head, tower.head, tower.scale, tower]


def test_to_converts_parameters_gradients_and_float_buffers():
    tower = Tower()
    tower.backward(tower(np.ones((2, 1, 4, 4), np.float32)))
    before = tower.state_dict()
    assert tower.to(np.float64) is tower
    for key, array in tower.state_dict().items():
        assert array.dtype == (np.int64 if key in ("steps", "head.1.num_batches_tracked") else np.float64)
        np.testing.assert_array_equal(array, before[key])
    assert all(parameter.grad.dtype == np.float64 for parameter in tower.parameters())
    with pytest.raises(RuntimeError, match="needs a forward"):  # what float32 had saved is gone
        tower.backward(np.ones((2, 3)))
    tower.float()
    assert tower.stem.weight.dtype == np.float32
    assert tower.double().stem.weight.dtype == tower.astype(np.float64).stem.weight.dtype == np.float64
    with pytest.raises(TypeError, match="must be float32 or float64, got float16"):
        tower.to(np.float16)


def test_requires_grad_freezes_a_subtree():
    tower = Tower()
    assert tower.head.requires_grad_(False) is tower.head
    tower.backward(tower(np.ones((2, 1, 4, 4), np.float32)))
    assert [key for key, parameter in tower.named_parameters() if parameter.grad is not None] == ["stem.weight", "scale.weight"]


def test_frozen_batch_norm_inside_a_network_that_trains():
    tower = Tower().double()
    for _ in range(2):
        tower(np.random.default_rng(0).normal(size=(4, 1, 4, 4)))
    tower.head[1].eval().saves_for_backward = True
    running = tower.head[1].running_mean.copy()
    gradcheck(tower, np.random.default_rng(1).normal(size=(4, 1, 4, 4)))
    np.testing.assert_array_equal(tower.head[1].running_mean, running)


def test_state_dict_is_a_copy():
    layer = nn.BatchNorm2d(2)
    state = layer.state_dict()
    layer.weight.data += 1
    layer.num_batches_tracked += 1
    assert (state["weight"] == 1).all() and state["num_batches_tracked"] == 0


def test_load_state_dict_copies_into_the_same_arrays():
    layer, other = nn.BatchNorm2d(2), nn.BatchNorm2d(2).double()
    nn.init.uniform_(other.weight)
    other.num_batches_tracked += 7
    arrays = layer.weight.data, layer.running_mean
    result = layer.load_state_dict(other.state_dict())
    assert result.missing_keys == result.unexpected_keys == []
    assert layer.weight.data is arrays[0] and layer.running_mean is arrays[1] and layer.weight.dtype == np.float32
    np.testing.assert_array_equal(layer.weight.data, other.weight.data.astype(np.float32))
    assert layer.num_batches_tracked == 7


def test_load_state_dict_names_every_fault_and_changes_nothing():
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
    before = model.state_dict()
    state = {key: value + 1 for key, value in before.items()}
    del state["0.bias"]
    state["0.weight"] = np.zeros((2, 3, 3, 3))
    state["1.num_batches_tracked"] = np.array([3])
    state["1.running_var"] = np.array(["a", "b"])
    state["fc.weight"] = np.zeros(3)
    with pytest.raises(ValueError) as caught:
        model.load_state_dict(state)
    for text in (
        "missing key '0.bias'",
        "unexpected key 'fc.weight'",
        "'0.weight' is 2x3x3x3 in the state_dict but 2x1x3x3 in the module",
        "'1.num_batches_tracked' is 1 in the state_dict but a scalar in the module",
        "'1.running_var' is <U1 in the state_dict but float32 in the module",
    ):
        assert text in str(caught.value)
    for key, array in model.state_dict().items():
        np.testing.assert_array_equal(array, before[key])


def test_load_state_dict_not_strict_skips_keys_but_not_shapes():
    layer = nn.Linear(2, 3)
    bias = layer.bias.data.copy()
    result = layer.load_state_dict({"weight": np.ones((3, 2)), "extra": np.ones(1)}, strict=False)
    assert result.missing_keys == ["bias"] and result.unexpected_keys == ["extra"]
    assert (layer.weight.data == 1).all() and (layer.bias.data == bias).all()
    with pytest.raises(ValueError, match="'weight' is 2x2"):
        layer.load_state_dict({"weight": np.ones((2, 2))}, strict=False)


class Tensor:
    """What load_state_dict knows of a tensor: three methods."""

    def __init__(self, array):
        self.array = array

    def detach(self):
        return self

    cpu = detach

    def numpy(self):
        if self.array is None:
            raise TypeError("Got unsupported ScalarType BFloat16")
        return self.array


def test_load_state_dict_takes_tensors_by_their_methods():
    layer = nn.Linear(2, 1, bias=False)
    layer.load_state_dict({"weight": Tensor(np.array([[3.0, 4.0]]))})
    np.testing.assert_array_equal(layer.weight.data, [[3, 4]])
    layer.load_state_dict({"weight": nn.Parameter(np.array([[5.0, 6.0]]))})
    np.testing.assert_array_equal(layer.weight.data, [[5, 6]])
    with pytest.raises(TypeError, match="'weight' cannot be read as an array: Got unsupported ScalarType BFloat16"):
        layer.load_state_dict({"weight": Tensor(None)})


def test_module_without_forward_or_backward_says_so():
    with pytest.raises(NotImplementedError, match="Module has no forward"):
        nn.Module()(1)
    with pytest.raises(NotImplementedError, match="Module has no backward"):
        nn.Module().backward(1)


def test_parameter_shares_its_array_and_shows_what_it_is():
    array = np.zeros((2, 3), np.float32)
    parameter = nn.Parameter(array)
    assert parameter.data is array and parameter.grad is None and parameter.requires_grad
    assert (parameter.shape, parameter.size, parameter.ndim, parameter.dtype) == ((2, 3), 6, 2, np.float32)
    assert repr(parameter) == "Parameter(2x3, float32)"
    assert repr(nn.Parameter(array, requires_grad=False)) == "Parameter(2x3, float32, requires_grad=False)"
    assert np.shares_memory(np.asarray(parameter), array) and np.asarray(parameter, np.float64).dtype == np.float64
    parameter.zero_grad(set_to_none=False)
    assert parameter.grad is None
    with pytest.raises(ValueError, match="float32 data cannot become float64 without a copy"):
        parameter.__array__(np.dtype(np.float64), copy=False)


def test_parameter_rejects_other_arrays():
    with pytest.raises(TypeError, match="data must be float32 or float64, got int64"):
        nn.Parameter(np.zeros(2, np.int64))
    with pytest.raises(ValueError, match="is read-only"):
        nn.Parameter(np.broadcast_to(np.float32(1), (2, 2)))


def test_parameter_is_not_replaced_by_an_array():
    layer = nn.Linear(2, 3)
    with pytest.raises(TypeError, match="Linear: weight is a Parameter and cannot become a ndarray: assign a Parameter, or write to weight.data"):
        layer.weight = np.ones((3, 2), np.float32)
    layer.weight, layer.bias = nn.Parameter(np.ones((3, 2), np.float32)), None
    assert list(layer.state_dict()) == ["weight"] and (layer(np.ones((1, 2), np.float32)) == 2).all()


def test_parameter_accumulates_into_one_array():
    parameter = nn.Parameter(np.zeros(3))
    first = np.ones(3)
    parameter.accumulate(first)
    parameter.accumulate(np.full(3, 2.0))
    assert parameter.grad is first and (first == 3).all()
    parameter.zero_grad()
    parameter.accumulate(np.broadcast_to(1.0, 3))  # a read-only first gradient is copied
    parameter.accumulate(np.ones(3))
    assert (parameter.grad == 2).all()
    with pytest.raises(ShapeError, match="gradient 1 does not match the parameter, 3"):
        parameter.accumulate(np.ones(1))
    with pytest.raises(TypeError, match="gradient is float32 but the parameter is float64"):
        parameter.accumulate(np.ones(3, np.float32))
    with pytest.raises(ValueError, match="no gradient given"):
        parameter.accumulate(None)
    parameter.requires_grad = False
    parameter.accumulate(None)


@pytest.mark.parametrize("transfer", [copy.deepcopy, lambda p: pickle.loads(pickle.dumps(p))], ids=["deepcopy", "pickle"])
def test_parameter_copies_leave_the_gradient_behind(transfer):
    parameter = nn.Parameter(np.arange(3.0), requires_grad=False)
    parameter.grad = np.ones(3)
    other = transfer(parameter)
    assert (other.data == parameter.data).all() and other.data is not parameter.data
    assert other.grad is None and not other.requires_grad


def test_shared_parameter_stays_shared_in_copies():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    model[1].weight = model[0].weight
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert other[0].weight is other[1].weight


def test_repr_is_torch_s():
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding="same", groups=1, bias=False, padding_mode="reflect"),
        nn.Residual(nn.Sequential(nn.BatchNorm2d(8), nn.ReLU(inplace=True))),
        nn.Concat(nn.Identity(), dim=2),
        nn.ConvTranspose2d(8, 4, 3, 2, 1, 1, 2, True, 2),
    )
    assert repr(model) == """Sequential(
  (0): Conv2d(3, 8, kernel_size=(3, 3), stride=(1, 1), padding=same, bias=False, padding_mode=reflect)
  (1): Residual(
    (body): Sequential(
      (0): BatchNorm2d(8, eps=1e-05, momentum=0.1, affine=True, bias=True, track_running_stats=True)
      (1): ReLU(inplace=True)
    )
  )
  (2): Concat(
    dim=2
    (0): Identity()
  )
  (3): ConvTranspose2d(8, 4, kernel_size=(3, 3), stride=(2, 2), padding=(1, 1), dilation=(2, 2), output_padding=(1, 1), groups=2)
)"""
    assert repr(nn.Sequential()) == "Sequential()" and repr(nn.Softplus()) == "Softplus(beta=1.0, threshold=20.0)"
