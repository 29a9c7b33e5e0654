"""nn.changes: a plan is looked for again after every change that could make it another one, and only then."""

import numpy as np
import pytest

from fastcnn import nn, use_backend
from fastcnn.nn import changes
from fastcnn.train.runner import Runner


@pytest.fixture
def planning():
    """What makes plans: the compiled backend."""
    pytest.importorskip("fastcnn.backends.cpu", reason="the compiled backend is not built")
    with use_backend("cpu"):
        yield


def network() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(2, 3, 3, rng=0), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(12, 4, rng=1))


EDITS = {
    "an option": lambda model: setattr(model[2], "kernel_size", (1, 1)),
    "a mode": lambda model: model.eval(),
    "one layer's mode": lambda model: setattr(model[1], "training", False),
    "a frozen parameter": lambda model: setattr(model[0].weight, "requires_grad", False),
    "another array": lambda model: setattr(model[0].weight, "data", model[0].weight.data.copy()),
    "another parameter": lambda model: setattr(model[0], "bias", None),
    "a layer more": lambda model: model.append(nn.ReLU()),
    "a layer less": lambda model: model.__delitem__(1),
    "another layer": lambda model: model.__setitem__(1, nn.LeakyReLU(0.1)),
    "a method of its own": lambda model: setattr(model[1], "forward", lambda x: x),
    "a deleted attribute": lambda model: delattr(model[0], "bias"),
    "an option that is a list": lambda model: setattr(model[2], "kernel_size", [2, 2]),
}


@pytest.mark.parametrize("edit", EDITS.values(), ids=EDITS)
def test_every_change_gives_a_new_number(edit):
    model = network()
    before = changes.latest()
    edit(model)
    assert changes.latest() != before


def test_training_gives_none(rng):
    model = network()
    x = rng.standard_normal((5, 2, 6, 6)).astype(np.float32)
    model.train().backward(model(x))
    before = changes.latest()
    for _ in range(3):
        model.backward(model(x))
        model.zero_grad()
        model.train()
    assert changes.latest() == before


def test_a_plan_is_kept_until_something_changes(rng, monkeypatch, planning):
    model = network()
    runner = Runner(model)
    x = rng.standard_normal((5, 2, 6, 6)).astype(np.float32)
    first = runner.plan(x, training=True)
    searched = []
    search = runner._planner._search
    monkeypatch.setattr(runner._planner, "_search", lambda *arguments: searched.append(1) or search(*arguments))
    assert runner.plan(x, training=True) is first
    assert not searched
    network()  # anybody's new layers are changes as well: one look, the same plan
    assert runner.plan(x, training=True) is first
    assert searched == [1]
    model[2].kernel_size = (1, 1)
    assert runner.plan(x, training=True) is not first


def test_a_list_that_changes_in_place_is_seen(rng, planning):
    model = network()
    model[2].kernel_size = model[2].stride = window = [2, 2]
    x = rng.standard_normal((5, 2, 8, 8)).astype(np.float32)
    small = nn.Sequential(*list(model)[:4])
    runner = Runner(small.eval())
    assert runner.infer(x, set()).shape == (5, 3 * 3 * 3)
    window[:] = [3, 3]
    assert runner.infer(x, set()).shape == (5, 3 * 2 * 2)


def test_evaluating_restores_the_modes():
    model = network()
    model[1].training = False
    runner = Runner(model)
    for _ in range(2):
        with runner.evaluating():
            assert not any(module.training for module in model.modules())
        assert [module.training for module in model] == [True, False, True, True, True]
    model.eval()
    with runner.evaluating():
        pass
    with runner.evaluating():  # nothing is looked at this time
        assert not any(module.training for module in model.modules())
    model[0].train()
    with runner.evaluating():
        assert not model[0].training
    assert model[0].training


def test_the_same_modes_have_the_same_number():
    model = network()
    runner = Runner(model)
    training = changes.latest()
    with runner.evaluating():
        evaluating = changes.latest()
    assert changes.latest() == training != evaluating
    with runner.evaluating():
        assert changes.latest() == evaluating
        model[0].bias = None  # now neither state is one that has been
    assert changes.latest() not in (training, evaluating)
    assert all(module.training for module in model.modules())
    with runner.evaluating():
        assert not any(module.training for module in model.modules())


def test_evaluating_while_another_thread_changes_modules():
    model = network()
    runner = Runner(model)
    training = changes.latest()
    with runner.evaluating():
        evaluating = changes.latest()
    other = network()  # as another thread may between reading the number and moving it
    assert changes.move(training, evaluating) is None
    assert changes.latest() not in (training, evaluating)
    assert len(other) == 5
