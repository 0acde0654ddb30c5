"""Tables from elsewhere, read as text with any separator, line ends, byte-order mark and case of header."""
import pandas as pd

from xmodal.config import LIMITS, Problem
from xmodal.runtime.files import table_lines


def lines(path):
    """[[field, ...], ...] of a CSV, as `xmodal.runtime.files.table_lines` reads it."""
    return table_lines(path)


def read(path, needed, rename=None):
    """The CSV at `path` as strings ("NA" stays one), with its header in lower case and renamed by `rename`.

    Two columns are added. `row` counts from 1 below the header. `fault` says what is wrong with a row, ""
    where nothing is: here its number of fields, which are then cut or filled up. Raises `Problem` if the
    table cannot be read or lacks one of the columns that are `needed`.
    """
    header, *rest = lines(path) or [[]]
    named = [k for k, name in enumerate(header, 1) if name]
    width = max(named, default=0)                          # spreadsheets end rows with empty fields
    columns = [name.lower() for name in header[:width]]
    if rename:
        columns = [rename.get(name, name) for name in columns]
    lacking = sorted(set(needed) - set(columns))
    if lacking:
        raise Problem(f"{path} lacks the columns {', '.join(lacking)}; copy or fetch the original again.")
    if len(set(columns)) < len(columns):
        raise Problem(f"{path} has two columns of one name; copy or fetch the original again.")
    if width * len(rest) > LIMITS["table cells"]:
        raise Problem(f"{path} has {width} columns and {len(rest)} rows, which no table here has; "
                      "copy or fetch the original again.")
    fields = [(line + [""] * width)[:width] for line in rest]
    faults = [_fault(line, width) for line in rest]
    table = pd.DataFrame(fields, columns=columns, dtype=str)
    return table.assign(row=range(1, len(rest) + 1), fault=pd.Series(faults, table.index, dtype=str))


def _fault(line, width):
    """What is wrong with the number of fields of a line, or ""."""
    if len(line) < width or any(line[width:]):
        return f"has {len(line)} fields instead of {width}"
    return ""


def mark(table, column, good):
    """Sets `fault` of the rows of `table` that had none and whose `column` is not `good` (booleans)."""
    wrong = table.fault.eq("") & ~good
    faults = [f"has the {column} {value.strip()!r}, which is unknown" for value in table.loc[wrong, column]]
    table.loc[wrong, "fault"] = faults


def mark_contradictions(table, key, columns):
    """Sets `fault` of the rows of `table` that had none and give one `key` different values in `columns`."""
    sound = table.fault.eq("")
    different = table[sound].drop_duplicates([key, *columns])
    names = different[key][different[key].duplicated()]
    wrong = sound & table[key].isin(names)
    table.loc[wrong, "fault"] = [f"contradicts another row of {name}" for name in table.loc[wrong, key]]


def reason(path, row, fault):
    """The sentence that tells why a faulty row is left out."""
    return f"Row {row} of {path} {fault}; correct it from the original table."
