"""A server on this machine that sends files, with the faults that networks have; nothing leaves the machine."""
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
md5 = lambda data: "md5:" + hashlib.md5(data).hexdigest()


def zipped(members):
    """Bytes of a zip archive of {name or ZipInfo: bytes}."""
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as out:
        for name, data in members.items():
            out.writestr(name, data)
    return made.getvalue()


class Quiet(WSGIRequestHandler):
    def log_message(self, *args):
        pass


class Threaded(socketserver.ThreadingMixIn, WSGIServer):
    daemon_threads = True


class Server:
    """`files` by path, bytes or a function (query, body) -> bytes; `faults` by path, of which each request takes the first; `parts`
    by path, the bytes of a part in which an object of S3 was written."""

    def __init__(self):
        self.files, self.faults, self.parts, self.seen, self.release = {}, {}, {}, [], threading.Event()

    def __call__(self, environ, start):
        path = environ["PATH_INFO"]
        body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        self.seen.append((path, environ.get("HTTP_RANGE", "")))
        fault = self.faults[path].pop(0) if self.faults.get(path) else ""
        if path not in self.files or fault.isdigit():
            start(f"{fault or 404} no", [("Content-Length", "0")])
            return []
        data = self.files[path]
        query = dict(part.split("=", 1) for part in environ["QUERY_STRING"].split("&") if part)   # nothing here is escaped
        data = data(query, body) if callable(data) else data
        if environ["REQUEST_METHOD"] == "HEAD":
            start("206 part", self.told(path, len(data)))
            return []
        tag = f'"{hashlib.md5(data).hexdigest()}"'
        first = re.match(r"bytes=(\d+)-", environ.get("HTTP_RANGE", ""))
        same = environ.get("HTTP_IF_RANGE", tag) == tag
        begin = int(first[1]) if first and same and fault != "whole" else 0
        headers = [("ETag", tag)] * (fault != "nameless") + [("Content-Length", str(len(data) - begin))]
        span = [("Content-Range", f"bytes {begin}-{len(data) - 1}/{len(data)}")]
        start("206 part" if begin else "200 fine", headers + span if begin else headers)
        middle = len(data) // 3
        wrong = data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1:]
        return self.send((wrong if fault == "flip" else data)[begin:], fault)

    def told(self, path, size):
        """Headers of an answer to ?partNumber=1."""
        step = self.parts.get(path, 0)
        count = [("x-amz-mp-parts-count", str(-(-size // step)))] if step else []
        return [("Content-Length", str(min(step or size, size))), *count]

    def send(self, data, fault):
        if fault in ("cut", "hang", "nameless"):
            yield data[:len(data) // 2]
            if fault == "hang":
                self.release.wait(20)
        else:
            yield data


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
