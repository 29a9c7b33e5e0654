"""Transforms against their formulas, and resize against torch where it is installed."""

import numpy as np
import pytest

from fastcnn import datasets
from fastcnn.datasets import Dataset, Rescale, Standardize, pad_to, resize, transforms

RNG = np.random.default_rng(0)


def random_images(*shape, dtype=np.uint8):
    images = RNG.integers(0, 256, shape)
    return images.astype(dtype) if dtype == np.uint8 else (images / 7).astype(dtype)


def dataset_of(images):
    return Dataset(images, np.zeros(len(images), int), ("only",), "made")


# Standardize


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize("per_channel", [True, False])
def test_standardize_fit_agrees_with_numpy(dtype, per_channel, monkeypatch):
    monkeypatch.setattr(transforms, "CHUNK_BYTES", 2000)  # several pieces
    images = random_images(23, 3, 5, 7, dtype=dtype)
    images[:, 1] //= 2
    fitted, axes = Standardize.fit(dataset_of(images), per_channel), (0, 2, 3) if per_channel else None
    wide = images.astype(np.float64)
    np.testing.assert_allclose(fitted.mean, np.atleast_1d(wide.mean(axis=axes)), rtol=1e-12)
    np.testing.assert_allclose(fitted.std, np.atleast_1d(wide.std(axis=axes)), rtol=1e-12)


def test_standardize_fit_does_not_depend_on_order_or_pieces(monkeypatch):
    images = random_images(40, 2, 3, 3)
    first = Standardize.fit(dataset_of(images))
    monkeypatch.setattr(transforms, "CHUNK_BYTES", 1)
    second = Standardize.fit(dataset_of(images[::-1]))
    assert np.array_equal(first.mean, second.mean) and np.array_equal(first.std, second.std)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.float64])
def test_standardize_call(dtype):
    images = random_images(6, 3, 4, 5, dtype=dtype)
    before, standardize = images.copy(), Standardize([10, 20, 30], [2, 4, 5])
    output = standardize(images)
    assert output.dtype == np.float32 and output.flags.c_contiguous and np.array_equal(images, before)
    expected = (images - np.array([10, 20, 30]).reshape(3, 1, 1)) / np.array([2, 4, 5]).reshape(3, 1, 1)
    np.testing.assert_allclose(output, expected, rtol=3e-7, atol=3e-5)
    assert np.array_equal(standardize(images[2]), output[2])
    channels_last = np.ascontiguousarray(images.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    assert np.array_equal(standardize(channels_last), output) and standardize(channels_last).flags.c_contiguous


def test_standardize_result_has_mean_zero_and_std_one():
    train, _ = datasets.digits()
    output = Standardize.fit(train)(train.images).astype(np.float64)
    assert abs(output.mean()) < 1e-6 and abs(output.std() - 1) < 1e-6


def test_standardize_constant_channel_becomes_zero():
    images = random_images(5, 2, 3, 3)
    images[:, 1] = 7
    fitted = Standardize.fit(dataset_of(images))
    assert fitted.std[1] == 1 and not fitted(images)[:, 1].any()


def test_standardize_state_dict_round_trip():
    first, second = Standardize([1, 2], [3, 4]), Standardize(0, 1)
    state = first.state_dict()
    second.load_state_dict(state)
    state["mean"][0] = 99
    assert second.mean.tolist() == [1, 2] and first.mean.tolist() == [1, 2]
    assert repr(second) == "Standardize(mean=[1.0, 2.0], std=[3.0, 4.0])"


@pytest.mark.parametrize(
    "mean, std, message",
    [([1, 2], [1], "of one length"), ([[1]], [[1]], "1-D"), ([0], [0], "std positive"), ([np.nan], [1], "must be finite"), ([0], [np.inf], "std positive")],
)
def test_standardize_refuses_states(mean, std, message):
    with pytest.raises(ValueError, match=message):
        Standardize(mean, std)


def test_standardize_refuses_images():
    with pytest.raises(ValueError, match=r"fitted to 3 channels but the images have shape \(2, 4, 5, 5\)"):
        Standardize([0] * 3, [1] * 3)(random_images(2, 4, 5, 5))
    with pytest.raises(ValueError, match="has no pixels"):
        Standardize.fit(dataset_of(random_images(0, 1, 2, 2)))
    with pytest.raises(ValueError, match="NaN or infinite"):
        Standardize.fit(dataset_of(np.full((1, 1, 2, 2), np.nan, np.float32)))


def test_rescale():
    images = np.array([0, 51, 255], np.uint8).reshape(1, 1, 1, 3)
    output = Rescale()(images)
    assert output.dtype == np.float32
    np.testing.assert_allclose(output.ravel(), [0, 0.2, 1], rtol=1e-6)
    np.testing.assert_allclose(Rescale(-0.1, 1.175)(images).ravel(), [-0.1, 0.155, 1.175], rtol=1e-6)
    assert repr(Rescale(-0.1, 1.175)) == "Rescale(-0.1, 1.175)"
    with pytest.raises(TypeError, match="must be uint8, got float32"):
        Rescale()(output)


# pad_to


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_pad_to_centres(dtype):
    images = random_images(2, 3, 28, 27, dtype=dtype)
    output = pad_to(images, 32)
    assert output.shape == (2, 3, 32, 32) and output.dtype == dtype
    assert np.array_equal(output[:, :, 2:30, 2:29], images)
    assert output.sum(dtype=np.float64) == images.sum(dtype=np.float64)
    assert pad_to(images, (28, 31), value=5)[0, 0, 0, :2].tolist() == [5, 5]
    assert np.array_equal(pad_to(images, (28, 27)), images)


def test_pad_to_refuses():
    with pytest.raises(ValueError, match="pad_to: size 27x32 is smaller than the images, which are 28x28"):
        pad_to(random_images(1, 1, 28, 28), (27, 32))


# resize


@pytest.mark.parametrize("mode", ["nearest", "bilinear", "bicubic"])
@pytest.mark.parametrize("H, W, OH, OW", [(8, 8, 32, 32), (8, 8, 3, 5), (5, 7, 5, 7), (1, 1, 4, 3), (7, 2, 20, 9), (28, 28, 1, 1)])
def test_resize_agrees_with_torch(mode, H, W, OH, OW):
    torch = pytest.importorskip("torch")
    images = random_images(3, 2, H, W, dtype=np.float64)
    options = {} if mode == "nearest" else {"align_corners": False}
    expected = torch.nn.functional.interpolate(torch.from_numpy(images), (OH, OW), mode=mode, **options).numpy()
    np.testing.assert_allclose(resize(images, (OH, OW), mode), expected, rtol=1e-12, atol=1e-12)
    narrow = resize(images.astype(np.float32), (OH, OW), mode)
    assert narrow.dtype == np.float32
    np.testing.assert_allclose(narrow, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("mode", ["nearest", "bilinear", "bicubic"])
def test_resize_uint8_rounds_and_clips(mode):
    images = (RNG.random((4, 1, 6, 6)) < 0.5).astype(np.uint8) * 255  # bicubic overshoots here
    output = resize(images, 15, mode)
    assert output.dtype == np.uint8
    expected = np.clip(np.rint(resize(images.astype(np.float32), 15, mode)), 0, 255)
    assert np.array_equal(output, expected)


@pytest.mark.parametrize("mode", ["nearest", "bilinear", "bicubic"])
def test_resize_to_the_same_size_changes_nothing(mode):
    images = random_images(2, 3, 5, 4)
    output = resize(images, (5, 4), mode)
    assert np.array_equal(output, images) and not np.shares_memory(output, images)


@pytest.mark.parametrize("mode", ["nearest", "bilinear", "bicubic"])
def test_resize_keeps_leading_axes_and_pieces_agree(mode, monkeypatch):
    images = random_images(5, 2, 3, 4)
    output = resize(images, (6, 7), mode)
    assert np.array_equal(resize(images[0, 0], (6, 7), mode), output[0, 0])
    monkeypatch.setattr(transforms, "CHUNK_BYTES", 500)
    assert np.array_equal(resize(images, (6, 7), mode), output)
    assert np.array_equal(resize(images[:, :, ::-1, ::-1][:, :, ::-1, ::-1], (6, 7), mode), output)
    assert resize(images[:0], 8, mode).shape == (0, 2, 8, 8)


def test_resize_digits_for_lenet():
    train, _ = datasets.digits()
    large = train[:10].map(lambda images: resize(images, 32, "bicubic"))
    assert large.shape == (1, 32, 32) and large.images.dtype == np.uint8


@pytest.mark.parametrize(
    "images, size, mode, error, message",
    [
        (random_images(1, 1, 4, 4), 8, "cubic", ValueError, "mode must be 'nearest', 'bilinear' or 'bicubic', got 'cubic'"),
        (random_images(1, 1, 4, 4), (8, 0), "nearest", ValueError, "size must be positive, got 8x0"),
        (random_images(1, 1, 4, 4), (8, 8, 8), "nearest", TypeError, r"an int or a pair \(H, W\)"),
        (random_images(1, 1, 4, 4), 8.0, "nearest", TypeError, "an int or a pair"),
        (random_images(1, 1, 4, 4).astype(np.int32), 8, "nearest", TypeError, "uint8, float32 or float64, got int32"),
        (random_images(1, 1, 0, 4), 8, "bilinear", ValueError, "empty"),
    ],
)
def test_resize_refuses(images, size, mode, error, message):
    with pytest.raises(error, match=message):
        resize(images, size, mode)
