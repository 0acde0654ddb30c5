"""The page that `figures.compare` writes, build/compare.html: the four stages of a reproduction (declared -> installed -> ran clean ->
identical), a row a panel, and reference and current figure side by side where a panel differs. It needs no other file and no script."""
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

PHANTOM = "phantom data: these numbers test the machinery and are no evidence about patients"
COLOURS = {"identical": "#009E73", "within tolerance": "#56B4E9", "differs": "#E69F00", "missing": "#D55E00", "unreadable": "#D55E00",
           "new": "#999999"}
SIDE, MOST = 900, 20            # pixels of an embedded figure at most; troubles that are told one by one
CSS = """body { font: 14px/1.4 sans-serif; max-width: 1200px; margin: 2em auto; padding: 0 1em; color: #222 }
.stages { display: flex; gap: 1.5em; padding: 0; list-style: none }
.stages li { flex: 1; border-top: 5px solid; padding: .4em 0 }
.stages li + li::before { content: "\\2192"; float: left; margin: -.1em .5em 0 -1.2em } .stages b { display: block }
table { border-collapse: collapse }
th, td { text-align: left; padding: .2em .8em .2em 0; border-bottom: 1px solid #ddd; vertical-align: top }
.status { border-left: 5px solid; padding-left: .5em; white-space: nowrap } .phantom { color: #B22222 }
.pair { display: flex; gap: 1em } .pair figure { flex: 1; margin: 0 } .pair img { width: 100%; border: 1px solid #ddd }"""


class Stage(NamedTuple):
    name: str
    said: str           # one line
    troubles: list      # of str; none if all is well


# ---- the four stages ---------------------------------------------------------------------------------------------

def flaw(path):
    """What is wrong with an executed notebook; "" if every cell ran."""
    try:
        code = [c for c in nbformat.read(path, 4).cells if c.cell_type == "code" and c.source.strip()]
    except (OSError, ValueError, AttributeError, KeyError):
        return "cannot be read"
    if any(o.output_type == "error" for c in code for o in c.outputs):
        return "ended in an error"
    return "was not run to its end" if any(c.execution_count is None for c in code) else ""


def ran(profile):
    """The stage "ran clean": executed notebooks without an error, runs as their checksums say, and nothing half-written."""
    folder = config.RUNS / profile.name
    books = [p for p in sorted((folder / "notebooks").glob("*.ipynb")) if not p.name.endswith(".partial.ipynb")]
    troubles = [f"notebook {p.name} {said}" for p in books if (said := flaw(p))]
    halves = sorted(folder.rglob("*.partial*"))
    troubles += [f"{p.relative_to(folder)} is half-written: its step still runs, failed or was killed" for p in halves]
    runs = [p for p in sorted(folder.glob("*/*/seed_*")) if p.is_dir()]
    for run in runs:
        try:
            record.load_run(run)
        except Problem as problem:
            troubles.append(str(problem))
    if not books:
        troubles.append(f"no executed notebook is in {folder / 'notebooks'}; run `make reproduce`")
    told = f"{len(troubles) or 'no'} trouble{'s' * (len(troubles) > 1)}"
    return Stage("ran clean", f"{len(books)} notebooks and {len(runs)} runs, {told}", troubles)


def stages(profile, found):
    """The four `Stage`s; found: list of `compare.Panel`."""
    pins = len(doctor.pins())
    wrong = doctor.packages()
    count = lambda *status: sum(p.status in status for p in found)
    wanted = len(found) - count("new")
    worse = [f"{p.name} {p.status}" + (f": {p.told}" if p.told else "") for p in found if p.status not in ("identical", "new")]
    close = f", {n} within tolerance" if (n := count("within tolerance")) else ""
    return [Stage("declared", f"{pins} packages in requirements.lock", [] if pins else ["requirements.lock holds no pin"]),
            Stage("installed", "not as declared" if wrong else "every one, in its version", [wrong] if wrong else []), ran(profile),
            Stage("identical", f"{count('identical')} of {wanted} panels{close}", worse)]


# ---- the page ----------------------------------------------------------------------------------------------------

def rounded(similarity):
    """Four digits, rounded down, so that only 1 is told as 1.0000."""
    return "–" if math.isnan(similarity) else f"{math.floor(1e4 * similarity) / 1e4:.4f}"


def picture(path, what):
    """<figure> of a PNG, no larger than SIDE and embedded as WebP; words where there is none."""
    shown = "there is none"
    if path and path.exists():
        try:
            image, out = Image.open(path).convert("RGB"), io.BytesIO()
            image.thumbnail((SIDE, 2 * SIDE))
            image.save(out, "webp", quality=80)
            shown = f'<img alt="{html.escape(what)}" src="data:image/webp;base64,{base64.b64encode(out.getvalue()).decode()}">'
        except (OSError, ValueError, SyntaxError):
            shown = "it cannot be read"
    return f"<figure><figcaption>{html.escape(what)}</figcaption>{shown}</figure>"


def side_by_side(found, reference):
    """Reference and current figure of every panel that is not as it was; a figure's name begins the names of its panels."""
    drawn, pairs = sorted(reference.glob("*.png"), key=lambda p: -len(p.stem)), {}
    for panel in found:
        numbers = panel.name.startswith("fig5") and panel.name != "fig5"         # panels m-r, drawn apart from the cases
        figure = next((p for p in drawn if panel.name.startswith(p.stem) and not numbers or numbers and p.stem == "fig5_numbers"), None)
        if figure and panel.status not in ("identical", "within tolerance", "new"):
            pairs.setdefault(figure, []).append(panel.name)
    out = []
    for figure, names in sorted(pairs.items()):
        current = next((p for p in config.FIGURES.glob(f"*/{figure.name}") if p.parent.name != reference.name), None)
        out.append(f'<h2>{html.escape(figure.stem)}: {html.escape(", ".join(sorted(names)))}</h2><div class="pair">'
                   f'{picture(figure, "reference")}{picture(current, "this run")}</div>')
    return "".join(out)


def page(profile, found, stages, reference):
    """The whole page as text."""
    text = lambda value: html.escape(str(value))
    made = record.environment()
    rim, tick = lambda s: COLOURS["differs" if s.troubles else "identical"], lambda s: "" if s.troubles else " &#10003;"
    steps = "".join(f'<li style="border-color: {rim(s)}"><b>{text(s.name)}{tick(s)}</b>{text(s.said)}</li>' for s in stages)
    rows = "".join(f'<tr><td>{text(p.name)}</td><td class="status" style="border-left-color: {COLOURS[p.status]}">{text(p.status)}</td>'
                   f"<td>{rounded(p.similarity)}</td><td>{text(p.told)}</td></tr>" for p in found)
    told = [t for s in stages[:-1] for t in s.troubles]     # those of the panels stand in the table
    more = [f"and {len(told) - MOST} more"] if len(told) > MOST else []
    troubles = "<ul>" + "".join(f"<li>{text(t)}</li>" for t in told[:MOST] + more) + "</ul>" if told else ""
    return ('<!DOCTYPE html><html lang="en"><meta charset="utf-8"><title>xmodal: this run and the reference</title>'
            f"<style>{CSS}</style><h1>This run and the reference</h1>{f'<p class=phantom>{PHANTOM}</p>' if profile.phantom else ''}"
            f'<ol class="stages">{steps}</ol>{troubles}'
            f"<table><tr><th>panel</th><th>status</th><th>similarity</th><th>what</th></tr>{rows}</table>{side_by_side(found, reference)}"
            f"<p>Profile {text(profile.name)}; Python {text(made['python'])}, {text(made['cpu'])}, {made['cores']} cores, "
            f"commit {text(made['commit'] or '–')}. How the similarity is defined stands in figures/compare.py.</p></html>\n")


def write(profile, found, stages, reference):
    """Writes build/compare.html atomically; returns its path."""
    path = config.ROOT / "build" / "compare.html"
    with atomic(path) as partial:
        partial.write_text(page(profile, found, stages, reference))
    return path
