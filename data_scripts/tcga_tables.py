"""Tables that go with TCGA slides, for the companions: genes and diagnoses, survival, PAM50, and the published clinical tables.

    root/slides/, clinical.csv    as `tcga.fetch` leaves them; of NSCLC the folders root/LUAD and root/LUSC hold these and expression.tsv
    root/expression.tsv[.gz]      UCSC Xena's gene expression matrix: a row a gene, a column a sample (TCGA-A8-A06U-01)
    root/copy_number.tsv[.gz]     Xena's GISTIC2 copy number by gene, laid out likewise, for fusion
    root/phenotype.tsv[.gz]       Xena's BRCA_clinicalMatrix: a row a sample, with its PAM50 class and the clinical record, for fusion
    root/features/<encoder>/<slide>.npz    patch features and where they lie, written here, so that a slide is read once
"""
import logging
import zlib
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import pandas as pd
from tqdm import tqdm

from data_scripts import tcga
from xmodal.companions import pictures
from xmodal.companions.pictures import PAM50, Cohort
from xmodal.config import Problem
from xmodal.runtime.files import atomic

log = logging.getLogger(__name__)
FOLDERS = {"BRCA": (".",), "NSCLC": ("LUAD", "LUSC")}      # project -> folders below root; the subtypes of NSCLC are its folders
CLINICAL = {   # column of `pictures.Cohort.clinical` -> of BRCA_clinicalMatrix
    "age": "age_at_initial_pathologic_diagnosis", "er": "breast_carcinoma_estrogen_receptor_status",
    "pr": "breast_carcinoma_progesterone_receptor_status", "her2": "lab_proc_her2_neu_immunohistochemistry_receptor_status",
    "stage": "pathologic_stage", "nodes": "number_of_lymphnodes_positive_by_he"}
MONTH = 30.4375     # days


def _table(path, needed, **how):
    """The CSV or TSV at `path`. Raises `Problem` if it cannot be read or lacks one of the columns `needed`."""
    try:
        table = pd.read_csv(path, **how)
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise Problem(f"{path} cannot be read ({(str(error).splitlines() or [error])[0]}); fetch it again.") from None
    lacking = set(needed) - set(table)
    if lacking:
        raise Problem(f"{path} lacks the columns {', '.join(sorted(lacking))}; is it the right table?")
    return table


def _find(root, name):
    """root/<name>.tsv or .tsv.gz."""
    for path in (root / f"{name}.tsv", root / f"{name}.tsv.gz"):
        if path.is_file():
            return path
    raise Problem(f"There is no {name}.tsv or {name}.tsv.gz in {root}; fetch it from UCSC Xena, as data_scripts/tcga_tables.py says.")


# ---- a patient a row ---------------------------------------------------------------------------------------------

def primary(samples, path):
    """The rows of a table by sample, one a patient: the first primary tumour (sample type 01) by name. path: where they are from.

    Other samples are counted in `.attrs["exclusions"]` as (sample, reason). Raises `Problem` where no primary tumour is left.
    """
    table = samples.sort_index()
    names = table.index.astype(str)
    case, is_primary = names.str[:12], names.str.match(rf"{tcga.CASE}-01")
    again = pd.Series(case).where(is_primary).duplicated().to_numpy() & is_primary
    reason = np.where(again, "its patient has another", np.where(is_primary, "", "it is no primary tumour of TCGA"))
    kept = table[reason == ""].set_axis(case[reason == ""])
    if not len(kept):
        raise Problem(f"{path} has no primary tumour (TCGA-..-....-01); is it a table of TCGA's samples?")
    kept.attrs["exclusions"] = [(s, r) for s, r in zip(names, reason) if r]
    log.info("%d of %d samples are read from %s.", len(kept), len(table), path)
    return kept


def matrix(path):
    """DataFrame (patients x genes) of a Xena matrix of genes by samples, as `primary` chooses them."""
    found = primary(_table(path, (), sep="\t", index_col=0).T, path)
    try:
        return found.astype(float)
    except ValueError as error:
        raise Problem(f"{path} has text where numbers belong ({error}); fetch it again.") from None


def subtypes(clinical):
    """(N,) 0 ductal, 1 lobular, -1 others, by `tcga.clinical`'s diagnoses; "Infiltrating duct and lobular carcinoma" is neither."""
    said = clinical.diagnosis.str.lower()
    return pd.Series(np.select([said.str.startswith("infiltrating duct carcinoma"), said.str.startswith("lobular carcinoma")], [0, 1], -1),
                     clinical.index)


# ---- slides ------------------------------------------------------------------------------------------------------

def slides(root, encoder, cases, mpp=None):
    """{case: `Patches`} of the first slide of a primary tumour of each of `cases`, read once and kept. A slide that cannot be read or has
    no tissue is logged and left out, and the next one of its patient taken. mpp: um per pixel where the file does not say."""
    found = {}
    for slide in tqdm(tcga.slides(root / "slides")[0], "slides", disable=None):
        if slide.kind == "01" and slide.case in cases and slide.case not in found:
            try:
                found[slide.case] = _features(root, slide.path, encoder, mpp)
            except Problem as problem:
                log.warning("%s is left out. %s", slide.path.name, problem)
    return found


def _features(root, source, encoder, mpp):
    path = root / "features" / encoder.default_cfg["architecture"] / f"{source.stem}.npz"
    if not path.is_file():
        found = pictures.of_slide(source, encoder, mpp)
        with atomic(path) as partial:
            np.savez(partial, allow_pickle=False, **found._asdict())
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return pictures.Patches(arrays["features"], arrays["xy"], float(arrays["side"]))
    except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
        raise Problem(f"{path} is damaged ({error}); delete it, and it is made anew.") from None


def _cohort(cases, found, expression=None, copies=None, clinical=None, **outcomes):
    """`pictures.Cohort` of `cases` with the slides {case: Patches}. A case that is not there has no patches; a table that is None is empty."""
    width = next((p.features.shape[1] for p in found.values()), 0)
    nothing = pictures.Patches(np.empty((0, width), np.float32), np.empty((0, 2)), 1.0)
    bags, xy, tumour = (np.empty(len(cases), object) for _ in range(3))
    for i, case in enumerate(cases):
        slide = found.get(case, nothing)
        bags[i], xy[i], tumour[i] = slide.features, slide.xy / slide.side, np.full(len(slide.xy), np.nan)
    tables = [pd.DataFrame(index=range(len(cases))) if t is None else t.reindex(cases).reset_index(drop=True)
              for t in (expression, copies, clinical)]
    blank = {"subtype": np.full(len(cases), -1), "pam50": np.full(len(cases), -1), "time": np.full(len(cases), np.nan),
             "event": np.zeros(len(cases), int)}
    sites = np.array([case[5:7] for case in cases])
    return Cohort(np.array(cases), sites, bags, xy, tumour, *tables, {}, **blank | {name: np.array(v) for name, v in outcomes.items()})


# ---- cohorts in the generator's shape ----------------------------------------------------------------------------

def cohort(root, project, encoder, mpp=None):
    """`pictures.Cohort` of the patients who have slide, expression, subtype and survival, for MIRROR. project: "BRCA", ductal or lobular by
    diagnosis, or "NSCLC", LUAD (0) and LUSC (1) from their folders, with the genes that both matrices have.

    Patients with a part missing are logged and counted. All patches are held in memory (NSCLC: about 40 GB). Raises `Problem` where a
    folder has no complete patient.
    """
    if project not in FOLDERS:
        raise Problem(f"There are no subtypes of {project!r}; choose one of {', '.join(FOLDERS)}.")
    rows, tables, found = [], [], {}
    for k, name in enumerate(FOLDERS[project]):
        folder = Path(root) / name
        clinical, genes = tcga.clinical(folder), matrix(_find(folder, "expression"))
        known = clinical.assign(subtype=k if project == "NSCLC" else subtypes(clinical)).query("days > 0 and subtype >= 0")
        here = slides(folder, encoder, set(known.index) & set(genes.index), mpp)
        if not here:
            raise Problem(f"No patient in {folder} has a slide, expression, a subtype of {project} and survival.")
        log.warning("%d of %d patients of %s are complete.", len(here), len(clinical), folder)
        rows, tables, found = [*rows, known.loc[sorted(here)]], [*tables, genes.loc[sorted(here)]], found | here
    known, genes = pd.concat(rows), pd.concat(tables, join="inner")
    log.info("%d genes are in every matrix, of at most %d.", genes.shape[1], max(t.shape[1] for t in tables))
    return _cohort(known.index.tolist(), found, genes, subtype=known.subtype, time=known.days / MONTH, event=known.dead.astype(int))


def pam50(root, encoder, mpp=None):
    """`pictures.Cohort` of TCGA-BRCA's patients whose PAM50 class is known, for fusion: copy number, clinical record and slide of those who
    have them. copy_number.tsv and slides/ may be missing; survival, subtype and expression are not read."""
    root = Path(root)
    path = _find(root, "phenotype")
    told = _table(path, ("sampleID", "PAM50Call_RNAseq", *CLINICAL.values()), sep="\t", low_memory=False)
    said = primary(told.set_index("sampleID"), path)
    known = said[said.PAM50Call_RNAseq.isin(PAM50)]
    if not len(known):
        raise Problem(f"{path} gives nobody a PAM50 class ({', '.join(PAM50)}); fetch BRCA_clinicalMatrix from UCSC Xena again.")
    copies = matrix(_find(root, "copy_number")) if any(root.glob("copy_number.tsv*")) else None
    found = slides(root, encoder, set(known.index), mpp) if (root / "slides").is_dir() else {}
    log.warning("Of %d patients with a PAM50 class %d have copy number and %d a slide.", len(known),
                0 if copies is None else known.index.isin(copies.index).sum(), len(found))
    return _cohort(known.index.tolist(), found, copies=copies, clinical=known[list(CLINICAL.values())].set_axis(list(CLINICAL), axis=1),
                   pam50=known.PAM50Call_RNAseq.map(PAM50.index))


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
