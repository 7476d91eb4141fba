"""Mirrors, resuming, checksums and the offline message, against a server on this machine."""

import gzip
import hashlib
import io
import re
import socket
import subprocess
import sys
import tarfile
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from convolt.data import cifar10, download, idx, load
from convolt.data.download import fetch

CONTENTS = np.random.default_rng(1).integers(0, 256, 300_000, dtype=np.uint8).tobytes()
SHA256 = hashlib.sha256(CONTENTS).hexdigest()


class Handler(BaseHTTPRequestHandler):
    """/MODE/FILE: serves FILE of ``server.files`` in one of several ways."""

    def do_GET(self):
        server = self.server
        _, mode, name = self.path.split("/")
        asked = self.headers.get("Range")
        server.requests.append((mode, asked))
        server.encodings.append(self.headers["Accept-Encoding"])
        contents = server.files[name]
        if mode == "missing":
            self.send_error(404)
            return
        if mode == "slow":
            time.sleep(0.5)  # long enough for another process to ask meanwhile
        if mode == "other":
            contents = b"<html>log in first</html>"
        first = int(re.fullmatch(r"bytes=(\d+)-", asked)[1]) if asked else 0
        if mode == "no-ranges":
            first = 0
        if first >= len(contents):
            self.send_error(416)
            return
        shown = 0 if mode == "wrong-range" else first
        self.send_response(206 if asked and mode != "no-ranges" else 200)
        if asked:
            self.send_header("Content-Range", f"bytes {shown}-{len(contents) - 1}/{len(contents)}")
        self.send_header("Content-Length", str(len(contents) - shown))
        if name.endswith(".gz"):
            self.send_header("Content-Encoding", "gzip")  # some servers say so of .gz files
        self.end_headers()
        end = len(contents)
        if mode == "breaks":
            end = min(end, first + 100_000)
        self.wfile.write(contents[shown:end])

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.files = {"data.bin": CONTENTS}
        server.requests = []
        server.encodings = []
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def mirrors(server, *modes):
    return [f"http://127.0.0.1:{server.server_port}/{mode}/" for mode in modes]


@pytest.fixture
def unreachable():
    """A mirror at a port on which nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}/"


def assert_fetched(path, folder):
    assert path == folder / "data.bin"
    assert path.read_bytes() == CONTENTS
    assert list(folder.iterdir()) == [path]


def test_downloads_once(server, tmp_path):
    folder = tmp_path / "new" / "folder"
    for _ in range(2):
        path = fetch("data.bin", SHA256, mirrors(server, "good"), folder)
        assert_fetched(path, folder)
    assert server.requests == [("good", None)]


def test_a_present_file_needs_no_network(unreachable, tmp_path):
    (tmp_path / "data.bin").write_bytes(CONTENTS)
    assert_fetched(fetch("data.bin", SHA256, [unreachable], tmp_path), tmp_path)


def test_a_damaged_file_is_downloaded_again(server, tmp_path):
    (tmp_path / "data.bin").write_bytes(CONTENTS[:-1])
    assert_fetched(fetch("data.bin", SHA256, mirrors(server, "good"), tmp_path), tmp_path)


def test_mirrors_are_tried_in_order(server, unreachable, tmp_path):
    urls = [unreachable, *mirrors(server, "missing", "other", "good", "no-ranges")]
    assert_fetched(fetch("data.bin", SHA256, urls, tmp_path), tmp_path)
    assert [mode for mode, _ in server.requests] == ["missing", "other", "good"]


def test_an_interrupted_download_goes_on(server, tmp_path):
    for done in (100_000, 200_000):
        with pytest.raises(ConnectionError, match=r"data\.bin could not be downloaded"):
            fetch("data.bin", SHA256, mirrors(server, "breaks"), tmp_path)
        assert (tmp_path / "data.bin.part").read_bytes() == CONTENTS[:done]
        assert not (tmp_path / "data.bin").exists()
    assert_fetched(fetch("data.bin", SHA256, mirrors(server, "good"), tmp_path), tmp_path)
    ranges = [asked for _, asked in server.requests]
    assert ranges == [None, "bytes=100000-", "bytes=200000-"]


def test_another_mirror_goes_on_where_one_broke(server, tmp_path):
    path = fetch("data.bin", SHA256, mirrors(server, "breaks", "good"), tmp_path)
    assert_fetched(path, tmp_path)
    assert server.requests == [("breaks", None), ("good", "bytes=100000-")]


@pytest.mark.parametrize("mode", ["no-ranges", "wrong-range"])
def test_a_server_without_ranges_starts_again(server, tmp_path, mode):
    (tmp_path / "data.bin.part").write_bytes(CONTENTS[:1000])
    assert_fetched(fetch("data.bin", SHA256, mirrors(server, mode), tmp_path), tmp_path)


@pytest.mark.parametrize("part", [b"wrong from the beginning", CONTENTS, CONTENTS + b"more"])
def test_a_part_that_does_not_fit_is_given_up(server, tmp_path, part):
    (tmp_path / "data.bin.part").write_bytes(part)
    assert_fetched(fetch("data.bin", SHA256, mirrors(server, "good"), tmp_path), tmp_path)
    assert server.requests == [("good", f"bytes={len(part)}-"), ("good", None)]


def test_contents_are_never_decompressed_on_the_way(server, tmp_path):
    compressed = gzip.compress(CONTENTS)
    server.files["data.gz"] = compressed
    digest = hashlib.sha256(compressed).hexdigest()
    path = fetch("data.gz", digest, mirrors(server, "breaks", "good"), tmp_path)
    assert path.read_bytes() == compressed
    assert server.encodings == ["identity", "identity"]


def test_the_offline_message_says_what_to_do(server, unreachable, tmp_path):
    urls = [unreachable, *mirrors(server, "missing", "other")]
    with pytest.raises(ConnectionError) as raised:
        fetch("data.bin", SHA256, urls, tmp_path, ["data.bin", "labels.bin"])
    message = str(raised.value)
    for url in urls:
        assert f"{url}data.bin: " in message
    for part in (
        "404",
        "hash",
        SHA256,
        str(tmp_path),
        "data.bin, labels.bin",
        "--data-dir",
        "its 3 mirrors",
    ):
        assert part in message
    assert not (tmp_path / "data.bin").exists()


def test_what_is_wrong_with_the_disk_is_not_blamed_on_a_mirror(server, tmp_path):
    (tmp_path / "data.bin.part").mkdir()
    with pytest.raises(IsADirectoryError):
        fetch("data.bin", SHA256, mirrors(server, "good"), tmp_path)


def test_processes_take_turns(server, tmp_path):
    code = "import sys, pathlib; from convolt.data.download import fetch; " + (
        "fetch('data.bin', sys.argv[1], [sys.argv[2]], pathlib.Path(sys.argv[3]))"
    )
    (url,) = mirrors(server, "slow")
    command = [sys.executable, "-c", code, SHA256, url, str(tmp_path)]
    processes = [subprocess.Popen(command, stderr=subprocess.DEVNULL) for _ in range(2)]
    assert [process.wait() for process in processes] == [0, 0]
    assert_fetched(tmp_path / "data.bin", tmp_path)
    assert server.requests == [("slow", None)]


def test_load_mnist_from_a_mirror(server, tmp_path, monkeypatch):
    rng = np.random.default_rng(2)
    shapes = {"images": (5, 28, 28), "labels": (5,)}
    digests = []
    for part in idx.PARTS:
        shape = shapes["images" if "images" in part else "labels"]
        values = rng.integers(0, 10, shape, dtype=np.uint8)
        header = bytes((0, 0, 8, len(shape))) + np.array(shape, ">u4").tobytes()
        server.files[f"{part}.gz"] = gzip.compress(header + values.tobytes())
        digests.append(hashlib.sha256(server.files[f"{part}.gz"]).hexdigest())
    source = idx.Source(tuple("0123456789"), tuple(mirrors(server, "good")), tuple(digests), "-")
    monkeypatch.setitem(idx.SOURCES, "mnist", source)
    monkeypatch.setattr(idx, "cache_folder", lambda name: tmp_path / name)
    train, test = load("mnist")
    assert train.images.shape == test.images.shape == (5, 28, 28, 1)
    assert len(list((tmp_path / "mnist").iterdir())) == 4
    assert len(server.requests) == 4
    np.testing.assert_array_equal(load("mnist", root=tmp_path)[0].images, train.images)


def test_load_cifar10_from_a_mirror(server, tmp_path, monkeypatch):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name in (*cifar10.TRAIN, cifar10.TEST):
            member = tarfile.TarInfo(f"{cifar10.FOLDER}/{name}")
            member.size = cifar10.RECORD_BYTES
            tar.addfile(member, io.BytesIO(bytes(member.size)))
    server.files[cifar10.ARCHIVE] = buffer.getvalue()
    monkeypatch.setattr(cifar10, "MIRRORS", mirrors(server, "missing", "good"))
    monkeypatch.setattr(cifar10, "SHA256", hashlib.sha256(buffer.getvalue()).hexdigest())
    monkeypatch.setattr(cifar10, "cache_folder", lambda name: tmp_path / name)
    train, test = load("cifar10")
    assert (len(train), len(test)) == (5, 1)
    assert (tmp_path / "cifar10" / cifar10.ARCHIVE).exists()


def test_the_cache_is_the_users(monkeypatch, tmp_path):
    monkeypatch.delenv("CONVOLT_CACHE_DIR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert download.cache_folder("mnist") == tmp_path / "convolt" / "data" / "mnist"
    monkeypatch.setenv("CONVOLT_CACHE_DIR", str(tmp_path / "mine"))
    assert download.cache_folder("mnist") == tmp_path / "mine" / "data" / "mnist"
