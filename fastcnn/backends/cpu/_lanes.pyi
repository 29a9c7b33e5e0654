from collections.abc import Sequence

import numpy as np
from numpy.typing import DTypeLike

ACTIVATIONS: dict[str, int]
POOLS: dict[str, int]

class Lanes:
    output_shape: tuple[int, int, int]
    @property
    def nbytes(self) -> int: ...
    def __init__(self, dtype: DTypeLike, input_shape: tuple[int, int, int], stages: Sequence[tuple]) -> None: ...
    def bytes_for(self, batch: int) -> int: ...
    def forward(
        self, input: np.ndarray, weights: Sequence[np.ndarray], biases: Sequence[np.ndarray | None], training: bool, output: np.ndarray
    ) -> None: ...
    def backward(
        self,
        grad_output: np.ndarray,
        weights: Sequence[np.ndarray],
        grad_weights: Sequence[np.ndarray | None],
        grad_biases: Sequence[np.ndarray | None],
        grad_input: np.ndarray | None,
    ) -> None: ...

Pair = tuple[int, int]
Padding = tuple[Pair, Pair]

class Convolution(Lanes):
    def weight_gradient(self, grad_output: np.ndarray, input: np.ndarray, out: np.ndarray) -> None: ...
    def input_gradient(self, grad_output: np.ndarray, weight: np.ndarray, out: np.ndarray) -> None: ...

def conv2d(
    input: np.ndarray,
    weight: np.ndarray,
    bias: np.ndarray | None,
    stride: Pair,
    padding: Padding,
    dilation: Pair,
    groups: int,
    out: np.ndarray | None = None,
) -> np.ndarray: ...
def conv2d_grad_input(
    grad_output: np.ndarray,
    weight: np.ndarray,
    input_shape: tuple[int, ...],
    stride: Pair,
    padding: Padding,
    dilation: Pair,
    groups: int,
    out: np.ndarray | None = None,
) -> np.ndarray: ...
def conv2d_grad_weight(
    grad_output: np.ndarray,
    input: np.ndarray,
    weight_shape: tuple[int, ...],
    stride: Pair,
    padding: Padding,
    dilation: Pair,
    groups: int,
    out: np.ndarray | None = None,
) -> np.ndarray: ...
