"""The traps of the public datasets as named switches: site -> {name: what the files then hold}.

`phantom.write(..., quirks=("scaled_mask", "point_findings"))` writes them, and the `index` of the site must see through them:
whatever the switches, it gives back the cohort that was drawn, less what they took away. Each was found in the published
tables and files, and `index` counts most of them under the same names in `.attrs["traps"]`. A name that several sites have
is done to each.
"""
from xmodal.config import Problem

QUIRKS = {
    "cbis_ddsm": {
        "one_density_name": "calcification tables say breast_density too, as mass tables do",
        "no_line_feeds": "no path ends with a line feed",
        "one_order": "calcification cases have the crop before the mask too, as masses do",
        "several_abnormalities": "CC views have two abnormalities, each with half of the lesion",
        "mixed_pathology": "malignant MLO views have a benign abnormality too, which is listed first",
        "crossing_patient": "the CC film of every other patient is listed again in the other kind's table, and in its other part",
        "joined_terms": "mass shapes and calcification types are two terms joined by -",
        "na_terms": "margins and distributions are the letters NA",
        "zeros": "density, assessment and subtlety are 0",
        "scaled_mask": "masks of CC views are 0.870 times as large as their images",
        "stretched_mask": "masks of MLO views have another aspect than their images",
        "wide_mask": "masks have 16 bits, as crops have",
        "separate_series": "crop and mask of CC views lie in two series of two studies",
        "missing_mask": "one image has lost its masks",
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
        "damaged_xml": "one outline file breaks off",
        "missing_xml": "one outline file is not there",
        "pectoral_outlines": "PectoralMuscle/ has an outline file of the same name for each MLO view",
        "mlo_names": "DICOM names say MLO where most releases say ML",
        "missing_image": "one listed image is not there",
        "deeper_folder": "everything lies in INbreast Release 1.0/",
    },
    "bach": {
        "missing_image": "one listed image is not there",
        "listed_twice": "one image is listed twice",
        "unlisted_image": "one image is not listed",
        "test_set": "there is a test set, which has no table",
        "several_classes": "there are slides with outlines, each of two classes",
        "label_in_text": "there are such slides, and their labels are the Text of a Region, not the Value of an Attribute",
        "negative_roa": "there are such slides, whose benign outlines have a hole",
        "nested_outlines": "there are such slides, with an outline of a third class inside the benign one",
        "unlabelled_outline": "there are such slides, with an outline that says no class",
        "unannotated_wsi": "there are such slides, and one without outlines",
        "deeper_folder": "everything lies in one folder more, as some tools unpack the archive",
    },
    "camelyon": {
        "mislabelled_slide": "the first tumour slide is tumor_111, and is there once more as normal_086",
        "duplicate_slide": "a normal slide is there once more as test_049",
        "second_copy": "a slide lies in two folders",
        "partial_outlines": "a tumour slide is tumor_110, and only one of its tumours is outlined",
        "reference_key": "a tumour and a normal slide are test slides, whose labels are in reference.csv",
        "itc": "a slide of CAMELYON17 has isolated tumour cells",
        "missing_outlines": "a tumour slide of CAMELYON17 has no outlines",
        "unlabelled_slide": "a slide of CAMELYON17 is not in the stage table",
        "missing_image": "a listed slide of CAMELYON17 is not there",
        "stage_labels": "the stage table is stage_labels.csv, which has no centres",
        "odd_groups": "groups of outlines are _0, _1 and metastases",
        "excluded_groups": "a part of each outline is excluded, in the group _2 or normal",
        "unknown_group": "every slide has an outline in the group None too",
        "json_outlines": "outlines of CAMELYON16 are JSON, not XML",
        "mask_outlines": "outlines of CAMELYON17 are masks, not XML",
        "capital_names": "slides of CAMELYON16 are called Tumor_001.tif",
        "gigadb_layout": "CAMELYON16 lies in training/ and testing/",
        "zipped_annotations": "XML of CAMELYON16 lies in lesion_annotations.zip",
    },
}
NAMES = tuple(dict.fromkeys(name for site in QUIRKS.values() for name in site))


def check(quirks):
    """`quirks` as a tuple. Raises `Problem` if one is unknown."""
    unknown = [name for name in quirks if name not in NAMES]
    if unknown:
        raise Problem(f"The phantom knows no quirk {unknown[0]!r}; choose among {', '.join(NAMES)}.")
    return tuple(quirks)
