"""CIFAR-10 (Krizhevsky 2009) in both published versions, as folders or as the .tar.gz archives they come in."""

from __future__ import annotations

import gzip
import os
import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path, PurePosixPath, PureWindowsPath

import numpy as np

from . import download as remote
from .dataset import Dataset, DatasetError, Splits
from .restricted_pickle import loads

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
SHAPE = (3, 32, 32)
PIXELS = 3 * 32 * 32
TRAIN, TEST = tuple(f"data_batch_{k}" for k in range(1, 6)), "test_batch"
SUFFIX = {"python": "", "binary": ".bin"}
FOLDERS = {"python": "cifar-10-batches-py", "binary": "cifar-10-batches-bin"}
PARENTS = (".", "cifar10", "cifar-10", "CIFAR10")
MAX_FILE_BYTES = 1 << 26  # twice a published batch, which is 31 MB
MAX_MEMBERS = 100  # the published archives have 8 or 9
MAX_PADDING = 1 << 20


def cifar10(data_dir: str | os.PathLike[str] | None = None, download: bool = True, version: str = "python") -> Splits:
    """CIFAR-10: 50,000 + 10,000 colour 32x32 images in 10 classes.

    data_dir  the folder cifar-10-batches-py or cifar-10-batches-bin, or a folder with one of them (or with cifar10/ that has), or a .tar.gz
              archive of one, or a folder with cifar-10-python.tar.gz or cifar-10-binary.tar.gz, which are read without unpacking to disk;
              None: the cache folder (see `cache_dir`)
    download  fetch the archive into data_dir/cifar10 if nothing is there
    version   "python" or "binary": which one to fetch, and to prefer where both are; they hold the same images
    Raises    DatasetError if files are missing, damaged or wrong. Pickles cannot run anything: see restricted_pickle.
    """
    if version not in FOLDERS:
        raise ValueError(f"cifar10: version must be 'python' or 'binary', got {version!r}")
    root = remote.data_root(data_dir)
    source = _find(root, version)
    if source is None:
        sought = f"cifar10: found neither {FOLDERS['python']} nor {FOLDERS['binary']}, as a folder or .tar.gz, in {root}"
        if not root.exists():
            sought = f"cifar10: no folder {root}"
        if not download:
            raise DatasetError(f"{sought}; {remote.ADVICE}, or allow download=True")
        files = remote.FILES[f"cifar10-{version}"]
        remote.fetch(files, root / "cifar10", sought)
        source = root / "cifar10" / files[0].name
    if source.is_file():
        contents = _read_archive(source)
        return _splits(source, set(contents), contents.pop)  # pop: a batch is no longer needed once it is parsed
    return _splits(source, {file.name for file in source.iterdir()}, lambda file: _read_file(source / file))


def _splits(source: Path, files: set[str], read: Callable[[str], bytes]) -> Splits:
    version = "python" if TRAIN[0] in files else "binary"
    if missing := [batch + SUFFIX[version] for batch in (*TRAIN, TEST) if batch + SUFFIX[version] not in files]:
        raise DatasetError(f"{source}: lacks {', '.join(missing)}")
    return Splits(_dataset("train", TRAIN, version, source, read), _dataset("test", (TEST,), version, source, read))


def _find(root: Path, version: str) -> Path | None:
    """The folder or archive to read; folders before archives, the version asked for before the other."""
    if root.is_file():
        return root
    versions = sorted(FOLDERS, key=lambda other: other != version)
    for candidate in versions:
        for folder in (root, *(root / parent / FOLDERS[candidate] for parent in PARENTS)):
            if any((folder / f"{batch}{SUFFIX[candidate]}").is_file() for batch in (*TRAIN, TEST)):
                return folder
    for candidate in versions:
        for parent in PARENTS:
            archive = root / parent / remote.FILES[f"cifar10-{candidate}"][0].name
            if archive.is_file():
                return archive
    return None


def _dataset(part: str, batches: tuple[str, ...], version: str, path: Path, read: Callable[[str], bytes]) -> Dataset:
    parse = _parse_pickle if version == "python" else _parse_binary
    pieces = []
    for batch in batches:
        file = batch + SUFFIX[version]
        pieces.append(parse(read(file), str(path / file)))
        if len(pieces[-1][1]) != len(pieces[0][1]):  # a file cut between two images would otherwise look whole
            raise DatasetError(
                f"{path / file}: {len(pieces[-1][1]):,} images where {batches[0]}{SUFFIX[version]} has {len(pieces[0][1]):,}"
            )
    images, labels = (np.concatenate(arrays) for arrays in zip(*pieces, strict=True))
    return Dataset(images.reshape(-1, *SHAPE), labels, CLASSES, f"cifar10 {part}")


def _parse_binary(data: bytes, name: str) -> tuple[np.ndarray, np.ndarray]:
    """One label byte, then 1,024 bytes each of red, green and blue, per image."""
    if not data or len(data) % (1 + PIXELS):
        raise DatasetError(f"{name}: {len(data):,} bytes is not a whole number of images of {1 + PIXELS:,} bytes (label, 3x32x32 pixels)")
    rows = np.frombuffer(data, np.uint8).reshape(-1, 1 + PIXELS)
    return rows[:, 1:], _labels(rows[:, 0].astype(np.int64), name)


def _parse_pickle(data: bytes, name: str) -> tuple[np.ndarray, np.ndarray]:
    """A dict with data (N, 3072) uint8 and labels; its keys are str or bytes, depending on what wrote it."""
    batch = loads(data, name)
    if type(batch) is not dict:
        raise DatasetError(f"{name}: a pickled {type(batch).__name__} where a dict is expected")
    batch = {key.decode("latin-1") if isinstance(key, bytes) else key: value for key, value in batch.items()}
    if not {"data", "labels"} <= batch.keys():
        keys = ", ".join(map(str, batch))
        raise DatasetError(f"{name}: the keys data and labels are expected, found {keys:.100}")
    images, labels = batch["data"], batch["labels"]
    if not isinstance(images, np.ndarray) or images.dtype != np.uint8 or images.ndim != 2 or images.shape[1] != PIXELS or not len(images):
        found = f"{images.dtype} {images.shape}" if isinstance(images, np.ndarray) else type(images).__name__
        raise DatasetError(f"{name}: data must be uint8 (N, {PIXELS}), got {found}")
    if isinstance(labels, np.ndarray) and labels.dtype.kind in "iu" and labels.ndim == 1:
        labels = labels.astype(np.int64)
    elif type(labels) is list and all(type(label) is int and abs(label) < 2**63 for label in labels):
        labels = np.array(labels, np.int64)
    else:
        raise DatasetError(f"{name}: labels must be a list of ints")
    if len(labels) != len(images):
        raise DatasetError(f"{name}: {len(images):,} images but {len(labels):,} labels")
    return images, _labels(labels, name)


def _labels(labels: np.ndarray, name: str) -> np.ndarray:
    if wrong := [label for label in (labels.min(), labels.max()) if not 0 <= label < len(CLASSES)]:
        raise DatasetError(f"{name}: label {wrong[0]} where 0..{len(CLASSES) - 1} are expected")
    return labels


def _read_file(path: Path) -> bytes:
    try:
        size = path.stat().st_size
        if size > MAX_FILE_BYTES:
            raise DatasetError(f"{path}: {size:,} bytes, more than the limit of {MAX_FILE_BYTES:,}")
        return path.read_bytes()
    except OSError as error:
        raise DatasetError(f"{path}: cannot be read: {error.strerror or error}") from error


class _BoundedGzip(gzip.GzipFile):
    """tarfile reads a member's extended header in one piece, of whatever length it claims; this refuses what no archive of ours needs."""

    def read(self, size: int | None = -1) -> bytes:
        if size is None or not 0 <= size <= MAX_FILE_BYTES:
            raise DatasetError(f"a piece of {size} bytes is asked for, the limit is {MAX_FILE_BYTES:,}")
        return super().read(size)


def _read_archive(path: Path) -> dict[str, bytes]:
    """The batch files of a .tar.gz by base name, read into memory: nothing is written to disk, whatever names the archive has.

    Raises DatasetError for links, devices, names that lead out of the archive's folder, sizes beyond the limits, and damage.
    """
    wanted = {batch + suffix for batch in (*TRAIN, TEST) for suffix in SUFFIX.values()}
    contents: dict[str, bytes] = {}
    try:
        with _BoundedGzip(path) as stream, tarfile.open(fileobj=stream, mode="r:") as archive:
            for count, member in enumerate(archive, 1):
                _check(member, count)
                base = PurePosixPath(member.name).name
                if member.isfile() and base in wanted:
                    if base in contents:
                        raise DatasetError(f"refused: the archive has {base} twice")
                    contents[base] = archive.extractfile(member).read(MAX_FILE_BYTES)
            # The read that meets the end makes gzip check its sum; up to there an archive has only zeros to fill its last record
            if len(stream.read(MAX_PADDING)) == MAX_PADDING:
                raise DatasetError(f"refused: more than {MAX_PADDING:,} bytes follow the end of the archive")
    except DatasetError as error:
        raise DatasetError(f"{path}: {error}") from None
    except (OSError, EOFError, ValueError, OverflowError, zlib.error, tarfile.TarError) as error:
        raise DatasetError(f"{path}: not a readable .tar.gz archive: {error}") from error
    return contents


def _check(member: tarfile.TarInfo, count: int) -> None:
    name = member.name
    if not (member.isfile() or member.isdir()):
        raise DatasetError(f"refused: {name!r:.100} in the archive is a link or a device")
    if PurePosixPath(name).is_absolute() or PureWindowsPath(name).anchor or ".." in PureWindowsPath(name).parts:
        raise DatasetError(f"refused: the archive has the name {name!r:.100}, which leads out of its folder")
    if member.size > MAX_FILE_BYTES:
        raise DatasetError(f"refused: {name!r:.100} has {member.size:,} bytes, more than the limit of {MAX_FILE_BYTES:,}")
    if count > MAX_MEMBERS:
        raise DatasetError(f"refused: the archive has more than {MAX_MEMBERS} members")
