"""Every reader of files on damaged, spliced and made-up content: what was written comes back, or the reader's own error that names the file; nothing else, and
never much memory or time. Half a second each; a minute each in the nightly set."""

import gzip
import io
import json
import os
import pickle
import random
import struct
import tarfile
import time
import tracemalloc
import warnings

import numpy as np
import pytest

from fastcnn import checkpoint, datasets
from fastcnn.checkpoint import CheckpointError
from fastcnn.datasets import DatasetError, read_idx
from fastcnn.datasets.restricted_pickle import loads
from fastcnn.train import History, RunFolder

MOST_BYTES = 100 << 20  # of memory at once for files of some kilobytes
RNG = np.random.default_rng(0)
SEEDS = [0, 1, 2, 3, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 1 << 40, (1 << 63) - 1, (1 << 64) - 1]


def damaged(rng, samples):
    """One of the samples after a few accidents."""
    data = bytearray(rng.choice(samples))
    for _ in range(rng.choice((1, 1, 1, 2, 3, 8))):
        at = rng.randrange(len(data)) if data else 0
        if rng.random() < 0.5:
            at = min(at, rng.choice((16, 64, 600)))  # headers lie at the beginning
        kind = rng.randrange(8)
        if kind == 0 and data:
            data[at % len(data)] ^= 1 << rng.randrange(8)
        elif kind == 1 and data:
            data[at % len(data)] = rng.randrange(256)
        elif kind == 2:
            del data[at:]
        elif kind == 3:
            del data[at : at + rng.choice((1, 2, 4, 100))]
        elif kind == 4:
            data[at:at] = data[at : at + rng.choice((1, 8, 512))]
        elif kind == 5:
            number = rng.choice(SEEDS).to_bytes(8, rng.choice(("little", "big")))
            number = number[: rng.choice((1, 2, 4, 8))] if rng.random() < 0.5 else number[-rng.choice((1, 2, 4, 8)) :]
            data[at : at + len(number)] = number
        elif kind == 6:
            other = rng.choice(samples)
            cut = rng.randrange(len(other) + 1)
            data[at:] = other[cut:]
        else:
            data[at:at] = rng.randbytes(rng.choice((1, 4, 50)))
    return bytes(data)


def idx_bytes(array):
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()


def idx_files():
    images, labels = RNG.integers(0, 256, (4, 5, 6), dtype=np.uint8), RNG.integers(0, 10, 9, dtype=np.uint8)
    return [idx_bytes(images), idx_bytes(labels), gzip.compress(idx_bytes(images)), gzip.compress(idx_bytes(labels))]


def read_idx_file(path):
    for ndim in (1, 3):
        try:
            assert read_idx(path, ndim).ndim == ndim
        except DatasetError as error:
            assert str(path) in str(error)


def cifar_batches(version):
    labels, images = (np.arange(3) % 10).tolist(), RNG.integers(0, 256, (3, 3072), dtype=np.uint8)
    if version == "binary":
        return np.concatenate([np.array(labels, np.uint8)[:, None], images], axis=1).tobytes()
    return pickle.dumps({b"data": images, b"labels": labels}, 2)


def cifar_archives():
    samples = []
    for version, folder, suffix in (("python", "cifar-10-batches-py", ""), ("binary", "cifar-10-batches-bin", ".bin")):
        content, file = cifar_batches(version), io.BytesIO()
        with tarfile.open(fileobj=file, mode="w") as archive:
            for batch in (*(f"data_batch_{k}" for k in range(1, 6)), "test_batch"):
                member = tarfile.TarInfo(f"{folder}/{batch}{suffix}")
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
        samples += [file.getvalue(), gzip.compress(file.getvalue(), 1)]
    return samples


def read_cifar_archive(path):
    if path.read_bytes()[:2] != b"\x1f\x8b":  # the tar inside was damaged: wrap it
        path.write_bytes(gzip.compress(path.read_bytes(), 1))
    try:
        train, test = datasets.cifar10(path, download=False)
        assert train.images.shape[1:] == test.images.shape[1:] == (3, 32, 32)
    except DatasetError as error:
        assert str(path) in str(error)


def cifar_files():
    return [cifar_batches("binary"), cifar_batches("python")]


def read_cifar_folder(path):
    content = path.read_bytes()
    for version, suffix in (("py", ""), ("bin", ".bin")):
        folder = path.with_name(f"cifar-10-batches-{version}")
        folder.mkdir(exist_ok=True)
        for batch in (*(f"data_batch_{k}" for k in range(1, 6)), "test_batch"):
            (folder / f"{batch}{suffix}").write_bytes(content)
        try:
            datasets.cifar10(folder, download=False)
        except DatasetError as error:
            assert str(folder) in str(error)


def pickles():
    value = {"data": np.arange(12, dtype=np.int32).reshape(3, 4), "labels": [1, 2, 3], b"names": ["a", b"b", None, True, 2**70], "nested": {"t": ((), {})}}
    return [pickle.dumps(value, protocol) for protocol in (2, 3, 4, 5)] + [pickle.dumps([os.system, "x"], 4)]


def read_pickle(path):
    try:
        loads(path.read_bytes(), str(path))
    except DatasetError as error:
        assert str(error).startswith(str(path))


def pictures():
    image = pytest.importorskip("PIL.Image")
    samples = []
    for kind in ("PNG", "GIF", "BMP", "JPEG", "TIFF", "WEBP"):
        file = io.BytesIO()
        image.fromarray(RNG.integers(0, 256, (9, 7, 3), dtype=np.uint8)).save(file, kind)
        samples.append(file.getvalue())
    return samples


def read_picture(path):
    folder = path.with_name("pictures") / "class"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "a.png").write_bytes(path.read_bytes())
    for options in ({}, {"size": 8}, {"size": 8, "max_bytes": 0, "gray": True}):
        try:
            dataset = datasets.image_folder(folder.parent, **options)
            np.asarray(dataset.images[0])
        except DatasetError as error:
            assert "a.png" in str(error)


def checkpoints():
    pytest.importorskip("safetensors", reason="the extra `train` is not installed")
    import tempfile

    samples = []
    for arrays, state in (({"w": np.ones((3, 4), np.float32), "b": np.zeros(2)}, {"epoch": 3}), ({}, {}), ({"x": np.arange(5)}, {"deep": [{"a": 1}] * 3})):
        with tempfile.TemporaryDirectory() as folder:
            checkpoint.save(f"{folder}/c", arrays, state)
            with open(f"{folder}/c", "rb") as file:
                samples.append(file.read())
    header = json.dumps({"w": {"dtype": "F32", "shape": [1 << 40, 1 << 40], "data_offsets": [0, 4]}}).encode()
    return [*samples, struct.pack("<Q", len(header)) + header + b"abcd", struct.pack("<Q", 1 << 62) + b"{}", struct.pack("<Q", 2) + b"{}"]


def read_checkpoint(path):
    for verify in (True, False):
        try:
            arrays, state = checkpoint.load(path, verify=verify)
            assert isinstance(arrays, dict) and isinstance(state, dict)
        except CheckpointError as error:
            assert str(path) in str(error)


def configurations():
    whole = {"recipe": "lenet", "options": {"epochs": 3, "lr": 0.1}, "classes": ["a", "b"], "transform": {}, "data_dir": None, "backend": "cpu"}
    return [json.dumps(whole, indent=2).encode(), b"[]", b'{"recipe": 1}']


def read_configuration(path):
    folder = path.with_name("run")
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_bytes(path.read_bytes())
    try:
        assert RunFolder.read_config(folder)["recipe"]
    except CheckpointError as error:
        assert "config.json" in str(error)


def histories():
    return [History([{"epoch": n, "train_loss": 0.5 / n, "val_loss": None, "seconds": 1.5} for n in (1, 2, 3)]).to_csv().encode(), b"epoch\n1\n"]


def read_history(path):
    try:
        rows = History.from_csv(path)
        assert len(rows) >= 0 and all(isinstance(row, dict) for row in rows)
    except ValueError as error:
        assert str(path) in str(error)


READERS = {
    read_idx_file: idx_files,
    read_cifar_archive: cifar_archives,
    read_cifar_folder: cifar_files,
    read_pickle: pickles,
    read_picture: pictures,
    read_checkpoint: checkpoints,
    read_configuration: configurations,
    read_history: histories,
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("read", READERS, ids=lambda read: read.__name__)
@pytest.mark.parametrize("seconds", [0.5, pytest.param(60, marks=pytest.mark.nightly)])
def test_damaged_files_raise_nothing_else(tmp_path, read, seconds):
    samples = READERS[read]()
    path = tmp_path / "file"
    rng = random.Random(5 if seconds < 1 else time.time_ns())
    end, count = time.monotonic() + seconds, 0
    for sample in samples:  # whole ones first
        path.write_bytes(sample)
        read(path)
    while time.monotonic() < end or count < 20:
        content = damaged(rng, samples)
        path.write_bytes(content)
        watched = count % 64 == 0
        if watched:
            tracemalloc.start()
        start = time.process_time()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                read(path)
        except BaseException:
            print(f"content: {content[:4000]!r}")
            raise
        finally:
            if watched:
                _, peak = tracemalloc.get_traced_memory()
                tracemalloc.stop()
                assert peak < MOST_BYTES, f"{peak:,} bytes for {content[:4000]!r}"
        assert time.process_time() - start < 20, f"too long: {content[:4000]!r}"
        count += 1
    print(f"{read.__name__}: {count} files")
