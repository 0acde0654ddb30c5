"""Radiomic features: closed forms, the region they are measured in, and the copy that is kept on disk."""
import numpy as np
import pytest
from test_learner import write_cohort

from xmodal import config
from xmodal.config import Problem
from xmodal.imaging import radiomics
from xmodal.loaders import Images


@pytest.fixture
def table(home):
    return write_cohort(config.DATA / "lesson")


def test_there_are_102_features_and_those_with_a_closed_form_are_right():
    image = np.random.default_rng(0).integers(1, 256, (24, 24)).astype(np.uint8)
    image[:, 16:] = 0                                                    # background
    measured = radiomics.measure(image)
    inside = image[:, :16].astype(float)
    assert len(measured) == 102 and np.isfinite(list(measured.values())).all()
    assert {name.split("_")[0] for name in measured} == set(radiomics.FAMILIES)
    closed = {
        "firstorder_Mean": inside.mean(), "firstorder_Variance": inside.var(),
        "firstorder_Median": np.median(inside), "firstorder_Energy": (inside ** 2).sum(),
        "firstorder_Range": np.ptp(inside), "shape2D_PixelSurface": 24 * 16,
    }
    assert all(np.isclose(measured[name], value) for name, value in closed.items())
    levels = (image[:, :16] // 8).ravel()                                # fixed bins of 8 grey levels
    share = np.unique(levels, return_counts=True)[1] / levels.size
    assert np.isclose(measured["firstorder_Entropy"], -(share * np.log2(share)).sum())


def test_the_region_is_breast_or_tissue_and_never_empty():
    tile = np.full((24, 24, 3), 240, np.uint8)
    assert radiomics.region(tile).all(), "too little tissue: the whole tile"
    tile[:12] = (200, 100, 180)
    assert radiomics.region(tile)[:12].all() and not radiomics.region(tile)[12:].any()
    assert np.isclose(radiomics.grey(tile)[0, 0], 0.299 * 200 + 0.587 * 100 + 0.114 * 180)


def test_features_are_kept_for_the_same_arrays_and_do_not_see_outlines(table):
    folder = config.DATA / "lesson"
    path = folder / "radiomics" / "inbreast.parquet"
    rows = table[table.domain == "inbreast"].sample(frac=1, random_state=0)
    images = Images(folder)
    first = radiomics.features(rows, images)
    first_image = images.gather(rows.iloc[:1])[0]
    assert first.shape == (len(rows), 102)
    assert np.allclose(first.iloc[0], list(radiomics.measure(first_image).values()))
    written = path.stat().st_mtime_ns
    masks = folder / "masks" / "inbreast.npy"
    np.save(masks, 1 - np.load(masks))
    assert radiomics.features(rows, Images(folder)).equals(first) and path.stat().st_mtime_ns == written
    path.write_bytes(path.read_bytes()[:200])                            # damaged: computed again
    assert radiomics.features(rows, images).equals(first)
    pixels = folder / "images" / "inbreast.npy"
    np.save(pixels, 255 - np.load(pixels))                               # other pixels: computed again
    assert not radiomics.features(rows, Images(folder)).equals(first)


def test_other_code_computes_features_again(table, monkeypatch):
    rows = table[table.domain == "bach"].head(2)
    radiomics.features(rows, Images(config.DATA / "lesson"))
    path = config.DATA / "lesson" / "radiomics" / "bach.parquet"
    before = path.read_bytes()
    assert "xmodal.imaging.radiomics" in radiomics.code_of("xmodal.imaging.radiomics.measure")
    monkeypatch.setattr(radiomics, "code_of", lambda name: {name: "other"})
    radiomics.features(rows, Images(config.DATA / "lesson"))
    assert path.read_bytes() != before


def test_missing_arrays_are_named(table):
    (config.DATA / "lesson" / "images" / "bach.npy").unlink()
    with pytest.raises(Problem, match="bach.npy cannot be read"):
        radiomics.features(table, Images(config.DATA / "lesson"))
