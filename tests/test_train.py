"""Trainer and fit: steps, measuring, reproducibility, resuming, interruption."""

import csv
import io
import logging
import os
import re
import signal
import sys
import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest

import fastcnn.random
from fastcnn import backend as backends
from fastcnn import datasets, metrics, nn, optim, schedule
from fastcnn.checkpoint import CheckpointError
from fastcnn.train import History, StopTraining, Trainer, TrainingDiverged, TrainingInterrupted, compare_step_times, fit, progress
from fastcnn.train.history import describe


def network(dropout=0.3, dtype=np.float32):
    """Every kind of state that a run has: parameters, buffers, draws from the library's generator and from one of its own."""
    rng = np.random.default_rng(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, dtype=dtype, rng=rng),
        nn.BatchNorm2d(4, dtype=dtype),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Dropout(dropout),
        nn.Flatten(),
        nn.Dropout(dropout / 2, rng=5),
        nn.Linear(4 * 9, 3, dtype=dtype, rng=rng),
    )


def problem(images=50, dtype=np.float32):
    """8x8 images of 3 classes that a small network can tell apart: the bright third of the rows."""
    rng = np.random.default_rng(1)
    y = rng.integers(0, 3, images)
    x = rng.normal(size=(images, 1, 8, 8)).astype(dtype)
    for i, label in enumerate(y):
        x[i, 0, 3 * label : 3 * label + 2] += 2
    return x, y


def trainer(model=None, lr=0.05, **options):
    model = network() if model is None else model
    optimizer = optim.SGD(model.parameters(), lr=lr, momentum=0.9)
    return Trainer(model, nn.CrossEntropyLoss(), optimizer, schedule=schedule.StepLR(optimizer, 2, 0.5), **options)


def same_bits(one, other):
    return one.keys() == other.keys() and all(one[name].tobytes() == other[name].tobytes() for name in one)


# Steps


def test_step_is_forward_loss_backward_update(backend):
    x, y = problem(8)
    stepped, by_hand = trainer(network(0.0)), network(0.0)
    value = stepped.step(x, y)
    loss, optimizer = nn.CrossEntropyLoss(), optim.SGD(by_hand.parameters(), lr=0.05, momentum=0.9)
    logits = by_hand(x)
    assert value == pytest.approx(float(loss(logits, y)), rel=1e-6) and isinstance(value, float)
    by_hand.backward(loss.backward())
    optimizer.step()
    assert np.allclose(stepped.logits, logits, rtol=0, atol=1e-6) and stepped.iteration == 1
    for name, array in by_hand.state_dict().items():
        assert np.allclose(stepped.model.state_dict()[name], array, rtol=0, atol=1e-6), name


def test_gradients_do_not_pile_up_over_steps():
    x, y = problem(8)
    one = trainer(network(0.0))
    one.step(x, y)
    one.step(x, y)
    grads = [parameter.grad.copy() for parameter in one.model.parameters()]
    again = network(0.0)
    again.load_state_dict(one.model.state_dict())
    assert all(grad.shape == parameter.shape for grad, parameter in zip(grads, again.parameters(), strict=True))
    fresh = trainer(network(0.0))
    fresh.step(x, y)
    fresh.optimizer.zero_grad()
    assert all(parameter.grad is None for parameter in fresh.model.parameters())


@pytest.mark.parametrize(
    ("model", "first"),
    [
        (lambda: network(), "0"),
        (lambda: nn.Sequential(nn.Sequential(nn.ReLU(), nn.Flatten()), nn.Sequential(nn.Linear(64, 3, rng=0)), nn.Linear(3, 3, rng=0)), "1.0"),
        (lambda: nn.Sequential(nn.Residual(nn.Conv2d(1, 1, 1, rng=0)), nn.Flatten(), nn.Linear(64, 3, rng=0)), None),
        (lambda: nn.Sequential(nn.Concat(nn.Conv2d(1, 1, 1, rng=0), nn.Identity()), nn.Flatten(), nn.Linear(128, 3, rng=0)), None),
    ],
    ids=["plain", "nested", "residual", "concat"],
)
def test_input_gradient_is_switched_off_only_where_nothing_needs_it(model, first):
    model = model()
    one = trainer(model)
    off = [name for name, module in model.named_modules() if not module.requires_input_grad]
    assert off == ([] if first is None else [first])
    x, y = problem(8)
    reference = [module for module in model.modules() if not module.requires_input_grad]
    one.step(x, y)
    assert all(parameter.grad is not None for parameter in model.parameters())
    if reference:
        assert model.backward(np.ones_like(model(x))) is None


def test_a_single_layer_is_a_model():
    layer = nn.Linear(4, 3, rng=0)
    Trainer(layer, nn.CrossEntropyLoss(), optim.SGD(layer.parameters(), lr=0.1)).step(np.ones((2, 4), np.float32), np.array([0, 1]))
    assert not layer.requires_input_grad and layer.weight.grad is not None


# Measuring


@pytest.mark.parametrize("batch_size", [1, 7, 50, 1000])
def test_evaluate_does_not_depend_on_the_batch_size(batch_size):
    x, y = problem()
    one = trainer(network(dtype=np.float64))
    wanted = one.evaluate((x.astype(np.float64), y), 50)
    got = one.evaluate((x.astype(np.float64), y), batch_size)
    assert got["accuracy"] == wanted["accuracy"] and got["loss"] == pytest.approx(wanted["loss"], rel=1e-12)


def test_evaluate_takes_datasets_pairs_and_batches():
    x, y = problem()
    one = trainer()
    data = datasets.Dataset(x, y, ("a", "b", "c"))
    assert one.evaluate(data) == one.evaluate((x, y)) == one.evaluate([(x[:20], y[:20]), (x[20:], y[20:])])


def test_evaluate_and_predict_restore_every_mode():
    one = trainer()
    one.model.train()
    one.model[1].eval()  # frozen statistics
    x, y = problem(5)
    one.evaluate((x, y))
    one.predict(x)
    assert one.model.training and not one.model[1].training and one.model[4].training


def test_predict_gives_logits_for_any_batch_size():
    x, _ = problem(20)
    one = trainer()
    one.model.eval()
    assert np.allclose(one.predict(x, 3), one.model(x), atol=1e-6) and one.predict(x).shape == (20, 3)


def test_a_summed_loss_is_reported_per_image():
    x, y = problem()
    model = network()
    mean = Trainer(model, nn.CrossEntropyLoss(), optim.SGD(model.parameters(), lr=0.1))
    summed = Trainer(model, nn.CrossEntropyLoss(reduction="sum"), optim.SGD(model.parameters(), lr=0.1))
    assert summed.evaluate((x, y))["loss"] == pytest.approx(mean.evaluate((x, y))["loss"], rel=1e-6)


def test_a_summed_loss_is_a_mean_loss_with_another_learning_rate():
    x, y = problem(16)
    mean, summed = network(0.0, np.float64), network(0.0, np.float64)
    for model, loss, lr in ((mean, nn.CrossEntropyLoss(), 16 * 0.01), (summed, nn.CrossEntropyLoss(reduction="sum"), 0.01)):
        one = Trainer(model, loss, optim.SGD(model.parameters(), lr=lr, momentum=0.9))
        for _ in range(3):
            one.step(x.astype(np.float64), y)
    assert all(np.allclose(mean.state_dict()[name], array, rtol=1e-12) for name, array in summed.state_dict().items())


def test_own_metrics():
    x, y = problem()
    one = trainer(metrics={"errors": lambda logits, target: float((logits.argmax(1) != target).sum())})
    assert one.evaluate((x, y), 7)["errors"] == (one.predict(x).argmax(1) != y).sum()


@pytest.mark.parametrize("data", [(np.zeros((0, 1, 8, 8), np.float32), np.zeros(0, int)), []], ids=["pair", "batches"])
def test_nothing_to_measure_is_an_error(data):
    with pytest.raises(ValueError, match="evaluate: the data holds no images"):
        trainer().evaluate(data)
    with pytest.raises(ValueError, match="predict: x holds no images"):
        trainer().predict(np.zeros((0, 1, 8, 8), np.float32))


# fit


def test_fit_learns_and_keeps_a_history(tmp_path):
    x, y = problem(120)
    history = fit(network(0.0), (x[:90], y[:90]), (x[90:], y[90:]), epochs=8, batch_size=16, progress=False, out=tmp_path)
    assert history.columns == ["epoch", "train_loss", "train_accuracy", "val_loss", "val_accuracy", "lr", "seconds", "wait", "images_per_second"]
    assert history["epoch"] == list(range(1, 9)) and history["lr"] == [1e-3] * 8
    assert history["train_loss"][-1] < 0.7 * history["train_loss"][0]
    assert all(0 < row["wait"] < row["seconds"] for row in history)
    assert all(row["images_per_second"] == pytest.approx(90 / row["seconds"]) for row in history)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint.safetensors", "history.csv", "weights.safetensors"]
    assert History.from_csv(tmp_path / "history.csv").rows == history.rows
    with open(tmp_path / "history.csv") as file:
        assert len(list(csv.reader(file))) == 9


def test_no_epochs_train_nothing_and_leave_a_folder_to_go_on_from(tmp_path):
    pytest.importorskip("safetensors", reason="the extra `train` is not installed")
    one = trainer()
    before = one.model.state_dict()
    history = fit(one, problem(), problem(), epochs=0, progress=False, out=tmp_path)
    assert len(history) == 0 and history.columns == [] and repr(history) == "History(0 epochs)"
    assert same_bits(before, one.model.state_dict()) and (one.epoch, one.batch, one.iteration) == (0, 0, 0)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint.safetensors", "history.csv", "weights.safetensors"]
    assert History.from_csv(tmp_path / "history.csv").rows == []
    resumed = trainer()
    resumed.resume(tmp_path / "checkpoint.safetensors")
    assert same_bits(run_of(tmp_path / "straight", 1).model.state_dict(), run_on(resumed, 1))
    assert len(fit(resumed, problem(), epochs=0, progress=False)) == 1  # it has seen more than that already


def run_on(one, epochs):
    fit(one, problem(), epochs=epochs, batch_size=8, progress=False)
    return one.model.state_dict()


def test_history_columns_and_errors():
    history = History([{"epoch": 1, "train_loss": 0.5}, {"epoch": 2, "train_loss": 0.25, "val_loss": 0.5}])
    assert history["val_loss"] == [None, 0.5] and "val_loss" in history and "lr" not in history and len(history) == 2
    assert "train_loss 0.2500" in repr(history)
    with pytest.raises(KeyError, match="no column 'loss'"):
        history["loss"]


def test_fit_takes_every_kind_of_data():
    x, y = problem(40)
    data = datasets.Dataset(x, y, ("a", "b", "c"))
    results = []
    for train in (data, datasets.Batches(data, 8, shuffle=True, seed=3)):
        model = network()
        fit(model, train, epochs=2, batch_size=8, seed=3, progress=False)
        results.append(model.state_dict())
    assert same_bits(*results)
    targets = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32)
    history = fit(network(0.0), (x, targets), loss=nn.MSELoss(), metrics={}, epochs=3, batch_size=8, progress=False)
    assert history["train_loss"][-1] < history["train_loss"][0] and "train_accuracy" not in history


def test_fit_computes_in_the_models_dtype():
    x, y = problem(20)
    data = datasets.Dataset((x * 10 + 100).clip(0, 255).astype(np.uint8), y, ("a", "b", "c"))
    model = network(dtype=np.float64)
    fit(model, data, data, epochs=1, progress=False, transform=datasets.Rescale())
    assert model[0].weight.grad.dtype == np.float64


def test_the_same_seed_gives_the_same_bits_and_another_does_not():
    def run(seed):
        fastcnn.random.manual_seed(seed)
        model = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, 3))
        history = fit(model, problem(), problem(), epochs=3, batch_size=8, seed=seed, progress=False)
        return model.state_dict(), history["train_loss"], history["val_loss"]

    first, again, other = run(4), run(4), run(5)
    assert same_bits(first[0], again[0]) and first[1:] == again[1:]
    assert not same_bits(first[0], other[0])


def test_the_schedule_moves_after_each_epoch():
    history = fit(trainer(lr=0.08), problem(20), epochs=5, progress=False)
    assert history["lr"] == [0.08, 0.08, 0.04, 0.04, 0.02]


def test_a_schedule_may_move_after_each_batch():
    model = network()
    optimizer = optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    one = Trainer(model, nn.CrossEntropyLoss(), optimizer, schedule=schedule.OneCycleLR(optimizer, 0.1, total_steps=6), schedule_every="batch")
    history = fit(one, problem(20), epochs=2, batch_size=8, progress=False)
    rates = [schedule.OneCycleLR(optim.SGD(model.parameters(), lr=0.1, momentum=0.9), 0.1, total_steps=6).lr_at(t) for t in range(6)]
    assert one.schedule.last_epoch == 6 and history["lr"] == [max(rates[:3]), max(rates[3:])]
    with pytest.raises(ValueError, match="schedule_every must be one of 'epoch', 'batch', got 'step'"):
        Trainer(model, nn.CrossEntropyLoss(), optimizer, schedule_every="step")


def test_callbacks_see_every_epoch_and_may_stop():
    seen = []

    def watch(one, row):
        seen.append((one.epoch, row["epoch"]))
        if row["epoch"] == 2:
            raise StopTraining

    history = fit(trainer(), problem(20), epochs=9, progress=False, callbacks=[watch, lambda one, row: seen.append("after")])
    assert seen == [(1, 1), "after", (2, 2), "after"] and len(history) == 2


def test_a_trainer_goes_on_where_it_stands():
    straight, halting = trainer(), trainer()
    fit(straight, problem(), epochs=4, batch_size=8, progress=False)
    fit(halting, problem(), epochs=2, batch_size=8, progress=False)
    history = fit(halting, problem(), epochs=4, batch_size=8, progress=False)
    assert same_bits(straight.model.state_dict(), halting.model.state_dict()) and history["epoch"] == [1, 2, 3, 4]


def test_divergence_is_an_error_that_names_the_place():
    x, y = problem(20)
    x[7] = np.nan
    with pytest.raises(TrainingDiverged, match=r"loss became nan in epoch 1, batch \d .*: the batch itself holds NaN or infinities \(64 of 320 values\)$"):
        fit(trainer(), (x, y), epochs=2, batch_size=5, progress=False)


def prefetching():
    return [thread for thread in threading.enumerate() if thread.name == "fastcnn-prefetch"]


@pytest.mark.parametrize(("prefetch", "expected"), [(True, 1), (3, 1), (0, 0), (False, 0)])
def test_training_and_measuring_make_batches_ahead_in_one_thread(prefetch, expected):
    seen, one = [], trainer(metrics={"threads": lambda logits, target: seen.append(len(prefetching())) or 0.0})
    data = datasets.Dataset(*problem(400), ("a", "b", "c"))

    def costly(images):
        time.sleep(0.002)
        return images

    batches = datasets.Batches(data, 4, transform=costly)
    fit(one, batches, epochs=1, progress=False, prefetch=prefetch)
    assert max(seen[:50]) == expected and not prefetching()
    forward, seen_measuring = one.model.forward, []
    one.model.forward = lambda x: seen_measuring.append(len(prefetching())) or forward(x)
    with backends.use_backend("reference"):  # which has no plans, so the model itself is called
        one.evaluate(batches, prefetch=prefetch)
    assert max(seen_measuring[:50]) == expected and not prefetching()


def test_batches_that_cost_nothing_are_made_in_the_loop(monkeypatch):
    monkeypatch.setattr("fastcnn.train.data.CHEAP", 10.0)
    seen = []
    fit(trainer(metrics={"threads": lambda *_: seen.append(len(prefetching())) or 0.0}), problem(400), epochs=1, batch_size=4, progress=False)
    assert set(seen) == {0}


def test_an_iterable_of_the_caller_s_own_stays_in_its_thread():
    def own():
        assert threading.current_thread() is threading.main_thread()
        yield problem(10)

    trainer().evaluate(own())


@pytest.mark.parametrize("error", [ValueError, StopTraining, KeyboardInterrupt, None], ids=str)
def test_no_thread_survives_training_that_ends_early(error):
    """A failing step, callback or second Ctrl-C in the middle of an epoch; or (None) a failing transform."""
    one, data = trainer(), datasets.Dataset(*problem(400), ("a", "b", "c"))

    def fail(*_):
        raise error or LookupError("in the transform")

    if error is StopTraining:
        assert len(fit(one, data, epochs=3, batch_size=4, progress=False, callbacks=[fail])) == 1
    elif error is None:
        with pytest.raises(LookupError, match="in the transform"):
            fit(one, data, epochs=3, batch_size=4, progress=False, transform=fail)
    else:
        one.step = fail
        with pytest.raises(error):
            fit(one, data, epochs=3, batch_size=4, progress=False)
    assert not prefetching()


def test_augmentation_is_for_training_only():
    seen = []

    class Mark:
        random = True

        def __call__(self, images, rng):
            seen.append(len(images))
            return images

    fit(trainer(), pictures(40), pictures(30), epochs=1, batch_size=8, progress=False, transform=[Mark(), datasets.Rescale()])
    assert seen == [8] * 5


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        ((problem(10),), {"prefetch": -1}, ValueError, "prefetch must be at least 0, got -1"),
        ((problem(10),), {"epochs": -1}, ValueError, "epochs must be at least 0, got -1"),
        (((np.zeros((3, 1, 8, 8)), np.zeros(2, int)),), {}, ValueError, "x holds 3 images but y holds 2"),
        (((np.zeros((0, 1, 8, 8)), np.zeros(0, int)),), {}, ValueError, "train holds no batch"),
        (("digits",), {}, TypeError, "train must be a Dataset"),
        ((problem(10), 3), {}, TypeError, "data must be a Dataset"),
        ((problem(10),), {"batch_size": 0}, ValueError, "batch_size must be at least 1, got 0"),
        ((problem(10),), {"transform": datasets.Rescale()}, TypeError, "transform belongs to a Dataset"),
        ((problem(10),), {"schedule": object()}, TypeError, "schedule belongs to an optimizer"),
    ],
)
def test_fit_refuses_nonsense(arguments, options, error, message):
    with pytest.raises(error, match=message):
        fit(network(), *arguments, progress=False, **options)


def test_a_trainer_brings_its_own_loss():
    with pytest.raises(TypeError, match="a Trainer brings its own loss"):
        fit(trainer(), problem(10), loss=nn.CrossEntropyLoss())


def test_fit_works_in_any_thread():
    errors = []

    def work():
        try:
            fit(network(), problem(20), epochs=1, progress=False)
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert not errors


# Progress


def test_without_a_terminal_every_epoch_is_one_line_of_the_log(caplog, capsys):
    caplog.set_level(logging.INFO, "fastcnn")
    fit(trainer(), problem(20), problem(20), epochs=2)
    assert [record.getMessage().split(":")[0] for record in caplog.records] == ["epoch 1/2", "epoch 2/2"]
    assert "val_accuracy" in caplog.text and "images/s" in caplog.text and "lr 0.05" in caplog.text
    fit(trainer(), problem(20), epochs=2, progress=False)
    assert len(caplog.records) == 2
    row = {"epoch": 1, "seconds": 2.0, "wait": 0.05, "images_per_second": 10.0}
    assert "waited" not in describe(row) and describe(row | {"wait": 0.5}).endswith("waited 0.50 s for data")
    assert capsys.readouterr() == ("", "")


def test_a_terminal_shows_a_bar(monkeypatch, capsys, caplog):
    pytest.importorskip("tqdm", reason="the extra `train` is not installed")
    caplog.set_level(logging.INFO, "fastcnn")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setattr("fastcnn.train.progress._REFRESH", 2)
    slow = {"accuracy": lambda logits, target: time.sleep(0.06) or metrics.accuracy(logits, target)}  # tqdm draws ten times a second
    fit(trainer(metrics=slow), problem(20), problem(20), epochs=2, batch_size=4)
    shown = capsys.readouterr()
    lines = [line for line in shown.err.replace("\n", "\r").split("\r") if line]
    assert any(re.search(r"00:0\d<00:0\d, \d+ images/s loss \d\.\d+ acc ", line) for line in lines), lines
    assert any("val_acc" in line and "<" not in line for line in lines) and max(map(len, lines)) <= 80
    assert "epoch 1/2" in shown.err and "val_acc" in shown.err and shown.out == "" and not caplog.records


def test_a_terminal_of_unknown_width_has_a_bar_of_80_columns(monkeypatch):
    for columns, expected in ((0, 80), (132, None)):
        monkeypatch.setattr(os, "get_terminal_size", lambda number, columns=columns: os.terminal_size((columns, 0)))
        monkeypatch.setattr(sys, "stderr", SimpleNamespace(fileno=lambda: 2))
        assert progress._columns() == expected
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    assert progress._columns() is None


# Saving and resuming


def run_of(path, epochs, stop_after=None, data=None, **options):
    """A run that is interrupted after so many batches, if any; returns its trainer."""
    pytest.importorskip("safetensors", reason="the extra `train` is not installed")
    fastcnn.random.manual_seed(0)
    one = trainer()
    if stop_after is not None:
        step = one.step

        def counted(x, y):
            value = step(x, y)
            if one.iteration == stop_after:
                signal.raise_signal(signal.SIGINT)
            return value

        one.step = counted
        with pytest.raises(TrainingInterrupted) as interrupt:
            fit(one, data or problem(), data or problem(), epochs=epochs, batch_size=8, progress=False, out=path, **options)
        assert interrupt.value.checkpoint == path / "checkpoint.safetensors"
    else:
        fit(one, data or problem(), data or problem(), epochs=epochs, batch_size=8, progress=False, out=path, **options)
    return one


@pytest.mark.parametrize("stop_after", [3, 7, 9, 14, 28], ids=lambda batches: f"after_batch_{batches}_of_28")
def test_a_resumed_run_reaches_the_same_bits(tmp_path, stop_after):
    straight = run_of(tmp_path / "straight", 4)
    halted = run_of(tmp_path / "halted", 4, stop_after)
    assert halted.iteration == stop_after
    fastcnn.random.manual_seed(99)
    resumed = trainer(lr=0.3)  # everything that a checkpoint holds is overwritten
    resumed.resume(tmp_path / "halted" / "checkpoint.safetensors")
    assert resumed.iteration == stop_after and resumed.epoch == stop_after // 7 and resumed.batch == stop_after % 7
    fit(resumed, problem(), problem(), epochs=4, batch_size=8, progress=False, out=tmp_path / "halted")
    assert same_bits(straight.model.state_dict(), resumed.model.state_dict())
    timing = {"seconds", "wait", "images_per_second"}
    for row, other in zip(straight.history, resumed.history, strict=True):
        assert {name: row[name] for name in row if name not in timing} == {name: other[name] for name in other if name not in timing}
    assert (tmp_path / "halted" / "weights.safetensors").exists()


AUGMENT = [datasets.RandomCrop(8, padding=1), datasets.RandomHorizontalFlip(), datasets.Rescale()]


def pictures(images=50):
    x, y = problem(images)
    return datasets.Dataset((40 * x + 100).clip(0, 255).astype(np.uint8), y, ("a", "b", "c"))


@pytest.mark.parametrize("prefetch", [0, 1, 5])
def test_the_bits_do_not_depend_on_how_far_ahead_batches_are_made(tmp_path, prefetch):
    """Straight with the default, and halted inside an epoch and resumed with another depth, on augmented images."""
    straight = run_of(tmp_path / "straight", 3, data=pictures(), transform=AUGMENT)
    run_of(tmp_path / "halted", 3, 10, data=pictures(), transform=AUGMENT, prefetch=prefetch)
    resumed = trainer()
    resumed.resume(tmp_path / "halted" / "checkpoint.safetensors")
    assert resumed.batch == 3
    fit(resumed, pictures(), pictures(), epochs=3, batch_size=8, progress=False, transform=AUGMENT, prefetch=prefetch)
    assert same_bits(straight.model.state_dict(), resumed.model.state_dict())
    assert straight.history["train_loss"] == resumed.history["train_loss"]


def test_a_checkpoint_without_waiting_times_can_be_resumed(tmp_path):
    run_of(tmp_path, 2, stop_after=3)
    resumed = trainer()
    resumed.resume(tmp_path / "checkpoint.safetensors")
    del resumed.running["wait"]
    assert fit(resumed, problem(), epochs=1, batch_size=8, progress=False)["wait"][0] > 0


def test_ctrl_c_is_python_s_own_again_after_fit(tmp_path):
    run_of(tmp_path, 2, stop_after=3)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_second_ctrl_c_does_not_wait():
    one = trainer()
    batches = []

    def impatient(x, y):
        batches.append(len(y))
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        raise AssertionError("not reached")

    one.step = impatient
    with pytest.raises(KeyboardInterrupt) as interrupt:
        fit(one, problem(), epochs=1, batch_size=8, progress=False)
    assert not isinstance(interrupt.value, TrainingInterrupted) and len(batches) == 1


def test_a_program_s_own_handler_is_left_alone():
    calls = []
    signal.signal(signal.SIGINT, lambda number, frame: calls.append(number))
    try:
        one = trainer()
        fit(one, problem(20), epochs=1, progress=False, callbacks=[lambda *_: signal.raise_signal(signal.SIGINT)])
        assert calls == [signal.SIGINT] and one.epoch == 1
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def test_save_and_resume_keep_the_optimizer(tmp_path):
    pytest.importorskip("safetensors", reason="the extra `train` is not installed")
    x, y = problem(8)
    for build in (optim.SGD, optim.Adam, optim.AdamW, optim.RMSprop, optim.Adagrad):
        one, other = (Trainer(model, nn.CrossEntropyLoss(), build(model.parameters(), lr=0.01)) for model in (network(0.0), network(0.0)))
        one.step(x, y)
        one.save(tmp_path / "c")
        other.resume(tmp_path / "c")
        one.step(x, y)
        other.step(x, y)
        assert same_bits(one.model.state_dict(), other.model.state_dict()), build.__name__


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        (lambda: trainer(nn.Sequential(nn.Flatten(), nn.Linear(64, 3, rng=0))), "another network"),
        (lambda: Trainer(model := network(), nn.CrossEntropyLoss(), optim.Adam(model.parameters())), "'Adam'"),
        (lambda: Trainer(model := network(), nn.CrossEntropyLoss(), optim.SGD(model.parameters(), lr=0.1)), "NoneType"),
    ],
    ids=["network", "optimizer", "schedule"],
)
def test_resume_refuses_what_does_not_fit(tmp_path, other, reason):
    run_of(tmp_path, 1)
    one = other()
    before = one.model.state_dict()
    with pytest.raises(CheckpointError, match=f"checkpoint.safetensors: .*{reason}"):
        one.resume(tmp_path / "checkpoint.safetensors")
    assert same_bits(before, one.model.state_dict()) and one.epoch == 0


def test_resume_refuses_weights_alone(tmp_path):
    run_of(tmp_path, 1)
    with pytest.raises(CheckpointError, match="holds weights only"):
        trainer().resume(tmp_path / "weights.safetensors")


def test_inside_an_epoch_the_order_must_stay(tmp_path):
    run_of(tmp_path, 2, stop_after=3)
    one = trainer()
    one.resume(tmp_path / "checkpoint.safetensors")
    with pytest.raises(ValueError, match="stands inside an epoch of .*'batch_size': 8"):
        fit(one, problem(), epochs=2, batch_size=10, progress=False)


# Step times


def test_step_times_leave_the_backend_and_the_original_alone():
    if backends.available()["cpu"] is not None:
        pytest.skip(f"the cpu backend cannot be used: {backends.available()['cpu']}")
    x, y = problem(8)
    with backends.use_backend("cpu"):
        times = compare_step_times(trainer, x, y, max_rounds=2)
        assert backends.current().name == "cpu"
        assert compare_step_times(trainer, x, y, other="cpu") is None
    assert (times.backend, times.other, times.batch, times.steps) == ("cpu", "reference", 8, 6)
    assert 0 < times.ms_min <= times.ms_median and 0 < times.other_ms_min <= times.other_ms_median
    assert times.speedup == times.other_ms_min / times.ms_min and "times faster" in str(times)
