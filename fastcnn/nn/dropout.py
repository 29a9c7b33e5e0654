"""Dropout, in both historical forms. In both, p is the probability to DROP an element, as in torch.

Beware when copying an experiment: Srivastava et al. 2014 (JMLR 15) and part of the coursework built on it write p for the
probability of RETAINING a unit; their p = 0.8 is p = 0.2 here.
"""

from __future__ import annotations

import numpy as np

from fastcnn import functional as F
from fastcnn.functional.activation import draw_mask
from fastcnn.nn.module import Module
from fastcnn.options import flag, number
from fastcnn.random import default_rng
from fastcnn.shapes import ShapeError, by


class _Dropout(Module):
    def __init__(self, p: float = 0.5, inplace: bool = False, *, rng: np.random.Generator | int | None = None) -> None:
        op = type(self).__name__
        self.p, self.inplace = number(p, op, "p", 0, 1), flag(inplace, op, "inplace")
        # None is kept: the library's generator is then looked up in each forward, so that a later manual_seed applies.
        self.rng = None if rng is None else default_rng(rng)

    def extra_repr(self) -> str:
        return f"p={self.p}, inplace={self.inplace}"


class Dropout(_Dropout):
    """Inverted dropout: in training each element is dropped with probability p and the others are multiplied by 1/(1 - p), so that
    evaluation leaves the input as it is (and returns that very array)."""

    def forward(self, input: np.ndarray) -> np.ndarray:
        if not self.training or self.p == 0:
            self.save_for_backward(input, None)
            return input
        output, mask = F.dropout(input, self.p, rng=self.rng, return_mask=True)
        self.save_for_backward(input, mask)
        return output

    def backward(self, grad_output: np.ndarray) -> np.ndarray:
        input, mask = self.saved_for_backward()
        return grad_output if mask is None else F.dropout_backward(grad_output, input, self.p, mask=mask)


class VanillaDropout(_Dropout):
    """The original, non-inverted dropout: in training each element is dropped with probability p and the others stay as they are;
    evaluation multiplies everything by the probability of having been kept, 1 - p."""

    def forward(self, input: np.ndarray) -> np.ndarray:
        if not self.training:
            factor = input.dtype.type(1 - self.p)
        elif self.p == 0:
            factor = input.dtype.type(1)
        else:
            factor = draw_mask(input.shape, self.p, self.rng)
        self.save_for_backward(input.shape, factor)
        return input * factor

    def backward(self, grad_output: np.ndarray) -> np.ndarray:
        shape, factor = self.saved_for_backward()
        if grad_output.shape != shape:
            raise ShapeError(f"vanilla_dropout: grad_output is {by(grad_output.shape)} but the output is {by(shape)}")
        return grad_output * factor
