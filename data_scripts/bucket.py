"""Open S3 buckets: what they list, and whether what came is what they list."""
import hashlib
import logging
import re
from functools import partial
from urllib.parse import quote

import defusedxml.ElementTree

from data_scripts.archive import Damaged
from data_scripts.download import CHUNK, File, ask
from data_scripts.ranges import SIZE
from xmodal.config import LIMITS, Problem

log = logging.getLogger(__name__)


def listing(bucket, prefix):
    """[`File`, ...] of an open S3 bucket; the path of each is its key, and its ETag says what must come.

    The ETag of an object that was written in one piece is its md5. That of an object written in parts is the
    md5 of the parts' md5s and their number; the size of a part is then asked when the file has come.
    """
    files = []
    tokens = [""]
    while True:
        url = f"{bucket}/?list-type=2&prefix={quote(prefix)}"
        if tokens[-1]:
            url += f"&continuation-token={quote(tokens[-1], safe='')}"
        objects, token = ask(url, _page)
        files += [_file(f"{bucket}/{quote(key)}", key, size, etag) for key, size, etag in objects]
        if not token:
            return files
        if token in tokens or len(tokens) > LIMITS["pages of a list"]:
            raise Problem(f"The list of {bucket} has no end: after {len(tokens)} pages it begins again, "
                          "or goes on; try again later.")
        tokens.append(token)


def _page(answer):
    """A page of a listing as ([(key, bytes, ETag), ...], token of the next page or None).

    Keys that end in / stand for folders and hold nothing.
    """
    page = defusedxml.ElementTree.fromstring(answer.content)
    objects = []
    for item in page.iterfind("{*}Contents"):
        key = item.findtext("{*}Key").strip()
        size = int(item.findtext("{*}Size"))
        if not key:
            raise ValueError("it lists a file without a name")
        if size or not key.endswith("/"):
            objects.append((key, size, item.findtext("{*}ETag", "").strip('"')))
    token = page.findtext("{*}NextContinuationToken")
    if not token and page.findtext("{*}IsTruncated", "").strip() == "true":
        raise ValueError("it says that more follows, but not where")
    return objects, token


def _file(url, key, size, etag):
    if re.fullmatch("[0-9a-f]{32}", etag):
        return File(url, key, size, f"md5:{etag}")
    if re.fullmatch("[0-9a-f]{32}-[0-9]{1,5}", etag):
        return File(url, key, size, check=partial(check_parts, url=url, etag=etag))
    return File(url, key, size)


def check_parts(path, url, etag):
    """Raises `Damaged` unless the file has the ETag of an object that was written in parts.

    Where the server does not tell the size of the parts, the file is not checked, which is logged.
    """
    parts = etag.split("-")[1]
    step, counted = ask(f"{url}?partNumber=1", _first_part, method="HEAD")
    if not step or counted != parts or -(-path.stat().st_size // step) != int(parts):
        log.info("%s was written in %s parts of a size that the server does not tell: "
                 "it is not held against its ETag.", path.name, parts)
        return
    actual = etag_of(path, step)
    if actual != etag:
        raise Damaged(f"{path.name} has the ETag {actual} instead of {etag}")


def _first_part(answer):
    """(bytes of the first part, or 0; how many parts S3 counts, as text)."""
    length = answer.headers.get("Content-Length", "")
    step = int(length) if re.fullmatch(SIZE, length) else 0
    return step, answer.headers.get("x-amz-mp-parts-count")


def etag_of(path, step):
    """The ETag that S3 gives to a file that is written in parts of `step` bytes."""
    sums = []
    left = path.stat().st_size
    with open(path, "rb") as file:
        while left > 0:
            part = hashlib.md5()
            left_after = max(0, left - step)
            while left > left_after:                       # a part may have gigabytes
                piece = file.read(min(CHUNK, left - left_after))
                part.update(piece)
                left -= len(piece) or left                 # a file that shrinks meanwhile ends the loop
            sums.append(part.digest())
    return f"{hashlib.md5(b''.join(sums)).hexdigest()}-{len(sums)}"
