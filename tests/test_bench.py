"""How the benches tell and gather: closed forms of the ratios, and one table from processes of which one may break."""
import importlib.util
import json
import os

import pytest

from xmodal.config import HOME


@pytest.fixture
def bench(monkeypatch):
    """tests/bench/__main__.py as a module."""
    monkeypatch.syspath_prepend(str(HOME / "tests" / "bench"))
    spec = importlib.util.spec_from_file_location("gathering", HOME / "tests" / "bench" / "__main__.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_row_in_closed_form(bench):
    times = [(1.0, 4.0), (2.0, 4.0), (0.5, 40.0)]                # ours, peer; ratios peer / ours 4, 2, 80
    assert bench.told.row("x", times, at_least=5) == {"what": "x", "ours": 1000, "peer": 4000, "ratio": 4, "floor": ">= 5", "met": False}
    assert bench.told.row("x", times, at_most=0.25) == {"what": "x", "ours": 1000, "peer": 4000, "ratio": 0.25, "floor": "<= 0.25",
                                                        "met": True}
    assert not bench.told.row("x", [(1.1004, 1.0)], at_most=1.1)["met"], "it is the ratio before rounding that counts"


def test_ours_and_peer_are_timed_in_turn_after_a_warm_up(bench):
    calls = []
    timer = lambda name, seconds: lambda: calls.append(name) or seconds
    assert bench.told.compare("x", timer("ours", 2.0), timer("peer", 1.0), 2, at_most=3)["ratio"] == 2
    assert calls == ["ours", "peer"] * 3


def test_one_table_from_processes_of_which_one_breaks(bench, tmp_path, capsys):
    (tmp_path / "bench_a.py").write_text(f"import sys; sys.path.insert(0, {str(HOME / 'tests' / 'bench')!r})\nimport told\n"
                                         'told.tell([told.row("a", [(1.0, 2.0)], at_least=1)], "bench_a")\n')
    (tmp_path / "bench_b.py").write_text("raise SystemExit(3)\n")
    assert bench.main(sorted(tmp_path.glob("bench_*.py")), tmp_path) == 1
    told = capsys.readouterr().out
    assert "bench_b broke" in told and told.count(" yes\n") == 1 and "1 of 1 floors met" in told
    kept = json.loads((tmp_path / "build" / "bench.json").read_text())
    assert set(kept) == {"unit", "machine", "rows"} and kept["machine"]["cores"] == os.cpu_count() and kept["machine"]["packages"]["torch"]
    assert kept["rows"] == [{"bench": "bench_a", "what": "a", "ours": 1000, "peer": 2000, "ratio": 2, "floor": ">= 1", "met": True}]


def test_every_bench_can_be_told(bench):
    """Each has rows() and tells them under its own name, under which they are gathered."""
    paths = sorted((HOME / "tests" / "bench").glob("bench_*.py"))
    assert len(paths) >= 5
    for path in paths:
        assert f'told.tell(rows(), "{path.stem}")' in path.read_text()
