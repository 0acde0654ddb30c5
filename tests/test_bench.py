"""How the benches measure and gather: closed forms of the ratios, one table from several processes."""
import importlib.util
import json
import os

import pytest

from xmodal.config import HOME

BENCH = HOME / "tests" / "bench"
GOOD_BENCH = f"""
import sys
sys.path.insert(0, {str(BENCH)!r})
import ratios
ratios.report([ratios.row("a", [(1.0, 2.0)], at_least=1)], "bench_a")
"""


@pytest.fixture
def bench(monkeypatch):
    """tests/bench/__main__.py as a module."""
    monkeypatch.syspath_prepend(str(BENCH))
    spec = importlib.util.spec_from_file_location("gathering", BENCH / "__main__.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def ratios(bench):
    return bench.ratios


def test_a_row_in_closed_form(ratios):
    times = [(1.0, 4.0), (2.0, 4.0), (0.5, 40.0)]         # ours, peer; ratios peer / ours 4, 2, 80
    medians = {"what": "x", "ours": 1000, "peer": 4000}
    assert ratios.row("x", times, at_least=5) == medians | {"ratio": 4, "floor": ">= 5", "met": False}
    assert ratios.row("x", times, at_most=0.25) == medians | {"ratio": 0.25, "floor": "<= 0.25", "met": True}
    close = ratios.row("x", [(1.1004, 1.0)], at_most=1.1)
    assert not close["met"], "it is the ratio before rounding that counts"


def test_ours_and_peer_are_timed_in_turn_after_a_warm_up(ratios):
    calls = []

    def ours():
        calls.append("ours")
        return 2.0

    def peer():
        calls.append("peer")
        return 1.0

    assert ratios.compare("x", ours, peer, 2, at_most=3)["ratio"] == 2
    assert calls == ["ours", "peer"] * 3


def test_one_table_from_processes_of_which_one_breaks(bench, tmp_path, capsys):
    (tmp_path / "bench_a.py").write_text(GOOD_BENCH)
    (tmp_path / "bench_b.py").write_text("raise SystemExit(3)\n")
    assert bench.main(sorted(tmp_path.glob("bench_*.py")), tmp_path) == 1
    printed = capsys.readouterr().out
    assert "bench_b broke" in printed and printed.count(" yes\n") == 1 and "1 of 1 floors met" in printed
    written = json.loads((tmp_path / "build" / "bench.json").read_text())
    assert set(written) == {"unit", "machine", "rows"}
    assert written["machine"]["cores"] == os.cpu_count() and written["machine"]["packages"]["torch"]
    measured = {"what": "a", "ours": 1000, "peer": 2000, "ratio": 2, "floor": ">= 1", "met": True}
    assert written["rows"] == [{"bench": "bench_a", **measured}]


def test_every_bench_reports_its_rows():
    """Each has rows() and reports them under its own name, under which they are gathered."""
    paths = sorted(BENCH.glob("bench_*.py"))
    assert len(paths) >= 5
    for path in paths:
        assert f'ratios.report(rows(), "{path.stem}")' in path.read_text()
