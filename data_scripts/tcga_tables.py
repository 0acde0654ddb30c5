"""Tables that go with TCGA slides, for the companions: expression from UCSC Xena, diagnoses, survival, and the published clinical tables.

    root/slides/, clinical.csv    as `tcga.fetch` leaves them (BRCA; LUAD and LUSC of NSCLC lie in folders of their own)
    root/expression.tsv[.gz]      Xena's gene expression matrix: a row a gene, a column a sample (TCGA-A8-A06U-01)
    root/features/<slide>.npz     patch features, written here, so that a slide is read once
"""
import logging
from pathlib import Path

import numpy as np
import pandas as pd

from data_scripts import tcga
from xmodal.companions import patches
from xmodal.companions.paired import Cohort
from xmodal.config import Problem
from xmodal.files import atomic

log = logging.getLogger(__name__)
SUBTYPES = {   # project -> (words of a diagnosis, in lower case) of subtype 0 and 1
    "BRCA": ("infiltrating duct carcinoma", "lobular carcinoma"),
    "NSCLC": ("adenocarcinoma", "squamous cell carcinoma"),
}
MONTH = 30.4375     # days


def _table(path, needed, **how):
    """The CSV or TSV at `path`. Raises `Problem` if it cannot be read or lacks one of the columns `needed`."""
    try:
        table = pd.read_csv(path, **how)
    except (OSError, ValueError) as error:
        raise Problem(f"{path} cannot be read ({str(error).splitlines()[0]}); fetch it again.") from None
    lacking = set(needed) - set(table)
    if lacking:
        raise Problem(f"{path} lacks the columns {', '.join(sorted(lacking))}; is it the right table?")
    return table


def expression(path):
    """DataFrame (patients x genes) of a Xena matrix: of each patient the first primary tumour (sample type 01) by name.

    Other samples are counted in `.attrs["exclusions"]` as (sample, reason). Raises `Problem` where no primary tumour is left.
    """
    matrix = _table(path, (), sep="\t", index_col=0).T.sort_index()
    case, primary = matrix.index.str[:12], matrix.index.str.match(r"TCGA-\w{2}-\w{4}-01")
    again = pd.Series(case).where(primary).duplicated().to_numpy() & primary
    reason = np.where(again, "its patient has another", np.where(primary, "", "it is no primary tumour of TCGA"))
    kept = matrix[reason == ""].set_axis(case[reason == ""])
    if not len(kept):
        raise Problem(f"{path} has no column of a primary tumour (TCGA-..-....-01); is it a matrix of genes by samples?")
    kept.attrs["exclusions"] = [(s, r) for s, r in zip(matrix.index, reason) if r]
    log.info("%d of %d samples are read from %s.", len(kept), len(matrix), path)
    return kept


def subtypes(clinical, project):
    """(N,) 0 or 1 of `tcga.clinical`'s diagnoses, -1 for others; "NSCLC" by squamous cell or adenocarcinoma, "BRCA" ductal or lobular."""
    if project not in SUBTYPES:
        raise Problem(f"There are no subtypes of {project!r}; choose one of {', '.join(SUBTYPES)}.")
    said = clinical.diagnosis.str.lower()
    first, second = (said.str.contains(words, regex=False) for words in SUBTYPES[project])
    return pd.Series(np.select([first & ~second, second & ~first], [0, 1], -1), clinical.index)


def cohort(root, project, encoder, **how):
    """`paired.Cohort` of the patients who have slide, expression, subtype and survival: the real data in the shape of the generator's.

    Its bags are arrays of different lengths, and what TCGA does not know (factors, copy number, PAM50) is empty. Patients with a
    part missing are logged and counted. how: for `patches.of_slide`. Raises `Problem` where no patient is complete.
    """
    root = Path(root)
    clinical, matrix, slides = tcga.clinical(root), expression(_one(root)), tcga.index(root / "slides")
    known = clinical.assign(subtype=subtypes(clinical, project)).query("days > 0 and subtype >= 0")
    complete = slides[slides.study.isin(known.index) & slides.study.isin(matrix.index)]
    first = complete.drop_duplicates("study").set_index("study").sort_index()
    if not len(first):
        raise Problem(f"No patient in {root} has a slide, expression, a subtype of {project} and survival.")
    log.warning("%d of %d patients of %s are complete.", len(first), slides.study.nunique(), root)
    bags, rows = [_features(root, path, encoder, **how) for path in first.source], known.loc[first.index]
    collection, none = np.empty(len(bags), object), pd.DataFrame(index=range(len(bags)))
    collection[:] = bags
    return Cohort(first.index.to_numpy(str), first.index.str[5:7].to_numpy(str), collection, np.empty(len(bags), object),
                  matrix.loc[first.index].reset_index(drop=True), none, none, {}, rows.subtype.to_numpy(), np.full(len(bags), -1),
                  rows.days.to_numpy(float) / MONTH, rows.dead.to_numpy(int))


def _one(root):
    for name in ("expression.tsv", "expression.tsv.gz"):
        if (root / name).is_file():
            return root / name
    raise Problem(f"There is no expression.tsv or expression.tsv.gz in {root}; fetch the cohort's gene expression matrix from UCSC Xena.")


def _features(root, source, encoder, **how):
    path = root / "features" / f"{Path(source).stem}.npz"
    if not path.is_file():
        found = patches.of_slide(source, encoder, **how)
        with atomic(path) as partial:
            np.savez(partial, allow_pickle=False, features=found.features, xy=found.xy)
    with np.load(path, allow_pickle=False) as arrays:
        return arrays["features"]


# ---- published tables of TCGA-BRCA -------------------------------------------------------------------------------

def regions(folder):
    """The FLamby table of TCGA-BRCA (brca.csv, centers.csv): 39 clinical columns of 0 and 1 and age, `time` in months, `event`, and the
    `region` of the hospital, by patient. The table's own names are E for the event and T for days. Patients of hospitals that
    centers.csv does not list, and those without time, are left out and counted in `.attrs["exclusions"]`."""
    table = _table(Path(folder) / "brca.csv", ("pid", "E", "T"), index_col=False).set_index("pid")
    places = _table(Path(folder) / "centers.csv", ("TSS Code", "Region"), keep_default_na=False).drop_duplicates("TSS Code")
    region = table.index.str[5:7].map(places.set_index("TSS Code").Region)
    found = table.drop(columns=["E", "T"]).assign(time=table["T"] / MONTH, event=table["E"].astype(int), region=region)
    reason = np.where(found.region.isna(), "its hospital is not listed", np.where(found.time > 0, "", "it has no time"))
    kept = found[reason == ""]
    kept.attrs["exclusions"] = [(p, r) for p, r in zip(found.index, reason) if r]
    return kept


def slide_survival(path):
    """Patch-GCN's table of slides: case_id, slide_id, `time` in months and `event`. Its column `censorship` is 1 for patients who were
    censored, the opposite of an event, and `survival_months` holds days: those of the same patients in FLamby's table."""
    table = _table(path, ("case_id", "slide_id", "survival_months", "censorship"))
    return table[["case_id", "slide_id"]].assign(time=table.survival_months / MONTH, event=1 - table.censorship.astype(int))
