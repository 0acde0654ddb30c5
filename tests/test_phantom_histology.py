"""The histology phantom: what is drawn follows the patient, the files follow the native layouts, a seed gives the same bytes."""
import hashlib
import xml.etree.ElementTree as ElementTree

import numpy as np
import openslide
import pandas as pd
import pytest
import tifffile

from data_scripts.phantom import glands, histology_files, patients
from data_scripts.phantom.canvas import Canvas
from data_scripts.phantom.histology import STYLES, draw

FIELD = (384, 512), 0.84


@pytest.fixture(scope="module")
def people():
    return patients.cohort(3, pairs=2, singles=2)


@pytest.fixture(scope="module")
def written(people, tmp_path_factory):
    """(root, registry) of a small phantom, slides shortened to one quarter so that the test stays quick."""
    root = tmp_path_factory.mktemp("native")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(histology_files, "BACH_SHAPE", (192, 256))
        patch.setattr(histology_files, "SLIDE_SHAPE", (512, 512))
        registry = histology_files.write_bach(root / "bach", people, 3, 1) + histology_files.write_camelyon(root / "camelyon", people, 3, 1)
    return root, pd.DataFrame(registry)


def one(diagnosis):
    everyone = patients.cohort(3)
    return everyone[everyone.diagnosis == diagnosis].iloc[0].to_dict()


def digest(root):
    return {str(p.relative_to(root)): hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(root.rglob("*")) if p.is_file()}


@pytest.mark.parametrize("style", STYLES)
def test_a_picture_has_the_asked_shape_and_is_the_same_for_the_same_generator(style):
    row = one(3)
    first, mask = draw(row, STYLES[style], patients.generator(1, "a"), (200, 300), 1.3)
    again, _ = draw(row, STYLES[style], patients.generator(1, "a"), (200, 300), 1.3)
    other, _ = draw(row, STYLES[style], patients.generator(2, "a"), (200, 300), 1.3)
    assert first.shape == (200, 300, 3) and first.dtype == np.uint8 and mask.shape == (200, 300) and mask.dtype == bool
    assert (first == again).all() and (first != other).any()


@pytest.mark.parametrize("mpp", (0.25, 0.42, 0.5, 0.84, 1.0, 2.67))
def test_any_pixel_size_shows_the_same_field(mpp):
    size = round(256 / mpp)
    rgb, _ = draw(one(1), STYLES["pretrain"], patients.generator(5), (size, size), mpp)
    assert rgb.shape == (size, size, 3) and rgb.std() > 10


def test_only_in_situ_and_invasive_disease_has_a_tumour_mask():
    shares = [draw(one(d), STYLES["camelyon"], patients.generator(1, d), (384, 384), 2.5)[1].mean() for d in range(4)]
    assert shares[:2] == [0, 0] and min(shares[2:]) > 0.1


def test_slides_lie_on_glass_and_fields_of_view_do_not():
    slide, mask = draw(one(3), STYLES["camelyon"], patients.generator(1), (384, 384), 2.5)
    field, _ = draw(one(3), STYLES["bach"], patients.generator(1), *FIELD)
    corners = slide[[0, 0, -1, -1], [0, -1, 0, -1]].astype(int)
    assert np.median(corners) > 225 and np.ptp(np.median(corners, axis=0)) < 5
    assert slide[mask].mean() < 0.85 * np.median(corners)
    assert (field.mean(-1) < 225).mean() > 0.6


def test_malignant_nuclei_are_larger_and_more_varied():
    """Half axes in um of the epithelial nuclei, which is what tells invasive carcinoma from its look-alike, adenosis."""
    def axes(diagnosis, atypia, size):
        c = Canvas((400, 400), 0.9, patients.generator(1))
        c.h, c.e, c.free = np.zeros((3, 400, 400), np.float32)[0], np.zeros((400, 400), np.float32), np.ones((400, 400), bool)
        glands._cords(c, np.ones((400, 400), bool), 0.5, 0.3, size, atypia)
        return np.concatenate(c.nuclei)[:, 2]
    bland, pleomorphic = axes(1, 0.1, 2.9), axes(3, 0.9, 4.5)
    assert np.mean(pleomorphic) > 1.3 * np.mean(bland) and np.std(pleomorphic) / np.mean(pleomorphic) > 1.5 * np.std(bland) / np.mean(bland)


def test_stain_differs_between_sites_and_between_slides():
    def colour(site, seed):
        return draw(one(1), STYLES[site], patients.generator(seed, site), *FIELD)[0].reshape(-1, 3).mean(0)
    bach, pretrain = np.array([colour("bach", s) for s in range(3)]), np.array([colour("pretrain", s) for s in range(3)])
    assert np.abs(bach.mean(0) - pretrain.mean(0)).max() > 4 and bach.std(0).max() > 2


def test_bach_layout(written, people):
    root, registry = written
    photos = root / "bach" / "ICIAR2018_BACH_Challenge" / "Photos"
    table = pd.read_csv(photos / "microscopy_ground_truth.csv", header=None)
    assert len(table) == 2 * (people.histo_domain == "bach").sum() and set(table[1]) <= {"Normal", "Benign", "InSitu", "Invasive"}
    assert sorted(p.name for p in photos.glob("*/*.tif")) == sorted(table[0])
    mine = registry[registry.domain == "bach"].set_index("native_patient")
    assert set(mine.index) == {name[:-4] for name in table[0]} and (mine.groupby("patient").size() == 2).all()
    names = dict(zip(range(4), ("Normal", "Benign", "InSitu", "Invasive")))
    assert all(names[mine.diagnosis[name[:-4]]] == label for name, label in table.itertuples(index=False))
    with tifffile.TiffFile(photos / table[1][0] / table[0][0]) as tiff:
        x, y = tiff.pages[0].tags["XResolution"].value
        assert 1e4 * y / x == pytest.approx(0.84, rel=1e-3) and not {"DateTime", "Software"} & {t.name for t in tiff.pages[0].tags}


def test_camelyon_layout(written, people):
    root, registry = written
    for part in ("CAMELYON16", "CAMELYON17"):
        folder = root / "camelyon" / part
        for line in (folder / "checksums.md5").read_text().splitlines():
            md5, name = line.split(" *")
            assert hashlib.md5((folder / name).read_bytes()).hexdigest() == md5
        assert len((folder / "checksums.md5").read_text().splitlines()) == len([*folder.glob("*/*")])
    stages = pd.read_csv(root / "camelyon" / "CAMELYON17" / "stages.csv")
    assert list(stages) == ["patient", "stage", "center"] and stages.patient.str.endswith(".zip").sum() * 2 == len(stages)
    mine = registry[registry.domain == "camelyon"]
    assert len(mine) == (people.histo_domain == "camelyon").sum() and mine.native_patient.is_unique and mine.patient.is_unique
    malignant = mine.set_index("native_patient").diagnosis >= 2
    for path in (root / "camelyon").glob("*/images/*.tif"):
        xml = path.parents[1] / "annotations" / f"{path.stem}.xml"
        assert xml.exists() == malignant[path.stem.split("_node_")[0]]
        if xml.exists():
            found = ElementTree.parse(xml).getroot()
            assert found.tag == "ASAP_Annotations" and {a.get("PartOfGroup") for a in found.iter("Annotation")} == {"Tumor"}


def test_openslide_reads_the_pyramid_its_pixel_size_and_its_colours(tmp_path):
    rgb = np.full((1024, 1024, 3), (200, 120, 170), np.uint8)
    rgb[512:] = (90, 60, 140)
    histology_files.pyramid(tmp_path / "a.tif", rgb, 0.5, 80)
    with openslide.OpenSlide(tmp_path / "a.tif") as slide:
        assert slide.level_dimensions == ((1024, 1024), (512, 512), (256, 256))
        assert float(slide.properties["openslide.mpp-x"]) == pytest.approx(0.5)
        for level in range(3):
            for y, colour in ((100, (200, 120, 170)), (800, (90, 60, 140))):
                seen = np.asarray(slide.read_region((300, y), level, (8, 8)))[..., :3].reshape(-1, 3).mean(0)
                assert np.abs(seen - colour).max() < 6


def test_outlines_enclose_the_mask():
    mask = np.zeros((400, 600), bool)
    mask[80:240, 160:480] = True
    line, = histology_files.polygons(mask)
    x, y = line.T
    assert abs(x.min() - 160) <= 8 and abs(x.max() - 480) <= 8 and abs(y.min() - 80) <= 8 and abs(y.max() - 240) <= 8


def test_the_same_seed_gives_the_same_bytes_for_any_number_of_workers(written, people, tmp_path, monkeypatch):
    root, _ = written
    monkeypatch.setattr(histology_files, "BACH_SHAPE", (192, 256))
    monkeypatch.setattr(histology_files, "SLIDE_SHAPE", (512, 512))

    def shuffled(write, tasks, workers, title):          # stands for workers that finish in another order
        for task in reversed(tasks):
            write(task)
    monkeypatch.setattr(histology_files, "parallel", shuffled)
    histology_files.write_bach(tmp_path / "bach", people, 3, 2)
    histology_files.write_camelyon(tmp_path / "camelyon", people, 3, 2)
    assert digest(tmp_path) == digest(root)
    other = digest(tmp_path)
    histology_files.write_bach(tmp_path / "bach", people, 4, 1)
    assert digest(tmp_path) != other
