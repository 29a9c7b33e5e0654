"""Training on numba's simulator, at tiny sizes: whole steps against the reference, what is copied, fit, checkpoints, capture."""

import copy

import numpy as np
import pytest

import fastcnn
from fastcnn import backend, nn, optim
from fastcnn.backends.cuda import _memory


def network(dropout=0.0):
    return nn.Sequential(
        nn.Conv2d(1, 2, 3, rng=1), nn.BatchNorm2d(2), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Dropout(dropout), nn.Linear(8, 3, rng=2)
    )  # fmt: skip


def batches(count, seed=0, images=3):
    rng = np.random.default_rng(seed)
    return [(rng.standard_normal((images, 1, 6, 6)).astype(np.float32), rng.integers(0, 3, images)) for _ in range(count)]


OPTIMIZERS = {
    "sgd": lambda p: optim.SGD(p, lr=0.1),
    "nesterov": lambda p: optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.01),
    "dampened": lambda p: optim.SGD(p, lr=0.1, momentum=0.5, dampening=0.3, maximize=True),
    "adagrad": lambda p: optim.Adagrad(p, lr=0.1, lr_decay=0.1),
    "rmsprop": lambda p: optim.RMSprop(p, lr=0.01, centered=True, momentum=0.5),
    "adam": lambda p: optim.Adam(p, lr=0.01, weight_decay=0.01),
    "amsgrad": lambda p: optim.Adam(p, lr=0.01, amsgrad=True),
    "adamw": lambda p: optim.AdamW(p, lr=0.01),
}


def trained(name, model, data, optimizer=OPTIMIZERS["adam"], **options):
    with fastcnn.use_backend(name):
        trainer = fastcnn.Trainer(model, nn.CrossEntropyLoss(), optimizer(model.parameters()), **options)
        losses = [float(trainer.step(x, y)) for x, y in data]
        return trainer, losses, model.state_dict()


def assert_same_training(found, expected, losses, expected_losses):
    np.testing.assert_allclose(losses, expected_losses, rtol=2e-5)
    for name, value in expected.items():
        assert type(found[name]) is np.ndarray
        np.testing.assert_allclose(found[name], value, rtol=2e-4, atol=2e-5, err_msg=name)


def test_three_steps_are_those_of_the_reference():
    """Convolution, batch normalisation, pooling, linear, loss and Adam: the second step sees the first update, the third the optimizer's memory of it."""
    model, data = network(), batches(3)
    _, expected_losses, expected = trained("reference", copy.deepcopy(model), data)
    _, losses, found = trained("cuda", model, data)
    assert_same_training(found, expected, losses, expected_losses)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_every_optimizer(optimizer):
    model, data = nn.Sequential(nn.LayerNorm(6), nn.Tanh(), nn.PReLU(6), nn.LeakyReLU()), []
    rng = np.random.default_rng(3)
    for _ in range(3):
        data.append((rng.standard_normal((2, 6)).astype(np.float32), rng.integers(0, 6, 2)))
    trainer, expected_losses, expected = trained("reference", copy.deepcopy(model), data, OPTIMIZERS[optimizer])
    there, losses, found = trained("cuda", model, data, OPTIMIZERS[optimizer])
    assert_same_training(found, expected, losses, expected_losses)
    states, host_states = there.optimizer.state_dict(), trainer.optimizer.state_dict()
    for name, value in host_states.items():
        assert type(states[name]) is type(value)
        np.testing.assert_allclose(states[name], value, rtol=2e-4, atol=2e-5, err_msg=name)


def test_more_parameters_than_a_launch_takes():
    layers = [nn.PReLU(4) for _ in range(27)]
    x, y = np.random.default_rng(0).standard_normal((2, 4)).astype(np.float32), np.array([1, 2])
    model = nn.Sequential(*layers)
    _, _, expected = trained("reference", copy.deepcopy(model), [(x, y)])
    _, _, found = trained("cuda", model, [(x, y)])
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-5, err_msg=name)


@pytest.mark.parametrize("capture", [False, True])
def test_a_step_copies_its_batch_and_nothing_else(capture):
    """Parameters, activations, gradients and optimizer states stay on the device, and the host does not wait."""
    model = network()
    with fastcnn.use_backend("cuda"):
        trainer = fastcnn.Trainer(model, nn.CrossEntropyLoss(), optim.Adam(model.parameters()), capture=capture)
        for x, y in batches(4):
            before = copy.copy(_memory.copies)
            value = trainer.step(x, y)
            assert _memory.copies == _memory.Copies(before.to_device + 2, before.to_host, before.waits)
            there = fastcnn.to_device(x), fastcnn.to_device(y)
            before = copy.copy(_memory.copies)
            trainer.step(*there)
            assert _memory.copies == before
        states = [array for arrays in trainer.optimizer._states.values() for array in arrays]
        parameters = [array for parameter in model.parameters() for array in (parameter.data, parameter.grad)]
        assert len(parameters) == 12 and len(states) == 12
        assert all(map(fastcnn.backend.on_device, [value, trainer.logits, *parameters, *states]))


def test_memory_does_not_grow():
    model = network()
    with fastcnn.use_backend("cuda"):
        trainer = fastcnn.Trainer(model, nn.CrossEntropyLoss(), optim.Adam(model.parameters()))
        data = batches(4)
        for x, y in data[:2]:
            trainer.step(x, y)
        allocated = _memory.pool.allocated
        for x, y in data[2:]:
            trainer.step(x, y)
        assert _memory.pool.allocated == allocated


def test_capture_gives_the_same_bits():
    """Also where the shape of a batch changes, and after the model has changed."""
    data = batches(4) + batches(2, 1, images=2) + batches(1, 2)
    model = network()
    _, expected_losses, expected = trained("cuda", copy.deepcopy(model), data)
    trainer, losses, found = trained("cuda", model, data, capture=True)
    assert losses == expected_losses
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)
    with fastcnn.use_backend("cuda"):
        trainer.model.append(nn.LeakyReLU())
        before = model.state_dict()["0.weight"]
        assert np.isfinite(float(trainer.step(*data[0])))
        assert (model.state_dict()["0.weight"] != before).any()


ACTIVATIONS = [nn.ReLU(), nn.LeakyReLU(0.1), nn.LeakyReLU(-0.5), nn.Sigmoid(), nn.Tanh()]


@pytest.mark.parametrize("activation", ACTIVATIONS, ids=str)
@pytest.mark.parametrize("layer", [nn.Conv2d(2, 3, 3, padding=1, rng=1), nn.Conv2d(2, 4, 2, groups=2, bias=False, padding_mode="reflect", padding=1, rng=1),
                                   nn.Linear(4, 3, rng=1)], ids=["conv", "depthwise", "linear"])  # fmt: skip
def test_a_layer_and_its_activation_are_one_kernel_of_the_same_bits(layer, activation):
    """Forward and every gradient, in training and in inference, against the same layers called one by one."""
    rng = np.random.default_rng(0)
    model = nn.Sequential(copy.deepcopy(layer), copy.deepcopy(activation)).to("cuda")
    x = rng.standard_normal((2, 2, 4, 4)).astype(np.float32)
    x[0, 0, 0, 0] = np.nan
    x[1, :, 2:] = -0.0
    with fastcnn.use_backend("cuda"):
        x = fastcnn.to_device(x)
        joined = not getattr(activation, "negative_slope", 0) < 0  # else the output does not tell the input's sign
        op = "linear" if isinstance(layer, nn.Linear) else "conv2d"
        with backend.recording() as ops:
            output = model(x)
        assert [dispatch.op for dispatch in ops if dispatch.op != "pad"] == ([f"{op}_activated"] if joined else [op, "leaky_relu"])
        g = fastcnn.to_device(rng.standard_normal(output.shape).astype(np.float32))
        grads = [model.backward(g), *(parameter.grad for parameter in model.parameters())]
        model.zero_grad()
        middle = model[0](x)
        alone = model[1](middle)
        expected = [alone, model.backward(g), *(parameter.grad for parameter in model.parameters())]
        expected.append(alone)
        found = [output, *grads, model.eval()(x)]
        assert model[1]._saved is None
    for actual, wanted in zip(map(fastcnn.to_host, found), map(fastcnn.to_host, expected), strict=True):
        assert actual.dtype == wanted.dtype and actual.tobytes() == wanted.tobytes()


def test_layers_that_somebody_looks_at_or_has_changed_run_by_themselves():
    class Louder(nn.ReLU):
        def forward(self, input):
            return super().forward(input) * 2

    x = np.ones((1, 4), np.float32)
    watched = nn.Sequential(nn.Linear(4, 2, rng=1), nn.ReLU()).to("cuda")
    seen = []
    watched[0].forward = lambda input, run=watched[0].forward: seen.append(input) or run(input)
    with fastcnn.use_backend("cuda"), backend.recording() as ops:
        watched(fastcnn.to_device(x))
        nn.Sequential(nn.Linear(4, 2, rng=1), Louder()).to("cuda")(fastcnn.to_device(x))
    assert len(seen) == 1 and [dispatch.op for dispatch in ops if dispatch.op != "multiply"] == ["linear", "relu"] * 2


def test_capture_keeps_steps_with_and_without_tf32_apart(monkeypatch):
    """A recorded step has its kernels for good. The simulator has no TF32, so only the answer is changed here."""
    model, ((x, y),) = nn.Sequential(nn.Flatten(), nn.Linear(36, 3, rng=1)), batches(1)
    with fastcnn.use_backend("cuda"):
        trainer = fastcnn.Trainer(model, nn.CrossEntropyLoss(), optim.SGD(model.parameters(), lr=0.1), capture=True)
        for _ in range(3):
            trainer.step(x, y)
        assert len(trainer._capture._steps) == 1
        monkeypatch.setattr(backend.current(), "tf32_allowed", lambda: True)
        trainer.step(x, y)
        assert len(trainer._capture._steps) == 2


def test_capture_refuses_what_it_cannot_repeat():
    model, (data,) = network(dropout=0.5), batches(1)
    draws = r"capture=True repeats the same launches, but 5 \(Dropout\) draws anew"
    elsewhere = "capture=True is for backend 'cuda', the current one is 'reference'"
    with fastcnn.use_backend("cuda"):
        with pytest.raises(ValueError, match=draws):
            fastcnn.Trainer(model, nn.CrossEntropyLoss(), optim.Adam(model.parameters()), capture=True)
        trainer = fastcnn.Trainer(model.eval(), nn.CrossEntropyLoss(), optim.Adam(model.parameters()), capture=True)
        with pytest.raises(ValueError, match=draws):
            trainer.step(*data)
        model = network()
        trainer = fastcnn.Trainer(model, nn.CrossEntropyLoss(), optim.Adam(model.parameters()), capture=True)
    with fastcnn.use_backend("reference"):
        with pytest.raises(ValueError, match=elsewhere):
            fastcnn.Trainer(network(), nn.CrossEntropyLoss(), optim.Adam(model.parameters()), capture=True)
        with pytest.raises(ValueError, match=elsewhere):
            trainer.step(*data)


def fitted(name, tmp_path=None, epochs=2, **options):
    x, y = (np.concatenate(parts) for parts in zip(*batches(3), strict=True))
    model = network()
    with fastcnn.use_backend(name):
        trainer = fastcnn.Trainer(model, nn.CrossEntropyLoss(), optim.SGD(model.parameters(), lr=0.1, momentum=0.9))
        history = fastcnn.fit(trainer, (x, y), (x, y), epochs=epochs, batch_size=4, progress=False, out=tmp_path, **options)
        return trainer, history, trainer.predict(x), trainer.evaluate((x, y))


def test_fit_waits_once_an_interval_and_agrees_with_the_reference(monkeypatch):
    _, expected, outputs, measured = fitted("reference")
    before = copy.copy(_memory.copies)
    _, history, found, there = fitted("cuda", prefetch=2)
    # Each epoch: once for its losses, logits and targets; evaluate waits for the loss and for the logits; then predict, and evaluate again.
    assert _memory.copies.waits - before.waits == 2 * (1 + 2) + 1 + 2
    for row, wanted in zip(history.rows, expected.rows, strict=True):
        for name in ("train_loss", "train_accuracy", "val_loss", "val_accuracy"):
            assert row[name] == pytest.approx(wanted[name], rel=1e-4), name
    assert type(found) is np.ndarray
    np.testing.assert_allclose(found, outputs, rtol=1e-3, atol=1e-4)
    assert there["loss"] == pytest.approx(measured["loss"], rel=1e-4)


def test_checkpoints_hold_host_arrays_and_are_resumed(tmp_path):
    pytest.importorskip("safetensors", reason="the extra `train` is not installed")
    whole, history, outputs, _ = fitted("cuda", epochs=2)
    first, *_ = fitted("cuda", tmp_path, epochs=1)
    x, y = (np.concatenate(parts) for parts in zip(*batches(3), strict=True))
    model = network()
    with fastcnn.use_backend("cuda"):
        trainer = fastcnn.Trainer(model, nn.CrossEntropyLoss(), optim.SGD(model.parameters(), lr=0.1, momentum=0.9))
        trainer.resume(tmp_path / "checkpoint.safetensors")
        fastcnn.fit(trainer, (x, y), epochs=2, batch_size=4, progress=False)
        np.testing.assert_array_equal(trainer.predict(x), outputs)
    model = network()
    with fastcnn.use_backend("reference"):  # and by another backend
        trainer = fastcnn.Trainer(model, nn.CrossEntropyLoss(), optim.SGD(model.parameters(), lr=0.1, momentum=0.9))
        trainer.resume(tmp_path / "checkpoint.safetensors")
        assert trainer.epoch == 1


def test_a_diverging_run_says_so():
    x, y = (np.concatenate(parts) for parts in zip(*batches(2), strict=True))
    model = network()
    model[0].weight.data[0, 0, 0, 0] = np.nan
    with fastcnn.use_backend("cuda"), pytest.raises(fastcnn.train.TrainingDiverged, match="the loss became nan in epoch 1, batch 1"):
        fastcnn.fit(model, (x, y), epochs=1, batch_size=3, progress=False)


def test_models_move_and_containers_compute_there():
    branches = nn.Concat(nn.Identity(), nn.Sigmoid())
    model = nn.Sequential(nn.Residual(nn.Conv2d(2, 2, 1, rng=1)), branches, nn.ConvTranspose2d(4, 2, 2, rng=2), nn.VanillaDropout(0.0))
    x = np.random.default_rng(0).standard_normal((2, 2, 3, 3)).astype(np.float32)
    with fastcnn.use_backend("reference"):
        expected = model(x)
        expected_grad = model.backward(np.ones_like(expected))
        weight_grad = model[0].body.weight.grad
    model.zero_grad()
    assert model.to("cuda") is model
    with fastcnn.use_backend("cuda"):
        output = model(fastcnn.to_device(x))
        grad = model.backward(fastcnn.to_device(np.ones_like(expected)))
    np.testing.assert_allclose(fastcnn.to_host(output), expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(fastcnn.to_host(grad), expected_grad, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(fastcnn.to_host(model[0].body.weight.grad), weight_grad, rtol=1e-5, atol=1e-6)
    state = model.state_dict()
    assert all(type(value) is np.ndarray for value in state.values())
    model.load_state_dict({name: value + 1 for name, value in state.items()})
    assert fastcnn.backend.on_device(model[0].body.weight.data)
    model.to("cpu")
    np.testing.assert_array_equal(model[0].body.weight.data, state["0.body.weight"] + 1)
    with pytest.raises(TypeError, match="fastcnn.to_host"):
        np.asarray(model.to("cuda")[0].body.weight)


def test_a_model_on_the_host_is_not_used_in_silence():
    model, ((x, _),) = network(), batches(1)
    with fastcnn.use_backend("cuda"):
        with pytest.raises(TypeError, match="conv2d: weight is a host array.*fastcnn.to_device"):
            model(fastcnn.to_device(x))
        with pytest.raises(TypeError, match="conv2d: input is a host array"):
            network().to("cuda")(x)
        optimizer = optim.SGD(model.parameters(), lr=0.1)
        for parameter in model.parameters():
            parameter.grad = np.zeros_like(parameter.data)
        with pytest.raises(TypeError, match=r"sgd_update: params holds a host array.*model.to\('cuda'\)"):
            optimizer.step()
