"""Holds the panel tables of the current run against those of the reference run: `python -m figures.compare [profile]` (or `make compare`)
prints a line a panel and writes build/compare.html, one page: what was declared, installed, ran clean, and is identical.

How alike two tables are, in [0, 1]. Rows are matched by key: the shortest run of leading columns that tells the reference's rows apart.
Every other cell of a matched row scores 1 if the texts are equal; else two numbers score 1 - |a - b| / (|a| + |b|) (one less a term of
the Canberra distance), two pictures 1 - mean |a - b| / 255 over their pixels, two lists the mean of their elements, and anything else 0.
The similarity is the mean over the cells of all rows and columns of either table; what only one of them has scores 0. A panel is

    identical         cell by cell the same text
    within tolerance  the same rows and columns, in any order, and no cell scores below TOLERANCE
    differs           anything else, with what differs
    missing           in the reference and not here
    unreadable        here and no whole table
    new               here and not in the reference; it counts for nothing

Exit status 1 if a panel is missing or unreadable. Numbers that differ are a finding and not a failure: another processor rounds otherwise.
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
TOLERANCE = 1 - 5e-6            # of two numbers: one unit of the sixth digit, with which tables are written
NOTHING = 1e-9                  # numbers that lie closer are equal, so that noise around 0 has no relative size
ORDER = ("unreadable", "missing", "differs", "within tolerance", "identical", "new")


class Panel(NamedTuple):
    name: str
    status: str         # one of ORDER
    similarity: float   # nan if new
    told: str           # what differs, for the reader


# ---- two cells ---------------------------------------------------------------------------------------------------

def number(text):
    """The number in a text, or None."""
    try:
        return float(text)
    except (TypeError, ValueError):
        return None


def alike(a, b):
    """Similarity of two cells in [0, 1]; a, b: texts of a table, or elements of a JSON list in one."""
    if a == b:
        return 1.0
    x, y = number(a), number(b)
    if x is not None and y is not None:
        if not np.isfinite([x, y]).all():
            return float(x == y or (x != x and y != y))
        return 1.0 if abs(x - y) < NOTHING else 1 - abs(x - y) / (abs(x) + abs(y))
    if str(a).startswith("data:image") and str(b).startswith("data:image"):
        return pictures_alike(a, b)
    x, y = elements(a), elements(b)
    if x is not None and y is not None:
        return sum(map(alike, x, y)) / max(len(x), len(y))
    return 0.0


def pictures_alike(a, b):
    """1 - mean |a - b| / 255 of two data URIs; 0 if the shapes differ or one is no picture."""
    try:
        a, b = from_uri(a).astype(float), from_uri(b).astype(float)
    except Problem:
        return 0.0
    return 1 - float(np.abs(a - b).mean()) / 255 if a.shape == b.shape else 0.0


def elements(cell):
    """The list that a cell is or holds as JSON, or None; an empty one is none."""
    if isinstance(cell, str) and cell.startswith("["):
        try:
            cell = json.loads(cell)
        except ValueError:
            return None
    return cell if isinstance(cell, list) and cell else None


# ---- two tables --------------------------------------------------------------------------------------------------

def table(path):
    """A panel table as text, cell by cell. Raises `Problem` if it is no whole table."""
    try:
        text = path.read_text()
        if not text.endswith("\n"):
            raise ValueError("it breaks off in its last line" if text else "it is empty")
        return pd.read_csv(io.StringIO(text), dtype=str, keep_default_na=False).fillna("")
    except (OSError, ValueError) as error:
        raise Problem(f"The table {path} cannot be read ({' '.join(str(error).split())}); write it again with its notebook.") from None


def key(reference):
    """The shortest run of leading columns that tells the rows of a table apart, short of the first with fractions or pictures."""
    columns = list(reference.columns)
    for n, name in enumerate(columns):
        fractions = pd.to_numeric(reference[name], errors="coerce").mod(1).fillna(0).any()
        if fractions or reference[name].str.contains("data:image", regex=False).any():
            return columns[:n]
        if not reference.duplicated(columns[:n + 1]).any():
            return columns[:n + 1]
    return columns


def by_key(frame, columns):
    """`frame` indexed by those columns and, where they repeat, by the how-manieth it is."""
    repeat = frame.groupby(columns).cumcount() if columns else pd.Series(range(len(frame)), frame.index)
    return frame.drop(columns=columns).set_index([*(frame[c] for c in columns), repeat.rename("repeat")])


def compare(name, reference, current):
    """The `Panel` of two tables as from `table`."""
    columns = [c for c in key(reference) if c in current]
    a, b = by_key(reference, columns), by_key(current, columns)
    rows, names = a.index.intersection(b.index, sort=False), [c for c in a if c in b]
    left, right = (t.loc[rows, names].to_numpy(dtype=object) for t in (a, b))
    scores = np.ones(left.shape)
    for i, j in np.argwhere(left != right):
        scores[i, j] = alike(left[i, j], right[i, j])
    lost = [f"column {c} is missing" for c in a if c not in b] + [f"column {c} is new" for c in b if c not in a]
    lost += [f"{len(t) - len(rows)} of {len(t)} rows are {verb}" for t, verb in ((a, "missing"), (b, "new")) if len(t) > len(rows)]
    height, width = len(a.index.union(b.index)), len({*a, *b})
    similarity = scores.sum() / (height * width) if height * width else len(rows) / height if height else float(not lost)
    status = "differs" if lost or (scores < TOLERANCE).any() else "within tolerance"
    if off := int((left != right).sum()):
        i, j = np.unravel_index(scores.argmin(), scores.shape)
        where = ", ".join(f"{c} {v}" for c, v in zip(columns, rows[i]) if c != "data") or f"row {i + 1}"
        lost.append(f"{off} of {scores.size} values differ, the most {names[j]} ({where}): "
                    f"{short(left[i, j])} in the reference, {short(right[i, j])} here")
    elif not lost and not (a.index.equals(b.index) and list(reference) == list(current)):
        lost.append("rows or columns are in another order")
    return Panel(name, status if lost else "identical", float(similarity), "; ".join(lost))


def short(text):
    """A cell as a report shows it."""
    return "a picture" if "data:image" in text else repr(text[:40]) if number(text) is None else text


def panels():
    """Every `Panel` of the reference and of the current run, the worst first. Raises `Problem` if there is no reference."""
    wanted = {p.stem: p for p in sorted(REFERENCE.glob("*.csv"))}
    if not wanted:
        raise Problem(f"There are no panel tables in {REFERENCE}; take them from git again.")
    found, here = [], {p.stem: p for p in sorted(config.FIGURES.glob("*/*.csv")) if p.parent.name != REFERENCE.name}
    for name in sorted({*wanted, *here}):
        if name not in here:
            found.append(Panel(name, "missing", 0.0, f"no {config.FIGURES.name}/*/{name}.csv; run its notebook (or `make reproduce`)"))
            continue
        try:
            current = table(here[name])
        except Problem as problem:
            found.append(Panel(name, "unreadable", 0.0, str(problem)))
            continue
        new = Panel(name, "new", float("nan"), "not in the reference")
        found.append(compare(name, table(wanted[name]), current) if name in wanted else new)
    return sorted(found, key=lambda p: (ORDER.index(p.status), natural(p.name)))


def natural(name):
    """fig2a before fig10a."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]


def main(name="lesson"):
    """Prints a line a panel and a stage, writes build/compare.html; returns the exit status."""
    profile = config.profile(name)
    found = panels()
    stages = report.stages(profile, found)
    path = report.write(profile, found, stages, REFERENCE)
    for panel in found:
        print(f"{panel.name:20s} {panel.status:17s} {report.rounded(panel.similarity):7s} {panel.told}".rstrip())
    for trouble in [t for stage in stages[:-1] for t in stage.troubles][:report.MOST]:
        print(f"- {trouble}")
    print(" -> ".join(f"{stage.name}: {stage.said}" for stage in stages))
    print(path)
    return int(any(panel.status in ("missing", "unreadable") for panel in found))


if __name__ == "__main__":
    try:
        sys.exit(main(*sys.argv[1:2]))
    except Problem as problem:
        sys.exit(str(problem))
