"""The course: solutions are right, wrong answers are not, and every notebook has its exercises and links."""
import json
import re
import runpy

import pytest
from house import HOME, NOTEBOOKS, name_of

from xmodal import config, course

ORDER = ("00_start_here", "01_download", "02_preprocess", "02b_pretrain", "03_train", "03b_baselines",
         "04_tta", "05_evaluate", "06_interpret", "07_controls", "08_your_images")
COURSE = [HOME / "notebooks" / f"{name}.ipynb" for name in ORDER]
LESSONS = COURSE[:-1]     # the last has no exercises: one brings one's own images
each_lesson = pytest.mark.parametrize("path", LESSONS, ids=name_of)


def cells(path):
    """(type, source) of the cells of a notebook."""
    book = json.loads(path.read_text())
    return [(cell["cell_type"], "".join(cell["source"])) for cell in book["cells"]]


def number(path):
    return path.stem.split("_")[0]


def test_a_list_of_the_folder_is_in_the_order_in_which_one_runs_them():
    assert list(ORDER) == sorted(ORDER)


@each_lesson
def test_solutions_are_right(path):
    answers = runpy.run_path(str(HOME / "solutions" / f"{path.stem}.py"))["ANSWERS"]
    assert set(answers) == {f"{number(path)}-1", f"{number(path)}-2"}
    for name, answer in answers.items():
        assert course.check(name, answer), name


def constant(*arguments):
    return 0.123


@pytest.mark.parametrize("name", course.RIGHT)
def test_what_is_not_right_is_not_called_right(name, capsys):
    assert course.check(name, ...) is None
    assert capsys.readouterr().out == f"{name}: not answered yet.\n"
    for answer in (0.123, "nothing", None, constant, max, dict):
        assert course.check(name, answer) is False
        assert "not right yet" in capsys.readouterr().out


def test_an_answer_counts_to_two_decimals_and_a_text_in_any_case():
    assert course.check("03-1", 0.2395) and course.check("03-1", 0.24)
    assert not course.check("03-1", 0.25)
    verdicts = iter([" Gain ", "OPEN", "loss", "Open"])
    assert course.check("07-2", lambda low, high: next(verdicts))


def test_an_exercise_that_does_not_exist_is_named():
    with pytest.raises(config.Problem, match="99-1"):
        course.check("99-1", 1)


@each_lesson
def test_a_notebook_asks_two_questions_and_answers_none(path):
    asked = []
    for kind, source in cells(path):
        names = re.findall(r'course\.check\("([^"]+)", answer\)', source)
        if names:
            assert kind == "code" and "answer = ..." in source
            asked += names
    assert asked == [f"{number(path)}-1", f"{number(path)}-2"]


@pytest.mark.parametrize("path", COURSE, ids=name_of)
def test_a_notebook_links_to_those_before_and_after_it(path):
    at = ORDER.index(path.stem)
    neighbours = {f"{name}.ipynb" for name in ORDER[max(at - 1, 0):at + 2]} - {path.name}
    for place in (0, -1):
        kind, source = cells(path)[place]
        assert kind == "markdown" and neighbours <= set(re.findall(r"\]\(([^)]+)\)", source))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=name_of)
def test_links_of_a_notebook_lead_somewhere(path):
    texts = [source for kind, source in cells(path) if kind == "markdown"]
    headings = re.findall(r"^#+ (.+)$", "\n".join(texts), re.M)
    anchors = {heading.replace(" ", "-") for heading in headings}
    for target in re.findall(r"\]\(([^)\s]+)\)", "\n".join(texts)):
        if target.startswith("#"):
            assert target[1:] in anchors, f"no heading {target}"
        elif "://" not in target:
            assert (path.parent / target.split("#")[0]).exists(), target
