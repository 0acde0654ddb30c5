"""`python -m figures` redraws every figure from its tables, without model or images."""
import sys

from xmodal.config import FIGURES, Problem

from . import controls, fig1, fig2, fig3, fig4, fig5, fig6, fusion, kmat, mirror, rfpmss, table1

HINT = "run its notebook first (or `make reproduce`, `make companions`)"


def main():
    """Draws every figure that has tables; prints the paths of its pictures, or that it has none."""
    for module in (fig1, fig2, fig3, fig4, fig5, fig6, table1, controls, kmat, mirror, rfpmss,
                   fusion):
        name = module.__name__.rpartition(".")[2]
        if any((FIGURES / name).glob("*.csv")):
            module.draw()
            print(*sorted((FIGURES / name).glob("*.png")))
        else:
            print(f"{name}: no tables in {FIGURES / name}; {HINT}")


if __name__ == "__main__":
    try:
        main()
    except Problem as problem:
        sys.exit(str(problem))
