"""Every figure is drawn from its panels' CSVs alone: `python -m figures.fig3` needs neither model nor images.

Here is what the figures share: names and colours (Okabe and Ito's palette, safe for colour-blind readers; a method, a
domain, a class has the same colour everywhere), reading a panel's table, panel letters, and saving.
"""
import matplotlib.pyplot as plt
import pandas as pd

from xmodal import config
from xmodal.config import Problem
from xmodal.runtime.files import atomic

STYLE = str(config.HOME / "figures" / "style.mplstyle")
MM = 1 / 25.4                   # inches
WIDTH = 180 * MM                # of a two-column figure

METHODS = {                     # name -> label, colour; in the order in which they are drawn
    "erm": ("ERM", "#999999"), "irm": ("IRM", "#56B4E9"), "groupdro": ("GroupDRO", "#009E73"), "mixstyle": ("MixStyle", "#E69F00"),
    "mixstyle_irm": ("MixStyle+IRM", "#D55E00"), "coral": ("CORAL", "#CC79A7"), "dann": ("DANN", "#B8AB00"),
    "concat": ("concatenation", "#000000"), "ours": ("ours", "#0072B2"), "ours_tta": ("ours, adapted", "#003B5C"),
}
BASELINES = {                   # what Fig. 1, 4 and 5 compare ours with
    "radiomics_lr": ("logistic regression", "#999999"), "radiomics_rf": ("random forest", "#56B4E9"), "radiomics_svm": ("SVM", "#009E73"),
    "radiomics_xgboost": ("XGBoost", "#E69F00"), "radiomics_lightgbm": ("LightGBM", "#D55E00"), "radiomics_mlp": ("MLP", "#CC79A7"),
    "late_fusion": ("late fusion", "#999999"), "early_fusion": ("early fusion", "#56B4E9"), "vit_pathology": ("ViT, pathology", "#009E73"),
    "swin_mammography": ("Swin, mammography", "#E69F00"), "densenet_mammography": ("DenseNet-121, mammography", "#D55E00"),
    "fusion_localiser": ("fusion", "#B8AB00"), "ours": METHODS["ours"],
}
DOMAINS = {"cbis_ddsm": ("CBIS-DDSM", "#56B4E9"), "camelyon": ("CAMELYON", "#E69F00"),
           "inbreast": ("INbreast", "#0072B2"), "bach": ("BACH", "#D55E00")}      # in the order of Fig. 3 a-d
CONDITIONS = {"source": ("as trained", "#999999"), "adabn": ("AdaBN", "#56B4E9"), "tent": ("Tent", "#E69F00"),
              "causal": ("causal", "#0072B2")}
CLASSES = ("#009E73", "#56B4E9", "#E69F00", "#D55E00")
MODALITIES = {"mammography": ("mammography", "o"), "histopathology": ("histopathology", "^")}


def read(name, needed=False):
    """The table of panel `name` ("fig3f", "kmat_table2"); empty if it was not written, or a `Problem` if it is `needed`."""
    folder = name.partition("_")[0] if "_" in name else name.rstrip("abcdefghijklmnopqrstuvwxyz") if name[-1].isalpha() else name
    path = config.FIGURES / folder / f"{name}.csv"
    if not path.exists():
        if needed:
            raise Problem(f"There is no {path}; run 05_evaluate or 06_interpret first (or `make reproduce`).")
        return pd.DataFrame()
    try:
        return pd.read_csv(path, keep_default_na=True)
    except (OSError, ValueError) as error:
        raise Problem(f"The table {path} cannot be read ({error}); write it again with 05_evaluate or 06_interpret.") from None


def present(names, column):
    """Those of `names` (a dict of this file) that occur in a column, in the dict's order."""
    return [n for n in names if n in set(column)]


def letter(ax, text, x=0.0, gap=2.0):
    """A bold panel letter above the top left corner; x shifts it left, in points."""
    ax.annotate(text, (0, 1), (-x, gap), xycoords="axes fraction", textcoords="offset points", fontsize=9, fontweight="bold",
                va="bottom", ha="left")


def nothing(ax, message="no finished runs for this panel"):
    """What a panel without data says."""
    ax.set_axis_off()
    ax.text(0.5, 0.5, message, transform=ax.transAxes, ha="center", va="center", color="#777777", style="italic", wrap=True)
    return ax


def box_of(ax, values, x, width, colour):
    """A box of the values at x, with the median in black; whiskers reach to 1.5 times the quartiles' distance, outliers are left to dots."""
    rim = {"color": colour}
    ax.boxplot(values, positions=[x], widths=width, showfliers=False, patch_artist=True, medianprops={"color": "black", "lw": 1},
               boxprops={"facecolor": colour, "alpha": 0.4, "edgecolor": colour}, whiskerprops=rim, capprops=rim)


def p_text(p):
    """A p-value as journals print it; "" where there is none."""
    return "" if pd.isna(p) else "p < 0.001" if p < 0.001 else f"p = {p:.3f}" if p < 0.1 else f"p = {p:.2f}"


def caption(fig, text, tables):
    """The lines under a figure: `text`, and in red that the data are phantoms where any table says so."""
    phantom = any("data" in t and (t["data"] == "phantom").any() for t in tables)
    warning = "phantom data: these numbers test the machinery and are no evidence about patients" if phantom else ""
    fig.supxlabel("\n".join(filter(None, (text, warning))), fontsize=6.5, color="#B22222" if phantom else "#444444")


def save(fig, name):
    """Writes figures/<name>/<name>.png (figures/mirror/mirror_fig3.png for "mirror_fig3") atomically, without a date in it, closes the
    figure and returns it (for a notebook to show)."""
    with atomic(config.FIGURES / name.partition("_")[0] / f"{name}.png") as partial:
        fig.savefig(partial, metadata={"Software": None})
    plt.close(fig)
    return fig
