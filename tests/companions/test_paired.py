"""Paired patients: known factors, chosen genes, and inputs on which test patients have no say."""
import dataclasses

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.feature_selection import RFE
from sklearn.svm import LinearSVC

from xmodal.companions import genes, mirror, paired, tasks
from xmodal.config import Problem


@pytest.fixture(scope="module")
def cohort():
    return paired.draw(160, seed=1, side=5)


# ---- known factors -----------------------------------------------------------------------------------------

SEES = {   # view -> the factors that it shows, and some that it cannot
    "slide": (("shared", "slide", "stain"), ("rna", "copy", "arrangement", "batch")),
    "rna": (("shared", "rna", "batch"), ("slide", "copy", "arrangement")),
    "copy": (("shared", "copy"), ("slide", "rna", "arrangement")),
}


def test_the_generator_has_the_answers_it_says(cohort):
    views = {"slide": cohort.bags.mean(1), "rna": cohort.expression.to_numpy(),
             "copy": cohort.copies.to_numpy()}
    for view, (own, foreign) in SEES.items():
        r2 = tasks.recovered(views[view], cohort.factors, np.arange(120), np.arange(120, 160))
        assert min(r2[factor] for factor in own) > 0.4, (view, r2)
        assert max(r2[factor] for factor in foreign) < 0.2, (view, r2)


def test_the_generator_is_its_seed():
    a, b, c = (paired.draw(5, seed) for seed in (7, 7, 8))
    assert np.array_equal(a.bags, b.bags)
    assert a.expression.equals(b.expression) and a.clinical.equals(b.clinical)
    assert not np.array_equal(a.bags, c.bags)
    assert np.array_equal(a.select(a.event == 1).patient, a.patient[a.event == 1])
    assert len(a.select([3, 1])) == 2


def equal_neighbours(patches, tumour, axis):
    """Share of pairs of touching tumour patches that are of one cell kind, by a patch's place on an axis."""
    grid = np.full((9, 9), np.nan)
    place = patches[tumour] @ axis
    grid[tumour.reshape(9, 9)] = np.where(place > np.median(place), 1, -1)
    pairs = np.concatenate([(grid[1:] * grid[:-1]).ravel(), (grid[:, 1:] * grid[:, :-1]).ravel()])
    return np.nanmean(pairs > 0)


def test_the_dials_of_the_arrangement():
    """The grid shows it the better the larger the contrast, no bag does, and classes depend on it by its
    weight."""
    clear, none = (paired.draw(300, 1, 9, arrangement=paired.Arrangement(c, 1.0)) for c in (8.0, 0.0))
    axis = (clear.bags - none.bags)[clear.tumour]
    axis = axis[0] / np.linalg.norm(axis[0])
    truth = clear.factors["arrangement"][:, 0]
    shown = {}
    for name, cohort in (("clear", clear), ("none", none), ("shuffled", paired.shuffled(clear))):
        seen = [equal_neighbours(*slide, axis) for slide in zip(cohort.bags, cohort.tumour)]
        shown[name] = np.corrcoef(seen, truth)[0, 1]
    assert shown["clear"] > 0.3 and abs(shown["none"]) < 0.15 and abs(shown["shuffled"]) < 0.15, shown
    free, bound = (paired.draw(300, 1, 5, arrangement=paired.Arrangement(2.0, w)) for w in (0.0, 2.0))
    spread = {name: np.ptp(pd.Series(truth).groupby(c.pam50).mean()) for name, c in
              (("free", free), ("bound", bound))}
    assert spread["free"] < 0.4 and spread["bound"] > 1, spread


def test_shuffled_places_leave_every_bag_as_it_was(cohort):
    mixed = paired.shuffled(cohort)
    assert np.allclose(np.sort(mixed.bags, axis=1), np.sort(cohort.bags, axis=1))
    assert np.array_equal(mixed.bags[~mixed.tumour], cohort.bags[~cohort.tumour])
    assert not np.array_equal(mixed.bags, cohort.bags) and mixed.digest() != cohort.digest()


def test_further_tables_belong_to_a_cohort(cohort):
    table = pd.DataFrame({"hsa-mir-21": np.arange(160.0)})
    more = dataclasses.replace(cohort, more={"miRNA": table})
    assert more.digest() != cohort.digest() and not cohort.more
    assert more.select([5, 3]).more["miRNA"]["hsa-mir-21"].tolist() == [5, 3]


def test_a_kept_result_belongs_to_its_cohort():
    a, b, c = (paired.draw(20, seed) for seed in (1, 1, 2))
    assert a.digest() == b.digest() != c.digest()
    assert a.digest() != a.select(range(19)).digest()
    b.clinical.loc[0, "age"] = 99
    assert a.digest() != b.digest(), "fusion reads the clinical record"


# ---- genes and inputs --------------------------------------------------------------------------------------

def test_genes_are_those_eliminated_last_and_those_curated(cohort):
    chosen = genes.select(cohort.expression, cohort.subtype)
    assert set(genes.CURATED) <= set(chosen) and len(genes.CURATED) == len(set(genes.CURATED)) == 50
    assert chosen == [g for g in cohort.expression if g in set(chosen)]
    assert {"NKX2-1", "TP63"} <= set(genes.LUNG) and len(genes.LUNG) == len(set(genes.LUNG))
    values = np.random.default_rng(0).normal(size=(160, 30))
    noise = pd.DataFrame(values, columns=[f"G{i}" for i in range(30)])
    noise["G3"] += 3 * cohort.subtype
    few = genes.select(noise, cohort.subtype, curated=["G7", "not there"], least=1)
    assert {"G3", "G7"} <= set(few) and len(few) < 30
    sizes = genes.numbers_of_genes(20_000, 10)
    assert len(sizes) > 10 and sizes[0] == 20_000 and sizes[-1] == 10
    assert len(genes.numbers_of_genes(48, 10)) > 10


def test_elimination_drops_the_smallest_coefficients_first():
    """The published rule, one gene at a time: what scikit-learn's elimination keeps."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(80, 12))
    y = (x[:, :3].sum(1) + rng.normal(size=80) > 0).astype(int)
    x = (x - x.mean(0)) / x.std(0)
    ours = [set(chosen) for chosen, _ in genes.eliminate(x, y, range(12, 3, -1), 0)]
    (at_once, _), = genes.eliminate(x, y, [11], 0)
    assert set(at_once) == ours[1], "the first number need not be that of all genes"
    theirs = RFE(LinearSVC(C=0.01, random_state=0), n_features_to_select=4, step=1).fit(x, y)
    assert ours[-1] == set(np.flatnonzero(theirs.support_))
    assert all(small < large for large, small in zip(ours, ours[1:]))


def test_patches_drawn_into_a_file_are_those_in_memory_and_are_drawn_once(cohort, tmp_path):
    in_memory = tasks.drawn_bags(cohort, 9, 42)
    on_disk = tasks.drawn_bags(cohort, 9, 42, tmp_path / "patches.npy")
    assert np.allclose(in_memory, on_disk, atol=2e-2) and on_disk.dtype == np.float16
    nobody = dataclasses.replace(cohort, bags=None)
    assert np.array_equal(tasks.drawn_bags(nobody, 9, 42, tmp_path / "patches.npy"), on_disk)


def test_a_gene_that_is_missing_twice_or_not_finite_is_named(cohort):
    with pytest.raises(Problem, match="lacks 1 of the 2 genes.*TP53"):
        genes.take(cohort.expression, ["ESR1", "TP53"])
    with pytest.raises(Problem, match="ESR1 has two columns"):
        genes.check(pd.concat([cohort.expression, cohort.expression[["ESR1"]]], axis=1))
    with pytest.raises(Problem, match="ESR1 has values that are not finite"):
        genes.check(cohort.expression.assign(ESR1=np.nan))
    with pytest.raises(Problem, match="cannot be read"):
        genes.read_list("nowhere.txt")


def test_bags_are_drawn_to_one_size_and_an_empty_slide_is_named():
    bag = np.arange(12.0).reshape(6, 2)
    assert np.array_equal(tasks.draw_patches(bag, 6), bag), "in the order of the slide"
    assert tasks.draw_patches(bag, 20).shape == (20, 2)
    with pytest.raises(Problem, match="The slide of P1 has no patch with tissue"):
        tasks.draw_patches(bag[:0], 5, slide="The slide of P1")


def test_test_patients_have_no_say_in_how_inputs_are_chosen_and_scaled(cohort):
    train = np.arange(120)
    changed = dataclasses.replace(cohort, expression=cohort.expression.copy(), bags=cohort.bags.copy())
    changed.expression.iloc[120:] *= 3
    changed.bags[120:] *= 3
    a, b = (tasks.prepare(c, train, mirror.SETTINGS["lesson"], 42) for c in (cohort, changed))
    assert a.genes == b.genes
    assert all(torch.equal(x, y) for x, y in zip(a.batch(train), b.batch(train)))


def test_folds_part_patients_and_shots_come_from_training(cohort):
    parts = tasks.folds(cohort, 42)
    assert sorted(np.concatenate([test for _, test in parts])) == list(range(160))
    assert all(not set(train) & set(test) for train, test in parts)
    few = tasks.shots(cohort, parts[0][0], "subtype", 10, 42)
    assert set(few) <= set(parts[0][0]) and np.bincount(cohort.subtype[few]).tolist() == [10, 10]
