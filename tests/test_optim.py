"""Optimizers against torch's over many steps and against the reference's formulas; memory layouts, instruction sets, threads, state, errors."""

import copy
import pickle

import numpy as np
import pytest

import fastcnn
from fastcnn import backend as backends
from fastcnn.nn.parameter import Parameter
from fastcnn.optim import SGD, Adagrad, Adam, AdamW, RMSprop

KINDS = {"SGD": SGD, "Adagrad": Adagrad, "RMSprop": RMSprop, "Adam": Adam, "AdamW": AdamW}
CASES = {
    "sgd": ("SGD", {"lr": 0.1}),
    "sgd_default_lr": ("SGD", {}),
    "sgd_weight_decay": ("SGD", {"lr": 0.1, "weight_decay": 0.02}),
    "sgd_momentum": ("SGD", {"lr": 0.1, "momentum": 0.9}),
    "sgd_dampening": ("SGD", {"lr": 0.1, "momentum": 0.9, "dampening": 0.4, "weight_decay": 0.01}),
    "sgd_nesterov": ("SGD", {"lr": 0.1, "momentum": 0.8, "nesterov": True, "weight_decay": 0.01}),
    "sgd_maximize": ("SGD", {"lr": 0.1, "momentum": 0.8, "maximize": True}),
    "sgd_maximize_weight_decay": ("SGD", {"lr": 0.1, "maximize": True, "weight_decay": 0.1}),
    "adagrad": ("Adagrad", {}),
    "adagrad_options": ("Adagrad", {"lr": 0.1, "lr_decay": 0.2, "weight_decay": 0.1, "initial_accumulator_value": 0.3, "eps": 1e-6}),
    "rmsprop": ("RMSprop", {}),
    "rmsprop_momentum": ("RMSprop", {"lr": 0.02, "alpha": 0.9, "momentum": 0.9, "weight_decay": 0.1}),
    "rmsprop_centered": ("RMSprop", {"alpha": 0.8, "centered": True, "eps": 1e-3}),
    "rmsprop_centered_momentum": ("RMSprop", {"alpha": 0.8, "centered": True, "eps": 1e-3, "momentum": 0.5}),
    "adam": ("Adam", {}),
    "adam_options": ("Adam", {"lr": 0.03, "betas": (0.8, 0.95), "eps": 1e-4, "weight_decay": 0.1}),
    "adam_amsgrad": ("Adam", {"lr": 0.03, "amsgrad": True, "maximize": True}),
    "adamw": ("AdamW", {}),
    "adamw_options": ("AdamW", {"lr": 0.03, "betas": (0.7, 0.9), "weight_decay": 0.3, "amsgrad": True}),
}
# Small ones, one of several pieces, a scalar, an empty one.
SHAPES = [(3, 2), (5,), (), (0, 4), (130, 300), (7,), (2, 3, 3, 3)]


def gradients(rng, shapes, dtype):
    return [rng.normal(size=shape).astype(dtype) for shape in shapes]


@pytest.mark.parametrize("name", CASES)
def test_optimizer_agrees_with_torch(name, dtype, backend):
    torch = pytest.importorskip("torch")
    kind, options = CASES[name]
    rng = np.random.default_rng(0)
    starts = gradients(rng, SHAPES, dtype)
    ours = [Parameter(start.copy()) for start in starts]
    theirs = [torch.nn.Parameter(torch.tensor(start)) for start in starts]
    optimizer, reference = KINDS[kind](ours, **options), getattr(torch.optim, kind)(theirs, **options)
    for step in range(6):
        for index, grad in enumerate(gradients(rng, SHAPES, dtype)):
            skipped = step in (1, 2) and index == 1  # a parameter without a gradient does not count the step
            ours[index].grad = None if skipped else grad
            theirs[index].grad = None if skipped else torch.tensor(grad)
        optimizer.step()
        reference.step()
    tolerance = 1e-6 if dtype == np.float32 else 1e-12
    for our, their in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(our.data, their.detach().numpy(), rtol=tolerance, atol=tolerance)


def contiguous(array):
    return array.copy(order="C")


def column_major(array):
    return array.copy(order="F")


def permuted(array):
    """The same values with the last axes first in memory, as weights stored (O, KH, KW, C)."""
    return np.ascontiguousarray(np.moveaxis(array, 1, -1)).transpose(0, array.ndim - 1, *range(1, array.ndim - 1)) if array.ndim > 1 else array


def with_gaps(array):
    return np.repeat(array, 2, axis=0)[::2] if array.ndim else array


def backwards(array):
    return np.flip(array).copy()[(slice(None, None, -1),) * array.ndim]


def misaligned(array):
    """Elements one byte off, as fields of packed records are."""
    records = np.zeros(array.shape, np.dtype([("pad", "u1"), ("value", array.dtype)]))
    records["value"] = array
    return records["value"]


LAYOUTS = {f.__name__: f for f in (contiguous, column_major, permuted, with_gaps, backwards, misaligned)}
ODD_SHAPES = [(4, 3, 3, 2), (9,), (33, 5), (2,), (), (1, 1, 7, 1), (70, 9, 3, 3), (4097,), (0, 3)]


def train(kind, options, dtype, layout=contiguous, grad_layout=contiguous, shapes=ODD_SHAPES, steps=3):
    rng = np.random.default_rng(1)
    params = [Parameter(layout(array)) for array in gradients(rng, shapes, dtype)]
    optimizer = KINDS[kind](params, **options)
    for _ in range(steps):
        for param, grad in zip(params, gradients(rng, shapes, dtype), strict=True):
            param.grad = grad_layout(grad)
        optimizer.step()
    states = [value for key, value in optimizer.state_dict().items() if "." in key]
    return [param.data.copy() for param in params] + states


def assert_same_bits(result, expected):
    for array, other in zip(result, expected, strict=True):
        np.testing.assert_array_equal(array, other)


@pytest.mark.parametrize("name", CASES)
def test_optimizer_gives_the_same_bits_in_every_memory_layout(name, dtype, backend):
    kind, options = CASES[name]
    expected = train(kind, options, dtype)
    for layout in LAYOUTS.values():
        assert_same_bits(train(kind, options, dtype, layout), expected)
        assert_same_bits(train(kind, options, dtype, contiguous, layout), expected)
        assert_same_bits(train(kind, options, dtype, permuted, layout), expected)


@pytest.mark.parametrize("name", CASES)
def test_every_instruction_set_agrees_with_the_reference(name, dtype):
    cpu = pytest.importorskip("fastcnn.backends.cpu", reason="the compiled backend is not built")
    kind, options = CASES[name]
    with backends.use_backend("reference"):
        expected = train(kind, options, dtype)
    tolerance = 2e-6 if dtype == np.float32 else 1e-13
    before = cpu.isa()
    with backends.use_backend("cpu"):
        for isa in cpu.available_isas():
            cpu.set_isa(isa)
            result = train(kind, options, dtype)
            cpu.set_isa(before)
            for array, other in zip(result, expected, strict=True):
                assert array.dtype == other.dtype
                np.testing.assert_allclose(array, other, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", CASES)
def test_optimizer_gives_the_same_bits_at_every_thread_count(name):
    kind, options = CASES[name]
    before = fastcnn.get_num_threads()
    results = []
    for threads in (1, 2, 3, 7):
        fastcnn.set_num_threads(threads)
        results.append(train(kind, options, np.float32, contiguous, permuted, [(300, 200), (3,), (50, 40, 3, 3), (5000,)], steps=2))
    fastcnn.set_num_threads(before)
    for result in results[1:]:
        assert_same_bits(result, results[0])


def test_the_compiled_update_refuses_arrays_that_do_not_fit():
    cpu = pytest.importorskip("fastcnn.backends.cpu", reason="the compiled backend is not built")
    options = (1e-3, 0.9, 0.0, 0.0, False, False)
    for param, grad, buffer, message in [
        (np.ones(3), np.ones(4), np.ones(3), "operand 1 of parameter 0 must be like it: float64"),
        (np.ones(3), np.ones(3, np.float32), np.ones(3), "operand 1 of parameter 0 must be like it"),
        (np.ones(3), np.ones(3), np.ones((3, 1)), "operand 2 of parameter 0 must be like it"),
        (np.broadcast_to(1.0, 3), np.ones(3), np.ones(3), "operand 0 of parameter 0 is read-only"),
    ]:
        with pytest.raises(ValueError, match=message):
            cpu.sgd_update([param], [grad], [buffer], [1], *options)
    with pytest.raises(ValueError, match="2 parameters but a list of 1"):
        cpu.sgd_update([np.ones(3)] * 2, [np.ones(3)], None, [1, 1], *options)
    with pytest.raises(ValueError, match="1 parameters but 2 steps"):
        cpu.sgd_update([np.ones(3)], [np.ones(3)], None, [1, 1], *options)
    with pytest.raises(TypeError, match="parameter 0 must be float32 or float64, got int64"):
        cpu.sgd_update([np.ones(3, np.int64)], [np.ones(3, np.int64)], None, [1], *options)


def test_parameters_that_share_memory_are_updated_one_after_another():
    before = fastcnn.get_num_threads()
    fastcnn.set_num_threads(4)
    shared = np.zeros(200_000, np.float32)
    params = [Parameter(shared), Parameter(shared[::-1])]
    optimizer = SGD(params, lr=0.5)
    for param in params:
        param.grad = np.ones(param.shape, np.float32)
    optimizer.step()
    fastcnn.set_num_threads(before)
    assert (shared == -1).all()


@pytest.mark.parametrize("name", CASES)
def test_optimizer_updates_in_place_and_leaves_gradients_untouched(name):
    kind, options = CASES[name]
    rng = np.random.default_rng(2)
    params = [Parameter(array) for array in gradients(rng, SHAPES, np.float32)]
    arrays, before = [param.data for param in params], [param.data.copy() for param in params]
    grads = gradients(rng, SHAPES, np.float32)
    for param, grad in zip(params, grads, strict=True):
        param.grad = grad
        grad.flags.writeable = False
    KINDS[kind](params, **options).step()
    for param, array, old in zip(params, arrays, before, strict=True):
        assert param.data is array
        assert array.size == 0 or not np.array_equal(array, old)


@pytest.mark.parametrize("name", CASES)
def test_optimizer_skips_frozen_parameters(name):
    kind, options = CASES[name]
    frozen, bare, trained = (Parameter(np.ones(3, np.float32)) for _ in range(3))
    optimizer = KINDS[kind]([frozen, bare, trained], **options)
    frozen.requires_grad = False
    frozen.grad, trained.grad = np.ones(3, np.float32), np.ones(3, np.float32)
    optimizer.step()
    optimizer.step()
    assert (frozen.data == 1).all() and (bare.data == 1).all() and (trained.data != 1).all()
    frozen.requires_grad = True  # thawed: its own step count starts now
    trained.grad = None
    alone = Parameter(np.ones(3, np.float32))
    alone.grad = np.ones(3, np.float32)
    optimizer.step()
    KINDS[kind]([alone], **options).step()
    np.testing.assert_array_equal(frozen.data, alone.data)


@pytest.mark.parametrize("name", CASES)
def test_optimizer_resumes_from_state_dict(name):
    kind, options = CASES[name]
    rng = np.random.default_rng(3)
    first = [Parameter(array) for array in gradients(rng, SHAPES, np.float32)]
    optimizer = KINDS[kind](first, **options)

    def step(optimizer, params, seed):
        for param, grad in zip(params, gradients(np.random.default_rng(seed), SHAPES, np.float32), strict=True):
            param.grad = grad
        optimizer.step()

    step(optimizer, first, 10)
    step(optimizer, first, 11)
    state = optimizer.state_dict()
    assert all(isinstance(value, (int, float, np.ndarray)) for value in state.values())
    second = [Parameter(param.data.copy()) for param in first]
    resumed = KINDS[kind](second, lr=0.77)
    resumed.load_state_dict(state)
    assert resumed.lr == optimizer.lr
    step(optimizer, first, 12)
    step(resumed, second, 12)
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a.data, b.data)
    assert "step" in state and state["step"].tolist() == [2] * len(SHAPES)  # copies: later steps do not change them


@pytest.mark.parametrize("transfer", [copy.deepcopy, lambda pair: pickle.loads(pickle.dumps(pair))], ids=["deepcopy", "pickle"])
def test_optimizer_copied_with_its_parameters_updates_the_copies(transfer):
    params = [Parameter(np.ones(3))]
    optimizer = Adam(params)
    params[0].grad = np.ones(3)
    optimizer.step()
    params2, optimizer2 = transfer((params, optimizer))
    for parameters, opt in ((params, optimizer), (params2, optimizer2)):
        parameters[0].grad = np.full(3, 2.0)
        opt.step()
    assert params2[0] is not params[0]
    np.testing.assert_array_equal(params2[0].data, params[0].data)


def test_optimizer_follows_data_rebound_to_another_array():
    param = Parameter(np.zeros(4))
    optimizer = SGD([param], lr=1.0)
    for _ in range(2):
        param.grad = np.ones(4)
        optimizer.step()
        param.data = param.data.copy()
    np.testing.assert_array_equal(param.data, np.full(4, -2.0))


def test_optimizer_keeps_two_dtypes_apart():
    params = [Parameter(np.ones(3, np.float32)), Parameter(np.ones(3, np.float64)), Parameter(np.ones(3, np.float32))]
    optimizer = Adam(params, lr=0.5)
    for param in params:
        param.grad = np.ones(3, param.dtype)
    optimizer.step()
    for param in params:
        np.testing.assert_allclose(param.data, 0.5, rtol=1e-6)
        assert param.data.dtype == param.grad.dtype


def test_adam_first_step_is_lr_whatever_the_gradient():
    param = Parameter(np.zeros(3))
    param.grad = np.array([1e-3, -5.0, 1e4])
    Adam([param], lr=0.01, eps=0.0).step()
    np.testing.assert_allclose(param.data, [-0.01, 0.01, -0.01], rtol=1e-12)


def test_adam_propagates_nan(backend):
    param = Parameter(np.zeros(3))
    param.grad = np.array([1.0, np.nan, 1.0])
    Adam([param]).step()
    assert np.isnan(param.data).tolist() == [False, True, False]


def test_zero_grad():
    param = Parameter(np.zeros(3))
    optimizer = SGD([param], lr=1.0)
    param.grad = np.ones(3)
    optimizer.zero_grad(set_to_none=False)
    assert (param.grad == 0).all()
    optimizer.zero_grad()
    assert param.grad is None


@pytest.mark.parametrize(
    "build, error, message",
    [
        (lambda p: SGD([]), ValueError, "params is empty"),
        (lambda p: SGD([p, p]), ValueError, "the same Parameter twice"),
        (lambda p: SGD([np.ones(3)]), TypeError, "item 0 is a ndarray"),
        (lambda p: SGD([{"params": [p]}]), TypeError, "item 0 is a dict"),
        (lambda p: SGD([p], lr=-1), ValueError, "lr must be 0 or more, got -1"),
        (lambda p: SGD([p], momentum=-1), ValueError, "momentum must be 0 or more"),
        (lambda p: SGD([p], nesterov=True), ValueError, "nesterov needs momentum above 0"),
        (lambda p: SGD([p], momentum=0.9, dampening=0.1, nesterov=True), ValueError, "dampening 0.1"),
        (lambda p: Adam([p], betas=(1.0, 0.9)), ValueError, "beta1 must be at least 0 and below 1, got 1.0"),
        (lambda p: Adam([p], eps=float("nan")), ValueError, "eps must be 0 or more, got nan"),
        (lambda p: AdamW([p], weight_decay=-0.1), ValueError, "weight_decay must be 0 or more"),
        (lambda p: RMSprop([p], alpha=-0.1), ValueError, "alpha"),
        (lambda p: Adagrad([p], lr_decay=-0.1), ValueError, "lr_decay"),
    ],
)
def test_optimizer_rejects(build, error, message):
    with pytest.raises(error, match=message):
        build(Parameter(np.ones(3)))


def test_optimizer_names_a_gradient_or_parameter_that_does_not_fit():
    param = Parameter(np.ones((2, 3)))
    optimizer = SGD([param])
    param.grad = np.ones((1, 3))
    with pytest.raises(ValueError, match="parameter 0 was 2x3 and is now 2x3, its gradient is 1x3"):
        optimizer.step()
    param.grad = np.ones((2, 3), np.float32)
    with pytest.raises(TypeError, match="parameter 0 is float64 but its gradient is float32"):
        optimizer.step()
    param.data = param.data.astype(np.float32)
    with pytest.raises(TypeError, match="was float64 and is now float32: convert a model before building its optimizer"):
        optimizer.step()


def test_load_state_dict_names_every_fault():
    params = [Parameter(np.ones(3)), Parameter(np.ones((2, 2)))]
    optimizer = Adam(params)
    for param in params:
        param.grad = np.ones(param.shape)
    optimizer.step()
    state = optimizer.state_dict()
    del state["eps"], state["exp_avg.1"]
    state["exp_avg_sq.0"] = np.ones(4)
    state["momentum_buffer.0"] = np.ones(3)
    with pytest.raises(ValueError) as caught:
        optimizer.load_state_dict(state)
    for text in ("missing key 'eps'", "missing key 'exp_avg.1'", "'exp_avg_sq.0' is 4 in the state_dict but 3 in", "unexpected key 'momentum_buffer.0'"):
        assert text in str(caught.value)
    with pytest.raises(ValueError, match="'step' is for 2 parameters but there are 1"):
        Adam([Parameter(np.ones(3))]).load_state_dict(optimizer.state_dict())


def test_repr_shows_the_options():
    assert repr(Adam([Parameter(np.ones(3))])) == "Adam(lr=0.001, betas=(0.9, 0.999), eps=1e-08, amsgrad=False, weight_decay=0.0; 1 parameters)"
