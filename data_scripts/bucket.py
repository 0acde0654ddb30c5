"""Open S3 buckets: what lies there, and whether what came is that."""
import hashlib
import logging
import re
import xml.etree.ElementTree as ElementTree
from functools import partial
from urllib.parse import quote

from data_scripts.archive import Damaged
from data_scripts.download import CHUNK, File, ask

log = logging.getLogger(__name__)


def listing(bucket, prefix):
    """[`File`, ...] of an open S3 bucket, the path of each being its key; their ETags say what must come.

    The ETag of an object that was written in one piece is its md5; of one in parts it is the md5 of the parts' md5s and their
    number, for which the size of a part is asked when the file has come.
    """
    found, token = [], ""
    while True:
        url = f"{bucket}/?list-type=2&prefix={quote(prefix)}" + (f"&continuation-token={quote(token, safe='')}" if token else "")
        objects, token = ask(url, _page)
        found += [_file(f"{bucket}/{quote(key)}", key, size, etag) for key, size, etag in objects]
        if not token:
            return found


def _page(answer):
    """A page of a listing as ([(key, bytes, ETag), ...], token of the next page or None)."""
    page = ElementTree.fromstring(answer.content)
    found = [(item.findtext("{*}Key").strip(), int(item.findtext("{*}Size")), item.findtext("{*}ETag", "").strip('"'))
             for item in page.iterfind("{*}Contents")]
    return found, page.findtext("{*}NextContinuationToken")


def _file(url, key, size, etag):
    if re.fullmatch("[0-9a-f]{32}", etag):
        return File(url, key, size, f"md5:{etag}")
    return File(url, key, size, check=partial(check_parts, url=url, etag=etag) if re.fullmatch(r"[0-9a-f]{32}-\d+", etag) else None)


def check_parts(path, url, etag):
    """Raises `Damaged` unless the file has the ETag of an object that was written in parts; where the server does not tell their size,
    that is logged."""
    parts = etag.split("-")[1]
    told = ask(f"{url}?partNumber=1", lambda answer: answer.headers, method="HEAD")
    step = int(told.get("Content-Length", 0))
    if not step or told.get("x-amz-mp-parts-count") != parts:
        log.info("%s was written in %s parts of a size that the server does not tell: it is not held against its ETag.", path.name, parts)
        return
    found = etag_of(path, step)
    if found != etag:
        raise Damaged(f"{path.name} has the ETag {found} instead of {etag}")


def etag_of(path, step):
    """The ETag that S3 gives to a file that is written in parts of `step` bytes."""
    sums, left = [], path.stat().st_size
    with open(path, "rb") as file:
        while left > 0:
            part, until = hashlib.md5(), max(0, left - step)
            while left > until:                            # a part may have gigabytes
                part.update(piece := file.read(min(CHUNK, left - until)))
                left -= len(piece) or left
            sums.append(part.digest())
    return f"{hashlib.md5(b''.join(sums)).hexdigest()}-{len(sums)}"
