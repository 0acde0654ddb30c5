"""A server that sends files, with the faults that networks have. Nothing leaves the machine."""
import hashlib
import io
import re
import socketserver
import threading
import zipfile
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

import numpy as np
import pytest

from data_scripts import download

DATA = np.random.default_rng(0).bytes(10_240)             # which no archive makes smaller


def md5(data):
    """The checksum of bytes, as the scripts write it: "md5:..."."""
    return "md5:" + hashlib.md5(data).hexdigest()


def zipped(members):
    """Bytes of a zip archive of {name or ZipInfo: bytes}."""
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as out:
        for name, data in members.items():
            out.writestr(name, data)
    return archive.getvalue()


class Quiet(WSGIRequestHandler):
    def log_message(self, *args):
        pass


class Threaded(socketserver.ThreadingMixIn, WSGIServer):
    daemon_threads = True


class Server:
    """Sends files, with faults.

    files: {path: bytes, or a function (query, body) -> bytes}.
    faults: {path: list}; each request for the path takes the first fault. A number is an HTTP status; "cut"
        sends half of the bytes, "hang" half and then nothing, "flip" changes one bit, "whole" ignores the
        Range of the request, "nameless" sends half, without an ETag, and "" is no fault.
    parts: {path: size of the parts in which an S3 object was written}.
    seen: (path, Range) of every request.
    """

    def __init__(self):
        self.files = {}
        self.faults = {}
        self.parts = {}
        self.seen = []
        self.release = threading.Event()                  # ends every "hang"

    def __call__(self, environ, start):
        path = environ["PATH_INFO"]
        body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        self.seen.append((path, environ.get("HTTP_RANGE", "")))
        fault = self.next_fault(path)
        if path not in self.files or fault.isdigit():
            start(f"{fault or 404} no", [("Content-Length", "0")])
            return []
        data = self.files[path]
        if callable(data):
            data = data(parsed(environ["QUERY_STRING"]), body)
        if environ["REQUEST_METHOD"] == "HEAD":
            start("206 part", self.part_headers(path, len(data)))
            return []
        tag = f'"{hashlib.md5(data).hexdigest()}"'
        begin = 0 if fault == "whole" else first_byte(environ, tag)
        headers = [] if fault == "nameless" else [("ETag", tag)]
        headers.append(("Content-Length", str(len(data) - begin)))
        if begin:
            headers.append(("Content-Range", f"bytes {begin}-{len(data) - 1}/{len(data)}"))
        start("206 part" if begin else "200 fine", headers)
        sent = flipped(data) if fault == "flip" else data
        return self.send(sent[begin:], fault)

    def next_fault(self, path):
        """The fault of this request for a path, which later requests do not meet; "" where none is left."""
        return self.faults[path].pop(0) if self.faults.get(path) else ""

    def part_headers(self, path, size):
        """Headers of an answer to ?partNumber=1: the size of the first part and how many parts S3 counts."""
        step = self.parts.get(path, 0)
        if not step:
            return [("Content-Length", str(size))]
        parts = -(-size // step)
        return [("Content-Length", str(min(step, size))), ("x-amz-mp-parts-count", str(parts))]

    def send(self, data, fault):
        if fault in ("cut", "hang", "nameless"):
            yield data[:len(data) // 2]
            if fault == "hang":
                self.release.wait(20)
        else:
            yield data


def parsed(query):
    """{name: value} of a query string, in which nothing is escaped."""
    return dict(part.split("=", 1) for part in query.split("&") if part)


def first_byte(environ, tag):
    """Where an answer begins: as Range asks, if the file still has the tag that If-Range names; else at 0."""
    first = re.match(r"bytes=(\d+)-", environ.get("HTTP_RANGE", ""))
    unchanged = environ.get("HTTP_IF_RANGE", tag) == tag
    return int(first[1]) if first and unchanged else 0


def flipped(data):
    """The bytes with one bit changed, at a third of their length."""
    middle = len(data) // 3
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1:]


@pytest.fixture
def server(monkeypatch):
    made = Server()
    with Threaded(("127.0.0.1", 0), Quiet) as listening:
        listening.set_app(made)
        made.url = f"http://127.0.0.1:{listening.server_port}"
        threading.Thread(target=listening.serve_forever, args=(0.02,), daemon=True).start()
        monkeypatch.setenv("NO_PROXY", "*")
        for name, value in (("PAUSE", 0.01), ("TRIES", 3), ("TIMEOUT", (2, 0.5)), ("CHUNK", 1000)):
            monkeypatch.setattr(download, name, value)
        yield made
        made.release.set()
        listening.shutdown()
