"""The traps of the public datasets as named switches: site -> {name: what the files then hold}.

`phantom.write(..., quirks=("scaled_mask", "point_findings"))` writes them, and the `index` of the site must see through them:
whatever the switches, it gives back the cohort that was drawn, less what they took away. Each was found in the published
tables and files, and `index` counts most of them under the same names in `.attrs["traps"]`.
"""
from xmodal.config import Problem

QUIRKS = {
    "cbis_ddsm": {
        "several_abnormalities": "CC views have two abnormalities, each with half of the lesion",
        "mixed_pathology": "malignant MLO views have a benign abnormality too, which is listed first",
        "crossing_patient": "the CC film of every other patient is listed again in the other kind's table, and in its other part",
        "na_terms": "margins and distributions are the letters NA",
        "zeros": "density, assessment and subtlety are 0",
        "scaled_mask": "masks of CC views are 0.870 times as large as their images",
        "stretched_mask": "masks of MLO views have another aspect than their images",
        "wide_mask": "masks have 16 bits, as crops have",
        "separate_series": "crop and mask of CC views lie in two series of two studies",
        "missing_mask": "one mask is not there",
        "missing_image": "one listed image is not there",
        "swapped_instances": "crop and mask are numbered the other way round than the tables say",
        "malformed_patient_id": "the PatientID of every other patient's files is like P_00038_LEFT_CC.dcm",
        "no_series_description": "full mammograms have no SeriesDescription",
        "nbia_tree": "files lie as the NBIA Data Retriever puts them",
        "nbia_tree_old": "files lie as its older versions put them; with nbia_tree, every other patient's",
    },
    "inbreast": {
        "view_fb": "one view is FB",
        "blank_acr": "one density is 193 blanks",
        "point_findings": "outlined images have findings of one and two points too",
        "odd_names": "findings are called Assymetry, mass with a blank, Unnamed",
        "roi_points": "points are {x, y} under ROIPoints",
        "missing_xml": "one outline file is not there",
        "damaged_xml": "one outline file breaks off",
        "mlo_names": "DICOM names say MLO where most releases say ML",
        "missing_image": "one listed image is not there",
        "deeper_folder": "everything lies in INbreast Release 1.0/",
    },
    "bach": {},
    "camelyon": {},
}
NAMES = tuple(dict.fromkeys(name for site in QUIRKS.values() for name in site))


def check(quirks):
    """`quirks` as a tuple. Raises `Problem` if one is unknown."""
    unknown = [name for name in quirks if name not in NAMES]
    if unknown:
        raise Problem(f"The phantom knows no quirk {unknown[0]!r}; choose among {', '.join(NAMES)}.")
    return tuple(quirks)
