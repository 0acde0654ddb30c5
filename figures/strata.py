"""Fig. 3 j-l: by breast density, by lesion type, by share of the training patients."""
from . import DOMAINS, MARKERS, METHODS, nothing, present

LESIONS = {"mass": "mass", "calcification": "calc.", "distortion": "dist.", "asymmetry": "asym."}


def strata(ax, table, column, order, note):
    """Panels j and k: AUC of each method in each stratum of the unseen mammograms, one half per domain.

    A stratum of one class shows its sensitivity or specificity as an open dot. Lines: 95 %, by patient.
    order: the values of `column`, as drawn; note: the column with the number of images below each stratum.
    """
    if not len(table):
        return nothing(ax)
    ax.set_axis_off()
    domains = present(DOMAINS, table.held_out)
    methods = present(METHODS, table.method)
    for k, domain in enumerate(domains):
        sub = ax.inset_axes([0.1 + 0.9 * k / len(domains), 0, 0.9 / len(domains) - 0.03, 1])
        of_domain = table[table.held_out == domain]
        groups = [group for group in order if (of_domain[column] == group).any()]
        for m, method in enumerate(methods):
            label, colour = METHODS[method]
            shift = (m - (len(methods) - 1) / 2) * 0.25
            for row in of_domain[of_domain.method == method].itertuples():
                x = groups.index(getattr(row, column)) + shift
                fill = colour if row.measure == "AUC" else "white"
                sub.plot([x, x], [row.low, row.high], color=colour, lw=1.4, solid_capstyle="round")
                sub.plot(x, row.value, MARKERS[method], ms=3.6, color=colour, mfc=fill, mew=0.8)
            sub.plot([], [], MARKERS[method], ms=3.6, color=colour, label=label)
        images = of_domain.groupby(column)[note].max()
        sub.axhline(0.5, color="#BBBBBB", lw=0.6, ls=":")
        sub.grid(axis="y")
        sub.set(xticks=range(len(groups)), xlim=(-0.5, len(groups) - 0.5))
        sub.set(ylim=(0.15, 1.12), yticks=[0.2, 0.4, 0.6, 0.8, 1], ylabel="AUC" if k == 0 else "")
        sub.set_xticklabels([f"{LESIONS.get(group, group)}\n{images[group]}" for group in groups], fontsize=6)
        sub.tick_params(axis="y", labelleft=k == 0)
        sub.set_title(DOMAINS[domain][0], fontsize=6.5, loc="left")
    handles, labels = sub.get_legend_handles_labels()
    ax.legend(handles, labels, ncols=3, loc="upper center", bbox_to_anchor=(0.53, -0.28), fontsize=5.5)
    return ax


def fig3j(ax, table):
    """Panel j: by breast density; below each letter its images."""
    return strata(ax, table, "density", "ABCD", "images")


def fig3k(ax, table):
    """Panel k: by lesion type; below each type its malignant images. See NOTE."""
    return strata(ax, table, "lesion_type", LESIONS, "malignant")


def fig3l(ax, table):
    """Panel l: AUC on the unseen domain by share of training patients: every run, the mean of each domain."""
    if not len(table):
        return nothing(ax)
    for domain in present(DOMAINS, table.held_out):
        name, colour = DOMAINS[domain]
        runs = table[table.held_out == domain]
        mean = runs.groupby("share")["auc"].mean()
        ax.plot(runs.share, runs.auc, "o", ms=2.2, color=colour, mew=0, alpha=0.7)
        ax.plot(mean.index, mean, "-", lw=1, color=colour, label=name)
    shares = table.groupby("share").agg(mean=("mean", "first"), n=("auc", "count"))
    ax.plot(shares.index, shares["mean"], "D-", ms=4, color="black", mec="white", lw=1.4, label="all")
    ax.grid(axis="y")
    ax.set(xticks=shares.index, xlabel="% of the training patients (runs)", ylabel="AUC of ours")
    ax.set_xticklabels([f"{share}\n({n})" for share, n in shares.n.items()])
    ax.legend(ncols=3, loc="lower center", bbox_to_anchor=(0.45, 1.0), borderpad=0, fontsize=5.5)
    return ax
