"""Preprocessing: index rows in, cohort and arrays out, with the same bytes for any number of workers."""
import hashlib
import json
import os
import shutil
import signal
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import tifffile
from pydicom.uid import ExplicitVRLittleEndian

from data_scripts.phantom.native import DIGITAL_MAMMOGRAM, pyramid, uid, write_dicom
from xmodal import cohort, config, preprocess, tiles

SMALL = replace(config.PROFILES["lesson"], image_size=32, tile_um=100.0, tiles_per_slide=3)
INDEX_LEFT_OUT = [("elsewhere.tif", "left out by the index")]
SQUARE = {"polygons": [[[0, 0], [200, 0], [200, 400], [0, 400]]], "exclude": []}


def row(name, domain, source, **more):
    return cohort.index_row(**{
        "sample": f"{domain}/{name}",
        "patient": f"{domain}/{name}",
        "study": name,
        "domain": domain,
        "modality": config.DOMAINS[domain],
        "allowed": 1,
        "source": str(source),
        **more,
    })


def tissue(rng, shape):
    """Two stains in known places: eosin everywhere, a haematoxylin disc in every 20-pixel cell."""
    y, x = np.mgrid[:shape[0], :shape[1]] % 20 - 10
    amount = np.stack([1.4 * (np.hypot(x, y) < 5), 0.3 + 0.3 * rng.random(shape)], -1)
    density = amount @ np.array([[0.65, 0.70, 0.29], [0.16, 0.85, 0.48]])
    return np.clip(240 * np.exp(-density), 0, 255).astype(np.uint8)


def photo(path, rgb):
    """A plain TIFF of 1 um per pixel."""
    tifffile.imwrite(path, rgb, photometric="rgb", resolution=(1e4, 1e4), resolutionunit="CENTIMETER")
    return path


def breast():
    """A breast as half a disc with some texture, uint16 (200, 160)."""
    y, x = np.mgrid[:200, :160]
    grey = (np.hypot(y - 100, x) < 90) * (2000 + 500 * np.sin(y / 9) * np.cos(x / 7))
    return grey.astype(np.uint16)


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    """A photograph, a slide without and with tumour, a mammogram with a lesion, and three unusable files."""
    folder = tmp_path_factory.mktemp("native")
    rng = np.random.default_rng(0)
    photo(folder / "n001.tif", tissue(rng, (400, 400)))
    pyramid(folder / "slide.tif", tissue(rng, (512, 512)), 1.0, 90, levels=2)
    film = breast()
    film[90:110, 40:60] = 4000
    write_dicom(folder / "m.dcm", film, ExplicitVRLittleEndian, DIGITAL_MAMMOGRAM, 14,
                SOPInstanceUID=uid("2.25.", "m"), PatientID="m", PatientName="m", ViewPosition="CC",
                ImageLaterality="L", ImagerPixelSpacing=[0.5, 0.5])
    photo(folder / "glass.tif", np.full((400, 400, 3), 242, np.uint8))
    (folder / "damaged.dcm").write_bytes(b"nothing")
    lesion = {"polygons": [[[40, 90], [60, 90], [60, 110], [40, 110]]]}
    return pd.DataFrame([
        row("n001", "bach", folder / "n001.tif"),
        row("glass", "bach", folder / "glass.tif"),
        row("normal_001", "camelyon", folder / "slide.tif", allowed=1, truth=0),
        row("tumor_001", "camelyon", folder / "slide.tif", allowed=8, truth=3, annotation=json.dumps(SQUARE)),
        row("m", "inbreast", folder / "m.dcm", view="CC", laterality="L", allowed=12,
            annotation=json.dumps(lesion)),
        row("damaged", "inbreast", folder / "damaged.dcm"),
        row("gone", "inbreast", folder / "gone.dcm"),
    ])


@pytest.fixture(scope="module")
def built(rows, tmp_path_factory):
    out = tmp_path_factory.mktemp("out")
    return out, preprocess.build(rows, SMALL, out, workers=1, exclusions=INDEX_LEFT_OUT)


def digest(folder):
    """{path below the folder: sha256} of its files."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_the_written_cohort_is_the_returned_one_and_fits_its_arrays(built):
    out, table = built
    pd.testing.assert_frame_equal(cohort.load(out / "cohort.parquet"), table)
    for domain, part in table.groupby("domain"):
        array = np.load(out / "images" / f"{domain}.npy", mmap_mode="r")
        channels = (3,) if config.DOMAINS[domain] == config.HISTOPATHOLOGY else ()
        assert array.dtype == np.uint8 and array.shape == (len(part), 32, 32, *channels)
        assert part["index"].tolist() == list(range(len(part)))
        assert (np.asarray(array).reshape(len(part), -1).std(1) > 5).all()
    images = {f"images/{domain}.npy" for domain in set(table.domain)}
    tables = {"cohort.parquet", "exclusions.csv", "made.json", "notes.csv"}
    assert set(digest(out)) == tables | images | {"masks/inbreast.npy"}


def test_a_slide_gives_several_tiles_and_one_with_outlines_more_inside_them(built):
    _, table = built
    assert table[table.patient == "bach/n001"]["sample"].tolist() == [f"bach/n001#{k}" for k in range(3)]
    assert table.mm_per_px[table.domain == "bach"].tolist() == pytest.approx([0.1 / 32] * 3)
    drawn = table[table.domain == "camelyon"].groupby(["patient", "drawn"]).size().to_dict()
    assert drawn == {("camelyon/normal_001", "blind"): 3, ("camelyon/tumor_001", "blind"): 3,
                     ("camelyon/tumor_001", "outline"): 3}
    inside = table[table.drawn == "outline"]
    assert (inside.tumour >= 0.5).all() and (inside.allowed == 8).all()
    assert inside.tile_x.max() < 200, "their centres lie in the outline"


def test_labels_and_outlines_change_no_tile_that_is_drawn_blind(built, rows):
    """A target whose labels are poisoned gives the same tiles, pixel for pixel, at the same places."""
    place = ["sample", "tile_x", "tile_y", "drawn", "checksum"]
    slide = rows[rows["sample"] == "camelyon/tumor_001"].iloc[0].to_dict()
    half = {"polygons": [[[300, 0], [512, 0], [512, 512], [300, 512]]], "exclude": []}
    outlines = ["", json.dumps(SQUARE), json.dumps(half), json.dumps({"classes": {"1": SQUARE, "2": half}})]
    first = None
    for allowed, annotation in zip((1, 8, 8, 4), outlines):
        images, _ = preprocess.read({**slide, "allowed": allowed, "annotation": annotation}, SMALL)
        blind = [(entry, image) for entry, image, _ in images if entry["drawn"] == "blind"]
        places = pd.DataFrame([entry for entry, _ in blind])[place].to_dict("records")
        first = first or (places, np.stack([image for _, image in blind]))
        assert places == first[0] and len(places) == 3
        assert np.array_equal(np.stack([image for _, image in blind]), first[1])


@pytest.mark.parametrize("annotation, share, allowed, truth", [
    (SQUARE, {3: 0.5}, {"invasive"}, 3),
    (SQUARE, {3: 0.4}, {"normal", "invasive"}, -1),
    (SQUARE, {3: 0.0}, {"normal"}, 0),
    ({**SQUARE, "partial": True}, {3: 0.0}, {"normal", "invasive"}, -1),
    ({**SQUARE, "partial": True}, {3: 0.9}, {"invasive"}, 3),
    ({"classes": {"1": SQUARE, "2": SQUARE}}, {1: 0.6, 2: 0.1}, {"benign"}, 1),
    ({"classes": {"1": SQUARE, "2": SQUARE}}, {1: 0.0, 2: 0.1}, {"normal", "in situ"}, -1),
    ({"classes": {"1": SQUARE, "2": SQUARE}}, {1: 0.0, 2: 0.0}, {"normal"}, 0),
])
def test_a_tile_has_the_label_of_the_outlines_that_it_lies_in(annotation, share, allowed, truth):
    of_tile = tiles.said_of({"allowed": 8, "annotation": json.dumps(annotation)}, share)
    assert of_tile["allowed"] == cohort.label_set(*allowed)
    assert of_tile["truth"] == of_tile["grade"] == truth
    assert of_tile["tumour"] == pytest.approx(sum(share.get(label, 0) for label in (2, 3)))


def test_a_slide_without_outlines_gives_its_label_to_its_tiles(built):
    _, table = built
    normal = table[table.patient == "camelyon/normal_001"]
    assert (normal.allowed == 1).all() and (normal.truth == 0).all() and (normal.tumour == 0).all()
    photo_of_tumour = tiles.said_of({"allowed": 4, "annotation": ""}, {})
    assert np.isnan(photo_of_tumour["tumour"]), "nobody says how much of it is tumour"
    assert table.tumour[table.domain == "inbreast"].isna().all()


def test_tiles_are_stain_normalised(built, rows):
    out, _ = built
    raw = tifffile.imread(rows.source[0]).reshape(-1, 3).mean(0)
    tiles = np.load(out / "images" / "bach.npy").reshape(-1, 3).mean(0)
    assert np.abs(tiles - raw).max() > 3                  # the file has another stain


def test_a_mammogram_keeps_its_lesion(built):
    out, table = built
    entry = table[table.domain == "inbreast"].iloc[0]
    image = np.load(out / "images" / "inbreast.npy")[entry["index"]]
    mask = np.load(out / "masks" / "inbreast.npy")[entry["index"]]
    assert entry.has_mask and set(np.unique(mask)) == {0, 1}
    (x0, y0, x1, y1), = json.loads(entry.boxes)
    assert mask[y0:y1, x0:x1].sum() == mask.sum() > 0
    assert image[mask > 0].mean() > image[image > 0].mean() + 40
    width = (x1 - x0) * entry.mm_per_px
    assert width == pytest.approx(10, abs=2 * entry.mm_per_px)               # 20 pixels of half a millimetre


def test_files_that_cannot_be_used_are_listed_with_a_reason(built, rows):
    out, table = built
    listed = pd.read_csv(out / "exclusions.csv").set_index("source").reason
    names = {source.split("/")[-1] for source in listed.index}
    assert names == {"elsewhere.tif", "glass.tif", "damaged.dcm", "gone.dcm"}
    glass, damaged, gone = rows.source[[1, 5, 6]]
    assert "half tissue" in listed[glass] and "DICOM" in listed[damaged] and "no file" in listed[gone]
    assert len(table.source.unique()) + len(listed) - 1 == len(rows.source.unique()), "nothing is lost"


def test_a_slide_of_one_stain_is_used_with_a_note(tmp_path):
    rng = np.random.default_rng(0)
    coarse = rng.integers(70, 150, (40, 40)).repeat(10, 0).repeat(10, 1)   # else all is one grey, as glass is
    grey = np.repeat((coarse + rng.integers(0, 40, (400, 400)))[..., None].astype(np.uint8), 3, -1)
    path = photo(tmp_path / "grey.tif", grey)
    rows = pd.DataFrame([row("grey", "bach", path)])
    table = preprocess.build(rows, SMALL, tmp_path / "out", workers=1)
    notes = pd.read_csv(tmp_path / "out" / "notes.csv")
    assert len(table) == 3
    assert notes.source.tolist() == [str(path)] and "stain could not be normalised" in notes.note[0]


def test_the_pixel_size_of_a_domain_is_that_of_its_photographs_not_of_its_slides(tmp_path):
    rgb = tissue(np.random.default_rng(0), (512, 512))
    tifffile.imwrite(tmp_path / "n001.TIF", rgb, photometric="rgb")
    tifffile.imwrite(tmp_path / "A01.svs", rgb, photometric="rgb", tile=(256, 256))
    images, _ = preprocess.read(row("n001.TIF", "bach", tmp_path / "n001.TIF"), SMALL)
    assert len(images) == 3
    images, reason = preprocess.read(row("A01.svs", "bach", tmp_path / "A01.svs"), SMALL)
    assert images == [] and "add the line A01.svs" in reason


def test_a_mammogram_without_pixel_spacing_is_used_with_a_note(tmp_path):
    path = tmp_path / "film.dcm"
    write_dicom(path, breast(), ExplicitVRLittleEndian, DIGITAL_MAMMOGRAM, 14, SOPInstanceUID="2.25.1")
    rows = pd.DataFrame([row("film", "cbis_ddsm", path)])
    table = preprocess.build(rows, SMALL, tmp_path / "out", workers=1)
    notes = pd.read_csv(tmp_path / "out" / "notes.csv")
    assert table.mm_per_px.isna().tolist() == [True]
    assert notes.source.tolist() == [str(path)] and "are in pixels" in notes.note[0]


def test_checksums_are_those_of_the_files_and_of_their_pixels(built):
    folder, table = built[:2]
    for source, checksum in table.groupby("source").checksum.first().items():
        assert hashlib.sha256(open(source, "rb").read()).hexdigest() == checksum.split()[0]
    for row in table[table.modality == config.HISTOPATHOLOGY].itertuples():
        tile = np.load(folder / "images" / f"{row.domain}.npy")[row.index]
        assert hashlib.sha256(tile.tobytes()).hexdigest() == row.checksum.split()[1]


def test_the_same_bytes_from_two_workers(built, rows, tmp_path):
    preprocess.build(rows, SMALL, tmp_path, workers=2, exclusions=INDEX_LEFT_OUT)
    assert digest(tmp_path) == digest(built[0])


def test_nothing_usable_is_a_problem_and_writes_no_cohort(rows, tmp_path):
    with pytest.raises(config.Problem, match="None of 2 files"):
        preprocess.build(rows.iloc[5:], SMALL, tmp_path, workers=1)
    assert not (tmp_path / "cohort.parquet").exists() and (tmp_path / "exclusions.csv").exists()


def test_an_interrupted_build_leaves_what_was_there(built, rows, tmp_path, monkeypatch):
    preprocess.build(rows, SMALL, tmp_path, workers=1, exclusions=INDEX_LEFT_OUT)

    def broken(*_):
        raise KeyboardInterrupt
    monkeypatch.setattr(preprocess, "_load", broken)
    with pytest.raises(KeyboardInterrupt):
        preprocess.build(rows, SMALL, tmp_path, workers=1, exclusions=INDEX_LEFT_OUT)
    assert (tmp_path / preprocess.UNFINISHED).is_dir(), "to go on with"
    shutil.rmtree(tmp_path / preprocess.UNFINISHED)
    assert digest(tmp_path) == digest(built[0])


def read_or_end(entry, profile, folder):
    """What `read_once` gives; but who reads the sample "deadly" leaves a line in met.txt and ends."""
    has_result = preprocess.result_path(entry, profile, folder).exists()
    if entry["sample"].endswith("deadly") and not has_result:
        with open(folder.parents[1] / "met.txt", "a") as file:
            file.write("met\n")
        os.kill(os.getpid(), signal.SIGSEGV)
    return preprocess.read_once(entry, profile, folder)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_file_that_ends_its_process_is_left_out_by_name_and_not_met_again(
        built, rows, tmp_path, monkeypatch, workers):
    deadly = row("deadly", "bach", tmp_path / "deadly.tif")
    more = pd.concat([pd.DataFrame([deadly]), rows], ignore_index=True)
    monkeypatch.setattr(preprocess, "read_once", read_or_end)
    out = tmp_path / "out"

    def broken(*_):
        raise KeyboardInterrupt
    with monkeypatch.context() as patch:
        patch.setattr(preprocess, "_write_list", broken)
        with pytest.raises(KeyboardInterrupt):
            preprocess.build(more, SMALL, out, workers)
    table = preprocess.build(more, SMALL, out, workers, exclusions=INDEX_LEFT_OUT)
    assert (tmp_path / "met.txt").read_text() == "met\n"
    listed = pd.read_csv(out / "exclusions.csv").set_index("source").reason
    assert "ended the process that read it (by SIGSEGV)" in listed[str(tmp_path / "deadly.tif")]
    assert len(listed) == 5, "and the rest went on"
    pd.testing.assert_frame_equal(table, built[1])


def test_a_stack_is_a_plain_npy_file_of_any_length(tmp_path):
    stack = preprocess.Stack(tmp_path / "a.npy", (4, 4))
    assert [stack.append(np.full((4, 4), k)) for k in range(12)] == list(range(12))
    with pytest.raises(ValueError, match="shape"):
        stack.append(np.zeros((4, 5)))
    stack.close()
    assert (np.load(tmp_path / "a.npy", mmap_mode="r")[:, 0, 0] == np.arange(12)).all()
