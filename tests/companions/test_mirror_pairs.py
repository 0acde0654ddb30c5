"""MIRROR's losses on real pairs: the reader, what is measured of unseen samples, the numbers of the page."""
import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from data_scripts import tcga_pairs
from xmodal.companions import mirror, mirror_pairs, tasks
from xmodal.config import HOME, Problem

SMALL = replace(mirror_pairs.SET, epochs=2)


@pytest.fixture
def tables(tmp_path):
    """Sixty samples of each table, of which fifty are in both, in other orders."""
    rng = np.random.default_rng(0)
    expression = pd.DataFrame(rng.integers(0, 99, (60, 12)), index=[f"S{i:02d}" for i in range(60)])
    methylation = pd.DataFrame(rng.random((60, 100)), index=[f"S{i:02d}" for i in range(69, 9, -1)])
    kinds = pd.DataFrame({"cancer_type": np.where(np.arange(70) % 3, "BRCA", "LUAD")},
                         index=[f"S{i:02d}" for i in range(70)])
    for name, table in (("expression_subsampled", expression), ("methylation27k_subsampled", methylation),
                        ("tcga_sample_identifiers", kinds)):
        table.rename_axis("sample_id").to_csv(tmp_path / f"greenelab_{name}.tsv", sep="\t")
    return tmp_path, expression, methylation


def test_rows_of_both_tables_are_those_of_one_sample(tables):
    folder, expression, methylation = tables
    cohort = tcga_pairs.cohort(folder)
    assert cohort.patient.tolist() == [f"S{i:02d}" for i in range(10, 60)]
    np.testing.assert_allclose(cohort.expression, np.log2(expression.iloc[10:] + 1))
    np.testing.assert_allclose(cohort.bags.reshape(50, 100), methylation.loc[cohort.patient], rtol=1e-6)
    assert cohort.bags.shape == (50, 25, 4) and (cohort.subtype == (cohort.site == "BRCA")).all()
    methylation.iloc[:5].to_csv(folder / "greenelab_methylation27k_subsampled.tsv", sep="\t")
    with pytest.raises(Problem, match="share 0 samples"):
        tcga_pairs.cohort(folder)
    (folder / "greenelab_tcga_sample_identifiers.tsv").unlink()
    with pytest.raises(Problem, match="no greenelab_tcga_sample_identifiers.tsv"):
        tcga_pairs.cohort(folder)


@pytest.fixture
def inputs(tables):
    cohort = tcga_pairs.cohort(tables[0])
    return tasks.prepare(cohort, np.arange(40), SMALL, 0, list(cohort.expression))


def test_shuffled_pairs_are_of_training_samples_and_lose_none(inputs, monkeypatch):
    given = []

    def noted(name, seen, *rest):
        given.append(seen)
        return {}, None, None

    monkeypatch.setattr(mirror_pairs.mirror_study, "embeddings", noted)
    mirror_pairs.trained(inputs, "alignment", np.arange(40), 0, shuffled=True)
    shuffled = given[0].expression
    assert torch.equal(shuffled[40:], inputs.expression[40:]) and torch.equal(given[0].bags, inputs.bags)
    moved = (shuffled[:40] != inputs.expression[:40]).any(1)
    assert moved.sum() > 30
    assert sorted(shuffled[:40].tolist()) == sorted(inputs.expression[:40].tolist())


class Known(torch.nn.Module):
    """A model whose two sides of a sample are known."""

    def __init__(self, slide, rna):
        super().__init__()
        self.sides = slide, rna
        self.align = torch.nn.ModuleList([torch.nn.Identity(), torch.nn.Identity()])

    def forward(self, bags, expression):
        return tuple(side[:len(bags)] for side in self.sides)


def test_partners_that_are_alike_are_met_and_a_constant_meets_them_by_chance(inputs):
    z = torch.randn(10, 6)
    test = np.arange(40, 50)
    assert mirror_pairs.met(Known(z, z), inputs, test) == 1
    assert mirror_pairs.met(Known(torch.ones(10, 6), torch.ones(10, 6)), inputs, test) == pytest.approx(0.5)
    assert mirror_pairs.met(Known(z, -z), inputs, test) < 0.5


def test_the_mean_as_the_guess_rebuilds_nothing(inputs):
    model = mirror.Mirror(4, inputs.expression.shape[1], SMALL)
    torch.nn.init.zeros_(model.retain[1].rebuild[2].weight)
    torch.nn.init.zeros_(model.retain[1].rebuild[2].bias)
    assert mirror_pairs.rebuilt(model, inputs, np.arange(40, 50)) == pytest.approx(0, abs=0.1)


def test_rules_are_judged_over_folds():
    arms = {"alignment": 0.6, "pairs shuffled": 0.2, "MIRROR": 0.45, "rebuilt": 0.02, "mean": 0.0}
    noise = np.tile([-0.01, 0.0, 0.01, 0.0, 0.0], 3)
    judged = mirror_pairs.judge(pd.DataFrame({arm: value + (arm != "mean") * noise * k
                                              for k, (arm, value) in enumerate(arms.items(), 1)}))
    assert judged.verdict.tolist() == ["holds", "does not hold", "does not hold"]
    assert judged.difference.tolist() == pytest.approx([0.4, 0.02, -0.15])


# ---- what was measured -------------------------------------------------------------------------------------

def test_the_page_quotes_the_runs_that_are_stored():
    page = " ".join((HOME / "docs" / "companions" / "mirror.md").read_text().replace("−", "-").split())
    table = pd.read_csv(HOME / "docs" / "companions" / "mirror_pairs.csv")
    assert len(table) == 15
    for row in mirror_pairs.judge(table).itertuples():
        quoted = f"{row.difference:+.3f} [{row.low:+.3f}, {row.high:+.3f}] | {row.verdict}"
        assert f"{row.sentence} | {quoted}" in page
    of_arms = re.search(r"Alignment meets (.\S+) of .* shuffled pairs (\S+)\. With .* it is (\S+),", page)
    means = table[["alignment", "pairs shuffled", "MIRROR"]].mean()
    assert of_arms.groups() == tuple(f"{mean:.2f}" for mean in means)


ROOT = HOME.parent / "shared" / "data" / "tcga_brca_omics"


@pytest.mark.skipif(not ROOT.exists(), reason="needs the real tables of ../shared/data/tcga_brca_omics")
def test_real_samples_of_both_tables_are_trained_on(tmp_path):
    """Every loss of a short training on them is a number, and all but style, which clustering moves, go down.
    """
    cohort = tcga_pairs.cohort(ROOT)
    assert len(cohort) == 111 and cohort.expression.shape == (111, 100) and cohort.subtype.sum() == 15
    assert 0 <= cohort.bags.min() and cohort.bags.max() <= 1
    train = np.arange(89)
    real = tasks.prepare(cohort, train, mirror_pairs.SET, 0, list(cohort.expression))
    few = replace(mirror_pairs.SET, epochs=6)
    _, _, history = mirror_pairs.mirror_study.embeddings("MIRROR", real, train, few, 0)
    assert np.isfinite(history.to_numpy()).all()
    down = history[["align", "retention", "cluster"]]
    assert (down.iloc[-1] < down.iloc[0]).all()
