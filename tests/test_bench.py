"""The benchmark suite measures what it says: problem lists, operation counts, refusals, tables. No test asserts a time."""

import importlib.util
import json
import math
import os
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import pytest
from tree import ROOT, needs_tree

from bench import (
    below,
    changes,
    checks,
    compare,
    convs,
    data,
    environment,
    full,
    growth,
    html,
    networks,
    ops,
    overhead,
    peers,
    pictures,
    problems,
    readme,
    report,
    rss,
    runs,
    steps,
    timing,
)
from bench.__main__ import main
from bench.contest import Contest
from bench.peers import OPS, Fastcnn, Operands
from bench.problems import Problem, ProblemError, load
from bench.worker import Failed, Prepared, Server, Worker
from fastcnn import backend, datasets, nn, recipes
from fastcnn.backend import use_backend

TINY = "tiny 2 3 5 6 4 3 3 1 1 1 1"


@pytest.fixture
def tiny_list(tmp_path):
    path = tmp_path / "tiny.txt"
    path.write_text(f"# a comment\n\n{TINY}\nsmall 1 4 6 5 6 2 3 2x1 0x1 1x2 2  # another\n")
    return path


@pytest.fixture(autouse=True)
def _quick_and_without_traces(monkeypatch):
    """Processes of their own and sleeping before a turn matter for times only; the number of threads is the process's, and is put back."""
    monkeypatch.setattr(Contest, "start", Server)
    monkeypatch.setattr(timing, "SETTLE", 0.0)
    monkeypatch.setattr(timing, "STRETCH", 0.0)
    torch = sys.modules.get("torch")
    before = backend.get_num_threads(), torch and torch.get_num_threads()
    yield
    if peers.compiled():
        backend.set_num_threads(before[0])
    if torch:
        torch.set_num_threads(before[1])


# Problem lists


COUNTS = {"reports": 29, "odd": 33, "batch1": 18, "resnet50": 23, "vgg19": 9, "mobilenet": 19, "convnet": 5, "deepbench": 30, "onednn": 26, "changes": 14}


@pytest.mark.parametrize(("name", "count"), COUNTS.items())
def test_problem_list_holds_as_many_problems_as_it_has_lines(name, count):
    lines = [line.partition("#")[0].strip() for line in (problems.SHAPES / f"{name}.txt").read_text().splitlines()]
    assert len(problems.load(name)) == sum(map(bool, lines)) == count


@pytest.mark.parametrize("name", ["resnet50", "vgg19", "mobilenet", "convnet", "deepbench", "onednn"])
def test_batches_are_reduced_as_the_list_says(name):
    """Below 4 GFLOP and 128 MB, or a single image."""
    for problem in problems.load(name):
        assert problem.N == 1 or (problem.flops < 4e9 and problem.bytes < 128 * 2**20), problem.name
        assert problem.N & (problem.N - 1) == 0


def test_a_network_needs_the_operations_it_is_known_for():
    """ResNet-50: 4.1 GFLOP of multiply-adds for one picture; in the list the inner blocks stand once."""
    times = {"stage1.first-reduce": 1, "stage1.3x3": 3, "stage1.expand": 4, "stage1.reduce": 2}  # its skip has the shape of an expansion
    for stage, blocks in ((2, 4), (3, 6), (4, 3)):
        inner = dict.fromkeys((f"stage{stage}.reduce", f"stage{stage}.3x3"), blocks - 1)
        times |= inner | {f"stage{stage}.first-reduce": 1, f"stage{stage}.first-3x3": 1, f"stage{stage}.skip": 1, f"stage{stage}.expand": blocks}
    macs = {p.name: p.flops / p.N / 2 for p in problems.load("resnet50")}
    assert sum(count * macs[name] for name, count in times.items()) + macs["conv1"] == pytest.approx(4.1e9, rel=0.01)
    assert sum(p.flops / p.N / 2 for p in problems.load("mobilenet")) < 569e6, "one of five equal blocks"


def test_every_problem_list_can_be_loaded():
    for name in problems.names():
        assert problems.load(name), name


@pytest.mark.parametrize(
    ("name", "output_shape"),
    [
        ("lenet-mnist.c5", (64, 120, 1, 1)),
        ("filterbank-mnist.bank", (64, 36, 12, 12)),
        ("twoconv-cifar10.conv2", (64, 10, 24, 24)),
        ("deep-cifar10.conv8", (64, 256, 4, 4)),
        ("wide-256.conv5_2", (4, 96, 112, 112)),
    ],
)
def test_report_layers_have_the_sizes_that_the_networks_need(name, output_shape):
    assert next(p for p in problems.load("reports") if p.name == name).output_shape == output_shape


def test_wide_256_convolutions_give_its_reported_parameter_count():
    """36,492,550 parameters with one input channel: convolutions, a batch norm after each, and 96*54*54 -> 128 -> 6."""
    layers = [p for p in problems.load("reports") if p.name.startswith("wide-256") and p.C != 3]
    convolutions = sum(math.prod(p.weight_shape) + p.O for p in layers)
    batch_norms = sum(2 * p.O for p in layers)
    assert convolutions + batch_norms + (96 * 54 * 54 + 1) * 128 + (128 + 1) * 6 == 36_492_550


def test_correctness_list_reaches_the_edges():
    cases = problems.load("correctness")
    assert {1, 15, 16, 17, 31, 33} <= {p.C for p in cases} & {p.O for p in cases}
    assert any(p.groups == p.C > 1 for p in cases) and any(1 < p.groups < p.C for p in cases)
    assert any(p.stride[0] != p.stride[1] for p in cases) and any(p.dilation[0] != p.dilation[1] for p in cases)
    assert any(p.kernel == (p.H, p.W) != (1, 1) for p in cases)
    assert any(p.N >= 16 and min(p.C, p.O) < 16 for p in cases)
    assert sum(p.flops for p in cases) < 1e8, "the tests run every case on every backend: keep them small"


def test_problem_counts_two_flops_per_multiply_add():
    (p,) = problems.parse(["p 2 4 7 6 6 3 2 2x1 1x0 1x2 2"], "here")
    assert (p.input_shape, p.weight_shape, p.output_shape) == ((2, 4, 7, 6), (6, 2, 3, 2), (2, 6, 4, 4))
    assert p.flops == 2 * (2 * 6 * 4 * 4) * (2 * 3 * 2)
    assert p.bytes == 4 * (2 * 4 * 7 * 6 + 6 * 2 * 3 * 2 + 2 * 6 * 4 * 4) == 4 * p.elements
    assert str(p) == "n2c4h7w6_o6k3x2_s2x1_p1x0_d1x2_g2"


def test_problem_flops_of_a_known_layer():
    c3 = next(p for p in problems.load("reports") if p.name == "lenet-mnist.c3")
    assert c3.flops == 64 * 2 * 240_000  # C3 with full connections: 16 maps of 10x10, 6*5*5 products each


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("p 1 1 1 1 1 1 1 1 0 1", "11 words where 12 belong"),
        ("p 1 1 1 1 1 1 1 1 0 1 1 1", "13 words where 12 belong"),
        ("p 1 one 1 1 1 1 1 1 0 1 1", "C 'one' is not a whole number"),
        ("p 1 -1 1 1 1 1 1 1 0 1 1", "C '-1' is not a whole number"),
        ("p 1 1.0 1 1 1 1 1 1 0 1 1", "C '1.0' is not a whole number"),
        ("p 0 1 1 1 1 1 1 1 0 1 1", "N = 0 is below 1"),
        ("p 1 1 1 1 1 1 1 0 0 1 1", "stride 0x0 is below 1"),
        ("p 1 1 9 9 1 3 3 1x2x3 0 1 1", "stride '1x2x3' is neither a number nor a pair"),
        ("p 1 1 9 9 1 3 3 1x 0 1 1", "stride '' is not a whole number"),
        ("p 1 1 4 4 1 5 5 1 0 1 1", "kernel 5x5"),
        ("p 1 4 4 4 6 3 3 1 0 1 3", "C = 4 is not a multiple of groups = 3"),
        ("p 1 6 4 4 4 3 3 1 0 1 3", "O = 4 is not a multiple of groups = 3"),
        (TINY, "the name 'tiny' is taken"),
    ],
)
def test_malformed_problem_line_is_refused_with_file_and_line(line, complaint):
    with pytest.raises(ProblemError, match=r"^list\.txt:3: ") as refusal:
        problems.parse([TINY, "# comment", line], "list.txt")
    assert complaint in str(refusal.value)


def test_problem_list_without_problems_is_refused(tmp_path):
    empty = tmp_path / "empty.txt"
    empty.write_text("# nothing\n")
    with pytest.raises(ProblemError, match=r"empty\.txt: holds no problem"):
        problems.load(empty)


def test_unknown_problem_list_names_those_there_are():
    with pytest.raises(ProblemError, match="no-such-list.*correctness.*reports"):
        problems.load("no-such-list")


# The timer


def _counting(name, log):
    @contextmanager
    def scope():
        log.append(f"{name} in")
        yield
        log.append(f"{name} out")

    return timing.Contender(name, lambda: log.append(name), scope)


def test_interleaved_rotates_turns_and_leaves_one_call_before_each_untimed():
    log = []
    timings = timing.interleaved([_counting("a", log), _counting("b", log)], 2, settle=0, stretch=0)
    a, b = ["a in", "a", "a", "a out"], ["b in", "b", "b", "b out"]
    assert log == a + b + b + a
    assert all(0 <= t.minimum <= t.median and (t.repeats, t.calls) == (2, 1) for t in timings.values())


def test_interleaved_lets_a_contender_take_fewer_turns():
    log = []
    timings = timing.interleaved([_counting("a", log), _counting("b", log)], {"a": 3, "b": 1}, settle=0, stretch=0)
    assert (log.count("a in"), log.count("b in")) == (3, 1)
    assert (timings["a"].repeats, timings["b"].repeats) == (3, 1)


def test_interleaved_fills_a_stretch_with_calls():
    timings = timing.interleaved([timing.Contender("a", lambda: None)], 1, settle=0, stretch=1e-3)
    assert timings["a"].calls > 1


def test_interleaved_refuses_contenders_of_one_name():
    with pytest.raises(ValueError, match="different names"):
        timing.interleaved([_counting("a", []), _counting("a", [])], 1)


# Processes


@dataclass(frozen=True)
class _Echo:
    """A job that tells where it runs; `act` is what goes wrong there."""

    act: str = ""

    def prepare(self, library):
        if self.act == "raise":
            raise ArithmeticError("out of numbers")
        if self.act == "die":
            os._exit(7)
        if self.act == "decline":
            return None
        print("a library that prints must not get between the answers")
        pid = np.array([os.getpid()])
        return Prepared(timing.Contender(library.name, lambda: sum(range(100))), [pid], {"threads": os.environ["OMP_NUM_THREADS"]})


@pytest.fixture
def worker():
    worker = Worker(Fastcnn("reference"), 1)
    yield worker
    worker.close()


def test_worker_is_a_process_of_its_own_and_takes_turns_there(worker):
    (pid,), facts = worker.prepare(_Echo())
    assert pid[0] not in (os.getpid(), 0) and facts == {"threads": "1"}
    assert worker.once() > 0 and worker.turn(2) > 0
    assert worker.call(os.getpid) == pid[0]
    if sys.platform.startswith("linux"):
        assert worker.cpu_seconds() > 0 and min(worker.call(rss.peak), worker.call(rss.resident)) > 1e6


def test_worker_answers_after_a_failure(worker):
    with pytest.raises(Failed, match="ArithmeticError: out of numbers .test_bench.py:"):
        worker.prepare(_Echo("raise"))
    assert worker.prepare(_Echo("decline")) is None
    with pytest.raises(Failed, match="reference has no job"):
        worker.turn(1)
    assert worker.prepare(_Echo())


def test_worker_that_ends_is_named(worker):
    with pytest.raises(Failed, match="the process of reference ended with status 7 during prepare"):
        worker.prepare(_Echo("die"))
    assert worker.cpu_seconds() is None


def test_library_that_cannot_start_is_a_mistake(monkeypatch):
    monkeypatch.setattr(Contest, "start", Worker)
    with pytest.raises(peers.Unusable, match="ModuleNotFoundError"):
        Contest([Fastcnn("reference"), _Missing()], 1)


@dataclass(frozen=True)
class _Missing:
    name = "missing"
    root = None
    yardstick = False

    def environment(self):
        return {}

    def start(self, threads):
        import no_such_library  # noqa: F401


def test_peak_memory_starts_anew(worker):
    if not sys.platform.startswith("linux"):
        pytest.skip("this system does not tell the resident memory")
    worker.call(np.ones, 1 << 22)
    before = worker.call(rss.peak)
    worker.call(rss.reset_peak)
    assert worker.call(rss.peak) < before - (1 << 24)


def test_contest_measures_in_processes_and_reports_their_memory(monkeypatch):
    """The reference is contestant and judge in one process; who declines the job has no result."""
    monkeypatch.setattr(Contest, "start", Worker)
    (problem,) = problems.parse([TINY], "here")
    with Contest([Fastcnn("reference", "channels_last"), Fastcnn("reference", "nchw")][:1], 1) as contest:
        row = convs.measure(problem, "forward", contest, _settings())
        assert contest.measure(_Echo("decline"), [], checks.error, 1) == {}
        with pytest.raises(Failed, match="out of numbers"):
            contest.truth(_Echo("raise"))
    (result,) = row["results"].values()
    assert result["error"] < 1e-6 and result["minimum"] <= result["lower"] <= result["median"] <= result["upper"]
    assert result["peak"] > 1e6 or not sys.platform.startswith("linux")


def test_judge_computes_once_what_it_is_also_timed_for():
    jobs = []

    class Counted(_Echo):
        def prepare(self, library):
            jobs.append(library.name)
            return Prepared(timing.Contender(library.name, lambda: 0), [np.zeros(1)])

    job = Counted()
    with Contest([Fastcnn("reference")], 1) as contest:
        contest.measure(job, contest.truth(job), lambda results, truth: 0.0, 1)
    assert jobs == ["reference"]


# The circumstances


def test_header_says_on_what_it_was_measured():
    header = environment.describe(3, {"PyTorch": "none"})
    assert header["threads"].startswith("3 ") and np.__version__ in header["NumPy"] and header["PyTorch"] == "none"
    assert list(header)[0] == "CPU" and list(header)[-1] == "date"


def test_header_line_tells_of_busy_neighbours():
    assert "DISTURBED" in environment.neighbours_text(0.5)
    assert "DISTURBED" not in environment.neighbours_text(0.01)
    assert environment.neighbours_text(None) == "unknown"


def test_own_work_is_no_neighbour(monkeypatch):
    """Ten seconds of two CPUs, nine of them ours: a tenth of a CPU is others'."""
    readings = iter([(0.0, 100.0, 50.0), (10.0, 120.0, 69.0)])
    monkeypatch.setattr(environment.Neighbours, "_reading", staticmethod(lambda: next(readings)))
    assert environment.Neighbours().busy() == pytest.approx(0.1)


# Right before fast


def _exact(problem, op, operands):
    return Fastcnn("reference").contender(problem, op, operands.astype("float64")).result()


@pytest.mark.parametrize("memory_format", peers.FORMATS)
@pytest.mark.parametrize("op", OPS)
def test_contender_computes_the_op(op, memory_format):
    for problem in problems.load("short"):
        operands = Operands.of(problem, "float32")
        expected = _exact(problem, op, operands)
        shape = {"forward": problem.output_shape, "grad_input": problem.input_shape, "grad_weight": problem.weight_shape}[op]
        assert expected.shape == shape and expected.dtype == np.float64
        contender = Fastcnn("reference", memory_format).contender(problem, op, operands)
        assert checks.checked_error([contender.result()], [expected], "float32", checks.limit(problem, op, "float32")) > 0


@pytest.mark.parametrize("memory_format", peers.FORMATS)
@pytest.mark.parametrize("op", OPS)
def test_torch_contender_computes_the_op(op, memory_format):
    pytest.importorskip("torch")
    for problem in problems.load("short"):
        operands = Operands.of(problem, "float64")
        result = np.asarray(peers.Torch(memory_format).contender(problem, op, operands).result())
        checks.checked_error([result], [_exact(problem, op, operands)], "float64", checks.limit(problem, op, "float64"))


def test_backward_is_both_gradients_with_twice_the_operations(capsys, tiny_list, tmp_path):
    (problem,) = problems.parse([TINY], "here")
    job = convs.ConvJob(problem, peers.BACKWARD, "float64")
    assert job.flops == 2 * problem.flops and job.bytes == 8 * (problem.elements + 2 * 3 * 5 * 6 + 4 * 3 * 3 * 3)
    peer = ["--peers", "torch"] if importlib.util.find_spec("torch") else ["--peers", "im2col"]
    arguments = ["--ops", "backward", "--backend", "reference", *peer, "--short", "--json", str(tmp_path / "out.json")]
    assert main([str(tiny_list), *arguments]) == 0
    row = json.loads((tmp_path / "out.json").read_text())["rows"][0]
    assert row["flops"] == 2 * problem.flops and len(row["results"]) >= 2 and "#### backward" in capsys.readouterr().out
    operands = Operands.of(problem, "float64")
    right = networks.arrays(_exact(problem, peers.BACKWARD, operands))
    with pytest.raises(checks.WrongResult, match="error"):
        job.verdict([right[0], right[1] + 1], right)


def test_limit_notices_one_lost_product():
    """A constant-sign sum makes every product visible: leave out one of k and the error passes the limit."""
    (problem,) = problems.parse(["p 64 1 34 34 1 3 3 1 0 1 1"], "here")
    operands = Operands.of(problem, "float32")
    k = problem.N * math.prod(problem.output_shape[2:])
    expected = _exact(problem, "grad_weight", operands)
    lost = operands.grad_output.copy()
    lost[0, 0, 16, 16] = 0
    wrong = _exact(problem, "grad_weight", Operands(operands.input, operands.weight, lost))
    assert k == 65_536
    assert checks.error(wrong, expected) > checks.limit(problem, "grad_weight", "float32")


def _settings(**changes):
    defaults = {"lists": ["x"], "ops": ["forward"], "backend": "reference", "peers": [], "threads": 1, "dtype": "float32"}
    return convs.Settings(**defaults | {"format": "nchw", "repeats": 2} | changes)


class _Wrong:
    """A library that is off by a little, or returns the wrong type or NaN."""

    name = "torch nchw"
    yardstick = False

    def __init__(self, spoil):
        self.spoil = spoil
        self.calls = 0

    def start(self, threads):
        return {}

    def facts(self, contender):
        return {}

    def contender(self, problem, op, operands):
        right = Fastcnn("reference").contender(problem, op, operands).result()

        def call():
            self.calls += 1
            return self.spoil(right)

        return timing.Contender(self.name, call)


@pytest.mark.parametrize(
    "spoil",
    [lambda r: r * 1.001, lambda r: np.where(np.arange(r.size).reshape(r.shape) == 0, np.nan, r), lambda r: r.astype("float64"), lambda r: r[:1]],
    ids=["scaled", "nan", "dtype", "shape"],
)
def test_wrong_result_refuses_to_be_timed(spoil):
    (problem,) = problems.parse([TINY], "here")
    wrong = _Wrong(spoil)
    with Contest([Fastcnn("reference"), wrong], 1) as contest:
        row = convs.measure(problem, "forward", contest, _settings())
    assert wrong.calls == 1, "called to be checked, never to be timed"
    assert list(row["results"][wrong.name]) == ["refused"]
    assert "minimum" in row["results"]["reference"]


def test_refused_row_is_printed_first_and_fails_the_run(monkeypatch, tiny_list, tmp_path, capsys):
    right = Fastcnn.contender

    def contender(self, problem, op, operands):
        made = right(self, problem, op, operands)
        spoiled = problem.name == "small" and operands.input.dtype == np.float32
        return timing.Contender(made.name, lambda: made.call() + np.float32(1), made.scope) if spoiled else made

    monkeypatch.setattr(Fastcnn, "contender", contender)
    out = tmp_path / "out.json"
    code = main([str(tiny_list), "--backend", "reference", "--peers", "none", "--ops", "forward", "--short", "--json", str(out)])
    text = capsys.readouterr().out
    assert code == 1
    assert text.index("| small") < text.index("| tiny") and "WRONG" in text and "Wrong results, not timed" in text
    assert json.loads(out.read_text())["refused"]


# Tables


def _row(name, ours, torch):
    return {"call": name, "results": {"cpu": {"minimum": ours, "median": ours}, "torch nchw": {"minimum": torch, "median": torch}}}


def test_rows_are_sorted_worst_first_and_lost_ones_stay():
    settings = {"backend": "cpu", "peers": ["torch", "reference"]}
    alone = {"call": "alone", "results": {"cpu": {"minimum": 1.0, "median": 1.0}}}
    refused = {"call": "refused", "results": {"cpu": {"refused": "error"}}}
    rows = [alone, _row("won", 1.0, 4.0), _row("lost", 2.0, 1.0), refused]
    assert [row["call"] for row in sorted(rows, key=compare.worst_first(settings))] == ["refused", "lost", "won", "alone"]


def test_ratio_is_against_the_best_peer():
    slow = {"minimum": 9.0}
    results = {"cpu": {"minimum": 1.0}, "cpu isa=avx2": {"minimum": 0.5}, "torch nchw": {"minimum": 3.0}, "onnxruntime": {"minimum": 2.0}}
    results |= {"jax": {"refused": "wrong"}, "reference": slow, "im2col": {"minimum": 1.5}, "loops": slow}
    assert compare.best(results, "cpu") == "onnxruntime", "yardsticks and variants of ours are no rivals"
    assert compare.ratio(results, "cpu") == 2.0 and compare.ratio(results, "cpu", "im2col") == 1.5
    assert compare.ratio(results, "cpu", "jax") is None and compare.ratio({"cpu": slow}, "cpu") is None


def test_pytorch_has_a_column_of_its_own_beside_other_rivals():
    results = {"cpu": {"minimum": 1.0}, "torch nchw": {"minimum": 3.0}, "torch channels_last": {"minimum": 2.5}, "onnxruntime": {"minimum": 2.0}}
    settings = {"backend": "cpu", "peers": ["torch", "onnxruntime"]}
    cells = dict(zip(compare.rival_columns(settings), compare.rival_cells(results, settings, report.milliseconds), strict=True))
    assert (cells["best peer"], cells["ratio"], cells["x PyTorch"]) == ("onnxruntime", "2.00x", "2.50x")
    assert "x PyTorch" not in compare.rival_columns({"backend": "cpu", "peers": ["torch"]})


def test_spread_is_between_the_quartiles():
    timing_ = timing.Timing.of([4.0, 1.0, 2.0, 3.0, 5.0], 1)
    assert (timing_.minimum, timing_.lower, timing_.median, timing_.upper) == (1.0, 2.0, 3.0, 4.0)
    assert compare.spread({"lower": 2.0, "median": 3.0, "upper": 4.0}) == pytest.approx(2 / 3)
    assert compare.spread({"median": 3.0}) is None


def test_table_is_markdown_with_numbers_to_the_right():
    assert report.table(["name", "ms"], [["a|b", "1.5"], ["c", "-"]]).splitlines() == [
        "| name |  ms |",
        "| ---- | --: |",
        "| a/b  | 1.5 |",
        "| c    |   - |",
    ]


@pytest.mark.parametrize(("value", "text"), [(0.012345, "0.0123"), (1.234, "1.23"), (12.34, "12.3"), (1234.5, "1234"), (0, "0"), (None, "-")])
def test_three_digits(value, text):
    assert report.three_digits(value) == text


# The commands


def test_short_run_with_the_reference_alone(tiny_list):
    """As a user starts it: a process of its own."""
    command = [sys.executable, "-m", "bench", str(tiny_list), "--short", "--backend", "reference", "--peers", "none", "--threads", "1"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    for words in ("#### forward", "#### grad_input", "#### grad_weight", "| tiny ", "| small ", "CPU:", "BLAS", "commit", "1 for each library"):
        assert words in done.stdout
    assert "2/2 small" in done.stderr


def test_conv_run_writes_what_it_prints(tiny_list, tmp_path, capsys):
    out = tmp_path / "results" / "conv.json"
    arguments = ["--backend", "reference", "--peers", "none", "--dtype", "float64", "--format", "channels_last", "--short"]
    assert main([str(tiny_list), *arguments, "--json", str(out)]) == 0
    document = json.loads(out.read_text())
    assert capsys.readouterr().out == readme.render(document) + "\n"
    assert len(document["rows"]) == 2 * len(OPS)
    assert all(result["error"] < 1e-12 and result["repeats"] == 3 for row in document["rows"] for result in row["results"].values())


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["no-such-list"], "no problem list"),
        (["--ops", "sideways"], "'sideways' is none of"),
        (["--backend", "abacus"], "no backend is called"),
        (["--peers", "abacus"], "no peer is called"),
        (["--threads", "0"], "0 is below 1"),
        (["--peers", "reference:isa"], "is not understood at 'isa'"),
        (["--peers", "reference:colour=red"], "is not understood at 'colour=red'"),
        (["--peers", "reference:algorithm=magic"], "algorithm is one of auto, direct, winograd"),
        (["step", "--batch", "1,0"], "0 is below 1"),
        (["compare"], "takes OLD.json and NEW.json"),
        (["compare", "--against", "no-such-revision"], "neither a folder that holds fastcnn nor a git revision"),
        (["step", "no-such-recipe"], "no recipe"),
    ],
)
def test_command_line_mistakes_are_named(arguments, complaint, capsys):
    backend = [] if "--backend" in arguments or arguments[0] == "compare" else ["--backend", "reference"]
    with pytest.raises(SystemExit) as stop:
        main([*arguments, *backend])
    assert stop.value.code == 2
    assert complaint in capsys.readouterr().err


@pytest.fixture
def small_wide(monkeypatch):
    """The network for 256x256 pictures on the smallest ones it takes: the same layers in a hundredth of the time."""
    monkeypatch.setattr(recipes.get("wide-256"), "size", 41, raising=False)


@pytest.mark.parametrize("command", ["step", "layers", "inference"])
def test_recipes_run_on_the_reference_alone(command, capsys):
    with use_backend("reference"):
        assert main([command, "lenet", "--batch", "2", "--backend", "reference", "--peers", "none", "--short"]) == 0
    assert "| lenet " in capsys.readouterr().out


@pytest.mark.parametrize("command", ["step", "layers", "inference"])
@pytest.mark.parametrize("name", recipes.names())
@pytest.mark.usefixtures("small_wide")
def test_torch_twin_computes_what_the_recipe_does(command, name):
    """A twin with another update rule, initialisation or layer order would be refused, and is not."""
    pytest.importorskip("torch")
    settings = steps.Settings([name], [4, 1] if command == "inference" else [4], "reference", ["torch"], 1, 1)
    document = steps.run(command, settings)
    assert document["refused"] == []
    assert all(len(row["results"]) == 3 for row in document["rows"])
    if command == "inference":
        assert [row["what"] for row in document["rows"]] == ["inference, batch 4", "inference, batch 1"]
        minimum = document["rows"][0]["results"]["reference"]["minimum"]
        assert "images/s" in readme.render(document) and f" {report.three_digits(4 / minimum)} " in readme.render(document)


def test_without_a_batch_every_recipe_has_its_own():
    assert {name: recipes.get(name).bench_batch for name in recipes.names()} == dict.fromkeys(recipes.names(), 64) | {"wide-256": 8}
    document = steps.run("inference", steps.Settings(["lenet"], None, "reference", [], 1, 1))
    assert [row["what"] for row in document["rows"]] == ["inference, batch 64", "inference, batch 1"]
    assert steps.render(document).startswith("### Inference: reference, float32, 1 threads")


def test_what_drops_is_checked_without_dropping_and_timed_with_it():
    model, loose = nn.Sequential(nn.Dropout(0.5)), nn.Dropout(0.25)
    with networks.nothing_dropped(model, loose):
        assert (model[0].p, loose.p) == (0.0, 0.0)
    assert (model[0].p, loose.p) == (0.5, 0.25)


def test_torch_twin_with_another_learning_rate_is_refused(monkeypatch):
    torch = pytest.importorskip("torch")
    from bench import twin

    monkeypatch.setattr(twin, "optimizer", lambda ours, parameters: torch.optim.SGD(parameters, lr=2 * ours.lr))
    document = steps.run("step", steps.Settings(["lenet"], [4], "reference", ["torch"], 1, 1))
    assert len(document["refused"]) == 2 and "off the reference" in document["refused"][0]


def test_overhead_runs_on_the_reference_alone(capsys):
    assert main(["overhead", "--backend", "reference", "--peers", "none", "--short"]) == 0
    text = capsys.readouterr().out
    assert all(name in text for name in [*overhead.CALLS, "conv2d forward", "fastcnn.functional"])


@pytest.mark.parametrize("found", [True, False])
def test_data_states_rates_and_waiting(found, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("FASTCNN_DATA", str(tmp_path / "empty"))
    monkeypatch.setattr(data, "SHORT_IMAGES", 48)
    if found:
        made = data._generated(60, (1, 28, 28))
        monkeypatch.setattr(datasets, "load", lambda name, data_dir, download: datasets.Splits(made, made))
    assert main(["data", "--backend", "reference", "--short", "--batch", "16", "--json", str(tmp_path / "out.json")]) == 0
    document = json.loads((tmp_path / "out.json").read_text())
    assert document["settings"]["source"] == ("MNIST" if found else "random numbers of MNIST's shape")
    assert [row["images"] for row in document["passes"]] == [48] * 3 and all(row["maximum"] >= row["median"] > 0 for row in document["passes"])
    assert all(0 < row["share"] <= row["share median"] < 1 and row["seconds"] > 0 for row in document["epochs"])
    text = capsys.readouterr().out
    assert "random crop and flip" in text and "when asked for" in text


def test_data_that_is_not_where_it_should_be_is_a_mistake(tmp_path, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["data", "--backend", "reference", "--data-dir", str(tmp_path)])
    assert str(tmp_path) in capsys.readouterr().err


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_ops_between_convolutions_mean_the_same_in_torch(dtype):
    pytest.importorskip("torch")
    document = ops.run(ops.Settings("reference", ["torch"], 1, dtype, True, 1))
    assert document["refused"] == []
    assert [row["pass"] for row in document["rows"]] == ["forward", "backward"] * len(ops.SHORT)
    assert all(list(row["results"]) == ["reference", "torch nchw", "torch channels_last"] for row in document["rows"])
    assert {case.name for case in ops.SHORT} == {case.name for case in ops.CASES}


def test_ops_refuses_a_gradient_that_is_missing():
    with pytest.raises(checks.WrongResult, match="returned 1 results where 2"):
        ops._worst_error([np.ones(2)], [np.ones(2), np.ones(2)], "float64", 1e-9)
    with pytest.raises(checks.WrongResult, match="above"):
        ops._worst_error([np.ones(2), np.ones(2)], [np.ones(2), np.zeros(2)], "float64", 1e-9)


def test_overhead_calls_mean_the_same_in_torch():
    pytest.importorskip("torch")
    document = overhead.run("reference", ["torch"], 1, 1)
    assert document["refused"] == []
    assert all(list(row["results"]) == ["reference", "torch nchw", "torch channels_last"] for row in document["rows"])


def test_roofline_states_peak_and_bound(monkeypatch, capsys):
    if not peers.compiled():
        pytest.skip("the compiled backend is not built")
    from bench import roofline

    monkeypatch.setattr(roofline, "PROBE_SECONDS", 1e-4)
    monkeypatch.setattr(roofline, "COPY_BYTES", 2**20)
    monkeypatch.setattr(roofline, "load", lambda name: problems.parse(["tiny 1 16 6 6 16 3 3 1 1 1 1"], name))
    assert main(["roofline", "--short", "--threads", "1"]) == 0
    text = capsys.readouterr().out
    assert "float64 peak GFLOP/s" in text and "% bound" in text and text.count("| grad_weight ") == 6


def test_roofline_without_the_compiled_backend_says_why(monkeypatch, capsys):
    monkeypatch.setattr(backend, "available", lambda: {"reference": None, "cpu": "not built"})
    with pytest.raises(SystemExit):
        main(["roofline", "--short"])
    assert "the backend cpu cannot be used: not built" in capsys.readouterr().err


# Peers


@pytest.mark.parametrize("style", ["im2col", "loops"])
@pytest.mark.parametrize("op", [*OPS, peers.BACKWARD])
def test_coursework_convolutions_compute_the_op(op, style):
    lines = ["plain 2 3 5 6 4 3 3 1 0 1 1", "strided 2 2 7 8 3 3 2 2x1 1x2 1 1"]
    for problem in problems.parse(lines, "here"):
        operands = Operands.of(problem, "float64")
        results = networks.arrays(peers.Coursework(style).contender(problem, op, operands).result())
        limits = [1e-14] * len(results)
        checks.checked_error(results, networks.arrays(_exact(problem, op, operands)), "float64", *limits)


def test_coursework_declines_what_no_course_asks_for():
    grouped, dilated, large = problems.parse(["g 1 2 4 4 2 1 1 1 0 1 2", "d 1 2 5 5 2 2 2 1 0 2 1", "l 64 1 28 28 8 5 5 1 0 1 1"], "here")
    style = peers.Coursework
    assert style("im2col").contender(grouped, "forward", None) is style("im2col").contender(dilated, "forward", None) is None
    assert style("loops").contender(large, "forward", None) is None


@pytest.mark.parametrize(("library", "module"), [(peers.Jax(), "jax"), (peers.OnnxRuntime(), "onnxruntime")], ids=["jax", "onnxruntime"])
def test_installed_peers_compute_the_ops(library, module):
    """In a process of their own: what these packages do to a process is theirs."""
    for needed in (module, *(["onnx"] if module == "onnxruntime" else [])):
        pytest.importorskip(needed)
    worker = Worker(library, 1)
    try:
        for problem in problems.load("short"):
            for op in [*OPS, peers.BACKWARD] if module == "jax" else ["forward"]:
                job = convs.ConvJob(problem, op, "float32")
                results, _ = worker.prepare(job)
                job.verdict(results, networks.arrays(_exact(problem, op, Operands.of(problem, "float32"))))
    finally:
        worker.close()


@pytest.mark.parametrize("name", recipes.names())
@pytest.mark.usefixtures("small_wide")
def test_onnx_runtime_computes_every_network(name):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    document = steps.run("inference", steps.Settings([name], [2], "reference", ["onnxruntime"], 1, 1))
    assert document["refused"] == [] and "onnxruntime" in document["rows"][0]["results"]


def test_variants_are_named_and_set_what_they_say():
    ours, variant, torch = peers.libraries("reference", ["reference:threads=1", "torch"], "channels_last")[:3]
    assert (ours.name, variant.name, torch.name) == ("reference", "reference threads=1", "torch nchw")
    assert (variant.threads, variant.memory_format) == (1, "channels_last")
    assert Fastcnn("cpu", isa="avx2", algorithm="direct").name == "cpu isa=avx2 algorithm=direct"
    assert Fastcnn("cpu", isa="avx2").environment() == {"FASTCNN_ISA": "avx2"}


def test_rivals_are_neither_ours_nor_yardsticks():
    assert [peers.is_rival(name, "cpu") for name in ("cpu", "cpu isa=avx2", "reference", "im2col", "loops", "torch compile", "jax")] == [False] * 5 + [True] * 2


# Cost growth


def _growth_document(speeds, short=False):
    point = {"base": "wide", "axis": "batch", "op": "forward", "flops": 100, "implementation": "x"}
    points = [point | {"size": i, "minimum": 100 / speed} for i, speed in enumerate(speeds)]
    return {"points": points, "settings": {"short": short}}


@pytest.mark.parametrize(
    ("speeds", "sizes"),
    [([1, 2, 4, 8, 16], []), ([8, 8, 4, 8, 8], [2]), ([8, 8, 8, 5], [3]), ([2, 8, 8], []), ([8, 8, 5.5, 8], []), ([5], [])],
    ids=["steady growth", "hole", "at the end", "slow beginning", "shallow", "alone"],
)
def test_cliffs_are_found(speeds, sizes):
    assert [cliff["point"]["size"] for cliff in growth.cliffs(_growth_document(speeds))] == sizes
    assert growth.cliffs(_growth_document(speeds, short=True)) == []


def test_growth_measures_every_axis(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(growth, "BASES", {"tiny": problems.parse([TINY], "here")[0]})
    monkeypatch.setattr(growth, "AXES", {"batch": (growth.AXES["batch"][0], [1, 2, 3]), "kernel size": (growth.AXES["kernel size"][0], [1, 3, 4])})
    arguments = ["--backend", "reference", "--threads", "1", "--repeats", "1", "--json", str(tmp_path / "growth.json")]
    assert main(["growth", *arguments]) == 0
    document = json.loads((tmp_path / "growth.json").read_text())
    assert len(document["points"]) == 2 * 3 * 3 + 3
    assert {point["shape"] for point in document["points"] if point["axis"] == "kernel size"} >= {"n2c3h5w6_o4k4x4_s1x1_p2x2_d1x1_g1"}
    text = capsys.readouterr().out
    assert "#### tiny" in text and "batch | forward ms" in text and growth.brief(document).startswith("### Cost growth")


# What changed


def _times(median, spread=0.02):
    return {"minimum": 0.95 * median, "lower": median * (1 - spread / 2), "median": median, "upper": median * (1 + spread / 2)}


@pytest.mark.parametrize(
    ("old", "new", "found"),
    [
        (_times(1.0), _times(1.2), "slower"),
        (_times(1.0), _times(0.8), "faster"),
        (_times(1.0, 0.5), _times(1.2, 0.5), "noise"),
        (_times(1.0, 0.001), _times(1.02, 0.001), "noise"),
        (_times(1.0), {"refused": "error"}, "wrong"),
        ({}, _times(1.0), "new"),
    ],
)
def test_a_difference_within_the_spread_is_noise(old, new, found):
    assert changes.verdict(old, new) == found


def test_drift_of_the_machine_is_taken_out():
    assert changes.verdict(_times(1.0), _times(1.2), drift=1.2) == "noise"
    assert changes._drift([({"torch nchw": _times(1.0), "cpu": _times(1.0)}, {"torch nchw": _times(1.2), "cpu": _times(9.0)})], "cpu") == pytest.approx(1.2)


def _conv_file(path, factor, peer_factor=1.0):
    rows = [
        {"problem": f"p{i}", "shape": "s", "op": "forward", "results": {"cpu": _times(i * (factor if i == 2 else 1)), "torch nchw": _times(i * peer_factor)}}
        for i in (1, 2, 3)
    ]
    header = {"fastcnn": "0, commit x", "date": "today"}
    path.write_text(json.dumps({"kind": "conv", "header": header, "settings": {"backend": "cpu"}, "rows": rows}))
    return path


def test_two_results_are_compared_row_by_row(tmp_path, capsys):
    old, new = _conv_file(tmp_path / "old.json", 1.0), _conv_file(tmp_path / "new.json", 1.5)
    assert main(["compare", str(old), str(new)]) == 0
    text = capsys.readouterr().out
    assert "| slower  | p2 s forward" in text and "1 slower, 2 noise" in text and "1.00 times as long" in text


@pytest.mark.parametrize("content", ["", "[]", '{"kind": "conv"}'])
def test_what_is_no_result_is_not_compared(tmp_path, content, capsys):
    broken = tmp_path / "broken.json"
    broken.write_text(content)
    with pytest.raises(SystemExit):
        main(["compare", str(broken), str(broken)])
    assert "holds no rows with results" in capsys.readouterr().err


SLOWED = """
import pathlib, time
__path__ = [{package!r}]
exec(compile(pathlib.Path({package!r}, "__init__.py").read_text(), "slowed", "exec"))
from fastcnn import functional
right = functional.conv2d
def conv2d(*arguments, **options):
    time.sleep(0.002)
    return right(*arguments, **options)
functional.conv2d = conv2d
"""


@needs_tree
def test_a_deliberately_slowed_kernel_is_flagged(monkeypatch, tmp_path, tiny_list, capsys):
    """The other tree sleeps in every forward convolution: this tree is faster; the other way round it is slower, and the command fails."""
    if not peers.compiled():
        pytest.skip("the compiled backend is not built")
    (tmp_path / "other" / "fastcnn").mkdir(parents=True)
    (tmp_path / "other" / "fastcnn" / "__init__.py").write_text(SLOWED.format(package=str(ROOT / "fastcnn")))
    monkeypatch.setattr(Contest, "start", Worker)
    arguments = ["--threads", "1", "--repeats", "5", "--ops", "forward", "--json", str(tmp_path / "out.json")]
    assert main(["compare", "--against", str(tmp_path / "other"), str(tiny_list), *arguments]) == 0
    assert [row["verdict"] for row in json.loads((tmp_path / "out.json").read_text())["rows"]] == ["faster"] * 2
    assert "| faster " in capsys.readouterr().out

    swapped = changes._tree(str(tmp_path / "other"))[0]
    monkeypatch.setattr(changes, "_tree", lambda what: (ROOT, "of before"))
    monkeypatch.setattr(changes, "Fastcnn", lambda backend, form: Fastcnn(backend, form, root=swapped))
    assert main(["compare", "--against", "before", str(tiny_list), *arguments]) == 1
    assert json.loads((tmp_path / "out.json").read_text())["slower"] == ["tiny forward", "small forward"]


# The report


def test_report_holds_every_row_and_needs_nothing_beside_it(tiny_list, tmp_path, capsys):
    main([str(tiny_list), "--backend", "reference", "--peers", "im2col", "--short", "--json", str(tmp_path / "a.json")])
    main(["overhead", "--backend", "reference", "--peers", "none", "--short", "--json", str(tmp_path / "b.json")])
    capsys.readouterr()
    assert main(["report", str(tmp_path / "a.json"), str(tmp_path / "b.json"), "--out", str(tmp_path / "out"), "--no-png"]) == 0
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "http://" not in page.replace("http://www.w3.org/2000/svg", "") and "https://" not in page and "src=" not in page
    data = json.loads(page.partition("const data = ")[2].partition(";\n")[0])
    assert len(data["rows"]) == 2 * len(OPS) + len(overhead.CALLS) + 2 * len(OPS)
    assert {row["group"] for row in data["rows"]} == {str(tiny_list), ""}


def test_report_escapes_what_could_end_the_script():
    assert "</script>" not in html.html({"headers": ["</script>"]}).partition("const data = ")[2].partition(";\n")[0]


def test_pictures_are_written_for_what_there_is(tmp_path, tiny_list):
    pytest.importorskip("matplotlib")
    row = {"kind": "conv forward", "group": "g", "name": "n", "dtype": "float32", "gflops": 3.0, "intensity": 2.0, "ratio": 0.5}
    data = {"rows": [row], "machines": [{"dtype": "float32", "fma": 9e9, "copy": 2e9}], "series": [], "cliffs": []}
    assert [path.name for path in pictures.write(data, tmp_path)] == ["roofline.png", "peers.png"]
    data["series"] = [{"base": "wide", "axis": "batch", "op": "forward", "points": [[1, 2.0], [16, 3.0]]}]
    assert [path.name for path in pictures.write(data, tmp_path)] == ["roofline.png", "peers.png", "growth.png"]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in tmp_path.glob("*.png"))


def test_report_without_results_is_a_mistake(tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["report", str(tmp_path / "nothing.json")])
    assert "nothing.json cannot be read as a result" in capsys.readouterr().err


# The full run


def test_full_run_has_a_command_for_every_part():
    from bench.__main__ import parser

    for name, (command, seconds) in full.PARTS.items():
        words = command.split()
        args = parser(words[0]).parse_args(words[1:])
        assert seconds > 0 and set(getattr(args, "lists", [])) <= set(problems.names()), name
        assert set(getattr(args, "recipes", [])) <= set(recipes.names())
    assert sum(seconds for _, seconds in full.PARTS.values()) <= 30 * 60


def test_full_run_goes_on_where_it_was(monkeypatch, tmp_path, capfd):
    monkeypatch.setattr(full, "PARTS", {"a": ("overhead --backend reference --peers none --repeats 1 --threads 1", 1), "b": ("conv no-such-list", 1)})
    monkeypatch.setattr(full, "_done", lambda path: path.is_file())
    assert main(["full", "--out", str(tmp_path)]) == 1
    assert json.loads((tmp_path / "a.json").read_text())["kind"] == "overhead" and not (tmp_path / "b.json").exists()
    assert "failed or wrong: b" in capfd.readouterr().err
    assert main(["full", "--out", str(tmp_path), "--only", "a"]) == 0
    assert "0 of 2 parts to measure" in capfd.readouterr().err
    with pytest.raises(SystemExit):
        main(["full", "--only", "c"])


@needs_tree
def test_results_of_other_code_or_a_busy_machine_are_not_done(tmp_path):
    path = tmp_path / "x.json"
    for header in ({}, {"fastcnn": "0.1, commit unknown"}, {"fastcnn": "0.1, commit abc with uncommitted changes"}, {"fastcnn": "0.1, commit no-such-commit"}):
        path.write_text(json.dumps({"header": header}))
        assert not full._done(path)
    assert not full._done(tmp_path / "missing.json")


def test_saved_results_have_a_row_to_a_line(tmp_path):
    document = {"kind": "x", "rows": [{"a": 1}, {"a": 2}], "refused": []}
    readme.save(document, tmp_path / "deep" / "x.json")
    assert json.loads((tmp_path / "deep" / "x.json").read_text()) == document
    assert (tmp_path / "deep" / "x.json").read_text().count("\n") == 8 and [p.name for p in (tmp_path / "deep").iterdir()] == ["x.json"]


# The README


def test_readme_tables_come_from_results(tiny_list, tmp_path, capsys):
    main([str(tiny_list), "--backend", "reference", "--peers", "none", "--short", "--json", str(tmp_path / "tiny.json")])
    page = tmp_path / "README.md"
    page.write_text("before\n<!-- table:start -->\nold\n<!-- table:end -->\nafter\n")
    assert readme.fill(page, tmp_path) == 1
    once = page.read_text()
    assert once.startswith("before\n") and once.endswith("\nafter\n") and "| tiny " in once and "old" not in once
    readme.fill(page, tmp_path)
    assert page.read_text() == once


def test_readme_without_its_marks_is_refused(tmp_path):
    page = tmp_path / "README.md"
    page.write_text("no marks")
    with pytest.raises(ValueError, match="must hold"):
        readme.fill(page, tmp_path)


def test_rows_below_what_is_wanted_are_named_with_their_limit():
    settings = {"backend": "cpu", "dtype": "float32", "peers": ["torch"]}

    def row(name, op, ours, theirs, implementation="direct"):
        problem = {p.name: p for p in load("resnet50")}[name]
        results = {"cpu": {"minimum": ours, "implementation": implementation}, "torch nchw": {"minimum": theirs}}
        return {"list": "resnet50", "problem": name, "shape": str(problem), "op": op, "flops": problem.flops, "bytes": 4 * problem.elements, "results": results}

    wide = next(p for p in load("resnet50") if p.kernel == (3, 3) and p.stride == (1, 1))
    plain = next(p for p in load("resnet50") if p.kernel == (1, 1))
    assert below.wanted(wide, "float32") == 2 and below.wanted(plain, "float32") == 1 and below.wanted(plain, "float64") == 2
    assert below.wanted(replace(plain, C=3), "float32") == 1.3
    rows = [row(wide.name, "forward", 1, 1.9, "winograd_4x4_3x3"), row(wide.name, "grad_input", 1, 2.1), row(plain.name, "forward", 1, 0.5)]
    text = below.render([{"settings": settings, "machine": [{"fma": 1e12, "copy": 1e11}], "rows": rows}])
    lines = [line for line in text.splitlines() if line.startswith("| resnet50")]
    assert text.startswith("2 of 3 rows") and plain.name in lines[0] and wide.name in lines[1] and "0.500x" in lines[0] and "transforms" in lines[1]


@needs_tree
def test_readme_names_the_rows_below_what_is_wanted(tmp_path):
    copy = tmp_path / "README.md"
    copy.write_text(readme.README.read_text(encoding="utf-8"), encoding="utf-8")
    readme.fill_below(copy, readme.RESULTS)
    assert copy.read_text(encoding="utf-8") == readme.README.read_text(encoding="utf-8"), "run python -m bench readme"


@needs_tree
@pytest.mark.parametrize(
    ("page", "kinds", "place"),
    [
        (readme.README, readme.KINDS, readme.TABLE),
        (readme.FRONT, readme.FRONT_KINDS, readme.TABLE),
        (readme.FRONT, (runs.KIND,), readme.RECIPES),
    ],
    ids=["bench", "front", "recipes"],
)
def test_readmes_show_the_results_that_lie_beside_them(page, kinds, place, tmp_path):
    copy = tmp_path / "README.md"
    copy.write_text(page.read_text(encoding="utf-8"), encoding="utf-8")
    readme.fill(copy, readme.RESULTS, kinds, place)
    assert copy.read_text(encoding="utf-8") == page.read_text(encoding="utf-8"), "run python -m bench readme"


def test_problem_is_frozen():
    with pytest.raises(AttributeError):
        Problem(*TINY.split()[:1], 1, 1, 1, 1, 1, 1, 1, (1, 1), (0, 0), (1, 1), 1).N = 2


# Runs of the recipes


@pytest.fixture
def run_folders(tmp_path):
    """Three run folders as `fastcnn train` leaves them, two of one command; only the files that are read."""

    def make(name, options, accuracy, seconds, total, recipe_options=None, recipe="twoconv-mnist"):
        folder = tmp_path / name
        folder.mkdir()
        setup = recipes.get(recipe).setup()._asdict()
        config = {"recipe": recipe, "options": {"data": "mnist", "seed": 0} | setup | options, "recipe_options": recipe_options or {"pool": "max"}}
        config |= {"data_dir": "/somewhere", "started": "2026-01-01T00:00:00+00:00", "threads": 2, "backend": "cpu", "classes": [], "transform": {}}
        measured = {"test_accuracy": accuracy, "test_images": 10_000, "training_accuracy": 0.5, "training_images": 100, "training_seconds": sum(seconds)}
        measured |= {"total_seconds": total, "epochs": len(seconds), "history": [{"seconds": second} for second in seconds]}
        (folder / "config.json").write_text(json.dumps(config))
        (folder / "metrics.json").write_text(json.dumps(measured))
        return folder

    return [
        make("a", {}, 0.98, [2.0, 1.0, 3.0], 200.0),
        make("b", {"seed": 4}, 0.96, [9.0], 400.0),
        make("c", {"subset": 50, "lr": 0.5}, 0.5, [1.0], None, {"pool": "average"}),
    ]


def test_a_run_is_named_after_its_data(tmp_path, run_folders, capsys):
    config = json.loads((run_folders[0] / "config.json").read_text()) | {"recipe": "lenet", "recipe_options": {"restarts": 0}}
    for chosen, name, words in (("mnist", "lenet-mnist", "lenet-mnist"), ("fashion-mnist", "lenet on fashion-mnist", "lenet --data fashion-mnist")):
        config["options"] |= recipes.get("lenet").setup(chosen)._asdict() | {"data": chosen}
        (run_folders[0] / "config.json").write_text(json.dumps(config))
        assert main(["recipes", str(run_folders[0])]) == 0
        shown = capsys.readouterr().out
        assert f"| {name} " in shown and f"`fastcnn train {words} --data-dir DIR`" in shown


def test_runs_become_a_table_of_what_to_type_and_what_came_of_it(run_folders, tmp_path, capsys):
    out = tmp_path / "out.json"
    assert main(["recipes", *map(str, run_folders), "--note", "a busy machine", "--json", str(out)]) == 0
    text = capsys.readouterr().out
    both, single = (line.split(" | ") for line in text.splitlines() if line.startswith("| twoconv-mnist"))
    assert both[2].strip() == "97.00 (2 seeds: 96.00 to 98.00)" and [cell.strip() for cell in both[5:7]] == ["2.00", "3.3 min"]
    assert "`fastcnn train twoconv-mnist --data-dir DIR --seed N`" in both[7]
    assert single[2].strip() == "50.00" and single[6].strip() == "-"
    assert "`fastcnn train twoconv-mnist --data-dir DIR --lr 0.5 --subset 50 --pool average`" in single[7]
    assert "91.8 % on a subset" in both[1] and text.count(": a busy machine") == 2
    assert render_of(out) == text


def render_of(path):
    return readme.render(json.loads(path.read_text())) + "\n"


def test_new_runs_replace_those_of_the_same_command(run_folders, tmp_path, capsys):
    out = tmp_path / "out.json"
    for chosen in (run_folders, run_folders[:1]):
        assert main(["recipes", *map(str, chosen), "--json", str(out)]) == 0
    document = json.loads(out.read_text())
    assert [(row["command"].endswith("average"), len(row["runs"])) for row in document["rows"]] == [(False, 1), (True, 1)]
    assert render_of(out) in capsys.readouterr().out


def test_what_is_no_finished_run_is_named(run_folders, tmp_path, capsys):
    (run_folders[1] / "metrics.json").unlink()
    (run_folders[2] / "metrics.json").write_text('{"test_accuracy": 1}')
    for folders, message in (
        ([tmp_path], "is no run folder"),
        ([run_folders[1]], "metrics.json"),
        ([run_folders[2]], "metrics.json lacks 'test_images'"),
        ([run_folders[0]] * 2, "two runs have the same seed, 0, 0"),
    ):
        with pytest.raises(SystemExit):
            main(["recipes", *map(str, folders)])
        assert message in capsys.readouterr().err
