"""BraTS 2021 and UPENN-GBM as they are unpacked, on small volumes: slice, box, grey values, side, report and
label, and what is left out or refused."""
import gzip
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import SimpleITK as sitk
from PIL import Image

from data_scripts import glioma_slices, gliomas
from xmodal.companions import rfpmss_data
from xmodal.config import Problem

SHAPE = (12, 24, 20)                    # z, y, x
BRAIN = np.s_[1:11, 2:22, 2:18]         # middle at z 6, y 12, x 10
VIEWS = {"mammogram": "t2", "magnified": "t1ce", "ultrasound": "flair"}


def write(path, pixels, flipped=False, shift=0.0):
    """A volume (Z, Y, X), voxels of 10 x 10 x 10 mm. flipped: as a file stores it whose x and y grow to the
    patient's right and front, as in most other releases."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = sitk.GetImageFromArray(pixels[:, ::-1, ::-1] if flipped else pixels)
    image.SetSpacing((10, 10, 10, 1)[:pixels.ndim])
    image.SetOrigin((shift, -239, 0, 0)[:pixels.ndim])
    if flipped:
        image.SetDirection((-1, 0, 0, 0, -1, 0, 0, 0, 1))
    sitk.WriteImage(image, str(path))


def brain(seed):
    pixels = np.zeros(SHAPE, np.int16)
    pixels[BRAIN] = np.random.default_rng(seed).integers(100, 1000, pixels[BRAIN].shape)
    return pixels


def tumour(x=12):
    """Four slices; most of it in slice 8, where it has y 4 to 9 and x to x + 4."""
    parts = np.zeros(SHAPE, np.uint8)
    parts[7:10, 5:8, x:x + 4] = glioma_slices.OEDEMA
    parts[8, 4:9, x:x + 4] = glioma_slices.OEDEMA
    parts[8, 5:7, x:x + 4] = glioma_slices.ENHANCING
    parts[8, 5, x] = glioma_slices.NECROSIS
    return parts


def brats_case(root, number, flipped=False, parts=None):
    case = f"BraTS2021_{number:05d}"
    folder = root / "brats2021" / "BraTS2021_TrainingSet" / "UPENN-GBM" / case
    for k, name in enumerate(("t1", "t1ce", "t2", "flair")):
        write(folder / f"{case}_{name}.nii.gz", brain(10 * number + k), flipped)
    write(folder / f"{case}_seg.nii.gz", tumour() if parts is None else parts, flipped)
    return folder


MAPPING = ["Data Collection (as on TCIA+additional)", "Site ID", "PatientID on TCIA Radiology Portal",
           "Study date (m/d/yyyy) per PatientID", "BraTS2021 ID", "Segmentation (Task 1) Cohort",
           "MGMT (Task 2) Cohort", "MGMT value"]


def mapping(root, rows):
    """TCIA's mapping from (case, patient, MGMT value)."""
    lines = [("UPENN-GBM", 1, patient, "1/2/2003", case, "Training", "Training", value)
             for case, patient, value in rows]
    pd.DataFrame(lines, columns=MAPPING).to_csv(root / "brats2021" / gliomas.MAPPING, index=False)


def upenn_scan(root, name, outlines=("automated_segm", "images_segm"), x=12):
    base = root / "upenn_gbm" / "NIfTI-files"
    for k, modality in enumerate(("T1", "T1GD", "T2", "FLAIR")):
        write(base / "images_structural" / name / f"{name}_{modality}.nii.gz", brain(k))
        write(base / "images_structural_unstripped" / name / f"{name}_{modality}_unstripped.nii.gz", brain(9))
    endings = {"automated_segm": "automated_approx_segm", "images_segm": "segm"}
    for folder in outlines:
        by_hand = folder == "images_segm"
        write(base / folder / f"{name}_{endings[folder]}.nii.gz", tumour(x if by_hand else 3))


CLINICAL = ["ID", "Gender", "Age_at_scan_years", "Survival_from_surgery_days_UPDATED", "Survival_Status",
            "Survival_Censor", "Time_since_baseline_preop", "PsP_TP_score", "IDH1", "MGMT", "KPS",
            "GTR_over90percent"]


def clinical(root, rows):
    """The clinical table from (ID, gender, age, IDH1, MGMT, KPS)."""
    lines = [(name, sex, age, 300, "Deceased", "Not Available", 0, "Not Applicable", idh1, mgmt, kps, "Y")
             for name, sex, age, idh1, mgmt, kps in rows]
    table = pd.DataFrame(lines, columns=CLINICAL)
    table.to_csv(root / "upenn_gbm" / "UPENN-GBM_clinical_info_v2.1.csv", index=False)


def studies(root):
    """(studies by patient, exclusions by source) of what lies below `root`."""
    folder = gliomas.as_studies(root, root / "studies", workers=1)
    read = [pd.read_csv(folder / f"{name}.csv", keep_default_na=False) for name in ("studies", "exclusions")]
    return read[0].set_index("patient"), read[1].set_index("source").reason


def test_a_case_of_brats_is_a_study_whose_slice_box_and_report_are_known(tmp_path):
    folder = brats_case(tmp_path, 3)
    brats_case(tmp_path, 4, flipped=True)
    (tmp_path / "brats2021" / "train_labels.csv").write_text("BraTS21ID,MGMT_value\n00003,1\n4,0\n")
    table, left_out = studies(tmp_path)
    assert table.label.to_dict() == {"BraTS2021_00003": "methylated", "BraTS2021_00004": "unmethylated"}
    assert not len(left_out) and set(table.site) == {"brats2021"}
    row = table.loc["BraTS2021_00003"]
    assert row.report == ("MRI of the brain. There is a tumour in the left hemisphere, in its anterior upper "
                          "part. Enhancing part of 7 ml, necrotic core of 1 ml, oedema of 36 ml.")
    for view, name in VIEWS.items():
        picture = np.asarray(Image.open(tmp_path / "studies" / row[view]))
        pixels = sitk.GetArrayFromImage(sitk.ReadImage(str(folder / f"BraTS2021_00003_{name}.nii.gz")))
        low, high = np.percentile(pixels[pixels > 0], (0.5, 99.5))
        expected = np.clip((pixels[8] - low) / (high - low), 0, 1) * 255
        assert np.abs(picture - np.where(pixels[8] == 0, 0, expected)).max() <= 0.5
        assert row[f"boxes_{view}"] == "[[12, 4, 16, 9]]"
    flipped = table.loc["BraTS2021_00004"]
    assert flipped.report == row.report and flipped.boxes_magnified == row.boxes_magnified


def test_rfpmss_reads_both_sets_trains_on_one_and_knows_who_is_in_both(tmp_path):
    for number in (0, 1, 2, 557):
        brats_case(tmp_path, number)
    mapping(tmp_path, [("BraTS2021_00000", "UPENN-GBM-00002_11", 1), ("BraTS2021_00001", "", ""),
                       ("00169", "", 0), ("BraTS2021_00002", "new-not-previously-in-TCIA", 0),
                       ("BraTS2021_00999", "UPENN-GBM-00003_11", 1), ("", "", "")])
    for name in ("UPENN-GBM-00001_11", "UPENN-GBM-00002_11", "UPENN-GBM-00003_11", "UPENN-GBM-00003_21"):
        upenn_scan(tmp_path, name)
    clinical(tmp_path, [
        ("UPENN-GBM-00001_11", "F", 64.6, "Wildtype", "Unmethylated", 90),
        ("UPENN-GBM-00002_11", "M", 51.2, "NOS/NEC", "Methylated", "Not Available"),
        ("UPENN-GBM-00003_11", "M", "Not Available", "NOS/NEC", "Indeterminate", 80),
        ("UPENN-GBM-00003_21", "M", 52, "Mutated", "Methylated", 70)])
    table, left_out = studies(tmp_path)
    assert table.site.value_counts().to_dict() == {"brats2021": 3, "upenn_gbm": 2}
    assert table.label.to_list() == ["methylated", "", "unmethylated", "unmethylated", ""]
    assert left_out.to_dict() == {
        "BraTS2021_00557": "It is a second scan of a patient.",
        "UPENN-GBM-00002": "It is BraTS2021_00000 of BraTS 2021, too.",
        "UPENN-GBM-00003_21": "It is a follow-up scan."}
    first = table.report["UPENN-GBM-00001"]
    assert first.startswith("MRI of the brain of a woman of 65 years, Karnofsky 90. There is a tumour")
    assert first.endswith("oedema of 36 ml. IDH1 wildtype.")
    assert table.report["UPENN-GBM-00003"].startswith("MRI of the brain of a man, Karnofsky 80. There is")
    assert not table.report.str.contains("methyl").any()
    read, pictures = rfpmss_data.load_table(gliomas.as_studies(tmp_path, tmp_path / "studies"), size=32)
    assert list(read.site.unique()) == ["brats2021", "upenn_gbm"]
    assert all(p.shape == (5, 32, 32, 3) for p in pictures.values())


def test_a_segmentation_by_hand_comes_before_the_automated_one(tmp_path):
    upenn_scan(tmp_path, "UPENN-GBM-00001_11")
    upenn_scan(tmp_path, "UPENN-GBM-00002_11", ("automated_segm",))
    clinical(tmp_path, [(f"UPENN-GBM-0000{k}_11", "F", 60, "Wildtype", "Methylated", 90) for k in (1, 2)])
    table, _ = studies(tmp_path)
    assert table.boxes_magnified.to_list() == ["[[12, 4, 16, 9]]", "[[3, 4, 7, 9]]"]
    sides = table.report.str.extract("in the (left|right) hemisphere")[0]
    assert sides.to_list() == ["left", "right"]


def test_a_tumour_across_the_middle_is_in_both_hemispheres_and_parts_may_be_missing():
    parts = np.zeros(SHAPE, np.uint8)
    parts[2, 15:18, 8:12] = glioma_slices.OEDEMA
    inside = np.zeros(SHAPE, bool)
    inside[BRAIN] = True
    assert glioma_slices.report({}, parts, inside, 0.05) == (
        "MRI of the brain. There is a tumour in both hemispheres, in their posterior lower part. "
        "No enhancing part, no necrotic core, oedema under 1 ml.")


def cut(path, share=0.5):
    content = path.read_bytes()
    path.write_bytes(content[:int(len(content) * share)])


def cut_inside(path):
    """A sound gzip stream that ends before the last voxels, which SimpleITK would fill up with zeros."""
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes())[:-2000]))


def no_nifti(path):
    path.write_bytes(gzip.compress(b"hello" * 200))


def other(pixels, shift=0.0):
    """A harm: the volume is another one."""
    def change(path):
        path.unlink()
        write(path, pixels, shift=shift)
    return change


FAULTS = {
    "has no modality": ("flair", Path.unlink, "There is no BraTS2021_00001_flair.nii.gz"),
    "has no segmentation": ("seg", Path.unlink, "There is no segmentation"),
    "is cut off": ("t2", cut, "cannot be read"),
    "is cut off inside": ("t1ce", cut_inside, "bytes of"),
    "is no NIfTI": ("t2", no_nifti, "is no NIfTI file"),
    "is empty": ("t2", partial(cut, share=0), "is no NIfTI file"),
    "has another size": ("t2", other(brain(1)[1:]), "another grid"),
    "lies elsewhere": ("flair", other(brain(1), shift=0.5), "another grid"),
    "is blank": ("flair", other(np.zeros(SHAPE, np.int16)), "is blank"),
    "has no numbers": ("t2", other(np.where(brain(1) > 0, np.nan, 0)), "is blank"),
    "has no tumour": ("seg", other(np.zeros(SHAPE, np.uint8)), "outlines no tumour"),
    "has other values": ("seg", other(tumour() * 3), "other values than"),
    "has four axes": ("t2", other(np.zeros((2, *SHAPE), np.float32)), "no volume of grey values"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_scan_that_cannot_be_used_is_left_out_and_counted(tmp_path, fault, caplog):
    name, harm, reason = FAULTS[fault]
    brats_case(tmp_path, 0)
    harm(brats_case(tmp_path, 1) / f"BraTS2021_00001_{name}.nii.gz")
    mapping(tmp_path, [("BraTS2021_00000", "", 1)])
    table, left_out = studies(tmp_path)
    assert list(table.index) == ["BraTS2021_00000"]
    assert list(left_out.index) == ["BraTS2021_00001"] and reason in left_out.iloc[0]
    assert "1 scans or files are left out" in caplog.text


def test_copies_and_older_versions_of_a_file_are_left_out(tmp_path):
    folder = brats_case(tmp_path, 0)
    for place in (folder.parent / "again", folder / "old"):
        write(place / "BraTS2021_00000_t2.nii.gz", brain(77))
    mapping(tmp_path, [("BraTS2021_00000", "", 1)])
    table, left_out = studies(tmp_path)
    assert len(table) == 1
    assert left_out.str.contains("a second copy of|an older version").sum() == len(left_out) == 2


TABLES = {
    "train_labels.csv": ("BraTS21ID,MGMT\n00000,1\n", "lacks the columns mgmt_value"),
    "./train_labels.csv": ("BraTS21ID,MGMT_value\n00000,1\n0,0\n", "lists BraTS2021_00000 twice"),
    "a/train_labels.csv": ("BraTS21ID,MGMT_value\n00000,0.5\n", "says '0.5' of the MGMT promoter"),
    "b/train_labels.csv": ("BraTS21ID,MGMT_value\n00000\n", "has 1 fields instead of 2"),
    "none.csv": ("", "neither BraTS2021_MappingToTCIA.csv nor train_labels.csv"),
}


@pytest.mark.parametrize("name", TABLES)
def test_a_table_that_cannot_be_used_is_a_problem(tmp_path, name):
    text, message = TABLES[name]
    brats_case(tmp_path, 0)
    path = tmp_path / "brats2021" / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    with pytest.raises(Problem, match=message):
        gliomas.as_studies(tmp_path, tmp_path / "studies", workers=1)


def test_clinical_tables_must_have_their_columns_and_each_scan_once(tmp_path):
    upenn_scan(tmp_path, "UPENN-GBM-00001_11")
    row = ("UPENN-GBM-00001_11", "F", 60, "Wildtype", "Methylated", 90)
    with pytest.raises(Problem, match="no UPENN-GBM_clinical_info_v2.1.csv"):
        studies(tmp_path)
    clinical(tmp_path, [row, row])
    with pytest.raises(Problem, match="lists UPENN-GBM-00001_11 twice"):
        studies(tmp_path)
    clinical(tmp_path, [("UPENN-GBM-00005_11", *row[1:])])
    with pytest.raises(Problem, match="No scan of upenn_gbm .* no row in the clinical table"):
        studies(tmp_path)
    path = tmp_path / "upenn_gbm" / "UPENN-GBM_clinical_info_v2.1.csv"
    pd.read_csv(path).drop(columns="KPS").to_csv(path, index=False)
    with pytest.raises(Problem, match="lacks the columns kps"):
        studies(tmp_path)


def test_both_sets_without_the_mapping_are_refused(tmp_path):
    brats_case(tmp_path, 0)
    (tmp_path / "brats2021" / "train_labels.csv").write_text("BraTS21ID,MGMT_value\n00000,1\n")
    upenn_scan(tmp_path, "UPENN-GBM-00001_11")
    clinical(tmp_path, [("UPENN-GBM-00001_11", "F", 60, "Wildtype", "Methylated", 90)])
    with pytest.raises(Problem, match="There is no BraTS2021_MappingToTCIA.csv .* one set at a time"):
        studies(tmp_path)


def test_studies_are_written_once_and_anew_when_a_file_changes(tmp_path):
    folder = brats_case(tmp_path, 0)
    mapping(tmp_path, [("BraTS2021_00000", "", 1)])
    assert studies(tmp_path)[0].label.iloc[0] == "methylated"
    table = tmp_path / "studies" / "studies.csv"
    written = table.stat().st_mtime_ns
    studies(tmp_path)
    assert table.stat().st_mtime_ns == written
    (tmp_path / "studies" / "files.json").unlink()               # as where a conversion was cut
    studies(tmp_path)
    assert table.stat().st_mtime_ns > written
    mapping(tmp_path, [("BraTS2021_00000", "", 0)])
    assert studies(tmp_path)[0].label.iloc[0] == "unmethylated"
    cut(folder / "BraTS2021_00000_t1ce.nii.gz")
    with pytest.raises(Problem, match="No scan of brats2021 .* cannot be read"):
        studies(tmp_path)
    own = tmp_path / "own"
    own.mkdir()
    assert gliomas.as_studies(own, tmp_path / "studies") == own, "one's own table stays where it is"
