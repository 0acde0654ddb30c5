"""The data sheet of a cohort: what came in, what was left out and why, how many people are where.

After Gebru et al. 2021.
"""
import html
import re
from pathlib import Path

import pandas as pd

from .. import cohort, config
from ..config import CLASSES
from ..runtime.files import atomic


def reasons(folder):
    """What exclusions.csv of the cohort in `folder` says: columns reason, files, example.

    The most frequent reason comes first. Paths and numbers are left out of the reasons, so that equal ones
    count together.
    """
    return _counted(Path(folder) / "exclusions.csv", "reason")


def notes(folder):
    """What notes.csv says of files that were used although something was missing.

    Columns note, files, example; the most frequent note comes first.
    """
    return _counted(Path(folder) / "notes.csv", "note")


def _bare(text, source):
    """A text about the file `source` without paths and numbers."""
    text = re.sub(r"\S*[/\\]\S*", "the file", text.replace(source, "the file"))
    return re.sub(r"\d+(?:[.,]\d+)*", "N", text)


def _counted(path, column):
    """How many files each text of `column` of the table at `path` is about: columns `column`, files, example.

    The most frequent first.
    """
    listed = pd.read_csv(path, dtype=str, keep_default_na=False)
    listed = listed.replace(r"^'(?=[=+\-@\t\r])", "", regex=True)  # as before `preprocess` marked formulas
    bare = [_bare(text, source) for source, text in zip(listed.source, listed[column])]
    names = [Path(source).name for source in listed.source]
    by_text = listed.assign(**{column: bare}, example=names).groupby(column)
    table = by_text.agg(files=("source", "size"), example=("example", "first")).reset_index()
    return table.sort_values(["files", column], ascending=[False, True], ignore_index=True)


def _label_sets(masks):
    """{label set as a bit mask: its name, say "in situ or invasive"}."""
    names = {}
    for mask in sorted(set(masks)):
        allowed = cohort.allowed_matrix([mask])[0]
        names[mask] = " or ".join(label for label, possible in zip(CLASSES, allowed) if possible)
    return names


def contents(table):
    """One row per domain: how many patients, files, images, masks, and images without pixel spacing it has.

    labels: how often each label set was met.
    """
    by_domain = table.assign(no_spacing=table.mm_per_px.isna()).groupby("domain")
    rows = by_domain.agg(
        patients=("patient", "nunique"), files=("source", "nunique"), images=("sample", "size"),
        masks=("has_mask", "sum"), no_spacing=("no_spacing", "sum"))
    names = _label_sets(table.allowed)
    labels = []
    for _, part in by_domain:
        images = part.allowed.value_counts()
        labels.append(", ".join(f"{name} {images[mask]}" for mask, name in names.items() if mask in images))
    rows["labels"] = labels
    return rows.reset_index()


def splits(table, seed=42):
    """Patients in each split for each domain held out: columns held_out and the splits.

    No patient is in two (checked).
    """
    rows = []
    for held_out in sorted(set(table.domain)):
        patients = cohort.leave_one_out(table, held_out, seed).groupby("split").patient.nunique()
        rows.append({"held_out": held_out, **patients})
    counts = set().union(*rows) - {"held_out"}
    return pd.DataFrame(rows).fillna(0).astype(dict.fromkeys(counts, int))


def _markdown(table):
    if not len(table):
        return "Nothing."
    header = [str(column) for column in table]
    rows = []
    for line in (header, ["---"] * len(header), *table.astype(str).values.tolist()):
        rows.append("| " + " | ".join(_shown(cell) for cell in line) + " |")
    return "\n".join(rows)


def _shown(cell):
    """A cell as text of Markdown. Names of files are anybody's: no HTML, link or image comes of them, and no
    row ends before its time."""
    text = html.escape(" ".join(cell.split()), quote=False)
    return re.sub(r"([\[\]`])", r"\\\1", text.replace("|", "/"))


def write(folder, profile, table, traps=None):
    """Writes datasheet.md to the cohort's `folder`; returns its path.

    `traps`, a table, is what the indices met and handled.
    """
    path = Path(folder) / "datasheet.md"
    size = f"{profile.image_size} x {profile.image_size} pixels"
    tiles = f"tiles of {profile.tile_um:g} um, at most {profile.tiles_per_slide} a slide"
    parts = [
        f"# Data sheet of the cohort {profile.name!r}",
        f"Data: {config.data_of(profile)}." + " Phantoms are drawn, not of patients." * profile.phantom,
        f"Images of {size}; {tiles}. Images without pixel spacing have sizes in pixels only.",
        "## What came in", _markdown(contents(table)),
        "## What was left out and why", _markdown(reasons(folder)),
        "## What was used with a note", _markdown(notes(folder)),
        "## Patients a split", _markdown(splits(table)),
    ]
    if traps is not None and len(traps):
        parts += ["## Traps met and handled", _markdown(traps)]
    with atomic(path) as partial:
        partial.write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    return path
