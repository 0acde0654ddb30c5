"""The fetch of CBIS-DDSM from imitations of IDC and NBIA on this machine."""
import json
import os

import pytest
from loopback import DATA

from data_scripts import cbis_ddsm, cbis_tables, download
from data_scripts.bucket import listing
from imitations import SERIES, bucket, image
from xmodal.config import Problem


def test_cbis_ddsm_comes_from_idc(cbis):
    server, root = cbis
    assert not cbis_ddsm.fetch(root, dry_run=True).state.eq("complete").any() and not root.exists()
    plan = cbis_ddsm.fetch(root)
    assert len(plan) == 4 + 6 and plan.state.eq("complete").all() and plan.bytes[4:].tolist() == [5] * 6
    assert (root / "cbis_ddsm/P_00038_LEFT_CC.dcm/9.2.1/MG_2.1/0.dcm").read_bytes() == b"2.1 0"
    assert not any("NBIA" in path for path, _ in server.seen)


def test_a_file_without_md5_is_held_against_its_identifiers_and_pixels(cbis, tmp_path, monkeypatch):
    server, root = cbis
    whole = {}
    for _, series, count in SERIES:
        whole |= {f"uuid-{series}/{i}.dcm": image(tmp_path, series) for i in range(count)}
    wrong = {
        "uuid-1.1/0.dcm": image(tmp_path, "1.2"),
        "uuid-2.1/0.dcm": image(tmp_path, "2.1", 400),
        "uuid-2.2/1.dcm": b"no DICOM",
    }
    # Nobody tells the size of the parts.
    monkeypatch.setattr(cbis_ddsm, "IDC", bucket(server, "idc", whole | wrong, 600))
    assert cbis_ddsm.fetch(root, dry_run=True).checksum.eq("").all()
    with pytest.raises(Problem, match="3 of 10 files did not come.*is not the image of the series"):
        cbis_ddsm.fetch(root)
    assert sorted(p.parent.name for p in root.rglob("*.dcm") if p.is_file()) == ["MG_1.2", "MG_1.2", "MG_2.2"]
    bucket(server, "idc", whole, 600)
    assert cbis_ddsm.fetch(root).state.eq("complete").all()


@pytest.mark.parametrize("step, parts", [(1000, 11), (5120, 2), (10_240, 1), (20_000, 1)])
def test_an_object_written_in_parts_is_held_against_its_etag(server, tmp_path, step, parts):
    url = bucket(server, "b", {"a.bin": DATA}, step)
    server.parts["/b/a.bin"] = step
    server.faults["/b/a.bin"] = ["flip"]
    (file,) = listing(url, "a")
    assert (file.bytes, file.checksum, file.check.keywords["etag"][33:]) == (len(DATA), "", str(parts))
    with pytest.raises(Problem, match="has the ETag .* instead of"):
        server.faults["/b/a.bin"] = ["flip", ""] * 3  # a file, then the size of its parts
        download.download([file], tmp_path)
    assert not os.listdir(tmp_path)
    server.faults["/b/a.bin"] = ["flip"]
    download.download([file], tmp_path)
    assert (tmp_path / "a.bin").read_bytes() == DATA and server.seen[-1][0] == "/b/a.bin"


def test_a_limit_takes_patients_with_all_their_films_and_masks(cbis):
    paths = cbis_ddsm.fetch(cbis[1], limit=1, dry_run=True).path[4:]
    assert {path.split("/")[1] for path in paths} == {
        "Mass-Test_P_00016_LEFT_CC",
        "Mass-Test_P_00016_LEFT_CC_1",
    }
    cbis[0].faults["/idc/"] = ["503"] * 99
    archives = cbis_ddsm.fetch(cbis[1], limit=1, dry_run=True).path[4:]
    assert set(archives) == {path.rpartition("/")[0] for path in paths}
    assert len(cbis_ddsm.fetch(cbis[1], limit=2, dry_run=True)) == 4 + 4


def test_cbis_ddsm_comes_from_nbia_where_idc_is_silent(cbis, monkeypatch):
    server, root = cbis
    server.faults["/idc/"] = ["503"] * 99
    plan = cbis_ddsm.fetch(root)
    assert len(plan) == 4 + 4 and plan.state.eq("complete").all()
    folder = root / "cbis_ddsm/Calc-Test_P_00038_LEFT_CC_1/9.2.2/MG_2.2"
    assert sorted(os.listdir(folder)) == ["00000000.dcm", "00000001.dcm", "md5hashes.csv"]
    assert (folder / "00000001.dcm").read_bytes() == b"2.2 1"
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

    def hashes(series):
        return wrong if series == "1.1" else right(series)

    server.hashes = hashes
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
    assert len(series) == 6775 and series.instanceCount.sum() == 10239  # IDC v25
    assert series.series_aws_url.str.fullmatch(r"s3://idc-open-data/[0-9a-f-]{36}/\*").all()
    assert series.film[:3].str.match("P_00001_LEFT_CC").any() and series.film.is_monotonic_increasing


@pytest.mark.parametrize(
    "answer",
    [
        [{}],
        [{"PatientID": "P_00001_LEFT_CC", "StudyInstanceUID": "1"}],
        [{"PatientID": 1}],
        [1],
        {"a": 1},
        None,
    ],
)
def test_an_answer_of_another_form_is_a_problem(cbis, answer):
    server, root = cbis
    server.faults["/idc/"] = ["503"] * 99
    server.files["/NBIA/getSeries"] = json.dumps(answer).encode()
    with pytest.raises(Problem, match="no good answer"):
        cbis_ddsm.fetch(root)
