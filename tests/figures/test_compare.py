"""figures.compare: similarity in closed form, and what is told of a table that was altered, cut off or lost."""
import base64
import html.parser
import io
import json
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
    columns = {"data": ["phantom"] * 4, "method": ["erm", "erm", "ours", "ours"], "seed": ["1", "2"] * 2,
               "auc": ["0.5", "0.6", "0.7", "0.8"], "said": ["low", "low", "high", "high"]}
    return pd.DataFrame(columns | changed)


# ---- two cells ---------------------------------------------------------------------------------------------------

def test_numbers_and_texts_in_closed_form():
    assert compare.alike("0.5", "5e-1") == 1 and compare.alike("a", "a") == 1 and compare.alike("a", "b") == 0
    assert compare.alike("0.6", "0.9") == pytest.approx(1 - 0.3 / 1.5) and compare.alike("0.9", "0.6") == compare.alike("0.6", "0.9")
    assert compare.alike("2", "-2") == 0 and compare.alike("0", "1") == 0 and compare.alike("1e-12", "-3e-11") == 1
    assert compare.alike("", "0.5") == 0 and compare.alike("nan", "NaN") == 1
    assert compare.alike("inf", "-inf") == 0 and compare.alike("inf", "1") == 0


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
    out = io.BytesIO()
    Image.fromarray(light).save(out, "png", compress_level=0)
    other = "data:image/png;base64," + base64.b64encode(out.getvalue()).decode()
    assert other != cases.to_uri(light) and compare.alike(other, cases.to_uri(light)) == 1, "packed otherwise, the same picture"


def test_lists_are_compared_element_by_element():
    assert compare.alike("[[1.0, 2.0]]", "[[1.0, 3.0]]") == pytest.approx((1 + 0.8) / 2)
    assert compare.alike("[1, 2]", "[1]") == 0.5 and compare.alike("[]", "[1]") == 0 and compare.alike("[1", "[2") == 0
    grey = [cases.to_uri(np.full((2, 2), v, np.uint8)) for v in (0, 51)]
    assert compare.alike(json.dumps(grey), json.dumps(grey[::-1])) == pytest.approx(0.8)


# ---- two tables --------------------------------------------------------------------------------------------------

def test_the_key_is_the_shortest_run_of_leading_columns_that_tells_rows_apart():
    assert compare.key(panel()) == ["data", "method", "seed"]
    assert compare.key(panel(seed=["1"] * 4)) == ["data", "method", "seed"], "a measured value is no key"
    assert compare.key(panel()[["auc", "said"]]) == [] and compare.key(panel()[["seed", "said", "auc"]]) == ["seed", "said"]


def test_tables_in_closed_form():
    same = compare.compare("p", panel(), panel())
    assert same == ("p", "identical", 1.0, "")
    one = compare.compare("p", panel(), panel(auc=["0.5", "0.9", "0.7", "0.8"]))
    assert one.status == "differs" and one.similarity == pytest.approx((7 + 0.8) / 8)
    assert one.told == "1 of 8 values differ, the most auc (method erm, seed 2): 0.6 in the reference, 0.9 here"
    close = compare.compare("p", panel(), panel(auc=["0.500001", "0.6", "0.7", "0.8"]))
    assert close.status == "within tolerance" and compare.TOLERANCE < close.similarity < 1


def test_rows_and_columns_that_only_one_table_has_score_nothing():
    lost = compare.compare("p", panel(), panel().iloc[:3])
    assert lost == ("p", "differs", 0.75, "1 of 4 rows are missing")
    more = compare.compare("p", panel().iloc[:2], panel())
    assert more == ("p", "differs", 0.5, "2 of 4 rows are new")
    dropped = compare.compare("p", panel(), panel().drop(columns="auc"))
    assert dropped == ("p", "differs", 0.5, "column auc is missing")
    assert compare.compare("p", panel(), panel().assign(extra="1")).similarity == pytest.approx(2 / 3)
    assert compare.compare("p", panel(), panel().drop(columns="seed")) == ("p", "differs", pytest.approx(2 / 3), "column seed is missing")
    other = compare.compare("p", panel(), panel(data=["public"] * 4))
    assert other.similarity == 0 and other.told == "4 of 4 rows are missing; 4 of 4 rows are new"


def test_another_order_is_told_and_costs_nothing():
    for table in (panel().iloc[::-1], panel()[["data", "method", "seed", "said", "auc"]]):
        assert compare.compare("p", panel(), table) == ("p", "within tolerance", 1.0, "rows or columns are in another order")


def test_tables_without_rows_or_without_values():
    empty = panel().iloc[:0]
    assert compare.compare("p", empty, empty).status == "identical"
    assert compare.compare("p", empty, panel())[1:3] == ("differs", 0.0) and compare.compare("p", panel(), empty)[1:3] == ("differs", 0.0)
    assert compare.compare("p", panel()[["method", "seed"]], panel()[["method", "seed"]].iloc[:1])[1:3] == ("differs", 0.25)


def test_similarity_does_not_depend_on_which_table_is_the_reference():
    rng = np.random.default_rng(0)
    for _ in range(20):
        a, b = (panel(auc=rng.choice(["0.1", "0.5", "", "x"], 4)).drop(index=rng.integers(4)) for _ in range(2))
        there, back = compare.compare("p", a, b).similarity, compare.compare("p", b, a).similarity
        assert 0 <= there <= 1 and there == pytest.approx(back)


# ---- a run -------------------------------------------------------------------------------------------------------

@pytest.fixture
def run(home):
    """A home whose figures are the committed reference, and one executed notebook."""
    for path in compare.REFERENCE.glob("*.csv"):
        place = home / "figures" / f"of_{path.stem}" / path.name
        place.parent.mkdir(parents=True)
        shutil.copy(path, place)
    cell = nbformat.v4.new_code_cell("1", execution_count=1)
    (config.RUNS / "lesson" / "notebooks").mkdir(parents=True)
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), config.RUNS / "lesson" / "notebooks" / "05_evaluate.ipynb")
    return home


def longest(run):
    """The path of the longest table of the run, and the table."""
    path = max(run.glob("figures/*/*.csv"), key=lambda p: len(compare.table(p)))
    return path, compare.table(path)


def test_the_reference_is_identical_to_itself(run, capsys):
    assert compare.main() == 0
    told = capsys.readouterr().out
    n = len(list(compare.REFERENCE.glob("*.csv")))
    assert n > 10 and f"identical: {n} of {n} panels" in told and told.count(" identical ") == n
    assert "ran clean: 1 notebooks and 0 runs, no trouble" in told
    page = (run / "build" / "compare.html").read_text()
    assert figures.PHANTOM in page and "<img" not in page and "http" not in page and "<script" not in page


def cut(path, table):
    path.write_bytes(path.read_bytes()[:-20])


def drop_rows(path, table):
    table.iloc[:-3].to_csv(path, index=False)


def alter(path, table):
    table.iloc[5:6, -1] = "<script>1</script>"
    table.to_csv(path, index=False)


@pytest.mark.parametrize("harm, status, told, code", [
    (cut, "unreadable", "breaks off in its last line", 1), (drop_rows, "differs", "3 of {n} rows are missing", 0),
    (alter, "differs", "here", 0), (lambda path, table: path.unlink(), "missing", "make reproduce", 1),
    (lambda path, table: path.write_text(""), "unreadable", "it is empty", 1),
    (lambda path, table: path.write_bytes(b"\xff\n"), "unreadable", "utf-8", 1),
    (lambda path, table: path.write_text("a,b\n1,2\n1,2,3\n"), "unreadable", "Expected 2 fields in line 3, saw 3", 1)])
def test_each_harm_is_told_plainly(run, harm, status, told, code):
    path, table = longest(run)
    harm(path, table)
    assert compare.main() == code
    worst, *others = compare.panels()
    assert (worst.name, worst.status) == (path.stem, status) and told.format(n=len(table)) in worst.told
    assert {p.status for p in others} == {"identical"}
    page = (run / "build" / "compare.html").read_text()
    assert "<script" not in page and page.count("<figure>") == 2 and "there is none" in page, "none was drawn here"
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
    assert last[:2] == ("new_panel", "new") and {p.status for p in known} == {"identical"} and compare.main() == 0


def test_what_did_not_run_clean_is_named(run):
    folder = config.RUNS / "lesson"
    error = nbformat.v4.new_output("error", ename="E", evalue="e", traceback=[])
    books = {"a": nbformat.v4.new_code_cell("1", execution_count=1, outputs=[error]), "b": nbformat.v4.new_code_cell("1")}
    for name, cell in books.items():
        nbformat.write(nbformat.v4.new_notebook(cells=[cell]), folder / "notebooks" / f"{name}.ipynb")
    (folder / "notebooks" / "c.ipynb").write_text("{")
    (folder / "notebooks" / "d.partial.ipynb").write_text("{}")
    (folder / "erm" / "bach" / "seed_42").mkdir(parents=True)
    stage = report.ran(LESSON)
    assert stage.said == "4 notebooks and 1 runs, 5 troubles"
    for trouble, words in zip(stage.troubles, ("a.ipynb ended in an error", "b.ipynb was not run to its end", "c.ipynb cannot be read",
                                               "d.partial.ipynb is half-written", "is not finished; run 03_train"), strict=True):
        assert words in trouble


def test_nothing_to_compare_is_a_clear_error(home, monkeypatch):
    monkeypatch.setattr(compare, "REFERENCE", home / "none")
    with pytest.raises(Problem, match="no panel tables"):
        compare.main()
    with pytest.raises(Problem, match="no profile 'lessons'"):
        compare.main("lessons")
