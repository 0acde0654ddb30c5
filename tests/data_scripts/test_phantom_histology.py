"""The histology phantom: pictures follow the patient, files the native layouts; a seed fixes every byte."""
import hashlib
import xml.etree.ElementTree as ElementTree

import numpy as np
import openslide
import pandas as pd
import pytest
import tifffile

from data_scripts.phantom import glands, histology_files, native, patients
from data_scripts.phantom.canvas import Canvas
from data_scripts.phantom.histology import STYLES, draw
from data_scripts.phantom.quirks import apply
from xmodal.runtime.files import sha256

FIELD = (384, 512), 0.84
SIDE = 512               # pixels of a slide: a quarter of the usual, so that the tests stay quick
SEED = 3


@pytest.fixture(scope="module")
def people():
    return patients.cohort(SEED, pairs=2, singles=2)


def write(root, people, fields=(96, 128), quirks=()):
    """Writes a phantom with small pictures, each site with its `quirks`; returns its registry."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(histology_files, "BACH_SHAPE", fields)
        patch.setattr(histology_files, "SLIDE_SHAPE", (SIDE, SIDE))
        bach = histology_files.write_bach(root / "bach", people, SEED, 1)
        camelyon = histology_files.write_camelyon(root / "camelyon", people, SEED, 1)
        registry = apply("bach", root / "bach", bach, quirks, SEED)
        registry += apply("camelyon", root / "camelyon", camelyon, quirks, SEED)
    return pd.DataFrame(registry)


@pytest.fixture(scope="module")
def written(people, tmp_path_factory):
    """(root, registry) of a small phantom."""
    root = tmp_path_factory.mktemp("native")
    registry = write(root, people, fields=(192, 256))
    histology_files.write_checksums(root / "camelyon")
    return root, registry


def patient(diagnosis):
    everyone = patients.cohort(SEED)
    return everyone[everyone.diagnosis == diagnosis].iloc[0].to_dict()


def digest(root):
    """{path: sha256} of the files below `root`."""
    return {str(path.relative_to(root)): sha256(path) for path in sorted(root.rglob("*")) if path.is_file()}


@pytest.mark.parametrize("style", STYLES)
def test_a_picture_has_the_asked_shape_and_is_the_same_for_the_same_generator(style):
    row = patient(3)
    first, mask = draw(row, STYLES[style], patients.generator(1, "a"), (200, 300), 1.3)
    again, _ = draw(row, STYLES[style], patients.generator(1, "a"), (200, 300), 1.3)
    other, _ = draw(row, STYLES[style], patients.generator(2, "a"), (200, 300), 1.3)
    assert first.shape == (200, 300, 3) and first.dtype == np.uint8
    assert mask.shape == (200, 300) and mask.dtype == bool
    assert (first == again).all() and (first != other).any()


@pytest.mark.parametrize("mpp", (0.25, 0.42, 0.5, 0.84, 1.0, 2.67))
def test_any_pixel_size_shows_the_same_field(mpp):
    size = round(256 / mpp)
    rgb, _ = draw(patient(1), STYLES["pretrain"], patients.generator(5), (size, size), mpp)
    assert rgb.shape == (size, size, 3) and rgb.std() > 10


def test_only_in_situ_and_invasive_disease_has_a_tumour_mask():
    shares = []
    for diagnosis in range(4):
        rng = patients.generator(1, diagnosis)
        _, mask = draw(patient(diagnosis), STYLES["camelyon"], rng, (384, 384), 2.5)
        shares.append(mask.mean())
    assert shares[:2] == [0, 0] and min(shares[2:]) > 0.1


def test_slides_lie_on_glass_and_fields_of_view_do_not():
    slide, mask = draw(patient(3), STYLES["camelyon"], patients.generator(1), (384, 384), 2.5)
    field, _ = draw(patient(3), STYLES["bach"], patients.generator(1), *FIELD)
    corners = slide[[0, 0, -1, -1], [0, -1, 0, -1]].astype(int)
    assert np.median(corners) > 225 and np.ptp(np.median(corners, axis=0)) < 5
    assert slide[mask].mean() < 0.85 * np.median(corners)
    assert (field.mean(-1) < 225).mean() > 0.6


def test_malignant_nuclei_are_larger_and_more_varied():
    """Half axes in um of the epithelial nuclei tell invasive carcinoma from its look-alike, adenosis."""
    def axes(atypia, size):
        canvas = Canvas((400, 400), 0.9, patients.generator(1))
        canvas.h = np.zeros((400, 400), np.float32)
        canvas.e = np.zeros((400, 400), np.float32)
        canvas.free = np.ones((400, 400), bool)
        glands._cords(canvas, np.ones((400, 400), bool), 0.5, 0.3, size, atypia)
        return np.concatenate(canvas.nuclei)[:, 2]
    bland = axes(0.1, 2.9)
    pleomorphic = axes(0.9, 4.5)
    assert np.mean(pleomorphic) > 1.3 * np.mean(bland)
    assert np.std(pleomorphic) / np.mean(pleomorphic) > 1.5 * np.std(bland) / np.mean(bland)


def test_stain_differs_between_sites_and_between_slides():
    def colours(site):
        """Mean RGB of three pictures."""
        pictures = [draw(patient(1), STYLES[site], patients.generator(s, site), *FIELD)[0] for s in range(3)]
        return np.array([picture.reshape(-1, 3).mean(0) for picture in pictures])
    fields = colours("bach")
    pretraining = colours("pretrain")
    assert np.abs(fields.mean(0) - pretraining.mean(0)).max() > 4 and fields.std(0).max() > 2


def test_bach_layout(written, people):
    root, registry = written
    photos = root / "bach" / "ICIAR2018_BACH_Challenge" / "Photos"
    names = ("Normal", "Benign", "InSitu", "Invasive")
    table = pd.read_csv(photos / "microscopy_ground_truth.csv", header=None)
    assert len(table) == 2 * (people.histo_domain == "bach").sum() and set(table[1]) <= set(names)
    assert sorted(path.name for path in photos.glob("*/*.tif")) == sorted(table[0])
    mine = registry[registry.domain == "bach"].set_index("native_patient")
    assert set(mine.index) == {name[:-4] for name in table[0]} and (mine.groupby("patient").size() == 2).all()
    for name, label in table.itertuples(index=False):
        assert names[mine.diagnosis[name[:-4]]] == label
    with tifffile.TiffFile(photos / table[1][0] / table[0][0]) as tiff:
        tags = {tag.name: tag.value for tag in tiff.pages[0].tags}
    x, y = tags["XResolution"]
    assert 1e4 * y / x == pytest.approx(0.84, rel=1e-3) and not {"DateTime", "Software"} & set(tags)


def test_camelyon_layout(written, people):
    root, registry = written
    for part in ("CAMELYON16", "CAMELYON17"):
        folder = root / "camelyon" / part
        sums = [line.split(" *") for line in (folder / "checksums.md5").read_text().splitlines()]
        for md5, name in sums:
            assert hashlib.md5((folder / name).read_bytes()).hexdigest() == md5
        assert len(sums) == len([*folder.glob("*/*")])
    stages = pd.read_csv(root / "camelyon" / "CAMELYON17" / "stages.csv")
    assert list(stages) == ["patient", "stage", "center"]
    assert stages.patient.str.endswith(".zip").sum() * 2 == len(stages)
    mine = registry[registry.domain == "camelyon"]
    assert len(mine) == (people.histo_domain == "camelyon").sum()
    assert mine.native_patient.is_unique and mine.patient.is_unique
    malignant = mine.set_index("native_patient").diagnosis >= 2
    for path in (root / "camelyon").glob("*/images/*.tif"):
        xml = path.parents[1] / "annotations" / f"{path.stem}.xml"
        assert xml.exists() == malignant[path.stem.split("_node_")[0]]
        if xml.exists():
            tree = ElementTree.parse(xml).getroot()
            groups = {annotation.get("PartOfGroup") for annotation in tree.iter("Annotation")}
            assert tree.tag == "ASAP_Annotations" and groups == {"Tumor"}


def test_openslide_reads_the_pyramid_its_pixel_size_and_its_colours(tmp_path):
    rgb = np.full((1024, 1024, 3), (200, 120, 170), np.uint8)
    rgb[512:] = (90, 60, 140)
    native.pyramid(tmp_path / "a.tif", rgb, 0.5, 80)
    with openslide.OpenSlide(tmp_path / "a.tif") as slide:
        assert slide.level_dimensions == ((1024, 1024), (512, 512), (256, 256))
        assert float(slide.properties["openslide.mpp-x"]) == pytest.approx(0.5)
        for level in range(3):
            for y, colour in ((100, (200, 120, 170)), (800, (90, 60, 140))):
                patch = np.asarray(slide.read_region((300, y), level, (8, 8)))[..., :3]
                assert np.abs(patch.reshape(-1, 3).mean(0) - colour).max() < 6


def test_outlines_enclose_the_mask():
    mask = np.zeros((400, 600), bool)
    mask[80:240, 160:480] = True
    line, = native.polygons(mask)
    assert np.abs(line.min(0) - (160, 80)).max() <= 8
    assert np.abs(line.max(0) - (480, 240)).max() <= 8


def test_the_same_seed_gives_the_same_bytes_for_any_number_of_workers(written, people, tmp_path, monkeypatch):
    root, _ = written

    def shuffled(write, tasks, workers, title):          # stands for workers that finish in another order
        for task in reversed(tasks):
            write(task)
    monkeypatch.setattr(histology_files, "parallel", shuffled)
    write(tmp_path, people, fields=(192, 256))
    histology_files.write_checksums(tmp_path / "camelyon")
    same = digest(tmp_path)
    assert same == digest(root)
    monkeypatch.setattr(histology_files, "BACH_SHAPE", (192, 256))
    histology_files.write_bach(tmp_path / "bach", people, SEED + 1, 1)
    assert digest(tmp_path) != same


def test_a_level_is_the_mean_of_four_rounded_down():
    rgb = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    rgb[:2, :2] = 255
    squares = rgb.reshape(3, 2, 4, 2, 3).astype(float)
    assert np.array_equal(native.halved(rgb), np.floor(squares.mean((1, 3))))
