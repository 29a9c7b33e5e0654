"""Weights move between torch and fastcnn unchanged, and then outputs, gradients and training agree."""

from pathlib import Path

import numpy as np
import pytest
from nn_cases import LAYERS
from tree import needs_tree

from fastcnn import nn, optim, schedule

torch = pytest.importorskip("torch")
F32, F64 = torch.float32, torch.float64


class TorchResidual(torch.nn.Module):
    def __init__(self, body, shortcut=None):
        super().__init__()
        self.body, self.shortcut = body, shortcut

    def forward(self, input):
        return self.body(input) + (input if self.shortcut is None else self.shortcut(input))


class TorchConcat(torch.nn.ModuleList):
    def __init__(self, *branches):
        super().__init__(branches)

    def forward(self, input):
        return torch.cat([branch(input) for branch in self], dim=1)


class Theirs:
    """torch.nn with the two containers that torch has not."""

    Residual, Concat = TorchResidual, TorchConcat

    def __getattr__(self, name):
        return getattr(torch.nn, name)


def small(N):
    return N.Sequential(
        N.Conv2d(3, 6, 3, padding=1), N.ReLU(), N.MaxPool2d(2), N.Conv2d(6, 8, 3), N.Tanh(), N.Flatten(), N.Linear(32, 5)
    )


def normalised(N):
    return N.Sequential(
        N.Conv2d(3, 6, 3, padding=1, bias=False), N.BatchNorm2d(6), N.LeakyReLU(0.1),
        N.Conv2d(6, 8, 3, 2, bias=False), N.GroupNorm(2, 8), N.PReLU(8), N.AdaptiveAvgPool2d(1), N.Flatten(),
        N.Linear(8, 6, bias=False), N.BatchNorm1d(6), N.SELU(), N.LayerNorm(6), N.Linear(6, 5),
    )  # fmt: skip


def branched(N):
    """Concat inside Residual inside Concat inside Sequential, with a strided shortcut."""
    inner = N.Residual(N.Sequential(N.Conv2d(6, 4, 1), N.GELU(), N.Concat(N.Conv2d(4, 2, 1), N.Conv2d(4, 4, 3, padding=1))))
    return N.Sequential(
        N.Conv2d(3, 6, 3, padding=1),
        N.Concat(N.Sequential(inner, N.SiLU()), N.Sequential(N.AvgPool2d(3, 1, 1), N.Conv2d(6, 2, 1)), N.Identity()),
        N.Residual(N.Sequential(N.Conv2d(14, 8, 3, 2, 1), N.ELU(), N.Conv2d(8, 8, 3, padding=1)), N.Conv2d(14, 8, 1, 2)),
        N.Upsample(scale_factor=2.0, mode="bilinear"),
        N.ConvTranspose2d(8, 4, 3, stride=2, output_padding=1),
        N.Softplus(),
        N.AdaptiveMaxPool2d(2),
        N.Flatten(),
        N.Linear(16, 5),
    )


MODELS = {"small": small, "normalised": normalised, "branched": branched}


def pair(build, dtype, seed=0):
    """The same model twice with the same weights: ours loads theirs."""
    torch.manual_seed(seed)
    theirs, ours = build(Theirs()).to(dtype), build(nn)
    ours.to(np.float32 if dtype == F32 else np.float64)
    ours.load_state_dict(theirs.state_dict())
    return ours, theirs


def batch(shape, dtype, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64).to(dtype)


def close(ours, theirs, dtype, message=""):
    tolerance = 1e-5 if dtype == F32 else 1e-11
    theirs = theirs.detach().numpy()
    scale = max(np.abs(theirs).max(initial=0), 1)
    np.testing.assert_allclose(ours, theirs, rtol=tolerance, atol=tolerance * scale, err_msg=message)


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
@pytest.mark.parametrize("dtype", [F32, F64], ids=["f32", "f64"])
@pytest.mark.parametrize("name", LAYERS)
def test_layer_agrees_with_torch(name, dtype, backend):
    kind, args, options, shape = LAYERS[name]
    torch.manual_seed(0)
    theirs = getattr(torch.nn, kind)(*args, **options).to(dtype)
    for parameter in theirs.parameters():
        torch.nn.init.uniform_(parameter, 0.2, 1.0)
    ours = getattr(nn, kind)(*args, **options).to(np.float32 if dtype == F32 else np.float64)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    ours.load_state_dict(theirs.state_dict())
    for seed in (1, 2):  # twice, so that running statistics have moved
        input = batch(shape, dtype, seed).requires_grad_()
        expected = theirs(input + 0)  # torch's in-place layers refuse a leaf
        grad_output = batch(expected.shape, dtype, seed + 10)
        theirs.zero_grad()
        ours.zero_grad()
        expected.backward(grad_output)
        close(ours(input.detach().numpy()), expected, dtype, "output")
        close(ours.backward(grad_output.numpy()), input.grad, dtype, "grad_input")
        for (key, our), (their_key, their) in zip(ours.named_parameters(), theirs.named_parameters(), strict=True):
            assert key == their_key
            close(our.grad, their.grad, dtype, key)
    for key, value in theirs.state_dict().items():
        close(ours.state_dict()[key], value, dtype, key)
    close(ours.eval()(input.detach().numpy()), theirs.eval()(input + 0), dtype, "output in evaluation mode")


@pytest.mark.parametrize("dtype", [F32, F64], ids=["f32", "f64"])
@pytest.mark.parametrize("name", MODELS)
def test_model_agrees_with_torch(name, dtype, backend):
    ours, theirs = pair(MODELS[name], dtype)
    input = batch((4, 3, 8, 8), dtype).requires_grad_()
    expected = theirs(input)
    torch.nn.functional.cross_entropy(expected, torch.tensor([0, 4, 2, 2])).backward()
    loss = nn.CrossEntropyLoss()
    close(ours(input.detach().numpy()), expected, dtype)
    loss(ours(input.detach().numpy()), np.array([0, 4, 2, 2]))
    close(ours.backward(loss.backward()), input.grad, dtype)
    for (key, our), (_, their) in zip(ours.named_parameters(), theirs.named_parameters(), strict=True):
        close(our.grad, their.grad, dtype, key)


OPTIMIZERS = {
    "sgd": ("SGD", {"lr": 0.05}),
    "nesterov": ("SGD", {"lr": 0.05, "momentum": 0.9, "nesterov": True, "weight_decay": 1e-3}),
    "adagrad": ("Adagrad", {"lr": 0.02}),
    "rmsprop": ("RMSprop", {"lr": 0.002, "centered": True, "momentum": 0.5}),
    "adam": ("Adam", {"lr": 0.003}),
    "adamw": ("AdamW", {"lr": 0.003, "amsgrad": True}),
}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("name", MODELS)
def test_training_agrees_with_torch(name, optimizer):
    """Six steps in float64 under a schedule: losses, then every weight. (In float32, adaptive optimizers amplify the last bit.)"""
    ours, theirs = pair(MODELS[name], F64)
    kind, options = OPTIMIZERS[optimizer]
    our_optimizer, their_optimizer = getattr(optim, kind)(ours.parameters(), **options), getattr(torch.optim, kind)(theirs.parameters(), **options)
    our_schedule = schedule.CosineAnnealingLR(our_optimizer, 4)
    their_schedule = torch.optim.lr_scheduler.CosineAnnealingLR(their_optimizer, 4)
    our_loss, their_loss = nn.CrossEntropyLoss(label_smoothing=0.1), torch.nn.CrossEntropyLoss(label_smoothing=0.1)
    for step in range(6):
        input, target = batch((4, 3, 8, 8), F64, step), torch.tensor([step % 5, 4, 2, 0])
        value = their_loss(theirs(input), target)
        their_optimizer.zero_grad()
        value.backward()
        their_optimizer.step()
        their_schedule.step()
        assert our_loss(ours(input.numpy()), target.numpy()) == pytest.approx(value.item(), rel=1e-7)
        our_optimizer.zero_grad()
        ours.backward(our_loss.backward())
        our_optimizer.step()
        our_schedule.step()
    for key, value in theirs.state_dict().items():
        np.testing.assert_allclose(ours.state_dict()[key], value.numpy(), rtol=1e-6, atol=1e-7, err_msg=key)


@pytest.mark.parametrize("name", MODELS)
def test_training_in_float32_follows_torch(name):
    ours, theirs = pair(MODELS[name], F32)
    our_optimizer, their_optimizer = optim.SGD(ours.parameters(), lr=0.05, momentum=0.9), torch.optim.SGD(theirs.parameters(), lr=0.05, momentum=0.9)
    loss = nn.CrossEntropyLoss()
    for step in range(4):
        input, target = batch((4, 3, 8, 8), F32, step), torch.tensor([step % 5, 4, 2, 0])
        value = torch.nn.functional.cross_entropy(theirs(input), target)
        their_optimizer.zero_grad()
        value.backward()
        their_optimizer.step()
        assert loss(ours(input.numpy()), target.numpy()) == pytest.approx(value.item(), rel=1e-4)
        our_optimizer.zero_grad()
        ours.backward(loss.backward())
        our_optimizer.step()
    for key, value in theirs.state_dict().items():
        np.testing.assert_allclose(ours.state_dict()[key], value.numpy(), rtol=1e-4, atol=1e-4, err_msg=key)


@pytest.mark.parametrize("name", MODELS)
def test_state_dict_loads_into_torch(name):
    ours, theirs = MODELS[name](nn), MODELS[name](Theirs())
    ours(batch((4, 3, 8, 8), F32).numpy())  # so that buffers differ from their initial values
    ours.eval()
    theirs.load_state_dict({key: torch.from_numpy(array) for key, array in ours.state_dict().items()})
    input = batch((2, 3, 8, 8), F32)
    close(ours(input.numpy()), theirs.eval()(input), F32)


def test_state_dict_has_torch_keys_shapes_and_dtypes():
    ours, theirs = normalised(nn).state_dict(), normalised(torch.nn).state_dict()
    assert list(ours) == list(theirs)
    for key, array in ours.items():
        assert array.shape == tuple(theirs[key].shape) and array.dtype == theirs[key].numpy().dtype, key


def test_load_state_dict_takes_parameters_that_require_grad_and_says_which_cannot_be_read():
    ours, theirs = nn.Linear(3, 2), torch.nn.Linear(3, 2)
    ours.load_state_dict(dict(theirs.named_parameters()))
    np.testing.assert_array_equal(ours.weight.data, theirs.weight.detach().numpy())
    with pytest.raises(TypeError, match="'weight' cannot be read as an array"):
        ours.load_state_dict(theirs.to(torch.bfloat16).state_dict())


def test_both_cast_what_they_load_to_their_own_dtype():
    ours, theirs = small(nn), small(torch.nn)
    state = {key: value.astype(np.float64) / 3 for key, value in ours.state_dict().items()}
    ours.load_state_dict(state)
    theirs.load_state_dict({k: torch.from_numpy(v) for k, v in state.items()})
    assert all(value.dtype == np.float32 for value in ours.state_dict().values())
    assert all(np.array_equal(ours.state_dict()[key], value.numpy()) for key, value in theirs.state_dict().items())


@needs_tree
def test_the_readme_s_line_moves_weights_there_and_back():
    model, theirs, again = normalised(nn), normalised(torch.nn), normalised(nn)
    theirs.load_state_dict({k: torch.from_numpy(v) for k, v in model.state_dict().items()})
    again.load_state_dict(theirs.state_dict())
    assert all(again.state_dict()[key].tobytes() == value.tobytes() for key, value in model.state_dict().items())
    readme = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    assert "theirs.load_state_dict({k: torch.from_numpy(v) for k, v in model.state_dict().items()})" in readme
