"""Right first, fast second: no speed is measured before the result has been held against the float64 reference."""

import math

import numpy as np

from bench.problems import Problem
from bench.worker import Arrays


class WrongResult(ArithmeticError):
    """A library computed something else; it is not timed."""


def limit(problem: Problem, op: str, dtype: str) -> float:
    """Largest error that still counts as rounding: 16 eps sqrt(k), k the number of products summed per result.

    Products of standard normal numbers: partial sums grow as sqrt(k), each addition rounds them by eps, k of these errors
    add up as a random walk: about eps k against results of size sqrt(k), so eps sqrt(k), and 16 leaves room for Winograd's
    transforms. One product lost changes a result by 1/(4 sqrt(k)) of the largest: above the limit up to k = 1/(64 eps),
    131,072 products in float32.
    """
    k = {
        "forward": problem.C // problem.groups * problem.KH * problem.KW,
        "grad_input": problem.O // problem.groups * problem.KH * problem.KW,
        "grad_weight": problem.N * math.prod(problem.output_shape[2:]),
    }[op]
    return 16 * float(np.finfo(dtype).eps) * math.sqrt(k)


def error(result: np.ndarray, expected: np.ndarray) -> float:
    """max |result - expected| / max |expected|; NaN anywhere gives NaN."""
    difference = float(np.max(np.abs(result - expected), initial=0.0))
    scale = float(np.max(np.abs(expected), initial=0.0))
    return difference / scale if scale > 0 else difference


def checked_error(results: Arrays, truth: Arrays, dtype: str, *limits: float) -> float:
    """The largest error of an op's results, each of which has its limit; WrongResult if shape, dtype or numbers are not the op's."""
    errors = []
    for result, expected, limit in zip(results, truth, limits, strict=True):
        if result.shape != expected.shape or result.dtype != np.dtype(dtype):
            raise WrongResult(f"returned {result.dtype} {result.shape} where {dtype} {expected.shape} was expected")
        errors.append(error(result, expected))
        if not errors[-1] <= limit:  # NaN is wrong too
            raise WrongResult(f"error {errors[-1]:.1e} above {limit:.1e}")
    return max(errors)


def limits(problem: Problem, op: str, dtype: str) -> list[float]:
    """The limit of each result of an op."""
    return [limit(problem, one, dtype) for one in (("grad_input", "grad_weight") if op == "backward" else (op,))]
