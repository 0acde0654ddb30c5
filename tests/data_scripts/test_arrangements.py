"""Copies that their owners arranged in their own way are read like the release: other folders, links, upper case, Windows' paths."""
import os

import pytest
from test_bach_camelyon import IMAGESCOPE, photos, put, region, slides  # noqa: F401  two of them are fixtures
from test_cbis_inbreast import edit, native, people, written  # noqa: F401  three of them are fixtures

from data_scripts import bach, camelyon, cbis_ddsm, cbis_tables, files_below, inbreast
from xmodal.config import Problem


def alike(rows, others):
    """The same rows, wherever their files lie."""
    left = ["source", "annotation"] if "cbis_ddsm" in set(rows.domain) else ["source"]
    return rows.drop(columns=left).equals(others.drop(columns=left)) and (rows.annotation == "").equals(others.annotation == "")


def rearranged(root, elsewhere):
    """Puts every file but tables into a folder of its kind on another disk, to which a link leads, with an upper-case suffix."""
    for path in [path for path in root.rglob("*") if path.is_file() and path.suffix != ".csv"]:
        new = elsewhere / "my files" / f"{path.suffix[1:]} of {path.parent.name}" / path.with_suffix(path.suffix.upper()).name
        new.parent.mkdir(parents=True, exist_ok=True)
        path.rename(new)
    (root / "images on the big disk").symlink_to(elsewhere / "my files")


@pytest.mark.parametrize("module", [cbis_ddsm, inbreast])
def test_mammograms_in_any_folder(native, tmp_path, module):  # noqa: F811
    root = native / module.__name__.split(".")[1]
    rows = module.index(root)
    rearranged(root, tmp_path / "disk")
    found = module.index(root)
    assert alike(found, rows) and found.attrs == rows.attrs and found.source.str.endswith(".DCM").all()


@pytest.mark.parametrize("module, fixture", [(bach, "photos"), (camelyon, "slides")])
def test_slides_and_photos_in_any_folder(tmp_path, tmp_path_factory, request, module, fixture):
    """The part that an image belongs to is told by its name, and what it shows by its table or outlines."""
    folder = request.getfixturevalue(fixture)
    if module is bach:
        put(folder.parent / "WSI" / "A01.svs"), put(folder.parent / "WSI" / "A01.xml", IMAGESCOPE.format(region(0, 0, 9, 9, "Invasive")))
    rows = module.index(tmp_path)
    rearranged(tmp_path, tmp_path_factory.mktemp("disk"))
    found = module.index(tmp_path)
    assert alike(found, rows) and found.attrs["traps"] == rows.attrs["traps"] and len(found.attrs["exclusions"]) == len(rows.attrs["exclusions"])


def test_a_photo_in_the_folder_of_another_class_is_not_it(photos, tmp_path):  # noqa: F811
    (photos / "Benign" / "b001.tif").rename(photos / "Invasive" / "b001.tif")
    rows = bach.index(tmp_path)
    assert "bach/b001" not in set(rows["sample"]) and rows.attrs["traps"] == {"missing_image": 1, "unlisted_image": 1}


@pytest.mark.parametrize("change", [lambda path: path.replace("/", "\\"), lambda path: f"CBIS-DDSM/{path}", lambda path: f"D:\\data\\{path}"],
                         ids=("backslashes", "a folder in front", "a drive in front"))
def test_paths_in_the_tables_of_cbis_ddsm_in_other_spelling(native, change):  # noqa: F811
    root = native / "cbis_ddsm"
    rows = cbis_ddsm.index(root)
    for name in cbis_tables.TABLES:
        edit(root / name, lambda text: "".join(change(field) if ".dcm" in field else field for field in split(text)))
    found = cbis_ddsm.index(root)
    assert found.equals(rows) and found.attrs == rows.attrs


def split(text):
    """The fields of a table and what stands between them."""
    fields, field = [], ""
    for character in text:
        if character in ',"\r\n':
            fields += [field, character]
            field = ""
        else:
            field += character
    return [*fields, field]


@pytest.mark.parametrize("module, said", [(cbis_ddsm, "There is no mass_case_description_train_set.csv"), (inbreast, "no INbreast.csv"),
                                          (bach, "no microscopy_ground_truth.csv"), (camelyon, "no slide of CAMELYON16 or CAMELYON17")])
def test_a_folder_that_is_empty_or_not_there_is_said(tmp_path, module, said):
    for root in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(Problem, match=f"{said}.*{root.name}"):
            module.index(root)


def test_files_behind_links_are_found_once_and_hidden_ones_are_not(tmp_path):
    for name in ("a/b/1.DCM", "a/2.dcm", ".unpacking/3.dcm", "4.dcm/5.txt"):
        put(tmp_path / name)
    for name, to in (("z", "a/b"), ("a/loop", "."), ("gone.dcm", "nowhere")):
        (tmp_path / name).symlink_to(tmp_path / to)
    assert [str(path.relative_to(tmp_path)) for path in files_below(tmp_path, ".dcm")] == ["a/2.dcm", "a/b/1.DCM"]
    assert [path.name for path in files_below(tmp_path)] == ["5.txt", "2.dcm", "1.DCM"] and files_below(tmp_path / "nowhere") == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every folder")
def test_a_folder_that_may_not_be_read_is_logged(tmp_path, caplog):
    put(tmp_path / "locked" / "1.dcm"), put(tmp_path / "2.dcm")
    (tmp_path / "locked").chmod(0)
    assert files_below(tmp_path, ".dcm") == [tmp_path / "2.dcm"] and "locked may not be read" in caplog.text
    (tmp_path / "locked").chmod(0o700)
