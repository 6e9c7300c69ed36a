"""The downloader against a real HTTP server on the loopback interface."""

from __future__ import annotations

import base64
import hashlib
import random
import re
import threading
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

import ppcls_ext.download
from ppcls_ext.download import file_md5
from ppcls_ext.errors import PpclsExtError

download = partial(ppcls_ext.download.download, instead="use --source")
CONTENT = random.Random(0).randbytes(1_000_000)
MD5 = hashlib.md5(CONTENT).hexdigest()


class Server:
    """Serves CONTENT, with the misbehaviour that a test asks for; `ranges` holds the Range header of every request."""

    def __init__(self):
        self.content = CONTENT
        self.knows_range = True
        self.sends_length = True
        self.cuts = []  # bytes after which the next answers break
        self.refuses = False
        self.headers = {}  # further ones of every answer
        self.ranges = []
        self.httpd = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, self))
        self.url = f"http://127.0.0.1:{self.httpd.server_port}/file.bin"


class Handler(BaseHTTPRequestHandler):
    def __init__(self, server, *args):
        self.plan = server
        super().__init__(*args)

    def do_GET(self):
        plan, content = self.plan, self.plan.content
        plan.ranges.append(self.headers["Range"])
        if plan.refuses:
            return self.send_error(503)
        start = 0
        same = self.headers["If-Range"] in (None, plan.headers.get("ETag"))
        if self.headers["Range"] and plan.knows_range and same:
            start = int(re.fullmatch(r"bytes=(\d+)-", self.headers["Range"])[1])
            if start >= len(content):
                return self.send_error(416)
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        else:
            self.send_response(200)
        for name, value in plan.headers.items():
            self.send_header(name, value)
        if plan.sends_length:
            self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        end = start + plan.cuts.pop(0) if plan.cuts else len(content)
        self.wfile.write(content[start:end])
        return None

    def log_message(self, *args):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    server = Server()
    thread = threading.Thread(target=server.httpd.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.httpd.shutdown()
    server.httpd.server_close()
    thread.join()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "download" / "file.bin"


def part_of(path):
    return path.with_name("file.bin.part")


def assert_done(path):
    assert path.read_bytes() == CONTENT
    assert [file.name for file in path.parent.iterdir()] == ["file.bin"]


def test_downloads_once(server, path):
    download(server.url, path, MD5)
    download(server.url, path, MD5)
    assert_done(path)
    assert server.ranges == [None]


def test_without_content_length(server, path):
    server.sends_length = False
    download(server.url, path, MD5)
    assert_done(path)


def test_goes_on_within_one_call_while_bytes_come(server, path):
    server.cuts = [500_000, 200_000]
    download(server.url, path, MD5)
    assert_done(path)
    assert server.ranges == [None, "bytes=500000-", "bytes=700000-"]


def test_goes_on_in_the_next_call(server, path):
    server.cuts = [500_000, 0]
    with pytest.raises(PpclsExtError, match=r"stopped after 500000 bytes \(the connection closed at 500000 of 1000000"):
        download(server.url, path, MD5)
    assert not path.exists()
    assert part_of(path).read_bytes() == CONTENT[:500_000]
    download(server.url, path, MD5)
    assert_done(path)
    assert server.ranges == [None, "bytes=500000-", "bytes=500000-"]


def test_server_without_range_sends_the_whole_file_again(server, path):
    server.knows_range = False
    server.cuts = [500_000]
    download(server.url, path, MD5)
    assert_done(path)
    assert server.ranges == [None, "bytes=500000-"]


def test_whole_part_needs_no_request(server, path):
    path.parent.mkdir()
    part_of(path).write_bytes(CONTENT)
    download(server.url, path, MD5)
    assert_done(path)
    assert server.ranges == []


def test_part_that_is_too_long_starts_anew(server, path):
    path.parent.mkdir()
    part_of(path).write_bytes(b"x" * (len(CONTENT) + 1))
    download(server.url, path, MD5)
    assert_done(path)
    assert server.ranges == [f"bytes={len(CONTENT) + 1}-", None]


def test_damaged_file_is_replaced(server, path):
    path.parent.mkdir()
    path.write_bytes(CONTENT[:-1])
    download(server.url, path, MD5)
    assert_done(path)


def test_wrong_md5_removes_the_file(server, path):
    server.content = CONTENT[:-1] + b"x"
    with pytest.raises(PpclsExtError, match=f"got md5 [0-9a-f]{{32}}, expected {MD5}; the file was removed"):
        download(server.url, path, MD5)
    assert not path.parent.exists()
    server.content = CONTENT
    download(server.url, path, MD5)
    assert_done(path)


def test_refusing_server_leaves_nothing(server, path):
    server.refuses = True
    with pytest.raises(PpclsExtError, match=r"did not begin .*503.*--source"):
        download(server.url, path, MD5)
    assert not path.parent.exists()


def test_no_server_leaves_the_part(server, path):
    path.parent.mkdir()
    part_of(path).write_bytes(CONTENT[:10])
    server.refuses = True
    with pytest.raises(PpclsExtError, match="after 10 bytes"):
        download(server.url, path, MD5)
    assert part_of(path).read_bytes() == CONTENT[:10]


def test_without_md5_the_server_s_version_decides_whether_to_go_on(server, path):
    server.headers = {"ETag": '"1"'}
    server.cuts = [500_000]
    download(server.url, path)
    assert_done(path)
    assert server.ranges == [None, "bytes=500000-"]

    path.unlink()
    server.content, server.cuts = b"x" * 1_000_000, [500_000, 0]
    with pytest.raises(PpclsExtError, match="stopped after 500000 bytes"):
        download(server.url, path)
    server.content, server.headers = CONTENT, {"ETag": '"2"'}
    download(server.url, path)
    assert_done(path)


def test_without_md5_what_is_there_is_taken(server, path):
    path.parent.mkdir()
    path.write_bytes(CONTENT)
    download(server.url, path)
    assert server.ranges == []


def test_md5_that_the_server_states(server, path):
    server.headers = {"Content-MD5": base64.b64encode(hashlib.md5(CONTENT).digest()).decode()}
    server.cuts = [500_000]
    download(server.url, path)
    assert_done(path)
    path.unlink()
    server.content = CONTENT[:-1] + b"x"
    with pytest.raises(PpclsExtError, match=f"got md5 [0-9a-f]{{32}}, expected {MD5}"):
        download(server.url, path)
    assert list(path.parent.iterdir()) == []


def test_two_at_a_time_make_one_download(server, path):
    threads = [threading.Thread(target=download, args=(server.url, path)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert_done(path)
    assert server.ranges == [None]


def test_file_md5(tmp_path):
    (tmp_path / "x").write_bytes(b"abc")
    assert file_md5(tmp_path / "x") == "900150983cd24fb0d6963f7d28e17f72"  # RFC 1321, A.5
