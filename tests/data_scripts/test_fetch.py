"""The fetch of each dataset against a server on this machine that imitates its route."""
import hashlib
import json
import os

import nbformat
import numpy as np
import pandas as pd
import pydicom
import pytest
from IPython.display import display
from loopback import DATA, md5, server, zipped  # noqa: F401
from pydicom.uid import ImplicitVRLittleEndian

from data_scripts import bach, busi, camelyon, cbis_ddsm, cbis_tables, download, inbreast, tcga
from data_scripts.bucket import listing
from data_scripts.phantom.mammogram_files import SECONDARY_CAPTURE, write_dicom
from xmodal import config
from xmodal.config import Problem


def etag(data, step):
    """The ETag of an object of S3: its md5, or the md5 of the md5s of its parts of `step` bytes, and their number."""
    sums = [hashlib.md5(data[k:k + step]).digest() for k in range(0, len(data), step)] if step else []
    return f"{hashlib.md5(b''.join(sums)).hexdigest()}-{len(sums)}" if step else md5(data)[4:]


def bucket(server, name, objects, step=0):
    """An open S3 bucket of {key: bytes} at /name, whose listing has three keys a page, written in parts of `step` bytes."""
    server.files |= {f"/{name}/{key}": data for key, data in objects.items()}

    def page(query, body):
        keys = sorted(k for k in objects if k.startswith(query["prefix"]))
        begin = int(query.get("continuation-token", 0))
        items = "".join(f"<Contents><Key>{k}</Key><ETag>&quot;{etag(objects[k], step)}&quot;</ETag><Size>{len(objects[k])}</Size></Contents>"
                        for k in keys[begin:begin + 3])
        more = f"<NextContinuationToken>{begin + 3}</NextContinuationToken>" if begin + 3 < len(keys) else ""
        return f'<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">{items}{more}</ListBucketResult>'.encode()
    server.files[f"/{name}/"] = page
    return f"{server.url}/{name}"


@pytest.fixture
def cbis(server, tmp_path, monkeypatch):
    """The server with two films: IDC's index and bucket, NBIA's list and archives, the tables."""
    import idc_index_data
    rows = [("Mass-Test_P_00016_LEFT_CC", "1.1", 1), ("Mass-Test_P_00016_LEFT_CC_1", "1.2", 2), ("P_00038_LEFT_CC.dcm", "2.1", 1),
            ("Calc-Test_P_00038_LEFT_CC_1", "2.2", 2)]
    table = pd.DataFrame([("cbis_ddsm", p, f"9.{s}", s, f"s3://idc-open-data/uuid-{s}/*", n) for p, s, n in reversed(rows)],
                         columns=["collection_id", "PatientID", "StudyInstanceUID", "SeriesInstanceUID", "series_aws_url", "instanceCount"])
    pd.concat([table, table[:1].assign(collection_id="other")]).to_parquet(tmp_path / "idc.parquet")
    monkeypatch.setattr(idc_index_data, "IDC_INDEX_PARQUET_FILEPATH", tmp_path / "idc.parquet")
    monkeypatch.setattr(cbis_ddsm, "IDC", bucket(server, "idc", {f"uuid-{s}/{i}.dcm": f"{s} {i}".encode() for _, s, n in rows for i in range(n)}))
    for name in ("NBIA", "TCIA"):
        monkeypatch.setattr(cbis_ddsm, name, f"{server.url}/{name}")
    server.files |= {f"/TCIA/{name}": b"patient_id,breast_density\r\n" for name in cbis_tables.TABLES}
    images = {s: {f"{i:08}.dcm": f"{s} {i}".encode() for i in range(n)} for _, s, n in rows}
    server.hashes = lambda s: "Filename,MD5Hash\n" + "".join(f"{name},{md5(data)[4:]}\n" for name, data in images[s].items())
    listed = [{"PatientID": p, "StudyInstanceUID": f"9.{s}", "SeriesInstanceUID": s, "ImageCount": n, "FileSize": 100} for p, s, n in reversed(rows)]
    server.files["/NBIA/getSeries"] = lambda query, body: json.dumps(listed).encode() if query["Collection"] == "CBIS-DDSM" else b"[]"
    server.files["/NBIA/getImageWithMD5Hash"] = lambda query, body: zipped(
        {**images[query["SeriesInstanceUID"]], "md5hashes.csv": server.hashes(query["SeriesInstanceUID"])})
    return server, tmp_path / "root"


def test_cbis_ddsm_comes_from_idc(cbis):
    server, root = cbis
    assert not cbis_ddsm.fetch(root, dry_run=True).state.eq("complete").any() and not root.exists()
    plan = cbis_ddsm.fetch(root)
    assert len(plan) == 4 + 6 and plan.state.eq("complete").all() and plan.bytes[4:].tolist() == [5] * 6
    assert (root / "cbis_ddsm/P_00038_LEFT_CC.dcm/9.2.1/MG_2.1/0.dcm").read_bytes() == b"2.1 0"
    assert not any("NBIA" in path for path, _ in server.seen)


def image(folder, series, short=0):
    """Bytes of a DICOM image of a series, `short` bytes of its pixels lost."""
    write_dicom(folder / "image.dcm", np.zeros((20, 30), np.uint16), ImplicitVRLittleEndian, SECONDARY_CAPTURE, 16, SOPInstanceUID="2.25.1",
                SeriesInstanceUID=series)
    data = pydicom.dcmread(folder / "image.dcm")
    data.PixelData = data.PixelData[:1200 - short]
    data.save_as(folder / "image.dcm")
    return (folder / "image.dcm").read_bytes()


def test_a_file_without_md5_is_held_against_its_identifiers_and_pixels(cbis, tmp_path, monkeypatch):
    server, root = cbis
    objects = {f"uuid-{s}/{i}.dcm": image(tmp_path, s) for s, n in (("1.1", 1), ("1.2", 2), ("2.1", 1), ("2.2", 2)) for i in range(n)}
    objects["uuid-1.1/0.dcm"], objects["uuid-2.1/0.dcm"], objects["uuid-2.2/1.dcm"] = image(tmp_path, "1.2"), image(tmp_path, "2.1", 400), b"no DICOM"
    monkeypatch.setattr(cbis_ddsm, "IDC", bucket(server, "idc", objects, 600))      # of whose parts nobody tells the size
    assert cbis_ddsm.fetch(root, dry_run=True).checksum.eq("").all()
    with pytest.raises(Problem, match="3 of 10 files did not come") as told:
        cbis_ddsm.fetch(root)
    assert "is not the image of the series" in str(told.value)
    assert sorted(p.parent.name for p in root.rglob("*.dcm") if p.is_file()) == ["MG_1.2", "MG_1.2", "MG_2.2"]
    objects |= {"uuid-1.1/0.dcm": image(tmp_path, "1.1"), "uuid-2.1/0.dcm": image(tmp_path, "2.1"), "uuid-2.2/1.dcm": image(tmp_path, "2.2")}
    bucket(server, "idc", objects, 600)
    assert cbis_ddsm.fetch(root).state.eq("complete").all()


@pytest.mark.parametrize("step, parts", [(1000, 11), (5120, 2), (10_240, 1), (20_000, 1)])
def test_an_object_written_in_parts_is_held_against_its_etag(server, tmp_path, step, parts):
    url = bucket(server, "b", {"a.bin": DATA}, step)
    server.parts["/b/a.bin"], server.faults["/b/a.bin"] = step, ["flip"]
    file, = listing(url, "a")
    assert (file.bytes, file.checksum, file.check.keywords["etag"][33:]) == (len(DATA), "", str(parts))
    with pytest.raises(Problem, match="has the ETag .* instead of"):
        server.faults["/b/a.bin"] = ["flip", ""] * 3      # a file, then the size of its parts
        download.download([file], tmp_path)
    assert not os.listdir(tmp_path)
    server.faults["/b/a.bin"] = ["flip"]
    download.download([file], tmp_path)
    assert (tmp_path / "a.bin").read_bytes() == DATA and server.seen[-1][0] == "/b/a.bin"


def test_a_limit_takes_films_with_their_masks(cbis):
    paths = cbis_ddsm.fetch(cbis[1], limit=2, dry_run=True).path[4:]
    assert {path.split("/")[1] for path in paths} == {"Mass-Test_P_00016_LEFT_CC", "Mass-Test_P_00016_LEFT_CC_1"}


def test_cbis_ddsm_comes_from_nbia_where_idc_is_silent(cbis, monkeypatch):
    server, root = cbis
    server.faults["/idc/"] = ["503"] * 99
    plan = cbis_ddsm.fetch(root)
    assert len(plan) == 4 + 4 and plan.state.eq("complete").all()
    folder = root / "cbis_ddsm/Calc-Test_P_00038_LEFT_CC_1/9.2.2/MG_2.2"
    assert sorted(os.listdir(folder)) == ["00000000.dcm", "00000001.dcm", "md5hashes.csv"] and (folder / "00000001.dcm").read_bytes() == b"2.2 1"
    server.faults["/idc/"].clear()
    assert len(cbis_ddsm.fetch(root)) == 4, "what NBIA gave does not come again from IDC"
    (folder / "00000001.dcm").unlink()
    server.faults["/idc/"] = ["503"] * 99
    cbis_ddsm.fetch(root)
    assert (folder / "00000001.dcm").exists(), "a series that is not whole is fetched again"


@pytest.mark.parametrize("wrong", [f"00000000.dcm,{'0' * 32}\n", f"other.dcm,{'0' * 32}\n", "no list"])
def test_an_archive_of_nbia_is_held_against_its_checksums(cbis, wrong):
    server, root = cbis
    server.faults["/idc/"] = ["503"] * 99
    right = server.hashes
    server.hashes = lambda s: wrong if s == "1.1" else right(s)
    with pytest.raises(Problem, match="1 of 8 files did not come.*MG_1.1.*md5"):
        cbis_ddsm.fetch(root)
    assert not (root / "cbis_ddsm/Mass-Test_P_00016_LEFT_CC/9.1.1/MG_1.1").exists()


def test_a_page_in_place_of_a_table_is_not_taken(cbis):
    server, root = cbis
    server.files[f"/TCIA/{cbis_tables.TABLES[0]}"] = b"<html>moved</html>"
    with pytest.raises(Problem, match="is no case description"):
        cbis_ddsm.fetch(root)
    assert not (root / cbis_tables.TABLES[0]).exists()


def test_idc_lists_the_whole_collection():
    series = cbis_ddsm.idc_series()
    assert len(series) == 6775 and series.instanceCount.sum() == 10239          # IDC v25
    assert series.series_aws_url.str.fullmatch(r"s3://idc-open-data/[0-9a-f-]{36}/\*").all()
    assert series.film[:3].str.match("P_00001_LEFT_CC").any() and series.film.is_monotonic_increasing


def test_bach_comes_from_zenodo(server, tmp_path, monkeypatch):
    photos = "ICIAR2018_BACH_Challenge/Photos"
    data = zipped({f"{photos}/Normal/n001.tif": DATA, f"{photos}/microscopy_ground_truth.csv": b"n001.tif,Normal\n", "__MACOSX/x": b""})
    server.files |= {"/record": json.dumps({"files": [{"key": bach.ARCHIVE, "size": len(data), "checksum": md5(data),
                                                       "links": {"self": f"{server.url}/content"}}]}).encode(), "/content": data}
    monkeypatch.setattr(bach, "ZENODO", f"{server.url}/record")
    with pytest.raises(Problem, match=bach.MD5):
        bach.fetch(tmp_path)                              # not the archive whose md5 is published
    monkeypatch.setattr(bach, "MD5", md5(data)[4:])
    assert bach.fetch(tmp_path).state.tolist() == ["complete"]
    assert (tmp_path / photos / "Normal" / "n001.tif").read_bytes() == DATA and os.listdir(tmp_path) == ["ICIAR2018_BACH_Challenge"]
    assert bach.index(tmp_path)["sample"].tolist() == ["bach/n001"]
    server.files["/record"] = b"<html>"
    with pytest.raises(Problem, match="no good answer"):
        bach.fetch(tmp_path)


def test_camelyon_comes_from_its_bucket(server, tmp_path, monkeypatch):
    slides = [f"CAMELYON16/images/{kind}_00{i}.tif" for kind in ("normal", "test", "tumor") for i in (1, 2)] + [
        f"CAMELYON17/images/patient_{p}_node_0.tif" for p in ("000", "150")]
    objects = {name: name.encode() for name in slides + ["CAMELYON16/annotations/tumor_001.xml", "CAMELYON16/masks/tumor_001_mask.tif"]}
    points = "".join(f'<Coordinate Order="{i}" X="{x}" Y="{y}"/>' for i, (x, y) in enumerate([(0, 0), (9, 0), (0, 9)]))
    objects["CAMELYON16/annotations/tumor_001.xml"] = ("<ASAP_Annotations><Annotations><Annotation Type='Polygon' PartOfGroup='_0'><Coordinates>"
                                                       f"{points}</Coordinates></Annotation></Annotations></ASAP_Annotations>").encode()
    for part in ("CAMELYON16", "CAMELYON17"):
        sums = [f"{md5(data)[4:]} *{name.split('/', 1)[1]}" for name, data in objects.items() if name.startswith(part)]
        objects[f"{part}/checksums.md5"] = "\n".join(sums).encode()
    objects["CAMELYON17/stages.csv"] = b"patient,stage,center\npatient_000.zip,pN0,0\npatient_000_node_0.tif,negative,0\n"
    monkeypatch.setattr(camelyon, "BUCKET", bucket(server, "c", objects))
    first = camelyon.fetch(tmp_path, limit=4, dry_run=True)
    assert [p.split("/")[-1] for p in first.path] == ["stages.csv", "tumor_001.xml", "patient_000_node_0.tif", "normal_001.tif", "test_001.tif", "tumor_001.tif"]
    plan = camelyon.fetch(tmp_path)
    found = {str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file()}
    assert set(plan.path) == found == set(slides[:-1]) | {"CAMELYON17/stages.csv", "CAMELYON16/annotations/tumor_001.xml"}
    rows = camelyon.index(tmp_path).set_index("study")
    assert rows.allowed.to_dict() == {"normal_001": 0b0011, "normal_002": 0b0011, "tumor_001": 0b1100, "patient_000": 0b0011}
    server.files["/c/CAMELYON16/checksums.md5"] = objects["CAMELYON16/checksums.md5"].replace(md5(slides[0].encode())[4:].encode(), b"0" * 32)
    with pytest.raises(Problem, match="normal_001.tif"):
        camelyon.fetch(tmp_path)


@pytest.mark.parametrize("answer", [[{}], [{"PatientID": "P_00001_LEFT_CC", "StudyInstanceUID": "1"}], [{"PatientID": 1}], [1], {"a": 1}, None])
def test_an_answer_of_another_form_is_a_problem(cbis, answer):
    server, root = cbis
    server.faults["/idc/"] = ["503"] * 99
    server.files["/NBIA/getSeries"] = json.dumps(answer).encode()
    with pytest.raises(Problem, match="no good answer"):
        cbis_ddsm.fetch(root)


def test_tcga_comes_from_gdc(server, tmp_path, monkeypatch):
    slides = [f"TCGA-A8-A06{c}-01Z-00-DX1.{'0' * 8}-0000-0000-0000-{'0' * 12}.svs" for c in "UVW"]
    cases = [{"submitter_id": "TCGA-A8-A06U", "demographic": {"vital_status": "Dead", "days_to_death": 100}, "diagnoses": [
              {"primary_diagnosis": "Lobular carcinoma, NOS", "ajcc_pathologic_stage": "Stage IIA", "days_to_last_follow_up": None}]},
             {"submitter_id": "TCGA-A8-A06V", "demographic": {"vital_status": "Alive"}, "follow_ups": [{"days_to_follow_up": 7}]},
             {"submitter_id": "TCGA-A8-A06W"}]
    files = [{"file_id": f"id{i}", "file_name": name, "file_size": len(DATA) + i, "md5sum": md5(DATA + b"x" * i)[4:]} for i, name in enumerate(slides)]

    def answer(hits, project):
        def page(query, body):
            asked = json.loads(body)
            assert {c["content"]["field"]: c["content"]["value"] for c in asked["filters"]["content"]}[project] == ["TCGA-BRCA"]
            part = hits[asked["from"]:asked["from"] + asked["size"]]
            return json.dumps({"data": {"hits": part, "pagination": {"total": len(hits)}}}).encode()
        return page
    server.files |= {"/files": answer(files, "cases.project.project_id"), "/cases": answer(cases, "project.project_id")}
    server.files |= {f"/data/id{i}": DATA + b"x" * i for i in range(3)}
    monkeypatch.setattr(tcga, "GDC", server.url)
    monkeypatch.setattr(tcga, "PAGE", 2)
    assert len(tcga.fetch(tmp_path, limit=1, dry_run=True)) == 1 and not os.listdir(tmp_path)
    assert tcga.fetch(tmp_path).path.tolist() == [f"slides/{name}" for name in slides]
    assert tcga.index(tmp_path).study.tolist() == [c["submitter_id"] for c in cases]
    people = tcga.clinical(tmp_path)
    assert people.dead.tolist() == [True, False, False] and people.days[:2].tolist() == [100, 7] and people.days.isna().tolist()[2]
    assert people.loc["TCGA-A8-A06U", "diagnosis"] == "Lobular carcinoma, NOS" and people.loc["TCGA-A8-A06W", "stage"] == ""


def test_inbreast_is_checked_where_it_lies(tmp_path, capsys, caplog):
    folder = tmp_path / "INbreast Release 1.0"
    (folder / "AllDICOMs").mkdir(parents=True)
    with pytest.raises(Problem, match="no open download"):
        inbreast.fetch(tmp_path)
    lines = [f"removed;removed;L;CC;201001;{n};2;1" for n in (20586908, 20586934)]
    (folder / "INbreast.csv").write_bytes("\r\n".join(["Patient ID;Patient age;Laterality;View;Acquisition date;File Name;ACR;Bi-Rads", *lines]).encode())
    with pytest.raises(Problem, match="None of the 2 images"):
        inbreast.fetch(tmp_path)
    whole, path = image(tmp_path, "1.1"), folder / "AllDICOMs" / "20586908_6c613a14b80a8591_MG_L_CC_ANON.dcm"
    path.write_bytes(whole[:-100])
    with pytest.raises(Problem, match="None of the 2 images"):
        inbreast.fetch(tmp_path)                          # it breaks off
    assert "which is damaged" not in caplog.text and "cannot be decoded" in caplog.text
    path.write_bytes(whole)
    plan = inbreast.fetch(tmp_path)
    assert plan.state.tolist() == ["complete", "missing"] and plan.bytes[0] == len(whole)
    assert "1 of 2 listed images, of 1 patients" in capsys.readouterr().out and "20586934" in caplog.text and "no outline file" in caplog.text
    other = path.with_name("20586934_6c613a14b80a8591_MG_L_ML_ANON.dcm")
    other.write_bytes(whole[:-100])
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "20586908.xml").write_text("<plist/>")
    assert inbreast.fetch(tmp_path, dry_run=True).state.tolist() == ["complete"] * 2, "by their sizes"
    plan = inbreast.fetch(tmp_path)
    assert plan.state.tolist() == ["complete", "damaged"] and plan.outlined.tolist() == [True, False] and "which is damaged" in caplog.text
    assert not len(inbreast.fetch(tmp_path / "none", dry_run=True)) and "no open download" in capsys.readouterr().out


def test_busi_comes_from_an_archive(server, tmp_path):
    data = zipped({f"Dataset_BUSI_with_GT/benign/benign (1){end}.png": b"png" for end in ("", "_mask", "_mask_1")})
    server.files["/archive.zip"] = data
    (tmp_path / "busi.zip").write_bytes(data)
    with pytest.raises(Problem, match="no stable official download"):
        busi.fetch(tmp_path / "none")
    for root, source in (("url", f"{server.url}/archive.zip"), ("file", tmp_path / "busi.zip")):
        assert not len(busi.fetch(tmp_path / root, source=source, dry_run=True).query("state == 'complete'")) and not (tmp_path / root).exists()
        plan = busi.fetch(tmp_path / root, source=source)
        assert plan.path.tolist() == ["Dataset_BUSI_with_GT/benign/benign (1).png"] and plan.masks.tolist() == [2]


# ---- the notebook ------------------------------------------------------------------------------------------------

def test_the_notebook_fetches_in_the_profile_paper(cbis, tmp_path, monkeypatch, capsys):
    """Its cells up to the fetch, with parameters as papermill sets them: BACH comes, INbreast is missed, the others lie there."""
    server, _ = cbis
    data = zipped({"ICIAR2018_BACH_Challenge/Photos/microscopy_ground_truth.csv": DATA})
    entry = {"key": bach.ARCHIVE, "size": len(data), "links": {"self": f"{server.url}/content"}}
    server.files |= {"/record": json.dumps({"files": [entry]}).encode(), "/content": data}
    monkeypatch.setattr(bach, "ZENODO", f"{server.url}/record")
    monkeypatch.setattr(bach, "MD5", md5(data)[4:])
    monkeypatch.setattr(config, "DATA", tmp_path)
    cells = [cell.source for cell in nbformat.read(config.HOME / "notebooks" / "01_download.ipynb", 4).cells if cell.cell_type == "code"][:3]

    def run(**given):
        scope = {"display": display}
        for source in (cells[0], "\n".join(f"{name} = {value!r}" for name, value in given.items()), *cells[1:]):
            exec(source, scope)
    run(PROFILE="paper", FETCH=["inbreast", "bach", "cbis_ddsm"], DRY_RUN=True, LIMIT=1)
    assert "the cohort will be without camelyon" in capsys.readouterr().out
    with pytest.raises(Problem, match="no open download"):
        run(PROFILE="paper")
    for name in ("inbreast", "cbis_ddsm", "camelyon"):
        (tmp_path / "paper" / "native" / name).mkdir(parents=True, exist_ok=True)
    run(PROFILE="paper", FETCH=["bach"])
    assert (tmp_path / "paper/native/bach/ICIAR2018_BACH_Challenge/Photos/microscopy_ground_truth.csv").read_bytes() == DATA
    assert "complete" in capsys.readouterr().out
