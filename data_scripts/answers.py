"""What a server answers, bounded in size and in time: a server may send for ever, or byte by byte."""
import io
import queue
import re
import threading
import time
import xml.etree.ElementTree as ElementTree

import requests
import urllib3

from xmodal.config import LIMITS, Problem

SECONDS = 300         # for a question and its answer
PIECE = 1 << 16
# What an answer raises that does not come, or that is of another form.
UNREADABLE = (requests.RequestException, ElementTree.ParseError, ValueError, LookupError, TypeError,
              AttributeError, ArithmeticError, RecursionError)


def whole(method, url, **how):
    """The answer to a request, read to its end; `how` is what `requests.request` takes.

    Raises `Problem` if it is longer than `config.LIMITS` allows, also after it is decompressed, and
    `requests.RequestException` if it breaks off or takes longer than SECONDS.
    """
    deadline = time.monotonic() + SECONDS
    most = LIMITS["answer bytes"]
    body = bytearray()
    with within(deadline, requests.request, method, url, stream=True, **how) as answer:
        for piece in pieces(answer, PIECE, deadline):
            body += piece
            if len(body) > most:
                raise Problem(f"{url} answers with more than {most:,} bytes, which no list has; "
                              "look whether the dataset has moved.")
    answer.raw = io.BytesIO(body)
    return answer


def within(deadline, ask, *args, **how):
    """What `ask` returns. Raises `requests.Timeout` at `deadline` (by `time.monotonic`): a server that sends
    its headers byte by byte is never idle."""
    outcome = queue.SimpleQueue()

    def work():
        try:
            outcome.put((ask(*args, **how), None))
        except Exception as error:                        # raised in the thread that waits
            outcome.put((None, error))

    threading.Thread(target=work, daemon=True).start()
    try:
        answer, error = outcome.get(timeout=max(0, deadline - time.monotonic()))
    except queue.Empty:
        raise requests.Timeout("no answer came in all the time that is allowed") from None
    if error:
        raise error
    return answer


def pieces(answer, size, deadline):
    """Yields the body of an answer, decompressed, in pieces of `size` bytes; the last may be shorter.

    Raises `requests.RequestException` where it breaks off, or is not at its end at `deadline`.
    """
    piece = bytearray()
    part = b"?"
    while part:
        try:
            part = answer.raw.read1(size - len(piece), decode_content=True) or b""   # what is there
        except urllib3.exceptions.HTTPError as error:
            raise requests.ConnectionError(error) from None
        if time.monotonic() > deadline:
            raise requests.Timeout("it came too slowly, and not to its end in all the time that is allowed")
        piece += part
        if len(piece) == size:
            yield bytes(piece)
            piece.clear()
    if piece:
        yield bytes(piece)


def has_end(answer):
    """Whether an answer says where it ends, so that it is seen if it was cut."""
    chunked = "chunked" in answer.headers.get("Transfer-Encoding", "").lower()
    length = answer.headers.get("Content-Length", "").strip()
    return chunked or re.fullmatch("[0-9]{1,18}", length) is not None


def check_end(file, answer, came, total):
    """Raises `requests.ConnectionError` if an answer was cut, or if nothing would tell that it was."""
    if total not in (None, came):
        raise requests.ConnectionError(f"{came} of {total} bytes came")
    if total is None and not (file.checksum or file.unpacked or has_end(answer)):
        raise requests.ConnectionError("nothing tells whether all of it came")


def text(answer):
    """The text of an answer. Raises `ValueError` where it would not be seen if it was cut."""
    if not has_end(answer):
        raise ValueError("it does not say where it ends")
    return answer.text


def final(error):
    """True where asking again would give the same: errors 4xx but for timeouts, ranges, too many requests."""
    status = getattr(getattr(error, "response", None), "status_code", 500)
    return 400 <= status < 500 and status not in (408, 416, 425, 429)
