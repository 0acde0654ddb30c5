"""cohort: label sets, the schema, splits by patient that no target label and no order of rows can change."""
import numpy as np
import pandas as pd
import pytest

from xmodal import cohort
from xmodal.config import DOMAINS, HISTOPATHOLOGY, MAMMOGRAPHY, Problem

LABELS = {"cbis_ddsm": (2, 12), "inbreast": (1, 2, 12), "bach": (1, 2, 4, 8), "camelyon": (1, 8)}


def table(people=40, singles=6):
    """People with mammograms in two views and one tile, in four pairs of domains; some in one domain."""
    rng = np.random.default_rng(0)
    groups = [((m, h), people) for m in ("cbis_ddsm", "inbreast") for h in ("bach", "camelyon")]
    groups += [((d,), singles) for d in DOMAINS]
    rows = []
    for domains, n in groups:
        for i in range(n):
            patient = f"{'+'.join(domains)}/{i:03d}"
            bad = rng.random() < 0.4
            for domain in domains:
                allowed = max(LABELS[domain]) if bad else min(LABELS[domain])
                for view in ("CC", "MLO") if DOMAINS[domain] == MAMMOGRAPHY else ("",):
                    row = cohort.index_row(sample=f"{domain}/{patient}{view}", patient=patient, domain=domain,
                                           modality=DOMAINS[domain], view=view, allowed=allowed, source="")
                    pixels = {"index": len(rows), "has_mask": False, "boxes": "[]", "mm_per_px": 0.2}
                    pixels |= {"checksum": "", "file_allowed": allowed}
                    rows.append({**row, **pixels, **cohort.NO_TILE})
    return pd.DataFrame(rows)


def splits(fold):
    return dict(zip(fold["sample"], fold.split))


# ---- label sets --------------------------------------------------------------------------------------------

def test_label_sets_are_bit_masks_by_class_or_name():
    assert cohort.label_set(1) == 2 and cohort.label_set(2, 3) == 12
    assert cohort.label_set("in situ", "invasive") == 12
    assert cohort.label_set(3, 3) == 8, "a class named twice is still one class"
    rows = cohort.allowed_matrix([12, 1]).tolist()
    assert rows == [[False, False, True, True], [True, False, False, False]]


def test_malignant_is_open_where_the_label_is():
    assert cohort.malignant([1, 2, 3, 4, 8, 12]).tolist() == [0, 0, 0, 1, 1, 1]
    assert np.isnan(cohort.malignant([6, 15])).all()


# ---- one row of an index -----------------------------------------------------------------------------------

def test_a_row_of_the_index_says_unknown_where_a_dataset_says_nothing():
    known = {"sample": "bach/1", "patient": "bach/a", "domain": "bach", "modality": "histopathology",
             "allowed": 2, "source": "1.tif"}
    row = cohort.index_row(**known, grade=1)
    assert list(row) == list(cohort.INDEX.columns), "the columns stand in the order of the schema"
    assert known.items() <= row.items() and row["grade"] == 1 and row["truth"] == -1
    assert row["view"] == row["annotation"] == "" and np.isnan(row["diameter_mm"])
    assert len(cohort.validate(pd.DataFrame([row]), cohort.INDEX)) == 1
    with pytest.raises(Problem, match="no column 'side'"):
        cohort.index_row(**known, side="L")
    with pytest.raises(TypeError, match="'patient'"):
        cohort.index_row(**{name: value for name, value in known.items() if name != "patient"})


# ---- the door ----------------------------------------------------------------------------------------------

def test_a_cohort_survives_the_door_and_loses_only_foreign_columns(tmp_path):
    rows = table(2, 1)
    rows.assign(mine=1).to_parquet(tmp_path / "cohort.parquet")
    back = cohort.load(tmp_path / "cohort.parquet")
    assert list(back.columns) == list(cohort.COHORT.columns) and (back["sample"] == rows["sample"]).all()


@pytest.mark.parametrize("column, value", [
    ("domain", "ddsm"), ("allowed", 0), ("allowed", 16), ("truth", 4), ("density", "E"), ("view", "cc"),
    ("index", -1), ("sample", "twice"),
])
def test_a_row_that_does_not_fit_is_a_problem_naming_the_column(column, value):
    rows = table(2, 1)
    rows.loc[rows.index[:2], column] = value
    with pytest.raises(Problem, match=column):
        cohort.validate(rows)


def test_a_domain_cannot_change_its_modality():
    rows = table(2, 1)
    rows.loc[0, "modality"] = "histopathology"
    with pytest.raises(Problem, match="domain is not"):
        cohort.validate(rows)


def test_missing_and_damaged_cohorts_name_the_remedy(tmp_path):
    with pytest.raises(Problem, match="02_preprocess"):
        cohort.load(tmp_path / "none.parquet")
    (tmp_path / "cohort.parquet").write_bytes(b"no parquet")
    with pytest.raises(Problem, match="delete it and run 02_preprocess"):
        cohort.load(tmp_path / "cohort.parquet")
    table(2, 1).drop(columns="allowed").to_parquet(tmp_path / "cohort.parquet")
    with pytest.raises(Problem, match="allowed"):
        cohort.load(tmp_path / "cohort.parquet")


# ---- splits ------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("held_out", DOMAINS)
@pytest.mark.parametrize("seed", (42, 1234, 5678))
def test_no_patient_is_in_two_splits_and_no_target_patient_is_in_the_source(held_out, seed):
    rows = table()
    fold = cohort.leave_one_out(rows, held_out, seed)
    assert fold.groupby("patient")["split"].nunique().max() == 1
    assert (fold.domain == held_out).equals(fold.split == "target")
    target = set(fold["sample"][fold.split == "target"])
    assert target == set(rows["sample"][rows.domain == held_out]), "the target is whole"
    assert len(fold) + fold.attrs["left_out"] == len(rows), "every row is used or counted as left out"
    assert fold.split.notna().all() and set(fold.split) == {"train", "validation", "source test", "target"}


def test_shares_and_strata_are_kept():
    fold = cohort.leave_one_out(table(people=100), "bach", 42)
    people = fold[fold.split != "target"].drop_duplicates("patient").copy()
    share = people.split.value_counts(normalize=True)
    assert share["train"] == pytest.approx(0.6, abs=0.03)
    assert share["validation"] == pytest.approx(0.2, abs=0.03)
    people["domains"] = people.patient.str.split("/").str[0]
    people["bad"] = cohort.malignant(people.allowed)
    for _, stratum in people.groupby(["domains", "bad"]):  # within one patient of the shares in every stratum
        counts = stratum.split.value_counts().reindex(["train", "validation", "source test"], fill_value=0)
        expected = np.array([0.6, 0.2, 0.2]) * len(stratum)
        assert (abs(counts - expected) <= 1.0 + 1e-9).all(), (counts, len(stratum))


def test_a_seed_gives_one_split_and_another_seed_another():
    rows = table()
    first = splits(cohort.leave_one_out(rows, "bach", 42))
    assert first == splits(cohort.leave_one_out(rows, "bach", 42))
    assert first != splits(cohort.leave_one_out(rows, "bach", 1234))


@pytest.mark.parametrize("held_out", DOMAINS)
def test_the_order_of_rows_changes_nothing(held_out):
    rows = table()
    ordered = cohort.leave_one_out(rows, held_out, 42)
    shuffled = cohort.leave_one_out(rows.sample(frac=1, random_state=1), held_out, 42)
    assert splits(ordered) == splits(shuffled)


@pytest.mark.parametrize("held_out", DOMAINS)
def test_poisoned_target_labels_and_poisoned_truth_change_nothing(held_out):
    rows = table()
    poisoned = rows.copy()
    target = poisoned.domain == held_out
    poisoned.loc[target, "allowed"] = 15 - poisoned.allowed[target]
    poisoned["truth"] = 3
    clean, poison = (cohort.leave_one_out(t, held_out, 42) for t in (rows, poisoned))
    assert splits(clean) == splits(poison)
    source = clean.split != "target"
    assert clean.allowed[source].equals(poison.allowed[source])


def test_a_torn_patient_is_a_problem():
    fold = cohort.leave_one_out(table(5, 1), "bach", 42)
    torn = fold.index[fold.duplicated("patient", keep=False) & (fold.split == "train")][0]
    fold.loc[torn, "split"] = "validation"
    with pytest.raises(Problem, match="two splits.*leave_one_out"):
        cohort.check_splits(fold)


def test_unknown_and_absent_domains_are_problems():
    rows = table(2, 1)
    with pytest.raises(Problem, match="choose one of cbis_ddsm"):
        cohort.leave_one_out(rows, "ddsm", 42)
    with pytest.raises(Problem, match="no rows of 'bach'"):
        cohort.leave_one_out(rows[rows.domain != "bach"], "bach", 42)


def test_only_some_patients_have_both_modalities():
    rows = pd.DataFrame({"patient": ["a", "a", "b"], "modality": [MAMMOGRAPHY, HISTOPATHOLOGY, MAMMOGRAPHY]})
    assert cohort.patients_with_both(rows) == {"a"}


def test_pairing_says_what_a_positive_pair_can_mean():
    rows = table(3, 2)
    assert cohort.pairing(rows) == "patient"
    assert cohort.pairing(rows.assign(patient=rows["sample"])) == "label", "nobody has both modalities"


def test_counts_add_up():
    fold = cohort.leave_one_out(table(5, 1), "bach", 42)
    counted = cohort.counts(fold)
    assert counted.images.sum() == len(fold) and set(counted.domain) == set(DOMAINS)


def test_the_fingerprint_sees_values_and_not_where_files_lie():
    rows = table()
    first = cohort.fingerprint(rows)
    assert len(first) == 16
    assert first == cohort.fingerprint(rows.assign(source="/elsewhere/a.dcm", annotation="b"))
    assert first != cohort.fingerprint(rows.iloc[1:]) and first != cohort.fingerprint(rows.assign(allowed=15))


def test_a_share_of_the_training_patients_is_nested_and_touches_nothing_else():
    rows = table(people=80)
    whole = cohort.leave_one_out(rows, "bach", 42)
    untouched = whole[whole.split != "train"].reset_index(drop=True)
    trained = []
    for share in (0.25, 0.5, 0.75, 1.0):
        fold = cohort.leave_one_out(rows, "bach", 42, train_share=share)
        trained.append(set(fold.patient[fold.split == "train"]))
        pd.testing.assert_frame_equal(fold[fold.split != "train"].reset_index(drop=True), untouched)
        assert fold.attrs == whole.attrs
    assert trained[0] < trained[1] < trained[2] < trained[3] == set(whole.patient[whole.split == "train"])
    quarter, half, _, all_of_them = map(len, trained)
    assert 0.25 <= quarter / all_of_them < 0.4, "each stratum rounds up"
    assert 0.5 <= half / all_of_them < 0.65


def test_tiles_drawn_by_outline_are_for_training_only():
    rows = table(10, 4)
    inside = rows[rows.domain == "camelyon"]
    inside = inside.assign(sample=inside["sample"] + "#4", drawn="outline")
    everything = pd.concat([rows, inside], ignore_index=True)
    for held_out in DOMAINS:
        plain = cohort.leave_one_out(rows, held_out, 1)
        fold = cohort.leave_one_out(everything, held_out, 1)
        assert splits(fold[fold.drawn == "blind"]) == splits(plain), "they change no split"
        assert set(fold.split[fold.drawn == "outline"]) == (set() if held_out == "camelyon" else {"train"})


def test_a_lymph_node_without_tumour_says_nothing_of_the_breast():
    breast = cohort.of_breast([1, 8, 9, 1, 2, 12], ["camelyon"] * 3 + ["bach", "cbis_ddsm", "inbreast"])
    assert breast.tolist() == [15, 8, 15, 1, 2, 12]


def test_a_cohort_without_shared_patients_has_folds_and_pairs_by_label():
    rows = table(people=0, singles=10)
    assert cohort.pairing(rows) == "label" and not cohort.patients_with_both(rows)
    for held_out in DOMAINS:
        fold = cohort.leave_one_out(rows, held_out, 1)
        assert fold.attrs["left_out"] == 0 and set(fold.split[fold.domain == held_out]) == {"target"}
        assert set(fold.split) == {"train", "validation", "source test", "target"}
    partner = cohort.partners(rows)
    label = cohort.malignant(rows.file_allowed)
    bad = dict(zip(rows.patient, label))
    assert set(partner) == set(rows.patient[rows.modality == MAMMOGRAPHY])
    assert all(bad[mine] == bad[theirs] for mine, theirs in partner.items())
    assert set(partner.values()) <= set(rows.patient[rows.modality == HISTOPATHOLOGY])
    assert cohort.partners(rows) == partner, "drawn by the seed"
