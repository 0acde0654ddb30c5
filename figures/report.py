"""The page that `figures.compare` writes, build/compare.html. It needs no other file and no script.

It shows the four stages of a reproduction (declared -> installed -> ran clean -> identical), one row per
panel, and reference and current figure side by side where a panel differs.
"""
import base64
import html
import io
import math
from typing import NamedTuple

import nbformat
from PIL import Image

from xmodal import config, record
from xmodal.config import Problem
from xmodal.runtime import doctor
from xmodal.runtime.files import atomic

from . import PHANTOM

COLOURS = {
    "identical": "#009E73", "within tolerance": "#56B4E9", "differs": "#E69F00",
    "missing": "#D55E00", "unreadable": "#D55E00", "new": "#999999",
}
SIDE = 900                      # pixels of an embedded figure, at most
MOST = 20                       # troubles that are listed; of more, only the number
CSS = """body { font: 14px/1.4 sans-serif; max-width: 1200px; margin: 2em auto; padding: 0 1em; color: #222 }
.stages { display: flex; gap: 1.5em; padding: 0; list-style: none }
.stages li { flex: 1; border-top: 5px solid; padding: .4em 0 }
.stages li + li::before { content: "\\2192"; float: left; margin: -.1em .5em 0 -1.2em }
.stages b { display: block }
table { border-collapse: collapse }
th, td { text-align: left; padding: .2em .8em .2em 0; border-bottom: 1px solid #ddd; vertical-align: top }
.status { border-left: 5px solid; padding-left: .5em; white-space: nowrap } .phantom { color: #B22222 }
.pair { display: flex; gap: 1em } .pair figure { flex: 1; margin: 0 }
.pair img { width: 100%; border: 1px solid #ddd }"""


class Stage(NamedTuple):
    name: str
    summary: str        # one line
    troubles: list      # of str; empty if all is well


# ---- the four stages ----------------------------------------------------------------------------------

def flaw(path):
    """What is wrong with an executed notebook; "" if every cell ran."""
    try:
        cells = nbformat.read(path, 4).cells
        code = [cell for cell in cells if cell.cell_type == "code" and cell.source.strip()]
    except (OSError, ValueError, AttributeError, KeyError):
        return "cannot be read"
    outputs = [output for cell in code for output in cell.outputs]
    if any(output.output_type == "error" for output in outputs):
        return "ended in an error"
    if any(cell.execution_count is None for cell in code):
        return "was not run to its end"
    return ""


def plural(n, what):
    """"no trouble", "1 trouble", "2 troubles"."""
    return f"{n or 'no'} {what}" + ("s" if n > 1 else "")


def ran(profile):
    """The stage "ran clean": notebooks without errors, runs as their checksums say, nothing half-written."""
    folder = config.RUNS / profile.name
    paths = sorted((folder / "notebooks").glob("*.ipynb"))
    notebooks = [path for path in paths if not path.name.endswith(".partial.ipynb")]
    troubles = []
    for path in notebooks:
        what = flaw(path)
        if what:
            troubles.append(f"notebook {path.name} {what}")
    for path in sorted(folder.rglob("*.partial*")):
        half = path.relative_to(folder)
        troubles.append(f"{half} is half-written: its step still runs, failed or was killed")
    runs = [path for path in sorted(folder.glob("*/*/seed_*")) if path.is_dir()]
    for run in runs:
        try:
            record.load_run(run)
        except Problem as problem:
            troubles.append(str(problem))
    if not notebooks:
        troubles.append(f"no executed notebook is in {folder / 'notebooks'}; run `make reproduce`")
    summary = f"{len(notebooks)} notebooks and {len(runs)} runs, {plural(len(troubles), 'trouble')}"
    return Stage("ran clean", summary, troubles)


def declared():
    """The stage "declared": requirements.lock pins packages."""
    pins = len(doctor.pins())
    troubles = [] if pins else ["requirements.lock holds no pin"]
    return Stage("declared", f"{pins} packages in requirements.lock", troubles)


def installed():
    """The stage "installed": every package in the version that is pinned."""
    trouble = doctor.packages()
    if trouble:
        return Stage("installed", "not as declared", [trouble])
    return Stage("installed", "every one, in its version", [])


def identical(panels):
    """The stage "identical": how many panels are as in the reference."""
    statuses = [panel.status for panel in panels]
    wanted = len(panels) - statuses.count("new")
    close = statuses.count("within tolerance")
    summary = f"{statuses.count('identical')} of {wanted} panels"
    if close:
        summary += f", {close} within tolerance"
    troubles = []
    for panel in panels:
        if panel.status not in ("identical", "new"):
            difference = f": {panel.difference}" if panel.difference else ""
            troubles.append(f"{panel.name} {panel.status}{difference}")
    return Stage("identical", summary, troubles)


def stages(profile, panels):
    """The four `Stage`s of a run. panels: list of `compare.Panel`."""
    return [declared(), installed(), ran(profile), identical(panels)]


def run_troubles(stages):
    """The troubles of all stages but the last, whose panels have a table of their own."""
    return [trouble for stage in stages[:-1] for trouble in stage.troubles]


# ---- the page -----------------------------------------------------------------------------------------

def rounded(similarity):
    """Four digits, rounded down, so that only 1 is printed as 1.0000."""
    return "–" if math.isnan(similarity) else f"{math.floor(1e4 * similarity) / 1e4:.4f}"


def embedded(path):
    """A picture as the text of a WebP data URI, no larger than SIDE."""
    image = Image.open(path).convert("RGB")
    image.thumbnail((SIDE, 2 * SIDE))
    webp = io.BytesIO()
    image.save(webp, "webp", quality=80)
    return "data:image/webp;base64," + base64.b64encode(webp.getvalue()).decode()


def picture(path, caption):
    """<figure> of a PNG, or the caption and a sentence where there is none (path is None, or no file)."""
    shown = "there is none"
    if path and path.exists():
        try:
            shown = f'<img alt="{html.escape(caption)}" src="{embedded(path)}">'
        except (OSError, ValueError, SyntaxError):
            shown = "it cannot be read"
    return f"<figure><figcaption>{html.escape(caption)}</figcaption>{shown}</figure>"


def figure_of(panel, drawn):
    """The path among `drawn` of the PNG that shows a panel, or None.

    The name of a figure begins the names of its panels; of two such figures the longer name counts. Only
    Fig. 5 m-r are drawn in fig5_numbers.png; fig5.png shows the cases a-l, whose table is fig5.csv.
    """
    if panel.startswith("fig5") and panel != "fig5":
        fitting = [path for path in drawn if path.stem == "fig5_numbers"]
    else:
        fitting = [path for path in drawn if panel.startswith(path.stem)]
    return max(fitting, key=lambda path: len(path.stem), default=None)


def side_by_side(panels, reference):
    """Reference and current figure of every panel that is missing, unreadable or differs, as HTML."""
    drawn = sorted(reference.glob("*.png"))
    names = {}                                              # path of a figure -> names of its panels
    for panel in panels:
        figure = figure_of(panel.name, drawn)
        if figure and panel.status not in ("identical", "within tolerance", "new"):
            names.setdefault(figure, []).append(panel.name)
    parts = []
    for figure in sorted(names):
        paths = config.FIGURES.glob(f"*/{figure.name}")
        current = next((path for path in paths if path.parent.name != reference.name), None)
        heading = html.escape(f"{figure.stem}: {', '.join(sorted(names[figure]))}")
        pair = picture(figure, "reference") + picture(current, "this run")
        parts.append(f'<h2>{heading}</h2><div class="pair">{pair}</div>')
    return "".join(parts)


def step(stage):
    """A stage as an item of the list at the top of the page."""
    colour = COLOURS["differs" if stage.troubles else "identical"]
    tick = "" if stage.troubles else " &#10003;"
    heading = html.escape(stage.name) + tick
    return f'<li style="border-color: {colour}"><b>{heading}</b>{html.escape(stage.summary)}</li>'


def row(panel):
    """A panel as a row of the table."""
    name, status, difference = map(html.escape, (panel.name, panel.status, panel.difference))
    style = f"border-left-color: {COLOURS[panel.status]}"
    return (f'<tr><td>{name}</td><td class="status" style="{style}">{status}</td>'
            f"<td>{rounded(panel.similarity)}</td><td>{difference}</td></tr>")


def trouble_list(troubles):
    """The first MOST troubles as a list, and how many more there are; "" without any."""
    if not troubles:
        return ""
    items = troubles[:MOST]
    if len(troubles) > MOST:
        items.append(f"and {len(troubles) - MOST} more")
    return "<ul>" + "".join(f"<li>{html.escape(item)}</li>" for item in items) + "</ul>"


def page(profile, panels, stages, reference):
    """The whole page as text."""
    environment = doctor.environment()
    processor = html.escape(f"{environment['cpu']}, {environment['cores']} cores")
    commit = html.escape(environment["commit"] or "–")
    steps = "".join(map(step, stages))
    rows = "".join(map(row, panels))
    warning = f"<p class=phantom>{PHANTOM}</p>" if profile.phantom else ""
    return (
        '<!DOCTYPE html><html lang="en"><meta charset="utf-8">'
        "<title>xmodal: this run and the reference</title>"
        f"<style>{CSS}</style><h1>This run and the reference</h1>{warning}"
        f'<ol class="stages">{steps}</ol>{trouble_list(run_troubles(stages))}'
        "<table><tr><th>panel</th><th>status</th><th>similarity</th><th>what</th></tr>"
        f"{rows}</table>{side_by_side(panels, reference)}"
        f"<p>Profile {html.escape(profile.name)}; "
        f"Python {environment['python']}, {processor}, commit {commit}. "
        "How the similarity is defined stands in figures/compare.py.</p></html>\n"
    )


def write(profile, panels, stages, reference):
    """Writes build/compare.html atomically; returns its path."""
    path = config.ROOT / "build" / "compare.html"
    with atomic(path) as partial:
        partial.write_text(page(profile, panels, stages, reference))
    return path
