"""The quirks of BACH: each is a function that changes a written `Release`.

The first line of its docstring says what the files then hold.

The phantom has no slides with outlines, so each quirk of such slides writes them first: A01 and A02, of
patients whom no registry lists. Their left half is carcinoma in situ or invasive carcinoma, their right half
is benign disease.
"""
import re
import shutil
from xml.sax.saxutils import quoteattr

import numpy as np

from xmodal.runtime.files import atomic

from . import histology_files
from .histology import STYLES, draw
from .native import copy, polygons, pyramid, write_text
from .patients import cohort, generator

SLIDES = {"A01": 2, "A02": 3}                                    # slide -> diagnosis of its left half
LABELS = {2: "Carcinoma in situ", 3: "INVASIVE carcinoma"}
INNER = {"A01": (3, "Invasive"), "A02": (2, "In Situ")}          # of the outline within the benign half


# ---- fields of view ----------------------------------------------------------------------------------------

def _home(release):
    return release.root / "ICIAR2018_BACH_Challenge"


def _lines(release):
    return (_home(release) / "Photos" / "microscopy_ground_truth.csv").read_text().splitlines(keepends=True)


def _image(release, line):
    """Path of the image that a line of the table lists."""
    name, label = line.strip().split(",")
    return _home(release) / "Photos" / label / name


def missing_image(release):
    """One listed image is missing."""
    path = _image(release, _lines(release)[0])
    path.unlink()
    release.renamed[path.stem] = None


def unlisted_image(release):
    """One image is not listed."""
    path = _image(release, _lines(release)[1])
    shutil.copy(path, path.with_name("x001.tif"))


def test_set(release):
    """There is a test set, which has no table."""
    home = _home(release)
    target = home.with_name(f"{home.name}_TestDataset") / "Photos" / "test0.tif"
    copy(_image(release, _lines(release)[1]), target)


def listed_twice(release):
    """One image is listed twice."""
    lines = _lines(release)
    write_text(_home(release) / "Photos" / "microscopy_ground_truth.csv", "".join([*lines, lines[-1]]))


# ---- slides ------------------------------------------------------------------------------------------------

def several_classes(release):
    """There are slides with outlines, each of two classes."""
    for slide, diagnosis in SLIDES.items():
        path = _slide(release, slide)
        if path.exists():
            continue
        rgb, tumour = _draw_slide(release, diagnosis)
        _save_slide(path, rgb)
        write_text(path.with_suffix(".xml"), IMAGESCOPE_HEAD + IMAGESCOPE_TAIL)
        for line in polygons(tumour):
            _add_region(path, line, LABELS[diagnosis])
        _add_region(path, _box(0.55, 0.05, 0.95, 0.95), "benign")


def negative_roa(release):
    """There are slides with outlines, whose benign outlines have a hole."""
    several_classes(release)
    for slide in SLIDES:
        _add_region(_slide(release, slide), _box(0.6, 0.1, 0.7, 0.3), hole=True)


def nested_outlines(release):
    """There are slides with outlines, and an outline of a third class inside the benign outline."""
    several_classes(release)
    height, width = histology_files.SLIDE_SHAPE
    top = int(0.5 * height)
    left = int(0.7 * width)
    for slide, diagnosis in SLIDES.items():
        inner, label = INNER[slide]
        rng = generator(release.seed, "bach", "WSI", diagnosis, inner)
        patch, _ = draw(_patient(release, diagnosis, inner), STYLES["bach"], rng, (height // 4, width // 8),
                        histology_files.SLIDE_MPP)
        rgb, _ = _draw_slide(release, diagnosis)          # drawn anew, since the file's JPEG loses details
        rgb[top:top + patch.shape[0], left:left + patch.shape[1]] = patch
        _save_slide(_slide(release, slide), rgb)
        _add_region(_slide(release, slide), _box(0.7, 0.5, 0.825, 0.75), label)


def unlabelled_outline(release):
    """There are slides with outlines, one of which says no class."""
    several_classes(release)
    for slide in SLIDES:
        _add_region(_slide(release, slide), _box(0.6, 0.8, 0.7, 0.9))


def label_in_text(release):
    """There are slides with outlines, whose labels are the Text of a Region, not an Attribute's Value."""
    several_classes(release)
    for slide in SLIDES:
        path = _slide(release, slide).with_suffix(".xml")
        value = re.compile(r'Text="" (NegativeROA=[^>]*><Attributes><Attribute [^>]*)Value=("[^"]*")')
        write_text(path, value.sub(r'Text=\2 \1Value=""', path.read_text()))


def unannotated_wsi(release):
    """There are slides with outlines, and a slide without outlines."""
    several_classes(release)
    copy(_slide(release, "A01"), _slide(release, "11"))


def deeper_folder(release):
    """Everything lies in one folder more, as some tools unpack the archive."""
    home = _home(release)
    deeper = home.rename(home.with_name("deeper"))
    home.mkdir()
    deeper.rename(home / home.name)


def _slide(release, name):
    return _home(release) / "WSI" / f"{name}.svs"


def _patient(release, number, diagnosis):
    """The latents of a patient with the diagnosis `number`, under another diagnosis."""
    people = cohort(release.seed + 1, 0, 8)
    return {**people[people.diagnosis == number].iloc[0].to_dict(), "diagnosis": diagnosis}


def _draw_slide(release, diagnosis):
    """The RGB picture of a slide, and the tumour mask of its left half."""
    height, width = histology_files.SLIDE_SHAPE
    halves = []
    for drawn in (diagnosis, 1):
        rng = generator(release.seed, "bach", "WSI", diagnosis, drawn)
        row = _patient(release, diagnosis, drawn)
        halves.append(draw(row, STYLES["bach"], rng, (height, width // 2), histology_files.SLIDE_MPP))
    (left, tumour), (right, _) = halves
    return np.concatenate([left, right], axis=1), tumour


def _save_slide(path, rgb):
    with atomic(path) as partial:
        pyramid(partial, rgb, histology_files.SLIDE_MPP, 90)


def _box(x0, y0, x1, y1):
    """Corners of a box given in shares of the slide."""
    height, width = histology_files.SLIDE_SHAPE
    return np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]]) * (width, height)


# ---- Aperio ImageScope -------------------------------------------------------------------------------------

IMAGESCOPE_HEAD = (f'<?xml version="1.0" encoding="UTF-8"?>\n'
                   f'<Annotations MicronsPerPixel="{histology_files.SLIDE_MPP:f}">\n'
                   '<Annotation Id="1" Name="" Type="4" LineColor="65280" Visible="1"><Attributes/>'
                   '<Regions>\n')
IMAGESCOPE_TAIL = "</Regions><Plots/></Annotation>\n</Annotations>\n"


def _add_region(slide, line, label="", hole=False):
    """Adds a polygon, (n, 2) in level-0 pixels, to the slide's outlines; a Value in the file is its label."""
    path = slide.with_suffix(".xml")
    text = path.read_text().removesuffix(IMAGESCOPE_TAIL)
    number = text.count("<Region ") + 1
    region = [f'<Region Id="{number}" Type="0" Text="" NegativeROA="{hole:d}"><Attributes>'
              f'<Attribute Name="1" Id="0" Value={quoteattr(label)}/></Attributes><Vertices>\n']
    region += [f'<Vertex X="{x:.4f}" Y="{y:.4f}" Z="0"/>\n' for x, y in line]
    region.append("</Vertices></Region>\n")
    write_text(path, text + "".join(region) + IMAGESCOPE_TAIL)


# In this order.
QUIRKS = (missing_image, unlisted_image, test_set, listed_twice, several_classes, negative_roa,
          nested_outlines, unlabelled_outline, label_in_text, unannotated_wsi, deeper_folder)
