"""Every figure is drawn from its panels' CSVs alone: `python -m figures.fig3` needs neither model nor images.

Here is what the figures share: colours, reading a panel's table, panel letters, and saving. The colours are
those of Okabe and Ito, which colour-blind readers can tell apart; a method, a domain or a class has the same
one everywhere.
"""
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from xmodal import config
from xmodal.config import Problem
from xmodal.methods import BASELINE_LABELS, COMPARED, METHOD_LABELS
from xmodal.runtime.files import atomic

# above matplotlib's own defaults, not above the user's matplotlibrc
STYLE = ["default", str(config.HOME / "figures" / "style.mplstyle")]
MM = 1 / 25.4                   # inches
WIDTH = 180 * MM                # of a two-column figure
PHANTOM = "phantom data: these numbers test the machinery and are no evidence about patients"

COLOURS = {                     # of methods
    "linear_probe": "#7A5230",
    # Fig. 2 and 3
    "erm": "#999999", "irm": "#56B4E9", "groupdro": "#009E73", "mixstyle": "#E69F00",
    "mixstyle_irm": "#D55E00", "coral": "#CC79A7", "dann": "#B8AB00",
    "concat": "#000000", "ours": "#0072B2", "ours_tta": "#003B5C",
    # Fig. 1
    "radiomics_lr": "#999999", "radiomics_rf": "#56B4E9", "radiomics_svm": "#009E73",
    "radiomics_xgboost": "#E69F00", "radiomics_lightgbm": "#D55E00", "radiomics_mlp": "#CC79A7",
    # Fig. 4 and 5
    "late_fusion": "#999999", "early_fusion": "#56B4E9", "vit_pathology": "#009E73",
    "swin_mammography": "#E69F00", "densenet_mammography": "#D55E00", "fusion_localiser": "#B8AB00",
}
MARKERS = {                     # of methods: with colour and dashes no two in a plot look alike
    "linear_probe": "X", "erm": "o", "irm": "v", "groupdro": "^", "mixstyle": "s", "mixstyle_irm": "p",
    "coral": "<", "dann": ">", "concat": "h", "ours": "D", "ours_tta": "d",
    "radiomics_lr": "o", "radiomics_rf": "v", "radiomics_svm": "^", "radiomics_xgboost": "s",
    "radiomics_lightgbm": "<", "radiomics_mlp": ">",
}
DASHES = {                      # of the lines of Fig. 1; the others are whole
    "linear_probe": (0, (4, 1, 1, 1)), "radiomics_lr": (0, (5, 2)), "radiomics_rf": (0, (2, 1)),
    "radiomics_svm": (0, (1, 1)), "radiomics_xgboost": (0, (6, 1, 1, 1, 1, 1)),
    "radiomics_lightgbm": (0, (3, 3)), "radiomics_mlp": (0, (8, 2)),
}
SPARE = ("#882255", "#332288", "#44AA99", "#AA4499", "#117733")     # of methods and domains of one's own
for number, name in enumerate(name for name in COMPARED if name not in COLOURS):
    COLOURS[name] = SPARE[number % len(SPARE)]
    MARKERS[name] = "P"
# Each of these is {name: (label, colour)}, in the order in which it is drawn.
METHODS = {name: (METHOD_LABELS[name], COLOURS[name]) for name in COMPARED}
BASELINES = {name: (label, COLOURS[name]) for name, label in BASELINE_LABELS.items()}
DOMAINS = {}
for name in dict.fromkeys((*config.PAPER_ORDER, *config.DATASETS)):
    DOMAINS[name] = (config.DATASETS[name].label, config.DATASETS[name].colour)
CONDITIONS = {
    "source": ("as trained", "#999999"), "adabn": ("AdaBN", "#56B4E9"),
    "tent": ("Tent", "#E69F00"), "causal": ("causal", "#0072B2"),
}
CLASSES = ("#009E73", "#56B4E9", "#E69F00", "#D55E00")              # colours, in the order of config.CLASSES
SHORT_CLASSES = ("norm.", "ben.", "in situ", "inv.")                # labels where a class has little room
# {name: (label, marker)}
MODALITIES = {"mammography": ("mammography", "o"), "histopathology": ("histopathology", "^")}


def read(name, needed=False):
    """The table of panel `name` ("fig3f", "kmat_table2"); empty if it was not written.

    Raises `Problem` if it cannot be read, or if it is `needed` and was not written.
    """
    path = config.panel_path(name)
    if not path.exists():
        if needed:
            raise Problem(f"There is no {path}; run 05_evaluate or 06_interpret first (or `make reproduce`).")
        return pd.DataFrame()
    try:
        return pd.read_csv(path, keep_default_na=True)
    except (OSError, ValueError) as error:
        remedy = "write it again with 05_evaluate or 06_interpret"
        raise Problem(f"The table {path} cannot be read ({error}); {remedy}.") from None


def present(names, column):
    """The keys of a dict of this file that occur in a column, in the dict's order."""
    return [name for name in names if name in set(column)]


def letter(ax, text, x=0.0, gap=2.0):
    """A bold panel letter above the top left corner; x shifts it left and gap up, in points."""
    corner = ax.annotate(text, (0, 1), (-x, gap), xycoords="axes fraction", textcoords="offset points")
    corner.set(fontsize=9, fontweight="bold", va="bottom", ha="left")


def nothing(ax, message="no finished runs for this panel"):
    """A panel without data: a message in place of a plot."""
    ax.set_axis_off()
    text = ax.text(0.5, 0.5, message, transform=ax.transAxes, ha="center", va="center", wrap=True)
    text.set(color="#777777", style="italic")
    return ax


def box_of(ax, values, x, width, colour):
    """A box of the values at x, with the median in black.

    Whiskers reach to 1.5 times the distance of the quartiles; outliers are left to the dots of the caller.
    """
    rim = {"color": colour}
    ax.boxplot(
        values, positions=[x], widths=width, showfliers=False, patch_artist=True,
        medianprops={"color": "black", "lw": 1},
        boxprops={"facecolor": colour, "alpha": 0.4, "edgecolor": colour},
        whiskerprops=rim, capprops=rim,
    )


def spread(x, n, half):
    """Where n dots around x are drawn beside each other: from x - half to x + half; a single one at x."""
    return x + np.linspace(-half, half, n) if n > 1 else [x]


def p_text(p):
    """A p-value as journals print it; "" where there is none."""
    if pd.isna(p):
        return ""
    if p < 0.001:
        return "p < 0.001"
    return f"p = {p:.3f}" if p < 0.1 else f"p = {p:.2f}"


def caption(fig, text, tables):
    """The lines under a figure: `text`, and in red that the data are phantoms where any table says so."""
    made_of = {data for table in tables if "data" in table for data in table["data"]}
    phantom = sorted(data for data in made_of if str(data).startswith("phantom"))
    real = "".join(data.removeprefix("phantom") for data in phantom)
    lines = [text, PHANTOM + real] if phantom else [text]
    colour = "#B22222" if phantom else "#444444"
    fig.supxlabel("\n".join(filter(None, lines)), fontsize=6.5, color=colour)


def save(fig, name):
    """Writes a figure as PNG, closes it, and returns it for a notebook to show.

    "fig3" is written to figures/fig3/fig3.png, "mirror_fig3" to figures/mirror/mirror_fig3.png, atomically
    and without a date in the file.
    """
    with atomic(config.panel_path(name, ".png")) as partial:
        fig.savefig(partial, metadata={"Software": None})
    plt.close(fig)
    return fig
