"""The outlines of CAMELYON's tumours: where they lie, and which of their groups is tumour.

They come as XML of ASAP, also in an archive like lesion_annotations.zip, as NCRF's JSON, or as masks.
"""
import re
import struct
import zipfile

from data_scripts import annotations
from data_scripts.archive import Archive
from data_scripts.indexing import unfinished
from xmodal.config import Problem

# Groups of outlines.
POSITIVE = {"tumor", "_0", "_1", "metastases", "positive"}
EXCLUDE = {"_2", "normal", "exclusion", "negative"}

def find(files):
    """{slide: path of its outlines} of paths of files.

    Where a slide has several, XML comes before archived XML, this before JSON, and this before a mask.
    Raises `Problem` if an archive cannot be read.
    """
    outlines = {}
    for path in files:
        if re.fullmatch(r".*_mask\.tiff?", path.name.lower()):
            outlines[path.stem.lower().removesuffix("_mask")] = path
    outlines |= _by_stem([path for path in files if _is_outline(path)], ".json")
    for path in files:
        if re.fullmatch(r".*annotations.*\.zip", path.name.lower()):
            outlines |= _archived(path)
    return outlines | _by_stem(files, ".xml")


def _is_outline(path):
    """False for JSON that tells something else of a slide, such as its metadata."""
    return path.suffix.lower() != ".json" or annotations.has_outlines(path)


def _by_stem(files, suffix):
    return {path.stem.lower(): path for path in files if path.suffix.lower() == suffix}


def _archived(path):
    """{slide: `zipfile.Path` of its XML} in an archive. Raises `Problem` if it is none."""
    try:
        archive = Archive(path)
    except Problem:
        raise
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, struct.error) as error:
        raise Problem(f"{path} is not an archive ({error}); fetch it again.") from None
    members = {}
    for name in archive.namelist():
        member = zipfile.Path(archive, name)
        if name.lower().endswith(".xml") and not unfinished(member.name):  # macOS packs its ._ files too
            members[member.stem.lower()] = member
    return members


def polygons(path, traps):
    """{"polygons": [...], "exclude": [...]} of the outlines in `path`: lists of [x, y], level 0."""
    outlines = {"polygons": [], "exclude": []}
    for group, points in annotations.read(path):
        if len(points) < 3:
            traps["short_outline"] += 1
        elif group in POSITIVE:
            outlines["polygons"].append(points)
        elif group in EXCLUDE:
            traps["excluded_groups"] += 1
            outlines["exclude"].append(points)
        else:
            traps["unknown_group"] += 1
    traps["mask_outlines"] += path.name.lower().endswith((".tif", ".tiff"))
    traps["json_outlines"] += path.name.lower().endswith(".json")
    return outlines
