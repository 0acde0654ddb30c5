"""Opens a notebook in JupyterLab as a person would, clears it, runs it and waits for its figures.

`browser.py ADDRESS SCREENSHOT`, with the token in the address. It needs playwright, which is not part of
requirements.lock, and Chromium.
"""
import shutil
import sys

from playwright.sync_api import expect, sync_playwright

STORED = 3       # figures that the notebook comes with
REAL = 2         # of these, the figures of real images, which need no trained model


def choose(page, menu, item):
    """Clicks an item of a menu."""
    page.locator(".lm-MenuBar-itemLabel").get_by_text(menu, exact=True).click()
    page.locator(".lm-Menu-itemLabel").get_by_text(item, exact=True).click()


def run(page, address):
    """Opens, clears and runs the notebook; returns the locator of its figures."""
    page.goto(address)
    figures = page.locator(".jp-NotebookPanel .jp-OutputArea-output img")
    expect(figures).to_have_count(STORED)
    expect(page.locator("#jp-main-statusbar")).to_contain_text("| Idle")
    choose(page, "Edit", "Clear Outputs of All Cells")
    expect(figures).to_have_count(0)
    choose(page, "Run", "Run All Cells")
    outputs = page.locator(".jp-OutputArea-executionResult, .jp-OutputArea-output")
    expect(outputs.get_by_text("um per pixel")).to_be_visible(timeout=300_000)
    figures.nth(REAL - 1).wait_for()
    return figures


def main(address, screenshot):
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1400, "height": 1000})
        expect.set_options(timeout=120_000)
        figures = run(page, address)
        first = figures.first
        first.scroll_into_view_if_needed()
        assert first.evaluate("image => image.complete && image.naturalWidth > 300"), "the figure is empty"
        page.screenshot(path=screenshot)
        print(f"{figures.count()} figures after running {address.split('?')[0]}")


if __name__ == "__main__":
    main(*sys.argv[1:])
