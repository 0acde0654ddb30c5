"""The two sets of the companions: ultrasound that is there twice, slides that tell their patient by name."""
import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy.ndimage import gaussian_filter

from data_scripts import busi, tcga
from xmodal import config, preprocess
from xmodal.config import HOME, Problem

SHARED = HOME.parent / "shared" / "data"
REAL = pytest.mark.skipif(
    not SHARED.is_dir(), reason="needs the real files in ../shared/data, which are no part of the project"
)


# ---- BUSI --------------------------------------------------------------------------------------------------


def scan(seed, shape=(120, 150)):
    """A smooth random picture, 8 bits."""
    noise = gaussian_filter(np.random.default_rng(seed).normal(size=shape), 6)
    return (255 * (noise - noise.min()) / np.ptp(noise)).astype(np.uint8)


def blob(rows, columns, shape=(120, 150)):
    mask = np.zeros(shape, np.uint8)
    mask[rows, columns] = 255
    return mask


@pytest.fixture
def folder(tmp_path):
    """Seven images as the release has them.

    They have several masks, four kinds of mask files, blank masks, twins, and a file that is broken.
    """

    def save(name, pixels, mode="L"):
        path = tmp_path / "Dataset_BUSI_with_GT" / name.split(" ")[0] / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).convert(mode).save(path)

    pictures = [scan(i) for i in range(5)]
    for number, picture in enumerate(pictures[:3], 1):
        save(f"benign ({number})", picture, "RGB")
    save("benign (1)_mask", blob(slice(10, 30), slice(20, 40)), "1")
    save("benign (1)_mask_1", blob(slice(60, 70), slice(90, 120)), "RGBA")
    save("benign (2)_mask", blob(slice(5, 9), slice(5, 9)), "RGB")
    save("benign (3)_mask", blob(slice(5, 9), slice(5, 9)))
    marked = np.roll(pictures[1], 1, 1)
    marked[50:52, 40:60] = 255  # a caliper
    save("malignant (10)", marked)
    save("malignant (2)", pictures[3])
    save("malignant (2)_mask", blob(slice(0, 60), slice(0, 75), (60, 75)))
    save("normal (1)", pictures[4])
    save("normal (1)_mask", blob(slice(0), slice(0)), "RGBA")
    save("normal (2)", pictures[4], "RGB")
    save("normal (9)_mask", blob(slice(0), slice(0)))
    (tmp_path / "Dataset_BUSI_with_GT" / "benign" / "benign (4).png").write_bytes(b"\x89PNG\r\n\x1a\nbroken")
    return tmp_path


def test_busi_is_read_with_its_masks_and_its_duplicates(folder):
    table, left_out, traps, contradicting = busi.read(folder)
    assert table["sample"].str.removeprefix("busi/").tolist() == [
        "benign_1",
        "benign_2",
        "benign_3",
        "malignant_2",
        "malignant_10",
        "normal_1",
        "normal_2",
    ]
    assert table.label.tolist() == ["benign"] * 3 + ["malignant"] * 2 + ["normal"] * 2
    assert table.masks.map(len).tolist() == [2, 1, 1, 1, 0, 1, 0]
    assert dict(zip(table["sample"], table.duplicate_of)) == {
        **dict.fromkeys(table["sample"], ""),
        "busi/malignant_10": "busi/benign_2",
        "busi/normal_2": "busi/normal_1",
    }
    assert contradicting == ["busi/benign_2", "busi/malignant_10"]
    (_, alone), (path, unreadable) = left_out
    assert "benign (4).png" in path and "cannot be read" in unreadable
    assert "normal (9)_mask.png is a mask without an image" in alone
    assert traps == {"several_masks": 1, "no_mask": 2, "duplicate": 2, "contradicting": 2}
    assert busi.index(folder).attrs == {
        "exclusions": left_out,
        "traps": traps,
        "contradicting": contradicting,
    }


def test_busi_copies_and_other_names_are_told(folder):
    before = busi.read(folder)
    home = folder / "Dataset_BUSI_with_GT"
    for name in ("again/benign (1).png", "benign/benign (1) copy.png", "benign/._benign (1).png"):
        (home / name).parent.mkdir(exist_ok=True)
        (home / name).write_bytes((home / "benign" / "benign (1).png").read_bytes())
    (home / "normal" / "normal (1).png").rename(home / "normal" / "Normal (1).PNG")
    (home / "benign" / "benign (7).png").mkdir()
    after = busi.read(folder)
    assert len(after.rows) == len(before.rows) and len(after.exclusions) == len(before.exclusions) + 2
    assert sum("second copy" in reason for _, reason in after.exclusions) == 1


def test_masks_of_an_image_are_united_whatever_their_colours(folder, caplog):
    table = busi.index(folder).set_index("sample")

    def read(name):
        return busi.read_mask(table.masks[f"busi/{name}"], (120, 150))

    lesions = blob(slice(10, 30), slice(20, 40)) | blob(slice(60, 70), slice(90, 120))
    assert np.array_equal(read("benign_1"), lesions > 0)
    assert read("benign_2").sum() == read("benign_3").sum() == 16
    assert not read("normal_1").any()
    assert not read("normal_2").any()
    assert "scaled" not in caplog.text
    assert read("malignant_2").sum() == 120 * 150 and "scaled" in caplog.text, "a mask of another size"
    with pytest.raises(Problem, match="cannot be read"):
        busi.read_mask([str(folder / "Dataset_BUSI_with_GT" / "benign" / "benign (4).png")], (120, 150))


def test_a_chain_of_alike_images_is_one_group():
    first = np.zeros(64, bool)
    near = first.copy()
    near[: busi.ALIKE] = True
    far = first.copy()
    far[: 2 * busi.ALIKE] = True
    other = ~first
    group = busi.duplicates(np.array([first, far, near, other]))
    assert group[0] == group[1] == group[2] != group[3]
    assert len(set(busi.duplicates(np.array([first, far, other])))) == 3


def test_an_empty_folder_is_no_busi(tmp_path):
    with pytest.raises(Problem, match="no image like"):
        busi.index(tmp_path)


@REAL
def test_the_real_ultrasound():
    table, left_out, _, contradicting = busi.read(SHARED / "busi")
    assert table.label.value_counts().to_dict() == {"benign": 60, "malignant": 60, "normal": 30}
    assert table.masks.map(len).value_counts().to_dict() == {1: 145, 2: 5}
    assert left_out == [] and contradicting == ["busi/benign_42", "busi/malignant_51"]
    twins = table[table.duplicate_of != ""]  # each pair looked at
    names = twins["sample"].str.removeprefix("busi/")
    assert dict(zip(names, twins.duplicate_of.str.removeprefix("busi/"))) == {
        "malignant_5": "malignant_4",
        "malignant_7": "malignant_6",
        "malignant_8": "malignant_6",
        "malignant_9": "malignant_6",
        "malignant_28": "malignant_27",
        "malignant_42": "malignant_39",
        "malignant_51": "benign_42",
        "normal_13": "normal_5",
    }
    for row in table.groupby("label").head(5).itertuples():
        with Image.open(row.path) as image:
            assert busi.read_mask(row.masks, image.size[::-1]).any() == (row.label != "normal")


# ---- TCGA --------------------------------------------------------------------------------------------------

UUID = "B5E2C4F1-0000-4000-8000-0123456789AB"


def slides(root, *names):
    for name in names:
        (root / "deep" / "er").mkdir(parents=True, exist_ok=True)
        (root / "deep" / "er" / name).write_bytes(b"II*\0")


def test_names_of_tcga_tell_patient_sample_and_section(tmp_path):
    used = [
        f"TCGA-A8-A06U-01Z-00-DX1.{UUID}.svs",
        f"TCGA-A8-A06U-01Z-00-DX2.{UUID}.svs",
        f"TCGA-BH-A18V-06Z-00-DX1.{UUID.lower()}.svs",
        "TCGA-BH-A18V-11A-01-DX1.svs",
    ]
    lost = {
        f"TCGA-A8-A06U-01A-01-TS1.{UUID}.svs": "frozen",
        f"TCGA-A8-A06U-01A-01-BSB.{UUID}.svs": "frozen",
        f"TCGA-A8-A06U-10A-01-DX1.{UUID}.svs": "kind 10",
        "CMU-1.svs": "name",
    }
    slides(tmp_path, *used, *lost)
    (tmp_path / f"TCGA-A8-A06V-01Z-00-DX1.{UUID}.svs").touch()
    # GDC's own tool puts each file into a folder of its own, so that it may be there twice.
    (tmp_path / used[0]).write_bytes(b"II*\0")
    rows, left_out, traps = tcga.read(tmp_path)
    table = rows.set_index("sample").loc[[f"tcga_brca/{name.removesuffix('.svs')}" for name in used]]
    assert table.patient.tolist() == ["tcga_brca/TCGA-A8-A06U"] * 2 + ["tcga_brca/TCGA-BH-A18V"] * 2
    assert table.study.tolist() == ["TCGA-A8-A06U"] * 2 + ["TCGA-BH-A18V"] * 2
    assert table.allowed.tolist() == [0b1000] * 3 + [0b0011] and table.truth.tolist() == [3, 3, 3, -1]
    reasons = {path.rsplit("/", 1)[1]: reason for path, reason in left_out}
    assert reasons.pop(used[0]).endswith("it is there twice.")
    assert traps == {"empty_file": 1, "frozen_section": 2, "odd_name": 1, "other_sample": 1, "second_copy": 1}
    assert len(reasons) == 5 and all(why in reasons[name] for name, why in lost.items())
    assert sum("empty" in reason for reason in reasons.values()) == 1


def test_without_slides_or_table_tcga_says_what_to_do(tmp_path):
    slides(tmp_path, "CMU-1.svs")
    with pytest.raises(Problem, match="1 left out.*tcga.fetch"):
        tcga.index(tmp_path)
    with pytest.raises(Problem, match="tcga.fetch"):
        tcga.clinical(tmp_path)
    with pytest.raises(
        Problem, match="no project 'TCGA-OV' here; choose one of TCGA-BRCA, TCGA-LUAD, TCGA-LUSC"
    ):
        tcga.fetch(tmp_path, project="TCGA-OV")
    (tmp_path / "clinical.csv").write_text("patient\n1\n")
    with pytest.raises(Problem, match="lacks the columns case, days"):
        tcga.clinical(tmp_path)


def test_rows_of_tcga_are_of_no_use_to_the_main_job_and_told_so(tmp_path):
    slides(tmp_path, f"TCGA-A8-A06U-01Z-00-DX1.{UUID}.svs")
    with pytest.raises(Problem, match="tcga_brca is no domain of the cohort.*companions"):
        preprocess.build(tcga.index(tmp_path), config.PROFILES["lesson"], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_patients_of_tcga_that_cannot_be_used_are_left_out(tmp_path, caplog):
    good = ['TCGA-A8-A06U,100.0,True,"Lobular carcinoma, NOS",Stage IIA', "TCGA-A8-A06V,,False,,"]
    bad = [
        "TCGA-A8-A06W,soon,True,,",
        "TCGA-A8-A06X,7,maybe,,",
        "A06Y,7,True,,",
        "TCGA-A8-A06Z,-3,True,,",
        "TCGA-A8-A06V,,False,,",
        "TCGA-A8-A070,5",
        "TCGA-A8-A071,5,False,,",
        "TCGA-A8-A071,5,True,,",
    ]
    (tmp_path / "clinical.csv").write_text("\n".join(["case,days,dead,diagnosis,stage", *good, *bad]))
    people = tcga.clinical(tmp_path)
    assert people.index.tolist() == ["TCGA-A8-A06U", "TCGA-A8-A06V"] and people.dead.tolist() == [True, False]
    assert people.days.iloc[0] == 100
    assert np.isnan(people.days.iloc[1])
    assert people.diagnosis.iloc[0] == "Lobular carcinoma, NOS"
    reasons = [record.getMessage() for record in caplog.records if record.getMessage().endswith("Left out.")]
    expected = ("'soon'", "'maybe'", "'A06Y'", "'-3'", "again", "2 fields", "contradicts", "contradicts")
    for word, reason in zip(expected, reasons, strict=True):
        assert word in reason


@REAL
def test_the_real_slide_names(tmp_path):
    listed = pd.read_csv(SHARED / "tcga_brca_clinical" / "patchgcn_tcga_brca_slides.csv")
    slides(tmp_path, *listed.slide_id)
    table = tcga.index(tmp_path)
    assert len(table) == 1111 and table.patient.nunique() == 1042 and set(table.allowed) == {0b1000}
    assert set(table.study) == set(listed.case_id)
