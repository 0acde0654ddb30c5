"""RFPMSS on studies: trainings computed once, zero-shot retrieval, reports, attention against lesions, anchors; tables of its panels."""
import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from .. import config
from ..config import Problem
from ..explain import inside, pointing_hit
from ..predict import strongest_box
from ..runtime.checkpoints import checkpoint_path
from ..stats import auc, bootstrap, iou
from ..tables.cases import to_uri
from . import measures, rfpmss, study
from .pictures import open_pictures, split_patients
from .reporter import Vocabulary, beam, greedy, words
from .rfpmss import MODALITIES, VIEWS
from .transport import multi_sk

SITES = {"studies": "inbreast", "pretraining": "pretrain"}   # folder of phantom studies -> its detector
GRID = ((4, 2), (8, 4), (16, 4), (16, 12), (16, 8))          # K, K' of Table 4 b; the paper's are four times as many


# ---- data --------------------------------------------------------------------------------------------------------

def load(folder, sites=SITES, seed=42):
    """(table, pictures {view: (N, S, S)}) of the phantom studies in folder/<site>/, with columns site, split; N over all sites."""
    tables, pictures = [], {v: [] for v in VIEWS}
    for site in sites:
        path = Path(folder) / site / "studies.parquet"
        if not path.exists():
            raise Problem(f"There are no phantom studies at {path}; write them with data_scripts.phantom.studies.write, as 13_rfpmss does.")
        table = split_patients(pd.read_parquet(path), seed, (0.6, 0.0))
        tables.append(table.assign(site=site, patient=site + "/" + table.patient))
        for view in VIEWS:
            pictures[view].append(np.load(path.parent / "images" / f"{view}.npy", mmap_mode="r"))
    return _reported(pd.concat(tables, ignore_index=True)), {v: np.concatenate(p) for v, p in pictures.items()}


def load_table(root, size=128, seed=42):
    """(table, pictures) as of `load`, of studies of one's own: root/studies.csv has a row a study with columns patient, label, report,
    mammogram, magnified, ultrasound (a picture file each, below `root`); and, if known, site, split (train, test), lesion_type and
    boxes_<view> (JSON, corners x0, y0, x1, y1 in pixels of the file). Pictures become `size` x `size`, grey.

    Raises `Problem` for a missing table, column or picture and for an empty report.
    """
    path = Path(root) / "studies.csv"
    if not path.exists():
        raise Problem(f"There is no table of studies at {path}; write one as rfpmss_study.load_table tells, or leave ROOT empty for phantoms.")
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    missing = [c for c in ("patient", "label", "report", *VIEWS) if c not in table]
    if missing:
        raise Problem(f"{path} has no column {missing[0]!r}; give it a row a study with patient, label, report and {', '.join(VIEWS)}.")
    table = _reported(table.assign(**{c: table.get(c, default) for c, default in (("site", "studies"), ("lesion_type", "lesion"))}))
    pictures = {}
    for view in VIEWS:
        boxes, small = table.get(f"boxes_{view}", pd.Series("[]", table.index)), []
        for row, name in table[view].items():
            picture = Image.fromarray(open_pictures(pd.DataFrame({"path": [path.parent / name]}))[0]).convert("L")
            small.append(np.asarray(picture.resize((size, size), Image.Resampling.BOX)))
            scale = np.tile(size / np.array(picture.size), 2)
            try:
                boxes[row] = json.dumps([[int(c) for c in np.round(box * scale)] for box in json.loads(boxes[row] or "[]")])
            except (ValueError, TypeError):
                raise Problem(f"{boxes[row]!r} in boxes_{view} of {path} is no list of boxes; write them like [[10, 20, 60, 80]].") from None
        table[f"boxes_{view}"], pictures[view] = boxes, np.stack(small)
    return table if "split" in table else split_patients(table, seed, (0.6, 0.0)), pictures


def _reported(table):
    """`table`. Raises `Problem` for an empty report."""
    empty = table.report.str.strip() == ""
    if empty.any():
        raise Problem(f"The study of {table.patient[empty].iloc[0]} has an empty report; write one, or leave the study out.")
    return table


def rows_of(table, split, sites=None):
    """Row numbers of a split, of some sites (or all)."""
    return np.flatnonzero((table.split == split) & table.site.isin(sites or table.site.unique()))


# ---- a run -------------------------------------------------------------------------------------------------------

@torch.no_grad()
def represent(model, studies, rows, device="cpu"):
    """Outputs of the model for the studies `rows`, in batches, on the CPU: joint {modality: (N, D)}, v, view_weights, attention."""
    model.eval()
    parts = [model(*rfpmss.batch(studies, rows[i:i + 64], device)) for i in range(0, len(rows), 64)]
    joined = lambda key: {k: torch.cat([p[key][k] for p in parts]).cpu() for k in parts[0][key]}
    return {"joint": joined("joint"), "inputs": joined("inputs"), "attention": joined("attention"),
            "v": torch.cat([p["v"] for p in parts]).cpu(), "view_weights": torch.cat([p["view_weights"] for p in parts]).cpu()}


def retrieval_table(out):
    """Zero-shot retrieval: study against report both ways, and every pair of modalities. Columns query, item, R@1, ..., MeanR, n."""
    z = {"study": out["v"], **out["joint"]}
    pairs = [("report", "study"), ("study", "report"), *((a, b) for a in MODALITIES for b in MODALITIES if a != b)]
    return pd.DataFrame([{"query": a, "item": b, **measures.retrieval(cosine(z[a], z[b]))} for a, b in pairs])


def interval(out, patients):
    """{"R@10_low", "R@10_high"}: 95 % interval of R@10 between study and report, the mean of both ways, from resampled patients."""
    both = cosine(out["v"], out["joint"]["report"])
    found = 50 * (measures.hits(both, 10) + measures.hits(both.T, 10))
    drawn = bootstrap(lambda y, p: p.mean(), found, found, patients)
    return {"R@10_low": drawn.low, "R@10_high": drawn.high}


def cosine(a, b):
    """Cosine of each row of a (N, D) and each of b (M, D), an array (N, M)."""
    return (F.normalize(a, dim=1) @ F.normalize(b, dim=1).T).numpy()


def probe(before, after, truth_before, truth_after):
    """AUC of malignant against not of a logistic regression on frozen study features."""
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=500)).fit(before["v"].numpy(), truth_before)
    return auc(truth_after, model.predict_proba(after["v"].numpy())[:, 1])


def run(profile, studies, name, variant, seed, settings, train_rows, test_rows, report=False, device="cpu"):
    """One training, and what it does on unseen patients: {"history", "retrieval", "scores"}. Done runs are read back. report: also write
    reports, by greedy and by beam search, for BLEU and ROUGE."""
    about = {"profile": getattr(profile, "name", profile), "companion": "rfpmss", "variant": asdict(variant), "settings": asdict(settings),
             "seed": seed, "studies": studies.digest(), "train": np.asarray(train_rows).tolist(), "test": np.asarray(test_rows).tolist(),
             "report": report}
    table, folder = studies.table, place(profile, name, seed)

    def make():
        vocabulary = Vocabulary(table.report[train_rows])
        model, history = rfpmss.train(studies, train_rows, settings, variant, seed, vocabulary, device=device, resume=checkpoint_path(folder, about))
        seen, out = represent(model, studies, train_rows, device), represent(model, studies, test_rows, device)
        malignant = (table.label == "malignant").to_numpy().astype(int)
        scores = {"auc": probe(seen, out, malignant[train_rows], malignant[test_rows]), **interval(out, table.patient[test_rows])}
        if report:
            scores |= written(model, vocabulary, out["v"].to(device), list(table.report[test_rows]))
        return {"history": history, "retrieval": retrieval_table(out), "scores": pd.DataFrame([scores])}, model.state_dict()
    return study.computed_once(folder, about, make)


def place(profile, name, seed):
    """runs/<profile>/companions/rfpmss/<name>/seed_<n>."""
    return config.RUNS / getattr(profile, "name", profile) / "companions" / "rfpmss" / name.replace(" ", "_") / f"seed_{seed}"


def again(profile, studies, name, variant, seed, settings, train_rows, device="cpu"):
    """(model, vocabulary) of a finished run, from its folder. Raises `Problem` where its weights cannot be read."""
    vocabulary, first = Vocabulary(studies.table.report[train_rows]), studies.tokens[VIEWS[0]]
    model = rfpmss.RFPMSS(settings, variant, first.shape[2], len(vocabulary), first.shape[1]).to(device)
    model.load_state_dict(study.tensors(place(profile, name, seed)))
    return model.eval(), vocabulary


def written(model, vocabulary, v, reports, beams=8):
    """BLEU-1, BLEU-4 and ROUGE-L of greedy reports, and of beam search on the first `beams` studies beside greedy on the same."""
    meant = [words(r) for r in reports]
    said = [vocabulary.decode(row) for row in greedy(model.decoder, v)]
    searched = [vocabulary.decode(beam(model.decoder, x)) for x in v[:beams]]
    scores = lambda a, b, end: {f"bleu1{end}": measures.bleu(a, b, 1), f"bleu4{end}": measures.bleu(a, b),
                                f"rouge_l{end}": measures.rouge_l(a, b)}
    return {**scores(said, meant, ""), **scores(said[:beams], meant[:beams], "_greedy_few"), **scores(searched, meant[:beams], "_beam_few")}


# ---- panels ------------------------------------------------------------------------------------------------------

def summary(runs):
    """A row a run of {name: tables}: retrieval both ways (percent), their means, and the scores."""
    rows = []
    for name, tables in runs.items():
        r = tables["retrieval"].set_index(["query", "item"])
        there, back = r.loc[("report", "study")], r.loc[("study", "report")]
        both = {f"{k}_{way}": float(x[k]) for way, x in (("t2i", there), ("i2t", back)) for k in ("R@1", "R@5", "R@10", "MedR", "MeanR")}
        mean = {k: (float(there[k]) + float(back[k])) / 2 for k in ("R@1", "R@5", "R@10", "MedR", "MeanR")}
        rows.append({"name": name, **mean, **both, **tables["scores"].iloc[0].to_dict(), "n": int(there["n"])})
    return pd.DataFrame(rows)


def attention_table(studies, pictures, out, rows, view="magnified", threshold=0.6):
    """Attention of the aggregation token against lesion boxes, a row a study with a lesion: share inside, share of the area, pointing
    hit, IoU of the box of what exceeds `threshold` of the maximum; heat and picture as text. Source: Fig. 4."""
    side = int(out["attention"][view].shape[1] ** 0.5)
    found = []
    for k, row in enumerate(rows):
        boxes = json.loads(studies.table[f"boxes_{view}"][row])
        if not boxes:
            continue
        picture = pictures[view][row]
        mask = np.zeros(picture.shape, bool)
        for x0, y0, x1, y1 in boxes:
            mask[y0:y1, x0:x1] = True
        heat = out["attention"][view][k].reshape(side, side).numpy()
        heat = heat / heat.max()
        large = F.interpolate(torch.tensor(heat)[None, None], picture.shape, mode="bilinear")[0, 0].numpy()
        box = strongest_box(large, threshold)[0]
        overlap = max(iou(box, b) for b in boxes) if box else 0.0
        found.append({"patient": studies.table.patient[row], "lesion_type": studies.table.lesion_type[row], "inside": inside(heat, mask),
                      "area": float(mask.mean()), "hit": pointing_hit(heat, mask), "iou": overlap, "boxes": json.dumps(boxes),
                      "box": json.dumps([int(c) for c in box or ()]), "image": to_uri(np.asarray(picture)), "heat": to_uri(heat)})
    return pd.DataFrame(found, columns=["patient", "lesion_type", "inside", "area", "hit", "iou", "boxes", "box", "image", "heat"])


def spread(table, column, n=6):
    """n rows at evenly spaced ranks of a column, best first: a rule, not a choice by hand."""
    order = table.sort_values(column, ascending=False)
    return order.iloc[np.linspace(0, len(order) - 1, min(n, len(order))).round().astype(int)].reset_index(drop=True)


def fig5(studies, out, rows, seed=42):
    """Fig. 5 a-c: t-SNE of the study features, of the views' mean and of the reports. Columns part, patient, label, x, y."""
    from openTSNE import TSNE
    views = torch.stack([F.normalize(out["joint"][v], dim=1) for v in VIEWS]).mean(0)
    parts = []
    for part, z in (("study", out["v"]), ("views", views), ("report", out["joint"]["report"])):
        z = F.normalize(z, dim=1).numpy()
        xy = np.asarray(TSNE(perplexity=min(20, (len(z) - 1) / 3), initialization="pca", random_state=seed, n_jobs=1).fit(z))
        table = studies.table.iloc[rows]
        parts.append(table[["patient", "label"]].assign(part=part, x=xy[:, 0], y=xy[:, 1]))
    return pd.concat(parts, ignore_index=True)


def anchor_shares(model, out):
    """{modality: (N, K)} soft assignment of each modality's joint feature to the report's anchors, by Multi-SK over these studies."""
    anchors = model.anchors["report_joint"].detach().cpu()
    return {m: multi_sk(rfpmss.similarity(out["joint"][m], anchors), model.settings.chosen, model.settings.damping).numpy() for m in MODALITIES}


def fig5d(shares, labels):
    """Fig. 5 d: mean assignment of malignant studies to each anchor. Columns modality, anchor, share."""
    rows = [(m, k, float(p[labels == "malignant", k].mean())) for m, p in shares.items() for k in range(p.shape[1])]
    return pd.DataFrame(rows, columns=["modality", "anchor", "share"])


def fig7(shares, studies, rows, pictures, view="magnified"):
    """Fig. 7: the anchors that two studies take, for the two most alike and the two least alike of the same site in report space.

    Columns pair, side (0, 1), patient, label, assigned (JSON 0/1 an anchor, the K' largest), image.
    """
    p = shares[view]
    chosen = int(round(p.sum(1)[0]))
    binary = np.zeros(p.shape, int)
    np.put_along_axis(binary, np.argsort(-p, 1)[:, :chosen], 1, 1)
    common = binary @ binary.T + np.tri(len(binary)) * 1e6                   # each pair once, nobody with himself
    alike = np.unravel_index(np.argmax(np.where(common < 1e6, common, -1)), common.shape)
    apart = np.unravel_index(np.argmin(common), common.shape)
    table = [(name, side, studies.table.patient[rows[i]], studies.table.label[rows[i]], json.dumps(binary[i].tolist()),
              to_uri(np.asarray(pictures[view][rows[i]]))) for name, pair in (("alike", alike), ("apart", apart)) for side, i in enumerate(pair)]
    return pd.DataFrame(table, columns=["pair", "side", "patient", "label", "assigned", "image"])


def poisoned(out, who, other):
    """Ranks of study number `who` of `out` among all reports: with its own, and with that of study number `other` in its place."""
    reports = out["joint"]["report"].clone()
    before = measures.ranks(cosine(out["v"], reports))[who]
    reports[who] = reports[other]
    return before, measures.ranks(cosine(out["v"], reports))[who]
