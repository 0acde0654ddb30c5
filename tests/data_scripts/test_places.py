"""Where datasets lie and what their names and tables have been through: links, hidden files, spreadsheets, a
server that compresses unasked."""
import gzip
import http.server
import os
import subprocess
import sys
import threading
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_scripts import busi, camelyon_outlines, download, kmat_pairs, tcga
from data_scripts.indexing import files_below, plain_number
from xmodal import config
from xmodal.config import Problem

SLIDE = "TCGA-A8-A06U-01Z-00-DX1.0F0F0F0F-0000-4000-8000-000000000001.svs"


def write(path, content=b"x"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def picture(path, seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (64, 64), dtype=np.uint8)).save(path)


def test_hidden_files_and_those_still_written_are_no_files_of_a_dataset(tmp_path):
    plain = write(tmp_path / "a.csv")
    similar = write(tmp_path / "b.partial_mastectomy.csv")
    for name in ("._a.csv", ".a.csv.swp.csv", ".notes/b.csv", "a.partial.csv", "a.csv.partial"):
        write(tmp_path / name)
    assert files_below(tmp_path) == files_below(tmp_path, ".csv") == [plain, similar]


def test_names_that_no_table_can_hold_are_left_out_by_name(tmp_path, caplog):
    """A name in Latin-1 would end the run where its table is written."""
    latin = os.fsdecode(b"caf\xe9")
    picture(tmp_path / "benign" / "benign (1).png")
    picture(tmp_path / "benign" / f"benign (2) {latin}.png")
    picture(tmp_path / latin / "malignant (1).png")
    assert list(busi.index(tmp_path)["sample"]) == ["busi/benign_1"]
    for name in (r"benign (2) caf\xe9.png", r"caf\xe9"):
        assert f"{name} is not in UTF-8, so no table can hold it; rename it. Left out." in caplog.text
    with pytest.raises(Problem, match=r"caf\\xe9 is not in UTF-8, .*; rename the folder"):
        busi.index(tmp_path / latin)


def test_folders_behind_links_are_read_for_every_dataset(tmp_path):
    write(tmp_path / "disk" / "u1" / SLIDE)
    picture(tmp_path / "disk" / "b" / "benign" / "benign (1).png")
    picture(tmp_path / "disk" / "ct" / "NCP" / "12" / "100" / "0001.png")
    root = tmp_path / "root"
    root.mkdir()
    for name in ("u1", "b", "ct"):
        (root / name).symlink_to(tmp_path / "disk" / name)
    assert [slide.case for slide in tcga.slides(root)[0]] == ["TCGA-A8-A06U"]
    assert list(busi.index(root).label) == ["benign"]
    scans = kmat_pairs.cc_ccii(root)
    assert list(scans["sample"]) == ["cc_ccii/12/100"] and list(scans.patient) == ["cc_ccii/NCP/12"]


def test_the_companions_in_an_archive_of_macos_are_no_outlines(tmp_path):
    path = tmp_path / "lesion_annotations.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("tumor_001.xml", "<a/>")
        archive.writestr("__MACOSX/._tumor_001.xml", b"\0\5\x16\7")
    assert list(camelyon_outlines.find([path])) == ["tumor_001"]


def test_a_folder_called_dl_is_no_module_for_gdcm(tmp_path):
    (tmp_path / "dl").mkdir()
    code = "import xmodal, gdcm, dl; gdcm.ImageReader(); print(*dl.__path__)"
    environment = os.environ | {"PYTHONPATH": str(config.HOME)}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment,
                          capture_output=True, text=True)
    assert done.stdout.strip() == str(tmp_path / "dl"), done.stderr


def test_zlib_deflates_after_xmodal_was_imported_first():
    """gdcm brings a zlib of its own: loaded before Python's, it ended the process (double free)."""
    code = "import xmodal, zlib; print(len(zlib.compress(bytes(100_000), wbits=-15)) > 50)"
    environment = os.environ | {"PYTHONPATH": str(config.HOME)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip()) == (0, "True"), done.stderr


@pytest.mark.parametrize("text, plain", [
    ("3.0", "3"), ("20000001.00", "20000001"), ("3,0", "3"), ("-1.0", "-1"), ("3", "3"), ("3.5", "3.5"),
    ("4a", "4a"), ("", ""), ("1.2.0", "1.2.0"), ("3,000", "3,000")])
def test_a_number_is_as_it_was_before_a_spreadsheet(text, plain):
    assert plain_number(text) == plain


def test_clinical_tables_of_spreadsheets(tmp_path):
    lines = ["case,days,dead,diagnosis,stage", "TCGA-A8-A06U,12.0,TRUE,x,I", "TCGA-A8-A06V,7,Alive,x,I",
             'TCGA-A8-A06W,"3,5",1.0,x,I', "TCGA-A8-A06X,9,perhaps,x,I", 'TCGA-A8-A06Y,"1,234",1,x,I',
             "TCGA-A8-A06Z,1900-01-12,1,x,I"]
    write(tmp_path / "clinical.csv", "\n".join(lines).encode())
    patients = tcga.clinical(tmp_path)
    assert patients.days.to_dict() == {"TCGA-A8-A06U": 12, "TCGA-A8-A06V": 7, "TCGA-A8-A06W": 3.5}
    assert patients.dead.tolist() == [True, False, True], "unknown words, thousands and dates are left out"


def test_row_numbers_of_a_split_that_are_none_are_a_problem(tmp_path):
    write(tmp_path / "meta" / "meta.csv", b"case_num,diagnosis,derm,clinic\n1.0,nevus,a.jpg,b.jpg\n")
    for name, rows in (("train", b"0.0"), ("valid", b""), ("test", b"")):
        write(tmp_path / "meta" / f"{name}_indexes.csv", b"indexes\n" + rows)
    picture(tmp_path / "images" / "a.jpg")
    table = kmat_pairs.derm7pt(tmp_path, "derm")
    assert table[["patient", "split"]].values.tolist() == [["derm7pt/1", "train"]]
    write(tmp_path / "meta" / "test_indexes.csv", b"indexes\n3-Apr\n")
    with pytest.raises(Problem, match="holds '3-Apr' where the number of a row belongs"):
        kmat_pairs.derm7pt(tmp_path, "derm")


@pytest.mark.parametrize("promised", [3013, None])
def test_an_answer_that_comes_compressed_unasked_is_the_file(tmp_path, monkeypatch, promised):
    body = b"patient_id,x\n" + b"P_1,2\n" * 500

    class Server(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            packed = gzip.compress(body)
            self.send_response(200)
            self.send_header("Content-Encoding", "gzip")
            self.send_header("Content-Length", str(len(packed)))
            self.end_headers()
            self.wfile.write(packed)

        def log_message(self, *_):
            pass
    monkeypatch.setattr(download, "PAUSE", 0.01)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}/t.csv"
        download.download([download.File(address, "t.csv", promised)], tmp_path, 1)
        server.shutdown()
    assert Path(tmp_path, "t.csv").read_bytes() == body and len(list(tmp_path.iterdir())) == 1
