"""Schedules against torch's over whole runs, their state, their errors."""

import copy

import numpy as np
import pytest

from fastcnn import schedule as S
from fastcnn.nn.parameter import Parameter
from fastcnn.optim import SGD, Adagrad, Adam


def make(optimizer=SGD, **options):
    return optimizer([Parameter(np.ones(3, np.float32))], **{"lr": 0.5, **options})


CASES = {
    "step": ("StepLR", {"step_size": 4, "gamma": 0.3}, 15),
    "multistep": ("MultiStepLR", {"milestones": [7, 2, 7, 9], "gamma": 0.5}, 15),
    "exponential": ("ExponentialLR", {"gamma": 0.9}, 15),
    "linear": ("LinearLR", {"start_factor": 0.25, "total_iters": 6}, 15),
    "cosine": ("CosineAnnealingLR", {"T_max": 6, "eta_min": 0.01}, 20),
    "lambda": ("LambdaLR", {"lr_lambda": lambda t: 1 / (1 + t)}, 15),
    "onecycle": ("OneCycleLR", {"max_lr": 2.0, "total_steps": 20}, 19),
    "onecycle_linear": ("OneCycleLR", {"max_lr": 2.0, "epochs": 4, "steps_per_epoch": 5, "anneal_strategy": "linear", "pct_start": 0.45}, 19),
    "onecycle_three_phase": ("OneCycleLR", {"max_lr": 2.0, "total_steps": 20, "three_phase": True, "div_factor": 10.0, "final_div_factor": 50.0}, 19),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("optimizer", ["SGD", "Adam"])
def test_schedule_agrees_with_torch(name, optimizer):
    torch = pytest.importorskip("torch")
    kind, options, steps = CASES[name]
    extra = {"momentum": 0.9} if optimizer == "SGD" else {}
    ours = make({"SGD": SGD, "Adam": Adam}[optimizer], **extra)
    theirs = getattr(torch.optim, optimizer)([torch.nn.Parameter(torch.ones(3))], lr=0.5, **extra)
    schedule = getattr(S, kind)(ours, **options)
    reference = getattr(torch.optim.lr_scheduler, kind)(theirs, **options)
    for t in range(steps + 1):
        group = theirs.param_groups[0]
        assert ours.lr == pytest.approx(group["lr"], rel=1e-12, abs=1e-15), t
        assert schedule.get_last_lr() == [ours.lr] == [schedule.lr_at(t)]
        momentum = ours.momentum if optimizer == "SGD" else ours.betas[0]
        assert momentum == pytest.approx(group["momentum"] if optimizer == "SGD" else group["betas"][0], rel=1e-12), t
        if t < steps:
            theirs.step()
            schedule.step()
            reference.step()


def test_sequential_warm_up_then_cosine_agrees_with_torch():
    torch = pytest.importorskip("torch")
    theirs = torch.optim.SGD([torch.nn.Parameter(torch.ones(3))], lr=0.5)
    T = torch.optim.lr_scheduler
    ours = make()
    schedule = S.SequentialLR(ours, [S.LinearLR(ours, 0.1, total_iters=4), S.CosineAnnealingLR(ours, 10), S.StepLR(ours, 2)], [4, 12])
    reference = T.SequentialLR(theirs, [T.LinearLR(theirs, 0.1, total_iters=4), T.CosineAnnealingLR(theirs, 10), T.StepLR(theirs, 2)], [4, 12])
    for _ in range(20):
        assert ours.lr == pytest.approx(theirs.param_groups[0]["lr"], rel=1e-12)
        theirs.step()
        schedule.step()
        reference.step()


@pytest.mark.parametrize("name", [*CASES, "sequential"])
def test_schedule_resumes_from_state_dict(name):
    def build():
        optimizer = make(SGD, momentum=0.9)
        if name == "sequential":
            return S.SequentialLR(optimizer, [S.LinearLR(optimizer, total_iters=3), S.ExponentialLR(optimizer, 0.5)], [3])
        kind, options, _ = CASES[name]
        return getattr(S, kind)(optimizer, **options)

    first, second = build(), build()
    for _ in range(5):
        first.step()
    second.optimizer.load_state_dict(first.optimizer.state_dict())
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    for _ in range(5):
        assert (first.optimizer.lr, first.optimizer.momentum) == (second.optimizer.lr, second.optimizer.momentum)
        first.step()
        second.step()


def test_schedule_rejects_a_state_that_is_not_its_own():
    optimizer = make()
    with pytest.raises(ValueError, match="StepLR: missing 'base_lr'"):
        S.StepLR(optimizer, 3).load_state_dict({"last_epoch": 3})
    sequential = S.SequentialLR(optimizer, [S.StepLR(optimizer, 3), S.StepLR(optimizer, 3)], [2])
    with pytest.raises(ValueError, match="0 states for 2 schedulers"):
        sequential.load_state_dict(S.StepLR(optimizer, 3).state_dict())


def test_loading_a_state_leaves_the_present_rate_to_the_optimizer():
    optimizer = make()
    schedule = S.ExponentialLR(optimizer, 0.5)
    schedule.step()
    optimizer.lr = 0.125  # set by hand until the next step
    schedule.load_state_dict(schedule.state_dict())
    assert optimizer.lr == 0.125
    schedule.step()
    assert optimizer.lr == 0.125 == schedule.lr_at(2)


def test_schedule_built_later_starts_from_the_first_rate():
    optimizer = make()
    first = S.ExponentialLR(optimizer, 0.5)
    first.step()
    assert optimizer.lr == 0.25
    assert S.StepLR(optimizer, 10).base_lr == optimizer.lr == 0.5


def test_schedule_step_is_what_the_optimizer_uses():
    parameter = Parameter(np.zeros(1))
    optimizer = SGD([parameter], lr=1.0)
    schedule = S.MultiStepLR(optimizer, [1, 2], gamma=0.1)
    for _ in range(3):
        parameter.grad = np.ones(1)
        optimizer.step()
        schedule.step()
    np.testing.assert_allclose(parameter.data, [-1.11], rtol=1e-15)


@pytest.mark.parametrize("strategy", ["cos", "linear"])
def test_onecycle_past_its_end_is_an_error_and_changes_nothing(strategy):
    optimizer = make(SGD, momentum=0.9)
    schedule = S.OneCycleLR(optimizer, 1.0, total_steps=3, anneal_strategy=strategy)
    for _ in range(3):
        schedule.step()
    lr = optimizer.lr
    assert lr == schedule.lr_at(2) == pytest.approx(1 / 25 / 1e4)
    with pytest.raises(ValueError, match="step 4 is beyond total_steps, 3"):
        schedule.step()
    assert optimizer.lr == lr and schedule.last_epoch == 3


@pytest.mark.parametrize(
    "build, message",
    [
        (lambda: S.StepLR(make(), 0), "step_size must be at least 1, got 0"),
        (lambda: S.CosineAnnealingLR(make(), 0), "T_max must be at least 1, got 0"),
        (lambda: S.LinearLR(make(), 0.0), "start_factor"),
        (lambda: S.LinearLR(make(), 0.5, 1.5), "end_factor"),
        (lambda: S.OneCycleLR(make(), 1.0), "give total_steps"),
        (lambda: S.OneCycleLR(make(), 1.0, total_steps=0), "total_steps must be at least 1, got 0"),
        (lambda: S.OneCycleLR(make(), 1.0, 5, pct_start=1.5), "pct_start"),
        (lambda: S.OneCycleLR(make(), 1.0, 5, anneal_strategy="sine"), "anneal_strategy"),
        (lambda: S.OneCycleLR(make(Adagrad), 1.0, 5), "Adagrad has neither"),
        (lambda: S.SequentialLR(make(), [], []), "need 0 milestones"),
    ],
)
def test_schedule_rejects(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_sequential_rejects_wrong_parts():
    optimizer, other = make(), make()
    with pytest.raises(ValueError, match="2 schedulers need 1 milestones, got 2"):
        S.SequentialLR(optimizer, [S.StepLR(optimizer, 1), S.StepLR(optimizer, 1)], [1, 2])
    with pytest.raises(ValueError, match=r"schedulers\[1\] \(StepLR\) was built for another optimizer"):
        S.SequentialLR(optimizer, [S.StepLR(optimizer, 1), S.StepLR(other, 1)], [1])
    with pytest.raises(ValueError, match="must increase"):
        S.SequentialLR(optimizer, [S.StepLR(optimizer, 1) for _ in range(3)], [3, 2])
    with pytest.raises(TypeError, match="must be a fastcnn optimizer, got str"):
        S.StepLR("Adam", 3)


def test_onecycle_without_momentum_leaves_it_alone():
    optimizer = make(SGD, momentum=0.3)
    schedule = S.OneCycleLR(optimizer, 1.0, 10, cycle_momentum=False)
    schedule.step()
    assert optimizer.momentum == 0.3
    adagrad = make(Adagrad)
    S.OneCycleLR(adagrad, 1.0, 10, cycle_momentum=False)
    assert adagrad.lr == pytest.approx(1 / 25)
