"""The browser of cases: a picture where no widget works, and a choice where they do."""
import nbformat
import pytest
from nbclient import NotebookClient

from xmodal.config import Problem
from xmodal.runtime.browser import browse

BROWSE = """import matplotlib.pyplot as plt
from xmodal.runtime.browser import browse
def draw(name):
    fig = plt.figure(figsize=(1, 1))
    fig.text(0, 0.5, name)
    plt.close(fig)
    return fig
chooser = browse(["p1", "p2"], draw)"""


def outputs_of_first_cell(*cells):
    """What the first of some code cells shows, once all of them were executed."""
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    return NotebookClient(book, kernel_name="python3").execute().cells[0].outputs


def test_the_browser_shows_the_first_case_as_a_picture_and_follows_the_choice():
    """In a notebook: the first output is a picture where no widget works; choosing replaces that picture."""
    first = outputs_of_first_cell(BROWSE)
    second = outputs_of_first_cell(BROWSE, 'chooser.value = "p2"')
    picture, widget = first
    assert set(picture.data) == {"image/png", "text/plain"}
    assert set(widget.data) == {"application/vnd.jupyter.widget-view+json", "text/plain"}
    assert "JupyterLab" in widget.data["text/plain"] and "2 cases" in widget.data["text/plain"]
    assert len(second) == 2 and picture.data["image/png"] != second[0].data["image/png"]


def test_a_browser_over_nothing_is_refused():
    with pytest.raises(Problem, match="no case"):
        browse([], None)
