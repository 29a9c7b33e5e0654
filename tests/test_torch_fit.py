"""fit: a PyTorch module trained by one call; explain: what it measures and says."""

import copy

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
from torch import nn  # noqa: E402
from torch.utils.data import DataLoader, TensorDataset  # noqa: E402

import fastcnn  # noqa: E402
from fastcnn.torch import Explanation, NotConvertible, explain, fit, from_torch, swap_  # noqa: E402


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(72, 10))


def data(n=128):
    digits = fastcnn.datasets.digits().train
    x = np.ascontiguousarray(digits.images[:n], np.float32).reshape(n, 1, 8, 8)
    x /= x.max()
    return torch.from_numpy(x), torch.from_numpy(np.asarray(digits.labels[:n], np.int64))


def test_one_call_trains_the_module_in_place():
    module = network()
    addresses, before = [p.data_ptr() for p in module.parameters()], copy.deepcopy(module.state_dict())
    history = fit(module, data(), data(), epochs=10, batch_size=16, progress=False)
    assert history.rows[-1]["val_accuracy"] > 0.8 and [p.data_ptr() for p in module.parameters()] == addresses
    assert all(not torch.equal(before[key], value) for key, value in module.state_dict().items())
    x, y = data()
    assert (module.eval()(x).argmax(1) == y).float().mean().item() == pytest.approx(history.rows[-1]["val_accuracy"])


@pytest.mark.parametrize("wrap", [TensorDataset, lambda x, y: (x.numpy(), y.numpy()), lambda x, y: [x, y], lambda x, y: DataLoader(TensorDataset(x, y), 32)])
def test_what_the_data_may_be(wrap):
    module = network()
    history = fit(module, wrap(*data(64)), wrap(*data(32)), epochs=2, batch_size=32, progress=False)
    assert [row["epoch"] for row in history.rows] == [1, 2] and "val_loss" in history.rows[0]


def test_a_map_style_dataset_and_a_loader_in_its_own_order():
    x, y = data(20)

    class Pairs(torch.utils.data.Dataset):
        def __len__(self):
            return 20

        def __getitem__(self, index):
            return x[index], y[index]

    assert len(fit(network(), Pairs(), epochs=1, batch_size=8, progress=False).rows) == 1
    fast, slow = network(), network()
    fit(fast, DataLoader(Pairs(), 5), epochs=2, optimizer=torch.optim.SGD(fast.parameters(), lr=0.05, momentum=0.9), progress=False)
    optimizer = torch.optim.SGD(slow.parameters(), lr=0.05, momentum=0.9)
    for _ in range(2):
        for a, b in DataLoader(Pairs(), 5):
            optimizer.zero_grad()
            nn.functional.cross_entropy(slow(a), b).backward()
            optimizer.step()
    for key, value in slow.state_dict().items():
        torch.testing.assert_close(fast.state_dict()[key], value, rtol=1e-3, atol=1e-4)


def test_loss_and_interruption():
    module = network()
    seen = []

    def stop(trainer, row):
        seen.append(type(trainer.loss).__name__)
        raise KeyboardInterrupt

    before = module[0].weight.clone()
    with pytest.raises(KeyboardInterrupt):
        fit(module, data(), epochs=5, loss=nn.CrossEntropyLoss(label_smoothing=0.1), callbacks=[stop], progress=False)
    assert seen == ["CrossEntropyLoss"] and not torch.equal(before, module[0].weight)
    assert all(part.training for part in module.modules())


def test_what_fit_refuses():
    with pytest.raises(NotConvertible, match="Hardtanh"):
        fit(nn.Sequential(nn.Linear(2, 2), nn.Hardtanh()), data())
    with pytest.raises(ValueError, match="on the device meta"):
        fit(nn.Linear(2, 2, device="meta"), data())
    with pytest.raises(ValueError, match="no batch_size"):
        fit(network(), DataLoader(TensorDataset(*data(4)), batch_size=None))
    for bad, message in {
        "module": "fit: module must be a torch.nn.Module, got int",
        "optimizer": "fit: optimizer must be a torch.optim.Optimizer, got int",
        "loss": "fit: loss must be a loss of torch.nn or fastcnn.nn, got int",
    }.items():
        with pytest.raises(TypeError, match=message):
            fit(**{"module": network(), "train": data(4)} | {bad: 3})
    with pytest.raises(NotConvertible, match="SGD has 4 parameters, but none of the model's 4: it was built for another model"):
        fit(nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(8, 2)), data(4),
            optimizer=torch.optim.SGD(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)).parameters(), 0.1))
    with pytest.raises(TypeError, match="must give"):
        fit(network(), DataLoader(TensorDataset(data(4)[0]), 2), progress=False)


# --- explain ------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("training", [True, False])
def test_explain_measures_and_recommends(training):
    model, x = network().train(training), data(16)[0]
    before = copy.deepcopy(model.state_dict())
    found = explain(model, x, seconds=0)
    assert list(found.times) == ["PyTorch", "PyTorch (channels_last)", "swap_", "swap_ (channels_last)", "from_torch"]
    assert found.turns >= 3 and all(0 < low <= median for low, median in found.times.values())
    assert found.recommendation in str(found) and found.recommendation and found.reason is None
    assert ("backward" in found.what) == training
    assert found.speedup("swap_") == pytest.approx(found.plain / min(found.times["swap_"][0], found.times["swap_ (channels_last)"][0]))
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert [type(part) for part in model.modules()] == [type(part) for part in network().modules()] and all(p.grad is None for p in model.parameters())


def test_an_explanation_says_that_the_machine_was_busy():
    calm = Explanation("forward", 2, 3, {"PyTorch": (2.0, 2.1), "swap_": (1.0, 1.1)}, "swap", None)
    busy = Explanation("forward", 2, 3, {"PyTorch": (2.0, 5.1), "swap_": (1.0, 1.1)}, "swap", None)
    assert "busy" in str(busy) and "busy" not in str(calm) and calm.speedup("swap_") == 2 and "2.00x" in str(calm)


def test_explain_says_what_cannot_be():
    x = data(4)[0]
    found = explain(nn.Sequential(nn.Conv2d(1, 2, 3), nn.Hardtanh()), x, seconds=0)
    assert "from_torch" not in found.times and "Hardtanh" in found.reason and "Hardtanh" in str(found)
    found = explain(nn.Conv2d(1, 2, 3).bfloat16(), x.bfloat16(), seconds=0)
    assert all(name.startswith("PyTorch") for name in found.times) and "stay with PyTorch" in str(found)
    assert list(explain(swap_(network()), x, seconds=0).times)[0] == "PyTorch"
    with pytest.raises(TypeError, match="input must be a torch.Tensor"):
        explain(network(), x.numpy())
    with pytest.raises(TypeError, match="model must be a torch.nn.Module"):
        explain(from_torch(network()), x)


def test_the_bench_command_compares_all_ways(capsys, monkeypatch):
    from bench.__main__ import main
    from bench.contest import Contest
    from bench.worker import Server

    monkeypatch.setattr(Contest, "start", Server)
    assert main(["bridge", "simple-cifar10", "--short", "--repeats", "1", "--batch", "4"]) == 0
    text = capsys.readouterr().out
    for name in ("torch nchw", "torch channels_last", "use() nchw", "swap_ nchw", "swap_ channels_last", "converted", "the recipe itself"):
        assert name in text
    assert "wrong" not in text
