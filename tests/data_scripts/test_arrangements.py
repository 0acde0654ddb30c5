"""Copies that their owners arranged in their own way are read like the release: other folders, links, upper
case, Windows' paths."""
import os

import pytest

from data_scripts import bach, camelyon, cbis_ddsm, cbis_tables, inbreast
from data_scripts.indexing import files_below
from mammogram_copies import edit
from slide_copies import IMAGESCOPE, put, region
from xmodal.config import Problem


def alike(rows, others):
    """The same rows, wherever their files lie."""
    left = ["source", "annotation"] if "cbis_ddsm" in set(rows.domain) else ["source"]
    same = rows.drop(columns=left).equals(others.drop(columns=left))
    return same and (rows.annotation == "").equals(others.annotation == "")


def rearranged(root, elsewhere):
    """Puts every file but tables into a folder of its kind on another disk, to which a link leads.

    Suffixes become upper case.
    """
    for path in [path for path in root.rglob("*") if path.is_file() and path.suffix != ".csv"]:
        folder = elsewhere / "my files" / f"{path.suffix[1:]} of {path.parent.name}"
        folder.mkdir(parents=True, exist_ok=True)
        path.rename(folder / path.with_suffix(path.suffix.upper()).name)
    (root / "images on the big disk").symlink_to(elsewhere / "my files")


@pytest.mark.parametrize("module", [cbis_ddsm, inbreast])
def test_mammograms_in_any_folder(native, tmp_path, module):
    root = native / module.__name__.split(".")[1]
    rows, *others = module.read(root)
    rearranged(root, tmp_path / "disk")
    again, *others_again = module.read(root)
    assert alike(again, rows) and others_again == others and again.source.str.endswith(".DCM").all()


@pytest.mark.parametrize("module, fixture", [(bach, "photos"), (camelyon, "slides")])
def test_slides_and_photos_in_any_folder(tmp_path, tmp_path_factory, request, module, fixture):
    """The part that an image belongs to is told by its name, and what it shows by its table or outlines."""
    folder = request.getfixturevalue(fixture)
    if module is bach:
        put(folder.parent / "WSI" / "A01.svs")
        put(folder.parent / "WSI" / "A01.xml", IMAGESCOPE.format(region(0, 0, 9, 9, "Invasive")))
    before = module.read(tmp_path)
    rearranged(tmp_path, tmp_path_factory.mktemp("disk"))
    after = module.read(tmp_path)
    assert alike(after.rows, before.rows)
    assert after.traps == before.traps and len(after.exclusions) == len(before.exclusions)


def test_a_photo_in_the_folder_of_another_class_is_not_it(photos, tmp_path):
    (photos / "Benign" / "b001.tif").rename(photos / "Invasive" / "b001.tif")
    rows, _, traps = bach.read(tmp_path)
    assert "bach/b001" not in set(rows["sample"]) and traps == {"missing_image": 1, "unlisted_image": 1}


def backslashes(path):
    return path.replace("/", "\\")


def folder_in_front(path):
    return f"CBIS-DDSM/{path}"


def drive_in_front(path):
    return f"D:\\data\\{path}"


@pytest.mark.parametrize("change", [backslashes, folder_in_front, drive_in_front])
def test_paths_in_the_tables_of_cbis_ddsm_in_other_spelling(native, change):
    def changed(text):
        fields = split(text)
        for k, field in enumerate(fields):
            if ".dcm" in field:
                fields[k] = change(field)
        return "".join(fields)

    root = native / "cbis_ddsm"
    rows, *others = cbis_ddsm.read(root)
    for name in cbis_tables.TABLES:
        edit(root / name, changed)
    again, *others_again = cbis_ddsm.read(root)
    assert again.equals(rows) and others_again == others


def split(text):
    """The fields of a table and what stands between them."""
    fields = []
    field = ""
    for character in text:
        if character in ',"\r\n':
            fields += [field, character]
            field = ""
        else:
            field += character
    return [*fields, field]


@pytest.mark.parametrize(
    "module, reason",
    [
        (cbis_ddsm, "There is no mass_case_description_train_set.csv"),
        (inbreast, "no INbreast.csv"),
        (bach, "no microscopy_ground_truth.csv"),
        (camelyon, "no slide of CAMELYON16 or CAMELYON17"),
    ],
)
def test_a_folder_that_is_empty_or_not_there_is_said(tmp_path, module, reason):
    for root in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(Problem, match=f"{reason}.*{root.name}"):
            module.index(root)


def test_files_behind_links_are_found_once_and_hidden_ones_are_not(tmp_path):
    for name in ("a/b/1.DCM", "a/2.dcm", ".unpacking/3.dcm", "4.dcm/5.txt"):
        put(tmp_path / name)
    for name, to in (("z", "a/b"), ("a/loop", "."), ("gone.dcm", "nowhere")):
        (tmp_path / name).symlink_to(tmp_path / to)
    assert files_below(tmp_path, ".dcm") == [tmp_path / "a" / "2.dcm", tmp_path / "a" / "b" / "1.DCM"]
    assert [path.name for path in files_below(tmp_path)] == ["5.txt", "2.dcm", "1.DCM"]
    assert files_below(tmp_path / "nowhere") == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every folder")
def test_a_folder_that_may_not_be_read_is_logged(tmp_path, caplog):
    put(tmp_path / "locked" / "1.dcm")
    put(tmp_path / "2.dcm")
    (tmp_path / "locked").chmod(0)
    assert files_below(tmp_path, ".dcm") == [tmp_path / "2.dcm"] and "locked may not be read" in caplog.text
    (tmp_path / "locked").chmod(0o700)
