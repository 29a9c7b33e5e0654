"""Fetching the published files: verified by checksum, resumed after an interruption, put in place only when complete.

pooch (extra `data`) verifies and places; it does not resume, so `Resume` is the downloader it is given.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from .dataset import DatasetError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

ADVICE = "put the files there, or name their folder by data_dir=... (--data-dir) or by the environment variable FASTCNN_DATA"
ATTEMPTS = 3  # per mirror
WAIT_SECONDS = 1.0  # before the second attempt; twice that before the third
TIMEOUT_SECONDS = 30  # without a byte
CHUNK_BYTES = 1 << 18
FULL = {errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC)}  # no second attempt makes room on the disk
MAX_BYTES = 1 << 30  # six times the largest file below; a server that sends more is not sending that file

logger = logging.getLogger("fastcnn")


@dataclass(frozen=True)
class RemoteFile:
    """name: the published file; md5: its published checksum; mirrors: URLs of folders that have it, best first."""

    name: str
    md5: str
    mirrors: tuple[str, ...]


_MNIST = ("https://ossci-datasets.s3.amazonaws.com/mnist/", "https://storage.googleapis.com/cvdf-datasets/mnist/")
_FASHION = ("http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",)
_CIFAR = ("https://www.cs.toronto.edu/~kriz/",)

FILES = {
    "mnist": (
        RemoteFile("train-images-idx3-ubyte.gz", "f68b3c2dcbeaaa9fbdd348bbdeb94873", _MNIST),
        RemoteFile("train-labels-idx1-ubyte.gz", "d53e105ee54ea40749a09fcbcd1e9432", _MNIST),
        RemoteFile("t10k-images-idx3-ubyte.gz", "9fb629c4189551a2d022fa330f9573f3", _MNIST),
        RemoteFile("t10k-labels-idx1-ubyte.gz", "ec29112dd5afa0611ce80d1b7f02629c", _MNIST),
    ),
    "fashion-mnist": (
        RemoteFile("train-images-idx3-ubyte.gz", "8d4fb7e6c68d591d4c3dfef9ec88bf0d", _FASHION),
        RemoteFile("train-labels-idx1-ubyte.gz", "25c81989df183df01b3e8a0aad5dffbe", _FASHION),
        RemoteFile("t10k-images-idx3-ubyte.gz", "bef4ecab320f06d8554ea6380940ec79", _FASHION),
        RemoteFile("t10k-labels-idx1-ubyte.gz", "bb300cfdad3c16e7a12a480ee83cd310", _FASHION),
    ),
    "cifar10-python": (RemoteFile("cifar-10-python.tar.gz", "c58f30108f718f92721af3b95e74349a", _CIFAR),),
    "cifar10-binary": (RemoteFile("cifar-10-binary.tar.gz", "c32a1d4ab5d03f1284b67883e8d87530", _CIFAR),),
}


def cache_dir() -> Path:
    """Where data sets are kept: FASTCNN_DATA if set, else `fastcnn` in the user's cache folder of this platform."""
    if chosen := os.environ.get("FASTCNN_DATA"):
        return Path(chosen).expanduser()
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local") / "fastcnn" / "Cache"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "fastcnn"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fastcnn"


def data_root(data_dir: str | os.PathLike[str] | None) -> Path:
    """The path to look in: data_dir, or the cache folder for None."""
    return cache_dir() if data_dir is None else Path(data_dir).expanduser()


def fetch(files: Sequence[RemoteFile], folder: Path, sought: str) -> None:
    """Put the files into folder, each from the first mirror that delivers it with its published checksum.

    sought   what was looked for and not found: the beginning of the error message
    Raises   DatasetError saying why, and what to do instead; a file that fails its checksum is removed
    """
    try:
        import pooch
    except ImportError as error:
        raise DatasetError(f'{sought}; downloading needs pooch ({error}): pip install "fastcnn[data]", or {ADVICE}') from error
    for file in files:
        failures = []
        for mirror in file.mirrors:
            url = mirror + file.name
            try:
                pooch.retrieve(url, f"md5:{file.md5}", fname=file.name, path=folder, downloader=Resume(folder / f"{file.name}.part"))
                break
            except (OSError, ValueError) as error:  # pooch raises ValueError for a wrong checksum
                logger.warning("%s could not be downloaded: %s", url, error)
                failures.append(f"{url}: {error}")
        else:
            raise DatasetError(f"{sought}; the download failed ({'; '.join(failures)}); try again, or {ADVICE}")


class Resume:
    """A pooch downloader that collects the file in `part`, which outlives an interruption, and continues it by an HTTP Range request.

    Whether the pieces fit together is for the checksum to say: a file that fails it is not kept, so the next attempt starts anew.
    """

    def __init__(self, part: Path) -> None:
        self.part = part

    def __call__(self, url: str, output_file: str, pooch: Any) -> None:
        with _claim(self.part) as part:
            if part is None:  # another process is at it: fetch the whole for ourselves rather than mix two streams
                with open(output_file, "ab") as own:
                    self._complete(url, own)
                return
            self._complete(url, part)
            if fcntl is None:
                part.close()  # Windows cannot rename an open file; elsewhere it stays open, and so claimed, until it has its new name
            os.replace(self.part, output_file)

    def _complete(self, url: str, file: BinaryIO) -> None:
        for attempt in range(1, ATTEMPTS + 1):
            try:
                return _receive(url, file)
            except OSError as error:
                code = getattr(error, "code", 0)  # urllib's HTTPError is an OSError with one
                gone = 400 <= code < 500 and code not in (408, 416, 429)
                if gone or error.errno in FULL or attempt == ATTEMPTS:
                    raise
                logger.info("%s: %s; attempt %d of %d follows", url, error, attempt + 1, ATTEMPTS)
                time.sleep(WAIT_SECONDS * attempt)


@contextlib.contextmanager
def _claim(path: Path) -> Iterator[BinaryIO | None]:
    """path opened for appending, locked against other processes where the platform can; None if another one has it."""
    while True:
        with open(path, "ab") as file:
            if fcntl is not None:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except OSError:
                    yield None
                    return
                if not _still(path, file):
                    continue  # between our open and our lock its owner finished and renamed it: open anew
            yield file
            return


def _still(path: Path, file: BinaryIO) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False


def _receive(url: str, file: BinaryIO) -> None:
    """Append what is missing of url to file; OSError if the connection ends early. Starts over where the server cannot continue."""
    import http.client  # here, not above: with urllib.request it takes longer to import than all the rest of fastcnn.datasets
    import urllib.request

    try:
        _append(url, file, urllib.request)
    except http.client.HTTPException as error:
        raise OSError(f"{type(error).__name__}: {error}") from error


def _append(url: str, file: BinaryIO, request: Any) -> None:
    start = file.seek(0, os.SEEK_END)
    headers = {"User-Agent": "fastcnn", "Accept-Encoding": "identity"}
    if start:
        headers["Range"] = f"bytes={start}-"
    try:
        response = request.urlopen(request.Request(url, headers=headers), timeout=TIMEOUT_SECONDS)
    except OSError as error:
        if getattr(error, "code", 0) == 416 and start:  # nothing follows byte `start`: either the file is complete, or it is not the server's
            if (error.headers.get("Content-Range") or "").endswith(f"/{start}"):
                return
            file.truncate(0)
        raise
    with response:
        if start and not (response.status == 206 and (response.headers.get("Content-Range") or "").startswith(f"bytes {start}-")):
            file.truncate(0)
            if response.status == 206:
                raise OSError(f"asked for bytes from {start} on, the server sent {response.headers.get('Content-Range')}")
            start = 0
        length = response.headers.get("Content-Length")
        total = None if length is None else start + int(length)
        if total is not None and total > MAX_BYTES:
            raise OSError(f"the server announces {total:,} bytes, more than the limit of {MAX_BYTES:,}")
        received = start
        with _progress(url.rsplit("/", 1)[-1], start, total) as advance:
            while chunk := response.read(CHUNK_BYTES):
                received += len(chunk)
                if received > MAX_BYTES:
                    file.truncate(0)
                    raise OSError(f"the server sends more than the limit of {MAX_BYTES:,} bytes")
                file.write(chunk)
                advance(len(chunk))
        file.flush()
        if total is not None and received != total:  # read() does not say when a connection was closed early
            raise OSError(f"the connection ended after {received:,} of {total:,} bytes")


@contextlib.contextmanager
def _progress(name: str, start: int, total: int | None) -> Iterator[Any]:
    """A function to call with the number of new bytes; a bar on a terminal if tqdm is there."""
    try:
        from tqdm import tqdm
    except ImportError:
        yield lambda count: None
        return
    with tqdm(desc=name, initial=start, total=total, unit="B", unit_scale=True, disable=None) as bar:
        yield bar.update
