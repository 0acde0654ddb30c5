"""Walks through the course in JupyterLab as a student would, and photographs what it sees.

`course.py ADDRESS TOKEN FOLDER [MAMMOGRAM]`: the address of a server whose home has cohort and runs of
`make reproduce`, a folder for the screenshots, and a PNG on the server; without one 08 draws a PNG itself. It
needs playwright and Chromium, as browser.py does.
"""
import shutil
import sys
from pathlib import Path

from playwright.sync_api import expect, sync_playwright

LONG = 900_000           # milliseconds: a training, or the maps of all patients
CELL = ".jp-Notebook-cell"


class Student:
    """A page in a browser, and the server's files."""

    def __init__(self, page, address, token, folder):
        self.page, self.address, self.token, self.folder = page, address.rstrip("/"), token, Path(folder)

    def ask(self, path, body=None):
        """The answer of the server's contents to a GET, or to a PUT of `body`."""
        url = f"{self.address}/api/contents/{path}"
        headers = {"Authorization": f"token {self.token}"}
        ask = self.page.request
        answer = ask.put(url, headers=headers, data=body) if body else ask.get(url, headers=headers)
        assert answer.ok, answer.status_text
        return answer.json()

    def with_parameters(self, name, text):
        """A copy of a notebook whose parameter cell is followed by `text`, opened."""
        file = self.ask(f"notebooks/{name}.ipynb")
        cells = file["content"]["cells"]
        first = next(cell for cell in cells if "parameters" in cell["metadata"].get("tags", ()))
        first["source"] += f"\n{text}"
        for cell in cells:
            if cell["cell_type"] == "code":
                cell["outputs"] = []
        self.ask(f"notebooks/mine_{name}.ipynb", {"type": "notebook", "content": file["content"]})
        self.open(f"mine_{name}")

    def open(self, name):
        """Opens a notebook and waits for its kernel."""
        self.page.goto(f"{self.address}/lab/tree/notebooks/{name}.ipynb?token={self.token}&reset")
        expect(self.page.locator("#jp-main-statusbar")).to_contain_text("| Idle", timeout=120_000)

    def run_all(self):
        self.page.locator(".lm-MenuBar-itemLabel").get_by_text("Run", exact=True).click()
        self.page.locator(".lm-Menu-itemLabel").get_by_text("Run All Cells", exact=True).click()

    def photograph(self, what, locator=None):
        if locator is not None:
            locator.scroll_into_view_if_needed()
        self.page.screenshot(path=self.folder / f"{what}.png")
        print(what, flush=True)


def progress(student):
    """A training shows a bar, and ends with its AUC."""
    student.with_parameters("03_train", 'METHODS = "erm"\nSEED = 7')
    student.run_all()
    bar = student.page.locator("progress").first
    bar.wait_for(timeout=LONG)
    student.photograph("03_bar", bar)
    done = student.page.get_by_text("trained 1 methods, AUC of erm")
    done.first.wait_for(timeout=LONG)
    student.photograph("03_trained", done.first)


def exercise(student):
    """A wrong answer is told to be wrong, the right one to be right."""
    student.open("01_download")
    cell = student.page.locator(CELL, has_text='course.check("01-1"').last
    cell.scroll_into_view_if_needed()
    right = 2 * 1000 - 1024
    for answer, reply, name in ((1000, "not right yet", "01_wrong"), (right, "01-1: right", "01_right")):
        code = f'from xmodal import course\n\nanswer = {answer}\ncourse.check("01-1", answer);'
        cell.locator(".cm-content").click()
        student.page.keyboard.press("Control+A")
        student.page.keyboard.insert_text(code)
        student.page.keyboard.press("Control+Enter")
        expect(cell.locator(".jp-OutputArea-output")).to_contain_text(reply, timeout=60_000)
        student.photograph(name, cell)


def chosen_case(student):
    """After "Run all" another patient can be chosen, and another card is drawn."""
    student.with_parameters("06_interpret", "")
    student.run_all()
    cell = student.page.locator(CELL, has_text="browser = browse(patients").last
    select = cell.locator("select")
    select.wait_for(timeout=LONG)
    image = cell.locator("img").first
    before = image.get_attribute("src")
    select.select_option(index=3)
    expect(image).not_to_have_attribute("src", before, timeout=LONG)     # Lab puts another element there
    student.photograph("06_another", cell)


def own_card(student, mammogram):
    """A card and a row for a mammogram of one's own, with its warning."""
    student.with_parameters("08_your_images", f"MAMMOGRAMS = [{mammogram!r}]" if mammogram else "")
    student.run_all()
    cell = student.page.locator(CELL, has_text="display(picture(card(pd.Series(case))))").last
    cell.locator("img").wait_for(timeout=LONG)
    expect(cell).to_contain_text("1 of 1 patients read", timeout=LONG)
    expect(student.page.locator(CELL, has_text="no evidence about patients").first).to_be_visible()
    student.photograph("08_card", cell.locator("img"))


def main(address, token, folder, mammogram=""):
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1500, "height": 1100})
        student = Student(page, address, token, folder)
        exercise(student)
        own_card(student, mammogram)
        progress(student)
        chosen_case(student)


if __name__ == "__main__":
    main(*sys.argv[1:])
