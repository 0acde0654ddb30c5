"""Servers that do not keep to what they promised: they send for ever, byte by byte, another file, or lists
without an end."""
import gzip
import json
import socket
import threading
import time
from types import SimpleNamespace

import pytest
from loopback import DATA, md5

from data_scripts import answers, archive, bucket, download, tcga
from data_scripts.download import File
from xmodal.config import LIMITS, Problem

HEAD = "HTTP/1.0 200 fine\r\n{}\r\n"


class Raw:
    """A server that answers each request with what `reply` (a function of the request's text) yields, and
    counts the bytes that it could send."""

    def __init__(self, reply):
        self.reply = reply
        self.requests = []
        self.sent = 0
        self.listening = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.listening.getsockname()[1]}"
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self):
        while True:
            try:
                connection, _ = self.listening.accept()
            except OSError:
                return
            threading.Thread(target=self.answer, args=(connection,), daemon=True).start()

    def answer(self, connection):
        with connection:
            request = b""
            while b"\r\n\r\n" not in request:
                request += connection.recv(4096)
            self.requests.append(request.decode())
            try:
                for piece in self.reply(request.decode()):
                    connection.sendall(piece if isinstance(piece, bytes) else piece.encode())
                    self.sent += len(piece)
            except OSError:
                return


@pytest.fixture
def serve(monkeypatch):
    """A function that starts a `Raw` server."""
    servers = []
    monkeypatch.setenv("NO_PROXY", "*")
    for name, value in (("PAUSE", 0.01), ("TRIES", 3), ("TIMEOUT", (2, 0.5)), ("CHUNK", 1000)):
        monkeypatch.setattr(download, name, value)

    def start(reply):
        servers.append(Raw(reply))
        return servers[-1]
    yield start
    for server in servers:
        server.listening.close()


def for_ever(first, piece, pause=0.0):
    def reply(_):
        yield first
        while True:
            time.sleep(pause)
            yield piece
    return reply


# ---- size and time -----------------------------------------------------------------------------------------

@pytest.mark.parametrize("file", [
    {"bytes": 20_000}, {"bytes": 20_000, "checksum": "md5:0"}, {"unpacked": 20_000}, {},
], ids=str)
def test_what_is_sent_for_ever_is_not_read_for_ever(serve, tmp_path, monkeypatch, file):
    server = serve(for_ever(HEAD.format(""), bytes(1 << 20)))
    monkeypatch.setitem(LIMITS, "unsized file bytes", 100_000)
    with pytest.raises(Problem, match="sends more than the"):
        download.download([File(f"{server.url}/a", "a", **file)], tmp_path)
    assert list(tmp_path.iterdir()) == [] and server.sent < 60 << 20


def test_an_answer_for_ever_or_that_inflates_for_ever_is_refused(serve):
    server = serve(for_ever(HEAD.format(""), b"[" * (1 << 20)))
    with pytest.raises(Problem, match="more than 32,000,000 bytes"):
        download.ask(server.url)
    assert len(server.requests) == 1
    bomb = gzip.compress(bytes(200 << 20))
    headers = f"Content-Encoding: gzip\r\nContent-Length: {len(bomb)}\r\n"
    server = serve(lambda _: [HEAD.format(headers), bomb])
    with pytest.raises(Problem, match="more than 32,000,000 bytes"):
        download.ask(server.url)


@pytest.mark.parametrize("first", [HEAD.format("Content-Length: 1000\r\n"), "HTTP/1.0 200 fine\r\nA: "])
def test_a_server_that_sends_byte_by_byte_is_given_up(serve, tmp_path, monkeypatch, first):
    """It is never idle for as long as TIMEOUT."""
    server = serve(for_ever(first, b"a", pause=0.05))
    monkeypatch.setattr(download, "SLOWEST", (0.6, 1e9))
    monkeypatch.setattr(answers, "SECONDS", 0.6)
    since = time.monotonic()
    with pytest.raises(Problem, match="all the time that is allowed"):
        download.download([File(f"{server.url}/a", "a", 1000)], tmp_path)
    with pytest.raises(Problem, match="all the time that is allowed"):
        download.ask(server.url)
    assert time.monotonic() - since < 5


# ---- parts -------------------------------------------------------------------------------------------------

def test_another_etag_after_if_range_starts_anew(serve, tmp_path):
    """The server sends the rest of another file, although If-Range asked for all of it."""
    other = DATA[::-1]

    def reply(request):
        if "Range: bytes=" not in request and len(server.requests) == 1:
            return [HEAD.format(f'ETag: "a"\r\nContent-Length: {len(DATA)}\r\n'), DATA[:5000]]
        if "Range: bytes=" in request:
            span = f"Content-Range: bytes 5000-{len(DATA) - 1}/{len(DATA)}\r\n"
            return [f'HTTP/1.0 206 part\r\nETag: "b"\r\n{span}\r\n', other[5000:]]
        return [HEAD.format(f'ETag: "b"\r\nContent-Length: {len(DATA)}\r\n'), other]

    server = serve(reply)
    download.download([File(f"{server.url}/a", "a", len(DATA))], tmp_path)
    assert (tmp_path / "a").read_bytes() == other and len(server.requests) == 3


def test_a_body_without_a_length_that_was_cut_goes_on(serve, tmp_path):
    """As HTTP/1.0 may send it: only the promised size tells that it was cut."""
    def reply(request):
        if "Range: bytes=5000-" in request:
            span = f"Content-Range: bytes 5000-{len(DATA) - 1}/{len(DATA)}\r\n"
            return [f'HTTP/1.0 206 part\r\nETag: "a"\r\n{span}\r\n', DATA[5000:]]
        return [HEAD.format('ETag: "a"\r\n'), DATA[:5000]]

    server = serve(reply)
    download.download([File(f"{server.url}/a", "a", len(DATA), md5(DATA))], tmp_path)
    assert (tmp_path / "a").read_bytes() == DATA and len(server.requests) == 2


def test_a_body_of_which_nothing_tells_the_end_is_no_file(serve, tmp_path):
    server = serve(lambda _: [HEAD.format(""), b"patient_id,"])
    with pytest.raises(Problem, match="nothing tells whether all of it came"):
        download.download([File(f"{server.url}/a", "a.csv")], tmp_path)
    with pytest.raises(Problem, match="does not say where it ends"):
        download.ask(server.url, answers.text)
    assert not (tmp_path / "a.csv").exists()


@pytest.mark.parametrize("length", ["9" * 5000, "-1", "\xb2", "1e3"])
def test_a_length_that_is_none_is_not_believed(serve, tmp_path, length):
    server = serve(lambda _: [HEAD.format(f"Content-Length: {length}\r\n").encode("latin-1"), DATA])
    download.download([File(f"{server.url}/a", "a", len(DATA), md5(DATA))], tmp_path)
    assert (tmp_path / "a").read_bytes() == DATA


# ---- lists -------------------------------------------------------------------------------------------------

def page(*contents, token="", more="false"):
    objects = "".join(f"<Contents><Key>{key}</Key><Size>{size}</Size></Contents>" for key, size in contents)
    follows = f"<NextContinuationToken>{token}</NextContinuationToken>" if token else ""
    text = f"<ListBucketResult><IsTruncated>{more}</IsTruncated>{objects}{follows}</ListBucketResult>"
    return [HEAD.format(f"Content-Length: {len(text)}\r\n"), text]


LISTS = {
    "has no end": page(("a", 1), token="t", more="true"),
    "not where": page(("a", 1), more="true"),
    "without a name": page(("", 1)),
    "9223372036854775808 bytes, which no file has": page(("a", 1 << 63)),
    "which no file has": page(("a", -1)),
    "no good answer": page(("a", "9" * 5000)),
}


@pytest.mark.parametrize("message", LISTS)
def test_lists_that_cannot_be(serve, message):
    server = serve(lambda _: LISTS[message])
    with pytest.raises(Problem, match=message):
        bucket.listing(server.url, "")
    assert len(server.requests) <= 3


def test_a_list_may_have_folders_and_several_pages(serve):
    def reply(request):
        if "token=t" in request:
            return page(("b/", 0), ("b/c", 2))
        return page(("a", 1), token="t", more="true")

    server = serve(reply)
    assert [(file.path, file.bytes) for file in bucket.listing(server.url, "")] == [("a", 1), ("b/c", 2)]


@pytest.mark.parametrize("path", ["", ".", "a/", "a\0", "/a", "a" * 300, "\ud800"])
def test_a_name_that_is_none_is_a_problem(tmp_path, path):
    with pytest.raises(Problem, match="is no name"):
        archive.inside(tmp_path, path)


def test_sizes_are_added_and_names_are_compared(tmp_path, capsys):
    files = [File("u", name, (1 << 63) - 1) for name in "abc"]
    download.obtain(files, tmp_path, "terms", dry_run=True)
    assert f"{3 * (1 << 63) / 1e9:.1f} GB" in capsys.readouterr().out
    with pytest.raises(Problem, match="lists 'a' 2 times"):
        download.obtain([*files, files[0]], tmp_path, "terms", dry_run=True)


@pytest.mark.parametrize("length", ["-1", "0", "x", "9" * 5000, "1"])
def test_a_part_of_no_size_is_not_used(serve, tmp_path, caplog, length):
    server = serve(lambda _: [HEAD.format(f"Content-Length: {length}\r\nx-amz-mp-parts-count: 2\r\n")])
    (tmp_path / "a").write_bytes(DATA)
    with caplog.at_level("INFO"):
        bucket.check_parts(tmp_path / "a", server.url, "0" * 32 + "-2")
    assert "not held against its ETag" in caplog.text


def test_gdc_that_repeats_a_page_or_miscounts_is_a_problem(serve, monkeypatch):
    hit = {"file_id": "a", "file_name": "a.svs", "file_size": 9, "md5sum": "0"}
    for total, message in ((9, "lists 1 of 9"), (0, "counts 0"), (-1, "counts -1")):
        body = json.dumps({"data": {"hits": [hit], "pagination": {"total": total}}})
        server = serve(lambda _: [HEAD.format(f"Content-Length: {len(body)}\r\n"), body])
        monkeypatch.setattr(tcga, "GDC", server.url)
        with pytest.raises(Problem, match=message):
            tcga._hits("files", {}, "a", "b", tcga._file)


def test_the_end_of_an_answer():
    for headers, ends in (({}, False), ({"Content-Length": "3"}, True), ({"Content-Length": "-3"}, False),
                          ({"Transfer-Encoding": "chunked"}, True)):
        assert answers.has_end(SimpleNamespace(headers=headers)) == ends
