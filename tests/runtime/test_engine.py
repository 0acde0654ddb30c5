"""engine: locks of a killed run are released, those of a living one are not; processes that outlive a run are
waited for by name. A step says how far its run is."""
import os
import subprocess
import sys
import time
from pathlib import Path

from xmodal import config
from xmodal.runtime import engine

PREAMBLE = "import sys; sys.path.insert(0, {home!r}); from xmodal.runtime import engine; "


def other(code):
    """Another process that runs `code` with `engine`, says "ready" and waits for its end."""
    code = PREAMBLE.format(home=str(config.HOME)) + code + "; print('ready', flush=True); sys.stdin.read()"
    process = subprocess.Popen([sys.executable, "-c", code], text=True, stdin=subprocess.PIPE,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout.readline() == "ready\n", process.stderr.read()
    return process


def locks(folder):
    return sorted(path.name for path in Path(folder, "locks").glob("*"))


def test_locks_go_once_no_engine_lives(tmp_path):
    (tmp_path / "locks").mkdir()
    living = other(f"engine.enter({str(tmp_path)!r})")
    (tmp_path / "locks" / "0.input.lock").write_text("a")
    engine.enter(tmp_path)
    assert locks(tmp_path) == ["0.input.lock"], "its holder lives"
    engine._entered.pop().close()
    living.kill()
    living.communicate()
    engine.enter(tmp_path)
    engine._entered.pop().close()
    assert not locks(tmp_path), "its holder was killed"


def test_who_writes_the_same_copy_is_named_and_waited_for(tmp_path):
    out = tmp_path / "deep" / "a.ipynb"
    first = other(f"block = engine.alone({str(out)!r}); block.__enter__()")
    code = f"block = engine.alone({str(out)!r}); block.__enter__(); print('in', flush=True)"
    code = PREAMBLE.format(home=str(config.HOME)) + code + "; block.__exit__(None, None, None)"
    second = subprocess.Popen([sys.executable, "-c", code], text=True, stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE)
    assert f"{out} is still being made by process {first.pid} on " in second.stderr.readline()
    first.kill()
    first.communicate()
    assert second.communicate()[0] == "in\n" and not list(out.parent.iterdir())


def test_a_step_says_how_far_its_run_is(tmp_path, monkeypatch):
    path = tmp_path / "plan.json"
    copies = [str(tmp_path / name) for name in ("a.ipynb", "b.ipynb", "c.ipynb")]
    engine.plan(path, dict(zip(copies, (10, 20, 30))))
    began = time.time()
    assert engine.progress(path, tmp_path / "by hand.ipynb") == "" == engine.progress("", copies[0])
    Path(copies[0]).write_text("")
    os.utime(copies[0], (began - 3600, began - 3600))        # of an earlier run
    monkeypatch.setattr(engine.time, "time", lambda: began + 40 * 60)     # which the 20 of b took
    assert engine.progress(path, copies[1]) == "1 of 3 steps, about 80 min left"
    os.utime(copies[0], (began + 60, began + 60))
    assert engine.progress(path, copies[1]) == "2 of 3 steps, about 40 min left"
    Path(copies[1]).write_text("")
    os.utime(copies[1], (began + 60, began + 60))
    assert engine.progress(path, copies[2]) == "3 of 3 steps"
    path.write_text("{")
    assert engine.progress(path, copies[2]) == ""
