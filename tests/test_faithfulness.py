"""Maps beside the attention, the pointing game, deletion and insertion; cases by patient and by label."""
import json
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from xmodal import cohort, faithfulness as fa, model
from xmodal.config import DOMAINS, MAMMOGRAPHY
from xmodal.predict import predict
from xmodal.tables import cards, cases, fig4
from xmodal.tables.fig2 import alignment, fig2e, patient_embeddings, retrieved

SIDE = 96

# ---- the pointing game -----------------------------------------------------------------------------------

def test_share_of_attention_in_the_lesion_and_the_pointing_game():
    heat = np.zeros((8, 8))
    heat[2, 3] = 1.0
    mask = np.zeros((96, 96), bool)
    mask[24:36, 36:48] = True
    assert fa.inside(heat, mask) == 1.0 and fa.pointing_hit(heat, mask)
    elsewhere = np.roll(mask, 40, 0)
    assert fa.inside(heat, elsewhere) == 0.0 and not fa.pointing_hit(heat, elsewhere)
    assert np.isnan(fa.inside(heat, np.zeros((96, 96))))


def test_a_constant_map_hits_as_often_as_chance():
    mask = np.zeros((96, 96), bool)
    mask[24:36, 36:60] = True
    assert fa.pointing_hit(np.zeros((8, 8)), mask) == fa.touched(mask, 8).mean() == 2 / 64
    assert np.isnan(fa.alike(np.zeros((8, 8)), np.eye(8)))
    assert fa.alike(np.eye(8), -np.eye(8)) == pytest.approx(-1)


# ---- deletion and insertion ------------------------------------------------------------------------------

def weighted(weights):
    """A score that adds up, over the patches, weight x (share of the way from grey 0 to the patch's 200)."""
    step = 12

    def score(images):
        patches = np.asarray(images, float).reshape(len(images), 8, step, 8, step)
        return patches.mean((2, 4)).reshape(len(images), -1) @ weights / 200
    return score


def test_deletion_and_insertion_have_the_areas_of_the_closed_form():
    """One patch of 64 has the whole score, and the image is 0 elsewhere; blank is its mean, 200 / 64 = 3."""
    image = np.zeros((96, 96), np.uint8)
    image[24:36, 36:48] = 200
    score = weighted(np.eye(64)[19])
    hottest_first = np.array([19, *np.delete(np.arange(64), 19)])
    blank = 3 / 200
    small = blank + (1 - blank) / 64 / 2
    large = 1 - (1 - blank) / 64 / 2
    first = fa.faithfulness(score, image, hottest_first, steps=64)
    assert first.deletion == pytest.approx(small) and first.insertion == pytest.approx(large)
    last = fa.faithfulness(score, image, hottest_first[::-1], steps=64)
    assert last.deletion == pytest.approx(large) and last.insertion == pytest.approx(small)


def test_for_a_score_that_adds_up_insertion_and_deletion_mirror_each_other():
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (96, 96), dtype=np.uint8)
    score = weighted(rng.random(64))
    order = rng.permutation(64)
    areas = fa.faithfulness(score, image, order)
    ends = score(np.stack([image, np.full_like(image, round(image.mean()))])).sum()
    assert areas.deletion + areas.insertion == pytest.approx(ends)
    constant = fa.faithfulness(lambda images: np.full(len(images), 0.3), image, order)
    assert constant == pytest.approx((0.3, 0.3))


# ---- a small study ---------------------------------------------------------------------------------------

def small_cohort(shared):
    """Eight patients of INbreast and BACH, 28 of CBIS-DDSM and BACH: a mammogram and two tiles each; shared:
    whether mammogram and tissue are of one patient."""
    rows = []
    for i in range(36):
        lesion_type, shape = list(fig4.KINDS.values())[i % 4]
        truth = i // 4 % 4
        label = {"allowed": 1 << truth, "truth": truth, "lesion_type": lesion_type, "lesion_shape": shape}
        for domain, images in (("inbreast" if i < 8 else "cbis_ddsm", 1), ("bach", 2)):
            modality = DOMAINS[domain]
            patient = f"p{i:02d}" if shared else f"p{i:02d}/{modality[0]}"
            for k in range(images):
                row = cohort.index_row(sample=f"{domain}/{i:02d}_{k}", patient=patient, domain=domain,
                                       modality=modality, source="", **label)
                pixels = {"index": len(rows), "has_mask": images == 1, "boxes": "[[8, 8, 40, 40]]"}
                rows.append({**row, **pixels})
    return pd.DataFrame(rows)


class Pictures:
    """As `loaders.Images`: noise that the row's number decides, and one square lesion."""

    def gather(self, rows, kind="images"):
        mask = np.zeros((SIDE, SIDE), np.uint8)
        mask[8:40, 8:40] = 1
        if kind == "masks":
            return np.stack([mask] * len(rows))
        shape = (SIDE, SIDE) if rows.modality.iloc[0] == MAMMOGRAPHY else (SIDE, SIDE, 3)
        noise = [np.random.default_rng(k).integers(0, 256, shape, dtype=np.uint8) for k in rows["index"]]
        return np.stack(noise)


@pytest.fixture(scope="module", params=["patient", "label"])
def seen(request):
    """(pairs, run, study): what an untrained model says of the small cohort with INbreast held out."""
    table = small_cohort(request.param == "patient")
    number = table["sample"].str[-4:-2].astype(int)
    table["split"] = np.where(number < 8, "target", np.where(number < 24, "source test", "train"))
    of_target_tissue = (table.split == "target") & (table.domain == "bach")
    fold = table[~of_target_tissue]
    torch.manual_seed(0)
    net = model.build("lesson").eval()
    predictions, embeddings = predict(net, fold, Pictures())
    config = {"held_out": "inbreast", "seed": 42, "profile": "lesson"}
    run = SimpleNamespace(predictions=predictions, embeddings=embeddings, config=config)
    table = table.drop(columns="split")
    return request.param, run, fa.study(run, net, table, Pictures())


def test_four_cases_of_the_paper_with_their_maps(seen):
    pairs, run, study = seen
    chosen = fig4.localisation_cases(study)
    assert chosen.panel.tolist() == list("efgh") and chosen.title.tolist() == list(fig4.KINDS)
    assert set(chosen.pairs) == {pairs}
    own = chosen.case.map(run.predictions.set_index("sample").patient)
    assert (chosen.tissue_of == own).all() == (pairs == "patient")
    row = chosen.iloc[0]
    for name in fa.MAPS:
        assert cases.from_uri(row[f"map_{name}"]).shape == (8, 8) and row[f"hit_{name}"] in (0, 1)
    mask = Pictures().gather(study.table.head(1), "masks")[0]
    assert row.chance == pytest.approx(fa.touched(mask, 8).mean())
    assert cases.from_uri(row.tile).shape == (SIDE, SIDE, 3) and cases.from_uri(row.tile_heat).shape == (8, 8)


def test_cards_are_the_quartiles_of_each_class(seen):
    pairs, run, study = seen
    study = study._replace(tissue_of=cards.graded_partners(run))
    graded = cards.grading_cases(study)
    joint = run.predictions.query("modality == 'both' and split == 'source test' and truth >= 0")
    assert set(graded.truth) == set(joint.truth) and set(graded.pairs) == {pairs}
    for truth, group in joint.groupby("truth"):
        ordered = group.sort_values([f"p{truth}", "sample"]).patient.tolist()
        by_rule = [ordered[int((len(ordered) - 1) * q)] for q in (0.25, 0.5, 0.75)]
        assert graded.case[graded.truth == truth].tolist() == list(dict.fromkeys(by_rule))
    row = graded.iloc[0]
    predicted = run.predictions.set_index("sample").loc[f"{row.case}/both"]
    names = ["p0", "p1", "p2", "p3"]
    assert row[names].tolist() == pytest.approx(predicted[names].tolist())
    assert row.grade == predicted.grade_pred
    assert ("No lesion is outlined" in row.conclusion) == (json.loads(row.box) == [])
    assert set(graded.trained_on) == {"phantom"}


def test_a_card_of_a_patient_with_one_modality(seen):
    study = seen[2]
    names = sorted(study.table.patient[study.table.domain == "bach"])
    alone = study._replace(table=study.table[study.table.domain == "bach"], tissue_of={})
    row = cards.card_row(alone, names[0])
    assert row["read"] == "histopathology" and row["image"] == "" and row["pairs"] == "" and row["tile"]
    assert np.isfinite([row[f"p{c}"] for c in range(4)]).all() and "mammogram" in row["conclusion"]


def test_every_map_is_counted_on_every_outlined_mammogram(seen):
    study = seen[2]
    pointed = fa.pointing(study)
    assert pointed["sample"].nunique() == 8 and pointed["map"].value_counts().eq(8).all()
    assert set(pointed["map"]) == set(fa.MAPS) and pointed.area.unique() == pytest.approx([(32 / SIDE) ** 2])
    table = fig4.fig4_maps(pointed, n=20).set_index("map")
    own = pointed[pointed["map"] == "attention"]
    assert table.hit["attention"] == own.hit.mean()
    assert table.swap["attention"] == pytest.approx(own.swap.mean())
    assert table.over_norm["token_norm"] == 0 and table.swap.notna().sum() == 1
    assert table.excess.tolist() == pytest.approx((table.hit - table.chance).tolist())
    assert (table.low <= table.hit).all() and (table.hit <= table.high).all()
    areas = fa.faithful(study, pointed["sample"].unique()[:1])
    assert areas.drop(columns="sample").stack().between(0, 1).all()


def test_fig_2_has_pairs_too(seen):
    pairs, run, _ = seen
    patients = patient_embeddings(run.embeddings)
    assert patients.pairs == pairs and len(patients.patient) == 16
    assert set(fig2e(patients)["pairs"]) == {pairs} and len(alignment(patients)) == 10
    assert retrieved(patients)["patients"] == 16


def test_random_weights_are_others_and_leave_the_model_as_it_was(seen):
    net = seen[2].model
    before = {name: values.clone() for name, values in net.state_dict().items()}
    first = fa.fresh(net).state_dict()
    again = fa.fresh(net).state_dict()
    for name in ("encoder.pos_embed", "encoder.blocks.0.attn.qkv.weight", "classify.0.weight"):
        assert not torch.equal(first[name], before[name]) and torch.equal(first[name], again[name])
    assert all(torch.equal(values, before[name]) for name, values in net.state_dict().items())
