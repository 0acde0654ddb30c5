"""The quirks of CAMELYON: each is a function that changes a written `Release`.

The first line of its docstring says what the files then hold.

`prepare` comes before the first of them. A quirk of CAMELYON16 takes the slides that it needs from the native
patients that were written, a quirk of CAMELYON17 from the stage table.
"""
import json
import shutil
import xml.etree.ElementTree as ElementTree
import zipfile

import numpy as np
import tifffile
from PIL import Image, ImageDraw

from xmodal.config import Problem
from xmodal.runtime.files import atomic

from . import histology_files
from .native import asap, copy, write_text


def prepare(release):
    """Saves all outlines without the XML declaration. Raises `Problem` if slides are too few for quirks."""
    _check_enough("CAMELYON16", len(_old(release, "tumor")), len(_old(release, "normal")), 3)
    _check_enough("CAMELYON17", len(_new(release, "macro")), len(_new(release, "negative")), 2)
    for path in [*_outlines(release, "CAMELYON16"), *_outlines(release, "CAMELYON17")]:
        _save(ElementTree.parse(path), path)


def _check_enough(part, tumours, normals, least):
    if tumours < least or normals < 2:
        raise Problem(f"{tumours} tumour and {normals} normal slides in {part} are too few for quirks; "
                      "draw more pairs.")


# ---- the slides that quirks take ---------------------------------------------------------------------------

def _old(release, kind):
    """Sorted stems of the slides of CAMELYON16 that are of a kind, as they were written."""
    return sorted(name for name in release.natives if name.startswith(f"{kind}_"))


def _new(release, *stages):
    """Names of the slides of CAMELYON17 that have one of the `stages`."""
    return [line[0] for line in _stages(release) if line[1] in stages]


def _stages(release):
    """The lines of the stage table, each a list of strings."""
    table = release.root / "CAMELYON17" / "stages.csv"
    return [line.split(",") for line in table.read_text().splitlines()]


def _outlines(release, part):
    return sorted((release.root / part / "annotations").glob("*.xml"))


def _save(tree, path):
    with atomic(path) as partial:
        tree.write(partial)


def _points(annotation):
    """The corners of an annotation as a list of [x, y]."""
    return [[float(point.get("X")), float(point.get("Y"))] for point in annotation.iter("Coordinate")]


# ---- outlines ----------------------------------------------------------------------------------------------

def odd_groups(release):
    """Groups of outlines are _0, _1 and metastases."""
    for part, groups in (("CAMELYON16", ("_0", "_1")), ("CAMELYON17", ("metastases",))):
        for path in _outlines(release, part):
            tree = ElementTree.parse(path)
            for number, annotation in enumerate(tree.getroot().iter("Annotation")):
                annotation.set("PartOfGroup", groups[number % len(groups)])
            _save(tree, path)


def excluded_groups(release):
    """A part of each outline is excluded, in the group _2 or normal."""
    _add_inner(release, "CAMELYON16", "_2")
    _add_inner(release, "CAMELYON17", "normal")


def unknown_group(release):
    """Every tumour slide has an outline in the group None too."""
    _add_inner(release, "CAMELYON16", "None")
    _add_inner(release, "CAMELYON17", "None")


def _add_inner(release, part, group):
    """Adds an outline of another group, inside the first outline of each file of a part."""
    for path in _outlines(release, part):
        tree = ElementTree.parse(path)
        annotations = tree.getroot().find("Annotations")
        points = np.array(_points(annotations.find("Annotation")))
        inner = asap([0.3 * points + 0.7 * points.mean(0)], group)
        annotations.append(ElementTree.fromstring(inner).find("Annotations/Annotation"))
        _save(tree, path)


# ---- CAMELYON16 --------------------------------------------------------------------------------------------

def _rename(release, stem, name):
    """Gives a slide of CAMELYON16 and its outlines another name, in the registry too."""
    for path in (_image(release, stem), release.root / "CAMELYON16" / "annotations" / f"{stem}.xml"):
        if path.exists():
            path.rename(path.with_stem(name))
    release.renamed[stem] = name


def _image(release, stem):
    return release.root / "CAMELYON16" / "images" / f"{stem}.tif"


def duplicate_slide(release):
    """A normal slide exists once more as test_049."""
    shutil.copy(_image(release, _old(release, "normal")[1]), _image(release, "test_049"))


def second_copy(release):
    """A slide lies in two folders."""
    stem = _old(release, "normal")[1]
    copy(_image(release, stem), release.root / "CAMELYON16" / "more" / f"{stem}.tif")


def mislabelled_slide(release):
    """The first tumour slide is tumor_111, and exists once more as normal_086."""
    stem = _old(release, "tumor")[0]
    shutil.copy(_image(release, stem), _image(release, "normal_086"))
    _rename(release, stem, "tumor_111")


def partial_outlines(release):
    """A tumour slide is tumor_110, and only one of its tumours is outlined."""
    stem = _old(release, "tumor")[1]
    path = release.root / "CAMELYON16" / "annotations" / f"{stem}.xml"
    tree = ElementTree.parse(path)
    annotations = tree.getroot().find("Annotations")
    groups = ("Tumor", "_0", "_1")
    tumours = [annotation for annotation in annotations if annotation.get("PartOfGroup") in groups]
    for annotation in tumours[1:]:
        annotations.remove(annotation)
    _save(tree, path)
    _rename(release, stem, "tumor_110")


def reference_key(release):
    """A tumour and a normal slide are test slides, whose labels are in reference.csv."""
    _rename(release, _old(release, "tumor")[2], "test_001")
    _rename(release, _old(release, "normal")[0], "test_002")
    key = "test_001,Tumor,IDC,Macro\ntest_002,Normal,IDC,None\n"
    write_text(release.root / "CAMELYON16" / "reference.csv", key)


# ---- CAMELYON17 --------------------------------------------------------------------------------------------

def _save_stages(release, lines):
    text = "".join(",".join(line) + "\n" for line in lines)
    write_text(release.root / "CAMELYON17" / "stages.csv", text)


def _tumours(release):
    return _new(release, "macro", "itc")                  # whether or not the quirk itc came before


def itc(release):
    """A slide of CAMELYON17 has isolated tumour cells."""
    first = _tumours(release)[0]
    lines = _stages(release)
    for line in lines:
        if line[0] == first:
            line[1] = "itc"
    _save_stages(release, lines)


def missing_outlines(release):
    """A tumour slide of CAMELYON17 has no outlines."""
    name = _tumours(release)[1]
    (release.root / "CAMELYON17" / "annotations" / name).with_suffix(".xml").unlink()
    release.renamed[name.split("_node_")[0]] = None


def unlabelled_slide(release):
    """A slide of CAMELYON17 is not in the stage table."""
    images = release.root / "CAMELYON17" / "images"
    shutil.copy(images / _new(release, "negative")[0], images / "patient_100_node_0.tif")


def missing_image(release):
    """A listed slide of CAMELYON17 is missing."""
    name = _new(release, "negative")[1]
    (release.root / "CAMELYON17" / "images" / name).unlink()
    release.renamed[name.split("_node_")[0]] = None


def stage_labels(release):
    """The stage table is stage_labels.csv, which has no centres."""
    _save_stages(release, [line[:2] for line in _stages(release)])
    table = release.root / "CAMELYON17" / "stages.csv"
    table.rename(table.with_name("stage_labels.csv"))


# ---- other forms of the same files -------------------------------------------------------------------------

def _groups(xml):
    """[(whether it is tumour, [[x, y], ...])] of an ASAP file, without the group None."""
    groups = []
    for annotation in ElementTree.parse(xml).getroot().iter("Annotation"):
        group = annotation.get("PartOfGroup")
        if group != "None":
            groups.append((group not in ("_2", "normal"), _points(annotation)))
    return groups


def _tumour_first(group):
    return not group[0]


def json_outlines(release):
    """Outlines of CAMELYON16 are JSON, not XML."""
    for path in _outlines(release, "CAMELYON16"):
        outlines = {"positive": [], "negative": []}
        for number, (tumour, points) in enumerate(_groups(path)):
            outline = {"name": f"Annotation {number}", "vertices": points}
            outlines["positive" if tumour else "negative"].append(outline)
        write_text(path.with_suffix(".json"), json.dumps(outlines))
        path.unlink()


def mask_outlines(release):
    """Outlines of CAMELYON17 are masks, not XML."""
    for path in _outlines(release, "CAMELYON17"):
        mask = Image.new("L", histology_files.SLIDE_SHAPE[::-1])
        pen = ImageDraw.Draw(mask)
        for tumour, points in sorted(_groups(path), key=_tumour_first):
            corners = [(x - 0.5, y - 0.5) for x, y in points]
            pen.polygon(corners, fill=1 if tumour else 2)
        with atomic(release.root / "CAMELYON17" / "masks" / f"{path.stem}_mask.tif") as partial:
            tifffile.imwrite(partial, np.asarray(mask), bigtiff=True, tile=(256, 256),
                             compression="adobe_deflate", metadata=None, software=False)
        path.unlink()


def capital_names(release):
    """Slides of CAMELYON16 are called Tumor_001.tif."""
    for path in sorted((release.root / "CAMELYON16" / "images").glob("*.tif")):
        path.rename(path.with_name(path.name.capitalize()))


def gigadb_layout(release):
    """CAMELYON16 lies in training/ and testing/, as in the archive of GigaDB."""
    old = release.root / "CAMELYON16"
    for path in sorted(old.rglob("*")):
        kind = path.name.lower().split("_")[0]
        section = release.root / ("testing" if kind == "test" or path.name == "reference.csv" else "training")
        by_suffix = {".tif": "images" if kind == "test" else kind, ".csv": "."}
        folder = by_suffix.get(path.suffix, "lesion_annotations")
        if path.is_file() and not (section / folder / path.name).exists():
            (section / folder).mkdir(parents=True, exist_ok=True)
            path.rename(section / folder / path.name)
    for name in ("images", "annotations"):
        (old / name).rmdir()


def zipped_annotations(release):
    """XML of CAMELYON16 lies in lesion_annotations.zip."""
    folders = [*release.root.rglob("annotations"), *release.root.rglob("lesion_annotations")]
    for folder in sorted(folders):
        if folder.parent.name == "CAMELYON17":
            continue
        archive_path = folder.with_name("lesion_annotations.zip")
        with atomic(archive_path) as partial, zipfile.ZipFile(partial, "w") as archive:
            for path in sorted(folder.glob("*.xml")):
                entry = zipfile.ZipInfo(path.name)        # without a time: the same files give the same bytes
                archive.writestr(entry, path.read_bytes())
                path.unlink()


# In this order.
QUIRKS = (odd_groups, excluded_groups, unknown_group, duplicate_slide, second_copy, mislabelled_slide,
          partial_outlines, reference_key, itc, missing_outlines, unlabelled_slide, missing_image,
          stage_labels, json_outlines, mask_outlines, capital_names, gigadb_layout, zipped_annotations)
