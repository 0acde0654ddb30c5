"""The data sheet counts what the cohort and its exclusions hold, and groups reasons that differ in names and numbers only."""
import pandas as pd
from test_preprocess import SMALL, built, rows  # noqa: F401  two of them are fixtures

from xmodal.tables import datasheet


def test_reasons_are_counted_without_paths_and_numbers(tmp_path):
    pd.DataFrame({"source": ["d/a1.dcm", "d/b2.dcm", "c.tif"],
                  "reason": ["d/a1.dcm holds 3 frames.", "d/b2.dcm holds 12 frames.", "c.tif has no tile of 256 um."]}).to_csv(tmp_path / "exclusions.csv", index=False)
    found = datasheet.reasons(tmp_path)
    assert found.to_dict("records")[0] == {"reason": "the file holds N frames.", "files": 2, "example": "a1.dcm"}
    assert found.files.sum() == 3 and len(found) == 2


def test_notes_are_counted_with_an_example(tmp_path):
    said = "The file gives no pixel spacing; sizes in it are in pixels."
    pd.DataFrame({"source": ["d/a.dcm", "d/b.dcm"], "note": [said] * 2}).to_csv(tmp_path / "notes.csv", index=False)
    assert datasheet.notes(tmp_path).to_dict("records") == [{"note": said, "files": 2, "example": "a.dcm"}]


def test_the_sheet_counts_every_file_and_every_patient_once(built):  # noqa: F811
    out, table = built
    sheet = datasheet.write(out, SMALL, table, pd.DataFrame({"domain": ["bach"], "trap": ["no header"], "count": [1]})).read_text()
    found, left_out = datasheet.contents(table).set_index("domain"), datasheet.reasons(out)
    assert found.images.sum() == len(table) and (found.patients == table.groupby("domain").patient.nunique()).all()
    assert left_out.files.sum() == len(pd.read_csv(out / "exclusions.csv"))
    split = datasheet.splits(table).set_index("held_out")
    assert (split.sum(axis=1) == table.patient.nunique()).all() and (split.target == found.patients).all()
    for text in ("no header", "the file", *table.domain.unique()):
        assert text in sheet
