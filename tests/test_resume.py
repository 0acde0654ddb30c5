"""A preprocessing that was killed goes on where it was: the same bytes, and no finished file is read
again."""
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from test_preprocess import SMALL, digest, row, tissue

from xmodal import cohort, config, loaders, preprocess, tiles

BUILD = """
import sys
import pandas as pd
from test_preprocess import SMALL
from xmodal import preprocess
preprocess.build(pd.read_parquet(sys.argv[1]), SMALL, sys.argv[2], workers=1)
"""


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    folder = tmp_path_factory.mktemp("native")
    Image.fromarray(tissue(np.random.default_rng(0), (400, 400))).save(folder / "field.png")
    (folder / "mpp.csv").write_text("file,mpp\nfield.png,1.0\n")
    table = pd.DataFrame([row(f"n{k:03d}", "bach", folder / "field.png") for k in range(60)])
    missing = pd.DataFrame([row("gone", "bach", folder / "gone.png")])
    return pd.concat([table, missing], ignore_index=True)


def killed_in_the_middle(rows, tmp_path, out):
    """Starts a build and kills it once some files are finished; returns their names."""
    rows.to_parquet(tmp_path / "rows.parquet")
    paths = (str(Path(__file__).parent), str(Path(preprocess.__file__).parents[1]))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    command = [sys.executable, "-c", BUILD, str(tmp_path / "rows.parquet"), str(out)]
    run = subprocess.Popen(command, env=environment, start_new_session=True, stdout=subprocess.DEVNULL,
                           stderr=subprocess.DEVNULL)
    done = []
    since = time.monotonic()
    while run.poll() is None and len(done) < 8 and time.monotonic() - since < 120:
        time.sleep(0.01)
        done = list((out / preprocess.UNFINISHED).glob("[!.]*.npz"))
    os.killpg(run.pid, signal.SIGKILL)
    run.wait()
    return sorted((out / preprocess.UNFINISHED).glob("[!.]*.npz"))


def test_a_killed_build_goes_on_with_the_same_bytes_and_reads_nothing_twice(rows, tmp_path, monkeypatch):
    out = tmp_path / "out"
    finished = killed_in_the_middle(rows, tmp_path, out)
    assert 8 <= len(finished) < len(rows) and not (out / "cohort.parquet").exists()
    finished[0].write_bytes(finished[0].read_bytes()[:100])                    # and one of them damaged
    written = {path: path.stat().st_mtime_ns for path in finished}
    tidy = preprocess._tidy

    def compare_and_tidy(folder):
        again = [path for path, time in written.items() if path.stat().st_mtime_ns != time]
        assert again == finished[:1]
        written.clear()
        tidy(folder)
    monkeypatch.setattr(preprocess, "_tidy", compare_and_tidy)
    preprocess.build(rows, SMALL, out, workers=1)
    assert not written and not (out / preprocess.UNFINISHED).exists()
    monkeypatch.setattr(preprocess, "_tidy", tidy)
    preprocess.build(rows, SMALL, tmp_path / "whole", workers=1)
    assert digest(out) == digest(tmp_path / "whole")


def test_what_was_finished_counts_only_for_the_same_file_and_profile(rows, tmp_path):
    entry = rows.iloc[0].to_dict()

    def at(profile):
        return preprocess.read_once(entry, profile, tmp_path)
    first = at(SMALL)
    assert at(SMALL) == first != at(replace(SMALL, tile_um=120.0))
    os.utime(entry["source"], (1, 1))
    assert at(SMALL) != first


def test_a_cohort_of_the_same_files_with_other_pixels_is_another_cohort(rows, monkeypatch):
    """So that nothing which was trained on the first passes for trained on the second."""
    drawn = tiles.of_slide

    def inverted(row, profile):
        return [(entry, 255 - image, mask) for entry, image, mask in drawn(row, profile)]

    def made():
        images, _ = preprocess.read(rows.iloc[0].to_dict(), SMALL)
        return pd.DataFrame([entry for entry, _, _ in images])
    first = made()
    pd.testing.assert_frame_equal(first, made())
    monkeypatch.setattr(tiles, "of_slide", inverted)
    second = made()
    pd.testing.assert_frame_equal(first.drop(columns="checksum"), second.drop(columns="checksum"))
    assert cohort.fingerprint(first) != cohort.fingerprint(second)


def test_a_cohort_of_other_code_is_named_and_made_anew(rows, tmp_path, caplog, monkeypatch):
    preprocess.build(rows[:2], SMALL, tmp_path, workers=1)
    code = preprocess.made_by()
    assert {"xmodal.imaging.mammograms", "xmodal.tiles", "data_scripts.inbreast"} < set(code)
    assert not {"xmodal.learner", "xmodal.losses"} & set(code), "what trains does not make a cohort"
    monkeypatch.setattr(preprocess, "made_by", lambda: code | {"xmodal.tiles": "other"})
    assert not preprocess.is_made(tmp_path, SMALL)
    assert "was made with other code of xmodal.tiles; it is made anew" in caplog.text


@pytest.mark.parametrize("setting, value", [("image_size", 48), ("tile_um", 200.0), ("tiles_per_slide", 1)])
def test_a_cohort_of_other_sizes_is_named_and_made_anew(rows, tmp_path, caplog, setting, value):
    assert not preprocess.is_made(tmp_path, SMALL) and not caplog.messages
    preprocess.build(rows[:2], SMALL, tmp_path, workers=1)
    assert preprocess.is_made(tmp_path, replace(SMALL, epochs=1)), "nothing else makes a cohort another one"
    loaders.check_made(tmp_path, SMALL)
    other = replace(SMALL, **{setting: value})
    with pytest.raises(config.Problem, match=f"{setting} .*, not {value}, .*run 02_preprocess again"):
        loaders.check_made(tmp_path, other)
    assert not preprocess.is_made(tmp_path, other)
    assert f"was made with {setting} {getattr(SMALL, setting)}, not {value}; it is made anew" in caplog.text
