"""Outlines of slides: damage is told in one sentence, and a mask is traced with its holes."""
import json
from collections import Counter

import numpy as np
import pytest
import tifffile

from data_scripts import annotations, camelyon_outlines
from slide_copies import IMAGESCOPE, asap, put
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
        ("a.xml", '<!DOCTYPE a [<!ENTITY e "x">]>' + asap("Tumor")),
        ("a.json", '{"type": "FeatureCollection"}'),
    ),
)
def test_damaged_outlines_are_a_problem(tmp_path, name, text):
    put(tmp_path / name, text)
    with pytest.raises(Problem, match=f"{name} is damaged"):
        annotations.read(tmp_path / name)


def test_a_chain_of_entities_is_refused_before_it_grows(tmp_path):
    """Each of 100,000 entities holds the next one: to follow them ends the process."""
    chain = "".join(f'<!ENTITY e{k} "&e{k + 1};">' for k in range(100_000))
    text = asap("Tumor").replace('Name="a"', 'Name="&e0;"')
    put(tmp_path / "a.xml", f'<!DOCTYPE a [{chain}<!ENTITY e100000 "x">]>{text}')
    with pytest.raises(Problem, match="a.xml is damaged"):
        annotations.read(tmp_path / "a.xml")


@pytest.mark.parametrize("kind, areas", (
    ("Polygon", 1), ("Spline", 1), ("Rectangle", 1), ("Dot", 0), ("PointSet", 0), ("Measurement", 0),
))
def test_what_encloses_nothing_in_asap_has_no_area(tmp_path, kind, areas):
    put(tmp_path / "a.xml", asap("Tumor").replace("Polygon", kind))
    traps = Counter()
    polygons = camelyon_outlines.polygons(tmp_path / "a.xml", traps)["polygons"]
    assert len(polygons) == areas and traps["short_outline"] == 1 - areas


def of_type(kind, *points):
    """The text of an ImageScope file with one region of a Type and these vertices."""
    corners = "".join(f'<Vertex X="{x}" Y="{y}"/>' for x, y in points)
    return IMAGESCOPE.format(f'<Region Type="{kind}" Text="tumor"><Vertices>{corners}</Vertices></Region>')


@pytest.mark.parametrize("kind, points, area", (
    (0, ((10, 20), (90, 20), (90, 60), (10, 60)), 80 * 40),
    (1, ((10, 20), (90, 20), (90, 60), (10, 60)), 80 * 40),
    (1, ((10, 20), (90, 60)), 80 * 40),
    (2, ((10, 20), (90, 60)), np.pi * 40 * 20),
    (2, ((10, 20), (90, 20), (90, 60), (10, 60)), np.pi * 40 * 20),
    (3, ((10, 20), (90, 60)), 0),
    (3, ((10, 20), (90, 60), (20, 60)), 0),
    (4, ((10, 20), (90, 60)), 0),
))
def test_regions_of_imagescope_by_their_type(tmp_path, kind, points, area):
    put(tmp_path / "a.xml", of_type(kind, *points))
    ((group, outline),) = annotations.read(tmp_path / "a.xml")
    drawn = xslides.tumour_mask(json.dumps({"polygons": [outline]}), (100, 100), 1)
    assert group == "tumor" and drawn.sum() == pytest.approx(area, rel=0.05)


def test_other_json_beside_a_slide_is_no_outline(tmp_path):
    """Metadata and drawings of another program are passed over; JSON that is cut short is named."""
    put(tmp_path / "tumor_001_mask.tif")
    for text in ('{"scanner": "x"}', "[]", '{"type": "FeatureCollection", "features": []}'):
        put(tmp_path / "tumor_001.json", text)
        files = sorted(tmp_path.iterdir())
        assert camelyon_outlines.find(files) == {"tumor_001": tmp_path / "tumor_001_mask.tif"}
    for text in ('{"positive": [', '{"positive": []}'):
        put(tmp_path / "tumor_001.json", text)
        assert camelyon_outlines.find(files) == {"tumor_001": tmp_path / "tumor_001.json"}


def test_a_mask_of_noise_is_refused_and_not_traced_for_hours(tmp_path):
    noise = np.random.default_rng(0).integers(0, 2, (1024, 1024), np.uint8)
    tifffile.imwrite(tmp_path / "a_mask.tif", noise)
    with pytest.raises(Problem, match="border of its tumour"):
        annotations.read(tmp_path / "a_mask.tif")


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
