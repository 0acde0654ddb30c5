"""engine: locks of a killed run are released, those of a living one are not; processes that outlive a run are
waited for by name."""
import subprocess
import sys
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
