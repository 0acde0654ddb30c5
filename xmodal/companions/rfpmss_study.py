"""RFPMSS on studies: trainings computed once, zero-shot retrieval, written reports. N studies, D width.

Models are trained on one site and tested on unseen patients of every site, as the paper claims most of
others.
"""
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
from ..stats import auc
from . import frozen, measures, rfpmss_training, study
from .reporter import beam, greedy, tokenize
from .rfpmss import NO_ALIGNMENT, OURS, TABLE1, TABLE4A, TABLE5, Settings, Variant
from .rfpmss_data import MODALITIES, VIEWS, batch, feature_maps, rows_of

SEEDS = (42, 43, 44, 45, 46, 47, 48, 49)
SHARES = (0.01, 0.1, 1.0)                              # of the labels, in Table 2
WRITTEN = 32                                           # unseen studies of a site whose reports are written
GRID = ((0.25, 0.5), (0.5, 0.5), (1, 0.25), (1, 0.75))  # Table 4 b: K as a share of the settings', K' of K


class Training(NamedTuple):
    """One training of the study: of what, and on which studies."""
    name: str              # of its row in the tables, and of its folder
    variant: Variant
    settings: Settings
    train: np.ndarray      # row numbers of studies
    report: bool = False   # also write reports, by greedy and by beam search, for BLEU and ROUGE


def trainings(table, settings):
    """{name: Training} of all tables, for a table of studies as of `rfpmss_data.load`.

    All but those of Table 3 are trained on the first site, and all with the same settings. "twice as long" is
    RFPMSS with twice the epochs, and with a learning rate that falls half as fast: where the others have
    converged, it is no better.
    """
    sites = list(table.site.unique())
    home = rows_of(table, "train", sites[:1])
    labelled = home[(table.label[home] != "").to_numpy()]
    longer = replace(settings, epochs=2 * settings.epochs, decay=settings.decay ** 0.5)
    plan = [Training("RFPMSS", OURS, settings, home, report=True),
            Training("twice as long", OURS, longer, home),
            Training("no alignment", NO_ALIGNMENT, settings, home)]
    for name, variant in {**TABLE1, **TABLE4A, **TABLE5}.items():
        if variant != OURS:
            of_home = labelled if variant.labels else home
            plan.append(Training(name, variant, settings, of_home))
    for anchors, chosen in anchor_grid(settings):
        other = replace(settings, anchors=anchors, chosen=chosen)
        plan.append(Training(f"K {anchors}, K' {chosen}", OURS, other, home))
    for site in sites[1:]:
        plan.append(Training(f"{site} alone", OURS, settings, rows_of(table, "train", [site])))
    if len(sites) > 1:
        plan.append(Training("all sites", OURS, settings, rows_of(table, "train")))
    return {training.name: training for training in plan}


def anchor_grid(settings):
    """[(K, K')] of Table 4 b besides the settings' own."""
    grid = []
    for share, chosen in GRID:
        anchors = int(settings.anchors * share)
        grid.append((anchors, int(anchors * chosen)))
    return grid


def run_all(profile, studies, plan, seeds, device="cpu", each=map):
    """{(name, seed): tables of `run`} of the trainings {name: Training}.

    each(function, items) runs them; give one that runs them side by side in processes.
    """
    items = [(training, seed) for seed in seeds for training in plan.values()]
    done = each(partial(_run_item, profile, studies, device), items)
    return {(training.name, seed): tables for (training, seed), tables in zip(items, done)}


def _run_item(profile, studies, device, item):
    training, seed = item
    if device == "cpu":
        torch.set_num_threads(1)                   # models as small as these gain nothing from two
    return run(profile, studies, training, seed, device)


# ---- a run -------------------------------------------------------------------------------------------------

def run(profile, studies, training, seed, device="cpu"):
    """One training, and what it does on unseen patients of every site: {"history", "retrieval", "scores"}.

    A finished run is read back.
    """
    name, variant, settings, train, report = training
    configuration = {"profile": getattr(profile, "name", profile), "companion": "rfpmss",
                     "variant": asdict(variant), "settings": asdict(settings), "seed": seed,
                     "studies": studies.digest(), "train": np.asarray(train).tolist(), "report": report}
    folder = place(profile, name, seed)

    def make():
        resume = checkpoint_path(folder, configuration)
        model, history = rfpmss_training.train(studies, train, settings, variant, seed, device, resume)
        vocabulary = rfpmss_training.vocabulary_of(studies, train) if report else None
        tables = tested(model, studies, train, seed, vocabulary, device)
        return {"history": history, **tables}, model.state_dict()

    return study.computed_once(folder, configuration, make)


def tested(model, studies, train, seed, vocabulary=None, device="cpu"):
    """{"retrieval", "scores"} of a trained model on the unseen patients of every site.

    train: the studies that it was trained on, of whose labels shares train a probe; vocabulary: for reports.
    """
    positive = studies.positive()
    labelled = np.asarray(train)[positive[train] >= 0]
    before = represent(model, studies, labelled, device)["v"].numpy()
    retrieval, scores = [], []
    for site in studies.table.site.unique():
        rows = rows_of(studies.table, "test", [site])
        out = represent(model, studies, rows, device)
        retrieval.append(retrieval_table(out).assign(site=site))
        known = positive[rows] >= 0
        score = probes(before, out["v"].numpy()[known], positive[labelled], positive[rows[known]], seed)
        if vocabulary is not None:
            some = rows[:WRITTEN]
            score |= written(model, vocabulary, out["v"][:WRITTEN].to(device),
                             list(studies.table.report[some]))
        scores.append({"site": site, **score})
    return {"retrieval": pd.concat(retrieval, ignore_index=True), "scores": pd.DataFrame(scores)}


def place(profile, name, seed):
    """runs/<profile>/companions/rfpmss/<name>/seed_<n>."""
    profile_name = getattr(profile, "name", profile)
    folder = name.replace(" ", "_").replace(",", "").replace("'", "_chosen")
    return config.RUNS / profile_name / "companions" / "rfpmss" / folder / f"seed_{seed}"


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
    crop = model.settings.crop
    parts = [model(*batch(studies, rows[i:i + 64], device, crop)) for i in range(0, len(rows), 64)]
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


def probes(before, after, truth_before, truth_after, seed):
    """{"auc", "auc_10", "auc_1"}: AUC of the class that is looked for, of a logistic regression on frozen
    features.

    before (N, D), after (M, D): features of training and test studies. It learns from all labels of the
    training studies, and from 10 and 1 % of those of either class (at least one), which `seed` draws.
    """
    areas = {}
    for share in SHARES:
        rows = some_labels(truth_before, share, seed)
        model = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=500))
        model.fit(before[rows], truth_before[rows])
        name = "auc" if share == 1 else f"auc_{round(100 * share)}"
        areas[name] = auc(truth_after, model.predict_proba(after)[:, 1])
    return areas


def some_labels(truth, share, seed):
    """Row numbers of a share of those of either class (0, 1), at least one, which `seed` draws."""
    rng = np.random.default_rng([seed, round(100 * share)])
    rows = []
    for label in (0, 1):
        of_label = rng.permutation(np.flatnonzero(truth == label))
        rows.append(of_label[:max(1, round(share * len(of_label)))])
    return np.concatenate(rows)


def of_frozen_features(studies, train, seeds, device="cpu"):
    """Table 2's "ImageNet": `probes` on the means of EfficientNet-Lite0's features of the views.

    One row per site and seed; columns name, site, seed, auc, auc_10, auc_1.
    """
    maps = [studies.tokens[view] for view in VIEWS]
    if maps[0].dtype == torch.uint8:                               # pictures, as in the paper's profile
        encoder = frozen.ImageEncoder(device)
        maps = [feature_maps(pictures, encoder) for pictures in maps]
    features = torch.cat([tokens.mean(1) for tokens in maps], 1).numpy()
    positive = studies.positive()
    train = np.asarray(train)[positive[train] >= 0]
    rows = []
    for site in studies.table.site.unique():
        test = rows_of(studies.table, "test", [site])
        test = test[positive[test] >= 0]
        for seed in seeds:
            areas = probes(features[train], features[test], positive[train], positive[test], seed)
            rows.append({"name": "ImageNet features", "site": site, "seed": seed, **areas})
    return pd.DataFrame(rows)


def written(model, vocabulary, v, reports, beams=4):
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
