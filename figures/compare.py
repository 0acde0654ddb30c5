"""Compares the panel tables of the current run with those of the reference run.

`python -m figures.compare [profile]` (or `make compare`) prints one line per panel and writes one page,
build/compare.html: what was declared, installed, ran clean, and is identical.

How alike two tables are, in [0, 1]: rows are matched by key, the shortest run of leading columns in which no
two rows of the reference agree. Every other cell of a matched row scores 1 if the texts are equal. Otherwise
    two numbers score 1 - |a - b| / (|a| + |b|) (one less a term of the Canberra distance),
    two pictures score 1 - mean |a - b| / 255 over their pixels,
    two lists score the mean of their elements, and
    anything else scores 0.
The similarity is the mean over the cells of all rows and columns of either table; a cell that only one table
has scores 0. A panel is

    identical         cell by cell the same text
    within tolerance  the same rows and columns, in any order, and no cell scores below TOLERANCE
    differs           anything else, with what differs
    missing           in the reference and not here
    unreadable        here and no whole table
    new               here and not in the reference; it counts for nothing

The exit status is 1 if a panel is missing or unreadable. Numbers that differ are a finding and not a failure:
another processor rounds differently.
"""
import io
import json
import re
import sys
from typing import NamedTuple

import numpy as np
import pandas as pd

from xmodal import config
from xmodal.config import Problem
from xmodal.tables.cases import from_uri

from . import report

REFERENCE = config.HOME / "figures" / "reference"
TOLERANCE = 1 - 5e-6            # two numbers that differ by one in the sixth digit, the last that tables have
NOTHING = 1e-9                  # numbers that lie closer are equal: noise around 0 has no relative size
ORDER = ("unreadable", "missing", "differs", "within tolerance", "identical", "new")


class Panel(NamedTuple):
    name: str
    status: str         # one of ORDER
    similarity: float   # nan if new
    difference: str     # what differs, for the reader


# ---- two cells ---------------------------------------------------------------------------------------------

def number(text):
    """The number in a text, or None."""
    try:
        return float(text)
    except (TypeError, ValueError):
        return None


def numbers_alike(a, b):
    """1 - |a - b| / (|a| + |b|) of two numbers; NaN and infinities are only like themselves."""
    if not np.isfinite([a, b]).all():
        return float(a == b or (np.isnan(a) and np.isnan(b)))
    distance = abs(a - b)
    return 1.0 if distance < NOTHING else 1 - distance / (abs(a) + abs(b))


def alike(a, b):
    """Similarity of two cells in [0, 1]; a, b: texts of a table, or elements of a JSON list in one."""
    if a == b:
        return 1.0
    numbers = [number(a), number(b)]
    if None not in numbers:
        return numbers_alike(*numbers)
    if str(a).startswith("data:image") and str(b).startswith("data:image"):
        return pictures_alike(a, b)
    lists = [elements(a), elements(b)]
    if None not in lists:
        return sum(map(alike, *lists)) / max(map(len, lists))
    return 0.0


def pictures_alike(a, b):
    """1 - mean |a - b| / 255 of two data URIs; 0 if the shapes differ or one is no picture."""
    try:
        first = from_uri(a).astype(float)
        second = from_uri(b).astype(float)
    except Problem:
        return 0.0
    return 1 - float(np.abs(first - second).mean()) / 255 if first.shape == second.shape else 0.0


def elements(cell):
    """The list that a cell is or holds as JSON, or None; an empty list counts as None."""
    if isinstance(cell, str) and cell.startswith("["):
        try:
            cell = json.loads(cell)
        except ValueError:
            return None
    return cell if isinstance(cell, list) and cell else None


# ---- two tables --------------------------------------------------------------------------------------------

def table(path):
    """A panel table as text, cell by cell. Raises `Problem` if it is no whole table."""
    try:
        text = path.read_text()
        if not text.endswith("\n"):
            raise ValueError("it breaks off in its last line" if text else "it is empty")
        return pd.read_csv(io.StringIO(text), dtype=str, keep_default_na=False).fillna("")
    except (OSError, ValueError) as error:
        why = " ".join(str(error).split())
        raise Problem(f"The table {path} cannot be read ({why}); write it again with its notebook.") from None


def key(reference):
    """The leading columns by which rows are matched.

    They are the shortest run in which no two rows agree, and end before a column with fractions or pictures.
    """
    columns = list(reference.columns)
    for n, name in enumerate(columns):
        fractions = pd.to_numeric(reference[name], errors="coerce").mod(1).fillna(0).any()
        if fractions or reference[name].str.contains("data:image", regex=False).any():
            return columns[:n]
        if not reference.duplicated(columns[:n + 1]).any():
            return columns[:n + 1]
    return columns


def by_key(frame, columns):
    """`frame` indexed by those columns and a count from 0 of the rows that agree in them."""
    repeat = frame.groupby(columns).cumcount() if columns else pd.Series(range(len(frame)), frame.index)
    levels = [frame[name] for name in columns]
    return frame.drop(columns=columns).set_index([*levels, repeat.rename("repeat")])


def shape_differences(a, b, rows):
    """Sentences about the columns and rows that only one of two tables has; rows: how many they share."""
    differences = [f"column {name} is missing" for name in a if name not in b]
    differences += [f"column {name} is new" for name in b if name not in a]
    for frame, verb in ((a, "missing"), (b, "new")):
        if len(frame) > rows:
            differences.append(f"{len(frame) - rows} of {len(frame)} rows are {verb}")
    return differences


def mean_score(scores, a, b, rows):
    """The mean over the cells of all rows and columns of either table; without such cells, over rows."""
    height = len(a.index.union(b.index))
    width = len({*a, *b})
    if height * width:
        return scores.sum() / (height * width)
    if height:
        return rows / height
    return float(set(a) == set(b))


def compare(name, reference, current):
    """The `Panel` of two tables as from `table`."""
    columns = [column for column in key(reference) if column in current]
    a = by_key(reference, columns)
    b = by_key(current, columns)
    rows = a.index.intersection(b.index, sort=False)
    names = [column for column in a if column in b]
    left = a.loc[rows, names].to_numpy(dtype=object)
    right = b.loc[rows, names].to_numpy(dtype=object)
    scores = np.ones(left.shape)
    for i, j in np.argwhere(left != right):
        scores[i, j] = alike(left[i, j], right[i, j])
    differences = shape_differences(a, b, len(rows))
    status = "differs" if differences or (scores < TOLERANCE).any() else "within tolerance"
    unequal = int((left != right).sum())
    if unequal:
        i, j = np.unravel_index(scores.argmin(), scores.shape)
        where = place(columns, rows[i]) or f"row {i + 1}"
        differences.append(
            f"{unequal} of {scores.size} values differ, the most {names[j]} ({where}): "
            f"{short(left[i, j])} in the reference, {short(right[i, j])} here"
        )
    elif not differences and not (a.index.equals(b.index) and list(reference) == list(current)):
        differences.append("rows or columns are in another order")
    similarity = float(mean_score(scores, a, b, len(rows)))
    return Panel(name, status if differences else "identical", similarity, "; ".join(differences))


def place(columns, values):
    """"method erm, seed 2": which row, by its key."""
    return ", ".join(f"{name} {value}" for name, value in zip(columns, values) if name != "data")


def short(text):
    """A cell as a report shows it."""
    if "data:image" in text:
        return "a picture"
    return repr(text[:40]) if number(text) is None else text


# ---- all tables --------------------------------------------------------------------------------------------

def panel(name, reference, current):
    """The `Panel` of two paths, of which one may be None."""
    if current is None:
        where = f"{config.FIGURES.name}/*/{name}.csv"
        return Panel(name, "missing", 0.0, f"no {where}; run its notebook (or `make reproduce`)")
    try:
        here = table(current)
    except Problem as problem:
        return Panel(name, "unreadable", 0.0, str(problem))
    if reference is None:
        return Panel(name, "new", float("nan"), "not in the reference")
    return compare(name, table(reference), here)


def panels():
    """Every `Panel` of the reference and of the current run, the worst first. What is no part of the main job
    has a folder of its own in the reference, and counts where the run has it too.

    Raises `Problem` if there is no reference.
    """
    reference = {path.stem: path for path in sorted(REFERENCE.glob("*.csv"))}
    if not reference:
        raise Problem(f"There are no panel tables in {REFERENCE}; take them from git again.")
    for path in sorted(REFERENCE.glob("*/*.csv")):
        if any((config.FIGURES / path.parent.name).glob("*.csv")):
            reference[path.stem] = path
    current = {}
    for path in sorted(config.FIGURES.glob("*/*.csv")):
        if path.parent.name != REFERENCE.name:
            current[path.stem] = path
    names = sorted({*reference, *current})
    unsorted = [panel(name, reference.get(name), current.get(name)) for name in names]
    return sorted(unsorted, key=rank)


def rank(panel):
    """Orders panels by status, the worst first, and then by name: fig2a before fig10a."""
    natural = []
    for part in re.split(r"(\d+)", panel.name):
        natural.append(int(part) if part.isdigit() else part)
    return ORDER.index(panel.status), natural


def main(name="lesson"):
    """Prints one line per panel and one for the stages, writes the page, returns the exit status."""
    profile = config.profile(name)
    compared = panels()
    stages = report.stages(profile, compared)
    path = report.write(profile, compared, stages, REFERENCE)
    for row in compared:
        similarity = report.rounded(row.similarity)
        print(f"{row.name:20s} {row.status:17s} {similarity:7s} {row.difference}".rstrip())
    for trouble in report.run_troubles(stages)[:report.MOST]:
        print(f"- {trouble}")
    print(" -> ".join(f"{stage.name}: {stage.summary}" for stage in stages))
    print(path)
    failed = [row for row in compared if row.status in ("missing", "unreadable")]
    return int(bool(failed))


if __name__ == "__main__":
    try:
        sys.exit(main(*sys.argv[1:2]))
    except Problem as problem:
        sys.exit(str(problem))
