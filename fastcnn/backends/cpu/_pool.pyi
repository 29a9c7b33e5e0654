import numpy as np

Pair = tuple[int, int]

Maxima = tuple[np.ndarray, np.ndarray | None]

def max_pool2d(input: np.ndarray, kernel_size: Pair, stride: Pair, padding: Pair, dilation: Pair, output_size: Pair, winners: str | None) -> Maxima: ...
def adaptive_max_pool2d(input: np.ndarray, output_size: Pair, winners: str | None) -> Maxima: ...
def max_pool2d_backward_places(
    grad_output: np.ndarray, places: np.ndarray, input_shape: tuple[int, ...], kernel_size: Pair, stride: Pair, padding: Pair, dilation: Pair
) -> np.ndarray: ...
def max_pool2d_backward(grad_output: np.ndarray, indices: np.ndarray, input_shape: tuple[int, ...]) -> np.ndarray: ...
def max_pool2d_backward_ties(
    grad_output: np.ndarray, input: np.ndarray, kernel_size: Pair, stride: Pair, padding: Pair, dilation: Pair, ties: str, accumulate: bool
) -> np.ndarray: ...
def avg_pool2d(
    input: np.ndarray,
    kernel_size: Pair,
    stride: Pair,
    padding: Pair,
    output_size: Pair,
    count_include_pad: bool,
    divisor_override: int | None,
    out: np.ndarray | None = None,
) -> np.ndarray: ...
def avg_pool2d_backward(
    grad_output: np.ndarray,
    input_shape: tuple[int, ...],
    kernel_size: Pair,
    stride: Pair,
    padding: Pair,
    count_include_pad: bool,
    divisor_override: int | None,
    out: np.ndarray | None = None,
) -> np.ndarray: ...
def adaptive_avg_pool2d(input: np.ndarray, output_size: Pair) -> np.ndarray: ...
def adaptive_avg_pool2d_backward(grad_output: np.ndarray, input_shape: tuple[int, ...]) -> np.ndarray: ...
