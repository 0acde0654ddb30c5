"""Fig. 2 a-f, alignment of the two modalities. `python -m figures.fig2` redraws it from its tables."""
import matplotlib.pyplot as plt
import numpy as np

from xmodal.config import CLASSES as NAMES
from xmodal.stats import mean_sd

from . import (
    CLASSES,
    DOMAINS,
    METHODS,
    MM,
    MODALITIES,
    SHORT_CLASSES,
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
    "intra_pair_similarity": "intra-pair\ncosine",
    "class_separability": "class\nseparability",
    "modality_gap_reduction": "modality gap\nreduction",
    "cluster_compactness": "cluster\ncompactness",
    "silhouette": "silhouette",
    "davies_bouldin": "Davies-\nBouldin",
}
RANKS = {   # measure -> label in the table below those of the radar
    "pair_gain": "pairs − others",
    "retrieval_rank": "rank, unseen (↓)",
    "r_at_10": "R@10, unseen",
    "retrieval_rank_training": "rank, training (↓)",
}
NOTE = (
    "Radar: further out is better; values below 0 lie at the centre, Davies-Bouldin (↓: lower is better) is\n"
    "1 / (1 + index). pairs − others: cosine. Rank of the right tissue: 0 is best, .5 chance{chance}.\n"
    "p: paired t-test of ours against no alignment over folds, Holm over measures and methods."
)
MODALITY_COLOURS = {"mammography": "#0072B2", "histopathology": "#D55E00"}
CLASS_COLOURS = {-1: "#999999", **dict(enumerate(CLASSES))}     # -1: the class is not known
LABELS = {
    **METHODS,
    "linear_probe": ("untouched", METHODS["linear_probe"][1]),
    "mixstyle_irm": ("no align.", METHODS["mixstyle_irm"][1]),
    "concat": ("concat.", METHODS["concat"][1]),
}
BELOW = {   # measure -> what the text below a map calls it
    "intra_pair_similarity": "intra-pair cosine",
    "pair_gain": "less that of others",
    "retrieval_rank": "rank (chance .5)",
    "silhouette": "silhouette",
    "intra_class_variance": "intra-class variance",
}
# panel -> title, what the dots are coloured by, the method whose measures stand below it
MAPS = {
    "a": ("UMAP, no alignment", "modality", None),
    "b": ("t-SNE, ours", "class", "ours"),
    "c": ("UMAP, no alignment", "class", "mixstyle_irm"),
    "d": ("UMAP, ours", "class", "ours"),
}


def fig2_map(ax, table, title, colour="class", measures=None, method=None):
    """Panels a-d: one dot per pair and modality, a grey line between the two dots of a pair.

    colour: "class" or "modality". measures: the table of `fig2f`; those of `method` in the run that the
    table is of are printed below.
    """
    if not len(table):
        return nothing(ax, "no embeddings of this method")
    for _, pair in table.groupby("patient"):
        ax.plot(pair.x, pair.y, color="#BBBBBB", lw=0.35, zorder=1)
    for modality, (_, marker) in MODALITIES.items():
        dots = table[table.modality == modality]
        shade = MODALITY_COLOURS[modality]
        if colour == "class":
            shade = [CLASS_COLOURS[truth] for truth in dots.truth]
        ax.scatter(dots.x, dots.y, c=shade, marker=marker, s=11, lw=0.25, edgecolors="white", zorder=2)
    ax.set(xticks=[], yticks=[], title=title + by_label(table))
    ax.set_box_aspect(1)
    ax.spines[:].set_visible(True)
    ax.spines[:].set_color("#CCCCCC")
    if measures is not None and len(measures):
        of_run = (measures.held_out == table.held_out.iloc[0]) & (measures.seed == table.seed.iloc[0])
        text = text_below(measures[of_run & (measures.method == method)])
        ax.set_xlabel(text, fontsize=6, linespacing=1.3, labelpad=4)
    return ax


def by_label(table):
    """What a title adds where nobody has both modalities."""
    return ",\npairs by label" if (table["pairs"] == "label").any() else ""


def which_run(table):
    """Which run panels a-e show, and how it was chosen, as a line of the caption."""
    if not len(table):
        return ""
    row = table.iloc[0]
    text = f"a-e: one run, {DOMAINS[row.held_out][0]} held out, seed {row.seed}, with its own numbers below"
    if row.runs > 1:
        text += f"; of the {row.runs} runs of ours the one with the median rank of unseen pairs. f: all runs"
    return text + "."


def text_below(measures):
    """Measures of one run of a method as the lines below its map."""
    lines = [f"{label} {brief(measures.value[measures.measure == name])}" for name, label in BELOW.items()]
    return "\n".join(lines)


def brief(values, decimals=2):
    """Mean ± sd without leading zeros, "–" for none."""
    mean, sd, n = mean_sd(values)
    if not n:
        return "–"
    if n == 1:
        return without_zero(mean, decimals)
    return f"{without_zero(mean, decimals)} ± {without_zero(sd, decimals)}"


def without_zero(value, decimals):
    """".85" for 0.85 and "1.20" for 1.2."""
    text = f"{value:.{decimals}f}".replace("-", "−")
    return text.replace("0.", ".") if abs(value) < 0.995 else text


def map_legend(ax):
    """Handles for what colours and markers of panels a-d mean."""
    def dot(marker, colour, label):
        return ax.plot([], [], marker, ms=4, color=colour, mew=0, label=label)[0]

    handles = []
    for modality, (name, marker) in MODALITIES.items():
        handles.append(dot(marker, MODALITY_COLOURS[modality], f"{name} (a)"))
    for colour, name in zip(CLASSES, NAMES):
        handles.append(dot("s", colour, name))
    for name, marker in MODALITIES.values():
        handles.append(dot(marker, "#555555", name))
    return handles


def fig2e(ax, table):
    """Panel e: cosine of every mammogram (rows) to every patient's tissue (columns).

    Both are ordered by class, and lines separate the classes.
    """
    if not len(table):
        return nothing(ax, "no embeddings of ours")
    cosines = table.pivot(index="mammogram", columns="tissue", values="cosine").to_numpy()
    truth = table[table.tissue == 0].sort_values("mammogram").truth_mammogram.to_numpy()
    image = ax.imshow(cosines, vmin=-1, vmax=1, cmap="RdBu_r", interpolation="nearest")
    for edge in np.flatnonzero(np.diff(truth)) + 0.5:
        ax.axhline(edge, color="black", lw=0.5)
        ax.axvline(edge, color="black", lw=0.5)
    classes = np.unique(truth)
    centres = [np.flatnonzero(truth == c).mean() for c in classes]
    names = [SHORT_CLASSES[c] for c in classes]
    ax.set(xticks=centres, yticks=centres, xlabel="histopathology", ylabel="mammography", anchor="N")
    ax.set_title("Similarity of unseen patients, ours" + by_label(table))
    ax.set_xticklabels(names, fontsize=6)
    ax.set_yticklabels(names, rotation=90, va="center", fontsize=6)
    ax.tick_params(length=0)
    bar = ax.figure.colorbar(image, cax=ax.inset_axes([1.03, 0.35, 0.035, 0.65]), ticks=[-1, 0, 1])
    bar.set_label("cosine", labelpad=-4)
    bar.outline.set_visible(False)
    return ax


def _radius(measure, value):
    """A measure between 0 (centre) and 1 (rim), larger is better."""
    return 1 / (1 + value) if measure == "davies_bouldin" else np.clip(value, 0, 1)


def _radar(ax, table, methods):
    """The radar of panel f, one outline per method."""
    angles = np.linspace(0, 2 * np.pi, len(RADAR), endpoint=False)
    for method in methods:
        label, colour = LABELS[method]
        mean = table[table.method == method].groupby("measure").value.mean()
        radii = [_radius(name, mean.get(name, np.nan)) for name in RADAR]
        outline = ([*angles, 0], [*radii, radii[0]])
        ax.plot(*outline, color=colour, marker="o", ms=2.5, label=label)
        ax.fill(*outline, color=colour, alpha=0.1, lw=0)
    ax.set(ylim=(0, 1), xticks=angles, yticks=[0.25, 0.5, 0.75, 1])
    ax.set_xticklabels(RADAR.values(), fontsize=6)
    ax.set_yticklabels(["", "0.5", "", "1"], fontsize=5.5, color="#777777")
    ax.tick_params(axis="x", pad=3)
    ax.spines["polar"].set_color("#BBBBBB")


def _row(table, name, methods):
    """The cells of one measure in the table of panel f: its name, mean ± sd of each method, and p."""
    measured = table[table.measure == name]
    label = RANKS.get(name)
    if label is None:
        label = RADAR[name].replace("modality gap\n", "gap ").replace("-\n", "-").replace("\n", " ")
    if name == "davies_bouldin":
        label += " (↓)"
    decimals = 1 if name == "davies_bouldin" else 2
    cells = [brief(measured.value[measured.method == method], decimals) for method in methods]
    p = measured.p_t_holm[measured.method == "mixstyle_irm"].head(1)
    p = p_text(p.iloc[0]).replace("p = ", "").replace("p < ", "<") if len(p) else ""
    return [label, *cells, p]


def fig2f(ax, table):
    """Panel f: radar and table of six measures, and how pairs rank, mean ± sd over folds and seeds.

    p: paired t-test of ours against no alignment, over folds, adjusted over all measures and methods.
    """
    if not len(table):
        return nothing(ax, "no runs to compare")
    ax.set_axis_off()
    ax.set_title("Six measures of alignment", x=0.2)
    methods = present(LABELS, table.method)
    _radar(ax.inset_axes([0.05, 0.12, 0.25, 0.72], projection="polar"), table, methods)
    head = ["mean ± sd", *(LABELS[method][0] for method in methods), "p"]
    measured = [name for name in (*RADAR, *RANKS) if name in RADAR or name in set(table.measure)]
    rows = [head] + [_row(table, name, methods) for name in measured]
    columns = [0.39, *(0.64 + 0.1 * np.arange(len(methods))), 0.63 + 0.1 * len(methods)]
    colours = ["black", *(LABELS[method][1] for method in methods), "black"]     # of the head of each column
    for i, cells in enumerate(rows):
        for j, (x, cell) in enumerate(zip(columns, cells)):
            text = ax.text(x, 0.96 - 0.08 * i, cell, transform=ax.transAxes, fontsize=5.8, in_layout=False)
            text.set(va="center", ha="left" if j == 0 else "center")
            if i == 0:
                text.set(fontweight="bold", color=colours[j])
    rule = ([0.39, columns[-1] + 0.03], [0.92, 0.92])
    ax.plot(*rule, transform=ax.transAxes, color="#444444", lw=0.6, clip_on=False)
    return ax


def draw():
    """Draws Fig. 2 from figures/fig2/*.csv into figures/fig2/fig2.png and returns the Figure."""
    tables = {name: read(f"fig2{name}") for name in "abcdef"}
    ranked = read("fig2_retrieval")
    chance = ""
    if len(ranked):
        at_10 = ranked.chance_at_10[ranked.whom == "unseen"].mean()
        chance = f"; R@10 of chance {without_zero(at_10, 2)}"
    with plt.style.context(STYLE):
        fig = plt.figure(figsize=(WIDTH, 138 * MM))
        rows = fig.add_gridspec(2, 1, height_ratios=[1, 1.05])
        top = rows[0].subgridspec(1, 4)
        bottom = rows[1].subgridspec(1, 2, width_ratios=[1, 2.45])
        for i, (name, (title, colour, method)) in enumerate(MAPS.items()):
            ax = fig.add_subplot(top[i])
            measures = tables["f"] if method else None
            letter(fig2_map(ax, tables[name], title, colour, measures, method), name)
        letter(fig2e(fig.add_subplot(bottom[0]), tables["e"]), "e", x=20)
        letter(fig2f(fig.add_subplot(bottom[1]), tables["f"]), "f", x=-4)
        fig.legend(handles=map_legend(ax), ncols=8, loc="outside upper center", columnspacing=0.9)
        lines = [which_run(tables["d"]), NOTE.format(chance=chance) if len(tables["f"]) else ""]
        caption(fig, "\n".join(filter(None, lines)), tables.values())
        return save(fig, "fig2")


if __name__ == "__main__":
    draw()
