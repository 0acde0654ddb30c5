"""TCGA-BRCA: diagnostic slides of invasive breast carcinoma, open at the Genomic Data Commons.

The slides of lung cancer (TCGA-LUAD, TCGA-LUSC) are read in the same way, for MIRROR.

    root/slides/TCGA-A8-A06U-01Z-00-DX1.<UUID>.svs, at any depth
    root/clinical.csv    case, days, dead, diagnosis, stage, as `fetch` leaves it

A name tells the patient (TCGA-A8-A06U), the site that sent it (A8), the kind of sample (01 primary, 06
metastasis, 11 normal tissue) and of section (DX in paraffin; TS, BS, MS frozen).
"""
import logging
import re
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import pandera.pandas as pa

from data_scripts import tables
from data_scripts.download import File, ask, obtain
from data_scripts.indexing import Index, files_below, met, rows_of
from xmodal.cohort import INDEX, index_row, label_set
from xmodal.config import HISTOPATHOLOGY, Problem
from xmodal.runtime.files import atomic

log = logging.getLogger(__name__)
CASE = r"TCGA-\w{2}-\w{4}"
NAME = re.compile(r"^(TCGA-(\w{2})-\w{4})-(\d{2})[A-Z]-\d{2}-([A-Z]{2})\w*(?:\.[0-9A-F-]{36})?\.svs$",
                  re.IGNORECASE)
KINDS = {"01": ("invasive",), "06": ("invasive",), "11": ("normal", "benign")}
# Death as GDC, spreadsheets and people write it.
EVENT = dict.fromkeys(("true", "1", "1.0", "1,0", "yes", "dead", "deceased"), True)
EVENT |= dict.fromkeys(("false", "0", "0.0", "0,0", "no", "alive", "living"), False)
# The domain is not one of the four that are trained and tested on.
ROWS = INDEX.update_column("domain", checks=pa.Check.equal_to("tcga_brca"))


class Slide(NamedTuple):
    """A slide in paraffin."""
    path: Path
    case: str     # TCGA-A8-A06U
    kind: str     # of the sample, 01


def slides(root):
    """([Slide] in paraffin under `root`, by path; what is left out as (path, reason); its reasons counted).

    Frozen sections, other samples, empty files, further copies and other names are left out and logged.
    Raises `Problem` if no slide is left.
    """
    chosen = []
    left_out = []
    traps = Counter()
    stems = set()
    for path in files_below(root, ".svs"):
        match = NAME.match(path.name)
        trap, reason = _fault(path, match, stems)
        if trap:
            traps[trap] += 1
            left_out.append((str(path), f"{path} is left out: {reason}."))
            log.warning("%s", left_out[-1][1])
            continue
        stems.add(path.stem.lower())
        chosen.append(Slide(path, match[1].upper(), match[3]))
    if not chosen:
        raise Problem(f"There is no diagnostic slide of TCGA under {root} ({len(left_out)} left out); "
                      "fetch them with data_scripts.tcga.fetch.")
    return chosen, left_out, met(traps)


def _fault(path, match, stems):
    """(trap, reason) why a slide is left out, or ("", ""). stems: the names of slides that came before."""
    if not match:
        return "odd_name", "its name is not one of TCGA"
    if match[4].upper() != "DX":
        return "frozen_section", "it is a frozen section"
    if match[3] not in KINDS:
        return "other_sample", f"its sample is of kind {match[3]}"
    if not path.stat().st_size:
        return "empty_file", "it is empty"
    if path.stem.lower() in stems:
        return "second_copy", "it is there twice"
    return "", ""


def index(root):
    """One row of `cohort.INDEX` for each slide in paraffin under `root`; see `read`."""
    return rows_of(read(root))


def read(root):
    """`Index` of the slides in paraffin under `root`; the study is the case, as in `clinical`.

    The domain is "tcga_brca", which is none of the four of the main job: `preprocess.build` refuses these
    rows. The companions use them, whose `tcga_tables` join slides with `clinical` by case. The project is
    about invasive carcinoma, so that tumour samples are invasive; normal tissue beside a tumour is normal or
    benign. Exclusions and traps are those of `slides`. Raises `Problem` if no slide is left.
    """
    chosen, left_out, traps = slides(root)
    rows = []
    for path, case, kind in chosen:
        allowed = label_set(*KINDS[kind])
        truth = 3 if allowed == label_set("invasive") else -1
        rows.append(index_row(
            sample=f"tcga_brca/{path.stem}", patient=f"tcga_brca/{case}", study=case, domain="tcga_brca",
            modality=HISTOPATHOLOGY, allowed=allowed, truth=truth, grade=truth, source=str(path.absolute())))
    return Index(ROWS.validate(pd.DataFrame(rows)), left_out, traps)


def clinical(root):
    """The patients by case: days to death or last contact, dead (booleans), diagnosis and stage as GDC gives
    them.

    Rows that cannot be used are left out and logged. Raises `Problem` if `fetch` has not written
    clinical.csv, or if it lacks a column.
    """
    path = Path(root) / "clinical.csv"
    if not path.is_file():
        raise Problem(f"There is no {path}; fetch it with data_scripts.tcga.fetch.")
    table = tables.read(path, {"case", "days", "dead", "diagnosis", "stage"})
    ambiguous = table.days.str.fullmatch(r"\d{1,3},\d{3}")  # a decimal comma, or thousands
    decimal_point = table.days.str.replace(",", ".")
    days = pd.to_numeric(decimal_point.where((table.days != "") & ~ambiguous), errors="coerce")
    dead = table.dead.str.lower().map(EVENT)
    tables.mark(table, "case", table.case.str.fullmatch(CASE))
    tables.mark_contradictions(table, "case", ["days", "dead", "diagnosis", "stage"])
    table.loc[table.fault.eq("") & table.case.duplicated(), "fault"] = "lists a case again"
    tables.mark(table, "dead", dead.notna())
    tables.mark(table, "days", table.days.eq("") | days.between(0, 1e5))
    for line in table[table.fault != ""].itertuples():
        log.warning("%s Left out.", tables.reason(path, line.row, line.fault))
    patients = table.assign(days=days.astype(float), dead=dead.eq(True))[table.fault == ""]
    return patients.set_index("case").drop(columns=["row", "fault"])


# ---- fetch -------------------------------------------------------------------------------------------------

TERMS = "open access by the GDC data use policy (no re-identification); cite the Cancer Genome Atlas, doi {}."
PAPERS = {"TCGA-BRCA": "10.1038/nature11412", "TCGA-LUAD": "10.1038/nature13385",
          "TCGA-LUSC": "10.1038/nature11404"}
GDC = "https://api.gdc.cancer.gov"
PAGE = 1000
CASE_FIELDS = (
    "submitter_id,demographic.vital_status,demographic.days_to_death,diagnoses.primary_diagnosis,"
    "diagnoses.ajcc_pathologic_stage,diagnoses.days_to_last_follow_up,follow_ups.days_to_follow_up")


def fetch(root, limit=None, dry_run=False, project="TCGA-BRCA"):
    """`limit` diagnostic slides (all of BRCA: about 1.05 TB) into slides/, and clinical.csv; returns the plan
    as a table.

    They come from the Genomic Data Commons, with its md5 sums. With `dry_run` nothing is fetched. project:
    one of PAPERS. Raises `Problem` for another, and if GDC does not answer, the disk is too small, or files
    did not come.
    """
    if project not in PAPERS:
        raise Problem(f"There is no project {project!r} here; choose one of {', '.join(PAPERS)}.")
    wanted = {"cases.project.project_id": project, "data_format": "SVS",
              "experimental_strategy": "Diagnostic Slide", "access": "open"}
    hits = _hits("files", wanted, "file_name", "file_id,file_name,file_size,md5sum", _file)
    if not dry_run:
        cases = _hits("cases", {"project.project_id": project}, "submitter_id", CASE_FIELDS, _case)
        with atomic(Path(root) / "clinical.csv") as partial:
            pd.DataFrame(cases).to_csv(partial, index=False)
    return obtain(hits[:limit], root, TERMS.format(PAPERS[project]), dry_run)


def _hits(endpoint, wanted, order, fields, make):
    """What `make` gives for each hit of a query at an endpoint of GDC, page by page."""
    def one_page(answer):
        data = answer.json()["data"]
        return [make(hit) for hit in data["hits"]], int(data["pagination"]["total"])

    terms = [{"op": "in", "content": {"field": field, "value": [value]}} for field, value in wanted.items()]
    body = {"filters": {"op": "and", "content": terms}, "fields": fields, "format": "JSON",
            "sort": f"{order}:asc", "size": PAGE}
    hits = []
    page = None
    total = 1
    while len(hits) < total:
        before = page
        page, total = ask(f"{GDC}/{endpoint}", one_page, {**body, "from": len(hits)})
        if not page and total or page == before:
            raise Problem(f"GDC lists {len(hits)} of {total} {endpoint}; try again later.")
        hits += page
    if len(hits) != total:
        raise Problem(f"GDC lists {len(hits)} {endpoint} and counts {total}; try again later.")
    return hits


def _file(hit):
    """The `File` of a slide that GDC lists."""
    return File(f"{GDC}/data/{hit['file_id']}", f"slides/{hit['file_name']}", int(hit["file_size"]),
                f"md5:{hit['md5sum']}")


def _case(hit):
    """A row of clinical.csv. The first diagnosis is the primary one."""
    person = hit.get("demographic") or {}
    diagnoses = hit.get("diagnoses") or [{}]
    dead = person.get("vital_status") == "Dead"
    days = person.get("days_to_death") if dead else _last_contact(hit)
    return {"case": hit["submitter_id"], "days": days, "dead": dead,
            "diagnosis": diagnoses[0].get("primary_diagnosis") or "",
            "stage": diagnoses[0].get("ajcc_pathologic_stage") or ""}


def _last_contact(hit):
    """Days to the latest contact with a patient that any record tells, None if none does."""
    contacts = [diagnosis.get("days_to_last_follow_up") for diagnosis in hit.get("diagnoses") or ()]
    contacts += [contact.get("days_to_follow_up") for contact in hit.get("follow_ups") or ()]
    return max((days for days in contacts if days is not None), default=None)
