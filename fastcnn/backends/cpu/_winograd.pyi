import numpy as np

from fastcnn.backends.cpu._norm import Following

Pair = tuple[int, int]
Padding = tuple[Pair, Pair]

class Packed:
    @property
    def nbytes(self) -> int: ...

def pack(weight: np.ndarray) -> Packed: ...
def conv2d(
    input: np.ndarray,
    weight: np.ndarray,
    bias: np.ndarray | None,
    stride: Pair,
    padding: Padding,
    dilation: Pair,
    groups: int,
    out: np.ndarray | None = None,
    packed: Packed | None = None,
    before: Following | None = None,
    statistics: Following | None = None,
) -> np.ndarray: ...
def conv2d_grad_input(
    grad_output: np.ndarray, weight: np.ndarray, input_shape: tuple[int, ...], stride: Pair, padding: Padding, dilation: Pair, groups: int,
    out: np.ndarray | None = None,
) -> np.ndarray: ...
def conv2d_grad_weight(
    grad_output: np.ndarray, input: np.ndarray, weight_shape: tuple[int, ...], stride: Pair, padding: Padding, dilation: Pair, groups: int,
    out: np.ndarray | None = None, before: Following | None = None,
) -> np.ndarray: ...
