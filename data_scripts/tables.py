"""Tables from elsewhere, read as text: whatever separator, line ends, byte-order mark or case of the header a copy has come to have."""
import csv
import io

import pandas as pd

from xmodal.config import Problem


def lines(path):
    """[[field, ...], ...] of a CSV separated by commas, semicolons or tabs, without blank lines and without spaces around fields.

    Line feeds in quoted fields are kept, since CBIS-DDSM has them. Raises `Problem` if it is missing or no text.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
        separator = max(",;\t", key=text.partition("\n")[0].count)
        found = [[field.strip(" \t\r") for field in line] for line in csv.reader(io.StringIO(text, newline=""), delimiter=separator)]
    except (OSError, ValueError, csv.Error) as error:
        raise Problem(f"The table {path} cannot be read ({error}); copy or fetch the original again.") from None
    return [line for line in found if any(line)]


def read(path, needed, rename=None):
    """The CSV at `path` as strings ("NA" stays one), with its header in lower case, renamed by `rename`, and two columns more.

    `row` counts from 1 below the header; `fault` says what is wrong with a row, "" where nothing is: here its number of fields,
    which are then cut or filled up. Raises `Problem` if the table cannot be read or lacks a column that is `needed`.
    """
    header, *rest = lines(path) or [[]]
    n = max((k for k, name in enumerate(header, 1) if name), default=0)       # spreadsheets end rows with empty fields
    columns = [(rename or {}).get(name.lower(), name.lower()) for name in header[:n]]
    if lacking := sorted(set(needed) - set(columns)):
        raise Problem(f"{path} lacks the columns {', '.join(lacking)}; copy or fetch the original again.")
    if len(set(columns)) < len(columns):
        raise Problem(f"{path} has two columns of one name; copy or fetch the original again.")
    table = pd.DataFrame([(line + [""] * n)[:n] for line in rest], columns=columns, dtype=str)
    odd = [f"has {len(line)} fields instead of {n}" if len(line) < n or any(line[n:]) else "" for line in rest]
    return table.assign(row=range(1, len(rest) + 1), fault=pd.Series(odd, table.index, dtype=str))


def mark(table, column, good):
    """Sets `fault` of the rows of `table` that had none and whose `column` is not `good` (booleans)."""
    wrong = table.fault.eq("") & ~good
    table.loc[wrong, "fault"] = [f"has the {column} {value.strip()!r}, which is unknown" for value in table.loc[wrong, column]]


def reason(path, row, fault):
    """The sentence that tells of a faulty row."""
    return f"Row {row} of {path} {fault}; correct it from the original table."
