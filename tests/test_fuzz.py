"""Damaged input: files truncated, with bits flipped and bytes overwritten give a result or a `Problem`, whatever is in them.

All files of one kind are read in a process of its own, whose memory is limited and whose alarm ends a hang, so that a crash of a
native decoder is seen: the process names each file before it reads it. XMODAL_FUZZ multiplies their number.
"""
import json
import logging
import os
import plistlib
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import warnings
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]
NUMBER = {"dicom": 700, "tiff": 260, "outlines": 320, "tables": 480, "plist": 160, "series": 160, "ultrasound": 80, "answers": 160}
CHECKED = ("ultrasound", "answers")      # PNG has checksums and JSON no slack, so that hardly any damage passes
SECONDS, MEMORY = 20, 1 << 31             # for one file; of address space beyond what the imports take

XML = """<?xml version="1.0"?>
<ASAP_Annotations><Annotations><Annotation Name="A" Type="Polygon" PartOfGroup="Tumor" Color="#F4FA58"><Coordinates>
<Coordinate Order="0" X="5.5" Y="9.25" /><Coordinate Order="1" X="50" Y="9" /><Coordinate Order="2" X="30" Y="70" /></Coordinates></Annotation>
</Annotations><AnnotationGroups><Group Name="Tumor" PartOfGroup="None" Color="#00ff00"><Attributes /></Group></AnnotationGroups></ASAP_Annotations>"""
SCOPE = """<Annotations MicronsPerPixel="0.5"><Annotation Id="1"><Regions><Region Id="1" Text="" NegativeROA="0"><Attributes>
<Attribute Name="Description" Id="0" Value="Invasive" /></Attributes><Vertices><Vertex X="1" Y="2" Z="0" /><Vertex X="30" Y="2" Z="0" />
<Vertex X="30" Y="40" Z="0" /></Vertices></Region></Regions></Annotation></Annotations>"""
NCRF = json.dumps({"positive": [{"name": "A", "vertices": [[1, 2], [30, 2], [30, 40]]}], "negative": []})
TABLES = {"INbreast.csv": "Patient ID;Patient age;Laterality;View;Acquisition date;File Name;ACR;Bi-Rads\r\nremoved;removed;L;CC;200801;20586908;2;4a\r\n",
          "stages.csv": "patient,stage,center\npatient_000.zip,pN1,0\npatient_000_node_0.tif,negative,0\npatient_000_node_1.tif,itc,0\n",
          "reference.csv": "test_001,Tumor,IDC,Macro\ntest_003,Normal,None,None\n", "microscopy_ground_truth.csv": "n001.tif,Normal\nb001.tif,Benign\n",
          "mpp.csv": "file,mpp\nslide.tif,0.5\n", "clinical.csv": "case,days,dead,diagnosis,stage\nTCGA-A8-A06U,100.0,True,\"Lobular carcinoma, NOS\",Stage IIA\n"}
ANSWERS = {   # what servers say: an S3 listing, NBIA's series, GDC's files and cases, Zenodo's record
    "listing": '<ListBucketResult><Contents><Key>c/a.tif</Key><ETag>&quot;0cc175b9c0f1b6a831c399e269772661&quot;</ETag><Size>9</Size></Contents></ListBucketResult>',
    "series": json.dumps([{"PatientID": "P_00001_LEFT_CC", "StudyInstanceUID": "9.1", "SeriesInstanceUID": "1.1", "ImageCount": 2, "FileSize": 100}]),
    "files": json.dumps({"data": {"hits": [{"file_id": "a", "file_name": "a.svs", "file_size": 9, "md5sum": "0"}], "pagination": {"total": 1}}}),
    "cases": json.dumps({"data": {"hits": [{"submitter_id": "a", "demographic": {"vital_status": "Alive"}, "diagnoses": [{"days_to_last_follow_up": 3}],
                                            "follow_ups": [{"days_to_follow_up": 7}]}], "pagination": {"total": 1}}}),
    "record": json.dumps({"files": [{"key": "ICIAR2018_BACH_Challenge.zip", "size": 9, "links": {"self": "http://127.0.0.1/a"}}]})}
CASE = ("patient_id,breast{0}density,left or right breast,image view,abnormality id,abnormality type,{1},assessment,pathology,subtlety,"
        "image file path,cropped image file path,ROI mask file path\r\nP_00001,3,LEFT,CC,1,mass,NA,NA,4,MALIGNANT,4,"
        "A-Training_P_00001_LEFT_CC/1.2/1.3/000000.dcm,A_1/1.2/1.4/000000.dcm,\"A_1/1.2/1.4/000001.dcm\n\"\r\n")


# ---- whole files ---------------------------------------------------------------------------------------------------

def dicoms(folder):
    """One tiny mammogram in every encoding, without and with all that its header can ask for."""
    from test_dicom import CODECS, encapsulate, item, picture, pydicom, rewrite, uid, write
    table = item(LUTDescriptor=[256, 0, 16])
    table[0].add_new("LUTData", "US", list(range(256)))
    plain = write(folder / "plain.dcm", picture(np.uint16), ImagerPixelSpacing=[0.07, 0.07], ViewPosition="CC", ImageLaterality="L",
                  PatientID="P_00001_LEFT_CC", RescaleSlope="2", RescaleIntercept="1", WindowCenter="9000", WindowWidth="20000",
                  PixelPaddingValue=0, EstimatedRadiographicMagnificationFactor="1.5", PhotometricInterpretation="MONOCHROME1")
    write(folder / "table.dcm", picture(np.uint8), 8, VOILUTSequence=table, PhotometricInterpretation="MONOCHROME1")
    for syntax in (uid.ImplicitVRLittleEndian, uid.DeflatedExplicitVRLittleEndian, uid.ExplicitVRBigEndian):
        path = folder / f"{syntax.keyword}.dcm"
        path.write_bytes(plain.read_bytes())
        rewrite(path, syntax)
    data = pydicom.dcmread(plain)
    data.compress(uid.RLELossless)
    data.save_as(folder / "rle.dcm")
    for syntax, (encode, kinds, _) in CODECS.items():
        pixels = picture(np.dtype(kinds[-1]))
        write(folder / f"{syntax.keyword}.dcm", pixels, bits=pixels.itemsize * 8)
        rewrite(folder / f"{syntax.keyword}.dcm", syntax, encapsulate([bytes(encode(pixels))]))
    return sorted(folder.glob("*.dcm"))


def tiffs(folder):
    import tifffile

    from data_scripts.phantom.histology_files import pyramid
    rgb = np.random.default_rng(0).integers(60, 200, (32, 32, 3)).astype(np.uint8).repeat(8, 0).repeat(8, 1)
    pyramid(folder / "slide.tif", rgb, 1.0, 80, levels=2)
    for name, how in (("plain", {}), ("deflate", {"compression": "deflate"}), ("tiled", {"tile": (64, 64), "compression": "lzw"})):
        tifffile.imwrite(folder / f"{name}.tif", rgb, photometric="rgb", resolution=(1e4, 1e4), resolutionunit="CENTIMETER", **how)
    return sorted(folder.glob("*.tif"))


def outlines(folder):
    import tifffile
    for name, text in (("asap.xml", XML), ("scope.xml", SCOPE), ("ncrf.json", NCRF)):
        (folder / name).write_text(text)
    mask = np.pad(np.ones((20, 20), np.uint8), 22)
    tifffile.imwrite(folder / "a_mask.tif", mask, tile=(32, 32), compression="deflate", metadata=None)
    return sorted(folder.iterdir())


def tables(folder):
    for name, text in TABLES.items():
        (folder / name).write_text(text, newline="")
    for kind, names in (("mass", ("_", "mass shape,mass margins")), ("calc", (" ", "calc type,calc distribution"))):
        for part in ("train", "test"):
            (folder / f"{kind}_case_description_{part}_set.csv").write_text(CASE.format(*names), newline="")
    return sorted(folder.iterdir())


def series(folder):
    """One tiny image of CBIS-DDSM, whose header tells its series."""
    from pydicom.uid import ImplicitVRLittleEndian

    from data_scripts.phantom.mammogram_files import SECONDARY_CAPTURE, write_dicom
    write_dicom(folder / "1-1.dcm", np.zeros((16, 16), np.uint8), ImplicitVRLittleEndian, SECONDARY_CAPTURE, 8, SOPInstanceUID="2.25.1",
                SeriesInstanceUID="1.3", PatientID="P_00001_LEFT_CC.dcm", InstanceNumber=1, SeriesDescription="cropped images")
    return [folder / "1-1.dcm"]


def ultrasound(folder):
    """An image of BUSI with its mask, and another image that stays whole."""
    from PIL import Image
    picture = np.random.default_rng(0).integers(0, 255, (40, 50), dtype=np.uint8)
    for name in ("benign (1)", "benign (1)_mask"):
        Image.fromarray(picture).convert("RGB").save(folder / f"{name}.png")
    (folder / "whole").mkdir()
    Image.fromarray(picture[::-1]).save(folder / "whole" / "normal (1).png")
    return sorted(folder.glob("*.png"))


def answers(folder):
    for name, text in ANSWERS.items():
        (folder / name).write_text(text)
    return sorted(folder.iterdir())


def plists(folder):
    said = {"Images": [{"ImageIndex": 0, "NumberOfROIs": 1, "ROIs": [{"Name": "Mass", "NumberOfPoints": 3, "Point_px": ["(1.0, 2.5)", "(9, 2)", "(9, 9)"]}]}]}
    (folder / "xml.xml").write_bytes(plistlib.dumps(said))
    (folder / "binary.xml").write_bytes(plistlib.dumps(said, fmt=plistlib.FMT_BINARY))
    return sorted(folder.iterdir())


def serving():
    """A function that makes a server on this machine answer everything with given bytes; it returns the server's URL."""
    from loopback import Quiet, Threaded

    from data_scripts import download
    said = []

    def answer(environ, start):
        environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        start("200 fine", [("Content-Length", str(len(said[-1])))])
        return said[-1:]
    listening = Threaded(("127.0.0.1", 0), Quiet)
    listening.set_app(answer)
    threading.Thread(target=listening.serve_forever, daemon=True).start()
    os.environ["NO_PROXY"], download.TRIES = "*", 1
    return lambda data: said.append(data) or f"http://127.0.0.1:{listening.server_port}"


# ---- damage and reading --------------------------------------------------------------------------------------------

def damaged(data, rng):
    """`data` cut short, with bits flipped, bytes set to extremes, or a piece doubled or lost; near its head half the time."""
    data, how = bytearray(data), rng.integers(5)
    reach = len(data) if rng.random() < 0.5 else min(len(data), 1200)
    at = lambda: int(rng.integers(reach))
    if how == 0:
        return bytes(data[:at()])
    for _ in range(int(rng.integers(1, 9))):
        k = min(at(), len(data) - 1)
        if how in (1, 2):
            data[k] ^= 1 << int(rng.integers(8))
        elif how == 3:
            data[k:k + 2] = rng.choice([b"\xff\xff", b"\0\0", b"\x60\xea", b"\xff\x7f"])[:len(data) - k]
        else:
            data[k:k + int(rng.integers(1, 40))] = data[at():at() + int(rng.integers(40))] or b" "
    return bytes(data)


def readers():
    """What reads each kind."""
    from data_scripts import (
        annotations,
        bach,
        bucket,
        busi,
        camelyon,
        cbis_ddsm,
        cbis_tables,
        inbreast,
        tables as texts,
        tcga,
    )
    from xmodal.config import Problem
    from xmodal.imaging import dicom, mammograms, regions, slides

    def mammogram(path):
        dicom.dicom_header(path)
        mammograms.mammogram(dicom.read_dicom(path), size=16)

    def tiles(path):
        slide, mpp = regions.open_slide(path, 1.0)
        with slide:
            slides.tiles(slide, mpp, 64 * mpp, 32, tissue=0.0, n=4)

    def table(path):
        by_name = {"INbreast.csv": lambda p: inbreast.read_table(p.parent), "stages.csv": camelyon.read_stages, "reference.csv": camelyon.read_reference,
                   "microscopy_ground_truth.csv": texts.lines, "mpp.csv": lambda p: regions._table(p.with_name("slide.tif")),
                   "clinical.csv": lambda p: tcga.clinical(p.parent)}
        by_name.get(path.name, lambda p: cbis_tables.read_tables(p.parent))(path)

    def rois(path):
        if not inbreast.read_rois(path):
            raise Problem("The log says that the outlines are damaged.")

    says = serving()

    def one_series(path):
        if cbis_ddsm.find_series(path.parent)[2]:
            raise Problem("The log says that the file cannot be read.")

    def scan(path):
        found = busi.index(path.parent)
        for row in found.itertuples():
            busi.read_mask(row.masks, (40, 50))
        if len(found) < 2:
            raise Problem("The log says that the image cannot be read.")

    def answer(path):
        """A server on this machine answers with what is in the file."""
        url = says(path.read_bytes())
        bach.ZENODO = cbis_ddsm.NBIA = tcga.GDC = url
        {"listing": lambda: bucket.listing(url, "c/"), "series": lambda: cbis_ddsm._from_nbia(None), "record": lambda: bach.fetch(path.parent, dry_run=True),
         "files": lambda: tcga._hits("files", {}, "a", "b", tcga._file), "cases": lambda: tcga._hits("cases", {}, "a", "b", tcga._case)}[path.name]()

    return {"dicom": (dicoms, mammogram), "tiff": (tiffs, tiles), "outlines": (outlines, annotations.read), "tables": (tables, table),
            "plist": (plists, rois), "series": (series, one_series), "ultrasound": (ultrasound, scan), "answers": (answers, answer)}


def read_all(kind, number):
    """Reads `number` damaged files of a kind; prints the name of each first, then what became of them."""
    from xmodal.config import Problem
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    write_files, read = readers()[kind]
    with tempfile.TemporaryDirectory() as folder:
        good = [(path, path.read_bytes()) for path in write_files(Path(folder))]
        for path, _ in good:
            read(path)                                    # whole, it can be read
        used = int(next(line for line in open("/proc/self/status") if line.startswith("VmSize")).split()[1]) * 1024 if os.name == "posix" else 0
        resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY,) * 2)
        counts = {"read": 0, "problem": 0}
        for seed in range(number):
            path, data = good[seed % len(good)]
            print(f"{path.name}, seed {seed}", flush=True)
            path.write_bytes(damaged(data, np.random.default_rng([seed, len(data)])))
            signal.alarm(SECONDS)                         # its default is to end the process
            try:
                read(path)
                counts["read"] += 1
            except Problem as problem:
                counts["problem"] += 1
                assert str(problem).strip()
            signal.alarm(0)
            path.write_bytes(data)
    print(json.dumps(counts))


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="memory is limited as Linux does it")
@pytest.mark.parametrize("kind", NUMBER)
def test_damaged_files_give_a_result_or_a_problem(kind):
    number = NUMBER[kind] * int(os.environ.get("XMODAL_FUZZ", 1))
    done = subprocess.run([sys.executable, __file__, kind, str(number)], cwd=ROOT, capture_output=True, text=True,
                          env=os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}", "OMP_NUM_THREADS": "1"})
    *names, last = done.stdout.splitlines() or [""]
    assert done.returncode == 0, f"{last}: exit {done.returncode}\n{done.stderr[-3000:]}"
    counts = json.loads(last)
    assert sum(counts.values()) == number and counts["problem"] >= 5 and (counts["read"] >= 5 or kind in CHECKED)


@pytest.mark.parametrize("name", ["JPEGLossless", "JPEGLosslessSV1"])
def test_a_lossless_jpeg_that_says_another_size_is_not_read_beyond_its_end(tmp_path, name):
    from xmodal.config import Problem
    from xmodal.imaging import dicom
    path = next(path for path in dicoms(tmp_path) if path.stem == name)
    data = path.read_bytes()
    sof = data.index(b"\xff\xc3")
    rows, columns = dicom.read_pixels(path)[1].shape
    path.write_bytes(data[:sof + 5] + (2 * rows).to_bytes(2, "big") + (0xEA40).to_bytes(2, "big") + data[sof + 9:])
    with pytest.raises(Problem, match="says another size than"):
        dicom.read_pixels(path)


def test_over_two_thousand_files_are_tried():
    assert sum(NUMBER.values()) >= 2000


if __name__ == "__main__":
    read_all(sys.argv[1], int(sys.argv[2]))
