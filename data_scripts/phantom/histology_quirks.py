"""Gives the phantom's histology the traps of the real BACH and CAMELYON (see `quirks.QUIRKS`), after it has been written.

What a trap takes away, and what it renames, is returned, so that the registry lists what can be found.
"""
import shutil
import xml.etree.ElementTree as ElementTree
import zipfile
from json import dumps
from xml.sax.saxutils import quoteattr

import numpy as np
import tifffile
from PIL import Image, ImageDraw

from xmodal.config import Problem
from xmodal.runtime.files import atomic

from . import histology_files as files
from .histology import STYLES, draw
from .patients import cohort, generator

SLIDES = {"several_classes", "label_in_text", "negative_roa", "nested_outlines", "unlabelled_outline", "unannotated_wsi"}


# ---- BACH --------------------------------------------------------------------------------------------------------

def bach(home, quirks, seed):
    """Changes the files in `home`, ICIAR2018_BACH_Challenge; returns the images that are gone, by name."""
    photos, gone = home / "Photos", set()
    table = photos / "microscopy_ground_truth.csv"
    lines = table.read_text().splitlines(keepends=True)
    place = lambda line: photos / line.strip().split(",")[1] / line.split(",")[0]
    if "missing_image" in quirks:
        place(lines[0]).unlink()
        gone.add(place(lines[0]).stem)
    if "unlisted_image" in quirks:
        shutil.copy(place(lines[1]), place(lines[1]).with_name("x001.tif"))
    if "test_set" in quirks:
        _copy(place(lines[1]), home.with_name(f"{home.name}_TestDataset") / "Photos" / "test0.tif")
    if "listed_twice" in quirks:
        files.write_text(table, "".join([*lines, lines[-1]]))
    if SLIDES & set(quirks):
        _outlined_slides(home / "WSI", quirks, seed)
    if "deeper_folder" in quirks:
        home.rename(home.with_name("deeper"))
        home.mkdir()
        home.with_name("deeper").rename(home / home.name)
    return gone


def _outlined_slides(folder, quirks, seed):
    """A01 and A02, of patients whom no registry lists: carcinoma in situ or invasive on the left, benign disease on the right."""
    people, (height, width) = cohort(seed + 1, 0, 8), files.SLIDE_SHAPE
    for number, label in ((2, "Carcinoma in situ"), (3, "INVASIVE carcinoma")):
        row = people[people.diagnosis == number].iloc[0].to_dict()
        halves = [draw({**row, "diagnosis": diagnosis}, STYLES["bach"], generator(seed, "bach", "WSI", number, diagnosis),
                       (height, width // 2), files.SLIDE_MPP) for diagnosis in (number, 1)]
        rgb = np.concatenate([half for half, _ in halves], axis=1)
        regions = [(label, line, False) for line in files.polygons(halves[0][1])] + [("benign", _box(0.55, 0.05, 0.95, 0.95), False)]
        if "negative_roa" in quirks:
            regions.append(("", _box(0.6, 0.1, 0.7, 0.3), True))
        if "nested_outlines" in quirks:
            other = 5 - number
            y, x = int(0.5 * height), int(0.7 * width)
            patch, _ = draw({**row, "diagnosis": other}, STYLES["bach"], generator(seed, "bach", "WSI", number, other),
                            (height // 4, width // 8), files.SLIDE_MPP)
            rgb[y:y + len(patch), x:x + patch.shape[1]] = patch
            regions.append(({2: "In Situ", 3: "Invasive"}[other], _box(0.7, 0.5, 0.825, 0.75), False))
        if "unlabelled_outline" in quirks:
            regions.append(("", _box(0.6, 0.8, 0.7, 0.9), False))
        path = folder / f"A{number - 1:02d}.svs"
        with atomic(path) as partial:
            files.pyramid(partial, rgb, files.SLIDE_MPP, 90)
        files.write_text(path.with_suffix(".xml"), imagescope(regions, "label_in_text" in quirks))
    if "unannotated_wsi" in quirks:
        _copy(folder / "A01.svs", folder / "11.svs")


def _box(x0, y0, x1, y1):
    """Corners of a box given in shares of the slide."""
    height, width = files.SLIDE_SHAPE
    return np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]]) * (width, height)


def imagescope(regions, in_text):
    """Aperio ImageScope XML of (label, polygon, hole) in level-0 pixels; the label is the Text of a Region or an Attribute's Value."""
    out = [f'<?xml version="1.0" encoding="UTF-8"?>\n<Annotations MicronsPerPixel="{files.SLIDE_MPP:f}">\n'
           '<Annotation Id="1" Name="" Type="4" LineColor="65280" Visible="1"><Attributes/><Regions>\n']
    for number, (label, line, hole) in enumerate(regions, 1):
        text, value = (quoteattr(label), '""') if in_text else ('""', quoteattr(label))
        out.append(f'<Region Id="{number}" Type="0" Text={text} NegativeROA="{hole:d}"><Attributes>'
                   f'<Attribute Name="1" Id="0" Value={value}/></Attributes><Vertices>\n')
        out += [f'<Vertex X="{x:.4f}" Y="{y:.4f}" Z="0"/>\n' for x, y in line]
        out.append("</Vertices></Region>\n")
    return "".join([*out, "</Regions><Plots/></Annotation>\n</Annotations>\n"])


# ---- CAMELYON ----------------------------------------------------------------------------------------------------

def camelyon(root, quirks):
    """Changes the files in `root`; returns {native patient: its new name, or None where it is gone}."""
    old, new, renamed = root / "CAMELYON16", root / "CAMELYON17", {}
    _outlines(old, "_2", ("_0", "_1"), quirks)
    _outlines(new, "normal", ("metastases",), quirks)
    _old_slides(old, quirks, renamed)
    _new_slides(new, quirks, renamed)
    if "json_outlines" in quirks:
        _to_json(old)
    if "mask_outlines" in quirks:
        _to_masks(new)
    if "capital_names" in quirks:
        for path in sorted((old / "images").glob("*.tif")):
            path.rename(path.with_name(path.name.capitalize()))
    if "gigadb_layout" in quirks:
        _gigadb(root, old)
    if "zipped_annotations" in quirks:
        for folder in sorted(path for name in ("annotations", "lesion_annotations") for path in root.rglob(name) if path.parent != new):
            _zip(folder)
    return renamed


def _outlines(part, excluded, groups, quirks):
    """Groups of the ASAP outlines of a part."""
    for path in sorted((part / "annotations").glob("*.xml")):
        tree = ElementTree.parse(path)
        home = tree.getroot().find("Annotations")
        drawn = home.findall("Annotation")
        points = np.array([[float(p.get("X")), float(p.get("Y"))] for p in drawn[0].iter("Coordinate")])
        for number, found in enumerate(drawn):
            if "odd_groups" in quirks:
                found.set("PartOfGroup", groups[number % len(groups)])
        for name, group in (("excluded_groups", excluded), ("unknown_group", "None")):
            if name in quirks:
                inner = files.asap([0.3 * points + 0.7 * points.mean(0)], group)
                home.append(ElementTree.fromstring(inner).find("Annotations/Annotation"))
        with atomic(path) as partial:
            tree.write(partial)


def _old_slides(part, quirks, renamed):
    """Slides of CAMELYON16 with names that mean something."""
    images = part / "images"
    tumours, normals = (sorted(path.stem for path in images.glob(f"{kind}_*.tif")) for kind in ("tumor", "normal"))
    if len(tumours) < 3 or len(normals) < 2:
        raise Problem(f"{len(tumours)} tumour and {len(normals)} normal slides in CAMELYON16 are too few for quirks; draw more pairs.")
    if "duplicate_slide" in quirks:
        shutil.copy(images / f"{normals[1]}.tif", images / "test_049.tif")
    if "second_copy" in quirks:
        _copy(images / f"{normals[1]}.tif", part / "more" / f"{normals[1]}.tif")
    if "mislabelled_slide" in quirks:
        shutil.copy(images / f"{tumours[0]}.tif", images / "normal_086.tif")
        renamed[tumours[0]] = "tumor_111"
    if "partial_outlines" in quirks:
        tree = ElementTree.parse(part / "annotations" / f"{tumours[1]}.xml")
        home = tree.getroot().find("Annotations")
        for found in [found for found in home if found.get("PartOfGroup") in ("Tumor", "_0", "_1")][1:]:
            home.remove(found)
        with atomic(part / "annotations" / f"{tumours[1]}.xml") as partial:
            tree.write(partial)
        renamed[tumours[1]] = "tumor_110"
    if "reference_key" in quirks:
        renamed |= {tumours[2]: "test_001", normals[0]: "test_002"}
        files.write_text(part / "reference.csv", "test_001,Tumor,IDC,Macro\ntest_002,Normal,IDC,None\n")
    for stem, name in renamed.items():
        for path in (images / f"{stem}.tif", part / "annotations" / f"{stem}.xml"):
            if path.exists():
                path.rename(path.with_stem(name))


def _new_slides(part, quirks, renamed):
    """Slides and stages of CAMELYON17."""
    table, images = part / "stages.csv", part / "images"
    lines = [line.split(",") for line in table.read_text().splitlines()]
    positive = [line for line in lines if line[1] == "macro"]
    negative = [line for line in lines if line[1] == "negative"]
    if len(positive) < 2 or len(negative) < 2:
        raise Problem(f"{len(positive)} tumour and {len(negative)} normal slides in CAMELYON17 are too few for quirks; draw more pairs.")
    if "itc" in quirks:
        positive[0][1] = "itc"
    if "missing_outlines" in quirks:
        (part / "annotations" / positive[1][0]).with_suffix(".xml").unlink()
        renamed[positive[1][0][:11]] = None
    if "unlabelled_slide" in quirks:
        shutil.copy(images / negative[0][0], images / "patient_100_node_0.tif")
    if "missing_image" in quirks:
        (images / negative[1][0]).unlink()
        renamed[negative[1][0][:11]] = None
    if "stage_labels" in quirks:
        lines, table = [line[:2] for line in lines], table.rename(table.with_name("stage_labels.csv"))
    files.write_text(table, "".join(",".join(line) + "\n" for line in lines))


def _groups(xml):
    """[(whether it is tumour, (n, 2) points)] of an ASAP file; what is neither is left out."""
    found = [(a.get("PartOfGroup"), [[float(p.get("X")), float(p.get("Y"))] for p in a.iter("Coordinate")])
             for a in ElementTree.parse(xml).getroot().iter("Annotation")]
    return [(group not in ("_2", "normal"), points) for group, points in found if group != "None"]


def _to_json(part):
    for path in sorted((part / "annotations").glob("*.xml")):
        said = {"positive": [], "negative": []}
        for number, (tumour, points) in enumerate(_groups(path)):
            said["positive" if tumour else "negative"].append({"name": f"Annotation {number}", "vertices": points})
        files.write_text(path.with_suffix(".json"), dumps(said))
        path.unlink()


def _to_masks(part):
    for path in sorted((part / "annotations").glob("*.xml")):
        mask = Image.new("L", files.SLIDE_SHAPE[::-1])
        for tumour, points in sorted(_groups(path), key=lambda group: not group[0]):
            ImageDraw.Draw(mask).polygon([(x - 0.5, y - 0.5) for x, y in points], fill=1 if tumour else 2)
        with atomic(part / "masks" / f"{path.stem}_mask.tif") as partial:
            tifffile.imwrite(partial, np.asarray(mask), bigtiff=True, tile=(256, 256), compression="adobe_deflate", metadata=None,
                             software=False)
        path.unlink()


def _gigadb(root, old):
    """Puts CAMELYON16 where the archive of GigaDB has it."""
    for path in sorted(old.rglob("*")):
        kind = path.name.lower().split("_")[0]
        section = root / ("testing" if kind == "test" or path.name == "reference.csv" else "training")
        folder = {".tif": "images" if kind == "test" else kind, ".csv": "."}.get(path.suffix, "lesion_annotations")
        if path.is_file() and not (section / folder / path.name).exists():
            (section / folder).mkdir(parents=True, exist_ok=True)
            path.rename(section / folder / path.name)
    for name in ("images", "annotations"):
        (old / name).rmdir()


def _zip(folder):
    """Puts the XML of a folder into lesion_annotations.zip beside it; the same files give the same bytes."""
    with atomic(folder.with_name("lesion_annotations.zip")) as partial, zipfile.ZipFile(partial, "w") as archive:
        for path in sorted(folder.glob("*.xml")):
            archive.writestr(zipfile.ZipInfo(path.name), path.read_bytes())
            path.unlink()


def _copy(source, target):
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(source, target)
