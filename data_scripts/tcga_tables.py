"""Tables that go with TCGA slides, for the companions: genes and diagnoses, survival, PAM50, and published
clinical tables.

    root/slides/, clinical.csv    as `tcga.fetch` leaves them
    root/LUAD/, root/LUSC/        of NSCLC: each holds slides/, clinical.csv and expression.tsv
    root/expression.tsv[.gz]      UCSC Xena's gene expression matrix: one row for each gene, one column for
                                  each sample (TCGA-A8-A06U-01)
    root/copy_number.tsv[.gz]     Xena's GISTIC2 copy number by gene, laid out likewise, for fusion
    root/phenotype.tsv[.gz]       Xena's BRCA_clinicalMatrix: one row for each sample, with its PAM50 class
                                  and the clinical record, for fusion
    root/features/<encoder>/<slide>.npz    patch features and where they lie; written here, so that a slide is
                                           read once
"""
import dataclasses
import logging
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from tqdm import tqdm

from data_scripts import tcga
from xmodal.companions import pictures
from xmodal.companions.pictures import PAM50, Cohort
from xmodal.config import Problem
from xmodal.runtime.bounds import check_matrix
from xmodal.runtime.files import atomic

log = logging.getLogger(__name__)
# Project -> folders below root. Those of NSCLC are its subtypes.
FOLDERS = {"BRCA": (".",), "NSCLC": ("LUAD", "LUSC")}
CLINICAL = {   # column of `pictures.Cohort.clinical` -> column of BRCA_clinicalMatrix
    "age": "age_at_initial_pathologic_diagnosis",
    "er": "breast_carcinoma_estrogen_receptor_status",
    "pr": "breast_carcinoma_progesterone_receptor_status",
    "her2": "lab_proc_her2_neu_immunohistochemistry_receptor_status",
    "stage": "pathologic_stage",
    "nodes": "number_of_lymphnodes_positive_by_he"}
MONTH = 30.4375     # days


def _table(path, needed, **how):
    """The CSV or TSV at `path`.

    Raises `Problem` if it cannot be read or lacks one of the columns `needed`.
    """
    try:
        check_matrix(path)
        table = pd.read_csv(path, **how)
    except Problem:
        raise
    except (OSError, EOFError, ValueError, zlib.error) as error:
        lines = str(error).splitlines() or [error]
        raise Problem(f"{path} cannot be read ({lines[0]}); fetch it again.") from None
    lacking = set(needed) - set(table)
    if lacking:
        raise Problem(f"{path} lacks the columns {', '.join(sorted(lacking))}; is it the right table?")
    return table


def _find(root, name):
    """root/<name>.tsv or .tsv.gz."""
    for path in (root / f"{name}.tsv", root / f"{name}.tsv.gz"):
        if path.is_file():
            return path
    raise Problem(f"There is no {name}.tsv or {name}.tsv.gz in {root}; "
                  "fetch it from UCSC Xena, as data_scripts/tcga_tables.py says.")


# ---- one row for each patient ------------------------------------------------------------------------------

def primary(samples, path):
    """The rows of a table by sample, one for each patient: the first primary tumour (sample type 01) by name.

    path: where the table is from. Other samples are left out and counted in the log. Raises `Problem` where
    no primary tumour is left.
    """
    table = samples.sort_index()
    names = table.index.astype(str)
    case = names.str[:12]
    is_primary = names.str.match(rf"{tcga.CASE}-01")
    is_further = pd.Series(case).where(is_primary).duplicated().to_numpy()
    first = is_primary & ~is_further
    patients = table[first].set_axis(case[first])
    if not len(patients):
        raise Problem(f"{path} has no primary tumour (TCGA-..-....-01); is it a table of TCGA's samples?")
    log.info("%d of %d samples are read from %s.", len(patients), len(table), path)
    return patients


def matrix(path):
    """DataFrame (patients x genes) of a Xena matrix of genes by samples, as `primary` chooses them."""
    patients = primary(_table(path, (), sep="\t", index_col=0).T, path)
    try:
        return patients.astype(float)
    except ValueError as error:
        raise Problem(f"{path} has text where numbers belong ({error}); fetch it again.") from None


def subtypes(clinical):
    """(N,) 0 ductal, 1 lobular, -1 others, by the diagnoses of `tcga.clinical`.

    "Infiltrating duct and lobular carcinoma" is neither.
    """
    diagnosis = clinical.diagnosis.str.lower()
    ductal = diagnosis.str.startswith("infiltrating duct carcinoma")
    lobular = diagnosis.str.startswith("lobular carcinoma")
    return pd.Series(np.select([ductal, lobular], [0, 1], -1), clinical.index)


# ---- slides ------------------------------------------------------------------------------------------------

def slides(root, encoder, cases, mpp=None):
    """{case: `Slide`} of the first slide of a primary tumour of each of `cases`, read once and then kept in
    files.

    A slide that cannot be read or has no tissue is logged and left out, and the next one of its patient
    taken. mpp: micrometres per pixel where the file does not say.
    """
    patches = {}
    for slide in tqdm(tcga.slides(root / "slides")[0], "slides", disable=None):
        if slide.kind == "01" and slide.case in cases and slide.case not in patches:
            try:
                patches[slide.case] = _features(root, slide.path, encoder, mpp)
            except Problem as problem:
                log.warning("%s is left out. %s", slide.path.name, problem)
    return patches


class Slide(NamedTuple):
    """Where the patches of a slide lie; their features stay in the file `path`."""
    path: Path
    xy: np.ndarray     # (N, 2) in sides of a patch
    width: int         # of the features


def _features(root, source, encoder, mpp):
    """`Slide` of one slide, with the file that holds its patches, which is written first if need be."""
    path = root / "features" / encoder.default_cfg["architecture"] / f"{source.stem}.npz"
    if not path.is_file():
        patches = pictures.of_slide(source, encoder, mpp)
        with atomic(path) as partial:
            np.savez(partial, allow_pickle=False, **patches._asdict())
    patches = pictures.read_patches(path)
    return Slide(path, patches.xy / patches.side, patches.features.shape[1])


def _cohort(cases, patches, expression=None, copies=None, clinical=None, **outcomes):
    """`pictures.Cohort` of `cases` with the slides {case: Slide}.

    A case without a slide has no patches; a table that is None is empty, and so is an outcome that is not
    given.
    """
    width = next((slide.width for slide in patches.values()), 0)
    nothing = Slide(None, np.empty((0, 2)), width)
    in_order = [patches.get(case, nothing) for case in cases]
    xy, tumour = (np.empty(len(cases), object) for _ in range(2))
    for i, slide in enumerate(in_order):
        xy[i] = slide.xy
        tumour[i] = np.full(len(slide.xy), np.nan)
    bags = pictures.SlideFiles([slide.path for slide in in_order], width)
    known = {
        "subtype": np.full(len(cases), -1), "pam50": np.full(len(cases), -1),
        "time": np.full(len(cases), np.nan), "event": np.zeros(len(cases), int)}
    known |= {name: np.array(values) for name, values in outcomes.items()}
    site = np.array([case[5:7] for case in cases])
    return Cohort(
        patient=np.array(cases), site=site, bags=bags, xy=xy, tumour=tumour,
        expression=_by_case(expression, cases), copies=_by_case(copies, cases),
        clinical=_by_case(clinical, cases), factors={}, **known)


def _by_case(table, cases):
    """The rows of a table by case, NaN where it lacks one; no columns where the table is None."""
    if table is None:
        return pd.DataFrame(index=range(len(cases)))
    return table.reindex(cases).reset_index(drop=True)


# ---- cohorts in the generator's shape ----------------------------------------------------------------------

def cohort(root, project, encoder, mpp=None):
    """`pictures.Cohort` of the patients who have slide, expression, subtype and survival, for MIRROR.

    project: "BRCA", ductal or lobular by diagnosis, or "NSCLC", LUAD (0) and LUSC (1) from their folders,
    with the genes that both matrices have. Patients with a part missing are logged and counted. Patches stay
    on disk (`pictures.SlideFiles`). Raises `Problem` where a folder has no complete patient.
    """
    if project not in FOLDERS:
        raise Problem(f"There are no subtypes of {project!r}; choose one of {', '.join(FOLDERS)}.")
    people = []
    matrices = []
    patches = {}
    for k, name in enumerate(FOLDERS[project]):
        folder = Path(root) / name
        clinical = tcga.clinical(folder)
        genes = matrix(_find(folder, "expression"))
        subtype = k if project == "NSCLC" else subtypes(clinical)
        known = clinical.assign(subtype=subtype).query("days > 0 and subtype >= 0")
        own = slides(folder, encoder, set(known.index) & set(genes.index), mpp)
        if not own:
            raise Problem(f"No patient in {folder} has a slide, expression, a subtype of {project} "
                          "and survival.")
        log.warning("%d of %d patients of %s are complete.", len(own), len(clinical), folder)
        people.append(known.loc[sorted(own)])
        matrices.append(genes.loc[sorted(own)])
        patches |= own
    known = pd.concat(people)
    genes = pd.concat(matrices, join="inner")
    most = max(table.shape[1] for table in matrices)
    log.info("%d genes are in every matrix, of at most %d.", genes.shape[1], most)
    return _cohort(known.index.tolist(), patches, genes, subtype=known.subtype, time=known.days / MONTH,
                   event=known.dead.astype(int))


def pam50(root, encoder, mpp=None):
    """`pictures.Cohort` of TCGA-BRCA's patients whose PAM50 class is known, for fusion.

    It has copy number, clinical record and slide of those who have them. copy_number.tsv and slides/ may be
    missing; survival, subtype and expression are not read.
    """
    root = Path(root)
    path = _find(root, "phenotype")
    needed = ("sampleID", "PAM50Call_RNAseq", *CLINICAL.values())
    phenotype = _table(path, needed, sep="\t", low_memory=False)
    patients = primary(phenotype.set_index("sampleID"), path)
    known = patients[patients.PAM50Call_RNAseq.isin(PAM50)]
    if not len(known):
        raise Problem(f"{path} gives nobody a PAM50 class ({', '.join(PAM50)}); "
                      "fetch BRCA_clinicalMatrix from UCSC Xena again.")
    copies = None
    with_copies = 0
    if any(root.glob("copy_number.tsv*")):
        copies = matrix(_find(root, "copy_number"))
        with_copies = known.index.isin(copies.index).sum()
    patches = {}
    if (root / "slides").is_dir():
        patches = slides(root, encoder, set(known.index), mpp)
    log.warning("Of %d patients with a PAM50 class %d have copy number and %d a slide.",
                len(known), with_copies, len(patches))
    clinical = known[list(CLINICAL.values())].set_axis(list(CLINICAL), axis=1)
    return _cohort(known.index.tolist(), patches, copies=copies, clinical=clinical,
                   pam50=known.PAM50Call_RNAseq.map(PAM50.index))


# ---- published tables of TCGA-BRCA -------------------------------------------------------------------------

def regions(folder):
    """The FLamby table of TCGA-BRCA (brca.csv, centers.csv), by patient.

    Its columns are 39 clinical ones of 0 and 1 and age, `time` in months, `event`, and the `region` of the
    hospital; the file's own names are E for the event and T for days. Patients of hospitals that centers.csv
    does not list, and those without time, are left out and counted in the log.
    """
    folder = Path(folder)
    table = _table(folder / "brca.csv", ("pid", "E", "T"), index_col=False).set_index("pid")
    centers = _table(folder / "centers.csv", ("TSS Code", "Region"), keep_default_na=False)
    region_of = centers.drop_duplicates("TSS Code").set_index("TSS Code").Region
    patients = table.drop(columns=["E", "T"]).assign(
        time=table["T"] / MONTH, event=table["E"].astype(int), region=table.index.str[5:7].map(region_of))
    usable = patients[patients.region.notna() & (patients.time > 0)]
    log.warning("%d of %d patients in %s are left out: their hospital is not listed, or they have no time.",
                len(patients) - len(usable), len(patients), folder)
    return usable


def mirna(folder):
    """`pictures.Cohort` of 263 patients of TCGA-BRCA whose miRNA and PAM50 class MOGONET publishes.

    Read are its test patients (mogonet_3_te.csv, mogonet_labels_te.csv, names in mogonet_3_featname.csv), in
    `more` as "miRNA", (263, 503) scaled to 0 to 1. They have no names there and are called by their row, so
    that nothing else can be joined to them. Raises `Problem` where the files do not fit each other.
    """
    folder = Path(folder)
    values = _table(folder / "mogonet_3_te.csv", (), header=None)
    names = _table(folder / "mogonet_3_featname.csv", (), header=None)[0]
    classes = _table(folder / "mogonet_labels_te.csv", (), header=None)[0]
    if values.shape != (len(classes), len(names)) or not classes.isin(range(len(PAM50))).all():
        raise Problem(f"In {folder} a table of {values.shape}, {len(names)} names and {len(classes)} classes "
                      "(0 to 4) do not fit; fetch MOGONET's folder BRCA again.")
    cases = [f"MOGONET-{row:03d}" for row in range(len(classes))]
    cohort = _cohort(cases, {}, pam50=classes.astype(int))
    site = np.full(len(cases), "unknown")
    return dataclasses.replace(cohort, site=site, more={"miRNA": values.set_axis(names, axis=1)})


def slide_survival(path):
    """Patch-GCN's table of slides: case_id, slide_id, `time` in months and `event`.

    Its column `censorship` is 1 for patients who were censored, the opposite of an event. `survival_months`
    holds days, as those of the same patients in FLamby's table show.
    """
    table = _table(path, ("case_id", "slide_id", "survival_months", "censorship"))
    event = 1 - table.censorship.astype(int)
    return table[["case_id", "slide_id"]].assign(time=table.survival_months / MONTH, event=event)
