import numpy as np

def batch_norm(
    input: np.ndarray, weight: np.ndarray | None, bias: np.ndarray | None, mean: np.ndarray | None, var: np.ndarray | None, eps: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]: ...
def batch_norm_backward(
    grad_output: np.ndarray, input: np.ndarray, weight: np.ndarray | None, mean: np.ndarray, var: np.ndarray, eps: float, training: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]: ...
def norm_act_pool(
    x: np.ndarray,
    normalised: bool,
    weight: np.ndarray | None,
    bias: np.ndarray | None,
    mean: np.ndarray | None,
    var: np.ndarray | None,
    eps: float,
    activation: str | None,
    slope: float,
    out: np.ndarray,
    pooled: bool,
    winners: np.ndarray | None,
) -> tuple[np.ndarray, np.ndarray]: ...
def norm_act_pool_backward(
    grad_output: np.ndarray,
    x: np.ndarray,
    normalised: bool,
    weight: np.ndarray | None,
    bias: np.ndarray | None,
    mean: np.ndarray | None,
    var: np.ndarray | None,
    eps: float,
    activation: str | None,
    slope: float,
    out: np.ndarray,
    pooled: bool,
    winners: np.ndarray | None,
    wants_bias: bool,
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]: ...
