"""CIFAR-10: both published versions, as folders and archives; anything else is refused with a reason."""

import gzip
import io
import pickle
import tarfile

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fastcnn import datasets
from fastcnn.datasets import DatasetError, cifar

BATCHES = (*cifar.TRAIN, cifar.TEST)
RNG = np.random.default_rng(0)
LABELS = {name: RNG.integers(0, 10, 4) for name in BATCHES}
PIXELS = {name: RNG.integers(0, 256, (4, 3072), dtype=np.uint8) for name in BATCHES}


def batch(name, **changes):
    return {"batch_label": name, "labels": LABELS[name].tolist(), "data": PIXELS[name], "filenames": ["x.png"] * 4} | changes


def contents(version, protocol=2):
    if version == "python":
        return {name: pickle.dumps(batch(name), protocol) for name in BATCHES}
    return {f"{name}.bin": np.column_stack([LABELS[name].astype(np.uint8), PIXELS[name]]).tobytes() for name in BATCHES}


def write_folder(folder, version):
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in contents(version).items():
        (folder / name).write_bytes(content)
    return folder


def member(name, content=b"", **fields):
    info = tarfile.TarInfo(name)
    info.size = len(content)
    for field, value in fields.items():
        setattr(info, field, value)
    return info, io.BytesIO(content)


def write_archive(path, version, extra=()):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz") as archive:
        archive.addfile(*member(cifar.FOLDERS[version], type=tarfile.DIRTYPE))
        for name, content in contents(version).items():
            archive.addfile(*member(f"{cifar.FOLDERS[version]}/{name}", content))
        archive.addfile(*member(f"{cifar.FOLDERS[version]}/readme.html", b"<html>"))
        for info, content in extra:
            archive.addfile(info, content)
    return path


def check(splits):
    train, test = splits
    assert train.shape == test.shape == (3, 32, 32) and (len(train), len(test)) == (20, 4)
    assert np.array_equal(train.images.reshape(20, -1), np.concatenate([PIXELS[name] for name in cifar.TRAIN]))
    assert np.array_equal(test.images.reshape(4, -1), PIXELS["test_batch"])
    assert np.array_equal(train.labels, np.concatenate([LABELS[name] for name in cifar.TRAIN]))
    assert (train.name, train.classes[6]) == ("cifar10 train", "frog")


versions = pytest.mark.parametrize("version", ["python", "binary"])


@versions
def test_cifar10_from_a_folder_or_its_parent(tmp_path, version):
    folder = write_folder(tmp_path / cifar.FOLDERS[version], version)
    check(datasets.cifar10(folder, download=False))
    check(datasets.cifar10(tmp_path, download=False))
    check(datasets.load("cifar10", str(tmp_path), download=False))


@versions
def test_cifar10_from_an_archive_or_its_folder(tmp_path, version):
    archive = write_archive(tmp_path / "cifar10" / f"cifar-10-{version}.tar.gz", version)
    check(datasets.cifar10(archive, download=False))
    check(datasets.cifar10(archive.parent, download=False))
    check(datasets.cifar10(tmp_path, download=False))
    assert [path.name for path in tmp_path.rglob("*.*")] == [archive.name]  # nothing was unpacked to disk


def test_cifar10_prefers_the_version_asked_for(tmp_path):
    write_folder(tmp_path / cifar.FOLDERS["python"], "python")
    folder = write_folder(tmp_path / cifar.FOLDERS["binary"], "binary")
    (folder / "data_batch_3.bin").unlink()
    check(datasets.cifar10(tmp_path, download=False))
    with pytest.raises(DatasetError, match="batches-bin: lacks data_batch_3.bin"):
        datasets.cifar10(tmp_path, download=False, version="binary")
    with pytest.raises(ValueError, match="version must be 'python' or 'binary', got 'matlab'"):
        datasets.cifar10(tmp_path, version="matlab")


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_cifar10_pickles_of_every_protocol(tmp_path, protocol):
    for name, content in contents("python", protocol).items():
        (tmp_path / name).write_bytes(content)
    check(datasets.cifar10(tmp_path, download=False))


@pytest.mark.parametrize("labels", [list, np.array], ids=["list", "array"])
def test_cifar10_accepts_bytes_keys_and_label_arrays(tmp_path, labels):
    for name in BATCHES:
        (tmp_path / name).write_bytes(pickle.dumps({b"data": PIXELS[name], b"labels": labels(LABELS[name].tolist())}))
    check(datasets.cifar10(tmp_path, download=False))


def test_cifar10_missing_says_where_it_looked(tmp_path):
    with pytest.raises(DatasetError, match=f"found neither cifar-10-batches-py nor cifar-10-batches-bin.*in {tmp_path}; .*download=True"):
        datasets.cifar10(tmp_path, download=False)
    with pytest.raises(DatasetError, match="no folder .*nowhere"):
        datasets.cifar10(tmp_path / "nowhere", download=False)


@versions
def test_cifar10_downloads_the_version_asked_for(tmp_path, monkeypatch, version):
    asked = []

    def fetch(files, folder, sought):
        asked.extend(file.name for file in files)
        write_archive(folder / files[0].name, version)

    monkeypatch.setattr(cifar.remote, "fetch", fetch)
    for _ in range(2):
        check(datasets.cifar10(tmp_path, version=version))
    assert asked == [f"cifar-10-{version}.tar.gz"]


class Evil:
    def __reduce__(self):
        import os

        return os.system, ("exit 3",)


@pytest.mark.parametrize(
    "value, message",
    [
        (batch("test_batch", data=Evil()), "uses the global .*system, which is forbidden"),
        ([1, 2], "a pickled list where a dict is expected"),
        ({"data": PIXELS["test_batch"], "fine_labels": []}, "the keys data and labels are expected, found data, fine_labels"),
        (batch("test_batch", data=PIXELS["test_batch"][:, 1:]), r"data must be uint8 \(N, 3072\), got uint8 \(4, 3071\)"),
        (batch("test_batch", data=PIXELS["test_batch"].astype(np.int64)), r"data must be uint8 \(N, 3072\), got int64"),
        (batch("test_batch", data=b"x"), "data must be uint8 .* got bytes"),
        (batch("test_batch", labels=[1, 2, 3]), "4 images but 3 labels"),
        (batch("test_batch", labels=[1, 2, 3, "4"]), "labels must be a list of ints"),
        (batch("test_batch", labels=[1, 2, 3, 2**70]), "labels must be a list of ints"),
        (batch("test_batch", labels=[1, 2, 3, 10]), r"label 10 where 0\.\.9 are expected"),
        (batch("test_batch", labels=[-1, 2, 3, 1]), "label -1 where"),
        (batch("test_batch", data=PIXELS["test_batch"][:0], labels=[]), "data must be uint8"),
    ],
    ids=["global", "list", "cifar100", "width", "dtype", "no_array", "count", "type", "overflow", "range", "negative", "empty"],
)
def test_cifar10_refuses_pickles(tmp_path, value, message):
    write_folder(tmp_path, "python")
    (tmp_path / "test_batch").write_bytes(pickle.dumps(value, 2))
    with pytest.raises(DatasetError, match=f"test_batch: .*{message}"):
        datasets.cifar10(tmp_path, download=False)


def test_cifar10_refuses_binaries(tmp_path):
    folder, whole = write_folder(tmp_path, "binary"), contents("binary")["data_batch_2.bin"]
    for content, message in (
        (whole[:-1], "data_batch_2.bin: 12,291 bytes is not a whole number of images of 3,073 bytes"),
        (whole[:3073], "data_batch_2.bin: 1 images where data_batch_1.bin has 4"),
        (b"\x0a" + whole[1:], "data_batch_2.bin: label 10 where"),
        (b"", "data_batch_2.bin: 0 bytes"),
    ):
        (folder / "data_batch_2.bin").write_bytes(content)
        with pytest.raises(DatasetError, match=message):
            datasets.cifar10(tmp_path, download=False)


def test_cifar10_refuses_oversized_and_unreadable_files(tmp_path, monkeypatch):
    write_folder(tmp_path, "binary")
    monkeypatch.setattr(cifar, "MAX_FILE_BYTES", 1000)
    with pytest.raises(DatasetError, match="12,292 bytes, more than the limit of 1,000"):
        datasets.cifar10(tmp_path, download=False)
    (tmp_path / "data_batch_1.bin").unlink()
    (tmp_path / "data_batch_1.bin").mkdir()
    with pytest.raises(DatasetError, match="data_batch_1.bin: (cannot be read|.*limit)"):
        datasets.cifar10(tmp_path, download=False)


@pytest.mark.parametrize(
    "extra, message",
    [
        (member("a/link", type=tarfile.SYMTYPE, linkname="/etc/passwd"), "'a/link' in the archive is a link or a device"),
        (member("a/hard", type=tarfile.LNKTYPE, linkname="data_batch_1"), "is a link or a device"),
        (member("a/device", type=tarfile.CHRTYPE), "is a link or a device"),
        (member("/etc/passwd", b"x"), "the name '/etc/passwd', which leads out"),
        (member("a/../../b", b"x"), r"the name 'a/../../b', which leads out"),
        (member("C:\\b", b"x"), "which leads out"),
        (member("a\\..\\..\\b", b"x"), "which leads out"),
        (member("other/test_batch", b"x"), "the archive has test_batch twice"),
        (member("a/large", b"x" * 200_000), "'a/large' has 200,000 bytes, more than the limit of 100,000"),
    ],
    ids=["symlink", "hard_link", "device", "absolute", "parent", "drive", "windows_parent", "twice", "large"],
)
def test_cifar10_refuses_archives(tmp_path, monkeypatch, extra, message):
    monkeypatch.setattr(cifar, "MAX_FILE_BYTES", 100_000)
    info, content = extra
    path = write_archive(tmp_path / "x.tar.gz", "python", [(info, io.BytesIO(content.getvalue()))])
    with pytest.raises(DatasetError, match="refused: ") as caught:
        datasets.cifar10(path, download=False)
    assert str(caught.value).startswith(f"{path}: ") and message.replace(r"\.", ".") in str(caught.value)


def test_cifar10_refuses_archives_of_many_members_or_long_tails(tmp_path, monkeypatch):
    path = write_archive(tmp_path / "x.tar.gz", "python")
    monkeypatch.setattr(cifar, "MAX_MEMBERS", 5)
    with pytest.raises(DatasetError, match="more than 5 members"):
        datasets.cifar10(path, download=False)
    monkeypatch.undo()
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes()) + bytes(2 * cifar.MAX_PADDING)))
    with pytest.raises(DatasetError, match="bytes follow the end of the archive"):
        datasets.cifar10(path, download=False)


def test_cifar10_refuses_an_extended_header_of_absurd_length(tmp_path):
    info = tarfile.TarInfo("x")
    info.type, info.size = tarfile.XHDTYPE, 2**33 - 1
    path = tmp_path / "x.tar.gz"
    path.write_bytes(gzip.compress(info.tobuf() + bytes(10_000)))
    with pytest.raises(DatasetError, match="the limit is"):
        datasets.cifar10(path, download=False)


def test_cifar10_archive_lacking_a_batch(tmp_path):
    path = tmp_path / "x.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        archive.addfile(*member("cifar-10-batches-py/data_batch_1", contents("python")["data_batch_1"]))
    with pytest.raises(DatasetError, match="x.tar.gz: lacks data_batch_2, data_batch_3, data_batch_4, data_batch_5, test_batch"):
        datasets.cifar10(path, download=False)


@pytest.fixture(scope="module")
def scratch(tmp_path_factory):
    return tmp_path_factory.mktemp("cifar") / "cifar.tar.gz"


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    return write_archive(tmp_path_factory.mktemp("packed") / "x.tar.gz", "python").read_bytes()


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(where=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7), cut=st.booleans())
def test_cifar10_damaged_archive_raises_nothing_else(scratch, packed, where, bit, cut):
    content = bytearray(packed)
    place = int(where * len(content))
    content[place] ^= 1 << bit
    scratch.write_bytes(content[:place] if cut else content)
    try:
        check(datasets.cifar10(scratch, download=False))  # a flip in gzip's own header (its time, say) changes nothing
    except DatasetError as error:
        assert str(scratch) in str(error)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(where=st.integers(0, 512 * 4), bit=st.integers(0, 7))
def test_cifar10_damaged_tar_headers_raise_nothing_else(scratch, packed, where, bit):
    content = bytearray(gzip.decompress(packed))
    content[where] ^= 1 << bit
    scratch.write_bytes(gzip.compress(content, 1))
    try:
        datasets.cifar10(scratch, download=False)
    except DatasetError as error:
        assert str(scratch) in str(error)
