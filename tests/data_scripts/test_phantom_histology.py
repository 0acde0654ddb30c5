"""The histology phantom: what is drawn follows the patient, the files follow the native layouts, a seed gives the same bytes."""
import hashlib
import json
import shutil
import xml.etree.ElementTree as ElementTree

import numpy as np
import openslide
import pandas as pd
import pytest
import tifffile
from scipy.ndimage import binary_fill_holes
from skimage.draw import polygon2mask

from data_scripts import bach, camelyon, link
from data_scripts.phantom import glands, histology_files, histology_quirks, patients
from data_scripts.phantom.canvas import Canvas
from data_scripts.phantom.histology import STYLES, draw
from data_scripts.phantom.quirks import QUIRKS
from xmodal.cohort import label_set
from xmodal.config import Problem
from xmodal.imaging import regions, slides

FIELD = (384, 512), 0.84


@pytest.fixture(scope="module")
def people():
    return patients.cohort(3, pairs=2, singles=2)


def write(root, people, fields=(96, 128), **quirks):
    """A phantom with small pictures; its registry."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(histology_files, "BACH_SHAPE", fields)
        patch.setattr(histology_files, "SLIDE_SHAPE", (SIDE, SIDE))
        registry = histology_files.write_bach(root / "bach", people, 3, 1, quirks=quirks.get("bach", ()))
        return pd.DataFrame(registry + histology_files.write_camelyon(root / "camelyon", people, 3, 1, quirks=quirks.get("camelyon", ())))


@pytest.fixture(scope="module")
def written(people, tmp_path_factory):
    """(root, registry) of a small phantom, whose slides are a quarter as wide so that the test stays quick."""
    root = tmp_path_factory.mktemp("native")
    return root, write(root, people, fields=(192, 256))


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


# ---- the traps of the real sets ------------------------------------------------------------------------------------

MODULES, SIDE = {"bach": bach, "camelyon": camelyon}, 512
LEFT_OUT = {"missing_image", "listed_twice", "unlisted_image", "test_set", "unannotated_wsi", "mislabelled_slide", "duplicate_slide",
            "second_copy", "missing_outlines", "unlabelled_slide"}
UNCOUNTED = {"label_in_text", "deeper_folder", "reference_key", "stage_labels", "odd_groups", "capital_names", "gigadb_layout", "zipped_annotations"}
CASES = [(site, case) for site in MODULES for case in [*((name,) for name in QUIRKS[site]), tuple(QUIRKS[site])]]


@pytest.fixture(scope="module")
def many():
    return patients.cohort(3, pairs=6, singles=4)


@pytest.fixture(scope="module")
def plain(many, tmp_path_factory):
    """(root, registry) of a phantom without traps, which has enough slides for all of them."""
    root = tmp_path_factory.mktemp("plain")
    return root, write(root, many)


def outlined(annotation):
    return slides.tumour_mask(annotation, (SIDE, SIDE), 1)


def overlap(one, other):
    return (one & other).sum() / (one | other).sum()


def test_the_index_gives_back_what_was_drawn(plain, many):
    """Patients and labels are the registry's, and the outlines are those of the tumour in the picture."""
    root, registry = plain
    for site, module in MODULES.items():
        rows = module.index(root / site).set_index("patient")
        known = registry[registry.domain == site].set_index(site + "/" + registry.native_patient[registry.domain == site]).diagnosis
        allowed = known.map(lambda d: label_set(d) if site == "bach" else label_set(2, 3) if d > 1 else label_set(0, 1))
        assert rows.allowed.sort_index().to_dict() == allowed.sort_index().to_dict() and rows.attrs == {"exclusions": [], "traps": {}}
    people = many.set_index("patient")
    for native, row in rows[rows.annotation != ""].iterrows():
        person = registry.set_index("native_patient").patient[native.split("/")[1]]
        rng = patients.generator(3, "camelyon", person, row["sample"].split("/")[1])
        mask = binary_fill_holes(draw({**people.loc[person], "patient": person}, STYLES["camelyon"], rng, (SIDE, SIDE), 0.5)[1])
        assert overlap(outlined(row.annotation), mask) > 0.9


def expected(rows, renamed):
    """The rows of a plain phantom, less those that a trap took away, by the names that a trap gave."""
    rows = rows.copy()
    for column, prefix in (("patient", rows.domain + "/"), ("study", "")):
        native = rows[column].str.split("/").str[-1]
        rows[column] = prefix + native.map(lambda name: renamed.get(name, name) or "gone")
    new = rows["sample"].str.split("/").str[1].map(lambda name: renamed.get(name, name) or "gone")
    rows["sample"] = rows.domain + "/" + new
    return rows[~rows.patient.str.endswith("gone")]


def changed(annotation, sample, case):
    """The tumour that an annotation says, bool (SIDE, SIDE), as traps change it."""
    polygons = [np.array(p) for p in json.loads(annotation)["polygons"]]
    first, drawn = polygons[0], polygons[:1] if sample == "camelyon/tumor_110" else polygons
    mask = np.any([polygon2mask((SIDE, SIDE), p[:, ::-1] - 0.5) for p in drawn], axis=0)
    if "excluded_groups" in case:
        mask &= ~polygon2mask((SIDE, SIDE), (0.3 * first + 0.7 * first.mean(0))[:, ::-1] - 0.5)
    return mask


@pytest.mark.parametrize("site, case", CASES, ids=lambda value: value if isinstance(value, str) else "all" if len(value) > 1 else value[0])
def test_the_index_sees_through_every_trap(plain, tmp_path, monkeypatch, site, case):
    monkeypatch.setattr(histology_files, "SLIDE_SHAPE", (SIDE, SIDE))
    root, there = tmp_path / site, MODULES[site].index(plain[0] / site)
    shutil.copytree(plain[0] / site, root)
    if site == "bach":
        renamed = dict.fromkeys(histology_quirks.bach(root / "ICIAR2018_BACH_Challenge", case, 3))
    else:
        renamed = histology_quirks.camelyon(root, case)
    rows = MODULES[site].index(root)
    found = rows[~rows.source.str.endswith(".svs")].set_index("sample").sort_index()
    want = expected(there, renamed).set_index("sample").sort_index()
    pd.testing.assert_frame_equal(found.drop(columns=["source", "annotation"]), want.drop(columns=["source", "annotation"]))
    for sample, row in want[want.annotation != ""].iterrows():
        assert overlap(outlined(found.annotation[sample]), changed(row.annotation, sample, case)) > 0.97
    traps, left_out = rows.attrs["traps"], rows.attrs["exclusions"]
    rewritten = {"unknown_group"} if {"json_outlines", "mask_outlines"} <= set(case) else set()      # those forms have no groups
    assert set(traps) - {"several_classes"} == set(case) - UNCOUNTED - rewritten - {"several_classes"}
    assert len(left_out) == len(LEFT_OUT & set(case))
    images = {str(path) for path in root.rglob("*") if path.suffix in (".tif", ".svs") and not path.stem.endswith("_mask")}
    assert images == set(rows.source) | {path for path, _ in left_out if path in images}, "every picture is a row or has a reason"


@pytest.mark.parametrize("case", (("several_classes",), ("label_in_text", "negative_roa", "nested_outlines")), ids=("plain", "nested"))
def test_slides_of_bach_give_the_classes_that_were_drawn(plain, tmp_path, monkeypatch, case):
    monkeypatch.setattr(histology_files, "SLIDE_SHAPE", (SIDE, SIDE))
    shutil.copytree(plain[0] / "bach", tmp_path / "bach")
    histology_quirks.bach(tmp_path / "bach" / "ICIAR2018_BACH_Challenge", case, 3)
    rows = bach.index(tmp_path / "bach").set_index("sample")
    rows = rows[rows.source.str.endswith(".svs")]
    nested = "nested_outlines" in case
    assert rows.truth.to_dict() == {"bach/A01-benign": 1, "bach/A01-insitu": 2, "bach/A02-benign": 1, "bach/A02-invasive": 3,
                                    **({"bach/A01-invasive": 3, "bach/A02-insitu": 2} if nested else {})}
    share = rows.annotation.map(lambda text: outlined(text).mean())
    benign = 0.4 * 0.9 - nested * (0.1 * 0.2 + 0.125 * 0.25)                                          # less the hole and the inner class
    assert share[["bach/A01-benign", "bach/A02-benign"]].to_numpy() == pytest.approx(benign, abs=0.005)
    with regions.open_slide(rows.source.iloc[0])[0] as slide:
        assert slide.dimensions == (SIDE, SIDE) and slide.level_count == 3
    assert not np.logical_and.reduce([outlined(text) for text in rows.annotation[rows.patient == "bach/A01"]]).any()


def test_a_phantom_with_all_traps_is_linked_and_has_the_same_bytes_again(plain, many, tmp_path, monkeypatch):
    """What the registry lists is what the index finds; only the two slides of BACH are of patients whom no registry knows."""
    monkeypatch.setattr(histology_files, "SLIDE_SHAPE", (SIDE, SIDE))
    registry = write(tmp_path / "a", many, **QUIRKS)
    shutil.copytree(plain[0], tmp_path / "b")
    histology_quirks.bach(tmp_path / "b" / "bach" / "ICIAR2018_BACH_Challenge", QUIRKS["bach"], 3)
    histology_quirks.camelyon(tmp_path / "b" / "camelyon", QUIRKS["camelyon"])
    once, again = ({name: said for name, said in digest(tmp_path / k).items() if not name.endswith("checksums.md5")} for k in "ab")
    assert once == again
    registry.to_csv(tmp_path / "registry.csv", index=False)
    rows = pd.concat([module.index(tmp_path / "a" / site) for site, module in MODULES.items()], ignore_index=True)
    unknown = set(rows.patient) - set(registry.domain + "/" + registry.native_patient)
    assert unknown == {"bach/A01", "bach/A02"} and len(rows[~rows.patient.isin(unknown)]) == len(registry)
    linked = link(rows, tmp_path / "registry.csv")
    linked = linked[~linked.patient.isin(unknown)]
    assert (linked.patient.str.removeprefix("phantom/").map(many.set_index("patient").diagnosis) == linked.truth).all()
    assert (linked.allowed.to_numpy() >> linked.truth.to_numpy() & 1).all(), "the label allows the truth"


def test_a_cohort_too_small_for_the_traps_is_a_problem(people, tmp_path):
    with pytest.raises(Problem, match="too few for quirks"):
        write(tmp_path, people.head(4), camelyon=("itc",))
