"""`python -m bench roofline`: what this machine can do at most, and which fraction of it the convolutions reach.

    bound = min(FMA peak, intensity * copy bandwidth)        (Williams, Waterman & Patterson 2009, doi:10.1145/1498765.1498785)

The peak is measured, not looked up: independent multiply-adds in registers, as many as the pipes hold. The intensity
counts each number of input, weight and output once across memory, the least that any algorithm can do.
"""

import time

import numpy as np

from bench import checks, environment, report
from bench.peers import FORMATS, OPS, Fastcnn, Operands
from bench.problems import Problem, load
from bench.timing import interleaved

KIND = "roofline"

PROBE_SECONDS = 0.05
"""Least length of one run of a probe: starting and joining the threads (tens of microseconds) then weighs under 1 in 1000."""

COPY_BYTES = 256 * 2**20
"""Size of each of the two copied arrays: beyond the last-level cache of any CPU met so far."""


def fma_peak(dtype: str, threads: int, repeats: int = 5) -> float:
    """Floating-point operations per second of a register-only multiply-add loop on `threads` threads; best of `repeats`."""
    from fastcnn.backends import cpu

    def run(iterations: int) -> tuple[float, float]:
        start = time.perf_counter()
        flops = cpu.fma_probe(dtype, iterations, threads)
        return flops, time.perf_counter() - start

    iterations = 1 << 16
    while run(iterations)[1] < PROBE_SECONDS:
        iterations *= 2
    return max(flops / seconds for flops, seconds in (run(iterations) for _ in range(repeats)))


def copy_bandwidth(threads: int, repeats: int = 5) -> float:
    """Bytes per second, read and written together, of a copy far beyond the caches; best of `repeats`."""
    from fastcnn.backends import cpu

    source = np.ones(COPY_BYTES // 4, np.float32)
    target = np.zeros_like(source)
    cpu.copy_probe(target, source, threads)  # touches every page, so that none is faulted in on the clock

    def run() -> float:
        start = time.perf_counter()
        moved = cpu.copy_probe(target, source, threads)
        return moved / (time.perf_counter() - start)

    return max(run() for _ in range(repeats))


def limits(dtype: str, threads: int) -> dict[str, float]:
    """The machine's limits in the middle of a comparison: "fma" in flop/s and "copy" in bytes/s."""
    return {"fma": fma_peak(dtype, threads), "copy": copy_bandwidth(threads, 3)}


def bound(flops: int, moved: int, machine: dict[str, float] | None) -> float | None:
    """Flop/s that no algorithm with these operations can pass when so many bytes have to cross memory; None without a machine."""
    return min(machine["fma"], flops / moved * machine["copy"]) if machine and machine.get("copy") else None


def run(threads: int, repeats: int) -> dict:
    """Peaks and bandwidth on one and on all threads, then the layer of shapes/roofline.txt on all; no peer, so all in this process."""
    header = environment.describe(threads, Fastcnn("cpu").start(threads))
    machine = {
        str(count): {"float32": fma_peak("float32", count), "float64": fma_peak("float64", count), "copy": copy_bandwidth(count)}
        for count in sorted({1, threads})
    }
    cases = [("float32", "direct"), ("float32", "auto"), ("float64", "direct")]  # float64 has no other algorithm than direct
    (problem,) = load("roofline")
    rows = [row for dtype, algorithm in cases for row in _layer(problem, dtype, algorithm, machine[str(threads)], repeats)]
    settings = {"threads": threads, "repeats": repeats, "problem": problem.name, "shape": str(problem)}
    return {"kind": KIND, "header": header, "settings": settings, "refused": [], "machine": machine, "rows": rows}


def _layer(problem: Problem, dtype: str, algorithm: str, machine: dict[str, float], repeats: int) -> list[dict]:
    operands = Operands.of(problem, dtype)
    moved = problem.elements * operands.input.itemsize
    intensity, roof = problem.flops / moved, bound(problem.flops, moved, {"fma": machine[dtype], "copy": machine["copy"]})
    rows = []
    for op in OPS:
        exact = Fastcnn("reference").contender(problem, op, operands.astype("float64")).result()
        for memory_format in FORMATS:
            contender = Fastcnn("cpu", memory_format, algorithm).contender(problem, op, operands)
            error = checks.checked_error([contender.result()], [exact], dtype, checks.limit(problem, op, dtype))
            timing = interleaved([contender], repeats)[contender.name]
            case = {"op": op, "dtype": dtype, "format": memory_format, "algorithm": algorithm}
            times = {"minimum": timing.minimum, "median": timing.median, "speed": problem.flops / timing.minimum}
            rows.append(case | times | {"error": error, "intensity": intensity, "bound": roof, "peak": machine[dtype]})
    return rows


def render(document: dict) -> str:
    """Header, the machine's limits, and the layer's share of them."""
    machine = document["machine"]
    probes = [[count, *(report.three_digits(limit[key] / 1e9) for key in ("float32", "float64", "copy"))] for count, limit in machine.items()]
    layers = [
        [
            row["op"],
            row["dtype"],
            row["format"],
            row["algorithm"],
            report.milliseconds(row["minimum"]),
            report.milliseconds(row["median"]),
            report.three_digits(row["speed"] / 1e9),
            report.percent(row["speed"] / row["peak"]),
            report.three_digits(row["intensity"]),
            report.three_digits(row["bound"] / 1e9),
            report.percent(row["speed"] / row["bound"]),
            report.scientific(row["error"]),
        ]
        for row in document["rows"]
    ]
    columns = [
        "op", "dtype", "format", "algorithm", "ms", "median", "GFLOP/s", "% peak",
        "flop/byte", "bound GFLOP/s", "% bound", "error",
    ]  # fmt: skip
    settings = document["settings"]
    return "\n".join(
        [
            "### Roofline",
            report.header(document["header"]),
            "\n" + report.table(["threads", "float32 peak GFLOP/s", "float64 peak GFLOP/s", "copy GB/s"], probes),
            f"\nThe layer {settings['problem']} ({settings['shape']}) on {settings['threads']} threads, minimum and median of "
            f"{settings['repeats']} turns. GFLOP/s count the direct algorithm's operations: Winograd does fewer and may pass 100 %.\n",
            report.table(columns, layers),
        ]
    )
