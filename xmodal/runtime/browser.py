"""One case at a time, to choose in JupyterLab. Where nothing can be chosen (a printed page, a repository),
the picture of the first case stays."""
import io

from ..config import Problem


def picture(figure):
    """A Figure as a PNG of 256 colours for IPython to show, at the size that it is drawn. Full colour would
    make a notebook with many cases large."""
    import PIL.Image
    from IPython.display import Image
    full = io.BytesIO()
    figure.savefig(full, format="png", dpi=figure.dpi)
    small = io.BytesIO()
    PIL.Image.open(full).convert("RGB").quantize(256).save(small, "png", optimize=True)
    return Image(small.getvalue())


def browse(cases, draw, label="case"):
    """Shows the picture of the first case, and below it a list in which the reader chooses another one.
    Returns the Dropdown.

    cases: their names, at least one (else `Problem`); draw: name -> Figure, called when a case is chosen. The
    picture is an output of the cell and not part of the widget, so it is shown also where widgets are not.
    """
    import ipywidgets
    from IPython.display import DisplayHandle, display
    cases = list(cases)
    if not cases:
        raise Problem("There is no case to look at; choose a run with patients who have both modalities.")
    shown = DisplayHandle()
    shown.display(picture(draw(cases[0])))
    chooser = ipywidgets.Dropdown(options=cases, description=label)
    chooser.observe(lambda change: shown.update(picture(draw(change["new"]))), "value")
    hint = (f"Open this notebook in JupyterLab and run it to choose among {len(cases)} cases; "
            f"above is {cases[0]}.")
    display(chooser._repr_mimebundle_() | {"text/plain": hint}, raw=True)
    return chooser
