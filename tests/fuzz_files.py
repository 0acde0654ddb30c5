"""Small whole files of every kind that xmodal and data_scripts read, for fuzz_campaign.py to change.

Each function writes the files of one kind into a folder and returns their paths.
"""
import json
import plistlib

import numpy as np
import tifffile
from dicom_files import CODECS, compress_runs, item, picture, rewrite, write
from PIL import Image
from pydicom import uid
from pydicom.encaps import encapsulate

from data_scripts.phantom.native import SECONDARY_CAPTURE, pyramid, write_dicom

# ---- images ----------------------------------------------------------------------------------------------

def dicoms(folder):
    """One tiny mammogram in every encoding, without and with all that its header can ask for."""
    table = item(LUTDescriptor=[256, 0, 16])
    table[0].add_new("LUTData", "US", list(range(256)))
    plain = write(folder / "plain.dcm", picture(np.uint16), ImagerPixelSpacing=[0.07, 0.07],
                  ViewPosition="CC", ImageLaterality="L", PatientID="P_00001_LEFT_CC",
                  RescaleSlope="2", RescaleIntercept="1",
                  WindowCenter="9000", WindowWidth="20000", PixelPaddingValue=0,
                  EstimatedRadiographicMagnificationFactor="1.5", PhotometricInterpretation="MONOCHROME1")
    write(folder / "table.dcm", picture(np.uint8), 8, VOILUTSequence=table,
          PhotometricInterpretation="MONOCHROME1")
    for syntax in (uid.ImplicitVRLittleEndian, uid.DeflatedExplicitVRLittleEndian, uid.ExplicitVRBigEndian):
        path = folder / f"{syntax.keyword}.dcm"
        path.write_bytes(plain.read_bytes())
        rewrite(path, syntax)
    runs = folder / "rle.dcm"
    runs.write_bytes(plain.read_bytes())
    compress_runs(runs)
    for syntax, (encode, kinds, _) in CODECS.items():
        pixels = picture(np.dtype(kinds[-1]))
        path = write(folder / f"{syntax.keyword}.dcm", pixels, bits=pixels.itemsize * 8)
        rewrite(path, syntax, encapsulate([bytes(encode(pixels))]))
    return sorted(folder.glob("*.dcm"))


def tiffs(folder):
    """A pyramid and plain photographs in several compressions."""
    rgb = np.random.default_rng(0).integers(60, 200, (32, 32, 3)).astype(np.uint8).repeat(8, 0).repeat(8, 1)
    pyramid(folder / "slide.tif", rgb, 1.0, 80, levels=2)
    encodings = {
        "plain": {},
        "deflate": {"compression": "deflate"},
        "tiled": {"tile": (64, 64), "compression": "lzw"},
    }
    for name, encoding in encodings.items():
        tifffile.imwrite(folder / f"{name}.tif", rgb, photometric="rgb", resolution=(1e4, 1e4),
                         resolutionunit="CENTIMETER", **encoding)
    return sorted(folder.glob("*.tif"))


def series(folder):
    """One tiny image of CBIS-DDSM, whose header tells its series."""
    path = folder / "1-1.dcm"
    write_dicom(path, np.zeros((16, 16), np.uint8), uid.ImplicitVRLittleEndian, SECONDARY_CAPTURE, 8,
                SOPInstanceUID="2.25.1", SeriesInstanceUID="1.3", PatientID="P_00001_LEFT_CC.dcm",
                InstanceNumber=1, SeriesDescription="cropped images")
    return [path]


def ultrasound(folder):
    """An image of BUSI with its mask, and another image that stays whole."""
    pixels = np.random.default_rng(0).integers(0, 255, (40, 50), dtype=np.uint8)
    for name in ("benign (1)", "benign (1)_mask"):
        Image.fromarray(pixels).convert("RGB").save(folder / f"{name}.png")
    (folder / "whole").mkdir()
    Image.fromarray(pixels[::-1]).save(folder / "whole" / "normal (1).png")
    return sorted(folder.glob("*.png"))


# ---- outlines --------------------------------------------------------------------------------------------

ASAP = (
    '<?xml version="1.0"?>\n'
    '<ASAP_Annotations><Annotations><Annotation Name="A" Type="Polygon" PartOfGroup="Tumor" Color="#F4FA58">'
    '<Coordinates>\n'
    '<Coordinate Order="0" X="5.5" Y="9.25" />'
    '<Coordinate Order="1" X="50" Y="9" />'
    '<Coordinate Order="2" X="30" Y="70" /></Coordinates></Annotation>\n'
    '</Annotations><AnnotationGroups><Group Name="Tumor" PartOfGroup="None" Color="#00ff00"><Attributes />'
    '</Group></AnnotationGroups></ASAP_Annotations>'
)
IMAGESCOPE = (
    '<Annotations MicronsPerPixel="0.5"><Annotation Id="1"><Regions>'
    '<Region Id="1" Text="" NegativeROA="0"><Attributes>\n'
    '<Attribute Name="Description" Id="0" Value="Invasive" /></Attributes>'
    '<Vertices><Vertex X="1" Y="2" Z="0" /><Vertex X="30" Y="2" Z="0" />\n'
    '<Vertex X="30" Y="40" Z="0" /></Vertices></Region></Regions></Annotation></Annotations>'
)
NCRF = {"positive": [{"name": "A", "vertices": [[1, 2], [30, 2], [30, 40]]}], "negative": []}


def outlines(folder):
    """Outlines of tumour in each format that CAMELYON and BACH have, and a mask."""
    (folder / "asap.xml").write_text(ASAP)
    (folder / "scope.xml").write_text(IMAGESCOPE)
    (folder / "ncrf.json").write_text(json.dumps(NCRF))
    mask = np.pad(np.ones((20, 20), np.uint8), 22)
    tifffile.imwrite(folder / "a_mask.tif", mask, tile=(32, 32), compression="deflate", metadata=None)
    return sorted(folder.iterdir())


def plists(folder):
    """Outlines of INbreast as XML and as a binary property list."""
    points = ["(1.0, 2.5)", "(9, 2)", "(9, 9)"]
    region = {"Name": "Mass", "NumberOfPoints": 3, "Point_px": points}
    content = {"Images": [{"ImageIndex": 0, "NumberOfROIs": 1, "ROIs": [region]}]}
    (folder / "xml.xml").write_bytes(plistlib.dumps(content))
    (folder / "binary.xml").write_bytes(plistlib.dumps(content, fmt=plistlib.FMT_BINARY))
    return sorted(folder.iterdir())


# ---- tables and answers ----------------------------------------------------------------------------------

TABLES = {
    "INbreast.csv": "Patient ID;Patient age;Laterality;View;Acquisition date;File Name;ACR;Bi-Rads\r\n"
                    "removed;removed;L;CC;200801;20586908;2;4a\r\n",
    "stages.csv": "patient,stage,center\npatient_000.zip,pN1,0\n"
                  "patient_000_node_0.tif,negative,0\npatient_000_node_1.tif,itc,0\n",
    "reference.csv": "test_001,Tumor,IDC,Macro\ntest_003,Normal,None,None\n",
    "microscopy_ground_truth.csv": "n001.tif,Normal\nb001.tif,Benign\n",
    "mpp.csv": "file,mpp\nslide.tif,0.5\n",
    "clinical.csv": "case,days,dead,diagnosis,stage\n"
                    "TCGA-A8-A06U,100.0,True,\"Lobular carcinoma, NOS\",Stage IIA\n",
}
CASE = ("patient_id,breast{0}density,left or right breast,image view,abnormality id,abnormality type,{1},"
        "assessment,pathology,subtlety,image file path,cropped image file path,ROI mask file path\r\n"
        "P_00001,3,LEFT,CC,1,mass,NA,NA,4,MALIGNANT,4,"
        "A-Training_P_00001_LEFT_CC/1.2/1.3/000000.dcm,A_1/1.2/1.4/000000.dcm,"
        "\"A_1/1.2/1.4/000001.dcm\n\"\r\n")
CASE_COLUMNS = {"mass": ("_", "mass shape,mass margins"), "calc": (" ", "calc type,calc distribution")}


def tables(folder):
    """The tables of the datasets, CBIS-DDSM's case descriptions among them."""
    for name, text in TABLES.items():
        (folder / name).write_text(text, newline="")
    tifffile.imwrite(folder / "slide.tif", np.full((64, 64, 3), 200, np.uint8), photometric="rgb")
    for kind, columns in CASE_COLUMNS.items():
        for part in ("train", "test"):
            path = folder / f"{kind}_case_description_{part}_set.csv"
            path.write_text(CASE.format(*columns), newline="")
    return sorted(folder.glob("*.csv"))


LISTING = (
    '<ListBucketResult><Contents><Key>c/a.tif</Key>'
    '<ETag>&quot;0cc175b9c0f1b6a831c399e269772661&quot;</ETag><Size>9</Size></Contents></ListBucketResult>'
)
SERIES = {"PatientID": "P_00001_LEFT_CC", "StudyInstanceUID": "9.1", "SeriesInstanceUID": "1.1",
          "ImageCount": 2, "FileSize": 100}
GDC_FILE = {"file_id": "a", "file_name": "a.svs", "file_size": 9, "md5sum": "0"}
GDC_CASE = {"submitter_id": "a", "demographic": {"vital_status": "Alive"},
            "diagnoses": [{"days_to_last_follow_up": 3}], "follow_ups": [{"days_to_follow_up": 7}]}
ZENODO_FILE = {"key": "ICIAR2018_BACH_Challenge.zip", "size": 9, "links": {"self": "http://127.0.0.1/a"}}


def hits(hit):
    """The answer of GDC with one hit."""
    return json.dumps({"data": {"hits": [hit], "pagination": {"total": 1}}})


ANSWERS = {
    "listing": LISTING,                                # of an S3 bucket
    "series": json.dumps([SERIES]),                    # NBIA
    "files": hits(GDC_FILE),
    "cases": hits(GDC_CASE),
    "record": json.dumps({"files": [ZENODO_FILE]}),
}


def answers(folder):
    """What the servers of the datasets answer."""
    for name, text in ANSWERS.items():
        (folder / name).write_text(text)
    return sorted(folder.iterdir())
