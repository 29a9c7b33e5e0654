import numpy as np

Pair = tuple[int, int]
Padding = tuple[Pair, Pair]

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
    grad_output: np.ndarray, weight: np.ndarray, input_shape: tuple[int, ...], stride: Pair, padding: Padding, dilation: Pair, groups: int,
    out: np.ndarray | None = None,
) -> np.ndarray: ...
def conv2d_grad_weight(
    grad_output: np.ndarray, input: np.ndarray, weight_shape: tuple[int, ...], stride: Pair, padding: Padding, dilation: Pair, groups: int,
    out: np.ndarray | None = None,
) -> np.ndarray: ...
