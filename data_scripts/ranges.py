"""Going on with a file of which a part came before: what HTTP asks for, and what an answer holds."""
import re


def headers(have, known, can_tell):
    """Headers of a request for a file of which `have` bytes came before: for the rest, if it may be asked.

    known: the `validator` of what came, or "". can_tell: whether a checksum will tell that two halves do not
    fit.
    """
    asked = {"Accept-Encoding": "identity"}
    if known:
        asked |= {"Range": f"bytes={have}-", "If-Range": known}
    elif have and can_tell:
        asked |= {"Range": f"bytes={have}-"}
    return asked


def span(answer):
    """(first byte, total bytes or None) of what an answer holds."""
    if answer.status_code == 206:
        match = re.match(r"bytes (\d+)-\d+/(\d+)", answer.headers.get("Content-Range", ""))
        return (int(match[1]), int(match[2])) if match else (-1, None)
    length = answer.headers.get("Content-Length", "")
    return 0, int(length) if length.isdigit() else None


def validator(answer):
    """What tells later whether the file is still the same: a strong ETag, or the date of change."""
    etag = answer.headers.get("ETag", "")
    return etag if etag.startswith('"') else answer.headers.get("Last-Modified", "")
