"""The model card says what the shipped weights and the reference tables hold."""
import json
import re

import pandas as pd

from xmodal.config import HOME, PROFILES
from xmodal.predict import SHIPPED, trained_on

CARD = (HOME / "docs" / "model-card.md").read_text()
SETTINGS = json.loads((SHIPPED / "config.json").read_text())
HELD_OUT = SETTINGS["held_out"]


def row(table, **values):
    """The first row of a table of the reference run with these values."""
    rows = pd.read_csv(HOME / "figures" / "reference" / f"{table}.csv")
    for column, value in values.items():
        rows = rows[rows[column] == value]
    return rows.iloc[0]


def stated(name):
    """What stands in the second column of the card's table beside `name`."""
    return re.search(rf"^\| {re.escape(name)} \| (.+?) \|", CARD, re.M)[1]


def test_the_measured_numbers_are_those_of_the_reference_tables():
    auc = row("fig3a", method="ours", held_out=HELD_OUT, seed=SETTINGS["seed"])
    assert stated("AUC of malignant against not, this run") == f"{auc.auc:.2f}"
    assert stated("the same, mean of three seeds") == f"{auc['mean']:.2f} [{auc.low:.2f}, {auc.high:.2f}]"
    error = row("fig1_temperature", method="ours", held_out=HELD_OUT)
    assert stated("calibration error before any temperature") == (
        f"{error.ece_before:.2f} [{error.ece_before_low:.2f}, {error.ece_before_high:.2f}]")
    for name, label in (("attention", "attention"), ("decoder", "lesion decoder")):
        hits = row("fig4_maps", domain=HELD_OUT, map=name)
        expected = f"{hits.hit:.2f} [{hits.low:.2f}, {hits.high:.2f}], chance {hits.chance:.2f}"
        assert stated(f"hottest patch of the {label} on the lesion") == expected


def test_the_comparisons_are_those_of_the_reference_tables():
    mean = row("fig3_means", method="ours")
    norm = row("fig4_maps", domain=HELD_OUT, map="attention")
    for value, low, high, digits in ((mean.minus_untouched, mean.untouched_low, mean.untouched_high, 3),
                                     (norm.over_norm, norm.over_norm_low, norm.over_norm_high, 2)):
        text = f"{value:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]".replace("-", "−")
        assert text in " ".join(CARD.split()), text


def test_the_recipe_is_that_of_the_weights():
    assert trained_on(SETTINGS) == "phantom" and HELD_OUT == "cbis_ddsm"
    encoder = json.loads((SHIPPED.parent / "encoder.json").read_text())
    profile, switches = SETTINGS["profile"], SETTINGS["switches"]
    for part in (f"{encoder['patients']:,} phantom patients", f"{encoder['epochs']} epochs",
                 f"{encoder['images']:,} images", f"seed {encoder['seed']}", f"{profile['epochs']} epochs",
                 f"IRM {switches['irm']}", f"alignment {switches['align']}", f"seed {SETTINGS['seed']}",
                 f"width {profile['width']}", f"{profile['depth']} blocks", f"{profile['heads']} heads",
                 f"patches of {profile['patch']} pixels", f"batches of {profile['batch']}"):
        assert part in " ".join(CARD.split()), part
    assert PROFILES[profile["name"]].image_size == profile["image_size"] == 96
