"""first_not_finite and what fit says of a loss that is not finite: the layer that began it, by its path."""

import numpy as np
import pytest

from fastcnn import nn, optim
from fastcnn.train import Trainer, TrainingDiverged, first_not_finite, fit


class Root(nn.Module):
    """sqrt(x): a finite output at 0, where its gradient is infinite; NaN below."""

    def forward(self, input):
        output = np.sqrt(input)
        self.save_for_backward(output)
        return output

    def backward(self, grad_output):
        (output,) = self.saved_for_backward()
        return grad_output / (2 * output)


class Nothing(nn.Module):
    """0 * x."""

    def forward(self, input):
        return input * 0

    def backward(self, grad_output):
        return grad_output * 0


def network(middle=None):
    return nn.Sequential(
        {
            "body": nn.Sequential(nn.Conv2d(1, 2, 3, rng=0), nn.ReLU(), nn.Residual(nn.Conv2d(2, 2, 1, rng=1))),
            "middle": nn.Identity() if middle is None else middle,
            "head": nn.Sequential(nn.Flatten(), nn.Linear(2 * 6 * 6, 3, rng=2)),
        }
    )


def problem(images=8):
    return np.random.default_rng(0).normal(size=(images, 1, 8, 8)).astype(np.float32), np.arange(images) % 3


def cause(model, lr=1e-3, epochs=2, x=None):
    pair = problem() if x is None else (x, problem()[1])
    with pytest.raises(TrainingDiverged) as error, np.errstate(all="ignore"):
        fit(Trainer(model, nn.CrossEntropyLoss(), optim.SGD(model.parameters(), lr=lr)), pair, epochs=epochs, batch_size=8, progress=False)
    assert str(error.value.cause) in str(error.value)
    return error.value


def test_nothing_wrong_is_none(backend):
    x, y = problem()
    assert first_not_finite(network(), x) is None and first_not_finite(network(), x, nn.CrossEntropyLoss(), y) is None


def test_the_first_layer_whose_output_is_not_finite(backend):
    error = cause(network(Root()))  # sqrt of negative numbers
    assert error.cause[:3] == ("output", "middle", "Root")
    assert "epoch 1, batch 1 (learning rate 0.001): the first output that is not finite is that of layer middle (Root) (" in str(error)
    assert str(error).endswith("values); a smaller learning rate usually helps")


def test_overflow_in_a_sum_is_the_container_s():
    model = network()
    nn.init.zeros_(model.body[2].body.weight)
    nn.init.constant_(model.body[2].body.bias, 3e38)
    nn.init.constant_(model.body[0].bias, 3e38)
    assert cause(model).cause[:3] == ("output", "body.2", "Residual")


def test_a_large_learning_rate_overflows_somewhere():
    error = cause(network(), lr=1e30, epochs=9)
    assert error.cause.what == "output" and error.cause.path in ("body.0", "body.2", "body.2.body", "head.1")


def test_an_update_with_a_gradient_that_is_not_finite_names_the_parameter():
    model = network(nn.Sequential(Nothing(), Root()))  # an infinite gradient: what is before has it in its weights
    error = cause(model)
    assert error.cause[:3] == ("parameter", "body.2.body.bias", "Conv2d") and "batch 1" in str(error) and "epoch 2" in str(error)


def test_gradients_are_looked_at_where_the_forward_pass_is_finite():
    x, y = problem()
    found = first_not_finite(network(nn.Sequential(nn.ReLU(), Root())), x, nn.CrossEntropyLoss(), y)
    assert found[:3] == ("gradient", "middle.1", "Root")


def test_the_loss_itself():
    class Log(nn.Module):
        def forward(self, input, target):
            return float(np.log(np.zeros(1))[0])

    x, y = problem()
    found = first_not_finite(network(), x, Log(), y)
    assert found.what == "loss" and "Log made of them" in str(found)


def test_the_data_are_named_and_no_learning_rate_is_blamed():
    x = problem()[0]
    x[3, 0, 2, 2] = np.inf
    assert str(cause(network(), x=x)).endswith("(learning rate 0.001): the batch itself holds NaN or infinities (1 of 512 values)")


def test_looking_leaves_the_layers_as_they_were(backend):
    model, (x, y) = network(), problem()
    before, attributes = model.state_dict(), [sorted(vars(module)) for module in model.modules()]
    first_not_finite(model, np.full_like(x, 1e38), nn.CrossEntropyLoss(), y)
    assert all(np.array_equal(before[name], value) for name, value in model.state_dict().items())
    assert [sorted(set(vars(module)) - {"_saved"}) for module in model.modules()] == [sorted(set(names) - {"_saved"}) for names in attributes]


def test_a_step_with_such_a_loss_updates_nothing(backend):
    model, (x, y) = network(), problem()
    trainer = Trainer(model, nn.CrossEntropyLoss(), optim.SGD(model.parameters(), lr=0.1, momentum=0.9))
    before = model.state_dict()
    with np.errstate(all="ignore"):
        assert np.isnan(trainer.step(np.full_like(x, np.nan), y))
    assert trainer.iteration == 0 and all(np.array_equal(before[name], value) for name, value in model.state_dict().items())
    assert np.isfinite(trainer.step(x, y)) and trainer.iteration == 1
