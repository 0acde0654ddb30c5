"""`python -m figures` redraws every figure from its tables, without model or images."""
import sys

from xmodal.config import FIGURES, Problem

from . import fig2, fig3, fig4, fig5, fig6, table1

try:
    for module in (fig2, fig3, fig4, fig5, fig6, table1):
        name = module.__name__.rpartition(".")[2]
        if any((FIGURES / name).glob("*.csv")):
            module.draw()
            print(FIGURES / name / f"{name}.png")
        else:
            print(f"{name}: no tables in {FIGURES / name}; run 05_evaluate or 06_interpret first (or `make reproduce`)")
except Problem as problem:
    sys.exit(str(problem))
