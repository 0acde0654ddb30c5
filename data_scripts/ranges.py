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


def compressed(answer):
    """Whether an answer comes compressed although identity was asked for; lengths and ranges are then those
    of the compressed bytes."""
    return answer.headers.get("Content-Encoding", "identity").strip().lower() not in ("", "identity")


def span(answer):
    """(first byte, total bytes or None) of what an answer holds."""
    if compressed(answer):
        return (0, None) if answer.status_code == 200 else (-1, None)
    if answer.status_code == 206:
        match = re.match(r"bytes (\d+)-\d+/(\d+)", answer.headers.get("Content-Range", ""))
        return (int(match[1]), int(match[2])) if match else (-1, None)
    length = answer.headers.get("Content-Length", "")
    return 0, int(length) if length.isdigit() else None


def validator(answer):
    """What tells later whether the file is still the same: a strong ETag, or the date of change; "" where it
    came compressed, since ranges do not fit it."""
    if compressed(answer):
        return ""
    etag = answer.headers.get("ETag", "")
    return etag if etag.startswith('"') else answer.headers.get("Last-Modified", "")
