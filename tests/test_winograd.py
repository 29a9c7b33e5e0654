"""Winograd F(4x4, 3x3) against float64, on every instruction set, memory format and tail; and when it is chosen."""

import gates
import numpy as np
import pytest

import fastcnn
from fastcnn import functional as F

cpu = pytest.importorskip("fastcnn.backends.cpu", reason="the compiled backend is not built")


@pytest.fixture(params=cpu.available_isas(), autouse=True)
def isa(request):
    before, threads = cpu.isa(), cpu.get_num_threads()
    cpu.set_isa(request.param)
    cpu.set_num_threads(2)
    with fastcnn.use_backend("cpu"):
        yield request.param
    cpu.set_isa(before)
    cpu.set_num_threads(threads)


# N, C, H, W, O, padding: full and partial tiles, channels around the vector widths, one image, many small ones, padding up to 2, one row of tiles
CASES = [
    (2, 16, 8, 8, 16, 1), (1, 17, 9, 10, 33, 1), (9, 64, 4, 4, 70, 1), (2, 20, 30, 29, 24, 0), (1, 16, 7, 90, 16, 2),
    (5, 48, 6, 6, 31, 1), (1, 130, 12, 13, 17, 1), (3, 1, 5, 5, 2, 1), (33, 15, 4, 4, 16, 0), (1, 1, 1, 1, 1, 1),
    # many weights, few tiles (_winograd_deep.pyx): small images, large ones in several blocks; the last only for the weight gradient
    (3, 130, 9, 10, 240, 1), (1, 136, 34, 37, 230, 0), (7, 200, 3, 2, 150, 2), (5, 140, 28, 27, 210, 1),
]  # fmt: skip


def channels_last(array):
    return np.ascontiguousarray(array.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)


def with_gaps(array):
    return np.repeat(np.repeat(array, 2, 1), 2, 3)[:, ::2, :, ::2]


@pytest.mark.parametrize("case", CASES, ids=lambda c: "n{}c{}h{}w{}_o{}_p{}".format(*c))
def test_winograd_stays_within_its_error_bound(case, rng):
    N, C, H, W, O, P = case
    x, w, b = (rng.standard_normal(s).astype(np.float32) for s in ((N, C, H, W), (O, C, 3, 3), O))
    options = ((1, 1), ((P, P), (P, P)), (1, 1), 1)
    g = rng.standard_normal((N, O, H + 2 * P - 2, W + 2 * P - 2)).astype(np.float32)
    wanted = gates.expected(x, w, b, g, options)
    for convert in (np.ascontiguousarray, channels_last, with_gaps):
        xf, wf, gf = (convert(a) for a in (x, w, g))
        with fastcnn.use_algorithm("winograd"):
            assert fastcnn.explain("conv2d", xf, wf, b, padding=P).chosen == "winograd_4x4_3x3"
            results = F.conv2d(xf, wf, b, padding=P), *F.conv2d_backward(gf, xf, wf, padding=P)[:2]
        for (op, (result, bound)), actual in zip(wanted.items(), results, strict=True):
            gates.gate(op, "winograd", actual, result, bound)


def test_winograd_takes_an_empty_batch(rng):
    x, w = np.empty((0, 16, 8, 8), np.float32), rng.standard_normal((16, 16, 3, 3)).astype(np.float32)
    with fastcnn.use_algorithm("winograd"):
        y = F.conv2d(x, w, padding=1)
        gi, gw, _ = F.conv2d_backward(y, x, w, padding=1)
    assert y.shape == (0, 16, 8, 8) and gi.shape == x.shape
    np.testing.assert_array_equal(gw, np.zeros_like(w))


def chosen(C, O, H, dtype=np.float32, N=64, **options):
    x, w = np.zeros((N, C, H, H), dtype), np.zeros((O, C // options.get("groups", 1), *options.pop("kernel", (3, 3))), dtype)
    return fastcnn.explain("conv2d", x, w, **options)


def test_auto_chooses_winograd_where_it_pays():
    assert chosen(32, 64, 16, padding=1).chosen == "winograd_4x4_3x3"
    for reason, explanation in {
        "at least 16 input and output channels": chosen(3, 64, 16, padding=1),
        "needs float32, got float64": chosen(32, 64, 16, np.float64, padding=1),
        "needs a 3x3 kernel, stride 1": chosen(32, 64, 16, padding=1, stride=2),
        "too empty for an output of 1x1: 36 products instead of 9": chosen(32, 32, 1, padding=1),
        "needs at least 16 tiles": chosen(32, 32, 8, padding=1, N=1),
    }.items():
        assert explanation.chosen.startswith("direct")
        assert reason in dict(explanation.declined)["winograd_4x4_3x3"]


def test_direct_forbids_winograd_and_is_restored():
    with fastcnn.use_algorithm("direct"):
        explanation = chosen(32, 64, 16, padding=1)
    assert explanation.chosen.startswith("direct")
    assert dict(explanation.declined)["winograd_4x4_3x3"] == "the algorithm is set to 'direct'"
    assert chosen(32, 64, 16, padding=1).chosen == "winograd_4x4_3x3"
