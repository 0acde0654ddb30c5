"""Small tables as text: the same fields from every form that a spreadsheet or an editor writes. Who may read
what is written."""
import os
import unicodedata

import numpy as np
import pytest
from safetensors.numpy import save_file

from xmodal.config import Problem
from xmodal.runtime.files import atomic, table_lines

LINES = [["file", "mpp"], ["Pr\u00e4parat 1.tif", "0.25"], ["b, c.tif", "0.5"]]
PLAIN = 'file,mpp\nPr\u00e4parat 1.tif,0.25\n"b, c.tif",0.5\n'


def quoted(separator, end):
    """`LINES` as text with every field in quotes."""
    text = ""
    for line in LINES:
        text += separator.join(f'"{field}"' for field in line) + end
    return text


@pytest.mark.parametrize("text", (
    PLAIN,
    PLAIN.replace("\n", "\r\n"),
    PLAIN.replace("\n", "\r"),
    PLAIN.replace("\n", "\n\n , \n")[:-1],
    unicodedata.normalize("NFD", PLAIN),
    quoted(";", "\r\n"),
    quoted("\t", "\n"),
    " file \t mpp\nPr\u00e4parat 1.tif\t 0.25 \nb, c.tif\t0.5",
))
@pytest.mark.parametrize("encoding", ("utf-8", "utf-8-sig", "utf-16"))
def test_a_table_is_the_same_in_any_form(tmp_path, text, encoding):
    path = tmp_path / "a.csv"
    path.write_bytes(text.encode(encoding))
    assert table_lines(path) == LINES


def test_line_feeds_in_quotes_and_separators_in_a_quoted_header_are_text(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes(b'"a;b;c",d\r\n"x\r\ny","1"\r\n')
    assert table_lines(path) == [["a;b;c", "d"], ["x\ny", "1"]]


@pytest.mark.parametrize("content", (None, b"a,b\n\xe4,1\n", b"\xff\xfea"))
def test_what_is_no_text_is_a_problem(tmp_path, content):
    if content:
        (tmp_path / "a.csv").write_bytes(content)
    with pytest.raises(Problem, match="a.csv cannot be read"):
        table_lines(tmp_path / "a.csv")


@pytest.mark.parametrize("umask, mode", [(0o022, 0o644), (0o027, 0o640), (0o077, 0o600)])
def test_the_group_may_read_what_the_umask_allows(tmp_path, umask, mode):
    """safetensors gives its files to their owner alone."""
    path = tmp_path / "model.safetensors"
    before = os.umask(umask)
    try:
        with atomic(path) as partial:
            save_file({"weight": np.zeros(3)}, partial)
            written = partial.stat().st_mode & 0o777
        assert os.umask(umask) == umask
    finally:
        os.umask(before)
    assert (written, path.stat().st_mode & 0o777) == (0o600, mode)
