"""A small study whose panel tables are written once; tests of figures draw from them."""
import numpy as np
import pandas as pd
from small_runs import Pictures, boxed, card, columns, decided_mammograms, outlined, study, write_runs

import figures
from xmodal import methods, model, record
from xmodal.faithfulness import MAPS
from xmodal.objective import Objective
from xmodal.tables import common
from xmodal.tables.cards import fig5_case
from xmodal.tables.fig1 import fig1_tables
from xmodal.tables.fig2 import fig2_map, fig2_parts, fig2_retrieval, fig2e, fig2f, patient_embeddings
from xmodal.tables.fig3 import fig3_held_out, fig3e, fig3f, fig3g, fig3h, fig3i, fig3j, fig3k, fig3l
from xmodal.tables.fig4 import fig4_case, fig4_maps, fig4_tables, fig4a
from xmodal.tables.fig5 import fig5_tables, readings
from xmodal.tables.fig6 import fig6_table
from xmodal.tables.posthoc import fig1_sets, fig1_temperature, fig4_froc, fig5_readers
from xmodal.tables.table1 import table1_table
from xmodal.tables.table2 import table2_table
from xmodal.tables.table3 import table3_table
from xmodal.tables.verdicts import against_ours, unseen_means


def write(tables):
    """tables: {panel: table}."""
    for name, table in tables.items():
        common.write(table, name, "lesson")


def write_cases():
    """Fig. 4 e-h and its maps, and Fig. 5 a-l, of made-up pictures."""
    normal = card(np.eye(4)[0], conclusion="Most likely normal (100 %).")
    small = columns(normal, [[3, 3, 6, 6]])
    mass = outlined("p1", "mass", [4, 4, 9, 9], .61, .75)
    asymmetry = outlined("p2", "asymmetry", iou=0., dice=0.)
    lesions = [fig4_case("a mass", mass, small), fig4_case("an asymmetry", asymmetry, small)]
    lesions = pd.DataFrame(lesions).assign(panel=["f", "g"], pairs=["patient", "label"])
    graded = [fig5_case(f"p{c}", c, small, "label", "phantom") for c in range(4)]
    pointed = [{"sample": f"s{k}", "patient": f"p{k // 2}", "domain": "inbreast", "map": name, "chance": 0.1,
                "hit": float(k % 3 == 0), "swap": 0.25, "random": 0.125} for k in range(6) for name in MAPS]
    write({"fig4e": lesions, "fig4_maps": fig4_maps(pd.DataFrame(pointed), n=20),
           "fig5": pd.DataFrame(graded)})


def write_lesions():
    """Fig. 3 j-l and Fig. 4 a-d, i-l, of made-up strata and boxes."""
    runs = []
    for method in ("ours", "mixstyle", "ours_25"):
        for seed in (42, 1234):
            for domain in ("cbis_ddsm", "inbreast"):
                runs.append(decided_mammograms(method, seed, held_out=domain))
    rows = pd.concat(runs)
    rows = rows[(rows.density != "A") | (rows.y == 1)]                      # a stratum of one class
    boxes = []
    for method in methods.LOCALISERS:
        boxes += [boxed(method, seed) for seed in (42, 1234)]
    boxes = pd.concat(boxes, ignore_index=True)
    of_seed = boxes[boxes.seed == 42]
    cohort = of_seed[of_seed.method == "ours"][["sample", "patient"]].assign(boxes="[[10, 10, 20, 20]]")
    write({
        "fig3j": fig3j(rows, n=20),
        "fig3k": fig3k(rows, n=20),
        "fig3l": fig3l(rows),
        "fig4a": fig4a(of_seed, cohort, Pictures()),
        **fig4_tables(boxes, n=20),
        "fig4_froc": fig4_froc(boxes),
        "fig3_slides": common.tidy([], ["method"]),
        "fig4_slides": common.tidy([], ["method"]),
    })


def write_study():
    """Every panel table of the main paper, in config.FIGURES; with t-SNE, as umap is slow to compile."""
    write_runs(("erm", "mixstyle", "mixstyle_irm", "ours"), ("cbis_ddsm", "bach"))
    predictions = record.collect("lesson")
    runs = common.runs("lesson", ["mixstyle_irm", "ours"])
    aligned = patient_embeddings(runs["ours", "bach", 42].embeddings)
    unaligned = patient_embeddings(runs["mixstyle_irm", "bach", 42].embeddings)
    shown = {"held_out": "bach", "seed": 42, "runs": 4}
    after = fig2_map(aligned, "tsne").assign(**shown)
    before = fig2_map(unaligned, "tsne").assign(**shown)
    write({"fig2a": before, "fig2b": after, "fig2c": before, "fig2d": after})
    write({"fig2e": fig2e(aligned), "fig2f": fig2f(runs), "fig2_retrieval": fig2_retrieval(runs)})
    write({"fig2_parts": fig2_parts(runs)})
    for panel, domain in zip("abcd", figures.DOMAINS):
        write({f"fig3{panel}": fig3_held_out(predictions, domain, n=50)})
    write({
        "fig3e": fig3e(predictions),
        "fig3f": fig3f(predictions),
        "fig3g": fig3g(predictions),
        "fig3h": fig3h(runs),
        "fig3i": fig3i(predictions),
        "fig6": fig6_table(model.build("lesson")),
        "table1": table1_table(Objective(8, 3, methods.Method(align=.25))),
    })
    write({
        "fig3_means": unseen_means(predictions, n=5),
        "fig3_tests": against_ours(predictions),
        "fig1_temperature": fig1_temperature(predictions, n=5),
        "fig1_sets": fig1_sets(predictions, n=5),
        "fig5_readers": fig5_readers(readings(study())),
        "table2": table2_table(predictions),
        "table3": table3_table(predictions, pd.DataFrame(), runs),
    })
    write(fig1_tables(study(), n=10))
    write(fig5_tables(study(), n=10))
    write_cases()
    write_lesions()
