"""TCGA-BRCA: diagnostic slides of invasive breast carcinoma, open at the Genomic Data Commons.

    root/slides/TCGA-A8-A06U-01Z-00-DX1.<UUID>.svs and clinical.csv (case, days, dead, diagnosis, stage), as `fetch` leaves
    them; the slides may lie at any depth.
A name tells the patient (TCGA-A8-A06U), the site that sent it (A8), the kind of sample (01 primary, 06 metastasis, 11
normal tissue) and of section (DX in paraffin; TS, BS, MS frozen).
"""
import logging
import re
from collections import Counter
from pathlib import Path

import pandas as pd
import pandera.pandas as pa

from data_scripts import tables
from data_scripts.download import File, ask, obtain
from xmodal.cohort import INDEX, label_set
from xmodal.config import HISTOPATHOLOGY, Problem
from xmodal.files import atomic

log = logging.getLogger(__name__)
CASE = r"TCGA-\w{2}-\w{4}"
NAME = re.compile(r"^(TCGA-(\w{2})-\w{4})-(\d{2})[A-Z]-\d{2}-([A-Z]{2})\w*(?:\.[0-9A-F-]{36})?\.svs$", re.IGNORECASE)
KINDS = {"01": ("invasive",), "06": ("invasive",), "11": ("normal", "benign")}
ROWS = INDEX.update_column("domain", checks=pa.Check.equal_to("tcga_brca"))   # not one of the four that are trained and tested on


def index(root):
    """A row of `cohort.INDEX` for each slide in paraffin under `root`; the study is the case, as in `clinical`.

    The domain is "tcga_brca", which is none of the four of the main job: `preprocess.build` refuses these rows, and what uses
    them are the companions, whose `tcga_tables.cohort` joins them with `clinical` by their `study`. The project is about
    invasive carcinoma, so that tumour samples are invasive; normal tissue beside a tumour is normal or benign. Frozen
    sections, other samples, empty files, further copies and other names are left out, logged and listed in
    `.attrs["exclusions"]` as (path, reason); `.attrs["traps"]` counts them by reason. Raises `Problem` if no slide is left.
    """
    rows, left_out, traps, seen = [], [], Counter(), set()
    for path in sorted(p for p in Path(root).rglob("*") if p.suffix.lower() == ".svs" and p.is_file()):
        match = NAME.match(path.name)
        trap, reason = (("odd_name", "its name is not one of TCGA") if not match else
                        ("frozen_section", "it is a frozen section") if match[4].upper() != "DX" else
                        ("other_sample", f"its sample is of kind {match[3]}") if match[3] not in KINDS else
                        ("empty_file", "it is empty") if not path.stat().st_size else
                        ("second_copy", "it is there twice") if path.stem.lower() in seen else ("", ""))
        if reason:
            traps[trap] += 1
            left_out.append((str(path), f"{path} is left out: {reason}."))
            log.warning("%s", left_out[-1][1])
            continue
        seen.add(path.stem.lower())
        allowed, case = label_set(*KINDS[match[3]]), match[1].upper()
        known = 3 if allowed == label_set("invasive") else -1
        rows.append({"sample": f"tcga_brca/{path.stem}", "patient": f"tcga_brca/{case}", "study": case, "domain": "tcga_brca",
                     "modality": HISTOPATHOLOGY, "view": "", "laterality": "", "allowed": allowed, "truth": known, "grade": known,
                     "density": "", "lesion_type": "", "lesion_shape": "", "diameter_mm": float("nan"), "annotation": "",
                     "source": str(path.absolute())})
    if not rows:
        raise Problem(f"There is no diagnostic slide of TCGA under {root} ({len(left_out)} left out); fetch them with data_scripts.tcga.fetch.")
    table = ROWS.validate(pd.DataFrame(rows))
    table.attrs.update(exclusions=left_out, traps=dict(sorted(traps.items())))
    return table


def clinical(root):
    """The patients by case: days to death or last contact, dead (booleans), diagnosis and stage as GDC gives them.

    Rows that cannot be used are logged and listed in `.attrs["exclusions"]` as (table, reason). Raises `Problem` if `fetch` has
    not written clinical.csv, or if it lacks a column.
    """
    path = Path(root) / "clinical.csv"
    if not path.is_file():
        raise Problem(f"There is no {path}; fetch it with data_scripts.tcga.fetch.")
    table = tables.read(path, {"case", "days", "dead", "diagnosis", "stage"})
    days, dead = pd.to_numeric(table.days.where(table.days != ""), errors="coerce"), table.dead.str.lower()
    tables.mark(table, "case", table.case.str.fullmatch(CASE))
    table.loc[table.fault.eq("") & table.case.duplicated(), "fault"] = "lists a case again"
    tables.mark(table, "dead", dead.isin(["true", "false"]))
    tables.mark(table, "days", table.days.eq("") | days.between(0, 1e5))
    left_out = [(str(path), tables.reason(path, line.row, line.fault)) for line in table[table.fault != ""].itertuples()]
    for _, reason in left_out:
        log.warning("%s Left out.", reason)
    kept = table.assign(days=days.astype(float), dead=dead == "true")[table.fault == ""].set_index("case").drop(columns=["row", "fault"])
    kept.attrs["exclusions"] = left_out
    return kept


# ---- fetch -------------------------------------------------------------------------------------------------------

TERMS = "open access by the GDC data use policy (no re-identification); cite the Cancer Genome Atlas Network 2012, doi 10.1038/nature11412."
GDC = "https://api.gdc.cancer.gov"
PAGE = 1000


def fetch(root, limit=None, dry_run=False):
    """`limit` diagnostic slides (all: about 1.05 TB) into slides/, and clinical.csv; returns the plan as a table.

    From the Genomic Data Commons, with its md5 sums. With `dry_run` nothing is fetched. Raises `Problem` if GDC does not
    answer, the disk is too small, or files did not come.
    """
    wanted = {"cases.project.project_id": "TCGA-BRCA", "data_format": "SVS", "experimental_strategy": "Diagnostic Slide", "access": "open"}
    files = _hits("files", wanted, "file_name", "file_id,file_name,file_size,md5sum", _file)[:limit]
    if not dry_run:
        fields = ("submitter_id,demographic.vital_status,demographic.days_to_death,diagnoses.primary_diagnosis,"
                  "diagnoses.ajcc_pathologic_stage,diagnoses.days_to_last_follow_up,follow_ups.days_to_follow_up")
        cases = _hits("cases", {"project.project_id": "TCGA-BRCA"}, "submitter_id", fields, _case)
        with atomic(Path(root) / "clinical.csv") as partial:
            pd.DataFrame(cases).to_csv(partial, index=False)
    return obtain(files, root, TERMS, dry_run)


def _hits(endpoint, wanted, order, fields, read):
    """What `read` makes of all that GDC finds at an endpoint, page by page."""
    def one_page(answer):
        data = answer.json()["data"]
        return [read(hit) for hit in data["hits"]], int(data["pagination"]["total"])
    filters = {"op": "and", "content": [{"op": "in", "content": {"field": f, "value": [v]}} for f, v in wanted.items()]}
    hits, total = [], 1
    while len(hits) < total:
        body = {"filters": filters, "fields": fields, "format": "JSON", "sort": f"{order}:asc", "size": PAGE, "from": len(hits)}
        page, total = ask(f"{GDC}/{endpoint}", one_page, body)
        if not page and total:
            raise Problem(f"GDC lists {len(hits)} of {total} {endpoint}; try again later.")
        hits += page
    return hits


def _file(hit):
    return File(f"{GDC}/data/{hit['file_id']}", f"slides/{hit['file_name']}", int(hit["file_size"]), f"md5:{hit['md5sum']}")


def _case(hit):
    """A row of clinical.csv. The first diagnosis is the primary one; the last contact is the latest that any record tells."""
    person, found = hit.get("demographic") or {}, (hit.get("diagnoses") or [{}])[0]
    seen = [d.get("days_to_last_follow_up") for d in hit.get("diagnoses") or ()] + [f.get("days_to_follow_up") for f in hit.get("follow_ups") or ()]
    dead = person.get("vital_status") == "Dead"
    days = person.get("days_to_death") if dead else max((d for d in seen if d is not None), default=None)
    return {"case": hit["submitter_id"], "days": days, "dead": dead, "diagnosis": found.get("primary_diagnosis") or "",
            "stage": found.get("ajcc_pathologic_stage") or ""}
