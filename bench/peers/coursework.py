"""Convolution in NumPy as course assignments have it written: the two baselines that most readers know by heart.

im2col   rows of patches by fancy indexing, one matrix product, and np.add.at for the way back
loops    four nested loops over images, filters and output pixels, for tiny sizes only
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np

from bench.peers.library import BACKWARD, Library, Operands
from bench.problems import Problem
from bench.timing import Contender

MOST_PIXELS = 4096
"""Output numbers beyond which the loops are not waited for: some 5 us each."""


@dataclass(frozen=True)
class Coursework(Library):
    style: str  # im2col or loops
    yardstick = True

    @property
    def name(self) -> str:
        return self.style

    def start(self, threads: int) -> dict[str, str]:
        return {}  # its thread pool is that of NumPy's BLAS, set by the environment

    def contender(self, problem: Problem, op: str, operands: Operands) -> Contender | None:
        if problem.groups != 1 or problem.dilation != (1, 1):  # no assignment asks for them
            return None
        if self.style == "loops" and problem.N * problem.O * problem.output_shape[2] * problem.output_shape[3] > MOST_PIXELS:
            return None
        if op == BACKWARD:
            gradients = [self.contender(problem, one, operands).call for one in ("grad_input", "grad_weight")]
            return Contender(self.name, lambda: tuple(gradient() for gradient in gradients))
        function = {"im2col": IM2COL, "loops": LOOPS}[self.style][op]
        arrays = {"forward": ("input", "weight"), "grad_input": ("grad_output", "weight"), "grad_weight": ("grad_output", "input")}[op]
        return Contender(self.name, partial(function, *(getattr(operands, name) for name in arrays), problem))


def _indices(problem: Problem) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Channel, row and column in the padded input of every (tap, output pixel)."""
    (sh, sw), (_, _, OH, OW) = problem.stride, problem.output_shape
    taps = problem.KH * problem.KW
    k = np.repeat(np.arange(problem.C), taps)[:, None]
    i = np.tile(np.repeat(np.arange(problem.KH), problem.KW), problem.C)[:, None] + sh * np.repeat(np.arange(OH), OW)[None]
    j = np.tile(np.tile(np.arange(problem.KW), problem.KH), problem.C)[:, None] + sw * np.tile(np.arange(OW), OH)[None]
    return k, i, j


def _padded(x: np.ndarray, problem: Problem) -> np.ndarray:
    ph, pw = problem.padding
    return np.pad(x, ((0, 0), (0, 0), (ph, ph), (pw, pw)))


def _columns(x: np.ndarray, problem: Problem) -> np.ndarray:
    """(C*KH*KW, OH*OW*N)"""
    k, i, j = _indices(problem)
    return _padded(x, problem)[:, k, i, j].transpose(1, 2, 0).reshape(len(k), -1)


def _rows(grad_output: np.ndarray) -> np.ndarray:
    """(O, OH*OW*N)"""
    return grad_output.transpose(1, 2, 3, 0).reshape(grad_output.shape[1], -1)


def im2col_forward(x: np.ndarray, weight: np.ndarray, problem: Problem) -> np.ndarray:
    N, O, OH, OW = problem.output_shape
    return (weight.reshape(O, -1) @ _columns(x, problem)).reshape(O, OH, OW, N).transpose(3, 0, 1, 2)


def im2col_grad_input(grad_output: np.ndarray, weight: np.ndarray, problem: Problem) -> np.ndarray:
    N, C, H, W = problem.input_shape
    ph, pw = problem.padding
    k, i, j = _indices(problem)
    columns = weight.reshape(problem.O, -1).T @ _rows(grad_output)
    padded = np.zeros((N, C, H + 2 * ph, W + 2 * pw), grad_output.dtype)
    np.add.at(padded, (slice(None), k, i, j), columns.reshape(len(k), -1, N).transpose(2, 0, 1))
    return padded[:, :, ph : ph + H, pw : pw + W]


def im2col_grad_weight(grad_output: np.ndarray, x: np.ndarray, problem: Problem) -> np.ndarray:
    return (_rows(grad_output) @ _columns(x, problem).T).reshape(problem.weight_shape)


def loops_forward(x: np.ndarray, weight: np.ndarray, problem: Problem) -> np.ndarray:
    padded, output = _padded(x, problem), np.zeros(problem.output_shape, x.dtype)
    for at, window in _windows(problem):
        n, o = at[:2]
        output[at] = np.sum(padded[n][window] * weight[o])
    return output


def loops_grad_input(grad_output: np.ndarray, weight: np.ndarray, problem: Problem) -> np.ndarray:
    (ph, pw), (_, _, H, W) = problem.padding, problem.input_shape
    padded = _padded(np.zeros(problem.input_shape, grad_output.dtype), problem)
    for at, window in _windows(problem):
        n, o = at[:2]
        padded[n][window] += weight[o] * grad_output[at]
    return padded[:, :, ph : ph + H, pw : pw + W]


def loops_grad_weight(grad_output: np.ndarray, x: np.ndarray, problem: Problem) -> np.ndarray:
    padded, grad = _padded(x, problem), np.zeros(problem.weight_shape, x.dtype)
    for at, window in _windows(problem):
        n, o = at[:2]
        grad[o] += padded[n][window] * grad_output[at]
    return grad


def _windows(problem: Problem):
    """((n, o, oh, ow), the window of image n that it sees), one by one."""
    (sh, sw), (N, O, OH, OW) = problem.stride, problem.output_shape
    for n in range(N):
        for o in range(O):
            for oh in range(OH):
                for ow in range(OW):
                    yield (n, o, oh, ow), (slice(None), slice(oh * sh, oh * sh + problem.KH), slice(ow * sw, ow * sw + problem.KW))


IM2COL = {"forward": im2col_forward, "grad_input": im2col_grad_input, "grad_weight": im2col_grad_weight}
LOOPS = {"forward": loops_forward, "grad_input": loops_grad_input, "grad_weight": loops_grad_weight}
