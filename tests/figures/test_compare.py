"""figures.compare: similarity in closed form, and what is printed about a table that was altered or lost."""
import base64
import html.parser
import io
import json
import re
import shutil

import nbformat
import numpy as np
import pandas as pd
import pytest
from PIL import Image

import figures
from figures import compare, report
from xmodal import config
from xmodal.config import PROFILES, Problem
from xmodal.tables import cases

LESSON = PROFILES["lesson"]


def panel(**changed):
    """A small panel table as text: two methods, two seeds, a value, a word."""
    columns = {
        "data": ["phantom"] * 4,
        "method": ["erm", "erm", "ours", "ours"],
        "seed": ["1", "2"] * 2,
        "auc": ["0.5", "0.6", "0.7", "0.8"],
        "verdict": ["low", "low", "high", "high"],
    }
    return pd.DataFrame(columns | changed)


# ---- two cells ---------------------------------------------------------------------------------------------

@pytest.mark.parametrize("a, b, similarity", [
    ("0.5", "5e-1", 1), ("0.6", "0.9", 1 - 0.3 / 1.5), ("0.9", "0.6", 1 - 0.3 / 1.5), ("2", "-2", 0),
    ("0", "1", 0), ("1e-12", "-3e-11", 1), ("nan", "NaN", 1), ("inf", "-inf", 0), ("inf", "1", 0),
    ("a", "a", 1), ("a", "b", 0), ("", "0.5", 0)])
def test_numbers_and_texts_in_closed_form(a, b, similarity):
    assert compare.alike(a, b) == pytest.approx(similarity)


def test_a_unit_of_the_sixth_digit_is_within_tolerance():
    for a, b in (("1.00000", "1.00001"), ("0.123456", "0.123457"), ("-99999.9", "-99999.8")):
        assert compare.alike(a, b) >= compare.TOLERANCE
    assert compare.alike("1.00000", "1.00002") < compare.TOLERANCE


def test_pictures_are_compared_by_their_pixels():
    dark = np.zeros((4, 4), np.uint8)
    light = dark + np.uint8(51)
    assert compare.alike(cases.to_uri(dark), cases.to_uri(light)) == pytest.approx(0.8)
    for other in (cases.to_uri(dark[:2]), "data:image/png;base64,AAAA"):
        assert compare.alike(cases.to_uri(dark), other) == 0
    png = io.BytesIO()
    Image.fromarray(light).save(png, "png", compress_level=0)
    packed = "data:image/png;base64," + base64.b64encode(png.getvalue()).decode()
    assert packed != cases.to_uri(light)
    assert compare.alike(packed, cases.to_uri(light)) == 1, "compressed differently, the same picture"


def test_lists_are_compared_element_by_element():
    assert compare.alike("[[1.0, 2.0]]", "[[1.0, 3.0]]") == pytest.approx((1 + 0.8) / 2)
    assert compare.alike("[1, 2]", "[1]") == 0.5
    assert compare.alike("[]", "[1]") == 0
    assert compare.alike("[1", "[2") == 0
    grey = [cases.to_uri(np.full((2, 2), value, np.uint8)) for value in (0, 51)]
    assert compare.alike(json.dumps(grey), json.dumps(grey[::-1])) == pytest.approx(0.8)


# ---- two tables --------------------------------------------------------------------------------------------

def test_the_key_is_the_shortest_run_of_leading_columns_that_tells_rows_apart():
    assert compare.key(panel()) == ["data", "method", "seed"]
    assert compare.key(panel(seed=["1"] * 4)) == ["data", "method", "seed"], "a measured value is no key"
    assert compare.key(panel()[["auc", "verdict"]]) == []
    assert compare.key(panel()[["seed", "verdict", "auc"]]) == ["seed", "verdict"]


def test_tables_in_closed_form():
    assert compare.compare("p", panel(), panel()) == ("p", "identical", 1.0, "")
    far = compare.compare("p", panel(), panel(auc=["0.5", "0.9", "0.7", "0.8"]))
    assert far.status == "differs"
    assert far.similarity == pytest.approx((7 + 0.8) / 8)
    assert far.difference == ("1 of 8 values differ, the most auc (method erm, seed 2): "
                              "0.6 in the reference, 0.9 here")
    close = compare.compare("p", panel(), panel(auc=["0.500001", "0.6", "0.7", "0.8"]))
    assert close.status == "within tolerance"
    assert compare.TOLERANCE < close.similarity < 1


def test_rows_and_columns_that_only_one_table_has_score_nothing():
    fewer = compare.compare("p", panel(), panel().iloc[:3])
    assert fewer == ("p", "differs", 0.75, "1 of 4 rows are missing")
    more = compare.compare("p", panel().iloc[:2], panel())
    assert more == ("p", "differs", 0.5, "2 of 4 rows are new")
    dropped = compare.compare("p", panel(), panel().drop(columns="auc"))
    assert dropped == ("p", "differs", 0.5, "column auc is missing")
    wider = compare.compare("p", panel(), panel().assign(extra="1"))
    assert wider.similarity == pytest.approx(2 / 3)
    keyless = compare.compare("p", panel(), panel().drop(columns="seed"))
    assert keyless == ("p", "differs", pytest.approx(2 / 3), "column seed is missing")
    other = compare.compare("p", panel(), panel(data=["public"] * 4))
    assert other.similarity == 0
    assert other.difference == "4 of 4 rows are missing; 4 of 4 rows are new"


def test_another_order_is_printed_and_costs_nothing():
    for table in (panel().iloc[::-1], panel()[["data", "method", "seed", "verdict", "auc"]]):
        ordered = compare.compare("p", panel(), table)
        assert ordered == ("p", "within tolerance", 1.0, "rows or columns are in another order")


def test_tables_without_rows_or_without_values():
    empty = panel().iloc[:0]
    keys = panel()[["method", "seed"]]
    assert compare.compare("p", empty, empty).status == "identical"
    assert compare.compare("p", empty, panel())[1:3] == ("differs", 0.0)
    assert compare.compare("p", panel(), empty)[1:3] == ("differs", 0.0)
    assert compare.compare("p", keys, keys.iloc[:1])[1:3] == ("differs", 0.25)


def test_similarity_does_not_depend_on_which_table_is_the_reference():
    rng = np.random.default_rng(0)

    def drawn():
        return panel(auc=rng.choice(["0.1", "0.5", "", "x"], 4)).drop(index=rng.integers(4))

    for _ in range(20):
        a, b = drawn(), drawn()
        similarity = compare.compare("p", a, b).similarity
        assert 0 <= similarity <= 1
        assert similarity == pytest.approx(compare.compare("p", b, a).similarity)


# ---- a run -------------------------------------------------------------------------------------------------

def write_notebook(path, cell):
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), path)


@pytest.fixture
def run(home):
    """A home whose figures are the committed reference, and one executed notebook."""
    for path in compare.REFERENCE.glob("*.csv"):
        place = home / "figures" / f"of_{path.stem}" / path.name
        place.parent.mkdir(parents=True)
        shutil.copy(path, place)
    notebooks = config.RUNS / "lesson" / "notebooks"
    notebooks.mkdir(parents=True)
    write_notebook(notebooks / "05_evaluate.ipynb", nbformat.v4.new_code_cell("1", execution_count=1))
    return home


def longest(run):
    """The path of the longest table of the run, and the table."""
    path = max(run.glob("figures/*/*.csv"), key=lambda p: len(compare.table(p)))
    return path, compare.table(path)


def test_the_controls_count_where_they_were_run(run, capsys):
    assert compare.main() == 0
    assert not re.search("^controls_", capsys.readouterr().out, re.M)
    of_controls = sorted((compare.REFERENCE / "controls").glob("*.csv"))
    (run / "figures" / "controls").mkdir()
    shutil.copy(of_controls[0], run / "figures" / "controls")
    assert compare.main() == 1
    printed = capsys.readouterr().out
    assert re.search(f"^{of_controls[0].stem} +identical", printed, re.M)
    assert len(re.findall("^controls_.* missing", printed, re.M)) == len(of_controls) - 1 > 10


def test_the_reference_is_identical_to_itself(run, capsys):
    assert compare.main() == 0
    printed = capsys.readouterr().out
    n = len(list(compare.REFERENCE.glob("*.csv")))
    assert n > 10
    assert f"identical: {n} of {n} panels" in printed
    assert printed.count(" identical ") == n
    assert "ran clean: 1 notebooks and 0 runs, no trouble" in printed
    page = (run / "build" / "compare.html").read_text()
    assert figures.PHANTOM in page
    assert not any(foreign in page for foreign in ("<img", "http", "<script"))


def cut(path, table):
    path.write_bytes(path.read_bytes()[:-20])


def drop_rows(path, table):
    table.iloc[:-3].to_csv(path, index=False)


def alter(path, table):
    table.iloc[5:6, -1] = "<script>1</script>"
    table.to_csv(path, index=False)


def remove(path, table):
    path.unlink()


def empty(path, table):
    path.write_text("")


def no_text(path, table):
    path.write_bytes(b"\xff\n")


def ragged(path, table):
    path.write_text("a,b\n1,2\n1,2,3\n")


@pytest.mark.parametrize("harm, status, text, code", [
    (cut, "unreadable", "breaks off in its last line", 1),
    (drop_rows, "differs", "3 of {n} rows are missing", 0),
    (alter, "differs", "here", 0),
    (remove, "missing", "make reproduce", 1),
    (empty, "unreadable", "it is empty", 1),
    (no_text, "unreadable", "utf-8", 1),
    (ragged, "unreadable", "Expected 2 fields in line 3, saw 3", 1)])
def test_each_harm_is_printed_plainly(run, harm, status, text, code):
    path, table = longest(run)
    harm(path, table)
    assert compare.main() == code
    worst, *others = compare.panels()
    assert (worst.name, worst.status) == (path.stem, status)
    assert text.format(n=len(table)) in worst.difference
    assert {p.status for p in others} == {"identical"}
    page = (run / "build" / "compare.html").read_text()
    assert "<script" not in page
    assert page.count("<figure>") == 2
    assert "there is none" in page, "no figure was drawn here"
    Balanced().feed(page)


class Balanced(html.parser.HTMLParser):
    """Fails where a tag is closed that is not the open one."""
    def __init__(self):
        super().__init__()
        self.open = []

    def handle_starttag(self, tag, attrs):
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_a_new_panel_counts_for_nothing(run):
    (run / "figures" / "new").mkdir()
    panel().to_csv(run / "figures" / "new" / "new_panel.csv", index=False)
    *known, last = compare.panels()
    assert last[:2] == ("new_panel", "new")
    assert {p.status for p in known} == {"identical"}
    assert compare.main() == 0


def test_what_did_not_run_clean_is_named(run):
    folder = config.RUNS / "lesson"
    error = nbformat.v4.new_output("error", ename="E", evalue="e", traceback=[])
    failed = nbformat.v4.new_code_cell("1", execution_count=1, outputs=[error])
    write_notebook(folder / "notebooks" / "a.ipynb", failed)
    write_notebook(folder / "notebooks" / "b.ipynb", nbformat.v4.new_code_cell("1"))
    (folder / "notebooks" / "c.ipynb").write_text("{")
    (folder / "notebooks" / "d.partial.ipynb").write_text("{}")
    (folder / "erm" / "bach" / "seed_42").mkdir(parents=True)
    stage = report.ran(LESSON)
    assert stage.summary == "4 notebooks and 1 runs, 5 troubles"
    expected = (
        "a.ipynb ended in an error",
        "b.ipynb was not run to its end",
        "c.ipynb cannot be read",
        "d.partial.ipynb is half-written",
        "is not finished; run 03_train",
    )
    for trouble, text in zip(stage.troubles, expected, strict=True):
        assert text in trouble


def test_nothing_to_compare_is_a_clear_error(home, monkeypatch):
    monkeypatch.setattr(compare, "REFERENCE", home / "none")
    with pytest.raises(Problem, match="no panel tables"):
        compare.main()
    with pytest.raises(Problem, match="no profile 'lessons'"):
        compare.main("lessons")
