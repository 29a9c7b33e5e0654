"""from_torch and to_torch: every layer, whole networks, forwards that somebody wrote; the same numbers on both sides, and refusals that say why."""

import copy
import subprocess
import sys

import numpy as np
import pytest
from nn_cases import LAYERS
from tree import ROOT, needs_tree

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
import torch.nn.functional as F  # noqa: E402

import fastcnn  # noqa: E402
from fastcnn import nn, recipes  # noqa: E402
from fastcnn.torch import NotConvertible, from_torch, to_torch  # noqa: E402
from fastcnn.torch.convert import optimizer_from_torch  # noqa: E402


def same_step(theirs, ours, x, tolerance=1e-9):
    """Output, gradient of the input and of every parameter, and statistics after one forward and backward."""
    tensor = torch.from_numpy(x).requires_grad_()
    expected = theirs(tensor * 1)  # not the leaf itself: some work in place
    grad = np.random.default_rng(5).standard_normal(expected.shape)
    expected.backward(torch.from_numpy(grad))
    output = ours(x)
    grad_input = ours.backward(grad)
    scale = max(1.0, float(expected.detach().abs().max()))
    np.testing.assert_allclose(output, expected.detach().numpy(), rtol=0, atol=tolerance * scale)
    np.testing.assert_allclose(grad_input, tensor.grad.numpy(), rtol=0, atol=tolerance * max(1.0, float(tensor.grad.abs().max())))
    return [None if p.grad is None else p.grad.numpy() for p in theirs.parameters()]


@pytest.mark.parametrize("case", LAYERS)
def test_every_layer_goes_there_and_back(case):
    name, args, kwargs, shape = LAYERS[case]
    torch.manual_seed(0)
    theirs = getattr(torch.nn, name)(*args, **kwargs).double()
    ours = from_torch(theirs)
    assert type(ours) is getattr(nn, name)
    x = np.random.default_rng(0).standard_normal(shape)
    before = {key: value.copy() for key, value in ours.state_dict().items()}
    back = to_torch(ours)
    assert type(back) is type(theirs) and repr(back) == repr(theirs)
    assert all(np.array_equal(before[key], value.numpy()) for key, value in back.state_dict().items())
    for ours_, theirs_ in zip(ours.parameters(), same_step(theirs, ours, x), strict=True):
        np.testing.assert_allclose(ours_.grad, theirs_, rtol=1e-9, atol=1e-9)
    for ours_, theirs_ in zip(ours.buffers(), theirs.buffers(), strict=True):
        np.testing.assert_allclose(ours_, theirs_.numpy(), rtol=1e-12)


@pytest.mark.parametrize("name", [name for name in recipes.names() if name != "wide-256"])
def test_the_recipes_networks_come_back_as_they_were(name):
    model = recipes.get(name).model(rng=0)
    theirs = to_torch(model)
    again = from_torch(theirs)
    assert repr(again) == repr(model)
    assert list(again.state_dict()) == list(model.state_dict()) == list(theirs.state_dict())
    assert [p.requires_grad for p in again.parameters()] == [p.requires_grad for p in model.parameters()]
    x = np.random.default_rng(0).standard_normal((2, *recipes.get(name).input_shape), dtype=np.float32)
    again.eval(), theirs.eval()
    np.testing.assert_allclose(again(x), theirs(torch.from_numpy(x)).detach().numpy(), rtol=1e-4, atol=1e-4)


def test_containers_without_a_name_in_torch():
    model = nn.Sequential(
        nn.Residual(nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.ReLU()), nn.Conv2d(3, 3, 1)),
        nn.Concat(nn.Identity(), nn.Conv2d(3, 2, 1), dim=1),
        nn.Residual(nn.BatchNorm2d(5)),
    ).to(np.float64)
    theirs = to_torch(model)
    assert list(theirs.state_dict()) == list(model.state_dict())
    same_step(theirs, model, np.random.default_rng(0).standard_normal((2, 3, 5, 5)))
    again = from_torch(theirs)
    assert repr(again) == repr(model) and list(again.state_dict()) == list(model.state_dict())


def test_weights_are_copied_or_shared():
    module = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.BatchNorm2d(2))
    copied, shared = from_torch(module), from_torch(module, share=True)
    with torch.no_grad():
        module[0].weight.fill_(3)
    assert shared[0].weight.data.min() == 3 and copied[0].weight.data.max() < 3
    shared(np.ones((2, 1, 4, 4), np.float32))
    assert module[1].num_batches_tracked == 1 and module[1].running_mean.abs().sum() > 0
    back = to_torch(shared, share=True)
    with torch.no_grad():
        back[0].weight.fill_(5)
    assert module[0].weight.min() == 5


def test_training_a_shared_model_trains_the_module():
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3, bias=False), torch.nn.BatchNorm2d(4), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(144, 10))
    reference = copy.deepcopy(module)
    x, y = fastcnn.datasets.digits().train.images[:32], fastcnn.datasets.digits().train.labels[:32]
    x = np.ascontiguousarray(x, np.float32).reshape(32, 1, 8, 8) / 255
    fast = from_torch(module, share=True)
    trainer = fastcnn.Trainer(fast, nn.CrossEntropyLoss(), fastcnn.optim.Adam(fast.parameters(), lr=1e-2))
    optimizer = torch.optim.Adam(reference.parameters(), lr=1e-2)
    for _ in range(5):
        ours = trainer.step(x, y)
        optimizer.zero_grad()
        theirs = F.cross_entropy(reference(torch.from_numpy(x)), torch.from_numpy(np.asarray(y, np.int64)))
        theirs.backward()
        optimizer.step()
        assert ours == pytest.approx(theirs.item(), rel=1e-3)
    for key, value in reference.state_dict().items():
        torch.testing.assert_close(module.state_dict()[key], value, rtol=1e-2, atol=2e-3)


def test_like_writes_into_the_module_that_is_there():
    torch.manual_seed(0)
    module = ResNet().double()
    optimizer = torch.optim.SGD(module.parameters(), lr=1.0)
    model = from_torch(module)
    for parameter in model.parameters():
        parameter.data += 1
    before = {key: value.clone() for key, value in module.state_dict().items()}
    addresses = [p.data_ptr() for p in module.parameters()]
    assert to_torch(model, like=module) is module
    assert [p.data_ptr() for p in module.parameters()] == addresses
    assert all(torch.allclose(module.state_dict()[key], before[key] + 1) for key, _ in module.named_parameters())
    assert optimizer.param_groups[0]["params"][0] is next(module.parameters())
    module.head = torch.nn.Linear(8, 3).double()
    with pytest.raises(ValueError, match="head.weight"):
        to_torch(model, like=module)
    with pytest.raises(ValueError, match="share"):
        to_torch(model, like=module, share=True)


def test_random_generators_are_left_alone():
    state = torch.get_rng_state()
    ours = fastcnn.random.default_rng().bit_generator.state
    to_torch(from_torch(to_torch(recipes.get("lenet").model(rng=0))))
    assert torch.equal(torch.get_rng_state(), state) and fastcnn.random.default_rng().bit_generator.state == ours


def test_losses():
    weight = torch.tensor([1.0, 2.0, 3.0])
    loss = from_torch(torch.nn.CrossEntropyLoss(weight, label_smoothing=0.1, ignore_index=1))
    logits, target = np.random.default_rng(0).standard_normal((5, 3), dtype=np.float32), np.array([0, 1, 2, 0, 2])
    expected = torch.nn.CrossEntropyLoss(weight, label_smoothing=0.1, ignore_index=1)(torch.from_numpy(logits), torch.from_numpy(target))
    assert loss(logits, target) == pytest.approx(expected.item(), rel=1e-5)
    assert repr(to_torch(loss)) == "CrossEntropyLoss()" and to_torch(loss).label_smoothing == 0.1


@pytest.mark.parametrize(
    "make",
    [
        lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True, weight_decay=1e-3),
        lambda p: torch.optim.Adam(p, lr=torch.tensor(0.01, dtype=torch.float64), betas=(0.8, 0.99), amsgrad=True),
        lambda p: torch.optim.AdamW(p),
        lambda p: torch.optim.RMSprop(p, centered=True, momentum=0.5),
        lambda p: torch.optim.Adagrad(p, lr_decay=0.1),
    ],
)
def test_optimizers(make):
    torch.manual_seed(0)
    module = torch.nn.Linear(4, 3).double()
    shared = from_torch(copy.deepcopy(module))
    theirs = make(module.parameters())
    sources = {id(own.data): tensor for own, tensor in zip(shared.parameters(), module.parameters(), strict=True)}
    ours = optimizer_from_torch(theirs, list(shared.parameters()), sources)
    for step in range(3):
        for own, tensor in zip(shared.parameters(), module.parameters(), strict=True):
            tensor.grad = torch.full_like(tensor, 0.1 * (step + 1))
            own.grad = tensor.grad.numpy().copy()
        ours.step(), theirs.step()
    for own, tensor in zip(shared.parameters(), module.parameters(), strict=True):
        np.testing.assert_allclose(own.data, tensor.detach().numpy(), rtol=1e-9)
    with pytest.raises(NotConvertible, match="steps already"):
        optimizer_from_torch(theirs, list(shared.parameters()), sources)


def test_optimizers_that_cannot_be_had():
    module = torch.nn.Linear(4, 3)
    groups = [{"params": [module.weight], "lr": 0.1}, {"params": [module.bias], "lr": 0.2}]
    with pytest.raises(NotConvertible, match="2 parameter groups"):
        optimizer_from_torch(torch.optim.SGD(groups), [], {})
    with pytest.raises(NotConvertible, match="LBFGS"):
        optimizer_from_torch(torch.optim.LBFGS(module.parameters()), [], {})


# --- forwards that somebody wrote ---------------------------------------------------------------------------------------------------


class Block(torch.nn.Module):
    """ResNet's basic block, as it is written everywhere."""

    def __init__(self, channels, filters, stride=1):
        super().__init__()
        self.conv1 = torch.nn.Conv2d(channels, filters, 3, stride, 1, bias=False)
        self.bn1, self.bn2 = torch.nn.BatchNorm2d(filters), torch.nn.BatchNorm2d(filters)
        self.relu = torch.nn.ReLU(inplace=True)
        self.conv2 = torch.nn.Conv2d(filters, filters, 3, 1, 1, bias=False)
        self.downsample = None
        if stride != 1 or channels != filters:
            self.downsample = torch.nn.Sequential(torch.nn.Conv2d(channels, filters, 1, stride, bias=False), torch.nn.BatchNorm2d(filters))

    def forward(self, x):
        identity = x
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        if self.downsample is not None:
            identity = self.downsample(x)
        out += identity
        return self.relu(out)


class ResNet(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = torch.nn.Conv2d(3, 4, 3, padding=1)
        self.layer1 = torch.nn.Sequential(Block(4, 4), Block(4, 8, 2))
        self.pool = torch.nn.AdaptiveAvgPool2d(1)
        self.head = torch.nn.Linear(8, 5)

    def forward(self, x):
        x = self.layer1(F.relu(self.stem(x)))
        x = torch.flatten(self.pool(x), 1)
        return self.head(x)


class Functional(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = torch.nn.Conv2d(3, 6, 5), torch.nn.Conv2d(6, 8, 3, padding=1)
        self.drop = 0.0
        self.fc1, self.fc2 = torch.nn.Linear(8 * 2 * 2, 12), torch.nn.Linear(12, 4)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.conv1(x)), (2, 2))
        x = F.avg_pool2d(torch.tanh(self.conv2(x)), kernel_size=2, ceil_mode=False)
        x = F.dropout(x.view(x.size(0), -1), self.drop, self.training)
        x = self.fc1(x).relu()
        return F.log_softmax(self.fc2(x), dim=1)


class Inception(torch.nn.Module):
    """Branches side by side, one of them with a sum of its own."""

    def __init__(self):
        super().__init__()
        self.a, self.b1, self.b2 = torch.nn.Conv2d(3, 2, 1), torch.nn.Conv2d(3, 3, 1), torch.nn.Conv2d(3, 3, 3, padding=1)
        self.fc = torch.nn.Linear(8 * 16, 2)

    def forward(self, x):
        b = F.relu(self.b1(x))
        x = torch.cat((self.a(x), self.b2(b) + b, F.max_pool2d(x, 3, stride=1, padding=1)), dim=1)
        return self.fc(x.reshape(-1, 8 * 16))


class Means(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = torch.nn.ModuleList([torch.nn.Conv2d(3, 4, 3), torch.nn.Conv2d(4, 4, 1)])

    def forward(self, x):
        for layer in self.layers:
            x = F.leaky_relu(layer(x), 0.2)
        return x.mean([2, 3])


class Mixed(torch.nn.Module):
    """Two inputs to one sum that do not come from one block; a shared layer."""

    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, x):
        return self.conv(F.relu(self.conv(x))) + x + F.sigmoid(x)


@pytest.mark.parametrize(("make", "size"), [(ResNet, 8), (Functional, 12), (Inception, 4), (Means, 6), (Mixed, 5), (lambda: Block(3, 3), 6)])
def test_a_forward_is_followed(make, size):
    torch.manual_seed(0)
    theirs = make().double()
    ours = from_torch(theirs)
    assert ours.training and type(ours) is nn.Sequential
    x = np.random.default_rng(0).standard_normal((3, 3, size, size))
    grads = same_step(theirs, ours, x)
    by_size = sorted(grads, key=lambda g: (g.size, g.sum()))
    own = sorted((p.grad for p in ours.parameters()), key=lambda g: (g.size, g.sum()))
    assert len(own) == len(by_size)
    for a, b in zip(own, by_size, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-8, atol=1e-9)
    theirs.eval(), ours.eval()
    np.testing.assert_allclose(ours(x), theirs(torch.from_numpy(x)).detach().numpy(), rtol=1e-9, atol=1e-9)


def test_resnet_blocks_become_residuals_that_the_plan_knows():
    ours = from_torch(ResNet())
    block = ours.layer1[1]
    assert [type(layer).__name__ for layer in block] == ["Residual", "ReLU"]
    assert [type(layer).__name__ for layer in block[0].body] == ["Conv2d", "BatchNorm2d", "ReLU", "Conv2d", "BatchNorm2d"]
    assert [type(layer).__name__ for layer in block[0].shortcut] == ["Conv2d", "BatchNorm2d"]
    assert "Residual" in str(ours.plan((4, 3, 8, 8)))


def module_with(forward, **children):
    kind = type("Written", (torch.nn.Module,), {"forward": forward})
    module = kind()
    for name, child in children.items():
        setattr(module, name, child)
    return module


CONV, RELU = torch.nn.Conv2d(3, 3, 1), torch.nn.ReLU(inplace=True)
REFUSED = {
    "no such layer": (torch.nn.Sequential(torch.nn.Hardtanh()), "0 (Hardtanh): fastcnn.nn has no Hardtanh"),
    "deeper": (torch.nn.Sequential(torch.nn.Sequential(torch.nn.Dropout2d())), "0.0 (Dropout2d)"),
    "half": (torch.nn.Conv2d(1, 1, 1).half(), "weight is torch.float16"),
    "meta": (torch.nn.Conv2d(1, 1, 1, device="meta"), "no memory"),
    "lazy": (torch.nn.LazyConv2d(1, 1), "LazyConv2d"),
    "products": (module_with(lambda self, x: x * x), "mul"),
    "numbers decide": (module_with(lambda self, x: x if x.sum() > 0 else -x), "cannot be followed"),
    "two inputs": (module_with(lambda self, x, y: x + y), "2 arguments"),
    "two outputs": (module_with(lambda self, x: (x, x)), "returns a tuple"),
    "dense": (module_with(lambda self, x: torch.cat([x, (a := self.c(x)), self.d(torch.cat([x, a], 1))], 1), c=CONV, d=torch.nn.Conv2d(6, 3, 1)), "no chain"),
    "weights by hand": (module_with(lambda self, x: F.conv2d(x, self.w), w=torch.nn.Parameter(torch.ones(1, 3, 1, 1))), "conv2d"),
    "always drops": (module_with(lambda self, x: F.dropout(x)), "drops in evaluation too"),
    "modes differ": (module_with(lambda self, x: F.relu(x) if self.training else x), "one thing in training"),
    "sum with a number": (module_with(lambda self, x: self.c(x) + 1, c=CONV), "no sum of two values"),
    "scaled sum": (module_with(lambda self, x: torch.add(x, self.c(x), alpha=2), c=CONV), "no sum of two values"),
    "in place, seen elsewhere": (module_with(lambda self, x: self.c(self.r(x)) + x, c=CONV, r=RELU), "in place"),
    "view of the batch": (module_with(lambda self, x: x.view(-1, 3)), "not the flattening"),
    "other mean": (module_with(lambda self, x: x.mean(1)), "no mean over the pixels"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refusals_name_module_and_reason(case):
    module, reason = REFUSED[case]
    with pytest.raises(NotConvertible, match="^from_torch: ") as error:
        from_torch(module)
    assert reason in str(error.value)


def test_hooks_are_refused_and_types_are_checked():
    module = torch.nn.Sequential(torch.nn.Conv2d(1, 1, 1))
    module[0].register_forward_hook(lambda *_: None)
    with pytest.raises(NotConvertible, match="has hooks"):
        from_torch(module)
    with pytest.raises(TypeError, match="must be a torch.nn.Module, got Conv2d"):
        from_torch(nn.Conv2d(1, 1, 1))
    with pytest.raises(TypeError, match="must be a fastcnn.nn.Module, got Conv2d"):
        to_torch(torch.nn.Conv2d(1, 1, 1))
    with pytest.raises(NotConvertible, match="VanillaDropout"):
        to_torch(nn.Sequential(nn.VanillaDropout()))


def test_modes_frozen_parameters_and_layouts():
    module = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4)).to(memory_format=torch.channels_last)
    module[1].eval()
    module[0].weight.requires_grad_(False)
    ours = from_torch(module)
    assert ours.training and not ours[1].training and not ours[0].weight.requires_grad and ours[0].weight.data.flags.c_contiguous
    back = to_torch(ours)
    assert back.training and not back[1].training and not back[0].weight.requires_grad


def test_names_that_our_containers_use_themselves():
    module = torch.nn.Sequential()
    for name, layer in (("plan", torch.nn.Conv2d(1, 2, 1)), ("insert", torch.nn.ReLU()), ("2", torch.nn.Conv2d(2, 1, 1))):
        module._modules[name] = layer
    ours = from_torch(module)
    assert [name for name, _ in ours.named_children()] == ["plan_", "insert", "2"] or len(ours) == 3
    x = np.ones((1, 1, 2, 2), np.float32)
    np.testing.assert_allclose(ours(x), module(torch.from_numpy(x)).detach().numpy(), rtol=1e-6)


# --- the package around it ----------------------------------------------------------------------------------------------------------


def test_the_package_never_imports_pytorch_by_itself():
    code = "import sys, fastcnn, fastcnn.cli, fastcnn.recipes, fastcnn.train; fastcnn.__dir__(); print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip() == "False"


def test_without_pytorch_the_error_says_what_to_install():
    code = "import sys; sys.modules['torch'] = None; import fastcnn\ntry: fastcnn.torch\nexcept ImportError as e: print(e)"
    said = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert "fastcnn.torch needs PyTorch" in said and "fastcnn[torch]" in said


@needs_tree
def test_the_name_torch_stays_pytorchs():
    code = "import fastcnn.torch, torch; assert torch.nn.Module and 'fastcnn' not in torch.__file__; from fastcnn import *; print(torch.tensor(3).item())"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip() == "3"
    inside = subprocess.run([sys.executable, "-c", "import torch"], cwd=ROOT / "fastcnn", capture_output=True, text=True)
    assert inside.returncode and "the folder `fastcnn` itself is on sys.path" in inside.stderr
