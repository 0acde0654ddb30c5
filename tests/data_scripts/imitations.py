"""Imitations of the servers that the datasets come from."""
import hashlib
import json

import numpy as np
import pandas as pd
import pydicom
import pytest
from loopback import md5, zipped
from pydicom.uid import ImplicitVRLittleEndian

from data_scripts import cbis_ddsm, cbis_tables
from data_scripts.phantom.native import SECONDARY_CAPTURE, write_dicom


def etag(data, step):
    """The ETag of an object of S3 that is written in parts of `step` bytes, or whole where `step` is 0."""
    if not step:
        return md5(data)[4:]
    sums = [hashlib.md5(data[k : k + step]).digest() for k in range(0, len(data), step)]
    return f"{hashlib.md5(b''.join(sums)).hexdigest()}-{len(sums)}"


def bucket(server, name, objects, step=0):
    """An open S3 bucket of {key: bytes} at /name, written in parts of `step` bytes; three keys to a page."""
    server.files |= {f"/{name}/{key}": data for key, data in objects.items()}

    def page(query, body):
        keys = sorted(k for k in objects if k.startswith(query["prefix"]))
        begin = int(query.get("continuation-token", 0))
        items = ""
        for key in keys[begin : begin + 3]:
            tag = f"<ETag>&quot;{etag(objects[key], step)}&quot;</ETag>"
            items += f"<Contents><Key>{key}</Key>{tag}<Size>{len(objects[key])}</Size></Contents>"
        if begin + 3 < len(keys):
            items += f"<NextContinuationToken>{begin + 3}</NextContinuationToken>"
        namespace = "http://s3.amazonaws.com/doc/2006-03-01/"
        return f'<ListBucketResult xmlns="{namespace}">{items}</ListBucketResult>'.encode()

    server.files[f"/{name}/"] = page
    return f"{server.url}/{name}"


def image(folder, series, short=0):
    """Bytes of a DICOM image of a series, `short` bytes of its pixels lost."""
    write_dicom(
        folder / "image.dcm",
        np.zeros((20, 30), np.uint16),
        ImplicitVRLittleEndian,
        SECONDARY_CAPTURE,
        16,
        SOPInstanceUID="2.25.1",
        SeriesInstanceUID=series,
    )
    data = pydicom.dcmread(folder / "image.dcm")
    data.PixelData = data.PixelData[: 1200 - short]
    data.save_as(folder / "image.dcm")
    return (folder / "image.dcm").read_bytes()


SERIES = (  # PatientID, SeriesInstanceUID, number of files
    ("Mass-Test_P_00016_LEFT_CC", "1.1", 1),
    ("Mass-Test_P_00016_LEFT_CC_1", "1.2", 2),
    ("P_00038_LEFT_CC.dcm", "2.1", 1),
    ("Calc-Test_P_00038_LEFT_CC_1", "2.2", 2),
)


def idc(server, folder, monkeypatch):
    """The Imaging Data Commons: its index of `SERIES`, and its bucket."""
    import idc_index_data

    rows = []
    objects = {}
    for patient, series, count in SERIES:
        row = {"collection_id": "cbis_ddsm", "PatientID": patient, "StudyInstanceUID": f"9.{series}"}
        row |= {"SeriesInstanceUID": series, "series_aws_url": f"s3://idc-open-data/uuid-{series}/*"}
        rows.insert(0, row | {"instanceCount": count})
        objects |= {f"uuid-{series}/{i}.dcm": f"{series} {i}".encode() for i in range(count)}
    table = pd.DataFrame(rows)
    pd.concat([table, table[:1].assign(collection_id="other")]).to_parquet(folder / "idc.parquet")
    monkeypatch.setattr(idc_index_data, "IDC_INDEX_PARQUET_FILEPATH", folder / "idc.parquet")
    monkeypatch.setattr(cbis_ddsm, "IDC", bucket(server, "idc", objects))


def nbia(server, monkeypatch):
    """NBIA: its list of `SERIES` and its archives; `server.hashes(series)` is the md5hashes.csv in one."""
    images = {}
    listed = []
    for patient, series, count in SERIES:
        images[series] = {f"{i:08}.dcm": f"{series} {i}".encode() for i in range(count)}
        row = {"PatientID": patient, "StudyInstanceUID": f"9.{series}", "SeriesInstanceUID": series}
        listed.insert(0, row | {"ImageCount": count, "FileSize": 100})

    def hashes(series):
        lines = [f"{name},{md5(data)[4:]}\n" for name, data in images[series].items()]
        return "Filename,MD5Hash\n" + "".join(lines)

    def listing(query, body):
        return json.dumps(listed if query["Collection"] == "CBIS-DDSM" else []).encode()

    def archive(query, body):
        series = query["SeriesInstanceUID"]
        return zipped({**images[series], "md5hashes.csv": server.hashes(series)})

    server.hashes = hashes
    server.files |= {"/NBIA/getSeries": listing, "/NBIA/getImageWithMD5Hash": archive}
    monkeypatch.setattr(cbis_ddsm, "NBIA", f"{server.url}/NBIA")


@pytest.fixture
def cbis(server, tmp_path, monkeypatch):
    """(the server with two films: IDC's index and bucket, NBIA's list and archives, the tables; a folder)."""
    idc(server, tmp_path, monkeypatch)
    nbia(server, monkeypatch)
    monkeypatch.setattr(cbis_ddsm, "TCIA", f"{server.url}/TCIA")
    server.files |= {f"/TCIA/{name}": b"patient_id,breast_density\r\n" for name in cbis_tables.TABLES}
    return server, tmp_path / "root"
