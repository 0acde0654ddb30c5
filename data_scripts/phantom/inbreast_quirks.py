"""The quirks of INbreast: each is a function that changes a written `Release`.

The first line of its docstring says what the files then hold.
"""
import csv
import plistlib

from xmodal.runtime.files import atomic

from .native import write_table


def _edit_line(root, position, column, value):
    """Puts a value in one line of INbreast.csv."""
    with open(root / "INbreast.csv", newline="") as file:
        header, *lines = csv.reader(file, delimiter=";")
    lines[position][header.index(column)] = value
    write_table(root / "INbreast.csv", header, lines, delimiter=";")


def _edit_findings(root, change):
    """Puts in the place of each outline file's list of findings what `change` makes of it."""
    for path in sorted((root / "AllXML").glob("*.xml")):
        plist = plistlib.loads(path.read_bytes())
        image = plist["Images"][0]
        image["ROIs"] = change(image["ROIs"])
        image["NumberOfROIs"] = len(image["ROIs"])
        with atomic(path) as partial:
            partial.write_bytes(plistlib.dumps(plist))


def view_fb(release):
    """One view is FB."""
    _edit_line(release.root, 0, "View", "FB")


def blank_acr(release):
    """One density is 193 blanks."""
    _edit_line(release.root, 1, "ACR", " " * 193)


def point_findings(release):
    """Outlined images have findings of one and two points too.

    They are two more calcifications on the outline of the lesion.
    """
    def change(rois):
        first = rois[0]
        points = []
        for n in (1, 2):
            points.append({**first, "Name": "Calcification", "NumberOfPoints": n,
                           "Point_px": first["Point_px"][:n], "Point_mm": first["Point_mm"][:n]})
        return rois + points
    _edit_findings(release.root, change)


def odd_names(release):
    """Findings are called Assymetry, mass with a blank, Unnamed."""
    names = {"Asymmetry": "Assymetry", "Mass": "mass ", "Calcifications": "calcifications"}

    def change(rois):
        renamed = [{**roi, "Name": names.get(roi["Name"], roi["Name"])} for roi in rois]
        return [*renamed, {**rois[0], "Name": "Unnamed"}]
    _edit_findings(release.root, change)


def roi_points(release):
    """Points are {x, y} under ROIPoints."""
    braces = str.maketrans("()", "{}")

    def change(rois):
        for roi in rois:
            points = [point.translate(braces) for point in roi.pop("Point_px")]
            del roi["Point_mm"]
            roi["ROIPoints"] = points
        return rois
    _edit_findings(release.root, change)


def damaged_xml(release):
    """One outline file breaks off."""
    for path in sorted((release.root / "AllXML").glob("*.xml"))[1:2]:
        path.write_bytes(path.read_bytes()[:200])


def missing_xml(release):
    """One outline file is missing."""
    for path in sorted((release.root / "AllXML").glob("*.xml"))[:1]:
        path.unlink()


def pectoral_outlines(release):
    """PectoralMuscle/ has an outline file of the same name for each MLO view.

    It is a triangle in the corner of the chest wall, as {x, y} under ROIPoints.
    """
    roi = {"Name": "Pectoral Muscle", "NumberOfPoints": 3, "ROIPoints": ["{0, 0}", "{90, 0}", "{0, 180}"]}
    plist = plistlib.dumps({"Images": [{"ImageIndex": 0, "NumberOfROIs": 1, "ROIs": [roi]}]})
    folder = release.root / "PectoralMuscle" / "Pectoral Muscle XML"
    for path in sorted((release.root / "AllDICOMs").glob("*_ML_*.dcm")):
        with atomic(folder / f"{path.name.split('_')[0]}.xml") as partial:
            partial.write_bytes(plist)


def mlo_names(release):
    """DICOM names say MLO where most releases say ML."""
    for path in sorted((release.root / "AllDICOMs").glob("*_ML_*.dcm")):
        path.rename(path.with_name(path.name.replace("_ML_", "_MLO_")))


def missing_image(release):
    """One listed image is missing."""
    sorted((release.root / "AllDICOMs").glob("*.dcm"))[-1].unlink()


def deeper_folder(release):
    """Everything lies in INbreast Release 1.0/."""
    everything = sorted(release.root.iterdir())
    deeper = release.root / "INbreast Release 1.0"
    deeper.mkdir()
    for path in everything:
        path.rename(deeper / path.name)


QUIRKS = (view_fb, blank_acr, point_findings, odd_names, roi_points, damaged_xml, missing_xml,
          pectoral_outlines, mlo_names, missing_image, deeper_folder)       # in this order
