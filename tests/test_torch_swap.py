"""swap_: the model that PyTorch's users have, unchanged in all but speed: numbers, parameters, state_dict, optimizers, hooks, modes, copies and files."""

import copy
import gc
import io
import threading

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
import torch.nn.functional as F  # noqa: E402
from torch import nn  # noqa: E402

import fastcnn  # noqa: E402
from fastcnn.torch import blocks, layers, off, report, share_threads, swap_, unswap_  # noqa: E402

needs_plans = pytest.mark.skipif(fastcnn.available()["cpu"] is not None, reason="plans need the compiled backend")


def network(dtype=torch.float64, seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 20, 3, padding=1), nn.BatchNorm2d(20), nn.LeakyReLU(), nn.MaxPool2d(2),
        nn.Sequential(nn.Conv2d(20, 17, 3, padding=1, bias=False), nn.BatchNorm2d(17, momentum=None), nn.ReLU(inplace=True), nn.AvgPool2d(2)),
        nn.Dropout(0.0), nn.Conv2d(17, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(24, 5),
    ).to(dtype)  # fmt: skip


def narrow(dtype=torch.float64):
    torch.manual_seed(1)
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)).to(dtype)


def images(n=5, dtype=torch.float64, size=16, seed=3):
    return torch.randn(n, 3, size, size, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def close(ours, theirs, tolerance=1e-9):
    torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance, check_stride=False)


def states_close(ours, theirs, tolerance=1e-9):
    ours, theirs = ours.state_dict(), theirs.state_dict()
    assert list(ours) == list(theirs)
    for key in ours:
        close(ours[key], theirs[key], tolerance)


def train(model, x, steps=3, make=lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9)):
    optimizer = make(model.parameters())
    values = []
    for _ in range(steps):
        optimizer.zero_grad()
        value = model(x).square().mean()
        value.backward()
        optimizer.step()
        values.append(value.item())
    return values


def is_run(output):
    return "_RunBackward" in str(output.grad_fn)


class FreeForm(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.pool = nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect"), nn.BatchNorm2d(4), nn.MaxPool2d(2)
        self.avg, self.unfold, self.fc = nn.AvgPool2d(2), nn.Unfold(2, stride=2), nn.Linear(64, 5)

    def forward(self, x):
        return self.fc(self.unfold(self.avg(self.pool(F.relu(self.norm(self.conv(x)))))).flatten(1))


@pytest.mark.parametrize("make", [network, narrow, lambda: FreeForm().double()], ids=["wide", "narrow", "free-form"])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_training_gives_the_same_numbers(make, layout):
    theirs = make().to(memory_format=layout)
    ours = swap_(copy.deepcopy(theirs))
    x = images().contiguous(memory_format=layout)
    if isinstance(theirs, nn.Sequential):
        assert torch.is_grad_enabled() and any(isinstance(item, blocks.Run) for item in blocks.runs(ours))
    expected = train(theirs, x)
    assert train(ours, x) == pytest.approx(expected, rel=1e-9)
    states_close(ours, theirs)
    for model in (ours, theirs):
        model.eval()
    with torch.no_grad():
        close(ours(x), theirs(x))
        close(ours(x[:1]), theirs(x[:1]))


def test_float32_within_rounding():
    theirs = network(torch.float32)
    ours = swap_(copy.deepcopy(theirs))
    x = images(dtype=torch.float32)
    close(ours(x), theirs(x), 1e-4)


def test_only_classes_change():
    model = network()
    parameters, keys, hooks = list(model.parameters()), list(model.state_dict()), []
    model[3].register_forward_hook(lambda *_: hooks.append(1))
    assert swap_(model) is model
    assert all(a is b for a, b in zip(parameters, model.parameters(), strict=True)) and list(model.state_dict()) == keys
    assert isinstance(model[0], nn.Conv2d) and type(model[0]) is layers.FastConv2d and type(model) is layers.FastSequential
    assert "FastConv2d(3, 20" in repr(model) and type(model[9]) is nn.Linear
    swap_(model)
    assert type(model[0]) is layers.FastConv2d
    unswap_(model)
    assert [type(module) for module in model.modules()] == [type(module) for module in network().modules()]


@needs_plans
def test_runs_are_one_operation():
    model, x = swap_(network()), images()
    output = model[:5](x)
    assert type(output.grad_fn).__name__ == "_RunBackward"
    assert [paths for paths in report(model).runs] == [("0", "1", "2", "3", "4.0", "4.1", "4.2", "4.3"), ("6", "7", "8", "9")]


def test_reports():
    class Own(nn.Conv2d):
        pass

    others = Own(4, 4, 1), nn.Conv2d(4, 4, 1).half(), nn.MaxPool2d(2, return_indices=True), nn.ConvTranspose2d(4, 4, 1)
    model = swap_(nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), *others))
    found = report(model)
    reasons = {path: reason for path, _, reason in found.left}
    assert ("0", "Conv2d") in found.swapped
    assert "subclass of Conv2d" in reasons["2"] and "float16" in reasons["3"] and "return_indices" in reasons["4"] and "PyTorch's own" in reasons["5"]
    assert "by PyTorch: 4 modules" in str(found) and "subclass" in str(found)
    assert "not swapped yet" in str(report(network()))


def test_a_model_with_nothing_to_swap_is_said(caplog):
    swap_(nn.Linear(2, 2))
    assert "nothing in Linear can be swapped" in caplog.text
    for op in (swap_, unswap_, report):
        with pytest.raises(TypeError, match="must be a torch.nn.Module, got int"):
            op(3)


def test_copies_and_files():
    model, x = swap_(network()), images()
    model(x)
    copied = copy.deepcopy(model)
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    loaded = torch.load(file, weights_only=False)
    model.eval(), copied.eval(), loaded.eval()
    with torch.no_grad():
        close(copied(x), model(x))
        close(loaded(x), model(x))
        copied[0].weight.zero_()
        assert model[0].weight.abs().sum() > 0
    plain = network(seed=5)
    plain.load_state_dict(model.state_dict())
    swap_(plain)
    plain.load_state_dict(network(seed=6).state_dict(), assign=True)
    close(plain.eval()(x), network(seed=6).eval()(x))


def test_weights_may_change_in_any_way():
    model, x = swap_(network()).eval(), images()
    reference = copy.deepcopy(unswap_(copy.deepcopy(model)))
    for change in (
        lambda m: m[0].weight.data.mul_(2),  # in place, past the version counter
        lambda m: setattr(m[0], "weight", nn.Parameter(m[0].weight.detach() * 3)),
        lambda m: setattr(m[4][1], "eps", 0.5),
        lambda m: m[1].running_var.mul_(2),
        lambda m: setattr(m[3], "stride", 2),
        lambda m: m.append(nn.Linear(5, 2).double().requires_grad_(False)) and m[-1].weight.data.fill_(1) is not None and m[-1].bias.data.fill_(1),
        lambda m: m.__setitem__(7, nn.Sigmoid()),
        lambda m: m.to(torch.float32),
    ):
        change(model), change(reference)
        x = x.to(model[0].weight.dtype)
        with torch.no_grad():
            close(model(x), reference(x), 1e-4 if x.dtype is torch.float32 else 1e-9)
    model.train(), reference.train()
    assert train(model, x) == pytest.approx(train(reference, x), rel=1e-4)


def test_modes():
    """Frozen normalisation, frozen parameters, gradients in evaluation, statistics without gradients."""
    x = images()

    def frozen_norm(model):
        model[1].eval()

    def frozen(model):
        model[0].requires_grad_(False)
        model[4][1].weight.requires_grad_(False)

    for change in (frozen_norm, frozen, lambda model: model.eval()):
        theirs = network()
        ours = swap_(copy.deepcopy(theirs))
        change(theirs), change(ours)
        for model in (theirs, ours):
            model(x).square().sum().backward()
        for own, other in zip(ours.parameters(), theirs.parameters(), strict=True):
            assert (own.grad is None) == (other.grad is None)
            if own.grad is not None:
                close(own.grad, other.grad)
        states_close(ours, theirs)
    theirs, ours = network(), swap_(network())
    with torch.no_grad():
        close(ours(x), theirs(x))
    states_close(ours, theirs)


def test_gradient_of_the_images():
    theirs, ours, x = network(), swap_(network()), images()
    grads = []
    for model in (ours, theirs):
        y = x.clone().requires_grad_()
        (2 * model(y + 0)).sum().backward()
        grads.append(y.grad)
    close(*grads)


def test_gradients_accumulate_and_stay():
    theirs, ours = network(), swap_(network())
    for model in (ours, theirs):
        for seed in range(3):
            model(images(seed=seed)).square().sum().backward()
    for own, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        close(own.grad, other.grad)


def test_two_forwards_before_one_backward():
    """As in siamese networks and GANs: the second one cannot have the memory of the first."""
    theirs, ours = network(), swap_(network())
    for model in (ours, theirs):
        (model(images(seed=1)) * model(images(seed=2))).sum().backward()
    for own, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        close(own.grad, other.grad)
    states_close(ours, theirs)


@needs_plans
def test_a_graph_that_is_dropped_gives_the_memory_back():
    model = swap_(network())
    first = model[:5](images())
    assert type(first.grad_fn).__name__ == "_RunBackward" and type(model[:5](images()).grad_fn).__name__ == "_RunBackward"  # slices are models of their own
    part = model[:5]
    output = part(images())
    assert type(part(images()).grad_fn).__name__ != "_RunBackward"
    del output
    gc.collect()
    assert type(part(images()).grad_fn).__name__ == "_RunBackward"


def test_backward_twice():
    theirs, ours, x = network(), swap_(network()), images()
    for model in (ours, theirs):
        loss = model(x).square().sum()
        loss.backward(retain_graph=True)
        loss.backward()
    for own, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        close(own.grad, other.grad)
    states_close(ours, theirs)
    loss = ours(x).sum()
    loss.backward()
    with pytest.raises(RuntimeError, match="second time"):
        loss.backward()


def test_gradient_penalty():
    """The gradient's own gradient, as WGAN-GP needs it."""
    x, grads = images(), []
    for model in (swap_(network()), network()):
        y = x.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(model(y).sum(), y, create_graph=True)
        gradient.square().sum().backward()
        grads.append([p.grad for p in model.parameters() if p.grad is not None])
    for own, other in zip(*grads, strict=True):
        close(own, other)


def test_gradcheck_through_a_run():
    model, x = swap_(narrow()), images(2, size=6)
    assert torch.autograd.gradcheck(model, x.requires_grad_(), fast_mode=True, nondet_tol=1e-12)  # every further backward is computed by PyTorch


def test_parameters_changed_before_backward_are_noticed():
    model = swap_(network())
    output = model(images()).sum()
    with torch.no_grad():
        model[0].weight.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        output.backward()


def test_hooks_see_every_layer():
    seen = []
    model = swap_(network())
    handles = [module.register_forward_hook(lambda module, *_: seen.append(type(module).__name__)) for module in (model[1], model[4])]
    handles.append(model[4][0].register_full_backward_hook(lambda *_: seen.append("backward")))
    model(images()).sum().backward()
    assert seen == ["FastBatchNorm2d", "FastSequential", "backward"]
    for handle in handles:
        handle.remove()
    model[2].forward = lambda x: seen.append("own forward") or x
    model(images())
    assert seen[-1] == "own forward"


def test_checkpointing():
    from torch.utils.checkpoint import checkpoint

    grads = []
    for model in (swap_(network()), network()):
        for reentrant in (False, True):
            model.zero_grad()
            checkpoint(model, images().requires_grad_(), use_reentrant=reentrant).sum().backward()
            grads.append([p.grad for p in model.parameters()])
    for own, other in zip(grads[0], grads[2], strict=True):
        close(own, other)
    for own, other in zip(grads[1], grads[3], strict=True):
        close(own, other)


def test_parametrizations():
    theirs, ours = network(), swap_(network())
    for model in (theirs, ours):
        nn.utils.parametrizations.weight_norm(model[0])
    close(ours(images()), theirs(images()))
    before = swap_(nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 4, 3)))
    assert isinstance(before, nn.Conv2d) and before(torch.randn(1, 3, 5, 5)).shape == (1, 4, 3, 3)


def test_one_module_at_two_places():
    torch.manual_seed(0)
    conv = nn.Conv2d(3, 3, 3, padding=1).double()
    theirs = nn.Sequential(conv, nn.ReLU(), conv, nn.ReLU())
    ours = swap_(copy.deepcopy(theirs))
    for model in (ours, theirs):
        model(images()).square().sum().backward()
    for own, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        close(own.grad, other.grad)


def test_autocast_and_transforms_go_to_pytorch():
    model, x = swap_(network(torch.float32)), images(dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        assert model(x).dtype is torch.bfloat16
    state = {key: value.detach() for key, value in model.named_parameters()}
    model.eval()
    gradient = torch.func.grad(lambda state: torch.func.functional_call(model, state, (x,)).sum())(state)
    reference = torch.func.grad(lambda state: torch.func.functional_call(unswap_(copy.deepcopy(model)), state, (x,)).sum())(state)
    for key in gradient:
        close(gradient[key], reference[key], 1e-4)
    meta = copy.deepcopy(model).to("meta")
    assert meta(x.to("meta")).shape == (5, 5)
    with off():
        assert not is_run(model.train()(x))


def test_functional_call_with_other_weights():
    """Tensors in the parameters' place are not the run's own."""
    theirs, ours, x = network().eval(), swap_(network()).eval(), images()
    other = {key: value * 2 for key, value in theirs.named_parameters()}
    with torch.no_grad():
        close(torch.func.functional_call(ours, other, (x,)), torch.func.functional_call(theirs, other, (x,)))
        close(ours(x), theirs(x))
    grads = [torch.autograd.grad(torch.func.functional_call(model.train(), other, (x,)).sum(), list(other.values())) for model in (ours, theirs)]
    for own, reference in zip(*grads, strict=True):
        close(own, reference)


def test_errors_come_from_pytorch():
    model = swap_(network())
    for x in (torch.randn(2, 4, 16, 16).double(), torch.randn(2, 3, 16, 16), torch.randn(2, 3).double()):
        with pytest.raises(RuntimeError) as ours:
            model(x)
        with pytest.raises(RuntimeError) as theirs:
            network()(x)
        assert str(ours.value)[:50] == str(theirs.value)[:50]


def test_several_threads_at_once():
    model, x = swap_(network()).eval(), images()
    with torch.no_grad():
        expected = model(x)
    wrong = []

    def work():
        with torch.no_grad():
            for _ in range(20):
                if not torch.allclose(model(x), expected, rtol=1e-9, atol=1e-9):
                    wrong.append(1)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_the_reference_backend_too():
    theirs, ours, x = network(), swap_(network()), images()
    with fastcnn.use_backend("reference"):
        values = train(ours, x, 1)
    assert values == pytest.approx(train(theirs, x, 1), rel=1e-9)


def test_compile_leaves_the_computing_to_pytorch():
    x = images()
    for model in (swap_(network()), swap_(FreeForm().double())):
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = 0.1  # PyTorch cannot compile None
        reference = unswap_(copy.deepcopy(model))
        compiled = torch.compile(model, backend="eager", fullgraph=True)
        close(compiled(x), reference(x))
        compiled(x).sum().backward()
    torch._dynamo.reset()


# --- threads ------------------------------------------------------------------------------------------------------------------------


@needs_plans
def test_threads_are_shared_and_follow_pytorchs_setting():
    from fastcnn.backends.cpu import _runtime

    if not share_threads():
        pytest.skip(f"loops: {_runtime.loops()}; they cannot run on PyTorch's threads here")
    before, own = torch.get_num_threads(), fastcnn.get_num_threads()
    try:
        model, x = swap_(network()).eval(), images(9)
        outputs = []
        for threads in (1, 2, 3, 2):
            torch.set_num_threads(threads)
            with torch.no_grad():
                outputs.append(model(x))
            assert fastcnn.get_num_threads() == threads and _runtime.loops() == "borrowed threads"
        assert all(torch.equal(outputs[0], output) for output in outputs)
        assert not share_threads(False) and _runtime.loops() == "own threads"
        with torch.no_grad():
            assert torch.equal(model(x), outputs[0]) and _runtime.loops() == "own threads"
    finally:
        torch.set_num_threads(before)
        share_threads()
        fastcnn.set_num_threads(own)


@needs_plans
def test_a_forked_child_is_back_on_its_own_threads():
    import os

    if not hasattr(os, "fork") or not share_threads():
        pytest.skip("no fork, or no shared threads")
    x = images(9)
    fastcnn.functional.conv2d(x.numpy(), torch.ones(20, 3, 3, 3, dtype=torch.float64).numpy())
    child = os.fork()
    if not child:  # no assertion may leave this process
        from fastcnn.backends.cpu import _runtime

        right = _runtime.loops() == "own threads"
        fastcnn.functional.conv2d(x.numpy().repeat(8, 0), torch.ones(20, 3, 3, 3, dtype=torch.float64).numpy())
        os._exit(0 if right and _runtime.loops() == "own threads" else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
