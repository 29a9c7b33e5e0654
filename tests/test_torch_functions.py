"""fastcnn under torch.nn.functional's names: values, gradients and their gradients are PyTorch's, memory is shared, the rest goes to PyTorch."""

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
import torch.nn.functional as F  # noqa: E402

from fastcnn.torch import functions, mode, off, use  # noqa: E402
from fastcnn.torch.tensors import array, refusal, tensor  # noqa: E402

CL = torch.channels_last


def rand(*shape, dtype=torch.float64, grad=True, seed=0):
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed)).requires_grad_(grad)


# name: (function, the shapes of its tensors, options)
CASES = {
    "conv2d": ("conv2d", [(2, 3, 6, 5), (4, 3, 3, 3), (4,)], {}),
    "conv2d_no_bias": ("conv2d", [(2, 3, 6, 5), (4, 3, 3, 3)], {"padding": 1}),
    "conv2d_stride": ("conv2d", [(1, 2, 7, 6), (3, 2, 3, 2), (3,)], {"stride": (2, 1), "padding": (1, 0), "dilation": (1, 2)}),
    "conv2d_lists": ("conv2d", [(1, 2, 7, 6), (3, 2, 3, 2), (3,)], {"stride": [2, 1], "padding": [1, 0], "dilation": [1, 2]}),
    "conv2d_groups": ("conv2d", [(2, 4, 5, 5), (6, 2, 3, 3), (6,)], {"groups": 2, "padding": 1}),
    "conv2d_same": ("conv2d", [(2, 2, 5, 6), (3, 2, 3, 3), (3,)], {"padding": "same"}),
    "conv2d_same_even": ("conv2d", [(2, 2, 5, 6), (3, 2, 2, 4), (3,)], {"padding": "same"}),
    "conv2d_unbatched": ("conv2d", [(2, 5, 6), (3, 2, 3, 3), (3,)], {"padding": "valid"}),
    "max_pool2d": ("max_pool2d", [(2, 3, 6, 5)], {"kernel_size": 2}),
    "max_pool2d_options": ("max_pool2d", [(2, 3, 7, 6)], {"kernel_size": (3, 2), "stride": 2, "padding": 1, "ceil_mode": True}),
    "max_pool2d_dilated": ("max_pool2d", [(2, 3, 7, 6)], {"kernel_size": 2, "stride": [1, 2], "dilation": 2}),
    "max_pool2d_unbatched": ("max_pool2d", [(3, 6, 5)], {"kernel_size": 2}),
    "avg_pool2d": ("avg_pool2d", [(2, 3, 6, 5)], {"kernel_size": 2}),
    "avg_pool2d_options": ("avg_pool2d", [(2, 3, 7, 6)], {"kernel_size": 3, "stride": 2, "padding": 1, "ceil_mode": True, "count_include_pad": False}),
    "avg_pool2d_divisor": ("avg_pool2d", [(2, 3, 7, 6)], {"kernel_size": [3, 2], "divisor_override": 5}),
    "unfold": ("unfold", [(2, 3, 6, 5)], {"kernel_size": (3, 2), "dilation": (1, 2), "padding": 1, "stride": 2}),
}


def operands(case, **options):
    name, shapes, keywords = CASES[case]
    return getattr(functions, name), getattr(F, name), [rand(*shape, seed=i, **options) for i, shape in enumerate(shapes)], keywords


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "strided"])
def test_values_and_gradients_are_pytorchs(case, dtype, layout):
    ours, theirs, tensors, keywords = operands(case, dtype=dtype)
    if layout != "contiguous" and tensors[0].dim() != 4:
        pytest.skip("only batches of images have other layouts")
    with torch.no_grad():
        if layout == "channels_last":
            tensors[0].data = tensors[0].data.contiguous(memory_format=CL)
        elif layout == "strided":
            tensors[0].data = tensors[0].data.repeat(1, 1, 1, 2)[..., ::2]
    results = []
    for function in (ours, theirs):
        output = function(*tensors, **keywords)
        grad = rand(*output.shape, dtype=dtype, grad=False, seed=9)
        results.append((output, *torch.autograd.grad(output, tensors, grad)))
    tolerance = {"rtol": 1e-4, "atol": 1e-5} if dtype is torch.float32 else {"rtol": 1e-9, "atol": 1e-10}
    for ours_, theirs_ in zip(*results, strict=True):
        assert ours_.dtype is dtype
        torch.testing.assert_close(ours_, theirs_, **tolerance)
    if layout == "channels_last" and case.startswith("conv2d"):
        assert results[0][0].is_contiguous(memory_format=CL) and results[0][1].is_contiguous(memory_format=CL)


@pytest.mark.parametrize("case", CASES)
def test_gradcheck(case):
    ours, _, tensors, keywords = operands(case)
    assert type(ours(*tensors, **keywords).grad_fn).__module__ != "torch"
    assert torch.autograd.gradcheck(lambda *t: ours(*t, **keywords), tensors)
    assert torch.autograd.gradgradcheck(lambda *t: ours(*t, **keywords), tensors)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("affine", [True, False])
def test_batch_norm(training, affine):
    x = rand(4, 3, 5, 4)
    affines = [rand(3, seed=1), rand(3, seed=2)] if affine else [None, None]
    tensors = [x, *(t for t in affines if t is not None)]
    results, running = [], []
    for function in (functions.batch_norm, F.batch_norm):
        statistics = [torch.full((3,), 0.5, dtype=torch.float64), torch.full((3,), 2.0, dtype=torch.float64)]
        output = function(x, *statistics, *affines, training, 0.3, 1e-3)
        running.append(statistics)
        results.append((output, *torch.autograd.grad(output, tensors, rand(*output.shape, grad=False, seed=9))))
    for ours, theirs in zip((*results[0], *running[0]), (*results[1], *running[1]), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-10)

    def normalised(x, *affines):
        weight, bias = affines or (None, None)
        return functions.batch_norm(x, torch.zeros(3, dtype=torch.float64), torch.ones(3, dtype=torch.float64), weight, bias, training, 0.1)

    assert torch.autograd.gradcheck(normalised, tensors)
    assert torch.autograd.gradgradcheck(normalised, tensors)


def test_batch_norm_tells_autograd_that_it_wrote_to_the_running_statistics():
    mean, var = torch.zeros(3), torch.ones(3)
    before = mean._version
    functions.batch_norm(torch.randn(4, 3, 2, 2), mean, var, training=True)
    assert mean._version > before and mean.abs().sum() > 0


def test_memory_is_shared_both_ways():
    x = torch.randn(2, 3, 4, 5, requires_grad=True)
    for value in (x, x.detach().contiguous(memory_format=CL), x.detach()[:, ::2, :, 1:]):
        view = array(value)
        assert view.__array_interface__["data"][0] == value.data_ptr()
        assert tensor(view).data_ptr() == value.data_ptr() and tensor(view).stride() == value.stride()


def test_only_the_gradients_that_are_needed_are_computed(monkeypatch):
    masks = []
    real = functions.ours.conv2d_backward
    monkeypatch.setattr(functions.ours, "conv2d_backward", lambda *a, **k: masks.append(k["output_mask"]) or real(*a, **k))
    for needed in ((True, False, True), (False, True, False), (False, False, True)):
        tensors = [rand(*shape, grad=need) for shape, need in zip([(2, 3, 5, 5), (4, 3, 3, 3), (4,)], needed, strict=True)]
        functions.conv2d(*tensors).sum().backward()
        assert masks.pop() == needed
        assert [t.grad is not None for t in tensors] == list(needed)


def test_without_grad_nothing_is_recorded():
    x, w = rand(2, 3, 5, 5), rand(4, 3, 3, 3)
    with torch.no_grad():
        assert functions.conv2d(x, w).grad_fn is None and functions.max_pool2d(x, 2).grad_fn is None
    with torch.inference_mode():
        assert functions.conv2d(x, w).is_inference()


def test_gradients_of_any_strides_arrive():
    x, w = rand(2, 3, 5, 5), rand(4, 3, 3, 3)
    functions.conv2d(x, w).sum().backward()  # a gradient with strides (0, 0, 0, 0)
    expected = torch.autograd.grad(F.conv2d(x, w).sum(), (x, w))
    torch.testing.assert_close((x.grad, w.grad), expected)


def test_a_tensor_that_changed_before_backward_is_noticed():
    x, w = rand(1, 1, 4, 4), rand(1, 1, 3, 3)
    output = functions.conv2d(x, w)
    with torch.no_grad():
        w.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        output.sum().backward()


def test_input_as_its_own_kernel():
    x = rand(1, 1, 3, 3)
    y = rand(1, 1, 3, 3)
    assert torch.autograd.gradcheck(lambda x: functions.conv2d(x, x, padding=1), x)
    assert torch.autograd.gradgradcheck(lambda x: functions.conv2d(x, x, padding=1), x)
    assert torch.autograd.gradcheck(lambda x, y: functions.conv2d(x * y, y), (x, y))


def test_batched_gradients_of_autograd():
    x, w = rand(1, 2, 4, 4, grad=False), rand(2, 2, 3, 3, grad=False)
    ours, theirs = (torch.autograd.functional.jacobian(lambda w, f=f: f(x, w), w, vectorize=True) for f in (functions.conv2d, F.conv2d))
    torch.testing.assert_close(ours, theirs)


def test_size_zero_batches():
    x, w = torch.zeros(0, 3, 5, 5, requires_grad=True), torch.zeros(4, 3, 3, 3, requires_grad=True)
    functions.conv2d(x, w).sum().backward()
    assert x.grad.shape == x.shape and not w.grad.any()


@pytest.mark.parametrize(
    "make",
    [
        lambda: torch.randn(2, 3, 6, 6).half(),
        lambda: torch.randn(2, 3, 6, 6).bfloat16(),
        lambda: torch.randn(2, 3, 6, 6, dtype=torch.complex64),
        lambda: torch.randn(2, 3, 6, 6, device="meta"),
        lambda: torch.randn(2, 3, 6, 6, dtype=torch.complex64).conj().imag,  # a negative view
    ],
    ids=["half", "bfloat16", "complex", "meta", "negative"],
)
def test_other_tensors_go_to_pytorch(make):
    x = make()
    w = torch.randn(4, 3, 3, 3).to(x.dtype).to(x.device)
    assert refusal(x) is not None
    torch.testing.assert_close(functions.conv2d(x, w), F.conv2d(x, w), equal_nan=True)


def test_subclasses_autocast_and_transforms_go_to_pytorch():
    class Mine(torch.Tensor):
        pass

    x, w = torch.randn(2, 3, 6, 6), torch.randn(4, 3, 3, 3)
    assert type(functions.conv2d(x.as_subclass(Mine), w)) is Mine
    with torch.autocast("cpu", torch.bfloat16):
        assert functions.conv2d(x, w).dtype is torch.bfloat16
    batched = torch.func.vmap(lambda x: functions.conv2d(x[None], w)[0])(x)
    torch.testing.assert_close(batched, F.conv2d(x, w))
    gradient = torch.func.grad(lambda w: functions.conv2d(x, w).square().sum())(w)
    torch.testing.assert_close(gradient, torch.func.grad(lambda w: F.conv2d(x, w).square().sum())(w))
    _, tangent = torch.func.jvp(lambda x: functions.conv2d(x, w), (x,), (torch.ones_like(x),))
    torch.testing.assert_close(tangent, F.conv2d(torch.ones_like(x), w))
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(x, torch.ones_like(x))
        torch.testing.assert_close(torch.autograd.forward_ad.unpack_dual(functions.conv2d(dual, w)).tangent, F.conv2d(torch.ones_like(x), w))
    traced = torch.jit.trace(lambda x: functions.conv2d(x, w), x)
    assert "convolution" in str(traced.graph)
    with off():
        assert "Conv2d" not in str(functions.conv2d(x, w.requires_grad_()).grad_fn)


def test_errors_are_pytorchs():
    x, w = torch.randn(2, 3, 6, 6), torch.randn(4, 2, 3, 3)
    wrong = {"conv2d": [(x, w), (x, w.double()), (x, None)], "max_pool2d": [(x, 9)], "avg_pool2d": [(x, 0)]}
    for call in (lambda f, name=name, a=a: getattr(f, name)(*a) for name, all_arguments in wrong.items() for a in all_arguments):
        with pytest.raises((RuntimeError, TypeError, ValueError)) as theirs:
            call(F)
        with pytest.raises(theirs.type) as ours:
            call(functions)
        assert str(ours.value)[:60] == str(theirs.value)[:60]


# --- use() --------------------------------------------------------------------------------------------------------------------------


class FreeForm(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = torch.nn.Conv2d(3, 6, 3, padding=1), torch.nn.Conv2d(6, 4, 3)
        self.norm, self.fc = torch.nn.BatchNorm2d(6), torch.nn.Linear(16 + 36 + 27, 5)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.norm(self.conv1(x))), 2)
        x = self.conv2(x)
        return self.fc(torch.cat([F.avg_pool2d(x, 2).flatten(1), F.unfold(x, 2, stride=2).flatten(1)[:, :36], x.flatten(1)[:, :27]], 1))


def test_use_catches_the_functions_and_gives_the_same_numbers(monkeypatch):
    called = []
    for function, replacement in list(mode.TAKEN.items()):
        monkeypatch.setitem(mode.TAKEN, function, lambda *a, f=replacement, **k: called.append(f.__name__) or f(*a, **k))
    torch.manual_seed(0)
    model, x = FreeForm().double(), torch.randn(3, 3, 12, 12, dtype=torch.float64)
    grads = []
    for scope in (use, torch.enable_grad):
        model.zero_grad()
        model.norm.reset_running_stats()
        with scope():
            output = model(x)
        output.square().sum().backward()
        grads.append([output, *(p.grad for p in model.parameters()), *(b.clone() for b in model.buffers())])
    assert set(called) == {"conv2d", "max_pool2d", "avg_pool2d", "unfold", "batch_norm"}
    for ours, theirs in zip(*grads, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_use_leaves_nothing_behind_and_nests():
    x, w = torch.randn(1, 1, 4, 4), torch.randn(1, 1, 3, 3, requires_grad=True)
    with use(), use():
        assert "_Conv2d" in str(F.conv2d(x, w).grad_fn)
        assert isinstance(F.max_pool2d(x, 2, return_indices=True), tuple)
        with off():
            assert "_Conv2d" not in str(F.conv2d(x, w).grad_fn)
    assert "_Conv2d" not in str(F.conv2d(x, w).grad_fn)
    with pytest.raises(ZeroDivisionError), use():
        raise ZeroDivisionError
    assert "_Conv2d" not in str(F.conv2d(x, w).grad_fn)


def test_results_are_writable_and_nobody_elses():
    x, w = torch.randn(2, 3, 6, 6), torch.randn(4, 3, 3, 3)
    before = x.clone()
    outputs = [functions.conv2d(x, w), functions.max_pool2d(x, 1), functions.avg_pool2d(x, 1), functions.unfold(x, 1)]
    for output in outputs:
        output.fill_(7)
    assert torch.equal(x, before) and not np.may_share_memory(array(outputs[0]), array(functions.conv2d(x, w)))
