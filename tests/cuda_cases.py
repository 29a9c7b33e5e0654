"""One call of the functional table on backend "cuda" against the reference: shared by the simulator's tests and those on a GPU."""

import numpy as np

import fastcnn
from fastcnn.backend import use_backend


def on_device(values):
    """Arrays (and single class numbers) on the device, everything else as it is."""
    return {name: fastcnn.to_device(np.asarray(v)) if isinstance(v, (np.ndarray, np.integer)) else v for name, v in values.items()}


def copied(values):
    return {name: v.copy() if isinstance(v, np.ndarray) else v for name, v in values.items()}


def assert_close(actual, expected, factor=96):
    """Within factor*eps of the largest magnitude: the sums of the table have few terms of that size."""
    actual, expected = fastcnn.to_host(actual), np.asarray(expected)
    assert actual.shape == expected.shape
    assert actual.dtype == expected.dtype
    scale = np.abs(expected[np.isfinite(expected)]).max(initial=1)
    np.testing.assert_allclose(actual, expected, rtol=0, atol=factor * np.finfo(expected.dtype).eps * scale)


def check(case, dtype):
    """Forward and every gradient of a Case, and the running statistics that it moves."""
    arrays, others = case.make(dtype)
    on_host = copied(others)
    with use_backend("reference"):
        expected = case.forward(arrays, on_host)
        scalar = not isinstance(expected, np.ndarray)
        grad_output = 0.7 if scalar else np.random.default_rng(1).standard_normal(expected.shape).astype(dtype)
        expected_grads = case.backward(grad_output, arrays, on_host)
    with use_backend("cuda"):
        there, others = on_device(arrays), on_device(others)
        output = case.forward(there, others)
        grads = case.backward(grad_output if scalar else fastcnn.to_device(grad_output), there, others)
    assert_close(output, expected)
    for grad, expected_grad in zip(grads, expected_grads, strict=True):
        assert_close(grad, expected_grad)
    for name, value in on_host.items():
        if name.startswith("running") and value is not None:
            assert_close(others[name], value)
    for name, value in arrays.items():
        np.testing.assert_array_equal(fastcnn.to_host(there[name]), value)
