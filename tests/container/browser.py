"""Opens a notebook in JupyterLab as a person would, clears it, runs it and waits for its figures.

`browser.py ADDRESS SCREENSHOT`, with the token in the address. Needs playwright, which is no part of requirements.lock, and Chromium.
"""
import shutil
import sys

from playwright.sync_api import expect, sync_playwright

STORED, REAL = 3, 2  # figures that the notebook comes with; those of real images, which need no trained model


def menu(page, name, item):
    page.locator(".lm-MenuBar-itemLabel").get_by_text(name, exact=True).click()
    page.locator(".lm-Menu-itemLabel").get_by_text(item, exact=True).click()


def main(address, screenshot):
    with sync_playwright() as play:
        page = play.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"]).new_page(
            viewport={"width": 1400, "height": 1000})
        expect.set_options(timeout=120_000)
        page.goto(address)
        figures = page.locator(".jp-NotebookPanel .jp-OutputArea-output img")
        expect(figures).to_have_count(STORED)
        expect(page.locator("#jp-main-statusbar")).to_contain_text("| Idle")
        menu(page, "Edit", "Clear Outputs of All Cells")
        expect(figures).to_have_count(0)
        menu(page, "Run", "Run All Cells")
        expect(page.locator(".jp-OutputArea-executionResult, .jp-OutputArea-output").get_by_text("um per pixel")).to_be_visible(timeout=300_000)
        figures.nth(REAL - 1).wait_for()
        figures.first.scroll_into_view_if_needed()
        assert figures.first.evaluate("picture => picture.complete && picture.naturalWidth > 300"), "the figure is empty"
        page.screenshot(path=screenshot)
        print(f"{figures.count()} figures after running {address.split('?')[0]}")


if __name__ == "__main__":
    main(*sys.argv[1:])
