"""RFPMSS on studies: trainings computed once, zero-shot retrieval, written reports. N studies, D width."""
import itertools
from dataclasses import asdict, replace
from functools import partial
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from .. import config
from ..config import Problem
from ..runtime.checkpoints import checkpoint_path
from ..stats import auc, bootstrap
from . import measures, rfpmss_training, study
from .reporter import beam, greedy, tokenize
from .rfpmss import NO_ALIGNMENT, OURS, TABLE4A, TABLE5, Settings, Variant
from .rfpmss_data import MODALITIES, batch, rows_of

GRID = ((4, 2), (8, 4), (16, 4), (16, 12), (16, 8))   # K, K' of Table 4 b; the paper's are four times as many


class Training(NamedTuple):
    """One training of the study: of what, on which studies, and those that it is tested on."""
    name: str              # of its folder
    variant: Variant
    settings: Settings
    train: np.ndarray      # row numbers of studies
    test: np.ndarray
    report: bool = False   # also write reports, by greedy and by beam search, for BLEU and ROUGE


def trainings(table, settings, short_epochs):
    """{key: Training} of Tables 1 and 3 to 5, for a table of studies as of `rfpmss_data.load`.

    "RFPMSS" and "no alignment" have the epochs of `settings`. The variants have `short_epochs`, and so has
    RFPMSS where it is compared with them: ("loss", row of Table 4 a), ("module", row of Table 5), (K, K') of
    Table 4 b and, for Table 3, ("apart", site), trained on that site alone, and ("joint", site). They are
    tested on the first site, those of Table 3 on their own.
    """
    sites = list(table.site.unique())
    train = rows_of(table, "train")
    test = rows_of(table, "test", sites[:1])
    short = replace(settings, epochs=short_epochs)
    plan = {"RFPMSS": Training("RFPMSS", OURS, settings, train, test, report=True),
            "no alignment": Training("no alignment", NO_ALIGNMENT, settings, train, test)}
    for row, variant in TABLE4A.items():
        plan["loss", row] = Training(f"loss {row}", variant, short, train, test)
    for row, variant in TABLE5.items():
        if variant != OURS:
            plan["module", row] = Training(f"module {row}", variant, short, train, test)
    for anchors, chosen in GRID:
        if (anchors, chosen) != (settings.anchors, settings.chosen):
            few = replace(short, anchors=anchors, chosen=chosen)
            plan[anchors, chosen] = Training(f"anchors {anchors} {chosen}", OURS, few, train, test)
    for site in sites:
        unseen = rows_of(table, "test", [site])
        plan["apart", site] = Training(f"apart {site}", OURS, short, rows_of(table, "train", [site]), unseen)
        if site != sites[0]:                                       # for the first it is ("loss", "RFPMSS")
            plan["joint", site] = Training(f"joint {site}", OURS, short, train, unseen)
    return plan


def run_all(profile, studies, plan, seed, device="cpu", each=map):
    """{key: tables of `run`} of the trainings {key: Training}.

    each(function, items) runs them; give one that runs them side by side in processes.
    """
    train = partial(run, profile, studies, seed=seed, device=device)
    return dict(zip(plan, each(train, plan.values())))


# ---- a run -------------------------------------------------------------------------------------------------

def run(profile, studies, training, seed, device="cpu"):
    """One training, and what it does on unseen patients: {"history", "retrieval", "scores"}.

    A finished run is read back.
    """
    name, variant, settings, train, test, report = training
    configuration = {"profile": getattr(profile, "name", profile), "companion": "rfpmss",
                     "variant": asdict(variant), "settings": asdict(settings), "seed": seed,
                     "studies": studies.digest(), "train": np.asarray(train).tolist(),
                     "test": np.asarray(test).tolist(), "report": report}
    folder = place(profile, name, seed)

    def make():
        resume = checkpoint_path(folder, configuration)
        model, history = rfpmss_training.train(studies, train, settings, variant, seed, device, resume)
        out = represent(model, studies, test, device)
        malignant = (studies.table.label == "malignant").to_numpy().astype(int)
        area = probe(represent(model, studies, train, device), out, malignant[train], malignant[test])
        scores = {"auc": area, **interval(out, studies.table.patient[test])}
        if report:
            vocabulary = rfpmss_training.vocabulary_of(studies, train)
            scores |= written(model, vocabulary, out["v"].to(device), list(studies.table.report[test]))
        tables = {"history": history, "retrieval": retrieval_table(out), "scores": pd.DataFrame([scores])}
        return tables, model.state_dict()

    return study.computed_once(folder, configuration, make)


def place(profile, name, seed):
    """runs/<profile>/companions/rfpmss/<name>/seed_<n>."""
    profile_name = getattr(profile, "name", profile)
    return config.RUNS / profile_name / "companions" / "rfpmss" / name.replace(" ", "_") / f"seed_{seed}"


def again(profile, studies, training, seed, device="cpu"):
    """(model, vocabulary) of a finished run, from its folder.

    Raises `Problem` where its weights cannot be read.
    """
    vocabulary = rfpmss_training.vocabulary_of(studies, training.train)
    model = rfpmss_training.untrained(studies, training.settings, training.variant, vocabulary).to(device)
    model.load_state_dict(study.tensors(place(profile, training.name, seed)))
    return model.eval(), vocabulary


@torch.no_grad()
def represent(model, studies, rows, device="cpu"):
    """Outputs of the model for the studies `rows`, computed in batches, on the CPU.

    joint and inputs {modality: (N, D)}, attention {view: (N, P)}, v (N, D), view_weights (N, 3).
    """
    model.eval()
    parts = [model(*batch(studies, rows[i:i + 64], device)) for i in range(0, len(rows), 64)]
    out = {"joint": {}, "inputs": {}, "attention": {}}
    for key, joined in out.items():
        for name in parts[0][key]:
            joined[name] = torch.cat([part[key][name] for part in parts]).cpu()
    for key in ("v", "view_weights"):
        out[key] = torch.cat([part[key] for part in parts]).cpu()
    return out


# ---- retrieval, a probe, reports ---------------------------------------------------------------------------

def cosine(a, b):
    """Cosine of each row of a (N, D) and each of b (M, D), an array (N, M)."""
    return (F.normalize(a, dim=1) @ F.normalize(b, dim=1).T).numpy()


def retrieval_table(out):
    """Zero-shot retrieval: study against report both ways, and every pair of modalities.

    Columns query, item, R@1, ..., MeanR, n.
    """
    z = {"study": out["v"], **out["joint"]}
    pairs = [("report", "study"), ("study", "report"), *itertools.permutations(MODALITIES, 2)]
    rows = []
    for query, item in pairs:
        rows.append({"query": query, "item": item, **measures.retrieval(cosine(z[query], z[item]))})
    return pd.DataFrame(rows)


def interval(out, patients):
    """{"R@10_low", "R@10_high"}: 95 % interval of R@10 between study and report, from resampled patients.

    R@10 is the mean of both ways, in percent.
    """
    similarity = cosine(out["v"], out["joint"]["report"])
    percent = 50 * (measures.hits(similarity, 10) + measures.hits(similarity.T, 10))
    drawn = bootstrap(_mean_of_second, percent, percent, patients)
    return {"R@10_low": drawn.low, "R@10_high": drawn.high}


def _mean_of_second(_, values):
    return values.mean()


def probe(before, after, truth_before, truth_after):
    """AUC of malignant against not, of a logistic regression on frozen study features.

    before, after: outputs of `represent` for training and test studies.
    """
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=500))
    model.fit(before["v"].numpy(), truth_before)
    return auc(truth_after, model.predict_proba(after["v"].numpy())[:, 1])


def written(model, vocabulary, v, reports, beams=8):
    """BLEU-1, BLEU-4 and ROUGE-L of reports by greedy search.

    And of the first `beams` studies, by greedy and by beam search.
    """
    truth = [tokenize(report) for report in reports]
    by_greedy = [vocabulary.decode(row) for row in greedy(model.decoder, v)]
    by_beam = [vocabulary.decode(beam(model.decoder, x)) for x in v[:beams]]
    return {**_report_scores(by_greedy, truth, ""),
            **_report_scores(by_greedy[:beams], truth[:beams], "_greedy_few"),
            **_report_scores(by_beam, truth[:beams], "_beam_few")}


def _report_scores(candidates, references, ending):
    return {f"bleu1{ending}": measures.bleu(candidates, references, 1),
            f"bleu4{ending}": measures.bleu(candidates, references),
            f"rouge_l{ending}": measures.rouge_l(candidates, references)}


def poison_at_random(out, seed=42):
    """Ranks of every study with its own report and with that of another, which `seed` draws.

    One row per study, columns study, other, before, after. Without alignment `before` is as bad as `after`;
    that a report which the model itself ranks last comes last would say nothing of the model.
    """
    n = len(out["v"])
    if n < 2:
        raise Problem("A report is exchanged for that of another study; give at least two studies.")
    others = (np.arange(n) + np.random.default_rng(seed).integers(1, n, n)) % n
    rows = [(who, other, *poisoned(out, who, other)) for who, other in enumerate(others)]
    return pd.DataFrame(rows, columns=["study", "other", "before", "after"])


def poisoned(out, who, other):
    """Ranks of study number `who` of `out` among all reports.

    Once with its own report, once with that of number `other` in its place.
    """
    reports = out["joint"]["report"].clone()
    before = measures.ranks(cosine(out["v"], reports))[who]
    reports[who] = reports[other]
    return before, measures.ranks(cosine(out["v"], reports))[who]
