"""Going on with a file of which a part came before: what HTTP asks for, and what an answer holds."""
import re

from data_scripts.archive import Damaged

SIZE = "[0-9]{1,18}"     # what has more digits is no size


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


def place(answer, have, size, known, can_tell):
    """(first byte, total bytes or None) of what an answer to these `headers` holds.

    size: the bytes that were promised, or None; known, can_tell: as for `headers`. Raises `Damaged` unless it
    begins at 0 or at `have`, is of the promised size, and is of the same file as what came before, and an
    HTTP error for a refusal.
    """
    if answer.status_code == 416:
        raise Damaged(f"the server has less than the {have} bytes that came before")
    answer.raise_for_status()
    start, total = span(answer)
    other_size = size is not None and total not in (None, size)
    if start not in (0, have) or other_size:
        raise Damaged(f"the server sends {total} bytes from byte {start} on, not {size} from {have}")
    if start and not _same(answer, known, can_tell):
        raise Damaged("the file has changed on the server since its first part came")
    return start, total


def _same(answer, known, can_tell):
    """Whether the part in `answer` is of the file that `known` names, as the server says. Some servers send
    a part of another file, whatever If-Range asks."""
    tag = answer.headers.get("ETag", "")
    if known.startswith('"'):
        return tag == known or can_tell and not tag
    return answer.headers.get("Last-Modified", known) == known or not known


def span(answer):
    """(first byte, total bytes or None) of what an answer holds."""
    if compressed(answer):
        return (0, None) if answer.status_code == 200 else (-1, None)
    if answer.status_code == 206:
        sent = answer.headers.get("Content-Range", "").strip()
        match = re.fullmatch(f"bytes ({SIZE})-{SIZE}/({SIZE})", sent)
        return (int(match[1]), int(match[2])) if match else (-1, None)
    length = answer.headers.get("Content-Length", "").strip()
    return 0, int(length) if re.fullmatch(SIZE, length) else None


def validator(answer):
    """What tells later whether the file is still the same: a strong ETag, or the date of change; "" where it
    came compressed, since ranges do not fit it."""
    if compressed(answer):
        return ""
    etag = answer.headers.get("ETag", "")
    return etag if etag.startswith('"') else answer.headers.get("Last-Modified", "")
