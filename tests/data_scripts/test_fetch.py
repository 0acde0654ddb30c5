"""The fetch of each other dataset against a server on this machine that imitates its route, and
01_download."""
import json
import os

import nbformat
import pytest
from IPython.display import display
from loopback import DATA, md5, zipped

from data_scripts import bach, busi, camelyon, inbreast, tcga
from imitations import bucket, image
from slide_copies import asap
from xmodal import config
from xmodal.config import Problem


def zenodo(server, data, monkeypatch):
    """Zenodo with the archive of BACH."""
    entry = {"key": bach.ARCHIVE, "size": len(data), "links": {"self": f"{server.url}/content"}}
    server.files |= {"/record": json.dumps({"files": [entry]}).encode(), "/content": data}
    monkeypatch.setattr(bach, "ZENODO", f"{server.url}/record")


def test_bach_comes_from_zenodo(server, tmp_path, monkeypatch):
    photos = "ICIAR2018_BACH_Challenge/Photos"
    data = zipped(
        {
            f"{photos}/Normal/n001.tif": DATA,
            f"{photos}/microscopy_ground_truth.csv": b"n001.tif,Normal\n",
            "__MACOSX/x": b"",
        }
    )
    zenodo(server, data, monkeypatch)
    with pytest.raises(Problem, match=bach.MD5):
        bach.fetch(tmp_path)  # not the archive whose md5 is published
    monkeypatch.setattr(bach, "MD5", md5(data)[4:])
    assert bach.fetch(tmp_path).state.tolist() == ["complete"]
    assert (tmp_path / photos / "Normal" / "n001.tif").read_bytes() == DATA
    assert os.listdir(tmp_path) == [
        "ICIAR2018_BACH_Challenge"
    ]
    assert bach.index(tmp_path)["sample"].tolist() == ["bach/n001"]
    server.files["/record"] = b"<html>"
    with pytest.raises(Problem, match="no good answer"):
        bach.fetch(tmp_path)


OLD_SLIDES = [
    "CAMELYON16/images/normal_001.tif", "CAMELYON16/images/normal_002.tif", "CAMELYON16/images/test_001.tif",
    "CAMELYON16/images/test_002.tif", "CAMELYON16/images/tumor_001.tif", "CAMELYON16/images/tumor_002.tif"]
NEW_SLIDES = ["CAMELYON17/images/patient_000_node_0.tif", "CAMELYON17/images/patient_150_node_0.tif"]
OUTLINES = "CAMELYON16/annotations/tumor_001.xml"
STAGES = b"patient,stage,center\npatient_000.zip,pN0,0\npatient_000_node_0.tif,negative,0\n"


def camelyon_objects():
    """{key: bytes} of a bucket of CAMELYON, with checksums of all but the table of stages."""
    names = [*OLD_SLIDES, *NEW_SLIDES, "CAMELYON16/masks/tumor_001_mask.tif"]
    objects = {name: name.encode() for name in names} | {OUTLINES: asap("_0").encode()}
    for part in ("CAMELYON16", "CAMELYON17"):
        sums = [f"{md5(objects[key])[4:]} *{key.split('/', 1)[1]}" for key in objects if key.startswith(part)]
        objects[f"{part}/checksums.md5"] = "\n".join(sums).encode()
    return objects | {"CAMELYON17/stages.csv": STAGES}


def test_camelyon_comes_from_its_bucket(server, tmp_path, monkeypatch):
    objects = camelyon_objects()
    monkeypatch.setattr(camelyon, "BUCKET", bucket(server, "c", objects))
    first = camelyon.fetch(tmp_path, limit=4, dry_run=True)
    assert [path.split("/")[-1] for path in first.path] == [
        "stages.csv", "tumor_001.xml", "patient_000_node_0.tif", "normal_001.tif",
        "test_001.tif", "tumor_001.tif"]
    plan = camelyon.fetch(tmp_path)
    came = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert set(plan.path) == came == {*OLD_SLIDES, NEW_SLIDES[0], OUTLINES, "CAMELYON17/stages.csv"}
    rows = camelyon.index(tmp_path).set_index("study")
    assert rows.allowed.to_dict() == {
        "normal_001": 0b0001, "normal_002": 0b0001, "tumor_001": 0b1000, "patient_000": 0b0001}
    right = md5(OLD_SLIDES[0].encode())[4:].encode()
    sums = objects["CAMELYON16/checksums.md5"]
    server.files["/c/CAMELYON16/checksums.md5"] = sums.replace(right, b"0" * 32)
    with pytest.raises(Problem, match="normal_001.tif"):
        camelyon.fetch(tmp_path)


TCGA_SLIDES = [f"TCGA-A8-A06{letter}-01Z-00-DX1.{'0' * 8}-0000-0000-0000-{'0' * 12}.svs" for letter in "UVW"]
DIAGNOSIS = {
    "primary_diagnosis": "Lobular carcinoma, NOS", "ajcc_pathologic_stage": "Stage IIA",
    "days_to_last_follow_up": None}
TCGA_CASES = [
    {"submitter_id": "TCGA-A8-A06U", "demographic": {"vital_status": "Dead", "days_to_death": 100},
     "diagnoses": [DIAGNOSIS]},
    {"submitter_id": "TCGA-A8-A06V", "demographic": {"vital_status": "Alive"},
     "follow_ups": [{"days_to_follow_up": 7}]},
    {"submitter_id": "TCGA-A8-A06W"}]


def gdc(server, monkeypatch):
    """The Genomic Data Commons with three slides and three cases, two hits to a page."""
    files = []
    for i, name in enumerate(TCGA_SLIDES):
        data = DATA + b"x" * i
        file = {"file_id": f"id{i}", "file_name": name, "file_size": len(data), "md5sum": md5(data)[4:]}
        files.append(file)
        server.files[f"/data/id{i}"] = data

    def answer(hits, project):
        def page(query, body):
            asked = json.loads(body)
            terms = [term["content"] for term in asked["filters"]["content"]]
            assert {term["field"]: term["value"] for term in terms}[project] == ["TCGA-BRCA"]
            part = hits[asked["from"]:asked["from"] + asked["size"]]
            return json.dumps({"data": {"hits": part, "pagination": {"total": len(hits)}}}).encode()
        return page

    server.files["/files"] = answer(files, "cases.project.project_id")
    server.files["/cases"] = answer(TCGA_CASES, "project.project_id")
    monkeypatch.setattr(tcga, "GDC", server.url)
    monkeypatch.setattr(tcga, "PAGE", 2)


def test_tcga_comes_from_gdc(server, tmp_path, monkeypatch):
    gdc(server, monkeypatch)
    assert len(tcga.fetch(tmp_path, limit=1, dry_run=True)) == 1 and not os.listdir(tmp_path)
    assert tcga.fetch(tmp_path).path.tolist() == [f"slides/{name}" for name in TCGA_SLIDES]
    assert tcga.index(tmp_path).study.tolist() == [case["submitter_id"] for case in TCGA_CASES]
    people = tcga.clinical(tmp_path)
    assert people.dead.tolist() == [True, False, False]
    assert people.days[:2].tolist() == [100, 7] and people.days.isna().tolist()[2]
    assert people.loc["TCGA-A8-A06U", "diagnosis"] == "Lobular carcinoma, NOS"
    assert people.loc["TCGA-A8-A06W", "stage"] == ""


def test_inbreast_is_checked_where_it_lies(tmp_path, capsys, caplog):
    folder = tmp_path / "INbreast Release 1.0"
    (folder / "AllDICOMs").mkdir(parents=True)
    with pytest.raises(Problem, match="no open download"):
        inbreast.fetch(tmp_path)
    lines = [f"removed;removed;L;CC;201001;{n};2;1" for n in (20586908, 20586934)]
    header = "Patient ID;Patient age;Laterality;View;Acquisition date;File Name;ACR;Bi-Rads"
    (folder / "INbreast.csv").write_bytes("\r\n".join([header, *lines]).encode())
    with pytest.raises(Problem, match="None of the 2 images"):
        inbreast.fetch(tmp_path)
    whole = image(tmp_path, "1.1")
    path = folder / "AllDICOMs" / "20586908_6c613a14b80a8591_MG_L_CC_ANON.dcm"
    path.write_bytes(whole[:-100])
    with pytest.raises(Problem, match="None of the 2 images"):
        inbreast.fetch(tmp_path)  # it breaks off
    assert "which is damaged" not in caplog.text and "cannot be decoded" in caplog.text
    path.write_bytes(whole)
    plan = inbreast.fetch(tmp_path)
    assert plan.state.tolist() == ["complete", "missing"] and plan.bytes[0] == len(whole)
    assert "1 of 2 listed images, of 1 patients" in capsys.readouterr().out
    assert "20586934" in caplog.text
    assert "no outline file" in caplog.text
    other = path.with_name("20586934_6c613a14b80a8591_MG_L_ML_ANON.dcm")
    other.write_bytes(whole[:-100])
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "20586908.xml").write_text("<plist/>")
    assert inbreast.fetch(tmp_path, dry_run=True).state.tolist() == ["complete"] * 2, "by their sizes"
    plan = inbreast.fetch(tmp_path)
    assert plan.state.tolist() == ["complete", "damaged"]
    assert plan.outlined.tolist() == [True, False]
    assert "which is damaged" in caplog.text
    assert not len(inbreast.fetch(tmp_path / "none", dry_run=True))
    assert "no open download" in capsys.readouterr().out


def test_busi_comes_from_an_archive(server, tmp_path):
    data = zipped(
        {f"Dataset_BUSI_with_GT/benign/benign (1){end}.png": b"png" for end in ("", "_mask", "_mask_1")}
    )
    server.files["/archive.zip"] = data
    (tmp_path / "busi.zip").write_bytes(data)
    with pytest.raises(Problem, match="no stable official download"):
        busi.fetch(tmp_path / "none")
    for root, source in (("url", f"{server.url}/archive.zip"), ("file", tmp_path / "busi.zip")):
        assert not len(busi.fetch(tmp_path / root, source=source, dry_run=True).query("state == 'complete'"))
        assert not (tmp_path / root).exists()
        plan = busi.fetch(tmp_path / root, source=source)
        assert plan.path.tolist() == [
            "Dataset_BUSI_with_GT/benign/benign (1).png"
        ]
        assert plan.masks.tolist() == [2]


def test_the_notebook_fetches_in_the_profile_paper(cbis, tmp_path, monkeypatch, capsys):
    """Its cells up to the fetch, with parameters as papermill sets them.

    BACH comes, INbreast is missed, and the other datasets lie there.
    """
    server, _ = cbis
    data = zipped({"ICIAR2018_BACH_Challenge/Photos/microscopy_ground_truth.csv": DATA})
    zenodo(server, data, monkeypatch)
    monkeypatch.setattr(bach, "MD5", md5(data)[4:])
    monkeypatch.setattr(config, "DATA", tmp_path)
    notebook = nbformat.read(config.HOME / "notebooks" / "01_download.ipynb", 4)
    cells = [cell.source for cell in notebook.cells if cell.cell_type == "code"][:4]

    def run(**given):
        scope = {"display": display}
        parameters = "\n".join(f"{name} = {value!r}" for name, value in given.items())
        for source in (cells[0], parameters, *cells[1:]):
            exec(source, scope)

    run(PROFILE="paper", FETCH=["inbreast", "bach", "cbis_ddsm"], DRY_RUN=True, LIMIT=1)
    assert "the cohort will be without camelyon" in capsys.readouterr().out
    with pytest.raises(Problem, match="no open download"):
        run(PROFILE="paper")
    for name in ("inbreast", "cbis_ddsm", "camelyon"):
        (tmp_path / "paper" / "native" / name).mkdir(parents=True, exist_ok=True)
    run(PROFILE="paper", FETCH=["bach"])
    assert (
        tmp_path / "paper/native/bach/ICIAR2018_BACH_Challenge/Photos/microscopy_ground_truth.csv"
    ).read_bytes() == DATA
    assert "complete" in capsys.readouterr().out
