import numpy as np

def batch_norm(
    input: np.ndarray, weight: np.ndarray | None, bias: np.ndarray | None, mean: np.ndarray | None, var: np.ndarray | None, eps: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]: ...
def batch_norm_backward(
    grad_output: np.ndarray, input: np.ndarray, weight: np.ndarray | None, mean: np.ndarray, var: np.ndarray, eps: float, training: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]: ...
class Following:
    mean: np.ndarray
    var: np.ndarray

    def __init__(
        self,
        shape: tuple[int, ...],
        dtype: np.dtype,
        normalised: bool = False,
        eps: float = 0,
        activation: str | None = None,
        slope: float = 0,
        pool: str | tuple[tuple[int, int], tuple[int, int]] | None = None,
    ) -> None: ...
    def take_statistics(self, x: np.ndarray, weight: np.ndarray | None, bias: np.ndarray | None) -> None: ...
    def apply(self, x: np.ndarray, out: np.ndarray, winners: np.ndarray | None) -> None: ...
    def backward(
        self, grad_output: np.ndarray, x: np.ndarray, weight: np.ndarray | None, out: np.ndarray, winners: np.ndarray | None, wants_bias: bool
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]: ...
