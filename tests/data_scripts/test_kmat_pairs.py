"""The public sets of K-MaT's pairs as they are unpacked: classes, splits, pictures, and what is missing."""
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from data_scripts import kmat_pairs
from xmodal.companions import pictures
from xmodal.config import Problem


def picture(path, value=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((8, 8), value, np.uint8)).save(path)


INFO = """The columns are name, tissue, class, severity, x, y and radius.

IMG001 G CIRC B 100 200 30
IMG001 G CALC M 1 2 3
IMG002 D NORM
img003 F SPIC+CALC B 5 6 7
IMG004 F CIRC M 1 2 3
IMG005 F CIRC
"""


def test_dmid_is_read_as_it_is_unpacked(tmp_path):
    for name in ("IMG001", "IMG002", "IMG003", "IMG005"):
        picture(tmp_path / "TIFF Images" / "TIFF Images" / f"{name}.tif", 7)
        picture(tmp_path / "ROI Masks" / "ROI Masks" / f"{name}.tif", 255)
        picture(tmp_path / "Pixel-level annotation" / f"{name}.png", 255)
    (tmp_path / "Info.txt").write_text(INFO)
    table = kmat_pairs.dmid(tmp_path)
    assert table.label.tolist() == ["malignant", "normal", "benign"]
    assert all("TIFF Images" in path for path in table.path)
    assert pictures.open_pictures(table)[0].max() == 7, "the picture, not the mask of the same name"
    with pytest.raises(Problem, match="no Info.txt"):
        kmat_pairs.dmid(tmp_path / "TIFF Images")


def test_derm7pt_keeps_its_own_split(tmp_path):
    diagnoses = ("basal cell carcinoma", "clark nevus", "melanoma (in situ)", "lentigo")
    meta = tmp_path / "meta"
    meta.mkdir()
    lines = ["case_num,diagnosis,derm,clinic"]
    for i, diagnosis in enumerate(diagnoses):
        picture(tmp_path / "images" / "A" / f"d{i}.jpg")
        lines.append(f"{i},{diagnosis},A/d{i}.jpg,A/c{i}.jpg")
    (meta / "meta.csv").write_text("\n".join(lines) + "\n")
    for name, rows in (("train", "0\n1"), ("valid", "2"), ("test", "3")):
        (meta / f"{name}_indexes.csv").write_text(f"indexes\n{rows}\n")
    table = kmat_pairs.derm7pt(tmp_path, "derm")
    assert table.label.tolist() == ["basal cell carcinoma", "nevus", "melanoma", "miscellaneous"]
    assert table.split.tolist() == ["train", "train", "validation", "test"]
    (meta / "meta.csv").write_text("case_num,derm\n0,A/d0.jpg\n")
    with pytest.raises(Problem, match="no column diagnosis"):
        kmat_pairs.derm7pt(tmp_path, "derm")


MIDAS_PATHS = (
    "malignant- bcc", "benign-melanocytic nevus", "malignant- melanoma", "malignant- scc",
    "benign-seborrheic keratosis", "malignant- ak", "malignant- sccis",
    "other-melanocytic lesion with possible re-excision (severe/spitz nevus, aimp)", "")


def test_midas_has_six_classes_and_a_patient_is_in_the_same_split_at_both_ends(tmp_path):
    rows = []
    for n in range(36):
        for k, distance in enumerate(("dscope", "6in", "1ft")):
            rows.append((f"r{n}", f"x{n}_{k}.jpeg", distance, MIDAS_PATHS[n % 9]))
            picture(tmp_path / f"x{n}_{k}.JPG")    # the table says .jpeg
    columns = ["midas_record_id", "midas_file_name", "midas_distance", "midas_path"]
    pd.DataFrame(rows, columns=columns).to_csv(tmp_path / "release_midas.csv")
    pair = kmat_pairs.pair("skin_1", tmp_path, tmp_path)
    for side in (pair.high, pair.low):
        assert side.table.label.value_counts().to_dict() == dict.fromkeys(kmat_pairs.SKIN_1, 4)
    split = pd.concat([pair.high.table, pair.low.table]).groupby("patient").split.nunique()
    assert len(split) == 24 and split.eq(1).all()


def test_chest_sets_are_read_by_folder(tmp_path):
    for k in range(3):
        picture(tmp_path / "ct" / "NCP" / "12" / "100" / f"{k:04d}.png", k)
    assert kmat_pairs.cc_ccii(tmp_path / "ct").path[0].endswith("0001.png")
    for name in ("person1_virus_6", "person1_bacteria_1", "person12_virus_7", "other"):
        picture(tmp_path / "cxr" / "train" / "PNEUMONIA" / f"{name}.jpg")
    table = kmat_pairs.chest_xray(tmp_path / "cxr")
    assert set(table.label) == {"common pneumonia"} and table.patient.nunique() == 3
    with pytest.raises(Problem, match="No picture of Chest X-ray"):
        kmat_pairs.chest_xray(tmp_path / "ct" / "none")
    for root in ("", tmp_path / "none"):
        with pytest.raises(Problem, match="There is no folder"):
            kmat_pairs.pair("chest", root, tmp_path)


def test_a_pair_that_is_not_known_is_said(tmp_path):
    with pytest.raises(Problem, match="There is no pair"):
        kmat_pairs.pair("knee", tmp_path, tmp_path)
