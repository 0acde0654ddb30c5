"""The data sheet counts what the cohort and its exclusions hold.

Reasons that differ in names and numbers only are one reason.
"""
import pandas as pd
from test_preprocess import SMALL, built, rows  # noqa: F401  two of them are fixtures

from xmodal import preprocess
from xmodal.tables import datasheet


def test_reasons_are_counted_without_paths_and_numbers(tmp_path):
    reasons = ["d/a1.dcm holds 3 frames.", "d/b2.dcm holds 12 frames.", "c.tif has no tile of 256 um."]
    exclusions = pd.DataFrame({"source": ["d/a1.dcm", "d/b2.dcm", "c.tif"], "reason": reasons})
    exclusions.to_csv(tmp_path / "exclusions.csv", index=False)
    counted = datasheet.reasons(tmp_path)
    first = counted.to_dict("records")[0]
    assert first == {"reason": "the file holds N frames.", "files": 2, "example": "a1.dcm"}
    assert counted.files.sum() == 3 and len(counted) == 2


def test_notes_are_counted_with_an_example(tmp_path):
    note = "The file gives no pixel spacing; sizes in it are in pixels."
    notes = pd.DataFrame({"source": ["d/a.dcm", "d/b.dcm"], "note": [note] * 2})
    notes.to_csv(tmp_path / "notes.csv", index=False)
    assert datasheet.notes(tmp_path).to_dict("records") == [{"note": note, "files": 2, "example": "a.dcm"}]


def test_the_sheet_counts_every_file_and_every_patient_once(built):  # noqa: F811
    out, table = built
    traps = pd.DataFrame({"domain": ["bach"], "trap": ["no header"], "count": [1]})
    sheet = datasheet.write(out, SMALL, table, traps).read_text()
    contents = datasheet.contents(table).set_index("domain")
    assert contents.images.sum() == len(table)
    assert (contents.patients == table.groupby("domain").patient.nunique()).all()
    assert datasheet.reasons(out).files.sum() == len(pd.read_csv(out / "exclusions.csv"))
    split = datasheet.splits(table).set_index("held_out")
    assert (split.sum(axis=1) == table.patient.nunique()).all() and (split.target == contents.patients).all()
    for text in ("no header", "the file", *table.domain.unique()):
        assert text in sheet


def test_names_of_files_are_text_in_every_table(tmp_path):
    """A cell is no formula for a spreadsheet, and no HTML, link or further row of a page."""
    names = ["=cmd()", "+1.tif", "-1.tif", "@x", "plain.tif", "caf\udce9.tif"]
    excluded = [(name, f"{name} is odd.") for name in names]
    preprocess._write_list(tmp_path / "exclusions.csv", excluded, "reason")
    text = (tmp_path / "exclusions.csv").read_text(encoding="utf-8")
    assert text.splitlines()[1:] == [
        "'=cmd(),'=cmd() is odd.", "'+1.tif,'+1.tif is odd.", "'-1.tif,'-1.tif is odd.", "'@x,'@x is odd.",
        "plain.tif,plain.tif is odd.", "caf\\xe9.tif,caf\\xe9.tif is odd."]
    assert datasheet.reasons(tmp_path).values.tolist() == [["the file is odd.", 6, "=cmd()"]]
    table = pd.DataFrame({"name": ["<img src=x>", "![a](b)", "a|b", "a\nb", "n_1 & `c`"]})
    assert datasheet._markdown(table).splitlines()[2:] == [
        "| &lt;img src=x&gt; |", "| !\\[a\\](b) |", "| a/b |", "| a b |", "| n_1 &amp; \\`c\\` |"]
