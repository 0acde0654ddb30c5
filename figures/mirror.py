"""MIRROR's Fig. 3-5, its controls, and what each loss recovers of known factors.

Redraw from the CSVs: `python -m figures.mirror`.
"""
import matplotlib.pyplot as plt
import numpy as np

from . import MM, STYLE, WIDTH, caption, letter, nothing, read, save

SUBTYPES = ("#56B4E9", "#D55E00")
ARMS = ("#999999", "#0072B2", "#D55E00")
KINDS = {"shared": "#0072B2", "private": "#009E73", "nuisance": "#999999"}


def fig3a(ax, table):
    """z-scores of genes (rows) in patients (columns); the line parts the subtypes."""
    if not len(table):
        return nothing(ax, "no expression")
    grid = table.pivot(index="gene", columns="row", values="z").loc[table.gene.drop_duplicates()]
    image = ax.imshow(grid, aspect="auto", cmap="RdBu_r", vmin=-2.5, vmax=2.5, interpolation="nearest")
    ax.axvline((table.drop_duplicates("row").subtype == 0).sum() - 0.5, color="black", lw=0.8)
    ax.set(xticks=[], yticks=range(0, len(grid), 4), xlabel="patients: subtype 0 | subtype 1",
           title="Chosen genes, z-score")
    ax.set_yticklabels(grid.index[::4], fontsize=5)
    ax.figure.colorbar(image, ax=ax, fraction=0.03, pad=0.01).outline.set_visible(False)
    return ax


def fig3b(ax, table):
    """The most variable of the chosen genes; full colour: on the curated list."""
    if not len(table):
        return nothing(ax, "no expression")
    ax.barh(table.gene, table.variance, color=np.where(table.curated, "#0072B2", "#B9D6EA"))
    ax.invert_yaxis()
    ax.tick_params(axis="y", labelsize=5.5)
    ax.set(xlabel="variance", title="Most variable genes\n(dark: on the curated list)")
    return ax


def fig4(ax, table):
    """Attention of [CLS] over the patches of one slide, in their places; known tumour is outlined."""
    if not len(table):
        return nothing(ax, "no attention")
    x, y = (table[["x", "y"]] - table[["x", "y"]].min()).round().astype(int).to_numpy().T
    grid = np.full((y.max() + 1, x.max() + 1), np.nan)
    grid[y, x] = table.attention
    ax.imshow(grid, cmap="inferno")
    for i in np.flatnonzero(table.tumour == 1):
        ax.add_patch(plt.Rectangle((x[i] - 0.46, y[i] - 0.46), 0.92, 0.92, fill=False, ec="#00E0C0", lw=1.2))
    known = "" if np.isnan(table.auc.iloc[0]) else f", AUC {table.auc.iloc[0]:.2f}"
    ax.set(xticks=[], yticks=[], title=f"{table.patient.iloc[0]}, subtype {table.subtype.iloc[0]}{known}")
    return ax


def fig4_all(ax, table):
    """How well attention finds the tumour, over all unseen patients."""
    if not len(table) or table.auc.isna().all():
        return nothing(ax, "no outlines of tumours")
    ax.hist(table.auc.dropna(), bins=20, range=(0, 1), color="#0072B2", alpha=0.6)
    ax.axvline(0.5, color="#444444", ls=":", lw=0.8)
    ax.axvline(table.auc.median(), color="#D55E00", lw=1)
    ax.set(xlabel="AUC, attention for tumour", ylabel="unseen patients",
           title=f"Median {table.auc.median():.2f}")
    return ax


def fig5(ax, table, method):
    """UMAP of the gene token of unseen patients."""
    rows = table[table.method == method] if len(table) else table
    if not len(rows):
        return nothing(ax, f"no embeddings of {method}")
    for subtype, colour in enumerate(SUBTYPES):
        part = rows[rows.subtype == subtype]
        ax.scatter(part.x, part.y, s=9, color=colour, lw=0.2, edgecolors="white", label=f"subtype {subtype}")
    ax.set(xticks=[], yticks=[], title=f"{method}, silhouette {rows.silhouette.iloc[0]:.2f}")
    ax.set_box_aspect(1)
    return ax


def factors(ax, table, side):
    """R2 of shared, private and nuisance factors in one side's embedding, by training."""
    rows = table[table.side == side] if len(table) else table
    if not len(rows):
        return nothing(ax, "no trainings")
    for k, (kind, colour) in enumerate(KINDS.items()):
        y = np.arange(len(rows)) + 0.26 * (k - 1)
        ax.barh(y, rows[kind].clip(lower=0), height=0.24, color=colour, label=kind)
    title = {"slide": "Slide embedding", "rna": "RNA embedding"}[side]
    ax.set(yticks=range(len(rows)), xlim=(0, 1), xlabel="R² of a linear probe", title=title)
    ax.set_yticklabels(rows.method, fontsize=5.5)
    ax.invert_yaxis()
    return ax


def control(ax, table, name):
    """One control: each arm over the doses of its dial, a dot per seed and a line through the means."""
    rows = table[table.control == name] if len(table) else table
    if not len(rows):
        return nothing(ax, "not run")
    for colour, (arm, part) in zip(ARMS, rows.groupby("arm", sort=False)):
        ax.plot(part.groupby("dose").value.mean(), color=colour, label=arm)
        ax.scatter(part.dose, part.value, s=6, color=colour, alpha=0.6)
    ax.legend(fontsize=5.5, frameon=False)
    ax.set_xlabel(rows.dial.iloc[0], fontsize=5.5)
    ax.set(ylabel=rows.measure.iloc[0], title=rows.title.iloc[0])
    return ax


def _figure(name, tables, height, panels, note="", **grid):
    """A figure with one row of panels: (letter, drawing function, its arguments after the Axes)."""
    with plt.style.context(STYLE):
        fig, axes = plt.subplots(1, len(panels), figsize=(WIDTH, height * MM), squeeze=False, **grid)
        legend = ([], [])
        for ax, (text, draw_panel, *arguments) in zip(axes[0], panels):
            letter(draw_panel(ax, *arguments), text, x=14)
            legend = legend if legend[0] else ax.get_legend_handles_labels()
        if legend[0]:
            fig.legend(*legend, ncols=len(legend[0]), loc="outside upper center")
        caption(fig, note, tables)
        return save(fig, name)


def draw_fig3(add=""):
    """The chosen genes. add: what ends the names of the panels, of a real cohort its name and backbone."""
    a, b = read(f"mirror_fig3a{add}"), read(f"mirror_fig3b{add}")
    panels = [("a", fig3a, a), ("b", fig3b, b)]
    return _figure(f"mirror_fig3{add}", [a, b], 75, panels, gridspec_kw={"width_ratios": [2.4, 1]})


def draw_fig4(add=""):
    """Attention over two slides, and how well it meets the tumour of all. add: as of `draw_fig3`."""
    a, b = read(f"mirror_fig4a{add}"), read(f"mirror_fig4b{add}")
    cases = [a]
    if len(a):
        cases = [case.reset_index() for _, case in a.groupby("patient", sort=False)]
    panels = [(text, fig4, case) for text, case in zip("ab", cases)]
    panels.append(("c", fig4_all, b))
    note = "Each case is the middle one of its subtype by name; nobody outlined the tumour."
    if len(b) and b.auc.notna().any():
        note = ("Outlined: patches of the tumour, which training never saw. "
                "Each case is the median one of its subtype.")
    return _figure(f"mirror_fig4{add}", [a, b], 62, panels, note)


def draw_fig5(add=""):
    """The RNA embeddings of two methods. add: as of `draw_fig3`."""
    table = read(f"mirror_fig5{add}")
    panels = [("a", fig5, table, "TANGLE"), ("b", fig5, table, "MIRROR")]
    return _figure(f"mirror_fig5{add}", [table], 70, panels)


def draw_factors():
    """What each training kept of the known factors, in both embeddings."""
    table = read("mirror_factors")
    panels = [("a", factors, table, "slide"), ("b", factors, table, "rna")]
    note = "Ridge regression of known factors on the embeddings of unseen patients; below 0 is drawn as 0."
    return _figure("mirror_factors", [table], 80, panels, note)


def draw_controls():
    """Three dials of the generator, and what follows."""
    table = read("mirror_controls")
    panels = [(text, control, table, name) for text, name in zip("abc", ("interplay", "private", "weight"))]
    with plt.style.context(STYLE):
        fig, axes = plt.subplots(1, 3, figsize=(WIDTH, 62 * MM))
        for ax, (text, draw_panel, *arguments) in zip(axes, panels):
            letter(draw_panel(ax, *arguments), text, x=14)
        caption(fig, "Dots are seeds, each with patients of its own; lines join their means.", [table])
        return save(fig, "mirror_controls")


def draw():
    """Draws the five figures from figures/mirror/*.csv and returns the last."""
    draw_fig3()
    draw_fig4()
    draw_fig5()
    draw_controls()
    return draw_factors()


if __name__ == "__main__":
    draw()
