"""The traps of INbreast, each done to a phantom that is already written. `quirks.QUIRKS` says what each is."""
import csv
import plistlib

from xmodal.runtime.files import atomic

from .mammogram_files import write_table


def apply(root, names):
    """Does to the files under `root` what the quirks `names` say, in the order of `TRAPS`."""
    for trap in TRAPS:
        if trap.__name__ in names:
            trap(root)


def _edit_line(root, position, column, value):
    """Puts a value in one line of INbreast.csv."""
    with open(root / "INbreast.csv", newline="") as file:
        header, *lines = csv.reader(file, delimiter=";")
    lines[position][header.index(column)] = value
    write_table(root / "INbreast.csv", header, lines, delimiter=";")


def view_fb(root):
    _edit_line(root, 0, "View", "FB")


def blank_acr(root):
    _edit_line(root, 1, "ACR", " " * 193)


def _edit_outlines(root, change):
    """Puts in the place of each outline file's list of findings what `change` makes of it."""
    for path in sorted((root / "AllXML").glob("*.xml")):
        said = plistlib.loads(path.read_bytes())
        rois = said["Images"][0]["ROIs"] = change(said["Images"][0]["ROIs"])
        said["Images"][0]["NumberOfROIs"] = len(rois)
        with atomic(path) as temporary:
            temporary.write_bytes(plistlib.dumps(said))


def point_findings(root):
    """Two calcifications more, of one and of two points, on the lesion's outline."""
    _edit_outlines(root, lambda rois: rois + [{**rois[0], "Name": "Calcification", "NumberOfPoints": n, "Point_px": rois[0]["Point_px"][:n],
                                               "Point_mm": rois[0]["Point_mm"][:n]} for n in (1, 2)])


def odd_names(root):
    names = {"Asymmetry": "Assymetry", "Mass": "mass ", "Calcifications": "calcifications"}
    _edit_outlines(root, lambda rois: [*({**roi, "Name": names.get(roi["Name"], roi["Name"])} for roi in rois),
                                       {**rois[0], "Name": "Unnamed"}])


def roi_points(root):
    def change(roi):
        points = [point.translate(str.maketrans("()", "{}")) for point in roi["Point_px"]]
        return {**{key: value for key, value in roi.items() if not key.startswith("Point_")}, "ROIPoints": points}
    _edit_outlines(root, lambda rois: [change(roi) for roi in rois])


def damaged_xml(root):
    for path in sorted((root / "AllXML").glob("*.xml"))[1:2]:
        path.write_bytes(path.read_bytes()[:200])


def missing_xml(root):
    for path in sorted((root / "AllXML").glob("*.xml"))[:1]:
        path.unlink()


def pectoral_outlines(root):
    """A triangle in the corner of the chest wall, as {x, y} under ROIPoints."""
    for path in sorted((root / "AllDICOMs").glob("*_ML_*.dcm")):
        roi = {"Name": "Pectoral Muscle", "NumberOfPoints": 3, "ROIPoints": ["{0, 0}", "{90, 0}", "{0, 180}"]}
        with atomic(root / "PectoralMuscle" / "Pectoral Muscle XML" / f"{path.name.split('_')[0]}.xml") as temporary:
            temporary.write_bytes(plistlib.dumps({"Images": [{"ImageIndex": 0, "NumberOfROIs": 1, "ROIs": [roi]}]}))


def mlo_names(root):
    for path in sorted((root / "AllDICOMs").glob("*_ML_*.dcm")):
        path.rename(path.with_name(path.name.replace("_ML_", "_MLO_")))


def missing_image(root):
    sorted((root / "AllDICOMs").glob("*.dcm"))[-1].unlink()


def deeper_folder(root):
    deeper = root / "INbreast Release 1.0"
    deeper.mkdir()
    for path in [p for p in sorted(root.iterdir()) if p != deeper]:
        path.rename(deeper / path.name)


TRAPS = (view_fb, blank_acr, point_findings, odd_names, roi_points, damaged_xml, missing_xml, pectoral_outlines, mlo_names, missing_image,
         deeper_folder)
