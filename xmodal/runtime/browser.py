"""A case at a time, to choose in JupyterLab; where nothing can be chosen (a printed page, a repository) the first one's picture stays."""
import io

from ..config import Problem


def picture(figure):
    """A Figure as a PNG of 256 colours for IPython to show, at the size that it is drawn: full colour would fill a notebook of many cases."""
    import PIL.Image
    from IPython.display import Image
    full, small = io.BytesIO(), io.BytesIO()
    figure.savefig(full, format="png", dpi=figure.dpi)
    PIL.Image.open(full).convert("RGB").quantize(256).save(small, "png", optimize=True)
    return Image(small.getvalue())


def browse(cases, draw, label="case"):
    """Shows the picture of the first case and below it a list to choose from, which replaces the picture. Returns the Dropdown.

    cases: their names, at least one (else `Problem`); draw: name -> Figure, called when a case is chosen. The picture is an output
    of the cell and no part of the widget, so it is there also where widgets are not.
    """
    import ipywidgets
    from IPython.display import DisplayHandle, display
    cases = list(cases)
    if not cases:
        raise Problem("There is no case to look at; choose a run with patients who have both modalities.")
    shown, chooser = DisplayHandle(), ipywidgets.Dropdown(options=cases, description=label)
    shown.display(picture(draw(cases[0])))
    chooser.observe(lambda change: shown.update(picture(draw(change["new"]))), "value")
    words = f"Open this notebook in JupyterLab and run it to choose among {len(cases)} cases; above is {cases[0]}."
    display(chooser._repr_mimebundle_() | {"text/plain": words}, raw=True)
    return chooser
