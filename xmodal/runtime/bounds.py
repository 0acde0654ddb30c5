"""Tables and arrays whose size is held against `config.LIMITS` before they are read."""
import gzip
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow
from pyarrow import compute, parquet

from ..config import LIMITS, Problem


def check_matrix(path):
    """Raises `Problem` for a text table of lines (also .gz) that would fill the memory if it were read: too
    many columns, cells or bytes, or a line without end."""
    width = lines = size = line_bytes = 0
    header = b""
    with gzip.open(path) if Path(path).suffix == ".gz" else open(path, "rb") as file:
        while piece := file.read(1 << 20):
            size += len(piece)
            first, newline, _ = piece.partition(b"\n")
            line_bytes += len(first)
            if not lines:
                header = first
                width += max(header.count(b"\t"), header.count(b","), header.count(b";"))
            lines += piece.count(b"\n")
            too_much = (width > LIMITS["matrix columns"], line_bytes > LIMITS["matrix line bytes"],
                        (width + 1) * lines > LIMITS["matrix cells"], size > LIMITS["matrix bytes"])
            if any(too_much):
                raise Problem(f"{path} has more columns, cells or bytes than any table that is read here; "
                              "fetch the original again.")
            if newline:
                line_bytes = len(piece) - piece.rfind(b"\n")


def read_parquet(path):
    """pandas' table of a parquet file. Raises `Problem` if its cells, or its texts when each is written out,
    are more than `config.LIMITS` allows; else what pandas and pyarrow raise."""
    with parquet.ParquetFile(path) as file:
        counts = file.metadata
        groups = [counts.row_group(k) for k in range(counts.num_row_groups)]
        cells = max(counts.num_rows, sum(group.num_rows for group in groups)) * max(counts.num_columns, 1)
        texts = [field.name for field in file.schema_arrow if _is_text(field.type)]
    size = sum(group.total_byte_size for group in groups)
    if cells <= LIMITS["parquet cells"] and size <= LIMITS["parquet bytes"]:
        size = _written_out(path, texts)
    if cells > LIMITS["parquet cells"] or size > LIMITS["parquet bytes"]:
        raise Problem(f"{path} holds {cells:,} cells or {size:,} bytes, which no table of this project has; "
                      "delete it and make it again.")
    return pd.read_parquet(path)


def _written_out(path, columns):
    """Bytes of the texts in `columns`, if each is written out as often as it occurs."""
    size = 0
    with parquet.ParquetFile(path, read_dictionary=columns) as file:
        for column in columns:
            for chunk in file.read([column]).column(0).chunks:
                if not pyarrow.types.is_dictionary(chunk.type):
                    size += chunk.nbytes
                    continue
                lengths = compute.binary_length(chunk.dictionary).cast("int64")
                size += compute.sum(lengths.take(chunk.indices)).as_py() or 0
    return size


def _is_text(kind):
    types = pyarrow.types
    return types.is_string(kind) or types.is_large_string(kind) or types.is_binary(kind)


def read_arrays(path):
    """{name: array} of an .npz without pickled objects. Raises `Problem` if they are larger than
    `config.LIMITS` allows when inflated, and what zipfile and numpy raise."""
    with zipfile.ZipFile(path) as archive:
        size = sum(member.file_size for member in archive.infolist())
    if size > LIMITS["array bytes"]:
        raise Problem(f"{path} inflates to {size:,} bytes, which no run has; delete it and make it again.")
    with np.load(path, allow_pickle=False) as arrays:
        return dict(arrays)
