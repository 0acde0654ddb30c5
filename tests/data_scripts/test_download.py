"""Files and archives from a server with faults: whole and verified in the end, or not there at all."""
import os
import shutil
import signal
import subprocess
import sys
import threading
import zipfile

import numpy as np
import pytest
from loopback import DATA, md5, zipped

from data_scripts import archive, download
from data_scripts.download import File
from xmodal.config import HOME, Problem


@pytest.fixture
def served(server, tmp_path):
    """(server, its one file, where it is to lie)."""
    server.files["/a.bin"] = DATA
    file = File(f"{server.url}/a.bin", "folder/a.bin", len(DATA), md5(DATA))
    return server, file, tmp_path / "folder" / "a.bin"


# ---- one file ----------------------------------------------------------------------------------------------


def test_a_file_comes_once_and_quietly(served, tmp_path, capfd):
    server, file, path = served
    assert download.obtain([file], tmp_path, "terms", dry_run=True).state.tolist() == ["missing"]
    assert not server.seen
    assert not path.exists()
    assert download.obtain([file], tmp_path, "terms").state.tolist() == ["complete"]
    printed = capfd.readouterr()
    assert path.read_bytes() == DATA and "terms" in printed.out
    assert not printed.err, "no progress bar where there is no terminal"
    download.download([file], tmp_path)
    assert len(server.seen) == 1, "it was there"
    path.write_bytes(DATA[:-1] + b"?")
    download.download([file], tmp_path)
    assert len(server.seen) == 2 and path.read_bytes() == DATA, "it was damaged"
    assert os.listdir(path.parent) == ["a.bin"]


@pytest.mark.parametrize(
    "faults, ranges",
    [
        (["cut"], ["", "bytes=5000-"]),  # goes on after the last whole piece of 1,000
        (["cut", "whole"], ["", "bytes=5000-"]),  # the server ignores Range and sends all
        (["hang"], ["", "bytes=5000-"]),
        (["cut", "503", "cut"], ["", "bytes=5000-", "bytes=5000-", "bytes=7000-"]),
        (["503", "429"], ["", "", ""]),
        (["flip"], ["", ""]),  # all came, but wrong: from the start
    ],
    ids=str,
)
def test_it_goes_on_after_a_fault(served, tmp_path, faults, ranges):
    server, file, path = served
    server.faults["/a.bin"] = list(faults)
    download.download([file], tmp_path)
    assert path.read_bytes() == DATA and [r for _, r in server.seen] == ranges


def test_a_file_that_changed_meanwhile_starts_anew(served, tmp_path):
    server, file, path = served
    server.faults["/a.bin"] = ["cut", "503", "503"]
    with pytest.raises(Problem, match="in 3 tries"):
        download.download([File(file.url, file.path)], tmp_path)
    assert path.with_name("a.bin.part").stat().st_size == 5000
    server.files["/a.bin"] = other = DATA[::-1]
    download.download([File(file.url, file.path)], tmp_path)
    assert path.read_bytes() == other and server.seen[-1] == ("/a.bin", "bytes=5000-")


def test_without_etag_and_checksum_it_starts_anew(served, tmp_path):
    server, file, path = served
    server.faults["/a.bin"] = ["nameless"]
    download.download([File(file.url, file.path)], tmp_path)
    assert path.read_bytes() == DATA and server.seen[-1] == ("/a.bin", "")


def test_a_killed_process_is_continued(served, tmp_path):
    server, file, path = served
    server.faults["/a.bin"] = ["hang"]
    wanted = f"d.File({file.url!r}, {file.path!r}, {file.bytes}, {file.checksum!r})"
    code = (
        "from data_scripts import download as d; d.CHUNK = 1000; "
        f"d.download([{wanted}], {str(tmp_path)!r})"
    )
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


@pytest.mark.parametrize(
    "fault, requests, reason", [("flip", 3, "md5"), ("503", 3, "in 3 tries"), ("404", 1, "refused")]
)
def test_what_never_comes_is_named_and_the_rest_is_kept(served, tmp_path, fault, requests, reason):
    server, file, path = served
    server.files["/b.bin"] = b"b"
    server.faults["/a.bin"] = [fault] * 9
    with pytest.raises(Problem, match=f"1 of 2 files did not come.*a.bin.*{reason}"):
        download.download([file, File(f"{server.url}/b.bin", "b.bin", 1)], tmp_path)
    assert not path.exists()
    assert (tmp_path / "b.bin").read_bytes() == b"b"
    assert [p for p, _ in server.seen].count("/a.bin") == requests


def test_it_stops_after_many_failures(server, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "GIVE_UP", 2)
    with pytest.raises(Problem, match="2 of 50 files did not come"):
        download.download([File(f"{server.url}/{i}", str(i)) for i in range(50)], tmp_path, workers=1)
    assert len(server.seen) < 10


def test_a_disk_too_small_is_seen_before_the_start(served, tmp_path):
    server, file, _ = served
    with pytest.raises(Problem, match="make room"):
        download.obtain([File(file.url, "huge", 10**18)], tmp_path, "terms")
    assert not server.seen


@pytest.mark.parametrize("name", ["../a", "/a", "b/../../a", "..\\a"])
def test_a_server_cannot_name_a_file_outside(served, tmp_path, name):
    with pytest.raises(Problem, match="outside"):
        download.obtain([File(served[1].url, name)], tmp_path / "root", "terms")
    assert not served[0].seen


# ---- archives ----------------------------------------------------------------------------------------------


def link(name):
    made = zipfile.ZipInfo(name)
    made.external_attr = 0o120777 << 16
    return made


@pytest.mark.parametrize(
    "members",
    [
        {"../evil": b""},
        {"/evil": b""},
        {"a/../../evil": b""},
        {"..\\evil": b""},
        {"C:evil": b""},
        {link("evil"): b"/etc/passwd"},
        {"bomb": bytes(10**6)},
    ],
    ids=lambda m: str(next(iter(m))),
)
def test_harmful_archives_are_refused(tmp_path, members):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.zip").write_bytes(zipped({"fine": b"fine", **members}))
    with pytest.raises(Problem, match="not unpacked"):
        archive.unpack(tmp_path / "in" / "a.zip", tmp_path / "in" / "folder", most=10**5)
    assert os.listdir(tmp_path) == ["in"] and os.listdir(tmp_path / "in") == ["a.zip"]


def test_a_damaged_archive_leaves_nothing_and_is_fetched_again(server, tmp_path):
    server.files["/a.zip"] = good = zipped({"folder/x": DATA})
    server.faults["/a.zip"] = ["flip"]
    download.download([File(f"{server.url}/a.zip", "folder", unpacked=10**5)], tmp_path)
    assert (tmp_path / "folder" / "x").read_bytes() == DATA
    assert os.listdir(tmp_path) == ["folder"]
    assert len(server.seen) == 2
    (tmp_path / "b.zip").write_bytes(good.replace(b"folder/x", b"folder/y", 1))
    with pytest.raises(archive.Damaged, match="damaged"):
        archive.unpack(tmp_path / "b.zip", tmp_path / "other", most=10**5)
    assert sorted(os.listdir(tmp_path)) == ["b.zip", "folder"]


def test_no_damage_to_an_archive_escapes(tmp_path):
    """Bits turned and ends cut: it is unpacked, or called damaged or harmful, and leaves nothing behind."""
    rng, good, refused = (
        np.random.default_rng(0),
        bytearray(zipped({"folder/a": b"hello" * 400, "folder/ü": DATA[:300]})),
        0,
    )
    for i in range(300):
        bad = good[: rng.integers(len(good))] if i % 3 == 0 else good.copy()
        for at in rng.integers(0, max(len(bad), 1), 4 * (i % 3)):
            bad[at] ^= 1 << rng.integers(8)
        (tmp_path / "a.zip").write_bytes(bad)
        try:
            archive.unpack(tmp_path / "a.zip", tmp_path / "folder", most=10**5)
        except Problem:
            refused += 1
            assert os.listdir(tmp_path) == ["a.zip"]
        else:
            shutil.rmtree(tmp_path / "folder")
    assert refused > 200
