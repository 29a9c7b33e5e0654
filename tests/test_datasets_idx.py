"""IDX files: the published layouts are read, everything else is refused by a DatasetError that says what is wrong."""

import gzip
import struct

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from fastcnn import datasets
from fastcnn.datasets import DatasetError, idx, read_idx

IMAGES = np.random.default_rng(0).integers(0, 256, (6, 5, 4), dtype=np.uint8)
LABELS = np.array([3, 1, 4, 1, 5, 9], np.uint8)


def encode(array, code=8, shape=None):
    shape = array.shape if shape is None else shape
    return struct.pack(f">HBB{len(shape)}I", 0, code, len(shape), *shape) + array.tobytes()


def write_set(folder, compress=True, dots=False, images=IMAGES, labels=LABELS, parts=("train", "t10k")):
    folder.mkdir(parents=True, exist_ok=True)
    for part in parts:
        for name, array in ((f"{part}-images-idx3-ubyte", images), (f"{part}-labels-idx1-ubyte", labels)):
            name = name.replace("-idx", ".idx") if dots else name
            content = encode(array)
            (folder / (name + ".gz" if compress else name)).write_bytes(gzip.compress(content) if compress else content)
    return folder


@pytest.fixture
def path(tmp_path):
    return tmp_path / "file-idx"


@pytest.mark.parametrize("compress", [False, True], ids=["plain", "gzip"])
@pytest.mark.parametrize("array", [IMAGES, LABELS], ids=["images", "labels"])
def test_read_idx_round_trip(path, array, compress):
    path.write_bytes(gzip.compress(encode(array)) if compress else encode(array))
    read = read_idx(path, array.ndim)
    assert read.dtype == np.uint8 and read.flags.writeable
    assert np.array_equal(read, array)
    assert np.array_equal(read_idx(str(path), array.ndim), array)


@pytest.mark.parametrize("compress", [False, True], ids=["plain", "gzip"])
@pytest.mark.parametrize(
    "content, message",
    [
        (b"", "0 bytes where the magic number takes 4"),
        (b"PNG.....", "starts with 50 4e where two zero bytes"),
        (encode(IMAGES, code=0x0D), "type code 0x0d where unsigned bytes"),
        (encode(LABELS), r"magic number 2049 \(labels\) where 2051 \(images\) is expected"),
        (encode(IMAGES[None]), r"magic number 2052 \(4 axes\) where 2051"),
        (encode(IMAGES)[:9], "the header ends after 9 of 16 bytes"),
        (encode(IMAGES, shape=(0, 5, 4)), "says 0x5x4, which is empty"),
        (encode(IMAGES, shape=(2**32 - 1, 2**32 - 1, 2**32 - 1)), "more than the limit of 2,147,483,648"),
        (encode(IMAGES, shape=(600_000, 28, 28)), "says 600000x28x28, so 470,400,016 bytes, but the file has"),
    ],
    ids=["empty", "not_idx", "float", "labels", "four_axes", "short_header", "no_images", "huge", "larger_than_file"],
)
def test_read_idx_refuses(path, content, message, compress):
    path.write_bytes(gzip.compress(content) if compress else content)
    with pytest.raises(DatasetError, match=message) as caught:
        read_idx(path, 3)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    "content, message",
    [
        (encode(IMAGES)[:-1], "says 6x5x4, so 136 bytes, but the file has 135 bytes"),
        (encode(IMAGES) + b"x", "so 136 bytes, but the file has 137 bytes"),
        (gzip.compress(encode(IMAGES)[:-1]), "says 6x5x4 = 120 values but there are 119"),
        (gzip.compress(encode(IMAGES) + b"x"), "120 values but more follow"),
        (gzip.compress(encode(IMAGES))[:-9], "cannot be read: Compressed file ended"),
        (gzip.compress(encode(IMAGES))[:-8] + bytes(8), "cannot be read: CRC check failed"),
    ],
    ids=["plain_short", "plain_long", "gzip_short", "gzip_long", "gzip_cut", "gzip_wrong_sum"],
)
def test_read_idx_refuses_a_wrong_length(path, content, message):
    path.write_bytes(content)
    with pytest.raises(DatasetError, match=message):
        read_idx(path, 3)


def test_read_idx_refuses_what_cannot_be_opened(tmp_path):
    for path in (tmp_path, tmp_path / "none"):
        with pytest.raises(DatasetError, match=f"{path.name}: cannot be read"):
            read_idx(path, 3)


@pytest.fixture(scope="module")
def scratch(tmp_path_factory):
    return tmp_path_factory.mktemp("idx") / "file"


damage = st.one_of(
    st.tuples(st.just("cut"), st.integers(0, 400), st.just(0)),
    st.tuples(st.just("flip"), st.integers(0, 400), st.integers(0, 7)),
    st.tuples(st.just("flip"), st.integers(0, 30), st.integers(0, 7)),
)


@pytest.mark.parametrize("compress", [False, True], ids=["plain", "gzip"])
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(damages=st.lists(damage, min_size=1, max_size=3))
@example(damages=[("flip", 3, 1)])  # gzip's flag byte: an extra field that is not there
def test_read_idx_raises_nothing_else(scratch, compress, damages):
    content = bytearray(gzip.compress(encode(IMAGES), mtime=0) if compress else encode(IMAGES))
    for kind, where, bit in damages:
        if kind == "cut":
            del content[where:]
        elif content:
            content[where % len(content)] ^= 1 << bit
    scratch.write_bytes(content)
    try:
        read = read_idx(scratch, 3)
    except DatasetError as error:
        assert str(scratch) in str(error)
    else:
        assert read.ndim == 3 and read.dtype == np.uint8
        if compress:  # gzip's checksum catches whatever changes the pixels
            assert np.array_equal(read, IMAGES)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=64))
def test_read_idx_refuses_noise(scratch, content):
    for noise in (content, b"\0\0\x08\x03" + content, b"\x1f\x8b\x08" + content):
        scratch.write_bytes(noise)
        try:
            read_idx(scratch, 3)
        except DatasetError:
            continue
        assert len(noise) > 16


@pytest.mark.parametrize("folder", [".", "mnist", "MNIST", "MNIST/raw"])
@pytest.mark.parametrize("compress", [False, True], ids=["plain", "gzip"])
@pytest.mark.parametrize("dots", [False, True], ids=["dash", "dot"])
def test_mnist_finds_its_files(tmp_path, folder, compress, dots):
    write_set(tmp_path / folder, compress, dots)
    train, test = datasets.mnist(tmp_path, download=False)
    assert np.array_equal(train.images, IMAGES[:, None]) and train.labels.tolist() == LABELS.tolist()
    assert (train.name, test.name, train.shape) == ("mnist train", "mnist test", (1, 5, 4))


@pytest.mark.parametrize("folder", [".", "fashion-mnist", "FashionMNIST/raw"])
def test_fashion_mnist_finds_its_files(tmp_path, folder):
    write_set(tmp_path / folder)
    assert datasets.load("fashion-mnist", tmp_path, download=False).train.classes[9] == "ankle boot"


def test_mnist_and_fashion_mnist_side_by_side(tmp_path):
    write_set(tmp_path / "mnist")
    write_set(tmp_path / "fashion-mnist", labels=LABELS[::-1])
    assert datasets.mnist(tmp_path, download=False).train.labels[0] == 3
    assert datasets.fashion_mnist(tmp_path, download=False).train.labels[0] == 9


@pytest.mark.parametrize("asked, there", [("mnist", "fashion-mnist"), ("fashion-mnist", "mnist")])
def test_mnist_and_fashion_mnist_are_not_confused(tmp_path, asked, there):
    labels = np.array(idx.FIRST_LABELS[there], np.uint8)
    write_set(tmp_path, images=np.zeros((10, 2, 2), np.uint8), labels=labels)
    with pytest.raises(DatasetError, match=f"these are the labels of {there}, not of {asked}"):
        datasets.load(asked, tmp_path, download=False)


def test_cache_folder_from_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("FASTCNN_DATA", str(tmp_path))
    assert datasets.cache_dir() == tmp_path
    write_set(tmp_path / "mnist")
    assert len(datasets.mnist(download=False).train) == 6


def test_missing_files_are_named(tmp_path):
    with pytest.raises(DatasetError, match="no folder .*nowhere; put the files there"):
        datasets.mnist(tmp_path / "nowhere", download=False)
    with pytest.raises(DatasetError, match=r"found none of train-images-idx3-ubyte\[.gz\], .* folders mnist, MNIST/raw, MNIST; .*FASTCNN_DATA"):
        datasets.mnist(tmp_path, download=False)
    write_set(tmp_path / "MNIST", parts=("train",))
    with pytest.raises(DatasetError, match=r"MNIST lacks t10k-images-idx3-ubyte\[.gz\], t10k-labels-idx1-ubyte\[.gz\];"):
        datasets.mnist(tmp_path, download=False)


def test_counts_that_differ_are_refused(tmp_path):
    write_set(tmp_path, labels=LABELS[:4])
    with pytest.raises(DatasetError, match="train-images.* holds 6 images but .*train-labels.* holds 4 labels"):
        datasets.mnist(tmp_path, download=False)


def test_labels_out_of_range_are_refused(tmp_path):
    write_set(tmp_path, labels=LABELS + 1)
    with pytest.raises(DatasetError, match=r"train-labels.*label 10 where 0\.\.9 are expected"):
        datasets.mnist(tmp_path, download=False)


def test_parts_of_different_size_are_refused(tmp_path):
    write_set(tmp_path, parts=("train",))
    write_set(tmp_path, images=IMAGES[:, :3], parts=("t10k",))
    with pytest.raises(DatasetError, match="train images are 5x4 but t10k images are 3x4"):
        datasets.mnist(tmp_path, download=False)
