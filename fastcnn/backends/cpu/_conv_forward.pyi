import numpy as np

Pair = tuple[int, int]
Padding = tuple[Pair, Pair]

class Packed:
    @property
    def nbytes(self) -> int: ...

def pack(weight: np.ndarray, groups: int) -> Packed: ...
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
) -> np.ndarray: ...
def conv2d_grad_input_flipped(
    grad_output: np.ndarray, weight: np.ndarray, input_shape: tuple[int, ...], stride: Pair, padding: Padding, dilation: Pair, groups: int,
    out: np.ndarray | None = None,
) -> np.ndarray: ...
def linear(input: np.ndarray, weight: np.ndarray, bias: np.ndarray | None, out: np.ndarray | None = None, packed: Packed | None = None) -> np.ndarray: ...
def linear_grad_input(grad_output: np.ndarray, weight: np.ndarray, out: np.ndarray | None = None) -> np.ndarray: ...
