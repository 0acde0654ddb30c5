"""Each route of each dataset with the faults of networks, in what servers list and in what they send."""
import json

import idc_index_data
import pandas as pd
import pytest
from imitations import bucket
from loopback import DATA, md5, zipped

from data_scripts import bach, busi, camelyon, cbis_ddsm, cbis_tables, tcga
from data_scripts.download import ask
from xmodal.config import Problem


def idc(server, folder, monkeypatch):
    """The Imaging Data Commons: its index comes with the project, a listing tells the files of a series."""
    row = {
        "collection_id": "cbis_ddsm",
        "PatientID": "P_00038_LEFT_CC.dcm",
        "StudyInstanceUID": "9.1",
        "SeriesInstanceUID": "1.1",
        "series_aws_url": "s3://idc-open-data/uuid/*",
        "instanceCount": 1,
    }
    pd.DataFrame([row]).to_parquet(folder / "idc.parquet")
    monkeypatch.setattr(idc_index_data, "IDC_INDEX_PARQUET_FILEPATH", folder / "idc.parquet")
    monkeypatch.setattr(cbis_ddsm, "IDC", bucket(server, "idc", {"uuid/0.dcm": DATA}))
    monkeypatch.setattr(cbis_ddsm, "TCIA", f"{server.url}/TCIA")
    server.files |= {f"/TCIA/{name}": b"patient_id,breast_density\r\n" for name in cbis_tables.TABLES}
    return cbis_ddsm.fetch, "/idc/", "/idc/uuid/0.dcm", "cbis_ddsm/P_00038_LEFT_CC.dcm/9.1/MG_1.1/0.dcm"


def nbia(server, folder, monkeypatch):
    idc(server, folder, monkeypatch)
    monkeypatch.setattr(cbis_ddsm, "_from_idc", lambda *_: ask(f"{server.url}/absent"))
    monkeypatch.setattr(cbis_ddsm, "NBIA", f"{server.url}/NBIA")
    listed = [
        {
            "PatientID": "P_00001_LEFT_CC",
            "StudyInstanceUID": "9.1",
            "SeriesInstanceUID": "1.1",
            "ImageCount": 1,
            "FileSize": len(DATA),
        }
    ]
    server.files["/NBIA/getSeries"] = json.dumps(listed).encode()
    server.files["/NBIA/getImageWithMD5Hash"] = zipped(
        {"1-1.dcm": DATA, "md5hashes.csv": f"Filename,MD5Hash\n1-1.dcm,{md5(DATA)[4:]}\n"}
    )
    return (
        cbis_ddsm.fetch,
        "/NBIA/getSeries",
        "/NBIA/getImageWithMD5Hash",
        "cbis_ddsm/P_00001_LEFT_CC/9.1/MG_1.1/1-1.dcm",
    )


def zenodo(server, folder, monkeypatch):
    data = zipped({"ICIAR2018_BACH_Challenge/Photos/Normal/n001.tif": DATA})
    entry = {"key": bach.ARCHIVE, "size": len(data), "links": {"self": f"{server.url}/content"}}
    server.files |= {"/record": json.dumps({"files": [entry]}).encode(), "/content": data}
    monkeypatch.setattr(bach, "ZENODO", f"{server.url}/record")
    monkeypatch.setattr(bach, "MD5", md5(data)[4:])
    return bach.fetch, "/record", "/content", "ICIAR2018_BACH_Challenge/Photos/Normal/n001.tif"


def open_data(server, folder, monkeypatch):
    """The bucket of CAMELYON."""
    objects = {
        "CAMELYON16/images/normal_001.tif": DATA,
        "CAMELYON16/checksums.md5": f"{md5(DATA)[4:]} *images/normal_001.tif\n".encode(),
        "CAMELYON17/checksums.md5": b"\n",
        "CAMELYON17/stages.csv": b"patient,stage,center\n",
    }
    monkeypatch.setattr(camelyon, "BUCKET", bucket(server, "c", objects))
    return camelyon.fetch, "/c/", "/c/CAMELYON16/images/normal_001.tif", "CAMELYON16/images/normal_001.tif"


def gdc(server, folder, monkeypatch):
    name = f"TCGA-A8-A06U-01Z-00-DX1.{'0' * 8}-0000-0000-0000-{'0' * 12}.svs"
    hits = {
        "files": [{"file_id": "id0", "file_name": name, "file_size": len(DATA), "md5sum": md5(DATA)[4:]}],
        "cases": [
            {
                "submitter_id": "TCGA-A8-A06U",
                "demographic": {"vital_status": "Alive"},
                "follow_ups": [{"days_to_follow_up": 7}],
            }
        ],
    }
    server.files |= {
        f"/{kind}": json.dumps({"data": {"hits": listed, "pagination": {"total": 1}}}).encode()
        for kind, listed in hits.items()
    }
    server.files["/data/id0"] = DATA
    monkeypatch.setattr(tcga, "GDC", server.url)
    return tcga.fetch, "/files", "/data/id0", f"slides/{name}"


def archive(server, folder, monkeypatch):
    """BUSI, whose archive has whatever URL the user knows."""
    server.files["/busi.zip"] = zipped({"Dataset_BUSI_with_GT/benign/benign (1).png": DATA})
    return (
        lambda root: busi.fetch(root, source=f"{server.url}/busi.zip"),
        "",
        "/busi.zip",
        "Dataset_BUSI_with_GT/benign/benign (1).png",
    )


@pytest.fixture(params=[idc, nbia, zenodo, open_data, gdc, archive], ids=lambda route: route.__name__)
def route(request, server, tmp_path, monkeypatch):
    """(server, fetch into tmp_path/root, what is asked first, what is fetched, the file that this
    becomes)."""
    fetch, asked, sent, path = request.param(server, tmp_path, monkeypatch)
    return server, lambda: fetch(tmp_path / "root"), asked, sent, tmp_path / "root" / path


@pytest.mark.parametrize("fault", ["cut", "503", "hang", "flip"])
def test_a_fault_is_overcome(route, fault):
    """What is sent breaks off, is refused once, stops, or comes with a wrong bit; so does what is asked
    first, whose bits nothing checks."""
    server, fetch, asked, sent, path = route
    server.faults = {sent: [fault], asked: [fault if fault != "flip" else "503"]}
    fetch()
    assert (
        path.read_bytes() == DATA and not server.faults[sent] and (not asked or not server.faults[asked])
    ), "and the faults were met"
    assert not [
        left for left in path.parents[1].rglob("*") if ".part" in left.name or ".unpacking" in left.name
    ]


def test_a_fetch_that_was_given_up_goes_on_where_it_stopped(route):
    server, fetch, asked, sent, path = route
    server.faults[sent] = ["cut", "503", "503"]
    with pytest.raises(Problem, match="run it again"):
        fetch()
    assert not path.exists()
    fetch()
    assert path.read_bytes() == DATA
    assert [span for name, span in server.seen if name == sent][-1] == "bytes=5000-"


def test_what_comes_wrong_every_time_does_not_take_its_name(route):
    server, fetch, asked, sent, path = route
    server.faults[sent] = ["flip"] * 9
    with pytest.raises(Problem, match="did not come"):
        fetch()
    assert not path.exists() and len([name for name, _ in server.seen if name == sent]) == 3
