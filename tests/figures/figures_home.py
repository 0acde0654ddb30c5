"""A small study whose panel tables are written once; tests of figures draw from them."""
import numpy as np
import pandas as pd
from test_common_fig2_fig3 import write_runs
from test_fig1_fig5 import study
from test_fig3_fig4 import Pictures, boxed, read

import figures
from xmodal import methods, model, record
from xmodal.losses import Objective
from xmodal.tables import (
    common,
    fig1 as fig1_tables,
    fig2 as fig2_tables,
    fig3 as fig3_tables,
    fig4 as fig4_tables,
    fig5 as fig5_tables,
    fig6 as fig6_tables,
    table1 as table1_tables,
)


def write(tables):
    """tables: {panel: table}."""
    for name, table in tables.items():
        common.write(table, name, "lesson")


def write_cases():
    """Fig. 4 e-h and Fig. 5 a-l, of made-up pictures."""
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (32, 32), dtype=np.uint8)
    heat = rng.integers(0, 256, (4, 4), dtype=np.uint8)
    tile = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
    truth = [[3, 3, 9, 9]]
    lesions = [
        fig4_tables.fig4_case("p1", "a mass", "mass", image, heat, truth, [4, 4, 9, 9], .61, .75, [tile] * 5),
        fig4_tables.fig4_case("p2", "an asymmetry", "asymmetry", image, heat, truth, None, 0., 0., [tile]),
    ]
    graded = []
    for c in range(4):
        tiles = [tile] * (5 - c)
        case = fig5_tables.fig5_case(
            f"p{c}", c, image, heat, tiles, [.1] * 5, np.eye(4)[0], "Most likely normal (100 %).")
        graded.append(case)
    write({"fig4e": pd.DataFrame(lesions).assign(panel=["f", "g"]), "fig5": pd.DataFrame(graded)})


def write_lesions():
    """Fig. 3 j-l and Fig. 4 a-d, i-l, of made-up strata and boxes."""
    runs = []
    for method in ("ours", "erm", "ours_25"):
        for seed in (42, 1234):
            runs += [read(method, seed, held_out=domain) for domain in ("cbis_ddsm", "inbreast")]
    rows = pd.concat(runs)
    rows = rows[(rows.density != "A") | (rows.y == 1)]                      # a stratum of one class
    boxes = []
    for method in methods.LOCALISERS:
        boxes += [boxed(method, seed) for seed in (42, 1234)]
    boxes = pd.concat(boxes, ignore_index=True)
    of_seed = boxes[boxes.seed == 42]
    cohort = of_seed[of_seed.method == "ours"][["sample", "patient"]].assign(boxes="[[10, 10, 20, 20]]")
    write({
        "fig3j": fig3_tables.fig3j(rows, n=20),
        "fig3k": fig3_tables.fig3k(rows, n=20),
        "fig3l": fig3_tables.fig3l(rows),
        "fig4a": fig4_tables.fig4a(of_seed, cohort, Pictures()),
        **fig4_tables.fig4(boxes, n=20),
    })


def write_study():
    """Every panel table of the main paper, in config.FIGURES; with t-SNE, as umap is slow to compile."""
    write_runs(("erm", "mixstyle", "mixstyle_irm", "ours"), ("cbis_ddsm", "bach"))
    predictions = record.collect("lesson")
    runs = common.runs("lesson", ["mixstyle_irm", "ours"])
    aligned = fig2_tables.patient_pairs(runs["ours", "bach", 42].embeddings)
    unaligned = fig2_tables.patient_pairs(runs["mixstyle_irm", "bach", 42].embeddings)
    after = fig2_tables.fig2_map(aligned, "tsne")
    before = fig2_tables.fig2_map(unaligned, "tsne")
    write({"fig2a": before, "fig2b": after, "fig2c": before, "fig2d": after})
    write({"fig2e": fig2_tables.fig2e(aligned), "fig2f": fig2_tables.fig2f(runs)})
    for panel, domain in zip("abcd", figures.DOMAINS):
        write({f"fig3{panel}": fig3_tables.fig3_held_out(predictions, domain, n=50)})
    write({
        "fig3e": fig3_tables.fig3e(predictions),
        "fig3f": fig3_tables.fig3f(predictions),
        "fig3g": fig3_tables.fig3g(predictions),
        "fig3h": fig3_tables.fig3h(runs),
        "fig3i": fig3_tables.fig3i(predictions),
        "fig6": fig6_tables.fig6_table(model.build("lesson")),
        "table1": table1_tables.table1(Objective(8, 3, methods.Method(align=.25))),
    })
    write(fig1_tables.fig1(study(), n=10))
    write(fig5_tables.fig5(study(), n=10))
    write_cases()
    write_lesions()
