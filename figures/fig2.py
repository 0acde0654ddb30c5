"""Fig. 2 a-f, alignment of the two modalities. Redraw from the CSVs: `python -m figures.fig2`."""
import matplotlib.pyplot as plt
import numpy as np

from xmodal.config import CLASSES as NAMES
from xmodal.stats import mean_sd

from . import (
    CLASSES,
    METHODS,
    MM,
    MODALITIES,
    STYLE,
    WIDTH,
    caption,
    letter,
    nothing,
    p_text,
    present,
    read,
    save,
)

RADAR = {   # measure -> label; all are drawn so that further out is better, the table prints them as they are
    "intra_pair_similarity": "intra-pair\ncosine", "class_separability": "class\nseparability", "modality_gap_reduction": "modality gap\nreduction",
    "cluster_compactness": "cluster\ncompactness", "silhouette": "silhouette", "davies_bouldin": "Davies-\nBouldin",
}
NOTE = ("Radar: further out is better; values below 0 lie at the centre, and\nDavies-Bouldin (↓: lower is better) is drawn as 1 / (1 + index).\n"
        "p: paired t-test of ours against no alignment over folds, seeds.")
MODALITY_COLOURS = {"mammography": "#0072B2", "histopathology": "#D55E00"}
LABELS = {**METHODS, "mixstyle_irm": ("no align.", METHODS["mixstyle_irm"][1]), "concat": ("concat.", METHODS["concat"][1])}


def fig2_map(ax, table, title, colour="class", measures=None, method=None):
    """Panels a-d: a dot a patient and modality, a grey line between the two of a patient; measures: fig2f's table for the text below."""
    if not len(table):
        return nothing(ax, "no embeddings of this method")
    for _, pair in table.groupby("patient"):
        ax.plot(pair.x, pair.y, color="#BBBBBB", lw=0.35, zorder=1)
    for modality, (_, marker) in MODALITIES.items():
        g = table[table.modality == modality]
        shade = [CLASSES[t] if t >= 0 else "#999999" for t in g.truth] if colour == "class" else MODALITY_COLOURS[modality]
        ax.scatter(g.x, g.y, c=shade, marker=marker, s=11, lw=0.25, edgecolors="white", zorder=2)
    ax.set(xticks=[], yticks=[], title=title)
    ax.set_box_aspect(1)
    ax.spines[:].set_visible(True)
    ax.spines[:].set_color("#CCCCCC")
    if measures is not None and len(measures):
        g = measures[measures.method == method]
        text = lambda name: brief(g.value[g.measure == name])
        ax.set_xlabel(f"intra-pair cosine {text('intra_pair_similarity')}\nsilhouette {text('silhouette')}\nintra-class variance "
                      f"{text('intra_class_variance')}", fontsize=6, linespacing=1.3, labelpad=4)
    return ax


def brief(values, decimals=2):
    """Mean ± sd without leading zeros, "–" for none."""
    mean, sd, n = mean_sd(values)
    short = lambda x: f"{x:.{decimals}f}".replace("-", "−").replace("0.", ".", abs(x) < 0.995)
    return "–" if not n else short(mean) + (f" ± {short(sd)}" if n > 1 else "")


def map_legend(ax):
    """Handles for what colours and markers of panels a-d mean."""
    dot = lambda marker, c, label: ax.plot([], [], marker, ms=4, color=c, mew=0, label=label)[0]
    return ([dot(m, MODALITY_COLOURS[key], f"{n} (a)") for key, (n, m) in MODALITIES.items()]
            + [dot("s", c, n) for c, n in zip(CLASSES, NAMES)] + [dot(m, "#555555", n) for n, m in MODALITIES.values()])


def fig2e(ax, table):
    """Panel e: cosine of every mammogram (rows) to every patient's tissue (columns), ordered by class; lines part the classes."""
    if not len(table):
        return nothing(ax, "no embeddings of ours")
    grid = table.pivot(index="mammogram", columns="tissue", values="cosine").to_numpy()
    truth = table[table.tissue == 0].sort_values("mammogram").truth_mammogram.to_numpy()
    image = ax.imshow(grid, vmin=-1, vmax=1, cmap="RdBu_r", interpolation="nearest")
    edges = np.flatnonzero(np.diff(truth)) + 0.5
    for edge in edges:
        ax.axhline(edge, color="black", lw=0.5)
        ax.axvline(edge, color="black", lw=0.5)
    centres = [np.flatnonzero(truth == c).mean() for c in np.unique(truth)]
    ax.set(xticks=centres, yticks=centres, xlabel="histopathology", ylabel="mammography", anchor="N")
    ax.set_title("Similarity of unseen patients, ours")
    short = ("norm.", "ben.", "in situ", "inv.")                # classes may be narrow
    ax.set_xticklabels([short[c] for c in np.unique(truth)], fontsize=6)
    ax.set_yticklabels([short[c] for c in np.unique(truth)], rotation=90, va="center", fontsize=6)
    ax.tick_params(length=0)
    bar = ax.figure.colorbar(image, cax=ax.inset_axes([1.03, 0.35, 0.035, 0.65]), ticks=[-1, 0, 1])
    bar.set_label("cosine", labelpad=-4)
    bar.outline.set_visible(False)
    return ax


def _radius(measure, value):
    """A measure between 0 (centre) and 1 (rim), larger is better."""
    return 1 / (1 + value) if measure == "davies_bouldin" else np.clip(value, 0, 1)


def _radar(ax, table, methods):
    angles = np.linspace(0, 2 * np.pi, len(RADAR), endpoint=False)
    for method in methods:
        label, colour = LABELS[method]
        mean = table[table.method == method].groupby("measure").value.mean()
        r = [_radius(name, mean.get(name, np.nan)) for name in RADAR]
        ax.plot([*angles, 0], [*r, r[0]], color=colour, marker="o", ms=2.5, label=label)
        ax.fill([*angles, 0], [*r, r[0]], color=colour, alpha=0.1, lw=0)
    ax.set(ylim=(0, 1), xticks=angles, yticks=[0.25, 0.5, 0.75, 1])
    ax.set_xticklabels(RADAR.values(), fontsize=6)
    ax.set_yticklabels(["", "0.5", "", "1"], fontsize=5.5, color="#777777")
    ax.tick_params(axis="x", pad=3)
    ax.spines["polar"].set_color("#BBBBBB")


def fig2f(ax, table):
    """Panel f: radar and table of six measures, mean ± sd over folds and seeds; p: paired t-test of ours against no alignment."""
    if not len(table):
        return nothing(ax, "no runs to compare")
    ax.set_axis_off()
    ax.set_title("Six measures of alignment", x=0.2)
    methods = present(LABELS, table.method)
    _radar(ax.inset_axes([0.07, 0.12, 0.25, 0.72], projection="polar"), table, methods)
    rows = [["mean ± sd", *(LABELS[m][0] for m in methods), "p"]]
    for name, label in RADAR.items():
        g = table[table.measure == name]
        p = g.p_t[g.method == "mixstyle_irm"].head(1)
        label = label.replace("modality gap\n", "gap ").replace("-\n", "-").replace("\n", " ") + (" (↓)" if name == "davies_bouldin" else "")
        p = p_text(p.iloc[0]).replace("p = 0", "").replace("p < 0", "<") if len(p) else ""
        rows.append([label, *(brief(g.value[g.method == m], 1 if name == "davies_bouldin" else 2) for m in methods), p])
    columns = [0.44, *(0.695 + 0.113 * np.arange(len(methods))), 0.69 + 0.113 * len(methods)]
    for i, cells in enumerate(rows):
        for j, (x, cell) in enumerate(zip(columns, cells)):
            head = i == 0 and 0 < j <= len(methods)
            ax.text(x, 0.9 - 0.11 * i, cell, transform=ax.transAxes, ha="left" if j == 0 else "center", va="center", fontsize=5.8,
                    in_layout=False, fontweight="bold" if i == 0 else "normal", color=LABELS[methods[j - 1]][1] if head else "black")
    ax.plot([0.44, columns[-1] + 0.03], [0.845, 0.845], transform=ax.transAxes, color="#444444", lw=0.6, clip_on=False)
    ax.text(0.44, 0.04, NOTE, in_layout=False, transform=ax.transAxes, fontsize=5.5, color="#555555", va="center", linespacing=1.3)
    return ax


def draw():
    """Draws Fig. 2 from figures/fig2/*.csv into figures/fig2/fig2.png and returns the Figure."""
    tables = {k: read(f"fig2{k}") for k in "abcdef"}
    with plt.style.context(STYLE):
        fig = plt.figure(figsize=(WIDTH, 125 * MM))
        rows = fig.add_gridspec(2, 1, height_ratios=[1, 1.05])
        top, low = rows[0].subgridspec(1, 4), rows[1].subgridspec(1, 2, width_ratios=[1, 2.45])
        maps = [("a", "UMAP, no alignment", "modality", None), ("b", "t-SNE, ours", "class", "ours"),
                ("c", "UMAP, no alignment", "class", "mixstyle_irm"), ("d", "UMAP, ours", "class", "ours")]
        for i, (k, title, colour, method) in enumerate(maps):
            ax = fig.add_subplot(top[i])
            letter(fig2_map(ax, tables[k], title, colour, tables["f"] if method else None, method), k)
        letter(fig2e(fig.add_subplot(low[0]), tables["e"]), "e", x=20)
        letter(fig2f(fig.add_subplot(low[1]), tables["f"]), "f", x=-4)
        fig.legend(handles=map_legend(ax), ncols=8, loc="outside upper center", columnspacing=0.9)
        caption(fig, "", tables.values())
        return save(fig, "fig2")


if __name__ == "__main__":
    draw()
