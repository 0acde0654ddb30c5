"""Downloads against a server on this machine that imitates each route, with the faults that networks have."""
import hashlib
import io
import json
import os
import re
import signal
import socketserver
import subprocess
import sys
import threading
import zipfile
from urllib.parse import parse_qs
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

import numpy as np
import pandas as pd
import pytest

from data_scripts import archive, bach, busi, camelyon, cbis_ddsm, download, inbreast, tcga
from data_scripts.download import File
from xmodal.config import HOME, Problem

DATA = np.random.default_rng(0).bytes(10_240)             # which no archive makes smaller
md5 = lambda data: "md5:" + hashlib.md5(data).hexdigest()


class Quiet(WSGIRequestHandler):
    def log_message(self, *args):
        pass


class Threaded(socketserver.ThreadingMixIn, WSGIServer):
    daemon_threads = True


class Server:
    """`files` by path, bytes or a function (query, body) -> bytes; `faults` by path, of which each request takes the first."""

    def __init__(self):
        self.files, self.faults, self.seen, self.release = {}, {}, [], threading.Event()

    def __call__(self, environ, start):
        path = environ["PATH_INFO"]
        body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        self.seen.append((path, environ.get("HTTP_RANGE", "")))
        fault = self.faults[path].pop(0) if self.faults.get(path) else ""
        if path not in self.files or fault.isdigit():
            start(f"{fault or 404} no", [("Content-Length", "0")])
            return []
        data = self.files[path]
        data = data(parse_qs(environ["QUERY_STRING"]), body) if callable(data) else data
        tag = f'"{hashlib.md5(data).hexdigest()}"'
        first = re.match(r"bytes=(\d+)-", environ.get("HTTP_RANGE", ""))
        same = environ.get("HTTP_IF_RANGE", tag) == tag
        begin = int(first[1]) if first and same and fault != "whole" else 0
        headers = [("ETag", tag)] * (fault != "nameless") + [("Content-Length", str(len(data) - begin))]
        span = [("Content-Range", f"bytes {begin}-{len(data) - 1}/{len(data)}")]
        start("206 part" if begin else "200 fine", headers + span if begin else headers)
        middle = len(data) // 3
        wrong = data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1:]
        return self.send((wrong if fault == "flip" else data)[begin:], fault)

    def send(self, data, fault):
        if fault in ("cut", "hang", "nameless"):
            yield data[:len(data) // 2]
            if fault == "hang":
                self.release.wait(20)
        else:
            yield data


@pytest.fixture
def server(monkeypatch):
    made = Server()
    with Threaded(("127.0.0.1", 0), Quiet) as listening:
        listening.set_app(made)
        made.url = f"http://127.0.0.1:{listening.server_port}"
        threading.Thread(target=listening.serve_forever, args=(0.02,), daemon=True).start()
        for name, value in (("PAUSE", 0.01), ("TRIES", 3), ("TIMEOUT", (2, 0.5)), ("CHUNK", 1000)):
            monkeypatch.setattr(download, name, value)
        yield made
        made.release.set()
        listening.shutdown()


@pytest.fixture
def one(server, tmp_path):
    """(server, its one file, where it is to lie)."""
    server.files["/a.bin"] = DATA
    return server, File(f"{server.url}/a.bin", "folder/a.bin", len(DATA), md5(DATA)), tmp_path / "folder" / "a.bin"


# ---- one file ----------------------------------------------------------------------------------------------------

def test_a_file_comes_once_and_quietly(one, tmp_path, capfd):
    server, file, path = one
    assert download.obtain([file], tmp_path, "terms", dry_run=True).state.tolist() == ["missing"] and not server.seen and not path.exists()
    assert download.obtain([file], tmp_path, "terms").state.tolist() == ["complete"]
    told = capfd.readouterr()
    assert path.read_bytes() == DATA and "terms" in told.out and not told.err, "no progress bar where there is no terminal"
    download.download([file], tmp_path)
    assert len(server.seen) == 1, "it was there"
    path.write_bytes(DATA[:-1] + b"?")
    download.download([file], tmp_path)
    assert len(server.seen) == 2 and path.read_bytes() == DATA, "it was damaged"
    assert os.listdir(path.parent) == ["a.bin"]


@pytest.mark.parametrize("faults, ranges", [
    (["cut"], ["", "bytes=5000-"]),                       # goes on after the last whole piece of 1,000
    (["cut", "whole"], ["", "bytes=5000-"]),              # the server ignores Range and sends all
    (["hang"], ["", "bytes=5000-"]),
    (["cut", "503", "cut"], ["", "bytes=5000-", "bytes=5000-", "bytes=7000-"]),
    (["503", "429"], ["", "", ""]),
    (["flip"], ["", ""])], ids=str)                       # all came, but wrong: from the start
def test_it_goes_on_after_a_fault(one, tmp_path, faults, ranges):
    server, file, path = one
    server.faults["/a.bin"] = list(faults)
    download.download([file], tmp_path)
    assert path.read_bytes() == DATA and [r for _, r in server.seen] == ranges


def test_a_file_that_changed_meanwhile_starts_anew(one, tmp_path):
    server, file, path = one
    server.faults["/a.bin"] = ["cut", "503", "503"]
    with pytest.raises(Problem, match="in 3 tries"):
        download.download([File(file.url, file.path)], tmp_path)
    assert path.with_name("a.bin.part").stat().st_size == 5000
    server.files["/a.bin"] = other = DATA[::-1]
    download.download([File(file.url, file.path)], tmp_path)
    assert path.read_bytes() == other and server.seen[-1] == ("/a.bin", "bytes=5000-")


def test_without_etag_and_checksum_it_starts_anew(one, tmp_path):
    server, file, path = one
    server.faults["/a.bin"] = ["nameless"]
    download.download([File(file.url, file.path)], tmp_path)
    assert path.read_bytes() == DATA and server.seen[-1] == ("/a.bin", "")


def test_a_killed_process_is_continued(one, tmp_path):
    server, file, path = one
    server.faults["/a.bin"] = ["hang"]
    code = f"from data_scripts import download as d; d.CHUNK = 1000; d.download([d.File({file.url!r}, {file.path!r}, {file.bytes}, {file.checksum!r})], {str(tmp_path)!r})"
    part = path.with_name("a.bin.part")
    child = subprocess.Popen([sys.executable, "-c", code], cwd=HOME)
    while not (part.exists() and part.stat().st_size):
        assert child.poll() is None
        threading.Event().wait(0.05)
    child.send_signal(signal.SIGKILL)
    child.wait()
    have = part.stat().st_size
    download.download([file], tmp_path)
    assert path.read_bytes() == DATA and server.seen[-1] == ("/a.bin", f"bytes={have}-") and not part.exists()


@pytest.mark.parametrize("fault, requests, said", [("flip", 3, "md5"), ("503", 3, "in 3 tries"), ("404", 1, "refused")])
def test_what_never_comes_is_named_and_the_rest_is_kept(one, tmp_path, fault, requests, said):
    server, file, path = one
    server.files["/b.bin"] = b"b"
    server.faults["/a.bin"] = [fault] * 9
    with pytest.raises(Problem, match=f"1 of 2 files did not come.*a.bin.*{said}"):
        download.download([file, File(f"{server.url}/b.bin", "b.bin", 1)], tmp_path)
    assert not path.exists() and (tmp_path / "b.bin").read_bytes() == b"b" and [p for p, _ in server.seen].count("/a.bin") == requests


def test_it_stops_after_many_failures(server, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "GIVE_UP", 2)
    with pytest.raises(Problem, match="2 of 50 files did not come"):
        download.download([File(f"{server.url}/{i}", str(i)) for i in range(50)], tmp_path, workers=1)
    assert len(server.seen) < 10


def test_a_disk_too_small_is_seen_before_the_start(one, tmp_path):
    server, file, _ = one
    with pytest.raises(Problem, match="make room"):
        download.obtain([File(file.url, "huge", 10 ** 18)], tmp_path, "terms")
    assert not server.seen


@pytest.mark.parametrize("name", ["../a", "/a", "b/../../a", "..\\a"])
def test_a_server_cannot_name_a_file_outside(one, tmp_path, name):
    with pytest.raises(Problem, match="outside"):
        download.obtain([File(one[1].url, name)], tmp_path / "root", "terms")
    assert not one[0].seen


# ---- archives ----------------------------------------------------------------------------------------------------

def zipped(members):
    """Bytes of a zip archive of {name or ZipInfo: bytes}."""
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as out:
        for name, data in members.items():
            out.writestr(name, data)
    return made.getvalue()


def link(name):
    made = zipfile.ZipInfo(name)
    made.external_attr = 0o120777 << 16
    return made


@pytest.mark.parametrize("members", [{"../evil": b""}, {"/evil": b""}, {"a/../../evil": b""}, {"..\\evil": b""}, {"C:evil": b""},
                                     {link("evil"): b"/etc/passwd"}, {"bomb": bytes(10 ** 6)}], ids=lambda m: str(next(iter(m))))
def test_harmful_archives_are_refused(tmp_path, members):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.zip").write_bytes(zipped({"fine": b"fine", **members}))
    with pytest.raises(Problem, match="not unpacked"):
        archive.unpack(tmp_path / "in" / "a.zip", tmp_path / "in" / "folder", most=10 ** 5)
    assert os.listdir(tmp_path) == ["in"] and os.listdir(tmp_path / "in") == ["a.zip"]


def test_a_damaged_archive_leaves_nothing_and_is_fetched_again(server, tmp_path):
    server.files["/a.zip"] = good = zipped({"folder/x": DATA})
    server.faults["/a.zip"] = ["flip"]
    download.download([File(f"{server.url}/a.zip", "folder", unpacked=10 ** 5)], tmp_path)
    assert (tmp_path / "folder" / "x").read_bytes() == DATA and os.listdir(tmp_path) == ["folder"] and len(server.seen) == 2
    (tmp_path / "b.zip").write_bytes(good.replace(b"folder/x", b"folder/y", 1))
    with pytest.raises(archive.Damaged, match="damaged"):
        archive.unpack(tmp_path / "b.zip", tmp_path / "other", most=10 ** 5)
    assert sorted(os.listdir(tmp_path)) == ["b.zip", "folder"]


# ---- the routes --------------------------------------------------------------------------------------------------

def bucket(server, name, objects):
    """An open S3 bucket of {key: bytes} at /name, whose listing has three keys a page."""
    server.files |= {f"/{name}/{key}": data for key, data in objects.items()}

    def page(query, body):
        keys = sorted(k for k in objects if k.startswith(query["prefix"][0]))
        begin = int(query.get("continuation-token", ["0"])[0])
        items = "".join(f"<Contents><Key>{k}</Key><ETag>&quot;{md5(objects[k])[4:]}&quot;</ETag><Size>{len(objects[k])}</Size></Contents>"
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
    server.files |= {f"/TCIA/{name}": b"patient_id,breast_density\r\n" for name in cbis_ddsm.TABLES}
    images = {s: {f"{i:08}.dcm": f"{s} {i}".encode() for i in range(n)} for _, s, n in rows}
    server.hashes = lambda s: "Filename,MD5Hash\n" + "".join(f"{name},{md5(data)[4:]}\n" for name, data in images[s].items())
    listed = [{"PatientID": p, "StudyInstanceUID": f"9.{s}", "SeriesInstanceUID": s, "ImageCount": n, "FileSize": 100} for p, s, n in reversed(rows)]
    server.files["/NBIA/getSeries"] = lambda query, body: json.dumps(listed).encode() if query["Collection"] == ["CBIS-DDSM"] else b"[]"
    server.files["/NBIA/getImageWithMD5Hash"] = lambda query, body: zipped(
        {**images[query["SeriesInstanceUID"][0]], "md5hashes.csv": server.hashes(query["SeriesInstanceUID"][0])})
    return server, tmp_path / "root"


def test_cbis_ddsm_comes_from_idc(cbis):
    server, root = cbis
    assert not cbis_ddsm.fetch(root, dry_run=True).state.eq("complete").any() and not root.exists()
    plan = cbis_ddsm.fetch(root)
    assert len(plan) == 4 + 6 and plan.state.eq("complete").all() and plan.bytes[4:].tolist() == [5] * 6
    assert (root / "cbis_ddsm/P_00038_LEFT_CC.dcm/9.2.1/MG_2.1/0.dcm").read_bytes() == b"2.1 0"
    assert not any("NBIA" in path for path, _ in server.seen)


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
    server.files[f"/TCIA/{cbis_ddsm.TABLES[0]}"] = b"<html>moved</html>"
    with pytest.raises(Problem, match="is no case description"):
        cbis_ddsm.fetch(root)
    assert not (root / cbis_ddsm.TABLES[0]).exists()


def test_idc_lists_the_whole_collection():
    series = cbis_ddsm.idc_series()
    assert len(series) == 6775 and series.instanceCount.sum() == 10239          # IDC v25
    assert series.series_aws_url.str.fullmatch(r"s3://idc-open-data/[0-9a-f-]{36}/\*").all()
    assert series.film[:3].str.match("P_00001_LEFT_CC").any() and series.film.is_monotonic_increasing


def test_bach_comes_from_zenodo(server, tmp_path, monkeypatch):
    data = zipped({"ICIAR2018_BACH_Challenge/Photos/Normal/n001.tif": DATA, "__MACOSX/x": b""})
    server.files |= {"/record": json.dumps({"files": [{"key": bach.ARCHIVE, "size": len(data), "checksum": md5(data),
                                                       "links": {"self": f"{server.url}/content"}}]}).encode(), "/content": data}
    monkeypatch.setattr(bach, "ZENODO", f"{server.url}/record")
    with pytest.raises(Problem, match=bach.MD5):
        bach.fetch(tmp_path)                              # not the archive whose md5 is published
    monkeypatch.setattr(bach, "MD5", md5(data)[4:])
    assert bach.fetch(tmp_path).state.tolist() == ["complete"]
    assert (tmp_path / "ICIAR2018_BACH_Challenge/Photos/Normal/n001.tif").read_bytes() == DATA and os.listdir(tmp_path) == ["ICIAR2018_BACH_Challenge"]
    server.files["/record"] = b"<html>"
    with pytest.raises(Problem, match="no good answer"):
        bach.fetch(tmp_path)


def test_camelyon_comes_from_its_bucket(server, tmp_path, monkeypatch):
    slides = [f"CAMELYON16/images/{kind}_00{i}.tif" for kind in ("normal", "test", "tumor") for i in (1, 2)] + [
        f"CAMELYON17/images/patient_{p}_node_0.tif" for p in ("000", "150")]
    objects = {name: name.encode() for name in slides + ["CAMELYON16/annotations/tumor_001.xml", "CAMELYON16/masks/tumor_001_mask.tif"]}
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
    server.files["/c/CAMELYON16/checksums.md5"] = objects["CAMELYON16/checksums.md5"].replace(md5(slides[0].encode())[4:].encode(), b"0" * 32)
    with pytest.raises(Problem, match="normal_001.tif"):
        camelyon.fetch(tmp_path)


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
    (folder / "AllDICOMs" / "20586908_6c613a14b80a8591_MG_L_CC_ANON.dcm").write_bytes(DATA)
    plan = inbreast.fetch(tmp_path)
    assert plan.state.tolist() == ["complete", "missing"] and plan.bytes[0] == len(DATA)
    assert "1 of 2 listed images of 1 patients" in capsys.readouterr().out and "20586934" in caplog.text


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
