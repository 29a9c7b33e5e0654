"""Downloads, from a server on this machine: checked, resumed, put in place whole, not repeated."""

import gzip
import hashlib
import http.server
import os
import struct
import sys
import threading

import numpy as np
import pytest

from fastcnn import datasets
from fastcnn.datasets import DatasetError, download
from fastcnn.datasets.download import RemoteFile, fetch

pytest.importorskip("pooch")

CONTENT = np.random.default_rng(0).bytes(1_000_000)


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves server.files; what goes wrong is set on the server."""

    def do_GET(self):
        server, name = self.server, self.path.lstrip("/")
        server.requests.append((name, self.headers.get("Range")))
        if server.status:
            return self.send_error(server.status.pop(0))
        if name not in server.files:
            return self.send_error(404)
        content, start = server.files[name], 0
        if server.ranges and self.headers.get("Range"):
            start = int(self.headers["Range"].removeprefix("bytes=").removesuffix("-"))
            if start >= len(content):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(content)}")
                self.send_header("Content-Length", "0")
                return self.end_headers()
        if server.chunked:
            self.protocol_version = "HTTP/1.1"
        self.send_response(206 if start else 200)
        if server.chunked:
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            return self.wfile.write(b"ffff\r\n" + content[:1000])
        if start:
            shown = start + server.shift
            self.send_header("Content-Range", f"bytes {shown}-{len(content) - 1}/{len(content)}")
        if server.announce_length:
            self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        end = server.cuts.pop(0) if server.cuts else len(content)
        self.wfile.write(content[start:end])  # and closes the connection, early if end says so

    def log_message(self, *arguments):
        """No log lines among the tests' output."""


@pytest.fixture
def server():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.files, server.requests, server.cuts, server.status = {"data.bin": CONTENT}, [], [], []
    server.ranges, server.announce_length, server.shift, server.chunked = True, True, 0, False
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    monkeypatch.setattr(download, "WAIT_SECONDS", 0)
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)


def url(server):
    return f"http://127.0.0.1:{server.server_port}/"


def remote(server, content=CONTENT, name="data.bin", mirrors=None):
    return RemoteFile(name, hashlib.md5(content).hexdigest(), mirrors or (url(server),))


def folder_names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_fetch_puts_the_file_in_place(server, tmp_path):
    fetch([remote(server)], tmp_path / "new" / "folder", "x")
    assert (tmp_path / "new" / "folder" / "data.bin").read_bytes() == CONTENT
    assert folder_names(tmp_path / "new" / "folder") == ["data.bin"]
    assert server.requests == [("data.bin", None)]


def test_fetch_does_not_repeat_a_finished_download(server, tmp_path):
    for _ in range(2):
        fetch([remote(server)], tmp_path, "x")
    assert len(server.requests) == 1


def test_fetch_resumes_within_a_call(server, tmp_path):
    server.cuts = [300_000, 700_000]
    fetch([remote(server)], tmp_path, "x")
    assert (tmp_path / "data.bin").read_bytes() == CONTENT
    assert server.requests == [("data.bin", None), ("data.bin", "bytes=300000-"), ("data.bin", "bytes=700000-")]


def test_fetch_resumes_what_an_earlier_process_left(server, tmp_path):
    (tmp_path / "data.bin.part").write_bytes(CONTENT[:400_000])
    fetch([remote(server)], tmp_path, "x")
    assert (tmp_path / "data.bin").read_bytes() == CONTENT and folder_names(tmp_path) == ["data.bin"]
    assert server.requests == [("data.bin", "bytes=400000-")]


def test_fetch_keeps_the_part_when_it_gives_up(server, tmp_path):
    server.cuts = [100_000, 200_000, 300_000]
    with pytest.raises(DatasetError, match="sought; the download failed .*the connection ended after 300,000 of 1,000,000 bytes.*; try again, or put"):
        fetch([remote(server)], tmp_path, "sought")
    assert folder_names(tmp_path) == ["data.bin.part"]
    fetch([remote(server)], tmp_path, "sought")
    assert (tmp_path / "data.bin").read_bytes() == CONTENT
    assert server.requests[-1] == ("data.bin", "bytes=300000-")


@pytest.mark.skipif(os.name != "posix", reason="needs resource limits")
def test_a_full_disk_leaves_what_is_there(server, tmp_path):
    """No file may grow beyond 400,000 bytes: one attempt, the part is kept to be gone on with, the old file (of another checksum) stays."""
    import resource

    (tmp_path / "data.bin").write_bytes(b"old")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, hard))
    try:
        with pytest.raises(DatasetError, match="the download failed .*File too large"):
            fetch([remote(server)], tmp_path, "sought")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (tmp_path / "data.bin").read_bytes() == b"old" and len(server.requests) == 1
    assert folder_names(tmp_path) == ["data.bin", "data.bin.part"]
    fetch([remote(server)], tmp_path, "sought")
    assert (tmp_path / "data.bin").read_bytes() == CONTENT and folder_names(tmp_path) == ["data.bin"]


def test_fetch_starts_over_where_the_server_cannot_resume(server, tmp_path):
    server.ranges, server.cuts = False, [300_000]
    fetch([remote(server)], tmp_path, "x")
    assert (tmp_path / "data.bin").read_bytes() == CONTENT


def test_fetch_takes_a_part_that_is_complete(server, tmp_path):
    (tmp_path / "data.bin.part").write_bytes(CONTENT)
    fetch([remote(server)], tmp_path, "x")
    assert (tmp_path / "data.bin").read_bytes() == CONTENT and folder_names(tmp_path) == ["data.bin"]


def test_fetch_drops_a_part_that_is_too_long(server, tmp_path):
    (tmp_path / "data.bin.part").write_bytes(CONTENT + b"more")
    fetch([remote(server)], tmp_path, "x")
    assert (tmp_path / "data.bin").read_bytes() == CONTENT
    assert server.requests == [("data.bin", "bytes=1000004-"), ("data.bin", None)]


def test_fetch_drops_the_part_when_another_range_comes(server, tmp_path):
    (tmp_path / "data.bin.part").write_bytes(CONTENT[:10])
    server.shift = 5
    fetch([remote(server)], tmp_path, "x")
    assert (tmp_path / "data.bin").read_bytes() == CONTENT


def test_fetch_without_announced_length_relies_on_the_checksum(server, tmp_path):
    server.announce_length, server.cuts = False, [300_000]
    with pytest.raises(DatasetError, match="does not match"):
        fetch([remote(server)], tmp_path, "x")
    assert folder_names(tmp_path) == []
    fetch([remote(server)], tmp_path, "x")
    assert (tmp_path / "data.bin").read_bytes() == CONTENT


def test_fetch_refuses_and_removes_a_wrong_file(server, tmp_path):
    with pytest.raises(DatasetError, match="MD5 hash of downloaded file .* does not match the known hash: expected md5:.* but got"):
        fetch([remote(server, content=b"something else")], tmp_path, "x")
    assert folder_names(tmp_path) == []


def test_fetch_drops_a_part_of_another_file(server, tmp_path):
    (tmp_path / "data.bin.part").write_bytes(b"something else")
    with pytest.raises(DatasetError, match="does not match"):
        fetch([remote(server)], tmp_path, "x")
    fetch([remote(server)], tmp_path, "x")
    assert (tmp_path / "data.bin").read_bytes() == CONTENT


def test_fetch_tries_the_next_mirror(server, tmp_path, caplog):
    fetch([remote(server, mirrors=(url(server) + "nothing/here/", url(server)))], tmp_path, "x")
    assert (tmp_path / "data.bin").read_bytes() == CONTENT
    assert "HTTP Error 404" in caplog.text
    assert [name for name, _ in server.requests] == ["nothing/here/data.bin", "data.bin"]  # what is not there is asked for once


def test_fetch_tries_again_when_the_server_is_busy(server, tmp_path):
    server.status = [503, 429]
    fetch([remote(server)], tmp_path, "x")
    assert len(server.requests) == 3


def test_fetch_reports_broken_http(server, tmp_path):
    server.chunked = True
    with pytest.raises(DatasetError, match="IncompleteRead"):
        fetch([remote(server)], tmp_path, "x")


def test_fetch_names_every_failure(server, tmp_path):
    closed = http.server.HTTPServer(("127.0.0.1", 0), Handler)
    closed.server_close()
    mirrors = (url(server) + "missing/", f"http://127.0.0.1:{closed.server_port}/")
    with pytest.raises(DatasetError, match="missing/data.bin: HTTP Error 404.*[Cc]onnection refused.*FASTCNN_DATA"):
        fetch([remote(server, mirrors=mirrors)], tmp_path, "x")


@pytest.mark.parametrize("announce", [True, False])
def test_fetch_stops_at_the_limit(server, tmp_path, monkeypatch, announce):
    server.announce_length = announce
    monkeypatch.setattr(download, "MAX_BYTES", 600_000)
    with pytest.raises(DatasetError, match="more than the limit of 600,000"):
        fetch([remote(server)], tmp_path, "x")
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) == 0


def test_fetch_beside_another_process_downloads_for_itself(server, tmp_path):
    fcntl = pytest.importorskip("fcntl")
    part = tmp_path / "data.bin.part"
    with open(part, "ab") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        other.write(b"under way")
        other.flush()
        server.ranges, server.cuts = False, [300_000]
        fetch([remote(server)], tmp_path, "x")
        assert part.read_bytes() == b"under way"
    assert (tmp_path / "data.bin").read_bytes() == CONTENT


def test_fetch_reopens_a_part_that_its_owner_has_renamed(server, tmp_path, monkeypatch):
    answers = [False, True]
    monkeypatch.setattr(download, "_still", lambda path, file: answers.pop(0))
    fetch([remote(server)], tmp_path, "x")
    assert (tmp_path / "data.bin").read_bytes() == CONTENT and not answers


def test_still_tells_a_renamed_file(tmp_path):
    with open(tmp_path / "a", "ab") as file:
        assert download._still(tmp_path / "a", file)
        (tmp_path / "a").rename(tmp_path / "b")
        assert not download._still(tmp_path / "a", file)
        (tmp_path / "a").touch()
        assert not download._still(tmp_path / "a", file)


def test_fetch_where_files_cannot_be_locked(server, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "fcntl", None)  # as on Windows
    server.cuts = [300_000]
    fetch([remote(server)], tmp_path, "x")
    assert (tmp_path / "data.bin").read_bytes() == CONTENT and folder_names(tmp_path) == ["data.bin"]


def test_fetch_without_tqdm(server, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tqdm", None)
    fetch([remote(server)], tmp_path, "x")
    assert (tmp_path / "data.bin").read_bytes() == CONTENT


def test_without_pooch_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pooch", None)
    with pytest.raises(DatasetError, match=r'mnist: found none of .*pip install "fastcnn\[data\]", or put the files there'):
        datasets.mnist(tmp_path)


# whole data sets


def idx(array):
    return gzip.compress(struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes())


def serve_mnist(server, monkeypatch, name):
    images, labels = np.arange(120, dtype=np.uint8).reshape(6, 5, 4), np.arange(6, dtype=np.uint8)
    files = []
    for published in download.FILES[name]:
        content = server.files[published.name] = idx(images if "images" in published.name else labels)
        files.append(remote(server, content, published.name))
    monkeypatch.setitem(download.FILES, name, tuple(files))


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist"])
def test_load_downloads_once(server, tmp_path, monkeypatch, name):
    serve_mnist(server, monkeypatch, name)
    monkeypatch.setenv("FASTCNN_DATA", str(tmp_path))
    for _ in range(2):
        assert len(datasets.load(name).train) == 6
    assert len(server.requests) == 4
    assert folder_names(tmp_path) == [name] and len(folder_names(tmp_path / name)) == 4


def test_load_fetches_only_what_is_missing(server, tmp_path, monkeypatch):
    serve_mnist(server, monkeypatch, "mnist")
    datasets.mnist(tmp_path)
    own = tmp_path / "mnist" / "train-images-idx3-ubyte"  # unpacked by hand: as good as the published file
    packed = own.with_name(own.name + ".gz")
    own.write_bytes(gzip.decompress(packed.read_bytes()))
    packed.unlink()
    (tmp_path / "mnist" / "t10k-labels-idx1-ubyte.gz").unlink()
    datasets.mnist(tmp_path)
    assert [name for name, _ in server.requests[4:]] == ["t10k-labels-idx1-ubyte.gz"]


def test_load_says_why_the_download_failed(server, tmp_path, monkeypatch):
    serve_mnist(server, monkeypatch, "mnist")
    server.files.clear()
    with pytest.raises(DatasetError, match=r"mnist: found none of train-images-idx3-ubyte\[.gz\].*HTTP Error 404.*try again, or put the files there"):
        datasets.mnist(tmp_path)


def test_published_checksums_are_well_formed():
    files = [file for group in download.FILES.values() for file in group]
    assert len(files) == len({file.md5 for file in files}) == 10
    for file in files:
        assert len(bytes.fromhex(file.md5)) == 16 and all(mirror.endswith("/") for mirror in file.mirrors)


@pytest.mark.parametrize(
    "platform, environment, expected",
    [
        ("linux", {"XDG_CACHE_HOME": "/caches"}, "/caches/fastcnn"),
        ("linux", {"HOME": "/home/me"}, "/home/me/.cache/fastcnn"),
        ("darwin", {"HOME": "/home/me"}, "/home/me/Library/Caches/fastcnn"),
        ("win32", {"LOCALAPPDATA": "/local"}, "/local/fastcnn/Cache"),
        ("linux", {"FASTCNN_DATA": "/data", "XDG_CACHE_HOME": "/caches"}, "/data"),
    ],
)
@pytest.mark.skipif(sys.platform == "win32", reason="the expected paths are POSIX paths")
def test_cache_dir_of_each_platform(monkeypatch, platform, environment, expected):
    for name in ("FASTCNN_DATA", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "platform", platform)
    assert datasets.cache_dir().as_posix() == expected
