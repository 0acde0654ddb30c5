"""The data sheet of a cohort: what came in, what was left out and why, how many people are where. After Gebru et al. 2021."""
import re
from pathlib import Path

import pandas as pd

from .. import cohort
from ..config import CLASSES
from ..runtime.files import atomic


def reasons(folder):
    """What exclusions.csv of the cohort in `folder` says: columns reason, files, example; the most frequent first.

    Paths and numbers are left out of the reasons, so that equal ones count together.
    """
    return _counted(Path(folder) / "exclusions.csv", "reason")


def notes(folder):
    """What notes.csv says of files that were used although something was missing: columns note, files, example."""
    return _counted(Path(folder) / "notes.csv", "note")


def _counted(path, column):
    """How often each text of `column` of the table at `path` is there, as columns `column`, files, example; the most frequent first."""
    listed = pd.read_csv(path, dtype=str, keep_default_na=False)
    bare = [re.sub(r"\d+(?:[.,]\d+)*", "N", re.sub(r"\S*[/\\]\S*", "the file", text.replace(source, "the file")))
            for source, text in zip(listed.source, listed[column])]
    found = listed.assign(**{column: bare}, example=listed.source.map(lambda source: Path(source).name)).groupby(column)
    table = found.agg(files=("source", "size"), example=("example", "first")).reset_index()
    return table.sort_values(["files", column], ascending=[False, True], ignore_index=True)


def contents(table):
    """A row a domain: patients, files, images, masks, images without pixel spacing, and how often each label set was met."""
    sets = {mask: " or ".join(c for c, ok in zip(CLASSES, cohort.allowed_matrix([mask])[0]) if ok) for mask in sorted(set(table.allowed))}
    rows = table.groupby("domain").agg(patients=("patient", "nunique"), files=("source", "nunique"), images=("sample", "size"),
                                       masks=("has_mask", "sum"), no_spacing=("mm_per_px", lambda mm: int(mm.isna().sum())))
    rows["labels"] = [", ".join(f"{name} {(part.allowed == mask).sum()}" for mask, name in sets.items() if (part.allowed == mask).any())
                      for _, part in table.groupby("domain")]
    return rows.reset_index()


def splits(table, seed=42):
    """Patients a split for each domain held out: columns held_out and the splits. No patient is in two (checked)."""
    rows = [{"held_out": name, **cohort.leave_one_out(table, name, seed).groupby("split").patient.nunique()} for name in sorted(set(table.domain))]
    return pd.DataFrame(rows).fillna(0).astype({c: int for c in set().union(*rows) - {"held_out"}})


def _markdown(table):
    lines = [[str(c) for c in table], ["---"] * len(table.columns), *table.astype(str).values.tolist()]
    return "\n".join("| " + " | ".join(cell.replace("|", "/") for cell in line) + " |" for line in lines)


def write(folder, profile, table, traps=None):
    """Writes datasheet.md to the cohort's `folder`; returns its path. `traps`, a table, is what the indices met and handled."""
    where, rest, noted = Path(folder) / "datasheet.md", reasons(folder), notes(folder)
    size = f"{profile.image_size} x {profile.image_size} pixels; tiles of {profile.tile_um:g} um, at most {profile.tiles_per_slide} a slide."
    parts = [f"# Data sheet of the cohort {profile.name!r}", "Phantom data: drawn, not of patients." if profile.phantom else "Public datasets.",
             f"Images of {size} Images without pixel spacing have sizes in pixels only.", "## What came in", _markdown(contents(table)),
             "## What was left out and why", _markdown(rest) if len(rest) else "Nothing.",
             "## What was used with a note", _markdown(noted) if len(noted) else "Nothing.", "## Patients a split", _markdown(splits(table))]
    parts += ["## Traps met and handled", _markdown(traps)] if traps is not None and len(traps) else []
    with atomic(where) as path:
        path.write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    return where
