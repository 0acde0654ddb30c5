"""Outlines of slides: damage is told in one sentence, and a mask is traced with its holes."""
import json
from collections import Counter

import numpy as np
import pytest
import tifffile

from data_scripts import annotations, camelyon_outlines
from slide_copies import asap, put
from xmodal.config import HOME, Problem
from xmodal.imaging import slides as xslides

OFFICIAL = HOME.parent / "shared" / "data" / "camelyon"

official = pytest.mark.skipif(
    not OFFICIAL.is_dir(), reason="the official tables are not in ../shared/data/camelyon"
)


@pytest.mark.parametrize(
    "name, text",
    (
        ("a.xml", asap("Tumor").replace('X="9.5"', 'X="nan"')),
        ("a.xml", asap("Tumor").replace('Order="1"', "")),
        ("a.xml", "no xml"),
        ("a.xml", '<?xml version="1.0" encoding="klingon"?><Annotations/>'),
        ("a.json", "[]"),
        ("a.json", "[" * 100_000),
        ("a.json", '{"positive": [{"vertices": [[1]]}], "negative": []}'),
        ("a.tif", "no tiff"),
    ),
)
def test_damaged_outlines_are_a_problem(tmp_path, name, text):
    put(tmp_path / name, text)
    with pytest.raises(Problem, match=f"{name} is damaged"):
        annotations.read(tmp_path / name)


@pytest.mark.parametrize("levels", (1, 3))
def test_a_mask_is_traced_with_its_holes(tmp_path, monkeypatch, levels):
    """What is traced and drawn again is what was given, also from a coarser level of a pyramid."""
    mask = np.zeros((512, 768), np.uint8)
    mask[96:320, 64:512] = 1
    mask[160:224, 128:256] = 0
    mask[256:288, 320:448] = 2
    monkeypatch.setattr(annotations, "FINE", 768 >> levels - 1)
    with tifffile.TiffWriter(tmp_path / "a_mask.tif") as tiff:
        for k in range(levels):
            tiff.write(
                mask[:: 2**k, :: 2**k],
                tile=(64, 64),
                subfiletype=k > 0,
                photometric="minisblack",
                metadata=None,
            )
    outlines = annotations.read(tmp_path / "a_mask.tif")
    assert sorted(group for group, _ in outlines) == ["negative", "negative", "positive"]
    polygons = camelyon_outlines.polygons(tmp_path / "a_mask.tif", Counter())
    drawn = xslides.tumour_mask(json.dumps(polygons), mask.shape, 1)
    assert (drawn == (mask == 1)).mean() > 0.99
    tifffile.imwrite(tmp_path / "b_mask.tif", mask[::4, ::4] * 100)
    with pytest.raises(Problem, match="holds the value 200"):
        annotations.read(tmp_path / "b_mask.tif")


def test_a_mask_whose_levels_are_filled_up_to_whole_tiles_is_not_shifted(tmp_path, monkeypatch):
    """1000 x 1500 pixels halved are 500 x 750, and stored as 512 x 768; the lesion lies in the far corner."""
    mask = np.zeros((1000, 1500), np.uint8)
    mask[840:960, 1300:1440] = 1
    half = np.pad(mask[::2, ::2], [(0, 12), (0, 18)])
    monkeypatch.setattr(annotations, "FINE", 800)
    with tifffile.TiffWriter(tmp_path / "a_mask.tif") as tiff:
        for level, kind in ((mask, 0), (half, 1)):
            tiff.write(level, tile=(256, 256), subfiletype=kind, photometric="minisblack", metadata=None)
    ((group, points),) = annotations.read(tmp_path / "a_mask.tif")
    drawn = xslides.tumour_mask(json.dumps({"polygons": [points]}), mask.shape, 1)
    assert group == "positive" and (drawn & (mask == 1)).sum() > 0.97 * (drawn | (mask == 1)).sum()


@official
def test_a_genuine_asap_file():
    """Three polygons; what is drawn of them has the area that their corners give."""
    outlines = annotations.read(OFFICIAL / "patient_004_node_4.xml")
    assert [group for group, _ in outlines] == ["tumor"] * 3
    for _, points in outlines:
        x, y = (np.array(points) - np.min(points, axis=0) + 10).T
        area = 0.5 * abs(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1)))
        polygon = json.dumps({"polygons": [np.column_stack([x, y]).tolist()]})
        drawn = xslides.tumour_mask(polygon, (int(y.max()) + 20, int(x.max()) + 20), 1)
        assert drawn.sum() == pytest.approx(area, rel=0.01)
