"""K-MaT's control and plan: the gap as a dial, stored prompts at every dose, couplings of other classes."""
from dataclasses import replace

import numpy as np
import pytest
import torch
from test_kmat import SMALL, model, pair, texts  # noqa: F401 (model and texts are fixtures)

from data_scripts import kmat_pairs
from data_scripts.phantom import textbook
from xmodal.companions import kmat, kmat_control, kmat_panels, prompts
from xmodal.config import Problem
from xmodal.controls import verdict


def test_a_plan_that_couples_other_classes_is_seen(texts):  # noqa: F811
    p = prompts.Prompts(kmat.OURS, texts.model, kmat_pairs.BREAST, 4, 0)
    w = torch.eye(3, 16)
    straight, crossed = (kmat.coupling(Fixed(w, w[order]), texts, SMALL) for order in ([0, 1, 2], [1, 0, 2]))
    assert kmat.partner_of(straight).tolist() == [0, 1, 2]
    assert kmat.partner_of(crossed).tolist() == [1, 0, 2]
    assert np.allclose(kmat.coupling(p, texts, SMALL).groupby("high").share.sum(), 1)
    table = kmat_panels.couplings({7: {"plan": crossed}}, kmat_pairs.BREAST)
    most = table[table.most]
    assert list(zip(most.high, most.low)) == [("normal", "benign"), ("benign", "normal"),
                                              ("malignant", "malignant")]


class Fixed:
    """Prompts whose class embeddings are given."""

    def __init__(self, high, low):
        self.w = torch.stack([high, low])

    def __call__(self):
        return self.w


def test_exchanged_descriptions_are_those_of_the_next_class(texts):  # noqa: F811
    other = kmat_control.exchanged(texts)
    for c in range(3):
        assert torch.equal(other.anchors[:, c], texts.anchors[:, (c + 1) % 3])
    assert not torch.equal(other.anchors, texts.anchors) and other.sentences != texts.sentences


# ---- the gap and the control -------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def cases(tmp_path_factory):
    """Twelve textbook cases on disk."""
    folder = tmp_path_factory.mktemp("cases")
    textbook.write(folder, 12, size=16, workers=1)
    return folder


def test_without_a_gap_both_ends_are_the_same_pictures_and_the_dial_goes_to_ultrasound(cases):
    table = kmat.phantom_pair(cases).high.table
    none, half, all_of_it = (kmat.phantom_pair(cases, gap=gap).low.pictures(table) for gap in (0, 0.5, 1))
    assert np.array_equal(none, kmat.phantom_pair(cases).high.pictures(table))
    assert np.array_equal(all_of_it, np.load(cases / "images" / "ultrasound.npy"))
    assert np.abs(half - (none / 2 + all_of_it / 2)).max() <= 0.5
    assert kmat.phantom_pair(cases, gap=0.5).low.digest() != kmat.phantom_pair(cases, gap=1.0).low.digest()
    with pytest.raises(Problem, match="no phantom cases"):
        kmat.phantom_pair(cases / "elsewhere")


def test_the_gap_is_nothing_where_both_ends_are_alike(model):  # noqa: F811
    same = pair()
    same = replace(same, low=replace(same.high, _features={}))
    table = kmat_control.measured_gap({0.0: same, 1.0: pair()}, model).set_index("gap")
    assert table.distance[0.0] == pytest.approx(0, abs=1e-6) and table.agreement[0.0] == pytest.approx(1)
    assert table.distance[1.0] > 0.1 and table.agreement[1.0] < 0.99


def test_the_control_reads_stored_prompts_and_every_rule_gets_a_verdict(home, texts):  # noqa: F811
    dark = pair(lambda rows: pair().high.pictures(rows))
    doses = {gap: dark for gap in kmat_control.GAPS} | {1.0: pair()}
    few = replace(SMALL, epochs=1)
    table = kmat_control.control_table("lesson", doses, texts, kmat.OURS, (1, 2), few)
    assert len(table) == 4 * 2 * 7
    coop = kmat.run("lesson", pair(), texts, "coop", kmat.METHODS["coop"], (1, 2), few)[1]["predictions"]
    low = coop.query("end == 'low'")
    stored = table.query("arm == 'CoOp' and dose == 1.0 and seed == 1").value.item()
    assert stored == pytest.approx((kmat.guess(low) == low.truth).mean())
    judged = verdict.judge(kmat_control.CONTROL, table)
    assert judged.sentence.tolist() == [rule.sentence for rule in kmat_control.RULES]
    assert set(judged.verdict) <= {"holds", "does not hold"}
