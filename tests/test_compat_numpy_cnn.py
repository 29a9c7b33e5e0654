"""fastcnn.compat.numpy_cnn against code in the course's style (bench/courses/numpy_cnn): forward and backward, float64, error at most 1e-9."""

import numpy as np
import pytest

from bench.courses.numpy_cnn.CNN import backward, forward
from fastcnn.compat import numpy_cnn

TOLERANCE = 1e-9
# (C, H, W), O, f, s
CONVS = [((1, 28, 28), 8, 5, 1), ((3, 9, 9), 4, 3, 2), ((2, 7, 7), 3, 2, 1), ((1, 8, 6), 2, 3, 1), ((4, 5, 5), 3, 1, 1), ((2, 8, 8), 3, 3, 3)]
POOLS = [((3, 8, 8), 2, 2), ((2, 7, 7), 2, 2), ((2, 9, 9), 3, 2), ((1, 6, 5), 3, 1), ((2, 7, 7), 2, 3)]


def close(ours, theirs):
    assert ours.shape == theirs.shape
    assert ours.dtype == np.float64
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize(("shape", "O", "f", "s"), CONVS)
def test_convolution(rng, shape, O, f, s):
    image, filt, bias = rng.standard_normal(shape), rng.standard_normal((O, shape[0], f, f)), rng.standard_normal((O, 1))
    expected = forward.convolution(image, filt, bias, s)
    close(numpy_cnn.convolution(image, filt, bias, s), expected)
    dconv = rng.standard_normal(expected.shape)
    for ours, theirs in zip(numpy_cnn.convolutionBackward(dconv, image, filt, s), backward.convolutionBackward(dconv, image, filt, s), strict=True):
        close(ours, theirs)


@pytest.mark.parametrize(("shape", "f", "s"), POOLS)
@pytest.mark.parametrize("tied", [False, True])
def test_maxpool(rng, shape, f, s, tied):
    image = np.round(rng.standard_normal(shape)) if tied else rng.standard_normal(shape)
    expected = forward.maxpool(image, f, s)
    close(numpy_cnn.maxpool(image, f, s), expected)
    dpool = rng.standard_normal(expected.shape)
    close(numpy_cnn.maxpoolBackward(dpool, image, f, s), backward.maxpoolBackward(dpool, image, f, s))


def test_defaults(rng):
    image = rng.standard_normal((2, 6, 6))
    close(numpy_cnn.maxpool(image), forward.maxpool(image, 2, 2))
    filt, bias = rng.standard_normal((3, 2, 3, 3)), np.zeros((3, 1))
    close(numpy_cnn.convolution(image, filt, bias), forward.convolution(image, filt, bias, 1))


@pytest.mark.parametrize(("f", "s"), [(2, 2), (3, 2), (2, 1)])
def test_a_nan_is_the_maximum_going_forward_and_none_going_back(rng, f, s):
    image = rng.standard_normal((2, 6, 6))
    image[0, 1, 2] = image[1, 0, 0] = np.nan
    out = numpy_cnn.maxpool(image, f, s)
    np.testing.assert_array_equal(np.isnan(out), np.isnan(forward.maxpool(image, f, s)))
    dpool = rng.standard_normal(out.shape)
    close(numpy_cnn.maxpoolBackward(dpool, image, f, s), backward.maxpoolBackward(dpool, image, f, s))
    image[0, :f, :f] = np.nan
    with pytest.raises(ValueError, match="All-NaN slice"):
        numpy_cnn.maxpoolBackward(dpool, image, f, s)


def test_infinities_are_no_nan(rng):
    image = rng.standard_normal((1, 4, 4))
    image[0, 0, 0], image[0, 2:, 2:] = np.inf, -np.inf
    dpool = rng.standard_normal((1, 2, 2))
    close(numpy_cnn.maxpoolBackward(dpool, image, 2, 2), backward.maxpoolBackward(dpool, image, 2, 2))


def test_a_batch_is_refused(rng):
    with pytest.raises(ValueError, match=r"convolution: image must be \(C, H, W\), got 4 axes"):
        numpy_cnn.convolution(np.zeros((1, 1, 4, 4)), np.zeros((1, 1, 2, 2)), np.zeros((1, 1)))
    with pytest.raises(ValueError, match="maxpool: image must be"):
        numpy_cnn.maxpool(np.zeros((1, 1, 4, 4)))


def test_relu_in_place_on_the_output_changes_nothing_else(rng):
    """The course writes conv1[conv1 <= 0] = 0 into what convolution returned, and its Adam changes filters in place."""
    image, filt, bias = rng.standard_normal((1, 8, 8)), rng.standard_normal((2, 1, 3, 3)), rng.standard_normal((2, 1))
    first = numpy_cnn.convolution(image, filt, bias)
    first[first <= 0] = 0
    close(numpy_cnn.convolution(image, filt, bias), forward.convolution(image, filt, bias))
    filt *= 2
    close(numpy_cnn.convolution(image, filt, bias), forward.convolution(image, filt, bias))
